"""The default contexts, made once per process: for the HTTP client, and for connections with ``ssl=True``.

asyncio makes a new context for each connection, in the loop's thread. That blocks the loop for 31 ms, nearly all of it
for reading the system's trust store. Here a process has one context of each kind, made in a thread on first use. It is
replaced when ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` change, when the files they name change (an update of the trust
store), and when the program replaces ``ssl.create_default_context``. The contexts are shared and must not be changed.
"""

import asyncio
import os
import ssl
import threading
from collections.abc import Callable, Hashable

from corenet.tls.context import client_context

__all__ = ["default_client_context", "prepared_context", "shared_context", "standard_context", "system_authorities"]

_made: dict[Callable[[], ssl.SSLContext], tuple[Hashable, ssl.SSLContext]] = {}
_lock = threading.Lock()


def default_client_context() -> ssl.SSLContext:
    """Return the process's shared client context: system trust store, HTTP/1.1; the first call takes about 31 ms.

    Safe to call from any thread. Callers must not change the context, because all of them share it.
    """
    return shared_context(client_context)


def system_authorities() -> bytes:
    """Return the system's trust store in PEM, as far as it is in one file; the first call takes about 31 ms.

    Safe to call from any thread.

    Raises:
        ssl.SSLError, OSError: the trust store cannot be read.
    """
    found = default_client_context().get_ca_certs(binary_form=True)
    return "".join(ssl.DER_cert_to_PEM_cert(one) for one in found).encode("ascii")


def standard_context(check_names: bool) -> Callable[[], ssl.SSLContext]:
    """Return the function that makes the context of ``ssl=True``; as in asyncio, an empty host name is not checked."""
    return _checking_names if check_names else _ignoring_names


def _checking_names() -> ssl.SSLContext:
    return ssl.create_default_context()


def _ignoring_names() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


def shared_context(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the shared context of `make`; call `make` when there is none or it is outdated. Safe from any thread.

    Raises:
        ssl.SSLError, OSError: the trust store cannot be read.
    """
    sources = trust_sources()
    context = _made_from(make, sources)
    if context is None:
        with _lock:
            # Another thread may have made it while this one waited for the lock.
            context = _made_from(make, sources)
            if context is None:
                context = make()
                _made[make] = (sources, context)
    return context


async def prepared_context(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """As `shared_context`, but a context that must be made is made in a thread, so the loop is not blocked."""
    context = _made_from(make, trust_sources())
    if context is None:
        context = await asyncio.get_running_loop().run_in_executor(None, shared_context, make)
    return context


def _made_from(make: Callable[[], ssl.SSLContext], sources: Hashable) -> ssl.SSLContext | None:
    """The shared context of `make`; None when there is none or its sources have changed."""
    found = _made.get(make)
    return None if found is None or found[0] != sources else found[1]


def trust_sources() -> Hashable:
    """What the default context depends on: the function that makes it, and the state of the trust store's paths."""
    paths = ssl.get_default_verify_paths()
    return (ssl.create_default_context, state_of(paths.cafile), state_of(paths.capath))


def state_of(path: str | None) -> Hashable:
    """Name, identity, modification time and size of a file or directory."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return (path, None)
    return (path, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


# In the child of a fork, the thread that held the lock does not exist and would never release it.
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))
