"""resolverctl top: options, its views as text and JSON, and the terminal, which is left as it was found."""

import io
import json
import os
import signal
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import pytest

from resolver.cli import control as tool
from resolver.cli import top

ACTIVITY: dict[str, Any] = {
    "seconds": 2.0,
    "workers": {"answered": 2, "all": 2},
    "queries": {"rate": 1200.4, "by_transport": {"udp": 1199.9, "tcp": 0.5}},
    "replies": {"rate": 1200.4, "by_rcode": {"NXDOMAIN": 200.0, "NOERROR": 1000.4}},
    "answers": {"by_result": {"hit": 1100.0, "miss": 100.4}, "cache_hit_ratio": 0.9163},
    "client_latency": {"p50": 0.00005, "p90": 0.0012, "p99": 0.25},
    "upstream": {"rate": 130.0, "timeouts": 0.5, "latency": {"p50": None, "p90": None, "p99": None}},
    "outstanding": {"client_queries": 7, "resolutions": 9},
    "memory": {"cache": 3 << 20, "cache_limit": 64 << 20, "tables": 1 << 18, "other": 1 << 19,
               "other_limit": 1 << 30},
    "drops": {"query-rate": 12.5},
    "sampling": {"replies": 2400, "samples": 600},
    "top": {
        "names": [{"name": f"www{number}.example.com.", "type": "A", "count": 90 - number, "error": number}
                  for number in range(30)],
        "clients": [{"client": "192.0.2.0/24", "count": 2400, "error": 0}],
        "zones": [{"zone": "example.com.", "count": 2400, "error": 0}],
        "slow": [{"zone": "slow.example.", "seconds": 6.5, "error": 0.0, "queries": 5, "unanswered": 4}],
        "failed": [],
    },
}
KEYS = {"seconds", "workers", "queries", "replies", "answers", "client_latency", "upstream", "outstanding", "memory",
        "drops", "sampling", "top"}


class Daemon:
    """Replies to calls; `begun` is how many of the first ones have no activity yet."""

    def __init__(self, activity: dict[str, Any] = ACTIVITY, begun: int = 1) -> None:
        self.activity = activity
        self.begun = begun
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(dict(request))
        waits = len(self.requests) <= self.begun
        return {"watch": "w1", "activity": None if waits else json.loads(json.dumps(self.activity))}


def sleeper(times: int, then: Callable[[], object]) -> Callable[[float], None]:
    """A sleep that calls `then` at the last of `times`."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == times:
            then()

    return sleep


def interrupt() -> None:
    raise KeyboardInterrupt


def arguments(*words: str) -> Any:
    found = tool.parser().parse_args(["-s", "x", "top", *words])
    top.check_options(found)
    return found


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in (("TERM", "xterm"), ("COLUMNS", "60"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--interval", "0.5"], "--interval: 0.5 is not from 1 to 300 seconds"),
        (["--interval", "301"], "--interval: 301 is not from 1 to 300 seconds"),
        (["--interval", "nan"], "--interval: nan is not from 1 to 300 seconds"),
        (["--lines", "0"], "--lines: 0 is not from 1 to 100"),
        (["--lines", "101"], "--lines: 101 is not from 1 to 100"),
        (["--by", "names,servers"], "--by: 'servers' is not one of names, clients, zones, slow, failed"),
        (["--by", ""], "--by: '' is not one of names"),
    ],
)
def test_wrong_options(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["-s", "/nowhere", "top", *words]) == tool.EXIT_USAGE
    assert capsys.readouterr().err.startswith(f"resolverctl: {said}")


@pytest.mark.parametrize("words", [["--interval", "soon"], ["--lines", "many"], ["now"], ["--twice"]])
def test_words_that_the_parser_refuses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(["-s", "/nowhere", "top", *words])
    assert ended.value.code == tool.EXIT_USAGE and capsys.readouterr().err


def test_an_absent_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["-s", "/nowhere", "top", "--once"]) == tool.EXIT_UNREACHABLE
    assert "is the daemon running" in capsys.readouterr().err


@pytest.mark.parametrize(("interval", "keep"), [("1", 7), ("2.5", 10), ("300", 605)])
def test_what_the_daemon_is_asked(interval: str, keep: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A watch is kept for longer than until the next call, is known by the name that the daemon gave, and is ended."""
    daemon = Daemon()
    top.run(arguments("--interval", interval, "--once", "--lines", "3"), daemon, sleeper(9, interrupt))
    first = {"command": "top", "keep": keep, "lines": 3}
    assert daemon.requests == [first, {**first, "watch": "w1"}, {**first, "watch": "w1", "keep": 0}]


# --- views ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--json"], []])
def test_json_is_one_line_for_each_view(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = tool.parser().parse_args(["-s", "x", *([] if words else ["--json"]), "top", *words, "--by", "slow,names"])
    top.run(found, Daemon(), sleeper(3, interrupt))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        view = json.loads(line)
        assert set(view) == KEYS
        assert view["top"] == {kind: ACTIVITY["top"][kind] for kind in ("slow", "names")}


def test_views_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    top.run(arguments("--lines", "2"), Daemon(), sleeper(3, interrupt))
    one, two = capsys.readouterr().out.split("\n\n")
    assert one == two.rstrip("\n")
    assert one.splitlines() == [
        "last 2.0 s: 1200 queries/s",
        "queries/s   udp 1200, tcp 0.5",
        "replies/s   NOERROR 1000, NXDOMAIN 200",
        "answers/s   cache hits 91.6 %; hit 1100, miss 100",
        "latency ms  clients p50 0.05 p90 1.2 p99 250; servers p50 - p90 - p99 -",
        "upstream    130 queries/s, 0.5 timeouts/s; outstanding 7 client queries, 9 resolutions",
        "memory      cache 3.0 of 64.0 MiB; all else 0.5 of at most 1024 MiB",
        "drops/s     query-rate 12",
        "lists       estimated from one reply of 4.0: 600 of 2400",
        "names",
        "         90  www0.example.com. A",
        "         89  www1.example.com. A  (at least 88)",
        "clients",
        "       2400  192.0.2.0/24",
        "zones",
        "       2400  example.com.",
        "zones whose servers were waited for longest",
        "      6.500 s  slow.example.  5 queries, 1300.0 ms each, 4 without reply",
        "names that failed (SERVFAIL): none",
    ]


def test_a_watch_that_the_daemon_has_forgotten_begins_again(capsys: pytest.CaptureFixture[str]) -> None:
    top.run(arguments("--once", "--by", "zones"), Daemon(begun=3), sleeper(9, interrupt))
    assert capsys.readouterr().out.count("last 2.0 s") == 1


def test_nothing_is_shown_with_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon escapes them; another version might not."""
    odd = {**ACTIVITY, "workers": {"answered": 1, "all": 2}, "sampling": {"replies": 9, "samples": 9}, "top": {
        "names": [{"name": "a\x1b[2J\n\u202e.", "type": "A\r", "count": 1, "error": 0}]}}
    top.run(arguments("--once", "--by", "names"), Daemon(odd), sleeper(9, interrupt))
    shown = capsys.readouterr().out
    assert "a\\027[2J\\010\\8238. A\\013\n" in shown
    assert "; only 1 of 2 workers answer\n" in shown and "lists       all 9 replies\n" in shown


# --- the terminal -----------------------------------------------------------------------------------------------------


def watch(terminal: Terminal, *given: Any) -> None:
    with redirect_stdout(terminal):
        top.run(*given)


def screens(terminal: Terminal) -> list[list[str]]:
    """The lines of each view, without what erases."""
    text = terminal.getvalue()
    assert text.startswith(top.ENTER) and text.endswith(top.LEAVE)
    views = text[len(top.ENTER) : -len(top.LEAVE)].split(top.HOME)
    assert views.pop(0) == "" and all(view.endswith(top.ERASE_BELOW) for view in views)
    return [view.removesuffix(top.ERASE_BELOW).split("\n") for view in views]


@pytest.mark.parametrize(("columns", "rows"), [(60, 24), (200, 50), (20, 8), (1, 2)])
def test_a_view_fits_into_the_terminal(
    columns: int, rows: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(rows))
    daemon = Daemon()
    watch(terminal, arguments(), daemon, sleeper(3, interrupt))
    assert daemon.requests[0]["lines"] == 100
    for view in screens(terminal):
        assert len(view) <= rows - 1
        for line in view:
            assert len(line.replace(top.ERASE_LINE, "").replace(top.BOLD, "").replace(top.PLAIN, "")) <= columns
    if rows == 50:
        assert sum(" A  (at least" in line or line.startswith("         90") for line in screens(terminal)[0]) == 7


def test_lines_limit_the_lists_of_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "50")
    watch(terminal, arguments("--lines", "1"), Daemon(), sleeper(2, interrupt))
    assert sum("www" in line for line in screens(terminal)[0]) == 1


@pytest.mark.parametrize("plain", [True, False])
def test_no_color(plain: bool, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    watch(terminal, arguments(), Daemon(), sleeper(2, interrupt))
    assert (top.BOLD in terminal.getvalue()) is not plain


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("end", [interrupt, stop])
def test_the_terminal_is_restored_by_signals(end: Callable[[], object], terminal: Terminal) -> None:
    before, daemon = signal.getsignal(signal.SIGTERM), Daemon()
    watch(terminal, arguments(), daemon, sleeper(2, end))
    assert len(screens(terminal)) == 1 and daemon.requests[-1]["keep"] == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_terminal_is_restored_when_the_daemon_goes_away(terminal: Terminal) -> None:
    class GoneError(Exception):
        pass

    def gone() -> None:
        raise GoneError

    with pytest.raises(GoneError):
        watch(terminal, arguments(), Daemon(), sleeper(2, gone))
    assert len(screens(terminal)) == 1


@pytest.mark.parametrize("words", [["--once"], ["--json"]])
def test_no_escape_sequences_where_none_are_needed(words: list[str], terminal: Terminal) -> None:
    watch(terminal, arguments(*words), Daemon(), sleeper(2, interrupt))
    assert "\x1b" not in terminal.getvalue() and terminal.getvalue()


def test_a_dumb_terminal_gets_text(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    watch(terminal, arguments(), Daemon(), sleeper(3, interrupt))
    assert "\x1b" not in terminal.getvalue() and terminal.getvalue().count("last 2.0 s") == 2
