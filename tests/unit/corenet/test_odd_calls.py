"""No call of a method ends the process: on an object of another type, on one never initialised, on one at work."""

import asyncio
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import corenet

TESTS = Path(__file__).resolve().parents[2]
PACKAGES = Path(corenet.__file__).parents[1]


@pytest.mark.limit(330)
@pytest.mark.parametrize(
    ("program", "names"), [("odd_calls.py foreign", 150), ("odd_calls.py blank", 150), ("live_calls.py", 350)]
)
def test_every_method_survives_wrong_objects(program: str, names: int) -> None:
    name, *arguments = program.split()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", TESTS / "support" / name, *arguments],
        env={**os.environ, "PYTHONPATH": f"{PACKAGES}:{TESTS}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-10000:])
    assert int(done.stdout.splitlines()[-1].split()[0]) > names


def test_the_error_is_that_of_python() -> None:
    with pytest.raises(TypeError) as ours:
        corenet.Loop.call_at(5, 1.0, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError) as theirs:
        str.join(5, [])  # type: ignore[arg-type]
    named = str(theirs.value).replace("join", "call_at").replace("str", "corenet.core.scheduler.Scheduler")
    assert str(ours.value) == named


@pytest.mark.parametrize("name", [name for name in vars(corenet.Loop) if name.startswith(("sock_", "_sock_"))])
def test_coroutine_methods_check_the_type_of_self(name: str) -> None:
    method = vars(corenet.Loop)[name]
    assert inspect.iscoroutinefunction(method)
    others = [0] * (len(inspect.signature(method).parameters) - 1)
    for wrong in (5, None, object(), corenet.Loop, corenet.LengthFramer()):
        with pytest.raises(TypeError, match="Argument 'self' has incorrect type"):
            method(wrong, *others)


def test_keywords_of_every_shape_still_arrive() -> None:
    class Watched(corenet.Loop):
        pass

    loop = Watched()
    seen: list[object] = []
    try:
        method = corenet.Loop.call_later
        method(loop, 0, seen.append, 1)
        method(loop, delay=0, callback=lambda: seen.append(2), context=None)
        with pytest.raises(TypeError, match="stop"):
            loop.stop(reason=1)  # type: ignore[call-arg]
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
    finally:
        loop.close()
    assert seen == [1, 2]


def test_a_framed_protocol_without_a_framer_is_an_error() -> None:
    """Bytes for a protocol whose subclass does not call ``super().__init__`` were read by way of a null pointer."""
    told: list[str] = []

    class Forgetful(corenet.FramedProtocol):
        def __init__(self) -> None:
            """Nothing, where the framer should have been handed on."""

        def connection_lost(self, error: Exception | None) -> None:
            told.append(str(error))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: told.append(context["message"]))
        server = await loop.create_server(Forgetful, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"bytes")
        assert await reader.read() == b""
        writer.close()
        transport, _ = await loop.create_connection(Forgetful, *server.sockets[0].getsockname())
        with pytest.raises(RuntimeError, match=r"super\(\).__init__\(framer\)"):
            transport.write_frame(b"payload")  # type: ignore[attr-defined]
        transport.abort()
        server.close()

    corenet.run(main())
    assert told[0] == "Fatal error: protocol.frames_received() call failed."
    assert "super().__init__(framer)" in told[1]


def test_a_framer_cannot_be_initialised_again() -> None:
    """A second ``__init__`` in the middle of a frame would have left lengths that no longer fit what was received."""
    framer = corenet.FixedFramer(100)
    assert framer.feed(b"x" * 60) == []
    framer.__init__(4)  # type: ignore[misc]
    assert framer.size == 100
    assert framer.feed(b"y" * 40) == [b"x" * 60 + b"y" * 40]
