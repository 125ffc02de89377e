"""The choice of a connection's engine: libssl itself, or the standard library's memory BIOs.

libssl is the default. The standard library's engine is used when

* the program or the environment selects it: ``use_engine("stdlib")``, ``CORENET_TLS_ENGINE=stdlib``;
* libssl's functions are not available in this Python (`corenet.tls.libssl.load` returns the reason);
* the context has its own `sslobject_class`, whose methods must be called;
* the context has a `_msg_callback`: only calls through the standard library raise the exceptions of that callback.
"""

import os
import ssl
from dataclasses import dataclass

from corenet.tls.engine cimport TlsEngine
from corenet.tls.openssl_engine cimport openssl_engine
from corenet.tls.stdlib_engine cimport stdlib_engine

from corenet.tls.context import ClientContext, CheckedObject
from corenet.tls.libssl import load

__all__ = ["TlsEngineChoice", "make_tls_engine", "tls_engine", "use_engine"]

ENGINES = ("openssl", "stdlib")
ENVIRONMENT = "CORENET_TLS_ENGINE"

# Classes without user code: the engine may bypass their methods.
cdef tuple PLAIN = (ssl.SSLObject, CheckedObject)
cdef object MemoryBIO = ssl.MemoryBIO
# None until the first connection or the first call of `tls_engine`.
cdef object chosen = None
cdef bint native = False


@dataclass(frozen=True, slots=True)
class TlsEngineChoice:
    """The engine of new TLS connections: ``"openssl"`` or ``"stdlib"``, and the reason as a sentence."""

    name: str
    reason: str


def use_engine(name: str) -> None:
    """Select the engine of new TLS connections: ``"openssl"`` (libssl itself, where available) or ``"stdlib"`` (the
    standard library's memory BIOs).

    Raises:
        ValueError: for any other name.
    """
    global chosen, native
    if name not in ENGINES:
        raise ValueError(f"the TLS engine is one of {', '.join(ENGINES)}, not {name!r}")
    if name == "stdlib":
        chosen = TlsEngineChoice("stdlib", "selected by the program or the environment")
    else:
        reason = load()
        if reason is None:
            chosen = TlsEngineChoice("openssl", "libssl of this Python was found")
        else:
            chosen = TlsEngineChoice("stdlib", reason)
    native = chosen.name == "openssl"


def tls_engine() -> TlsEngineChoice:
    """Return which engine new TLS connections use, and why.

    Raises:
        ValueError: when the environment variable ``CORENET_TLS_ENGINE`` is not the name of an engine.
    """
    if chosen is None:
        try:
            use_engine(os.environ.get(ENVIRONMENT) or "openssl")
        except ValueError as error:
            raise ValueError(f"{ENVIRONMENT}: {error}") from None
    return chosen


cdef TlsEngine make_engine(object context, bint server_side, object server_hostname):
    cdef TlsEngine made
    incoming, outgoing = MemoryBIO(), MemoryBIO()
    ssl_object = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
    if chosen is None:
        tls_engine()
    policy = context if not server_side and isinstance(context, ClientContext) else None
    if native and type(ssl_object) in PLAIN and context._msg_callback is None:
        made = openssl_engine(ssl_object, policy)
    else:
        made = stdlib_engine(ssl_object, incoming, outgoing, policy, type(ssl_object) in PLAIN)
    if policy is not None:
        # Read now, because later changes of the context do not affect this connection.
        made.trust = policy.trust()
        if policy.staples != "no":
            made.ask_staple()
    return made


def make_tls_engine(context: ssl.SSLContext, server_side: bool, server_hostname: str | None = None) -> TlsEngine:
    """Make the engine of one connection without a transport; its caller moves the bytes.

    Raises:
        ValueError: when `server_hostname` is not a valid host name.
        ssl.SSLError: when OpenSSL refuses the configuration.
    """
    return make_engine(context, server_side, server_hostname)
