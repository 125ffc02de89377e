"""The tables of the pages about other resolvers: what each option becomes. They are the importers' own tables.

A page is written by hand; `put` replaces what is between the lines ``<!-- made by docs/generate.py -->`` and
``<!-- end -->`` in it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from resolver.cli.importers import bind, bind_views, bind_zones, recursor, recursor_lua, unbound, unbound_sections

__all__ = ["PAGES", "options_of", "put"]

HERE = Path(__file__).resolve().parent
_MADE = re.compile(r"(?<=<!-- made by docs/generate\.py -->\n).*?(?=<!-- end -->)", re.DOTALL)
_NAME = re.compile(r"(?<![\w`/.-])((?:[a-z0-9]+-)*[a-z0-9]+\.[a-z0-9-]+|\[+[a-z0-9.-]+\]+)(?![\w/])")
_AS_CODE = r"`\1`"
Tables = list[tuple[str, str, Mapping[str, str]]]
"""Title, what the first column has, and what each option becomes."""


def _paths(simple: Mapping[str, tuple[str, object]]) -> dict[str, str]:
    return {option: path for option, (path, _) in simple.items()}


def _always(fixed: Mapping[str, str]) -> dict[str, str]:
    return {option: f"resolverd behaves as with {value}; another value is not carried over"
            for option, value in fixed.items()}


def of_unbound() -> Tables:
    """What becomes of ``unbound.conf``."""
    server = {**_paths(unbound.SIMPLE), **unbound.LISTS, **unbound.FILES, **unbound.FILE_LISTS, **unbound.OWN}
    zones = {f"forward-{key}": why for key, why in unbound.OF_ZONES.items()}
    zones |= {f"stub-{key}": why for key, why in unbound.OF_ZONES.items()}
    del zones["forward-prime"], zones["stub-host"]
    return [
        ("`server:` and `remote-control:`", "option", server),
        ("`forward-zone:`", "option", unbound.FORWARD),
        ("`stub-zone:`", "option", unbound.STUB),
        ("`view:`", "option", unbound.VIEW),
        *((f"`{name}:`", "option", keys) for name, keys in unbound_sections.KEYS.items()),
        ("Without a counterpart, or written by hand", "option", unbound.REASONS | zones),
        *((f"The same in `{name}:`", "option", keys) for name, keys in unbound_sections.REASONS.items() if keys),
        ("Options that are not needed", "option",
         _always(unbound.ALWAYS_SO) | unbound.NOT_NEEDED),
    ]


def of_bind() -> Tables:
    """What becomes of ``named.conf``."""
    return [
        ("`options`", "option", {**_paths(bind.SIMPLE), **bind.OWN}),
        ("`rate-limit`", "option", {key: f"rate-limit.{path}" for key, path in bind.RATES.items()}),
        ("Other statements", "statement", bind.STATEMENTS),
        ("`zone`, by its type", "type", bind_zones.TYPES),
        ("Options of a `zone`", "option", bind_zones.OWN_ZONE),
        ("Options of a `view`", "option", bind_views.VIEW),
        ("Without a counterpart, or written by hand", "option", bind.REASONS),
        ("Options that are not needed", "option",
         _always(bind.ALWAYS_SO) | bind.NOT_NEEDED),
    ]


def of_recursor() -> Tables:
    """What becomes of ``recursor.conf`` and ``recursor.yml``."""
    return [
        ("Settings", "setting", {**_paths(recursor.SIMPLE), **recursor.OWN}),
        ("Calls in `lua-config-file`", "call", {name: what for name, (_, what) in recursor_lua.CALLS.items()}),
        ("Without a counterpart, or written by hand", "setting", recursor.REASONS),
        ("Settings that are not needed", "setting",
         _always(recursor.ALWAYS_SO) | recursor.NOT_NEEDED),
    ]


def options_of(tables: Tables) -> set[str]:
    """All options in `tables`."""
    return {option for _, _, rows in tables for option in rows}


def lines(tables: Tables) -> Iterable[str]:
    """`tables` as Markdown. Options that become the same share a row."""
    for title, column, rows in tables:
        yield from (f"### {title}", "", f"| {column} | in resolverd |", "|---|---|")
        together: dict[str, list[str]] = {}
        for option, what in rows.items():
            together.setdefault(what, []).append(f"`{option}`")
        for what, options in together.items():
            yield f"| {', '.join(options)} | {_NAME.sub(_AS_CODE, what)} |"
        yield ""


def put(name: str, tables: Callable[[], Tables]) -> str:
    """The page `name` with its tables as they are now."""
    text = (HERE / name).read_text(encoding="utf-8")
    made = "\n".join(lines(tables()))
    return _MADE.sub(lambda _: "\n" + made, text)


PAGES: dict[str, Callable[[], Tables]] = {
    "migrating-from-unbound.md": of_unbound,
    "migrating-from-bind.md": of_bind,
    "migrating-from-powerdns-recursor.md": of_recursor,
}
