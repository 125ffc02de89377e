"""Child processes: started by `subprocess.Popen`, watched by one pidfd each.

There is no SIGCHLD handler and no ``waitpid(-1)``, so children of other libraries are not touched, and a reused pid is
never confused. Where pidfds are refused (old kernels, system-call filters), a thread waits for the child.

The loop owns the pidfd. It is closed when the child has ended, also after its transport was closed, because closing
the transport kills the child and its exit is still reported. It is also closed with the loop, which does not end the
child. The child of a fork closes its own copy.
"""

import asyncio
import os
import subprocess
import threading
from asyncio import base_subprocess
from asyncio.log import logger
from typing import Any

from corenet.loop.base import BaseLoop
from corenet.loop.threads import call_in_loop

__all__ = ["SubprocessTransport", "watch_child"]


class SubprocessTransport(base_subprocess.BaseSubprocessTransport):
    """asyncio's process transport, with pipes of this loop."""

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
    """Report the end of the child `pid` to `transport`.

    Raises:
        RuntimeError: neither a pidfd nor a thread can be had; the child was killed.
    """
    try:
        descriptor = os.pidfd_open(pid)
        try:
            loop.add_reader(descriptor, on_exit, loop, transport, pid, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError:
        try:
            threading.Thread(
                target=wait_in_thread, args=(loop, transport, pid), name=f"corenet-waitpid-{pid}", daemon=True
            ).start()
        except BaseException:
            # Nothing would report its end.
            transport.close()
            report_exit(transport, pid, reap(pid))
            raise
        return
    loop._pidfds.add(descriptor)


def on_exit(loop: BaseLoop, transport: SubprocessTransport, pid: int, descriptor: int) -> None:
    """The pidfd is readable: the child has ended."""
    loop.remove_reader(descriptor)
    loop._pidfds.discard(descriptor)
    os.close(descriptor)
    report_exit(transport, pid, reap(pid))


def wait_in_thread(loop: asyncio.AbstractEventLoop, transport: SubprocessTransport, pid: int) -> None:
    """Wait for the child in a thread, because the kernel gave no pidfd."""
    if not call_in_loop(loop, report_exit, transport, pid, reap(pid)):
        logger.warning("Loop %r that handles pid %r is closed", loop, pid)


def reap(pid: int) -> int | None:
    """Reap the child and return its exit code, None when other code has already reaped it."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)


def report_exit(transport: SubprocessTransport, pid: int, code: int | None) -> None:
    """Report the exit code of the child to `transport`; 255 when other code has reaped it.

    `Popen` may have reaped it: `Popen.send_signal` polls the child first. Then the code is `Popen.returncode`.
    """
    if code is None:
        process = transport._proc
        code = None if process is None else process.returncode
    if code is None:
        logger.warning("child process pid %d exit status already read: will report returncode 255", pid)
        code = 255
    transport._process_exited(code)
