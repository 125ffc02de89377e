"""resolverctl top: what the resolver does now, shown again after each interval.

On a terminal each view takes the place of the one before, on the alternate screen and within its width and height.
Elsewhere the views follow one another, with an empty line between them; with `--json` each is one line. The daemon
escapes names (`wire.name.to_text`); what it sends is nevertheless shown without control characters.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

from resolver import limits
from resolver.daemon.stdout import printable

__all__ = ["KINDS", "add_options", "check_options", "run", "view"]

KINDS = {
    "names": "names",
    "clients": "clients",
    "zones": "zones",
    "slow": "zones whose servers were waited for longest",
    "failed": "names that failed (SERVFAIL)",
}
"""The lists and their titles."""
INTERVAL, LINES, KEEP = limits.TOP_INTERVAL, limits.TOP_LINES, limits.TOP_KEEP
KEEP_INTERVALS, KEEP_MORE = 2, 5  # a call may be late by an interval and some seconds
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, ERASE_LINE, ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
BOLD, PLAIN = "\x1b[1m", "\x1b[m"
MEBIBYTE = 1 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--interval", type=float, default=INTERVAL.default, metavar="SECONDS",
        help=f"time between two views, {INTERVAL.minimum} to {INTERVAL.maximum} (default {INTERVAL.default})",
    )
    parser.add_argument("--once", action="store_true", help="show one view, after one interval")
    parser.add_argument(
        "--by", default=",".join(KINDS), metavar="LISTS", help=f"which lists, of {','.join(KINDS)} (default all)"
    )
    parser.add_argument(
        "--lines", type=int, metavar="N",
        help=f"entries of each list, {LINES.minimum} to {LINES.maximum} (default {LINES.default}; on a terminal as many"
        " as it has room for)",
    )
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="a line of JSON for each view")


def check_options(arguments: argparse.Namespace) -> None:
    """Check what the parser cannot.

    Raises:
        ValueError: an option is out of range or has an unknown word.
    """
    if not INTERVAL.minimum <= arguments.interval <= INTERVAL.maximum:
        raise ValueError(
            f"--interval: {arguments.interval:g} is not from {INTERVAL.minimum} to {INTERVAL.maximum} seconds")
    if arguments.lines is not None and not LINES.minimum <= arguments.lines <= LINES.maximum:
        raise ValueError(f"--lines: {arguments.lines} is not from {LINES.minimum} to {LINES.maximum}")
    for kind in arguments.by.split(","):
        if kind not in KINDS:
            raise ValueError(f"--by: {kind!r} is not one of {', '.join(KINDS)}")


def run(
    arguments: argparse.Namespace, call: Callable[[dict[str, Any]], dict[str, Any]],
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Show one view with `--once`, else views until SIGINT or SIGTERM. `call` sends a request to the daemon and returns
    the result."""
    kinds = arguments.by.split(",")
    keep = min(ceil(KEEP_INTERVALS * arguments.interval) + KEEP_MORE, KEEP.maximum)
    request = {"command": "top", "keep": keep, "lines": arguments.lines or LINES.default}
    on_terminal = not arguments.json and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if on_terminal and arguments.lines is None:
        request["lines"] = LINES.maximum
    with _ends_by_signal(), _screen(on_terminal and not arguments.once):
        shown = 0
        while not (arguments.once and shown):
            found = call(request)
            request["watch"] = found["watch"]
            activity = found["activity"]
            if activity is not None:
                activity["top"] = {kind: activity["top"][kind] for kind in kinds}
                _print_view(activity, arguments, on_terminal, not shown)
                shown += 1
            if not (arguments.once and shown):
                sleep(arguments.interval)
    if "watch" in request:
        call({**request, "keep": 0})  # others may watch then


@contextmanager
def _ends_by_signal() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that the terminal is restored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _screen(alternate: bool) -> Iterator[None]:
    """The alternate screen of the terminal, without a cursor, for as long as it is needed."""
    if not alternate:
        yield
        return
    try:
        print(ENTER, end="", flush=True)
        yield
    finally:
        print(LEAVE, end="", flush=True)


def _print_view(activity: dict[str, Any], arguments: argparse.Namespace, on_terminal: bool, first: bool) -> None:
    if arguments.json:
        print(json.dumps(activity), flush=True)
        return
    if not on_terminal or arguments.once:
        if not first:
            print()
        print("\n".join(text for text, _ in view(activity, arguments.lines or LINES.default)), flush=True)
        return
    columns, rows = shutil.get_terminal_size()
    lines = list(view(activity, arguments.lines, rows - 1))[: rows - 1]
    bold = not os.environ.get("NO_COLOR")
    shown = [
        f"{BOLD}{text[:columns]}{PLAIN}{ERASE_LINE}" if is_title and bold else text[:columns] + ERASE_LINE
        for text, is_title in lines
    ]
    print(HOME + "\n".join(shown) + ERASE_BELOW, end="", flush=True)


# --- text -------------------------------------------------------------------------------------------------------------


def view(activity: dict[str, Any], lines: int | None, rows: int | None = None) -> Iterator[tuple[str, bool]]:
    """The lines of a view, and whether each is a title. Each list has at most `lines` entries. With `rows` the lists
    share what the head leaves of them."""
    head = list(_head(activity))
    yield from ((printable(line), place == 0) for place, line in enumerate(head))
    top: dict[str, list[dict[str, Any]]] = activity["top"]
    if rows is not None:
        room = max((rows - len(head)) // max(len(top), 1) - 1, 1)
        lines = room if lines is None else min(lines, room)
    for kind, entries in top.items():
        yield KINDS[kind] + ("" if entries else ": none"), True
        for entry in entries[:lines]:
            yield printable(f"  {_entry_text(kind, entry)}"), False


def _head(activity: dict[str, Any]) -> Iterator[str]:
    workers, queries, replies = activity["workers"], activity["queries"], activity["replies"]
    answered, all_workers = workers["answered"], workers["all"]
    missing = "" if answered == all_workers else f"; only {answered} of {all_workers} workers answer"
    yield f"last {activity['seconds']:.1f} s: {_rate(queries['rate'])} queries/s{missing}"
    yield f"queries/s   {_pairs(queries['by_transport'])}"
    yield f"replies/s   {_pairs(replies['by_rcode'])}"
    ratio = activity["answers"]["cache_hit_ratio"]
    hits = "-" if ratio is None else f"{100 * ratio:.1f} %"
    yield f"answers/s   cache hits {hits}; {_pairs(activity['answers']['by_result'])}"
    upstream = activity["upstream"]
    yield f"latency ms  clients {_times(activity['client_latency'])}; servers {_times(upstream['latency'])}"
    outstanding = activity["outstanding"]
    yield (
        f"upstream    {_rate(upstream['rate'])} queries/s, {_rate(upstream['timeouts'])} timeouts/s; outstanding"
        f" {outstanding['client_queries']} client queries, {outstanding['resolutions']} resolutions"
    )
    memory = activity["memory"]
    used, limit, other, most = (
        memory[name] / MEBIBYTE for name in ("cache", "cache_limit", "other", "other_limit")
    )
    yield f"memory      cache {used:.1f} of {limit:.1f} MiB; all else {other:.1f} of at most {most:.0f} MiB"
    yield f"drops/s     {_pairs(activity['drops'])}"
    sampling = activity["sampling"]
    if sampling["samples"] < sampling["replies"]:
        every = sampling["replies"] / max(sampling["samples"], 1)
        yield f"lists       estimated from one reply of {every:.1f}: {sampling['samples']} of {sampling['replies']}"
    else:
        yield f"lists       all {sampling['replies']} replies"


def _entry_text(kind: str, entry: dict[str, Any]) -> str:
    if kind == "slow":
        waited, unanswered = entry["seconds"], entry["unanswered"]
        mean = 1000 * waited / max(entry["queries"], 1)
        lost = f", {unanswered} without reply" if unanswered else ""
        return f"{waited:9.3f} s  {entry['zone']}  {entry['queries']} queries, {mean:.1f} ms each{lost}"
    what = {"names": "name", "failed": "name", "clients": "client", "zones": "zone"}[kind]
    rtype = f" {entry['type']}" if "type" in entry else ""
    error = f"  (at least {entry['count'] - entry['error']})" if entry["error"] else ""
    return f"{entry['count']:9}  {entry[what]}{rtype}{error}"


def _pairs(rates: dict[str, float]) -> str:
    """Names with their rates, the highest first."""
    return ", ".join(f"{name} {_rate(rate)}" for name, rate in sorted(rates.items(), key=lambda one: -one[1])) or "-"


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def _times(percentiles: dict[str, float | None]) -> str:
    """The percentiles in milliseconds."""
    return " ".join(
        f"{name} {'-' if value is None else f'{1000 * value:.4g}'}" for name, value in percentiles.items())
