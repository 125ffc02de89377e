"""multipart/form-data: the body of a form with files (RFC 7578), names encoded as browsers do.

In names and file names, CR, LF and the quotation mark are percent-encoded and everything else is UTF-8 (WHATWG HTML,
"multipart/form-data encoding algorithm"); RFC 2231 encoding is not used (RFC 7578 section 4.2). Line ends of names and
text values become CR LF. The caller of `encode_multipart` draws the boundary: with 128 random bits, no file contains it
by chance and no third party can predict it.
"""

import mimetypes
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import IO

from corenet.http.body_source import BodySource, BytesSource, JoinedSource, file_source, is_file_object
from corenet.http.field_grammar import is_value
from corenet.http.query import Pairs, pairs_of

__all__ = ["FileContent", "FileTypes", "Files", "encode_multipart"]

FileContent = IO[bytes] | bytes | str | Path
FileTypes = FileContent | tuple[str | None, FileContent] | tuple[str | None, FileContent, str | None]
Files = Mapping[str, FileTypes] | Sequence[tuple[str, FileTypes]]

_LINE_END = re.compile(r"\r\n?|\n")


def encode_multipart(data: "Pairs | None", files: Files, boundary: str) -> BodySource:
    """Make the body: the pairs of `data`, then `files`, with the delimiters between them.

    A file is a binary file object, bytes, str or a path, or a tuple of file name, content and optionally content type.
    A tuple with the file name None makes a plain value. Without a tuple, the file name is the last part of the path or
    of the file object's name, else ``upload``.

    Raises:
        TypeError: a name, value or file has another type.
        ValueError: a content type is not a valid field value.
        OSError: a path cannot be read.
    """
    parts: list[BodySource] = []
    for name, value in [] if data is None else pairs_of(data, "data"):
        text = _LINE_END.sub("\r\n", value).encode() if isinstance(value, str) else value
        parts.append(BytesSource(_head(boundary, name, None, None) + text + b"\r\n"))
    if isinstance(files, str | bytes) or not isinstance(files, Iterable):
        raise TypeError(f"files= is a mapping or an iterable of (name, file), not {type(files).__name__}")
    for pair in files.items() if isinstance(files, Mapping) else files:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(f"files= is a mapping or an iterable of (name, file), not of {pair!r}")
        name, given = pair
        file_name, content, kind = _parse(name, given)
        parts.append(BytesSource(_head(boundary, name, file_name, kind)))
        parts.append(_content(content, f"files[{name!r}]"))
        parts.append(BytesSource(b"\r\n"))
    parts.append(BytesSource(f"--{boundary}--\r\n".encode("ascii")))
    return JoinedSource(parts)


def _parse(name: str, given: FileTypes) -> tuple[str | None, FileContent, str | None]:
    """Return file name, content and content type of the argument for one file."""
    file_name: str | None
    kind: str | None = None
    if isinstance(given, tuple):
        if not 2 <= len(given) <= 3 or not isinstance(given[0], str | None):
            raise TypeError(f"files[{name!r}] is a file, (file name, content) or (file name, content, content type)")
        file_name, content = given[0], given[1]
        kind = given[2] if len(given) == 3 else None
    else:
        content = given
        called = given if isinstance(given, Path) else getattr(given, "name", None)
        file_name = PurePath(called).name if isinstance(called, str | PurePath) else "upload"
    if kind is None and file_name is not None:
        kind = mimetypes.guess_type(file_name)[0] or "application/octet-stream"
    if kind is not None and not (isinstance(kind, str) and kind.isascii() and is_value(kind.encode())):
        raise ValueError(f"files[{name!r}]: {kind!r} is not a content type")
    return file_name, content, kind


def _content(content: FileContent, where: str) -> BodySource:
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, bytes):
        return BytesSource(content)
    if isinstance(content, Path) or is_file_object(content):
        return file_source(content, where)
    raise TypeError(f"{where} is bytes, str, a path or a binary file, not {type(content).__name__}")


def _head(boundary: str, name: str, file_name: str | None, kind: str | None) -> bytes:
    """Return the delimiter and the fields before one part."""
    name = _escape(_LINE_END.sub("\r\n", name))
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if file_name is not None:
        disposition += f'; filename="{_escape(file_name)}"'
    lines = [f"--{boundary}", disposition]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")


def _escape(text: str) -> str:
    return text.replace("\n", "%0A").replace("\r", "%0D").replace('"', "%22")
