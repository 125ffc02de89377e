"""The new side of an upgrade: takes the sockets and the cache of the process that has started this one.

Until the old process has confirmed (`confirmed`), that is the main process of the service. Until then this one does not
use the service manager, does not serve the control socket or remove it, writes no state of trust anchors or run-time
changes, and ends when the old one or one of its own workers ends.

What the new process does with signals, and with the end of the old one (`resolver.daemon.successor` has the table of
the old one):

| state | SIGTERM, SIGINT | SIGHUP | SIGUSR1 | SIGUSR2 | end of the old process |
|---|---|---|---|---|---|
| no handlers yet | ends at once (1) | pending (2) | pending | pending | seen when it serves |
| it starts, has not said "ready" | withdraws, stops (3) | waits (2) | logs counters | refused | stops, status 1 (4) |
| has said "ready" | withdraws, stops (3) | waits (2) | logs counters | refused | stops, status 1 (4) |
| has read "main" | takes over, stops (5) | waits (2) | logs counters | refused | takes over (5) |
| has taken over | stops | reloads | logs counters | begins an upgrade | expected |
| stopping | nothing more | nothing: it ends | logs counters | refused | nothing more |

1. It has read no queries. The old process sees the end of the channel, and keeps serving.
2. Done when this is the main process. If it fails before, it tells the old process, which does it (`fail`).
3. `withdraw` decides which process serves, because the kernel orders it with "main". When "main" was sent before, this
   is the main process, which stops: it takes over first, so that it saves the cache and removes the control socket.
   Else the old process cannot confirm any more and keeps serving; this one completes the queries that it has read. A
   process that stops never says "ready".
4. The service manager does not know this process yet, and starts the service again. Queries that it has are completed.
   A single worker that is not ready yet sees it when it is.
5. The old process ends the channel when it has told the service manager the number of this one (`Successor.confirm`).
   This one takes over at that end, and not at "main", because the manager would ignore what it says before. The channel
   also ends when the old process dies in between: "main" was read, so this one serves. systemd then stops the unit, as
   the head of `successor` says. One that stops, or loses a worker, in these microseconds takes over at once, and what
   the manager ignores then are STOPPING=1, or READY=1 of a service that it knows as ready.

An exception that ends this process withdraws it, too, before anything is torn down: else the old process could confirm
one that does not serve any more, and would end as well. `fail` withdraws before it tells the reason.

All sockets of an address that is still configured are served, because the kernel keeps distributing clients over them:
each worker takes those of an old one, or of several when there are fewer workers now. When there are more, they share
sockets. So the number of sockets changes at a restart only. No worker serves a socket twice: what the old process has
sent is divided by sockets, not by descriptors.

The flag O_NONBLOCK belongs to the socket, not to its descriptor, so both processes have the same one, and a blocking
socket would stop the loop of either in accept4. `_adopt` makes all sockets that are received, and each has the timeout
0 of Python from then on: without it, `dup` would clear the flag.
"""

import logging
import os
import signal
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import BinaryIO, Self

from resolver import limits
from resolver.cache import Store
from resolver.daemon import cache_file, handover
from resolver.daemon.cache_file import CacheFileError
from resolver.daemon.handover import HandoverError, Message
from resolver.daemon.sockets import Endpoint, close_all
from resolver.daemon.upgrade_variable import UPGRADE_VARIABLE
from resolver.settings import LISTENER_TRANSPORTS, Settings

__all__ = ["Predecessor"]

logger = logging.getLogger(__name__)

Control = tuple[socket.socket, str, tuple[int, int]]


class Predecessor:
    """The process that has started this one for an upgrade. `shares` has the sockets of each of its workers."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.shares: list[list[Endpoint]] = []
        #: socket, path, and device and inode of the file.
        self.control: Control | None = None
        #: socket and setting.
        self.metrics: tuple[socket.socket, str] | None = None
        self.web: tuple[socket.socket, str] | None = None
        self._cache: BinaryIO | None = None
        self.takes_control = False
        #: whether the old process has flushed something that `load_cache` may have loaded; known with `confirmed`.
        self.flushed = False
        #: "main" was read.
        self._told_main = False
        self._reload_asked = False

    @classmethod
    def take(cls, environ: MutableMapping[str, str] = os.environ) -> Self | None:
        """Read and remove the variable of `environ`; None when this process is not started by an upgrade.

        Raises:
            HandoverError: the variable is malformed, or the descriptor is no socket of this protocol.
        """
        text = environ.pop(UPGRADE_VARIABLE, "")
        if not text:
            return None
        where = f"environment variable {UPGRADE_VARIABLE}: "
        # Longer numbers are no descriptors, and the system call would not take them.
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(limits.DESCRIPTORS))):
            raise HandoverError(f"{where}{text!r} is not the number of a descriptor; only an upgrade sets it")
        try:
            channel = socket.socket(fileno=int(text))
        except OSError as error:
            raise HandoverError(f"{where}descriptor {text} is not a socket: {error.strerror}") from None
        if channel.family != socket.AF_UNIX or channel.type != socket.SOCK_SEQPACKET:
            channel.detach()
            raise HandoverError(f"{where}descriptor {text} is not a socket of an upgrade")
        channel.set_inheritable(False)
        channel.setblocking(True)
        return cls(channel)

    def receive(self) -> None:
        """Receive all that the old process passes on. It ends this process when that takes too long.

        Raises:
            HandoverError: a message is malformed, or the old process has ended.
        """
        first = True
        while True:
            message, descriptors = self._next()
            sockets: list[socket.socket] = []
            try:
                kind = message["kind"]
                if first and (kind != "hello" or message.get("format") != handover.FORMAT):
                    raise HandoverError(
                        f"upgrade: the old process passes its sockets on in format {message.get('format')!r}, and this"
                        f" one knows format {handover.FORMAT} only: stop the old one and start this one"
                    )
                first = False
                if kind == "end":
                    return
                if kind == "cache" and descriptors:
                    self._cache = open(descriptors.pop(0), "rb")
                    continue
                while descriptors:
                    sockets.append(_adopt(descriptors[0]))
                    del descriptors[0]
                self._take_message(kind, message, sockets)
            except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
                if isinstance(error, HandoverError):
                    raise
                raise HandoverError(f"upgrade: the old process has sent a malformed message: {error!r}") from None
            finally:
                for one in sockets:
                    one.close()
                for descriptor in descriptors:
                    os.close(descriptor)

    def _next(self) -> tuple[Message, list[int]]:
        found = handover.receive(self._channel)
        if found is None:
            raise HandoverError("upgrade: the old process has ended")
        return found

    def _take_message(self, kind: str, message: Message, sockets: list[socket.socket]) -> None:
        """Take the sockets of one message out of `sockets`. On an error they are all left there."""
        if kind == "control":
            device, inode = message["identity"]
            self.control = (sockets.pop(0), str(message["path"]), (int(device), int(inode)))
        elif kind == "metrics":
            self.metrics = (sockets.pop(0), str(message["listen"]))
        elif kind == "web":
            self.web = (sockets.pop(0), str(message["listen"]))
        elif kind == "listener":
            share, protocol = int(message["share"]), str(message["protocol"])
            if not 0 <= share < limits.WORKERS.maximum or protocol not in LISTENER_TRANSPORTS:
                raise ValueError(f"worker {share}, protocol {protocol}")
            if sum(len(one) for one in self.shares) >= limits.HANDOVER_ENDPOINTS:
                raise ValueError("too many addresses")
            has_udp, has_tcp = message["udp"] is True, message["tcp"] is True
            endpoint = Endpoint(
                str(message["address"]), int(message["port"]), int(message["wanted"]),
                sockets[0] if has_udp else None, sockets[has_udp] if has_tcp else None, protocol,
                tuple(sockets[has_udp + has_tcp:]),
            )
            sockets.clear()
            while len(self.shares) <= share:
                self.shares.append([])
            self.shares[share].append(endpoint)

    def endpoints(self, wanted: Iterable[tuple[str, int, str]], shares: int) -> list[list[Endpoint]]:
        """The endpoints of `wanted` (address, port, protocol) for each of `shares` workers, which the caller owns. The
        others are closed here; the old process reads what is left in them.

        Raises:
            OSError: no descriptors are left.
        """
        found: list[list[Endpoint]] = [[] for _ in range(shares)]
        try:
            for key in dict.fromkeys(wanted):
                own = self._take_distinct(key)
                for number, endpoint in enumerate(own):
                    found[number % shares].append(endpoint)
                for number in range(len(own), shares if own else 0):
                    found[number].append(own[number % len(own)].duplicate())
        except BaseException:
            close_all(found)
            raise
        finally:
            close_all(self.shares)
            self.shares.clear()
        return found

    def _take_distinct(self, key: tuple[str, int, str]) -> list[Endpoint]:
        """The endpoints of one address, each socket once; others stay in `shares`. Workers of the old process may share
        sockets: counted twice, they would be served twice, and be twice as many after each change of the workers."""
        distinct: dict[tuple[bytes, ...], Endpoint] = {}
        for share in self.shares:
            for endpoint in list(share):
                if endpoint.key == key and endpoint.identity not in distinct:
                    share.remove(endpoint)
                    distinct[endpoint.identity] = endpoint
        return list(distinct.values())

    def load_cache(self, store: Store, settings: Settings) -> None:
        """Load the cache of the old process, if it has passed it on. Errors are logged."""
        if self._cache is None:
            return
        with self._cache as file:
            self._cache = None
            try:
                loaded = cache_file.restore_from(file, "the cache of the old process", store, settings)
            except CacheFileError as error:
                logger.warning("cache: %s; starting with an empty cache", error)
                return
        logger.info("cache: took %d entries over from the old process", loaded.entries)

    def fileno(self) -> int:
        """The descriptor that is readable when `confirmed` is to be called."""
        return self._channel.fileno()

    def ready(self) -> None:
        """Tell the old process that clients are served."""
        self._send("ready", {"control": self.takes_control})

    def fail(self, why: str, *, reload: bool = False) -> bool:
        """This process ends because of `why`: withdraw, and tell the old process the reason. False when this is the
        main process already. `reload`: a SIGHUP has come to this one. One that is pending, because there is no handler
        yet, counts; all threads block it until then, else it would end this process (`early_signals`)."""
        if not self.withdraw(reload=reload):
            return False
        reload = self._reload_asked or signal.SIGHUP in signal.sigpending()
        self._send("failed", {"error": why[:limits.HANDOVER_TEXT], "reload": reload})
        return True

    def _send(self, kind: str, content: Mapping[str, object]) -> None:
        with suppress(OSError):  # it has ended, which `confirmed` finds
            handover.send(self._channel, kind, content)

    def confirmed(self) -> bool | None:
        """When `fileno` is readable: True when this process is to take over, False when the old one has ended without
        a confirmation, None when it is to be called again."""
        try:
            message, descriptors = self._next()
        except HandoverError:
            return self._told_main
        for descriptor in descriptors:  # sockets that are not needed, after a failure
            os.close(descriptor)
        if message["kind"] == "main":
            self._told_main, self.flushed = True, message.get("flushed") is True
        return None

    def withdraw(self, *, reload: bool) -> bool:
        """Before this process ends by itself: make sure that the old one keeps serving. Afterwards it cannot confirm;
        False when it has done so already, and this is the main process. `reload`: as for `fail`, which is to follow."""
        self._reload_asked = self._reload_asked or reload
        if self._channel.fileno() < 0:
            return not self._told_main
        self._channel.shutdown(socket.SHUT_RD)  # nothing more arrives, and the old process cannot send
        confirmed = None
        while confirmed is None:  # the end of file follows what has arrived
            confirmed = self.confirmed()
        return not confirmed

    def close(self) -> None:
        """Close the channel, and what was not taken."""
        self._channel.close()
        close_all(self.shares)
        self.shares.clear()
        for given in (self.control, self.metrics, self.web):
            if given is not None:
                given[0].close()
        if self._cache is not None:
            self._cache.close()
            self._cache = None


def _adopt(descriptor: int) -> socket.socket:
    """The socket of a received descriptor, non-blocking as it is in the old process.

    Raises:
        OSError: it is no socket.
    """
    adopted = socket.socket(fileno=descriptor)
    adopted.setblocking(False)  # `socket` takes the default timeout, None, for one that it has not made
    return adopted
