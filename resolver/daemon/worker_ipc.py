"""Between workers: the first one asks the others what it is asked, over pairs of datagram sockets made before the fork.

The supervisor has no loop and serves nobody, so the first worker is the one that people and monitoring talk to. Each
message is one datagram of JSON, so a worker that dies in the middle of a word leaves nothing half-said; numbers pair
questions with answers, and a worker that does not answer in time is reported as silent and costs nobody else anything.
The supervisor keeps all ends open: a restarted worker finds its pair again, and perhaps answers in it that its
predecessor waited for. So the numbers of each process begin at random.

One more pair leads from the supervisor to the first worker (`ReloadChannel`): numbers of reloads asked for go down, and
their results come up.
"""

import asyncio
import errno
import json
import logging
import os
import pickle
import secrets
import socket
from collections.abc import Callable
from typing import Any

from resolver import limits
from resolver.settings import Settings

__all__ = ["ReloadChannel", "WorkerChannels", "WorkerError"]

logger = logging.getLogger(__name__)

LARGEST = limits.LINK_MESSAGE
TIMEOUT = limits.LINK_TIMEOUT / 1000

Message = dict[str, Any]


class WorkerError(Exception):
    """Another worker did not answer, or could not do what it was asked."""


class WorkerChannels:
    """One pair of sockets for each worker but the first; made by the supervisor, used by both sides after the fork."""

    def __init__(self, workers: int) -> None:
        """Make the pairs.

        Raises:
            OSError: when descriptors run out.
        """
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        for number in range(1, workers):
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            near.setblocking(False)
            far.setblocking(False)
            self._pairs[number] = (near, far)
        self.reloads = ReloadChannel()
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._count = 0
        self._watched: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def others(self) -> list[int]:
        """Numbers of the workers that can be asked."""
        return list(self._pairs)

    # --- the first worker -----------------------------------------------------------------------------------------

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to take answers."""
        self._loop = loop
        self._count = secrets.randbits(62)  # every process, also one that takes the place of another, has its own
        for near, _ in self._pairs.values():
            loop.add_reader(near, self._on_answer, near)
            self._watched.append(near)

    async def ask(self, number: int, request: Message, timeout: float | None = None) -> Message:
        """What worker `number` says to `request`, within `timeout` seconds (`limits.LINK_TIMEOUT` when None).

        Raises:
            WorkerError: it is silent, or it reports that it could not.
        """
        assert self._loop is not None
        self._count += 1
        identity = self._count
        answer = self._waiting[identity] = self._loop.create_future()
        try:
            self._pairs[number][0].send(json.dumps([identity, request]).encode())
            async with asyncio.timeout(TIMEOUT if timeout is None else timeout):
                reply: Message = await answer
        except (OSError, TimeoutError):
            raise WorkerError(f"worker {number} does not answer") from None
        finally:
            del self._waiting[identity]
        if "error" in reply:
            raise WorkerError(f"worker {number}: {reply['error']}")
        return reply

    def _on_answer(self, near: socket.socket) -> None:
        for data in _received(near):
            identity, reply = json.loads(data)
            waiting = self._waiting.get(identity)
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)

    # --- the others -----------------------------------------------------------------------------------------------

    def serve(self, loop: asyncio.AbstractEventLoop, number: int, perform: Callable[[Message], Message]) -> None:
        """Answer what the first worker asks worker `number`, with what `perform` returns or raises as ValueError."""
        self._loop = loop
        far = self._pairs[number][1]
        loop.add_reader(far, self._on_request, far, perform)
        self._watched.append(far)

    @staticmethod
    def _on_request(far: socket.socket, perform: Callable[[Message], Message]) -> None:
        for data in _received(far):
            identity, request = json.loads(data)
            try:
                reply = perform(request)
            except ValueError as error:
                reply = {"error": str(error)}
            try:
                far.send(json.dumps([identity, reply]).encode())
            except OSError as error:
                logger.warning("worker channel: the first worker does not accept a reply: %s", error.strerror)

    # --- end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop listening in this process; the sockets stay."""
        for watched in self._watched:
            if self._loop is not None:
                self._loop.remove_reader(watched)
        self._watched.clear()

    def close(self) -> None:
        """Close all sockets."""
        self.stop()
        self.reloads.close()
        for near, far in self._pairs.values():
            near.close()
            far.close()


class ReloadChannel:
    """Between the supervisor, which is asked for reloads, and the first worker, which leads them.

    Requests are numbered by the supervisor. A result names the last request that had arrived before the configuration
    was read, and holds the new settings when they are in force: the file may have changed again since, so nobody else
    can find out what they are. The signals that go with both are sent by those who use this.
    """

    def __init__(self) -> None:
        """Make the pair.

        Raises:
            OSError: when descriptors run out.
        """
        self._upper, self._lower = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._upper.setblocking(False)
        self._lower.setblocking(False)

    def request(self, number: int) -> None:
        """In the supervisor: ask for a reload.

        Raises:
            OSError: the worker has not read what it was asked before.
        """
        self._upper.send(b"%d" % number)

    def last_request(self) -> int:
        """In the worker: the number of the last request since the call before, 0 when there was none."""
        number = 0
        while found := _received(self._lower):
            number = int(found[-1])
        return number

    def report(self, number: int, settings: Settings | None) -> None:
        """In the worker: request `number` is done; `settings` are in force now, or None when it stays as it was.

        Raises:
            OSError: no descriptor or memory for the settings, or the supervisor does not read.
        """
        if settings is None:
            self._lower.send(b"%d" % number)
            return
        with open(os.memfd_create("settings", os.MFD_CLOEXEC), "w+b") as file:
            file.write(pickle.dumps(settings))
            file.flush()
            socket.send_fds(self._lower, [b"%d" % number], [file.fileno()])

    def results(self) -> list[tuple[int, Settings | None]]:
        """In the supervisor: what has been reported since the call before, the oldest first.

        Raises:
            OSError: no descriptor for what was passed on.
        """
        found: list[tuple[int, Settings | None]] = []
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(self._upper, LARGEST, 1)
            except BlockingIOError:
                return found
            if flags & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            settings = None
            for descriptor in descriptors:
                with open(descriptor, "rb") as file:
                    file.seek(0)
                    settings = pickle.load(file)  # from a child that runs this very code, over a socket of ours
            found.append((int(data), settings))

    def close(self) -> None:
        """Close both ends."""
        self._upper.close()
        self._lower.close()


def _received(link: socket.socket) -> list[bytes]:
    """What has arrived, a bounded number of messages."""
    found: list[bytes] = []
    while len(found) < limits.LINK_BATCH:
        try:
            found.append(link.recv(LARGEST))
        except BlockingIOError:
            break
    return found
