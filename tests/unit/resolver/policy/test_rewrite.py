"""Rewriting of answers: renumbering, and removal of private addresses, also of those that DNS64 makes."""

import ipaddress

import pytest
from support.minet import EXAMPLE_ZONE, addresses, build, standard

from resolver.effects import Outcome, Question
from resolver.nat64 import Nat64Prefix
from resolver.policy import PolicyPipeline
from resolver.policy.dns64 import Dns64
from resolver.policy.rewrite import Rewriter
from resolver.settings import DnssecSettings, HostEntry, PolicySettings, Settings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rdata import check
from resolver.wire.rrset import RRset

NAME = names.from_text("www.example.com.")
ZONE = EXAMPLE_ZONE + (
    "both 300 IN A 192.0.2.82\nboth 300 IN AAAA 2001:db8::82\n"
    "mapped 300 IN A 192.0.2.83\nmapped 300 IN AAAA ::ffff:192.0.2.83\n"
    "home 300 IN A 10.0.0.1\nhome 300 IN A 192.0.2.84\nonly 300 IN A 10.0.0.2\ngood.lan 300 IN A 10.0.0.3\n"
    "six 300 IN AAAA ::ffff:10.0.0.4\n"
)


def world(zone=ZONE, **policy):
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), policy=PolicySettings(**policy))
    servers = [("example.com.", zone)]
    m = build(standard(a192_0_2_1=servers, a192_0_2_2=servers), settings=settings)
    m.mesh._context.policy = PolicyPipeline(m.settings).views[0]
    return m


def sixes(outcome):
    sets = [rrset for rrset in outcome.answer if rrset.rtype == c.AAAA]
    return sorted(str(ipaddress.ip_address(rdata)) for rrset in sets for rdata in rrset.rdatas())


# --- private addresses and renumbering --------------------------------------------------------------------------------


def test_rebinding_private_addresses_are_removed():
    m = world(private_addresses=("10.0.0.0/8",), private_domains=("lan.example.com.",))
    for _ in range(2):  # the second time from the cache
        outcome = m.ask("home.example.com.")
        assert addresses(outcome) == ["192.0.2.84"]
        assert c.EDE_FILTERED in [code for code, _ in outcome.ede]
        assert m.ask("only.example.com.").answer == []
        assert m.ask("six.example.com.", "AAAA").answer == [], "IPv4 in the clothes of IPv6"
        assert addresses(m.ask("good.lan.example.com.")) == ["10.0.0.3"]
        assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]


@pytest.mark.parametrize("prefix", ["64:ff9b::/96", "2001:db8:64::/96", "2001:db8:122:300::/56", "2001:db8::/32"])
def test_rebinding_private_addresses_embedded_in_nat64_addresses_are_removed(prefix):
    dns64 = Nat64Prefix(ipaddress.IPv6Network(prefix))
    made = ipaddress.ip_address(dns64.embed(PRIVATE4))
    fine = ipaddress.ip_address(dns64.embed(PUBLIC4))
    zone = ZONE + f"forged 300 IN AAAA {made}\nforged 300 IN AAAA {fine}\nmoved 300 IN CNAME only\n"
    m = world(zone, dns64_prefix=(prefix,), private_addresses=("10.0.0.0/8",), private_domains=("lan.example.com.",),
              hosts=(HostEntry("printer.here.", ("10.0.0.9",)),))
    for _ in range(2):  # the second time from the cache
        assert sixes(m.ask("home.example.com.", "AAAA")) == [in_prefix(dns64, "192.0.2.84")]
        assert c.EDE_FILTERED in [code for code, _ in m.ask("home.example.com.", "AAAA").ede]
        assert sixes(m.ask("only.example.com.", "AAAA")) == sixes(m.ask("moved.example.com.", "AAAA")) == []
        assert sixes(m.ask("forged.example.com.", "AAAA")) == [str(fine)]
        assert sixes(m.ask("good.lan.example.com.", "AAAA")) == [in_prefix(dns64, "10.0.0.3")]
        assert sixes(m.ask("www.example.com.", "AAAA")) == [in_prefix(dns64, "192.0.2.80")]
        assert sixes(m.ask("printer.here.", "AAAA")) == [in_prefix(dns64, "10.0.0.9")], "the operator's own data"


def in_prefix(dns64, address):
    return str(ipaddress.ip_address(dns64.embed(ipaddress.ip_address(address).packed)))


def test_rebinding_private_addresses_embedded_in_nat64_hints_are_removed():
    dns64 = Nat64Prefix(ipaddress.IPv6Network("2001:db8:122:344::/64"))
    # What stands behind the IPv4 address, translators pass over.
    before = dns64.embed(PRIVATE4)[:-1] + b"\7" + dns64.embed(PUBLIC4)
    rewriter = Rewriter(PolicySettings(private_addresses=("10.0.0.0/8",), dns64_prefix=("2001:db8:122:344::/64",)))
    outcome = Outcome(Question(NAME, c.HTTPS), c.NOERROR, [RRset(NAME, c.HTTPS, 60, [service(1, (6, before))])], [],
                      Verdict.INSECURE, 60)
    assert rewriter.apply(outcome).answer[0].rdatas() == [service(1, (6, dns64.embed(PUBLIC4)))]


def test_rebinding_through_a_foreign_nat64():
    rewriter = Rewriter(PolicySettings(private_addresses=("10.0.0.0/8",)))
    well_known = Nat64Prefix(ipaddress.IPv6Network("64:ff9b::/96"))
    rrset = RRset(NAME, c.AAAA, 60, [well_known.embed(PRIVATE4), well_known.embed(PUBLIC4)])
    changed = rewriter.apply(Outcome(Question(NAME, c.AAAA), c.NOERROR, [rrset], [], Verdict.INSECURE, 60))
    assert changed.answer[0].rdatas() == [well_known.embed(PUBLIC4)]


def service(priority: int, *parameters: tuple[int, bytes], target: bytes = b"\0") -> bytes:
    """The rdata of an SVCB or HTTPS record (RFC 9460 section 2.2)."""
    return priority.to_bytes(2, "big") + target + b"".join(
        key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value for key, value in parameters
    )


MANDATORY, ALPN, PORT, HINT4, HINT6 = 0, 1, 3, 4, 6
PUBLIC4, PUBLIC6 = bytes([192, 0, 2, 1]), bytes.fromhex("20010db8") + bytes(11) + b"\1"
PRIVATE4, MAPPED4 = bytes([10, 0, 0, 1]), bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])
PRIVATE6 = b"\xfd" + bytes(14) + b"\1"


@pytest.mark.parametrize("rtype", [c.SVCB, c.HTTPS])
@pytest.mark.parametrize(("before", "after"), [
    ([service(1, (ALPN, b"\2h2"), (HINT4, PRIVATE4))], [service(1, (ALPN, b"\2h2"))]),
    ([service(1, (HINT4, PRIVATE4 + PUBLIC4), (HINT6, PRIVATE6 + PUBLIC6 + MAPPED4))],
     [service(1, (HINT4, PUBLIC4), (HINT6, PUBLIC6))]),
    ([service(1, (PORT, b"\1\xbb"), (HINT6, PRIVATE6), (7, b"/dns"), target=NAME)],
     [service(1, (PORT, b"\1\xbb"), (7, b"/dns"), target=NAME)]),
    ([service(1, (MANDATORY, b"\0\4"), (HINT4, PRIVATE4)), service(2, (HINT4, PUBLIC4))],
     [service(2, (HINT4, PUBLIC4))]),
    ([service(1, (MANDATORY, b"\0\4"), (HINT4, PRIVATE4 + PUBLIC4))],
     [service(1, (MANDATORY, b"\0\4"), (HINT4, PUBLIC4))]),
    ([service(0, (HINT4, PRIVATE4), target=NAME)], [service(0, target=NAME)]),
    ([service(1, (MANDATORY, b"\0\1\0\6"), (ALPN, b"\2h2"), (HINT6, MAPPED4))], []),
])
def test_rebinding_private_addresses_are_removed_from_hints(rtype, before, after):
    rewriter = Rewriter(PolicySettings(private_addresses=("10.0.0.0/8", "fd00::/8"),
                                       private_domains=("lan.example.com.",)))
    for name, left in ((NAME, after), (names.from_text("x.lan.example.com."), before)):
        rrset = RRset(name, rtype, 60, before, sigs=[bytes(40)], verdict=Verdict.SECURE)
        outcome = Outcome(Question(name, rtype), c.NOERROR, [rrset], [], Verdict.SECURE, 60)
        changed = rewriter.apply(outcome)
        assert [rdata for kept in changed.answer for rdata in kept.rdatas()] == left
        assert (c.EDE_FILTERED in [code for code, _ in changed.ede]) is (left is after)
        assert changed.verdict == (Verdict.INSECURE if left is after else Verdict.SECURE)
        for rdata in left:
            check(rtype, rdata)


def test_hints_without_private_addresses_are_kept_and_others_renumbered():
    rdata = service(1, (ALPN, b"\2h2"), (HINT4, PUBLIC4 * 2), (HINT6, PUBLIC6))
    outcome = Outcome(Question(NAME, c.HTTPS), c.NOERROR, [RRset(NAME, c.HTTPS, 60, [rdata])], [], Verdict.SECURE, 60)
    assert Rewriter(PolicySettings(private_addresses=("10.0.0.0/8",))).apply(outcome) is outcome
    moved = Rewriter(PolicySettings(rewrite_addresses=("192.0.2.0/24 198.51.100.0/24",))).apply(outcome)
    hints = bytes([198, 51, 100, 1]) * 2
    assert moved.answer[0].rdatas() == [service(1, (ALPN, b"\2h2"), (HINT4, hints), (HINT6, PUBLIC6))]
    assert moved.ede == []


def test_rebinding_by_the_additional_section():
    rewriter = Rewriter(PolicySettings(private_addresses=("10.0.0.0/8",)))
    outcome = Outcome(Question(NAME, c.HTTPS), c.NOERROR, [RRset(NAME, c.HTTPS, 60, [service(1)])], [],
                      Verdict.INSECURE, 60)
    outcome.additional = [RRset(NAME, c.A, 60, [PRIVATE4]), RRset(NAME, c.A, 60, [PUBLIC4])]
    outcome.referral = True
    rewritten = rewriter.apply(outcome)
    assert [rrset.rdatas() for rrset in rewritten.additional] == [[PUBLIC4]]
    assert rewritten.referral


def test_configured_local_data_may_have_private_addresses():
    m = world(private_addresses=("10.0.0.0/8",), hosts=(HostEntry("printer.here.", ("10.0.0.9",)),))
    assert addresses(m.ask("printer.here.")) == ["10.0.0.9"]


def test_a_changed_set_is_neither_signed_nor_secure_and_the_original_is_untouched():
    rewriter = Rewriter(PolicySettings(private_addresses=("10.0.0.0/8",)))
    rrset = RRset(NAME, c.A, 60, [b"\x0a\0\0\1", b"\xc0\0\2\1"], sigs=[bytes(40)], verdict=Verdict.SECURE)
    other = RRset(NAME, c.TXT, 60, [b"\1x"], sigs=[bytes(40)], verdict=Verdict.SECURE)
    outcome = Outcome(Question(NAME, c.A), c.NOERROR, [other, rrset], [], Verdict.SECURE, 60)
    changed = rewriter.apply(outcome)
    assert (changed.verdict, changed.answer[0] is other, changed.answer[1].sig_len) == (Verdict.INSECURE, True, 0)
    assert len(outcome.answer[1]) == 2 and outcome.verdict == Verdict.SECURE and not outcome.ede
    assert rewriter.apply(Outcome(outcome.question, 0, [other], [], Verdict.SECURE, 60)).verdict == Verdict.SECURE


def test_renumbering():
    m = world(rewrite_addresses=("192.0.2.80/28 198.51.100.16/28", "2001:db8::/32 fd00::/32"))
    assert addresses(m.ask("www.example.com.")) == ["198.51.100.16"]
    assert addresses(m.ask("ns1.example.com.")) == ["192.0.2.1"]
    assert sixes(m.ask("both.example.com.", "AAAA")) == ["fd00::82"]


@pytest.mark.parametrize("text", [
    "10.0.0.0/8", "10.0.0.0/8 10.0.0.0/9", "10.0.0.0/8 fd00::/8", "10.0.0.1/8 11.0.0.0/8",
])
def test_impossible_renumbering_is_refused(text):
    with pytest.raises(ValueError, match=r"policy\.rewrite_addresses"):
        PolicySettings(rewrite_addresses=(text,))


def test_without_rewriting_the_answer_is_returned_unchanged():
    assert Rewriter.create(PolicySettings()) is None
    assert Dns64.create(PolicySettings()) is None


def test_configured_exemptions_are_respected():
    rewriter = Rewriter(PolicySettings(private_addresses=("10.0.0.0/8",)))
    rrset = RRset(NAME, c.A, 60, [b"\x0a\0\0\1"], trust=Trust.CONFIGURED)
    outcome = Outcome(Question(NAME, c.A), c.NOERROR, [rrset], [], Verdict.INDETERMINATE, 60)
    assert rewriter.apply(outcome) is outcome
