"""Each system call of a query fails for a local reason: it is reported as such, and the next query succeeds.

A small preloaded library makes calls of the C library fail on demand; otherwise a test cannot make `connect` and
`sendto` of compiled code fail with ENOBUFS or ENOMEM.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.subject import daemon_environment

TIMEOUT = 60
SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>
int failing_call, failing_code;
#define CALL(number, name, type, formal, actual, when) \\
    type name formal { \\
        static type (*real) formal; \\
        if (!real) real = dlsym(RTLD_NEXT, #name); \\
        if (failing_call == number && (when)) { errno = failing_code; return -1; } \\
        return real actual; \\
    }
CALL(1, socket, int, (int domain, int kind, int protocol), (domain, kind, protocol), domain == AF_INET)
CALL(2, bind, int, (int fd, const struct sockaddr *at, socklen_t size), (fd, at, size), 1)
CALL(3, connect, int, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size), to->sa_family == AF_INET)
CALL(4, sendto, ssize_t, (int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t n),
     (fd, data, size, flags, to, n), 1)
"""
BODY = """
import asyncio, ctypes, errno, sys
from resolver.effects import Ask, Failure, Reply, Server
from resolver.net.clock_random import Entropy
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.udp_upstream import UdpUpstream
from resolver.wire import consts as c
from resolver.wire import name as names
from support.upstream_peers import Collector, StreamPeer, UdpPeer

CALLS = {"socket": 1, "bind": 2, "connect": 3, "sendto": 4}
call, code = (ctypes.c_int.in_dll(ctypes.CDLL(None), name) for name in ("failing_call", "failing_code"))
kind, name, number = sys.argv[1], sys.argv[2], getattr(errno, sys.argv[3])

async def body():
    loop = asyncio.get_running_loop()
    if kind == "tcp":
        peer, upstream = await StreamPeer.start(), StreamUpstream(loop, entropy=Entropy(), source_v4="127.0.0.1")
    else:
        peer = await UdpPeer.start()
        upstream = UdpUpstream(loop, entropy=Entropy(), source_v4="127.0.0.1", port_per_query=kind == "fresh")
    got = Collector()
    code.value, call.value = number, CALLS[name]
    upstream.start(Ask(Server("127.0.0.1", peer.port), names.from_text("x."), c.A, timeout=5.0), got)
    [failure] = await got.wait()
    call.value = 0
    upstream.start(Ask(Server("127.0.0.1", peer.port), names.from_text("x."), c.A, timeout=5.0), got)
    reply = (await got.wait(2))[1]
    print(type(failure).__name__, failure.kind.name, type(reply).__name__)
    upstream.close()

asyncio.run(body())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("failing")
    (folder / "failing.c").write_text(SOURCE)
    made = folder / "failing.so"
    command = [compiler, "-shared", "-fPIC", "-o", made, folder / "failing.c", "-ldl"]
    subprocess.run(command, check=True, timeout=TIMEOUT)
    return made


SHORT = ("ENOBUFS", "ENOMEM")
CASES = [
    *((kind, "socket", code) for kind in ("fresh", "pool", "tcp") for code in ("EMFILE", "ENFILE", *SHORT)),
    *((kind, "bind", code) for kind in ("fresh", "pool", "tcp") for code in SHORT),
    *((kind, "connect", code) for kind in ("fresh", "tcp") for code in SHORT),
    *((kind, "sendto", code) for kind in ("fresh", "pool") for code in (*SHORT, "EAGAIN")),
]


@pytest.mark.parametrize(("kind", "call", "code"), CASES)
def test_a_failing_local_call_is_not_attributed_to_the_server(library: Path, kind: str, call: str, code: str) -> None:
    environment = daemon_environment()
    tests = Path(__file__).resolve().parents[3]
    environment["PYTHONPATH"] += os.pathsep + str(tests)
    environment["LD_PRELOAD"] = str(library)
    done = subprocess.run([sys.executable, "-c", BODY, kind, call, code], capture_output=True, text=True,
                          timeout=TIMEOUT, check=False, env=environment)
    assert (done.stdout, done.returncode) == ("Failure LOCAL_RESOURCE Reply\n", 0), done.stderr
