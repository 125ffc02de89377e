"""The default contexts, each made once for the process: of the HTTP client, and of connections with ``ssl=True``.

asyncio makes a new context for each connection, on the loop: 31 ms that block everybody, nearly all for reading the
system's trust store. Here a process has one of each kind, made in a thread on first use. It is made anew when
``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` change, when the files they name do (an update of the trust store), and when
somebody has replaced ``ssl.create_default_context``. Who wants to change a context makes his own.
"""

import asyncio
import os
import ssl
import threading
from collections.abc import Callable, Hashable

from corenet.tls.context import client_context

__all__ = ["default_client_context", "prepared_context", "shared_context", "standard_context"]

_made: dict[Callable[[], ssl.SSLContext], tuple[Hashable, ssl.SSLContext]] = {}
_lock = threading.Lock()


def default_client_context() -> ssl.SSLContext:
    """Return the process's shared client context: system trust store, HTTP/1.1; the first call takes about 31 ms.

    Safe to call from any thread. Callers must not change the context: everybody shares it.
    """
    return shared_context(client_context)


def standard_context(check_names: bool) -> Callable[[], ssl.SSLContext]:
    """What makes the context of ``ssl=True``; it leaves names unchecked for an empty `server_hostname`, as asyncio."""
    return _checking_names if check_names else _ignoring_names


def _checking_names() -> ssl.SSLContext:
    return ssl.create_default_context()


def _ignoring_names() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


def shared_context(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the shared context that `make` makes, and call it when there is none that fits; safe from any thread.

    Raises:
        ssl.SSLError, OSError: the trust store cannot be read.
    """
    sources = trust_sources()
    context = _made_from(make, sources)
    if context is None:
        with _lock:
            # Another thread may have made it meanwhile.
            context = _made_from(make, sources)
            if context is None:
                context = make()
                _made[make] = (sources, context)
    return context


async def prepared_context(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the same, from a thread when it has to be made, so that the loop goes on meanwhile."""
    context = _made_from(make, trust_sources())
    if context is None:
        context = await asyncio.get_running_loop().run_in_executor(None, shared_context, make)
    return context


def _made_from(make: Callable[[], ssl.SSLContext], sources: Hashable) -> ssl.SSLContext | None:
    """The shared context of `make`, unless it was made from other sources or not yet."""
    found = _made.get(make)
    return None if found is None or found[0] != sources else found[1]


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
