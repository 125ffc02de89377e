"""RRSIG, DNSKEY, DS and type bitmaps, read in C, and the bytes that a signature covers."""

from collections.abc import Sequence
from typing import final

from resolver.wire.rrset import RRset

ZONE_KEY: int
REVOKED: int
DNSKEY_PROTOCOL: int

@final
class Rrsig:
    covered: int
    algorithm: int
    labels: int
    original_ttl: int
    expiration: int
    inception: int
    tag: int
    signer: bytes
    signature: bytes
    rdata: bytes
    def __init__(
        self, covered: int, algorithm: int, labels: int, original_ttl: int, expiration: int, inception: int, tag: int,
        signer: bytes, signature: bytes, rdata: bytes,
    ) -> None: ...

@final
class Dnskey:
    flags: int
    protocol: int
    algorithm: int
    key: bytes
    tag: int
    rdata: bytes
    usable: bool
    def __init__(self, flags: int, protocol: int, algorithm: int, key: bytes, tag: int, rdata: bytes) -> None: ...

@final
class Ds:
    tag: int
    algorithm: int
    digest_type: int
    digest: bytes
    def __init__(self, tag: int, algorithm: int, digest_type: int, digest: bytes) -> None: ...

def parse_rrsig(rdata: bytes) -> Rrsig | None: ...
def parse_dnskey(rdata: bytes) -> Dnskey | None: ...
def parse_ds(rdata: bytes) -> Ds | None: ...
def signatures(rrset: RRset, most: int) -> list[Rrsig]: ...
def matching_keys(keys: Sequence[Dnskey], sig: Rrsig) -> list[Dnskey]: ...
def key_tag(rdata: bytes) -> int: ...
def serial_before(a: int, b: int) -> bool: ...
def signer_labels(owner: bytes) -> int: ...
def is_timely(sig: Rrsig, rrset: RRset, now: int) -> bool: ...
def signed_data(rrset: RRset, sig: Rrsig) -> bytes: ...
def name_end(data: bytes, start: int) -> int: ...
def bitmap_has(bitmap: bytes, rtype: int) -> bool: ...
