"""Shortage of memory for one table: everything else goes on, so that a test can look at what is left behind."""

from typing import Any

__all__ = ["FullDict"]


class FullDict(dict[Any, Any]):
    """One that finds no memory to grow."""

    def __setitem__(self, key: Any, value: Any) -> None:
        raise MemoryError
