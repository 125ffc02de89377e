"""Carries the sections of ``unbound.conf`` over that are complete only at their end.

These are policy zones, own zones, dnstap and the cache in Redis. A function gets all statements of one section. What it
cannot carry over, it names in the draft.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resolver.cli.importers.draft import ALWAYS, BY_ITSELF, COPY, KEPT, NO_COUNTERPART, Draft, number
from resolver.cli.importers.unbound_syntax import Statement, endpoint, flag, milliseconds

__all__ = ["ENDS", "KEYS", "REASONS", "Section"]

OVERRIDES = {
    "nxdomain": "nxdomain", "nodata": "nodata", "passthru": "passthru", "drop": "drop", "disabled": "log",
}
"""The values of ``rpz-action-override`` but ``cname``, as `override` of a policy zone."""
TAP_MESSAGES = {
    f"dnstap-log-{who}-{what}-messages": f"{who}-{what}"
    for who in ("client", "resolver", "forwarder") for what in ("query", "response")
}
_REDIS = {
    "redis-server-host": "servers", "redis-server-port": "servers", "redis-server-path": "servers",
    "redis-logical-db": "database", "redis-timeout": "max-wait", "redis-command-timeout": "max-wait",
}
KEYS: dict[str, dict[str, str]] = {
    "rpz": {
        "name": "rpz.name", "primary": "rpz.primaries", "master": "rpz.primaries", "url": "rpz.url (HTTPS)",
        "zonefile": "rpz.file", "allow-notify": "rpz.allow-notify", "rpz-log": "rpz.log",
        "rpz-action-override": "rpz.override", "rpz-cname-override": "rpz.override (cname)",
    },
    "auth-zone": {
        "name": "zone.name", "primary": "zone.primaries", "master": "zone.primaries", "zonefile": "zone.file",
        "allow-notify": "zone.allow-notify", "fallback-enabled": "zone.fallback", "for-downstream": "zone.mode",
        "for-upstream": "zone.mode", "zonemd-check": "zone.zonemd", "zonemd-reject-absence": "zone.zonemd",
    },
    "dnstap": {
        "dnstap-enable": "dnstap.socket, dnstap.address", "dnstap-socket-path": "dnstap.socket",
        "dnstap-ip": "dnstap.address", "dnstap-tls": "dnstap.address (without TLS only)",
        "dnstap-send-identity": "dnstap.identity", "dnstap-identity": "dnstap.identity",
        "dnstap-send-version": "dnstap.version", "dnstap-version": "dnstap.version", "dnstap-sample-rate":
        "dnstap.sample", **dict.fromkeys(TAP_MESSAGES, "dnstap.messages"),
    },
    "cachedb": {key: f"second-level-cache.{name}" for key, name in _REDIS.items()}
    | {"backend": "second-level-cache.servers (redis)"},
}
"""The keys of each section that are carried over, and what they become."""
_SAME_FOR_ALL = "a policy zone of resolverd holds for all clients"
_TLS = "dnstap of resolverd is sent without TLS"
REASONS: dict[str, dict[str, str]] = {
    "rpz": {
        "tags": _SAME_FOR_ALL, "for-downstream": _SAME_FOR_ALL,
        "rpz-log-name": "the log has the name of the zone", "rpz-signal-nxdomain-ra": NO_COUNTERPART,
    },
    "auth-zone": {"url": "not supported: use zone.primaries or zone.file"},
    "dnstap": {
        **dict.fromkeys((
            "dnstap-tls-server-name", "dnstap-tls-cert-bundle", "dnstap-tls-client-key-file",
            "dnstap-tls-client-cert-file",
        ), _TLS),
        "dnstap-bidirectional": BY_ITSELF,
    },
    "cachedb": {
        "redis-server-password": "write the password to a file, and name it in second-level-cache.password-file",
        "secret-seed": "it is for the keys of Unbound's entries; see second-level-cache.secret-file",
        "redis-expire-records": ALWAYS,
    },
}
"""Why other keys of each section are not carried over, or not needed."""


@dataclass
class Section:
    """One section: its statements, and those of ``server:`` that decide about it."""

    draft: Draft
    found: list[Statement]
    server: Mapping[str, str]
    folder: Path

    @property
    def plain(self) -> dict[str, Statement]:
        """The last statement of each key."""
        return {one.key: one for one in self.found}

    def each(self, carry: Callable[[Statement], None]) -> None:
        """`carry` over each statement; what fails is named."""
        for one in self.found:
            try:
                carry(one)
            except ValueError as error:
                self.draft.left_out(one.place, one.text, str(error))

    def flag(self, key: str, default: bool) -> bool:
        """The value of a yes-or-no key; a malformed one counts as `default`."""
        one = self.plain.get(key)
        return default if one is None or one.words[0].lower() not in ("yes", "no") else flag(one.words[0])

    def refuse(self, why: str) -> None:
        """The section is not carried over."""
        for one in self.found[:1]:
            self.draft.left_out(one.place, f"the section of {one.text}", why)


def policy_zone(section: Section) -> None:
    """A response policy zone: it is transferred, fetched, or read from a file."""
    made: dict[str, Any] = {"primaries": [], "allow_notify": []}
    draft, plain = section.draft, section.plain
    transferred = bool({"primary", "master"} & plain.keys())

    def carry(one: Statement) -> None:
        value = one.words[0]
        if one.key in ("primary", "master"):
            made["primaries"].append(endpoint(value))
        elif one.key == "url":
            if transferred:
                raise ValueError("the zone is transferred from its primaries")
            if not value.startswith("https://"):
                raise ValueError("resolverd fetches policy zones over HTTPS only")
            made["url"] = value
        elif one.key == "zonefile":
            made["file"] = str(section.folder / value)
        elif one.key == "allow-notify":
            made["allow_notify"].append(_network(value))
        elif one.key == "rpz-log":
            made["log"] = flag(value) or None
        elif one.key == "rpz-action-override":
            made["override"] = _override(value, plain)
        elif one.key == "rpz-cname-override":
            if "rpz-action-override" not in plain or plain["rpz-action-override"].words[0] != "cname":
                draft.not_needed(one.place, one.text, "rpz-action-override is not cname, so Unbound does not use it")
        elif one.key == "for-downstream" and not flag(value):
            draft.not_needed(one.place, one.text, ALWAYS)
        elif one.key != "name":
            raise ValueError(REASONS["rpz"].get(one.key, "a policy zone of resolverd has no such key"))

    section.each(carry)
    name = plain.get("name")
    if name is None or not (made["primaries"] or made.get("url") or made.get("file")):
        section.refuse("the zone has no name, or nowhere to come from")
        return
    if "zonefile" in plain and (made["primaries"] or "url" in made):
        made.pop("file", None)
        file = plain["zonefile"]
        draft.not_needed(file.place, file.text, COPY if made["primaries"] else "resolverd has its own file")
    draft.policy_zone(name.words[0], **made)


def _override(value: str, plain: Mapping[str, Statement]) -> str:
    if value == "cname":
        if "rpz-cname-override" not in plain:
            raise ValueError("rpz-cname-override is missing")
        return f"cname {plain['rpz-cname-override'].words[0]}"
    if value not in OVERRIDES:
        raise ValueError(f"a policy zone of resolverd has no override {value!r}")
    return OVERRIDES[value]


def own_zone(section: Section) -> None:
    """A zone of which Unbound has a copy, by transfer or from a file."""
    draft, plain = section.draft, section.plain
    primaries: list[str] = []
    notify: list[str] = []

    def carry(one: Statement) -> None:
        value = one.words[0]
        if one.key in ("primary", "master"):
            primaries.append(endpoint(value))
        elif one.key == "allow-notify":
            notify.append(_network(value))
        elif one.key in ("fallback-enabled", "for-downstream", "for-upstream", "zonemd-check", "zonemd-reject-absence"):
            flag(value)
        elif one.key not in ("name", "zonefile"):
            raise ValueError(REASONS["auth-zone"].get(one.key, "an own zone of resolverd has no such key"))

    section.each(carry)
    name, file = plain.get("name"), plain.get("zonefile")
    if name is None or not (primaries or (file is not None and "url" not in plain)):
        section.refuse("the zone has no name, or nowhere to come from that resolverd reads")
        return
    downstream, upstream = section.flag("for-downstream", True), section.flag("for-upstream", True)
    if not (downstream or upstream):
        section.refuse("Unbound uses it neither for clients nor for itself")
        return
    made = draft.table("zone")
    made["name"] = name.words[0]
    if primaries:
        made["primaries"] = primaries
        draft.set("zones.directory", f"{KEPT}/zones")
        if file is not None:
            draft.not_needed(file.place, file.text, COPY)
        if notify:
            made["allow-notify"] = notify
    elif file is not None:
        made["file"] = str(section.folder / file.words[0])
    _use_of_zone(section, made, downstream=downstream, upstream=upstream)


def _use_of_zone(section: Section, made: dict[str, Any], *, downstream: bool, upstream: bool) -> None:
    """Who gets answers from an own zone, and what happens when it has none."""
    draft, plain, fallback = section.draft, section.plain, section.flag("fallback-enabled", False)
    if not downstream:
        made["mode"] = "delegations"
        if not fallback:
            one = plain["for-downstream"]
            draft.changed(one.place, one.text, "without a copy of the zone, its names are resolved as usual, not"
                          " answered SERVFAIL")
    elif fallback:
        made["fallback"] = True
    if downstream and not upstream:
        one = plain["for-upstream"]
        draft.changed(one.place, one.text, "the zone also answers resolverd's own queries for its names")
    if section.server.get("zonemd-permissive-mode") == "yes" or not section.flag("zonemd-check", True):
        made["zonemd"] = "off"
    elif section.flag("zonemd-reject-absence", False):
        made["zonemd"] = "required"


def dnstap(section: Section) -> None:
    """Where messages are sent, and which."""
    draft, plain = section.draft, section.plain
    messages = [message for key, message in TAP_MESSAGES.items() if section.flag(key, False)]

    def carry(one: Statement) -> None:
        value = one.words[0]
        if one.key == "dnstap-ip":
            if section.flag("dnstap-tls", True):
                raise ValueError("Unbound sends it over TLS, resolverd does not; set dnstap.address if the way is safe")
            draft.set("dnstap.address", endpoint(value))
        elif one.key == "dnstap-socket-path" and "dnstap-ip" not in plain:
            draft.set("dnstap.socket", str(section.folder / value))
        elif one.key == "dnstap-sample-rate":
            draft.set("dnstap.sample", max(number(value), 1))
        elif one.key in ("dnstap-identity", "dnstap-version") and section.flag(f"dnstap-send-{one.key[7:]}", False):
            draft.set(f"dnstap.{one.key[7:]}", value)
        elif one.key in TAP_MESSAGES or one.key == "dnstap-enable":
            flag(value)
        elif one.key == "dnstap-bidirectional":
            draft.not_needed(one.place, one.text, BY_ITSELF)
        elif one.key not in KEYS["dnstap"]:
            raise ValueError(REASONS["dnstap"].get(one.key, "dnstap of resolverd has no such key"))

    if not section.flag("dnstap-enable", False) or not messages:
        for one in section.found:
            draft.not_needed(one.place, one.text, "it is off in Unbound")
        return
    section.each(carry)
    draft.set("dnstap.messages", messages)
    if not section.flag("dnstap-send-identity", False):
        draft.set("dnstap.identity", "-")


def second_level(section: Section) -> None:
    """The cache in Redis. Addresses must be literal: the resolver cannot resolve the name of what it needs itself."""
    draft, plain = section.draft, section.plain
    if "cachedb" not in section.server.get("module-config", "").split():
        for one in section.found:
            draft.not_needed(one.place, one.text, "cachedb is not in module-config, so Unbound does not use it")
        return
    if "backend" not in plain or plain["backend"].words[0] != "redis":
        section.refuse("the backend is not redis")
        return
    host = plain["redis-server-host"].words[0] if "redis-server-host" in plain else "127.0.0.1"
    port = plain["redis-server-port"].words[0] if "redis-server-port" in plain else "6379"

    def carry(one: Statement) -> None:
        value = one.words[0]
        if one.key == "redis-logical-db":
            draft.set("second-level-cache.database", number(value))
        elif one.key in ("redis-timeout", "redis-command-timeout"):
            draft.set("second-level-cache.max-wait", milliseconds(value))
        elif one.key == "redis-expire-records":
            draft.not_needed(one.place, one.text, ALWAYS)
        elif one.key == "redis-server-port":
            number(value)
        elif one.key not in KEYS["cachedb"]:
            why = "the second-level cache of resolverd has no such key"
            raise ValueError(REASONS["cachedb"].get(one.key, why))

    section.each(carry)
    if "redis-server-path" in plain and plain["redis-server-path"].words[0]:
        server = f"unix:{plain['redis-server-path'].words[0]}"
    else:
        try:
            address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            one = plain["redis-server-host"]
            draft.left_out(one.place, one.text, "write its address into second-level-cache.servers")
            return
        server = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    draft.set("second-level-cache.servers", [server])
    one = plain["backend"]
    draft.changed(one.place, one.text, "the entries have another format than Unbound's, so the cache begins empty")


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


ENDS: dict[str, Callable[[Section], None]] = {
    "rpz": policy_zone, "auth-zone": own_zone, "dnstap": dnstap, "cachedb": second_level,
}
"""What is done at the end of a section."""
