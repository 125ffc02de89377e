"""An argument of a wrong type raises a TypeError that names the argument, what it takes, and the type that it has."""

import ast
import asyncio
import io
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from corenet.http import (
    BasicAuth,
    BearerAuth,
    Cache,
    CookieJar,
    DigestAuth,
    HstsStore,
    HttpClient,
    Limits,
    NetrcAuth,
    Proxies,
    Proxy,
    Retries,
    Timeout,
    parse_url,
)

# What is made, the argument, wrong values of it, and a part of the message.
CONSTRUCTORS: list[tuple[Callable[..., Any], str, list[Any], str]] = [
    (HttpClient, "tls_context", ["system", True], "HttpClient tls_context is an ssl.SSLContext or None"),
    (HttpClient, "http2", ["no", 1, None], "HttpClient http2 is True or False"),
    (HttpClient, "timeout", ["5", (3, 10)], "timeout= is a number of seconds or a corenet.http.Timeout"),
    (HttpClient, "timeout", [True], "Timeout total is a number of seconds"),
    (HttpClient, "limits", [100, {}], "HttpClient limits is a corenet.http.Limits or None"),
    (HttpClient, "headers", ["Accept: x", 5, b"ab"], "headers are a mapping or (name, value) pairs"),
    (HttpClient, "headers", [["Accept: x"], [5], [("a", "b", "c")]], "is not a pair"),
    (HttpClient, "headers", [{"a": 1}, {1: "a"}, [("a", None)]], "the name and the value of a field"),
    (HttpClient, "trace", ["text"], "HttpClient trace is a callable"),
    (HttpClient, "follow_redirects", ["yes", 1.5, None], "HttpClient follow_redirects is a whole number"),
    (HttpClient, "allow_downgrade", [0], "HttpClient allow_downgrade is True or False"),
    (HttpClient, "decode", ["gzip"], "HttpClient decode is True or False"),
    (HttpClient, "max_body", ["1", 1e6, None], "HttpClient max_body is a whole number (bytes)"),
    (HttpClient, "max_decoded", ["1"], "HttpClient max_decoded is a whole number (bytes)"),
    (HttpClient, "max_head", ["1"], "HttpClient max_head is a whole number (bytes)"),
    (HttpClient, "base_url", [parse_url("http://a/"), b"http://a/"], "HttpClient base_url is a str or None"),
    (HttpClient, "auth", ["user", ["user", "secret"], ("user", 1), 5], "auth= is an Auth or (user name, password)"),
    (HttpClient, "url_credentials", [None], "HttpClient url_credentials is True or False"),
    (HttpClient, "retries", [3, True], "HttpClient retries is a corenet.http.Retries or None"),
    (HttpClient, "expect_continue", [1], "HttpClient expect_continue is True or False"),
    (HttpClient, "proxy", [{"http": "http://a"}, b"http://a", 5], "HttpClient proxy is a URL as str, a Proxy, Proxies"),
    (HttpClient, "trust_env", ["1"], "HttpClient trust_env is True or False"),
    (HttpClient, "https_records", [1, "yes"], "HttpClient https_records is True or False"),
    (HttpClient, "dane", [None], "HttpClient dane is True or False"),
    (HttpClient, "unix_socket", [b"/run/a", Path("/run/a")], "HttpClient unix_socket is a str or None"),
    (HttpClient, "connect_to", [5, ("127.0.0.1", 0)], "HttpClient connect_to is a str or None"),
    (HttpClient, "local_address", [5, ("127.0.0.1", 0)], "HttpClient local_address is a str or None"),
    (HttpClient, "cookies", [{"a": "b"}, True], "HttpClient cookies is a corenet.http.CookieJar or None"),
    (HttpClient, "hsts", [True], "HttpClient hsts is a corenet.http.HstsStore or None"),
    (HttpClient, "cache", [True, "/tmp/cache"], "HttpClient cache is a corenet.http.Cache or None"),
    (Cache, "path", [5, b"cache"], "Cache path is a str, a path or None"),
    (Cache, "max_bytes", ["64M", 1e9, True], "Cache max_bytes is a whole number (bytes)"),
    (Cache, "clock", [5.0], "Cache clock is a callable"),
    (CookieJar, "clock", [None], "CookieJar clock is a callable"),
    (HstsStore, "clock", [None], "HstsStore clock is a callable"),
    (Proxy, "url", [None, 8080, b"http://a"], "Proxy url is a str"),
    (lambda **given: Proxy("http://a", **given), "tls_context", [True], "Proxy tls_context is an ssl.SSLContext"),
    (Proxies, "http", [5, b"http://a"], "Proxies http is a URL as str, a Proxy or None"),
    (Proxies, "https", [{}], "Proxies https is a URL as str, a Proxy or None"),
    (Proxies, "no_proxy", [None, ["localhost"]], "Proxies no_proxy is a str"),
    (Retries, "count", ["3", 1.5, True, None], "Retries count is a whole number (retries)"),
    (Retries, "statuses", [503], "Retries statuses is an iterable of status codes"),
    (Retries, "statuses", ["503", [503, "429"]], "each of Retries statuses is an int, not str"),
    (Retries, "max_delay", ["10", None, True], "Retries max_delay is a number (seconds)"),
    (Limits, "connections", ["100", 1.5, None], "Limits connections is a whole number (connections)"),
    (Limits, "per_origin", [2.0], "Limits per_origin is a whole number (connections)"),
    (Limits, "streams", [True], "Limits streams is a whole number (requests)"),
    (Limits, "keepalive_timeout", ["5", None], "Limits keepalive_timeout is a number (seconds)"),
    (Timeout, "connect", [None, "5", True, Decimal(5)], "Timeout connect is a number of seconds"),
    (Timeout, "read", [(1, 2)], "Timeout read is a number of seconds"),
    (Timeout, "total", [None], "Timeout total is a number of seconds (math.inf: no limit), not NoneType"),
    (Timeout, "pool", ["5"], "Timeout pool is a number of seconds"),
    (
        lambda **given: BasicAuth(**{"user": "a", "password": "b", **given}),
        "user",
        [5, b"a"],
        "BasicAuth user is a str",
    ),
    (lambda **given: BasicAuth(**{"user": "a", **given}), "password", [None], "BasicAuth password is a str"),
    (BearerAuth, "token", [None, b"a"], "BearerAuth token is a str"),
    (lambda **given: DigestAuth(password="b", **given), "user", [b"a"], "DigestAuth user is a str"),
    (lambda **given: DigestAuth("a", **given), "password", [None], "DigestAuth password is a str"),
    (lambda **given: DigestAuth("a", "b", **given), "random", ["x"], "DigestAuth random is a callable"),
    (NetrcAuth, "path", [5, b"netrc"], "NetrcAuth path is a str, a path or None"),
]

# The argument of a request, wrong values of it, and a part of the message.
REQUESTS: list[tuple[str, list[Any], str]] = [
    ("method", [None, b"GET", 5], "method= is a str"),
    ("url", [None, b"http://a/", 5, ("a", "b")], "a URL is a str"),
    ("headers", ["Accept: x", 5], "headers are a mapping or (name, value) pairs"),
    ("headers", [["Accept: x"]], "'Accept: x' is not a pair"),
    ("headers", [{"a": 1}], "the name and the value of a field are str or bytes, not int"),
    ("timeout", ["5", (3, 10)], "timeout= is a number of seconds or a corenet.http.Timeout"),
    ("body", ["text", {"a": "b"}], "a body is bytes or yields bytes"),
    ("content", [5, object()], "a body is bytes, a binary file, a Path or an iterable of bytes"),
    ("content", [io.StringIO("text")], "opened as text"),
    ("json", [{1, 2}, {"a": b"b"}, object()], "json= cannot be sent"),
    ("data", [5, object()], "data= is a mapping or an iterable of pairs"),
    ("data", ["a=b", b"a=b"], "data= is a form"),
    ("data", [["a=b"], {5: "a"}], "data= is a mapping or an iterable of pairs"),
    ("data", [{"a": object()}], "data['a'] is str, bytes, a number, bool or None, not object"),
    ("params", [5, b"a=b"], "params= is a mapping or an iterable of pairs"),
    ("params", [{"a": {"b": object()}, "c": object()}], "params['c'] is str"),
    ("files", [5, "a.txt", b"content"], "files= is a mapping or an iterable of (name, file)"),
    ("files", [["a.txt"]], "files= is a mapping or an iterable of (name, file)"),
    ("files", [{"a": 5}], "files['a'] is bytes, str, a path or a binary file, not int"),
    ("files", [{"a": ("name",)}, {"a": (5, b"x")}], "files['a'] is a file, (file name, content)"),
    ("auth", ["user", ["user", "secret"], ("user", None)], "auth= is an Auth or (user name, password)"),
    ("retries", [3, True], "retries= is a corenet.http.Retries"),
    ("expect_continue", [1, "yes"], "expect_continue= is True, False or None"),
    ("follow_redirects", [True], "a request has no argument 'follow_redirects'"),
]


@pytest.mark.parametrize(
    ("make", "name", "wrong", "text"), CONSTRUCTORS, ids=[f"{row[3].split(' is ')[0]}-{row[1]}" for row in CONSTRUCTORS]
)
def test_constructors_check_the_types_of_their_arguments(
    make: Callable[..., Any], name: str, wrong: list[Any], text: str
) -> None:
    for value in wrong:
        with pytest.raises(TypeError, match=re.escape(text)):
            make(**{name: value})


def test_every_argument_of_a_client_is_in_the_table() -> None:
    arguments = set(HttpClient.__init__.__annotations__) - {"return"}
    assert {name for make, name, _, _ in CONSTRUCTORS if make is HttpClient} == arguments


@pytest.mark.parametrize(("name", "wrong", "text"), REQUESTS, ids=[f"{row[0]}-{row[2][:24]}" for row in REQUESTS])
@pytest.mark.parametrize("stream", [False, True])
def test_requests_check_the_types_of_their_arguments(name: str, wrong: list[Any], text: str, stream: bool) -> None:
    async def main() -> None:
        async with HttpClient() as client:
            for value in wrong:
                given: dict[str, Any] = {"method": "POST", "url": "http://127.0.0.1:9/", name: value}
                with pytest.raises(TypeError, match=re.escape(text)):
                    await (client.stream(**given).__aenter__() if stream else client.request(**given))

    asyncio.run(main())


def test_a_url_is_checked_before_it_is_joined() -> None:
    async def main() -> None:
        async with HttpClient(base_url="http://127.0.0.1:9/") as client:
            for options in ({}, {"params": {"a": "b"}}):
                with pytest.raises(TypeError, match="a URL is a str, not NoneType"):
                    await client.get(None, **options)  # type: ignore[arg-type]

    asyncio.run(main())


def test_absent_arguments_and_subclasses_are_accepted() -> None:
    """None where an argument may be absent, subclasses, and the switch of other clients for redirects."""

    class Text(str):
        pass

    assert HttpClient(follow_redirects=True)._redirects == 10 and HttpClient(follow_redirects=False)._redirects == 0
    assert Retries(count=1, statuses=iter((500,)), max_delay=1.5).statuses == {500}
    assert Limits(keepalive_timeout=5).keepalive_timeout == 5
    assert Timeout(connect=1, pool=None).connect == 1
    assert Proxy(Text("http://a")).host == "a" and parse_url(Text("http://a/")).host == "a"

    async def main() -> None:
        async with HttpClient(expect_continue=True) as client:
            prepared = client._prepare(b"x", {"expect_continue": None, "json": None, "files": None, "params": None})
            assert prepared.body == b"x"

    asyncio.run(main())


@pytest.mark.checkout
def test_the_sample_for_type_checkers_has_every_public_name() -> None:
    import corenet.http

    sample = Path(__file__).parents[3] / "typed" / "http_client.py"
    used = {node.id for node in ast.walk(ast.parse(sample.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
    assert set(corenet.http.__all__) - used == set()
