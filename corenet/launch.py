"""``python -m corenet.launch PROGRAM ...`` runs an installed program with corenet as asyncio's event loop.

It is for programs that offer no choice of loop (hypercorn, sanic), or only a choice from their own list (granian,
gunicorn's ASGI worker). The loop is installed when this module is executed and not in `main`: multiprocessing executes
the main module again, as ``__mp_main__``, in each child that it spawns, so that the child gets the loop, too.
"""

import importlib
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, cast

from corenet.loop import install

__all__ = ["main"]

USAGE = "usage: python -m corenet.launch PROGRAM [ARGUMENT ...]\n\nRuns an installed program on corenet's event loop."


def prepare() -> None:
    """Make corenet the loop of this process."""
    install()
    if "granian" in sys.argv[:2]:
        from corenet.adapters import granian

        granian.register()


def find(program: str) -> metadata.EntryPoint | None:
    """Return the entry point of the command `program`, None when no package installed it."""
    found = metadata.entry_points(group="console_scripts", name=program)
    return next(iter(found), None)


def main(arguments: list[str]) -> int | str | None:
    """Run the program that is the first argument with the others as its arguments; return its exit status."""
    if not arguments or arguments[0].startswith("-"):
        print(USAGE)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    entry = find(arguments[0])
    if entry is None:
        return f"{arguments[0]} is not a command that an installed Python package provides"
    sys.argv = arguments
    status: int | str | None = load(entry)()
    return status


def load(entry: metadata.EntryPoint) -> Callable[[], Any]:
    """Return the function of the command; as with pip's scripts, the first name may be a module of the package."""
    found: Any = importlib.import_module(entry.module)
    for name in entry.attr.split("."):
        if not hasattr(found, name):
            importlib.import_module(f"{entry.module}.{name}")
        found = getattr(found, name)
    return cast("Callable[[], Any]", found)


if __name__ in ("__main__", "__mp_main__"):
    prepare()
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
