"""`run_in_executor` without an executor: behaviour of asyncio, and what differs in the loop's own pool."""

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

import corenet
from corenet.loop.thread_pool import LoopThreadPool, ThreadPoolState
from corenet.loop.threads import call_in_loop

Factory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(params=[corenet.new_event_loop, asyncio.new_event_loop], ids=["corenet", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    one = request.param()
    yield one
    one.run_until_complete(one.shutdown_default_executor())
    one.close()


@pytest.fixture
def ours() -> Iterator[corenet.Loop]:
    one = corenet.new_event_loop()
    yield one
    if not one.is_closed():
        one.run_until_complete(one.shutdown_default_executor())
        one.close()


class Gate:
    """A call that reports its start and waits for permission to end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self, value: object = None) -> object:
        self.begun.set()
        assert self.open.wait(30)
        return value


def test_a_call_runs_in_a_thread_and_returns_its_result(loop: asyncio.AbstractEventLoop) -> None:
    def call(a: int, b: int) -> tuple[int, str, bool]:
        return a - b, threading.current_thread().name, threading.current_thread().daemon

    assert loop.run_until_complete(loop.run_in_executor(None, call, 5, 3)) == (2, "asyncio_0", False)


@pytest.mark.parametrize("failure", [ValueError("x"), KeyError(), asyncio.CancelledError(), TimeoutError("late")])
def test_an_exception_of_the_call_is_raised(loop: asyncio.AbstractEventLoop, failure: BaseException) -> None:
    def call() -> None:
        raise failure

    future = loop.run_in_executor(None, call)
    loop.run_until_complete(asyncio.wait([future]))
    with pytest.raises(type(failure)):
        future.result()
    assert not future.cancelled()


def test_errors_of_concurrent_futures_become_those_of_asyncio(loop: asyncio.AbstractEventLoop) -> None:
    for theirs, expected in (
        (concurrent.futures.CancelledError("a"), asyncio.CancelledError),
        (concurrent.futures.InvalidStateError("b"), asyncio.InvalidStateError),
    ):
        def call(error: Exception = theirs) -> None:
            raise error

        future = loop.run_in_executor(None, call)
        loop.run_until_complete(asyncio.wait([future]))
        error = future.exception()
        assert type(error) is expected and error.args == theirs.args


def test_stop_iteration_of_a_call_does_not_hang(ours: corenet.Loop) -> None:
    # In Python 3.11 a future of asyncio does not accept StopIteration, so the awaiting task waits forever.
    with pytest.raises(RuntimeError, match="StopIteration interacts badly") as caught:
        ours.run_until_complete(ours.run_in_executor(None, next, iter(())))
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_call_runs_in_the_context_of_its_thread(loop: asyncio.AbstractEventLoop) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def main() -> tuple[str, str]:
        variable.set("caller")
        return await loop.run_in_executor(None, variable.get), await asyncio.to_thread(variable.get)

    assert loop.run_until_complete(main()) == ("none", "caller")


def test_a_call_cancelled_before_its_start_never_runs(loop: asyncio.AbstractEventLoop) -> None:
    gate = Gate()
    ran: list[str] = []

    async def main() -> None:
        if isinstance(loop, corenet.Loop):
            one_thread(loop)
        else:
            loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        first = loop.run_in_executor(None, gate, "first")
        second = loop.run_in_executor(None, ran.append, "second")
        third = loop.run_in_executor(None, ran.append, "third")
        second.cancel()
        # The future is cancelled at once; asyncio tells the executor in the next iteration.
        await asyncio.sleep(0)
        gate.open.set()
        assert await first == "first"
        await third
        assert second.cancelled()

    loop.run_until_complete(main())
    assert ran == ["third"]


def one_thread(loop: corenet.Loop) -> LoopThreadPool:
    """The loop's own pool with a single thread."""
    pool = loop._make_threads()
    pool._workers.max_threads = 1
    return pool


def test_a_call_cancelled_while_it_runs(loop: asyncio.AbstractEventLoop) -> None:
    gate = Gate()

    async def main() -> None:
        future = loop.run_in_executor(None, gate)
        while not gate.begun.is_set():
            await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        gate.open.set()
        assert await loop.run_in_executor(None, int) == 0

    loop.run_until_complete(main())


def test_calls_one_after_another_share_a_thread(ours: corenet.Loop) -> None:
    async def main() -> set[str]:
        return {await ours.run_in_executor(None, lambda: threading.current_thread().name) for _ in range(200)}

    assert ours.run_until_complete(main()) == {"asyncio_0"}


def test_a_thread_is_free_when_its_result_was_delivered() -> None:
    """Also when the thread is delayed right after passing its result to the loop."""
    asked = threading.Event()

    class Delayed(corenet.Loop):
        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
            handle = super().call_soon_threadsafe(*args, **kwargs)
            if threading.current_thread().name.startswith("asyncio_"):
                assert asked.wait(30)
            return handle

    one = Delayed()

    async def main() -> None:
        await one.run_in_executor(None, int)
        second = one.run_in_executor(None, int)
        asked.set()
        await second

    one.run_until_complete(main())
    pool: Any = one._default_executor
    assert [thread.name for thread in pool._threads] == ["asyncio_0"]
    one.run_until_complete(one.shutdown_default_executor())
    one.close()


def test_a_child_may_have_as_many_threads_as_its_parent(ours: corenet.Loop) -> None:
    """The only permitted thread exists only in the parent."""
    one_thread(ours)
    assert ours.run_until_complete(ours.run_in_executor(None, int)) == 0
    pid = os.fork()
    if not pid:
        code = 1
        try:
            answer = asyncio.wait_for(ours.run_in_executor(None, int, "7"), 30)
            code = 0 if ours.run_until_complete(answer) == 7 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_done_callback_may_wait_for_another_call(loop: asyncio.AbstractEventLoop) -> None:
    """The callback runs in the thread of its call, which is therefore not free for the new call."""
    pool = executor_of(loop)
    answers: list[str] = []
    done = threading.Event()

    def ask_again(_future: "concurrent.futures.Future[Any]") -> None:
        answers.append(pool.submit(lambda: threading.current_thread().name).result(30))
        answers.append(threading.current_thread().name)
        done.set()

    gate = Gate()
    first = pool.submit(gate)
    first.add_done_callback(ask_again)
    gate.open.set()
    assert done.wait(30)
    inner, outer = answers
    assert inner != outer


class Asking:
    """Its destructor makes a call and waits for it."""

    def __init__(self, pool: concurrent.futures.Executor, answers: "queue.SimpleQueue[str]") -> None:
        self.pool = pool
        self.answers = answers

    def __del__(self) -> None:
        try:
            self.answers.put(self.pool.submit(lambda: "answered").result(30))
        except TimeoutError:
            self.answers.put("hung")

    def __call__(self, *_args: object) -> None:
        pass


@pytest.mark.parametrize("held_as", ["function", "argument", "result", "error"])
@pytest.mark.parametrize("by", ["submit", "loop"])
def test_a_destructor_in_a_thread_may_wait_for_another_call(
    loop: asyncio.AbstractEventLoop, held_as: str, by: str
) -> None:
    pool = executor_of(loop)
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    gate = Gate()

    def function(made: Asking) -> Callable[..., object]:
        def call(*_args: object) -> object:
            gate()
            if held_as == "result":
                return made
            if held_as == "error":
                raise KeyError(made)
            return None

        return call

    def ask() -> Any:
        made = Asking(pool, answers)
        call = function(made)
        return pool.submit(call, made) if by == "submit" else loop.run_in_executor(None, call, made)

    future = ask()
    if by == "submit":
        # Nothing waits for it, so its thread has the last reference.
        del future
        gate.open.set()
    else:
        gate.open.set()
        loop.run_until_complete(asyncio.wait([future]))
        if held_as == "error":
            future.exception()
        del future
    gc.collect()
    assert answers.get(timeout=30) == "answered"


def executor_of(loop: Any) -> concurrent.futures.Executor:
    """The default executor, with one idle thread."""
    loop.run_until_complete(loop.run_in_executor(None, int))
    return cast(concurrent.futures.Executor, loop._default_executor)


def test_the_number_of_threads_is_that_of_asyncio(ours: corenet.Loop) -> None:
    pool = ours._make_threads()
    standard = concurrent.futures.ThreadPoolExecutor()
    most = standard._max_workers
    standard.shutdown()
    assert pool._workers.max_threads == most == pool._max_workers
    gates = [Gate() for _ in range(most)]
    futures = [ours.run_in_executor(None, gate) for gate in gates]
    late = ours.run_in_executor(None, lambda: threading.current_thread().name)
    for gate in gates:
        assert gate.begun.wait(30)
    assert {thread.name for thread in pool._threads} == {f"asyncio_{number}" for number in range(most)}
    for gate in gates:
        gate.open.set()
    ours.run_until_complete(asyncio.wait([*futures, late]))
    assert late.result() in {f"asyncio_{number}" for number in range(most)}
    assert len(pool._threads) == most


def test_calls_are_refused_when_closed_or_shut_down(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.run_in_executor(None, int))
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        loop.run_in_executor(None, int)
    other = type(loop)()
    other.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        other.run_in_executor(None, int)


def test_coroutines_are_refused_in_debug_mode(loop: asyncio.AbstractEventLoop) -> None:
    async def coroutine() -> None:
        """Never called."""

    loop.set_debug(True)
    with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
        loop.run_in_executor(None, coroutine)


def test_given_executors_are_used_unchanged(loop: asyncio.AbstractEventLoop) -> None:
    def name() -> str:
        return threading.current_thread().name

    with concurrent.futures.ThreadPoolExecutor(1, "mine") as mine:
        assert loop.run_until_complete(loop.run_in_executor(mine, name)) == "mine_0"
        loop.run_until_complete(loop.run_in_executor(None, int))
        loop.set_default_executor(mine)
        assert loop.run_until_complete(loop.run_in_executor(None, name)) == "mine_0"


def test_the_pool_is_an_executor(ours: corenet.Loop) -> None:
    ours.run_until_complete(ours.run_in_executor(None, int))
    pool = ours._default_executor
    assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
    assert pool.submit(int, "11", base=2).result(30) == 3
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
    with pytest.raises(ValueError, match="invalid literal"):
        pool.submit(int, "x").result(30)
    other = corenet.new_event_loop()
    other.set_default_executor(pool)
    assert other.run_until_complete(other.run_in_executor(None, abs, -3)) == 3
    other.close()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(int)


def test_shutdown_with_calls_that_have_not_started(ours: corenet.Loop) -> None:
    pool = one_thread(ours)
    gate = Gate()
    running = ours.run_in_executor(None, gate, 1)
    waiting = ours.run_in_executor(None, abs, -1)
    foreign = pool.submit(abs, -1)
    assert gate.begun.wait(30)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.open.set()
    pool.shutdown()
    ours.run_until_complete(asyncio.wait([running, waiting]))
    assert running.result() == 1 and waiting.cancelled() and foreign.cancelled()


def test_shutdown_runs_the_waiting_calls(ours: corenet.Loop) -> None:
    pool = one_thread(ours)
    gate = Gate()
    futures = [ours.run_in_executor(None, gate, 0), *(ours.run_in_executor(None, abs, -i) for i in range(1, 20))]
    pool.shutdown(wait=False)
    gate.open.set()
    assert ours.run_until_complete(asyncio.gather(*futures)) == list(range(20))


def test_a_result_for_a_closed_loop_is_dropped() -> None:
    loop = corenet.new_event_loop()
    gate = Gate()
    pool = loop._make_threads()
    future = loop.run_in_executor(None, gate)
    assert gate.begun.wait(30)
    loop.close()
    gate.open.set()
    pool.shutdown()
    assert not future.done()


def test_a_result_that_cannot_be_delivered_does_not_end_the_thread(
    ours: corenet.Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    tried = threading.Event()

    def broken(*_call: Any) -> None:
        tried.set()
        raise ValueError

    monkeypatch.setattr(threading, "excepthook", lambda what: told.append(what.exc_type))
    with monkeypatch.context() as patched:
        patched.setattr(ours, "call_soon_threadsafe", broken)
        ours.run_in_executor(None, int)
        assert tried.wait(30)

    async def main() -> int:
        return await asyncio.wait_for(ours.run_in_executor(None, int, "7"), 30)

    assert ours.run_until_complete(main()) == 7
    assert told == [ValueError]


def test_a_thread_that_cannot_be_started_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = ThreadPoolState(1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="start new thread"):
            workers.submit_call((None, concurrent.futures.Future(), int, ()))
    assert not workers.threads
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    workers.submit_call((None, future, int, ("7",)))
    assert future.result(30) == 7
    workers.stop()
    workers.join()


def test_threads_end_with_an_unreferenced_pool() -> None:
    pool = LoopThreadPool()
    assert pool.submit(abs, -1).result(30) == 1
    threads = list(pool._threads)
    seen = weakref.ref(pool)
    del pool
    gc.collect()
    assert seen() is None
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_an_idle_thread_holds_no_references(ours: corenet.Loop) -> None:
    class Thing:
        """An object whose release is noticed."""

        def fail(self) -> None:
            raise ValueError(self)

    async def main() -> "weakref.ref[Thing]":
        thing = Thing()
        await ours.run_in_executor(None, id, thing)
        with pytest.raises(ValueError):
            await ours.run_in_executor(None, thing.fail)
        return weakref.ref(thing)

    seen = ours.run_until_complete(main())
    # The thread drops its references after it has passed the result on.
    ours.run_until_complete(ours.shutdown_default_executor())
    gc.collect()
    assert seen() is None


def test_an_error_when_no_thread_can_be_started(ours: corenet.Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            ours.run_in_executor(None, int)
    assert ours.run_until_complete(ours.run_in_executor(None, abs, -1)) == 1


# Python 3.12 and later warn of forks with other threads, which this test has on purpose.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_child_of_a_fork_has_its_own_threads(ours: corenet.Loop) -> None:
    ours.run_until_complete(ours.run_in_executor(None, int))
    pool = ours._default_executor
    assert pool is not None
    child = os.fork()
    if child == 0:
        # Nothing of pytest may run in the child.
        try:
            os._exit(0 if pool.submit(abs, -7).result(30) == 7 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ours.run_until_complete(ours.run_in_executor(None, abs, -1)) == 1


def test_workers_refuse_calls_after_their_end() -> None:
    workers = ThreadPoolState(1)
    workers.stop("cannot schedule new futures after interpreter shutdown")
    with pytest.raises(RuntimeError, match="after interpreter shutdown"):
        workers.submit_call((None, concurrent.futures.Future(), int, ()))


def test_the_interpreter_exits_after_the_running_calls() -> None:
    code = (
        "import asyncio, corenet, sys\n"
        "loop = corenet.new_event_loop()\n"
        "loop.run_in_executor(None, lambda: print('made', sys.stdin.readline(), flush=True))\n"
        "print('left', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "left\n"
        rest, _ = child.communicate("late\n", timeout=60)
    assert (child.returncode, rest) == (0, "made late\n\n")


def turns_for_answers(answers: int) -> int:
    """Iterations of a busy loop until a loop in another thread has given `answers` answers, one after the other."""
    busy, other = corenet.new_event_loop(), corenet.new_event_loop()
    left = answers

    def again() -> None:
        if left:
            busy.call_soon(again)
        else:
            other.call_soon_threadsafe(other.stop)
            busy.stop()

    def ask() -> None:
        other.call_soon_threadsafe(busy.call_soon_threadsafe, answered)

    def answered() -> None:
        nonlocal left
        left -= 1
        ask()

    thread = threading.Thread(target=other.run_forever)
    thread.start()
    busy.call_soon(again)
    busy.call_soon(ask)
    busy.run_forever()
    thread.join(30)
    assert not thread.is_alive()
    turns: int = busy.statistics().iterations
    busy.close()
    other.close()
    return turns


def test_a_busy_loop_lets_other_loops_run() -> None:
    """Two loops call each other while one of them is always busy, and so never waits without the GIL.

    Counted in iterations of the busy one. The interpreter itself switches threads after 5 ms, some 25,000 iterations.
    On a busy machine the other thread also waits for a processor, so the best of ten runs counts.
    """
    assert any(turns_for_answers(100) < 100 * 5_000 for _ in range(10))


def test_a_loop_works_beside_one_in_a_blocking_call() -> None:
    """The other thread is in a call without the GIL and does not want it, so the loop offers it rarely."""
    busy, other = corenet.new_event_loop(), corenet.new_event_loop()
    gate = Gate()
    other.call_soon(gate)
    other.call_soon(other.stop)
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    assert gate.begun.wait(30)
    left = 100_000

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            busy.call_soon(again)
        else:
            busy.stop()

    busy.call_soon(again)
    busy.run_forever()
    gate.open.set()
    thread.join(30)
    assert left == 0
    assert not thread.is_alive()
    busy.close()
    other.close()


# --- failures that would leave somebody waiting -----------------------------------------------------------------------


class ShortOfMemory(corenet.Loop):
    """A loop that has no memory for the next handles of other threads."""

    refusals = 3

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        if self.refusals and threading.current_thread() is not threading.main_thread():
            self.refusals -= 1
            raise MemoryError
        return super().call_soon_threadsafe(callback, *args, context=context)


def test_a_result_is_delivered_later_when_memory_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corenet.loop.threads.THREAD_RETRY_DELAY", 0)
    loop: Any = ShortOfMemory()
    assert loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, int, "5"), 30)) == 5
    assert loop.refusals == 0
    loop.refusals = 3
    loop.run_until_complete(asyncio.wait_for(loop.shutdown_default_executor(), 30))
    assert loop.refusals == 0
    loop.close()


def test_a_closed_loop_is_not_called_again() -> None:
    other = corenet.new_event_loop()
    assert call_in_loop(other, print)
    other.close()
    assert not call_in_loop(other, print)


def test_other_errors_of_call_soon_threadsafe_are_raised() -> None:
    class Odd(corenet.Loop):
        def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
            raise RuntimeError("odd")

    loop = Odd()
    with pytest.raises(RuntimeError, match="odd"):
        call_in_loop(loop, print)
    loop.close()


def test_a_thread_survives_exceptions_of_done_callbacks_and_the_hook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one thread: if it ended, the next call would wait for ever."""

    def leave(_future: Any) -> None:
        raise SystemExit("from the callback")

    def fail(_args: Any) -> None:
        raise ZeroDivisionError("from the hook")

    monkeypatch.setattr(threading, "excepthook", fail)
    state = ThreadPoolState(1)
    begin = threading.Event()
    first: concurrent.futures.Future[Any] = concurrent.futures.Future()
    first.add_done_callback(leave)
    state.submit_call((None, first, begin.wait, (10,)))
    begin.set()
    second: concurrent.futures.Future[Any] = concurrent.futures.Future()
    state.submit_call((None, second, int, ("7",)))
    assert second.result(30) == 7
    state.stop()
    state.join()
    assert "from the hook" in capsys.readouterr().err
