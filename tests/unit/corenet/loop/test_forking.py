"""Forks and subinterpreters: a child disturbs its parent in no way, and starts a loop of its own as if it were new."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import loop_factory

import corenet

__all__ = ["loop_factory"]

Factory = Callable[[], asyncio.AbstractEventLoop]

# Forking with other threads alive is warned of from 3.12 on; here there are none that matter.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork and return the child's pid; its exit code tells whether it raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a child of a test must never go on as a second test run
        traceback.print_exc()
    finally:
        os._exit(code)


def ended_well(pid: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_no_loop_runs_in_the_child_and_a_new_one_works(loop_factory: Factory) -> None:
    async def quick() -> int:
        left, right = socket.socketpair()
        left.setblocking(False)
        right.send(b"x")
        assert await asyncio.get_running_loop().sock_recv(left, 1) == b"x"
        left.close()
        right.close()
        await asyncio.sleep(0.001)
        return 5

    def child() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(quick()) == 5

    async def main() -> None:
        ended_well(in_child(child))
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_the_child_takes_no_interest_away_from_its_parent() -> None:
    """The trap: both sides share one epoll instance, and a removal in the child is one in the parent."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        left, right = socket.socketpair()
        heard: asyncio.Future[bytes] = loop.create_future()
        with left, right:
            loop.add_reader(left, lambda: heard.done() or heard.set_result(left.recv(10)))

            def child() -> None:
                assert loop.remove_reader(left) is True
                loop.close()
                assert loop.is_closed()

            ended_well(in_child(child))
            right.send(b"still here")
            assert await asyncio.wait_for(heard, 5) == b"still here"
            loop.remove_reader(left)

    corenet.run(main())


def test_the_child_may_run_the_inherited_loop() -> None:
    loop = corenet.new_event_loop()
    left, right = socket.socketpair()
    heard: list[bytes] = []

    def on_readable() -> None:
        heard.append(left.recv(10))
        loop.stop()

    loop.add_reader(left, on_readable)

    def child() -> None:
        right.send(b"mine")
        loop.call_soon_threadsafe(lambda: None)
        loop.run_forever()
        assert heard == [b"mine"]
        loop.close()

    ended_well(in_child(child))
    right.send(b"parent's")
    loop.run_forever()
    assert heard == [b"parent's"]
    loop.close()
    left.close()
    right.close()


def test_a_child_of_a_callback_sends_what_it_writes_and_not_what_its_parent_wrote(loop_factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with right:
            right.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
            await asyncio.sleep(0)
            ended_well(in_child(lambda: transport.write(b"child's, ")))
            assert right.recv(100) == b"child's, "
            transport.write(b"parent's")
            ended_well(in_child(lambda: None))
            await asyncio.sleep(0)
            assert right.recv(100) == b"parent's"
            transport.close()
            await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_wake_ups_of_the_child_are_its_own() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        before = loop.statistics().wakeups

        def child() -> None:
            for _ in range(10):
                loop.call_soon_threadsafe(print)

        ended_well(in_child(child))
        await asyncio.sleep(0.01)
        assert loop.statistics().wakeups == before

    corenet.run(main())


def test_a_signal_to_the_child_is_not_heard_by_the_parent() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        heard: list[int] = []
        loop.add_signal_handler(signal.SIGUSR1, heard.append, 1)

        def child() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0)

        ended_well(in_child(child))
        await asyncio.sleep(0.02)
        assert heard == []
        os.kill(os.getpid(), signal.SIGUSR1)
        while not heard:
            await asyncio.sleep(0.001)
        loop.remove_signal_handler(signal.SIGUSR1)

    corenet.run(main())


def test_many_forks_leave_nothing_open() -> None:
    def child() -> None:
        before = len(os.listdir("/proc/self/fd"))
        corenet.run(asyncio.sleep(0))
        assert len(os.listdir("/proc/self/fd")) == before

    loop = corenet.new_event_loop()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        ended_well(in_child(child))
    assert len(os.listdir("/proc/self/fd")) == before
    loop.close()


@pytest.mark.parametrize("own_gil", [True, False])
def test_subinterpreters_are_refused_in_words(own_gil: bool) -> None:
    """Extension types live once in a process; loading them twice must be an ImportError and nothing worse."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    create = {
        (True, True): "create('isolated')", (True, False): "create('legacy')",
        (False, True): "create(isolated=True)", (False, False): "create(isolated=False)",
    }[sys.version_info >= (3, 13), own_gil]
    program = f"""
import sys
import {name} as interpreters
for _ in range(2):
    inner = interpreters.{create}
    interpreters.run_string(inner, '''
import sys
try:
    import corenet
except ImportError as error:
    print("refused:", error, flush=True)
else:
    print("taken", flush=True)
''')
    interpreters.destroy(inner)
import corenet, asyncio
corenet.run(asyncio.sleep(0))
print("main works", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(line.startswith("refused: ") and "interpreter" in line for line in lines[:2])
    assert lines[2] == "main works"
