"""Verbs side by side: what fails stops its own stream, is named at the end, and makes the status 1."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
#: In the place of make: says what it was called with; what it does stands in a variable named as the target.
MAKE = [sys.executable, "-c", "import os, sys; print('made', sys.argv[1], flush=True); exec(os.environ[sys.argv[1]])"]

spec = importlib.util.spec_from_file_location("streams", ROOT / "tests" / "streams.py")
assert spec is not None
assert spec.loader is not None
streams = importlib.util.module_from_spec(spec)
spec.loader.exec_module(streams)


def play(monkeypatch: pytest.MonkeyPatch, given: list[str], **targets: str) -> int:
    for target, program in targets.items():
        monkeypatch.setenv(target, program)
    return int(streams.play([stream.split(",") for stream in given], MAKE))


def test_all_pass(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert play(monkeypatch, ["a,b", "c"], a="", b="", c="") == 0
    output = capfdbinary.readouterr().out.decode()
    assert [line for line in output.splitlines() if line.startswith("made")] == ["made a", "made b", "made c"]
    assert "failed" not in output


def test_a_failure_stops_its_stream_only(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    fails = "print('=== FAILURES ==='); print('why\\n' * 200); print('FAILED tests/x.py::test_y - E'); sys.exit(3)"
    assert play(monkeypatch, ["a,b", "c,d"], a="", b="", c=fails, d="") == 1
    output = capfdbinary.readouterr().out.decode()
    assert "made b" in output
    assert "made d" not in output
    _, _, end = output.partition("== failed: make c\n")
    # Short, and the names come last.
    assert len(end.splitlines()) <= streams.LINES + streams.NAMES
    assert end.splitlines()[0] == "=== FAILURES ==="
    assert end.splitlines()[-1] == "FAILED tests/x.py::test_y - E"


def test_what_is_told_is_what_the_failing_verb_said(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert play(monkeypatch, ["a,b"], a="print('ERROR of a test of ours')", b="print('x.c:1: error'); sys.exit(2)") == 1
    end = capfdbinary.readouterr().out.decode().partition("== failed: make b\n")[2]
    assert "x.c:1: error" in end
    assert "of a test of ours" not in end


def test_a_verb_that_cannot_be_started_is_no_success() -> None:
    with pytest.raises(OSError, match="Permission denied"):
        streams.play([["a"]], [os.devnull])
