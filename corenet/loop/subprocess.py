"""Child processes: started by `subprocess.Popen`, watched by one pidfd each.

No SIGCHLD handler is needed and no ``waitpid(-1)``, so children of other libraries are left alone and a pid that was
reused is never mistaken. Where pidfds are refused (old kernels, system-call filters) a thread waits for the child.

The loop owns the pidfd: it is closed when the child has ended, also after its transport was closed, because that kills
the child and its exit is still reported; or when the loop is closed, which leaves the child alone. The child of a fork
closes a copy of its own.
"""

import asyncio
import os
import subprocess
import threading
from asyncio import base_subprocess
from asyncio.log import logger
from typing import Any

from corenet.loop.base import BaseLoop

__all__ = ["SubprocessTransport", "watch_child"]


class SubprocessTransport(base_subprocess.BaseSubprocessTransport):
    """asyncio's process transport on pipes of this loop."""

    def _start(
        self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any
    ) -> None:
        self._proc = subprocess.Popen(
            args,
            shell=shell,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=False,
            bufsize=bufsize,
            **kwargs,
        )


def watch_child(loop: BaseLoop, transport: SubprocessTransport, pid: int) -> None:
    """Tell `transport` when the child `pid` has ended."""
    try:
        descriptor = os.pidfd_open(pid)
        try:
            loop.add_reader(descriptor, on_exit, loop, transport, pid, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError:
        threading.Thread(
            target=wait_in_thread, args=(loop, transport, pid), name=f"corenet-waitpid-{pid}", daemon=True
        ).start()
        return
    loop._pidfds.add(descriptor)


def on_exit(loop: BaseLoop, transport: SubprocessTransport, pid: int, descriptor: int) -> None:
    """The pidfd is readable: the child has ended."""
    loop.remove_reader(descriptor)
    loop._pidfds.discard(descriptor)
    os.close(descriptor)
    tell_exit(transport, pid, reap(pid))


def wait_in_thread(loop: asyncio.AbstractEventLoop, transport: SubprocessTransport, pid: int) -> None:
    """Wait for the child where the kernel gives no pidfd."""
    code = reap(pid)
    if loop.is_closed():
        logger.warning("Loop %r that handles pid %r is closed", loop, pid)
    else:
        loop.call_soon_threadsafe(tell_exit, transport, pid, code)


def reap(pid: int) -> int | None:
    """Collect the child and return its exit code, None when somebody else has collected it."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)


def tell_exit(transport: SubprocessTransport, pid: int, code: int | None) -> None:
    """Tell `transport` the exit code of its child: 255 when somebody else has collected it.

    `Popen` itself is asked first: it collects a child that has ended when it is told to send a signal, in this thread.
    """
    if code is None:
        process = transport._proc
        code = None if process is None else process.returncode
    if code is None:
        logger.warning("child process pid %d exit status already read: will report returncode 255", pid)
        code = 255
    transport._process_exited(code)
