"""No assertion of the tests is true whatever the code does.

The rules are for the sources of the tests, which are read here: an assertion is no constant, has no branch that is a
constant (``assert check(x) if hasattr(x, "check") else True``), and no alternative that is always true.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

TESTS = Path(__file__).resolve().parents[1]


def always_true(test: ast.expr) -> bool:
    """Whether `test` is true in some branch by its form alone."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, (ast.Tuple, ast.List)):
        return bool(test.elts)
    if isinstance(test, ast.IfExp):
        return always_true(test.body) or always_true(test.orelse)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(always_true(value) for value in test.values)
    return False


def found_in(text: str) -> Iterator[int]:
    """The lines of such assertions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assert) and always_true(node.test):
            yield node.lineno


def test_each_assertion_may_fail() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py")) for line in found_in(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(("text", "seen"), [
    ("assert True", True),
    ("assert (x, 'why')", True),
    ("assert x.check() if hasattr(x, 'check') else True", True),
    ("assert x or True", True),
    ("assert x, 'why'", False),
    ("assert x if y else z", False),
    ("assert x if y else False", False),
    ("assert True in x", False),
])
def test_what_is_seen(text: str, seen: bool) -> None:
    assert bool(list(found_in(text))) == seen
