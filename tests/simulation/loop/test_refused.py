"""A fork whose child's kernel refuses to register descriptors: all waits in the child fail with that error.

The error (ENOSPC, ENOMEM) comes from the simulated kernel, so this needs the debug build and its own process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import corenet

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(corenet.__file__).parents[1])}

PROGRAM = """
import asyncio, errno, json, os, signal, socket, sys, warnings
sys.path.insert(0, sys.argv[1])
from simulation.loop import kernel
KERNEL = kernel.load()
# Before corenet's own: a child begins with the real kernel.
os.register_at_fork(after_in_child=lambda: KERNEL.begin(1, {"no_room": 1024}, skip=json.loads(sys.argv[2])))
import corenet
from corenet.core import READ

SHORT = (errno.ENOSPC, errno.ENOMEM)
warnings.simplefilter("ignore")
loop = corenet.new_event_loop()
pairs = [socket.socketpair() for _ in range(5)]
for pair in pairs:
    for sock in pair:
        sock.setblocking(False)
reports, results = [], {}
loop.set_exception_handler(lambda _loop, context: reports.append(context))

class Protocol(asyncio.Protocol):
    def connection_lost(self, error):
        results["transport"] = error is not None and error.errno in SHORT

async def receive(side, sock):
    try:
        if side.startswith("waiter"):
            await loop.sock_recv(sock, 10)
        else:
            await loop.sock_sendall(sock, bytes(10_000_000))
    except OSError as error:
        results[side] = error.errno in SHORT

def fork():
    pid = os.fork()
    if pid:
        results["child"] = os.waitpid(pid, 0)[1]
        loop.stop()
        return
    KERNEL.end()
    signal.alarm(20)
    loop.call_later(0.01, loop.stop)

loop.add_reader(pairs[0][0], print)
watch = loop.watch(pairs[1][0], READ, print)
tasks = [loop.create_task(receive("waiter", pairs[2][0])), loop.create_task(receive("both", pairs[3][0])),
         loop.create_task(receive("waiter too", pairs[3][0]))]
loop.run_until_complete(loop.create_connection(Protocol, sock=pairs[4][0]))
server = loop.run_until_complete(loop.create_server(Protocol, "127.0.0.1", 0))
loop.call_later(0.01, fork)
parent = os.getpid()
try:
    loop.run_forever()
    results["run"] = "ended"
except OSError as error:
    results["run"] = errno.errorcode[error.errno]
errors = [report["exception"].errno in SHORT for report in reports]
results.update(reports=errors, watch=watch.active, reader=loop.remove_reader(pairs[0][0]))
print(json.dumps([os.getpid() == parent, results]), flush=True)
os._exit(0)
"""


def sides(skip: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What parent and child saw; refusals whose numbers are in `skip` do not happen."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(HERE.parents[1]), json.dumps(skip)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    return found[True], found[False]


def test_all_waits_fail_with_the_error() -> None:
    # The first registration is the eventfd of the loop itself.
    parent, child = sides([0])
    assert parent == {"child": 0, "run": "ended", "reports": [], "watch": True, "reader": True}
    # Waits and the connection get the error. Reported: the reader, the watch, the server, the reader of signals.
    assert child == {
        "waiter": True, "both": True, "waiter too": True, "transport": True, "run": "ended",
        "reports": [True] * 4, "watch": False, "reader": False,
    }  # fmt: skip


def test_without_its_eventfd_the_loop_does_not_run_in_the_child() -> None:
    parent, child = sides([])
    assert parent["run"] == "ended" and parent["child"] == 0
    assert child["run"] == "EBADF"
