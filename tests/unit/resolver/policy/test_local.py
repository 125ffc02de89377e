"""Local answers: special-use names, hosts, local zones; and names that must be resolved."""

import pytest

from resolver.effects import Question
from resolver.policy import PolicyPipeline
from resolver.policy.local import special_zones
from resolver.query import ActionKind, Query
from resolver.settings import (
    DnssecSettings,
    ForwardZone,
    HostEntry,
    PolicySettings,
    ServerSettings,
    Settings,
    StubZone,
)
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names


def ask(settings, name, rtype=c.A, rclass=c.IN, hosts=()):
    """The outcome of the local policy; None: the name is resolved."""
    return PolicyPipeline(settings, hosts).answer(Question(names.from_text(name), rtype, rclass))


def data(outcome):
    """(type, rdatas) of each RRset of the answer."""
    return [(rrset.rtype, rrset.rdatas()) for rrset in outcome.answer]


DEFAULT = Settings()


def local(*zones, records=(), hosts=()):
    """Settings with these local zones ("name kind"), local-data records and hosts."""
    return Settings(policy=PolicySettings(local_zones=zones, local_data=records, hosts=hosts))


@pytest.mark.parametrize("name", ["example.", ".", "arpa.", "in-addr.arpa.", "8.8.8.8.in-addr.arpa.", "com.", "local."])
@pytest.mark.parametrize("rtype", [c.A, c.DS, c.SOA, c.ANY])
def test_ordinary_names_are_resolved(name, rtype):
    assert ask(DEFAULT, name, rtype) is None


@pytest.mark.parametrize("name", ["localhost.", "LocalHost.", "a.b.localhost."])
def test_names_below_localhost_are_loopback_addresses(name):
    assert data(ask(DEFAULT, name, c.A)) == [(c.A, [b"\x7f\0\0\1"])]
    assert data(ask(DEFAULT, name, c.AAAA)) == [(c.AAAA, [bytes(15) + b"\1"])]
    other = ask(DEFAULT, name, c.MX)
    assert (other.rcode, other.answer, [rrset.rtype for rrset in other.authority]) == (c.NOERROR, [], [c.SOA])


def test_the_answer_has_the_letter_case_of_the_question_and_is_never_secure():
    outcome = ask(DEFAULT, "WwW.LocalHost.")
    assert outcome.answer[0].name == names.from_text("WwW.LocalHost.")
    assert outcome.verdict == Verdict.INDETERMINATE
    assert outcome.authoritative and ask(DEFAULT, "x.invalid.").authoritative, "RFC 6303 section 3"
    assert outcome.answer[0].trust == Trust.CONFIGURED


@pytest.mark.parametrize(
    "name",
    [
        "a.invalid.",
        "x.test.",
        "foo.onion.",
        "b.alt.",
        "h.home.arpa.",
        "9.10.in-addr.arpa.",
        "1.16.172.in-addr.arpa.",
        "1.31.172.in-addr.arpa.",
        "1.64.100.in-addr.arpa.",
        "a.d.f.ip6.arpa.",
    ],
)
def test_special_names_do_not_exist(name):
    outcome = ask(DEFAULT, name, c.TXT)
    assert outcome.rcode == c.NXDOMAIN
    [soa] = outcome.authority
    assert soa.rtype == c.SOA and names.is_subdomain(names.from_text(name), soa.name)


@pytest.mark.parametrize(
    "name", ["1.15.172.in-addr.arpa.", "1.32.172.in-addr.arpa.", "1.63.100.in-addr.arpa.", "e.f.ip6.arpa."]
)
def test_reverse_names_outside_the_private_ranges_are_resolved(name):
    assert ask(DEFAULT, name, c.PTR) is None


def test_empty_zones_have_the_apex_records_of_rfc_6303():
    apex = names.from_text("10.in-addr.arpa.")
    assert data(ask(DEFAULT, "10.in-addr.arpa.", c.NS)) == [(c.NS, [apex])]
    [soa] = ask(DEFAULT, "10.in-addr.arpa.", c.SOA).answer
    assert soa.rdata(0).startswith(apex)
    assert ask(DEFAULT, "10.in-addr.arpa.", c.A).rcode == c.NOERROR


def test_ds_of_a_reverse_zone_belongs_to_the_parent():
    assert ask(DEFAULT, "10.in-addr.arpa.", c.DS) is None
    assert ask(DEFAULT, "1.10.in-addr.arpa.", c.DS).rcode == c.NXDOMAIN
    assert ask(DEFAULT, "onion.", c.DS).rcode == c.NOERROR


def test_ds_of_a_local_zone_belongs_to_the_zone_above():
    settings = local("corp.example. static", "sub.corp.example. refuse", "ds.example. static",
                     records=("corp.example. 60 IN A 192.0.2.1", "ds.example. 60 IN DS 1 13 2 " + "ab" * 32))
    assert ask(settings, "corp.example.", c.DS) is None
    assert ask(settings, "x.corp.example.", c.DS).rcode == c.NXDOMAIN
    below = ask(settings, "sub.corp.example.", c.DS)
    assert below.rcode == c.NXDOMAIN and below.authority[0].name == names.from_text("corp.example.")
    assert ask(settings, "ds.example.", c.DS).answer[0].rtype == c.DS
    assert ask(local(". static"), ".", c.DS) is None


def test_loopback_addresses_have_a_name():
    for address in ("127.0.0.1", "::1"):
        reverse = names.to_text(names.reverse_address(address))
        assert data(ask(DEFAULT, reverse, c.PTR)) == [(c.PTR, [names.from_text("localhost.")])]


def test_special_use_zones_can_be_disabled():
    off = Settings(policy=PolicySettings(special_use_domains=False))
    assert all(ask(off, zone) is None for zone, _ in special_zones())


@pytest.mark.parametrize(
    "settings",
    [
        Settings(forward=(ForwardZone("10.IN-ADDR.arpa.", ("192.0.2.1",)),)),
        Settings(stub=(StubZone("10.in-addr.arpa", ("192.0.2.1",)),)),
        Settings(dnssec=DnssecSettings(trust_anchors=("10.in-addr.arpa. DS 1 13 2 ab",))),
    ],
)
def test_names_configured_for_resolution_are_not_answered_locally(settings):
    assert ask(settings, "1.10.in-addr.arpa.", c.PTR) is None
    assert ask(settings, "10.in-addr.arpa.", c.SOA) is None
    assert ask(settings, "1.168.192.in-addr.arpa.", c.PTR).rcode == c.NXDOMAIN


def test_special_names_stay_local_with_a_forwarder_for_the_root():
    settings = Settings(forward=(ForwardZone(".", ("192.0.2.1",)),))
    assert ask(settings, "x.onion.").rcode == c.NXDOMAIN


def test_hosts_are_answered_forward_and_reverse():
    settings = local(hosts=(HostEntry("Printer.lan", ("10.0.0.5", "fd00::5")), HostEntry("other.lan", ("10.0.0.5",))))
    assert data(ask(settings, "printer.LAN.")) == [(c.A, [b"\n\0\0\5"])]
    assert len(ask(settings, "printer.lan.", c.AAAA).answer) == 1
    missing = ask(settings, "printer.lan.", c.MX)
    assert (missing.rcode, missing.answer) == (c.NOERROR, [])
    reverse = names.to_text(names.reverse_address("10.0.0.5"))
    assert data(ask(settings, reverse, c.PTR)) == [(c.PTR, [names.from_text("Printer.lan.")])]
    assert ask(settings, "lan.") is None
    assert ask(settings, "sub.printer.lan.") is None


def test_hosts_from_a_file_are_merged():
    outcome = ask(
        local(hosts=(HostEntry("a.", ("10.0.0.1",)),)), "a.", hosts=(HostEntry("a.", ("10.0.0.2", "10.0.0.1")),)
    )
    assert data(outcome) == [(c.A, [b"\n\0\0\1", b"\n\0\0\2"])]


ZONE_RECORDS = ("www.corp. 60 IN A 192.0.2.1", 'a.b.corp. IN TXT "x"', "alias.corp. CNAME www.example.")


def test_static_zone():
    settings = local("corp. static", records=ZONE_RECORDS)
    outcome = ask(settings, "www.corp.")
    assert (data(outcome), outcome.ttl) == ([(c.A, [b"\xc0\0\2\1"])], 60)
    assert ask(settings, "www.corp.", c.AAAA).rcode == c.NOERROR
    assert ask(settings, "none.corp.").rcode == c.NXDOMAIN
    assert ask(settings, "b.corp.").rcode == c.NOERROR, "an empty non-terminal exists"
    assert ask(settings, "corp.").rcode == c.NOERROR
    assert data(ask(settings, "alias.corp.")) == [(c.CNAME, [names.from_text("www.example.")])]
    assert ask(settings, "xcorp.") is None


@pytest.mark.parametrize(
    ("kind", "existing", "missing"),
    [
        ("nodata", c.NOERROR, c.NOERROR),
        ("nxdomain", c.NXDOMAIN, c.NXDOMAIN),
        ("refuse", c.NOERROR, c.REFUSED),
        ("always_refuse", c.REFUSED, c.REFUSED),
        ("always_nxdomain", c.NXDOMAIN, c.NXDOMAIN),
        ("always_nodata", c.NOERROR, c.NOERROR),
        ("always_transparent", None, None),
        ("always_null", c.NOERROR, c.NOERROR),
        ("block_a", c.NOERROR, c.NOERROR),
        ("inform", c.NOERROR, None),
        ("static", c.NOERROR, c.NXDOMAIN),
        ("", c.NOERROR, c.NXDOMAIN),
        ("transparent", c.NOERROR, None),
    ],
)
def test_kinds_of_zones(kind, existing, missing):
    settings = local(f"corp. {kind}", records=ZONE_RECORDS)
    outcome = ask(settings, "www.corp.")
    assert (outcome and outcome.rcode) == existing
    outcome = ask(settings, "none.corp.")
    assert (outcome and outcome.rcode) == missing


@pytest.mark.parametrize(("kind", "has_type", "no_type", "no_name"), [
    ("deny", None, "drop", "drop"), ("inform_deny", None, "drop", "drop"), ("always_deny", "drop", "drop", "drop"),
    ("refuse", None, c.REFUSED, c.REFUSED),
])
def test_names_with_data_are_answered_for_existing_types_only(kind, has_type, no_type, no_name):
    settings = local(f"corp. {kind}", records=ZONE_RECORDS)
    cases = (("www.corp.", c.A, has_type), ("www.corp.", c.AAAA, no_type), ("x.corp.", c.A, no_name))
    for name, qtype, wanted in cases:
        outcome = ask(settings, name, qtype)
        if wanted == "drop":
            assert outcome.applied.kind is ActionKind.DROP
        elif wanted is None:
            assert data(outcome) == [(c.A, [b"\xc0\0\2\1"])]
        else:
            assert outcome.rcode == wanted and outcome.answer == []


def test_null_addresses():
    settings = local("corp. always_null", records=ZONE_RECORDS)
    assert data(ask(settings, "x.corp.")) == [(c.A, [bytes(4)])]
    assert data(ask(settings, "corp.", c.AAAA)) == [(c.AAAA, [bytes(16)])]
    assert data(ask(settings, "corp.", c.TXT)) == []
    assert data(ask(settings, "www.corp.")) == [(c.A, [b"\xc0\0\2\1"])]


def test_block_a_denies_only_a():
    settings = local("corp. block_a", records=("www.corp. 60 IN A 192.0.2.1", "www.corp. 60 IN TXT x"))
    assert (ask(settings, "www.corp.").rcode, data(ask(settings, "www.corp."))) == (c.NOERROR, [])
    assert ask(settings, "www.corp.", c.TXT) is None


def test_nodefault_removes_the_built_in_zone_of_that_name():
    settings = local("test. nodefault", "127.in-addr.arpa. nodefault")
    assert ask(settings, "x.test.") is None and ask(settings, "x.invalid.").rcode == c.NXDOMAIN
    assert ask(settings, "1.0.0.127.in-addr.arpa.", c.PTR) is None
    assert ask(DEFAULT, "1.0.0.127.in-addr.arpa.", c.PTR) is not None


def test_inform_zones_log_the_client_and_are_not_answered_from_the_cache(caplog):
    pipeline = PolicyPipeline(local("corp. inform", "red. inform_redirect", records=("red. 60 IN A 192.0.2.1",)))
    view = pipeline.views[0]
    question = Question(names.from_text("a.Corp."), c.A)
    with caplog.at_level("WARNING", "resolver.policy.inform"):
        assert view.own_question(Query("192.0.2.9", transport="udp"), question) is None
    assert [one.getMessage() for one in caplog.records] == ["local zone corp.: 192.0.2.9 queries a.Corp. A"]
    assert not view.is_cacheable(question) and view.is_cacheable(Question(names.from_text("b."), c.A))
    assert data(pipeline.answer(Question(names.from_text("x.red."), c.A))) == [(c.A, [b"\xc0\0\2\1"])]


def test_a_transparent_zone_below_a_static_one_is_resolved():
    settings = local("corp. static", "out.corp. resolve", "10.in-addr.arpa. resolve")
    assert ask(settings, "x.corp.").rcode == c.NXDOMAIN
    assert ask(settings, "x.out.corp.") is None
    assert ask(settings, "1.10.in-addr.arpa.", c.PTR) is None


def test_redirect_zones_answer_every_name_with_the_data_of_the_apex():
    settings = local("block. redirect", records=("block. 30 A 192.0.2.9",))
    outcome = ask(settings, "any.thing.block.")
    assert data(outcome) == [(c.A, [b"\xc0\0\2\x09"])]
    assert outcome.answer[0].name == names.from_text("any.thing.block.")
    assert ask(settings, "x.block.", c.AAAA).rcode == c.NOERROR
    assert ask(local("empty. redirect"), "x.empty.").rcode == c.NOERROR


def test_the_most_specific_zone_decides():
    settings = local("corp. nxdomain", "ok.corp. transparent")
    assert ask(settings, "a.corp.").rcode == c.NXDOMAIN
    assert ask(settings, "a.ok.corp.") is None


@pytest.mark.parametrize(
    ("zones", "records", "message"),
    [
        (("a. loopback",), (), "unknown kind"),
        (("a. typo",), (), "unknown kind"),
        (("a..b static",), (), "is not a name"),
        ((), ("a. A 1.2.3",), "local_data"),
    ],
)
def test_errors_in_zones_and_records_are_reported(zones, records, message):
    with pytest.raises(ValueError, match=message):
        PolicyPipeline(local(*zones, records=records))


def test_any_is_answered_with_one_set():
    outcome = ask(local(hosts=(HostEntry("a.", ("10.0.0.1", "fd00::1")),)), "a.", c.ANY)
    assert len(outcome.answer) == 1


@pytest.mark.parametrize("rtype", [c.AXFR, c.IXFR, c.TSIG, c.TKEY, c.OPT, 128])
def test_meta_types_are_refused(rtype):
    assert ask(DEFAULT, "example.", rtype).rcode == c.REFUSED


def test_class_chaos_is_answered_only_with_an_identity():
    named = Settings(server=ServerSettings(identity="one", version="2"))
    for name, text in [
        ("id.server.", b"\3one"),
        ("HOSTNAME.bind.", b"\3one"),
        ("version.server.", b"\0012"),
        ("version.bind.", b"\0012"),
    ]:
        outcome = ask(named, name, c.TXT, c.CH)
        assert data(outcome) == [(c.TXT, [text])]
        assert outcome.answer[0].rclass == c.CH
        assert ask(DEFAULT, name, c.TXT, c.CH).rcode == c.REFUSED
    assert ask(named, "id.server.", c.A, c.CH).answer == []
    assert ask(named, "example.", c.TXT, c.CH).rcode == c.REFUSED
    assert ask(named, "id.server.", c.TXT, 4).rcode == c.REFUSED


def test_a_cname_in_a_redirect_zone_applies_to_every_name():
    settings = local("walled. redirect", records=("walled. CNAME *.garden.example.",))
    outcome = ask(settings, "a.B.walled.")
    assert outcome.answer[0].targets() == [names.from_text("a.B.walled.garden.example.")]
    assert outcome.answer[0].name == names.from_text("a.B.walled.")
    long = ask(settings, ".".join(["x" * 60] * 3 + ["y" * 50, "walled."]))
    assert (long.rcode, long.answer, long.ede[0][0]) == (c.YXDOMAIN, [], c.EDE_OTHER)


def test_local_data_is_authoritative_and_hosts_entries_are_not():
    settings = local(records=("data.here. A 10.0.0.1",), hosts=(HostEntry("host.here.", ("10.0.0.2",)),))
    assert ask(settings, "data.here.").authoritative
    assert not ask(settings, "host.here.").authoritative


def test_typetransparent_answers_for_its_types_and_resolves_the_others():
    settings = local("example.com. typetransparent", records=("www.example.com. A 10.0.0.1",
                                                              "alias.example.com. CNAME www.example.com."))
    assert data(ask(settings, "www.example.com.", c.A)) == [(c.A, [b"\n\0\0\1"])]
    assert ask(settings, "www.example.com.", c.AAAA) is None
    assert ask(settings, "other.example.com.", c.A) is None
    assert [rrset.rtype for rrset in ask(settings, "alias.example.com.", c.AAAA).answer] == [c.CNAME]
    transparent = local("example.com. transparent", records=("www.example.com. A 10.0.0.1",))
    assert ask(transparent, "www.example.com.", c.AAAA).rcode == c.NOERROR


def test_a_truncate_zone_matches_its_names_and_does_not_answer_them():
    pipeline = PolicyPipeline(local("example.com. truncate", "static.example.com. static", "open.example.com. resolve"))
    assert pipeline.local.has_truncate_zone
    assert not PolicyPipeline(local("example.com. transparent")).local.has_truncate_zone
    for name, expected in (("example.com.", True), ("A.B.Example.COM.", True), ("com.", False), (".", False),
                           ("x.static.example.com.", False), ("x.open.example.com.", False)):
        assert pipeline.local.is_truncated(names.from_text(name)) is expected, name
    assert pipeline.answer(Question(names.from_text("www.example.com."), c.A)) is None
