"""Typed settings of the library and the daemon: frozen dataclasses with a default and a description for each field.

Each module has the sections of one subject, and `Settings` has them all, with the checks across sections. Nothing here
reads a file, a clock or the environment. `resolver.daemon.config` turns a TOML file into these classes and
`resolver.api.Resolver` takes them directly. Names and addresses are text, because this module is below `resolver.wire`
in the layers; their users convert them to wire form once, at start. `resolver.options.option` declares a field. Its
description is the only source of ``resolverd --print-config`` and docs/resolverd-options.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import NamedTuple

from resolver import hints, limits
from resolver.options import check_addresses, check_names, option, parse_endpoint
from resolver.settings.balance import BalanceSettings, TargetSettings, check_balances
from resolver.settings.cache import CacheSettings
from resolver.settings.dnssec import DnssecSettings
from resolver.settings.iteration import IterationSettings
from resolver.settings.listeners import LISTENER_PORTS, LISTENER_TRANSPORTS, ListenerSettings, TlsSettings
from resolver.settings.lists import ListSettings, RpzSettings, check_lists
from resolver.settings.management import ControlSettings, LogSettings, MetricsSettings
from resolver.settings.observe import DnstapSettings, QueryLogSettings, WebSettings
from resolver.settings.policy import ALL_LISTS, HostEntry, PolicySettings
from resolver.settings.quotas import FetchLimitSettings, RateLimitSettings
from resolver.settings.second_level import SecondLevelSettings
from resolver.settings.server import ServerSettings
from resolver.settings.subnet import SubnetSettings
from resolver.settings.upstreams import ForwardZone, RootServer, StubZone, check_upstream_zones
from resolver.settings.views import ViewSettings
from resolver.settings.zones import POLICY, ROOT_PRIMARIES, TsigKey, ZoneSettings, ZonesSettings

__all__ = [
    "LISTENER_PORTS",
    "LISTENER_TRANSPORTS",
    "BalanceSettings",
    "CacheSettings",
    "ControlSettings",
    "DnssecSettings",
    "DnstapSettings",
    "FetchLimitSettings",
    "ForwardZone",
    "HostEntry",
    "IterationSettings",
    "ListSettings",
    "ListenerSettings",
    "LogSettings",
    "MetricsSettings",
    "PolicySettings",
    "QueryLogSettings",
    "RateLimitSettings",
    "RootServer",
    "RpzSettings",
    "SecondLevelSettings",
    "ServerSettings",
    "Settings",
    "StubZone",
    "SubnetSettings",
    "TargetSettings",
    "TlsSettings",
    "TsigKey",
    "ViewSettings",
    "WebSettings",
    "ZoneSettings",
    "ZonesSettings",
    "replace",
]


class Socket(NamedTuple):
    """A listening socket of a configuration. `setting` begins the text of an error, `shown` names it within one.

    `is_shared`: it is one of TCP, and each worker has one, with SO_REUSEPORT. Two such sockets can listen on one port,
    one on all addresses and one on a single address, which then gets the connections to that address. Without it, Linux
    refuses the second `listen`, and of UDP the second `bind`.
    """

    setting: str
    shown: str
    text: str
    host: str
    port: int
    transport: str
    is_shared: bool

    @property
    def place(self) -> str:
        """The address that is bound: without the interface, which Linux ignores except for link-local addresses."""
        address = ip_address(self.host)
        return str(address) if address.is_link_local else str(address).partition("%")[0]

    @property
    def is_wildcard(self) -> bool:
        """Whether it has all addresses of its version. An IPv6 socket serves no IPv4 (IPV6_V6ONLY)."""
        return ip_address(self.host).is_unspecified


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Equal values behave equally; a reload replaces the whole object."""

    server: ServerSettings = field(
        default_factory=ServerSettings, metadata={"doc": "Listeners, limits for clients, and the form of replies."}
    )
    tls: TlsSettings = field(
        default_factory=TlsSettings, metadata={"doc": "Certificates of the listeners with TLS."}
    )
    cache: CacheSettings = field(
        default_factory=CacheSettings, metadata={"doc": "Size of the cache, and bounds of the TTLs."}
    )
    second_level_cache: SecondLevelSettings = field(
        default_factory=SecondLevelSettings, metadata={"doc": "The cache in Redis or Valkey that resolvers share."}
    )
    client_subnet: SubnetSettings = field(
        default_factory=SubnetSettings,
        metadata={"doc": "A part of the client's address in queries to servers that choose answers by it (RFC 7871)."},
    )
    iteration: IterationSettings = field(
        default_factory=IterationSettings, metadata={"doc": "Iteration, and queries to upstream servers."}
    )
    dnssec: DnssecSettings = field(
        default_factory=DnssecSettings, metadata={"doc": "DNSSEC validation and trust anchors."}
    )
    policy: PolicySettings = field(
        default_factory=PolicySettings, metadata={"doc": "Access control, local answers and rewriting of answers."}
    )
    rate_limit: RateLimitSettings = field(
        default_factory=RateLimitSettings,
        metadata={"doc": "Limits of the queries of each client prefix, and of the replies to it."},
    )
    fetch_limit: FetchLimitSettings = field(
        default_factory=FetchLimitSettings,
        metadata={"doc": "Limits of the queries to servers that may be outstanding."},
    )
    zones: ZonesSettings = field(
        default_factory=ZonesSettings, metadata={"doc": "What concerns all zones of which this server has a copy."}
    )
    control: ControlSettings = field(
        default_factory=ControlSettings, metadata={"doc": "The control channel of resolverctl."}
    )
    metrics: MetricsSettings = field(default_factory=MetricsSettings, metadata={"doc": "Metrics for Prometheus."})
    web: WebSettings = field(
        default_factory=WebSettings, metadata={"doc": "The web page that shows what the resolver does."}
    )
    log: LogSettings = field(default_factory=LogSettings, metadata={"doc": "The log on standard error."})
    query_log: QueryLogSettings = field(
        default_factory=QueryLogSettings, metadata={"doc": "The log of client queries: one line for each."}
    )
    dnstap: DnstapSettings = field(
        default_factory=DnstapSettings, metadata={"doc": "Messages for a collector, as dnstap over Frame Streams."}
    )
    root_hints: tuple[RootServer, ...] = option(
        tuple(RootServer(name, addresses) for name, addresses in hints.ROOT_SERVERS),
        "Root servers to start with (RFC 9609). A list given here replaces the built-in one.",
    )
    forward: tuple[ForwardZone, ...] = option((), "Zones whose queries are forwarded to other recursive resolvers.")
    stub: tuple[StubZone, ...] = option((), "Zones that are resolved with configured authoritative servers.")
    listener: tuple[ListenerSettings, ...] = option(
        (), "Addresses served besides server.listen, each with its protocol, access list and limits."
    )
    balance: tuple[BalanceSettings, ...] = option(
        (), "Names whose addresses are chosen for each client, without those of failed servers."
    )
    list: tuple[ListSettings, ...] = option((), "Block and allow lists. The first block list with the name decides.")
    rpz: tuple[RpzSettings, ...] = option((), "Response policy zones, in the order of their precedence.")
    view: tuple[ViewSettings, ...] = option(
        (), "Views: groups of clients that get other answers than those of policy. The first that fits is taken."
    )
    zone: tuple[ZoneSettings, ...] = option((), "Zones of which this server has a copy: from a file or by transfers.")
    tsig_key: tuple[TsigKey, ...] = option(
        (), "Keys for signed transfers, NOTIFY messages and client queries (RFC 8945)."
    )

    def __post_init__(self) -> None:
        if not self.root_hints and "." not in self.configured_zones:
            raise ValueError(
                'root_hints: the list is empty and no forward or stub zone "." replaces it; nothing can be resolved'
            )
        for name, addresses in self.root_hints:
            check_names((name,), "root_hints")
            check_addresses(tuple(addresses), f"root_hints {name}")
        check_upstream_zones((*self.forward, *self.stub), ())
        if self.second_level_cache.servers and not self.dnssec.active:
            raise ValueError("second_level_cache.servers: validation is off (dnssec.enabled, dnssec.trust-anchors), and"
                             " only validated data are shared")
        check_lists(self.list, self.rpz)
        check_balances(self.balance, self.policy.geo_database)
        self._check_listeners()
        self._check_zones()
        self._check_views()
        self._check_list_names()

    def _check_views(self) -> None:
        if len(self.view) > limits.VIEWS:
            raise ValueError(f"view: more than {limits.VIEWS} views")
        if len({name for view in self.view for name in view.key_names}) > limits.VIEW_KEYS:
            raise ValueError(f"view: more than {limits.VIEW_KEYS} keys are named")
        if sum(view.has_own_servers for view in self.view) > limits.VIEW_PARTS:
            raise ValueError(f"view: more than {limits.VIEW_PARTS} views have forward zones, stub zones or negative"
                             " trust anchors of their own")
        seen: set[str] = set()
        for view in self.view:
            if view.name.lower() in seen:
                raise ValueError(f"view: {view.name!r} is the name of two views")
            seen.add(view.name.lower())
            try:
                check_upstream_zones(view.upstream_zones, self.configured_zones)
            except ValueError as error:
                raise ValueError(f"view: {error} (view {view.name!r})") from None
            for text in view.keys:
                if text.removesuffix(".").lower() not in self._key_names:
                    raise ValueError(f"view: {text!r} is not the name of a [[tsig-key]] (view {view.name!r})")
            for text in view.listeners:
                if not any(replace(view, listeners=(text,), transports=(), keys=()).serves(listener, "udp")
                           for listener in self.listeners):
                    raise ValueError(f"view: {text!r} is no served address; those are in server.listen and [[listener]]"
                                     f" (view {view.name!r})")
        for name in self.query_log.views:
            if name not in (view.name for view in self.view):
                raise ValueError(f"query_log.views: {name!r} is not the name of a [[view]]")

    def _check_list_names(self) -> None:
        known = self._list_names
        used: set[str] = set()
        for where, given in (("policy", self.policy.lists), *((f"view {one.name!r}", one.lists) for one in self.view)):
            for name in given:
                if name not in known and name != ALL_LISTS:
                    raise ValueError(f"{where}: lists: {name!r} is not the name of a [[list]] or [[rpz]]")
            used.update(known if ALL_LISTS in given and where == "policy" else given)
        if known - used:
            raise ValueError(f"list: {min(known - used)!r} is used by no view; it is neither in policy.lists nor in"
                             " lists of a [[view]]")

    def lists_of(self, number: int) -> frozenset[str]:
        """The names of the lists and response policy zones of the view `number`; 0: those of clients in no view."""
        found = set(self.policy.lists)
        if ALL_LISTS in found:
            found.update(self._list_names)
        if number:
            own = set(self.view[number - 1].lists)
            found = own | found if ALL_LISTS in own else own
        return frozenset(found - {ALL_LISTS})

    @property
    def _list_names(self) -> frozenset[str]:
        return frozenset([*(one.name for one in self.list), *(one.name for one in self.rpz)])

    @property
    def _key_names(self) -> Sequence[str]:
        return [key.name.removesuffix(".").lower() for key in self.tsig_key]

    def _check_zones(self) -> None:
        if len(self.zone) > limits.ZONES:
            raise ValueError(f"zone: more than {limits.ZONES} zones are configured")
        keys = self._key_names
        for name in keys:
            if keys.count(name) > 1:
                raise ValueError(f"tsig_key: the key {name!r} is configured twice")
        seen: dict[str, str] = {}
        for zone in self.own_zones:
            if zone.mode == POLICY and zone in self.zone:
                raise ValueError(f"zone: {POLICY!r} is the mode of [[rpz]] tables with primaries; write it as one")
            plain = zone.name.removesuffix(".").lower()
            if POLICY in (seen.get(plain), zone.mode) and plain in seen:
                raise ValueError(f"rpz: {zone.name!r} is also the name of another zone; clients get no answers from a"
                                 " policy zone")
            if plain in seen:
                raise ValueError(f"zone: {zone.name!r} is configured twice")
            seen[plain] = zone.mode
            for setting in (zone.key, zone.transfer_key):
                if setting and setting.removesuffix(".").lower() not in keys:
                    where = "rpz" if zone.mode == POLICY else "zone"
                    raise ValueError(f"{where}: {setting!r} is not the name of a [[tsig-key]]")
            # The root zone is transferred again after a restart; with several workers, all read what the first writes.
            needed = zone in self.zone or zone.mode == POLICY or self.server.workers > 1
            if zone.primaries and needed and not self.zones.directory:
                raise ValueError(f"zones.directory: it is empty, but {zone.name!r} has primaries; name a directory for"
                                 " the copies of transferred zones")

    def _check_listeners(self) -> None:
        if not self.listeners:
            raise ValueError("server.listen: the list is empty and there is no [[listener]]; give at least one address")
        if len(self.listeners) > limits.LISTENERS:
            raise ValueError(f"listener: more than {limits.LISTENERS} addresses are served")
        for listener in self.listeners:
            if listener.protocol != "dns" and not self.tls.certificate:
                raise ValueError(
                    f"listener: {listener.address!r} has protocol {listener.protocol}, which needs tls.certificate and"
                    " tls.key"
                )
        for one, other in self._same_port():
            if one.place == other.place:
                raise ValueError(f"{one.setting}: {one.text!r} is the address and port of {other.shown}")

    def check_bindable(self) -> None:
        """Check that the listening addresses do not conflict when the daemon opens the sockets. Sockets that a service
        manager has opened may have other options, so this is no condition of the settings.

        Raises:
            ValueError: an address takes the port of another one; the text names the settings.
        """
        for one, other in self._same_port():
            if (one.is_wildcard or other.is_wildcard) and not (one.is_shared and other.is_shared):
                whole = one if one.is_wildcard else other
                raise ValueError(
                    f"{one.setting}: {one.text!r} cannot be served beside {other.text!r} ({other.shown}):"
                    f" {whole.host} takes {one.transport.upper()} port {one.port} of all addresses; remove one of"
                    " the two"
                )

    def _same_port(self) -> "Iterator[tuple[Socket, Socket]]":
        """Pairs of listening sockets of one IP version, port and transport; others cannot conflict."""
        opened: dict[tuple[int, int, str], list[Socket]] = {}
        for one in self._sockets():
            if one.port:  # for 0 the system chooses a free port
                others = opened.setdefault((ip_address(one.host).version, one.port, one.transport), [])
                for other in others:
                    yield one, other
                others.append(one)

    def _sockets(self) -> "Iterator[Socket]":
        """The listening sockets for the Internet, as one worker opens them."""
        own = len(self.server.listen)
        for number, listener in enumerate(self.listeners):
            setting, shown = "server.listen", "an entry of server.listen"
            if number >= own:
                setting, shown = "listener", f"listener[{number - own}]"
            for transport in LISTENER_TRANSPORTS[listener.protocol]:
                # UDP sockets are opened without SO_REUSEPORT first, so that they fail when another one is there.
                shared = transport == "tcp" and self.server.workers > 1
                yield Socket(setting, shown, listener.address, *listener.endpoint, transport, shared)
        for section, text, port in (("metrics", self.metrics.listen, limits.METRICS_PORT),
                                    ("web", self.web.listen, limits.WEB_PORT)):
            if text:
                setting = f"{section}.listen"
                yield Socket(setting, setting, text, *parse_endpoint(text, port, setting), "tcp", False)

    @property
    def listeners(self) -> tuple[ListenerSettings, ...]:
        """All served addresses: those of `server.listen`, then the [[listener]] tables."""
        return (*(ListenerSettings(address=text) for text in self.server.listen), *self.listener)

    @property
    def freebound(self) -> frozenset[tuple[str, int, str]]:
        """The keys of the listeners that are bound also when this host does not have their address."""
        return frozenset(one.key for one in self.listeners if one.freebind or self.server.freebind)

    @property
    def own_zones(self) -> tuple[ZoneSettings, ...]:
        """The zones of which this server has a copy: the [[zone]] tables, the response policy zones that are
        transferred, and the root zone if it is local."""
        policy = (one.transferred for one in self.rpz)
        found = (*self.zone, *(zone for zone in policy if zone is not None))
        if self.zones.root != "local":
            return found
        return (*found, ZoneSettings(name=".", primaries=ROOT_PRIMARIES, mode="delegations", zonemd="if-present"))

    @property
    def upstream_zones(self) -> tuple[ForwardZone | StubZone, ...]:
        """The forward and stub zones, also those of views."""
        return (*self.forward, *self.stub, *(zone for view in self.view for zone in view.upstream_zones))

    @property
    def configured_zones(self) -> tuple[str, ...]:
        """Names of the forward and stub zones that all views have."""
        return (*(zone.zone for zone in self.forward), *(zone.zone for zone in self.stub))
