"""Log lines on standard error, one event a line, as key=value pairs that people read and machines split.

A supervisor (systemd, a container) keeps and rotates them, so there are no files, and no time zone but UTC. Values
are quoted when they hold anything but plain characters; what clients or servers sent can therefore never begin a new
line or a new key.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

from resolver import limits
from resolver.settings import LogSettings

__all__ = ["KeyValueFormatter", "Repetitions", "set_up"]

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+\[\]-]+")


def quoted(value: object) -> str:
    """Text of `value`, in quotes with escapes unless it is one plain word."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())


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


class Repetitions(logging.Filter):
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
        if len(self._said) >= limits.LOG_MEMORY.default:
            self._said.clear()
        self._said[key] = (now + self._interval, 0)
        if left_out:
            record.msg, record.args = f"{key[1]} (and {left_out} times since the last such line)", ()
        return True


def set_up(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send everything from `settings.level` on to `stream` (standard error). May be called again after a reload."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    handler.addFilter(Repetitions(settings.interval))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    if settings.level == "debug":
        logging.getLogger("asyncio").setLevel(logging.INFO)  # its own debug lines are about selectors
