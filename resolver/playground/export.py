"""Exports the simulated Internet for real name servers: zone files and configuration for NSD, Knot and BIND.

The real servers use the addresses of the simulated ones, so a resolver takes the same path through both. One process
can replace several simulated servers, but not a parent and a child that are on different servers: it would answer from
the child, without a referral. Most server faults (no EDNS, delay) cannot be exported. A server that always refuses
becomes one without zones; a server that does not listen is not exported.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from resolver.playground.world import Server, World
from resolver.wire import name as names

__all__ = ["DAEMONS", "REFUSED_BY", "Export", "Process", "export", "group_servers"]

# Broken zones that a server does not load. They are omitted, so queries for them get REFUSED.
REFUSED_BY: dict[str, frozenset[str]] = {
    "nsd": frozenset(),
    "knot": frozenset(("nsec3-algorithm.dnssec.playground.",)),
    "bind": frozenset(("nsec3-algorithm.dnssec.playground.", "labels-fewer.dnssec.playground.")),
}


@dataclass(slots=True)
class Process:
    """One name server process: directory, addresses, zones and command line."""

    directory: Path
    addresses: list[str]
    zones: list[str]
    command: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Export:
    """The exported files. `processes` run in the foreground and can be started in any order."""

    directory: Path
    hints: Path
    port: int
    processes: tuple[Process, ...]


def export(world: World, directory: Path, daemon: str, *, port: int) -> Export:
    """Export `world` for `daemon` (nsd, knot or bind) to `directory`, which is created if missing.

    Raises:
        ValueError: the daemon is unknown.
        OSError: a file cannot be written.
    """
    if daemon not in DAEMONS:
        raise ValueError(f"unknown name server {daemon!r}: choose one of {', '.join(sorted(DAEMONS))}")
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    hints = directory / "root.hints"
    hints.write_text(world.hints_text(), encoding="ascii")
    processes = []
    for number, group in enumerate(group_servers(world)):
        home = directory / f"{daemon}{number}"
        home.mkdir(exist_ok=True)
        held = dict.fromkeys(origin for server in group for origin in _held(server))
        zones = [origin for origin in held if origin not in REFUSED_BY[daemon]]
        process = Process(home, [server.address for server in group], zones)
        for origin in zones:
            (home / _file_name(origin)).write_text(world.zones[origin].to_text(), encoding="ascii")
        DAEMONS[daemon](process, port)
        processes.append(process)
    return Export(directory, hints, port, tuple(processes))


def group_servers(world: World) -> list[list[Server]]:
    """The listening servers in few groups (first fit) that keep all referrals and refusals."""
    wires = {origin: zone.origin for origin, zone in world.zones.items()}
    groups: list[list[Server]] = []
    for server in world.servers.values():
        if not server.listening:
            continue
        for group in groups:
            if all(_may_share(server, other, wires) for other in group):
                group.append(server)
                break
        else:
            groups.append([server])
    return groups


# --- grouping ---------------------------------------------------------------------------------------------------------


def _held(server: Server) -> tuple[str, ...]:
    """The zones of the real server that replaces `server`; none when it never answers from them."""
    quirks = server.authority.quirks
    return () if quirks.upward or quirks.rcode is not None else server.zones


def _may_share(one: Server, other: Server, wires: dict[str, bytes]) -> bool:
    for here, there in ((one, other), (other, one)):
        mine, theirs = _held(here), _held(there)
        refused = {*here.refuses, *here.zones} - {*mine}
        if refused & {*theirs}:
            return False
        for origin in theirs:
            if origin not in mine and any(names.is_subdomain(wires[origin], wires[above]) for above in mine):
                return False
    return True


def _file_name(origin: str) -> str:
    return "root.zone" if origin == "." else f"{origin.rstrip('.')}.zone"


# --- the three daemons ------------------------------------------------------------------------------------------------


def _nsd(process: Process, port: int) -> None:
    home = process.directory
    lines = [
        "server:",
        "  server-count: 1",
        '  username: ""',
        '  chroot: ""',
        f'  zonesdir: "{home}"',
        '  database: ""',
        f'  pidfile: "{home}/nsd.pid"',
        f'  xfrdfile: "{home}/xfrd.state"',
        f'  zonelistfile: "{home}/zone.list"',
        f'  xfrdir: "{home}"',
        "  minimal-responses: no",
        "  rrl-ratelimit: 0",
        *(f"  ip-address: {address}@{port}" for address in process.addresses),
        "remote-control:",
        "  control-enable: no",
    ]
    for origin in process.zones:
        lines += ["zone:", f'  name: "{origin}"', f'  zonefile: "{_file_name(origin)}"']
    _write(home / "nsd.conf", lines)
    process.command = ["nsd", "-d", "-c", str(home / "nsd.conf")]


def _knot(process: Process, port: int) -> None:
    home = process.directory
    listen = ", ".join(f"{address}@{port}" for address in process.addresses)
    lines = [
        "server:",
        f'    rundir: "{home}"',
        f"    listen: [ {listen} ]",
        "    udp-workers: 1",
        "    tcp-workers: 1",
        "    background-workers: 1",
        "control:",
        f'    listen: "{home}/knot.sock"',
        "database:",
        f'    storage: "{home}/db"',
        "log:",
        "  - target: stderr",
        "    any: warning",
    ]
    if process.zones:
        lines.append("zone:")
    for origin in process.zones:
        lines += [
            f'  - domain: "{origin}"',
            f'    file: "{home / _file_name(origin)}"',
            "    zonefile-load: whole",
            "    zonefile-sync: -1",
            "    journal-content: none",
            "    semantic-checks: off",
        ]
    _write(home / "knot.conf", lines)
    process.command = ["knotd", "-c", str(home / "knot.conf")]


def _bind(process: Process, port: int) -> None:
    home = process.directory
    listen = " ".join(f"{address};" for address in process.addresses if ":" not in address) or "none;"
    listen6 = " ".join(f"{address};" for address in process.addresses if ":" in address) or "none;"
    lines = [
        "options {",
        f'  directory "{home}";',
        f'  pid-file "{home}/named.pid";',
        f'  session-keyfile "{home}/session.key";',
        f'  managed-keys-directory "{home}";',
        f"  listen-on port {port} {{ {listen} }};",
        f"  listen-on-v6 port {port} {{ {listen6} }};",
        "  recursion no;",
        "  notify no;",
        "  allow-query { any; };",
        "  dnssec-validation no;",
        "  empty-zones-enable no;",
        "  check-names primary ignore;",
        "  check-integrity no;",
        "  minimal-responses no;",
        "  zero-no-soa-ttl no;",
        "};",
        "controls { };",
    ]
    for origin in process.zones:
        lines.append(f'zone "{origin}" {{ type primary; file "{_file_name(origin)}"; }};')
    _write(home / "named.conf", lines)
    process.command = ["named", "-g", "-n", "1", "-U", "1", "-c", str(home / "named.conf")]


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


DAEMONS: dict[str, Callable[[Process, int], None]] = {"nsd": _nsd, "knot": _knot, "bind": _bind}
