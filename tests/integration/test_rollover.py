"""RFC 5011 in the running daemon: it probes the root's keys, saves the trusted ones, and survives kills and reloads.

Comparison with Unbound: both follow the same root through the same months of simulated time. Each is restarted at each
step, so that only the file connects the steps.
"""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.keysets import DAY, key_set
from support.minet import reply
from support.ports import free_port
from support.servers import ask, can_bind, program, run_process, wait_until
from support.signing import ZoneKey
from support.subject import RESOLVERD, daemon_environment, resolverd_config, serve_playground, upstream_port_for

from resolver.playground import World, signed
from resolver.validate.anchor_file import render
from resolver.validate.anchors import Anchors
from resolver.validate.autotrust import HoldDown, TrustPoint, prepare_probe
from resolver.validate.verify import check
from resolver.wire import consts as c
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

HEADER = 12
FAKETIME = next((str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.fixture(scope="module")
def world() -> World:
    return signed.signed_world(int(time.time()))


@contextmanager
def daemon(directory: Path, config: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A resolverd, until the block ends."""
    log = directory / "resolverd.log"
    with run_process([*RESOLVERD, "--config", str(config)], log, env=daemon_environment()) as process:
        wait_until(lambda: anchors(directory) is not None, "the control socket", process=process, log=log)
        yield process


def anchors(directory: Path) -> dict | None:
    """The result of ``resolverctl anchors``, or None without a reply."""
    done = subprocess.run(
        [sys.executable, "-m", "resolver.cli.control", "--socket", str(directory / "control"), "--json", "anchors"],
        env=daemon_environment(), capture_output=True, check=False, text=True,
        timeout=60,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def valid_keys(directory: Path) -> list[dict]:
    found = anchors(directory)
    assert found is not None
    return [key for key in found["zones"][0]["keys"] if key["state"] == "valid"]


def test_the_daemon_follows_the_root_and_survives(world: World, tmp_path: Path) -> None:
    upstream = upstream_port_for("resolverd", world)
    port = free_port()
    hints = tmp_path / "root.hints"
    hints.write_text(world.hints_text())
    file = tmp_path / "anchors.txt"
    text = resolverd_config(world, port, upstream, hints, world.trust_anchors[0])
    config = tmp_path / "resolverd.toml"
    config.write_text(
        text.replace("[server]\n", "[server]\nworkers = 2\n")
        + f'auto-trust-anchor-file = "{file}"\n[control]\nsocket = "{tmp_path / "control"}"\n'
        + '[log]\nlevel = "debug"\n'
    )
    with ExitStack() as stack:
        stack.enter_context(serve_playground(tmp_path, world, upstream))
        with daemon(tmp_path, config) as process:
            wait_until(lambda: bool(valid_keys(tmp_path)), "a first look", process=process)
            first = valid_keys(tmp_path)
            wait_until(lambda: "worker 1 got the key states" in (tmp_path / "resolverd.log").read_text(), "key states",
                       process=process)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "in force" in (tmp_path / "resolverd.log").read_text(), "the reload", process=process)
            assert valid_keys(tmp_path) == first
            for _ in range(4):
                view = ask("127.0.0.1", port, "www.algo-13.dnssec.playground.", c.A, do=True)
                assert view is not None
            process.send_signal(signal.SIGKILL)
            process.wait()
        (tmp_path / "control").unlink()
        with daemon(tmp_path, config) as process:
            assert valid_keys(tmp_path) == first, "known before any look, from the file"
            shown = subprocess.run(
                [sys.executable, "-m", "resolver.cli.control", "--socket", str(tmp_path / "control"), "anchors"],
                env=daemon_environment(), capture_output=True, check=True, text=True,
                timeout=60,
            ).stdout
            assert f"key {first[0]['tag']}, algorithm {first[0]['algorithm']}: valid since" in shown
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert "state=valid" in file.read_text()


# --- beside Unbound ---------------------------------------------------------------------------------------------------

SERVER = "127.53.53.53"
STEPS = 14


class Root:
    """A root server at `SERVER`, in a thread, whose keys are those of the step that is being played."""

    def __init__(self) -> None:
        self.keys: list[ZoneKey] = []
        self.signers: list[ZoneKey] = []
        self.now = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((SERVER, 53))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while True:
            packet, peer = self.socket.recvfrom(4096)
            if len(packet) < HEADER:
                return
            self.socket.sendto(self.answer(packet), peer)

    def answer(self, packet: bytes) -> bytes:
        qtype = MessageView.parse(packet).qtype
        if qtype == c.DNSKEY:
            return reply(packet, [key_set(".", self.keys, self.signers, self.now)])
        if qtype == c.NS:
            return reply(packet, [". 86400 NS a.root."], additional=[f"a.root. 86400 A {SERVER}"])
        return reply(packet, [f"a.root. 86400 A {SERVER}"])

    def close(self) -> None:
        self.socket.sendto(b"", (SERVER, 53))
        self.thread.join()
        self.socket.close()


def unbound_trusts(file: Path) -> set[bytes]:
    """Keys that Unbound's file calls valid or missing."""
    found = set()
    for line in file.read_text().splitlines():
        if "DNSKEY" in line and (";;state=2" in line or ";;state=3" in line):
            fields = line.split(";", 1)[0].split()
            found.add(base64.b64decode("".join(fields[7:])))
    return found


def let_unbound_look(directory: Path, file: Path, now: int) -> None:
    """Run it at the time `now` until it has looked."""
    config = directory / "unbound.conf"
    config.write_text(
        f"""server:
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  interface: 127.0.0.1@{free_port()}
  do-ip6: no
  do-not-query-localhost: no
  trust-anchor-signaling: no
  root-hints: "{directory / "root.hints"}"
  auto-trust-anchor-file: "{file}"
remote-control:
  control-enable: no
"""
    )
    log = directory / "unbound.log"
    when = time.strftime("@%Y-%m-%d %H:%M:%S", time.gmtime(now))
    environment = {**os.environ, "LD_PRELOAD": FAKETIME, "FAKETIME": when, "TZ": "UTC", "DONT_FAKE_MONOTONIC": "1"}
    with run_process([program("unbound"), "-d", "-p", "-c", str(config)], log, env=environment) as process:
        wait_until(lambda: has_looked(file, now), "Unbound's look", process=process, log=log)


def has_looked(file: Path, now: int) -> bool:
    """Whether its file says that it tried since `now`."""
    for line in file.read_text().splitlines():
        if line.startswith(";;last_queried:"):
            return int(line.split()[1]) >= now
    return False


def history(seed: int, keys: list[ZoneKey]) -> list[tuple[int, list[ZoneKey], list[ZoneKey]]]:
    """Days between the steps, the keys then published, and the signing keys, at least one, not always trusted."""
    rng = random.Random(seed)
    steps = []
    published = [keys[0]]
    unused = keys[1:]
    for _ in range(STEPS):
        event = rng.choice(["add", "revoke", "drop", "nothing", "nothing", "alien"])
        if event == "add" and unused:
            published = [*published, unused.pop(0)]
        elif event == "revoke" and len(published) > 1:
            old = published[0]
            if not old.flags & 128:
                published = [*published[1:], ZoneKey(".", label=old.label, flags=257 | 128)]
        elif event == "drop" and len(published) > 2:
            published = [key for key in published if not key.flags & 128] or published
            published = published[:-1] if len(published) > 2 else published
        signers = published[-1:] if event == "alien" else published
        steps.append((rng.choice([2, 6, 16, 31]), list(published), list(signers)))
    return steps


def our_keys(point: TrustPoint) -> set[bytes]:
    anchor = point.trusted()
    return set() if anchor is None else {key.key for key in anchor.keys}


@pytest.mark.parametrize("seed", range(3))
def test_unbound_trusts_the_same_keys(seed: int, tmp_path: Path) -> None:
    program("unbound")
    if FAKETIME is None:
        pytest.skip("Debian package libfaketime is not installed")
    if not can_bind(SERVER, 53):
        pytest.skip("Unbound asks port 53 only, and this process cannot have it on loopback")
    keys = [ZoneKey(".", label=f"u{number}") for number in range(6)]
    (tmp_path / "root.hints").write_text(f". 3600000 NS a.root.\na.root. 3600000 A {SERVER}\n")
    theirs = tmp_path / "theirs.key"
    theirs.write_text(keys[0].anchor() + "\n")
    ours = TrustPoint(Anchors([keys[0].anchor()]).configured()[0], HoldDown())
    now = int(time.time())
    root = Root()
    try:
        for number, (days, published, signers) in enumerate(history(seed, keys)):
            now += (days - 1) * DAY
            for _ in range(2):  # we want one look more than Unbound before a key is trusted
                now += DAY
                root.keys, root.signers, root.now = published, signers, now
                before = our_keys(ours)
                let_unbound_look(tmp_path, theirs, now)
                look = prepare_probe(ours, key_set(".", published, signers, now), now)
                ours.observe(look, [check(job) for job in look.jobs], now)
                if ours.trusted() is None:
                    assert unbound_trusts(theirs) == set()
                    return
            shown = f"step {number}: {[key.label + '!' * bool(key.flags & 128) for key in published]}"
            shown += f"\n{render([ours])}\n{theirs.read_text()}"
            assert our_keys(ours) <= unbound_trusts(theirs), shown
            # Unbound lets time alone make a pending key trusted; we want to see it vouched for once more (section 2.2).
            if any(signer.dnskey.key in before for signer in signers):
                there = {key.dnskey.key for key in published}
                assert our_keys(ours) & there == unbound_trusts(theirs) & there, shown
    finally:
        root.close()
