"""No test waits for time to pass or depends on chance, and each process that one starts has its seconds.

These are rules for the sources of the tests, which are read here.

Sleeping in the place of waiting for something is either too short on a busy machine or too long on any; what is allowed
stands in `SLEEPS` with its reason. A process that is run to its end is killed when its time is over, which the limit of
the test (support/overdue.py), under which every other wait stands, would leave to others. A timeout that only ends a
test that hangs is at least `GUARD` seconds, so that a machine that stops a process for seconds fails no test.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

import pytest

pytestmark = pytest.mark.checkout

TESTS = Path(__file__).resolve().parents[1]
SUBJECT = "the time that passes is what the test is about"
SPAN = "a span in which something must not happen"
PACE = "the pace at which a peer does something"

#: file: function: why it may sleep.
SLEEPS: dict[str, dict[str, str]] = {
    "integration/test_https_nginx.py": {"test_a_connection_that_nginx_closed_while_idle": SUBJECT},
    "integration/test_loop_stress.py": {
        "test_a_flood_starves_neither_others_nor_timers": SUBJECT,
        "test_paused_readers_with_dead_peers_do_not_spin": SPAN,
        "test_descriptors_run_out_again_and_again": SPAN,
    },
    "simulation/loop/talkers.py": {"do_sleep": PACE},
    "simulation/loop/webs.py": {"pieces": PACE, "request": PACE},
    "soak.py": {"load": "load for a time is what the program does"},
    "support/nginx.py": {"__enter__": "between two looks, under a deadline"},
    "support/web_peers.py": {"started": "between two looks, under a deadline"},
    "support/servers.py": {"wait_until": "between two looks, under a deadline"},
    "support/waiting.py": {"until": "between two looks, under a deadline"},
    "unit/corenet/http/test_client_bodies.py": {
        "test_an_upload_follows_the_pace_of_the_server": SPAN,
        "test_a_response_wakes_an_upload_that_the_server_does_not_read": PACE,
        "test_a_slow_upload_is_not_a_read_timeout": PACE,
    },
    "unit/corenet/http/test_client_ends.py": {
        "test_a_response_sent_byte_by_byte_ends_at_the_total_timeout": PACE,
        "test_cancelled_requests_release_their_slots_and_connections": PACE,
    },
    "unit/corenet/loop/test_collection.py": {"task": "a task that sleeps is dropped, and nobody waits for it"},
    "unit/corenet/loop/test_descriptors.py": {"test_a_duplicate_causes_no_busy_loop": SPAN},
    "unit/corenet/loop/test_forking.py": {"test_no_loop_runs_in_the_child_and_a_new_one_works": SUBJECT},
    "unit/corenet/loop/test_loop.py": {
        "test_sub_millisecond_sleeps_are_short": SUBJECT,
        "test_debug_mode": SUBJECT,
        "test_timers_use_a_replaced_clock": SUBJECT,
    },
    "unit/corenet/loop/test_statistics.py": {
        "block": SUBJECT,
        "test_fast_and_sleeping_iterations_are_not_slow": SUBJECT,
        "test_only_the_latest_are_kept_and_hold_no_references": SUBJECT,
        "test_the_last_callback_of_an_iteration_is_released_before_the_loop_sleeps": SUBJECT,
    },
    "unit/corenet/transports/test_interest.py": {"turns": SPAN},
    "unit/corenet/transports/test_listener.py": {"test_the_listener_pauses_while_descriptors_are_exhausted": SPAN},
    "unit/corenet/transports/test_stream.py": {"test_a_dead_peer_of_a_paused_reader_causes_no_busy_loop": SPAN},
}
GUARD = 30
"""The least number of seconds of a timeout that is expected not to end."""
EXPECTED = "the timeout is expected to end"
ROUND = "a round of a loop that continues afterwards"
#: file: function: why a timeout in it is shorter than `GUARD`.
SHORT: dict[str, dict[str, str]] = {
    "fuzz/target_loop_api.py": {"finish": "an input may make tasks that never end"},
    "integration/test_memory_limit.py": {"test_the_daemon_survives_lack_of_memory": ROUND},
    "integration/test_packet_storm.py": {"storm_udp": ROUND},
    "integration/test_service_tcp.py": {
        "test_slow_loris_is_ended": ROUND,
        "test_idle_connection_is_closed_but_not_while_it_waits": EXPECTED,
    },
    "integration/test_websockets.py": {"test_a_slow_reader_holds_its_sender_up": EXPECTED},
    "simulation/loop/run.py": {"simulate": ROUND},
    "support/nginx.py": {"__enter__": ROUND},
    "unit/corenet/http/test_h2_client.py": {"test_a_connection_on_a_lost_path_is_replaced": EXPECTED},
    "unit/corenet/loop/test_connecting.py": {"test_a_cancelled_race_leaves_no_socket": EXPECTED},
    "unit/corenet/loop/test_services.py": {"test_sock_accept_can_be_cancelled": EXPECTED},
    "unit/corenet/tls/test_handshake.py": {"test_a_handshake_without_timeout_delays_no_other_timer": EXPECTED},
    "unit/corenet/transports/test_streams.py": {"test_a_read_can_be_awaited_by_tasks_and_timeouts": EXPECTED},
    "unit/resolver/cli/test_query.py": {"test_no_reply_is_reported": EXPECTED},
}
#: file: why it takes something at random.
CHANCE = {
    "nightly/run.py": "chooses the seed of the run, and prints it",
    "support/ports.py": "two runs on one machine must not try the same ports",
}
#: Programs that run whole suites, or install; what those wait for is bounded by themselves.
RUNNERS = {
    "conformance/scenarios/run.py", "conformance/suites/run.py", "interpreters.py", "mutants/run.py", "sanitized.py",
    "simulation/loop/holes.py", "wheel.py", "wheels.py",
}
RUNS = {"run", "call", "check_call", "check_output"}
#: Calls whose keyword `timeout` is how long they wait, and those whose only argument is.
TIMED = RUNS | {"acquire", "communicate", "create_connection", "join", "result", "wait", "wait_for"}
FIRST = {"join", "result", "settimeout"}
SECRETS = {"token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice"}
NUMBERS = {
    "SystemRandom", "choice", "choices", "getrandbits", "randbytes", "randint", "random", "randrange", "sample",
    "shuffle", "uniform",
}


class Source(NamedTuple):
    """What the rules look at in one source."""

    calls: list[tuple[str, ast.Call, bool]]
    """Each call, the outermost function that it stands in, and whether it is awaited there."""
    imports: list[ast.Import | ast.ImportFrom]

    @classmethod
    def read(cls, text: str) -> Self:
        """Both, in one walk."""
        found = cls([], [])
        waiting: list[tuple[ast.AST, str, bool]] = [(ast.parse(text), "", False)]
        while waiting:
            node, inside, awaited = waiting.pop()
            if isinstance(node, ast.Call):
                found.calls.append((inside, node, awaited))
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                found.imports.append(node)
            if not inside and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inside = node.name
            awaits = isinstance(node, ast.Await)
            waiting.extend((child, inside, awaits) for child in ast.iter_child_nodes(node))
        return found


@cache
def sources() -> list[tuple[str, Source]]:
    """Each source of the tests."""
    return [
        (path.relative_to(TESTS).as_posix(), Source.read(path.read_text(encoding="utf-8")))
        for path in sorted(TESTS.rglob("*.py"))
    ]


def is_named(call: ast.Call, names: set[str]) -> bool:
    """Whether the function that is called has one of these names, which may have dots."""
    parts: list[str] = []
    function = call.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return isinstance(function, ast.Name) and ".".join([function.id, *reversed(parts)]) in names


def imported(source: Source, module: str, names: set[str]) -> set[str]:
    """By which names `names` of `module` are called in this file: `module.name`, or what an import says."""
    found = {f"{module}.{name}" for name in names}
    for node in source.imports:
        if isinstance(node, ast.Import):
            found |= {f"{a.asname}.{name}" for a in node.names if a.name == module and a.asname for name in names}
        elif node.module == module:
            found |= {alias.asname or alias.name for alias in node.names if alias.name in names}
    return found


def sleeps(source: Source) -> Iterator[tuple[str, int]]:
    """Where something sleeps for longer than a turn of the loop."""
    names = imported(source, "time", {"sleep"}) | imported(source, "asyncio", {"sleep"})
    for inside, call, _ in source.calls:
        if is_named(call, names):
            first = call.args[0] if call.args else None
            if not (isinstance(first, ast.Constant) and first.value == 0):
                yield inside, call.lineno


def endless(source: Source) -> Iterator[tuple[str, int]]:
    """Where a process is run to its end, whenever that is."""
    runs = imported(source, "subprocess", RUNS)
    limited = {
        id(call.args[0]) for _, call, _ in source.calls if call.args and is_named(call, {"asyncio.wait_for"})
    }
    for _, call, awaited in source.calls:
        if id(call) in limited:
            continue
        keywords = {keyword.arg for keyword in call.keywords}
        # asyncio's processes are awaited, and what they are given by ** says it all.
        if awaited or "timeout" in keywords or None in keywords:
            continue
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if is_named(call, runs) or (method == "communicate" and len(call.args) < 2):
            yield ast.unparse(call.func), call.lineno


def short(source: Source) -> Iterator[tuple[str, int]]:
    """Where a timeout is a number below `GUARD`, and the outermost function it stands in."""
    waits = imported(source, "asyncio", {"wait_for"})
    spans = imported(source, "asyncio", {"timeout"}) | imported(source, "signal", {"alarm"})
    selects = imported(source, "select", {"select"})
    for inside, call, _ in source.calls:
        method = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        seconds = [keyword.value for keyword in call.keywords if keyword.arg == "timeout" and method in TIMED]
        if is_named(call, waits):
            seconds += call.args[1:2]
        elif is_named(call, spans) or (method in FIRST and len(call.args) == 1):
            seconds += call.args
        elif is_named(call, selects):
            seconds += call.args[3:4]
        if any(isinstance(s, ast.Constant) and type(s.value) in (int, float) and 0 < s.value < GUARD for s in seconds):
            yield inside, call.lineno


def unseeded(source: Source) -> Iterator[tuple[str, int]]:
    """Where bytes or numbers come from the system, or from the random numbers of the module, which have no seed."""
    names = imported(source, "os", {"urandom"}) | imported(source, "secrets", SECRETS)
    names |= imported(source, "random", NUMBERS)
    for _, call, _ in source.calls:
        if is_named(call, names) or (not call.args and is_named(call, {"random.Random"})):
            yield ast.unparse(call.func), call.lineno


def test_nothing_depends_on_chance() -> None:
    seen = {file: list(unseeded(source)) for file, source in sources()}
    assert all(seen[file] for file in CHANCE), "these take nothing at random any more"
    found = [f"{file}:{line}: {what}" for file, places in seen.items() if file not in CHANCE for what, line in places]
    assert not found, "random.Random(seed) makes the same bytes each time:\n" + "\n".join(found)


def test_nothing_sleeps_but_for_a_reason() -> None:
    found = Counter((file, inside) for file, source in sources() for inside, _ in sleeps(source))
    allowed = {(file, inside) for file, functions in SLEEPS.items() for inside in functions}
    assert not found.keys() - allowed, "these sleep; support/waiting.py waits for what is meant"
    assert not allowed - found.keys(), "these sleep no more"


def test_timeouts_that_only_guard_are_long() -> None:
    found = Counter((file, inside) for file, source in sources() for inside, _ in short(source))
    allowed = {(file, inside) for file, functions in SHORT.items() for inside in functions}
    assert not found.keys() - allowed, f"these end tests on a busy machine; {GUARD} seconds cost nothing"
    assert not allowed - found.keys(), "these have no short timeout any more"


def test_each_process_has_its_time() -> None:
    found = [
        f"{file}:{line}: {what}" for file, source in sources() if file not in RUNNERS for what, line in endless(source)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import time\ndef f(): time.sleep(1)", True),
        ("import time as t\ndef f(): t.sleep(1)", True),
        ("from time import sleep as nap\ndef f(): nap(x)", True),
        ("import asyncio\nasync def f(): await asyncio.sleep(0.1)", True),
        ("from asyncio import sleep\nasync def f(): run(sleep(delay=1))", True),
        ("import asyncio\nasync def f(): await asyncio.sleep(0)", False),
        ("import asyncio\nasync def f(): await asyncio.sleep(0, 5)", False),
        ("from app import sleep\ndef f(): sleep(1)", False),
    ],
)
def test_sleeps_are_seen(text: str, seen: bool) -> None:
    assert bool(list(sleeps(Source.read(text)))) == seen


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import subprocess\nsubprocess.run(['a'])", True),
        ("import subprocess\nsubprocess.run(['a'], timeout=5)", False),
        ("from subprocess import check_output\ncheck_output(['a'])", True),
        ("child.communicate()", True),
        ("child.communicate(b'in')", True),
        ("child.communicate(timeout=5)", False),
        ("async def f(): await process.communicate(b'in')", False),
        ("def f(**options): child.communicate(**options)", False),
        ("async def f(): await asyncio.wait_for(process.communicate(), 15)", False),
        ("async def f(): await asyncio.shield(process.communicate())", True),
    ],
)
def test_endless_waits_are_seen(text: str, seen: bool) -> None:
    assert bool(list(endless(Source.read(text)))) == seen


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import asyncio\nasyncio.wait_for(x, 5)", True),
        ("import asyncio\nasyncio.wait_for(x, timeout=0.5)", True),
        ("import asyncio\nasyncio.wait_for(x, 30)", False),
        ("import asyncio\nasyncio.wait_for(x, SHORT)", False),
        ("import asyncio as a\nasync def f():\n  async with a.timeout(5): pass", True),
        ("import signal\nsignal.alarm(5)", True),
        ("from select import select\nselect([a], [], [], 5)", True),
        ("from select import select\nselect([a], [], [], 0)", False),
        ("sock.settimeout(5)", True),
        ("sock.settimeout(0)", False),
        ("thread.join(5)", True),
        ("future.result(timeout=5)", True),
        ("process.wait(timeout=5)", True),
        ("import subprocess\nsubprocess.run(['a'], timeout=5)", True),
        ("client.get(url, timeout=5)", False),
    ],
)
def test_short_timeouts_are_seen(text: str, seen: bool) -> None:
    assert bool(list(short(Source.read(text)))) == seen


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import os\nos.urandom(5)", True),
        ("from os import urandom\nurandom(5)", True),
        ("import secrets\nsecrets.token_bytes(5)", True),
        ("import random\nrandom.randbytes(5)", True),
        ("import random\nrandom.Random()", True),
        ("import random\nrandom.Random(5).randbytes(5)", False),
        ("self.random.choice([1])", False),
    ],
)
def test_chance_is_seen(text: str, seen: bool) -> None:
    assert bool(list(unseeded(Source.read(text)))) == seen
