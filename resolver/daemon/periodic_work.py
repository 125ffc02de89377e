"""What a worker does from time to time for the configuration in force: each task does what is due and sets its timer.

The tasks are: warn of certificates that expire, change session ticket keys, log clients that exceed rates, load and
fetch lists, write the query log and dnstap. `follow` begins them again after a switch, because what they work on has
been replaced; each then has one timer, as before. Trust anchors, zones and run-time changes are left to their keepers.

State: the timers belong to the worker (`Timers`), which closes them when it stops; after that a task starts none.
`_expiry_watch` knows which warnings of certificates were given.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.daemon.certificates import ExpiryWatch
from resolver.daemon.timers import Timers
from resolver.settings import Settings

if TYPE_CHECKING:
    from resolver.daemon.balance_checks import BalanceChecks
    from resolver.daemon.runtime_config import RuntimeConfig

__all__ = ["PeriodicHost", "PeriodicWork"]

logger = logging.getLogger(__name__)


class PeriodicHost(Protocol):
    """What the tasks need of their worker."""

    @property
    def number(self) -> int: ...

    @property
    def is_main(self) -> bool: ...

    @property
    def configured(self) -> Settings: ...

    @property
    def current(self) -> "RuntimeConfig": ...

    @property
    def timers(self) -> Timers: ...

    @property
    def stopping(self) -> "asyncio.Future[str]": ...

    def apply_list_change(self, asks_servers: bool) -> None: ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class PeriodicWork:
    """The tasks of one worker."""

    def __init__(self, host: PeriodicHost) -> None:
        self._host = host
        self._expiry_watch = ExpiryWatch()
        self._rates_due = 0.0
        """When limited prefixes may be logged again, also after reloads, on the monotonic clock."""

    def follow(self, before: "BalanceChecks | None" = None) -> None:
        """Begin, or continue with the configuration now in force. `before` are the checks of balanced names of the
        previous one."""
        self._watch_certificates()
        self._rotate_ticket_keys()
        self.check_lists()
        self._check_targets(before)
        self._flush_observation()
        self._log_limited_rates()

    def check_lists(self) -> None:
        """Load lists whose files have changed, now and periodically; the first worker also fetches them."""
        host = self._host
        host.timers.cancel("lists")
        lists = host.current.lists
        if lists is None or host.stopping.done():
            return
        fetches = not host.number and host.is_main
        host.start_task(lists.update(fetches=fetches, changed=host.apply_list_change))
        host.timers.start("lists", limits.LIST_CHECK_INTERVAL, self.check_lists)

    def _watch_certificates(self) -> None:
        """Warn of certificates that expire soon, once a day; the first worker does it for all."""
        host = self._host
        if host.number or host.stopping.done():
            return
        now, certificates = host.current.resolver.clock.time(), host.current.certificates
        if certificates is not None:
            for level, text in self._expiry_watch.due(certificates, now):
                logger.log(level, "%s", text)
        host.timers.start("certificates", limits.CERTIFICATE_CHECK, self._watch_certificates)

    def _rotate_ticket_keys(self) -> None:
        """Use the session ticket keys of this period, in every worker, and schedule the next change."""
        host = self._host
        host.timers.cancel("tickets")
        certificates = host.current.certificates
        if certificates is None or host.stopping.done():
            return
        left = certificates.rotate_ticket_keys(time.monotonic())
        if certificates.ticket_trouble and not host.number:
            logger.warning("tls: %s; they are not changed, and a reload with other certificates makes new ones",
                           certificates.ticket_trouble)
        host.timers.start("tickets", left, self._rotate_ticket_keys)

    def _log_limited_rates(self) -> None:
        """Log which client prefixes have begun to exceed a rate limit, now and periodically."""
        host = self._host
        host.timers.cancel("rates")
        rates = host.current.rates
        if not rates.active or host.stopping.done():
            return
        left = self._rates_due - time.monotonic()
        if left <= 0:
            left = max(host.configured.log.rate_limit_interval, limits.RATE_LOG_INTERVAL)
            self._rates_due = time.monotonic() + left
            self._log_rates(rates.take_events())
        host.timers.start("rates", left, self._log_limited_rates)

    @staticmethod
    def _log_rates(events: Iterable[tuple[str, str, str]]) -> None:
        for prefix, kind, verdict in events:
            if kind in ("unverified", "verified"):
                logger.warning("rate limit: %s queries of %s exceed the limit: %s", kind, prefix, verdict)
            else:
                logger.warning("rate limit: replies (%s) to %s exceed the limit: %s", kind, prefix, verdict)

    def _check_targets(self, before: "BalanceChecks | None") -> None:
        """Check the targets of balanced names in this worker, with the states of `before`, which is stopped."""
        checks = self._host.current.balance
        if checks is not None and not self._host.stopping.done():
            checks.start(before)
        elif before is not None:
            before.close()

    def _flush_observation(self) -> None:
        """Let the query log and dnstap write what was recorded, now and periodically."""
        host = self._host
        host.timers.cancel("observation")
        if host.current.observation.outputs:
            host.current.observation.flush()
            host.timers.start("observation", limits.OBSERVE_FLUSH / 1000, self._flush_observation)
