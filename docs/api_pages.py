"""Writes one API page per public module: signatures from the stubs, docstrings from the code, an example that runs.

Signatures are read from source text (`.pyi` beside a `.pyx`, else the `.py`), never from live objects: they then say
the same on every Python version. Docstrings come from the live objects,
because stubs have none.
The example of a page is `docs/examples/use_<module>.py`; a test runs every one of them.
"""

import ast
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"
#: The public modules: names that they export are public, all other names may change.
MODULES = (
    "corenet",
    "corenet.core",
    "corenet.transports",
    "corenet.tls",
    "corenet.http",
    "corenet.serving",
    "resolver",
)


@dataclass(frozen=True, slots=True)
class Member:
    """One function, method, property or class as its source writes it."""

    name: str
    signature: str
    kind: str


def source_of(module: str) -> ast.Module:
    """The parsed source that tells signatures: the stub where there is one."""
    base = ROOT / module.replace(".", "/")
    for path in (base.with_suffix(".pyi"), base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return ast.parse(path.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"no source for {module}")


def home_of(value: Any, package: str) -> str:
    """The module that defines `value`."""
    home = getattr(value, "__module__", None) or package
    return str(home)


def definition(module: str, name: str) -> ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Where the source of `module` defines `name` at its top level."""
    for node in source_of(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return node
    return None


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef, drop_self: bool) -> str:
    """The argument list and the returned type as the source writes them."""
    taken = function.args
    if drop_self and (taken.posonlyargs or taken.args):
        (taken.posonlyargs or taken.args).pop(0)
    returned = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"({ast.unparse(taken)}){returned}"


def is_decorated(function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> bool:
    """Whether `function` carries the decorator `name`."""
    return any(ast.unparse(decorator).split(".")[-1] == name for decorator in function.decorator_list)


def member_of(function: ast.FunctionDef | ast.AsyncFunctionDef, inside: bool) -> Member:
    """One function or method."""
    if inside and (is_decorated(function, "property") or is_decorated(function, "cached_property")):
        returned = f": {ast.unparse(function.returns)}" if function.returns else ""
        return Member(function.name, f"{function.name}{returned}", "property")
    prefix = "async " if isinstance(function, ast.AsyncFunctionDef) else ""
    drop = inside and not is_decorated(function, "staticmethod")
    return Member(function.name, f"{prefix}{function.name}{arguments_of(function, drop)}", "function")


def public_members(cls: ast.ClassDef, value: type) -> list[Member]:
    """The constructor and the public members of the class `value`, in the order of its source `cls`."""
    found: dict[str, Member] = {}
    for node in cls.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name in found or is_decorated(node, "setter") or is_decorated(node, "overload"):
                continue
            if not node.name.startswith("_"):
                found[node.name] = member_of(node, True)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            default = f" = {ast.unparse(node.value)}" if node.value is not None else ""
            if not name.startswith("_"):
                found[name] = Member(name, f"{name}: {ast.unparse(node.annotation)}{default}", "field")
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
            # A function of another module, taken as a method.
            name = node.value.attr
            home = getattr(vars(value).get(name), "__module__", None)
            taken = definition(home, name) if home and not name.startswith("_") else None
            if isinstance(taken, ast.FunctionDef | ast.AsyncFunctionDef):
                found[name] = member_of(taken, True)
    return list(found.values())


def constructor_of(cls: ast.ClassDef) -> str:
    """How the class is called, or nothing when its source does not say."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "__cinit__", "__new__"):
            return arguments_of(node, True).split(" -> ", maxsplit=1)[0]
    return ""


def docstring(value: Any) -> str:
    """The docstring without the signature that Cython puts before it."""
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str):
        return ""
    lines = text.split("\n")
    name = getattr(value, "__name__", "")
    if name and lines[0].startswith(f"{name}(") and not lines[0].endswith("."):
        lines = lines[1:]
    return inspect.cleandoc("\n".join(lines)).strip()


def as_markdown(text: str) -> str:
    """A docstring in Markdown: double backticks become single ones, indented sections become quoted blocks."""
    out: list[str] = []
    for line in text.replace("``", "`").split("\n"):
        if line.rstrip() in ("Raises:", "Args:", "Returns:", "Yields:"):
            out += ["", f"*{line.rstrip()}*", ""]
        elif line.startswith("    ") and not line.startswith("        "):
            out.append(f"- {line.strip()}")
        else:
            out.append(line.strip() if line.startswith("        ") else line)
    return "\n".join(out)


def own_doc(cls: Any, name: str) -> str:
    """The docstring of a member, but not one that a base outside these packages wrote."""
    for base in getattr(cls, "__mro__", ()):
        if name in vars(base):
            home = getattr(base, "__module__", "")
            return docstring(vars(base)[name]) if home.split(".")[0] in ("corenet", "resolver") else ""
    return ""


def class_section(name: str, value: Any, node: ast.ClassDef) -> list[str]:
    """A class with its constructor and members."""
    lines = [f"## `{name}{constructor_of(node)}`", ""]
    bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
    if bases:
        lines += [f"A subclass of {bases}.", ""]
    text = docstring(value)
    if text:
        lines += [as_markdown(text), ""]
    for member in public_members(node, value):
        lines.append(f"### `{member.signature}`")
        text = own_doc(value, member.name) if member.kind != "field" else ""
        lines += ["", as_markdown(text), ""] if text else [""]
    return lines


def inherited_sections(cls: type, node: ast.ClassDef, package: str) -> list[str]:
    """Members that come from bases of our own which the page does not show by themselves."""
    lines: list[str] = []
    shown = {m.name for m in public_members(node, cls)}
    for base in cls.__mro__[1:]:
        home = base.__module__
        if home.split(".")[0] not in ("corenet", "resolver"):
            continue
        source = definition(home, base.__name__)
        if not isinstance(source, ast.ClassDef):
            continue
        for member in public_members(source, base):
            if member.name in shown:
                continue
            shown.add(member.name)
            text = own_doc(cls, member.name) if member.kind != "field" else ""
            lines.append(f"### `{member.signature}`")
            lines += ["", as_markdown(text), ""] if text else [""]
    return lines


def section(package: str, module: ModuleType, name: str) -> list[str]:
    """One public name."""
    value = getattr(module, name)
    if isinstance(value, (int, str, bytes, float)) and not isinstance(value, type):
        shown = "" if name == "__version__" else f" = {value!r}"
        return [f"## `{name}{shown}`", "", ""]
    home = home_of(value, package)
    ours = hasattr(value, "__name__") and home.split(".")[0] in ("corenet", "resolver")
    node = definition(home, value.__name__) if ours else None
    if isinstance(node, ast.ClassDef):
        return class_section(name, value, node) + inherited_sections(value, node, package)
    if node is not None:
        text = docstring(value)
        return [f"## `{member_of(node, False).signature}`", "", as_markdown(text), ""]
    return [f"## `{name}`", "", as_markdown(docstring(value)), ""]


def page(package: str) -> str:
    """The page of one module."""
    module = importlib.import_module(package)
    names = [n for n in module.__all__ if n != "__version__"]
    made = "Made by `make docs` from the code; the example is a test."
    example = (EXAMPLES / f"use_{package.replace('.', '_')}.py").read_text(encoding="utf-8").rstrip()
    head = [f"# {package}", "", made, "", as_markdown(docstring(module))]
    head += ["", "## Example", "", "```python", example, "```"]
    lines: list[str] = [""]
    for name in sorted(names, key=str.lower):
        lines += section(package, module, name)
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return "\n".join(head) + "\n" + text.rstrip() + "\n"
