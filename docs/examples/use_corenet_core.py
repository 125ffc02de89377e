"""The engine's parts without any loop: readiness and frames."""

import socket

from corenet.core import EDGE, READ, FrameTooLarge, LengthFramer, Poller

left, right = socket.socketpair()
for end in (left, right):
    end.setblocking(False)

# A framer splits a stream into messages, however the stream was divided into reads.
framer = LengthFramer(2, max_frame=1024)
header, payload = framer.frame(b"first")
left.sendall(header + payload + b"\x00\x06in tw")  # the second message is incomplete
left.sendall(b"o")

frames = []


def readable(events: int) -> None:
    # Edge-triggered: read until EAGAIN, because the same data is not reported again.
    while True:
        try:
            data = right.recv(4096)
        except BlockingIOError:
            return
        frames.extend(framer.feed(data))


with Poller() as poller:
    watch = poller.watch(right.fileno(), READ, readable, EDGE)
    poller.wait(1.0)
    poller.unwatch(watch)
assert [bytes(frame) for frame in frames] == [b"first", b"in two"], frames
assert framer.pending == 0

try:
    framer.feed(b"\xff\xff")
except FrameTooLarge as error:
    print(error)
else:
    raise SystemExit("a frame above the maximum is refused")

left.close()
right.close()
