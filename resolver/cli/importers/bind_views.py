"""Carries the views of ``named.conf`` over.

In BIND each view is a resolver of its own; here a view is a group of clients with other answers. So what all views have
alike is carried over once, for all clients. What only some have is carried over where [[view]] has it, and named
otherwise. A client that is in no view is refused, as in BIND.
"""

import ipaddress
from collections.abc import Callable
from typing import Any, Protocol

from resolver.cli.importers.bind_names import EVERYONE, Names, children, flag
from resolver.cli.importers.bind_syntax import Statement
from resolver.cli.importers.bind_zones import Zones
from resolver.cli.importers.draft import Draft, number
from resolver.cli.importers.networks import Network, allowed, view_name

__all__ = ["VIEW", "Views"]

VIEW = {
    "match-clients": "view.clients", "match-destinations": "view.listeners",
    "allow-query": "view.allow, view.refuse", "allow-recursion": "view.allow, view.refuse",
    "allow-query-cache": "view.allow, view.refuse", "recursion": "no: view.refuse", "forwarders": "view.forward",
    "forward": "view.forward", "dns64": "view.dns64-prefix, view.dns64-exclude",
    "validate-except": "view.negative-trust-anchors",
    "deny-answer-addresses": "view.private-addresses, view.private-domains",
    "rate-limit": "view.responses-per-second", "zone": "view.forward and view.stub, or zone when all views have it",
}
"""What a view may have of its own; other options must be the same in all views."""
_CLIENTS = ("allow-query", "allow-recursion", "allow-query-cache")
_MEMBERS = ("match-clients", "match-destinations", "match-recursive-only")


class Importer(Protocol):
    """The importer of the whole file, as far as views need it."""

    draft: Draft
    names: Names
    zones: Zones
    options: dict[str, Statement]
    clients: list[Statement]

    def attempt(self, convert: Callable[[Statement], None], one: Statement) -> None:
        """Convert `one`; an error becomes a remark."""

    def option(self, one: Statement) -> None:
        """Carry an option over that holds for all clients."""

    def statement(self, one: Statement) -> None:
        """Carry a statement outside of options over."""

    def served(self, clients: list[Statement]) -> dict[Network, bool]:
        """The networks of these lists, and whether all of them allow each."""


class Views:
    """Carries `found`, the view statements, over."""

    def __init__(self, importer: Importer, found: list[Statement]) -> None:
        self.importer = importer
        self.draft, self.names, self.zones = importer.draft, importer.names, importer.zones
        self.found = found

    def run(self) -> None:
        """Convert all views."""
        if not self.found:
            return
        shared = self.shared()
        for one in self.found:
            self.names.add([inner for inner in one.block or () if inner.words[:1] != ("zone",)])
        self.names.add([inner for inner in shared if inner.words[:1] == ("zone",)])
        options = self.importer.options
        for inner in shared:
            # Other options look these up.
            options[inner.words[0]] = inner
        self.importer.clients = [one for key, one in options.items() if key in _CLIENTS]
        for inner in shared:
            if inner.words[0] != "zone":
                self.importer.attempt(self.importer.option, inner)
        made: list[dict[str, Any]] = []
        same = {_shape(inner) for inner in shared}
        for one in self.found:
            self.importer.attempt(lambda view: made.append(self.view(view, same)), one)
        for inner in shared:
            if inner.words[0] == "zone":
                self.importer.attempt(self.importer.statement, inner)
        for keys in made:
            self.draft.table("view").update(keys)
        if not any(set(EVERYONE) <= set(keys.get("clients", EVERYONE)) and "listeners" not in keys for keys in made):
            self.draft.sections.get("policy", {}).pop("allow", None)
            self.draft.set("policy.refuse", list(EVERYONE))

    def shared(self) -> list[Statement]:
        """The statements that all views have alike."""
        others = [{_shape(inner) for inner in one.block or ()} for one in self.found[1:]]
        return [inner for inner in self.found[0].block or ()
                if inner.words and inner.words[0] not in (*_MEMBERS, "key", "server", "trust-anchors")
                and all(_shape(inner) in other for other in others)]

    def view(self, one: Statement, shared: set[Any]) -> dict[str, Any]:
        """The keys of one view.

        Raises:
            ValueError: match-clients is empty, the class is not IN, or an address is invalid.
        """
        if len(one.words) > 2 and one.words[2].lower() != "in":
            raise ValueError(f"resolverd has no views of class {one.words[2]}")
        inner = children(one)
        keys: dict[str, Any] = {"name": view_name(one.words[1])}
        keys |= self.members(inner)
        keys |= self.access(inner)
        if "forwarders" in inner and _shape(inner["forwarders"]) not in shared:
            self.importer.attempt(lambda held: self.forward(keys, ".", held, inner.get("forward")), inner["forwarders"])
        for held in (held for held in one.block or () if held.words):
            if held.words[0] in (*_MEMBERS, *_CLIENTS, "recursion", "forwarders", "forward") or _shape(held) in shared:
                continue
            self.importer.attempt(lambda held: self.key(keys, held), held)
        return keys

    def members(self, inner: dict[str, Statement]) -> dict[str, Any]:
        """Who is in the view."""
        keys: dict[str, Any] = {}
        if "match-clients" in inner:
            keys["clients"] = [str(network) for network in allowed(self.names.elements(inner["match-clients"]))]
            if not keys["clients"]:
                raise ValueError("no client is in this view")
        if "match-destinations" in inner:
            texts = self.names.addresses(inner["match-destinations"].block or ())
            if texts != ["any"]:
                keys["listeners"] = [str(ipaddress.ip_address(text)) for text in texts]
        if "match-recursive-only" in inner and flag(inner["match-recursive-only"].words[1]):
            one = inner["match-recursive-only"]
            self.draft.left_out(one.place, one.text, "it is not supported: the view also matches queries without RD")
        return keys if keys else {"clients": list(EVERYONE)}

    def access(self, inner: dict[str, Statement]) -> dict[str, Any]:
        """Which of its clients are served; a list in the view replaces that of options."""
        options = {key: one for key, one in self.importer.options.items() if key in (*_CLIENTS, "recursion")}
        options |= {key: one for key, one in inner.items() if key in (*_CLIENTS, "recursion")}
        if "recursion" in options and not flag(options["recursion"].words[1]):
            one = options["recursion"]
            self.draft.left_out(one.place, one.text, "BIND offers these clients no recursion; resolverd refuses them."
                                " To serve them, set view.allow")
            return {"refuse": list(EVERYONE)}
        lists = [options[key] for key in _CLIENTS if key in options]
        found = self.importer.served(lists)
        keys = {name: [str(network) for network, yes in found.items() if yes is wanted]
                for name, wanted in (("allow", True), ("refuse", False))}
        if not lists:
            keys["allow"] = ["127.0.0.0/8", "::1/128"]
        return {name: networks for name, networks in keys.items() if networks}

    def forward(self, keys: dict[str, Any], zone: str, one: Statement, mode: Statement | None) -> None:
        keys.setdefault("forward", []).append(self.zones.forward(zone, one, mode))

    def key(self, keys: dict[str, Any], one: Statement) -> None:
        """One other statement of a view.

        Raises:
            ValueError: a view does not have it; the text says why.
        """
        key, block = one.words[0], one.block or ()
        if key == "zone":
            inner = children(one)
            kind = inner["type"].words[1] if "type" in inner else ""
            made = self.zones.upstream_zone(one, inner, kind)
            if made is not None:
                keys.setdefault(made[0], []).append(made[1])
            elif kind == "hint":
                self.draft.not_needed(one.place, one.text, "the root servers are built in and primed")
            else:
                raise ValueError("authoritative zones of resolverd are in all views, and this one is not; write"
                                 " its records as local-data of the [[view]], or serve it elsewhere and name that"
                                 " server in [[view.stub]]")
        elif key == "dns64":
            self.dns64(keys, one)
        elif key == "validate-except":
            keys["negative-trust-anchors"] = [held.words[0] for held in block]
        elif key == "deny-answer-addresses":
            networks = [ipaddress.ip_network(text, strict=False) for text in self.names.addresses(block)]
            keys["private-addresses"] = [str(network) for network in networks]
            keys["private-domains"] = [held.words[0] for held in one.second or ()]
        elif key == "rate-limit":
            rates = {held.words[0]: held for held in block}
            if "responses-per-second" in rates:
                keys["responses-per-second"] = number(rates["responses-per-second"].words[1])
            left = sorted(rates.keys() - {"responses-per-second"})
            if left:
                raise ValueError(f"a [[view]] has responses-per-second only, not {', '.join(left)}")
        elif key in ("key", "acl", "primaries", "masters", "remote-servers", "tls"):
            return  # read where it is named
        else:
            raise ValueError("it differs between views, and [[view]] does not support it")

    def dns64(self, keys: dict[str, Any], one: Statement) -> None:
        keys.setdefault("dns64-prefix", []).append(one.words[1])
        inner = children(one)
        if "exclude" in inner:
            keys["dns64-exclude"] = self.names.addresses(inner["exclude"].block or ())
        left = sorted(inner.keys() - {"exclude", "break-dnssec"})
        if left:
            raise ValueError(f"the prefix is carried over, {', '.join(left)} is not; see view.dns64-exclude-a")


def _shape(one: Statement) -> Any:
    """The content of a statement without its position, for comparison."""
    inner = None if one.block is None else tuple(_shape(held) for held in one.block)
    return one.words, inner, None if one.second is None else tuple(_shape(held) for held in one.second)
