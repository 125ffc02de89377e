"""Counters with labels: how a part of the resolver counts something by reason, action or kind. No I/O and no clock.

To add one:

1. Make it where the counted thing happens, with each label and all its values::

       self.dropped = LabelledCounter(limit=("responses", "queries"), action=("drop", "truncate"))

2. Count: ``self.dropped.add("responses", "drop")``.
3. Return it in the `statistics` of its owner: ``{"dropped": self.dropped.values()}``. `WorkerCommands` merges the
   groups of all owners, over reloads, restarts and workers.
4. Describe it in `resolver.observe.catalogue.METRICS`, in the group of that owner::

       "dropped": Metric("limited_queries_total", "Queries above a limit, by limit and action.", ("limit", "action"))

5. Add it to the table of docs/monitoring.md; a test compares both.

Invariant: the values of a label are fixed when the counter is made, so remote parties cannot make new time series. A
value outside of the set counts as "other" where the set has that, and is a KeyError, a fault of the program, where not.
Each combination is reported from the start, with 0, so that Prometheus sees its first increment.
"""

from itertools import product

from resolver.observe.labels import OTHER

__all__ = ["SEPARATOR", "LabelledCounter", "PairCounter"]

SEPARATOR = "."
"""Between the label values of one counter in statistics. Only one label of a metric may have values with a dot."""


class LabelledCounter:
    """One counter for each combination of label values."""

    __slots__ = ("_counts", "_sets")

    def __init__(self, **labels: tuple[str, ...]) -> None:
        """`labels` has the values of each label, in the order of the arguments of `add`."""
        self._sets = tuple(frozenset(values) for values in labels.values())
        self._counts = dict.fromkeys(product(*labels.values()), 0)

    def add(self, *values: str, count: int = 1) -> None:
        """Add `count` to the counter of the label values.

        Raises:
            KeyError: a value is not in the set of its label, which has no "other".
        """
        counts = self._counts
        try:
            counts[values] += count
        except KeyError:
            known = tuple(
                value if value in allowed else OTHER for value, allowed in zip(values, self._sets, strict=True)
            )
            counts[known] += count

    def values(self) -> dict[str, int]:
        """The counts, by label values joined with `SEPARATOR`."""
        return {SEPARATOR.join(key): count for key, count in self._counts.items()}


class PairCounter:
    """As `LabelledCounter`, for two labels and for what is counted for each query: it makes and hashes no tuple."""

    __slots__ = ("_rows",)

    def __init__(self, **labels: tuple[str, ...]) -> None:
        """`labels` has the values of both labels, in the order of the arguments of `add`."""
        first, second = labels.values()
        self._rows = {value: dict.fromkeys(second, 0) for value in first}

    def add(self, first: str, second: str) -> None:
        """Add 1 to the counter of the label values.

        Raises:
            KeyError: a value is not in the set of its label, which has no "other".
        """
        rows = self._rows
        row: dict[str, int] = rows[first] if first in rows else rows[OTHER]
        row[second if second in row else OTHER] += 1

    def values(self) -> dict[str, int]:
        """The counts, by label values joined with `SEPARATOR`."""
        return {
            SEPARATOR.join((first, second)): count for first, row in self._rows.items() for second, count in row.items()
        }
