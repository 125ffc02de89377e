"""All cryptography that remote parties can cause: each hash and each signature check is charged to a budget here.

A zone chooses the parameters of NSEC3 hashes (CVE-2023-50868) and the number of its keys and signatures (KeyTrap,
CVE-2023-50387). So the functions here take the budget of the client query, refuse parameters above the limits, and
charge hashes in blocks of 64 octets and signature checks by their number. No other module of the package hashes data
of remote parties or makes a `SignatureJob`; a test reads the sources to check that.
"""

import hashlib

from resolver import limits
from resolver.effects import Budget, SignatureJob, Verify
from resolver.validate.fields import Dnskey, Ds, Rrsig
from resolver.wire import name as names

__all__ = [
    "DS_DIGESTS",
    "HashBudgetExceeded",
    "ds_matches",
    "hash_name",
    "signature_check",
    "signature_job",
    "verified_signature_key",
]

SALT = limits.NSEC3_SALT
MARK_SIZE = 32
BLOCK = 64
# What SHA-1 and SHA-256 append to each message: one bit and the length.
PADDING = 9
SHA1_SIZE = 20

DS_DIGESTS = {1: hashlib.sha1, 2: hashlib.sha256, 4: hashlib.sha384}
"""Digest types of DS records that we compute (RFC 8624 section 3.3)."""


class HashBudgetExceeded(Exception):
    """The hash was not computed: its parameters are above the limit, or the budget is spent."""


def _blocks(size: int) -> int:
    return (size + PADDING + BLOCK - 1) // BLOCK


def hash_name(budget: Budget, name: bytes, salt: bytes, iterations: int, *, most: int) -> bytes:
    """The NSEC3 hash of a lower-case name by SHA-1 (RFC 5155 section 5), with at most `most` iterations.

    Raises:
        HashBudgetExceeded: too many iterations, too long a salt, or no budget left.
    """
    if iterations > most or len(salt) > SALT:
        raise HashBudgetExceeded
    if not budget.take_hashes(_blocks(len(name) + len(salt)) + iterations * _blocks(SHA1_SIZE + len(salt))):
        raise HashBudgetExceeded
    digest = hashlib.sha1(name + salt, usedforsecurity=False).digest()
    for _ in range(iterations):
        digest = hashlib.sha1(digest + salt, usedforsecurity=False).digest()
    return digest


def ds_matches(budget: Budget, ds: Ds, zone: bytes, key: Dnskey) -> bool:
    """Whether `ds` is a digest of `key` at `zone` (RFC 4034 section 5.1.4).

    Raises:
        HashBudgetExceeded: no budget left.
    """
    if ds.tag != key.tag or ds.algorithm != key.algorithm or ds.digest_type not in DS_DIGESTS:
        return False
    data = names.lower(zone) + key.rdata
    if not budget.take_hashes(_blocks(len(data))):
        raise HashBudgetExceeded
    return bool(DS_DIGESTS[ds.digest_type](data, usedforsecurity=False).digest() == ds.digest)


def verified_signature_key(budget: Budget, key: Dnskey, sig: Rrsig, data: bytes) -> bytes:
    """The digest under which a valid signature over `data` is remembered. `data` contains algorithm and signer.

    Raises:
        HashBudgetExceeded: no budget left.
    """
    if not budget.take_hashes(_blocks(len(key.key) + len(sig.signature) + len(data))):
        raise HashBudgetExceeded
    size = len(key.key).to_bytes(2, "big") + len(sig.signature).to_bytes(2, "big")
    return hashlib.blake2b(size + key.key + sig.signature + data, digest_size=MARK_SIZE).digest()


def signature_job(budget: Budget, key: Dnskey, sig: Rrsig, data: bytes) -> SignatureJob | None:
    """The check of `sig` over `data` by `key`; None when no check is left."""
    if not budget.take_verifications(1):
        return None
    return SignatureJob(key.algorithm, key.key, sig.signature, data)


def signature_check(budget: Budget, key: Dnskey, sig: Rrsig, data: bytes) -> Verify | None:
    """The effect for one check; None when no check is left."""
    job = signature_job(budget, key, sig, data)
    return None if job is None else Verify((job,))
