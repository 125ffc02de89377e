"""Which encrypted listeners clients may use instead of plain DNS: designated resolvers (RFC 9462, RFC 9463).

A client that knows only the address of this resolver queries ``_dns.resolver.arpa. SVCB``. The answer is made here from
the listeners in the settings, so it is current after each reload. With the same data in the formats of DHCP and router
advertisements, clients learn the listeners when they join the network (DNR). Without `tls.name`, clients have no name
to verify, so nothing is announced.

Sans-IO: settings go in; wire form, text and option payloads come out.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from resolver.settings import Settings
from resolver.wire import name as names

__all__ = ["OWNER", "Designation", "describe", "designations"]

OWNER = "_dns.resolver.arpa."
DHCPV4_OPTION = 162  # RFC 9463 section 5.1
DHCPV6_OPTION = 144  # RFC 9463 section 4.1
_ALPN, _PORT, _IPV4HINT, _IPV6HINT, _DOHPATH = 1, 3, 4, 6, 7  # RFC 9460 section 14.3.2, RFC 9461 section 5
_PROTOCOLS = {"tls": ("dot",), "https": ("h2", "http/1.1"), "quic": ("doq",)}


class Designation(NamedTuple):
    """One service: an encrypted protocol on a port, with all addresses where it is served.

    `priority` 1 is preferred. `target` ends with a dot. `path` is empty unless the protocol is HTTPS. Wildcard
    addresses of listeners are omitted from `ipv4` and `ipv6`.
    """

    priority: int
    target: str
    alpn: tuple[str, ...]
    port: int
    path: str
    ipv4: tuple[IPv4Address, ...]
    ipv6: tuple[IPv6Address, ...]

    def _parameters(self, *, hints: bool) -> list[tuple[int, str, bytes]]:
        """The SvcParams as (key, presentation format, value), by ascending key."""
        found = [
            (_ALPN, f"alpn={','.join(self.alpn)}", b"".join(bytes([len(one)]) + one.encode() for one in self.alpn)),
            (_PORT, f"port={self.port}", self.port.to_bytes(2, "big")),
        ]
        if hints:
            for key, text, addresses in ((_IPV4HINT, "ipv4hint", self.ipv4), (_IPV6HINT, "ipv6hint", self.ipv6)):
                if addresses:
                    packed = b"".join(address.packed for address in addresses)
                    found.append((key, f"{text}={','.join(map(str, addresses))}", packed))
        if self.path:
            template = self.path + "{?dns}"
            found.append((_DOHPATH, f'dohpath="{template}"', template.encode()))
        return found

    def parameters(self, *, hints: bool = True) -> bytes:
        """SvcParams in wire form (RFC 9460 section 2.2), with or without the addresses."""
        return b"".join(
            key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
            for key, _, value in self._parameters(hints=hints)
        )

    def parameters_text(self, *, hints: bool = True) -> str:
        """SvcParams in presentation format."""
        return " ".join(text for _, text, _ in self._parameters(hints=hints))

    def rdata(self) -> bytes:
        """The rdata of the SVCB record in wire form."""
        return self.priority.to_bytes(2, "big") + names.from_text(self.target) + self.parameters()

    def dhcpv4(self) -> bytes:
        """One instance of DHCPv4 option 162, with its length (RFC 9463 section 5.1)."""
        return self._instance(b"".join(address.packed for address in self.ipv4), 1, 2)

    def dhcpv6(self) -> bytes:
        """The data of one DHCPv6 option 144 (RFC 9463 section 4.1)."""
        return self._instance(b"".join(address.packed for address in self.ipv6), 2, 0)

    def _instance(self, addresses: bytes, length_octets: int, outer_octets: int) -> bytes:
        """DNR data with packed `addresses`. `length_octets`: size of the length fields of name and addresses;
        `outer_octets`: size of the length field in front of all, 0: none."""
        target = names.from_text(self.target)
        # Addresses have a field of their own, so the hints are left out (RFC 9463 section 3.1.8).
        parts = (
            self.priority.to_bytes(2, "big"),
            len(target).to_bytes(length_octets, "big"),
            target,
            len(addresses).to_bytes(length_octets, "big"),
            addresses,
            self.parameters(hints=False),
        )
        data = b"".join(parts)
        return (len(data).to_bytes(outer_octets, "big") if outer_octets else b"") + data


def designations(settings: Settings) -> tuple[Designation, ...]:
    """The services that `settings` announce, in the order of the listeners; the first is preferred."""
    if not settings.tls.name:
        return ()
    target = settings.tls.name if settings.tls.name.endswith(".") else settings.tls.name + "."
    groups: dict[tuple[str, int, str], list[IPv4Address | IPv6Address]] = {}
    for listener in settings.listeners:
        if listener.protocol not in _PROTOCOLS:
            continue
        host, port = listener.endpoint
        if not port:
            continue  # the kernel chooses the port, so it cannot be announced
        path = listener.path if listener.protocol == "https" else ""
        found = groups.setdefault((listener.protocol, port, path), [])
        address = ip_address(host.partition("%")[0])
        if not address.is_unspecified and address not in found:
            found.append(address)
    return tuple(
        Designation(
            priority,
            target,
            _PROTOCOLS[protocol],
            port,
            path,
            tuple(one for one in addresses if isinstance(one, IPv4Address)),
            tuple(one for one in addresses if isinstance(one, IPv6Address)),
        )
        for priority, ((protocol, port, path), addresses) in enumerate(groups.items(), 1)
    )


def describe(services: Iterable[Designation]) -> str:
    """`services` as text, for operators and for the configuration of DHCP servers and routers.

    Addresses are shown as ``?`` when all listeners of a service have wildcard addresses.
    """
    lines: list[str] = []
    entries = list(services)
    lines.append("; Discovery of designated resolvers (RFC 9462): this resolver answers")
    lines += [f"{OWNER} SVCB {one.priority} {one.target} {one.parameters_text()}" for one in entries]
    lines += ["", "; Discovery of network-designated resolvers (RFC 9463), for DHCP servers and routers"]
    for one in entries:
        lines += [
            f"name={one.target.rstrip('.')} priority={one.priority}"
            f" addresses={','.join(map(str, (*one.ipv4, *one.ipv6))) or '?'}"
            f" svcparams: {one.parameters_text(hints=False)}",
        ]
    with_ipv4 = [one for one in entries if one.ipv4]
    if with_ipv4:
        lines.append(f"DHCPv4 option {DHCPV4_OPTION}: {b''.join(one.dhcpv4() for one in with_ipv4).hex()}")
    lines += [f"DHCPv6 option {DHCPV6_OPTION}: {one.dhcpv6().hex()}" for one in entries if one.ipv6]
    return "\n".join(lines) + "\n"
