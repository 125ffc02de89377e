"""Upgrades of resolverd: a new process takes over from a running one, and no query is lost.

The daemon is started by a program of the test, which the test replaces as an installation replaces the files on disk.
It forwards to a server of the test, which knows each query and can hold back its answer.
"""

import fcntl
import json
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.certs import Authority
from support.ports import free_port
from support.servers import ask, run_process, wait_until
from support.subject import PACKAGES, daemon_environment
from support.zone_peers import ZONE, Peer, serial_of, serve

from resolver.wire import MessageView
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query

pytestmark = pytest.mark.integration

TIMEOUT = 60
GOOD = "import sys\nfrom resolver.daemon.main import main\nsys.exit(main())\n"
HANGS = "import signal\nwhile True: signal.pause()\n"
CRASHES = "import os\nos.abort()\n"
# An operator sends signals to all processes of the program.
GETS_SIGNALS = """
import os, signal
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    os.kill(os.getpid(), number)
""" + GOOD
# It serves already, but has not said so.
DIES_LATE = """
import os, signal, sys
from resolver.daemon import worker
from resolver.daemon.main import main
worker._Worker.report_ready = lambda self: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main())
"""
# The new process has the confirmation then, and the service manager does not know it.
DIES_CONFIRMING = """
import os, signal
from resolver.daemon.service_manager import ServiceManager
ServiceManager.main_process = lambda self, pid: os.kill(os.getpid(), signal.SIGKILL)
""" + GOOD
# It serves when the test has unlocked the file "gate".
WAITS_AT_GATE = """
import fcntl, os, sys
from resolver.daemon import worker
from resolver.daemon.main import main
real = worker._Worker.report_ready
def wait(self):
    with open(os.path.join(os.path.dirname(__file__), "gate")) as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
        real(self)
    os.write(2, b"the gate is passed\\n")
worker._Worker.report_ready = wait
sys.exit(main())
"""
# Writes each import that finds a module on disk.
WATCH_IMPORTS = """
import os, sys, time
def note(event, arguments):
    if event == "import":
        line = f"{os.getpid()} {time.monotonic_ns()} {arguments[0]}\\n".encode()
        file = os.open(os.environ["IMPORTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)
        os.close(file)
sys.addaudithook(note)
"""


def address_of(name: bytes) -> bytes:
    return bytes((192, 0, 2, zlib.crc32(name.lower()) & 255))


class Upstream:
    """Answers each name with an address that depends on it; those that begin with "held" when they are released."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.asked: list[bytes] = []
        self.held: list[tuple[bytes, tuple[str, int]]] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            data, peer = self.socket.recvfrom(4096)
            if not data:
                return
            query = MessageView.parse(data)
            assert query.qname is not None
            self.asked.append(query.qname.lower())
            reply = data[:2] + b"\x81\x80\0\1" + bytes(6) + query.qname + query.qtype.to_bytes(2, "big") + b"\0\1"
            if query.qtype == c.A:
                reply = reply[:6] + b"\0\1" + reply[8:] + b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4" + address_of(query.qname)
            if query.qname.lower().startswith(b"\4held"):
                self.held.append((reply, peer))
            else:
                self.socket.sendto(reply, peer)

    def release(self) -> None:
        while self.held:
            self.socket.sendto(*self.held.pop())

    def close(self) -> None:
        self.socket.sendto(b"", self.socket.getsockname())
        self.thread.join(TIMEOUT)
        self.socket.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


class Daemon:
    """The daemon and its successors. `pid` is the main process that serves."""

    def __init__(self, path: Path, upstream: Upstream, *, workers: int = 1, lanes: int = 0) -> None:
        self.path = path
        self.port = free_port()
        self.upstream = upstream
        self.log = path / "log"
        self.control = str(path / "control")
        self.snapshot = path / "snapshot"
        self.process: subprocess.Popen[bytes] | None = None
        self.pids: list[int] = []
        self.install(GOOD)
        self.configure(workers=workers, lanes=lanes)

    def install(self, text: str) -> None:
        (self.path / "program.py").write_text(text)

    def configure(
        self, *, workers: int = 1, lanes: int = 0, timeout: float = TIMEOUT, listen: tuple[str, ...] = (),
        more: str = "",
    ) -> None:
        addresses = [f"127.0.0.1:{self.port}", *listen]
        (self.path / "resolverd.toml").write_text(
            f'[server]\nlisten = {json.dumps(addresses)}\nworkers = {workers}\nlanes = {lanes}\n'
            f'upgrade-timeout = {timeout}\n[control]\nsocket = "{self.control}"\n'
            f'[cache]\nsnapshot-file = "{self.snapshot}"\n[dnssec]\nenabled = false\n'
            f'[iteration]\ndo-not-query-localhost = false\n'
            f'[[forward]]\nzone = "."\naddresses = ["127.0.0.1:{self.upstream.port}"]\n{more}'
        )

    @property
    def pid(self) -> int:
        return self.pids[-1]

    def text(self) -> str:
        return self.log.read_text()

    def ctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "resolver.cli.control", "--socket", self.control, *words],
            capture_output=True, text=True, timeout=TIMEOUT, check=False, env=daemon_environment(),
        )

    def upgrade(self) -> None:
        done = self.ctl("--json", "upgrade")
        assert done.returncode == 0, done.stderr + self.text()
        old = self.pid
        self.pids.append(json.loads(done.stdout)["pid"])
        assert self.pid != old
        wait_for_end(old)

    def fails(self, *words: str) -> None:
        """An upgrade fails and says why; the old process keeps serving."""
        done = self.ctl("upgrade")
        assert done.returncode == 1 and not done.stdout
        for word in words:
            assert word in done.stderr, done.stderr + self.text()
            assert word in self.text()
        assert "the old process keeps serving" in done.stderr and "Traceback" not in done.stderr
        new = int(re.findall(r"process (\d+) is starting", self.text())[-1])
        wait_for_end(new)
        wait_until(lambda: not Path(f"/proc/{new}").exists(), "that the old process has read the status of the new one")
        self.asks("after.the.failure.tests.net.")
        assert self.ctl("status").returncode == 0

    def asks(self, name: str, *, tcp: bool = False) -> None:
        view = ask("127.0.0.1", self.port, name, c.A, tcp=tcp)
        assert view is not None and view.answer[0].rdata(0) == address_of(names.from_text(name))

    def stop(self) -> None:
        """Stop it as a service manager does."""
        os.kill(self.pid, signal.SIGTERM)
        wait_for_end(self.pid)


def wait_for_end(pid: int) -> None:
    """Wait until the process has ended, which may be one that is not our child, or one whose status nobody has read."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], TIMEOUT)[0], f"process {pid} does not end"
        finally:
            os.close(descriptor)


@contextmanager
def running(daemon: Daemon, env: dict[str, str] | None = None) -> Iterator[Daemon]:
    """The daemon, which answers. It and its successors are ended."""
    command = [sys.executable, str(daemon.path / "program.py"), "--config", str(daemon.path / "resolverd.toml")]
    with run_process(command, daemon.log, env=env or daemon_environment()) as process:
        daemon.process = process
        daemon.pids = [process.pid]
        try:
            wait_until(
                lambda: ask("127.0.0.1", daemon.port, "localhost.", c.A, timeout=0.5) is not None and
                daemon.ctl("status").returncode == 0, "an answer", process=process, log=daemon.log,
            )
            yield daemon
        finally:
            for found in re.findall(r"process (\d+) is starting", daemon.text()):
                with suppress(ProcessLookupError):
                    os.killpg(int(found), signal.SIGKILL)


class Manager:
    """Receives notifications, and who has sent them. As systemd with NotifyAccess=main, it takes those of the main
    process only, which `main` is; `ignored` has the others."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.settimeout(TIMEOUT)
        self.main = 0
        self.ignored: list[tuple[int, str]] = []

    def environment(self) -> dict[str, str]:
        return {**daemon_environment(), "NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "20000000"}

    def next(self, keep: Callable[[str], bool] = lambda text: text != "WATCHDOG=1") -> tuple[int, str]:
        """The next notification that is taken and kept: process and text."""
        while True:
            data, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
            sender, text = int.from_bytes(control[0][2][:4], sys.byteorder), data.decode()
            self.main = self.main or sender
            if sender != self.main:
                self.ignored.append((sender, text))
                continue
            if text.startswith("MAINPID="):
                self.main = int(text.removeprefix("MAINPID="))
            if keep(text):
                return sender, text


class Load:
    """Clients that query without a pause: names that are in the cache, and each second time a new one."""

    CLIENTS, BURST = 3, 6

    def __init__(self, port: int) -> None:
        self.port = port
        self.problems: list[str] = []
        self.answered = 0
        self.ends = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(self.CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        for thread in self.threads:
            thread.join(2 * TIMEOUT)

    def run(self, client: int) -> None:
        count = 0
        while not self.ends.is_set() and not self.problems:
            # Each query has a socket of its own, so the kernel spreads them over the sockets of workers and lanes.
            sockets: list[tuple[socket.socket, bytes]] = []
            for _ in range(self.BURST):
                count += 1
                new = f"n{count}.c{client}.load.tests.net."
                name = names.from_text(new if count % 2 else f"c{count % 8}.cached.tests.net.")
                one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                one.settimeout(TIMEOUT)
                one.connect(("127.0.0.1", self.port))
                one.send(make_query(count & 0xFFFF, name, c.A))
                sockets.append((one, name))
            for one, name in sockets:
                with one:
                    self.check(one, name)

    def check(self, one: socket.socket, name: bytes) -> None:
        """There is one reply, and it is right."""
        try:
            view = MessageView.parse(one.recv(4096))
            if view.rcode or view.answer[0].rdata(0) != address_of(name):
                self.problems.append(f"{names.to_text(name)}: wrong reply, rcode {view.rcode}")
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.recv(4096)
                self.problems.append(f"{names.to_text(name)}: a second reply")
            self.answered += 1
        except OSError as error:
            self.problems.append(f"{names.to_text(name)}: {error!r}")

    def wait_for_more(self) -> None:
        """Wait until there were some more replies."""
        wanted = self.answered + 200
        wait_until(lambda: self.answered >= wanted or bool(self.problems), "replies")


@pytest.mark.parametrize(("workers", "lanes"), [(1, 0), (1, 2), (2, 2)])
def test_no_query_is_lost(tmp_path: Path, upstream: Upstream, workers: int, lanes: int) -> None:
    with running(Daemon(tmp_path, upstream, workers=workers, lanes=lanes)) as daemon, Load(daemon.port) as load:
        for _ in range(2):
            load.wait_for_more()
            daemon.upgrade()
        load.wait_for_more()
        assert load.problems == [], daemon.text()
        daemon.asks("over.tcp.tests.net.", tcp=True)
    assert load.problems == []


@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 0)), ((1, 0), (2, 2)), ((3, 0), (2, 3))])
def test_no_query_is_lost_when_workers_and_lanes_change(
    tmp_path: Path, upstream: Upstream, before: tuple[int, int], after: tuple[int, int]
) -> None:
    with (
        running(Daemon(tmp_path, upstream, workers=before[0], lanes=before[1])) as daemon, Load(daemon.port) as load,
    ):
        load.wait_for_more()
        daemon.configure(workers=after[0], lanes=after[1])
        daemon.upgrade()
        load.wait_for_more()
        assert load.problems == [], daemon.text()
        assert len(json.loads(daemon.ctl("--json", "status").stdout)["workers"]) == after[0]
        for _ in range(20):  # the kernel chooses one of the sockets by the source port
            daemon.asks("over.tcp.tests.net.", tcp=True)
    assert load.problems == []


@pytest.mark.parametrize("workers", [1, 2])
def test_queries_in_flight_are_completed(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    gate = tmp_path / "gate"
    name = names.from_text("held.flight.tests.net.")
    query = make_query(77, name, c.A)
    with running(Daemon(tmp_path, upstream, workers=workers)) as daemon, gate.open("w") as closed:
        fcntl.flock(closed, fcntl.LOCK_EX)
        daemon.install(WAITS_AT_GATE)
        os.kill(daemon.pid, signal.SIGUSR2)
        wait_until(lambda: daemon.text().count("UDP and TCP") == 2 * workers, "a new process", log=daemon.log)
        with (
            socket.create_connection(("127.0.0.1", daemon.port), timeout=TIMEOUT) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        ):
            stream.sendall(len(query).to_bytes(2, "big") + query)
            datagram.settimeout(TIMEOUT)
            datagram.connect(("127.0.0.1", daemon.port))
            datagram.send(query)
            wait_until(lambda: counted(daemon) == 2, "both queries")
            fcntl.flock(closed, fcntl.LOCK_UN)
            wait_until(lambda: "this one answers the queries it has" in daemon.text(), "the upgrade", log=daemon.log)
            daemon.asks("another.tests.net.")
            upstream.release()
            assert MessageView.parse(datagram.recv(4096)).answer[0].rdata(0) == address_of(name)
            with stream.makefile("rb") as replies:
                size = int.from_bytes(replies.read(2), "big")
                assert MessageView.parse(replies.read(size)).answer[0].rdata(0) == address_of(name)
                assert replies.read() == b""  # the old process has closed the connection, and ends
        wait_for_end(daemon.pid)
        daemon.pids.append(int(re.findall(r"process (\d+) serves", daemon.text())[-1]))
        daemon.asks("later.tests.net.", tcp=True)


def counted(daemon: Daemon) -> int:
    return sum(worker["pending"] for worker in json.loads(daemon.ctl("--json", "status").stdout)["workers"])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_cache_is_kept_and_files_are_left_to_the_new_process(
    tmp_path: Path, upstream: Upstream, workers: int
) -> None:
    with running(Daemon(tmp_path, upstream, workers=workers)) as daemon:
        for number in range(50):
            daemon.asks(f"n{number}.kept.tests.net.")
        for _ in range(2):
            daemon.upgrade()
            before = len(upstream.asked)
            for number in range(50):
                daemon.asks(f"n{number}.kept.tests.net.")
            assert upstream.asked[before:] == []
            assert not daemon.snapshot.exists() and Path(daemon.control).exists()
            assert daemon.ctl("flush", "x.kept.tests.net").returncode == 0
        assert daemon.process is not None and daemon.process.wait(TIMEOUT) == 0
        daemon.stop()
        assert daemon.snapshot.exists() and not Path(daemon.control).exists()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", daemon.port))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_notify_that_only_the_old_process_gets(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    """The new one has read the copy of the zone already."""
    (tmp_path / "zones").mkdir()
    gate = tmp_path / "gate"
    daemon = Daemon(tmp_path, upstream)
    peer = Peer("nsd", tmp_path / "nsd", text=ZONE.format(serial=5), notify=("127.0.0.1", daemon.port))
    zone = f'[zones]\ndirectory = "{tmp_path / "zones"}"\n[[zone]]\nname = "e.test"\n'
    daemon.configure(workers=workers, more=f'{zone}primaries = ["127.0.0.1:{peer.port}"]\n')

    def serials() -> set[int | None]:
        return {serial_of(daemon.port, "e.test.") for _ in range(8 * workers)}

    with serve(peer), running(daemon), gate.open("w") as closed:
        wait_until(lambda: serials() == {5}, "the zone", log=daemon.log)
        fcntl.flock(closed, fcntl.LOCK_EX)
        daemon.install(WAITS_AT_GATE)
        os.kill(daemon.pid, signal.SIGUSR2)
        wait_until(lambda: daemon.text().count("UDP and TCP") == 2 * workers, "a new process", log=daemon.log)
        peer.write(ZONE.format(serial=6))
        peer.reload()
        wait_until(lambda: "zone e.test.: serial 6 from" in daemon.text(), "the transfer", log=daemon.log)
        fcntl.flock(closed, fcntl.LOCK_UN)
        wait_for_end(daemon.pid)
        daemon.pids.append(int(re.findall(r"process (\d+) serves", daemon.text())[-1]))
        wait_until(lambda: serials() == {6}, "the new version", log=daemon.log)


def test_other_rules_start_with_an_empty_cache(tmp_path: Path, upstream: Upstream) -> None:
    with running(Daemon(tmp_path, upstream)) as daemon:
        daemon.asks("kept.tests.net.")
        daemon.configure(more='[policy]\nlocal-data = ["new.tests.net. 60 IN A 192.0.2.200"]\n')
        daemon.upgrade()
        assert "the cache of the old process is not used" in daemon.text()
        daemon.asks("kept.tests.net.")
        assert upstream.asked.count(names.from_text("kept.tests.net.")) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_upgrades_and_addresses_change(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    with running(Daemon(tmp_path, upstream, workers=workers)) as daemon:
        gone, daemon.port = daemon.port, free_port()
        daemon.configure(workers=workers)
        os.kill(daemon.pid, signal.SIGUSR2)
        wait_for_end(daemon.pid)
        daemon.pids.append(int(re.findall(r"process (\d+) serves", daemon.text())[-1]))
        daemon.asks("new.address.tests.net.")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", gone))


@pytest.mark.parametrize("workers", [1, 2])
def test_signals_to_a_starting_process_are_handled_when_it_serves(
    tmp_path: Path, upstream: Upstream, workers: int
) -> None:
    with running(Daemon(tmp_path, upstream, workers=workers)) as daemon:
        daemon.install(GETS_SIGNALS)
        daemon.upgrade()
        daemon.asks("after.the.signals.tests.net.")
        expected = ("upgrade: refused: an upgrade is in progress", "statistics: cache: ", "is in force")
        wait_until(lambda: all(words in daemon.text() for words in expected), "the lines", log=daemon.log)
        assert daemon.ctl("status").returncode == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_encrypted_listeners_and_http_are_passed_on(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    pytest.importorskip("prometheus_client")
    pytest.importorskip("qh3")
    authority = Authority(tmp_path)
    leaf = authority.leaf("dns.example")
    ports = {name: free_port() for name in ("tls", "https", "quic")}
    metrics, web = free_port(), free_port()
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    (tmp_path / "token").chmod(0o600)
    more = f'[web]\nlisten = "127.0.0.1:{web}"\ntoken-file = "{tmp_path / "token"}"\n'
    more += f'[metrics]\nlisten = "127.0.0.1:{metrics}"\n'
    more += f'[tls]\ncertificate = "{leaf.certificate}"\nkey = "{leaf.key}"\n'
    for protocol, port in ports.items():
        more += f'[[listener]]\naddress = "127.0.0.1:{port}"\nprotocol = "{protocol}"\n'
    daemon = Daemon(tmp_path, upstream)
    daemon.configure(workers=workers, more=more)
    context = ssl.create_default_context(cafile=str(authority.cafile))
    query = make_query(5, names.from_text("over.tls.tests.net."), c.A)
    with running(daemon):
        with (
            socket.create_connection(("127.0.0.1", ports["tls"]), timeout=TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname="dns.example") as stream,
            stream.makefile("rb") as replies,
        ):
            for _ in range(2):
                stream.sendall(len(query).to_bytes(2, "big") + query)
                view = MessageView.parse(replies.read(int.from_bytes(replies.read(2), "big")))
                assert view.answer[0].rdata(0) == address_of(names.from_text("over.tls.tests.net."))
            daemon.upgrade()
            assert replies.read() == b""
        daemon.upgrade()
        for protocol, port in ports.items():
            name = f"over.{protocol}.tests.net."
            words = [f"+{protocol}", "+tls-hostname=dns.example", f"+tls-ca={authority.cafile}", "+short"]
            done = subprocess.run(
                [sys.executable, "-m", "resolver.cli.dig", f"@127.0.0.1:{port}", name, *words],
                capture_output=True, text=True, timeout=TIMEOUT, check=False, env=daemon_environment(),
            )
            assert done.stdout.strip() == socket.inet_ntoa(address_of(names.from_text(name))), done.stderr
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=TIMEOUT) as page:
            assert b"resolver_" in page.read()
        with urllib.request.urlopen(f"http://127.0.0.1:{web}/", timeout=TIMEOUT) as page:
            assert page.read().startswith(b"<!DOCTYPE html>")


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_process_that_fails_leaves_the_old_one(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    with running(Daemon(tmp_path, upstream, workers=workers)) as daemon:
        daemon.install(CRASHES)
        daemon.fails("it ended (signal SIGABRT) before it served")
        daemon.install(DIES_LATE)
        daemon.fails("SIGKILL) before")
        daemon.install(GOOD)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            number = taken.getsockname()[1]
            daemon.configure(workers=workers, listen=(f"127.0.0.1:{number}",))
            daemon.fails(f"cannot listen on 127.0.0.1 port {number} (UDP): Address already in use")
        (tmp_path / "resolverd.toml").write_text("[nonsense]\n")
        daemon.fails("resolverd.toml:1: nonsense")
        daemon.configure(workers=workers)
        daemon.upgrade()
        daemon.asks("at.last.tests.net.")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_process_that_hangs_is_killed(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    daemon = Daemon(tmp_path, upstream)
    daemon.configure(workers=workers, timeout=0.5)
    with running(daemon):
        daemon.install(HANGS)
        daemon.fails("server.upgrade-timeout has passed")


def begin(daemon: Daemon) -> tuple[int, "subprocess.Popen[str]"]:
    """Begin an upgrade to a program that hangs; the number of its process, and the command that waits."""
    daemon.install(HANGS)
    command = subprocess.Popen(
        [sys.executable, "-m", "resolver.cli.control", "--socket", daemon.control, "upgrade"],
        stderr=subprocess.PIPE, text=True, env=daemon_environment(),
    )
    wait_until(lambda: "is starting" in daemon.text(), "a new process", log=daemon.log)
    return int(re.findall(r"process (\d+) is starting", daemon.text())[-1]), command


def ended(command: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = command.communicate(timeout=TIMEOUT)
    return command.returncode, said


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_new_process_and_a_second_upgrade(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    with running(Daemon(tmp_path, upstream, workers=workers)) as daemon:
        new, command = begin(daemon)
        second = daemon.ctl("upgrade")
        assert second.returncode == 1 and "an upgrade is in progress" in second.stderr
        refused = daemon.ctl("local-data", "add", "a.tests.net. 60 IN A 192.0.2.9")
        assert refused.returncode == 1
        for words in (("reload",), ("flush", "a.tests.net"), ("load",)):
            refused = daemon.ctl(*words)
            assert refused.returncode == 1 and "an upgrade is in progress: try again" in refused.stderr
        os.kill(daemon.pid, signal.SIGUSR2)
        wait_until(lambda: "refused: an upgrade is in progress" in daemon.text(), "the refusal", log=daemon.log)
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.asks("while.it.starts.tests.net.")
        os.kill(new, signal.SIGKILL)
        status, said = ended(command)
        assert status == 1 and "it ended (signal SIGKILL) before it served" in said
        wait_until(lambda: "the new configuration is in force" in daemon.text(), "the reload", log=daemon.log)
        daemon.install(GOOD)
        daemon.upgrade()
        daemon.asks("after.it.tests.net.")


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_during_an_upgrade_stops_both(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    with running(Daemon(tmp_path, upstream, workers=workers)) as daemon:
        new, command = begin(daemon)
        daemon.stop()
        wait_for_end(new)
        assert ended(command)[0] in (1, 3)
        assert daemon.process is not None and daemon.process.wait(TIMEOUT) == 0
        assert daemon.snapshot.exists() and not Path(daemon.control).exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_new_process_ends_when_the_old_one_is_killed(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    waits = DIES_LATE.replace("os.kill(os.getpid(), signal.SIGKILL)", "None")
    with running(Daemon(tmp_path, upstream, workers=workers)) as daemon:
        daemon.install(waits)
        os.kill(daemon.pid, signal.SIGUSR2)
        wait_until(lambda: daemon.text().count("UDP and TCP") == 2 * workers, "a new process", log=daemon.log)
        new = int(re.findall(r"process (\d+) is starting", daemon.text())[-1])
        os.kill(daemon.pid, signal.SIGKILL)
        if workers == 1:
            os.kill(new, signal.SIGTERM)  # it does not watch the channel, as it has not said that it is ready
        wait_for_end(new)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    with made.socket:
        yield made


@pytest.fixture
def window(tmp_path: Path, upstream: Upstream, manager: Manager, workers: int) -> Iterator[tuple[Daemon, int]]:
    """An old process that has stopped, so that it does not read "ready", and the number of the new one, which has said
    so. The manager has seen the start."""
    gate = tmp_path / "gate"
    with (
        running(Daemon(tmp_path, upstream, workers=workers), manager.environment()) as daemon, gate.open("w") as closed,
    ):
        assert manager.next()[1].startswith("READY=1")
        fcntl.flock(closed, fcntl.LOCK_EX)
        daemon.install(WAITS_AT_GATE)
        os.kill(daemon.pid, signal.SIGUSR2)
        # Only when all was passed on can it be stopped.
        wait_until(lambda: daemon.text().count("UDP and TCP") == 2 * workers, "the new process", log=daemon.log)
        os.kill(daemon.pid, signal.SIGSTOP)
        fcntl.flock(closed, fcntl.LOCK_UN)
        new = int(re.findall(r"process (\d+) is starting", daemon.text())[-1])
        wait_until(lambda: daemon.text().count("gate is passed") == workers, "that it is ready", log=daemon.log)
        if workers > 1:
            wait_until(lambda: daemon.text().count(": ready") == 2 * workers, "its workers", log=daemon.log)
        yield daemon, new


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_to_the_new_process_before_the_confirmation(
    window: tuple[Daemon, int], manager: Manager, workers: int
) -> None:
    daemon, new = window
    os.kill(new, signal.SIGTERM)
    wait_until(lambda: "stopping on SIGTERM" in daemon.text(), "the end of the new process", log=daemon.log)
    os.kill(daemon.pid, signal.SIGCONT)
    wait_until(lambda: f"process {new} was refused: stopped on SIGTERM" in daemon.text(), "the reason", log=daemon.log)
    wait_for_end(new)
    daemon.asks("served.by.the.old.one.tests.net.")
    daemon.upgrade()
    daemon.asks("served.by.the.next.one.tests.net.")
    assert manager.next() == (daemon.pids[0], f"MAINPID={daemon.pid}"), "it has not heard of the one that has failed"
    assert manager.next()[1].startswith("READY=1") and manager.main == daemon.pid and manager.ignored == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_new_process_serves_on_when_the_old_one_dies_after_the_confirmation(
    tmp_path: Path, upstream: Upstream, manager: Manager, workers: int
) -> None:
    daemon = Daemon(tmp_path, upstream, workers=workers)
    daemon.install(DIES_CONFIRMING)
    with running(daemon, manager.environment()):
        assert manager.next()[0] == daemon.pid
        daemon.install(GOOD)
        os.kill(daemon.pid, signal.SIGUSR2)
        wait_for_end(daemon.pid)
        daemon.pids.append(int(re.findall(r"process (\d+) is starting", daemon.text())[-1]))
        wait_until(lambda: daemon.ctl("status").returncode == 0, "commands of the new process", log=daemon.log)
        daemon.asks("served.by.the.new.one.tests.net.")
        daemon.stop()
        assert not Path(daemon.control).exists() and manager.main == daemon.pids[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_to_the_old_process_before_the_confirmation(window: tuple[Daemon, int], workers: int) -> None:
    """It came before the old process has read "ready": it stops the service."""
    daemon, new = window
    os.kill(daemon.pid, signal.SIGTERM)
    os.kill(daemon.pid, signal.SIGCONT)
    wait_for_end(daemon.pid)
    assert daemon.process is not None and daemon.process.wait(TIMEOUT) == 0
    wait_for_end(new)
    assert re.search(rf"pid={new} .*stopping on SIGTERM", daemon.text()), "it has completed its queries"
    assert daemon.snapshot.exists() and not Path(daemon.control).exists()
    assert "this one answers the queries it has" not in daemon.text()


# --- the service manager, and the program on disk -------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_notifications(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    manager = Manager(tmp_path)
    with manager.socket, running(Daemon(tmp_path, upstream, workers=workers), manager.environment()) as daemon:
        assert manager.next()[0] == daemon.pid
        for _ in range(2):
            daemon.upgrade()
            old, new = daemon.pids[-2:]
            assert manager.next() == (old, f"MAINPID={new}")
            sender, text = manager.next()
            assert sender == new and text.startswith("READY=1\nSTATUS=") and str(daemon.port) in text
            assert manager.next(lambda text: True) == (new, "WATCHDOG=1")
        daemon.install(CRASHES)
        daemon.fails("SIGABRT")
        daemon.stop()
        assert manager.next() == (daemon.pid, "STOPPING=1\nSTATUS=stopping")
        assert manager.ignored == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_old_process_loads_nothing_from_disk(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    """The files may be those of the new version already."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH_IMPORTS)
    imports = tmp_path / "imports"
    env = {**daemon_environment(), "PYTHONPATH": f"{tmp_path / 'site'}:{PACKAGES}", "IMPORTS": str(imports)}
    with running(Daemon(tmp_path, upstream, workers=workers), env) as daemon:
        daemon.asks("one.tests.net.")
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        ours = {str(daemon.pid), *children}
        loaded = [line for line in imports.read_text().splitlines() if line.split()[0] in ours]
        assert loaded
        daemon.upgrade()
        later = [line for line in imports.read_text().splitlines() if line.split()[0] in ours]
        assert later == loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [("x", "'x' is not the number of a descriptor"), ("2", "descriptor 2 is not a socket"),
     ("9" * 20, f"'{'9' * 20}' is not the number of a descriptor"), ("77", "descriptor 77 is not a socket")],
)
def test_a_malformed_variable_is_refused(tmp_path: Path, text: str, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resolver.daemon", "--listen", f"127.0.0.1:{free_port()}"],
        capture_output=True, text=True, timeout=TIMEOUT, check=False,
        env={**daemon_environment(), "RESOLVERD_UPGRADE": text},
    )
    assert done.returncode == 2 and f"environment variable RESOLVERD_UPGRADE: {message}" in done.stderr
