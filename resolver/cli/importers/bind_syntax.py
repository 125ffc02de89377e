"""The syntax of ``named.conf`` of BIND: nested statements that end with semicolons, with three kinds of comments.

A statement is a list of words and, for a block, of statements. Included files take the place of their statement.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from resolver import limits
from resolver.cli.importers.draft import ImportFailure, Place, read_text

__all__ = ["Statement", "parse"]

_TOKEN = re.compile(
    r"(?P<space>\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/)|(?P<quoted>\"(?:[^\"\\]|\\.)*\")|(?P<mark>[{};])|(?P<word>[^\s{};\"]+)",
    re.DOTALL,
)


class Statement(NamedTuple):
    """Words up to the semicolon, and the statements of the block among them; `second` are those of another block, as
    after ``except-from``."""

    place: Place
    words: tuple[str, ...]
    block: "tuple[Statement, ...] | None"
    second: "tuple[Statement, ...] | None" = None

    @property
    def text(self) -> str:
        inner = "" if self.block is None else " { " + " ".join(one.text + ";" for one in self.block) + " }"
        text = " ".join(self.words) + inner
        return text if len(text) <= limits.IMPORT_SHOWN else text[: limits.IMPORT_SHOWN] + " ..."


def _tokens(path: str) -> Iterator[tuple[Place, str, str]]:
    text = read_text(path)
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ImportFailure(f"{path}:{line}: a quotation mark or a comment has no end")
        kind = found.lastgroup or ""
        if kind != "space":
            yield Place(path, line), kind, found[0]
        line += found[0].count("\n")
        at = found.end()


def parse(path: str, depth: int = 0) -> list[Statement]:
    """The statements of `path`, with those of the files that it includes.

    Raises:
        ImportFailure: a file cannot be read, braces do not match, or blocks are too deep.
    """
    if depth > limits.IMPORT_DEPTH:
        raise ImportFailure(f"{path}: more than {limits.IMPORT_DEPTH} files include each other")
    tokens = list(_tokens(path))
    found, end = _block(path, tokens, 0, 0)
    if end < len(tokens):
        raise ImportFailure(f"{tokens[end][0]}: a closing brace without an opening one")
    whole: list[Statement] = []
    for one in found:
        if one.words[:1] == ("include",) and len(one.words) == 2:
            whole += parse(str(Path(path).parent / one.words[1]), depth + 1)
        else:
            whole.append(one)
    return whole


def _block(path: str, tokens: list[tuple[Place, str, str]], at: int, depth: int) -> tuple[list[Statement], int]:
    """The statements from token `at` on, and the token after them: a closing brace, or the end."""
    if depth > limits.IMPORT_DEPTH:
        raise ImportFailure(f"{tokens[at - 1][0]}: blocks are deeper than {limits.IMPORT_DEPTH}")
    found: list[Statement] = []
    words: list[str] = []
    block: tuple[Statement, ...] | None = None
    second: tuple[Statement, ...] | None = None
    place: Place | None = None
    while at < len(tokens):
        here, kind, text = tokens[at]
        if kind == "mark" and text == "}":
            break
        place = place or here
        at += 1
        if kind == "mark" and text == "{":
            inner, at = _block(path, tokens, at, depth + 1)
            if at == len(tokens):
                raise ImportFailure(f"{here}: an opening brace without a closing one")
            at += 1
            block, second = (tuple(inner), None) if block is None else (block, tuple(inner))
        elif kind == "mark":
            if words or block is not None:
                found.append(Statement(place, tuple(words), block, second))
            words, block, second, place = [], None, None, None
        else:
            words.append(text[1:-1] if kind == "quoted" else text)
    if words or block is not None:
        assert place is not None
        raise ImportFailure(f"{place}: {' '.join(words)!r} does not end with a semicolon")
    return found, at
