"""DNS64: addresses by RFC 6052, the synthesis of RFC 6147, and the name by which clients find the prefixes (RFC 8880).
"""

import ipaddress
from collections.abc import Callable

import pytest
from support.minet import EXAMPLE_ZONE, Minet, build, reply, standard
from support.signed_net import NOW, Crypto, resolver_in

from resolver import limits
from resolver.daemon.config import ConfigError, parse
from resolver.effects import Failure, FailureKind, Outcome, Question
from resolver.mesh import Mesh
from resolver.partial_response import failure_outcome
from resolver.playground import World, signed
from resolver.policy import PolicyPipeline
from resolver.policy.dns64 import Dns64
from resolver.policy.module import PolicyModule
from resolver.query import Query
from resolver.settings import DnssecSettings, ForwardZone, PolicySettings, Settings, ViewSettings, replace
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

NAME = names.from_text("www.example.com.")
PREFIX = "64:ff9b::/96"
OTHER = "2001:db8:64::/96"
ZONE = EXAMPLE_ZONE + (
    "both 300 IN A 192.0.2.82\nboth 300 IN AAAA 2001:db8::82\n"
    "mapped 300 IN A 192.0.2.83\nmapped 300 IN AAAA ::ffff:192.0.2.83\n"
    "mixed 300 IN AAAA ::ffff:192.0.2.84\nmixed 300 IN AAAA 2001:db8::84\n"
    "lost 300 IN AAAA ::ffff:192.0.2.85\nlost 300 IN TXT x\n"
    "inside 300 IN A 10.0.0.1\ninside 300 IN A 192.0.2.86\nonly 300 IN A 10.0.0.2\n"
    "long 3000 IN A 192.0.2.87\nshort 20 IN A 192.0.2.88\n"
    "old 300 IN DNAME new\nx.new 300 IN A 192.0.2.89\nchain 200 IN CNAME x.old\nvoid 300 IN CNAME none\n"
    "to-mapped 300 IN CNAME mapped\n"
)
DROP = object()
Script = Callable[[str, int], object]


def world(zone: str = ZONE, *views: ViewSettings, **policy: object) -> Minet:
    policy.setdefault("dns64_prefix", (PREFIX,))
    servers = [("example.com.", zone)]
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), view=views,
                        policy=PolicySettings(**policy))  # type: ignore[arg-type]
    m = build(standard(a192_0_2_1=servers, a192_0_2_2=servers), settings=settings)
    return with_policies(m, m.settings)


def with_policies(m: Minet, settings: Settings, crypto: object = None) -> Minet:
    m.mesh = Mesh(exchange=m.net, crypto=crypto, clock=m.net, rng=m.mesh._context.rng, store=m.store,
                  settings=settings, policy=PolicyPipeline(settings))
    return m


def failing(m: Minet, script: Script) -> Minet:
    """`m` with servers of example.com that first ask `script`: an rcode, DROP, or None to answer as usual."""
    for address in ("192.0.2.1", "192.0.2.2"):
        def host(packet: bytes, tcp: bool, inner: Callable[[bytes, bool], bytes | None] = m.net.hosts[address]) -> (
                bytes | None):
            view = MessageView.parse(packet)
            found = script(names.to_text(view.qname or b"\0"), view.qtype)
            if found is DROP:
                return None
            return inner(packet, tcp) if found is None else reply(packet, rcode=int(str(found)))

        m.net.hosts[address] = host
    return m


def of_type(wanted: int, rcode: object) -> Script:
    return lambda name, qtype: rcode if qtype == wanted and name.lower().startswith("www.") else None


def sixes(outcome: Outcome) -> list[str]:
    sets = [rrset for rrset in outcome.answer if rrset.rtype == c.AAAA]
    return sorted(str(ipaddress.ip_address(rdata)) for rrset in sets for rdata in rrset.rdatas())


def ask(m: Minet, view: int, name: str, rtype: str = "AAAA", *, cd: bool = False) -> Outcome:
    found: list[Outcome] = []
    m.mesh.submit(Question(names.from_text(name), c.type_from_text(rtype)), query=Query(view=view), cd=cd,
                  on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


# --- addresses and reverse names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "made"), [
    # RFC 6052 section 2.4, table 1
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
])
def test_embedded_addresses_of_rfc_6052_and_back(prefix: str, made: str) -> None:
    dns64 = Dns64((prefix,))
    packed = dns64.embed(bytes([192, 0, 2, 33]))
    assert packed == [ipaddress.ip_address(made).packed]
    alias = dns64.reverse(Question(names.reverse_address(str(ipaddress.ip_address(packed[0]))), c.PTR))
    assert alias is not None and alias.targets() == [names.from_text("33.2.0.192.in-addr.arpa.")]


@pytest.mark.parametrize("name", [
    names.reverse_address("2001:db8::1"), names.reverse_address("192.0.2.1"), names.from_text("ip6.arpa."),
    names.reverse_address("64:ff9b::c000:250").replace(b"\x010", b"\x01 ", 1),
    names.from_text("x." * 32 + "ip6.arpa."), names.from_text("ff." * 32 + "ip6.arpa."), NAME,
])
def test_other_reverse_names_are_not_translated(name: bytes) -> None:
    assert Dns64((PREFIX,)).reverse(Question(name, c.PTR)) is None


@pytest.mark.parametrize("address", ["2001:db8:122:344:1c0:2:2100::", "2001:db8:122:344:c0:2:2100:1"])
def test_an_address_without_embedded_ipv4_has_no_translated_reverse_name(address: str) -> None:
    # RFC 6052 section 2.2: bits 64 to 71 and those behind the IPv4 address are zero in what is made.
    dns64 = Dns64(("2001:db8:122:344::/64",))
    assert dns64.reverse(Question(names.reverse_address(address), c.PTR)) is None


def test_reverse_names_of_synthesised_addresses_lead_to_in_addr_arpa() -> None:
    reverse = ("80.2.0.192.in-addr.arpa. PTR www.example.com.",)
    m = world(special_use_domains=False, local_data=reverse)
    outcome = m.ask(names.to_text(names.reverse_address("64:ff9b::c000:250")), "PTR")
    assert [rrset.rtype for rrset in outcome.answer] == [c.CNAME, c.PTR]
    assert outcome.answer[1].targets() == [NAME]


def test_only_addresses_that_are_made_have_translated_reverse_names() -> None:
    dns64 = Dns64((PREFIX, f"{OTHER} 10.0.0.0/8"), exclude_a=("10.9.0.0/16",))
    for address, translated in (("64:ff9b::10.1.0.1", True), ("2001:db8:64::10.1.0.1", True),
                                ("2001:db8:64::192.0.2.1", False), ("64:ff9b::10.9.0.1", False),
                                ("2001:db8:64::192.0.0.170", True)):
        assert (dns64.reverse(Question(names.reverse_address(address), c.PTR)) is not None) is translated, address


# --- synthesis ----------------------------------------------------------------------------------------------------


def test_aaaa_records_are_synthesised_for_names_without() -> None:
    m = world()
    for _ in range(2):
        outcome = m.ask("www.example.com.", "AAAA")
        assert sixes(outcome) == ["64:ff9b::c000:250"]
        assert outcome.verdict <= Verdict.INSECURE
    outcome = m.ask("alias.example.com.", "AAAA")
    assert sixes(outcome) == ["64:ff9b::c000:250"]
    assert [rrset.rtype for rrset in outcome.answer] == [c.CNAME, c.AAAA]


def test_existing_addresses_are_kept() -> None:
    m = world()
    assert sixes(m.ask("both.example.com.", "AAAA")) == ["2001:db8::82"]
    assert m.ask("none.example.com.", "AAAA").rcode == m.ask("void.example.com.", "AAAA").rcode == c.NXDOMAIN
    outcome = m.ask("example.com.", "AAAA")
    assert outcome.answer == [] and outcome.authority[0].rtype == c.SOA


def test_excluded_addresses_are_never_given() -> None:
    """RFC 6147 section 5.1.4."""
    m = world()
    for name, given in (("mapped", ["64:ff9b::c000:253"]), ("to-mapped", ["64:ff9b::c000:253"]),
                        ("mixed", ["2001:db8::84"]), ("lost", [])):
        for _ in range(2):  # the second time from the cache
            outcome = m.ask(f"{name}.example.com.", "AAAA")
            assert (outcome.rcode, sixes(outcome)) == (c.NOERROR, given), name
    assert [rrset.rtype for rrset in m.ask("lost.example.com.", "AAAA").authority] == [c.SOA]
    filtered = m.ask("mixed.example.com.", "AAAA")
    assert (filtered.answer[0].sig_len, c.EDE_FILTERED in [code for code, _ in filtered.ede]) == (0, True)
    mapped = str(ipaddress.ip_address("::ffff:192.0.2.84"))  # Python 3.13 has another form of it
    assert sixes(m.ask("mixed.example.com.", "AAAA", cd=True)) == ["2001:db8::84", mapped]


def test_names_whose_aaaa_records_are_ignored() -> None:
    m = world(dns64_ignore_aaaa=("both.example.com",))
    assert sixes(m.ask("BOTH.example.com.", "AAAA")) == ["64:ff9b::c000:252"]
    assert sixes(m.ask("mixed.example.com.", "AAAA")) == ["2001:db8::84"]


def test_several_prefixes_each_for_its_addresses() -> None:
    m = world(dns64_prefix=(PREFIX, f"{OTHER} 10.0.0.0/8 172.16.0.0/12"))
    assert sixes(m.ask("www.example.com.", "AAAA")) == ["64:ff9b::c000:250"]
    assert sixes(m.ask("inside.example.com.", "AAAA")) == [
        "2001:db8:64::a00:1", "64:ff9b::a00:1", "64:ff9b::c000:256"]
    assert len(sixes(world(dns64_prefix=(PREFIX, OTHER)).ask("www.example.com.", "AAAA"))) == 2


def test_nothing_is_made_of_excluded_ipv4_addresses() -> None:
    m = world(dns64_exclude_a=("10.0.0.0/8",))
    inside = m.ask("inside.example.com.", "AAAA")
    assert (sixes(inside), inside.embedded) == (["64:ff9b::c000:256"], (bytes([192, 0, 2, 86]),))
    only = m.ask("only.example.com.", "AAAA")
    assert (only.rcode, only.answer, only.authority[0].rtype) == (c.NOERROR, [], c.SOA)


@pytest.mark.parametrize(("addresses", "prefixes"), [(512, 1), (257, 2), (65, 8)])
def test_of_a_large_set_as_many_addresses_are_used_as_have_room(addresses: int, prefixes: int) -> None:
    zone = ZONE + "".join(f"many 300 IN A 198.51.{number >> 8}.{number & 255}\n" for number in range(addresses))
    m = world(zone, dns64_prefix=tuple(f"2001:db8:{number}::/96" for number in range(prefixes)))
    outcome = ask(m, 0, "many.example.com.")
    assert outcome.failure is None and len(sixes(outcome)) == limits.RRSET_RECORDS
    assert len({address.split("::")[0] for address in sixes(outcome)}) == prefixes, "each prefix is used"


def test_policies_for_name_servers_apply_to_the_addresses_that_are_used() -> None:
    """The set in the cache is from a client for whom the servers are not forbidden."""

    class Forbids(PolicyModule):
        name, active = "forbids", False

        def name_server(self, query: Query, question: Question, zone: bytes, servers: object, addresses: object) -> (
                Outcome | None):
            if not self.active or zone != names.from_text("example.com."):
                return None
            return Outcome(question, c.NOERROR, [], [], Verdict.INDETERMINATE, 60)

    m, forbids = world(), Forbids()
    m.mesh = Mesh(exchange=m.net, crypto=None, clock=m.net, rng=m.mesh._context.rng, store=m.store,
                  settings=m.settings, policy=PolicyPipeline(m.settings, modules=(forbids,)))
    assert ask(m, 0, "www.example.com.", "A").answer
    forbids.active = True
    assert not ask(m, 0, "www.example.com.", "A").answer
    assert not ask(m, 0, "www.example.com.").answer


def test_aliases_are_followed_and_given() -> None:
    """RFC 6147 section 5.1.5."""
    m = world()
    for _ in range(2):
        outcome = m.ask("chain.example.com.", "AAAA")
        assert [rrset.rtype for rrset in outcome.answer] == [c.CNAME, c.DNAME, c.CNAME, c.AAAA]
        assert sixes(outcome) == ["64:ff9b::c000:259"]
        assert names.to_text(outcome.answer[-1].name) == "x.new.example.com."
        assert outcome.ttl <= 200, "that of the first alias"


def test_the_ttl_is_at_most_that_of_the_denial() -> None:
    """RFC 6147 section 5.1.7: the negative answer may be kept for 300 seconds."""
    m = world()
    assert (m.ask("long.example.com.", "AAAA").ttl, m.ask("short.example.com.", "AAAA").ttl) == (300, 20)
    m.net.sleep(m.mesh, 100)
    outcome = m.ask("long.example.com.", "AAAA")
    assert (outcome.ttl, outcome.answer[0].ttl) == (200, 200), "it was denied 100 seconds ago"
    assert world(ZONE.replace("604800 300", "604800 0", 1)).ask("long.example.com.", "AAAA").ttl == 0


def test_the_ttl_without_a_denial() -> None:
    m = failing(world(ZONE.replace("www 300", "www 3000", 1)), of_type(c.AAAA, c.SERVFAIL))
    outcome = m.ask("www.example.com.", "AAAA")
    assert (outcome.ttl, sixes(outcome)) == (600, ["64:ff9b::c000:250"])


@pytest.mark.parametrize("rcode", [c.SERVFAIL, c.NOTIMP, c.REFUSED, DROP], ids=str)
def test_a_failure_of_the_aaaa_query_counts_as_an_empty_answer(rcode: object) -> None:
    """RFC 6147 sections 5.1.2 and 5.1.3."""
    m = failing(world(), of_type(c.AAAA, rcode))
    for _ in range(2):
        outcome = m.ask("www.example.com.", "AAAA")
        assert (outcome.rcode, sixes(outcome), outcome.verdict) == (c.NOERROR, ["64:ff9b::c000:250"],
                                                                    Verdict.INDETERMINATE)


@pytest.mark.parametrize("rcode", [c.SERVFAIL, DROP], ids=str)
def test_a_failure_of_the_a_query_is_that_of_the_answer(rcode: object) -> None:
    m = failing(world(), of_type(c.A, rcode))
    for _ in range(2):
        outcome = m.ask("www.example.com.", "AAAA")
        assert (outcome.rcode, outcome.failure is not None, outcome.answer) == (c.SERVFAIL, True, [])
    m = failing(world(), lambda name, qtype: rcode)
    assert m.ask("www.example.com.", "AAAA").rcode == c.SERVFAIL


def test_the_denial_of_aaaa_is_cached() -> None:
    m = world()
    m.ask("www.example.com.", "AAAA")
    packets = len(m.net.log)
    assert sixes(m.ask("www.example.com.", "AAAA")) == ["64:ff9b::c000:250"]
    assert m.ask("example.com.", "AAAA").answer == m.ask("example.com.", "AAAA").answer == []
    assert len(m.net.log) == packets + 2, "AAAA and A of another name"


# --- DNSSEC (RFC 6147 section 5.5) --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def playground() -> World:
    return signed.signed_world(NOW)


def validating(playground: World, **policy: object) -> Minet:
    m = resolver_in(playground)
    settings = replace(m.settings, policy=PolicySettings(dns64_prefix=(PREFIX,), **policy))  # type: ignore[arg-type]
    return with_policies(m, settings, Crypto())


def test_nothing_is_synthesised_for_validating_clients() -> None:
    assert world().ask("www.example.com.", "AAAA", cd=True).answer == []


def test_an_answer_made_of_validated_data_is_secure(playground: World) -> None:
    m = validating(playground)
    for name in ("www.nsec.dnssec.playground.", "www.old.nsec3.dnssec.playground."):
        for _ in range(2):
            outcome = m.ask(name, "AAAA")
            assert (Verdict(outcome.verdict), len(sixes(outcome))) == (Verdict.SECURE, 1)
            assert all(rrset.sig_len == 0 for rrset in outcome.answer if rrset.rtype == c.AAAA)


def test_no_answer_is_made_of_bogus_data(playground: World) -> None:
    """Neither when the denial of AAAA is bogus, nor when the A records are."""
    m = validating(playground)
    for _ in range(2):
        for name in ("www.expired.dnssec.playground.", "www.expired-one.dnssec.playground."):
            outcome = m.ask(name, "AAAA")
            assert (outcome.rcode, Verdict(outcome.verdict), outcome.answer) == (c.SERVFAIL, Verdict.BOGUS, [])
    question = Question(NAME, c.AAAA)
    outcome = Outcome(question, c.SERVFAIL, [], [], Verdict.INDETERMINATE, 0)
    outcome.failure = Failure(FailureKind.RCODE, 0, "")
    assert Dns64((PREFIX,)).needs_addresses(outcome)
    outcome.failure = Failure(FailureKind.BOGUS, 0, "")
    assert not Dns64((PREFIX,)).needs_addresses(outcome)


@pytest.mark.parametrize("kind", [FailureKind.DEADLINE, FailureKind.CACHED_ERROR])
def test_silent_servers_beside_bogus_data_are_no_denial(kind: FailureKind) -> None:
    """One server gave data that does not validate, the others nothing before the time ended."""
    dns64, question = Dns64((PREFIX,)), Question(NAME, c.AAAA)
    for verdict, needed in ((Verdict.BOGUS, False), (None, True)):
        outcome = failure_outcome(question, Failure(kind, c.EDE_NO_REACHABLE_AUTHORITY, "no answer", verdict=verdict))
        assert dns64.needs_addresses(outcome) is needed


def test_an_answer_is_as_secure_as_the_weaker_part() -> None:
    dns64, question = Dns64((PREFIX,), ("::ffff:0:0/96",)), Question(NAME, c.AAAA)
    for denied, found, result in ((Verdict.SECURE, Verdict.SECURE, Verdict.SECURE),
                                  (Verdict.INSECURE, Verdict.SECURE, Verdict.INSECURE),
                                  (Verdict.SECURE, Verdict.INSECURE, Verdict.INSECURE)):
        without = Outcome(question, c.NOERROR, [], [], denied, 60)
        answer = [RRset(NAME, c.A, 60, [bytes([192, 0, 2, 1])], sigs=[bytes(40)], verdict=found)]
        with_a = Outcome(Question(NAME, c.A), c.NOERROR, answer, [], found, 60)
        assert dns64.synthesise(question, without, with_a).verdict == result
        without.failure = Failure(FailureKind.TIMEOUT, 0, "")
        assert dns64.synthesise(question, without, with_a).verdict <= Verdict.INSECURE
    mixed = RRset(NAME, c.AAAA, 60, [bytes(10) + b"\xff\xff\xc0\0\2\1", bytes(15) + b"\1"], sigs=[bytes(40)],
                  verdict=Verdict.SECURE)
    kept = dns64.without_excluded(Outcome(question, c.NOERROR, [mixed], [], Verdict.SECURE, 60))
    assert (kept.verdict, kept.answer[0].verdict, len(mixed)) == (Verdict.INSECURE, Verdict.INSECURE, 2)


# --- the discovery of the prefixes (RFC 7050, RFC 8880) -----------------------------------------------------------


def test_clients_find_each_prefix() -> None:
    m = world(dns64_prefix=(PREFIX, f"{OTHER} 10.0.0.0/8"), dns64_exclude=("::/0",), dns64_exclude_a=("192.0.0.0/8",),
              private_addresses=("192.0.0.0/8",), special_use_domains=False)
    both = ["2001:db8:64::c000:aa", "2001:db8:64::c000:ab", "64:ff9b::c000:aa", "64:ff9b::c000:ab"]
    for cd in (False, True):
        assert sixes(m.ask("IPv4only.arpa.", "AAAA", cd=cd)) == both
    outcome = m.ask("ipv4only.arpa.", "A")
    assert outcome.answer[0].rdatas() == [bytes([192, 0, 0, 170]), bytes([192, 0, 0, 171])]
    assert m.ask("x.ipv4only.arpa.", "A").rcode == c.NXDOMAIN
    for qtype in ("NS", "TXT", "SOA"):
        nothing = m.ask("ipv4only.arpa.", qtype)
        assert (nothing.rcode, nothing.answer, nothing.authoritative) == (c.NOERROR, [], True)
    for reverse in ("170.0.0.192.in-addr.arpa.", names.to_text(names.reverse_address("64:ff9b::192.0.0.171"))):
        assert m.ask(reverse, "PTR").answer[-1].targets() == [names.from_text("ipv4only.arpa.")]
    assert m.ask("x.171.0.0.192.in-addr.arpa.", "PTR").rcode == c.NXDOMAIN
    assert m.net.log == [], "no server was asked"
    m.ask("ipv4only.arpa.", "DS")
    assert m.net.log, "its denial is the parent's and proves that the zone is unsigned"


def test_without_dns64_the_name_is_not_special() -> None:
    m = world(dns64_prefix=())
    m.ask("ipv4only.arpa.", "A")
    assert m.net.log


def test_an_operator_may_have_the_name_resolved() -> None:
    local = PolicyPipeline(Settings(policy=PolicySettings(
        dns64_prefix=(PREFIX,), local_zones=("ipv4only.arpa. nodefault",))))
    question = Question(names.from_text("ipv4only.arpa."), c.A)
    assert local.answer(question) is None
    forwarded = PolicyPipeline(Settings(policy=PolicySettings(dns64_prefix=(PREFIX,)),
                                        forward=(ForwardZone("ipv4only.arpa", ("192.0.2.53",)),)))
    assert forwarded.answer(question) is None


# --- views and settings -------------------------------------------------------------------------------------------


def test_each_view_has_its_prefixes() -> None:
    def view(name: str, **more: object) -> ViewSettings:
        return ViewSettings(name=name, clients=("10.0.0.0/8",), **more)  # type: ignore[arg-type]

    m = world(ZONE, view("own", dns64_prefix=(OTHER,), dns64_exclude_a=("10.0.0.0/8",)), view("off", dns64=False),
              view("inherits"), view("bare", inherit=False), dns64_ignore_aaaa=("both.example.com.",))
    for number, www, both, inside in ((0, ["64:ff9b::c000:250"], ["64:ff9b::c000:252"], 2),
                                      (1, ["2001:db8:64::c000:250"], ["2001:db8::82"], 1),
                                      (2, [], ["2001:db8::82"], 0),
                                      (3, ["64:ff9b::c000:250"], ["64:ff9b::c000:252"], 2),
                                      (4, [], ["2001:db8::82"], 0)):
        assert sixes(ask(m, number, "www.example.com.")) == www
        assert sixes(ask(m, number, "both.example.com.")) == both
        assert len(sixes(ask(m, number, "inside.example.com."))) == inside
        assert len(sixes(ask(m, number, "ipv4only.arpa."))) == (2 if www else 0)


@pytest.mark.parametrize("prefix", ["", "64:ff9b::", "64:ff9b::/95", "192.0.2.0/24", "x", "64:ff9b::1/96",
                                    "64:ff9b::/96 10.0.0.1/8", "64:ff9b::/96 fd00::/8"])
def test_an_impossible_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"policy\.dns64_prefix"):
        PolicySettings(dns64_prefix=(prefix,))


@pytest.mark.parametrize(("text", "problem"), [
    ('dns64-prefix = ["64:ff9b::/96", "64:ff9b::/96 10.0.0.0/8"]',
     "2: policy.dns64-prefix[1]: '64:ff9b::/96 10.0.0.0/8' has the prefix of an entry before it"),
    (f'dns64-prefix = {[f"2001:db8:{n}::/96" for n in range(9)]}', "2: policy.dns64-prefix: more than 8 prefixes"),
    ('dns64-exclude-a = ["::/96"]', "2: policy.dns64-exclude-a[0]: '::/96' is not an IPv4 prefix"),
    ('dns64-exclude = ["10.0.0.0/8"]', "2: policy.dns64-exclude[0]: '10.0.0.0/8' is not an IPv6 prefix"),
    ('dns64-ignore-aaaa = ["a..b"]', "2: policy.dns64-ignore-aaaa[0]: 'a..b' is not a domain name"),
])
def test_settings_that_do_not_fit_are_refused_with_their_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f"[policy]\n{text}")
    assert problem in str(raised.value).replace("configuration:", "")
    with pytest.raises(ValueError, match="dns64: it is off, but dns64-prefix is given"):
        ViewSettings(name="a", clients=("::/0",), dns64=False, dns64_prefix=(PREFIX,))


def test_one_prefix_needs_no_list() -> None:
    for text in (f'"{PREFIX}"', f'["{PREFIX}"]'):
        assert parse(f"[policy]\ndns64-prefix = {text}").policy.dns64_prefix == (PREFIX,)


def test_without_a_prefix_there_is_no_dns64() -> None:
    assert Dns64.create(PolicySettings()) is None
