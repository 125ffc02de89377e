"""uvicorn and aiohttp on our loop against the same on uvloop, loaded by wrk: CPU time of the server for each request.

All servers run on one core, and wrk loads one after the other from another core, in the A B B A slices of `ratio`. Each
side has several processes that are used in rotation, because the memory layout of a process changes its speed by a few
per cent.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import loop_servers as servers
import pytest
from ratio import Contender, cpu_of

CONNECTIONS = 50
ROUNDS = 21
PROCESSES = 4
SLICE_SECONDS = 0.3
# wrk checks every tenth of a second whether it must end.
PATIENCE_SECONDS = 10
NEEDS = {"uvicorn": ("uvicorn", "httptools"), "aiohttp": ("aiohttp",)}


def load(port: int, core: int) -> int:
    """Have wrk send requests for the duration of a slice; returns the number of responses."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{PATIENCE_SECONDS}s", f"http://127.0.0.1:{port}/"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    ) as process:
        time.sleep(SLICE_SECONDS)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    found = re.search(r"(\d+) requests in", said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk: {said.strip()}")
    return int(found[1])


@contextmanager
def app(loop_name: str, kind: str, core: int) -> Iterator[Contender]:
    """A contender: one operation is one request with its response, with wrk on `core`."""
    with ExitStack() as stack:
        ups = [stack.enter_context(servers.server(loop_name, kind)) for _ in range(PROCESSES)]
        turns = itertools.cycle([(cpu_of(pid), port) for pid, port in ups])

        def measure() -> float:
            cpu, port = next(turns)
            before = cpu()
            answered = load(port, core)
            return (cpu() - before) / answered

        def run(_count: int) -> None:
            measure()

        for _ in ups:
            # The first requests import and create things that later requests do not pay for.
            measure()
        yield Contender(loop_name, run, count=1, measure=measure)


@pytest.mark.parametrize("kind", ["uvicorn", "aiohttp"])
def test_apps_against_uvloop(pair, kind: str) -> None:
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed (Debian package wrk)")
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("only one core: wrk would use the server's")
    for module in NEEDS[kind]:
        pytest.importorskip(module)
    # The servers run on the last core.
    core = min(cores)
    with app("corenet", kind, core) as ours, app("uvloop", kind, core) as theirs:
        pair(f"app_{kind}/uvloop", ours, theirs, rounds=ROUNDS)
