"""The tables [[view]]: clients that get different answers, and how these differ from those of [policy].

A view with servers or negative trust anchors of its own has its own part of the cache (`ViewSettings.part`).
"""

import hashlib
import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

from resolver import limits
from resolver.options import check_names, check_prefixes, option, parse_endpoint
from resolver.settings.dnssec import check_negative_anchors
from resolver.settings.listeners import ListenerSettings
from resolver.settings.policy import ALL_LISTS, HostEntry, PolicySettings
from resolver.settings.quotas import RateLimitSettings
from resolver.settings.upstreams import ForwardZone, StubZone

__all__ = ["ViewSettings"]

_VIEW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """A view: clients that get different answers, and how these differ from the answers of policy."""

    name: str = option("", "Name of the view, for log and statistics.")
    clients: tuple[str, ...] = option(
        (),
        "Client prefixes of this view; empty: all clients. A client belongs to the first view in the file whose"
        " clients, listeners, transports and keys all fit.",
    )
    listeners: tuple[str, ...] = option(
        (), "Served addresses of this view, as in server.listen; without a port: all ports. Empty: all listeners."
    )
    transports: tuple[str, ...] = option((), "udp, tcp, tls, https or quic. Empty: all transports.")
    keys: tuple[str, ...] = option(
        (),
        "Names of [[tsig-key]] tables; queries of this view are signed with one of them (RFC 8945). Empty: signed or"
        " not. A key permits nothing by itself: the client must be permitted by `allow` of this view, or where the view"
        " has no such list by that of policy or of the listener. Addresses that `drop` of these lists names are never"
        " answered.",
    )
    allow: tuple[str, ...] = option(
        (),
        "Client prefixes that are served. When this list or one of the next two is not empty, the three replace those"
        " of policy and of the listener for clients of this view.",
    )
    refuse: tuple[str, ...] = option((), "Client prefixes that are answered REFUSED.")
    drop: tuple[str, ...] = option((), "Client prefixes whose queries are dropped.")
    inherit: bool = option(
        True,
        "Begin with the hosts, local zones, local data, hooks, DNS64 and rewriting of policy; the settings below are"
        " added to them. Off: this view has only the settings below.",
    )
    lists: tuple[str, ...] = option(
        (ALL_LISTS,),
        'Names of the [[list]] and [[rpz]] tables that apply to this view, whatever `inherit` is; "*" stands for those'
        " of policy.lists. An empty list: none.",
    )
    special_use_domains: bool = option(True, "As in policy. Off in policy is off in all views.")
    hosts: tuple[HostEntry, ...] = option((), "Names and addresses, as in policy.")
    local_zones: tuple[str, ...] = option(
        (), "Local zones, as in policy. They replace zones of the same name of policy."
    )
    local_data: tuple[str, ...] = option((), "Records of local zones, as in policy.")
    modules: tuple[str, ...] = option((), "Python modules with hooks, as in policy.")
    dns64: bool = option(True, "Off: no DNS64 in this view.")
    dns64_prefix: tuple[str, ...] = option(
        (),
        "Prefix of DNS64, or a list, as in policy. It replaces all settings of DNS64 of policy.",
        kind="texts",
    )
    dns64_exclude: tuple[str, ...] = option(("::ffff:0:0/96",), "As in policy; only used with dns64-prefix.")
    dns64_exclude_a: tuple[str, ...] = option((), "As in policy; only used with dns64-prefix.")
    dns64_ignore_aaaa: tuple[str, ...] = option((), "As in policy; only used with dns64-prefix.")
    private_addresses: tuple[str, ...] = option((), "Prefixes that are removed from answers, as in policy.")
    private_domains: tuple[str, ...] = option((), "Zones with private addresses, as in policy.")
    rewrite_addresses: tuple[str, ...] = option((), "Prefix pairs for rewriting addresses, as in policy.")
    forward: tuple[ForwardZone, ...] = option(
        (),
        "Forward zones of this view, as [[view.forward]]. They are added to those of [[forward]] and [[stub]] and"
        " replace those of the same name. What is resolved for this view is then cached for it alone.",
    )
    stub: tuple[StubZone, ...] = option((), "Stub zones of this view, as [[view.stub]], in the same way.")
    negative_trust_anchors: tuple[str, ...] = option(
        (),
        "Zones at and below which answers to this view are not validated, besides those of dnssec. This, too, makes a"
        " cache for it alone.",
    )
    queries_per_second: int = option(
        -1, "As in rate-limit, for clients of this view, and the same for verified queries. -1: as in rate-limit.",
    )
    responses_per_second: int = option(
        -1, "As in rate-limit, for all kinds of replies to clients of this view. -1: as in rate-limit.",
    )

    def __post_init__(self) -> None:
        if not _VIEW_NAME.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} is not a valid view name; use at most 63 letters, digits, hyphens"
                             " and underscores, and begin with a letter or digit")
        for name in ("clients", "allow", "refuse", "drop"):
            check_prefixes(getattr(self, name), name)
        for text in self.listeners:
            parse_endpoint(text, 0, "listeners")
        known = ("udp", "tcp", "tls", "https", "quic")
        for text in self.transports:
            if text not in known:
                raise ValueError(f"transports: {text!r} is not one of {', '.join(known)}")
        if not (self.clients or self.listeners or self.transports or self.keys):
            raise ValueError("clients: nothing says who is in this view; give clients, listeners, transports or keys")
        check_names(self.keys, "keys")
        if self.keys and self.queries_per_second >= 0:
            raise ValueError("queries_per_second: queries are counted before their signatures are checked, so a view"
                             " with keys has no rate of its own")
        check_negative_anchors(self.negative_trust_anchors, "negative_trust_anchors")
        if self.dns64_prefix and not self.dns64:
            raise ValueError("dns64: it is off, but dns64-prefix is given; remove one of the two")
        for name in ("queries_per_second", "responses_per_second"):
            limits.RATE_OF_KIND.check(getattr(self, name), name)
        try:
            self._own()
        except ValueError as error:
            raise ValueError(str(error).removeprefix("policy.")) from None

    @property
    def upstream_zones(self) -> tuple[ForwardZone | StubZone, ...]:
        """The forward and stub zones that only this view has."""
        return (*self.forward, *self.stub)

    @property
    def has_own_servers(self) -> bool:
        """Whether what is resolved for the view may differ from what is resolved for others, so it is cached apart."""
        return bool(self.forward or self.stub or self.negative_trust_anchors)

    @property
    def part(self) -> bytes:
        """The label of its part of the cache. Views with other servers or another name have another one, also under
        other settings of other workers, so they never find what was resolved for this view."""
        rules = (self.name.lower(), self.forward, self.stub, self.negative_trust_anchors)
        return hashlib.sha256(repr(rules).encode()).digest()[:8]

    @property
    def has_access_list(self) -> bool:
        """Whether its lists replace those around it."""
        return bool(self.allow or self.refuse or self.drop)

    @property
    def key_names(self) -> frozenset[str]:
        """Its keys, in lower case and without the dot at the end."""
        return frozenset(text.removesuffix(".").lower() for text in self.keys)

    def serves(self, listener: "ListenerSettings | None", transport: str | None, key: str | None = None) -> bool:
        """Whether clients of `listener` over `transport` may be in this view; None: no listener is known. With `key`,
        one of `key_names`: whether they may be in it because of this key; else whether they may be in it without."""
        if key not in self.key_names if key is not None else self.keys:
            return False
        if listener is None or transport is None:
            return not (self.listeners or self.transports)
        if self.transports and transport not in self.transports:
            return False
        return not self.listeners or any(self._names(text, listener) for text in self.listeners)

    @staticmethod
    def _names(text: str, listener: "ListenerSettings") -> bool:
        host, port = parse_endpoint(text, 0, "listeners")
        served, at = listener.endpoint
        return ip_address(host) == ip_address(served) and port in (0, at)

    def _own(self) -> PolicySettings:
        return PolicySettings(
            special_use_domains=self.special_use_domains, hosts=self.hosts, local_zones=self.local_zones,
            local_data=self.local_data, modules=self.modules, dns64_prefix=self.dns64_prefix if self.dns64 else (),
            dns64_exclude=self.dns64_exclude, dns64_exclude_a=self.dns64_exclude_a,
            dns64_ignore_aaaa=self.dns64_ignore_aaaa,
            private_addresses=self.private_addresses, private_domains=self.private_domains,
            rewrite_addresses=self.rewrite_addresses,
        )

    def rates(self, common: RateLimitSettings) -> RateLimitSettings:
        """The rates of clients of this view."""
        queries, replies = self.queries_per_second, self.responses_per_second
        if queries >= 0:
            common = replace(common, queries_per_second=queries, verified_queries_per_second=queries)
        if replies >= 0:
            common = replace(common, responses_per_second=replies, referrals_per_second=-1, nodata_per_second=-1,
                             nxdomains_per_second=-1, errors_per_second=-1,
                             all_per_second=common.all_per_second if replies else 0)
        return common

    def applied_to(self, policy: PolicySettings) -> PolicySettings:
        """The policy of clients of this view; the access lists in it have no meaning."""
        own = self._own()
        special = own.special_use_domains and policy.special_use_domains
        if not self.inherit:
            return replace(own, special_use_domains=special)
        dns64 = own if own.dns64_prefix or not self.dns64 else policy
        return replace(
            policy,
            special_use_domains=special,
            hosts=(*policy.hosts, *own.hosts),
            local_zones=(*policy.local_zones, *own.local_zones),
            local_data=(*policy.local_data, *own.local_data),
            modules=(*policy.modules, *own.modules),
            dns64_prefix=dns64.dns64_prefix,
            dns64_exclude=dns64.dns64_exclude,
            dns64_exclude_a=dns64.dns64_exclude_a,
            dns64_ignore_aaaa=dns64.dns64_ignore_aaaa,
            private_addresses=(*policy.private_addresses, *own.private_addresses),
            private_domains=(*policy.private_domains, *own.private_domains),
            rewrite_addresses=(*policy.rewrite_addresses, *own.rewrite_addresses),
        )
