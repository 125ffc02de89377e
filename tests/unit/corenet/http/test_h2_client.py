"""The client over HTTP/2, against a server of our own codec, on asyncio's loop and on ours.

It tests what HTTP/2 adds: one shared connection, streams that end independently, windows, and the server's SETTINGS and
GOAWAY. nginx and curl as peers are in tests/integration/test_http2_peers.py.
"""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.h2_frames import DATA, END_STREAM, PING, frame, headers
from support.h2_peer import WRITE_AHEAD, Peer, Site, h2_site
from support.http_peer import LOOPS, run_on, serving
from support.loop_clock import stopped_clock
from support.machines import read_table, table_of
from support.waiting import spin, turns, until

from corenet import tls
from corenet.http import (
    HttpClient,
    Limits,
    LocalProtocolError,
    RemoteProtocolError,
    ResponseTooLarge,
    ServerDisconnected,
    Timeout,
    TimeoutExceeded,
    h2_connection,
)
from corenet.http.h2_connection import MultiplexedConnection
from corenet.limits import HTTP2_STREAM_WINDOW, HTTP2_UNPROCESSED_REPEATS

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority(tmp_path_factory.mktemp("ca"))
    found.leaf("localhost")
    return found


class World:
    """A server and a client that trusts it."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    def site(self, alpn: tuple[str, ...] = tls.ALPN_HTTP2, **options: int) -> Any:
        folder = self.authority.folder
        return h2_site(tls.server_context(folder / "leaf.pem", folder / "leaf.key", alpn=alpn), **options)

    def client(self, **options: Any) -> HttpClient:
        context = tls.client_context(cafile=self.authority.cafile, alpn=tls.ALPN_HTTP2)
        return HttpClient(tls_context=context, **options)


@pytest.fixture
def world(authority: Authority) -> World:
    return World(authority)


async def whole(client: HttpClient, site: Site) -> None:
    """No stream, holder or waiter remains, and one connection at most."""
    pool = client._connections.pool
    assert pool is not None
    await until(lambda: pool.closing_count == 0, "connections that close")
    for group in pool.groups.values():
        assert not group.waiters and not group.shared
        for slot in group.idle:
            assert slot.holders == 0 and isinstance(slot.connection, MultiplexedConnection)
            assert slot.connection.exchanges == {} and slot.connection.codec.open_streams == 0
    assert pool.total == len(pool.idle) <= 1
    assert site.errors == []


def test_the_documented_table_is_the_implemented_one(loop: str) -> None:
    assert read_table(h2_connection.__doc__ or "") == table_of(h2_connection)


def test_requests_share_one_connection(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            answers = await asyncio.gather(*(client.get(f"{site.url}/x/{number}") for number in range(80)))
            assert [answer.text for answer in answers] == [f"hello {number}" for number in range(80)]
            assert {answer.http_version for answer in answers} == {"HTTP/2"}
            assert (await client.get(site.url + "/x/last")).text == "hello last"
            assert len(site.peers) == 1 and site.most_open > 1
            await whole(client, site)
        await until(lambda: site.open_connections == 0, "the connection to close")

    run_on(loop, main())


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_a_burst_to_an_unknown_origin_opens_one_connection(loop: str, authority: Authority, protocol: str) -> None:
    """However long its handshake takes. If it negotiates HTTP/1.1, the others are opened."""

    async def main() -> None:
        folder = authority.folder
        server_context = tls.server_context(folder / "leaf.pem", folder / "leaf.key", alpn=(protocol,))
        running = asyncio.get_running_loop()
        accepted = []
        gate = asyncio.Event()

        class Http1(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async def serve(sock: socket.socket) -> None:
            await gate.wait()
            site = Site()
            await running.connect_accepted_socket(
                lambda: Peer(site) if protocol == "h2" else Http1(), sock, ssl=server_context
            )

        def accept() -> None:
            sock, _ = listener.accept()
            sock.setblocking(False)
            accepted.append(asyncio.ensure_future(serve(sock)))

        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        listener.setblocking(False)
        running.add_reader(listener, accept)
        context = tls.client_context(cafile=authority.cafile, alpn=tls.ALPN_HTTP2)
        async with HttpClient(tls_context=context, limits=Limits(per_origin=4)) as client:
            url = f"https://localhost:{listener.getsockname()[1]}/x"
            answers = asyncio.gather(*(client.get(url) for _ in range(50)))
            await until(lambda: accepted, "the first connection")
            await turns(100)
            assert len(accepted) == 1
            gate.set()
            assert {answer.status for answer in await answers} == {200}
            assert len(accepted) == (1 if protocol == "h2" else 4)
        running.remove_reader(listener)
        listener.close()
        await asyncio.gather(*accepted)

    run_on(loop, main())


def test_an_http1_server_gets_one_connection_per_request(loop: str, authority: Authority) -> None:
    async def main() -> None:
        context = tls.client_context(cafile=authority.cafile, alpn=tls.ALPN_HTTP2)
        gate = asyncio.Event()

        async def serve(peer: Any) -> None:
            await peer.request()
            if server.connections == 5:
                gate.set()
            await gate.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        leaf = authority.folder / "leaf.pem", authority.folder / "leaf.key"
        async with serving(serve, tls=tls.server_context(*leaf)) as server, HttpClient(tls_context=context) as client:
            answers = await asyncio.gather(*(client.get(server.url) for _ in range(5)))
            assert {answer.http_version for answer in answers} == {"HTTP/1.1"} and server.connections == 5

    run_on(loop, main())


def test_the_default_context_offers_http2_unless_switched_off(
    loop: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(world.authority.cafile))

    async def main() -> None:
        async with world.site() as site:
            async with HttpClient() as client:
                assert (await client.get(site.url + "/")).http_version == "HTTP/2"
            async with HttpClient(http2=False) as client:
                # The server supports only HTTP/2; it received HTTP/1.1.
                with pytest.raises(RemoteProtocolError):
                    await client.get(site.url + "/")
            assert site.errors == ["the connection does not begin with the HTTP/2 preface (PROTOCOL_ERROR)"]

    run_on(loop, main())


@pytest.mark.parametrize("who", ["server", "client"])
def test_more_requests_than_streams_wait(loop: str, world: World, who: str) -> None:
    async def main() -> None:
        options = {"max_streams": 3} if who == "server" else {}
        limits = Limits(streams=3) if who == "client" else Limits()
        async with world.site(**options) as site, world.client(limits=limits) as client:
            # The first answer comes after the server's settings.
            await client.get(site.url + "/")
            answers = await asyncio.gather(*(client.get(f"{site.url}/x/{number}") for number in range(40)))
            assert [answer.text for answer in answers] == [f"hello {number}" for number in range(40)]
            assert site.most_open == 3 and len(site.peers) == 1 and site.resets == []
            hanging = [asyncio.ensure_future(client.get(site.url + "/hang")) for _ in range(3)]
            await until(lambda: len(site.hanging) == 3, "three streams")
            with pytest.raises(TimeoutExceeded, match="no connection became free") as caught:
                await client.get(site.url + "/", timeout=Timeout(connect=0.05))
            assert caught.value.phase == "pool"
            for peer, stream in site.hanging:
                peer.answer(stream, b"late")
            assert [(await task).text for task in hanging] == ["late"] * 3
            await whole(client, site)

    run_on(loop, main())


def test_a_cancelled_request_ends_only_its_stream(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            tasks = [asyncio.ensure_future(client.get(site.url + "/hang")) for _ in range(2)]
            await until(lambda: len(site.hanging) == 2, "two streams")
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            await until(lambda: site.resets == [8], "the reset")
            assert (await client.get(site.url + "/")).status == 200
            peer, stream = next((peer, stream) for peer, stream in site.hanging if peer.codec.is_open(stream))
            peer.answer(stream, b"after all")
            assert (await tasks[1]).text == "after all"
            assert len(site.peers) == 1
            await whole(client, site)

    run_on(loop, main())


def test_requests_cancelled_at_any_point(loop: str, world: World) -> None:
    """2,000 here; `CANCELS=100000` plays more."""
    many = int(os.environ.get("CANCELS", "2000"))

    async def main() -> None:
        rng = random.Random(7)
        done = 0
        async with world.site() as site, world.client(limits=Limits(streams=20), timeout=60) as client:

            async def one(number: int) -> None:
                nonlocal done
                size = rng.choice((0, 10, 20_000))
                url = rng.choice((f"/x/{number}", f"/size/{size}", "/echo", "/hang"))
                if url == "/echo":
                    body = b"%d" % number * 100
                    task = asyncio.ensure_future(client.post(site.url + url, body))
                else:
                    task = asyncio.ensure_future(client.get(site.url + url))
                for _ in range(rng.randrange(40)):
                    await asyncio.sleep(0)
                if url == "/hang" or rng.random() < 0.7:
                    task.cancel()
                try:
                    answer = await task
                except asyncio.CancelledError:
                    return
                done += 1
                if url == "/echo":
                    assert answer.body == body
                elif url.startswith("/x"):
                    assert answer.text == f"hello {number}"
                else:
                    assert len(answer.body) == size

            await client.get(site.url + "/")
            for start in range(0, many, 50):
                await asyncio.gather(*(one(number) for number in range(start, start + 50)))
                # The server takes so many resets in a second and no more, so it leaves before that.
                if len(site.resets) > 100:
                    site.resets.clear()
                    for peer in site.peers:
                        if not peer.codec.goaway_sent and not peer.transport.is_closing():
                            peer.codec.goaway()
                            peer.flush()
                site.hanging.clear()
            assert done > many // 10 and site.most_open <= 20
            await whole(client, site)

    run_on(loop, main())


def test_a_slow_reader_delays_only_its_stream(loop: str, world: World) -> None:
    size = 4 * HTTP2_STREAM_WINDOW.default

    async def main() -> None:
        async with world.site() as site, world.client() as client:
            async with client.stream("GET", f"{site.url}/size/{size}") as response:
                assert response.http_version == "HTTP/2"
                codec = site.peers[0].codec
                # A window full is on its way, and others use the connection meanwhile.
                for _ in range(30):
                    assert (await client.get(site.url + "/")).status == 200
                await until(lambda: codec.unsent() == WRITE_AHEAD, "the window to fill")
                rest = len(site.peers[0].left[1])
                assert size - rest - WRITE_AHEAD == HTTP2_STREAM_WINDOW.default
                assert len(await response.read()) == size
            assert len(site.peers) == 1
            await whole(client, site)

    run_on(loop, main())


def test_upload_and_download_together(loop: str, world: World) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(60):
            yield b"%d" % (number % 10) * 50_000
            await asyncio.sleep(0)

    async def main() -> None:
        wanted = b"".join([piece async for piece in pieces()])
        async with world.site(window=65_535) as site, world.client() as client:
            got = bytearray()
            async with client.stream("POST", site.url + "/duplex", body=pieces()) as response:
                async for piece in response:
                    got += piece
            assert bytes(got) == wanted
            assert (await client.post(site.url + "/echo", wanted)).body == wanted
            assert (await client.request("PUT", site.url + "/echo", body=pieces())).body == wanted
            await whole(client, site)

    run_on(loop, main())


def test_an_upload_waits_for_the_servers_window(loop: str, world: World) -> None:
    """The server reads nothing: at most a window and one piece are taken from the iterator."""
    asked = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(1000):
            asked += 10_000
            yield bytes(10_000)

    async def main() -> None:
        async with world.site(window=65_535) as site, world.client() as client:
            await client.get(site.url + "/")
            site.peers[0].transport.pause_reading()
            with stopped_clock():
                upload = asyncio.ensure_future(client.post(site.url + "/echo", pieces(), timeout=Timeout(read=0.1)))
                await spin(lambda: asked >= 65_535, "a full window")
            with pytest.raises(TimeoutExceeded, match="no byte was sent or received") as caught:
                await upload
            assert caught.value.phase == "request"
            assert 65_535 <= asked <= 65_535 + 20_000
            site.peers[0].transport.resume_reading()
            await until(lambda: site.resets == [8], "the reset")
            assert (await client.get(site.url + "/")).status == 200
            assert len(site.peers) == 1

    run_on(loop, main())


@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_a_response_before_the_end_of_the_request(loop: str, world: World, kind: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(10_000)

    async def main() -> None:
        async with world.site(window=65_535) as site, world.client() as client:
            body = bytes(5_000_000) if kind == "bytes" else endless()
            response = await client.post(site.url + "/early", body)
            assert response.status == 413 and response.text == "no thanks"
            assert (await client.get(site.url + "/")).status == 200
            assert len(site.peers) == 1
            await whole(client, site)

    run_on(loop, main())


def test_kinds_of_responses(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            response = await client.get(site.url + "/trailers")
            assert response.text == "checked" and response.trailers["sum"] == "1"
            assert (await client.get(site.url + "/gzip")).text == "squeezed" * 1000
            assert (await client.get(site.url + "/empty")).status == 204
            head = await client.request("HEAD", site.url + "/")
            assert head.headers["content-length"] == "1000" and head.body == b"" and head.reason == ""
            moved = await client.get(site.url + "/redirect")
            assert moved.text == "hello " and moved.history[0].status == 302
            async with client.stream("GET", site.url + "/redirect") as streamed:
                assert await streamed.read() == b"hello " and len(streamed.trailers) == 0
            async with client.stream("GET", site.url + "/trailers") as streamed:
                assert await streamed.read() == b"checked" and streamed.trailers["sum"] == "1"
            assert (await client.get(site.url + "/size/300000")).body[:3] == b"\0\1\2"
            assert len(site.peers) == 1
            await whole(client, site)

    run_on(loop, main())


def test_fields_of_http1_connections_are_not_sent(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            fields = {"Connection": "close", "X-Name": "Value", "Transfer-Encoding": "chunked", "Host": "other"}
            response = await client.get(site.url + "/fields", headers=fields)
            assert "(b'host', b'other')" in response.text and "(b'x-name', b'Value')" in response.text
            assert "close" not in response.text and "chunked" not in response.text
            with pytest.raises(LocalProtocolError):
                await client.get(site.url + "/", headers={"TE": "gzip"})
            for length in ("5", "x"):
                with pytest.raises(LocalProtocolError):
                    await client.post(site.url + "/echo", b"four", headers={"Content-Length": length})
            assert (await client.get(site.url + "/")).status == 200
            assert len(site.peers) == 1
            await whole(client, site)

    run_on(loop, main())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_over_the_limit_ends_only_its_stream(loop: str, world: World, streamed: bool) -> None:
    async def main() -> None:
        async with world.site() as site, world.client(max_body=100_000) as client:

            async def read(url: str) -> bytes:
                async with client.stream("GET", url) as response:
                    return await response.read()

            assert len((await client.get(site.url + "/size/100000")).body) == 100_000
            with pytest.raises(ResponseTooLarge):
                await (read if streamed else client.get)(site.url + "/size/3000000")
            assert (await client.get(site.url + "/")).status == 200
            assert len(site.peers) == 1
            await whole(client, site)

    run_on(loop, main())


def test_timeouts_end_only_their_request(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            await client.get(site.url + "/")  # so that no timeout can pass before there is a connection
            with pytest.raises(TimeoutExceeded, match="total time") as caught:
                await client.get(site.url + "/hang", timeout=0.05)
            assert caught.value.phase == "response"
            with pytest.raises(TimeoutExceeded, match="no byte was sent or received"):
                await client.get(site.url + "/hang", timeout=Timeout(read=0.05))
            long = asyncio.ensure_future(client.get(site.url + "/hang"))
            with pytest.raises(TimeoutExceeded):
                await client.get(site.url + "/hang", timeout=0.05)
            await until(lambda: site.resets == [8, 8, 8], "three resets")
            peer, stream = next((peer, stream) for peer, stream in site.hanging if peer.codec.is_open(stream))
            peer.answer(stream, b"in time")
            assert (await long).text == "in time"
            assert len(site.peers) == 1
            await whole(client, site)

    run_on(loop, main())


@pytest.mark.parametrize("ended", ["timed out", "cancelled"])
def test_a_connection_on_a_lost_path_is_replaced(
    loop: str, world: World, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path loses everything without an error. Neither a timeout nor the user's own deadline ends the connection."""

    async def answered(client: HttpClient, url: str) -> bool:
        try:
            if ended == "timed out":
                await client.get(url, timeout=Timeout(read=0.05))
            else:
                async with asyncio.timeout(0.05):
                    await client.get(url)
        except TimeoutError:
            return False
        return True

    async def main() -> None:
        monkeypatch.setattr(h2_connection, "HTTP2_PING_SECONDS", 0.02)
        async with world.site() as site, world.client() as client:
            await client.get(site.url + "/")
            site.peers[0].transport.pause_reading()
            tries = 1
            while not await answered(client, site.url + "/"):
                tries += 1
                assert tries < 50
            assert tries > 1 and len(site.peers) == 2

    run_on(loop, main())


def test_the_reply_to_a_ping_keeps_the_connection(loop: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            await client.get(site.url + "/")
            [group] = client._connections.pool.groups.values()
            [connection] = [slot.connection for slot in group.idle]
            assert isinstance(connection, MultiplexedConnection)
            with pytest.raises(TimeoutExceeded):
                await client.get(site.url + "/hang", timeout=Timeout(read=0.05))
            await until(lambda: connection.received_at > connection.probed_at > 0, "the reply")
            monkeypatch.setattr(h2_connection, "HTTP2_PING_SECONDS", 0)
            assert not connection.is_silent
            assert (await client.get(site.url + "/")).status == 200 and len(site.peers) == 1

    run_on(loop, main())


def test_a_goaway(loop: str, world: World) -> None:
    """A request that the server did not process is sent again on a new connection, whatever its method."""

    async def main() -> None:
        async with world.site() as site, world.client() as client:
            begun = asyncio.ensure_future(client.get(site.url + "/hang"))
            await until(lambda: len(site.hanging) == 1, "the first")
            first = site.peers[0]
            # Its last stream is the first one, although the other was sent already.
            first.transport.pause_reading()
            later = asyncio.ensure_future(client.post(site.url + "/echo", b"again"))
            connection = next(iter(client._connections.open))
            assert isinstance(connection, MultiplexedConnection)
            await until(lambda: len(connection.exchanges) == 2 and not connection.flushing, "the other to be sent")
            first.codec.goaway()
            first.flush()
            assert (await later).body == b"again"
            assert len(site.peers) == 2
            first.transport.resume_reading()
            first.answer(site.hanging[0][1], b"to the end")
            assert (await begun).text == "to the end"
            assert (await client.get(site.url + "/")).status == 200
            assert len(site.peers) == 2
            await until(lambda: site.open_connections == 1, "the old connection to go")
            await whole(client, site)

    run_on(loop, main())


def test_a_closing_transport_is_not_closed_again(loop: str, world: World) -> None:
    """A second close of asyncio's TLS transport would lose its connection."""

    async def main() -> None:
        async with world.site() as site, world.client() as client:
            await client.get(site.url + "/")
            connection = next(iter(client._connections.open))
            connection.transport.close()
            connection.close()
            connection.abort()
            await until(lambda: connection.is_gone, "the connection to be closed")
            assert (await client.get(site.url + "/")).status == 200
            await whole(client, site)

    run_on(loop, main())


def test_a_goaway_while_idle(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            assert (await client.get(site.url + "/")).status == 200
            site.peers[0].codec.goaway()
            site.peers[0].flush()
            # Whether or not the client has read it by now.
            assert (await client.post(site.url + "/echo", b"x")).body == b"x"
            assert len(site.peers) == 2
            await whole(client, site)

    run_on(loop, main())


def test_a_refused_stream_is_repeated_a_bounded_number_of_times(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            await client.get(site.url + "/")
            site.refuse = HTTP2_UNPROCESSED_REPEATS
            assert (await client.post(site.url + "/echo", b"x")).body == b"x"
            site.refuse = HTTP2_UNPROCESSED_REPEATS + 1
            with pytest.raises(ServerDisconnected, match="REFUSED_STREAM") as caught:
                await client.post(site.url + "/echo", b"x")
            assert caught.value.unprocessed and not caught.value.received
            assert (await client.get(site.url + "/")).status == 200
            await whole(client, site)

    run_on(loop, main())


def test_a_request_whose_stream_the_server_resets_is_not_repeated(loop: str, world: World) -> None:
    """The server may have processed it; the connection stays open."""

    async def main() -> None:
        async with world.site() as site, world.client() as client:
            await client.get(site.url + "/")
            site.refuse, site.refuse_code = 1, 2
            seen = len(site.requests)
            with pytest.raises(RemoteProtocolError, match=r"reset the stream \(INTERNAL_ERROR\)"):
                await client.request("DELETE", site.url + "/echo")
            assert len(site.requests) == seen + 1
            assert (await client.get(site.url + "/")).status == 200
            assert len(site.peers) == 1
            await whole(client, site)

    run_on(loop, main())


def test_a_connection_that_is_lost(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            await client.get(site.url + "/")
            url = site.url + "/hang"
            tasks = [asyncio.ensure_future(client.request(method, url, body=b"x")) for method in ("PUT", "POST")]
            await until(lambda: len(site.hanging) == 2, "two streams")
            site.peers[0].transport.abort()
            # The server may have processed the POST.
            with pytest.raises(ServerDisconnected, match="connection was lost"):
                await tasks[1]
            await until(lambda: len(site.hanging) == 3, "the PUT again")
            site.hanging[2][0].answer(site.hanging[2][1], b"done")
            assert (await tasks[0]).text == "done"
            assert len(site.peers) == 2
            await whole(client, site)

    run_on(loop, main())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"\0\0\4\5\4\0\0\0\1\0\0\0\2", "PUSH_PROMISE"),
        (b"\0\0\1\1\5\0\0\0\1\x80", "index is in no table"),
        (b"\xff\xff\xff" + bytes(6), "a frame of 16777215 bytes"),
    ],
)
def test_a_server_that_breaks_the_rules(loop: str, world: World, wrong: bytes, words: str) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            tasks = [asyncio.ensure_future(client.get(site.url + "/hang")) for _ in range(2)]
            await until(lambda: len(site.hanging) == 2, "two streams")
            site.peers[0].transport.write(wrong)
            for task in tasks:
                with pytest.raises(RemoteProtocolError, match=words):
                    await task
            await until(lambda: site.open_connections == 0, "the connection to go")
            assert (await client.get(site.url + "/")).status == 200
            await whole(client, site)

    run_on(loop, main())


def test_a_response_before_a_broken_rule_counts(loop: str, world: World) -> None:
    """Also when the same input has both: how TCP cuts it must not decide."""

    async def main() -> None:
        async with world.site() as site, world.client() as client:
            tasks = [asyncio.ensure_future(client.post(site.url + "/hang", b"x")) for _ in range(2)]
            await until(lambda: len(site.hanging) == 2, "two streams")
            peer, stream = site.hanging[0]
            answer = headers(stream, [(b":status", b"201")], end=False) + frame(DATA, END_STREAM, stream, b"made")
            peer.transport.write(answer + frame(PING, 0, stream, bytes(8)))
            made = await tasks[0]
            assert (made.status, made.body) == (201, b"made")
            with pytest.raises(RemoteProtocolError, match="PING on a stream"):
                await tasks[1]
            await until(lambda: site.open_connections == 0, "the connection to go")
            assert (await client.get(site.url + "/")).status == 200
            await whole(client, site)

    run_on(loop, main())


def test_a_malformed_response_ends_only_its_stream(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site, world.client() as client:
            task = asyncio.ensure_future(client.get(site.url + "/hang"))
            await until(lambda: len(site.hanging) == 1, "the stream")
            peer, stream = site.hanging[0]
            peer.transport.write(headers(stream, [(b":status", b"20")]))
            with pytest.raises(RemoteProtocolError, match="not allowed"):
                await task
            assert (await client.get(site.url + "/")).status == 200
            assert len(site.peers) == 1

    run_on(loop, main())


def test_closing_the_client_ends_running_requests(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site:
            client = world.client()
            tasks = [asyncio.ensure_future(client.get(site.url + "/hang")) for _ in range(3)]
            await until(lambda: len(site.hanging) == 3, "three streams")
            await client.close()
            for task in tasks:
                with pytest.raises(LocalProtocolError, match="client was closed"):
                    await task
            await until(lambda: site.open_connections == 0, "the connection to go")

    run_on(loop, main())


def test_an_idle_connection_expires(loop: str, world: World) -> None:
    async def main() -> None:
        async with world.site() as site:
            async with world.client(limits=Limits(keepalive_timeout=0)) as client:
                for _ in range(2):
                    await client.get(site.url + "/")
                assert len(site.peers) == 2
                await until(lambda: site.open_connections == 0, "both to go")

    run_on(loop, main())


def test_after_a_failed_first_connection_the_other_requests_connect(loop: str, world: World, tmp_path: Path) -> None:
    """The protocol of the origin is unknown, and the first connection is refused."""

    async def main() -> None:
        async with world.client() as client:
            results = await asyncio.gather(
                *(client.get("https://127.0.0.1:9/") for _ in range(5)), return_exceptions=True
            )
            assert {type(result).__name__ for result in results} == {"ConnectError"}
            pool = client._connections.pool
            assert pool is not None and pool.total == 0 and pool.groups == {}

    run_on(loop, main())
