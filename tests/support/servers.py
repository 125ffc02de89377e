"""Real name servers as test peers: starts NSD, Knot or BIND on exported zones, and sends plain queries.

Rule: each process that is started is ended and waited for, whatever the test does, and its output is part of the
failure message. Waiting means polling for the expected answer, never sleeping. A missing program skips the test with
the name of its Debian package.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from resolver.playground.export import Export, Process
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

__all__ = ["ask", "ask_or_dropped", "can_bind", "program", "run_named", "run_process", "serve_export", "wait_until"]

START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02
PACKAGES = {
    "nsd": "nsd",
    "knotc": "knot",
    "knotd": "knot",
    "named": "bind9",
    "unbound": "unbound",
    "kresd": "knot-resolver",
    "dig": "bind9-dnsutils",
    "kdig": "knot-dnsutils",
    "drill": "ldnsutils",
    "ldns-keygen": "ldnsutils",
    "ldns-signzone": "ldnsutils",
    "delv": "bind9-dnsutils",
    "curl": "curl",
    "dnsperf": "dnsperf",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "ip": "iproute2",
    "setpriv": "util-linux",
    "logrotate": "logrotate",
    "ss": "iproute2",
    "systemd-analyze": "systemd",
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
}
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def program(name: str) -> str:
    """The path of `name`; skips the test when it is not installed."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"Debian package {PACKAGES[name]} is not installed")
    return found


def can_bind(address: str, port: int) -> bool:
    """Whether this process may listen there now, over UDP and TCP."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    process: "subprocess.Popen[bytes] | None" = None,
    log: Path | None = None,
    seconds: float = START_SECONDS,
) -> None:
    """Poll `condition`; fails with `what` and the process's output when it ends or time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-4000:] if log is not None else ""
            raise AssertionError(f"{what} did not happen{' before the process ended' if ended else ''}\n{said}")
        time.sleep(POLL_SECONDS)


def ask(
    address: str, port: int, qname: str, qtype: int, *, tcp: bool = False, timeout: float = 30.0, **options: object
) -> MessageView | None:
    """One question, one reply, no retry; None when nothing came in time or the port is closed."""
    packet = make_query(4711, names.from_text(qname), qtype, **options)  # type: ignore[arg-type]
    return ask_packet(address, port, packet, tcp=tcp, timeout=timeout)


def ask_or_dropped(address: str, port: int, qname: str, qtype: int, sentinel: str) -> MessageView | None:
    """One query to a server that may drop it; None when it has answered two later queries instead.

    The later queries are for names below `sentinel` that it does not have in its cache, so each takes as many steps as
    a query that is resolved, and the second is sent when the first has its answer.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(30)
        channel.connect((address, port))
        channel.send(make_query(1, names.from_text(qname), qtype))
        for number in (2, 3):
            label = f"{number}-{qtype}-{qname.replace('.', '-').lower()}"
            channel.send(make_query(number, names.from_text(f"{label}.{sentinel}"), c.A))
            reply = MessageView.parse(channel.recv(65535))
            if reply.id == 1:
                return reply
            assert reply.id == number and reply.rcode == c.NOERROR, "the query that must be answered was not"
    return None


def ask_packet(
    address: str, port: int, packet: bytes, *, tcp: bool = False, timeout: float = 30.0
) -> MessageView | None:
    """Send `packet` as it is."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as channel:
        channel.settimeout(timeout)
        try:
            channel.connect((address, port))
            if not tcp:
                channel.send(packet)
                return MessageView.parse(channel.recv(65535))
            channel.sendall(len(packet).to_bytes(2, "big") + packet)
            size = int.from_bytes(_exactly(channel, 2), "big")
            return MessageView.parse(_exactly(channel, size))
        except (TimeoutError, ConnectionError):
            return None


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = channel.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("the peer closed the connection in the middle of a message")
        data += piece
    return data


@contextmanager
def run_process(
    command: Sequence[str], log: Path, *, cwd: Path | None = None, env: dict[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a group of its own, whose output goes to `log`; it is always ended."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program(command[0]) if command[0] in PACKAGES else command[0], *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def run_named(config: Path, log: Path, *, cwd: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """BIND in the foreground with the configuration `config`, when it has loaded its zones.

    It answers earlier, with SERVFAIL, and each view loads its zones by itself.
    """
    with run_process(["named", "-g", "-c", str(config)], log, cwd=cwd) as process:
        wait_until(lambda: b"all zones loaded" in log.read_bytes(), "BIND's zones", process=process, log=log)
        yield process


def stop(process: "subprocess.Popen[bytes]") -> int:
    """End a process, politely first; returns its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(STOP_SECONDS)
    return int(process.returncode)


@contextmanager
def interface_addresses(addresses: Sequence[str]) -> Iterator[None]:
    """Give `addresses` to the loopback interface for a while: BIND listens only on what an interface has.

    Skips the test where that is not permitted.
    """
    with ExitStack() as stack:
        for address in addresses:
            if ":" in address:
                continue  # ::1 is there by itself
            add = subprocess.run(
                [program("ip"), "address", "add", f"{address}/32", "dev", "lo"],
                capture_output=True, check=False, timeout=60,
            )
            if b"File exists" in add.stderr or b"already assigned" in add.stderr:
                continue
            if add.returncode:
                pytest.skip(f"loopback addresses for BIND cannot be set: {add.stderr.decode().strip()}")
            stack.callback(
                subprocess.run,
                [program("ip"), "address", "del", f"{address}/32", "dev", "lo"],
                capture_output=True,
                check=False,
            )
        yield


@contextmanager
def serve_export(written: Export) -> Iterator[Export]:
    """Run every process of an export until the block ends; inside it, every zone is answered authoritatively."""
    with ExitStack() as stack:
        if any(process.command[0] == "named" for process in written.processes):
            stack.enter_context(interface_addresses([a for process in written.processes for a in process.addresses]))
        running = [
            (
                process,
                stack.enter_context(run_process(process.command, process.directory / "log", cwd=process.directory)),
            )
            for process in written.processes
        ]
        for process, popen in running:
            wait_until(
                lambda process=process: _ready(process, written.port),
                f"answers from {process.command[0]}",
                process=popen,
                log=process.directory / "log",
            )
        yield written


def _ready(process: Process, port: int) -> bool:
    for address in process.addresses:
        for origin in process.zones or ["."]:
            reply = ask(address, port, origin, c.SOA, timeout=0.2)
            if reply is None or (process.zones and not reply.aa):
                return False
    return True
