"""The command line of rdig: the grammar of dig, and errors that name the wrong word.

A single word is the name; of several words, types and classes are recognised in any position.
"""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.cli.grammar import Request, UsageError, parse
from resolver.upstream_address import Encryption
from resolver.wire import consts as c
from resolver.wire import name as names


def understood(line: str) -> Request:
    return parse(line.split())


@pytest.mark.parametrize(
    ("line", "qname", "qtype", "qclass"),
    [
        ("example.com", "example.com.", c.A, c.IN),
        ("example.com.", "example.com.", c.A, c.IN),
        ("example.com AAAA", "example.com.", c.AAAA, c.IN),
        ("mx example.com", "example.com.", c.MX, c.IN),
        ("example.com type65280", "example.com.", 65280, c.IN),
        ("version.bind CH txt @::1", "version.bind.", c.TXT, c.CH),
        ("mx", "mx.", c.A, c.IN),
        ("a a", "a.", c.A, c.IN),
        ("ns mx", "ns.", c.MX, c.IN),
        ("", ".", c.NS, c.IN),
        (". SOA", ".", c.SOA, c.IN),
        ("-q mx -t txt", "mx.", c.TXT, c.IN),
        ("example.com -t 'x'".replace("'x'", "NS"), "example.com.", c.NS, c.IN),
        ("-x 192.0.2.1", "1.2.0.192.in-addr.arpa.", c.PTR, c.IN),
        ("-x 192.0.2.1 txt", "1.2.0.192.in-addr.arpa.", c.TXT, c.IN),
        ("bücher.example", "xn--bcher-kva.example.", c.A, c.IN),
    ],
)
def test_questions(line: str, qname: str, qtype: int, qclass: int) -> None:
    request = understood(line)
    assert (names.to_text(request.qname), request.qtype, request.qclass) == (qname, qtype, qclass)


def test_reverse_of_ipv6() -> None:
    assert names.to_text(understood("-x 2001:db8::1").qname) == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa."


@pytest.mark.parametrize(
    ("word", "server", "port"),
    [
        ("@192.0.2.1", "192.0.2.1", 53),
        ("@192.0.2.1:5300", "192.0.2.1", 5300),
        ("@2001:db8::1", "2001:db8::1", 53),
        ("@[2001:db8::1]:5300", "2001:db8::1", 5300),
        ("@[2001:db8::1]", "2001:db8::1", 53),
        ("@ns.example", "ns.example", 53),
        ("@ns.example.:5300", "ns.example.", 5300),
        ("@fe80::1%lo", "fe80::1%lo", 53),
        ("@[fe80::1%lo]:5300", "fe80::1%lo", 5300),
        ("@bücher.example", "xn--bcher-kva.example", 53),
        ("@192.0.2.1:0053", "192.0.2.1", 53),
        ("@192.0.2.1:5300 @192.0.2.2", "192.0.2.2", 53),
    ],
)
def test_servers(word: str, server: str, port: int) -> None:
    request = understood(f"x {word}")
    assert (request.server, request.port) == (server, port)
    assert understood(f"x {word} -p 99").port == 99


def test_options() -> None:
    request = understood("x @::1 +short +tcp +dnssec +cd +noedns +norec +nsid +bufsize=4096 +timeout=0.5")
    assert request.short and request.tcp and request.dnssec and request.cd and request.nsid
    assert not request.edns and not request.rec
    assert (request.bufsize, request.timeout) == (4096, 0.5)
    assert not understood("x +trace +notrace").trace
    assert understood("x @::1 +vc +do +cdflag") == understood("x @::1 +tcp +dnssec +cd")
    assert understood("x --playground --config file +json").playground
    assert understood("--help").help and understood("-h").help and understood("--version").version


PIN = "A" * 43 + "="


@pytest.mark.parametrize(
    ("line", "port", "encryption"),
    [
        ("x @192.0.2.1", 53, None),
        ("x @192.0.2.1 +tls", 853, Encryption("tls", "192.0.2.1")),
        ("x @ns.example +tls", 853, Encryption("tls", "ns.example")),
        ("x @192.0.2.1:8853 +tls-hostname=ns.example", 8853, Encryption("tls", "ns.example")),
        ("x @192.0.2.1 -p 99 +tls +tls-ca=file", 99, Encryption("tls", "192.0.2.1")),
        (f"x @192.0.2.1 +tls-pin={PIN}", 853, Encryption("tls", "", (PIN,))),
        (f"x @192.0.2.1 +tls-pin=sha256//{PIN} +tls-hostname=a.example", 853, Encryption("tls", "a.example", (PIN,))),
        ("x @192.0.2.1 +tls-insecure", 853, Encryption("tls")),
        ("x @ns.example +https", 443, Encryption("https", "ns.example", (), "/dns-query")),
        ("x @192.0.2.1 +https=/q +tls-hostname=a.example", 443, Encryption("https", "a.example", (), "/q")),
        ("x @192.0.2.1 +https +nohttps +tls +notls", 53, None),
        (f"x @192.0.2.1 +tls +tls-pin={PIN} +notls-pin +tls-insecure +notls-insecure", 853,
         Encryption("tls", "192.0.2.1")),
    ],
)
def test_encrypted_transports(line: str, port: int, encryption: Encryption | None) -> None:
    request = understood(line)
    assert (request.port, request.encryption) == (port, encryption)


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("x +explain", "text"),
        ("x +explain=text --output a.html", "text"),
        ("x +explain=json", "json"),
        ("x +explain=html @::1", "html"),
        ("x +explain --output story.HTML", "html"),
        ("x --output story.json +explain", "json"),
        ("x +explain --output story", "text"),
        ("x +explain +noexplain", None),
        ("x", None),
    ],
)
def test_forms_of_an_explanation(line: str, form: str | None) -> None:
    assert understood(line).explain == form


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x +explain=jsn", "+explain can be text, json, html, not 'jsn'; did you mean json?"),
        ("x +explain=", "not ''"),
        ("x +explai", "unknown option +explai; did you mean +explain?"),
        ("x +dnsec", "did you mean +dnssec?"),
        ("x --playgrund", "unknown option --playgrund; did you mean --playground?"),
        ("x +explain +json", "exclude each other (use +explain=json)"),
        ("x +explain +trace +short", "+explain and +trace and +short exclude each other"),
        ("x --output a.html", "needs +explain"),
        ("x +explain --output", "--output needs a value"),
        ("x CH @::1 +explain", "+explain works in class IN only"),
        ("x +nonsense", "unknown option +nonsense"),
        ("x +short=1", "+short takes no value"),
        ("x +bufsize", "+bufsize needs a number"),
        ("x +bufsize=12", "bufsize must be a number from 512 to 65535, not '12'"),
        ("x +bufsize=many", "not 'many'"),
        ("x +timeout=0", "not '0'"),
        ("x +timeout=nan", "not 'nan'"),
        ("x +timeout=9999", "not '9999'"),
        ("x y", "'y' is neither a type nor a class"),
        ("-x 192.0.2.1 y", "'y' is neither a type nor a class"),
        ("-x nowhere", "-x needs an address, not 'nowhere'"),
        ("-x 192.0.2.1 -q y", "both give the name"),
        ("x -p", "-p needs a value"),
        ("x -p 0", "port must be a number from 1 to 65535"),
        ("x @::1 -p 65536", "port must be"),
        ("x @", "@ needs a server"),
        ("x @[::1]5", "only :PORT may follow ]"),
        ("x @192.0.2.1:dns", "port must be"),
        ("x @[::1", "@[::1: the closing bracket is missing"),
        ("x @[::1:5300", "@[::1:5300: the closing bracket is missing"),
        ("x @[", "the closing bracket is missing"),
        ("x @[]:53", "@ needs a server"),
        ("x @:53", "@ needs a server"),
        ("x @[192.0.2.1]:53", "'192.0.2.1' in brackets is not an IPv6 address"),
        ("x @[ns.example]", "'ns.example' in brackets is not an IPv6 address"),
        ("x @[::1]:", "@[::1]:: no port follows the colon"),
        ("x @192.0.2.1:", "@192.0.2.1:: no port follows the colon"),
        ("x @::1]", "@::1]: '::1]' is not an IPv6 address"),
        ("x @ns.example]", "'ns.example]' is neither an address nor a host name"),
        ("x @192.0.2.1:53:53", "'192.0.2.1:53:53' is not an IPv6 address; with a port write"),
        ("x @2001:db8::g", "'2001:db8::g' is not an IPv6 address"),
        ("x @192.0.2.1#5300", "a port follows a colon, not #: @192.0.2.1:5300"),
        ("x @ns.example@5300", "a port follows a colon, not @: @ns.example:5300"),
        ("x @192.0.2.0/24", "'192.0.2.0/24' is neither an address nor a host name"),
        ("x @ns..example", "'ns..example' is not a domain name"),
        ("x @\u2024\u2024", "is not a domain name"),
        ("x @::1 -p " + "9" * 5000, "port must be a number from 1 to 65535"),
        ("x @::1 -p +53", "not '+53'"),
        ("x @::1 -p53", "unknown option -p53; did you mean -p?"),
        ("x -p 53", "name one with @SERVER"),
        ("x -t nonsense", "unknown type 'nonsense'"),
        ("x -c nonsense", "unknown class 'nonsense'"),
        ("x --nonsense", "unknown option --nonsense"),
        ("a..b", "'a..b' is not a domain name"),
        ("x" * 64, "is not a domain name"),
        ("x +tcp", "name one with @SERVER"),
        ("x @::1 +trace", "omit @SERVER"),
        ("x @::1 --playground", "omit @SERVER"),
        ("x +short +json", "exclude each other"),
        ("x +tls", "+tls, +https and +quic concern queries to a server: name one with @SERVER"),
        ("x +https", "name one with @SERVER"),
        ("x @::1 +tls +tcp", "+tcp, +tls, +https and +quic exclude each other"),
        ("x @::1 +tls +quic", "exclude each other"),
        ("x +quic", "+quic concern queries to a server"),
        ("x @::1 +tls +https", "exclude each other"),
        ("x @::1 +tls=1", "+tls takes no value"),
        ("x @::1 +https=q", "+https needs the path"),
        ("x @::1 +https=/ü", "is not a path of a URL"),
        ("x @::1 +tls-pin=AAAA", "+tls-pin: the pin 'AAAA' is not the SHA-256 hash"),
        ("x @::1 +tls-hostname", "+tls-hostname needs a value"),
        ("x @::1 +tls-ca=", "+tls-ca needs a value"),
        ("x @::1 +tls-insecure=1", "takes no value"),
        ("x @::1 +tls-insecure +tls-hostname=a", "+tls-insecure excludes"),
        ("x @::1 +tsl-pin=x", "did you mean +tls-pin?"),
        ("x CH", "class IN only"),
    ],
)
def test_errors_name_the_wrong_word(line: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        understood(line)
    assert words in str(caught.value)


@given(
    st.lists(
        st.one_of(st.text(max_size=12), st.sampled_from(["+", "@", "-", "-x", "-p", "+no", "@[", "A", "+bufsize="])),
        max_size=6,
    )
)
def test_any_words_are_parsed_or_refused(words: list[str]) -> None:
    with suppress(UsageError):
        assert names.is_valid(parse(words).qname)
