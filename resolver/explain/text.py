"""An explanation as text for the terminal: result and advice first, then the details as trees.

Colour is used only when requested and never carries meaning alone. Lines are wrapped at 100 columns, but long names are
not broken, so that they can be copied. All text from the network passes through `escape_controls`.
"""

from collections.abc import Iterable, Sequence

from resolver.explain import formats
from resolver.explain.advice import NONE, advise, sentence_of
from resolver.explain.explanation import Check, Delegation, Exchange, Explanation, ZoneTrust, depth_in, question_of
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

__all__ = ["to_text"]

WIDTH = 100
MARGIN = 10
MANY = 4  # most other candidates listed for a query
MARKS = {
    "good": "\u2713",
    "bad": "\u2717",
    "open": "\u25cb",
    "tee": "\u251c\u2500 ",
    "end": "\u2514\u2500 ",
    "bar": "\u2502  ",
    "to": "\u2192",
}
PLAIN = {"good": "+", "bad": "x", "open": "o", "tee": "|- ", "end": "`- ", "bar": "|  ", "to": "->"}
COLOURS = {"good": "32", "bad": "31", "open": "33", "dim": "2", "bold": "1", "head": "1;36"}


def to_text(explanation: Explanation, *, colour: bool = False, unicode: bool = True) -> str:
    """The explanation as lines of text; without `unicode`, trees are drawn in ASCII."""
    return _Painter(explanation, colour, unicode).page()


class _Painter:
    """Collects lines. Only `paint` writes escape sequences."""

    def __init__(self, explanation: Explanation, colour: bool, unicode: bool) -> None:
        self.explanation = explanation
        self.colour = colour
        self.marks = MARKS if unicode else PLAIN
        self.lines: list[str] = []

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{COLOURS[style]}m{text}\x1b[0m" if self.colour else text

    def page(self) -> str:
        explanation = self.explanation
        self._head()
        self._server_reply()
        self._answer("ANSWER", explanation.outcome.answer)
        if not explanation.outcome.answer:
            self._answer("AUTHORITY", [r.without_sigs() for r in explanation.outcome.authority if r.rtype == c.SOA])
        self._delegations()
        self._exchanges()
        self._chain()
        self._proofs()
        self._policies()
        self._cache()
        return "\n".join(self.lines) + "\n"

    # --- parts ----------------------------------------------------------------------------------------------------

    def _title(self, text: str, remark: str = "") -> None:
        self.lines += ["", self.paint(text, "head") + (self.paint(f"  {remark}", "dim") if remark else "")]

    def _mark(self, verdict: Verdict) -> str:
        style = {Verdict.SECURE: "good", Verdict.BOGUS: "bad"}.get(verdict, "open")
        return self.paint(self.marks[style], style)

    def _head(self) -> None:
        explanation, outcome = self.explanation, self.explanation.outcome
        advice = advise(explanation)
        good = "good" if explanation.verdict is Verdict.SECURE else "open"
        style = "bad" if explanation.failure is not None else good
        status_text = f", {explanation.verdict.name.lower()}" if explanation.validating else ", not validated"
        word = self.paint(f"{self.marks[style]} {c.rcode_to_text(outcome.rcode)}{status_text}", style)
        count = len(explanation.exchanges)
        self.lines.append(self.paint(question_of(explanation), "bold"))
        self.lines.append(
            f"{word} in {formats.milliseconds(explanation.seconds)}, {count} {_plural('query', count)}, "
            f"{formats.escape_controls(explanation.source)}"
        )
        self.lines.append("")
        self._fact("why", advice.why)
        for code, text in outcome.ede:
            self._fact("error", sentence_of(code, "" if formats.contains_last_clause(advice.why, text) else text))
        if advice.who != NONE:
            self._fact("who", advice.people)
            self._fact("hint", advice.hint)

    def _fact(self, label: str, text: str) -> None:
        rows = _wrapped(formats.escape_controls(text), WIDTH - MARGIN)
        self.lines.append(f"  {self.paint(f'{label:<6}', 'dim')}  {rows[0]}")
        self.lines += [" " * MARGIN + row for row in rows[1:]]

    def _server_reply(self) -> None:
        reply = self.explanation.server_reply
        if reply is None:
            return
        self._title("REPLY OF THE SERVER", "its own resolution is not visible")
        flags = " ".join(formats.flags_of(reply.flags))
        self.lines.append(
            f"  {reply.server} port {reply.port}: {c.rcode_to_text(reply.rcode)}, flags {flags or 'none'}, "
            f"{reply.octets} octets over {reply.transport.upper()} in {formats.milliseconds(reply.seconds)}"
        )
        self.lines += [f"  {self.paint(sentence_of(code, text), 'bad')}" for code, text in reply.ede]
        self.lines += [f"  {formats.escape_controls(note)}" for note in reply.notes]
        self.lines += [
            f"  {names.to_text(r.name)} {r.ttl} {c.type_to_text(r.rtype)} "
            f"{formats.escape_controls(present.rdata_to_text(r.rtype, rdata))}"
            for r in reply.answer
            for rdata in r.rdatas()
        ]

    def _answer(self, title: str, rrsets: Sequence[RRset]) -> None:
        if not rrsets:
            return
        self._title(title)
        for rrset in rrsets:
            mark = self._mark(Verdict(rrset.verdict)) if self.explanation.validating else " "
            for rdata in rrset.rdatas():
                text = formats.escape_controls(present.rdata_to_text(rrset.rtype, rdata))
                self.lines.append(
                    f"  {mark} {names.to_text(rrset.name)} {rrset.ttl} {c.type_to_text(rrset.rtype)} {text}"
                )

    def _delegations(self) -> None:
        if not self.explanation.delegations:
            return
        self._title("DELEGATIONS", "zones, their name servers, and who sent the referral")
        for one in self.explanation.delegations:
            others = (other for other in self.explanation.delegations if other is not one)
            depth = sum(1 for other in others if names.is_subdomain(one.zone, other.zone))
            self._delegation(one, "   " * depth)

    def _delegation(self, one: Delegation, indent: str) -> None:
        source = (
            f"referral from {one.referred_by}, a server of {names.to_text(one.parent)}"
            if one.parent is not None and one.referred_by
            else formats.escape_controls(one.source)
        )
        life = "" if one.ttl is None else f", TTL {formats.duration(one.ttl)}"
        purpose = "" if one.purpose == "client" else f" [{_purpose(one.purpose)}]"
        mark = self.marks["end"] if indent else ""
        self.lines.append(
            f"  {indent[3:]}{mark}{self.paint(names.to_text(one.zone), 'bold')}  "
            + self.paint(f"{source}{life}{purpose}", "dim")
        )
        inner = f"  {indent}   "
        for host in one.hosts:
            known = ", ".join(host.addresses) or "address unknown"
            self.lines.append(f"{inner}NS {names.to_text(host.name) if host.name else '(no name)'} {known}")
        if one.ds:
            self.lines += [
                f"{inner}DS {ds.tag} {formats.algorithm(ds.algorithm)} {formats.digest_type(ds.digest_type)}"
                for ds in one.ds
            ]
        elif one.ds is not None and self.explanation.validating:
            self.lines.append(f"{inner}no DS{', with proof' if one.denial else ''}")

    def _exchanges(self) -> None:
        explanation = self.explanation
        if not explanation.exchanges:
            return
        self._title("QUERIES", "time, server, reason for the choice, and reply")
        for one in explanation.exchanges:
            self._exchange(one)

    def _exchange(self, one: Exchange) -> None:
        style = "good" if one.good else "bad"
        took = "no reply" if one.seconds is None else formats.milliseconds(one.seconds)
        indent = "  " * one.depth
        purpose = "" if one.purpose == "client" else self.paint(f"  [{_purpose(one.purpose)}]", "dim")
        self.lines.append(
            f"  {one.number:>3}  +{one.at * 1000:<8.1f}{indent}{formats.question(one.qname, one.qtype)}{purpose}"
        )
        name = f" {names.to_text(one.name)}" if one.name else ""
        manner = [one.transport]
        manner.append("no EDNS" if one.payload is None else f"EDNS {one.payload}")
        if one.cookie:
            manner.append("cookie")
        result = [self.paint(one.result, style)]
        if one.rcode is not None:
            result.append(c.rcode_to_text(one.rcode))
        if one.octets is not None:
            result.append(f"{one.octets} octets")
        result += formats.flags_of(one.flags)
        pad = " " * 17 + indent
        self.lines.append(
            f"{pad}{self.marks['to']} {one.address}{name}, {', '.join(manner)}: {took}, {', '.join(result)}"
        )
        if not one.good and one.text:
            self.lines.append(f"{pad}  {self.paint(formats.escape_controls(one.text), 'bad')}")
        if one.connection:
            rows = _wrapped(formats.connection(one.connection), WIDTH - len(pad) - 2)
            self.lines += [f"{pad}  {row}" for row in rows]
        self.lines += [f"{pad}  EDE: {sentence_of(code, text)}" for code, text in one.ede]
        others = [
            f"{k.address} {k.state}" + ("" if k.rtt_estimate is None else f" {formats.milliseconds(k.rtt_estimate)}")
            for k in one.candidates
            if k.address != one.address
        ]
        more = f" and {len(others) - MANY} more" if len(others) > MANY else ""
        chosen = f"chosen: {formats.escape_controls(one.why)}"
        if others:
            chosen += f"; others: {', '.join(others[:MANY])}{more}"
        self.lines += [pad + "  " + self.paint(row, "dim") for row in _wrapped(chosen, max(WIDTH - len(pad) - 2, 40))]

    def _chain(self) -> None:
        explanation = self.explanation
        if not explanation.zones:
            return
        self._title("CHAIN OF TRUST", "from the trust anchor to the data")
        for zone in explanation.zones:
            self._zone(zone, "   " * depth_in(explanation.zones, zone))

    def _zone(self, zone: ZoneTrust, indent: str) -> None:
        mark = self.marks["end"] if indent else ""
        origin = "trust anchor" if zone.anchor else "validated before, from the cache" if zone.cached else ""
        note = "; ".join(x for x in (origin, formats.escape_controls(formats.format_durations(zone.text))) if x)
        self.lines.append(
            f"  {indent[3:]}{mark}{self._mark(zone.shown)} {self.paint(names.to_text(zone.zone), 'bold')}"
            + (f"  {note}" if note else "")
        )
        inner = f"  {indent}     "
        for ds in zone.ds:
            self.lines.append(
                f"{inner}{'anchor' if zone.anchor else 'DS '} {ds.tag} {formats.algorithm(ds.algorithm)} "
                f"{formats.digest_type(ds.digest_type)}"
            )
        for key in zone.keys:
            trusted = ", trusted by DS" if key.tag in zone.entry else ""
            self.lines.append(
                f"{inner}key {key.tag} {formats.algorithm(key.algorithm)}, flags {key.flags}, "
                f"{formats.key_role(key.flags)}{trusted}"
            )
        for check in zone.checks:
            self.lines += [inner + row for row in self._check(check)]
        for rrset in zone.denial:
            self.lines.append(f"{inner}no DS, by {c.type_to_text(rrset.rtype)} {names.to_text(rrset.name)}")

    def _check(self, check: Check) -> Iterable[str]:
        what, sig = formats.question(check.owner, check.rtype), check.signature
        if sig is None:
            yield f"{self._mark(check.verdict)} {formats.escape_controls(formats.format_durations(check.text))}"
            return
        yield (
            f"{self._mark(check.verdict)} signature of {what} by key {sig.tag}, {formats.algorithm(sig.algorithm)}, "
            f"{formats.date_time(sig.inception)} to {formats.date_time(sig.expiration)} UTC"
        )
        if check.verdict is not Verdict.SECURE:
            yield "  " + self.paint(formats.escape_controls(formats.format_durations(check.text)), "bad")

    def _proofs(self) -> None:
        if not self.explanation.proofs:
            return
        self._title("PROOFS OF ABSENCE")
        for proof in self.explanation.proofs:
            note = "" if not proof.text else f": {formats.escape_controls(proof.text)}"
            word = {Verdict.BOGUS: "not proved", Verdict.INSECURE: "insecure"}.get(proof.verdict, "proved")
            self.lines.append(f"  {self._mark(proof.verdict)} {proof.what}: {word}{note}")
            for rrset in proof.records:
                for rdata in rrset.rdatas():
                    text = formats.escape_controls(present.rdata_to_text(rrset.rtype, rdata))
                    self.lines.append(f"      {names.to_text(rrset.name)} {c.type_to_text(rrset.rtype)} {text}")

    def _policies(self) -> None:
        decided = [step for step in self.explanation.steps if step.kind == "policy" and step.qname is not None]
        if not decided:
            return
        self._title("POLICY")
        for step in decided:
            assert step.qname is not None
            self.lines.append(f"  {formats.question(step.qname, step.qtype)}: {formats.escape_controls(step.text)}")

    def _cache(self) -> None:
        if not self.explanation.cache:
            return
        self._title("FROM THE CACHE")
        for use in self.explanation.cache:
            status_text = "" if use.verdict is None else f", {formats.status_text(use.verdict)}"
            self.lines.append(
                f"  {formats.question(use.qname, use.qtype)}: {formats.escape_controls(use.text)}"
                f" ({use.records} {_plural('record', use.records)}{status_text})"
            )


def _purpose(purpose: str) -> str:
    return {
        "dnssec": "for validation",
        "ns_address": "address of a name server",
        "priming": "root servers",
        "prefetch": "prefetch",
    }.get(purpose, purpose)


def _plural(word: str, count: int) -> str:
    if count == 1:
        return word
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width`, broken at blanks only."""
    rows = [""]
    for word in text.split(" "):
        if rows[-1] and len(rows[-1]) + 1 + len(word) > width:
            rows.append(word)
        else:
            rows[-1] = f"{rows[-1]} {word}" if rows[-1] else word
    return rows
