"""A small Internet made from a seed, signed by a model that knows what is true in it.

A `World` is a tree of zones under a signed root. Each zone has a `Fate`: what its parent says about it and how it is
signed. From the fates of a zone and its ancestors follows its security status, which is the truth that answers are
held against (`truth.py`). Signatures are made by `SimulatedKey`, a keyed hash in the place of public-key cryptography:
whoever has no key object cannot sign, and a check costs a microsecond. Everything follows from the seed; no clock,
no socket, no other source of randomness.
"""

import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cache

from resolver.playground.signing import Draft, Key, KeySpec, Nsec3, Plan, ds_rdata
from resolver.playground.zones import Lookup, Zone
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["Fate", "SimulatedCrypto", "SimulatedKey", "Site", "World", "root_anchor"]

ECDSAP256 = 13
UNKNOWN_ALGORITHM = 200
HOUR, DAY = 3600, 86400
LABELS = (b"a", b"b", b"c", b"d", b"*")
TTLS = (60, 300, HOUR, DAY)
TYPES = (c.A, c.TXT, c.MX, c.TLSA)
EVIL = names.from_text("evil.")
MALLORY = names.from_text("mallory.")


class Fate(Enum):
    """What a zone is to a validator, when its parent is secure."""

    SECURE = "signed, with DS"
    UNSIGNED = "not signed, no DS"
    ISLAND = "signed, no DS"
    UNKNOWN = "signed, DS and keys of an algorithm that nobody knows"
    EXPIRED = "signed, with DS, but the signatures are over"
    WRONG_DS = "signed, but the DS is of another key"
    STRIPPED = "with DS, but not signed"


INSECURE_FATES = frozenset((Fate.UNSIGNED, Fate.ISLAND, Fate.UNKNOWN))
BOGUS_FATES = frozenset((Fate.EXPIRED, Fate.WRONG_DS, Fate.STRIPPED))
FATES = (Fate.SECURE,) * 6 + (Fate.UNSIGNED,) * 3 + tuple(INSECURE_FATES - {Fate.UNSIGNED}) + tuple(BOGUS_FATES)


class SimulatedKey(Key):
    """A key whose signature is a hash over the key and the data, as long as one of ECDSA P-256."""

    __slots__ = ()

    def __init__(self, zone: bytes, spec: KeySpec) -> None:
        self.zone = zone
        self.spec = spec
        self.algorithm = spec.algorithm
        public = hashlib.sha512(b"%s|%d|%s" % (zone, spec.algorithm, spec.label.encode())).digest()
        self.rdata = struct.pack("!HBB", spec.flags, spec.protocol, spec.algorithm) + public

    def sign(self, data: bytes) -> bytes:
        return signature_of(self.rdata[4:], data)


def signature_of(public: bytes, data: bytes) -> bytes:
    """The only signature over `data` that is right for the key `public`."""
    return hashlib.sha512(b"simulated signature" + public + data).digest()


class SimulatedCrypto:
    """Checks the signatures of `SimulatedKey` in place of the resolver's own cryptography, and counts them."""

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
    """One zone of a world: its records, who serves it and what is true of it."""

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
    """Its operator holds its keys and lies: nothing in it is true or false."""

    @property
    def origin(self) -> bytes:
        return self.zone.origin

    @property
    def opt_out(self) -> bool:
        return self.chain is not None and self.chain.opt_out

    @property
    def line(self) -> Iterator["Site"]:
        """The zone and its ancestors, upwards."""
        site: Site | None = self
        while site is not None:
            yield site
            site = site.parent

    def fate_from_root(self) -> Fate:
        """The first fate on the way from the root that is not `Fate.SECURE`, else that."""
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
        """What the zone of `name` truly says."""
        site = self.site_of(name, qtype)
        return site, site.zone.lookup(name, qtype)

    def interesting_names(self) -> list[bytes]:
        """Names that are worth asking for: owners, their neighbours, what is below them, and apexes."""
        found: dict[bytes, None] = {}
        for site in self.sites.values():
            for owner in site.zone.nodes:
                found[owner] = None
                if len(owner) < 200:
                    found[names.prepend(b"x", owner)] = None
                    found[names.prepend(b"a", names.prepend(b"b", owner))] = None
        return list(found)


class _Maker:
    """Makes one world; every choice comes from one generator."""

    def __init__(self, seed: int, now: int) -> None:
        self.rng = random.Random(f"world {seed}")
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
        for origin, parent in origins:
            if parent is not None:
                self._delegate(self.world.sites[origin], self.world.sites[parent])
        for origin in every:
            self._sign(self.world.sites[origin])
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
        """An address of its own, or now and then the parent's: then one server answers on both sides of the cut."""
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
            site.begins = now - DAY
            # Some end soon: what is kept of them must not outlive them.
            site.ends = now + (rng.choice((200, 900, 5000)) if rng.random() < 0.3 and above is not None else 90 * DAY)
            if fate is Fate.EXPIRED:
                site.begins, site.ends = now - 9 * DAY, now - 3 * DAY
        self.world.sites[origin] = site

    def _records(self, origin: bytes, every: list[bytes]) -> list[RRset]:
        """Random data: addresses, texts, aliases into any zone, wildcards and renamed subtrees."""
        rng = self.rng
        found: list[RRset] = []
        closed: set[bytes] = set()
        owners = {
            names.from_labels([rng.choice(LABELS), *rng.choices(LABELS[:4], k=rng.choice((0, 0, 1)))])[:-1] + origin
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
            told = [ds_rdata(site.origin, key.rdata) for key in keys if key.entry]
            added.append(RRset(site.origin, c.DS, self.rng.choice(TTLS[1:]), told))
        parent.zone = Zone(zone.origin, [*zone, *added])

    def _sign(self, site: Site) -> None:
        if not site.keys:
            return
        now = self.world.now
        plan = Plan(nsec3=site.chain, begins=site.begins - now, ends=site.ends - now)
        draft = Draft(site.zone, plan, now, lambda _origin: site.keys)
        draft.complete()


def _server(origin: bytes, number: int) -> bytes:
    return names.prepend(b"ns%d" % number, origin)


def _packed(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))


def _soa(origin: bytes, minimum: int) -> bytes:
    numbers = struct.pack("!5I", 1, 1800, 900, DAY, minimum)
    return names.prepend(b"ns0", origin) + names.prepend(b"host", origin) + numbers
