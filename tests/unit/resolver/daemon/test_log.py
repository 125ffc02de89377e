"""Log lines: each event is one line, and text from the network cannot start another key or line."""

import io
import logging
import subprocess
import sys

import pytest

from resolver import limits
from resolver.daemon import log
from resolver.settings import LogSettings


@pytest.fixture
def written():
    """What the root logger writes after `set_up`; the handlers of the test run come back afterwards."""
    root = logging.getLogger()
    handlers, level, factory = list(root.handlers), root.level, logging.getLogRecordFactory()
    stream = io.StringIO()

    def start(settings):
        log.set_up(settings, stream)
        return stream

    yield start
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.setLogRecordFactory(factory)


def test_the_format_of_a_line(written):
    stream = written(LogSettings())
    logging.getLogger("resolver.net.service").warning("SERVFAIL for %s", "a.example.")
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert " level=warning " in line and ' from=net.service message="SERVFAIL for a.example."' in line
    assert line.startswith("time=20") and line.split()[0].endswith("Z")


def test_values_are_quoted_and_escaped(written):
    stream = written(LogSettings())
    logging.getLogger("resolver").warning('a\nlevel=error message="b" \x1b[31m \u202e')
    assert stream.getvalue().count("\n") == 1
    assert "\\n" in stream.getvalue() and '\\"b\\"' in stream.getvalue()
    assert "\x1b" not in stream.getvalue() and "\u202e" not in stream.getvalue()


def test_a_traceback_is_part_of_its_line(written):
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


def test_repetitions_are_suppressed_and_counted():
    clock = Clock()
    gate = log.DuplicateFilter(10.0, clock)
    assert gate.filter(record())
    assert not gate.filter(record())
    other = record("other")
    assert gate.filter(other) and gate.filter(record(name="resolver.net"))
    assert other.getMessage() == "other (1 other warnings were left out before)"
    assert not gate.filter(record()) and not gate.filter(record("other"))
    clock.now = 10.0
    again = record()
    assert gate.filter(again)
    assert again.getMessage() == "full (2 other warnings were left out before)"
    assert not gate.filter(record())


def test_lines_of_the_daemon_are_never_suppressed():
    gate = log.DuplicateFilter(10.0, Clock())
    assert all(gate.filter(record(name="resolver.daemon.worker")) for _ in range(2))
    assert all(gate.filter(record(level=logging.INFO)) for _ in range(2))
    assert all(log.DuplicateFilter(0.0, Clock()).filter(record()) for _ in range(2))


def test_memory_for_repetitions_is_bounded():
    clock = Clock()
    gate = log.DuplicateFilter(10.0, clock)
    assert all(gate.filter(record(str(number))) for number in range(limits.LOG_MEMORY))
    assert not gate.filter(record("one too many"))
    clock.now = 10.0
    last = record("one too many")
    assert gate.filter(last)
    assert last.getMessage() == "one too many (1 other warnings were left out before)"


def test_the_level_is_kept_and_may_change(written):
    stream = written(LogSettings(level="warning"))
    logging.getLogger("resolver").info("unheard")
    assert stream.getvalue() == ""
    written(LogSettings(level="debug"))
    logging.getLogger("resolver").debug("heard")
    assert stream.getvalue().count("heard") == 1


# --- without memory ---------------------------------------------------------------------------------------------------


class Costly:
    """An object whose text cannot be made."""

    def __init__(self, error: type[Exception] = MemoryError) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


@pytest.mark.parametrize("filtered", [False, True])
def test_a_line_that_cannot_be_formatted_for_lack_of_memory_is_a_plain_one(tmp_path, filtered: bool) -> None:
    """Both in the filter, which runs outside of what `logging` guards, and in the formatter."""
    with (tmp_path / "log").open("w") as stream:
        handler = log.MemorySafeHandler(stream, 60.0)
        handler.setFormatter(log.KeyValueFormatter())
        if filtered:
            handler.addFilter(log.DuplicateFilter(60.0))
        for _ in range(100):
            handler.handle(logging.LogRecord("resolver.mesh", logging.WARNING, "", 0, "it says %s", (Costly(),), None))
    assert (tmp_path / "log").read_bytes() == log.MemorySafeHandler.OOM_LINE


def test_a_line_without_memory_and_without_a_stream_is_no_error(monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    handler = log.MemorySafeHandler(None, 60.0)
    handler.addFilter(log.DuplicateFilter(60.0))
    handler.handle(logging.LogRecord("resolver.mesh", logging.WARNING, "", 0, "it says %s", (Costly(),), None))


def test_other_errors_of_a_line_are_reported_by_logging(tmp_path, capsys) -> None:
    with (tmp_path / "log").open("w") as stream:
        handler = log.MemorySafeHandler(stream, 60.0)
        handler.handle(logging.LogRecord("a", logging.WARNING, "", 0, "it says %s", (Costly(KeyError),), None))
    assert not (tmp_path / "log").read_bytes()
    assert "KeyError" in capsys.readouterr().err


def test_a_record_has_what_the_standard_one_has():
    values = ("resolver.mesh", logging.WARNING, "/some/where/mesh.py", 7, "%(a)s", ({"a": "b"},), None, "tick")
    ours, theirs = log.MemorySafeRecord(*values), logging.LogRecord(*values)
    assert set(vars(theirs)) <= set(vars(ours))
    times = ("created", "msecs", "relativeCreated")
    for name in set(vars(theirs)) - {*times, "taskName"}:
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in times:
        assert isinstance(getattr(ours, name), float)
    assert ours.getMessage() == "b"


def test_a_record_without_memory_is_dropped():
    """Allocations fail one after the other from each of the first on; the standard record does not come back then."""
    code = """if True:
        import logging, _testcapi
        from resolver.daemon.log import MemorySafeRecord
        arguments = ("resolver.mesh", logging.WARNING, "/some/where/mesh.py", 70_000, "text", (), None, "tick")
        refused = 0
        MemorySafeRecord(*arguments)
        for spared in range(60):
            try:
                _testcapi.set_nomemory(spared, 0)
                MemorySafeRecord(*arguments)
            except MemoryError:
                refused += 1
            finally:
                _testcapi.remove_mem_hooks()
        print(refused)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) > 2


def test_a_line_without_memory_for_its_record_is_reported(tmp_path, monkeypatch):
    class Short(log.MemorySafeRecord):
        def __init__(self, *_arguments):
            raise MemoryError

    monkeypatch.setattr(log, "MemorySafeRecord", Short)
    with (tmp_path / "log").open("w") as stream:
        handler = log.MemorySafeHandler(stream, 60.0)
        for _ in range(2):
            with pytest.raises(MemoryError):
                handler.record("resolver.mesh", logging.WARNING, "", 0, "text", (), None)
    assert (tmp_path / "log").read_bytes() == log.MemorySafeHandler.OOM_LINE
