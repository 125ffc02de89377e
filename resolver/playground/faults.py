"""Faults of signed zones of the playground: each is a small change to a correctly signed zone.

A fault changes records and not servers, so that it can be exported to real name servers. It makes only the change that
the table in signed.py describes. Functions with arguments return a fault; labels are relative to the zone (empty: the
apex).
"""

from collections.abc import Callable, Iterable
from typing import Any

from resolver.playground.signing import Draft, Key, Nsec3, bitmap, ds_rdata, hashed_owner, key_tag, nsec3_digest
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = [
    "ALGORITHM_AT",
    "TAG_AT",
    "TTL_AT",
    "Fault",
    "alter_signature",
    "collide",
    "corrupt",
    "ds_digest",
    "ds_downgrade",
    "ds_other_key",
    "ds_spoilt",
    "ds_tag",
    "ds_unknown",
    "ds_with",
    "forget",
    "forget_all",
    "nsec3_bitmap",
    "nsec3_forget",
    "nsec3_rehash",
    "nsec3_spoil",
    "nsec3_unsign",
    "nsec_bitmap",
    "nsec_next",
    "replace_rdata",
    "resign",
    "resign_as",
    "resign_by_parent",
    "set_ttl",
    "sign_all_with",
    "sign_with",
    "strip",
    "unsign",
    "unsign_all",
]

Fault = Callable[[Draft], None]
ALGORITHM_AT, TTL_AT, TAG_AT = 2, 4, 16
"""Offsets of fields of RRSIG rdata (RFC 4034 section 3.1)."""
JUNK_KEYS = 12


def _at(draft: Draft, label: str, rtype: int) -> tuple[dict[int, RRset], RRset]:
    node = draft.zone.nodes[draft.name(label)]
    return node, node[rtype]


# --- signatures -------------------------------------------------------------------------------------------------------


def corrupt(label: str, rtype: int) -> Fault:
    """The last byte of each signature is wrong."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, rtype)
        node[rtype] = rrset.with_sigs([sig[:-1] + bytes((sig[-1] ^ 1,)) for sig in rrset.sigs()])

    return fault


def alter_signature(label: str, rtype: int, at: int, value: bytes) -> Fault:
    """A field of the signature is overwritten after signing."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, rtype)
        node[rtype] = rrset.with_sigs([sig[:at] + value + sig[at + len(value) :] for sig in rrset.sigs()])

    return fault


def unsign(label: str, rtype: int) -> Fault:
    """The signatures of one RRset are missing."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, rtype)
        node[rtype] = rrset.without_sigs()

    return fault


def unsign_all(*rtypes: int) -> Fault:
    """The signatures of all RRsets of these types are missing; without types, of all."""

    def fault(draft: Draft) -> None:
        for node in draft.zone.nodes.values():
            for rtype, rrset in node.items():
                if not rtypes or rtype in rtypes:
                    node[rtype] = rrset.without_sigs()

    return fault


def resign(label: str, rtype: int, **changes: Any) -> Fault:
    """One RRset is re-signed with `changes` (see `Draft.sign`)."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, rtype)
        node[rtype] = draft.sign(rrset, **changes)

    return fault


def resign_by_parent(label: str, rtype: int) -> Fault:
    """One RRset of the child is signed by the keys of the parent, with the parent as signer."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, rtype)
        node[rtype] = draft.sign(rrset, keys=draft.keys_of(names.parent(draft.zone.origin)))

    return fault


def resign_as(label: str, rtype: int, signer: str) -> Fault:
    """One RRset is signed by the zone's own key with `signer` as signer name."""
    return resign(label, rtype, signer=names.from_text(signer))


def sign_with(label: str, rtype: int, *key_labels: str) -> Fault:
    """One RRset is signed only by the keys with these labels."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, rtype)
        node[rtype] = draft.sign(rrset, keys=[key for key in draft.keys if key.spec.label in key_labels])

    return fault


# --- data -------------------------------------------------------------------------------------------------------------


def replace_rdata(label: str, rtype: int, rdata: bytes) -> Fault:
    """The rdata is changed after signing."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, rtype)
        node[rtype] = RRset(rrset.name, rtype, rrset.ttl, [rdata], sigs=rrset.sigs())

    return fault


def set_ttl(label: str, rtype: int, ttl: int) -> Fault:
    """The TTL differs from the original TTL of the signature."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, rtype)
        node[rtype] = rrset.with_ttl(ttl)

    return fault


def forget(label: str, rtype: int) -> Fault:
    """An RRset and its signatures are missing."""

    def fault(draft: Draft) -> None:
        del draft.zone.nodes[draft.name(label)][rtype]

    return fault


# --- keys -------------------------------------------------------------------------------------------------------------


def _variants(rdata: bytes, count: int) -> list[bytes]:
    """DNSKEY rdata of other keys with the same tag: swapping 16-bit words of the key does not change their sum."""
    head, words = rdata[:4], [rdata[at : at + 2] for at in range(4, len(rdata), 2)]
    found: list[bytes] = []
    for one in range(len(words)):
        for other in range(one + 1, len(words)):
            if len(found) == count:
                return found
            swapped = list(words)
            swapped[one], swapped[other] = words[other], words[one]
            twin = head + b"".join(swapped)
            if twin != rdata and twin not in found:
                found.append(twin)
    raise AssertionError("the key has too few 16-bit words")


def collide(count: int, *, junk: str | None = None) -> Fault:
    """`count` more keys share the tag of the zone's key; with `junk`, the A RRset there has only wrong signatures.

    A small KeyTrap (CVE-2023-50387): a validator without limits tries every key on every signature.
    """

    def fault(draft: Draft) -> None:
        apex = draft.zone.nodes[draft.zone.origin]
        keys = apex[c.DNSKEY]
        twins = _variants(draft.keys[0].rdata, count)
        assert all(key_tag(twin) == draft.keys[0].tag for twin in twins)
        apex[c.DNSKEY] = draft.sign(RRset(keys.name, c.DNSKEY, keys.ttl, [*keys.rdatas(), *twins]))
        if junk is not None:
            node, rrset = _at(draft, junk, c.A)
            (sig,) = rrset.sigs()
            node[c.A] = rrset.with_sigs([sig[:-1] + bytes((sig[-1] ^ n,)) for n in range(1, JUNK_KEYS + 1)])

    return fault


# --- DS in the parent -------------------------------------------------------------------------------------------------

DsMaker = Callable[[bytes, tuple[Key, ...]], list[bytes]]


def ds_with(*digests: int) -> DsMaker:
    """One DS of each digest type for each key with the SEP flag."""
    return lambda zone, keys: [ds_rdata(zone, key.rdata, digest=d) for key in keys if key.entry for d in digests]


def ds_spoilt(zone: bytes, keys: tuple[Key, ...]) -> list[bytes]:
    """The digest is wrong."""
    return [rdata[:-1] + bytes((rdata[-1] ^ 1,)) for rdata in ds_with(2)(zone, keys)]


def ds_downgrade(zone: bytes, keys: tuple[Key, ...]) -> list[bytes]:
    """The SHA-1 digest is right, the SHA-256 digest wrong; SHA-1 must be ignored (RFC 4509 section 3)."""
    return ds_with(1)(zone, keys) + ds_spoilt(zone, keys)


def ds_other_key(zone: bytes, keys: tuple[Key, ...]) -> list[bytes]:
    """The DS RRset has the right key and one that is not in the zone, as during a rollover."""
    other = keys[0].rdata[:-1] + bytes((keys[0].rdata[-1] ^ 1,))
    return [*ds_with(2)(zone, keys), ds_rdata(zone, other)]


def ds_tag(zone: bytes, keys: tuple[Key, ...]) -> list[bytes]:
    """The tag names another key."""
    return [((keys[0].tag + 1) & 0xFFFF).to_bytes(2, "big") + rdata[2:] for rdata in ds_with(2)(zone, keys)]


def ds_unknown(algorithm: int) -> DsMaker:
    """The algorithm is unknown."""
    return lambda zone, keys: [rdata[:2] + bytes((algorithm,)) + rdata[3:] for rdata in ds_with(2)(zone, keys)]


def ds_digest(digest: int) -> DsMaker:
    """The digest type is unknown."""
    return lambda zone, keys: [rdata[:3] + bytes((digest,)) + rdata[4:] for rdata in ds_with(2)(zone, keys)]


# --- denials ----------------------------------------------------------------------------------------------------------


def _nsec_types(rdata: bytes) -> tuple[bytes, bytes]:
    """(next name, bitmap) of NSEC rdata."""
    end = 0
    while rdata[end]:
        end += rdata[end] + 1
    return rdata[: end + 1], rdata[end + 1 :]


def nsec_next(label: str, following: str) -> Fault:
    """The NSEC record of `label`, correctly signed, has another next name."""

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, c.NSEC)
        _, types = _nsec_types(rrset.rdata(0))
        node[c.NSEC] = draft.sign(RRset(rrset.name, c.NSEC, rrset.ttl, [draft.name(following) + types]))

    return fault


def nsec_bitmap(label: str, types: Iterable[int]) -> Fault:
    """The NSEC record of `label`, correctly signed, has these types."""
    wanted = tuple(types)

    def fault(draft: Draft) -> None:
        node, rrset = _at(draft, label, c.NSEC)
        following, _ = _nsec_types(rrset.rdata(0))
        node[c.NSEC] = draft.sign(RRset(rrset.name, c.NSEC, rrset.ttl, [following + bitmap(wanted)]))

    return fault


def _params(draft: Draft) -> Nsec3:
    assert draft.plan.nsec3 is not None
    return draft.plan.nsec3


def _covering(draft: Draft, label: str) -> bytes:
    digest = nsec3_digest(names.lower(draft.name(label)), _params(draft))
    order = sorted(draft.zone.nsec3)
    return max((known for known in order if known <= digest), default=order[-1])


def nsec3_forget(label: str, *, covering: bool = False) -> Fault:
    """The NSEC3 record that matches or covers `label` is missing."""

    def fault(draft: Draft) -> None:
        if covering:
            del draft.zone.nsec3[_covering(draft, label)]
        else:
            del draft.zone.nsec3[nsec3_digest(names.lower(draft.name(label)), _params(draft))]

    return fault


def nsec3_rehash(draft: Draft) -> None:
    """Every NSEC3 record, correctly signed, has a changed owner hash, so that none matches.

    None covers a name either, because each next hash follows its owner directly.
    """
    changed = {}
    for digest, rrset in draft.zone.nsec3.items():
        moved = digest[:-1] + bytes((digest[-1] ^ 1,))
        rdata = bytearray(rrset.rdata(0))
        at = 5 + rdata[4] + 1
        rdata[at : at + len(moved)] = (int.from_bytes(moved, "big") + 1).to_bytes(len(moved), "big")
        owner = hashed_owner(moved, draft.zone.origin)
        changed[moved] = draft.sign(RRset(owner, c.NSEC3, rrset.ttl, [bytes(rdata)]))
    draft.zone.nsec3.clear()
    draft.zone.nsec3.update(changed)


def nsec3_bitmap(label: str, types: Iterable[int]) -> Fault:
    """The NSEC3 record of `label`, correctly signed, has these types."""
    wanted = tuple(types)

    def fault(draft: Draft) -> None:
        digest = nsec3_digest(names.lower(draft.name(label)), _params(draft))
        rrset = draft.zone.nsec3[digest]
        rdata = rrset.rdata(0)
        at = 5 + rdata[4]
        end = at + 1 + rdata[at]
        draft.zone.nsec3[digest] = draft.sign(RRset(rrset.name, c.NSEC3, rrset.ttl, [rdata[:end] + bitmap(wanted)]))

    return fault


def nsec3_unsign(draft: Draft) -> None:
    """No NSEC3 record has a signature."""
    for digest, rrset in draft.zone.nsec3.items():
        draft.zone.nsec3[digest] = rrset.without_sigs()


def nsec3_spoil(draft: Draft) -> None:
    """All signatures of NSEC3 records are wrong."""
    for digest, rrset in draft.zone.nsec3.items():
        draft.zone.nsec3[digest] = rrset.with_sigs([sig[:-1] + bytes((sig[-1] ^ 1,)) for sig in rrset.sigs()])


def forget_all(*rtypes: int) -> Fault:
    """All RRsets of these types are missing."""

    def fault(draft: Draft) -> None:
        for node in draft.zone.nodes.values():
            for rtype in rtypes:
                node.pop(rtype, None)

    return fault


def strip(draft: Draft) -> None:
    """All records added by signing are missing."""
    forget_all(c.DNSKEY, c.NSEC, c.NSEC3PARAM)(draft)
    unsign_all()(draft)
    draft.zone.nsec3.clear()


def sign_all_with(*key_labels: str) -> Fault:
    """All RRsets are signed only by the keys with these labels."""

    def fault(draft: Draft) -> None:
        keys = [key for key in draft.keys if key.spec.label in key_labels]
        for node in draft.zone.nodes.values():
            for rtype, rrset in node.items():
                if rrset.sig_len:
                    node[rtype] = draft.sign(rrset, keys=keys)

    return fault
