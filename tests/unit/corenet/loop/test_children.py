"""Child processes: all keywords of Popen, real pipes, no at-fork hooks, and correct exit codes."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.twin import loop_factory, twin

import corenet

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]
PIPE = subprocess.PIPE


async def output(*command: str, **keywords: Any) -> str:
    """Return what a command prints; its failure fails the test."""
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, **keywords)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode().strip()


SHOW = "import os, sys; print({})"


@pytest.mark.parametrize(
    ("keywords", "expression", "expected"),
    [
        ({"umask": 0o123}, "oct(os.umask(0))", "0o123"),
        ({"cwd": "/"}, "os.getcwd()", "/"),
        ({"env": {"CORENET_X": "1"}}, "os.environ['CORENET_X'], len(os.environ) < 5", "1 True"),
        ({"start_new_session": True}, "os.getsid(0) == os.getpid()", "True"),
        ({"process_group": 0}, "os.getpgid(0) == os.getpid()", "True"),
        ({"preexec_fn": lambda: os.nice(3)}, "os.nice(0) >= 3", "True"),
        ({"pipesize": 8192}, "1", "1"),
        ({"executable": sys.executable}, "2", "2"),
        ({"close_fds": True}, "len(os.listdir('/proc/self/fd')) <= 5", "True"),
        ({"restore_signals": False}, "3", "3"),
    ],
    ids=["umask", "cwd", "env", "session", "group", "preexec_fn", "pipesize", "executable", "close_fds", "signals"],
)
def test_keywords_of_popen_are_passed_on(twin: Twin, keywords: dict[str, Any], expression: str, expected: str) -> None:
    async def main() -> None:
        assert await output(sys.executable, "-S", "-c", SHOW.format(expression), **keywords) == expected

    twin(main())


def test_user_group_and_extra_groups(twin: Twin) -> None:
    async def main() -> None:
        if os.getuid() != 0:
            # Without the right to change, the kernel's error must be raised.
            with pytest.raises(PermissionError):
                await output("/bin/true", user=0, group=0)
            return
        said = await output("/usr/bin/id", user=65534, group=65533, extra_groups=[65532])
        assert "uid=65534" in said and "gid=65533" in said and "65532" in said

    twin(main())


def test_pass_fds(twin: Twin) -> None:
    async def main() -> None:
        read, write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-S", "-c", f"import os; os.write({write}, b'through')", pass_fds=[write]
            )
            assert await process.wait() == 0
            assert os.read(read, 20) == b"through"
        finally:
            os.close(read)
            os.close(write)

    twin(main())


@pytest.mark.parametrize(
    "keywords", [{"universal_newlines": True}, {"text": True}, {"encoding": "utf-8"}, {"errors": "strict"},
                 {"bufsize": 1}, {"shell": True}],
    ids=lambda keywords: next(iter(keywords)),
)
def test_text_modes_are_refused(twin: Twin, keywords: dict[str, Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError):
            await asyncio.create_subprocess_exec("true", **keywords)

    twin(main())


def test_stdin_is_a_real_pipe(twin: Twin) -> None:
    """A child may open /dev/stdin again, which fails for a socket pair."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("cat", "/dev/stdin", stdin=PIPE, stdout=PIPE)
        said, _ = await process.communicate(b"through the file system")
        assert (said, process.returncode) == (b"through the file system", 0)

    twin(main())


def test_at_fork_hooks_do_not_run_in_children(twin: Twin, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    os.register_at_fork(after_in_child=lambda: mark.write_text("ran") if mark.parent.exists() else None)

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        assert not mark.exists()

    twin(main())


def test_exit_codes_and_signals(twin: Twin) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_shell("exit 7")
        assert await process.wait() == 7
        for send, number in (
            (lambda p: p.kill(), signal.SIGKILL),
            (lambda p: p.terminate(), signal.SIGTERM),
            (lambda p: p.send_signal(signal.SIGINT), signal.SIGINT),
        ):
            process = await asyncio.create_subprocess_exec("sleep", "20")
            send(process)
            assert await process.wait() == -number
        with pytest.raises(ProcessLookupError):
            process.kill()
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/nonexistent/program")

    twin(main())


def test_children_of_other_code_are_not_reaped(twin: Twin) -> None:
    async def main() -> None:
        theirs = subprocess.Popen(["true"])
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        assert theirs.wait() == 0

    twin(main())


def test_many_children_at_once(twin: Twin) -> None:
    async def main() -> None:
        async def one(number: int) -> int:
            process = await asyncio.create_subprocess_shell(f"exit {number}")
            return await process.wait()

        assert await asyncio.gather(*(one(n) for n in range(30))) == list(range(30))
        await asyncio.sleep(0)
        before = len(os.listdir("/proc/self/fd"))
        assert await asyncio.gather(*(one(n) for n in range(5))) == list(range(5))
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before

    twin(main())


def test_a_child_reaped_by_other_code(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    """The exit status is lost. The transport reports 255 and logs it, and does not wait forever."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "0.05")
        while True:
            try:
                pid, _ = os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                break
            if pid:
                break
        code = await asyncio.wait_for(process.wait(), 30)
        assert code in (0, 255)

    twin(main())


@pytest.mark.parametrize("ask", ["terminate", "poll"])
def test_a_child_that_popen_has_reaped(ask: str) -> None:
    """The child had ended before the loop was notified. A signal sent then did not end it. On asyncio's loop this is a
    race with the thread that waits for the child.
    """

    async def main() -> None:
        process: Any = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "raise SystemExit(3)")
        # The child has ended and is not reaped yet.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if ask == "terminate":
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        else:
            assert process._transport._proc.poll() == 3
        assert await asyncio.wait_for(process.wait(), 30) == 3

    corenet.run(main())


def test_a_handler_for_sigchld_is_called(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, heard.set)
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        await heard.wait()
        assert loop.remove_signal_handler(signal.SIGCHLD)

    twin(main())


def test_a_cancelled_start_leaves_no_child(twin: Twin) -> None:
    async def main() -> None:
        for turns in range(4):
            task = asyncio.ensure_future(asyncio.create_subprocess_exec("sleep", "20", stdin=PIPE, stdout=PIPE))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                task.result().kill()
                await task.result().wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        alive = [pid for pid in children if b"sleep\x0020" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert alive == []

    twin(main())


def pidfds() -> int:
    """The number of open pidfds of this process."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += "pidfd" in os.readlink(f"/proc/self/fd/{name}")
    return found


def test_a_loop_closed_before_its_children_end_leaves_no_descriptor() -> None:
    """The children are not affected: they run on, and their transports' methods still work."""
    before = pidfds()
    loop = corenet.new_event_loop()
    processes: list[Any] = [
        loop.run_until_complete(asyncio.create_subprocess_exec("sleep", "20")),
        loop.run_until_complete(asyncio.create_subprocess_exec("sleep", "20")),
    ]
    assert pidfds() == before + 2
    loop.close()
    assert pidfds() == before
    for process in processes:
        child = process._transport._proc
        assert child.poll() is None
        process._transport.close()
        assert child.wait(30) == -signal.SIGKILL


def test_a_closed_transport_reports_the_exit_and_leaves_no_descriptor() -> None:
    before = pidfds()

    async def main() -> None:
        process: Any = await asyncio.create_subprocess_exec("sleep", "20")
        process._transport.close()
        assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL
        assert pidfds() == before

    corenet.run(main())


def test_a_pidfd_that_cannot_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread waits for the child instead, and no descriptor stays open."""
    before = pidfds()

    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        assert pidfds() == before
        await process.communicate(b"")
        assert process.returncode == 0

    corenet.run(main())


def test_a_child_is_killed_when_nothing_can_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a pidfd nor a thread is available: the child would run unwatched and stay a zombie."""
    started: list[subprocess.Popen[bytes]] = []

    def refuse(*_args: object) -> None:
        raise OSError(errno.EMFILE, "no descriptor")

    def no_thread(_self: object) -> None:
        raise RuntimeError("can't start new thread")

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", refuse)
            patch.setattr(threading.Thread, "start", no_thread)
            patch.setattr(subprocess, "Popen", Noted)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await asyncio.create_subprocess_exec("sleep", "20")
        with pytest.raises(ChildProcessError):
            os.waitpid(started[0].pid, os.WNOHANG)
        started[0].returncode = -signal.SIGKILL  # attributes that its finaliser reads

    corenet.run(main())
