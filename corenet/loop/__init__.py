"""The asyncio loop: `Loop`, `new_event_loop`, `run`, and `AddressResolver`, the interface of `Loop.set_resolver`.

This package implements asyncio's loop interface. The code that runs for each event is in `corenet.core` and
`corenet.transports`.
"""

from typing import TYPE_CHECKING

from corenet.core import lazy_exports
from corenet.loop.loop import Loop, new_event_loop, run
from corenet.loop.name_resolution import AddressResolver, RecordLookupError, RecordResolver, Records, record_resolver

if TYPE_CHECKING:
    from corenet.loop.policy import install
    from corenet.loop.server import Server
    from corenet.loop.statistics import LoopStatistics, SlowCallback

__all__ = [
    "AddressResolver",
    "Loop",
    "LoopStatistics",
    "RecordLookupError",
    "RecordResolver",
    "Records",
    "Server",
    "SlowCallback",
    "install",
    "new_event_loop",
    "record_resolver",
    "run",
]

_LAZY = {
    "LoopStatistics": "corenet.loop.statistics",
    "Server": "corenet.loop.server",
    "SlowCallback": "corenet.loop.statistics",
    "install": "corenet.loop.policy",
}

__getattr__, __dir__ = lazy_exports(globals(), _LAZY)
