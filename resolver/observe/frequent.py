"""The most frequent of a stream of keys, in memory of a fixed size: space-saving (Metwally, Agrawal, El Abbadi 2005).

A sketch counts at most `capacity` keys. A key that is not counted takes the place of the one with the smallest count
and begins with that count, which is then its error. So for each key of a stream with the total weight N:

* for a counted key, count - error <= its true weight <= count
* a key that is not counted has at most the weight `floor`, which is the smallest count, and at most N / `capacity`

Each key that weighs more than N / `capacity` is therefore in the sketch, whatever other keys were made up to hide it.

Remote parties choose the keys. They are bytes, which Python hashes with a secret key (SipHash, unless PYTHONHASHSEED is
set), so remote parties cannot choose keys that collide. The smallest count is found by a heap whose items may be older,
and so smaller, than the counts: there is one item for each key, and an addition costs O(log capacity) on average. No
I/O, no clock, no randomness.
"""

from collections.abc import Iterable, Sequence
from heapq import heappush, heapreplace
from typing import NamedTuple

__all__ = ["Frequent", "FrequentKeys", "Part", "merge"]


class Frequent(NamedTuple):
    """One key, whose true weight is between `weight - error` and `weight`. `times` and `marked` are how often it was
    added, and how often with a mark, since it is counted: at most as often as it came."""

    key: str
    weight: float
    error: float
    times: int
    marked: int


class Part(NamedTuple):
    """What one sketch has counted, for `merge`. A key that is not among `keys` has at most the weight `floor`."""

    floor: float
    keys: Sequence[Frequent]


class FrequentKeys:
    """A sketch with `capacity` counters."""

    __slots__ = ("_counters", "_heap", "_serial", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._counters: dict[bytes, list[float]] = {}
        """Count, error, times and marked of each key."""
        self._heap: list[tuple[float, int, bytes]] = []
        """For each counted key one item: a count that it has or had, and a number that makes items different."""
        self._serial = 0

    def __len__(self) -> int:
        return len(self._counters)

    def add(self, key: bytes, weight: float = 1.0, marked: int = 0) -> None:
        """Add `weight`, above 0, to the count of `key`."""
        counter = self._counters.get(key)
        if counter is not None:
            counter[0] += weight
            counter[2] += 1
            counter[3] += marked
            return
        self._serial += 1
        if len(self._counters) < self.capacity:
            heappush(self._heap, (weight, self._serial, key))
            self._counters[key] = [weight, 0.0, 1, marked]
            return
        smallest = self._smallest()
        del self._counters[self._heap[0][2]]
        heapreplace(self._heap, (smallest + weight, self._serial, key))
        self._counters[key] = [smallest + weight, smallest, 1, marked]

    @property
    def floor(self) -> float:
        """The largest weight that a key which is not counted may have."""
        return 0.0 if len(self._counters) < self.capacity else self._smallest()

    def counted(self) -> list[tuple[bytes, float, float, int, int]]:
        """Each counted key with its values as in `Frequent`."""
        return [(key, count, error, int(times), int(marked))
                for key, (count, error, times, marked) in self._counters.items()]

    def _smallest(self) -> float:
        """The smallest count, whose key is at the top of the heap afterwards."""
        heap, counters = self._heap, self._counters
        while True:
            count, serial, key = heap[0]
            now = counters[key][0]
            if now == count:
                return now
            heapreplace(heap, (now, serial, key))


def merge(parts: Iterable[Part], most: int) -> list[Frequent]:
    """The `most` heaviest keys of several sketches, with the bounds of `Frequent` for the sum of their streams.

    They are in the order of the weight that each has at least, so that keys which only pass through a full sketch come
    last.
    """
    given = list(parts)
    all_floors = sum(part.floor for part in given)
    sums: dict[str, list[float]] = {}
    for part in given:
        for key, count, error, times, marked in part.keys:
            # In the parts that do not have the key it may weigh as much as their floor.
            found = sums.setdefault(key, [all_floors, all_floors, 0, 0])
            found[0] += count - part.floor
            found[1] += error - part.floor
            found[2] += times
            found[3] += marked
    merged = [Frequent(key, count, error, int(times), int(marked))
              for key, (count, error, times, marked) in sums.items()]
    merged.sort(key=lambda one: (one.error - one.weight, -one.weight, one.key))
    return merged[:most]
