"""The trace of ``corenet get``: each step as a line of text, as JSON, or as a page with a waterfall.

The page has no scripts and refers to nothing outside itself. What servers and names contribute to it is escaped.
"""

import html
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from corenet.http.cli_output import printable
from corenet.http.trace import DONE, FAILED, STARTED, TracePoint

__all__ = ["Recorder"]

# The colours have a contrast of 3:1 or more on both backgrounds. On a narrow screen each step is a separate block.
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #ddd; --faint: #595959; --bad: #b3261e }
@media (prefers-color-scheme: dark) {
 :root { --ink: #e4e4e4; --paper: #17191c; --line: #3a3d42; --faint: #a8a8a8; --bad: #f28b82 }
}
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; color: var(--ink); background: var(--paper) }
h1 { font-size: 1.2em } h1, li { overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
th, td { text-align: left; padding: 3px 8px; border-bottom: 1px solid var(--line); vertical-align: top }
td.d { overflow-wrap: anywhere; white-space: pre-wrap }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; width: 5.5em }
th.s { width: 5.5em } th.d { width: 38% }
th.w span { float: right; font-weight: normal; color: var(--faint) }
.bar { height: 1em; min-width: 2px; max-width: 100%; border-radius: 2px; background: #4878a8 }
.dns, .resolver { background: #6f8f2f } .connect { background: #b8741a } .proxy { background: #808080 }
.tls { background: #8c62a8 } .response { background: #2a857b } .failed { background: var(--bad) }
td.bad { color: var(--bad) }
@media (max-width: 45em) {
 body { margin: 1em }
 thead { display: none }
 table, tbody { display: block }
 tr { display: grid; grid-template-columns: 1fr auto auto; padding: 4px 0; border-bottom: 1px solid var(--line) }
 td { border: 0; padding: 0 } td.n { width: auto; padding-left: 1em; color: var(--faint) }
 td.n:empty { display: none }
 td.n:not(:empty)::after { content: " ms" } td.s { font-weight: 600 }
 td.d, td.w { order: 1; grid-column: 1 / -1 }
}
"""
# The kinds of a resolver's steps that begin and end a query.
_QUERY, _REPLY = "ask", "reply"


class Recorder:
    """Takes the points of a trace and writes them in `form` (text, json, html) to the file `path` or to stderr.

    Text is written at once, the other forms by `finish`. Times are printed in milliseconds since `began`, a time of the
    loop's clock; JSON has seconds.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, form: str, path: str | None, began: float) -> None:
        self._form = form
        self._began = began
        self._points: list[TracePoint] = []
        self._file: TextIO | None = None if path is None else Path(path).open("w", encoding="utf-8")

    def __call__(self, point: TracePoint) -> None:
        if self._form == "text":
            self._write(f"{self._offset(point.time):9.2f} ms  {printable(str(point))}\n")
        else:
            self._points.append(point)

    def finish(self, now: float, results: "Sequence[tuple[str, str]]") -> None:
        """Write what is left and close the file; `results` has each URL and how it ended, `now` is the end."""
        summary = "status " + ",".join(result.partition(" ")[0] for _, result in results)
        if self._form == "text":
            self._write(f"{self._offset(now):9.2f} ms  finished, {summary}\n")
        elif self._form == "json":
            points = [
                {"time": round((point.time - self._began), 6), "step": point.name, "phase": point.phase,
                 **{key: _plain(value) for key, value in point.details.items()}}
                for point in self._points
            ]
            urls = [url for url, _ in results]
            record = {"urls": urls, "result": summary, "seconds": round(now - self._began, 6), "points": points}
            self._write(json.dumps(record, indent=1) + "\n")
        else:
            self._write(page(self._points, self._began, now, results))
        if self._file is not None:
            self._file.close()

    def _offset(self, time: float) -> float:
        return (time - self._began) * 1000

    def _write(self, text: str) -> None:
        file = self._file or sys.stderr
        if file is not None:  # else `print` would write among the bodies
            print(text, end="", file=file)


@dataclass(slots=True)
class _Row:
    """One step of the waterfall; times in seconds of the loop's clock."""

    name: str
    start: float
    end: float
    failed: bool
    details: str


def page(points: Sequence[TracePoint], began: float, ended: float, results: "Sequence[tuple[str, str]]") -> str:
    """The waterfall as an HTML document; `results` has each URL and how it ended."""
    rows = _rows(points, ended)
    # Including the preparation before the first step (our own resolver, the trust store) would make all bars too short.
    first = min((row.start for row in rows), default=began)
    span = max([ended, *(row.end for row in rows)]) - first or 1.0
    title = _text(results[0][0] if len(results) == 1 else f"{len(results)} URLs")
    items = "".join(f"<li>{_text(url)}: {_text(result)}</li>" for url, result in results)
    lines = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Trace of {title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Trace of {title}</h1><ul>{items}</ul>",
        '<table><thead><tr><th class="s">step</th><th class="d">details</th><th class="n">at, ms</th>'
        f'<th class="n">took, ms</th><th class="w">0 ms <span>{span * 1000:.1f} ms</span></th></tr></thead><tbody>',
    ]
    for row in rows:
        left, width = (row.start - first) / span * 100, (row.end - row.start) / span * 100
        kind = html.escape(row.name, quote=True) + (" failed" if row.failed else "")
        took = f"{(row.end - row.start) * 1000:.1f}" if row.end > row.start else ""
        lines.append(
            f'<tr><td class="s">{_text(row.name)}</td>'
            f'<td class="d{" bad" if row.failed else ""}">{_text(row.details)}</td>'
            f'<td class="n">{(row.start - first) * 1000:.1f}</td><td class="n">{took}</td>'
            # 99.5: the bar of a point at the very end would begin outside.
            f'<td class="w"><div class="bar {kind}" '
            f'style="margin-left:{min(left, 99.5):.2f}%;width:{width:.2f}%"></div></td></tr>'
        )
    lines.append("</tbody></table></body></html>\n")
    return "\n".join(lines)


def _text(text: str) -> str:
    return html.escape(printable(text))


def _rows(points: Sequence[TracePoint], ended: float) -> list[_Row]:
    """The steps in the order of their starts. A step is a start and the next end of the same name, or a point alone."""
    rows: list[_Row] = []
    unfinished: dict[str, _Row] = {}
    for point in points:
        details = "  ".join(f"{key}={value}" for key, value in point.details.items())
        if point.phase == STARTED:
            row = _Row(point.name, point.time, ended, False, details)
            rows.append(row)
            unfinished[point.name] = row
        elif point.phase in (DONE, FAILED) and point.name in unfinished:
            row = unfinished.pop(point.name)
            row.end, row.failed = point.time, point.phase == FAILED
            row.details = f"{row.details}  {details}".strip()
            if row.failed:
                row.details = f"failed: {row.details}"
        elif point.name == "resolver":
            _add_step(rows, unfinished, point)
        else:
            failed = point.phase == FAILED
            rows.append(_Row(point.name, point.time, point.time, failed, f"{point.phase} {details}".strip()))
    return sorted(rows, key=lambda row: row.start)


def _add_step(rows: list[_Row], unfinished: dict[str, _Row], point: TracePoint) -> None:
    """Add a step of the resolver, a line of text that begins with its kind; a reply ends the query of its depth."""
    text = str(point.details.get("what", point.phase))
    indent = text[: len(text) - len(text.lstrip())]
    kind, _, rest = text.strip().partition(": ")
    if kind == _REPLY and (query := unfinished.pop(indent + _QUERY, None)) is not None:
        query.end = point.time
        query.details += f" → {rest}"
        return
    row = _Row(point.name, point.time, point.time, False, text)
    rows.append(row)
    if kind == _QUERY:
        unfinished[indent + _QUERY] = row


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
