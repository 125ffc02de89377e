"""The `pair` fixture: measure two contenders, report, and hold the result against floors.toml.

A ratio below its floor fails only when its whole interval is below, so that noise alone cannot fail a build, and only
after a second measurement agrees.
Absolute times are shown, kept by pytest-benchmark (wall time of one slice of ours, for `--benchmark-json`) and
written to the report; they are never compared.
"""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from ratio import Contender, Ratio, compare

HERE = Path(__file__).resolve().parent
FLOORS = tomllib.loads((HERE / "floors.toml").read_text(encoding="utf-8"))
STATISTICS_ROUNDS = 3
RESULTS: dict[str, dict[str, float]] = {}


@pytest.fixture
def pair(benchmark: BenchmarkFixture) -> Callable[[str, Contender, Contender], Ratio]:
    """`pair(name, ours, base)`: the ratio base / ours in CPU per operation; fails below the floor of that name."""

    def measure(name: str, ours: Contender, base: Contender) -> Ratio:
        floor = FLOORS[name]
        result = compare(ours, base)
        if result.high < floor["floor"]:
            result = compare(ours, base)
        RESULTS[name] = {
            "ratio": result.median,
            "low": result.low,
            "high": result.high,
            "ours_us": result.ours_us,
            "base_us": result.base_us,
            "floor": floor["floor"],
            "goal": floor.get("goal", floor["floor"]),
        }
        benchmark.extra_info.update(RESULTS[name], operations=result.count, base=floor["base"])
        benchmark.pedantic(ours.run, args=(result.count,), rounds=STATISTICS_ROUNDS)
        print(f"\n{name} against {floor['base']}: {result}, floor {floor['floor']}")
        assert result.high >= floor["floor"], (
            f"{name}: {result} is below its floor of {floor['floor']} ({floor['why']})"
        )
        return result

    return measure


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One table at the end, and the same as JSON in build/benchmarks.json."""
    if not RESULTS:
        return
    terminalreporter.section("ratios, base / ours in CPU per operation (above 1: ours uses less)")
    for name, row in RESULTS.items():
        terminalreporter.write_line(
            f"{name:28} {row['ratio']:7.2f}  [{row['low']:.2f} .. {row['high']:.2f}]  "
            f"floor {row['floor']:.2f}  goal {row['goal']:.2f}  "
            f"ours {row['ours_us']:8.2f} us  base {row['base_us']:8.2f} us"
        )
    report = HERE.parent / "build" / "benchmarks.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps(RESULTS, indent=1))
