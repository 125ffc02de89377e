"""Turns of client connections: how much they do before other work of the loop runs.

A connection works in turns, each bounded by `STREAM_TURN_MESSAGES`, `STREAM_TURN_OCTETS` and `STREAM_READ_CHUNK`. All
connections together have `STREAM_ITERATION_MESSAGES` and `STREAM_ITERATION_OCTETS`, and the last turn may exceed them.
When these are used up, and when a turn has left work, connections wait here. `call_soon` renews the budget, so sockets
are polled in between, and UDP is served however many connections have work. A worker has one `Turns` for all its
listeners, so their number does not change what connections may take of the loop.

Waiting connections get their turns network by network, and within a network in the order of arrival: a client with many
connections gets no more turns than one with a single connection.

Invariant: while a connection waits, or the budget is used up, a renewal is scheduled.
"""

import asyncio
from collections import OrderedDict
from typing import Protocol

from resolver import limits
from resolver.net.handshake_budget import HandshakeBudget

__all__ = ["Turns"]


class Worker(Protocol):
    """A connection."""

    network: str | bytes

    def turn(self) -> None:
        """Do the work of one turn: `Turns.spend` what was done, `Turns.add` for what is left."""


class Turns:
    """The budget of several listeners, and their connections that wait for their turn."""

    def __init__(self) -> None:
        self._messages = limits.STREAM_ITERATION_MESSAGES
        self._octets = limits.STREAM_ITERATION_OCTETS
        self._networks: OrderedDict[str | bytes, OrderedDict[Worker, None]] = OrderedDict()
        self._renewal: asyncio.Handle | None = None
        self.handshakes = HandshakeBudget()
        """What handshakes may take beside the turns."""

    def enter(self, worker: Worker) -> bool:
        """Whether `worker` may have a turn now. Else it has one later: `Worker.turn` is called."""
        if self._networks and self.waits(worker):
            return False
        if self._messages > 0 and self._octets > 0:
            return True
        self.add(worker)
        return False

    def waits(self, worker: Worker) -> bool:
        """Whether `worker` waits for its turn."""
        return worker in self._networks.get(worker.network, ())

    def add(self, worker: Worker) -> None:
        """Let `worker` have a turn after the others that wait."""
        self._networks.setdefault(worker.network, OrderedDict())[worker] = None
        self._arm()

    def remove(self, worker: Worker) -> None:
        """`worker` has ended."""
        workers = self._networks.get(worker.network)
        if workers is not None and worker in workers:
            del workers[worker]
            if not workers:
                del self._networks[worker.network]

    def spend(self, messages: int, octets: int) -> None:
        """A turn has processed `messages`; `octets` were read and written."""
        self._messages -= messages
        self._octets -= octets
        if self._messages <= 0 or self._octets <= 0:
            self._arm()

    def _arm(self) -> None:
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        """Give one turn to each waiting connection."""
        self._renewal = None
        self._messages, self._octets = limits.STREAM_ITERATION_MESSAGES, limits.STREAM_ITERATION_OCTETS
        count = sum(map(len, self._networks.values()))
        try:
            while count and self._networks and self._messages > 0 and self._octets > 0:
                count -= 1
                network, workers = self._networks.popitem(last=False)
                worker, _ = workers.popitem(last=False)
                if workers:
                    self._networks[network] = workers
                worker.turn()
        finally:
            if self._networks:
                self._arm()
