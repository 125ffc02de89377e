"""Settings that limit what clients and zones may take: rates of queries and replies, and outstanding fetches.

Both sections are checked when they are made. `resolver.net.rate_limit` does what `RateLimitSettings` say and
`resolver.iterate.fetch_quota` what `FetchLimitSettings` say. Nothing here reads a file or a clock.
"""

from dataclasses import dataclass

from resolver import limits
from resolver.options import check_limits, check_prefixes, option

__all__ = ["QUERY_ACTIONS", "FetchLimitSettings", "RateLimitSettings"]

QUERY_ACTIONS = ("refuse", "drop", "truncate")
"""What may happen to a query above the limit of queries."""


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """Limits of the queries of each client prefix, and of the replies to it."""

    queries_per_second: int = option(
        0,
        "Queries per second of one client prefix, over UDP and without a valid cookie. 0: no limit. All rates hold in"
        " each worker.",
        limit=limits.RATE_PER_SECOND,
    )
    verified_queries_per_second: int = option(
        0,
        "Queries per second of one client prefix that have a valid cookie or come over TCP, TLS, HTTPS or QUIC. They"
        " are counted apart from the others. 0: no limit.",
        limit=limits.RATE_PER_SECOND,
    )
    queries_action: str = option(
        "refuse",
        'Action for a query above these two limits: "refuse" answers REFUSED, "drop" sends no answer, "truncate"'
        " answers with TC, so that the client asks again over TCP. Over streams it is always refused.",
    )
    responses_per_second: int = option(
        0,
        "Replies per second over UDP to one client prefix that answer the same name and type (response rate limiting)."
        " Clients with a valid cookie are exempt. 0: no limit.",
        limit=limits.RATE_PER_SECOND,
    )
    referrals_per_second: int = option(
        -1, "As responses-per-second, for referrals from the same zone. -1: the value of responses-per-second.",
        limit=limits.RATE_OF_KIND,
    )
    nodata_per_second: int = option(
        -1, "As responses-per-second, for replies without data (NODATA) of the same zone. -1: the same value.",
        limit=limits.RATE_OF_KIND,
    )
    nxdomains_per_second: int = option(
        -1, "As responses-per-second, for names of the same zone that do not exist. -1: the same value.",
        limit=limits.RATE_OF_KIND,
    )
    errors_per_second: int = option(
        -1, "As responses-per-second, for all errors: REFUSED, SERVFAIL, FORMERR and others. -1: the same value.",
        limit=limits.RATE_OF_KIND,
    )
    all_per_second: int = option(
        0,
        "All replies per second over UDP to one client prefix. What exceeds is dropped, whatever `slip` says. 0: no"
        " limit.",
        limit=limits.RATE_PER_SECOND,
    )
    slip: int = option(
        limits.RATE_SLIP.default,
        "One in this many limited replies is sent truncated instead of being dropped, so that a client whose address an"
        " attacker forges gets through over TCP. Errors are sent as they are. 0: none, 1: all.",
        limit=limits.RATE_SLIP,
    )
    window: int = option(
        limits.RATE_WINDOW.default,
        "Seconds after which a prefix that exceeded a limit of replies gets its full rate again, at the latest.",
        limit=limits.RATE_WINDOW,
    )
    ipv4_prefix: int = option(
        limits.RATE_PREFIX4.default, "Length of the client prefixes that are counted together (IPv4).",
        limit=limits.RATE_PREFIX4,
    )
    ipv6_prefix: int = option(
        limits.RATE_PREFIX6.default, "Length of the client prefixes that are counted together (IPv6).",
        limit=limits.RATE_PREFIX6,
    )
    exempt: tuple[str, ...] = option((), "Client prefixes without any of these limits.")
    log_only: bool = option(False, "Only count and log what exceeds the limits; every query is answered.")
    table_entries: int = option(
        limits.RATE_ENTRIES.default,
        "Counters kept in each worker, 16 bytes each. When all are in use, those that limit nothing are used again.",
        limit=limits.RATE_ENTRIES,
    )

    def __post_init__(self) -> None:
        check_limits(self, "rate_limit")
        check_prefixes(self.exempt, "rate_limit.exempt")
        if self.queries_action not in QUERY_ACTIONS:
            raise ValueError(
                f"rate_limit.queries_action: {self.queries_action!r} is not one of {', '.join(QUERY_ACTIONS)}"
            )

    @property
    def of_replies(self) -> tuple[int, int, int, int, int, int]:
        """The rates of answers, referrals, NODATA, NXDOMAIN, errors, and of all replies; 0 for no limit."""
        given = (self.referrals_per_second, self.nodata_per_second, self.nxdomains_per_second, self.errors_per_second)
        referrals, nodata, nxdomains, errors = (self.responses_per_second if rate < 0 else rate for rate in given)
        return self.responses_per_second, referrals, nodata, nxdomains, errors, self.all_per_second


@dataclass(frozen=True, slots=True)
class FetchLimitSettings:
    """Limits of the queries to servers that may be outstanding."""

    per_zone: int = option(
        limits.FETCHES_PER_ZONE.default,
        "Names that may be fetched from the servers of one zone at the same time. Further ones are answered SERVFAIL at"
        " once, or from stale data. Forward zones are not limited, because many zones are behind them, nor is the root."
        " 0: no limit.",
        limit=limits.FETCHES_PER_ZONE,
    )
    per_server: int = option(
        limits.FETCHES_PER_SERVER.default,
        "Queries that may be outstanding at one address of a server. It falls while many of them time out, and rises"
        " again. Other servers of the zone are queried instead. Forwarders are not limited. 0: no limit.",
        limit=limits.FETCHES_PER_SERVER,
    )

    def __post_init__(self) -> None:
        check_limits(self, "fetch_limit")
