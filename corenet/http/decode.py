"""Content codings, gzip and deflate, undone in steps that are bounded by octets.

Rule: output is made only as far as the caller's limits allow, however small the input was (CVE-2025-69223); the same
holds for what passes from one layer to the next, for the number of layers (CVE-2025-66418) and for the members of one
gzip body. A body that is cut short or followed by rubbish is an error, several members are one body (RFC 1952 section
2.2). `deflate` means zlib, but enough servers send bare deflate that the first byte decides.

One step is one call of zlib: at most `HTTP_DECODE_INPUT_STEP` octets in, `HTTP_DECODE_OUTPUT_STEP` out. `Decoder.feed`
yields after each, also when the step gave nothing to the caller, and `Decoder.work` tells how much was done: the caller
lets others run in between. A layer takes new input only when it has used up the last, and the last layer with work goes
first: between two layers there is never more than the output of one step.
"""

import asyncio
import zlib
from collections.abc import Iterator

from corenet.http.errors import DecodeError, ResponseTooLarge, TimeoutExceeded
from corenet.limits import (
    HTTP_CONTENT_CODINGS,
    HTTP_DECODE_INNER_SIZE,
    HTTP_DECODE_INPUT_STEP,
    HTTP_DECODE_OUTPUT_STEP,
    HTTP_DECODE_STEP_COST,
    HTTP_GZIP_MEMBERS,
)

__all__ = ["ACCEPT_ENCODING", "Decoder", "yield_between_slices"]

ACCEPT_ENCODING = "gzip, deflate"

_GZIP = 16 + zlib.MAX_WBITS
_NAMES = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}


class _CodingStage:
    """One zlib stream, or several gzip members after each other."""

    __slots__ = ("at", "began", "busy", "coding", "data", "made", "members", "most", "stream", "wbits")

    def __init__(self, coding: str, most: int) -> None:
        self.coding = coding
        self.wbits = _NAMES[coding]
        self.stream = None if coding == "deflate" else zlib.decompressobj(self.wbits)
        self.began = False
        # The input is data[at:]; `busy` as long as it, or output that zlib holds back, is worth a step.
        self.data = b""
        self.at = 0
        self.busy = False
        self.made = 0
        self.most = most
        self.members = 1

    def give(self, data: bytes) -> None:
        """Take more input; only when not busy."""
        # Of a bare or zlib body one octet may wait for the second, see below.
        self.data = self.data[self.at :] + data if self.at < len(self.data) else data
        self.at = 0
        self.busy = bool(data)

    def step(self) -> bytes:
        """One call of zlib on a busy layer; return its output, which may be empty."""
        data = self.data
        if self.stream is None:
            # RFC 1950 section 2.2: the method nibble of a zlib header is 8, and the two octets divide by 31.
            if len(data) - self.at < 2:
                self.busy = False
                return b""
            is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self.wbits = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
            self.stream = zlib.decompressobj(self.wbits)
        elif self.stream.eof:
            self._next_member()
        self.began = True
        # All of a short input is the object itself; of a longer one only this slice is copied at a member's end.
        part = data[self.at : self.at + HTTP_DECODE_INPUT_STEP]
        stream = self.stream
        try:
            made = stream.decompress(part, HTTP_DECODE_OUTPUT_STEP)
        except zlib.error as error:
            raise DecodeError(f"the {self.coding} body is broken: {error}") from None
        self.at += len(part) - len(stream.unused_data if stream.eof else stream.unconsumed_tail)
        # A full piece may leave more output behind even when all input is used up.
        self.busy = self.at < len(data) or (len(made) == HTTP_DECODE_OUTPUT_STEP and not stream.eof)
        self.made += len(made)
        if self.made > self.most:
            raise ResponseTooLarge(f"an inner coding of the body gives more than {self.most} bytes")
        return made

    def _next_member(self) -> None:
        if self.wbits != _GZIP:
            raise DecodeError(f"bytes after the end of the {self.coding} body")
        self.members += 1
        if self.members > HTTP_GZIP_MEMBERS + self.made // HTTP_DECODE_STEP_COST:
            raise DecodeError(f"{self.members} gzip members with next to nothing in them")
        self.stream = zlib.decompressobj(_GZIP)

    def finish(self) -> None:
        """Check that the stream is complete; an empty body is allowed."""
        if self.at < len(self.data) or (self.began and self.stream is not None and not self.stream.eof):
            raise DecodeError(f"the {self.coding} body is cut short")


class Decoder:
    """Undoes the codings of one body; `feed` yields pieces, `finish` checks that all of it was there."""

    def __init__(self, codings: list[str], *, limit: int) -> None:
        """`codings` as the Content-Encoding field lists them, applied first to last; `limit` in bytes of output.

        Raises:
            DecodeError: when one is unknown or they are too many.
        """
        names = [name for name in codings if name != "identity"]
        if len(names) > HTTP_CONTENT_CODINGS:
            raise DecodeError(f"{len(names)} content codings over each other")
        for name in names:
            if name not in _NAMES:
                raise DecodeError(f"the content coding {name!r} is not known")
        # What an inner layer gives is a compressed body: far less than what may come out in the end.
        inner = max(HTTP_DECODE_INNER_SIZE, limit // 16)
        self._layers = [_CodingStage(name, inner) for name in reversed(names)]
        if self._layers:
            self._layers[-1].most = 1 << 62
        self._left = limit
        self._limit = limit
        # Octets moved so far, the price of a step included.
        self.work = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield decoded pieces of bounded size, empty ones after a step without output.

        Raises:
            DecodeError: when the data is broken.
            ResponseTooLarge: when the output, or what one layer hands to the next, passes its limit.
        """
        layers = self._layers
        if not layers:
            self.work += len(data)
            yield self._counted(data)
            return
        last = len(layers) - 1
        layers[0].give(data)
        while True:
            place = last
            while not layers[place].busy:
                if place == 0:
                    return
                place -= 1
            layer = layers[place]
            before = layer.at
            piece = layer.step()
            # A step costs some 5 us however little it moves: a fresh stream for a member, two copies of the input.
            self.work += layer.at - before + len(piece) + HTTP_DECODE_STEP_COST
            if place == last:
                yield self._counted(piece)
            else:
                if piece:
                    layers[place + 1].give(piece)
                yield b""

    def _counted(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise ResponseTooLarge(f"the body decodes to more than {self._limit} bytes")
        return piece

    def finish(self) -> None:
        """Check that every layer ended.

        Raises:
            DecodeError: when the body was cut short.
        """
        for layer in self._layers:
            layer.finish()


async def yield_between_slices(deadline: float, url: str) -> None:
    """Let the loop run between two slices of work.

    Raises:
        TimeoutExceeded: when its clock passed `deadline`.
    """
    await asyncio.sleep(0)
    if asyncio.get_running_loop().time() >= deadline:
        raise TimeoutExceeded(f"{url}: the request took longer than its total time, decoding its body", "response")
