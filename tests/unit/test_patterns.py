"""Regular expressions match in linear time: no text can be split between two neighbouring repeats in many ways.

`[ \\t]*` before a group that may hold blanks, too, takes quadratic time on many blanks, which anybody can send. All
patterns of the packages are parsed here: those that modules hold, and literals in calls of `re`.
"""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import corenet
import resolver

pytestmark = pytest.mark.checkout

parser: Any = importlib.import_module("re._parser")
constants: Any = importlib.import_module("re._constants")
ALL = frozenset(range(256))
REPEATS = (constants.MAX_REPEAT, constants.MIN_REPEAT)


def octets(pattern: Any) -> frozenset[int]:
    """The octets that one item of a parsed pattern can match."""
    code, value = pattern
    if code is constants.LITERAL:
        return frozenset({value})
    if code is constants.NOT_LITERAL:
        return ALL - {value}
    if code is constants.IN:
        return in_set(value)
    return ALL


def in_set(items: Any) -> frozenset[int]:
    found: set[int] = set()
    for code, value in items:
        if code is constants.LITERAL:
            found.add(value)
        elif code is constants.RANGE:
            found.update(range(value[0], min(value[1], 255) + 1))
        elif code is constants.CATEGORY:
            names = {constants.CATEGORY_DIGIT: r"\d", constants.CATEGORY_SPACE: r"\s", constants.CATEGORY_WORD: r"\w",
                     constants.CATEGORY_NOT_DIGIT: r"\D", constants.CATEGORY_NOT_SPACE: r"\S",
                     constants.CATEGORY_NOT_WORD: r"\W"}
            found.update(octet for octet in ALL if re.fullmatch(names[value], chr(octet)))
    return ALL - found if items and items[0][0] is constants.NEGATE else frozenset(found)


def flat(items: Any) -> Iterator[Any]:
    """The items in order, with those of groups in their place."""
    for code, value in items:
        if code is constants.SUBPATTERN:
            yield from flat(value[3])
        else:
            yield code, value


def ambiguous(items: Any) -> bool:
    """Whether two unbounded repeats that may touch have an octet in common, or a repeat consists of a repeat."""
    before: frozenset[int] = frozenset()
    for code, value in flat(items):
        if code in REPEATS:
            least, most, body = value
            inner = list(flat(body))
            own = octets(inner[0]) if len(inner) == 1 and inner[0][0] not in REPEATS else None
            if ambiguous(body) or (most == constants.MAXREPEAT and any(one in REPEATS for one, _ in inner) and (
                    len(inner) == 1)):
                return True
            if own is not None and most == constants.MAXREPEAT:
                if before & own:
                    return True
                before = own if least else before | own
                continue
            if least:
                before = frozenset()
            continue
        if code is constants.BRANCH:
            if any(ambiguous(branch) for branch in value[1]):
                return True
        if code not in (constants.AT, constants.ASSERT, constants.ASSERT_NOT):
            before = frozenset()
    return False


def patterns() -> Iterator[tuple[str, Any, int]]:
    """(place, pattern, flags) of all that can be found."""
    for package in (corenet, resolver):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                if isinstance(value, re.Pattern):
                    yield f"{info.name}.{name}", value.pattern, value.flags
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(
                        node.func.value, ast.Name) and node.func.value.id == "re" and node.args and isinstance(
                        node.args[0], ast.Constant):
                    yield f"{path.name}:{node.lineno}", node.args[0].value, 0


def test_no_pattern_takes_quadratic_time() -> None:
    found = list(patterns())
    assert len(found) > 30
    assert [(place, text) for place, text, flags in found if ambiguous(parser.parse(text, flags & ~re.DEBUG))] == []


@pytest.mark.parametrize("text", [rb"x:[ \t]*([\t -~]*)", r"a*a*b", r"(a+)+", r"\s*(?:#.*)?\s*$"])
def test_what_is_found(text: Any) -> None:
    assert ambiguous(parser.parse(text))


@pytest.mark.parametrize("text", [rb"x:([\t -~]*)", r"a*b*c", r"(?:\.[a-z]+)+", r"\d+ +\w+"])
def test_what_is_permitted(text: Any) -> None:
    assert not ambiguous(parser.parse(text))
