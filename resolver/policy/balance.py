"""Balanced names: A and AAAA answers whose addresses are chosen for each client, without those of failed targets.

`choose` decides from settings, the state of the targets, the client and random numbers. It is a function of its
arguments, so tests with a seed are exact. `Health` is the state of one target; its checks are made elsewhere
(`resolver.daemon.balance_checks`), and a target that was never checked is up.

Two modules answer:

* `Balance` is asked for each query of a client, and gives the chosen addresses. They depend on chance and on the
  client, so they are never cached as finished answers: each such query is answered by Python.
* `BalanceForAll` is asked where there is no client: for the target of an alias, for DNS64, for the library. It gives
  all addresses that are up, in the order of the configuration. A finished answer with them may be cached for their TTL,
  as clients do.

Other types of the names are resolved as usual.
"""

from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from resolver.effects import Outcome, Question, RandomSource
from resolver.policy.module import Decision, PolicyModule
from resolver.query import Query
from resolver.settings.balance import BalanceSettings, TargetSettings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["Balance", "BalanceForAll", "Balancer", "Health", "Target", "choose"]

_SIZES = {c.A: 4, c.AAAA: 16}
_MAPPED_BITS = 96
Countries = Callable[[str], str]
"""The country of an address as two capital letters; empty when it is not known."""


class Health:
    """Whether a target is up. `rise` successes or `fall` failures in a row change it.

    `why` is the reason of the last failed check, empty after a success; `checks` and `failures` count them.
    """

    __slots__ = ("checks", "failures", "fall", "rise", "streak", "up", "why")

    def __init__(self, rise: int, fall: int) -> None:
        self.rise = rise
        self.fall = fall
        self.up = True
        self.streak = 0
        """Results in a row that contradict `up`."""
        self.why = ""
        self.checks = 0
        self.failures = 0

    def note(self, why: str) -> bool:
        """Note the result of a check, empty for a success. Returns whether the target has changed its state."""
        self.why = why
        self.checks += 1
        self.failures += bool(why)
        if self.up is not bool(why):
            self.streak = 0
            return False
        self.streak += 1
        if self.streak < (self.fall if self.up else self.rise):
            return False
        self.up, self.streak = not self.up, 0
        return True

    def continue_from(self, before: "Health") -> None:
        """Take over the state of `before`, for a reload. The counters are kept."""
        self.up, self.streak, self.why = before.up, before.streak, before.why


class Target:
    """One address of a balanced name."""

    __slots__ = ("address", "countries", "health", "packed", "prefixes", "weight")

    def __init__(self, settings: TargetSettings, rise: int, fall: int) -> None:
        self.address = str(ip_address(settings.address))
        self.packed = ip_address(settings.address).packed
        self.weight = settings.weight
        self.countries = frozenset(settings.countries)
        self.health = Health(rise, fall)
        self.prefixes: tuple[tuple[int, int, int, int], ...] = tuple(map(_prefix, settings.clients))

    def match(self, client: bytes) -> int:
        """The length of the longest prefix that the address `client` is in; -1 without one."""
        value, size = int.from_bytes(client, "big"), len(client)
        return max((length for octets, length, shift, start in self.prefixes
                    if octets == size and value >> shift == start), default=-1)


def _prefix(text: str) -> tuple[int, int, int, int]:
    """A prefix as octets of an address, length, host bits and network bits. One of IPv4-mapped addresses counts as
    IPv4, as the address of a client does (`client_address`)."""
    network = ip_network(text, strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        network = IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    shift = network.max_prefixlen - network.prefixlen
    return network.max_prefixlen // 8, network.prefixlen, shift, int(network.network_address) >> shift


def choose(
    targets: Sequence[Target], policy: str, *, client: bytes = b"", country: str = "", most: int = 0, rng: RandomSource
) -> list[Target]:
    """The targets of an answer in their order, of those in `targets`, which are usable. `client` is the packed address
    of the client and `country` where it is, both empty when they are not known. `most` 0 permits all."""
    if policy == "weighted":
        chosen = _by_weight(targets, most or len(targets), rng)
    else:
        found = _nearest(targets, client, country) if policy == "nearest" else list(targets)
        start = rng.below(len(found)) if len(found) > 1 else 0
        chosen = found[start:] + found[:start]
    return chosen[:most] if most else chosen


def _by_weight(targets: Sequence[Target], count: int, rng: RandomSource) -> list[Target]:
    """`count` targets, each drawn from those that are left with a probability in proportion to its weight."""
    left = list(targets)
    chosen: list[Target] = []
    while left and len(chosen) < count:
        at = rng.below(sum(target.weight for target in left)) if len(left) > 1 else 0
        for position, target in enumerate(left):
            at -= target.weight
            if at < 0 or len(left) == 1:
                chosen.append(left.pop(position))
                break
    return chosen


def _nearest(targets: Sequence[Target], client: bytes, country: str) -> list[Target]:
    """Those with the longest prefix of the client; else those for its country; else those for no special clients; else
    all, because a far address is better than none."""
    lengths = [target.match(client) for target in targets] if client else []
    longest = max(lengths, default=-1)
    if longest >= 0:
        return [target for target, length in zip(targets, lengths, strict=True) if length == longest]
    found = [target for target in targets if country in target.countries] if country else []
    return found or [target for target in targets if not (target.prefixes or target.countries)] or list(targets)


class _Name:
    """One balanced name."""

    __slots__ = ("fallback", "needs_country", "settings", "targets")

    def __init__(self, settings: BalanceSettings) -> None:
        self.settings = settings
        made = [Target(one, settings.rise, settings.fall) for one in settings.target]
        self.targets = {qtype: tuple(one for one in made if len(one.packed) == size) for qtype, size in _SIZES.items()}
        packed = [ip_address(text).packed for text in settings.fallback]
        self.fallback = {qtype: [one for one in packed if len(one) == size] for qtype, size in _SIZES.items()}
        self.needs_country = any(one.countries for one in made)

    def usable(self, qtype: int) -> tuple[Target, ...] | None:
        """The targets of one family that are up, or all when none is and they are answered then; None for the fallback.
        """
        targets = self.targets[qtype]
        up = tuple(target for target in targets if target.health.up)
        if up or self.settings.when_down == "all" or not targets:
            return up or targets
        return None if self.settings.when_down == "fallback" else ()


class Balancer:
    """All balanced names of a configuration, with the state of their targets.

    `chosen` counts the answers by name and address: the first address of each.
    """

    def __init__(
        self, settings: Iterable[BalanceSettings], rng: RandomSource, countries: Countries | None = None
    ) -> None:
        """`countries` is None without a file of countries."""
        self.names = {names.lower(names.from_text(one.name)): _Name(one) for one in settings}
        self._rng = rng
        self._countries = countries
        self.chosen: dict[tuple[str, str], int] = {}

    def modules(self) -> tuple[PolicyModule, ...]:
        """New policies that answer by these names. They refer to this object, which must not refer to them."""
        return (Balance(self), BalanceForAll(self)) if self.names else ()

    def targets(self) -> list[tuple[BalanceSettings, Target]]:
        """Each target with the settings of its name, in the order of the configuration."""
        return [(one.settings, target) for one in self.names.values() for family in one.targets.values()
                for target in family]

    def answer(self, question: Question, address: str | None) -> Outcome | None:
        """The answer for the client with `address`, for all clients when that is None; None for other names and types,
        and for a family of which the name has no target and a client is known."""
        one = self.names.get(question.key[0])
        if one is None or question.qtype not in _SIZES:
            return None
        settings, qtype = one.settings, question.qtype
        if address is None:
            found = one.usable(qtype)
            rdatas = one.fallback[qtype] if found is None else [target.packed for target in found]
            return _outcome(question, rdatas, settings.ttl)
        if not one.targets[qtype]:
            return None
        usable = one.usable(qtype)
        if not usable:
            rdatas = one.fallback[qtype] if usable is None else []
            return _outcome(question, rdatas[: settings.most or None], settings.ttl)
        country = self._countries(address) if one.needs_country and address and self._countries is not None else ""
        chosen = choose(usable, settings.policy, client=ip_address(address).packed if address else b"",
                        country=country, most=settings.most, rng=self._rng)
        key = (settings.name, chosen[0].address)
        self.chosen[key] = self.chosen.get(key, 0) + 1
        return _outcome(question, [target.packed for target in chosen], settings.ttl)

    def continue_from(self, before: "Balancer") -> None:
        """Take over the states of the targets of `before` that are checked in the same way."""
        known = {
            (settings.name, settings.probe, target.address): target.health for settings, target in before.targets()
        }
        for settings, target in self.targets():
            same = known.get((settings.name, settings.probe, target.address))
            if same is not None:
                target.health.continue_from(same)


class Balance(PolicyModule):
    """Answers the queries of clients for balanced names."""

    name = "balance"
    per_client = True
    only_types = frozenset(_SIZES)

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def question(self, query: Query, question: Question) -> Decision:
        """The addresses for this client."""
        return self._balancer.answer(question, query.address)

    def is_cacheable(self, question: Question) -> bool:
        """False for balanced names: the next client gets other addresses."""
        return question.key[0] not in self._balancer.names


class BalanceForAll(PolicyModule):
    """Answers for balanced names where no client is known."""

    name = "balance-for-all"

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def question(self, query: Query, question: Question) -> Decision:
        """All addresses that are up; NODATA for a family that the name does not have."""
        return self._balancer.answer(question, None)

    alias = question


def _outcome(question: Question, rdatas: list[bytes], ttl: int) -> Outcome:
    """An answer with `rdatas`; NODATA without any, with a SOA for the negative cache of the client (RFC 2308)."""
    if rdatas:
        answer = [RRset(question.qname, question.qtype, ttl, rdatas, trust=Trust.CONFIGURED,
                        verdict=Verdict.INDETERMINATE)]
        authority: list[RRset] = []
    else:
        timers = (1, 3600, 1200, 604800, ttl)
        rdata = question.key[0] + names.from_text("nobody.invalid.") + b"".join(n.to_bytes(4, "big") for n in timers)
        answer, authority = [], [RRset(question.qname, c.SOA, ttl, [rdata], trust=Trust.CONFIGURED,
                                       verdict=Verdict.INDETERMINATE)]
    outcome = Outcome(question, c.NOERROR, answer, authority, Verdict.INDETERMINATE, ttl)
    outcome.authoritative = True
    return outcome
