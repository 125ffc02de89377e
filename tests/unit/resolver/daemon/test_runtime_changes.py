"""Run-time changes as values, what they do to settings, and their file, which is damaged in every way."""

import asyncio
import random
from types import SimpleNamespace

import pytest
from support.http_peer import run_on

from resolver import limits, playground
from resolver.api import Resolver
from resolver.daemon import runtime_changes as room
from resolver.daemon.change_keeper import ChangeKeeper
from resolver.daemon.runtime_changes import RuntimeChanges, make_change
from resolver.settings import ForwardZone, Settings

NTA = make_change("nta", "Example.COM", until=1_800_000_000, reason="expired", check=True)
FORWARD = make_change("forward", "corp.test", ["192.0.2.1", "192.0.2.2:5353"], first=True)
STUB = make_change("stub", "lab.test.", ["192.0.2.3"])
DATA = make_change("local-data", "", ["www.Here.test. 300 IN A 192.0.2.4"])
ALL = (NTA, FORWARD, STUB, DATA)


# --- changes and settings -----------------------------------------------------------------------------------------


def test_names_have_one_form():
    assert [one.name for one in ALL] == ["example.com.", "corp.test.", "lab.test.", "www.here.test."]


def test_settings_with_changes_are_those_of_a_file_with_the_same_lines():
    settings = RuntimeChanges(None, ALL).applied_to(Settings())
    assert settings.dnssec.negative_trust_anchors == ("example.com. 1800000000",)
    assert settings.forward == (ForwardZone("corp.test.", FORWARD.values, forward_first=True),)
    assert settings.stub[0].addresses == ("192.0.2.3",)
    assert settings.policy.local_data == ("www.Here.test. 300 IN A 192.0.2.4",)
    assert RuntimeChanges().applied_to(settings) is settings


def test_a_zone_replaces_that_of_the_configuration_and_the_earlier_one():
    configured = Settings(forward=(ForwardZone("LAB.test", ("192.0.2.9",)),))
    changes = RuntimeChanges().add(make_change("forward", "lab.test", ["192.0.2.8"])).add(STUB)
    settings = changes.applied_to(configured)
    assert (settings.forward, [zone.zone for zone in settings.stub]) == ((), ["lab.test."])


def test_records_of_one_name_stay_together_and_are_removed_by_type():
    more = make_change("local-data", "", ["www.here.test. 300 IN AAAA 2001:db8::1"])
    changes = RuntimeChanges().add(DATA).add(more).add(DATA)
    assert changes.entries == (more, DATA)
    assert changes.remove(changes.find("local-data", "WWW.here.test", "aaaa")).entries == (DATA,)
    assert changes.remove(changes.find("local-data", "www.here.test")).entries == ()
    with pytest.raises(ValueError, match=r"nta: www\.here\.test\. was not added at run time"):
        changes.find("nta", "www.here.test")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zone", "a.test"), "'zone' is not one of nta, forward"),
        (("forward", "a.test"), "at least one address"),
        (("stub", "a.test", ["not.an.address"]), "stub: addresses"),
        (("local-data", "", ["a.test."]), "one record"),
        (("local-data", "", ["a.test. A 192.0.2.1\nb.test. A 192.0.2.2"]), "one record"),
        (("nta", "a..test"), "nta: .*label"),
        (("nta", "a.test"), "no end"),
    ],
)
def test_what_is_wrong_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        make_change(*arguments)


def test_there_is_a_limit():
    changes = RuntimeChanges(None, [make_change("nta", f"a{n}.test", until=1) for n in range(limits.CHANGES)])
    with pytest.raises(ValueError, match="the most there may be"):
        changes.add(NTA)
    assert len(changes.add(changes.entries[0]).entries) == limits.CHANGES


# --- the file -----------------------------------------------------------------------------------------------------


def test_the_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "changes"
    RuntimeChanges(path, ALL).write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = RuntimeChanges.load(str(path))
    assert (loaded.entries, loaded.trouble, loaded.path) == (ALL, "", path)
    assert RuntimeChanges.load(str(tmp_path / "none")).entries == ()
    assert RuntimeChanges.load("").path is None


def test_every_damaged_octet_and_every_cut_is_noticed():
    data = room.render(ALL).encode()
    rng = random.Random(5)
    for position in range(len(data)):
        with pytest.raises(room.ChangeFileError, match=r"line \d"):
            room.parse(data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :])
        with pytest.raises(room.ChangeFileError, match=r"line \d"):
            room.parse(data[:position])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[]", "no object"),
        ('{"kind": "nta"}', "no object"),
        (room.render([NTA]).splitlines()[1].replace("1800000000", '"x"'), "until is no int"),
        (room.render([NTA]).splitlines()[1].replace('"values": []', '"values": [1]'), "no text"),
        (room.render([NTA]).splitlines()[1].replace("example.com.", "a..b"), "label"),
        ("[" * 10_000, "line 2"),
    ],
)
def test_a_line_with_the_right_checksum_is_checked_too(line, words):
    data = f"{room.HEAD}\n{line}\nend 1 {room._checksum([line])}\n".encode()
    with pytest.raises(room.ChangeFileError, match=words):
        room.parse(data)


def test_a_damaged_file_keeps_what_was_in_force_and_says_why(tmp_path):
    path = tmp_path / "changes"
    RuntimeChanges(path, ALL).write(path)
    before = RuntimeChanges.load(str(path))
    path.write_text("resolverd-changes 2\n")
    for earlier, entries in ((before, ALL), (None, ())):
        loaded = RuntimeChanges.load(str(path), earlier)
        assert loaded.entries == entries
        assert loaded.trouble.startswith(f"control.changes-file: {path}: line 1: it has version '2'")
    with pytest.raises(ValueError, match=r"^control\.changes_file: "):
        room.check(str(path))
    with pytest.raises(ValueError, match="the directory of"):
        room.check(str(tmp_path / "no" / "changes"))


# --- the end of negative trust anchors ----------------------------------------------------------------------------


class Clock:
    now = 1_000_000

    def time(self):
        return self.now


class Host:
    """A first worker whose changes are in force at once."""

    rollover = None

    def __init__(self, path, settings):
        self.upgrades = SimpleNamespace(running=False)
        self.changes = RuntimeChanges(path)
        self.settings = settings
        self.resolver = self
        self.clock = Clock()
        self.reloads = SimpleNamespace(lock=asyncio.Lock())
        self.change_steps = SimpleNamespace(apply=self.apply)
        self.tasks = []
        self.fault = ""
        self.missing = ""
        self.flushed = []

    @property
    def current(self):
        return self

    async def apply(self, new):
        if self.fault:
            raise ValueError(self.fault)
        self.changes = new
        return self.missing

    async def flush_names(self, origin):
        self.flushed.append(origin)

    def start_task(self, work):
        self.tasks.append(asyncio.ensure_future(work))


def _with_host(tmp_path, test):
    async def main():
        async with await playground.start(port=0) as world:
            host = Host(tmp_path / "changes", world.settings(Settings()))
            keeper = ChangeKeeper(host)
            try:
                await test(host, keeper)
            finally:
                keeper.stop()

    run_on("corenet", main())


async def _names(keeper):
    return [one["name"] for one in (await keeper.perform({"kind": "nta", "action": "list"}))["changes"]]


def test_an_anchor_has_an_hour_or_what_was_said(tmp_path):
    async def test(host, keeper):
        add = {"kind": "nta", "action": "add"}
        await keeper.perform({**add, "name": "a.test"})
        shown = await keeper.perform({**add, "name": "b.test", "lifetime": "2h 1m", "reason": "why", "force": True})
        assert [(one["left"], one["reason"], one["check"]) for one in shown["changes"]] == [
            (3600, "", True), (7260, "why", False)]
        with pytest.raises(ValueError, match="between 1 and 604800"):
            await keeper.perform({**add, "name": "c.test", "lifetime": "8d"})
        host.clock.now += 3600
        await keeper.end_anchors()
        assert await _names(keeper) == ["b.test."]
        await keeper.perform({"kind": "nta", "action": "remove", "name": "B.test"})
        assert await _names(keeper) == []

    _with_host(tmp_path, test)


def test_workers_that_did_not_switch_are_named(tmp_path):
    async def test(host, keeper):
        host.missing = "worker 2 does not answer"
        for action in ("add", "remove"):
            with pytest.raises(ValueError, match="in force, but not in all workers: worker 2 does not answer"):
                await keeper.perform({"kind": "nta", "action": action, "name": "a.test"})
        assert await _names(keeper) == []

    _with_host(tmp_path, test)


def test_nothing_changes_during_an_upgrade(tmp_path):
    """The other process may have read the file already."""

    async def test(host, keeper):
        add = {"kind": "nta", "action": "add", "force": True}
        await keeper.perform({**add, "name": "a.test", "lifetime": "1s"})
        host.upgrades.running = True
        with pytest.raises(ValueError, match="an upgrade is in progress: try again"):
            await keeper.perform({**add, "name": "b.test"})
        host.clock.now += 3600
        await keeper.end_anchors()
        assert await _names(keeper) == ["a.test."] and host.flushed == []
        host.upgrades.running = False
        await keeper.end_anchors()
        assert await _names(keeper) == []

    _with_host(tmp_path, test)


def test_an_anchor_ends_when_its_zone_validates_again(tmp_path):
    async def test(host, keeper):
        zones = {"nsec.dnssec.playground.": False, "expired.dnssec.playground.": False,
                 "nsec3.dnssec.playground.": True}
        for zone, force in zones.items():
            await keeper.perform({"kind": "nta", "action": "add", "name": zone, "force": force})
        keeper.schedule()
        await keeper.end_anchors()
        assert len(await _names(keeper)) == 3, "none was due"
        host.clock.now += limits.NTA_CHECK
        await keeper.end_anchors()
        assert await _names(keeper) == ["expired.dnssec.playground.", "nsec3.dnssec.playground."]

    _with_host(tmp_path, test)


def test_a_clock_that_was_set_back_delays_no_check(tmp_path):
    async def test(host, keeper):
        await keeper.perform({"kind": "nta", "action": "add", "name": "nsec.dnssec.playground."})
        keeper.schedule()
        host.clock.now -= 10 * limits.NTA_CHECK
        await keeper.end_anchors()
        assert len(await _names(keeper)) == 1
        host.clock.now += limits.NTA_CHECK
        await keeper.end_anchors()
        assert await _names(keeper) == []

    _with_host(tmp_path, test)


def test_a_check_that_ends_by_an_error_is_repeated(tmp_path, monkeypatch):
    async def test(host, keeper):
        asked = []

        async def validates(anchor):
            asked.append(anchor.name)
            raise MemoryError

        monkeypatch.setattr(keeper, "validates", validates)
        for name, lifetime in (("short.test", "100"), ("long.test", "1h")):
            await keeper.perform({"kind": "nta", "action": "add", "name": name, "lifetime": lifetime})
        keeper.schedule()
        host.clock.now += limits.NTA_CHECK
        keeper._start()
        [failed] = await asyncio.gather(*host.tasks, return_exceptions=True)
        assert isinstance(failed, MemoryError) and asked == ["long.test."]
        assert await _names(keeper) == ["long.test."], "the other ended first"
        left = keeper._timer.when() - asyncio.get_running_loop().time()
        assert not keeper._timer.cancelled() and 0 < left <= limits.NTA_CHECK

    _with_host(tmp_path, test)


def test_below_an_anchor_that_cannot_be_removed_nothing_stays_cached(tmp_path):
    async def test(host, keeper):
        await keeper.perform({"kind": "nta", "action": "add", "name": "a.test", "lifetime": "100", "force": True})
        host.clock.now += 100
        host.fault = "the disk is full"
        keeper._start()
        await asyncio.gather(*host.tasks)
        assert await _names(keeper) == ["a.test."] and host.flushed == [host.changes.entries[0].origin]
        assert not keeper._timer.cancelled(), "it is tried again"
        host.fault = ""
        keeper._start()
        await asyncio.gather(*host.tasks)
        assert await _names(keeper) == []

    _with_host(tmp_path, test)


def test_without_a_file_or_with_a_damaged_one_nothing_is_changed(tmp_path):
    async def test(host, keeper):
        host.changes = RuntimeChanges()
        with pytest.raises(ValueError, match=r"control\.changes-file is not set"):
            await keeper.perform({"kind": "nta", "action": "add", "name": "a.test"})
        host.changes = RuntimeChanges(tmp_path / "changes", (), "it is damaged")
        with pytest.raises(ValueError, match="it is damaged"):
            await keeper.perform({"kind": "nta", "action": "add", "name": "a.test"})
        assert (await keeper.perform({"kind": "nta", "action": "list"}))["error"] == "it is damaged"
        host.changes = RuntimeChanges(tmp_path / "changes")
        with pytest.raises(ValueError, match="'change' is not one of add, list, remove"):
            await keeper.perform({"kind": "nta", "action": "change"})

    _with_host(tmp_path, test)


def test_the_second_resolver_is_closed(tmp_path):
    async def test(host, keeper):
        made = []
        opened = Resolver.open
        Resolver.open = lambda self, loop: (made.append(self), opened(self, loop))[1]
        try:
            assert await keeper.validates(make_change("nta", "nsec.dnssec.playground", until=1))
        finally:
            Resolver.open = opened
        with pytest.raises(RuntimeError, match="not open"):
            _ = made[-1].mesh

    _with_host(tmp_path, test)


def test_a_damaged_file_is_kept_when_a_negative_trust_anchor_ends(tmp_path):
    path = tmp_path / "changes"
    before = RuntimeChanges(path, (NTA, DATA))
    before.write(path)
    path.write_bytes(path.read_bytes().replace(b"192.0.2.4", b"192.0.2.5"))
    damaged = path.read_bytes()
    after = RuntimeChanges.load(str(path), before)
    assert after.entries == (NTA, DATA) and "checksum" in after.trouble
    for changed in (after.remove([NTA]), after.add(FORWARD), after):
        assert changed.trouble == after.trouble
        with pytest.raises(room.ChangeFileError, match="checksum"):
            changed.write(path)
    assert path.read_bytes() == damaged
    after.remove([NTA]).write(tmp_path / "other")
    assert room.read(tmp_path / "other") == (DATA,), "what the other workers read"


def test_what_is_told_to_the_fleet_is_what_was_added(tmp_path):
    async def test(host, keeper):
        nta = {"kind": "nta", "name": "Example.COM"}
        kind, fields = keeper.fleet_message({**nta, "action": "add", "lifetime": "2h", "reason": "why", "force": True})
        assert (kind, fields["name"], fields["reason"], fields["force"]) == ("nta-add", "example.com.", "why", True)
        await keeper.perform_for_fleet(kind, fields)
        [change] = host.changes.entries
        assert (change.name, change.until, change.reason, change.check) == (
            "example.com.", fields["until"], "why", False)
        for wrong in ({"until": "x"}, {"reason": 3}, {"until": 5}, {"name": ".."}, {"name": None}):
            with pytest.raises(ValueError, match=r"malformed|is over|label is empty"):
                await keeper.perform_for_fleet("nta-add", {**fields, **wrong})
        await keeper.perform_for_fleet(*keeper.fleet_message({**nta, "action": "remove"}))
        assert await _names(keeper) == []
        for kind, action in (("stub", "add"), ("nta", "list")):
            with pytest.raises(ValueError, match="only negative trust anchors"):
                keeper.fleet_message({**nta, "kind": kind, "action": action})

    _with_host(tmp_path, test)
