"""CPU time and memory that `resolverd` takes for each answer: `python benchmarks/resolver/sizing.py`.

Prints the table of the section "Sizing" in `docs/operating.md`. One worker; clients and name servers run on the same
machine. Costs are medians of `ROUNDS` slices, in microseconds of CPU of the daemon's process; rates are what one core
gives at that cost. Absolute times differ between machines, so the table is for estimates on the machine that printed
it. Comparisons with other resolvers are in the benchmarks beside this script.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "support"), str(ROOT / "tests")]

from cold_servers import cold, cold_resolverd  # noqa: E402
from cold_world import BIG_ZONES, ColdWorld, make, missing_requirement, served  # noqa: E402
from encrypted_clients import DnsOverHttp2, DnsOverTls, connections, kept  # noqa: E402
from encrypted_servers import certificate, encrypted_resolverd  # noqa: E402
from ratio import Contender  # noqa: E402
from resolver_servers import hits, resolverd  # noqa: E402
from resolver_servers import statistics as counters  # noqa: E402

from resolver.wire.consts import NXDOMAIN  # noqa: E402

ROUNDS = 5
HITS = 20_000
HANDSHAKES = 100


def cost(contender: Contender, count: int) -> float:
    """Microseconds of CPU for one operation: the median of `ROUNDS` slices, after one that does not count."""
    count = max(1, count // contender.batch) * contender.batch
    found = []
    for _ in range(ROUNDS + 1):
        before = contender.cpu()
        contender.run(count)
        found.append((contender.cpu() - before) / count * 1e6)
    return statistics.median(found[1:])


def cached(scale: float) -> Iterator[tuple[str, float]]:
    """Costs of cached answers, by transport."""
    count = max(1, int(HITS * scale))
    for title, config in (("cached, UDP, lane", ""), ("cached, UDP, event loop", "lanes = 0\n")):
        with resolverd(config) as (pid, port), hits("resolverd", pid, port) as contender:
            yield title, cost(contender, count)
    with ExitStack() as stack:
        server = stack.enter_context(encrypted_resolverd(*stack.enter_context(certificate())))
        ways: tuple[tuple[str, Callable[[], AbstractContextManager[Contender]], int], ...] = (
            ("cached, TLS, kept connection", lambda: kept("ours", server, DnsOverTls), count),
            ("cached, HTTP/2, kept connection", lambda: kept("ours", server, DnsOverHttp2), count),
            ("TLS connection with one query, full handshake", lambda: connections("ours", server, resumed=False),
             max(1, int(HANDSHAKES * scale))),
            ("TLS connection with one query, resumed", lambda: connections("ours", server, resumed=True),
             max(1, int(HANDSHAKES * scale))),
        )
        for title, connected, size in ways:
            with connected() as contender:
                yield title, cost(contender, size)


def uncached(folder: Path, scale: float) -> Iterator[tuple[str, float, float]]:
    """Cost of each kind of cold answer, and the octets of the cache that it takes; unsigned, then validated."""
    count = max(8, int(400 * scale))
    wanted = count * (ROUNDS + 1)
    for signed in (False, True):
        world = make(folder / f"signed-{signed}", zones=wanted, names=2 * wanted // BIG_ZONES + 1, signed=signed)
        kinds = (("new name", ColdWorld.new_names, True, 0), ("new zone", ColdWorld.new_zones, False, 0),
                 ("missing name", ColdWorld.nonexistent_names, True, NXDOMAIN))
        with served(world):
            for title, texts, known, rcode in kinds:
                with (
                    cold_resolverd(world) as (pid, port, control),
                    cold("ours", pid, port, texts(world), count=count, rcode=rcode, validated=signed,
                         known=world.big if known else ()) as contender,
                ):
                    before = counters(control)["cache"]["bytes_used"]
                    found = cost(contender, count)
                    octets = (counters(control)["cache"]["bytes_used"] - before) / wanted
                yield f"{title}{', validated' if signed else ''}", found, octets


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="part of the operations (default 1)")
    scale = parser.parse_args(arguments).scale
    missing = missing_requirement()
    if missing:
        print(f"sizing: {missing}", file=sys.stderr)
        return 1
    print("| answer | CPU, us | a second on one core | octets of the cache |\n|---|---|---|---|")
    for title, found in cached(scale):
        print(f"| {title} | {found:.1f} | {1e6 / found:,.0f} | |", flush=True)
    with tempfile.TemporaryDirectory(prefix="sizing-") as folder:
        for title, found, octets in uncached(Path(folder), scale):
            print(f"| {title} | {found:.0f} | {1e6 / found:,.0f} | {octets:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
