"""FramedProtocol in the simulation: frames with known contents, their order, and the error at the end."""

from typing import Any

from simulation.loop.ends import End
from simulation.loop.world import PATTERN, World

from corenet import FramedProtocol, IncompleteFrame, LengthFramer


def payload(number: int, size: int) -> bytes:
    """The contents of frame `number`."""
    start = 37 * number
    return PATTERN[start : start + size]


class FramedEnd(End):
    """An end that receives frames; its script has the triggers "frames1", ... and "ended"."""

    def __init__(self, world: World, name: str, spec: dict[str, Any]) -> None:
        super().__init__(world, name, spec["script"], 0, 0)
        self.prefix = spec["prefix"]
        self.sizes = spec["frames"]
        framer = LengthFramer(self.prefix)
        self.wire = framer.pack([payload(number, size) for number, size in enumerate(self.sizes)])
        self.expected = bytearray()
        self.frames = self.batches = self.sent_frames = 0
        # Bytes of the wire delivered so far, once a protocol without frames has replaced the framed one.
        self.raw: int | None = None
        self.protocol = FramedReceiver(self, spec["views"], spec["batch"])

    def prepare(self, peer: Any) -> None:
        peer.source = lambda size: self.wire[peer.sent : peer.sent + size]
        peer.expected = lambda size: self.expected[peer.received : peer.received + size]

    def complete(self, sent: int) -> int:
        """Number of whole frames in the first `sent` bytes."""
        at = count = 0
        for size in self.sizes:
            at += self.prefix + size
            if at > sent:
                break
            count += 1
        return count

    def check_reading(self, what: str) -> None:
        # What a framed protocol has received goes to its successor at the end of the callback that replaces it, even if
        # that callback pauses reading afterwards.
        if self.raw is None:
            super().check_reading(what)

    def on_frames(self, frames: list[Any]) -> None:
        if not self.made or self.lost or self.saw_eof:
            self.complain("order", f"frames when made {self.made}, lost {self.lost}, ended {self.saw_eof}")
        self.check_reading("frames")
        if not frames:
            self.complain("order", "an empty batch")
        for frame in frames:
            if self.frames >= len(self.sizes) or bytes(frame) != payload(self.frames, self.sizes[self.frames]):
                self.complain("bytes", f"frame {self.frames} differs from the one that was sent")
            self.frames += 1
        self.batches += 1
        self.run(f"frames{self.batches}")

    def on_data(self, data: bytes) -> None:
        """The remaining bytes, delivered to the replacing protocol."""
        if self.raw is None or self.lost or self.saw_eof:
            self.complain("order", f"data when replaced {self.raw is not None}, lost {self.lost}, eof {self.saw_eof}")
            return
        if not self.garbled and data != self.wire[self.raw : self.raw + len(data)]:
            self.garbled = True
            self.complain("bytes", f"the replacing protocol received other bytes than were sent, from {self.raw} on")
        self.raw += len(data)

    def on_ended(self) -> bool:
        if self.saw_eof or self.lost:
            self.complain("order", "frames_ended twice or after the end")
        self.check_reading("frames_ended")
        if self.frames != self.complete(self.peer.sent) and not self.peer.gone_early:
            self.complain("loss", f"frames_ended with {self.frames} of {self.complete(self.peer.sent)} frames")
        self.saw_eof = True
        self.run("ended")
        return self.keep_open

    def do_frame(self, size: int) -> None:
        self.do_frames([size])

    def do_frames(self, sizes: list[int]) -> None:
        if not self.writable() or self.raw is not None:
            return
        framer = LengthFramer(self.prefix)
        contents = [payload(self.sent_frames + i, size) for i, size in enumerate(sizes)]
        self.sent_frames += len(sizes)
        self.expected += framer.pack(contents)
        self.written = len(self.expected)
        if len(contents) == 1:
            self.protocol.write_frame(contents[0])
        else:
            self.protocol.write_frames(contents)

    def do_pause(self) -> None:
        if self.raw is not None:
            super().do_pause()
        elif self.reading:
            self.reading = False
            self.protocol.pause_frames()

    def do_resume(self) -> None:
        if self.raw is not None:
            super().do_resume()
        elif not self.reading and not self.lost:
            self.reading = True
            self.protocol.resume_frames()

    def do_protocol(self, kind: str) -> None:
        """Replace the protocol. Only the transport has a reference to the former one, which may be in a call."""
        if self.raw is None:
            # asyncio's transport does not deliver the remaining bytes; after end of file there are none.
            if self.world.on_reference or self.saw_eof or self.transport.is_closing():
                return
            self.raw = sum(self.prefix + size for size in self.sizes[: self.frames])
            # Replacing the protocol resumes reading that it had paused.
            self.reading = True
        super().do_protocol(kind)

    def quiet(self, stage: str) -> None:
        super().quiet(stage)
        if self.lost or not self.made or not self.reading or self.transport.is_closing():
            return
        if self.raw is not None:
            if self.peer.pending_bytes() == 0 and self.raw != self.peer.sent:
                self.complain("wakeup", f"{self.raw} of {self.peer.sent} bytes in stage {stage}")
            return
        if self.peer.pending_bytes() == 0 and self.frames != self.complete(self.peer.sent):
            self.complain("wakeup", f"{self.frames} of {self.complete(self.peer.sent)} frames in stage {stage}")

    def check(self) -> None:
        if self.made and self.lost and isinstance(self.error, IncompleteFrame):
            whole = self.complete(self.peer.sent)
            if self.frames != whole and not self.raised and not self.peer.gone_early:
                self.complain("loss", f"{self.error!r} with {self.frames} of {whole} frames")
            at = sum(self.prefix + size for size in self.sizes[:whole])
            if at == self.peer.sent and not self.peer.gone_early:
                self.complain("error", f"{self.error!r} although the peer ended between two frames")
            self.error = None
            self.unsure = True
        peer, whole = self.peer, self.complete(self.peer.sent)
        cut = peer.gone_early or peer.failed or peer.cut or self.closed or self.aborted or self.raised or self.unsure
        if self.made and self.lost and self.error is None and self.raw is None and not cut and self.frames != whole:
            self.complain("loss", f"ended cleanly with {self.frames} of {whole} frames")
        # Received bytes are counted as frames, or in `raw`.
        self.received = peer.sent if self.raw is None or self.closed else self.raw
        super().check()


class FramedReceiver(FramedProtocol):
    """Passes the calls to a FramedProtocol on to the end."""

    def __init__(self, end: FramedEnd, views: bool, batch: int) -> None:
        super().__init__(LengthFramer(end.prefix), views=views, batch=batch)
        self.end: Any = end

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.end.on_made(transport)

    def frames_received(self, frames: list[Any]) -> None:
        self.end.on_frames(frames)

    def frames_ended(self) -> bool:
        ended: bool = self.end.on_ended()
        return ended

    def pause_writing(self) -> None:
        self.end.on_pause()

    def resume_writing(self) -> None:
        self.end.on_resume()

    def connection_lost(self, error: BaseException | None) -> None:
        self.end.on_lost(error)
