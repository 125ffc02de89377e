"""The prefix of a NAT64 in the settings, and the entries of `policy.dns64_prefix`: such a prefix and the IPv4 addresses
that the NAT64 translates.

The settings check an entry with `parse_dns64`, and the policy compiles it with the same function, so both accept the
same text.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network

from resolver import limits

__all__ = ["check_dns64", "parse_dns64", "parse_nat64"]

LENGTHS = (32, 40, 48, 56, 64, 96)
"""Lengths of a prefix (RFC 6052 section 2.2)."""


def parse_nat64(text: str, where: str) -> IPv6Network:
    """The prefix of a NAT64.

    Raises:
        ValueError: `text` is none; the message names `where`.
    """
    try:
        prefix = ip_network(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not an address prefix such as 64:ff9b::/96") from None
    if not isinstance(prefix, IPv6Network) or prefix.prefixlen not in LENGTHS:
        lengths = ", ".join(map(str, LENGTHS))
        raise ValueError(f"{where}: {text!r} is not an IPv6 prefix of {lengths} bits (RFC 6052 2.2)")
    if prefix.network_address.scope_id is not None:
        raise ValueError(f"{where}: {text!r} has an interface; routes lead to a translator, so leave it out")
    return prefix


def parse_dns64(text: str) -> tuple[IPv6Network, tuple[IPv4Network, ...]]:
    """The prefix of an entry, and the IPv4 prefixes after it; without any, the prefix is for all addresses.

    Raises:
        ValueError: the entry is no such text; the message names the setting.
    """
    where = "policy.dns64_prefix"
    first, *others = text.split() or [""]
    prefix = parse_nat64(first, where)
    try:
        return prefix, tuple(map(IPv4Network, others))
    except ValueError:
        raise ValueError(f"{where}: {text!r} has something else than IPv4 prefixes after the prefix") from None


def check_dns64(prefixes: tuple[str, ...], exclude_a: tuple[str, ...]) -> None:
    """Check the settings of DNS64 together.

    Raises:
        ValueError: an entry is invalid, a prefix is used twice, there are too many, or `exclude_a` has other
            addresses than IPv4.
    """
    if len(prefixes) > limits.DNS64_PREFIXES:
        raise ValueError(f"policy.dns64_prefix: more than {limits.DNS64_PREFIXES} prefixes")
    seen: set[IPv6Network] = set()
    for text in prefixes:
        prefix, _ = parse_dns64(text)
        if prefix in seen:
            raise ValueError(f"policy.dns64_prefix: {text!r} has the prefix of an entry before it; write all IPv4"
                             " prefixes into one entry")
        seen.add(prefix)
    for text in exclude_a:
        try:
            IPv4Network(text, strict=False)
        except ValueError:
            raise ValueError(f"policy.dns64_exclude_a: {text!r} is not an IPv4 prefix such as 10.0.0.0/8") from None
