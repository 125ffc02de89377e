"""Shrinks a failing program to a smaller one that fails in the same way.

Greedy: remove or reduce one thing after the other and keep a change while the program fails with the same category,
until nothing can be removed. Each attempt runs in its own child process, so a crash is a result like any other. Faults
are left out by number, at first all of a kind.
"""

import copy
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from simulation.loop.generate import Program

SECONDS = 20
MOST_ATTEMPTS = 3000


def _attempt(pipe: Connection, program: Program, reference: bool) -> None:
    from simulation.loop import play

    sys.stderr = open(os.devnull, "w")
    skip = program.pop("skip", ())
    outcome = (play.play_reference if reference else play.play)(program, skip=skip)
    pipe.send((outcome.category, outcome.drawn))


def in_child(program: Program, *, reference: bool = False) -> tuple[str, int]:
    """Run `program` in a child; return the category of its failure, "" for none, and the number of faults drawn."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_attempt, args=(theirs, copy.deepcopy(program), reference))
    process.start()
    theirs.close()
    try:
        if not ours.poll(SECONDS):
            process.kill()
            return "hang", 0
        found: tuple[str, int] = ours.recv()
        return found
    except EOFError:
        process.join()
        return f"died {process.exitcode}", 0
    finally:
        process.join()
        ours.close()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values inside `value` that may be removed or reduced, outer ones first."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in items:
        if isinstance(value, list) and (isinstance(inner, list | dict)):
            yield (*path, key)
    for key, inner in items:
        if isinstance(inner, list | dict):
            yield from places(inner, (*path, key))
        elif isinstance(inner, int) and not isinstance(inner, bool) and inner > 0 and key != "seed":
            yield (*path, key)


def smaller(program: Program, path: tuple[Any, ...]) -> Iterator[Program]:
    """The programs that are smaller at `path`."""
    *outer, last = path
    first = copy.deepcopy(program)
    holder: Any = first
    for key in outer:
        holder = holder[key]
    value = holder[last]
    if isinstance(value, int):
        # A rate may be 0; other numbers may not, because 0 has another meaning.
        for fewer in (0 if "faults" in path else 1, 1, value // 10, value // 2):
            if 0 <= fewer < value and (fewer or "faults" in path):
                other = copy.deepcopy(program)
                holder = other
                for key in outer:
                    holder = holder[key]
                holder[last] = fewer
                yield other
        return
    del holder[last]
    yield first


def shrink(program: Program, attempt: Callable[[Program], tuple[str, int]]) -> Program:
    """Return the smallest program found that fails as `program` does; its `skip` contains the faults left out.

    `attempt` runs a program and returns its category of failure, "" for none, and the number of faults drawn.

    Raises:
        ValueError: `program` does not fail.
    """
    category, _ = attempt(program)
    if not category:
        raise ValueError("this program does not fail")
    attempts = 0
    changed = True
    while changed and attempts < MOST_ATTEMPTS:
        changed = False
        for path in list(places(program)):
            try:
                candidates = list(smaller(program, path))
            except (LookupError, TypeError):
                # This path no longer exists, because something before it was removed.
                continue
            for candidate in candidates:
                attempts += 1
                if attempt(candidate)[0] == category:
                    program = candidate
                    changed = True
                    break
    _, drawn = attempt(program)
    skip: list[int] = []
    for number in range(min(drawn, MOST_ATTEMPTS)):
        if attempt({**program, "skip": [*skip, number]})[0] == category:
            skip.append(number)
    return {**program, "skip": skip} if skip else program
