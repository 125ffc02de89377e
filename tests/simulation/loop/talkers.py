"""Coroutines on the loop under test: `sock_*`, asyncio's streams and ours, cancelled at any await.

A script is a list of operations: ["read", n], ["exactly", n], ["until"], ["write", n], ["both", n] write and drain,
["drain"], ["eof"], ["sleep", microseconds], ["close"], ["fork", way] (see `forks`). A fork outside the coroutine has a
trigger: "accept" and "begun" in the handler of a connection, before and after the coroutine is started, "turn5" and
"at300" as in `ends`. After it the coroutine reads to the end, then closes. A
cancelled operation is repeated, because nothing may be lost by cancelling; only how much a cancelled `sock_sendall` has
sent is unknown.
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from simulation.loop.forks import fork
from simulation.loop.world import Peer, World, piece_of, readiness, unread

SHORTAGES = (12, 105)  # ENOMEM, ENOBUFS


class Talker:
    """A coroutine that exchanges data with a peer over one connection, and the model of it."""

    def __init__(self, world: World, name: str, spec: dict[str, Any], sends_from: int) -> None:
        self.world = world
        self.name = name
        self.script = spec["script"]
        # asyncio's sock_recv loses received data when it is cancelled in the same iteration.
        self.cancels = [] if world.on_reference else spec["cancels"]
        self.forks = spec["forks"]
        self.sends_from, self.reads_from = sends_from, sends_from + 500
        self.peer: Peer = None  # type: ignore[assignment]
        self.channel: Any = None
        self.task: asyncio.Task[Any] | None = None
        self.doing = ""
        self.written = self.received = 0
        self.saw_eof = self.said_eof = self.unsure = self.ending = self.closed = self.garbled = False
        self.error: BaseException | None = None
        world.parts.append(self)

    def complain(self, category: str, text: str) -> None:
        self.world.complain(category, f"{self.name}: {text}")

    def begin(self, channel: Any) -> None:
        """Exchange data over `channel` in a new task."""
        self.channel = channel
        if os.getpid() != self.world.pid:
            # A connection that was accepted before the fork, in a child that runs the inherited loop.
            channel.abort()
            return
        if self.fork_when("accept"):
            return
        self.task = self.world.loop.create_task(self.talk())
        if self.fork_when("begun"):
            return
        for trigger, way in self.forks:
            if trigger.startswith("turn"):
                self.fork_after_turns(int(trigger[4:]), way)
            elif trigger.startswith("at"):
                self.world.loop.call_later(int(trigger[2:]) / 1e6, self.fork, way)
        for turns in self.cancels:
            self.after_turns(turns)

    def after_turns(self, left: int) -> None:
        if self.task is None or self.task.done():
            return
        if left:
            self.world.loop.call_soon(self.after_turns, left - 1)
        else:
            self.world.note(f"{self.name} cancelled")
            self.task.cancel()

    def fork(self, way: str) -> bool:
        """Fork; True in a child that must return from its callback."""
        self.world.note(f"{self.name} forks, {way}")
        return fork(self.world, self.name, way)

    def fork_when(self, when: str) -> bool:
        """Do the forks with the trigger `when`; as `fork`."""
        return any(self.fork(way) for trigger, way in self.forks if trigger == when)

    def fork_after_turns(self, left: int, way: str) -> None:
        if left:
            self.world.loop.call_soon(self.fork_after_turns, left - 1, way)
        else:
            self.fork(way)

    async def talk(self) -> None:
        """Perform the script, read to the end, close."""
        try:
            for name, *arguments in self.script:
                await self.attempt(name, *arguments)
                if self.closed:
                    return
            while not self.saw_eof:
                await self.attempt("read", 30000)
        except OSError as error:
            self.error = error
        finally:
            self.doing = ""
            # A child that leaves by SystemExit must not wait here.
            if os.getpid() == self.world.pid or self.ending:
                await self.close()

    async def attempt(self, name: str, *arguments: Any) -> None:
        """Perform one operation, and repeat it when it was cancelled."""
        while True:
            try:
                self.world.note(f"{self.name} {name}")
                self.doing = name
                await getattr(self, f"do_{name}")(*arguments)
                return
            except asyncio.CancelledError:
                if self.ending:
                    raise
                if name in ("write", "both", "sleep"):
                    # Already counted as written, or as slept.
                    return
            finally:
                self.doing = ""

    def took(self, data: bytes) -> None:
        """Compare received bytes with the expected ones."""
        if not self.garbled and data != piece_of(self.reads_from, self.received, len(data)):
            self.garbled = True
            self.complain("bytes", f"received other bytes than were sent, from {self.received} on")
        self.received += len(data)

    async def do_read(self, size: int) -> None:
        data = await self.channel.read(size)
        if len(data) > size:
            self.complain("bytes", f"read({size}) returned {len(data)} bytes")
        self.saw_eof = self.saw_eof or not data
        self.took(data)

    async def do_exactly(self, size: int) -> None:
        try:
            self.took(await self.channel.exactly(size))
        except asyncio.IncompleteReadError as error:
            self.took(error.partial)
            self.saw_eof = True

    async def do_until(self) -> None:
        try:
            self.took(await self.channel.until(b"\n"))
        except asyncio.IncompleteReadError as error:
            self.took(error.partial)
            self.saw_eof = True
        except asyncio.LimitOverrunError:
            await self.do_read(1000)

    async def do_write(self, size: int) -> None:
        if self.said_eof or self.unsure:
            return
        data = piece_of(self.sends_from, self.written, size)
        self.written += len(data)
        try:
            await self.channel.write(data)
        except asyncio.CancelledError:
            self.unsure = self.channel.forgets
            raise

    async def do_both(self, size: int) -> None:
        await self.do_write(size)
        await self.channel.drain()

    async def do_drain(self) -> None:
        await self.channel.drain()

    async def do_eof(self) -> None:
        if not self.said_eof:
            self.said_eof = True
            self.channel.eof()

    async def do_sleep(self, microseconds: int) -> None:
        await asyncio.sleep(microseconds / 1e6)

    async def do_fork(self, way: str) -> None:
        if self.fork(way):
            # In a child that has closed the loop: the step of the task ends here.
            await asyncio.Future(loop=self.world.loop)

    async def do_close(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection and wait until it is closed."""
        if self.closed:
            return
        self.closed = True
        try:
            await self.channel.close()
        except OSError as error:
            self.error = self.error or error
        except asyncio.CancelledError:
            if self.ending:
                raise

    # --- the model ------------------------------------------------------------------------------------------------

    def quiet(self, stage: str) -> None:
        """Complain about everything that could make progress and does not."""
        if self.task is None or self.task.done():
            return
        fd = self.channel.fd()
        if fd < 0:
            if not self.closed:
                self.complain("wakeup", f"{self.doing} waits in stage {stage} without a descriptor")
            return
        ready = readiness(fd)
        if self.doing in ("read", "exactly", "until") and ready & select.POLLIN:
            self.complain("wakeup", f"{self.doing} waits in stage {stage}, {unread(fd)} bytes or the end unread")
        if self.doing in ("write", "both", "drain") and ready & select.POLLOUT:
            self.complain("wakeup", f"{self.doing} waits in stage {stage}, and the kernel would take more")

    def release(self) -> None:
        """Nothing was paused."""

    def finish(self) -> None:
        self.ending = True
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def give_up(self) -> None:
        self.ending = True
        if self.channel is not None:
            self.channel.abort()

    def give_up_later(self) -> None:
        """The task is cancelled."""

    def check(self) -> None:
        """Complain about what is wrong at the end."""
        if self.task is None:
            if not self.world.shortages:
                self.complain("end", "was never connected")
            return
        if not self.task.done():
            self.complain("end", f"the task is not done, it does {self.doing}")
            return
        if not self.task.cancelled() and self.task.exception() is not None:
            self.complain("crash", repr(self.task.exception()))
        peer = self.peer
        clean = self.error is None and not self.unsure and not self.ending
        if clean and not peer.gone_early and peer.received != self.written:
            self.complain("loss", f"ended cleanly, the peer has {peer.received} of {self.written} bytes")
        if clean and self.saw_eof and self.received != peer.sent and not peer.failed:
            self.complain("loss", f"ended cleanly, {self.received} of the {peer.sent} bytes sent by the peer arrived")
        if self.error is not None and not (peer.gone_early or self.world.shortages):
            self.complain("error", f"{self.error!r} without a reason")
        self.task = self.channel = None


class StreamChannel:
    """A reader and a writer."""

    forgets = False

    def __init__(self, reader: Any, writer: Any) -> None:
        self.reader, self.writer = reader, writer

    def fd(self) -> int:
        sock = self.writer.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    async def read(self, size: int) -> bytes:
        data: bytes = await self.reader.read(size)
        return data

    async def exactly(self, size: int) -> bytes:
        data: bytes = await self.reader.readexactly(size)
        return data

    async def until(self, separator: bytes) -> bytes:
        data: bytes = await self.reader.readuntil(separator)
        return data

    async def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def drain(self) -> None:
        await self.writer.drain()

    def eof(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    def abort(self) -> None:
        self.writer.close()


class SocketChannel:
    """A socket and the loop's `sock_*` methods."""

    forgets = True

    def __init__(self, world: World, sock: socket.socket) -> None:
        self.world, self.sock = world, sock

    def fd(self) -> int:
        return self.sock.fileno()

    async def read(self, size: int) -> bytes:
        if size % 2:
            return await self.world.loop.sock_recv(self.sock, size)
        buffer = bytearray(size)
        got = await self.world.loop.sock_recv_into(self.sock, buffer)
        return bytes(buffer[:got])

    async def exactly(self, size: int) -> bytes:
        return await self.read(size)

    async def until(self, _separator: bytes) -> bytes:
        return await self.read(1001)

    async def write(self, data: bytes) -> None:
        await self.world.loop.sock_sendall(self.sock, data)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def eof(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        self.sock.close()

    def abort(self) -> None:
        self.sock.close()


class Acceptor:
    """A server of streams, and the talkers for its connections, in the order of the connections."""

    def __init__(self, world: World, talkers: list[Talker]) -> None:
        self.world = world
        self.talkers = talkers
        self.server: Any = None
        self.number = 0
        world.parts.append(self)

    async def begin(self, start: Callable[..., Any], limit: int) -> None:
        """Listen, and let the peers connect."""
        path = f"\0simulation-{os.getpid():08}"
        self.server = await start(self.accepted, path, limit=limit)
        for talker in self.talkers:
            talker.peer.sock.connect(path)
            self.world.peers.append(talker.peer)

    def accepted(self, reader: Any, writer: Any) -> None:
        """The handler of a connection."""
        self.number += 1
        self.talkers[self.number - 1].begin(StreamChannel(reader, writer))

    def quiet(self, stage: str) -> None:
        """Complain about connections that are not accepted."""
        if self.server is not None and self.server.sockets:
            if readiness(self.server.sockets[0].fileno()) & select.POLLIN:
                self.complain_of(stage)

    def complain_of(self, stage: str) -> None:
        self.world.complain("wakeup", f"a connection waits to be accepted in stage {stage}")

    def release(self) -> None:
        """Nothing was paused."""

    def finish(self) -> None:
        if self.server is not None:
            self.server.close()

    def give_up(self) -> None:
        if self.server is not None:
            self.server.close()
            # Those whose handler was not called yet.
            self.server.close_clients()

    def give_up_later(self) -> None:
        """Nothing is left."""

    def check(self) -> None:
        self.server = None
