"""The hook by which another package gives the command line its name resolution.

A package registers a factory in the entry point group ``corenet.resolvers``::

    [project.entry-points."corenet.resolvers"]
    resolver = "resolver.daemon.resolver_factory:connect"

The factory is called as ``factory(argument, trace)`` and returns an async context manager. Its value goes to
``loop.set_resolver``. `argument` is the value of ``--resolver``, empty when it has none. `trace` is None, or a function
to be called with one object for each step, which is displayed by its attributes `kind` and `text`, or else by str(). If
the value has an attribute `trust`, it is the path of a PEM file with the authority of a simulated world; it is used
with ``--playground`` only. corenet imports packages above it only in this way.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points
from typing import cast

from corenet.loop import AddressResolver

__all__ = ["GROUP", "ResolverFactory", "find_resolver"]

GROUP = "corenet.resolvers"


ResolverFactory = Callable[[str, Callable[[object], object] | None], AbstractAsyncContextManager[AddressResolver]]


def find_resolver(name: str | None = None) -> ResolverFactory | None:
    """Return the factory registered as `name` (None: the first one in order of names), or None when there is none."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    for entry in found:
        if name is None or entry.name == name:
            return cast(ResolverFactory, entry.load())
    return None
