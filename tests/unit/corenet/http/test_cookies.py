"""Cookies: parsing, dates, domains and paths, the storage model, its bounds, and the client that uses a jar."""

import pytest
from support.http_peer import LOOPS, Peer, run_on, serving

from corenet import limits
from corenet.http import CookieJar, Headers, HttpClient, parse_url
from corenet.http.cookie_rules import (
    default_path,
    domain_matches,
    parse_set_cookie,
    path_matches,
)

NOW = 1_700_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jar(clock: Clock) -> CookieJar:
    return CookieJar(clock=clock)


def put(jar: CookieJar, url: str, *fields: str) -> None:
    jar.store(parse_url(url), Headers.of([("Set-Cookie", field) for field in fields]))


def sent(jar: CookieJar, url: str) -> str:
    return jar.header(parse_url(url))


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("a=b", "a", "b"),
        (" a = b ", "a", "b"),
        ("a=b=c", "a", "b=c"),
        ('a="b c"', "a", '"b c"'),
        ("a=", "a", ""),
        ("=b", "", "b"),
        ("b", "", "b"),
        ("a=b;", "a", "b"),
        ("a=b\tc", "a", "b\tc"),
        ("a=\xe9", "a", "\xe9"),
    ],
)
def test_names_and_values_are_parsed(field: str, name: str, value: str) -> None:
    found = parse_set_cookie(field, NOW)
    assert found is not None
    assert (found.name, found.value) == (name, value)


@pytest.mark.parametrize(
    "field", ["", "=", ";", " ; Path=/", "a=b\x01", "a=b\x7f", "a=b; x=\x00", "a" * 4097, "a=" + "b" * 4096]
)
def test_invalid_fields_are_ignored(field: str) -> None:
    assert parse_set_cookie(field, NOW) is None


def test_the_size_of_cookies_and_attributes_is_bounded() -> None:
    found = parse_set_cookie("a=" + "b" * 4095 + "; Path=/" + "p" * 1024 + "; Path=/short", NOW)
    assert found is not None
    assert len(found.value) == 4095 and found.path == "/short"
    found = parse_set_cookie("a=b; Path=/short; Path=/" + "p" * 1024, NOW)
    assert found is not None and found.path == "/short"


@pytest.mark.parametrize(
    ("attributes", "expires"),
    [
        ("", None),
        ("Max-Age=60", NOW + 60),
        ("max-age = 60", NOW + 60),
        ("Max-Age=0", -1.0),
        ("Max-Age=-5", -1.0),
        ("Max-Age=1.5", None),
        ("Max-Age=", None),
        ("Max-Age=+5", None),
        ("Max-Age=5; Max-Age=x", NOW + 5),
        ("Max-Age=5; Max-Age=7", NOW + 7),
        ("Max-Age=" + "9" * 900, NOW + limits.HTTP_COOKIE_SECONDS),
        ("Expires=Tue, 14 Nov 2023 22:14:20 GMT", NOW + 60),
        ("Expires=Tue, 14 Nov 2023 22:14:20 GMT; Max-Age=5", NOW + 5),
        ("Max-Age=5; Expires=Tue, 14 Nov 2023 22:14:20 GMT", NOW + 5),
        ("Expires=never", None),
        ("Expires=Fri, 31 Dec 9999 23:59:59 GMT", NOW + limits.HTTP_COOKIE_SECONDS),
    ],
)
def test_when_a_cookie_expires(attributes: str, expires: float | None) -> None:
    found = parse_set_cookie(f"a=b; {attributes}", NOW)
    assert found is not None
    assert found.expires == expires


@pytest.mark.parametrize(
    ("path", "expected"), [("/", "/"), ("/a", "/"), ("/a/", "/a"), ("/a/b", "/a"), ("/a/b/c", "/a/b")]
)
def test_default_paths(path: str, expected: str) -> None:
    assert default_path(path) == expected


@pytest.mark.parametrize(
    ("request_path", "path", "matches"),
    [("/", "/", True), ("/a", "/", True), ("/a", "/a", True), ("/a/b", "/a", True), ("/a/b", "/a/", True),
     ("/ab", "/a", False), ("/a", "/a/", False), ("/", "/a", False), ("/A", "/a", False)],
)  # fmt: skip
def test_path_matching(request_path: str, path: str, matches: bool) -> None:
    assert path_matches(request_path, path) is matches


def test_domain_matching() -> None:
    assert domain_matches("a.example.org", "example.org", False) and domain_matches("example.org", "example.org", False)
    assert not domain_matches("badexample.org", "example.org", False)
    assert not domain_matches("10.0.0.1", "0.0.1", True) and domain_matches("10.0.0.1", "10.0.0.1", True)


@pytest.mark.parametrize(
    ("url", "field", "asked", "expected"),
    [
        ("https://a.example.org/", "k=v", "https://a.example.org/x", "k=v"),
        ("https://a.example.org/", "k=v", "https://b.a.example.org/", ""),
        ("https://a.example.org/", "k=v; Domain=example.org", "https://b.example.org/", "k=v"),
        ("https://a.example.org/", "k=v; Domain=.Example.ORG", "https://example.org/", "k=v"),
        ("https://a.example.org/", "k=v; Domain=", "https://b.a.example.org/", ""),
        ("https://a.example.org/", "k=v; Domain=b.example.org", "https://b.example.org/", ""),
        ("https://a.example.org/", "k=v; Domain=b.a.example.org", "https://b.a.example.org/", ""),
        ("https://a.example.org/", "k=v; Domain=org", "https://b.org/", ""),
        ("https://a.co.uk/", "k=v; Domain=co.uk", "https://b.co.uk/", ""),
        ("https://a.github.io/", "k=v; Domain=github.io", "https://b.github.io/", ""),
        ("https://github.io/", "k=v; Domain=github.io", "https://github.io/", "k=v"),
        ("https://github.io/", "k=v; Domain=github.io", "https://b.github.io/", ""),
        ("https://a.example.org/", "k=v; Domain=exämple.org", "https://a.example.org/", ""),
        ("https://192.0.2.1/", "k=v; Domain=0.2.1", "https://192.0.2.1/", ""),
        ("https://192.0.2.1/", "k=v", "https://192.0.2.1/", "k=v"),
        ("http://localhost/", "k=v; Domain=localhost", "http://localhost:81/", "k=v"),
        ("https://a.org/p/q", "k=v", "https://a.org/p/z", "k=v"),
        ("https://a.org/p/q", "k=v", "https://a.org/", ""),
        ("https://a.org/p/q", "k=v; Path=/", "https://a.org/", "k=v"),
        ("https://a.org/p/q", "k=v; Path=x", "https://a.org/p/", "k=v"),
        ("https://a.org/", "k=v; Secure", "http://a.org/", ""),
        ("http://a.org/", "k=v; Secure", "https://a.org/", ""),
        ("https://a.org/", "k=v; HttpOnly; SameSite=Strict", "http://a.org/", "k=v"),
        ("https://a.org/", "k=v; Max-Age=0", "https://a.org/", ""),
        ("https://a.org/", "v", "https://a.org/", "v"),
    ],
)
def test_which_cookies_are_stored_and_sent(jar: CookieJar, url: str, field: str, asked: str, expected: str) -> None:
    put(jar, url, field)
    assert sent(jar, asked) == expected


@pytest.mark.parametrize("domain", ["org", "co.uk", "github.io", "unknown-tld"])
def test_nothing_is_stored_for_a_public_suffix(jar: CookieJar, domain: str) -> None:
    put(jar, f"https://a.{domain}/", f"k=v; Domain={domain}")
    assert len(jar) == 0


@pytest.mark.parametrize(
    ("url", "field", "stored"),
    [
        ("https://a.org/", "__Secure-k=v; Secure", True),
        ("https://a.org/", "__Secure-k=v", False),
        ("https://a.org/", "__secure-k=v", False),
        ("http://a.org/", "__Secure-k=v; Secure", False),
        ("https://a.org/x/y", "__Host-k=v; Secure; Path=/", True),
        ("https://a.org/", "__Host-k=v; Secure", False),
        ("https://a.org/", "__Host-k=v; Path=/", False),
        ("https://a.org/", "__HOST-k=v; Secure; Path=/x", False),
        ("https://a.org/", "__Host-k=v; Secure; Path=/; Domain=a.org", False),
        ("https://a.org/", "=__Host-k=v", False),
        ("https://a.org/", "__Secure-k", False),
    ],
)
def test_name_prefixes_are_enforced(jar: CookieJar, url: str, field: str, stored: bool) -> None:
    put(jar, url, field)
    assert len(jar) == stored


def test_cookies_are_sent_by_path_length_then_age(jar: CookieJar) -> None:
    put(jar, "https://a.org/x/y", "one=1; Path=/", "two=2; Path=/x", "three=3; Path=/", "four=4; Path=/x/y")
    put(jar, "https://a.org/", "one=new; Path=/")
    assert sent(jar, "https://a.org/x/y") == "four=4; two=2; one=new; three=3"


def test_expired_cookies_are_not_sent_and_can_be_removed(jar: CookieJar, clock: Clock) -> None:
    put(jar, "https://a.org/", "a=1; Max-Age=10", "b=2")
    clock.now += 10
    assert sent(jar, "https://a.org/") == "b=2"
    put(jar, "https://a.org/", "b=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "a=; Max-Age=0")
    assert len(jar) == 0 and list(jar) == []


@pytest.mark.parametrize(
    ("field", "replaced"),
    [("k=evil", False), ("k=evil; Domain=a.org", False), ("k=evil; Path=/x/y", False), ("other=evil", True)],
)
def test_without_tls_a_secure_cookie_is_neither_replaced_nor_shadowed(
    jar: CookieJar, field: str, replaced: bool
) -> None:
    put(jar, "https://a.org/", "k=good; Secure; Path=/x")
    put(jar, "http://www.a.org/x/" if "Domain" in field else "http://a.org/x/", field)
    assert ("evil" in sent(jar, "http://a.org/x/y")) is replaced
    assert "k=good" in sent(jar, "https://a.org/x/y")


def test_a_site_is_bounded_and_cannot_evict_cookies_of_another(jar: CookieJar) -> None:
    put(jar, "https://victim.org/", "k=v")
    for number in range(3 * limits.HTTP_COOKIES_PER_SITE):
        put(jar, f"https://h{number % 7}.evil.org/", f"c{number}=v; Domain=evil.org")
        assert len(jar) <= 1 + limits.HTTP_COOKIES_PER_SITE
    assert sent(jar, "https://victim.org/") == "k=v"
    newest = 3 * limits.HTTP_COOKIES_PER_SITE - 1
    assert f"c{newest}=v" in sent(jar, "https://evil.org/")


def test_an_address_is_its_own_site(jar: CookieJar) -> None:
    put(jar, "http://10.9.0.1/", "k=v")
    for number in range(limits.HTTP_COOKIES_PER_SITE + 5):
        put(jar, "http://6.6.0.1/", f"c{number}=v")
        put(jar, "http://[::1]/", f"c{number}=v")
    assert sent(jar, "http://10.9.0.1/") == "k=v"


def test_secure_cookies_are_evicted_last(jar: CookieJar) -> None:
    put(jar, "https://a.org/", "safe=1; Secure")
    for number in range(limits.HTTP_COOKIES_PER_SITE + 5):
        put(jar, "https://a.org/", f"c{number}=v")
    assert "safe=1" in sent(jar, "https://a.org/")


def test_the_number_of_cookies_is_bounded(jar: CookieJar) -> None:
    for number in range(limits.HTTP_COOKIES + 200):
        put(jar, f"https://host{number}.org/", "k=v")
        assert len(jar) == sum(1 for _ in jar) <= limits.HTTP_COOKIES
    assert sent(jar, "https://host0.org/") == "" and sent(jar, f"https://host{number}.org/") == "k=v"


def test_expired_cookies_are_evicted_first(jar: CookieJar, clock: Clock) -> None:
    put(jar, "https://a.org/", "old=1", "gone=1; Max-Age=1")
    for number in range(limits.HTTP_COOKIES_PER_SITE - 2):
        put(jar, "https://a.org/", f"c{number}=v")
    clock.now += 5
    put(jar, "https://a.org/", "new=1")
    assert sent(jar, "https://a.org/").startswith("old=1; ") and len(jar) == limits.HTTP_COOKIES_PER_SITE


def test_the_size_of_the_cookie_field_is_bounded(jar: CookieJar) -> None:
    put(jar, "https://a.org/", *(f"c{number}={'v' * 4000}" for number in range(9)))
    assert 8000 < len(sent(jar, "https://a.org/")) <= limits.HTTP_COOKIE_FIELD_SIZE


def test_values_are_not_shown(jar: CookieJar) -> None:
    put(jar, "https://a.org/", "k=secret")
    assert "secret" not in repr(list(jar))


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_the_client_keeps_and_sends_cookies(loop: str) -> None:
    async def main() -> None:
        told: list[str | None] = []

        async def serve(peer: Peer) -> None:
            while True:
                line, fields, _ = await peer.request()
                told.append(fields.get("cookie"))
                target = line.split()[1]
                extra = "Location: /end\r\n" if target == "/start" else ""
                status = "302 Found" if target == "/start" else "200 OK"
                await peer.send(
                    f"HTTP/1.1 {status}\r\nSet-Cookie: at{target[1:]}=1\r\n{extra}Content-Length: 0\r\n\r\n".encode()
                )

        jar = CookieJar()
        async with serving(serve) as server, HttpClient(cookies=jar) as client:
            await client.get(server.url + "/start")
            async with client.stream("GET", server.url + "/stream"):
                pass
            await client.get(server.url + "/end")
            await client.get(server.url + "/end", headers={"Cookie": "own=1"})
            async with HttpClient() as plain:
                await plain.get(server.url + "/end")
        assert told == [None, "atstart=1", "atstart=1; atend=1", "atstart=1; atend=1; atstream=1", "own=1", None]

    run_on(loop, main())
