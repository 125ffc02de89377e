"""The low-level door of the engine, for those who build on descriptors and frames instead of asyncio.

Everything here works without asyncio and without a running loop. The names below are the whole of the promise; the
modules behind them may change. Framers and views are loaded when first used: a loop does without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corenet.core import interpreter as interpreter  # isort: skip - refuses before anything is loaded
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
    door: dict[str, Any], modules: dict[str, str]
) -> "tuple[Callable[[str], Any], Callable[[], list[str]]]":
    """The ``__getattr__`` and ``__dir__`` (PEP 562) of the package whose globals are `door`, this one or one above.

    `modules` has the module of each name of ``__all__`` that is loaded when it is first used. Type checkers find the
    same names imported under ``TYPE_CHECKING``.
    """
    # Here and not in a module of its own, for which every program would pay.

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {door['__name__']!r} has no attribute {name!r}")
        found = door[name] = getattr(import_module(modules[name]), name)
        return found

    def names() -> list[str]:
        return sorted({*door, *door["__all__"]})

    return load, names


__getattr__, __dir__ = lazy_exports(globals(), _LAZY)
