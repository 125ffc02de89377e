"""Flushes of other resolvers: which a worker makes in its cache, also those that came while it did not run."""

import asyncio
import io
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from resolver import limits
from resolver.cache import Store
from resolver.cache.fleet_messages import Message
from resolver.cache.snapshot import dump, load
from resolver.daemon.fleet import Fleet
from resolver.daemon.runtime_config import RuntimeConfig

NOW = 1_800_000_000


class Host:
    """A worker whose flushes take as many steps as `gate` holds them back."""

    channels = None
    change_keeper: Any = None

    def __init__(self, store: Store, number: int = 0) -> None:
        self.store = store
        self.number = number
        self.flushed: list[str | None] = []
        self.gate = asyncio.Event()
        self.tasks: list[asyncio.Task[Any]] = []
        self.commands = SimpleNamespace(flush=self.flush)
        self.fleet = Fleet(cast("Any", self))
        self.second = SimpleNamespace(
            on_message=None, on_read=None, acts_from=None, clock=SimpleNamespace(time=lambda: NOW))

    def flush(self, request: dict[str, Any]) -> list[int]:
        self.flushed.append(request["name"])
        return [1]

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None:
        self.tasks.append(asyncio.ensure_future(self._gated(work)))

    async def _gated(self, work: Coroutine[Any, Any, Any]) -> None:
        await self.gate.wait()
        await work

    def follow(self) -> "Host":
        self.fleet.follow(cast("RuntimeConfig", SimpleNamespace(resolver=SimpleNamespace(second_level=self.second))))
        return self

    def hear(self, *names: str | None, own: bool = False, caches: bool = True) -> None:
        for name in names:
            fields = {"name": name, "subtree": False, "type": None, "caches": caches}
            self.second.on_message(Message("flush", NOW, fields, own))

    async def settle(self) -> None:
        self.gate.set()
        await asyncio.gather(*self.tasks)


class Keeper:
    """Makes changes one at a time."""

    def __init__(self) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.running = 0

    async def perform_for_fleet(self, kind: str, fields: dict[str, Any]) -> None:
        self.running += 1
        assert self.running == 1
        await asyncio.sleep(0)
        self.running -= 1
        if fields["name"] == "wrong":
            raise ValueError("it is wrong")
        self.made.append((kind, fields))


def store() -> Store:
    return Store.create(1 << 20, seed=bytes(16))


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def test_the_cache_knows_up_to_when_flushes_were_made() -> None:
    async def body() -> None:
        kept = store()
        host = Host(kept).follow()
        assert host.second.acts_from == kept.table.fleet_read == NOW, "it was empty before"
        host.hear("a.test.", "b.test.")
        host.second.on_read(NOW + 7)
        assert kept.table.fleet_read == NOW, "they are not made yet"
        assert Host(kept).follow().second.acts_from == NOW, "its successor has to make them"
        await host.settle()
        assert host.flushed == ["a.test.", "b.test."] and kept.table.fleet_read == NOW + 7
        host.second.on_read(NOW + 8)
        assert Host(kept).follow().second.acts_from == NOW + 8

    run(body)


def test_only_the_first_worker_acts_and_not_on_its_own_messages() -> None:
    async def body() -> None:
        host, other = Host(store()).follow(), Host(store(), number=1).follow()
        host.hear("a.test.", own=True)
        host.hear("a.test.", caches=False)
        other.hear("a.test.")
        assert other.second.acts_from is other.second.on_read is None and not other.store.table.fleet_read
        assert not host.tasks and not other.tasks

    run(body)


def test_too_many_flushes_become_one_of_everything() -> None:
    async def body() -> None:
        host = Host(store()).follow()
        host.hear(*(f"n{number}.test." for number in range(limits.FLEET_OUTBOX + 3)))
        await host.settle()
        assert host.flushed == ["n0.test.", None, f"n{limits.FLEET_OUTBOX + 2}.test."]
        assert len(host.tasks) == 1, "one after the other"

    run(body)


def test_after_a_snapshot_flushes_since_it_was_made_count() -> None:
    given, kept = store(), store()
    file = io.BytesIO(b"".join(dump(given, label=b"x", now=NOW - 500)))
    assert load(kept, file, label=b"x", now=NOW, largest=1 << 20).age == 500
    assert kept.table.fleet_read == NOW - 500
    kept.table.fleet_read = NOW - 900
    load(kept, file, label=b"x", now=NOW, largest=1 << 20)
    assert kept.table.fleet_read == NOW - 900


def test_negative_trust_anchors_of_others_are_made_one_after_the_other(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        host, other = Host(store()).follow(), Host(store(), number=1).follow()
        host.change_keeper = other.change_keeper = Keeper()
        messages = [Message("nta-add", NOW, {"name": name}, False) for name in ("a.test.", "wrong", "b.test.")]
        messages.append(Message("nta-remove", NOW, {"name": "a.test."}, False))
        messages.append(Message("nta-add", NOW, {"name": "own.test."}, True))
        for message in messages:
            host.second.on_message(message)
        other.second.on_message(messages[0])
        await host.settle()
        assert not other.tasks
        assert [(kind, fields["name"]) for kind, fields in host.change_keeper.made] == [
            ("nta-add", "a.test."), ("nta-add", "b.test."), ("nta-remove", "a.test.")]
        host.change_keeper = None
        host.second.on_message(messages[0])
        await host.settle()

    run(body)
    said = [record.getMessage() for record in caplog.records]
    assert [text.rpartition(": ")[2] for text in said] == ["it is wrong", "the daemon is starting"]


def test_too_many_changes_of_others_are_not_made(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        host = Host(store()).follow()
        host.change_keeper = Keeper()
        for _ in range(limits.FLEET_OUTBOX + 3):
            host.second.on_message(Message("nta-add", NOW, {"name": "a.test."}, False))
        await host.settle()
        assert len(host.change_keeper.made) == limits.FLEET_OUTBOX + 1 and len(host.tasks) == 1

    run(body)
    assert sum("too many changes" in record.getMessage() for record in caplog.records) == 2
