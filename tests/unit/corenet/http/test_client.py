"""The client against a peer that says what the test wants: reuse, races, limits, time-outs, errors, cancels.

Every test runs on asyncio's loop and on ours. Time-outs are set so that only the one under test can end the request.
"""

import asyncio
import gzip
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, OK, Peer, always_ok, run_on, serving, until
from support.shortage import FullDict

from corenet import tls
from corenet.http import (
    ConnectError,
    DecodeError,
    HttpClient,
    HttpError,
    HttpStatusError,
    InvalidUrl,
    Limits,
    LocalProtocolError,
    NameResolutionError,
    RemoteProtocolError,
    ResponseTooLarge,
    ServerDisconnected,
    Timeout,
    TimeoutExceeded,
    TracePoint,
    get,
)

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

SHORT = 0.05


def test_one_get(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server:
            response = await get(server.url + "/a b".replace(" ", "%20"))
            assert response.status == 200 and response.reason == "OK" and response.body == b"ok"
            assert response.text == "ok" and response.is_success and response.url == server.url + "/a%20b"
            assert response.http_version == "HTTP/1.1" and response.raise_for_status() is response

    run_on(loop, main())


def test_what_is_sent(loop: str) -> None:
    async def main() -> None:
        told: list[Any] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK)

        async with serving(serve) as server, HttpClient(headers={"X-Default": "1"}) as client:
            await client.get(server.url + "/p?q=1", headers={"x-default": "2", "X-More": "3"})
            await client.post(server.url, b"data", headers={"Content-Type": "text/plain"})
            await client.post(server.url, None)
            await client.post(server.url, iter([b"one", b"", b"two"]))
            await client.request("DELETE", server.url)
        line, headers, body = told[0]
        assert line == "GET /p?q=1 HTTP/1.1" and body == b""
        assert headers["host"] == f"127.0.0.1:{server.port}" and headers["accept-encoding"] == "gzip, deflate"
        assert headers["x-default"] == "2" and headers["x-more"] == "3" and "content-length" not in headers
        assert told[1][1]["content-length"] == "4" and told[1][2] == b"data"
        assert told[2][1]["content-length"] == "0"
        assert told[3][1]["transfer-encoding"] == "chunked" and told[3][2] == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        assert told[4][0].startswith("DELETE /") and "content-length" not in told[4][1]

    run_on(loop, main())


def test_a_connection_that_cannot_be_remembered_for_want_of_memory_is_closed(loop: str) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def serve(peer: Peer) -> None:
            try:
                await peer.request()
            finally:
                ended.set()

        async with serving(serve) as server, HttpClient() as client:
            client._open = FullDict()
            with pytest.raises(MemoryError):
                await client.get(server.url)
            await asyncio.wait_for(ended.wait(), 5)
            pool = client._pool
            assert client._open == {} and pool is not None
            await until(lambda: pool.total == 0, "the descriptor is gone")

    run_on(loop, main())


def test_repeated_requests_stay_the_same_and_fields_do_not_stick(loop: str) -> None:
    async def main() -> None:
        told: list[Any] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK.replace(b"ok", b"") if told[-1][0].startswith("HEAD") else OK)

        async with serving(serve) as server, HttpClient() as client:
            for _ in range(2):
                await client.get(server.url)
                await client.get(server.url, headers={"X": "y"})
                await client.request("HEAD", server.url)
                await client.get(server.url + "/other")
            assert told[:4] == told[4:] and len({repr(request) for request in told}) == 4
            assert "x" in told[1][1] and "x" not in told[0][1]
            assert server.connections == 1
        async with serving(serve) as server, HttpClient(headers={"Connection": "close"}) as client:
            for _ in range(3):
                await client.get(server.url)
            assert server.connections == 3

    run_on(loop, main())


def test_connections_are_reused(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient() as client:
            for _ in range(5):
                await client.get(server.url)
            assert server.connections == 1
            await asyncio.gather(*(client.get(server.url) for _ in range(5)))
            assert server.connections == 5

    run_on(loop, main())


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK + b"x",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_connections_that_are_not_reused(loop: str, answer: bytes) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(answer)

        async with serving(serve) as server, HttpClient() as client:
            for _ in range(3):
                assert (await client.get(server.url)).body == b"ok"
            assert server.connections == 3

    run_on(loop, main())


def test_late_unasked_bytes_never_reach_the_next_request(loop: str) -> None:
    async def main() -> None:
        spoken = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            if peer.number == 1:
                await asyncio.sleep(0)
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
                # The client must hang up on us.
                assert await peer.reader.read() == b""
                spoken.set()
            await peer.request()
            await peer.send(OK)

        async with serving(serve) as server, HttpClient() as client:
            await client.get(server.url)
            await spoken.wait()
            assert (await client.get(server.url)).body == b"ok"
            assert server.connections == 2

    run_on(loop, main())


def test_a_stale_connection_is_replaced_once_for_idempotent_requests(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            if peer.number == 1:
                # Take the next request and hang up on it: the keep-alive race.
                await peer.request()
                return
            await peer.request()
            await peer.send(OK)

        async with serving(serve) as server, HttpClient() as client:
            await client.get(server.url)
            assert (await client.get(server.url)).body == b"ok"
            assert server.connections == 2

        async with serving(serve) as server, HttpClient() as client:
            await client.get(server.url)
            with pytest.raises(ServerDisconnected) as caught:
                await client.post(server.url, b"pay twice?")
            assert not caught.value.received
            assert server.connections == 1

    run_on(loop, main())


def test_a_fresh_connection_that_dies_is_not_replaced(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()

        async with serving(serve) as server, HttpClient() as client:
            with pytest.raises(ServerDisconnected, match="without a response"):
                await client.get(server.url)
            assert server.connections == 1

    run_on(loop, main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal", ServerDisconnected),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n", ServerDisconnected),
        (b"HTTP/1.1 200 OK\r\nContent-", ServerDisconnected),
        (b"SSH-2.0-OpenSSH\r\n\r\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", DecodeError),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc", DecodeError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000, RemoteProtocolError),
    ],
)
def test_bad_answers(loop: str, answer: bytes, error: type[HttpError]) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)

        async with serving(serve) as server, HttpClient() as client:
            with pytest.raises(error):
                await client.get(server.url)
            # Nothing is left behind that the next request could stumble over.
            with pytest.raises(error):
                await client.get(server.url)
            pool = client._pool
            assert pool is not None
            await until(lambda: pool.total == 0, "the descriptors are gone")
            assert not pool.groups

    run_on(loop, main())


def test_a_body_until_the_end_of_the_connection(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

        async with serving(serve) as server:
            assert (await get(server.url)).body == b"until the end"

    run_on(loop, main())


def test_gzip_is_undone_and_bounded(loop: str) -> None:
    async def main() -> None:
        text = b"x" * 100_000
        packed = gzip.compress(text)

        async def serve(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(
                    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
                )
                await peer.send(packed)

        async with serving(serve) as server:
            async with HttpClient() as client:
                assert (await client.get(server.url)).body == text
                async with client.stream("GET", server.url) as streamed:
                    assert await streamed.read() == text
                assert server.connections == 1
            async with HttpClient(decode=False) as client:
                assert (await client.get(server.url)).body == packed
            async with HttpClient(max_decoded=1000) as client:
                with pytest.raises(ResponseTooLarge, match="decodes to more"):
                    await client.get(server.url)
                with pytest.raises(ResponseTooLarge):
                    async with client.stream("GET", server.url) as streamed:
                        await streamed.read()

    run_on(loop, main())


def test_body_limit(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
            await peer.request()

        async with serving(serve) as server, HttpClient(max_body=999) as client:
            with pytest.raises(ResponseTooLarge, match="over the limit of 999"):
                await client.get(server.url)
            async with client.stream("GET", server.url) as response:
                assert sum([len(piece) async for piece in response]) == 1000
        async with serving(serve) as server, HttpClient(max_body=1000) as client:
            assert len((await client.get(server.url)).body) == 1000

    run_on(loop, main())


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_silent_server_ends_at_the_read_timeout(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server, HttpClient(timeout=Timeout(read=SHORT)) as client:
            with pytest.raises(TimeoutExceeded, match="no byte moved") as caught:
                await client.get(server.url)
            assert caught.value.phase == "response" and isinstance(caught.value, TimeoutError)
            with pytest.raises(TimeoutExceeded):
                async with client.stream("GET", server.url):
                    pass

    run_on(loop, main())


def test_a_dripping_server_ends_at_the_total_timeout(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                await peer.send(b"x")
                await asyncio.sleep(SHORT / 10)

        async with serving(serve) as server, HttpClient() as client:
            began = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutExceeded, match="total time"):
                await client.get(server.url, timeout=SHORT * 2)
            assert asyncio.get_running_loop().time() - began < 2
            with pytest.raises(TimeoutExceeded, match="total time"):
                async with client.stream("GET", server.url, timeout=SHORT * 2) as response:
                    await response.read()

    run_on(loop, main())


def test_a_timeout_of_one_request_does_not_touch_the_next(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient() as client:
            assert (await client.get(server.url, timeout=0.02)).status == 200
            await asyncio.sleep(0.03)
            assert (await client.get(server.url, timeout=Timeout(total=float("inf"), read=float("inf")))).status == 200
            assert server.connections == 1

    run_on(loop, main())


def test_waiting_for_a_connection_ends(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server:
            async with HttpClient(limits=Limits(connections=1), timeout=Timeout(connect=SHORT)) as client:
                first = asyncio.ensure_future(client.get(server.url))
                await asyncio.sleep(0)
                with pytest.raises(TimeoutExceeded) as caught:
                    await client.get(server.url)
                assert caught.value.phase == "pool"
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first

    run_on(loop, main())


def test_a_timeout_of_zero_is_a_mistake(loop: str) -> None:
    with pytest.raises(ValueError, match="0 or less"):
        Timeout(total=0)


# --- cancels ----------------------------------------------------------------------------------------------------------


def test_cancelled_requests_leak_nothing_and_leave_nothing(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                line, _, _ = await peer.request()
                if "slow" in line:
                    await asyncio.sleep(0.01)
                    await peer.send(OK.replace(b"ok", b"no"))
                else:
                    await peer.send(OK)

        async with serving(serve) as server, HttpClient(limits=Limits(connections=3)) as client:
            for round_number in range(30):
                slow = [asyncio.ensure_future(client.get(server.url + "/slow")) for _ in range(5)]
                for _ in range(round_number):
                    await asyncio.sleep(0)
                for task in slow:
                    task.cancel()
                await asyncio.wait(slow)
                assert (await client.get(server.url + "/quick")).body == b"ok"
            assert client._pool is not None
            assert client._pool.total <= 3
            answers = await asyncio.gather(*(client.get(server.url + "/quick") for _ in range(9)))
            assert {answer.body for answer in answers} == {b"ok"}

    run_on(loop, main())


def test_leaving_a_stream_early_closes_its_connection(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin")
            await peer.reader.read()

        async with serving(serve) as server, HttpClient(limits=Limits(connections=1)) as client:
            for _ in range(3):
                async with client.stream("GET", server.url) as response:
                    async for piece in response:
                        assert piece == b"begin"
                        break
            assert server.connections == 3

    run_on(loop, main())


def test_closing_the_client_ends_what_runs(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server:
            client = HttpClient(limits=Limits(connections=1))
            running = [asyncio.ensure_future(client.get(server.url)) for _ in range(2)]
            while server.connections == 0:
                await asyncio.sleep(0.001)
            await client.close()
            for task in running:
                with pytest.raises(LocalProtocolError, match="client was closed"):
                    await task
            with pytest.raises(LocalProtocolError, match="client was closed"):
                await client.get(server.url)

    run_on(loop, main())


@pytest.mark.parametrize("turns", range(12))
def test_closing_the_client_while_it_connects(loop: str, turns: int) -> None:
    """However far the connection has come, also when the server has seen it already and the request has not begun."""

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server:
            client = HttpClient()
            running = asyncio.ensure_future(client.get(server.url))
            for _ in range(turns):
                await asyncio.sleep(0)
            for _ in range(4):
                await client.close()
                await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError, match="client was closed"):
                await running
            # The server may be about to accept; asyncio's would leave the socket open if it ended now.
            for _ in range(10):
                await asyncio.sleep(0)

    run_on(loop, main())


def test_closing_the_client_during_a_handshake(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        # Nobody answers the hello.
        async with serving(serve) as server:
            points: list[TracePoint] = []
            context = tls.client_context(cafile=str(Authority(tmp_path).cafile))
            client = HttpClient(tls_context=context, trace=points.append)
            running = asyncio.ensure_future(client.get(f"https://127.0.0.1:{server.port}"))
            while not points or points[-1].name != "tls":
                await asyncio.sleep(0)
            await client.close()
            with pytest.raises(LocalProtocolError, match="client was closed"):
                await running
            assert [point.phase for point in points if point.name == "tls"] == ["started", "failed"]

    run_on(loop, main())


def test_closing_the_client_when_a_slot_was_just_given(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server:
            client = HttpClient(limits=Limits(connections=1))
            second: list[asyncio.Future[Any]] = []

            async def first() -> None:
                call = asyncio.ensure_future(client.get(server.url))
                await asyncio.sleep(0)
                second.append(asyncio.ensure_future(client.get(server.url)))
                assert (await call).body == b"ok"
                await client.close()

            await first()
            with pytest.raises(LocalProtocolError, match="client was closed"):
                await second[0]

    run_on(loop, main())


# --- errors and traces ------------------------------------------------------------------------------------------------


def test_nobody_listens(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server:
            pass
        with pytest.raises(ConnectError, match=rf"cannot connect to 127\.0\.0\.1 port {server.port}: .*refused"):
            await get(server.url)

    run_on(loop, main())


def test_a_name_that_does_not_exist(loop: str) -> None:
    async def main() -> None:
        import socket

        async def no_such_name(*args: Any, **kwargs: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        asyncio.get_running_loop().getaddrinfo = no_such_name  # type: ignore[method-assign]
        with pytest.raises(NameResolutionError, match=r"nothing\.invalid has no address: Name or service not known"):
            await get("http://nothing.invalid/")

    run_on(loop, main())


def test_the_second_address_is_tried(loop: str) -> None:
    async def main() -> None:
        import socket

        async with serving(always_ok) as server:

            async def two_addresses(*args: Any, **kwargs: Any) -> Any:
                return [
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1)),
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
                ]

            asyncio.get_running_loop().getaddrinfo = two_addresses  # type: ignore[method-assign]
            assert (await get("http://two.example/")).body == b"ok"

    run_on(loop, main())


def test_bad_urls_and_methods(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient() as client:
            with pytest.raises(InvalidUrl):
                await client.get("gopher://example.com/")
            with pytest.raises(LocalProtocolError, match="not a method"):
                await client.request("GE T", server.url)
            with pytest.raises(LocalProtocolError, match="no field value may have"):
                await client.get(server.url, headers={"X": "a\r\nb: c"})
            assert (await client.get(server.url)).status == 200

    run_on(loop, main())


def test_raise_for_status(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(
                b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json; charset="latin-1"\r\n'
                b'Content-Length: 5\r\n\r\n"\xe9\xe9\xe9"'
            )

        async with serving(serve) as server:
            response = await get(server.url)
            assert response.encoding == "latin-1" and response.text == '"\xe9\xe9\xe9"'
            with pytest.raises(HttpStatusError, match="404 Not Found") as caught:
                response.raise_for_status()
            assert caught.value.response is response

    run_on(loop, main())


def test_a_trace_that_fails_leaves_no_connection(loop: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")

    async def main() -> None:
        ended = asyncio.Event()

        async def serve(peer: Peer) -> None:
            try:
                await peer.request()
            finally:
                ended.set()

        def trace(told: TracePoint) -> None:
            if (told.name, told.phase) == ("tls", "done"):
                raise LookupError("the trace's own fault")

        ours = tls.client_context(cafile=str(authority.cafile))
        async with (
            serving(serve, tls=tls.server_context(leaf.certificate, leaf.key)) as server,
            HttpClient(tls_context=ours, trace=trace) as client,
        ):
            with pytest.raises(LookupError):
                await client.get(server.url)
            await asyncio.wait_for(ended.wait(), 5)

    run_on(loop, main())


def test_trace_points_come_in_order_with_times(loop: str) -> None:
    async def main() -> None:
        points: list[TracePoint] = []
        async with serving(always_ok) as server, HttpClient(trace=points.append) as client:
            await client.get(f"http://localhost:{server.port}/")
            await client.get(f"http://localhost:{server.port}/")
            names = [f"{point.name}.{point.phase}" for point in points]
            request = ["request.started", "request.done", "response.started", "response.done"]
            assert names == ["dns.started", "dns.done", "connect.started", "connect.done", *request, *request]
            assert [point.time for point in points] == sorted(point.time for point in points)
            assert points[7].details["bytes"] == 2 and points[8].details["reused"] is True
            assert str(points[0]) == "dns.started host=localhost"
            points.clear()
            with pytest.raises(ConnectError):
                await client.get("http://127.0.0.1:1/")
            assert [str(point.phase) for point in points] == ["started", "failed"]

    run_on(loop, main())
