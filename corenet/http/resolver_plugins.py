"""The hook through which another package brings its own name resolution to the command line.

A package registers a factory in the entry point group ``corenet.resolvers``::

    [project.entry-points."corenet.resolvers"]
    resolver = "resolver.daemon.resolver_factory:connect"

The factory is called as ``factory(argument, trace)`` and returns an async context manager whose value goes to
``loop.set_resolver``. `argument` is what followed ``--resolver``, empty for the factory's own choice; `trace` is
called with one object for each step, shown by its attributes `kind` and `text` or else by its str, or is None. A
value with an attribute `trust`, the path of a PEM file, names the authority of the simulated world it resolves for,
which is used with ``--playground`` only. This is the only way names reach corenet from above it.
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
    """Return the factory registered under `name`, or the first one by name, or None when there is none."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    for entry in found:
        if name is None or entry.name == name:
            return cast(ResolverFactory, entry.load())
    return None
