"""Blocking calls of the resolver when the system gives no thread: an OSError with a reason, never a RuntimeError."""

import ast
import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import resolver
from resolver.net import client_contexts
from resolver.net.client_contexts import TlsContexts
from resolver.net.in_thread import in_thread
from resolver.upstream_address import Encryption

PACKAGE = Path(resolver.__file__).parent


async def none_left(*_: object) -> Any:
    """`in_thread` when there is no thread."""
    raise OSError(errno.EAGAIN, "the system gives no thread (can't start new thread)")


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, None], ids=["asyncio", "corenet"])
def test_a_call_without_a_thread(make_loop: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    import corenet

    called: list[int] = []

    async def main() -> None:
        assert await in_thread(pow, 2, 5) == 32
        with pytest.raises(ValueError, match="invalid literal"):
            await in_thread(int, "x")
        # A pool that is shut down raises what one without threads raises.
        await asyncio.get_running_loop().shutdown_default_executor()
        with pytest.raises(OSError, match="the system gives no thread") as caught:
            await in_thread(called.append, 1)
        assert caught.value.errno == errno.EAGAIN and not called

    with asyncio.Runner(loop_factory=make_loop or corenet.new_event_loop) as runner:
        runner.run(main())


def test_a_context_without_a_thread_is_made_by_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Encryption("tls", "dns.example")

    async def main() -> None:
        contexts = TlsContexts("")
        with monkeypatch.context() as patched:
            patched.setattr(client_contexts, "in_thread", none_left)
            with pytest.raises(OSError, match="no thread"):
                await contexts.get(server)
            with pytest.raises(OSError, match="no thread"):
                await contexts.load_authorities()
        assert await contexts.get(server) is await contexts.get(server)

    asyncio.run(main())


@pytest.mark.checkout
def test_no_other_module_uses_the_pool() -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("run_in_executor", "to_thread")
    }
    assert users == {"net/in_thread.py"}
