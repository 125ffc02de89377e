"""All that differs between the supported versions of Python.

Rule: no other module of this room looks at ``sys.version_info``. Each name says what the version's asyncio does, so
that a program behaves on this loop as on the standard one of the same interpreter.
"""

import sys

__all__ = ["REMOVES_UNIX_SOCKETS", "WAIT_CLOSED_WAITS"]

#: `Server.wait_closed` waits for the connections that are still open.
WAIT_CLOSED_WAITS = sys.version_info >= (3, 12, 1)

#: A Unix server removes its socket file when it is closed.
REMOVES_UNIX_SOCKETS = sys.version_info >= (3, 13)
