"""Start-up cost and memory of a loop: CPU of the import and of the first loop, memory of idle connections.

Each figure comes from new interpreters. Modules that every program with a loop has loaded (asyncio, socket, ssl) are
loaded before the measurement. Bytecode is stored in a folder of the test, as it is beside an installed package.
"""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from ratio import Contender

#: Connections before memory is first measured, so that caches are full, and connections that are counted.
FIRST, COUNTED = 200, 3000
#: Loops made and closed between two measurements of memory; as many before the first one.
CYCLES = 400

START = """
import asyncio, concurrent.futures, importlib, socket, ssl, sys, time
began = time.process_time_ns()
module = importlib.import_module(sys.argv[1])
loaded = time.process_time_ns()
loop = module.new_event_loop()
loop.run_until_complete(asyncio.sleep(0))
ran = time.process_time_ns()
print(loaded - began, ran - loaded)
"""

MEMORY = """
import asyncio, importlib, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
loops, first, counted, cycles = importlib.import_module(sys.argv[1]), *map(int, sys.argv[2:])
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
def cycle(count):
    for _ in range(count):
        loop = loops.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    return resident()
cycle(cycles)
before = cycle(cycles)
print((cycle(cycles) - before) / cycles, flush=True)
seen = 0
class Idle(asyncio.Protocol):
    __slots__ = ()
    def connection_made(self, transport):
        global seen
        seen += 1
        if seen == first:
            print(resident(), flush=True)
        elif seen == first + counted:
            print(resident(), flush=True)
async def main():
    server = await asyncio.get_running_loop().create_server(Idle, "127.0.0.1", 0, backlog=first)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
loops.new_event_loop().run_until_complete(main())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an interpreter that finds stored bytecode, as that of an installed package."""
    variables = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode"))}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return variables


def starting(module: str, part: int, environment: dict[str, str]) -> Contender:
    """Imports of `module` in new interpreters; `part` 0 is the import, 1 the first loop."""
    spent = 0.0

    def run(count: int) -> None:
        nonlocal spent
        for _ in range(count):
            done = subprocess.run(
                [sys.executable, "-c", START, module], env=environment, capture_output=True, text=True, check=True
            )
            spent += int(done.stdout.split()[part]) / 1e9

    run(1)  # writes the bytecode
    return Contender(module, run, lambda: spent)


@pytest.mark.parametrize(("row", "part"), [("import", 0), ("first_loop", 1)])
def test_start_against_uvloop(pair, environment: dict[str, str], row: str, part: int) -> None:
    pair(f"{row}/uvloop", starting("corenet", part, environment), starting("uvloop", part, environment))


def memory_of(module: str, environment: dict[str, str]) -> tuple[float, float]:
    """Bytes that a closed loop leaves allocated, and bytes for each idle connection."""
    with ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", MEMORY, module, str(FIRST), str(COUNTED), str(CYCLES)],
                env=environment, stdout=subprocess.PIPE, text=True,
            )
        )
        stack.callback(server.kill)
        assert server.stdout is not None
        kept, port = float(server.stdout.readline()), int(server.stdout.readline())

        def connect(count: int) -> int:
            for _ in range(count):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            return int(server.stdout.readline())  # type: ignore[union-attr]

        before = connect(FIRST)
        return kept, (connect(COUNTED) - before) / COUNTED


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Raises the limit of descriptors to the maximum."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= FIRST + COUNTED + 100, f"{hard} descriptors are too few; raise `ulimit -n`"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_memory(bounded, environment: dict[str, str], descriptors: None) -> None:
    kept, connection = memory_of("corenet", environment)
    bounded("idle_connection", connection)
    bounded("closed_loop", kept)
