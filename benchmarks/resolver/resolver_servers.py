"""A resolver in its own process, with a warm cache, and a client that queries the same names repeatedly.

Both contenders get the same client and the same names. The base is a system Unbound that forwards to our daemon, which
resolves in the playground. Only answers from the cache are measured.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ratio import Contender, cpu_of

from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.consts import A

DEPTH = 16
STREAMS = 8
NAMES = ("www.example.playground.", "example.playground.")
START_SECONDS = 20.0
POLL_SECONDS = 0.002
CONTROL_SECONDS = 30.0


def free_port() -> int:
    """A port that was free on UDP and TCP when this checked."""
    while True:
        with (
            socket.socket() as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        ):
            stream.bind(("127.0.0.1", 0))
            port = stream.getsockname()[1]
            with contextlib.suppress(OSError):
                datagram.bind(("127.0.0.1", port))
                return port


def statistics(control: Path) -> dict[str, Any]:
    """What ``resolverctl --json statistics`` shows, from the control socket of our daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONTROL_SECONDS)
        sock.connect(str(control))
        sock.sendall(json.dumps({"command": "statistics"}).encode() + b"\n")
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as replies:
            found: dict[str, Any] = json.loads(replies.readline())["result"]
    return found


def tls_options(tls: int, https: int, certificate: Path, key: Path) -> tuple[str, ...]:
    """Options with which Unbound serves TLS and HTTPS on these ports."""
    return (
        f"interface: 127.0.0.1@{tls}", f"interface: 127.0.0.1@{https}", f"tls-port: {tls}", f"https-port: {https}",
        f'tls-service-key: "{key}"', f'tls-service-pem: "{certificate}"',
    )


def ask(port: int, query: bytes, timeout: float = 1.0, address: str = "127.0.0.1") -> bytes | None:
    """Send one query; returns the reply, None after `timeout` seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect((address, port))
        try:
            sock.send(query)
            return sock.recv(4096)
        except OSError:
            return None


def wait_for_answer(
    process: subprocess.Popen, port: int, query: bytes, address: str = "127.0.0.1", seconds: float = START_SECONDS
) -> None:
    """Wait until the server gives an answer with records.

    Raises:
        RuntimeError: it has ended, or gave no such answer within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended with status {process.returncode}")
        reply = ask(port, query, address=address)
        if reply is not None and reply[3] & 15 == 0 and reply[7] > 0:
            return
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"{process.args[0]} does not answer")


@contextlib.contextmanager
def running(
    command: list[str], port: int, names_to_answer: Iterable[str] = NAMES, seconds: float = START_SECONDS
) -> Iterator[int]:
    """The pid of a server that answers on `port`; it starts and stops within `seconds` each."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for text in names_to_answer:
            wait_for_answer(process, port, make_query(1, names.from_text(text), A), seconds=seconds)
        yield process.pid
    finally:
        process.terminate()
        process.wait(seconds)


@contextlib.contextmanager
def resolverd(config: str = "") -> Iterator[tuple[int, int]]:
    """(pid, port) of our daemon in the playground, with the text `config` as its configuration."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-resolverd-") as folder:
        path = Path(folder) / "resolverd.toml"
        path.write_text(f'[server]\nlisten = ["127.0.0.1:{port}"]\n{config}')
        command = [sys.executable, "-m", "resolver.daemon", "--playground", "--config", str(path)]
        with running(command, port) as pid:
            yield pid, port


@contextlib.contextmanager
def collector(folder: Path) -> Iterator[Path]:
    """The Unix socket of fstrm_capture, which discards what it gets."""
    socket_file = folder / "tap"
    command = ["fstrm_capture", "-t", "protobuf:dnstap.Dnstap", "-u", str(socket_file), "-w", "/dev/null"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not socket_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("fstrm_capture does not listen")
            time.sleep(POLL_SECONDS)
        yield socket_file
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def observed() -> Iterator[tuple[int, int]]:
    """(pid, port) of our daemon with the query log and all messages of dnstap on."""
    with tempfile.TemporaryDirectory(prefix="bench-observed-") as folder, collector(Path(folder)) as socket_file:
        log = Path(folder) / "queries"
        with resolverd(f'[query-log]\nfile = "{log}"\n[dnstap]\nsocket = "{socket_file}"\n') as (pid, port):
            yield pid, port
            if not log.stat().st_size:
                raise RuntimeError("nothing was logged")


def has_collector() -> bool:
    """Whether the collector is installed."""
    return shutil.which("fstrm_capture") is not None


@contextlib.contextmanager
def unbound_with(
    options: Iterable[str], clauses: str = "", names_to_answer: Iterable[str] = NAMES
) -> Iterator[tuple[int, int]]:
    """(pid, port) of an Unbound of one thread, with `options` in its server clause and `clauses` after it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-unbound-") as folder:
        config = Path(folder) / "unbound.conf"
        lines = "\n".join(f"  {option}" for option in options)
        config.write_text(f"""server:
  directory: "{folder}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  verbosity: 0
  interface: 127.0.0.1@{port}
  port: {port}
  num-threads: 1
  do-not-query-localhost: no
  access-control: 127.0.0.0/8 allow
{lines}
remote-control:
  control-enable: no
{clauses}
""")
        with running(["unbound", "-d", "-c", str(config)], port, names_to_answer) as pid:
            yield pid, port


def unbound(upstream: int) -> contextlib.AbstractContextManager[tuple[int, int]]:
    """(pid, port) of an Unbound that forwards to `upstream` and caches."""
    forward = f'forward-zone:\n  name: "."\n  forward-addr: 127.0.0.1@{upstream}'
    # With few places left for connections, Unbound closes idle ones at once.
    return unbound_with(('module-config: "iterator"', "incoming-num-tcp: 100"), forward)


def has_unbound() -> bool:
    """Whether the base of the field comparison is installed."""
    return shutil.which("unbound") is not None


@contextlib.contextmanager
def hits_tcp(name: str, pid: int, port: int) -> Iterator[Contender]:
    """As `hits`, over TCP on `STREAMS` connections that are kept."""
    queries = [make_query(n, names.from_text(NAMES[n % len(NAMES)]), A) for n in range(DEPTH)]
    burst = b"".join(len(query).to_bytes(2, "big") + query for query in queries)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(STREAMS)]
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def run(count: int) -> None:
            for _ in range(max(1, count // (DEPTH * STREAMS))):
                for sock in socks:
                    sock.sendall(burst)
                for sock in socks:
                    take_answers(sock, DEPTH)

        yield Contender(name, run, cpu_of(pid), batch=DEPTH * STREAMS)


def take_answers(sock: socket.socket, count: int) -> None:
    """Receive `count` answers with records over TCP; the server sends nothing after them.

    Raises:
        ConnectionError: the server has closed the connection.
    """
    data = b""
    while count:
        received = sock.recv(1 << 16)
        if not received:
            raise ConnectionResetError("the server has closed its connection")
        data += received
        while len(data) > 2 and len(data) >= 2 + (size := int.from_bytes(data[:2], "big")):
            assert data[5] & 15 == 0 and data[9], "the answer is not from the cache"
            data = data[2 + size:]
            count -= 1


@contextlib.contextmanager
def hits(name: str, pid: int, port: int, texts: Sequence[str] = NAMES) -> Iterator[Contender]:
    """A contender: one operation is one cached answer over UDP to a name of `texts`, `DEPTH` in flight."""
    queries = [make_query(n, names.from_text(texts[n % len(texts)]), A) for n in range(DEPTH)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("127.0.0.1", port))

        def run(count: int) -> None:
            for _ in range(max(1, count // DEPTH)):
                for query in queries:
                    sock.send(query)
                for _ in queries:
                    sock.recv(4096)

        yield Contender(name, run, cpu_of(pid))
