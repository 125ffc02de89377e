"""``make nightly``: the long form of every check, one make target after the other.

A target that fails, or takes longer than its limit, does not stop the others. The summary at the end has each target
with its time and result; the exit status is 0 only when all passed.

How long a target runs is set by its own variables (`Part.variables`), given on the command line or in the environment:
``make nightly SOAK_SECONDS=60``. NIGHTLY_SCALE is a factor for all that are not given: 1 is the whole night; 0.0001
shows within minutes that everything starts. NIGHTLY names the wanted targets, separated by spaces. Hypothesis gets a
new seed each night, printed here and in the summary; ``make properties HYPOTHESIS_SEED=n`` repeats it.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILL_SECONDS = 20.0
"""Seconds after SIGTERM until the remaining processes of a target are killed."""


@dataclass(frozen=True)
class Part:
    """A make target, its time limit in hours at full scale, and its variables."""

    target: str
    hours: float
    #: name of a variable: its value for a scale.
    variables: Mapping[str, Callable[[float], str]] = field(default_factory=dict)


def count(full: int, least: int = 1) -> Callable[[float], str]:
    """`full` times the scale, at least `least`."""
    return lambda scale: str(max(least, round(full * scale)))


def every(full: int) -> Callable[[float], str]:
    """The step with which entries of a list of `full` are taken, so that the scale's share runs, at least one."""
    return lambda scale: str(min(full, max(1, round(1 / scale))))


def below_full(value: str) -> Callable[[float], str]:
    """`value` when the scale is below 1, else nothing, which means everything."""
    return lambda scale: value if scale < 1 else ""


PARTS = (
    Part("properties", 3, {"HYPOTHESIS_FACTOR": count(20)}),
    Part("fuzz", 12, {"FUZZ_RUNS": count(1_000_000, 50)}),
    Part("simulate", 12, {"SEEDS": count(1_000_000, 50)}),
    Part("simulate-holes", 2, {"EVERY": every(30)}),
    Part("worlds", 12, {"WORLDS": count(100_000, 10)}),
    Part("mutants", 8, {"EVERY": every(300)}),
    Part("differential", 2, {"NAMES": count(10_000, 100)}),
    Part("suites", 3, {"SUITES": below_full("uvicorn"), "FULL": lambda scale: "1" if scale >= 1 else ""}),
    Part("stress", 1, {"CORENET_STRESS": lambda scale: f"{min(1.0, max(0.01, scale)):g}"}),
    Part("soak", 2, {"SOAK_SECONDS": count(1800, 10)}),
    Part("valgrind", 1),
    # Last, when nothing else is running that could disturb it.
    Part("bench", 4, {"BENCH": below_full("-k calls")}),
)
LEAST_SECONDS = 1800.0
"""The least time limit of a target at any scale, because it may have to build."""


@dataclass(frozen=True)
class Outcome:
    """The result of one target."""

    target: str
    seconds: float
    said: str
    passed: bool


def arguments(part: Part, scale: float, given: Mapping[str, str]) -> list[str]:
    """The variables of a target as arguments of make: the given values, else by scale."""
    return [f"{name}={given.get(name) or value(scale)}" for name, value in part.variables.items()]


def play(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> str:
    """Run a command to its end, at most `seconds`, with all processes that it starts; "" when it passed."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(seconds)
    except BaseException as error:
        end(process)
        if isinstance(error, subprocess.TimeoutExpired):
            return f"not done after {seconds:.0f} s"
        raise
    return "" if status == 0 else f"exit status {status}"


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its session with SIGTERM, and with SIGKILL what is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(KILL_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def night(
    parts: Sequence[Part],
    scale: float,
    given: Mapping[str, str],
    make: Sequence[str] = ("make", "--no-print-directory"),
    least: float = LEAST_SECONDS,
) -> list[Outcome]:
    """Run all `parts`, whatever the results."""
    # Variables that our own make passes on would override these.
    environment = {name: value for name, value in given.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
    outcomes = []
    for part in parts:
        words = arguments(part, scale, given)
        print(f"== make {' '.join([part.target, *words])}", flush=True)
        began = time.monotonic()
        said = play([*make, part.target, *words], environment, max(least, part.hours * 3600 * scale))
        outcomes.append(Outcome(part.target, time.monotonic() - began, said or "passed", not said))
        print(f"== {line(outcomes[-1])}", flush=True)
    return outcomes


def line(outcome: Outcome) -> str:
    """One line of the summary."""
    return f"{outcome.target:16} {outcome.seconds:8.1f} s  {outcome.said}"


def main() -> int:
    """Select the targets, run them, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(part.target for part in PARTS)}; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for what is not given (default %(default)s)")
    options = parser.parse_args()
    unknown = set(options.targets) - {part.target for part in PARTS}
    if unknown:
        parser.error(f"not a nightly target: {', '.join(sorted(unknown))}")
    if not options.scale > 0:
        parser.error("the scale must be above 0")
    given = dict(os.environ)
    given["HYPOTHESIS_SEED"] = given.get("HYPOTHESIS_SEED") or str(secrets.randbelow(1 << 32))
    print(f"HYPOTHESIS_SEED={given['HYPOTHESIS_SEED']}", flush=True)
    chosen = [part for part in PARTS if not options.targets or part.target in options.targets]
    outcomes = night(chosen, options.scale, given)
    print(f"\nNight at scale {options.scale:g}, HYPOTHESIS_SEED={given['HYPOTHESIS_SEED']}:")
    for outcome in outcomes:
        print(line(outcome))
    failed = [outcome.target for outcome in outcomes if not outcome.passed]
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
