"""Simulates that one table cannot allocate memory. Everything else continues, so that a test can check what remains."""

from typing import Any

__all__ = ["FullDict"]


class FullDict(dict[Any, Any]):
    """One that finds no memory to grow."""

    def __setitem__(self, key: Any, value: Any) -> None:
        raise MemoryError
