"""Requests that end before their response: timeouts, cancellation, a closed client.

Timeouts are set so that only the one under test can end the request.

Every test runs on asyncio's loop and on ours.
"""

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, OK, Peer, always_ok, run_on, serving, until
from support.loop_clock import stopped_clock
from support.waiting import turns

from corenet import tls
from corenet.http import (
    ConnectError,
    HttpClient,
    Limits,
    LocalProtocolError,
    Timeout,
    TimeoutExceeded,
    TlsError,
    TracePoint,
)
from corenet.http import connections as connections_module
from corenet.http.connection import Connection
from corenet.tls import default

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

SHORT = 0.05  # seconds


# --- timeouts ---------------------------------------------------------------------------------------------------------


def test_a_request_to_a_silent_server_ends_at_the_read_timeout(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server, HttpClient(timeout=Timeout(read=SHORT)) as client:
            with pytest.raises(TimeoutExceeded, match="no byte was sent or received") as caught:
                await client.get(server.url)
            assert caught.value.phase == "response" and isinstance(caught.value, TimeoutError)
            with pytest.raises(TimeoutExceeded):
                async with client.stream("GET", server.url):
                    pass

    run_on(loop, main())


def test_a_response_sent_byte_by_byte_ends_at_the_total_timeout(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                await peer.send(b"x")
                await asyncio.sleep(SHORT / 10)

        async with serving(serve) as server, HttpClient() as client:
            with pytest.raises(TimeoutExceeded, match="total time"):
                await client.get(server.url, timeout=SHORT * 2)
            with pytest.raises(TimeoutExceeded, match="total time"):
                async with client.stream("GET", server.url, timeout=SHORT * 2) as response:
                    await response.read()

    run_on(loop, main())


def test_a_timeout_of_one_request_does_not_affect_the_next(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient() as client:
            with stopped_clock() as clock:
                assert (await client.get(server.url, timeout=0.02)).status == 200
                clock.move(0.03)
                await turns()
                endless = Timeout(total=float("inf"), read=float("inf"))
                assert (await client.get(server.url, timeout=endless)).status == 200
            assert server.connections == 1

    run_on(loop, main())


def test_waiting_for_a_connection_ends_at_its_timeout(loop: str) -> None:
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


def test_one_timeout_covers_all_steps_of_connecting(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Timeout.connect` covers the wait for a pool slot, the name lookup, TCP and TLS together."""
    deadlines: list[float] = []
    waits: list[tuple[float, float]] = []

    async def fail_to_connect(*_args: Any, deadline: float, **_options: Any) -> Connection:
        deadlines.append(deadline)
        raise ConnectError("nowhere")

    async def main() -> None:
        answer = asyncio.Event()
        clock = asyncio.get_running_loop().time

        async def serve(peer: Peer) -> None:
            await peer.request()
            await answer.wait()
            await peer.send(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))

        limits = Limits(per_origin=1)
        async with serving(serve) as server, HttpClient(limits=limits, timeout=Timeout(connect=9.0)) as client:
            first = asyncio.ensure_future(client.get(server.url))
            await until(lambda: server.connections, "the first has its slot")
            monkeypatch.setattr(connections_module, "open_connection", fail_to_connect)
            began = clock()
            second = asyncio.ensure_future(client.get(server.url))
            await asyncio.sleep(0)
            waits.append((began, clock()))
            answer.set()
            await first
            with pytest.raises(ConnectError, match="nowhere"):
                await second

    run_on(loop, main())
    [deadline], [(earliest, latest)] = deadlines, waits
    assert earliest + 9.0 <= deadline <= latest + 9.0


def test_a_timeout_holds_while_the_default_context_is_made(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default TLS context is made in the executor, whose only thread is busy."""
    monkeypatch.setattr(default, "_made", {})
    release = threading.Event()

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        with ThreadPoolExecutor(1) as executor:
            asyncio.get_running_loop().set_default_executor(executor)
            executor.submit(release.wait, 30)
            try:
                async with serving(serve) as server, HttpClient() as client, asyncio.timeout(30):
                    # On a slow machine the timeout may pass before TLS begins, so the phase is not checked.
                    with pytest.raises(TimeoutExceeded):
                        await client.get(f"https://127.0.0.1:{server.port}/", timeout=SHORT)
            finally:
                release.set()

    run_on(loop, main())


def test_a_changed_trust_store_is_used_for_the_next_connection(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "_made", {})
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nothing"))
    (tmp_path / "other").mkdir()
    trusted, other = Authority(tmp_path, "Trusted CA"), Authority(tmp_path / "other", "Other CA")
    leaf = trusted.leaf("localhost")

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    async def main() -> None:
        async with (
            serving(serve, tls.server_context(leaf.certificate, leaf.key)) as server,
            HttpClient() as client,
            asyncio.timeout(30),
        ):
            for authority, answers in [(trusted, True), (other, False), (trusted, True)]:
                monkeypatch.setenv("SSL_CERT_FILE", str(authority.cafile))
                if answers:
                    assert (await client.get(server.url)).body == b"ok"
                else:
                    with pytest.raises(TlsError):
                        await client.get(server.url)

    run_on(loop, main())


@pytest.mark.parametrize("part", ["connect", "read", "total", "pool"])
@pytest.mark.parametrize("seconds", [0, -1, -math.inf, math.nan])
def test_invalid_timeouts_are_refused(loop: str, part: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"Timeout {part}"):
        Timeout(**{part: seconds})
    if part == "total":
        with pytest.raises(ValueError, match="Timeout total"):
            HttpClient(timeout=seconds)


@pytest.mark.parametrize("seconds", [-1, -math.inf, math.inf, math.nan])
def test_invalid_limits_are_refused(loop: str, seconds: float) -> None:
    with pytest.raises(ValueError, match="Limits keepalive_timeout"):
        Limits(keepalive_timeout=seconds)
    with pytest.raises(ValueError, match="HttpClient max_head"):
        HttpClient(max_head=-1)


# --- cancels ----------------------------------------------------------------------------------------------------------


def test_cancelled_requests_release_their_slots_and_connections(loop: str) -> None:
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
            assert client._connections.pool is not None
            assert client._connections.pool.total <= 3
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


def test_closing_the_client_ends_running_requests(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server:
            client = HttpClient(limits=Limits(connections=1))
            running = [asyncio.ensure_future(client.get(server.url)) for _ in range(2)]
            await until(lambda: server.connections, "the connection")
            await client.close()
            for task in running:
                with pytest.raises(LocalProtocolError, match="client was closed"):
                    await task
            with pytest.raises(LocalProtocolError, match="client was closed"):
                await client.get(server.url)

    run_on(loop, main())


@pytest.mark.parametrize("iterations", range(12))
def test_closing_the_client_while_it_connects(loop: str, iterations: int) -> None:
    """At any stage of connecting, also when the server has accepted already and the request has not started."""

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        async with serving(serve) as server:
            client = HttpClient()
            running = asyncio.ensure_future(client.get(server.url))
            for _ in range(iterations):
                await asyncio.sleep(0)
            for _ in range(4):
                await client.close()
                await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError, match="client was closed"):
                await running
            # The server may not have accepted yet. asyncio would not close that socket if the loop ended now.
            for _ in range(10):
                await asyncio.sleep(0)

    run_on(loop, main())


def test_closing_the_client_during_a_handshake(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.read()

        # The server never answers the ClientHello.
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


def test_closing_the_client_just_after_a_slot_was_assigned(loop: str) -> None:
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


@pytest.mark.parametrize("first", ["cancel", "close"])
@pytest.mark.parametrize("kind", ["waiting", "get", "stream", "upload"])
def test_a_cancelled_request_stays_cancelled_when_the_client_closes(loop: str, first: str, kind: str) -> None:
    """`task.cancel()` and `client.close()` in one iteration: the task ends with CancelledError, in every phase."""

    async def main(iterations: int) -> bool:
        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            await peer.reader.read()

        async def body() -> AsyncIterator[bytes]:
            while True:
                yield b"x"
                await asyncio.sleep(0)

        async def ask() -> None:
            if kind == "stream":
                async with client.stream("GET", server.url) as response:
                    await response.read()
            elif kind == "upload":
                await client.post(server.url, body())
            else:
                await client.get(server.url)

        async with serving(serve) as server:
            client = HttpClient(limits=Limits(connections=1))
            others = []
            if kind == "waiting":
                others.append(asyncio.ensure_future(client.get(server.url)))
                await asyncio.sleep(0)
            task = asyncio.ensure_future(ask())
            for _ in range(iterations):
                await asyncio.sleep(0)
            if first == "cancel":
                task.cancel()
            closing = asyncio.ensure_future(client.close())
            await asyncio.sleep(0)
            if first == "close" and not task.done():
                task.cancel()
            await asyncio.wait((task, closing, *others), timeout=30)
            assert closing.done() and all(other.done() for other in others)
            # A task that had already ended cannot be cancelled; it has the error of the close.
            was_cancelled = task.cancelling() > 0
            assert task.cancelled() if was_cancelled else isinstance(task.exception(), LocalProtocolError)
            for other in others:
                assert isinstance(other.exception(), LocalProtocolError)
            for _ in range(10):
                await asyncio.sleep(0)
        return was_cancelled

    cancelled = [run_on(loop, main(iterations)) for iterations in range(14)]
    assert any(cancelled)
