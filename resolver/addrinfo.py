"""getaddrinfo and getnameinfo with a `Resolver`: the behaviour of the C library without its threads.

Literal addresses need no look-up, and the hosts file precedes localhost and DNS. A and AAAA are queried together, and
the search list of resolv.conf(5) applies. Destinations are in the order of RFC 6724. Errors are `socket.gaierror` with
the codes of the C library. Only reads of two small files block, when these have changed. The source address for the
order is found by connecting a UDP socket, which sends no packet.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from corenet.loop import RecordLookupError, Records
from resolver import limits
from resolver.api import Answer, Resolver
from resolver.errors import ResolveError
from resolver.system import Hosts, ResolvConf, Watched, hosts_file, resolv_conf
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["AddressInfo", "AddressResolver", "Target", "install", "order_destinations"]

Address: TypeAlias = IPv4Address | IPv6Address
AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]

# Transports of a service: socket type, protocol number, name in /etc/services (in the order of getaddrinfo(3)).
_PROTOCOLS = (
    (socket.SOCK_STREAM, socket.IPPROTO_TCP, "tcp"),
    (socket.SOCK_DGRAM, socket.IPPROTO_UDP, "udp"),
    (socket.SOCK_RAW, socket.IPPROTO_IP, ""),
)
_FAMILIES = (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6)
_EAI_NODATA = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)
_EAI_ADDRFAMILY = getattr(socket, "EAI_ADDRFAMILY", socket.EAI_NONAME)
_MESSAGES = {
    socket.EAI_NONAME: "Name or service not known",
    _EAI_NODATA: "No address associated with hostname",
    _EAI_ADDRFAMILY: "Address family for hostname not supported",
    socket.EAI_AGAIN: "Temporary failure in name resolution",
    socket.EAI_FAIL: "Non-recoverable failure in name resolution",
    socket.EAI_FAMILY: "ai_family not supported",
    socket.EAI_SERVICE: "Servname not supported for ai_socktype",
    socket.EAI_SOCKTYPE: "ai_socktype not supported",
    socket.EAI_BADFLAGS: "Bad value for ai_flags",
    socket.EAI_OVERFLOW: "Argument buffer overflow",
}


def _error(code: int, why: str = "") -> socket.gaierror:
    text = _MESSAGES[code]
    return socket.gaierror(code, f"{text} ({why})" if why else text)


class Target(NamedTuple):
    """One address of a host, without port; `scope` is the interface of a link-local address."""

    address: Address
    scope: int = 0


class AddressResolver:
    """Implements `getaddrinfo` and `getnameinfo` with a `Resolver`, /etc/hosts and /etc/resolv.conf.

    It can be passed to ``loop.set_resolver`` of corenet's loop. `hosts` and `conf` replace the files of the host; only
    the search list and ndots of `conf` are used.
    """

    def __init__(
        self, resolver: Resolver, *, hosts: Watched[Hosts] | None = None, conf: Watched[ResolvConf] | None = None
    ) -> None:
        self.resolver = resolver
        self.trust: Path | None = None
        """PEM file of the CA for the servers of the playground; None outside of it."""
        self._hosts = hosts or hosts_file()
        self._conf = conf or resolv_conf()

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddressInfo]:
        """The addresses of `host` and `port`, best first, in the form of `socket.getaddrinfo`.

        Raises:
            socket.gaierror: with the code that the C library would use.
            OverflowError: the port is above 65535 or negative.
        """
        if family not in _FAMILIES:
            raise _error(socket.EAI_FAMILY)
        name = _text(host)
        service = _text(port)
        if name is None and service is None:
            raise _error(socket.EAI_NONAME)
        kinds = list(_kinds(service, type, proto, flags))
        canonical = ""
        if name is None:
            targets = _own_targets(family, flags)
        else:
            targets, canonical = await self._targets(name, family, flags)
            if len(targets) > 1:
                targets = order_destinations(targets)
        return _infos(targets, kinds, canonical if flags & socket.AI_CANONNAME else "")

    async def stream_addresses(self, host: str, port: int) -> AsyncIterator[list[AddressInfo]]:
        """The addresses of `host` known so far, best first, after each answer (A, AAAA) that brought some.

        The hosts file and the search list apply as in `getaddrinfo`. Both answers are for the same name of the list.

        Raises:
            socket.gaierror: there is no address; with the code that the C library would use.
        """
        kinds = list(_kinds(str(port), socket.SOCK_STREAM, 0, 0))
        versions = _versions(0, 0)
        literal = _literal(host)
        if literal is not None or not _could_be_name(host) or self._local(host, versions):
            targets, _ = await self._targets(host, 0, 0)
            yield _infos(order_destinations(targets), kinds)
            return
        worst: socket.gaierror | None = None
        for candidate in _candidates(host, self._conf.get()):
            found: list[Target] = []
            tasks = [asyncio.ensure_future(self._ask(candidate, (version,))) for version in versions]
            try:
                for next_done in asyncio.as_completed(tasks):
                    try:
                        [answer], _ = await next_done
                    except socket.gaierror as error:
                        worst = _more_severe(worst, error)
                        continue
                    found += [Target(ipaddress.ip_address(text)) for text in answer]
                    found = order_destinations(found)
                    yield _infos(found, kinds)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            if found:
                return
            if worst is not None and worst.errno == socket.EAI_AGAIN:
                raise worst  # a later candidate could be a different host
        raise worst or _error(socket.EAI_NONAME)

    async def lookup_records(self, name: str, rdtype: int) -> Records:
        """The records of the type number `rdtype` at `name`, without the search list.

        A name of the hosts file and localhost have none, because they are never queried (RFC 6761 section 6.3).

        Raises:
            RecordLookupError: there is no answer, or it is bogus.
            ValueError: `name` cannot be a domain name.
        """
        if self._local(name, (6, 4)):
            return Records(name, False, ())
        try:
            answer = await self.resolver.resolve(name.removesuffix(".") + ".", rdtype)
        except ResolveError as error:
            raise RecordLookupError(str(error), bogus=False) from error
        rrset = answer.rrset
        if rrset is None and answer.rcode not in (c.NOERROR, c.NXDOMAIN):
            why = "; ".join(str(error) for error in answer.ede) or answer.rcode_text
            raise RecordLookupError(why, bogus=answer.verdict is Verdict.BOGUS)
        found = () if rrset is None else tuple(bytes(rdata) for rdata in rrset.rdatas())
        return Records(answer.canonical_name.removesuffix("."), answer.secure, found)

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """Host and service name of a socket address, in the form of `socket.getnameinfo`.

        Raises:
            socket.gaierror: the address is invalid, or it has no name and NI_NAMEREQD is set.
        """
        host, port = sockaddr[0], sockaddr[1]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise _error(socket.EAI_NONAME) from None
        service = str(port)
        if not flags & socket.NI_NUMERICSERV:
            with suppress(OSError):
                service = socket.getservbyport(port, "udp" if flags & socket.NI_DGRAM else "tcp")
        if flags & socket.NI_NUMERICHOST:
            return str(address), service
        found = await self._name_of(address)
        if found is None:
            if flags & socket.NI_NAMEREQD:
                raise _error(socket.EAI_NONAME)
            return str(address), service
        if flags & socket.NI_NOFQDN:
            domain = next(iter(self._conf.get().search), "").removesuffix(".")
            found = found.removesuffix(f".{domain}") if domain else found
        return found, service

    # --- addresses of a name --------------------------------------------------------------------------------------

    async def _targets(self, name: str, family: int, flags: int) -> tuple[list[Target], str]:
        """Addresses of `name` in no particular order, and its canonical name."""
        literal = _literal(name)
        if literal is not None:
            return [_fit_literal(literal, family, flags)], name
        if flags & socket.AI_NUMERICHOST:
            raise _error(socket.EAI_NONAME)
        if not _could_be_name(name):
            raise _error(socket.EAI_NONAME)
        versions = _versions(family, flags)
        local = self._local(name, versions)
        if local:
            return _mapped([Target(address) for address in local], family, flags), name
        answers, canonical = await self._ask_list(name, versions)
        found = [Target(ipaddress.ip_address(text)) for answer in answers for text in answer]
        return _mapped(found, family, flags), canonical

    def _local(self, name: str, versions: Sequence[int]) -> list[Address]:
        """Addresses from the hosts file, else for localhost, which is never queried (RFC 6761 section 6.3)."""
        key = name.lower().removesuffix(".")
        listed = [ipaddress.ip_address(text) for text in self._hosts.get().by_name.get(key, ())]
        found = [address for address in listed if address.version in versions]
        if not found and (key == "localhost" or key.endswith(".localhost")):
            found = [ipaddress.ip_address("::1" if version == 6 else "127.0.0.1") for version in versions]
        return found

    async def _ask_list(self, name: str, versions: Sequence[int]) -> tuple[list[Answer], str]:
        """Resolve `name` and its combinations with the search list, until one has addresses."""
        worst: socket.gaierror | None = None
        for candidate in _candidates(name, self._conf.get()):
            try:
                return await self._ask(candidate, versions)
            except socket.gaierror as error:
                if error.errno == socket.EAI_AGAIN:
                    raise  # a later candidate could be a different host
                worst = _more_severe(worst, error)
        raise worst or _error(socket.EAI_NONAME)

    async def _ask(self, name: str, versions: Sequence[int]) -> tuple[list[Answer], str]:
        rdtypes = ["AAAA" if version == 6 else "A" for version in versions]
        try:
            results = await asyncio.gather(*(self.resolver.resolve(name, rdtype) for rdtype in rdtypes))
        except ResolveError as error:
            raise _error(socket.EAI_AGAIN, str(error)) from error
        except ValueError:
            raise _error(socket.EAI_NONAME) from None
        found = [answer for answer in results if len(answer)]
        if found:
            return found, found[0].canonical_name.removesuffix(".")
        failed = [answer for answer in results if answer.rcode not in (c.NOERROR, c.NXDOMAIN)]
        if failed:
            why = "; ".join(str(error) for error in failed[0].ede) or failed[0].rcode_text
            raise _error(socket.EAI_AGAIN, f"{name} {why}")
        if any(answer.rcode == c.NOERROR for answer in results):
            raise _error(_EAI_NODATA)
        raise _error(socket.EAI_NONAME)

    async def _name_of(self, address: Address) -> str | None:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        address = mapped or address
        listed = self._hosts.get().by_address.get(str(address))
        if listed:
            return listed[0]
        plain = _plain(address)
        try:
            answer = await self.resolver.resolve(names.to_text(names.reverse_address(plain)), "PTR")
        except ResolveError:
            return None  # a timeout counts as no name, getnameinfo(3)
        return next(iter(answer), "").removesuffix(".") or None


# --- arguments ----------------------------------------------------------------------------------------------------


def _text(value: str | bytes | int | None) -> str | None:
    if isinstance(value, bytes):
        try:
            return value.decode("ascii")
        except UnicodeDecodeError:
            raise _error(socket.EAI_NONAME) from None
    return None if value is None else str(value)


def _kinds(service: str | None, wanted: int, proto: int, flags: int) -> Iterator[tuple[int, int, int]]:
    """(socket type, protocol, port) of each possible meaning of `service`."""
    numeric = service is None or (service.isascii() and service.removeprefix("-").isdigit())
    if not numeric and flags & socket.AI_NUMERICSERV:
        raise _error(socket.EAI_NONAME)
    if numeric and service is not None and not 0 <= int(service) <= 65535:
        raise OverflowError("port must be 0-65535.")
    matching = [
        (kind, proto or number, label)
        for kind, number, label in _PROTOCOLS
        if (not wanted or kind == wanted) and (not proto or proto == number or kind == socket.SOCK_RAW)
    ]
    if wanted == socket.SOCK_RAW and service is not None:
        raise _error(socket.EAI_SERVICE)
    if proto and not wanted:
        exact = [one for one in matching if one[0] != socket.SOCK_RAW]
        matching = exact or matching
    if not matching:
        known = any(kind == wanted for kind, _, _ in _PROTOCOLS)
        raise _error(socket.EAI_SOCKTYPE if not known or proto else socket.EAI_SERVICE)
    any_port = False
    for kind, number, label in matching:
        if numeric:
            port = int(service or 0)
        else:
            assert service is not None
            try:
                if not label:
                    continue
                port = socket.getservbyname(service, label)
            except OSError:
                continue
        any_port = True
        yield socket.SocketKind(kind), number, port
    if not any_port:
        raise _error(socket.EAI_SERVICE)


def _more_severe(known: socket.gaierror | None, new: socket.gaierror) -> socket.gaierror:
    """The error to report after several: no answer, then no address, then no name."""
    if known is None or new.errno == socket.EAI_AGAIN:
        return new
    return new if new.errno == _EAI_NODATA and known.errno != socket.EAI_AGAIN else known


def _infos(
    targets: Sequence[Target], kinds: Sequence[tuple[int, int, int]], canonical: str = ""
) -> list[AddressInfo]:
    """Each of `targets` with each of `kinds` (socket type, protocol, port); `canonical` is shown once."""
    found: list[AddressInfo] = []
    for target in targets:
        version = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        for kind, number, port in kinds:
            if version == socket.AF_INET:
                sockaddr: tuple[Any, ...] = (str(target.address), port)
            else:
                sockaddr = (_plain(target.address), port, 0, target.scope)
            found.append((socket.AddressFamily(version), kind, number, canonical, sockaddr))
            canonical = ""
    return found


def _own_targets(family: int, flags: int) -> list[Target]:
    """Addresses without a host: the wildcard address with AI_PASSIVE, else loopback."""
    six, four = ("::", "0.0.0.0") if flags & socket.AI_PASSIVE else ("::1", "127.0.0.1")
    found = [Target(IPv4Address(four))] if family != socket.AF_INET6 else []
    if family != socket.AF_INET:
        # As in glibc: 0.0.0.0 is first with AI_PASSIVE, ::1 is first without. Programs depend on that.
        found.insert(len(found) if flags & socket.AI_PASSIVE else 0, Target(IPv6Address(six)))
    return found


def _literal(text: str) -> Target | None:
    """A literal address, also in the forms of inet_aton(3), and with the interface of a link-local address."""
    plain, _, zone = text.partition("%")
    with suppress(ValueError):
        address = ipaddress.ip_address(plain)
        if not zone:
            return Target(address)
        if address.version == 6:
            return Target(address, int(zone) if zone.isdigit() else socket.if_nametoindex(zone))
    with suppress(OSError):
        if text and not any(char.isspace() for char in text):
            return Target(IPv4Address(socket.inet_aton(text)))
    return None


def _fit_literal(target: Target, family: int, flags: int) -> Target:
    version = target.address.version
    if family == socket.AF_INET6 and version == 4:
        if flags & socket.AI_V4MAPPED:
            return Target(IPv6Address(c.IPV4_MAPPED + target.address.packed))
        raise _error(_EAI_ADDRFAMILY)
    if family == socket.AF_INET and version == 6:
        mapped = target.address.ipv4_mapped if isinstance(target.address, IPv6Address) else None
        if mapped is None:
            raise _error(_EAI_ADDRFAMILY)
        return Target(mapped)
    return target


def _mapped(targets: list[Target], family: int, flags: int) -> list[Target]:
    """Apply AI_V4MAPPED and AI_ALL (RFC 3493 section 6.1)."""
    if family != socket.AF_INET6:
        return targets
    six = [target for target in targets if target.address.version == 6]
    if not flags & socket.AI_V4MAPPED or (six and not flags & socket.AI_ALL):
        return six
    return six + [_fit_literal(target, family, flags) for target in targets if target.address.version == 4]


def _versions(family: int, flags: int) -> tuple[int, ...]:
    """IP versions to query."""
    if family == socket.AF_INET:
        return (4,)
    versions = (6,) if family == socket.AF_INET6 and not flags & socket.AI_V4MAPPED else (6, 4)
    if flags & socket.AI_ADDRCONFIG:
        usable = tuple(version for version in versions if _source_for(_PROBES[version]) is not None)
        return usable or versions
    return versions


def _could_be_name(name: str) -> bool:
    labels = name.removesuffix(".").split(".")
    return all(0 < len(label) <= limits.LABEL_TEXT for label in labels) and not any(map(str.isspace, name))


def _candidates(name: str, conf: ResolvConf) -> Iterator[str]:
    """`name` and its combinations with the search list, in the order of resolv.conf(5)."""
    if name.endswith("."):
        yield name
        return
    as_is_first = name.count(".") >= conf.ndots
    if as_is_first:
        yield name + "."
    for domain in conf.search:
        yield f"{name}.{domain}" if domain != "." else name + "."
    if not as_is_first:
        yield name + "."


# --- order of destinations (RFC 6724 section 6) -------------------------------------------------------------------

_POLICY = tuple(
    (ipaddress.IPv6Network(prefix), precedence, label)
    for prefix, precedence, label in (
        ("::1/128", 50, 0),
        ("::/0", 40, 1),
        ("::ffff:0:0/96", 35, 4),
        ("2002::/16", 30, 2),
        ("2001::/32", 5, 5),
        ("fc00::/7", 3, 13),
        ("::/96", 1, 3),
        ("fec0::/10", 1, 11),
        ("3ffe::/16", 1, 12),
    )
)
"""RFC 6724 section 2.1: prefix, precedence, label."""
_PROBES: dict[int, Address] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
_SCOPE_LINK, _SCOPE_SITE, _SCOPE_GLOBAL = 2, 5, 14
_DISCARD_PORT = 9


def _as_six(address: Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(c.IPV4_MAPPED + address.packed)


def _plain(address: Address) -> str:
    """Text without interface, as the C library writes it (::ffff:192.0.2.1; `ipaddress` writes ::ffff:c000:201)."""
    return socket.inet_ntop(socket.AF_INET if address.version == 4 else socket.AF_INET6, address.packed)


def _policy(address: Address) -> tuple[int, int]:
    six = _as_six(address)
    _, precedence, label = max((row for row in _POLICY if six in row[0]), key=lambda row: row[0].prefixlen)
    return precedence, label


def _scope(address: Address) -> int:
    """The scope of an address of either family (RFC 6724 sections 3.1 and 3.2)."""
    if isinstance(address, IPv6Address) and address.is_multicast:
        return address.packed[1] & 0xF
    if address.is_loopback or address.is_link_local:
        return _SCOPE_LINK
    if isinstance(address, IPv6Address) and address.is_site_local:
        return _SCOPE_SITE
    return _SCOPE_GLOBAL


def _common_prefix(one: Address, other: Address) -> int:
    left, right = _as_six(one).packed, _as_six(other).packed
    differing = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
    return 128 - differing.bit_length()


def _source_for(address: Address, scope: int = 0) -> Address | None:
    """The source address this host would use for `address`; None without a route."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    target: tuple[Any, ...] = (
        (str(address), _DISCARD_PORT) if family == socket.AF_INET else (_plain(address), _DISCARD_PORT, 0, scope)
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect(target)
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return address  # without a descriptor the route is not known, so it is not taken for unreachable
        return None


def order_destinations(
    targets: Sequence[Target], source_for: Callable[[Address, int], Address | None] = _source_for
) -> list[Target]:
    """Sort destinations by RFC 6724 section 6; equal ones keep their order.

    Rules 3, 4 and 7 (deprecated, home and encapsulated addresses) are left out: no portable interface has the data.
    """

    def rank(target: Target) -> tuple[int, ...]:
        address = target.address
        source = source_for(address, target.scope)
        if source is None:
            return (1, 0, 0, 0, 0, 0)
        precedence, label = _policy(address)
        return (
            0,  # rule 1: unusable ones last
            int(_scope(address) != _scope(source)),  # rule 2
            int(label != _policy(source)[1]),  # rule 5
            -precedence,  # rule 6
            _scope(address),  # rule 8
            # Rule 9 only for IPv6: for IPv4 it would defeat load sharing by the order of the records.
            -_common_prefix(source, address) if address.version == 6 else 0,
        )

    return sorted(targets, key=rank)


# --- installation -------------------------------------------------------------------------------------------------


def install(loop: asyncio.AbstractEventLoop, resolver: Resolver) -> AddressResolver:
    """Let `loop` resolve host names with `resolver` from now on; ``loop.set_resolver(None)`` undoes it.

    Raises:
        TypeError: the loop has no ``set_resolver``; corenet's has.
    """
    set_resolver = getattr(loop, "set_resolver", None)
    if set_resolver is None:
        raise TypeError(f"{type(loop).__name__} has no set_resolver(); corenet.new_event_loop() makes a loop that has")
    made = AddressResolver(resolver)
    set_resolver(made)
    return made
