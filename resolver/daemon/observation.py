"""The query log and dnstap of one configuration: their outputs, and the observer that records into them.

An output (buffer and thread) survives a reload as long as its settings are the same; the observer belongs to one
configuration. The file of the query log is opened before a configuration is used, so a file that cannot be opened is an
error of the configuration, and a reload keeps the old one.
"""

import secrets
import socket
import time
from typing import TYPE_CHECKING

from resolver import limits
from resolver.observe.observer import Observer
from resolver.observe.pieces import Pieces
from resolver.zones.table import Mode

if TYPE_CHECKING:
    from resolver.observe.collector import TapSender
    from resolver.observe.output import Output
    from resolver.observe.query_log import QueryLogWriter
    from resolver.settings import Settings
    from resolver.zones import ZoneTable

__all__ = ["Observation", "check", "check_places"]

NONE = "-"


def check(settings: "Settings") -> None:
    """Open the file of the query log once, and close it.

    Raises:
        ValueError: it cannot be opened.
    """
    if settings.query_log.file:
        import os

        from resolver.observe.query_log import open_log

        os.close(open_log(settings.query_log))


def check_places(settings: "Settings") -> None:
    """As `check`, without creating the file, which would belong to the wrong user.

    Raises:
        ValueError: it could not be opened.
    """
    import os

    from resolver.observe.query_log import unusable_kind
    from resolver.settings.observe import STDOUT

    file = settings.query_log.file
    if not file or file == STDOUT:
        return
    folder = os.path.dirname(file) or os.curdir
    trouble = ""
    if kind := unusable_kind(file):
        trouble = f"it is {kind}; name a file, or \"-\" for standard output"
    elif os.path.lexists(file):
        if not os.access(file, os.W_OK):
            trouble = f"user {os.geteuid()} may not write to it"
    elif not os.path.isdir(folder):
        trouble = f"there is no directory {folder!r}: create it"
    elif not os.access(folder, os.W_OK | os.X_OK):
        trouble = f"user {os.geteuid()} may not write to the directory {folder!r}"
    if trouble:
        raise ValueError(f"query_log.file: cannot open {file!r}: {trouble}")


class Observation:
    """What `settings` say of the query log and dnstap. `before` is that of the configuration in force, whose outputs
    are used again when theirs are the same; then the file of the query log is opened again."""

    def __init__(self, settings: "Settings", zones: "ZoneTable", before: "Observation | None" = None) -> None:
        """Open the file and start the threads that are needed.

        Raises:
            ValueError: the file of the query log cannot be opened.
            OSError: the system gives no thread.
        """
        self.log: QueryLogWriter | None = None
        self.tap: TapSender | None = None
        self.observer: Observer | None = None
        self._settings = settings
        if settings.query_log.file:
            self.log = self._log_of(before)
        try:
            if settings.dnstap.active:
                self.tap = self._tap_of(before)
        except BaseException:
            self.close(before)
            raise
        if self.log is None and self.tap is None:
            return
        dnstap = settings.dnstap

        def is_own(qname: bytes, qtype: int) -> bool:
            served = zones.closest(qname, qtype)
            return served is not None and served.mode is Mode.AUTHORITATIVE

        self.observer = Observer(
            log=None if self.log is None else self.log.pieces,
            tap=None if self.tap is None else self.tap.pieces,
            log_settings=settings.query_log,
            tap_settings=dnstap,
            views=[view.name for view in settings.view],
            is_own=is_own if zones else None,
            identity=b"" if dnstap.identity == NONE else (dnstap.identity or socket.gethostname()).encode(),
            version=dnstap.version.encode(),
            seed=secrets.randbits(64),
        )

    def _log_of(self, before: "Observation | None") -> "QueryLogWriter":
        from resolver.observe.query_log import QueryLogWriter

        wanted = self._settings.query_log
        found = None if before is None else before.log
        if found is not None and found.settings.output == wanted.output and found.alive:
            found.reopen()
            return found
        made = QueryLogWriter(wanted, Pieces(wanted.buffer))
        made.start()
        return made

    def _tap_of(self, before: "Observation | None") -> "TapSender":
        from resolver.observe.collector import TapSender

        wanted = self._settings.dnstap
        found = None if before is None else before.tap
        if found is not None and found.settings.output == wanted.output and found.alive:
            return found
        made = TapSender(wanted, Pieces(wanted.buffer))
        made.start()
        return made

    @property
    def outputs(self) -> "list[Output]":
        """Those that are in use."""
        return [output for output in (self.log, self.tap) if output is not None]

    def flush(self) -> None:
        """Let the outputs write what was recorded."""
        if self.observer is not None:
            self.observer.flush()
        for output in self.outputs:
            output.check_room(time.monotonic())

    def reopen(self) -> None:
        """Open the file of the query log again.

        Raises:
            ValueError: it cannot be opened; the old one stays in use.
        """
        if self.log is not None:
            self.log.reopen()

    def close(self, other: "Observation | None" = None) -> "list[Output]":
        """Stop the outputs that `other` does not use, and return them. Their threads write what is left, until their
        time is over, so their counters are not final yet."""
        self.flush()
        ended = [output for output in self.outputs if other is None or output not in other.outputs]
        for output in ended:
            output.stop(limits.OBSERVE_STOP / 1000)
        return ended
