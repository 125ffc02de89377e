"""Content codings, gzip and deflate, undone in bounded steps.

Rule: output is made only as far as the caller's limits allow, however small the input was (CVE-2025-69223), layers are
counted (CVE-2025-66418), a body that is cut short or followed by rubbish is an error and several gzip members are one
body (RFC 1952 section 2.2). `deflate` means zlib, but enough servers send bare deflate that the first byte decides.
"""

import zlib
from collections.abc import Iterator

from corenet.http.errors import DecodeError, ResponseTooLarge
from corenet.limits import HTTP_CODINGS, HTTP_DECODE_STEP

__all__ = ["ACCEPT_ENCODING", "Decoder", "decode_all"]

ACCEPT_ENCODING = "gzip, deflate"

_GZIP = 16 + zlib.MAX_WBITS
_NAMES = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}


class _Layer:
    """One zlib stream, or several gzip members after each other."""

    def __init__(self, coding: str) -> None:
        self.coding = coding
        self.wbits = _NAMES[coding]
        self.stream = None if coding == "deflate" else zlib.decompressobj(self.wbits)
        self.began = False
        self.waiting = b""

    def feed(self, data: bytes, step: int) -> Iterator[bytes]:
        """Yield output in pieces of at most `step` bytes until the input is used up."""
        data = self.waiting + data
        self.waiting = b""
        full = False
        while True:
            if self.stream is None:
                # RFC 1950 section 2.2: the method nibble of a zlib header is 8, and the two bytes divide by 31.
                if len(data) < 2:
                    self.waiting = data
                    return
                is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
                self.wbits = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
                self.stream = zlib.decompressobj(self.wbits)
            if not data and not full:
                return
            if self.stream.eof:
                if not data:
                    return
                if self.wbits != _GZIP:
                    raise DecodeError(f"bytes after the end of the {self.coding} body")
                self.stream = zlib.decompressobj(_GZIP)
            self.began = True
            try:
                piece = self.stream.decompress(data, step)
            except zlib.error as error:
                raise DecodeError(f"the {self.coding} body is broken: {error}") from None
            data = self.stream.unused_data if self.stream.eof else self.stream.unconsumed_tail
            # A full piece may leave more output behind even when all input is used up.
            full = len(piece) == step
            if piece:
                yield piece

    def finish(self) -> None:
        """Check that the stream is complete; an empty body is allowed."""
        if self.waiting or (self.began and self.stream is not None and not self.stream.eof):
            raise DecodeError(f"the {self.coding} body is cut short")


class Decoder:
    """Undoes the codings of one body; `feed` yields pieces, `finish` checks that all of it was there."""

    def __init__(self, codings: list[str], *, limit: int) -> None:
        """`codings` as the Content-Encoding field lists them, applied first to last; `limit` in bytes of output.

        Raises:
            DecodeError: when one is unknown or they are too many.
        """
        names = [name for name in codings if name != "identity"]
        if len(names) > HTTP_CODINGS.default:
            raise DecodeError(f"{len(names)} content codings over each other")
        for name in names:
            if name not in _NAMES:
                raise DecodeError(f"the content coding {name!r} is not known")
        self._layers = [_Layer(name) for name in reversed(names)]
        self._left = limit
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield decoded pieces of bounded size.

        Raises:
            DecodeError: when the data is broken.
            ResponseTooLarge: when the output passes the limit.
        """
        for piece in self._through(data, 0):
            self._left -= len(piece)
            if self._left < 0:
                raise ResponseTooLarge(f"the body decodes to more than {self._limit} bytes")
            yield piece

    def _through(self, data: bytes, layer: int) -> Iterator[bytes]:
        if layer == len(self._layers):
            yield data
            return
        for piece in self._layers[layer].feed(data, HTTP_DECODE_STEP.default):
            yield from self._through(piece, layer + 1)

    def finish(self) -> None:
        """Check that every layer ended.

        Raises:
            DecodeError: when the body was cut short.
        """
        for layer in self._layers:
            layer.finish()


def decode_all(body: bytes, codings: list[str], limit: int) -> bytes:
    """Decode a whole body at once.

    Raises:
        DecodeError: when it is broken, cut short or of an unknown coding.
        ResponseTooLarge: when it decodes to more than `limit` bytes.
    """
    decoder = Decoder(codings, limit=limit)
    decoded = b"".join(decoder.feed(body))
    decoder.finish()
    return decoded
