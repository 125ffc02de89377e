"""The event loop policy of corenet, and `install`, which sets it, for programs that let asyncio choose the loop.

Prefer a loop factory (`corenet.run`, ``asyncio.Runner(loop_factory=...)``) where a program accepts one: it has no
global effect, and every supported Python has it. asyncio deprecates policies from Python 3.14 on and removes them in
3.16, so `install` warns from 3.14 on (`compat.POLICIES`). The policy inherits from the platform's standard policy, so
that programs that get a child watcher from it still do.
"""

import asyncio
import warnings
from typing import Any

from corenet.loop import compat
from corenet.loop.loop import Loop, new_event_loop

__all__ = ["install", "make_policy_class"]

HELP = "use corenet.run(main()) or pass corenet.new_event_loop as the loop factory"


def make_policy_class() -> type[Any]:
    """Return the class `corenet.EventLoopPolicy`, created on first use, because a reference to its parent class warns
    on some versions.

    Raises:
        RuntimeError: this Python has no policies.
    """
    global policy_class
    if policy_class is None:
        if compat.POLICIES == "removed":
            raise RuntimeError(f"this Python has no event loop policies; {HELP}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # `install` warns the caller, once
            parent: Any = asyncio.DefaultEventLoopPolicy

        class EventLoopPolicy(parent):  # type: ignore[misc]
            """asyncio's default policy, but with corenet's loops; for ``asyncio.set_event_loop_policy``."""

            def new_event_loop(self) -> Loop:
                """Return a new corenet loop."""
                return new_event_loop()

        EventLoopPolicy.__module__, EventLoopPolicy.__qualname__ = "corenet", "EventLoopPolicy"
        policy_class = EventLoopPolicy
    return policy_class


policy_class: type[Any] | None = None


def install() -> None:
    """Make asyncio create corenet loops in this process.

    Warns:
        DeprecationWarning: on Python 3.14 and 3.15, where asyncio itself deprecates policies.

    Raises:
        RuntimeError: on Python 3.16 and later, which have no policies.
    """
    policy = make_policy_class()()
    if compat.POLICIES == "deprecated":
        message = f"corenet.install() will be removed with asyncio's policies; {HELP}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
    with warnings.catch_warnings():
        if compat.POLICIES == "deprecated":
            warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)
