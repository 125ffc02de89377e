"""A small Internet on loopback addresses, served by NSD: a root, some top-level domains and many zones below them.

Unbound asks port 53 only, so the three servers (for the root, for the top-level domains, for the rest) take that port
on addresses of their own; each level is a process of its own, or one would answer for the level below it and nothing
would be cold. Zones are made by the playground's code, signed with ECDSA P-256 and NSEC when asked, one key a zone.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resolver.playground.signing import Plan, sign_world
from resolver.playground.zones import Zone

ROOT, TOP, LEAF = "127.53.9.1", "127.53.9.2", "127.53.9.3"
TOPS = ("aa.", "bb.", "cc.", "dd.")
BIG_ZONES = 40
START_SECONDS = 30.0
SOA = "@ 3600 SOA ns1 admin 1 7200 1800 604800 3600\n"


@dataclass(frozen=True)
class ColdWorld:
    """Names to ask: `zones` are asked once each, `big` hold `names` names each and all those that are missing."""

    folder: Path
    zones: tuple[str, ...]
    big: tuple[str, ...]
    names: int
    anchors: tuple[str, ...]

    @property
    def hints(self) -> Path:
        """The root hints file."""
        return self.folder / "root.hints"

    def new_names(self) -> Iterator[str]:
        """Names that exist, zone by zone in turn."""
        for number in range(self.names):
            for origin in self.big:
                yield f"n{number}.{origin}"

    def missing_names(self) -> Iterator[str]:
        """As many names that do not exist."""
        for number in range(self.names):
            for origin in self.big:
                yield f"q{number}.{origin}"

    def new_zones(self) -> Iterator[str]:
        """One name in each zone."""
        for origin in self.zones:
            yield f"www.{origin}"


def can_serve() -> str:
    """Why this machine cannot serve such a world; empty when it can."""
    if shutil.which("nsd", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        return "NSD is not installed (Debian package nsd)"
    for address in (ROOT, TOP, LEAF):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, 53))
                except OSError as error:
                    return f"port 53 of {address} cannot be used ({error.strerror})"
    return ""


def _delegation(origin: str, address: str) -> str:
    return f"{origin} 3600 NS ns1.{origin}\nns1.{origin} 3600 A {address}\n"


def _leaf(names: int) -> str:
    lines = [SOA, f"@ 3600 NS ns1\nns1 3600 A {LEAF}\nwww 3600 A 192.0.2.80\n"]
    lines += [f"n{number} 3600 A 192.0.2.{number % 250 + 1}\n" for number in range(names)]
    return "".join(lines)


def make(folder: Path, *, zones: int, names: int, signed: bool) -> ColdWorld:
    """Write the zones and servers' configurations: `zones` small zones, and `BIG_ZONES` with `names` names each."""
    small = tuple(f"z{number}.{TOPS[number % len(TOPS)]}" for number in range(zones))
    big = tuple(f"big{number}.{TOPS[number % len(TOPS)]}" for number in range(BIG_ZONES if names else 0))
    root = "@ 86400 SOA a.root. admin. 1 7200 1800 604800 3600\n@ 86400 NS a.root.\n" + f"a.root. 86400 A {ROOT}\n"
    texts = {".": root + "".join(_delegation(top, TOP) for top in TOPS)}
    for top in TOPS:
        below = [origin for origin in (*small, *big) if origin.endswith(f".{top}")]
        own = f"{SOA}@ 3600 NS ns1\nns1 3600 A {TOP}\n"
        texts[top] = own + "".join(_delegation(origin, LEAF) for origin in below)
    texts.update((origin, _leaf(0)) for origin in small)
    texts.update((origin, _leaf(names)) for origin in big)
    made = {origin: Zone.from_text(origin, text) for origin, text in texts.items()}
    anchors = sign_world(made, dict.fromkeys(made, Plan()), int(time.time())) if signed else ()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "root.hints").write_text(f". 3600000 NS a.root.\na.root. 3600000 A {ROOT}\n")
    (folder / "root.ds").write_text("".join(f"{anchor}\n" for anchor in anchors))
    for address, held in ((ROOT, (".",)), (TOP, TOPS), (LEAF, small + big)):
        home = folder / address
        home.mkdir()
        lines = [
            "server:", "  server-count: 1", '  username: ""', '  chroot: ""', f'  zonesdir: "{home}"', '  database: ""',
            f'  pidfile: "{home}/pid"', f'  xfrdfile: "{home}/xfrd"', f'  zonelistfile: "{home}/list"',
            f'  xfrdir: "{home}"', "  rrl-ratelimit: 0", "  minimal-responses: yes", f"  ip-address: {address}@53",
            "remote-control:", "  control-enable: no",
        ]
        for number, origin in enumerate(held):
            (home / f"{number}.zone").write_text(made[origin].to_text(), encoding="ascii")
            lines += ["zone:", f'  name: "{origin}"', f'  zonefile: "{number}.zone"']
        (home / "nsd.conf").write_text("\n".join(lines) + "\n")
    return ColdWorld(folder, small, big, names, anchors)


@contextlib.contextmanager
def served(world: ColdWorld) -> Iterator[None]:
    """The world on its addresses, as long as the context lasts.

    Raises:
        RuntimeError: a server ended or does not answer.
    """
    from resolver_servers import wait_for_answer

    from resolver.wire import name as names
    from resolver.wire.build import make_query
    from resolver.wire.consts import SOA as SOA_TYPE

    command = shutil.which("nsd", path="/usr/sbin:/usr/bin:/sbin:/bin") or "nsd"
    with contextlib.ExitStack() as stack:
        for address, apex in ((ROOT, "."), (TOP, TOPS[0]), (LEAF, (world.zones or world.big)[0])):
            process = subprocess.Popen([command, "-d", "-c", str(world.folder / address / "nsd.conf")],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            wait_for_answer(process, 53, make_query(1, names.from_text(apex), SOA_TYPE), address=address)
        yield
