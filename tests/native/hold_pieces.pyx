"""A producer of records that stops in the middle: for tests of buffers with several producers.

Built with the checkout, loaded by tests/support/native.py.
"""

from resolver.observe.pieces cimport Pieces, begin_records, end_records


def hold(pieces: Pieces) -> None:
    """Be the producer of `pieces` until `release`, which must come from the same thread."""
    begin_records(&pieces.queue)


def release(pieces: Pieces) -> None:
    """Let others be the producer."""
    end_records(&pieces.queue)
