"""Which names were flushed, so that entries that were stored in the second-level cache before are not used.

Deleting the entries would need a search through all keys of the engine, and a resolver that writes at the same moment
would undo it. A mark holds for all entries stored before it, by any resolver. Times are arguments.
"""

from collections.abc import Iterable

from resolver import limits
from resolver.wire import name as names

__all__ = ["FlushMarks"]

SKEW = limits.SECOND_LEVEL_CLOCK_SKEW


class FlushMarks:
    """The names that were flushed, each with the time: entries stored before it are not used.

    Times of other resolvers differ by up to `SECOND_LEVEL_CLOCK_SKEW`, so entries stored within it count as older. At
    most `FLUSH_MARKS` names are kept; above that, everything stored before the newest of them counts as flushed.
    """

    def __init__(self) -> None:
        self._names: dict[bytes, int] = {}
        self._subtrees: dict[bytes, int] = {}
        self._everything = 0

    def add(self, name: bytes | None, when: int, *, subtree: bool = False) -> None:
        """Mark `name` (lower case), with `subtree` also all names below it; None marks everything."""
        if name is None:
            self._everything = max(self._everything, when)
            return
        marks = self._subtrees if subtree else self._names
        marks[name] = max(marks.get(name, 0), when)
        if len(self._names) + len(self._subtrees) > limits.FLUSH_MARKS:
            self._everything = max(self._everything, *self._names.values(), *self._subtrees.values())
            self._names.clear()
            self._subtrees.clear()

    def covers(self, owners: Iterable[bytes], stored: int) -> bool:
        """Whether one of these names (lower case) was flushed after `stored`."""
        before = stored - SKEW
        if before <= self._everything:
            return True
        if not self._names and not self._subtrees:
            return False
        return any(self._latest(name) >= before for name in owners)

    def carry_over(self, other: "FlushMarks") -> None:
        """Add the marks of `other`."""
        self._everything = max(self._everything, other._everything)
        for subtree, marks in ((False, other._names), (True, other._subtrees)):
            for name, when in marks.items():
                self.add(name, when, subtree=subtree)

    def _latest(self, name: bytes) -> int:
        """When `name` was flushed last; 0 if never."""
        latest = self._names.get(name, 0)
        while True:
            latest = max(latest, self._subtrees.get(name, 0))
            if name == names.ROOT:
                return latest
            name = names.parent(name)
