"""World: the tables make a consistent DNS tree, checked by resolving from the root with a simple resolver.

The simple resolver of this file has no cache and no policy; its results must be those of the tables.
"""

import ipaddress

import pytest

from resolver.playground import EdnsFault, World, Zone, ZoneError, world_tables
from resolver.playground.__main__ import main, specials_text
from resolver.playground.export import export, group_servers
from resolver.playground.signed import SPECIALS, signed_world
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

MAX_STEPS = 60
MAX_ALIASES = 16


@pytest.fixture(scope="module")
def world() -> World:
    return World()


class Walker:
    """Follows referrals and aliases; fails (None) where no server helps."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.steps = 0

    def resolve(self, qname: bytes, qtype: int) -> int | None:
        """The response code at the end of all aliases; None when there is no end."""
        aliases = 0
        while True:
            view = self.lookup(qname, qtype)
            if view is None:
                return None
            start = qname
            while alias := next((r for r in view.answer if r.rtype == c.CNAME and names.equal(r.name, qname)), None):
                qname = alias.targets()[0]
                aliases += 1
                if aliases > MAX_ALIASES:
                    return None
            here = view.rcode == c.NXDOMAIN or any(names.equal(r.name, qname) for r in view.answer + view.authority)
            if qname is start or here or any(r.rtype == c.SOA for r in view.authority):
                return view.rcode

    def lookup(self, qname: bytes, qtype: int) -> MessageView | None:
        addresses = [address for _, found in self.world.root_hints for address in found]
        depth = -1
        while True:
            self.steps += 1
            if self.steps > MAX_STEPS:
                return None
            referral = None
            for address in addresses:
                view = self.ask(address, qname, qtype)
                if view is None or view.rcode not in (c.NOERROR, c.NXDOMAIN):
                    continue
                if view.aa:
                    return view
                cut = next((r for r in view.authority if r.rtype == c.NS), None)
                if cut is not None and names.label_count(cut.name) > depth:
                    referral = (view, cut)
                    break
            if referral is None:
                return None
            view, cut = referral
            depth = names.label_count(cut.name)
            addresses = self.addresses_of(view, cut.targets())

    def addresses_of(self, view: MessageView, hosts: list[bytes]) -> list[str]:
        both = (c.A, c.AAAA)
        glue = [r for r in view.additional if r.rtype in both and any(names.equal(r.name, host) for host in hosts)]
        found = [str(ipaddress.ip_address(rdata)) for r in glue for rdata in r.rdatas()]
        for host in hosts:
            if not found:
                answer = self.lookup(host, c.A)
                sets = [] if answer is None else [r for r in answer.answer if r.rtype == c.A]
                found += [str(ipaddress.ip_address(rdata)) for r in sets for rdata in r.rdatas()]
        return found

    def ask(self, address: str, qname: bytes, qtype: int) -> MessageView | None:
        for payload, tcp in ((1232, False), (None, False), (1232, True)):
            reply = self.world.answer(address, make_query(9, qname, qtype, edns_payload=payload), tcp=tcp)
            if reply is None:
                continue
            view = MessageView.parse(reply)
            if view.id == 9 and not view.tc and view.rcode not in (c.FORMERR, c.NOTIMP):
                return view
        return None


@pytest.mark.parametrize("special", world_tables.SPECIALS, ids=lambda special: f"{special.qname}{special.qtype}")
def test_every_special_name_behaves_as_documented(world: World, special: world_tables.TestQuestion) -> None:
    walker = Walker(world)
    rcode = walker.resolve(names.from_text(special.qname), c.type_from_text(special.qtype))
    assert c.rcode_to_text(c.SERVFAIL if rcode is None else rcode) == special.rcode


def test_every_special_name_is_explained_below_about(world: World) -> None:
    for special in world_tables.SPECIALS:
        owner = (special.qname.removesuffix("playground.") or special.qname) + "about.playground."
        found = world.zones["about.playground."].lookup(names.from_text(owner), c.TXT)
        assert special.about.encode() in found.rrsets[0].packed


def test_every_zone_explains_itself(world: World) -> None:
    for origin, zone in world.zones.items():
        assert world_tables.ZONES[origin].about.encode() in zone.nodes[zone.origin][c.TXT].packed


def test_all_servers_live_on_loopback_and_at_one_address_each(world: World) -> None:
    addresses = [server.address for server in world.servers.values()]
    assert len(set(addresses)) == len(addresses)
    network = ipaddress.ip_network("127.20.0.0/16")
    assert [address for address in addresses if ipaddress.ip_address(address) not in network] == ["::1"]


def test_parents_agree_with_children_except_where_documented(world: World) -> None:
    for origin, zone in world.zones.items():
        for cut in zone.cuts:
            child = next(z for z in world.zones.values() if z.origin == cut)
            spec = world_tables.ZONES[names.to_text(cut)]
            own = {names.lower(host) for host in child.nodes[cut][c.NS].targets()}
            hidden = {names.from_text(name) for name in spec.unlisted}
            assert {names.lower(host) for host in zone.nodes[cut][c.NS].targets()} == own - hidden, origin


def test_addresses_without_a_server_do_not_answer(world: World) -> None:
    query = make_query(1, names.from_text("www.dead.playground."), c.A)
    assert world.answer("127.20.15.1", query) is None
    assert world.answer("127.20.99.99", query) is None
    assert world.answer("127.20.15.4", make_query(1, names.from_text("www.half-dead.playground."), c.A)) is not None


def test_servers_that_refer_upwards_refer_to_the_root(world: World) -> None:
    query = make_query(1, names.from_text("www.upward.playground."), c.A)
    view = MessageView.parse(world.answer("127.20.14.3", query))
    assert [(rrset.name, rrset.rtype) for rrset in view.authority] == [(names.ROOT, c.NS)] and not view.aa


def test_delays_are_reported(world: World) -> None:
    assert world.delay("127.20.18.1") > 0
    assert world.delay("127.20.0.1") == world.delay("127.20.15.1") == 0


def test_hints_are_a_master_file(world: World) -> None:
    sets = present.hints_from_text(world.hints_text())
    assert sum(len(rrset) for rrset in sets if rrset.rtype == c.A) == len(world.root_hints) == 3


def test_small_worlds_can_be_defined() -> None:
    servers = {"a.root.": world_tables.ServerSpec("127.20.200.1"), "ns.one.": world_tables.ServerSpec("127.20.200.2")}
    zones = {
        ".": world_tables.ZoneSpec(("a.root.",), "root"),
        "one.": world_tables.ZoneSpec(("ns.one.",), "one", "www A 192.0.2.1\n"),
    }
    small = World(zones, servers, ())
    assert Walker(small).resolve(names.from_text("www.one."), c.A) == c.NOERROR
    with pytest.raises(ValueError, match=r"ns\.two\."):
        World({**zones, "two.": world_tables.ZoneSpec(("ns.two.",), "two")}, servers, ())
    with pytest.raises(ValueError, match="root"):
        World({"one.": zones["one."]}, servers, ())
    with pytest.raises(ZoneError):
        World({**zones, "one.": world_tables.ZoneSpec(("ns.one.",), "one", "www A not-an-address\n")}, servers, ())


# --- export -----------------------------------------------------------------------------------------------------------


def test_groups_keep_parents_from_children(world: World) -> None:
    groups = group_servers(world)
    assert sum(len(group) for group in groups) == len(world.authorities)
    for group in groups:
        held = {
            origin
            for server in group
            for origin in server.zones
            if server.authority.quirks.rcode is None and not server.authority.quirks.upward
        }
        for server in group:
            for origin in held - {*server.zones}:
                assert not any(
                    names.is_subdomain(names.from_text(origin), names.from_text(above))
                    for above in server.zones
                    if above in held
                ), (server.name, origin)
            assert not held & {*server.refuses}


@pytest.mark.parametrize("daemon", ["nsd", "knot", "bind"])
def test_export_writes_zones_that_read_back(world: World, daemon: str, tmp_path) -> None:
    written = export(world, tmp_path, daemon, port=5353)
    assert {origin for process in written.processes for origin in process.zones} == {*world.zones} - {
        "lame-all.playground.",
        "upward.playground.",
        "servfail.playground.",
        "dead.playground.",
    }
    for process in written.processes:
        assert process.command[0] in ("nsd", "knotd", "named")
        text = next(process.directory.glob("*.conf")).read_text()
        assert all(address in text for address in process.addresses)
        for origin in process.zones:
            file = process.directory / ("root.zone" if origin == "." else f"{origin[:-1]}.zone")
            assert Zone.from_text(origin, file.read_text()).nodes == world.zones[origin].nodes


def test_export_refuses_unknown_servers(world: World, tmp_path) -> None:
    with pytest.raises(ValueError, match="bind, knot, nsd"):
        export(world, tmp_path, "djbdns", port=53)


def test_command_line(tmp_path, capsys) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert listed == specials_text(signed_world(0)) and len(listed.splitlines()) == len(SPECIALS)
    assert "bogus     7   All signatures have expired." in listed
    assert main(["--export", str(tmp_path), "--server", "knot", "--port", "5399"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert (tmp_path / "root.hints").exists() and all(line.startswith("knotd -c ") for line in printed[3:])
    assert main(["--export", "/proc/nowhere"]) == 1
    assert "playground:" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--server", "djbdns"])
    assert stopped.value.code == 2


def test_faults_have_descriptions() -> None:
    assert all(fault.value for fault in EdnsFault)
