"""Content codings: right output, bounded work, and an error for everything that is cut, broken or too much."""

import gzip
import zlib

import pytest

from corenet.http.decode import Decoder, decode_all
from corenet.http.errors import DecodeError, ResponseTooLarge
from corenet.limits import HTTP_CODINGS, HTTP_DECODE_STEP

TEXT = b"all work and no play makes jack a dull boy\n" * 1000
PLENTY = 1 << 30


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
def test_bodies_in_any_pieces(coding: str, body: bytes, step: int) -> None:
    decoder = Decoder([coding], limit=PLENTY)
    out = b"".join(piece for at in range(0, len(body), step) for piece in decoder.feed(body[at : at + step]))
    decoder.finish()
    assert out == TEXT


def test_layers_are_undone_in_reverse() -> None:
    assert decode_all(gzip.compress(zlib.compress(TEXT)), ["deflate", "gzip"], PLENTY) == TEXT


def test_too_many_layers_are_refused() -> None:
    with pytest.raises(DecodeError, match="content codings"):
        Decoder(["gzip"] * (HTTP_CODINGS.default + 1), limit=PLENTY)


def test_unknown_codings_are_refused() -> None:
    with pytest.raises(DecodeError, match="'br' is not known"):
        Decoder(["br"], limit=PLENTY)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_cut_bodies_are_noticed(coding: str) -> None:
    body = gzip.compress(TEXT) if coding == "gzip" else zlib.compress(TEXT)
    for size in (1, 5, len(body) - 1):
        with pytest.raises(DecodeError):
            decode_all(body[:size], [coding], PLENTY)


def test_broken_bodies_are_noticed() -> None:
    body = bytearray(gzip.compress(TEXT))
    body[-6] ^= 1
    with pytest.raises(DecodeError, match="broken"):
        decode_all(bytes(body), ["gzip"], PLENTY)
    with pytest.raises(DecodeError, match="broken"):
        decode_all(gzip.compress(TEXT) + b"rubbish", ["gzip"], PLENTY)
    with pytest.raises(DecodeError, match="after the end"):
        decode_all(zlib.compress(TEXT) + b"rubbish", ["deflate"], PLENTY)


def test_an_empty_body_is_an_empty_body() -> None:
    assert decode_all(b"", ["gzip"], PLENTY) == b""
    assert decode_all(b"", ["deflate"], PLENTY) == b""


def test_a_bomb_is_stopped_at_the_limit_and_comes_in_small_pieces() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    pieces: list[bytes] = []
    with pytest.raises(ResponseTooLarge, match="decodes to more than 1048576"):
        pieces.extend(Decoder(["gzip"], limit=1 << 20).feed(bomb))
    assert max(map(len, pieces)) <= HTTP_DECODE_STEP.default and sum(map(len, pieces)) <= 1 << 20


def test_output_that_waits_inside_the_decoder_is_not_lost() -> None:
    size = HTTP_DECODE_STEP.default * 3
    assert decode_all(gzip.compress(bytes(size)), ["gzip"], PLENTY) == bytes(size)
