"""The nightly run: one target that fails or hangs does not stop the others, and the exit status says so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nightly import run

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
#: Replaces make: prints its arguments, then runs the Python code in the environment variable named as the target.
MAKE = [sys.executable, "-c", "import os, sys; print('made', *sys.argv[1:], flush=True); exec(os.environ[sys.argv[1]])"]


def environment(**targets: str) -> dict[str, str]:
    return {**os.environ, **targets}


def test_what_fails_stops_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    parts = [run.Part(target, 1) for target in ("first", "second", "third")]
    outcomes = run.night(parts, 1.0, environment(first="", second="sys.exit(2)", third=""), MAKE)
    assert [(outcome.target, outcome.said, outcome.passed) for outcome in outcomes] == [
        ("first", "passed", True), ("second", "exit status 2", False), ("third", "passed", True),
    ]
    assert re.findall("made (.*)", capfd.readouterr().out) == ["first", "second", "third"]


def test_what_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "KILL_SECONDS", 0.2)
    held = tmp_path / "held"
    os.mkfifo(held)
    # The child keeps the pipe open as long as it lives; both ignore SIGTERM.
    child = "import os, signal; held = open(os.environ['HELD'], 'w'); signal.pause()"
    hangs = (
        "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    )
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        given = environment(hangs=hangs, after="", HELD=str(held))
        outcomes = run.night([run.Part("hangs", 0), run.Part("after", 0)], 1.0, given, MAKE, least=2.0)
        assert [outcome.said for outcome in outcomes] == ["not done after 2 s", "passed"]
        # End of file: no process is left that could write.
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_a_variable_that_is_given_wins_over_the_scale(capfd: pytest.CaptureFixture[str]) -> None:
    part = run.Part("target", 1, {"LENGTH": run.count(1000, 5), "MORE": run.count(100)})
    run.night([part], 0.5, environment(target=""), MAKE)
    run.night([part], 0.0001, environment(target="", LENGTH="77"), MAKE)
    assert re.findall("made (.*)", capfd.readouterr().out) == ["target LENGTH=500 MORE=50", "target LENGTH=77 MORE=1"]


def test_a_night_is_whole() -> None:
    """The targets at full scale are those that the documents promise; each variable is read by its target."""
    whole = {part.target: dict(word.split("=", 1) for word in run.arguments(part, 1.0, {})) for part in run.PARTS}
    assert whole == {
        "properties": {"HYPOTHESIS_FACTOR": "20"},
        "fuzz": {"FUZZ_RUNS": "1000000"},
        "simulate": {"SEEDS": "1000000"},
        "simulate-holes": {"EVERY": "1"},
        "worlds": {"WORLDS": "100000"},
        "mutants": {"EVERY": "1"},
        "differential": {"NAMES": "10000"},
        "suites": {"SUITES": "", "FULL": "1"},
        "stress": {"CORENET_STRESS": "1"},
        "soak": {"SOAK_SECONDS": "1800"},
        "valgrind": {},
        "bench": {"BENCH": ""},
    }
    for target, variables in whole.items():
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
        assert recipe is not None, target
        for name in variables:
            assert f"$({name})" in recipe[1] or f"(or $({name})" in recipe[1] or f"if $({name})" in recipe[1], target


def commands() -> dict[str, set[str]]:
    """The scripts that the targets run with options, and all options that they may be given."""
    found: dict[str, set[str]] = {}
    for recipe in re.findall(r"^[\w-]+:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE):
        for command in recipe.replace("\\\n", " ").splitlines():
            words = re.search(r"\s\S*?((?:tests|docs|benchmarks)/\S+\.py)\s(.*)", command)
            if words is not None:
                found.setdefault(words[1], set()).update(re.findall(r"(?<![\w-])--[\w-]+", words[2]))
    return {script: options for script, options in found.items() if options}


@pytest.mark.parametrize("script", sorted(commands()))
def test_a_script_knows_the_options_that_its_target_gives_it(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert commands()[script] <= set(re.findall(r"--[\w-]+", done.stdout))


def test_the_command_says_what_it_does_not_know() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(run.__file__)), "fuzzz"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and "fuzzz" in done.stderr


def test_hypothesis_has_the_seed_that_it_is_told(tmp_path: Path) -> None:
    """With the factor of ``make properties``. Without it, as in CI, a seed changes nothing."""
    test = tmp_path / "test_told.py"
    test.write_text(
        "from hypothesis import given, strategies\n"
        "@given(strategies.integers(0, 1 << 64))\n"
        "def test_told(number):\n    print('drawn', number)\n"
    )

    def drawn(factor: str, seed: int) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"),
             "--rootdir", str(ROOT), "-p", "conftest", f"--hypothesis-seed={seed}", str(test)],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "CORENET_HYPOTHESIS_FACTOR": factor},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall("drawn (.*)", done.stdout)

    fixed, one = drawn("", 1), drawn("2", 1)
    assert len(fixed) == 100 and fixed == drawn("", 2)
    assert len(one) == 200 and one == drawn("2", 1) != drawn("2", 2)
