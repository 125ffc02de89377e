"""A validating recursive DNS resolver: as a library in your event loop (`Resolver`) and as a daemon (resolverd).

The names in ``__all__`` are the public API. They are imported when first used, so that a program that needs only the
wire format or the settings does not load an event loop.
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
