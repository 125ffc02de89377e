"""A resolution leaves nothing in memory, however it ends."""

import pytest
from support.kept import kept_objects
from support.minet import EXAMPLE_ZONE, build, standard

from resolver.effects import Question
from resolver.wire import consts as c
from resolver.wire import name as names

ZONE = EXAMPLE_ZONE + """
loop 300 IN CNAME loop
tree 300 IN DNAME tree.tree
out 300 IN CNAME www.nowhere.net.
dead 300 IN NS ns.dead
ns.dead 300 IN A 192.0.2.99
"""
POPULATION = standard(a192_0_2_1=[("example.com.", ZONE)], a192_0_2_2=[("example.com.", ZONE)])
NAMES = ["www", "alias", "none", "loop", "a.tree", "out", "www.dead", "ns1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_resolution_keeps_no_objects(name):
    world = build(POPULATION)
    for _ in range(2):  # from the network, then from the cache
        world.ask(f"{name}.example.com.")
    del world
    assert kept_objects() == {}


def test_a_prefetch_and_a_cancelled_query_are_not_kept():
    world = build(POPULATION)
    ticket, _ = world.start("www.example.com.")
    world.mesh.cancel(ticket)
    world.net.run(world.mesh)
    world.ask("www.example.com.")
    assert world.mesh.refresh(Question(names.from_text("www.example.com."), c.A), on_done=lambda outcome: None)
    world.net.run(world.mesh)
    del world, ticket
    assert kept_objects() == {}
