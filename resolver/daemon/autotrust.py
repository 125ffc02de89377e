"""Keeps trust anchors up to date (RFC 5011): looks at each zone's keys when it is time and writes down what it saw.

`validate.rollover` decides what a look means; here is who asks, when, and what follows: the validator in force trusts
the new keys at once, the other workers are told, and the file is replaced. Questions go through the mesh like any
other, first validated, then without validation, since a zone whose last trusted key revokes itself is bogus and says so
nonetheless. A file that cannot be read or written is an error in the log with its remedy and costs no anchor; one that
cannot be read is never written over, because it may be all that remembers a revocation.
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
    """The trust points of one configuration, and the file they live in.

    `ask` begins a question that the cache does not answer, says whether it has begun, and calls back with the outcome;
    `verify` checks signatures; `changed` is told when other keys are trusted for a zone than before, and `concluded`
    when any look is over. Times are seconds of the real-time clock.
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
        """What is wrong with the file."""
        self.points = _points(settings)
        self._kept = False
        self._busy: dict[bytes, int] = {}
        self._counts = {"looks": 0, "looks_failed": 0, "changes": 0, "writes_failed": 0}

    # --- the file -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Go on where the file says that things stand; without a file, begin with the configured anchors."""
        try:
            saved = _read(self.path)
        except FileNotFoundError:
            logger.info("trust anchors: %s is not there yet; the configured anchors are where they begin", self.path)
            self._kept = True
            return
        except AnchorFileError as error:
            self.trouble = f"cannot use {str(self.path)!r}: {error}"
            logger.error(
                "trust anchors: %s. The configured anchors are used; the file is left as it is, and nothing is"
                " remembered until it is restored from a copy or removed (%s)", self.trouble, SETTING,
            )
            return
        self._kept = True
        self.take(saved)

    def take_text(self, text: str) -> None:
        """Go on as another worker or generation, whose `text` this is.

        Raises:
            ValueError: it makes no sense.
        """
        self.take(parse(text))

    def take(self, saved: Iterable[SavedPoint]) -> None:
        """Let the zones that are configured go on as `saved`; others are of no interest."""
        for part in saved:
            point = self.points.get(part.zone)
            if point is None:
                logger.info("trust anchors: %s is no longer configured", names.to_text(part.zone))
            else:
                restore(point, part)

    @property
    def text(self) -> str:
        """What the file says, or would say."""
        return render(self.points.values())

    def save(self) -> None:
        """Replace the file, unless it could not be read."""
        if not self._kept:
            return
        try:
            replace_file(self.path, [self.text.encode()])
        except CacheFileError as error:
            self._counts["writes_failed"] += 1
            self.trouble = str(error)
            logger.error(
                "trust anchors: %s. What was learned is forgotten at the next start, unless user %d may write into %s"
                " by then (%s)", error, os.geteuid(), self.path.parent, SETTING,
            )
        else:
            self.trouble = ""

    # --- what is trusted ------------------------------------------------------------------------------------------

    def apply(self, anchors: Anchors) -> None:
        """Make `anchors` trust what is trusted now."""
        for point in self.points.values():
            anchors.put(point.zone, point.trusted())

    def trusted(self) -> dict[bytes, object]:
        """For each zone something that differs when other keys are trusted."""
        return {zone: _identity(point.trusted()) for zone, point in self.points.items()}

    # --- the schedule ---------------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Look at the zones whose time has come; seconds until there is something to do again."""
        now = self._now()
        earliest = limits.AUTOTRUST_TIMER_MAX
        for point in self.points.values():
            if point.trusted() is None:
                continue  # deleted: there is nobody left who could vouch for anything
            until = self._busy.get(point.zone, 0)
            # A clock that was set back far must not put the next look off by years.
            due = min(point.due, point.looked + limits.AUTOTRUST_INTERVAL_MAX)
            if now >= due or now < point.looked:
                due = self._begin(point, now) if now >= until or until > now + BUSY else until
            earliest = min(earliest, due - now)
        return max(1.0, float(earliest))

    def _begin(self, point: TrustPoint, now: int) -> int:
        """Look at one zone; when to see whether that came to something."""
        self._busy[point.zone] = now + BUSY
        question = Question(point.zone, c.DNSKEY)
        if self._ask(question, False, partial(self._seen, point, True)):
            self._counts["looks"] += 1
        return now + BUSY

    def _seen(self, point: TrustPoint, validated: bool, outcome: Outcome) -> None:
        rrset = _keys_of(outcome, point.zone)
        if rrset is not None and outcome.failure is None:
            look = prepare_probe(point, rrset, self._now())
            results = self._verify(look.jobs, partial(self._judged, point, look))
            if results is not None:  # few checks are made in place, and then nobody calls back
                self._judged(point, look, results)
            return
        question = Question(point.zone, c.DNSKEY)
        if validated and not _cancelled(outcome) and self._ask(question, True, partial(self._seen, point, False)):
            return
        if _cancelled(outcome):
            self._busy.pop(point.zone, None)  # a reload or the end, which says nothing about the zone
            return
        why = outcome.failure.text if outcome.failure is not None else "the zone shows no keys"
        self._conclude(point, partial(self._fail, point, why))

    @staticmethod
    def _fail(point: TrustPoint, why: str, now: int) -> list[str]:
        point.failed(why, now)
        return []

    def _judged(self, point: TrustPoint, look: Probe, results: Sequence[bool] | Exception) -> None:
        if isinstance(results, Exception):
            self._conclude(point, partial(self._fail, point, f"a signature could not be checked: {results!r}"))
            return
        self._conclude(point, partial(point.observe, look, results))

    def _conclude(self, point: TrustPoint, draw: Callable[[int], list[str]]) -> None:
        before = _identity(point.trusted())
        changes = draw(self._now())
        self._busy.pop(point.zone, None)
        for change in changes:
            logger.warning("trust anchors: %s", change)
        self._counts["changes"] += len(changes)
        if point.trouble:
            self._counts["looks_failed"] += 1
            logger.warning(
                "trust anchors: the keys of %s could not be looked at: %s", names.to_text(point.zone), point.trouble
            )
        after = point.trusted()
        if _identity(after) != before:
            if after is None:
                logger.error(
                    "trust anchors: every key of %s is revoked; it is no longer an anchor (RFC 5011 5). Configure its"
                    " new keys in dnssec.trust-anchors", names.to_text(point.zone),
                )
            self._changed(point)
        self.save()
        self._concluded()

    # --- inspection -----------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The state in words and numbers, for people: what ``resolverctl anchors`` shows."""
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
                "zone": names.to_text(point.zone), "looked": point.looked, "succeeded": point.succeeded,
                "due": point.due, "trouble": point.trouble, "trusted": point.trusted() is not None, "keys": keys,
            })
        return {"file": str(self.path), "trouble": self.trouble, "zones": zones}

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many keys are in which state."""
        states = Counter(known.state for point in self.points.values() for known in point.keys.values())
        found = {f"keys_{state.value}": states[state] for state in KeyState}
        oldest = min((point.succeeded for point in self.points.values()), default=0)
        return {**self._counts, **found, "succeeded": oldest}


def check(settings: DnssecSettings) -> None:
    """Look whether the file of trust anchors can be used, as a start would find it.

    Raises:
        ValueError: naming the setting, and why not.
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
    """What the file says.

    Raises:
        FileNotFoundError: there is none.
        AnchorFileError: it cannot be read, or is not as it was written.
    """
    try:
        with open(path, "rb") as file:
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
        raise AnchorFileError("it is no text") from None


def _points(settings: DnssecSettings) -> dict[bytes, TrustPoint]:
    times = HoldDown(int(settings.add_hold_down), int(settings.remove_hold_down), int(settings.keep_missing))
    return {anchor.zone: TrustPoint(anchor, times) for anchor in Anchors(settings.trust_anchors).configured()}


def _keys_of(outcome: Outcome, zone: bytes) -> RRset | None:
    return next((r for r in outcome.answer if r.rtype == c.DNSKEY and names.equal(r.name, zone)), None)


def _cancelled(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.kind is FailureKind.CANCELLED


def _identity(anchor: Anchor | None) -> object:
    """Two anchors are the same when these are."""
    return None if anchor is None else (frozenset(anchor.ds), frozenset(key.rdata for key in anchor.keys))

