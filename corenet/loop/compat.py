"""All that differs between the supported versions of Python.

Rule: no other module of this room looks at ``sys.version_info``. Each name says what the version's asyncio does, so
that a program behaves on this loop as on the standard one of the same interpreter.
"""

import asyncio
import sys
from asyncio import base_events, coroutines, events, format_helpers

__all__ = [
    "CLOSES_CLIENTS_WHEN_CANCELLED",
    "GUARDS_HANDLES",
    "MAKES_TRANSPORTS_IN_CONTEXT",
    "NAMES_ARGUMENTS_IN_DEBUG",
    "PASSES_TASK_KEYWORDS",
    "POLICIES",
    "REMOVES_UNIX_SOCKETS",
    "STARTS_TASKS_EAGERLY",
    "WAIT_CLOSED_WAITS",
    "is_coroutine_function",
    "policies_in",
]

#: `create_task` passes keywords that it does not know to the task or its factory.
PASSES_TASK_KEYWORDS = sys.version_info >= (3, 13, 3)

#: Messages about a callback show its arguments in debug mode only.
NAMES_ARGUMENTS_IN_DEBUG = "debug" in (format_helpers._format_callback_source.__kwdefaults__ or {})

#: `asyncio.Task` takes `eager_start`.
STARTS_TASKS_EAGERLY = sys.version_info >= (3, 12)

#: `Server.wait_closed` waits for the connections that are still open.
WAIT_CLOSED_WAITS = sys.version_info >= (3, 12, 1)

#: `Server.serve_forever` closes the connections when it is cancelled; it came to some versions with a bug-fix release.
CLOSES_CLIENTS_WHEN_CANCELLED = "close_clients" in base_events.Server.serve_forever.__code__.co_names

#: Cancelling a handle of `call_soon_threadsafe` in another thread waits for the callback that runs.
GUARDS_HANDLES = hasattr(events, "_ThreadSafeHandle")

#: What makes transports, `_make_socket_transport` and its like, is given the context that they live in (3.15).
_make_pair = base_events.BaseEventLoop._create_connection_transport  # type: ignore[attr-defined]
MAKES_TRANSPORTS_IN_CONTEXT = "context" in _make_pair.__code__.co_varnames

#: asyncio's own test whether a function makes coroutines; the public one is deprecated from 3.14 on.
is_coroutine_function = getattr(coroutines, "_iscoroutinefunction", None) or asyncio.iscoroutinefunction

#: A Unix server removes its socket file when it is closed.
REMOVES_UNIX_SOCKETS = sys.version_info >= (3, 13)


def policies_in(version: tuple[int, ...]) -> str:
    """What asyncio of this version thinks of event loop policies: "fine", "deprecated" (3.14) or "gone" (3.16)."""
    if version >= (3, 16):
        return "gone"
    return "deprecated" if version >= (3, 14) else "fine"


POLICIES = policies_in(sys.version_info[:2])
