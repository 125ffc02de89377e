"""Header fields: an ordered multi-map. Names compare without case; order and spelling are kept.

This class wraps the parser's list of byte pairs, because most fields are never read. Text is ISO-8859-1, as on the
wire; `raw` has the bytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, overload

from corenet.http.errors import LocalProtocolError
from corenet.http.field_grammar import find_fields, is_token, is_value

__all__ = ["Headers"]


def _octets(given: object) -> bytes:
    # bytes(n) of a number would be n zero bytes.
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    raise TypeError(f"the name and the value of a field are str or bytes, not {type(given).__name__} ({given!r:.100})")


def _check_pair(given: object) -> None:
    if not (isinstance(given, tuple | list) and len(given) == 2):
        raise TypeError(f"headers are a mapping or (name, value) pairs; {given!r:.100} is not a pair")


def _name(name: str | bytes) -> bytes:
    raw = name.encode("latin-1", "replace") if isinstance(name, str) else _octets(name)
    if not is_token(raw):
        raise LocalProtocolError(f"{name!r} is not a field name")
    return raw


def _value(value: str | bytes) -> bytes:
    try:
        raw = value.encode("latin-1") if isinstance(value, str) else _octets(value)
    except UnicodeEncodeError:
        raise LocalProtocolError(f"the field value {value!r} has characters outside ISO-8859-1") from None
    raw = raw.strip(b" \t")
    if not is_value(raw):
        raise LocalProtocolError(f"the field value {value!r} has a control character or surrounding blanks")
    return raw


class Headers:
    """Fields of a message. Iterates over (name, value) text pairs; `headers[name]` joins repeated fields with ", "."""

    __slots__ = ("raw",)

    raw: list[tuple[bytes, bytes]]

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.raw = raw if type(raw) is list else list(raw)

    @classmethod
    def of(cls, source: "Headers | Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]") -> "Headers":
        """Create headers from any of these types, checking every name and value.

        Raises:
            LocalProtocolError: a name is not a token, or a value is not a valid field value.
            TypeError: they are not pairs, or a name or a value is neither str nor bytes.
        """
        if isinstance(source, Headers):
            return cls(list(source.raw))
        if isinstance(source, str | bytes) or not isinstance(source, Iterable):
            raise TypeError(f"headers are a mapping or (name, value) pairs, not {type(source).__name__}")
        pairs = list(source.items() if isinstance(source, Mapping) else source)
        try:
            return cls([(_name(name), _value(value)) for name, value in pairs])
        except (TypeError, ValueError):
            for pair in pairs:
                _check_pair(pair)
            raise

    def get_list(self, name: str) -> list[str]:
        """Return every value of `name`, in order."""
        return [value.decode("latin-1") for value in find_fields(self.raw, name.lower().encode("latin-1", "replace"))]

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the value of `name`, repeated fields joined with ", ", or `default`."""
        values = self.get_list(name)
        return ", ".join(values) if values else default

    def get_members(self, name: str) -> list[str]:
        """Return the members of a comma-separated field in lower case, empty ones left out.

        Only for fields whose members are tokens, such as Connection and Content-Encoding: it ignores quoting.
        """
        members = [part.strip().lower() for value in self.get_list(name) for part in value.split(",")]
        return [member for member in members if member]

    def set(self, name: str | bytes, value: str | bytes) -> None:
        """Replace all fields called `name` with one."""
        raw_name, raw_value = _name(name), _value(value)
        self.remove(raw_name.decode("ascii"))
        self.raw.append((raw_name, raw_value))

    def add(self, name: str | bytes, value: str | bytes) -> None:
        """Append one field."""
        self.raw.append((_name(name), _value(value)))

    def remove(self, name: str) -> int:
        """Remove all fields called `name`; return how many there were."""
        lower = name.lower().encode("latin-1", "replace")
        kept = [field for field in self.raw if field[0].lower() != lower]
        removed = len(self.raw) - len(kept)
        self.raw = kept
        return removed

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(find_fields(self.raw, name.lower().encode("latin-1", "replace")))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, value in self.raw:
            yield name.decode("latin-1"), value.decode("latin-1")

    def __len__(self) -> int:
        return len(self.raw)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return [(name.lower(), value) for name, value in self.raw] == [
            (name.lower(), value) for name, value in other.raw
        ]

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        # Credentials must not be logged.
        secret = (b"authorization", b"proxy-authorization", b"cookie", b"set-cookie")
        shown = [(name, b"***" if name.lower() in secret else value) for name, value in self.raw]
        return f"Headers({shown!r})"
