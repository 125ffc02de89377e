"""Floods against our daemon and against Unbound at the same rate, and what honest clients get meanwhile.

``python benchmarks/resolver/floods.py [--only NAME ...] [--rate N] [--seconds N]``; ``--list`` shows the floods. It
needs two cores, a C compiler and port 53 of addresses 127.54.0.x, so root or a network namespace of its own
(``unshare -rn``, ``ip link set lo up``). The resolver runs on one core; the honest clients, the name servers and the
attacker on the other one, the attacker with the lowest priority. Each row has a fresh resolver with a warm cache.

For each row and resolver a line shows, quiet and in the flood: the part of cached names that was answered, their median
and 99th percentile, the part of new names of a healthy zone that was answered within two seconds, the part of queries
over TCP that was answered, how much of its core the resolver used, and how long it waited for the core because other
programs had it (``wait``). Then follow the growth of its memory, datagrams that the kernel dropped at its sockets,
what waits in the kernel at the end for clients that do not read (``unsent``, MiB), packets that it sent to the
attacker's name servers for each packet of the attacker (``upstr``), what it reflected (``refl``: octets for each octet)
and the highest pulse, and with ``--full`` the highest rate of cached answers as a part of the quiet one. Below our line
are its counters of what was dropped, by reason, and how many queries have neither a reply nor such a counter; then the
goals that it missed, and the figures in which Unbound was better.

With other programs on the machine, delays differ by a factor of ten from run to run, and queries are lost: see
``wait``. Run it as root under ``nice -n -15`` or ``chrt -r 10`` then.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "support"), str(ROOT / "tests")]

from flood_kinds import KINDS, Kind, attack  # noqa: E402
from flood_load import Load, compiled, measure, warm  # noqa: E402
from flood_report import HEADINGS, SILENT, Outcome, drops, line, missed, worse  # noqa: E402
from flood_servers import LANES, SERVERS, Server  # noqa: E402
from flood_world import FloodWorld, flood_world, missing_requirement  # noqa: E402
from resolver_servers import has_unbound  # noqa: E402
from support.certs import Authority, Leaf  # noqa: E402

LEAD = 1.0
"""Seconds of the flood before the measurement."""


def pin(pid: int, cores: list[int]) -> None:
    """Let all threads of a process run on `cores` only."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def play(kind: Kind, server: Server, world: FloodWorld, load: Load, rate: int) -> Outcome:
    """Measure the quiet resolver, then in the flood."""
    warm(server, kind.known)
    quiet = measure(server, load, "quiet")
    server.forget_peak()
    before, resident, kernel_drops = server.settled(), server.resident(), server.kernel_drops()
    asked, began = world.asked.value, time.monotonic()
    with attack(kind, server.ports, rate) as counts:
        time.sleep(LEAD)
        flood = measure(server, load, "flood")
        peak, unsent = server.peak(), server.unsent()
    took = time.monotonic() - began
    sent, octets, replied, pulse = (counts[field] for field in ("sent", "octets", "reply_octets", "pulse"))
    asked_for = world.asked.value - asked
    after, lost = server.settled(), server.kernel_drops() - kernel_drops

    def change(*fronts: str) -> int:
        return int(sum(value - before.get(name, 0) for name, value in after.items() if name.startswith(fronts)))

    uncounted = None
    if after and kind.queries:
        queries = int(sent) + flood.asked + flood.full_asked + flood.cold_asked
        uncounted = queries - lost - change("clients.replies.udp.", *SILENT)

    return Outcome(
        kind=kind.name, server=server.name, rate=sent / took, quiet=quiet, flood=flood,
        growth=max(0, peak - resident), unsent=unsent,
        upstream=asked_for / max(sent, 1),
        reflected=replied / max(octets, 1), pulse=pulse / max(octets / took / 10, 1),
        kernel_drops=lost, drops=drops(before, after),
        uncounted=uncounted,
        memory_limit=int(sum(value for name, value in after.items() if name.startswith("usage.octets_limit."))),
    )


def rows(
    kinds: list[Kind], servers: list[str], load: Load, folder: Path, cores: tuple[list[int], list[int]], *,
    rate: int = 0, lanes: int = LANES,
) -> Iterator[dict[str, Outcome]]:
    """For each flood the outcome of each resolver; `cores` are those of the load and of the resolver."""
    os.sched_setaffinity(0, cores[0])
    leaf: Leaf = Authority(folder).leaf("localhost", "127.0.0.1")
    with flood_world(folder) as world:
        for kind in kinds:
            found = {}
            for name in servers if kind.peer else [name for name in servers if name == "ours"]:
                with SERVERS[name](world, kind, leaf, lanes) as server:
                    pin(server.pid, cores[1])
                    found[name] = play(kind, server, world, load, rate or kind.rate)
            yield found


def show(found: dict[str, Outcome]) -> None:
    """Print one flood."""
    for outcome in found.values():
        print(line(outcome))
    if "ours" in found:
        ours = found["ours"]
        words = " ".join(f"{name}={value:.0f}" for name, value in sorted(ours.drops.items()))
        uncounted = "not known" if ours.uncounted is None else ours.uncounted
        print(f"    dropped: {words or 'nothing'}; not counted: {uncounted}")
        for text in missed(ours):
            print(f"    missed: {text}")
        for text in worse(ours, found["unbound"]) if "unbound" in found else ():
            print(f"    Unbound is better: {text}")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="NAME", help="floods")
    options.add_argument("--rate", type=int, default=0, help="packets or connections a second; default: of each flood")
    options.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options.add_argument("--cached-rate", type=int, default=2000, help="honest queries for cached names a second")
    options.add_argument("--full", action="store_true", help="also measure the highest rate of cached answers")
    options.add_argument("--lanes", type=int, default=LANES, help="server.lanes of our daemon")
    options.add_argument("--ours", action="store_true", help="without Unbound")
    options.add_argument("--json", type=Path, help="a file that gets all figures, a line for each flood and resolver")
    options.add_argument("--list", action="store_true", help="show the floods and end")
    chosen = options.parse_args()
    if chosen.list:
        for kind in KINDS.values():
            print(f"{kind.name:<17}{kind.rate:>5}/s  {kind.about}")
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        options.error("needs two cores")
    if reason := missing_requirement():
        options.error(reason)
    if not chosen.ours and not has_unbound():
        options.error("Unbound is not installed (Debian package unbound); --ours measures without it")
    servers = ["ours"] if chosen.ours else ["ours", "unbound"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-floods-")))
        output = stack.enter_context(chosen.json.open("w")) if chosen.json else None
        load = Load(compiled(folder), chosen.seconds, chosen.cached_rate, chosen.full)
        print(HEADINGS, flush=True)
        kinds, halves = [KINDS[name] for name in chosen.only], (cores[:-1], cores[-1:])
        played = rows(kinds, servers, load, folder, halves, rate=chosen.rate, lanes=chosen.lanes)
        for found in played:
            show(found)
            if output is not None:
                output.writelines(json.dumps(outcome.as_json()) + "\n" for outcome in found.values())
                output.flush()


if __name__ == "__main__":
    main()
