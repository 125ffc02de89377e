"""br and zstd: the bounds that gzip has hold for them too."""

import importlib.util
import random
import zlib

import brotli
import pytest
import zstandard

from corenet.http import codings, decode
from corenet.http.codings import installed_codings
from corenet.http.decode import Decoder, accept_encoding
from corenet.http.errors import DecodeError, ResponseTooLarge
from corenet.limits import (
    HTTP_DECODE_INNER_SIZE,
    HTTP_DECODE_INPUT_STEP,
    HTTP_DECODE_OUTPUT_STEP,
    HTTP_DECODE_STEP_COST,
    HTTP_GZIP_MEMBERS,
    HTTP_ZSTD_WINDOW,
)

PLENTY = 1 << 30
TEXT = b"all work and no play makes jack a dull boy\n" * 1000
MIXED = TEXT * 8 + random.Random(7).randbytes(300_000) + TEXT
SKIPPABLE = b"\x5f\x2a\x4d\x18\x03\x00\x00\x00abc"


def zstd(data: bytes, **options: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(**options)  # type: ignore[arg-type]
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(data) + stream.flush()


def decode_all(body: bytes, codings: list[str], limit: int = PLENTY, step: int = PLENTY) -> bytes:
    decoder = Decoder(codings, limit=limit)
    before, out = 0, []
    for at in range(0, len(body), step):
        for piece in decoder.feed(body[at : at + step]):
            assert len(piece) <= HTTP_DECODE_OUTPUT_STEP
            assert decoder.work - before <= HTTP_DECODE_OUTPUT_STEP + HTTP_DECODE_INPUT_STEP + HTTP_DECODE_STEP_COST
            before = decoder.work
            out.append(piece)
    decoder.finish()
    return b"".join(out)


BODIES = {
    "br": ("br", brotli.compress(MIXED, quality=5)),
    "zstd": ("zstd", zstandard.ZstdCompressor().compress(MIXED)),
    "checksum": ("zstd", zstd(MIXED, write_checksum=1, write_content_size=0)),
    "frames": ("zstd", SKIPPABLE + zstd(MIXED[:70_000]) + SKIPPABLE + zstd(b"") + zstd(MIXED[70_000:])),
    "stored": ("zstd", zstd(MIXED[:1000], compression_level=-5) + zstd(MIXED[1000:], compression_level=-100)),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("step", [7, 1000, PLENTY])
def test_bodies_are_decoded_from_any_pieces(name: str, step: int) -> None:
    coding, body = BODIES[name]
    assert decode_all(body, [coding], step=step) == MIXED


def broken(name: str, body: bytes) -> bytes:
    """Return the body with one damaged byte which its format must not allow: without a checksum others may decode."""
    at, byte = {
        # A window size that is reserved (RFC 7932 section 9.1).
        "br": (0, 0x11),
        # A block type that is reserved (RFC 8878 section 3.1.1.2.2), after a frame header of 9 bytes.
        "zstd": (9, body[9] | 0x06),
        # A checksum of other content.
        "checksum": (len(body) - 1, body[-1] ^ 0x01),
    }[name]
    return body[:at] + bytes([byte]) + body[at + 1 :]


@pytest.mark.parametrize("name", ["br", "zstd", "checksum"])
def test_truncated_and_broken_bodies_are_errors(name: str) -> None:
    coding, body = BODIES[name]
    for size in (1, 3, 4, 6, 7, 20, len(body) // 2, len(body) - 1):
        with pytest.raises(DecodeError):
            decode_all(body[:size], [coding])
    for extra in (b"x", b"xx", bytes(100_000)):
        with pytest.raises(DecodeError):
            decode_all(body + extra, [coding])
        with pytest.raises(DecodeError):
            decode_all(body + extra, [coding], step=len(body))
    with pytest.raises(DecodeError):
        decode_all(broken(name, body), [coding])
    assert decode_all(b"", [coding]) == b""


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_a_compression_bomb_is_stopped_at_the_limit(coding: str) -> None:
    data = bytes(50 << 20)
    bomb = brotli.compress(data, quality=5) if coding == "br" else zstandard.ZstdCompressor().compress(data)
    with pytest.raises(ResponseTooLarge, match="decodes to more than 1048576"):
        decode_all(bomb, [coding], 1 << 20)
    assert decode_all(bomb, [coding]) == data
    stored = zlib.compress(bytes(HTTP_DECODE_INNER_SIZE + 1), 0)
    outer = brotli.compress(stored, quality=5) if coding == "br" else zstandard.ZstdCompressor().compress(stored)
    with pytest.raises(ResponseTooLarge, match="inner coding"):
        decode_all(outer, ["deflate", coding], HTTP_DECODE_INNER_SIZE * 2)


def test_a_window_above_the_limit_is_refused() -> None:
    assert decode_all(zstd(TEXT, window_log=23, write_content_size=0), ["zstd"]) == TEXT
    for options in ({"window_log": 24, "write_content_size": 0}, {"window_log": 27, "write_content_size": 0}):
        with pytest.raises(DecodeError, match=f"window above {HTTP_ZSTD_WINDOW}"):
            decode_all(zstd(TEXT, **options), ["zstd"])
    # A single segment has the size of its content as its window.
    single = b"\x28\xb5\x2f\xfd" + bytes([0xA0]) + (HTTP_ZSTD_WINDOW + 1).to_bytes(4, "little") + b"\x01\x00\x00"
    with pytest.raises(DecodeError, match="window above"):
        decode_all(single, ["zstd"])


def test_work_without_output_is_bounded() -> None:
    frame = zstd(b"")
    assert decode_all(frame * (HTTP_GZIP_MEMBERS // 2), ["zstd"]) == b""
    for body in (frame * HTTP_GZIP_MEMBERS, SKIPPABLE * (HTTP_GZIP_MEMBERS + 1)):
        with pytest.raises(DecodeError, match="nearly empty"):
            decode_all(body, ["zstd"])
    header = zstd(b"", write_content_size=0)[:6]
    with pytest.raises(DecodeError, match="nearly empty"):
        decode_all(header + b"\x00\x00\x00" * (HTTP_GZIP_MEMBERS + 1), ["zstd"])


def test_malformed_blocks_are_refused() -> None:
    header = zstd(b"", write_content_size=0)[:6]
    for block in ((3 << 1).to_bytes(3, "little"), (131_073 << 3).to_bytes(3, "little")):
        with pytest.raises(DecodeError, match="reserved type or size"):
            decode_all(header + block, ["zstd"])
    with pytest.raises(DecodeError, match="does not begin with a frame"):
        decode_all(b"not zstd", ["zstd"])


def test_only_installed_codings_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert accept_encoding() == "gzip, deflate, br, zstd"
    for function in (installed_codings, accept_encoding):
        function.cache_clear()
    try:
        monkeypatch.setattr(codings, "_brotli", lambda: None)
        monkeypatch.setattr(codings, "find_spec", lambda name: None)
        assert accept_encoding() == "gzip, deflate"
        for coding in ("br", "zstd"):
            with pytest.raises(DecodeError, match="unknown"):
                Decoder([coding], limit=PLENTY)
        assert decode.installed_codings() == ()
    finally:
        monkeypatch.undo()
        for function in (installed_codings, accept_encoding):
            function.cache_clear()
    assert importlib.util.find_spec("zstandard") is not None
