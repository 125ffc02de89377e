"""Content codings of an HTTP body: `DecodeError`, `ResponseTooLarge`, or bytes that do not depend on the pieces.

A body that decodes never gives more than the limit, no piece is larger than a step, and the same input fed in two
parts gives the same output as fed whole.
"""

from corenet.http.decode import Decoder
from corenet.http.errors import DecodeError, ResponseTooLarge
from corenet.limits import HTTP_DECODE_OUTPUT_STEP

LIMIT = 200_000
CODINGS = (
    ["gzip"], ["deflate"], ["deflate", "gzip"], ["gzip", "gzip", "deflate"], ["identity", "x-gzip"],
    ["br"], ["zstd"], ["zstd", "br"],
)  # fmt: skip


def run(data: bytes) -> None:
    """One input: which codings, then the body."""
    if not data:
        return
    codings, body = CODINGS[data[0] % len(CODINGS)], data[1:]
    whole = parts = None
    try:
        decoder = Decoder(codings, limit=LIMIT)
        pieces = list(decoder.feed(body))
        decoder.finish()
        whole = b"".join(pieces)
    except (DecodeError, ResponseTooLarge):
        pass
    try:
        decoder = Decoder(codings, limit=LIMIT)
        pieces = [piece for half in (body[: data[0]], body[data[0] :]) for piece in decoder.feed(half)]
        decoder.finish()
        assert all(len(piece) <= HTTP_DECODE_OUTPUT_STEP for piece in pieces)
        parts = b"".join(pieces)
    except (DecodeError, ResponseTooLarge):
        pass
    assert whole == parts
    assert whole is None or len(whole) <= LIMIT
