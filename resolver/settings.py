"""Typed settings of the library and the daemon: frozen dataclasses, every field with its default and its reason.

Nothing here reads a file, a clock or the environment: `resolver.daemon.config` turns a TOML file into these classes
and `resolver.api.Resolver` takes them as they are. Names and addresses stay text, because the classes stand below the
wire room; who needs wire form converts once, at start. A field is made by `resolver.options.option`, whose sentence is
the source of ``resolverd --print-config`` and of docs/resolverd-options.md, so no second place could disagree.
"""

from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from resolver import hints, limits
from resolver.options import (
    check_addresses,
    check_limits,
    check_names,
    check_path,
    check_prefixes,
    option,
    parse_endpoint,
)

__all__ = [
    "CacheSettings",
    "ControlSettings",
    "DnssecSettings",
    "ForwardZone",
    "HostEntry",
    "IterationSettings",
    "LogSettings",
    "MetricsSettings",
    "PolicySettings",
    "RootServer",
    "ServerSettings",
    "Settings",
    "StubZone",
    "replace",
]

_DNS64_LENGTHS = (32, 40, 48, 56, 64, 96)


def _check_dns64(text: str) -> None:
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f"policy.dns64_prefix: {text!r} is not an address prefix such as 64:ff9b::/96") from None
    if network.version != 6 or network.prefixlen not in _DNS64_LENGTHS:
        lengths = ", ".join(map(str, _DNS64_LENGTHS))
        raise ValueError(f"policy.dns64_prefix: {text!r} is not an IPv6 prefix of {lengths} bits (RFC 6052 2.2)")


def _check_renumber(text: str) -> None:
    try:
        before, after = map(ip_network, text.split())
    except ValueError:
        raise ValueError(f"policy.renumber: {text!r} is not two address prefixes, from and to") from None
    if before.version != after.version or before.prefixlen != after.prefixlen:
        raise ValueError(f"policy.renumber: the two prefixes of {text!r} differ in size")


class RootServer(NamedTuple):
    """One root server and its addresses, as root hints give them."""

    name: str
    addresses: tuple[str, ...]


class HostEntry(NamedTuple):
    """A name answered from configuration, as a line of a hosts file would be."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForwardZone:
    """Names below `zone` are asked of other recursive resolvers instead of being resolved from the root."""

    zone: str = option(".", 'The zone whose names are forwarded; "." forwards everything.')
    addresses: tuple[str, ...] = option(
        (),
        "Recursive resolvers to ask, tried by speed; a port other than 53 follows a colon. None: below a wider"
        " forward zone, these names are resolved from the root after all.",
    )
    first: bool = option(False, "Resolve from the root when all of them fail, instead of answering SERVFAIL.")

    def __post_init__(self) -> None:
        check_names((self.zone,), "zone")
        for text in self.addresses:
            parse_endpoint(text, 53, "addresses")


@dataclass(frozen=True, slots=True)
class StubZone:
    """Names below `zone` are asked of these authoritative servers; the delegation in the public tree is not used."""

    zone: str = option(".", "The zone whose authoritative servers are given here.")
    addresses: tuple[str, ...] = option((), "Authoritative servers by address; a port other than 53 follows a colon.")
    names: tuple[str, ...] = option(
        (), "Authoritative servers by name; their addresses are looked up when first needed."
    )
    first: bool = option(False, "Follow the public delegation when all of them fail, instead of answering SERVFAIL.")

    def __post_init__(self) -> None:
        check_names((self.zone,), "zone")
        check_names(self.names, "names")
        for text in self.addresses:
            parse_endpoint(text, 53, "addresses")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where and how clients are served."""

    listen: tuple[str, ...] = option(
        ("127.0.0.1:5335", "[::1]:5335"),
        "Addresses and ports served, UDP and TCP both; 5335 needs no privilege and no other service uses it.",
    )
    workers: int = option(
        limits.WORKERS.default, "Processes that share the port (SO_REUSEPORT) and the cache.", limit=limits.WORKERS
    )
    udp_payload: int = option(
        limits.EDNS_PAYLOAD.default,
        "Largest UDP reply sent and the size announced to clients (RFC 6891 6.2.5; 1232 never fragments, RFC 9715).",
        kind="bytes",
        limit=limits.EDNS_PAYLOAD,
    )
    minimal_responses: bool = option(
        True,
        "Leave out authority and additional records that the client does not need: smaller replies, less to forge.",
    )
    tcp_idle_timeout: float = option(
        limits.TCP_IDLE_TIMEOUT.default / 1000,
        "A silent TCP connection is closed after this time (RFC 7766 6.2.3).",
        kind="seconds",
        limit=limits.TCP_IDLE_TIMEOUT,
        scale=1000,
    )
    tcp_connections: int = option(
        limits.TCP_CONNECTIONS.default,
        "Open TCP connections of all clients together, in each worker and for each address of listen.",
        limit=limits.TCP_CONNECTIONS,
    )
    tcp_connections_per_client: int = option(
        limits.TCP_CONNECTIONS_PER_CLIENT.default,
        "Open TCP connections of one client address (RFC 7766 6.2.2).",
        limit=limits.TCP_CONNECTIONS_PER_CLIENT,
    )
    tcp_network_share: int = option(
        limits.TCP_NETWORK_SHARE.default,
        "Of all these connections, the percentage that the addresses of one network may have together: a /24 of IPv4, a"
        " /56 of IPv6; beyond it, the longest idle one of that network makes room. 100 lets one network have all.",
        limit=limits.TCP_NETWORK_SHARE,
    )
    tcp_pipeline: int = option(
        limits.TCP_PIPELINE.default,
        "Unanswered queries on one connection before reading from it pauses (RFC 7766 6.2.1.1).",
        limit=limits.TCP_PIPELINE,
    )
    pending_queries: int = option(
        limits.PENDING_QUERIES.default,
        "Client queries that may wait for an answer at once, in each worker.",
        limit=limits.PENDING_QUERIES,
    )
    pending_per_client: int = option(
        limits.PENDING_PER_CLIENT.default,
        "Of these, how many may be of one client address (DNSBomb, CVE-2024-33655).",
        limit=limits.PENDING_PER_CLIENT,
    )
    pending_per_proven_client: int = option(
        limits.PENDING_PER_CLIENT.default,
        "The same for an address that its client has shown to be its own, by a good cookie or by TCP. Such queries are"
        " counted apart, in all as well, so that packets that forge an address take nobody's places (RFC 7873).",
        limit=limits.PENDING_PER_CLIENT,
    )
    pending_network_share: int = option(
        limits.PENDING_NETWORK_SHARE.default,
        "Of the places of either count, the percentage that the addresses of one network may have together: a /24 of"
        " IPv4, a /56 of IPv6. 100 lets one network have all.",
        limit=limits.PENDING_NETWORK_SHARE,
    )
    overflow: str = option(
        "servfail", 'What a query beyond these numbers gets: "servfail", so that the client asks elsewhere, or "drop".'
    )
    discard_timeout: float = option(
        0.0,
        "An answer that comes later than this over UDP is not sent (DNSBomb, CVE-2024-33655); 0 sends every answer.",
        kind="seconds",
        limit=limits.DISCARD_TIMEOUT,
        scale=1000,
    )
    without_recursion: str = option(
        "refuse", 'A query that does not desire recursion (RD=0): "refuse" it, or answer from the "cache" only.'
    )
    minimal_any: bool = option(
        True, "Answer type ANY with one small synthetic record (RFC 8482) instead of resolving it."
    )
    identity: str = option(
        "", "Answer to id.server and hostname.bind in class CH (RFC 4892) and NSID (RFC 5001); empty: refused."
    )
    version: str = option("", "Answer to version.server and version.bind in class CH; empty: refused.")
    cookies: bool = option(
        True,
        "Answer clients' cookies, by which later spoofed queries in their names can be told from theirs (RFC 7873).",
    )
    cookie_secrets: tuple[str, ...] = option(
        (),
        "One or two secrets of 32 hexadecimal digits, when several servers share an address: the first makes cookies,"
        " both are believed, so put a new one second, then first, then alone (RFC 9018 5). Empty: one of its own, new"
        " each day.",
    )
    require_cookies: bool = option(
        False,
        "Answer over UDP only those who have shown by a cookie that their address is theirs; others get BADCOOKIE, or a"
        " truncated answer that sends them to TCP. For servers under attack (RFC 7873 5.2.3).",
    )
    nsid: str = option(
        "", 'Name-server identifier (RFC 5001) if not `identity`: text, or octets in hexadecimal after "0x".'
    )

    def __post_init__(self) -> None:
        check_limits(self, "server")
        if not self.listen:
            raise ValueError("server.listen: the list is empty; nobody could ask")
        seen = set()
        for text in self.listen:
            host, port = parse_endpoint(text, 53, "server.listen")
            if port and (ip_address(host), port) in seen:
                raise ValueError(f"server.listen: {text!r} is the address and port of an entry before it")
            seen.add((ip_address(host), port))
        for name, words in (("overflow", ("servfail", "drop")), ("without_recursion", ("refuse", "cache"))):
            if getattr(self, name) not in words:
                raise ValueError(f"server.{name}: {getattr(self, name)!r} is not one of {', '.join(words)}")
        try:
            octets = self.nsid_octets
        except ValueError:
            raise ValueError(f"server.nsid: {self.nsid!r} is not hexadecimal after 0x") from None
        limits.NSID_SIZE.check(len(octets), "server.nsid")
        try:
            keys = self.cookie_keys
        except ValueError:
            keys = (b"",)
        if len(keys) > 2 or any(len(key) != 16 for key in keys):
            raise ValueError("server.cookie_secrets: one or two secrets of 32 hexadecimal digits are needed")
        if self.require_cookies and not self.cookies:
            raise ValueError("server.require_cookies: it needs server.cookies")

    @property
    def cookie_keys(self) -> tuple[bytes, ...]:
        """The configured secrets of cookies."""
        return tuple(map(bytes.fromhex, self.cookie_secrets))

    @property
    def nsid_octets(self) -> bytes:
        """What a client that asks for the identifier gets; empty: nothing."""
        text = self.nsid or self.identity
        return bytes.fromhex(text[2:]) if self.nsid.startswith("0x") else text.encode()

    @property
    def endpoints(self) -> tuple[tuple[str, int], ...]:
        """`listen` as (address, port)."""
        return tuple(parse_endpoint(text, 53, "server.listen") for text in self.listen)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What is remembered, how much of it and for how long."""

    size: int = option(
        limits.CACHE_SIZE.default,
        "Memory of the cache; answers, record sets and proofs share it.",
        kind="bytes",
        limit=limits.CACHE_SIZE,
    )
    min_ttl: int = option(
        limits.CACHE_MIN_TTL.default,
        "Shorter TTLs of answers are raised to this; 0 keeps what the zone's owner said (RFC 1035 3.2.1). Not those of"
        " secure data, NS and DS sets and referrals: signatures and parent zones limit these.",
        kind="seconds",
        limit=limits.CACHE_MIN_TTL,
    )
    max_ttl: int = option(
        limits.CACHE_MAX_TTL.default,
        "Longer TTLs are lowered to this (RFC 8767 4).",
        kind="seconds",
        limit=limits.CACHE_MAX_TTL,
    )
    max_negative_ttl: int = option(
        limits.CACHE_MAX_NEGATIVE_TTL.default,
        '"No such name" and "no such data" are kept at most this long (RFC 2308 5).',
        kind="seconds",
        limit=limits.CACHE_MAX_NEGATIVE_TTL,
    )
    bogus_ttl: int = option(
        limits.CACHE_BOGUS_TTL.default,
        "Data that failed validation is not tried again for this time (RFC 4035 4.7).",
        kind="seconds",
        limit=limits.CACHE_BOGUS_TTL,
    )
    failure_ttl: int = option(
        limits.CACHE_FAILURE_TTL.default,
        "A resolution that failed is not tried again for this time (RFC 9520 3.2).",
        kind="seconds",
        limit=limits.CACHE_FAILURE_TTL,
    )
    failure_max_ttl: int = option(
        limits.CACHE_FAILURE_MAX_TTL.default,
        "Each time a resolution fails again that time doubles, up to this (RFC 9520 3.2).",
        kind="seconds",
        limit=limits.CACHE_FAILURE_MAX_TTL,
    )
    serve_stale: int = option(
        limits.SERVE_STALE.default,
        "When nobody can be asked, answer with data that expired not longer ago than this (RFC 8767); 0 never does."
        ' "1 d" is a good choice for a resolver in service. Never data that failed validation.',
        kind="seconds",
        limit=limits.SERVE_STALE,
    )
    serve_stale_timeout: float = option(
        limits.STALE_TIMEOUT.default / 1000,
        "A client that has waited this long gets such data while the search goes on (RFC 8767 5); 0 gives it at once.",
        kind="seconds",
        limit=limits.STALE_TIMEOUT,
        scale=1000,
    )
    serve_stale_ttl: int = option(
        limits.CACHE_STALE_TTL.default,
        "TTL of such data in replies (RFC 8767 5.2).",
        kind="seconds",
        limit=limits.CACHE_STALE_TTL,
    )
    snapshot_file: str = option(
        "",
        "File in which the cache survives a restart: written when the daemon stops, read when it starts. Empty: none.",
    )
    prefetch: bool = option(
        True,
        "Renew an answer that is asked for in the last tenth of its TTL before it ends, so that popular names never"
        " have to be waited for.",
    )
    aggressive_nsec: bool = option(
        True,
        "Answer from verified denials for names not asked before (RFC 8198): random names below a signed zone cost"
        " nothing.",
    )
    servers: int = option(
        limits.CACHE_SERVERS.default,
        "Upstream addresses whose speed and peculiarities are remembered, in each worker.",
        limit=limits.CACHE_SERVERS,
    )

    def __post_init__(self) -> None:
        check_limits(self, "cache")
        check_path(self.snapshot_file, "cache.snapshot_file")
        if self.min_ttl > self.max_ttl:
            raise ValueError(f"cache.min_ttl: {self.min_ttl} is above cache.max_ttl ({self.max_ttl})")


@dataclass(frozen=True, slots=True)
class IterationSettings:
    """How the tree is walked and how upstream servers are asked."""

    qname_minimisation: bool = option(True, "Show each server only the labels it needs (RFC 9156).")
    harden_glue: bool = option(
        True,
        "Believe addresses in a referral only for names below the zone that gave it (RFC 5452 6, cache poisoning).",
    )
    cookies: bool = option(
        True,
        "Send cookies to name servers, and believe those that know them only when they send them back (RFC 7873).",
    )
    case_randomisation: bool = option(
        True, "Mix upper and lower case in questions and demand the same back: more bits against spoofing (0x20)."
    )
    case_exempt: tuple[str, ...] = option(
        (), "Zones at and below which names are asked in lower case after all, because their servers mind the letters."
    )
    do_ip4: bool = option(True, "Ask name servers over IPv4.")
    do_ip6: bool = option(True, "Ask name servers over IPv6; costs little where there is none, since that is noticed.")
    tcp_only: bool = option(False, "Ask over TCP only: slower, but nothing off the path can forge a reply.")
    do_not_query_localhost: bool = option(
        True, "Never ask name servers on loopback addresses: delegations pointing there are traps or mistakes."
    )
    do_not_query: tuple[str, ...] = option((), "Further address prefixes that are never asked.")
    priming: bool = option(True, "Ask a root server for the current root servers when first needed (RFC 9609).")
    edns_payload: int = option(
        limits.EDNS_PAYLOAD.default,
        "UDP reply size announced to name servers (RFC 6891 6.2.5, RFC 9715).",
        kind="bytes",
        limit=limits.EDNS_PAYLOAD,
    )
    max_packets: int = option(
        limits.MAX_PACKETS.default,
        "Upstream queries that one client query may cause, with all it needs (NXNSAttack, CAMP).",
        limit=limits.MAX_PACKETS,
    )
    deadline: float = option(
        limits.DEADLINE.default / 1000,
        "A client query is answered SERVFAIL after this time, come what may.",
        kind="seconds",
        limit=limits.DEADLINE,
        scale=1000,
    )
    upstream_port: int = option(
        limits.UPSTREAM_PORT.default,
        "Port of name servers; anything but 53 is for rooms where they are imitated.",
        limit=limits.UPSTREAM_PORT,
    )
    port_per_query: bool = option(
        True,
        "A new random port for every upstream query, on a socket connected to its server. Off: a pool of 32 ports that"
        " live up to 30 seconds, some microseconds cheaper; an attacker may find them by probing, and then push queries"
        " to TCP or guess only the id and the letter case.",
    )
    source_v4: str = option("", "Source address of IPv4 queries; empty: the kernel's choice.")
    source_v6: str = option("", "Source address of IPv6 queries; empty: the kernel's choice.")

    def __post_init__(self) -> None:
        check_limits(self, "iteration")
        check_prefixes(self.do_not_query, "iteration.do_not_query")
        check_names(self.case_exempt, "iteration.case_exempt")
        for name, version in (("source_v4", 4), ("source_v6", 6)):
            text = getattr(self, name)
            if text:
                check_addresses((text,), f"iteration.{name}")
                if ip_address(text).version != version:
                    raise ValueError(f"iteration.{name}: {text!r} is not an IPv{version} address")
        if not (self.do_ip4 or self.do_ip6):
            raise ValueError("iteration.do_ip4: with do_ip6 off as well no server could be asked")


@dataclass(frozen=True, slots=True)
class DnssecSettings:
    """What is validated, and from which keys."""

    enabled: bool = option(
        True, "Validate answers (RFC 4035); off: nothing is marked secure, nothing is refused as bogus."
    )
    trust_anchors: tuple[str, ...] = option(
        hints.ROOT_ANCHORS,
        "DS or DNSKEY records in text form, several for one name permitted, any name (RFC 4035 5); an empty list means"
        " no validation. The default is the two root keys, tags 20326 and 38696.",
    )
    auto_trust_anchor_file: str = option(
        "",
        "File in which trust anchors are kept up to date as their zones change keys (RFC 5011); its directory must be"
        " writable for the daemon. Empty: the anchors stay as they are configured.",
    )
    add_hold_down: float = option(
        float(limits.ADD_HOLD_DOWN.default),
        "A new key of a zone with an anchor is trusted when it was published, and signed for, this long.",
        kind="seconds",
        limit=limits.ADD_HOLD_DOWN,
    )
    remove_hold_down: float = option(
        float(limits.REMOVE_HOLD_DOWN.default),
        "A revoked key is shown as revoked for this long, then as removed; it is trusted in neither state.",
        kind="seconds",
        limit=limits.REMOVE_HOLD_DOWN,
    )
    keep_missing: float = option(
        float(limits.KEEP_MISSING.default),
        "A trusted key that is published no longer is removed after this time if there is another; 0 keeps it.",
        kind="seconds",
        limit=limits.KEEP_MISSING,
    )
    negative_anchors: tuple[str, ...] = option(
        (), "Zones at and below which nothing is validated, for operators with a broken zone to reach (RFC 7646)."
    )
    sha1: bool = option(
        True, "Accept signatures of algorithms 5 and 7 (RSA with SHA-1, RFC 9905); off: such zones count as insecure."
    )
    harden_algorithm_downgrade: bool = option(
        False,
        "Demand a right signature of each algorithm that a zone's DS records and keys name, so that breaking the"
        " weakest is not enough; some zones fail it during a rollover, and RFC 6840 5.11 wants one to suffice.",
    )
    signature_skew_min: float = option(
        float(limits.SIGNATURE_SKEW_MIN.default),
        "Believe a signature this long before and after its time, whatever its validity. RFC 4035 5.3.1 forbids it, so"
        " the default is 0; where clocks differ, one hour and one day for the next one are what others allow.",
        kind="seconds",
        limit=limits.SIGNATURE_SKEW_MIN,
    )
    signature_skew_max: float = option(
        float(limits.SIGNATURE_SKEW_MAX.default),
        "Between that and this, believe a signature for a tenth of its validity before and after its time; 0 together"
        " with the last one 0 allows nothing.",
        kind="seconds",
        limit=limits.SIGNATURE_SKEW_MAX,
    )
    nsec3_iterations: int = option(
        limits.NSEC3_ITERATIONS.default,
        "NSEC3 hash iterations that are still followed; a zone that asks for more counts as insecure (RFC 9276 3.2).",
        limit=limits.NSEC3_ITERATIONS,
    )

    def __post_init__(self) -> None:
        check_limits(self, "dnssec")
        check_names(self.negative_anchors, "dnssec.negative_anchors")
        check_path(self.auto_trust_anchor_file, "dnssec.auto_trust_anchor_file")
        if self.signature_skew_min > self.signature_skew_max:
            raise ValueError("dnssec.signature_skew_min: it is larger than dnssec.signature-skew-max")
        for text in self.trust_anchors:
            hints.check_anchor(text, "dnssec.trust_anchors")
            check_names((text.replace("(", " ").split()[0],), "dnssec.trust_anchors")

    @property
    def active(self) -> bool:
        """Whether validation takes place at all."""
        return self.enabled and bool(self.trust_anchors)


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Who may ask, and what is answered without asking anybody."""

    allow: tuple[str, ...] = option(
        ("127.0.0.0/8", "::1/128"),
        "Client prefixes that are served; the longest matching prefix of the three lists decides.",
    )
    refuse: tuple[str, ...] = option(
        (),
        "Client prefixes answered REFUSED (RFC 1035 4.1.1), as are those that no list holds: an open resolver is a"
        " weapon in others' hands (RFC 5358).",
    )
    drop: tuple[str, ...] = option((), "Client prefixes that get no answer at all.")
    special_names: bool = option(
        True,
        "Answer localhost, invalid, onion and the reverse zones of private addresses here (RFC 6761, RFC 6303,"
        " RFC 7686).",
    )
    hosts: tuple[HostEntry, ...] = option((), "Names and addresses answered from here, forward and reverse.")
    hosts_files: tuple[str, ...] = option((), "Files in the form of /etc/hosts, answered likewise.")
    local_zones: tuple[str, ...] = option(
        (),
        'Zones answered here: "zone kind", the kind being static, nodata, nxdomain, refuse, redirect, transparent,'
        " typetransparent, truncate (clients are told to ask over TCP) or resolve.",
    )
    local_data: tuple[str, ...] = option((), "Records of local zones, in the text form of zone files.")
    dns64_prefix: str = option(
        "",
        "Make AAAA records below this prefix for names that have A records only, for clients behind NAT64 (RFC 6147);"
        ' usually "64:ff9b::/96". Empty: never.',
    )
    dns64_exclude: tuple[str, ...] = option(
        ("::ffff:0:0/96",), "AAAA records inside these prefixes count as none for that (RFC 6147 5.1.4)."
    )
    private_addresses: tuple[str, ...] = option(
        (),
        "Addresses of one's own network, which names of strangers must not point to (DNS rebinding): they are left out"
        " of answers.",
    )
    private_domains: tuple[str, ...] = option((), "Zones at and below which such addresses are in order.")
    renumber: tuple[str, ...] = option(
        (), 'Addresses in answers that are moved: "192.0.2.0/24 198.51.100.0/24" turns the first prefix into the other.'
    )

    def __post_init__(self) -> None:
        for name in ("allow", "refuse", "drop", "dns64_exclude", "private_addresses"):
            check_prefixes(getattr(self, name), f"policy.{name}")
        if self.dns64_prefix:
            _check_dns64(self.dns64_prefix)
        for text in self.renumber:
            _check_renumber(text)
        for entry in self.hosts:
            check_names((entry.name,), "policy.hosts")
            check_addresses(entry.addresses, f"policy.hosts.{entry.name}")
        check_names(self.private_domains, "policy.private_domains")
        for name in self.hosts_files:
            check_path(name, "policy.hosts_files")


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How the running daemon is told what to do (resolverctl)."""

    socket: str = option(
        "", "Path of the Unix socket for resolverctl; only the daemon's own user and root may open it. Empty: none."
    )

    def __post_init__(self) -> None:
        check_path(self.socket, "control.socket")


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Counters for Prometheus."""

    listen: str = option(
        "",
        "Address and port of GET /metrics over HTTP, for instance 127.0.0.1:9335; whoever reaches it can read all"
        " counters. It needs prometheus-client (pip install 'corenet-resolver[metrics]'). Empty: none.",
    )

    def __post_init__(self) -> None:
        if self.listen:
            parse_endpoint(self.listen, limits.METRICS_PORT, "metrics.listen")


LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the daemon says on standard error."""

    level: str = option("info", "Least important message shown: debug, info, warning or error.")
    interval: float = option(
        float(limits.LOG_INTERVAL.default),
        "The same complaint is repeated at most once in this time, with a count; of different questions that fail,"
        f" {limits.LOG_FAILURES} are told.",
        kind="seconds",
        limit=limits.LOG_INTERVAL,
    )

    def __post_init__(self) -> None:
        check_limits(self, "log")
        if self.level not in LOG_LEVELS:
            raise ValueError(f"log.level: {self.level!r} is not one of {', '.join(LOG_LEVELS)}")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Two equal values behave the same; a reload replaces the whole."""

    server: ServerSettings = field(
        default_factory=ServerSettings, metadata={"doc": "Where and how clients are served."}
    )
    cache: CacheSettings = field(
        default_factory=CacheSettings, metadata={"doc": "What is remembered, how much of it and for how long."}
    )
    iteration: IterationSettings = field(
        default_factory=IterationSettings, metadata={"doc": "How the tree is walked and how servers are asked."}
    )
    dnssec: DnssecSettings = field(
        default_factory=DnssecSettings, metadata={"doc": "What is validated, and from which keys."}
    )
    policy: PolicySettings = field(
        default_factory=PolicySettings, metadata={"doc": "Who may ask, and what is answered without asking anybody."}
    )
    control: ControlSettings = field(
        default_factory=ControlSettings, metadata={"doc": "How the running daemon is told what to do (resolverctl)."}
    )
    metrics: MetricsSettings = field(default_factory=MetricsSettings, metadata={"doc": "Counters for Prometheus."})
    log: LogSettings = field(default_factory=LogSettings, metadata={"doc": "What the daemon says on standard error."})
    root_hints: tuple[RootServer, ...] = option(
        tuple(RootServer(name, addresses) for name, addresses in hints.ROOT_SERVERS),
        "Root servers to begin with (RFC 9609); a list given here replaces the built-in one.",
    )
    forward: tuple[ForwardZone, ...] = option((), "Zones asked of other recursive resolvers.")
    stub: tuple[StubZone, ...] = option((), "Zones asked of given authoritative servers.")

    def __post_init__(self) -> None:
        if not self.root_hints and "." not in self.configured_zones:
            raise ValueError(
                "root_hints: the list is empty and no forward zone takes its place; nothing could be resolved"
            )
        for name, addresses in self.root_hints:
            check_names((name,), "root_hints")
            check_addresses(tuple(addresses), f"root_hints {name}")
        seen: set[str] = set()
        for zone in self.configured_zones:
            plain = zone.removesuffix(".").lower()
            if plain in seen:
                raise ValueError(f"forward: zone {zone!r} is given twice; give all its servers in one table")
            seen.add(plain)
        entries: tuple[ForwardZone | StubZone, ...] = (*self.forward, *self.stub)
        for entry in entries:
            plain = "." + entry.zone.strip(".").lower()
            wider = any("." + one != plain and plain.endswith("." + one if one else "") for one in seen)
            if not (entry.addresses or getattr(entry, "names", ()) or wider):
                kind = "forward" if isinstance(entry, ForwardZone) else "stub"
                raise ValueError(f"{kind}: zone {entry.zone!r} has no servers, and no wider zone to be taken out of")

    @property
    def configured_zones(self) -> tuple[str, ...]:
        """Names of the forward and stub zones."""
        return (*(zone.zone for zone in self.forward), *(zone.zone for zone in self.stub))
