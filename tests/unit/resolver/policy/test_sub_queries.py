"""Policies are about clients: sub-queries for name servers and for the chain of trust are answered by own zones and
built-in zones only. Else a blocked name would make names unusable that are not blocked."""

import pytest
from support.minet import COM_ZONE, NET_ZONE, Minet, addresses, build, standard
from support.signed_net import NOW, Crypto, resolver_in

from resolver.effects import Outcome, Purpose, Question
from resolver.mesh import Mesh
from resolver.playground import signed
from resolver.policy import PolicyModule, PolicyPipeline
from resolver.policy.block_lists import BlockLists
from resolver.policy.list_formats import ListReader
from resolver.query import Query
from resolver.settings import DnssecSettings, PolicySettings, Settings, ViewSettings, replace
from resolver.settings.lists import ListSettings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

SIGNED = "www.nsec.dnssec.playground."
SOA = "@ 7200 IN SOA ns nobody 1 1 1 1 7200\n"
# The name server of trigger.net. is a host of evil.com., so it has no glue.
ZONES = standard(
    a192_5_6_30=[("com.", COM_ZONE + "evil 3600 IN NS ns.evil\nns.evil 3600 IN A 192.0.2.66\n")],
    a192_5_6_31=[("net.", NET_ZONE + "trigger 3600 IN NS www.evil.com.\n")],
    a192_0_2_66=[("evil.com.", SOA + "@ IN NS ns\nns IN A 192.0.2.66\nwww IN A 192.0.2.66\n"),
                 ("trigger.net.", SOA + "@ IN NS www.evil.com.\nx IN A 192.0.2.7\n")],
)
KINDS = ("always_nxdomain", "always_refuse", "always_deny", "static", "redirect")


def lists(**texts: str) -> BlockLists:
    """A list for each keyword; the one named "allow" has exceptions."""
    found = {}
    for name, text in texts.items():
        reader = ListReader("domains", bytes(16))
        reader.feed(text.encode())
        found[name] = reader.close()
    made = BlockLists([ListSettings(name=name, file="unused", action="allow" if name == "allow" else "nxdomain")
                       for name in texts])
    made.replace(found)
    return made


def resolver_with(base: Minet, settings: Settings, *modules: PolicyModule) -> Minet:
    mesh = Mesh(exchange=base.net, crypto=Crypto(), clock=base.net, rng=base.mesh._context.rng, store=base.store,
                settings=settings, policy=PolicyPipeline(settings, modules=modules))
    return Minet(base.net, mesh, base.store, settings)


def ask(m: Minet, view: int, name: str, *, cd: bool = False) -> Outcome:
    found: list[Outcome] = []
    m.mesh.submit(Question(names.from_text(name), c.A), query=Query(view=view), cd=cd, on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


@pytest.mark.parametrize("blocked", ["nsec.dnssec.playground", "dnssec.playground", "playground"])
def test_an_exception_below_a_blocked_signed_zone_is_validated(blocked: str) -> None:
    base = resolver_in(signed.signed_world(NOW))
    m = resolver_with(base, base.settings, lists(block=f"{blocked}\n", allow=f"{SIGNED}\n"))
    outcome = ask(m, 0, SIGNED)
    assert (outcome.failure, Verdict(outcome.verdict)) == (None, Verdict.SECURE)
    assert ask(m, 0, "nsec.dnssec.playground.").rcode == c.NXDOMAIN


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_zone_of_one_view_does_not_break_the_chain_of_trust_of_another(kind: str) -> None:
    base = resolver_in(signed.signed_world(NOW))
    settings = replace(base.settings, policy=PolicySettings(local_zones=(f"nsec.dnssec.playground {kind}",)),
                       view=(ViewSettings(name="one", clients=("10.0.0.0/8",), inherit=False),))
    m = resolver_with(base, settings)
    blocked = ask(m, 0, SIGNED)
    assert not blocked.answer
    outcome = ask(m, 1, SIGNED)
    assert (outcome.failure, Verdict(outcome.verdict)) == (None, Verdict.SECURE)
    assert ask(m, 0, SIGNED).rcode == blocked.rcode


@pytest.mark.parametrize("kind", KINDS)
def test_a_blocked_name_may_be_a_name_server(kind: str) -> None:
    policy = PolicySettings(local_zones=(f"evil.com {kind}",))
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), policy=policy)
    m = resolver_with(build(ZONES, settings=settings), settings)
    assert addresses(ask(m, 0, "x.trigger.net.")) == ["192.0.2.7"]
    # A client does not join the job for the address, also when it asks without validation, as that job does.
    m = resolver_with(build(ZONES, settings=settings), settings)
    m.start("x.trigger.net.")
    m.net.run(m.mesh, until=lambda: any(job.task.purpose is Purpose.NS_ADDRESS for job in m.mesh._unfinished))
    assert not ask(m, 0, "www.evil.com.", cd=True).answer


def test_names_of_built_in_zones_are_not_looked_up_as_servers() -> None:
    """RFC 7686 section 2: they do not exist in the DNS."""
    pipeline = PolicyPipeline(Settings(policy=PolicySettings(local_zones=("mine.test static",)))).views[0]
    inner = pipeline.for_sub_queries()
    assert inner is not None
    for name, rcode in (("ns.x.onion.", c.NXDOMAIN), ("localhost.", c.NOERROR), ("ns.mine.test.", None),
                        ("www.example.", None)):
        made = inner.answer(Question(names.from_text(name), c.A))
        assert (None if made is None else made.rcode) == rcode
