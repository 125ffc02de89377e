"""Carries the views of ``named.conf`` over.

In BIND each view is a resolver of its own; here a view is a group of clients with other answers. So what all views have
alike is carried over once, for all clients. What only some have is carried over where [[view]] has it, and named
otherwise. A client that is in no view is refused, as in BIND.
"""

import ipaddress
from collections.abc import Callable
from typing import Any, Protocol

from resolver.cli.importers.bind_names import ALL_CLIENTS, Names, children, flag
from resolver.cli.importers.bind_syntax import Statement
from resolver.cli.importers.bind_zones import Zones
from resolver.cli.importers.draft import Draft, number
from resolver.cli.importers.networks import Network, allowed, view_name

__all__ = ["VIEW", "Views"]

VIEW = {
    "match-clients": "view.clients; view.keys when all its elements are keys", "match-destinations": "view.listeners",
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

    def attempt(self, convert: Callable[[Statement], None], statement: Statement, /) -> None:
        """Convert `statement`; an error becomes a remark."""

    def option(self, statement: Statement, /) -> None:
        """Carry an option over that holds for all clients."""

    def statement(self, statement: Statement, /) -> None:
        """Carry a statement outside of options over."""

    def served(self, clients: list[Statement]) -> dict[Network, bool]:
        """The networks of these lists, and whether all of them allow each."""


class Views:
    """Carries `views`, the view statements, over."""

    def __init__(self, importer: Importer, views: list[Statement]) -> None:
        self.importer = importer
        self.draft, self.names, self.zones = importer.draft, importer.names, importer.zones
        self.views = views

    def run(self) -> None:
        """Convert all views."""
        if not self.views:
            return
        shared = self.shared()
        for view in self.views:
            self.names.add([statement for statement in view.block or () if statement.words[:1] != ("zone",)])
        self.names.add([statement for statement in shared if statement.words[:1] == ("zone",)])
        options = self.importer.options
        for statement in shared:
            # Other options look these up.
            options[statement.words[0]] = statement
        self.importer.clients = [statement for name, statement in options.items() if name in _CLIENTS]
        for statement in shared:
            if statement.words[0] != "zone":
                self.importer.attempt(self.importer.option, statement)
        tables: list[dict[str, Any]] = []
        shared_contents = {_content(statement) for statement in shared}
        for view in self.views:
            self.importer.attempt(lambda one: tables.append(self.view(one, shared_contents)), view)
        for statement in shared:
            if statement.words[0] == "zone":
                self.importer.attempt(self.importer.statement, statement)
        for table in tables:
            self.draft.table("view").update(table)
        everything = set(ALL_CLIENTS)
        if not any(everything <= set(one.get("clients", ALL_CLIENTS)) and not one.keys() & {"listeners", "keys"}
                   for one in tables):
            # An empty list, because the default permits this host.
            self.draft.set("policy.allow", [])
            self.draft.set("policy.refuse", list(ALL_CLIENTS))

    def shared(self) -> list[Statement]:
        """The statements that all views have alike."""
        others = [{_content(statement) for statement in view.block or ()} for view in self.views[1:]]
        return [statement for statement in self.views[0].block or ()
                if statement.words and statement.words[0] not in (*_MEMBERS, "key", "server", "trust-anchors")
                and all(_content(statement) in other for other in others)]

    def view(self, view: Statement, shared_contents: set[Any]) -> dict[str, Any]:
        """The table of one view. `shared_contents` are the contents of what all views have alike.

        Raises:
            ValueError: match-clients is empty, the class is not IN, or an address is invalid.
        """
        if len(view.words) > 2 and view.words[2].lower() != "in":
            raise ValueError(f"resolverd has no views of class {view.words[2]}")
        options = children(view)
        table: dict[str, Any] = {"name": view_name(view.words[1])}
        table |= self.members(options)
        table |= self.access(options)
        forwarders = options.get("forwarders")
        if forwarders is not None and _content(forwarders) not in shared_contents:
            self.importer.attempt(lambda one: self.forward(table, ".", one, options.get("forward")), forwarders)
        done = (*_MEMBERS, *_CLIENTS, "recursion", "forwarders", "forward")
        for statement in view.block or ():
            if statement.words and statement.words[0] not in done and _content(statement) not in shared_contents:
                self.importer.attempt(lambda one: self.option(table, one), statement)
        return table

    def members(self, options: dict[str, Statement]) -> dict[str, Any]:
        """Who is in the view."""
        table: dict[str, Any] = {}
        keys = self.names.keys(options.get("match-clients"))
        if keys:
            table["keys"] = [self.names.tsig_key(key) for key in keys]
        elif "match-clients" in options:
            table["clients"] = [str(network) for network in allowed(self.names.elements(options["match-clients"]))]
            if not table["clients"]:
                raise ValueError("no client is in this view")
        if "match-destinations" in options:
            texts = self.names.addresses(options["match-destinations"].block or ())
            if texts != ["any"]:
                table["listeners"] = [str(ipaddress.ip_address(text)) for text in texts]
        if "match-recursive-only" in options and flag(options["match-recursive-only"].words[1]):
            option = options["match-recursive-only"]
            self.draft.left_out(option.place, option.text,
                                "it is not supported: the view also matches queries without RD")
        return table if table else {"clients": list(ALL_CLIENTS)}

    def access(self, own: dict[str, Statement]) -> dict[str, Any]:
        """Which of its clients are served; a list among the `own` options of the view replaces that of options."""
        options = {name: option for given in (self.importer.options, own) for name, option in given.items()
                   if name in (*_CLIENTS, "recursion")}
        if "recursion" in options and not flag(options["recursion"].words[1]):
            option = options["recursion"]
            self.draft.left_out(option.place, option.text, "BIND offers these clients no recursion; resolverd refuses"
                                " them. To serve them, set view.allow")
            return {"refuse": list(ALL_CLIENTS)}
        lists = [options[name] for name in _CLIENTS if name in options]
        served = self.importer.served(lists)
        table = {key: [str(network) for network, yes in served.items() if yes is wanted]
                 for key, wanted in (("allow", True), ("refuse", False))}
        if not lists:
            table["allow"] = ["127.0.0.0/8", "::1/128"]
        return {key: networks for key, networks in table.items() if networks}

    def forward(self, table: dict[str, Any], zone: str, forwarders: Statement, mode: Statement | None) -> None:
        """The servers to which the view forwards `zone`; `mode` is its option ``forward``."""
        table.setdefault("forward", []).append(self.zones.forward(zone, forwarders, mode))

    def option(self, table: dict[str, Any], option: Statement) -> None:
        """One other statement of a view.

        Raises:
            ValueError: a view does not have it; the text says why.
        """
        name, block = option.words[0], option.block or ()
        if name == "zone":
            self.zone(table, option)
        elif name == "dns64":
            self.dns64(table, option)
        elif name == "validate-except":
            table["negative-trust-anchors"] = [domain.words[0] for domain in block]
        elif name == "deny-answer-addresses":
            networks = [ipaddress.ip_network(text, strict=False) for text in self.names.addresses(block)]
            table["private-addresses"] = [str(network) for network in networks]
            table["private-domains"] = [domain.words[0] for domain in option.second or ()]
        elif name == "rate-limit":
            rates = {rate.words[0]: rate for rate in block}
            if "responses-per-second" in rates:
                table["responses-per-second"] = number(rates["responses-per-second"].words[1])
            left = sorted(rates.keys() - {"responses-per-second"})
            if left:
                raise ValueError(f"a [[view]] has responses-per-second only, not {', '.join(left)}")
        elif name == "response-policy":
            raise ValueError("write its zones as [[rpz]], and their names into view.lists; policy.lists then names"
                             " those for all clients")
        elif name in ("key", "acl", "primaries", "masters", "remote-servers", "tls"):
            return  # read where it is named
        else:
            raise ValueError("it differs between views, and [[view]] does not support it")

    def zone(self, table: dict[str, Any], zone: Statement) -> None:
        """A zone that not all views have.

        Raises:
            ValueError: it is an own zone, which a view cannot have.
        """
        options = children(zone)
        kind = options["type"].words[1] if "type" in options else ""
        upstream_zone = self.zones.upstream_zone(zone, options, kind)
        if upstream_zone is not None:
            key, servers = upstream_zone
            table.setdefault(key, []).append(servers)
        elif kind == "hint":
            self.draft.not_needed(zone.place, zone.text, "the root servers are built in and primed")
        else:
            raise ValueError("authoritative zones of resolverd are in all views, and this one is not; write"
                             " its records as local-data of the [[view]], or serve it elsewhere and name that"
                             " server in [[view.stub]]")

    def dns64(self, table: dict[str, Any], prefix: Statement) -> None:
        """A prefix for IPv6 addresses made of IPv4 ones.

        Raises:
            ValueError: it has an option that a view does not have.
        """
        table.setdefault("dns64-prefix", []).append(prefix.words[1])
        options = children(prefix)
        if "exclude" in options:
            table["dns64-exclude"] = self.names.addresses(options["exclude"].block or ())
        left = sorted(options.keys() - {"exclude", "break-dnssec"})
        if left:
            raise ValueError(f"the prefix is carried over, {', '.join(left)} is not; see view.dns64-exclude-a")


def _content(statement: Statement) -> Any:
    """The content of a statement without its position, for comparison."""
    return statement.words, _contents(statement.block), _contents(statement.second)


def _contents(block: tuple[Statement, ...] | None) -> Any:
    return None if block is None else tuple(_content(statement) for statement in block)
