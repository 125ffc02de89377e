"""Log lines on standard error, one event a line, as key=value pairs that people read and machines split.

A supervisor (systemd, a container) keeps and rotates them, so there are no files, and no time zone but UTC. Values
are quoted when they hold anything but plain characters; what clients or servers sent can therefore never begin a new
line or a new key.
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
from resolver.settings import LogSettings

__all__ = ["DuplicateFilter", "KeyValueFormatter", "MemorySafeHandler", "MemorySafeRecord", "set_up", "write_oom_line"]

_BEGAN = time.time()
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+\[\]-]+")


def quoted(value: object) -> str:
    """Text of `value`, in quotes with escapes unless it is one plain word."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    import json

    return json.dumps(text, ensure_ascii=not text.isprintable())


class KeyValueFormatter(logging.Formatter):
    """``time=... level=... pid=... from=... message="..."``, then the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line for `record`."""
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
    """A record that is made without an ``except`` of its own, with the attributes that `logging` documents.

    Where memory is so short that not even a small integer can be made, CPython (3.11 to 3.13) never leaves a function
    that looks at what it caught behind its 256th instruction: noting the place takes an integer, that raises again, and
    the same place is looked at. The standard library's record does that with the name of a file.
    """

    def __init__(
        self, name: str, level: int, pathname: str, lineno: int, msg: object, args: Any, exc_info: Any,
        func: str | None = None, sinfo: str | None = None, **_kwargs: Any,
    ) -> None:
        self.name = name
        self.msg = msg
        # A mapping as the only argument is what the text's own names refer to.
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
    """Lets a warning through once an interval and tells later how many equal ones were left out.

    What the daemon itself says about starting and reloading is exempt: somebody waits for each of those lines.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval = interval
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is written."""
        if record.levelno < logging.WARNING or record.name.startswith("resolver.daemon") or not self._interval:
            return True
        now = self._clock()
        key = (record.name, record.getMessage())
        until, left_out = self._said.get(key, (float("-inf"), 0))
        if now < until:
            self._said[key] = (until, left_out + 1)
            return False
        if len(self._said) >= limits.LOG_MEMORY:
            self._said.clear()
        self._said[key] = (now + self._interval, 0)
        if left_out:
            record.msg, record.args = f"{key[1]} (repeated {left_out} times since the last line)", ()
        return True


class MemorySafeHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream; a line for which there is no memory is replaced by one that was made before.

    `logging` shows a failing handler as a traceback on standard error, each time, and lets what a filter raises go up
    to whoever had something to say. Under a memory limit that would be a flood from the one place that has to be calm.
    """

    OOM_LINE = b'level=warning from=daemon.log message="out of memory: log lines are lost"\n'

    def __init__(self, stream: TextIO, interval: float) -> None:
        super().__init__(stream)
        self._interval = interval
        self._next = float("-inf")
        self._timeless = False

    def record(self, *arguments: Any, **keywords: Any) -> MemorySafeRecord:
        """Make a record as `logging` asks for one; that there is no memory for it is said here."""
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
            self.write_oom_line()
            return False

    def handleError(self, record: logging.LogRecord) -> None:
        """What formatting or writing raised: shortage of memory in one line, anything else as `logging` shows it."""
        if isinstance(sys.exc_info()[1], MemoryError):
            self.write_oom_line()
        else:
            super().handleError(record)

    def write_oom_line(self) -> None:
        """Write the line that was made before, not more often than the interval permits."""
        try:
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + self._interval
            self._timeless = False
        except MemoryError:
            # Not even a number can be made, so nobody knows the time: once, until somebody does again.
            if self._timeless:
                return
            self._timeless = True
        try:
            os.write(self.stream.fileno(), self.OOM_LINE)
        except (AttributeError, OSError, ValueError):
            self._next = float("-inf")  # no stream (2>&-), a closed one, or nobody reads it: nobody is left to tell


# The root logger has it too, in a list; to go through a list takes memory.
_handler: MemorySafeHandler | None = None


def write_oom_line() -> None:
    """Say that lines are lost for want of memory, where `set_up` has sent the log; needs no memory itself."""
    if _handler is not None:
        _handler.write_oom_line()


def set_up(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send everything from `settings.level` on to `stream` (standard error). May be called again after a reload."""
    global _handler
    _handler = handler = MemorySafeHandler(stream or sys.stderr, settings.rate_limit_interval)
    handler.setFormatter(KeyValueFormatter())
    handler.addFilter(DuplicateFilter(settings.rate_limit_interval))
    logging.setLogRecordFactory(handler.record)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    if settings.level == "debug":
        logging.getLogger("asyncio").setLevel(logging.INFO)  # its own debug lines are about selectors
