"""Which files below a folder this process has open. Other descriptors may come and go with other threads."""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["opened_below"]


def opened_below(folder: Path) -> list[str]:
    """The files of `folder` that the process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(f"{folder}/")]
