"""A response policy zone from the text of a zone file (RFC 1035 section 5).

Nearly all lines of large policy zones have the form ``name [TTL] [IN] CNAME target``. They are read here, because the
reader of zone files takes some 50 us and 750 bytes for a record. All other lines are left to it, in their order:
directives, continued lines, local data. Their number is limited, because the text may come from another party.
"""

import re
from collections.abc import Iterable

from resolver import limits
from resolver.policy.rpz_zone import ZoneCompiler
from resolver.wire import name as names
from resolver.wire import present

__all__ = ["read_zone"]

_ALIAS = re.compile(r"""([^\s;$@"()\\]+)[ \t]+(?:([0-9]{1,9})[ \t]+)?(?:IN[ \t]+)?CNAME[ \t]+([^\s;@"()\\]+)"""
                    r"[ \t]*(?:;.*)?\r?", re.IGNORECASE)
_DIRECTIVE = re.compile(r"\$(ORIGIN|TTL)[ \t]+(\S+)", re.IGNORECASE)
_PLACE = re.compile("<text>:([0-9]{1,9})")
# Every quote begins a match: one that nothing closes takes the rest of the line. So a search never goes back to look
# for the next quote within one that was not closed, which would take time with the square of the length of the line.
_QUOTED_OR_COMMENT = re.compile(r'"(?:[^"\\]++|\\(?s:.))*+(?:"|\\?\Z)|;.*')


def read_zone(lines: Iterable[str], compiler: ZoneCompiler) -> None:
    """Add the records of `lines` to `compiler`; names are relative to its origin until an $ORIGIN.

    Raises:
        ValueError: the text is no zone file, with the line number, or the zone exceeds a limit.
    """
    origin, ttl = compiler.origin, limits.RPZ_TTL
    others: list[str] = []
    places: list[int] = []  # the line numbers of `others`
    owner = ""
    depth = 0  # open parentheses of a record that is continued
    targets: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        found = _ALIAS.fullmatch(line) if not depth else None
        if found is not None:
            owner, seconds, target = found.groups()
            wire = _absolute(owner, origin, number)
            if names.is_subdomain(wire, compiler.origin) and wire != compiler.origin:
                aimed = targets.get(target)
                if aimed is None:
                    aimed = _absolute(target, origin, number)
                    if len(targets) < limits.LIST_ERRORS:
                        targets[target] = aimed  # the few targets that are actions
                compiler.add_alias(names.lower(wire), aimed, int(seconds) if seconds else ttl)
            continue
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        plain = _QUOTED_OR_COMMENT.sub("", line)
        if not depth:
            directive = _DIRECTIVE.match(line)
            if directive is not None and directive.group(1).upper() == "ORIGIN":
                origin, targets = _absolute(directive.group(2), origin, number), {}
            elif directive is not None and directive.group(2).isdigit():
                ttl = int(directive.group(2))
            if owner and plain.strip() and line[0] in " \t":
                line = owner + line  # the record of a line without owner has that of the line before
            elif plain.strip():
                owner = ""  # from here the reader of zone files knows the owner
        depth = max(0, depth + plain.count("(") - plain.count(")"))
        if len(others) >= limits.RPZ_OTHER_LINES:
            raise ValueError(f"line {number}: more than {limits.RPZ_OTHER_LINES} lines are no CNAME records")
        others.append(line)
        places.append(number)
    try:
        for rrset in present.zone_from_text("\n".join(others), compiler.origin, default_ttl=limits.RPZ_TTL):
            compiler.add(rrset)
    except ValueError as error:
        raise ValueError(_PLACE.sub(lambda found: _original(found, places), str(error))) from None


def _original(found: "re.Match[str]", places: list[int]) -> str:
    """The line number of the whole text, for that of the lines which the reader of zone files has got."""
    return f"<text>:{places[max(0, min(int(found.group(1)), len(places)) - 1)]}" if places else found.group()


def _absolute(text: str, origin: bytes, number: int) -> bytes:
    """The wire form of a name that is relative to `origin` without a final dot."""
    try:
        if text.endswith("."):
            return names.from_text(text)
        return names.join(names.from_text(text + ".")[:-1], origin)
    except ValueError as error:
        raise ValueError(f"zone text: line {number}: {text!r} is not a name: {error}") from None
