"""Proxies: their URLs, the environment as curl reads it, NO_PROXY, and what a request through one looks like."""

import pytest

from corenet.http import HttpClient, InvalidUrl, Proxies, Proxy, parse_url
from corenet.http.routes import Router


@pytest.mark.parametrize(
    ("text", "kind", "secure", "host", "port", "resolves"),
    [
        ("http://proxy.example:3128", "http", False, "proxy.example", 3128, True),
        ("proxy.example:3128", "http", False, "proxy.example", 3128, True),
        ("proxy.example", "http", False, "proxy.example", 1080, True),
        ("HTTPS://proxy.example/", "http", True, "proxy.example", 443, True),
        ("socks5://127.0.0.1", "socks5", False, "127.0.0.1", 1080, False),
        ("socks5h://[::1]", "socks5", False, "::1", 1080, True),
        ("socks5h://[::1]:80", "socks5", False, "::1", 80, True),
        ("http://proxy.example:80", "http", False, "proxy.example", 80, True),
    ],
)
def test_a_proxy_url_is_split_into_its_parts(
    text: str, kind: str, secure: bool, host: str, port: int, resolves: bool
) -> None:
    proxy = Proxy(text)
    found = (proxy.kind, proxy.secure, proxy.host, proxy.port, proxy.resolves, proxy.credentials)
    assert found == (kind, secure, host, port, resolves, None)
    assert proxy.authorization == []


def test_credentials_are_decoded_and_never_shown() -> None:
    proxy = Proxy("http://us%40er:pass:w%C3%B6rd@proxy.example")
    assert proxy.credentials == (b"us@er", "pass:wörd".encode())
    assert proxy.authorization == [(b"Proxy-Authorization", b"Basic dXNAZXI6cGFzczp3w7ZyZA==")]
    assert "pass" not in repr(proxy) + str(proxy) and "us@er" not in repr(proxy) + str(proxy)
    assert Proxy("http://a:b@p") != Proxy("http://a:c@p") and Proxy("http://a:b@p") == Proxy("http://a:b@p")


@pytest.mark.parametrize(
    "text",
    ["", "ftp://proxy", "socks4://proxy", "http://", "http://secret:secret@", "http://secret:secret@pro xy",
     "http://proxy/path", "http://proxy?q", "http://proxy:0", "http://proxy:70000", "http://sec%3Aret:x@proxy",
     "http://a:secret%0d%0a@proxy", "socks5://:secret@proxy", "socks5://secret@proxy", "http://secret@[::1",
     f"socks5://secret:{'x' * 256}@proxy", "user:secret://x@proxy"],
)  # fmt: skip
def test_unusable_urls_are_refused(text: str) -> None:
    with pytest.raises(InvalidUrl) as refused:
        Proxy(text)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "http", "https"),
    [
        ({}, None, None),
        ({"http_proxy": "a"}, "a", None),
        ({"HTTP_PROXY": "a"}, None, None),
        ({"HTTPS_PROXY": "a"}, None, "a"),
        ({"https_proxy": "b", "HTTPS_PROXY": "a"}, None, "b"),
        ({"ALL_PROXY": "a"}, "a", "a"),
        ({"all_proxy": "b", "ALL_PROXY": "a"}, "b", "b"),
        ({"https_proxy": "", "all_proxy": "a"}, "a", "a"),
        ({"http_proxy": "c", "all_proxy": "a"}, "c", "a"),
        ({"all_proxy": "a", "no_proxy": "*"}, None, None),
        ({"all_proxy": "a", "NO_PROXY": "www.example.org"}, None, None),
        ({"all_proxy": "a", "no_proxy": "other", "NO_PROXY": "www.example.org"}, "a", "a"),
    ],
)
def test_the_environment_is_read_as_curl_reads_it(
    environment: dict[str, str], http: str | None, https: str | None
) -> None:
    proxies = Proxies.from_environment(environment)
    found = [proxies.find(parse_url(f"{scheme}://www.example.org/")) for scheme in ("http", "https")]
    assert [None if proxy is None else proxy.host for proxy in found] == [http, https]


def test_the_environment_names_the_variable_that_is_wrong() -> None:
    with pytest.raises(InvalidUrl, match="HTTPS_PROXY"):
        Proxies.from_environment({"HTTPS_PROXY": "gopher://x"})


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("example.org", "http://example.org/", True),
        ("example.org", "http://www.example.org/", True),
        (".example.org", "http://www.example.org/", True),
        (".example.org", "http://example.org/", True),
        ("example.org.", "http://www.example.org/", True),
        ("example.org", "http://www.EXAMPLE.org./", True),
        ("EXAMPLE.org", "http://example.org/", True),
        ("example.org", "http://notexample.org/", False),
        ("example.org", "http://example.org.evil/", False),
        ("a, example.org b", "http://example.org/", True),
        ("*", "http://anything/", True),
        ("*, a", "http://anything/", False),
        ("*.example.org", "http://www.example.org/", False),
        ("example.org:8080", "http://example.org:8080/", True),
        ("example.org:8080", "http://example.org/", False),
        ("example.org:443", "https://example.org/", True),
        ("192.0.2.1", "http://192.0.2.1/", True),
        ("192.0.2.1:81", "http://192.0.2.1/", False),
        ("192.0.2.0/24", "http://192.0.2.77/", True),
        ("192.0.2.7/24", "http://192.0.2.77/", True),
        ("192.0.2.0/25", "http://192.0.2.200/", False),
        ("192.0.2.0/33", "http://192.0.2.1/", False),
        ("2001:db8::/32", "http://[2001:db8::1]/", True),
        ("2001:db8::/32", "http://[2001:db9::1]/", False),
        ("[2001:db8::1]", "http://[2001:db8::1]/", True),
        ("[2001:db8::1]:81", "http://[2001:db8::1]:81/", True),
        ("::1", "http://[::1]/", True),
        ("2.1", "http://192.0.2.1/", False),
        ("0.0.0.0/0", "http://[::1]/", False),
        ("", "http://a/", False),
        (" , .", "http://a/", False),
    ],
)
def test_no_proxy_excludes_hosts(no_proxy: str, url: str, direct: bool) -> None:
    proxies = Proxies(http="proxy", https="proxy", no_proxy=no_proxy)
    assert (proxies.find(parse_url(url)) is None) is direct


MINE = (b"proxy-authorization", b"mine")


def test_only_a_proxy_that_forwards_gets_the_absolute_form_and_the_credentials() -> None:
    router = Router("http://u:p@proxy", None, None)
    target, fields = router.request(parse_url("http://a.example:81/x?y#z"), [(b"Host", b"a")])
    assert target == b"http://a.example:81/x?y"
    assert fields == [(b"Host", b"a"), (b"Proxy-Authorization", b"Basic dTpw")]
    assert router.request(parse_url("http://a/"), [MINE])[1] == [MINE]
    assert router.request(parse_url("https://a/x"), [(b"Host", b"a"), MINE]) == (b"/x", [(b"Host", b"a")])
    assert Router("socks5://u:p@proxy", None, None).request(parse_url("http://a/x"), [MINE]) == (b"/x", [])
    # Without a proxy the caller can only mean the origin, as for curl.
    assert Router(None, "/run/socket", None).request(parse_url("http://a/x"), [MINE]) == (b"/x", [MINE])


def test_the_key_of_the_pool_has_the_proxy_and_its_credentials() -> None:
    url = parse_url("https://a/")
    keys = {Router(proxy, None, None).key(url) for proxy in ("http://p", "http://q", "http://u:1@p", "http://u:2@p")}
    assert len(keys | {Router(None, "/s", None).key(url), Router(None, None, "127.0.0.1").key(url)}) == 6
    assert Router("http://u:1@p", None, None).key(url) in keys


def test_contradicting_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unix_socket"):
        Router("http://p", "/run/socket", None)
    with pytest.raises(ValueError, match="local_address"):
        Router(None, None, "localhost")
    for proxy, path in (("http://p", None), (None, "/run/socket")):
        with pytest.raises(ValueError, match="connect_to: proxy and unix_socket cannot be used"):
            Router(proxy, path, None, "127.0.0.1")
    with pytest.raises(ValueError, match="connect_to: 'localhost' is not an IP address"):
        Router(None, None, None, "localhost")
    for option in ("https_records", "dane"):
        with pytest.raises(ValueError, match="connect_to: https_records and dane"):
            HttpClient(connect_to="127.0.0.1", **{option: True})
