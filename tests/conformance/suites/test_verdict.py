"""The verdict on other projects' suites: each way in which a test can end otherwise is seen, and none is hidden."""

from pathlib import Path

import pytest
from conformance.suites import run
from conformance.suites.run import FAILED, PASSED, SKIPPED, Case, Run

SUITE = run.Suite("some", "1", (), "", known={"test_known": "does not matter"})


def outcome(**cases: str) -> Run:
    return Run({f"tests/file.py::{test}": Case(ended, "why") for test, ended in cases.items()}, 1, 0.0)


def only(said: dict[str, str]) -> dict[str, str]:
    return {test.removeprefix("tests/file.py::"): how for test, how in said.items()}


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        (PASSED, PASSED, None),
        (SKIPPED, SKIPPED, None),
        (FAILED, FAILED, None),
        (FAILED, PASSED, None),
        (PASSED, FAILED, "failed on ours, passed on asyncio: why"),
        (PASSED, SKIPPED, "skipped on ours, passed on asyncio: why"),
        (SKIPPED, PASSED, "passed on ours, skipped on asyncio: why"),
        (SKIPPED, FAILED, "failed on ours, skipped on asyncio: why"),
        (PASSED, None, "not collected on ours, passed on asyncio"),
        (FAILED, None, "not collected on ours, failed on asyncio"),
        (None, PASSED, "not collected on asyncio"),
    ],
)
def test_what_differs(there: str | None, here: str | None, said: str | None) -> None:
    runs = [outcome(other=PASSED, **({} if ended is None else {"test": ended})) for ended in (there, here)]
    assert only(run.differences(*runs)) == ({} if said is None else {"test": said})


def verdict(first: tuple[Run, Run], second: tuple[Run, Run]) -> tuple[run.Verdict, tuple[str, ...]]:
    """Of two runs on both loops; and what the second one ran."""
    asked: list[tuple[str, ...]] = []

    def again(loop: str, tests: tuple[str, ...]) -> Run:
        asked.append(tests)
        return second[run.LOOPS.index(loop)]

    found = run.settle(SUITE, run.differences(*first), again)
    assert len(set(asked)) <= 1
    return found, asked[0] if asked else ()


@pytest.mark.parametrize("bad", [FAILED, SKIPPED])
def test_what_differs_again_is_wrong(bad: str) -> None:
    runs = (outcome(test=PASSED), outcome(test=bad))
    found, asked = verdict(runs, runs)
    assert list(only(found.wrong)) == ["test"] and not found.passing and asked == ("tests/file.py::test",)


@pytest.mark.parametrize("standard", [PASSED, FAILED])
def test_what_differs_once_is_reported(standard: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = verdict((outcome(test=PASSED), outcome(test=FAILED)), (outcome(test=standard), outcome(test=standard)))
    assert list(only(found.passing)) == ["test"] and not found.wrong
    assert "WHEN RUN AGAIN: tests/file.py::test: failed on ours" in capsys.readouterr().out


def test_a_test_that_is_not_collected_is_looked_for_in_its_file() -> None:
    runs = (outcome(test=PASSED, other=PASSED), outcome(other=PASSED))
    found, asked = verdict(runs, runs)
    assert list(only(found.wrong)) == ["test"] and asked == ("tests/file.py",)
    found, _ = verdict(runs, (runs[0], runs[0]))
    assert list(only(found.passing)) == ["test"]


def test_a_test_that_is_nowhere_in_the_second_run_is_wrong() -> None:
    found, _ = verdict((outcome(test=PASSED), outcome(test=FAILED)), (outcome(), outcome()))
    assert list(only(found.wrong)) == ["test"]


def test_what_is_known_is_said_and_not_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    found, asked = verdict((outcome(test_known=PASSED), outcome(test_known=FAILED)), (outcome(), outcome()))
    assert not found.wrong and not found.passing and not asked
    assert "known: tests/file.py::test_known" in capsys.readouterr().out


def test_reports_are_read(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase file="tests/a.py" classname="tests.a" name="one"/>
        <testcase file="tests/a.py" classname="tests.a.Case" name="two"><failure message="first&#10;second"/></testcase>
        <testcase file="tests/a.py" classname="tests.a" name="three"><skipped message="no"/></testcase>
        <testcase file="tests/a.py" classname="tests.a" name="four"/>
        <testcase file="tests/a.py" classname="tests.a" name="four"><error message="clean-up"/></testcase>
        </testsuite></testsuites>"""
    )
    assert run.read(report) == {
        "tests/a.py::one": Case(PASSED),
        "tests/a.py::Case::two": Case(FAILED, "first"),
        "tests/a.py::three": Case(SKIPPED, "no"),
        "tests/a.py::four": Case(FAILED, "clean-up"),
    }
