"""An arbitrary file of trust anchors: nothing but `ValueError`, and an accepted one is written back unchanged.

The checksum is recomputed, as the author of a forged file can do; zones and keys are then those of the bytes. Then
arbitrary key sets are processed, so that no state in a file can break the state machine.
"""

import hashlib
import struct

from resolver.validate.anchor_file import ADVICE, DIGEST, HEAD, parse, render, restore
from resolver.validate.anchors import Anchor
from resolver.validate.autotrust import HoldDown, TrustPoint, prepare_probe
from resolver.wire import consts as c
from resolver.wire.rrset import RRset

NOW = 1_700_000_000


def run(data: bytes) -> None:
    """Take `data` as a file, and as what stands between head and checksum of one."""
    body = f"{HEAD}\n{ADVICE}\n{data.decode('utf-8', 'replace')}"
    for text in (data.decode("utf-8", "replace"), f"{body}{DIGEST}{hashlib.sha256(body.encode()).hexdigest()}\n"):
        try:
            points = parse(text)
        except ValueError:
            continue
        for saved in points:
            point = TrustPoint(Anchor(saved.zone), HoldDown())
            restore(point, saved)
            (again,) = parse(render([point]))
            if again.zone != saved.zone or len(again.keys) != len(point.keys):
                raise AssertionError("what was written is not what was read")
            keys = [known.key for known in point.keys.values()]
            rdatas = [key.rdata for key in keys] or [bytes((1, 1, 3, 13)) + data[:64] + b"x"]
            times = struct.pack("!III", 60, NOW + 60, NOW - 60)
            sigs = [struct.pack("!HBB", c.DNSKEY, key.algorithm, 0) + times + struct.pack("!H", key.tag) + saved.zone
                    + data[:64] for key in keys]
            look = prepare_probe(point, RRset(saved.zone, c.DNSKEY, 60, rdatas, sigs=sigs), NOW)
            point.observe(look, [True] * len(look.jobs), NOW)
            point.trusted()
