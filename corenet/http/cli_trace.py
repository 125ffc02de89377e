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

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #1c1c1c; background: #fff }
h1 { font-size: 1.2em; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
th, td { text-align: left; padding: 3px 8px; border-bottom: 1px solid #ddd }
th, td { vertical-align: top; overflow-wrap: anywhere }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; width: 6em }
th.s { width: 7em } th.d { width: 32% }
td.w { position: relative }
.bar { height: 1em; min-width: 2px; border-radius: 2px; background: #4878a8 }
.dns, .resolver { background: #7a9a3a } .connect { background: #c07f2c } .proxy { background: #8a8a8a }
.tls { background: #8c62a8 } .response { background: #2f8a80 } .failed { background: #c0392b }
"""


class Recorder:
    """Takes the points of a trace and writes them in `form` (text, json, html) to the file `path` or to stderr.

    Text is written at once, the others by `finish`. Times are printed in milliseconds from `began`.
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

    def finish(self, now: float, summary: str, urls: Sequence[str]) -> None:
        """Write what is left; `summary` says how it ended."""
        if self._form == "text":
            self._write(f"{self._offset(now):9.2f} ms  finished, {summary}\n")
        elif self._form == "json":
            points = [
                {"time": round((point.time - self._began), 6), "step": point.name, "phase": point.phase,
                 **{key: _plain(value) for key, value in point.details.items()}}
                for point in self._points
            ]
            record = {"urls": list(urls), "result": summary, "seconds": round(now - self._began, 6), "points": points}
            self._write(json.dumps(record, indent=1) + "\n")
        else:
            self._write(page(self._points, self._began, now, summary, urls))
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


def page(points: Sequence[TracePoint], began: float, ended: float, summary: str, urls: Sequence[str]) -> str:
    """The waterfall as an HTML document."""
    rows = _rows(points, ended)
    first = min([began, *(row.start for row in rows)])
    span = max([ended, *(row.end for row in rows)]) - first or 1.0
    title = html.escape(", ".join(urls))
    lines = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f"<title>Trace of {title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{html.escape(summary)}, {(ended - began) * 1000:.1f} ms</p>",
        '<table><thead><tr><th class="s">step</th><th class="d">details</th><th class="n">start, ms</th>'
        '<th class="n">took, ms</th><th>time</th></tr></thead><tbody>',
    ]
    for row in rows:
        left, width = (row.start - first) / span * 100, (row.end - row.start) / span * 100
        kind = html.escape(row.name, quote=True) + (" failed" if row.failed else "")
        lines.append(
            f'<tr><td>{html.escape(row.name)}</td><td>{html.escape(row.details)}</td>'
            f'<td class="n">{(row.start - began) * 1000:.1f}</td><td class="n">{(row.end - row.start) * 1000:.1f}</td>'
            f'<td class="w"><div class="bar {kind}" style="margin-left:{left:.2f}%;width:{width:.2f}%"></div></td></tr>'
        )
    lines.append("</tbody></table></body></html>\n")
    return "\n".join(lines)


def _rows(points: Sequence[TracePoint], ended: float) -> list[_Row]:
    """The steps by their start: a start with the next end of the same name, or a point alone."""
    rows: list[_Row] = []
    unfinished: dict[str, _Row] = {}
    for point in points:
        details = " ".join(f"{key}={value}" for key, value in point.details.items())
        if point.phase == STARTED:
            row = _Row(point.name, point.time, ended, False, details)
            rows.append(row)
            unfinished[point.name] = row
        elif point.phase in (DONE, FAILED) and point.name in unfinished:
            row = unfinished.pop(point.name)
            row.end, row.failed = point.time, point.phase == FAILED
            row.details = f"{row.details} {details}".strip()
        else:
            failed = point.phase == FAILED
            rows.append(_Row(point.name, point.time, point.time, failed, f"{point.phase} {details}".strip()))
    return sorted(rows, key=lambda row: row.start)


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
