"""The two resolvers of the floods: our daemon and Unbound, with the same root, the same trust anchors and one thread.

Both may have as many TCP connections and waiting queries. All other limits are the defaults, except in rows about
forged sources, where both limit the rates of clients: Unbound the queries of an address (`ip-ratelimit`), ours also the
replies to a network (`rate-limit`).
"""

import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flood_kinds import Kind, Ports
from flood_world import FloodWorld
from resolver_servers import free_port, running, statistics, tls_options, unbound_with
from support.certs import Leaf

from resolver import limits

__all__ = ["LANES", "SERVERS", "Server"]

CONNECTIONS = 1000
LANES = limits.LANES.default
QUERIES_LIMIT = 200
ANSWERS_LIMIT = 20
SETTLE = 12.0
FIRST = ("www.good.", "www.live.")


@dataclass(frozen=True)
class Server:
    """A resolver that is running."""

    name: str
    pid: int
    ports: Ports
    statistics: Callable[[], dict[str, float]]
    """All counters by name; {} where there are none."""

    def settled(self) -> dict[str, float]:
        """The counters when no query of a client waits any more, and at the latest after `SETTLE` seconds."""
        deadline = time.monotonic() + SETTLE
        while True:
            found = self.statistics()
            if time.monotonic() > deadline or found.get("slow_path.pending", 0) == 0:
                return found
            time.sleep(0.1)

    def delayed(self) -> float:
        """Seconds in which its threads could have run, but others had the core (proc(5), schedstat)."""
        tasks = Path(f"/proc/{self.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks.iterdir()) / 1e9

    def resident(self) -> int:
        """Octets of memory that the process has now."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most that it had since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak begin at what it has now (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped because the sockets of the server were full."""
        drops = 0
        for line in Path(f"/proc/{self.pid}/net/udp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].split(":")[1], 16) in (self.ports.udp, self.ports.quic):
                drops += int(fields[-1])
        return drops

    def unsent(self) -> int:
        """Octets in the kernel that were written to connections of clients, and that these did not take yet."""
        octets = 0
        for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            _, local, _, _, queues, *_ = line.split()
            if int(local.split(":")[1], 16) in (self.ports.udp, self.ports.tls, self.ports.https):
                octets += int(queues.split(":")[0], 16)
        return octets

    def _status(self, field: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
        assert found is not None
        return int(found[1]) * 1024


def flat(found: dict[str, Any], front: str = "") -> dict[str, float]:
    """Counters in groups, by their full names."""
    values: dict[str, float] = {}
    for key, value in found.items():
        values |= flat(value, f"{front}{key}.") if isinstance(value, dict) else {front + key: value}
    return values


def statistics_of(control: Path) -> dict[str, float]:
    """The counters of our daemon, by their dotted names."""
    return flat(statistics(control))


@contextlib.contextmanager
def resolverd(world: FloodWorld, kind: Kind, leaf: Leaf, lanes: int = LANES) -> Iterator[Server]:
    """Our daemon, with so many lanes."""
    ports = Ports(*(free_port() for _ in range(4)))
    listeners = f"""
[tls]
certificate = "{leaf.certificate}"
key = "{leaf.key}"
[[listener]]
address = "127.0.0.1:{ports.tls}"
protocol = "tls"
[[listener]]
address = "127.0.0.1:{ports.https}"
protocol = "https"
[[listener]]
address = "127.0.0.1:{ports.quic}"
protocol = "quic"
"""
    limits = f"""
[rate-limit]
queries-per-second = {QUERIES_LIMIT}
queries-action = "drop"
responses-per-second = {ANSWERS_LIMIT}
"""
    with tempfile.TemporaryDirectory(prefix="bench-flood-") as folder:
        control = Path(folder) / "control"
        config = Path(folder) / "resolverd.toml"
        config.write_text(f"""
root-hints-file = "{world.hints}"
[server]
listen = ["127.0.0.1:{ports.udp}"]
workers = 1
lanes = {lanes}
tcp-connections = {CONNECTIONS}
[iteration]
do-ip6 = false
do-not-query-localhost = false
[policy]
special-use-domains = false
[dnssec]
trust-anchors = {json.dumps(world.anchors)}
[control]
socket = "{control}"
[log]
level = "error"
{limits if kind.limited else ""}
{listeners if kind.encrypted else ""}
""")
        command = [sys.executable, "-m", "resolver.daemon", "--config", str(config)]
        with running(command, ports.udp, FIRST) as pid:
            yield Server("ours", pid, ports, lambda: statistics_of(control))


@contextlib.contextmanager
def unbound(world: FloodWorld, kind: Kind, leaf: Leaf, lanes: int = LANES) -> Iterator[Server]:
    """Unbound, with caches of the same size. It has no lanes."""
    tls, https = free_port(), free_port()
    options = [
        "do-ip6: no",
        "outgoing-range: 4096",
        "num-queries-per-thread: 5000",
        f"incoming-num-tcp: {CONNECTIONS}",
        "msg-cache-size: 64m",
        "rrset-cache-size: 128m",
        "key-cache-size: 64m",
        "infra-cache-numhosts: 20000",
        "trust-anchor-signaling: no",
        "root-key-sentinel: no",
        f'root-hints: "{world.hints}"',
        'module-config: "validator iterator"',
        *(f'trust-anchor: "{anchor}"' for anchor in world.anchors),
    ]
    if kind.limited:
        options.append(f"ip-ratelimit: {QUERIES_LIMIT}")
    if kind.encrypted:
        options += tls_options(tls, https, leaf.certificate, leaf.key)
    with unbound_with(tuple(options), names_to_answer=FIRST) as (pid, udp):
        yield Server("unbound", pid, Ports(udp, tls, https, 0), dict)


SERVERS = {"ours": resolverd, "unbound": unbound}
