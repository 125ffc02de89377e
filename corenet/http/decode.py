"""Decodes the content codings gzip, deflate, br and zstd in steps that are limited in bytes.

Output is limited by the caller, however small the input (CVE-2025-69223). The same holds for the bytes between two
layers, for the number of layers (CVE-2025-66418) and for the members of a gzip body. A truncated body, or bytes after
its end, are an error. Several gzip members are one body (RFC 1952 section 2.2). `deflate` means the zlib format, but
many servers send raw deflate, so the first two bytes decide. br and zstd are in `corenet.http.codings`.

A step is one call of a decoder: at most `HTTP_DECODE_INPUT_STEP` bytes in, `HTTP_DECODE_OUTPUT_STEP` out.
`Decoder.feed` yields after each step, even without output, and `Decoder.work` counts the bytes, so the caller can let
other callbacks run between steps. A layer takes new input only when it has used all of the last, and the last layer
with work runs first: between two layers there is at most the output of one step.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from functools import cache

from corenet.http.codings import BrotliStage, Stage, ZstdStage, installed_codings
from corenet.http.errors import DecodeError, ResponseTooLarge, TimeoutExceeded
from corenet.limits import (
    HTTP_CONTENT_CODINGS,
    HTTP_DECODE_INNER_SIZE,
    HTTP_DECODE_INPUT_STEP,
    HTTP_DECODE_OUTPUT_STEP,
    HTTP_DECODE_STEP_COST,
    HTTP_GZIP_MEMBERS,
)

__all__ = ["Decoder", "accept_encoding", "yield_between_slices"]

_GZIP = 16 + zlib.MAX_WBITS
_NAMES = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}


@cache
def accept_encoding() -> str:
    """Return the value of Accept-Encoding: what can be decoded with the installed packages."""
    return ", ".join(("gzip", "deflate", *installed_codings()))


class _CodingStage(Stage):
    """One zlib stream, or a sequence of gzip members."""

    __slots__ = ("members", "stream", "wbits")

    def __init__(self, coding: str, max_output: int) -> None:
        super().__init__(coding, max_output)
        self.wbits = _NAMES[coding]
        self.stream = None if coding == "deflate" else zlib.decompressobj(self.wbits)
        self.members = 1

    def step(self) -> bytes:
        """Call zlib once on a busy layer; return its output, which may be empty."""
        data = self.data
        if self.stream is None:
            # RFC 1950 section 2.2: in a zlib header the low four bits are 8, and both bytes are a multiple of 31.
            if len(data) - self.at < 2:
                self.busy = False
                return b""
            is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self.wbits = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
            self.stream = zlib.decompressobj(self.wbits)
        elif self.stream.eof:
            self._next_member()
        self.began = True
        # A slice of the whole input is the same object. At the end of a gzip member zlib copies only this slice.
        part = data[self.at : self.at + HTTP_DECODE_INPUT_STEP]
        stream = self.stream
        try:
            made = stream.decompress(part, HTTP_DECODE_OUTPUT_STEP)
        except zlib.error as error:
            raise self._broken(error) from None
        self.at += len(part) - len(stream.unused_data if stream.eof else stream.unconsumed_tail)
        # A full output may mean that zlib holds more, even when all input is used.
        self.busy = self.at < len(data) or (len(made) == HTTP_DECODE_OUTPUT_STEP and not stream.eof)
        return self._count(made)

    def _next_member(self) -> None:
        if self.wbits != _GZIP:
            raise DecodeError(f"bytes after the end of the {self.coding} body")
        self.members += 1
        if self.members > HTTP_GZIP_MEMBERS + self.made // HTTP_DECODE_STEP_COST:
            raise DecodeError(f"{self.members} gzip members that are nearly empty")
        self.stream = zlib.decompressobj(_GZIP)

    def finish(self) -> None:
        """Check that the stream is complete. An empty body is allowed."""
        if self.at < len(self.data) or (self.began and self.stream is not None and not self.stream.eof):
            raise DecodeError(f"the {self.coding} body is cut short")


_STAGES: dict[str, Callable[[str, int], Stage]] = {"br": BrotliStage, "zstd": ZstdStage}


class Decoder:
    """Decodes the content codings of one body: `feed` yields pieces, `finish` checks that the body was complete."""

    def __init__(self, codings: list[str], *, limit: int) -> None:
        """`codings` in the order of the Content-Encoding field; `limit` is the maximum output in bytes.

        Raises:
            DecodeError: a coding is unknown, or there are too many.
        """
        names = [name for name in codings if name != "identity"]
        if len(names) > HTTP_CONTENT_CODINGS:
            raise DecodeError(f"{len(names)} content codings on one body")
        for name in names:
            if name not in _NAMES and name not in installed_codings():
                raise DecodeError(f"the content coding {name!r} is unknown")
        # The output of an inner layer is a compressed body, so it is far smaller than the final output may be.
        inner = max(HTTP_DECODE_INNER_SIZE, limit // 16)
        self._layers = [_STAGES.get(name, _CodingStage)(name, inner) for name in reversed(names)]
        if self._layers:
            self._layers[-1].max_output = 1 << 62
        self._left = limit
        self._limit = limit
        # Bytes processed so far, including a fixed cost for each step.
        self.work = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield decoded pieces of limited size, empty ones after a step without output.

        Raises:
            DecodeError: the data is invalid.
            ResponseTooLarge: the output of the body or of an inner layer exceeds its limit.
        """
        layers = self._layers
        if not layers:
            self.work += len(data)
            yield self._counted(data)
            return
        last = len(layers) - 1
        layers[0].give(data)
        while True:
            position = last
            while not layers[position].busy:
                if position == 0:
                    return
                position -= 1
            layer = layers[position]
            before = layer.at
            piece = layer.step()
            # A step costs about 5 us however small it is: a new stream for a gzip member, two copies of the input.
            self.work += layer.at - before + len(piece) + HTTP_DECODE_STEP_COST
            if position == last:
                yield self._counted(piece)
            else:
                if piece:
                    layers[position + 1].give(piece)
                yield b""

    def _counted(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise ResponseTooLarge(f"the body decodes to more than {self._limit} bytes")
        return piece

    def finish(self) -> None:
        """Check that every layer is complete.

        Raises:
            DecodeError: the body was cut short.
        """
        for layer in self._layers:
            layer.finish()


async def yield_between_slices(deadline: float, url: str) -> None:
    """Let other callbacks run between two slices of decoding.

    Raises:
        TimeoutExceeded: the loop's clock has passed `deadline`.
    """
    await asyncio.sleep(0)
    if asyncio.get_running_loop().time() >= deadline:
        raise TimeoutExceeded(f"{url}: the request took longer than its total time, decoding its body", "response")
