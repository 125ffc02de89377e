"""The two sides of an upgrade: messages, and what the new process does with the sockets and files it gets."""

import asyncio
import errno
import fcntl
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from support.subject import daemon_environment

from resolver import limits
from resolver.api import make_store
from resolver.daemon import handover, supervisor, worker_upgrade
from resolver.daemon.cache_file import snapshot
from resolver.daemon.handover import HandoverError
from resolver.daemon.management_sockets import ManagementSockets, open_management_sockets
from resolver.daemon.predecessor import Predecessor
from resolver.daemon.runtime_changes import RuntimeChanges
from resolver.daemon.service_manager import ServiceManager
from resolver.daemon.sockets import close_all, open_endpoints
from resolver.daemon.successor import Successor, _messages
from resolver.daemon.upgrade_variable import UPGRADE_VARIABLE
from resolver.daemon.worker import _Worker
from resolver.daemon.worker_management import WorkerManagement
from resolver.daemon.worker_options import Options
from resolver.daemon.worker_reload import WorkerReloads
from resolver.daemon.worker_upgrade import REFUSAL, WorkerUpgrades
from resolver.log_limit import LimitedWarning
from resolver.settings import CacheSettings, ControlSettings, MetricsSettings, Settings, replace
from resolver.wire import consts as c
from resolver.wire import name as names

HELLO = ("hello", {"format": handover.FORMAT}, [])
LISTENER = {"share": 0, "address": "127.0.0.1", "port": 53, "wanted": 53, "protocol": "dns", "udp": True, "tcp": False}


@pytest.fixture
def pair():
    """Our end, and the predecessor of the other one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    predecessor = Predecessor.take({UPGRADE_VARIABLE: str(theirs.detach())})
    yield ours, predecessor
    ours.close()
    predecessor.close()


def send_all(ours, shares, management=None):
    """What a successor gets before the cache."""
    for kind, descriptors, content in _messages(shares, management):
        handover.send(ours, kind, content, descriptors)


def inodes(shares):
    """Each socket of `shares` by its inode."""
    sockets = [one for share in shares for end in share for one in (end.udp, end.tcp, *end.lanes)]
    return [os.fstat(one.fileno()).st_ino for one in sockets if one is not None]


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_the_variable_is_removed():
    assert Predecessor.take({}) is None
    environment = {UPGRADE_VARIABLE: "no"}
    with pytest.raises(HandoverError, match="'no' is not the number of a descriptor"):
        Predecessor.take(environment)
    assert environment == {}
    with socket.socket() as other:
        with pytest.raises(HandoverError, match="is not a socket of an upgrade"):
            Predecessor.take({UPGRADE_VARIABLE: str(other.fileno())})
        assert other.getsockname()  # it is left open


@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 3), (4, 2), (3, 2), (5, 1), (1, 3), (2, 5)])
def test_every_socket_is_served_by_a_worker(pair, before, after):
    ours, predecessor = pair
    count = descriptors()
    shares = open_endpoints([("127.0.0.1", 0)], shares=before, lanes=3)
    given = set(inodes(shares))
    send_all(ours, shares)
    handover.send(ours, "end", {})
    predecessor.receive()
    found = predecessor.endpoints([("127.0.0.1", 0, "dns")], after)
    assert len(found) == after and all(found)
    served = inodes(found)
    assert set(served) == given
    assert len(served) == max(len(given), 4 * after)
    assert all(end.wanted == 0 and end.key == ("127.0.0.1", 0, "dns") for share in found for end in share)
    close_all(shares)
    close_all(found)
    assert descriptors() == count


def test_upgrades_to_other_numbers_of_workers_add_no_endpoints():
    shares = open_endpoints([("127.0.0.1", 0), ("127.0.0.1", 0, "tls")], shares=4, lanes=2)
    given = inodes(shares)
    for workers in (2, 4, 3, 8, 2, 4):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            predecessor = Predecessor.take({UPGRADE_VARIABLE: str(theirs.detach())})
            send_all(ours, shares)
            handover.send(ours, "end", {})
            predecessor.receive()
            found = predecessor.endpoints([("127.0.0.1", 0, "dns"), ("127.0.0.1", 0, "tls")], workers)
            predecessor.close()
        assert set(inodes(found)) == set(given)
        for share in found:
            assert len(inodes([share])) == len(set(inodes([share]))), "a worker serves a socket twice"
            assert {end.protocol for end in share} == {"dns", "tls"}
        close_all(shares)
        shares = found
    assert sorted(inodes(shares)) == sorted(given)
    close_all(shares)


def is_blocking(one):
    return not fcntl.fcntl(one.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def test_no_socket_of_the_old_process_becomes_blocking(pair, tmp_path):
    """A blocking socket would stop its loop in accept4, after another process has taken the connection."""
    ours, predecessor = pair
    control = ControlSettings(socket=str(tmp_path / "control"))
    settings = Settings(control=control, metrics=MetricsSettings(listen="127.0.0.1:0"))
    shares = open_endpoints([("127.0.0.1", 0)], shares=1, lanes=2)
    old = open_management_sockets(settings, 1)
    send_all(ours, shares, old)
    handover.send(ours, "end", {})
    predecessor.receive()
    found = predecessor.endpoints([("127.0.0.1", 0, "dns")], 2)
    new = open_management_sockets(settings, 1, predecessor)
    own = [end.duplicate() for share in found for end in share]  # as `Listeners.start` does
    with new.control.dup() as control, new.metrics.dup() as metrics:
        for end in (*shares[0], *found[0], *found[1], *own):
            assert not any(map(is_blocking, (end.udp, end.tcp, *end.lanes)))
        assert not any(map(is_blocking, (old.control, old.metrics, control, metrics)))
    for given in (shares, found, [own]):
        close_all(given)
    new.close()
    old.close()


def test_sockets_of_other_addresses_are_closed(pair):
    ours, predecessor = pair
    count = descriptors()
    shares = open_endpoints([("127.0.0.1", 0)], shares=2)
    send_all(ours, shares)
    handover.send(ours, "end", {})
    close_all(shares)
    predecessor.receive()
    assert predecessor.endpoints([("127.0.0.1", 53, "dns")], 2) == [[], []]
    assert descriptors() == count


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([("hello", {"format": 99}, [])], "in format 99, and this one knows format 1 only"),
        ([("listener", LISTENER, [])], "in format None"),
        ([HELLO, ("listener", {**LISTENER, "share": -1}, [0])], "worker -1, protocol dns"),
        ([HELLO, ("listener", {**LISTENER, "share": 10**9}, [0])], "worker 1000000000"),
        ([HELLO, ("listener", {**LISTENER, "protocol": "gopher"}, [0])], "protocol gopher"),
        ([HELLO, ("listener", LISTENER, [])], "IndexError"),
        ([HELLO, ("listener", {}, [0])], "KeyError"),
        ([HELLO, ("listener", {**LISTENER, "port": [1]}, [0])], "TypeError"),
        ([HELLO, ("control", {"path": "/x", "identity": [1]}, [0])], "ValueError"),
        ([HELLO, ("control", {"path": "/x", "identity": [1, 2]}, ["file"])], "OSError"),
        ([HELLO], "the old process has ended"),
        ([], "the old process has ended"),
    ],
)
def test_malformed_messages_leak_nothing(pair, messages, why):
    ours, predecessor = pair
    with ExitStack() as stack:
        one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        file = stack.enter_context(open(os.devnull))
        for kind, content, given in messages:
            handover.send(ours, kind, content, [(file if what == "file" else one).fileno() for what in given])
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(HandoverError, match=why):
            predecessor.receive()
        count = descriptors()
        predecessor.close()
        assert descriptors() <= count - 1


@pytest.mark.parametrize("data", [b"{", b"[]", b"1", b'{"kind": 1}', b"\xff", b"[" * 5000])
def test_what_is_no_message_is_refused(data):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        count = descriptors()
        socket.send_fds(ours, [data], [ours.fileno()])
        with pytest.raises(HandoverError, match="something that is no message"):
            handover.receive(theirs)
        assert descriptors() == count


def test_the_last_message_of_a_side_that_has_not_read_everything():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.setblocking(False)
        handover.send(ours, "hello", {})
        handover.send(theirs, "failed", {"error": "why"})
        theirs.close()
        assert handover.receive(ours) == ({"kind": "failed", "error": "why"}, [])
        assert handover.receive(ours) is None


def test_the_longest_message_fits():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        handover.send(ours, "failed", {"error": "\U0001f600" * limits.HANDOVER_TEXT})
        message, _ = handover.receive(theirs)
        assert len(message["error"]) == limits.HANDOVER_TEXT
        count = limits.LANES.maximum + 2
        assert count <= limits.HANDOVER_DESCRIPTORS
        handover.send(ours, "listener", {}, [0] * count)
        _, given = handover.receive(theirs)
        assert len(given) == count and not any(os.get_inheritable(one) for one in given)
        for one in given:
            os.close(one)


def test_the_control_socket_is_taken_over_only_with_its_file(pair, tmp_path):
    ours, predecessor = pair
    settings = Settings(control=ControlSettings(socket=str(tmp_path / "control")))
    old = open_management_sockets(settings, 1)
    send_all(ours, [], old)
    handover.send(ours, "end", {})
    predecessor.receive()
    new = open_management_sockets(settings, 1, predecessor)
    assert predecessor.takes_control and new.identity == old.identity and predecessor.control is None
    new.close()
    assert (tmp_path / "control").exists(), "it is not the main process"
    os.unlink(tmp_path / "control")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "control"))  # another program's, which has ended
    send_all(ours, [], old)
    handover.send(ours, "end", {})
    predecessor.takes_control = False
    predecessor.receive()
    new = open_management_sockets(settings, 1, predecessor)
    assert not predecessor.takes_control and new.owns_path
    old.close()
    assert (tmp_path / "control").exists(), "the file is another one now"
    new.close()
    assert not (tmp_path / "control").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:], lambda data: b""])
def test_a_damaged_cache_is_not_used(pair, caplog, damage):
    ours, predecessor = pair
    settings = Settings(cache=CacheSettings(size=1 << 20))
    store = make_store(settings)
    file = os.memfd_create("cache")
    os.write(file, damage(b"".join(snapshot(store, settings))))
    for kind, content, given in [HELLO, ("cache", {}, [file]), ("end", {}, [])]:
        handover.send(ours, kind, content, given)
    os.close(file)
    predecessor.receive()
    predecessor.load_cache(store, settings)
    assert "the cache of the old process is not used" in caplog.text and "starting with an empty cache" in caplog.text


def test_ready_failure_and_confirmation(pair):
    ours, predecessor = pair
    predecessor.ready()
    assert handover.receive(ours) == ({"kind": "ready", "control": False}, [])
    predecessor.fail("why" * limits.HANDOVER_TEXT)
    assert len(handover.receive(ours)[0]["error"]) == limits.HANDOVER_TEXT
    predecessor.close()
    assert predecessor.fail("later")


@pytest.mark.parametrize("closed", [True, False])
def test_the_main_process_does_not_withdraw(pair, closed):
    ours, predecessor = pair
    handover.send(ours, "main", {})
    if closed:
        assert predecessor.confirmed() is None
        predecessor.close()
    assert not predecessor.fail("later")
    ours.setblocking(False)
    with pytest.raises(BlockingIOError) if not closed else ExitStack():
        assert handover.receive(ours) is None


def test_a_failure_at_the_start_leaves_nothing_open(pair):
    """What the old process has sent is not read as messages any more."""
    ours, predecessor = pair
    count = descriptors()
    for kind, content, given in [HELLO, ("listener", LISTENER, [0]), ("cache", {}, [0])]:
        handover.send(ours, kind, content, given)
    assert predecessor.fail("wrong configuration") and descriptors() == count


def test_the_end_of_the_old_process_is_no_confirmation(pair):
    ours, predecessor = pair
    ours.close()
    predecessor.ready()
    assert predecessor.confirmed() is False


def test_the_manager_is_passed_on():
    assert ServiceManager().environment() == {}
    for address in ("/run/notify", "@notify"):
        given = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1500000"}
        assert ServiceManager.take(dict(given)).environment() == given
        assert ServiceManager.take({"NOTIFY_SOCKET": address}).environment() == {"NOTIFY_SOCKET": address}


class Host:
    """A single worker that records what it does."""

    def __init__(self, done):
        self.done = done
        self.channels = None
        self.reloads = SimpleNamespace(
            lock=asyncio.Lock(), requested=False, on_signal=lambda: self.done.append("reloads"))

    async def catch_up(self):
        self.done.append("catches up")

    def start_task(self, work):
        asyncio.run(work)


def test_a_new_process_makes_no_changes_before_it_is_the_main_one():
    done = []
    upgrades = WorkerUpgrades(Host(done), confirmed=False)
    assert upgrades.running and not upgrades.confirmed
    with pytest.raises(ValueError, match="an upgrade is in progress"):
        upgrades._refuse()
    upgrades.reload_after = True  # SIGHUP
    upgrades.confirm()
    assert done == ["catches up", "reloads"] and upgrades.confirmed and not upgrades.running
    upgrades._refuse()


def test_an_upgrade_waits_for_a_reload_that_was_asked_for_before():
    host = Host([])
    upgrades = WorkerUpgrades(host)
    host.reloads.requested = True  # SIGHUP has come, and its task has not begun
    with pytest.raises(ValueError, match="a reload is in progress"):
        upgrades._refuse()


def test_equal_refusals_of_signals_are_one_line(caplog):
    upgrades = WorkerUpgrades(Host([]), running=True)
    for _ in range(50):
        upgrades.on_signal()
    upgrades.running = False
    upgrades._host.reloads.requested = True
    for _ in range(50):
        upgrades.on_signal()
    assert [record.getMessage() for record in caplog.records] == [
        "upgrade: refused: an upgrade is in progress",
        "upgrade: refused: a reload is in progress (49 more since the last line)"]


def test_equal_refusals_of_the_supervisor_are_one_line(caplog):
    supervised = supervisor._Supervisor.__new__(supervisor._Supervisor)
    supervised.successor, supervised.predecessor, supervised.replaced_by = object(), None, 0
    supervised.refusals = LimitedWarning(supervisor.logger, different=limits.LOG_FAILURES)
    for _ in range(50):
        supervised.on_signal(signal.SIGUSR2)
    assert [record.getMessage() for record in caplog.records] == ["upgrade: refused: an upgrade is in progress"]


def test_a_new_process_begins_with_blocked_signals(monkeypatch):
    """Their default action would end it before it has handlers. The old one keeps handling them."""
    blocked = []

    def start(*given, **keywords):
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return Process()

    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert not before & {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    Successor([], None, ServiceManager(), None, math.inf, lambda: 1).close()
    assert blocked == [before | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_reload_that_gets_its_turn_during_an_upgrade_is_for_the_process_that_serves():
    class Reloads(WorkerReloads):
        async def run(self):
            pytest.fail("the new process may have read its files already")

    async def main():
        host = SimpleNamespace()
        host.upgrades = WorkerUpgrades(host)
        reloads = host.reloads = Reloads(host)
        reloads.requested = True
        async with reloads.lock:  # another one is in progress when both are asked for
            waiting = [asyncio.ensure_future(one) for one in (reloads.reload_in_turn(), reloads.perform())]
            await asyncio.sleep(0)
        host.upgrades.running = True  # the lock is free before the next one has it
        assert await asyncio.gather(*waiting) == [None, REFUSAL]
        assert host.upgrades.reload_after and not reloads.requested

    asyncio.run(main())


def test_commands_are_taken_although_changes_cannot_be_used(caplog):
    done = []

    class Server:
        started = False

        async def start(self, listening):
            self.started = True
            done.append(listening)

    async def refuse(settings, changes):
        raise ValueError("forward: wrong")

    class New(_Worker):
        def __init__(self):
            self.stopping = asyncio.get_running_loop().create_future()
            self.configured, self.changes = Settings(), RuntimeChanges()
            self.management = WorkerManagement(self)
            self.management.servers = {"control": Server(), "metrics": Server(), "web": Server()}
            self.options = SimpleNamespace(management=SimpleNamespace(**{
                name: SimpleNamespace(dup=lambda name=name: name, getsockname=lambda: ("::1", 9))
                for name in ("control", "metrics", "web")}))
            self.zones = self.anchors = self.change_keeper = SimpleNamespace(
                catch_up=lambda: done.append("catches up"), schedule=lambda: done.append("schedules"))
            self.periodic_work = SimpleNamespace(check_lists=lambda: done.append("lists"))
            self.alignment = SimpleNamespace(use=refuse)

    async def main():
        new = New()
        await new.catch_up()
        assert done == ["control", "metrics", "web", "catches up", "catches up", "lists", "schedules"]
        assert "not in force until a reload: forward: wrong" in caplog.text
        await new.catch_up()  # after a failed upgrade of its own
        assert done.count("control") == 1 and done.count("lists") == 2
        new.stopping.set_result("stop")
        await new.catch_up()
        assert done.count("lists") == 2

    asyncio.run(main())


# --- the end of the new process -----------------------------------------------------------------------------------


class Process:
    """A new process whose end the test decides."""

    pid = 4711
    status = None
    terminated = 0

    def poll(self):
        return self.status

    def terminate(self):
        self.terminated += 1

    def wait(self, timeout=None):
        pytest.fail("the loop would be blocked")


@pytest.fixture
def upgrade(monkeypatch):
    """Starts no process; makes the old side, the new side and the process."""
    opened, process = [], Process()

    def start(self, theirs):
        opened.append(Predecessor(theirs.dup()))
        return process

    monkeypatch.setattr(Successor, "_start", start)
    process.killed = []
    monkeypatch.setattr(Successor, "kill", lambda self: process.killed.append(self.pid))

    def begin(cache=None, serial=lambda: 1, manager=None):
        opened.append(Successor([], None, manager or ServiceManager(), cache, math.inf, serial))
        return opened[1], opened[0], process

    yield begin
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("flush", "flushed"),
    [
        (lambda store: None, False), (lambda store: store.clear(), True),
        (lambda store: store.drop(names.from_text("a.test.")), True),
        (lambda store: store.drop(names.ROOT, rtype=c.A), True),  # after a change of a list
        (lambda store: list(store.flush(names.from_text("test."), subtree=True)), True),
    ],
)
def test_what_is_flushed_during_an_upgrade_does_not_come_back(upgrade, flush, flushed):
    """The new process may have loaded it by then."""
    settings = Settings(cache=CacheSettings(size=1 << 20))
    store = make_store(settings)
    successor, predecessor, _ = upgrade(snapshot(store, settings), lambda: store.table.serial)
    while successor.advance(0.0) != math.inf:
        pass
    predecessor.receive()
    flush(store)
    predecessor.ready()
    successor.advance(0.0)
    assert successor.outcome == ""
    assert successor.confirm(0.0)
    assert [predecessor.confirmed(), predecessor.confirmed()] == [None, True] and predecessor.flushed is flushed


@pytest.mark.parametrize(("status", "why"), [(-6, r"it ended \(signal SIGABRT\) before it served"),
                                             (None, "it has closed its connection to this process")])
def test_the_end_of_the_new_process_is_not_waited_for(upgrade, status, why):
    """It closes its socket first, and may keep running."""
    successor, predecessor, process = upgrade()
    predecessor.close()
    asked = 0
    now = 100.0
    while not successor.ending:
        successor.advance(now)
    while successor.outcome is None and asked < 3:
        assert 0 < successor.advance(now) < limits.STOP_GRACE / 1000
        asked += 1
    process.status = status
    successor.advance(now if status else now + limits.STOP_GRACE / 1000)
    assert re.search(why, successor.outcome)


def test_a_new_process_that_ends_before_the_confirmation_says_why(upgrade):
    successor, predecessor, process = upgrade()
    predecessor.ready()
    while successor.outcome is None:
        successor.advance(0.0)
    predecessor.withdraw(reload=True)
    assert not successor.confirm(0.0)
    assert successor.outcome is None
    predecessor.fail("worker 1 ended")
    successor.advance(0.0)
    assert successor.outcome is None and not process.killed, "it completes the queries that it has read"
    process.status = 1
    successor.advance(0.0)
    assert successor.outcome == "the new process 4711 was refused: worker 1 ended; the old process keeps serving"
    assert successor.reload_asked


@pytest.mark.parametrize("ends", [True, False])
def test_a_new_process_that_has_failed_may_complete_its_queries(upgrade, ends):
    successor, predecessor, process = upgrade()
    predecessor.fail("why")
    while not successor.ending:
        successor.advance(100.0)
    assert successor.advance(100.0) > 0 and successor.outcome is None and not process.killed
    process.status = 1 if ends else None
    successor.advance(100.0 if ends else 100.0 + limits.STOP_GRACE / 1000)
    assert successor.outcome == "the new process 4711 was refused: why; the old process keeps serving"
    assert process.killed == [4711] and not process.terminated and not successor.reload_asked


@pytest.mark.parametrize("why", ["stop", "deadline"])
def test_a_new_process_that_is_stopped_may_complete_its_queries(upgrade, why):
    """SIGKILL at once would lose those that it has read."""
    successor, predecessor, process = upgrade()
    predecessor.ready()
    if why == "stop":
        successor.advance(0.0)
        assert successor.outcome == ""
        successor.stop(0.0)
    else:
        handover.receive(successor._channel)  # it is lost
        successor._deadline = 0.0
        successor.advance(0.0)
    assert process.terminated == 1 and not process.killed and successor.ending
    assert 0 < successor.advance(0.0) < limits.STOP_GRACE / 1000 and successor.outcome is None
    successor.advance(limits.STOP_GRACE / 1000)
    assert process.killed == [4711]
    assert successor.outcome == "this process stops" if why == "stop" else "has passed" in successor.outcome


def test_a_new_process_that_is_late_is_stopped_and_tells_of_a_reload(upgrade):
    """What it has sent since is read, and does not make it the main process."""
    successor, predecessor, process = upgrade()
    successor._deadline = 0.0
    successor.advance(0.0)
    predecessor.ready()
    predecessor.fail("stopped on SIGTERM", reload=True)
    process.status = 0
    successor.advance(0.0)
    assert "server.upgrade-timeout has passed" in successor.outcome and successor.reload_asked


FAILS_EARLY = """
import os, signal, threading
from resolver.daemon.early_signals import hold_signals
hold_signals()
from resolver.daemon.predecessor import Predecessor
ends = threading.Event()
thread = threading.Thread(target=ends.wait)
thread.start()
predecessor = Predecessor.take()
predecessor.fail("one")
os.kill(os.getpid(), signal.SIGHUP)
predecessor.fail("two")
ends.set()
thread.join()
"""


def test_a_pending_reload_is_told_with_the_failure():
    """The new process has failed before it had handlers, but threads. The kernel gives a signal for a process to any
    thread that does not block it (signal(7)), so the process of the tests, which has such threads, cannot be used."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        subprocess.run([sys.executable, "-c", FAILS_EARLY], check=True, pass_fds=[theirs.fileno()], timeout=60,
                       env={**daemon_environment(), UPGRADE_VARIABLE: str(theirs.fileno())})
        theirs.close()
        assert [handover.receive(ours)[0]["reload"] for _ in range(2)] == [False, True]


# --- the order of the confirmation ------------------------------------------------------------------------------------


class Manager:
    """A service manager that takes notifications from the main process only (NotifyAccess=main of systemd.service(5)).
    `main` is the number of that process."""

    def __init__(self, main):
        self.main = main
        self.taken, self.ignored = [], []

    def seen_by(self, sender):
        """What process `sender` has of it."""
        made = ServiceManager("/")
        made._send = lambda *lines: self.take(sender, lines[0])
        return made

    def take(self, sender, line):
        (self.taken if sender == self.main else self.ignored).append(line)
        if sender == self.main and line.startswith("MAINPID="):
            self.main = int(line.removeprefix("MAINPID="))


def until_ready(successor, predecessor):
    """The new process has said that it serves, and the old one has read it."""
    predecessor.ready()
    while successor.outcome is None:
        successor.advance(0.0)
    assert successor.outcome == ""


def test_the_manager_is_told_of_a_new_process_that_has_the_confirmation_only(upgrade):
    """It would not take it back: what the old process says is ignored then."""
    manager = Manager(os.getpid())
    successor, predecessor, _ = upgrade(manager=manager.seen_by(os.getpid()))
    until_ready(successor, predecessor)
    predecessor.fail("stopped on SIGTERM")
    assert not successor.confirm(0.0)
    assert manager.taken == manager.ignored == []


def test_the_new_process_notifies_when_the_manager_knows_it(upgrade, monkeypatch):
    manager = Manager(os.getpid())
    successor, predecessor, process = upgrade(manager=manager.seen_by(os.getpid()))
    supervised, _ = supervising(predecessor)
    supervised.manager, supervised.shares, supervised.reload_after = manager.seen_by(process.pid), [[]], False
    until_ready(successor, predecessor)
    before = []

    def main_process(pid):
        """All that has arrived is read before the manager is told."""
        while predecessor.fileno() >= 0 and select.select([predecessor], [], [], 0)[0]:
            supervised.on_predecessor(predecessor)
            before.append(supervised.predecessor)
        manager.take(os.getpid(), f"MAINPID={pid}")

    monkeypatch.setattr(successor._manager, "main_process", main_process)
    copy = successor._channel.dup()  # a worker that was just forked
    with copy:
        assert successor.confirm(0.0)
        assert before == [predecessor], "it has read the confirmation"
        assert select.select([predecessor], [], [], 0)[0], "the end of the channel"
        supervised.on_predecessor(predecessor)
    assert manager.taken == [f"MAINPID={process.pid}", "READY=1"] and not manager.ignored
    assert supervised.predecessor is None and supervised.options.management.owns_path


def test_a_new_worker_notifies_when_the_manager_knows_it(pair):
    ours, predecessor = pair
    manager = Manager(os.getpid())

    async def main():
        new = Starting(predecessor)
        new.options, new.endpoints = replace(new.options, manager=manager.seen_by(os.getpid())), []
        new.report_ready()
        handover.send(ours, "main", {})
        new.on_predecessor(predecessor)
        assert manager.taken == [] and not new.is_main
        ours.shutdown(socket.SHUT_WR)
        new.on_predecessor(predecessor)
        assert manager.taken == ["READY=1"] and new.is_main
        for task in new.tasks:
            task.cancel()

    asyncio.run(main())


def test_a_new_process_serves_on_when_the_old_one_dies_after_the_confirmation(pair):
    ours, predecessor = pair
    supervised, done = supervising(predecessor)
    supervised.begin_notifications = lambda: done.append("serves")
    supervised.reload_after = False
    handover.send(ours, "main", {})
    ours.close()
    for _ in range(2):
        supervised.on_predecessor(predecessor)
    assert done == ["serves"] and supervised.status is None and supervised.predecessor is None


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN])
def test_a_confirmation_that_cannot_be_sent_ends_the_new_process_in_order(upgrade, monkeypatch, number):
    """It serves and has read queries, and does not know that it is to end."""
    manager = Manager(os.getpid())
    successor, predecessor, process = upgrade(manager=manager.seen_by(os.getpid()))
    until_ready(successor, predecessor)

    def fail(*given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(handover, "send", fail)
    assert not successor.confirm(0.0)
    assert process.terminated == 1 and successor.ending and not process.killed and manager.taken == []
    process.status = 0
    successor.advance(0.0)
    assert f"it cannot be made the main process: {os.strerror(number)}; the old" in successor.outcome


# --- exceptions in the new process ------------------------------------------------------------------------------------


def test_an_exception_in_a_new_supervisor_withdraws_before_the_workers_are_killed(pair, monkeypatch):
    ours, predecessor = pair
    supervised, _ = supervising(predecessor)

    def fail(self):
        raise MemoryError

    monkeypatch.setattr(supervisor.Processes, "poll_once", fail)
    with pytest.raises(MemoryError):
        supervised.poll_once()
    with pytest.raises(BrokenPipeError):
        handover.send(ours, "main", {})
    predecessor.fail("out of memory")
    assert handover.receive(ours)[0] == {"kind": "failed", "error": "out of memory", "reload": True}


# A single worker that serves has an unexpected exception. It tears down what it has when the test has closed its input.
FAILS_LATE = """
import sys
from resolver.daemon import worker
from resolver.daemon.main import main

def fail(self):
    self.upgrades.reload_after = True
    raise AssertionError("a fault for the test")

async def end():
    print("ends", flush=True)
    sys.stdin.read()

worker._Worker.keep_regularly = fail
worker._end_tasks_and_threads = end
sys.exit(main())
"""


def test_an_exception_in_a_new_worker_withdraws_before_anything_is_torn_down():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for kind, content, given in [HELLO, ("end", {}, [])]:
            handover.send(ours, kind, content, given)
        command = [sys.executable, "-c", FAILS_LATE, "--listen", "127.0.0.1:0"]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL,
                              env={**daemon_environment(), UPGRADE_VARIABLE: str(theirs.fileno())}) as process:
            theirs.close()
            assert process.stdout.readline() == b"ends\n"
            with pytest.raises(BrokenPipeError):
                handover.send(ours, "main", {})
            process.stdin.close()
            assert process.wait(60) == 1
        assert handover.receive(ours)[0]["kind"] == "ready"
        said = handover.receive(ours)[0]
        assert said["kind"] == "failed" and said["reload"]
        assert said["error"] == "unexpected AssertionError: a fault for the test; this is a bug"


# --- signals between "ready" and "main" -------------------------------------------------------------------------------


def supervising(predecessor):
    """A supervisor of the new process, and what it does."""
    done = []
    supervised = supervisor._Supervisor.__new__(supervisor._Supervisor)
    supervised.poll = select.poll()
    supervised.poll.register(predecessor.fileno())
    supervised.predecessor, supervised.successor, supervised.status = predecessor, None, None
    supervised.replaced_by, supervised.next_check = 0, 0.0
    supervised.slots = []
    supervised.reload_after = supervised.reported_ready = True
    supervised.options = Options(management=ManagementSockets())
    supervised.options.management.owns_path = False
    supervised.manager = SimpleNamespace(
        ready=lambda text: done.append("ready"), stopping=lambda: done.append("stopping"), watchdog=0)
    supervised.show_reloading = lambda: pytest.fail("it stops")
    return supervised, done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_new_supervisor_that_is_stopped_before_the_confirmation_leaves_the_old_one(pair, number):
    ours, predecessor = pair
    supervised, done = supervising(predecessor)
    predecessor.ready()
    supervised.on_signal(number)
    assert supervised.status == 0 and done == [] and not supervised.options.management.owns_path
    with pytest.raises(BrokenPipeError):
        handover.send(ours, "main", {})
    said = [handover.receive(ours)[0] for _ in range(2)]
    assert said[1] == {"kind": "failed", "error": f"stopped on {number.name}", "reload": True}


def test_a_new_supervisor_that_is_stopped_at_the_confirmation_stops_as_the_main_process(pair):
    ours, predecessor = pair
    supervised, done = supervising(predecessor)
    handover.send(ours, "main", {"flushed": False})
    supervised.on_signal(signal.SIGTERM)
    assert done == ["stopping"] and supervised.predecessor is None and supervised.options.management.owns_path


class Starting(_Worker):
    """A single worker of the new process that has said that it serves."""

    def __init__(self, predecessor):
        self.loop = asyncio.get_running_loop()
        self.stopping = self.loop.create_future()
        self.tasks, self.channel, self.channels = set(), None, None
        self.handed_over = self.multi_worker = False
        self.options = Options(predecessor=predecessor, management=ManagementSockets())
        self.options.management.owns_path = False
        self.upgrades = WorkerUpgrades(self, confirmed=False)
        self.reloads = WorkerReloads(self)


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_new_worker_that_is_stopped_at_the_confirmation(pair, confirmed):
    ours, predecessor = pair

    async def main():
        new = Starting(predecessor)
        new.report_ready()
        assert handover.receive(ours)[0]["kind"] == "ready"
        new.reloads.on_signal()
        if confirmed:
            handover.send(ours, "main", {})
        new.on_stop("SIGTERM")
        new.leave_upgrade("SIGTERM")
        assert new.is_main is confirmed is new.options.management.owns_path
        await asyncio.gather(*new.tasks)
        if not confirmed:
            with pytest.raises(BrokenPipeError):
                handover.send(ours, "main", {})
            assert handover.receive(ours)[0] == {"kind": "failed", "error": "stopped on SIGTERM", "reload": True}

    asyncio.run(main())


def test_a_worker_that_is_stopped_while_it_starts_does_not_say_that_it_serves(pair):
    ours, predecessor = pair

    async def main():
        new = Starting(predecessor)
        new.on_stop("SIGTERM")
        new.report_ready()
        new.leave_upgrade("SIGTERM")
        assert handover.receive(ours)[0]["kind"] == "failed"

    asyncio.run(main())


def test_a_worker_that_is_stopped_while_it_reads_zones_tells_of_a_reload(pair):
    ours, predecessor = pair

    async def main():
        new = Starting(predecessor)
        new.current = None
        new.zones = SimpleNamespace(start=lambda current: asyncio.Event().wait(), stop=lambda: None)
        new.reloads.on_signal()
        new.on_stop("SIGTERM")
        assert not await new.start_zones()
        assert handover.receive(ours)[0] == {"kind": "failed", "error": "stopped on SIGTERM", "reload": True}
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(main())


def test_sigterm_before_ready_is_handled_before_it(upgrade, monkeypatch):
    """In the single worker of the old process: both arrive in one iteration of its loop."""
    successor, predecessor, process = upgrade()
    monkeypatch.setattr(worker_upgrade, "Successor", lambda *given: successor)
    confirmed = []
    monkeypatch.setattr(successor, "confirm", confirmed.append)

    class Old(_Worker):
        endpoints = ()
        uses_cache_file = False

        def __init__(self):
            self.loop = asyncio.get_running_loop()
            self.stopping = self.loop.create_future()
            self.tasks, self.channels, self.configured = set(), None, Settings()
            self.options = Options()
            self.upgrades = WorkerUpgrades(self)
            self.reloads = WorkerReloads(self)

    async def main():
        old = Old()
        old.upgrades.on_signal()
        while successor.advance(0.0) != math.inf:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert old.upgrades.starting
        predecessor.ready()
        successor.advance(0.0)
        old.upgrades._heard.set()  # the task continues in the next iteration, and the signal is handled in it
        old.loop.call_soon(old.on_stop, "SIGTERM")
        async with asyncio.timeout(30):
            while not process.terminated:
                await asyncio.sleep(0)
        assert old.upgrades.starting, "it is waited for"
        process.status = 0
        async with asyncio.timeout(30):
            await old.upgrades._task
        assert not old.upgrades.starting and not confirmed and not old.upgrades.running

    asyncio.run(main())


def test_an_old_supervisor_that_stops_waits_for_the_new_process(upgrade):
    successor, predecessor, process = upgrade()
    supervised, done = supervising(predecessor)
    supervised.predecessor, supervised.successor = None, successor
    supervised.poll.register(successor.fileno())
    supervised.refused, supervised.next_slice = [], math.inf
    supervised.upgrades = SimpleNamespace(report=lambda message: done.append(message["error"]))
    supervised.on_signal(signal.SIGTERM)
    assert done == ["stopping"] and process.terminated == 1
    assert supervised.next_slice < math.inf, "one that hangs sends nothing that would be heard"
    supervised.advance_upgrade()
    assert supervised.unfinished()
    process.status = 0
    supervised.advance_upgrade()
    assert done == ["stopping", "this process stops"] and not supervised.unfinished()


def test_a_supervisor_that_is_stopped_after_the_confirmation_names_the_new_process(caplog):
    supervised = supervisor._Supervisor.__new__(supervisor._Supervisor)
    supervised.successor = supervised.predecessor = None
    supervised.status, supervised.replaced_by, supervised.slots = 0, 4711, []
    supervised.on_signal(signal.SIGTERM)
    assert "SIGTERM: process 4711 serves in place of this one and is not stopped" in caplog.text


def test_one_of_the_two_processes_keeps_serving(pair):
    """A worker of the new process dies when the old one has confirmed, which the new one has not read."""
    ours, predecessor = pair
    handover.send(ours, "main", {"flushed": True})
    assert not predecessor.withdraw(reload=False) and predecessor.flushed
    with pytest.raises(BrokenPipeError):
        handover.send(ours, "main", {})  # too late


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_worker_that_dies_at_the_confirmation(pair, monkeypatch, confirmed):
    ours, predecessor = pair
    done = []
    worker, ended = socket.socketpair()
    supervised = supervisor._Supervisor.__new__(supervisor._Supervisor)
    supervised.poll = select.poll()
    supervised.poll.register(predecessor.fileno())
    supervised.predecessor, supervised.status, supervised.next_check = predecessor, None, 0.0
    supervised.reload_after = False
    supervised.reported_ready = True
    supervised.options = Options(management=ManagementSockets())
    supervised.options.management.owns_path = False
    supervised.store = SimpleNamespace(clear=lambda: done.append("flushes"))
    supervised.children = lambda: [SimpleNamespace(channel=worker, pid=0)]
    supervised.finish = lambda status: done.append(status)
    supervised.begin_notifications = lambda: done.append("serves")
    monkeypatch.setattr(supervisor.Processes, "on_death", lambda self, child, code: done.append("starts it again"))
    with worker, ended:
        ended.setblocking(False)
        if confirmed:
            handover.send(ours, "main", {"flushed": True})
        supervised.on_death(SimpleNamespace(slot=SimpleNamespace(number=1), ready=True), -9)
        if confirmed:
            assert done == ["flushes", "serves", "starts it again"] and ended.recv(9) == worker_upgrade.CONFIRMED
            assert supervised.options.management.owns_path
        else:
            assert done == [1]
            assert handover.receive(ours)[0]["kind"] == "failed"


def test_number_1_of_a_container_starts_nothing(upgrade, monkeypatch):
    """When it ends, the kernel ends all processes of its PID namespace (pid_namespaces(7))."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(ValueError, match="PID 1 of its container; replace the container"):
        upgrade()


@pytest.mark.parametrize("pid", [0, 4711])
def test_a_reload_that_has_waited_is_for_the_process_that_serves(monkeypatch, pid):
    done = []
    monkeypatch.setattr(os, "kill", lambda *given: done.append(given))
    upgrades = WorkerUpgrades(Host(done))
    upgrades.running = upgrades.reload_after = True
    upgrades._finish(pid, "" if pid else "why")
    assert done == ([(pid, signal.SIGHUP)] if pid else ["catches up", "reloads"])
    assert upgrades.running == bool(pid), "the old process makes no changes any more"


def test_sighup_to_a_worker_that_ends_after_an_upgrade_is_passed_on(monkeypatch, caplog):
    caplog.set_level("INFO")
    done = []
    monkeypatch.setattr(os, "kill", lambda *given: done.append(given))
    host = Host(done)
    host.number = 0
    host.upgrades = WorkerUpgrades(host, running=True)
    reloads = WorkerReloads(host)
    reloads.on_signal()
    assert done == []
    host.upgrades._finish(4711, "")
    assert done == [(4711, signal.SIGHUP)]
    reloads.on_signal()
    assert done == 2 * [(4711, signal.SIGHUP)]

    def gone(pid, number):
        raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr(os, "kill", gone)
    reloads.on_signal()
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    assert all("process 4711, which serves in place of this one" in one.getMessage() for one in caplog.records)


def test_sighup_to_a_supervisor_that_ends_after_an_upgrade_is_passed_on(monkeypatch):
    done = []
    monkeypatch.setattr(os, "kill", lambda *given: done.append(given))
    supervised = supervisor._Supervisor.__new__(supervisor._Supervisor)
    supervised.successor = supervised.predecessor = None
    supervised.status, supervised.replaced_by = 0, 4711
    supervised.on_signal(signal.SIGHUP)
    assert done == [(4711, signal.SIGHUP)]


def test_a_supervisor_that_stops_does_not_announce_a_reload():
    """RELOADING=1 without READY=1 after it would be an error of the service (sd_notify(3))."""
    supervised = supervisor._Supervisor.__new__(supervisor._Supervisor)
    supervised.successor = supervised.predecessor = None
    supervised.status, supervised.replaced_by = 0, 0
    supervised.show_reloading = lambda: pytest.fail("it stops")
    supervised.on_signal(signal.SIGHUP)


@pytest.mark.parametrize("handed_over", [True, False])
def test_a_stop_signal_shortens_the_drain_after_an_upgrade(handed_over, caplog):
    class Stopping(_Worker):
        def __init__(self):
            self.loop = asyncio.new_event_loop()
            self.stopping = self.loop.create_future()
            self.handed_over, self.multi_worker = handed_over, False
            self.drain_until = math.inf
            self.upgrades = WorkerUpgrades(self)
            self.upgrades.replaced_by = 4711

    stopping = Stopping()
    stopping.on_stop("upgrade")
    assert stopping.drain_until == math.inf
    stopping.on_stop("SIGTERM")
    assert (stopping.drain_until <= stopping.loop.time() + limits.DRAIN / 1000) == handed_over
    assert ("SIGTERM: process 4711 serves in place of this one and is not stopped" in caplog.text) == handed_over
    assert stopping.stopping.result() == "upgrade"
    stopping.loop.close()


def test_the_status_of_a_killed_process_is_read_when_it_has_ended() -> None:
    """Freeing the memory of a large cache takes a while after the kill."""
    class Killed:
        def __init__(self, process: "subprocess.Popen[bytes]") -> None:
            self.process, self.pid, self.asked = process, process.pid, 0

        def ended(self) -> bool:
            self.asked += 1
            return self.process.poll() is not None

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
            killed: Any = Killed(process)
            host: Any = SimpleNamespace(loop=loop)
            WorkerUpgrades(host)._reap(killed)
            assert killed.asked == 1 and process.returncode is None
            process.kill()
            async with asyncio.timeout(30):
                while killed.asked < 2:
                    await asyncio.sleep(0)
            assert process.returncode == -signal.SIGKILL

    asyncio.run(main())
