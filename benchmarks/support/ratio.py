"""Two programs measured against each other in one run: A B B A slices, CPU time, median of the rounds' ratios.

Rule: only ratios are ever compared. A machine's clock rate, its neighbours and its mood change absolute times by a
factor of two within minutes, yet they change both sides of one interleaved round alike. A slice lasts about
`SLICE_SECONDS`, long against the scheduler's tick and short against the machine's moods; a round is A B B A, so that a
drift through the round cancels. The interval is a bootstrap over the rounds with a fixed seed.
"""

import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SLICE_SECONDS = 0.1
ROUNDS = 9
BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95


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
    """Operations come in batches of this many; `run` gets multiples of it."""
    count: int = 0
    """Operations of one slice, where none can be done twice; 0: as many as fill a slice."""
    measure: Callable[[], float] | None = None
    """Where the load and not we decide how many operations fill a slice: the CPU seconds an operation of one slice."""


@dataclass(frozen=True)
class Ratio:
    """What came out. `median` is base / ours in CPU per operation: above 1 means ours uses less."""

    median: float
    low: float
    high: float
    ours_us: float
    base_us: float
    rounds: int
    count: int
    """Operations of ours in one slice."""

    def __str__(self) -> str:
        return (f"{self.median:.2f} [{self.low:.2f} .. {self.high:.2f}] "
                f"(ours {self.ours_us:.2f} us, base {self.base_us:.2f} us of CPU an operation)")


def cpu_of(pid: int) -> Callable[[], float]:
    """CPU seconds of another process, summed over its threads, in nanosecond resolution (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task")

    def read() -> float:
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks.iterdir()) / 1e9

    return read


def _calibrate(contender: Contender) -> int:
    """Number of operations that fill a slice, by wall time so that a sleeping server cannot stretch it for ever."""
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


def compare(ours: Contender, base: Contender, *, rounds: int = ROUNDS) -> Ratio:
    """Measure both and return base / ours. Takes about ``4 * rounds * SLICE_SECONDS`` seconds of wall time."""
    our_count, base_count = ours.count or _calibrate(ours), base.count or _calibrate(base)
    ratios, our_costs, base_costs = [], [], []
    for _ in range(rounds):
        a1 = _slice(ours, our_count)
        b1 = _slice(base, base_count)
        b2 = _slice(base, base_count)
        a2 = _slice(ours, our_count)
        our_costs.append((a1 + a2) / 2)
        base_costs.append((b1 + b2) / 2)
        ratios.append((b1 + b2) / (a1 + a2))
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(ratios, k=rounds)) for _ in range(BOOTSTRAP_SAMPLES))
    tail = int((1 - CONFIDENCE) / 2 * BOOTSTRAP_SAMPLES)
    return Ratio(statistics.median(ratios), medians[tail], medians[-1 - tail],
                 statistics.median(our_costs) * 1e6, statistics.median(base_costs) * 1e6, rounds, our_count)


def floor_here(above_bare: float, bare: float) -> float:
    """The ratio base / ours at which ours adds `above_bare` times less to a bare server's cost than the base does.

    `bare` is base / bare server, measured on this machine. What the kernel takes is in all three, so a machine where it
    takes more moves every ratio towards 1 and leaves this one where it is.
    """
    if bare <= 1:
        return math.inf  # A server in C that is not the cheaper one says nothing, and moves no floor.
    least = 1 / bare
    return 1 / (least + (1 - least) / above_bare)
