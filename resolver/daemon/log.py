"""Log lines on standard error: one line for each event, as key=value pairs.

systemd or a container runtime stores and rotates them, so there are no log files. Times are UTC. A value is quoted
when it contains other than plain characters, so bytes from clients or servers cannot start a new line or key.
"""

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from resolver import limits
from resolver.daemon.log_output import LogOutput
from resolver.log_limit import LineLimit
from resolver.settings import LogSettings

__all__ = [
    "DuplicateFilter", "KeyValueFormatter", "MemorySafeHandler", "MemorySafeRecord", "describe_unexpected", "set_up",
    "write_oom_line",
]

_BEGAN = time.time()
LOST = (
    "%d log lines were lost, because the reader of standard error had stopped or was too slow: look at what reads it (a"
    " journal, a pipe, or a terminal that was stopped by Ctrl-S)"
)
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+\[\]-]+")


def quoted(value: object) -> str:
    """Text of `value`, quoted and escaped unless it has only plain characters."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    import json

    return json.dumps(text, ensure_ascii=not text.isprintable())


def describe_unexpected(error: Exception, doing: str = "") -> str:
    """What operators are shown of an exception that no code expects, raised while `doing` something."""
    return f"unexpected {type(error).__name__}{doing and f' while {doing}'}: {error}; this is a bug"


class KeyValueFormatter(logging.Formatter):
    """``time=... level=... pid=... from=... message="..."`` and ``traceback`` when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs = [
            ("time", f"{moment}.{int(record.msecs):03d}Z"),
            ("level", record.levelname.lower()),
            ("pid", os.getpid()),
            ("from", record.name.removeprefix("resolver.")),
            ("message", record.getMessage()),
        ]
        if record.exc_info:
            pairs.append(("traceback", self.formatException(record.exc_info)))
        return " ".join(f"{key}={quoted(value)}" for key, value in pairs)


class MemorySafeRecord(logging.LogRecord):
    """A record with the attributes that `logging` documents, created without an ``except`` clause.

    When not even an integer can be allocated, CPython (3.11 to 3.13) loops forever in an ``except`` clause beyond the
    256th instruction of a function: storing the instruction's position allocates an integer, which raises MemoryError,
    which the same clause handles. `logging.LogRecord` has such a clause.
    """

    def __init__(
        self, name: str, level: int, pathname: str, lineno: int, msg: object, args: Any, exc_info: Any,
        func: str | None = None, sinfo: str | None = None, **_kwargs: Any,
    ) -> None:
        self.name = name
        self.msg = msg
        # A mapping as the only argument is used for %(name)s formats.
        self.args = args[0] if args and len(args) == 1 and isinstance(args[0], Mapping) and args[0] else args
        self.levelname = logging.getLevelName(level)
        self.levelno = level
        self.pathname = pathname
        self.filename = pathname.rpartition("/")[2]
        self.module = self.filename.partition(".")[0]
        self.exc_info = exc_info
        self.exc_text = None
        self.stack_info = sinfo
        self.lineno = lineno
        self.funcName = func or ""
        self.created = time.time()
        self.msecs = self.created % 1 * 1000
        self.relativeCreated = (self.created - _BEGAN) * 1000
        self.process = os.getpid()
        self.processName = "MainProcess"
        self.thread = threading.get_ident()
        self.threadName = threading.current_thread().name
        self.taskName = None


class DuplicateFilter(logging.Filter):
    """Passes each different warning once per interval; the next line has the number of those left out.

    Lines of `resolver.daemon` about start and reload are exempt, because the operator waits for each of them.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limit = LineLimit(interval, limits.LOG_MEMORY)
        self._clock = clock

    @property
    def remembered(self) -> int:
        """Number of warnings that are remembered to suppress repetitions."""
        return self._limit.remembered

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is logged."""
        if record.levelno < logging.WARNING or record.name.startswith("resolver.daemon"):
            return True
        text = record.getMessage()
        left_out = self._limit.admit((record.name, text[: limits.LOG_COMPARED]), self._clock())
        if left_out:
            record.msg, record.args = f"{text} ({left_out} other warnings were left out before)", ()
        return left_out is not None


class MemorySafeHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream, or to `output`, which is of its descriptor and never waits. When memory is short, it
    writes a preallocated line instead, rate-limited.

    `logging` prints a traceback for each failure of a handler and raises errors of a filter in the calling code. Under
    a memory limit, that would flood the log and raise MemoryError in callers.
    """

    OOM_LINE = b'level=warning from=daemon.log message="out of memory: log lines are lost"\n'

    def __init__(self, stream: TextIO, interval: float, output: LogOutput | None = None) -> None:
        super().__init__(stream)
        self.output = output
        self._interval = interval
        self._next = float("-inf")
        self._timeless = False

    def record(self, *arguments: Any, **keywords: Any) -> MemorySafeRecord:
        """Record factory for `logging`. When memory is short, write the preallocated line and raise MemoryError."""
        try:
            return MemorySafeRecord(*arguments, **keywords)
        except MemoryError:
            self.write_oom_line()
            raise

    def handle(self, record: logging.LogRecord) -> Any:
        """Filter and write `record`."""
        try:
            return super().handle(record)
        except MemoryError:
            # The record is lost. A caller that logs must not fail because of it.
            self.write_oom_line()
            return False

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record`, and before it how many lines were lost."""
        output = self.output
        if output is None:
            super().emit(record)
            return
        try:
            if output.lost:
                if not output.write(self._line(self._lost_record(output.lost))):
                    return  # that is counted in the place of `record`
                output.lost = 0
            output.write(self._line(record))
        except Exception:  # noqa: BLE001 - as `logging.StreamHandler.emit`
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    @staticmethod
    def _lost_record(lost: int) -> logging.LogRecord:
        return logging.getLogger().makeRecord(__name__, logging.WARNING, __file__, 0, LOST, (lost,), None)

    def handleError(self, record: logging.LogRecord) -> None:
        """Handle an error of formatting or writing: MemoryError by the preallocated line, others as `logging`."""
        if isinstance(sys.exc_info()[1], MemoryError):
            self.write_oom_line()
        else:
            super().handleError(record)

    def write_oom_line(self) -> None:
        """Write the preallocated line, at most once per interval."""
        try:
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + self._interval
            self._timeless = False
        except MemoryError:
            # No integer can be allocated, so the time is unknown. Write once until it is known again.
            if self._timeless:
                return
            self._timeless = True
        try:
            os.write(self.stream.fileno() if self.output is None else self.output.descriptor, self.OOM_LINE)
        except (AttributeError, OSError, ValueError):
            self._next = float("-inf")  # no stream (2>&-), or it is closed


# Also in the list of the root logger, but iterating over that list allocates memory.
_handler: MemorySafeHandler | None = None
_filter: DuplicateFilter | None = None


def write_oom_line() -> None:
    """Write the preallocated line to the stream of `set_up`. It allocates no memory."""
    if _handler is not None:
        _handler.write_oom_line()


def remembered() -> int:
    """Number of warnings that the log remembers to suppress repetitions; at most `limits.LOG_MEMORY`."""
    return 0 if _filter is None else _filter.remembered


def set_up(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Log from `settings.level` up to `stream` (default: standard error). May be called again after a reload."""
    global _handler, _filter
    _filter = DuplicateFilter(settings.rate_limit_interval)
    wanted = stream or sys.stderr
    before = None if _handler is None else _handler.output
    if before is not None and _handler is not None and _handler.stream is wanted:
        output: LogOutput | None = before  # with what it has not written yet
    else:
        output = LogOutput.of(wanted)
        if before is not None:
            before.close()
    _handler = handler = MemorySafeHandler(wanted, settings.rate_limit_interval, output)
    handler.setFormatter(KeyValueFormatter())
    handler.addFilter(_filter)
    logging.setLogRecordFactory(handler.record)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    if settings.level == "debug":
        logging.getLogger("asyncio").setLevel(logging.INFO)  # its debug lines concern selectors only
