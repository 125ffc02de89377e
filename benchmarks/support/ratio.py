"""Compares programs in one run: alternating slices, CPU time, median of the rounds' ratios.

Only ratios are compared. Clock rate and other load change absolute times by a factor of two within minutes, but they
change both sides of an interleaved round alike. A slice takes about `SLICE_SECONDS`: long compared with the scheduler's
tick, short compared with such changes. A round is A B B A, so that a linear drift cancels.

Rounds are measured in batches. Disturbances last for seconds, so the rounds of one batch are disturbed alike, and their
interval alone would be too narrow. When the median is below the floor, further batches are measured until the median of
all rounds reaches the floor or there are `BATCHES`; the caller fails it only when the whole interval is below. The
interval is a bootstrap in two stages with a fixed seed: batches first, then rounds in each. It is wider when batches
disagree, and with one batch it is the ordinary bootstrap.

Where most of the work is in the kernel, a ratio mainly shows the cost of system calls on that machine. Then a server in
C is measured in the same rounds, A B C C B A, and the figure is the *added cost*: what the base adds to the cost of
that server, divided by what ours adds. 1 means that ours adds as much as the base, 3 a third of it.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SLICE_SECONDS = 0.1
ROUNDS = 9
BATCHES = 6
BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95
LEAST_ADDED = 0.02
"""The least added cost, as a share of the bare server's cost. A smaller one is noise, and dividing by it would give any
figure."""


@dataclass
class Contender:
    """One side of a comparison.

    `run(n)` performs n operations; `cpu()` returns the CPU seconds consumed so far by the process under test, which is
    this process unless the work happens in a server of its own.
    """

    name: str
    run: Callable[[int], None]
    cpu: Callable[[], float] = time.process_time
    batch: int = 1
    """Operations are run in multiples of this."""
    count: int = 0
    """Operations of one slice, where none can be repeated; 0: as many as fill a slice."""
    measure: Callable[[], float] | None = None
    """Where the load decides how many operations fill a slice: a function that returns CPU seconds per operation. Where
    delays of answers are compared, it returns these."""


@dataclass(frozen=True)
class Ratio:
    """The result. `median` is base / ours in CPU per operation: above 1 means that ours uses less.

    With a bare server in the rounds it is added cost of the base / added cost of ours; `bare_us` is the server's cost.
    """

    median: float
    low: float
    high: float
    ours_us: float
    base_us: float
    rounds: int
    count: int
    """Operations of ours in one slice."""
    bare_us: float = 0.0

    def __str__(self) -> str:
        bare = f", C {self.bare_us:.2f} us" if self.bare_us else ""
        return (f"{self.median:.2f} [{self.low:.2f} .. {self.high:.2f}] "
                f"(ours {self.ours_us:.2f} us, base {self.base_us:.2f} us{bare} an operation)")


def cpu_of(pid: int) -> Callable[[], float]:
    """CPU seconds of another process, summed over its threads, in nanosecond resolution (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task")

    def read() -> float:
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks.iterdir()) / 1e9

    return read


def _calibrate(contender: Contender) -> int:
    """Number of operations that fill a slice, by wall time, because a server that sleeps uses no CPU time."""
    count = contender.batch
    while True:
        began = time.perf_counter()
        contender.run(count)
        took = time.perf_counter() - began
        if took >= SLICE_SECONDS / 4:
            return max(1, int(count * SLICE_SECONDS / took) // contender.batch) * contender.batch
        count *= 2 if took > SLICE_SECONDS / 32 else 8


def _slice(contender: Contender, count: int) -> float:
    if contender.measure is not None:
        return contender.measure()
    before = contender.cpu()
    contender.run(count)
    return (contender.cpu() - before) / count


def compare(
    ours: Contender, base: Contender, bare: Contender | None = None, *, rounds: int = ROUNDS,
    least: float = 0.0, batches: int = BATCHES,
) -> Ratio:
    """Measure both, or all three, and return base / ours: of the costs, or of what is added to the cost of `bare`.

    A batch of `rounds` takes about ``4 * rounds * SLICE_SECONDS`` seconds of wall time, half as much more with `bare`.
    While the median is below `least`, further batches are measured, up to `batches` in all.
    """
    sides = [ours, base] if bare is None else [ours, base, bare]
    counts = [side.count or _calibrate(side) for side in sides]
    costs: list[list[float]] = [[] for _ in sides]
    ratios: list[list[float]] = []
    while True:
        ratios.append([_round(sides, counts, costs) for _ in range(rounds)])
        middle, low, high = _interval(ratios)
        if middle >= least or len(ratios) >= batches:
            break
    typical = [statistics.median(side) * 1e6 for side in costs]
    ours_us, base_us, bare_us = typical if bare is not None else (*typical, 0.0)
    return Ratio(middle, low, high, ours_us, base_us, rounds * len(ratios), counts[0], bare_us)


def _round(sides: list[Contender], counts: list[int], costs: list[list[float]]) -> float:
    """One round there and back; adds each side's cost to its list."""
    there = [_slice(side, count) for side, count in zip(sides, counts, strict=True)]
    back = [_slice(side, count) for side, count in zip(reversed(sides), reversed(counts), strict=True)]
    for total, first, second in zip(costs, there, reversed(back), strict=True):
        total.append((first + second) / 2)
    return _ratio(*(total[-1] for total in costs))


def _interval(batches: list[list[float]]) -> tuple[float, float, float]:
    """Median of all rounds, and the bounds of its interval."""
    rng = random.Random(1)
    medians = sorted(
        statistics.median([
            ratio for batch in rng.choices(batches, k=len(batches)) for ratio in rng.choices(batch, k=len(batch))
        ])
        for _ in range(BOOTSTRAP_SAMPLES)
    )
    tail = int((1 - CONFIDENCE) / 2 * BOOTSTRAP_SAMPLES)
    return statistics.median([ratio for batch in batches for ratio in batch]), medians[tail], medians[-1 - tail]


def _ratio(ours: float, base: float, bare: float | None = None) -> float:
    """The figure of one round."""
    if bare is None:
        return base / ours
    least = LEAST_ADDED * bare
    return max(base - bare, least) / max(ours - bare, least)
