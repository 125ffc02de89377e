"""A tree of zones and the simplest driver for the validator: each `Need` is answered by the authoritative zone.

There is no mesh, cache or network, so a failing test here is an error of the validator. `Tree.validate` queries the
authority of a zone, passes the reply to `Validator.validate` and performs its effects; `edit` may change a reply before
that.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

from support.signing import NOW

from resolver.effects import Budget, Context, Failure, FailureKind, Need, Outcome, Question, RawReply, Task, Verify
from resolver.playground import authority, zones
from resolver.validate import Validator
from resolver.validate.anchors import Anchors
from resolver.validate.verify import check
from resolver.verdict import Verdict
from resolver.wire import build
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

NEEDS_ALLOWED = 60


class _NoCache:
    """Finds nothing, so that every key and DS is queried."""

    def find(self, *_args: object, **_kwargs: object) -> None:
        return None

    closest_cut = find


class Tree:
    """Zones by origin, each with an authority of its own."""

    def __init__(
        self,
        texts: dict[str, str],
        anchors: list[str],
        *,
        negative: list[str] | None = None,
        sha1: bool = True,
        skew: tuple[int, int] = (0, 0),
    ) -> None:
        self.zones = {names.from_text(o): authority.Authority([zones.Zone.from_text(o, t)]) for o, t in texts.items()}
        self.validator = Validator(Anchors(anchors, negative or ()), sha1=sha1, skew=skew)
        self.edit: Callable[[Question, MessageView, list, list], tuple[int, list, list]] | None = None
        self.now = NOW
        self.needs: list[Question] = []
        self.checks = 0

    def _authoritative_zone(self, question: Question) -> bytes:
        name = names.lower(question.qname)
        if question.qtype == c.DS and name != names.ROOT:
            name = names.parent(name)
        while name not in self.zones:
            name = names.parent(name)
        return name

    def validate(self, qname: str, qtype: int) -> "Validation":
        """Query and validate one question."""
        return self._run(Question(names.from_text(qname), qtype))[0]

    def _run(self, question: Question) -> "tuple[Validation, Outcome]":
        zone = self._authoritative_zone(question)
        query = build.make_query(1, question.qname, question.qtype, edns_payload=4096, do=True)
        packet = self.zones[zone].answer(query, tcp=True)
        assert packet is not None
        view = MessageView.parse(packet)
        rcode, answer, rest = view.rcode, list(view.answer), list(view.authority)
        if self.edit is not None:
            rcode, answer, rest = self.edit(question, view, answer, rest)
        context = Context(SimpleNamespace(rrsets=_NoCache(), denials=None), None, None)  # type: ignore[arg-type]
        context.now = self.now
        task = Task(question, Budget(200, 1e9, 1000))
        raw = _raw(question, rcode, answer, rest, zone)
        steps = self.validator.validate(question, raw, context, task)
        result = None
        while True:
            try:
                effect = steps.send(result)
            except StopIteration as end:
                verdict, ede, text = end.value
                break
            if isinstance(effect, Need):
                self.needs.append(effect.question)
                assert len(self.needs) < NEEDS_ALLOWED, "the validator does not terminate"
                result = self._run(effect.question)[1]
            else:
                assert isinstance(effect, Verify)
                self.checks += len(effect.jobs)
                result = [check(job) for job in effect.jobs]
        failure = Failure(FailureKind.BOGUS, ede, text) if verdict is Verdict.BOGUS else None
        outcome = Outcome(question, raw.rcode, raw.answer, raw.authority, verdict, 60, failure=failure)
        return Validation(verdict, ede, text, raw.answer, raw.rcode), outcome


class Validation(NamedTuple):
    """The validator's result, and the answer, which it may have changed."""

    verdict: Verdict
    ede: int
    text: str
    answer: list
    rcode: int


def _raw(question: Question, rcode: int, answer: list, authority: list, zone: bytes) -> RawReply:
    """What scrubbing makes of a reply whose alias chain, if any, stays inside the zone."""
    raw = RawReply(question.qname, question.qtype)
    raw.rcode, raw.answer, raw.zone = rcode, answer, zone
    links = {names.lower(r.name): r.targets()[0] for r in answer if r.rtype == c.CNAME and question.qtype != c.CNAME}
    at = names.lower(question.qname)
    while at in links:
        at = names.lower(links.pop(at))
    raw.name = at
    raw.soa = next((r for r in authority if r.rtype == c.SOA), None)
    raw.proofs = [r for r in authority if r.rtype in (c.NSEC, c.NSEC3)]
    raw.denied = rcode == c.NXDOMAIN or not any(r.rtype == question.qtype and names.equal(r.name, at) for r in answer)
    return raw
