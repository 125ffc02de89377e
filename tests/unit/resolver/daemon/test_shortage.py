"""Lack of memory is one log line; any other exception keeps its traceback."""

import asyncio
import logging
import resource
import socket
import subprocess
import sys

import pytest

import corenet
from resolver.daemon.resource_exhaustion import install_exception_handler, install_unraisable_hook


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, corenet.new_event_loop])
def test_many_shortages_are_one_line_and_an_error_keeps_its_traceback(factory, caplog) -> None:
    def short() -> None:
        raise MemoryError

    def broken() -> None:
        raise KeyError("broken")

    async def body() -> None:
        loop = asyncio.get_running_loop()
        install_exception_handler(loop, 60.0)
        for _ in range(50):
            loop.call_soon(short)
        loop.call_soon(broken)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with caplog.at_level(logging.WARNING), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())
    plain = [record for record in caplog.records if record.name == "resolver.daemon.resource_exhaustion"]
    others = [record for record in caplog.records if record not in plain]
    assert len(plain) == 1
    assert plain[0].exc_info is None
    assert plain[0].getMessage().startswith("out of memory: ")
    assert [record.exc_info[0] for record in others if record.exc_info] == [KeyError]


@pytest.mark.parametrize("kind", ["TCP", "Unix"])
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, corenet.new_event_loop])
def test_a_connection_without_descriptor_is_one_line_and_no_busy_loop(factory, kind, caplog, tmp_path) -> None:
    handled, names = [], []

    async def body() -> None:
        loop = asyncio.get_running_loop()
        install_exception_handler(loop, 60.0)
        handler = loop.get_exception_handler()
        assert handler is not None
        loop.set_exception_handler(lambda loop, context: (handled.append(context), handler(loop, context)))
        if kind == "TCP":
            server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
            clients = [socket.socket() for _ in range(5)]
            _, port = server.sockets[0].getsockname()
            names.append(f"listener: cannot accept TCP connections at 127.0.0.1:{port}")
        else:
            server = await asyncio.start_unix_server(lambda *_: None, tmp_path / "control")
            clients = [socket.socket(socket.AF_UNIX) for _ in range(5)]
            names.append(f"control: cannot accept connections at {str(tmp_path / 'control')!r}")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 1, hard))
        try:
            for client in clients:
                client.connect(server.sockets[0].getsockname())
            async with asyncio.timeout(30):
                while not handled:
                    await asyncio.sleep(0)
            for _ in range(200):
                await asyncio.sleep(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in clients:
                client.close()
            server.close()
            await server.wait_closed()

    with caplog.at_level(logging.WARNING), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(f"{names[0]}: Too many open files. The limit of open files of this process is ")
    assert text.endswith(": raise it (ulimit -n, LimitNOFILE= under systemd).")
    assert caplog.records[0].exc_info is None
    # asyncio tries each connection of its backlog once, then waits; ours waits at once.
    assert 1 <= len(handled) <= 100


def test_an_exception_of_a_dropped_generator_is_one_line(caplog, capsys, monkeypatch) -> None:
    def dropped(error: Exception):
        try:
            yield
        finally:
            raise error

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back afterwards
    install_unraisable_hook(60.0)
    with caplog.at_level(logging.WARNING):
        for error in (MemoryError(), MemoryError(), KeyError("broken")):
            generator = dropped(error)
            next(generator)
            del generator
    assert [record.getMessage()[:15] for record in caplog.records] == ["out of memory: "]
    shown = capsys.readouterr().err
    assert "KeyError: 'broken'" in shown and "MemoryError" not in shown


def test_a_loop_continues_when_a_shortage_cannot_be_reported() -> None:
    ran = []

    def short() -> None:
        raise MemoryError

    def no_room(loop: asyncio.AbstractEventLoop, context: object) -> None:
        raise MemoryError

    async def body() -> None:
        loop = asyncio.get_running_loop()
        usual = loop.call_exception_handler
        loop.call_exception_handler = lambda context: no_room(loop, context)  # type: ignore[method-assign]
        loop.call_soon(short)
        loop.call_soon(ran.append, 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop.call_exception_handler = usual  # type: ignore[method-assign]

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(body())
    assert ran == [1]


def test_without_any_memory_the_prepared_line_is_logged() -> None:
    """Not one allocation succeeds for a thousand shortages; the second spell has its line as well."""
    code = """if True:
        import itertools, sys, _testcapi
        from resolver.daemon import log, resource_exhaustion
        from resolver.settings import LogSettings
        log.set_up(LogSettings())
        resource_exhaustion.install_unraisable_hook(60.0)
        what, hook = type("Args", (), {"exc_type": MemoryError}), sys.unraisablehook
        for spell in [itertools.repeat(None, 1000), itertools.repeat(None, 1000)]:
            floats = [float(number) for number in range(1000)]  # none remains in the free list
            _testcapi.set_nomemory(0, 0)
            for _ in spell:
                hook(what)
            _testcapi.remove_mem_hooks()
            hook(what)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    lines = [line.partition("message=")[2].strip('"')[:35] for line in done.stderr.splitlines()]
    assert lines == [
        "out of memory: log lines are lost"[:35], "out of memory: an operation failed, the service"[:35],
        "out of memory: log lines are lost"[:35],
    ], done.stderr
