"""Checks the targets of balanced names: TCP connections and HTTP requests, in each worker for itself.

Each worker checks all targets, and uses its own results only. So no worker depends on another one, which may be
restarted or slow, and there is no state to pass on; the cost is as many checks of each target as there are workers.
Their times are drawn at random, so that workers do not check a target at the same moment. Workers may differ for some
checks after a change, as clients differ for the TTL of what they have.

A check holds a slot for at most its timeout. There are as many slots as targets, up to a limit (`balance_probes`), so
below it no target waits for another. Above it they wait in the order in which they are due, and `problems` says when
checks begin late: more than a tenth of their interval.

A target is up until checks have failed. A reload keeps the states of targets that are checked in the same way.
Each change is logged. A check that raises anything but an error of the network is a fault: it is logged and counts as a
failed check.

A check that fails because of this host has no result: it says nothing of the target, which keeps its state. All other
targets would go down, too, when descriptors, memory or ports are short here, a firewall of this host forbids
connections, or a route is missing. `resolver.net.routes` has the definition, as for name servers. ENETUNREACH and
EHOSTUNREACH (with IPv6 also EACCES) come from this host or from a router, and the kernel's routes decide: with a route
to the target, a router or the neighbour has said it, and the check has failed; without one, it has no result. Cost: a
target that was never checked counts as up, so `problems` tells of those whose last check had no result.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from corenet.tls import client_context, describe_handshake_error
from resolver import limits
from resolver.effects import FailureKind, RandomSource
from resolver.geo import open_countries
from resolver.log_limit import LimitedWarning
from resolver.net.clock_random import Entropy
from resolver.net.descriptors import balance_probes
from resolver.net.routes import RouteChecker
from resolver.policy.balance import Balancer, Target
from resolver.settings import Settings
from resolver.settings.balance import BalanceSettings

if TYPE_CHECKING:
    import ssl

__all__ = ["BalanceChecks", "check"]

logger = logging.getLogger(__name__)

LOWEST_GOOD, LOWEST_BAD = 200, 400
RANDOM_STEPS = 1 << 16
Probe = Callable[[BalanceSettings, str], Awaitable[str]]
"""One check of an address: an empty text, or why it failed."""


class BalanceChecks:
    """The checks of one configuration."""

    def __init__(
        self,
        balancer: Balancer,
        *,
        probe: Probe | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: RandomSource | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`probe`, `sleep`, `rng` and `clock` are for tests.

        Raises:
            ValueError: a file with CA certificates cannot be used; the text names the setting.
        """
        self._balancer = balancer
        self._sleep = sleep
        self._rng: RandomSource = Entropy() if rng is None else rng
        self._clock = clock
        self._checked = [(one, target) for one, target in balancer.targets() if one.check != "none"]
        self._slots = balance_probes(len(self._checked))
        self._free = asyncio.Semaphore(self._slots)
        self._waiting: dict[Target, float] = {}
        """The targets whose check waits for a slot, and since when."""
        self._late: set[Target] = set()
        """Those whose last check has begun late."""
        self._unchecked: dict[str, str] = {}
        """Those whose last check had no result, and why."""
        self._routes = RouteChecker()
        self._tasks: list[asyncio.Task[None]] = []
        self._warnings = LimitedWarning(logger)
        self._contexts: dict[str, ssl.SSLContext] = {}
        for settings, _ in balancer.targets():
            if settings.check == "https" and settings.check_ca not in self._contexts:
                self._contexts[settings.check_ca] = _context(settings.check_ca)
        self._probe = probe

    def start(self, before: "BalanceChecks | None" = None) -> None:
        """Begin to check, with the states of `before`, which is stopped. A second call does nothing."""
        if before is not None and before is not self:
            before.close()
            self._balancer.continue_from(before._balancer)
        if not self._tasks:
            self._tasks = [asyncio.get_running_loop().create_task(self._watch(settings, target))
                           for settings, target in self._checked]

    def close(self) -> None:
        """Stop checking."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()

    async def _watch(self, settings: BalanceSettings, target: Target) -> None:
        """Check one target until the task is cancelled."""
        due = self._clock() + settings.interval * self._random()
        while True:
            await self._sleep(max(due - self._clock(), 0.0))
            self._waiting[target] = self._clock()
            async with self._free:
                began = self._clock()
                if began > self._waiting.pop(target) + _slack(settings):
                    self._late.add(target)
                else:
                    self._late.discard(target)
                why = await self._check(settings, target)
            if why is not None and target.health.note(why):
                _log_change(settings, target)
            pause = settings.interval * (1 - limits.BALANCE_JITTER_PERCENT / 100 * self._random())
            due = max(began + pause, self._clock())

    def _random(self) -> float:
        """A number from 0 to less than 1."""
        return self._rng.below(RANDOM_STEPS) / RANDOM_STEPS

    async def _check(self, settings: BalanceSettings, target: Target) -> str | None:
        """Check once; returns why it failed, "" for a success, or None when the check could not be made."""
        self._unchecked.pop(_label(settings, target), None)
        try:
            async with asyncio.timeout(settings.timeout):
                return await (self._probe or self.probe)(settings, target.address)
        except TimeoutError:
            return f"no answer within {settings.timeout:g} s"
        except (OSError, MemoryError) as error:
            why = self._unchecked[_label(settings, target)] = _reason(error) or "out of memory"
            self._warnings.warn("balance %s: %s could not be checked: %s", settings.name, target.address, why)
            return None
        except Exception as error:
            logger.exception("balance %s: fault in the check of %s", settings.name, target.address)
            return f"fault: {type(error).__name__}"

    async def probe(self, settings: BalanceSettings, address: str) -> str:
        """One check without a limit of time; returns why it failed, or an empty text.

        Raises:
            OSError, MemoryError: it could not be made because of this host.
        """
        check, port, path, authorities = settings.probe
        if check == "tcp":
            try:
                transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, address, port)
            except OSError as error:
                if self._local_error(error, address):
                    raise
                return _reason(error)
            transport.abort()
            return ""
        from corenet.http import HttpClient, HttpError

        host = settings.name.removesuffix(".")
        client = HttpClient(
            connect_to=address, follow_redirects=False, tls_context=self._contexts.get(authorities),
            max_body=limits.BALANCE_PROBE_OCTETS, max_decoded=limits.BALANCE_PROBE_OCTETS,
        )
        try:
            async with client:
                response = await client.get(f"{check}://{host}:{port}{path}")
        except (HttpError, OSError) as error:
            if code := self._local_error(error, address):
                raise OSError(code, os.strerror(code)) from None
            return str(error)
        good = LOWEST_GOOD <= response.status < LOWEST_BAD
        return "" if good else f"status {response.status}"

    def _local_error(self, error: BaseException, address: str) -> int:
        """The errno of the system call that failed because of this host; 0 when the target or the network is why."""
        cause = error if isinstance(error, OSError) else error.__cause__
        # A timeout has no errno, and that of an error of TLS is one of OpenSSL.
        if not isinstance(cause, OSError) or not cause.errno or describe_handshake_error(cause) is not None:
            return 0
        kind = self._routes.classify_connection_error(cause, address)
        return 0 if kind is FailureKind.NETWORK else cause.errno

    # --- for operators --------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, dict[str, int]]:
        """Which targets are up, by name and address: 1 or 0."""
        return {"up": {_label(one, target): int(target.health.up) for one, target in self._balancer.targets()}}

    def counters(self) -> dict[str, dict[str, int]]:
        """Checks, failed checks and answers that begin with a target, by name and address."""
        both = [(_label(settings, target), target.health) for settings, target in self._balancer.targets()]
        return {
            "checks": {label: health.checks for label, health in both},
            "check_failures": {label: health.failures for label, health in both},
            "answers": {f"{name}/{address}": count for (name, address), count in self._balancer.chosen.items()},
        }

    def describe(self) -> list[dict[str, Any]]:
        """Each target with its state in this worker, in the order of the configuration."""
        return [
            {"name": settings.name, "address": target.address, "check": settings.check, "up": target.health.up,
             "error": target.health.why}
            for settings, target in self._balancer.targets()
        ]

    def problems(self) -> list[str]:
        """A sentence for each name of which all targets of a family are down, one when checks begin late, and one when
        targets cannot be checked."""
        found, now = [], self._clock()
        late = self._late | {target for settings, target in self._checked
                             if self._waiting.get(target, now) + _slack(settings) < now}
        if late:
            found.append(f"balance: the checks of {len(late)} of {len(self._checked)} targets begin late, because"
                         f" {self._slots} others are in progress; use fewer targets, a longer interval or a shorter"
                         " timeout, or raise the limit of open files")
        if self._unchecked:
            label, why = next(iter(self._unchecked.items()))
            found.append(f"balance: {len(self._unchecked)} of {len(self._checked)} targets cannot be checked because of"
                         f" this host, and keep their states, such as {label}: {why}")
        for one in self._balancer.names.values():
            for targets in one.targets.values():
                if targets and not any(target.health.up for target in targets):
                    listed = ", ".join(f"{target.address} ({target.health.why or 'starting'})" for target in targets)
                    found.append(f"balance: all targets of {one.settings.name} are down: {listed}")
        return found


def _reason(error: BaseException) -> str:
    """The system's text of an error. asyncio replaces `strerror` with its own, which says less."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


def _slack(settings: BalanceSettings) -> float:
    """How long a check may wait for a slot before it begins late, in seconds."""
    return settings.interval * limits.BALANCE_JITTER_PERCENT / 100


def _label(settings: BalanceSettings, target: Target) -> str:
    return f"{settings.name}/{target.address}"


def _log_change(settings: BalanceSettings, target: Target) -> None:
    if target.health.up:
        logger.info("balance %s: %s is up", settings.name, target.address)
    else:
        logger.warning("balance %s: %s is down: %s", settings.name, target.address, target.health.why)


def check(settings: Settings) -> None:
    """Check that the files that balanced names need can be used.

    Raises:
        ValueError: one cannot; the text names the setting.
    """
    if settings.policy.geo_database:
        open_countries(settings.policy.geo_database)
    for one in settings.balance:
        if one.check == "https":
            _context(one.check_ca)


def _context(file: str) -> "ssl.SSLContext":
    """The TLS context for checks with the authorities of `file`.

    Raises:
        ValueError: the file cannot be used.
    """
    try:
        # Each check is a full handshake, because a resumed session would hide that a certificate has expired.
        return client_context(cafile=file or None, strict=not file, resume=False)
    except OSError as error:  # also what OpenSSL says of the content
        raise ValueError(f"balance: check-ca {file!r} cannot be used: {error.strerror or error}") from None
