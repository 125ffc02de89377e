"""How programs use the HTTP client, for type checkers alone: mypy checks it in strict mode, and it never runs.

Each public name of `corenet.http` and its adapters is here, with the type that a program sees. `assert_type` fails when
an annotation becomes Any, or wider or narrower than documented.
"""

import math
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

import aiohttp
import httpx

import corenet
import corenet.adapters.aiohttp
import corenet.adapters.httpx
from corenet.http import (
    Auth,
    BasicAuth,
    BearerAuth,
    Cache,
    ConnectError,
    ConnectionFacts,
    Cookie,
    CookieJar,
    DecodeError,
    DigestAuth,
    Headers,
    HstsStore,
    Http2Error,
    HttpClient,
    HttpError,
    HttpStatusError,
    Informational,
    InvalidUrl,
    Limits,
    Link,
    LocalProtocolError,
    NameResolutionError,
    NetrcAuth,
    Origin,
    Proxies,
    Proxy,
    ProxyError,
    RedirectError,
    RemoteProtocolError,
    RequestOptions,
    Response,
    ResponseTooLarge,
    Retries,
    ServerDisconnected,
    ServerSentEvent,
    StreamedResponse,
    Timeout,
    TimeoutExceeded,
    TlsError,
    TracePoint,
    Url,
    get,
    parse_url,
)
from corenet.tls import ALPN_HTTP2, client_context

SITE = "https://www.example/"


def on_step(point: TracePoint) -> None:
    assert_type(point.name, str)
    assert_type(point.time, float)
    assert_type(point.details, Mapping[str, Any])


def clients(folder: Path) -> Iterator[HttpClient]:
    """Every argument of a client, each form of it."""
    yield HttpClient()
    yield corenet.HttpClient(timeout=5)
    yield HttpClient(
        tls_context=client_context(alpn=ALPN_HTTP2),
        http2=False,
        timeout=Timeout(connect=1, read=2.5, total=math.inf, pool=None),
        limits=Limits(connections=10, per_origin=2, keepalive_timeout=5.5, streams=10),
        headers={"User-Agent": "sample"},
        trace=on_step,
        follow_redirects=3,
        allow_downgrade=True,
        decode=False,
        max_body=1 << 20,
        max_decoded=1 << 20,
        max_head=4096,
        base_url=SITE,
        auth=("user", "secret"),
        url_credentials=True,
        retries=Retries(2, {503}, max_delay=1.5),
        expect_continue=True,
        cookies=CookieJar(),
        hsts=HstsStore(),
        cache=Cache(folder / "cache", max_bytes=1 << 20),
    )
    yield HttpClient(headers=None, follow_redirects=False, cache=Cache(), auth=BearerAuth("token"))
    yield HttpClient(headers=[("a", "b"), (b"c", b"d")], auth=NetrcAuth(folder / "netrc"))
    yield HttpClient(headers=Headers.of({"a": "b"}), auth=DigestAuth("user", "secret"))
    yield HttpClient(tls_context=ssl.create_default_context(), proxy="http://proxy:3128", local_address="127.0.0.1")
    yield HttpClient(proxy=Proxy("https://proxy", tls_context=client_context()))
    yield HttpClient(proxy=Proxies(http="http://proxy", https=Proxy("socks5h://proxy"), no_proxy="localhost"))
    yield HttpClient(trust_env=True)
    yield HttpClient(unix_socket="/run/socket")


async def requests(client: HttpClient, folder: Path) -> None:
    """Every method and every argument of a request."""
    assert_type(await get(SITE, timeout=5), Response)
    assert_type(await corenet.get(SITE, trace=on_step), Response)
    assert_type(await client.get(SITE), Response)
    assert_type(await client.head(SITE, headers={"a": "b"}), Response)
    assert_type(await client.delete(SITE, timeout=Timeout(total=1)), Response)
    assert_type(await client.post(SITE, b"body"), Response)
    assert_type(await client.put(SITE, bytearray(b"body")), Response)
    assert_type(await client.patch(SITE, memoryview(b"body")), Response)
    assert_type(await client.request("OPTIONS", SITE, body=None), Response)
    await client.get(SITE, params={"a": 1, "b": ["x", "y"], "c": None, "d": True, "e": 1.5})
    await client.get(SITE, params=[("a", "b"), ("a", 1)])
    await client.get(SITE, params="a=b", auth=None, retries=None, expect_continue=False)
    await client.post(SITE, json={"a": [1, None]})
    await client.post(SITE, data={"a": "b"}, files={"file": folder / "a.txt"})
    with (folder / "a.txt").open("rb") as file:
        await client.post(SITE, file)
        await client.post(SITE, content=file)
        await client.post(SITE, files={"file": ("a.txt", file, "text/plain")})
        await client.post(SITE, files=[("file", ("a.txt", b"content")), ("text", "content"), ("value", (None, "v"))])
    await client.put(SITE, content=folder / "a.txt")
    await client.put(SITE, content=[b"a", b"b"])
    await client.put(SITE, content=pieces())
    options: RequestOptions = {"params": {"page": 1}, "retries": Retries()}
    await client.get(SITE, **options)
    await client.close()


async def pieces() -> AsyncIterator[bytes]:
    yield b"piece"


def responses(response: Response) -> None:
    """What a whole response has."""
    assert_type(response.status, int)
    assert_type(response.reason, str)
    assert_type(response.headers, Headers)
    assert_type(response.headers["a"], str)
    assert_type(response.headers.get("a"), str | None)
    assert_type(response.headers.get("a", ""), str)
    assert_type(response.headers.get_list("a"), list[str])
    assert_type("a" in response.headers, bool)
    assert_type(list(response.headers), list[tuple[str, str]])
    assert_type(response.headers.raw, list[tuple[bytes, bytes]])
    assert_type(response.body, bytes)
    assert_type(response.text, str)
    assert_type(response.json(), Any)
    assert_type(response.encoding, str)
    assert_type(response.is_success, bool)
    assert_type(response.url, str)
    assert_type(response.method, str)
    assert_type(response.http_version, str)
    assert_type(response.trailers, Headers)
    assert_type(response.history, tuple[Response, ...])
    assert_type(response.elapsed, float)
    assert_type(response.informational, tuple[Informational, ...])
    assert_type(response.links, list[Link])
    assert_type(response.links[0].url, str)
    assert_type(response.raise_for_status(), Response)
    facts = response.connection
    assert_type(facts, ConnectionFacts | None)
    if facts is not None:
        assert_type(facts.reused, bool)


async def streams(client: HttpClient) -> None:
    """What a streamed response has beyond that."""
    async with client.stream("GET", SITE, params={"a": "b"}) as response:
        assert_type(response, StreamedResponse)
        assert_type(response.status, int)
        assert_type(response.raise_for_status(), StreamedResponse)
        async for piece in response:
            assert_type(piece, bytes)
        async for line in response.lines():
            assert_type(line, str)
        async for event in response.events():
            assert_type(event, ServerSentEvent)
            assert_type(event.data, str)
        assert_type(await response.read(), bytes)
        assert_type(response.trailers, Headers)
        response.close()


async def errors(client: HttpClient) -> str:
    """Each error, with what it has beyond its text."""
    try:
        (await client.get(SITE)).raise_for_status()
    except HttpStatusError as error:
        assert_type(error.response, Response | StreamedResponse)
    except TimeoutExceeded as error:
        as_builtin: TimeoutError = error
        assert_type(error.phase, str)
        return str(as_builtin)
    except ProxyError as error:
        assert_type(error.status, int)
    except TlsError as error:
        assert_type(error.certificate, bool)
    except NameResolutionError as error:
        as_connect: ConnectError = error
        return str(as_connect)
    except ServerDisconnected as error:
        assert_type(error.received, bool)
        assert_type(error.unprocessed, bool)
    except (Http2Error, DecodeError) as error:
        as_remote: RemoteProtocolError = error
        return str(as_remote)
    except InvalidUrl as error:
        as_value: ValueError = error
        return str(as_value)
    except (LocalProtocolError, RedirectError, ResponseTooLarge) as error:
        as_any: HttpError = error
        return str(as_any)
    return ""


def stores(cache: Cache, jar: CookieJar, known: HstsStore) -> None:
    """What a program reads of the stores."""
    assert_type(cache.size, int)
    assert_type(len(cache), int)
    assert_type(cache.hits + cache.misses + cache.failures, int)
    cache.clear()
    cache.close()
    for cookie in jar:
        assert_type(cookie, Cookie)
        assert_type(cookie.value, str)
        assert_type(cookie.expires, float | None)
        if cookie.expires is not None:
            datetime.fromtimestamp(cookie.expires)
    jar.clear()
    assert_type(known.knows("www.example"), bool)


def urls() -> None:
    """URLs and proxies as values."""
    url = parse_url(SITE)
    assert_type(url, Url)
    assert_type(url.origin, Origin)
    assert_type(url.host, str)
    assert_type(url.port, int)
    assert_type(url.query, str | None)
    assert_type(url.join("/path"), Url)
    assert_type(Proxy("http://proxy").origin, Origin)
    assert_type(Proxies.from_environment({}), Proxies)
    assert_type(Proxies().find(url), Proxy | None)


class Signed(Auth):
    """A scheme of a program's own."""

    def authorize(self, method: str, url: Url) -> str | None:
        return BasicAuth("user", "secret").authorize(method, url)

    def identity(self) -> bytes:
        return b"user"


async def adapters() -> None:
    """httpx and aiohttp over corenet."""
    transport = corenet.adapters.httpx.Transport(http2=False, limits=Limits(per_origin=2))
    async with httpx.AsyncClient(transport=transport) as client:
        assert_type(await client.get(SITE), httpx.Response)
    connector = corenet.adapters.aiohttp.connector(limit=10)
    assert_type(connector, aiohttp.TCPConnector)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(SITE) as response:
        assert_type(response.status, int)
    resolver = corenet.adapters.aiohttp.Resolver()
    await resolver.close()
