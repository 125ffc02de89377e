"""What the daemon does with what reaches its loop's exception handler: shortage of memory is said, faults are shown.

Under a memory limit (systemd's MemoryMax has none of this; RLIMIT_AS and RLIMIT_DATA do) any allocation can fail, and
whatever was being done then is lost: a packet, a query, a connection. That is no fault of the program, so it is one
plain sentence, and not more often than an interval permits, since each line costs memory as well. Everything else
goes to the loop's own handler with its traceback.
"""

import asyncio
import logging
from typing import Any

from resolver.net.complaint import Complaint

__all__ = ["watch_for_shortage"]

logger = logging.getLogger(__name__)


def watch_for_shortage(loop: asyncio.AbstractEventLoop, interval: float) -> None:
    """Set the loop's exception handler; `interval` is the least time between two lines about memory, in seconds."""
    complaint = Complaint(logger, interval)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), MemoryError):
            complaint.say("out of memory: what was being done is given up and the service goes on; "
                          "a smaller cache.size or a higher limit of the process would help")
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
