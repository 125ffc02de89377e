"""The documents stay true: generated pages are up to date, and names and links in the others exist."""

import importlib.util
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
assert spec is not None
assert spec.loader is not None
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


# Words and names with a small letter with which a sentence may begin.
SMALL = {"asyncio's", "frames_received", "nginx", "rdig", "resolv.conf(5):", "resolverctl"}


@pytest.mark.parametrize("package", ["corenet", "resolver"])
def test_limits_have_a_unit_and_reasons_that_are_sentences(package: str) -> None:
    rows = list(generate.limit_rows(package))
    assert rows
    for name, _, _, unit, reason in rows:
        assert unit and reason.endswith("."), name
        assert not reason[0].islower() or reason.split()[0] in SMALL, f"{name}: {reason}"


@pytest.mark.parametrize("name", sorted(generate.PAGES))
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("page", [*sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")), "../README.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = DOCS / page
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_readme_leads_to_every_page(page: str) -> None:
    assert f"(docs/{page})" in (ROOT / "README.md").read_text(encoding="utf-8")


# Metaphors for parts of the code, and subjects that do not say who acts. Generated pages repeat the sources: left out.
UNCLEAR = re.compile(
    r"\b(staircase|hall|rooms|doors?|whoever|no one|(no|some)body|strangers?|goodbyes?|in vain|hear[sd]? of|"
    r"mend(s|ed)?|(go(es)?|going|went|serves?|lives?) on|told apart)\b",
    re.IGNORECASE,
)
MADE = generate.PAGES.keys() - generate.migration_pages.PAGES.keys()  # of the latter only the tables are made
WRITTEN = [
    ROOT / "README.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if str(page.relative_to(DOCS)) not in MADE),
]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_pages_use_terms_of_the_field(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in text.splitlines() if UNCLEAR.search(line)] == []


SOURCES = [
    path for package in ("corenet", "resolver") for path in sorted((ROOT / package).rglob("*"))
    if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".h")
]  # fmt: skip


def test_sources_use_terms_of_the_field() -> None:
    """Names, comments, docstrings, log lines; "nobody.invalid." is the mailbox in SOA records, as Unbound has it."""
    assert [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNCLEAR.search(line.replace("nobody.invalid.", ""))
    ] == []


def option_names() -> set[str]:
    """All keys of resolverd, those of tables with the name of the table."""
    options = (DOCS / "resolverd-options.md").read_text(encoding="utf-8")
    found = set(re.findall(r"(?m)^\| `([a-z0-9.-]+)` \|", options.partition("\n## Keys of a ")[0]))
    for table, rows in re.findall(r"(?ms)^## Keys of a `\[\[([a-z.-]+)\]\]` table$(.*?)(?=^## |\Z)", options):
        found |= {f"{table}.{key}" for key in re.findall(r"(?m)^\| `([a-z0-9-]+)` \|", rows)} | {table, f"[[{table}]]"}
    return found | {name.partition(".")[0] for name in found}


@pytest.mark.parametrize("page", sorted(DOCS.glob("migrating-*.md")), ids=lambda page: page.name)
def test_options_that_migration_pages_name_exist(page: Path) -> None:
    known = option_names()
    assert len(known) > 200
    text = page.read_text(encoding="utf-8")
    ours = {name for row in re.findall(r"(?m)^\|.*\|([^|]*)\|$", text) for name in re.findall(r"`([a-z0-9.-]+)`", row)}
    sections = {name.partition(".")[0] for name in known}
    assert [name for name in sorted(ours) if name.partition(".")[0] in sections and name not in known] == []
    assert len({name for name in ours if name in known}) > 15


@pytest.fixture(scope="module")
def constants() -> set[str]:
    """Upper-case names of the sources, the tests and the build."""
    found: set[str] = set()
    for folder in ("corenet", "resolver", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".pyx", ".pxd", ".h", ".c"):
                found.update(re.findall(r"\b[A-Z][A-Z0-9_]+\b", path.read_text(encoding="utf-8")))
    for file in ("Makefile", "setup.py"):
        found.update(re.findall(r"\b[A-Z][A-Z0-9_]+\b", (ROOT / file).read_text(encoding="utf-8")))
    return found


def test_modules_that_the_architecture_names_exist() -> None:
    """They are named relative to their package."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    modules = re.findall(r"`([\w/]+\.pyx?)`", text)
    known = {f"/{path}" for package in ("corenet", "resolver", "tests") for path in (ROOT / package).rglob("*.py*")}
    assert modules and [name for name in modules if not any(path.endswith("/" + name) for path in known)] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_paths_and_constants_that_a_page_names_exist(page: Path, constants: set[str]) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:corenet|resolver|tests|benchmarks|docs)/[\w/.-]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    # A prefix such as `HTTP_` stands for all limits that begin with it.
    names = re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]*)`", text)
    assert [name for name in names if not any(known.startswith(name) for known in constants)] == []


CLASS = re.compile(r" *(?:cdef |cpdef )?class (\w+)")
FUNCTION = re.compile(r" *(?:async )?(?:def|c(?:p)?def (?:[\w\[\], .*]*[ *])?)\s*(\w+)\s*\(")


def definitions(path: Path) -> set[str]:
    """Qualified names of the classes and functions that a source file defines, methods as `Class.method`."""
    found, around = set(), []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := CLASS.match(line) or FUNCTION.match(line):
            indent = len(line) - len(line.lstrip())
            around = [*(outer for outer in around if outer[0] < indent), (indent, match[1])]
            found.add(".".join(name for _, name in around))
    return found


def test_definitions_are_told_from_uses(tmp_path: Path) -> None:
    source = tmp_path / "module.pyx"
    source.write_text(
        "cdef class Box:\n"
        "    cdef inline const char *peek(self, size_t at) noexcept nogil:\n"
        "        return used(at)\n"
        "    async def wait(self):\n"
        "        pass\n"
        "def free() -> None:  # mentioned\n"
        "    pass\n"
    )
    assert definitions(source) == {"Box", "Box.peek", "Box.wait", "free"}


def test_names_in_the_tour_are_defined_in_the_files_that_are_named_with_them() -> None:
    """`package/file.pyx`: `Class.method` in docs/tour.md, each name with its class."""
    text = (DOCS / "tour.md").read_text(encoding="utf-8")
    steps = re.findall(r"`((?:corenet|resolver)/[\w/]+\.(?:pyx|py|pxd))`:\s+`([\w.]+)`", text)
    assert len(steps) >= 40, "the tour names too little to be checked"
    for file, name in steps:
        assert (ROOT / file).exists(), file
        assert name in definitions(ROOT / file), f"{name} in {file}"
    files = re.findall(r"`((?:corenet|resolver)/[\w/]+\.\w+)`", text)
    assert len(files) == len(steps), "a file without the name of a function or class in it"
