"""Views with response policy zones of their own beside shared cached data: what rules about name servers forbid to one
view is not given to it from what another one has resolved."""

import pytest
from support.minet import COM_ZONE, Minet, addresses, build, standard

from resolver.effects import Outcome, Question
from resolver.mesh import Mesh
from resolver.policy import PolicyPipeline
from resolver.policy.rpz_module import ResponsePolicyZones, RpzAliases, options_of
from resolver.policy.rpz_zone import compile_zone
from resolver.query import Query
from resolver.settings import DnssecSettings, PolicySettings, RpzSettings, Settings, ViewSettings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present

COM = COM_ZONE + "evil 3600 IN NS ns.evil\nns.evil 3600 IN A 192.0.2.66\n"
EVIL = """@ 7200 IN SOA ns nobody 1 1 1 1 7200
@ 3600 IN NS ns
ns 3600 IN A 192.0.2.66
www 3600 IN A 203.0.113.8
"""
RPZ = "@ 60 SOA ns. admin. 1 3600 600 86400 60\n"
TRIGGERS = {
    "name server": "ns.evil.com.rpz-nsdname CNAME .\n",
    "its address": "32.66.2.0.192.rpz-nsip CNAME .\n",
    "qname": "www.evil.com CNAME .\n",
    "address": "32.8.113.0.203.rpz-ip CNAME .\n",
}


def world(rules: str) -> Minet:
    """A network with evil.com., whose resolver has the policy zone only in view 1."""
    zone = RpzSettings(name="rpz.test", file="/unused")
    settings = Settings(
        dnssec=DnssecSettings(trust_anchors=()), rpz=(zone,), policy=PolicySettings(lists=()),
        view=(ViewSettings(name="guarded", clients=("192.0.2.1",), lists=("rpz.test",)),
              ViewSettings(name="plain", clients=("192.0.2.2",))),
    )
    m = build(standard(a192_5_6_30=[("com.", COM)], a192_0_2_66=[("evil.com.", EVIL)]), settings=settings)
    origin = names.from_text("rpz.test.")
    made, errors = compile_zone(origin, present.zone_from_text(RPZ + rules, origin), bytes(16), options_of(zone))
    assert errors == []
    zones = ResponsePolicyZones(settings.rpz, frozenset({1}))
    zones.replace({"rpz.test": made})
    mesh = Mesh(exchange=m.net, crypto=m.net, clock=m.net, rng=m.mesh._context.rng, store=m.store, settings=settings,
                policy=PolicyPipeline(settings, modules=(zones, RpzAliases(zones))))
    return Minet(m.net, mesh, m.store, settings)


def ask(m: Minet, view: int) -> Outcome:
    found: list[Outcome] = []
    query = Query("192.0.2.1" if view == 1 else "192.0.2.2", view=view)
    m.mesh.submit(Question(names.from_text("www.evil.com."), c.A), query=query, on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


@pytest.mark.parametrize("first", [1, 0, 2])
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_policy_zone_applies_to_its_views_only(trigger: str, first: int) -> None:
    m = world(TRIGGERS[trigger])
    for view in (first, 0, 1, 2, 1, 0):
        outcome = ask(m, view)
        if view == 1:
            assert outcome.rcode == c.NXDOMAIN, (trigger, view)
        else:
            assert addresses(outcome) == ["203.0.113.8"], (trigger, view)
