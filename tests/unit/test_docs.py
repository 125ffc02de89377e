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


@pytest.mark.parametrize("name", sorted(generate.PAGES))
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("page", [*sorted(p.name for p in DOCS.glob("*.md")), "../README.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = DOCS / page
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_names_in_the_tour_are_names_in_the_code() -> None:
    """`room/file.pyx: name` in docs/tour.md: the file exists and the name stands in it."""
    text = (DOCS / "tour.md").read_text(encoding="utf-8")
    steps = re.findall(r"`((?:corenet|resolver)/[\w/]+\.(?:pyx|py|pxd))`(?::|,)? `([\w.]+)`", text)
    assert len(steps) >= 20, "the tour names too little to be checked"
    for file, name in steps:
        path = ROOT / file
        assert path.exists(), file
        leaf = name.split(".")[-1]
        assert re.search(rf"\b{re.escape(leaf)}\b", path.read_text(encoding="utf-8")), f"{name} in {file}"
