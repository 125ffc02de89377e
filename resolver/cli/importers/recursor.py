"""Converts ``recursor.conf`` and ``recursor.yml`` of PowerDNS Recursor.

`recursor_yaml` translates the settings of the YAML format to the names of the older format, so the tables here have
only those names. `SIMPLE` maps a setting to a key of resolverd with the same meaning; `Importer` has a method for each
setting of `OWN`. All other settings are in `ALWAYS_SO`, `NOT_NEEDED` or `REASONS`. `recursor_lua` has the calls of a
Lua configuration. The page docs/migrating-from-powerdns-recursor.md is made from these tables.
"""

import glob
import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resolver.cli.importers.draft import (
    ALWAYS,
    BY_ITSELF,
    NO_COUNTERPART,
    QUERY_LOG,
    Draft,
    ImportFailure,
    Place,
    number,
    read_text,
)
from resolver.cli.importers.recursor_lua import Text, add_anchors, add_policy_zone, add_tap, endpoint, read_lua
from resolver.cli.importers.recursor_yaml import Node, is_recursor_yaml, parse, settings

__all__ = ["convert", "is_recursor"]

_LINE = re.compile(r"([a-z0-9-]+)\s*(\+?=)(.*)")
_SPLIT = re.compile(r"[,;\s]+")
PORT = 53
STALE_EXTENSION = 30
"""seconds: ``serve-stale-extensions`` is a number of extensions of the TTL by this time."""


def is_recursor(text: str) -> bool:
    """Whether `text` looks like one of the two formats."""
    keys = ("local-address", "allow-from", "forward-zones", "forward-zones-recurse", "setuid", "threads", "dnssec",
            "quiet", "hint-file", "config-dir", "security-poll-suffix", "max-cache-entries")
    return re.search(rf"(?m)^\s*(?:{'|'.join(keys)})\s*\+?=", text) is not None or is_recursor_yaml(text)


def _flag(value: str) -> bool:
    return value.strip().lower() in ("yes", "on", "true", "1", "")


def _inverted(value: str) -> bool:
    return not _flag(value)


def _to_seconds(value: str) -> float:
    return number(value) / 1000


def _extension_seconds(value: str) -> int:
    return number(value) * STALE_EXTENSION


def _is_positive(value: str) -> bool:
    return number(value) > 0


def _unless_disabled(value: str) -> str:
    return "" if value == "disabled" else value


SIMPLE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "threads": ("server.workers", number),
    "setuid": ("server.user", str),
    "server-id": ("server.identity", _unless_disabled),
    "version-string": ("server.version", str),
    "max-concurrent-requests-per-tcp-connection": ("server.tcp-pipeline", number),
    "max-total-msec": ("iteration.query-timeout", _to_seconds),
    "serve-stale-extensions": ("cache.max-stale-ttl", _extension_seconds),
    "refresh-on-ttl-perc": ("cache.prefetch", _is_positive),
    "udp-truncation-threshold": ("server.max-udp-size", number),
    "max-tcp-clients": ("server.tcp-connections", number),
    "max-tcp-per-client": ("server.tcp-connections-per-client", number),
    "client-tcp-timeout": ("server.tcp-idle-timeout", number),
    "any-to-tcp": ("server.minimal-any", _flag),
    "non-local-bind": ("server.freebind", _flag),
    "max-cache-ttl": ("cache.max-ttl", number),
    "max-negative-ttl": ("cache.max-negative-ttl", number),
    "minimum-ttl-override": ("cache.min-ttl", number),
    "max-cache-bogus-ttl": ("cache.bogus-ttl", number),
    "edns-outgoing-bufsize": ("iteration.edns-buffer-size", number),
    "qname-minimization": ("iteration.qname-minimisation", _flag),
    "max-qperq": ("iteration.max-upstream-queries", number),
    "hint-file": ("root-hints-file", str),
    "nsec3-max-iterations": ("dnssec.nsec3-max-iterations", number),
    "dns64-prefix": ("policy.dns64-prefix", str),
    "no-shuffle": ("server.rotate-addresses", _inverted),
    "ecs-ipv4-bits": ("client-subnet.ipv4-prefix", number),
    "ecs-ipv6-bits": ("client-subnet.ipv6-prefix", number),
    "serve-rfc1918": ("policy.special-use-domains", _flag),
}
CHANGES = {
    "any-to-tcp": "queries of type ANY get one small record set, instead of being sent to TCP",
    "threads": "workers are processes; each has its own waiting queries",
}
"""How the meaning of settings of `SIMPLE` changes."""
ALWAYS_SO = {
    **dict.fromkeys((
        "reuseport", "root-nx-trust", "extended-resolution-errors", "edns-padding-out", "disable-syslog",
        "log-rpz-changes",
    ), "yes"),
    **dict.fromkeys((
        "daemon", "lowercase-outgoing", "save-parent-ns-set", "single-socket", "allow-trust-anchor-query",
        "gettag-needs-edns-options", "webserver", "snmp-agent", "dot-to-auth-names",
        "structured-logging", "new-domain-tracking", "unique-response-tracking",
        "devonly-regression-test-mode",
    ), "no"),
}
"""The value of each setting with which PowerDNS does what resolverd always does. Other values are not carried over."""
NOT_NEEDED = dict.fromkeys((
    "config-dir", "config-name", "socket-dir", "socket-mode", "socket-owner", "socket-group", "write-pid",
    "security-poll-suffix", "max-mthreads", "stack-size", "stack-cache-size", "distributor-threads", "processes",
    "cpu-map", "latency-statistic-size", "network-timeout", "packetcache-ttl", "packetcache-servfail-ttl",
    "packetcache-negative-ttl", "record-cache-shards", "packetcache-shards", "stats-ringbuffer-entries",
    "max-packetcache-entries", "chroot", "setgid", "log-timestamp", "logging-facility", "log-common-errors",
    "dnssec-log-bogus", "nothing-below-nxdomain", "disable-packetcache", "pdns-distributes-queries", "tcp-fast-open",
    "tcp-fast-open-connect", "ignore-unknown-settings", "entropy-source", "rng",
    "distribution-load-factor", "distribution-pipe-buffer-size", "dont-throttle-names", "dont-throttle-netmasks",
    "edns-padding-mode", "edns-padding-tag", "edns-padding-from", "event-trace-enabled", "trace", "statistics-interval",
    "limit-qtype-any", "lua-maintenance-interval", "max-busy-dot-probes", "max-dnskeys", "max-ds-per-zone",
    "max-generate-steps", "max-include-depth", "max-ns-address-qperq", "max-ns-per-resolve",
    "max-nsec3-hash-computations-per-query", "max-nsec3s-per-record", "max-recursion-depth", "max-rrset-size",
    "max-rrsigs-per-record", "max-signature-validations-per-query", "max-tcp-queries-per-connection",
    "max-udp-queries-per-round", "non-resolving-ns-max-fails", "non-resolving-ns-throttle-time",
    "record-cache-locked-ttl-perc", "server-down-max-fails", "server-down-throttle-time", "soa-minimum-ttl",
    "spoof-nearmiss-max", "tcp-out-max-idle-ms", "tcp-out-max-idle-per-auth", "tcp-out-max-idle-per-thread",
    "tcp-out-max-queries", "udp-source-port-avoid", "udp-source-port-max", "udp-source-port-min",
    "aggressive-cache-max-nsec3-hash-cost", "aggressive-cache-min-nsec3-hit-ratio", "structured-logging-backend",
    "protobuf-use-kernel-timestamp", "proxy-protocol-maximum-size", "max-chain-length", "max-cnames-followed",
    "bypass-server-throttling-probability", "tcp-threads", "trustanchorfile-interval", "system-resolver-interval",
    "stats-api-blacklist", "stats-api-disabled-list", "stats-carbon-blacklist", "stats-carbon-disabled-list",
    "stats-rec-control-blacklist", "stats-rec-control-disabled-list", "stats-snmp-blacklist",
    "stats-snmp-disabled-list",
), BY_ITSELF)
_METRICS = "see metrics.listen; the values have other names there"
_NOTIFY = "NOTIFY is for zones of which resolverd has a copy; see allow-notify of [[zone]] and [[rpz]]"
REASONS = {
    **dict.fromkeys((
        "webserver-address", "webserver-allow-from", "webserver-hash-plaintext-credentials", "webserver-loglevel",
        "webserver-password", "webserver-port", "api-key", "api-config-dir", "carbon-instance", "carbon-interval",
        "carbon-namespace", "carbon-ourname", "carbon-server", "snmp-daemon-socket", "snmp-master-socket",
    ), _METRICS),
    **dict.fromkeys((
        "allow-notify-for", "allow-notify-for-file", "allow-notify-from", "allow-notify-from-file",
    ), _NOTIFY),
    "lua-dns-script": "resolverd has hooks in Python instead; see policy.modules",
    "max-cache-entries": "the cache of resolverd has a size in octets; set cache.size",
    "signature-inception-skew": "see dnssec.signature-skew-min, which is for both ends of the validity period",
    "trustanchorfile": "write its records into dnssec.trust-anchors; the keys of the root are built in",
    "proxy-protocol-exceptions": "write a [[listener]] table without proxy-protocol-from for this address",
    "sortlists": "see policy of [[balance]]",
    "disabled-algorithms": "resolverd has dnssec.accept-sha1, for RSASHA1 only",
    **dict.fromkeys((
        "x-dnssec-names", "export-etc-hosts-search-suffix", "ecs-add-for", "ecs-cache-limit-ttl", "ecs-ipv4-cache-bits",
        "ecs-ipv4-never-cache", "ecs-ipv6-cache-bits", "ecs-ipv6-never-cache", "ecs-minimum-ttl-override",
        "ecs-scope-zero-address", "protobuf-servers", "outgoing-protobuf-servers", "dnstap-nod-framestream-servers",
        "allowed-additional-qtypes",
        "proxymappings", "forwarding-catalog-zones", "zonetocaches",
    ), NO_COUNTERPART),
}
"""Why a setting is not carried over."""
OWN = {
    **dict.fromkeys(("local-address", "local-port"), "server.listen"),
    **dict.fromkeys(("allow-from", "allow-from-file"), "policy.allow, policy.refuse"),
    "allow-no-rd": "server.non-recursive-queries",
    "proxy-protocol-from": "listener.proxy-protocol-from",
    "use-incoming-edns-subnet": "client-subnet.trusted-clients",
    "dont-query": "iteration.do-not-query-addresses",
    **dict.fromkeys(("edns-subnet-allow-list", "edns-subnet-whitelist"), "client-subnet.servers, client-subnet.zones"),
    "query-local-address": "iteration.query-source-v4, iteration.query-source-v6",
    "dnssec": "dnssec.enabled",
    "aggressive-nsec-cache-size": "cache.aggressive-nsec",
    "loglevel": "log.level",
    "quiet": "query-log.file",
    **dict.fromkeys(("export-etc-hosts", "etc-hosts-file"), "policy.hosts-files"),
    "lua-config-file": "see the table of calls",
    "forward-zones": "stub", "forward-zones-recurse": "forward", "forward-zones-file": "stub; with +: forward",
    "dot-to-port-853": "forward.addresses with tls://",
    "auth-zones": "zone.file",
    "include-dir": "the files in it are read",
    "rpzs": "rpz, tsig-key", "trustanchors": "dnssec.trust-anchors",
    "negative-trustanchors": "dnssec.negative-trust-anchors", "dnstap-framestream-servers": "dnstap",
}
"""Settings that a method of `Importer` converts, and what they become."""
_READ_TOGETHER = frozenset({
    "local-port", "etc-hosts-file", "aggressive-nsec-cache-size", "proxy-protocol-from", "dot-to-port-853",
    "include-dir",
})
"""Settings that are read together with another one, or at the end."""


class Importer:
    """Converts the settings of one configuration and writes them to `draft`.

    Each method reads its whole setting before it changes the draft, so a setting that is reported as not carried over
    has no part in the result. An access list without its exceptions, for example, would allow more.
    """

    def __init__(
        self, draft: Draft, values: dict[str, tuple[Place, str]], nodes: dict[str, tuple[Place, Node]]
    ) -> None:
        self.draft = draft
        self.values = values
        self.nodes = nodes
        self.place = Place("", 0)
        """Where the setting that is being converted is."""

    def run(self) -> None:
        """Convert all values."""
        for key, (_, value) in self.values.items():
            self.draft.hide(key, value)
        for key, (place, value) in self.values.items():
            self.place = place
            try:
                self.convert(key, value)
            except ValueError as error:
                self.draft.left_out(place, f"{key}={value}", str(error))
        for key, (place, node) in self.nodes.items():
            for one in node.value if isinstance(node.value, list) else [node]:
                self.convert_structured(key, place._replace(line=one.line), one)
        if self.draft.get("server.listen") is None:
            self.listen_by_default()
        if self.value("aggressive-nsec-cache-size") == "0":
            self.draft.set("cache.aggressive-nsec", False)
        self.add_proxy_listeners()

    def convert(self, key: str, value: str) -> None:
        """Convert one setting.

        Raises:
            ValueError: it is not carried over; the text says why.
        """
        own: Callable[[str], None] | None = getattr(self, "key_" + key.replace("-", "_"), None)
        if key in SIMPLE:
            path, read = SIMPLE[key]
            self.draft.set(path, read(value))
            if key in CHANGES:
                self.draft.changed(self.place, f"{key}={value}", CHANGES[key])
        elif own is not None:
            own(value)
        elif key in ALWAYS_SO:
            if _flag(value) != (ALWAYS_SO[key] == "yes"):
                # The reason for ``webserver`` is that for its address.
                raise ValueError(REASONS.get(f"{key}-address", f"resolverd always behaves as with {ALWAYS_SO[key]}"))
            self.draft.not_needed(self.place, f"{key}={value}", ALWAYS)
        elif key in NOT_NEEDED:
            self.draft.not_needed(self.place, f"{key}={value}", NOT_NEEDED[key])
        elif key not in _READ_TOGETHER:
            raise ValueError(REASONS.get(key, NO_COUNTERPART))

    def convert_structured(self, key: str, place: Place, node: Node) -> None:
        """Convert one element of a setting of the YAML format that is a list of mappings."""
        keys = node.value if isinstance(node.value, dict) else {}
        shown, name = f"{key}: {_first(keys.get('name'))}".rstrip(), _first(keys.get("name"))
        try:
            if key == "rpzs":
                tsig = keys["tsig"].value if "tsig" in keys else {}
                named = tsig if isinstance(tsig, dict) else {}
                self.draft.hide("secret", _first(named.get("secret")))
                options = {option: Text(_first(inner)) for option, inner in keys.items()
                           if option not in ("name", "addresses", "tsig")}
                options |= {f"tsig{option}": Text(_first(inner)) for option, inner in named.items()}
                addresses = _all(keys.get("addresses"))
                if not addresses:
                    raise ValueError("write it as [[rpz]] with the name of the zone and its file")
                add_policy_zone(self.draft, place, shown, addresses, name, options)
            elif key == "trustanchors":
                add_anchors(self.draft, place, shown, name, _all(keys.get("dsrecords")))
            elif key == "negative-trustanchors":
                self.draft.add("dnssec.negative-trust-anchors", name)
            else:
                tap_options = {option: _first(inner) for option, inner in keys.items() if option != "servers"}
                add_tap(self.draft, place, shown, _all(keys.get("servers")), tap_options)
        except ValueError as error:
            self.draft.left_out(place, shown, str(error))

    def add_proxy_listeners(self) -> None:
        """Make each served address a [[listener]] that reads PROXY headers, if load balancers send them."""
        if not self.value("proxy-protocol-from"):
            return
        place, value = self.values["proxy-protocol-from"]
        try:
            networks = [str(ipaddress.ip_network(text, strict=False)) for text in _words(value)]
        except ValueError as error:
            self.draft.left_out(place, f"proxy-protocol-from={value}", str(error))
            return
        for where in self.draft.get("server.listen"):
            self.draft.table("listener", address=where, proxy_protocol_from=networks)
        self.draft.set("server.listen", [])

    def listen_by_default(self) -> None:
        """Listen on the loopback address, at `local-port` when that is a number."""
        try:
            self.key_local_address("127.0.0.1")
        except ValueError as error:
            place, value = self.values["local-port"]
            self.draft.left_out(place, f"local-port={value}", str(error))
            self.draft.add("server.listen", f"127.0.0.1:{PORT}")

    def value(self, key: str, default: str = "") -> str:
        return self.values[key][1] if key in self.values else default

    def key_local_address(self, value: str) -> None:
        port = number(self.value("local-port", str(PORT)))
        self.draft.add("server.listen", *[endpoint(text, port) for text in _words(value)])

    def key_allow_from(self, value: str) -> None:
        found = [(ipaddress.ip_network(text.lstrip("!"), strict=False), text.startswith("!")) for text in _words(value)]
        for network, denied in found:
            self.draft.add("policy.refuse" if denied else "policy.allow", str(network))

    def key_dont_query(self, value: str) -> None:
        found = [str(ipaddress.ip_network(text, strict=False)) for text in _without_exceptions(value)]
        self.draft.add("iteration.do-not-query-addresses", *found)

    def key_edns_subnet_allow_list(self, value: str) -> None:
        """Networks of servers, and domains."""
        for text in _without_exceptions(value):
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                self.draft.add("client-subnet.zones", text)
            else:
                self.draft.add("client-subnet.servers", str(network))

    def key_use_incoming_edns_subnet(self, value: str) -> None:
        if _flag(value):
            raise ValueError("name the clients whose option is used in client-subnet.trusted-clients")

    key_edns_subnet_whitelist = key_edns_subnet_allow_list

    def key_query_local_address(self, value: str) -> None:
        for address in [ipaddress.ip_address(text) for text in _words(value)]:
            if not address.is_unspecified:
                self.draft.set(f"iteration.query-source-v{address.version}", str(address))

    def key_dnssec(self, value: str) -> None:
        if value in ("off", "process-no-validate"):
            self.draft.set("dnssec.enabled", False)
        elif value in ("process", "log-fail"):
            self.draft.changed(self.place, f"dnssec={value}", "bogus answers are SERVFAIL for all clients that do not"
                               " set CD")

    def key_allow_no_rd(self, value: str) -> None:
        if _flag(value):
            self.draft.set("server.non-recursive-queries", "cache")

    def key_quiet(self, value: str) -> None:
        if not _flag(value):
            self.draft.set("query-log.file", "-")
            self.draft.changed(self.place, f"quiet={value}", QUERY_LOG)

    def key_allow_from_file(self, value: str) -> None:
        text = read_text(value)
        if value.endswith((".yml", ".yaml")):
            self.key_allow_from(",".join(_all(parse(value))))
        else:
            self.key_allow_from(",".join(line.partition("#")[0].strip() for line in text.splitlines()))

    def key_auth_zones(self, value: str) -> None:
        found = []
        for text in value.split(","):
            name, separator, file = text.strip().partition("=")
            if not (separator and file):
                raise ValueError(f"{text.strip()!r} is not zone=file")
            found.append((name, file))
        for name, file in found:
            self.draft.table("zone", name=name, file=file)

    def key_loglevel(self, value: str) -> None:
        # syslog's levels: 3 error, 4 warning, 5 notice, 6 info, 7 debug
        names = {4: "warning", 5: "info", 6: "info"}
        level = number(value)
        self.draft.set("log.level", names.get(level, "error" if level < 4 else "debug"))

    def key_export_etc_hosts(self, value: str) -> None:
        if _flag(value):
            self.draft.add("policy.hosts-files", self.value("etc-hosts-file", "/etc/hosts"))

    def key_lua_config_file(self, value: str) -> None:
        read_lua(self.draft, value)

    def key_forward_zones(self, value: str) -> None:
        self.add_tables(self.zone_tables(value, recurse=False))

    def key_forward_zones_recurse(self, value: str) -> None:
        self.add_tables(self.zone_tables(value, recurse=True))

    def key_forward_zones_file(self, value: str) -> None:
        """One zone a line; ``+`` before it: its servers are recursive resolvers, ``^``: NOTIFY may flush it."""
        tables: list[tuple[str, dict[str, Any]]] = []
        if value.endswith((".yml", ".yaml")):
            for one in _list(parse(value)):
                keys = one.value if isinstance(one.value, dict) else {}
                text = f"{_first(keys.get('zone'))}={';'.join(_all(keys.get('forwarders')))}"
                tables += self.zone_tables(text, recurse=_first(keys.get("recurse")) == "true")
        else:
            for line in read_text(value).splitlines():
                text = line.partition("#")[0].strip()
                if text:
                    recurse = "+" in text.partition("=")[0]
                    tables += self.zone_tables(text.lstrip("+^").replace(",", ";"), recurse=recurse)
        self.add_tables(tables)

    def add_tables(self, tables: list[tuple[str, dict[str, Any]]]) -> None:
        """Add tables, given as name and keys, to the draft."""
        for name, keys in tables:
            self.draft.table(name).update(keys)

    def zone_tables(self, value: str, *, recurse: bool) -> list[tuple[str, dict[str, Any]]]:
        """The tables for ``zone=address;address, zone=address``: [[stub]] for authoritative servers, [[forward]] for
        recursive resolvers (`recurse`).

        Raises:
            ValueError: a part is malformed or cannot be carried over.
        """
        tables: list[tuple[str, dict[str, Any]]] = []
        for text in value.split(","):
            zone, separator, addresses = text.strip().partition("=")
            if not separator:
                raise ValueError(f"{text.strip()!r} is not zone=address")
            found = [self.server_address(one) for one in addresses.split(";") if one.strip()]
            keys: dict[str, Any] = {"zone": zone.strip() or ".", "addresses": found}
            if any(one.startswith("tls://") for one in found):
                if not recurse:
                    raise ValueError("its servers are queried over TLS; write tls://ADDRESS#NAME in a [[stub]] table")
                # PowerDNS does not authenticate them.
                keys["allow-unauthenticated"] = True
            tables.append(("forward" if recurse else "stub", keys))
        return tables

    def server_address(self, text: str) -> str:
        """A server of a zone; port 853 means DNS over TLS, unless that is off."""
        found = endpoint(text)
        has_port = found.startswith("[") or found.count(":") == 1
        encrypted = has_port and found.endswith(":853") and _flag(self.value("dot-to-port-853", "yes"))
        return f"tls://{found}" if encrypted else found


def _words(value: str) -> list[str]:
    return [word for word in _SPLIT.split(value) if word]


def _without_exceptions(value: str) -> list[str]:
    """The elements of a list.

    Raises:
        ValueError: one of them is an exception; the lists of resolverd have none.
    """
    found = _words(value)
    for text in found:
        if text.startswith("!"):
            raise ValueError(f"exceptions such as {text} are not carried over")
    return found


def _list(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []


def _all(node: Node | None) -> list[str]:
    """The texts of a list."""
    return [one.value for one in _list(node) if isinstance(one.value, str)]


def _first(node: Node | None) -> str:
    """The text of a node; empty when it is none."""
    return node.value if node is not None and isinstance(node.value, str) else ""


def _lines(path: str) -> Iterator[tuple[str, str, Place, str]]:
    """Key, operator, place and value of each setting of a file in the ``key=value`` format."""
    for at, line in enumerate(read_text(path).splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise ImportFailure(f"{path}:{at}: {text!r} is not key=value")
        yield found[1], found[2], Place(path, at), found[3].lstrip()


def convert(path: str) -> Draft:
    """The draft made from the file `path`, and from those in its ``include-dir``.

    Raises:
        ImportFailure: a file cannot be read, or a line is no setting.
    """
    values: dict[str, tuple[Place, str]] = {}
    nodes: dict[str, tuple[Place, Node]] = {}
    yaml = is_recursor_yaml(read_text(path))

    def read(name: str) -> None:
        if not yaml:
            for key, operator, place, value in _lines(name):
                more = operator == "+=" and key in values
                values[key] = (place, f"{values[key][1]},{value}" if more else value)
            return
        for key, place, held in settings(name):
            if isinstance(held, Node):
                nodes[key] = (place, held)
            else:
                values[key] = (place, held)

    read(path)
    folder = values["include-dir"][1] if "include-dir" in values else ""
    for name in sorted(glob.glob(str(Path(folder) / ("*.yml" if yaml else "*.conf")))) if folder else ():
        read(name)
    draft = Draft()
    Importer(draft, values, nodes).run()
    return draft
