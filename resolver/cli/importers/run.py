"""Finds out which format a file has, converts it, and checks the result with resolverd's own parser.

The result is always valid: what the parser refuses is taken out and named.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from resolver.cli.importers import bind, recursor, unbound
from resolver.cli.importers.draft import Draft, ImportFailure, Place, read_text

__all__ = ["FORMATS", "convert", "detect"]

# How an error names a key of a table, as in "forward[0].zone: ...".
_OF_LIST = re.compile(r"rpz: (?P<name>\S+): ")  # of a policy zone whose file cannot be used
_IN_TABLE = re.compile(r"(?P<kind>[a-z-]+)\[(?P<number>\d+)\](?:\.(?P<key>[a-z0-9-]+))?")
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
    if recursor.is_recursor_yaml(text):
        raise ImportFailure(f"{path}: the YAML format of PowerDNS Recursor is not read; the key=value format is")
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
        for key, value in keys.items():
            name = f"{section}.{key}" if section else key
            if not named.startswith((f"{name}:", f"{name} ")):
                continue
            wrong = [one for one in value if repr(one) in problem] if isinstance(value, list) else []
            keys[key] = [one for one in value if one not in wrong] if wrong else None
            if not keys[key]:
                del keys[key]
            draft.left_out(Place(path, 0), f"{name} = {wrong or value!r}", problem)
            return
    policy = _OF_LIST.match(problem)
    for kind, table in draft.tables:
        if policy is not None and (kind, table.get("name")) == ("rpz", policy["name"]):
            draft.tables.remove((kind, table))
            draft.left_out(Place(path, 0), f"[[{kind}]] {table!r}", problem)
            return
    found = _IN_TABLE.match(named)
    if found is None or not draft.tables:
        raise ImportFailure(f"{path}: the result is not valid: {problem}")
    tables = [one for one in draft.tables if one[0] == found["kind"]]
    kind, table = tables[int(found["number"])]
    if found["key"] in table:
        value = table.pop(found["key"])
        zone = table.get("zone", table.get("name"))
        draft.left_out(Place(path, 0), f"{found['key']} = {value!r} of zone {zone!r}", problem)
    else:
        draft.tables.remove((kind, table))
        draft.left_out(Place(path, 0), f"[[{kind}]] {table!r}", problem)
