"""The buffer between the loop and a writing thread: order, bounds, and both sides at the same time."""

import os
import random
import select
import threading

import pytest

from resolver import limits
from resolver.observe.pieces import Pieces

PIECE = limits.OBSERVE_PIECE
LEAST = limits.OBSERVE_BUFFER.minimum


def taken(pieces: Pieces) -> tuple[bytes, int] | None:
    found = pieces.take()
    if found is None:
        return None
    octets, records = bytes(found[0]), found[1]
    pieces.give_back()
    return octets, records


def test_records_come_out_in_order_after_a_flush() -> None:
    pieces = Pieces(LEAST)
    assert pieces.take() is None
    assert pieces.add(b"one") and pieces.add(b"two")
    assert pieces.take() is None
    assert not select.select([pieces], [], [], 0)[0]
    pieces.flush()
    assert select.select([pieces], [], [], 0)[0]
    assert taken(pieces) == (b"onetwo", 2)
    assert pieces.take() is None
    pieces.flush()
    assert pieces.take() is None
    assert (pieces.records, pieces.overrun) == (2, 0)


def test_what_does_not_fit_is_counted_and_the_rest_stays() -> None:
    pieces = Pieces(LEAST)
    record = bytes(PIECE // 4)
    count = LEAST // len(record)
    assert [pieces.add(record) for _ in range(count)] == [True] * count
    assert not pieces.add(record) and not pieces.add(b"x")
    assert (pieces.records, pieces.overrun) == (count, 2)
    assert taken(pieces) == (record * 4, 4)
    assert pieces.add(b"x")
    assert taken(pieces) == (record * 4, 4)
    pieces.flush()
    assert taken(pieces) == (b"x", 1)


def test_a_record_never_continues_in_another_piece() -> None:
    pieces = Pieces(LEAST)
    assert pieces.add(bytes(PIECE - 10))
    assert pieces.add(b"a" * 11)
    pieces.flush()
    assert taken(pieces) == (bytes(PIECE - 10), 1)
    assert taken(pieces) == (b"a" * 11, 1)
    assert not pieces.add(bytes(PIECE + 1))
    assert pieces.overrun == 1


def test_wrong_order_of_calls_is_an_error() -> None:
    pieces = Pieces(LEAST)
    with pytest.raises(RuntimeError, match="no piece was taken"):
        pieces.give_back()
    pieces.add(b"x")
    pieces.flush()
    pieces.take()
    with pytest.raises(RuntimeError, match="not given back"):
        pieces.take()


@pytest.mark.parametrize("size", [LEAST - 1, limits.OBSERVE_BUFFER.maximum + 1])
def test_the_size_is_checked(size: int) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ValueError, match="buffer"):
        Pieces(size)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("seed", range(3))
def test_two_threads(seed: int) -> None:
    """Everything that was added comes out, once, in order; what was not added was counted."""
    rng = random.Random(seed)
    pieces = Pieces(LEAST)
    received: list[bytes] = []
    ended = threading.Event()

    def consume() -> None:
        while True:
            last = ended.is_set()
            found = taken(pieces)
            if found is not None:
                received.append(found[0])
            elif last:
                return

    thread = threading.Thread(target=consume)
    thread.start()
    added = []
    for number in range(20_000):
        record = number.to_bytes(4, "big") * rng.randrange(1, 60)
        if pieces.add(record):
            added.append(record)
        if rng.random() < 0.01:
            pieces.flush()
    pieces.flush()
    ended.set()
    thread.join(30)
    assert not thread.is_alive()
    assert b"".join(received) == b"".join(added)
    assert pieces.records == len(added) and pieces.records + pieces.overrun == 20_000
