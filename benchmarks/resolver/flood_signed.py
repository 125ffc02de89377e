"""Two signed zones that make validation expensive: many keys with one tag (KeyTrap), and NSEC3 with many iterations.

Both are islands of trust below an unsigned root; their trust anchors are configured. Keys are derived from the names,
as those of the playground, so that each run has the same.
"""

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from flood_messages import ADDRESS, question, record, respond, soa

from resolver.playground.authority import Authority
from resolver.playground.signing import (
    ECDSAP384,
    KEY_TTL,
    RRSIG_HEAD,
    Key,
    KeySpec,
    Nsec3,
    Plan,
    ds_rdata,
    key_tag,
    rrsig_rdata,
    sign_world,
)
from resolver.playground.zones import Zone
from resolver.wire import name as names
from resolver.wire.consts import DNSKEY, RRSIG, A
from resolver.wire.rrset import RRset

TWINS = 30
"""Keys with the same tag (CVE-2023-50387), of the algorithm whose checks cost most."""
FORGED = 30
"""Wrong signatures of each answer, each of which could be of any of the keys."""
ITERATIONS, SALT = 50, bytes(range(60))
"""As many iterations and as long a salt as both resolvers validate; each iteration hashes two blocks."""
DAY = 86400
FLAGS, IGNORED = 0x0100, 0xFE7E
"""A zone key, and the bits of the flags that must be ignored (RFC 4034 section 2.1.1): they may be chosen for a tag."""


@dataclass(frozen=True)
class Signed:
    """A zone: its replies, and the DS records that are its trust anchors."""

    handler: Callable[[bytes, bool], bytes | None]
    anchors: tuple[str, ...]


def twin_of(tag: int, rdata: bytes) -> bytes | None:
    """`rdata` with flags that give it the key tag `tag`; None when none do."""
    rest = key_tag(b"\0\0" + rdata[2:])
    for flags in ((tag - rest) & 0xFFFF, (tag - rest - 1) & 0xFFFF):
        twin = struct.pack("!H", flags) + rdata[2:]
        if flags & ~IGNORED == FLAGS and key_tag(twin) == tag:
            return twin
    return None


def anchor(zone: str, dnskey: bytes) -> str:
    """A trust anchor in presentation format."""
    ds = ds_rdata(names.from_text(zone), dnskey)
    return "{} IN DS {} {} {} {}".format(zone, *struct.unpack("!HBB", ds[:4]), ds[4:].hex())


def keytrap() -> Signed:
    """`keytrap.`: `TWINS` valid keys have one tag; each name has an address with `FORGED` signatures of that tag."""
    zone = "keytrap."
    apex = names.from_text(zone)
    own = Key(apex, KeySpec(algorithm=ECDSAP384))
    keys, number = [own.rdata], 0
    tag = own.tag
    while len(keys) < TWINS + 1:
        number += 1
        made = Key(apex, KeySpec(algorithm=ECDSAP384, flags=256, label=f"twin{number}"))
        twin = twin_of(tag, made.rdata)
        if twin is not None:
            keys.append(twin)
    now = int(time.time())
    signature = rrsig_rdata(RRset(apex, DNSKEY, KEY_TTL, keys), own, now - DAY, now + DAY)
    published = [record(apex, DNSKEY, key, KEY_TTL) for key in keys] + [record(apex, RRSIG, signature, KEY_TTL)]

    def handler(query: bytes, tcp: bool) -> bytes:
        name, rtype = question(query)
        if name == apex and rtype == DNSKEY:
            return respond(query, answer=published)
        if name == apex or rtype != A:
            return respond(query, authority=[soa(apex)])
        head = RRSIG_HEAD.pack(A, ECDSAP384, names.label_count(name), 60, now + DAY, now - DAY, tag) + apex
        forged = [record(b"\xc0\x0c", RRSIG, head + os.urandom(96)) for _ in range(FORGED)]
        return respond(query, answer=[record(b"\xc0\x0c", A, ADDRESS), *forged])

    return Signed(handler, (anchor(zone, own.rdata),))


def iterated() -> Signed:
    """`iter.`: no name exists, which costs `ITERATIONS` hashes of each label.

    With opt-out, so that nothing is synthesised from what was verified before (RFC 8198 section 5.3).
    """
    zone = "iter."
    made = {".": Zone.from_text(".", "@ SOA a.root. admin. 1 7200 1800 604800 3600\n@ NS a.root.\niter. NS ns.iter.\n"),
            zone: Zone.from_text(zone, "@ 60 SOA ns admin 1 7200 1800 604800 60\n@ 60 NS ns\nns 60 A 127.54.0.16\n")}
    plan = Plan(nsec3=Nsec3(iterations=ITERATIONS, salt=SALT, opt_out=True))
    sign_world(made, {zone: plan}, int(time.time()))
    authority = Authority([made[zone]])
    (key,) = (Key(names.from_text(zone), spec) for spec in plan.keys)
    return Signed(lambda query, tcp: authority.answer(query, tcp=tcp), (anchor(zone, key.rdata),))
