"""The sketch of frequent keys against exact counts: its error bounds, its memory, and the sum of several sketches."""

import gc
import tracemalloc
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.observe.frequent import Frequent, FrequentKeys, Part, merge

CAPACITIES = st.integers(1, 12)
# Few different keys, so that many come back after they were evicted.
STREAMS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50)), max_size=100)
Stream = Sequence[tuple[int, int]]


def sketch_of(stream: Stream, capacity: int) -> FrequentKeys:
    keys = FrequentKeys(capacity)
    for key, weight in stream:
        keys.add(bytes((key,)), weight, key % 2)
    return keys


def exact(stream: Stream) -> "Counter[str]":
    counted: Counter[str] = Counter()
    for key, weight in stream:
        counted[str(key)] += weight
    return counted


def part_of(keys: FrequentKeys) -> Part:
    return Part(keys.floor, [Frequent(str(key[0]), *values) for key, *values in keys.counted()])


@given(STREAMS, CAPACITIES)
def test_counts_are_within_their_errors(stream: Stream, capacity: int) -> None:
    keys, truth = sketch_of(stream, capacity), exact(stream)
    total = sum(truth.values())
    counted = {one.key: one for one in part_of(keys).keys}
    assert len(counted) == len(keys) == min(capacity, len(truth))
    assert sum(one.weight for one in counted.values()) == total
    assert keys.floor <= total / capacity
    for key, weight in truth.items():
        if key in counted:
            assert counted[key].weight - counted[key].error <= weight <= counted[key].weight
        else:
            assert weight <= keys.floor
        if weight > total / capacity:
            assert key in counted, "a key above the bound cannot be hidden by others"


@given(STREAMS, CAPACITIES)
def test_numbers_of_additions_are_at_most_the_true_ones(stream: Stream, capacity: int) -> None:
    came = Counter(str(key) for key, _ in stream)
    for one in part_of(sketch_of(stream, capacity)).keys:
        assert 1 <= one.times <= came[one.key]
        assert one.marked == (one.times if int(one.key) % 2 else 0)
        if not one.error:
            assert one.times == came[one.key]


@given(st.lists(STREAMS, max_size=3), CAPACITIES, st.integers(1, 40))
def test_the_sum_of_sketches_has_the_bounds_of_the_sum_of_streams(
    streams: list[Stream], capacity: int, most: int
) -> None:
    merged = merge((part_of(sketch_of(stream, capacity)) for stream in streams), most)
    truth = exact([one for stream in streams for one in stream])
    assert len(merged) <= most
    least = [one.weight - one.error for one in merged]
    assert least == sorted(least, reverse=True)
    for one in merged:
        assert one.weight - one.error <= truth[one.key] <= one.weight
    if most >= len(truth) and capacity >= len(truth):
        assert {one.key: one.weight for one in merged} == truth and all(not one.error for one in merged)


def test_heavy_keys_come_first_in_a_flood_of_names_made_up() -> None:
    """Keys that only pass through have nearly the same count, but it is nearly all error."""
    keys = FrequentKeys(64)
    for number in range(20_000):
        keys.add(f"random{number}".encode())
        if number % 50 == 0:
            keys.add(b"heavy")
    first = merge([Part(keys.floor, [Frequent(key.decode(), *values) for key, *values in keys.counted()])], 1)[0]
    assert first.key == "heavy" and first.weight >= 400


@pytest.mark.parametrize("size", [1, 255])
def test_memory_is_bounded_whatever_the_keys_are(size: int) -> None:
    capacity = 256
    tracemalloc.start()
    try:
        keys = FrequentKeys(capacity)
        for number in range(20_000):
            keys.add(number.to_bytes(4, "big") + bytes(size), 1.0 + number % 7)
        gc.collect()  # freed tuples that CPython keeps are not the table's
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(keys) == capacity
    assert held < capacity * (size + 900)
