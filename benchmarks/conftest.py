"""The fixtures `pair` and `bounded`: measure, report, and hold the result against floors.toml.

A ratio below its floor fails only when its whole interval is below, so that noise alone cannot fail a build, and only
after a second measurement agrees. Where most of the cost is the kernel's, the ratio that can be reached differs by
machine: on one whose system calls are dear nobody is much better than anybody. What a server adds to the kernel's cost
does not: such rows name in `above_bare` how many times less ours adds than the base, above a server in C. Below the
floor that server is measured in the same run too, and the floor is moved to where this machine has it.
Absolute times are shown, kept by pytest-benchmark (wall time of one slice of ours, for `--benchmark-json`) and
written to the report; they are never compared.
"""

import json
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from ratio import ROUNDS, Contender, Ratio, compare, floor_here

Bare = Callable[[], AbstractContextManager[Contender]]
HERE = Path(__file__).resolve().parent
FLOORS = tomllib.loads((HERE / "floors.toml").read_text(encoding="utf-8"))
STATISTICS_ROUNDS = 3
RESULTS: dict[str, dict[str, float]] = {}


@pytest.fixture
def pair(benchmark: BenchmarkFixture) -> Callable[..., Ratio]:
    """`pair(name, ours, base)`: the ratio base / ours in CPU per operation; fails below the floor of that name."""

    def measure(
        name: str, ours: Contender, base: Contender, *, rounds: int = ROUNDS, bare: Bare | None = None
    ) -> Ratio:
        floor = FLOORS[name]
        least = floor["floor"]
        result = compare(ours, base, rounds=rounds)
        if result.high < floor["floor"]:
            result = compare(ours, base, rounds=rounds)
        if result.high < least and bare is not None:
            with bare() as server:
                reached = compare(server, base, rounds=rounds)
            least = min(least, floor_here(floor["above_bare"], reached.median))
            print(f"\n{name}: a server in C against {floor['base']}: {reached}")
        RESULTS[name] = {
            "ratio": result.median,
            "low": result.low,
            "high": result.high,
            "ours_us": result.ours_us,
            "base_us": result.base_us,
            "floor": least,
            "goal": floor.get("goal", floor["floor"]),
        }
        benchmark.extra_info.update(RESULTS[name], operations=result.count, base=floor["base"])
        benchmark.pedantic(ours.run, args=(result.count,), rounds=STATISTICS_ROUNDS)
        print(f"\n{name} against {floor['base']}: {result}, floor {least:.2f}")
        assert result.high >= least, f"{name}: {result} is below its floor of {least:.2f} ({floor['why']})"
        return result

    return measure


@pytest.fixture
def bounded() -> Callable[[str, float], None]:
    """`bounded(name, value)`: a figure of ours alone; fails when it is above the `most` of that name."""

    def hold(name: str, value: float) -> None:
        bound = FLOORS[name]
        RESULTS[name] = {"value": value, "most": bound["most"], "goal": bound.get("goal", bound["most"])}
        print(f"\n{name}: {value:.2f} {bound['unit']}, at most {bound['most']}")
        assert value <= bound["most"], (
            f"{name}: {value:.2f} {bound['unit']} is above its bound of {bound['most']} ({bound['why']})"
        )

    return hold


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One table at the end, and the same as JSON in build/benchmarks.json."""
    if not RESULTS:
        return
    terminalreporter.section("ratios, base / ours in CPU per operation (above 1: ours uses less)")
    for name, row in RESULTS.items():
        if "most" in row:
            unit = FLOORS[name]["unit"]
            terminalreporter.write_line(f"{name:28} {row['value']:7.2f}  most {row['most']:.2f}  {unit}")
            continue
        terminalreporter.write_line(
            f"{name:28} {row['ratio']:7.2f}  [{row['low']:.2f} .. {row['high']:.2f}]  "
            f"floor {row['floor']:.2f}  goal {row['goal']:.2f}  "
            f"ours {row['ours_us']:8.2f} us  base {row['base_us']:8.2f} us"
        )
    report = HERE.parent / "build" / "benchmarks.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps(RESULTS, indent=1))
