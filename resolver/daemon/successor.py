"""The old side of an upgrade: starts the new process, passes it sockets and cache, and waits until it serves.

`Successor.advance` does a slice of the work and never blocks, so the caller serves clients and signals in between: the
single worker by its loop, the supervisor by its poll. The new process gets the same command line, the environment, and
one end of a pair of sockets (`resolver.daemon.handover`). It is in a process group of its own, so that it can be killed
together with its workers.

States: `outcome` is None while the new process starts; "" when it has said that it serves; else the reason of the
failure, and then no process of it is left. `confirm` makes it the main process, and the caller must then stop. A new
process is about to end (`ending`) when it has said why it cannot serve, has closed its end of the pair, does not take
the confirmation, or is stopped (`stop`, or the confirmation cannot be sent). It may have read queries, which it
completes meanwhile: its status is asked for until it has one, and after `limits.STOP_GRACE` it is killed.

`confirm` does three things in this order, and nothing of 2 and 3 when 1 fails:

1. "main" to the new process. The kernel refuses it when that process has withdrawn or ended: this one stays the main
   process, and the service manager was told nothing.
2. ``MAINPID=`` to the service manager. From then on it ignores what this process says (NotifyAccess=main), so this
   cannot be taken back.
3. The end of the channel. The new process notifies the manager when it sees that, so no notification comes before
   ``MAINPID=``.

If this process dies between 1 and 2, the new one sees the end of the channel, too, and keeps serving as the main
process. systemd has seen the end of the main process that it knows: it stops what is left of the unit with SIGTERM, so
the new process completes its queries, and starts the service again as ``Restart=`` says. Without a manager nothing is
lost. If the new process dies in between, the manager ignores a number without a process, this one ends, and the service
ends with it, as when a main process dies at any other time.

What the old process does with signals (`resolver.daemon.predecessor` has the table of the new one):

| state | SIGTERM, SIGINT | SIGHUP | SIGUSR1 | SIGUSR2 |
|---|---|---|---|---|
| no upgrade | stops | reloads | logs counters | begins an upgrade |
| upgrade begun | stops, and the new process (1) | waits (2) | logs counters | refused |
| "main" is sent | ends sooner (3) | passed on (4) | logs counters | refused |
| stopping | nothing more | nothing: it ends | logs counters | refused |

1. A signal that has come before "ready" was read is handled before it, so it cannot be confirmed that the new process
   serves while this one stops. Both complete the queries they have. This one ends last, or kills the new one.
2. The process that serves after the upgrade reloads. When the upgrade fails, that is this one, also for a SIGHUP that
   the new one has had and tells of (`reload_asked`). One that crashes or hangs cannot tell.
3. It is not passed on: the service manager knows the new process by then, and an operator who ends an old process that
   takes long must not end the service. A warning names the new process.
4. A line of the log names the new process.

All modules that an upgrade and the end of this process need are imported when the daemon starts: later the files on
disk may be those of the new version.
"""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from corenet._version import __version__
from corenet.serving.processes import describe_exit
from resolver import limits
from resolver.daemon import handover, preflight
from resolver.daemon.handover import HandoverError
from resolver.daemon.management_sockets import ManagementSockets
from resolver.daemon.service_manager import ServiceManager
from resolver.daemon.sockets import Endpoint
from resolver.daemon.upgrade_variable import UPGRADE_VARIABLE

__all__ = ["REPLACED", "STOPS", "Successor", "pass_on_reload"]

logger = logging.getLogger(__name__)

POLL = limits.UPGRADE_POLL / 1000
STOPS = "this process stops"
REPLACED = "%s: process %d serves in place of this one and is not stopped; this one ends the queries it has"
"""What the old process logs when a signal stops it after the confirmation."""


class Successor:
    """The new process. The caller calls `advance` when `fileno` is readable or the time it returned has passed."""

    def __init__(
        self,
        shares: Sequence[Sequence[Endpoint]],
        management: ManagementSockets | None,
        manager: ServiceManager,
        cache: Iterator[bytes] | None,
        deadline: float,
        serial: Callable[[], int],
    ) -> None:
        """Start it. `cache` yields the snapshot in pieces, before the first of which `serial` is called: it has another
        value after each flush of the cache by any process. `deadline` is the time.monotonic() of the failure.

        Raises:
            ValueError: it cannot be started; the text says why.
        """
        self.outcome: str | None = None
        self._management = management
        self._manager = manager
        self._cache = cache
        self._serial = serial
        self._copied = None if cache is None else serial()
        self._deadline = deadline
        self._messages = deque(_messages(shares, management))
        if cache is None:
            self._messages.append(("end", [], {}))
        self._file: BinaryIO | None = None
        self._takes_control = False
        self._ends_by: float | None = None
        self._why = ""
        self._stopping = False
        #: a SIGHUP has come to the new process, which cannot do it.
        self.reload_asked = False
        if os.getpid() == 1:
            text = "this process is PID 1 of its container; replace the container instead"
            raise ValueError(text)
        try:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self._channel.setblocking(False)
                self._process = self._start(theirs)
            except BaseException:
                self._channel.close()
                raise
            finally:
                theirs.close()
        except OSError as error:
            raise ValueError(f"the new process cannot be started: {preflight.explain(error)}") from None
        logger.info("upgrade: process %d is starting", self.pid)

    def _start(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, **self._manager.environment(), UPGRADE_VARIABLE: str(theirs.fileno())}
        # sys.executable, because a name without a directory would be looked up in a PATH that may have changed.
        command = [sys.executable or sys.orig_argv[0], *sys.orig_argv[1:]]
        # Their default action would end it before it has handlers. A process that is started inherits the mask, so they
        # are pending until the new process unblocks them, as after a usual start (`early_signals.hold_signals`).
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))
        try:
            return subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], process_group=0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    @property
    def pid(self) -> int:
        """The number of the new process."""
        return self._process.pid

    def fileno(self) -> int:
        """The descriptor that is readable when the new process has said something, or has ended."""
        return self._channel.fileno()

    @property
    def ending(self) -> bool:
        """Whether the new process is about to end. Then `fileno` may be readable for ever, and must not be watched."""
        return self._ends_by is not None

    def advance(self, now: float) -> float:
        """Do a slice of what is due, and return after how many seconds to call again; 0: there is more to do now."""
        if self._ends_by is None:
            self._listen(now)
        if self.outcome is not None:
            return 0.0
        if self._ends_by is not None:
            return self._look_for_end(now, self._ends_by)
        if now >= self._deadline:
            self._end(now, "it does not serve yet, and server.upgrade-timeout has passed")
            return POLL
        left = max(self._deadline - now, POLL)
        if self._messages:
            return self._send_next(left)
        if self._cache is not None:
            self._write_cache()
            return 0.0
        return left

    def _send_next(self, left: float) -> float:
        kind, descriptors, content = self._messages[0]
        try:
            handover.send(self._channel, kind, content, descriptors)
        except BlockingIOError:
            return min(POLL, left)
        except (BrokenPipeError, ConnectionResetError):
            return POLL  # `_listen` finds the end, and what it has said before
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:  # too many descriptors are on their way (unix(7))
                return min(POLL, left)
            self._fail(f"sockets cannot be passed on: {error.strerror or error}")
            return 0.0
        del self._messages[0]
        return 0.0 if self._messages or self._cache is not None else left

    def _write_cache(self) -> None:
        """Write one piece of the cache. Without memory, or while another process holds a lock, it is not passed on."""
        assert self._cache is not None
        try:
            if self._file is None:
                self._file = open(os.memfd_create("cache", os.MFD_CLOEXEC), "w+b")
            piece = next(self._cache, None)
            if piece is not None:
                self._file.write(piece)
                return
            self._file.flush()
            self._messages.append(("cache", [self._file.fileno()], {}))
        except (OSError, MemoryError) as error:
            logger.warning("upgrade: the new process starts with an empty cache: %s",
                           getattr(error, "strerror", None) or str(error) or "out of memory")
        self._cache = None
        self._messages.append(("end", [], {}))

    def _look_for_end(self, now: float, until: float) -> float:
        """Find out how the new process has ended."""
        code = self._process.poll()
        if code is None and now < until:
            return POLL
        while self._listen(now):
            pass  # it may have said since why it ends, and whether a reload was asked for
        if self.outcome is None:
            self._fail(self._why or ("it has closed its connection to this process" if code is None else
                                     f"it ended ({describe_exit(code)}) before it served; the log says why"))
        return 0.0

    def _expect_end(self, now: float, why: str = "") -> None:
        """The new process is about to end, because of `why`, or for a reason that it says or that its status shows.
        The first reason counts."""
        if self._ends_by is None:
            self._ends_by = now + limits.STOP_GRACE / 1000
        self._why = self._why or why

    def _end(self, now: float, why: str) -> None:
        """Let it complete the queries that it has read, and end. It may have no handlers yet, or hang."""
        self._expect_end(now, why)
        self._process.terminate()

    def _listen(self, now: float) -> bool:
        """Take one message of the new process; False when there is none now."""
        try:
            found = handover.receive(self._channel)
        except BlockingIOError:
            return False
        except (HandoverError, OSError) as error:
            self._fail(str(error))
            return False
        if found is None:
            self._expect_end(now)
            return False
        message, descriptors = found
        for descriptor in descriptors:
            os.close(descriptor)
        if message["kind"] == "ready":
            self._takes_control = message.get("control") is True
            if not self.ending:
                self.outcome = ""
        else:
            self.reload_asked = message.get("reload") is True
            self._expect_end(now, str(message.get("error", "it gives no reason"))[:limits.HANDOVER_TEXT])
        return True

    def _fail(self, why: str) -> None:
        """Kill it, because of `why`."""
        self.kill()
        if self._stopping:
            self.outcome = STOPS
            return
        self.outcome = f"the new process {self.pid} was refused: {why.rstrip('.')}; the old process keeps serving"
        logger.error("upgrade: %s", self.outcome)

    def confirm(self, now: float) -> bool:
        """When it has said that it serves: make the new process the main one. Afterwards this process must not use the
        service manager, nor remove the control socket. False when the new process does not get the confirmation: it
        ends, this one must keep serving, and `advance` finds the reason."""
        # A snapshot with flushed entries must not be used. Whatever flushes is no concern here: lists, zones, ends of
        # negative trust anchors, other resolvers.
        flushed = self._copied is not None and self._copied != self._serial()
        try:
            handover.send(self._channel, "main", {"flushed": flushed})
        except (BrokenPipeError, ConnectionResetError):
            self.outcome = None
            self._expect_end(now)
            return False
        except OSError as error:  # no memory: the new process serves, and has read queries
            self.outcome = None
            self._end(now, f"it cannot be made the main process: {error.strerror or error}")
            return False
        # Not before: the manager takes MAINPID= from the main process only, so this one could not take it back.
        self._manager.main_process(self.pid)
        # Not before either: the new process then notifies the manager, which would ignore that. `close` would not be
        # enough as long as a worker that was just forked has the descriptor, too.
        self._channel.shutdown(socket.SHUT_WR)
        if self._management is not None and self._takes_control:
            self._management.owns_path = False
        logger.info("upgrade: process %d serves; this one answers the queries it has, and ends", self.pid)
        return True

    def stop(self, now: float) -> None:
        """This process stops, so the new one must, too."""
        self._stopping, self.outcome = True, None
        self._end(now, STOPS)

    def kill(self) -> None:
        """Kill it and its workers, which must not serve for long without this process.

        Its end is not waited for, because freeing a large cache takes a while. Until `ended` has read its status, it is
        in the table of processes.
        """
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Whether it has ended. Its status is read then, which removes it from the table of processes (wait(2))."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Close its descriptors, also in a forked process: else the new process would not see the end of this one."""
        self._channel.close()
        if self._file is not None:
            self._file.close()


def pass_on_reload(pid: int) -> None:
    """Pass a SIGHUP on to process `pid`, which serves in place of this one and has the files of the configuration. It
    is a child of the main process, which never reads its status, so no other process gets its number."""
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        logger.warning("reload: SIGHUP cannot be passed on to process %d, which serves in place of this one: %s", pid,
                       error.strerror)
    else:
        logger.info("reload: SIGHUP is passed on to process %d, which serves in place of this one", pid)


def _messages(
    shares: Sequence[Sequence[Endpoint]], management: ManagementSockets | None
) -> Iterator[tuple[str, list[int], dict[str, Any]]]:
    """What to send before the cache: kind, descriptors and content."""
    yield "hello", [], {"format": handover.FORMAT, "version": __version__}
    for number, share in enumerate(shares):
        for one in share:
            given = [sock.fileno() for sock in (one.udp, one.tcp, *one.lanes) if sock is not None]
            yield "listener", given, {
                "share": number, "address": one.address, "port": one.port, "wanted": one.wanted,
                "protocol": one.protocol, "udp": one.udp is not None, "tcp": one.tcp is not None,
            }
    if management is not None and management.control is not None:
        yield "control", [management.control.fileno()], {
            "path": management.path, "identity": list(management.identity),
        }
    if management is not None and management.metrics is not None:
        yield "metrics", [management.metrics.fileno()], {"listen": management.metrics_listen}
    if management is not None and management.web is not None:
        yield "web", [management.web.fileno()], {"listen": management.web_listen}
