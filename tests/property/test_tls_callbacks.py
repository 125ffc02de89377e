"""TLS transports and frames under protocols that do anything in any callback, from seeds.

Each callback may write, close, abort, pause, resume, raise, put another protocol in place, or receive by the loop. The
model: what came is a beginning of what was sent; nothing comes after a close of ours; exactly one connection_lost; a
clean end that nobody here asked for means that everything came and the end was told. The message of a failure names its
seed.
"""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bare_tls import BarePeer, tcp_pair
from support.certs import Authority
from support.tls_engines import each_tls_engine
from support.waiting import turns

import corenet
from corenet import FramedProtocol, LengthFramer

__all__ = ["each_tls_engine"]

SEEDS = 100
TIMEOUT = 30


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's that trusts it."""
    authority = Authority(Path(tmp_path_factory.mktemp("callbacks")))
    leaf = authority.leaf("localhost")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(leaf.certificate, leaf.key)
    return server, ssl.create_default_context(cafile=str(authority.cafile))


class Planned(Exception):
    """What callbacks raise on purpose."""


class Scenario:
    """What happened on one connection, whatever protocols it had, and what their callbacks do."""

    def __init__(self, seed: int, rates: dict[str, float]) -> None:
        self.random = random.Random(seed)
        self.rates = rates
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.kinds: list[Callable[[Scenario], Any]] = []
        self.received = bytearray()
        self.told_eof = False
        self.closed = False         # by us: nothing may come any more
        self.raised = False
        self.lost: list[BaseException | None] = []
        self.gone = asyncio.Event()
        self.extra, self.filler = socket.socketpair()
        self.extra.setblocking(False)

    def act(self, protocol: Any) -> None:
        """Do something at random, now and then."""
        for name, rate in self.rates.items():
            if self.random.random() < rate:
                getattr(self, name)(protocol)

    def write(self, protocol: Any) -> None:
        self.transport.write(bytes(self.random.choice((1, 100, 20_000, 100_000))))

    def writelines(self, protocol: Any) -> None:
        self.transport.writelines([b"a", bytearray(100), memoryview(b"c" * 300)])

    def close(self, protocol: Any) -> None:
        self.closed = True
        self.transport.close()

    def abort(self, protocol: Any) -> None:
        self.closed = True
        self.transport.abort()

    def pause(self, protocol: Any) -> None:
        if isinstance(protocol, FramedProtocol) and self.random.random() < 0.5:
            protocol.pause_frames()
            self.soon(protocol.resume_frames)
        else:
            self.transport.pause_reading()
            self.soon(self.transport.resume_reading)

    def soon(self, call: Callable[[], None], left: int | None = None) -> None:
        """Call it after some turns of the loop."""
        left = self.random.randrange(8) if left is None else left
        if left:
            self.loop.call_soon(self.soon, call, left - 1)
        else:
            call()

    def resume(self, protocol: Any) -> None:
        self.transport.resume_reading()

    def fail(self, protocol: Any) -> None:
        self.raised = True
        raise Planned

    def replace(self, protocol: Any) -> None:
        if isinstance(protocol, FramedProtocol):
            # The rest must be frames again.
            self.transport.set_protocol(Framed(self))
        elif not self.lost:
            self.transport.set_protocol(self.random.choice(self.kinds)(self))

    def ask(self, protocol: Any) -> None:
        self.transport.get_write_buffer_size()
        self.transport.get_extra_info("socket")
        self.transport.set_write_buffer_limits(self.random.choice((0, 1000, 100_000)))

    def nested(self, protocol: Any) -> None:
        """A coroutine that begins at once receives by the loop."""
        self.filler.send(b"\xff" * 50_000)
        left = 50_000
        while left:
            with contextlib.suppress(StopIteration):
                try:
                    self.loop.sock_recv(self.extra, 65536).send(None)
                except StopIteration as done:
                    left -= len(done.value)

    # --- what protocols are told ----------------------------------------------------------------------------------

    def data(self, data: bytes, protocol: Any) -> None:
        assert not self.closed and not self.lost and not self.told_eof
        self.received += data
        self.act(protocol)

    def eof(self, protocol: Any) -> None:
        assert not self.told_eof and not self.lost
        self.told_eof = True
        self.act(protocol)

    def end(self, error: BaseException | None) -> None:
        self.lost.append(error)
        self.gone.set()


class Common:
    """Callbacks of all kinds."""

    scenario: Scenario

    def connection_made(self, transport: Any) -> None:
        self.scenario.transport = self.transport = transport
        self.scenario.act(self)

    def eof_received(self) -> None:
        self.scenario.eof(self)

    def pause_writing(self) -> None:
        self.scenario.act(self)

    def resume_writing(self) -> None:
        self.scenario.act(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.scenario.end(exc)


class Copied(Common, asyncio.Protocol):
    """data_received."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    def data_received(self, data: bytes) -> None:
        self.scenario.data(data, self)


class Buffered(Common, asyncio.BufferedProtocol):
    """get_buffer and buffer_updated."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.buffer = bytearray(scenario.random.choice((7, 1000, 16384, 65536)))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.scenario.data(bytes(self.buffer[:nbytes]), self)


class Framed(FramedProtocol):
    """Frames, put together again as they came."""

    def __init__(self, scenario: Scenario) -> None:
        batch, views = scenario.random.choice((1, 3, 1024)), scenario.random.random() < 0.5
        super().__init__(LengthFramer(4), batch=batch, views=views)
        self.scenario = scenario

    def connection_made(self, transport: Any) -> None:
        self.scenario.transport = self.transport = transport
        self.scenario.act(self)

    def frames_received(self, frames: list[Any]) -> None:
        data = b"".join(struct.pack(">I", len(frame)) + bytes(frame) for frame in frames)
        self.scenario.data(data, self)

    def frames_ended(self) -> None:
        self.scenario.eof(self)

    def pause_writing(self) -> None:
        self.scenario.act(self)

    def resume_writing(self) -> None:
        self.scenario.act(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.scenario.end(exc)


async def play(seed: int, framed: bool, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> None:
    """One connection from its beginning to its end."""
    loop = asyncio.get_running_loop()
    choice = random.Random(seed)
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    few = choice.choice((0.0, 0.02, 0.2))
    rates = {
        "write": choice.choice((0.0, 0.3)), "writelines": 0.1, "pause": choice.choice((0.0, 0.3, 0.8)), "resume": 0.1,
        "replace": choice.choice((0.0, 0.2)), "ask": 0.1, "nested": 0.1,
        "close": few, "abort": few / 4, "fail": few / 4,
    }
    scenario = Scenario(seed, rates)
    scenario.kinds = [Framed] if framed else [Copied, Buffered]
    frames = [bytes([choice.randrange(256)]) * choice.choice((0, 3, 500, 30_000)) for _ in range(choice.randrange(25))]
    stream = b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
    here, there = tcp_pair()
    peer = BarePeer(there, contexts and contexts[0])
    options: dict[str, Any] = {} if contexts is None else {"ssl": contexts[1], "server_hostname": "localhost"}
    first = choice.choice(scenario.kinds)(scenario)
    shaking = asyncio.ensure_future(peer.handshake())
    with contextlib.suppress(Planned, OSError):
        await loop.create_connection(lambda: first, sock=here, **options)
    try:
        await shaking
    except (OSError, AssertionError):
        assert scenario.closed or scenario.raised
    at = 0
    ending = choice.choice(("close_notify", "close_notify and end", "end", "reset", "reset at once"))
    if ending == "close_notify" and contexts is None:
        ending = "end"
    reset = ending.startswith("reset")

    async def drink() -> None:
        with contextlib.suppress(OSError):
            while await loop.sock_recv(there, 1 << 20):
                pass

    drinking = asyncio.ensure_future(drink())
    try:
        while at < len(stream):
            size = choice.choice((1, 10, 1000, 50_000, 300_000))
            piece = stream[at : at + size]
            at += len(piece)
            wire = peer.sealed(piece, close_notify=at == len(stream) and ending.startswith("close_notify"))
            await loop.sock_sendall(there, wire)
            await turns(choice.choice((0, 1, 5)))
        if not stream and ending.startswith("close_notify"):
            await loop.sock_sendall(there, peer.sealed(b"", close_notify=True))
        if ending in ("close_notify and end", "end"):
            peer.end()
    except OSError:
        # We have closed, and the peer has got close_notify or the end.
        pass
    if ending != "reset at once":
        await turns(choice.choice((0, 3, 20)))
    if reset:
        drinking.cancel()
        await turns(2)
        peer.reset()
    try:
        async with asyncio.timeout(TIMEOUT):
            if ending == "close_notify":
                # Until everything was read: a peer that receives our close_notify disconnects.
                while not scenario.told_eof and not scenario.lost and not scenario.closed and not scenario.raised:
                    await asyncio.sleep(0)
                with contextlib.suppress(OSError):
                    peer.end()
            await scenario.gone.wait()
            await turns(20)
    finally:
        drinking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drinking
        peer.close()
        scenario.extra.close()
        scenario.filler.close()
    what = f"seed {seed}, {ending}, {rates}: {len(scenario.received)} of {len(stream)}, {scenario.lost}"
    assert len(scenario.lost) == 1, what
    assert bytes(scenario.received) == stream[: len(scenario.received)], what
    unexpected = [report for report in reports if not isinstance(report.get("exception"), Planned)]
    assert not unexpected, (what, unexpected)
    if scenario.lost == [None] and not scenario.closed:
        assert bytes(scenario.received) == stream, what
        assert scenario.told_eof or reset, what
    if not (reset or scenario.closed or scenario.raised):
        # Nothing has happened that could cost a byte.
        assert bytes(scenario.received) == stream, what


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("encrypted", [True, False])
def test_anything_in_any_callback(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], framed: bool, encrypted: bool
) -> None:
    for seed in range(SEEDS):
        corenet.run(play(seed, framed, contexts if encrypted else None))
