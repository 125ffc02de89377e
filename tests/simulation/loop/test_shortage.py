"""Datagrams while the kernel returns ENOBUFS: they are queued and sent in order, and the loop sleeps meanwhile.

No event reports the end of such a shortage: the socket buffer has space, so epoll would report the socket as writable
again and again. The error comes from the simulated kernel, so this needs the debug build and its own process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import corenet

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(corenet.__file__).parents[1])}
DATAGRAMS = 200
SHORTAGE_MS = 50

PROGRAM = """
import asyncio, json, socket, sys
sys.path.insert(0, sys.argv[1])
manner, count, seconds = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) / 1000
from simulation.loop import kernel
KERNEL = kernel.load()
import corenet

KERNEL.begin(1, {})
loop = corenet.new_event_loop()
ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
theirs.setblocking(False)
received, events = [], []

class Protocol(asyncio.DatagramProtocol):
    def error_received(self, error):
        events.append("error")

    def pause_writing(self):
        events.append("pause")

    def resume_writing(self):
        events.append("resume")

    def connection_lost(self, error):
        events.append(f"lost {error}")

def read():
    while True:
        try:
            received.append(int.from_bytes(theirs.recv(100), "big"))
        except BlockingIOError:
            return

async def main():
    transport, _ = await loop.create_datagram_endpoint(Protocol, sock=ours)
    transport.set_write_buffer_limits(high=500)
    await asyncio.sleep(0)
    KERNEL.change({"shortage": 1024})
    before = KERNEL.calls
    transport.send_many([(number.to_bytes(4, "big"), None) for number in range(count)])
    if manner != "stays":
        loop.call_later(seconds / 2, getattr(transport, manner))
    await asyncio.sleep(seconds)
    calls = KERNEL.calls - before
    KERNEL.change({})
    for _ in range(10):
        await asyncio.sleep(seconds)
        read()
    transport.close()
    await asyncio.sleep(seconds)
    return calls

calls = loop.run_until_complete(main())
loop.close()
KERNEL.end()
print(json.dumps({"calls": calls, "received": received, "events": events}), flush=True)
"""


def played(manner: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(HERE.parents[1]), manner, str(DATAGRAMS), str(SHORTAGE_MS)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("manner", ["stays", "close", "abort"])
def test_datagrams_wait_for_the_end_of_a_shortage(manner: str) -> None:
    found = played(manner)
    received, events = found["received"], found["events"]
    # A few calls for each millisecond.
    assert found["calls"] < 20 * SHORTAGE_MS, "the loop is busy-waiting"
    # ENOMEM, the other error of this kernel, drops the datagram that was to be sent.
    errors = events.count("error")
    assert received == sorted(set(received))
    if manner == "abort":
        assert received == []
    else:
        assert len(received) == DATAGRAMS - errors > DATAGRAMS // 4
        assert received[-1] == DATAGRAMS - 1
        assert [event for event in events if event != "error"] == ["pause", "resume", "lost None"]
    assert events[-1] == "lost None"
    assert events.count("lost None") == 1
