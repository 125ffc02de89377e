"""Metrics for Prometheus over HTTP: the counters of all workers, summed, on a listener of their own.

`METRICS` gives each counter of `Statistics` its metric name and help text. Names follow the conventions of Prometheus:
prefix ``resolver_``, base units, ``_total`` for counters; a name without ``_total`` is a gauge.

prometheus-client, which writes the text format, is imported when the listener is created. The HTTP server answers only
``GET /metrics`` and ``HEAD /metrics``. It bounds size and time of a request and the number of connections
(CVE-2026-33256). There is no access control, so the listener belongs on an address that only monitoring can reach.
"""

import asyncio
import importlib.util
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.daemon.management import ManagementServer
from resolver.daemon.worker_commands import Statistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["MetricsServer", "check", "families", "render"]

MISSING = "metrics.listen: prometheus-client is not installed; run: pip install 'corenet-resolver[metrics]'"

logger = logging.getLogger(__name__)

REQUEST = limits.METRICS_REQUEST
TIMEOUT = limits.METRICS_TIMEOUT / 1000
CONNECTIONS = limits.METRICS_CONNECTIONS

# Group and counter of `Statistics` -> metric name without prefix, help text.
METRICS: dict[str, dict[str, tuple[str, str]]] = {
    "fast_path": {
        "received": ("client_messages_total", "Messages received from clients over UDP and TCP."),
        "hits": ("fast_path_answers_total", "Queries answered from the answer cache on the fast path."),
        "misses": ("fast_path_misses_total", "Queries without an entry in the answer cache, passed to the slow path."),
        "prefetch_due": (
            "fast_path_prefetch_due_total", "Queries passed to the slow path to refresh an answer before it expires."
        ),
        "non_plain": (
            "fast_path_non_plain_total", "Well-formed messages passed to the slow path because they need more than a "
            "cached answer."
        ),
        "truncated": ("fast_path_truncated_total", "Replies of the fast path with the TC bit set."),
        "refused": ("fast_path_refused_total", "Messages answered REFUSED on the fast path by access control."),
        "access_dropped": ("fast_path_access_dropped_total", "Messages dropped on the fast path by policy.drop."),
        "invalid_dropped": (
            "fast_path_invalid_dropped_total", "Messages dropped because they are responses or shorter than a header."
        ),
        "formerr": ("fast_path_formerr_total", "Malformed messages answered FORMERR on the fast path."),
        "malformed": ("fast_path_malformed_total", "Malformed messages by what is wrong with them."),
        "cookies_first": ("client_cookies_first_total", "Queries with a client cookie and no server cookie."),
        "cookies_good": ("client_cookies_valid_total", "Queries with a valid server cookie."),
        "cookies_bad": ("client_cookies_invalid_total", "Queries with an invalid or expired server cookie."),
        "cookies_challenged": (
            "client_cookies_challenged_total",
            "UDP queries not answered because server.require-cookies demands a valid cookie.",
        ),
    },
    "slow_path": {
        "queries": ("slow_path_messages_total", "Client messages that the fast path passed to the slow path."),
        "replies": ("slow_path_replies_total", "Replies sent by the slow path."),
        "retransmitted": (
            "slow_path_retransmitted_total", "UDP queries ignored because the same query of the client is pending."
        ),
        "refused": ("slow_path_refused_total", "Messages answered REFUSED by the slow path."),
        "access_dropped": ("slow_path_access_dropped_total", "Messages dropped by the slow path by policy.drop."),
        "overloaded": (
            "slow_path_overloaded_total", "Queries above a limit of pending queries (server.overload-action)."
        ),
        "discarded": ("slow_path_discarded_total", "Answers not sent because server.discard-timeout had passed."),
        "servfail": ("slow_path_servfail_total", "Queries whose resolution failed; clients get SERVFAIL."),
        "malformed": ("slow_path_malformed_total", "Malformed messages that reached the slow path."),
        "pending": ("pending_queries", "Client queries waiting for an answer."),
        "pending_verified": (
            "pending_queries_verified", "Waiting client queries whose address a cookie or TCP has verified."
        ),
    },
    "client_tcp": {
        "accepted": ("client_tcp_accepted_total", "TCP connections of clients that were accepted."),
        "rejected": (
            "client_tcp_rejected_total", "TCP connections closed at once by access control or a connection limit."
        ),
        "evicted": ("client_tcp_evicted_total", "Idle or stalled TCP connections closed in favour of new ones."),
        "write_overrun": (
            "client_tcp_write_overrun_total",
            "TCP connections closed because the client sent queries without reading the replies.",
        ),
        "timed_out": (
            "client_tcp_timeouts_total", "TCP connections closed by the idle timeout or a read or write timeout."
        ),
        "malformed": (
            "client_tcp_malformed_total", "TCP connections closed because the client sent something else than queries."
        ),
        "bad_proxy_headers": (
            "client_tcp_bad_proxy_headers_total",
            "TCP connections of proxies closed because of a wrong PROXY header.",
        ),
        "connections": ("client_tcp_connections", "Open TCP connections of clients."),
    },
    "client_dot": {
        "accepted": ("client_dot_accepted_total", "DoT connections of clients that were accepted."),
        "rejected": (
            "client_dot_rejected_total", "DoT connections closed at once by access control or a connection limit."
        ),
        "evicted": ("client_dot_evicted_total", "Idle or stalled DoT connections closed in favour of new ones."),
        "write_overrun": (
            "client_dot_write_overrun_total",
            "DoT connections closed because the client sent queries without reading the replies.",
        ),
        "timed_out": (
            "client_dot_timeouts_total",
            "DoT connections closed by the idle timeout or a handshake, read or write timeout.",
        ),
        "malformed": (
            "client_dot_malformed_total", "DoT connections closed because the client broke the protocol."
        ),
        "bad_proxy_headers": (
            "client_dot_bad_proxy_headers_total", "DoT connections of proxies closed because of a wrong PROXY header."
        ),
        "connections": ("client_dot_connections", "Open DoT connections of clients."),
        "handshakes": ("client_dot_handshakes_total", "TLS handshakes completed by DoT clients."),
        "resumed": ("client_dot_resumed_total", "TLS handshakes of DoT clients that resumed a session."),
        "handshake_failures": (
            "client_dot_handshake_failures_total", "TLS handshakes of DoT clients that failed, by reason."
        ),
    },
    "client_doh": {
        "accepted": ("client_doh_accepted_total", "DoH connections of clients that were accepted."),
        "rejected": (
            "client_doh_rejected_total", "DoH connections closed at once by access control or a connection limit."
        ),
        "evicted": ("client_doh_evicted_total", "Idle or stalled DoH connections closed in favour of new ones."),
        "write_overrun": (
            "client_doh_write_overrun_total",
            "DoH connections closed because the client sent queries without reading the replies.",
        ),
        "timed_out": (
            "client_doh_timeouts_total",
            "DoH connections closed by the idle timeout or a handshake, read or write timeout.",
        ),
        "malformed": (
            "client_doh_malformed_total", "DoH connections closed because the client broke the protocol."
        ),
        "bad_proxy_headers": (
            "client_doh_bad_proxy_headers_total", "DoH connections of proxies closed because of a wrong PROXY header."
        ),
        "connections": ("client_doh_connections", "Open DoH connections of clients."),
        "handshakes": ("client_doh_handshakes_total", "TLS handshakes completed by DoH clients."),
        "resumed": ("client_doh_resumed_total", "TLS handshakes of DoH clients that resumed a session."),
        "handshake_failures": (
            "client_doh_handshake_failures_total", "TLS handshakes of DoH clients that failed, by reason."
        ),
        "requests": ("client_doh_requests_total", "DoH requests with a DNS message."),
        "http2_connections": ("client_doh_http2_connections_total", "DoH connections that used HTTP/2."),
        "refused": ("client_doh_refused_total", "DoH requests answered with an error, by status."),
    },
    "client_doq": {
        "accepted": ("client_doq_accepted_total", "DoQ connections of clients that got a slot."),
        "rejected": (
            "client_doq_rejected_total", "DoQ connections refused by access control or a connection limit."
        ),
        "evicted": ("client_doq_evicted_total", "Idle or stalled DoQ connections closed in favour of new ones."),
        "write_overrun": (
            "client_doq_write_overrun_total",
            "DoQ connections closed because the client sent queries without reading the replies.",
        ),
        "timed_out": (
            "client_doq_timeouts_total",
            "DoQ connections closed by the idle timeout or a handshake, read or write timeout.",
        ),
        "malformed": ("client_doq_malformed_total", "DoQ connections closed because the client broke the protocol."),
        "connections": ("client_doq_connections", "DoQ connections, also those whose handshake is not completed."),
        "handshakes": ("client_doq_handshakes_total", "QUIC handshakes completed by DoQ clients."),
        "handshake_failures": (
            "client_doq_handshake_failures_total", "QUIC handshakes of DoQ clients that failed, by reason."
        ),
        "queries": ("client_doq_queries_total", "Queries received over DoQ."),
        "retries": ("client_doq_retries_total", "Clients that were asked to prove their address (Retry packets)."),
        "versions_negotiated": (
            "client_doq_versions_negotiated_total", "Datagrams of other QUIC versions, answered with the supported one."
        ),
        "send_errors": ("client_doq_send_errors_total", "Datagrams of DoQ that the network did not take."),
        "dropped": ("client_doq_dropped_total", "Datagrams dropped on DoQ listeners, by reason."),
        "protocol_errors": ("client_doq_protocol_errors_total", "Rules of DoQ that clients broke, by rule."),
    },
    "client_udp": {
        "errors": ("client_udp_errors_total", "UDP replies that the network did not take."),
        "bad_proxy_headers": (
            "client_udp_bad_proxy_headers_total", "UDP messages of proxies dropped because of a wrong PROXY header."
        ),
    },
    "tls": {
        "certificate_expiry": (
            "tls_certificate_expiry_timestamp_seconds", "Unix time at which a certificate expires, by file."
        ),
    },
    "resolution": {
        "submitted": ("resolution_requests_total", "Queries given to the resolver by the slow path."),
        "from_cache": ("resolution_cached_total", "Requests answered from cached RRsets, failures or local data."),
        "joined": ("resolution_joined_total", "Requests and sub-queries that joined a resolution in progress."),
        "jobs": ("resolution_jobs_total", "Resolutions started, including sub-queries."),
        "upstream_queries": ("upstream_queries_total", "Queries sent to name servers and forwarders."),
        "failures": ("resolution_failures_total", "Resolutions that failed, including sub-queries."),
        "dependency_cycles": (
            "resolution_cycles_total", "Sub-queries refused because they would depend on their own result."
        ),
        "timed_out": ("resolution_timeouts_total", "Resolutions that reached iteration.query-timeout."),
        "refused": ("resolution_refused_total", "Requests refused because too many resolutions were in progress."),
        "refused_sub_queries": (
            "resolution_refused_sub_queries_total",
            "Sub-queries refused because too many resolutions were in progress.",
        ),
        "evicted": ("resolution_evicted_total", "Slow resolutions ended in favour of new requests."),
        "ended_for_memory": (
            "resolution_memory_evicted_total", "Requests ended because resolutions in progress held too much memory."
        ),
        "internal_errors": ("internal_errors_total", "Unexpected exceptions. Each is a bug; see the log."),
        "out_of_memory": ("out_of_memory_total", "Resolutions that failed because memory could not be allocated."),
        "stale_answers": ("stale_answers_total", "Requests answered with stale data (RFC 8767)."),
        "prefetches": ("prefetches_total", "Answers refreshed before they expired."),
        "prefetch_refused": ("prefetches_refused_total", "Prefetches not started because of their limits."),
        "running": ("resolution_running", "Resolutions in progress, including sub-queries."),
        "networks": ("resolution_networks", "Client networks with resolutions in progress."),
        "largest_network": (
            "resolution_largest_network", "Most resolutions in progress of one client network, summed over workers."
        ),
        "memory_jobs": ("resolution_memory_bytes", "Memory held by resolutions in progress."),
        "memory": (
            "table_memory_bytes",
            "Memory outside the cache: tables of servers, denials, delegations and keys, and resolutions in progress.",
        ),
    },
    "upstream": {
        "udp_sent": ("upstream_udp_sent_total", "UDP queries sent, including retransmissions."),
        "udp_replies": ("upstream_udp_replies_total", "UDP replies accepted."),
        "udp_timeouts": ("upstream_udp_timeouts_total", "UDP queries without a reply in time."),
        "udp_unwanted_replies": (
            "upstream_udp_unwanted_replies_total",
            "UDP replies of a queried server that match no query, for example by id, case or cookie.",
        ),
        "udp_cookie_replies": ("upstream_udp_cookie_replies_total", "UDP replies with the right cookie."),
        "udp_cookie_mismatches": ("upstream_udp_cookie_mismatches_total", "UDP replies with a wrong or no cookie."),
        "udp_unknown_replies": ("upstream_udp_unknown_replies_total", "UDP messages from addresses not queried."),
        "udp_malformed": ("upstream_udp_malformed_total", "Malformed UDP replies."),
        "udp_network_errors": ("upstream_udp_network_errors_total", "UDP queries that failed with a network error."),
        "udp_no_question_errors": (
            "upstream_udp_no_question_errors_total", "UDP error replies without a question; the query is sent over TCP."
        ),
        "udp_spoofing_suspected": (
            "upstream_udp_spoofing_suspected_total", "UDP queries ended after too many unwanted replies."
        ),
        "udp_sockets_opened": ("upstream_udp_sockets_opened_total", "UDP sockets opened."),
        "udp_evicted": (
            "upstream_udp_evicted_total",
            "UDP queries that gave up their socket to another client network or zone; they wait again.",
        ),
        "opportunistic_probes": (
            "upstream_opportunistic_probes_total", "Authoritative servers probed for DNS over TLS (RFC 9539)."
        ),
        "opportunistic_probes_succeeded": (
            "upstream_opportunistic_probes_succeeded_total", "Probes that found DNS over TLS."
        ),
        "opportunistic_probes_failed": (
            "upstream_opportunistic_probes_failed_total", "Probes that found none, or another server."
        ),
        "opportunistic_probes_timed_out": (
            "upstream_opportunistic_probes_timed_out_total", "Probes without a reply in time."
        ),
        "opportunistic_queries": (
            "upstream_opportunistic_queries_total", "Queries sent to authoritative servers over TLS."
        ),
        "opportunistic_fallbacks": (
            "upstream_opportunistic_fallbacks_total", "Queries that failed over TLS and were sent in plain text."
        ),
        "opportunistic_connections": (
            "upstream_opportunistic_connections", "Connections over TLS to authoritative servers."
        ),
        "opportunistic_servers": ("upstream_opportunistic_servers", "Authoritative servers known to have TLS."),
        "tcp_sent": ("upstream_tcp_sent_total", "TCP queries sent."),
        "tcp_replies": ("upstream_tcp_replies_total", "TCP replies accepted."),
        "tcp_timeouts": ("upstream_tcp_timeouts_total", "TCP queries without a reply in time."),
        "tcp_unwanted_replies": ("upstream_tcp_unwanted_replies_total", "TCP messages that match no query."),
        "tcp_malformed": ("upstream_tcp_malformed_total", "Malformed TCP replies."),
        "tcp_network_errors": ("upstream_tcp_network_errors_total", "TCP queries that failed with a network error."),
        "tcp_connections_opened": ("upstream_tcp_connections_opened_total", "TCP connections to servers opened."),
        "tcp_evicted": ("upstream_tcp_evicted_total", "TCP connections to servers closed in favour of others."),
    },
    "signatures": {
        "checks": ("signature_checks_total", "DNSSEC signatures verified."),
        "deferred": (
            "signature_checks_deferred_total", "DNSSEC signatures verified in a later iteration of the event loop."
        ),
    },
    "cache": {
        "entries": ("cache_entries", "Entries in the cache by kind."),
        "stored": ("cache_stored_total", "Entries written to the cache by kind."),
        "evicted": ("cache_evicted_total", "Entries evicted from the cache by kind."),
        "expired": ("cache_expired_total", "Expired entries removed from the cache by kind."),
        "dropped": ("cache_flushed_total", "Entries flushed or invalidated by kind."),
        "hits": ("cache_hits_total", "Look-ups that found an entry by kind."),
        "misses": ("cache_misses_total", "Look-ups that found no entry by kind."),
        "carried": ("cache_retained_total", "Entries kept on eviction because they had been used."),
        "refused": ("cache_not_stored_total", "Entries not written, because a better one exists or after a flush."),
        "busy": ("cache_lock_contention_total", "Writes given up because another worker held the lock."),
        "repaired": ("cache_repaired_total", "Locks and groups recovered from workers that died."),
        "groups": ("cache_hash_groups", "Groups of buckets in the hash table of the cache."),
        "bytes_used": ("cache_used_bytes", "Memory in use for cache entries."),
        "bytes_limit": ("cache_size_bytes", "Memory available for cache entries."),
        "servers_addresses": ("infra_cache_entries", "Upstream addresses in the infrastructure cache."),
        "servers_dead": ("infra_cache_unreachable", "Upstream addresses that are considered unreachable."),
        "servers_evicted": ("infra_cache_evicted_total", "Upstream addresses evicted from the infrastructure cache."),
        "denials": ("aggressive_nsec_entries", "Verified NSEC and NSEC3 records for negative answers (RFC 8198)."),
        "memory_servers": ("infra_cache_memory_bytes", "Memory of the infrastructure cache."),
        "memory_denials": ("aggressive_nsec_memory_bytes", "Memory of verified NSEC and NSEC3 records."),
    },
    "trust_anchors": {
        "probes": ("trust_anchor_probes_total", "Queries for the DNSKEY RRsets of trust anchors (RFC 5011)."),
        "probe_failures": ("trust_anchor_probe_failures_total", "Queries of trust anchors that failed."),
        "key_changes": ("trust_anchor_key_changes_total", "Changes of the state of a trust anchor key."),
        "write_failures": ("trust_anchor_write_failures_total", "Failed writes of dnssec.auto-trust-anchor-file."),
        "keys": ("trust_anchor_keys", "Keys by RFC 5011 state."),
        "last_success": (
            "trust_anchor_last_success_timestamp_seconds",
            "Unix time of the last successful query of the trust anchor that was confirmed longest ago.",
        ),
    },
}
for _protocol, _word in (("tls", "TLS"), ("https", "HTTPS"), ("quic", "QUIC")):
    METRICS["upstream"] |= {
        f"{_protocol}_{field}": (f"upstream_{_protocol}_{field}_total", f"{text.format(_word)}.")
        for field, text in {
            "sent": "{} queries sent",
            "replies": "{} replies accepted",
            "timeouts": "{} queries without a reply in time",
            "unwanted_replies": "{} messages that match no query",
            "malformed": "Malformed {} replies",
            "network_errors": "{} queries that failed with a network error",
            "connections_opened": "{} connections to servers opened",
            "evicted": "{} connections to servers closed in favour of others",
            "handshakes": "{} connections whose handshake succeeded",
            "resumed": "{} connections that resumed a session",
            "refused": "{} connections refused because of the certificate or a failed handshake",
        }.items()
    }

LABELLED = {
    ("cache", field): "kind" for field in ("entries", "stored", "evicted", "expired", "dropped", "hits", "misses")
} | {
    ("trust_anchors", "keys"): "state",
    ("fast_path", "malformed"): "reason",
    ("client_dot", "handshake_failures"): "reason",
    ("client_doh", "handshake_failures"): "reason",
    ("client_doh", "refused"): "status",
    ("client_doq", "handshake_failures"): "reason",
    ("client_doq", "dropped"): "reason",
    ("client_doq", "protocol_errors"): "rule",
    ("tls", "certificate_expiry"): "file",
}
"""Counters with one value for each kind, state, reason and so on, and the label of that. They are a dictionary, or
`Statistics` has ``FIELD_VALUE`` for each."""


def families(statistics: Statistics, version: str) -> Iterable["Metric"]:
    """The metric families of `statistics`.

    Raises:
        KeyError: a counter is not in `METRICS`.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    def family(group: str, counter: str, labels: Sequence[str]) -> Any:
        name, about = METRICS[group][counter]
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        return kind(f"resolver_{name}", about, labels=labels)

    info = GaugeMetricFamily("resolver_info", "Version of the running resolverd.", labels=["version"])
    info.add_metric([version], 1)
    yield info
    for group, counters in statistics.items():
        labelled: dict[str, Any] = {}
        for name, value in counters.items():
            field, _, one = name.partition("_")
            if isinstance(value, dict):
                field, values = name, value
            elif one and (group, field) in LABELLED:
                values = {one: value}
            else:
                plain = family(group, name, [])
                plain.add_metric([], value)
                yield plain
                continue
            if field not in labelled:
                labelled[field] = family(group, field, [LABELLED[group, field]])
            for label, count in values.items():
                labelled[field].add_metric([str(label)], count)
        yield from labelled.values()


def render(statistics: Statistics, version: str) -> tuple[bytes, str]:
    """The response body in the text format, and its content type.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    class Collector:
        def collect(self) -> Iterable["Metric"]:
            return families(statistics, version)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def check() -> None:
    """Check that prometheus-client is installed.

    Raises:
        ValueError: it is not installed.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise ValueError(MISSING)


class MetricsServer(ManagementServer):
    """The HTTP listener. `gather` returns the merged statistics of all workers."""

    def __init__(self, gather: Callable[[], Awaitable[Statistics]], version: str) -> None:
        """Import prometheus-client.

        Raises:
            ValueError: it is not installed.
        """
        super().__init__(CONNECTIONS, REQUEST, TIMEOUT)
        self._gather = gather
        self._version = version
        try:
            render({}, version)
        except ImportError:
            raise ValueError(MISSING) from None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            async with asyncio.timeout(TIMEOUT):
                writer.write(await self._reply(reader))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            logger.debug("metrics: connection closed: the request was incomplete or timed out")

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", b"request header fields are too large\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"not an HTTP/1 request\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", b"not found; the only path is /metrics\n")
        if words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"only GET and HEAD are allowed\n", extra="Allow: GET, HEAD\r\n")
        try:
            page, kind = render(await self._gather(), self._version)
        except ValueError as error:
            return _response("503 Service Unavailable", f"{error}\n".encode())
        return _response("200 OK", page, kind, bare=words[0] == b"HEAD")


def _response(
    status: str, body: bytes, kind: str = "text/plain; charset=utf-8", *, extra: str = "", bare: bool = False
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if bare else body)
