"""Carries the zones of ``named.conf`` over: own zones, forward and stub zones, and response policy zones."""

import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from resolver.cli.importers.bind_names import ALL_CLIENTS, NETWORKS, Names, children, flag, plain_name
from resolver.cli.importers.bind_syntax import Statement
from resolver.cli.importers.draft import ALWAYS, BY_ITSELF, COPY, KEPT, Draft
from resolver.cli.importers.networks import Network, decision

__all__ = ["OPTIONS_OF_ZONES", "OWN_ZONE", "TYPES", "Zones", "upstream"]

OVERRIDES = {
    "given": "", "disabled": "log", "passthru": "passthru", "no-op": "passthru", "nodata": "nodata",
    "nxdomain": "nxdomain", "drop": "drop", "tcp-only": "tcp-only",
}
"""The policies of a zone in ``response-policy``, as `override` of a policy zone; ``cname`` has a name behind it."""
POLICY_ALWAYS_SO = {
    "add-soa": "yes", "break-dnssec": "yes", "nsip-enable": "yes", "nsdname-enable": "yes", "min-ns-dots": "0",
}
"""The value of an option of ``response-policy`` that says what resolverd always does."""
POLICY_NOT_NEEDED = frozenset({
    "qname-wait-recurse", "nsip-wait-recurse", "nsdname-wait-recurse", "min-update-interval",
})
EDE_CODES = {"none": 0, "blocked": 15, "censored": 16, "filtered": 17, "prohibited": 18}
TYPES = {
    "primary": "zone.file", "master": "zone.file", "secondary": "zone.primaries", "slave": "zone.primaries",
    "mirror": "zone.primaries with mode delegations; zones.root for the root zone", "hint": "not needed: built in",
    "forward": "forward", "static-stub": "stub", "stub": "stub, with the addresses of the primaries",
    "redirect": "not carried over", "delegation-only": "not carried over",
}
"""The types of zones, and what they become."""
OWN_ZONE = {
    "file": "zone.file", "primaries": "zone.primaries, zone.key", "masters": "zone.primaries, zone.key",
    "allow-notify": "zone.allow-notify", "allow-transfer": "zone.allow-transfer, zone.transfer-key",
    "also-notify": "zone.notify", "notify": "zone.notify", "forwarders": "forward.addresses",
    "forward": "forward.forward-first", "server-addresses": "stub.addresses", "server-names": "stub.names",
}
"""Options of a zone that are carried over."""
OPTIONS_OF_ZONES = ("allow-transfer", "also-notify", "allow-notify", "notify")
"""Options that hold for all zones without their own."""
NOT_NEEDED = frozenset({
    "type", "journal", "ixfr-from-differences", "masterfile-style", "max-journal-size", "max-ixfr-ratio", "max-records",
    "max-records-per-type", "max-types-per-name", "max-transfer-idle-in", "max-transfer-idle-out",
    "max-transfer-time-in", "max-transfer-time-out", "max-refresh-time", "max-retry-time", "min-refresh-time",
    "min-retry-time", "multi-master", "notify-delay", "notify-to-soa", "request-ixfr", "request-expire",
    "try-tcp-refresh", "zone-statistics", "check-names", "check-mx", "check-mx-cname", "check-srv-cname",
    "check-integrity", "check-sibling", "check-dup-records", "check-spf", "check-wildcard", "zero-no-soa-ttl",
    "max-zone-ttl", "key-directory", "serial-update-method", "in-view",
})
CHANGED_BY_BIND = ("update-policy", "dnssec-policy", "inline-signing", "auto-dnssec", "allow-update")
"""Options by which BIND changes a zone, so that its file is not the zone that it serves."""


def upstream(names: Names, block: Iterable[Statement], common: str = "") -> list[str]:
    """The servers of a forward or stub zone; `common` is the port of those without their own.

    Raises:
        ValueError: one is not an address.
    """
    addresses = []
    for inner in block:
        words = inner.words
        address = ipaddress.ip_address(words[0])
        port = words[words.index("port") + 1] if "port" in words else common
        where = f"[{address}]" if address.version == 6 and (port or "tls" in words) else str(address)
        where += f":{port}" if port else ""
        if "tls" in words:
            tls = words[words.index("tls") + 1]
            if ("tls", plain_name(tls)) not in names.named:
                raise ValueError("write it as tls://ADDRESS#NAME in a [[forward]] table")
            where = f"tls://{where}#{names.tls_name(tls)}"
        addresses.append(where)
    return addresses


class Zones:
    """Carries zones over into `draft`. `options` are those of ``options``, `clients` those that are served."""

    def __init__(self, draft: Draft, names: Names, options: dict[str, Statement]) -> None:
        self.draft = draft
        self.names = names
        self.options = options
        self.clients: list[dict[Network, bool]] = []

    def path(self, name: str) -> str:
        """The file `name`, which is relative to the directory of BIND."""
        return str(Path(self.options["directory"].words[1] if "directory" in self.options else "", name))

    def zone(self, one: Statement) -> None:
        """A zone of any type.

        Raises:
            ValueError: it is not carried over, or not wholly; the text says why.
        """
        if len(one.words) > 2 and one.words[2].lower() not in ("in", "class1"):
            raise ValueError(f"resolverd has no zones of class {one.words[2]}")
        inner = children(one)
        kind = inner["type"].words[1] if "type" in inner else ""
        made = self.upstream_zone(one, inner, kind)
        if made is not None:
            self.draft.table(*made[:1]).update(made[1])
        elif kind == "hint":
            self.draft.not_needed(one.place, one.text, "the root servers are built in and primed")
        elif kind in ("primary", "master", "secondary", "slave", "mirror"):
            self.own_zone(one, inner, kind)
        elif "in-view" in inner:
            raise ValueError("own zones of resolverd are the same in all views; write it once outside of the views")
        else:
            raise ValueError(f"a zone of type {kind or 'unknown'} is not carried over")

    def upstream_zone(
        self, one: Statement, inner: dict[str, Statement], kind: str
    ) -> tuple[str, dict[str, Any]] | None:
        """The table of a forward or stub zone, and its keys; None for a zone of another type."""
        name = one.words[1]
        if kind == "forward" and "forwarders" in inner:
            return "forward", self.forward(name, inner["forwarders"], inner.get("forward"))
        if kind == "static-stub" and {"server-addresses", "server-names"} & inner.keys():
            made: dict[str, Any] = {"zone": name}
            if "server-addresses" in inner:
                made["addresses"] = self.names.addresses(inner["server-addresses"].block or ())
            if "server-names" in inner:
                made["names"] = [held.words[0] for held in inner["server-names"].block or ()]
            return "stub", made
        if kind == "stub" and {"primaries", "masters"} & inner.keys():
            addresses, _ = self.names.primaries(inner.get("primaries", inner.get("masters", one)))
            self.draft.changed(one.place, one.text, "the primaries are queried, not the servers in the NS records that"
                               " they have")
            return "stub", {"zone": name, "addresses": addresses}
        return None

    def forward(self, zone: str, one: Statement, mode: Statement | None) -> dict[str, Any]:
        """The keys of a forward zone."""
        common = one.words[one.words.index("port") + 1] if "port" in one.words else ""
        addresses = upstream(self.names, one.block or (), common)
        # BIND asks the root servers when forwarders fail, unless "forward only" is set.
        first = mode is None or mode.words[1] != "only"
        encrypted = [text for text in addresses if text.startswith("tls://")]
        if first and encrypted:
            self.draft.changed(one.place, one.text, "when the encrypted servers fail, resolverd sends nothing"
                               " unencrypted: forward-first is off")
        return {"zone": zone, "addresses": addresses, "forward-first": first and bool(addresses) and not encrypted}

    # --- own zones --------------------------------------------------------------------------------------------------

    def own_zone(self, one: Statement, inner: dict[str, Statement], kind: str) -> None:
        """A zone of which BIND has a copy."""
        name = one.words[1]
        for key in CHANGED_BY_BIND:
            values = " ".join(inner[key].words[1:]) if key in inner else "none"
            block = " ".join(held.words[0] for held in (inner[key].block if key in inner else None) or ())
            if (values or block) not in ("none", "off", "no") and kind in ("primary", "master"):
                raise ValueError(f"by {key} BIND changes the zone; keep it as the primary, and write a [[zone]] with"
                                 " primaries")
        self.check_clients(inner)
        if inner.get("masterfile-format", one).words[-1] == "raw" and kind in ("primary", "master"):
            raise ValueError("its file is not text; convert it with named-compilezone")
        made: dict[str, Any] = {"name": name}
        if kind in ("primary", "master"):
            if "file" not in inner:
                raise ValueError("it has no file")
            made["file"] = self.path(inner["file"].words[1])
        else:
            made |= self.copy_of_zone(inner, kind, name)
        left: list[str] = []
        self.secondaries(inner, made, left)
        left += [key for key in inner if key not in OWN_ZONE and key not in NOT_NEEDED and key not in CHANGED_BY_BIND
                 and key != "allow-query"]
        if kind == "mirror" and plain_name(name) == "" and "primaries" not in made:
            self.draft.set("zones.root", "local")
        else:
            self.draft.table("zone").update(made)
        if left:
            raise ValueError(f"the zone is carried over, {', '.join(left)} is not")

    def copy_of_zone(self, inner: dict[str, Statement], kind: str, name: str) -> dict[str, Any]:
        """What a secondary or mirror zone has of its primaries."""
        made: dict[str, Any] = {"mode": "delegations"} if kind == "mirror" else {}
        primaries = inner.get("primaries", inner.get("masters"))
        if primaries is None:
            if kind == "mirror" and plain_name(name) == "":
                return made
            raise ValueError("it has no primaries")
        made["primaries"], key = self.names.primaries(primaries)
        self.draft.set("zones.directory", f"{KEPT}/zones")
        if key:
            made["key"] = self.names.tsig_key(key)
        notify = inner.get("allow-notify", self.options.get("allow-notify"))
        if notify is not None:
            made["allow-notify"] = _expand(self.names.addresses(notify.block or ()))
        if "file" in inner:
            self.draft.not_needed(inner["file"].place, inner["file"].text, COPY)
        return made

    def check_clients(self, inner: dict[str, Statement]) -> None:
        """Check that all clients of the resolver may query the zone.

        Raises:
            ValueError: BIND answers it to fewer.
        """
        if "allow-query" not in inner:
            return
        allowed = self.names.elements(inner["allow-query"])
        served = [network for decisions in self.clients for network, yes in decisions.items() if yes]
        denied = [network for network, yes in allowed.items() if not yes]
        networks = served or [ipaddress.ip_network(text) for text in ALL_CLIENTS]
        if denied or not all(decision(allowed, network) for network in networks):
            raise ValueError("fewer clients may query it than the resolver, and own zones of resolverd are for all"
                             " clients; see [[view]] with local-data")

    def secondaries(self, inner: dict[str, Statement], made: dict[str, Any], left: list[str]) -> None:
        """Who may transfer the zone, and who is told about changes."""
        transfer = inner.get("allow-transfer", self.options.get("allow-transfer"))
        if transfer is None:
            self.draft.changed(inner["type"].place, f"zone {made['name']}", "transfers are refused without"
                               " allow-transfer; BIND allows them to all before version 9.20")
        else:
            addresses, keys = [], []
            for held in transfer.block or ():
                if held.words[:1] == ("key",):
                    keys.append(held.words[1])
                else:
                    addresses += self.names.addresses((held,))
            if any(text.startswith("!") for text in addresses):
                left.append("allow-transfer with exceptions")
            elif keys and (addresses or len(keys) > 1):
                # BIND allows one or the other, resolverd would require both.
                left.append(f"allow-transfer to key {', '.join(keys)}, because other secondaries need none")
                made["allow-transfer"] = _expand(addresses)
            elif keys:
                made["allow-transfer"], made["transfer-key"] = list(ALL_CLIENTS), self.names.tsig_key(keys[0])
            else:
                made["allow-transfer"] = _expand(addresses)
        notify = inner.get("also-notify", self.options.get("also-notify"))
        mode = inner.get("notify", self.options.get("notify"))
        if notify is not None and (mode is None or mode.words[1] != "no"):
            targets, key = self.names.primaries(notify)
            made["notify"] = [text for text in targets if not text.startswith("tls://")]
            if key or len(made["notify"]) < len(targets):
                left.append("also-notify with a key or TLS")
        for empty in [key for key in ("allow-transfer", "notify") if key in made and not made[key]]:
            del made[empty]

    # --- response policy zones --------------------------------------------------------------------------------------

    def is_policy_option(self, one: Statement, key: str, values: Sequence[str]) -> bool:
        """Whether an option of ``response-policy``, or of a zone in it, says what resolverd does without it."""
        if key in POLICY_NOT_NEEDED:
            self.draft.not_needed(one.place, " ".join((key, *values)), BY_ITSELF)
        elif [POLICY_ALWAYS_SO.get(key)] == [{"true": "yes", "1": "yes"}.get(value, value) for value in values]:
            self.draft.not_needed(one.place, " ".join((key, *values)), ALWAYS)
        else:
            return False
        return True

    def policy_zone(self, one: Statement) -> None:
        """One zone of ``response-policy``.

        Raises:
            ValueError: it cannot be carried over; the text says why.
        """
        name, words = one.words[1], list(one.words[2:])
        zone = self.names.named.get(("zone", plain_name(name)))
        if zone is None:
            raise ValueError("there is no zone statement of this name")
        inner = children(zone)
        kind = inner["type"].words[1] if "type" in inner else ""
        made: dict[str, Any] = {}
        left: list[str] = []
        while words:
            key, *values = words[:2]
            del words[:2]
            if key == "policy" and values == ["cname"] and words:
                made["override"] = f"cname {words.pop(0)}"
            elif key == "policy" and values and values[0] in OVERRIDES:
                made["override"] = OVERRIDES[values[0]]
            elif key == "log" and values:
                made["log"] = flag(values[0]) or None
            elif key == "ede" and values and values[0] in EDE_CODES:
                made["ede"] = EDE_CODES[values[0]]
            elif not self.is_policy_option(one, key, values):
                left.append(" ".join((key, *values)))
        primaries = inner.get("primaries", inner.get("masters"))
        if kind in ("secondary", "slave") and primaries is not None:
            made["primaries"], key = self.names.primaries(primaries)
            if "allow-notify" in inner:
                made["allow_notify"] = self.names.addresses(inner["allow-notify"].block or ())
            if key:
                made["key"] = self.names.tsig_key(key)
            if "file" in inner:
                self.draft.not_needed(inner["file"].place, inner["file"].text, COPY)
        elif kind in ("primary", "master") and "file" in inner:
            made["file"] = self.path(inner["file"].words[1])
        else:
            raise ValueError(f"a policy zone of type {kind or 'unknown'} is not carried over")
        self.draft.policy_zone(name, **made)
        self.names.used.add(("zone", plain_name(name)))
        if left:
            raise ValueError(f"the zone is carried over, {', '.join(left)} is not")


def _expand(addresses: list[str]) -> list[str]:
    return [network for text in addresses if text != "none" for network in NETWORKS.get(text, (text,))]
