"""Errors of connecting and of the caller, and the trace points.

Every test runs on asyncio's loop and on ours.
"""

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, Peer, always_ok, run_on, serving

from corenet import tls
from corenet.http import (
    ConnectError,
    HttpClient,
    HttpStatusError,
    InvalidUrl,
    LocalProtocolError,
    NameResolutionError,
    TracePoint,
    connect,
    get,
)

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

SHORT = 0.05


def test_a_refused_connection_is_an_error(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server:
            pass
        with pytest.raises(ConnectError, match=rf"cannot connect to 127\.0\.0\.1 port {server.port}: .*refused"):
            await get(server.url)

    run_on(loop, main())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_that_is_reset_before_it_is_used_is_an_error(loop: str, scheme: str) -> None:
    """The kernel no longer knows the peer then."""

    async def main() -> None:
        running = asyncio.get_running_loop()
        connect_socket = running.sock_connect
        with socket.create_server(("127.0.0.1", 0)) as listener:

            async def connect_and_wait_for_reset(sock: socket.socket, address: Any) -> None:
                await connect_socket(sock, address)
                peer, _ = listener.accept()
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
                # TCP_INFO begins with the state; 1 is TCP_ESTABLISHED.
                while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01":
                    await asyncio.sleep(0)

            running.sock_connect = connect_and_wait_for_reset  # type: ignore[method-assign]
            port = listener.getsockname()[1]
            told = rf"cannot connect to 127\.0\.0\.1 port {port}: the peer reset the connection"
            with pytest.raises(ConnectError, match=told):
                await get(f"{scheme}://127.0.0.1:{port}/")

    run_on(loop, main())


def test_a_name_that_does_not_exist_is_an_error(loop: str) -> None:
    async def main() -> None:
        async def no_such_name(*args: Any, **kwargs: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        asyncio.get_running_loop().getaddrinfo = no_such_name  # type: ignore[method-assign]
        with pytest.raises(NameResolutionError, match=r"nothing\.invalid has no address: Name or service not known"):
            await get("http://nothing.invalid/")

    run_on(loop, main())


def test_the_second_address_is_tried(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server:

            async def two_addresses(*args: Any, **kwargs: Any) -> Any:
                return [
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1)),
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
                ]

            asyncio.get_running_loop().getaddrinfo = two_addresses  # type: ignore[method-assign]
            assert (await get("http://two.example/")).body == b"ok"

    run_on(loop, main())


@pytest.mark.parametrize("late", ["cancelled", "connected"])
@pytest.mark.parametrize("cancel", [False, True])
def test_all_other_attempts_are_closed(
    loop: str, late: str, cancel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address answers late, after the second has won; a cancel while the first one ends closes both."""
    made: list[socket.socket] = []

    async def main() -> None:
        running = asyncio.get_running_loop()
        real_connect = running.sock_connect
        won = asyncio.Event()

        async def two_addresses(*args: Any, **kwargs: Any) -> Any:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, server.port)) for host in ("127.0.0.2", "127.0.0.1")
            ]

        async def connect(sock: socket.socket, address: Any) -> None:
            made.append(sock)
            if address[0] == "127.0.0.1":
                won.set()
                return await real_connect(sock, address)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ending.set()
                for _ in range(3):
                    await asyncio.sleep(0)
                if late == "cancelled":
                    raise

        ending = asyncio.Event()
        async with serving(always_ok) as server, HttpClient() as client:
            running.getaddrinfo = two_addresses  # type: ignore[method-assign]
            running.sock_connect = connect  # type: ignore[method-assign]
            task = asyncio.ensure_future(client.get("http://two.example/"))
            async with asyncio.timeout(30):
                await ending.wait()
                if cancel:
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    assert (await task).body == b"ok"
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(made) == 2 and [sock.fileno() >= 0 for sock in made] == [False, not cancel]

    monkeypatch.setattr(connect, "HTTP_CONNECTION_ATTEMPT_DELAY", 0)
    run_on(loop, main())


def test_bad_urls_and_methods_are_refused(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient() as client:
            with pytest.raises(InvalidUrl):
                await client.get("gopher://example.com/")
            with pytest.raises(LocalProtocolError, match="not a method"):
                await client.request("GE T", server.url)
            with pytest.raises(LocalProtocolError, match="surrounding blanks"):
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


def test_a_failing_trace_callback_leaves_no_connection(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    made: list[socket.socket] = []
    connect_any = connect._connect_any

    async def noted(*args: Any) -> socket.socket:
        made.append(await connect_any(*args))
        return made[-1]

    monkeypatch.setattr(connect, "_connect_any", noted)
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
                raise LookupError("the trace raises")

        ours = tls.client_context(cafile=str(authority.cafile))
        async with (
            serving(serve, tls=tls.server_context(leaf.certificate, leaf.key)) as server,
            HttpClient(tls_context=ours, trace=trace) as client,
        ):
            with pytest.raises(LookupError):
                await client.get(server.url)
            # At once: the next waiter may open a connection now.
            assert [sock.fileno() for sock in made] == [-1]
            await asyncio.wait_for(ended.wait(), 30)

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
