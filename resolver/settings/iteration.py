"""The section [iteration]: how authoritative servers are queried.

Timeouts of single packets follow from measured round-trip times and are not set here.
"""

from dataclasses import dataclass
from ipaddress import ip_address

from resolver import limits
from resolver.options import check_addresses, check_limits, check_names, check_path, check_prefixes, option
from resolver.settings.dns64 import parse_nat64

__all__ = ["IterationSettings"]

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
    nat64_prefix: str = option(
        "",
        "Prefix of the NAT64 through which name servers and forwarders with IPv4 addresses are queried, for a host that"
        ' has IPv6 only; often "64:ff9b::/96". No query to them is sent over IPv4 then, whatever do-ip4 says. Empty:'
        " none.",
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
        "dot: probe authoritative servers for DNS over TLS and use it where they offer it (RFC 9539)."
        " Servers are not authenticated, so it protects from passive observers only. off: plain text.",
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
        if self.nat64_prefix:
            prefix = parse_nat64(self.nat64_prefix, "iteration.nat64_prefix")
            if prefix.is_link_local or prefix.is_multicast or prefix.network_address.ipv4_mapped is not None:
                raise ValueError(f"iteration.nat64_prefix: {self.nat64_prefix!r} is link-local, multicast or"
                                 " IPv4-mapped, so nothing is routed to a NAT64 by it")
            if not self.do_ip6:
                raise ValueError("iteration.nat64_prefix: do-ip6 is off, so a NAT64 cannot be reached; remove one of"
                                 " the two")
        if not (self.do_ip4 or self.do_ip6):
            raise ValueError("iteration.do_ip4: do-ip4 and do-ip6 are both off; no name server can be queried")
