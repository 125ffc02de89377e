from collections.abc import Callable, Iterable
from typing import Any, final

from resolver.effects import Ask
from resolver.observe.pieces import Pieces
from resolver.settings.observe import DnstapSettings, QueryLogSettings

MESSAGES: dict[str, int]
PROTOCOLS: dict[str, int]

@final
class Observer:
    def __init__(
        self,
        *,
        log: Pieces | None = None,
        tap: Pieces | None = None,
        log_settings: QueryLogSettings | None = None,
        tap_settings: DnstapSettings | None = None,
        views: Iterable[str] = (),
        is_own: Callable[[bytes, int], bool] | None = None,
        identity: bytes = b"",
        version: bytes = b"",
        seed: int = 1,
    ) -> None: ...
    def flush(self) -> None: ...
    @property
    def observes_upstreams(self) -> bool: ...
    def watch(self, data: bytes, peer: tuple[Any, ...], sink: Any, view: int) -> Any: ...
    def upstream_query(self, ask: Ask, packet: bytes, transport: str) -> None: ...
    def upstream_response(
        self, ask: Ask, packet: bytes, message: bytes, transport: str, seconds: float
    ) -> None: ...
