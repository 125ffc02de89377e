"""The fixtures `pair` and `bounded`: measure, report, and compare with the floors in floors.toml.

A ratio fails only when its whole interval is below its floor, and only after further batches of rounds agree
(`ratio.py`), so noise alone cannot fail a build. Rows with `added` measure added cost: a server in C runs in the same
rounds. A row that misses its floor for a known reason has that reason in `missed` and is an expected failure down to
its `missed_bound`; when it reaches its floor, it prints that the reason can be removed. Absolute times are shown, and
stored by pytest-benchmark (wall time of one slice of ours, for `--benchmark-json`) and in the report, never compared.
With CORENET_NO_SKIPS=1, as in CI, a skipped benchmark fails (`support.skips` of the tests).
"""

import json
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from ratio import BATCHES, ROUNDS, Contender, Ratio, compare
from support.skips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["bounded", "pair", "pytest_make_collect_report", "pytest_runtest_makereport"]

Bare = Callable[[], AbstractContextManager[Contender]]
HERE = Path(__file__).resolve().parent
FLOORS = tomllib.loads((HERE / "floors.toml").read_text(encoding="utf-8"))
STATISTICS_ROUNDS = 3
RESULTS: dict[str, dict[str, float]] = {}


@pytest.fixture
def pair(benchmark: BenchmarkFixture) -> Callable[..., Ratio]:
    """`pair(name, ours, base)`: the ratio base / ours in CPU per operation; fails below the floor of that name.

    `bare` makes the server in C of a row with `added`; `batches` limits the batches measured for a row below its floor.
    """

    def measure(
        name: str, ours: Contender, base: Contender, *, rounds: int = ROUNDS, batches: int = BATCHES,
        bare: Bare | None = None,
    ) -> Ratio:
        floor = FLOORS[name]
        kind = "added" if "added" in floor else "floor"
        least = floor[kind]
        with ExitStack() as stack:
            server = None
            if kind == "added":
                assert bare is not None, f"{name}: a figure of added cost needs a server in C"
                server = stack.enter_context(bare())
            result = compare(ours, base, server, rounds=rounds, least=least, batches=batches)
        RESULTS[name] = {
            "ratio": result.median,
            "low": result.low,
            "high": result.high,
            "rounds": result.rounds,
            "ours_us": result.ours_us,
            "base_us": result.base_us,
            "bare_us": result.bare_us,
            "floor": least,
            "aim": floor.get("aim", least),
        }
        benchmark.extra_info.update(RESULTS[name], operations=result.count, base=floor["base"])
        benchmark.pedantic(ours.run, args=(result.count,), rounds=STATISTICS_ROUNDS)
        print(f"\n{name} against {floor['base']}: {result}, {kind} {least:.2f}")
        check_bound(name, result.high >= least, f"{result} is below its floor of {least:.2f}",
                    excused=result.high >= floor.get("missed_bound", least))
        return result

    return measure


def check_bound(name: str, reached: bool, said: str, *, excused: bool) -> None:
    """Fail when a figure misses its floor; an expected failure when floors.toml has a reason and the figure is
    `excused`, because it is within the row's `missed_bound`."""
    row = FLOORS[name]
    if reached:
        if "missed" in row:
            print(f"{name}: reaches its floor; remove the reason in floors.toml: {row['missed']}")
        return
    if "missed" in row and excused:
        pytest.xfail(f"{name}: {said}: {row['missed']}")
    pytest.fail(f"{name}: {said} ({row['why']})")


@pytest.fixture
def bounded() -> Callable[[str, float], None]:
    """`bounded(name, value)`: a figure of ours alone; fails when it is above that name's `most`."""

    def hold(name: str, value: float) -> None:
        bound = FLOORS[name]
        RESULTS[name] = {"value": value, "most": bound["most"], "aim": bound.get("aim", bound["most"])}
        print(f"\n{name}: {value:.2f} {bound['unit']}, at most {bound['most']}")
        check_bound(name, value <= bound["most"], f"{value:.2f} {bound['unit']} is above its bound of {bound['most']}",
                    excused=value <= bound.get("missed_bound", bound["most"]))

    return hold


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a table at the end, and write it as JSON to build/benchmarks.json."""
    if not RESULTS:
        return
    terminalreporter.section("base / ours in CPU per operation, or in what each adds to C (above 1: ours uses less)")
    for name, row in RESULTS.items():
        if "most" in row:
            unit = FLOORS[name]["unit"]
            terminalreporter.write_line(f"{name:28} {row['value']:7.2f}  most {row['most']:.2f}  {unit}")
            continue
        terminalreporter.write_line(
            f"{name:28} {row['ratio']:7.2f}  [{row['low']:.2f} .. {row['high']:.2f}]  "
            f"floor {row['floor']:.2f}  aim {row['aim']:.2f}  "
            f"ours {row['ours_us']:8.2f} us  base {row['base_us']:8.2f} us"
            + (f"  C {row['bare_us']:8.2f} us" if row["bare_us"] else "")
        )
    report = HERE.parent / "build" / "benchmarks.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps(RESULTS, indent=1))
