"""Content codings: right output, bounded work, and an error for everything that is cut, broken or too much."""

import gzip
import random
import zlib
from typing import Any

import pytest

from corenet.http import decode
from corenet.http.decode import Decoder
from corenet.http.errors import DecodeError, ResponseTooLarge
from corenet.limits import (
    HTTP_CONTENT_CODINGS,
    HTTP_DECODE_INNER_SIZE,
    HTTP_DECODE_INPUT_STEP,
    HTTP_DECODE_OUTPUT_STEP,
    HTTP_DECODE_STEP_COST,
    HTTP_GZIP_MEMBERS,
)

TEXT = b"all work and no play makes jack a dull boy\n" * 1000
PLENTY = 1 << 30


def decode_all(body: bytes, codings: list[str], limit: int) -> bytes:
    decoder = Decoder(codings, limit=limit)
    decoded = b"".join(decoder.feed(body))
    decoder.finish()
    return decoded


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ("gzip", gzip.compress(TEXT) + gzip.compress(b"")),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_bodies_are_decoded_from_any_pieces(coding: str, body: bytes, step: int) -> None:
    decoder = Decoder([coding], limit=PLENTY)
    out = b"".join(piece for at in range(0, len(body), step) for piece in decoder.feed(body[at : at + step]))
    decoder.finish()
    assert out == TEXT


def test_layers_are_decoded_in_reverse_order() -> None:
    assert decode_all(gzip.compress(zlib.compress(TEXT)), ["deflate", "gzip"], PLENTY) == TEXT


def test_too_many_layers_are_refused() -> None:
    with pytest.raises(DecodeError, match="content codings"):
        Decoder(["gzip"] * (HTTP_CONTENT_CODINGS + 1), limit=PLENTY)


def test_unknown_codings_are_refused() -> None:
    with pytest.raises(DecodeError, match="'compress' is unknown"):
        Decoder(["compress"], limit=PLENTY)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_truncated_bodies_are_errors(coding: str) -> None:
    body = gzip.compress(TEXT) if coding == "gzip" else zlib.compress(TEXT)
    for size in (1, 5, len(body) - 1):
        with pytest.raises(DecodeError):
            decode_all(body[:size], [coding], PLENTY)


def test_broken_bodies_are_errors() -> None:
    body = bytearray(gzip.compress(TEXT))
    body[-6] ^= 1
    with pytest.raises(DecodeError, match="broken"):
        decode_all(bytes(body), ["gzip"], PLENTY)
    with pytest.raises(DecodeError, match="broken"):
        decode_all(gzip.compress(TEXT) + b"rubbish", ["gzip"], PLENTY)
    with pytest.raises(DecodeError, match="after the end"):
        decode_all(zlib.compress(TEXT) + b"rubbish", ["deflate"], PLENTY)


def test_an_empty_body_stays_empty() -> None:
    assert decode_all(b"", ["gzip"], PLENTY) == b""
    assert decode_all(b"", ["deflate"], PLENTY) == b""


def test_a_compression_bomb_is_stopped_at_the_limit_and_decoded_in_small_pieces() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    pieces: list[bytes] = []
    with pytest.raises(ResponseTooLarge, match="decodes to more than 1048576"):
        pieces.extend(Decoder(["gzip"], limit=1 << 20).feed(bomb))
    assert max(map(len, pieces)) <= HTTP_DECODE_OUTPUT_STEP and sum(map(len, pieces)) <= 1 << 20


def test_output_that_waits_inside_the_decoder_is_not_lost() -> None:
    size = HTTP_DECODE_OUTPUT_STEP * 3
    assert decode_all(gzip.compress(bytes(size)), ["gzip"], PLENTY) == bytes(size)


# --- work -------------------------------------------------------------------------------------------------------------

# 5 octets each: an empty stored block (RFC 1951 section 3.2.4), which may be repeated without limit.
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"


def layered(innermost: bytes, layers: int) -> bytes:
    for _ in range(layers):
        innermost = gzip.compress(innermost, mtime=0)
    return innermost


@pytest.mark.parametrize(
    ("coding", "innermost"),
    [("gzip", gzip.compress(b"", mtime=0) * 2_000_000), ("deflate", EMPTY_BLOCK * 8_000_000 + b"\x03\x00")],
    ids=["members", "blocks"],
)
def test_layers_that_decode_to_nothing_are_refused_early(coding: str, innermost: bytes) -> None:
    body = layered(innermost, 2)
    assert len(body) < 1000 and zlib.decompress(innermost, 31 if coding == "gzip" else -15) == b""
    decoder = Decoder([coding, "gzip", "gzip"], limit=PLENTY >> 4)
    with pytest.raises((DecodeError, ResponseTooLarge), match=r"nearly empty|inner coding"):
        for _ in decoder.feed(body):
            pass
    assert decoder.work < 6 * HTTP_DECODE_INNER_SIZE


def test_two_layers_within_the_bounds_are_decoded() -> None:
    text = zlib.compress(bytes(HTTP_DECODE_INNER_SIZE // 2), 0)
    assert decode_all(layered(text, 2), ["deflate", "gzip", "gzip"], PLENTY) == bytes(HTTP_DECODE_INNER_SIZE // 2)


def test_a_larger_limit_permits_larger_layers() -> None:
    text = bytes(HTTP_DECODE_INNER_SIZE * 2)
    body = layered(zlib.compress(text, 0), 1)
    with pytest.raises(ResponseTooLarge, match="inner coding"):
        decode_all(body, ["deflate", "gzip"], HTTP_DECODE_INNER_SIZE * 4)
    assert decode_all(body, ["deflate", "gzip"], HTTP_DECODE_INNER_SIZE * 64) == text


def test_the_limit_of_members_depends_on_their_content() -> None:
    little = gzip.compress(b"x", mtime=0)
    most = HTTP_GZIP_MEMBERS
    assert decode_all(little * most, ["gzip"], PLENTY) == b"x" * most
    with pytest.raises(DecodeError, match="members"):
        decode_all(little * (most + 100), ["gzip"], PLENTY)
    # As bgzip writes files: many members that are not empty.
    block = bytes(HTTP_DECODE_STEP_COST)
    assert decode_all(gzip.compress(block) * (most + 1000), ["gzip"], PLENTY) == block * (most + 1000)


class Counting:
    """zlib, counting the bytes passed in and out, which are copies."""

    def __init__(self) -> None:
        self.copied = 0
        self.longest = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(zlib, name)

    def decompressobj(self, wbits: int) -> Any:
        counting, stream = self, zlib.decompressobj(wbits)

        class Stream:
            def __getattr__(self, name: str) -> Any:
                return getattr(stream, name)

            def decompress(self, data: bytes, most: int) -> bytes:
                counting.copied += len(data)
                counting.longest = max(counting.longest, len(data), most)
                return stream.decompress(data, most)

        return Stream()


@pytest.mark.parametrize("step", [1 << 30, 100_000, 1000])
def test_many_members_are_not_copied_repeatedly(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    counting = Counting()
    monkeypatch.setattr(decode, "zlib", counting)
    members = HTTP_GZIP_MEMBERS // 4
    body = gzip.compress(random.Random(5).randbytes(400), mtime=0) * members
    decoder = Decoder(["gzip"], limit=PLENTY)
    size = sum(len(piece) for at in range(0, len(body), step) for piece in decoder.feed(body[at : at + step]))
    assert size == 400 * members
    assert counting.copied <= members * HTTP_DECODE_INPUT_STEP + len(body)
    assert counting.longest <= max(HTTP_DECODE_OUTPUT_STEP, HTTP_DECODE_INPUT_STEP)


@pytest.mark.parametrize("layers", [1, 3])
def test_each_step_is_small_and_yields(layers: int) -> None:
    body = layered(bytes(8 << 20), layers)
    decoder = Decoder(["gzip"] * layers, limit=PLENTY)
    before = 0
    for _ in decoder.feed(body):
        most = HTTP_DECODE_OUTPUT_STEP + HTTP_DECODE_INPUT_STEP + HTTP_DECODE_STEP_COST
        assert 0 < decoder.work - before <= most
        before = decoder.work
    decoder.finish()
    assert decoder.work >= 8 << 20
