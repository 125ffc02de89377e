"""The layers of docs/architecture.md as a table, and no import circle between modules.

Every `import` and `cimport` of the two packages, in `.py`, `.pyx` and `.pxd`, in functions and for type checkers alone,
is compared with two lists: which package may import which (only those above it in the table), and which modules may
import a library. Within a package the modules may import each other in one direction only.
"""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]

# A package may import itself and any package of an earlier layer. Packages of one layer do not import each other.
LAYERS = [
    {"corenet._version", "corenet.limits"},
    {"corenet.core"},
    {"corenet.transports"},
    {"corenet.tls"},
    {"corenet.loop"},
    {"corenet.http", "corenet.serving"},
    {"corenet"},
    {"corenet.adapters"},
    {"corenet.launch"},
    {"resolver.limits", "resolver.verdict"},
    {"resolver.log_limit", "resolver.regular_file"},
    {"resolver.geo", "resolver.hints", "resolver.options"},
    {"resolver.nat64", "resolver.upstream_address"},
    {"resolver.settings"},
    {"resolver.wire"},
    {"resolver.cache"},
    {"resolver.query"},
    {"resolver.effects"},
    {"resolver.errors", "resolver.hooks"},
    {"resolver.observe"},
    {"resolver.observe.pieces"},
    {"resolver.observe.observer", "resolver.observe.output"},
    {"resolver.observe.collector", "resolver.observe.query_log"},
    {"resolver.zones"},
    {"resolver.iterate", "resolver.validate", "resolver.policy"},
    {"resolver.scoped_replies"},
    {"resolver.cached_replies", "resolver.partial_response"},
    {"resolver.resolve"},
    {"resolver.stale_answers", "resolver.view_contexts"},
    {"resolver.query_quota"},
    {"resolver.jobs"},
    {"resolver.query_sharing"},
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
LEVEL = {package: number for number, packages in enumerate(LAYERS) for package in packages}

SANS_IO = {"resolver.wire", "resolver.cache", "resolver.iterate", "resolver.validate", "resolver.policy",
           "resolver.scoped_replies", "resolver.cached_replies", "resolver.partial_response", "resolver.resolve",
           "resolver.stale_answers", "resolver.view_contexts", "resolver.query_quota", "resolver.jobs", "resolver.mesh",
           "resolver.query_sharing",
           "resolver.effects", "resolver.query", "resolver.errors", "resolver.zones", "resolver.options",
           "resolver.nat64", "resolver.upstream_address", "resolver.settings", "resolver.limits", "resolver.verdict",
           "resolver.explain", "resolver.observe"}
SEES_CORENET = {"resolver.net", "resolver.api", "resolver.addrinfo", "resolver.system", "resolver.playground",
                "resolver.daemon", "resolver.cli", "resolver"}
IMPURE = {"socket", "time", "random", "secrets", "threading", "os", "asyncio", "selectors", "subprocess"}

# Library -> prefixes of modules it may be imported in. Tests are outside the packages and free.
LIBRARIES = {
    "dns": {"resolver.wire.present", "resolver.zones.load", "resolver.cli", "resolver.playground"},
    "cryptography": {"corenet.tls.dane", "corenet.tls.staples", "resolver.validate.verify", "resolver.playground.certs",
                     "resolver.playground.signing", "resolver.net.quic_hello"},
    "ssl": {"corenet.tls"},
    "msgspec": {"resolver.daemon.config"},
    "idna": {"corenet.http.host_names", "resolver.addrinfo", "resolver.api", "resolver.cli",
             "resolver.policy.list_formats"},
    "h2": set(),
    "hpack": set(),
    "prometheus_client": {"resolver.daemon.metrics"},
    "aiohttp": {"corenet.adapters.aiohttp"},
    "httpx": {"corenet.adapters.httpx"},
    "qh3": {"resolver.net.quic_connection", "resolver.net.quic_listener", "resolver.daemon.certificates",
            "resolver.net.quic_client"},
    "publicsuffixlist": {"corenet.http.public_suffixes"},
    "redis": {"resolver.net.redis_cluster", "resolver.net.redis_node", "resolver.net.redis_parser"},
    "tomllib": {"resolver.daemon.config", "resolver.daemon.config_lines"},
    "asyncio": {"corenet", "resolver.net", "resolver.api", "resolver.addrinfo", "resolver.system", "resolver.daemon",
                "resolver.cli", "resolver.playground", "resolver"},
}


def modules(root: Path = ROOT, packages: tuple[str, ...] = ("corenet", "resolver")) -> list[tuple[str, Path]]:
    """(dotted name, path) of every source file of the packages; a `.pyx` and its `.pxd` have one name."""
    found = []
    for package in packages:
        for path in sorted((root / package).rglob("*")):
            if path.suffix not in (".py", ".pyx", ".pxd"):
                continue
            parts = list(path.relative_to(root).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            found.append((".".join(parts), path))
    return found


def package_of(module: str) -> str | None:
    """The longest entry of LAYERS that contains `module`; None for foreign modules."""
    best = None
    for package in LEVEL:
        if (module == package or module.startswith(package + ".")) and (best is None or len(package) > len(best)):
            best = package
    return best


def imports_of(name: str, path: Path, known: set[str], *, for_checkers: bool = True) -> set[str]:
    """Dotted names of the modules that a file imports or cimports; with `for_checkers` also under TYPE_CHECKING.

    ``from package import module`` is an import of the module when it is one of `known`, else of the package.
    """
    text = path.read_text(encoding="utf-8")
    found: set[str] = set()
    package = name if path.stem == "__init__" else name.rpartition(".")[0]

    def add(module: str, level: int, names: list[str]) -> None:
        if level:
            base = package.split(".")
            base = base[: len(base) - (level - 1)]
            module = ".".join([*base, module] if module else base)
        found.update(leaf if (leaf := f"{module}.{one}") in known else module for one in names)

    if path.suffix == ".py":
        tree = ast.parse(text)
        left_out = {id(n) for node in ast.walk(tree)
                    if not for_checkers and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
                    for child in node.body for n in ast.walk(child)}
        for node in ast.walk(tree):
            if id(node) in left_out:
                continue
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                add(node.module or "", node.level, [a.name for a in node.names])
        return found
    joined = re.sub(r"\(\s*([^()]*?)\s*\)", lambda m: " ".join(m.group(1).split()), text)
    for match in re.finditer(r"^\s*from\s+(\.*)([\w.]*)\s+c?import\s+(.+)$", joined, re.M):
        names = [n.split(" as ")[0].strip() for n in match.group(3).split("#")[0].split(",")]
        add(match.group(2), len(match.group(1)), names)
    found.update(match.group(1) for match in re.finditer(r"^\s*c?import\s+([\w.]+)", joined, re.M))
    return found


def circles(files: list[tuple[str, Path]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (strongly connected components)."""
    known = {name for name, _ in files}
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, path in files:
        graph[name] |= imports_of(name, path, known) & known - {name}
    reached: dict[str, set[str]] = {}
    for name in graph:
        reached[name] = set()
        waiting = list(graph[name])
        while waiting:
            target = waiting.pop()
            if target not in reached[name]:
                reached[name].add(target)
                waiting.extend(graph[target])
    found = {tuple(sorted(other for other in targets if name in reached[other]))
             for name, targets in reached.items() if name in targets}
    return [list(circle) for circle in sorted(found)]


MODULES = modules()
NAMES = {name for name, _ in MODULES}
# `corenet/core/__init__.py` and the like are one package; the two top-level packages are listed by themselves.
EDGES = [(name, target) for name, path in MODULES for target in sorted(imports_of(name, path, NAMES))]
# A type that only a checker sees loads no library.
LOADED = [(name, target) for name, path in MODULES
          for target in sorted(imports_of(name, path, NAMES, for_checkers=False))]


def test_every_module_has_a_package_in_the_table() -> None:
    unlisted = [name for name, _ in MODULES if package_of(name) in (None, "corenet", "resolver")
                and name not in ("corenet", "resolver")]
    assert unlisted == [], "add them to LAYERS or move them into a listed package"


def test_packages_import_only_lower_layers() -> None:
    wrong = []
    for name, target in EDGES:
        mine, theirs = package_of(name), package_of(target)
        if theirs is None or mine is None or mine == theirs:
            continue
        if LEVEL[theirs] >= LEVEL[mine]:
            wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_no_modules_import_each_other() -> None:
    assert circles(MODULES) == []


@pytest.mark.parametrize(("name", "text"), [
    ("b.py", "from p import a\n"),
    ("b.py", "import p.a\n"),
    ("b.py", "from .a import (\n    X,\n)\n"),
    ("b.py", "def f():\n    from p.a import X\n"),
    ("b.py", "if TYPE_CHECKING:\n    from p.a import X\n"),
    ("b.pyx", "def f():\n    from p import a\n"),
    ("b.pyx", "from p cimport a as c\n"),
    ("b.pyx", "from p.a cimport (\n    X,\n    Y,\n)\n"),
    ("b.pxd", "cimport p.a\n"),
    ("b.pxd", "from p.a cimport X\n"),
    ("b.py", "from p import c\n"),
])
def test_a_circle_is_found_however_it_is_imported(tmp_path: Path, name: str, text: str) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "__init__.py").write_text("from p.d import Z\n")
    (folder / "a.py").write_text("from p import b\n")
    (folder / "c.py").write_text("from p.a import X\n")
    (folder / "d.py").write_text("import asyncio\n")
    (folder / "b.pyx").write_text("")
    (folder / name).write_text(text)
    through_c = ["p.c"] if text == "from p import c\n" else []
    assert circles(modules(tmp_path, ("p",))) == [["p.a", "p.b", *through_c]]


def test_corenet_never_imports_resolver() -> None:
    assert [e for e in EDGES if e[0].startswith("corenet") and e[1].split(".")[0] == "resolver"] == []


def test_only_the_outer_packages_import_corenet() -> None:
    wrong = [e for e in EDGES if e[0].startswith("resolver") and e[1].split(".")[0] == "corenet"
             and package_of(e[0]) not in SEES_CORENET]
    assert wrong == []


def test_sans_io_packages_have_no_clock_socket_or_randomness() -> None:
    wrong = [e for e in EDGES if package_of(e[0]) in SANS_IO and e[1].split(".")[0] in IMPURE]
    assert wrong == []


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_a_library_is_imported_only_where_the_table_permits(library: str) -> None:
    permitted = LIBRARIES[library]
    wrong = [name for name, target in LOADED if target.split(".")[0] == library
             and not any(name == one or name.startswith(one + ".") for one in permitted)]
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
    allowed = {"corenet.core.libc", "resolver.wire.consts", "resolver.net.libc", "resolver.observe.libc",
               "resolver.policy.libc"}
    wrong = [name for name, path in MODULES if path.suffix in (".pyx", ".pxd") and name not in allowed
             and re.search(r"^cdef extern from\s+[\"<](?!Python\.h)", path.read_text(encoding="utf-8"), re.M)]
    assert wrong == []
