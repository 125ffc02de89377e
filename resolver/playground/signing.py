"""Signs the zones of the simulated Internet: keys, signatures, NSEC and NSEC3 chains, and the DS records of parents.

A zone is first signed correctly according to its plan, then changed by the faults of the plan, so that each broken zone
has one fault only. The keys are NOT SECRET: they are derived from the zone's name, or printed below, because generating
RSA keys would take most of the start time. They are trusted in the playground only. Signature times are relative to a
given `now`; there is no clock.
"""

import base64
import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa, utils

from resolver.playground.zones import Zone
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["Draft", "Key", "KeySpec", "Nsec3", "Plan", "bitmap", "ds_rdata", "key_tag", "rrsig_rdata", "sign_world"]

RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512, ECDSAP256, ECDSAP384, ED25519, ED448 = 5, 7, 8, 10, 13, 14, 15, 16
RSA_HASHES: dict[int, type[hashes.HashAlgorithm]] = {
    RSASHA1: hashes.SHA1,
    RSASHA1_NSEC3: hashes.SHA1,
    RSASHA256: hashes.SHA256,
    RSASHA512: hashes.SHA512,
}
# A published test key of 1024 bits, shared by all RSA zones of the playground.
RSA_EXPONENT = 65537
RSA_P = int(
    "faf4af1926f78ecb5a29779ac6bb640bbf338c8481e460cce1724f335ce79acef9ca0e4b86c5a97386c69e0c355321e4494432aab3945ad3"
    "3660d42cdd4859bd",
    16,
)
RSA_Q = int(
    "e5566bedacc76d1a693df61ec489e639827d897fba11a78fba341ca5d429e21a578279cc4cf2b3740431511c2f14c17c1ee040d6b6bb2387"
    "eb19ad791d66fd17",
    16,
)

DAY = 86400
KEY_TTL = 3600
SEP = 0x0001
DIGESTS: dict[int, Callable[[bytes], Any]] = {1: hashlib.sha1, 2: hashlib.sha256, 4: hashlib.sha384}
RRSIG_HEAD = struct.Struct("!HBBIIIH")


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One key of a plan. It may sign without being published, or be published without signing."""

    algorithm: int = ECDSAP256
    flags: int = 257
    protocol: int = 3
    label: str = ""
    published: bool = True
    signs: bool = True


@dataclass(frozen=True, slots=True)
class Nsec3:
    """Parameters of an NSEC3 chain (RFC 5155 section 3.1)."""

    iterations: int = 0
    salt: bytes = b""
    opt_out: bool = False
    algorithm: int = 1
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a zone is signed, and its faults. Times are seconds from `now`."""

    keys: tuple[KeySpec, ...] = (KeySpec(),)
    nsec3: Nsec3 | None = None
    begins: int = -DAY
    ends: int = 30 * DAY
    ds: "Callable[[bytes, tuple[Key, ...]], list[bytes]] | None" = None
    """DS rdata for the parent; None: one SHA-256 digest for each key with the SEP flag."""
    faults: "tuple[Callable[[Draft], None], ...]" = ()


class Key:
    """A key pair derived from zone name, algorithm and label, so it is the same in every run."""

    __slots__ = ("_private", "algorithm", "rdata", "spec", "zone")

    def __init__(self, zone: bytes, spec: KeySpec) -> None:
        self.zone = zone
        self.spec = spec
        self.algorithm = spec.algorithm
        seed = hashlib.sha512(b"%s|%d|%s" % (zone, spec.algorithm, spec.label.encode())).digest()
        self._private, public = _pair(spec.algorithm, seed)
        self.rdata = struct.pack("!HBB", spec.flags, spec.protocol, spec.algorithm) + public

    @property
    def tag(self) -> int:
        """RFC 4034 appendix B."""
        return key_tag(self.rdata)

    @property
    def entry(self) -> bool:
        """Whether the DS of the parent names it, by the SEP flag (RFC 4034 section 2.1.1)."""
        return bool(self.spec.flags & SEP)

    def sign(self, data: bytes) -> bytes:
        """The signature in the format of RRSIG (RFC 3110, RFC 6605, RFC 8080)."""
        private = self._private
        if self.algorithm in RSA_HASHES:
            return bytes(private.sign(data, padding.PKCS1v15(), RSA_HASHES[self.algorithm]()))
        if self.algorithm in (ED25519, ED448):
            return bytes(private.sign(data))
        half = 32 if self.algorithm == ECDSAP256 else 48
        digest = hashes.SHA256() if self.algorithm == ECDSAP256 else hashes.SHA384()
        r, s = utils.decode_dss_signature(private.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    d = pow(RSA_EXPONENT, -1, (RSA_P - 1) * (RSA_Q - 1))
    numbers = rsa.RSAPrivateNumbers(
        RSA_P,
        RSA_Q,
        d,
        rsa.rsa_crt_dmp1(d, RSA_P),
        rsa.rsa_crt_dmq1(d, RSA_Q),
        rsa.rsa_crt_iqmp(RSA_P, RSA_Q),
        rsa.RSAPublicNumbers(RSA_EXPONENT, RSA_P * RSA_Q),
    )
    # The validation of the key takes longer than all signatures of the playground.
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def _pair(algorithm: int, seed: bytes) -> tuple[Any, bytes]:
    """The private key and the public key field of DNSKEY."""
    private: Any
    if algorithm in RSA_HASHES:
        exponent = RSA_EXPONENT.to_bytes(3, "big")
        return _rsa_key(), bytes((len(exponent),)) + exponent + (RSA_P * RSA_Q).to_bytes(128, "big")
    if algorithm == ED25519:
        private = ed25519.Ed25519PrivateKey.from_private_bytes(seed[:32])
        return private, private.public_key().public_bytes_raw()
    if algorithm == ED448:
        private = ed448.Ed448PrivateKey.from_private_bytes(seed[:57])
        return private, private.public_key().public_bytes_raw()
    half = 32 if algorithm == ECDSAP256 else 48
    curve: ec.EllipticCurve = ec.SECP256R1() if algorithm == ECDSAP256 else ec.SECP384R1()
    # One bit shorter than the order of the curve, so always a valid private key.
    private = ec.derive_private_key(int.from_bytes(seed[:half], "big") >> 1 | 1, curve)
    point = private.public_key().public_numbers()
    return private, point.x.to_bytes(half, "big") + point.y.to_bytes(half, "big")


# --- records ----------------------------------------------------------------------------------------------------------


def key_tag(rdata: bytes) -> int:
    """The tag of DNSKEY rdata (RFC 4034 appendix B)."""
    padded = rdata + b"\0" * (len(rdata) & 1)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    return (total + (total >> 16)) & 0xFFFF


def ds_rdata(zone: bytes, dnskey: bytes, *, digest: int = 2) -> bytes:
    """DS rdata for DNSKEY rdata (RFC 4034 section 5.1.4)."""
    return struct.pack("!HBB", key_tag(dnskey), dnskey[3], digest) + bytes(DIGESTS[digest](zone + dnskey).digest())


def bitmap(types: Iterable[int]) -> bytes:
    """A type bitmap (RFC 4034 section 4.1.2)."""
    windows: dict[int, bytearray] = {}
    for rtype in sorted(types):
        window = windows.setdefault(rtype >> 8, bytearray())
        low = rtype & 0xFF
        window.extend(bytes((low >> 3) + 1 - len(window)))
        window[low >> 3] |= 0x80 >> (low & 7)
    return b"".join(bytes((number, len(window))) + window for number, window in windows.items())


def nsec3_digest(name: bytes, params: Nsec3) -> bytes:
    """RFC 5155 section 5; `name` in lower case."""
    digest = hashlib.sha1(name + params.salt, usedforsecurity=False).digest()
    for _ in range(params.iterations):
        digest = hashlib.sha1(digest + params.salt, usedforsecurity=False).digest()
    return digest


def rrsig_rdata(
    rrset: RRset,
    key: Key,
    begins: int,
    ends: int,
    *,
    signer: bytes | None = None,
    labels: int | None = None,
    original_ttl: int | None = None,
) -> bytes:
    """RRSIG rdata over `rrset` (RFC 4034 section 3.1.8.1). Arguments replace the correct fields before signing."""
    owner = names.lower(rrset.name)
    signer = key.zone if signer is None else signer
    ttl = rrset.ttl if original_ttl is None else original_ttl
    stars = owner.startswith(b"\x01*")
    own = names.label_count(owner) - stars
    count = own if labels is None else labels
    head = RRSIG_HEAD.pack(rrset.rtype, key.algorithm, count, ttl, ends & 0xFFFFFFFF, begins & 0xFFFFFFFF, key.tag)
    if count < own:
        owner = names.wildcard(names.suffix(owner, count))
    front = owner + struct.pack("!HHI", rrset.rtype, rrset.rclass, ttl)
    body = b"".join(front + len(rdata).to_bytes(2, "big") + rdata for rdata in rrset.canonical_rdatas())
    return head + signer + key.sign(head + signer + body)


# --- one zone ---------------------------------------------------------------------------------------------------------


class Draft:
    """A zone during signing, which faults change. `keys_of` returns the keys of any zone of the world."""

    def __init__(self, zone: Zone, plan: Plan, now: int, keys_of: Callable[[bytes], tuple[Key, ...]]) -> None:
        self.zone = zone
        self.plan = plan
        self.now = now
        self.keys_of = keys_of
        self.keys = keys_of(zone.origin)

    def sign(self, rrset: RRset, *, keys: Iterable[Key] | None = None, **changes: Any) -> RRset:
        """`rrset` with fresh signatures; `changes` are those of `rrsig_rdata`, and `begins` and `ends`."""
        begins = self.now + changes.pop("begins", self.plan.begins)
        ends = self.now + changes.pop("ends", self.plan.ends)
        chosen = self._signers(rrset.rtype) if keys is None else keys
        return rrset.with_sigs([rrsig_rdata(rrset, key, begins, ends, **changes) for key in chosen])

    def _signers(self, rtype: int) -> list[Key]:
        """Key-signing keys sign DNSKEY, zone-signing keys the rest; keys of only one kind sign everything."""
        signing = [key for key in self.keys if key.spec.signs]
        split = [key for key in signing if key.entry == (rtype == c.DNSKEY)]
        return split or signing

    def name(self, label: str) -> bytes:
        """The name `label` (empty: the apex) of this zone."""
        origin = names.to_text(self.zone.origin)
        return names.from_text(f"{label}.{origin}" if label else origin)

    def complete(self) -> None:
        """Add keys and denials, and sign all authoritative RRsets (RFC 4035 section 2)."""
        zone, apex = self.zone, self.zone.nodes[self.zone.origin]
        published = [key.rdata for key in self.keys if key.spec.published]
        if published:
            apex[c.DNSKEY] = RRset(zone.origin, c.DNSKEY, KEY_TTL, published)
        chain = self.plan.nsec3
        if chain is not None:
            head = struct.pack("!BBHB", chain.algorithm, 0, chain.iterations, len(chain.salt))
            apex[c.NSEC3PARAM] = RRset(zone.origin, c.NSEC3PARAM, 0, [head + chain.salt])
        own = self._own_types()
        (self._nsec if chain is None else self._nsec3)(own)
        for owner, types in own.items():
            node = zone.nodes[owner]
            for rtype in types - {c.NS} if owner in zone.cuts else types:
                node[rtype] = self.sign(node[rtype])
            if c.NSEC in node:
                node[c.NSEC] = self.sign(node[c.NSEC])
        for digest, rrset in zone.nsec3.items():
            zone.nsec3[digest] = self.sign(rrset)
        zone.soa = apex[c.SOA]

    def _own_types(self) -> dict[bytes, set[int]]:
        """Authoritative names with their types: NS and DS at a zone cut, none below it."""
        zone = self.zone
        found = {}
        for owner, node in zone.nodes.items():
            above = owner
            while above != zone.origin:
                above = names.parent(above)
                if above in zone.cuts:
                    break
            else:
                types = set(node)
                if types:
                    found[owner] = types & {c.NS, c.DS} if owner in zone.cuts else types
        return found

    def _minimum(self) -> int:
        return self.zone.negative_soa().ttl

    def _nsec(self, own: Mapping[bytes, set[int]]) -> None:
        """RFC 4035 section 2.3."""
        order = sorted(own, key=names.canonical_key)
        for here, following in zip(order, [*order[1:], order[0]], strict=True):
            types = own[here] | {c.RRSIG, c.NSEC}
            rdata = following + bitmap(types)
            self.zone.nodes[here][c.NSEC] = RRset(here, c.NSEC, self._minimum(), [rdata])

    def _nsec3(self, own: Mapping[bytes, set[int]]) -> None:
        """RFC 5155 section 7.1: with empty non-terminals; opt-out omits unsigned delegations."""
        zone, params = self.zone, self.plan.nsec3
        assert params is not None
        hashed: dict[bytes, set[int]] = {}
        for owner, types in own.items():
            if params.opt_out and owner in zone.cuts and c.DS not in types:
                continue
            signed = owner not in zone.cuts or c.DS in types
            hashed[nsec3_digest(owner, params)] = types | ({c.RRSIG} if signed else set())
            above = owner
            while above != zone.origin:
                above = names.parent(above)
                if above not in own:
                    hashed.setdefault(nsec3_digest(above, params), set())
        order = sorted(hashed)
        flags = params.flags | params.opt_out
        head = struct.pack("!BBHB", params.algorithm, flags, params.iterations, len(params.salt)) + params.salt
        for here, following in zip(order, [*order[1:], order[0]], strict=True):
            rdata = head + bytes((len(following),)) + following + bitmap(hashed[here])
            zone.nsec3[here] = RRset(hashed_owner(here, zone.origin), c.NSEC3, self._minimum(), [rdata])


def hashed_owner(digest: bytes, origin: bytes) -> bytes:
    """The owner of the NSEC3 record with this hash."""
    return names.prepend(base64.b32hexencode(digest).lower(), origin)


# --- all of them ------------------------------------------------------------------------------------------------------


def sign_world(zones: Mapping[str, Zone], plans: Mapping[str, Plan], now: int) -> tuple[str, ...]:
    """Sign each of `zones` with a plan, in place, and add its DS to the parent; return the trust anchors of the root.

    Raises:
        KeyError: there is no zone for a plan.
    """
    by_wire = {zone.origin: zone for zone in zones.values()}
    plan_of = {zones[origin].origin: plan for origin, plan in plans.items()}

    @cache
    def keys_of(origin: bytes) -> tuple[Key, ...]:
        return tuple(Key(origin, spec) for spec in plan_of[origin].keys)

    anchors: tuple[str, ...] = ()
    for origin, plan in plan_of.items():
        ds_set = ds_of_entries(origin, keys_of(origin)) if plan.ds is None else plan.ds(origin, keys_of(origin))
        if origin == names.ROOT:
            anchors = tuple(". IN DS {} {} {} {}".format(*struct.unpack("!HBB", ds[:4]), ds[4:].hex()) for ds in ds_set)
            continue
        above = names.parent(origin)
        while above not in by_wire:
            above = names.parent(above)
        if ds_set:
            by_wire[above].nodes[origin][c.DS] = RRset(origin, c.DS, KEY_TTL, ds_set)
    for origin, plan in plan_of.items():
        draft = Draft(by_wire[origin], plan, now, keys_of)
        draft.complete()
        for fault in plan.faults:
            fault(draft)
        draft.zone.soa = draft.zone.nodes[origin][c.SOA]
    return anchors


def ds_of_entries(origin: bytes, keys: Iterable[Key]) -> list[bytes]:
    """SHA-256 DS rdata for each published key with the SEP flag."""
    return [ds_rdata(origin, key.rdata) for key in keys if key.entry and key.spec.published]
