"""Queries and forms: pairs to application/x-www-form-urlencoded (WHATWG URL standard section 5.2).

A space becomes ``+``. Letters, digits and ``*-._`` stay, all other bytes of the UTF-8 text are percent-encoded.
"""

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote_plus

__all__ = ["Pairs", "Scalar", "add_query", "encode_pairs", "pairs_of"]

Scalar = str | bytes | int | float | bool | None
# Any iterable of pairs will do. The type says Sequence, because a dict is Iterable too, and then type checkers cannot
# infer the type of a literal.
Pairs = Mapping[str, Scalar | Iterable[Scalar]] | Sequence[tuple[str, Scalar]]


def pairs_of(source: Pairs, what: str) -> list[tuple[str, str | bytes]]:
    """Return name and value of each pair; a list as value gives several pairs, None gives none.

    bool becomes ``true`` or ``false``, numbers become decimal text.

    Raises:
        TypeError: a name or value has another type; `what` names the argument.
    """
    if isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise TypeError(f"{what}= is a mapping or an iterable of pairs, not {type(source).__name__}")
    out: list[tuple[str, str | bytes]] = []
    for pair in source.items() if isinstance(source, Mapping) else source:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(f"{what}= is a mapping or an iterable of pairs that begin with a str, not of {pair!r}")
        name, value = pair
        values = value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else (value,)
        for one in values:
            if one is not None:
                out.append((name, _text(one, f"{what}[{name!r}]")))
    return out


def _text(value: object, where: str) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise TypeError(f"{where} is str, bytes, a number, bool or None, not {type(value).__name__}")


def encode_pairs(source: Pairs, what: str) -> str:
    """Encode pairs as a query or form. Raises what `pairs_of` raises."""
    return "&".join(f"{_escape(name)}={_escape(value)}" for name, value in pairs_of(source, what))


def _escape(text: str | bytes) -> str:
    # quote_plus keeps "~", which this format encodes. Lone surrogates cannot be encoded; browsers send U+FFFD.
    if isinstance(text, str):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return quote_plus(text, safe="*").replace("~", "%7E")


def add_query(url: str, params: "Pairs | str") -> str:
    """Return `url` with `params` after its own query, before its fragment. A str is added as it is.

    Raises:
        TypeError: a name or value has a type that cannot be encoded.
    """
    added = params.removeprefix("?") if isinstance(params, str) else encode_pairs(params, "params")
    if not added:
        return url
    base, hash_sign, fragment = url.partition("#")
    joint = "?" if "?" not in base else "" if base.endswith(("?", "&")) else "&"
    return f"{base}{joint}{added}{hash_sign}{fragment}"
