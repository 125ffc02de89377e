"""Memory beside the cache: each table that remote parties can fill stays within its limit in octets.

Each table of `Mesh.memory_tables` has a filler here, which does what an attacker can do; a table without one is a
failure.
"""

import gc
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable

import pytest
from support.fakenet import FakeNet, SeededRandom

from resolver import limits
from resolver.cache import Store
from resolver.cache.bounded import BoundedDict
from resolver.daemon import resource_exhaustion
from resolver.effects import FailureKind, Question
from resolver.iterate import delegation
from resolver.mesh import Mesh
from resolver.net import reserve
from resolver.settings import Settings
from resolver.validate import chain, verify
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

SHARE = 64  # tables are made this much smaller, so that they are filled in a moment


class Idle:
    def verify(self, jobs: object, on_done: object) -> None: ...


@pytest.fixture(autouse=True)
def few_loaded_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded keys are the process's: each test has its own."""
    monkeypatch.setattr(verify, "_keys", OrderedDict())
    monkeypatch.setattr(verify, "KEPT_KEYS", limits.VERIFY_KEYS // SHARE)
    monkeypatch.setattr(chain, "KNOWN_SIGNATURES", limits.KNOWN_SIGNATURES // SHARE)
    monkeypatch.setattr(delegation, "REMEMBERED_ADDRESSES", limits.UPSTREAM_ADDRESSES // SHARE)


def make() -> Mesh:
    store = Store.create(1 << 20, seed=bytes(16), servers=limits.CACHE_SERVERS.minimum)
    net = FakeNet()
    mesh = Mesh(exchange=net, crypto=Idle(), clock=net, rng=SeededRandom(), store=store,  # type: ignore[arg-type]
                settings=Settings())
    store.denials.limit //= SHARE
    store.servers._zones.limit //= SHARE
    mesh._delegations.delegations.limit //= SHARE
    mesh.validation.chain.parsed.limit //= SHARE
    return mesh


def long_name(number: int) -> bytes:
    """255 octets, another one for each number."""
    return b"".join(bytes([len(part)]) + part for part in (b"%061d" % number, b"x" * 62, b"x" * 61, b"y" * 62)) + b"\0"


def fill_servers(mesh: Mesh, number: int) -> None:
    servers = mesh._context.store.servers
    servers.note_lame((f"192.0.{number % 60}.1", 53), long_name(number), 1.0 + number)
    servers.note_cookie((f"192.0.{number % 60}.1", 53), bytes(40), 1.0 + number)


def fill_delegations(mesh: Mesh, number: int) -> None:
    ns = RRset(long_name(number), c.NS, 3600, [long_name(13 * number + n) for n in range(13)], trust=Trust.GLUE)
    mesh._delegations.from_rrset(ns, 1000, {})


def fill_denials(mesh: Mesh, number: int) -> None:
    name = long_name(number)
    zone = names.parent(name) if number % 2 else names.parent(names.parent(name))
    bits = b"".join(bytes([window, 32]) + b"\xff" * 32 for window in range(256))
    mesh._context.store.denials.add(zone, RRset(name, c.NSEC, 3600, [long_name(number + 1) + bits]), 1000)


def fill_zones(mesh: Mesh, number: int) -> None:
    """Zones of which nothing is kept in the end: the record has no time to live."""
    mesh._context.store.denials.add(long_name(number), RRset(long_name(number), c.NSEC, 0, [b"\1a\0\0\1\x40"]), 1000)


def fill_soas(mesh: Mesh, number: int) -> None:
    """Zones whose SOA has many signatures, of which one is valid: the others are kept with it."""
    zone = long_name(number)
    soa = RRset(zone, c.SOA, 3600, [b"\0\0" + bytes(16) + (3600).to_bytes(4, "big")])
    mesh._context.store.denials.add(zone, RRset(zone, c.NSEC, 3600, [b"\1a\0\0\1\x40"]), 1000)
    mesh._context.store.denials.add_soa(soa.with_sigs([bytes(60_000)]), 1000)


def fill_keys(mesh: Mesh, number: int) -> None:
    many = [b"\1\1\3\x0d" + number.to_bytes(4, "big") + bytes([n]) * 60 for n in range(8)]
    mesh.validation.chain._keys_of(RRset(long_name(number), c.DNSKEY, 3600, many))


def fill_loaded_keys(mesh: Mesh, number: int) -> None:
    key = b"\3\1\0\1\xff" + number.to_bytes(510, "big") + b"\1"
    assert not verify.check(verify.SignatureJob(8, key, bytes(512), b""))


def fill_signatures(mesh: Mesh, number: int) -> None:
    mesh.validation.chain.remember(number.to_bytes(32, "big"))


def fill_addresses(mesh: Mesh, number: int) -> None:
    assert mesh._delegations.address_of(b"\x20\x01" + bytes(range(100, 110)) + number.to_bytes(4, "big"))


FILLERS: list[tuple[str, Callable[[Mesh, int], None]]] = [
    ("servers", fill_servers), ("delegations", fill_delegations), ("denials", fill_denials), ("denials", fill_zones),
    ("denials", fill_soas), ("keys", fill_keys), ("loaded_keys", fill_loaded_keys), ("signatures", fill_signatures),
    ("server_addresses", fill_addresses),
]


def test_every_table_has_a_filler() -> None:
    assert {table.name for table in make().memory_tables()} == {name for name, _ in FILLERS}


@pytest.mark.parametrize(("name", "fill"), FILLERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_table_stays_within_its_octets(name: str, fill: Callable[[Mesh, int], None]) -> None:
    mesh = make()
    [table] = [table for table in mesh.memory_tables() if table.name == name]
    limit = table.limit
    if name == "servers":
        limit = limits.CACHE_SERVERS.minimum * limits.SERVER_OCTETS + limits.SERVER_ZONES_OCTETS // SHARE
    for number in range(200):
        fill(mesh, number)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(200, 2600):
            fill(mesh, number)
            assert table.octets <= limit
        # CPython keeps up to 2,000 freed tuples of each length until a full collection. They are not the table's.
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown <= table.octets, "what it tells is no less than what it takes"
    told = {**mesh._context.store.statistics(), **mesh.statistics()}
    assert told["memory"] == sum(table.octets for table in mesh.memory_tables())


def test_evicted_entries_are_subtracted() -> None:
    mesh = make()
    for number in range(500):
        for _, fill in FILLERS:
            fill(mesh, number)
    store = mesh._context.store
    store.servers.clear()
    store.denials.clear()
    mesh._delegations.clear()
    mesh.validation.chain.parsed.clear()
    assert verify.loaded.octets
    mesh.shrink()
    assert [table.octets for table in mesh.memory_tables()] == [0] * 7
    assert not verify._keys
    for number in range(500):
        fill_servers(mesh, number)
    assert store.servers._zones.octets == sum(
        len(zone) + limits.SERVER_ZONE_OVERHEAD for info in store.servers._known.values() for zone in info.zones or ()
    )
    for number in range(300):
        fill_denials(mesh, number)
    held = sum(zone.octets for zone in store.denials._zones.values())
    assert store.denials.octets == held
    store.denials.forget(names.parent(long_name(299)), subtree=True)
    assert store.denials.octets == sum(zone.octets for zone in store.denials._zones.values()) < held


def test_a_bounded_table() -> None:
    table = BoundedDict("x", limit=100, most=5)
    assert not table.put("huge", 1, 13) and not len(table)
    for number in range(20):
        assert table.put(number, number, 10)
    assert list(table.entries) == [15, 16, 17, 18, 19] and table.octets == 50 and table.evicted == 15
    table.put(19, "again", 12)
    assert table.octets == 52
    table.pop(15)
    table.pop("nobody")
    assert table.octets == 42


def test_all_tables_are_emptied_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = make()
    for _, fill in FILLERS:
        for number in range(20):
            fill(mesh, number)
    tables = mesh.memory_tables()
    assert all(table.octets for table in tables)
    resource_exhaustion.shed_load_when_low(mesh, 60.0)
    question, outcomes = Question(names.from_text("new.example."), c.A), []
    monkeypatch.setattr(reserve, "needs_check", lambda: True)
    monkeypatch.setattr(reserve, "is_given_up", lambda: True)
    monkeypatch.setattr(reserve, "is_short", lambda: True)
    mesh.submit(question, on_done=outcomes.append)
    assert [outcome.failure.kind for outcome in outcomes] == [FailureKind.OVERLOAD]
    assert [table.octets for table in tables] == [0] * len(tables)
    for _, fill in FILLERS:
        fill(mesh, 1)
    assert all(0 <= table.octets <= table.limit for table in tables)
    monkeypatch.undo()
    mesh.close()
