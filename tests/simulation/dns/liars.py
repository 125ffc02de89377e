"""Name servers that lie: each of their replies may be changed by tricks, which the seed selects.

A liar has everything that its world publishes, including old signatures, and the keys of the dishonest zone only. So no
trick can create a signature of another zone, and validated data must stay true whatever a trick does. The trick depends
on the seed, the server, the question and how often it was queried, not on earlier events: leaving one query or one lie
out of a run does not change the others, which shrinking needs.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from simulation.dns.world import EVIL, HOME, MALLORY, Site, World

from resolver.effects import Ask
from resolver.playground.authority import Authority
from resolver.playground.signing import Draft, Plan, bitmap, rrsig_rdata
from resolver.playground.zones import Zone
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

__all__ = ["Forger", "Liar", "Lies"]

DAY = 86400
MOST_SIGNATURES = 60
SIGNATURE_SIZE = 64
MOST_PROOFS = 40
FORGED = b"\x06\x06\x06\x06"
FORGED_SERVICE = b"\0\1\0\0\4\0\4" + HOME + b"\x07"
"""An HTTPS record whose hint is an address in the clients' own network."""
LIMIT = 65535


@dataclass
class Said:
    """A reply that is being changed. `question` False omits the question section."""

    qname: bytes
    qtype: int
    rcode: int
    aa: bool
    answer: list[RRset]
    authority: list[RRset]
    additional: list[RRset]
    tc: bool = False
    question: bool = True
    lower: bool = False
    silent: bool = False


class Lies:
    """What all liars of a run share: the world, and the lies that are left out."""

    def __init__(
        self, world: World, *, share: float, without: frozenset[str] = frozenset(), bogus_only: bool = False
    ) -> None:
        """`share` of the replies are changed; `bogus_only` leaves only lies that validation detects."""
        self.bogus_only = bogus_only
        self.world = world
        self.share = share
        self.without = without
        self.played: dict[str, str] = {}
        """Each lie by its identity, with the names of its tricks, in order."""
        self.expired: dict[bytes, Zone] = {}

    def expired_zone(self, site: Site) -> Zone:
        """The zone as it was signed two weeks ago."""
        if site.origin not in self.expired:
            zone = Zone(site.origin, [rrset.without_sigs() for rrset in site.zone
                                      if rrset.rtype not in (c.NSEC, c.NSEC3, c.NSEC3PARAM, c.DNSKEY)])
            plan = Plan(nsec3=site.chain, begins=-14 * DAY, ends=-2 * DAY)
            Draft(zone, plan, self.world.now, lambda _origin: site.keys).complete()
            self.expired[site.origin] = zone
        return self.expired[site.origin]


@dataclass
class Liar:
    """The server at one address: takes and returns packets, as a host of the network."""

    lies: Lies
    address: str
    sites: list[Site]
    honest: Authority
    asked: dict[tuple[bytes, int, bool], int] = field(default_factory=dict)

    def __call__(self, packet: bytes, tcp: bool) -> bytes | None:
        reply = self.honest.answer(packet, tcp=tcp)
        query = MessageView.parse(packet)
        if reply is None or query.qname is None:
            return reply
        key = (names.lower(query.qname), query.qtype, tcp)
        count = self.asked[key] = self.asked.get(key, 0) + 1
        name = f"{self.address} {names.to_text(key[0])} {c.type_to_text(key[1])} {'tcp' if tcp else 'udp'} {count}"
        rng = random.Random(f"{self.lies.world.seed} {name}")
        if rng.random() >= self.lies.share or name in self.lies.without:
            return reply
        view = MessageView.parse(reply)
        said = Said(query.qname, query.qtype, view.rcode, view.aa, view.answer, view.authority, view.additional)
        fitting = TRICKS + (FOR_ANSWERS * 3 if said.answer else [])
        if any(site.dishonest for site in self.sites):
            # The operator signs everything correctly: the cost limits of validation are only reached there.
            fitting = fitting + OF_THE_ATTACKER * 3
        if self.lies.bogus_only:
            # Addresses of name servers are used without validation, so a wrong one is an outage.
            fitting = [trick for trick in BOGUS_MAKERS if said.qtype != c.A or trick is not _change_data]
        if said.qtype in (c.DS, c.DNSKEY) and not self.lies.bogus_only:
            fitting = fitting + FOR_SECURITY * 3
        chosen = rng.choices(fitting, k=rng.choice((1, 1, 1, 2, 3)))
        for trick in chosen:
            trick(said, self, rng)
        self.lies.played[name] = "+".join(trick.__name__.strip("_") for trick in chosen)
        return None if said.silent else _packet(query, said, tcp=tcp)


class Forger:
    """An off-path attacker. It has no server and sees no queries, and sends replies with one wrong part.

    The other parts may be guessed right, so each wrong part alone must be enough for the resolver to ignore the reply.
    """

    def __init__(self, lies: Lies) -> None:
        self.lies = lies
        self.sent: Counter[tuple[str, bytes, int]] = Counter()

    def __call__(self, ask: Ask, query: bytes) -> list[tuple[float, bytes]]:
        """Packets for one query over UDP, with the seconds after which they arrive."""
        place = (ask.server.address, names.lower(ask.qname), ask.qtype)
        self.sent[place] += 1
        name = f"forger {place[0]} {names.to_text(place[1])} {c.type_to_text(place[2])} {self.sent[place]}"
        rng = random.Random(f"{self.lies.world.seed} {name}")
        if rng.random() >= self.lies.share or name in self.lies.without:
            return []
        chosen = rng.choices(FLAWS, k=rng.choice((1, 1, 2, 4)))
        self.lies.played[name] = "+".join(flaw.__name__.strip("_") for flaw in chosen)
        packets = [flaw(MessageView.parse(query), rng) for flaw in chosen]
        return [(BEFORE_THE_SERVER, packet) for packet in packets if packet is not None]


BEFORE_THE_SERVER = 0.001
LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _as_reply(
    query: MessageView, rng: random.Random, *, identity: int | None = None, qname: bytes | None = None,
    qtype: int | None = None, qclass: int = c.IN, flags: int = c.QR, rcode: int = c.NOERROR, question: bool = True,
    data: bool = True,
) -> bytes:
    """A plausible reply of the server with the attacker's data, or with only an error."""
    builder = Builder(LIMIT)
    asked = (query.qname if qname is None else qname) or names.ROOT
    wanted = query.qtype if qtype is None else qtype
    builder.start(query.id if identity is None else identity, flags | c.AA | rcode, asked if question else None,
                  wanted, qclass)
    if data and rcode == c.NOERROR:
        builder.add(c.ANSWER, RRset(names.lower(asked), wanted, DAY, [_rdata(wanted)]), sigs=False)
    return builder.finish()


def _rdata(qtype: int) -> bytes:
    """The attacker's data for a type."""
    if qtype in (c.CNAME, c.DNAME, c.NS):
        return names.prepend(b"a", EVIL)
    return {c.SOA: EVIL + EVIL + bytes(20), c.AAAA: bytes(16), c.NSEC: EVIL + bitmap({c.A}), c.MX: b"\0\1" + EVIL,
            c.DS: b"\x12\x34\x0d\2" + bytes(32), c.DNSKEY: b"\1\1\3\x0d" + bytes(64),
            c.NSEC3PARAM: b"\1\0\0\0\0", c.HTTPS: FORGED_SERVICE, c.A: FORGED}.get(qtype, b"\4evil")


def _wrong_id(query: MessageView, rng: random.Random) -> bytes:
    return _as_reply(query, rng, identity=query.id ^ 1 << rng.randrange(16))


def _wrong_case(query: MessageView, rng: random.Random) -> bytes | None:
    """One letter of the question in the other case; None when it has no letters."""
    qname = bytearray(query.qname or b"\0")
    places = [place for place, octet in enumerate(qname) if octet in LETTERS]
    if not places:
        return None
    qname[rng.choice(places)] ^= 0x20
    return _as_reply(query, rng, qname=bytes(qname))


def _without_question(query: MessageView, rng: random.Random) -> bytes:
    return _as_reply(query, rng, question=False)


def _error_without_question(query: MessageView, rng: random.Random) -> bytes:
    return _as_reply(query, rng, question=False, rcode=rng.choice((c.SERVFAIL, c.REFUSED, c.FORMERR, c.NOTIMP)))


def _denial_without_question(query: MessageView, rng: random.Random) -> bytes:
    return _as_reply(query, rng, question=False, rcode=rng.choice((c.NXDOMAIN, c.NOERROR)), data=False)


def _other_name(query: MessageView, rng: random.Random) -> bytes:
    other = names.prepend(b"a", EVIL)
    if names.equal(other, query.qname or names.ROOT):
        other = names.prepend(b"b", EVIL)
    return _as_reply(query, rng, qname=other)


def _other_type(query: MessageView, rng: random.Random) -> bytes:
    return _as_reply(query, rng, qtype=c.TXT if query.qtype != c.TXT else c.A)


def _other_class(query: MessageView, rng: random.Random) -> bytes:
    return _as_reply(query, rng, qclass=c.CH)


def _no_reply(query: MessageView, rng: random.Random) -> bytes:
    return _as_reply(query, rng, flags=0)


def _other_opcode(query: MessageView, rng: random.Random) -> bytes:
    return _as_reply(query, rng, flags=c.QR | rng.choice((1, 2, 4, 5)) << 11)


def _cut_short(query: MessageView, rng: random.Random) -> bytes:
    packet = _as_reply(query, rng)
    return packet[: rng.randrange(min(len(packet), 12 + len(query.qname or b"") + 4))]


FLAWS: list[Callable[[MessageView, random.Random], bytes | None]] = [
    _wrong_id, _wrong_id, _wrong_case, _wrong_case, _without_question, _error_without_question,
    _denial_without_question, _other_name, _other_type, _other_class, _no_reply, _other_opcode, _cut_short,
]


def _packet(query: MessageView, said: Said, *, tcp: bool) -> bytes:
    flags = c.QR | query.flags & (c.RD | c.CD) | said.rcode & 15 | (c.AA if said.aa else 0)
    qname = (names.lower(said.qname) if said.lower else said.qname) if said.question else None
    for tries in range(2):
        builder = Builder(LIMIT if tcp else min(LIMIT, query.edns.payload if query.edns else 512), reserve_opt=11)
        builder.start(query.id, flags, qname, query.qtype, query.qclass)
        if said.tc or tries:
            builder.truncate()
            break
        parts = ((c.ANSWER, said.answer), (c.AUTHORITY, said.authority), (c.ADDITIONAL, said.additional))
        if all(builder.add(section, rrset, sigs=True) for section, rrsets in parts for rrset in rrsets):
            break
    if query.edns is not None:
        builder.opt(1232, do=query.edns.do)
    return builder.finish()


# --- material -----------------------------------------------------------------------------------------------------


def _any_name(liar: Liar, rng: random.Random) -> bytes:
    """An owner name in the world, preferably an apex."""
    world = liar.lies.world
    site = rng.choice(list(world.sites.values()))
    return site.origin if rng.random() < 0.4 else rng.choice(list(site.zone.nodes))


def _aliases(liar: Liar) -> list[RRset]:
    """All genuine aliases of the zones served here."""
    return [node[c.CNAME] for site in liar.sites for node in site.zone.nodes.values() if c.CNAME in node]


def _signatures(rrset: RRset, liar: Liar, rng: random.Random, *, signer: bytes | None = None) -> list[bytes]:
    """A signature that looks right, in any signer's name: with the key tag of a real key of the signer."""
    world = liar.lies.world
    above = names.parent(rrset.name) if len(rrset.name) > 1 else names.ROOT
    signer = names.lower(signer or rng.choice((world.site_of(rrset.name).origin, MALLORY, rrset.name, above,
                                               _any_name(liar, rng))))
    site = world.sites.get(signer)
    key = (site if site is not None and site.keys else world.sites[MALLORY]).signer
    try:
        rdata = rrsig_rdata(rrset, key, world.now - DAY, world.now + DAY, signer=signer)
    except ValueError:
        return []
    # The attacker has only the keys of mallory.
    return [rdata if key.zone == MALLORY else rdata[:-SIGNATURE_SIZE] + bytes(SIGNATURE_SIZE)]


def _forged(owner: bytes, qtype: int, liar: Liar, rng: random.Random) -> RRset:
    """Data that is in no zone."""
    if qtype == c.ANY:
        qtype = c.A
    if qtype in (c.CNAME, c.DNAME, c.NS):
        rdata = names.prepend(b"a", EVIL)
    elif qtype == c.SOA:
        rdata = EVIL + EVIL + bytes(20)
    elif qtype == c.AAAA:
        rdata = bytes(16)
    elif qtype == c.NSEC:
        rdata = EVIL + bitmap({c.A})
    elif qtype == c.NSEC3PARAM:
        rdata = b"\1\0\0\0\0"
    elif qtype == c.MX:
        rdata = b"\0\1" + EVIL
    elif qtype == c.DS:
        rdata = b"\x12\x34\x0d\2" + bytes(32)
    elif qtype == c.DNSKEY:
        rdata = liar.lies.world.sites[MALLORY].keys[0].rdata
    elif qtype in (c.TXT, c.TLSA):
        rdata = b"\4evil"
    elif qtype == c.HTTPS:
        rdata = FORGED_SERVICE
    elif liar.lies.world.home and rng.random() < 0.5:
        rdata = HOME + b"\x07"
    else:
        rdata = FORGED
    rrset = RRset(owner, qtype, rng.choice((0, 60, DAY, 2**31 - 1)), [rdata])
    return rrset.with_sigs(_signatures(rrset, liar, rng)) if rng.random() < 0.6 else rrset


def _genuine_denials(liar: Liar, rng: random.Random) -> list[RRset]:
    """NSEC and NSEC3 records of this server's zones, their children and parents, with genuine signatures."""
    world = liar.lies.world
    sites = [*liar.sites, *(site for site in world.sites.values() if site.parent in liar.sites)]
    sites += [site.parent for site in liar.sites if site.parent is not None]
    found = []
    for site in sites:
        found += [node[c.NSEC] for node in site.zone.nodes.values() if c.NSEC in node]
        found += list(site.zone.nsec3.values())
    return rng.sample(found, min(len(found), rng.randint(1, 6)))


# --- tricks -------------------------------------------------------------------------------------------------------


def _strip_signatures(said: Said, liar: Liar, rng: random.Random) -> None:
    said.answer = [rrset.without_sigs() for rrset in said.answer]
    if rng.random() < 0.5:
        said.authority = [rrset.without_sigs() for rrset in said.authority]


def _strip_security(said: Said, liar: Liar, rng: random.Random) -> None:
    """A signed delegation changed to an unsigned one."""
    said.authority = [rrset for rrset in said.authority if rrset.rtype not in (c.DS, c.NSEC, c.NSEC3)]


def _change_data(said: Said, liar: Liar, rng: random.Random) -> None:
    """Other rdata with the genuine signature."""
    for index, rrset in enumerate(said.answer):
        if rrset.rtype in (c.A, c.TXT, c.TLSA):
            forged = RRset(rrset.name, rrset.rtype, rrset.ttl, [FORGED if rrset.rtype == c.A else b"\4evil"])
            said.answer[index] = forged.with_sigs(rrset.sigs())


def _forge_answer(said: Said, liar: Liar, rng: random.Random) -> None:
    said.rcode, said.aa = c.NOERROR, True
    said.answer = [_forged(said.qname, said.qtype, liar, rng)]
    said.authority = []


def _forge_below_alias(said: Said, liar: Liar, rng: random.Random) -> None:
    """Signed data with the owner of a genuine alias, whose target is in a zone without keys."""
    aliases = _aliases(liar)
    if aliases:
        rrset = _forged(said.qname, said.qtype, liar, rng).without_sigs()
        said.rcode, said.aa, said.authority = c.NOERROR, True, []
        said.answer = [rrset.with_sigs(_signatures(rrset, liar, rng, signer=rng.choice(aliases).name))]


def _alias_for_security(said: Said, liar: Liar, rng: random.Random) -> None:
    """An alias, genuine or not, instead of DS or DNSKEY."""
    if said.qtype not in (c.DS, c.DNSKEY):
        return
    genuine = [rrset for rrset in _aliases(liar) if names.equal(rrset.name, said.qname)]
    said.answer = genuine or [_forged(said.qname, c.CNAME, liar, rng)]
    said.rcode, said.aa, said.authority = c.NOERROR, True, []
    if rng.random() < 0.5:
        said.answer += [_forged(names.prepend(b"a", EVIL), said.qtype, liar, rng)]


def _forge_alias(said: Said, liar: Liar, rng: random.Random) -> None:
    """An alias into the attacker's zone, with or without the target's data."""
    said.rcode, said.aa, said.authority = c.NOERROR, True, []
    said.answer = [_forged(said.qname, c.CNAME, liar, rng)]
    if rng.random() < 0.5:
        said.answer.append(_forged(names.prepend(b"a", EVIL), said.qtype, liar, rng))


def _forge_dname(said: Said, liar: Liar, rng: random.Random) -> None:
    """A DNAME at the name or above it, with the CNAME that follows from it."""
    owner = said.qname if rng.random() < 0.4 else names.parent(said.qname) if len(said.qname) > 1 else names.ROOT
    dname = RRset(owner, c.DNAME, 300, [EVIL])
    genuine = [node[c.DNAME] for site in liar.sites for node in site.zone.nodes.values() if c.DNAME in node]
    if genuine and rng.random() < 0.5:
        dname = rng.choice(genuine)
    elif rng.random() < 0.5:
        dname = dname.with_sigs(_signatures(dname, liar, rng))
    said.rcode, said.aa, said.authority = c.NOERROR, True, []
    said.answer = [dname, RRset(said.qname, c.CNAME, 2**31 - 1, [names.prepend(b"a", EVIL)])]


def _deny(said: Said, liar: Liar, rng: random.Random) -> None:
    """A denial of everything, with genuine proofs for other names."""
    said.rcode = rng.choice((c.NOERROR, c.NXDOMAIN))
    site = liar.lies.world.site_of(said.qname, said.qtype)
    said.aa, said.answer = True, []
    said.authority = [site.zone.negative_soa(), *_genuine_denials(liar, rng)]
    own = site.zone.nodes.get(names.lower(said.qname), {}).get(c.NSEC)
    if said.qtype == c.ANY and own is not None:
        # No type bitmap covers ANY, so only an NSEC of the name itself could deny everything.
        said.rcode = c.NOERROR
        said.authority.append(own)


def _deny_by_forged_proofs(said: Said, liar: Liar, rng: random.Random) -> None:
    """Proofs that match, unsigned or signed by another zone, or NSEC3 with expensive parameters."""
    site = liar.lies.world.site_of(said.qname, said.qtype)
    said.rcode, said.aa, said.answer = rng.choice((c.NOERROR, c.NXDOMAIN)), True, []
    said.authority = [site.zone.negative_soa()]
    for number in range(rng.choice((1, 3, MOST_PROOFS))):
        if rng.random() < 0.5:
            proof = RRset(said.qname, c.NSEC, 300, [names.prepend(b"zzz", site.origin) + bitmap({c.NS})])
        else:
            iterations = rng.choice((0, 1, 51, 2500, 65535))
            head = b"\1" + bytes((rng.choice((0, 1)),)) + iterations.to_bytes(2, "big") + b"\0"
            owner = names.prepend(b"%032d" % number, site.origin)
            proof = RRset(owner, c.NSEC3, 300, [head + b"\x14" + b"\xff" * 20 + bitmap({c.NS})])
        said.authority.append(proof.with_sigs(_signatures(proof, liar, rng, signer=site.origin)))


def _mix_chains(said: Said, liar: Liar, rng: random.Random) -> None:
    said.authority += _genuine_denials(liar, rng)


def _raise_ttls(said: Said, liar: Liar, rng: random.Random) -> None:
    ttl = rng.choice((DAY * 30, 2**31 - 1, 0))
    said.answer = [rrset.with_ttl(ttl) for rrset in said.answer]
    said.authority = [rrset.with_ttl(ttl) for rrset in said.authority]


def _replay_expired(said: Said, liar: Liar, rng: random.Random) -> None:
    """Data that was true two weeks ago."""
    sites = [site for site in liar.sites if site.keys]
    if not sites:
        return
    old = Authority([liar.lies.expired_zone(site) for site in sites])
    query = Builder(LIMIT)
    query.start(1, 0, said.qname, said.qtype)
    query.opt(1232, do=True)
    packet = old.answer(query.finish(), tcp=True)
    if packet is not None:
        view = MessageView.parse(packet)
        said.rcode, said.answer, said.authority = view.rcode, view.answer, view.authority


def _add_poison(said: Said, liar: Liar, rng: random.Random) -> None:
    """Records of other zones, in any section."""
    for _ in range(rng.randint(1, 3)):
        owner = _any_name(liar, rng)
        rtype = rng.choice((c.NS, c.NS, c.A, c.CNAME, c.DS, c.DNSKEY, c.SOA))
        poison = _forged(owner, rtype, liar, rng)
        if rtype == c.NS:
            poison = RRset(owner, c.NS, DAY, [names.prepend(b"ns0", EVIL)])
        rng.choice((said.answer, said.authority, said.additional)).append(poison)


def _many_signatures(said: Said, liar: Liar, rng: random.Random) -> None:
    """KeyTrap: many wrong signatures, each with the tag of a real key."""
    for index, rrset in enumerate(said.answer):
        sigs = rrset.sigs()
        if sigs:
            wrong = [sigs[0][:-8] + number.to_bytes(8, "big") for number in range(MOST_SIGNATURES)]
            said.answer[index] = rrset.with_sigs([*wrong, *sigs] if rng.random() < 0.5 else wrong)


def _damage_signatures(said: Said, liar: Liar, rng: random.Random) -> None:
    """RRSIGs with one changed field: labels, original TTL, times, tag, signature."""
    place = rng.choice((2, 3, 4, 8, 12, 16, -1))
    for part in (said.answer, said.authority):
        for index, rrset in enumerate(part):
            damaged = []
            for sig in rrset.sigs():
                changed = bytearray(sig)
                changed[place] ^= 1 << rng.randrange(8)
                damaged.append(bytes(changed))
            part[index] = rrset.with_sigs(damaged)


def _expand_wildcard(said: Said, liar: Liar, rng: random.Random) -> None:
    """A genuine wildcard for a name that it need not cover, without the proof."""
    stars = [rrset for site in liar.sites for owner, node in site.zone.nodes.items() if owner.startswith(b"\x01*")
             for rrset in node.values() if rrset.rtype not in (c.NSEC, c.NSEC3)]
    if stars:
        star = rng.choice(stars)
        said.rcode, said.aa = c.NOERROR, True
        said.answer = [star.with_name(said.qname)]
        if rng.random() < 0.5:
            said.authority = []


def _swap_owner(said: Said, liar: Liar, rng: random.Random) -> None:
    """Genuine records of one name with another owner."""
    sets = [rrset for site in liar.sites for node in site.zone.nodes.values() for rrset in node.values()
            if rrset.rtype == said.qtype]
    if sets:
        said.rcode, said.aa, said.answer = c.NOERROR, True, [rng.choice(sets).with_name(said.qname)]


def _refer_elsewhere(said: Said, liar: Liar, rng: random.Random) -> None:
    """A delegation of a name above the qname to the attacker's server."""
    labels = rng.randint(0, names.label_count(said.qname))
    cut = names.suffix(said.qname, labels)
    said.rcode, said.aa, said.answer = c.NOERROR, False, []
    said.authority = [RRset(cut, c.NS, DAY, [names.prepend(b"ns0", EVIL)])]
    if rng.random() < 0.5:
        said.authority += _genuine_denials(liar, rng)
    if rng.random() < 0.3:
        said.authority.append(_forged(cut, c.DS, liar, rng))
    evil = liar.lies.world.sites[EVIL].addresses[0]
    said.additional = [RRset(names.prepend(b"ns0", EVIL), c.A, DAY, [bytes(int(part) for part in evil.split("."))])]


def _fail(said: Said, liar: Liar, rng: random.Random) -> None:
    said.rcode = rng.choice((c.SERVFAIL, c.REFUSED, c.FORMERR, c.NOTIMP, c.NXDOMAIN))
    said.answer, said.authority, said.additional = [], [], []


def _no_question(said: Said, liar: Liar, rng: random.Random) -> None:
    said.question = False


def _truncate(said: Said, liar: Liar, rng: random.Random) -> None:
    said.tc = True


def _fold_case(said: Said, liar: Liar, rng: random.Random) -> None:
    said.lower = True


def _keep_silent(said: Said, liar: Liar, rng: random.Random) -> None:
    said.silent = True


def _not_authoritative(said: Said, liar: Liar, rng: random.Random) -> None:
    said.aa = False


FOR_ANSWERS = [_change_data, _swap_owner, _damage_signatures, _raise_ttls, _replay_expired, _forge_answer]
FOR_SECURITY = [_alias_for_security, _deny, _forge_answer, _deny_by_forged_proofs, _strip_signatures]
OF_THE_ATTACKER = [_deny_by_forged_proofs, _deny_by_forged_proofs, _strip_signatures, _many_signatures]
BOGUS_MAKERS = [_change_data, _damage_signatures, _strip_signatures]
"""Tricks after which each server still answers quickly: signed data becomes bogus, and nothing else changes."""
TRICKS: list[Callable[[Said, Liar, random.Random], None]] = [
    _strip_signatures, _strip_security, _change_data, _forge_answer, _forge_below_alias, _forge_below_alias,
    _alias_for_security, _forge_alias, _forge_dname, _deny, _deny, _deny_by_forged_proofs, _mix_chains, _raise_ttls,
    _replay_expired, _add_poison, _add_poison, _many_signatures, _damage_signatures, _expand_wildcard, _swap_owner,
    _refer_elsewhere, _fail, _no_question, _truncate, _fold_case, _keep_silent, _not_authoritative,
]
