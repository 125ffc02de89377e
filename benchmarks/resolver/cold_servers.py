"""Our daemon and Unbound on the same cold world, and a client that queries each for names that are not in its cache.

Both get the same names in the same order, each once. An operation is one query with its answer, and its cost is the CPU
time of the resolver's process. The client checks every answer, so that failing fast does not count as fast. One answer
in `FAILED_PART` may be wrong, because on a busy machine a name server may be slower than the resolver's time-out.
"""

import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from cold_world import ColdWorld
from ratio import Contender, cpu_of
from resolver_servers import START_SECONDS, ask, free_port, running, statistics, unbound_with

from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.consts import AD, NOERROR, RD, A

DEPTH = 32
TIMEOUT = 5.0
FAILED_PART = 50


@contextlib.contextmanager
def cold_resolverd(
    world: ColdWorld, run_by: tuple[str, ...] = (), seconds: float = START_SECONDS
) -> Iterator[tuple[int, int, Path]]:
    """(pid, port, control socket) of our daemon with an empty cache. `run_by` is a program that runs it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-cold-") as folder:
        control = Path(folder) / "control"
        config = Path(folder) / "resolverd.toml"
        dnssec = f'trust-anchors-file = "{world.folder}/root.ds"' if world.anchors else "enabled = false"
        config.write_text(f"""
root-hints-file = "{world.hints}"
[server]
listen = ["127.0.0.1:{port}"]
workers = 1
[iteration]
do-ip6 = false
do-not-query-localhost = false
[policy]
special-use-domains = false
[dnssec]
{dnssec}
[control]
socket = "{control}"
[log]
level = "error"
""")
        command = [*run_by, sys.executable, "-m", "resolver.daemon", "--config", str(config)]
        with running(command, port, first(world), seconds) as pid:
            yield pid, port, control


def cold_unbound(world: ColdWorld) -> contextlib.AbstractContextManager[tuple[int, int]]:
    """(pid, port) of an Unbound with an empty cache of the same size as ours."""
    options = [
        "do-ip6: no",
        "outgoing-range: 4096",
        "num-queries-per-thread: 2048",
        "msg-cache-size: 64m",
        "rrset-cache-size: 128m",
        "key-cache-size: 64m",
        "infra-cache-numhosts: 20000",
        "trust-anchor-signaling: no",
        "root-key-sentinel: no",
        f'root-hints: "{world.hints}"',
        f'module-config: "{"validator iterator" if world.anchors else "iterator"}"',
    ]
    if world.anchors:
        options.append(f'trust-anchor-file: "{world.folder}/root.ds"')
    return unbound_with(options, names_to_answer=first(world))


def first(world: ColdWorld) -> tuple[str, ...]:
    """Names to query until they are answered: the servers of all top-level domains; they are not measured."""
    return tuple(f"ns1.{origin}" for origin in dict.fromkeys(z.split(".", 1)[1] for z in (*world.zones, *world.big)))


@contextlib.contextmanager
def cold(
    name: str, pid: int, port: int, texts: Iterable[str], *, count: int, rcode: int = NOERROR, validated: bool = False,
    known: Iterable[str] = (),
) -> Iterator[Contender]:
    """A contender: one operation is the answer to a name of `texts`, `DEPTH` in flight.

    The name servers of `known` zones are queried first. Answers must have `rcode` and, when `validated`, AD.
    """
    for origin in known:
        assert ask(port, make_query(1, names.from_text(f"ns1.{origin}"), A), timeout=TIMEOUT) is not None
    flags = RD | (AD if validated else 0)  # RFC 6840 section 5.7: without DO and its larger answers
    supply = iter(texts)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(("127.0.0.1", port))

        def run(wanted: int) -> None:
            queries = [make_query(n, names.from_text(text), A, flags=flags)
                       for n, text in enumerate(islice(supply, wanted))]
            assert len(queries) == wanted, "the world has too few names for this benchmark"
            wrong = 0
            for query in queries[:DEPTH]:
                sock.send(query)
            for upcoming in (*queries[DEPTH:], *[None] * min(DEPTH, wanted)):
                reply = sock.recv(4096)
                wrong += reply[3] & 15 != rcode or (validated and not reply[3] & AD)
                if upcoming is not None:
                    sock.send(upcoming)
            assert wrong <= wanted // FAILED_PART, f"{name}: {wrong} of {wanted} answers are wrong"

        yield Contender(name, run, cpu_of(pid), count=count)


def counters(control: Path) -> tuple[int, int]:
    """Upstream queries and signature checks of our daemon so far."""
    found = statistics(control)
    return found["resolution"]["upstream_queries"], found["signatures"]["checks"]


def start_cpu(world: ColdWorld) -> float:
    """CPU seconds of our daemon from the start of its process to its first answers from the world."""
    with cold_resolverd(world) as (pid, _port, _control):
        return cpu_of(pid)()
