"""Runs one program on one loop, under the simulated kernel, and reports what was wrong.

`play` runs it on our loop. `play_reference` runs it on asyncio's loop, with the same peers and clock but without
faults: a program must pass there before it counts against our loop. Leaks of a program are counted here: descriptors,
objects of the engine, protocols.
"""

import asyncio
import gc
import os
import selectors
import socket
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from simulation.loop import kernel as kernels
from simulation.loop.ends import PROTOCOLS, End, Planned, socket_pair
from simulation.loop.forks import end_child, end_held
from simulation.loop.generate import Program
from simulation.loop.packets import play_datagrams, play_pipes
from simulation.loop.secure import NAME, TlsPeer, contexts
from simulation.loop.talkers import Acceptor, SocketChannel, Talker
from simulation.loop.world import PATTERN, Peer, World, open_descriptors, settle

KERNEL = kernels.load()

from corenet import limits  # noqa: E402

# The process counts handshakes, and after so many a timer of the loop is set (corenet.tls.idle_memory). A program would
# make other calls after some programs than after others.
limits.TLS_BURST = 1 << 30

import corenet  # noqa: E402
from corenet.core import counters  # noqa: E402

if not counters.is_debug_build():
    raise RuntimeError("the simulation needs the debug build of corenet")

_file = tempfile.NamedTemporaryFile(prefix="simulation-")
_file.write(PATTERN)
_file.flush()


@dataclass
class Outcome:
    """The result of a run."""

    complaints: list[str] = field(default_factory=list)
    hash: int = 0
    calls: int = 0
    drawn: int = 0
    happened: int = 0
    text: str = ""

    @property
    def category(self) -> str:
        """The first word of the first complaint."""
        return self.complaints[0].split(":")[0] if self.complaints else ""


# --- the kinds of programs ------------------------------------------------------------------------------------------


async def play_stream(world: World, program: Program) -> None:
    """Protocols at one end, plain peers at the other."""
    for number, spec in enumerate(program["ends"]):
        sends_from, reads_from = 1000 * number, 1000 * number + 500
        end = End(world, f"end{number}", spec["script"], sends_from, reads_from)
        end.protocol = PROTOCOLS[spec["protocol"]](end)
        await connect(world, end, spec, program.get("tls", False))


async def play_framed(world: World, program: Program) -> None:
    """FramedProtocol at one end, a peer that sends frames in pieces at the other."""
    from simulation.loop.frames import FramedEnd

    for number, spec in enumerate(program["ends"]):
        end = FramedEnd(world, f"framed{number}", spec)
        # asyncio's TLS with paused frames behaves differently.
        await connect(world, end, spec, program["tls"] and not world.on_reference)


async def play_http_client(world: World, program: Program) -> None:
    """The HTTP client, and servers that answer in different ways."""
    from simulation.loop.webs import Web

    Web(world, program).begin()


async def play_dropped_connections(world: World, program: Program) -> None:
    """A server that closes the connections it has left."""
    from simulation.loop.clients import Clients

    if not world.on_reference:
        await Clients(world, program).begin()


async def connect(world: World, end: End, spec: Program, secure: bool) -> None:
    """Connect `end` with its peer, over TLS when `secure`."""
    ours, theirs = socket_pair(spec["sndbuf"])
    options: dict[str, Any] = {}
    if secure:
        serves = spec["how"] == "accept"
        end.peer = TlsPeer(world, theirs, spec["peer"], end.reads_from, end.sends_from, server=not serves)
        options = {"ssl": contexts()[0 if serves else 1]}
        if not serves:
            options["server_hostname"] = NAME
    else:
        steps = [step for step in spec["peer"] if step != ["hold"]]
        end.peer = Peer(world, theirs, steps, end.reads_from, end.sends_from)
    end.prepare(end.peer)
    world.peers.append(end.peer)
    try:
        if spec["how"] == "connect":
            await world.loop.create_connection(lambda: end.protocol, sock=ours, **options)
        else:
            await world.loop.connect_accepted_socket(lambda: end.protocol, ours, **options)
    except OSError as error:
        end.refused = error


def talkers_of(world: World, program: Program) -> list[Talker]:
    """The coroutines of `program`."""
    return [Talker(world, f"talker{number}", spec, 1000 * number) for number, spec in enumerate(program["talkers"])]


async def play_stream_server(world: World, program: Program) -> None:
    """A server's handlers of streams; the peers connect to it."""
    talkers = talkers_of(world, program)
    for talker, spec in zip(talkers, program["talkers"], strict=True):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        if spec["sndbuf"]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, spec["sndbuf"])
        talker.peer = Peer(world, sock, spec["peer"], talker.reads_from, talker.sends_from)
    module = asyncio if program["streams"] == "asyncio" or world.on_reference else corenet
    await Acceptor(world, talkers).begin(module.start_unix_server, program["limit"])


async def play_sock_methods(world: World, program: Program) -> None:
    """Coroutines that use the loop's methods for sockets."""
    for talker, spec in zip(talkers_of(world, program), program["talkers"], strict=True):
        ours, theirs = socket_pair(spec["sndbuf"])
        talker.peer = Peer(world, theirs, spec["peer"], talker.reads_from, talker.sends_from)
        world.peers.append(talker.peer)
        talker.begin(SocketChannel(world, ours))


def run_unclosed(world: World, program: Program, loop: asyncio.AbstractEventLoop) -> None:
    """References held by an abandoned loop must not keep it alive; one warning is issued because it was not closed."""
    loop.set_exception_handler(world.on_exception)

    async def begin() -> None:
        for _ in range(program["later"]):
            loop.call_later(1000, loop.time)
        for _ in range(program["iterations"]):
            await asyncio.sleep(0)
        for _ in range(program["soon"]):
            loop.call_soon(loop.time)
        loop.stop()

    task = loop.create_task(begin())
    loop.run_forever()
    del task


PLAYS: dict[str, Callable[[World, Program], Any]] = {
    "stream": play_stream, "tls": play_stream, "framed": play_framed, "stream_server": play_stream_server,
    "sock_methods": play_sock_methods, "datagrams": play_datagrams, "pipes": play_pipes,
    "http_client": play_http_client, "dropped_connections": play_dropped_connections,
}  # fmt: skip


async def main(world: World, program: Program) -> None:
    """Start the program and wait until nothing can make progress any more."""
    world.start(asyncio.get_running_loop())
    begun = world.loop.create_task(PLAYS[program["kind"]](world, program))
    await world.over
    if not begun.done():
        world.complain("end", "the program has not started")
        begun.cancel()
    await asyncio.wait([begun])
    failure = None if begun.cancelled() else begun.exception()
    if failure is not None and not isinstance(failure, Planned):
        raise failure
    world.check()


# --- loops ----------------------------------------------------------------------------------------------------------


class ReferenceSelector(selectors.EpollSelector):
    """Does what `wait_for` in kernel.c does, without faults, for asyncio's loop."""

    world: World

    def select(self, timeout: float | None = None) -> Any:
        """Let the peers act, and advance the clock instead of sleeping."""
        now = KERNEL.now()
        while True:
            self.world.step(False)
            found = super().select(0)
            if found or (timeout is not None and timeout <= 0):
                return found
            answer = self.world.step(True)
            if answer > 0:
                continue
            found = super().select(0)
            if found:
                return found
            if answer < 0 and (timeout is None or -answer < now + timeout * 1e9):
                KERNEL.lib.sim_advance(max(-answer - KERNEL.now(), 0))
            elif timeout is not None:
                KERNEL.lib.sim_advance(max(now + int(timeout * 1e9) - KERNEL.now(), 0) + 1)
                return []
            else:
                self.world.stuck()


class ReferenceLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with the simulated clock."""

    def time(self) -> float:
        """Seconds of the simulated clock."""
        KERNEL.lib.sim_advance(200)
        return KERNEL.now() / 1e9


def our_loop(_world: World) -> asyncio.AbstractEventLoop:
    """The loop under test."""
    return corenet.new_event_loop()


def reference_loop(world: World) -> asyncio.AbstractEventLoop:
    """asyncio's loop in this world."""
    selector = ReferenceSelector()
    selector.world = world
    return ReferenceLoop(selector)


# --- a run ----------------------------------------------------------------------------------------------------------


def run(
    program: Program,
    factory: Callable[[World], asyncio.AbstractEventLoop],
    faults: dict[str, int],
    *,
    on_reference: bool = False,
    limit: int = kernels.NEVER,
    skip: Iterable[int] = (),
    verbose: bool = False,
) -> Outcome:
    """Run `program` on the loop that `factory` makes; `on_reference`: one that derives from asyncio's."""
    outcome = Outcome()
    unraisable: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda what: unraisable.append(f"{what.err_msg} {what.exc_value!r}")
    # Destructors of compiled classes report exceptions here too.
    shown, sys.excepthook = sys.excepthook, lambda *_: None
    gc.collect()
    gc.disable()
    before = open_descriptors()
    counts = counters.live()
    world = World(KERNEL, program["seed"], faults)
    world.on_reference = on_reference
    world.pattern_file = _file.name
    KERNEL.step, KERNEL.stuck = world.step, world.stuck
    # No fault for the first descriptors: without those of the loop itself there is nothing to test.
    KERNEL.begin(program["seed"], {**faults, "no_descriptor": 0}, limit=limit, skip=skip, verbose=verbose)
    loop = None
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            if program["kind"] == "dropped_connections":
                warnings.filterwarnings("error", "unclosed transport", ResourceWarning)
            try:
                loop = factory(world)
                loop.set_debug(program["debug"])
                if program["kind"] == "unclosed_loop":
                    run_unclosed(world, program, loop)
                else:
                    loop.run_until_complete(main(world, program))
                    loop.run_until_complete(loop.shutdown_asyncgens())
            except BaseException as error:
                if os.getpid() != world.pid:
                    end_child(world)
                if isinstance(error, KeyboardInterrupt):
                    raise
                world.complain("crash", f"{type(error).__name__}: {error}")
            finally:
                if os.getpid() != world.pid:
                    end_child(world)
                end_held(world)
                if loop is not None and (program["kind"] != "unclosed_loop" or on_reference):
                    loop.close()
            outcome.text = KERNEL.text
            outcome.hash = KERNEL.hash
            outcome.calls = KERNEL.calls
            outcome.drawn, outcome.happened = KERNEL.drawn, KERNEL.happened
            KERNEL.end()
            left = weakref.ref(loop) if loop is not None else None
            world.loop = world.over = loop = None  # type: ignore[assignment]
            gc.collect()
            unclosed = [warning for warning in warned if "unclosed event loop" in str(warning.message)]
            if len(unclosed) != (program["kind"] == "unclosed_loop" and not on_reference):
                world.complaints.append(f"warning: {len(unclosed)} of a loop that was not closed")
            for warning in warned:
                if warning in unclosed:
                    continue
                world.complaints.append(f"warning: {warning.message}")
            # A warning has a reference to its source.
            unclosed.clear()
            warned.clear()
        warning = None
        settle(lambda: open_descriptors() == before and counters.live() == counts)
        if left is not None and left() is not None:
            world.complaints.append("leak: the loop")
        if open_descriptors() != before:
            world.complaints.append(f"leak: descriptors {sorted(open_descriptors() ^ before)}")
        now = counters.live()
        if now != counts:
            more = {name: now[name] - counts[name] for name in now if now[name] != counts[name]}
            world.complaints.append(f"leak: {more}")
        world.complaints += [f"unraisable: {text}" for text in unraisable if not expected(program, text)]
    finally:
        sys.unraisablehook, sys.excepthook = hook, shown
        gc.enable()
    outcome.complaints = world.complaints
    return outcome


def expected(program: Program, text: str) -> bool:
    """Whether a program causes this uncatchable exception on purpose."""
    return "Planned" in text or (program["kind"] == "dropped_connections" and "unclosed transport" in text)


def play(program: Program, **options: Any) -> Outcome:
    """Run `program` on our loop with its faults."""
    faults = {
        **program["faults"],
        "no_descriptor": program.get("accept_faults", 0),
        "refused": program.get("refused", 0),
    }
    return run(program, our_loop, faults, **options)


def play_reference(program: Program, **options: Any) -> Outcome:
    """Run `program` on asyncio's loop, without faults."""
    return run(program, reference_loop, {}, on_reference=True, **options)
