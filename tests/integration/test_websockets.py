"""The websockets library on asyncio's loop and on ours: a server and its clients.

Its source distribution has no test suite, so these are ours: handshake, messages of every kind and size, pings,
closing from either side and from both, cancelled waits, back-pressure, many clients, TLS and Unix sockets.
"""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.twin import loop_factory, twin

websockets = pytest.importorskip("websockets", reason="pip install websockets")

from websockets.asyncio.client import connect, unix_connect  # noqa: E402
from websockets.asyncio.server import broadcast, serve, unix_serve  # noqa: E402
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus  # noqa: E402

__all__ = ["loop_factory", "twin"]

pytestmark = pytest.mark.integration

Twin = Callable[[Any], Any]


async def echo(socket: Any) -> None:
    """Send everything back."""
    async for message in socket:
        await socket.send(message)


def url_of(server: Any, scheme: str = "ws") -> str:
    """Where a server listens."""
    return f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize("message", ["", "text", "ü" * 40_000, b"", b"\x00\xff" * 300_000])
def test_messages_come_back_as_they_were(twin: Twin, message: str | bytes) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(url_of(server)) as client:
            await client.send(message)
            assert await client.recv() == message

    twin(main())


def test_fragments_are_one_message_and_can_be_streamed(twin: Twin) -> None:
    async def parts() -> Any:
        for part in ("one ", "two ", "three"):
            yield part
            await asyncio.sleep(0)

    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(url_of(server)) as client:
            await client.send(parts())
            assert await client.recv() == "one two three"

    twin(main())


def test_ping_is_answered_while_the_handler_is_busy(twin: Twin) -> None:
    async def main() -> None:
        hold = asyncio.Event()
        steps: list[str] = []

        async def busy(_socket: Any) -> None:
            steps.append("begun")
            await hold.wait()
            steps.append("done")

        async with serve(busy, "127.0.0.1", 0) as server, connect(url_of(server)) as client:
            async with asyncio.timeout(30):
                await (await client.ping())
            assert steps == ["begun"]
            hold.set()
            async with asyncio.timeout(30):
                await client.wait_closed()
            assert steps == ["begun", "done"]

    twin(main())


def test_a_peer_that_answers_no_ping_is_disconnected(twin: Twin) -> None:
    """The keep-alive's timers: a client that is not read from stops answering."""

    async def main() -> None:
        lost = asyncio.get_running_loop().create_future()

        async def watch(socket: Any) -> None:
            try:
                await socket.recv()
            except ConnectionClosedError as error:
                lost.set_result(error.sent.code)

        async with (
            serve(watch, "127.0.0.1", 0, ping_interval=0.05, ping_timeout=0.05, close_timeout=0.1) as server,
            connect(url_of(server), ping_interval=None, close_timeout=0.1) as client,
        ):
            client.transport.pause_reading()
            assert await lost == 1011
            client.transport.abort()

    twin(main())


@pytest.mark.parametrize("first", ["client", "server", "both"])
def test_closing_handshake(twin: Twin, first: str) -> None:
    async def main() -> None:
        codes = asyncio.get_running_loop().create_future()

        async def handler(socket: Any) -> None:
            if first != "client":
                await socket.close(4001, "server")
            await socket.wait_closed()
            codes.set_result(socket.close_code)

        async with serve(handler, "127.0.0.1", 0) as server, connect(url_of(server)) as client:
            if first != "server":
                await client.close(4002, "client")
            await client.wait_closed()
            assert await codes == client.close_code
            assert client.close_code in (4001, 4002)
            with pytest.raises((ConnectionClosedOK, ConnectionClosedError)):
                await client.send("too late")

    twin(main())


def test_a_broken_connection_differs_from_a_closed_one(twin: Twin) -> None:
    async def main() -> None:
        async def breaks(socket: Any) -> None:
            socket.transport.abort()

        async with serve(breaks, "127.0.0.1", 0) as server, connect(url_of(server)) as client:
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            assert client.close_code == 1006

    twin(main())


def test_a_cancelled_receive_loses_no_message(twin: Twin) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(url_of(server)) as client:
            for number in range(50):
                waiting = asyncio.ensure_future(client.recv())
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await client.send(str(number))
                assert await client.recv() == str(number)

    twin(main())


def test_a_slow_reader_holds_its_sender_up(twin: Twin) -> None:
    async def main() -> None:
        read = asyncio.Event()
        got = asyncio.get_running_loop().create_future()

        async def slow(socket: Any) -> None:
            await read.wait()
            got.set_result(sum([len(message) async for message in socket]))

        async with serve(slow, "127.0.0.1", 0, compression=None, max_queue=2) as server:
            async with connect(url_of(server), compression=None) as client:
                sending = asyncio.ensure_future(send_all(client, 100))
                done, _ = await asyncio.wait({sending}, timeout=0.3)
                assert not done
                read.set()
                await sending
            assert await got == 100 * 500_000

    async def send_all(client: Any, count: int) -> None:
        for _ in range(count):
            await client.send(b"x" * 500_000)

    twin(main())


def test_many_clients_and_a_broadcast(twin: Twin) -> None:
    async def main() -> None:
        async with serve(lambda socket: socket.wait_closed(), "127.0.0.1", 0) as server:
            clients = await asyncio.gather(*(connect(url_of(server)) for _ in range(60)))
            broadcast(server.connections, "news")
            assert await asyncio.gather(*(client.recv() for client in clients)) == ["news"] * 60
            await asyncio.gather(*(client.close() for client in clients))

    twin(main())


def test_a_refused_handshake_and_headers(twin: Twin) -> None:
    async def main() -> None:
        def check(socket: Any, request: Any) -> Any:
            if request.headers.get("X-Word") != "friend":
                return socket.respond(403, "who are you?\n")
            return None

        async with serve(echo, "127.0.0.1", 0, process_request=check) as server:
            with pytest.raises(InvalidStatus) as caught:
                await connect(url_of(server))
            assert caught.value.response.status_code == 403
            async with connect(url_of(server), additional_headers={"X-Word": "friend"}) as client:
                await client.send("x")
                assert await client.recv() == "x"

    twin(main())


def test_a_closed_server_notifies_its_clients(twin: Twin) -> None:
    async def main() -> None:
        server = await serve(echo, "127.0.0.1", 0)
        client = await connect(url_of(server))
        server.close()
        with pytest.raises(ConnectionClosedOK):
            await client.recv()
        assert client.close_code == 1001
        await server.wait_closed()

    twin(main())


def test_over_tls(twin: Twin, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost", "127.0.0.1")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(leaf.certificate, leaf.key)
    ours = ssl.create_default_context(cafile=str(authority.cafile))

    async def main() -> None:
        async with (
            serve(echo, "127.0.0.1", 0, ssl=theirs) as server,
            connect(url_of(server, "wss"), ssl=ours) as client,
        ):
            await client.send(b"x" * 1_000_000)
            assert len(await client.recv(decode=False)) == 1_000_000

    twin(main())


def test_over_a_unix_socket(twin: Twin, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "ws")
        async with unix_serve(echo, path), unix_connect(path) as client:
            await client.send("near")
            assert await client.recv() == "near"

    twin(main())
