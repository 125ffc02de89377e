"""The resolver under test as a black box: our daemon, or a system Unbound or Knot Resolver.

Rule: a black-box test must pass on Unbound before it is applied to ours. So all are started in the same way, with the
same root servers, and used over sockets only. Unbound and Knot Resolver query name servers on port 53 only.
`upstream_port_for` returns the port that the simulated or real name servers of a test must use.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, can_bind, run_process, wait_until

import resolver
from resolver.playground import World
from resolver.wire import consts as c

__all__ = [
    "RESOLVERD",
    "SUBJECT",
    "Subject",
    "counters_of",
    "daemon_environment",
    "resolverd_config",
    "serve_playground",
    "start_subject",
    "stub_daemon",
    "upstream_port_for",
]

SUBJECT = os.environ.get("SUBJECT", "resolverd")
RESOLVERD = (sys.executable, "-m", "resolver.daemon")
#: Where the packages under test lie: the checkout, or the folder of a debug or sanitizer build.
PACKAGES = Path(resolver.__file__).parents[1]
DNS_PORT = 53


@dataclass
class Subject:
    """A running resolver."""

    kind: str
    address: str
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def output(self) -> str:
        """Its output so far (stdout and stderr)."""
        return self.log.read_text(errors="replace")


def upstream_port_for(kind: str, world: World) -> int:
    """The port for the name servers of `world` that resolver `kind` can query; skips the test if it cannot be bound."""
    if kind == "resolverd":
        return free_port(next(iter(world.authorities)))
    if not all(can_bind(address, DNS_PORT) for address in list(world.authorities)[:3]):
        pytest.skip(f"{kind} asks port 53 only, and this process cannot have it on loopback")
    return DNS_PORT


@contextmanager
def start_subject(
    directory: Path,
    world: World,
    upstream_port: int,
    *,
    kind: str = SUBJECT,
    port: int | None = None,
    anchor: str | None = None,
    edit: Callable[[str], str] = str,
) -> Iterator[Subject]:
    """Run the resolver `kind` until the block ends, on `port` or a free port. The block begins when it answers.

    `anchor` is its trust anchor, a DS record as text; without it, it does not validate. `edit` gets the text of its
    configuration and returns the text to use.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    write = {"unbound": unbound_config, "kresd": kresd_config, "resolverd": resolverd_config}[kind]
    config = directory / {"unbound": "unbound.conf", "kresd": "kresd.conf", "resolverd": "resolverd.toml"}[kind]
    hints = directory / "root.hints"
    hints.write_text(world.hints_text())
    config.write_text(edit(write(world, port, upstream_port, hints, anchor)))
    command = {
        "unbound": ["unbound", "-d", "-p", "-c", str(config)],
        "kresd": ["kresd", "-n", "-c", str(config), str(directory)],
        "resolverd": [*RESOLVERD, "--config", str(config)],
    }[kind]
    log = directory / f"{kind}.log"
    with run_process(command, log, cwd=directory, env=daemon_environment()) as process:
        wait_until(
            lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None,
            f"an answer from {kind}",
            process=process,
            log=log,
        )
        yield Subject(kind, "127.0.0.1", port, process, log)


@contextmanager
def serve_playground(directory: Path, world: World, port: int) -> Iterator[None]:
    """Run the playground, signed now, as a process on `port` until the block ends.

    Only the addresses of `world` are used, to wait until the servers answer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "resolver.playground", "--port", str(port), "--no-web"]
    log = directory / "playground.log"
    last = list(world.authorities)[-1]
    with run_process(command, log, env=daemon_environment()) as process:
        wait_until(
            lambda: ask(last, port, "server.invalid.", c.A, timeout=0.2) is not None,
            "the playground",
            process=process,
            log=log,
        )
        yield


@contextmanager
def stub_daemon(
    directory: Path, port: int, zone: str, upstream: int, *, server: str = "", more: str = ""
) -> Iterator[Path]:
    """Run our daemon without validation until the block ends; the value is the path of its log.

    `zone` is a stub zone on the port `upstream` of 127.0.0.1. `server` and `more` are TOML: of its section [server],
    and other sections.
    """
    config = directory / "resolverd.toml"
    config.write_text(f"""[server]
listen = ["127.0.0.1:{port}"]
{server}
[iteration]
do-not-query-localhost = false
[dnssec]
enabled = false
[control]
socket = "{directory / "control"}"
{more}
[[stub]]
zone = "{zone}"
addresses = ["127.0.0.1:{upstream}"]
""")
    log = directory / "resolverd.log"
    with run_process([*RESOLVERD, "--config", str(config)], log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "id.server.", c.TXT, qclass=c.CH, tcp=True, timeout=0.5) is not None,
                   "an answer from resolverd", process=process, log=log)
        yield log


def counters_of(directory: Path) -> dict[str, float]:
    """All counters of the `stub_daemon` in `directory`, by name."""
    command = [sys.executable, "-m", "resolver.cli.control", "-s", str(directory / "control"), "statistics"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=daemon_environment(), timeout=60)
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def daemon_environment() -> dict[str, str]:
    """The environment of a child that has to find the packages under test."""
    return {**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONUNBUFFERED": "1"}


def resolverd_config(world: World, port: int, upstream_port: int, hints: Path, anchor: str | None = None) -> str:
    """Configuration of our daemon: the world's roots, loopback permitted, validation only from `anchor`.

    `minimal-any` is off, because Unbound and Knot Resolver resolve ANY too.
    """
    dnssec = "enabled = false" if anchor is None else f'trust-anchors = ["{anchor}"]'
    return f"""\
root-hints-file = "{hints}"
[server]
listen = ["127.0.0.1:{port}"]
minimal-any = false
[iteration]
upstream-port = {upstream_port}
do-not-query-localhost = false
[dnssec]
{dnssec}
"""


def unbound_config(world: World, port: int, upstream_port: int, hints: Path, anchor: str | None = None) -> str:
    """The same for Unbound."""
    dnssec = 'module-config: "iterator"'
    if anchor is not None:
        dnssec = f'module-config: "validator iterator"\n    trust-anchor: "{anchor}"\n    val-clean-additional: yes'
    if upstream_port != DNS_PORT:
        raise ValueError("Unbound asks port 53 only")
    return f"""\
server:
    interface: 127.0.0.1@{port}
    access-control: 127.0.0.0/8 allow
    directory: "{hints.parent}"
    root-hints: "{hints}"
    pidfile: ""
    chroot: ""
    username: ""
    use-syslog: no
    logfile: ""
    num-threads: 1
    do-ip6: yes
    do-daemonize: no
    do-not-query-localhost: no
    {dnssec}
    minimal-responses: yes
    unknown-server-time-limit: 100
    infra-cache-max-rtt: 1000
    verbosity: 1
    val-log-level: 2
remote-control:
    control-enable: no
"""


def kresd_config(world: World, port: int, upstream_port: int, hints: Path, anchor: str | None = None) -> str:
    """The same for Knot Resolver."""
    if upstream_port != DNS_PORT:
        raise ValueError("Knot Resolver asks port 53 only")
    dnssec = "trust_anchors.remove('.')" + ("" if anchor is None else f"\ntrust_anchors.add('{anchor}')")
    return f"""\
net.listen('127.0.0.1', {port}, {{ kind = 'dns' }})
option('ALLOW_LOCAL', true)
modules.unload('priming')
modules.unload('ta_update')
modules.unload('ta_signal_query')
modules.load('hints')
hints.root_file('{hints}')
cache.size = 64 * MB
{dnssec}
"""
