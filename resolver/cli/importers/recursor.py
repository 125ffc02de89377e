"""Reads the old format of ``recursor.conf`` of PowerDNS Recursor: ``key=value`` and ``key+=value`` lines.

`SIMPLE` maps a key to a key of resolverd of the same meaning; `Importer` has a method for each other key that is
carried over.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from resolver.cli.importers.draft import Draft, ImportFailure, Place, read_text
from resolver.cli.importers.recursor_lua import read_policy_zones

__all__ = ["convert", "is_recursor", "is_recursor_yaml"]

_LINE = re.compile(r"([a-z0-9-]+)\s*(\+?=)\s*(.*)")
_SPLIT = re.compile(r"[,;\s]+")
PORT = 53


def is_recursor(text: str) -> bool:
    """Whether `text` looks like this format."""
    keys = ("local-address", "allow-from", "forward-zones", "forward-zones-recurse", "setuid", "threads", "dnssec",
            "quiet", "hint-file", "config-dir", "security-poll-suffix", "max-cache-entries")
    return re.search(rf"(?m)^\s*(?:{'|'.join(keys)})\s*\+?=", text) is not None


def is_recursor_yaml(text: str) -> bool:
    """Whether `text` looks like the YAML format of newer versions."""
    return re.search(r"(?m)^(?:incoming|outgoing|recursor|recordcache|packetcache):\s*$", text) is not None


def _flag(value: str) -> bool:
    return value.strip().lower() in ("yes", "on", "true", "1", "")


def _number(value: str) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{value!r} is not a number")
    return int(value)


SIMPLE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "threads": ("server.workers", _number),
    "setuid": ("server.user", str),
    "server-id": ("server.identity", str),
    "version-string": ("server.version", str),
    "udp-truncation-threshold": ("server.max-udp-size", _number),
    "max-tcp-clients": ("server.tcp-connections", _number),
    "max-tcp-per-client": ("server.tcp-connections-per-client", _number),
    "client-tcp-timeout": ("server.tcp-idle-timeout", _number),
    "any-to-tcp": ("server.minimal-any", _flag),
    "max-cache-ttl": ("cache.max-ttl", _number),
    "max-negative-ttl": ("cache.max-negative-ttl", _number),
    "minimum-ttl-override": ("cache.min-ttl", _number),
    "max-cache-bogus-ttl": ("cache.bogus-ttl", _number),
    "edns-outgoing-bufsize": ("iteration.edns-buffer-size", _number),
    "qname-minimization": ("iteration.qname-minimisation", _flag),
    "max-qperq": ("iteration.max-upstream-queries", _number),
    "hint-file": ("root-hints-file", str),
    "nsec3-max-iterations": ("dnssec.nsec3-max-iterations", _number),
    "dns64-prefix": ("policy.dns64-prefix", str),
    "serve-rfc1918": ("policy.special-use-domains", _flag),
}
_ALWAYS, _BY_ITSELF = "resolverd always does this", "resolverd chooses this by itself"
NOT_NEEDED = {
    **dict.fromkeys((
        "daemon", "disable-syslog", "log-timestamp", "reuseport", "root-nx-trust", "save-parent-ns-set",
        "lowercase-outgoing", "nothing-below-nxdomain", "disable-packetcache", "pdns-distributes-queries",
    ), _ALWAYS),
    **dict.fromkeys((
        "config-dir", "config-name", "socket-dir", "socket-mode", "socket-owner", "socket-group", "write-pid", "quiet",
        "security-poll-suffix", "max-mthreads", "stack-size", "distributor-threads",
        "cpu-map", "latency-statistic-size", "network-timeout", "packetcache-ttl", "packetcache-servfail-ttl",
        "record-cache-shards", "packetcache-shards", "stats-ringbuffer-entries", "max-packetcache-entries", "chroot",
        "setgid",
    ), _BY_ITSELF),
}
_READ_TOGETHER = frozenset({"local-port", "etc-hosts-file", "aggressive-nsec-cache-size"})
"""Read with another key, or at the end."""


class Importer:
    """Carries the lines of one configuration over into `draft`."""

    def __init__(self, draft: Draft, values: dict[str, tuple[Place, str]]) -> None:
        self.draft = draft
        self.values = values

    def run(self) -> None:
        """Convert all values."""
        for key, (place, value) in self.values.items():
            own: Callable[[str], None] | None = getattr(self, "key_" + key.replace("-", "_"), None)
            try:
                if key in SIMPLE:
                    path, read = SIMPLE[key]
                    self.draft.set(path, read(value))
                elif own is not None:
                    own(value)
                elif key in NOT_NEEDED:
                    self.draft.not_needed(place, f"{key}={value}", NOT_NEEDED[key])
                elif key not in _READ_TOGETHER:
                    self.draft.left_out(place, f"{key}={value}", "resolverd has no counterpart")
            except ValueError as error:
                self.draft.left_out(place, f"{key}={value}", str(error))
        if self.draft.get("server.listen") is None:
            self.listen_by_default()
        if self.value("aggressive-nsec-cache-size") == "0":
            self.draft.set("cache.aggressive-nsec", False)

    def listen_by_default(self) -> None:
        """Serve the loopback address, at `local-port` when it is a number."""
        try:
            self.key_local_address("127.0.0.1")
        except ValueError as error:
            place, value = self.values["local-port"]
            self.draft.left_out(place, f"local-port={value}", str(error))
            self.draft.add("server.listen", f"127.0.0.1:{PORT}")

    def value(self, key: str, default: str = "") -> str:
        return self.values[key][1] if key in self.values else default

    def key_local_address(self, value: str) -> None:
        port = _number(self.value("local-port", str(PORT)))
        for text in _words(value):
            self.draft.add("server.listen", _endpoint(text, port))

    def key_allow_from(self, value: str) -> None:
        # All are read before one is written: without its exceptions a list would allow more.
        found = [(ipaddress.ip_network(text.lstrip("!"), strict=False), text.startswith("!")) for text in _words(value)]
        for network, denied in found:
            self.draft.add("policy.refuse" if denied else "policy.allow", str(network))

    def key_dont_query(self, value: str) -> None:
        for text in _words(value):
            if text.startswith("!"):
                raise ValueError(f"exceptions such as {text} are not carried over")
            self.draft.add("iteration.do-not-query-addresses", str(ipaddress.ip_network(text, strict=False)))

    def key_query_local_address(self, value: str) -> None:
        for text in _words(value):
            address = ipaddress.ip_address(text)
            if not address.is_unspecified:
                self.draft.set(f"iteration.query-source-v{address.version}", text)

    def key_dnssec(self, value: str) -> None:
        if value in ("off", "process-no-validate"):
            self.draft.set("dnssec.enabled", False)

    def key_loglevel(self, value: str) -> None:
        # syslog's levels: 3 error, 4 warning, 5 notice, 6 info, 7 debug
        names = {4: "warning", 5: "info", 6: "info"}
        level = _number(value)
        self.draft.set("log.level", names.get(level, "error" if level < 4 else "debug"))

    def key_export_etc_hosts(self, value: str) -> None:
        if _flag(value):
            self.draft.add("policy.hosts-files", self.value("etc-hosts-file", "/etc/hosts"))

    def key_lua_config_file(self, value: str) -> None:
        read_policy_zones(self.draft, value)
        raise ValueError("of this file, only calls of rpzPrimary are carried over")

    def key_forward_zones(self, value: str) -> None:
        self.zones(value, recurse=False)

    def key_forward_zones_recurse(self, value: str) -> None:
        self.zones(value, recurse=True)

    def key_forward_zones_file(self, value: str) -> None:
        """One zone a line; ``+`` before it: its servers are recursive resolvers, ``^``: NOTIFY may flush it."""
        for line in read_text(value).splitlines():
            text = line.partition("#")[0].strip()
            if text:
                self.zones(text.lstrip("+^").replace(",", ";"), recurse="+" in text.partition("=")[0])

    def zones(self, value: str, *, recurse: bool) -> None:
        """``zone=address;address, zone=address``: authoritative servers, or recursive resolvers with `recurse`."""
        for text in value.split(","):
            zone, separator, addresses = text.strip().partition("=")
            if not separator:
                raise ValueError(f"{text.strip()!r} is not zone=address")
            found = [_endpoint(one, 0) for one in addresses.split(";") if one.strip()]
            self.draft.table("forward" if recurse else "stub", zone=zone.strip() or ".", addresses=found)


def _words(value: str) -> list[str]:
    return [word for word in _SPLIT.split(value) if word]


def _endpoint(text: str, port: int) -> str:
    """``address``, ``address:port`` or ``[address]:port`` as resolverd writes it; port 0: the default of the key.

    Raises:
        ValueError: it is not an address.
    """
    text = text.strip()
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        given = rest.lstrip(":")
    elif text.count(":") == 1:
        host, _, given = text.partition(":")
    else:
        host, given = text, ""
    address = ipaddress.ip_address(host)
    number = _number(given) if given else port
    if not number:
        return str(address)
    return f"[{address}]:{number}" if address.version == 6 else f"{address}:{number}"


def convert(path: str) -> Draft:
    """The draft made from the file `path`.

    Raises:
        ImportFailure: a file cannot be read, or a line is no setting.
    """
    values: dict[str, tuple[Place, str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise ImportFailure(f"{path}:{number}: {text!r} is not key=value")
        key, operator, value = found.groups()
        if operator == "+=" and key in values:
            value = f"{values[key][1]},{value}"
        values[key] = (Place(path, number), value)
    draft = Draft()
    Importer(draft, values).run()
    return draft
