"""The section [cache]: the size of the cache, bounds of TTLs, stale answers and prefetching.

The workers of a daemon share one cache, so sizes are of all workers together.
"""

from dataclasses import dataclass

from resolver import limits
from resolver.options import check_limits, check_path, option

__all__ = ["CacheSettings"]


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Size of the cache, and bounds of the TTLs."""

    size: int = option(
        limits.CACHE_SIZE.default,
        "Memory of the cache. Answers, RRsets and verified denials share it.",
        kind="bytes",
        limit=limits.CACHE_SIZE,
    )
    min_ttl: int = option(
        limits.CACHE_MIN_TTL.default,
        "Lower TTLs of answers are raised to this value. 0 keeps the TTLs of the zones (RFC 1035 3.2.1). TTLs of secure"
        " data, of NS and DS RRsets and of referrals are never raised: signatures and parent zones limit them.",
        kind="seconds",
        limit=limits.CACHE_MIN_TTL,
    )
    max_ttl: int = option(
        limits.CACHE_MAX_TTL.default,
        "Higher TTLs are lowered to this value (RFC 8767 4).",
        kind="seconds",
        limit=limits.CACHE_MAX_TTL,
    )
    max_negative_ttl: int = option(
        limits.CACHE_MAX_NEGATIVE_TTL.default,
        "Longest time for which NXDOMAIN and NODATA are cached (RFC 2308 5).",
        kind="seconds",
        limit=limits.CACHE_MAX_NEGATIVE_TTL,
    )
    bogus_ttl: int = option(
        limits.CACHE_BOGUS_TTL.default,
        "Time for which a query whose answer failed validation is not resolved again (RFC 4035 4.7).",
        kind="seconds",
        limit=limits.CACHE_BOGUS_TTL,
    )
    servfail_ttl: int = option(
        limits.CACHE_FAILURE_TTL.default,
        "Time for which a failed resolution is cached and answered SERVFAIL (RFC 9520 3.2).",
        kind="seconds",
        limit=limits.CACHE_FAILURE_TTL,
    )
    max_servfail_ttl: int = option(
        limits.CACHE_FAILURE_MAX_TTL.default,
        "Each repeated failure doubles `servfail-ttl` up to this value (RFC 9520 3.2).",
        kind="seconds",
        limit=limits.CACHE_FAILURE_MAX_TTL,
    )
    max_stale_ttl: int = option(
        limits.SERVE_STALE.default,
        "Time after expiry for which data are still answered when no server can be reached (serve-stale, RFC 8767). 0"
        ' turns serve-stale off; "1 d" is recommended for production. Bogus data are never answered.',
        kind="seconds",
        limit=limits.SERVE_STALE,
    )
    stale_answer_client_timeout: float = option(
        limits.STALE_TIMEOUT.default / 1000,
        "Time after which a waiting client gets stale data while resolution continues (RFC 8767 5). 0 answers with"
        " stale data at once.",
        kind="seconds",
        limit=limits.STALE_TIMEOUT,
        scale=1000,
    )
    stale_answer_ttl: int = option(
        limits.CACHE_STALE_TTL.default,
        "TTL of stale records in replies (RFC 8767 5.2).",
        kind="seconds",
        limit=limits.CACHE_STALE_TTL,
    )
    snapshot_file: str = option(
        "",
        "File that keeps the cache across a restart. It is written when the daemon stops and read when it starts."
        " Empty: no file.",
    )
    prefetch: bool = option(
        True,
        "Refresh an answer that is queried in the last tenth of its TTL before it expires, so that clients do not"
        " wait for popular names.",
    )
    aggressive_nsec: bool = option(
        True,
        "Synthesise negative answers from cached, verified NSEC and NSEC3 records (RFC 8198). Queries for random"
        " names of a signed zone then cause no upstream queries.",
    )
    infra_cache_entries: int = option(
        limits.CACHE_SERVERS.default,
        "Upstream addresses in the infrastructure cache (round-trip time, EDNS and cookie support), for each worker.",
        limit=limits.CACHE_SERVERS,
    )

    def __post_init__(self) -> None:
        check_limits(self, "cache")
        check_path(self.snapshot_file, "cache.snapshot_file")
        if self.min_ttl > self.max_ttl:
            raise ValueError(f"cache.min_ttl: {self.min_ttl} is above cache.max-ttl ({self.max_ttl})")
