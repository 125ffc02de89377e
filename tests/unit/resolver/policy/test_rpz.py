"""Response policy zones: triggers, actions, precedence, and what is reported as no rule."""

import ipaddress
import random
from pathlib import Path

import pytest

from resolver.effects import Question
from resolver.policy.prefix_table import PrefixTableBuilder
from resolver.policy.rpz import Action, PolicyZones, Trigger, respond
from resolver.policy.rpz_zone import DEFAULT, RpzOptions, Rule, ZoneCompiler, compile_zone, parse_prefix
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present

KEY = bytes(range(16))
ORIGIN = names.from_text("rpz.example.")
SOA = "@ 300 SOA ns.example. admin.example. 7 3600 600 86400 120\n@ 300 NS ns.example.\n"


def wire(text):
    return names.from_text(text)


def packed(text):
    return ipaddress.ip_address(text).packed


def compiled(text, options=DEFAULT, soa=SOA):
    return compile_zone(ORIGIN, present.zone_from_text("$TTL 60\n" + soa + text, ORIGIN), KEY, options)


def zone(text, **options):
    made, errors = compiled(text, RpzOptions(**options), "" if " SOA " in text else SOA)
    assert errors == []
    return made


def rule(match):
    return None if match is None else (match.trigger, match.owner, match.rule.action)


def answer(text, qname, qtype="A", **options):
    match = zone(text, **options).match_name(wire(qname))
    outcome = respond(match, Question(wire(qname), c.type_from_text(qtype)))
    return outcome and (outcome.rcode, [
        (names.to_text(one.name), c.type_to_text(one.rtype), one.ttl,
         [present.rdata_to_text(one.rtype, rdata) for rdata in one.rdatas()]) for one in outcome.answer], outcome.ttl)


# --- actions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "action"), [
    (".", Action.NXDOMAIN), ("*.", Action.NODATA), ("rpz-passthru.", Action.PASSTHRU), ("RPZ-Drop.", Action.DROP),
    ("rpz-tcp-only.", Action.TCP_ONLY), ("bad.test.", Action.PASSTHRU), ("other.test.", Action.DATA),
    ("*.garden.test.", Action.DATA),
])
def test_the_target_of_a_cname_is_the_action(target, action):
    assert zone(f"bad.test CNAME {target}\n").match_name(wire("bad.test.")).rule.action is action


@pytest.mark.parametrize(("records", "qname", "qtype", "result"), [
    ("a CNAME .\n", "A.", "A", (c.NXDOMAIN, [], 120)),
    ("a CNAME *.\n", "a.", "A", (c.NOERROR, [], 120)),
    ("a CNAME rpz-passthru.\n", "a.", "A", None),
    ("a CNAME rpz-drop.\n", "a.", "A", None),
    ("a CNAME rpz-tcp-only.\n", "a.", "A", None),
    ("a 5 A 192.0.2.1\na 5 A 192.0.2.2\na 9 TXT hi\n", "A.", "A",
     (c.NOERROR, [("A.", "A", 5, ["192.0.2.1", "192.0.2.2"])], 5)),
    ("a 5 A 192.0.2.1\na 9 TXT hi\n", "a.", "TXT", (c.NOERROR, [("a.", "TXT", 9, ['"hi"'])], 9)),
    ("a 5 A 192.0.2.1\n", "a.", "AAAA", (c.NOERROR, [], 120)),
    ("a 5 A 192.0.2.1\na 9 TXT hi\n", "a.", "ANY", (c.NOERROR, [("a.", "A", 5, ["192.0.2.1"])], 5)),
    ("*.a 5 A 192.0.2.1\n", "x.y.A.", "A", (c.NOERROR, [("x.y.A.", "A", 5, ["192.0.2.1"])], 5)),
    ("a 5 CNAME Garden.test.\n", "a.", "MX", (c.NOERROR, [("a.", "CNAME", 5, ["Garden.test."])], 5)),
    ("a 5 CNAME Garden.test.\n", "a.", "CNAME", (c.NOERROR, [("a.", "CNAME", 5, ["Garden.test."])], 5)),
    ("*.a 5 CNAME *.g.test.\n", "X.a.", "A", (c.NOERROR, [("X.a.", "CNAME", 5, ["X.a.g.test."])], 5)),
])
def test_the_answers_of_actions(records, qname, qtype, result):
    assert answer(records, qname, qtype) == result


def test_an_alias_that_makes_the_name_too_long_is_yxdomain():
    qname = ".".join(["x" * 63] * 3 + ["y" * 40]) + ".a."
    assert answer(f"*.a CNAME *.{'g' * 30}.test.\n", qname) == (c.YXDOMAIN, [], 60)


def test_the_answer_has_the_soa_of_the_zone_and_its_error_code_and_is_never_secure():
    made = zone("a CNAME .\n", ede=c.EDE_CENSORED)
    outcome = respond(made.match_name(wire("a.")), Question(wire("a."), c.A))
    assert [one.rtype for one in outcome.additional] == [c.SOA] and outcome.additional[0].name == ORIGIN
    assert outcome.ede == [(c.EDE_CENSORED, "")] and outcome.verdict == Verdict.INDETERMINATE
    made = compile_zone(ORIGIN, present.zone_from_text("a 5 CNAME .\n", ORIGIN), KEY, RpzOptions(ede=0))[0]
    outcome = respond(made.match_name(wire("a.")), Question(wire("a."), c.A))
    assert (outcome.additional, outcome.ede, outcome.rcode) == ([], [], c.NXDOMAIN)


def test_a_zone_may_have_one_action_for_all_its_rules():
    made = zone("a 5 A 192.0.2.1\n", override=Rule(Action.NODATA))
    assert made.match_name(wire("a.")).rule == Rule(Action.NODATA)


# --- triggers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "prefix"), [
    ("24.0.2.0.192", "192.0.2.0/24"), ("32.1.2.0.192", "192.0.2.1/32"), ("8.0.0.0.10", "10.0.0.0/8"),
    ("128.1.zz.db8.2001", "2001:db8::1/128"), ("48.zz.2.db8.2001", "2001:db8:2::/48"), ("16.zz.fe80", "fe80::/16"),
    ("128.8.7.6.5.4.3.2.1", "1:2:3:4:5:6:7:8/128"), ("1.zz", "::/1"), ("128.1.zz", "::1/128"),
    ("128.57.zz.DB8.2001", "2001:db8::57/128"), ("120.zz.3.2.1", "1:2:3::/120"),
])
def test_prefixes(labels, prefix):
    network = ipaddress.ip_network(prefix)
    assert parse_prefix([label.encode() for label in labels.split(".")]) == (
        network.network_address.packed, network.prefixlen)


@pytest.mark.parametrize("labels", [
    "24", "x.0.2.0.192", "33.1.2.0.192", "0.0.0.0.0", "024.0.2.0.192", "24.0.2.256.192", "24.0.2.0.01", "24.0.2.0",
    "129.1.zz", "64.zz.1.zz", "64.g.zz", "128.1.2.3.4.5.6.7", "128.1.2.3.4.5.6.7.8.9", "128.zz.1.2.3.4.5.6.7.8",
    "64.12345.zz", "300.zz",
])
def test_malformed_prefix_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"trigger|prefix length"):
        parse_prefix([label.encode() for label in labels.split(".")])


def test_each_kind_of_trigger():
    made = zone("bad.test CNAME .\n*.bad.test CNAME *.\n32.1.2.0.192.rpz-client-ip CNAME rpz-drop.\n"
                "24.0.100.51.198.rpz-ip CNAME .\n"
                "ns.bad.test.rpz-nsdname CNAME .\n*.evil.test.rpz-nsdname CNAME *.\n32.zz.db8.2001.rpz-nsip CNAME .\n")
    assert rule(made.match_name(wire("BAD.test."))) == (Trigger.QNAME, "BAD.test.", Action.NXDOMAIN)
    assert rule(made.match_name(wire("x.bad.test."))) == (Trigger.QNAME, "*.bad.test.", Action.NODATA)
    assert made.match_name(wire("test.")) is None
    assert rule(made.match_client(packed("192.0.2.1"))) == (Trigger.CLIENT_IP, "192.0.2.1/32", Action.DROP)
    assert rule(made.match_client(packed("::ffff:192.0.2.1"))) == (Trigger.CLIENT_IP, "192.0.2.1/32", Action.DROP)
    assert made.match_client(packed("192.0.2.2")) is None
    assert rule(made.match_address([packed("9.9.9.9"), packed("198.51.100.7")])) == (
        Trigger.IP, "198.51.100.0/24", Action.NXDOMAIN)
    assert rule(made.match_ns_name([wire("ns.bad.test.")])) == (Trigger.NSDNAME, "ns.bad.test.", Action.NXDOMAIN)
    assert rule(made.match_ns_name([wire("a.evil.test.")])) == (Trigger.NSDNAME, "*.evil.test.", Action.NODATA)
    assert made.match_ns_name([wire("bad.test.")]) is None
    assert rule(made.match_ns_address([packed("2001:db8::1")])) == (Trigger.NSIP, "2001:db8::/32", Action.NXDOMAIN)


def test_a_wildcard_at_the_top_matches_every_name():
    made = zone("* CNAME .\nwww.good.test CNAME rpz-passthru.\n")
    assert rule(made.match_name(wire("a.b.")))[1:] == ("*.", Action.NXDOMAIN)
    assert rule(made.match_name(wire("www.good.test.")))[1:] == ("www.good.test.", Action.PASSTHRU)


# --- precedence ---------------------------------------------------------------------------------------------------


def test_exact_names_precede_wildcards_and_longer_wildcards_shorter_ones():
    made = zone("*.test CNAME .\n*.a.test CNAME *.\nb.a.test CNAME rpz-drop.\na.test CNAME rpz-tcp-only.\n")
    found = {text: made.match_name(wire(text)).rule.action for text in ("x.test.", "a.test.", "x.a.test.", "b.a.test.",
                                                                        "x.y.a.test.")}
    assert list(found.values()) == [Action.NXDOMAIN, Action.TCP_ONLY, Action.NODATA, Action.DROP, Action.NODATA]
    assert made.match_name(wire("x.b.a.test.")) is None, "b.a.test exists, so it is the closest encloser (RFC 4592)"


def test_the_longest_prefix_decides_then_the_smallest_address():
    made = zone("8.0.0.0.10.rpz-ip CNAME .\n32.1.0.0.10.rpz-ip CNAME *.\n32.2.0.0.10.rpz-ip CNAME rpz-drop.\n"
                "127.zz.db8.2001.rpz-ip CNAME rpz-tcp-only.\n")
    addresses = [packed(text) for text in ("10.9.9.9", "10.0.0.2", "10.0.0.1", "2001:db8::1")]
    for seed in range(10):
        random.Random(seed).shuffle(addresses)
        assert made.match_address(addresses).owner == "10.0.0.1/32", "32 bits of IPv4 count as 128"
        assert made.match_address([a for a in addresses if len(a) == 16 or a[-1] == 9]).owner == "2001:db8::/127"


def test_the_smallest_name_server_name_decides():
    made = zone("ns.b.test.rpz-nsdname CNAME .\nns.a.test.rpz-nsdname CNAME *.\n*.z.a.test.rpz-nsdname CNAME .\n")
    tried = [wire("ns.b.test."), wire("x.z.a.test."), wire("ns.a.test.")]
    for seed in range(10):
        random.Random(seed).shuffle(tried)
        assert made.match_ns_name(tried).owner == "ns.a.test."


EVERY = {Trigger.CLIENT_IP: "32.1.2.0.192.rpz-client-ip", Trigger.QNAME: "a", Trigger.IP: "32.2.2.0.192.rpz-ip",
         Trigger.NSDNAME: "ns.rpz-nsdname", Trigger.NSIP: "32.3.2.0.192.rpz-nsip"}


def decide(zones):
    policy = PolicyZones(zones)
    first = policy.before(packed("192.0.2.1"), wire("a."))
    last = policy.after(first.match, [packed("192.0.2.2")], [wire("ns.")], [packed("192.0.2.3")])
    if first.final:
        assert last.match is first.match
    return first, last


@pytest.mark.parametrize("first", list(Trigger))
@pytest.mark.parametrize("second", list(Trigger))
def test_within_one_zone_the_kind_of_trigger_decides(first, second):
    made = zone("".join(f"{EVERY[one]} CNAME .\n" for one in {first, second}))
    assert decide([made])[1].match.trigger == min(first, second)


@pytest.mark.parametrize("first", list(Trigger))
@pytest.mark.parametrize("second", list(Trigger))
def test_between_zones_the_order_decides(first, second):
    zones = [zone(f"{EVERY[one]} CNAME .\n") for one in (first, second)]
    before, after = decide(zones)
    assert after.match.zone is zones[0] and after.match.trigger == first
    assert before.final == (first <= Trigger.QNAME)


def test_a_zone_that_only_logs_does_not_decide():
    logged, applied = zone("a CNAME .\n", log_only=True), zone("a CNAME *.\n")
    before, after = decide([logged, applied])
    assert before.match.zone is applied and [one.zone for one in before.observed] == [logged]
    assert after.observed == ()
    late = zone(EVERY[Trigger.IP] + " CNAME .\n", log_only=True)
    before, after = decide([late, applied])
    assert after.match.zone is applied and [str(one) for one in after.observed] == [
        "response policy zone rpz.example. IP 192.0.2.2/32 nxdomain"]


def test_without_a_match_the_query_is_resolved():
    assert PolicyZones().before(None, wire("a.")) == (None, True, ())
    made = PolicyZones([zone("b CNAME .\n32.2.2.0.192.rpz-ip CNAME .\n")])
    assert made.needs_answer and made.before(packed("::1"), wire("a.")) == (None, False, ())
    assert made.after(None, [], [], []) == (None, True, ())


# --- what is no rule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("records", "report"), [
    ("a CNAME rpz-unknown.\n", "a.rpz.example.: the action rpz-unknown. is unknown"),
    ("a DNAME b.\n", "a.rpz.example.: local data of type DNAME is not permitted"),
    ("a NS b.\n", "a.rpz.example.: local data of type NS is not permitted"),
    ("a CNAME .\na A 192.0.2.1\n", "a.rpz.example.: the trigger has a rule already; the first is kept"),
    ("a CNAME b.\na CNAME c.\n", "a.rpz.example.: it has several CNAME records"),
    ("33.1.2.0.192.rpz-ip CNAME .\n", "33.1.2.0.192.rpz-ip.rpz.example.: the prefix length 33 is outside 1..32"),
    ("24.1.2.0.192.rpz-ip CNAME .\n", "24.1.2.0.192.rpz-ip.rpz.example.: 192.0.2.1/24 has bits behind its prefix"),
    ("rpz-nsdname CNAME .\n", "rpz-nsdname.rpz.example.: the trigger has no name"),
    ("rpz-ip CNAME .\n", "rpz-ip.rpz.example.: an address trigger begins with a prefix length"),
    ("24.0.2.0.192.rpz-ip CNAME .\n24.0.2.0.192.RPZ-IP A 192.0.2.1\n",
     "24.0.2.0.192.rpz-ip.rpz.example.: the trigger has a rule already; the first is kept"),
])
def test_malformed_rules_are_reported_and_the_others_apply(records, report):
    made, errors = compiled(records + "good CNAME .\n")
    assert errors == [report]
    assert made.match_name(wire("good.")) is not None


def test_signatures_and_names_outside_are_ignored():
    made, errors = compiled("a CNAME .\na NSEC b.rpz.example. CNAME\nb.other. CNAME .\n"
                            "@ DNSKEY 257 3 13 AAAA\n@ TXT hello\n")
    assert errors == [] and made.match_name(wire("b.other.")) is None and made.soa.rtype == c.SOA


def test_reports_are_bounded_and_counted():
    compiler = ZoneCompiler(ORIGIN, KEY)
    for number in range(100):
        compiler.add_alias(wire(f"a{number}.rpz.example."), wire("rpz-x."), 60)
    assert (compiler.error_count, len(compiler.errors), compiler.count) == (100, 20, 0)


def test_equal_rules_are_stored_once():
    made = zone("".join(f"a{n} 60 A 192.0.2.1\n" for n in range(50)) + "b CNAME .\nc CNAME .\n")
    assert len(made.rules) == 2


@pytest.mark.parametrize("seed", range(10))
def test_prefixes_agree_with_the_standard_library(seed):
    rng = random.Random(seed)
    builder, networks = PrefixTableBuilder(1000), {}
    for number in range(1, 60):
        if rng.random() < 0.5:
            network = ipaddress.IPv4Network((rng.getrandbits(32) & 0x0F0F00FF, rng.randint(0, 32)), strict=False)
        else:
            network = ipaddress.IPv6Network((rng.getrandbits(16) << 112 | rng.getrandbits(8), rng.randint(0, 128)),
                                            strict=False)
        assert builder.add(network.network_address.packed, network.prefixlen, number) == (network not in networks)
        networks.setdefault(network, number)
    table = builder.finish()
    for _ in range(300):
        near = rng.choice(list(networks))
        address = near.network_address + rng.getrandbits(near.max_prefixlen - near.prefixlen or 1) % near.num_addresses
        holding = [one for one in networks if address.version == one.version and address in one]
        best = max(holding, key=lambda one: one.prefixlen)
        assert table.find(address.packed)[1:] == (best.prefixlen, networks[best])
    assert PrefixTableBuilder(1).finish().find(bytes(4)) is None
    with pytest.raises(ValueError, match="4 or 16"):
        table.find(b"abc")


def test_the_number_of_prefixes_is_bounded():
    builder = PrefixTableBuilder(1)
    builder.add(bytes(4), 8, 1)
    with pytest.raises(ValueError, match="more than 1"):
        builder.add(b"\x0a\0\0\0", 8, 1)


@pytest.mark.checkout
def test_the_example_zone_of_the_handbook():
    page = (Path(__file__).resolve().parents[4] / "docs" / "policy.md").read_text(encoding="utf-8")
    text = next(block for block in page.split("```") if "rpz-client-ip" in block and "$TTL" in block)
    made, errors = compiled(text.strip("\n"), soa="")
    assert errors == [] and made.soa is not None
    assert answer(text.strip("\n"), "x.walled.test.") == (c.NOERROR, [
        ("x.walled.test.", "CNAME", 300, ["x.walled.test.garden.example."])], 300)
    assert rule(made.match_name(wire("good.bad.test."))) == (Trigger.QNAME, "good.bad.test.", Action.PASSTHRU)
    assert made.match_address([packed("2001:db8:2::1")]).owner == "2001:db8:2::/48"
