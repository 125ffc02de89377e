"""Typed settings of the library and the daemon: frozen dataclasses with a default and a description for each field.

Nothing here reads a file, a clock or the environment. `resolver.daemon.config` turns a TOML file into these classes and
`resolver.api.Resolver` takes them directly. Names and addresses are text, because this module is below `resolver.wire`
in the layers; their users convert them to wire form once, at start. `resolver.options.option` declares a field. Its
description is the only source of ``resolverd --print-config`` and docs/resolverd-options.md.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from resolver import hints, limits
from resolver.balance_settings import BalanceSettings, TargetSettings, check_balances
from resolver.dns64_settings import check_dns64
from resolver.limit_settings import FetchLimitSettings, RateLimitSettings
from resolver.list_settings import ListSettings, RpzSettings, check_lists
from resolver.observe_settings import DnstapSettings, QueryLogSettings, WebSettings
from resolver.options import (
    check_addresses,
    check_limits,
    check_names,
    check_path,
    check_prefixes,
    option,
    parse_endpoint,
)
from resolver.second_level_settings import SecondLevelSettings
from resolver.subnet_settings import SubnetSettings
from resolver.upstream_address import HTTPS, PIN_PREFIX, QUIC, TLS, parse_upstream
from resolver.zone_settings import POLICY, ROOT_PRIMARIES, TsigKey, ZoneSettings, ZonesSettings

__all__ = [
    "LISTENER_PORTS",
    "LISTENER_TRANSPORTS",
    "BalanceSettings",
    "CacheSettings",
    "ControlSettings",
    "DnssecSettings",
    "DnstapSettings",
    "FetchLimitSettings",
    "ForwardZone",
    "HostEntry",
    "IterationSettings",
    "ListSettings",
    "ListenerSettings",
    "LogSettings",
    "MetricsSettings",
    "PolicySettings",
    "QueryLogSettings",
    "RateLimitSettings",
    "RootServer",
    "RpzSettings",
    "SecondLevelSettings",
    "ServerSettings",
    "Settings",
    "StubZone",
    "SubnetSettings",
    "TargetSettings",
    "TlsSettings",
    "TsigKey",
    "ViewSettings",
    "WebSettings",
    "ZoneSettings",
    "ZonesSettings",
    "replace",
]

_VIEW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def _check_rewrite(text: str) -> None:
    try:
        before, after = map(ip_network, text.split())
    except ValueError:
        raise ValueError(f"policy.rewrite_addresses: {text!r} is not two address prefixes, from and to") from None
    if before.version != after.version or before.prefixlen != after.prefixlen:
        raise ValueError(f"policy.rewrite_addresses: the two prefixes of {text!r} differ in size")


def _check_upstreams(
    addresses: tuple[str, ...], permitted: tuple[str, ...], fallback: str, allow_unauthenticated: bool
) -> bool:
    """Check the addresses of a forward or stub zone; returns whether they are encrypted.

    No query may be sent unencrypted because an encrypted server failed. `fallback` is the name of the setting that
    would permit it, or empty when that is off.
    """
    found = [parse_upstream(text, 53, "addresses") for text in addresses]
    for text, (_, _, encryption) in zip(addresses, found, strict=True):
        if encryption is None:
            continue
        if encryption.protocol not in permitted:
            raise ValueError(f"addresses: {text!r}: authoritative servers are queried over TLS only; write tls://")
        if not (encryption.authenticated or allow_unauthenticated):
            raise ValueError(f"addresses: {text!r} has no name and no pin, so anyone on the path could answer; add"
                             f" #NAME, or #{PIN_PREFIX}HASH"
                             + (", or set allow_unauthenticated" if HTTPS in permitted else ""))
    encrypted = [one for one in found if one.encryption is not None]
    if encrypted and len(encrypted) < len(found):
        plain = addresses[next(n for n, one in enumerate(found) if one.encryption is None)]
        raise ValueError(f"addresses: {plain!r} is unencrypted and would get the same queries as the encrypted servers;"
                         " remove it, or write tls:// or https:// before it")
    if encrypted and fallback:
        raise ValueError(f"{fallback}: when the encrypted servers fail, queries would be sent unencrypted; set it to"
                         " false, or use servers without encryption")
    return bool(encrypted)


class RootServer(NamedTuple):
    """One root server and its addresses, as in the root hints."""

    name: str
    addresses: tuple[str, ...]


class HostEntry(NamedTuple):
    """A name with its addresses that is answered from the configuration, like a line of a hosts file."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForwardZone:
    """Queries for names in `zone` are forwarded to recursive resolvers instead of being resolved from the root."""

    zone: str = option(".", 'Zone whose queries are forwarded; "." forwards all queries.')
    addresses: tuple[str, ...] = option(
        (),
        "Recursive resolvers for this zone, fastest first; a port other than 53 follows a colon. An empty list"
        " excludes this zone from a wider forward zone: its names are resolved from the root. tls://ADDRESS#NAME is"
        " queried over TLS (RFC 7858), https://ADDRESS/dns-query#NAME over HTTPS (RFC 8484), quic://ADDRESS#NAME over"
        " QUIC (RFC 9250, pip install 'corenet-resolver[quic]'); the certificate must be valid for NAME. sha256//HASH"
        " after NAME and a comma, or instead of NAME, pins a public key. Either all servers of a zone are encrypted or"
        " none.",
    )
    forward_first: bool = option(
        False, "When all of these resolvers fail, resolve from the root instead of answering SERVFAIL."
    )
    allow_unauthenticated: bool = option(
        False,
        "Accept encrypted servers without a name and without a pin. An attacker on the path can then read and answer"
        " the queries. Queries are never sent unencrypted instead (RFC 8310 5).",
    )

    def __post_init__(self) -> None:
        check_names((self.zone,), "zone")
        _check_upstreams(
            self.addresses,
            (TLS, HTTPS, QUIC),
            "forward_first" if self.forward_first else "",
            self.allow_unauthenticated,
        )


@dataclass(frozen=True, slots=True)
class StubZone:
    """Names in `zone` are resolved with these authoritative servers; the public delegation is not used."""

    zone: str = option(".", "Zone whose authoritative servers are configured here.")
    addresses: tuple[str, ...] = option(
        (),
        "Addresses of the authoritative servers; a port other than 53 follows a colon. tls://ADDRESS#NAME is queried"
        " over TLS.",
    )
    names: tuple[str, ...] = option(
        (), "Names of the authoritative servers; their addresses are resolved when first needed."
    )
    stub_first: bool = option(
        False, "When all of these servers fail, follow the public delegation instead of answering SERVFAIL."
    )

    def __post_init__(self) -> None:
        check_names((self.zone,), "zone")
        check_names(self.names, "names")
        encrypted = _check_upstreams(self.addresses, (TLS,), "stub_first" if self.stub_first else "", False)
        if encrypted and self.names:
            raise ValueError("names: these servers would be queried unencrypted besides those of addresses; give their"
                             " addresses with tls://")


def _check_upstream_zones(zones: tuple[ForwardZone | StubZone, ...], others: Iterable[str]) -> None:
    """Check forward and stub zones together. `others` are the names of wider ones that they may end.

    Raises:
        ValueError: two have the same name, or one without servers ends no wider one.
    """
    seen: set[str] = set()
    for entry in zones:
        plain = entry.zone.removesuffix(".").lower()
        if plain in seen:
            raise ValueError(f"forward: zone {entry.zone!r} is configured twice; list all its servers in one table")
        seen.add(plain)
    seen |= {zone.removesuffix(".").lower() for zone in others}
    for entry in zones:
        plain = "." + entry.zone.strip(".").lower()
        wider = any("." + one != plain and plain.endswith("." + one if one else "") for one in seen)
        if not (entry.addresses or getattr(entry, "names", ()) or wider):
            kind = "forward" if isinstance(entry, ForwardZone) else "stub"
            raise ValueError(
                f"{kind}: zone {entry.zone!r} has no servers, and there is no wider zone to exclude it from"
            )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Listeners, limits for clients, and the form of replies."""

    listen: tuple[str, ...] = option(
        ("127.0.0.1:5335", "[::1]:5335"),
        "Addresses and ports on which clients are served, over UDP and TCP. The default port 5335 needs no privilege"
        " and is not used by another service.",
    )
    workers: int = option(
        limits.WORKERS.default,
        "Number of processes. They share the listening port (SO_REUSEPORT) and the cache.",
        limit=limits.WORKERS,
    )
    lanes: int = option(
        limits.LANES.default,
        "Threads of each worker that answer cached UDP queries without Python, so that nothing that Python does delays"
        " them. 0: the thread of the event loop does it. With a query log or dnstap it does it, too.",
        limit=limits.LANES,
    )
    upgrade_timeout: float = option(
        limits.UPGRADE_TIMEOUT.default / 1000,
        "Time that a new process has to start at an upgrade (`resolverctl upgrade`). After it the upgrade has failed,"
        " and the old process serves on.",
        kind="seconds",
        limit=limits.UPGRADE_TIMEOUT,
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
            host, port = parse_endpoint(text, 53, "server.listen")
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
        limits.NSID_SIZE.check(len(octets), "server.nsid")
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


LISTENER_PORTS = {"dns": 53, "tls": 853, "https": 443, "quic": 853}
"""The protocols of listeners with their ports (RFC 1035 section 4.2, RFC 7858 section 3.1, RFC 8484, RFC 9250
section 4.1.1)."""
LISTENER_TRANSPORTS = {"dns": ("tcp", "udp"), "tls": ("tcp",), "https": ("tcp",), "quic": ("udp",)}
"""The transports that each protocol listens on."""

_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """One served address with its protocol. Omitted settings have the values of `server` and `policy`."""

    address: str = option(
        "",
        "Address to serve, with or without a port. Default ports: 53 for dns, 853 for tls and quic, 443 for https.",
    )
    protocol: str = option(
        "dns",
        '"dns" is UDP and TCP without encryption, "tls" is DNS over TLS (RFC 7858), "https" is DNS over HTTPS (RFC 8484'
        ' over HTTP/2 and HTTP/1.1), "quic" is DNS over QUIC (RFC 9250). The last three need tls.certificate, and quic'
        " needs qh3 (pip install 'corenet-resolver[quic]').",
    )
    allow: tuple[str, ...] = option(
        (),
        "Client prefixes that are served here. When this list or one of the next two is not empty, the three replace"
        " those of policy for this listener.",
    )
    refuse: tuple[str, ...] = option((), "Client prefixes that are answered REFUSED here.")
    drop: tuple[str, ...] = option((), "Client prefixes whose queries are dropped here.")
    path: str = option("/dns-query", "Path of requests (https only); clients have it in their URL (RFC 8484 3).")
    proxy_protocol_from: tuple[str, ...] = option(
        (),
        "Prefixes of load balancers that begin each connection, and each datagram, with a header of PROXY protocol"
        " version 2. Access lists and limits use the client address in the header. Other peers must not send one.",
    )
    idle_timeout: float = option(
        0.0, "An idle connection is closed after this time; 0: server.tcp-idle-timeout.", kind="seconds"
    )
    connections: int = option(0, "Open connections of all clients, in each worker; 0: server.tcp-connections.")
    connections_per_client: int = option(
        0, "Open connections of one client address; 0: server.tcp-connections-per-client."
    )
    connections_network_percent: int = option(
        0,
        "Percentage of the connections that one client network may have; 0: server.tcp-connections-network-percent.",
    )
    pipeline: int = option(0, "Unanswered queries on one connection; 0: server.tcp-pipeline.")

    def __post_init__(self) -> None:
        if self.protocol not in LISTENER_PORTS:
            raise ValueError(f"protocol: {self.protocol!r} is not one of {', '.join(LISTENER_PORTS)}")
        if not self.address:
            raise ValueError("address: it is missing; give an IP address, with or without a port")
        parse_endpoint(self.address, LISTENER_PORTS[self.protocol], "address")
        for name in ("allow", "refuse", "drop", "proxy_protocol_from"):
            check_prefixes(getattr(self, name), name)
        if self.proxy_protocol_from and self.protocol == "quic":
            raise ValueError("proxy_protocol_from: PROXY headers are not read on a listener of protocol quic")
        if not _PATH.fullmatch(self.path):
            raise ValueError(f"path: {self.path!r} is not the path of a URL, such as /dns-query")
        for name, limit, scale in (
            ("idle_timeout", limits.TCP_IDLE_TIMEOUT, 1000),
            ("connections", limits.TCP_CONNECTIONS, 1),
            ("connections_per_client", limits.TCP_CONNECTIONS_PER_CLIENT, 1),
            ("connections_network_percent", limits.TCP_NETWORK_SHARE, 1),
            ("pipeline", limits.TCP_PIPELINE, 1),
        ):
            value = getattr(self, name)
            if value:
                limit.check(round(value * scale), name)

    @property
    def endpoint(self) -> tuple[str, int]:
        """`address` as (address, port)."""
        return parse_endpoint(self.address, LISTENER_PORTS[self.protocol], "address")

    @property
    def key(self) -> tuple[str, int, str]:
        """Identifies the listener across reloads: address, port and protocol."""
        return (*self.endpoint, self.protocol)

    @property
    def has_access_list(self) -> bool:
        """Whether its lists replace those of the policy."""
        return bool(self.allow or self.refuse or self.drop)

    def applied_to(self, server: ServerSettings) -> ServerSettings:
        """`server` with the values of this listener."""
        return replace(
            server,
            tcp_idle_timeout=self.idle_timeout or server.tcp_idle_timeout,
            tcp_connections=self.connections or server.tcp_connections,
            tcp_connections_per_client=self.connections_per_client or server.tcp_connections_per_client,
            tcp_connections_network_percent=(
                self.connections_network_percent or server.tcp_connections_network_percent
            ),
            tcp_pipeline=self.pipeline or server.tcp_pipeline,
        )


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Certificates of the listeners with TLS."""

    certificate: tuple[str, ...] = option(
        (),
        "PEM file with the certificate and then its chain; or a list of files. A client gets the certificate that has"
        " the name in its SNI, else the first. A reload reads the files again.",
        kind="files",
    )
    key: tuple[str, ...] = option(
        (), "PEM file with the private key, not encrypted; or a list of files, one for each certificate.", kind="files"
    )
    ocsp_staple: tuple[str, ...] = option(
        (),
        "File with the OCSP response (DER) for the certificate, which clients of tls and https get that ask for it; or"
        ' a list of files, one for each certificate, "" for one without. It is checked; a reload reads it again.',
        kind="files",
    )
    name: str = option(
        "",
        "Name by which clients authenticate this resolver, for example dns.example.net. It must be in the certificate."
        " Clients that know only the address then discover the listeners with TLS (RFC 9462). Empty: no discovery.",
    )

    def __post_init__(self) -> None:
        if len(self.certificate) != len(self.key):
            raise ValueError(
                f"tls.key: {len(self.key)} keys for {len(self.certificate)} certificates; give one key for each"
            )
        if len(self.certificate) > limits.TLS_CERTIFICATES:
            raise ValueError(f"tls.certificate: more than {limits.TLS_CERTIFICATES} files are listed")
        if self.ocsp_staple and len(self.ocsp_staple) != len(self.certificate):
            raise ValueError(
                f"tls.ocsp_staple: {len(self.ocsp_staple)} files for {len(self.certificate)} certificates; give one for"
                ' each, or "" for a certificate without a staple'
            )
        for setting in ("certificate", "key", "ocsp_staple"):
            for path in getattr(self, setting):
                check_path(path, f"tls.{setting}")
        if self.name:
            check_names((self.name,), "tls.name")


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


OPPORTUNISTIC = ("off", "dot")


@dataclass(frozen=True, slots=True)
class IterationSettings:
    """Iteration, and queries to upstream servers."""

    qname_minimisation: bool = option(True, "Send each name server only the labels that it needs (RFC 9156).")
    harden_glue: bool = option(
        True,
        "Accept glue only for names below the zone that sent the referral (RFC 5452 6); protects from cache poisoning.",
    )
    send_cookies: bool = option(
        True,
        "Send DNS cookies to name servers. A reply of a server that supports cookies is accepted over UDP only with"
        " the right cookie (RFC 7873).",
    )
    case_randomisation: bool = option(
        True,
        "Randomise the case of letters in upstream queries and require the same case in replies (0x20). This makes"
        " spoofing harder.",
    )
    case_randomisation_exempt: tuple[str, ...] = option(
        (), "Zones at and below which qnames are sent in lower case, because their servers do not preserve case."
    )
    do_ip4: bool = option(True, "Query name servers over IPv4.")
    do_ip6: bool = option(
        True, "Query name servers over IPv6. Without an IPv6 route, this is detected and costs little."
    )
    tcp_only: bool = option(
        False, "Query name servers over TCP only. It is slower, but an off-path attacker cannot forge replies."
    )
    do_not_query_localhost: bool = option(
        True, "Never query name servers on loopback addresses. A public delegation to one is an error or an attack."
    )
    do_not_query_addresses: tuple[str, ...] = option((), "Address prefixes to which no upstream query is sent.")
    priming: bool = option(
        True, "Query a root server for the current root servers when they are first needed (RFC 9609)."
    )
    edns_buffer_size: int = option(
        limits.EDNS_PAYLOAD.default,
        "UDP reply size announced to name servers in EDNS (RFC 6891 6.2.5). 1232 bytes avoid IP fragmentation (RFC"
        " 9715).",
        kind="bytes",
        limit=limits.EDNS_PAYLOAD,
    )
    max_upstream_queries: int = option(
        limits.MAX_PACKETS.default,
        "Most upstream queries caused by one client query, including sub-queries (NXNSAttack, CAMP).",
        limit=limits.MAX_PACKETS,
    )
    query_timeout: float = option(
        limits.DEADLINE.default / 1000,
        "Time after which an unresolved client query is answered SERVFAIL.",
        kind="seconds",
        limit=limits.DEADLINE,
        scale=1000,
    )
    upstream_port: int = option(
        limits.UPSTREAM_PORT.default,
        "Port of name servers. A value other than 53 is for tests with simulated name servers.",
        limit=limits.UPSTREAM_PORT,
    )
    source_port_per_query: bool = option(
        True,
        "Use a new random source port, on a connected socket, for every upstream query. Off: use a pool of 32 random"
        " ports that are replaced within 30 seconds. The pool saves some microseconds for each query, but an attacker"
        " can find its ports by probing.",
    )
    query_source_v4: str = option("", "Source address of upstream queries over IPv4. Empty: the kernel selects it.")
    query_source_v6: str = option("", "Source address of upstream queries over IPv6. Empty: the kernel selects it.")
    tls_cert_bundle: str = option(
        "",
        "PEM file of the certificate authorities for tls:// and https:// servers. Empty: those of the system.",
    )
    opportunistic_encryption: str = option(
        "off",
        "dot: probe authoritative servers for DNS over TLS and use it where they offer it (RFC 9539). Nobody is"
        " authenticated, so it protects only from those who listen. off: plain text.",
    )
    opportunistic_port: int = option(
        limits.OPPORTUNISTIC_PORT.default,
        "Port of DNS over TLS for opportunistic-encryption. A value other than 853 is for tests with simulated name"
        " servers.",
        limit=limits.OPPORTUNISTIC_PORT,
    )

    def __post_init__(self) -> None:
        check_limits(self, "iteration")
        check_prefixes(self.do_not_query_addresses, "iteration.do_not_query_addresses")
        check_names(self.case_randomisation_exempt, "iteration.case_randomisation_exempt")
        check_path(self.tls_cert_bundle, "iteration.tls_cert_bundle")
        if self.opportunistic_encryption not in OPPORTUNISTIC:
            raise ValueError(f"iteration.opportunistic_encryption: {self.opportunistic_encryption!r} is not one of"
                             f" {', '.join(OPPORTUNISTIC)}")
        for name, version in (("query_source_v4", 4), ("query_source_v6", 6)):
            text = getattr(self, name)
            if text:
                check_addresses((text,), f"iteration.{name}")
                if ip_address(text).version != version:
                    raise ValueError(f"iteration.{name}: {text!r} is not an IPv{version} address")
        if not (self.do_ip4 or self.do_ip6):
            raise ValueError("iteration.do_ip4: do-ip4 and do-ip6 are both off; no name server can be queried")


@dataclass(frozen=True, slots=True)
class DnssecSettings:
    """DNSSEC validation and trust anchors."""

    enabled: bool = option(True, "Validate answers (RFC 4035). Off: no answer is marked secure or rejected as bogus.")
    trust_anchors: tuple[str, ...] = option(
        hints.ROOT_ANCHORS,
        "Trust anchors: DS or DNSKEY records in presentation format, for any zone, several for one zone if needed"
        " (RFC 4035 5). An empty list turns validation off. The default is the two root keys, key tags 20326 and"
        " 38696.",
    )
    auto_trust_anchor_file: str = option(
        "",
        "File in which trust anchors are updated when their zones roll their keys (RFC 5011). The daemon must be able"
        " to write to its directory. Empty: the configured anchors do not change.",
    )
    add_hold_down: float = option(
        float(limits.ADD_HOLD_DOWN.default),
        "RFC 5011 add hold-down time: a new key of a zone with a trust anchor must be published and signed for this"
        " long before it is trusted.",
        kind="seconds",
        limit=limits.ADD_HOLD_DOWN,
    )
    remove_hold_down: float = option(
        float(limits.REMOVE_HOLD_DOWN.default),
        "RFC 5011 remove hold-down time: a revoked key is listed as revoked for this long before it is removed. It is"
        " not trusted meanwhile.",
        kind="seconds",
        limit=limits.REMOVE_HOLD_DOWN,
    )
    missing_hold_down: float = option(
        float(limits.MISSING_HOLD_DOWN.default),
        "Time after which a trusted key in the RFC 5011 state Missing is removed if another trusted key remains. 0"
        " keeps it. Unbound calls this keep-missing.",
        kind="seconds",
        limit=limits.MISSING_HOLD_DOWN,
    )
    negative_trust_anchors: tuple[str, ...] = option(
        (),
        "Zones at and below which answers are not validated, for a zone whose signatures are known to be broken (RFC"
        " 7646). After a space may follow the time in seconds since 1970 at which it ends.",
    )
    accept_sha1: bool = option(
        True,
        "Validate with algorithms 5 and 7 (RSA with SHA-1, RFC 9905). Off: zones signed only with them count as"
        " insecure.",
    )
    harden_algorithm_downgrade: bool = option(
        False,
        "Require a valid signature of every algorithm in a zone's DS records and keys, so that breaking the weakest"
        " algorithm is not enough. Off by default: RFC 6840 5.11 requires only one, and some zones have only one"
        " during a rollover.",
    )
    signature_skew_min: float = option(
        float(limits.SIGNATURE_SKEW_MIN.default),
        "Lowest clock skew tolerated at both ends of a signature's validity period. The default is 0 because RFC 4035"
        " 5.3.1 tolerates none; other resolvers use one hour here and one day for `signature-skew-max`.",
        kind="seconds",
        limit=limits.SIGNATURE_SKEW_MIN,
    )
    signature_skew_max: float = option(
        float(limits.SIGNATURE_SKEW_MAX.default),
        "Highest clock skew tolerated. Between the two bounds, a tenth of the signature's validity period is"
        " tolerated. 0 tolerates none.",
        kind="seconds",
        limit=limits.SIGNATURE_SKEW_MAX,
    )
    nsec3_max_iterations: int = option(
        limits.NSEC3_ITERATIONS.default,
        "Highest NSEC3 iteration count that is validated. A zone with a higher count is treated as insecure (RFC 9276"
        " 3.2).",
        limit=limits.NSEC3_ITERATIONS,
    )

    def __post_init__(self) -> None:
        check_limits(self, "dnssec")
        _check_negative(self.negative_trust_anchors, "dnssec.negative_trust_anchors")
        check_path(self.auto_trust_anchor_file, "dnssec.auto_trust_anchor_file")
        if self.signature_skew_min > self.signature_skew_max:
            raise ValueError("dnssec.signature_skew_min: it is larger than dnssec.signature-skew-max")
        for text in self.trust_anchors:
            hints.check_anchor(text, "dnssec.trust_anchors")
            check_names((text.replace("(", " ").split()[0],), "dnssec.trust_anchors")

    @property
    def active(self) -> bool:
        """Whether answers are validated."""
        return self.enabled and bool(self.trust_anchors)


def _check_negative(values: Iterable[str], where: str) -> None:
    """Check the negative trust anchors `values`.

    Raises:
        ValueError: one is wrong; the message names `where`.
    """
    try:
        zones = [hints.negative_anchor(text)[0] for text in values]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    check_names(zones, where)


HOOK_ERRORS = ("continue", "servfail")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Access control, local answers and rewriting of answers."""

    allow: tuple[str, ...] = option(
        ("127.0.0.0/8", "::1/128"),
        "Client prefixes that are served. The longest matching prefix of `allow`, `refuse` and `drop` decides.",
    )
    refuse: tuple[str, ...] = option(
        (),
        "Client prefixes that are answered REFUSED. Clients in none of the three lists are refused too, because open"
        " resolvers are used for amplification attacks (RFC 5358).",
    )
    drop: tuple[str, ...] = option((), "Client prefixes whose queries are dropped without an answer.")
    special_use_domains: bool = option(
        True,
        "Answer localhost, invalid, onion and the reverse zones of private addresses locally (RFC 6761, RFC 6303, RFC"
        " 7686).",
    )
    hosts: tuple[HostEntry, ...] = option((), "Names and addresses that are answered locally, forward and reverse.")
    hosts_files: tuple[str, ...] = option((), "Files in the format of /etc/hosts whose entries are answered locally.")
    local_zones: tuple[str, ...] = option(
        (),
        'Zones that are answered locally, as "zone type". Types: static, deny, refuse, redirect, transparent,'
        " typetransparent, inform, inform_deny, inform_redirect, always_transparent, always_refuse, always_nxdomain,"
        " always_nodata, always_deny, always_null, block_a and nodefault as in Unbound; nodata, nxdomain, truncate"
        " (clients must use TCP) and resolve.",
    )
    local_data: tuple[str, ...] = option((), "Records of local zones in presentation format.")
    modules: tuple[str, ...] = option(
        (),
        "Python modules with hooks, as names that Python can import or as paths of files. Their functions are called at"
        " the points of a query, in this order. They run with the rights of the daemon.",
    )
    hook_timeout: float = option(
        limits.HOOK_TIMEOUT.default / 1000,
        "A coroutine of a hook is cancelled after this time. A plain function cannot be interrupted.",
        kind="seconds",
        limit=limits.HOOK_TIMEOUT,
        scale=1000,
    )
    on_hook_error: str = option(
        "continue",
        "What happens to a query when a hook fails: continue as if the hook had no objection, or servfail.",
    )
    dns64_prefix: tuple[str, ...] = option(
        (),
        "Prefix for the synthesis of AAAA records for names that have only A records, for clients behind NAT64 (RFC"
        ' 6147); usually "64:ff9b::/96". Or a list: each prefix makes an AAAA record. IPv4 prefixes after it, separated'
        " by blanks, are the addresses that it is for. Empty: no synthesis.",
        kind="texts",
    )
    dns64_exclude: tuple[str, ...] = option(
        ("::ffff:0:0/96",),
        "AAAA records in these prefixes are removed by DNS64, and when no other is left, AAAA records are synthesised"
        " (RFC 6147 5.1.4).",
    )
    dns64_exclude_a: tuple[str, ...] = option(
        (), "IPv4 prefixes of which DNS64 makes no AAAA records, for addresses that the NAT64 does not reach."
    )
    dns64_ignore_aaaa: tuple[str, ...] = option(
        (), "Zones at and below which DNS64 ignores all AAAA records, because they do not work for its clients."
    )
    private_addresses: tuple[str, ...] = option(
        (),
        "Address prefixes that are removed from answers, because public names must not point into a private network"
        " (DNS rebinding).",
    )
    private_domains: tuple[str, ...] = option(
        (), "Zones at and below which names may have addresses of `private-addresses`."
    )
    rewrite_addresses: tuple[str, ...] = option(
        (),
        'Prefix pairs for rewriting addresses in answers: "192.0.2.0/24 198.51.100.0/24" replaces the first prefix by'
        " the second.",
    )
    geo_database: str = option(
        "",
        "File in the format of MaxMind DB with the countries of addresses, for [[balance]]. It needs maxminddb (pip"
        " install 'corenet-resolver[geo]').",
    )

    def __post_init__(self) -> None:
        check_limits(self, "policy")
        if self.on_hook_error not in HOOK_ERRORS:
            raise ValueError(f"policy.on_hook_error: {self.on_hook_error!r} is not one of {', '.join(HOOK_ERRORS)}")
        if len(self.modules) > limits.HOOK_MODULES:
            raise ValueError(f"policy.modules: more than {limits.HOOK_MODULES} modules")
        for name in self.modules:
            check_path(name, "policy.modules")
            if not name:
                raise ValueError("policy.modules: '' is no name of a module")
        for name in ("allow", "refuse", "drop", "private_addresses"):
            check_prefixes(getattr(self, name), f"policy.{name}")
        for text in self.dns64_exclude:
            check_prefixes((text,), "policy.dns64_exclude")
            if ip_network(text, strict=False).version != 6:
                raise ValueError(f"policy.dns64_exclude: {text!r} is not an IPv6 prefix")
        check_dns64(self.dns64_prefix, self.dns64_exclude_a)
        check_names(self.dns64_ignore_aaaa, "policy.dns64_ignore_aaaa")
        for text in self.rewrite_addresses:
            _check_rewrite(text)
        for entry in self.hosts:
            check_names((entry.name,), "policy.hosts")
            check_addresses(entry.addresses, f"policy.hosts.{entry.name}")
        check_names(self.private_domains, "policy.private_domains")
        check_path(self.geo_database, "policy.geo_database")
        for name in self.hosts_files:
            check_path(name, "policy.hosts_files")


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """A view: clients that get other answers, and how these differ from the answers of policy."""

    name: str = option("", "Name of the view, for log and statistics.")
    clients: tuple[str, ...] = option(
        (),
        "Client prefixes of this view; empty: all clients. A client belongs to the first view in the file whose"
        " clients, listeners and transports all fit.",
    )
    listeners: tuple[str, ...] = option(
        (), "Served addresses of this view, as in server.listen; without a port: all ports. Empty: all listeners."
    )
    transports: tuple[str, ...] = option((), "udp, tcp, tls, https or quic. Empty: all transports.")
    allow: tuple[str, ...] = option(
        (),
        "Client prefixes that are served. When this list or one of the next two is not empty, the three replace those"
        " of policy and of the listener for clients of this view.",
    )
    refuse: tuple[str, ...] = option((), "Client prefixes that are answered REFUSED.")
    drop: tuple[str, ...] = option((), "Client prefixes whose queries are dropped.")
    inherit: bool = option(
        True,
        "Begin with the hosts, local zones, local data, hooks, DNS64 and rewriting of policy; the settings below are"
        " added to them. Off: this view has only the settings below.",
    )
    special_use_domains: bool = option(True, "As in policy. Off in policy is off in all views.")
    hosts: tuple[HostEntry, ...] = option((), "Names and addresses, as in policy.")
    local_zones: tuple[str, ...] = option(
        (), "Local zones, as in policy. They replace zones of the same name of policy."
    )
    local_data: tuple[str, ...] = option((), "Records of local zones, as in policy.")
    modules: tuple[str, ...] = option((), "Python modules with hooks, as in policy.")
    dns64: bool = option(True, "Off: no DNS64 in this view.")
    dns64_prefix: tuple[str, ...] = option(
        (),
        "Prefix of DNS64, or a list, as in policy. It replaces all settings of DNS64 of policy.",
        kind="texts",
    )
    dns64_exclude: tuple[str, ...] = option(("::ffff:0:0/96",), "As in policy; only used with dns64-prefix.")
    dns64_exclude_a: tuple[str, ...] = option((), "As in policy; only used with dns64-prefix.")
    dns64_ignore_aaaa: tuple[str, ...] = option((), "As in policy; only used with dns64-prefix.")
    private_addresses: tuple[str, ...] = option((), "Prefixes that are removed from answers, as in policy.")
    private_domains: tuple[str, ...] = option((), "Zones with private addresses, as in policy.")
    rewrite_addresses: tuple[str, ...] = option((), "Prefix pairs for rewriting addresses, as in policy.")
    forward: tuple[ForwardZone, ...] = option(
        (),
        "Forward zones of this view, as [[view.forward]]. They are added to those of [[forward]] and [[stub]] and"
        " replace those of the same name. What is resolved for this view is then cached for it alone.",
    )
    stub: tuple[StubZone, ...] = option((), "Stub zones of this view, as [[view.stub]], in the same way.")
    negative_trust_anchors: tuple[str, ...] = option(
        (),
        "Zones at and below which answers to this view are not validated, besides those of dnssec. This, too, makes a"
        " cache for it alone.",
    )
    queries_per_second: int = option(
        -1, "As in rate-limit, for clients of this view, and the same for verified queries. -1: as in rate-limit.",
    )
    responses_per_second: int = option(
        -1, "As in rate-limit, for all kinds of replies to clients of this view. -1: as in rate-limit.",
    )

    def __post_init__(self) -> None:
        if not _VIEW_NAME.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} is no name of a view; use letters, digits, hyphens, at most 63")
        for name in ("clients", "allow", "refuse", "drop"):
            check_prefixes(getattr(self, name), name)
        for text in self.listeners:
            parse_endpoint(text, 0, "listeners")
        known = ("udp", "tcp", "tls", "https", "quic")
        for text in self.transports:
            if text not in known:
                raise ValueError(f"transports: {text!r} is not one of {', '.join(known)}")
        if not (self.clients or self.listeners or self.transports):
            raise ValueError("clients: nothing says who is in this view; give clients, listeners or transports")
        _check_negative(self.negative_trust_anchors, "negative_trust_anchors")
        if self.dns64_prefix and not self.dns64:
            raise ValueError("dns64: it is off, but dns64-prefix is given; remove one of the two")
        for name in ("queries_per_second", "responses_per_second"):
            limits.RATE_OF_KIND.check(getattr(self, name), name)
        try:
            self._own()
        except ValueError as error:
            raise ValueError(str(error).removeprefix("policy.")) from None

    @property
    def upstream_zones(self) -> tuple[ForwardZone | StubZone, ...]:
        """The forward and stub zones that only this view has."""
        return (*self.forward, *self.stub)

    @property
    def has_own_servers(self) -> bool:
        """Whether what is resolved for the view may differ from what is resolved for others, so it is cached apart."""
        return bool(self.forward or self.stub or self.negative_trust_anchors)

    @property
    def part(self) -> bytes:
        """The label of its part of the cache. Views with other servers or another name have another one, also under
        other settings of other workers, so they never find what was resolved for this view."""
        rules = (self.name.lower(), self.forward, self.stub, self.negative_trust_anchors)
        return hashlib.sha256(repr(rules).encode()).digest()[:8]

    @property
    def has_access_list(self) -> bool:
        """Whether its lists replace those around it."""
        return bool(self.allow or self.refuse or self.drop)

    def serves(self, listener: "ListenerSettings | None", transport: str | None) -> bool:
        """Whether clients of `listener` over `transport` may be in this view; None: no listener is known."""
        if listener is None or transport is None:
            return not (self.listeners or self.transports)
        if self.transports and transport not in self.transports:
            return False
        return not self.listeners or any(self._names(text, listener) for text in self.listeners)

    @staticmethod
    def _names(text: str, listener: "ListenerSettings") -> bool:
        host, port = parse_endpoint(text, 0, "listeners")
        served, at = listener.endpoint
        return ip_address(host) == ip_address(served) and port in (0, at)

    def _own(self) -> PolicySettings:
        return PolicySettings(
            special_use_domains=self.special_use_domains, hosts=self.hosts, local_zones=self.local_zones,
            local_data=self.local_data, modules=self.modules, dns64_prefix=self.dns64_prefix if self.dns64 else (),
            dns64_exclude=self.dns64_exclude, dns64_exclude_a=self.dns64_exclude_a,
            dns64_ignore_aaaa=self.dns64_ignore_aaaa,
            private_addresses=self.private_addresses, private_domains=self.private_domains,
            rewrite_addresses=self.rewrite_addresses,
        )

    def rates(self, common: RateLimitSettings) -> RateLimitSettings:
        """The rates of clients of this view."""
        queries, replies = self.queries_per_second, self.responses_per_second
        if queries >= 0:
            common = replace(common, queries_per_second=queries, verified_queries_per_second=queries)
        if replies >= 0:
            common = replace(common, responses_per_second=replies, referrals_per_second=-1, nodata_per_second=-1,
                             nxdomains_per_second=-1, errors_per_second=-1,
                             all_per_second=common.all_per_second if replies else 0)
        return common

    def applied_to(self, policy: PolicySettings) -> PolicySettings:
        """The policy of clients of this view; the access lists in it have no meaning."""
        own = self._own()
        special = own.special_use_domains and policy.special_use_domains
        if not self.inherit:
            return replace(own, special_use_domains=special)
        dns64 = own if own.dns64_prefix or not self.dns64 else policy
        return replace(
            policy,
            special_use_domains=special,
            hosts=(*policy.hosts, *own.hosts),
            local_zones=(*policy.local_zones, *own.local_zones),
            local_data=(*policy.local_data, *own.local_data),
            modules=(*policy.modules, *own.modules),
            dns64_prefix=dns64.dns64_prefix,
            dns64_exclude=dns64.dns64_exclude,
            dns64_exclude_a=dns64.dns64_exclude_a,
            dns64_ignore_aaaa=dns64.dns64_ignore_aaaa,
            private_addresses=(*policy.private_addresses, *own.private_addresses),
            private_domains=(*policy.private_domains, *own.private_domains),
            rewrite_addresses=(*policy.rewrite_addresses, *own.rewrite_addresses),
        )


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control channel of resolverctl."""

    socket: str = option(
        "",
        "Path of the Unix socket for resolverctl. Only the user of the daemon and root can open it. Empty: no control"
        " socket.",
    )
    changes_file: str = option(
        "",
        "File in which negative trust anchors, forward and stub zones and local data that resolverctl adds at run time"
        " are kept. The daemon's user must be able to write to its directory. Empty: nothing can be added.",
    )

    def __post_init__(self) -> None:
        check_path(self.socket, "control.socket")
        check_path(self.changes_file, "control.changes_file")


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Metrics for Prometheus."""

    listen: str = option(
        "",
        "Address and port of GET /metrics over HTTP, for example 127.0.0.1:9335. There is no access control. It needs"
        " prometheus-client (pip install 'corenet-resolver[metrics]'). Empty: no metrics.",
    )

    def __post_init__(self) -> None:
        if self.listen:
            parse_endpoint(self.listen, limits.METRICS_PORT, "metrics.listen")


LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log on standard error."""

    level: str = option("info", "Lowest severity that is logged: debug, info, warning or error.")
    rate_limit_interval: float = option(
        float(limits.LOG_INTERVAL.default),
        "Within this time, a repeated message is logged once, with a count of the repetitions, and at most"
        f" {limits.LOG_FAILURES} different failed queries are logged.",
        kind="seconds",
        limit=limits.LOG_INTERVAL,
    )

    def __post_init__(self) -> None:
        check_limits(self, "log")
        if self.level not in LOG_LEVELS:
            raise ValueError(f"log.level: {self.level!r} is not one of {', '.join(LOG_LEVELS)}")


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Equal values behave equally; a reload replaces the whole object."""

    server: ServerSettings = field(
        default_factory=ServerSettings, metadata={"doc": "Listeners, limits for clients, and the form of replies."}
    )
    tls: TlsSettings = field(
        default_factory=TlsSettings, metadata={"doc": "Certificates of the listeners with TLS."}
    )
    cache: CacheSettings = field(
        default_factory=CacheSettings, metadata={"doc": "Size of the cache, and bounds of the TTLs."}
    )
    second_level_cache: SecondLevelSettings = field(
        default_factory=SecondLevelSettings, metadata={"doc": "The cache in Redis or Valkey that resolvers share."}
    )
    client_subnet: SubnetSettings = field(
        default_factory=SubnetSettings,
        metadata={"doc": "A part of the client's address in queries to servers that choose answers by it (RFC 7871)."},
    )
    iteration: IterationSettings = field(
        default_factory=IterationSettings, metadata={"doc": "Iteration, and queries to upstream servers."}
    )
    dnssec: DnssecSettings = field(
        default_factory=DnssecSettings, metadata={"doc": "DNSSEC validation and trust anchors."}
    )
    policy: PolicySettings = field(
        default_factory=PolicySettings, metadata={"doc": "Access control, local answers and rewriting of answers."}
    )
    rate_limit: RateLimitSettings = field(
        default_factory=RateLimitSettings,
        metadata={"doc": "Limits of the queries of each client prefix, and of the replies to it."},
    )
    fetch_limit: FetchLimitSettings = field(
        default_factory=FetchLimitSettings,
        metadata={"doc": "Limits of the queries to servers that may be outstanding."},
    )
    zones: ZonesSettings = field(
        default_factory=ZonesSettings, metadata={"doc": "What concerns all zones of which this server has a copy."}
    )
    control: ControlSettings = field(
        default_factory=ControlSettings, metadata={"doc": "The control channel of resolverctl."}
    )
    metrics: MetricsSettings = field(default_factory=MetricsSettings, metadata={"doc": "Metrics for Prometheus."})
    web: WebSettings = field(
        default_factory=WebSettings, metadata={"doc": "The web page that shows what the resolver does."}
    )
    log: LogSettings = field(default_factory=LogSettings, metadata={"doc": "The log on standard error."})
    query_log: QueryLogSettings = field(
        default_factory=QueryLogSettings, metadata={"doc": "The log of client queries: one line for each."}
    )
    dnstap: DnstapSettings = field(
        default_factory=DnstapSettings, metadata={"doc": "Messages for a collector, as dnstap over Frame Streams."}
    )
    root_hints: tuple[RootServer, ...] = option(
        tuple(RootServer(name, addresses) for name, addresses in hints.ROOT_SERVERS),
        "Root servers to start with (RFC 9609). A list given here replaces the built-in one.",
    )
    forward: tuple[ForwardZone, ...] = option((), "Zones whose queries are forwarded to other recursive resolvers.")
    stub: tuple[StubZone, ...] = option((), "Zones that are resolved with configured authoritative servers.")
    listener: tuple[ListenerSettings, ...] = option(
        (), "Addresses served besides server.listen, each with its protocol, access list and limits."
    )
    balance: tuple[BalanceSettings, ...] = option(
        (), "Names whose addresses are chosen for each client, without those of failed servers."
    )
    list: tuple[ListSettings, ...] = option((), "Block and allow lists. The first block list with the name decides.")
    rpz: tuple[RpzSettings, ...] = option((), "Response policy zones, in the order of their precedence.")
    view: tuple[ViewSettings, ...] = option(
        (), "Views: groups of clients that get other answers than those of policy. The first that fits is taken."
    )
    zone: tuple[ZoneSettings, ...] = option((), "Zones of which this server has a copy: from a file or by transfers.")
    tsig_key: tuple[TsigKey, ...] = option((), "Keys for signed transfers and NOTIFY messages (RFC 8945).")

    def __post_init__(self) -> None:
        if not self.root_hints and "." not in self.configured_zones:
            raise ValueError(
                'root_hints: the list is empty and no forward or stub zone "." replaces it; nothing can be resolved'
            )
        for name, addresses in self.root_hints:
            check_names((name,), "root_hints")
            check_addresses(tuple(addresses), f"root_hints {name}")
        _check_upstream_zones((*self.forward, *self.stub), ())
        if self.second_level_cache.servers and not self.dnssec.active:
            raise ValueError("second_level_cache.servers: validation is off (dnssec.enabled, dnssec.trust-anchors), and"
                             " only validated data are shared")
        check_lists(self.list, self.rpz)
        check_balances(self.balance, self.policy.geo_database)
        self._check_listeners()
        self._check_zones()
        self._check_views()

    def _check_views(self) -> None:
        if len(self.view) > limits.VIEWS:
            raise ValueError(f"view: more than {limits.VIEWS} views")
        if sum(view.has_own_servers for view in self.view) > limits.VIEW_PARTS:
            raise ValueError(f"view: more than {limits.VIEW_PARTS} views have forward zones, stub zones or negative"
                             " trust anchors of their own")
        seen: set[str] = set()
        for view in self.view:
            if view.name.lower() in seen:
                raise ValueError(f"view: {view.name!r} is the name of two views")
            seen.add(view.name.lower())
            try:
                _check_upstream_zones(view.upstream_zones, self.configured_zones)
            except ValueError as error:
                raise ValueError(f"view: {error} (view {view.name!r})") from None
            for text in view.listeners:
                if not any(replace(view, listeners=(text,), transports=()).serves(listener, "udp")
                           for listener in self.listeners):
                    raise ValueError(f"view: {text!r} is no served address; those are in server.listen and [[listener]]"
                                     f" (view {view.name!r})")
        for name in self.query_log.views:
            if name not in (view.name for view in self.view):
                raise ValueError(f"query_log.views: {name!r} is not the name of a [[view]]")

    def _check_zones(self) -> None:
        if len(self.zone) > limits.ZONES:
            raise ValueError(f"zone: more than {limits.ZONES} zones are configured")
        keys = [key.name.removesuffix(".").lower() for key in self.tsig_key]
        for name in keys:
            if keys.count(name) > 1:
                raise ValueError(f"tsig_key: the key {name!r} is configured twice")
        seen: dict[str, str] = {}
        for zone in self.own_zones:
            if zone.mode == POLICY and zone in self.zone:
                raise ValueError(f"zone: {POLICY!r} is the mode of [[rpz]] tables with primaries; write it as one")
            plain = zone.name.removesuffix(".").lower()
            if POLICY in (seen.get(plain), zone.mode) and plain in seen:
                raise ValueError(f"rpz: {zone.name!r} is also the name of another zone; clients get no answers from a"
                                 " policy zone")
            if plain in seen:
                raise ValueError(f"zone: {zone.name!r} is configured twice")
            seen[plain] = zone.mode
            for setting in (zone.key, zone.transfer_key):
                if setting and setting.removesuffix(".").lower() not in keys:
                    where = "rpz" if zone.mode == POLICY else "zone"
                    raise ValueError(f"{where}: {setting!r} is not the name of a [[tsig-key]]")
            # The root zone is transferred again after a restart; with several workers, all read what the first writes.
            needed = zone in self.zone or zone.mode == POLICY or self.server.workers > 1
            if zone.primaries and needed and not self.zones.directory:
                raise ValueError(f"zones.directory: it is empty, but {zone.name!r} has primaries; name a directory for"
                                 " the copies of transferred zones")

    def _check_listeners(self) -> None:
        if not self.listeners:
            raise ValueError("server.listen: the list is empty and there is no [[listener]]; give at least one address")
        if len(self.listeners) > limits.LISTENERS:
            raise ValueError(f"listener: more than {limits.LISTENERS} addresses are served")
        taken: dict[tuple[Any, int, str], str] = {}
        for number, listener in enumerate(self.listeners, -len(self.server.listen)):
            host, port = listener.endpoint
            for transport in LISTENER_TRANSPORTS[listener.protocol]:
                place = (ip_address(host), port, transport)
                if port and place in taken:
                    raise ValueError(f"listener: {listener.address!r} is the address and port of {taken[place]}")
                taken[place] = f"listener[{number}]" if number >= 0 else "an entry of server.listen"
            if listener.protocol != "dns" and not self.tls.certificate:
                raise ValueError(
                    f"listener: {listener.address!r} has protocol {listener.protocol}, which needs tls.certificate and"
                    " tls.key"
                )

    @property
    def listeners(self) -> tuple[ListenerSettings, ...]:
        """All served addresses: those of `server.listen`, then the [[listener]] tables."""
        return (*(ListenerSettings(address=text) for text in self.server.listen), *self.listener)

    @property
    def own_zones(self) -> tuple[ZoneSettings, ...]:
        """The zones of which this server has a copy: the [[zone]] tables, the response policy zones that are
        transferred, and the root zone if it is local."""
        policy = (one.transferred for one in self.rpz)
        found = (*self.zone, *(zone for zone in policy if zone is not None))
        if self.zones.root != "local":
            return found
        return (*found, ZoneSettings(name=".", primaries=ROOT_PRIMARIES, mode="delegations", zonemd="if-present"))

    @property
    def upstream_zones(self) -> tuple[ForwardZone | StubZone, ...]:
        """The forward and stub zones, also those of views."""
        return (*self.forward, *self.stub, *(zone for view in self.view for zone in view.upstream_zones))

    @property
    def configured_zones(self) -> tuple[str, ...]:
        """Names of the forward and stub zones that all views have."""
        return (*(zone.zone for zone in self.forward), *(zone.zone for zone in self.stub))
