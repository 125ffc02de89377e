"""The output of `rdig`: a long form similar to dig, a short form, and JSON.

Pure functions from values to text, no I/O. Equal values give equal text, and columns are aligned within a section.
Times and sizes are on the last line only, as in dig, so that a comparison can omit them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from resolver.effects import Reply, TraceStep
from resolver.explain.formats import connection, connection_values, escape_controls
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

__all__ = ["EdnsReport", "Report", "ede_sentence", "long_text", "short_text", "to_json", "trace_text"]

FLAG_WORDS = ((c.QR, "qr"), (c.AA, "aa"), (c.TC, "tc"), (c.RD, "rd"), (c.RA, "ra"), (c.AD, "ad"), (c.CD, "cd"))
SECTIONS = ((c.ANSWER, "ANSWER"), (c.AUTHORITY, "AUTHORITY"), (c.ADDITIONAL, "ADDITIONAL"))
KIND_WIDTH = 8
COLUMN_LIMIT = 40  # longer owner names do not widen the column


@dataclass(frozen=True, slots=True)
class EdnsReport:
    """The OPT record of a reply. `options` are (code, value) without the Extended DNS Errors."""

    version: int
    payload: int
    do: bool
    options: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One answered query, by a server or by iteration in this program."""

    qname: bytes
    qtype: int
    qclass: int
    rcode: int
    flags: int
    sections: dict[int, Sequence[RRset]]
    source: str
    """The source of the answer: an address with port and transport, or "iteration"."""
    milliseconds: float
    octets: int | None = None
    message_id: int | None = None
    edns: EdnsReport | None = None
    ede: Sequence[tuple[int, str]] = ()
    verdict: str | None = None
    connection: dict[str, Any] | None = None
    """An encrypted connection: version, certificate, times and so on."""
    notes: Sequence[str] = field(default_factory=tuple)
    """Remarks, such as a retry over TCP or an ignored reply."""


def long_text(report: Report, *, signatures: bool = True) -> str:
    """The whole answer in a form similar to dig."""
    number = "" if report.message_id is None else f", id: {report.message_id}"
    lines = [f";; status: {c.rcode_to_text(report.rcode)}{number}"]
    words = [word for mask, word in FLAG_WORDS if report.flags & mask]
    counts = ", ".join(
        f"{title.lower()} {sum(len(rrset) for rrset in report.sections.get(section, ()))}"
        for section, title in SECTIONS
    )
    flags = f"flags: {' '.join(words)}; " if words else ""
    lines.append(f";; {flags}records: {counts}")
    if report.verdict is not None:
        lines.append(f";; dnssec: {report.verdict}")
    if report.edns is not None:
        lines.append(_edns_line(report.edns))
    lines += [f";; EDE: {ede_sentence(code, text)}" for code, text in report.ede]
    if report.connection is not None:
        lines.append(f";; connection: {connection(report.connection)}")
    lines += [f";; note: {escape_controls(note)}" for note in report.notes]
    lines += ["", ";; QUESTION", f";{_question(report)}"]
    for section, title in SECTIONS:
        rows = list(_rows(report.sections.get(section, ()), signatures=signatures))
        if rows:
            lines += ["", f";; {title}", *_aligned(rows)]
    size = "" if report.octets is None else f", {report.octets} octets"
    lines += ["", f";; from {report.source} in {_milliseconds(report.milliseconds)}{size}"]
    return "\n".join(lines) + "\n"


def short_text(report: Report) -> str:
    """The rdata of the answer section, one record per line, including aliases, as ``dig +short``."""
    return "".join(f"{row[4]}\n" for row in _rows(report.sections.get(c.ANSWER, ()), signatures=False))


def trace_text(steps: Iterable[TraceStep]) -> str:
    """The steps of a resolution, numbered, and indented by the depth of the sub-query."""
    lines = [";; TRACE"]
    for number, step in enumerate(steps, 1):
        text = escape_controls(step.text)
        lines.append(f"{number:>4}  {'  ' * step.depth}{step.kind:<{KIND_WIDTH}}  {text}{_details(step)}")
    return "\n".join(lines) + "\n\n"


def to_json(report: Report, *, signatures: bool = True, steps: Iterable[TraceStep] | None = None) -> str:
    """One JSON object on one line, with keys in a fixed order and names with their final dot."""
    value: dict[str, object] = {
        "question": {
            "name": names.to_text(report.qname),
            "class": c.class_to_text(report.qclass),
            "type": c.type_to_text(report.qtype),
        },
        "status": c.rcode_to_text(report.rcode),
        "flags": [word for mask, word in FLAG_WORDS if report.flags & mask],
        "dnssec": report.verdict,
        "ede": [{"code": code, "name": c.ede_to_text(code), "text": text} for code, text in report.ede],
    }
    for section, title in SECTIONS:
        value[title.lower()] = [
            {"name": owner, "ttl": int(ttl), "class": rclass, "type": rtype, "data": data}
            for owner, ttl, rclass, rtype, data in _rows(report.sections.get(section, ()), signatures=signatures)
        ]
    value["edns"] = (
        None
        if report.edns is None
        else {
            "version": report.edns.version,
            "payload": report.edns.payload,
            "do": report.edns.do,
            "options": [{"code": code, "data": data.hex()} for code, data in report.edns.options],
        }
    )
    value["connection"] = None if report.connection is None else connection_values(report.connection)
    value["notes"] = list(report.notes)
    value["source"] = report.source
    value["milliseconds"] = round(report.milliseconds, 2)
    value["octets"] = report.octets
    if steps is not None:
        value["trace"] = [_step(step) for step in steps]
    return json.dumps(value, ensure_ascii=False)


def ede_sentence(code: int, text: str) -> str:
    """An Extended DNS Error as text: ``No Reachable Authority (22): "all servers timed out"``."""
    return f"{c.ede_to_text(code)} ({code})" + (f": {escape_controls(text)}" if text else "")


# --- helpers --------------------------------------------------------------------------------------------------------


def _milliseconds(value: float) -> str:
    """Milliseconds as text, with more digits below 1 ms."""
    return f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def _details(step: TraceStep) -> str:
    """Details not in the text of a step: the query as sent (QNAME minimisation), server name and time."""
    parts = []
    if step.kind == "ask" and step.qname is not None:
        parts.append(f"{names.to_text(step.qname)} {c.type_to_text(step.qtype)}")
    if step.kind == "ask" and step.server is not None and step.server.name is not None:
        parts.append(f"known as {names.to_text(step.server.name)}")
    if step.rcode is not None:
        parts.append(c.rcode_to_text(step.rcode))
    if step.rtt is not None:
        parts.append(_milliseconds(step.rtt * 1000))
    reply = (step.facts or {}).get("reply")
    if isinstance(reply, Reply) and reply.connection is not None:
        parts.append(connection(reply.connection.describe()))
    return f"  [{', '.join(parts)}]" if parts else ""


def _step(step: TraceStep) -> dict[str, object]:
    server = step.server
    return {
        "kind": step.kind,
        "depth": step.depth,
        "text": step.text,
        "zone": None if step.zone is None else names.to_text(step.zone),
        "name": None if step.qname is None else names.to_text(step.qname),
        "type": c.type_to_text(step.qtype) if step.qtype else None,
        "server": None if server is None else server.address,
        "server_name": None if server is None or server.name is None else names.to_text(server.name),
        "rcode": None if step.rcode is None else c.rcode_to_text(step.rcode),
        "milliseconds": None if step.rtt is None else round(step.rtt * 1000, 2),
    }


def _question(report: Report) -> str:
    return f"{names.to_text(report.qname)} {c.class_to_text(report.qclass)} {c.type_to_text(report.qtype)}"


def _edns_line(edns: EdnsReport) -> str:
    parts = [f"version {edns.version}", f"payload {edns.payload}", *(("do",) if edns.do else ())]
    for code, data in edns.options:
        if code == c.OPTION_PADDING:
            shown = f"{len(data)} octets"
        else:
            shown = escape_controls(data.decode("ascii")) if code == c.OPTION_NSID and data.isascii() else data.hex()
        parts.append(f"{c.option_to_text(code)} {shown}")
    return f";; edns: {', '.join(parts)}"


def _rows(rrsets: Iterable[RRset], *, signatures: bool) -> Iterable[tuple[str, str, str, str, str]]:
    for rrset in rrsets:
        owner, ttl, rclass = names.to_text(rrset.name), str(rrset.ttl), c.class_to_text(rrset.rclass)
        for rdata in rrset.rdatas():
            yield owner, ttl, rclass, c.type_to_text(rrset.rtype), present.rdata_to_text(rrset.rtype, rdata)
        for rdata in rrset.sigs() if signatures else ():
            yield owner, ttl, rclass, "RRSIG", present.rdata_to_text(c.RRSIG, rdata)


def _aligned(rows: Sequence[tuple[str, str, str, str, str]]) -> list[str]:
    widths = [max((len(row[i]) for row in rows if len(row[i]) <= COLUMN_LIMIT), default=COLUMN_LIMIT) for i in range(4)]
    return [
        f"{owner:<{widths[0]}}  {ttl:>{widths[1]}}  {rclass:<{widths[2]}}  {rtype:<{widths[3]}}  {data}"
        for owner, ttl, rclass, rtype, data in rows
    ]
