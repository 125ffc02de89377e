"""Settings: defaults are within their limits, every field has a description, and errors name the setting."""

import importlib.util
import sys
from dataclasses import fields, is_dataclass

import pytest

from resolver import limits
from resolver.options import describe, parse_endpoint
from resolver.settings import (
    CacheSettings,
    DnssecSettings,
    ForwardZone,
    HostEntry,
    IterationSettings,
    LogSettings,
    PolicySettings,
    RootServer,
    ServerSettings,
    Settings,
    StubZone,
)


def test_defaults_serve_only_this_host_without_privilege_and_validate():
    settings = Settings()
    assert settings.server.endpoints == (("127.0.0.1", 5335), ("::1", 5335))
    assert settings.policy.allow == ("127.0.0.0/8", "::1/128")
    assert settings.dnssec.active
    assert settings.iteration.upstream_port == 53
    assert len(settings.root_hints) == 13
    assert settings.iteration.max_upstream_queries == limits.MAX_PACKETS.default == 200


def test_every_setting_has_a_sentence():
    for knob in describe(Settings()):
        assert len(knob.doc) > 20 and knob.doc.endswith("."), knob.path


def test_a_sentence_that_names_a_limit_follows_it(monkeypatch):
    monkeypatch.setattr(limits, "LOG_FAILURES", 7)
    spec = importlib.util.find_spec("resolver.settings.management")
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "resolver.settings.management", again)  # where dataclasses look for names
    spec.loader.exec_module(again)
    [sentence] = [item.metadata["doc"] for item in fields(again.LogSettings) if item.name == "rate_limit_interval"]
    assert "at most 7 different failed queries" in sentence


def test_paths_are_unique_and_cover_every_field():
    paths = [knob.path for knob in describe(Settings())]
    assert len(paths) == len(set(paths))
    expected = 0
    for item in fields(Settings()):
        value = getattr(Settings(), item.name)
        expected += len(fields(value)) if is_dataclass(value) else 1
    assert len(paths) == expected


def test_values_are_frozen_and_equal_by_content():
    assert Settings() == Settings()
    with pytest.raises(AttributeError):
        Settings().cache.size = 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("192.0.2.1@5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("2001:db8::1@99", ("2001:db8::1", 99)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:99", ("2001:db8::1", 99)),
        ("[::]:0", ("::", 0)),
    ],
)
def test_endpoints(text, found):
    assert parse_endpoint(text, 53, "x") == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:53",
        "192.0.2.1:",
        "192.0.2.1:x",
        "192.0.2.1:65536",
        "192.0.2.256",
        "[::1]x",
        "[::1",
        "::1:",
        "1.2.3.4:٣",
    ],
)
def test_wrong_endpoints_name_their_place(text):
    with pytest.raises(ValueError, match=r"^here: "):
        parse_endpoint(text, 53, "here")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ServerSettings(workers=0), "server.workers"),
        (lambda: ServerSettings(listen=("x",)), "server.listen"),
        (lambda: ServerSettings(tcp_idle_timeout=0.0), "server.tcp_idle_timeout"),
        (lambda: ServerSettings(overload_action="maybe"), "server.overload_action"),
        (lambda: CacheSettings(size=1), "cache.size"),
        (lambda: CacheSettings(min_ttl=100, max_ttl=10), "cache.min_ttl"),
        (lambda: IterationSettings(query_timeout=0.1), "iteration.query_timeout"),
        (lambda: IterationSettings(query_source_v4="::1"), "iteration.query_source_v4"),
        (lambda: IterationSettings(query_source_v6="x"), "iteration.query_source_v6"),
        (lambda: IterationSettings(do_not_query_addresses=("10.0.0.0/99",)), "iteration.do_not_query_addresses"),
        (lambda: IterationSettings(do_ip4=False, do_ip6=False), "iteration.do_ip4"),
        (lambda: IterationSettings(nat64_prefix="64:ff9b::/97"), "iteration.nat64_prefix: '64:ff9b::/97' is not an"),
        (lambda: IterationSettings(nat64_prefix="64:ff9b::1/96"), "iteration.nat64_prefix: '64:ff9b::1/96' is not an"),
        (lambda: IterationSettings(nat64_prefix="10.0.0.0/32"), "iteration.nat64_prefix: '10.0.0.0/32' is not an"),
        (lambda: IterationSettings(nat64_prefix="64:ff9b::/96", do_ip6=False), "iteration.nat64_prefix: do-ip6 is off"),
        (lambda: ServerSettings(listen=("[::1]:53", "::1@53")), "server.listen: '::1@53' is the address and port of"),
        (lambda: DnssecSettings(trust_anchors=(". A 1",)), "dnssec.trust_anchors"),
        (lambda: DnssecSettings(trust_anchors=("a..b DS 1 8 2 00",)), "dnssec.trust_anchors: 'a..b' is not a domain"),
        (lambda: PolicySettings(allow=("all",)), "policy.allow"),
        (lambda: PolicySettings(hosts=(HostEntry("a", ("b",)),)), "policy.hosts"),
        (lambda: LogSettings(level="loud"), "log.level"),
        (lambda: ForwardZone("a.", ("b",)), "addresses: "),
        (lambda: StubZone("a.", ("b",)), "addresses: "),
        (lambda: Settings(root_hints=()), "root_hints"),
        (lambda: Settings(root_hints=(RootServer("a.", ("b",)),)), "root_hints a."),
    ],
)
def test_wrong_values_name_the_setting(make, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        make()


def test_hints_may_be_empty_when_everything_is_forwarded():
    assert Settings(root_hints=(), forward=(ForwardZone(".", ("192.0.2.1",)),)).root_hints == ()


def test_validation_is_off_without_anchors_or_by_choice():
    assert not DnssecSettings(trust_anchors=()).active
    assert not DnssecSettings(enabled=False).active


def test_clock_skew_bounds_go_together():
    with pytest.raises(ValueError, match=r"dnssec\.signature_skew_min: it is larger"):
        DnssecSettings(signature_skew_min=7200.0, signature_skew_max=3600.0)
    assert DnssecSettings(signature_skew_min=0.0, signature_skew_max=0.0).signature_skew_max == 0


@pytest.mark.parametrize("setting", ["nsid", "identity"])
def test_an_identifier_that_is_too_long_is_reported_under_its_own_name(setting):
    with pytest.raises(ValueError, match=rf"^server\.{setting}: 256 "):
        ServerSettings(**{setting: "x" * 256})
