"""A small Internet made from a seed, with a model that knows its true data.

A `World` is a tree of zones under a signed root. Each zone has a `Fate`: how it is signed and what its parent has for
it. The fates of a zone and its ancestors determine its security status, which answers are checked against (`truth.py`).
Signatures are made by `SimulatedKey`, a keyed hash instead of public-key cryptography: only the owner of the key object
can sign, and a check takes a microsecond. Everything follows from the seed; there is no clock, no socket and no other
randomness.

The zone `mallory.` belongs to an attacker who has its keys. In some worlds it is a `Trap`: everything in it is signed
correctly and is made to cost a validator as much as possible.
"""

import hashlib
import random
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from itertools import pairwise

from support.wire_names import from_labels

from resolver import limits
from resolver.playground.signing import Draft, Key, KeySpec, Nsec3, Plan, ds_rdata, nsec3_digest
from resolver.playground.zones import Lookup, Zone
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["Fate", "SimulatedCrypto", "SimulatedKey", "Site", "Trap", "World", "root_anchor"]

ECDSAP256 = 13
UNKNOWN_ALGORITHM = 200
HOUR, DAY = 3600, 86400
LABELS = (b"a", b"b", b"c", b"d", b"*")
DEEP = 8
"""Names with more labels belong to a trap."""
TTLS = (60, 300, HOUR, DAY)
TYPES = (c.A, c.TXT, c.MX, c.TLSA)
EVIL = names.from_text("evil.")
MALLORY = names.from_text("mallory.")
TRAPPED_WORLDS = 0.15
OPTED_OUT_WORLDS = SHADOWED_WORLDS = 0.1
HOME_WORLDS = 0.15
HOME = b"\x0a\x06\x06"
"""The clients' own network, 10.6.6.0/24. No other data of a world contains these octets."""
MOST_SALTS = 40
SPANS = 4
DEEPEST = 60
"""Labels of the deepest name of a trap; a DS is queried for each of them."""
TWINS = (1, 1, 2, 6)
WRONG_SIGNATURES = 3
"""Wrong signatures before each right one. With two keys for each, a validator checks at most this many for a set."""


COSTLY_WORLDS = 0.15
COSTLY_ITERATIONS = tuple(limits.NSEC3_ITERATIONS.default + more for more in (1, 50, 450, 2450))
"""More iterations than are followed (RFC 9276 section 3.2)."""
TREE_WORLDS = 0.1
TREE_DEPTH = limits.MAX_DEPTH + 2
TREE_BREADTH = limits.ADDRESS_LOOKUPS


class Fate(Enum):
    """How a zone is signed, when its parent is secure."""

    SECURE = "signed, with DS"
    UNSIGNED = "not signed, no DS"
    ISLAND = "signed, no DS"
    UNKNOWN = "signed, DS and keys of an unknown algorithm"
    EXPIRED = "signed, with DS, but the signatures have expired"
    WRONG_DS = "signed, but the DS is of another key"
    STRIPPED = "with DS, but not signed"


class Trap(Enum):
    """How the attacker's zone costs work."""

    HASHES = "a deep tree of names, hashed with the maximum of iterations, with unsigned data at its end"
    CHECKS = "keys of one tag, wrong signatures before each right one, and a chain of aliases (KeyTrap)"
    TREE = "zones whose name servers are in one another, without addresses (NXNSAttack, CAMP)"


INSECURE_FATES = frozenset((Fate.UNSIGNED, Fate.ISLAND, Fate.UNKNOWN))
BOGUS_FATES = frozenset((Fate.EXPIRED, Fate.WRONG_DS, Fate.STRIPPED))
FATES = (Fate.SECURE,) * 6 + (Fate.UNSIGNED,) * 3 + tuple(INSECURE_FATES - {Fate.UNSIGNED}) + tuple(BOGUS_FATES)


class SimulatedKey(Key):
    """A key whose signature is a hash of key and data, as long as one of ECDSA P-256."""

    __slots__ = ()

    def __init__(self, zone: bytes, spec: KeySpec, turn: int = 0) -> None:
        """`turn` makes another key with the same tag, which is a sum of words (RFC 4034 appendix B)."""
        self.zone = zone
        self.spec = spec
        self.algorithm = spec.algorithm
        public = hashlib.sha512(b"%s|%d|%s" % (zone, spec.algorithm, spec.label.encode())).digest()
        public = public[2 * turn :] + public[: 2 * turn]
        self.rdata = struct.pack("!HBB", spec.flags, spec.protocol, spec.algorithm) + public

    def sign(self, data: bytes) -> bytes:
        return signature_of(self.rdata[4:], data)


def signature_of(public: bytes, data: bytes) -> bytes:
    """The only valid signature over `data` by the key `public`."""
    return hashlib.sha512(b"simulated signature" + public + data).digest()


class SimulatedCrypto:
    """Verifies the signatures of `SimulatedKey` instead of the resolver's cryptography, and counts them."""

    def __init__(self) -> None:
        self.checked = 0

    def verify(self, jobs: list, on_done: Callable[[list[bool]], None]) -> None:
        self.checked += len(jobs)
        on_done([job.signature == signature_of(job.key, job.data) for job in jobs])


@cache
def root_key() -> SimulatedKey:
    return SimulatedKey(names.ROOT, KeySpec())


@cache
def root_anchor() -> str:
    """The trust anchor of every world, as text."""
    ds = ds_rdata(names.ROOT, root_key().rdata)
    return ". IN DS {} {} {} {}".format(*struct.unpack("!HBB", ds[:4]), ds[4:].hex())


@dataclass
class Site:
    """One zone of a world: its records, its servers and its true status."""

    zone: Zone
    fate: Fate
    parent: "Site | None"
    addresses: tuple[str, ...]
    keys: tuple[SimulatedKey, ...] = ()
    chain: Nsec3 | None = None
    begins: int = 0
    ends: int = 0
    """Validity of all signatures of the zone, seconds since the epoch."""
    dishonest: bool = False
    """Its operator has its keys and lies: no statement about it is true or false."""
    trap: Trap | None = None
    """How it costs work; resolution of its names may give up."""

    @property
    def origin(self) -> bytes:
        return self.zone.origin

    @property
    def opt_out(self) -> bool:
        return self.chain is not None and self.chain.opt_out

    @property
    def costly(self) -> bool:
        """Whether its denials need more iterations than are followed."""
        return self.chain is not None and self.chain.iterations > limits.NSEC3_ITERATIONS.default

    @property
    def signer(self) -> SimulatedKey:
        """The key that signs its data; only for a zone with keys."""
        return next(key for key in reversed(self.keys) if key.spec.signs)

    @property
    def line(self) -> Iterator["Site"]:
        """The zone and its ancestors, upwards."""
        site: Site | None = self
        while site is not None:
            yield site
            site = site.parent

    def fate_from_root(self) -> Fate:
        """The first fate from the root downwards that is not `Fate.SECURE`, else `Fate.SECURE`."""
        found = Fate.SECURE
        for site in self.line:
            if site.fate is not Fate.SECURE:
                found = site.fate
        return found


@dataclass
class World:
    """All zones, by origin."""

    seed: int
    now: int
    sites: dict[bytes, Site] = field(default_factory=dict)
    baits: list[tuple[bytes, int]] = field(default_factory=list)
    """Names and types whose queries lead into a trap."""
    prelude: list[tuple[bytes, int]] = field(default_factory=list)
    """Queries to send first, one after the other, because random ones would rarely lead there."""
    home: bool = False
    """Names of other zones have addresses in the clients' own network, which clients must not get (DNS rebinding)."""
    welcome: bytes = EVIL
    """The zone whose names may have them."""
    shown: dict[bytes, bytes | None] = field(default_factory=dict)
    """By rdata with such addresses: what a client gets instead, None for nothing."""

    @classmethod
    def make(cls, seed: int, now: int) -> "World":
        """The world of `seed`, signed as of `now` (seconds since the epoch)."""
        return _Maker(seed, now).make()

    @property
    def hosts(self) -> dict[str, list[Site]]:
        """The zones of each server address."""
        found: dict[str, list[Site]] = {}
        for site in self.sites.values():
            for address in site.addresses:
                found.setdefault(address, []).append(site)
        return found

    def site_of(self, name: bytes, qtype: int = c.A) -> Site:
        """The zone that is authoritative for `name`; a DS belongs to the parent (RFC 4035 section 3.1.4.1)."""
        key = names.lower(name)
        if qtype == c.DS and key in self.sites and key != names.ROOT:
            key = names.parent(key)
        while key not in self.sites:
            key = names.parent(key)
        return self.sites[key]

    def look_up(self, name: bytes, qtype: int) -> tuple[Site, Lookup]:
        """The true data of the zone of `name`."""
        site = self.site_of(name, qtype)
        return site, site.zone.lookup(name, qtype)

    def interesting_names(self, sites: "list[Site] | None" = None) -> list[bytes]:
        """Names worth querying: owners, their neighbours, names below them, and apexes."""
        found: dict[bytes, None] = {}
        for site in self.sites.values() if sites is None else sites:
            for owner in site.zone.nodes:
                if names.label_count(owner) > DEEP:
                    continue
                found[owner] = None
                if len(owner) < 200:
                    found[names.prepend(b"x", owner)] = None
                    found[names.prepend(b"a", names.prepend(b"b", owner))] = None
        return list(found)


class _Maker:
    """Makes one world; all choices come from one generator."""

    def __init__(self, seed: int, now: int) -> None:
        self.rng = random.Random(f"world {seed}")
        self.evil = random.Random(f"trap {seed}")
        self.guest = random.Random(f"home {seed}")
        self.world = World(seed, now)
        self.free = 0

    def make(self) -> World:
        rng = self.rng
        origins: list[tuple[bytes, bytes | None]] = [(names.ROOT, None), (EVIL, names.ROOT), (MALLORY, names.ROOT)]
        for top in range(rng.randint(1, 2)):
            apex = names.prepend(b"t%d" % top, names.ROOT)
            origins.append((apex, names.ROOT))
            for second in range(rng.randint(1, 3)):
                below = names.prepend(b"z%d" % second, apex)
                origins.append((below, apex))
                if rng.random() < 0.4:
                    origins.append((names.prepend(b"y", below), below))
        every = [origin for origin, _ in origins]
        for origin, parent in origins:
            self._place(origin, parent, every)
        what = self.evil.random()
        if what < OPTED_OUT_WORLDS:
            self._opt_out()
        elif what < OPTED_OUT_WORLDS + SHADOWED_WORLDS:
            self._shadow()
        if self.guest.random() < HOME_WORLDS:
            self._point_home()
        for origin, parent in origins:
            if parent is not None:
                self._delegate(self.world.sites[origin], self.world.sites[parent])
        if what < OPTED_OUT_WORLDS:
            self._place_star()
        dear = random.Random(f"costly {self.world.seed}")
        if dear.random() < COSTLY_WORLDS:
            self._make_costly(dear)
        for origin in every:
            self._sign(self.world.sites[origin])
        if random.Random(f"tree {self.world.seed}").random() < TREE_WORLDS:
            self._plant_tree(self.world.sites[EVIL])
        return self.world

    def _fate(self, origin: bytes) -> Fate:
        if origin in (names.ROOT, MALLORY):
            return Fate.SECURE
        if origin == EVIL:
            return Fate.UNSIGNED
        if names.label_count(origin) == 1:
            return Fate.SECURE if self.rng.random() < 0.8 else self.rng.choice(FATES)
        return self.rng.choice(FATES)

    def _address(self, parent: Site | None) -> str:
        """A new address, or sometimes the parent's: then one server is authoritative on both sides of the cut."""
        if parent is not None and self.rng.random() < 0.2:
            return parent.addresses[0]
        self.free += 1
        return f"192.0.{self.free // 250 + 10}.{self.free % 250 + 1}"

    def _place(self, origin: bytes, parent: bytes | None, every: list[bytes]) -> None:
        rng = self.rng
        above = None if parent is None else self.world.sites[parent]
        addresses = tuple(dict.fromkeys(self._address(above) for _ in range(rng.randint(1, 2))))
        fate = self._fate(origin)
        rrsets = [
            RRset(origin, c.SOA, rng.choice(TTLS), [_soa(origin, rng.choice((60, 300, HOUR)))]),
            RRset(origin, c.NS, rng.choice(TTLS[1:]), [_server(origin, n) for n in range(len(addresses))]),
            *(RRset(_server(origin, n), c.A, HOUR, [_packed(address)]) for n, address in enumerate(addresses)),
        ]
        if origin != names.ROOT:
            rrsets += self._records(origin, every)
        now = self.world.now
        site = Site(Zone(origin, rrsets), fate, above, addresses, dishonest=origin == MALLORY)
        if fate not in (Fate.UNSIGNED, Fate.STRIPPED):
            algorithm = UNKNOWN_ALGORITHM if fate is Fate.UNKNOWN else ECDSAP256
            split = rng.random() < 0.3
            specs = [KeySpec(algorithm)] if not split else [KeySpec(algorithm), KeySpec(algorithm, 256, label="zsk")]
            site.keys = (root_key(),) if origin == names.ROOT else tuple(SimulatedKey(origin, spec) for spec in specs)
            site.chain = rng.choice((None, None, Nsec3(), Nsec3(3, b"\xab"), Nsec3(opt_out=True)))
            if origin == MALLORY and self.evil.random() < TRAPPED_WORLDS:
                self._set_trap(site, rrsets)
            site.begins = now - DAY
            # The signatures of some expire soon: cached data must not outlive them.
            site.ends = now + (rng.choice((200, 900, 5000)) if rng.random() < 0.3 and above is not None else 90 * DAY)
            if fate is Fate.EXPIRED:
                site.begins, site.ends = now - 9 * DAY, now - 3 * DAY
        self.world.sites[origin] = site

    def _set_trap(self, site: Site, rrsets: list[RRset]) -> None:
        """Make the attacker's zone a trap, and record the names that lead into it."""
        site.trap = self.evil.choice((Trap.HASHES, Trap.CHECKS))
        if site.trap is Trap.HASHES:
            site.chain = Nsec3(limits.NSEC3_ITERATIONS.default, self.evil.choice((b"", b"\xab")))
            name = site.origin
            for _ in range(self.evil.randint(DEEPEST * 3 // 4, DEEPEST)):
                name = names.prepend(b"d", name)
            rrsets.append(RRset(name, c.A, 300, [bytes((198, 51, 100, 1))]))
            self.world.baits.append((name, c.A))
        else:
            spec = KeySpec()
            twins = [SimulatedKey(site.origin, replace(spec, signs=False), turn)
                     for turn in range(1, 1 + self.evil.choice(TWINS))]
            site.keys = tuple(self.evil.sample([SimulatedKey(site.origin, spec), *twins], len(twins) + 1))
            chain = [names.prepend(b"c%d" % number, site.origin) for number in range(limits.MAX_ALIASES)]
            rrsets += [RRset(name, c.CNAME, 300, [target]) for name, target in pairwise(chain)]
            rrsets.append(RRset(chain[-1], c.A, 300, [bytes((198, 51, 100, 1))]))
            self.world.baits.append((chain[0], c.A))
        site.zone = Zone(site.origin, rrsets)

    def _plant_tree(self, site: Site) -> None:
        """Delegate to zones each of which has its name servers in the next one: each needs a sub-query, and soon
        none of them needs a packet."""
        site.trap = Trap.TREE
        zones = [names.prepend(b"tree%d" % number, site.origin) for number in range(TREE_DEPTH + 1)]
        cuts = [RRset(zone, c.NS, HOUR, [_server(below, number) for number in range(TREE_BREADTH)])
                for zone, below in pairwise(zones)]
        site.zone = Zone(site.origin, [*site.zone, *cuts])
        self.world.baits.append((names.prepend(b"x", zones[0]), c.A))

    def _opt_out(self) -> None:
        """Put an unsigned delegation next to a wildcard alias in an opt-out zone."""
        cuts = [site for site in self.world.sites.values()
                if site.fate in (Fate.UNSIGNED, Fate.ISLAND) and names.label_count(site.origin) > 1
                and site.parent is not None and site.parent.keys]
        if cuts:
            site = self.evil.choice(cuts)
            assert site.parent is not None
            site.parent.chain = Nsec3(opt_out=True)
            self._put(site.parent, RRset(names.wildcard(site.parent.origin), c.CNAME, 300,
                                         [names.prepend(b"a", site.parent.origin)]))
            self.world.prelude = [(site.origin, c.MX)]

    def _place_star(self) -> None:
        """Choose the salt of that zone so that the wildcard's NSEC3 covers the delegation."""
        if not self.world.prelude:
            return
        cut = self.world.prelude[0][0]
        above = self.world.sites[cut].parent
        assert above is not None
        zone, star = above.zone, names.wildcard(above.origin)
        kept = [owner for owner, node in zone.nodes.items()
                if (owner not in zone.cuts or c.DS in node)
                and not any(names.suffix(owner, depth) in zone.cuts for depth in range(1, names.label_count(owner)))]
        for number in range(MOST_SALTS):
            chain = Nsec3(0, bytes((number,)), opt_out=True)
            place = nsec3_digest(cut, chain)
            order = sorted(nsec3_digest(owner, chain) for owner in kept)
            if order[bisect_left(order, place) - 1] == nsec3_digest(star, chain):
                above.chain = chain
                return

    def _shadow(self) -> None:
        """A zone with a cached wildcard, and a parent with proofs that seem to cover its names."""
        cuts = [site for site in self.world.sites.values()
                if site.fate_from_root() is Fate.SECURE and site.parent is not None and not site.dishonest]
        if cuts:
            site = self.evil.choice(cuts)
            assert site.parent is not None
            site.parent.chain = Nsec3()
            star = names.wildcard(site.origin)
            self._put(site, RRset(star, c.A, HOUR, [bytes((198, 51, 100, 7))]))
            denied = [(names.prepend(b"n%d" % number, site.parent.origin), c.A) for number in range(SPANS)]
            self.world.prelude = [*denied, (star, c.A), (_server(site.origin, 0), c.A)]

    def _make_costly(self, rng: random.Random) -> None:
        """Hash some zones, and a hash trap, with more iterations than are followed."""
        if self.world.prelude:
            return  # the first queries there depend on the chains as they are
        sites = [site for site in self.world.sites.values() if site.keys and site.trap is not Trap.CHECKS]
        trapped = [site for site in sites if site.trap is Trap.HASHES]
        for site in trapped + rng.sample(sites, rng.randint(1, min(3, len(sites)))):
            site.chain = Nsec3(rng.choice(COSTLY_ITERATIONS), rng.choice((b"", b"\xab")), opt_out=rng.random() < 0.2)

    def _point_home(self) -> None:
        """Give some zones names with addresses of the clients' own network, in A records and in hints."""
        guest, world = self.guest, self.world
        world.home, world.welcome = True, guest.choice([origin for origin in world.sites if origin != names.ROOT])
        for site in world.sites.values():
            if site.parent is None or guest.random() < 0.3:
                continue
            owner = names.prepend(b"home", site.origin)
            addresses = guest.sample(_HOME_ADDRESSES + _FOREIGN_ADDRESSES, guest.randint(1, 3))
            world.shown |= {address: None for address in addresses if address in _HOME_ADDRESSES}
            services = []
            for priority in range(1, 1 + guest.randint(1, 2)):
                hints = guest.sample(_HOME_ADDRESSES + _FOREIGN_ADDRESSES, guest.randint(0, 3))
                mapped = guest.sample(_HOME_ADDRESSES + _FOREIGN_ADDRESSES, guest.randint(0, 2))
                mandatory = bool(hints) and guest.random() < 0.3
                rdata = _service(priority, hints, mapped, mandatory=mandatory)
                services.append(rdata)
                kept = [hint for hint in hints if hint in _FOREIGN_ADDRESSES]
                seen = _service(priority, kept, [hint for hint in mapped if hint in _FOREIGN_ADDRESSES],
                                mandatory=mandatory)
                world.shown[rdata] = None if mandatory and not kept else seen
            site.zone = Zone(site.origin, [*site.zone, RRset(owner, c.A, guest.choice(TTLS), addresses),
                                           RRset(owner, c.HTTPS, guest.choice(TTLS), services)])

    @staticmethod
    def _put(site: Site, rrset: RRset) -> None:
        """Replace everything at its owner by `rrset`."""
        site.zone = Zone(site.origin, [*(kept for kept in site.zone if kept.name != rrset.name), rrset])

    def _records(self, origin: bytes, every: list[bytes]) -> list[RRset]:
        """Random data: addresses, texts, aliases into any zone, wildcards and DNAMEs."""
        rng = self.rng
        found: list[RRset] = []
        closed: set[bytes] = set()
        owners = {
            from_labels([rng.choice(LABELS), *rng.choices(LABELS[:4], k=rng.choice((0, 0, 1)))])[:-1] + origin
            for _ in range(rng.randint(2, 7))
        }
        for owner in sorted(owners, key=lambda name: (len(name), name)):
            depths = range(names.label_count(origin), names.label_count(owner))
            if any(names.suffix(owner, depth) in closed for depth in depths):
                continue
            ttl = rng.choice(TTLS)
            what = rng.random()
            target = names.prepend(rng.choice((b"a", b"b", b"c", b"none")), rng.choice(every))
            if what < 0.25:
                found.append(RRset(owner, c.CNAME, ttl, [target]))
            elif what < 0.35 and not owner.startswith(b"\x01*"):
                found.append(RRset(owner, c.DNAME, ttl, [rng.choice(every[1:])]))
                closed.add(owner)
            else:
                for rtype in rng.sample(TYPES, rng.randint(1, 2)):
                    found.append(RRset(owner, rtype, ttl, self._rdatas(rtype, owner)))
        return found

    def _rdatas(self, rtype: int, owner: bytes) -> list[bytes]:
        number = self.rng.randrange(250)
        if rtype == c.A:
            return [bytes((198, 51, 100, number)), bytes((198, 51, 100, number + 1))][: self.rng.randint(1, 2)]
        if rtype == c.MX:
            return [b"\0\x0a" + owner]
        if rtype == c.TLSA:
            return [b"\3\1\1" + hashlib.sha256(b"%d" % number + owner).digest()]
        return [b"\x04t%03d" % number]

    def _delegate(self, site: Site, parent: Site) -> None:
        """Put NS, glue and DS of `site` into `parent`."""
        zone = parent.zone
        added = [
            RRset(site.origin, c.NS, self.rng.choice(TTLS[1:]), site.zone.nodes[site.origin][c.NS].rdatas()),
            *(zone_rrset for host in site.zone.nodes[site.origin][c.NS].targets()
              for zone_rrset in site.zone.addresses(host)),
        ]
        if site.fate not in (Fate.UNSIGNED, Fate.ISLAND):
            keys = site.keys or (SimulatedKey(site.origin, KeySpec()),)
            if site.fate is Fate.WRONG_DS:
                keys = (SimulatedKey(site.origin, KeySpec(label="another")),)
            published = [ds_rdata(site.origin, key.rdata) for key in keys if key.entry and key.spec.signs]
            added.append(RRset(site.origin, c.DS, self.rng.choice(TTLS[1:]), published))
        parent.zone = Zone(zone.origin, [*zone, *added])

    def _sign(self, site: Site) -> None:
        if not site.keys:
            return
        now = self.world.now
        plan = Plan(nsec3=site.chain, begins=site.begins - now, ends=site.ends - now)
        draft = Draft(site.zone, plan, now, lambda _origin: site.keys)
        draft.complete()
        zone = site.zone
        if site.trap is Trap.HASHES:
            (deepest, rtype), = self.world.baits
            zone.nodes[deepest][rtype] = zone.nodes[deepest][rtype].without_sigs()
        elif site.trap is Trap.CHECKS:
            for node in (*zone.nodes.values(), zone.nsec3):
                for key, rrset in node.items():
                    node[key] = rrset.with_sigs(with_wrong_signatures(rrset.sigs()))
            zone.soa = zone.nodes[zone.origin][c.SOA]


def with_wrong_signatures(sigs: list[bytes]) -> list[bytes]:
    """`sigs` after wrong ones that look like the first of them."""
    if not sigs:
        return []
    first, last = sigs[0][:-1], sigs[0][-1]
    return [*(first + bytes((last ^ number,)) for number in range(1, 1 + WRONG_SIGNATURES)), *sigs]


_HOME_ADDRESSES = [HOME + bytes((number,)) for number in (1, 2, 3)]
_FOREIGN_ADDRESSES = [bytes((198, 51, 100, number)) for number in (4, 5, 6)]
_MAPPED = bytes(10) + b"\xff\xff"


def _service(priority: int, hints: list[bytes], mapped: list[bytes], *, mandatory: bool) -> bytes:
    """An HTTPS record (RFC 9460 section 2.2) with these addresses as IPv4 hints, and as IPv4-mapped IPv6 hints."""
    parameters = [(0, b"\0\4")] if mandatory else []
    parameters.append((1, b"\2h2"))
    parameters += [(4, b"".join(hints))] if hints else []
    parameters += [(6, b"".join(_MAPPED + hint for hint in mapped))] if mapped else []
    head = struct.pack("!HB", priority, 0)
    return head + b"".join(struct.pack("!HH", key, len(value)) + value for key, value in parameters)


def _server(origin: bytes, number: int) -> bytes:
    return names.prepend(b"ns%d" % number, origin)


def _packed(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))


def _soa(origin: bytes, minimum: int) -> bytes:
    numbers = struct.pack("!5I", 1, 1800, 900, DAY, minimum)
    return names.prepend(b"ns0", origin) + names.prepend(b"host", origin) + numbers
