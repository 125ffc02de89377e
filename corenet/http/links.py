"""The Link field of a response (RFC 8288 section 3), without I/O.

A field that breaks the grammar ends there: the links before are kept, and nothing is guessed. Targets are resolved by
the caller. The work is linear in the field, whose size is limited with the head.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

__all__ = ["Link", "parse_links"]

_TARGET = re.compile(r"[ \t,]*<([^>]*)>")
_PARAM = re.compile(r'[ \t]*;[ \t]*(?:([^\s;,="<>]+)(?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?)?')
_QUOTED = re.compile(r"\\(.)")


class Link:
    """One link: `url` (absolute), `rel` (the relation types in lower case) and `params`, the other attributes."""

    __slots__ = ("params", "rel", "url")

    def __init__(self, url: str, rel: tuple[str, ...], params: dict[str, str]) -> None:
        self.url = url
        self.rel = rel
        self.params = params

    def __repr__(self) -> str:
        return f"Link({self.url!r}, rel={self.rel!r}, params={self.params!r})"


def parse_links(values: Iterable[str]) -> list[Link]:
    """Parse Link fields; `url` of each link is the reference as sent."""
    links: list[Link] = []
    for value in values:
        at = 0
        while (found := _TARGET.match(value, at)) is not None:
            params: dict[str, str] = {}
            at = found.end()
            while (param := _PARAM.match(value, at)) is not None:
                at = param.end()
                if param[1] is not None:
                    text = _QUOTED.sub(r"\1", param[2]) if param[2] is not None else param[3] or ""
                    # Section 3.3: of several rel the first counts; the same is done with all others.
                    params.setdefault(param[1].lower(), text)
            links.append(_link(found[1].strip(), params))
            rest = value[at : at + 64].lstrip(" \t")
            if rest and not rest.startswith(","):
                break
    return links


def _link(target: str, params: dict[str, str]) -> Link:
    for name in [name for name in params if name.endswith("*")]:
        # RFC 8187 section 3.2: charset'language'percent-encoded. UTF-8 is the only charset that has to be known.
        charset, _, rest = params.pop(name).partition("'")
        _, quote, text = rest.partition("'")
        if charset.lower() == "utf-8" and quote:
            params[name[:-1]] = unquote_to_bytes(text).decode("utf-8", "replace")
    rel = tuple(params.pop("rel", "").lower().split())
    return Link(target, rel, params)
