"""The command `top` of the control socket: watchers, their number, and the reply from the parts of all workers."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.loop_clock import LoopClock, stopped_clock

from resolver import limits
from resolver.daemon.top import Top
from resolver.daemon.watching import KINDS
from resolver.observe.activity import DROPS

T = TypeVar("T")
EMPTY = {"floor": 0.0, "keys": []}


def run(body: Callable[[LoopClock], Awaitable[T]]) -> T:
    """The result of `body`, which alone moves the clock of the loop."""

    async def with_clock() -> T:
        with stopped_clock() as clock:
            return await body(clock)

    return asyncio.run(with_clock())


def part(replies: int = 0, samples: int = 0, **lists: Any) -> dict[str, Any]:
    """What a worker gives, as it comes through JSON."""
    return json.loads(json.dumps({  # type: ignore[no-any-return]
        "replies": replies, "samples": samples, "lists": {**dict.fromkeys(KINDS, EMPTY), **lists},
    }))


def counted(*keys: tuple[str, float, float, int, int], floor: float = 0.0) -> dict[str, Any]:
    return {"floor": floor, "keys": list(keys)}


def queries(count: int) -> dict[str, Any]:
    return {"clients": {"queries": {"udp.A": count}, "replies": {"udp.NOERROR": count}}}


def test_the_first_call_begins_and_the_next_has_the_interval() -> None:
    async def body(clock: LoopClock) -> None:
        top = Top()
        watcher = top.admit({"lines": 2})
        began = await watcher.look(queries(100), [part(), part()], 2)
        assert began == {"watch": watcher.name, "activity": None}
        clock.move(4)
        assert top.admit({"watch": watcher.name, "lines": 2}) is watcher
        one = part(
            30, 10, names=counted(("a. A", 20, 0, 7, 0), ("b. MX", 10, 0, 3, 0)), clients=counted(("::1", 30, 0, 1, 0)),
            slow=counted(("com.", 1.25, 0.25, 3, 1)),
        )
        two = part(20, 20, names=counted(("a. A", 9.6, 4, 5, 0), ("c. A", 10.4, 0, 2, 0), floor=4.0))
        found = (await watcher.look(queries(900), [one, two], 3))["activity"]
        assert found["seconds"] == 4.0
        assert found["queries"]["by_transport"] == {"udp": 200.0}
        assert found["workers"] == {"answered": 2, "all": 3}
        assert found["sampling"] == {"replies": 50, "samples": 30}
        assert found["top"] == {
            "names": [{"name": "a.", "type": "A", "count": 30, "error": 4},
                      {"name": "c.", "type": "A", "count": 10, "error": 0}],
            "clients": [{"client": "::1", "count": 30, "error": 0}],
            "zones": [], "failed": [],
            "slow": [{"zone": "com.", "seconds": 1.25, "error": 0.25, "queries": 3, "unanswered": 1}],
        }

    run(body)


def test_the_number_of_watchers_is_limited_and_those_that_went_away_make_room() -> None:
    async def body(clock: LoopClock) -> None:
        top = Top()
        known = [top.admit({"keep": 20}) for _ in range(limits.TOP_WATCHERS)]
        assert len({one.name for one in known}) == limits.TOP_WATCHERS
        with pytest.raises(ValueError, match=r"others watch already.* within 20 seconds"):
            top.admit({})
        assert top.admit({"watch": known[0].name, "keep": 50}) is known[0]
        clock.move(30)
        assert top.admit({"watch": known[1].name}) not in known, "it was forgotten, and begins again"
        assert top.admit({"watch": known[0].name, "keep": 0}) is known[0]
        for _ in range(limits.TOP_WATCHERS - 1):
            top.admit({})

    run(body)


@pytest.mark.checkout
def test_the_page_on_monitoring_has_every_field() -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "monitoring.md").read_text()
    rows = page.partition("| field | value |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    documented = {field: row for row in rows for field in re.findall(r"`([^`]+)`", row.split("|")[1])}

    async def body(clock: LoopClock) -> dict[str, Any]:
        watcher = Top().admit({})
        await watcher.look({}, [], 1)
        clock.move(4)
        found: dict[str, Any] = (await watcher.look(queries(1), [part(
            names=counted(("a. A", 1, 0, 1, 0)), failed=counted(("a. A", 1, 0, 1, 0)), slow=counted(("a.", 1, 0, 1, 0)),
            clients=counted(("::1", 1, 0, 1, 0)), zones=counted(("a.", 1, 0, 1, 0)),
        )], 1))["activity"]
        return found

    found = run(body)
    assert set(documented) == set(fields_of(found))
    for kind, [entry] in found["top"].items():
        for key in entry:
            assert f"`{key}`" in documented[f"top.{kind}"], (kind, key)
    for reason in DROPS:
        assert f"`{reason}`" in documented["drops"], reason
    for kind in KINDS:
        assert f"\n| `{kind}` | " in page


def fields_of(found: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The fields of a view, without the names of transports and the like."""
    for key, value in found.items():
        if isinstance(value, dict) and not key.startswith("by_") and key != "drops":
            yield from fields_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("request_", [{"keep": -1}, {"keep": 10_000}, {"lines": 0}, {"lines": 101}])
def test_numbers_are_checked(request_: dict[str, int]) -> None:
    async def body(clock: LoopClock) -> None:
        with pytest.raises(ValueError, match=next(iter(request_))):
            Top().admit(request_)

    run(body)


def test_the_longest_reply_is_a_line_that_resolverctl_accepts() -> None:
    """Names of binary octets are escaped once as names and once more in JSON."""
    name = "\\027" * 250 + "."
    keys = [(f"{number:03}{name[3:]} A", 1e9, 1.0, 1, 1) for number in range(limits.TOP_KEYS)]

    async def body(clock: LoopClock) -> int:
        top = Top()
        watcher = top.admit({"lines": limits.TOP_LINES.maximum})
        await watcher.look({}, [], 1)
        clock.move(4)
        reply = await watcher.look({}, [part(**{kind: counted(*keys) for kind in KINDS})], 1)
        return len(json.dumps(reply))

    assert 400_000 < run(body) < limits.CONTROL_REPLY
