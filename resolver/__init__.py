"""A validating recursive DNS resolver: as a library in your event loop (`Resolver`) and as a daemon (resolverd).

This is the door; what is named here is public. Names are imported when first used, because a program that only wants
the wire format or the settings should not pay for an event loop.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resolver.addrinfo import AddressResolver, install
    from resolver.api import Answer, ExtendedError, Resolver, ResolverStatistics, ResolveTimeout, Trace
    from resolver.effects import Question, TraceStep
    from resolver.errors import Bogus, NoData, NXDomain, ResolveError, ServerFailure
    from resolver.settings import Settings
    from resolver.verdict import Verdict

__all__ = [
    "AddressResolver",
    "Answer",
    "Bogus",
    "ExtendedError",
    "NXDomain",
    "NoData",
    "Question",
    "ResolveError",
    "ResolveTimeout",
    "Resolver",
    "ResolverStatistics",
    "ServerFailure",
    "Settings",
    "Trace",
    "TraceStep",
    "Verdict",
    "install",
]

_HOMES = {
    "resolver.addrinfo": ("AddressResolver", "install"),
    "resolver.api": ("Answer", "ExtendedError", "Resolver", "ResolverStatistics", "ResolveTimeout", "Trace"),
    "resolver.effects": ("Question", "TraceStep"),
    "resolver.errors": ("Bogus", "NoData", "NXDomain", "ResolveError", "ServerFailure"),
    "resolver.settings": ("Settings",),
    "resolver.verdict": ("Verdict",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'resolver' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
