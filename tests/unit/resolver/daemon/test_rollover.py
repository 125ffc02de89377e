"""Automated updates of trust anchors: the schedule, errors of the file, and a key rollover.

The zone's keys are real, network and time are simulated: the mesh resolves and validates as in production, month after
month. Errors of the file (a kill at any moment, a full disk, no permission) happen to a real file.
"""

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.keysets import DAY, HOUR, key_set
from support.minet import Minet, build, reply, scripted
from support.signing import ZoneKey
from support.subject import daemon_environment

from resolver import limits
from resolver.daemon import autotrust, cache_file
from resolver.daemon.anchor_keeper import AnchorKeeper
from resolver.daemon.autotrust import AnchorUpdater, check
from resolver.daemon.timers import Timers
from resolver.effects import Question
from resolver.settings import DnssecSettings, Settings
from resolver.validate.anchor_file import parse
from resolver.validate.verify import check as check_signature
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

ROOT = names.ROOT
A, B, C = (ZoneKey(".", label=label) for label in "abc")
REVOKED_A = ZoneKey(".", label="a", flags=257 | 128)


class Crypto:
    """Checks at once, as the daemon does with few signatures."""

    def verify(self, jobs, on_done):
        return [check_signature(job) for job in jobs]


class World:
    """A root whose keys the test changes, a resolver in front of it, and the anchors that follow."""

    def __init__(self, path: Path, *configured: ZoneKey, **settings: object) -> None:
        anchors = tuple(key.anchor() for key in configured or (A,))
        self.dnssec = DnssecSettings(trust_anchors=anchors, auto_trust_anchor_file=str(path), **settings)
        self.net: Minet = build(settings=Settings(dnssec=self.dnssec), crypto=Crypto())
        self.net.net.hosts["198.41.0.4"] = scripted(self.serve)
        self.keys = [A]
        self.signers = [A]
        self.silent = False
        self.concluded = 0
        self.start()

    def start(self) -> None:
        """As a process that has just been started."""
        self.rollover = AnchorUpdater(
            self.dnssec,
            now=self.net.net.time,
            ask=self.ask,
            verify=Crypto().verify,
            changed=self.changed,
            concluded=self.conclude,
        )
        self.rollover.load()
        self.rollover.save()
        self.rollover.apply(self.net.mesh.validation.anchors)

    def ask(self, question: Question, cd: bool, on_done) -> bool:
        return self.net.mesh.refresh(question, cd=cd, on_done=on_done)

    def changed(self, point) -> None:
        self.net.mesh.validation.anchors.put(point.zone, point.trusted())
        self.net.store.rrsets.drop(ROOT, c.DNSKEY)

    def conclude(self) -> None:
        self.concluded += 1

    def serve(self, qname: str, qtype: int, packet: bytes) -> bytes | None:
        if self.silent:
            return None
        if qtype == c.DNSKEY:
            return reply(packet, [key_set(".", self.keys, self.signers, self.net.net.time())])
        return reply(packet, ["a.root. 86400 A 198.41.0.4"] if qtype == c.A else [". 86400 NS a.root."])

    def live(self, days: float) -> None:
        """Let the schedule run for some days."""
        net = self.net.net
        end = net.now + days * DAY
        while net.now < end:
            rest = self.rollover.tick()
            net.sleep(self.net.mesh, min(max(rest, 1.0), end - net.now))
        self.rollover.tick()
        net.sleep(self.net.mesh, 30.0)

    def roll(self, keys: list[ZoneKey], signers: list[ZoneKey]) -> None:
        self.keys, self.signers = keys, signers

    @property
    def states(self) -> dict[int, str]:
        found = self.rollover.describe()["zones"][0]["keys"]
        return {key["tag"]: key["state"] for key in found}

    def verdict(self) -> Verdict:
        """The verdict that a client gets for data of the zone."""
        self.net.store.clear()
        return Verdict(self.net.ask(".", "DNSKEY").verdict)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "anchors.txt"


def test_a_zone_changes_its_keys_and_stays_secure(path: Path) -> None:
    """The roll of RFC 5011 section 6.3, with the new key published first: pending, valid, and the old one revoked."""
    world = World(path)
    world.live(3)
    assert world.states == {A.tag: "valid"}
    world.roll([A, B], [A])
    world.live(29)
    assert world.states == {A.tag: "valid", B.tag: "addpend"}
    world.live(3)
    assert world.states == {A.tag: "valid", B.tag: "valid"}
    world.roll([REVOKED_A, B], [REVOKED_A, B])
    world.live(2)
    assert world.states == {A.tag: "revoked", B.tag: "valid"}
    assert world.verdict() is Verdict.SECURE
    world.roll([B, C], [B])
    world.live(35)
    assert world.states == {A.tag: "removed", B.tag: "valid", C.tag: "valid"}
    world.roll([A, C], [A])
    assert world.verdict() is Verdict.BOGUS, "the old key was stolen after its revocation"
    world.roll([C], [C])
    assert world.verdict() is Verdict.SECURE


def test_without_rfc_5011_the_same_rollover_makes_the_zone_bogus(path: Path) -> None:
    world = World(path)
    world.live(1)
    world.roll([B], [B])
    assert world.verdict() is Verdict.BOGUS


def test_a_restart_at_any_time_loses_no_state(path: Path) -> None:
    world = World(path)
    world.roll([A, B], [A])
    for _ in range(32):
        world.live(1)
        world.start()
    assert world.states == {A.tag: "valid", B.tag: "valid"}
    world.roll([REVOKED_A, B], [REVOKED_A, B])
    world.live(2)
    world.start()
    world.roll([A], [A])
    assert world.verdict() is Verdict.BOGUS


def test_probes_follow_the_schedule(path: Path) -> None:
    world = World(path)
    world.live(20)
    looks = world.rollover.statistics()["probes"]
    assert 19 <= looks <= 22, "half of the TTL of two days is the least"
    assert world.concluded == looks
    world.silent = True
    world.live(5)
    failed = world.rollover.statistics()["probe_failures"]
    assert 20 <= failed <= 27, "a tenth of the TTL, 4.8 hours"
    assert world.states == {A.tag: "valid"}
    world.silent = False
    world.live(1)
    assert world.rollover.describe()["zones"][0]["error"] == ""


def test_a_signature_that_cannot_be_checked_is_a_failed_probe(path: Path) -> None:
    """The next probe comes in time, and no key is lost."""
    world = World(path)
    world.live(3)

    def verify(jobs, on_done):
        on_done(MemoryError("no memory"))

    world.rollover._verify = verify
    world.live(3)
    assert world.rollover.statistics()["probe_failures"] > 1
    assert "no memory" in world.rollover.describe()["zones"][0]["error"]
    assert world.states == {A.tag: "valid"}


def test_a_probe_of_an_updater_that_was_replaced_changes_nothing(path: Path) -> None:
    """Its result comes after a reload; the new one probes the zone itself."""
    world = World(path)
    world.live(3)
    world.roll([A, B], [A])
    old, concluded = world.rollover, world.concluded
    world.net.net.sleep(world.net.mesh, 20 * DAY)
    old.tick()
    world.start()
    world.rollover.take_text(old.text)
    old.retire()
    before = path.read_text()
    world.net.net.sleep(world.net.mesh, 30.0)
    assert world.concluded == concluded and path.read_text() == before and old.statistics()["probes"] > 0
    world.live(1)
    assert world.states == {A.tag: "valid", B.tag: "addpend"} and world.concluded > concluded


def test_key_states_of_the_old_process_of_an_upgrade_are_taken(path: Path) -> None:
    """It probes and writes the file while the new one has read it and serves, too; both ends of an upgrade."""
    old, new = World(path), World(path)
    host = SimpleNamespace(
        number=0, is_main=False, channels=None, timers=Timers(), start_task=None, in_playground=False,
        current=SimpleNamespace(resolver=SimpleNamespace(mesh=new.net.mesh)), store=new.net.store,
    )
    keeper = AnchorKeeper(host)
    keeper.updater = new.rollover
    new.rollover.tick = lambda: 0.0
    old.live(1)
    old.roll([A, B], [A])
    old.live(60)
    old.roll([REVOKED_A, B], [REVOKED_A, B])
    old.live(3)
    written = path.read_bytes()
    assert old.states == {A.tag: "revoked", B.tag: "valid"} and new.states == {}
    keeper.save()
    keeper.probe()
    assert path.read_bytes() == written, "only the main process writes"
    host.is_main = True
    keeper.catch_up()
    assert new.states == old.states
    new.roll([REVOKED_A, B], [REVOKED_A, B])
    assert new.verdict() is Verdict.SECURE
    written = path.read_bytes()
    keeper.updater = old.rollover
    keeper.retire()
    old.roll([REVOKED_A, B, C], [REVOKED_A, B])
    old.live(3)
    assert path.read_bytes() == written, "the old process leaves the file to the new one"


def test_a_revoked_last_key_ends_the_trust_anchor(path: Path, caplog) -> None:
    world = World(path)
    world.live(1)
    world.roll([REVOKED_A], [REVOKED_A])
    world.live(2)
    assert world.states == {A.tag: "revoked"}
    assert world.verdict() is Verdict.INSECURE
    assert "all keys of zone . are revoked" in caplog.text
    world.start()
    assert world.verdict() is Verdict.INSECURE


def test_a_clock_set_back_by_years_does_not_stop_the_probes(path: Path) -> None:
    world = World(path)
    world.live(1)
    before = world.rollover.statistics()["probes"]
    world.net.net.shift -= 900 * DAY
    world.live(3)
    assert world.rollover.statistics()["probes"] >= before + 3


def test_statistics_count_keys_by_state(path: Path) -> None:
    world = World(path)
    world.roll([A, B], [A])
    world.live(1)
    found = world.rollover.statistics()
    assert (found["keys_valid"], found["keys_addpend"], found["keys_revoked"]) == (1, 1, 0)
    assert found["key_changes"] == 2
    assert world.net.net.time() - found["last_success"] <= DAY + HOUR


# --- the file ---------------------------------------------------------------------------------------------------------


def test_anchors_of_another_configuration_are_not_used(path: Path, caplog) -> None:
    world = World(path)
    world.live(1)
    other = World(path.with_name("other.txt"), B)
    other.dnssec = DnssecSettings(
        trust_anchors=(ZoneKey("example.").anchor(),), auto_trust_anchor_file=str(path)
    )
    with caplog.at_level(logging.INFO):
        other.start()
    assert "no longer configured" in caplog.text
    assert [zone["zone"] for zone in other.rollover.describe()["zones"]] == ["example."]


@pytest.mark.parametrize("damage", ["torn", "rubbish", "binary", "directory", "huge"])
def test_an_unusable_file_is_kept_and_loses_no_anchor(path: Path, damage: str, caplog) -> None:
    world = World(path)
    world.roll([A, B], [A])
    world.live(40)
    good = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    else:
        bad = {"torn": good[:-70], "rubbish": b"hello", "binary": b"\xff" * 80, "huge": b"x" * 70_000}
        path.write_bytes(bad[damage])
    world.start()
    assert "Restore the file from a copy or remove it" in caplog.text
    assert "dnssec.auto-trust-anchor-file" in caplog.text
    assert world.rollover.describe()["error"]
    with pytest.raises(ValueError, match="auto-trust-anchor-file"):
        check(world.dnssec)
    assert world.verdict() is Verdict.SECURE
    world.live(2)
    if damage != "directory":
        assert path.read_bytes() != good, "what may be all that is left is not written over"
        assert world.rollover.statistics()["write_failures"] == 0
        path.write_bytes(good)
        world.start()
        assert world.states == {A.tag: "valid", B.tag: "valid"}


def test_key_states_that_could_not_be_read_again_are_not_written(path: Path, monkeypatch, caplog) -> None:
    world = World(path)
    good = path.read_bytes()
    monkeypatch.setattr(autotrust, "LARGEST", len(good) - 1)
    world.rollover.save()
    assert path.read_bytes() == good and "the key states have more than" in world.rollover.describe()["error"]
    assert world.rollover.statistics()["write_failures"] == 1 and "dnssec.auto-trust-anchor-file" in caplog.text
    monkeypatch.undo()
    world.rollover.save()
    assert world.rollover.describe()["error"] == ""

    async def send() -> None:
        channels: Any = SimpleNamespace(others=[1])  # without `ask`, so nothing may be sent
        await AnchorKeeper(SimpleNamespace())._send(channels, "x" * (limits.ANCHOR_FILE + 1))

    asyncio.run(send())
    assert "too large for the other workers" in caplog.text


def test_a_restored_file_is_not_replaced_by_a_reload(path: Path) -> None:
    """It may be the only record of a revocation, and the configured anchors have the revoked key."""
    world = World(path)
    world.roll([A, B], [A])
    world.live(60)
    world.roll([REVOKED_A, B], [REVOKED_A, B])
    world.live(3)
    good = path.read_bytes()
    assert b"state=revoked" in good
    path.write_bytes(good[:-70])
    world.start()
    runtime: Any = SimpleNamespace(
        settings=Settings(dnssec=world.dnssec), resolver=SimpleNamespace(mesh=world.net.mesh, clock=world.net.net))
    host = SimpleNamespace(number=0, is_main=True, channels=None, timers=Timers(), in_playground=False,
                           current=runtime, store=world.net.store)
    keeper = AnchorKeeper(host)
    keeper.updater = world.rollover
    for content in (path.read_bytes(), good):  # a reload before the file is restored, and one after that
        path.write_bytes(content)
        made = keeper.make(runtime)
        keeper.switch(made, runtime)
        keeper.save()
        assert path.read_bytes() == content
    assert made is not None and made.describe()["error"] == ""
    path.unlink()
    keeper.switch(keeper.make(runtime), runtime)
    keeper.save()
    assert b"state=revoked" in path.read_bytes(), "without a file, the states so far are written"


def test_a_missing_directory_is_reported_at_the_start(tmp_path: Path, caplog) -> None:
    world = World(tmp_path / "missing" / "anchors.txt")
    assert "cannot write" in caplog.text
    assert "write to directory" in caplog.text
    assert world.rollover.statistics()["write_failures"] == 1
    assert world.verdict() is Verdict.SECURE
    with pytest.raises(ValueError, match="does not exist"):
        check(world.dnssec)


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, caplog, step: str) -> None:
    world = World(path)
    world.live(1)
    before = path.read_bytes()

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "write":
        monkeypatch.setattr(cache_file, "open", lambda descriptor, mode: FailingFile(descriptor), raising=False)
    else:
        monkeypatch.setattr(cache_file.os, step, fails)
    world.live(2)
    assert "No space left on device" in caplog.text
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "nothing half-written is left"
    monkeypatch.undo()
    world.live(2)
    assert path.read_bytes() != before
    assert world.rollover.describe()["error"] == ""


def test_the_file_is_accessible_to_its_owner_only(path: Path) -> None:
    World(path)
    assert path.stat().st_mode & 0o777 == 0o600


class FailingFile:
    """A file on a full disk."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> "FailingFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def write(self, data: bytes) -> int:
        os.write(self.descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


WRITER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from resolver.daemon.cache_file import replace_file
path, count = Path(sys.argv[1]), 0
texts = [Path(name).read_bytes() for name in sys.argv[2:]]
print("ready", flush=True)
while True:
    replace_file(path, [texts[count % 2]])
    count += 1
"""


def test_a_kill_during_writing_leaves_a_complete_file(path: Path) -> None:
    world = World(path)
    world.live(1)
    one = path.with_name("one")
    one.write_bytes(path.read_bytes())
    world.roll([A, B], [A])
    world.live(2)
    two = path.with_name("two")
    two.write_bytes(path.read_bytes())
    for turn in range(15):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(one), str(two)], stdout=subprocess.PIPE,
            env=daemon_environment(),
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        # No wait for an event: a random delay, so that the kill hits different moments of the writing.
        for _ in range(turn * 700):
            os.getpid()
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        data = path.read_bytes()
        assert data in (one.read_bytes(), two.read_bytes())
        assert len(parse(data.decode())) == 1
    world.start()
    assert world.verdict() is Verdict.SECURE
