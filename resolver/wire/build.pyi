from collections.abc import Iterable
from typing import final

from resolver.wire.rrset import RRset

@final
class Builder:
    def __init__(self, limit: int = 65535, *, reserve_opt: int = 0) -> None: ...
    def start(self, id: int, flags: int, qname: bytes | None, qtype: int = 0, qclass: int = 1) -> None: ...
    def add(
        self,
        section: int,
        rrset: RRset,
        *,
        ttl: int | None = None,
        sigs: bool = False,
        name: bytes | None = None,
    ) -> bool: ...
    def fill(
        self,
        answer: Iterable[RRset],
        authority: Iterable[RRset] = (),
        additional: Iterable[RRset] = (),
        *,
        sigs: bool = False,
    ) -> bool: ...
    def opt(
        self,
        payload: int,
        *,
        do: bool = False,
        ext_rcode: int = 0,
        version: int = 0,
        options: Iterable[tuple[int, bytes]] = (),
        pad_block: int = 0,
    ) -> bool: ...
    def truncate(self) -> None: ...
    def finish(self) -> bytes: ...
    @property
    def size(self) -> int: ...

def make_query(
    id: int,
    qname: bytes,
    qtype: int,
    *,
    qclass: int = 1,
    flags: int = 0x0100,
    edns_payload: int | None = 1232,
    do: bool = False,
    options: Iterable[tuple[int, bytes]] = (),
) -> bytes: ...
def make_error(
    query: bytes,
    rcode: int,
    *,
    flags: int = 0x0080,
    edns_payload: int | None = None,
    do: bool = False,
    options: Iterable[tuple[int, bytes]] = (),
) -> bytes | None: ...
