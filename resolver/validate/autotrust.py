"""Automated updates of trust anchors (RFC 5011): the states of each key and their transitions.

Sans-IO: the input is a probe of the zone's DNSKEY set with its time, then the results of its signature checks; the
output is the set of trusted keys. Queries, checks, files and clocks are elsewhere (`resolver.daemon.autotrust`).

Invariants:

* A new key becomes trusted only when each valid probe during the hold-down time, and one after it, contained it; a
  probe is valid when a trusted key signed the set. So a stolen key alone adds no other before its owner can notice.
  `_promote_pending` is the exception.
* A key that revoked itself, in a set that it signed, is not trusted again as long as it is remembered (RFC 5011 section
  2.1). A configured key is remembered for ever. Of the others that were revoked or removed, the last `MANAGED_KEYS` are
  (section 4.2 permits to forget removed keys), so that a zone cannot fill the file. A forgotten key that is published
  again is a new key: it needs the whole hold-down time, in sets that a trusted key signed. An attacker who can sign
  these could add any other key, so forgetting a key gives no additional power.
* A configured key stays trusted until it revokes itself: no other probe, file or time ends that.
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
    """The states of RFC 5011 section 4.2. A key in the state "Start" is one that is not stored here."""

    ADDPEND = "addpend"
    """Seen in a set signed by a trusted key; its hold-down time has not ended."""
    VALID = "valid"
    """A trust anchor."""
    MISSING = "missing"
    """A trust anchor that the zone no longer publishes, although it did not revoke it."""
    REVOKED = "revoked"
    """It has revoked itself and is no trust anchor any more."""
    REMOVED = "removed"
    """It was revoked or missing for a long time; it is stored so that it is not trusted again."""


TRUSTED = frozenset((KeyState.VALID, KeyState.MISSING))
UNTRUSTED = frozenset((KeyState.REVOKED, KeyState.REMOVED))


class HoldDown(NamedTuple):
    """The hold-down times in seconds (RFC 5011 section 2.4)."""

    add: int = limits.ADD_HOLD_DOWN.default
    remove: int = limits.REMOVE_HOLD_DOWN.default
    missing: int = limits.MISSING_HOLD_DOWN.default
    """A missing key that is not configured is removed after this time, if another key is valid; 0: never."""


class ManagedKey:
    """One key of a zone. `key` is without the REVOKE bit; times are in seconds of the real-time clock."""

    __slots__ = ("key", "looks", "since", "state", "until")

    def __init__(self, key: Dnskey, state: KeyState, since: int, *, until: int = 0, looks: int = 0) -> None:
        self.key = key
        self.state = state
        self.since = since
        """When it entered this state."""
        self.until = until
        """When the hold-down time of a pending key ends; 0 in all other states."""
        self.looks = looks
        """Number of valid probes that contained a pending key."""

    def enter(self, state: KeyState, now: int) -> None:
        """Change to another state."""
        self.state, self.since, self.until, self.looks = state, now, 0, 0

    def __repr__(self) -> str:
        return f"ManagedKey(tag={self.key.tag}, {self.state.value}, since={self.since})"


class Meaning(Enum):
    """The meaning of a valid signature over a DNSKEY set."""

    BY_TRUSTED = 1
    """A trusted key signed the set, so the probe is valid."""
    REVOKES = 2
    """A stored or configured key revokes itself."""
    BY_PENDING = 3
    """A pending key signed the set, which counts only when no trusted key is left."""


class Probe(NamedTuple):
    """A DNSKEY set that was received, and the signature checks that it needs."""

    present: tuple[Dnskey, ...]
    """Keys that can be trust anchors: zone keys with the SEP bit or known, of supported algorithms, not revoked."""
    jobs: tuple[SignatureJob, ...]
    meanings: tuple[tuple[Meaning, bytes, Rrsig], ...]
    """For each job: its meaning, the rdata of the signing key without the REVOKE bit, and the signature."""


class TrustPoint:
    """The keys of one zone that has a trust anchor. `configured` is the anchor of the configuration."""

    def __init__(self, configured: Anchor, times: HoldDown) -> None:
        self.zone = configured.zone
        self.configured = configured
        self.times = times
        self.keys: dict[bytes, ManagedKey] = {}
        self.looked = 0
        """Time of the last probe; `succeeded` that of the last valid one; 0 for never."""
        self.succeeded = 0
        self.due = 0
        """Time of the next probe."""
        self.retry = SHORTEST
        self.trouble = ""
        """Why the last probe failed; "" when it succeeded."""

    # --- what is trusted ------------------------------------------------------------------------------------------

    def trusted(self) -> Anchor | None:
        """The trust anchor of the zone; None when all trusted keys have been revoked.

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

    # --- probes ---------------------------------------------------------------------------------------------------

    def observe(self, probe: Probe, results: Sequence[bool], now: int) -> list[str]:
        """Update the states after a probe; returns a sentence for each change. `results` are those of its jobs."""
        changes: list[str] = []
        had_any = self.trusted() is not None
        vouching: Rrsig | None = None
        pending_signers: list[tuple[bytes, Rrsig]] = []
        for good, (meaning, rdata, signature) in zip(results, probe.meanings, strict=True):
            if not good:
                continue
            if meaning is Meaning.REVOKES:
                self._revoke(rdata, now, changes)
            elif meaning is Meaning.BY_PENDING:
                pending_signers.append((rdata, signature))
            elif vouching is None:
                vouching = signature
        if had_any and vouching is None and self.trusted() is None:
            vouching = self._promote_pending(pending_signers, now, changes)
        self.looked = now
        if vouching is None:
            self.failed("the keys of the zone are not signed by a trusted key", now)
            self._apply_timers(now, changes)
            return changes
        self.succeeded, self.trouble = now, ""
        left = (vouching.expiration - now) & 0xFFFFFFFF
        self.due = now + max(SHORTEST, min(QUERY_MOST, vouching.original_ttl // QUERY_PART, left // QUERY_PART))
        self.retry = max(SHORTEST, min(RETRY_MOST, vouching.original_ttl // RETRY_PART, left // RETRY_PART))
        self._update_states(probe.present, vouching.original_ttl, now, changes)
        self._apply_timers(now, changes)
        return changes

    def state_of(self, key: Dnskey) -> KeyState | None:
        """The state of a key without the REVOKE bit; None when it is unknown. A configured key is valid at once."""
        known = self.keys.get(key.rdata)
        if known is not None:
            return known.state
        return KeyState.VALID if self._is_configured(key) else None

    def failed(self, why: str, now: int) -> None:
        """Note that a probe failed: the next one follows after the retry interval (section 2.3)."""
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
        """The last trusted key has just revoked itself: make pending keys valid whose hold-down time has ended.

        The revoked key had signed all probes during that time; only the probe after its end is missing (section 2.2).
        Otherwise a host that was suspended at that moment would lose the trust point.
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
        """Compare the set of a valid probe with the stored keys: new, missing and returned ones change their state."""
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
        """The transitions that depend on time only."""
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
        # MOST_KEYS revoked and removed keys are kept; removed ones are forgotten first, then older ones. Configured
        # ones are kept, because they would be trusted again.
        gone = [(known.state is KeyState.REVOKED, known.since, rdata) for rdata, known in self.keys.items()
                if known.state in UNTRUSTED and not self._is_configured(known.key)]
        for _, _, rdata in sorted(gone)[: max(0, len(gone) - MOST_KEYS)]:
            del self.keys[rdata]

    def _is_configured(self, key: Dnskey) -> bool:
        if any(key.rdata == other.rdata for other in self.configured.keys):
            return True
        budget = _probe_budget()
        return any(ds_matches(budget, ds, self.zone, key) for ds in self.configured.ds)


def prepare_probe(point: TrustPoint, rrset: RRset, now: int, algorithms: Iterable[int] = ALGORITHMS) -> Probe:
    """Prepare a probe from the DNSKEY set of a zone: its keys, and the signature checks with their meaning.

    At most `MOST_CHECKS` checks are made, however many keys and signatures are sent (KeyTrap, CVE-2023-50387).
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
        # Only secure entry points become trust anchors (section 2.2); keys that already are may lack the bit.
        if not key.flags & ZONE_KEY or not (key.flags & SECURE_ENTRY or standing is not None):
            continue
        revoked = key is not identity
        if not revoked:
            present.append(key)
        if standing not in TRUSTED and standing is not KeyState.ADDPEND:
            continue
        meaning = Meaning.BY_TRUSTED if standing in TRUSTED else Meaning.BY_PENDING
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
    """The budget of one probe, which belongs to no client query. Only digests of managed keys are computed."""
    return Budget(0, 0.0, verifications=MOST_CHECKS, hashes=limits.AUTOTRUST_HASHES)


def unrevoked(key: Dnskey) -> Dnskey:
    """The key without the REVOKE bit, which changes its tag (section 2.1); the same object when it is not set."""
    if not key.flags & REVOKED:
        return key
    made = parse_dnskey((key.flags & ~REVOKED).to_bytes(2, "big") + key.rdata[2:])
    assert made is not None
    return made


def _in_time(sig: Rrsig, now: int) -> bool:
    now32 = now & 0xFFFFFFFF
    return not serial_before(sig.expiration, now32) and not serial_before(now32, sig.inception)
