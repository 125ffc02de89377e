"""Resolvers that serve DNS over TLS and HTTPS in processes of their own, with warm caches and one certificate.

Ours resolves in the playground. Unbound and Knot Resolver forward to it and cache. Each has one thread, and the same
P-256 certificate, whose handshakes cost least. All limits for clients are raised above what the benchmarks need.
"""

import contextlib
import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from resolver_servers import free_port, running, tls_options, unbound_with
from support.certs import Authority, Leaf

MANY = 10_000
IDLE_SECONDS = 600
SECONDS = 120


class Encrypted(NamedTuple):
    """A resolver that is running: its process, its ports, and the CA of its certificate."""

    pid: int
    udp: int
    tls: int
    https: int
    cafile: Path
    quic: int = 0

    def context(self, alpn: str) -> ssl.SSLContext:
        """A client's context that verifies the certificate, as clients do."""
        context = ssl.create_default_context(cafile=str(self.cafile))
        context.set_alpn_protocols([alpn])
        return context


@contextlib.contextmanager
def certificate() -> Iterator[tuple[Path, Leaf]]:
    """The CA file and the certificate for localhost, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-encrypted-") as folder:
        authority = Authority(Path(folder))
        yield authority.cafile, authority.leaf("localhost", "127.0.0.1")


@contextlib.contextmanager
def encrypted_resolverd(cafile: Path, leaf: Leaf) -> Iterator[Encrypted]:
    """Our daemon in the playground."""
    udp, tls, https, quic = (free_port() for _ in range(4))
    with tempfile.TemporaryDirectory(prefix="bench-resolverd-") as folder:
        config = Path(folder) / "resolverd.toml"
        config.write_text(f"""
[server]
listen = ["127.0.0.1:{udp}"]
workers = 1
tcp-connections = 500
tcp-connections-per-client = {MANY}
tcp-connections-network-percent = 100
tcp-idle-timeout = {IDLE_SECONDS}
[tls]
certificate = "{leaf.certificate}"
key = "{leaf.key}"
[[listener]]
address = "127.0.0.1:{tls}"
protocol = "tls"
connections = {MANY}
[[listener]]
address = "127.0.0.1:{https}"
protocol = "https"
[[listener]]
address = "127.0.0.1:{quic}"
protocol = "quic"
[log]
level = "error"
""")
        command = [sys.executable, "-m", "resolver.daemon", "--playground", "--config", str(config)]
        with running(command, udp) as pid:
            yield Encrypted(pid, udp, tls, https, cafile, quic)


@contextlib.contextmanager
def encrypted_unbound(upstream: int, cafile: Path, leaf: Leaf) -> Iterator[Encrypted]:
    """An Unbound that forwards to `upstream` and caches. It has HTTPS over HTTP/2 only."""
    tls, https = free_port(), free_port()
    options = (
        'module-config: "iterator"',
        *tls_options(tls, https, leaf.certificate, leaf.key),
        "incoming-num-tcp: 500",
        f"tcp-idle-timeout: {IDLE_SECONDS * 1000}",
        "http-max-streams: 200",
    )
    forward = f'forward-zone:\n  name: "."\n  forward-addr: 127.0.0.1@{upstream}'
    with unbound_with(options, forward) as (pid, udp):
        yield Encrypted(pid, udp, tls, https, cafile)


@contextlib.contextmanager
def encrypted_knot(upstream: int, cafile: Path, leaf: Leaf) -> Iterator[Encrypted]:
    """A Knot Resolver that forwards to `upstream` and caches."""
    udp, tls = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="bench-kresd-") as folder:
        config = Path(folder) / "kresd.conf"
        config.write_text(f"""
log_level('crit')
net.listen('127.0.0.1', {udp}, {{ kind = 'dns' }})
net.listen('127.0.0.1', {tls}, {{ kind = 'tls' }})
net.tls('{leaf.certificate}', '{leaf.key}')
trust_anchors.remove('.')
cache.size = 20 * MB
policy.add(policy.all(policy.FORWARD('127.0.0.1@{upstream}')))
""")
        with running(["kresd", "-n", "-c", str(config), folder], udp) as pid:
            yield Encrypted(pid, udp, tls, 0, cafile)


def missing() -> str:
    """Which program is not installed, else ""."""
    for program, package in (("unbound", "unbound"), ("kresd", "knot-resolver")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package {package})"
    return ""


def connect(port: int) -> socket.socket:
    """A TCP connection to `port`, without Nagle's algorithm."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
