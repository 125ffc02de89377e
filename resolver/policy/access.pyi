from collections.abc import Iterable, Mapping
from typing import final

from resolver.policy.ranges import ViewAccess

DROP: int
REFUSE: int
ALLOW: int
DECISION: int
VIEW_SHIFT: int

@final
class AccessTable:
    def __init__(
        self, allow: Iterable[str] = ..., refuse: Iterable[str] = ..., drop: Iterable[str] = ..., *,
        views: Iterable[ViewAccess] = ..., uncached: bool = ..., keyed: Mapping[bytes, AccessTable] = ...,
    ) -> None: ...
    @property
    def keyed(self) -> Mapping[bytes, AccessTable]: ...
    def lookup(self, address: str) -> int: ...
    def view_of(self, address: str) -> int: ...
    def find(self, address: str) -> int: ...
    def find_signed(self, address: str, key: bytes) -> int: ...
    def lookup_sockaddr(self, sockaddr: bytes) -> int: ...
