"""A host that has IPv6 only resolves names whose servers have IPv4 addresses, through a NAT64."""

from ipaddress import IPv6Address, ip_address

import pytest
from support.minet import COM_ZONE, NET_ZONE, ROOT_ADDRESS, STANDARD, addresses, build, standard

from resolver.cache import Store
from resolver.iterate import DelegationCache
from resolver.iterate.forward import configured_cuts
from resolver.nat64 import ServerNat64
from resolver.settings import DnssecSettings, ForwardZone, IterationSettings, Settings, StubZone, ViewSettings
from resolver.wire import name as names

PREFIX = "2001:db8:64::/96"
PREFIXES = ("2001:db8::/32", "2001:db8:100::/40", "2001:db8:122::/48", "2001:db8:122:300::/56", "2001:db8:122:344::/64",
            PREFIX)
NS1, NS2 = "192.0.2.1", "192.0.2.2"


def behind(address, prefix=PREFIX):
    nat64 = ServerNat64.create(prefix)
    assert nat64 is not None
    return nat64.reach(address)


def world(population=STANDARD, prefix=PREFIX, **more):
    """A host without IPv4: all servers are behind the translator."""
    return build({behind(address, prefix): zones for address, zones in population.items()}, nat64_prefix=prefix, **more)


@pytest.mark.parametrize("do_ip4", [False, True])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_are_resolved_over_ipv6_only(prefix, do_ip4):
    m = world(prefix=prefix, do_ip4=do_ip4)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    asked = {packet.address for packet in m.net.log}
    assert asked <= {behind(one, prefix) for one in STANDARD}
    assert asked >= {behind(ROOT_ADDRESS, prefix), behind("192.5.6.30", prefix)}


def test_without_the_translator_such_a_host_resolves_nothing():
    m = build({behind(address): zones for address, zones in STANDARD.items()}, do_ip4=False)
    assert m.ask("www.example.com.").failure is not None
    assert not m.net.log


def test_the_infrastructure_cache_has_the_address_of_the_path():
    m = world()
    m.ask("www.example.com.")
    known = [one for one in (NS1, NS2) if m.store.servers.find((behind(one), 53)) is not None]
    assert known
    assert not any(m.store.servers.find((one, 53)) for one in STANDARD)


def test_a_server_without_glue_is_looked_up_by_its_a_records():
    com = COM_ZONE + "\nother 7200 IN NS ns.other.net.\n"
    net = NET_ZONE + "\nother 7200 IN NS ns.other\nns.other 7200 IN A 192.0.2.9\n"
    host = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.9\n"
    other = "@ 60 IN SOA ns.other.net. n 1 2 3 4 5\n@ 60 IN NS ns.other.net.\n@ 60 IN A 192.0.2.99\n"
    m = world(standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)],
                       a192_0_2_9=[("other.com.", other), ("other.net.", host)]), do_ip4=False)
    assert addresses(m.ask("other.com.")) == ["192.0.2.99"]
    assert m.net.asked(behind("192.0.2.9"))


@pytest.mark.parametrize("refused", ["192.0.2.0/31", f"{behind(NS1)}/128"])
def test_addresses_that_must_not_be_queried_are_those_of_the_server_or_of_the_path(refused):
    for seed in range(4):
        m = world(do_not_query_addresses=(refused,), seed=seed)
        assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
        assert m.net.asked(behind(NS2)) and not m.net.asked(behind(NS1))


@pytest.mark.parametrize(("glue", "is_queried"), [("192.0.2.7", True), ("10.0.0.7", False), ("127.0.0.1", False)])
def test_a_zone_cannot_have_an_ipv4_address_queried_that_is_forbidden(glue, is_queried):
    """Its own AAAA record has the prefix of the translator."""
    own = str(IPv6Address(f"2001:db8:64::{glue}"))
    com = COM_ZONE + f"\nodd 7200 IN NS ns.odd\nns.odd 7200 IN AAAA {own}\n"
    odd = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\n@ 60 IN A 192.0.2.99\n"
    population = {behind(one): zones for one, zones in standard(a192_5_6_30=[("com.", com)]).items()}
    population[own] = [("odd.com.", odd)]
    m = build(population, nat64_prefix=PREFIX, do_not_query_addresses=("10.0.0.0/8",))
    assert (addresses(m.ask("odd.com.")) == ["192.0.2.99"]) is is_queried
    assert bool(m.net.asked(own)) is is_queried


@pytest.mark.parametrize("prefix", PREFIXES)
def test_one_server_has_one_address_whatever_fills_the_other_bits(prefix):
    """Otherwise a zone could have many servers of one, and the limits of a server would not hold."""
    delegations = DelegationCache(
        Store.create(1 << 20, seed=bytes(16)), Settings(iteration=IterationSettings(nat64_prefix=prefix)), own=(),
        configured={},
    )
    packed = bytearray(ip_address(behind(NS1, prefix)).packed)
    if prefix != PREFIX:
        packed[8] = 0x5A
        packed[15] = 7
    assert delegations.address_of(bytes(packed)) == behind(NS1, prefix)


@pytest.mark.parametrize("prefix", ["fe80::/64", "ff0e::/96", "::ffff:0:0/96"])
def test_a_prefix_to_which_nothing_is_routed_is_refused(prefix):
    with pytest.raises(ValueError, match=r"iteration\.nat64_prefix: .* is link-local, multicast or IPv4-mapped"):
        IterationSettings(nat64_prefix=prefix)


def test_forward_and_stub_zones():
    settings = Settings(
        dnssec=DnssecSettings(trust_anchors=()), iteration=IterationSettings(nat64_prefix=PREFIX),
        forward=(ForwardZone("a.", ("192.0.2.1", "2001:db8::1")), ForwardZone("local.", ("127.0.0.1",)),
                 ForwardZone("tls.", ("tls://192.0.2.3#dns.example",))),
        stub=(StubZone("b.", ("192.0.2.2:5300",)),),
        view=(ViewSettings(name="v", clients=("10.0.0.0/8",), forward=(ForwardZone("c.", ("192.0.2.4",)),)),),
    )
    cuts = configured_cuts(settings, settings.view[0])
    found = {names.to_text(zone): [(one.address, one.port) for one in cut.servers] for zone, cut in cuts.items()}
    assert found == {
        "a.": [(behind("192.0.2.1"), 53), ("2001:db8::1", 53)], "local.": [("127.0.0.1", 53)],
        "tls.": [(behind("192.0.2.3"), 853)], "b.": [(behind("192.0.2.2"), 5300)], "c.": [(behind("192.0.2.4"), 53)],
    }
