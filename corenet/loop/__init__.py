"""The asyncio loop: `Loop`, `new_event_loop`, `run`, and what a resolver must offer to be set on it.

Everything that asyncio promises of a loop is reached from here; the speed comes from `corenet.core` and
`corenet.transports` below.
"""

from corenet.loop.loop import Loop, new_event_loop, run
from corenet.loop.naming import AddressResolver
from corenet.loop.policy import install
from corenet.loop.server import Server
from corenet.loop.statistics import LoopStatistics, SlowCallback

__all__ = [
    "AddressResolver",
    "Loop",
    "LoopStatistics",
    "Server",
    "SlowCallback",
    "install",
    "new_event_loop",
    "run",
]
