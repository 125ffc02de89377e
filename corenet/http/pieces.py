"""A queue of body pieces in order; short neighbours are joined.

A server decides how its body is split. A separate object of two bytes takes about forty bytes, so a limit in bytes
would not limit memory. Invariant: of two neighbours, apart from the first and the last piece, at most one is short. So
the memory is at most an eighth more than the bytes, plus a page.
"""

from collections import deque

from corenet.limits import HTTP_COALESCE_BELOW, HTTP_COALESCED_SIZE

__all__ = ["Pieces"]


class Pieces:
    """A queue of bytes; `size` is the number of bytes in it."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: deque[bytes | bytearray] = deque()
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Append `piece`. It is copied only when it and the piece before it are short."""
        self.size += len(piece)
        parts = self.parts
        if parts and len(piece) < HTTP_COALESCE_BELOW:
            last = parts[-1]
            if type(last) is bytearray:
                if len(last) < HTTP_COALESCED_SIZE:
                    last += piece
                    return
            elif len(last) < HTTP_COALESCE_BELOW:
                joined = bytearray(last)
                joined += piece
                parts[-1] = joined
                return
        parts.append(piece)

    def pop(self) -> bytes:
        """Remove and return the first piece; IndexError when there is none."""
        piece = self.parts.popleft()
        self.size -= len(piece)
        return piece if type(piece) is bytes else bytes(piece)

    def clear(self) -> None:
        """Remove all pieces."""
        self.parts.clear()
        self.size = 0

    def take(self) -> bytes:
        """Remove all pieces and return them as one object."""
        parts = self.parts
        if len(parts) == 1:
            return self.pop()
        whole = b"".join(parts)
        self.clear()
        return whole

    def __bool__(self) -> bool:
        return bool(self.parts)
