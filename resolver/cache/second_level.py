"""The format of entries in a second-level cache: what is shared, how it is written, and the checks when it is read.

An entry is the validated reply of a zone for one question. It consists of a version, a MAC and a body. The MAC covers
the key under which the entry is stored, so an entry cannot be moved to another name. Without a secret it is a checksum
only. Bytes from the engine are untrusted: `Codec.decode` bounds sizes and numbers, and rebuilds each set by the checks
for received records. It either returns a reply that passes `_problem`, as `encode` requires too, or raises.

Times are absolute (seconds since 1970, as the writer's clock had them). TTLs are reduced by the age, and an entry is
used until the first of them has expired.
"""

import hmac
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from resolver import limits
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.errors import WireError
from resolver.wire.rrset import RRset, unpack

__all__ = ["MAC_SIZE", "UNSHARED_TYPES", "Codec", "EntryError", "SharedReply", "Signer"]

VERSION = 1
MAC_SIZE = 16
LARGEST = limits.SECOND_LEVEL_ENTRY
MOST_SETS = limits.SECOND_LEVEL_SETS
SKEW = limits.SECOND_LEVEL_CLOCK_SKEW
DENIED, ALIAS = 1, 2
# Flags, rcode, verdict, number of answer and authority sets, length of the name, TTL of a denial, time.
HEAD = Struct(">BBBBBBIQ")
# Length of the owner, type, TTL, verdict, lengths of rdata and of signatures.
SET = Struct(">BHIBHH")
SHARED_RCODES = (c.NOERROR, c.NXDOMAIN)
SHARED_VERDICTS = (Verdict.INSECURE, Verdict.SECURE)
PROOFS = (c.NSEC, c.NSEC3)
UNSHARED_TYPES = frozenset({c.NS, c.DS, c.DNSKEY, c.RRSIG, c.ANY})
"""Types that every resolver gets from the zones: delegations, the chain of trust, and what is not cached as a set."""


class EntryError(ValueError):
    """Bytes from the engine that are not used. `reason` is a word for statistics."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the entry is not used: {reason}")
        self.reason = reason


class SharedReply(NamedTuple):
    """The reply of one zone for one name, as `resolver.effects.RawReply` has it, with its verdict.

    `name` is the last name of the alias chain in `answer`. `alias`: the chain continues there. `authority` is the SOA
    and the proofs of a denial, or the proofs of an expanded wildcard. `ttl` is that of a denial, in seconds.
    """

    answer: list[RRset]
    authority: list[RRset]
    name: bytes
    rcode: int
    verdict: int
    denied: bool
    alias: bool
    ttl: int

    @property
    def lifetime(self) -> int:
        """The lowest TTL, in seconds."""
        ttls = [rrset.ttl for rrset in (*self.answer, *self.authority)]
        return min([*ttls, self.ttl] if self.denied else ttls, default=0)

    def owners(self) -> set[bytes]:
        """The names, in lower case, whose flush removes this reply."""
        return {names.lower(name) for name in (self.name, *(rrset.name for rrset in self.answer))}


class Signer:
    """Makes and checks the MACs of entries and messages. Without a secret they are checksums."""

    def __init__(self, secret: bytes = b"") -> None:
        self._key = blake2b(secret, digest_size=32).digest() if secret else b""
        self.has_secret = bool(secret)

    def mac(self, purpose: bytes, *parts: bytes) -> bytes:
        """The MAC of `parts`, whose lengths count, for a `purpose` of at most 16 octets."""
        made = blake2b(digest_size=MAC_SIZE, key=self._key, person=purpose)
        for part in parts:
            made.update(len(part).to_bytes(4, "big"))
            made.update(part)
        return made.digest()

    def is_valid(self, mac: bytes, purpose: bytes, *parts: bytes) -> bool:
        """Whether `mac` is that of `parts`."""
        return hmac.compare_digest(mac, self.mac(purpose, *parts))


class Codec:
    """Writes and reads entries of resolvers with the same `label`: a digest of the settings on which data depend."""

    def __init__(self, signer: Signer, label: bytes, prefix: str) -> None:
        self._signer = signer
        self._label = label
        self._prefix = prefix.encode("ascii")

    def key(self, qname: bytes, qtype: int) -> bytes:
        """The key of a question in the engine. It is a digest, so all keys are short and none chooses its node."""
        digest = self._signer.mac(b"key", self._label, names.lower(qname), qtype.to_bytes(2, "big"))
        return self._prefix + digest.hex().encode("ascii")

    def encode(self, reply: SharedReply, qname: bytes, qtype: int, now: int) -> bytes | None:
        """The entry for `reply`, or None when it is not to be shared: its form is unusual, or it is too large."""
        if _problem(reply, qname, qtype) or reply.lifetime <= 0:
            return None
        flags = DENIED * reply.denied | ALIAS * reply.alias
        parts = [HEAD.pack(flags, reply.rcode, reply.verdict, len(reply.answer), len(reply.authority), len(reply.name),
                           reply.ttl, now), reply.name]
        for rrset in (*reply.answer, *reply.authority):
            if max(len(rrset.packed), len(rrset.packed_sigs)) >= LARGEST:
                return None
            parts += (SET.pack(len(rrset.name), rrset.rtype, rrset.ttl, rrset.verdict, len(rrset.packed),
                               len(rrset.packed_sigs)), rrset.name, rrset.packed, rrset.packed_sigs)
        body = b"".join(parts)
        if 1 + MAC_SIZE + len(body) > LARGEST:
            return None
        version = bytes((VERSION,))
        return version + self._signer.mac(b"entry", version, self.key(qname, qtype), body) + body

    def decode(self, data: bytes, qname: bytes, qtype: int, now: int) -> tuple[SharedReply, int]:
        """The reply in an entry for this question, with TTLs from now on, and when it was stored.

        Raises:
            EntryError: it is from another version, damaged, forged, expired, or not an entry for this question.
        """
        if data[:1] != bytes((VERSION,)):
            raise EntryError("version")
        body = data[1 + MAC_SIZE :]
        if len(data) > LARGEST or not self._signer.is_valid(
            data[1 : 1 + MAC_SIZE], b"entry", data[:1], self.key(qname, qtype), body
        ):
            raise EntryError("checksum")
        try:
            reply, stored = _read(body, qname, now)
        except (WireError, StructError, IndexError, ValueError) as error:
            raise error if isinstance(error, EntryError) else EntryError("malformed") from None
        if _problem(reply, qname, qtype):
            raise EntryError("malformed")
        return reply, stored


def _read(body: bytes, qname: bytes, now: int) -> tuple[SharedReply, int]:
    """The content of an entry whose MAC is right.

    Raises:
        EntryError: it has expired, or comes from the future.
        WireError, StructError, ValueError: it is inconsistent.
    """
    flags, rcode, verdict, answers, others, size, ttl, stored = HEAD.unpack_from(body)
    if stored > now + SKEW:
        raise EntryError("future")
    age = max(now - stored, 0)
    at = HEAD.size + size
    name = body[HEAD.size : at]
    if not names.is_valid(name) or answers + others > MOST_SETS:
        raise ValueError("no name, or too many sets")
    sets = []
    for _ in range(answers + others):
        size, rtype, full, status, rdata_size, sigs_size = SET.unpack_from(body, at)
        at += SET.size
        owner = body[at : at + size]
        rdata_at = at + size
        sigs_at = rdata_at + rdata_size
        at = sigs_at + sigs_size
        if at > len(body):
            raise ValueError("a set is longer than the entry")
        if full <= age:
            raise EntryError("expired")
        if names.is_valid(owner) and names.equal(owner, qname):
            owner = qname  # found data have the owner as queried
        sets.append(RRset(owner, rtype, full - age, unpack(body[rdata_at:sigs_at]), sigs=unpack(body[sigs_at:at]),
                          trust=Trust.VALIDATED if status == Verdict.SECURE else Trust.NONAUTH_ANSWER, verdict=status))
    if at != len(body):
        raise ValueError("something follows the last set")
    denied = bool(flags & DENIED)
    if denied and ttl <= age:
        raise EntryError("expired")
    return SharedReply(sets[:answers], sets[answers:], name, rcode, verdict, denied, bool(flags & ALIAS),
                       ttl - age if denied else 0), stored


def _problem(reply: SharedReply, qname: bytes, qtype: int) -> str:
    """Why `reply` is no validated answer to the question; "" when it is."""
    every = (*reply.answer, *reply.authority)
    if qtype in UNSHARED_TYPES or not (0 < qtype <= c.LAST_DATA_TYPE or qtype > c.ANY):
        return "the type is not shared"
    if reply.verdict not in SHARED_VERDICTS or any(one.verdict not in SHARED_VERDICTS for one in every):
        return "not validated"
    if every and reply.verdict > min(one.verdict for one in every):
        return "the verdict is above that of a set"
    if reply.rcode not in SHARED_RCODES or len(every) > MOST_SETS or any(not len(one) for one in every):
        return "an rcode or a set that is not shared"
    return _chain_problem(reply, qname, qtype) or _authority_problem(reply)


def _chain_problem(reply: SharedReply, qname: bytes, qtype: int) -> str:
    """Why the answer is no chain of aliases from the qname, ended as the reply says; "" when it is."""
    name, has_data = qname, False
    for rrset in reply.answer:
        if has_data:
            return "something follows the data"
        if rrset.rtype == c.DNAME and rrset.rtype != qtype:
            if not names.is_subdomain(name, rrset.name) or names.equal(name, rrset.name):
                return "a DNAME of another name"
            continue
        if not names.equal(rrset.name, name) or rrset.rtype not in (c.CNAME, qtype):
            return "a set of another name or type"
        has_data = rrset.rtype == qtype
        if not has_data:
            if len(rrset) != 1:
                return "several aliases"
            name = rrset.targets()[0]
    if not names.equal(name, reply.name) or has_data + reply.denied + reply.alias != 1:
        return "another end than its own"
    return "an alias of nothing" if reply.alias and names.equal(name, qname) else ""


def _authority_problem(reply: SharedReply) -> str:
    """Why the authority section is neither that of a denial nor the proofs of a wildcard; "" when it is."""
    proofs = reply.authority
    if reply.denied:
        if not proofs or proofs[0].rtype != c.SOA or not names.is_subdomain(reply.name, proofs[0].name):
            return "a denial without SOA"
        proofs = proofs[1:]
    elif reply.rcode != c.NOERROR:
        return "an rcode without a denial"
    return "" if all(one.rtype in PROOFS for one in proofs) else "an authority section of other types"
