"""What a worker counts for watchers: lists of each, rates of sampling, the end of watching, and reloads."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.service_parts import NOW, QNAME, Parts, failed, positive, query

from resolver import limits
from resolver.daemon.watching import KINDS, Watching, part_of
from resolver.observe.frequent import merge
from resolver.settings import PolicySettings, Settings
from resolver.settings.observe import QueryLogSettings
from resolver.wire import name as names

HOME = names.from_text("example.com.")
TICK = limits.TOP_TICK / 1000


class FakeTimers:
    """The timer that was started last."""

    def __init__(self) -> None:
        self.call: Callable[[], object] | None = None

    def start(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        assert (name, seconds) == ("watching", TICK)
        self.call = call


class FakeMesh:
    def __init__(self) -> None:
        self.note: Any = None
        self.asked: list[tuple[bytes, int]] = []

    def watch(self, note: Any) -> None:
        self.note = note

    def zone_of(self, name: bytes, view: int) -> bytes:
        self.asked.append((name, view))
        return HOME


class Host:
    """A worker with one configuration, whose clock a test sets."""

    def __init__(self, log: QueryLogSettings | None = None) -> None:
        self.log = log or QueryLogSettings()
        self.timers: Any = FakeTimers()
        self.now = 100.0
        self.loop: Any = SimpleNamespace(time=lambda: self.now)
        self.load()
        self.watching = Watching(self)

    def load(self) -> None:
        """A new configuration is in force."""
        settings = Settings(policy=PolicySettings(allow=("0.0.0.0/0", "::/0")))
        self.parts = Parts(settings)
        self.mesh = FakeMesh()
        self.current: Any = SimpleNamespace(
            fast=self.parts.fast, service=self.parts.service, listeners={"a": SimpleNamespace(fast=self.parts.fast)},
            settings=SimpleNamespace(query_log=self.log), resolver=SimpleNamespace(mesh=self.mesh),
        )
        self.ask("127.0.0.1")

    def ask(self, client: str, qname: bytes = QNAME, *, servfail: bool = False) -> None:
        packet = query(qname=qname)
        if self.parts.fast.answer(packet, (client, 9), NOW) is None:
            self.parts.ask(packet, peer=(client, 9))
            self.parts.mesh.finish(failed() if servfail else positive())

    def tick(self, seconds: float = TICK) -> None:
        self.now += seconds
        call, self.timers.call = self.timers.call, None
        assert call is not None
        call()

    def lists(self, watch: str = "a", keep: int = 30) -> dict[str, dict[str, int]]:
        taken = self.watching.take(watch, keep)
        return {kind: {one.key: round(one.weight) for one in merge([part_of(taken["lists"][kind])], 99)}
                for kind in KINDS}

    @property
    def sampled(self) -> bool:
        """Whether anything takes samples now."""
        rings = self.parts.fast.start_samples(1)
        assert rings
        return self.parts.service.samples is not None


def test_lists_of_an_interval() -> None:
    host = Host()
    assert host.lists() == {kind: {} for kind in KINDS}, "what was before is not counted"
    for client, times in (("192.0.2.1", 3), ("2001:db8::1", 2), ("::ffff:192.0.2.1", 1)):
        for _ in range(times):
            host.ask(client)
    host.ask("192.0.2.9", names.from_text("WWW.broken.Example.com."), servfail=True)
    host.mesh.note(HOME, 0.25, True)
    host.mesh.note(HOME, 1.5, False)
    found = host.watching.take("a", 30)
    assert (found["replies"], found["samples"]) == (7, 7)
    lists = {kind: merge([part_of(found["lists"][kind])], 9) for kind in KINDS}
    assert [(one.key, one.weight) for one in lists["names"]] == [
        ("www.example.com. A", 6), ("www.broken.example.com. A", 1)]
    assert [(one.key, one.weight) for one in lists["clients"]] == [
        ("192.0.2.1", 4), ("2001:db8::1", 2), ("192.0.2.9", 1)]
    assert [(one.key, one.weight) for one in lists["zones"]] == [("example.com.", 7)]
    assert [one.key for one in lists["failed"]] == ["www.broken.example.com. A"]
    assert lists["slow"] == [("example.com.", 1.75, 0.0, 2, 1)]
    assert host.lists() == {kind: {} for kind in KINDS}, "it counts from 0 again"


def test_names_with_control_characters_are_escaped() -> None:
    host = Host()
    host.lists()
    host.ask("127.0.0.1", b"\x05\x1b[31m\x03a b\0")
    assert list(host.lists()["names"]) == ["\\027[31m.a\\032b. A"]


@pytest.mark.parametrize(
    ("v4", "v6", "shown"),
    [(32, 128, ["192.0.2.255", "2001:db8:ff::1"]), (23, 33, ["192.0.2.0/23", "2001:db8::/33"]),
     (0, 0, ["0.0.0.0/0", "::/0"])],
)
def test_clients_are_counted_by_the_prefixes_of_the_query_log(v4: int, v6: int, shown: list[str]) -> None:
    host = Host(QueryLogSettings(client_prefix_v4=v4, client_prefix_v6=v6))
    host.lists()
    host.ask("192.0.2.255")
    host.ask("2001:db8:ff::1")
    assert sorted(host.lists()["clients"]) == sorted(shown)


def test_two_watchers_do_not_disturb_one_another() -> None:
    host = Host()
    host.lists("a")
    host.ask("192.0.2.1")
    host.lists("b")
    host.ask("192.0.2.2")
    assert set(host.lists("b")["clients"]) == {"192.0.2.2"}
    host.ask("192.0.2.3")
    assert set(host.lists("a")["clients"]) == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
    assert set(host.lists("b")["clients"]) == {"192.0.2.3"}


def test_sampling_ends_when_the_last_watcher_has_gone_away() -> None:
    host = Host()
    host.lists("a", keep=3)
    host.lists("b", keep=7)
    host.tick(2.9)
    host.tick(3)
    assert host.watching.watchers and host.parts.service.samples is not None
    host.tick(1.2)
    assert not host.watching.watchers and host.timers.call is None
    assert host.parts.service.samples is None and host.mesh.note is None
    before = host.parts.fast.start_samples(1)
    host.parts.fast.stop_samples()
    host.ask("192.0.2.1")
    assert before[0].take() == (0, [])
    assert host.lists("a") == {kind: {} for kind in KINDS}
    host.ask("192.0.2.1")
    assert host.lists("a")["clients"] == {"192.0.2.1": 1}


def test_a_call_prolongs_the_watch() -> None:
    host = Host()
    for _ in range(4):
        host.lists("a", keep=2)
        host.tick(1.5)
    assert host.watching.watchers


def test_the_rate_of_sampling_follows_the_load_and_counts_stay_right() -> None:
    host = Host()
    host.lists()
    most = limits.TOP_SAMPLES * TICK / 2  # there are two sources
    samples = []
    for times in (50, 5000, 5000, 5000, 50, 50):
        # A call between two ticks covers a shorter time, not a lower rate.
        for seconds in (TICK / 2, TICK / 2):
            for _ in range(times // 2):
                host.ask("192.0.2.1")
            host.now += seconds
            taken = host.watching.take("a", 30)
            assert taken["replies"] == times // 2
            for one in merge([part_of(taken["lists"]["clients"])], 1):
                assert one.weight == pytest.approx(times // 2)
            samples.append(taken["samples"])
    assert samples[0] == samples[-1] == 25, "few replies are all counted"
    assert samples[2] == limits.TOP_RING, "the ring is full before the rate is known"
    assert all(most / 8 < one <= most for one in samples[3:8])


def test_a_reload_goes_on_with_the_new_configuration() -> None:
    host = Host()
    host.lists()
    host.ask("192.0.2.1")
    host.tick()
    old, old_mesh = host.parts, host.mesh
    host.load()
    host.watching.follow()
    assert old.service.samples is None and old_mesh.note is None
    host.ask("192.0.2.2")
    assert host.lists()["clients"] == {"192.0.2.1": 1, "192.0.2.2": 1}
    host.tick(100)
    host.watching.follow()  # nobody watches
    assert host.parts.service.samples is None


def test_without_memory_nobody_watches_and_a_reload_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: int) -> object:
        raise MemoryError

    host = Host()
    host.lists()
    monkeypatch.setattr("resolver.daemon.watching.Samples", fail)
    host.watching.follow()
    assert not host.watching.watchers and host.mesh.note is None
    host.tick()
    with pytest.raises(ValueError, match="memory is short"):
        host.watching.take("a", 30)
    monkeypatch.undo()
    host.lists()
    host.ask("192.0.2.1")
    assert host.lists()["clients"] == {"192.0.2.1": 1}


def test_a_message_without_a_question_counts_for_its_client_only() -> None:
    host = Host()
    host.lists()
    host.parts.ask(query()[:12], peer=("192.0.2.1", 9))
    assert host.lists() == {**{kind: {} for kind in KINDS}, "clients": {"192.0.2.1": 1}}


def test_the_last_call_of_a_watcher_ends_its_watch() -> None:
    host = Host()
    host.lists("a")
    host.lists("b")
    host.ask("192.0.2.1")
    assert host.lists("a", keep=0)["clients"] == {"192.0.2.1": 1}
    assert host.watching.watchers == 1 and host.parts.service.samples is not None
    assert host.lists("b", keep=0)["clients"] == {"192.0.2.1": 1}
    assert host.watching.watchers == 0 and host.parts.service.samples is None
    host.tick()
    assert host.timers.call is None


@pytest.mark.parametrize("keep", [-1, 661])
def test_the_time_to_keep_a_watch_is_bounded(keep: int) -> None:
    with pytest.raises(ValueError, match="keep"):
        Host().watching.take("a", keep)
