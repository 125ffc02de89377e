"""Compilation of a response policy zone: from its records to the tables of `rpz.RpzZone`.

An owner name below the origin is a trigger (section 4 of draft-vixie-dnsop-dns-rpz-00): a name or ``*.name``, or a
prefix or name below one of the labels rpz-client-ip, rpz-ip, rpz-nsdname, rpz-nsip. Its records are the action (section
3): a CNAME with a special target, or local data. The first rule of a trigger is kept. Invalid rules are skipped and
reported, because the zones come from third parties and the rest of a zone should apply.

States: a `ZoneCompiler` takes records in any order; `finish` makes the zone and empties it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from resolver import limits
from resolver.policy.name_table import NameTableBuilder
from resolver.policy.prefix_table import PrefixTableBuilder
from resolver.policy.rpz import Action, RpzZone, Rule
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["RpzOptions", "ZoneCompiler", "compile_zone"]

# Signatures and denials of a signed policy zone; they are no rules.
_SIGNING_TYPES = frozenset({c.RRSIG, c.NSEC, c.DNSKEY, c.NSEC3, c.NSEC3PARAM})
_NO_DATA_TYPES = frozenset({c.SOA, c.NS, c.DNAME})
_ACTIONS = {
    b"\0": Action.NXDOMAIN,
    b"\x01*\0": Action.NODATA,
    names.from_text("rpz-passthru."): Action.PASSTHRU,
    names.from_text("rpz-drop."): Action.DROP,
    names.from_text("rpz-tcp-only."): Action.TCP_ONLY,
}
_RULES = {target: Rule(action) for target, action in _ACTIONS.items()}
_PASSTHRU = Rule(Action.PASSTHRU)
_MARK = b"rpz-"
"""The beginning of the labels above triggers that are no qnames."""
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,2}")
_WORD = re.compile(rb"[0-9a-f]{1,4}")
_IPV4_LABELS, _IPV6_WORDS = 4, 8


class RpzOptions(NamedTuple):
    """How the zone is used; the fields are those of `RpzZone`."""

    ede: int = c.EDE_FILTERED
    override: Rule | None = None
    log_only: bool = False
    log: bool = False


DEFAULT = RpzOptions()


def parse_prefix(labels: list[bytes]) -> tuple[bytes, int]:
    """The address prefix that labels encode: ``24.0.2.0.192`` or ``48.zz.1.db8.2001``, as (first address, length).

    Raises:
        ValueError: they encode none.
    """
    if len(labels) < 2 or not _NUMBER.fullmatch(labels[0]):
        raise ValueError("an address trigger begins with a prefix length")
    length, parts = int(labels[0]), [label.lower() for label in reversed(labels[1:])]
    if len(parts) == _IPV4_LABELS and b"zz" not in parts:
        if not all(_NUMBER.fullmatch(part) and int(part) < 256 for part in parts):
            raise ValueError("an IPv4 trigger has four numbers from 0 to 255")
        packed = bytes(int(part) for part in parts)
    else:
        packed = _parse_words(parts)
    if not 1 <= length <= 8 * len(packed):
        raise ValueError(f"the prefix length {length} is outside 1..{8 * len(packed)}")
    return packed, length


def _parse_words(parts: list[bytes]) -> bytes:
    """An IPv6 address from its words; ``zz`` is ``::``."""
    if parts.count(b"zz") > 1 or not all(part == b"zz" or _WORD.fullmatch(part) for part in parts):
        raise ValueError("an IPv6 trigger has hexadecimal words, and zz at most once")
    if b"zz" in parts:
        at, missing = parts.index(b"zz"), _IPV6_WORDS - (len(parts) - 1)
        if missing < 1:
            raise ValueError("an IPv6 trigger with zz has at most seven words")
        parts = [*parts[:at], *[b"0"] * missing, *parts[at + 1:]]
    if len(parts) != _IPV6_WORDS:
        raise ValueError("an address trigger has four numbers, or eight words or zz")
    return b"".join(int(part, 16).to_bytes(2, "big") for part in parts)


class ZoneCompiler:
    """Collects the records of one zone. `key` is 16 secret random bytes, for the hash of the name tables.

    `errors` are the first problems as sentences with their owner, `error_count` counts all.
    """

    def __init__(self, origin: bytes, key: bytes, *, most_names: int = limits.LIST_NAMES.default) -> None:
        self.origin = names.lower(origin)
        self.soa: RRset | None = None
        self.errors: list[str] = []
        self.error_count = 0
        self.count = 0
        self._rules: dict[Rule, int] = {}
        self._qnames = NameTableBuilder(key, most_names=most_names, as_zone=True)
        self._ns_names = NameTableBuilder(key, most_names=most_names, as_zone=True)
        prefixes = [(label, PrefixTableBuilder(limits.RPZ_PREFIXES)) for label in (b"client-ip", b"ip", b"nsip")]
        self._prefixes = {self._below(label): builder for label, builder in prefixes}
        self._ns_suffix = self._below(b"nsdname")
        # Local data by owner: all records of an owner are one rule, so they wait until the zone is complete.
        self._data: dict[bytes, dict[int, tuple[int, list[bytes]]]] = {}

    def _below(self, label: bytes) -> bytes:
        return names.prepend(b"rpz-" + label, self.origin)

    def add(self, rrset: RRset) -> None:
        """Add a set; a signature or a set outside the origin is ignored.

        Raises:
            ValueError: the zone exceeds a limit, so that it cannot be used.
        """
        owner, rtype = names.lower(rrset.name), rrset.rtype
        if rtype in _SIGNING_TYPES or not names.is_subdomain(owner, self.origin):
            return
        if owner == self.origin:
            if rtype == c.SOA:
                self.soa = rrset.without_sigs()
            return
        rdatas = rrset.rdatas()
        if rtype == c.CNAME:
            if len(rdatas) > 1:
                self._report(owner, "it has several CNAME records")
                return
            self.add_alias(owner, rdatas[0], rrset.ttl)
        elif rtype in _NO_DATA_TYPES:
            self._report(owner, f"local data of type {c.type_to_text(rtype)} is not permitted")
        else:
            held = self._data.setdefault(owner, {}).setdefault(rtype, (rrset.ttl, []))[1]
            held += [rdata for rdata in rdatas if rdata not in held]

    def add_alias(self, owner: bytes, target: bytes, ttl: int) -> None:
        """Add a CNAME: `owner` (lower case) below the origin, `target` in any letter case."""
        lowered = names.lower(target)
        rule = _RULES.get(lowered)
        if rule is None and lowered == self._relative(owner, self.origin):
            rule = _PASSTHRU  # the old form: a CNAME to the name itself
        if rule is not None:
            self._add_rule(owner, rule)
        elif names.label_count(lowered) == 1 and lowered[1:].startswith(b"rpz-"):
            self._report(owner, f"the action {names.to_text(lowered)} is unknown")
        else:
            self._add_rule(owner, Rule(Action.DATA, ((c.CNAME, ttl, (target,)),)))

    def finish(self, options: RpzOptions = DEFAULT) -> RpzZone:
        """The compiled zone.

        Raises:
            ValueError: the zone exceeds a limit.
        """
        for owner, sets in self._data.items():
            records = tuple((rtype, sets[rtype][0], tuple(sets[rtype][1])) for rtype in sorted(sets))
            self._add_rule(owner, Rule(Action.DATA, records))
        self._data = {}
        clients, addresses, ns_addresses = (builder.finish() for builder in self._prefixes.values())
        return RpzZone(self.origin, self.soa, tuple(self._rules), self._qnames.finish(), clients, addresses,
                       self._ns_names.finish(), ns_addresses, *options)

    def _relative(self, owner: bytes, suffix: bytes) -> bytes:
        """`owner` without `suffix`, which it ends with."""
        return owner[: len(owner) - len(suffix)] + names.ROOT

    def _add_rule(self, owner: bytes, rule: Rule) -> None:
        number = self._rules.get(rule)
        if number is None:
            if len(self._rules) >= limits.RPZ_RULES:
                raise ValueError(f"response policy zone {names.to_text(self.origin)}: more than {limits.RPZ_RULES}"
                                 " different rules")
            number = self._rules[rule] = len(self._rules) + 1
        if owner.find(_MARK, 0, len(owner) - len(self.origin)) < 0:  # nearly all, and this is quicker than what follows
            self._add_name(owner, self.origin, self._qnames, number)
            return
        for suffix, builder in self._prefixes.items():
            if names.is_subdomain(owner, suffix):
                self._add_prefix(owner, suffix, builder, number)
                return
        if names.is_subdomain(owner, self._ns_suffix):
            self._add_name(owner, self._ns_suffix, self._ns_names, number)
        else:
            self._add_name(owner, self.origin, self._qnames, number)

    def _add_prefix(self, owner: bytes, suffix: bytes, builder: PrefixTableBuilder, number: int) -> None:
        try:
            packed, length = parse_prefix(names.labels(self._relative(owner, suffix)))
            added = builder.add(packed, length, number)
        except ValueError as error:
            self._report(owner, str(error))
            return
        self._count(owner, added)

    def _add_name(self, owner: bytes, suffix: bytes, builder: NameTableBuilder, number: int) -> None:
        name = self._relative(owner, suffix)
        if name == names.ROOT:
            self._report(owner, "the trigger has no name")
        elif name.startswith(b"\x01*"):
            self._count(owner, builder.add(names.parent(name), 0, number))
        else:
            self._count(owner, builder.add(name, number, 0))

    def _count(self, owner: bytes, added: bool) -> None:
        if added:
            self.count += 1
        else:
            self._report(owner, "the trigger has a rule already; the first is kept")

    def _report(self, owner: bytes, why: str) -> None:
        self.error_count += 1
        if len(self.errors) < limits.LIST_ERRORS:
            self.errors.append(f"{names.to_text(owner)}: {why}")


def compile_zone(
    origin: bytes, rrsets: Iterable[RRset], key: bytes, options: RpzOptions = DEFAULT
) -> tuple[RpzZone, list[str]]:
    """The zone made of `rrsets`, and the first problems that were found.

    Raises:
        ValueError: the zone exceeds a limit.
    """
    compiler = ZoneCompiler(origin, key)
    for rrset in rrsets:
        compiler.add(rrset)
    return compiler.finish(options), compiler.errors
