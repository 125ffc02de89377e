"""The metrics of resolverd: name, meaning and labels of each, by the place of its value in the statistics of a worker.

Statistics are groups of counters (`resolver.daemon.worker_commands`). A counter is a number, or a dictionary by label
values, joined with `SEPARATOR` when there are several labels; or, for `FIELD_VALUE` where `Metric.labels` is not empty,
a number for each value. A histogram is a group of `HISTOGRAMS`, with one dictionary by bucket for each label value.

Names follow the conventions of Prometheus: base units, ``_total`` for counters. What differs only by transport has one
name and the label ``transport``; `Metric.transport` is its value. Only what ends in ``_total`` is a counter and is kept
over reloads and restarts of workers (`counters_of`); the rest is gauges. docs/monitoring.md has all metrics in a table,
which a test compares with these.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from resolver.observe.labels import OTHER

__all__ = ["HISTOGRAMS", "METRICS", "PREFIX", "Metric", "Statistics", "counters_of", "find"]

PREFIX: Final = "resolver_"

Statistics = dict[str, dict[str, Any]]
"""Groups of counters by name."""


class Metric(NamedTuple):
    """One metric, or with `transport` the part of one.

    `name` is without `PREFIX`. `labels` are those of its dictionary. `values` are all values of the last of these;
    others count as `OTHER`. Empty: the values come from the configuration, or from a set that is fixed
    where it is counted.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    transport: str = ""
    values: frozenset[str] = frozenset()

    @property
    def is_counter(self) -> bool:
        """Whether it only increases."""
        return self.name.endswith("_total")

    def label_of(self, value: str) -> str:
        """`value` of the last label, or `OTHER` when that has a set without it."""
        return value if not self.values or value in self.values else OTHER


# What OpenSSL and the listeners call the failures that clients cause. A client can cause any of some hundred others.
HANDSHAKE_FAILURES = frozenset({
    "bad certificate", "certificate expired", "certificate unknown", "handshake failure", "no application protocol",
    "protocol version", "unknown ca",
    "closed by the client", "http request", "no shared cipher", "no suitable signature algorithm", OTHER, "timeout",
    "too many handshakes", "tlsv1 alert internal error", "tlsv1 alert protocol version", "tlsv1 alert unknown ca",
    "sslv3 alert bad certificate", "sslv3 alert certificate unknown", "sslv3 alert certificate expired",
    "sslv3 alert handshake failure", "unexpected eof while reading", "unknown protocol", "unsupported protocol",
    "version too low", "wrong version number",
})


def _connections(transport: str) -> dict[str, Metric]:
    """The counters of the listeners for connections of one transport."""
    return {
        "accepted": Metric(
            "client_connections_accepted_total", "Connections of clients that were accepted.", transport=transport
        ),
        "rejected": Metric(
            "client_connections_rejected_total",
            "Connections closed at once by access control or a connection limit.", transport=transport,
        ),
        "access_closed": Metric(
            "client_connections_access_closed_total",
            "Connections closed because the access list of a reload drops their client.", transport=transport,
        ),
        "evicted": Metric(
            "client_connections_evicted_total",
            "Idle or stalled connections closed in favour of new ones.", transport=transport,
        ),
        "write_overrun": Metric(
            "client_connections_write_overrun_total",
            "Connections closed because the client sent queries without reading the replies.", transport=transport,
        ),
        "timed_out": Metric(
            "client_connections_timeouts_total",
            "Connections closed by the idle timeout or a handshake, read or write timeout.", transport=transport,
        ),
        "malformed": Metric(
            "client_connections_malformed_total",
            "Connections closed because the client broke the protocol.", transport=transport,
        ),
        "bad_proxy_headers": Metric(
            "client_bad_proxy_headers_total",
            "Connections of proxies closed, and UDP messages of proxies dropped, because of a wrong PROXY header.",
            transport=transport,
        ),
        "connections": Metric(
            "client_connections",
            "Open connections of clients; with quic also those whose handshake is not completed.", transport=transport,
        ),
    }


def _encrypted(transport: str) -> dict[str, Metric]:
    """As `_connections`, with handshakes."""
    return _connections(transport) | {
        "handshakes": Metric(
            "client_handshakes_total", "TLS and QUIC handshakes completed by clients.", transport=transport
        ),
        "resumed": Metric(
            "client_handshakes_resumed_total", "TLS handshakes of clients that resumed a session.", transport=transport
        ),
        "handshake_failures": Metric(
            "client_handshake_failures_total", "TLS and QUIC handshakes of clients that failed, by reason.",
            ("reason",), transport, HANDSHAKE_FAILURES,
        ),
    }


def _upstream(transport: str) -> dict[str, Metric]:
    """The counters of one transport to name servers and forwarders."""
    names = {
        "sent": ("upstream_messages_sent_total", "Queries sent to servers, including retransmissions over UDP."),
        "replies": ("upstream_replies_total", "Replies of servers accepted."),
        "timeouts": ("upstream_timeouts_total", "Queries to servers without a reply in time."),
        "unwanted_replies": (
            "upstream_unwanted_replies_total",
            "Messages of a queried server that match no query, for example by id, letter case or cookie.",
        ),
        "malformed": ("upstream_malformed_replies_total", "Malformed replies of servers."),
        "network_errors": ("upstream_network_errors_total", "Queries that failed with a network error."),
    }
    if transport != "udp":
        names |= {
            "connections_opened": ("upstream_connections_opened_total", "Connections to servers opened."),
            "evicted": ("upstream_connections_evicted_total", "Connections to servers closed in favour of others."),
        }
    if transport not in ("udp", "tcp"):
        names |= {
            "handshakes": ("upstream_handshakes_total", "Connections to servers whose handshake succeeded."),
            "resumed": ("upstream_handshakes_resumed_total", "Connections to servers that resumed a session."),
            "refused": (
                "upstream_connections_refused_total",
                "Connections to servers refused because of the certificate or a failed handshake.",
            ),
        }
    return {f"{transport}_{field}": Metric(name, text, transport=transport) for field, (name, text) in names.items()}


METRICS: Final[dict[str, dict[str, Metric]]] = {
    "clients": {
        "queries": Metric(
            "client_queries_total",
            "Queries of clients by transport and type; 'none' is for messages without a readable question. Those that "
            "access control drops are not among them.",
            ("transport", "type"),
        ),
        "replies": Metric("client_replies_total", "Replies to clients by transport and rcode.", ("transport", "rcode")),
    },
    "client_tcp": _connections("tcp"),
    "client_dot": _encrypted("tls"),
    "client_doh": _encrypted("https") | {
        "requests": Metric("client_https_requests_total", "DoH requests with a DNS message."),
        "http2_connections": Metric("client_https_http2_connections_total", "DoH connections that used HTTP/2."),
        "refused": Metric(
            "client_https_refused_total", "DoH requests answered with an error, by HTTP status.", ("status",)
        ),
    },
    "client_doq": {
        key: value for key, value in _encrypted("quic").items() if key not in ("resumed", "bad_proxy_headers")
    } | {
        "queries": Metric("client_quic_queries_total", "Queries received over DoQ."),
        "retries": Metric(
            "client_quic_retries_total", "Clients that were asked to prove their address (Retry packets)."
        ),
        "versions_negotiated": Metric(
            "client_quic_versions_negotiated_total",
            "Datagrams of other QUIC versions, answered with the supported one.",
        ),
        "send_errors": Metric("client_quic_send_errors_total", "Datagrams of DoQ that the network did not take."),
        "dropped": Metric(
            "client_quic_dropped_total", "Datagrams dropped on DoQ listeners, by reason.", ("reason",)
        ),
        "protocol_errors": Metric(
            "client_quic_protocol_errors_total", "Rules of DoQ that clients broke, by rule.", ("rule",)
        ),
    },
    "client_udp": {
        "errors": Metric("client_udp_send_errors_total", "UDP replies that the network did not take."),
        "bad_proxy_headers": _connections("udp")["bad_proxy_headers"],
        "lane_declined": Metric("client_udp_lane_declined_total", "Queries that lanes passed to the event loop."),
        "lane_overflowed": Metric(
            "client_udp_lane_overflowed_total",
            "Queries of lanes dropped because the event loop did not take them in time.",
        ),
    },
    "second_level": {
        "hits": Metric("second_level_hits_total", "Look-ups answered by the second-level cache."),
        "misses": Metric(
            "second_level_misses_total", "Look-ups for which the second-level cache had no usable entry."
        ),
        "late": Metric("second_level_late_total", "Look-ups that were not answered in time."),
        "skipped": Metric(
            "second_level_skipped_total",
            "Look-ups not made: circuit breaker open, too many in flight, or no time left.",
        ),
        "failures": Metric("second_level_failures_total", "Batches of look-ups that failed."),
        "fetch_seconds": Metric("second_level_fetch_seconds_total", "Time that hits and misses took, in all."),
        "rejected": Metric("second_level_rejected_total", "Entries and messages not used by reason.", ("reason",)),
        "writes": Metric("second_level_writes_total", "Entries written to the second-level cache."),
        "writes_dropped": Metric(
            "second_level_writes_dropped_total", "Entries not written: circuit breaker open, or too many waiting."
        ),
        "writes_failed": Metric("second_level_writes_failed_total", "Entries that the engine did not store."),
        "messages_sent": Metric("second_level_messages_sent_total", "Messages sent to other resolvers."),
        "messages_received": Metric(
            "second_level_messages_received_total", "Messages of resolvers accepted, counted by each worker."
        ),
        "in_flight": Metric("second_level_in_flight", "Look-ups in progress."),
        "waiting_writes": Metric("second_level_waiting_writes", "Entries waiting to be written."),
        "breaker_open": Metric("second_level_breaker_open", "Workers whose circuit breaker is open or probing."),
        "breaker_opened": Metric("second_level_breaker_opened_total", "How often the circuit breaker was opened."),
    },
    "query_log": {
        "records": Metric("query_log_records_total", "Lines of the query log recorded."),
        "written": Metric("query_log_written_total", "Lines of the query log written to the file."),
        "bytes": Metric("query_log_written_bytes_total", "Bytes written."),
        "dropped_buffer_full": Metric(
            "query_log_dropped_buffer_full_total", "Lines of the query log dropped because the buffer was full."
        ),
        "dropped_write_failed": Metric(
            "query_log_dropped_write_failed_total", "Lines of the query log lost because a write failed."
        ),
        "dropped_stopped": Metric(
            "query_log_dropped_stopped_total", "Lines of the query log left when it was stopped."
        ),
    },
    "dnstap": {
        "records": Metric("dnstap_records_total", "Messages of dnstap recorded."),
        "written": Metric("dnstap_written_total", "Messages of dnstap sent to the collector."),
        "bytes": Metric("dnstap_written_bytes_total", "Bytes written."),
        "dropped_buffer_full": Metric(
            "dnstap_dropped_buffer_full_total", "Messages of dnstap dropped because the buffer was full."
        ),
        "dropped_write_failed": Metric(
            "dnstap_dropped_write_failed_total", "Messages of dnstap lost because a write failed."
        ),
        "dropped_stopped": Metric(
            "dnstap_dropped_stopped_total", "Messages of dnstap left when it was stopped."
        ),
        "connections": Metric("dnstap_connections_total", "Connections that the collector accepted."),
        "failures": Metric("dnstap_failures_total", "Connections to the collector that failed or were lost."),
        "connected": Metric("dnstap_connected", "Workers that are connected to the collector."),
    },
    "hooks": {
        "calls": Metric("hook_calls_total", "Calls of a function of an operator, by module and function.", ("hook",)),
        "errors": Metric(
            "hook_errors_total", "Calls that raised an exception or returned no valid decision.", ("hook",)
        ),
        "timeouts": Metric(
            "hook_timeouts_total", "Coroutines that were cancelled after policy.hook-timeout.", ("hook",)
        ),
        "slow": Metric(
            "hook_slow_total", "Plain functions that held up the worker for longer than they should.", ("hook",)
        ),
        "seconds": Metric("hook_seconds_total", "Time for which functions held up the worker.", ("hook",)),
        "running": Metric("hook_coroutines", "Coroutines of hooks that have not ended."),
    },
    "rate_limit": {
        f"{what}_{action}": Metric(
            f"rate_limit_{what}_{action}_total",
            f"{what.capitalize()} above a limit of [rate-limit] that were {text}, by kind.",
            ("kind",),
        )
        for what, action, text in (
            ("replies", "dropped", "dropped"), ("replies", "truncated", "sent truncated, or as they are for errors"),
            ("replies", "logged", "sent, because of rate-limit.log-only"), ("queries", "dropped", "dropped"),
            ("queries", "truncated", "answered with TC"), ("queries", "refused", "answered REFUSED"),
            ("queries", "logged", "answered, because of rate-limit.log-only"),
        )
    } | {
        "buckets_evicted": Metric(
            "rate_limit_buckets_evicted_total",
            "Limited prefixes that got their full rate again, because rate-limit.table-entries is too small.",
        ),
    },
    "fetch_limit": {
        "refused": Metric(
            "fetch_limit_refused_total",
            "Fetches not started because the zone, or all servers of it, had too many outstanding ([fetch-limit]).",
            ("reason",),
        ),
        "zones": Metric("fetch_limit_zones", "Zones with outstanding fetches."),
        "zones_full": Metric("fetch_limit_zones_full", "Zones with as many outstanding fetches as are permitted."),
        "largest_zone": Metric(
            "fetch_limit_largest_zone", "Most outstanding fetches of one zone, summed over workers."
        ),
        "servers": Metric("fetch_limit_servers", "Server addresses with outstanding queries."),
        "servers_full": Metric(
            "fetch_limit_servers_full", "Server addresses with as many queries as their quota permits."
        ),
        "quota_falls": Metric(
            "fetch_limit_quota_falls_total", "How often the quota of a server fell because of timeouts."
        ),
        "quota_rises": Metric("fetch_limit_quota_rises_total", "How often the quota of a server rose again."),
    },
    "client_subnet": {
        "sent": Metric("client_subnet_queries_total", "Queries to servers that had the subnet of a client."),
        "replies": Metric(
            "client_subnet_replies_total",
            "Replies to them: for some clients only (tailored), for all clients (for_all), without the option"
            " (without), or not used because of the option (rejected).",
            ("kind",), values=frozenset({"tailored", "for_all", "without", "rejected"}),
        ),
        "hits": Metric("client_subnet_hits_total", "Answers taken from the cache of answers for some clients only."),
        "stored": Metric("client_subnet_stored_total", "Answers stored in that cache."),
        "evicted": Metric(
            "client_subnet_evicted_total",
            "Answers removed from that cache before they expired, because client-subnet.size or subnets-per-name was"
            " reached.",
        ),
        "restarted": Metric(
            "client_subnet_restarted_total",
            "Client queries that started again, because the answer they waited for was for another subnet.",
        ),
        "entries": Metric("client_subnet_entries", "Answers in the cache of answers for some clients only."),
        "octets": Metric("client_subnet_bytes", "Memory of the cache of answers for some clients only."),
    },
    "policy": {
        "actions": Metric(
            "policy_actions_total",
            "Actions of policies by point, module and action. Cached answers that repeat one are not counted.",
            ("point", "module", "action"),
        ),
    },
    "upstream": {
        **_upstream("udp"),
        "udp_cookie_replies": Metric("upstream_udp_cookie_replies_total", "UDP replies with the right cookie."),
        "udp_cookie_mismatches": Metric(
            "upstream_udp_cookie_mismatches_total", "UDP replies with a wrong or no cookie."
        ),
        "udp_unknown_replies": Metric(
            "upstream_udp_unknown_replies_total", "UDP messages from addresses not queried."
        ),
        "udp_no_question_errors": Metric(
            "upstream_udp_no_question_errors_total",
            "UDP error replies without a question; the query is sent over TCP.",
        ),
        "udp_spoofing_suspected": Metric(
            "upstream_udp_spoofing_suspected_total", "UDP queries ended after too many unwanted replies."
        ),
        "udp_sockets_opened": Metric("upstream_udp_sockets_opened_total", "UDP sockets opened."),
        "udp_evicted": Metric(
            "upstream_udp_evicted_total",
            "UDP queries that gave up their socket to another client network or zone; they wait again.",
        ),
        "opportunistic_probes": Metric(
            "upstream_opportunistic_probes_total", "Authoritative servers probed for DNS over TLS (RFC 9539)."
        ),
        "opportunistic_probes_succeeded": Metric(
            "upstream_opportunistic_probes_succeeded_total", "Probes that found DNS over TLS."
        ),
        "opportunistic_probes_failed": Metric(
            "upstream_opportunistic_probes_failed_total", "Probes that found none, or another server."
        ),
        "opportunistic_probes_timed_out": Metric(
            "upstream_opportunistic_probes_timed_out_total", "Probes without a reply in time."
        ),
        "opportunistic_queries": Metric(
            "upstream_opportunistic_queries_total", "Queries sent to authoritative servers over TLS."
        ),
        "opportunistic_fallbacks": Metric(
            "upstream_opportunistic_fallbacks_total", "Queries that failed over TLS and were sent in plain text."
        ),
        "opportunistic_connections": Metric(
            "upstream_opportunistic_connections", "Connections over TLS to authoritative servers."
        ),
        "opportunistic_servers": Metric(
            "upstream_opportunistic_servers", "Authoritative servers known to have TLS."
        ),
        **_upstream("tcp"), **_upstream("tls"), **_upstream("https"), **_upstream("quic"),
    },
    "web": {
        "requests": Metric(
            "web_requests_total", "Requests to the web page, by what was sent or why it was refused.", ("result",)
        ),
    },
    "process": {
        "workers": Metric("workers", "Workers that have reported for this page."),
        "starts": Metric("worker_starts_total", "Workers started, also those that replaced one that had ended."),
        "start_failures": Metric(
            "worker_start_failures_total",
            "Workers that ended before they served, also those that server.start-timeout has ended.",
        ),
        "suppressed": Metric("log_suppressed_total", "Log lines left out: equal ones, or too many in one interval."),
    },
    "usage": {
        "items": Metric("usage", "What is in use of each bounded thing, in items.", ("resource",)),
        "items_limit": Metric("usage_limit", "The limit of each bounded thing, in items.", ("resource",)),
        "octets": Metric("usage_bytes", "Memory in use by each bounded thing.", ("resource",)),
        "octets_limit": Metric("usage_limit_bytes", "The limit of memory of each bounded thing.", ("resource",)),
        "memory": Metric(
            "memory_bytes",
            "Memory in use outside the cache that remote parties can fill: the sum of usage_bytes without the cache.",
        ),
        "memory_limit": Metric(
            "memory_limit_bytes", "The limit of memory_bytes: the sum of usage_limit_bytes without the cache.",
        ),
    },
    "fast_path": {
        "received": Metric("client_messages_total", "Messages received from clients over UDP and TCP."),
        "hits": Metric("fast_path_answers_total", "Queries answered from the answer cache on the fast path."),
        "misses": Metric(
            "fast_path_misses_total", "Queries without an entry in the answer cache, passed to the slow path.",
        ),
        "prefetch_due": Metric(
            "fast_path_prefetch_due_total", "Queries passed to the slow path to refresh an answer before it expires.",
        ),
        "non_plain": Metric(
            "fast_path_non_plain_total",
            "Well-formed messages passed to the slow path because they need more than a cached answer.",
        ),
        "truncated": Metric("fast_path_truncated_total", "Replies of the fast path with the TC bit set."),
        "refused": Metric("fast_path_refused_total", "Messages answered REFUSED on the fast path by access control."),
        "access_dropped": Metric("fast_path_access_dropped_total", "Messages dropped on the fast path by policy.drop."),
        "invalid_dropped": Metric(
            "fast_path_invalid_dropped_total", "Messages dropped because they are responses or shorter than a header.",
        ),
        "formerr": Metric("fast_path_formerr_total", "Malformed messages answered FORMERR on the fast path."),
        "malformed": Metric("fast_path_malformed_total", "Malformed messages by what is wrong with them.", ("reason",)),
        "cookies_first": Metric("client_cookies_first_total", "Queries with a client cookie and no server cookie."),
        "cookies_good": Metric("client_cookies_valid_total", "Queries with a valid server cookie."),
        "cookies_bad": Metric("client_cookies_invalid_total", "Queries with an invalid or expired server cookie."),
        "cookies_challenged": Metric(
            "client_cookies_challenged_total",
            "UDP queries not answered because server.require-cookies demands a valid cookie.",
        ),
    },
    "slow_path": {
        "queries": Metric("slow_path_messages_total", "Client messages that the fast path passed to the slow path."),
        "replies": Metric("slow_path_replies_total", "Replies sent by the slow path."),
        "signed": Metric(
            "slow_path_signed_total", "Queries with a valid TSIG record; their replies are signed.",
        ),
        "retransmitted": Metric(
            "slow_path_retransmitted_total", "UDP queries ignored because the same query of the client is pending.",
        ),
        "refused": Metric("slow_path_refused_total", "Messages answered REFUSED by the slow path."),
        "access_dropped": Metric("slow_path_access_dropped_total", "Messages dropped by the slow path by policy.drop."),
        "overloaded": Metric(
            "slow_path_overloaded_total", "Queries above a limit of pending queries (server.overload-action).",
        ),
        "ended": Metric(
            "slow_path_ended_total", "Slow queries ended for new ones at a limit of pending queries (SERVFAIL).",
        ),
        "discarded": Metric("slow_path_discarded_total", "Answers not sent because server.discard-timeout had passed."),
        "truncated": Metric(
            "slow_path_truncated_total",
            "Late answers truncated because many queries of their network waited (server.late-answers-per-network).",
        ),
        "servfail": Metric("slow_path_servfail_total", "Queries whose resolution failed; clients get SERVFAIL."),
        "malformed": Metric("slow_path_malformed_total", "Malformed messages that reached the slow path."),
        "pending": Metric("pending_queries", "Client queries waiting for an answer."),
        "pending_verified": Metric(
            "pending_queries_verified", "Waiting client queries whose address a cookie or TCP has verified.",
        ),
    },
    "tls": {
        "certificate_expiry": Metric(
            "tls_certificate_expiry_timestamp_seconds", "Unix time at which a certificate expires, by file.", ("file",),
        ),
        "staple_expiry": Metric(
            "tls_staple_expiry_timestamp_seconds",
            "Unix time from which an OCSP staple is not sent, by file.", ("file",),
        ),
        "staples_missing": Metric(
            "tls_staple_missing",
            "1 while a certificate that demands an OCSP staple is sent without one, by its file.", ("file",),
        ),
    },
    "resolution": {
        "submitted": Metric("resolution_requests_total", "Queries given to the resolver by the slow path."),
        "from_cache": Metric(
            "resolution_cached_total", "Requests answered from cached RRsets, failures or local data.",
        ),
        "joined": Metric("resolution_joined_total", "Requests and sub-queries that joined a resolution in progress."),
        "jobs": Metric("resolution_jobs_total", "Resolutions started, including sub-queries."),
        "upstream_queries": Metric("upstream_queries_total", "Queries sent to name servers and forwarders."),
        "failures": Metric("resolution_failures_total", "Resolutions that failed, including sub-queries."),
        "dependency_cycles": Metric(
            "resolution_cycles_total", "Sub-queries refused because they would depend on their own result.",
        ),
        "timed_out": Metric("resolution_timeouts_total", "Resolutions that reached iteration.query-timeout."),
        "refused": Metric(
            "resolution_refused_total", "Requests refused because too many resolutions were in progress.",
        ),
        "refused_sub_queries": Metric(
            "resolution_refused_sub_queries_total",
            "Sub-queries refused because too many resolutions were in progress.",
        ),
        "evicted": Metric("resolution_evicted_total", "Slow resolutions ended in favour of new requests."),
        "ended_for_memory": Metric(
            "resolution_memory_evicted_total", "Requests ended because resolutions in progress held too much memory.",
        ),
        "internal_errors": Metric("internal_errors_total", "Unexpected exceptions. Each is a bug; see the log."),
        "out_of_memory": Metric(
            "out_of_memory_total", "Resolutions that failed because memory could not be allocated.",
        ),
        "stale_answers": Metric("stale_answers_total", "Requests answered with stale data (RFC 8767)."),
        "prefetches": Metric("prefetches_total", "Answers refreshed before they expired."),
        "prefetch_refused": Metric("prefetches_refused_total", "Prefetches not started because of their limits."),
        "running": Metric("resolution_running", "Resolutions in progress, including sub-queries."),
        "networks": Metric("resolution_networks", "Client networks with resolutions in progress."),
        "largest_network": Metric(
            "resolution_largest_network", "Most resolutions in progress of one client network, summed over workers.",
        ),
        "memory_jobs": Metric("resolution_memory_bytes", "Memory held by resolutions in progress."),
        "memory": Metric(
            "table_memory_bytes",
            "Memory of the tables for resolution, as servers, denials, delegations and keys, and of resolutions in"
            " progress; a part of memory_bytes.",
        ),
    },
    "signatures": {
        "checks": Metric("signature_checks_total", "DNSSEC signatures verified."),
        "deferred": Metric(
            "signature_checks_deferred_total", "DNSSEC signatures verified in a later iteration of the event loop.",
        ),
    },
    "cache": {
        "entries": Metric("cache_entries", "Entries in the cache by kind.", ("kind",)),
        "stored": Metric("cache_stored_total", "Entries written to the cache by kind.", ("kind",)),
        "evicted": Metric("cache_evicted_total", "Entries evicted from the cache by kind.", ("kind",)),
        "expired": Metric("cache_expired_total", "Expired entries removed from the cache by kind.", ("kind",)),
        "dropped": Metric("cache_flushed_total", "Entries flushed or invalidated by kind.", ("kind",)),
        "hits": Metric("cache_hits_total", "Look-ups that found an entry by kind.", ("kind",)),
        "misses": Metric("cache_misses_total", "Look-ups that found no entry by kind.", ("kind",)),
        "carried": Metric("cache_retained_total", "Entries kept on eviction because they had been used."),
        "refused": Metric(
            "cache_not_stored_total", "Entries not written, because a better one exists or after a flush.",
        ),
        "busy": Metric("cache_lock_contention_total", "Writes given up because another worker held the lock."),
        "repaired": Metric("cache_repaired_total", "Locks and groups recovered from workers that died."),
        "groups": Metric("cache_hash_groups", "Groups of buckets in the hash table of the cache."),
        "bytes_used": Metric("cache_used_bytes", "Memory in use for cache entries."),
        "bytes_limit": Metric("cache_size_bytes", "Memory available for cache entries."),
        "servers_addresses": Metric("infra_cache_entries", "Upstream addresses in the infrastructure cache."),
        "servers_dead": Metric("infra_cache_unreachable", "Upstream addresses that are considered unreachable."),
        "servers_evicted": Metric(
            "infra_cache_evicted_total", "Upstream addresses evicted from the infrastructure cache.",
        ),
        "denials": Metric(
            "aggressive_nsec_entries", "Verified NSEC and NSEC3 records for negative answers (RFC 8198).",
        ),
        "memory_servers": Metric("infra_cache_memory_bytes", "Memory of the infrastructure cache."),
        "memory_denials": Metric("aggressive_nsec_memory_bytes", "Memory of verified NSEC and NSEC3 records."),
    },
    "balance": {
        "up": Metric(
            "balance_target_up", "Workers for which a target of a balanced name is up, by name and address.",
            ("target",),
        ),
        "checks": Metric("balance_checks_total", "Checks of a target of a balanced name.", ("target",)),
        "check_failures": Metric(
            "balance_check_failures_total", "Checks of a target of a balanced name that failed.", ("target",),
        ),
        "answers": Metric(
            "balance_answers_total", "Answers for a balanced name that begin with a target.", ("target",),
        ),
    },
    "lists": {
        "entries": Metric("list_entries", "Entries in force of a block list or response policy zone.", ("list",)),
        "fetched": Metric(
            "list_last_success_timestamp_seconds",
            "Unix time at which a list was fetched or confirmed; 0 for one that is only a file.", ("list",),
        ),
        "failing": Metric(
            "list_failing", "1 while a list cannot be loaded or fetched, so that an older one is in force.", ("list",),
        ),
    },
    "zones": {
        "transfers_in": Metric("zone_transfers_in_total", "Zones transferred from primaries."),
        "transfers_out": Metric("zone_transfers_out_total", "Transfers to secondaries that were begun."),
        "transfer_failures": Metric(
            "zone_transfer_failures_total", "Refreshes of a zone for which all primaries failed.",
        ),
        "transfers_refused": Metric("zone_transfers_refused_total", "Transfer queries that were refused."),
        "refreshes": Metric("zone_refreshes_total", "Queries for the serial of a zone."),
        "loads": Metric("zone_loads_total", "Zones read from a file."),
        "load_failures": Metric("zone_load_failures_total", "Zone files that could not be used."),
        "write_failures": Metric(
            "zone_write_failures_total", "Attempts to write the copy of a zone that failed; it is served from memory.",
        ),
        "notifies_received": Metric("zone_notifies_received_total", "NOTIFY messages of primaries."),
        "notifies_ignored": Metric(
            "zone_notifies_ignored_total", "NOTIFY messages from others, or with a wrong signature.",
        ),
        "serial": Metric("zone_serial", "Serial number of the zone that is served.", ("zone",)),
        "age": Metric(
            "zone_age_seconds", "Time since the primary confirmed the zone, or the file was read.", ("zone",),
        ),
        "failed": Metric("zone_failed", "1 when the last load or refresh of the zone failed, else 0.", ("zone",)),
        "expired": Metric("zone_expired", "1 when the zone has expired and is not used, else 0.", ("zone",)),
    },
    "trust_anchors": {
        "probes": Metric("trust_anchor_probes_total", "Queries for the DNSKEY RRsets of trust anchors (RFC 5011)."),
        "probe_failures": Metric("trust_anchor_probe_failures_total", "Queries of trust anchors that failed."),
        "key_changes": Metric("trust_anchor_key_changes_total", "Changes of the state of a trust anchor key."),
        "write_failures": Metric(
            "trust_anchor_write_failures_total", "Failed writes of dnssec.auto-trust-anchor-file.",
        ),
        "keys": Metric("trust_anchor_keys", "Keys by RFC 5011 state.", ("state",)),
        "last_success": Metric(
            "trust_anchor_last_success_timestamp_seconds",
            "Unix time of the last successful query of the trust anchor that was confirmed longest ago.",
        ),
    },
}

HISTOGRAMS: Final = {
    "client_latency": Metric(
        "client_latency_seconds",
        "Time from reading a query to its answer, by where the answer came from. Its count has the answers by result.",
        ("result",),
    ),
    "upstream_latency": Metric(
        "upstream_latency_seconds", "Time from a query to a server to its reply, by transport.", ("transport",)
    ),
}
"""Groups of statistics that are histograms."""


def find(group: str, counter: str) -> tuple[Metric, str]:
    """The metric of a counter of statistics, and for `FIELD_VALUE` the value, else "".

    Raises:
        KeyError: there is none.
    """
    of_group = METRICS[group]
    if counter in of_group:
        return of_group[counter], ""
    field, _, value = counter.partition("_")
    return of_group[field], value


def counters_of(statistics: Mapping[str, Mapping[str, Any]]) -> Statistics:
    """The counters and histograms of `statistics`, without gauges: what must not go back."""
    found: Statistics = {}
    for group, counters in statistics.items():
        kept = dict(counters) if group in HISTOGRAMS else {
            name: value for name, value in counters.items() if find(group, name)[0].is_counter
        }
        if kept:
            found[group] = kept
    return found
