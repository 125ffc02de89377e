"""Policy zones that are transferred: content from copies on disk, rules in `ListUpdates`, without a network."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from resolver.daemon import list_updates, zone_files
from resolver.daemon.list_updates import ListUpdates
from resolver.daemon.zone_keeper import ZoneKeeper
from resolver.effects import Question
from resolver.net.zone_client import Fetched, ZoneClient
from resolver.policy import PolicyPipeline
from resolver.query import Query
from resolver.settings import PolicySettings, Settings, ZoneSettings, ZonesSettings, replace
from resolver.settings.lists import RpzSettings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.zones import Mode, ServedZone, Zone, ZoneTable
from resolver.zones.journal import content_block
from resolver.zones.load import read_zone

NOW = 1_800_000_000
ORIGIN = names.from_text("rpz.example.")
EXPIRE = 86_400
RPZ = RpzSettings(name="rpz.example", primaries=("192.0.2.1",))


def version(serial: int, *rules: str) -> Zone:
    head = f"$TTL 300\n@ SOA ns host {serial} 3600 600 {EXPIRE} 60\n@ NS ns\n"
    return read_zone(io.StringIO(head + "".join(f"{rule}\n" for rule in rules)), "zone", ORIGIN)


class World:
    """The keeper and the lists of one worker, whose clock is moved."""

    def __init__(
        self, home: Path, *, leads: bool = False, rpz: RpzSettings = RPZ, before: "World | None" = None
    ) -> None:
        self.home = home
        self.now = NOW if before is None else before.now
        self.settings = Settings(
            zones=ZonesSettings(directory=str(home)), rpz=(rpz,), policy=PolicySettings(special_use_domains=False))
        self.table = ZoneTable([ServedZone(ORIGIN, Mode.POLICY)], lambda: self.now)
        self.lists = ListUpdates(self.settings, None if before is None else before.lists)
        self.changes: list[bool] = [] if before is None else before.changes
        self.leads = leads
        self.before = before

    def write(self, zone: Zone, confirmed: int = NOW) -> None:
        (self.home / "rpz.example.zone").write_bytes(content_block(zone, confirmed))

    def run(self, work: "Callable[[ZoneKeeper], Awaitable[Any]]") -> Any:
        """Start a keeper, do `work` with it, and stop it. It never asks a primary."""

        async def main() -> Any:
            keeper = ZoneKeeper(self.settings, self.table, None, leads=self.leads, now=lambda: self.now,
                                changed=lambda _: None, flush=lambda _: None, directory=self.home, lists=self.lists,
                                rules_changed=self.changes.append)
            keeper._refresh_soon = lambda status: None  # type: ignore[method-assign]
            await keeper.start()
            try:
                return await work(keeper)
            finally:
                keeper.stop()

        return asyncio.run(main())

    def rcode(self, name: str) -> int | None:
        """That of the answer by a rule; None without a rule."""
        view = PolicyPipeline(self.settings, modules=self.lists.modules).views[0]
        found = view.own_question(Query("127.0.0.1", transport="udp"), Question(names.from_text(name), c.A))
        return None if found is None else found.rcode

    def blocks(self, name: str) -> bool:
        return self.rcode(name) == c.NXDOMAIN


async def nothing(keeper: ZoneKeeper) -> list[str]:
    return keeper.problems()


@pytest.mark.parametrize("leads", [False, True])
def test_the_rules_of_a_copy_are_in_force_until_it_expires(tmp_path: Path, leads: bool) -> None:
    for confirmed, applies in ((NOW - EXPIRE + 1, True), (NOW - EXPIRE, False)):
        world = World(tmp_path, leads=leads)
        world.write(version(5, "nx.test CNAME ."), confirmed)
        problems = world.run(nothing)
        assert world.blocks("nx.test.") is applies and not world.blocks("other.test.")
        [state] = world.lists.describe()
        assert (state["entries"], state["error"]) == ((1, "") if applies else (0, "it has expired"))
        assert state["age"] is not None
        assert world.lists.problems() == [], "the keeper says it"
        if leads and not applies:
            [problem] = problems
            assert problem.startswith("response policy zone rpz.example.: it has expired, so none of its rules are in")
        # The other workers need no content for transfers.
        served = world.table.get(ORIGIN)
        assert served is not None and (served.zone is not None) is leads


def test_without_a_copy_nothing_is_in_force(tmp_path: Path) -> None:
    async def refused(keeper: ZoneKeeper) -> list[str]:
        [status] = keeper._zones.values()
        keeper._fail(status, "192.0.2.1: no reply in time")
        return keeper.problems()

    world = World(tmp_path, leads=True)
    [problem] = world.run(refused)
    assert problem == ("response policy zone rpz.example.: it has no content yet, so none of its rules are in force:"
                       " 192.0.2.1: no reply in time")
    [state] = world.lists.describe()
    assert (state["entries"], state["age"], state["error"]) == (0, None, "192.0.2.1: no reply in time")


def test_a_version_that_is_confirmed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.write(version(5, "nx.test CNAME ."), NOW - EXPIRE)

    async def confirm(keeper: ZoneKeeper) -> None:
        assert not world.blocks("nx.test."), "it has expired"
        monkeypatch.setattr(zone_files, "_read_copy", lambda *_: pytest.fail("it is read"))
        monkeypatch.setattr(list_updates, "compile_transferred", lambda *_: pytest.fail("it is compiled"))
        assert not keeper.confirm("rpz.example.", 6, NOW) and not world.blocks("nx.test.")
        assert keeper.confirm("rpz.example.", 5, NOW) and world.blocks("nx.test.")
        assert keeper.confirmation(ORIGIN) == (5, NOW)
        with pytest.raises(ValueError, match="is not the name of a configured zone"):
            keeper.confirm("other.example.", 5, NOW)

    world.run(confirm)


def test_a_timer_withdraws_the_rules(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(version(5, "nx.test CNAME ."))

    async def expire(keeper: ZoneKeeper) -> None:
        [status] = keeper._zones.values()
        timer = status.expiry_timer
        assert timer is not None and EXPIRE - 1 < timer.when() - asyncio.get_running_loop().time() <= EXPIRE
        world.now += EXPIRE - 1
        keeper._put_rules(status)
        assert world.blocks("nx.test."), "the clock of the system was set back, so the timer is early"
        world.now += 1
        keeper._put_rules(status)
        assert not world.blocks("nx.test.") and status.expiry_timer is None

    world.run(expire)
    assert world.changes == [False, False]


def test_triggers_for_name_servers_need_an_empty_cache(tmp_path: Path) -> None:
    """Before and after: data that was cached without them would pass them."""
    world = World(tmp_path)
    found = []
    for serial, rule in enumerate(("nx.test CNAME .", "ns.test.rpz-nsdname CNAME .", "32.1.2.0.192.rpz-nsip CNAME .",
                                   "nx.test CNAME .", "32.1.2.0.192.rpz-ip CNAME ."), 1):
        world.write(version(serial, rule))
        world.run(nothing)
        found.append(world.changes.pop())
        assert world.changes == []
    assert found == [False, True, True, True, False]


def test_a_reload_goes_on_with_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = World(tmp_path)
    first.write(version(5, "nx.test CNAME ."))

    async def reload(keeper: ZoneKeeper) -> None:
        second = World(tmp_path, rpz=replace(RPZ, override="nodata", key=""), before=first)
        assert second.rcode("nx.test.") == c.NOERROR and second.rcode("other.test.") is None, "the override applies"
        monkeypatch.setattr(list_updates, "compile_transferred", lambda *_: pytest.fail("it is compiled again"))
        later = ZoneKeeper(second.settings, second.table, None, leads=False, now=lambda: second.now,
                           changed=lambda _: None, flush=lambda _: None, directory=tmp_path, lists=second.lists,
                           rules_changed=second.changes.append)
        keeper.stop()
        later.carry_over(keeper)
        [status] = later._zones.values()
        assert status.expiry_timer is not None, "the rules expire, also when the copy cannot be read"
        await later.start()
        assert second.rcode("nx.test.") == c.NOERROR
        later.stop()

    first.run(reload)


def test_a_policy_zone_has_no_chain_of_proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers nothing, and the chain of a million names takes seconds."""
    monkeypatch.setattr(Zone, "chain", lambda _: pytest.fail("it is made"))
    world = World(tmp_path, leads=True)
    world.write(version(5, "nx.test CNAME ."))

    async def refresh(keeper: ZoneKeeper) -> None:
        async def fetch(_: object, origin: bytes, *__: object) -> Fetched:
            return Fetched(6, version(6, "new.test CNAME ."), [], 0)

        monkeypatch.setattr(ZoneClient, "fetch", fetch)
        [status] = keeper._zones.values()
        await keeper._refresh(status)
        assert world.blocks("new.test.")
        content = await keeper.open_content(ORIGIN, always=True)
        assert content is not None
        keeper.take_content("rpz.example", content)
        await asyncio.gather(*keeper._tasks)

    world.run(refresh)
    assert world.blocks("new.test.")


def test_a_version_that_cannot_be_compiled_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.write(version(5, "nx.test CNAME ."))
    world.run(nothing)
    monkeypatch.setattr("resolver.policy.rpz_zone.limits.RPZ_RULES", 1)
    world.write(version(6, "new.test CNAME .", "a.test A 192.0.2.1", "b.test A 192.0.2.2"))
    world.run(nothing)
    assert world.blocks("nx.test.") and not world.blocks("new.test.")
    assert "more than 1 different rules" in world.lists.describe()[0]["error"]


def test_no_question_belongs_to_a_policy_zone() -> None:
    table = ZoneTable([ServedZone(ORIGIN, Mode.POLICY), ServedZone(names.from_text("example."), Mode.AUTHORITATIVE)],
                      lambda: NOW)
    table.put(ORIGIN, version(5, "nx.test A 192.0.2.1"), NOW + 9)
    name = names.from_text("nx.test.rpz.example.")
    found = table.closest(name, c.A)
    assert found is not None and found.mode is Mode.AUTHORITATIVE
    assert table.delegation(name) is None and table.reply(ORIGIN, name, c.A) is None
    alone = ZoneTable([ServedZone(ORIGIN, Mode.POLICY)], lambda: NOW)
    alone.put(ORIGIN, version(5), NOW + 9)
    assert not alone and alone.answer(name, c.A) is None and [one.origin for one in alone] == [ORIGIN]


@pytest.mark.parametrize(("given", "error"), [
    ({}, "rpz: file is missing"),
    ({"file": "f", "primaries": ("192.0.2.1",)}, "rpz.file: the zone 'rpz.example' has primaries"),
    ({"url": "https://a.example/", "primaries": ("192.0.2.1",)}, "rpz.url: the zone 'rpz.example' has primaries"),
    ({"file": "f", "key": "k"}, "rpz.key: the zone 'rpz.example' has no primaries"),
    ({"file": "f", "allow_notify": ("192.0.2.0/24",)}, "rpz.allow_notify: the zone 'rpz.example' has no primaries"),
    ({"primaries": ("ns.example",)}, "rpz.primaries: 'ns.example' is not an IP address"),
    ({"primaries": ("tls://192.0.2.1",)}, "rpz.primaries: 'tls://192.0.2.1' has no name and no pin"),
    ({"primaries": ("192.0.2.1",), "allow_notify": ("x",)}, "rpz.allow_notify: 'x' is not an address prefix"),
])
def test_a_policy_zone_has_one_source(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError) as raised:
        RpzSettings(name="rpz.example", **given)
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize(("given", "error"), [
    ({"rpz": (RPZ,), "zones": ZonesSettings()}, "zones.directory: it is empty, but 'rpz.example' has primaries"),
    ({"rpz": (replace(RPZ, key="k"),)}, "rpz: 'k' is not the name of a [[tsig-key]]"),
    ({"rpz": (RPZ,), "zone": (ZoneSettings(name="RPZ.example.", file="f"),)}, "rpz: 'rpz.example' is also the name of"),
    ({"rpz": (RPZ, replace(RPZ, name="RPZ.example"))}, "rpz: 'RPZ.example' is also the name of another zone"),
    ({"zone": (ZoneSettings(name="e.test", file="f", mode="policy"),)}, "zone: 'policy' is the mode of [[rpz]] tables"),
])
def test_a_policy_zone_is_no_other_zone(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError) as raised:
        Settings(**{"zones": ZonesSettings(directory="/d"), **given})
    assert str(raised.value).startswith(error)
