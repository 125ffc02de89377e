"""Finds the policy zones in the Lua configuration of PowerDNS Recursor: calls of rpzPrimary, rpzMaster and rpzFile.

Lua is a programming language, so only calls are read whose arguments are written out: quoted texts, numbers, and tables
of them. Everything else of such a file is left to the operator.
"""

import ipaddress
import re
from typing import Any, NamedTuple, TypeAlias

from resolver import limits
from resolver.cli.importers.draft import COPY, Draft, Place, read_text
from resolver.zone_settings import TSIG_ALGORITHMS

__all__ = ["read_policy_zones"]

_TEXT = r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\''
_TOKEN = re.compile(rf"(?P<text>{_TEXT})|(?P<word>[A-Za-z_][\w.]*|[0-9]+)|(?P<mark>[(){{}},=])|--[^\n]*|\s+|(?P<odd>.)")
_CALL = re.compile(r"(?m)^[ \t]*(rpzPrimary|rpzMaster|rpzFile)[ \t]*\(")
ACTIONS = {
    "Policy.NXDOMAIN": "nxdomain", "Policy.NODATA": "nodata", "Policy.Drop": "drop", "Policy.NoAction": "passthru",
    "Policy.Truncate": "tcp-only",
}
"""The values of ``defpol``, as `override` of a policy zone."""
NOT_READ = "its arguments are not written out, so write it as [[rpz]] with name, primaries and key"
CHOSEN = frozenset({"refresh", "maxReceivedMBytes", "axfrTimeout", "dumpFile", "seedFile", "zoneSizeHint"})
"""Options that resolverd chooses itself."""


class Text(str):
    """A quoted text; other values are words, which are names or numbers."""


class Table(NamedTuple):
    """The two kinds of fields of a table."""

    listed: list["Value"]
    named: dict[str, "Value"]


Value: TypeAlias = str | Table


def read_policy_zones(draft: Draft, path: str) -> None:
    """Carry the policy zones of the file `path` over.

    Raises:
        ImportFailure: it cannot be read.
    """
    text = read_text(path)
    line, at = 1, 0
    for found in _CALL.finditer(text):
        line, at = line + text.count("\n", at, found.start()), found.start()
        end = text.find("\n", at)
        place, shown = Place(path, line), text[at : end if end >= 0 else len(text)].strip()
        try:
            if found[1] == "rpzFile":
                raise ValueError("write it as [[rpz]] with the name of the zone and its file")
            _carry_over(draft, place, shown, _Reader(text, found.end()).arguments())
        except ValueError as error:
            draft.left_out(place, shown, str(error))


class _Reader:
    """Reads the arguments of one call."""

    def __init__(self, text: str, at: int) -> None:
        self._tokens = ((one.lastgroup or "", one[0]) for one in _TOKEN.finditer(text, at) if one.lastgroup)
        self._kind, self._token = "", ""
        self._next()

    def _next(self) -> None:
        self._kind, self._token = next(self._tokens, ("odd", ""))

    def arguments(self, end: str = ")", depth: int = 0) -> Table:
        """The values up to `end`.

        Raises:
            ValueError: they are not written out, or have no end.
        """
        found = Table([], {})
        while self._token != end:
            if self._kind == "odd" or depth > limits.IMPORT_DEPTH:
                raise ValueError(NOT_READ)
            name = self._token if self._kind == "word" else ""
            value = self._value(depth)
            if name and self._token == "=":
                self._next()
                found.named[name] = self._value(depth)
            else:
                found.listed.append(value)
            if self._token == ",":
                self._next()
            elif self._token != end:
                raise ValueError(NOT_READ)
        return found

    def _value(self, depth: int) -> Value:
        kind, token = self._kind, self._token
        self._next()
        if token == "{":
            table = self.arguments("}", depth + 1)
            self._next()
            return table
        if kind == "text":
            return Text(token[1:-1])
        if kind == "word":
            return token
        raise ValueError(NOT_READ)


def _carry_over(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    """Write one transferred zone.

    Raises:
        ValueError: it cannot be carried over; the text says why.
    """
    primaries, name, *rest = (*arguments.listed, "", "")
    listed = primaries.listed if isinstance(primaries, Table) else [primaries]
    options: dict[str, Value] = rest[0].named if rest and isinstance(rest[0], Table) else {}
    if not isinstance(name, Text) or not all(isinstance(one, Text) for one in listed):
        raise ValueError(NOT_READ)
    made: dict[str, Any] = {"primaries": [_endpoint(str(one)) for one in listed]}
    left: list[str] = []
    for option, value in options.items():
        if option == "defpol" and value in ACTIONS:
            made["override"] = ACTIONS[str(value)]
        elif option not in CHOSEN and option not in ("tsigname", "tsigalgo", "tsigsecret"):
            left.append(option)
    if "tsigname" in options:
        algorithm = str(options.get("tsigalgo", "")).lower()
        if algorithm not in TSIG_ALGORITHMS:
            raise ValueError(f"resolverd does not use the TSIG algorithm {algorithm or 'unknown'}")
        made["key"] = str(options["tsigname"])
        if made["key"] not in [table.get("name") for kind, table in draft.tables if kind == "tsig-key"]:
            key = draft.table("tsig-key", algorithm=algorithm, secret=str(options.get("tsigsecret", "")))
            key["name"] = made["key"]
    draft.policy_zone(name, **made)
    draft.not_needed(place, shown, COPY)
    if left:
        raise ValueError(f"the zone is carried over, {', '.join(left)} is not")


def _endpoint(text: str) -> str:
    """``address``, ``address:port`` or ``[address]:port`` of a primary.

    Raises:
        ValueError: it is not an address.
    """
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    address = ipaddress.ip_address(host)
    port = port.removeprefix(":")
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
