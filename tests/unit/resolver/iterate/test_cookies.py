"""Cookies with name servers (RFC 7873 section 5.3): given, returned, required, missing, forged.

The servers are those of the fake network; each follows the RFC or violates it in one way.
"""

from collections.abc import Callable

import pytest
from support.minet import COM_ZONE, EXAMPLE_ZONE, Minet, addresses, build, standard

from resolver import limits
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.wire import consts as c
from resolver.wire.build import Builder
from resolver.wire.message import MessageView

SERVERS = ("192.0.2.1", "192.0.2.2")
KEY = ("192.0.2.1", 53)
ZONE = EXAMPLE_ZONE + "".join(f"w{n} 300 IN A 192.0.2.80\n" for n in range(20))
ONE_SERVER = "".join(line for line in COM_ZONE.splitlines(keepends=True) if "ns2" not in line)
Option = Callable[[bytes, bool], tuple[int, bytes | None]]


def with_cookie(packet: bytes, rcode: int, cookie: bytes | None) -> bytes:
    """A reply to the query `packet` from the zone, with this response code and COOKIE option."""
    authority = Authority([Zone.from_text("example.com.", ZONE)])
    answer = MessageView.parse(authority.answer(packet, tcp=True))
    builder = Builder(65535, reserve_opt=60)
    query = MessageView.parse(packet)
    builder.start(query.id, c.QR | c.AA | (rcode & 15), query.qname, query.qtype)
    for rrset in answer.answer if rcode == c.NOERROR else []:
        builder.add(c.ANSWER, rrset)
    if query.edns is not None:
        builder.opt(1232, ext_rcode=rcode >> 4, options=[] if cookie is None else [(c.OPTION_COOKIE, cookie)])
    return builder.finish()


class Net:
    """The standard network, whose servers of example.com (the first `servers`) treat cookies as `variant` says."""

    def __init__(self, variant: Option, servers: int = 2, **iteration: object) -> None:
        self.variant = variant
        text = COM_ZONE if servers == 2 else ONE_SERVER
        self.m: Minet = build(standard(a192_5_6_30=[("com.", text)]), **iteration)
        for address in SERVERS:
            self.m.net.hosts[address] = self.serve
        self.seen: list[tuple[bytes | None, bool]] = []

    def serve(self, packet: bytes, tcp: bool) -> bytes:
        edns = MessageView.parse(packet).edns
        cookie = None if edns is None else edns.get(c.OPTION_COOKIE)
        self.seen.append((cookie, tcp))
        rcode, given = self.variant(cookie, tcp) if cookie is not None else (c.NOERROR, None)
        return with_cookie(packet, rcode, given)

    def ask(self, number: int) -> list[str]:
        self.seen.clear()
        return addresses(self.m.ask(f"w{number}.example.com."))


def gives(cookie: bytes, tcp: bool) -> tuple[int, bytes | None]:
    return c.NOERROR, cookie[:8] + b"server01"


def test_a_cookie_is_sent_given_and_sent_back() -> None:
    net = Net(gives)
    assert net.ask(0) == ["192.0.2.80"]
    first = net.seen[0][0]
    assert first is not None
    assert len(first) == 8
    for number in range(1, 20):
        assert net.ask(number) == ["192.0.2.80"]
        assert len(net.seen) == 1
    known = {info.cookie for address in SERVERS if (info := net.m.store.servers.find((address, 53)))}
    assert all(cookie.endswith(b"server01") for cookie in known)
    assert net.seen[0][0] in known
    assert len(known) == 2, "each server has its own cookie (RFC 9018 section 3)"


def test_a_changed_server_part_replaces_the_old_one() -> None:
    net = Net(gives, servers=1)
    net.ask(0)
    net.variant = lambda cookie, tcp: (c.NOERROR, cookie[:8] + b"another-server-part")
    net.ask(1)
    net.ask(2)
    assert net.seen[-1][0].endswith(b"another-server-part")


def test_badcookie_is_answered_with_the_new_cookie() -> None:
    def strict(cookie: bytes, tcp: bool) -> tuple[int, bytes | None]:
        return (c.NOERROR if cookie[8:] == b"server02" else c.BADCOOKIE), cookie[:8] + b"server02"

    net = Net(strict)
    assert net.ask(0) == ["192.0.2.80"]
    assert [(len(cookie), tcp) for cookie, tcp in net.seen] == [(8, False), (16, False)]


def test_badcookie_without_end_leads_to_tcp() -> None:
    net = Net(lambda cookie, tcp: (c.NOERROR if tcp else c.BADCOOKIE, cookie[:8] + b"changes!"))
    assert net.ask(0) == ["192.0.2.80"]
    assert [tcp for _, tcp in net.seen] == [False, False, True]


def test_badcookie_over_tcp_as_well_is_a_failure_that_ends() -> None:
    net = Net(lambda cookie, tcp: (c.BADCOOKIE, cookie[:8] + b"changes!"))
    before = len(net.m.net.log)
    assert net.m.ask("w0.example.com.").rcode == c.SERVFAIL
    assert len(net.m.net.log) - before <= 16


def test_servers_without_cookie_support_are_queried_normally() -> None:
    net = Net(lambda cookie, tcp: (c.NOERROR, None))
    net.ask(0)
    assert len(net.seen) == 1
    for number in range(1, 10):
        net.ask(number)
    assert net.seen[-1][0] is None
    net.m.net.sleep(net.m.mesh, limits.SERVER_COOKIELESS + 1)
    net.ask(10)
    assert net.seen[-1][0] is not None


def test_an_option_that_is_only_sent_back_is_no_cookie() -> None:
    net = Net(lambda cookie, tcp: (c.NOERROR, cookie[:8]))
    assert net.ask(0) == ["192.0.2.80"]
    assert len(net.seen) == 1
    info = net.m.store.servers.find((net.m.net.log[-1].address, 53))
    assert info is not None
    assert info.cookie == b""


def test_a_server_that_stops_sending_cookies_is_accepted_over_tcp_only() -> None:
    net = Net(gives, servers=1)
    net.ask(0)
    net.variant = lambda cookie, tcp: (c.NOERROR, None)
    assert net.ask(1) == ["192.0.2.80"]
    assert [(cookie is not None, tcp) for cookie, tcp in net.seen] == [(True, False), (True, True)]
    net.ask(2)
    assert net.seen == [(None, False)], "TCP said the same: it knows none any more"


def test_a_forged_reply_with_all_but_the_cookie_is_ignored() -> None:
    """An attacker who knows id, port and letter case, but has to guess the cookie."""
    net = Net(gives, servers=1)
    net.ask(0)
    forged = []

    def forge(ask, packet):
        if ask.server.address not in SERVERS:
            return []
        bad = with_cookie(packet, c.NOERROR, b"guessed!server01").replace(bytes([192, 0, 2, 80]), bytes([6, 6, 6, 6]))
        forged.append(bad)
        return [(0.001, bad)]

    net.m.net.forge = forge
    ignored = net.m.net.ignored
    assert net.ask(11) == ["192.0.2.80"]
    assert forged
    assert net.m.net.ignored == ignored + len(forged)


def test_a_forger_without_a_cookie_only_forces_tcp() -> None:
    net = Net(gives, servers=1)
    net.ask(0)

    def forge(ask, packet):
        bad = with_cookie(packet, c.NOERROR, None).replace(bytes([192, 0, 2, 80]), bytes([6, 6, 6, 6]))
        return [(0.001, bad)]

    net.m.net.forge = forge
    assert net.ask(11) == ["192.0.2.80"]
    assert net.seen[-1][1] is True
    net.m.net.forge = None
    net.ask(12)
    assert [(cookie[8:], tcp) for cookie, tcp in net.seen] == [(b"server01", False)], "what TCP proved stays known"


def test_a_server_that_fails_on_the_option_is_queried_without() -> None:
    net = Net(lambda cookie, tcp: (c.FORMERR, None))
    assert net.ask(0) == ["192.0.2.80"]
    assert [cookie is None for cookie, _ in net.seen] == [False, True]
    assert net.m.net.log[-1].edns == 1232, "EDNS itself is understood"


def test_cookies_can_be_switched_off() -> None:
    net = Net(gives, send_cookies=False)
    net.ask(0)
    assert {entry.cookie for entry in net.m.net.log} == {None}


@pytest.mark.parametrize("size", [9, 15, 41, 60])
def test_a_cookie_of_an_invalid_length_is_a_forgery(size: int) -> None:
    net = Net(lambda cookie, tcp: (c.NOERROR, (cookie[:8] + bytes(60))[:size]), servers=1)
    assert net.ask(0) == ["192.0.2.80"]
    assert net.m.net.ignored == 1, "it kept waiting"
    assert [cookie is None for cookie, _ in net.seen] == [False, True], "asked again, without"
