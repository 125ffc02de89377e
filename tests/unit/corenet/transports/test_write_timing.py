"""When written data is sent: the first write of each callback at once, the others when it returns or before a fork.

A callback that writes once and then blocks the thread, calls os._exit or forks has sent it, as on asyncio. Later writes
of the same callback may be held until its end, but are never sent twice. Each test reads the peer's socket from within
the callback.
"""

import asyncio
import os
import select
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tls_pair import client_context, leaf, server_context, tls_pair
from support.twin import Recorder, loop_factory, twin

__all__ = ["client_context", "leaf", "loop_factory", "server_context", "twin"]

Twin = Callable[[Any], Any]


class Blocking(Recorder):
    """Writes once in the callback `where` and reads the peer's socket there, before the callback returns."""

    def __init__(self, where: str, peer: socket.socket) -> None:
        super().__init__()
        self.where = where
        self.peer = peer
        self.seen: list[bytes] = []
        self.before: Callable[[], None] = lambda: None

    def act(self, where: str) -> None:
        if where == self.where:
            self.before()
            self.transport.write(b"once")
            self.seen.append(self.peer.recv(100))

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.act("made")

    def data_received(self, data: bytes) -> None:
        if data == b"several":
            self.transport.write(b"one, ")
            self.transport.write(b"two, ")
            self.transport.write(b"three")
            return
        self.act("data")
        super().data_received(data)

    def eof_received(self) -> bool:
        self.act("eof")
        super().eof_received()
        return True


class BlockingBuffered(Blocking, asyncio.BufferedProtocol):
    """The same as a BufferedProtocol."""

    def get_buffer(self, _size: int) -> bytearray:
        self.buffer = bytearray(100)
        return self.buffer

    def buffer_updated(self, size: int) -> None:
        self.data_received(bytes(self.buffer[:size]))


async def made(kind: type[Blocking], where: str, family: int = socket.AF_UNIX) -> Blocking:
    """A transport whose peer's socket does not block for longer than 2 s."""
    loop = asyncio.get_running_loop()
    if family == socket.AF_UNIX:
        ours, peer = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
    peer.settimeout(30)
    connect = loop.create_unix_connection if family == socket.AF_UNIX else loop.create_connection
    _, protocol = await connect(lambda: kind(where, peer), sock=ours)
    return protocol


async def end(protocol: Blocking) -> None:
    protocol.transport.abort()
    await protocol.lost
    protocol.peer.close()


async def received(peer: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += await asyncio.to_thread(peer.recv, 100)
    return got


@pytest.mark.parametrize("kind", [Blocking, BlockingBuffered])
@pytest.mark.parametrize("where", ["made", "data", "eof"])
@pytest.mark.parametrize("earlier", [False, True], ids=["first", "after several"])
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_a_single_write_of_a_protocol_callback_is_sent_at_once(
    twin: Twin, where: str, kind: type[Blocking], earlier: bool, family: int
) -> None:
    """After callbacks that wrote several pieces, TCP keeps the first one for up to 200 ms: no longer than that."""

    async def main() -> None:
        protocol = await made(kind, where, family)
        if earlier and where != "made":
            for _ in range(2):
                protocol.peer.sendall(b"several")
                assert await received(protocol.peer, 15) == b"one, two, three"
        if where == "data":
            protocol.peer.sendall(b"x")
        elif where == "eof":
            protocol.peer.shutdown(socket.SHUT_WR)
        await protocol.until(lambda: bool(protocol.seen))
        assert protocol.seen == [b"once"]
        await end(protocol)

    twin(main())


@pytest.mark.parametrize("how", ["soon", "task", "timer", "reader", "other protocol"])
def test_a_single_write_of_another_callback_is_sent_at_once(twin: Twin, how: str) -> None:
    """Also after other callbacks of the iteration wrote to the transport, and after callbacks with several writes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocol = await made(Blocking, "never")
        seen: list[bytes] = []
        done = asyncio.Event()

        def several() -> None:
            protocol.transport.write(b"one, ")
            protocol.transport.write(b"two")

        def once() -> None:
            protocol.transport.write(b"once")
            seen.append(protocol.peer.recv(100))
            done.set()

        async def task() -> None:
            once()

        class Other(Recorder):
            def data_received(self, data: bytes) -> None:
                once()

        for _ in range(3):
            loop.call_soon(several)
            assert await received(protocol.peer, 8) == b"one, two"
        near, far = socket.socketpair()
        other: Any = None
        if how == "soon":
            loop.call_soon(several)
            loop.call_soon(lambda: seen.append(protocol.peer.recv(8)))
            loop.call_soon(once)
            loop.call_soon(once)
        elif how == "task":
            asyncio.create_task(task())  # noqa: RUF006
        elif how == "timer":
            loop.call_later(0, once)
        elif how == "reader":
            loop.add_reader(near, lambda: (loop.remove_reader(near), once()))
            far.send(b"x")
        else:
            other, _ = await loop.create_unix_connection(Other, sock=near)
            far.send(b"x")
        await done.wait()
        while how == "soon" and len(seen) < 3:
            await asyncio.sleep(0)
        assert seen == ([b"one, two", b"once", b"once"] if how == "soon" else [b"once"])
        if other is not None:
            other.abort()
            await asyncio.sleep(0)
        near.close()
        far.close()
        await end(protocol)

    twin(main())


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "after several"])
def test_a_single_write_over_tls_is_sent_at_once(
    twin: Twin, earlier: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The peer is a transport of the same loop, whose socket is read from within the callback."""

    async def main() -> None:
        here, there, server = await tls_pair(server_context, client_context)
        sock = there.transport.get_extra_info("socket")
        waiting: list[int] = []
        descriptor = socket.socket(fileno=os.dup(sock.fileno()))
        arriving = select.poll()
        # After the session tickets.
        here.transport.write(b"hello")
        await there.until(lambda: there.data == b"hello")

        def act(data: bytes) -> None:
            if data == b"several":
                here.transport.write(b"one, ")
                here.transport.write(b"two")
            elif data == b"x":
                here.transport.write(b"once")
                arriving.register(descriptor, select.POLLIN)
                arriving.poll(2000)
                waiting.append(len(descriptor.recv(1000, socket.MSG_PEEK)))

        here.data_received = act  # type: ignore[method-assign]
        size = 5
        for _ in range(2 if earlier else 0):
            there.transport.write(b"several")
            size += 8
            await there.until(lambda: len(there.data) == size)  # noqa: B023
        there.transport.write(b"x")
        await there.until(lambda: there.data[size:] == b"once")
        assert waiting
        assert waiting[0] > 4
        descriptor.close()
        for one in (here, there):
            one.transport.abort()
            await one.lost
        server.close()
        await server.wait_closed()

    twin(main())


def test_a_single_datagram_is_sent_at_once(twin: Twin, tmp_path: Path) -> None:
    """The answer to a single datagram is sent at once."""

    class Answering(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(b"once", address)
            seen.append(peer.recv(100))
            done.set()

    seen: list[bytes] = []
    done = asyncio.Event()
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(("127.0.0.1", 0))
    peer.settimeout(30)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Answering, ("127.0.0.1", 0))
        peer.sendto(b"x", transport.get_extra_info("sockname"))
        await done.wait()
        assert seen == [b"once"]
        transport.close()
        await asyncio.sleep(0)

    with peer:
        twin(main())


PROGRAM = """
import asyncio, os, socket, ssl, sys, threading
import corenet

factory = {factory}
kind, ending = sys.argv[1:3]
sock = socket.socket(fileno=int(sys.argv[3]))
written = (b"one, ", b"two, ", b"three")


def leave():
    if ending == "exit":
        os._exit(0)
    if ending == "thread":
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        return
    fork()


def fork():
    child = os.fork()
    if child == 0:
        if ending in ("child _exits", "thread"):
            os._exit(0)
        if ending == "child exits":
            sys.exit(0)
        if ending == "child closes":
            transports[0].close()
            sys.exit(0)
        if ending == "child runs":
            asyncio.set_event_loop(None)
            loop = factory()
            loop.run_until_complete(asyncio.sleep(0))
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    transports[0].write(b", end")
    transports[0].close()


def act():
    for piece in written[:1] if ending == "exit" else written:
        if kind == "datagram":
            transports[0].sendto(piece)
        else:
            transports[0].write(piece)
    leave()


transports = []


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        transports.append(transport)

    def data_received(self, data):
        if kind == "protocol":
            act()

    def connection_lost(self, error):
        done.set_result(None)


async def main():
    global done
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    await loop.create_unix_connection(Protocol, sock=sock)
    os.write(1, b"ready")
    if kind == "task":
        asyncio.create_task(task())
    elif kind == "soon":
        loop.call_soon(act)
    await done


async def task():
    act()


with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""

LOOPS = ["asyncio.SelectorEventLoop", "corenet.new_event_loop"]


ENDINGS = ["exit", "child _exits", "child exits", "thread", "child closes", "child runs"]


@pytest.mark.parametrize(
    ("factory", "ending"),
    # A child of asyncio's loop shares its parent's epoll table, so the last two end the parent's connection there.
    [(factory, ending) for factory in LOOPS for ending in (ENDINGS[:4] if factory == LOOPS[0] else ENDINGS)],
)
@pytest.mark.parametrize("kind", ["protocol", "task", "soon"])
def test_data_is_sent_once_whatever_ends_the_callback(kind: str, ending: str, factory: str) -> None:
    """One piece before os._exit; several pieces before a fork, whose child ends in one way or another."""
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.settimeout(30)
        program = textwrap.dedent(PROGRAM.format(factory=factory))
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, kind, ending, str(ours.fileno())],
            pass_fds=[ours.fileno()],
            stdout=subprocess.PIPE,
        ) as child:
            try:
                ours.close()
                assert child.stdout is not None
                assert child.stdout.read(5) == b"ready"
                if kind == "protocol":
                    peer.sendall(b"go")
                got = b""
                while data := peer.recv(100):
                    got += data
                assert child.wait(30) == 0
            finally:
                child.kill()
        assert got == (b"one, " if ending == "exit" else b"one, two, three, end")


class Forking(Blocking):
    """Writes several times, forks, and reads them at the peer before its callback ends."""

    def act(self, where: str) -> None:
        if where == self.where:
            self.transport.write(b"one, ")
            self.transport.write(b"two")
            child = os.fork()
            if not child:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            self.seen.append(self.peer.recv(100))


def test_everything_was_sent_when_a_fork_returns(twin: Twin) -> None:
    async def main() -> None:
        protocol = await made(Forking, "data")
        protocol.peer.sendall(b"x")
        await protocol.until(lambda: bool(protocol.seen))
        assert protocol.seen == [b"one, two"]
        await end(protocol)

    twin(main())


FULL = """
import asyncio, os, socket, sys
import corenet

sock = socket.socket(fileno=int(sys.argv[1]))
data = bytes(range(256)) * 16384


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, received):
        self.transport.write(data)
        assert self.transport.get_write_buffer_size()
        child = os.fork()
        if child == 0:
            if sys.argv[2] == "closes":
                self.transport.close()
            # The child's copy of the loop may be run, and counts as stopped.
            self.ends = []
            loop.run_until_complete(asyncio.sleep(0.1))
            os._exit(len(self.ends) != (sys.argv[2] == "closes"))
        assert os.waitpid(child, 0)[1] == 0
        self.transport.close()

    def connection_lost(self, error):
        if hasattr(self, "ends"):
            self.ends.append(error)
        else:
            done.set_result(None)


async def main():
    global done, loop
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    await loop.create_unix_connection(Protocol, sock=sock)
    os.write(1, b"ready")
    await done


with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("child", ["runs", "closes"])
def test_unsent_data_is_sent_by_the_parent_only(child: str) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.settimeout(30)
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", FULL, str(ours.fileno()), child],
            pass_fds=[ours.fileno()],
            stdout=subprocess.PIPE,
        ) as program:
            try:
                ours.close()
                assert program.stdout is not None
                assert program.stdout.read(5) == b"ready"
                peer.sendall(b"go")
                got = bytearray()
                while data := peer.recv(1 << 20):
                    got += data
                assert program.wait(30) == 0
            finally:
                program.kill()
        assert got == bytes(range(256)) * 16384


UNREAD = """
import asyncio, os, socket, sys
import corenet

sock, peer = socket.socketpair()


class Protocol(asyncio.BufferedProtocol):
    def __init__(self):
        self.buffer = bytearray(4)
        self.got = b""

    def get_buffer(self, _hint):
        return self.buffer

    def buffer_updated(self, size):
        if not self.got:
            child = os.fork()
            if child == 0:
                loop.close()
                return
            os.waitpid(child, 0)
        self.got += self.buffer[:size]
        if len(self.got) == 12:
            done.set_result(None)


async def main():
    global done, loop
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    peer.sendall(b"one,two,four")
    _, protocol = await loop.create_unix_connection(Protocol, sock=sock)
    async with asyncio.timeout(5):
        await done
    print(protocol.got.decode())


running = LOOP()
running.run_until_complete(main())
running.close()
"""


@pytest.mark.parametrize("factory", ["asyncio.SelectorEventLoop", "corenet.new_event_loop"])
def test_unread_data_stays_for_the_parent_when_a_child_closes_the_loop(factory: str) -> None:
    """The child closes the loop in a callback, and receives no more in the current event."""
    program = UNREAD.replace("LOOP", factory)
    if factory.startswith("asyncio"):
        # A child of asyncio's loop shares its parent's epoll table.
        program = program.replace("loop.close()\n", "os._exit(0)\n")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout == "one,two,four\n", done.stderr


SHAKEN = """
import asyncio, os, signal, ssl, sys
import corenet

certificate, key = sys.argv[1:]
parent = os.getpid()


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            loop.close()
            # The rest of this callback and of its callers runs in the child too.
            return
        assert os.waitpid(child, 0)[1] == 0
        transport.write(b"once")
        transport.close()

    def connection_lost(self, error):
        if os.getpid() == parent:
            done.set_result(error)


async def main():
    global done, loop
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    assert await done is None
    server.close()


try:
    corenet.run(main())
finally:
    if os.getpid() != parent:
        os._exit(0)
"""


def test_the_last_flight_of_a_handshake_is_sent_once(leaf: Any, client_context: ssl.SSLContext) -> None:
    """The server's tickets are made before connection_made, and must not be sent again by the child of a fork in it."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SHAKEN, leaf[0].certificate, leaf[0].key], stdout=subprocess.PIPE
    ) as program:
        try:
            assert program.stdout is not None
            with socket.create_connection(("127.0.0.1", int(program.stdout.readline())), 10) as plain:
                with client_context.wrap_socket(plain, server_hostname="localhost") as peer:
                    assert peer.recv(100) == b"once"
                    # A record that is sent twice cannot be decrypted.
                    assert peer.recv(100) == b""
            assert program.wait(30) == 0
        finally:
            program.kill()
