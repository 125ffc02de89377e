"""Finds out which format a file has, converts it, and checks the result with resolverd's own parser.

The result is always valid: what the parser refuses is taken out and named.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resolver.cli.importers import bind, recursor, unbound
from resolver.cli.importers.draft import Draft, ImportFailure, Place, read_text

__all__ = ["FORMATS", "convert", "detect"]

_IN_TABLE = re.compile(r"(?P<kind>[a-z-]+)\[(?P<number>\d+)\](?:\.(?P<key>[a-z0-9-]+))?")
"""How an error names a key of a table, as in "forward[0].zone: ..."."""
_OF_KIND = re.compile(r"(?P<kind>zone|rpz|forward|stub|view|tsig-key|listener): ")
"""How an error names a table that does not fit the others; its name or address follows."""
_OF_VIEW = re.compile(r"view: (?P<key>[a-z0-9_-]+): .*\(view '(?P<name>[^']*)'\)", re.DOTALL)
"""How an error names a value of a view."""
_NAMES = ("name", "zone", "address")
FORMATS: dict[str, Callable[[str], Draft]] = {
    "unbound": unbound.convert,
    "bind": bind.convert,
    "recursor": recursor.convert,
}


def detect(path: str) -> str:
    """The format of the file `path`, a key of `FORMATS`.

    Raises:
        ImportFailure: it cannot be read, or has none of the formats.
    """
    text = read_text(path)
    tests = {"unbound": unbound.is_unbound, "bind": bind.is_bind, "recursor": recursor.is_recursor}
    found = [name for name, test in tests.items() if test(text)]
    if len(found) != 1:
        raise ImportFailure(f"{path}: the format is not recognised; name it with --format {{{','.join(FORMATS)}}}")
    return found[0]


def convert(path: str, kind: str | None = None) -> tuple[str, Draft]:
    """The configuration made from `path` as TOML, and the draft with its remarks.

    Values that resolverd refuses are taken out one after the other and become remarks.

    Raises:
        ImportFailure: the file cannot be read or parsed.
    """
    draft = FORMATS[kind or detect(path)](path)
    while (problem := check(draft.render(path))) is not None:
        _take_out(draft, problem, path)
    return draft.render(path), draft


def check(text: str) -> str | None:
    """The first error of a configuration, without its place; None when it is valid."""
    from resolver.daemon.config import load
    from resolver.daemon.config_reload import make_plan

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resolverd.toml"
        file.write_text(text)
        try:
            make_plan(load(str(file)))
        except ValueError as error:
            line = str(error).splitlines()[0]
            return line.partition(": ")[2] if line.startswith(f"{file}:") else line
    return None


def _take_out(draft: Draft, problem: str, path: str) -> None:
    """Make a remark of what `problem` names: an element of a list, a key, or a table.

    Raises:
        ImportFailure: nothing is left that could be at fault.
    """
    named = problem.replace("_", "-")
    for section, keys in draft.sections.items():
        for key in keys:
            name = f"{section}.{key}" if section else key
            if named.startswith((f"{name}:", f"{name} ")):
                draft.left_out(Place(path, 0), f"{name} = {_without(keys, key, problem)!r}", problem)
                return
    found = _IN_TABLE.match(named)
    if found is not None:
        tables = [table for kind, table in draft.tables if kind == found["kind"]]
        table, kind = tables[int(found["number"])], found["kind"]
        if found["key"] in table and found["key"] not in _NAMES:
            value = _without(table, found["key"], problem)
            zone = table.get("zone", table.get("name"))
            draft.left_out(Place(path, 0), f"{found['key']} = {value!r} of {kind} {zone!r}", problem)
            return
        _remove(draft, kind, table, problem, path)
        return
    of_view = _OF_VIEW.fullmatch(problem)
    if of_view is not None:
        key, name = of_view["key"].replace("_", "-"), of_view["name"]
        view = next(table for kind, table in draft.tables if kind == "view" and table.get("name") == name)
        if key in view:
            draft.left_out(Place(path, 0), f"{key} = {_without(view, key, problem)!r} of view {name!r}", problem)
            return
    of_kind = _OF_KIND.match(named)
    if of_kind is not None:
        # Of two that do not fit together, the first stays. Errors of stub zones may say that it is a forward zone.
        kinds = ("forward", "stub") if of_kind["kind"] in ("forward", "stub") else (of_kind["kind"],)
        for kind, table in reversed(draft.tables):
            if kind in kinds and any(one in table and _quotes(problem, table[one]) for one in _NAMES):
                _remove(draft, kind, table, problem, path)
                return
    raise ImportFailure(f"{path}: the result is not valid: {problem}")


def _quotes(problem: str, name: str) -> bool:
    return repr(name) in problem or f": {name}: " in problem


def _without(keys: dict[str, Any], key: str, problem: str) -> Any:
    """Take the elements of the list `key` out that `problem` quotes, or else the whole value; return what is out."""
    value = keys[key]
    wrong = [one for one in value if repr(one) in problem] if isinstance(value, list) else []
    if wrong and len(wrong) < len(value):
        keys[key] = [one for one in value if one not in wrong]
        return wrong
    del keys[key]
    return wrong or value


def _remove(draft: Draft, kind: str, table: dict[str, Any], problem: str, path: str) -> None:
    """Take out `table`: the object itself, because another one may be equal to it."""
    place = next(n for n, (_, one) in enumerate(draft.tables) if one is table)
    del draft.tables[place]
    draft.left_out(Place(path, 0), f"[[{kind}]] {table!r}", problem)
