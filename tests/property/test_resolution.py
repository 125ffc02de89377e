"""The mesh under any order of questions, cancellations and lost packets: everybody gets exactly one outcome.

The world has what makes resolvers stumble: servers without glue, circles of them, alias chains and loops, lame and dead
servers. Whatever happens in whatever order, nothing is left running, no budget is overdrawn, nobody is called twice.
"""

from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakenet import Link
from support.minet import COM_ZONE, EXAMPLE_ZONE, NET_ZONE, build, standard

from resolver.effects import Question
from resolver.playground.authority import ServerFaults
from resolver.wire import consts as c
from resolver.wire import name as names

COM = COM_ZONE + """
one 7200 IN NS ns.two.net.
other 7200 IN NS ns.other.net.
lame 7200 IN NS ns.lame
ns.lame 7200 IN A 192.0.2.66
self 7200 IN NS ns.self
"""
NET = NET_ZONE + """
two 7200 IN NS ns.one.com.
other 7200 IN NS ns.other
ns.other 7200 IN A 192.0.2.9
"""
EXAMPLE = EXAMPLE_ZONE + """
loop 60 IN CNAME loop2
loop2 60 IN CNAME loop
away 60 IN CNAME www.other.com.
lost 60 IN CNAME www.one.com.
old 60 IN DNAME other.com.
"""
OTHER_COM = "@ 60 IN SOA ns.other.net. n 1 2 3 4 5\n@ 60 IN NS ns.other.net.\nwww 0 IN A 192.0.2.90\n"
OTHER_NET = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.9\n"
POPULATION = standard(
    a192_5_6_30=[("com.", COM)], a192_5_6_31=[("net.", NET)], a192_0_2_1=[("example.com.", EXAMPLE)],
    a192_0_2_2=[("example.com.", EXAMPLE)], a192_0_2_9=[("other.com.", OTHER_COM), ("other.net.", OTHER_NET)],
    a192_0_2_66=[],
)
NAMES = ("www.example.com.", "away.example.com.", "lost.example.com.", "loop.example.com.", "www.old.example.com.",
         "www.one.com.", "ns.two.net.", "www.other.com.", "ns.other.net.", "x.lame.com.", "x.self.com.", "nope.", ".",
         "deep.sub.tree.example.com.")
TYPES = (c.A, c.NS, c.DS, c.TXT)
PACKETS = 40

ask = st.tuples(st.just("ask"), st.sampled_from(NAMES), st.sampled_from(TYPES), st.booleans())
operations = st.lists(
    st.one_of(ask, st.tuples(st.just("wait"), st.sampled_from((0.005, 0.05, 1.0, 700.0))),
              st.tuples(st.just("cancel"), st.integers(0, 30)), st.tuples(st.just("forget"))),
    min_size=1, max_size=25,
)


@settings(max_examples=150)
@given(operations, st.sampled_from((0.0, 0.2, 0.7)), st.booleans(), st.integers(0, 3))
def test_every_client_gets_exactly_one_outcome(steps, loss, lame, seed):
    links = {address: Link(loss=loss, jitter=0.02) for address in POPULATION}
    m = build(POPULATION, links=links, seed=seed, max_upstream_queries=PACKETS, query_timeout=4.0,
              quirks={"192.0.2.1": ServerFaults(rcode=c.REFUSED)} if lame else None)
    asked = []
    for step in steps:
        if step[0] == "ask":
            outcomes = []
            before = len(m.net.log)
            ticket = m.mesh.submit(Question(names.from_text(step[1]), step[2]), cd=step[3], on_done=outcomes.append)
            assert len(m.net.log) - before <= 1
            asked.append((ticket, outcomes))
        elif step[0] == "wait":
            m.net.run(m.mesh, seconds=step[1])
        elif step[0] == "cancel" and step[1] < len(asked):
            m.mesh.cancel(asked[step[1]][0])
        elif step[0] == "forget":
            m.mesh.forget()
    cancelled = [ticket.done and not outcomes for ticket, outcomes in asked]
    m.net.run(m.mesh, seconds=60.0)
    for (ticket, outcomes), gone in zip(asked, cancelled, strict=True):
        assert ticket.done
        assert len(outcomes) == (0 if gone else 1)
    counters = m.mesh.statistics()
    assert counters["running"] == 0
    assert counters["internal_errors"] == 0
    assert len(m.net.log) == counters["upstream_queries"] <= PACKETS * len(asked)
    assert m.mesh.tick(m.net.now) is None
