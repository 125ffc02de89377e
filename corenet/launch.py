"""``python -m corenet.launch PROGRAM ...`` runs an installed program with corenet as the loop that asyncio gives it.

For programs that offer no choice of loop (hypercorn, sanic), or only one among names of their own (granian, gunicorn's
ASGI worker). The work is done when this module is executed and not in `main`: multiprocessing executes the main module
again in each child that it spawns, under the name ``__mp_main__``, and the child has its loop by the same lines.
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
    """The entry point behind a command."""
    found = metadata.entry_points(group="console_scripts", name=program)
    return next(iter(found), None)


def main(arguments: list[str]) -> int | str | None:
    """Run the program named first with the arguments that follow; what it returns is the exit status."""
    if not arguments or arguments[0].startswith("-"):
        print(USAGE)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    entry = find(arguments[0])
    if entry is None:
        return f"{arguments[0]} is not a program that a Python package has installed here"
    sys.argv = arguments
    status: int | str | None = load(entry)()
    return status


def load(entry: metadata.EntryPoint) -> Callable[[], Any]:
    """What the command calls; as in the script that pip makes, the first name may be a module of the package."""
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
