"""The timers of a secondary as functions of its SOA record (RFC 1035 section 3.3.13, RFC 1982, RFC 1996).

Times are seconds of the real-time clock. `fraction` is a random number from 0 to 1, which spreads the queries of many
secondaries. A zone cannot make its secondaries query in a loop, nor keep them from querying for ever.
"""

from resolver import limits
from resolver.zones.zone import SoaFields

__all__ = ["after_failure", "after_success", "expiry", "is_newer"]

HALF = 1 << 31


def is_newer(serial: int, than: int) -> bool:
    """Whether `serial` comes after `than` in serial number arithmetic (RFC 1982 section 3.2)."""
    return serial != than and (serial - than) % (1 << 32) < HALF


def after_success(now: float, soa: SoaFields, fraction: float, shortest: float) -> float:
    """When to query the primary next."""
    return now + _spread(_between(soa.refresh, shortest), fraction)


def after_failure(now: float, soa: SoaFields | None, failures: int, fraction: float, shortest: float) -> float:
    """When to try again after `failures` in a row; without content the times are the shortest."""
    if soa is None:
        first, longest = shortest, float(limits.ZONE_REFRESH_MAX)
    else:
        first = _between(soa.retry, shortest)
        longest = max(_between(soa.refresh, shortest), first)
    wait = first * (1 << min(max(failures - 1, 0), limits.ZONE_BACKOFF))
    return now + _spread(min(wait, longest), fraction)


def expiry(confirmed: int, soa: SoaFields) -> int:
    """When content that was last confirmed at `confirmed` must not be used any more."""
    return confirmed + max(min(soa.expire, limits.ZONE_EXPIRE_MAX), 1)


def _between(seconds: int, shortest: float) -> float:
    return min(max(float(seconds), shortest), float(limits.ZONE_REFRESH_MAX))


def _spread(seconds: float, fraction: float) -> float:
    """Up to `limits.ZONE_JITTER` percent less, because a refresh that is late has no use."""
    return seconds * (1 - fraction * limits.ZONE_JITTER / 100)
