"""The generator of one query: aliases, DNAME, what is cached and what is given to clients, failures, validation.

The validator here is a few lines that return the verdict that the test wants, because the tests check when it is called
and what follows from its verdict.
"""

import io

import pytest
from support.fakenet import hosts_from
from support.minet import COM_ZONE, EXAMPLE_ZONE, NET_ZONE, addresses, build, reply, scripted, standard

from resolver import limits
from resolver.effects import FailureKind, Need, Outcome, Purpose, Question
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.policy import PolicyPipeline
from resolver.policy.rpz_module import ResponsePolicyZones, RpzAliases
from resolver.policy.rpz_zone import RpzOptions, compile_zone
from resolver.policy.zones import OwnZones
from resolver.settings import CacheSettings, DnssecSettings, PolicySettings, Settings, replace
from resolver.settings.lists import RpzSettings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset
from resolver.zones import Mode, ServedZone, ZoneTable
from resolver.zones.load import read_zone


def with_example(zone, **more):
    return build(standard(a192_0_2_1=[("example.com.", zone)], a192_0_2_2=[("example.com.", zone)]), **more)


def texts(outcome):
    return [(names.to_text(rrset.name), c.type_to_text(rrset.rtype)) for rrset in outcome.answer]


# --- aliases ------------------------------------------------------------------------------------------------------


def test_an_alias_is_returned_with_its_target():
    m = build()
    outcome = m.ask("alias.example.com.")
    assert texts(outcome) == [("alias.example.com.", "CNAME"), ("www.example.com.", "A")]
    assert outcome.ttl == 300


def test_a_query_for_cname_does_not_follow_the_alias():
    outcome = build().ask("alias.example.com.", "CNAME")
    assert texts(outcome) == [("alias.example.com.", "CNAME")]


def test_a_cached_alias_is_followed():
    m = build()
    m.ask("alias.example.com.", "CNAME")
    before = len(m.net.log)
    assert addresses(m.ask("alias.example.com.")) == ["192.0.2.80"]
    assert [entry.qname for entry in m.net.log[before:]] == ["www.example.com."]
    assert m.ask("alias.example.com.").from_cache


def test_a_chain_over_three_zones():
    com = COM_ZONE + "two 60 IN NS ns.two\nns.two 60 IN A 192.0.2.22\n"
    net = NET_ZONE + "three 60 IN NS ns.three\nns.three 60 IN A 192.0.2.33\n"
    two = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.22\na 50 IN CNAME b.three.net.\n"
    three = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.33\nb 40 IN CNAME www.example.com.\n"
    m = build(standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)],
                       a192_0_2_22=[("two.com.", two)], a192_0_2_33=[("three.net.", three)]))
    outcome = m.ask("a.two.com.")
    assert texts(outcome) == [("a.two.com.", "CNAME"), ("b.three.net.", "CNAME"), ("www.example.com.", "A")]
    assert outcome.ttl == 40


def test_an_alias_to_a_name_that_does_not_exist():
    m = with_example(EXAMPLE_ZONE + "dangling 60 IN CNAME gone\naway 60 IN CNAME gone.net.\n")
    for name, target in (("dangling.example.com.", "gone.example.com."), ("away.example.com.", "gone.net.")):
        outcome = m.ask(name)
        assert outcome.rcode == c.NXDOMAIN
        assert texts(outcome) == [(name, "CNAME")]
        assert outcome.authority[0].rtype == c.SOA
        before = len(m.net.log)
        assert m.ask(target).rcode == c.NXDOMAIN
        assert m.ask(name).rcode == c.NXDOMAIN
        assert len(m.net.log) == before


def test_an_alias_to_a_name_without_that_type():
    outcome = build().ask("alias.example.com.", "MX")
    assert outcome.rcode == c.NOERROR
    assert texts(outcome) == [("alias.example.com.", "CNAME")]


def test_the_alias_has_the_spelling_of_the_query():
    outcome = build().ask("ALIAS.example.COM.")
    assert outcome.answer[0].name == names.from_text("ALIAS.example.COM.")


def test_a_cached_alias_does_not_answer_for_types_permitted_beside_it():
    """NSEC and RRSIG are the only types beside a CNAME (RFC 4035 section 2.5)."""
    m = with_example(EXAMPLE_ZONE + "alias 300 IN NSEC www.example.com. CNAME RRSIG NSEC\n")
    assert m.ask("alias.example.com.").rcode == c.NOERROR
    assert texts(m.ask("alias.example.com.", "NSEC")) == [("alias.example.com.", "NSEC")]


def test_an_alias_is_the_answer_to_any_from_the_servers_and_from_the_cache():
    """QTYPE * matches the CNAME, so the alias is not followed (RFC 1034 section 4.3.2)."""
    m = with_example(EXAMPLE_ZONE + "itself 300 IN CNAME itself\n")
    for _ in range(2):
        assert texts(m.ask("alias.example.com.", "ANY")) == [("alias.example.com.", "CNAME")]
        assert m.ask("alias.example.com.").rcode == c.NOERROR
        outcome = m.ask("itself.example.com.", "ANY")
        assert (outcome.rcode, texts(outcome)) == (c.NOERROR, [("itself.example.com.", "CNAME")])
        assert m.ask("itself.example.com.").rcode == c.SERVFAIL


# --- DNAME --------------------------------------------------------------------------------------------------------


DNAME_ZONE = EXAMPLE_ZONE + "old 600 IN DNAME new.example.com.\nhost.new 60 IN A 192.0.2.55\n"


def test_alias_made_by_a_dname_is_an_answer_though_its_target_does_not_exist() -> None:
    """The server follows the alias and says NXDOMAIN, which is about the target (RFC 6604 section 3)."""
    m = with_example(DNAME_ZONE)
    outcome = m.ask("none.old.example.com.", "CNAME")
    assert outcome.rcode == c.NOERROR
    assert texts(outcome)[:2] == [("old.example.com.", "DNAME"), ("none.old.example.com.", "CNAME")]


def test_a_dname_is_used_and_a_cname_made_from_it():
    m = with_example(DNAME_ZONE)
    outcome = m.ask("host.old.example.com.")
    assert addresses(outcome) == ["192.0.2.55"]
    assert texts(outcome) == [("old.example.com.", "DNAME"), ("host.old.example.com.", "CNAME"),
                              ("host.new.example.com.", "A")]
    assert outcome.answer[1].ttl == 600


def test_an_unvalidated_dname_is_not_taken_from_the_cache():
    m = with_example(DNAME_ZONE)
    m.ask("host.old.example.com.")
    before = len(m.net.log)
    m.ask("other.old.example.com.")
    assert m.net.asked(qname="other.old.example.com.")
    assert len(m.net.log) > before


def test_a_validated_dname_serves_other_names():
    m = with_example(DNAME_ZONE)
    m.mesh._context.validator = Validator(Verdict.SECURE).validate
    m.ask("host.old.example.com.")
    before = len(m.net.log)
    outcome = m.ask("other.old.example.com.")
    assert texts(outcome)[:2] == [("old.example.com.", "DNAME"), ("other.old.example.com.", "CNAME")]
    assert outcome.rcode == c.NXDOMAIN
    assert all(entry.qname.endswith("new.example.com.") for entry in m.net.log[before:])


def test_a_dname_that_a_signature_does_not_cover_serves_the_name_that_was_asked_for_only():
    """It could be forged for a whole subtree by one packet: the servers are asked for each name."""
    m = with_example(DNAME_ZONE)
    m.mesh._context.validator = Validator(Verdict.INSECURE).validate
    m.ask("host.old.example.com.")
    assert m.ask("other.old.example.com.").rcode == c.NXDOMAIN
    assert m.net.asked(qname="other.old.example.com.")


def test_a_dname_does_not_rename_its_own_owner():
    m = with_example(DNAME_ZONE + "old 60 IN A 192.0.2.56\n")
    assert addresses(m.ask("old.example.com.")) == ["192.0.2.56"]
    m.ask("host.old.example.com.")
    assert texts(m.ask("old.example.com.", "DNAME")) == [("old.example.com.", "DNAME")]


def test_a_dname_that_makes_the_name_too_long_is_yxdomain():
    target = ".".join(["t" * 60] * 3)
    m = with_example(EXAMPLE_ZONE + f"old 600 IN DNAME {target}.example.com.\n")
    assert m.ask("x" * 60 + ".old.example.com.").rcode == c.YXDOMAIN
    m.mesh._context.validator = Validator(Verdict.SECURE).validate
    m.ask("a.old.example.com.")
    before = len(m.net.log)
    assert m.ask("y" * 60 + ".old.example.com.").rcode == c.YXDOMAIN
    assert len(m.net.log) == before


def test_a_cname_that_contradicts_its_dname_is_replaced():
    m = build()
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(lambda q, t, packet: reply(
        packet, ["old.example.com. 60 DNAME new.example.com.", f"{q} 60 CNAME evil.example.com.",
                 "evil.example.com. 60 A 6.6.6.6", "host.new.example.com. 60 A 192.0.2.55"]))
    assert addresses(m.ask("host.old.example.com.")) == ["192.0.2.55"]


def test_a_question_for_cname_below_a_dname_gets_both_and_keeps_no_cname():
    m = with_example(DNAME_ZONE)
    assert texts(m.ask("host.old.example.com.", "CNAME")) == [
        ("old.example.com.", "DNAME"), ("host.old.example.com.", "CNAME")]
    name = names.from_text("host.old.example.com.")
    assert m.store.rrsets.find(name, c.CNAME, m.net.time(), min_trust=0) is None
    assert texts(m.ask("host.old.example.com."))[0] == ("old.example.com.", "DNAME")


def test_the_denial_of_an_aliass_target_is_not_kept_for_the_alias():
    # The minimised question for b.example.com meets the wildcard, whose target has no address.
    m = with_example(EXAMPLE_ZONE + "*.w 60 IN CNAME t\nt 60 IN TXT x\na.b.w 60 IN A 192.0.2.70\n")
    assert addresses(m.ask("a.x.w.example.com.")) == []
    assert texts(m.ask("x.w.example.com.")) == [("x.w.example.com.", "CNAME")]


LONG = EXAMPLE_ZONE + "".join(f"c{n} 60 IN CNAME c{n + 1}\n" for n in range(40)) + "c40 60 IN A 192.0.2.99\n"


def test_cached_aliases_are_counted_too():
    """Each of them was asked for by itself, so all are at hand at once."""
    m = with_example(LONG)
    most = limits.MAX_ALIASES
    assert addresses(m.ask("c40.example.com.")) == ["192.0.2.99"]
    for number in range(40):
        assert m.ask(f"c{number}.example.com.", "CNAME").rcode == c.NOERROR
    before = len(m.net.log)
    assert addresses(m.ask(f"c{40 - most}.example.com.")) == ["192.0.2.99"]
    assert m.ask(f"c{39 - most}.example.com.").rcode == c.SERVFAIL
    assert m.ask("c0.example.com.").rcode == c.SERVFAIL
    assert len(m.net.log) == before


def test_aliases_are_counted_and_not_replies():
    zone = EXAMPLE_ZONE + "".join(f"c{n} 60 IN CNAME c{n + 1}\n" for n in range(40)) + "c40 60 IN A 192.0.2.99\n"
    m = with_example(zone)
    assert m.ask("c0.example.com.").rcode == c.SERVFAIL
    assert addresses(m.ask("c28.example.com.")) == ["192.0.2.99"]
    assert m.ask("c26.example.com.").rcode == c.SERVFAIL


# --- what is kept -------------------------------------------------------------------------------------------------


def test_trust_follows_the_section_and_the_aa_bit():
    m = build()
    m.ask("www.example.com.")
    now = m.net.time()
    find = m.store.rrsets.find
    assert find(names.from_text("www.example.com."), c.A, now, min_trust=0).trust == Trust.ANSWER
    assert find(names.from_text("example.com."), c.NS, now, min_trust=0).trust == Trust.GLUE
    assert find(names.from_text("ns1.example.com."), c.A, now, min_trust=0).trust == Trust.GLUE
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(
        lambda q, t, packet: reply(packet, [f"{q} 60 A 192.0.2.80"], flags=0))
    m.ask("x.example.com.")
    assert find(names.from_text("x.example.com."), c.A, now, min_trust=0).trust == Trust.NONAUTH_ANSWER


def test_answers_to_any_and_rrsig_are_not_cached_as_such():
    m = build()
    outcome = m.ask("ns1.example.com.", "ANY")
    assert texts(outcome) == [("ns1.example.com.", "A")]
    assert m.store.rrsets.find(names.from_text("ns1.example.com."), c.ANY, m.net.time(), min_trust=0) is None


def test_data_with_ttl_zero_is_returned_but_not_cached():
    m = with_example(EXAMPLE_ZONE + "zero 0 IN A 192.0.2.60\n")
    assert addresses(m.ask("zero.example.com.")) == ["192.0.2.60"]
    before = len(m.net.log)
    assert addresses(m.ask("zero.example.com.")) == ["192.0.2.60"]
    assert len(m.net.log) == before + 1


def with_cache(**cache):
    return build(settings=Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(**cache)))


def test_the_first_client_sees_the_greatest_ttl_as_all_others_do():
    m = with_cache(max_ttl=120, max_negative_ttl=60)
    for from_cache in (False, True):
        outcome = m.ask("www.example.com.")
        assert (outcome.from_cache, outcome.ttl, outcome.answer[0].ttl) == (from_cache, 120, 120)
        denial = m.ask("none.example.com.")
        assert (denial.from_cache, denial.rcode, denial.ttl) == (from_cache, c.NXDOMAIN, 60)


@pytest.mark.parametrize(("verdict", "ttl"), [(Verdict.SECURE, 300), (Verdict.INSECURE, 600)])
def test_the_least_ttl_prolongs_nothing_that_a_signature_bounds(verdict, ttl):
    m = with_cache(min_ttl=600)
    m.mesh._context.validator = Validator(verdict).validate
    for _ in range(2):
        assert m.ask("www.example.com.").ttl == ttl


@pytest.mark.parametrize("ask_for_ns", [False, True])
def test_the_least_ttl_prolongs_no_delegation(ask_for_ns):
    """Not even when the child zone answers for its NS set (ghost domains): the parent's TTL is the end."""
    com = COM_ZONE.replace("example 7200 IN NS", "example 60 IN NS")
    example = EXAMPLE_ZONE.replace("@ 7200 IN NS", "@ 60 IN NS")
    m = build(standard(a192_5_6_30=[("com.", com)], a192_0_2_1=[("example.com.", example)],
                       a192_0_2_2=[("example.com.", example)]),
              settings=Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(min_ttl=600)))
    assert m.ask("www.example.com.").ttl == 600
    if ask_for_ns:
        m.net.sleep(m.mesh, 30)
        assert m.ask("example.com.", "NS").answer[0].ttl <= 30
    gone = "".join(line for line in COM_ZONE.splitlines(True) if not line.startswith("example"))
    m.net.hosts["192.5.6.30"] = hosts_from({"x": Authority([Zone.from_text("com.", gone)])})["x"]
    m.net.sleep(m.mesh, 61)
    assert m.ask("deep.sub.tree.example.com.").rcode == c.NXDOMAIN


def test_failures_are_cached_for_their_time_only():
    m = build()
    host = m.net.hosts.pop("192.0.2.1"), m.net.hosts.pop("192.0.2.2")
    assert m.ask("www.example.com.").rcode == c.SERVFAIL
    m.net.hosts["192.0.2.1"], m.net.hosts["192.0.2.2"] = host
    assert m.ask("www.example.com.").failure.kind is FailureKind.CACHED_ERROR
    m.net.sleep(m.mesh, m.settings.cache.servfail_ttl + 1)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]


def test_a_jump_of_the_clock_ends_what_was_kept_and_no_timer():
    m = build()
    m.ask("www.example.com.")
    m.net.shift += 10 * 365 * 86400
    before = len(m.net.log)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert len(m.net.log) > before


def test_other_classes_are_neither_resolved_nor_answered_with_data_of_class_in():
    m = build()
    m.ask("www.example.com.")
    found = []
    m.mesh.submit(Question(names.from_text("www.example.com."), c.A, c.CH), on_done=found.append)
    assert found[0].failure is not None
    assert found[0].answer == []
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]


# --- validation's place -------------------------------------------------------------------------------------------


class Validator:
    """Returns the verdicts of a list in turn, sets them on the RRsets, and records its calls."""

    def __init__(self, *verdicts):
        self.verdicts = list(verdicts)
        self.seen = []

    def validate(self, question, raw, context, task):
        self.seen.append((names.to_text(question.qname), raw.server is None, raw.server and raw.server.address))
        verdict = self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]
        for rrset in raw.answer:
            rrset.verdict = verdict
        bogus = verdict == Verdict.BOGUS
        return verdict, c.EDE_SIGNATURE_EXPIRED if bogus else 0, "too old" if bogus else "fine"
        yield


def validated(*verdicts, **more):
    m = build(**more)
    validator = Validator(*verdicts)
    m.mesh._context.validator = validator.validate
    m.validator = validator
    return m


def test_secure_data_is_kept_as_such_and_not_validated_again():
    m = validated(Verdict.SECURE)
    assert m.ask("www.example.com.").verdict == Verdict.SECURE
    again = m.ask("www.example.com.")
    assert (again.verdict, again.from_cache) == (Verdict.SECURE, True)
    assert len(m.validator.seen) == 1
    kept = m.store.rrsets.find(names.from_text("www.example.com."), c.A, m.net.time())
    assert (kept.trust, kept.verdict) == (Trust.VALIDATED, Verdict.SECURE)


OUT = EXAMPLE_ZONE + "out 60 IN CNAME x.net.\n"


def test_a_chain_has_the_status_of_its_weakest_step():
    m = with_example(OUT)
    m.mesh._context.validator = Validator(Verdict.SECURE, Verdict.INSECURE).validate
    assert m.ask("out.example.com.").verdict == Verdict.INSECURE


def test_a_chain_is_no_more_secure_than_its_first_step():
    com = NET_ZONE + "x 60 IN A 192.0.2.71\n"
    m = build(standard(a192_5_6_31=[("net.", com)], a192_0_2_1=[("example.com.", OUT)],
                       a192_0_2_2=[("example.com.", OUT)]))
    m.mesh._context.validator = Validator(Verdict.INSECURE, Verdict.SECURE).validate
    for from_cache in (False, True):
        outcome = m.ask("out.example.com.")
        assert (addresses(outcome), outcome.from_cache) == (["192.0.2.71"], from_cache)
        assert outcome.verdict == Verdict.INSECURE
    assert m.ask("x.net.").verdict == Verdict.SECURE


def test_bogus_data_is_tried_once_more_at_another_server():
    m = validated(Verdict.BOGUS, Verdict.SECURE)
    outcome = m.ask("www.example.com.")
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE)
    servers = [server for _, _, server in m.validator.seen]
    assert sorted(servers) == ["192.0.2.1", "192.0.2.2"]


def test_bogus_data_everywhere_is_servfail_with_its_reason_and_is_remembered():
    m = validated(Verdict.BOGUS)
    outcome = m.ask("www.example.com.")
    assert (outcome.rcode, outcome.answer) == (c.SERVFAIL, [])
    assert outcome.failure.kind is FailureKind.BOGUS
    assert outcome.ede == [(c.EDE_SIGNATURE_EXPIRED, "too old")]
    assert m.store.rrsets.find(names.from_text("www.example.com."), c.A, m.net.time()) is None
    before = len(m.net.log)
    assert m.ask("www.example.com.").failure.kind is FailureKind.BOGUS
    assert len(m.net.log) == before
    m.net.sleep(m.mesh, m.settings.cache.bogus_ttl + 1)
    assert len(m.validator.seen) == 2
    m.ask("www.example.com.")
    assert len(m.validator.seen) == 4


def test_a_client_that_checks_itself_gets_the_data_unvalidated():
    m = validated(Verdict.BOGUS)
    m.ask("www.example.com.")
    outcome = m.ask("www.example.com.", cd=True)
    assert addresses(outcome) == ["192.0.2.80"]
    assert len(m.validator.seen) == 2


def test_data_kept_unvalidated_is_validated_before_it_is_shown():
    m = validated(Verdict.SECURE)
    m.ask("www.example.com.", cd=True)
    assert m.validator.seen == []
    before = len(m.net.log)
    assert m.ask("www.example.com.").verdict == Verdict.SECURE
    assert m.validator.seen == [("www.example.com.", True, None)]
    assert len(m.net.log) == before


def test_cached_data_that_turns_out_bogus_is_fetched_anew():
    m = validated(Verdict.BOGUS, Verdict.SECURE)
    m.ask("www.example.com.", cd=True)
    before = len(m.net.log)
    assert m.ask("www.example.com.").verdict == Verdict.SECURE
    assert len(m.net.log) == before + 1


def test_the_validator_can_submit_sub_queries():
    m = build()

    def validate(question, raw, context, task):
        if question.qtype == c.A:
            keys = yield Need(Question(names.from_text("example.com."), c.DNSKEY), Purpose.DNSSEC)
            assert isinstance(keys, Outcome)
        return Verdict.INSECURE, 0, "no keys"

    m.mesh._context.validator = validate
    assert m.ask("www.example.com.").verdict == Verdict.INSECURE
    assert m.net.asked(qtype=c.DNSKEY)


def test_addresses_of_name_servers_are_not_validated():
    com = COM_ZONE + "other 7200 IN NS ns.other.net.\n"
    net = NET_ZONE + "other 7200 IN NS ns.other\nns.other 7200 IN A 192.0.2.9\n"
    head = "@ 60 IN SOA ns.other.net. n 1 2 3 4 5\n@ 60 IN NS ns.other.net.\n"
    zones = [("other.com.", head + "www 60 IN A 192.0.2.90\n"), ("other.net.", head + "ns 60 IN A 192.0.2.9\n")]
    m = build(standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)], a192_0_2_9=zones))
    validator = Validator(Verdict.INSECURE)
    m.mesh._context.validator = validator.validate
    assert addresses(m.ask("www.other.com.")) == ["192.0.2.90"]
    assert [name for name, _, _ in validator.seen] == ["www.other.com."]


# --- local answers in a chain -------------------------------------------------------------------------------------


def test_an_alias_into_a_local_zone_ends_there():
    m = with_example(EXAMPLE_ZONE + "printer 60 IN CNAME printer.home.arpa.\n")
    target = names.from_text("printer.home.arpa.")

    class Policy:
        def answer(self, question, earlier=()):
            if question.key[0] != target:
                return None
            return Outcome(question, c.NOERROR, [RRset(target, c.A, 30, [b"\x0a\0\0\1"])], [], Verdict.INSECURE, 30)

        answer_alias = answer

        def changes(self, question):
            return self.answer(question) is not None

    m.mesh._context.policy = Policy()
    outcome = m.ask("printer.example.com.")
    assert texts(outcome) == [("printer.example.com.", "CNAME"), ("printer.home.arpa.", "A")]
    assert outcome.ttl == 30


def with_policy(m, **policy):
    m.mesh._context.policy = PolicyPipeline(replace(m.settings, policy=PolicySettings(**policy))).views[0]
    return m


def test_a_local_alias_that_leads_out_is_followed():
    m = with_policy(with_example(EXAMPLE_ZONE), local_zones=("here. static",),
                    local_data=("www.here. 60 CNAME alias.example.com.", "end.here. 60 CNAME none.example.com."))
    for _ in range(2):
        outcome = m.ask("www.here.")
        assert texts(outcome) == [("www.here.", "CNAME"), ("alias.example.com.", "CNAME"), ("www.example.com.", "A")]
        assert (outcome.rcode, outcome.ttl) == (c.NOERROR, 60)
        assert m.ask("end.here.").rcode == c.NXDOMAIN
    assert texts(m.ask("www.here.", "CNAME")) == [("www.here.", "CNAME")]


def with_modules(m, *modules):
    m.mesh._context.policy = PolicyPipeline(m.settings, (), modules).views[0]
    return m


def test_a_policy_zone_is_named_behind_aliases():
    """Its SOA and extended error, as for a name that is asked for itself; the match may be an alias again."""
    origin = names.from_text("rpz.example.")
    rules = ("$TTL 60\n@ SOA ns.example. admin.example. 7 3600 600 86400 120\n@ NS ns.example.\n"
             "www.example.com CNAME .\nmoved.here CNAME b.example.com.\n")
    made, errors = compile_zone(origin, present.zone_from_text(rules, origin), bytes(16),
                                RpzOptions(ede=c.EDE_BLOCKED))
    assert errors == []
    zones = ResponsePolicyZones([RpzSettings(name="rpz.example", file="unused")])
    zones.replace({"rpz.example": made})
    m = with_example(EXAMPLE_ZONE + "b 60 IN A 192.0.2.81\nout 60 IN CNAME moved.here.\n")
    with_modules(m, zones, RpzAliases(zones))
    for name, rcode, chain in (
        ("alias.example.com.", c.NXDOMAIN, ["alias.example.com."]),
        ("moved.here.", c.NOERROR, ["moved.here.", "b.example.com."]),
        ("out.example.com.", c.NOERROR, ["out.example.com.", "moved.here.", "b.example.com."]),
    ):
        for _ in range(2):
            outcome = m.ask(name)
            assert (outcome.rcode, [names.to_text(rrset.name) for rrset in outcome.answer]) == (rcode, chain), name
            assert [(one.name, one.rtype) for one in outcome.additional] == [(origin, c.SOA)], name
            assert outcome.ede == [(c.EDE_BLOCKED, "")], name


def test_a_dname_of_an_own_zone_renames_several_names_of_a_chain():
    origin = names.from_text("own.here.")
    text = ("$TTL 300\n@ SOA ns host 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\nd DNAME e\nout DNAME example.com.\n"
            "a.e CNAME b.d\nb.e A 192.0.2.66\nx.e CNAME y.d\ny.e CNAME far.out\nz.e A 192.0.2.67\n"
            "l DNAME k\nk DNAME l\n")
    table = ZoneTable([ServedZone(origin, Mode.AUTHORITATIVE)], lambda: 0)
    table.put(origin, read_zone(io.StringIO(text), "zone", origin), 0)
    m = with_modules(with_example(EXAMPLE_ZONE + "far 60 IN CNAME z.d.own.here.\n"), OwnZones(table))
    dname = [("d.own.here.", "DNAME")]
    assert texts(m.ask("a.d.own.here.")) == [
        *dname, ("a.d.own.here.", "CNAME"), ("a.e.own.here.", "CNAME"), ("b.d.own.here.", "CNAME"),
        ("b.e.own.here.", "A")]
    outcome = m.ask("x.d.own.here.")  # through example.com. and back
    assert addresses(outcome) == ["192.0.2.67"] and outcome.rcode == c.NOERROR, outcome
    assert texts(outcome)[:4] == [*dname, ("x.d.own.here.", "CNAME"), ("x.e.own.here.", "CNAME"),
                                  ("y.d.own.here.", "CNAME")]
    assert len(set(texts(outcome))) == len(outcome.answer), "each DNAME is shown once"
    assert m.ask("n.l.own.here.").rcode == c.SERVFAIL, "a loop of two DNAMEs"


def test_a_chain_that_begins_with_a_local_alias_is_not_secure():
    m = with_policy(with_example(EXAMPLE_ZONE), local_zones=("here. static",),
                    local_data=("www.here. 60 CNAME www.example.com.",))
    m.mesh._context.validator = Validator(Verdict.SECURE).validate
    outcome = m.ask("www.here.")
    assert (addresses(outcome), outcome.verdict) == (["192.0.2.80"], Verdict.INSECURE)


def test_local_aliases_are_counted():
    m = with_policy(build(), local_zones=("here. static",), local_data=(
        *(f"c{number}.here. 60 CNAME c{number + 1}.here." for number in range(20)), "c20.here. 60 A 192.0.2.98"))
    most = limits.MAX_ALIASES
    assert addresses(m.ask(f"c{20 - most}.here.")) == ["192.0.2.98"]
    assert m.ask("c0.here.").rcode == c.SERVFAIL


def test_aliases_between_local_and_public_zones():
    m = with_policy(with_example(EXAMPLE_ZONE + "back 60 IN CNAME in.here.\n"), local_zones=("here. static",),
                    local_data=("www.here. 60 CNAME back.example.com.", "in.here. 60 CNAME www.example.com."))
    outcome = m.ask("www.here.")
    assert texts(outcome)[-1] == ("www.example.com.", "A")
    assert len(outcome.answer) == 4


def test_local_aliases_that_loop():
    # RFC 1034 section 3.6.2: an error.
    m = with_policy(with_example(EXAMPLE_ZONE + "back 60 IN CNAME www.here.\n"), local_zones=("here. static",),
                    local_data=("www.here. 60 CNAME back.example.com.", "self.here. 60 CNAME self.here."))
    for name in ("www.here.", "self.here."):
        outcome = m.ask(name)
        assert (outcome.rcode, outcome.answer) == (c.SERVFAIL, [])


def test_a_loop_through_dnames_is_shown_once():
    m = with_example(EXAMPLE_ZONE + "d 60 IN DNAME e\ne 60 IN DNAME d\n")
    outcome = m.ask("x.d.example.com.")
    assert outcome.rcode == c.SERVFAIL
    assert texts(outcome) == [("d.example.com.", "DNAME"), ("x.d.example.com.", "CNAME"),
                              ("e.example.com.", "DNAME"), ("x.e.example.com.", "CNAME")]


@pytest.mark.parametrize("seed", range(5))
def test_every_seed_gives_the_same_answer(seed):
    m = build(seed=seed)
    assert addresses(m.ask("alias.example.com.")) == ["192.0.2.80"]
