"""The staircase of docs/architecture.md, read as a table.

Every `import` and `cimport` of the two packages, in `.py`, `.pyx` and `.pxd`, is held against two lists: who may look
at whom (a room sees only what stands before it), and which single door each library comes in by.
"""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]

# A room may import itself and whatever stands on an earlier step. Rooms on one step do not know each other.
STAIRCASE = [
    {"corenet._version", "corenet.limits"},
    {"corenet.core"},
    {"corenet.transports"},
    {"corenet.tls"},
    {"corenet.loop"},
    {"corenet.http", "corenet.serving"},
    {"corenet"},
    {"corenet.adapters"},
    {"corenet.launch"},
    {"resolver.limits", "resolver.values", "resolver.verdict"},
    {"resolver.hints", "resolver.knobs"},
    {"resolver.settings"},
    {"resolver.wire"},
    {"resolver.effects", "resolver.errors"},
    {"resolver.cache"},
    {"resolver.iterate", "resolver.validate", "resolver.policy"},
    {"resolver.resolve"},
    {"resolver.places"},
    {"resolver.mesh"},
    {"resolver.net"},
    {"resolver.system"},
    {"resolver.explain"},
    {"resolver.api"},
    {"resolver.addrinfo"},
    {"resolver.playground"},
    {"resolver.daemon"},
    {"resolver.cli"},
    {"resolver"},
]
STEP = {room: number for number, rooms in enumerate(STAIRCASE) for room in rooms}

SANS_IO = {"resolver.wire", "resolver.cache", "resolver.iterate", "resolver.validate", "resolver.policy",
           "resolver.resolve", "resolver.places", "resolver.mesh", "resolver.effects", "resolver.errors",
           "resolver.knobs", "resolver.limits", "resolver.values", "resolver.verdict", "resolver.explain"}
SEES_CORENET = {"resolver.net", "resolver.api", "resolver.addrinfo", "resolver.system", "resolver.playground",
                "resolver.daemon", "resolver.cli", "resolver"}
IMPURE = {"socket", "time", "random", "secrets", "threading", "os", "asyncio", "selectors", "subprocess"}

# Library -> prefixes of modules it may be imported in. Tests are outside the packages and free.
DOORS = {
    "dns": {"resolver.wire.present", "resolver.cli", "resolver.playground"},
    "cryptography": {"resolver.validate.verify", "resolver.playground.certs", "resolver.playground.signing"},
    "ssl": {"corenet.tls"},
    "msgspec": {"resolver.daemon.config"},
    "idna": {"corenet.http.url", "resolver.addrinfo", "resolver.api", "resolver.cli"},
    "h2": {"corenet.http.h2"},
    "prometheus_client": {"resolver.daemon.metrics"},
    "redis": {"resolver.cache.second"},
    "tomllib": {"resolver.daemon.config"},
    "asyncio": {"corenet", "resolver.net", "resolver.api", "resolver.addrinfo", "resolver.system", "resolver.daemon",
                "resolver.cli", "resolver.playground", "resolver"},
}


def modules() -> list[tuple[str, Path]]:
    """(dotted name, path) of every source file of both packages."""
    found = []
    for package in ("corenet", "resolver"):
        for path in sorted((ROOT / package).rglob("*.py*")):
            if path.suffix not in (".py", ".pyx", ".pxd") or "__pycache__" in path.parts:
                continue
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            found.append((".".join(parts), path))
    return found


def room_of(module: str) -> str | None:
    """The longest entry of the staircase that `module` lies in; None for foreign modules."""
    best = None
    for room in STEP:
        if (module == room or module.startswith(room + ".")) and (best is None or len(room) > len(best)):
            best = room
    return best


def imports_of(name: str, path: Path) -> set[str]:
    """Dotted names a file imports or cimports, relative ones made absolute, type-checking blocks left out."""
    text = path.read_text(encoding="utf-8")
    found: set[str] = set()
    package = name if path.stem == "__init__" else name.rpartition(".")[0]

    def add(module: str, level: int, names: list[str]) -> None:
        if level:
            base = package.split(".")
            base = base[: len(base) - (level - 1)]
            module = ".".join([*base, module] if module else base)
        found.add(module)
        for leaf in names:
            if (ROOT / Path(*module.split(".")) / f"{leaf}.py").exists() or any(
                (ROOT / Path(*module.split(".")) / f"{leaf}{end}").exists() for end in (".pyx", ".pxd", "/__init__.py")
            ):
                found.add(f"{module}.{leaf}")

    if path.suffix == ".py":
        tree = ast.parse(text)
        guarded = {id(n) for node in ast.walk(tree)
                   if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
                   for child in node.body for n in ast.walk(child)}
        for node in ast.walk(tree):
            if id(node) in guarded:
                continue
            if isinstance(node, ast.Import):
                for alias in node.names:
                    add(alias.name, 0, [])
            elif isinstance(node, ast.ImportFrom):
                add(node.module or "", node.level, [a.name for a in node.names])
        return found
    joined = re.sub(r"\(\s*([^()]*?)\s*\)", lambda m: " ".join(m.group(1).split()), text)
    for match in re.finditer(r"^\s*from\s+(\.*)([\w.]*)\s+c?import\s+(.+)$", joined, re.M):
        names = [n.split(" as ")[0].strip() for n in match.group(3).split("#")[0].split(",")]
        add(match.group(2), len(match.group(1)), names)
    for match in re.finditer(r"^\s*c?import\s+([\w.]+)", joined, re.M):
        add(match.group(1), 0, [])
    return found


MODULES = modules()
# `corenet/core/__init__.py` and the like are one room; the two top doors are modules of their own.
EDGES = [(name, target) for name, path in MODULES for target in sorted(imports_of(name, path))]


def test_every_module_has_a_room() -> None:
    homeless = [name for name, _ in MODULES if room_of(name) in (None, "corenet", "resolver")
                and name not in ("corenet", "resolver")]
    assert homeless == [], "add them to STAIRCASE or move them into a room"


def test_rooms_look_down_the_staircase_only() -> None:
    wrong = []
    for name, target in EDGES:
        mine, theirs = room_of(name), room_of(target)
        if theirs is None or mine is None or mine == theirs:
            continue
        if target in ("corenet", "resolver") and name.startswith(target + "."):
            continue  # `from resolver import limits`: the leaf is an edge of its own
        if STEP[theirs] >= STEP[mine]:
            wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_corenet_never_imports_resolver() -> None:
    assert [e for e in EDGES if e[0].startswith("corenet") and e[1].split(".")[0] == "resolver"] == []


def test_only_the_outer_rooms_see_corenet() -> None:
    wrong = [e for e in EDGES if e[0].startswith("resolver") and e[1].split(".")[0] == "corenet"
             and room_of(e[0]) not in SEES_CORENET]
    assert wrong == []


def test_pure_rooms_have_no_clock_no_socket_no_randomness() -> None:
    wrong = [e for e in EDGES if room_of(e[0]) in SANS_IO and e[1].split(".")[0] in IMPURE]
    assert wrong == []


@pytest.mark.parametrize("library", sorted(DOORS))
def test_one_door_per_library(library: str) -> None:
    doors = DOORS[library]
    wrong = [name for name, target in EDGES if target.split(".")[0] == library
             and not any(name == d or name.startswith(d + ".") for d in doors)]
    assert wrong == []


def test_every_pyx_has_a_pxd_or_says_why_not() -> None:
    bare = [name for name, path in MODULES if path.suffix == ".pyx" and not path.with_suffix(".pxd").exists()
            and "no .pxd" not in path.read_text(encoding="utf-8")[:3000]]
    assert bare == [], "write the .pxd, or the words 'no .pxd' and the reason in the docstring"


def test_every_module_begins_with_what_it_is_for() -> None:
    mute = []
    for name, path in MODULES:
        if path.suffix == ".pxd":
            continue
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            mute.append(name)
            continue
        match = re.match(r'\s*(?:#[^\n]*\n\s*)*[rR]?"""(.*?)"""', text, re.S)
        sentences = len(re.findall(r"[.!?:](?:\s|$)", match.group(1))) if match else 0
        if sentences < 2:
            mute.append(name)
    assert mute == [], "a docstring of at least two sentences: what it is for, which rule it keeps"


def test_externs_stand_in_one_place() -> None:
    allowed = {"corenet.core.sys", "resolver.wire.consts", "resolver.net.libc"}
    wrong = [name for name, path in MODULES if path.suffix in (".pyx", ".pxd") and name not in allowed
             and re.search(r"^cdef extern from\s+[\"<]", path.read_text(encoding="utf-8"), re.M)
             and not re.search(r"^cdef extern from \"Python.h\"", path.read_text(encoding="utf-8"), re.M)]
    assert wrong == []
