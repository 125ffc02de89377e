"""resolverd under a service manager: notifications, watchdog, socket activation, health, and dropping root.

The test is the manager: it makes the sockets and variables that systemd makes (sd_notify(3), sd_listen_fds(3)).
"""

import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c

pytestmark = pytest.mark.integration

TIMEOUT = 60
# Gives the sockets the numbers from 3 on, as systemd does, and becomes the daemon.
LAUNCH = """
import os, sys
given = [int(word) for word in sys.argv[1].split(",")]
for place, number in enumerate([os.dup(one) for one in given], 3):
    high = os.dup2(number, 100 + place)
for place in range(3, 3 + len(given)):
    os.dup2(100 + place, place)
os.environ.update(LISTEN_FDS=str(len(given)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Receives notifications."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(TIMEOUT)

    def wait_for(self, start: str) -> str:
        """The next notification that begins with `start`."""
        while True:
            text = self.socket.recv(4096).decode()
            if text.startswith(start):
                return text


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.socket.close()


def configure(path: Path, port: int, *, workers: int = 1, user: str = "") -> list[str]:
    (path / "resolverd.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = {workers}\nuser = "{user}"\n'
        f'[control]\nsocket = "{path / "control"}"\n'
    )
    return [*RESOLVERD, "--config", str(path / "resolverd.toml")]


@contextmanager
def managed(
    manager: Manager, path: Path, command: Sequence[str], *, watchdog: float = 0,
    inherited: Sequence[socket.socket] = (),
) -> Iterator["subprocess.Popen[bytes]"]:
    """The daemon, which has said that it is ready."""
    env = {**daemon_environment(), "NOTIFY_SOCKET": manager.path}
    if watchdog:
        env["WATCHDOG_USEC"] = str(round(watchdog * 1e6))
    numbers = [one.fileno() for one in inherited]
    if numbers:
        command = [sys.executable, "-c", LAUNCH, ",".join(map(str, numbers)), *command]
    with run_process([*command], path / "log", env=env, pass_fds=numbers) as process:
        manager.wait_for("READY=1\nSTATUS=")
        yield process


def health(path: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "resolver.cli.control", "--socket", str(path / "control"), "health"],
        capture_output=True, text=True, timeout=TIMEOUT, check=False, env=daemon_environment(),
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_ready_reload_and_stop_are_notified(tmp_path: Path, manager: Manager, workers: int) -> None:
    port = free_port()
    with managed(manager, tmp_path, configure(tmp_path, port, workers=workers)) as process:
        assert ask("127.0.0.1", port, "localhost.", c.A) is not None
        process.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1\nMONOTONIC_USEC=")
        assert str(port) in manager.wait_for("READY=1")
        (tmp_path / "resolverd.toml").write_text("[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        assert "the last reload was refused" in manager.wait_for("READY=1")
        process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_reloads_by_the_control_socket_are_notified(tmp_path: Path, manager: Manager, workers: int) -> None:
    """RELOADING=1 with the time, then READY=1 (sd_notify(3)), and nothing else."""
    def reload() -> int:
        command = [sys.executable, "-m", "resolver.cli.control", "--socket", str(tmp_path / "control"), "reload"]
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False,
                              env=daemon_environment()).returncode

    port = free_port()
    with managed(manager, tmp_path, configure(tmp_path, port, workers=workers)):
        for text, status in ((None, str(port)), ("[nonsense]\n", "the last reload was refused")):
            if text is not None:
                (tmp_path / "resolverd.toml").write_text(text)
            began = time.monotonic_ns() // 1000
            assert reload() == (0 if text is None else 1)
            first, second = manager.socket.recv(4096).decode(), manager.socket.recv(4096).decode()
            match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", first)
            assert match is not None and began <= int(match[1]) <= time.monotonic_ns() // 1000, first
            assert second.startswith("READY=1\nSTATUS=") and status in second


def test_a_stopped_worker_is_replaced_and_the_others_serve_on(tmp_path: Path, manager: Manager) -> None:
    port = free_port()
    with managed(manager, tmp_path, configure(tmp_path, port, workers=2), watchdog=0.8) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGSTOP)
        log = tmp_path / "log"
        wait_until(lambda: log.read_text().count(": ready") == 3, "a new worker", process=process, log=log)
        assert "no heartbeat" in log.read_text()
        manager.wait_for("WATCHDOG=1")
        assert str(children[1]) in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def test_a_single_worker_notifies_the_watchdog_itself(tmp_path: Path, manager: Manager) -> None:
    with managed(manager, tmp_path, configure(tmp_path, free_port()), watchdog=0.4):
        for _ in range(5):
            manager.wait_for("WATCHDOG=1")


@pytest.mark.parametrize("workers", [1, 2])
def test_inherited_sockets_are_served(tmp_path: Path, manager: Manager, workers: int) -> None:
    port = free_port()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
    ):
        for one in (udp, tcp):
            one.bind(("127.0.0.1", port))
        tcp.listen()
        command = configure(tmp_path, port, workers=workers)
        with managed(manager, tmp_path, command, inherited=(tcp, udp)) as process:
            for stream in (False, True):
                assert ask("127.0.0.1", port, "localhost.", c.A, tcp=stream) is not None
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
        assert udp.getsockname() == ("127.0.0.1", port)


def test_health_names_a_refused_reload(tmp_path: Path, manager: Manager) -> None:
    with managed(manager, tmp_path, configure(tmp_path, free_port(), workers=2)) as process:
        found = health(tmp_path)
        assert (found.returncode, found.stdout) == (0, "healthy\n")
        (tmp_path / "resolverd.toml").write_text("[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")
        found = health(tmp_path)
        assert found.returncode == 1 and "resolverd.toml" in found.stdout and "nonsense" in found.stdout


def test_root_becomes_the_user_or_the_error_says_why_not(tmp_path: Path) -> None:
    """Where Python is installed below a directory that only root may read, the start says so."""
    port, log = free_port(), tmp_path / "log"
    command = configure(tmp_path, port, user="nobody")
    wanted = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    with run_process(command, log, env=daemon_environment()) as process:
        wait_until(lambda: "serving 127" in log.read_text() or process.poll() is not None, "start or refusal", log=log)
        if process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert f"Uid:\t{wanted}\t{wanted}\t{wanted}\t{wanted}\n" in status
            assert os.stat(tmp_path / "control").st_uid == wanted
        else:
            assert wanted != os.geteuid() and "server.user: nobody cannot read" in log.read_text()
