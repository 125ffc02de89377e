"""Answers changed on their way to a client: addresses made for IPv6-only networks, moved, or kept from outsiders.

`Dns64` makes AAAA records out of A records (RFC 6147, addresses by RFC 6052) where a name has none, and leads reverse
questions for such addresses back to the IPv4 tree. `Rewriter` works on finished outcomes: it takes out addresses of
one's own network that strangers' names point to (DNS rebinding), also those in the hints of SVCB and HTTPS records
(RFC 9460 section 7.3), and renumbers. Rule: the cache holds what the zones
said, so all of this happens after it, once for each outcome; a changed set loses its signatures and is never secure.
"""

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.settings import PolicySettings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["Dns64", "Rewriter"]

_TTL_WITHOUT_SOA = limits.DNS64_TTL
_RESERVED_OCTET = 8         # bits 64 to 71 of such an address are zero (RFC 6052 section 2.2)
_IP6_ARPA = b"\x03ip6\x04arpa\x00"
_IN_ADDR_ARPA = b"\x07in-addr\x04arpa\x00"
_NIBBLE_LABELS = 32
# The first 96 bits of IPv6 addresses with an IPv4 address at their end: mapped ones (RFC 4291 section 2.5.5.2), and
# those that any translator may carry on (RFC 6052 section 2.1).
_MAPPED, _TRANSLATED = 0xFFFF, 0x64FF9B << 64
_WITH_ADDRESSES = frozenset({c.A, c.AAAA, c.SVCB, c.HTTPS})
_MANDATORY = b"\x00\x00"
_HINTS = {b"\x00\x04": 4, b"\x00\x06": 16}
"""Keys of SVCB parameters that hold addresses (RFC 9460 section 14.3.2), with the octets of one."""


class Dns64:
    """IPv6 addresses that a translator (NAT64) carries to IPv4 servers."""

    def __init__(self, prefix: str, exclude: tuple[str, ...] = ()) -> None:
        """`prefix` is an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits; AAAA records inside `exclude` count as none.

        Raises:
            ValueError: when `prefix` or one of `exclude` is no such prefix.
        """
        network = IPv6Network(prefix)
        self._prefix = network.network_address.packed
        self._octets = network.prefixlen // 8
        self._places = _places(self._octets)
        self._exclude = [IPv6Network(text) for text in exclude]

    @classmethod
    def create(cls, settings: PolicySettings) -> "Dns64 | None":
        """What `settings` ask for, None when they do not."""
        return cls(settings.dns64_prefix, settings.dns64_exclude) if settings.dns64_prefix else None

    def embed(self, address: bytes) -> bytes:
        """The IPv6 address that stands for the IPv4 one (RFC 6052 section 2.2)."""
        made = bytearray(self._prefix)
        for place, octet in zip(self._places, address, strict=True):
            made[place] = octet
        return bytes(made)

    def extract(self, address: bytes) -> bytes | None:
        """The IPv4 address that `address` stands for; None when that is none of the prefix."""
        octets = self._octets
        if len(address) != len(self._prefix) or address[:octets] != self._prefix[:octets]:
            return None
        return bytes(address[place] for place in self._places)

    def needs_addresses(self, outcome: Outcome) -> bool:
        """Whether `outcome`, to a question for AAAA, leaves the asker without an address that he could use.

        A name that does not exist, and data that is bogus, stay what they are (RFC 6147 sections 5.1.2 and 5.5).
        """
        if outcome.failure is not None:
            return outcome.failure.is_transient
        if outcome.rcode != c.NOERROR or outcome.verdict == Verdict.BOGUS:
            return False
        return not any(rrset.rtype == c.AAAA and self._usable(rrset) for rrset in outcome.answer)

    def synthesise(self, question: Question, without: Outcome, found: Outcome) -> Outcome:
        """AAAA records from the A records of `found`; `without` is the outcome that had none."""
        soa = next((rrset for rrset in without.authority if rrset.rtype == c.SOA), None)
        # RFC 6147 section 5.1.7: no longer than the denial of AAAA may be kept.
        longest = _TTL_WITHOUT_SOA if soa is None else max(soa.ttl, 1)
        answer: list[RRset] = []
        made = False
        for rrset in found.answer:
            if rrset.rtype == c.A:
                made = True
                rdatas = [self.embed(rdata) for rdata in rrset.rdatas()]
                # The operator's own data stays the operator's own.
                trust = rrset.trust if rrset.trust == Trust.CONFIGURED else Trust.NONE
                answer.append(RRset(rrset.name, c.AAAA, min(rrset.ttl, longest), rdatas, trust=trust,
                                    verdict=Verdict.INSECURE))
            else:
                answer.append(rrset)
        if not made:
            return without
        outcome = Outcome(question, c.NOERROR, answer, [], min(found.verdict, int(Verdict.INSECURE)),
                          min(found.ttl, longest), from_cache=found.from_cache)
        outcome.ede = [*found.ede, (c.EDE_FORGED_ANSWER, "made from A records (DNS64)")]
        return outcome

    def reverse(self, question: Question) -> RRset | None:
        """The alias that leads from the reverse name of a made address to that of the IPv4 one (RFC 6147 5.3.1)."""
        key: bytes = question.key[0]
        if question.qtype != c.PTR or not key.endswith(_IP6_ARPA):
            return None
        digits = names.labels(key)[:-2]
        if len(digits) != _NIBBLE_LABELS:
            return None
        try:
            address = bytes.fromhex(b"".join(reversed(digits)).decode("ascii"))
        except ValueError:
            return None
        embedded = self.extract(address)
        if embedded is None or self.embed(embedded) != address:
            return None
        prefix = b"".join(b"%c%b" % (len(text), text) for text in (b"%d" % octet for octet in reversed(embedded)))
        return RRset(question.qname, c.CNAME, limits.LOCAL_TTL, [prefix + _IN_ADDR_ARPA],
                     trust=Trust.CONFIGURED, verdict=Verdict.INDETERMINATE)

    def _usable(self, rrset: RRset) -> bool:
        if not self._exclude:
            return True
        return any(not any(IPv6Address(rdata) in network for network in self._exclude) for rdata in rrset.rdatas())


def _places(octets: int) -> tuple[int, ...]:
    """Where the four octets of an IPv4 address go, after a prefix of `octets` octets."""
    found: list[int] = []
    place = octets
    while len(found) < 4:
        if place != _RESERVED_OCTET:
            found.append(place)
        place += 1
    return tuple(found)


class Rewriter:
    """What is changed in finished outcomes before a client sees them."""

    def __init__(self, settings: PolicySettings) -> None:
        """Compile `settings`.

        Raises:
            ValueError: when one of its prefixes or names is none.
        """
        self._private = _by_octets(settings.private_addresses)
        self._exempt = {names.lower(names.from_text(text)) for text in settings.private_domains}
        self._dns64 = Dns64.create(settings)
        self._moves: list[tuple[bytes, int, bytes]] = []
        for text in settings.rewrite_addresses:
            before, after = text.split()
            network, target = ip_network(before), ip_network(after)
            self._moves.append((network.network_address.packed, network.prefixlen, target.network_address.packed))

    @classmethod
    def create(cls, settings: PolicySettings) -> "Rewriter | None":
        """What `settings` ask for, None when nothing is to be changed."""
        return cls(settings) if settings.private_addresses or settings.rewrite_addresses else None

    def apply(self, outcome: Outcome) -> Outcome:
        """The outcome as a client may see it: the same object when nothing had to be changed."""
        answer = [self._rewrite(rrset) for rrset in outcome.answer]
        additional = [self._rewrite(rrset) for rrset in outcome.additional]
        before, after = [*outcome.answer, *outcome.additional], [*answer, *additional]
        if all(new is old for new, old in zip(after, before, strict=True)):
            return outcome
        kept = [rrset for rrset in answer if rrset is not None]
        changed = Outcome(outcome.question, outcome.rcode, kept, outcome.authority,
                          min(outcome.verdict, int(Verdict.INSECURE)), outcome.ttl, failure=outcome.failure,
                          from_cache=outcome.from_cache)
        changed.additional, changed.stale = [rrset for rrset in additional if rrset is not None], outcome.stale
        changed.referral, changed.authoritative = outcome.referral, outcome.authoritative
        changed.ede = list(outcome.ede)
        if any(new is None or _octets(new) < _octets(old) for new, old in zip(after, before, strict=True)):
            changed.ede.append((c.EDE_FILTERED, "a private address was removed"))
        return changed

    def _rewrite(self, rrset: RRset) -> RRset | None:
        """`rrset` itself, a changed copy, or None when nothing is left of it. The operator's own data stays."""
        if rrset.rtype not in _WITH_ADDRESSES or rrset.trust == Trust.CONFIGURED:
            return rrset
        before = rrset.rdatas()
        exempt = names.closest_in(names.lower(rrset.name), self._exempt) is not None
        if rrset.rtype in (c.A, c.AAAA):
            after = self._addresses(before, exempt)
        else:
            after = [one for one in (self._service(rdata, exempt) for rdata in before) if one is not None]
        if after == before:
            return rrset
        return RRset(rrset.name, rrset.rtype, rrset.ttl, after, verdict=Verdict.INSECURE) if after else None

    def _addresses(self, addresses: list[bytes], exempt: bool) -> list[bytes]:
        """What a client may see of `addresses`, in their order."""
        kept = addresses if exempt else [one for one in addresses if not self._is_private(one)]
        return [self._move(one) for one in kept] if self._moves else kept

    def _service(self, rdata: bytes, exempt: bool) -> bytes | None:
        """An SVCB or HTTPS record with hints a client may see; None when it is of no use without what was taken out."""
        at = 2
        while rdata[at]:
            at += rdata[at] + 1
        at += 1
        made = [rdata[:at]]
        mandatory: frozenset[bytes] = frozenset()
        while at < len(rdata):
            key, size = rdata[at : at + 2], int.from_bytes(rdata[at + 2 : at + 4], "big")
            value = rdata[at + 4 : at + 4 + size]
            at += 4 + size
            if key == _MANDATORY:
                mandatory = frozenset(value[n : n + 2] for n in range(0, size, 2))
            octets = _HINTS.get(key)
            if octets is not None:
                hints = [value[n : n + octets] for n in range(0, size, octets)]
                value = b"".join(self._addresses(hints, exempt))
                if not value:
                    if key in mandatory:
                        return None  # RFC 9460 section 8: a record that lacks a mandatory key is malformed
                    continue
            made.append(key + len(value).to_bytes(2, "big") + value)
        return b"".join(made)

    def _is_private(self, rdata: bytes) -> bool:
        if self._dns64 is not None and len(rdata) == 16:
            # Whoever made it, the translator carries it to the IPv4 address inside.
            embedded = self._dns64.extract(rdata)
            if embedded is not None and self._is_private(embedded):
                return True
        value = int.from_bytes(rdata, "big")
        return any(size == len(rdata) and value >> shift == start for size, shift, start in self._private)

    def _move(self, rdata: bytes) -> bytes:
        for before, length, after in self._moves:
            if len(before) != len(rdata):
                continue
            shift = len(rdata) * 8 - length
            value = int.from_bytes(rdata, "big")
            if value >> shift == int.from_bytes(before, "big") >> shift:
                host = value & ((1 << shift) - 1)
                return (int.from_bytes(after, "big") | host).to_bytes(len(rdata), "big")
        return rdata


def _octets(rrset: RRset) -> int:
    """The size of the data: moved addresses are as long as before, removed ones are missed."""
    return sum(map(len, rrset.rdatas()))


def _by_octets(prefixes: tuple[str, ...]) -> list[tuple[int, int, int]]:
    """Prefixes as (octets of an address, bits to shift away, what is left); IPv4 ones inside IPv6 addresses as well."""
    found: list[tuple[int, int, int]] = []
    for text in prefixes:
        network: IPv4Network | IPv6Network = ip_network(text, strict=False)
        size = network.max_prefixlen
        shift = size - network.prefixlen
        first = int(network.network_address)
        found.append((size // 8, shift, first >> shift))
        if network.version == 4:
            found += [(16, shift, (high << 32 | first) >> shift) for high in (_MAPPED, _TRANSLATED)]
    return found
