"""URLs: normalising, refusals, and joining references.

The refusals matter most: each is a text that two programs are known to read as two different hosts.
"""

import pytest

from corenet.http.errors import InvalidUrl
from corenet.http.url import Origin, parse_url
from corenet.limits import HTTP_URL_CACHED_SIZE, HTTP_URL_SIZE


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://EXAMPLE.com:443/a", "https://example.com/a"),
        ("http://example.com:80", "http://example.com/"),
        ("http://example.com:", "http://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("http://example.com?q", "http://example.com/?q"),
        ("http://example.com/?", "http://example.com/?"),
        ("http://example.com/a/../b/./c/..", "http://example.com/b/"),
        ("http://example.com/../..", "http://example.com/"),
        ("http://example.com/a/%2e%2E/b", "http://example.com/b"),
        ("http://example.com/a//b", "http://example.com/a//b"),
        ("http://example.com/.a/..b", "http://example.com/.a/..b"),
        ("http://example.com/%7euser/%c3%a4", "http://example.com/%7euser/%c3%a4"),
        ("http://example.com/a/%2e%2E/b%2f", "http://example.com/b%2f"),
        ("http://example.com/ä?ö#ü", "http://example.com/%C3%A4?%C3%B6#%C3%BC"),
        ("http://example.com/100%?%4#%gg", "http://example.com/100%?%4#%gg"),
        ('http://example.com/<">?<">', "http://example.com/%3C%22%3E?%3C%22%3E"),
        ('http://example.com/a b/<c>?d e&f="#g h', "http://example.com/a%20b/%3Cc%3E?d%20e&f=%22#g%20h"),
        ("http://example.com/^|`{}'[]?^|`{}'[]#^|`{}'[]", "http://example.com/%5E|%60%7B%7D'[]?^|`{}%27[]#^|%60{}'[]"),
        ("http://example.com/?a\\b#c\\d#e", "http://example.com/?a\\b#c\\d#e"),
        ("http://example.com/\ud800?\udfff", "http://example.com/%EF%BF%BD?%EF%BF%BD"),
        ("http://example.com/a\x01b?\x7f{}#\x00c", "http://example.com/a%01b?%7F{}#%00c"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
        ("http://r3---a.b\xfccher/", "http://r3---a.xn--bcher-kva/"),
        ("http://-a.XN--BCHER-KVA/", "http://-a.xn--bcher-kva/"),
        ("http://\u2615.example/", "http://xn--53h.example/"),
        ("http://xn--53h.example/", "http://xn--53h.example/"),
        ("http://b\xadu\u0308cher\u3002\uff45x/", "http://xn--bcher-kva.ex/"),
        ("http://fa\xdf.\u0915\u094d\u200d\u0937/", "http://xn--fa-hia.xn--11b2ezcw70k/"),
        ("http://\u05d0.\u05d1/", "http://xn--4db.xn--5db/"),
        ("http://example.com:00080/", "http://example.com/"),
        ("http://my_host.example/", "http://my_host.example/"),
        ("http://example.com./", "http://example.com./"),
        ("http://192.0.2.1/", "http://192.0.2.1/"),
        ("http://[2001:DB8:0:0::1]:8080/", "http://[2001:db8::1]:8080/"),
        ("http://[::FFFF:192.0.2.1]/", "http://[::ffff:c000:201]/"),
    ],
)
def test_urls_are_normalised(text: str, normal: str) -> None:
    url = parse_url(text)
    assert str(url) == normal
    assert parse_url(normal) == url and hash(parse_url(normal)) == hash(url)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:example.com",
        "http:/example.com",
        "http://",
        "http:///path",
        "http://?q",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com@evil.example/",
        "http://example.com\\@evil.example/",
        "http://example.com\\/",
        "http://exa mple.com/",
        " http://example.com/",
        "http://example.com/\n",
        "http://exam\tple.com/",
        "http://example.com/ ",
        "http://example.com/a?b ",
        "http://example.com/a\rb",
        "http://exa\x00mple.com/",
        "http://example.com:80 /",
        "http://example.com/\x00",
        "http://%65xample.com/",
        "http://example..com/",
        "http://.example.com/",
        "http://example.com:65536/",
        "http://example.com:0/",
        "http://example.com:000/",
        "http://example.com:-1/",
        "http://example.com:8 0/",
        "http://example.com:http/",
        "http://example.com:٣/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.0.0.1/",
        "http://127.0.0.01/",
        "http://1.2.3.4.5/",
        "http://256.0.0.1/",
        "http://0x7f000001/",
        "http://127.0.0.0x1/",
        "http://127.0.0.1./",
        "http://[::1/",
        "http://[::1]x/",
        "http://[fe80::1%25eth0]/",
        "http://[1.2.3.4]/",
        "http://xn--a/",
        "http://xn--bcher-/",
        "http://xn--a-ecp.xn--53h-/",
        "http://xn--xn--a--gua/",
        "http://xn--u-ccb/",
        "http://" + "xn--" + "a" * 60 + "/",
        "http://" + "\xfc" * 64 + "/",
        "http://\u0301a/",
        "http://a\u200db/",
        "http://\u05d0.-a/",
        "http://\u05d0a/",
        "http://\uff0f/",
        "http://b\xfc./\\",
        "http://a\u2024b\ufffd/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a.a" * 100 + "/",
        "http://example.com/" + "a" * HTTP_URL_SIZE,
    ],
)
def test_ambiguous_urls_are_refused(text: str) -> None:
    with pytest.raises(InvalidUrl):
        parse_url(text)


def test_a_url_is_split_into_its_parts() -> None:
    url = parse_url("https://Example.com:8443/a/b?c=d#e")
    assert url.origin == Origin("https", "example.com", 8443)
    assert (url.scheme, url.host, url.port, url.path, url.query, url.fragment) == (
        "https", "example.com", 8443, "/a/b", "c=d", "e")  # fmt: skip
    assert url.target == b"/a/b?c=d"
    assert url.host_field == b"example.com:8443"
    assert not url.is_address
    assert str(url.origin) == "https://example.com:8443"
    assert parse_url("http://[::1]/").host == "::1" and parse_url("http://[::1]/").is_address
    assert parse_url("http://[::1]:81/").host_field == b"[::1]:81"
    assert repr(url) == "Url('https://example.com:8443/a/b?c=d#e')"


# RFC 3986 section 5.4, without the cases that are refused on purpose.
@pytest.mark.parametrize(
    ("reference", "result"),
    [
        ("g", "/b/c/g"),
        ("./g", "/b/c/g"),
        ("g/", "/b/c/g/"),
        ("/g", "/g"),
        ("?y", "/b/c/d;p?y"),
        ("g?y", "/b/c/g?y"),
        ("#s", "/b/c/d;p?q#s"),
        ("g#s", "/b/c/g#s"),
        ("g?y#s", "/b/c/g?y#s"),
        (";x", "/b/c/;x"),
        ("g;x?y#s", "/b/c/g;x?y#s"),
        ("", "/b/c/d;p?q"),
        (".", "/b/c/"),
        ("./", "/b/c/"),
        ("..", "/b/"),
        ("../", "/b/"),
        ("../g", "/b/g"),
        ("../..", "/"),
        ("../../g", "/g"),
        ("../../../g", "/g"),
        ("/./g", "/g"),
        ("/../g", "/g"),
        ("g.", "/b/c/g."),
        ("..g", "/b/c/..g"),
        ("./../g", "/b/g"),
        ("g;x=1/../y", "/b/c/y"),
        ("g?y/./x", "/b/c/g?y/./x"),
    ],
)
def test_references_are_joined_with_their_base(reference: str, result: str) -> None:
    assert str(parse_url("http://a.example/b/c/d;p?q").join(reference)) == "http://a.example" + result


def test_references_to_other_origins() -> None:
    base = parse_url("https://a.example:8443/x?y#z")
    assert str(base.join("//b.example/c")) == "https://b.example/c#z"
    assert str(base.join("http://c.example")) == "http://c.example/#z"
    assert str(base.join("/c#other")) == "https://a.example:8443/c#other"
    others = ("ftp://x/", "mailto:a@b", "//user@b/")
    for bad in (*others, "/a\tb", "\\\\evil", "/a\\b?", " http://b/", "c\x00", "x" * 70000):
        with pytest.raises(InvalidUrl):
            base.join(bad)


def test_names_in_errors_do_not_show_passwords() -> None:
    with pytest.raises(InvalidUrl) as caught:
        parse_url("https://user:hunter2@example.com/")
    assert "hunter2" not in str(caught.value)


def test_long_urls_are_not_cached() -> None:
    """A server chooses them by redirects."""
    stem = "http://long.example/"
    for size, cached in ((HTTP_URL_CACHED_SIZE, True), (HTTP_URL_CACHED_SIZE + 1, False)):
        text = stem + "x" * (size - len(stem))
        assert (parse_url(text) is parse_url(text)) == cached
