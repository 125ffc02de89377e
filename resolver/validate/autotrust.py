"""Trust anchors that follow a zone's keys by themselves (RFC 5011): the states of each key and what changes them.

Pure state: a look at the zone's DNSKEY set comes in with the time, then the results of signature checks, and the keys
to be trusted come out; who asks, checks, writes and keeps time lives elsewhere. Three rules shape it. A new key is
believed only when signed for by a trusted one in every look during the hold-down time and in one after it, so that a
stolen key gains nothing before its owner notices. A key that revokes itself, in a set it signs itself, is never
trusted again, whatever is configured. And what the operator configured stays trusted until then: no look, no file and
no clock takes it away.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from resolver import limits
from resolver.effects import Budget, SignatureJob
from resolver.validate.anchors import Anchor
from resolver.validate.crypto_budget import ds_matches, signature_job
from resolver.validate.records import (
    DNSKEY_PROTOCOL,
    REVOKED,
    SECURE_ENTRY,
    ZONE_KEY,
    Dnskey,
    Rrsig,
    parse_dnskey,
    parse_rrsig,
    serial_before,
    signed_data,
)
from resolver.validate.verify import ALGORITHMS
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["HoldDown", "KeyState", "ManagedKey", "Probe", "TrustPoint", "prepare_probe"]

# RFC 5011 section 2.3: bounds of the two intervals in seconds, and their shares of the TTL and of the validity.
SHORTEST = limits.AUTOTRUST_INTERVAL_MIN
QUERY_MOST, QUERY_PART = limits.AUTOTRUST_INTERVAL_MAX, 2
RETRY_MOST, RETRY_PART = limits.AUTOTRUST_RETRY_MAX, 10
MOST_KEYS = limits.MANAGED_KEYS
MOST_CHECKS = limits.AUTOTRUST_CHECKS
LOOKS = limits.AUTOTRUST_MIN_PROBES


class KeyState(Enum):
    """RFC 5011 section 4.2. A key in the state it calls "Start" is one that is not known here."""

    ADDPEND = "addpend"
    """Seen, signed for by a trusted key, and waiting for the end of the hold-down time."""
    VALID = "valid"
    """A trust anchor."""
    MISSING = "missing"
    """A trust anchor that the zone no longer publishes without having revoked it."""
    REVOKED = "revoked"
    """It has revoked itself and will never be a trust anchor again."""
    REMOVED = "removed"
    """Revoked, or missing for very long: remembered only so that it does not come back."""


TRUSTED = frozenset((KeyState.VALID, KeyState.MISSING))
UNTRUSTED = frozenset((KeyState.REVOKED, KeyState.REMOVED))


class HoldDown(NamedTuple):
    """How long things take, in seconds (RFC 5011 section 2.4)."""

    add: int = limits.ADD_HOLD_DOWN.default
    remove: int = limits.REMOVE_HOLD_DOWN.default
    missing: int = limits.MISSING_HOLD_DOWN.default
    """A missing key that is not configured is removed after that time, if another is valid; 0 keeps it for ever."""


class ManagedKey:
    """One key of a zone. `key` is it as it was before any revocation; times are seconds of the real-time clock."""

    __slots__ = ("key", "looks", "since", "state", "until")

    def __init__(self, key: Dnskey, state: KeyState, since: int, *, until: int = 0, looks: int = 0) -> None:
        self.key = key
        self.state = state
        self.since = since
        """When it came into this state."""
        self.until = until
        """When the hold-down time of a pending key ends; 0 in all other states."""
        self.looks = looks
        """Looks that found a pending key where it should be."""

    def enter(self, state: KeyState, now: int) -> None:
        """Go into another state."""
        self.state, self.since, self.until, self.looks = state, now, 0, 0

    def __repr__(self) -> str:
        return f"ManagedKey(tag={self.key.tag}, {self.state.value}, since={self.since})"


class Meaning(Enum):
    """What it means when a signature over a DNSKEY set is right."""

    VOUCHES = 1
    """A trusted key signs for the set."""
    REVOKES = 2
    """A key that is known revokes itself."""
    HOPES = 3
    """A pending key signs, which counts only where no trusted one is left."""


class Probe(NamedTuple):
    """A DNSKEY set as it was seen, and the checks that tell what it is worth."""

    present: tuple[Dnskey, ...]
    """Keys that could become anchors: with the SEP and zone bits, of algorithms that can be checked, not revoked."""
    jobs: tuple[SignatureJob, ...]
    meanings: tuple[tuple[Meaning, bytes, Rrsig], ...]
    """For each job: what it says, the unrevoked rdata of the key that signs, and the signature."""


class TrustPoint:
    """The keys of one zone that has a trust anchor. `configured` is what the operator said of it."""

    def __init__(self, configured: Anchor, times: HoldDown) -> None:
        self.zone = configured.zone
        self.configured = configured
        self.times = times
        self.keys: dict[bytes, ManagedKey] = {}
        self.looked = 0
        """When somebody last tried to look, and when it last succeeded; 0 for never."""
        self.succeeded = 0
        self.due = 0
        """When to look again."""
        self.retry = SHORTEST
        self.trouble = ""
        """Why the last look came to nothing."""

    # --- what is trusted ------------------------------------------------------------------------------------------

    def trusted(self) -> Anchor | None:
        """What to validate the zone with; None when every key that ever was trusted has been revoked.

        Then the trust point is deleted, as if it had never been configured (RFC 5011 section 5).
        """
        made = Anchor(self.zone)
        gone = [known.key for known in self.keys.values() if known.state in UNTRUSTED]
        budget = _probe_budget()
        made.ds = [ds for ds in self.configured.ds if not any(ds_matches(budget, ds, self.zone, key) for key in gone)]
        made.keys = [known.key for known in self.keys.values() if known.state in TRUSTED]
        listed = {key.rdata for key in made.keys} | {key.rdata for key in gone}
        made.keys += [key for key in self.configured.keys if key.rdata not in listed]
        return made if made.ds or made.keys else None

    # --- looking --------------------------------------------------------------------------------------------------

    def observe(self, look: Probe, results: Sequence[bool], now: int) -> list[str]:
        """Draw the conclusions of a look; sentences about what changed. `results` are those of its jobs, in order."""
        changes: list[str] = []
        had_any = self.trusted() is not None
        vouching: Rrsig | None = None
        pending_signers: list[tuple[bytes, Rrsig]] = []
        for good, (meaning, rdata, signature) in zip(results, look.meanings, strict=True):
            if not good:
                continue
            if meaning is Meaning.REVOKES:
                self._revoke(rdata, now, changes)
            elif meaning is Meaning.HOPES:
                pending_signers.append((rdata, signature))
            elif vouching is None:
                vouching = signature
        if had_any and vouching is None and self.trusted() is None:
            vouching = self._promote_pending(pending_signers, now, changes)
        self.looked = now
        if vouching is None:
            self.failed("no key that is trusted signs for the keys of the zone", now)
            self._apply_timers(now, changes)
            return changes
        self.succeeded, self.trouble = now, ""
        left = (vouching.expiration - now) & 0xFFFFFFFF
        self.due = now + max(SHORTEST, min(QUERY_MOST, vouching.original_ttl // QUERY_PART, left // QUERY_PART))
        self.retry = max(SHORTEST, min(RETRY_MOST, vouching.original_ttl // RETRY_PART, left // RETRY_PART))
        self._update_states(look.present, vouching.original_ttl, now, changes)
        self._apply_timers(now, changes)
        return changes

    def state_of(self, key: Dnskey) -> KeyState | None:
        """What is known of an unrevoked key; None of a stranger. A configured one is valid before anybody looked."""
        known = self.keys.get(key.rdata)
        if known is not None:
            return known.state
        return KeyState.VALID if self._is_configured(key) else None

    def failed(self, why: str, now: int) -> None:
        """A look came to nothing: the next one follows earlier than usual (section 2.3)."""
        self.looked, self.trouble = now, why
        self.due = now + self.retry

    def _revoke(self, rdata: bytes, now: int, changes: list[str]) -> None:
        known = self.keys.get(rdata)
        if known is None:
            key = parse_dnskey(rdata)
            assert key is not None
            known = self.keys[rdata] = ManagedKey(key, KeyState.VALID, now)
        if known.state in TRUSTED or known.state is KeyState.ADDPEND:
            known.enter(KeyState.REVOKED, now)
            changes.append(f"key {known.key.tag} of {names.to_text(self.zone)} is revoked")

    def _promote_pending(
        self, pending_signers: list[tuple[bytes, Rrsig]], now: int, changes: list[str]
    ) -> Rrsig | None:
        """The last trusted key has just revoked itself: those that were about to be trusted take its place.

        Their hold-down time is over, and the revoked key had signed for them in every look of it; what they lack is one
        look more (section 2.2). A host that slept at the wrong moment would otherwise lose the zone for good.
        """
        signed: Rrsig | None = None
        for rdata, signature in pending_signers:
            known = self.keys[rdata]
            if known.state is KeyState.ADDPEND and now >= known.until and known.looks >= LOOKS:
                known.enter(KeyState.VALID, now)
                zone = names.to_text(self.zone)
                changes.append(f"key {known.key.tag} of {zone} is trusted now, because the last trusted key is revoked")
                signed = signed or signature
        return signed

    def _update_states(self, present: tuple[Dnskey, ...], original_ttl: int, now: int, changes: list[str]) -> None:
        """Hold a vouched-for set against what is known: keys come, stay away, come back."""
        zone = names.to_text(self.zone)
        for key in present:
            known = self.keys.get(key.rdata)
            if known is None:
                if self._is_configured(key):
                    self.keys[key.rdata] = ManagedKey(key, KeyState.VALID, now)
                    changes.append(f"key {key.tag} of {zone} is configured and trusted")
                elif sum(other.state not in UNTRUSTED for other in self.keys.values()) < MOST_KEYS:
                    # "30 days or the expiration time of the original TTL", whichever is greater (section 2.4.1).
                    until = now + max(self.times.add, original_ttl)
                    self.keys[key.rdata] = ManagedKey(key, KeyState.ADDPEND, now, until=until, looks=1)
                    changes.append(f"key {key.tag} of {zone} is new; it is trusted after its add hold-down time")
            elif known.state is KeyState.ADDPEND:
                known.looks += 1
                if now >= known.until and known.looks > LOOKS:
                    known.enter(KeyState.VALID, now)
                    changes.append(f"key {key.tag} of {zone} is trusted now")
            elif known.state is KeyState.MISSING:
                known.enter(KeyState.VALID, now)
                changes.append(f"key {key.tag} of {zone} is published again")
        there = {key.rdata for key in present}
        for rdata, known in list(self.keys.items()):
            if rdata in there:
                continue
            if known.state is KeyState.ADDPEND:
                del self.keys[rdata]
                changes.append(f"key {known.key.tag} of {zone} is no longer published; it was not trusted yet")
            elif known.state is KeyState.VALID:
                known.enter(KeyState.MISSING, now)
                changes.append(f"key {known.key.tag} of {zone} is trusted but no longer published (missing)")

    def _apply_timers(self, now: int, changes: list[str]) -> None:
        """What time alone does."""
        zone = names.to_text(self.zone)
        valid = any(known.state is KeyState.VALID for known in self.keys.values())
        for known in self.keys.values():
            age = now - known.since
            if known.state is KeyState.REVOKED and age >= self.times.remove:
                known.enter(KeyState.REMOVED, now)
                changes.append(f"key {known.key.tag} of {zone} is removed {age // 86_400} days after its revocation")
            elif known.state is KeyState.MISSING and valid and 0 < self.times.missing <= age:
                if self._is_configured(known.key):
                    continue
                known.enter(KeyState.REMOVED, now)
                changes.append(f"key {known.key.tag} of {zone} is removed after missing for {age // 86_400} days")
        # Bounded: those removed longest ago are forgotten, unless the configuration would bring them back.
        removed = [item for item in self.keys.items() if item[1].state is KeyState.REMOVED]
        removed = [item for item in removed if not self._is_configured(item[1].key)]
        for rdata, _ in sorted(removed, key=lambda item: item[1].since)[: max(0, len(removed) - MOST_KEYS)]:
            del self.keys[rdata]

    def _is_configured(self, key: Dnskey) -> bool:
        if any(key.rdata == other.rdata for other in self.configured.keys):
            return True
        budget = _probe_budget()
        return any(ds_matches(budget, ds, self.zone, key) for ds in self.configured.ds)


def prepare_probe(point: TrustPoint, rrset: RRset, now: int, algorithms: Iterable[int] = ALGORITHMS) -> Probe:
    """Prepare a look at the DNSKEY set of a zone: which keys it holds, and which signatures say what about it.

    Few checks are made however many keys and signatures are sent (KeyTrap, CVE-2023-50387).
    """
    supported = frozenset(algorithms)
    sigs = [sig for sig in map(parse_rrsig, rrset.sigs()[:MOST_CHECKS]) if sig is not None]
    sigs = [sig for sig in sigs if sig.covered == c.DNSKEY and sig.signer == point.zone and _in_time(sig, now)]
    present: list[Dnskey] = []
    jobs: list[SignatureJob] = []
    meanings: list[tuple[Meaning, bytes, Rrsig]] = []
    budget = _probe_budget()
    for key in map(parse_dnskey, rrset.rdatas()):
        if key is None or key.algorithm not in supported or key.protocol != DNSKEY_PROTOCOL:
            continue
        identity = unrevoked(key)
        standing = point.state_of(identity)
        # Only entry points of the zone become anchors (section 2.2); what is one already may lack the bit.
        if not key.flags & ZONE_KEY or not (key.flags & SECURE_ENTRY or standing is not None):
            continue
        revoked = key is not identity
        if not revoked:
            present.append(key)
        if standing not in TRUSTED and standing is not KeyState.ADDPEND:
            continue
        meaning = Meaning.VOUCHES if standing in TRUSTED else Meaning.HOPES
        if revoked:
            meaning = Meaning.REVOKES
        for sig in sigs:
            if sig.tag != key.tag or sig.algorithm != key.algorithm:
                continue
            job = signature_job(budget, key, sig, signed_data(rrset, sig)) if budget.verifications else None
            if job is not None:
                jobs.append(job)
                meanings.append((meaning, identity.rdata, sig))
    return Probe(tuple(present), tuple(jobs), tuple(meanings))


def _probe_budget() -> Budget:
    """What one look may cost: no client pays for it. Digests are of the few keys that are managed."""
    return Budget(0, 0.0, verifications=MOST_CHECKS, hashes=limits.AUTOTRUST_HASHES)


def unrevoked(key: Dnskey) -> Dnskey:
    """The key as it was before it set its REVOKE bit, which changes its tag (section 2.1); itself when it has not."""
    if not key.flags & REVOKED:
        return key
    made = parse_dnskey((key.flags & ~REVOKED).to_bytes(2, "big") + key.rdata[2:])
    assert made is not None
    return made


def _in_time(sig: Rrsig, now: int) -> bool:
    now32 = now & 0xFFFFFFFF
    return not serial_before(sig.expiration, now32) and not serial_before(now32, sig.inception)
