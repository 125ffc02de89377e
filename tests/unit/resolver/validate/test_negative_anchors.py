"""Negative trust anchors: to which names they apply, and that none is honoured past its end."""

import pytest

from resolver.settings import DnssecSettings, ViewSettings
from resolver.validate.anchors import Anchors
from resolver.wire import name as names

ROOT = ". 3600 IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"
ZONE, BELOW, BESIDE = (names.from_text(text) for text in ("Broken.test.", "www.broken.TEST.", "good.test."))
ALWAYS = 1 << 39


def applies(anchors: Anchors, name: bytes, now: int) -> bool:
    return anchors.closest(name, now) is not None


def test_an_anchor_is_not_honoured_past_its_end() -> None:
    anchors = Anchors([ROOT, ROOT.replace(".", "broken.test.", 1)], ["broken.test. 1000"])
    for name in (ZONE, BELOW):
        assert [applies(anchors, name, now) for now in (0, 999, 1000, ALWAYS)] == [False, False, True, True]
    assert [anchors.get(names.lower(ZONE), now) is None for now in (999, 1000)] == [True, False]
    assert applies(anchors, BESIDE, 999)


@pytest.mark.parametrize("given", [("broken.test.", "broken.test. 1000"), ("broken.test. 1000", "BROKEN.test")])
def test_the_configured_anchor_without_an_end_stays(given: tuple[str, ...]) -> None:
    assert not applies(Anchors([ROOT], given), BELOW, ALWAYS)
    assert not applies(Anchors([ROOT], given[:1]).with_negative(given[1:]), BELOW, ALWAYS)


def test_a_view_has_the_end_of_the_common_anchor() -> None:
    common = Anchors([ROOT], ["broken.test. 1000"])
    view = common.with_negative(["good.test. 2000"])
    assert [applies(view, BELOW, now) for now in (999, 1000)] == [False, True]
    assert [applies(view, BESIDE, now) for now in (1999, 2000)] == [False, True]
    assert applies(common, BESIDE, 0)


@pytest.mark.parametrize("text", ["a.test. 0", "a.test. x", "a.test. 1 2", "a.test. -1", "a.test. 1234567890123"])
def test_an_end_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"dnssec\.negative_trust_anchors: .*end in seconds since 1970"):
        DnssecSettings(negative_trust_anchors=(text,))
    with pytest.raises(ValueError, match=r"negative_trust_anchors: .*end in seconds since 1970"):
        ViewSettings("one", clients=("192.0.2.0/24",), negative_trust_anchors=(text,))
