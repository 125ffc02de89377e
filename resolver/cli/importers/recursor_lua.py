"""Reads the Lua configuration of PowerDNS Recursor: policy zones, trust anchors, dnstap, and copies of zones.

Lua is a programming language, so only calls are read whose arguments are written out: quoted texts, numbers, and tables
of them. Everything else of such a file is left to the operator. The YAML format has the same settings; it is carried
over by the same functions.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from resolver import limits
from resolver.cli.importers.draft import COPY, Draft, Place, read_text
from resolver.hints import ROOT_ANCHORS
from resolver.settings.zones import TSIG_ALGORITHMS

__all__ = ["CALLS", "add_anchors", "add_policy_zone", "add_tap", "endpoint", "read_lua"]

_TEXT = r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\''
_TOKEN = re.compile(rf"(?P<text>{_TEXT})|(?P<word>[A-Za-z_][\w.]*|[0-9]+)|(?P<mark>[(){{}},=])|--[^\n]*|\s+|(?P<odd>.)")
_CALL = re.compile(r"(?m)^[ \t]*([A-Za-z_]\w*)[ \t]*\(")
_REMARK = re.compile(r"--\[\[.*?\]\]|--[^\n]*", re.DOTALL)
ACTIONS = {
    "Policy.NXDOMAIN": "nxdomain", "Policy.NODATA": "nodata", "Policy.Drop": "drop", "Policy.NoAction": "passthru",
    "Policy.Truncate": "tcp-only",
}
"""The values of ``defpol`` but ``Policy.Custom``, as `override` of a policy zone."""
NOT_READ = "its arguments are not written out, so write by hand what it does"
CHOSEN = frozenset({"refresh", "maxReceivedMBytes", "axfrTimeout", "dumpFile", "seedFile", "zoneSizeHint"})
"""Options that resolverd chooses itself."""


class Text(str):
    """A quoted text; other values are words, which are names or numbers."""


class Table(NamedTuple):
    """The two kinds of fields of a table."""

    listed: list["Value"]
    named: dict[str, "Value"]


Value: TypeAlias = str | Table


def read_lua(draft: Draft, path: str) -> None:
    """Carry the calls of `CALLS` in the file `path` over, and name what else it has.

    Raises:
        ImportFailure: it cannot be read.
    """
    text = read_text(path)
    for secret in re.findall(r"tsigsecret\s*=\s*(\"[^\"\n]*\"|'[^'\n]*')", text):
        draft.hide("tsigsecret", secret[1:-1])
    line, at, end = 1, 0, 0
    rest = []
    for found in _CALL.finditer(text):
        if found.start() < end or found[1] not in CALLS:
            continue
        rest.append(text[end : found.start()])
        line, at = line + text.count("\n", at, found.start()), found.start()
        end = text.find("\n", at)
        end = end if end >= 0 else len(text)
        place, shown = Place(path, line), text[at:end].strip()
        try:
            reader = _Reader(text, found.end())
            arguments = reader.arguments()
            end = max(reader.end, found.end())
            CALLS[found[1]][0](draft, place, shown, arguments)
        except ValueError as error:
            draft.left_out(place, shown, str(error))
    for piece in _REMARK.sub("", "\n".join((*rest, text[end:]))).splitlines():
        if piece.strip():
            draft.left_out(Place(path, 1 + text[: text.find(piece.strip())].count("\n")), piece.strip(),
                           "of Lua, only calls are read that stand alone, and whose arguments are written out")
            break


class _Reader:
    """Reads the arguments of one call."""

    def __init__(self, text: str, at: int) -> None:
        self._tokens = ((one.lastgroup or "", one[0], one.end()) for one in _TOKEN.finditer(text, at) if one.lastgroup)
        self._kind, self._token = "", ""
        self.end = at
        self._next()

    def _next(self) -> None:
        self._kind, self._token, self.end = next(self._tokens, ("odd", "", self.end))

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


def _texts(value: Value) -> list[str]:
    """One quoted text, or a list of them.

    Raises:
        ValueError: it is neither.
    """
    listed = value.listed if isinstance(value, Table) else [value]
    if not all(isinstance(one, Text) for one in listed):
        raise ValueError(NOT_READ)
    return [str(one) for one in listed]


def _options(arguments: Table, place: int) -> dict[str, Value]:
    held = arguments.listed[place] if len(arguments.listed) > place else None
    return held.named if isinstance(held, Table) else {}


def _primary(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    """``rpzPrimary(addresses, name, options)``."""
    primaries, name, *_ = (*arguments.listed, "", "")
    if not isinstance(name, Text):
        raise ValueError(NOT_READ)
    add_policy_zone(draft, place, shown, _texts(primaries), name, _options(arguments, 2))


def _file(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    raise ValueError("write it as [[rpz]] with the name of the zone and its file")


def _negative(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    draft.add("dnssec.negative-trust-anchors", *_texts(arguments.listed[0] if arguments.listed else ""))


def _anchor(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    name, data, *_ = (*arguments.listed, "", "")
    add_anchors(draft, place, shown, _texts(name)[0], _texts(data))


def _anchor_file(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    raise ValueError("write its records into dnssec.trust-anchors; the keys of the root are built in")


def _code(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    name = Path(_texts(arguments.listed[0] if arguments.listed else "")[0]).name
    if name != "rootkeys.lua":
        raise ValueError("import that file, too, and put the results together")
    draft.not_needed(place, shown, "the trust anchors of the root are built in")


def _tap(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    """``dnstapFrameStreamServer(servers, options)``."""
    options = {name: str(value) for name, value in _options(arguments, 1).items()}
    add_tap(draft, place, shown, _texts(arguments.listed[0] if arguments.listed else ""), options)


def _copy(draft: Draft, place: Place, shown: str, arguments: Table) -> None:
    """``zoneToCache(zone, method, sources, options)``."""
    name, method, *_ = (*arguments.listed, "", "")
    if name != "." or method not in ("axfr", "url"):
        raise ValueError("resolverd has a [[zone]] with primaries or a file, of mode delegations")
    draft.set("zones.root", "local")
    draft.changed(place, shown, "the root zone is transferred from the servers of RFC 8806")


CALLS: dict[str, tuple[Callable[[Draft, Place, str, Table], None], str]] = {
    "rpzPrimary": (_primary, "rpz, tsig-key"),
    "rpzMaster": (_primary, "rpz, tsig-key"),
    "rpzFile": (_file, "not carried over: the call does not have the name of the zone"),
    "addNTA": (_negative, "dnssec.negative-trust-anchors"),
    "addTA": (_anchor, "dnssec.trust-anchors"),
    "addDS": (_anchor, "dnssec.trust-anchors"),
    "readTrustAnchorsFromFile": (_anchor_file, "not carried over: write its records into dnssec.trust-anchors"),
    "dnstapFrameStreamServer": (_tap, "dnstap"),
    "zoneToCache": (_copy, "zones.root, for the root zone"),
    "dofile": (_code, "not needed for rootkeys.lua; not read otherwise"),
}
"""What each call becomes: the function that carries it over, and the keys that it sets."""


def add_policy_zone(draft: Draft, place: Place, shown: str, primaries: list[str], name: str,
                    options: Mapping[str, Value]) -> None:
    """Write one transferred policy zone.

    Raises:
        ValueError: it cannot be carried over; the text says why.
    """
    made: dict[str, Any] = {"primaries": [endpoint(one) for one in primaries]}
    known = CHOSEN | {"tsigname", "tsigalgo", "tsigsecret"}
    action = f"Policy.{str(options.get('defpol', '')).removeprefix('Policy.')}"
    if action in ACTIONS:
        made["override"] = ACTIONS[action]
        known |= {"defpol"}
    elif action == "Policy.Custom" and "defcontent" in options:
        made["override"] = f"cname {options['defcontent']}"
        known |= {"defpol", "defcontent"}
    left = [option for option in options if option not in known]
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


def add_anchors(draft: Draft, place: Place, shown: str, name: str, data: list[str]) -> None:
    """Trust anchors as DS records. PowerDNS has those of the root, too, so that they are kept."""
    if name == ".":
        draft.not_needed(place, shown, "the trust anchors of the root are built in")
        return
    zone = name if name.endswith(".") else f"{name}."
    draft.add("dnssec.trust-anchors", *ROOT_ANCHORS, *(f"{zone} IN DS {' '.join(one.split())}" for one in data))


def add_tap(draft: Draft, place: Place, shown: str, servers: list[str], options: Mapping[str, str]) -> None:
    """The collector of dnstap. PowerDNS tells it of the queries to name servers, and not of those of clients.

    Raises:
        ValueError: it has several addresses, or no messages.
    """
    if len(servers) != 1:
        raise ValueError("dnstap of resolverd has one collector")
    key = "dnstap.socket" if servers[0].startswith("/") else "dnstap.address"
    ends = [end for end, option in (("query", "logQueries"), ("response", "logResponses"))
            if options.get(option, "true") == "true"]
    if not ends:
        raise ValueError("it has neither logQueries nor logResponses")
    draft.set(key, servers[0])
    draft.add("dnstap.messages", *(f"{who}-{end}" for who in ("resolver", "forwarder") for end in ends))
    left = sorted(options.keys() - {"logQueries", "logResponses"})
    if left:
        draft.not_needed(place, ", ".join(left), "resolverd chooses its buffers by itself")


def endpoint(text: str, port: int = 0) -> str:
    """``address``, ``address:port`` or ``[address]:port`` as resolverd writes it; port 0: the default of the key.

    Raises:
        ValueError: it is not an address.
    """
    text = text.strip()
    host, given = text, ""
    if text.startswith("["):
        host, _, given = text[1:].partition("]")
    elif text.count(":") == 1:
        host, _, given = text.partition(":")
    address = ipaddress.ip_address(host)
    given = given.removeprefix(":") or str(port or "")
    if not given:
        return str(address)
    if not (given.isascii() and given.isdecimal()):
        raise ValueError(f"{given!r} is not a number")
    return f"[{address}]:{given}" if address.version == 6 else f"{address}:{given}"
