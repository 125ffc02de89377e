"""Random arrays as the reply to CLUSTER SLOTS: each is refused with a reason, or is a map within the limits."""

from hypothesis import given
from hypothesis import strategies as st

from resolver import limits
from resolver.net.redis_cluster import SLOTS, read_slots

ASKED = ("192.0.2.1", 6379)
numbers = st.one_of(st.integers(-2, 20), st.integers(SLOTS - 3, SLOTS + 3), st.integers())
hosts = st.one_of(st.sampled_from([b"", None, b"192.0.2.7", b"2001:db8::7", b"127.0.0.1", b"localhost"]),
                  st.binary(max_size=60))
leaves = st.one_of(numbers, hosts, st.builds(Exception))
nodes = st.one_of(st.tuples(hosts, numbers).map(list), st.lists(leaves, max_size=4))
entries = st.one_of(st.tuples(numbers, numbers, nodes).map(list),
                    st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=8))


@given(st.one_of(leaves, st.lists(entries, max_size=8)))
def test_a_map_or_a_reason(reply: object) -> None:
    try:
        slots = read_slots(reply, ASKED, [ASKED])
    except ValueError:
        return
    assert 0 < len(slots.nodes) <= limits.SECOND_LEVEL_CLUSTER_NODES
    for host, port in slots.nodes:
        assert host in (ASKED[0], "192.0.2.7", "2001:db8::7") or "." in host or ":" in host
        assert 0 < port < 65536
    assert {slots.node(slot) for slot in range(SLOTS)} - {None} == slots.nodes
