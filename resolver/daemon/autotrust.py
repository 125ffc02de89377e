"""Automated updates of trust anchors (RFC 5011): probes the DNSKEY RRset of each zone on schedule and saves the result.

`validate.autotrust` computes the state transitions. This module schedules probes and applies their results: the
validator in force trusts new keys at once, the other workers get the key states, and the file is replaced. A probe is
a query through the mesh, first with validation. If that fails, it is repeated without, because the DNSKEY RRset of a
zone whose last trusted key is revoked is bogus, but still shows the revocation. When the file cannot be read or
written, an error with the remedy is logged and the anchors stay in use. An unreadable file is never overwritten,
because it may be the only record of a revocation.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from resolver import limits
from resolver.daemon.cache_file import CacheFileError, replace_file
from resolver.effects import FailureKind, Outcome, Question, SignatureJob
from resolver.regular_file import open_regular
from resolver.settings import DnssecSettings
from resolver.validate.anchor_file import AnchorFileError, SavedPoint, parse, render, restore
from resolver.validate.anchors import Anchor, Anchors
from resolver.validate.autotrust import HoldDown, KeyState, Probe, TrustPoint, prepare_probe
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["AnchorUpdater", "check"]

logger = logging.getLogger(__name__)

Ask = Callable[[Question, bool, Callable[[Outcome], None]], bool]
Verify = Callable[[Sequence[SignatureJob], Callable[[list[bool] | Exception], None]], list[bool] | None]
SETTING = "dnssec.auto-trust-anchor-file"
LARGEST = limits.ANCHOR_FILE
BUSY = limits.AUTOTRUST_PROBE_TIMEOUT


class AnchorUpdater:
    """The trust points of one configuration and the file that stores them.

    `ask` starts a query that bypasses the cache, returns whether it has started, and calls back with the outcome.
    `verify` checks signatures. `changed` is called when the trusted keys of a zone change, `concluded` when a probe has
    ended. Times are seconds of the real-time clock.
    """

    def __init__(
        self,
        settings: DnssecSettings,
        *,
        now: Callable[[], int],
        ask: Ask,
        verify: Verify,
        changed: Callable[[TrustPoint], None],
        concluded: Callable[[], None],
    ) -> None:
        self._concluded = concluded
        self._now = now
        self._ask = ask
        self._verify = verify
        self._changed = changed
        self.path = Path(settings.auto_trust_anchor_file)
        self.trouble = ""
        """Why the file cannot be read or written; empty when it can."""
        self.points = _points(settings)
        self.may_save = False
        """Whether the file may be replaced: its content is known, or it does not exist."""
        self.restored = False
        """Whether key states were read from the file."""
        self._retired = False
        self._busy: dict[bytes, int] = {}
        self._counts = {"probes": 0, "probe_failures": 0, "key_changes": 0, "write_failures": 0}

    # --- the file -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Restore key states from the file. Without a file, start with the configured anchors."""
        self.may_save = self.restored = False
        try:
            saved = _read(self.path)
        except FileNotFoundError:
            logger.info("trust anchors: file %s does not exist yet; starting with the configured anchors", self.path)
            self.may_save = True
            return
        except AnchorFileError as error:
            self.trouble = f"cannot use {str(self.path)!r}: {error}"
            logger.error(
                "trust anchors: %s. The configured anchors are used and key states are not saved. Restore the file from"
                " a copy or remove it (%s)", self.trouble, SETTING,
            )
            return
        self.may_save = self.restored = True
        self.take(saved)

    def take_text(self, text: str) -> None:
        """Restore key states from the file text of another worker or configuration.

        Raises:
            ValueError: `text` is malformed.
        """
        self.take(parse(text))

    def take(self, saved: Iterable[SavedPoint]) -> None:
        """Restore the state of configured zones from `saved` and ignore other zones."""
        for part in saved:
            point = self.points.get(part.zone)
            if point is None:
                zone = names.to_text(part.zone)
                logger.info("trust anchors: zone %s is no longer configured; its saved state is ignored", zone)
            else:
                restore(point, part)

    @property
    def text(self) -> str:
        """The content of the file for the current state."""
        return render(self.points.values())

    def save(self) -> None:
        """Replace the file, unless it could not be read. One that is too large to be read again is not written."""
        if not self.may_save:
            return
        data = self.text.encode()
        if len(data) > LARGEST:
            self._counts["write_failures"] += 1
            self.trouble = f"cannot write {str(self.path)!r}: the key states have more than {LARGEST} bytes"
            logger.error("trust anchors: %s. It keeps earlier key states. Fewer zones must be configured (%s)",
                         self.trouble, SETTING)
            return
        try:
            replace_file(self.path, [data])
        except CacheFileError as error:
            self._counts["write_failures"] += 1
            self.trouble = str(error)
            logger.error(
                "trust anchors: %s. Key states are lost at the next restart. User %d must be able to write to directory"
                " %s, and there must be room (%s)", error, os.geteuid(), self.path.parent, SETTING,
            )
        else:
            self.trouble = ""

    # --- what is trusted ------------------------------------------------------------------------------------------

    def apply(self, anchors: Anchors) -> None:
        """Put the trusted keys of all zones into `anchors`."""
        for point in self.points.values():
            anchors.put(point.zone, point.trusted())

    def trusted(self) -> dict[bytes, object]:
        """For each zone a value that changes with its trusted keys."""
        return {zone: _identity(point.trusted()) for zone, point in self.points.items()}

    # --- the schedule ---------------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Probe the zones that are due; return the seconds until the next call is needed."""
        now = self._now()
        earliest = limits.AUTOTRUST_TIMER_MAX
        for point in self.points.values():
            if point.trusted() is None:
                continue  # deleted: no trusted key is left that could sign new ones
            until = self._busy.get(point.zone, 0)
            # A clock that was set back must not delay the next probe by years.
            due = min(point.due, point.looked + limits.AUTOTRUST_INTERVAL_MAX)
            if now >= due or now < point.looked:
                due = self._begin(point, now) if now >= until or until > now + BUSY else until
            earliest = min(earliest, due - now)
        return max(1.0, float(earliest))

    def _begin(self, point: TrustPoint, now: int) -> int:
        """Probe one zone; return the time at which the probe counts as lost."""
        self._busy[point.zone] = now + BUSY
        question = Question(point.zone, c.DNSKEY)
        if self._ask(question, False, partial(self._seen, point, True)):
            self._counts["probes"] += 1
        return now + BUSY

    def _seen(self, point: TrustPoint, validated: bool, outcome: Outcome) -> None:
        rrset = _keys_of(outcome, point.zone)
        if rrset is not None and outcome.failure is None:
            probe = prepare_probe(point, rrset, self._now())
            results = self._verify(probe.jobs, partial(self._on_verified, point, probe))
            if results is not None:  # few checks are done at once, without a callback
                self._on_verified(point, probe, results)
            return
        question = Question(point.zone, c.DNSKEY)
        if validated and not _cancelled(outcome) and self._ask(question, True, partial(self._seen, point, False)):
            return
        if _cancelled(outcome):
            self._busy.pop(point.zone, None)  # by a reload or stop; this says nothing about the zone
            return
        why = outcome.failure.text if outcome.failure is not None else "the reply has no DNSKEY RRset"
        self._conclude(point, partial(self._fail, point, why))

    @staticmethod
    def _fail(point: TrustPoint, why: str, now: int) -> list[str]:
        point.failed(why, now)
        return []

    def _on_verified(self, point: TrustPoint, probe: Probe, results: Sequence[bool] | Exception) -> None:
        if isinstance(results, Exception):
            why = f"a signature could not be checked: {results!r}"
            self._conclude(point, partial(self._fail, point, why))
            return
        self._conclude(point, partial(point.observe, probe, results))

    def retire(self) -> None:
        """Another updater has the key states now: the results of probes that have begun count no more."""
        self._retired = True

    def _conclude(self, point: TrustPoint, draw: Callable[[int], list[str]]) -> None:
        if self._retired:
            return  # the other one probes the zone itself
        before = _identity(point.trusted())
        changes = draw(self._now())
        self._busy.pop(point.zone, None)
        for change in changes:
            logger.warning("trust anchors: %s", change)
        self._counts["key_changes"] += len(changes)
        if point.trouble:
            self._counts["probe_failures"] += 1
            logger.warning(
                "trust anchors: probe of zone %s failed: %s", names.to_text(point.zone), point.trouble
            )
        after = point.trusted()
        if _identity(after) != before:
            if after is None:
                logger.error(
                    "trust anchors: all keys of zone %s are revoked, so it is no longer a trust anchor (RFC 5011 5)."
                    " Configure its new keys in dnssec.trust-anchors", names.to_text(point.zone),
                )
            self._changed(point)
        self.save()
        self._concluded()

    # --- inspection -----------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The state of all trust points, for ``resolverctl anchors``."""
        zones = []
        for point in self.points.values():
            keys = [
                {
                    "tag": known.key.tag, "algorithm": known.key.algorithm, "state": known.state.value,
                    "since": known.since, "until": known.until,
                }
                for known in point.keys.values()
            ]
            zones.append({
                "zone": names.to_text(point.zone), "last_probe": point.looked, "last_success": point.succeeded,
                "next_probe": point.due, "error": point.trouble, "trusted": point.trusted() is not None, "keys": keys,
            })
        return {"file": str(self.path), "error": self.trouble, "zones": zones}

    def statistics(self) -> dict[str, int]:
        """Counters since the start, the number of keys in each state, and the oldest successful probe."""
        states = Counter(known.state for point in self.points.values() for known in point.keys.values())
        found = {f"keys_{state.value}": states[state] for state in KeyState}
        oldest = min((point.succeeded for point in self.points.values()), default=0)
        return {**self._counts, **found, "last_success": oldest}


def check(settings: DnssecSettings) -> None:
    """Check that the trust anchor file can be used.

    Raises:
        ValueError: it cannot; the text names the setting and the reason.
    """
    path = Path(settings.auto_trust_anchor_file)
    try:
        _read(path)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ValueError(f"{SETTING}: the directory of {str(path)!r} does not exist") from None
    except AnchorFileError as error:
        raise ValueError(f"{SETTING}: {str(path)!r}: {error}") from None


def _read(path: Path) -> list[SavedPoint]:
    """Read the file.

    Raises:
        FileNotFoundError: it does not exist.
        AnchorFileError: it cannot be read or is damaged.
    """
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AnchorFileError(error.strerror or str(error)) from None
    if len(data) > LARGEST:
        raise AnchorFileError(f"it is larger than {LARGEST} bytes")
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        raise AnchorFileError("it is not UTF-8 text") from None


def _points(settings: DnssecSettings) -> dict[bytes, TrustPoint]:
    times = HoldDown(int(settings.add_hold_down), int(settings.remove_hold_down), int(settings.missing_hold_down))
    return {anchor.zone: TrustPoint(anchor, times) for anchor in Anchors(settings.trust_anchors).configured()}


def _keys_of(outcome: Outcome, zone: bytes) -> RRset | None:
    return next((r for r in outcome.answer if r.rtype == c.DNSKEY and names.equal(r.name, zone)), None)


def _cancelled(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.kind is FailureKind.CANCELLED


def _identity(anchor: Anchor | None) -> object:
    """A value that is equal for anchors with the same keys."""
    return None if anchor is None else (frozenset(anchor.ds), frozenset(key.rdata for key in anchor.keys))

