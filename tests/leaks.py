"""Runs a workload of the loop under valgrind and fails for every lost block that has our code on its stack.

CPython itself leaves blocks at exit. They are counted and shown, and count as leaks only when one of our extension
modules is on the stack of the allocation. PYTHONMALLOC=malloc lets valgrind see every object. Usage: ``leaks.py``
starts valgrind on itself, ``leaks.py work`` is the workload.
"""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 8
OURS = re.compile(r"corenet|__pyx_")


async def echo(context: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> None:
    """Connections that end normally, are aborted, or are cancelled."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100_000))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context[0] if context else None)
    host, port = server.sockets[0].getsockname()
    keywords: dict[str, Any] = {"ssl": context[1], "server_hostname": "localhost"} if context else {}
    for size in (1, 5000, 200_000):
        reader, writer = await asyncio.open_connection(host, port, **keywords)
        writer.writelines([bytes(size), bytearray(10)])
        with contextlib.suppress(ConnectionError):
            # The server closes with data unread, which resets the connection.
            await reader.read()
        writer.close()
        reader, writer = await asyncio.open_connection(host, port, **keywords)
        writer.transport.abort()
        task = asyncio.ensure_future(asyncio.open_connection(host, port, **keywords))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    server.close()
    for _ in range(100):
        await asyncio.sleep(0)


async def others() -> None:
    """Datagrams, socket calls, pipes, timers, threads, a child."""
    loop = asyncio.get_running_loop()
    first, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    second, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    for size in (0, 10, 30_000):
        second.sendto(bytes(size), first.get_extra_info("sockname"))
    await asyncio.sleep(0)
    first.close()
    second.abort()
    left, right = socket.socketpair()
    left.setblocking(False)
    task = asyncio.ensure_future(loop.sock_recv(left, 100))
    await asyncio.sleep(0)
    right.send(b"x")
    await task
    left.close()
    right.close()
    read, write = os.pipe()
    reading, _ = await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(read, "rb", 0))
    writing, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(write, "wb", 0))
    writing.write(bytes(200_000))
    await asyncio.sleep(0)
    writing.abort()
    reading.close()
    timers = [loop.call_later(1000, print, number) for number in range(200)]
    for timer in timers[::2]:
        timer.cancel()
    await loop.run_in_executor(None, loop.call_soon_threadsafe, len, "x")
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()


def work() -> None:
    """The workload."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.certs import contexts_for_localhost

    import corenet

    contexts = contexts_for_localhost()
    for _ in range(ROUNDS):
        corenet.run(echo(None))
        corenet.run(echo(contexts))
        corenet.run(others())
        loop = corenet.new_event_loop()
        loop.call_soon(print)
        loop.call_later(5, print)
        loop.close()


def main() -> int:
    """Run the workload under valgrind and evaluate the report."""
    command = [
        "valgrind", "--leak-check=full", "--show-leak-kinds=definite", "--num-callers=30", "--error-limit=no",
        "--undef-value-errors=no", sys.executable, __file__, "work",
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONMALLOC": "malloc"}, capture_output=True, text=True, check=False, timeout=1500
    )
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:])
        return 1
    # Blocks of the report are separated by lines that contain only the process number.
    blocks = re.split(r"^==\d+==\s*$", done.stderr, flags=re.MULTILINE)
    lost = [block for block in blocks if "definitely lost in loss record" in block]
    wrong = [block for block in blocks if re.search(r"Invalid (read|write|free)", block)]
    ours = [block for block in lost if OURS.search(block)] + wrong
    for block in ours:
        print(block)
    print(f"valgrind: {len(lost)} losses in all, {len(ours) - len(wrong)} with our code, {len(wrong)} invalid accesses")
    if "LEAK SUMMARY" not in done.stderr and "no leaks are possible" not in done.stderr:
        print("valgrind gave no summary", done.stderr[-2000:])
        return 1
    return 1 if ours else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
    else:
        sys.exit(main())
