"""Client subnets in resolution: which server is told what, who gets which answer, and what is bounded.

Servers are scripted: each records the option of a query, and answers with the scope that the test wants.
"""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from support.fakenet import Link, SeededRandom
from support.minet import Minet, build, standard
from support.tailor import Tailor

from resolver import limits
from resolver.cache import Store
from resolver.cache.scoped import ALL_CLIENTS, NO_SUBNET, NOT_SHARED, UNSENT, SubnetCache
from resolver.effects import Outcome, Question, TraceStep
from resolver.iterate.client_subnet import ClientSubnets
from resolver.mesh import Mesh
from resolver.nat64 import ServerNat64
from resolver.policy import PolicyPipeline
from resolver.query import PROGRAM, Query
from resolver.settings import (
    CacheSettings,
    DnssecSettings,
    IterationSettings,
    PolicySettings,
    Settings,
    StubZone,
    SubnetSettings,
    ViewSettings,
)
from resolver.view_contexts import ViewContexts
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.client_subnet import Subnet, encode_subnet, parse_subnet
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

A, B, C = ((bytes([198, 51, 100 + n, 0]), 24) for n in range(3))
SIX = (bytes.fromhex("20010db800010200") + bytes(8), 56)
SERVERS = ("192.0.2.1", "192.0.2.2")
WWW = "www.example.com."


def world(
    *, view: tuple[ViewSettings, ...] = (), policy: PolicySettings | None = None, cache: CacheSettings | None = None,
    iteration: dict[str, Any] | None = None, **options: Any,
) -> tuple[Minet, Tailor]:
    if not options.get("zones"):
        options.setdefault("servers", ("192.0.2.0/24",))
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), client_subnet=SubnetSettings(**options), view=view,
                        policy=policy or PolicySettings(), cache=cache or CacheSettings())
    m = build(standard(), settings=settings, **(iteration or {}))
    tailor = Tailor()
    for address in SERVERS:
        m.net.hosts[address] = tailor.answer
    return m, tailor


def serve(m: Minet, tailor: Tailor, special: Callable[[MessageView, Subnet | None, bool], bytes | None]) -> None:
    """The servers reply with `special`, which gets query, subnet and TCP, and where it returns None as `tailor`. An
    empty reply is no reply."""

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(packet)
        content = None if view.edns is None else view.edns.get(c.OPTION_ECS)
        reply = special(view, None if content is None else parse_subnet(content).subnet, tcp)
        return tailor.answer(packet, tcp) if reply is None else reply or None

    for address in SERVERS:
        m.net.hosts[address] = host


def reply_to(view: MessageView, flags: int, *sets: RRset, scope: int = 24) -> bytes:
    assert view.qname is not None
    builder = Builder(65535, reserve_opt=64)
    builder.start(view.id, c.QR | flags, view.qname, view.qtype)
    for rrset in sets:
        builder.add(c.ANSWER, rrset)
    content = None if view.edns is None else view.edns.get(c.OPTION_ECS)
    if view.edns is not None:
        options = [] if content is None else [(c.OPTION_ECS, content[:3] + bytes([scope]) + content[4:])]
        builder.opt(1232, options=options)
    return builder.finish()


def refuse(rcode: int = c.REFUSED, subnet: Subnet = A) -> Callable[[MessageView, Subnet | None, bool], bytes | None]:
    """Servers that fail for WWW from `subnet`."""

    def special(view: MessageView, found: Subnet | None, tcp: bool) -> bytes | None:
        return reply_to(view, rcode) if found == subnet and is_www(view) else None

    return special


def is_www(view: MessageView) -> bool:
    assert view.qname is not None
    return names.to_text(names.lower(view.qname)) == WWW


def submit(m: Minet, subnet: Subnet | None, name: str = WWW, rtype: int = c.A, **more: Any) -> list[Outcome]:
    found: list[Outcome] = []
    m.mesh.submit(Question(names.from_text(name), rtype), query=Query(subnet=subnet), on_done=found.append, **more)
    return found


def ask(m: Minet, subnet: Subnet | None, name: str = WWW, rtype: int = c.A, **more: Any) -> Outcome:
    found = submit(m, subnet, name, rtype, **more)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


def last(outcome: Outcome) -> int:
    """The last octet of the address."""
    return outcome.answer[-1].rdatas()[0][3]


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_nothing_is_sent_or_made_unless_configured() -> None:
    m = build()
    assert m.mesh.subnets is None
    assert ask(m, A).scope is None
    assert all(asked.subnet is None for asked in m.net.log)


def test_only_configured_servers_and_zones_get_it() -> None:
    for options in ({"servers": ("192.0.2.1", "192.0.2.2")}, {"zones": ("example.com",)}, {"zones": ("EXAMPLE.com.",)}):
        m, tailor = world(**options)
        assert last(ask(m, A)) == 100
        assert tailor.subnets == [A]
        assert all(asked.subnet is None for asked in m.net.log if asked.address not in SERVERS)
    for options in ({"servers": ("192.0.3.0/24",)}, {"zones": ("a.www.example.com", "example.net")}):
        m, tailor = world(**options)
        assert last(ask(m, A)) == 250
        assert tailor.subnets == [None]


def test_servers_of_a_top_level_domain_get_none() -> None:
    m, _ = world(zones=("example.com",))
    ask(m, A, "example.com.")
    found = {asked.address for asked in m.net.asked(qname="example.com.", qtype=c.A) if asked.subnet is not None}
    assert found
    assert found <= set(SERVERS)
    assert m.net.asked("192.5.6.30", "example.com.", c.A)
    m, _ = world(zones=("com",))
    ask(m, A, "example.com.")
    assert any(asked.subnet is not None for asked in m.net.asked("192.5.6.30"))


def test_the_servers_of_the_zone_above_may_have_the_configured_zone() -> None:
    for zone in ("cdn.example.com", "www.cdn.example.com"):
        m, _ = world(zones=(zone,))
        assert last(ask(m, A, "www.cdn.example.com.")) == 100
        assert last(ask(m, A)) == 250


def test_a_zone_above_includes_those_below() -> None:
    m, tailor = world(zones=("com",))
    ask(m, A)
    assert tailor.subnets == [A]
    assert any(asked.address == "192.5.6.30" for asked in m.net.log)


@pytest.mark.parametrize("rtype", ["NS", "SOA", "DS", "DNSKEY", "ANY"])
def test_types_of_the_zone_are_never_tailored(rtype: str) -> None:
    m, _ = world(servers=("0.0.0.0/0",))
    ask(m, A, rtype=c.type_from_text(rtype))
    assert all(asked.subnet is None for asked in m.net.log)


def test_minimised_queries_have_no_subnet() -> None:
    m, _ = world(servers=("0.0.0.0/0",))
    ask(m, A, "a.b.www.example.com.")
    assert [(asked.qname, asked.subnet) for asked in m.net.log if asked.subnet is not None] == [
        ("a.b.www.example.com.", encode_subnet(A))]


def test_what_the_resolver_asks_for_itself_has_no_subnet() -> None:
    zone = "@ 900 SOA a.gtld.net. x. 1 1800 900 604800 900\n@ 900 NS a.gtld.net.\na.gtld 900 A 192.5.6.31\n" \
           "shop 900 NS ns.example.com.\n"
    population = standard(a192_5_6_31=[("net.", zone)])
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()),
                        client_subnet=SubnetSettings(servers=("0.0.0.0/0",)))
    m = build(population, settings=settings)
    tailor = Tailor()
    for address in (*SERVERS, "192.0.2.250"):
        m.net.hosts[address] = tailor.answer
    assert last(ask(m, A, "www.shop.net.")) == 100
    assert ("ns.example.com.", c.A, None) in tailor.seen
    # The address of the name server is not the answer to a client who asks for it.
    assert last(ask(m, A, "ns.example.com.")) == 100


def test_the_option_survives_tcp() -> None:
    m, tailor = world()
    for address in SERVERS:
        m.net.links[address] = Link(truncate_above=40)
    assert last(ask(m, A)) == 100
    assert tailor.subnets == [A, A]


# --- who gets which answer --------------------------------------------------------------------------------------------


def test_an_answer_with_a_scope_is_for_its_subnet_only() -> None:
    m, tailor = world()
    assert [last(ask(m, subnet)) for subnet in (A, B, A, B)] == [100, 101, 100, 101]
    assert tailor.subnets == [A, B], "the second answer is from the cache"
    outcome = ask(m, A)
    assert (outcome.scope, outcome.from_cache) == ((A[0], 24, 128), True)
    assert m.store.rrsets.find(names.from_text(WWW), c.A, m.net.time()) is None, "the shared cache does not have it"


def test_an_answer_is_for_all_subnets_in_its_scope() -> None:
    m, tailor = world()
    tailor.scope = 16
    assert [last(ask(m, subnet)) for subnet in (A, B)] == [100, 100]
    assert tailor.subnets == [A]
    assert ask(m, (bytes([198, 52, 0, 0]), 24)).scope == (bytes([198, 52, 0, 0]), 16, 128)


def test_a_scope_of_0_is_for_all() -> None:
    m, tailor = world()
    tailor.scope = 0
    assert [last(ask(m, subnet)) for subnet in (A, B, None, SIX)] == [100] * 4
    assert ask(m, B).scope is None
    assert tailor.subnets == [A]


def test_a_scope_of_0_does_not_hide_tailored_answers() -> None:
    m, tailor = world()
    assert last(ask(m, A)) == 100
    tailor.scope = 0
    assert last(ask(m, B)) == 101
    assert last(ask(m, C)) == 101, "for all"
    assert ask(m, B).scope == ALL_CLIENTS, "so it is not for the fast path"
    assert m.store.rrsets.find(names.from_text(WWW), c.A, m.net.time()) is None
    assert last(ask(m, None)) == 101
    assert last(ask(m, A)) == 100, "the longest prefix"


def test_an_expired_answer_does_not_keep_others_from_the_shared_cache() -> None:
    m, tailor = world()
    tailor.ttl = 10
    ask(m, A)
    m.net.sleep(m.mesh, 60)
    tailor.scope, tailor.ttl = 0, 300
    assert ask(m, B).scope is None
    assert m.store.rrsets.find(names.from_text(WWW), c.A, m.net.time()) is not None


def test_a_reply_without_the_option_is_for_all() -> None:
    m, tailor = world()
    tailor.scope = None
    assert [last(ask(m, subnet)) for subnet in (A, B, None)] == [100] * 3
    assert tailor.subnets == [A]


def test_a_scope_longer_than_the_source_is_for_this_source_only() -> None:
    m, tailor = world()
    tailor.scope = 32
    wide = (bytes([198, 51, 0, 0]), 16)
    assert last(ask(m, wide)) == 0
    assert last(ask(m, A)) == 100, "inside of the wide prefix, but longer"
    assert ask(m, A).scope == (A[0], 24, 24)
    assert ask(m, wide).scope == (wide[0], 16, 16)
    assert tailor.subnets == [wide, A]


def test_a_client_without_a_subnet_has_answers_of_its_own() -> None:
    m, tailor = world()
    assert [last(ask(m, subnet)) for subnet in (None, A, None, A)] == [250, 100, 250, 100]
    assert tailor.subnets == [None, A]


def test_families_are_apart() -> None:
    m, tailor = world(ipv6_prefix=128)
    tailor.scope = 8
    four, six = (bytes([32, 1, 7, 0]), 24), (bytes([32, 1, 9]) + bytes(13), 24)
    assert [last(ask(m, subnet)) for subnet in (four, six, four)] == [7, 9, 7]
    assert tailor.subnets == [four, six]


def test_denials_are_tailored_too() -> None:
    m, tailor = world()
    tailor.denies = True
    assert ask(m, A).answer == []
    tailor.denies = False
    assert last(ask(m, B)) == 101
    assert ask(m, A).answer == []
    assert tailor.subnets == [A, B]


def test_an_alias_leads_to_a_tailored_name() -> None:
    zone = "@ 900 SOA a.gtld.net. x. 1 1800 900 604800 900\n@ 900 NS a.gtld.net.\na.gtld 900 A 192.5.6.31\n" \
           "www 900 CNAME www.example.com.\n"
    m = build(standard(a192_5_6_31=[("net.", zone)]), settings=Settings(
        dnssec=DnssecSettings(trust_anchors=()), client_subnet=SubnetSettings(zones=("example.com",))))
    tailor = Tailor()
    for address in SERVERS:
        m.net.hosts[address] = tailor.answer
    assert [last(ask(m, subnet, "www.net.")) for subnet in (A, B, A)] == [100, 101, 100]
    assert tailor.subnets == [A, B]
    assert ask(m, A, "www.net.").scope == (A[0], 24, 128)
    assert m.store.rrsets.find(names.from_text("www.net."), c.CNAME, m.net.time()) is not None


def test_a_chain_inside_of_one_reply_has_its_scope() -> None:
    m, tailor = world()
    tailor.target = names.from_text("other.net.")
    outcome = ask(m, A, "alias.example.com.")
    assert outcome.scope == (A[0], 24, 128)
    assert m.store.rrsets.find(names.from_text("alias.example.com."), c.CNAME, m.net.time()) is None


def test_ttls_count_down_and_data_expires() -> None:
    m, tailor = world()
    tailor.ttl = 30
    assert ask(m, A).ttl == 30
    m.net.sleep(m.mesh, 10)
    assert ask(m, A).ttl in (19, 20)
    m.net.sleep(m.mesh, 25)
    assert ask(m, A).ttl == 30
    assert tailor.subnets == [A, A]


def test_a_flush_removes_tailored_answers() -> None:
    m, tailor = world()
    ask(m, A)
    m.store.drop(names.from_text("unrelated.org."))
    ask(m, A)
    assert tailor.subnets == [A, A]


def test_a_job_from_before_a_flush_keeps_nothing() -> None:
    m, tailor = world()
    found = submit(m, A)
    m.net.run(m.mesh, until=lambda: bool(tailor.subnets))
    m.store.drop(names.from_text("unrelated.org."))
    m.net.run(m.mesh, until=lambda: bool(found))
    assert m.mesh.subnets is not None
    assert len(m.mesh.subnets.cache) == 0


def test_no_stale_answer_has_a_scope() -> None:
    m, tailor = world(cache=CacheSettings(max_stale_ttl=86_400))
    tailor.ttl = 10
    ask(m, A)
    m.net.sleep(m.mesh, 60)
    for address in SERVERS:
        m.net.hosts.pop(address)
    outcome = ask(m, A)
    assert (outcome.rcode, outcome.stale) == (c.SERVFAIL, False)


def test_a_stale_alias_does_not_lead_to_the_answer_for_another_client() -> None:
    zone = "@ 900 SOA a.gtld.net. x. 1 1800 900 604800 900\n@ 900 NS a.gtld.net.\na.gtld 900 A 192.5.6.31\n" \
           "www 10 CNAME www.example.com.\n"
    m = build(standard(a192_5_6_31=[("net.", zone)]), settings=Settings(
        dnssec=DnssecSettings(trust_anchors=()), client_subnet=SubnetSettings(zones=("example.com",)),
        cache=CacheSettings(max_stale_ttl=86_400)))
    tailor = Tailor()
    for address in SERVERS:
        m.net.hosts[address] = tailor.answer
    assert last(ask(m, A, "www.net.")) == 100
    m.net.sleep(m.mesh, 60)
    m.net.hosts.pop("192.5.6.31")
    found = [submit(m, subnet, "www.net.") for subnet in (A, B)]
    m.net.run(m.mesh, until=lambda: all(found))
    assert [one[0].rcode for one in found] == [c.SERVFAIL] * 2


def test_views_with_dns64_or_servers_of_their_own_send_none() -> None:
    views = (ViewSettings(name="six", clients=("10.0.0.0/8",), dns64_prefix=("64:ff9b::/96",)),
             ViewSettings(name="own", clients=("10.0.0.0/8",), stub=(StubZone("example.com", SERVERS),)))
    m, tailor = world(view=views)
    m.mesh = Mesh(exchange=m.net, crypto=None, clock=m.net, rng=m.mesh._context.rng, store=m.store, settings=m.settings,
                  policy=PolicyPipeline(m.settings))

    def in_view(view: int, rtype: int) -> Outcome:
        found: list[Outcome] = []
        m.mesh.submit(Question(names.from_text(WWW), rtype), query=Query(subnet=A, view=view), on_done=found.append)
        m.net.run(m.mesh, until=lambda: bool(found))
        return found[0]

    for _ in range(2):
        assert in_view(1, c.AAAA).answer[-1].rdatas()[0][15] == 250
        assert [last(in_view(view, c.A)) for view in (1, 2)] == [250, 250]
        assert last(in_view(0, c.A)) == 100, "what is made for the other views is not for those with a subnet"
    assert tailor.subnets == [None, None, A]


def net_world(zone: str) -> tuple[Minet, Tailor]:
    """The zone net., and example.com. with client subnets."""
    head = "@ 900 SOA a.gtld.net. x. 1 1800 900 604800 900\n@ 900 NS a.gtld.net.\na.gtld 900 A 192.5.6.31\n"
    m = build(standard(a192_5_6_31=[("net.", head + zone)]), settings=Settings(
        dnssec=DnssecSettings(trust_anchors=()), client_subnet=SubnetSettings(zones=("example.com",))))
    tailor = Tailor()
    for address in (*SERVERS, "192.0.2.100", "192.0.2.250"):
        m.net.hosts[address] = tailor.answer
    return m, tailor


@pytest.mark.parametrize("cd", [False, True])
def test_name_servers_are_not_those_of_the_client_that_asks_for_their_addresses(cd: bool) -> None:
    m, _ = net_world("shop 900 NS ns.example.com.\n")
    ask(m, None, "x.example.com.")
    ask(m, None, "y.net.")
    for address in SERVERS:
        m.net.links[address] = Link(delay=0.03)
    found = [submit(m, A, "ns.example.com.", cd=cd), submit(m, B, "www.shop.net.")]
    m.net.run(m.mesh, until=lambda: all(found))
    asked = {one.address for one in m.net.log if one.qname.endswith("shop.net.") and one.address.startswith("192.0.2.")}
    assert asked == {"192.0.2.250"}
    assert last(ask(m, A, "ns.example.com.")) == 100


def test_what_the_resolver_asks_has_the_slot_without_a_subnet() -> None:
    m, _ = net_world("shop 900 NS ns.example.com.\n")
    found = submit(m, B, "www.shop.net.")
    seen: set[int | None] = set()

    def finished() -> bool:
        seen.update(job.key[3] for job in m.mesh._unfinished if job.key[0][0] == names.from_text("ns.example.com."))
        return bool(found)

    m.net.run(m.mesh, until=finished)
    assert seen == {NO_SUBNET}


def chain(view: MessageView, subnet: Subnet | None, tcp: bool) -> bytes | None:
    """alias -> tracker -> last, with an address, in one reply."""
    if view.qname is None or not view.qname.lower().startswith(b"\5alias") or view.qtype != c.A:
        return None
    tracker, end = names.from_text("tracker.example.com."), names.from_text("last.example.com.")
    return reply_to(view, c.AA, RRset(view.qname, c.CNAME, 300, [tracker]), RRset(tracker, c.CNAME, 300, [end]),
                    RRset(end, c.A, 300, [bytes([192, 0, 2, 66])]))


@pytest.mark.parametrize("blocked", ["tracker", "last"])
def test_a_policy_of_one_view_holds_for_a_chain_that_another_view_fetched(blocked: str) -> None:
    views = (ViewSettings(name="kids", clients=("10.0.0.0/8",),
                          local_zones=(f"{blocked}.example.com. always_nxdomain",)),)
    m, tailor = world(view=views)
    m.mesh = Mesh(exchange=m.net, crypto=None, clock=m.net, rng=m.mesh._context.rng, store=m.store, settings=m.settings,
                  policy=PolicyPipeline(m.settings))
    serve(m, tailor, chain)

    def in_view(view: int) -> Outcome:
        found: list[Outcome] = []
        m.mesh.submit(Question(names.from_text("alias.example.com."), c.A), query=Query(subnet=A, view=view),
                      on_done=found.append)
        m.net.run(m.mesh, until=lambda: bool(found))
        return found[0]

    assert last(in_view(0)) == 66
    assert in_view(1).rcode == c.NXDOMAIN
    asked = len(m.net.log)
    assert in_view(1).rcode == c.NXDOMAIN
    assert len(m.net.log) == asked, "the chain is kept as far as both views have it"
    assert in_view(0).rcode == c.NOERROR


def test_a_name_that_is_blocked_later_is_blocked_inside_of_a_kept_chain() -> None:
    m, tailor = world()
    serve(m, tailor, chain)
    assert last(ask(m, A, "alias.example.com.")) == 66
    blocked = Settings(policy=PolicySettings(local_zones=("tracker.example.com. always_nxdomain",)))
    m.mesh._context.policy = PolicyPipeline(blocked).views[0]
    assert ask(m, A, "alias.example.com.").rcode == c.NXDOMAIN


# --- servers with faults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content[:4] + bytes([198, 51, 99]),
        lambda content: content[:2] + b"\x17" + content[3:],
        lambda content: b"\0\2" + content[2:],
        lambda content: b"\0\1\0\0",
        lambda content: content[:5],
        lambda content: b"",
        lambda content: content[:3] + b"\xff" + content[4:],
    ],
    ids=["address", "length", "family", "none", "short", "empty", "scope"],
)
def test_a_reply_for_another_subnet_is_not_used(edit: Callable[[bytes], bytes]) -> None:
    m, tailor = world()
    tailor.edit = edit
    outcome = ask(m, A)
    assert (last(outcome), outcome.scope) == (250, None)
    assert tailor.subnets == [A, None]
    assert m.mesh.subnets is not None
    assert m.mesh.subnets.counts["rejected"] == 1


def test_a_server_that_fails_with_the_option_is_remembered() -> None:
    m, tailor = world()
    tailor.refuses = True
    assert last(ask(m, A)) == 250
    assert last(ask(m, B)) == 250, "for all, because the server knows no subnets"
    for number in range(6):
        ask(m, A, f"n{number}.example.com.")
    assert len([subnet for subnet in tailor.subnets if subnet is not None]) <= len(SERVERS)
    m.net.sleep(m.mesh, limits.SERVER_SUBNETLESS + 1)
    tailor.refuses = False
    assert last(ask(m, C, "later.example.com.")) == 102


def test_a_forged_reply_does_not_take_the_subnet_from_a_server_with_cookies() -> None:
    m, tailor = world()
    forged: list[bool] = []

    def special(view: MessageView, subnet: Subnet | None, tcp: bool) -> bytes | None:
        assert view.qname is not None
        assert view.edns is not None
        cookie = view.edns.get(c.OPTION_COOKIE)
        if not tcp and is_www(view):
            forged.append(True)
            builder = Builder(512)
            builder.start(view.id, c.QR | c.FORMERR, view.qname, view.qtype)
            return builder.finish()
        if cookie is None or view.qtype != c.A:
            return None
        builder = Builder(512, reserve_opt=64)
        builder.start(view.id, c.QR | c.AA, view.qname, view.qtype)
        address = bytes([192, 0, 2, 250 if subnet is None else subnet[0][2]])
        builder.add(c.ANSWER, RRset(view.qname, c.A, 300, [address]))
        options = [(c.OPTION_COOKIE, cookie[:8] + bytes(8))]
        if subnet is not None:
            options.append((c.OPTION_ECS, encode_subnet(subnet, 24)))
        builder.opt(1232, options=options)
        return builder.finish()

    serve(m, tailor, special)
    for number in range(8):  # both servers have sent a cookie
        ask(m, B, f"n{number}.example.com.")
    assert last(ask(m, A)) == 100
    assert forged
    assert m.mesh.subnets is not None
    assert m.mesh.subnets.counts["rejected"] == 0
    assert last(ask(m, A, "later.example.com.")) == 100


def test_after_timeouts_the_answer_without_edns_is_not_for_all() -> None:
    m, tailor = world()
    # Never an answer to a query with EDNS, also not for the delegation.
    serve(m, tailor, lambda view, subnet, tcp: b"" if view.edns is not None else None)
    assert last(ask(m, A)) == 250
    assert m.store.rrsets.find(names.from_text(WWW), c.A, m.net.time()) is None
    assert len([one for one in m.net.log if one.qname == WWW]) <= 2 * limits.TRIES_PER_CUT
    serve(m, tailor, lambda view, subnet, tcp: None)
    assert last(ask(m, B)) == 101


# --- many clients -----------------------------------------------------------------------------------------------------


def test_clients_of_many_subnets_share_the_first_query() -> None:
    m, tailor = world()
    tailor.scope = 0
    found = [submit(m, (bytes([198, 18, n, 0]), 24)) for n in range(200)]
    m.net.run(m.mesh, until=lambda: all(found))
    assert len(tailor.subnets) == 1
    assert {last(one[0]) for one in found} == {0}


def outstanding(m: Minet) -> int:
    """Jobs for the name that are in progress."""
    return sum(job.key[0][0] == names.from_text(WWW) for job in m.mesh._unfinished)


def test_few_queries_of_one_name_are_outstanding_whatever_subnets_there_are() -> None:
    m, tailor = world()
    most = 0
    found = [submit(m, (bytes([198, 18, n, 0]), 24)) for n in range(200)]

    def finished() -> bool:
        nonlocal most
        most = max(most, outstanding(m))
        return all(found)

    m.net.run(m.mesh, until=finished)
    assert 1 < most <= limits.SUBNET_JOBS + 2
    assert len(tailor.subnets) <= 2 + limits.SUBNET_JOBS * limits.SUBNET_RESTARTS
    for n, one in enumerate(found):
        assert len(one) == 1
        assert last(one[0]) in (n, 250), "its own answer, or that for clients without a subnet"
    assert sum(last(one[0]) != 250 for one in found) >= limits.SUBNET_JOBS


def test_equal_subnets_share_a_query_and_each_gets_its_answer() -> None:
    m, tailor = world()
    ask(m, A)
    m.net.sleep(m.mesh, 301)
    found = [(subnet, submit(m, subnet)) for subnet in (A, B, A, B, None, B)]
    m.net.run(m.mesh, until=lambda: all(one for _, one in found))
    assert [last(one[0]) for _, one in found] == [100, 101, 100, 101, 250, 101]
    assert sorted(map(str, tailor.subnets)) == sorted(map(str, [A, A, B, None]))


def test_a_cached_answer_does_not_wait_for_that_of_another_subnet() -> None:
    m, _ = world()
    ask(m, A)
    ask(m, B)
    m.net.run(m.mesh)
    same_slot = (bytes([198, 51, 100 + limits.SUBNET_JOBS, 0]), 24)
    waiting = submit(m, same_slot)
    assert last(submit(m, A)[0]) == 100
    m.net.run(m.mesh, until=lambda: bool(waiting))


def test_a_client_that_cancels_while_others_start_again() -> None:
    m, _ = world()
    tickets: list[Any] = []
    done: list[Outcome] = []

    def first(outcome: Outcome) -> None:
        done.append(outcome)
        m.mesh.cancel(tickets[1])

    def second(outcome: Outcome) -> None:
        raise AssertionError("it was cancelled")

    question = Question(names.from_text(WWW), c.A)
    tickets.append(m.mesh.submit(question, query=Query(subnet=A), on_done=first))
    tickets.append(m.mesh.submit(question, query=Query(subnet=B), on_done=second))
    third = submit(m, C)
    m.net.run(m.mesh, until=lambda: bool(third))
    m.net.run(m.mesh)
    assert (last(done[0]), last(third[0])) == (100, 102)
    assert m.mesh.statistics()["running"] == 0


def test_a_failure_is_that_of_all_who_wait() -> None:
    m, _ = world()
    for address in SERVERS:
        m.net.hosts.pop(address)
    found = [submit(m, subnet) for subnet in (A, B, None)]
    m.net.run(m.mesh, until=lambda: all(found))
    assert {one[0].rcode for one in found} == {c.SERVFAIL}


@pytest.mark.parametrize("rcode", [c.REFUSED, c.SERVFAIL])
def test_a_failure_for_one_subnet_is_not_that_of_others(rcode: int) -> None:
    m, tailor = world()
    serve(m, tailor, refuse(rcode))
    assert last(ask(m, A)) == 250, "the answer for clients without a subnet"
    assert [last(ask(m, subnet)) for subnet in (B, None)] == [101, 250]
    assert m.store.rrsets.find_failure(names.from_text(WWW), c.A, m.net.time()) is None
    before = len(m.net.log)
    assert ask(m, A).scope == UNSENT
    assert len(m.net.log) == before, "the failure is remembered for its subnet"
    m.net.sleep(m.mesh, limits.SUBNET_FAILED + 1)
    serve(m, tailor, lambda view, subnet, tcp: None)
    assert last(ask(m, A)) == 100


def test_that_a_query_with_little_time_ran_out_of_it_is_not_remembered_for_its_subnet() -> None:
    m, _ = world()
    ask(m, None, "other.example.com.")
    for address in SERVERS:
        m.net.links[address] = Link(delay=0.3)
    found: list[Outcome] = []
    query = Query(subnet=A, deadline=m.net.monotonic() + 0.1)
    m.mesh.submit(Question(names.from_text(WWW), c.A), query=query, on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].failure is not None
    assert last(ask(m, A)) == 100


def test_clients_that_wait_with_a_refused_subnet_are_answered() -> None:
    m, tailor = world()
    serve(m, tailor, refuse())
    found = [submit(m, (bytes([198, 51, n, 0]), 24)) for n in range(100, 160)] + [submit(m, None)]
    asked = len(m.net.log)
    m.net.run(m.mesh, until=lambda: all(found))
    assert {one[0].rcode for one in found} == {c.NOERROR}
    assert len([one for one in m.net.log[asked:] if one.qname == WWW]) <= 3
    assert [last(ask(m, subnet)) for subnet in (A, B)] == [250, 101]


def test_a_failure_without_a_subnet_too_is_cached_for_all() -> None:
    m, tailor = world()
    serve(m, tailor, lambda view, subnet, tcp: reply_to(view, c.SERVFAIL) if is_www(view) else None)
    found = [submit(m, subnet) for subnet in (A, B, C, None)]
    m.net.run(m.mesh, until=lambda: all(found))
    assert {one[0].rcode for one in found} == {c.SERVFAIL}
    asked = len(m.net.log)
    assert {ask(m, subnet).rcode for subnet in (A, B, C, SIX, None)} == {c.SERVFAIL}
    assert len(m.net.log) == asked
    assert len([one for one in m.net.log if one.qname == WWW]) <= 2 * len(SERVERS)


def test_a_server_that_is_lame_for_one_subnet_is_not_lame_for_others() -> None:
    m, tailor = world()

    def special(view: MessageView, subnet: Subnet | None, tcp: bool) -> bytes | None:
        if subnet != A:
            return None
        builder = Builder(512)
        builder.start(view.id, c.QR, view.qname, view.qtype)
        builder.add(c.AUTHORITY, RRset(names.ROOT, c.NS, 60, [names.from_text("a.root.")]))
        return builder.finish()

    serve(m, tailor, special)
    assert last(ask(m, A)) == 250
    assert not any(info.zones for info in m.store.servers._known.values())


def test_a_failure_behind_an_alias_is_that_of_the_subnet() -> None:
    zone = "@ 900 SOA a.gtld.net. x. 1 1800 900 604800 900\n@ 900 NS a.gtld.net.\na.gtld 900 A 192.5.6.31\n" \
           "* 900 CNAME www.example.com.\n"
    m = build(standard(a192_5_6_31=[("net.", zone)]), settings=Settings(
        dnssec=DnssecSettings(trust_anchors=()), client_subnet=SubnetSettings(zones=("example.com",))))
    tailor = Tailor()
    serve(m, tailor, refuse())
    assert [last(ask(m, subnet, "one.net.")) for subnet in (A, B, A)] == [250, 101, 250]
    asked = len([one for one in m.net.log if one.qname == WWW])
    assert last(ask(m, A, "two.net.")) == 250
    assert len([one for one in m.net.log if one.qname == WWW]) == asked, "the failure is that of the target"


def test_a_chain_made_in_part_with_a_subnet_is_for_its_client_only() -> None:
    m, tailor = world()

    def special(view: MessageView, subnet: Subnet | None, tcp: bool) -> bytes | None:
        assert view.qname is not None
        if not view.qname.lower().startswith(b"\5alias"):
            return refuse()(view, subnet, tcp)
        target = "other.example.com." if subnet is None else WWW
        return reply_to(view, c.AA, RRset(view.qname, c.CNAME, 300, [names.from_text(target)]))

    serve(m, tailor, special)
    assert last(ask(m, A)) == 250
    found = [submit(m, subnet, "alias.example.com.") for subnet in (A, None)]
    m.net.run(m.mesh, until=lambda: all(found))
    assert [names.to_text(names.lower(one[0].answer[-1].name)) for one in found] == [WWW, "other.example.com."]
    assert found[0][0].scope == NOT_SHARED


def test_a_prefetch_that_fails_for_its_subnet_leaves_what_is_cached() -> None:
    m, tailor = world()
    assert last(ask(m, A)) == 100
    serve(m, tailor, refuse())
    found: list[Outcome] = []
    assert m.mesh.refresh(Question(names.from_text(WWW), c.A), query=Query(subnet=A), on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].rcode == c.SERVFAIL
    assert last(ask(m, A)) == 100


def test_a_trace_goes_on_without_the_subnet() -> None:
    m, tailor = world()
    serve(m, tailor, refuse())
    steps: list[TraceStep] = []
    assert last(ask(m, A, trace=steps)) == 250
    assert steps[-1].kind == "reply"


def test_closing_answers_those_who_wait() -> None:
    m, _ = world()
    found = [submit(m, subnet) for subnet in (A, B)]
    m.mesh.close()
    assert [len(one) for one in found] == [1, 1]


# --- prefetch, peek, policies -----------------------------------------------------------------------------------------


def test_a_prefetch_has_the_subnet_of_the_client_that_caused_it() -> None:
    m, tailor = world()
    found: list[Outcome] = []
    assert m.mesh.refresh(Question(names.from_text(WWW), c.A), query=Query(subnet=B), on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert (last(found[0]), found[0].scope) == (101, (B[0], 24, 128))
    assert tailor.subnets == [B]


def test_a_prefetch_in_a_view_with_dns64_has_none() -> None:
    m, tailor = world(policy=PolicySettings(dns64_prefix=("64:ff9b::/96",)))
    found: list[Outcome] = []
    assert m.mesh.refresh(Question(names.from_text(WWW), c.A), query=Query(subnet=B), on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert (last(found[0]), tailor.subnets) == (250, [None])


def test_a_query_without_recursion_sees_only_what_is_for_its_client() -> None:
    m, _ = world()
    ask(m, A)
    question = Question(names.from_text(WWW), c.A)
    own = m.mesh.peek(question, query=Query(subnet=A))
    assert own is not None
    assert last(own) == 100
    for query in (Query(subnet=B), PROGRAM):
        other = m.mesh.peek(question, query=query)
        assert other is None or not other.answer


def test_what_a_policy_makes_of_a_tailored_answer_is_tailored() -> None:
    m, _ = world(policy=PolicySettings(private_addresses=("192.0.2.100/32",)))
    outcome = ask(m, A)
    assert outcome.answer == []
    assert outcome.scope == (A[0], 24, 128)
    assert last(ask(m, B)) == 101


def test_what_a_policy_makes_is_tailored_without_recursion_too() -> None:
    m, _ = world(policy=PolicySettings(private_addresses=("192.0.2.100/32",)))
    ask(m, A)
    outcome = m.mesh.peek(Question(names.from_text(WWW), c.A), query=Query(subnet=A))
    assert outcome is not None
    assert (outcome.answer, outcome.scope) == ([], (A[0], 24, 128))


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_server_cannot_fill_the_memory_with_one_name() -> None:
    m, tailor = world(subnets_per_name=10, ipv4_prefix=32)
    tailor.scope = 32
    assert m.mesh.subnets is not None
    for a, b in itertools.product(range(5), range(10)):
        ask(m, (bytes([198, 18, a, b]), 32))
    assert len(m.mesh.subnets.cache) == 10
    assert m.mesh.subnets.cache.evicted == 40


def test_a_large_answer_does_not_evict_others() -> None:
    cache = SubnetCache(limits.SUBNET_CACHE_OCTETS.default, 10)
    scope = (*A, 128)
    cache.put(b"\1a\0", c.A, scope, "small", 100, 60, 0)
    for number in range(1000):
        cache.put(b"\1b\0", number, scope, "large", limits.SUBNET_ENTRY_OCTETS, 60, 0)
    assert (len(cache), cache.evicted) == (1, 0)
    cache.put(b"\1c\0", c.A, scope, "usual", limits.SUBNET_ENTRY_OCTETS // 2, 60, 0)
    assert len(cache) == 2


def test_memory_is_counted_and_given_back() -> None:
    m, _ = world(size=64 << 10)
    tables = {table.name: table for table in m.mesh.memory_tables()}
    table = tables["subnets"]
    before = m.mesh.statistics()["memory"]
    ask(m, A)
    assert table.octets > 500
    assert m.mesh.statistics()["memory"] >= before + table.octets
    for number in range(200):
        ask(m, A, f"n{number}.example.com.")
    assert table.octets <= table.limit
    assert m.mesh.subnets is not None
    assert m.mesh.subnets.cache.evicted > 100
    assert len(m.mesh.subnets.cache) < 100
    m.mesh.shrink()
    assert table.octets == 0


def test_a_trace_names_the_subnet_and_the_scope() -> None:
    m, _ = world()
    steps: list[TraceStep] = []
    ask(m, A, trace=steps)
    assert any("with client subnet 198.51.100.0/24" in step.text for step in steps if step.kind == "ask")
    assert any("for clients in 198.51.100.0/24" in step.text for step in steps if step.kind == "reply")


def test_slots_are_few_and_only_for_marked_questions() -> None:
    rules = ClientSubnets(SubnetSettings(zones=("example.com",)))
    key = Question(names.from_text(WWW), c.A).key
    assert rules.slot(key, A) is None
    rules.cache.mark(key[0], key[1])
    found = {rules.slot(key, (bytes([10, a, b, 0]), 24)) for a in range(16) for b in range(16)}
    assert found == set(range(limits.SUBNET_JOBS))
    assert rules.slot(key, None) not in found


def test_shared_replies_of_other_resolvers_are_not_used_for_tailored_names() -> None:
    rules = ClientSubnets(SubnetSettings(zones=("example.com",)))
    assert not rules.is_shared(names.from_text("WWW.example.com."), c.A, 0)
    assert rules.is_shared(names.from_text("www.example.net."), c.A, 0)
    rules.cache.mark(names.from_text("www.example.net."), c.A)
    assert not rules.is_shared(names.from_text("www.example.net."), c.A, 0)


def test_a_server_behind_a_nat64_is_listed_by_its_own_address() -> None:
    nat64 = ServerNat64.create("64:ff9b::/96")
    name = names.from_text(WWW)
    for rules, listed in (
        (ClientSubnets(SubnetSettings(servers=("192.0.2.0/24",)), nat64), True),
        (ClientSubnets(SubnetSettings(servers=("64:ff9b::/96",)), nat64), True),
        (ClientSubnets(SubnetSettings(servers=("198.51.100.0/24",)), nat64), False),
        (ClientSubnets(SubnetSettings(servers=("192.0.2.0/24",))), False),
    ):
        assert rules.applies("64:ff9b::c000:201", names.ROOT, name, c.A) is listed


def test_a_worker_knows_the_nat64_of_its_servers() -> None:
    settings = Settings(
        dnssec=DnssecSettings(trust_anchors=()), iteration=IterationSettings(nat64_prefix="64:ff9b::/96"),
        client_subnet=SubnetSettings(servers=("192.0.2.0/24",)),
    )
    contexts = ViewContexts(Store.create(1 << 20, seed=bytes(16)), settings, SeededRandom(1), None, None, ())
    assert contexts.subnets is not None
    assert contexts.subnets.applies("64:ff9b::c000:201", names.ROOT, names.from_text(WWW), c.A)
