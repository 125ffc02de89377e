"""Finds and connects to the addresses of an origin while the answers of a `RecordResolver` come in (RFC 8305).

A `Search` belongs to one connection that is being opened. It owns the tasks of its look-ups (addresses of each
endpoint, HTTPS records, TLSA records) and of its attempts. `connect` returns with all attempts ended and every socket
closed but the one that it returns; look-ups continue until `close`, because another call of `connect` may follow: when
TLS with an endpoint of an HTTPS record fails, `give_up` excludes that endpoint, and the next one is tried. When
attempts start is decided by `corenet.http.attempts`.
"""

import asyncio
import math
import os
import socket
from collections.abc import Callable, Collection, Coroutine
from contextlib import aclosing
from typing import Any, NamedTuple

from corenet.http.attempts import Address, Attempt, Endpoint, Schedule
from corenet.http.errors import ConnectError, NameResolutionError
from corenet.http.service_records import Shuffle
from corenet.http.services import find_services, find_tlsa
from corenet.http.trace import DONE, FAILED, STARTED, Trace, report
from corenet.http.url import Origin
from corenet.loop import RecordResolver
from corenet.loop.connecting import close_unwanted
from corenet.tls.dane import DanePolicy

__all__ = ["Lookups", "Search"]

Connect = Callable[[int, Any], Coroutine[Any, Any, socket.socket]]


class Lookups(NamedTuple):
    """What a connection asks DNS for besides addresses. `protocols` are those that the client speaks (ALPN)."""

    https: bool
    tlsa: bool
    protocols: Collection[str]
    shuffle: Shuffle


class Search:
    """The search for a connection to `origin`. `lookups` is None when nothing but addresses is looked up."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resolver: RecordResolver,
        origin: Origin,
        lookups: Lookups | None,
        *,
        family: int = 0,
        trace: Trace | None = None,
    ) -> None:
        self._loop = loop
        self._resolver = resolver
        self._origin = origin
        self._lookups = lookups
        # The only family that can be used, 0 for both.
        self._family = family
        self._trace = trace
        asks_https = lookups is not None and lookups.https
        self._schedule = Schedule(Endpoint(origin.host, origin.port, is_origin=True), records_pending=asks_https)
        self._changed = loop.create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._tlsa: asyncio.Task[DanePolicy | None] | None = None
        # The first failure of the look-ups that ends the search, and what the attempts and look-ups failed with.
        self._fatal: BaseException | None = None
        self._unresolved: list[str] = []
        self._failures: list[str] = []
        report(trace, "dns", STARTED, loop.time(), host=origin.host)
        if asks_https:
            self._start(self._find_services())
        if lookups is not None and lookups.tlsa:
            self._tlsa = loop.create_task(find_tlsa(resolver, origin.host, origin.port, trace))
        self._start(self._find_addresses(self._schedule.origin))

    async def connect(self, connect: Connect, begins: Callable[[Attempt], None]) -> tuple[socket.socket, Endpoint]:
        """Return the socket that connects first, and its endpoint; `begins` is called with each attempt.

        Raises:
            NameResolutionError: there is no address, or the HTTPS records are bogus.
            ConnectError: no address can be reached.
        """
        running: dict[asyncio.Task[socket.socket], Attempt] = {}
        winner: asyncio.Task[socket.socket] | None = None
        try:
            while winner is None:
                if self._fatal is not None:
                    raise self._fatal
                step = self._schedule.next(self._loop.time())
                if isinstance(step, Attempt):
                    task = self._loop.create_task(connect(*step.address))
                    running[task] = step
                    begins(step)
                elif step is None and not running:
                    raise self._nothing()
                else:
                    winner = await self._wait(running, math.inf if step is None else step)
            endpoint = running.pop(winner).endpoint
        finally:
            for task in running:
                task.add_done_callback(close_unwanted)
                task.cancel()
            try:
                if running:
                    await asyncio.wait(running)
            except BaseException:
                if winner is not None:
                    close_unwanted(winner)
                raise
        return winner.result(), endpoint

    async def _wait(
        self, running: dict[asyncio.Task[socket.socket], Attempt], until: float
    ) -> "asyncio.Task[socket.socket] | None":
        """Wait until the time `until`, or until something has changed; return an attempt that has succeeded."""
        timeout = None if until == math.inf else max(until - self._loop.time(), 0.0)
        done, _ = await asyncio.wait(
            (self._changed, *running), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if self._changed.done():
            self._changed = self._loop.create_future()
        winner = None
        for task in [task for task in running if task in done]:
            error = task.exception()
            if error is None:
                if winner is None:
                    winner = task
                continue
            address = running.pop(task).address
            if not isinstance(error, OSError):
                raise error
            self._failures.append(f"{address[1][0]}: {os.strerror(error.errno) if error.errno else error}")
            self._schedule.failed()
        return winner

    def give_up(self, endpoint: Endpoint) -> bool:
        """Try `endpoint` no more, because TLS has failed; False: it was the only one."""
        return self._schedule.give_up(endpoint)

    async def policy(self, endpoint: Endpoint) -> DanePolicy | None:
        """The TLSA records for a connection to `endpoint`: its own if the way to it is secure, else the origin's.

        Raises:
            NameResolutionError: they cannot be looked up.
        """
        if self._tlsa is None:
            return None
        if endpoint.secure:
            own = await find_tlsa(self._resolver, endpoint.host, endpoint.port, self._trace)
            if own is not None:
                return own
        return await asyncio.shield(self._tlsa)

    async def close(self) -> None:
        """End the look-ups."""
        tasks: list[asyncio.Task[Any]] = [*self._tasks] if self._tlsa is None else [*self._tasks, self._tlsa]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if self._tlsa is not None and not self._tlsa.cancelled():
            self._tlsa.exception()  # no caller waits for it, so it is not reported as unretrieved

    # --- look-ups -------------------------------------------------------------------------------------------------

    def _start(self, lookup: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(lookup)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # Not a failure of DNS: the look-ups handle those. The search cannot continue.
            self._fatal = error
        self._notify()

    def _notify(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)

    async def _find_services(self) -> None:
        lookups = self._lookups
        assert lookups is not None  # or this task would not exist
        found = await find_services(
            self._resolver, self._origin, protocols=lookups.protocols, shuffle=lookups.shuffle, trace=self._trace
        )
        if found.bogus and not self._schedule.racing:
            name = self._origin.host
            self._fatal = NameResolutionError(f"the HTTPS records of {name} are bogus: {found.bogus}")
        elif self._schedule.set_endpoints(found.endpoints, self._loop.time()):
            for endpoint in found.endpoints:
                endpoint.hints = self._usable(endpoint.hints)
                self._start(self._find_addresses(endpoint))

    async def _find_addresses(self, endpoint: Endpoint) -> None:
        try:
            async with aclosing(self._resolver.stream_addresses(endpoint.host, endpoint.port)) as lists:  # type: ignore[type-var]
                async for infos in lists:
                    found = list(dict.fromkeys((info[0], info[4]) for info in infos))
                    usable = self._usable(found)
                    if not usable:
                        self._unresolved.append(f"{endpoint.host} has no address of the family of the local address")
                    self._schedule.add_addresses(endpoint, usable, self._loop.time())
                    self._notify()
            self._report_addresses(endpoint, DONE)
        except socket.gaierror as error:
            why = f"the name {endpoint.host} has no address: {error.strerror or error}"
            # The caller knows the origin's own name.
            self._unresolved.insert(0 if endpoint.is_origin else len(self._unresolved), why)
            self._report_addresses(endpoint, FAILED, error=str(error))
        except asyncio.CancelledError:
            # A connection was made before the last answer.
            self._report_addresses(endpoint, DONE, complete=False)
            raise
        finally:
            self._schedule.complete(endpoint)

    def _report_addresses(self, endpoint: Endpoint, phase: str, **details: Any) -> None:
        """End the step dns of the trace, or report the target of an HTTPS record as a point of its own."""
        if self._trace is not None:
            details["addresses"] = ",".join(str(address[0]) for _, address in endpoint.addresses)
            phase = phase if endpoint.is_origin else "target"
            report(self._trace, "dns", phase, self._loop.time(), host=endpoint.host, **details)

    def _usable(self, addresses: "Collection[Address]") -> list[Address]:
        return [address for address in addresses if self._family in (0, address[0])]

    def _nothing(self) -> ConnectError:
        """The error when all has failed."""
        if self._failures:
            where = f"{self._origin.host} port {self._origin.port}"
            return ConnectError(f"cannot connect to {where}: {'; '.join(self._failures)}")
        return NameResolutionError(next(iter(self._unresolved), f"the name {self._origin.host} has no address"))
