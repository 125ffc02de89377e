"""The section [policy]: access control, local answers, hooks, DNS64 and rewriting of answers.

A view may have its own values of some settings (`resolver.settings.views`).
"""

from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from resolver import limits
from resolver.options import check_addresses, check_limits, check_names, check_path, check_prefixes, option
from resolver.settings.dns64 import check_dns64

__all__ = ["ALL_LISTS", "HostEntry", "PolicySettings"]

ALL_LISTS = "*"
"""In `lists`: all tables [[list]] and [[rpz]]; in a view: those of [policy]."""


def _check_rewrite(text: str) -> None:
    try:
        before, after = map(ip_network, text.split())
    except ValueError:
        raise ValueError(f"policy.rewrite_addresses: {text!r} is not two address prefixes, from and to") from None
    if before.version != after.version or before.prefixlen != after.prefixlen:
        raise ValueError(f"policy.rewrite_addresses: the two prefixes of {text!r} differ in size")


class HostEntry(NamedTuple):
    """A name with its addresses that is answered from the configuration, like a line of a hosts file."""

    name: str
    addresses: tuple[str, ...]


HOOK_ERRORS = ("continue", "servfail")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Access control, local answers and rewriting of answers."""

    allow: tuple[str, ...] = option(
        ("127.0.0.0/8", "::1/128"),
        "Client prefixes that are served. The longest matching prefix of `allow`, `refuse` and `drop` decides.",
    )
    refuse: tuple[str, ...] = option(
        (),
        "Client prefixes that are answered REFUSED. Clients in none of the three lists are refused too, because open"
        " resolvers are used for amplification attacks (RFC 5358).",
    )
    drop: tuple[str, ...] = option((), "Client prefixes whose queries are dropped without an answer.")
    special_use_domains: bool = option(
        True,
        "Answer localhost, invalid, onion and the reverse zones of private addresses locally (RFC 6761, RFC 6303, RFC"
        " 7686).",
    )
    hosts: tuple[HostEntry, ...] = option((), "Names and addresses that are answered locally, forward and reverse.")
    hosts_files: tuple[str, ...] = option((), "Files in the format of /etc/hosts whose entries are answered locally.")
    local_zones: tuple[str, ...] = option(
        (),
        'Zones that are answered locally, as "zone type". Types: static, deny, refuse, redirect, transparent,'
        " typetransparent, inform, inform_deny, inform_redirect, always_transparent, always_refuse, always_nxdomain,"
        " always_nodata, always_deny, always_null, block_a and nodefault as in Unbound; nodata, nxdomain, truncate"
        " (clients must use TCP) and resolve.",
    )
    local_data: tuple[str, ...] = option((), "Records of local zones in presentation format.")
    lists: tuple[str, ...] = option(
        (ALL_LISTS,),
        'Names of the [[list]] and [[rpz]] tables that apply to all clients; "*" stands for all tables. Views may have'
        " others.",
    )
    modules: tuple[str, ...] = option(
        (),
        "Python modules with hooks, as names that Python can import or as paths of files. Their functions are called at"
        " the points of a query, in this order. They run with the rights of the daemon.",
    )
    hook_timeout: float = option(
        limits.HOOK_TIMEOUT.default / 1000,
        "A coroutine of a hook is cancelled after this time. A plain function cannot be interrupted.",
        kind="seconds",
        limit=limits.HOOK_TIMEOUT,
        scale=1000,
    )
    on_hook_error: str = option(
        "continue",
        "What happens to a query when a hook fails: continue as if the hook had no objection, or servfail.",
    )
    dns64_prefix: tuple[str, ...] = option(
        (),
        "Prefix for the synthesis of AAAA records for names that have only A records, for clients behind NAT64 (RFC"
        ' 6147); usually "64:ff9b::/96". Or a list: each prefix makes an AAAA record. IPv4 prefixes after it, separated'
        " by blanks, are the addresses that it is for. Empty: no synthesis.",
        kind="texts",
    )
    dns64_exclude: tuple[str, ...] = option(
        ("::ffff:0:0/96",),
        "AAAA records in these prefixes are removed by DNS64, and when no other is left, AAAA records are synthesised"
        " (RFC 6147 5.1.4).",
    )
    dns64_exclude_a: tuple[str, ...] = option(
        (), "IPv4 prefixes of which DNS64 makes no AAAA records, for addresses that the NAT64 does not reach."
    )
    dns64_ignore_aaaa: tuple[str, ...] = option(
        (), "Zones at and below which DNS64 ignores all AAAA records, because they do not work for its clients."
    )
    private_addresses: tuple[str, ...] = option(
        (),
        "Address prefixes that are removed from answers, because public names must not point into a private network"
        " (DNS rebinding).",
    )
    private_domains: tuple[str, ...] = option(
        (), "Zones at and below which names may have addresses of `private-addresses`."
    )
    rewrite_addresses: tuple[str, ...] = option(
        (),
        'Prefix pairs for rewriting addresses in answers: "192.0.2.0/24 198.51.100.0/24" replaces the first prefix by'
        " the second.",
    )
    geo_database: str = option(
        "",
        "File in the format of MaxMind DB with the countries of addresses, for [[balance]]. It needs maxminddb (pip"
        " install 'corenet-resolver[geo]').",
    )

    def __post_init__(self) -> None:
        check_limits(self, "policy")
        if self.on_hook_error not in HOOK_ERRORS:
            raise ValueError(f"policy.on_hook_error: {self.on_hook_error!r} is not one of {', '.join(HOOK_ERRORS)}")
        if len(self.modules) > limits.HOOK_MODULES:
            raise ValueError(f"policy.modules: more than {limits.HOOK_MODULES} modules")
        for name in self.modules:
            check_path(name, "policy.modules")
            if not name:
                raise ValueError("policy.modules: '' is no name of a module")
        for name in ("allow", "refuse", "drop", "private_addresses"):
            check_prefixes(getattr(self, name), f"policy.{name}")
        for text in self.dns64_exclude:
            check_prefixes((text,), "policy.dns64_exclude")
            if ip_network(text, strict=False).version != 6:
                raise ValueError(f"policy.dns64_exclude: {text!r} is not an IPv6 prefix")
        check_dns64(self.dns64_prefix, self.dns64_exclude_a)
        check_names(self.dns64_ignore_aaaa, "policy.dns64_ignore_aaaa")
        for text in self.rewrite_addresses:
            _check_rewrite(text)
        for entry in self.hosts:
            check_names((entry.name,), "policy.hosts")
            check_addresses(entry.addresses, f"policy.hosts.{entry.name}")
        check_names(self.private_domains, "policy.private_domains")
        check_path(self.geo_database, "policy.geo_database")
        for name in self.hosts_files:
            check_path(name, "policy.hosts_files")
