"""Reads ``unbound.conf``: sections, keys and values (unbound.conf(5)), with included files.

A statement is ``key: value``, of which a section is one without a value. A value is quoted or not and may be several
words, as those of ``local-zone``. `SIMPLE` maps a key to a key of resolverd of the same meaning; `Importer` has a
method for each other key that is carried over.
"""

import glob
import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from resolver import limits
from resolver.cli.importers.draft import COPY, Draft, ImportFailure, Place, read_text

__all__ = ["convert", "is_unbound"]

_WORD = re.compile(r'"([^"\n]*)"|\'([^\'\n]*)\'|([^\s"\']+)')
_SIZE = re.compile(r"(\d+)\s*([kmg]?)b?", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}
_SECTIONS = frozenset({
    "server", "stub-zone", "forward-zone", "auth-zone", "view", "remote-control", "python", "dynlib", "dnscrypt",
    "cachedb", "rpz", "ipset", "dnstap",
})
PLAIN_PORT, TLS_PORT, HTTPS_PORT = 53, 853, 443


class Statement(NamedTuple):
    """One ``key: value``."""

    place: Place
    key: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.key}: {' '.join(self.words)}".rstrip()


def is_unbound(text: str) -> bool:
    """Whether `text` looks like this format."""
    section = r"(?m)^\s*(?:(?:server|forward-zone|stub-zone|remote-control)\s*:\s*(?:#.*)?$|include(?:-toplevel)?\s*:)"
    return re.search(section, text) is not None


def statements(path: str, depth: int = 0) -> Iterator[Statement]:
    """All statements of `path` and of the files that it includes.

    Raises:
        ImportFailure: a file cannot be read, a line is no statement, or files include each other.
    """
    if depth > limits.IMPORT_DEPTH:
        raise ImportFailure(f"{path}: more than {limits.IMPORT_DEPTH} files include each other")
    for number, line in enumerate(read_text(path).splitlines(), 1):
        place = Place(path, number)
        for statement in _of_line(place, line):
            if statement.key not in ("include", "include-toplevel"):
                yield statement
                continue
            for pattern in statement.words:
                for name in sorted(glob.glob(str(Path(path).parent / pattern))):
                    yield from statements(name, depth + 1)


def _of_line(place: Place, line: str) -> Iterator[Statement]:
    """The statements of a line: usually one; several when a section and its keys share the line."""
    words: list[tuple[str, bool]] = []
    for found in _WORD.finditer(line):
        bare = found[3]
        if bare is not None and bare.startswith("#"):
            break
        words.append((bare, False) if bare is not None else (found[1] if found[1] is not None else found[2], True))
    key = ""
    values: list[str] = []
    for word, quoted in words:
        # An IPv6 address ends with a colon at most in "::", and no key has one inside.
        if not quoted and word.endswith(":") and not word.endswith("::") and (not key or key in _SECTIONS):
            if key:
                yield Statement(place, key, ())
            key, values = word[:-1].lower(), []
        elif not key:
            raise ImportFailure(f"{place}: {word!r} is no key; a statement is \"key: value\"")
        else:
            values.append(word)
    if key:
        yield Statement(place, key, tuple(values))


def _flag(value: str) -> bool:
    if value.lower() not in ("yes", "no"):
        raise ValueError(f"{value!r} is neither yes nor no")
    return value.lower() == "yes"


def _number(value: str) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{value!r} is not a number")
    return int(value)


def _size(value: str) -> int:
    found = _SIZE.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r} is not a size")
    return int(found[1]) << _UNITS[found[2].lower()]


def _milliseconds(value: str) -> float:
    return _number(value) / 1000


SIMPLE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "num-threads": ("server.workers", _number),
    "username": ("server.user", str),
    "max-udp-size": ("server.max-udp-size", _number),
    "minimal-responses": ("server.minimal-responses", _flag),
    "incoming-num-tcp": ("server.tcp-connections", _number),
    "tcp-idle-timeout": ("server.tcp-idle-timeout", _milliseconds),
    "num-queries-per-thread": ("server.pending-queries", _number),
    "discard-timeout": ("server.discard-timeout", _milliseconds),
    "deny-any": ("server.minimal-any", _flag),
    "answer-cookie": ("server.answer-cookies", _flag),
    "nsid": ("server.nsid", str),
    "cache-min-ttl": ("cache.min-ttl", _number),
    "cache-max-ttl": ("cache.max-ttl", _number),
    "cache-max-negative-ttl": ("cache.max-negative-ttl", _number),
    "serve-expired-reply-ttl": ("cache.stale-answer-ttl", _number),
    "serve-expired-client-timeout": ("cache.stale-answer-client-timeout", _milliseconds),
    "prefetch": ("cache.prefetch", _flag),
    "aggressive-nsec": ("cache.aggressive-nsec", _flag),
    "val-bogus-ttl": ("cache.bogus-ttl", _number),
    "infra-cache-numhosts": ("cache.infra-cache-entries", _number),
    "qname-minimisation": ("iteration.qname-minimisation", _flag),
    "harden-glue": ("iteration.harden-glue", _flag),
    "use-caps-for-id": ("iteration.case-randomisation", _flag),
    "do-ip4": ("iteration.do-ip4", _flag),
    "do-ip6": ("iteration.do-ip6", _flag),
    "tcp-upstream": ("iteration.tcp-only", _flag),
    "do-not-query-localhost": ("iteration.do-not-query-localhost", _flag),
    "edns-buffer-size": ("iteration.edns-buffer-size", _number),
    "tls-cert-bundle": ("iteration.tls-cert-bundle", str),
    "root-hints": ("root-hints-file", str),
    "harden-algo-downgrade": ("dnssec.harden-algorithm-downgrade", _flag),
    "val-sig-skew-min": ("dnssec.signature-skew-min", _number),
    "val-sig-skew-max": ("dnssec.signature-skew-max", _number),
    "dns64-prefix": ("policy.dns64-prefix", str),
}
LISTS = {
    "caps-exempt": "iteration.case-randomisation-exempt",
    "caps-whitelist": "iteration.case-randomisation-exempt",
    "do-not-query-address": "iteration.do-not-query-addresses",
    "dns64-ignore-aaaa": "policy.dns64-ignore-aaaa",
    "domain-insecure": "dnssec.negative-trust-anchors",
    "trust-anchor": "dnssec.trust-anchors",
    "private-address": "policy.private-addresses",
    "private-domain": "policy.private-domains",
    "local-data": "policy.local-data",
    "cookie-secret": "server.cookie-secrets",
    "tls-service-pem": "tls.certificate",
    "tls-service-key": "tls.key",
}
ACTIONS = {
    "allow": "allow", "allow_snoop": "allow", "allow_setrd": "allow", "allow_cookie": "allow", "refuse": "refuse",
    "refuse_non_local": "refuse", "deny": "drop", "deny_non_local": "drop",
}
OVERRIDES = {
    "nxdomain": "nxdomain", "nodata": "nodata", "passthru": "passthru", "drop": "drop", "disabled": "log",
}
"""The values of ``rpz-action-override``, as `override` of a policy zone."""
_ALWAYS, _BY_ITSELF = "resolverd always does this", "resolverd chooses this by itself"
NOT_NEEDED = {
    **dict.fromkeys((
        "do-udp", "do-tcp", "do-daemonize", "harden-short-bufsize", "harden-large-queries", "harden-dnssec-stripped",
        "harden-below-nxdomain", "harden-referral-path", "prefetch-key", "rrset-roundrobin", "so-reuseport",
        "harden-unverified-glue", "unwanted-reply-threshold", "edns-tcp-keepalive", "pad-responses", "pad-queries",
        "ip-transparent", "udp-connect", "use-syslog", "log-time-ascii", "target-fetch-policy",
    ), _ALWAYS),
    **dict.fromkeys((
        "outgoing-range", "outgoing-num-tcp", "so-rcvbuf", "so-sndbuf", "msg-cache-slabs", "rrset-cache-slabs",
        "infra-cache-slabs", "key-cache-slabs", "key-cache-size", "neg-cache-size", "msg-buffer-size", "jostle-timeout",
        "infra-host-ttl", "infra-keep-probing", "infra-cache-min-rtt", "infra-cache-max-rtt", "statistics-interval",
        "extended-statistics", "statistics-cumulative", "directory", "chroot", "pidfile", "outgoing-port-permit",
        "outgoing-port-avoid", "stream-wait-size", "num-queries-per-thread-slabs", "ratelimit-slabs",
        "ip-ratelimit-slabs", "delay-close", "unknown-server-time-limit", "control-enable", "control-use-cert",
        "server-key-file", "server-cert-file", "control-key-file", "control-cert-file", "interface-automatic",
    ), _BY_ITSELF),
}
_READ_TOGETHER = frozenset({
    "port", "tls-port", "https-port", "msg-cache-size", "rrset-cache-size", "serve-expired", "serve-expired-ttl",
    "hide-identity", "hide-version", "module-config",
})
"""Read with another key, or at the end."""


class Importer:
    """Carries the statements of one configuration over into `draft`."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.section = ""
        self.table: dict[str, Any] | None = None
        self.policy: list[Statement] | None = None
        self.encrypted = False
        self.first: dict[str, str] = {}
        self.where: dict[str, Statement] = {}

    def run(self, found: list[Statement]) -> None:
        """Convert all of `found`."""
        # Values that give others their meaning, wherever they are.
        self.where = {one.key: one for one in found if one.words}
        self.first = {key: one.words[0] for key, one in self.where.items()}
        for one in found:
            if one.key in _SECTIONS and not one.words:
                self.begin(one)
                continue
            try:
                self.convert(one)
            except ValueError as error:
                self.draft.left_out(one.place, one.text, str(error))
        self.end_table()
        self.finish()

    def begin(self, one: Statement) -> None:
        """A section begins."""
        self.end_table()
        self.section = one.key
        if one.key in ("forward-zone", "stub-zone"):
            self.table = self.draft.table(one.key.partition("-")[0], zone=".", addresses=[])
            self.encrypted = False
        elif one.key == "rpz":
            self.policy = []

    def end_table(self) -> None:
        """A section is complete: the addresses of a forward or stub zone are written as resolverd has them."""
        if self.policy is not None:
            self.end_policy(self.policy)
            self.policy = None
        if self.table is None:
            return
        addresses = []
        for text in self.table["addresses"]:
            host, _, name = text.partition("#")
            host, _, port = host.partition("@")
            host = f"[{host}]" if ":" in host and (port or self.encrypted) else host
            where = f"{host}:{port}" if port else host
            addresses.append(f"tls://{where}" + (f"#{name}" if name else "") if self.encrypted else where)
            if self.encrypted and not name:
                # Unbound does not authenticate a server without a name.
                self.table["allow-unauthenticated"] = True
        self.table["addresses"] = addresses
        self.table = None

    def end_policy(self, found: list[Statement]) -> None:
        """A response policy zone is complete: it is transferred, fetched, or read from a file."""
        made: dict[str, Any] = {"primaries": [], "allow_notify": []}
        plain = {one.key: one for one in found}
        transferred = bool({"primary", "master"} & plain.keys())
        for one in found:
            try:
                self.policy_key(one, made, transferred=transferred)
            except ValueError as error:
                self.draft.left_out(one.place, one.text, str(error))
        name = plain.get("name")
        if name is None or not (made["primaries"] or made.get("url") or made.get("file")):
            for one in found[:1]:
                self.draft.left_out(one.place, f"rpz: {one.text}", "the zone has no name, or nowhere to come from")
            return
        if "zonefile" in plain and (made["primaries"] or "url" in made):
            made.pop("file", None)
            file = plain["zonefile"]
            self.draft.not_needed(file.place, file.text, COPY if made["primaries"] else "resolverd has its own file")
        self.draft.policy_zone(name.words[0], **made)

    def policy_key(self, one: Statement, made: dict[str, Any], *, transferred: bool) -> None:
        """A key of a response policy zone.

        Raises:
            ValueError: it is not carried over; the text says why.
        """
        value = one.words[0]
        if one.key in ("primary", "master"):
            made["primaries"].append(_primary(value))
        elif one.key == "url":
            if transferred:
                raise ValueError("the zone is transferred from its primaries")
            if not value.startswith("https://"):
                raise ValueError("resolverd fetches policy zones over HTTPS only")
            made["url"] = value
        elif one.key == "zonefile":
            made["file"] = value
        elif one.key == "allow-notify":
            made["allow_notify"].append(str(ipaddress.ip_network(value, strict=False)))
        elif one.key == "rpz-log":
            made["log"] = _flag(value) or None
        elif one.key == "rpz-action-override":
            if value not in OVERRIDES:
                raise ValueError(f"a policy zone of resolverd has no override {value!r}")
            made["override"] = OVERRIDES[value]
        elif one.key == "for-downstream" and not _flag(value):
            self.draft.not_needed(one.place, one.text, _ALWAYS)
        elif one.key != "name":
            raise ValueError("a policy zone of resolverd has no such key")

    def convert(self, one: Statement) -> None:
        """Carry one statement over.

        Raises:
            ValueError: its value is malformed.
        """
        if not one.words:
            raise ValueError("the value is missing")
        if self.section in ("forward-zone", "stub-zone"):
            self.zone_key(one)
        elif self.policy is not None:
            self.policy.append(one)
        elif self.section == "remote-control" and one.key == "control-interface" and one.words[0].startswith("/"):
            self.draft.set("control.socket", one.words[0])
        elif self.section not in ("server", "remote-control"):
            self.draft.left_out(one.place, one.text, f"resolverd has no counterpart of {self.section}")
        elif one.key in SIMPLE:
            path, read = SIMPLE[one.key]
            self.draft.set(path, read(one.words[0]))
        elif one.key in LISTS:
            self.draft.add(LISTS[one.key], " ".join(one.words))
        else:
            own = getattr(self, "key_" + one.key.replace("-", "_"), None)
            if own is not None:
                own(one)
            elif one.key in NOT_NEEDED:
                self.draft.not_needed(one.place, one.text, NOT_NEEDED[one.key])
            elif one.key not in _READ_TOGETHER:
                self.draft.left_out(one.place, one.text, "resolverd has no counterpart")

    def zone_key(self, one: Statement) -> None:
        """A key of a forward or stub zone."""
        assert self.table is not None
        kind, _, key = one.key.partition("-")
        if one.key == "name":
            self.table["zone"] = one.words[0]
        elif key == "addr":
            self.table["addresses"].append(one.words[0])
        elif key == "first":
            self.table[one.key] = _flag(one.words[0])
        elif one.key in ("forward-tls-upstream", "forward-ssl-upstream"):
            self.encrypted = _flag(one.words[0])
        elif one.key == "stub-host":
            self.table.setdefault("names", []).append(one.words[0])
        else:
            self.draft.left_out(one.place, one.text, f"a {kind} zone of resolverd has no such key")

    # --- keys with a form of their own ----------------------------------------------------------------------------

    def key_interface(self, one: Statement) -> None:
        """An address that is served; its port decides about the protocol."""
        host, _, port_text = one.words[0].partition("@")
        ipaddress.ip_address(host.partition("%")[0])
        default = self.first.get("port", str(PLAIN_PORT))
        port = _number(port_text or default)
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if port == _number(self.first.get("tls-port", str(TLS_PORT))) and "tls-service-key" in self.first:
            self.draft.table("listener", address=where, protocol="tls")
        elif port == _number(self.first.get("https-port", str(HTTPS_PORT))) and "tls-service-key" in self.first:
            self.draft.table("listener", address=where, protocol="https")
        else:
            self.draft.add("server.listen", where)

    key_ip_address = key_interface

    def key_outgoing_interface(self, one: Statement) -> None:
        version = ipaddress.ip_address(one.words[0]).version
        path = f"iteration.query-source-v{version}"
        if self.draft.get(path):
            raise ValueError("resolverd has one source address for each family")
        self.draft.set(path, one.words[0])

    def key_access_control(self, one: Statement) -> None:
        if len(one.words) != 2:
            raise ValueError("it is not a network and an action")
        network, action = one.words
        if action not in ACTIONS:
            raise ValueError(f"resolverd has no access action {action!r}")
        self.draft.add(f"policy.{ACTIONS[action]}", str(ipaddress.ip_network(network, strict=False)))
        if action == "allow_snoop":
            self.draft.set("server.non-recursive-queries", "cache")

    def key_local_zone(self, one: Statement) -> None:
        zone, kind = one.words
        if kind == "nodefault":
            kind = "resolve"
        self.draft.add("policy.local-zones", f"{zone} {kind}")

    def key_local_data_ptr(self, one: Statement) -> None:
        words = one.words if len(one.words) > 1 else tuple(one.words[0].split())
        address, *ttl, name = words
        reverse = ipaddress.ip_address(address).reverse_pointer
        self.draft.add("policy.local-data", " ".join((f"{reverse}.", *ttl, "PTR", name)))

    def key_identity(self, one: Statement) -> None:
        if self.first.get("hide-identity") != "yes":
            self.draft.set("server.identity", one.words[0])

    def key_version(self, one: Statement) -> None:
        if self.first.get("hide-version") != "yes":
            self.draft.set("server.version", one.words[0])

    def key_verbosity(self, one: Statement) -> None:
        levels = ("warning", "info", "info", "debug")
        self.draft.set("log.level", levels[min(_number(one.words[0]), len(levels) - 1)])

    def key_trust_anchor_file(self, one: Statement) -> None:
        lines = [line.partition(";")[0].strip() for line in read_text(one.words[0]).splitlines()]
        self.draft.add("dnssec.trust-anchors", *(line for line in lines if line))

    def key_auto_trust_anchor_file(self, one: Statement) -> None:
        self.draft.left_out(one.place, one.text, (
            "its format is Unbound's; set dnssec.auto-trust-anchor-file to a new file, which resolverd begins with the"
            " built-in keys of the root"
        ))

    def key_insecure_lan_zones(self, one: Statement) -> None:
        self.draft.left_out(one.place, one.text, "name the zones in dnssec.negative-trust-anchors")

    def read_first(self, key: str, read: Callable[[str], int]) -> int | None:
        """The number of `key`; None without it, and after a remark when it is malformed."""
        one = self.where.get(key)
        if one is None:
            return None
        try:
            return read(one.words[0])
        except ValueError as error:
            self.draft.left_out(one.place, one.text, str(error))
            return None

    def finish(self) -> None:
        """What several statements decide together."""
        first, draft = self.first, self.draft
        sizes = [self.read_first(key, _size) for key in ("msg-cache-size", "rrset-cache-size")]
        if any(size is not None for size in sizes):
            draft.set("cache.size", max(limits.CACHE_SIZE.minimum, sum(size or 0 for size in sizes)))
        if first.get("serve-expired") == "yes":
            draft.set("cache.max-stale-ttl", self.read_first("serve-expired-ttl", _number) or 86_400)
        if "module-config" in first and "validator" not in first["module-config"]:
            draft.set("dnssec.enabled", False)
        if draft.get("server.listen") is None:
            port = first.get("port", str(PLAIN_PORT))
            draft.add("server.listen", f"127.0.0.1:{port}", f"[::1]:{port}")


def _primary(text: str) -> str:
    """A primary as resolverd writes it; with a name the transfer is over TLS.

    Raises:
        ValueError: it is not an address.
    """
    host, _, name = text.partition("#")
    host, _, port = host.partition("@")
    address = ipaddress.ip_address(host)
    where = f"[{address}]" if address.version == 6 and (port or name) else str(address)
    where += f":{_number(port)}" if port else ""
    return f"tls://{where}#{name}" if name else where


def convert(path: str) -> Draft:
    """The draft made from the file `path`.

    Raises:
        ImportFailure: a file cannot be read or parsed.
    """
    draft = Draft()
    Importer(draft).run(list(statements(path)))
    return draft
