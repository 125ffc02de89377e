"""Carries ``named.conf`` of BIND over. `bind_syntax` has the statements of a file, `bind_names` what has a name.

`SIMPLE` maps an option to a key of resolverd of the same meaning; `Importer` has a method for each option of `OWN`. All
other options are in `ALWAYS_SO`, `NOT_NEEDED` or `REASONS`. Zones are in `bind_zones`, views in `bind_views`. The page
docs/migrating-from-bind.md is made from these tables.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from resolver.cli.importers.bind_names import NETWORKS, Names, children, duration, flag, size
from resolver.cli.importers.bind_syntax import Statement, parse
from resolver.cli.importers.bind_views import Views
from resolver.cli.importers.bind_zones import OPTIONS_OF_ZONES, Zones
from resolver.cli.importers.draft import (
    ALWAYS,
    BY_ITSELF,
    EACH_WORKER,
    NO_COUNTERPART,
    QUERY_LOG,
    Draft,
    Place,
    beside,
    number,
)
from resolver.cli.importers.networks import Network, decision
from resolver.hints import ROOT_ANCHORS

__all__ = ["convert", "is_bind"]

PORT, TLS_PORT, HTTPS_PORT = 53, 853, 443
ALL_STALE = 86_400
"""Seconds of ``max-stale-ttl`` when it is not given."""


def is_bind(text: str) -> bool:
    """Whether `text` looks like this format."""
    head = r"(?m)^\s*(?:options|zone\s+\"[^\"]*\"[^{\n]*|acl\s+\S+|include\s+\"[^\"]*\")\s*[{;]"
    return re.search(head, text) is not None


def _text(value: str) -> str:
    return "" if value == "none" else value


def _query_timeout(value: str) -> float:
    """Seconds up to 300, else milliseconds."""
    given = number(value)
    return given if given <= 300 else given / 1000


def _tenths(value: str) -> float:
    return number(value) / 10


SIMPLE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "max-cache-size": ("cache.size", size),
    "max-cache-ttl": ("cache.max-ttl", duration),
    "min-cache-ttl": ("cache.min-ttl", duration),
    "max-ncache-ttl": ("cache.max-negative-ttl", duration),
    "servfail-ttl": ("cache.servfail-ttl", duration),
    "stale-answer-ttl": ("cache.stale-answer-ttl", duration),
    "synth-from-dnssec": ("cache.aggressive-nsec", flag),
    "edns-udp-size": ("iteration.edns-buffer-size", number),
    "max-udp-size": ("server.max-udp-size", number),
    "recursive-clients": ("server.pending-queries", number),
    "tcp-clients": ("server.tcp-connections", number),
    "tcp-idle-timeout": ("server.tcp-idle-timeout", _tenths),
    "minimal-any": ("server.minimal-any", flag),
    "answer-cookie": ("server.answer-cookies", flag),
    "require-server-cookie": ("server.require-cookies", flag),
    "server-id": ("server.nsid", _text),
    "version": ("server.version", _text),
    "hostname": ("server.identity", _text),
    "empty-zones-enable": ("policy.special-use-domains", flag),
    "send-cookie": ("iteration.send-cookies", flag),
    "max-recursion-queries": ("iteration.max-upstream-queries", number),
    "max-query-count": ("iteration.max-upstream-queries", number),
    "resolver-query-timeout": ("iteration.query-timeout", _query_timeout),
    "min-refresh-time": ("zones.refresh-min", number),
}
ALWAYS_SO = {
    **dict.fromkeys((
        "provide-ixfr", "request-ixfr", "message-compression", "reuseport", "dnssec-enable",
        "root-key-sentinel", "memstatistics", "request-expire",
    ), "yes"),
    **dict.fromkeys((
        "auth-nxdomain", "dnssec-accept-expired", "match-mapped-addresses", "allow-new-zones", "request-nsid",
        "multi-master",
        "zero-no-soa-ttl-cache", "trust-anchor-telemetry", "flush-zones-on-shutdown",
    ), "no"),
}
"""The value of an option that says what resolverd always does. Any other is not carried over."""
NOT_NEEDED = dict.fromkeys((
    "stale-cache-enable",
    "directory", "pid-file", "dump-file", "statistics-file", "memstatistics-file", "session-keyfile", "session-keyname",
    "session-keyalg", "key-directory", "managed-keys-directory", "new-zones-directory", "bindkeys-file",
    "secroots-file", "recursing-file", "geoip-directory", "lock-file", "tcp-listen-queue", "tcp-keepalive-timeout",
    "tcp-advertised-timeout", "tcp-initial-timeout", "tcp-receive-buffer", "tcp-send-buffer", "udp-receive-buffer",
    "udp-send-buffer", "clients-per-query", "max-clients-per-query", "max-recursion-depth", "max-query-restarts",
    "reserved-sockets", "files", "datasize", "stacksize", "coresize", "lame-ttl",
    "cleaning-interval", "edns-version", "glue-cache", "preferred-glue", "stale-refresh-time", "v6-bias",
    "nocookie-udp-size", "cookie-algorithm", "zone-statistics", "lmdb-mapsize", "random-device", "heartbeat-interval",
    "dialup", "nta-recheck", "use-v4-udp-ports", "use-v6-udp-ports", "avoid-v4-udp-ports", "avoid-v6-udp-ports",
    "fetch-quota-params", "resolver-nonbackoff-tries", "resolver-retry-interval", "http-listener-clients",
    "http-streams-per-connection", "max-rsa-exponent-size", "zero-no-soa-ttl", "dscp", "suppress-initial-notify",
    "notify-delay", "notify-rate", "notify-to-soa", "serial-query-rate", "startup-notify-rate", "transfers-in",
    "transfers-out", "transfers-per-ns", "transfer-format", "transfer-message-size", "try-tcp-refresh",
    "max-transfer-idle-in", "max-transfer-idle-out", "max-transfer-time-in", "max-transfer-time-out",
    "max-journal-size", "max-ixfr-ratio", "ixfr-from-differences", "max-records", "max-records-per-type",
    "max-types-per-name", "max-refresh-time", "max-retry-time", "min-retry-time", "masterfile-style",
    "check-dup-records", "check-integrity", "check-mx", "check-mx-cname", "check-sibling", "check-spf",
    "check-srv-cname", "check-wildcard", "max-zone-ttl", "no-case-compress", "keep-response-order",
    "fstrm-set-buffer-hint", "fstrm-set-flush-timeout", "fstrm-set-input-queue-size",
    "fstrm-set-output-notify-threshold", "fstrm-set-output-queue-model", "fstrm-set-output-queue-size",
    "fstrm-set-reopen-interval",
), BY_ITSELF)
_UPDATES = "resolverd neither signs zones nor takes updates; let BIND be the primary, and write [[zone]] with primaries"
_SOURCE = "see iteration.query-source-v4 and iteration.query-source-v6"
_LATER = "addresses that this host gets later are served with server.freebind"
_LISTENERS = "write a [[view]] or a [[listener]] table"
REASONS = {
    **dict.fromkeys((
        "allow-update", "allow-update-forwarding", "auto-dnssec", "dnssec-policy", "dnskey-sig-validity",
        "dnssec-dnskey-kskonly", "dnssec-loadkeys-interval", "dnssec-secure-to-insecure", "dnssec-update-mode",
        "serial-update-method", "sig-signing-nodes", "sig-signing-signatures", "sig-signing-type",
        "sig-validity-interval", "update-check-ksk", "update-quota", "nsec3-test-zone", "tkey-dhkey", "tkey-domain",
        "tkey-gssapi-credential", "tkey-gssapi-keytab", "parental-source", "parental-source-v6",
    ), _UPDATES),
    **dict.fromkeys((
        "alt-transfer-source", "alt-transfer-source-v6", "use-alt-transfer-source", "transfer-source",
        "transfer-source-v6", "notify-source", "notify-source-v6",
    ), _SOURCE),
    **dict.fromkeys(("allow-query-on", "allow-query-cache-on", "allow-recursion-on"), _LISTENERS),
    "nta-lifetime": "resolverctl has the time of a negative trust anchor as an argument",
    "masterfile-format": "zone files of resolverd are text; convert others with named-compilezone",
    "http-port": "resolverd has DNS over HTTPS with TLS only",
    "logging": "resolverd logs on standard error, by log.level",
    "statistics-channels": "see metrics.listen",
    "controls": "resolverctl uses a Unix socket; name it in control.socket",
    **dict.fromkeys(("interface-interval", "automatic-interface-scan"), _LATER),
    "in-view": "authoritative zones of resolverd are in all views",
    "sortlist": "see policy of [[balance]]",
    "response-padding": "replies over encrypted transports are always padded",
    **dict.fromkeys((
        "attach-cache", "catalog-zones", "check-names", "deny-answer-aliases", "disable-ds-digests", "dns64-contact",
        "dns64-server", "dnsrps-enable", "dnsrps-options", "dnssec-must-be-secure", "dual-stack-servers",
        "empty-contact", "empty-server", "ipv4only-contact", "ipv4only-enable", "ipv4only-server", "min-ncache-ttl",
        "nxdomain-redirect", "root-delegation-only", "dlz", "dyndb", "plugin",
        "parental-agents",
    ), NO_COUNTERPART),
}
"""Why an option, or a statement outside of options, is not carried over."""
ACCESS = "policy.allow, policy.refuse"
OWN = {
    **dict.fromkeys(("listen-on", "listen-on-v6"), "server.listen; with tls or http: listener"),
    **dict.fromkeys(("port", "tls-port", "https-port"), "the ports of server.listen and listener"),
    **dict.fromkeys(("allow-query", "allow-recursion", "allow-query-cache"), ACCESS),
    "blackhole": "policy.drop",
    "recursion": f"no: {ACCESS} are not carried over",
    **dict.fromkeys(("forwarders", "forward"), "forward"),
    "dnssec-validation": "dnssec.enabled",
    "validate-except": "dnssec.negative-trust-anchors",
    "disable-algorithms": "dnssec.accept-sha1, for RSASHA1 and NSEC3RSASHA1",
    "disable-empty-zone": "policy.local-zones with nodefault",
    "qname-minimization": "iteration.qname-minimisation",
    "minimal-responses": "server.minimal-responses",
    "prefetch": "cache.prefetch",
    **dict.fromkeys(("stale-answer-enable", "max-stale-ttl"), "cache.max-stale-ttl"),
    "stale-answer-client-timeout": "cache.stale-answer-client-timeout",
    **dict.fromkeys(("query-source", "query-source-v6"), "iteration.query-source-v4, iteration.query-source-v6"),
    "dns64": "policy.dns64-prefix, policy.dns64-exclude",
    "response-policy": "rpz",
    "deny-answer-addresses": "policy.private-addresses, policy.private-domains",
    "rate-limit": "rate-limit",
    **dict.fromkeys(("fetches-per-zone", "fetches-per-server"), "fetch-limit.per-zone, fetch-limit.per-server"),
    "rrset-order": "server.rotate-addresses",
    "cookie-secret": "server.cookie-secrets",
    "querylog": "query-log.file",
    **dict.fromkeys(("dnstap", "dnstap-output", "dnstap-identity", "dnstap-version"), "dnstap"),
    **dict.fromkeys(OPTIONS_OF_ZONES, "zone, for each without its own"),
}
"""Options with a form of their own, and what they become."""
STATEMENTS = {
    "acl": "read where it is named", "key": "tsig-key", "primaries": "read where it is named",
    "masters": "read where it is named", "remote-servers": "read where it is named", "tls": "tls, or tls:// of servers",
    "http": "listener.path", "zone": "zone, forward, stub or rpz; see the next table", "view": "view",
    "trust-anchors": "dnssec.trust-anchors", "trusted-keys": "dnssec.trust-anchors",
    "managed-keys": "dnssec.trust-anchors", "dnssec-keys": "dnssec.trust-anchors",
    "server": "iteration.do-not-query-addresses, with bogus", "logging": "query-log.file, for the category queries",
}
"""Statements outside of options, and what they become."""
POLICY_CHANGES = {
    "break-dnssec": "answers to clients that ask for DNSSEC records are changed, too, as with break-dnssec yes",
    "max-policy-ttl": "answers have the TTLs of the rules; BIND gives them 5 s at most, unless max-policy-ttl is set",
}
"""What means something else where an option of ``response-policy`` is not set."""
RATES = {
    "responses-per-second": "responses-per-second", "referrals-per-second": "referrals-per-second",
    "nodata-per-second": "nodata-per-second", "nxdomains-per-second": "nxdomains-per-second",
    "errors-per-second": "errors-per-second", "all-per-second": "all-per-second", "slip": "slip", "window": "window",
    "ipv4-prefix-length": "ipv4-prefix", "ipv6-prefix-length": "ipv6-prefix", "max-table-size": "table-entries",
}
"""Keys of ``rate-limit`` with a number, as keys of [rate-limit]."""
TAP = {"client": ("client",), "resolver": ("resolver",), "forwarder": ("forwarder",), "auth": ("auth",),
       "all": ("client", "resolver", "forwarder", "auth")}
_READ_TOGETHER = frozenset({
    "forward", "max-stale-ttl", "port", "tls-port", "https-port", "dnstap-output", "dnstap-identity", "dnstap-version",
    *OPTIONS_OF_ZONES,
})
"""Read with another option."""
LISTS_OF_CLIENTS = ("allow-query", "allow-recursion", "allow-query-cache")


class Importer:
    """Carries the statements of one configuration over into `draft`."""

    def __init__(self, draft: Draft, found: list[Statement], path: str) -> None:
        self.draft = draft
        self.found = found
        self.path = path
        self.names = Names(draft, found)
        self.options = children(next((one for one in found if one.words == ("options",)), None))
        self.zones = Zones(draft, self.names, self.options)
        # A query must pass the first two, and answers from the cache the third (BIND's manual, "allow-query-cache").
        self.clients = [one for key, one in self.options.items() if key in LISTS_OF_CLIENTS]
        # With "auto", which is the default, BIND has the trust anchors of the root besides those of the file.
        validation = self.options.get("dnssec-validation")
        self.forwards_all = False
        self.only_own_anchors = validation is not None and validation.words[1:] != ("auto",)

    def run(self) -> None:
        """Convert all statements."""
        self.hide(self.found)
        for one in self.found:
            if one.words == ("options",):
                for inner in one.block or ():
                    self.attempt(self.option, inner)
        if self.forwards_all:
            # With `forward only` for all names, BIND serves no empty zones.
            self.draft.set("policy.special-use-domains", False)
        views = Views(self, [one for one in self.found if one.words[:1] == ("view",)])
        views.run()
        for one in self.found:
            self.attempt(self.statement, one)
        for one in self.found:
            kind = one.words[0] if one.words else ""
            if kind in ("key", "tls", "http", "primaries", "masters", "remote-servers") and not self.names.in_use(one):
                self.draft.left_out(one.place, one.text, "nothing of the result refers to it")
        if self.draft.get("dnssec.trust-anchors") and not self.only_own_anchors:
            self.draft.add("dnssec.trust-anchors", *ROOT_ANCHORS)
        if "listen-on-v6" in self.options and "listen-on" not in self.options:
            self.draft.add("server.listen", f"0.0.0.0:{self.port()}")  # as BIND without listen-on
        if "listen-on" in self.options and "listen-on-v6" not in self.options:
            one = self.options["listen-on"]
            self.draft.changed(one.place, one.text, "BIND also serves all IPv6 addresses without listen-on-v6; add"
                               f" [::]:{self.port()} to server.listen for that")
        if "listen-on" not in self.options and "listen-on-v6" not in self.options:
            self.draft.changed(Place(self.path, 1), "no listen-on", "BIND serves all addresses without it, resolverd"
                               " loopback addresses; set server.listen, and policy.allow for your networks")
        if self.draft.get("server.listen") is None:
            self.draft.add("server.listen", f"127.0.0.1:{self.port()}", f"[::1]:{self.port()}")

    def hide(self, found: list[Statement]) -> None:
        """No secret gets into a remark, wherever it is."""
        for one in found:
            self.hide(list(one.block or ()))
            for value in one.words[1:]:
                self.draft.hide(one.words[0], value)

    def attempt(self, convert: Callable[[Statement], None], one: Statement) -> None:
        try:
            convert(one)
        except (ValueError, IndexError) as error:
            self.draft.left_out(one.place, one.text, str(error) or "the value is missing")

    def statement(self, one: Statement) -> None:
        """One statement outside of options and views."""
        head = one.words[0] if one.words else ""
        if head == "zone":
            if not self.names.in_use(one):
                self.zones.zone(one)
        elif head in ("trust-anchors", "trusted-keys", "managed-keys", "dnssec-keys"):
            self.trust_anchors(one)
        elif head == "server":
            self.server(one)
        elif head == "logging":
            self.logging(one)
        elif head not in ("options", "view", "acl", "key", "tls", "http", "primaries", "masters", "remote-servers"):
            raise ValueError(REASONS.get(head, NO_COUNTERPART))

    def option(self, one: Statement) -> None:
        """One statement of the block options.

        Raises:
            ValueError: it is not carried over; the text says why.
        """
        key = one.words[0]
        own: Callable[[Statement], None] | None = getattr(self, "key_" + key.replace("-", "_"), None)
        if key in SIMPLE:
            path, read = SIMPLE[key]
            self.draft.set(path, read(one.words[1]))
        elif own is not None:
            own(one)
        elif key in ALWAYS_SO:
            if flag(one.words[1]) != (ALWAYS_SO[key] == "yes"):
                raise ValueError(f"resolverd always behaves as with {ALWAYS_SO[key]}")
            self.draft.not_needed(one.place, one.text, ALWAYS)
        elif key in NOT_NEEDED:
            self.draft.not_needed(one.place, one.text, NOT_NEEDED[key])
        elif key in ("allow-update", "allow-update-forwarding") and [held.text for held in one.block or ()] == ["none"]:
            self.draft.not_needed(one.place, one.text, ALWAYS)
        elif key not in _READ_TOGETHER:
            raise ValueError(REASONS.get(key, NO_COUNTERPART))

    # --- options with a form of their own -------------------------------------------------------------------------

    def port(self, key: str = "port", default: int = PORT) -> int:
        """The port that an option names, or its default; a malformed one counts as not given."""
        words = self.options[key].words if key in self.options else ()
        return int(words[1]) if len(words) == 2 and words[1].isascii() and words[1].isdecimal() else default

    def key_listen_on(self, one: Statement) -> None:
        self.listen(one, 4)

    def key_listen_on_v6(self, one: Statement) -> None:
        self.listen(one, 6)

    def listen(self, one: Statement, version: int) -> None:
        words = one.words
        of = dict(zip(words[1::2], words[2::2], strict=False))
        if "proxy" in of:
            raise ValueError("write a [[listener]] table with proxy-protocol-from, which names the load balancers")
        keys: dict[str, Any] = {}
        if "http" in of:
            keys = {"protocol": "https"} | self.path_of(of["http"])
        elif "tls" in of:
            keys = {"protocol": "tls"}
        if keys:
            certificate, key = self.names.certificate(of.get("tls", "none"))
            self.draft.add("tls.certificate", self.zones.path(certificate))
            self.draft.add("tls.key", self.zones.path(key))
        default = {"https": self.port("https-port", HTTPS_PORT), "tls": self.port("tls-port", TLS_PORT)}
        port = number(of["port"]) if "port" in of else default.get(keys.get("protocol", ""), self.port())
        for text in self.names.addresses(one.block or ()):
            if text == "any":
                text = "0.0.0.0" if version == 4 else "::"
            elif text == "none":
                continue
            elif text == "localhost":
                text = "127.0.0.1" if version == 4 else "::1"
            ipaddress.ip_address(text)
            where = f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
            if keys:
                self.draft.table("listener", address=where).update(keys)
            else:
                self.draft.add("server.listen", where)

    def path_of(self, name: str) -> dict[str, str]:
        """The path of requests of a ``http`` statement; that of "default" is ours, too."""
        one = self.names.named.get(("http", name.lower()))
        if one is not None:
            self.names.used.add(("http", name.lower()))
        paths = [held.words[0] for held in (children(one)["endpoints"].block or ())] if one is not None else []
        if len(paths) > 1:
            raise ValueError("a [[listener]] has one path")
        return {"path": paths[0]} if paths else {}

    def key_allow_query(self, one: Statement) -> None:
        self.access(one)

    def key_allow_recursion(self, one: Statement) -> None:
        self.access(one)

    def key_allow_query_cache(self, one: Statement) -> None:
        self.access(one)

    def access(self, one: Statement) -> None:
        """The clients that are served: those that each of these options allows. All are read with the first of them."""
        if "recursion" in self.options and not flag(self.options["recursion"].words[1]):
            raise ValueError("BIND does no recursion for these clients, resolverd would; add them to policy.allow if"
                             " they may have it")
        if one is not self.clients[0]:
            return
        for network, yes in self.served(self.clients).items():
            self.draft.add("policy.allow" if yes else "policy.refuse", str(network))
        if any(inner.words[:1] == ("localnets",) for option in self.clients for inner in option.block or ()):
            why = "localnets became all private networks; name yours in policy.allow"
            self.draft.left_out(one.place, one.text, why)

    def served(self, clients: list[Statement]) -> dict[Network, bool]:
        """The networks of these lists, and whether all of them allow each."""
        lists = [self.names.elements(option) for option in clients]
        found = {network: all(decision(decisions, network) for decisions in lists)
                 for network in dict.fromkeys(network for decisions in lists for network in decisions)}
        self.zones.clients.append(found)
        return found

    def key_recursion(self, one: Statement) -> None:
        if not flag(one.words[1]):
            raise ValueError("resolverd is a recursive resolver; its clients are those of policy.allow")

    def key_blackhole(self, one: Statement) -> None:
        for text in self.names.addresses(one.block or ()):
            if text != "none":
                self.draft.add("policy.drop", str(ipaddress.ip_network(text, strict=False)))

    def key_forwarders(self, one: Statement) -> None:
        keys = self.zones.forward(".", one, self.options.get("forward"))
        if keys["addresses"]:
            self.draft.table("forward").update(keys)
            mode = self.options.get("forward")
            self.forwards_all = mode is not None and mode.words[1] == "only"

    def key_dnssec_validation(self, one: Statement) -> None:
        self.draft.set("dnssec.enabled", one.words[1] == "auto" or flag(one.words[1]))

    def key_validate_except(self, one: Statement) -> None:
        self.draft.add("dnssec.negative-trust-anchors", *(inner.words[0] for inner in one.block or ()))

    def key_disable_algorithms(self, one: Statement) -> None:
        found = {inner.words[0].upper() for inner in one.block or ()}
        if one.words[1] != "." or not found <= {"RSASHA1", "NSEC3RSASHA1", "5", "7"}:
            raise ValueError("resolverd can leave out RSASHA1 and NSEC3RSASHA1 for all names only; see"
                             " dnssec.accept-sha1")
        self.draft.set("dnssec.accept-sha1", False)

    def key_disable_empty_zone(self, one: Statement) -> None:
        self.draft.add("policy.local-zones", f"{one.words[1]} nodefault")

    def key_qname_minimization(self, one: Statement) -> None:
        self.draft.set("iteration.qname-minimisation", one.words[1] not in ("off", "disabled"))

    def key_minimal_responses(self, one: Statement) -> None:
        self.draft.set("server.minimal-responses", one.words[1] not in ("no", "false"))

    def key_prefetch(self, one: Statement) -> None:
        self.draft.set("cache.prefetch", number(one.words[1]) > 0)

    def key_stale_answer_enable(self, one: Statement) -> None:
        if flag(one.words[1]):
            held = self.options.get("max-stale-ttl")
            self.draft.set("cache.max-stale-ttl", duration(held.words[1]) if held is not None else ALL_STALE)

    def key_stale_answer_client_timeout(self, one: Statement) -> None:
        if one.words[1] not in ("off", "disabled"):
            self.draft.set("cache.stale-answer-client-timeout", number(one.words[1]) / 1000)

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
            excluded = self.names.addresses(inner.block or ()) if inner.words[0] == "exclude" else []
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
            self.attempt(self.zones.policy_zone, inner)
        options = [one.words[at:at + 2] for at in range(1, len(one.words), 2)]
        left = [" ".join(words) for words in options if not self.zones.is_policy_option(one, words[0], words[1:])]
        for key, why in POLICY_CHANGES.items():
            if not any(words[0] == key for words in options):
                self.draft.changed(one.place, "response-policy", why)
        if left:
            raise ValueError(f"the zones are carried over, {', '.join(left)} is not")

    def key_deny_answer_addresses(self, one: Statement) -> None:
        networks = [ipaddress.ip_network(text, strict=False) for text in self.names.addresses(one.block or ())]
        self.draft.add("policy.private-addresses", *map(str, networks))
        if one.second:
            self.draft.add("policy.private-domains", *(inner.words[0] for inner in one.second))

    def key_rate_limit(self, one: Statement) -> None:
        left = []
        for inner in one.block or ():
            key = inner.words[0]
            if key in RATES:
                self.draft.set(f"rate-limit.{RATES[key]}", number(inner.words[1]))
            elif key == "log-only":
                self.draft.set("rate-limit.log-only", flag(inner.words[1]))
            elif key == "exempt-clients":
                exempt = [text for text in self.names.addresses(inner.block or ()) if text != "none"]
                if any(text.startswith("!") for text in exempt):
                    left.append("exempt-clients with exceptions")
                    continue
                networks = [network for text in exempt for network in NETWORKS.get(text, (text,))]
                self.draft.add("rate-limit.exempt", *networks)
            elif key != "min-table-size":
                left.append(key)
        self.draft.changed(one.place, one.text, f"{EACH_WORKER}, and clients with a valid cookie are exempt")
        if left:
            raise ValueError(f"the rates are carried over, {', '.join(left)} is not")

    def key_fetches_per_zone(self, one: Statement) -> None:
        self.fetches(one, "zone")

    def key_fetches_per_server(self, one: Statement) -> None:
        self.fetches(one, "server")

    def fetches(self, one: Statement, what: str) -> None:
        self.draft.set(f"fetch-limit.per-{what}", number(one.words[1]))
        if one.words[2:] == ("drop",) or (what == "zone" and not one.words[2:]):
            self.draft.changed(one.place, one.text, "queries above the limit are answered SERVFAIL, or from stale data")

    def key_rrset_order(self, one: Statement) -> None:
        """The order of all record sets; resolverd orders those of addresses only."""
        orders = set()
        for inner in one.block or ():
            if inner.words[:-2] or inner.words[-2] != "order":
                raise ValueError("an order for some names or types is not carried over; see server.rotate-addresses")
            orders.add(inner.words[-1])
        rotated = orders <= {"cyclic", "random"}
        self.draft.set("server.rotate-addresses", rotated)
        if rotated:
            self.draft.changed(one.place, one.text, "A and AAAA records begin with another one in each answer; other"
                               " record sets keep their order")

    def key_cookie_secret(self, one: Statement) -> None:
        self.draft.add("server.cookie-secrets", one.words[1])

    def key_querylog(self, one: Statement) -> None:
        if flag(one.words[1]):
            self.log_queries(one, "-")

    def log_queries(self, one: Statement, file: str) -> None:
        self.draft.set("query-log.file", file)
        self.draft.changed(one.place, one.text, QUERY_LOG)

    def logging(self, one: Statement) -> None:
        """The category queries, which turns the query log on, and the file of its channel."""
        channels, categories = {}, {}
        for inner in one.block or ():
            if inner.words[0] == "channel":
                channels[inner.words[1]] = children(inner)
            elif inner.words[0] == "category":
                categories[inner.words[1]] = [held.words[0] for held in inner.block or ()]
        used = [name for name in categories.pop("queries", []) if name != "null"]
        off = "querylog" in self.options and not flag(self.options["querylog"].words[1])
        if used and not off:
            file = channels.get(used[0], {}).get("file")
            self.log_queries(one, beside(self.zones.path(file.words[1])) if file is not None else "-")
        if categories or set(channels) - set(used):
            raise ValueError(REASONS["logging"])

    def key_dnstap(self, one: Statement) -> None:
        output = self.options.get("dnstap-output")
        if output is None or output.words[1] != "unix":
            raise ValueError("resolverd sends dnstap to a socket, not to a file; see dnstap.socket")
        messages: list[str] = []
        for inner in one.block or ():
            if inner.words[0] == "update":
                self.draft.left_out(inner.place, inner.text, "resolverd takes no updates")
                continue
            ends = inner.words[1:] or ("query", "response")
            if inner.words[0] not in TAP:
                raise ValueError(f"{inner.words[0]!r} is no kind of message")
            messages += [f"{who}-{end}" for who in TAP[inner.words[0]] for end in ends]
        self.draft.set("dnstap.socket", self.zones.path(output.words[2]))
        self.draft.add("dnstap.messages", *messages)
        for key in ("identity", "version"):
            held = self.options.get(f"dnstap-{key}")
            if held is not None and held.words[1] != "hostname":
                value = held.words[1]
                self.draft.set(f"dnstap.{key}", value if value != "none" else "-" if key == "identity" else "")

    # --- other statements -----------------------------------------------------------------------------------------

    def server(self, one: Statement) -> None:
        """What is known about servers of other zones: that they must not be queried."""
        inner = children(one)
        if "bogus" in inner and flag(inner["bogus"].words[1]):
            self.draft.add("iteration.do-not-query-addresses", str(ipaddress.ip_network(one.words[1], strict=False)))
        left = sorted(inner.keys() - {"bogus"})
        if left:
            raise ValueError(f"resolverd has no settings of one server: {', '.join(left)}")

    def trust_anchors(self, one: Statement) -> None:
        """Trust anchors; the root's are built in."""
        for inner in one.block or ():
            words = inner.words
            if words[0] == ".":
                self.only_own_anchors = False
                self.draft.not_needed(inner.place, inner.text, "the trust anchors of the root are built in")
                continue
            rest = [word for word in words[1:] if word not in ("static-key", "initial-key", "static-ds", "initial-ds")]
            kind = "DS" if {"static-ds", "initial-ds"} & set(words) else "DNSKEY"
            data = [*rest[:3], "".join(rest[3:]).replace(" ", "")]
            self.draft.add("dnssec.trust-anchors", f"{words[0]} IN {kind} {' '.join(data)}")


def convert(path: str) -> Draft:
    """The draft made from the file `path`.

    Raises:
        ImportFailure: a file cannot be read or parsed.
    """
    draft = Draft()
    Importer(draft, parse(path), path).run()
    return draft
