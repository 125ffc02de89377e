"""Compiled generators have no functions nested in them, because nothing would ever free the two.

The variables of a compiled generator are in a closure object, which Cython gives no `tp_clear`. A nested function
refers to that object, and with ``binding=False`` it is a built-in function, which has no `tp_clear` either. When one of
the variables holds the function, the garbage collector finds the cycle and cannot break it. The same holds for a nested
function that calls itself.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for package in ("corenet", "resolver") for path in sorted((ROOT / package).rglob("*"))]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def compiled() -> list[Path]:
    """Modules in Python with declarations for Cython beside them, and those that setup.py names."""
    named = (ROOT / "setup.py").read_text(encoding="utf-8")
    return [path for path in SOURCES if path.suffix == ".py" and path.stem != "__init__"
            and (path.with_suffix(".pxd").exists() or f'"{path.relative_to(ROOT)}"' in named)]


def inside(function: Function) -> Iterator[ast.AST]:
    """The nodes of `function` that are not in a function nested in it; nested functions themselves are among them."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def faults(tree: ast.AST) -> Iterator[str]:
    for outer in ast.walk(tree):
        if not isinstance(outer, Function):
            continue
        nodes = list(inside(outer))
        generates = isinstance(outer, ast.AsyncFunctionDef) or any(
            isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes
        )
        for node in nodes:
            if isinstance(node, Function | ast.Lambda):
                name = getattr(node, "name", "lambda")
                recursive = any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))
                if generates or recursive:
                    yield f"line {node.lineno}: {name} in {outer.name}"


@pytest.mark.parametrize("path", compiled(), ids=lambda path: path.stem)
def test_no_cycle_through_a_nested_function(path: Path) -> None:
    assert list(faults(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_the_cython_modules_have_no_nested_functions() -> None:
    nested = []
    for path in SOURCES:
        if path.suffix != ".pyx":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            inner = line.startswith(" " * 8) and line.split()[:1] in (["def"], ["async"])
            if inner or " lambda" in line.partition("#")[0]:
                nested.append(f"{path}:{number}")
    assert nested == []


@pytest.mark.parametrize("text", [
    "def a():\n def b(): pass\n yield b", "async def a():\n b = lambda: 1", "def a():\n def b(): return b\n return b",
])
def test_a_cycle_is_found(text: str) -> None:
    assert len(list(faults(ast.parse(text)))) == 1


def test_a_function_nested_in_an_ordinary_one_is_none() -> None:
    assert list(faults(ast.parse("def a():\n def b(): return 1\n return b"))) == []
