"""The side doors of the daemon: control socket, metrics, and the links between workers, opened before anybody forks.

They are opened with the sockets that clients use, so what cannot be had is a clear message at the start, and a worker
that is restarted finds them as they were. The socket file belongs to its owner alone from the first moment; one that
a dead daemon left is removed, one that a living daemon serves is not.
"""

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from resolver import limits
from resolver.daemon.sockets import ListenError
from resolver.net.stream_listener import open_stream_socket
from resolver.options import parse_endpoint
from resolver.settings import Settings

if TYPE_CHECKING:
    from resolver.daemon.worker_ipc import WorkerChannels

__all__ = ["ManagementSockets", "open_management_sockets"]


class ManagementSockets:
    """What was opened; each part is None when the settings do not want it."""

    def __init__(self) -> None:
        self.control: socket.socket | None = None
        self.metrics: socket.socket | None = None
        self.links: WorkerChannels | None = None
        self.path = ""
        self.identity = (0, 0)

    def close(self) -> None:
        """Close everything; the socket file goes unless somebody else has put his own in its place."""
        if self.links is not None:
            self.links.close()
        for opened in (self.metrics, self.control):
            if opened is not None:
                opened.close()
        if self.path:
            with suppress(OSError):
                found = os.lstat(self.path)
                if (found.st_dev, found.st_ino) == self.identity:
                    os.unlink(self.path)


def open_management_sockets(settings: Settings, workers: int) -> ManagementSockets:
    """Open what `settings` want, and links when there are several workers.

    Raises:
        ListenError: saying what cannot be had, why, and how to go on; nothing stays open then.
        OSError: descriptors run out.
    """
    doors = ManagementSockets()
    try:
        if settings.control.socket:
            _open_control(doors, settings.control.socket)
        if settings.metrics.listen:
            address, port = parse_endpoint(settings.metrics.listen, limits.METRICS_PORT, "metrics.listen")
            try:
                doors.metrics = open_stream_socket(address, port)
            except OSError as error:
                text = f"cannot listen on {address} port {port} for metrics: {error.strerror}; see metrics.listen"
                raise ListenError(error.errno, text) from None
        if workers > 1:
            from resolver.daemon.worker_ipc import WorkerChannels

            doors.links = WorkerChannels(workers)
    except BaseException:
        doors.close()
        raise
    return doors


def _open_control(doors: ManagementSockets, path: str) -> None:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        _remove_dead(path)
        before = os.umask(0o177)  # nobody may connect before the mode is right, not even for a moment
        try:
            opened.bind(path)
        finally:
            os.umask(before)
        found = os.lstat(path)
        opened.listen(limits.CONTROL_CONNECTIONS)
    except OSError as error:
        opened.close()
        text = "the path is too long" if error.errno is None else error.strerror
        raise ListenError(
            error.errno or errno.ENAMETOOLONG, f"cannot make the control socket {path!r}: {text}; see control.socket"
        ) from None
    doors.control, doors.path, doors.identity = opened, path, (found.st_dev, found.st_ino)


def _remove_dead(path: str) -> None:
    """Remove a socket file that nobody serves any more.

    Raises:
        OSError: somebody serves it, or it is something else.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is something else of that name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its queue is full, so somebody lives
    raise OSError(errno.EADDRINUSE, "another daemon serves it")
