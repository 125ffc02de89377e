"""The TLS engines compared, in memory: CPU of a round trip and of a handshake, memory of a pair of connections.

``python benchmarks/loop/tls_engines.py [rounds]`` prints the table of docs/adr/0016. Both ends are of one kind. All
kinds take turns in one process, and the figures are medians. pyOpenSSL is measured if it is installed; it brings its
own OpenSSL. Memory is measured in a new process for each: what 500 more pairs add to resident memory, after 100.
"""

import contextlib
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from support.certs import Authority, contexts_for_localhost

from corenet.tls.engines import make_tls_engine, use_engine

WARM, PAIRS = 100, 500
EXCHANGES, HANDSHAKES = 2000, 40


def pump(client: Any, server: Any) -> None:
    """The handshake, until nobody has anything to say."""
    client.handshake()
    while True:
        outward, inward = client.drain(), server.drain()
        if not outward and not inward:
            return
        server.feed(outward)
        if outward and not server.established:
            server.handshake()
        client.feed(inward)
        if inward and not client.established:
            client.handshake()


class Ours:
    """An engine of corenet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.server_context, self.client_context = contexts_for_localhost()

    def pair(self, session: Any = None) -> tuple[Any, Any]:
        use_engine(self.name)
        client = make_tls_engine(self.client_context, False, "localhost")
        server = make_tls_engine(self.server_context, True)
        if session is not None:
            if self.name == "openssl":
                client.offer_session(session)
            else:
                client.ssl_object.session = session
        pump(client, server)
        client.read()
        return client, server

    def session(self, client: Any) -> Any:
        # An end without close_notify would make the session useless.
        client.shutdown()
        return client.take_session() if self.name == "openssl" else client.ssl_object.session

    def reused(self, client: Any) -> bool:
        return bool(client.ssl_object.session_reused)


class PyOpenSSL:
    """Connections of pyOpenSSL, with the methods of an engine."""

    name = "pyopenssl"

    def __init__(self) -> None:
        from OpenSSL import SSL

        folder = Path(tempfile.mkdtemp())
        authority = Authority(folder)
        leaf = authority.leaf("localhost")
        self.library: Any = SSL
        self.server_context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.server_context.use_certificate_file(str(leaf.certificate))
        self.server_context.use_privatekey_file(str(leaf.key))
        self.server_context.set_session_id(b"bench")
        self.client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self.client_context.load_verify_locations(str(authority.cafile))
        self.client_context.set_verify(SSL.VERIFY_PEER)
        for context in (self.server_context, self.client_context):
            context.set_mode(0x10)  # SSL_MODE_RELEASE_BUFFERS, as the standard library sets it

    def pair(self, session: Any = None) -> tuple[Any, Any]:
        client, server = Connection(self, False), Connection(self, True)
        if session is not None:
            client.made.set_session(session)
        pump(client, server)
        client.read()
        return client, server

    def session(self, client: Any) -> Any:
        client.made.shutdown()
        return client.made.get_session()

    def reused(self, client: Any) -> bool:
        # It does not say.
        return True


class Connection:
    """One of pyOpenSSL's connections on memory."""

    def __init__(self, kind: PyOpenSSL, server: bool) -> None:
        self.library = kind.library
        self.made = self.library.Connection(kind.server_context if server else kind.client_context)
        if server:
            self.made.set_accept_state()
        else:
            self.made.set_tlsext_host_name(b"localhost")
            self.made.set_verify(self.library.VERIFY_PEER)
            self.made.set_connect_state()
        self.established = False

    def handshake(self) -> None:
        try:
            self.made.do_handshake()
            self.established = True
        except self.library.WantReadError:
            pass

    def feed(self, data: bytes) -> None:
        if data:
            self.made.bio_write(data)

    def drain(self) -> bytes:
        try:
            found: bytes = self.made.bio_read(1 << 20)
        except self.library.WantReadError:
            return b""
        return found

    def read(self) -> bytes | None:
        found = b""
        try:
            while True:
                found += self.made.recv(65536)
        except self.library.WantReadError:
            return found or None

    def write(self, data: bytes) -> None:
        self.made.send(data)


def echo(pair: tuple[Any, Any], size: int) -> float:
    """Microseconds of CPU for one message there and back."""
    client, server = pair
    data = bytes(size)
    began = time.process_time_ns()
    for _ in range(EXCHANGES):
        client.write(data)
        server.feed(client.drain())
        server.write(server.read())
        client.feed(server.drain())
        client.read()
    return (time.process_time_ns() - began) / EXCHANGES / 1000


def handshake(kind: Any, resumed: bool) -> float:
    """Microseconds of CPU for one handshake, both ends together, with taking and offering the session."""
    session = None
    if resumed:
        session = kind.session(kind.pair()[0])
    began = time.process_time_ns()
    for _ in range(HANDSHAKES):
        client, _server = kind.pair(session)
        if resumed:
            assert kind.reused(client)
            session = kind.session(client)
    return (time.process_time_ns() - began) / HANDSHAKES / 1000


def memory(kind: Any) -> float:
    """KiB of a pair, in a new process."""
    told = subprocess.run([sys.executable, __file__, "--memory", kind.name], capture_output=True, text=True, check=True)
    return float(told.stdout)


def measure_memory(kind: Any) -> float:
    """The same in this process."""
    kept = [kind.pair() for _ in range(WARM)]
    before = resident()
    kept += [kind.pair() for _ in range(PAIRS)]
    return (resident() - before) / PAIRS / 1024


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def contenders() -> list[Any]:
    """All that this Python has."""
    kinds: list[Any] = [Ours("openssl"), Ours("stdlib")]
    with contextlib.suppress(ImportError):
        kinds.append(PyOpenSSL())
    return kinds


def main(rounds: int) -> None:
    """Measure and print."""
    kinds = contenders()
    rows: list[tuple[str, Callable[[Any], float]]] = [
        ("round trip 64 B, us", lambda kind: echo(kind.pair(), 64)),
        ("round trip 1 KiB, us", lambda kind: echo(kind.pair(), 1024)),
        ("round trip 16 KiB, us", lambda kind: echo(kind.pair(), 16_384)),
        ("handshake, full, us", lambda kind: handshake(kind, False)),
        ("handshake, resumed, us", lambda kind: handshake(kind, True)),
        ("memory of a pair, KiB", memory),
    ]
    print(ssl.OPENSSL_VERSION, *(kind.name for kind in kinds), sep=" | ")
    for title, measure in rows:
        found: dict[str, list[float]] = {kind.name: [] for kind in kinds}
        for _ in range(rounds):
            for kind in kinds:
                found[kind.name].append(measure(kind))
        print(title, *(f"{statistics.median(found[kind.name]):.1f}" for kind in kinds), sep=" | ", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print(measure_memory(next(kind for kind in contenders() if kind.name == sys.argv[2])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
