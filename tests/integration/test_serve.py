"""`corenet.serve` as a program: its processes are killed, replaced and stopped while clients use them.

Every service is a separate program on loopback addresses. Nothing sleeps: each step waits for a certain line or reply,
with a timeout.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_port
from support.servers import wait_until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TIMEOUT = 30.0
APP = """
import asyncio
class App(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"GREETING")
        transport.close()
"""


RUN = "\nimport runpy\nrunpy.run_module('support.served', run_name='__main__')\n"


class Service:
    """A running service."""

    def __init__(self, process: "subprocess.Popen[bytes]", address: Any, log: Path) -> None:
        self.process = process
        self.address = address
        self.log = log

    def output(self) -> str:
        """What it has logged so far."""
        return self.log.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until the log has `text` so many times."""
        wait_until(lambda: self.output().count(text) >= times or self.process.poll() is not None, text, seconds=TIMEOUT)
        assert self.output().count(text) >= times, self.output()

    def connect(self) -> socket.socket:
        """A connection to it."""
        kind = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        sock = socket.socket(kind, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(self.address)
        except BaseException:
            sock.close()
            raise
        return sock

    def ask(self, word: str = "who") -> bytes:
        """Its whole answer to one word on one connection."""
        with self.connect() as sock:
            sock.sendall(word.encode())
            answer = b""
            while data := sock.recv(65536):
                answer += data
            return answer

    def worker(self) -> int:
        """The process that answers."""
        return int(self.ask().split()[0])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit status."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


@contextmanager
def service(
    tmp_path: Path, app: str = "protocols", *, limits: dict[str, int] | None = None, first: str = "", **options: Any
) -> Iterator[Service]:
    """A service that is up; whatever happens it is ended, with all its workers. `first` is run in it before it."""
    address: Any = ("127.0.0.1", free_port())
    listen = options.setdefault("listen", [list(address)])
    if isinstance(listen, str):
        address = listen.removeprefix("unix:")
    else:
        options["listen"] = f"127.0.0.1:{address[1]}"
    log = tmp_path / "log"
    told = json.dumps({"app": app, "serve": options, "facts": str(tmp_path), "limits": limits or {}})
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", first + RUN, told],
            stderr=output,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', ROOT)}"},
            start_new_session=True,
        )
        try:
            yield Service(process, address, log)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait(TIMEOUT)


def up(running: Service, workers: int) -> Service:
    """Wait until every worker is ready."""
    running.wait_for(f"with {workers} workers")
    return running


@pytest.mark.parametrize("mode", ["reuseport", "exclusive"])
@pytest.mark.parametrize("app", ["protocols", "main", "forever"])
def test_all_workers_answer_and_a_signal_ends_them(tmp_path: Path, mode: str, app: str) -> None:
    with service(tmp_path, app, workers=2, mode=mode) as running:
        up(running, 2)
        answered: Counter[int] = Counter()
        wait_until(lambda: answered.update([running.worker()]) or len(answered) == 2, "both workers", seconds=TIMEOUT)
        assert running.process.pid not in answered
        assert running.end() == 0
        with pytest.raises(ConnectionRefusedError):
            running.connect()
        assert "stopping on SIGTERM" in running.output()
        assert running.output().count("ended (status 0)") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_process_without_a_supervisor(tmp_path: Path, number: int) -> None:
    with service(tmp_path, workers=0) as running:
        wait_until(lambda: accepts(running), "the port", seconds=TIMEOUT)
        assert running.worker() == running.process.pid
        assert running.end(number) == 0


def accepts(running: Service) -> bool:
    """Whether a process listens."""
    try:
        running.connect().close()
    except ConnectionRefusedError:
        return False
    return True


CONNECTIONS = 200


def woken(folder: Path) -> tuple[list[int], int]:
    """(connections of each worker, how often all of them slept and were woken)."""
    facts = [json.loads((folder / f"{number}.json").read_text()) for number in range(4)]
    return [one["connections"] for one in facts], sum(one["woken"] for one in facts)


def test_a_connection_wakes_one_worker_and_all_workers_get_some(tmp_path: Path) -> None:
    """Four workers on one listener: no thundering herd, and no worker that gets all."""
    counts = {}
    for app in ("facts", "herd"):
        folder = tmp_path / app
        folder.mkdir()
        with service(folder, app, workers=4, mode="exclusive") as running:
            up(running, 4)
            for _ in range(CONNECTIONS):
                running.ask()
            assert running.end() == 0
        connections, counts[app] = woken(folder)
        assert sum(connections) == CONNECTIONS
        if app == "facts":
            assert min(connections) > CONNECTIONS / 16, connections
    # A connection sleeps its worker twice: until it is accepted, and until its word comes.
    assert counts["facts"] < 2.5 * CONNECTIONS, counts
    assert counts["herd"] > 1.2 * counts["facts"], counts


def test_a_dead_worker_is_replaced_and_its_queue_kept(tmp_path: Path) -> None:
    """A connection made while there is no worker at all waits for the next one."""
    with service(tmp_path, workers=1) as running:
        up(running, 1)
        first = running.worker()
        with running.connect() as sock:
            sock.sendall(b"die")
            assert sock.recv(1) == b""
        second = running.worker()
        assert second != first
        assert "worker 0: ended (status 7); starting it again in 0.1 s" in running.output()
        with running.connect() as sock:
            sock.sendall(b"die")
            assert sock.recv(1) == b""
        running.worker()
        assert "starting it again in 0.2 s" in running.output()
        assert running.end() == 0


SHORTAGE = """
import errno, os, pathlib, socket
wanted = {module}.{name}
def {name}(*args):
    if pathlib.Path("shortage").exists():
        raise OSError(errno.{error}, os.strerror(errno.{error}))
    return wanted(*args)
{module}.{name} = {name}
"""
SHORTAGES = [("os", "fork", "EAGAIN"), ("os", "fork", "ENOMEM"), ("socket", "socketpair", "EMFILE")]


@pytest.mark.parametrize(("module", "name", "error"), SHORTAGES)
def test_a_failed_restart_of_a_worker_does_not_affect_others(
    tmp_path: Path, module: str, name: str, error: str
) -> None:
    shortage = tmp_path / "shortage"
    first = SHORTAGE.format(module=module, name=name, error=error)
    # One socket for both, so that a connection never waits for the one that is not there.
    with service(tmp_path, workers=2, mode="exclusive", first=first) as running:
        up(running, 2)
        shortage.touch()
        with running.connect() as sock:
            sock.sendall(b"die")
            assert sock.recv(1) == b""
        running.wait_for("cannot be started: [Errno", times=2)
        [left] = {running.worker() for _ in range(5)}
        assert "trying again in 0.4 s" in running.output()
        shortage.unlink()
        running.wait_for(": ready (process", times=3)
        answered: Counter[int] = Counter()
        wait_until(lambda: answered.update([running.worker()]) or len(answered) == 2, "both workers", seconds=TIMEOUT)
        assert left in answered
        assert running.end() == 0


@pytest.mark.parametrize(("module", "name", "error"), SHORTAGES[1:])
def test_a_renewal_that_cannot_start_is_repeated_later(tmp_path: Path, module: str, name: str, error: str) -> None:
    shortage = tmp_path / "shortage"
    first = SHORTAGE.format(module=module, name=name, error=error)
    with service(tmp_path, workers=2, mode="exclusive", first=first) as running:
        up(running, 2)
        shortage.touch()
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("cannot be started: [Errno")
        before = running.worker()
        shortage.unlink()
        running.wait_for("ended (status 0)", times=2)
        assert running.worker() != before
        assert running.end() == 0


def test_a_shortage_at_the_start_ends_the_service(tmp_path: Path) -> None:
    (tmp_path / "shortage").touch()
    first = SHORTAGE.format(module="os", name="fork", error="EAGAIN")
    with service(tmp_path, workers=2, first=first) as running:
        assert running.process.wait(TIMEOUT) == 3
        assert running.output().count("cannot be started: [Errno 11]") == 1
        assert "Traceback" not in running.output()


def test_workers_that_keep_dying_end_the_service(tmp_path: Path) -> None:
    with service(tmp_path, workers=1, limits={"SERVE_MAX_DEATHS": 2, "SERVE_RESTART_DELAY_MAX": 1}) as running:
        up(running, 1)
        for _ in range(3):
            with running.connect() as sock:
                sock.sendall(b"die")
                assert sock.recv(1) == b""
        assert running.process.wait(TIMEOUT) == 1
        assert "workers die too often, giving up" in running.output()


@pytest.mark.parametrize("mode", ["reuseport", "exclusive"])
def test_renewing_loses_no_connection(tmp_path: Path, mode: str) -> None:
    """Clients that never pause see every answer whole while all workers are replaced three times."""
    with service(tmp_path, workers=2, mode=mode) as running:
        up(running, 2)
        seen: list[Counter[int]] = [Counter(), Counter()]
        wrong: list[BaseException] = []
        done = threading.Event()

        def client(mine: Counter[int]) -> None:
            try:
                while not done.is_set():
                    mine[running.worker()] += 1
            except BaseException as error:  # noqa: BLE001 - shown by the test
                wrong.append(error)

        threads = [threading.Thread(target=client, args=(mine,)) for mine in seen]
        for thread in threads:
            thread.start()
        try:
            for turn in range(1, 4):
                running.process.send_signal(signal.SIGHUP)
                running.wait_for(": ready", 2 + 2 * turn)
                running.wait_for("ended (status 0)", 2 * turn)
        finally:
            done.set()
            for thread in threads:
                thread.join(TIMEOUT)
        assert wrong == []
        assert len(seen[0] | seen[1]) >= 6
        assert running.end() == 0


def test_renewing_brings_new_code_and_a_broken_one_leaves_the_old(tmp_path: Path) -> None:
    (tmp_path / "greeter.py").write_text(APP.replace("GREETING", "one"))
    with service(tmp_path, "greeter:App", workers=1) as running:
        up(running, 1)
        assert running.ask("") == b"one"
        (tmp_path / "greeter.py").write_text(APP.replace("GREETING", "twenty-two"))
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("ended (status 0)")
        assert running.ask("") == b"twenty-two"
        (tmp_path / "greeter.py").write_text("this is no Python")
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("the new one did not start (status 3); the old one stays")
        assert running.ask("") == b"twenty-two"
        assert running.end() == 0


def test_a_failed_renewal_ends(tmp_path: Path) -> None:
    """The workers that have not been renewed stay, also when the code is whole again."""
    (tmp_path / "greeter.py").write_text(APP.replace("GREETING", "one"))
    with service(tmp_path, "greeter:App", workers=2) as running:
        up(running, 2)
        (tmp_path / "greeter.py").write_text("this is no Python")
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("the new one did not start (status 3); the old one stays")
        (tmp_path / "greeter.py").write_text(APP.replace("GREETING", "three"))
        first = running.output().split("worker 0: started (process ")[1].split(")")[0]
        os.kill(int(first), signal.SIGKILL)
        running.wait_for(": ready", 3)
        assert running.end() == 0
        assert running.output().count(": started (process") == 4


def test_open_connections_are_aborted_after_the_grace_period(tmp_path: Path) -> None:
    with service(tmp_path, workers=1, grace=0.3) as running:
        up(running, 1)
        with running.connect() as sock:
            sock.sendall(b"hold")
            assert sock.recv(4) == b"held"
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert sock.recv(1) == b""
            assert time.monotonic() - began >= 0.3
        assert running.process.wait(TIMEOUT) == 0
        assert "still busy after its grace" in running.output()


def test_a_connection_that_ends_within_the_grace_period_is_not_aborted(tmp_path: Path) -> None:
    with service(tmp_path, workers=1) as running:
        up(running, 1)
        with running.connect() as sock:
            sock.sendall(b"hold")
            assert sock.recv(4) == b"held"
            running.process.send_signal(signal.SIGTERM)
            running.wait_for("stopping on SIGTERM")
            sock.sendall(b"who")
            assert sock.recv(99).split()
        assert running.process.wait(TIMEOUT) == 0
        assert "still busy" not in running.output()


def test_a_second_signal_ends_the_grace(tmp_path: Path) -> None:
    with service(tmp_path, workers=1, grace=600) as running:
        up(running, 1)
        with running.connect() as sock:
            sock.sendall(b"hold")
            assert sock.recv(4) == b"held"
            running.process.send_signal(signal.SIGTERM)
            running.wait_for("stopping on SIGTERM")
            assert running.end(signal.SIGINT) == 0
            assert "stopping at once on SIGINT" in running.output()
            assert "aborting open connections" in running.output() and "killing process" not in running.output()


def test_a_second_signal_reaches_a_worker_that_has_not_seen_the_first(tmp_path: Path) -> None:
    """Two SIGTERMs that are pending together count as one (signal(7)), so the second order must not be a signal."""
    with service(tmp_path, workers=1, grace=600) as running:
        up(running, 1)
        with running.connect() as sock:
            sock.sendall(b"hold")
            assert sock.recv(4) == b"held"
            [worker] = re.findall(r"ready \(process (\d+)\)", running.output())
            os.kill(int(worker), signal.SIGSTOP)
            try:
                running.process.send_signal(signal.SIGTERM)
                running.wait_for("stopping on SIGTERM")
                running.process.send_signal(signal.SIGINT)
                running.wait_for("stopping at once on SIGINT")
            finally:
                os.kill(int(worker), signal.SIGCONT)
            assert running.process.wait(TIMEOUT) == 0
            assert "aborting open connections" in running.output() and "killing process" not in running.output()


def test_a_worker_that_dies_with_an_unread_message_does_not_affect_others(tmp_path: Path) -> None:
    """Its end of the channel is then reset, which the supervisor must not take for a fault of its own."""
    (tmp_path / "blocked.py").write_text(
        "import os\n"
        "class App:\n"
        "    async def start(self, worker):\n"
        "        if worker.number:\n"
        "            os.write(2, b'blocked\\n')\n"
        "            os.read(os.pipe()[0], 1)\n"
        "    async def stop(self):\n"
        "        pass\n"
        "app = App()\n"
    )
    limits = {"SERVE_KILL_DELAY": 1}
    with service(tmp_path, "blocked:app", workers=2, grace=600, limits=limits) as running:
        running.wait_for("worker 0: ready")
        running.wait_for("blocked\n")
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("stopping on SIGTERM")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(TIMEOUT) == 0
        assert "Traceback" not in running.output()
        assert "worker 0: ended (status 0)" in running.output()
        assert "worker 1: ended (signal SIGKILL)" in running.output()


def test_workers_exit_when_the_supervisor_has_died(tmp_path: Path) -> None:
    with service(tmp_path, workers=2) as running:
        up(running, 2)
        running.process.kill()
        running.process.wait(TIMEOUT)
        told = "the supervisor has exited; stopping"
        wait_until(lambda: running.output().count(told) == 2, told, seconds=TIMEOUT)
        wait_until(lambda: not accepts(running), "the port to be free", seconds=TIMEOUT)


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("nowhere:App", "No module named 'nowhere'"),
        ("greeter:Missing", "has no attribute 'Missing'"),
        ("greeter", "is not of the form module:name"),
        ("greeter:NUMBER", "not a protocol factory"),
        ("greeter:fails", "cannot start"),
    ],
)
def test_an_application_that_cannot_start_ends_the_service(tmp_path: Path, app: str, why: str) -> None:
    (tmp_path / "greeter.py").write_text("NUMBER = 5\nasync def fails(worker):\n    raise OSError('no database')\n")
    with service(tmp_path, app, workers=2) as running:
        assert running.process.wait(TIMEOUT) == 3
        assert why in running.output()
        assert "did not start (status 3)" in running.output()


def test_unix_socket_is_shared_and_its_file_removed(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with service(tmp_path, workers=2, listen=f"unix:{path}") as running:
        up(running, 2)
        assert len({running.worker() for _ in range(20)}) == 2
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("ended (status 0)", 2)
        assert path.exists()
        running.worker()
        assert running.end() == 0
    assert not path.exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_connections_inherit_the_options(tmp_path: Path, workers: int) -> None:
    with service(tmp_path, workers=workers, options={"keepalive_idle": 77, "nodelay": False}) as running:
        wait_until(lambda: accepts(running), "the port", seconds=TIMEOUT)
        assert running.ask("options") == b"77 False"
        assert running.end() == 0


def test_a_port_in_use_is_reported_before_any_fork(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-c", f"import corenet; corenet.serve(print, {taken.getsockname()[1]}, workers=2)"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))},
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1 port {taken.getsockname()[1]}" in done.stderr
