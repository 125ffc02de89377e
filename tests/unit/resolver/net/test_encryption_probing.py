"""The state of unilateral probing (RFC 9539): every status with every event, times, and the bound of the table."""

import itertools
import random

import pytest

from resolver import limits
from resolver.net.encryption_probing import Outcome, ProbeTable, Status

A, B = "192.0.2.1", "2001:db8::1"
DAMPING, PERSISTENCE = float(limits.OPPORTUNISTIC_DAMPING), float(limits.OPPORTUNISTIC_PERSISTENCE)
INTERVAL = float(limits.OPPORTUNISTIC_INTERVAL)
NOW = 5_000_000.0
BEFORE: dict[Status, Outcome] = {
    Status.SUCCESS: Outcome.SUCCEEDED,
    Status.FAIL: Outcome.FAILED,
    Status.TIMEOUT: Outcome.TIMED_OUT,
}
AFTER = {outcome: status for status, outcome in BEFORE.items()}


def in_status(status: Status, now: float = NOW) -> ProbeTable:
    """A table with a probe of A that has ended `now`."""
    table = ProbeTable()
    table.begin(A, now)
    table.end(A, BEFORE.get(status, Outcome.NOT_TRIED), now)
    assert table.status(A, now) is status
    return table


def test_the_times_are_those_of_the_rfc() -> None:
    assert (limits.OPPORTUNISTIC_PERSISTENCE, limits.OPPORTUNISTIC_DAMPING) == (3 * 86_400, 86_400)
    assert limits.OPPORTUNISTIC_TIMEOUT == 4 and limits.OPPORTUNISTIC_PORT.default == 853


def test_an_address_that_was_never_seen_is_probed_at_once() -> None:
    table = ProbeTable()
    assert table.status(A, NOW) is Status.UNKNOWN and table.wants_probe(A, NOW)
    assert len(table) == 0, "asking makes no record"


@pytest.mark.parametrize(("status", "outcome"), list(itertools.product(Status, Outcome)))
def test_every_status_with_every_end_of_a_probe(status: Status, outcome: Outcome) -> None:
    table = in_status(status)
    later = NOW + DAMPING
    assert table.wants_probe(A, later)
    table.begin(A, later)
    assert not table.wants_probe(A, later), "one at a time"
    assert table.status(A, later) is status, "a probe in progress changes nothing"
    table.end(A, outcome, later + 1)
    assert table.status(A, later + 1) is AFTER.get(outcome, status)
    assert table.status(B, later) is Status.UNKNOWN


@pytest.mark.parametrize(
    ("status", "wait"),
    [(Status.UNKNOWN, 0.0), (Status.SUCCESS, INTERVAL), (Status.FAIL, DAMPING), (Status.TIMEOUT, DAMPING)],
)
def test_when_the_next_probe_is_due(status: Status, wait: float) -> None:
    table = in_status(status)
    if wait:
        assert not table.wants_probe(A, NOW) and not table.wants_probe(A, NOW + wait - 0.001)
    assert table.wants_probe(A, NOW + wait)


def test_damping_starts_at_the_end_of_a_probe_and_the_interval_at_its_start() -> None:
    for outcome, base in ((Outcome.TIMED_OUT, NOW + 4 + DAMPING), (Outcome.SUCCEEDED, NOW + INTERVAL)):
        table = ProbeTable()
        table.begin(A, NOW)
        table.end(A, outcome, NOW + 4)
        assert not table.wants_probe(A, base - 0.001) and table.wants_probe(A, base)


@pytest.mark.parametrize("status", Status)
def test_success_is_remembered_for_the_persistence_after_the_last_reply(status: Status) -> None:
    table = in_status(status)
    table.note_reply(A, NOW + 1000)
    assert table.status(A, NOW + 1000 + PERSISTENCE) is status
    forgotten = Status.UNKNOWN if status is Status.SUCCESS else status
    assert table.status(A, NOW + 1001 + PERSISTENCE) is forgotten
    assert table.wants_probe(A, NOW + 1001 + PERSISTENCE)


@pytest.mark.parametrize("status", Status)
def test_a_server_that_answers_otherwise_over_tls_is_not_used(status: Status) -> None:
    table = in_status(status)
    table.note_unusable(A, NOW + 5)
    assert table.status(A, NOW + 5) is Status.FAIL
    assert not table.wants_probe(A, NOW + 5 + DAMPING - 1) and table.wants_probe(A, NOW + 5 + DAMPING)


def test_a_probe_that_was_not_sent_changes_nothing_and_is_repeated() -> None:
    table = ProbeTable()
    table.begin(A, NOW)
    table.end(A, Outcome.NOT_TRIED, NOW)
    assert table.wants_probe(A, NOW)


def test_events_without_a_record_or_a_probe_change_nothing() -> None:
    table = ProbeTable()
    table.end(A, Outcome.SUCCEEDED, NOW)
    table.note_reply(A, NOW)
    table.note_unusable(A, NOW)
    assert len(table) == 0
    table = in_status(Status.FAIL)
    table.end(A, Outcome.SUCCEEDED, NOW)
    assert table.status(A, NOW) is Status.FAIL, "the second end of one probe"


def test_the_least_recently_used_record_is_dropped() -> None:
    table = ProbeTable(3)
    for n in range(3):
        table.begin(f"192.0.2.{n}", NOW)
        table.end(f"192.0.2.{n}", Outcome.FAILED, NOW)
    assert not table.wants_probe("192.0.2.0", NOW)
    table.begin("192.0.2.9", NOW)
    assert len(table) == 3
    assert not table.wants_probe("192.0.2.0", NOW) and table.wants_probe("192.0.2.1", NOW)
    table.begin("192.0.2.10", NOW)
    table.begin("192.0.2.11", NOW)
    table.begin("192.0.2.12", NOW)
    table.end("192.0.2.9", Outcome.SUCCEEDED, NOW)
    assert table.status("192.0.2.9", NOW) is Status.UNKNOWN, "its record was dropped"
    assert table.count(NOW) == 0


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_events_keeps_the_invariants(seed: int) -> None:
    """Never two probes of one address; never one within its waiting time; never more records than permitted."""
    rng = random.Random(seed)
    table, now = ProbeTable(4), NOW
    addresses = [f"192.0.2.{n}" for n in range(6)]
    probing: dict[str, float] = {}
    for _ in range(2000):
        now += rng.choice((0.0, 1.0, INTERVAL, DAMPING / 3, DAMPING, PERSISTENCE))
        address = rng.choice(addresses)
        event = rng.randrange(4)
        known = address in table._records
        if event == 0 and table.wants_probe(address, now):
            assert not (known and address in probing)
            table.begin(address, now)
            probing[address] = now
        elif event == 1 and address in probing:
            del probing[address]
            before = table.status(address, now)
            outcome = rng.choice(list(Outcome))
            table.end(address, outcome, now)
            expected = AFTER.get(outcome, before) if known else Status.UNKNOWN
            assert table.status(address, now) is expected
            if expected in (Status.FAIL, Status.TIMEOUT) and outcome is not Outcome.NOT_TRIED:
                assert not table.wants_probe(address, now)
        elif event == 2:
            table.note_reply(address, now)
        elif event == 3 and rng.random() < 0.1:
            table.note_unusable(address, now)
        probing = {one: since for one, since in probing.items() if one in table._records}
        assert len(table) <= 4 and 0 <= table.count(now) <= len(table)
