"""Settings of names whose addresses are chosen for each client: the tables [[balance]] and [[balance.target]].

A balanced name is the same in all views.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from resolver import limits, options
from resolver.options import check_addresses, check_limits, check_names, check_prefixes, option

__all__ = ["BalanceSettings", "TargetSettings", "check_balances"]

POLICIES = ("rotate", "weighted", "nearest")
CHECKS = ("none", "tcp", "http", "https")
WHEN_DOWN = ("all", "none", "fallback")
DEFAULT_PORTS = {"http": 80, "https": 443}
_COUNTRY = re.compile(r"[A-Z]{2}")
_PATH = re.compile(r"/[!-~]{0,1000}")


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """One address of a balanced name."""

    address: str = option("", "IPv4 or IPv6 address.")
    weight: int = option(
        limits.BALANCE_WEIGHT.default, "Share of the clients, with policy weighted.", limit=limits.BALANCE_WEIGHT
    )
    clients: tuple[str, ...] = option(
        (), "Client prefixes for which this address is the nearest. The longest prefix that fits decides."
    )
    countries: tuple[str, ...] = option(
        (),
        "Countries of clients for which this address is the nearest, as two capital letters (ISO 3166); needs"
        " policy.geo-database. They count after `clients`.",
    )

    def __post_init__(self) -> None:
        check_addresses((self.address,), "address")
        check_prefixes(self.clients, "clients")
        if len(self.clients) > limits.BALANCE_PREFIXES:
            raise ValueError(f"clients: more than {limits.BALANCE_PREFIXES} prefixes")
        for text in self.countries:
            if not _COUNTRY.fullmatch(text):
                raise ValueError(f"countries: {text!r} is not a country as two capital letters, such as DE")
        check_limits(self, "target")


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """A name whose A and AAAA records are made here."""

    name: str = option("", "The name. Its other types are resolved as usual.")
    target: tuple[TargetSettings, ...] = option((), "Its addresses, as [[balance.target]].")
    policy: str = option(
        "rotate",
        '"rotate": all addresses, beginning with a random one. "weighted": in random order by their weights.'
        ' "nearest": those for the network or country of the client.',
    )
    most: int = option(
        limits.BALANCE_MOST.default, "Most addresses in an answer; 0: all.", limit=limits.BALANCE_MOST
    )
    ttl: int = option(limits.BALANCE_TTL.default, "TTL of the answers.", kind="seconds", limit=limits.BALANCE_TTL)
    check: str = option(
        "none",
        'How targets are checked: "none", "tcp" (a connection is accepted), "http" or "https" (the reply to GET has a'
        " status from 200 to 399). The name of the server in http and https is the balanced name.",
    )
    check_port: int = option(0, "Port of the check; 0: 80 for http, 443 for https.")
    check_path: str = option("/", "Path of the request of http and https.")
    check_ca: str = option(
        "", "PEM file of the authorities for https. Empty: those of the system."
    )
    interval: float = option(
        limits.BALANCE_INTERVAL.default / 1000, "Time between two checks of a target, in each worker.", kind="seconds",
        limit=limits.BALANCE_INTERVAL, scale=1000,
    )
    timeout: float = option(
        limits.BALANCE_TIMEOUT.default / 1000, "A check that takes longer has failed.", kind="seconds",
        limit=limits.BALANCE_TIMEOUT, scale=1000,
    )
    rise: int = option(
        limits.BALANCE_RISE.default, "Successes in a row after which a target is up.", limit=limits.BALANCE_RISE
    )
    fall: int = option(
        limits.BALANCE_FALL.default, "Failures in a row after which a target is down.", limit=limits.BALANCE_FALL
    )
    when_down: str = option(
        "all",
        'The answer when all targets of an address family are down: "all" of them, "none" (NODATA), or "fallback".',
    )
    fallback: tuple[str, ...] = option(
        (), "Addresses that are answered then, of address families that have targets; they are not checked."
    )

    def __post_init__(self) -> None:
        check_names((self.name,), "name")
        for name, words in (("policy", POLICIES), ("check", CHECKS), ("when_down", WHEN_DOWN)):
            if getattr(self, name) not in words:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(words)}")
        check_limits(self, "balance")
        if not self.target:
            raise ValueError(f"target: {self.name!r} has no [[balance.target]]")
        if len(self.target) > limits.BALANCE_TARGETS:
            raise ValueError(f"target: {self.name!r} has more than {limits.BALANCE_TARGETS} addresses")
        seen = set()
        for one in self.target:
            if ip_address(one.address) in seen:
                raise ValueError(f"target: {one.address!r} is listed twice for {self.name!r}")
            seen.add(ip_address(one.address))
            if self.policy != "nearest" and (one.clients or one.countries):
                raise ValueError(f"target: clients and countries need policy nearest (balance {self.name!r})")
            if self.policy != "weighted" and one.weight != limits.BALANCE_WEIGHT.default:
                raise ValueError(f"target: weight needs policy weighted (balance {self.name!r})")
        check_addresses(self.fallback, "fallback")
        if (self.when_down == "fallback") is not bool(self.fallback):
            raise ValueError("fallback: it goes with when-down = \"fallback\", and only with it")
        families = {address.version for address in seen}
        for text in self.fallback:
            if ip_address(text).version not in families:
                raise ValueError(f"fallback: {text!r} is never given, because no target of {self.name!r} has an IPv"
                                 f"{ip_address(text).version} address; remove it here")
        if not 0 <= self.check_port <= 65535 or (self.check == "tcp" and not self.check_port):
            raise ValueError(f"check_port: {self.check_port} is no port; a check over tcp needs one")
        if not _PATH.fullmatch(self.check_path):
            raise ValueError(f"check_path: {self.check_path!r} is not the path of a URL, such as /health")
        options.check_path(self.check_ca, "check_ca")
        if self.check == "none" and self.when_down != "all":
            raise ValueError("when_down: without a check no target is ever down")

    @property
    def probe(self) -> tuple[str, int, str, str]:
        """What is asked of a target: check, port, path and file of authorities. Targets with an equal one have the same
        state after a reload."""
        return self.check, self.check_port or DEFAULT_PORTS.get(self.check, 0), self.check_path, self.check_ca


def check_balances(balances: tuple[BalanceSettings, ...], database: str) -> None:
    """Check all balanced names together. `database` is the file of countries.

    Raises:
        ValueError: there are too many, a name occurs twice, or countries are used without a file.
    """
    if len(balances) > limits.BALANCES:
        raise ValueError(f"balance: more than {limits.BALANCES} names")
    seen: set[str] = set()
    for one in balances:
        plain = one.name.removesuffix(".").lower()
        if plain in seen:
            raise ValueError(f"balance: {one.name!r} is configured twice; list all its targets in one table")
        seen.add(plain)
        if not database and any(target.countries for target in one.target):
            raise ValueError(f"balance: {one.name!r} has countries, which need policy.geo-database")
