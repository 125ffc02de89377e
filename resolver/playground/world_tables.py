"""The servers, zones and special names of the simulated Internet.

This module has only data. world.py creates SOA and NS records, delegations and glue from these tables, so a delegation
contradicts its zone only where a table demands it. Servers have addresses in 127.20.0.0/16, which Linux routes to
loopback without configuration, except one at ::1, the only IPv6 loopback address. Hosts have addresses of the
benchmarking ranges (RFC 2544, RFC 5180), because resolvers answer the reverse zones of the documentation ranges
themselves (RFC 6303).
"""

from dataclasses import dataclass, field

from resolver.playground.authority import EdnsFault, ServerFaults
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["SERVERS", "SPECIALS", "WEB_ADDRESS", "WEB_HOST", "ZONES", "ServerSpec", "TestQuestion", "ZoneSpec"]

WEB_HOST = "www.example.playground."
WEB_ADDRESS = "127.20.80.1"


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One simulated name server. `listening`: whether it replies; `glue`: whether parents have its address as glue."""

    address: str
    quirks: ServerFaults = field(default_factory=ServerFaults)
    listening: bool = True
    glue: bool = True


@dataclass(frozen=True, slots=True)
class ZoneSpec:
    """One zone. `servers` serve it; its NS RRset names these and `lame`, which do not serve it."""

    servers: tuple[str, ...]
    about: str
    text: str = ""
    lame: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    """Servers of the zone that are missing in the NS RRset of the parent."""


@dataclass(frozen=True, slots=True)
class TestQuestion:
    """A special name: the answer of a correct resolver, and what is difficult about it."""

    qname: str
    qtype: str
    rcode: str
    about: str
    verdict: Verdict = Verdict.INSECURE
    """The verdict with the trust anchor of the playground."""
    ede: int | None = None
    """The extended error (RFC 8914) of the verdict; None: not checked."""

    @property
    def outcome(self) -> str:
        """The expected result as text: type, response code, verdict and extended error."""
        error = "" if self.ede is None else f", extended error {self.ede}"
        return f"{self.qtype}: {self.rcode}, {self.verdict.name.lower()}{error}"


def _server(tail: str, **quirks: object) -> ServerSpec:
    return ServerSpec(f"127.20.{tail}", ServerFaults(**quirks))  # type: ignore[arg-type]


def _dead(tail: str) -> ServerSpec:
    return ServerSpec(f"127.20.{tail}", listening=False)


def _poison() -> tuple[tuple[int, RRset], ...]:
    """False records about names of another zone, as in cache poisoning (RFC 5452 section 6)."""
    false_address = RRset(names.from_text("www.example.playground."), c.A, 86400, [bytes((127, 20, 66, 66))])
    server = names.from_text("ns.poison.playground.")
    false_delegation = RRset(names.from_text("example.playground."), c.NS, 86400, [server])
    return ((c.AUTHORITY, false_delegation), (c.ADDITIONAL, false_address))


SERVERS: dict[str, ServerSpec] = {
    "a.root-servers.net.": _server("0.1"),
    "b.root-servers.net.": _server("0.2"),
    "c.root-servers.net.": _server("0.3"),
    "a.gtld-servers.net.": _server("1.1"),
    "b.gtld-servers.net.": _server("1.2"),
    "a.nic.org.": _server("2.1"),
    "a.nic.playground.": _server("3.1"),
    "b.nic.playground.": _server("3.2"),
    "a.in-addr-servers.arpa.": _server("4.1"),
    "ns1.hoster.net.": _server("10.1"),
    "ns2.hoster.net.": _server("10.2"),
    "ns1.example.playground.": _server("11.1", mirror=names.from_text("mirror.example.playground.")),
    "ns2.example.playground.": _server("11.2", mirror=names.from_text("mirror.example.playground.")),
    "ns1.example.com.": _server("12.1"),
    "ns1.example.org.": _server("12.2"),
    "ns.six.playground.": ServerSpec("::1"),
    "ns1.glueless-dns.org.": _server("13.1"),
    "ns2.glueless-dns.org.": _server("13.2"),
    "ns.glueless.playground.": _server("13.3"),
    "ns1.lame.playground.": _server("14.1"),
    "ns.lame-all.playground.": _server("14.2", rcode=c.REFUSED),
    "ns.upward.playground.": _server("14.3", upward=True),
    "ns.servfail.playground.": _server("14.4", rcode=c.SERVFAIL),
    "ns1.dead.playground.": _dead("15.1"),
    "ns2.dead.playground.": _dead("15.2"),
    "ns1.half-dead.playground.": _dead("15.3"),
    "ns2.half-dead.playground.": _server("15.4"),
    "ns.truncate.playground.": _server("16.1", truncate=True),
    "ns.edns-drop.playground.": _server("17.1", edns=EdnsFault.DROP),
    "ns.edns-formerr.playground.": _server("17.2", edns=EdnsFault.FORMERR),
    "ns.edns-notimp.playground.": _server("17.3", edns=EdnsFault.NOTIMP),
    "ns.edns-ignore.playground.": _server("17.4", edns=EdnsFault.IGNORE),
    "ns.slow.playground.": _server("18.1", delay=0.3),
    "ns.case.playground.": _server("18.2", lower_case=True),
    "ns1.wrong-id.playground.": _server("18.3", wrong_id=True),
    "ns2.wrong-id.playground.": _server("18.4"),
    "ns.poison.playground.": _server("18.5", extra=_poison()),
    "ns.blind.playground.": _server("18.6", blind_to_empty=True),
    "ns.cycle-a.com.": _server("19.1"),
    "ns.cycle-b.net.": _server("19.2"),
    "ns.no-glue.com.": ServerSpec("127.20.19.3", glue=False),
    "ns.deep.playground.": _server("20.1"),
    "ns.one.deep.playground.": _server("20.2"),
    "ns.two.one.deep.playground.": _server("20.3"),
    "ns.three.two.one.deep.playground.": _server("20.4"),
    "ns.four.three.two.one.deep.playground.": _server("20.5"),
    "ns1.mismatch.playground.": _server("21.1"),
    "ns2.mismatch.playground.": _server("21.2"),
}

ROOTS = ("a.root-servers.net.", "b.root-servers.net.", "c.root-servers.net.")
GTLD = ("a.gtld-servers.net.", "b.gtld-servers.net.")
HOSTER = ("ns1.hoster.net.", "ns2.hoster.net.")
EXAMPLE = ("ns1.example.playground.", "ns2.example.playground.")
REGISTRY = ("a.nic.playground.", "b.nic.playground.")


def _numbered(count: int, line: str) -> str:
    return "\n".join(line.format(n=n, after=n + 1) for n in range(1, count + 1)) + "\n"


ZONES: dict[str, ZoneSpec] = {
    ".": ZoneSpec(ROOTS, "The root of the playground."),
    "root-servers.net.": ZoneSpec(ROOTS, "The names of the root servers, served by themselves."),
    "com.": ZoneSpec(GTLD, "A top-level domain."),
    "net.": ZoneSpec(GTLD, "A top-level domain on the same servers as com."),
    "gtld-servers.net.": ZoneSpec(GTLD, "The servers of com and net, served by themselves."),
    "org.": ZoneSpec(("a.nic.org.",), "A top-level domain with a single server, whose name lies within it."),
    "playground.": ZoneSpec(REGISTRY, "The top-level domain of the special zones."),
    "arpa.": ZoneSpec(ROOTS, "Served by the root servers: parent and child on one address."),
    "in-addr.arpa.": ZoneSpec(("a.in-addr-servers.arpa.",), "Reverse names of IPv4."),
    "ip6.arpa.": ZoneSpec(("a.in-addr-servers.arpa.",), "Reverse names of IPv6."),
    "18.198.in-addr.arpa.": ZoneSpec(
        HOSTER,
        "Reverse zone of 198.18.0.0/16.",
        """
1.0     PTR host1.example.com.
2.0     PTR host2.example.net.
3.0     PTR a.example.playground.
3.0     PTR also-a.example.playground.
; RFC 2317: the owners of a part of a /24 keep their reverse names in a zone of their own
65.1    CNAME 65.64-95.1.18.198.in-addr.arpa.
66.1    CNAME 66.64-95.1.18.198.in-addr.arpa.
""",
    ),
    "64-95.1.18.198.in-addr.arpa.": ZoneSpec(
        ("ns1.example.com.",),
        "RFC 2317: a classless part of a /24.",
        """
65      PTR classless.example.com.
""",
    ),
    "2.0.0.0.1.0.0.2.ip6.arpa.": ZoneSpec(
        HOSTER,
        "Reverse zone of 2001:2::/32: sixteen empty labels deep.",
        """
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 PTR host1.example.com.
""",
    ),
    "hoster.net.": ZoneSpec(
        HOSTER,
        "A hosting company whose servers serve many zones.",
        """
www     A   198.18.10.1
@       MX  10 mail
mail    A   198.18.10.2
        AAAA 2001:2::a:2
""",
    ),
    "example.playground.": ZoneSpec(
        EXAMPLE,
        "A zone without faults: in-bailiwick glue, all common record types.",
        f"""
@       A   198.18.0.3
        AAAA 2001:2::3
        MX  10 mail
        MX  20 mail.hoster.net.
        CAA 0 issue "ca.playground"
www     A   {WEB_ADDRESS}
a       A   198.18.0.3
        TXT "One address."
many    A   198.18.1.1
        A   198.18.1.2
        A   198.18.1.3
        A   198.18.1.4
        TXT "Four addresses, to see rotation."
six     AAAA 2001:2::6
        TXT "Only IPv6: a query for A is NODATA."
both    A   198.18.0.7
        AAAA 2001:2::7
mail    A   198.18.0.25
_imap._tcp SRV 0 1 143 mail
_sip._udp SRV 10 60 5060 both
        SRV 10 20 5060 many
alias   CNAME a
alias2  CNAME alias
alias3  CNAME alias2
ext     CNAME www.example.com.
dangle  CNAME nothing-here.example.playground.
dangle2 CNAME nothing-here.example.com.
void    CNAME six
x.y.z   A   198.18.0.9
*.wild  A   198.18.0.42
        TXT "Synthesised from a wildcard."
not.wild TXT "A name next to the wildcard: a query for A is NODATA."
ent.deep.wild TXT "deep.wild is an empty non-terminal and stops the wildcard (RFC 4592 section 2.2.2)."
*.alias-wild CNAME a
ttl0 0  A   198.18.0.10
ttl5 5  A   198.18.0.11
UPPER.Case A 198.18.0.12
under_score A 198.18.0.13
dot\\.ted A 198.18.0.14
sp\\032ace A 198.18.0.15
raw\\000\\255 A 198.18.0.16
{"l" * 63} A 198.18.0.17
{".".join(["n" * 50] * 4)} A 198.18.0.18
""",
    ),
    "sub.example.playground.": ZoneSpec(
        EXAMPLE,
        "A child zone on the servers of its parent.",
        """
www     A   198.18.0.20
up      CNAME a.example.playground.
""",
    ),
    "about.playground.": ZoneSpec(REGISTRY, "Descriptions of the special names: query <name>.about.playground TXT."),
    "nic.playground.": ZoneSpec(REGISTRY, "The registry's own zone, on the registry's servers."),
    "example.com.": ZoneSpec(
        ("ns1.example.com.",),
        "A zone with one server.",
        """
@       A   198.18.2.1
www     A   198.18.2.1
        AAAA 2001:2::2:1
host1   A   198.18.0.1
        AAAA 2001:2::1
classless A 198.18.1.65
there   CNAME www.example.net.
""",
    ),
    "example.net.": ZoneSpec(
        HOSTER,
        "A zone at a hosting company.",
        """
@       A   198.18.3.1
www     A   198.18.3.1
host2   A   198.18.0.2
there   CNAME www.example.org.
""",
    ),
    "example.org.": ZoneSpec(
        ("ns1.example.org.",),
        "A zone under a top-level domain with a single server.",
        """
@       A   198.18.4.1
www     A   198.18.4.1
""",
    ),
    "alice.com.": ZoneSpec(HOSTER, "An ordinary hosted zone.", "www A 198.18.5.1\n@ MX 10 mail.hoster.net.\n"),
    "bob.net.": ZoneSpec(HOSTER, "An ordinary hosted zone.", "www A 198.18.5.2\n"),
    "carol.org.": ZoneSpec(HOSTER, "An ordinary hosted zone.", "www A 198.18.5.3\n"),
    "shop.com.": ZoneSpec(HOSTER, "Its www is an alias into another hosted zone.", "www CNAME edge.cdn.net.\n"),
    "cdn.net.": ZoneSpec(HOSTER, "The target of www.shop.com, with a TTL of twenty seconds.", "edge 20 A 198.18.5.4\n"),
    "wiki.org.": ZoneSpec(("ns1.example.org.",), "A second zone on one server.", "www A 198.18.5.5\n"),
    "outside.playground.": ZoneSpec(
        HOSTER, "Its servers lie in another top-level domain: no glue.", "www A 198.18.5.6\n"
    ),
    "xn--bcher-kva.playground.": ZoneSpec(
        HOSTER, "An internationalised name: b, u with two dots, cher.", "www A 198.18.5.7\n"
    ),
    "glueless-dns.org.": ZoneSpec(
        ("ns1.glueless-dns.org.",),
        "The zone of a server that others use without glue.",
        'ns2 TXT "I serve glueless.playground."\n',
    ),
    "glueless.playground.": ZoneSpec(
        ("ns2.glueless-dns.org.",),
        "Its only server is out of bailiwick and must be resolved first.",
        'www A 198.18.6.1\nns TXT "I serve twice-glueless.com."\n',
    ),
    "twice-glueless.com.": ZoneSpec(
        ("ns.glueless.playground.",), "Its server's name lies in a glueless zone.", "www A 198.18.6.2\n"
    ),
    "lame.playground.": ZoneSpec(
        ("ns1.lame.playground.",),
        "Two of three servers refuse: they do not serve the zone.",
        "www A 198.18.6.3\n",
        lame=HOSTER,
    ),
    "lame-all.playground.": ZoneSpec(
        ("ns.lame-all.playground.",), "Every server answers REFUSED.", "www A 198.18.6.4\n"
    ),
    "upward.playground.": ZoneSpec(("ns.upward.playground.",), "The server refers to the root.", "www A 198.18.6.5\n"),
    "servfail.playground.": ZoneSpec(("ns.servfail.playground.",), "The server says SERVFAIL.", "www A 198.18.6.6\n"),
    "dead.playground.": ZoneSpec(
        ("ns1.dead.playground.", "ns2.dead.playground."), "No server listens.", "www A 198.18.6.7\n"
    ),
    "half-dead.playground.": ZoneSpec(
        ("ns1.half-dead.playground.", "ns2.half-dead.playground."), "One of two servers is dead.", "www A 198.18.6.8\n"
    ),
    "truncate.playground.": ZoneSpec(
        ("ns.truncate.playground.",), "Every UDP answer has TC: TCP is needed.", "www A 198.18.6.9\n"
    ),
    "edns-drop.playground.": ZoneSpec(("ns.edns-drop.playground.",), EdnsFault.DROP.value, "www A 198.18.7.1\n"),
    "edns-formerr.playground.": ZoneSpec(
        ("ns.edns-formerr.playground.",), EdnsFault.FORMERR.value, "www A 198.18.7.2\n"
    ),
    "edns-notimp.playground.": ZoneSpec(("ns.edns-notimp.playground.",), EdnsFault.NOTIMP.value, "www A 198.18.7.3\n"),
    "edns-ignore.playground.": ZoneSpec(("ns.edns-ignore.playground.",), EdnsFault.IGNORE.value, "www A 198.18.7.4\n"),
    "slow.playground.": ZoneSpec(
        ("ns.slow.playground.",), "The server replies after 0.3 seconds.", "www A 198.18.7.5\n"
    ),
    "case.playground.": ZoneSpec(
        ("ns.case.playground.",), "The server returns the question in lower case.", "www A 198.18.7.6\n"
    ),
    "wrong-id.playground.": ZoneSpec(
        ("ns1.wrong-id.playground.", "ns2.wrong-id.playground."),
        "One of two servers replies with a wrong id, which a resolver must ignore.",
        "www A 198.18.7.7\n",
    ),
    "poison.playground.": ZoneSpec(
        ("ns.poison.playground.",), "The server adds false records about example.playground.", "www A 198.18.7.8\n"
    ),
    "blind.playground.": ZoneSpec(
        ("ns.blind.playground.",), "NXDOMAIN for empty non-terminals, contrary to RFC 8020.", "www.a.b.c A 198.18.7.9\n"
    ),
    "empty.playground.": ZoneSpec(HOSTER, "Empty non-terminals, answered correctly.", "www.a.b.c A 198.18.7.10\n"),
    "loop.playground.": ZoneSpec(
        HOSTER,
        "Alias loops.",
        """
self    CNAME self
tick    CNAME tock
tock    CNAME tick
far     CNAME back.loop-far.com.
""",
    ),
    "loop-far.com.": ZoneSpec(
        ("ns1.example.com.",), "The other half of far.loop.playground.", "back CNAME far.loop.playground.\n"
    ),
    "chain.playground.": ZoneSpec(
        HOSTER,
        "Chains of aliases through zones and within one.",
        f"""
one     CNAME two.chain.com.
{_numbered(6, "short{n} CNAME short{after}")}short7  A 198.18.8.1
{_numbered(40, "long{n} CNAME long{after}")}long41  A 198.18.8.2
""",
    ),
    "chain.com.": ZoneSpec(
        ("ns1.example.com.",), "The second hop of one.chain.playground.", "two CNAME three.chain.org.\n"
    ),
    "chain.org.": ZoneSpec(
        ("ns1.example.org.",), "The third hop of one.chain.playground.", "three CNAME both.example.playground.\n"
    ),
    "dname.playground.": ZoneSpec(
        HOSTER,
        "Renamed subtrees (RFC 6672).",
        """
old     DNAME new
www.new A   198.18.8.3
new     TXT "The target of old.dname.playground."
away    DNAME example.com.
chain   DNAME old
""",
    ),
    "dname-apex.com.": ZoneSpec(("ns1.example.com.",), "DNAME at the apex.", "@ DNAME example.playground.\n"),
    "cycle-a.com.": ZoneSpec(
        ("ns.cycle-b.net.",),
        "Its server's name needs cycle-b.net, which needs this zone (tsuname).",
        "www A 198.18.8.4\n",
    ),
    "cycle-b.net.": ZoneSpec(("ns.cycle-a.com.",), "The other half of cycle-a.com.", "www A 198.18.8.5\n"),
    "no-glue.com.": ZoneSpec(
        ("ns.no-glue.com.",), "Its server is inside the zone, but the parent has no glue.", "www A 198.18.8.6\n"
    ),
    "six.playground.": ZoneSpec(("ns.six.playground.",), "Its only server has an IPv6 address.", "www A 198.18.8.9\n"),
    "deep.playground.": ZoneSpec(("ns.deep.playground.",), "The first of five cuts below playground."),
    "one.deep.playground.": ZoneSpec(("ns.one.deep.playground.",), "The second cut."),
    "two.one.deep.playground.": ZoneSpec(("ns.two.one.deep.playground.",), "The third cut."),
    "three.two.one.deep.playground.": ZoneSpec(("ns.three.two.one.deep.playground.",), "The fourth cut."),
    "four.three.two.one.deep.playground.": ZoneSpec(
        ("ns.four.three.two.one.deep.playground.",), "The fifth cut.", "www A 198.18.8.7\n"
    ),
    "mismatch.playground.": ZoneSpec(
        ("ns1.mismatch.playground.", "ns2.mismatch.playground."),
        "The parent names one server, the zone itself two.",
        "www A 198.18.8.8\n",
        unlisted=("ns2.mismatch.playground.",),
    ),
    "big.playground.": ZoneSpec(
        HOSTER,
        "Answers larger than a datagram.",
        _numbered(20, 'huge TXT "{n:03d}' + "x" * 197 + '"')
        + _numbered(50, "wide A 198.18.9.{n}")
        + _numbered(20, 'edge TXT "{n:03d}' + "y" * 30 + '"'),
    ),
    "types.playground.": ZoneSpec(
        HOSTER,
        "Rare types, and an unassigned one.",
        """
unknown TYPE65280 \\# 4 0A000001
nothing TYPE65281 \\# 0
hinfo   HINFO "PDP-11" "UNIX"
naptr   NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.playground!" .
loc     LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
sshfp   SSHFP 4 2 0000000000000000000000000000000000000000000000000000000000000001
_443._tcp TLSA 3 1 1 0000000000000000000000000000000000000000000000000000000000000002
svcb    SVCB 1 www.example.com. alpn="h2" port=8443
https   HTTPS 0 www.example.com.
uri     URI 10 1 "https://www.example.playground/"
rp      RP  hostmaster hinfo
afsdb   AFSDB 1 hinfo
empty   TXT ""
multi   TXT "one" "two" "three"
quoted  TXT "a \\"quoted\\" word; and a \\\\ backslash"
""",
    ),
}

SPECIALS: tuple[TestQuestion, ...] = (
    TestQuestion("www.example.playground.", "A", "NOERROR", "The web server of the playground."),
    TestQuestion("six.example.playground.", "A", "NOERROR", "NODATA: only AAAA exists."),
    TestQuestion("missing.example.playground.", "A", "NXDOMAIN", "No such name."),
    TestQuestion("many.example.playground.", "A", "NOERROR", "Four addresses."),
    TestQuestion("alias3.example.playground.", "A", "NOERROR", "Three aliases within one zone."),
    TestQuestion("ext.example.playground.", "A", "NOERROR", "An alias into another zone."),
    TestQuestion("void.example.playground.", "A", "NOERROR", "An alias whose target has no such type."),
    TestQuestion("dangle.example.playground.", "A", "NXDOMAIN", "An alias to a name that does not exist."),
    TestQuestion("dangle2.example.playground.", "A", "NXDOMAIN", "An alias to a name that does not exist elsewhere."),
    TestQuestion("one.chain.playground.", "A", "NOERROR", "Aliases through four zones."),
    TestQuestion("short1.chain.playground.", "A", "NOERROR", "Six aliases in one zone."),
    TestQuestion("long1.chain.playground.", "A", "SERVFAIL", "Forty aliases, above the limit of resolvers."),
    TestQuestion("self.loop.playground.", "A", "SERVFAIL", "An alias to itself."),
    TestQuestion("tick.loop.playground.", "A", "SERVFAIL", "Two aliases that name each other."),
    TestQuestion("far.loop.playground.", "A", "SERVFAIL", "A loop of aliases over two zones."),
    TestQuestion("www.old.dname.playground.", "A", "NOERROR", "Renamed by DNAME."),
    TestQuestion("www.away.dname.playground.", "A", "NOERROR", "Renamed by DNAME into another zone."),
    TestQuestion("www.chain.dname.playground.", "A", "NOERROR", "A DNAME below a DNAME."),
    TestQuestion("www.dname-apex.com.", "A", "NOERROR", "DNAME at an apex."),
    TestQuestion("any.wild.example.playground.", "A", "NOERROR", "Synthesised from a wildcard."),
    TestQuestion("a.b.wild.example.playground.", "A", "NOERROR", "A wildcard matches several labels."),
    TestQuestion("not.wild.example.playground.", "A", "NOERROR", "NODATA next to a wildcard."),
    TestQuestion("x.deep.wild.example.playground.", "A", "NXDOMAIN", "An empty non-terminal stops the wildcard."),
    TestQuestion("y.z.example.playground.", "A", "NOERROR", "NODATA: an empty non-terminal."),
    TestQuestion("www.sub.example.playground.", "A", "NOERROR", "A child zone on its parent's servers."),
    TestQuestion("www.outside.playground.", "A", "NOERROR", "Servers out of bailiwick."),
    TestQuestion("www.glueless.playground.", "A", "NOERROR", "No glue."),
    TestQuestion("www.twice-glueless.com.", "A", "NOERROR", "No glue, twice."),
    TestQuestion("www.no-glue.com.", "A", "SERVFAIL", "No glue for a server inside the zone."),
    TestQuestion("www.cycle-a.com.", "A", "SERVFAIL", "Two zones that need each other's servers (tsuname)."),
    TestQuestion("www.lame.playground.", "A", "NOERROR", "Lame servers and a good one."),
    TestQuestion("www.lame-all.playground.", "A", "SERVFAIL", "All servers refuse."),
    TestQuestion("www.upward.playground.", "A", "SERVFAIL", "The only server refers to the root."),
    TestQuestion("www.servfail.playground.", "A", "SERVFAIL", "The only server fails."),
    TestQuestion("www.half-dead.playground.", "A", "NOERROR", "A dead server and a good one."),
    TestQuestion("www.dead.playground.", "A", "SERVFAIL", "All servers are dead."),
    TestQuestion("www.truncate.playground.", "A", "NOERROR", "TC over UDP, the answer over TCP."),
    TestQuestion("www.edns-drop.playground.", "A", "NOERROR", EdnsFault.DROP.value),
    TestQuestion("www.edns-formerr.playground.", "A", "NOERROR", EdnsFault.FORMERR.value),
    TestQuestion("www.edns-notimp.playground.", "A", "NOERROR", EdnsFault.NOTIMP.value),
    TestQuestion("www.edns-ignore.playground.", "A", "NOERROR", EdnsFault.IGNORE.value),
    TestQuestion("www.slow.playground.", "A", "NOERROR", "A delay of 0.3 seconds."),
    TestQuestion("www.six.playground.", "A", "NOERROR", "The only server of the zone is reached over IPv6."),
    TestQuestion("www.case.playground.", "A", "NOERROR", "The question comes back in lower case."),
    TestQuestion("www.wrong-id.playground.", "A", "NOERROR", "One server replies with a wrong id."),
    TestQuestion("www.poison.playground.", "A", "NOERROR", "The reply has false records about example.playground."),
    TestQuestion(
        "www.a.b.c.blind.playground.", "A", "NOERROR", "The server denies empty non-terminals above the name."
    ),
    TestQuestion("www.a.b.c.empty.playground.", "A", "NOERROR", "Empty non-terminals above the name."),
    TestQuestion("www.four.three.two.one.deep.playground.", "A", "NOERROR", "Seven zones from the root."),
    TestQuestion("www.mismatch.playground.", "A", "NOERROR", "Parent and child disagree about the servers."),
    TestQuestion("huge.big.playground.", "TXT", "NOERROR", "Four thousand octets of TXT."),
    TestQuestion("wide.big.playground.", "A", "NOERROR", "Fifty addresses."),
    TestQuestion("edge.big.playground.", "TXT", "NOERROR", "Larger than 512 octets, smaller than 1232."),
    TestQuestion("unknown.types.playground.", "TYPE65280", "NOERROR", "A type without a name (RFC 3597)."),
    TestQuestion("nothing.types.playground.", "TYPE65281", "NOERROR", "A record without any data."),
    TestQuestion("ttl0.example.playground.", "A", "NOERROR", "A TTL of zero: never answered from the cache."),
    TestQuestion("www.shop.com.", "A", "NOERROR", "An alias to a name with a short TTL."),
    TestQuestion("1.0.18.198.in-addr.arpa.", "PTR", "NOERROR", "A reverse name."),
    TestQuestion("65.1.18.198.in-addr.arpa.", "PTR", "NOERROR", "A classless reverse name (RFC 2317)."),
    TestQuestion(
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.1.0.0.2.ip6.arpa.",
        "PTR",
        "NOERROR",
        "A reverse name of IPv6, twenty-three empty labels above it.",
    ),
    TestQuestion("www.xn--bcher-kva.playground.", "A", "NOERROR", "An internationalised name."),
    TestQuestion("dot\\.ted.example.playground.", "A", "NOERROR", "A dot within a label."),
)
