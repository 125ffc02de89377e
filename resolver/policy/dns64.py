"""DNS64: AAAA records made from A records (RFC 6147), with addresses by RFC 6052 (`resolver.nat64`).

`Dns64` has the prefixes of one view. It decides whether the answer to an AAAA query is replaced, makes the new answer,
and maps reverse names of such addresses to the IPv4 tree. The second query is made by `resolve`, because a policy
cannot wait.

An instance is immutable. The A records and the denial of AAAA are cached, and what is made of them is cached as a
finished answer only, so a change of the prefixes needs no more than other finished answers.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.nat64 import Nat64Prefix
from resolver.policy.service_hints import hinted_addresses
from resolver.settings import PolicySettings
from resolver.settings.dns64 import parse_dns64
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["DISCOVERY_ADDRESSES", "DISCOVERY_NAME", "Dns64"]

DISCOVERY_NAME = "ipv4only.arpa."
"""Clients learn the prefixes from the AAAA records of this name (RFC 7050)."""
DISCOVERY_ADDRESSES = ("192.0.0.170", "192.0.0.171")
"""The A records of `DISCOVERY_NAME` (RFC 7050 section 2.2)."""

_TTL_WITHOUT_SOA = limits.DNS64_TTL
_IP6_ARPA = b"\x03ip6\x04arpa\x00"
_IN_ADDR_ARPA = b"\x07in-addr\x04arpa\x00"
_NIBBLE_LABELS = 32


class Dns64:
    """The prefixes of one view, and what is excluded from the synthesis."""

    def __init__(
        self, prefixes: Iterable[str], exclude: Iterable[str] = (), exclude_a: Iterable[str] = (),
        ignore_aaaa: Iterable[str] = (),
    ) -> None:
        """`prefixes` are entries of `parse_dns64`. AAAA records inside `exclude` and those of names at and below
        `ignore_aaaa` count as absent; nothing is made of A records inside `exclude_a`.

        Raises:
            ValueError: an entry is invalid.
        """
        self.prefixes = tuple(Nat64Prefix(*parse_dns64(text)) for text in prefixes)
        self._exclude = tuple(IPv6Network(text, strict=False) for text in exclude)
        self._exclude_a = tuple(IPv4Network(text, strict=False) for text in exclude_a)
        self._ignore_aaaa = frozenset(names.lower(names.from_text(text)) for text in ignore_aaaa)

    @classmethod
    def create(cls, settings: PolicySettings) -> "Dns64 | None":
        """The instance for `settings`; None without DNS64."""
        if not settings.dns64_prefix:
            return None
        return cls(settings.dns64_prefix, settings.dns64_exclude, settings.dns64_exclude_a,
                   settings.dns64_ignore_aaaa)

    def embed(self, address: bytes) -> list[bytes]:
        """The IPv6 addresses that stand for the IPv4 `address`, none when it is excluded."""
        if self._exclude_a and _is_in(IPv4Address(address), self._exclude_a):
            return []
        return [prefix.embed(address) for prefix in self.prefixes if prefix.covers(address)]

    def discovery(self) -> list[bytes]:
        """The addresses of `DISCOVERY_NAME`, so that a client finds each prefix (RFC 7050 section 3). No exclusion
        applies to them."""
        found = [IPv4Address(text).packed for text in DISCOVERY_ADDRESSES]
        return [prefix.embed(address) for prefix in self.prefixes for address in found]

    # --- synthesis ------------------------------------------------------------------------------------------------

    def needs_addresses(self, outcome: Outcome) -> bool:
        """Whether `outcome`, of an AAAA query, has no usable address, so that AAAA records are synthesised.

        NXDOMAIN and bogus data are not replaced (RFC 6147 sections 5.1.2 and 5.5). A failure counts as an empty answer
        (sections 5.1.2 and 5.1.3), because some servers do not answer AAAA queries at all; but not when one server gave
        bogus data and the others nothing, now or when the failure was cached.
        """
        if outcome.failure is not None:
            return outcome.failure.is_transient and outcome.failure.verdict != Verdict.BOGUS
        if outcome.rcode != c.NOERROR or outcome.verdict == Verdict.BOGUS:
            return False
        return not any(self._usable(outcome.question, rrset) for rrset in outcome.answer if rrset.rtype == c.AAAA)

    def without_excluded(self, outcome: Outcome) -> Outcome:
        """`outcome`, of an AAAA query, without excluded addresses (RFC 6147 section 5.1.4); the same object when it has
        none. A changed set has no signatures, so it is not secure."""
        answer: list[RRset] = []
        for rrset in outcome.answer:
            if rrset.rtype == c.AAAA:
                kept = self._usable(outcome.question, rrset)
                if len(kept) < len(rrset):
                    if kept:
                        answer.append(RRset(rrset.name, c.AAAA, rrset.ttl, kept, trust=rrset.trust,
                                            verdict=Verdict.INSECURE))
                    continue
            answer.append(rrset)
        if len(answer) == len(outcome.answer) and all(
            new is old for new, old in zip(answer, outcome.answer, strict=True)
        ):
            return outcome
        changed = Outcome(outcome.question, outcome.rcode, answer, outcome.authority,
                          min(outcome.verdict, int(Verdict.INSECURE)), outcome.ttl, from_cache=outcome.from_cache)
        changed.stale, changed.authoritative = outcome.stale, outcome.authoritative
        changed.additional, changed.applied = outcome.additional, outcome.applied
        changed.ede = [*outcome.ede, (c.EDE_FILTERED, "an excluded address was removed (DNS64)")]
        return changed

    def synthesise(self, question: Question, without: Outcome, found: Outcome) -> Outcome:
        """The outcome with AAAA records from the A records of `found`; `without`, that of the AAAA query, without its
        excluded addresses, if there are none.

        The outcome is secure when both are (RFC 6147 section 5.5): then it is validated that the name has no AAAA
        records, and that it has these A records. Of a large set as many addresses are used as have room in one with all
        prefixes.
        """
        soa = next((rrset for rrset in without.authority if rrset.rtype == c.SOA), None)
        # RFC 6147 section 5.1.7: the TTL is at most that of the denial of AAAA.
        longest = _TTL_WITHOUT_SOA if soa is None else soa.ttl
        verdict = min(found.verdict, int(Verdict.INSECURE) if without.failure is not None else without.verdict)
        answer: list[RRset] = []
        embedded: list[bytes] = []
        for rrset in found.answer:
            if rrset.rtype != c.A:
                answer.append(rrset)
                continue
            rdatas: list[bytes] = []
            for rdata in rrset.rdatas():
                made = self.embed(rdata)
                if len(rdatas) + len(made) > limits.RRSET_RECORDS:
                    break
                if made:
                    embedded.append(rdata)
                    rdatas += made
            if rdatas:
                # Local data keeps its trust, so that `Rewriter` does not change it.
                trust = rrset.trust if rrset.trust == Trust.CONFIGURED else Trust.NONE
                answer.append(RRset(rrset.name, c.AAAA, min(rrset.ttl, longest), rdatas, trust=trust,
                                    verdict=Verdict(verdict)))
        if not embedded:
            left = self.without_excluded(without)
            if left is not without and found.ttl > 0:
                # Without the excluded addresses this is a denial. That of A has the SOA for it (RFC 2308 section 3).
                left.authority, left.ttl = found.authority, min(left.ttl, found.ttl)
            return left
        outcome = Outcome(question, c.NOERROR, answer, [], verdict, min(found.ttl, longest),
                          from_cache=found.from_cache)
        outcome.embedded = tuple(embedded)
        outcome.ede = [*found.ede, (c.EDE_FORGED_ANSWER, "made from A records (DNS64)")]
        return outcome

    def _usable(self, question: Question, rrset: RRset) -> list[bytes]:
        """The addresses of an AAAA set that are not excluded. Local data is the operator's own and never excluded, nor
        are the addresses of `discovery`."""
        if rrset.trust == Trust.CONFIGURED:
            return rrset.rdatas()
        if self._ignore_aaaa and names.closest_in(question.key[0], self._ignore_aaaa) is not None:
            return []
        if not self._exclude:
            return rrset.rdatas()
        return [rdata for rdata in rrset.rdatas()
                if not any(IPv6Address(rdata) in network for network in self._exclude)]

    def embedded_in(self, outcome: Outcome) -> tuple[bytes, ...]:
        """The IPv4 addresses to which a NAT64 translates addresses of `outcome` that have one of the prefixes. DNS64
        need not have made them: the owner of a name may publish such AAAA records, and SVCB records with such hints."""
        found: list[bytes] = []
        for rrset in outcome.answer:
            if rrset.rtype == c.AAAA:
                tried: Iterable[bytes] = rrset.rdatas()
            elif rrset.rtype in (c.SVCB, c.HTTPS):
                tried = (address for rdata in rrset.rdatas() for address in hinted_addresses(rdata))
            else:
                continue
            for address in tried:
                found += [one for prefix in self.prefixes if (one := prefix.extract(address)) is not None]
        return tuple(found)

    # --- reverse names --------------------------------------------------------------------------------------------

    def reverse(self, question: Question) -> RRset | None:
        """The CNAME from the reverse name of a DNS64 address to that of its IPv4 address (RFC 6147 section 5.3.1)."""
        key: bytes = question.key[0]
        if question.qtype != c.PTR or not key.endswith(_IP6_ARPA):
            return None
        digits = names.labels(key)[:-2]
        if len(digits) != _NIBBLE_LABELS or any(len(digit) != 1 or digit.isspace() for digit in digits):
            return None  # `bytes.fromhex` skips blanks
        try:
            address = bytes.fromhex(b"".join(reversed(digits)).decode("ascii"))
        except ValueError:
            return None
        for prefix in self.prefixes:
            embedded = prefix.extract(address)
            if embedded is not None and prefix.embed(embedded) == address and self._is_translated(prefix, embedded):
                break
        else:
            return None
        start = b"".join(b"%c%b" % (len(text), text) for text in (b"%d" % octet for octet in reversed(embedded)))
        return RRset(question.qname, c.CNAME, limits.LOCAL_TTL, [start + _IN_ADDR_ARPA],
                     trust=Trust.CONFIGURED, verdict=Verdict.INDETERMINATE)

    def _is_translated(self, prefix: Nat64Prefix, address: bytes) -> bool:
        """Whether `prefix` stands for the IPv4 `address` in some answer."""
        if str(IPv4Address(address)) in DISCOVERY_ADDRESSES:
            return True  # `discovery` has no exclusions
        return prefix.covers(address) and prefix.embed(address) in self.embed(address)


def _is_in(address: IPv4Address, networks: tuple[IPv4Network, ...]) -> bool:
    return any(address in network for network in networks)
