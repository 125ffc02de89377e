"""The environment of the loop under test: randomly acting peers, the stages of a run, and the model's complaints.

A stage ends when nothing can make progress. Then the model looks for lost wake-ups: unread bytes in the kernel although
the transport reads, queued bytes although the kernel would accept them. Then the next stage begins:

    scripts    programs and peers follow their scripts
    release    everything that was paused is resumed
    finish     everything that is open is closed, unfinished tasks are cancelled
    over       what is still open now is a complaint

Everything is determined by one seed: the peers by `World.random`, the kernel's results by its own generator.
"""

import asyncio
import errno
import fcntl
import gc
import os
import random
import select
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any, Protocol

from simulation.loop.kernel import Kernel

# The contents of every stream, from its own offset on: nearby, no piece of it occurs twice. It is stored twice, so that
# every piece of up to a period is one slice.
PERIOD = 1 << 19
PATTERN = random.Random(20).randbytes(PERIOD) * 2
MOST_STEPS = 60_000
READ_AT_MOST = 65536

ACCEPT_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

STAGES = ("scripts", "release", "finish", "over")


class Planned(Exception):
    """Raised by a program on purpose."""


class Part(Protocol):
    """A part of a run that the model checks: an end of a connection, or a task."""

    def quiet(self, stage: str) -> None:
        """Complain about everything that could make progress and does not."""

    def release(self) -> None:
        """Resume what was paused."""

    def finish(self) -> None:
        """Close or cancel."""

    def check(self) -> None:
        """Complain about what is wrong at the end."""

    def give_up(self) -> None:
        """In the child of a fork: close what was inherited, without a running loop."""

    def give_up_later(self) -> None:
        """In the child of a fork that runs the inherited loop: create the tasks that close the rest."""


class World:
    """One run: the peers, the parts under test, the complaints."""

    def __init__(self, kernel: Kernel, seed: int, rates: dict[str, int]) -> None:
        self.kernel = kernel
        self.rates = rates
        self.random = random.Random(seed)
        self.peers: list[Peer] = []
        self.parts: list[Part] = []
        self.complaints: list[str] = []
        self.stage = 0
        self.steps = 0
        self.pid = os.getpid()
        # Children that end with the program, each with the socket whose close ends it.
        self.held: list[tuple[int, socket.socket]] = []
        self.pattern_file = ""
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]
        self.over: asyncio.Future[None] = None  # type: ignore[assignment]
        # Whether this is asyncio's loop, of which only documented behaviour is required.
        self.on_reference = False
        # Whether a fault of this run may end a connection with a kernel error.
        self.shortages = bool(rates.get("shortage"))
        # Whether descriptors are closed behind the back of their transports.
        self.closes_fail = False

    def complain(self, category: str, text: str) -> None:
        """Record a violation; its first word is its category."""
        self.complaints.append(f"{category}: {text}")
        self.kernel.note(f"complaint {category}: {text}")

    def note(self, text: str) -> None:
        """Add a line to the record."""
        self.kernel.note(text)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Attach to `loop`, from inside it."""
        self.loop = loop
        self.over = loop.create_future()
        loop.set_exception_handler(self.on_exception)
        self.kernel.change(self.rates)

    def on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The exception handler: only planned exceptions may arrive here."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in ACCEPT_SHORTAGES and self.rates.get("no_descriptor"):
            return
        if self.closes_fail and isinstance(error, OSError) and error.errno == errno.EBADF:
            return
        ending = "_call_connection_lost" in str(context.get("message"))
        if self.on_reference and ending and isinstance(error, AttributeError):
            # asyncio's transports call connection_lost twice when they are aborted while they close.
            return
        if os.getpid() != self.pid and str(error) == "Event loop is closed":
            # A child that closed the loop in a callback continues in this callback, and in what has called it.
            return
        if not isinstance(error, Planned):
            self.complain("handler", f"{context.get('message')}: {error!r}")

    # --- the hooks of the kernel ----------------------------------------------------------------------------------

    def step(self, forced: bool) -> int:
        """Let peers act. Returns 1 if something happened, 0 if nothing can, else minus the time of the next action."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            if self.steps == MOST_STEPS + 1:
                self.complain("spin", f"the loop is busy-waiting in stage {STAGES[self.stage]}")
                self.stage = len(STAGES) - 1
                self.end()
            return 0
        peers = self.peers
        if not peers:
            return 0
        if not forced:
            happened = 0
            for _ in range(self.random.getrandbits(2)):
                happened |= peers[self.random.randrange(len(peers))].act()
            return happened
        first = self.random.randrange(len(peers))
        for i in range(len(peers)):
            if peers[(first + i) % len(peers)].act():
                return 1
        # One that is overdue is blocked: the other end of its socket is full, and still open in the child of a fork.
        now = self.kernel.now()
        due = [peer.due for peer in peers if peer.due > now]
        return -min(due) if due else 0

    def stuck(self) -> bool:
        """Nothing can happen any more: begin the next stage."""
        self.loop.call_soon_threadsafe(self.advance)
        return True

    def advance(self) -> None:
        """Look for lost wake-ups, then begin the next stage."""
        if self.over.done():
            return
        for part in self.parts:
            part.quiet(STAGES[self.stage])
        self.stage += 1
        stage = STAGES[self.stage]
        self.note(f"stage {stage}")
        if stage == "over":
            self.end()
            return
        for peer in self.peers:
            peer.stop_waiting(stage)
        for part in list(self.parts):
            if stage == "release":
                part.release()
            else:
                part.finish()

    def end(self) -> None:
        """End the run."""
        if not self.over.done():
            self.over.set_result(None)

    def check(self) -> None:
        """Check all parts at the end, and close the peers."""
        for part in self.parts:
            part.check()
        for peer in self.peers:
            peer.sock.close()
        self.parts.clear()
        self.peers.clear()


class Peer:
    """The other end of a stream: a plain socket or pipe end that follows its script, then reads to the end.

    Operations: ["send", n] n bytes of its pattern; ["recv", n]; ["wait", ns] of the simulated clock; ["idle", turns];
    ["eof"] half-close; ["close"], with bytes unread a reset.
    """

    def __init__(self, world: World, sock: Any, script: list[list[Any]], sends_from: int, reads_from: int) -> None:
        self.world = world
        self.sock = sock
        self.script = script
        self.at = 0
        self.left = -1
        self.due = 0
        self.sent = 0
        self.received = 0
        self.sends_from = sends_from
        self.reads_from = reads_from
        self.saw_eof = False
        self.failed: OSError | None = None
        self.gone_early = False     # closed before it had read to the end
        self.said_eof = False
        self.garbled = False
        self.cut = False            # closed before all that it had said was sent
        self.done = False

    def stop_waiting(self, stage: str) -> None:
        """Skip waits from now on; in the stage "finish", only read."""
        self.due = 0
        if stage == "finish":
            self.at = len(self.script)

    def act(self) -> int:
        """Perform one step; 1 when something happened."""
        if self.done:
            return 0
        if self.due:
            if self.world.kernel.now() < self.due:
                return 0
            self.due = 0
        if self.at >= len(self.script):
            return self.receive(READ_AT_MOST)
        name, *arguments = self.script[self.at]
        result: int = getattr(self, f"do_{name}")(*arguments)
        return result

    def next(self) -> int:
        """Continue with the next operation."""
        self.at += 1
        self.left = -1
        return 1

    # --- operations -----------------------------------------------------------------------------------------------

    def do_send(self, size: int) -> int:
        if self.left < 0:
            self.left = size
        piece = self.source(min(self.left, self.world.random.choice((1, 7, 100, 4000, 70000))))
        if not piece:
            return self.next()
        try:
            sent = self.put(piece)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.failed = error
            return self.next()
        self.sent += sent
        self.left -= sent
        return 1 if self.left else self.next()

    def do_recv(self, size: int) -> int:
        if self.left < 0:
            self.left = size
        before = self.received
        happened = self.receive(min(self.left, self.world.random.choice((1, 50, 3000, READ_AT_MOST))))
        self.left -= self.received - before
        if self.saw_eof or self.failed is not None or self.left <= 0:
            return self.next()
        return happened

    def do_wait(self, nanoseconds: int) -> int:
        self.due = self.world.kernel.now() + nanoseconds
        return self.next()

    def do_idle(self, turns: int) -> int:
        if self.left < 0:
            self.left = turns
        self.left -= 1
        return 1 if self.left > 0 else self.next()

    def do_eof(self) -> int:
        self.said_eof = True
        try:
            self.half_close()
        except OSError as error:
            self.failed = error
        return self.next()

    def do_close(self) -> int:
        self.gone_early = not self.saw_eof
        self.cut = self.pending_bytes() > 0
        return self.close()

    def source(self, size: int) -> bytes:
        """The next bytes to send, up to `size`."""
        return piece_of(self.sends_from, self.sent, size)

    def expected(self, size: int) -> bytes:
        """The next bytes to receive, `size` of them."""
        return piece_of(self.reads_from, self.received, size)

    def pending_bytes(self) -> int:
        """Bytes counted as sent that have not reached the kernel."""
        return 0

    # --- the socket -----------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> int:
        """Send as much as the kernel accepts."""
        sent: int = self.sock.send(data)
        return sent

    def get(self, size: int) -> bytes:
        """Receive, b"" at the end."""
        data: bytes = self.sock.recv(size)
        return data

    def half_close(self) -> None:
        """Send nothing more."""
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self, size: int) -> int:
        """Receive up to `size` bytes and compare them; closes at the end of file."""
        if self.saw_eof:
            return self.close()
        try:
            data = self.get(size)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            # A reset is reported once; from a Unix socket, what had arrived before it can still be read.
            self.saw_eof = self.failed is not None
            self.failed = error
            return 1
        if not data:
            self.saw_eof = True
            return 1
        self.took(data)
        return 1

    def took(self, data: bytes) -> None:
        """Compare received bytes with the expected ones."""
        if not self.garbled and data != self.expected(len(data)):
            self.garbled = True
            self.world.complain("bytes", f"the peer received other bytes than were written, from {self.received} on")
        self.received += len(data)

    def close(self) -> int:
        """Close this peer."""
        self.done = True
        self.due = 0
        self.sock.close()
        return 1


def piece_of(start: int, done: int, size: int) -> bytes:
    """The bytes that a stream of pattern offset `start` carries after the first `done`."""
    offset = (start + done) % PERIOD
    return PATTERN[offset : offset + size]


def unread(fd: int) -> int:
    """Number of unread bytes in the kernel for `fd`."""
    found: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
    return found


def readiness(fd: int) -> int:
    """The result of poll for `fd`."""
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLOUT)
    found = poller.poll(0)
    return found[0][1] if found else 0


def open_descriptors() -> set[str]:
    """The numbers of all open descriptors."""
    return set(os.listdir("/proc/self/fd"))


def settle(check: Callable[[], bool]) -> bool:
    """Collect garbage until `check` holds, at most a few times."""
    for _ in range(3):
        if check():
            return True
        gc.collect()
    return check()
