"""Writes the pages that are made from code: `limits.md`, `resolverd-options.md` and `api/`.

Rule: these files are never edited by hand; `tests/unit/test_docs.py` fails when they differ from what this writes.
"""

import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import api_pages  # noqa: E402


def limits_page() -> str:
    """Every limit of both packages as tables."""
    from corenet import limits as loop_limits
    from resolver import limits as resolver_limits

    lines = ["# Limits", "", "Made by `make docs` from `corenet/limits.py` and `resolver/limits.py`.", ""]
    for title, module in (("corenet", loop_limits), ("resolver", resolver_limits)):
        lines += [f"## {title}", "", "| limit | default | range | unit | reason |", "|---|---|---|---|---|"]
        for name, limit in module.all_limits().items():
            lines.append(
                f"| {name} | {limit.default} | {limit.minimum} – {limit.maximum} | {limit.unit} | {limit.reason} |"
            )
        lines.append("")
    return "\n".join(lines)


def options_page() -> str:
    """Every setting of the daemon as one table."""
    from resolver.knobs import describe
    from resolver.settings import Settings

    lines = [
        "# Options of resolverd",
        "",
        "Made by `make docs` from `resolver/settings.py`. In the configuration file, an underscore of a key is a dash;",
        "`resolverd --print-config` writes the same as a commented file with the values in force.",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for knob in describe(Settings()):
        default = str(knob.default)
        if len(default) > 60:
            default = "(built in)"
        lines.append(
            f"| `{knob.path.replace('_', '-')}` | `{default}` | {' '.join(knob.doc.split())} |".replace("\n", " ")
        )
    return "\n".join([*lines, ""])


PAGES = {
    "limits.md": limits_page,
    "resolverd-options.md": options_page,
    **{f"api/{door}.md": partial(api_pages.page, door) for door in api_pages.MODULES},
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
