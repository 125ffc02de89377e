"""Reads ``recursor.yml`` of PowerDNS Recursor into the settings of its ``key=value`` format.

`parse` reads the part of YAML that such files use: mappings and sequences by indentation or in brackets, and scalars on
one line. Anchors, tags and scalars of several lines are refused with their line. `settings` gives each value the name
of its setting in ``recursor.conf``, which is the new one with hyphens unless `NAMES` has it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from resolver import limits
from resolver.cli.importers.draft import ImportFailure, Place, read_text

__all__ = ["NAMES", "STRUCTURED", "Node", "Value", "is_recursor_yaml", "parse", "settings"]

Value: TypeAlias = "str | list[Node] | dict[str, Node]"
_KEY = re.compile(r"(?P<key>\"[^\"]*\"|'[^']*'|[A-Za-z0-9_.-]+)\s*:(?:\s+|$)")
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'"
_COMMENT = re.compile(rf"({_QUOTED})|(?:^|(?<=\s))#.*")
_FLOW = re.compile(
    rf"\s*(?:(?P<mark>[\[\]{{}},])|(?P<key>(?:{_QUOTED}|[^\s\[\]{{}},\"':]+):(?=\s|$))"
    rf"|(?P<text>{_QUOTED}|[^\[\]{{}},\"'\s][^\[\]{{}},]*))"
)
_REFUSED = re.compile(r"[&*!|>%@`]")
NAMES = {
    "incoming.listen": "local-address", "incoming.port": "local-port", "incoming.tcp_timeout": "client-tcp-timeout",
    "outgoing.source_address": "query-local-address", "outgoing.edns_bufsize": "edns-outgoing-bufsize",
    "outgoing.edns_padding": "edns-padding-out", "outgoing.lowercase": "lowercase-outgoing",
    "outgoing.tcp_max_idle_ms": "tcp-out-max-idle-ms", "outgoing.tcp_max_idle_per_auth": "tcp-out-max-idle-per-auth",
    "outgoing.tcp_max_queries": "tcp-out-max-queries", "outgoing.tcp_fast_open_connect": "tcp-fast-open-connect",
    "outgoing.tcp_max_idle_per_thread": "tcp-out-max-idle-per-thread",
    "dnssec.validation": "dnssec", "dnssec.log_bogus": "dnssec-log-bogus",
    "recordcache.max_entries": "max-cache-entries", "recordcache.max_ttl": "max-cache-ttl",
    "recordcache.locked_ttl_perc": "record-cache-locked-ttl-perc", "recordcache.shards": "record-cache-shards",
    "packetcache.disable": "disable-packetcache", "packetcache.max_entries": "max-packetcache-entries",
    "packetcache.ttl": "packetcache-ttl", "packetcache.negative_ttl": "packetcache-negative-ttl",
    "packetcache.servfail_ttl": "packetcache-servfail-ttl", "packetcache.shards": "packetcache-shards",
    "logging.common_errors": "log-common-errors", "logging.rpz_changes": "log-rpz-changes",
    "logging.timestamp": "log-timestamp", "logging.facility": "logging-facility",
    "webservice.address": "webserver-address", "webservice.port": "webserver-port",
    "webservice.password": "webserver-password", "webservice.allow_from": "webserver-allow-from",
    "webservice.loglevel": "webserver-loglevel", "webservice.api_dir": "api-config-dir",
    "webservice.hash_plaintext_credentials": "webserver-hash-plaintext-credentials",
    "snmp.agent": "snmp-agent", "snmp.daemon_socket": "snmp-daemon-socket",
    "carbon.server": "carbon-server", "carbon.interval": "carbon-interval", "carbon.ns": "carbon-namespace",
    "carbon.ourname": "carbon-ourname", "carbon.instance": "carbon-instance",
    "ecs.add_for": "ecs-add-for", "ecs.ipv4_bits": "ecs-ipv4-bits", "ecs.ipv6_bits": "ecs-ipv6-bits",
}
"""The names of settings in ``recursor.conf`` that are not those of the YAML format with hyphens."""
ZONES = ("forward-zones", "forward-zones-recurse", "auth-zones")
STRUCTURED = frozenset({"rpzs", "trustanchors", "negative-trustanchors", "dnstap-framestream-servers"})
"""Settings that are calls in the Lua configuration of the old format."""


class Node(NamedTuple):
    """A value and the line on which it begins."""

    line: int
    value: Value


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def is_recursor_yaml(text: str) -> bool:
    """Whether `text` looks like this format."""
    return re.search(r"(?m)^(?:incoming|outgoing|recursor|recordcache|packetcache|dnssec|logging):\s*(?:#.*)?$",
                     text) is not None


def parse(path: str) -> Node:
    """The content of the file `path`.

    Raises:
        ImportFailure: it cannot be read, or is not of the part of YAML that is read.
    """
    lines = []
    for number, raw in enumerate(read_text(path).splitlines(), 1):
        text = _COMMENT.sub(lambda found: found[1] or "", raw).rstrip()
        if text.strip() and text not in ("---", "..."):
            indent = len(text) - len(text.lstrip(" "))
            if text[indent] == "\t":
                raise ImportFailure(f"{path}:{number}: indentation with tabs is not YAML")
            lines.append(_Line(number, indent, text[indent:]))
    reader = _Reader(path, lines)
    return reader.whole()


class _Reader:
    def __init__(self, path: str, lines: list[_Line]) -> None:
        self._path, self._lines, self._at = path, lines, 0

    def _fail(self, line: int, why: str) -> ImportFailure:
        return ImportFailure(f"{self._path}:{line}: {why}")

    def whole(self) -> Node:
        if not self._lines:
            return Node(1, {})
        node = self._block(self._lines[0].indent, 0)
        if self._at < len(self._lines):
            raise self._fail(self._lines[self._at].number, "this line is indented less than the first one")
        return node

    def _block(self, indent: int, depth: int) -> Node:
        """The mapping or sequence whose lines have this indentation."""
        first = self._lines[self._at]
        if depth > limits.IMPORT_DEPTH:
            raise self._fail(first.number, f"levels are deeper than {limits.IMPORT_DEPTH}")
        if first.text == "-" or first.text.startswith("- "):
            return Node(first.number, list(self._sequence(indent, depth)))
        found: dict[str, Node] = {}
        while self._at < len(self._lines) and self._lines[self._at].indent == indent:
            line = self._lines[self._at]
            key = _KEY.match(line.text)
            if key is None:
                if line.text.startswith("-"):
                    break
                raise self._fail(line.number, f"{line.text!r} is not key: value")
            self._at += 1
            found[key["key"].strip("\"'")] = self._value(line, line.text[key.end() :], indent, depth, sequence=True)
        self._check_indent(indent)
        return Node(first.number, found)

    def _sequence(self, indent: int, depth: int) -> Iterator[Node]:
        while self._at < len(self._lines) and self._lines[self._at].indent == indent:
            line = self._lines[self._at]
            if line.text != "-" and not line.text.startswith("- "):
                break
            rest = line.text[1:].lstrip()
            if _KEY.match(rest) or rest == "-" or rest.startswith("- "):
                # A mapping or sequence that begins on the line of its hyphen.
                inner = indent + len(line.text) - len(rest)
                self._lines[self._at] = _Line(line.number, inner, rest)
                yield self._block(inner, depth + 1)
            else:
                self._at += 1
                yield self._value(line, rest, indent, depth, sequence=False)
        self._check_indent(indent)

    def _check_indent(self, indent: int) -> None:
        if self._at < len(self._lines) and self._lines[self._at].indent > indent:
            raise self._fail(self._lines[self._at].number, "this line is indented more than those that it belongs to")

    def _value(self, line: _Line, text: str, indent: int, depth: int, *, sequence: bool) -> Node:
        """The value that begins with `text`, or on the next line."""
        if not text:
            if self._at < len(self._lines):
                following = self._lines[self._at]
                if following.indent > indent or (
                        sequence and following.indent == indent and following.text.startswith("-")):
                    return self._block(following.indent, depth + 1)
            return Node(line.number, "")
        if _REFUSED.match(text):
            raise self._fail(line.number, f"{text!r}: anchors, tags and texts of several lines are not read")
        if text[0] not in "[{":
            return Node(line.number, self._scalar(line, text))
        # A value in brackets may go on on the next lines.
        while _open(text) and self._at < len(self._lines):
            text += " " + self._lines[self._at].text
            self._at += 1
        flow = _Flow(text)
        try:
            value = flow.value(line.number, depth)
        except ValueError as error:
            raise self._fail(line.number, str(error)) from None
        return Node(line.number, value)

    def _scalar(self, line: _Line, text: str) -> str:
        if text[0] in "\"'" and re.fullmatch(_QUOTED, text) is None:
            raise self._fail(line.number, f"{text!r}: a quotation mark has no end")
        return _plain(text)


def _open(text: str) -> bool:
    bare = re.sub(_QUOTED, "", text)
    return sum(map(bare.count, "[{")) > sum(map(bare.count, "]}"))


def _plain(text: str) -> str:
    text = text.strip()
    if text[:1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if text[:1] == "'":
        return text[1:-1].replace("''", "'")
    return "" if text in ("~", "null") else text


class _Flow:
    """Reads a value in brackets."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._kind, self._token = "", ""
        self._next()

    def _next(self) -> None:
        found = _FLOW.match(self._text, self._at)
        if found is None:
            if self._text[self._at :].strip():
                raise ValueError(f"{self._text!r} is not a value in brackets")
            self._kind, self._token = "end", ""
            return
        self._at = found.end()
        self._kind = found.lastgroup or ""
        self._token = found[self._kind].strip()

    def value(self, line: int, depth: int) -> Value:
        """The whole text.

        Raises:
            ValueError: it is not such a value.
        """
        found = self._one(line, depth)
        if self._kind != "end":
            raise ValueError(f"{self._token!r} follows the closing bracket")
        return found

    def _one(self, line: int, depth: int) -> Value:
        if depth > limits.IMPORT_DEPTH:
            raise ValueError(f"levels are deeper than {limits.IMPORT_DEPTH}")
        kind, token = self._kind, self._token
        self._next()
        if kind == "text":
            return _plain(token)
        if token == "[":
            listed: list[Node] = []
            while self._token != "]" or self._kind != "mark":
                listed.append(Node(line, self._one(line, depth + 1)))
                self._separator("]")
            self._next()
            return listed
        if token == "{" and kind == "mark":
            mapped: dict[str, Node] = {}
            while self._token != "}" or self._kind != "mark":
                if self._kind != "key":
                    raise ValueError(f"{self._token!r} is not key: value")
                key = _plain(self._token[:-1])
                self._next()
                mapped[key] = Node(line, self._one(line, depth + 1))
                self._separator("}")
            self._next()
            return mapped
        raise ValueError(f"{token or 'the end'!r} is not expected in brackets")

    def _separator(self, end: str) -> None:
        if self._kind == "mark" and self._token == ",":
            self._next()
        elif self._kind != "mark" or self._token != end:
            raise ValueError("a closing bracket or a comma is missing")


def settings(path: str) -> Iterator[tuple[str, Place, str | Node]]:
    """The settings of the file `path` with their names in ``recursor.conf``: texts, and nodes for `STRUCTURED`.

    Raises:
        ImportFailure: it cannot be read or parsed, or a value has another form than its setting.
    """
    root = parse(path).value
    if not isinstance(root, dict):
        raise ImportFailure(f"{path}:1: a list is no configuration")
    for section, inner in root.items():
        if not isinstance(inner.value, dict):
            if inner.value:
                raise ImportFailure(f"{path}:{inner.line}: {section} has no settings in it")
            continue
        for key, node in inner.value.items():
            name = NAMES.get(f"{section}.{key}", key.replace("_", "-"))
            place = Place(path, node.line)
            if name in ZONES and isinstance(node.value, list):
                yield from _zones(name, place, node.value)
            elif name in STRUCTURED:
                yield name, place, node
            else:
                yield name, place, _joined(node)


def _joined(node: Node) -> str:
    """A value as ``key=value`` has it."""
    if isinstance(node.value, str):
        return node.value
    if isinstance(node.value, list):
        return ",".join(_joined(one) for one in node.value)
    return ",".join(f"{key}={_joined(one)}" for key, one in node.value.items())


def _zones(name: str, place: Place, listed: list[Node]) -> Iterator[tuple[str, Place, str]]:
    """A list of zones: with servers, which are recursive resolvers when it says so, or with a file."""
    found: dict[str, list[str]] = {}
    for one in listed:
        keys = one.value if isinstance(one.value, dict) else {}
        zone = _joined(keys["zone"]) if "zone" in keys else ""
        if name == "auth-zones":
            found.setdefault(name, []).append(f"{zone}={_joined(keys['file']) if 'file' in keys else ''}")
            continue
        kind = "forward-zones-recurse" if "recurse" in keys and _joined(keys["recurse"]) == "true" else name
        servers = _joined(keys["forwarders"]).replace(",", ";") if "forwarders" in keys else ""
        found.setdefault(kind, []).append(f"{zone}={servers}")
    for kind, texts in found.items():
        yield kind, place, ", ".join(texts)
