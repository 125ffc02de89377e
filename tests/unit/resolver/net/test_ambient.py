"""Random numbers and clocks: ranges, distribution, behaviour after a fork, and that clocks are read on every call."""

import os
import time
from collections import Counter

import pytest

from resolver.net.clock_random import Clock, Entropy


@pytest.mark.parametrize("count", [0, 1, 7, 8, 16, 63, 64, 65, 100, 4096])
def test_bits_stay_in_range_and_reach_the_top(count: int) -> None:
    entropy = Entropy()
    values = [entropy.bits(count) for _ in range(64)]
    assert all(0 <= value < 1 << count for value in values)
    if count:
        assert any(value >> (count - 1) for value in values)


def test_bits_out_of_range() -> None:
    for count in (-1, 4097):
        with pytest.raises(ValueError, match="bits"):
            Entropy().bits(count)


def test_below_is_even_and_in_range() -> None:
    entropy = Entropy()
    counts = Counter(entropy.below(6) for _ in range(12_000))
    assert set(counts) == set(range(6))
    assert all(1700 < value < 2300 for value in counts.values())
    assert entropy.below(1) == 0
    assert all(entropy.below(2**63 + 1) <= 2**63 for _ in range(50))


def test_a_bound_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="below"):
        Entropy().below(0)


def test_numbers_differ_across_blocks_and_objects() -> None:
    first, second = Entropy(), Entropy()
    drawn = [source.bits(64) for source in (first, second) for _ in range(1500)]
    assert len(set(drawn)) == len(drawn)


def test_a_child_process_does_not_repeat_its_parent() -> None:
    entropy = Entropy()
    entropy.bits(64)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, entropy.bits(64).to_bytes(8, "big"))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    theirs = int.from_bytes(os.read(reader, 8), "big")
    os.close(reader)
    assert theirs != entropy.bits(64)


def test_clock() -> None:
    clock = Clock()
    before = time.time()
    seen = clock.time()
    assert isinstance(seen, int) and before - 2 <= seen <= time.time() + 2
    # A clock may be a coarse one, which is behind by a tick.
    before = time.monotonic()
    earlier = clock.monotonic()
    assert earlier <= clock.monotonic()
    assert before - 1 <= earlier <= time.monotonic()
