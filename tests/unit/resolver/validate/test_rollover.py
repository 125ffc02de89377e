"""RFC 5011, state by state: which key is trusted after which probes, and what no probe, file or time can cause."""

import pytest
from support.keysets import DAY, HOUR, Made, key_set, made_set, results_of
from support.signing import NOW, ZoneKey

from resolver import limits
from resolver.validate.anchor_file import parse, render, restore
from resolver.validate.anchors import Anchors
from resolver.validate.autotrust import HoldDown, KeyState, TrustPoint, prepare_probe, unrevoked
from resolver.validate.verify import check
from resolver.wire import consts as c
from resolver.wire.present import rdata_to_text

OLD, NEW, OTHER = Made(1), Made(2), Made(3)
ZONE = "example."


def point(*configured: Made, times: HoldDown | None = None) -> TrustPoint:
    """A trust point with DNSKEY anchors."""
    lines = [f"{ZONE} IN DNSKEY {rdata_to_text(c.DNSKEY, made.key.rdata)}" for made in configured or (OLD,)]
    return TrustPoint(Anchors(lines).configured()[0], times or HoldDown())


def see(tp: TrustPoint, keys: list[Made], now: int, *, by: list[Made] | None = None, good: bool = True) -> list[str]:
    """One look at a set of `keys`, signed by all of them or by those given."""
    look = prepare_probe(tp, made_set(ZONE, keys, keys if by is None else by, now, good=good), now)
    return tp.observe(look, results_of(look), now)


def states(tp: TrustPoint) -> dict[int, str]:
    return {int.from_bytes(known.key.key[:8], "big"): known.state.value for known in tp.keys.values()}


def trusted(tp: TrustPoint) -> set[int]:
    anchor = tp.trusted()
    return set() if anchor is None else {int.from_bytes(key.key[:8], "big") for key in anchor.keys}


def test_a_new_key_is_trusted_after_its_hold_down_time() -> None:
    tp = point()
    see(tp, [OLD], NOW)
    see(tp, [OLD, NEW], NOW + DAY, by=[OLD])
    assert states(tp) == {1: "valid", 2: "addpend"}
    for day in range(2, 31):
        see(tp, [OLD, NEW], NOW + day * DAY, by=[OLD])
        assert trusted(tp) == {1}
    assert see(tp, [OLD, NEW], NOW + 31 * DAY - 1, by=[OLD]) == []
    assert see(tp, [OLD, NEW], NOW + 31 * DAY, by=[OLD]) == [f"key {NEW.key.tag} of example. is trusted now"]
    assert trusted(tp) == {1, 2}


def test_the_hold_down_time_is_no_shorter_than_the_ttl_of_the_first_set() -> None:
    tp = point()
    for day in (0, 10, 30, 39):
        look = prepare_probe(tp, made_set(ZONE, [OLD, NEW], [OLD], NOW + day * DAY, ttl=40 * DAY), NOW + day * DAY)
        tp.observe(look, results_of(look), NOW + day * DAY)
        assert trusted(tp) == {1}
    see(tp, [OLD, NEW], NOW + 40 * DAY)
    assert trusted(tp) == {1, 2}


def test_a_key_that_was_missing_once_starts_its_hold_down_again() -> None:
    tp = point()
    see(tp, [OLD, NEW], NOW)
    see(tp, [OLD, NEW], NOW + 29 * DAY)
    see(tp, [OLD], NOW + 30 * DAY - HOUR)
    assert states(tp) == {1: "valid"}
    for day in (30, 31, 45, 59):
        see(tp, [OLD, NEW], NOW + day * DAY)
        assert trusted(tp) == {1}
    see(tp, [OLD, NEW], NOW + 60 * DAY)
    assert trusted(tp) == {1, 2}


def test_a_jump_of_the_clock_does_not_count_as_hold_down_time() -> None:
    tp = point()
    see(tp, [OLD, NEW], NOW)
    see(tp, [OLD, NEW], NOW + 400 * DAY)
    assert trusted(tp) == {1}, "two looks are too few, whatever the clock says"
    see(tp, [OLD, NEW], NOW + 400 * DAY + HOUR)
    assert trusted(tp) == {1, 2}


def test_a_set_without_a_trusted_signature_changes_nothing() -> None:
    tp = point()
    see(tp, [OLD, NEW], NOW)
    for day in range(1, 60, 5):
        see(tp, [OLD, NEW, OTHER], NOW + day * DAY, by=[NEW, OTHER])
        see(tp, [OLD, NEW, OTHER], NOW + day * DAY + 1, good=False)
    assert (trusted(tp), states(tp)) == ({1}, {1: "valid", 2: "addpend"})
    assert tp.trouble
    assert tp.due == tp.looked + tp.retry


def test_a_pending_key_adds_no_key() -> None:
    tp = point()
    see(tp, [OLD, NEW], NOW)
    for day in range(1, 90, 10):
        see(tp, [NEW, OTHER], NOW + day * DAY, by=[NEW])
    assert trusted(tp) == {1}
    assert 3 not in states(tp)


def test_a_revoked_key_is_never_trusted_again() -> None:
    tp = point(OLD, NEW)
    see(tp, [OLD, NEW], NOW)
    see(tp, [OLD.revoked, NEW], NOW + DAY)
    assert (trusted(tp), states(tp)[1]) == ({2}, "revoked")
    see(tp, [OLD, NEW], NOW + 2 * DAY)
    assert trusted(tp) == {2}
    see(tp, [NEW], NOW + 32 * DAY)
    assert states(tp)[1] == "removed"
    for day in range(33, 120, 9):
        see(tp, [OLD, NEW], NOW + day * DAY)
    assert (trusted(tp), states(tp)[1]) == ({2}, "removed")


def test_a_revocation_counts_only_when_the_key_itself_signs_it() -> None:
    tp = point(OLD, NEW)
    see(tp, [OLD, NEW], NOW)
    see(tp, [OLD.revoked, NEW], NOW + DAY, by=[NEW])
    assert states(tp) == {1: "missing", 2: "valid"}
    assert trusted(tp) == {1, 2}


def test_the_last_key_may_revoke_itself_and_takes_the_trust_point_along() -> None:
    tp = point()
    see(tp, [OLD], NOW)
    see(tp, [OLD.revoked], NOW + DAY)
    assert tp.trusted() is None
    see(tp, [OLD], NOW + 2 * DAY)
    assert tp.trusted() is None


def test_a_pending_key_after_its_hold_down_time_replaces_the_last_trusted_key() -> None:
    for away, inherits in ((29, False), (31, True)):
        tp = point()
        for day in (0, 10):
            see(tp, [OLD, NEW, OTHER], NOW + day * DAY)
        see(tp, [OLD.revoked, NEW, OTHER], NOW + away * DAY, by=[OLD.revoked, NEW])
        assert trusted(tp) == ({2, 3} if inherits else set()), "the heir vouches for the other one"
        see(tp, [NEW, OTHER], NOW + (away + 10) * DAY, by=[NEW])
        assert trusted(tp) == ({2, 3} if inherits else set()), "no key is promoted later"


def test_no_pending_key_is_promoted_while_a_key_is_trusted() -> None:
    tp = point(OLD, Made(4))
    for day in (0, 10):
        see(tp, [OLD, NEW], NOW + day * DAY)
    see(tp, [OLD.revoked, NEW], NOW + 31 * DAY)
    assert trusted(tp) == {4}


def test_a_revoked_key_adds_no_key() -> None:
    tp = point()
    see(tp, [OLD], NOW)
    see(tp, [OLD.revoked, NEW], NOW + DAY, by=[OLD.revoked])
    assert 2 not in states(tp)


def test_a_pending_key_that_revokes_itself_is_never_trusted() -> None:
    tp = point()
    see(tp, [OLD, NEW], NOW)
    see(tp, [OLD, NEW.revoked], NOW + DAY)
    assert states(tp)[2] == "revoked"
    for day in range(2, 80, 6):
        see(tp, [OLD, NEW], NOW + day * DAY)
    assert trusted(tp) == {1}


def test_a_missing_key_stays_trusted_and_comes_back() -> None:
    tp = point(OLD, NEW)
    see(tp, [OLD, NEW], NOW)
    see(tp, [NEW], NOW + DAY)
    assert (states(tp)[1], trusted(tp)) == ("missing", {1, 2})
    see(tp, [OLD], NOW + 2 * DAY, by=[OLD])
    assert states(tp) == {1: "valid", 2: "missing"}


def test_a_learned_key_that_is_missing_for_a_year_is_removed_and_a_configured_one_is_not() -> None:
    tp = point(OLD)
    for day in (0, 15, 30, 31):
        see(tp, [OLD, NEW, OTHER], NOW + day * DAY)
    assert trusted(tp) == {1, 2, 3}
    see(tp, [OTHER], NOW + 40 * DAY)
    see(tp, [OTHER], NOW + 407 * DAY)
    assert states(tp) == {1: "missing", 2: "removed", 3: "valid"}
    assert trusted(tp) == {1, 3}


def test_the_last_trusted_key_is_not_removed_for_being_missing() -> None:
    tp = point(OLD)
    for day in (0, 15, 30, 31):
        see(tp, [OLD, NEW], NOW + day * DAY)
    see(tp, [OLD], NOW + 32 * DAY)
    see(tp, [OLD.revoked], NOW + 33 * DAY)
    see(tp, [], NOW + 900 * DAY)
    assert (states(tp), trusted(tp)) == ({1: "removed", 2: "missing"}, {2})


@pytest.mark.parametrize(("ttl", "left", "due", "retry"), [
    (2 * DAY, 14 * DAY, DAY, 17_280),
    (90 * DAY, 60 * DAY, 15 * DAY, DAY),
    (60, 14 * DAY, HOUR, HOUR),
    (20 * DAY, 5 * DAY, 5 * DAY // 2, DAY // 2),
])
def test_intervals_of_section_2_3(ttl: int, left: int, due: int, retry: int) -> None:
    tp = point()
    look = prepare_probe(tp, made_set(ZONE, [OLD], [OLD], NOW, ttl=ttl, left=left), NOW)
    tp.observe(look, results_of(look), NOW)
    assert tp.due - NOW == due
    tp.failed("nobody answers", NOW + 5)
    assert tp.due - (NOW + 5) == retry


def test_before_the_first_probe_a_failure_is_repeated_after_an_hour() -> None:
    tp = point()
    tp.failed("nobody answers", NOW)
    assert tp.due == NOW + HOUR
    assert trusted(tp) == {1}


@pytest.mark.parametrize("other_key", [
    Made(7, flags=256), Made(7, flags=1), Made(7, algorithm=3), Made(7, algorithm=253),
], ids=["no entry point", "no zone key", "DSA", "private"])
def test_only_entry_points_of_known_algorithms_become_anchors(other_key: Made) -> None:
    tp = point()
    for day in (0, 20, 40):
        see(tp, [OLD, other_key], NOW + day * DAY, by=[OLD])
    assert states(tp) == {1: "valid"}


def test_a_configured_key_need_be_no_entry_point() -> None:
    zone_key = Made(9, flags=256)
    tp = point(zone_key)
    see(tp, [zone_key], NOW)
    assert states(tp) == {9: "valid"}


def test_expired_signatures_are_not_accepted() -> None:
    tp = point()
    for when in (NOW - 2 * DAY, NOW + 15 * DAY):
        look = prepare_probe(tp, made_set(ZONE, [OLD, NEW], [OLD], NOW), when)
        assert look.jobs == ()


def test_the_cost_of_many_keys_and_signatures_is_bounded() -> None:
    tp = point()
    see(tp, [OLD], NOW)
    many = [Made(n) for n in range(100, 200)]
    look = prepare_probe(tp, made_set(ZONE, [OLD, *many], [OLD] * 60, NOW), NOW)
    assert len(look.jobs) <= 16
    for day in range(1, 60):
        see(tp, [OLD, *many], NOW + day * DAY, by=[OLD])
    assert len(tp.keys) <= 16


def test_keys_that_revoke_themselves_are_remembered_in_a_bounded_number() -> None:
    """Pending ones too. A forgotten key needs the whole hold-down time again, and the configured one stays revoked."""
    tp = point(OLD, NEW)
    see(tp, [OLD, NEW], NOW)
    see(tp, [OLD, NEW.revoked], NOW + HOUR)
    first = Made(100)
    for number in range(100, 180, 8):
        keys = [Made(number + more) for more in range(8)]
        now = NOW + (number - 98) * HOUR
        see(tp, [OLD, *keys], now, by=[OLD])
        see(tp, [OLD, *(key.revoked for key in keys)], now + HOUR)
        assert len(tp.keys) <= 2 + limits.MANAGED_KEYS
    assert states(tp)[2] == "revoked" and 100 not in states(tp)
    for day in range(10, 40):
        see(tp, [OLD, NEW, first], NOW + day * DAY, by=[OLD])
        assert trusted(tp) == {1}
    see(tp, [OLD, NEW, first], NOW + 41 * DAY, by=[OLD])
    assert trusted(tp) == {1, 100}


def test_removed_keys_are_forgotten_at_last_but_never_the_configured_one() -> None:
    tp = point(OLD, NEW, times=HoldDown(add=1, remove=1))
    see(tp, [OLD, NEW], NOW)
    see(tp, [OLD, NEW.revoked], NOW + 1)
    now = NOW + 10
    for number in range(100, 140):
        key = Made(number)
        for _ in range(4):
            now += HOUR
            see(tp, [OLD, key], now)
        see(tp, [OLD, key.revoked], now + 1)
    see(tp, [OLD], now + DAY)
    removed = [n for n, state in states(tp).items() if state == "removed"]
    assert len(removed) == 17
    assert 2 in removed
    assert trusted(tp) == {1}


def test_digests_are_matched_to_keys_when_these_are_seen() -> None:
    old, new = ZoneKey(ZONE, flags=257, label="old"), ZoneKey(ZONE, flags=257, label="new")
    tp = TrustPoint(Anchors([old.anchor()]).configured()[0], HoldDown())
    anchor = tp.trusted()
    assert anchor is not None
    assert (len(anchor.ds), anchor.keys) == (1, [])
    for day in (0, 15, 29, 31):
        now = NOW + day * DAY
        look = prepare_probe(tp, key_set(ZONE, [old, new], [old], now), now)
        tp.observe(look, [check(job) for job in look.jobs], now)
    assert [known.state for known in tp.keys.values()] == [KeyState.VALID, KeyState.VALID]
    revoked = ZoneKey(ZONE, flags=257 | 128, label="old")
    assert unrevoked(prepare_probe(tp, key_set(ZONE, [old], [old], NOW), NOW).present[0]).rdata == old.dnskey.to_wire()
    now += DAY
    look = prepare_probe(tp, key_set(ZONE, [revoked, new], [revoked, new], now), now)
    tp.observe(look, [check(job) for job in look.jobs], now)
    anchor = tp.trusted()
    assert anchor is not None
    assert anchor.ds == [], "the digest of a revoked key is gone as well"
    assert [key.rdata for key in anchor.keys] == [new.dnskey.to_wire()]


# --- the text ---------------------------------------------------------------------------------------------------------


def test_everything_survives_being_written_and_read() -> None:
    tp = point(OLD, NEW, Made(5))
    see(tp, [OLD, NEW, Made(5), OTHER, Made(4)], NOW)
    see(tp, [OLD.revoked, Made(5), OTHER], NOW + DAY)
    text = render([tp])
    again = point(OLD, NEW, Made(5))
    (saved,) = parse(text)
    restore(again, saved)
    assert render([again]) == text
    assert states(again) == states(tp) == {1: "revoked", 2: "missing", 3: "addpend", 5: "valid"}
    assert (again.due, again.looked, again.succeeded, again.retry) == (tp.due, tp.looked, tp.succeeded, tp.retry)


def test_other_programs_read_the_file_as_a_list_of_anchors() -> None:
    from resolver import hints

    tp = point(OLD, NEW)
    see(tp, [OLD, NEW, OTHER], NOW)
    see(tp, [OLD.revoked, NEW, OTHER], NOW + DAY)
    lines = hints.parse_anchors(render([tp]))
    anchors = Anchors(lines).configured()
    assert [key.rdata for key in anchors[0].keys] == [NEW.key.rdata]


def damaged(text: str) -> list[tuple[str, str]]:
    return [
        ("empty", ""),
        ("half", text[: len(text) // 2]),
        ("a line less", "".join(text.splitlines(keepends=True)[:-2])),
        ("no checksum", "".join(text.splitlines(keepends=True)[:-1])),
        ("state edited", text.replace("state=revoked", "state=valid")),
        ("key edited", text.replace("IN DNSKEY 257 3 13 A", "IN DNSKEY 257 3 13 B", 1)),
        ("something behind", text + "x"),
        ("another form", text.replace("form 1", "form 2")),
        ("of somebody else", "; autotrust trust anchor file\n" + text),
    ]


def test_a_file_that_was_changed_is_rejected() -> None:
    tp = point(OLD, NEW)
    see(tp, [OLD, NEW], NOW)
    see(tp, [OLD.revoked, NEW], NOW + DAY)
    text = render([tp])
    for what, changed in damaged(text):
        assert changed != text, what
        with pytest.raises(ValueError, match=r"checksum|written by|version"):
            parse(changed)
    for at in range(0, len(text), 7):
        with pytest.raises(ValueError, match=r"checksum|written by|version"):
            parse(text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :])
