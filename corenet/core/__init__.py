"""The low-level interface of the engine, for programs that use descriptors and frames instead of asyncio.

Everything here works without asyncio and without a running loop. Only the names in ``__all__`` are stable; the modules
that define them may change. Framers and views are loaded when first used, because a loop does not need them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corenet.core import interpreter as interpreter  # isort: skip - checks before other imports
from corenet.core.engine import Engine
from corenet.core.poller import (
    EDGE,
    ERROR,
    EXCLUSIVE,
    HANGUP,
    LEVEL,
    ONESHOT,
    PEER_CLOSED,
    READ,
    WRITE,
    Poller,
    Watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from corenet.core.framer import (
        DelimiterFramer,
        FixedFramer,
        FrameError,
        FrameTooLarge,
        IncompleteFrame,
        LengthFramer,
    )
    from corenet.core.views import FrameView

__all__ = [
    "EDGE",
    "ERROR",
    "EXCLUSIVE",
    "HANGUP",
    "LEVEL",
    "ONESHOT",
    "PEER_CLOSED",
    "READ",
    "WRITE",
    "DelimiterFramer",
    "Engine",
    "FixedFramer",
    "FrameError",
    "FrameTooLarge",
    "FrameView",
    "IncompleteFrame",
    "LengthFramer",
    "Poller",
    "Watch",
]

_FRAMER = "corenet.core.framer"
_LAZY = {
    "DelimiterFramer": _FRAMER,
    "FixedFramer": _FRAMER,
    "FrameError": _FRAMER,
    "FrameTooLarge": _FRAMER,
    "FrameView": "corenet.core.views",
    "IncompleteFrame": _FRAMER,
    "LengthFramer": _FRAMER,
}


def lazy_exports(
    namespace: dict[str, Any], modules: dict[str, str]
) -> "tuple[Callable[[str], Any], Callable[[], list[str]]]":
    """Return ``__getattr__`` and ``__dir__`` (PEP 562) for a package of corenet whose globals are `namespace`.

    `modules` maps each name of ``__all__`` that is loaded when first used to its module. Type checkers find the same
    names imported under ``TYPE_CHECKING``.
    """
    # Not in a module of its own, because loading that would cost every program time.

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        found = namespace[name] = getattr(import_module(modules[name]), name)
        return found

    def names() -> list[str]:
        return sorted({*namespace, *namespace["__all__"]})

    return load, names


__getattr__, __dir__ = lazy_exports(globals(), _LAZY)
