"""Writes settings as a TOML file with description and default above each key (`resolverd --print-config`).

What it writes is read back as the same settings (`resolver.daemon.config`).
"""

from dataclasses import fields, is_dataclass
from typing import Any

from resolver.daemon.config import FILE_KEYS
from resolver.options import describe
from resolver.settings import HostEntry, Settings

__all__ = ["literal", "render"]


def render(settings: Settings) -> str:
    """Write `settings` as a TOML file with description and default above each key."""
    top: list[str] = ["# Configuration of resolverd. Every key is shown with its current value.", ""]
    for where, sentence in FILE_KEYS.items():
        if len(where) == 1:
            top += [*_comment(sentence), f'# {where[0]} = ""', ""]
    section = ""
    body: list[str] = []
    tail: list[str] = []
    for path, value, default, doc, kind in describe(settings):
        group, _, key = path.replace("_", "-").rpartition(".")
        if not group:
            tail += ["", *_comment(doc), *_tables(key, value)]
            continue
        if group != section:
            section = group
            body += [f"[{group}]", ""]
            for extra, sentence in FILE_KEYS.items():
                if extra[0] == group and len(extra) > 1:
                    body += [*_comment(sentence), f'# {extra[1]} = ""', ""]
        note = f"Default: {literal(default, kind)}" if value != default and len(literal(default, kind)) < 100 else ""
        body += [*_comment(doc), *_comment(note), f"{key} = {literal(value, kind)}", ""]
    return "\n".join([*top, *body, *tail]).rstrip() + "\n"


def _comment(text: str) -> list[str]:
    words, lines, line = text.split(), [], "#"
    for word in words:
        if len(line) + 1 + len(word) > 100:
            lines.append(line)
            line = "#"
        line += f" {word}"
    return [*lines, line] if words else []


def literal(value: Any, kind: str = "") -> str:
    """`value` as TOML; `kind` is that of the setting."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int) and kind == "bytes" and value >= 1 << 20 and value % (1 << 20) == 0:
        return f'"{value >> 20} MiB"'
    if isinstance(value, tuple) and value and isinstance(value[0], HostEntry):
        return "{ " + ", ".join(f"{_quoted(name)} = {literal(tuple(held))}" for name, held in value) + " }"
    if is_dataclass(value):
        pairs = (f"{one.name.replace('_', '-')} = {literal(getattr(value, one.name))}" for one in fields(value))
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, tuple | list):
        inner = [literal(one) for one in value]
        if sum(map(len, inner)) < 90:
            return f"[{', '.join(inner)}]"
        return "[\n" + "".join(f"    {one},\n" for one in inner) + "]"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return f"{value:.0f}"
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def _quoted(text: str) -> str:
    escaped = "".join(
        f"\\{char}" if char in '"\\' else char if char.isprintable() else f"\\U{ord(char):08x}" for char in text
    )
    return f'"{escaped}"'


def _tables(key: str, entries: Any) -> list[str]:
    lines: list[str] = []
    for entry in entries:
        pairs = (
            entry._asdict() if hasattr(entry, "_asdict") else {f.name: getattr(entry, f.name) for f in fields(entry)}
        )
        lines += [f"[[{key}]]", *(f"{name.replace('_', '-')} = {literal(value)}" for name, value in pairs.items())]
    return lines or [f"# [[{key}]]"]
