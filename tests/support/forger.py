"""A signed zone with aliases into unsigned ones, on the fake network, and a forger who answers for some of the servers.

The complete resolver with its cache is used; queries that the forger does not answer go to the true servers.
"""

from collections.abc import Callable, Mapping, Sequence

import dns.name
import dns.rdata
import dns.rdatatype
import dns.rrset
from support.fakenet import FakeNet, Host, SeededRandom, hosts_from
from support.minet import Minet, reply
from support.signed_net import Crypto
from support.signing import EXPIRATION, INCEPTION, Nsec3, ZoneKey, sign_zone

from resolver.cache import Store
from resolver.mesh import Mesh
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.settings import CacheSettings, DnssecSettings, IterationSettings, RootServer, Settings, replace
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

__all__ = [
    "EXAMPLE_IP",
    "KEY",
    "PLAIN_IP",
    "ROOT_IP",
    "ROOT_KEY",
    "SOA",
    "SUB_IP",
    "SUB_KEY",
    "attack",
    "forge",
    "forged_set",
    "true_hosts",
    "world",
]

ROOT_IP, EXAMPLE_IP, PLAIN_IP, SUB_IP = "198.41.0.4", "192.0.2.1", "192.0.2.2", "192.0.2.3"
SOA = "@ 3600 SOA ns host 1 7200 3600 86400 300\n"
ROOT_KEY, KEY, SUB_KEY = ZoneKey("."), ZoneKey("example."), ZoneKey("sub.example.")
EXAMPLE = SOA + f"""
@ 3600 NS ns
ns 300 A {EXAMPLE_IP}
www 300 A 192.0.2.80
alias 300 CNAME www.plain.
deep.er.alias2 300 CNAME a.b.c.plain.
near 300 CNAME host.unsigned
gone 300 CNAME nothing.plain.
two 300 CNAME alias
*.wild 300 CNAME www.plain.
dn 300 DNAME plain.
unsigned 300 NS ns.plain.
sub 300 NS ns.sub
ns.sub 300 A {SUB_IP}
sub 300 DS {SUB_KEY.ds()}
"""
PLAIN = SOA + f"@ 300 NS ns\nns 300 A {PLAIN_IP}\nwww 300 A 192.0.2.9\nhost 300 A 192.0.2.10\na.b.c 300 A 192.0.2.11\n"
ROOT = (
    f". 3600 SOA a. b. 1 2 3 4 300\n. 3600 NS a.root.\na.root. 3600 A {ROOT_IP}\n"
    f"example. 3600 NS ns.example.\nns.example. 3600 A {EXAMPLE_IP}\nexample. 3600 DS {KEY.ds()}\n"
    f"plain. 3600 NS ns.plain.\nns.plain. 3600 A {PLAIN_IP}\n"
)
FORGED = {"A": "203.0.113.66", "TLSA": f"3 1 1 {'66' * 32}", "MX": "10 evil.example.org."}

Forger = Callable[[str, int, bytes], bytes | None]


def true_hosts(
    chain: Nsec3 | None = None,
    *,
    example: str = "",
    inception: int = INCEPTION,
    expiration: int = EXPIRATION,
    places: Mapping[str, str] | None = None,
) -> dict[str, Host]:
    """The true servers by their addresses. `places` says where they are instead."""

    def placed(text: str) -> str:
        for usual, other in (places or {}).items():
            text = text.replace(usual, other)
        return text

    def signed(origin: str, text: str, key: ZoneKey, chain: Nsec3 | None = None) -> tuple[str, str]:
        return origin, sign_zone(origin, placed(text), [key], nsec3=chain, inception=inception, expiration=expiration)

    served = {
        ROOT_IP: [signed(".", ROOT, ROOT_KEY)],
        EXAMPLE_IP: [signed("example.", EXAMPLE + example, KEY, chain)],
        PLAIN_IP: [("plain.", placed(PLAIN)), ("unsigned.example.", placed(PLAIN))],
        SUB_IP: [signed("sub.example.", SOA + f"@ 300 NS ns\nns 300 A {SUB_IP}\n", SUB_KEY)],
    }
    return hosts_from({
        placed(at): Authority([Zone.from_text(origin, text) for origin, text in zones]) for at, zones in served.items()
    })


def world(
    chain: Nsec3 | None = None,
    *,
    example: str = "",
    cache: CacheSettings | None = None,
    inception: int = INCEPTION,
    expiration: int = EXPIRATION,
    skew: tuple[float, float] | None = None,
    anchors: Sequence[ZoneKey] = (),
    negative: Sequence[str] = (),
) -> Minet:
    """The network, its true servers and a validating resolver. `example` are further records of ``example.``,
    `anchors` are keys that it trusts besides that of the root, `negative` its negative trust anchors."""
    hosts = true_hosts(chain, example=example, inception=inception, expiration=expiration)
    dnssec = DnssecSettings(
        trust_anchors=(ROOT_KEY.anchor(), *(key.anchor() for key in anchors)), negative_trust_anchors=tuple(negative),
    )
    if skew is not None:
        dnssec = replace(dnssec, signature_skew_min=skew[0], signature_skew_max=skew[1])
    settings = Settings(
        root_hints=(RootServer("a.root.", (ROOT_IP,)),),
        dnssec=dnssec,
        iteration=IterationSettings(do_ip6=False, qname_minimisation=False),
        cache=cache or CacheSettings(),
    )
    net = FakeNet(hosts)
    store = Store.create(1 << 22, seed=bytes(16))
    mesh = Mesh(exchange=net, crypto=Crypto(), clock=net, rng=SeededRandom(3), store=store, settings=settings)
    return Minet(net, mesh, store, settings)


def forge(minet: Minet, address: str, forger: Forger) -> None:
    """Let `forger` speak for the server at `address`; it says nothing by returning None."""
    true = minet.net.hosts[address]

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(packet)
        return forger(names.to_text(names.lower(view.qname or names.ROOT)), view.qtype, packet) or true(packet, tcp)

    minet.net.hosts[address] = host


def forged_set(owner: str, rtype: str, *, signer: str = "", ttl: int = 300) -> RRset:
    """The forger's set, with his own signature in the name of `signer`, or without."""
    number, rdata = c.type_from_text(rtype), FORGED[rtype]
    sigs = []
    if signer:
        made = dns.rrset.RRset(dns.name.from_text(owner), 1, dns.rdatatype.from_text(rtype))
        made.add(dns.rdata.from_text("IN", rtype, rdata), ttl)
        sigs = [ZoneKey(signer, label="evil").sign(made).to_wire()]
    return RRset(names.from_text(owner), number, ttl, [present.rdata_from_text(number, rdata)], sigs=sigs)


def attack(minet: Minet, owner: str, rtype: str, signer: str = "") -> None:
    """The servers of example. give the forger's set for one question, and the truth for all others."""
    number = c.type_from_text(rtype)
    forged = forged_set(owner, rtype, signer=signer)
    forge(minet, EXAMPLE_IP, lambda qname, qtype, packet:
          reply(packet, [forged]) if (qname, qtype) == (owner, number) else None)
