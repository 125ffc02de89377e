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
    from dataclasses import fields

    from resolver.options import describe
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
        "Made by `make docs` from `resolver/settings/`. In the configuration file, an underscore of a key is a dash;",
        "`resolverd --print-config` writes the same as a commented file with the values in force.",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for option in describe(Settings()):
        default = str(option.default)
        if len(default) > 60:
            default = "(built in)"
        lines.append(
            f"| `{option.path.replace('_', '-')}` | `{default}` | {' '.join(option.doc.split())} |".replace("\n", " ")
        )
    for array, kind in (("forward", ForwardZone), ("stub", StubZone), ("listener", ListenerSettings),
                        ("balance", BalanceSettings), ("balance.target", TargetSettings), ("list", ListSettings),
                        ("rpz", RpzSettings), ("view", ViewSettings), ("zone", ZoneSettings), ("tsig-key", TsigKey)):
        lines += ["", f"## Keys of a `[[{array}]]` table", "", "| key | default | meaning |", "|---|---|---|"]
        for item in fields(kind):
            text = " ".join(item.metadata["doc"].split())
            lines.append(f"| `{item.name.replace('_', '-')}` | `{item.default}` | {text} |")
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
