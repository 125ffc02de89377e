"""The exit statuses of resolverd, and how the problems of a configuration are printed.

The main process and each worker use both, so a wrong file has the same message and the same status however many workers
read it.
"""

import sys
from typing import TYPE_CHECKING

from resolver.daemon import stdout

if TYPE_CHECKING:
    from resolver.daemon.config import ConfigError

__all__ = ["EXIT_CONFIG", "EXIT_FAILED", "EXIT_OK", "print_problems"]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2


def print_problems(path: str | None, error: "ValueError | ConfigError") -> None:
    """Print `error`, with file and line if the settings came from the file `path`."""
    if path and not str(error).startswith("environment variable "):
        from resolver.daemon import config

        error = config.add_location(path, error)
    for line in str(error).splitlines():
        print(f"resolverd: {stdout.printable(line)}", file=sys.stderr)
