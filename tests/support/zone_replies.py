"""Replies of a `ZoneServer` without a service: they are neither limited nor counted."""

from collections.abc import Iterator
from typing import Any

__all__ = ["Direct"]


class Direct:
    """Gives all replies to the sink."""

    def emit(self, query: bytes, packet: bytes, peer: tuple[Any, ...], sink: Any, view: int = 0) -> None:
        sink.send(packet, peer)

    def takes_many(self, sink: Any) -> bool:
        return bool(sink.takes_many)

    def emit_many(self, packets: Iterator[bytes], peer: tuple[Any, ...], sink: Any) -> bool:
        return bool(sink.send_many(packets, peer))
