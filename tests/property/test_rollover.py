"""RFC 5011 over random histories: keys come, go, revoke themselves and sign in any order, clocks advance by any step.

The state machine is held against the promises of the RFC, counted here in another way: from the history alone. After
every look the state is written down, read again and continued from there, so that a restart at any moment changes
nothing.
"""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.keysets import DAY, HOUR, Made, made_set, results_of
from support.signing import NOW

from resolver.validate.anchor_file import parse, render, restore
from resolver.validate.anchors import Anchors
from resolver.validate.autotrust import UNTRUSTED, HoldDown, TrustPoint, prepare_probe
from resolver.wire import consts as c
from resolver.wire.present import rdata_to_text

ZONE = "example."
KEYS = [Made(number) for number in range(5)]
TIMES = HoldDown(add=30 * DAY, remove=30 * DAY, missing=366 * DAY)

Step = tuple[int, dict[int, str], frozenset[int], bool]
# How much time passes, what each key does (there, revoked), which of them sign, and whether signatures are right.
steps = st.tuples(
    st.sampled_from([1, HOUR, DAY, 5 * DAY, 16 * DAY, 30 * DAY, 31 * DAY, 400 * DAY]),
    st.dictionaries(st.integers(0, 4), st.sampled_from(["there", "there", "there", "revoked"]), max_size=5),
    st.frozensets(st.integers(0, 4)),
    st.booleans() | st.just(True),
)


def new_point(configured: list[int]) -> TrustPoint:
    lines = [f"{ZONE} IN DNSKEY {rdata_to_text(c.DNSKEY, KEYS[number].key.rdata)}" for number in configured]
    return TrustPoint(Anchors(lines).configured()[0], TIMES)


def trusted(tp: TrustPoint) -> set[int]:
    anchor = tp.trusted()
    return set() if anchor is None else {int.from_bytes(key.key[:8], "big") for key in anchor.keys}


def play(history: list[Step], configured: list[int]) -> None:
    tp = new_point(configured)
    now = NOW
    since: dict[int, int] = {}      # the first of the looks in a row that found a key where it should be
    revoked: set[int] = set()
    for seconds, doing, signing, good in history:
        now += seconds
        before = trusted(tp)
        published = [KEYS[n].revoked if what == "revoked" else KEYS[n] for n, what in doing.items()]
        signers = [KEYS[n].revoked if doing[n] == "revoked" else KEYS[n] for n in signing if n in doing]
        look = prepare_probe(tp, made_set(ZONE, published, signers, now, good=good), now)
        tp.observe(look, results_of(look), now)
        after = trusted(tp)

        vouched = good and any(n in before and doing.get(n) == "there" for n in signing)
        if good:
            known = before | set(since)
            revoked |= {n for n in signing if doing.get(n) == "revoked" and n in known}
        if vouched:
            there = {n for n, what in doing.items() if what == "there"}
            since = {n: since.get(n, now) for n in there}
        assert not revoked & after, "a revoked key is trusted"
        for n in after - before:
            # A pending key that signs takes the place of the last trusted one, and its signature counts for the others.
            inherited = not before - revoked and good and any(
                m in after - before and m in signing and doing.get(m) == "there" for m in doing
            )
            assert vouched or inherited, "trusted though no trusted key signed the set"
            assert n in since, "trusted though it is not there"
            assert n in configured or now - since[n] >= TIMES.add, "trusted before its time"
        for n in before - after:
            # A set that no trusted key signed does not end the absence of a key.
            gone = n not in doing or not vouched
            assert n in revoked or (n not in configured and gone), "lost without reason"
        assert set(configured) - revoked <= after, "a configured anchor is lost"
        assert HOUR <= tp.due - now <= 15 * DAY
        for known_key in tp.keys.values():
            assert known_key.state not in UNTRUSTED or int.from_bytes(known_key.key.key[:8], "big") not in after

        text = render([tp])
        tp = new_point(configured)
        restore(tp, parse(text)[0])
        assert render([tp]) == text


ALL = dict.fromkeys((0, 1, 2, 3, 4), "there")


@settings(max_examples=300)
@example(
    [(30 * DAY, ALL, frozenset({4}), True)] * 2 + [(400 * DAY, {**ALL, 4: "revoked"}, frozenset({3, 4}), True)], [4]
)
@given(st.lists(steps, max_size=25), st.sampled_from([[0], [0, 1], [4]]))
def test_no_history_violates_an_invariant(history: list[Step], configured: list[int]) -> None:
    play(history, configured)


@settings(max_examples=300)
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_random_text_is_not_accepted_as_a_file(text: str) -> None:
    with pytest.raises(ValueError, match=r"written by|form|checksum"):
        parse(text)
