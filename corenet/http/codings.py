"""Decoders of the content codings br and zstd, as stages of `corenet.http.decode`; each needs an optional package.

br needs the package brotli 1.2 or later, whose decoder limits its output. zstd needs zstandard, or `compression.zstd`
of Python 3.14. Decoders of zstd do not limit the output of a call, so a stage gives them one block at a time, which
decodes to at most 128 KiB. For that it follows the frames itself (RFC 8878 section 3), and refuses windows above 8 MiB.

States of the zstd stage (`_need` is the number of bytes that end the unit)::

    state   | unit                            | then
    --------+---------------------------------+----------------------------------------------------
    MAGIC   | magic number, descriptor        | HEADER; SKIP after a skippable frame's magic number
    HEADER  | the rest of the frame's header  | SIZE
    SIZE    | three bytes before a block      | BLOCK
    BLOCK   | the block's content             | SIZE; after the last: CHECK or MAGIC
    CHECK   | the checksum                    | MAGIC
    SKIP    | a skippable frame's content     | MAGIC

Invariant: the decoder has received everything but the bytes in `_head`, which is an incomplete unit of at most 18
bytes.
"""

import importlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from corenet.http.errors import DecodeError, ResponseTooLarge
from corenet.limits import (
    HTTP_BROTLI_OUTPUT_STEP,
    HTTP_DECODE_INPUT_STEP,
    HTTP_DECODE_STEP_COST,
    HTTP_GZIP_MEMBERS,
    HTTP_ZSTD_BLOCK,
    HTTP_ZSTD_WINDOW,
)

__all__ = ["BrotliStage", "Stage", "ZstdStage", "installed_codings"]

_FRAME_MAGIC = 0xFD2FB528
_SKIPPABLE_MAGIC = 0x184D2A50
# Sizes in bytes: a magic number and the first byte of the header; magic number and size of a skippable frame; the
# header of a block; a checksum.
_MAGIC_UNIT, _SKIPPABLE_UNIT, _BLOCK_HEADER, _CHECKSUM = 5, 8, 3, 4
MAGIC, HEADER, SIZE, BLOCK, CHECK, SKIP = range(6)
_RAW, _RLE, _COMPRESSED = range(3)


@cache
def _brotli() -> Any:
    """Return the package brotli, None without it or when it cannot limit its output."""
    try:
        module = importlib.import_module("brotli")
    except ImportError:
        return None
    return module if hasattr(module.Decompressor, "can_accept_more_data") else None


@cache
def _zstd() -> tuple[Callable[[], Any], type[Exception]]:
    """Return a function that makes a zstd decoder, and its error class."""
    if find_spec("_zstd") is not None:
        module = importlib.import_module("compression.zstd")
        return module.ZstdDecompressor, module.ZstdError
    module = importlib.import_module("zstandard")
    return lambda: module.ZstdDecompressor(max_window_size=HTTP_ZSTD_WINDOW).decompressobj(), module.ZstdError


@cache
def installed_codings() -> tuple[str, ...]:
    """Return which of br and zstd can be decoded. A decoder of zstd is loaded when a body needs it."""
    zstd = find_spec("_zstd") is not None or find_spec("zstandard") is not None
    return (("br",) if _brotli() is not None else ()) + (("zstd",) if zstd else ())


class Stage:
    """One coding of a body. The caller gives input by `give` when the stage is not `busy`, calls `step` while it
    is, and `finish` at the end.

    The unused input is data[at:]. `made` is the number of bytes that came out, at most `max_output`. `busy`: there is
    input, or output held by the decoder, for another step. `began`: some input was decoded.
    """

    __slots__ = ("at", "began", "busy", "coding", "data", "made", "max_output")

    def __init__(self, coding: str, max_output: int) -> None:
        self.coding = coding
        self.began = False
        self.data = b""
        self.at = 0
        self.busy = False
        self.made = 0
        self.max_output = max_output

    def give(self, data: bytes) -> None:
        """Set the next input; only when not busy."""
        # With `deflate` one byte may be left over: the format is decided by two bytes.
        self.data = self.data[self.at :] + data if self.at < len(self.data) else data
        self.at = 0
        self.busy = bool(data)

    def step(self) -> bytes:
        """Decode a part of the input of a busy stage; return the output, which may be empty.

        Raises:
            DecodeError: the body is broken.
            ResponseTooLarge: the output exceeds `max_output`.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Check that the body is complete. An empty body is allowed.

        Raises:
            DecodeError: it is cut short.
        """
        raise NotImplementedError

    def _count(self, made: bytes) -> bytes:
        """Count output and return it."""
        self.made += len(made)
        if self.made > self.max_output:
            raise ResponseTooLarge(f"an inner coding of the body gives more than {self.max_output} bytes")
        return made

    def _broken(self, why: object) -> DecodeError:
        return DecodeError(f"the {self.coding} body is broken: {why}")


class BrotliStage(Stage):
    """One brotli stream (RFC 7932). Its window is at most 16 MiB."""

    __slots__ = ("stream",)

    def __init__(self, coding: str, max_output: int) -> None:
        super().__init__(coding, max_output)
        self.stream = _brotli().Decompressor()

    def step(self) -> bytes:
        stream = self.stream
        if stream.is_finished():
            raise DecodeError("bytes after the end of the br body")
        self.began = True
        # The decoder takes all of its input, but no more of it while it holds output.
        part = self.data[self.at : self.at + HTTP_DECODE_INPUT_STEP] if stream.can_accept_more_data() else b""
        try:
            made: bytes = stream.process(part, output_buffer_limit=HTTP_BROTLI_OUTPUT_STEP)
        except _brotli().error as error:
            raise self._broken(error) from None
        self.at += len(part)
        # An output of this size may have been stopped by the limit, also when all input is used.
        stopped = len(made) >= HTTP_BROTLI_OUTPUT_STEP and not stream.is_finished()
        self.busy = self.at < len(self.data) or stopped or not stream.can_accept_more_data()
        return self._count(made)

    def finish(self) -> None:
        if self.began and not self.stream.is_finished():
            raise DecodeError("the br body is cut short")


class ZstdStage(Stage):
    """A sequence of zstd frames; see the head of this module."""

    __slots__ = ("_checksum", "_empty", "_error", "_filled", "_head", "_last", "_make", "_need", "_state", "stream")

    def __init__(self, coding: str, max_output: int) -> None:
        super().__init__(coding, max_output)
        self._make, self._error = _zstd()
        self.stream: Any = None
        self._state = MAGIC
        self._head = bytearray()
        self._need = _MAGIC_UNIT
        # Of the current frame and block: it is the last block, a checksum follows, the block has given output.
        self._last = self._checksum = self._filled = False
        # The number of frames, and of blocks without output: work that gives no output.
        self._empty = 0

    def step(self) -> bytes:
        self.began = True
        made = b""
        limit = min(self._need - len(self._head), HTTP_DECODE_INPUT_STEP)
        part = self.data[self.at : self.at + limit]
        self.at += len(part)
        if self._state in (BLOCK, CHECK):
            made = self._decode(part)
            self._filled = self._filled or bool(made)
            self._need -= len(part)
            if self._need == 0:
                self._after_content()
        elif self._state == SKIP:
            self._need -= len(part)
            if self._need == 0:
                self._next(MAGIC, _MAGIC_UNIT)
        else:
            self._head += part
            if len(self._head) == self._need:
                made = self._after_head()
        self.busy = self.at < len(self.data)
        return self._count(made)

    def _decode(self, part: bytes | bytearray) -> bytes:
        try:
            made: bytes = self.stream.decompress(bytes(part))
        except self._error as error:
            raise self._broken(error) from None
        return made

    def _next(self, state: int, need: int) -> None:
        self._state = state
        self._need = need
        self._head.clear()

    def _after_head(self) -> bytes:
        """The bytes in `_head` are complete: find the next unit, and give them to the decoder."""
        head = self._head
        if self._state == MAGIC:
            magic = int.from_bytes(head[:4], "little")
            if magic & 0xFFFFFFF0 == _SKIPPABLE_MAGIC:
                if len(head) == _MAGIC_UNIT:
                    self._need = _SKIPPABLE_UNIT
                    return b""
                self._count_empty()
                size = int.from_bytes(head[4:], "little")
                self._next(SKIP if size else MAGIC, size or _MAGIC_UNIT)
                return b""
            if magic != _FRAME_MAGIC:
                raise self._broken("it does not begin with a frame")
            self._state = HEADER
            self._need = 4 + _header_size(head[4])
            return b""
        if self._state == HEADER:
            if _window(head[4:]) > HTTP_ZSTD_WINDOW:
                raise DecodeError(f"the zstd body has a window above {HTTP_ZSTD_WINDOW} bytes")
            self._count_empty()
            self._checksum = bool(head[4] & 4)
            self.stream = self._make()
            made = self._decode(head)
            self._next(SIZE, _BLOCK_HEADER)
            return made
        header = bytes(head)
        self._block(int.from_bytes(header, "little"))
        return self._decode(header)

    def _block(self, header: int) -> None:
        """Take the header of a block (RFC 8878 section 3.1.1.2)."""
        kind, size = header >> 1 & 3, header >> 3
        if kind > _COMPRESSED or size > HTTP_ZSTD_BLOCK:
            raise self._broken("a block of a reserved type or size")
        self._last = bool(header & 1)
        self._filled = False
        if kind == _RLE:
            size = 1
        self._next(BLOCK, size)
        if size == 0:
            self._after_content()

    def _after_content(self) -> None:
        if self._state == BLOCK and not self._filled:
            self._count_empty()
        if self._state == BLOCK and not self._last:
            self._next(SIZE, _BLOCK_HEADER)
        elif self._state == BLOCK and self._checksum:
            self._next(CHECK, _CHECKSUM)
        else:
            self._next(MAGIC, _MAGIC_UNIT)

    def _count_empty(self) -> None:
        self._empty += 1
        if self._empty > HTTP_GZIP_MEMBERS + self.made // HTTP_DECODE_STEP_COST:
            raise DecodeError(f"{self._empty} zstd frames or blocks that are nearly empty")

    def finish(self) -> None:
        if self._state != MAGIC or self._head:
            raise DecodeError("the zstd body is cut short")


def _header_size(descriptor: int) -> int:
    """Return the size in bytes of a frame's header, the `descriptor` included (RFC 8878 section 3.1.1.1.1)."""
    single = descriptor >> 5 & 1
    content = (single, 2, 4, 8)[descriptor >> 6]
    return 1 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + content


def _window(header: bytes | bytearray) -> int:
    """Return the size of the window in bytes: its own field, or the content's size (RFC 8878 section 3.1.1.1.2)."""
    descriptor = header[0]
    if not descriptor >> 5 & 1:
        base = 1 << 10 + (header[1] >> 3)
        return base + base // 8 * (header[1] & 7)
    size = int.from_bytes(header[1 + (0, 1, 2, 4)[descriptor & 3] :], "little")
    return size + 256 if descriptor >> 6 == 1 else size
