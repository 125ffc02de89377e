"""Datagrams and pipes in the simulation.

Datagrams are sent through a pair of Unix sockets, which neither lose nor reorder them: each arrives once, or
`error_received` is called once for its loss.
"""

import asyncio
import errno
import os
import select
import socket
from typing import Any

from simulation.loop.ends import End
from simulation.loop.world import PATTERN, Peer, World, readiness

MOST_NUMBERS = 1000


def contents(number: int, size: int) -> bytes:
    """Datagram `number`: its number, then a piece of the pattern."""
    return number.to_bytes(2, "big") + PATTERN[number * 11 : number * 11 + size]


class PacketPeer:
    """The other end of a datagram socket: ["send", size], ["recv", count], ["wait", ns], ["idle", turns], ["close"]."""

    def __init__(self, world: World, sock: socket.socket, script: list[list[Any]]) -> None:
        self.world, self.sock, self.script = world, sock, list(script)
        self.due = 0
        self.sent: list[bytes] = []
        self.last = -1
        self.received = 0
        self.gone = self.purged = False

    def stop_waiting(self, stage: str) -> None:
        """Skip waits from now on; in the stage "finish", only receive."""
        self.due = 0
        if stage == "finish":
            self.script.clear()

    def act(self) -> int:
        """Perform one step; 1 when something happened."""
        if self.gone or (self.due and self.world.kernel.now() < self.due):
            return 0
        self.due = 0
        name, argument = self.script[0] if self.script else ("recv", MOST_NUMBERS)
        if name == "send":
            data = contents(len(self.sent), argument)
            try:
                self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                return 0
            except OSError:
                # The other end is closed; the kernel has discarded the datagrams from it.
                self.purged = True
                self.script.pop(0)
                return 1
            self.sent.append(data)
            self.script.pop(0)
            return 1
        if name == "recv":
            return self.receive(argument)
        self.script.pop(0)
        if name == "wait":
            self.due = self.world.kernel.now() + argument
        elif name == "close":
            self.gone = True
            self.sock.close()
        return 1

    def receive(self, most: int) -> int:
        try:
            data = self.sock.recv(70000)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            # An error of the other side, reported once; datagrams that arrived before it can still be received.
            return 1
        if not data:
            # The other end is closed.
            return 0
        number = int.from_bytes(data[:2], "big")
        if data != contents(number, len(data) - 2) or number <= self.last:
            self.world.complain("bytes", f"datagram {number} of {len(data)} bytes after {self.last}, or changed")
        self.last = number
        self.received += 1
        if self.script and most > 1:
            self.script[0] = ["recv", most - 1]
        elif self.script:
            self.script.pop(0)
        return 1


class PacketEnd(asyncio.DatagramProtocol):
    """A datagram endpoint; triggers "made", "got1", ..., "turn5", "at300", "pause1", "resume1"."""

    def __init__(self, world: World, name: str, script: list[list[Any]]) -> None:
        self.world, self.name = world, name
        self.script: dict[str, list[list[Any]]] = {}
        for trigger, *entry in script:
            self.script.setdefault(trigger, []).append(entry)
        self.peer: PacketPeer = None  # type: ignore[assignment]
        self.transport: Any = None
        self.made = self.lost = self.got = self.errors = self.numbers = self.pauses = self.resumes = 0
        self.aborted = False
        self.error: BaseException | None = None
        world.parts.append(self)

    complain = End.complain
    run = End.run
    can = End.can
    spawn = End.spawn
    perform = End.perform
    after_turns = End.after_turns

    def connection_made(self, transport: Any) -> None:
        self.made += 1
        self.transport = transport
        for trigger in list(self.script):
            if trigger.startswith("turn"):
                self.after_turns(int(trigger[4:]), trigger)
            elif trigger.startswith("at"):
                self.world.loop.call_later(int(trigger[2:]) / 1e6, self.run, trigger)
        self.run("made")

    def datagram_received(self, data: bytes, _address: Any) -> None:
        if not self.made or self.lost:
            self.complain("order", "a datagram before or after the connection")
        if self.got >= len(self.peer.sent) or data != self.peer.sent[self.got]:
            self.complain("bytes", f"datagram {self.got} is another one than was sent")
        self.got += 1
        self.run(f"got{self.got}")

    def error_received(self, error: Exception) -> None:
        self.errors += 1
        if not isinstance(error, OSError):
            self.complain("error", f"error_received({error!r})")

    pause_writing = End.on_pause
    resume_writing = End.on_resume

    def connection_lost(self, error: Exception | None) -> None:
        self.lost += 1
        self.error = error

    def do_send(self, sizes: list[int]) -> None:
        for size in sizes:
            # `pause_writing` may fork: the child sends nothing of its own.
            if not self.transport.is_closing() and self.numbers < MOST_NUMBERS and os.getpid() == self.world.pid:
                # Counted first: sendto may call pause_writing, which may send more.
                self.numbers += 1
                self.transport.sendto(contents(self.numbers - 1, size))

    def do_close(self) -> None:
        self.transport.close()

    def do_abort(self) -> None:
        self.aborted = True
        self.transport.abort()

    do_limits = End.do_limits
    do_fork = End.do_fork

    def quiet(self, stage: str) -> None:
        """Complain of what could make progress and does not."""
        if self.lost or not self.made:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return
        ready = readiness(sock.fileno())
        queued = self.transport.get_write_buffer_size()
        if queued and ready & select.POLLOUT:
            self.complain("wakeup", f"{queued} bytes queued in stage {stage}, and the kernel would take more")
        if ready & select.POLLIN and not self.transport.is_closing():
            self.complain("wakeup", f"datagrams unread in stage {stage}")

    def release(self) -> None:
        self.script.clear()

    def finish(self) -> None:
        if self.made and not self.lost:
            self.transport.close()

    give_up = End.give_up
    give_up_later = End.give_up_later

    def check(self) -> None:
        """Complain of what is wrong at the end."""
        if self.made != 1 or self.lost != 1:
            self.complain("end", f"connection_made {self.made} times, connection_lost {self.lost} times")
        elif not (self.aborted or self.peer.gone or self.peer.purged) and self.error is None:
            # An error may belong to a datagram that was received just as well.
            if self.numbers - self.peer.received > self.errors:
                self.complain("loss", f"{self.peer.received} of {self.numbers} arrived, {self.errors} errors reported")
        if self.error is not None and not (self.world.shortages or self.peer.gone):
            self.complain("error", f"connection_lost({self.error!r}) without a reason")
        self.transport = None


class PipePeer(Peer):
    """The other end of a pipe."""

    def put(self, data: bytes) -> int:
        return os.write(self.sock.fileno(), data)

    def get(self, size: int) -> bytes:
        return os.read(self.sock.fileno(), size)

    def half_close(self) -> None:
        self.sock.close()
        self.done = self.saw_eof = True


class PipeEnd(End):
    """An end of a pipe: it only reads or only writes."""

    reads = False

    def can(self, name: str) -> bool:
        return (name == "pause_reading") == self.reads


    def fd(self) -> int:
        pipe = self.transport.get_extra_info("pipe") if self.transport is not None else None
        return -1 if pipe is None or pipe.closed else pipe.fileno()


async def play_datagrams(world: World, program: dict[str, Any]) -> None:
    """Datagram endpoints and their peers."""
    for number, spec in enumerate(program["ends"]):
        # Named ones: asyncio takes a peer without a name for none.
        ours, theirs = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        for sock, side in ((ours, "a"), (theirs, "b")):
            sock.setblocking(False)
            sock.bind(f"\0simulation-{os.getpid():08}-{number}{side}")
        ours.connect(theirs.getsockname())
        theirs.connect(ours.getsockname())
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, spec["sndbuf"])
        end = PacketEnd(world, f"packets{number}", spec["script"])
        end.peer = PacketPeer(world, theirs, spec["peer"])
        world.peers.append(end.peer)  # type: ignore[arg-type]
        try:
            await world.loop.create_datagram_endpoint(lambda end=end: end, sock=ours)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOSPC):
                raise


async def play_pipes(world: World, program: dict[str, Any]) -> None:
    """Reading and writing ends of pipes."""
    from simulation.loop.ends import Plain

    for number, spec in enumerate(program["ends"]):
        reading, writing = os.pipe()
        for fd in (reading, writing):
            os.set_blocking(fd, False)
        reads = spec["how"] == "read"
        ours, theirs = (reading, writing) if reads else (writing, reading)
        end = PipeEnd(world, f"pipe{number}", spec["script"], 1000 * number, 1000 * number + 500)
        end.protocol = Plain(end)
        end.reads = reads
        file = os.fdopen(theirs, "wb" if reads else "rb", buffering=0)
        script = [step for step in spec["peer"] if step[0] != ("recv" if reads else "send")]
        script = [["close"] if step == ["eof"] else step for step in script]
        if reads:
            # Nothing comes from a pipe's reader: it is over with the script.
            script.append(["close"])
        end.peer = PipePeer(world, file, script, end.reads_from, end.sends_from)
        world.peers.append(end.peer)
        mine = os.fdopen(ours, "rb" if reads else "wb", buffering=0)
        connect = world.loop.connect_read_pipe if reads else world.loop.connect_write_pipe
        await connect(lambda end=end: end.protocol, mine)
