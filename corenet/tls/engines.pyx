"""Which engine a connection gets: libssl itself, or the standard library's memory BIOs.

libssl itself is the rule. The other one is used when

* the program or the environment says so: ``use_engine("stdlib")``, ``CORENET_TLS_ENGINE=stdlib``;
* libssl's functions are not to be had in this Python (`corenet.tls.libssl` says why);
* the context makes SSLObjects of a class of its own, whose methods the user wants to be called;
* the context has a `msg_callback`: the standard library keeps the exceptions of that callback for its own next call.
"""

import os
import ssl
from dataclasses import dataclass

from corenet.tls.engine cimport TlsEngine
from corenet.tls.openssl_engine cimport openssl_engine
from corenet.tls.stdlib_engine cimport stdlib_engine

from corenet.tls.context import ClientContext
from corenet.tls.libssl import load

__all__ = ["TlsEngineChoice", "make_tls_engine", "tls_engine", "use_engine"]

ENGINES = ("openssl", "stdlib")
ENVIRONMENT = "CORENET_TLS_ENGINE"

cdef object SSLObject = ssl.SSLObject
cdef object MemoryBIO = ssl.MemoryBIO
# None until the first connection, or the first question.
cdef object chosen = None
cdef bint native = False


@dataclass(frozen=True, slots=True)
class TlsEngineChoice:
    """The engine of new TLS connections: ``"openssl"`` or ``"stdlib"``, and a sentence that says why."""

    name: str
    reason: str


def use_engine(name: str) -> None:
    """Have TLS connections that are made from now on use ``"openssl"`` (libssl itself, where that can be had) or
    ``"stdlib"`` (the standard library's memory BIOs).

    Raises:
        ValueError: for another name.
    """
    global chosen, native
    if name not in ENGINES:
        raise ValueError(f"the TLS engine is one of {', '.join(ENGINES)}, not {name!r}")
    if name == "stdlib":
        chosen = TlsEngineChoice("stdlib", "it was asked for")
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
        ValueError: when the environment variable ``CORENET_TLS_ENGINE`` names none.
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
    if native and type(ssl_object) is SSLObject and context._msg_callback is None:
        made = openssl_engine(ssl_object, policy)
    else:
        made = stdlib_engine(ssl_object, incoming, outgoing, policy)
    if policy is not None:
        # Now: the connection has the settings of this moment, whatever becomes of the context.
        made.trust = policy.trust()
        if policy.staples != "no":
            made.ask_staple()
    return made


def make_tls_engine(context: ssl.SSLContext, server_side: bool, server_hostname: str | None = None) -> TlsEngine:
    """Make the engine of one connection by hand, with nothing but bytes going in and coming out.

    Raises:
        ValueError: when `server_hostname` cannot be a host name.
        ssl.SSLError: when OpenSSL refuses the configuration.
    """
    return make_engine(context, server_side, server_hostname)
