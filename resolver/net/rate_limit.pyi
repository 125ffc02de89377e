from collections.abc import Sequence
from typing import Any, final

from resolver.settings.quotas import RateLimitSettings

KINDS: tuple[str, ...]
VERDICTS: tuple[str, ...]

@final
class RateBuckets:
    def __init__(self, entries: int = ..., seed: bytes | None = None) -> None: ...
    @property
    def entries(self) -> int: ...

@final
class RateLimits:
    buckets: RateBuckets
    def __init__(
        self,
        settings: RateLimitSettings,
        views: Sequence[RateLimitSettings] = (),
        buckets: RateBuckets | None = None,
        seed: bytes | None = None,
    ) -> None: ...
    @property
    def active(self) -> bool: ...
    @property
    def limits_replies(self) -> bool: ...
    def statistics(self) -> dict[str, Any]: ...
    def take_events(self) -> list[tuple[str, str, str]]: ...
