"""Client subnets against a model that compares `ipaddress` networks one by one."""

from ipaddress import ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.cache.scoped import ALL_CLIENTS, UNSENT, Scope, SubnetCache, covers, narrower
from resolver.wire import WireError
from resolver.wire.client_subnet import ADDRESS_BITS, PrefixSet, Subnet, encode_subnet, parse_subnet, truncate

NAME = b"\3www\7example\0"
# Few different bits, so that prefixes contain each other often.
octets = st.sampled_from((0, 1, 0x80, 0xC0, 0xFF))


@st.composite
def subnets(draw: st.DrawFn) -> Subnet:
    size = draw(st.sampled_from((4, 16)))
    length = draw(st.integers(1, size * 8))
    return truncate(bytes(draw(st.lists(octets, min_size=size, max_size=size))), length), length


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    kind = draw(st.integers(0, 9))
    if kind < 2:
        return (ALL_CLIENTS, UNSENT)[kind]
    address, length = draw(subnets())
    return address, length, length if draw(st.booleans()) else ADDRESS_BITS


def model_covers(scope: Scope, subnet: Subnet | None) -> bool:
    if scope in (ALL_CLIENTS, UNSENT):
        return scope == ALL_CLIENTS or subnet is None
    if subnet is None or len(scope[0]) != len(subnet[0]):
        return False
    inside: Any = ip_network(subnet)
    return inside.subnet_of(ip_network(scope[:2])) and scope[1] <= subnet[1] <= scope[2]


@given(scopes(), st.none() | subnets())
def test_a_scope_covers_what_its_network_contains(scope: Scope, subnet: Subnet | None) -> None:
    assert covers(scope, subnet) == model_covers(scope, subnet)


@given(st.lists(scopes(), max_size=30), st.lists(st.none() | subnets(), min_size=1, max_size=10))
def test_the_longest_prefix_that_fits_is_found(stored: list[Scope], asked: list[Subnet | None]) -> None:
    cache = SubnetCache(1 << 20, 1000)
    model: dict[Scope, int] = {}
    for number, scope in enumerate(stored):
        cache.put(NAME, 1, scope, number, 100, 60, 0)
        model[scope] = number
    assert len(cache) == len(model)
    asked = asked + [scope[:2] for scope in stored if scope[0]]
    for subnet in asked:
        found = cache.find(NAME, 1, subnet, 30)
        fitting = [scope for scope in model if model_covers(scope, subnet)]
        if not fitting:
            assert found is None
            continue
        assert found is not None
        best = max(fitting, key=lambda scope: (scope[1], -scope[2]))
        assert (found[0], found[1].value) == (best, model[best])
        assert cache.find(NAME, 1, subnet, 60) is None, "expired"
        cache.put(NAME, 1, best, model[best], 100, 60, 0)
        for scope in fitting:
            cache.put(NAME, 1, scope, model[scope], 100, 60, 0)


@given(subnets(), st.data())
def test_the_narrower_of_two_scopes_covers_whom_both_cover(subnet: Subnet, data: st.DataObject) -> None:
    def around() -> Scope | None:
        kind = data.draw(st.integers(0, 4))
        if kind == 0:
            return None
        if kind == 1:
            return ALL_CLIENTS
        if kind == 4:
            return UNSENT
        length = data.draw(st.integers(1, subnet[1]))
        return (*subnet, subnet[1]) if kind == 2 else (truncate(subnet[0], length), length, ADDRESS_BITS)

    one, other = around(), around()
    both = narrower(one, other)
    assert both == narrower(other, one)
    if UNSENT not in (one, other):
        assert covers(both, subnet)
    for client in (subnet, data.draw(subnets()), (truncate(subnet[0], 1), 1), None):
        assert covers(both, client) == (covers(one, client) and covers(other, client))


@given(st.lists(scopes(), max_size=60), st.integers(1, 5), st.lists(st.integers(0, 2000), min_size=60, max_size=60))
@settings(max_examples=50)
def test_limits_hold_whatever_is_stored(stored: list[Scope], per_name: int, sizes: list[int]) -> None:
    cache = SubnetCache(1 << 14, per_name)
    for number, (scope, size) in enumerate(zip(stored, sizes, strict=False)):
        cache.put(bytes([1, number % 3, 0]), number % 2, scope, None, size, 60 if number % 7 else 0, number % 90)
        assert cache.octets <= cache.limit
        assert cache.octets == sum(entry.cost for name in cache._names.values() for entry in name.entries.values())
        assert all(0 < len(name.entries) <= per_name for name in cache._names.values())
        assert len(cache) == sum(len(name.entries) for name in cache._names.values())


@given(subnets(), st.integers(0, 255))
def test_what_is_encoded_is_read(subnet: Subnet, scope: int) -> None:
    content = encode_subnet(subnet, scope)
    try:
        found = parse_subnet(content)
    except WireError:
        assert scope > len(subnet[0]) * 8
    else:
        assert (found.subnet, found.scope) == (subnet, scope)


@given(st.binary(max_size=24))
def test_no_content_is_read_that_would_be_written_differently(content: bytes) -> None:
    try:
        found = parse_subnet(content)
    except WireError:
        return
    assert found.subnet is None or encode_subnet(found.subnet, found.scope) == content


@given(st.lists(subnets(), max_size=20), subnets())
def test_sets_of_prefixes(prefixes: list[Subnet], subnet: Subnet) -> None:
    networks: list[Any] = [ip_network(one) for one in prefixes]
    inside = any(len(one[0]) == len(subnet[0]) and ip_network((subnet[0], len(subnet[0]) * 8)).subnet_of(network)
                 for one, network in zip(prefixes, networks, strict=True))
    assert (subnet[0] in PrefixSet(str(network) for network in networks)) == inside
