"""Requests of the first worker to the others, over pairs of datagram sockets created before the fork.

The first worker serves the control socket, the metrics and the web page, because the supervisor has no event loop. Each
message is one datagram of JSON, so a worker that dies leaves no partial message; a reply that is too long for one is in
a file in memory, whose descriptor the datagram carries. An identifier matches replies to requests. A worker that does
not reply in time is reported and does not delay others. Steps of a reload take seconds when they load large lists; they
are coroutines, and other requests are replied to meanwhile. The supervisor keeps all ends open, so a restarted worker
inherits its pair, and with it replies to requests of its predecessor. Therefore the identifiers of each process start
at a random number.

Another pair connects the supervisor and the first worker (`ReloadChannel`): the supervisor sends numbers of requested
reloads, the worker sends results. A third (`UpgradeChannel`) carries requests for an upgrade up, and what has become of
upgrades down.
"""

import asyncio
import errno
import functools
import json
import logging
import os
import pickle
import secrets
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, BinaryIO

from resolver import limits
from resolver.log_limit import LimitedWarning
from resolver.settings import Settings

__all__ = ["NO_RELOAD", "RELOAD_BEGINS", "ReloadChannel", "UpgradeChannel", "WorkerChannels", "WorkerError"]

logger = logging.getLogger(__name__)

# Forged NOTIFY messages can cause events faster than the first worker reads them.
_lost_event = LimitedWarning(logger)

LONGEST_MESSAGE = limits.WORKER_MESSAGE
REPLY_TIMEOUT = limits.WORKER_REPLY_TIMEOUT / 1000

NO_RELOAD = -1
"""The number of a `ReloadChannel` result that belongs to no reload."""
RELOAD_BEGINS = -2
"""The number in a message, not a result, that says that a reload begins which the supervisor has not requested."""
REPLY_IN_FILE = b"-"
"""The datagram that comes with the file of a long reply."""

Message = dict[str, Any]
Perform = Callable[[Message], Message | Coroutine[Any, Any, Message]]


class WorkerError(Exception):
    """Another worker did not reply, or reported an error."""


class WorkerChannels:
    """One socket pair for each worker except the first, created before and used after the fork."""

    def __init__(self, workers: int) -> None:
        """Create the pairs.

        Raises:
            OSError: no descriptors are left.
        """
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        """By the number of the worker: the end of the first worker, and that of this one."""
        for number in range(1, workers):
            first_end, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            first_end.setblocking(False)
            other_end.setblocking(False)
            self._pairs[number] = (first_end, other_end)
        self.reloads = ReloadChannel()
        self.upgrades = UpgradeChannel()
        self._awaited: dict[int, asyncio.Future[Message]] = {}
        """The replies that are waited for, by the identifier of their request."""
        self._last_id = 0
        self._watched_ends: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reply_end: socket.socket | None = None
        """In a worker that is not the first: its end."""
        self._tasks: set[asyncio.Task[Message]] = set()
        self.on_event: Callable[[Message], None] = lambda event: None
        """In the first worker: called with what `send_to_first` of another worker sends."""

    @property
    def others(self) -> list[int]:
        """Numbers of the other workers."""
        return list(self._pairs)

    # --- the first worker -----------------------------------------------------------------------------------------

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to receive replies."""
        self._loop = loop
        self._last_id = 1 + secrets.randbits(62)  # 0 marks events; differs in each process, also after a restart
        for first_end, _ in self._pairs.values():
            loop.add_reader(first_end, self._on_reply, first_end)
            self._watched_ends.append(first_end)

    async def ask(
        self, number: int, request: Message, timeout: float | None = None, *, file: BinaryIO | None = None
    ) -> Message:
        """The reply of worker `number` to `request`, within `timeout` seconds (`limits.WORKER_REPLY_TIMEOUT` when
        None).

        The worker gets `file` as ``request["file"]``, opened, at the same position. What performs the request closes
        it; that of a coroutine is closed when its task ends. If the worker has no descriptor left, the request comes
        without.

        Raises:
            WorkerError: it does not reply, or reports an error.
        """
        assert self._loop is not None
        self._last_id += 1
        request_id = self._last_id
        future = self._awaited[request_id] = self._loop.create_future()
        try:
            first_end, data = self._pairs[number][0], json.dumps([request_id, request]).encode()
            if file is None:
                first_end.send(data)
            else:
                socket.send_fds(first_end, [data], [file.fileno()])
            async with asyncio.timeout(REPLY_TIMEOUT if timeout is None else timeout):
                reply: Message = await future
        except (TimeoutError, BlockingIOError):  # its queue is full
            raise WorkerError(f"worker {number} does not answer") from None
        except OSError as error:
            raise WorkerError(f"worker {number}: the request could not be sent: {error.strerror}") from None
        finally:
            del self._awaited[request_id]
        if "error" in reply:
            raise WorkerError(f"worker {number}: {reply['error']}")
        return reply

    def _on_reply(self, first_end: socket.socket) -> None:
        for data, file in _messages_with_files(first_end):
            if file is not None:
                with file:
                    data = file.read()
            elif data == REPLY_IN_FILE:
                logger.warning("worker channel: a long reply is lost, because no descriptor is left")
                continue
            request_id, reply = json.loads(data)
            if not request_id:
                self.on_event(reply)
                continue
            future = self._awaited.get(request_id)
            if future is not None and not future.done():
                future.set_result(reply)

    # --- the others -----------------------------------------------------------------------------------------------

    def serve(self, loop: asyncio.AbstractEventLoop, number: int, perform: Perform) -> None:
        """Reply to requests to worker `number` with the result of `perform`, or the text of its ValueError. A coroutine
        runs as a task until `stop`; other requests are replied to meanwhile."""
        self._loop = loop
        other_end = self._pairs[number][1]
        self._reply_end = other_end
        loop.add_reader(other_end, self._on_request, other_end, perform)
        self._watched_ends.append(other_end)

    def send_to_first(self, event: Message) -> None:
        """Send an event to the first worker, without a reply. It is lost when that worker does not read."""
        assert self._reply_end is not None
        try:
            self._reply_end.send(json.dumps([0, event]).encode())
        except OSError as error:
            _lost_event.warn("worker channel: an event for the first worker is lost: %s", error.strerror)

    def _on_request(self, other_end: socket.socket, perform: Perform) -> None:
        assert self._loop is not None
        for data, file in _messages_with_files(other_end):
            request_id, request = json.loads(data)
            if file is not None:
                request["file"] = file
            try:
                reply = perform(request)
            except ValueError as error:
                reply = {"error": str(error)}
            if isinstance(reply, Coroutine):
                task = self._loop.create_task(reply)
                self._tasks.add(task)
                task.add_done_callback(functools.partial(self._on_done, other_end, request_id, file))
            else:
                _reply(other_end, request_id, reply)

    def _on_done(
        self, other_end: socket.socket, request_id: int, file: BinaryIO | None, task: "asyncio.Task[Message]"
    ) -> None:
        self._tasks.discard(task)
        if file is not None:
            file.close()  # the task may have been cancelled before it began
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, ValueError):
            raise error
        _reply(other_end, request_id, task.result() if error is None else {"error": str(error)})

    # --- end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop receiving in this process, and cancel what runs for requests; the sockets stay open."""
        for end in self._watched_ends:
            if self._loop is not None:
                self._loop.remove_reader(end)
        self._watched_ends.clear()
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        """Close all sockets."""
        self.stop()
        self.reloads.close()
        self.upgrades.close()
        for first_end, other_end in self._pairs.values():
            first_end.close()
            other_end.close()


class _SupervisorChannel:
    """A pair of datagram sockets between the supervisor, which polls, and the first worker."""

    def __init__(self) -> None:
        """Create the pair.

        Raises:
            OSError: no descriptors are left.
        """
        self._supervisor_end, self._worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._supervisor_end.setblocking(False)
        self._worker_end.setblocking(False)

    def fileno(self) -> int:
        """In the supervisor: the descriptor that is readable when the worker has sent something."""
        return self._supervisor_end.fileno()

    def close(self) -> None:
        """Close both ends."""
        self._supervisor_end.close()
        self._worker_end.close()


class ReloadChannel(_SupervisorChannel):
    """Between the supervisor, which receives SIGHUP, and the first worker, which leads reloads.

    The supervisor numbers the requests. A result has the number of the last request that had arrived before the
    configuration was read: 0 without a request, NO_RELOAD when run-time changes alone were made. A reload without a
    request is announced by RELOAD_BEGINS, because the supervisor notifies the service manager. With a result come the
    new settings if they are in force: those of the configuration, and those with the run-time changes. They are sent
    because the files may have changed since. The supervisor polls for results; it sends SIGHUP after each request.
    """

    def request(self, number: int) -> None:
        """In the supervisor: request a reload.

        Raises:
            OSError: the queue is full because the worker does not read.
        """
        self._supervisor_end.send(b"%d" % number)

    def last_request(self) -> int:
        """In the worker: the number of the last request since the previous call; 0 if none."""
        number = 0
        while requests := _messages(self._worker_end):
            number = int(requests[-1])
        return number

    def report(self, number: int, settings: tuple[Settings, Settings] | None) -> None:
        """In the worker: report that request `number` is done; `settings` are those now in force, None if unchanged.

        Raises:
            OSError: no descriptor or memory for the settings, or the queue is full.
        """
        if settings is None:
            self._worker_end.send(b"%d" % number)
            return
        with open(os.memfd_create("settings", os.MFD_CLOEXEC), "w+b") as file:
            file.write(pickle.dumps(settings))
            file.flush()
            socket.send_fds(self._worker_end, [b"%d" % number], [file.fileno()])

    def results(self) -> list[tuple[int, tuple[Settings, Settings] | OSError | None]]:
        """In the supervisor: the results since the previous call, oldest first. OSError instead of the settings: no
        descriptor was left for them, and they are lost."""
        results: list[tuple[int, tuple[Settings, Settings] | OSError | None]] = []
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(self._supervisor_end, LONGEST_MESSAGE, 1)
            except BlockingIOError:
                return results
            settings: tuple[Settings, Settings] | OSError | None = None
            if flags & socket.MSG_CTRUNC:
                settings = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            for descriptor in descriptors:
                with open(descriptor, "rb") as file:
                    file.seek(0)
                    settings = pickle.load(file)  # trusted: from our own child over our own socket
            results.append((int(data), settings))


class UpgradeChannel(_SupervisorChannel):
    """Between the first worker, which serves the control socket, and the supervisor, which does upgrades.

    The worker sends a byte as a request. The supervisor sends a message when an upgrade begins and when it has ended or
    was refused; all requests until then have this result. The supervisor polls for requests.
    """

    def request(self) -> None:
        """In the worker: request an upgrade.

        Raises:
            OSError: the queue is full because the supervisor does not read.
        """
        self._worker_end.send(b"u")

    def reports_fileno(self) -> int:
        """In the worker: the descriptor that is readable when there are messages."""
        return self._worker_end.fileno()

    def reports(self) -> list[Message]:
        """In the worker: the messages since the previous call, oldest first."""
        return [json.loads(data) for data in _messages(self._worker_end)]

    def requested(self) -> bool:
        """In the supervisor: whether there were requests since the previous call."""
        return bool(_messages(self._supervisor_end))

    def report(self, message: Message) -> None:
        """In the supervisor: tell the worker. It is lost when that worker does not read."""
        try:
            self._supervisor_end.send(json.dumps(message).encode())
        except OSError as error:
            logger.warning("upgrade: the first worker does not accept a message: %s", error.strerror)


def _reply(other_end: socket.socket, request_id: int, reply: Message) -> None:
    """Send a reply; when that is impossible it is lost, and the first worker reports that this one does not answer."""
    try:
        _send_reply(other_end, json.dumps([request_id, reply]).encode())
    except OSError as error:
        logger.warning("worker channel: a reply to the first worker is lost: %s", error.strerror)


def _send_reply(other_end: socket.socket, data: bytes) -> None:
    """Send a reply to the first worker, in a file if it is long: states of thousands of targets are.

    Raises:
        OSError: there is no room, no memory or no descriptor for it.
    """
    if len(data) <= LONGEST_MESSAGE:
        other_end.send(data)
        return
    with open(os.memfd_create("reply", os.MFD_CLOEXEC), "w+b") as file:
        file.write(data)
        file.seek(0)
        socket.send_fds(other_end, [REPLY_IN_FILE], [file.fileno()])


def _messages_with_files(link: socket.socket) -> Iterator[tuple[bytes, BinaryIO | None]]:
    """The messages that have arrived, at most `limits.WORKER_MESSAGE_BATCH`, each with the file that came with it."""
    for _ in range(limits.WORKER_MESSAGE_BATCH):
        try:
            data, descriptors, _, _ = socket.recv_fds(link, LONGEST_MESSAGE, 1)
        except BlockingIOError:
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # older versions of Python ignore the flags of `recv_fds`
        yield data, open(descriptors[0], "rb") if descriptors else None


def _messages(link: socket.socket) -> list[bytes]:
    """The messages that have arrived on a link that carries no files, at most `limits.WORKER_MESSAGE_BATCH`."""
    return [data for data, _ in _messages_with_files(link)]
