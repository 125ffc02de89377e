"""The low-level door of the engine, for those who build on descriptors, buffers and frames instead of asyncio.

Everything here works without asyncio and without a running loop. The names below are the whole of the promise; the
modules behind them may change.
"""

from corenet.core import interpreter as interpreter  # isort: skip - refuses before anything is loaded
from corenet.core.buffers import BufferPool, Chunk, PoolExhausted
from corenet.core.engine import Engine
from corenet.core.framer import (
    DelimiterFramer,
    FixedFramer,
    FrameError,
    FrameTooLarge,
    IncompleteFrame,
    LengthFramer,
)
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
    "BufferPool",
    "Chunk",
    "DelimiterFramer",
    "Engine",
    "FixedFramer",
    "FrameError",
    "FrameTooLarge",
    "FrameView",
    "IncompleteFrame",
    "LengthFramer",
    "Poller",
    "PoolExhausted",
    "Watch",
]
