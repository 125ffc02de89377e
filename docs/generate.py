"""Writes the pages that are made from code: `limits.md`, `resolverd-options.md` and `api/`, and tables of other pages.

Rule: these files are never edited by hand; `tests/unit/test_docs.py` fails when they differ from what this writes. In
the pages of `migration_pages` only the tables are made.
"""

import ast
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import api_pages  # noqa: E402
import migration_pages  # noqa: E402


def limits_page() -> str:
    """Every limit of both packages as tables."""
    lines = [
        "# Limits",
        "",
        "Made by `make docs` from `corenet/limits.py` and `resolver/limits.py`.",
        "",
        "A limit with a range may be set, by an argument, a setting or an option; what lies outside is refused. The",
        "others are constants.",
        "",
    ]
    for package in ("corenet", "resolver"):
        lines += [f"## {package}", "", "| limit | value | range | unit | reason |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(str, row))} |" for row in limit_rows(package)]
        lines.append("")
    return "\n".join(lines)


def limit_rows(package: str) -> Iterator[tuple[str, int, str, str, str]]:
    """Name, value or default, range (empty for a constant), unit and reason of each limit, in the file's order."""
    module = import_module(f"{package}.limits")
    body = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body
    for node, after in pairwise([*body, ast.Pass()]):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        limit = getattr(module, name)
        if isinstance(limit, module.Limit):
            yield name, limit.default, f"{limit.minimum} – {limit.maximum}", limit.unit, limit.reason
        elif isinstance(limit, int):
            text = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
            unit, _, reason = " ".join(text.split()).partition(": ")
            yield name, limit, "", unit, reason


def options_page() -> str:
    """Every setting of the daemon as one table, and the keys of each array of tables as another."""
    from dataclasses import Field, fields, is_dataclass

    from resolver.daemon.config_writer import literal
    from resolver.settings import (
        BalanceSettings,
        ForwardZone,
        ListenerSettings,
        ListSettings,
        RpzSettings,
        Settings,
        StubZone,
        TargetSettings,
        TsigKey,
        ViewSettings,
        ZoneSettings,
    )

    lines = [
        "# Options of resolverd",
        "",
        "Made by `make docs` from `resolver/settings/`; defaults and ranges are as the configuration file has them.",
        "`resolverd --print-config` writes all keys with the values in force.",
    ]

    def row(item: "Field[object]", prefix: str = "") -> str:
        given = item.metadata
        default, limit = literal(item.default, given["kind"]), given["limit"]
        unit = "seconds" if given["kind"] == "seconds" else limit.unit if limit is not None else given["kind"]
        bounds = () if limit is None else (limit.minimum, limit.maximum)
        least_most = " to ".join(
            literal(bound if given["scale"] == 1 else bound / given["scale"], given["kind"]) for bound in bounds)
        name = f"{prefix}{item.name}".replace("_", "-")
        shown = "built in" if "\n" in default or len(default) > 80 else f"`{default}`"
        cells = f"`{name}`", shown, unit, least_most, " ".join(given["doc"].split())
        return f"| {' | '.join(cells)} |"

    head = ["", "| key | default | unit | range | meaning |", "|---|---|---|---|---|"]
    settings = Settings()
    for section in fields(settings):
        held = getattr(settings, section.name)
        if is_dataclass(held):
            name = section.name.replace("_", "-")
            lines += ["", f"## `[{name}]`", *head, *(row(item, f"{section.name}.") for item in fields(held))]
    arrays = [item for item in fields(settings) if not is_dataclass(getattr(settings, item.name))]
    lines += ["", "## Arrays of tables", *head, *map(row, arrays)]
    for array, kind in (("forward", ForwardZone), ("stub", StubZone), ("listener", ListenerSettings),
                        ("balance", BalanceSettings), ("balance.target", TargetSettings), ("list", ListSettings),
                        ("rpz", RpzSettings), ("view", ViewSettings), ("zone", ZoneSettings), ("tsig-key", TsigKey)):
        lines += ["", f"## Keys of a `[[{array}]]` table", *head, *map(row, fields(kind))]
    return "\n".join([*lines, ""])


PAGES = {
    "limits.md": limits_page,
    "resolverd-options.md": options_page,
    **{f"api/{package}.md": partial(api_pages.page, package) for package in api_pages.MODULES},
    **{name: partial(migration_pages.put, name, tables) for name, tables in migration_pages.PAGES.items()},
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
