"""Log lines: one event is one line, and nothing that came from outside can look like another key or line."""

import io
import logging
import sys

import pytest

from resolver import limits
from resolver.daemon import log
from resolver.settings import LogSettings


@pytest.fixture
def written():
    """What the root logger writes after `set_up`; the handlers of the test run come back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()

    def start(settings):
        log.set_up(settings, stream)
        return stream

    yield start
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line(written):
    stream = written(LogSettings())
    logging.getLogger("resolver.net.service").warning("SERVFAIL for %s", "a.example.")
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert " level=warning " in line and ' from=net.service message="SERVFAIL for a.example."' in line
    assert line.startswith("time=20") and line.split()[0].endswith("Z")


def test_nothing_breaks_out_of_its_value(written):
    stream = written(LogSettings())
    logging.getLogger("resolver").warning('a\nlevel=error message="b" \x1b[31m \u202e')
    assert stream.getvalue().count("\n") == 1
    assert "\\n" in stream.getvalue() and '\\"b\\"' in stream.getvalue()
    assert "\x1b" not in stream.getvalue() and "\u202e" not in stream.getvalue()


def test_a_traceback_stays_on_the_line(written):
    stream = written(LogSettings())
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("resolver").error("fault", exc_info=sys.exc_info())
    assert stream.getvalue().count("\n") == 1
    assert 'traceback="Traceback' in stream.getvalue() and "RuntimeError: broken" in stream.getvalue()


class Clock:
    """A clock that a test turns by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text="full", name="asyncio", level=logging.WARNING):
    return logging.LogRecord(name, level, __file__, 1, text, (), None)


def test_repetitions_are_left_out_and_counted():
    clock = Clock()
    gate = log.Repetitions(10.0, clock)
    assert gate.filter(record())
    assert not gate.filter(record()) and not gate.filter(record())
    assert gate.filter(record("other")) and gate.filter(record(name="resolver.net"))
    clock.now = 10.0
    again = record()
    assert gate.filter(again)
    assert again.getMessage() == "full (and 2 times since the last such line)"
    assert not gate.filter(record())


def test_what_somebody_waits_for_is_never_left_out():
    gate = log.Repetitions(10.0, Clock())
    assert all(gate.filter(record(name="resolver.daemon.worker")) for _ in range(2))
    assert all(gate.filter(record(level=logging.INFO)) for _ in range(2))
    assert all(log.Repetitions(0.0, Clock()).filter(record()) for _ in range(2))


def test_memory_for_repetitions_is_bounded():
    gate = log.Repetitions(10.0, Clock())
    for number in range(limits.LOG_MEMORY.default + 1):
        assert gate.filter(record(str(number)))
    assert gate.filter(record("0")), "forgotten with the rest"


def test_the_level_is_kept_and_may_change(written):
    stream = written(LogSettings(level="warning"))
    logging.getLogger("resolver").info("unheard")
    assert stream.getvalue() == ""
    written(LogSettings(level="debug"))
    logging.getLogger("resolver").debug("heard")
    assert stream.getvalue().count("heard") == 1
