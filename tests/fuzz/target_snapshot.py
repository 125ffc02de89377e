"""Arbitrary dumps of the cache: only `SnapshotError` may be raised, and the cache stays usable.

The checksum is recomputed first, as the author of a forged file can do, because the blocks are to be tested.
"""

import hashlib
import io

from resolver.cache import Store
from resolver.cache.snapshot import HEAD, MAGIC, VERSION, SnapshotError, load
from resolver.wire import consts as c
from resolver.wire import name as names

NOW = 1_700_000_000
LABEL = b"fuzz"
WWW = names.from_text("www.example.")
SIZE = 64 << 10
STALE = 86_400


def run(data: bytes) -> None:
    """Take `data` as a file, as one with the right head and checksum, and as one bare block."""
    store = Store.create(SIZE, seed=bytes(16))
    body = HEAD.pack(MAGIC, VERSION, 0x01020304, NOW - 10, LABEL) + data
    for file in (data, body + hashlib.sha256(body).digest()):
        try:
            load(store, io.BytesIO(file), label=LABEL, now=NOW, stale=STALE, largest=SIZE)
        except SnapshotError:
            continue
    try:
        store.table.copy_in(data, 0b1100, now=NOW, stale=STALE)
    except ValueError:
        pass
    store.rrsets.find(WWW, c.A, NOW, stale=STALE)
    store.rrsets.find_negative(WWW, c.A, NOW, stale=STALE)
    store.rrsets.closest_cut(WWW, NOW)
    for owner, _, ttl, rrset in store.rrsets.walk(NOW):
        if ttl <= 0:
            raise AssertionError("a walk shows what has expired")
        if rrset is None:
            store.rrsets.find_negative(owner, c.A, NOW)
        elif len(rrset.rdatas()) != len(rrset):
            raise AssertionError("a set is not as long as it says")
