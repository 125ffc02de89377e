"""Signals: handlers set on the loop, refusals, and what remains when the loop is closed."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.twin import loop_factory, twin
from support.waiting import turns, until

import corenet

__all__ = ["loop_factory", "twin"]

Factory = Callable[[], asyncio.AbstractEventLoop]
Twin = Callable[[Any], Any]


def test_wrong_arguments_are_refused(loop_factory: Factory) -> None:
    loop: Any = loop_factory()

    async def coroutine() -> None:
        """Never awaited."""

    with pytest.raises(TypeError):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)
    with pytest.raises(TypeError):
        loop.add_signal_handler("SIGUSR1", print)
    for number in (0, -1, 1000):
        with pytest.raises(ValueError):
            loop.add_signal_handler(number, print)
        with pytest.raises(ValueError):
            loop.remove_signal_handler(number)
    for number in (signal.SIGKILL, signal.SIGSTOP):
        with pytest.raises(RuntimeError, match="cannot be caught"):
            loop.add_signal_handler(number, print)
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_signal_handler(signal.SIGUSR1, print)
    assert signal.set_wakeup_fd(-1) == -1


def test_signal_handlers_need_the_main_thread(loop_factory: Factory) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        loop = loop_factory()
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except (RuntimeError, ValueError) as error:
            failures.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [type(error) for error in failures] == [RuntimeError]


def test_default_actions_are_restored(loop_factory: Factory) -> None:
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGINT, print)
    loop.add_signal_handler(signal.SIGUSR1, print)
    assert loop.remove_signal_handler(signal.SIGINT) is True
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    loop.add_signal_handler(signal.SIGUSR2, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_arguments_replacement_and_several_signals(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard: list[Any] = []
        loop.add_signal_handler(signal.SIGUSR1, heard.append, "old")
        loop.add_signal_handler(signal.SIGUSR1, heard.append, "one")
        loop.add_signal_handler(signal.SIGUSR2, heard.append, "two")
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: len(heard) == 2, "both signals")
        assert sorted(heard) == ["one", "two"]
        loop.remove_signal_handler(signal.SIGUSR1)
        loop.remove_signal_handler(signal.SIGUSR2)

    twin(main())


def test_signals_are_handled_after_a_flood() -> None:
    """The wake-up descriptor may be full; after that, signals must work again (asyncio's loop fails this)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard: list[int] = []
        loop.add_signal_handler(signal.SIGUSR1, heard.append, 1)
        for _ in range(20_000):
            signal.raise_signal(signal.SIGUSR1)
        await until(lambda: heard, "the first signals")
        await turns()
        heard.clear()
        signal.raise_signal(signal.SIGUSR1)
        await until(lambda: heard, "the signal")
        loop.remove_signal_handler(signal.SIGUSR1)

    corenet.run(main())


def test_a_handler_that_raises_exit_ends_the_loop(loop_factory: Factory) -> None:
    loop = loop_factory()

    def leave() -> None:
        raise SystemExit(3)

    loop.add_signal_handler(signal.SIGUSR1, leave)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    with pytest.raises(SystemExit):
        loop.run_forever()
    loop.close()


def test_the_wake_up_descriptor_of_other_code_is_kept(loop_factory: Factory) -> None:
    """A program's own wake-up descriptor stays in place while a loop without signal handlers runs."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    async def main() -> int:
        found = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        signal.raise_signal(signal.SIGUSR1)
        return found

    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        loop = loop_factory()
        assert loop.run_until_complete(main()) == theirs.fileno()
        loop.close()
        assert signal.set_wakeup_fd(-1) == theirs.fileno()
        assert ours.recv(10) == bytes([signal.SIGUSR1])
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGUSR1, handler)
        ours.close()
        theirs.close()


def test_system_calls_are_restarted(loop_factory: Factory) -> None:
    """A handler of the loop must not make reads of other C code fail with EINTR; Python repeats its own."""
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGUSR1, print)
    read, write = os.pipe()
    main = threading.main_thread()

    def disturb() -> None:
        deadline = time.monotonic() + 30
        for _ in range(2):
            # The system call in which the main thread sleeps, and its first argument.
            while Path(f"/proc/self/task/{main.native_id}/syscall").read_text().split()[1:2] != [hex(read)]:
                if time.monotonic() > deadline:
                    break
            signal.pthread_kill(main.ident, signal.SIGUSR1)
        os.write(write, b"x")

    thread = threading.Thread(target=disturb)
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(1)
    thread.start()
    got = libc.read(read, buffer, 1)
    failed = ctypes.get_errno() if got < 0 else 0
    thread.join()
    assert (got, failed, buffer.raw) == (1, 0, b"x")
    os.close(read)
    os.close(write)
    loop.close()


@pytest.mark.parametrize("kind", ["asyncio", "corenet"])
def test_ctrl_c_of_a_runner_cancels_the_main_task(kind: str) -> None:
    factory = {"asyncio": "asyncio.SelectorEventLoop", "corenet": "corenet.new_event_loop"}[kind]
    program = f"""
import asyncio, corenet, os, signal
async def main():
    try:
        print("ready", flush=True)
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
with asyncio.Runner(loop_factory={factory}) as runner:
    try:
        runner.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "cancelled\ninterrupted\n"
    assert child.wait(30) == 0
