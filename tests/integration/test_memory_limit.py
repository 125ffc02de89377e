"""A daemon at its memory limit: it logs that, continues to serve, and recovers.

RLIMIT_AS and RLIMIT_DATA make any allocation fail (systemd's MemoryMax does not), so each cold query fails somewhere.
What must hold: cached answers continue, the log has no traceback, there is no busy loop, new queries are answered
sequentially after the burst, and with more memory all is as before.
"""

import resource
import signal
import socket
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query

pytestmark = pytest.mark.integration

TIMEOUT = 60
BURST = 50
NEW = 200
LEAST_BURSTS, MOST_BURSTS = 10, 200  # a busy machine works on few at once, and they fit into what was freed before
CACHED = "www.example.playground."
# Its server takes 0.3 s, so questions gather however slowly the daemon is given work.
SLOW = "slow.playground."
# What /proc says of the memory that each limit is about.
USED = {resource.RLIMIT_AS: "VmSize:", resource.RLIMIT_DATA: "VmData:"}


def used(pid: int, limit: int) -> int:
    """Bytes that count against `limit` now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(USED[limit]):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {USED[limit]} in the status of process {pid}")


def drain(sock: socket.socket) -> int:
    """How many replies come until none comes for a moment."""
    count = 0
    try:
        while sock.recv(4096):
            count += 1
    except TimeoutError:
        pass
    return count


@pytest.mark.parametrize("limit", [resource.RLIMIT_AS, resource.RLIMIT_DATA], ids=["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_daemon_survives_lack_of_memory(tmp_path: Path, limit: int) -> None:
    port, log = free_port(), tmp_path / "log"

    def answered(name: str, *, tcp: bool = False) -> bool:
        view = ask("127.0.0.1", port, name, c.A, tcp=tcp, timeout=1.0)
        return view is not None and view.rcode in (c.NOERROR, c.NXDOMAIN)

    words = ("--playground", "--listen", f"127.0.0.1:{port}")
    with run_process([*RESOLVERD, *words], log, env=daemon_environment()) as process:
        wait_until(lambda: answered(CACHED), "an answer", process=process, log=log)
        before = resource.prlimit(process.pid, limit)
        resource.prlimit(process.pid, limit, (used(process.pid, limit), before[1]))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", port))
            sock.settimeout(0.1)
            for burst in range(MOST_BURSTS):
                for number in range(burst * BURST, (burst + 1) * BURST):
                    zone = SLOW if number % 2 else "example.playground."
                    name = names.from_text(f"n{number}.{'x' * 50}.{zone}")
                    sock.send(make_query(number, name, c.A, do=True))
                drain(sock)
                assert process.poll() is None, log.read_text()
                if burst >= LEAST_BURSTS and "out of memory" in log.read_text():
                    break
        wait_until(lambda: answered(CACHED), "an answer of the cache", process=process, log=log)
        wait_until(lambda: answered("first.example.playground."), "a new answer at the limit", process=process, log=log)
        new = sum(answered(f"new{number}.example.playground.") for number in range(NEW))
        assert new >= NEW * 3 / 4, f"at its limit it found {new} of {NEW} new answers"
        resource.prlimit(process.pid, limit, before)
        for tcp in (False, True):
            wait_until(lambda tcp=tcp: answered(f"fresh{int(tcp)}.example.playground.", tcp=tcp), "a new answer",
                       process=process, log=log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    output = log.read_text()
    assert "out of memory" in output
    assert "Traceback" not in output and "traceback" not in output, output
