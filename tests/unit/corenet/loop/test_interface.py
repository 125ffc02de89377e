"""The interface of `asyncio.AbstractEventLoop` through Python 3.14: every method, every keyword, on every version.

The newest list is here as text, because older interpreters do not have it; each interpreter's own abstract class and
standard loop are compared as well.
"""

import asyncio
import concurrent.futures
import inspect
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import loop_factory, since, twin

import corenet

__all__ = ["loop_factory", "twin"]

Factory = Callable[[], asyncio.AbstractEventLoop]
Twin = Callable[[Any], Any]

#: What 3.14 documents, beyond what BaseEventLoop and the Unix loop add; `*` before keyword-only names.
NEWEST = """
run_forever()
run_until_complete(future)
stop()
is_running()
is_closed()
close()
shutdown_asyncgens()
shutdown_default_executor(timeout)
call_soon(callback, *args, context)
call_later(delay, callback, *args, context)
call_at(when, callback, *args, context)
time()
create_future()
create_task(coro, *, name, context, eager_start)
call_soon_threadsafe(callback, *args, context)
run_in_executor(executor, func, *args)
set_default_executor(executor)
getaddrinfo(host, port, *, family, type, proto, flags)
getnameinfo(sockaddr, flags)
create_connection(protocol_factory, host, port, *, ssl, family, proto, flags, sock, local_addr, server_hostname,
    ssl_handshake_timeout, ssl_shutdown_timeout, happy_eyeballs_delay, interleave, all_errors)
create_server(protocol_factory, host, port, *, family, flags, sock, backlog, ssl, reuse_address, reuse_port, keep_alive,
    ssl_handshake_timeout, ssl_shutdown_timeout, start_serving)
sendfile(transport, file, offset, count, *, fallback)
start_tls(transport, protocol, sslcontext, *, server_side, server_hostname, ssl_handshake_timeout,
    ssl_shutdown_timeout)
create_unix_connection(protocol_factory, path, *, ssl, sock, server_hostname, ssl_handshake_timeout,
    ssl_shutdown_timeout)
create_unix_server(protocol_factory, path, *, sock, backlog, ssl, ssl_handshake_timeout, ssl_shutdown_timeout,
    start_serving, cleanup_socket)
connect_accepted_socket(protocol_factory, sock, *, ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
create_datagram_endpoint(protocol_factory, local_addr, remote_addr, *, family, proto, flags, reuse_port,
    allow_broadcast, sock)
connect_read_pipe(protocol_factory, pipe)
connect_write_pipe(protocol_factory, pipe)
subprocess_shell(protocol_factory, cmd, *, stdin, stdout, stderr, universal_newlines, shell, bufsize, encoding, errors,
    text)
subprocess_exec(protocol_factory, program, *args, stdin, stdout, stderr, universal_newlines, shell, bufsize, encoding,
    errors, text)
add_reader(fd, callback, *args)
remove_reader(fd)
add_writer(fd, callback, *args)
remove_writer(fd)
sock_recv(sock, nbytes)
sock_recv_into(sock, buf)
sock_recvfrom(sock, bufsize)
sock_recvfrom_into(sock, buf, nbytes)
sock_sendall(sock, data)
sock_sendto(sock, data, address)
sock_connect(sock, address)
sock_accept(sock)
sock_sendfile(sock, file, offset, count, *, fallback)
add_signal_handler(sig, callback, *args)
remove_signal_handler(sig)
set_task_factory(factory)
get_task_factory()
get_exception_handler()
set_exception_handler(handler)
default_exception_handler(context)
call_exception_handler(context)
get_debug()
set_debug(enabled)
"""


def promised() -> list[tuple[str, list[str]]]:
    """Name and parameters of every method in the list."""
    text = NEWEST.replace("\n    ", " ").strip()
    found = []
    for line in text.splitlines():
        name, _, rest = line.rstrip(")").partition("(")
        found.append((name, [word for word in rest.split(", ") if word]))
    return found


@pytest.mark.parametrize(("name", "words"), promised(), ids=[name for name, _ in promised()])
def test_method_has_every_parameter(name: str, words: list[str]) -> None:
    ours = inspect.signature(getattr(corenet.Loop, name)).parameters
    positional = [p for p, q in ours.items() if q.kind is q.POSITIONAL_OR_KEYWORD and p != "self"]
    takes_any = any(q.kind is q.VAR_KEYWORD for q in ours.values())
    keywords = False
    expected = []
    for word in words:
        if word.startswith("*"):
            keywords = True
            continue
        if not keywords:
            expected.append(word)
        assert word in ours or (takes_any and word == "eager_start"), f"{name} lacks {word}"
        if keywords and word in ours:
            assert ours[word].kind is inspect.Parameter.KEYWORD_ONLY
            assert ours[word].default is not inspect.Parameter.empty
    assert positional == expected


def test_nothing_of_this_version_is_missing() -> None:
    for kind in (asyncio.AbstractEventLoop, asyncio.SelectorEventLoop):
        for name, method in inspect.getmembers(kind, callable):
            if name.startswith("_"):
                continue
            ours = inspect.signature(getattr(corenet.Loop, name)).parameters
            for word, parameter in inspect.signature(method).parameters.items():
                if word == "self":  # positional only in C, and never passed by name
                    continue
                if (kind, name, word) in (
                    (asyncio.SelectorEventLoop, "sock_recv", "n"),  # the abstract class and the manual say nbytes
                    (asyncio.AbstractEventLoop, "create_datagram_endpoint", "reuse_address"),  # not in the class
                    (asyncio.AbstractEventLoop, "create_task", "kwargs"),
                ):
                    continue
                assert word in ours, f"{name} lacks {word}"
                if kind is asyncio.SelectorEventLoop:
                    assert ours[word].kind is parameter.kind
                    if name != "create_unix_server" and parameter.default is not inspect.Parameter.empty:
                        assert ours[word].default == parameter.default, f"{name}({word}=)"


def test_coroutine_methods_are_recognised_as_such() -> None:
    for name, method in inspect.getmembers(asyncio.SelectorEventLoop, inspect.iscoroutinefunction):
        ours = getattr(corenet.Loop, name, method)
        assert inspect.iscoroutinefunction(ours) or asyncio.iscoroutinefunction(ours), name


def test_the_loop_is_an_instance_of_asyncios_classes() -> None:
    loop = corenet.new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop) and isinstance(loop, asyncio.BaseEventLoop)
    loop.close()


# --- tasks --------------------------------------------------------------------------------------------------------


def test_task_names_and_contexts(twin: Twin) -> None:
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(variable.set, "inner")

        async def look() -> str:
            return variable.get()

        task = loop.create_task(look(), name="looker", context=context)
        assert task.get_name() == "looker"
        assert await task == "inner"
        assert await loop.create_task(look()) == "outer"

    twin(main())


def test_a_plain_factory_gets_only_the_given_keywords(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))
        assert loop.get_task_factory() is not None
        assert await loop.create_task(asyncio.sleep(0, 1)) == 1
        task = loop.create_task(asyncio.sleep(0, 2), name="named") if sys.version_info < (3, 13, 3) else None
        if task is not None:
            assert task.get_name() == "named" and await task == 2
        loop.set_task_factory(None)

    twin(main())


@since(3, 12)
def test_eager_tasks(twin: Twin) -> None:
    """On 3.11 there are none: the keyword is accepted, and refused when it is true."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        ran: list[str] = []

        async def work(word: str) -> str:
            ran.append(word)
            await asyncio.sleep(0)
            return word

        if sys.version_info >= (3, 12):
            loop.set_task_factory(asyncio.eager_task_factory)
            task = loop.create_task(work("a"))
            assert ran == ["a"]
            assert await task == "a"
            loop.set_task_factory(None)
        if isinstance(loop, corenet.Loop) or sys.version_info >= (3, 13, 3):
            assert await loop.create_task(work("b"), eager_start=False) == "b"
            if sys.version_info >= (3, 12):
                task = loop.create_task(work("c"), eager_start=True)
                assert ran[-1] == "c"
                await task
            else:
                coroutine = work("d")
                with pytest.raises(TypeError, match=r"eager_start=True needs Python 3\.12"):
                    await loop.create_task(coroutine, eager_start=True)
                coroutine.close()

    twin(main())


def test_a_closed_loop_makes_no_task(loop_factory: Factory) -> None:
    loop = loop_factory()
    loop.close()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="closed"):
        loop.create_task(coroutine)
    coroutine.close()


# --- executors ----------------------------------------------------------------------------------------------------


def test_executor_runs_and_is_joined(loop_factory: Factory) -> None:
    loop = loop_factory()
    name = loop.run_until_complete(loop.run_in_executor(None, lambda: threading.current_thread().name))
    assert name != threading.main_thread().name
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="shut"):
        loop.run_until_complete(loop.run_in_executor(None, print))
    loop.close()
    with pytest.raises(TypeError):
        loop_factory_executor(loop_factory)


def loop_factory_executor(loop_factory: Factory) -> None:
    """`set_default_executor` takes thread pools only."""
    loop = loop_factory()
    try:
        loop.set_default_executor(object())  # type: ignore[arg-type]
    finally:
        loop.close()


@since(3, 13)
def test_executor_shutdown_timeout(loop_factory: Factory) -> None:
    release = threading.Event()
    loop: Any = loop_factory()
    work = loop.run_in_executor(None, release.wait, 60)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loop.run_until_complete(loop.shutdown_default_executor(timeout=0.05))
    assert not work.done(), "it waited for the work"
    assert [w.category for w in seen] == [RuntimeWarning] and "0.05 seconds" in str(seen[0].message)
    release.set()
    assert loop.run_until_complete(work) is True
    loop.close()


class Refusing(concurrent.futures.ThreadPoolExecutor):
    """Cannot be shut down."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            raise ZeroDivisionError("not now")


def test_an_exception_in_the_shutdown_of_an_executor_is_raised(loop_factory: Factory) -> None:
    """The waiting call raises it; otherwise it would wait for ever."""
    loop = loop_factory()
    loop.set_default_executor(Refusing())
    assert loop.run_until_complete(loop.run_in_executor(None, int, "5")) == 5
    with pytest.raises(ZeroDivisionError, match="not now"):
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_default_executor(), 30))
    loop.close()


def test_an_exception_that_no_future_accepts_ends_the_wait_for_an_executor() -> None:
    class Stopping(concurrent.futures.ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait, cancel_futures=cancel_futures)
            if wait:
                raise StopIteration("no")

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(Stopping())
        await asyncio.get_running_loop().run_in_executor(None, int)

    with pytest.raises(RuntimeError, match="StopIteration"):
        corenet.run(asyncio.wait_for(main(), 30))


def test_executor_shutdown_without_a_timeout(loop_factory: Factory) -> None:
    loop: Any = loop_factory()
    done: list[int] = []
    loop.run_until_complete(loop.run_in_executor(None, done.append, 1))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert done == [1]
    loop.close()


# --- the clock ----------------------------------------------------------------------------------------------------


def test_time_is_the_monotonic_clock(loop_factory: Factory) -> None:
    loop = loop_factory()
    before = time.monotonic()
    assert before <= loop.time() <= time.monotonic()
    loop.close()


# --- odds and ends that a name promises -------------------------------------------------------------------------------


def test_descriptors_as_numbers_and_objects(twin: Twin) -> None:
    import socket

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            seen: asyncio.Future[str] = loop.create_future()
            loop.add_reader(left, lambda: seen.done() or seen.set_result("object"))
            right.send(b"x")
            assert await seen == "object"
            assert loop.remove_reader(left.fileno()) is True
            assert loop.remove_reader(left) is False
            for wrong in (-1, "x", None, 1.5):
                with pytest.raises((ValueError, TypeError)):
                    loop.add_reader(wrong, print)  # type: ignore[type-var]

    twin(main())


def test_regular_files_cannot_be_watched(twin: Twin, tmp_path: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (tmp_path / "file").open("wb") as file:
            for add, remove in ((loop.add_reader, loop.remove_reader), (loop.add_writer, loop.remove_writer)):
                with pytest.raises(PermissionError):
                    add(file, print)
                assert remove(file) is False

    twin(main())


def test_a_closed_descriptor_is_refused(twin: Twin) -> None:
    import os

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        os.close(read)
        os.close(write)
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(OSError):
                add(read, print)

    twin(main())
