"""Carries ``named.conf`` of BIND over. `bind_syntax` has the statements of a file.

Access lists are resolved by their names. `SIMPLE` maps an option to a key of resolverd of the same meaning; `Importer`
has a method for each other option that is carried over.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resolver import limits
from resolver.cli.importers.bind_syntax import Statement, parse
from resolver.cli.importers.draft import COPY, Draft
from resolver.zone_settings import TSIG_ALGORITHMS

__all__ = ["convert", "is_bind"]

_SIZE = re.compile(r"(\d+)([kmg]?)", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}
_TTL = re.compile(r"(\d+)([smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
PORT = 53


def is_bind(text: str) -> bool:
    """Whether `text` looks like this format."""
    head = r"(?m)^\s*(?:options|zone\s+\"[^\"]*\"[^{\n]*|acl\s+\S+|include\s+\"[^\"]*\")\s*[{;]"
    return re.search(head, text) is not None


def _flag(value: str) -> bool:
    if value.lower() not in ("yes", "no", "true", "false", "1", "0"):
        raise ValueError(f"{value!r} is neither yes nor no")
    return value.lower() in ("yes", "true", "1")


def _number(value: str) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{value!r} is not a number")
    return int(value)


def _ttl(value: str) -> int:
    found = _TTL.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r} is not a time")
    return int(found[1]) * _SECONDS[found[2].lower()]


def _size(value: str) -> int:
    found = _SIZE.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r} is not a size in bytes")
    return max(limits.CACHE_SIZE.minimum, int(found[1]) << _UNITS[found[2].lower()])


def _text(value: str) -> str:
    return "" if value == "none" else value


SIMPLE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "max-cache-size": ("cache.size", _size),
    "max-cache-ttl": ("cache.max-ttl", _ttl),
    "min-cache-ttl": ("cache.min-ttl", _ttl),
    "max-ncache-ttl": ("cache.max-negative-ttl", _ttl),
    "servfail-ttl": ("cache.servfail-ttl", _ttl),
    "stale-answer-ttl": ("cache.stale-answer-ttl", _ttl),
    "synth-from-dnssec": ("cache.aggressive-nsec", _flag),
    "edns-udp-size": ("iteration.edns-buffer-size", _number),
    "max-udp-size": ("server.max-udp-size", _number),
    "recursive-clients": ("server.pending-queries", _number),
    "tcp-clients": ("server.tcp-connections", _number),
    "minimal-any": ("server.minimal-any", _flag),
    "answer-cookie": ("server.answer-cookies", _flag),
    "require-server-cookie": ("server.require-cookies", _flag),
    "server-id": ("server.nsid", _text),
    "version": ("server.version", _text),
    "hostname": ("server.identity", _text),
    "empty-zones-enable": ("policy.special-use-domains", _flag),
    "send-cookie": ("iteration.send-cookies", _flag),
    "max-recursion-queries": ("iteration.max-upstream-queries", _number),
}
_ALWAYS, _BY_ITSELF = "resolverd always does this", "resolverd chooses this by itself"
NOT_NEEDED = {
    **dict.fromkeys((
        "auth-nxdomain", "provide-ixfr", "require-ecs", "message-compression", "reuseport",
        "allow-transfer", "allow-update", "notify", "dnssec-enable",
    ), _ALWAYS),
    **dict.fromkeys((
        "directory", "pid-file", "dump-file", "statistics-file", "memstatistics-file", "session-keyfile",
        "key-directory", "managed-keys-directory", "bindkeys-file", "secroots-file", "recursing-file",
        "geoip-directory", "lock-file", "tcp-listen-queue", "tcp-keepalive-timeout", "tcp-advertised-timeout",
        "tcp-initial-timeout", "clients-per-query", "max-clients-per-query", "max-recursion-depth",
        "reserved-sockets", "files", "datasize", "stacksize", "coresize", "interface-interval",
        "automatic-interface-scan", "lame-ttl", "resolver-query-timeout", "cleaning-interval", "edns-version",
    ), _BY_ITSELF),
}
OVERRIDES = {
    "given": "", "disabled": "log", "passthru": "passthru", "no-op": "passthru", "nodata": "nodata",
    "nxdomain": "nxdomain", "drop": "drop", "tcp-only": "tcp-only",
}
"""The policies of a zone in ``response-policy``, as `override` of a policy zone."""
EDE_CODES = {"none": 0, "blocked": 15, "censored": 16, "filtered": 17, "prohibited": 18}
_READ_TOGETHER = frozenset({"forward", "max-stale-ttl"})
"""Read with another option."""
_NETWORKS = {
    "any": ("0.0.0.0/0", "::/0"),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "localnets": ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fe80::/10", "fc00::/7"),
}


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _wider(network: Network) -> Iterator[Network]:
    """`network` and all networks that contain it, the smallest first."""
    for length in range(network.prefixlen, -1, -1):
        yield network.supernet(new_prefix=length)


def _decision(decisions: dict[Network, bool], network: Network) -> bool:
    """Whether a list allows `network`; addresses in none of its elements are not allowed."""
    return next((decisions[wider] for wider in _wider(network) if wider in decisions), False)


class Importer:
    """Carries the statements of one configuration over into `draft`."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.acls: dict[str, Statement] = {}
        self.options: dict[str, Statement] = {}
        self.clients: list[Statement] = []
        self.named: dict[tuple[str, str], Statement] = {}
        """Statements by their kind and name: zones, keys, and what zones refer to."""
        self.used: set[tuple[str, str]] = set()
        """Those of `named` that policy zones are made of."""

    def run(self, found: list[Statement]) -> None:
        """Convert all of `found`."""
        for one in found:
            if one.words[:1] == ("acl",) and len(one.words) == 2:
                self.acls[one.words[1]] = one
            if one.words == ("options",):
                self.options = {inner.words[0]: inner for inner in one.block or () if inner.words}
            if len(one.words) > 1:
                kind = "primaries" if one.words[0] in ("masters", "remote-servers") else one.words[0]
                self.named[kind, _plain(one.words[1])] = one
        # A query must pass both of these, and answers from the cache the third (BIND's manual, "allow-query-cache").
        self.clients = [one for key, one in self.options.items()
                        if key in ("allow-query", "allow-recursion", "allow-query-cache")]
        for one in found:
            head = one.words[0] if one.words else ""
            if head == "options":
                for inner in one.block or ():
                    self.attempt(self.option, inner)
        for one in found:
            head = one.words[0] if one.words else ""
            if head == "options" or any(self.named[used] is one for used in self.used):
                continue
            if head == "zone":
                self.attempt(self.zone, one)
            elif head in ("trust-anchors", "trusted-keys", "managed-keys", "dnssec-keys"):
                self.attempt(self.trust_anchors, one)
            elif head != "acl":
                self.draft.left_out(one.place, one.text, "resolverd has no counterpart")
        if self.draft.get("server.listen") is None:
            self.draft.add("server.listen", "127.0.0.1:53", "[::1]:53")

    def attempt(self, convert: Callable[[Statement], None], one: Statement) -> None:
        try:
            convert(one)
        except (ValueError, IndexError) as error:
            self.draft.left_out(one.place, one.text, str(error) or "the value is missing")

    def option(self, one: Statement) -> None:
        """One statement of the block options."""
        key = one.words[0]
        own: Callable[[Statement], None] | None = getattr(self, "key_" + key.replace("-", "_"), None)
        if key in SIMPLE:
            path, read = SIMPLE[key]
            self.draft.set(path, read(one.words[1]))
        elif own is not None:
            own(one)
        elif key in NOT_NEEDED:
            self.draft.not_needed(one.place, one.text, NOT_NEEDED[key])
        elif key not in _READ_TOGETHER:
            self.draft.left_out(one.place, one.text, "resolverd has no counterpart")

    # --- options with a form of their own -------------------------------------------------------------------------

    def key_listen_on(self, one: Statement) -> None:
        self.listen(one, 4)

    def key_listen_on_v6(self, one: Statement) -> None:
        self.listen(one, 6)

    def listen(self, one: Statement, version: int) -> None:
        words = one.words
        if {"tls", "http", "proxy"} & set(words):
            raise ValueError("write a [[listener]] table for it, with the certificate in [tls]")
        port = _number(words[words.index("port") + 1]) if "port" in words else PORT
        for text in self.addresses(one.block or ()):
            if text == "any":
                text = "0.0.0.0" if version == 4 else "::"
            elif text == "none":
                continue
            elif text == "localhost":
                text = "127.0.0.1" if version == 4 else "::1"
            ipaddress.ip_address(text)
            self.draft.add("server.listen", f"[{text}]:{port}" if ":" in text else f"{text}:{port}")

    def key_allow_query(self, one: Statement) -> None:
        self.access(one)

    def key_allow_recursion(self, one: Statement) -> None:
        self.access(one)

    def key_allow_query_cache(self, one: Statement) -> None:
        self.access(one)

    def access(self, one: Statement) -> None:
        """The clients that are served: those that each of these options allows. All are read with the first of them."""
        if one is not self.clients[0]:
            return
        lists = [self.elements(option) for option in self.clients]
        for network in dict.fromkeys(network for decisions in lists for network in decisions):
            allowed = all(_decision(decisions, network) for decisions in lists)
            self.draft.add("policy.allow" if allowed else "policy.refuse", str(network))
        if any(inner.words[:1] == ("localnets",) for option in self.clients for inner in option.block or ()):
            why = "localnets became all private networks; name yours in policy.allow"
            self.draft.left_out(one.place, one.text, why)

    def elements(self, one: Statement) -> dict[Network, bool]:
        """The networks of an address match list, and whether each is allowed.

        In BIND the first element that matches decides, in resolverd the longest prefix. So an element inside an
        earlier one, which never decides, has the decision of the earlier one.

        Raises:
            ValueError: an element is no address, network or known list.
        """
        found: dict[Network, bool] = {}
        for text in self.addresses(one.block or ()):
            word = text.lstrip("!")
            for item in () if word == "none" else _NETWORKS.get(word, (word,)):
                network = ipaddress.ip_network(item, strict=False)
                if not any(wider in found for wider in _wider(network)):
                    found[network] = not text.startswith("!")
        return found

    def key_recursion(self, one: Statement) -> None:
        if not _flag(one.words[1]):
            raise ValueError("resolverd is a recursive resolver; its clients are those of policy.allow")

    def key_blackhole(self, one: Statement) -> None:
        for text in self.addresses(one.block or ()):
            if text != "none":
                self.draft.add("policy.drop", str(ipaddress.ip_network(text, strict=False)))

    def key_forwarders(self, one: Statement) -> None:
        self.forward(".", one, self.options.get("forward"))

    def key_dnssec_validation(self, one: Statement) -> None:
        self.draft.set("dnssec.enabled", one.words[1] == "auto" or _flag(one.words[1]))

    def key_validate_except(self, one: Statement) -> None:
        self.draft.add("dnssec.negative-trust-anchors", *(inner.words[0] for inner in one.block or ()))

    def key_qname_minimization(self, one: Statement) -> None:
        self.draft.set("iteration.qname-minimisation", one.words[1] not in ("off", "disabled"))

    def key_minimal_responses(self, one: Statement) -> None:
        self.draft.set("server.minimal-responses", one.words[1] not in ("no", "false"))

    def key_prefetch(self, one: Statement) -> None:
        self.draft.set("cache.prefetch", _number(one.words[1]) > 0)

    def key_stale_answer_enable(self, one: Statement) -> None:
        if _flag(one.words[1]):
            held = self.options.get("max-stale-ttl")
            self.draft.set("cache.max-stale-ttl", _ttl(held.words[1]) if held is not None else 86_400)

    def key_stale_answer_client_timeout(self, one: Statement) -> None:
        if one.words[1] not in ("off", "disabled"):
            self.draft.set("cache.stale-answer-client-timeout", _number(one.words[1]) / 1000)

    def key_query_source(self, one: Statement) -> None:
        self.source(one, 4)

    def key_query_source_v6(self, one: Statement) -> None:
        self.source(one, 6)

    def source(self, one: Statement, version: int) -> None:
        words = [word for word in one.words[1:] if word != "address"]
        if "port" in words and words[words.index("port") + 1] != "*":
            raise ValueError("a fixed source port lets forged replies in; resolverd uses a random one for each query")
        if words and words[0] not in ("*", "port"):
            ipaddress.ip_address(words[0])
            self.draft.set(f"iteration.query-source-v{version}", words[0])

    def key_dns64(self, one: Statement) -> None:
        self.draft.add("policy.dns64-prefix", one.words[1])
        left = []
        for inner in one.block or ():
            excluded = self.addresses(inner.block or ()) if inner.words[0] == "exclude" else []
            if excluded and all(":" in text and "!" not in text for text in excluded):
                self.draft.add("policy.dns64-exclude", *excluded)
            elif inner.words[0] != "break-dnssec":  # resolverd decides by CD, as RFC 6147 section 5.5 says
                left.append(inner.words[0])
        if left:
            raise ValueError(f"the prefix is carried over, {', '.join(left)} is not; see policy.dns64-exclude-a and"
                             " [[view]]")

    def key_response_policy(self, one: Statement) -> None:
        """Policy zones in the order of their precedence, each with the statement of its zone."""
        for inner in one.block or ():
            self.attempt(self.policy_zone, inner)
        if one.words[1:]:
            raise ValueError(f"the zones are carried over, {' '.join(one.words[1:])} is not")

    def policy_zone(self, one: Statement) -> None:
        """One zone of ``response-policy``.

        Raises:
            ValueError: it cannot be carried over; the text says why.
        """
        name, words = one.words[1], list(one.words[2:])
        zone = self.named.get(("zone", _plain(name)))
        if zone is None:
            raise ValueError("there is no zone statement of this name")
        inner = {found.words[0]: found for found in zone.block or () if found.words}
        kind = inner["type"].words[1] if "type" in inner else ""
        made: dict[str, Any] = {}
        left: list[str] = []
        while words:
            key, *values = words[:2]
            del words[: 3 if values == ["cname"] else 2]
            if key == "policy" and values and values[0] in OVERRIDES:
                made["override"] = OVERRIDES[values[0]]
            elif key == "log" and values:
                made["log"] = _flag(values[0]) or None
            elif key == "ede" and values and values[0] in EDE_CODES:
                made["ede"] = EDE_CODES[values[0]]
            else:
                left.append(" ".join((key, *values)))
        primaries = inner.get("primaries", inner.get("masters"))
        if kind in ("secondary", "slave") and primaries is not None:
            made["primaries"], key = self.primaries(primaries)
            if "allow-notify" in inner:
                made["allow_notify"] = self.addresses(inner["allow-notify"].block or ())
            if key:
                made["key"] = self.tsig_key(key)
            if "file" in inner:
                self.draft.not_needed(inner["file"].place, inner["file"].text, COPY)
        elif kind in ("primary", "master") and "file" in inner:
            made["file"] = str(Path(self.options["directory"].words[1] if "directory" in self.options else "",
                                    inner["file"].words[1]))
        else:
            raise ValueError(f"a policy zone of type {kind or 'unknown'} is not carried over")
        self.draft.policy_zone(name, **made)
        self.used.add(("zone", _plain(name)))
        if left:
            raise ValueError(f"the zone is carried over, {', '.join(left)} is not")

    def primaries(self, one: Statement, depth: int = 0) -> tuple[list[str], str]:
        """The primaries of a zone as resolverd writes them, and their key.

        Raises:
            ValueError: they cannot be written so; the text says why.
        """
        if depth > limits.IMPORT_DEPTH:
            raise ValueError("lists of primaries contain each other")
        common = one.words[one.words.index("port") + 1] if "port" in one.words else ""
        found: list[str] = []
        keys: set[str] = set()
        for inner in one.block or ():
            words = inner.words
            of = dict(zip(words[1::2], words[2::2], strict=False))
            listed = self.named.get(("primaries", _plain(words[0])))
            if listed is not None:
                more, key = self.primaries(listed, depth + 1)
                found += more
                self.used.add(("primaries", _plain(words[0])))
                keys.add(of.get("key", key))
                continue
            address, port = ipaddress.ip_address(words[0]), of.get("port", common)
            where = f"[{address}]" if address.version == 6 and (port or "tls" in of) else str(address)
            where += f":{_number(port)}" if port else ""
            found.append(f"tls://{where}#{self.tls_name(of['tls'])}" if "tls" in of else where)
            keys.add(of.get("key", ""))
        if len(keys) > 1:
            raise ValueError("its primaries have different keys; resolverd has one for each zone")
        return found, next(iter(keys), "")

    def tls_name(self, name: str) -> str:
        """The name in the certificate of a primary.

        Raises:
            ValueError: there is none.
        """
        one = self.named.get(("tls", _plain(name)))
        inner = {found.words[0]: found.words[1] for found in (() if one is None else one.block or ())
                 if len(found.words) > 1}
        if "remote-hostname" not in inner:
            raise ValueError(f"tls {name} has no remote-hostname, so resolverd could not tell the primary from another")
        self.used.add(("tls", _plain(name)))
        if "ca-file" in inner:
            assert one is not None
            self.draft.left_out(one.place, one.text, "name the authority in iteration.tls-cert-bundle")
        return inner["remote-hostname"]

    def tsig_key(self, name: str) -> str:
        """Write the key `name` as a table; return its name.

        Raises:
            ValueError: there is none, or its algorithm is not supported.
        """
        one = self.named.get(("key", _plain(name)))
        inner = {found.words[0]: found.words[1] for found in (() if one is None else one.block or ())
                 if len(found.words) > 1}
        if "secret" not in inner:
            raise ValueError(f"there is no key {name}")
        algorithm = inner.get("algorithm", "").lower().removesuffix(".")
        if algorithm not in TSIG_ALGORITHMS:
            raise ValueError(f"the key {name} has the algorithm {algorithm or 'unknown'}, which resolverd does not use")
        if ("key", _plain(name)) not in self.used:
            made = self.draft.table("tsig-key", algorithm=algorithm, secret=inner["secret"])
            made["name"] = name
            self.used.add(("key", _plain(name)))
        return name

    def key_deny_answer_addresses(self, one: Statement) -> None:
        networks = [ipaddress.ip_network(text, strict=False) for text in self.addresses(one.block or ())]
        self.draft.add("policy.private-addresses", *map(str, networks))
        if "except-from" in one.words:
            raise ValueError("the addresses are carried over; write the names of except-from in policy.private-domains")

    # --- other statements -----------------------------------------------------------------------------------------

    def zone(self, one: Statement) -> None:
        """A zone: forward and static-stub zones are carried over."""
        name = one.words[1]
        inner = {found.words[0]: found for found in one.block or () if found.words}
        kind = inner["type"].words[1] if "type" in inner else ""
        if kind == "forward" and "forwarders" in inner:
            self.forward(name, inner["forwarders"], inner.get("forward"))
        elif kind == "static-stub" and "server-addresses" in inner:
            self.draft.table("stub", zone=name, addresses=self.addresses(inner["server-addresses"].block or ()))
        elif kind == "hint":
            self.draft.not_needed(one.place, one.text, "the root servers are built in and primed")
        else:
            raise ValueError(f"a zone of type {kind or 'unknown'} is not carried over")

    def forward(self, zone: str, one: Statement, mode: Statement | None) -> None:
        addresses = []
        for inner in one.block or ():
            words = inner.words
            address = ipaddress.ip_address(words[0])
            if "tls" in words:
                raise ValueError("write it as tls://ADDRESS#NAME in a [[forward]] table")
            port = words[words.index("port") + 1] if "port" in words else ""
            addresses.append(str(address) if not port else f"[{address}]:{port}" if address.version == 6
                             else f"{address}:{port}")
        # BIND asks the root servers when forwarders fail, unless "forward only" is set.
        first = mode is None or mode.words[1] != "only"
        if addresses or zone != ".":
            self.draft.table("forward", zone=zone, addresses=addresses, forward_first=first and bool(addresses))

    def trust_anchors(self, one: Statement) -> None:
        """Trust anchors; the root's are built in."""
        for inner in one.block or ():
            words = inner.words
            if words[0] == ".":
                self.draft.not_needed(inner.place, inner.text, "the trust anchors of the root are built in")
                continue
            rest = [word for word in words[1:] if word not in ("static-key", "initial-key", "static-ds", "initial-ds")]
            kind = "DS" if {"static-ds", "initial-ds"} & set(words) else "DNSKEY"
            data = [*rest[:3], "".join(rest[3:]).replace(" ", "")]
            self.draft.add("dnssec.trust-anchors", f"{words[0]} IN {kind} {' '.join(data)}")

    def addresses(self, block: tuple[Statement, ...], depth: int = 0) -> list[str]:
        """The elements of an address match list; names of access lists are replaced by their elements.

        Raises:
            ValueError: an element is no address, network or known list.
        """
        if depth > limits.IMPORT_DEPTH:
            raise ValueError("access lists contain each other")
        found: list[str] = []
        for inner in block:
            if inner.block is not None:
                found += self.addresses(inner.block, depth + 1)
                continue
            text = "".join(inner.words[:2]) if inner.words[0] == "!" else inner.words[0]
            name = text.lstrip("!")
            if name in self.acls:
                sign = "!" if text.startswith("!") else ""
                found += [sign + one for one in self.addresses(self.acls[name].block or (), depth + 1)]
            elif name == "key":
                raise ValueError("clients cannot be told apart by TSIG keys here")
            else:
                found.append(text)
        return found


def _plain(name: str) -> str:
    """A name as it is compared."""
    return name.rstrip(".").lower()


def convert(path: str) -> Draft:
    """The draft made from the file `path`.

    Raises:
        ImportFailure: a file cannot be read or parsed.
    """
    draft = Draft()
    Importer(draft).run(parse(path))
    return draft
