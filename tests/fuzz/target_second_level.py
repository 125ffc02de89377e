"""Arbitrary entries and messages of the second-level cache: only `EntryError` may be raised.

Each is also signed, as another resolver could do, because what is behind the MAC is to be tested.
"""

from resolver.cache.fleet_messages import FleetCodec
from resolver.cache.second_level import Codec, EntryError, Signer
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

NOW = 1_700_000_000
WWW = names.from_text("www.example.")
SIGNER = Signer(b"fuzz" * 8)
CODEC = Codec(SIGNER, b"fuzz", "fuzz:")


def run(data: bytes) -> None:
    """Take `data` as an entry and as a message, then as the signed body of each."""
    key, version = CODEC.key(WWW, c.A), b"\1"
    for entry in (data, version + SIGNER.mac(b"entry", version, key, data) + data):
        try:
            reply, _ = CODEC.decode(entry, WWW, c.A, NOW)
        except EntryError:
            continue
        if reply.verdict not in (Verdict.INSECURE, Verdict.SECURE) or reply.lifetime <= 0:
            raise AssertionError("an entry without a verdict, or that has expired")
    fleet = FleetCodec(SIGNER, "fuzz:", "me")
    for message in (data, version + SIGNER.mac(b"fleet", version, b"fuzz:", data) + data):
        try:
            fleet.decode(message, NOW)
        except EntryError:
            continue
