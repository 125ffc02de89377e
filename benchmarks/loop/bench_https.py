"""The HTTPS client against others, with nginx as the server: 50 streams of HTTP/2, and new connections.

Both clients run in this process, one after the other in the slices of `ratio`. A response has six octets.
"""

import asyncio
import io
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ratio import Contender
from support.nginx import Nginx, find_nginx

import corenet
from corenet.http import HttpClient
from corenet.tls import ALPN_HTTP2, client_context

STREAMS = 50
PATH = "/hello"
# libcurl sometimes waits for a time instead of a socket, for example when nginx has ended the connection.
SELECT_SECONDS = 0.01

pytestmark = pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed (Debian package nginx-light)")


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """The server."""
    program = find_nginx()
    assert program is not None
    with Nginx(program, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@contextmanager
def on_loop(loop: asyncio.AbstractEventLoop, make: Callable[[], Any]) -> Iterator[Any]:
    """What `make` returns as an async context manager, open on `loop`, which is closed afterwards."""

    async def enter() -> tuple[Any, Any]:
        manager = make()
        return manager, await manager.__aenter__()

    try:
        manager, entered = loop.run_until_complete(enter())
        try:
            yield entered
        finally:
            loop.run_until_complete(manager.__aexit__(None, None, None))
    finally:
        loop.close()


@contextmanager
def corenet_client(url: str, **options: Any) -> Iterator[tuple[asyncio.AbstractEventLoop, Callable]]:
    """Our client: its loop, and the function that gets `url` once."""
    loop = corenet.new_event_loop()
    with on_loop(loop, lambda: HttpClient(decode=False, **options)) as client:

        async def get() -> None:
            response = await client.get(url)
            assert response.status == 200 and response.body == b"hello\n"

        yield loop, get


@contextmanager
def streams_of_corenet(nginx: Nginx) -> Iterator[Contender]:
    """A contender: one operation is one request, `STREAMS` at once on one connection."""
    context = client_context(cafile=str(nginx.authority.cafile), alpn=ALPN_HTTP2)
    with corenet_client(nginx.http2_url + PATH, tls_context=context) as (loop, get):

        async def requests(count: int) -> None:
            for _ in range(count // STREAMS):
                await asyncio.gather(*(get() for _ in range(STREAMS)))

        loop.run_until_complete(requests(STREAMS))
        yield Contender("corenet", lambda count: loop.run_until_complete(requests(count)), batch=STREAMS)


@contextmanager
def streams_of_pycurl(nginx: Nginx) -> Iterator[Contender]:
    """The same with pycurl's multi interface."""
    import pycurl

    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
    handles = []
    for _ in range(STREAMS):
        handle = pycurl.Curl()
        handle.setopt(pycurl.URL, nginx.http2_url + PATH)
        handle.setopt(pycurl.CAINFO, str(nginx.authority.cafile))
        handle.setopt(pycurl.PROXY, "")
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.PIPEWAIT, 1)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        handles.append(handle)

    def once() -> None:
        """`STREAMS` requests at once."""
        bodies = [io.BytesIO() for _ in handles]
        for handle, body in zip(handles, bodies, strict=True):
            handle.setopt(pycurl.WRITEDATA, body)
            multi.add_handle(handle)
        _, left = multi.perform()
        while left:
            multi.select(SELECT_SECONDS)
            _, left = multi.perform()
        for handle, body in zip(handles, bodies, strict=True):
            multi.remove_handle(handle)
            assert handle.getinfo(pycurl.RESPONSE_CODE) == 200 and body.getvalue() == b"hello\n"

    def run(count: int) -> None:
        for _ in range(count // STREAMS):
            once()

    once()
    assert all(handle.getinfo(pycurl.INFO_HTTP_VERSION) == pycurl.CURL_HTTP_VERSION_2_0 for handle in handles)
    try:
        yield Contender("pycurl", run, batch=STREAMS)
    finally:
        multi.close()
        for handle in handles:
            handle.close()


def address(nginx: Nginx) -> str:
    """The URL with an address as host, because aiohttp caches what the system's resolver answers and we do not."""
    return f"https://127.0.0.1:{nginx.https}{PATH}"


@contextmanager
def connections_of_corenet(nginx: Nginx) -> Iterator[Contender]:
    """A contender: one operation is one request on a new connection with a full handshake."""
    context = client_context(cafile=str(nginx.authority.cafile), resume=False)
    url = address(nginx)
    with corenet_client(url, tls_context=context, headers={"connection": "close"}) as (loop, get):

        async def requests(count: int) -> None:
            for _ in range(count):
                await get()

        yield Contender("corenet", lambda count: loop.run_until_complete(requests(count)))


@contextmanager
def connections_of_aiohttp(nginx: Nginx) -> Iterator[Contender]:
    """The same with aiohttp on asyncio's loop."""
    import aiohttp

    context = ssl.create_default_context(cafile=str(nginx.authority.cafile))
    loop, url = asyncio.new_event_loop(), address(nginx)

    def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, force_close=True))

    with on_loop(loop, make) as session:

        async def requests(count: int) -> None:
            for _ in range(count):
                async with session.get(url) as response:
                    assert response.status == 200 and await response.read() == b"hello\n"

        yield Contender("aiohttp", lambda count: loop.run_until_complete(requests(count)))


def test_http2_streams(pair, nginx: Nginx) -> None:
    pytest.importorskip("pycurl")
    with streams_of_corenet(nginx) as ours, streams_of_pycurl(nginx) as base:
        pair("http2_50/pycurl", ours, base)


def test_https_connections(pair, nginx: Nginx) -> None:
    pytest.importorskip("aiohttp")
    with connections_of_corenet(nginx) as ours, connections_of_aiohttp(nginx) as base:
        pair("https_full/aiohttp", ours, base)
    opened = [line for line in nginx.log(PATH) if line.protocol != "-"]
    assert not any(line.resumed for line in opened)
