"""No test waits for time to pass, and each process that one starts has its seconds: held against the sources.

Sleeping in the place of waiting for something is either too short on a busy machine or too long on any; what is allowed
stands in `SLEEPS` with its reason. A process that is run to its end is killed when its time is over, which the limit of
the test (support/overdue.py), under which every other wait stands, would leave to others.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

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
    "support/servers.py": {"wait_until": "between two looks, under a deadline"},
    "support/waiting.py": {"until": "between two looks, under a deadline"},
    "unit/corenet/http/test_client_bodies.py": {
        "test_a_slow_reader_slows_the_server_down": SPAN,
        "test_an_upload_at_the_pace_of_the_server": SPAN,
        "test_an_answer_wakes_an_upload_that_the_server_does_not_read": PACE,
        "test_a_slow_upload_is_no_silence": PACE,
    },
    "unit/corenet/http/test_client_ends.py": {
        "test_a_dripping_server_ends_at_the_total_timeout": PACE,
        "test_a_timeout_of_one_request_does_not_touch_the_next": SPAN,
        "test_cancelled_requests_leak_nothing_and_leave_nothing": PACE,
    },
    "unit/corenet/loop/test_collection.py": {"task": "a task that sleeps is dropped, and nobody waits for it"},
    "unit/corenet/loop/test_descriptors.py": {"test_a_duplicate_causes_no_busy_loop": SPAN},
    "unit/corenet/loop/test_forking.py": {"test_no_loop_runs_in_the_child_and_a_new_one_works": SUBJECT},
    "unit/corenet/loop/test_loop.py": {
        "test_sub_millisecond_sleeps_are_short": SUBJECT,
        "test_debug_mode": SUBJECT,
        "test_a_replaced_clock_is_the_clock_of_the_timers": SUBJECT,
    },
    "unit/corenet/loop/test_statistics.py": {
        "block": SUBJECT,
        "test_quick_turns_and_sleeping_ones_are_not_slow": SUBJECT,
        "test_only_the_latest_are_kept_and_they_hold_nothing": SUBJECT,
        "test_the_last_callback_of_a_turn_is_let_go_before_the_loop_sleeps": SUBJECT,
    },
    "unit/corenet/transports/test_interest.py": {"turns": SPAN},
    "unit/corenet/transports/test_listener.py": {"test_descriptors_run_out_and_come_back": SPAN},
    "unit/corenet/transports/test_stream.py": {"test_dead_peer_of_a_paused_reader_costs_nothing": SPAN},
}
#: Programs that run whole suites, or install; what those wait for is bounded by themselves.
RUNNERS = {
    "conformance/scenarios/run.py", "conformance/suites/run.py", "interpreters.py", "mutants/run.py", "sanitized.py",
    "simulation/loop/holes.py", "wheel.py", "wheels.py",
}
RUNS = {"run", "call", "check_call", "check_output"}


def parsed() -> Iterator[tuple[str, ast.Module]]:
    """Each source of the tests."""
    for path in sorted(TESTS.rglob("*.py")):
        yield path.relative_to(TESTS).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.Call, bool]]:
    """Each call, the function that it stands in, and whether it is awaited there."""
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}

    def walk(node: ast.AST, inside: str) -> Iterator[tuple[str, ast.Call, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield inside, child, id(child) in awaited
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from walk(child, child.name if named and not inside else inside)

    yield from walk(tree, inside)


def imported(tree: ast.Module, module: str, names: set[str]) -> set[str]:
    """By which names `names` of `module` are called in this file: `module.name`, or what an import says."""
    found = {f"{module}.{name}" for name in names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == module:
            found |= {alias.asname or alias.name for alias in node.names if alias.name in names}
        elif isinstance(node, ast.Import):
            found |= {f"{a.asname}.{name}" for a in node.names if a.name == module and a.asname for name in names}
    return found


def sleeps(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Where something sleeps for longer than a turn of the loop."""
    names = imported(tree, "time", {"sleep"}) | imported(tree, "asyncio", {"sleep"})
    for inside, call, _ in calls(tree):
        if ast.unparse(call.func) in names:
            first = call.args[0] if call.args else None
            if not (isinstance(first, ast.Constant) and first.value == 0):
                yield inside, call.lineno


def endless(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Where a process is run to its end, whenever that is."""
    runs = imported(tree, "subprocess", RUNS)
    limited = {
        id(call.args[0]) for _, call, _ in calls(tree) if call.args and ast.unparse(call.func) == "asyncio.wait_for"
    }
    for _, call, awaited in calls(tree):
        if id(call) in limited:
            continue
        keywords = {keyword.arg for keyword in call.keywords}
        # asyncio's processes are awaited, and what they are given by ** says it all.
        if awaited or "timeout" in keywords or None in keywords:
            continue
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if ast.unparse(call.func) in runs or (method == "communicate" and len(call.args) < 2):
            yield ast.unparse(call.func), call.lineno


def test_nothing_sleeps_but_for_a_reason() -> None:
    found = Counter((file, inside) for file, tree in parsed() for inside, _ in sleeps(tree))
    allowed = {(file, inside) for file, functions in SLEEPS.items() for inside in functions}
    assert not found.keys() - allowed, "these sleep; support/waiting.py waits for what is meant"
    assert not allowed - found.keys(), "these sleep no more"


def test_each_process_has_its_time() -> None:
    found = [
        f"{file}:{line}: {what}" for file, tree in parsed() if file not in RUNNERS for what, line in endless(tree)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "seen"),
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
def test_sleeps_are_seen(source: str, seen: bool) -> None:
    assert bool(list(sleeps(ast.parse(source)))) == seen


@pytest.mark.parametrize(
    ("source", "seen"),
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
def test_endless_waits_are_seen(source: str, seen: bool) -> None:
    assert bool(list(endless(ast.parse(source)))) == seen
