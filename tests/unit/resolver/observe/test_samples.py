"""Samples of replies: what is recorded of them by the fast path, by lanes and by the service, and how many."""

import pytest
from support.observed import Observed
from support.service_parts import CLIENT, NOW, QNAME, Parts, Sink, failed, positive, query

from resolver import limits
from resolver.observe.samples import Samples
from resolver.settings import PolicySettings, Settings, ViewSettings
from resolver.wire import consts as c

HOST = bytes((127, 0, 0, 1))


def cached(**options: object) -> Parts:
    """Parts whose cache has the answer to `query()`."""
    parts = Parts(**options)  # type: ignore[arg-type]
    parts.answer(query(), positive())
    return parts


def test_nothing_is_recorded_until_somebody_watches_and_after() -> None:
    parts = cached()
    assert parts.fast.answer(query(), CLIENT, NOW)
    [ring] = parts.fast.start_samples(1)
    assert ring.take() == (0, [])
    assert parts.fast.answer(query(), CLIENT, NOW)
    parts.fast.stop_samples()
    assert parts.fast.answer(query(), CLIENT, NOW)
    assert ring.take() == (1, [(HOST, QNAME, c.A, c.NOERROR, 0)])
    assert parts.fast.start_samples(1) == [ring], "the ring is used again"


def test_an_observer_and_samples_do_not_disturb_one_another() -> None:
    observed = Observed({})
    parts = cached(observer=observed.observer)
    [ring] = parts.fast.start_samples(1)
    for _ in range(3):
        assert parts.fast.answer(query(), CLIENT, NOW)
    parts.fast.stop_samples()
    assert parts.fast.answer(query(), CLIENT, NOW)
    assert len(observed.lines()) == 1 + 3 + 1
    assert len(ring.take()[1]) == 3


@pytest.mark.parametrize(("host", "address"), [("192.0.2.7", bytes((192, 0, 2, 7))), ("2001:db8::7", None)])
def test_replies_of_the_service(host: str, address: bytes | None) -> None:
    parts = Parts(Settings(policy=PolicySettings(allow=("0.0.0.0/0", "::/0"))))
    ring = parts.service.samples = Samples()
    for packet, outcome in ((query(), positive()), (query(c.TXT), failed())):
        parts.ask(packet, peer=(host, 5))
        parts.mesh.finish(outcome)
    parts.ask(query()[:12], peer=(host, 5))  # a header without a question
    address = address or bytes((0x20, 1, 0x0D, 0xB8, *bytes(11), 7))
    replies, found = ring.take()
    assert replies == 3
    assert found[0] == (address, QNAME, c.A, c.NOERROR, 0)
    assert found[1] == (address, QNAME, c.TXT, c.SERVFAIL, 0)
    assert found[2][:3] == (address, b"", 0)


def test_views() -> None:
    settings = Settings(
        view=(ViewSettings(name="kids", clients=("10.1.0.0/16",)), ViewSettings(name="lab", clients=("10.2.0.0/16",))),
        policy=PolicySettings(allow=("0.0.0.0/0",)),
    )
    parts = Parts(settings)
    ring = parts.service.samples = Samples()
    [fast] = parts.fast.start_samples(1)
    for _ in range(2):
        reply = parts.fast.answer(query(), ("10.2.0.1", 1), NOW)
        if reply is None:
            parts.ask(query(), peer=("10.2.0.1", 1), sink=Sink())
            parts.mesh.finish(positive())
    assert [one[4] for one in ring.take()[1]] == [2]
    assert [one[4] for one in fast.take()[1]] == [2]


def test_a_lane_has_a_ring_of_its_own() -> None:
    parts = cached()
    lane = parts.fast.for_lane()
    own, of_lane = parts.fast.start_samples(1)
    later = parts.fast.for_lane()  # as at a reload: it takes part when samples are started again
    for fast, times in ((parts.fast, 1), (lane, 2), (later, 4)):
        for _ in range(times):
            assert fast.answer(query(), CLIENT, NOW)
    assert [ring.take()[0] for ring in (own, of_lane)] == [1, 2]
    assert len(parts.fast.start_samples(1)) == 3
    parts.fast.stop_samples()
    assert lane.answer(query(), CLIENT, NOW)
    assert of_lane.take() == (0, [])


@pytest.mark.parametrize("every", [2, 16])
def test_one_reply_of_so_many_is_recorded(every: int) -> None:
    parts = cached()
    [ring] = parts.fast.start_samples(7)
    ring.every = every
    total = recorded = 0
    for _ in range(8):
        for _ in range(500):
            parts.fast.answer(query(), CLIENT, NOW)
        replies, found = ring.take()
        total, recorded = total + replies, recorded + len(found)
    assert total == 4000
    assert 0.8 * total / every < recorded < 1.2 * total / every


def test_replies_for_which_there_is_no_room_are_counted() -> None:
    parts = cached()
    [ring] = parts.fast.start_samples(1)
    for _ in range(limits.TOP_RING + 100):
        assert parts.fast.answer(query(), CLIENT, NOW)
    replies, found = ring.take()
    assert (replies, len(found)) == (limits.TOP_RING + 100, limits.TOP_RING)
    assert parts.fast.answer(query(), CLIENT, NOW)
    assert [len(one) if isinstance(one, list) else one for one in ring.take()] == [1, 1]


def test_only_powers_of_two_are_rates() -> None:
    ring = Samples()
    for wrong in (0, 3, 6):
        with pytest.raises(ValueError, match="no power of two"):
            ring.every = wrong
    assert ring.every == 1


def test_odd_messages() -> None:
    """A client without an address, and messages that are no query, are counted and have no name."""
    ring = Samples()
    ring.note(b"", bytes(12), "::1", 0)
    ring.note(query(), b"short", "::1", 0)
    assert ring.take() == (0, [])
    ring.note(query()[:20], bytes(12), "nowhere", 0)
    assert ring.take() == (1, [(b"", b"", 0, 0, 0)])
    longest = b"\x3f" + 63 * b"a"
    name = 3 * longest + b"\x3d" + 61 * b"a" + b"\0"
    ring.note(query(qname=name), bytes(12), "fe80::1%lo", 0)
    assert ring.take()[1][0][1] == name
