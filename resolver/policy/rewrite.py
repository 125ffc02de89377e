"""Rewriting of answers: removal of private addresses, renumbering.

`Rewriter` works on finished outcomes: it removes private addresses from public names (DNS rebinding), also from the
hints of SVCB and HTTPS records (RFC 9460 section 7.3), and renumbers. The cache holds the data of the zones, so all of
this happens after it, once for each outcome, and after DNS64. A changed set has no signatures and is never secure.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network

from resolver.effects import Outcome
from resolver.nat64 import WELL_KNOWN_PREFIX
from resolver.policy.dns64 import Dns64
from resolver.policy.module import Decision, PolicyModule
from resolver.policy.service_hints import HINTS, MANDATORY, read_parameters
from resolver.query import Query
from resolver.settings import PolicySettings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["Rewriter"]

# The first 96 bits of IPv6 addresses that end with an IPv4 address: mapped ones (RFC 4291 section 2.5.5.2), and those
# with the well-known prefix of translators (RFC 6052 section 2.1).
_MAPPED, _TRANSLATED = 0xFFFF, int.from_bytes(WELL_KNOWN_PREFIX, "big")
_WITH_ADDRESSES = frozenset({c.A, c.AAAA, c.SVCB, c.HTTPS})


class Rewriter(PolicyModule):
    """Changes finished outcomes before they are sent to a client."""

    name = "rewrite"
    protective = True

    def __init__(self, settings: PolicySettings) -> None:
        """Compile `settings`.

        Raises:
            ValueError: a prefix or a name is invalid.
        """
        self._private = _by_octets(settings.private_addresses)
        self._exempt = {names.lower(names.from_text(text)) for text in settings.private_domains}
        dns64 = Dns64.create(settings)
        self._prefixes = () if dns64 is None else dns64.prefixes
        self._moves: list[tuple[bytes, int, bytes]] = []
        for text in settings.rewrite_addresses:
            before, after = text.split()
            network, target = ip_network(before), ip_network(after)
            self._moves.append((network.network_address.packed, network.prefixlen, target.network_address.packed))

    @classmethod
    def create(cls, settings: PolicySettings) -> "Rewriter | None":
        """The instance for `settings`; None when nothing is to be changed."""
        return cls(settings) if settings.private_addresses or settings.rewrite_addresses else None

    def response(self, query: Query, outcome: Outcome) -> Decision:
        """The outcome for a client; None when nothing is changed."""
        changed = self.apply(outcome)
        return None if changed is outcome else changed

    def apply(self, outcome: Outcome) -> Outcome:
        """The outcome for a client: the same object when nothing is changed."""
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
        """`rrset` itself, a changed copy, or None when no record is left. Local data is not changed."""
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
        """`addresses` without private ones and renumbered, in their order."""
        kept = addresses if exempt else [one for one in addresses if not self._is_private(one)]
        return [self._move(one) for one in kept] if self._moves else kept

    def _service(self, rdata: bytes, exempt: bool) -> bytes | None:
        """An SVCB or HTTPS record with rewritten hints; None when a mandatory hint has no address left."""
        head, parameters = read_parameters(rdata)
        made = [head]
        mandatory: frozenset[bytes] = frozenset()
        for key, value in parameters:
            if key == MANDATORY:
                mandatory = frozenset(value[n : n + 2] for n in range(0, len(value), 2))
            octets = HINTS.get(key)
            if octets is not None:
                hints = [value[n : n + octets] for n in range(0, len(value), octets)]
                value = b"".join(self._addresses(hints, exempt))
                if not value:
                    if key in mandatory:
                        return None  # RFC 9460 section 8: a record that lacks a mandatory key is malformed
                    continue
            made.append(key + len(value).to_bytes(2, "big") + value)
        return b"".join(made)

    def _is_private(self, rdata: bytes) -> bool:
        for prefix in self._prefixes:
            # A NAT64 translates any address with its prefix to the embedded IPv4 address.
            embedded = prefix.extract(rdata)
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
    """The size of the data. Renumbering does not change it, removal of addresses does."""
    return sum(map(len, rrset.rdatas()))


def _by_octets(prefixes: tuple[str, ...]) -> list[tuple[int, int, int]]:
    """Prefixes as (octets of an address, host bits, network bits); IPv4 prefixes also as embedded in IPv6 ones."""
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
