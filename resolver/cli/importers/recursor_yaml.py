"""Reads ``recursor.yml`` of PowerDNS Recursor into the settings of its ``key=value`` format.

PyYAML, which is an extra, reads the syntax. `settings` gives each value the name of its setting in ``recursor.conf``:
the key of YAML with hyphens instead of underscores, unless `NAMES` has another.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

from resolver import limits
from resolver.cli.importers.draft import ImportFailure, Place, read_text

__all__ = ["NAMES", "STRUCTURED", "Node", "Value", "is_recursor_yaml", "parse", "settings"]

Value: TypeAlias = "str | list[Node] | dict[str, Node]"
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


def is_recursor_yaml(text: str) -> bool:
    """Whether `text` looks like this format."""
    return re.search(r"(?m)^(?:incoming|outgoing|recursor|recordcache|packetcache|dnssec|logging):\s*(?:#.*)?$",
                     text) is not None


def parse(path: str) -> Node:
    """The content of the file `path`.

    Raises:
        ImportFailure: it cannot be read, is no YAML, or has what such files have no use for: aliases, keys that are no
            text or stand twice, several documents, more levels than `limits.IMPORT_DEPTH`. Or PyYAML is missing.
    """
    text = read_text(path)
    try:
        yaml: Any = import_module("yaml")
    except ImportError:
        raise ImportFailure(f"{path}: YAML is read by PyYAML (pip install 'corenet-resolver[import]')") from None
    reader = _Reader(path, yaml)
    try:
        return reader.whole(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise ImportFailure(f"{path}{line}: {getattr(error, 'problem', None) or error}") from None


class _Reader:
    """Makes nodes of the events of one file. A document of events has no loops, and its depth is checked here."""

    def __init__(self, path: str, yaml: Any) -> None:
        self._path, self._yaml = path, yaml

    def _fail(self, event: Any, why: str) -> ImportFailure:
        return ImportFailure(f"{self._path}:{event.start_mark.line + 1}: {why}")

    def whole(self, events: Iterator[Any]) -> Node:
        found = Node(1, {})
        documents = 0
        for event in events:
            if isinstance(event, self._yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._fail(event, "only one document is allowed")
                found = self._node(next(events), events, 0)
        return found

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        yaml, line = self._yaml, event.start_mark.line + 1
        if depth > limits.IMPORT_DEPTH:
            raise self._fail(event, f"nested deeper than {limits.IMPORT_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None
            return Node(line, "" if plain and event.value in ("~", "null") else event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            listed = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                listed.append(self._node(event, events, depth + 1))
            return Node(line, listed)
        if not isinstance(event, yaml.MappingStartEvent):
            raise self._fail(event, "aliases are not supported")
        mapped: dict[str, Node] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._fail(event, "a key is not text")
            if event.value in mapped:
                raise self._fail(event, f"duplicate key {event.value!r}")
            mapped[event.value] = self._node(next(events), events, depth + 1)
        return Node(line, mapped)


def settings(path: str) -> Iterator[tuple[str, Place, str | Node]]:
    """The settings of the file `path` with their names in ``recursor.conf``: texts, and nodes for `STRUCTURED`.

    Raises:
        ImportFailure: it cannot be read or parsed, or a value has another form than its setting.
    """
    root = parse(path).value
    if not isinstance(root, dict):
        raise ImportFailure(f"{path}:1: the top level must be a mapping")
    for section, inner in root.items():
        if not isinstance(inner.value, dict):
            if inner.value:
                raise ImportFailure(f"{path}:{inner.line}: {section} must be a mapping of settings")
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
