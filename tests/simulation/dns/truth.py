"""The conditions that must hold for every answer, whatever the servers did.

`check` follows an outcome from the question along its aliases. Each step belongs to one zone of the world, whose true
data is known. A zone is *protected* when nobody can change its answers unnoticed: it has a chain of trust and the
client wants validation, or no server of it or above it lies. There the answer must be true. Elsewhere it may be
anything, but not secure. A zone whose denials need more iterations than the resolver follows proves no denial: what it
denies is insecure, and a liar may deny its delegations and then answer anything for names in it and below (RFC 9276
section 3.2). A failure is never wrong for a client that wants validation while a server on the path lies. When all
servers on the path are honest and reachable, an answer is required, for a client that sets CD even where validation
fails. Expired data may be served when servers cannot be reached, but not when all of them have always answered, and not
in place of bogus answers. No client may get an address in the clients' own network from the name of another zone; the
rest of such an answer is true and no longer secure.
"""

from collections.abc import Iterable

from simulation.dns.world import BOGUS_FATES, HOME, Fate, Site, World

from resolver import limits
from resolver.effects import FailureKind, Outcome, Question
from resolver.playground.zones import Lookup, LookupResult
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["Oracle"]

CLOCK_GRAIN = 1
"""Seconds: times are whole seconds, so an interval may be one second too short."""
STEPS = limits.MAX_ALIASES


class Oracle:
    """Checks outcomes against one world.

    `liars` are the addresses whose replies may be changed, `unsure` those whose packets may be lost. `outages`: there
    may have been a time when a server did not answer.
    """

    def __init__(self, world: World, liars: Iterable[str], *, unsure: Iterable[str] = (), outages: bool = True) -> None:
        self.world = world
        self.liars = frozenset(liars)
        self.unsure = self.liars.union(unsure)
        self.outages = outages

    def check(
        self, question: Question, cd: bool, outcome: Outcome, began: int, now: int, *, verdict_known: bool = True
    ) -> list[str]:
        """Return what is wrong with `outcome`, as sentences; empty when nothing is.

        `began` is when the question was submitted and `now` when it was answered, in seconds since the epoch. Data must
        be valid at the time of validation, which is between the two. `verdict_known` False: the client did not request
        the verdict, so it did not get it.
        """
        if outcome.failure is not None:
            return self._check_failure(question, cd, outcome, now)
        walk = _Walk(self, question, cd, outcome, began)
        walk.go()
        if not cd and verdict_known:
            walk.check_verdict()
        return walk.wrong

    def _check_failure(self, question: Question, cd: bool, outcome: Outcome, now: int) -> list[str]:
        failure = outcome.failure
        assert failure is not None
        if cd and failure.kind is FailureKind.BOGUS:
            return [f"a client that set CD is refused for validation: {failure.text}"]
        if self._answerable(question, cd, now):
            return [f"all servers of the way are honest and the answer is {'there' if cd else 'valid'}, but: {failure}"]
        return []

    def _answerable(self, question: Question, cd: bool, now: int) -> bool:
        """Whether all zones along the aliases are reachable and have only honest servers."""
        name, seen = question.qname, set()
        for _ in range(STEPS - 1):
            site, lookup = self.world.look_up(name, question.qtype)
            if any(one.trap is not None or not self.unsure.isdisjoint(one.addresses) for one in site.line):
                return False
            if not cd and (
                site.fate_from_root() in BOGUS_FATES or any(one.keys and one.ends <= now + 1 for one in site.line)
            ):
                return False
            seen.add(names.lower(name))
            target = target_of(lookup, name, question.qtype)
            if target is None:
                return True
            if names.lower(target) in seen:
                return False
            name = target
        return False

    def tainted(self, site: Site) -> bool:
        """Whether a server on the path to `site` lies."""
        return any(address in self.liars for one in site.line for address in one.addresses)

    def visible(self, rrset: RRset, name: bytes) -> list[bytes]:
        """The data of `rrset` that a client may get for `name`, in canonical form."""
        found = rrset.canonical_rdatas()
        if not self.world.home or rrset.rtype not in (c.A, c.HTTPS) or names.is_subdomain(name, self.world.welcome):
            return sorted(found)
        shown = (self.world.shown.get(rdata, rdata) for rdata in found)
        return sorted(rdata for rdata in shown if rdata is not None)

    def weakened(self, site: Site) -> bool:
        """Whether a liar can send denials that are not checked, of the zone or of one above it."""
        return any(one.costly and self.tainted(one) for one in site.line)

    def protected(self, site: Site, cd: bool) -> bool:
        """Whether answers for names of `site` must be true."""
        if dishonest(site):
            return False
        return not self.tainted(site) or (not cd and site.fate_from_root() is Fate.SECURE)


def target_of(lookup: Lookup, name: bytes, qtype: int) -> bytes | None:
    """The target of an alias found for `name`; None when there is none."""
    if lookup.kind is LookupResult.DNAME and qtype not in (c.CNAME, c.ANY):
        return names.replace_suffix(name, lookup.rrsets[0].name, lookup.rrsets[0].targets()[0])
    if lookup.kind is LookupResult.CNAME and qtype != c.CNAME:
        return lookup.rrsets[0].targets()[0]
    return None


def made_by(rrset: RRset, dname: RRset) -> bool:
    """Whether `rrset` is the CNAME that `dname` synthesises; a DNAME that applies twice is included once."""
    if rrset.rtype != c.CNAME or names.equal(rrset.name, dname.name) or not names.is_subdomain(rrset.name, dname.name):
        return False
    made = names.replace_suffix(rrset.name, dname.name, dname.targets()[0])
    return made is not None and names.equal(made, rrset.targets()[0])


def dishonest(site: Site) -> bool:
    """Whether an attacker has the keys of the site or of one above."""
    return any(one.dishonest for one in site.line)


class _Walk:
    """One outcome, checked from the question to its end."""

    def __init__(self, oracle: Oracle, question: Question, cd: bool, outcome: Outcome, now: int) -> None:
        self.oracle, self.world = oracle, oracle.world
        self.question, self.cd, self.outcome, self.now = question, cd, outcome, now
        self.wrong: list[str] = []
        self.secure = self.surely_secure = True

    def say(self, text: str) -> None:
        self.wrong.append(text)

    def go(self) -> None:
        if self.outcome.stale and not self.oracle.outages:
            self.say("expired data is served although every server has answered")
        name, qtype = self.question.qname, self.question.qtype
        rest = list(self.outcome.answer)
        renamed: list[RRset] = []
        types: set[int] = set()
        ended = False
        while rest:
            rrset = rest.pop(0)
            if ended:
                self.say(f"the answer has an extra RRset: {show(rrset)}")
                return
            if rrset.rtype == c.DNAME and not (qtype in (c.DNAME, c.ANY) and names.equal(name, rrset.name)):
                if names.equal(name, rrset.name) or not names.is_subdomain(name, rrset.name):
                    self.say(f"{names.to_text(name)} is not below {show(rrset)}")
                    return
                made = names.replace_suffix(name, rrset.name, rrset.targets()[0])
                follower = rest.pop(0) if rest else None
                if made is None or follower is None or follower.rtype != c.CNAME or not names.equal(
                    follower.targets()[0], made
                ):
                    self.say(f"after {show(rrset)} comes {follower and show(follower)}")
                    return
                if follower.ttl > rrset.ttl:
                    self.say(f"{show(follower)} outlives {show(rrset)}")
                self.step(name, rrset, owner=rrset.name)
                renamed.append(rrset)
                # A query for the alias type itself is answered by it.
                name, ended = made, qtype in (c.CNAME, c.ANY)
            else:
                if not names.equal(rrset.name, name):
                    self.say(f"{show(rrset)} has another owner than {names.to_text(name)}")
                    return
                shown = next((dname for dname in renamed if made_by(rrset, dname)), None)
                if shown is None:
                    self.step(name, rrset, owner=name)
                elif rrset.ttl > shown.ttl:
                    self.say(f"{show(rrset)} outlives {show(shown)}")
                if qtype == c.ANY and rrset.rtype not in types:
                    types.add(rrset.rtype)
                elif rrset.rtype == c.CNAME and qtype not in (c.CNAME, c.ANY):
                    name = rrset.targets()[0]
                elif rrset.rtype == qtype:
                    ended = True
                else:
                    self.say(f"{show(rrset)} has a type that was not queried")
                    return
        # A DNAME that was part of the chain is not repeated as the answer.
        ended = ended or bool(types) or (qtype == c.DNAME and any(names.equal(shown.name, name) for shown in renamed))
        if not ended:
            self.denied(name)

    def note(self, site: Site, *, sure: bool, excused: bool) -> None:
        """Record how secure a step can be."""
        fate = site.fate_from_root()
        if self.unchecked(site):
            self.surely_secure = False
        elif fate in BOGUS_FATES:
            if not self.cd:
                self.say(f"answered although {names.to_text(site.origin)} is {fate.value}")
        elif fate is Fate.SECURE:
            # Stale data was valid once, and is not secure. What may be below an unsigned delegation has no signatures
            # that expire.
            late = self.now > site.ends + CLOCK_GRAIN and not self.outcome.stale
            if late and not self.cd and not excused and not dishonest(site):
                self.say(f"answered {self.now - site.ends} s after signatures of {names.to_text(site.origin)} expired")
            if not sure or dishonest(site):
                self.surely_secure = False
        else:
            self.secure = False

    def step(self, name: bytes, rrset: RRset, *, owner: bytes) -> None:
        """Check one RRset of the answer: it must be what the zone of `name` contains."""
        if self.world.home and not names.is_subdomain(name, self.world.welcome):
            if any(HOME in rdata for rdata in rrset.rdatas()):
                self.say(f"the answer has an address of the clients' own network: {show(rrset)}")
        # An answer to ANY need not have everything that the name has (RFC 8482 section 4.1).
        asked = rrset.rtype if self.question.qtype == c.ANY else self.question.qtype
        if asked == c.NSEC and rrset.rtype == c.CNAME and self.oracle.liars & set(self.world.site_of(name).addresses):
            asked = c.CNAME  # a liar gives the CNAME beside the NSEC; both are signed, so no resolver can refute it
        site, lookup = self.world.look_up(name, asked)
        excused = self.excused(site, lookup)
        self.note(site, sure=not excused, excused=excused)
        if site.costly and lookup.wildcard and not dishonest(site):
            self.secure = False
        if excused or not self.oracle.protected(site, self.cd):
            return
        true = (
            lookup.rrsets[0] if lookup.kind in (LookupResult.ANSWER, LookupResult.CNAME, LookupResult.DNAME) else None
        )
        seen = [] if true is None else self.oracle.visible(true, name)
        if true is not None and seen != sorted(true.canonical_rdatas()):
            self.secure = False
        if true is None or true.rtype != rrset.rtype or seen != sorted(rrset.canonical_rdatas()) or not (
            lookup.wildcard or names.equal(true.name, owner)
        ):
            self.say(f"{show(rrset)} is not what {names.to_text(site.origin)} contains: {true and show(true)}")
            return
        self.check_ttl(site, rrset.ttl, true.ttl, show(rrset))

    def denied(self, name: bytes) -> None:
        """Check that the last name, for which there is no data in the answer, has none."""
        site, lookup = self.world.look_up(name, self.question.qtype)
        excused = self.excused(site, lookup)
        self.note(site, sure=not excused and not site.opt_out, excused=excused)
        if site.costly and not dishonest(site):  # who has the key can sign other denials than those of the zone
            self.secure = False
        if excused or not self.oracle.protected(site, self.cd):
            return
        expected = {LookupResult.NODATA: c.NOERROR, LookupResult.NXDOMAIN: c.NXDOMAIN}.get(lookup.kind)
        if lookup.kind is LookupResult.DNAME and self.outcome.rcode == c.YXDOMAIN:
            return
        if lookup.kind is LookupResult.ANSWER and not any(self.oracle.visible(rrset, name) for rrset in lookup.rrsets):
            self.secure = False
            if self.outcome.rcode != c.NOERROR:
                self.say(f"nothing of {names.to_text(name)} may be shown, but it is denied")
            return
        if expected != self.outcome.rcode:
            self.say(f"{names.to_text(name)} is denied with {c.rcode_to_text(self.outcome.rcode)}; "
                     f"the truth is {lookup.kind.value}")
            return
        self.check_ttl(site, self.outcome.ttl, site.zone.negative_soa().ttl, "the denial")

    def check_ttl(self, site: Site, ttl: int, most: int, what: str) -> None:
        if ttl > most:
            self.say(f"{what} has a TTL of {ttl} s where the zone says {most}")
        if (
            not self.cd
            and not self.outcome.stale
            and site.fate_from_root() is Fate.SECURE
            and self.now + ttl > site.ends + CLOCK_GRAIN
        ):
            self.say(f"{what} has a TTL of {ttl} s, {self.now + ttl - site.ends} more than its signatures hold")

    def excused(self, site: Site, lookup: Lookup) -> bool:
        """Whether an unsigned delegation may be claimed here: in an opt-out span (RFC 5155 section 6)."""
        if self.unchecked(site):
            return True
        if not site.opt_out or self.outcome.verdict == Verdict.SECURE:
            return False
        empty = lookup.kind is LookupResult.NODATA and not site.zone.nodes.get(lookup.node)
        return lookup.kind is LookupResult.NXDOMAIN or lookup.wildcard or empty

    def unchecked(self, site: Site) -> bool:
        """Whether unchecked denials may have been used on the path; a secure answer needs none."""
        return self.outcome.verdict != Verdict.SECURE and self.oracle.weakened(site)

    def check_verdict(self) -> None:
        verdict = self.outcome.verdict
        if self.question.qtype == c.ANY and self.world.home:
            self.surely_secure = False  # a set of which rewriting left nothing is not in the answer
        if verdict == Verdict.SECURE and not self.secure:
            self.say("the verdict is secure, but a part has no chain of trust")
        if verdict != Verdict.SECURE and self.secure and self.surely_secure and not self.outcome.stale:
            self.say(f"the verdict is {Verdict(verdict).name}, but all parts have a chain of trust")


def show(rrset: RRset) -> str:
    """An RRset as one line."""
    return f"{names.to_text(rrset.name)} {rrset.ttl} {c.type_to_text(rrset.rtype)} {rrset.rdatas()!r}"
