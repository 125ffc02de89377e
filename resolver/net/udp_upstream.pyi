import asyncio
from collections.abc import Callable
from typing import final

from resolver.effects import Ask, Failure, Reply
from resolver.net.clock_random import Entropy
from resolver.net.routes import RouteChecker
from resolver.net.upstream_slots import RepliedNetworks
from resolver.observe.observer import Observer

@final
class UpstreamSocket: ...

@final
class UdpQuery:
    def cancel(self) -> None: ...

@final
class UdpUpstream:
    after_batch: Callable[[], object] | None
    observer: Observer | None
    sent: int
    replies: int
    timeouts: int
    unwanted_replies: int
    unknown_replies: int
    malformed: int
    network_errors: int
    no_question_errors: int
    spoofing_suspected: int
    sockets_opened: int
    evicted: int
    cookies: int
    cookie_mismatches: int
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        entropy: Entropy,
        source_v4: str = "",
        source_v6: str = "",
        port_per_query: bool = True,
        randomise_case: bool = True,
        sockets: int = ...,
        kept: int = ...,
        ports: int = ...,
        port_uses: int = ...,
        port_age: float = ...,
        unwanted_reply_threshold: int = ...,
        replied_networks: RepliedNetworks | None = None,
        routes: RouteChecker | None = None,
        after_batch: Callable[[], object] | None = None,
    ) -> None: ...
    def start(self, ask: Ask, on_reply: Callable[[Reply | Failure], object]) -> UdpQuery: ...
    def close(self) -> None: ...
    @property
    def pending(self) -> int: ...
    @property
    def addresses(self) -> int: ...
    @property
    def open_sockets(self) -> int: ...
    @property
    def max_sockets(self) -> int: ...
    @property
    def open_port_numbers(self) -> list[int]: ...
    def statistics(self) -> dict[str, int]: ...
