"""Redis servers as test peers: one alone, or a cluster of three nodes with a replica for each.

Nothing is written to disk except the configuration of cluster nodes. Values are read and written by redis-cli, so that
no test depends on the client that is used in the package.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.ports import free_port
from support.servers import program, run_process, wait_until

__all__ = ["Redis", "cluster", "redis_server"]

TIMEOUT = 30


@dataclass
class Redis:
    """One running server."""

    port: int
    process: "subprocess.Popen[bytes]"
    password: str = ""

    @property
    def address(self) -> str:
        """For the setting `servers`."""
        return f"127.0.0.1:{self.port}"

    def cli(self, *words: str, given: bytes | None = None) -> str:
        """What redis-cli prints; `given` is the last argument of the command."""
        command = [program("redis-cli"), "-p", str(self.port), *(["-a", self.password] if self.password else [])]
        command += ["--no-auth-warning", *(["-x"] if given is not None else []), *words]
        done = subprocess.run(command, capture_output=True, input=given or b"", check=True, timeout=TIMEOUT)
        return done.stdout.decode(errors="replace").strip()

    def keys(self) -> list[str]:
        """All keys of entries, without those of the messages."""
        return [key for key in self.cli("keys", "*").split() if "{fleet}" not in key]


@contextmanager
def redis_server(
    directory: Path, *, port: int | None = None, password: str = "", options: Sequence[str] = ()
) -> Iterator[Redis]:
    """A server on loopback that keeps everything in memory."""
    port = port or free_port()
    directory.mkdir(parents=True, exist_ok=True)
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
               "--dir", str(directory), *(["--requirepass", password] if password else []), *options]
    log = directory / f"redis-{port}.log"
    with run_process(command, log) as process:
        redis = Redis(port, process, password)
        wait_until(lambda: "Ready to accept connections" in log.read_text(errors="replace"), "redis", process=process,
                   log=log)
        yield redis


@contextmanager
def cluster(directory: Path, ports: Sequence[int] = ()) -> Iterator[list[Redis]]:
    """Three masters and a replica of each; a replica takes over when its master has been gone for a second. `ports` are
    those of the first nodes."""
    with ExitStack() as stack:
        nodes = []
        for number in range(6):
            folder = directory / f"node-{number}"
            options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file",
                       str(folder / "nodes.conf"), "--cluster-replica-validity-factor", "0"]
            # The port of the cluster bus is higher by 10,000 unless it is given.
            options += ["--cluster-port", str(free_port())]
            port = ports[number] if number < len(ports) else None
            nodes.append(stack.enter_context(redis_server(folder, port=port, options=options)))
        addresses = [node.address for node in nodes]
        made = subprocess.run(
            [program("redis-cli"), "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"],
            capture_output=True, text=True, check=False, timeout=60,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        wait_until(lambda: all("cluster_state:ok" in node.cli("cluster", "info") for node in nodes), "the cluster")
        yield nodes
