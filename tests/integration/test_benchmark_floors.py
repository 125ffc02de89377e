"""The references of the benchmarks: the arithmetic of added cost, floors.toml, and the server in C."""

import importlib.util
import json
import random
import re
import shutil
import socket
import tomllib
from pathlib import Path
from typing import Any

import loop_servers
import pytest
from ratio import BATCHES, LEAST_ADDED, ROUNDS, Contender, Ratio, compare

FLOORS = tomllib.loads(Path(loop_servers.__file__).parents[1].joinpath("floors.toml").read_text(encoding="utf-8"))



def loaded(name: str) -> Any:
    """A module of the benchmarks that is on no import path."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}",
                                                  Path(loop_servers.__file__).parents[1] / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures, benchmark_rules = loaded("figures"), loaded("conftest")

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (Debian package build-essential)")


def costing(name: str, *costs: float) -> Contender:
    """A contender whose slices cost what is said, one after the other and over again."""
    told = list(costs)

    def measure() -> float:
        told.append(told.pop(0))
        return told[-1]

    return Contender(name, lambda _count: None, count=1, measure=measure)


@pytest.mark.parametrize("kernel", [0.0, 1.0, 10.0])
def test_added_cost_does_not_depend_on_the_kernels_part(kernel: float) -> None:
    ours, base, bare = (costing(name, kernel + own) for name, own in (("ours", 1.5), ("base", 3.5), ("C", 0.5)))
    assert compare(ours, base, bare).median == pytest.approx(3.0)


def test_a_drift_through_a_round_cancels() -> None:
    """The machine gets slower from slice to slice of a round, by as much each time."""
    ours, base, bare = costing("ours", 2.0, 7.0), costing("base", 4.0, 7.0), costing("C", 2.0, 3.0)
    result = compare(ours, base, bare, rounds=3)
    assert result.median == pytest.approx((5.5 - 2.5) / (4.5 - 2.5))


def test_zero_added_cost_gives_a_finite_figure() -> None:
    ours, base, bare = costing("ours", 1.0), costing("base", 2.0), costing("C", 1.0)
    assert compare(ours, base, bare).median == pytest.approx(1 / LEAST_ADDED)


def measured(rng: random.Random, figure: float, least: float, moods: list[float]) -> Ratio:
    """A comparison whose slices scatter by a tenth around `figure`, each batch times its mood (the last one stays)."""
    slices = 2 * ROUNDS

    def noisy(cost: float) -> list[float]:
        return [cost * rng.gauss(1.0, 0.1) for _ in range(slices * BATCHES)]

    ours = [cost / moods[min(at // slices, len(moods) - 1)] for at, cost in enumerate(noisy(1.0))]
    return compare(costing("ours", *ours), costing("base", *noisy(figure)), least=least)


def test_a_row_above_its_floor_is_measured_once() -> None:
    assert measured(random.Random(1), 2.0, 1.8, [1.0]).rounds == ROUNDS


@pytest.mark.parametrize("moods", [[0.8, 1.0], [0.7, 0.9, 1.0], [0.8, 0.8, 1.0]], ids=str)
def test_a_temporary_disturbance_is_averaged_out(moods: list[float]) -> None:
    """2.0 against a floor of 1.9; batches in which something else on the machine costs ours a fifth more."""
    for seed in range(20):
        result = measured(random.Random(seed), 2.0, 1.9, moods)
        assert result.high >= 1.9, (seed, result)


def test_noise_alone_fails_no_row() -> None:
    """A twentieth above the floor, with moods of a tenth from batch to batch."""
    for seed in range(50):
        rng = random.Random(seed)
        result = measured(rng, 2.1, 2.0, [rng.uniform(0.9, 1.1) for _ in range(BATCHES)])
        assert result.high >= 2.0, (seed, result)


def test_a_row_below_its_floor_fails_however_long_it_is_measured() -> None:
    for seed in range(20):
        result = measured(random.Random(seed), 1.7, 2.0, [1.0])
        assert result.high < 2.0 and result.rounds == BATCHES * ROUNDS, (seed, result)


def test_batches_that_disagree_widen_the_interval() -> None:
    rng = random.Random(1)
    even, uneven = (measured(rng, 1.5, 9.0, moods) for moods in ([1.0], [0.8, 1.0, 0.9, 1.1]))
    assert uneven.high - uneven.low > 2 * (even.high - even.low)


def test_each_row_has_one_bound_and_a_reason() -> None:
    for name, row in FLOORS.items():
        assert len(row.keys() & {"floor", "added", "most"}) == 1, name
        known = {"base", "unit", "floor", "added", "most", "aim", "missed", "missed_bound", "varies", "why"}
        assert row["why"] and row.keys() <= known, name
        bound = row.get("floor", row.get("added"))
        assert ("most" in row and row.get("aim", 0) <= row["most"]) or row.get("aim", bound) >= bound, name


def test_floors_are_nine_tenths_of_what_was_measured() -> None:
    """So that no row may lose more than a tenth unnoticed, beside what machines differ by. `why` begins with the lowest
    figure that was measured."""
    low = {}
    for name, row in FLOORS.items():
        measured = re.search(r"measured (\d+(?:\.\d+)?)", row["why"])
        if "floor" in row and "missed" not in row:
            assert measured is not None, f"{name}: what was measured?"
            assert 0.5 <= row.get("varies", 1.0) <= 1.0, name
            if row["floor"] < 0.9 * float(measured[1]) * row.get("varies", 1.0):
                low[name] = row["floor"]
    assert not low


def test_a_row_that_misses_its_floor_may_not_lose_much_more() -> None:
    """`missed` begins with the lowest figure that was measured (of `most`, the highest); some have one of a busy
    machine, too."""
    for name, row in FLOORS.items():
        assert ("missed" in row) is ("missed_bound" in row), name
        if "missed" not in row:
            continue
        said = re.match(r"([\d.]+)(?: to ([\d.]+))?", row["missed"])
        assert said is not None, f"{name}: what was measured?"
        if "most" in row:
            assert row["most"] < row["missed_bound"] <= 1.25 * float(said[2] or said[1]), name
            continue
        busy = re.search(r"; ([\d.]+) where another program", row["missed"])
        low = float(busy[1] if busy else said[1])
        assert 0.75 * low <= row["missed_bound"] < row.get("floor", row.get("added")), name


@pytest.mark.parametrize(("value", "fails"), [(1.6, None), (1.2, "xfail"), (0.9, "fail")])
def test_a_known_miss_is_excused_down_to_its_bound(
    monkeypatch: pytest.MonkeyPatch, value: float, fails: str | None
) -> None:
    row = {"floor": 1.5, "missed": "1.1: a reason", "missed_bound": 1.0, "why": "measured 1.7"}
    monkeypatch.setitem(benchmark_rules.FLOORS, "x/y", row)
    outcomes = {"xfail": pytest.xfail.Exception, "fail": pytest.fail.Exception}

    def check() -> None:
        benchmark_rules.check_bound("x/y", value >= row["floor"], "said", excused=value >= row["missed_bound"])

    if fails is None:
        check()
        return
    with pytest.raises(outcomes[fails]) as caught:
        check()
    assert type(caught.value) is outcomes[fails]


def test_the_readme_shows_the_figures_of_the_record() -> None:
    record = json.loads(figures.RECORD.read_text(encoding="utf-8"))
    readme = figures.README.read_text(encoding="utf-8")
    assert record["rows"].keys() == figures.ROWS.keys() and figures.ROWS.keys() <= FLOORS.keys()
    assert figures.tables(record) in readme, "run `make figures`; its tables are not edited by hand"
    older = readme.replace(f"Measured on {record['date']}", "Measured on 1999-01-01")
    assert older != readme and figures.written(older, record) == readme


def test_figures_of_two_runs_are_not_mixed() -> None:
    with pytest.raises(SystemExit, match="not measured in the last run: call_soon/uvloop"):
        figures.taken({name: {} for name in figures.ROWS if name != "call_soon/uvloop"})


def test_figures_have_one_direction() -> None:
    """The plain ratio is kept for all, and beside it the added cost of rows that have it: both the peer's / ours."""
    plain = {"ratio": 2.0, "base_us": 3.0, "ours_us": 1.0, "bare_us": 0.0}
    measured = dict.fromkeys(figures.ROWS, plain) | {"tcp_echo_1k/uvloop": plain | {"ratio": 4.04, "bare_us": 0.5}}
    rows = figures.taken(measured)["rows"]
    assert rows["call_soon/uvloop"] == {"cpu": 2.0, "added": None}
    assert rows["tcp_echo_1k/uvloop"] == {"cpu": 3.0, "added": 4.0}


@needs_compiler
def test_bare_server_echoes():
    message = bytes(range(256)) * 4096
    with loop_servers.server(loop_servers.BARE, "protocol") as (_, port):
        socks = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
        for sock in socks:
            with sock:
                for at in range(0, len(message), 65_536):
                    sock.sendall(message[at:at + 65_536])
                    got = b""
                    while len(got) < 65_536:
                        got += sock.recv(65_536 - len(got))
                    assert got == message[at:at + 65_536]


@needs_compiler
@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_bare_server_answers_the_frames_that_ask(step):
    """However the bytes are cut: lengths and first bytes may arrive in pieces."""
    bodies = (b"\0" * 9, b"\1" * 5, b"\0", b"\1", b"\0\1" * 40, b"\1\0")
    frames = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    with (
        loop_servers.server(loop_servers.BARE, "frames_receive") as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=30) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(frames), step):
            sock.sendall(frames[at:at + step])
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(4096):
            got += piece
    assert got == bytes(4) * 3
