"""Client subnets at the side of the client: whose option counts, what is sent for whom, and what the reply has."""

import pytest
from support.service_parts import CLIENT, Parts, positive, query

from resolver.cache.scoped import ALL_CLIENTS, NOT_SHARED, UNSENT, Scope
from resolver.net.client_subnet import ClientSide
from resolver.net.match import make_packet
from resolver.net.subnet_option import with_subnet
from resolver.net.tls_upstream import with_options
from resolver.settings import PolicySettings, Settings, SubnetSettings
from resolver.wire import WireError
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.client_subnet import Subnet, encode_subnet
from resolver.wire.edns import options_to_wire
from resolver.wire.message import MessageView

FAR = ("203.0.113.9", 5353)
THEIRS = (bytes([198, 51, 100, 0]), 24)
OWN = (bytes([203, 0, 113, 0]), 24)
OPEN = PolicySettings(allow=("0.0.0.0/0",))
NONE_WANTED = b"\0\1\0\0"


def side(*trusted: str, **more: int) -> ClientSide:
    return ClientSide(SubnetSettings(zones=("example.com",), trusted_clients=trusted, **more))


def option(content: bytes) -> bytes:
    return options_to_wire([(c.OPTION_ECS, content)])


@pytest.mark.parametrize(
    ("address", "subnet"),
    [
        ("203.0.113.9", OWN), ("2a00:1234:5678:9abc:def0::1", (bytes.fromhex("2a00123456789a") + bytes(9), 56)),
        ("fe80::1%eth0", None), ("10.1.2.3", None), ("127.0.0.1", None), ("192.168.7.7", None), ("172.31.0.1", None),
        ("172.32.0.1", (bytes([172, 32, 0, 0]), 24)), ("100.64.1.1", None), ("169.254.0.1", None), ("0.0.0.0", None),
        ("224.0.0.1", None), ("255.255.255.255", None), ("::1", None), ("::", None), ("fd00::1", None),
        ("ff02::1", None),
    ],
)
def test_the_subnet_of_an_address(address: str, subnet: Subnet | None) -> None:
    assert side().subnet_of(address, b"") == subnet


def test_the_lengths_are_those_of_the_settings() -> None:
    short = side(ipv4_prefix=9, ipv6_prefix=33)
    assert short.subnet_of("203.255.1.1", b"") == (bytes([203, 128, 0, 0]), 9)
    assert short.subnet_of("2a00:0:ffff::", b"") == (bytes.fromhex("2a000000 80") + bytes(11), 33)
    assert side(ipv4_prefix=32).subnet_of("203.0.113.9", b"") == (bytes([203, 0, 113, 9]), 32)


def test_only_trusted_clients_choose_their_subnet() -> None:
    sent = option(encode_subnet(THEIRS))
    assert side().subnet_of("203.0.113.9", sent) == OWN
    trusting = side("203.0.113.0/28")
    assert trusting.subnet_of("203.0.113.9", sent) == THEIRS
    assert trusting.subnet_of("203.0.113.99", sent) == OWN
    assert trusting.subnet_of("203.0.113.9", b"") == OWN
    longer = option(encode_subnet((bytes([198, 51, 100, 77]), 32)))
    assert trusting.subnet_of("203.0.113.9", longer) == THEIRS, "cut to the length of the settings"
    shorter = option(encode_subnet((bytes([198, 0, 0, 0]), 8)))
    assert trusting.subnet_of("203.0.113.9", shorter) == (bytes([198, 0, 0, 0]), 8)
    private = option(encode_subnet((bytes([10, 0, 0, 0]), 24)))
    assert trusting.subnet_of("203.0.113.9", private) is None
    other = (bytes.fromhex("2a001234") + bytes(12), 32)
    assert trusting.subnet_of("203.0.113.9", option(encode_subnet(other))) == other


def test_every_client_may_ask_that_none_is_sent() -> None:
    for one in (side(), side("203.0.113.0/24")):
        assert one.subnet_of("203.0.113.9", option(NONE_WANTED)) is None


@pytest.mark.parametrize("content", [b"", b"\0\1\x18\0\xc6", b"\0\1\x18\x18\xc6\x33\x64", b"\0\1\0\7"])
def test_a_malformed_option_counts_for_trusted_clients_only(content: bytes) -> None:
    assert side().subnet_of("203.0.113.9", option(content)) == OWN
    with pytest.raises(WireError):
        side("203.0.113.9").subnet_of("203.0.113.9", option(content))


# --- through the service ----------------------------------------------------------------------------------------------


def parts(*trusted: str) -> Parts:
    return Parts(Settings(client_subnet=SubnetSettings(zones=("example.com",), trusted_clients=trusted), policy=OPEN))


def content_of(view: MessageView) -> bytes | None:
    return None if view.edns is None else view.edns.get(c.OPTION_ECS)


def ask(p: Parts, content: bytes | None, scope: Scope | None) -> MessageView:
    packet = query(options=[] if content is None else [(c.OPTION_ECS, content)])
    outcome = positive()
    outcome.scope = scope
    p.ask(packet, peer=FAR)
    p.mesh.finish(outcome)
    return p.sink.last


def test_the_query_has_the_subnet_of_its_client() -> None:
    p = parts()
    p.ask(query(), peer=FAR)
    p.ask(query(), peer=CLIENT)
    assert [one.subnet for one in p.mesh.queries] == [OWN, None]
    p = Parts(Settings(policy=OPEN))
    p.ask(query(options=[(c.OPTION_ECS, encode_subnet(THEIRS))]), peer=FAR)
    assert p.mesh.queries[0].subnet is None, "not configured"


@pytest.mark.parametrize(
    ("scope", "length"),
    [((OWN[0], 20, 128), 20), ((OWN[0], 24, 24), 24), (None, 0), (ALL_CLIENTS, 0)],
)
def test_a_trusted_client_gets_its_option_back_with_the_scope(scope: Scope | None, length: int) -> None:
    content = encode_subnet((bytes([198, 51, 100, 7]), 32))
    assert content_of(ask(parts("203.0.113.0/24"), content, scope)) == content[:3] + bytes([length]) + content[4:]
    assert content_of(ask(parts("203.0.113.0/24"), None, scope)) is None
    assert content_of(ask(parts(), content, scope)) is None
    assert content_of(ask(parts("203.0.113.0/24"), NONE_WANTED, scope)) == b"\0\1\0" + bytes([length])


def test_an_answer_made_without_the_subnet_is_for_this_subnet_only() -> None:
    for length in (24, 32):
        content = encode_subnet((bytes([198, 51, 100, 0]), length))
        for scope in (UNSENT, NOT_SHARED):
            found = content_of(ask(parts("203.0.113.0/24"), content, scope))
            assert found == content[:3] + bytes([length]) + content[4:]
    assert content_of(ask(parts("203.0.113.0/24"), NONE_WANTED, UNSENT)) == b"\0\1\0\0"


def test_a_tailored_answer_is_not_kept_for_the_fast_path() -> None:
    for scope in ((OWN[0], 24, 128), ALL_CLIENTS, UNSENT):
        p = parts()
        ask(p, None, scope)
        p.ask(query(identity=8, options=[(c.OPTION_NSID, b"")]), peer=FAR)
        assert len(p.mesh.tickets) == 1, "asked again"
    p = parts()
    ask(p, None, None)
    content = encode_subnet(THEIRS)
    p.ask(query(identity=8, options=[(c.OPTION_ECS, content)]), peer=FAR)
    assert (p.mesh.tickets, content_of(p.sink.last)) == ([], None)
    p = parts("203.0.113.9")
    ask(p, None, None)
    p.ask(query(identity=8, options=[(c.OPTION_ECS, content)]), peer=FAR)
    assert (p.mesh.tickets, content_of(p.sink.last)) == ([], content), "for all: the scope is 0"


def test_a_malformed_option_of_a_trusted_client_is_a_format_error() -> None:
    p = parts("203.0.113.9")
    p.ask(query(options=[(c.OPTION_ECS, b"\0\1\x18\0\xc6")]), peer=FAR)
    assert (p.sink.last.rcode, p.mesh.queries) == (c.FORMERR, [])


def test_a_long_query_keeps_its_subnet_while_it_waits() -> None:
    content = encode_subnet(THEIRS)
    p = parts("203.0.113.9")
    p.ask(query(options=[(65_001, bytes(3000)), (c.OPTION_ECS, content)]), peer=FAR)
    outcome = positive()
    outcome.scope = (THEIRS[0], 24, 128)
    p.mesh.finish(outcome)
    assert content_of(p.sink.last) == content[:3] + b"\x18" + content[4:]


# --- queries to servers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cookie", [None, bytes(range(8)), bytes(range(24))])
def test_the_option_is_added_to_an_encoded_query(cookie: bytes | None) -> None:
    packet = make_packet(names.from_text("www.example.com."), c.A, 7, payload=1232, do=True, cookie=cookie)
    content = encode_subnet(THEIRS)
    view = MessageView.parse(with_subnet(packet, content, cookie))
    assert view.edns is not None
    assert view.edns.options == ([] if cookie is None else [(c.OPTION_COOKIE, cookie)]) + [(c.OPTION_ECS, content)]
    assert (view.edns.payload, view.edns.do) == (1232, True)


def test_an_encrypted_query_is_padded_after_the_option() -> None:
    packet = make_packet(names.from_text("www.example.com."), c.A, 7, payload=1232)
    content = encode_subnet(THEIRS)
    made = with_options(packet, keepalive=True, subnet=content)
    view = MessageView.parse(made)
    assert view.edns is not None
    assert [code for code, _ in view.edns.options] == [c.OPTION_KEEPALIVE, c.OPTION_ECS, c.OPTION_PADDING]
    assert view.edns.get(c.OPTION_ECS) == content
    assert len(made) == len(with_options(packet, keepalive=True))
