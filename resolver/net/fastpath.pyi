from collections.abc import Sequence
from typing import Any, final

from resolver.cache.answers import AnswerCache
from resolver.net.cookies import ServerCookies
from resolver.net.rate_limit import RateLimits
from resolver.observe.observer import Observer
from resolver.observe.samples import Samples
from resolver.policy.access import AccessTable
from resolver.policy.zone_peers import ZonePeers

@final
class FastPath:
    def __init__(
        self,
        answers: AnswerCache,
        access: AccessTable | None = None,
        *,
        largest_reply: int = ...,
        pass_without_rd: bool = True,
        prefetch: bool = False,
        cookies: ServerCookies | None = None,
        counters: FastPath | None = None,
        rates: RateLimits | None = None,
        observer: Observer | None = None,
        peers: ZonePeers | None = None,
    ) -> None: ...
    def for_lane(self) -> FastPath: ...
    def start_samples(self, seed: int) -> list[Samples]: ...
    def stop_samples(self) -> None: ...
    def answer(
        self, data: bytes, peer: Sequence[Any] | None = None, now: int | None = None, stream: bool = False
    ) -> bytes | None: ...
    def answer_encrypted(
        self,
        message: bytes,
        client: bytes,
        block: int,
        now: int | None = None,
        access: int = ...,
        transport: int = 1,
        port: int = 0,
    ) -> tuple[bytes | None, int]: ...
    def answer_frames(
        self,
        frames: list[bytes],
        now: int | None = None,
        client: bytes = b"",
        first: int = 0,
        block: int = 0,
        keepalive: int = -1,
        access: int = ...,
        transport: int = 1,
        port: int = 0,
    ) -> tuple[bytes, list[bytes], int, bool]: ...
    @property
    def answers(self) -> AnswerCache: ...
    @property
    def cookies(self) -> ServerCookies | None: ...
    @property
    def peers(self) -> ZonePeers | None: ...
    @property
    def knows_keys(self) -> bool: ...
    @property
    def rates(self) -> RateLimits | None: ...
    def limit_reply(self, query: bytes, reply: bytes, address: str, now: int, view: int = 0) -> bytes | None: ...
    def access_of(self, address: str) -> int: ...
    def cached(
        self, query: ClientQuery, now: int, limit: int, options: bytes = b"", view: int = 0
    ) -> bytes | None: ...
    def statistics(self) -> dict[str, Any]: ...
    def count_clients(self) -> dict[str, dict[str, int]]: ...
    def hit_latency(self) -> dict[str, float]: ...

@final
class ClientQuery:
    id: int
    flags: int
    qtype: int
    qclass: int
    payload: int
    question_end: int
    edns_version: int
    has_edns: bool
    do: bool
    padded: bool
    qname: bytes
    options: bytes
    wire: bytes
    @property
    def rd(self) -> bool: ...
    @property
    def ad(self) -> bool: ...
    @property
    def cd(self) -> bool: ...

def read_query(data: bytes) -> ClientQuery | int: ...
def finish(
    query: ClientQuery, packet: bytes, limit: int, payload: int, options: bytes = b"", ext_rcode: int = 0
) -> bytes: ...
