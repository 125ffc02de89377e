"""Between workers: the first one asks the others what it is asked, over pairs of datagram sockets made before the fork.

The supervisor has no loop and serves nobody, so the first worker is the one that people and monitoring talk to. Each
message is one datagram of JSON, so a worker that dies in the middle of a word leaves nothing half-said; numbers pair
questions with answers, and a worker that does not answer in time is reported as silent and costs nobody else anything.
The supervisor keeps all ends open: a restarted worker finds its pair again.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

from resolver import limits

__all__ = ["LinkError", "Links"]

logger = logging.getLogger(__name__)

LARGEST = limits.LINK_MESSAGE.default
PATIENCE = limits.LINK_TIMEOUT.default / 1000

Message = dict[str, Any]


class LinkError(Exception):
    """Another worker did not answer, or could not do what it was asked."""


class Links:
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
        for near, _ in self._pairs.values():
            loop.add_reader(near, self._on_answer, near)
            self._watched.append(near)

    async def ask(self, number: int, request: Message, patience: float | None = None) -> Message:
        """What worker `number` says to `request`, within `patience` seconds (`limits.LINK_TIMEOUT` when None).

        Raises:
            LinkError: it is silent, or it reports that it could not.
        """
        assert self._loop is not None
        self._count += 1
        identity = self._count
        answer = self._waiting[identity] = self._loop.create_future()
        try:
            self._pairs[number][0].send(json.dumps([identity, request]).encode())
            async with asyncio.timeout(PATIENCE if patience is None else patience):
                reply: Message = await answer
        except (OSError, TimeoutError):
            raise LinkError(f"worker {number} does not answer") from None
        finally:
            del self._waiting[identity]
        if "error" in reply:
            raise LinkError(f"worker {number}: {reply['error']}")
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
                logger.warning("the first worker does not take an answer: %s", error.strerror)

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
        for near, far in self._pairs.values():
            near.close()
            far.close()


def _received(link: socket.socket) -> list[bytes]:
    """What has arrived, a bounded number of messages."""
    found: list[bytes] = []
    while len(found) < limits.LINK_BATCH.default:
        try:
            found.append(link.recv(LARGEST))
        except BlockingIOError:
            break
    return found
