"""Communication with a service manager: the protocols of systemd's sd_notify and socket activation.

The manager passes all of it by environment variables. `take` reads and removes them, so that no child process takes
them for its own. Notifications are datagrams of ``KEY=value`` lines to the socket that ``NOTIFY_SOCKET`` names
(sd_notify(3)). Inherited sockets have the descriptors from 3 on; ``LISTEN_FDS`` is their number, ``LISTEN_PID`` the
process that they are for (sd_listen_fds(3)). ``WATCHDOG_USEC`` is how long the manager waits for a heartbeat before
it kills the daemon (sd_watchdog_enabled(3)).

A notification that cannot be sent is not an error of the service: it is logged, and the manager applies its time-outs.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Self

from resolver import limits
from resolver.log_limit import LimitedWarning

__all__ = ["ServiceManager"]

logger = logging.getLogger(__name__)

FIRST_DESCRIPTOR = 3
"""The descriptor of the first inherited socket (SD_LISTEN_FDS_START)."""
LONGEST_NUMBER = 19
"""Digits of the largest number that a service manager passes (64 bits, the largest of which stands for no limit)."""
LEAST, MOST = limits.WATCHDOG_LEAST * 1000, limits.WATCHDOG_MOST * 1000
"""Microseconds of the watchdog."""
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


class ServiceManager:
    """The manager that has started this process; every method does nothing when there is none.

    `watchdog` is the longest time between two heartbeats in seconds, 0 without a watchdog; `sockets` are the
    inherited ones; the caller that removes one owns it.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0, inherited: list[socket.socket] | None = None) -> None:
        self._failures = LimitedWarning(logger, different=limits.LOG_FAILURES)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog if address else 0.0
        self.sockets = inherited or []

    @classmethod
    def take(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """Read and remove the variables of `environ`.

        Raises:
            ValueError: a variable that is for this process is malformed, or an inherited descriptor is no socket.
        """
        found = {name: environ.pop(name, "") for name in _VARIABLES}
        own = str(os.getpid())
        watchdog = 0.0
        # Without WATCHDOG_PID the watchdog is for every process; LISTEN_FDS is only for the one that LISTEN_PID names.
        if found["WATCHDOG_USEC"] and found["WATCHDOG_PID"] in ("", own):
            microseconds = _number(found, "WATCHDOG_USEC")
            if microseconds and not LEAST <= microseconds <= MOST:
                raise ValueError(
                    f"environment variable WATCHDOG_USEC: {microseconds} is outside {LEAST}..{MOST} microseconds; under"
                    " systemd: WatchdogSec= in the unit"
                )
            watchdog = microseconds / 1e6
        inherited: list[socket.socket] = []
        if found["LISTEN_FDS"] and found["LISTEN_PID"] == own:
            inherited = _adopt(_number(found, "LISTEN_FDS"))
        return cls(found["NOTIFY_SOCKET"], watchdog, inherited)

    def ready(self, status: str) -> None:
        """The service is up, or a reload has ended. `status` is shown by ``systemctl status``."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service begins to stop."""
        self._send("STOPPING=1", "STATUS=stopping")

    def main_process(self, pid: int) -> None:
        """From now on `pid` is the main process of the service, which alone may notify (NotifyAccess=main)."""
        self._send(f"MAINPID={pid}")

    def environment(self) -> dict[str, str]:
        """The variables with which another process of this service finds the manager. WATCHDOG_PID is left out: the
        watchdog is then for every process."""
        if not self._address:
            return {}
        found = {"NOTIFY_SOCKET": "@" + self._address[1:] if self._address.startswith("\0") else self._address}
        if self.watchdog:
            found["WATCHDOG_USEC"] = str(round(self.watchdog * 1e6))
        return found

    def alive(self) -> None:
        """Send a heartbeat to the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            self._failures.warn(
                "service manager: cannot send %s to NOTIFY_SOCKET: %s", lines[0], error.strerror or str(error)
            )


def _number(found: dict[str, str], name: str) -> int:
    text = found[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER):
        shown = text if len(text) <= LONGEST_NUMBER else f"{text[:LONGEST_NUMBER]}..."
        raise ValueError(
            f"environment variable {name}: {shown!r} is not a number of at most {LONGEST_NUMBER} digits; unset it"
            " unless a service manager has set it"
        )
    return int(text)


def _adopt(count: int) -> list[socket.socket]:
    """The inherited sockets, non-blocking and closed on exec.

    Raises:
        ValueError: there are more than can be, or a descriptor is not an open socket. None of them is closed then.
    """
    if count > limits.INHERITED_SOCKETS:
        raise ValueError(f"environment variable LISTEN_FDS: {count} is more than {limits.INHERITED_SOCKETS} sockets")
    found: list[socket.socket] = []
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + count):
        try:
            adopted = socket.socket(fileno=descriptor)
        except OSError as error:
            for one in found:
                one.detach()
            raise ValueError(
                f"environment variable LISTEN_FDS: descriptor {descriptor} is not a socket: {error.strerror}; unset"
                " LISTEN_FDS unless a service manager passes sockets"
            ) from None
        adopted.set_inheritable(False)
        adopted.setblocking(False)
        found.append(adopted)
    return found
