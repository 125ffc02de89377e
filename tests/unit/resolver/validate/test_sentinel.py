"""The root key sentinel (RFC 8509)."""

import pytest
from support.signing import ZoneKey

from resolver.effects import Question
from resolver.validate.anchors import Anchors
from resolver.validate.sentinel import Sentinel
from resolver.wire import consts as c
from resolver.wire import name as names

KEY = ZoneKey(".")
TAG = f"{KEY.tag:05}"
OTHER = f"{(KEY.tag + 1) % 65536:05}"


@pytest.mark.parametrize("anchor", [KEY.anchor(), f". IN DNSKEY {KEY.dnskey.to_text()}"], ids=["ds", "dnskey"])
@pytest.mark.parametrize(
    ("label", "forbidden"),
    [
        (f"root-key-sentinel-is-ta-{TAG}", False),
        (f"root-key-sentinel-is-ta-{OTHER}", True),
        (f"root-key-sentinel-not-ta-{TAG}", True),
        (f"Root-Key-Sentinel-NOT-ta-{TAG}", True),
        (f"root-key-sentinel-not-ta-{OTHER}", False),
        (f"root-key-sentinel-is-ta-{OTHER[1:]}", False),
        ("root-key-sentinel-is-ta-1234x", False),
        (f"root-key-sentinel-is-tb-{OTHER}", False),
        ("www", False),
    ],
)
def test_sentinel_labels_are_parsed(anchor: str, label: str, forbidden: bool) -> None:
    sentinel = Sentinel(Anchors([anchor]))
    for qtype in (c.A, c.AAAA):
        assert (sentinel.forbids(Question(names.from_text(f"{label}.example."), qtype), 0) is not None) is forbidden
    assert sentinel.forbids(Question(names.from_text(f"{label}.example."), c.TXT), 0) is None
    assert sentinel.forbids(Question(names.from_text(f"x.{label}.example."), c.A), 0) is None


def test_without_a_root_anchor_the_sentinel_is_inactive() -> None:
    sentinel = Sentinel(Anchors([ZoneKey("example.").anchor()]))
    assert sentinel.forbids(Question(names.from_text(f"root-key-sentinel-is-ta-{TAG}."), c.A), 0) is None
    assert sentinel.forbids(Question(names.ROOT, c.A), 0) is None
