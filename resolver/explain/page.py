"""An explanation as one self-contained HTML page, without scripts and external resources.

The chain of trust is a tree of zones with SVG links; the timeline has an SVG bar for each query. Every text passes
through `_t`, which escapes it, because names and errors come from the network. As a second line of defence, the page
has a Content-Security-Policy (``default-src 'none'``). SVG draws lines and bars only; text is HTML, so that long names
wrap on a narrow screen.
"""

from collections.abc import Iterable, Sequence
from html import escape

from resolver.explain import formats
from resolver.explain.advice import NONE, advise, sentence_of
from resolver.explain.explanation import Check, Delegation, Exchange, Explanation, ZoneTrust, question_of
from resolver.explain.style import STYLE
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

__all__ = ["to_page"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
TONES = {Verdict.SECURE: "good", Verdict.BOGUS: "bad"}
DISC = '<circle cx="10" cy="10" r="9" fill="currentColor" opacity=".16"/>'
SHAPES = {
    "good": DISC + '<path d="M5.5 10.4l3 3 6-6.6" fill="none" '
            'stroke="currentColor" stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round"/>',
    "bad": DISC + '<path d="M6.4 6.4l7.2 7.2M13.6 6.4l-7.2 7.2" '
           'fill="none" stroke="currentColor" stroke-width="2.2" stroke-linecap="round"/>',
    "open": DISC + '<path d="M6.3 10h7.4" fill="none" '
            'stroke="currentColor" stroke-width="2.2" stroke-linecap="round"/>',
}  # fmt: skip
LABELS = {"good": "valid", "bad": "bogus", "open": "without proof"}
SPAN = 1000  # units across the timeline
LEAST = 4  # units: width of the shortest bar
TICKS = 5


def to_page(explanation: Explanation) -> str:
    """The explanation as an HTML document."""
    title = f"{question_of(explanation)}: {c.rcode_to_text(explanation.outcome.rcode)}"
    parts = (_head, _server_reply, _answer, _chain, _timeline, _delegations, _proofs, _cache, _steps)
    body = "".join(part(explanation) for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_t(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}"
        f"<footer>Resolved at {formats.date_time(explanation.now)} UTC by rdig, {_t(explanation.source)}.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _t(text: str) -> str:
    """`text` escaped for elements and attributes."""
    return escape(formats.escape_controls(text))


def _name(name: bytes | None) -> str:
    return "" if name is None else f'<span class="mono">{_t(names.to_text(name))}</span>'


def _tone(verdict: Verdict) -> str:
    return TONES.get(verdict, "open")


def _mark(tone: str) -> str:
    return f'<svg class="mark" viewBox="0 0 20 20" role="img" aria-label="{LABELS[tone]}">{SHAPES[tone]}</svg>'


def _section(title: str, remark: str, body: str) -> str:
    return f"<section><h2>{title} <small>{remark}</small></h2>{body}</section>\n" if body else ""


# --- result -------------------------------------------------------------------------------------------------------


def _head(explanation: Explanation) -> str:
    outcome, question = explanation.outcome, explanation.outcome.question
    advice = advise(explanation)
    tone = "bad" if explanation.failure is not None else _tone(explanation.verdict)
    status_text = explanation.verdict.name.lower() if explanation.validating else "not validated"
    tried = sum(1 for check in explanation.checks if check.key is not None)
    pills = [
        f'<li class="pill main">{_t(c.rcode_to_text(outcome.rcode))}, {status_text}</li>',
        f'<li class="pill">{formats.milliseconds(explanation.seconds)}</li>',
        f'<li class="pill">{_count(len(explanation.exchanges), "query", "queries")}</li>',
        f'<li class="pill">{_count(tried, "signature check", "signature checks")}</li>',
        *('<li class="pill">from the cache</li>' for _ in range(not explanation.exchanges and outcome.from_cache)),
        *('<li class="pill">expired data</li>' for _ in range(outcome.stale)),
    ]
    rows = [f'<dt>Why</dt><dd class="why">{_t(advice.why)}</dd>']
    rows += [
        f"<dt>Error</dt>"
        f"<dd>{_t(sentence_of(code, '' if formats.contains_last_clause(advice.why, text) else text))}</dd>"
        for code, text in outcome.ede
    ]
    if advice.who != NONE:
        rows += [f"<dt>Who</dt><dd>{_t(advice.people)}</dd>", f"<dt>Hint</dt><dd>{_t(advice.hint)}</dd>"]
    return (
        f'<section class="card head {tone}"><h1>{_t(names.to_text(question.qname))} '
        f'<small>{_t(c.type_to_text(question.qtype))}</small></h1><ul class="facts">{"".join(pills)}</ul>'
        f'<dl class="advice">{"".join(rows)}</dl></section>\n'
    )


def _server_reply(explanation: Explanation) -> str:
    reply = explanation.server_reply
    if reply is None:
        return ""
    texts = [
        f"{c.rcode_to_text(reply.rcode)}, flags {' '.join(formats.flags_of(reply.flags)) or 'none'}, {reply.octets} "
        f"octets over {reply.transport.upper()} in {formats.milliseconds(reply.seconds)}"
    ]
    texts += [sentence_of(code, text) for code, text in reply.ede] + reply.notes
    lines = "".join(f"<p>{_t(line)}</p>" for line in texts)
    rows = _rows(reply.answer, marks=False)
    table = f"<table><tbody>{rows}</tbody></table>" if rows else ""
    return _section(
        f"Reply of {_t(reply.server)} port {reply.port}",
        "its own resolution is not visible",
        f'<div class="card">{lines}{table}</div>',
    )


def _answer(explanation: Explanation) -> str:
    rows = _rows(explanation.outcome.answer, marks=explanation.validating)
    table = (
        f'<div class="card"><table><thead><tr><th></th><th>Name</th><th>TTL</th><th>Type</th><th>Data</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return _section("Answer", "", table if rows else "")


def _rows(rrsets: Iterable[RRset], *, marks: bool) -> str:
    made = []
    for rrset in rrsets:
        tone = _tone(Verdict(rrset.verdict))
        mark = f'<td class="fixed {tone}">{_mark(tone)}</td>' if marks else "<td></td>"
        for rdata in rrset.rdatas():
            text = present.rdata_to_text(rrset.rtype, rdata)
            made.append(
                f'<tr>{mark}<td>{_name(rrset.name)}</td><td class="fixed">{rrset.ttl}</td><td class="fixed">'
                f'{_t(c.type_to_text(rrset.rtype))}</td><td class="mono">{_t(text)}</td></tr>'
            )
    return "".join(made)


# --- the chain of trust -------------------------------------------------------------------------------------------


def _chain(explanation: Explanation) -> str:
    tree = _branch(list(explanation.zones), None)
    return _section(
        "Chain of trust", "from the trust anchor to the data", f'<ul class="branch">{tree}</ul>' if tree else ""
    )


def _branch(zones: Sequence[ZoneTrust], parent: ZoneTrust | None) -> str:
    """The zones directly below `parent`, each with its subtree; `zones` are in canonical order, parents first."""
    made = []
    left = list(zones)
    while left:
        zone = left.pop(0)
        below = [other for other in left if names.is_subdomain(other.zone, zone.zone)]
        left = [other for other in left if other not in below]
        inner = _branch(below, zone)
        link = "" if parent is None else _link(zone, last=not left)
        made.append(f"<li>{link}{_zone(zone)}{f'<ul class=branch>{inner}</ul>' if inner else ''}</li>")
    return "".join(made)


def _link(zone: ZoneTrust, *, last: bool) -> str:
    """The line from the parent to a zone: solid with a DS, dashed without."""
    tone = _tone(zone.shown)
    style = f"--stroke: var(--{tone})"
    rail = (
        ""
        if last
        else (
            '<svg class="rail" preserveAspectRatio="none" viewBox="0 0 2 10" aria-hidden="true">'
            '<path d="M1 0V10" stroke="var(--line)" stroke-width="2"/></svg>'
        )
    )
    dashed = "" if zone.ds and zone.shown is Verdict.SECURE else " dashed"
    return (
        f'{rail}<svg class="link{dashed}" viewBox="0 0 28 35" preserveAspectRatio="none" style="{style}" '
        'aria-hidden="true"><path class="line" d="M1 0V22Q1 29 9 29H22"/><path class="tip" d="M20 24l8 5-8 5z"/></svg>'
    )


def _zone(zone: ZoneTrust) -> str:
    tone = _tone(zone.shown)
    origin = (
        "trust anchor"
        if zone.anchor
        else "validated before, from the cache"
        if zone.cached
        else "DS at the parent"
        if zone.ds
        else ""
    )
    repeated = any(check.text == zone.text for check in zone.checks)
    note = f'<p class="note">{_t(formats.format_durations(zone.text))}</p>' if zone.text and not repeated else ""
    word = "anchor" if zone.anchor else "DS"
    chips = [
        f'<li class="chip mono">{word} <b>{ds.tag}</b> {_t(formats.algorithm(ds.algorithm))} '
        f"{_t(formats.digest_type(ds.digest_type))}</li>"
        for ds in zone.ds
    ]
    for key in zone.keys:
        entry = " entry" if key.tag in zone.entry else ""
        chips.append(
            f'<li class="chip mono{entry}">key <b>{key.tag}</b> {_t(formats.algorithm(key.algorithm))}, flags '
            f"{key.flags}, {formats.key_role(key.flags)}</li>"
        )
    denial = "".join(
        f'<li class="chip mono">no DS, by {c.type_to_text(r.rtype)} {_t(names.to_text(r.name))}</li>'
        for r in zone.denial
    )
    sigs = "".join(_check(check) for check in zone.checks)
    return (
        f'<div class="card zone {tone}"><header>{_mark(tone)}<b class="mono">{_t(names.to_text(zone.zone))}</b>'
        f"<span>{origin}</span></header>{note}"
        + (f'<ul class="chips">{"".join(chips)}{denial}</ul>' if chips or denial else "")
        + (f'<ul class="sigs">{sigs}</ul>' if sigs else "") + "</div>"
    )  # fmt: skip


def _check(check: Check) -> str:
    tone, sig = _tone(check.verdict), check.signature
    what = f"<b>{_name(check.owner)} {_t(c.type_to_text(check.rtype))}</b>"
    if sig is None:
        detail = f"<em>{_t(formats.format_durations(check.text))}</em>"
    else:
        detail = (
            f"<small>signed by key {sig.tag}, {_t(formats.algorithm(sig.algorithm))}, "
            f"valid {formats.date_time(sig.inception)} to {formats.date_time(sig.expiration)} UTC</small>"
        )
        if check.verdict is not Verdict.SECURE:
            detail += f"<em>{_t(formats.format_durations(check.text))}</em>"
    return f'<li class="{tone}">{_mark(tone)}<div>{what} {detail}</div></li>'


# --- the timeline -------------------------------------------------------------------------------------------------


def _timeline(explanation: Explanation) -> str:
    if not explanation.exchanges:
        return ""
    end = max([explanation.seconds, *(one.at + (one.seconds or 0) for one in explanation.exchanges), 1e-6])
    legend = "".join(
        '<span><svg viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="2" '
        f'class="bar-{kind}"/></svg> '
        f"{word}</span>"
        for kind, word in (("udp", "UDP"), ("tcp", "TCP"), ("bad", "no usable reply"))
    )
    rows = "".join(_line(one, end) for one in explanation.exchanges)
    remark = "all upstream queries; open a line for the reason of the choice of the server"
    return _section(
        "Timeline", remark, f'<div class="card times"><p class="legend">{legend}</p>{_axis(end)}{rows}</div>'
    )


def _axis(end: float) -> str:
    marks = []
    for tick in range(TICKS):
        at = 100 * tick / (TICKS - 1)
        anchor = "start" if tick == 0 else "end" if tick == TICKS - 1 else "middle"
        marks.append(
            f'<text x="{at:g}%" y="13" text-anchor="{anchor}">'
            f"{formats.milliseconds(end * at / 100) if tick else 0}</text>"
        )
    return (
        f'<div class="line axis"><div class="what"></div><div class="draw"><svg aria-hidden="true">{"".join(marks)}'
        "</svg></div><div></div></div>"
    )


def _line(one: Exchange, end: float) -> str:
    tone = "good" if one.good else "bad"
    kind = "bad" if not one.good else "tcp" if one.tcp else "udp"
    left = min(one.at / end, 1) * SPAN
    width = max(((end - one.at) if one.seconds is None else one.seconds) / end * SPAN, LEAST)
    left = min(left, SPAN - LEAST)
    width = min(width, SPAN - left)
    lines = "".join(
        f'<path class="grid" d="M{SPAN * t / (TICKS - 1):g} 0V27" vector-effect="non-scaling-stroke"/>'
        for t in range(TICKS)
    )
    took = "no reply" if one.seconds is None else formats.milliseconds(one.seconds)
    server = f"{_t(one.address)}{f' ({_name(one.name)})' if one.name else ''}"
    result = one.result if one.rcode is None else f"{one.result}, {c.rcode_to_text(one.rcode)}"
    label = _t(f"{formats.question(one.qname, one.qtype)} to {one.address}: {took}, {result}")
    return (
        f'<details class="{tone}"><summary class="line" style="--depth: {min(one.depth, 6)}"><div class="what">'
        f"{_name(one.qname)} {_t(c.type_to_text(one.qtype))}<small>{server}</small></div>"
        f'<div class="draw"><svg viewBox="0 0 {SPAN} 27" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<title>{label}</title>{lines}<rect class="bar-{kind}" x="{left:.1f}" y="7" width="{width:.1f}" '
        f'height="13" rx="3"/></svg></div><div class="took">{took}<small>{_t(one.result)}</small></div></summary>'
        f"{_exchange_details(one)}</details>"
    )


def _exchange_details(one: Exchange) -> str:
    manner = [one.transport, "no EDNS" if one.payload is None else f"EDNS {one.payload}"]
    manner += ["DNS cookie"] if one.cookie else []
    reply = [] if one.rcode is None else [c.rcode_to_text(one.rcode)]
    reply += [] if one.octets is None else [f"{one.octets} octets"]
    reply += formats.flags_of(one.flags)
    rows = [
        f"Chosen: {_t(one.why)}; a server of {_name(one.zone)}, at {formats.milliseconds(one.at)}, {', '.join(manner)}."
    ]
    rows += [f"Reply: {_t(', '.join(reply))}."] if reply else []
    rows += [f"Connection: {_t(formats.connection(one.connection))}."] if one.connection else []
    rows += [f"{_t(one.text)}."] if not one.good and one.text else []
    rows += [f"Extended error: {_t(sentence_of(code, text))}" for code, text in one.ede]
    others = [
        f"{_t(k.address)} {k.state}" + ("" if k.rtt_estimate is None else f" {formats.milliseconds(k.rtt_estimate)}")
        for k in one.candidates
        if k.address != one.address
    ]
    rows += [f"Others: {', '.join(others)}."] if others else []
    return "".join(f"<p>{row}</p>" for row in rows)


# --- the rest -----------------------------------------------------------------------------------------------------


def _delegations(explanation: Explanation) -> str:
    rows = "".join(_delegation(one) for one in explanation.delegations)
    head = "<thead><tr><th>Zone</th><th>Referral from</th><th>Name servers and addresses</th><th>DS</th></tr></thead>"
    body = f'<div class="card"><table class="cuts">{head}<tbody>{rows}</tbody></table></div>' if rows else ""
    return _section("Delegations", "zones, their name servers, and who sent the referral", body)


def _delegation(one: Delegation) -> str:
    source = (
        _t(one.source)
        if one.parent is None or one.referred_by is None
        else f'{_t(one.referred_by)}<br><span class="quiet">a server of {_name(one.parent)}</span>'
    )
    hosts = "<br>".join(
        f"{_name(host.name)} {_t(', '.join(host.addresses) or 'address unknown')}" for host in one.hosts
    )
    if one.ds:
        ds = "<br>".join(f"{d.tag} {_t(formats.algorithm(d.algorithm))}" for d in one.ds)
    else:
        ds = "" if one.ds is None else "none" + (", with proof" if one.denial else "")
    return f"<tr><td><b>{_name(one.zone)}</b></td><td>{source}</td><td>{hosts}</td><td>{ds}</td></tr>"


def _proofs(explanation: Explanation) -> str:
    made = []
    for proof in explanation.proofs:
        tone = _tone(proof.verdict)
        word = {"bad": "not proved", "open": "insecure"}.get(tone, "proved")
        note = f'<p class="note">{_t(proof.text)}</p>' if proof.text else ""
        made.append(
            f'<div class="card zone {tone}"><header>{_mark(tone)}<b>{_t(proof.what)}</b><span>{word}</span></header>'
            f"{note}<table><tbody>{_rows(proof.records, marks=False)}</tbody></table></div>"
        )
    return _section("Proofs of absence", "NSEC and NSEC3 records and what they prove", "".join(made))


def _cache(explanation: Explanation) -> str:
    rows = "".join(
        f"<tr><td>{_name(use.qname)} {_t(c.type_to_text(use.qtype))}</td><td>{_t(use.text)}</td>"
        f"<td>{'' if use.verdict is None else formats.status_text(use.verdict)}</td></tr>"
        for use in explanation.cache
    )
    return _section(
        "From the cache", "data that needed no query", f'<div class="card"><table>{rows}</table></div>' if rows else ""
    )


def _steps(explanation: Explanation) -> str:
    rows = "".join(
        f'<li style="--depth: {min(step.depth, 6)}"><span>{_t(step.kind)}</span><span>{_t(step.text)}</span></li>'
        for step in explanation.steps
    )
    body = (
        f'<details class="card"><summary>{_count(len(explanation.steps), "step", "steps")} in order'
        f'</summary><ol class="steps">{rows}</ol></details>'
    )
    return _section("Every step", "", body if rows else "")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
