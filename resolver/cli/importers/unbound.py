"""Carries ``unbound.conf`` over. `unbound_syntax` has the statements of a file.

`unbound_sections` has the sections that are complete only at their end.

`SIMPLE` maps a key to a key of resolverd of the same meaning, `LISTS` those that add to a list; `Importer` has a method
for each key of `OWN`. All other keys are in `ALWAYS_SO`, `NOT_NEEDED` or `REASONS`. The page
docs/migrating-from-unbound.md is made from these tables.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resolver import limits
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
    read_text,
)
from resolver.cli.importers.networks import view_groups, view_name
from resolver.cli.importers.unbound_sections import ENDS, Section
from resolver.cli.importers.unbound_syntax import SECTIONS, Statement, flag, milliseconds, size, statements
from resolver.hints import ROOT_ANCHORS

__all__ = ["convert", "is_unbound"]

PLAIN_PORT, TLS_PORT, HTTPS_PORT, QUIC_PORT = 53, 853, 443, 853
KNOWN_MODULES = frozenset({"validator", "iterator", "respip", "dns64", "cachedb", "subnetcache"})
"""Modules whose work resolverd does as well, and one whose options are named one by one."""
DNS64_PREFIX = "64:ff9b::/96"


def is_unbound(text: str) -> bool:
    """Whether `text` looks like this format."""
    section = r"(?m)^\s*(?:(?:server|forward-zone|stub-zone|remote-control)\s*:\s*(?:#.*)?$|include(?:-toplevel)?\s*:)"
    return re.search(section, text) is not None


SIMPLE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "num-threads": ("server.workers", number),
    "username": ("server.user", str),
    "max-udp-size": ("server.max-udp-size", number),
    "minimal-responses": ("server.minimal-responses", flag),
    "incoming-num-tcp": ("server.tcp-connections", number),
    "tcp-idle-timeout": ("server.tcp-idle-timeout", milliseconds),
    "num-queries-per-thread": ("server.pending-queries", number),
    "discard-timeout": ("server.discard-timeout", milliseconds),
    "deny-any": ("server.minimal-any", flag),
    "answer-cookie": ("server.answer-cookies", flag),
    "wait-limit": ("server.pending-queries-per-client", number),
    "wait-limit-cookie": ("server.pending-queries-per-verified-client", number),
    "rrset-roundrobin": ("server.rotate-addresses", flag),
    "ip-freebind": ("server.freebind", flag),
    "max-global-quota": ("iteration.max-upstream-queries", number),
    "add-holddown": ("dnssec.add-hold-down", number),
    "del-holddown": ("dnssec.remove-hold-down", number),
    "keep-missing": ("dnssec.missing-hold-down", number),
    "cache-min-ttl": ("cache.min-ttl", number),
    "cache-max-ttl": ("cache.max-ttl", number),
    "cache-max-negative-ttl": ("cache.max-negative-ttl", number),
    "serve-expired-reply-ttl": ("cache.stale-answer-ttl", number),
    "serve-expired-client-timeout": ("cache.stale-answer-client-timeout", milliseconds),
    "prefetch": ("cache.prefetch", flag),
    "aggressive-nsec": ("cache.aggressive-nsec", flag),
    "val-bogus-ttl": ("cache.bogus-ttl", number),
    "infra-cache-numhosts": ("cache.infra-cache-entries", number),
    "qname-minimisation": ("iteration.qname-minimisation", flag),
    "harden-glue": ("iteration.harden-glue", flag),
    "use-caps-for-id": ("iteration.case-randomisation", flag),
    "do-ip4": ("iteration.do-ip4", flag),
    "do-ip6": ("iteration.do-ip6", flag),
    "tcp-upstream": ("iteration.tcp-only", flag),
    "do-not-query-localhost": ("iteration.do-not-query-localhost", flag),
    "edns-buffer-size": ("iteration.edns-buffer-size", number),
    "harden-algo-downgrade": ("dnssec.harden-algorithm-downgrade", flag),
    "val-sig-skew-min": ("dnssec.signature-skew-min", number),
    "val-sig-skew-max": ("dnssec.signature-skew-max", number),
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
}
SUBNETS = {
    "send-client-subnet": "client-subnet.servers", "client-subnet-zone": "client-subnet.zones",
    "max-client-subnet-ipv4": "client-subnet.ipv4-prefix", "max-client-subnet-ipv6": "client-subnet.ipv6-prefix",
}
"""Keys of the module subnetcache."""
FILES = {
    "tls-cert-bundle": "iteration.tls-cert-bundle", "ssl-cert-bundle": "iteration.tls-cert-bundle",
    "root-hints": "root-hints-file",
}
"""Keys with the name of a file."""
FILE_LISTS = {
    "tls-service-pem": "tls.certificate", "ssl-service-pem": "tls.certificate",
    "tls-service-key": "tls.key", "ssl-service-key": "tls.key",
}
ACTIONS = {
    "allow": "allow", "allow_snoop": "allow", "allow_setrd": "allow", "refuse": "refuse", "refuse_non_local": "refuse",
    "deny": "drop", "deny_non_local": "drop",
}
ALWAYS_SO = {
    **dict.fromkeys((
        "do-udp", "do-tcp", "harden-short-bufsize", "harden-large-queries", "harden-dnssec-stripped",
        "harden-below-nxdomain", "harden-unverified-glue", "prefetch-key", "edns-tcp-keepalive", "pad-responses",
        "pad-queries", "udp-connect", "so-reuseport", "val-clean-additional", "tls-use-sni", "root-key-sentinel", "ede",
        "ede-serve-expired", "hide-trustanchor", "hide-http-user-agent", "log-servfail", "tls-system-cert",
        "iter-scrub-promiscuous", "http-nodelay",
    ), "yes"),
    **dict.fromkeys((
        "val-permissive-mode", "ignore-cd-flag", "serve-original-ttl", "prefer-ip4", "prefer-ip6", "tls-upstream",
        "ssl-upstream", "udp-upstream-without-downstream", "http-notls-downstream", "qname-minimisation-strict",
        "disable-dnssec-lame-check", "zonemd-permissive-mode", "trust-anchor-signaling", "disable-edns-do",
        "unblock-lan-zones", "insecure-lan-zones", "log-local-actions", "log-tag-queryreply", "tls-win-cert",
        "serve-expired-ttl-reset", "permit-small-holddown", "ratelimit-backoff", "ip-ratelimit-backoff",
        "harden-referral-path", "log-destaddr", "log-thread-id", "dnscrypt-enable", "ip-transparent",
    ), "no"),
}
"""The value of a key that says what resolverd always does. Any other is not carried over."""
NOT_NEEDED = dict.fromkeys((
    "outgoing-range", "outgoing-num-tcp", "so-rcvbuf", "so-sndbuf", "so-sndbuf-if", "msg-cache-slabs",
    "rrset-cache-slabs", "infra-cache-slabs", "key-cache-slabs", "key-cache-size", "neg-cache-size", "msg-buffer-size",
    "jostle-timeout", "infra-host-ttl", "infra-keep-probing", "infra-cache-min-rtt", "infra-cache-max-rtt",
    "statistics-interval", "extended-statistics", "statistics-cumulative", "statistics-inhibit-zero", "directory",
    "chroot", "pidfile", "outgoing-port-permit", "outgoing-port-avoid", "stream-wait-size",
    "num-queries-per-thread-slabs", "ratelimit-slabs", "ratelimit-size", "ip-ratelimit-slabs", "ip-ratelimit-size",
    "delay-close", "unknown-server-time-limit", "control-enable", "control-use-cert", "control-port", "server-key-file",
    "server-cert-file", "control-key-file", "control-cert-file", "interface-automatic", "interface-automatic-ports",
    "do-daemonize", "use-syslog", "use-systemd", "log-time-ascii", "log-time-iso", "log-identity",
    "unwanted-reply-threshold", "target-fetch-policy", "val-max-restart", "val-log-level",
    "tcp-reuse-timeout", "max-reuse-tcp-queries", "tcp-auth-query-timeout", "http-max-streams",
    "http-query-buffer-size", "http-response-buffer-size", "outbound-msg-retry", "max-sent-count",
    "max-query-restarts", "fast-server-permil", "fast-server-num", "pad-responses-block-size",
    "pad-queries-block-size", "sock-queue-timeout", "iter-scrub-ns", "iter-scrub-cname", "iter-scrub-rrsig",
    "shm-enable", "shm-key", "quic-size", "tcp-mss", "outgoing-tcp-mss",
), BY_ITSELF)
_TAGS = "resolverd has no tags; write a [[view]] for these clients, with its lists and policy zones in view.lists"
_RESPONSE_IP = "write it as a rule of a policy zone (rpz-ip) in a file, and name that in [[rpz]]"
_FETCHES = "resolverd limits the outstanding fetches of a zone, not their rate; see fetch-limit.per-zone"
_HOOKS = "resolverd has hooks in Python instead; see policy.modules"
REASONS = {
    **dict.fromkeys((
        "define-tag", "access-control-tag", "access-control-tag-action", "access-control-tag-data", "interface-tag",
        "interface-tag-action", "interface-tag-data", "local-zone-tag", "local-zone-override",
    ), _TAGS),
    **dict.fromkeys(("response-ip", "response-ip-data", "response-ip-tag"), _RESPONSE_IP),
    **dict.fromkeys(("ratelimit", "ratelimit-factor", "ratelimit-for-domain", "ratelimit-below-domain"), _FETCHES),
    **dict.fromkeys(("python-script", "dynlib-file"), _HOOKS),
    "interface-action": "write a [[listener]] table with allow, refuse or drop",
    "proxy-protocol-port": "write a [[listener]] table with proxy-protocol-from, which names the load balancers",
    "tcp-connection-limit":
        "server.tcp-connections-per-client is one limit for all clients; limits by network are not supported",
    "wait-limit-netblock": "server.pending-queries-per-client is the same for all clients",
    "wait-limit-cookie-netblock": "server.pending-queries-per-verified-client is the same for all clients",
    "trusted-keys-file": "its format is BIND's; write the keys into dnssec.trust-anchors",
    "auto-trust-anchor-file": (
        "its format is Unbound's; set dnssec.auto-trust-anchor-file to a new file, which resolverd begins with the"
        " built-in keys of the root"
    ),
    "cookie-secret-file": "write the secrets into server.cookie-secrets",
    "edns-tcp-keepalive-timeout": "resolverd announces server.tcp-idle-timeout",
    "val-override-date": "resolverd validates at the time of the clock",
    **dict.fromkeys((
        "ip-dscp", "tls-session-ticket-keys", "tls-ciphers", "tls-ciphersuites", "http-user-agent",
        "edns-client-string", "edns-client-string-opcode", "cache-min-negative-ttl", "dnscrypt-port",
        "dnscrypt-provider", "dnscrypt-secret-key", "dnscrypt-provider-cert", "dnscrypt-provider-cert-rotated",
        "dnscrypt-shared-secret-cache-size", "dnscrypt-shared-secret-cache-slabs", "dnscrypt-nonce-cache-size",
        "dnscrypt-nonce-cache-slabs", "ipsecmod-enabled", "ipsecmod-hook", "ipsecmod-strict", "ipsecmod-max-ttl",
        "ipsecmod-ignore-bogus", "ipsecmod-allow", "ipsecmod-whitelist",
    ), NO_COUNTERPART),
    "client-subnet-always-forward": "name the clients whose option is used in client-subnet.trusted-clients",
    **dict.fromkeys(("min-client-subnet-ipv6", "min-client-subnet-ipv4"),
                    "resolverd sends the option of a trusted client, however short it is"),
    **dict.fromkeys(("max-ecs-tree-size-ipv4", "max-ecs-tree-size-ipv6"), "see client-subnet.subnets-per-name"),
}
"""Why a key is not carried over."""
INSTEAD = {
    "ip-transparent": "resolverd is no transparent proxy (TPROXY); for addresses that this host gets later, set"
                      " server.freebind",
    "insecure-lan-zones": "name the zones in dnssec.negative-trust-anchors",
    "unblock-lan-zones": "name the zones as nodefault in policy.local-zones",
    "tls-upstream": "write tls:// before the addresses of [[forward]]; see also iteration.opportunistic-encryption",
    "zonemd-permissive-mode": "zones whose digest is wrong are used: zone.zonemd is off",
}
"""What to do about a key of `ALWAYS_SO` with the other value."""
ACCESS = "policy.allow, policy.refuse, policy.drop"
OWN = {
    **dict.fromkeys(("interface", "ip-address"), "server.listen, or listener with the protocol of its port"),
    **dict.fromkeys(("port", "tls-port", "ssl-port", "https-port", "quic-port", "tls-additional-port"),
                    "the ports of server.listen and listener"),
    "http-endpoint": "listener.path",
    "outgoing-interface": "iteration.query-source-v4, iteration.query-source-v6",
    "access-control": f"{ACCESS}; allow_snoop: server.non-recursive-queries",
    "access-control-view": "view.clients",
    "interface-view": "view.listeners",
    "local-zone": "policy.local-zones",
    "local-data-ptr": "policy.local-data",
    "identity": "server.identity", "hide-identity": "server.identity", "version": "server.version",
    "hide-version": "server.version", "nsid": "server.nsid",
    "verbosity": "log.level",
    "logfile": "query-log.file",
    **dict.fromkeys(("log-queries", "log-replies"), "query-log.file"),
    **dict.fromkeys(("trust-anchor-file",), "dnssec.trust-anchors"),
    **dict.fromkeys(("msg-cache-size", "rrset-cache-size"), "cache.size, their sum"),
    **dict.fromkeys(("serve-expired", "serve-expired-ttl"), "cache.max-stale-ttl"),
    "module-config": "dnssec.enabled, policy.dns64-prefix, second-level-cache",
    "dns64-prefix": "policy.dns64-prefix", "dns64-synthall": "policy.dns64-exclude",
    **dict.fromkeys(("do-nat64", "nat64-prefix"), "iteration.nat64-prefix"),
    **SUBNETS,
    **dict.fromkeys(("ip-ratelimit", "ip-ratelimit-cookie", "ip-ratelimit-factor"),
                    "rate-limit.queries-per-second, rate-limit.verified-queries-per-second"),
    "val-nsec3-keysize-iterations": "dnssec.nsec3-max-iterations, the highest",
    "control-interface": "control.socket, beside a path",
}
"""Keys with a form of their own, and what they become."""
FORWARD = {
    "name": "forward.zone", "forward-addr": "forward.addresses", "forward-first": "forward.forward-first",
    "forward-tls-upstream": "forward.addresses with tls://", "forward-ssl-upstream": "forward.addresses with tls://",
}
STUB = {
    "name": "stub.zone", "stub-addr": "stub.addresses", "stub-host": "stub.names", "stub-first": "stub.stub-first",
    "stub-tls-upstream": "stub.addresses with tls://", "stub-ssl-upstream": "stub.addresses with tls://",
}
VIEW = {
    "name": "view.name", "view-first": "view.inherit", "local-zone": "view.local-zones",
    "local-data": "view.local-data", "local-data-ptr": "view.local-data",
}
OF_ZONES = {
    "host": "name the addresses of these servers",
    "prime": "resolverd queries the servers that are named here",
    "no-cache": "resolverd caches what it resolves", "tcp-upstream": "see iteration.tcp-only, which is for all servers",
}
_READ_TOGETHER = frozenset({
    "port", "tls-port", "ssl-port", "https-port", "quic-port", "tls-additional-port", "http-endpoint", "msg-cache-size",
    "rrset-cache-size", "serve-expired", "serve-expired-ttl", "hide-identity", "hide-version", "logfile", "log-queries",
    "log-replies", "ip-ratelimit-cookie", "access-control-view", "interface-view",
})
"""Read with another key, or at the end."""


class Importer:
    """Carries the statements of one configuration over into `draft`."""

    def __init__(self, draft: Draft, folder: Path) -> None:
        self.draft = draft
        self.folder = folder
        self.section = ""
        self.held: list[Statement] = []
        self.table: dict[str, Any] | None = None
        self.encrypted = False
        self.first: dict[str, str] = {}
        self.where: dict[str, Statement] = {}
        self.views: dict[str, dict[str, Any]] = {}
        """The keys of each view, by its name in lower case, before it is known which clients it has."""
        self.places: dict[str, Place] = {}
        """Where each view begins."""

    def run(self, found: list[Statement]) -> None:
        """Convert all of `found`."""
        # Values that give others their meaning, wherever they are.
        section = ""
        for one in found:
            section = one.key if one.key in SECTIONS and not one.words else section
            self.draft.hide(one.key, " ".join(one.words))
            if one.words and section not in ("view", "auth-zone", "rpz", "forward-zone", "stub-zone"):
                self.where[one.key] = one
        self.first = {key: " ".join(one.words) for key, one in self.where.items()}
        self.folder = self.folder / self.first.get("directory", "")
        for one in found:
            if one.key in SECTIONS and not one.words:
                self.begin(one)
                continue
            try:
                self.convert(one)
            except ValueError as error:
                self.draft.left_out(one.place, one.text, str(error))
        self.end_section()
        self.finish()
        self.write_views([one for one in found if one.key in ("access-control-view", "interface-view")])

    def begin(self, one: Statement) -> None:
        """A section begins."""
        self.end_section()
        self.section = one.key
        if one.key in ("forward-zone", "stub-zone"):
            self.table = self.draft.table(one.key.partition("-")[0], zone=".", addresses=[])
            self.encrypted = False

    def end_section(self) -> None:
        """A section is complete: the addresses of a forward or stub zone are written as resolverd has them."""
        held, self.held = self.held, []
        if self.section in ENDS and held:
            ENDS[self.section](Section(self.draft, held, self.first, self.folder))
        elif self.section == "view" and held:
            self.end_view(held)
        if self.table is None:
            return
        addresses = []
        for text in self.table["addresses"]:
            host, _, name = text.partition("#")
            host, _, port = host.partition("@")
            host = f"[{host}]" if ":" in host and (port or self.encrypted) else host
            where = f"{host}:{port}" if port else host
            addresses.append(f"tls://{where}" + (f"#{name}" if name else "") if self.encrypted else where)
            if self.encrypted and not name and self.section == "forward-zone":
                # Unbound does not authenticate a server without a name.
                self.table["allow-unauthenticated"] = True
        self.table["addresses"] = addresses
        self.table = None

    def end_view(self, held: list[Statement]) -> None:
        """A view is complete. With local zones or data of its own it has those of ``server:`` only by view-first."""
        name, first = "", False
        made: dict[str, list[str]] = {"local-zones": [], "local-data": []}
        for one in held:
            try:
                if one.key == "name":
                    name = one.words[0]
                elif one.key == "view-first":
                    first = flag(one.words[0])
                elif one.key == "local-zone":
                    made["local-zones"].append(_local_zone(one))
                elif one.key == "local-data":
                    made["local-data"].append(" ".join(one.words))
                elif one.key == "local-data-ptr":
                    made["local-data"].append(_pointer(one))
                else:
                    raise ValueError("a [[view]] of resolverd has no such key")
            except ValueError as error:
                self.draft.left_out(one.place, one.text, str(error))
        keys: dict[str, Any] = {key: values for key, values in made.items() if values}
        if keys and not first:
            keys["inherit"] = False
        self.views[name.lower()] = {"name": view_name(name), **keys}
        self.places[name.lower()] = held[0].place

    def write_views(self, members: list[Statement]) -> None:
        """Write the views in an order in which the first that fits is the one that Unbound takes: that of the smallest
        network of a client, and else that of the interface."""
        clients: list[tuple[Any, str]] = []
        listeners: dict[str, list[str]] = {}
        for one in members:
            try:
                if len(one.words) != 2 or one.words[1].lower() not in self.views:
                    raise ValueError("there is no view of this name")
                name = one.words[1].lower()
                if one.key == "access-control-view":
                    clients.append((ipaddress.ip_network(one.words[0], strict=False), name))
                else:
                    listeners.setdefault(name, []).append(self.address(one.words[0]))
            except ValueError as error:
                self.draft.left_out(one.place, one.text, str(error))
        counts: dict[str, int] = {}
        found = [(name, {"clients": [str(one) for one in held]}) for name, held in view_groups(clients)]
        for name, who in (*found, *((name, {"listeners": held}) for name, held in listeners.items())):
            counts[name] = counts.get(name, 0) + 1
            keys = {**self.views[name], **who}
            if counts[name] > 1:
                keys["name"] += f"-{counts[name]}"
            self.draft.table("view").update(keys | self.answers_for_all(keys))
        for name, keys in self.views.items():
            if name not in counts:
                self.draft.not_needed(self.places[name], f"the view {keys['name']}", "no client is in it")

    def answers_for_all(self, view: dict[str, Any]) -> dict[str, Any]:
        """What a view that does not inherit has in Unbound all the same: DNS64, and addresses that are removed."""
        if view.get("inherit", True):
            return {}
        names = ("dns64-prefix", "dns64-exclude", "dns64-ignore-aaaa", "private-addresses", "private-domains")
        held = {name: self.draft.get(f"policy.{name}") for name in names}
        return {name: value for name, value in held.items() if value}

    def convert(self, one: Statement) -> None:
        """Carry one statement over.

        Raises:
            ValueError: its value is malformed.
        """
        if not one.words:
            raise ValueError("the value is missing")
        key, value = one.key, one.words[0]
        own = getattr(self, "key_" + key.replace("-", "_"), None)
        if self.section in ("forward-zone", "stub-zone"):
            self.zone_key(one)
        elif self.section in ENDS or self.section == "view":
            self.held.append(one)
        elif self.section not in ("server", "remote-control", "", "python", "dynlib", "dnscrypt"):
            raise ValueError(f"resolverd has no counterpart of {self.section}")
        elif key in SIMPLE:
            path, read = SIMPLE[key]
            self.draft.set(path, read(value))
        elif key in LISTS:
            self.draft.add(LISTS[key], " ".join(one.words))
        elif key in FILES:
            self.draft.set(FILES[key], str(self.folder / value))
        elif key in FILE_LISTS:
            self.draft.add(FILE_LISTS[key], str(self.folder / value))
        elif own is not None:
            own(one)
        elif key in ALWAYS_SO:
            if value.lower() != ALWAYS_SO[key]:
                raise ValueError(INSTEAD.get(key, f"resolverd always behaves as with {ALWAYS_SO[key]}"))
            self.draft.not_needed(one.place, one.text, ALWAYS)
        elif key in NOT_NEEDED:
            self.draft.not_needed(one.place, one.text, NOT_NEEDED[key])
        elif key not in _READ_TOGETHER:
            raise ValueError(REASONS.get(key, NO_COUNTERPART))

    def zone_key(self, one: Statement) -> None:
        """A key of a forward or stub zone."""
        assert self.table is not None
        kind, _, key = one.key.partition("-")
        if one.key == "name":
            self.table["zone"] = one.words[0]
        elif key == "addr":
            self.table["addresses"].append(one.words[0])
        elif key == "first":
            self.table[one.key] = flag(one.words[0])
        elif key in ("tls-upstream", "ssl-upstream"):
            self.encrypted = flag(one.words[0])
        elif one.key == "stub-host":
            self.table.setdefault("names", []).append(one.words[0])
        elif key in ("prime", "no-cache", "tcp-upstream") and not flag(one.words[0]):
            self.draft.not_needed(one.place, one.text, ALWAYS)
        else:
            raise ValueError(OF_ZONES.get(key, f"a {kind} zone of resolverd has no such key"))

    # --- keys with a form of their own ----------------------------------------------------------------------------

    def address(self, text: str) -> str:
        """``address@port`` as resolverd writes it.

        Raises:
            ValueError: it is not an address.
        """
        host, _, port_text = text.partition("@")
        ipaddress.ip_address(host.partition("%")[0])
        port = number(port_text or self.first.get("port", str(PLAIN_PORT)))
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def key_interface(self, one: Statement) -> None:
        """An address that is served; its port decides about the protocol."""
        where, first = self.address(one.words[0]), self.first
        port = where.rpartition(":")[2]
        tls = {first.get("tls-port", first.get("ssl-port", str(TLS_PORT))), first.get("tls-additional-port", "")}
        if not {"tls-service-key", "ssl-service-key"} & first.keys():
            self.draft.add("server.listen", where)
        elif port in tls:
            self.draft.table("listener", address=where, protocol="tls")
        elif port == first.get("https-port", str(HTTPS_PORT)):
            path = {"path": first["http-endpoint"]} if "http-endpoint" in first else {}
            self.draft.table("listener", address=where, protocol="https", **path)
        else:
            self.draft.add("server.listen", where)
        if port == first.get("quic-port"):
            self.draft.table("listener", address=where, protocol="quic")

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
        if action == "allow_cookie":
            raise ValueError("only clients with a cookie are served; add the network to policy.allow, and set"
                             " server.require-cookies, which is for all clients")
        if action not in ACTIONS:
            raise ValueError(f"resolverd has no access action {action!r}")
        self.draft.add(f"policy.{ACTIONS[action]}", str(ipaddress.ip_network(network, strict=False)))
        if action == "allow_snoop":
            self.draft.set("server.non-recursive-queries", "cache")
        elif action == "allow_setrd":
            self.draft.changed(one.place, one.text, "queries without the RD bit are refused")
        elif action.endswith("_non_local"):
            self.draft.changed(one.place, one.text, "local data is denied to these clients, too")

    def key_local_zone(self, one: Statement) -> None:
        self.draft.add("policy.local-zones", _local_zone(one))

    def key_local_data_ptr(self, one: Statement) -> None:
        self.draft.add("policy.local-data", _pointer(one))

    def key_nsid(self, one: Statement) -> None:
        """``ascii_`` and text, or octets in hexadecimal."""
        value = one.words[0]
        text = value.removeprefix("ascii_")
        self.draft.set("server.nsid", text if text != value else f"0x{value}")

    def key_module_config(self, one: Statement) -> None:
        modules = set(self.first["module-config"].split())
        if "validator" not in modules:
            self.draft.set("dnssec.enabled", False)
        if "dns64" in modules and "dns64-prefix" not in self.first:
            self.draft.set("policy.dns64-prefix", DNS64_PREFIX)
        unknown = sorted(modules - KNOWN_MODULES)
        if unknown:
            raise ValueError(f"resolverd has no module {', '.join(unknown)}; see policy.modules for hooks in Python")

    def key_dns64_prefix(self, one: Statement) -> None:
        if self.has_dns64(one):
            self.draft.set("policy.dns64-prefix", one.words[0])

    def key_dns64_synthall(self, one: Statement) -> None:
        if flag(one.words[0]) and self.has_dns64(one):
            self.draft.set("policy.dns64-exclude", ["::/0"])

    def key_do_nat64(self, one: Statement) -> None:
        if flag(one.words[0]):
            if self.first.get("do-ip6") == "no":
                raise ValueError("do-ip6 is off, so the NAT64 cannot be reached")
            prefix = self.first.get("nat64-prefix") or self.first.get("dns64-prefix") or DNS64_PREFIX
            self.draft.set("iteration.nat64-prefix", prefix)

    def key_nat64_prefix(self, one: Statement) -> None:
        if not flag(self.first.get("do-nat64", "no")):
            self.draft.not_needed(one.place, one.text, "do-nat64 is off, so Unbound does not use it")

    def has_dns64(self, one: Statement) -> bool:
        return self.has_module(one, "dns64")

    def has_module(self, one: Statement, module: str) -> bool:
        if module in self.first.get("module-config", "").split():
            return True
        self.draft.not_needed(one.place, one.text, f"{module} is not in module-config, so Unbound does not use it")
        return False

    def key_send_client_subnet(self, one: Statement) -> None:
        if self.has_module(one, "subnetcache"):
            self.draft.add(SUBNETS[one.key], one.words[0])
            self.draft.changed(one.place, one.text, "the subnet is that of the client's address; its own option is used"
                               " only when client-subnet.trusted-clients has the client")

    key_client_subnet_zone = key_send_client_subnet

    def key_max_client_subnet_ipv4(self, one: Statement) -> None:
        if self.has_module(one, "subnetcache"):
            self.draft.set(SUBNETS[one.key], number(one.words[0]))

    key_max_client_subnet_ipv6 = key_max_client_subnet_ipv4

    def key_ip_ratelimit(self, one: Statement) -> None:
        """Queries of one address. Unbound counts those with a cookie or over TCP with the others, or by a key of their
        own in later versions."""
        rate = number(one.words[0])
        verified = self.read_first("ip-ratelimit-cookie", number)
        if not rate and not verified:
            return
        for name, value in (("queries", rate), ("verified-queries", rate if verified is None else verified)):
            self.draft.set(f"rate-limit.{name}-per-second", value)
        self.draft.set("rate-limit.queries-action", "drop")
        self.draft.set("rate-limit.ipv4-prefix", limits.RATE_PREFIX4.maximum)
        self.draft.set("rate-limit.ipv6-prefix", limits.RATE_PREFIX6.maximum)
        self.draft.changed(one.place, one.text, f"{EACH_WORKER}, and all queries above it are dropped")

    def key_ip_ratelimit_factor(self, one: Statement) -> None:
        if number(one.words[0]):
            raise ValueError("resolverd lets no query above the limit through; with rate-limit.queries-action ="
                             ' "truncate", genuine clients get their answer over TCP')
        self.draft.not_needed(one.place, one.text, ALWAYS)

    def key_val_nsec3_keysize_iterations(self, one: Statement) -> None:
        values = [number(word) for word in " ".join(one.words).split()]
        self.draft.set("dnssec.nsec3-max-iterations", max(values[1::2]))
        self.draft.changed(one.place, one.text, "resolverd has one limit for all sizes of keys, here the highest")

    def key_control_interface(self, one: Statement) -> None:
        if not one.words[0].startswith("/"):
            raise ValueError("resolverctl uses a Unix socket; name it in control.socket")
        self.draft.set("control.socket", beside(one.words[0]))
        self.draft.changed(one.place, one.text, f"resolverctl has a socket of its own, {beside(one.words[0])}")

    def key_identity(self, one: Statement) -> None:
        if self.first.get("hide-identity") != "yes":
            self.draft.set("server.identity", one.words[0])

    def key_version(self, one: Statement) -> None:
        if self.first.get("hide-version") != "yes":
            self.draft.set("server.version", one.words[0])

    def key_verbosity(self, one: Statement) -> None:
        levels = ("warning", "info", "info", "debug")
        self.draft.set("log.level", levels[min(number(one.words[0]), len(levels) - 1)])

    def key_trust_anchor_file(self, one: Statement) -> None:
        lines = [line.partition(";")[0].strip() for line in read_text(str(self.folder / one.words[0])).splitlines()]
        self.draft.add("dnssec.trust-anchors", *(line for line in lines if line))

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
        sizes = [self.read_first(key, size) for key in ("msg-cache-size", "rrset-cache-size")]
        if any(size is not None for size in sizes):
            draft.set("cache.size", max(limits.CACHE_SIZE.minimum, sum(size or 0 for size in sizes)))
        if first.get("serve-expired") == "yes":
            draft.set("cache.max-stale-ttl", self.read_first("serve-expired-ttl", number) or 86_400)
        logged = [self.where[key] for key in ("log-queries", "log-replies") if first.get(key) == "yes"]
        if logged:
            file = first.get("logfile", "") if first.get("use-syslog") != "yes" else ""
            draft.set("query-log.file", beside(str(self.folder / file)) if file else "-")
            draft.changed(logged[0].place, logged[0].text, QUERY_LOG)
        if "auto-trust-anchor-file" in first and draft.get("dnssec.trust-anchors"):
            draft.add("dnssec.trust-anchors", *ROOT_ANCHORS)  # that file has them
        if draft.get("server.listen") is None and not any(kind == "listener" for kind, _ in draft.tables):
            port = first.get("port", str(PLAIN_PORT))
            draft.add("server.listen", f"127.0.0.1:{port}", f"[::1]:{port}")


def _local_zone(one: Statement) -> str:
    """A local zone as resolverd writes it.

    Raises:
        ValueError: it is not a name and a type.
    """
    if len(one.words) != 2:
        raise ValueError("it is not a zone and a type")
    zone, kind = one.words
    return f"{zone} {'resolve' if kind == 'nodefault' else kind}"


def _pointer(one: Statement) -> str:
    """The PTR record of ``local-data-ptr``.

    Raises:
        ValueError: it is not an address and a name.
    """
    address, *ttl, name = one.words if len(one.words) > 1 else tuple(one.words[0].split())
    return " ".join((f"{ipaddress.ip_address(address).reverse_pointer}.", *ttl, "PTR", name))


def convert(path: str) -> Draft:
    """The draft made from the file `path`.

    Raises:
        ImportFailure: a file cannot be read or parsed.
    """
    draft = Draft()
    Importer(draft, Path(path).absolute().parent).run(list(statements(path)))
    return draft
