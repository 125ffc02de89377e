"""``make simulate``: runs seeds on all cores, or one of them again, with its record or shrunk.

    run.py --seeds 2000 [--start 0] [--kinds stream,tls]     run seeds, print those that fail
    run.py --seed 17 --trace                                 run one, print its program and every system call
    run.py --seed 17 --shrink                                find the smallest program that still fails
    run.py --seeds 200 --reference                               the same programs on asyncio's loop, without faults

Each worker process takes further seeds when it has finished some. A worker that dies, or hangs, counts as a failure of
its seed and is replaced. One whose seed has failed is replaced too, because what the failure left behind must not
affect the next seed. One seed in fifty runs twice and must make the same calls both times.
"""

import argparse
import functools
import gc
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

BLOCK = 50
SECONDS_PER_SEED = 60
TWICE = 50

sys.path.insert(0, str(Path(__file__).parents[2]))

from simulation.loop import generate  # noqa: E402


def outcome_of(program: generate.Program, *, reference: bool, **options: Any) -> Any:
    """Run `program` in this process."""
    from simulation.loop import play

    return play.play_reference(program, **options) if reference else play.play(program, **options)


def check(seed: int, kinds: tuple[str, ...], reference: bool) -> list[str]:
    """Run `seed`; return its complaints."""
    program = generate.program(seed, kinds)
    first = outcome_of(program, reference=reference)
    if not first.complaints and seed % TWICE == 0:
        second = outcome_of(program, reference=reference)
        if second.hash != first.hash:
            return ["replay: the same seed made different system calls the second time"]
    found: list[str] = first.complaints
    return found


def work(pipe: Connection, kinds: tuple[str, ...], reference: bool) -> None:
    """A worker: takes (first, last) and sends (seed, complaints) for each seed; ends after one that fails."""
    logging.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            first, last = pipe.recv()
        except EOFError:
            return
        for seed in range(first, last):
            pipe.send((seed, None))
            complaints = check(seed, kinds, reference)
            pipe.send((seed, complaints))
            if complaints:
                return


class Worker:
    """A process that runs seeds."""

    def __init__(self, kinds: tuple[str, ...], reference: bool) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=work, args=(theirs, kinds, reference), daemon=True)
        self.process.start()
        theirs.close()
        self.next = self.last = 0
        self.seed: int | None = None
        self.since = time.monotonic()

    def take(self, first: int, last: int) -> None:
        """Run these seeds."""
        self.next, self.last = first, last
        self.since = time.monotonic()
        self.pipe.send((first, last))

    def end(self) -> int | None:
        """Stop it; returns the exit status."""
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        return self.process.exitcode


def simulate(
    start: int, seeds: int, kinds: tuple[str, ...], reference: bool, jobs: int, only_first: bool
) -> dict[int, list[str]]:
    """Run `seeds` seeds from `start`, or up to the first failure; return the complaints of those that failed."""
    if not reference:
        from simulation.loop import play  # noqa: F401 - once, before the workers are forked
    gc.collect()
    gc.freeze()
    failed: dict[int, list[str]] = {}
    waiting = [(first, min(first + BLOCK, start + seeds)) for first in range(start, start + seeds, BLOCK)][::-1]
    workers: list[Worker] = []

    def replace(worker: Worker, complaints: list[str]) -> None:
        seed = worker.next if worker.seed is None else worker.seed
        failed[seed] = complaints
        print(f"seed {seed}: {complaints[0]}", flush=True)
        workers.remove(worker)
        worker.end()
        if seed + 1 < worker.last:
            waiting.append((seed + 1, worker.last))

    while (waiting or workers) and not (failed and only_first):
        while waiting and len(workers) < jobs:
            fresh = Worker(kinds, reference)
            fresh.take(*waiting.pop())
            workers.append(fresh)
        wait([worker.pipe for worker in workers], timeout=1)
        for worker in list(workers):
            try:
                while worker.pipe.poll():
                    seed, complaints = worker.pipe.recv()
                    worker.since = time.monotonic()
                    worker.seed = seed
                    if complaints:
                        replace(worker, complaints)
                        break
                    if complaints is not None and seed + 1 == worker.last:
                        if waiting:
                            worker.take(*waiting.pop())
                        else:
                            workers.remove(worker)
                            worker.end()
                            break
            except (EOFError, ConnectionResetError):
                worker.process.join()
                replace(worker, [f"died: the process ended with status {worker.process.exitcode}"])
                continue
            if worker in workers and time.monotonic() - worker.since > SECONDS_PER_SEED:
                replace(worker, [f"hang: not done after {SECONDS_PER_SEED} s"])
    for worker in workers:
        worker.end()
    return failed


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--program", type=Path, help="a program written by --shrink instead of that of a seed")
    parser.add_argument("--kinds", default=",".join(generate.KINDS))
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--reference", action="store_true")
    parser.add_argument("--first", action="store_true", help="end at the first failure")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    kinds = tuple(options.kinds.split(","))
    if options.seed is None and options.program is None:
        began = time.monotonic()
        failed = simulate(options.start, options.seeds, kinds, options.reference, options.jobs, options.first)
        took = time.monotonic() - began
        print(f"{options.seeds} seeds in {took:.1f} s ({options.seeds / took:.0f} a second), {len(failed)} failed")
        for category in sorted({complaints[0].split(":")[0] for complaints in failed.values()}):
            seeds = sorted(seed for seed, found in failed.items() if found[0].startswith(category + ":"))
            print(f"  {category}: {' '.join(map(str, seeds[:20]))}{' ...' if len(seeds) > 20 else ''}")
        return 1 if failed else 0
    logging.disable()
    program = json.loads(options.program.read_text()) if options.program else generate.program(options.seed, kinds)
    if options.shrink:
        from simulation.loop import play  # noqa: F401 - before children are forked
        from simulation.loop.shrink import in_child, shrink

        program = shrink(program, functools.partial(in_child, reference=options.reference))
    outcome = outcome_of(
        {key: value for key, value in program.items() if key != "skip"},
        reference=options.reference, skip=program.get("skip", ()), verbose=options.trace,
    )  # fmt: skip
    print(json.dumps(program, indent=1))
    if options.trace:
        print(outcome.text)
    print(f"{outcome.calls} calls, {outcome.happened} faults, hash {outcome.hash:016x}")
    for complaint in outcome.complaints:
        print(complaint)
    return 1 if outcome.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
