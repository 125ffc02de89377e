"""getaddrinfo with the resolver: arguments and results as in the C library, names from hosts, search list and DNS.

Where no name has to be resolved, the results are compared with those of the C library.
"""

import asyncio
import ipaddress
import socket

import pytest

import corenet
from resolver.addrinfo import AddressResolver, Target, install, order_destinations
from resolver.api import Answer, ResolveTimeout
from resolver.effects import Outcome, Question
from resolver.settings import Settings
from resolver.system import Watched, parse_hosts, parse_resolv_conf
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

EAI_NODATA = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)
EAI_ADDRFAMILY = getattr(socket, "EAI_ADDRFAMILY", socket.EAI_NONAME)

ZONE = {
    ("both.example.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("both.example.", "AAAA"): ["2001:db8::1"],
    ("four.example.", "A"): ["192.0.2.4"],
    ("six.example.", "AAAA"): ["2001:db8::6"],
    ("host.a.search.", "A"): ["192.0.2.10"],
    ("host.b.search.", "A"): ["192.0.2.11"],
    ("dotted.name.a.search.", "A"): ["192.0.2.12"],
    ("bare.", "A"): ["192.0.2.13"],
    ("9.2.0.192.in-addr.arpa.", "PTR"): ["nine.example."],
    ("text.example.", "TXT"): [],
}
ALIASES = {"alias.example.": "both.example."}
BROKEN = {"broken.example.", "broken.a.search."}
SLOW = {"slow.example."}


class FakeResolver:
    """Answers from ZONE and remembers what it was asked."""

    settings = Settings()

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def resolve(self, name, rdtype="A", **_):
        self.asked.append((name, rdtype))
        await asyncio.sleep(0)
        question = Question(names.from_text(name), c.type_from_text(rdtype))
        if name in SLOW:
            raise ResolveTimeout("too slow", question=question, rcode=c.SERVFAIL)
        target = ALIASES.get(name, name)
        texts = ZONE.get((target, rdtype))
        known = any(owner == target for owner, _ in ZONE)
        rcode = c.SERVFAIL if name in BROKEN else c.NOERROR if known else c.NXDOMAIN
        rdatas = [
            names.from_text(text) if rdtype == "PTR" else ipaddress.ip_address(text).packed for text in texts or ()
        ]
        rrsets = (RRset(names.from_text(target), question.qtype, 60, rdatas),) if rdatas else ()
        outcome = Outcome(question, rcode, list(rrsets), [], Verdict.INDETERMINATE, 60)
        return Answer(question, rcode, Verdict.INDETERMINATE, rrsets, 60, (), False, outcome)


def watched(data, parse):
    class Fixed(Watched):
        def _look(self):
            return None

        def _read(self):
            return data

    return Fixed("/nowhere", parse)


HOSTS = b"127.0.0.1 localhost\n192.0.2.77 fixed fixed.example\n2001:db8::77 fixed\n192.0.2.78 onlyfour\n"
CONF = b"search a.search b.search\noptions ndots:2\n"


@pytest.fixture
def fake():
    return FakeResolver()


@pytest.fixture
def ask(fake):
    """getaddrinfo as a plain function."""
    made = AddressResolver(fake, hosts=watched(HOSTS, parse_hosts), conf=watched(CONF, parse_resolv_conf))

    def call(host, port=80, family=0, type=socket.SOCK_STREAM, proto=0, flags=0):
        return asyncio.run(made.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags))

    call.names = made
    return call


def hosts_of(found):
    return [entry[4][0] for entry in found]


LITERALS = [
    ("127.0.0.1", 80, 0, 0, 0, 0),
    ("127.0.0.1", None, 0, 0, 0, 0),
    ("::1", "80", 0, 0, 0, 0),
    ("2001:DB8::0:1", 80, 0, socket.SOCK_STREAM, 0, 0),
    ("127.1", 80, 0, socket.SOCK_STREAM, 0, 0),
    ("0x7f000001", 80, 0, socket.SOCK_STREAM, 0, 0),
    ("127.0.0.1", 80, 0, socket.SOCK_DGRAM, 0, 0),
    ("127.0.0.1", 80, 0, 0, socket.IPPROTO_TCP, 0),
    ("127.0.0.1", 80, 0, 0, socket.IPPROTO_UDP, 0),
    ("127.0.0.1", 80, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_V4MAPPED),
    ("127.0.0.1", 80, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV),
    ("127.0.0.1", 80, 0, socket.SOCK_STREAM, 0, socket.AI_CANONNAME),
    (b"127.0.0.1", b"80", 0, socket.SOCK_STREAM, 0, 0),
    (None, 80, 0, socket.SOCK_STREAM, 0, 0),
    (None, 80, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE),
    (None, 80, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_PASSIVE),
    (None, 80, socket.AF_INET6, socket.SOCK_STREAM, 0, 0),
    ("127.0.0.1", None, 0, socket.SOCK_RAW, 0, 0),
    ("fe80::1%lo", 80, 0, socket.SOCK_STREAM, 0, 0),
    ("::ffff:192.0.2.1", 80, 0, socket.SOCK_STREAM, 0, 0),
]


@pytest.mark.parametrize("arguments", LITERALS, ids=str)
def test_literals_as_the_c_library_has_them(ask, fake, arguments):
    host, port, family, kind, proto, flags = arguments
    assert ask(*arguments) == socket.getaddrinfo(host, port, family, kind, proto, flags)
    assert fake.asked == []


ERRORS = [
    ("127.0.0.1", 80, socket.AF_INET6, socket.SOCK_STREAM, 0, 0),
    ("::1", 80, socket.AF_INET, socket.SOCK_STREAM, 0, 0),
    ("127.0.0.1", 80, 77, socket.SOCK_STREAM, 0, 0),
    ("127.0.0.1", 80, 0, 77, 0, 0),
    ("127.0.0.1", 80, 0, socket.SOCK_STREAM, socket.IPPROTO_UDP, 0),
    ("127.0.0.1", "no-such-service", 0, socket.SOCK_STREAM, 0, 0),
    ("127.0.0.1", "no-such-service", 0, 0, 0, 0),
    ("127.0.0.1", 80, 0, socket.SOCK_RAW, 0, 0),
    ("127.0.0.1", "http", 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICSERV),
    ("not-a-literal", 80, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST),
    (None, None, 0, socket.SOCK_STREAM, 0, 0),
]


@pytest.mark.parametrize("arguments", ERRORS, ids=str)
def test_errors_as_the_c_library_has_them(ask, arguments):
    with pytest.raises(socket.gaierror) as theirs:
        socket.getaddrinfo(*arguments)
    with pytest.raises(socket.gaierror) as ours:
        ask(*arguments)
    assert ours.value.errno == theirs.value.errno


@pytest.mark.parametrize("service", ["http", "https", "domain", "ntp"])
@pytest.mark.parametrize("kind", [0, socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_services_by_name_as_the_c_library_has_them(ask, service, kind):

    def result_of(function):
        try:
            return function("127.0.0.1", service, 0, kind)
        except socket.gaierror as error:
            return error.errno

    assert result_of(ask) == result_of(socket.getaddrinfo)


def test_ports_out_of_range_overflow(ask):
    with pytest.raises(OverflowError):
        ask("127.0.0.1", 65536)


def test_both_families_are_asked_together(ask, fake):
    found = ask("both.example.")
    assert sorted(hosts_of(found)) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert fake.asked == [("both.example.", "AAAA"), ("both.example.", "A")]
    assert all(entry[1] == socket.SOCK_STREAM and entry[4][1] == 80 for entry in found)


def test_one_family(ask, fake):
    assert hosts_of(ask("both.example.", family=socket.AF_INET)) == ["192.0.2.1", "192.0.2.2"]
    assert hosts_of(ask("both.example.", family=socket.AF_INET6)) == ["2001:db8::1"]
    assert fake.asked == [("both.example.", "A"), ("both.example.", "AAAA")]


def test_mapped_addresses(ask):
    flags = socket.AI_V4MAPPED
    assert hosts_of(ask("four.example.", family=socket.AF_INET6, flags=flags)) == ["::ffff:192.0.2.4"]
    assert hosts_of(ask("both.example.", family=socket.AF_INET6, flags=flags)) == ["2001:db8::1"]
    both = hosts_of(ask("both.example.", family=socket.AF_INET6, flags=flags | socket.AI_ALL))
    assert sorted(both) == ["2001:db8::1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"]


def test_canonical_name_stands_in_the_first_entry_only(ask):
    found = ask("alias.example.", flags=socket.AI_CANONNAME)
    assert [entry[3] for entry in found] == ["both.example"] + [""] * (len(found) - 1)
    assert {entry[3] for entry in ask("alias.example.")} == {""}


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("nothing.example.", socket.EAI_NONAME),
        ("text.example.", EAI_NODATA),
        ("broken.example.", socket.EAI_AGAIN),
        ("slow.example.", socket.EAI_AGAIN),
        ("a..b", socket.EAI_NONAME),
        ("", socket.EAI_NONAME),
        ("with space", socket.EAI_NONAME),
        ("x" * 64, socket.EAI_NONAME),
        (b"\xff", socket.EAI_NONAME),
    ],
)
def test_codes_of_failures(ask, host, code):
    with pytest.raises(socket.gaierror) as caught:
        ask(host)
    assert caught.value.errno == code


def test_no_data_in_one_family_is_no_failure(ask):
    assert hosts_of(ask("six.example.")) == ["2001:db8::6"]
    with pytest.raises(socket.gaierror) as caught:
        ask("six.example.", family=socket.AF_INET)
    assert caught.value.errno == EAI_NODATA


def test_the_hosts_file_precedes_dns(ask, fake):
    assert sorted(hosts_of(ask("FIXED"))) == ["192.0.2.77", "2001:db8::77"]
    assert hosts_of(ask("fixed.example.")) == ["192.0.2.77"]
    assert fake.asked == []


def test_hosts_file_without_the_family_leaves_it_to_dns(ask, fake):
    with pytest.raises(socket.gaierror):
        ask("onlyfour.", family=socket.AF_INET6)
    assert fake.asked == [("onlyfour.", "AAAA")]


def test_localhost_never_leaves_the_host(ask, fake):
    assert hosts_of(ask("localhost")) == ["127.0.0.1"]
    assert hosts_of(ask("localhost.", family=socket.AF_INET6)) == ["::1"]
    assert sorted(hosts_of(ask("x.localhost"))) == ["127.0.0.1", "::1"]
    assert fake.asked == []


def test_short_names_go_through_the_search_list_first(ask, fake):
    assert hosts_of(ask("host", family=socket.AF_INET)) == ["192.0.2.10"]
    assert hosts_of(ask("bare", family=socket.AF_INET)) == ["192.0.2.13"]
    assert [name for name, _ in fake.asked] == ["host.a.search.", "bare.a.search.", "bare.b.search.", "bare."]


def test_names_with_enough_dots_are_tried_as_absolute_first(ask, fake):
    with pytest.raises(socket.gaierror):
        ask("x.y.z", family=socket.AF_INET)
    assert [name for name, _ in fake.asked] == ["x.y.z.", "x.y.z.a.search.", "x.y.z.b.search."]


def test_a_final_dot_switches_the_search_list_off(ask, fake):
    with pytest.raises(socket.gaierror):
        ask("host.", family=socket.AF_INET)
    assert fake.asked == [("host.", "A")]


def test_a_broken_zone_in_the_search_list_does_not_lead_elsewhere(ask, fake):
    with pytest.raises(socket.gaierror) as caught:
        ask("broken", family=socket.AF_INET)
    assert caught.value.errno == socket.EAI_AGAIN
    assert fake.asked == [("broken.a.search.", "A")]


def test_no_data_outweighs_no_name_among_candidates(ask):
    with pytest.raises(socket.gaierror) as caught:
        ask("host", family=socket.AF_INET6)
    assert caught.value.errno == EAI_NODATA


# --- getnameinfo --------------------------------------------------------------------------------------------------


def nameinfo(ask, sockaddr, flags=0):
    return asyncio.run(ask.names.getnameinfo(sockaddr, flags))


def test_getnameinfo(ask, fake):
    assert nameinfo(ask, ("192.0.2.77", 80)) == ("fixed", "http")
    assert fake.asked == []
    assert nameinfo(ask, ("192.0.2.99", 65000)) == ("192.0.2.99", "65000")
    assert fake.asked == [("99.2.0.192.in-addr.arpa.", "PTR")]
    assert nameinfo(ask, ("127.0.0.1", 53), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == ("127.0.0.1", "53")
    assert nameinfo(ask, ("::ffff:192.0.2.77", 53, 0, 0), socket.NI_DGRAM) == ("fixed", "domain")
    with pytest.raises(socket.gaierror) as caught:
        nameinfo(ask, ("192.0.2.99", 1), socket.NI_NAMEREQD)
    assert caught.value.errno == socket.EAI_NONAME
    with pytest.raises(socket.gaierror):
        nameinfo(ask, ("name", 1))


def test_getnameinfo_from_dns(ask):
    assert nameinfo(ask, ("192.0.2.9", 22)) == ("nine.example", "ssh")


# --- order --------------------------------------------------------------------------------------------------------


def order(destinations, sources):
    """Sort texts; `sources` says which source address each would have (missing: none)."""

    def source_for(address, _scope):
        text = sources.get(str(address))
        return ipaddress.ip_address(text) if text else None

    return [
        str(one.address)
        for one in order_destinations([Target(ipaddress.ip_address(d)) for d in destinations], source_for)
    ]


@pytest.mark.parametrize(
    ("destinations", "sources", "expected"),
    [
        # RFC 6724 section 10.2, adapted where its examples need deprecated or home addresses
        (
            ["2001:db8:1::1", "198.51.100.121"],
            {"2001:db8:1::1": "2001:db8:1::2", "198.51.100.121": "169.254.13.78"},
            ["2001:db8:1::1", "198.51.100.121"],
        ),
        (
            ["2001:db8:1::1", "198.51.100.121"],
            {"2001:db8:1::1": "fe80::1", "198.51.100.121": "198.51.100.117"},
            ["198.51.100.121", "2001:db8:1::1"],
        ),
        (
            ["2001:db8:1::1", "10.1.2.3"],
            {"2001:db8:1::1": "2001:db8:1::2", "10.1.2.3": "10.1.2.4"},
            ["2001:db8:1::1", "10.1.2.3"],
        ),
        (
            ["2001:db8:1::1", "fe80::1"],
            {"2001:db8:1::1": "2001:db8:1::2", "fe80::1": "fe80::2"},
            ["fe80::1", "2001:db8:1::1"],
        ),
        (
            ["2001:db8:1::1", "2001:db8:3ffe::1"],
            {"2001:db8:1::1": "2001:db8:1::2", "2001:db8:3ffe::1": "2001:db8:3f44::2"},
            ["2001:db8:1::1", "2001:db8:3ffe::1"],
        ),
        (
            ["2002:c633:6401::1", "2001:db8:1::1"],
            {"2002:c633:6401::1": "2002:c633:6401::2", "2001:db8:1::1": "fe80::2"},
            ["2002:c633:6401::1", "2001:db8:1::1"],
        ),
        (
            ["2002:c633:6401::1", "2001:db8:1::1"],
            {"2002:c633:6401::1": "2002:c633:6401::2", "2001:db8:1::1": "2001:db8:1::2"},
            ["2001:db8:1::1", "2002:c633:6401::1"],
        ),
        # rule 1
        (["2001:db8::1", "192.0.2.1"], {"192.0.2.1": "192.0.2.9"}, ["192.0.2.1", "2001:db8::1"]),
        # without IPv6 of its own, unique local does not help to the Internet
        (["fd00::1", "192.0.2.1"], {"fd00::1": "fd00::9", "192.0.2.1": "192.0.2.9"}, ["192.0.2.1", "fd00::1"]),
        # rule 10: IPv4 keeps its order, so that load is shared
        (
            ["192.0.2.200", "192.0.2.8"],
            {"192.0.2.200": "192.0.2.9", "192.0.2.8": "192.0.2.9"},
            ["192.0.2.200", "192.0.2.8"],
        ),
        (["::1", "127.0.0.1"], {"::1": "::1", "127.0.0.1": "127.0.0.1"}, ["::1", "127.0.0.1"]),
        ([], {}, []),
    ],
)
def test_destination_order(destinations, sources, expected):
    assert order(destinations, sources) == expected
    assert order(destinations[::-1], sources) == expected or expected == ["192.0.2.200", "192.0.2.8"]


# --- installing ---------------------------------------------------------------------------------------------------


def test_install_makes_the_loop_use_it(fake):
    async def main():
        loop = asyncio.get_running_loop()
        install(loop, fake)
        found = await loop.getaddrinfo("four.example.", 80, type=socket.SOCK_STREAM)
        loop.set_resolver(None)
        return found

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        assert hosts_of(runner.run(main())) == ["192.0.2.4"]
    assert fake.asked


def test_install_on_a_loop_without_set_resolver_raises(fake):
    loop = asyncio.new_event_loop()
    with pytest.raises(TypeError, match="set_resolver"):
        install(loop, fake)
    loop.close()


# --- addresses as they come, and records ------------------------------------------------------------------------------


def streamed(ask, host, port=443):
    """Every list that `stream_addresses` yields."""

    async def main():
        return [hosts_of(found) async for found in ask.names.stream_addresses(host, port)]

    return asyncio.run(main())


@pytest.mark.parametrize("host", ["both.example", "four.example", "six.example", "alias.example", "bare", "host",
                                  "dotted.name", "fixed", "onlyfour", "localhost", "127.0.0.1", "::1"])  # fmt: skip
def test_the_last_list_is_what_getaddrinfo_returns(ask, host):
    lists = streamed(ask, host)
    assert lists[-1] == hosts_of(ask(host, 443)) and all(set(one) <= set(lists[-1]) for one in lists)


@pytest.mark.parametrize("host", ["nothing.example", "text.example", "broken.example", "slow.example", "a..b"])
def test_the_errors_are_those_of_getaddrinfo(ask, host):
    with pytest.raises(socket.gaierror) as expected:
        ask(host, 443)
    with pytest.raises(socket.gaierror) as found:
        streamed(ask, host)
    assert found.value.errno == expected.value.errno


@pytest.mark.parametrize(("held", "first"), [("AAAA", ["192.0.2.1", "192.0.2.2"]), ("A", ["2001:db8::1"])])
def test_addresses_come_before_the_other_answer(ask, fake, held, first):
    """The answer for one type is held; giving up ends the query for it."""
    ended = []
    plain = fake.resolve

    async def resolve(name, rdtype="A", **options):
        if rdtype == held:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(rdtype)
        return await plain(name, rdtype, **options)

    fake.resolve = resolve

    async def main():
        lists = ask.names.stream_addresses("both.example.", 443)
        found = await anext(lists)
        await lists.aclose()
        return found

    assert hosts_of(asyncio.run(main())) == first and ended == [held]


def test_a_failure_for_one_type_leaves_the_addresses_of_the_other(ask, fake):
    plain = fake.resolve

    async def resolve(name, rdtype="A", **options):
        if rdtype == "AAAA":
            raise ResolveTimeout("too slow", question=Question(names.from_text(name), c.AAAA), rcode=c.SERVFAIL)
        return await plain(name, rdtype, **options)

    fake.resolve = resolve
    assert streamed(ask, "both.example.") == [["192.0.2.1", "192.0.2.2"]]


class OneAnswer:
    """Answers every question alike."""

    settings = Settings()

    def __init__(self, rcode, verdict, rdatas, owner="www.example."):
        self.parts = rcode, verdict, rdatas, owner
        self.asked = []

    async def resolve(self, name, rdtype, **_):
        rcode, verdict, rdatas, owner = self.parts
        self.asked.append((name, rdtype))
        question = Question(names.from_text(name), rdtype)
        rrsets = (RRset(names.from_text(owner), rdtype, 60, rdatas),) if rdatas else ()
        outcome = Outcome(question, rcode, list(rrsets), [], verdict, 60)
        return Answer(question, rcode, verdict, rrsets, 60, (), False, outcome)


def records_of(resolver, name, rdtype=c.HTTPS):
    made = AddressResolver(resolver, hosts=watched(HOSTS, parse_hosts), conf=watched(CONF, parse_resolv_conf))
    return asyncio.run(made.lookup_records(name, rdtype))


@pytest.mark.parametrize(("verdict", "secure"), [(Verdict.SECURE, True), (Verdict.INSECURE, False),
                                                 (Verdict.INDETERMINATE, False)])  # fmt: skip
def test_records_with_their_owner_and_whether_they_are_secure(verdict, secure):
    resolver = OneAnswer(c.NOERROR, verdict, [b"\0\1\0"], owner="target.example.")
    assert records_of(resolver, "www.example") == ("target.example", secure, (b"\0\1\0",))
    # No search list: the name is complete.
    assert resolver.asked == [("www.example.", c.HTTPS)]
    for rcode in (c.NOERROR, c.NXDOMAIN):
        assert records_of(OneAnswer(rcode, verdict, []), "www.example") == ("www.example", secure, ())


@pytest.mark.parametrize(("verdict", "bogus"), [(Verdict.BOGUS, True), (Verdict.INDETERMINATE, False)])
def test_records_that_cannot_be_looked_up(verdict, bogus):
    with pytest.raises(corenet.loop.RecordLookupError) as caught:
        records_of(OneAnswer(c.SERVFAIL, verdict, []), "www.example")
    assert caught.value.bogus is bogus


def test_records_that_take_too_long():
    class Slow(OneAnswer):
        async def resolve(self, name, rdtype, **_):
            raise ResolveTimeout("too slow", question=Question(names.from_text(name), rdtype), rcode=c.SERVFAIL)

    with pytest.raises(corenet.loop.RecordLookupError, match="too slow") as caught:
        records_of(Slow(c.NOERROR, Verdict.SECURE, []), "www.example")
    assert not caught.value.bogus


@pytest.mark.parametrize("name", ["localhost", "www.localhost", "fixed", "fixed.example"])
def test_names_of_this_host_have_no_records(name):
    resolver = OneAnswer(c.NOERROR, Verdict.SECURE, [b"\0\1\0"])
    assert records_of(resolver, name) == (name, False, ()) and resolver.asked == []


def test_the_resolver_of_a_loop_is_found_when_it_has_records():
    async def main():
        loop = asyncio.get_running_loop()
        assert corenet.loop.record_resolver(loop) is None
        made = install(loop, FakeResolver())
        return corenet.loop.record_resolver(loop) is made

    assert corenet.run(main()) is True

    async def plain():
        return corenet.loop.record_resolver(asyncio.get_running_loop())

    assert asyncio.run(plain()) is None
