from collections.abc import Iterable
from typing import final

DROP: int
REFUSE: int
ALLOW: int

@final
class AccessTable:
    def __init__(
        self, allow: Iterable[str] = ..., refuse: Iterable[str] = ..., drop: Iterable[str] = ...
    ) -> None: ...
    def lookup(self, address: str) -> int: ...
    def lookup_sockaddr(self, sockaddr: bytes) -> int: ...
