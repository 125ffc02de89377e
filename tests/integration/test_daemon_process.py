"""resolverd as a process: start, refusal to start, reload and stop.

Checks exit statuses, effects of signals and lines on standard error.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment, resolverd_config

from resolver.playground import World
from resolver.wire import consts as c

pytestmark = pytest.mark.integration

TIMEOUT = 60


def run_until_exit(*arguments: str, wrap: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """Run the daemon with these arguments until it exits, under the command `wrap` if there is one."""
    return subprocess.run(
        [*wrap, *RESOLVERD, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=daemon_environment(),
    )


@contextmanager
def running(
    log: Path, port: int, *arguments: str, environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """The daemon with `arguments`, answering on `port`."""
    with run_process([*RESOLVERD, *arguments], log, env=environment or daemon_environment()) as process:
        wait_until(lambda: answers(port), "an answer", process=process, log=log)
        yield process


def answers(port: int, qname: str = "localhost.", qtype: int = c.A) -> bool:
    return ask("127.0.0.1", port, qname, qtype, timeout=0.5) is not None


def write_config(path: Path, port: int, extra: str = "") -> str:
    """Write resolverd.toml and root.hints to the folder `path`; return the path of the former. `extra` is appended."""
    world = World()
    hints = path / "root.hints"
    hints.write_text(world.hints_text())
    (path / "resolverd.toml").write_text(resolverd_config(world, port, 5300, hints) + extra)
    return str(path / "resolverd.toml")


# --- it starts and works ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_playground_needs_no_configuration_and_sigterm_stops_it(tmp_path: Path, workers: str) -> None:
    port = free_port()
    arguments = ("--playground", "--listen", f"127.0.0.1:{port}", "--workers", workers)
    with running(tmp_path / "log", port, *arguments) as process:
        for tcp in (False, True):
            view = ask("127.0.0.1", port, "www.example.playground.", c.A, tcp=tcp)
            assert view is not None and view.rcode == c.NOERROR and view.answer[0].rdata(0) == bytes((127, 20, 80, 1))
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))  # the port is free again


@pytest.mark.parametrize("workers", [1, 2])
def test_lanes_serve_clients_during_a_reload_and_close_their_sockets(tmp_path: Path, workers: int) -> None:
    port = free_port()
    (tmp_path / "resolverd.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}"]\nlanes = 3\nworkers = {workers}\n'
    )
    log = tmp_path / "log"
    with running(log, port, "--playground", "--config", str(tmp_path / "resolverd.toml")) as process:
        for number in range(120):
            if number == 40:
                process.send_signal(signal.SIGHUP)
            # Each query has another source port, so the kernel spreads them over the SO_REUSEPORT sockets.
            view = ask("127.0.0.1", port, "www.example.playground.", c.A)
            assert view is not None and view.answer[0].rdata(0) == bytes((127, 20, 80, 1))
        wait_until(lambda: b"in force" in log.read_bytes(), "the reload", process=process, log=log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", port))


def zone_that_is_never_read(path: Path) -> tuple[str, dict[str, str], Path]:
    """The table of a zone, the environment of a daemon in which the thread that reads it never ends, and a file that
    gets an octet when that begins."""
    begun, modules = path / "begun", path / "modules"
    begun.touch()
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(
        "import threading\nfrom resolver.zones import load\n\n\ndef read_zone(*_):\n"
        f"    with open({str(begun)!r}, 'a') as file:\n        file.write('x')\n"
        "    threading.Event().wait()\n\n\nload.read_zone = read_zone\n"
    )
    (path / "zone").write_text("@ SOA ns admin 1 60 60 60 60\n")
    environment = daemon_environment()
    environment["PYTHONPATH"] = f"{modules}{os.pathsep}{environment['PYTHONPATH']}"
    return f'[[zone]]\nname = "slow.test"\nfile = "{path / "zone"}"\n', environment, begun


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_does_not_wait_for_a_zone_that_is_read_at_the_start(tmp_path: Path, workers: str) -> None:
    zone, environment, begun = zone_that_is_never_read(tmp_path)
    control = tmp_path / "control"
    config = write_config(tmp_path, free_port(), f'[control]\nsocket = "{control}"\n{zone}')
    command = [*RESOLVERD, "--config", config, "--workers", workers]
    with run_process(command, tmp_path / "log", env=environment) as process:
        wait_until(begun.read_text, "that the zone is read", process=process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    assert "before clients were served" in (tmp_path / "log").read_text()
    assert not control.exists() and "SIGKILL" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_does_not_wait_for_a_zone_that_is_read_after_a_reload(tmp_path: Path, workers: str) -> None:
    zone, environment, begun = zone_that_is_never_read(tmp_path)
    port, log = free_port(), tmp_path / "log"
    config = write_config(tmp_path, port)
    with running(log, port, "--config", config, "--workers", workers, environment=environment) as process:
        with open(config, "a") as opened:
            opened.write(zone)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(begun.read_text()) >= int(workers), "that the zone is read", log=log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    assert "SIGKILL" not in log.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reader_of_the_log_that_has_stopped_holds_nothing_up(tmp_path: Path, workers: str) -> None:
    port, control = free_port(), str(tmp_path / "control")
    config = write_config(tmp_path, port, f'[log]\nlevel = "debug"\n[control]\nsocket = "{control}"\n')
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*RESOLVERD, "--config", config, "--workers", workers], stderr=writing, env=daemon_environment()
    )
    os.close(writing)
    try:
        wait_until(lambda: answers(port), "an answer", process=process)
        request = b'{"command": "%s"}\n' % (b"x" * 1000)  # a line of the log
        for _ in range(10):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(TIMEOUT)
                client.connect(control)
                client.sendall(b'{"command": "log", "level": "debug"}\n' * 200 + request)
                client.shutdown(socket.SHUT_WR)
                with client.makefile("rb") as replies:
                    assert len(replies.readlines()) == 201
        assert answers(port)
        os.set_blocking(reading, False)
        assert len(os.read(reading, 1 << 20)) > 4096, "the pipe was full"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert b"log lines were lost" in os.read(reading, 1 << 20)
    finally:
        process.kill()
        process.wait()
        os.close(reading)


def test_no_socket_has_the_number_of_a_closed_standard_stream(tmp_path: Path) -> None:
    """The query log on standard output would go into it."""
    port = free_port()
    config = write_config(tmp_path, port, '[query-log]\nfile = "-"\n')
    script = 'exec "$@" <&- >&- 2>&-'
    process = subprocess.Popen(["sh", "-c", script, "sh", *RESOLVERD, "--config", config], env=daemon_environment())
    try:
        wait_until(lambda: answers(port), "an answer", process=process)
        assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)] == [os.devnull] * 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()


def test_sigint_stops_it_too(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path / "log", port, "--config", write_config(tmp_path, port)) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0


# --- it refuses to start ----------------------------------------------------------------------------------------------


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = run_until_exit("--listen", f"127.0.0.1:{port}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "127.0.0.1" in done.stderr and str(port) in done.stderr and "use" in done.stderr


def test_a_privileged_port_without_privileges_is_explained(tmp_path: Path) -> None:
    unprivileged = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
    if unprivileged != "1024":
        pytest.skip("every port is open to everybody on this machine")
    # Root without CAP_NET_BIND_SERVICE: it may not bind the port either, and can read this checkout.
    wrap = [program("setpriv"), "--bounding-set=-net_bind_service"] if os.geteuid() == 0 else []
    done = run_until_exit("--listen", "127.0.0.1:853", wrap=wrap)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "853" in done.stderr and ("privileg" in done.stderr or "permi" in done.stderr.lower())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nlisten = 5\n", "resolverd.toml:2: server.listen"),
        ("[serv]\n", "resolverd.toml:1: serv"),
        ("[server]\nworkers = 1000\n", "server.workers"),
        ("[cache\n", "not TOML"),
        ('[server]\nlisten = ["nowhere"]\n', "nowhere"),
        ('root-hints-file = "missing"\n', "missing"),
        ('[dnssec]\ntrust-anchors = [". DS nonsense"]\n', "trust"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "resolverd.toml").write_text(text)
    for more in ((), ("--check",)):
        done = run_until_exit("--config", str(tmp_path / "resolverd.toml"), *more)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr and "Traceback" not in done.stderr


def test_a_missing_configuration_and_unknown_options(tmp_path: Path) -> None:
    done = run_until_exit("--config", str(tmp_path / "missing.toml"))
    assert done.returncode == 2 and "missing.toml" in done.stderr and "Traceback" not in done.stderr
    assert run_until_exit("--nonsense").returncode == 2
    assert run_until_exit("--listen", "127.0.0.1:99999").returncode == 2


def test_check_and_print_config(tmp_path: Path) -> None:
    path = write_config(tmp_path, 5353)
    done = run_until_exit("--config", path, "--check")
    assert done.returncode == 0 and "is valid" in done.stdout
    printed = run_until_exit("--config", path, "--print-config")
    assert printed.returncode == 0 and "5353" in printed.stdout
    (tmp_path / "again.toml").write_text(printed.stdout)
    assert run_until_exit("--config", str(tmp_path / "again.toml"), "--check").returncode == 0


# --- it reloads -------------------------------------------------------------------------------------------------------

HOSTS = '[policy]\nhosts = [{{ name = "here.test.", addresses = ["{address}"] }}]\n'


def _address(port: int) -> bytes | None:
    view = ask("127.0.0.1", port, "here.test.", c.A, timeout=0.5)
    return view.answer[0].rdata(0) if view is not None and view.answer else None


def test_sighup_reloads_the_configuration_and_keeps_the_old_one_on_errors(tmp_path: Path) -> None:
    port = free_port()
    path = write_config(tmp_path, port, HOSTS.format(address="192.0.2.1"))
    log = tmp_path / "log"
    with running(log, port, "--config", path) as process:
        assert _address(port) == bytes((192, 0, 2, 1))
        write_config(tmp_path, port, HOSTS.format(address="192.0.2.2"))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: _address(port) == bytes((192, 0, 2, 2)), "the new address", process=process, log=log)
        write_config(tmp_path, port, "[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nonsense" in log.read_text(), "the error message", process=process, log=log)
        assert _address(port) == bytes((192, 0, 2, 2))
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
