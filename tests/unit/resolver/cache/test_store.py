"""The store: its parts share one table, and flushing reaches all of them."""

import dns.message
import dns.rrset
import pytest

from resolver.cache import Store
from resolver.wire import consts as c
from resolver.wire.name import from_text
from resolver.wire.rrset import RRset

NOW = 1_700_000_000


def fill(store: Store, text: str) -> bytes:
    query = dns.message.make_query(text, "A")
    message = dns.message.make_response(query)
    message.answer.append(dns.rrset.from_text(text, 300, "IN", "A", "192.0.2.1"))
    assert store.answers.put(message.to_wire(), do=False, cd=False, now=NOW, ttl=300)
    assert store.rrsets.put(RRset(from_text(text), c.A, 300, [b"\1\2\3\4"], trust=6), NOW)
    return query.to_wire()


def test_drop_reaches_answers_and_sets():
    store = Store.create(1 << 20, seed=bytes(16))
    query = fill(store, "www.example.com.")
    fill(store, "example.com.")
    assert store.drop(from_text("WWW.Example.com.")) == 2
    assert store.answers.render(query, NOW, 512) is None
    fill(store, "www.example.com.")
    # The finished answer for example.com went with the flush before: any of them may show an alias's target.
    assert store.drop(from_text("example.com."), subtree=True) == 3


def test_clear_and_statistics():
    store = Store.create(1 << 20, seed=bytes(16))
    fill(store, "www.example.com.")
    store.servers.note_reply("192.0.2.1", b"\0", 0.1, 1.0)
    numbers = store.statistics()
    assert (numbers["entries_answer"], numbers["entries_rrset"], numbers["servers_addresses"]) == (1, 1, 1)
    assert 0 < numbers["bytes_used"] <= numbers["bytes_limit"] < 1 << 20
    store.clear()
    numbers = store.statistics()
    assert (numbers["entries_answer"], numbers["bytes_used"], numbers["servers_addresses"]) == (0, 0, 0)


def test_limits_reach_the_parts():
    store = Store.create(1 << 20, seed=bytes(16), max_ttl=70, max_negative_ttl=17, servers=100)
    assert (store.rrsets.max_ttl, store.rrsets.max_negative_ttl) == (70, 17)
    with pytest.raises(ValueError, match="payload"):
        Store.create(1 << 20, seed=bytes(16), payload=1)
