"""A repeated warning is logged once per interval, with the number of suppressed ones."""

import logging

import pytest

from resolver.log_limit import LimitedWarning


def test_only_the_first_of_many_repetitions_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    complaint = LimitedWarning(logging.getLogger("test.complaint"), interval=1000)
    assert complaint.warn("no room for %s", "a")
    assert not any(complaint.warn("no room for %s", "b") for _ in range(500))
    assert [record.getMessage() for record in caplog.records] == ["no room for a"]


def test_the_next_interval_tells_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    complaint = LimitedWarning(logging.getLogger("test.complaint"), interval=10)
    for _ in range(4):
        complaint.warn("full")
    now = 111.0
    complaint.warn("full")
    assert [record.getMessage() for record in caplog.records] == ["full", "full (3 more since the last line)"]


def test_different_warnings_do_not_suppress_each_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    complaint = LimitedWarning(logging.getLogger("test.complaint"), interval=10, different=2)
    for what in "aabbcab":
        complaint.warn("%s fails", what)
    now = 111.0
    complaint.warn("%s fails", "c")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["a fails", "b fails (1 more since the last line)",
                    "c fails (4 more since the last line)"]


def test_lack_of_memory_to_remember_the_line_raises_nothing() -> None:
    class Full(dict):
        def __setitem__(self, _line: object, _value: None) -> None:
            raise MemoryError

    complaint = LimitedWarning(logging.getLogger("resolver.test.short"), 0.0)
    complaint._limit._admitted = Full()
    assert not complaint.warn("out of it")


def test_lack_of_memory_for_the_line_raises_nothing(caplog) -> None:
    class Short(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise MemoryError

    logger = logging.getLogger("resolver.test.short")
    complaint = LimitedWarning(logger, 0.0)
    short = Short()
    logger.addFilter(short)
    try:
        assert not complaint.warn("out of it")
    finally:
        logger.removeFilter(short)
    with caplog.at_level(logging.WARNING):
        assert complaint.warn("again")
    assert [record.getMessage() for record in caplog.records] == ["again (1 more since the last line)"]
