"""corenet for programs that let asyncio choose the loop: a policy, and `install` to put it in force.

A loop factory (`corenet.run`, ``asyncio.Runner(loop_factory=...)``) is the better way wherever a program offers one:
it is local and every Python has it. asyncio deprecates policies from Python 3.14 on and drops them in 3.16, so
`install` warns from 3.14 on, and only there; `compat` knows which version does what. The policy inherits from the
standard one of the platform, so that programs that ask it for a child watcher still get one.
"""

import asyncio
import warnings
from typing import Any

from corenet.loop import compat
from corenet.loop.loop import Loop, new_event_loop

__all__ = ["install", "make_policy_class"]

HELP = "use corenet.run(main()) or pass corenet.new_event_loop as the loop factory"


def make_policy_class() -> type[Any]:
    """The class `corenet.EventLoopPolicy`; made on first use, because to name its parent warns on some versions.

    Raises:
        RuntimeError: this Python has no policies.
    """
    global policy_class
    if policy_class is None:
        if compat.POLICIES == "gone":
            raise RuntimeError(f"this Python has no event loop policies; {HELP}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the caller is warned by `install`, once
            parent: Any = asyncio.DefaultEventLoopPolicy

        class EventLoopPolicy(parent):  # type: ignore[misc]
            """asyncio's own policy, with loops of corenet; for ``asyncio.set_event_loop_policy``."""

            def new_event_loop(self) -> Loop:
                """Return a new loop of corenet."""
                return new_event_loop()

        EventLoopPolicy.__module__, EventLoopPolicy.__qualname__ = "corenet", "EventLoopPolicy"
        policy_class = EventLoopPolicy
    return policy_class


policy_class: type[Any] | None = None


def install() -> None:
    """Make corenet the loop of everything in this process that asks asyncio for a new one.

    Warns:
        DeprecationWarning: on Python 3.14 and 3.15, where asyncio itself deprecates policies.

    Raises:
        RuntimeError: on Python 3.16 and later, which have no policies.
    """
    policy = make_policy_class()()
    if compat.POLICIES == "deprecated":
        warnings.warn(f"corenet.install() goes away with asyncio's policies; {HELP}", DeprecationWarning, stacklevel=2)
    with warnings.catch_warnings():
        if compat.POLICIES == "deprecated":
            warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)
