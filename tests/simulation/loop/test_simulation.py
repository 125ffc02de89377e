"""The simulator: it is repeatable, asyncio passes its programs, and it detects the bugs that it is made to detect.

The kernel must be loaded before corenet, so every test runs in its own process; `make simulate` runs them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from simulation.loop import generate
from simulation.loop.generate import Program
from simulation.loop.shrink import shrink

import corenet

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(corenet.__file__).parents[1])}

# Loops with one bug each: an interest that is never registered, a piece that is sent twice, a reader that stays.
BROKEN = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from simulation.loop import generate, play

class NeverWrites(play.ReferenceLoop):
    def _add_writer(self, fd, callback, *args):
        pass

class Twice(play.ReferenceLoop):
    def call_soon(self, callback, *args, context=None):
        transport = getattr(callback, "__self__", None)
        if getattr(callback, "__name__", "") == "_call_connection_lost" and transport._sock is not None:
            try:
                transport._sock.send(b"once more")
            except OSError:
                pass
        return super().call_soon(callback, *args, context=context)

class Keeps(play.ReferenceLoop):
    kept = []
    async def create_connection(self, *args, sock=None, **options):
        import os
        self.kept.append(os.dup(sock.fileno()))
        return await super().create_connection(*args, sock=sock, **options)

def reference_events(loop):
    def factory(world):
        selector = play.ReferenceSelector()
        selector.world = world
        return loop(selector)
    found = set()
    for seed in range(150):
        outcome = play.run(generate.program(seed, ("stream",)), factory, {}, on_reference=True)
        found.update(text.split(":")[0] for text in outcome.complaints)
    return sorted(found)

print(json.dumps({loop.__name__: reference_events(loop) for loop in (play.ReferenceLoop, NeverWrites, Twice, Keeps)}))
"""

HASHES = """
import json, sys
sys.path.insert(0, sys.argv[1])
from simulation.loop import generate, play
outcomes = [play.play(generate.program(seed)) for seed in range(0, 400, 10)]
print(json.dumps([[outcome.hash, outcome.calls, outcome.happened] for outcome in outcomes]))
"""

AGAIN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from simulation.loop import generate, play
program = generate.program(400)
assert program["kind"] == "tls"
print(json.dumps([play.play(program).hash for _ in range(40)]))
"""


def run(code: str) -> Any:
    """Run `code` in a process; returns what it prints, parsed as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE.parents[1])],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_asyncio_passes_and_mistakes_are_seen() -> None:
    found = run(BROKEN)
    assert found["ReferenceLoop"] == []
    assert "wakeup" in found["NeverWrites"]
    assert "bytes" in found["Twice"]
    assert "leak" in found["Keeps"]


def test_a_seed_makes_the_same_calls_in_every_process() -> None:
    first, second = run(HASHES), run(HASHES)
    assert first == second
    # All calls use the table, and faults happen.
    assert all(calls for _, calls, _ in first)
    assert sum(happened for _, _, happened in first) > 100


def test_a_program_makes_the_same_calls_however_many_handshakes_were_before() -> None:
    assert len(set(run(AGAIN))) == 1


def test_a_failure_is_shrunk_to_what_it_needs() -> None:
    """Needed: a write of 100 bytes or more, a peer that sends eof, and fault number 3."""

    def attempt(program: Program) -> tuple[str, int]:
        actions = [action for end in program["ends"] for entry in end["script"] for action in entry[2:]]
        writes = [action for action in actions if action[0] == "write" and action[1] >= 100]
        ends = [peer for end in program["ends"] for peer in end["peer"] if peer == ["eof"]]
        return ("loss" if writes and ends and 3 not in program.get("skip", ()) else "", 6)

    seed = next(seed for seed in range(1000) if attempt(generate.program(seed, ("stream",)))[0])
    found = shrink(generate.program(seed, ("stream",)), attempt)
    assert sum(len(end["script"]) for end in found["ends"]) == 1
    (entry,) = (entry for end in found["ends"] for entry in end["script"])
    assert entry[2][0] == "write" and len(entry) == 3 and entry[2][1] < 200
    assert [peer for end in found["ends"] for peer in end["peer"]] == [["eof"]]
    assert not any(found["faults"].values())
    assert found["skip"] == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("option", [
    "--seed 3", "--seeds 20 --jobs 2", "--seeds 20 --reference --kinds stream,stream_server,sock_methods",
])
def test_the_command(option: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), *option.split()],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
