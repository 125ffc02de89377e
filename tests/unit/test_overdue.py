"""The limit of a test ends whatever the test waits for, and says what that was."""

import asyncio
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies
from support import overdue
from support.overdue import Overdue, limited

import corenet

LIMIT = 0.2
FACTORIES = [asyncio.new_event_loop, corenet.new_event_loop]
TESTS = Path(overdue.__file__).parents[1]


def told(wait: Callable[[], object]) -> str:
    """What the limit says of `wait`, which does not end by itself."""
    with pytest.raises(Overdue) as caught, limited("a wait", LIMIT):
        wait()
    assert str(caught.value).startswith("a wait: not done after 0.2 s\n")
    return str(caught.value)


async def awaits_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def turns_for_ever() -> None:
    while True:
        await asyncio.sleep(0)


async def calls_for_ever() -> None:
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_soon(again)

    again()
    await awaits_for_ever()


async def holds_on() -> None:
    """Waits again when it is told to end, but for a KeyboardInterrupt."""
    while True:
        try:
            await awaits_for_ever()
        except (asyncio.CancelledError, Exception):  # noqa: BLE001
            continue


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("what", [awaits_for_ever, calls_for_ever, turns_for_ever, holds_on])
def test_what_a_loop_waits_for(factory: Any, what: Any) -> None:
    async def outermost() -> None:
        await what()

    loop = factory()
    task = loop.create_task(outermost(), name="the waiting one")
    output = told(lambda: loop.run_until_complete(task))
    assert "in test_what_a_loop_waits_for.<locals>.outermost" in output and f"in {what.__name__}" in output
    assert "task the waiting one" in output
    if what is awaits_for_ever:
        assert "waits for <Future pending" in output or "waits for <_asyncio.FutureIter" in output
    if task.done():
        assert isinstance(task.exception(), KeyboardInterrupt)
    else:
        # It was not the one who got the exception.
        task._log_destroy_pending = False
        task.get_coro().close()
    loop.close()


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_clean_up_that_waits_ends_as_well(factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overdue, "AGAIN", 0.2)
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        tasks.append(asyncio.create_task(holds_on()))
        await awaits_for_ever()

    def run() -> None:
        loop = factory()
        try:
            loop.run_until_complete(main())
        finally:
            tasks[0].cancel()
            try:
                loop.run_until_complete(tasks[0])
            finally:
                tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]
                tasks[0].get_coro().close()  # type: ignore[union-attr]
                loop.close()

    assert "in holds_on" in told(run)


def test_tasks_of_other_threads_are_told() -> None:
    loop, started, ended = asyncio.new_event_loop(), threading.Event(), threading.Event()

    async def elsewhere() -> None:
        loop.call_soon(started.set)
        await asyncio.wait_for(awaits_for_ever(), 60)

    task = loop.create_task(elsewhere(), name="over there")

    def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(20)
    output = told(thread.join)
    assert "task over there" in output and "in awaits_for_ever" in output and f"thread {thread.name}" in output
    loop.call_soon_threadsafe(task.cancel)
    # Not by another join: one that was interrupted takes the thread for ended (Python 3.11 and 3.12).
    assert ended.wait(20)
    loop.close()


def test_what_blocks_the_main_thread() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert "left.recv(1)" in told(lambda: left.recv(1))
    assert "threading.Event().wait()" in told(lambda: threading.Event().wait())
    assert "in get" in told(queue.Queue[int]().get)
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as child:
        assert "in wait" in told(child.wait)
        child.kill()


def test_what_is_swallowed_is_raised_at_the_end() -> None:
    def swallows() -> None:
        try:
            signal.pause()
        except BaseException:  # noqa: BLE001
            pass

    assert "in swallows" in told(swallows)


@pytest.mark.checkout  # Hypothesis looks for the source of what it plays
def test_hypothesis_does_not_play_it_again() -> None:
    played = 0

    @settings(database=None)
    @given(strategies.integers())
    def waits(_number: int) -> None:
        nonlocal played
        played += 1
        signal.pause()

    assert "in waits" in told(waits)
    assert played == 1


def test_who_is_in_time_hears_nothing() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with limited("quick", 60):
        pass
    assert signal.getsignal(signal.SIGALRM) is before
    # The limit of this test still applies.
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0


def test_who_keeps_the_signal_is_told() -> None:
    with pytest.raises(AssertionError, match="keeps a handler for SIGALRM"), limited("a thief", 60):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


def test_a_child_dies_of_its_own_alarm() -> None:
    child = os.fork()
    if child == 0:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            signal.pause()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM


def test_each_phase_of_a_test_is_limited(tmp_path: Path) -> None:
    """By the rules that these tests run under themselves, with less time."""
    (tmp_path / "test_slow.py").write_text(
        "import signal, pytest\n"
        "@pytest.fixture\ndef set_up():\n    signal.pause()\n"
        "@pytest.fixture\ndef clean_up():\n    yield\n    signal.pause()\n"
        "def test_set_up(set_up): pass\n"
        "def test_call(): signal.pause()\n"
        "def test_clean_up(clean_up): pass\n"
        "@pytest.mark.limit(6000)\ndef test_longer():\n"
        "    signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "    assert 20 < signal.getitimer(signal.ITIMER_REAL)[0] < 40\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest", str(tmp_path),
         "-o", "addopts=-p no:asyncio", "-o", "markers=limit(seconds): longer", "--rootdir", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "CORENET_TEST_SLOWNESS": "0.005"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    for phase in ("set-up of test_slow.py::test_set_up", "call of test_slow.py::test_call",
                  "clean-up of test_slow.py::test_clean_up"):
        assert f"{phase}: not done after 0.6 s" in done.stdout
    assert "2 passed" in done.stdout and "1 failed" in done.stdout and "2 errors" in done.stdout
