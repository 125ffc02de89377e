"""Uses each attribute of live objects of the loop with nonsense arguments, in processes that may crash.

For each name of its objects, private ones included, ``python live_calls.py`` makes the loop, its transports, servers
and handles in a child process, calls or sets that name in all odd ways and then lets the loop run. A child may raise,
end or block (it is killed after `TIMEOUT` seconds). It must not crash; a crash is printed with the name.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from support.certs import Authority
from support.odd_calls import ARGUMENTS

import corenet
from corenet.transports import streams

#: Seconds for which one name may block. What it ends is no finding.
TIMEOUT = 0.5
#: Turns of the loop after the calls.
TURNS = 5
#: Of every object in Python, and none of ours.
SKIPPED = set(dir(object)) | {"__dict__", "__weakref__"}
#: What keeps the other ends of what is made alive.
KEPT: list[Any] = []


async def objects(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> dict[str, Any]:
    """One of each kind, connected and at work."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, corenet.Loop)
    loop.set_exception_handler(lambda *_: None)
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    secure = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=server_side)
    stream, _ = await loop.create_connection(asyncio.Protocol, *address)
    stream.write(b"x" * 100)
    encrypted, _ = await loop.create_connection(
        asyncio.Protocol, *secure.sockets[0].getsockname(), ssl=client_side, server_hostname="localhost"
    )
    datagram, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    source, sink = os.pipe()
    reading, _ = await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(source, "rb", 0))
    writing, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(sink, "wb", 0))
    _, framed = await loop.create_connection(lambda: corenet.FramedProtocol(corenet.LengthFramer(4)), *address)
    reader, writer = await streams.open_connection(*address)
    lines = corenet.DelimiterFramer(b"\n")
    lines.feed(b"begun")
    watched, peer = socket.socketpair()
    KEPT.extend((secure, watched, peer, framed.transport))
    return {
        "loop": loop,
        "server": server,
        "listener": server._listeners[0],
        "roster": server._roster,
        "stream": stream,
        "tls": encrypted,
        "datagram": datagram,
        "read pipe": reading,
        "write pipe": writing,
        "framed": framed,
        "reader": reader,
        "writer": writer,
        "framer": lines,
        "handle": loop.call_soon(print),
        "timer": loop.call_later(1000, print),
        "watch": loop.watch(watched, 1, print),
    }


def use(target: Any, name: str) -> None:
    """Call and set what `target` has under `name`; any exception is an answer."""
    for arguments in ARGUMENTS:
        with contextlib.suppress(BaseException):
            result = getattr(target, name)(*arguments)
            if hasattr(result, "send") and hasattr(result, "close"):
                with contextlib.suppress(BaseException):
                    result.send(None)
                result.close()
    for value in (None, 5, object(), b"x"):
        with contextlib.suppress(BaseException):
            setattr(target, name, value)
    with contextlib.suppress(BaseException):
        delattr(target, name)


def in_child(contexts: tuple[ssl.SSLContext, ssl.SSLContext], kind: str, name: str) -> None:
    """Make everything, use one name of one object, continue, close and collect."""
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    loop = corenet.new_event_loop()
    made = loop.run_until_complete(objects(*contexts))
    use(made[kind], name)
    for end in ("pass", "close"):
        for target in made.values() if end == "close" else ():
            if target is not loop:
                with contextlib.suppress(BaseException):
                    target.close()
        for _ in range(TURNS):
            with contextlib.suppress(BaseException):
                loop.run_until_complete(asyncio.sleep(0))
    with contextlib.suppress(BaseException):
        loop.close()
    made.clear()
    KEPT.clear()
    del loop, target
    gc.collect()


def fault(contexts: tuple[ssl.SSLContext, ssl.SSLContext], kind: str, name: str) -> str:
    """What a child died of, nothing when it ended well or was ended because it blocked."""
    child = os.fork()
    if child == 0:
        # Nothing may come back to the code above, which is the parent's.
        code = 1
        try:
            in_child(contexts, kind, name)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return "" if code in (0, -signal.SIGALRM) else f"{kind}.{name}: exit status {code}"


def main() -> None:
    """See the head of the file."""
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _unraisable: None
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        leaf = authority.leaf("localhost")
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(leaf.certificate, leaf.key)
        client_side = ssl.create_default_context(cafile=str(authority.cafile))
    loop = corenet.new_event_loop()
    made = loop.run_until_complete(objects(server_side, client_side))
    names = [(kind, name) for kind, target in made.items() for name in dir(target) if name not in SKIPPED]
    made.clear()
    KEPT.clear()
    loop.close()
    gc.collect()
    found = [fault((server_side, client_side), kind, name) for kind, name in names]
    print("\n".join([*filter(None, found), f"{len(names)} names"]))
    sys.exit(any(found))


if __name__ == "__main__":
    main()
