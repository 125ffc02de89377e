"""One end of a stream on the loop under test: scripted protocols, and the state that the model keeps of them.

A script is a list of [trigger, place, action...]. Triggers: "made", "data1", "data2", ..., "eof", "pause1", "resume1",
..., "turn5" (five iterations after the start), "at300" (after 300 microseconds). Places: "now", in the callback;
"soon", by call_soon; "task", in a new task. Actions are the methods `do_*`.
"""

import asyncio
import os
import re
import select
import socket
from typing import Any

from simulation.loop.forks import fork
from simulation.loop.world import PERIOD, Planned, World, piece_of, readiness, unread

CALLBACK_BUFFER = 70000


class End:
    """One end of a stream; its protocols, one after the other, are `Plain` and `Buffered`."""

    def __init__(self, world: World, name: str, script: list[list[Any]], sends_from: int, reads_from: int) -> None:
        self.world = world
        self.name = name
        self.script: dict[str, list[list[Any]]] = {}
        for trigger, *entry in script:
            self.script.setdefault(trigger, []).append(entry)
        self.sends_from = sends_from
        self.reads_from = reads_from
        self.transport: Any = None
        self.protocol: Any = None
        self.peer: Any = None
        self.keep_open = False
        self.made = self.lost = self.deliveries = self.pauses = self.resumes = 0
        self.error: BaseException | None = None
        self.written = self.received = 0
        self.saw_eof = False
        self.reading = True
        # Reasons for which bytes may be lost.
        self.aborted = self.closed = self.said_eof = self.raised = False
        self.sending_file = False
        self.unsure = self.garbled = False
        self.refused: OSError | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        world.parts.append(self)

    def complain(self, category: str, text: str) -> None:
        self.world.complain(category, f"{self.name}: {text}")

    def prepare(self, peer: Any) -> None:
        """Tell `peer`, before the start, what it has to send and to expect."""

    # --- callbacks of the protocols -------------------------------------------------------------------------------

    def on_made(self, transport: Any) -> None:
        self.made += 1
        if self.made > 1:
            self.complain("order", "connection_made twice")
        self.transport = transport
        for trigger in list(self.script):
            if trigger.startswith("turn"):
                self.after_turns(int(trigger[4:]), trigger)
            elif trigger.startswith("at"):
                self.world.loop.call_later(int(trigger[2:]) / 1e6, self.run, trigger)
        self.run("made")

    def after_turns(self, left: int, trigger: str) -> None:
        if left:
            self.world.loop.call_soon(self.after_turns, left - 1, trigger)
        else:
            self.run(trigger)

    def on_data(self, data: bytes) -> None:
        if not self.made or self.lost or self.saw_eof:
            self.complain("order", f"data when made {self.made}, lost {self.lost}, eof {self.saw_eof}")
        self.check_reading("data")
        if not self.garbled and data != piece_of(self.reads_from, self.received, len(data)):
            self.garbled = True
            self.complain("bytes", f"received other bytes than were sent, from {self.received} on")
        self.received += len(data)
        self.deliveries += 1
        self.run(f"data{self.deliveries}")

    def on_eof(self) -> bool:
        if self.saw_eof or self.lost:
            self.complain("order", "eof_received twice or after the end")
        self.check_reading("eof_received")
        self.saw_eof = True
        self.run("eof")
        return self.keep_open

    def check_reading(self, what: str) -> None:
        """Complain about what is delivered while reading is paused.

        asyncio's TLS reports the end then. After `close`, TLS reports the end whether reading is paused or not.
        """
        if not self.reading and not self.closed and not self.world.on_reference:
            self.complain("order", f"{what} while reading is paused")

    def on_pause(self) -> None:
        if self.pauses != self.resumes:
            self.complain("order", "pause_writing twice")
        self.pauses += 1
        self.run(f"pause{self.pauses}")

    def on_resume(self) -> None:
        if self.pauses != self.resumes + 1:
            self.complain("order", "resume_writing without pause_writing")
        self.resumes += 1
        self.run(f"resume{self.resumes}")

    def on_lost(self, error: BaseException | None) -> None:
        self.lost += 1
        self.error = error
        if not self.made or self.lost > 1:
            self.complain("order", f"connection_lost, {self.lost} times, made {self.made}")
        self.world.note(f"{self.name} lost {type(error).__name__}")

    # --- the script -----------------------------------------------------------------------------------------------

    def run(self, trigger: str) -> None:
        """Perform the script's actions for `trigger`, once."""
        for place, *actions in self.script.pop(trigger, ()):
            if place == "soon":
                self.world.loop.call_soon(self.perform, actions)
            elif place == "task":
                self.spawn(self.perform_slowly(actions))
            else:
                self.perform(actions)

    def spawn(self, work: Any) -> None:
        task = self.world.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def perform(self, actions: list[list[Any]]) -> None:
        for name, *arguments in actions:
            if self.lost or os.getpid() != self.world.pid:
                # A child that closed the loop continues in the callback and must do nothing more in it.
                return
            self.world.note(f"{self.name} {name}")
            getattr(self, f"do_{name}")(*arguments)

    async def perform_slowly(self, actions: list[list[Any]]) -> None:
        for action in actions:
            try:
                self.perform([action])
            except Planned:
                return
            await asyncio.sleep(0)

    def writable(self) -> bool:
        return not (self.transport.is_closing() or self.said_eof or self.sending_file)

    def can(self, name: str) -> bool:
        """Whether the transport supports this: pipes have one direction."""
        return hasattr(self.transport, name)

    def do_write(self, size: int, form: str = "bytes") -> None:
        if not self.can("write") or not self.writable():
            return
        data = piece_of(self.sends_from, self.written, size)
        self.written += len(data)
        if form == "bytes":
            self.transport.write(data)
            return
        changing = bytearray(data)
        self.transport.write(changing if form == "bytearray" else memoryview(changing))
        # The written bytes are those at the time of the call.
        changing[:] = bytes(len(changing))

    def do_lines(self, sizes: list[int], form: str = "bytes", bad: bool = False) -> None:
        if not self.can("write") or not self.writable():
            return
        data = piece_of(self.sends_from, self.written, sum(sizes))
        pieces: list[Any] = []
        at = 0
        for size in sizes:
            piece: Any = data[at : at + size]
            at += size
            pieces.append(bytearray(piece) if form == "bytearray" else memoryview(piece) if form == "view" else piece)
        if bad:
            # All or nothing: an unsupported piece raises before any byte is sent.
            try:
                self.transport.writelines([*pieces, "text"])
            except TypeError:
                return
            self.complain("bytes", "writelines took a str")
        self.written += len(data)
        self.transport.writelines(pieces)
        if form == "bytearray":
            for piece in pieces:
                piece[:] = bytes(len(piece))

    def do_eof(self) -> None:
        if self.can("write_eof") and self.writable():
            # TLS of the reference loop can do neither.
            transport = self.transport
            end = transport.write_eof if transport.can_write_eof() else getattr(transport, "half_close", None)
            if end is not None:
                self.said_eof = True
                end()

    def do_close(self) -> None:
        self.closed = True
        self.transport.close()

    def do_abort(self) -> None:
        if self.can("abort"):
            self.aborted = True
            self.transport.abort()

    def do_pause(self) -> None:
        if self.reading and self.can("pause_reading") and not self.transport.is_closing() and not self.sending_file:
            self.reading = False
            self.transport.pause_reading()

    def do_resume(self) -> None:
        if not self.reading and not self.transport.is_closing() and not self.sending_file and not self.saw_eof:
            self.reading = True
            self.transport.resume_reading()

    def do_limits(self, high: int, low: int) -> None:
        if self.can("set_write_buffer_limits"):
            self.transport.set_write_buffer_limits(high=high, low=low)

    def do_size(self) -> None:
        if self.can("get_write_buffer_size") and self.transport.get_write_buffer_size() < 0:
            self.complain("order", "a negative buffer")

    def do_keep(self) -> None:
        self.keep_open = True

    def do_raise(self) -> None:
        self.raised = True
        raise Planned

    def do_protocol(self, kind: str) -> None:
        self.protocol = PROTOCOLS[kind](self)
        self.transport.set_protocol(self.protocol)

    def do_sendfile(self, size: int) -> None:
        # asyncio's transport sets its empty waiter twice when the wait is cancelled or the connection breaks.
        if self.writable() and not self.world.on_reference:
            self.spawn(self.send_file(size))

    async def send_file(self, size: int) -> None:
        if not self.writable():
            return
        self.sending_file = True
        offset = (self.sends_from + self.written) % PERIOD
        self.written += size
        try:
            with open(self.world.pattern_file, "rb") as file:
                sent = await self.world.loop.sendfile(self.transport, file, offset, size, fallback=False)
            if sent != size:
                self.complain("bytes", f"sendfile sent {sent} of {size}")
        except (OSError, RuntimeError, asyncio.CancelledError):
            # The transport was closed meanwhile, so how much was sent is unknown. The fallback would use a thread.
            self.unsure = True
        finally:
            self.sending_file = False

    def do_fork(self, leave: str) -> None:
        """Fork; the child does one of `generate.WAYS`."""
        fork(self.world, self.name, leave)

    # --- the model ------------------------------------------------------------------------------------------------

    def queued(self) -> int:
        """Bytes queued in the transport, read without side effects."""
        found = re.search(r"bufsize=(\d+)", repr(self.transport))
        return int(found[1]) if found else 0

    def fd(self) -> int:
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        return -1 if sock is None else sock.fileno()

    def quiet(self, stage: str) -> None:
        """Complain about everything that could make progress and does not."""
        if self.lost or not self.made:
            return
        queued = self.queued()
        closing = self.transport.is_closing()
        fd = self.fd()
        if fd < 0:
            return
        ready = readiness(fd)
        if queued and ready & (select.POLLOUT | select.POLLERR):
            self.complain("wakeup", f"{queued} bytes queued in stage {stage}, and the kernel would take more")
        if closing and not queued:
            self.complain("wakeup", f"closing with nothing queued in stage {stage}, and no connection_lost")
        if self.reading and not closing and not self.sending_file and ready & select.POLLIN and not self.saw_eof:
            waiting = unread(fd)
            self.complain("wakeup", f"{waiting} bytes or the end unread in stage {stage}")
        if self.pauses > self.resumes and not queued and not closing:
            self.complain("wakeup", f"writing is paused with nothing queued in stage {stage}")

    def release(self) -> None:
        self.script.clear()
        if not self.lost and self.made:
            self.do_resume()

    def finish(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        if not self.lost and self.made:
            self.closed = True
            self.transport.close()

    def give_up(self) -> None:
        if self.made and not self.lost:
            # Unlike abort, this would send what is queued, and in the child nothing may be.
            self.transport.close()

    def give_up_later(self) -> None:
        """Nothing is left."""

    def check(self) -> None:
        """Complain about what is wrong at the end."""
        if self.refused is not None and not self.made:
            if not self.world.shortages:
                self.complain("error", f"not connected: {self.refused!r}")
            return
        if self.made != 1 or self.lost != 1:
            self.complain("end", f"connection_made {self.made} times, connection_lost {self.lost} times")
            return
        peer = self.peer
        clean = self.error is None and not self.aborted and not self.unsure
        # A TLS peer that blocks in sending reads nothing. It is not told of the end of the connection while a child
        # holds the descriptor.
        blocked = self.closed and self.world.held and not peer.done and peer.pending_bytes()
        if clean and not self.raised and not peer.gone_early and not blocked and peer.received != self.written:
            self.complain("loss", f"ended cleanly, the peer has {peer.received} of {self.written} bytes")
        if clean and self.saw_eof and self.received != peer.sent and not peer.failed and not peer.cut:
            self.complain("loss", f"ended cleanly, {self.received} of the {peer.sent} bytes sent by the peer arrived")
        # Nor does it read close_notify.
        late = blocked and isinstance(self.error, TimeoutError)
        if self.error is not None and not (self.raised or peer.gone_early or self.world.shortages or late):
            self.complain("error", f"connection_lost({self.error!r}) without a reason")
        self.transport = self.protocol = None


class Plain(asyncio.Protocol):
    """A protocol that receives bytes."""

    def __init__(self, end: End) -> None:
        self.end: End = end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.end.on_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.end.protocol is not self:
            self.end.complain("order", "data for a protocol that was replaced")
        self.end.on_data(data)

    def eof_received(self) -> bool:
        return self.end.on_eof()

    def pause_writing(self) -> None:
        self.end.on_pause()

    def resume_writing(self) -> None:
        self.end.on_resume()

    def connection_lost(self, error: Exception | None) -> None:
        self.end.on_lost(error)


class Buffered(asyncio.BufferedProtocol):
    """A protocol with its own buffer, of another size each time."""

    def __init__(self, end: End) -> None:
        self.end: End = end
        self.buffer = bytearray(CALLBACK_BUFFER)
        self.asked = 0

    def get_buffer(self, _hint: int) -> memoryview:
        self.asked += 1
        return memoryview(self.buffer)[: (CALLBACK_BUFFER, 1, 700, 20000)[self.asked % 4]]

    def buffer_updated(self, size: int) -> None:
        if self.end.protocol is not self:
            self.end.complain("order", "data for a protocol that was replaced")
        self.end.on_data(bytes(self.buffer[:size]))

    connection_made = Plain.connection_made
    eof_received = Plain.eof_received
    pause_writing = Plain.pause_writing
    resume_writing = Plain.resume_writing
    connection_lost = Plain.connection_lost


PROTOCOLS = {"plain": Plain, "buffered": Buffered}


def socket_pair(buffer: int) -> tuple[socket.socket, socket.socket]:
    """Two ends of a Unix stream whose kernel buffers hold about `buffer` bytes, 0: the default."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    return ours, theirs
