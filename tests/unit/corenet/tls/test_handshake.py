"""TLS handshakes: refused, timed out, cancelled, with SNI and ALPN; and start_tls on an existing transport."""

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.tls_pair import client_context, finish, leaf, ours, server_context, tls_pair
from support.twin import Recorder, accepting, connected_pair, loop_factory, twin

import corenet

__all__ = ["client_context", "leaf", "loop_factory", "ours", "server_context", "twin"]

Twin = Callable[[Any], Any]


def test_certificate_error_reaches_the_caller(twin: Twin, server_context: ssl.SSLContext) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_context)
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.create_connection(Recorder, *server.sockets[0].getsockname(), ssl=True)
        server.close()
        await server.wait_closed()

    twin(main())


def test_the_peer_gets_an_alert_that_says_why_its_certificate_was_refused(
    ours: Twin, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> str:
            sock, _ = listener.accept()
            try:
                with server_context.wrap_socket(sock, server_side=True) as wrapped:
                    wrapped.recv(1)
            except ssl.SSLError as error:
                return str(error.reason)
            return "nothing"

        answer = loop.run_in_executor(None, serve)
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.create_connection(Recorder, *listener.getsockname(), ssl=True)
        assert "UNKNOWN_CA" in await answer
        listener.close()

    ours(main())


def test_handshake_timeout(twin: Twin, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        with pytest.raises(ConnectionAbortedError, match=r"SSL handshake is taking longer than 0\.05 seconds"):
            await loop.create_connection(
                Recorder,
                *server.sockets[0].getsockname(),
                ssl=client_context,
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        server.close()
        await server.wait_closed()

    twin(main())


def test_peer_ends_during_the_handshake(twin: Twin, client_context: ssl.SSLContext) -> None:
    class Leaving(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Leaving, "127.0.0.1", 0)
        with pytest.raises(ConnectionResetError):
            await loop.create_connection(
                Recorder, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
        server.close()
        await server.wait_closed()

    twin(main())


def test_a_cancelled_handshake_leaves_no_connection(twin: Twin, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        factory, arrived = accepting()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        task = asyncio.ensure_future(
            loop.create_connection(
                Recorder, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
        )
        there = await arrived
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await there.lost
        server.close()
        await server.wait_closed()

    twin(main())


def test_server_name_callback(twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    names: list[Any] = []
    server_context.sni_callback = lambda _object, name, _context: names.append(name)

    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        await finish(server, here, there)

    twin(main())
    assert names == ["localhost"]


def test_alpn(twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    client_context.set_alpn_protocols(["http/1.1"])

    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        for end in (there, here):
            assert end.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        await finish(server, here, there)

    twin(main())


# --- start_tls ----------------------------------------------------------------------------------------------------


def test_tls_in_tls(twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        there, here, server = await tls_pair(server_context, client_context)
        inner_there, inner_here = await asyncio.gather(
            loop.start_tls(there.transport, there, server_context, server_side=True),
            loop.start_tls(here.transport, here, client_context, server_hostname="localhost"),
        )
        inner_here.write(b"x" * 300_000)
        inner_there.write(b"y" * 300_000)
        await there.until(lambda: len(there.data) == 300_000)
        await here.until(lambda: len(here.data) == 300_000)
        assert inner_here.get_extra_info("peername") == here.transport.get_extra_info("peername")
        inner_here.close()
        await here.lost
        await there.lost
        assert here.events.count("lost") == there.events.count("lost") == 1
        server.close()
        await server.wait_closed()

    twin(main())


def test_start_tls_on_a_transport_that_is_being_closed_returns_none(twin: Twin, client_context: ssl.SSLContext) -> None:
    """Programs rely on None, which asyncio returns there without documenting it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        there, here, server = await connected_pair()
        here.transport.close()
        tls = await loop.start_tls(here.transport, here, client_context, server_hostname="localhost")
        assert tls is None
        there.transport.close()
        server.close()

    twin(main())


@pytest.mark.parametrize("late", [False, True])
def test_a_failed_handshake_leaves_no_cycle_behind(
    ours: Twin, server_context: ssl.SSLContext, late: bool
) -> None:
    """An untrusted certificate: the transports are freed with the error, without the garbage collector."""
    distrustful = ssl.create_default_context()
    gone: list[Any] = []

    class Noted(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            gone.append(weakref.ref(transport))

    async def connect(address: Any) -> None:
        loop = asyncio.get_running_loop()
        try:
            if late:
                transport, protocol = await loop.create_connection(Noted, *address)
                await loop.start_tls(transport, protocol, distrustful, server_hostname="localhost")
            else:
                await loop.create_connection(Noted, *address, ssl=distrustful, server_hostname="localhost")
        except ssl.SSLCertVerificationError:
            pass
        else:
            pytest.fail("the certificate was trusted")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=server_context)
        gc.collect()
        gc.disable()
        try:
            before = len([o for o in gc.get_objects() if type(o).__name__ in ("TlsTransport", "StreamTransport")])
            await connect(server.sockets[0].getsockname())
            for _ in range(20):
                await asyncio.sleep(0)
            after = len([o for o in gc.get_objects() if type(o).__name__ in ("TlsTransport", "StreamTransport")])
            assert [transport() for transport in gone if transport() is not None] == []
            assert after == before
        finally:
            gc.enable()
        server.close()

    ours(main())


def test_start_tls_requires_a_context_and_a_supported_transport(twin: Twin, client_context: ssl.SSLContext) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours_end, theirs, server = await connected_pair()
        with pytest.raises(TypeError, match="sslcontext"):
            await loop.start_tls(theirs.transport, theirs, None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not supported by start_tls"):
            await loop.start_tls(object(), theirs, client_context)  # type: ignore[arg-type]
        await finish(server, ours_end, theirs)

    twin(main())


@pytest.mark.parametrize("seconds", [float("inf"), 1e11])
def test_a_handshake_without_timeout_delays_no_other_timer(twin: Any, seconds: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        with peer:
            context = ssl.create_default_context()
            waiting = loop.create_task(
                loop.create_connection(
                    asyncio.Protocol, sock=ours, ssl=context, server_hostname="x", ssl_handshake_timeout=seconds
                )
            )
            done, _ = await asyncio.wait([waiting], timeout=0.01)
            assert not done
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    twin(main())


# --- callbacks that do more -------------------------------------------------------------------------------------------


class Interrupting(Recorder):
    """Ends the run from inside a callback."""

    def __init__(self, place: str, also: str) -> None:
        super().__init__()
        self.place, self.also = place, also

    def interrupt(self, place: str) -> None:
        if place == self.place:
            self.place = "done"
            if self.also:
                getattr(self.transport, self.also)()
            raise KeyboardInterrupt

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.interrupt("connection_made")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.interrupt("data_received")


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("place", ["connection_made", "data_received"])
@pytest.mark.parametrize("also", ["", "close", "pause_reading"])
def test_a_connection_whose_callback_ended_the_run_continues_in_the_next_run(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, side: str, place: str, also: str
) -> None:
    """asyncio does not complete the handshake then, and those that wait for it wait for ever."""
    loop: Any = corenet.new_event_loop()
    ends: dict[str, Recorder] = {}

    def end(name: str) -> Recorder:
        ends[name] = Interrupting(place, also) if name == side else Recorder()
        return ends[name]

    async def begin() -> Any:
        server = await loop.create_server(lambda: end("server"), "127.0.0.1", 0, ssl=server_context)
        name = server.sockets[0].getsockname()
        connecting = loop.create_task(
            loop.create_connection(lambda: end("client"), *name, ssl=client_context, server_hostname="localhost")
        )
        return server, connecting

    async def go_on() -> None:
        await connecting
        for name in ends:
            await ends[name].until(lambda name=name: "made" in ends[name].events)
        other = ends["server" if side == "client" else "client"]
        ours = ends[side]
        if place == "data_received":
            # Both in one segment: the end is there already when the run ends.
            other.transport.write(b"data")
            other.transport.close()
            await ours.lost
        elif also != "close":
            other.transport.write(b"data")
            ours.transport.resume_reading()
            await ours.until(lambda: ours.data == b"data")
            ours.transport.write(b"answer")
            await other.until(lambda: other.data == b"answer")
            ours.transport.close()
        await other.lost
        await ours.lost
        assert ours.events.count("made") == ours.events.count("lost") == 1

    server, connecting = loop.run_until_complete(begin())
    going = loop.create_task(asyncio.wait_for(go_on(), 30))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(going)
    if place == "data_received" and also == "pause_reading":
        ends[side].transport.resume_reading()
    loop.run_until_complete(going)
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.close()


@pytest.mark.parametrize("call", ["abort", "close"])
def test_a_handshake_aborted_in_its_last_step_does_not_continue(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, call: str
) -> None:
    """A callback of the context aborts it: here the message callback, which debuggers use."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        left, right = socket.socketpair()
        left.setblocking(False)
        accepting = loop.create_task(loop.connect_accepted_socket(Recorder, right, ssl=server_context))
        protocol = Recorder()
        made = loop.create_future()
        context: Any = client_context

        def seen(_object: Any, direction: str, _version: Any, _content: Any, message: Any, _data: Any) -> None:
            if direction == "write" and getattr(message, "name", "") == "FINISHED":
                getattr(transport, call)()

        context._msg_callback = seen
        transport = loop._make_ssl_transport(left, protocol, client_context, made, server_hostname="localhost")
        with pytest.raises(ConnectionAbortedError):
            await made
        assert protocol.events == []
        with pytest.raises(ConnectionResetError):
            await accepting

    ours(main())


@pytest.mark.parametrize("ends", ["close", "goes on"])
def test_data_written_before_the_handshake_is_sent_after_it(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, ends: str
) -> None:
    class Writing(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"late")
            if ends == "close":
                transport.close()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        left, right = socket.socketpair()
        left.setblocking(False)
        ours = Writing()
        made = loop.create_future()
        transport = loop._make_ssl_transport(left, ours, server_context, made, server_side=True)
        for _ in range(3):
            await asyncio.sleep(0)
        transport.write(b"early, ")
        transport.write(b"soon, ")
        _, theirs = await loop.create_connection(
            Recorder, sock=right, ssl=client_context, server_hostname="localhost"
        )
        await made
        await theirs.until(lambda: theirs.data == b"early, soon, late")
        if ends == "goes on":
            transport.close()
        await ours.lost
        await theirs.lost

    twin(main())
