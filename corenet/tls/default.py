"""The context of connections that were asked for with ``ssl=True``: the standard library's defaults, made once.

asyncio makes a new one for each connection, on the loop: 31 ms that block everybody, nearly all for reading the
system's trust store. Here a process has one for each way to check names, made in a thread on first use. It is made
anew when ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` change, when the files they name do (an update of the trust store), and
when somebody has replaced ``ssl.create_default_context``. Who wants to change a context makes his own.
"""

import asyncio
import os
import ssl
import threading
from collections.abc import Hashable

__all__ = ["default_connection_context", "prepared_connection_context"]

_made: dict[bool, tuple[Hashable, ssl.SSLContext]] = {}
_lock = threading.Lock()


def default_connection_context(check_names: bool) -> ssl.SSLContext:
    """Return the shared context, making it when there is none that fits; safe from any thread.

    `check_names` False leaves the peer's name unchecked, as asyncio does for an empty `server_hostname`.

    Raises:
        ssl.SSLError, OSError: the trust store cannot be read.
    """
    sources = trust_sources()
    found = _made.get(check_names)
    if found is not None and found[0] == sources:
        return found[1]
    with _lock:
        found = _made.get(check_names)
        if found is None or found[0] != sources:
            context = ssl.create_default_context()
            if not check_names:
                context.check_hostname = False
            found = _made[check_names] = (sources, context)
    return found[1]


async def prepared_connection_context(check_names: bool) -> ssl.SSLContext:
    """Return the same, from a thread when it has to be made, so that the loop goes on meanwhile."""
    found = _made.get(check_names)
    if found is not None and found[0] == trust_sources():
        return found[1]
    return await asyncio.get_running_loop().run_in_executor(None, default_connection_context, check_names)


def trust_sources() -> Hashable:
    """What the default context is made from: the function, and the files and folders in their present state."""
    paths = ssl.get_default_verify_paths()
    return (ssl.create_default_context, state_of(paths.cafile), state_of(paths.capath))


def state_of(path: str | None) -> Hashable:
    """Name, identity and time of change of a file or folder."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return (path, None)
    return (path, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


# The thread that held the lock is not in the child.
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))
