"""Keeps the trust anchors of a worker current (RFC 5011): probes, their file, and the key states of other workers.

There is an updater unless validation is off, no file is configured, or the simulated Internet is used. Only the first
worker probes zones and writes the file; it sends the key states to the others. During an upgrade that of the main
process alone does, and the new one reads the file again when it is the main one (`catch_up`). A new configuration gets
a new updater with the key states so far: `make` copies them, and `switch` copies them again, because they may have
changed since.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.cache import Store
from resolver.daemon.timers import Timers
from resolver.effects import Outcome, Question
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.runtime_config import RuntimeConfig
    from resolver.daemon.worker_ipc import WorkerChannels
    from resolver.validate.autotrust import TrustPoint

__all__ = ["AnchorHost", "AnchorKeeper"]

logger = logging.getLogger(__name__)


class AnchorHost(Protocol):
    """What the keeper needs of its worker."""

    @property
    def number(self) -> int: ...

    @property
    def is_main(self) -> bool: ...

    @property
    def in_playground(self) -> bool: ...

    @property
    def current(self) -> "RuntimeConfig": ...

    @property
    def store(self) -> Store: ...

    @property
    def channels(self) -> "WorkerChannels | None": ...

    @property
    def timers(self) -> Timers: ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class AnchorKeeper:
    """The trust anchors of the configuration in force; `updater` is None without automated updates."""

    def __init__(self, host: AnchorHost) -> None:
        self._host = host
        self.updater: AnchorUpdater | None = None

    # --- configurations -------------------------------------------------------------------------------------------

    def make(self, runtime: "RuntimeConfig") -> "AnchorUpdater | None":
        """The updater for a new configuration, with the key states so far."""
        dnssec = runtime.settings.dnssec
        if not dnssec.active or not dnssec.auto_trust_anchor_file or self._host.in_playground:
            return None
        from resolver.daemon.autotrust import AnchorUpdater

        updater = AnchorUpdater(
            dnssec,
            now=runtime.resolver.clock.time,
            ask=self._query_uncached,
            verify=self._check_signatures,
            changed=self._apply_change,
            concluded=self._publish,
        )
        updater.load()
        self._carry_over(updater, runtime)
        return updater

    def switch(self, updater: "AnchorUpdater | None", runtime: "RuntimeConfig") -> None:
        """Use what `make` has returned for `runtime`."""
        if updater is not None:
            self._carry_over(updater, runtime)
        if self.updater is not None:
            self.updater.retire()
        self.updater = updater

    def _carry_over(self, updater: "AnchorUpdater", runtime: "RuntimeConfig") -> None:
        if self.updater is not None and (self.updater.may_save or not updater.restored):
            # Else the file was damaged and is restored: it may be the only record of a revocation.
            updater.take_text(self.updater.text)
        validation = runtime.resolver.mesh.validation
        if validation is not None:
            updater.apply(validation.anchors)

    def catch_up(self) -> None:
        """This process is the main one, after an upgrade or its failure: take the key states of the file, which another
        one may have written since, and begin to probe."""
        if self.updater is None:
            return
        before = self.updater.trusted()
        if not self.updater.trouble:  # else the states in the file are older than those here
            self.updater.load()
        self._apply_changes(self.updater, before)
        self.save()
        self.probe()

    def retire(self) -> None:
        """A new process probes and writes the file now."""
        if self.updater is not None:
            self.updater.retire()

    @property
    def _leads(self) -> bool:
        return not self._host.number and self._host.is_main

    # --- the first worker -----------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the file, so that a write error is logged at start."""
        if self.updater is not None and self._leads:
            self.updater.save()

    def probe(self) -> None:
        """Probe the zones that are due, now and periodically."""
        timers = self._host.timers
        rest = 0.0
        if self.updater is not None and self._leads and not timers.closed:
            rest = self.updater.tick()  # may call this method again when a probe ends at once
        if rest:
            timers.start("anchors", rest, self.probe)
        else:
            timers.cancel("anchors")

    def _query_uncached(self, question: Question, cd: bool, on_done: Callable[[Outcome], None]) -> bool:
        resolver = self._host.current.resolver
        begun = resolver.mesh.refresh(question, cd=cd, on_done=on_done)
        resolver.timer.process_timers()
        return begun

    def _check_signatures(self, jobs: Sequence[Any], on_done: Callable[[list[bool] | Exception], None]) -> None:
        """Verify signatures; `on_done` gets the results or an exception, possibly before this returns."""
        results = self._host.current.resolver.crypto.verify(jobs, on_done)
        if results is not None:
            on_done(results)

    def _publish(self) -> None:
        """After a probe: schedule the next one and send the key states to the other workers."""
        self.probe()
        if self._host.channels is not None and self.updater is not None:
            self._host.start_task(self._send(self._host.channels, self.updater.text))

    async def _send(self, channels: "WorkerChannels", text: str) -> None:
        from resolver.daemon.worker_ipc import WorkerError

        if len(text) > limits.ANCHOR_FILE:
            logger.error("trust anchors: the key states are too large for the other workers, which keep theirs")
            return
        for number in channels.others:
            try:
                await channels.ask(number, {"command": "take-anchors", "text": text})
            except WorkerError as error:
                logger.warning("trust anchors: %s; it gets the new keys after the next probe or its restart", error)

    # --- all workers ----------------------------------------------------------------------------------------------

    def take(self, text: str) -> None:
        """Take the key states of the first worker.

        Raises:
            ValueError: `text` is malformed.
        """
        if self.updater is None:
            return
        before = self.updater.trusted()
        self.updater.take_text(text)
        logger.debug("trust anchors: worker %d got the key states of the first worker", self._host.number)
        self._apply_changes(self.updater, before)

    def _apply_changes(self, updater: "AnchorUpdater", before: dict[bytes, object]) -> None:
        """Apply the trusted keys of all zones where they differ from `before`."""
        for zone, identity in updater.trusted().items():
            if identity != before.get(zone):
                self._apply_change(updater.points[zone])

    def _apply_change(self, point: "TrustPoint") -> None:
        """Apply changed trusted keys of a zone, and drop its cached DNSKEY RRset, validated by the old ones."""
        validation = self._host.current.resolver.mesh.validation
        if validation is not None:
            validation.anchors.put(point.zone, point.trusted())
        try:
            self._host.store.drop(point.zone, rtype=c.DNSKEY)
        except BlockingIOError as error:
            logger.warning("trust anchors: the cache keeps the old keys until their TTL expires: %s", error)
