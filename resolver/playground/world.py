"""Builds the simulated Internet: zones with delegations and glue, and one authority for each server address.

SOA, NS, glue and the parent side of zone cuts are derived from the tables of world_tables.py, so zones contradict each
other only where a table demands it. Building is pure and takes some milliseconds; serve.py binds the servers to
sockets, export.py writes them for real servers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resolver.playground import world_tables
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.playground.signing import Plan

__all__ = ["Server", "World"]

ZONE_TTL = 3600
SOA_NUMBERS = "2026010100 7200 900 1209600 300"
ABOUT_ZONE = "about.playground."


@dataclass(frozen=True, slots=True)
class Server:
    """One simulated name server: `zones` are the origins it serves, in the order of the tables."""

    name: str
    address: str
    listening: bool
    zones: tuple[str, ...]
    refuses: tuple[str, ...]
    """Origins whose NS RRset names this server although it does not serve them."""
    authority: Authority = field(repr=False)


class World:
    """A complete small DNS tree: `World()` is the playground; tests pass other tables."""

    def __init__(
        self,
        zones: Mapping[str, world_tables.ZoneSpec] = world_tables.ZONES,
        servers: Mapping[str, world_tables.ServerSpec] = world_tables.SERVERS,
        specials: Iterable[world_tables.TestQuestion] = world_tables.SPECIALS,
        *,
        plans: "Mapping[str, Plan] | None" = None,
        now: int = 0,
    ) -> None:
        """Build all zones and servers; zones with a plan are signed at the time `now`.

        Raises:
            ZoneError: a table has an invalid zone.
            ValueError: a zone names an unknown server, or the root zone is missing.
        """
        if "." not in zones:
            raise ValueError("a world needs a root zone")
        self.specials = tuple(specials)
        self._wires = {origin: names.lower(names.from_text(origin)) for origin in zones}
        texts = _Texts(zones, servers, self._wires, self.specials)
        self.zones: dict[str, Zone] = {origin: Zone.from_text(origin, texts.text(origin)) for origin in zones}
        self.trust_anchors: tuple[str, ...] = ()
        """DS records of the root in presentation format; empty in an unsigned world."""
        if plans is not None:
            # Imported here because the signing library is slow to import and many worlds are unsigned.
            from resolver.playground.signing import sign_world

            self.trust_anchors = sign_world(self.zones, plans, now)
        self.servers: dict[str, Server] = {}
        for name, spec in servers.items():
            served = tuple(origin for origin, zone in zones.items() if name in zone.servers)
            refused = tuple(origin for origin, zone in zones.items() if name in zone.lame)
            identity = name.rstrip(".").encode()
            known = (*served, ".") if spec.quirks.upward else served  # a referral to the root needs the root zone
            authority = Authority((self.zones[o] for o in known), quirks=spec.quirks, server_id=identity)
            self.servers[name] = Server(name, spec.address, spec.listening, served, refused, authority)
        self.authorities: dict[str, Authority] = {
            server.address: server.authority for server in self.servers.values() if server.listening
        }
        self.root_hints: list[tuple[bytes, list[str]]] = [
            (names.from_text(name), [servers[name].address]) for name in zones["."].servers
        ]

    def answer(self, address: str, packet: bytes, *, tcp: bool = False, source: str | None = None) -> bytes | None:
        """The reply of the server at `address`; None without a reply or a server."""
        authority = self.authorities.get(address)
        return None if authority is None else authority.answer(packet, tcp=tcp, source=source)

    def delay(self, address: str) -> float:
        """Seconds before the server at `address` replies."""
        authority = self.authorities.get(address)
        return 0.0 if authority is None else authority.quirks.delay

    def hints_text(self) -> str:
        """The root hints in zone file format."""
        lines = []
        for wire, addresses in self.root_hints:
            host = names.to_text(wire)
            lines.append(f".\t3600000\tNS\t{host}")
            lines += [f"{host}\t3600000\tA\t{address}" for address in addresses]
        return "\n".join(lines) + "\n"


class _Texts:
    """Zone file text of each zone, with the records derived from the tables."""

    def __init__(
        self,
        zones: Mapping[str, world_tables.ZoneSpec],
        servers: Mapping[str, world_tables.ServerSpec],
        wires: Mapping[str, bytes],
        specials: tuple[world_tables.TestQuestion, ...],
    ) -> None:
        self._zones = zones
        self._wires = wires
        self._by_wire = {wire: origin for origin, wire in wires.items()}
        for origin, spec in zones.items():
            unknown = {*spec.servers, *spec.lame} - servers.keys()
            if unknown:
                raise ValueError(f"zone {origin} names servers that do not exist: {', '.join(sorted(unknown))}")
        # An ordered set of lines for each zone, because two delegations may need the same glue.
        self._extra: dict[str, dict[str, None]] = {origin: {} for origin in zones}
        for name, server in servers.items():
            self._extra[self._home(name)][_address(name, server)] = None
        for origin in zones:
            if origin != ".":
                self._delegate(origin, servers)
        if ABOUT_ZONE in zones:
            for special in specials:
                owner = special.qname.removesuffix("playground.") or special.qname
                line = f'{owner}{ABOUT_ZONE} TXT "{special.about} ({special.outcome})"'
                self._extra[ABOUT_ZONE][line] = None

    def text(self, origin: str) -> str:
        spec = self._zones[origin]
        below = "" if origin == "." else origin
        lines = [f"$TTL {ZONE_TTL}", f"@ SOA {spec.servers[0]} hostmaster.{below} {SOA_NUMBERS}"]
        lines += [f"@ NS {server}" for server in (*spec.servers, *spec.lame)]
        lines += [f'@ TXT "{spec.about}"', spec.text, *self._extra[origin]]
        return "\n".join(lines) + "\n"

    def _home(self, name: str, *, proper: bool = False) -> str:
        """The origin of the zone that contains `name`; with `proper`, of the zone above the apex `name`."""
        wire = names.lower(names.from_text(name))
        for depth in range(names.label_count(wire) - proper, -1, -1):
            origin = self._by_wire.get(names.suffix(wire, depth))
            if origin is not None:
                return origin
        raise ValueError(f"no zone holds {name}")

    def _delegate(self, child: str, servers: Mapping[str, world_tables.ServerSpec]) -> None:
        parent = self._home(child, proper=True)
        spec = self._zones[child]
        lines = self._extra[parent]
        for name in (*spec.servers, *spec.lame):
            if name in spec.unlisted:
                continue
            lines[f"{child} NS {name}"] = None
            if servers[name].glue and names.is_subdomain(names.from_text(name), self._wires[parent]):
                lines[_address(name, servers[name])] = None


def _address(name: str, server: world_tables.ServerSpec) -> str:
    """The address record of a name server."""
    return f"{name} {'AAAA' if ':' in server.address else 'A'} {server.address}"
