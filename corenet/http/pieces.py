"""The pieces of a body in the order they came, small ones joined at once.

A server chooses how its body is cut up. Two bytes kept as an object of their own take some forty, so a limit of bytes
would be none of memory. Invariant: apart from the first and the last, no two neighbours are both short, so what is kept
is at most an eighth more than the bytes themselves, and a page.
"""

from collections import deque

from corenet.limits import HTTP_COALESCE_BELOW, HTTP_COALESCED_SIZE

__all__ = ["Pieces"]


class Pieces:
    """A queue of bytes; `size` is how many wait in it."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: deque[bytes | bytearray] = deque()
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Append `piece`; it is copied only when it is short and what stands before it is."""
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
        """Take the first piece off; IndexError when there is none."""
        piece = self.parts.popleft()
        self.size -= len(piece)
        return piece if type(piece) is bytes else bytes(piece)

    def clear(self) -> None:
        """Drop everything."""
        self.parts.clear()
        self.size = 0

    def take(self) -> bytes:
        """Return everything as one object and keep nothing."""
        parts = self.parts
        if len(parts) == 1:
            return self.pop()
        whole = b"".join(parts)
        self.clear()
        return whole

    def __bool__(self) -> bool:
        return bool(self.parts)
