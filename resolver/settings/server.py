"""The section [server]: the addresses that are served, limits for clients, and the form of replies.

Listeners with TLS or with own limits are [[listener]] tables (`resolver.settings.listeners`).
"""

from dataclasses import dataclass
from ipaddress import ip_address

from resolver import limits
from resolver.options import check_limits, option, parse_endpoint, parse_listen

__all__ = ["ServerSettings"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Listeners, limits for clients, and the form of replies."""

    listen: tuple[str, ...] = option(
        ("127.0.0.1:5335", "[::1]:5335"),
        "Addresses and ports on which clients are served, over UDP and TCP. The default port 5335 needs no privilege"
        " and is not used by another service.",
    )
    freebind: bool = option(
        False,
        "Serve addresses of `listen` and of listeners also when this host does not have them (IP_FREEBIND), so that one"
        " that comes later, for example by VRRP, is served at once. A wrong address is not noticed then.",
    )
    workers: int = option(
        limits.WORKERS.default,
        "Number of processes. They share the listening port (SO_REUSEPORT) and the cache.",
        limit=limits.WORKERS,
    )
    lanes: int = option(
        limits.LANES.default,
        "Threads of each worker that answer cached UDP queries without Python, so that nothing that Python does delays"
        " them. 0: the thread of the event loop does it.",
        limit=limits.LANES,
    )
    upgrade_timeout: float = option(
        limits.UPGRADE_TIMEOUT.default / 1000,
        "Time that a new process has to start at an upgrade (`resolverctl upgrade`). After it the upgrade has failed,"
        " and the old process keeps serving.",
        kind="seconds",
        limit=limits.UPGRADE_TIMEOUT,
        scale=1000,
    )
    start_timeout: float = option(
        limits.START_TIMEOUT.default / 1000,
        "Time that each of several workers has to serve after its start. One that takes longer is killed: at the start"
        " of the daemon, the start fails; later, the worker is started again. A single worker has no limit here: a"
        " service manager has one (`TimeoutStartSec=`).",
        kind="seconds",
        limit=limits.START_TIMEOUT,
        scale=1000,
    )
    user: str = option(
        "",
        "User that the daemon becomes when it was started as root and its sockets are open. Files that are read later,"
        " as at a reload, must be readable by this user. Empty: it stays the user that started it.",
    )
    max_udp_size: int = option(
        limits.EDNS_PAYLOAD.default,
        "Largest UDP reply, also announced to clients in EDNS (RFC 6891 6.2.5). Larger replies are truncated. 1232"
        " bytes avoid IP fragmentation (RFC 9715).",
        kind="bytes",
        limit=limits.EDNS_PAYLOAD,
    )
    minimal_responses: bool = option(
        True,
        "Omit authority and additional records that the client does not need. Replies are smaller and contain less"
        " that an attacker can forge.",
    )
    tcp_idle_timeout: float = option(
        limits.TCP_IDLE_TIMEOUT.default / 1000,
        "Idle time after which a client's TCP connection is closed (RFC 7766 6.2.3).",
        kind="seconds",
        limit=limits.TCP_IDLE_TIMEOUT,
        scale=1000,
    )
    tcp_connections: int = option(
        limits.TCP_CONNECTIONS.default,
        "Most open TCP connections of all clients, for each worker and each address of `listen`.",
        limit=limits.TCP_CONNECTIONS,
    )
    tcp_connections_per_client: int = option(
        limits.TCP_CONNECTIONS_PER_CLIENT.default,
        "Most open TCP connections of one client address (RFC 7766 6.2.2).",
        limit=limits.TCP_CONNECTIONS_PER_CLIENT,
    )
    tcp_connections_network_percent: int = option(
        limits.TCP_NETWORK_SHARE.default,
        "Share of `tcp-connections`, in percent, that one client network may hold: an IPv4 /24 or an IPv6 /56. At"
        " this limit a new connection of the network closes its longest idle one. 100 sets no limit for a network.",
        limit=limits.TCP_NETWORK_SHARE,
    )
    tcp_pipeline: int = option(
        limits.TCP_PIPELINE.default,
        "Unanswered queries of one TCP connection at which reading from it stops (RFC 7766 6.2.1.1).",
        limit=limits.TCP_PIPELINE,
    )
    pending_queries: int = option(
        limits.PENDING_QUERIES.default,
        "Most client queries that wait for an answer at the same time, for each worker.",
        limit=limits.PENDING_QUERIES,
    )
    pending_queries_per_client: int = option(
        limits.PENDING_PER_CLIENT.default,
        "Most waiting queries of one client address that is not verified (DNSBomb, CVE-2024-33655).",
        limit=limits.PENDING_PER_CLIENT,
    )
    pending_queries_per_verified_client: int = option(
        limits.PENDING_PER_CLIENT.default,
        "Most waiting queries of one client address that a valid cookie or TCP has verified. Queries of verified"
        " addresses have a `pending-queries` limit of their own, so that spoofed packets cannot displace them (RFC"
        " 7873).",
        limit=limits.PENDING_PER_CLIENT,
    )
    pending_queries_network_percent: int = option(
        limits.PENDING_NETWORK_SHARE.default,
        "Percentage that one client network (an IPv4 /24 or an IPv6 /56) may hold of the `pending-queries` slots that"
        " are its own or free. Below 100, some slots always remain for other networks.",
        limit=limits.PENDING_NETWORK_SHARE,
    )
    overload_action: str = option(
        "servfail",
        'Action for a query above the limits of waiting queries. "servfail" answers SERVFAIL, so that the client'
        ' tries another resolver; "drop" sends no answer over UDP.',
    )
    late_answers_per_network: int = option(
        limits.LATE_PER_NETWORK.default,
        "Waiting queries of one client network (an IPv4 /24 or an IPv6 /56) above which an answer over UDP that took"
        " more than 200 ms is truncated, so that the client asks again over TCP and the cache answers (DNSBomb,"
        " CVE-2024-33655). Clients with a valid cookie have no such limit. 0: none.",
        limit=limits.LATE_PER_NETWORK,
    )
    discard_timeout: float = option(
        0.0,
        "Age of a UDP query after which its answer is discarded (DNSBomb, CVE-2024-33655). 0 sends every answer.",
        kind="seconds",
        limit=limits.DISCARD_TIMEOUT,
        scale=1000,
    )
    non_recursive_queries: str = option(
        "refuse",
        'Action for a query without the RD bit: "refuse" it, or answer it from the "cache" without upstream queries.',
    )
    minimal_any: bool = option(
        True,
        "Answer qtype ANY with one small synthetic HINFO record (RFC 8482) instead of resolving it, and with the"
        " smallest record set of the name where an own zone or another policy answers.",
    )
    rotate_addresses: bool = option(
        False,
        "Begin the A and AAAA records of each answer with another one, so that clients spread over them. Off: in the"
        " order in which they were received.",
    )
    identity: str = option(
        "",
        "Text answered to id.server and hostname.bind in class CH (RFC 4892) and in the NSID option (RFC 5001)."
        " Empty: class CH queries are refused.",
    )
    version: str = option(
        "", "Text answered to version.server and version.bind in class CH. Empty: these queries are refused."
    )
    answer_cookies: bool = option(
        True,
        "Answer the DNS cookies of clients. A client with a valid cookie is protected from spoofing of its address"
        " (RFC 7873).",
    )
    cookie_secrets: tuple[str, ...] = option(
        (),
        "One or two secrets of 32 hexadecimal digits, for servers that share an address. The first creates cookies,"
        " both verify them. To replace a secret, add the new one second, then move it first, then remove the old one"
        " (RFC 9018 5). Empty: a random secret that changes daily.",
    )
    require_cookies: bool = option(
        False,
        "Answer over UDP only clients with a valid cookie. Others get BADCOOKIE or, without a cookie, a truncated"
        " reply that makes them use TCP (RFC 7873 5.2.3). For servers under attack.",
    )
    nsid: str = option(
        "",
        'Name server identifier (RFC 5001) when it differs from `identity`: text, or octets in hexadecimal after "0x".',
    )

    def __post_init__(self) -> None:
        check_limits(self, "server")
        seen = set()
        for text in self.listen:
            host, port = parse_listen(text, 53, "server.listen")
            if port and (ip_address(host), port) in seen:
                raise ValueError(f"server.listen: {text!r} is the address and port of an entry before it")
            seen.add((ip_address(host), port))
        for name, words in (("overload_action", ("servfail", "drop")), ("non_recursive_queries", ("refuse", "cache"))):
            if getattr(self, name) not in words:
                raise ValueError(f"server.{name}: {getattr(self, name)!r} is not one of {', '.join(words)}")
        try:
            octets = self.nsid_octets
        except ValueError:
            raise ValueError(f"server.nsid: {self.nsid!r} is not hexadecimal after 0x") from None
        limits.NSID_SIZE.check(len(octets), "server.nsid" if self.nsid else "server.identity")
        try:
            keys = self.cookie_keys
        except ValueError:
            keys = (b"",)
        if len(keys) > 2 or any(len(key) != 16 for key in keys):
            raise ValueError("server.cookie_secrets: one or two secrets of 32 hexadecimal digits are needed")
        if self.require_cookies and not self.answer_cookies:
            raise ValueError("server.require_cookies: it needs server.answer-cookies")

    @property
    def cookie_keys(self) -> tuple[bytes, ...]:
        """`cookie_secrets` as octets."""
        return tuple(map(bytes.fromhex, self.cookie_secrets))

    @property
    def nsid_octets(self) -> bytes:
        """The identifier for the NSID option of replies; empty: no option is sent."""
        text = self.nsid or self.identity
        return bytes.fromhex(text[2:]) if self.nsid.startswith("0x") else text.encode()

    @property
    def endpoints(self) -> tuple[tuple[str, int], ...]:
        """`listen` as (address, port)."""
        return tuple(parse_endpoint(text, 53, "server.listen") for text in self.listen)
