"""HTTP_1_1_REQUIRED (RFC 9113 section 7): a request that an HTTP/2 server refuses with it is repeated over HTTP/1.1,
once."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from support.certs import Authority
from support.h2_peer import Peer, Site
from support.http_peer import LOOPS, run_on

from corenet import tls
from corenet.http import HttpClient, LocalProtocolError, ServerDisconnected
from corenet.http.events import Data, End, Request, Response
from corenet.http.h1 import SERVER, H1Codec
from corenet.http.h2_events import HTTP_1_1_REQUIRED
from corenet.http.routes import Http1Key
from corenet.http.url import Origin
from corenet.limits import HTTP1_ORIGINS

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority(tmp_path_factory.mktemp("ca"))
    found.leaf("localhost")
    return found


class Plain(asyncio.Protocol):
    """The same server over HTTP/1.1: it returns the body of a request. `refuse_plain` connections are cut off."""

    transport: asyncio.Transport

    def __init__(self, site: "Both") -> None:
        self.site = site
        self.codec = H1Codec(SERVER)
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.site.plain.append(self)

    def data_received(self, data: bytes) -> None:
        for event in self.codec.feed(data):
            if isinstance(event, Request):
                self.site.plain_requests.append(event)
                self.body = b""
            elif isinstance(event, Data):
                self.body += event.data
            elif isinstance(event, End):
                if self.site.refuse_plain:
                    self.transport.close()
                    return
                head = Response(200, [(b"content-length", b"%d" % len(self.body))])
                self.transport.write(
                    self.codec.send(head) + self.codec.send(Data(self.body)) + self.codec.send(End())
                )
                self.codec.next_cycle()


class Both(Site):
    """A server of both protocols."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse_code = HTTP_1_1_REQUIRED
        self.plain: list[Plain] = []
        self.plain_requests: list[Request] = []
        self.refuse_plain = False


class Chosen(asyncio.Protocol):
    def __init__(self, site: Both) -> None:
        self.site = site

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        multiplexed = transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        made = Peer(self.site) if multiplexed else Plain(self.site)
        transport.set_protocol(made)
        made.connection_made(transport)


@asynccontextmanager
async def serving(authority: Authority) -> AsyncIterator[Both]:
    site, folder = Both(), authority.folder
    context = tls.server_context(folder / "leaf.pem", folder / "leaf.key", alpn=tls.ALPN_HTTP2)
    listener = await asyncio.get_running_loop().create_server(lambda: Chosen(site), "127.0.0.1", 0, ssl=context)
    site.port = listener.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        listener.close()
        for peer in (*site.peers, *site.plain):
            peer.transport.abort()
        await listener.wait_closed()


def client_for(authority: Authority, **options: Any) -> HttpClient:
    return HttpClient(tls_context=tls.client_context(cafile=authority.cafile, alpn=tls.ALPN_HTTP2), **options)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_the_request_is_repeated_over_http1_and_later_ones_use_it_at_once(
    loop: str, authority: Authority, method: str
) -> None:
    async def main() -> None:
        body = b"x" if method == "POST" else None
        async with serving(authority) as site, client_for(authority) as client:
            site.refuse = 1
            answer = await client.request(method, site.url + "/echo", body=body)
            assert (answer.status, answer.http_version, answer.body) == (200, "HTTP/1.1", body or b"")
            assert (len(site.requests), len(site.plain_requests)) == (1, 1)
            again = await client.request(method, site.url + "/echo", body=body)
            assert again.http_version == "HTTP/1.1"
            assert (len(site.requests), len(site.plain_requests), len(site.plain)) == (1, 2, 1)

    run_on(loop, main())


def test_requests_in_flight_continue_and_refused_streams_are_repeated(loop: str, authority: Authority) -> None:
    async def main() -> None:
        async with serving(authority) as site, client_for(authority) as client:
            await client.get(site.url + "/")
            slow = asyncio.create_task(client.get(site.url + "/hang"))
            while not site.hanging:
                await asyncio.sleep(0)
            site.refuse = 1
            async with client.stream("POST", site.url + "/echo", body=b"abc") as response:
                assert (response.http_version, await response.read()) == ("HTTP/1.1", b"abc")
            peer, stream = site.hanging[0]
            peer.answer(stream, b"late")
            assert (await slow).body == b"late"

    run_on(loop, main())


def test_a_goaway_with_the_code_counts_for_its_unprocessed_streams(loop: str, authority: Authority) -> None:
    async def main() -> None:
        async with serving(authority) as site, client_for(authority) as client:
            await client.get(site.url + "/")
            task = asyncio.create_task(client.get(site.url + "/hang"))
            while not site.hanging:
                await asyncio.sleep(0)
            last = 1
            frame = last.to_bytes(4, "big") + HTTP_1_1_REQUIRED.to_bytes(4, "big")
            site.peers[0].transport.write(len(frame).to_bytes(3, "big") + b"\x07\0" + bytes(4) + frame)
            assert (await task).http_version == "HTTP/1.1"

    run_on(loop, main())


def test_a_request_is_repeated_once(loop: str, authority: Authority) -> None:
    async def main() -> None:
        async with serving(authority) as site, client_for(authority) as client:
            site.refuse, site.refuse_plain = 1, True
            with pytest.raises(ServerDisconnected, match="without a response"):
                await client.post(site.url + "/echo", b"x")
            assert (len(site.requests), len(site.plain_requests)) == (1, 1)

    run_on(loop, main())


def test_a_body_that_was_read_is_not_sent_again(loop: str, authority: Authority) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    async def main() -> None:
        async with serving(authority) as site, client_for(authority) as client:
            site.refuse = 1
            with pytest.raises(ServerDisconnected, match="HTTP_1_1_REQUIRED") as caught:
                await client.post(site.url + "/echo", pieces())
            assert caught.value.wants_http1 and not site.plain_requests

    run_on(loop, main())


def test_a_context_that_was_changed_is_not_made_again(loop: str, authority: Authority) -> None:
    """The new one would trust other servers than the caller wants."""

    async def main() -> None:
        context = tls.client_context(cafile=authority.cafile, alpn=tls.ALPN_HTTP2)
        context.load_verify_locations(cafile=str(authority.cafile))
        assert tls.http1_only(context) is None
        async with serving(authority) as site, HttpClient(tls_context=context) as client:
            site.refuse = 1
            with pytest.raises(ServerDisconnected, match="HTTP_1_1_REQUIRED"):
                await client.get(site.url + "/")
            assert not site.plain
            with pytest.raises(LocalProtocolError, match="was changed"):
                await client._connections.make_context(Http1Key("https", Origin("https", "localhost", site.port)))

    run_on(loop, main())


@pytest.mark.parametrize(
    "change",
    [
        lambda context: setattr(context, "verify_mode", ssl.CERT_OPTIONAL),
        lambda context: setattr(context, "pins", frozenset({bytes(32)})),
        lambda context: setattr(context, "minimum_version", ssl.TLSVersion.TLSv1_3),
        lambda context: context.set_alpn_protocols(["h2"]),
        lambda context: context.set_ciphers("HIGH"),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_every_change_of_a_context_is_detected(loop: str, authority: Authority, change: Any, resume: bool) -> None:
    context = tls.client_context(cafile=authority.cafile, alpn=tls.ALPN_HTTP2, resume=resume, pins=())
    make = tls.http1_only(context)
    assert make is not None
    made = make()
    assert isinstance(made, type(context)) and made.trust()[1:] == context.trust()[1:]  # type: ignore[attr-defined]
    change(context)
    assert tls.http1_only(context) is None


def test_a_context_of_the_program_is_not_made_again(loop: str) -> None:
    assert tls.http1_only(ssl.create_default_context()) is None


def test_the_number_of_remembered_origins_is_bounded(loop: str, authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        async with client_for(authority) as client:
            for port in range(1, HTTP1_ORIGINS + 11):
                call = client._call("GET", f"https://localhost:{port}/", (), None, None, None)
                repeat = client._connections._repeat_over_http1
                assert repeat(call) and not repeat(call)
            assert len(client._connections.http1_origins) == HTTP1_ORIGINS
            assert min(origin.port for origin in client._connections.http1_origins) == 11

    run_on(loop, main())
