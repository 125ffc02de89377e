"""Sockets of control, metrics and web page, channels between workers, kept counters: made before workers are forked.

They are opened together with the sockets for clients, so an address that is not available is an error at start, and a
restarted worker inherits them. The socket file has mode 0600 from its creation. The file of a dead daemon is removed;
that of a running daemon is not.
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
    from resolver.daemon.predecessor import Predecessor
    from resolver.daemon.web_access import WebAccess
    from resolver.daemon.worker_ipc import WorkerChannels
    from resolver.observe.kept import KeptCounters

__all__ = ["ManagementSockets", "check_control", "open_management_sockets"]


class ManagementSockets:
    """What was opened; None for what is not configured. `kept` are the counters of several workers.

    `path` is the file of the control socket. `owns_path`: this process removes it at its end. One that is started by an
    upgrade owns it when the old one has confirmed (`resolver.daemon.predecessor`), and then the old one does not.
    """

    def __init__(self) -> None:
        self.control: socket.socket | None = None
        self.metrics: socket.socket | None = None
        self.web: socket.socket | None = None
        self.web_access: WebAccess | None = None
        """Who may read the web page, as read at the start of the daemon."""
        self.channels: WorkerChannels | None = None
        self.kept: KeptCounters | None = None
        self.metrics_listen = ""
        self.web_listen = ""
        self.path = ""
        self.identity = (0, 0)
        self.owns_path = True

    def give_to(self, user: int, group: int) -> None:
        """Make `user` and `group` own the socket file, so that the daemon can still be controlled as that user.

        Raises:
            OSError: the file cannot be changed.
        """
        if self.path:
            os.chown(self.path, user, group, follow_symlinks=False)

    def close(self) -> None:
        """Close all. Remove the socket file unless another process owns it or has replaced it."""
        if self.channels is not None:
            self.channels.close()
        for opened in (self.web, self.metrics, self.control):
            if opened is not None:
                opened.close()
        if self.path and self.owns_path:
            with suppress(OSError):
                found = os.lstat(self.path)
                if (found.st_dev, found.st_ino) == self.identity:
                    os.unlink(self.path)


def open_management_sockets(
    settings: Settings, workers: int, predecessor: "Predecessor | None" = None
) -> ManagementSockets:
    """Open the configured sockets, and channels when there are several workers. On error, nothing stays open.

    Sockets of `predecessor` that are still configured are taken from it.

    Raises:
        ValueError: the token file of the web page cannot be used.
        ListenError: an address or path is not available; the text says why and names the setting.
        OSError: no descriptors are left.
    """
    opened_sockets = ManagementSockets()
    try:
        if predecessor is not None:
            _adopt(opened_sockets, settings, predecessor)
        if settings.control.socket and opened_sockets.control is None:
            _open_control(opened_sockets, settings.control.socket)
        if settings.metrics.listen and opened_sockets.metrics is None:
            opened_sockets.metrics_listen = settings.metrics.listen
            opened_sockets.metrics = _open_http(settings.metrics.listen, limits.METRICS_PORT, "metrics")
        if settings.web.listen:
            from resolver.daemon.web_access import WebAccess

            opened_sockets.web_access = WebAccess.load(settings.web)
            if opened_sockets.web is None:
                opened_sockets.web_listen = settings.web.listen
                opened_sockets.web = _open_http(settings.web.listen, limits.WEB_PORT, "web")
        if workers > 1:
            from resolver.daemon.worker_ipc import WorkerChannels
            from resolver.observe.kept import KeptCounters

            opened_sockets.channels = WorkerChannels(workers)
            opened_sockets.kept = KeptCounters(workers)
    except BaseException:
        opened_sockets.close()
        raise
    return opened_sockets


def check_control(path: str) -> None:
    """Check that the control socket can be created at `path`, if it is configured. It may exist: `--check` is used
    while the daemon runs.

    Raises:
        ValueError: it cannot; the text names the setting and the reason.
    """
    if not path:
        return
    folder = os.path.dirname(path) or os.curdir
    trouble = ""
    if len(os.fsencode(path)) > limits.UNIX_PATH:
        trouble = f"the path is too long: Unix sockets have at most {limits.UNIX_PATH} octets"
    elif not os.path.isdir(folder):
        trouble = f"there is no directory {folder!r}: create it (under systemd: RuntimeDirectory=)"
    elif not os.access(folder, os.W_OK | os.X_OK):
        trouble = f"user {os.geteuid()} may not write to the directory {folder!r}"
    else:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                trouble = "the path exists and is not a socket"
    if trouble:
        raise ValueError(f"control.socket: cannot create {path!r}: {trouble}")


def _open_http(listen: str, default_port: int, section: str) -> socket.socket:
    """A listening socket at the address `listen` of `section`.

    Raises:
        ListenError: the address is not available.
    """
    address, port = parse_endpoint(listen, default_port, f"{section}.listen")
    try:
        return open_stream_socket(address, port)
    except OSError as error:
        text = f"cannot listen on {address} port {port} for {section}: {error.strerror}; see {section}.listen"
        raise ListenError(error.errno, text) from None


def _adopt(opened_sockets: ManagementSockets, settings: Settings, predecessor: "Predecessor") -> None:
    """Take the sockets of `predecessor` that are still configured, the control socket if its file is still there."""
    if predecessor.control is not None and predecessor.control[1] == settings.control.socket:
        opened, path, identity = predecessor.control
        with suppress(OSError):
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) == identity:
                opened_sockets.control, opened_sockets.path, opened_sockets.identity = opened, path, identity
                opened_sockets.owns_path = False
                predecessor.control = None
                predecessor.takes_control = True
    if predecessor.metrics is not None and predecessor.metrics[1] == settings.metrics.listen:
        opened_sockets.metrics, opened_sockets.metrics_listen = predecessor.metrics
        predecessor.metrics = None
    if predecessor.web is not None and predecessor.web[1] == settings.web.listen:
        opened_sockets.web, opened_sockets.web_listen = predecessor.web
        predecessor.web = None


def _open_control(opened_sockets: ManagementSockets, path: str) -> None:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        _remove_dead(path)
        before = os.umask(0o177)  # so that the file has mode 0600 from its creation
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
            error.errno or errno.ENAMETOOLONG, f"cannot create the control socket {path!r}: {text}; see control.socket"
        ) from None
    opened_sockets.control, opened_sockets.path, opened_sockets.identity = opened, path, (found.st_dev, found.st_ino)


def _remove_dead(path: str) -> None:
    """Remove the socket file of a dead daemon.

    Raises:
        OSError: a process serves it, or it is not a socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full, so a process has it open
    raise OSError(errno.EADDRINUSE, "another daemon uses it")
