"""Response policy zones in BIND and here: with the same name servers and the same zone files, both answer alike.

The name servers are NSD. Their port is `port` of BIND, to which it sends its queries. What BIND answers in another way
is in `Scenario.different` with the reason, and both answers are checked.
"""

import itertools
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import program, run_named, serve_export
from support.subject import Subject, start_subject

from resolver.playground import World, world_tables
from resolver.playground.export import export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

PLAIN = "127.0.0.1"
"""The client that no rule is about."""
GUEST = "127.0.0.2"
"""The client that rules are about."""
OVERRIDES = {"given": "", "disabled": "log"}
"""Our names of policies of BIND that have another name there."""
TIMEOUT = 0.4
"""Seconds after which a query has been dropped. All name servers are on this host."""
TYPES = (c.A, c.AAAA, c.TXT)
SERVERS = {
    "a.root.": world_tables.ServerSpec("127.20.232.1"),
    "ns.lab.": world_tables.ServerSpec("127.20.232.2"),
    "ns.garden.": world_tables.ServerSpec("127.20.232.3"),
    "ns.evil.lab.": world_tables.ServerSpec("127.20.232.10"),
    "ns.addr.lab.": world_tables.ServerSpec("127.20.232.11"),
    "ns.six.lab.": world_tables.ServerSpec("::1"),
    "ns.good.lab.": world_tables.ServerSpec("127.20.232.12"),
    "ns.hosting.garden.": world_tables.ServerSpec("127.20.232.13"),
}
DATA = "{0} A 203.0.113.7\n{0} AAAA 2001:db8:1::7\n{0} TXT {1}\n"
LAB = DATA.format("*.q", "lab") + """\
to-nx.q CNAME nx.q.lab.
to-alias.q CNAME alias.q.lab.
to-garden.q CNAME www.garden.
passed-nx.q CNAME nx.q.lab.
tcp-nx.q CNAME nx.q.lab.
to-drop.q CNAME drop.q.lab.
to-tcp.q CNAME tcp.q.lab.
to-data.q CNAME data.q.lab.
to-listed.q CNAME listed.lab.
old.q DNAME new.q.lab.
to-listed.pass.q CNAME listed.lab.
listed A 203.0.113.8
listed AAAA 2001:db8:2::8
listed TXT listed
two A 203.0.113.8
two A 203.0.113.9
both A 203.0.113.7
both A 203.0.113.8
drops A 203.0.113.10
tcps A 203.0.113.11
locals A 203.0.113.12
goes A 203.0.113.13
goeswild A 203.0.113.15
passes A 203.0.113.14
six AAAA 2001:db8:2::9
mapped AAAA ::ffff:203.0.113.8
"""
ZONES = {
    ".": world_tables.ZoneSpec(("a.root.",), "root"),
    "lab.": world_tables.ZoneSpec(("ns.lab.",), "lab", LAB),
    "garden.": world_tables.ZoneSpec(("ns.garden.",), "garden", DATA.format("*", "garden")),
    "hosting.garden.": world_tables.ZoneSpec(("ns.hosting.garden.",), "hosting", DATA.format("*", "hosting")),
    "evil.lab.": world_tables.ZoneSpec(("ns.evil.lab.",), "evil", DATA.format("www", "evil")),
    "sub.evil.lab.": world_tables.ZoneSpec(("ns.good.lab.",), "sub", DATA.format("www", "sub")),
    "addr.lab.": world_tables.ZoneSpec(("ns.addr.lab.",), "addr", DATA.format("www", "addr")),
    "six.lab.": world_tables.ZoneSpec(("ns.six.lab.",), "six", DATA.format("www", "six")),
    "good.lab.": world_tables.ZoneSpec(("ns.good.lab.",), "good", DATA.format("www", "good")),
    "hosted.lab.": world_tables.ZoneSpec(("ns.hosting.garden.",), "hosted", DATA.format("www", "hosted")),
}


@dataclass
class Names:
    world: World
    port: int


@dataclass
class Scenario:
    """Policy zones in order, as name and rules; `policies` overrides their actions, as BIND writes it.

    `different` is what BIND (first) and we (second) answer in different ways, by qname and types.
    """

    zones: Mapping[str, str]
    qnames: str
    clients: tuple[str, ...] = (PLAIN,)
    policies: Mapping[str, str] = field(default_factory=dict)
    different: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    """The name servers."""
    program("nsd")
    program("named")
    world = World(ZONES, SERVERS, ())
    port = free_port("127.20.232.1")
    with serve_export(export(world, tmp_path_factory.mktemp("rpz") / "nsd", "nsd", port=port)):
        yield Names(world, port)


@contextmanager
def bind(directory: Path, served: Names, scenario: Scenario) -> Iterator[Subject]:
    directory.mkdir()
    port = free_port()
    (directory / "root.hints").write_text(served.world.hints_text())
    statements = "".join(f'zone "{name}" {{ type primary; file "../{name}"; }};\n' for name in scenario.zones)
    used = " ".join(f'zone "{name}" policy {scenario.policies.get(name, "given")};' for name in scenario.zones)
    (directory / "named.conf").write_text(f"""
options {{ directory "{directory}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 port {port} {{ ::1; }};
  port {served.port}; pid-file none; session-keyfile none; recursion yes; allow-query {{ any; }};
  allow-recursion {{ any; }}; dnssec-validation no; empty-zones-enable no; minimal-responses yes;
  response-policy {{ {used} }} qname-wait-recurse yes nsip-wait-recurse yes nsdname-wait-recurse yes break-dnssec yes
    min-ns-dots 0; }};
controls {{ }};
zone "." {{ type hint; file "root.hints"; }};
{statements}""")
    log = directory / "log"
    with run_named(directory / "named.conf", log, cwd=directory) as process:
        yield Subject("bind", PLAIN, port, process, log)


@contextmanager
def both(directory: Path, served: Names, scenario: Scenario) -> Iterator[list[Subject]]:
    """BIND and ours with the same policy zones."""
    tables = ""
    for name, rules in scenario.zones.items():
        text = f"$TTL 60\n@ SOA ns.{name}. admin.{name}. 1 3600 600 86400 60\n@ NS localhost.\n{rules}\n"
        (directory / name).write_text(text)
        policy = scenario.policies.get(name, "given")
        override = OVERRIDES.get(policy, policy)
        tables += f'[[rpz]]\nname = "{name}"\nfile = "{directory / name}"\noverride = "{override}"\n'
    port = free_port()
    alone = f'listen = ["127.0.0.1:{port}"]'

    def edit(text: str) -> str:
        assert alone in text
        return text.replace(alone, f'listen = ["127.0.0.1:{port}", "[::1]:{port}"]') + tables

    with ExitStack() as stack:
        theirs = stack.enter_context(bind(directory / "bind", served, scenario))
        ours = stack.enter_context(start_subject(directory / "ours", served.world, served.port, kind="resolverd",
                                                 port=port, edit=edit))
        yield [theirs, ours]


def answer(subject: Subject, client: str, qname: str, qtype: int) -> str:
    """The reply to `client` without TTLs: the rcode, the answer section in order of names, and the policy zones."""
    family, address = (socket.AF_INET6, "::1") if ":" in client else (socket.AF_INET, "127.0.0.1")
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.settimeout(TIMEOUT)
        channel.bind((client, 0))
        channel.connect((address, subject.port))
        channel.send(make_query(4711, names.from_text(qname), qtype))
        try:
            reply = MessageView.parse(channel.recv(65535))
        except TimeoutError:
            return "dropped"
    if reply.tc:
        return "truncated"
    records = sorted(f"{names.to_text(rrset.name)} {c.type_to_text(rrset.rtype)} {rdata}" for rrset in reply.answer
                     for rdata in sorted(present.rdata_to_text(rrset.rtype, one) for one in rrset.rdatas()))
    zones = sorted({names.to_text(rrset.name) for rrset in reply.additional})
    return "; ".join((c.rcode_to_text(reply.rcode), *records, *zones))


SCENARIOS = {
    "qname": Scenario({"one.rpz": """
nx.q.lab CNAME .
nodata.q.lab CNAME *.
pass.q.lab CNAME rpz-passthru.
*.pass.q.lab CNAME .
drop.q.lab CNAME rpz-drop.
tcp.q.lab CNAME rpz-tcp-only.
data.q.lab A 192.0.2.1
data.q.lab A 192.0.2.2
data.q.lab AAAA 2001:db8::1
data.q.lab MX 10 mail.garden.
text.q.lab TXT hello
*.wild.q.lab A 192.0.2.2
exact.wild.q.lab CNAME .
deep.wild.q.lab A 192.0.2.3
*.deep.wild.q.lab CNAME *.
a.empty.wild.q.lab A 192.0.2.9
alias.q.lab CNAME www.garden.
*.alias.q.lab CNAME *.garden.
walled.garden CNAME .
inner.q.lab CNAME walled.garden.
self.q.lab CNAME self.q.lab.
evil.lab CNAME .
*.evil.lab CNAME .
mix.q.lab A 192.0.2.4
mix.q.lab TXT mixed
passed-nx.q.lab CNAME rpz-passthru.
tcp-nx.q.lab CNAME rpz-tcp-only.
"""}, """nx.q NX.q x.nx.q nodata.q pass.q x.pass.q drop.q tcp.q data.q text.q wild.q x.wild.q y.x.wild.q exact.wild.q
        x.exact.wild.q deep.wild.q x.deep.wild.q empty.wild.q a.empty.wild.q b.empty.wild.q alias.q x.alias.q
        y.x.alias.q inner.q self.q mix.q free.q to-nx.q to-alias.q to-garden.q passed-nx.q tcp-nx.q to-drop.q to-tcp.q
        to-data.q nx.old.q x.old.q www.evil evil walled.garden.""", different={
            # An empty non-terminal blocks a wildcard in DNS (RFC 4592 section 2.2.2), and in BIND. In a policy zone a
            # rule for one name would then exempt its neighbours from the rule for their domain. As Unbound, we do not.
            (one, types): (f"NOERROR; {one} {types} {theirs}", f"NOERROR; {ours}one.rpz.")
            for one in ("empty.wild.q.lab.", "b.empty.wild.q.lab.")
            for types, theirs, ours in (("A", "203.0.113.7", f"{one} A 192.0.2.2; "), ("AAAA", "2001:db8:1::7", ""),
                                        ("TXT", '"lab"', ""))
        }),
    "client": Scenario({"one.rpz": """
32.2.0.0.127.rpz-client-ip CNAME *.
32.3.0.0.127.rpz-client-ip CNAME rpz-passthru.
32.4.0.0.127.rpz-client-ip A 192.0.2.1
32.5.0.0.127.rpz-client-ip CNAME www.garden.
32.6.0.0.127.rpz-client-ip CNAME *.garden.
32.7.0.0.127.rpz-client-ip CNAME rpz-drop.
32.8.0.0.127.rpz-client-ip CNAME rpz-tcp-only.
24.0.9.0.127.rpz-client-ip CNAME *.
28.16.9.0.127.rpz-client-ip CNAME .
128.1.zz.rpz-client-ip CNAME .
nx.q.lab CNAME .
alias.q.lab CNAME www.garden.
32.8.113.0.203.rpz-ip CNAME .
"""}, "nx.q free.q to-nx.q alias.q to-alias.q listed",
        (PLAIN, *(f"127.0.0.{last}" for last in range(2, 9)), "127.0.9.1", "127.0.9.17", "::1")),
    "address": Scenario({"one.rpz": """
32.8.113.0.203.rpz-ip CNAME .
32.9.113.0.203.rpz-ip CNAME *.
32.10.113.0.203.rpz-ip CNAME rpz-drop.
32.11.113.0.203.rpz-ip CNAME rpz-tcp-only.
32.12.113.0.203.rpz-ip A 192.0.2.1
32.12.113.0.203.rpz-ip A 192.0.2.2
32.12.113.0.203.rpz-ip TXT text
32.13.113.0.203.rpz-ip CNAME www.garden.
32.15.113.0.203.rpz-ip CNAME *.garden.
32.14.113.0.203.rpz-ip CNAME rpz-passthru.
48.zz.2.db8.2001.rpz-ip CNAME .
128.9.zz.2.db8.2001.rpz-ip AAAA 2001:db8::1
pass.q.lab CNAME rpz-passthru.
*.pass.q.lab CNAME rpz-passthru.
"""}, """listed two both drops tcps locals goes goeswild passes six mapped to-listed.q to-listed.pass.q free.q"""),
    "name server": Scenario({"one.rpz": """
ns.evil.lab.rpz-nsdname CNAME .
ns.hosting.garden.rpz-nsdname CNAME *.
32.11.232.20.127.rpz-nsip A 192.0.2.1
128.1.zz.rpz-nsip CNAME www.garden.
"""}, "www.evil www.sub.evil www.addr www.six www.good www.hosted x.hosting.garden. none.addr none.evil"),
    "kinds of triggers": Scenario({"one.rpz": """
32.2.0.0.127.rpz-client-ip A 192.0.2.1
listed.lab A 192.0.2.2
32.8.113.0.203.rpz-ip A 192.0.2.3
32.9.113.0.203.rpz-ip A 192.0.2.31
29.8.113.0.203.rpz-ip A 192.0.2.32
www.evil.lab A 192.0.2.21
ns.evil.lab.rpz-nsdname A 192.0.2.4
32.10.232.20.127.rpz-nsip A 192.0.2.5
ns.addr.lab.rpz-nsdname A 192.0.2.41
32.11.232.20.127.rpz-nsip A 192.0.2.51
32.13.232.20.127.rpz-nsip A 192.0.2.52
"""}, "listed two both locals free.q www.evil none.evil www.addr www.good www.hosted www.garden. to-listed.q none",
        (PLAIN, GUEST)),
    "servers before addresses": Scenario({"one.rpz": """
24.0.113.0.203.rpz-ip A 192.0.2.3
ns.addr.lab.rpz-nsdname A 192.0.2.4
"""}, "www.addr free.q", different={
        # Section 5 of the draft has response addresses first. We do not query forbidden servers, so there are none.
        ("www.addr.lab.", "A"): ("NOERROR; www.addr.lab. A 192.0.2.3; one.rpz.",
                                 "NOERROR; www.addr.lab. A 192.0.2.4; one.rpz."),
    }),
    "servers for all clients": Scenario({"one.rpz": """
32.2.0.0.127.rpz-client-ip CNAME rpz-passthru.
ns.addr.lab.rpz-nsdname CNAME .
"""}, "www.addr free.q", (GUEST,), different={
        # The query to forbidden servers that is not sent would be for all clients of the view, over UDP and TCP. So no
        # client is exempt by its address, and TCP-Only rules do not apply (the next scenario).
        ("www.addr.lab.", rtype): (f"NOERROR; www.addr.lab. {rtype} {rdata}", "NXDOMAIN; one.rpz.")
        for rtype, rdata in (("A", "203.0.113.7"), ("AAAA", "2001:db8:1::7"), ("TXT", '"addr"'))
    }),
    "TCP for servers": Scenario({"one.rpz": "ns.good.lab.rpz-nsdname CNAME rpz-tcp-only."}, "www.good", different={
        ("www.good.lab.", rtype): ("truncated", f"NOERROR; www.good.lab. {rtype} {rdata}")
        for rtype, rdata in (("A", "203.0.113.7"), ("AAAA", "2001:db8:1::7"), ("TXT", '"good"'))
    }),
    "zones in order": Scenario({"one.rpz": """
32.8.113.0.203.rpz-ip A 192.0.2.1
pass.q.lab CNAME rpz-passthru.
passed-nx.q.lab CNAME rpz-passthru.
two.q.lab A 192.0.2.11
""", "two.rpz": """
32.2.0.0.127.rpz-client-ip A 192.0.2.2
nx.q.lab CNAME .
pass.q.lab CNAME .
listed.lab A 192.0.2.21
alias.q.lab CNAME www.garden.
two.q.lab A 192.0.2.22
""", "three.rpz": """
nx.q.lab A 192.0.2.3
*.q.lab A 192.0.2.31
ns.evil.lab.rpz-nsdname CNAME *.
"""}, """nx.q pass.q listed alias.q two.q free.q www.evil to-listed.q passed-nx.q to-nx.q www.garden. www.good""",
        (PLAIN, GUEST)),
    "overrides": Scenario({
        "nx.rpz": "nx.q.lab A 192.0.2.1",
        "no.rpz": "nodata.q.lab CNAME .",
        "pass.rpz": "pass.q.lab CNAME .",
        "drop.rpz": "drop.q.lab CNAME .",
        "tcp.rpz": "tcp.q.lab CNAME .",
        "cname.rpz": """
alias.q.lab CNAME .
www.garden CNAME .
32.8.113.0.203.rpz-ip CNAME .
ns.evil.lab.rpz-nsdname CNAME .
hole.q.lab CNAME rpz-passthru.
32.2.0.0.127.rpz-client-ip CNAME .
""",
        "wild.rpz": "*.wild.q.lab CNAME .",
        "log.rpz": "free.q.lab CNAME .",
        "given.rpz": "given.q.lab CNAME .",
    }, """nx.q nodata.q pass.q drop.q tcp.q alias.q www.garden. listed www.evil hole.q x.wild.q free.q given.q
        other.q""",
        (PLAIN, GUEST), {
            "nx.rpz": "nxdomain", "no.rpz": "nodata", "pass.rpz": "passthru", "drop.rpz": "drop", "tcp.rpz": "tcp-only",
            "cname.rpz": "cname www.garden", "wild.rpz": "cname *.garden", "log.rpz": "disabled", "given.rpz": "given",
        }, {
            # The garden itself has an alias to itself in BIND, with its data behind it. Resolvers of clients may call
            # that a loop. A CNAME of a rule to the own name is PASSTHRU (section 3.3 of the draft), so it is one here.
            ("www.garden.", "A"): ("NOERROR; www.garden. A 203.0.113.7; www.garden. CNAME www.garden.; cname.rpz.",
                                   "NOERROR; www.garden. A 203.0.113.7"),
            ("www.garden.", "AAAA"): (
                "NOERROR; www.garden. AAAA 2001:db8:1::7; www.garden. CNAME www.garden.; cname.rpz.",
                "NOERROR; www.garden. AAAA 2001:db8:1::7"),
            ("www.garden.", "TXT"): ('NOERROR; www.garden. CNAME www.garden.; www.garden. TXT "garden"; cname.rpz.',
                                     'NOERROR; www.garden. TXT "garden"'),
        }),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_answer_alike(name: str, served: Names, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    qnames = [one if one.endswith(".") else f"{one}.lab." for one in scenario.qnames.split()]
    different, expected = {}, {}
    with both(tmp_path, served, scenario) as subjects:
        for client, qname, qtype in itertools.product(scenario.clients, qnames, TYPES):
            theirs, ours = (answer(subject, client, qname, qtype) for subject in subjects)
            stated = scenario.different.get((qname, c.type_to_text(qtype)), ())
            if stated:
                expected[client, qname, qtype] = stated
            if theirs != ours:
                different[client, qname, qtype] = theirs, ours
    assert different == expected
