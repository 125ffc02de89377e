"""Keys of session tickets: the same in all processes at the same time, and none of an earlier period."""

import pytest

from resolver import limits
from resolver.daemon import supervisor
from resolver.daemon.ticket_keys import TicketKeys
from resolver.daemon.worker_options import Options

PERIOD = limits.TICKET_KEY_PERIOD
SECRET = bytes(range(64))


def test_processes_derive_the_same_keys_whenever_they_check() -> None:
    often, seldom = TicketKeys(SECRET, 100.0), TicketKeys(SECRET, 100.0)
    for hour in range(24 * 10):
        often.advance(100.0 + hour * 3600)
    seldom.advance(100.0 + 239 * 3600)
    assert often.current() == seldom.current()


def test_a_key_makes_tickets_for_one_period_and_is_accepted_for_another() -> None:
    keys = TicketKeys(SECRET, 0.0)
    seen = []
    for period in range(5):
        assert keys.advance(period * PERIOD) == PERIOD
        made, *others = keys.current()
        assert len(others) == (2 if period else 1) and made not in others
        if seen:
            before, after = seen[-1]
            assert others[0] == before and made == after, "the former key, and the one that was announced"
        if len(seen) > 1:
            assert seen[-2][0] not in keys.current(), "no key is accepted for a third period"
        seen.append((made, others[-1]))
        assert keys.advance((period + 1) * PERIOD - 1) == 1
        assert keys.current()[0] == made
    assert len({one for one, _ in seen}) == 5


def test_each_key_has_its_own_name_and_secrets() -> None:
    keys = TicketKeys(SECRET, 0.0)
    found = []
    for period in range(4):
        keys.advance(period * PERIOD)
        found.append(keys.current()[0])
    assert {len(one) for one in found} == {80}
    for part in (slice(0, 16), slice(16, 48), slice(48, 80)):
        assert len({one[part] for one in found}) == 4
    assert TicketKeys(SECRET[1:] + b"x", 0.0).current()[0] not in found


def test_secrets_of_earlier_keys_are_erased() -> None:
    keys = TicketKeys(SECRET, 0.0)
    first = keys.current()[0]
    keys.advance(2 * PERIOD)
    held = b"".join(one if isinstance(one, bytes) else b"".join(one) for one in (keys._secret, keys._former))
    assert SECRET not in held and first not in held


def test_keys_are_right_after_a_long_suspension() -> None:
    keys = TicketKeys(SECRET, 0.0)
    assert 0 < keys.advance(10_000 * PERIOD + 0.5) <= PERIOD


def test_the_supervisor_erases_earlier_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is started gets a copy of what the supervisor has."""
    rotated = []

    class Rotating:
        def rotate_ticket_keys(self, when: float) -> float:
            rotated.append(when)
            return 50.0

    class Supervised(supervisor._Supervisor):
        def __init__(self, certificates: Rotating | None) -> None:
            self.slots = []
            self.options = Options(certificates=certificates)  # type: ignore[arg-type]
            self.next_check = 0.0
            self.successor = None

    monkeypatch.setattr(supervisor.time, "monotonic", lambda: 7.0)
    assert Supervised(Rotating()).poll_timeout() == 50_000
    assert rotated == [7.0]
    assert Supervised(None).poll_timeout() is None
