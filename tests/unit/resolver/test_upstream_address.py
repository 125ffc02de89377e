"""Addresses of upstream servers: every form, every error with the setting and the fix, and what the settings refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.api import Resolver
from resolver.settings import ForwardZone, Settings, StubZone
from resolver.upstream_address import Encryption, UpstreamAddress, check_pin, parse_upstream

PIN = "A" * 43 + "="
OTHER = "B" * 42 + "A="


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.1", UpstreamAddress("192.0.2.1", 53)),
        ("[2001:db8::1]:5300", UpstreamAddress("2001:db8::1", 5300)),
        ("tls://9.9.9.9#dns.quad9.net", UpstreamAddress("9.9.9.9", 853, Encryption("tls", "dns.quad9.net"))),
        ("TLS://9.9.9.9@8853#DNS.Quad9.net.", UpstreamAddress("9.9.9.9", 8853, Encryption("tls", "dns.quad9.net"))),
        ("tls://[2620:fe::fe]:853#9.9.9.9", UpstreamAddress("2620:fe::fe", 853, Encryption("tls", "9.9.9.9"))),
        ("tls://2620:fe::fe#a.example", UpstreamAddress("2620:fe::fe", 853, Encryption("tls", "a.example"))),
        (f"tls://192.0.2.1#sha256//{PIN}", UpstreamAddress("192.0.2.1", 853, Encryption("tls", "", (PIN,)))),
        (
            f"tls://192.0.2.1#a.example,sha256//{PIN},sha256//{OTHER},sha256//{PIN}",
            UpstreamAddress("192.0.2.1", 853, Encryption("tls", "a.example", (PIN, OTHER))),
        ),
        ("tls://192.0.2.1", UpstreamAddress("192.0.2.1", 853, Encryption("tls"))),
        (
            "https://192.0.2.1#a.example",
            UpstreamAddress("192.0.2.1", 443, Encryption("https", "a.example", (), "/dns-query")),
        ),
        (
            "https://[2001:db8::1]:8443/q{?dns}#a.example",
            UpstreamAddress("2001:db8::1", 8443, Encryption("https", "a.example", (), "/q")),
        ),
    ],
)
def test_forms(text: str, found: UpstreamAddress) -> None:
    assert parse_upstream(text, 53, "addresses") == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tls://dns.quad9.net", "has a name where an address must be"),
        ("tls://dns.quad9.net:853#dns.quad9.net", "tls://192.0.2.1#dns.example"),
        ("https://dns.quad9.net/dns-query", "https://192.0.2.1/dns-query#dns.example"),
        ("doq://192.0.2.1#a.example", "unknown scheme 'doq'"),
        ("192.0.2.1#a.example", "write tls://192.0.2.1#a.example"),
        ("tls://192.0.2.1/dns-query#a.example", "has a path, which is for https:// only"),
        ("tls://192.0.2.1:0#a.example", "has port 0"),
        ("tls://192.0.2.1:65536#a.example", "no usable port"),
        ("tls://#a.example", "is not an IP address"),
        ("tls://192.0.2.1#a.example,b.example", "two names"),
        ("tls://192.0.2.1#a.example,", "two names"),
        ("tls://192.0.2.1#a example", "neither a host name nor a pin"),
        ("tls://192.0.2.1#sha256//AAAA", "44 characters"),
        (f"tls://192.0.2.1#sha1//{PIN}", "neither a host name nor a pin"),
        ("tls://192.0.2.1#" + "a" * 64, "is not a domain name"),
        ("https://192.0.2.1/a b#a.example", "has a path that is invalid in a URL"),
        ("https://192.0.2.1/\r\nHost: x#a.example", "has a path that is invalid in a URL"),
        ("https://user:secret@192.0.2.1/#a.example", "is not an IP address"),
    ],
)
def test_errors_name_the_setting_and_the_fix(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^addresses: ") as caught:
        parse_upstream(text, 53, "addresses")
    assert words in str(caught.value)


@given(st.text(alphabet="tlshp:/#@[]., \n192.x=+{?}-\0é", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    refusal = ""
    found = UpstreamAddress("", 0)
    try:
        found = parse_upstream(text, 53, "addresses")
    except ValueError as error:
        refusal = str(error)
    assert refusal.startswith("addresses: ") if refusal else found.address


@pytest.mark.parametrize("text", [PIN, f"sha256//{PIN}"])
def test_pins_have_only_one_valid_form(text: str) -> None:
    assert check_pin(text, "x") == PIN


@pytest.mark.parametrize("text", ["", "x", PIN[:-1], PIN + "=", "A" * 44, f"sha256/{PIN}", "é" * 44])
def test_what_is_not_a_pin(text: str) -> None:
    with pytest.raises(ValueError, match=r"^x: the pin"):
        check_pin(text, "x")


def test_settings_refuse_what_would_send_queries_unencrypted() -> None:
    good = "tls://192.0.2.1#a.example"
    assert ForwardZone(".", (good, "https://192.0.2.2#a.example")).addresses
    with pytest.raises(ValueError, match=r"^addresses: '192\.0\.2\.2' is unencrypted"):
        ForwardZone(".", (good, "192.0.2.2"))
    with pytest.raises(ValueError, match=r"^forward_first: when the encrypted servers fail"):
        ForwardZone(".", (good,), forward_first=True)
    with pytest.raises(ValueError, match=r"^stub_first: when the encrypted servers fail"):
        StubZone("a.example", (good,), stub_first=True)
    with pytest.raises(ValueError, match=r"^names: these servers would be queried unencrypted"):
        StubZone("a.example", (good,), ("ns.a.example",))
    assert StubZone("a.example", (good,)).addresses
    assert ForwardZone(".", ("192.0.2.1",), forward_first=True).forward_first


@pytest.mark.parametrize("text", ["tls://192.0.2.1", "https://192.0.2.1/dns-query"])
def test_a_server_without_identity_needs_permission(text: str) -> None:
    with pytest.raises(ValueError, match=r"^addresses: .* has no name and no pin.*allow_unauthenticated"):
        ForwardZone(".", (text,))
    assert ForwardZone(".", (text,), allow_unauthenticated=True).addresses == (text,)


def test_authoritative_servers_are_not_queried_over_https() -> None:
    with pytest.raises(ValueError, match=r"^addresses: .* queried over TLS only; write tls://"):
        StubZone("a.example", ("https://192.0.2.1#a.example",))


def test_a_resolver_takes_forwarders() -> None:
    given = ["tls://192.0.2.1#a.example", ForwardZone("b.example", ("192.0.2.9",)), "tls://192.0.2.2#a.example"]
    zones = Resolver(Settings(forward=(ForwardZone("c.example", ("192.0.2.8",)),)), forward=given).settings.forward
    assert [(zone.zone, zone.addresses) for zone in zones] == [
        ("c.example", ("192.0.2.8",)), ("b.example", ("192.0.2.9",)), (".", (given[0], given[2])),
    ]
    with pytest.raises(ValueError, match=r"^forward: addresses: .* has no name and no pin"):
        Resolver(forward=["tls://192.0.2.1"])
    with pytest.raises(ValueError, match=r"^forward: a list of addresses"):
        Resolver(forward="tls://192.0.2.1#a.example")
