"""Compares our daemon with Unbound and Knot Resolver: same real name servers, same queries.

Three validating resolvers resolve in the same trees: random signed zones and the playground, served by NSD, Knot and
BIND in turn. Response code, AD bit and answer section (as sets, without TTLs) must be equal. A permitted difference is
listed in tests/conformance/differences.toml with its reason and RFC. Everything is derived from seeds, except the time
at which the signatures begin.
"""

import random
import re
import signal
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from support.servers import ask, program, serve_export
from support.signed_zoo import ORIGINS, random_name, signed_world
from support.subject import Subject, start_subject, upstream_port_for

from resolver.playground import World, signed
from resolver.playground.export import REFUSED_BY, export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

__all__ = [
    "DAEMONS",
    "Difference",
    "Found",
    "Rule",
    "compare",
    "load_rules",
    "playground_questions",
    "run_playground",
    "run_zoo",
    "zoo_questions",
]

DIFFERENCES = Path(__file__).parents[1] / "conformance" / "differences.toml"
DAEMONS = {"nsd": "nsd", "knot": "knotd", "bind": "named"}
REFERENCES = ("unbound", "kresd")
TYPES = (c.A, c.AAAA, c.TXT, c.MX, c.DS, c.NS, c.SOA, c.CNAME, c.DNSKEY)
WEIGHTS = (6, 2, 3, 2, 2, 1, 1, 1, 1)
TIMEOUT = 20.0
EMPTY = "empty "
# Real servers lose the faults of these simulated ones, or the other resolvers ask them for longer than anybody waits.
SILENT = ("dead.playground.", "edns-drop.playground.", "half-dead.playground.", "cycle-a.com.", "cycle-b.com.",
          "no-glue.com.", "lame-all.playground.", "upward.playground.", "servfail.playground.")  # fmt: skip


class Question(NamedTuple):
    """A name as text and a type."""

    name: str
    rtype: int

    def __str__(self) -> str:
        return f"{self.name} {c.type_to_text(self.rtype)}"


class Answered(NamedTuple):
    """What of a reply is compared."""

    rcode: str
    ad: bool
    records: frozenset[str]

    def __str__(self) -> str:
        shown = ", ".join(sorted(self.records)) or "no records"
        return f"{self.rcode}{'+ad' if self.ad else ''}: {shown}"

    @property
    def code(self) -> str:
        """Response code and AD bit, as the list of differences has them."""
        return f"{self.rcode}{'+ad' if self.ad else ''}"

    def fits(self, pattern: str) -> bool:
        """Whether a pattern of the list means this; what begins with "empty " means answers without records only."""
        if pattern.startswith(EMPTY):
            return not self.records and re.fullmatch(pattern.removeprefix(EMPTY), self.code) is not None
        return re.fullmatch(pattern, self.code) is not None


class Found(NamedTuple):
    """One question that somebody else answers differently."""

    question: Question
    against: str
    server: str
    ours: Answered
    theirs: Answered
    merge_option: bool = False
    """The third one answers as we do."""

    def __str__(self) -> str:
        return f"{self.question} (served by {self.server})\n  ours      {self.ours}\n  {self.against:<9} {self.theirs}"


@dataclass
class Rule:
    """An entry of the list: which differences it explains."""

    against: str
    name: re.Pattern[str]
    types: frozenset[str]
    ours: str
    theirs: str
    servers: frozenset[str]
    reason: str
    rfc: str
    merge_option: bool = False
    used: int = field(default=0, compare=False)

    def explains(self, found: Found) -> bool:
        """Whether this is the reason of `found`."""
        return (
            self.against in (found.against, "both")
            and (found.merge_option or not self.merge_option)
            and (not self.types or c.type_to_text(found.question.rtype) in self.types)
            and (not self.servers or found.server in self.servers)
            and found.ours.fits(self.ours)
            and found.theirs.fits(self.theirs)
            and self.name.search(found.question.name) is not None
        )


@dataclass
class Difference:
    """The result of a run."""

    asked: int = 0
    found: list[Found] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def unexplained(self, rules: Iterable[Rule]) -> list[Found]:
        """Those without a reason; counts for each rule how often it was needed."""
        rules, left = list(rules), []
        for one in self.found:
            rule = next((rule for rule in rules if rule.explains(one)), None)
            if rule is None:
                left.append(one)
            else:
                rule.used += 1
        return left


def load_rules(path: Path = DIFFERENCES) -> list[Rule]:
    """The committed list.

    Raises:
        ValueError: an entry lacks its reason, or holds a word that nobody reads.
    """
    rules = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("difference", ()):
        left = dict(entry)
        rule = Rule(
            left.pop("against"), re.compile(left.pop("name")), frozenset(left.pop("types", ())), left.pop("ours"),
            left.pop("theirs"), frozenset(left.pop("servers", ())), left.pop("reason"), left.pop("rfc"),
            left.pop("agreed", False),
        )  # fmt: skip
        if left or not rule.reason or not rule.rfc or rule.against not in (*REFERENCES, "both"):
            raise ValueError(f"differences.toml: {entry}")
        rules.append(rule)
    return rules


# --- questions ------------------------------------------------------------------------------------------------------


def zoo_questions(seed: int, count: int) -> list[Question]:
    """`count` different questions about a random world, evenly over its zones."""
    rng = random.Random(seed * 1000 + 7)
    found: dict[Question, None] = {}
    while len(found) < count:
        for origin in ORIGINS:
            found[Question(random_name(rng, origin), rng.choices(TYPES, WEIGHTS)[0])] = None
    return rng.sample(list(found), count)


def playground_questions(seed: int, count: int) -> list[Question]:
    """All that is special in the playground, then names beside, above and below it."""
    rng = random.Random(seed)
    found = {
        Question(special.qname, c.type_from_text(special.qtype)): None
        for special in signed.SPECIALS
        if not special.qname.endswith(SILENT)
    }
    owners = [question.name for question in found] + [zone for zone in signed.ZONES if not zone.endswith(SILENT)]
    while len(found) < count:
        labels = [label for label in rng.choice(owners).split(".") if label]
        change = rng.random()
        if change < 0.3:
            labels.insert(0, rng.choice(("a", "www", "zzz", "missing", "*", "0", "xn--bcher-kva")))
        elif change < 0.5 and len(labels) > 2:
            labels[0] = rng.choice(("a", "b", "mail", "missing", "www", "nothing"))
        elif change < 0.6 and len(labels) > 2:
            labels.pop(0)
        name = ".".join(labels) + "."
        if not name.endswith(SILENT):
            found[Question(name, rng.choices(TYPES, WEIGHTS)[0])] = None
    return list(found)[:count]


# --- running --------------------------------------------------------------------------------------------------------


def run_zoo(seed: int, server: str, count: int, directory: Path) -> Difference:
    """One random world on one kind of name server."""
    world, anchor = signed_world(seed)
    return _run(world, anchor, server, zoo_questions(seed, count), directory)


def run_playground(seed: int, server: str, count: int, directory: Path) -> Difference:
    """The signed playground on one kind of name server; zones that it will not load are left out."""
    world = signed.signed_world(int(time.time()))
    questions = [q for q in playground_questions(seed, count) if not q.name.endswith(tuple(REFUSED_BY[server]) or "-")]
    return _run(world, world.trust_anchors[0], server, questions, directory)


def _run(world: World, anchor: str, server: str, questions: list[Question], directory: Path) -> Difference:
    for command in (DAEMONS[server], *REFERENCES):
        program(command)
    port = upstream_port_for("unbound", world)
    result = Difference(asked=len(questions))
    with ExitStack() as stack:
        stack.enter_context(serve_export(export(world, directory / "served", server, port=port)))
        subjects = [
            stack.enter_context(start_subject(directory / kind, world, port, kind=kind, anchor=anchor))
            for kind in ("resolverd", *REFERENCES)
        ]
        with ThreadPoolExecutor(len(subjects)) as pool:
            for question in questions:  # one after the other: what a cache holds depends on the order
                ours, *others = pool.map(lambda one, question=question: _ask(one, question), subjects)
                result.kinds[ours.code] += 1
                for kind, theirs in zip(REFERENCES, others, strict=True):
                    if theirs != ours:
                        result.found.append(Found(question, kind, server, ours, theirs, ours in others))
        for one in subjects:
            _look_after(one, "after the last question")
    return result


def _ask(subject: Subject, question: Question) -> Answered:
    view = ask(subject.address, subject.port, question.name, question.rtype, tcp=True, do=True, timeout=TIMEOUT)
    if view is None:
        _look_after(subject, f"when asked for {question}")
    return compare(view)


def _look_after(subject: Subject, when: str) -> None:
    """Silence of a process that is gone is no difference: how it ended is said at once, with the question it got."""
    code = subject.process.poll()
    if code is None:
        return
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    raise AssertionError(f"{subject.kind} ended {how} {when}; it said last:\n{subject.output()[-4000:]}")


def compare(view: MessageView | None) -> Answered:
    """The comparable part of a reply; of a failure only that it is one.

    Only what stands on the way from the question counts: Unbound also shows an alias that owns a part of the name and
    that it met while minimising.
    """
    if view is None:
        return Answered("nothing", False, frozenset())
    if view.rcode == c.SERVFAIL or view.qname is None:
        return Answered(c.rcode_to_text(view.rcode), False, frozenset())
    return Answered(c.rcode_to_text(view.rcode), view.ad, frozenset(_records(view)))


def _records(view: MessageView) -> Iterator[str]:
    assert view.qname is not None
    path = {names.lower(view.qname)}
    for _ in view.answer:
        path |= {names.lower(r.targets()[0]) for r in view.answer if r.rtype == c.CNAME and names.lower(r.name) in path}
    for rrset in view.answer:
        if rrset.rtype == c.DNAME or names.lower(rrset.name) in path:
            for rdata in rrset.canonical_rdatas():
                owner = names.to_text(names.lower(rrset.name))
                yield f"{owner} {c.type_to_text(rrset.rtype)} {rdata.hex()} signatures {len(rrset.sigs())}"
