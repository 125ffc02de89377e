"""A local copy of the root zone (RFC 8806): the iterator uses it in place of the root servers, and validates it."""

import asyncio
from collections.abc import Iterator

import corenet
from resolver import Resolver, Settings, Verdict, playground
from resolver.playground.zones import Zone as PlaygroundZone
from resolver.settings import CacheSettings, ZonesSettings, replace
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.zones.zone import Record, Zone

SMALL = CacheSettings(size=1 << 20)


def records_of(zone: PlaygroundZone) -> Iterator[Record]:
    for rrset in zone:
        owner = names.lower(rrset.name)
        yield from ((owner, rrset.rtype, rrset.ttl, rdata) for rdata in rrset.rdatas())
        yield from ((owner, c.RRSIG, rrset.ttl, rdata) for rdata in rrset.sigs())


def run(test) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        async with await playground.start(port=0) as world:
            settings = replace(world.settings(Settings(cache=SMALL)), zones=ZonesSettings(root="local"))
            async with Resolver(settings) as resolver:
                await test(world, resolver)

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as loop:
        loop.run(main())


def root_copy(world) -> Zone:  # type: ignore[no-untyped-def]
    return Zone.from_records(names.ROOT, records_of(world.world.zones["."]))


def test_no_root_server_is_asked() -> None:
    async def test(world, resolver) -> None:  # type: ignore[no-untyped-def]
        resolver.zones.put(names.ROOT, root_copy(world), 0)
        trace = await resolver.explain("www.example.playground", "A")
        assert list(trace.answer) != []
        # The proof that the zone is unsigned is in the copy.
        assert trace.answer.verdict is Verdict.INSECURE
        asked = [step.zone for step in trace if step.kind == "ask"]
        assert asked and names.ROOT not in asked
        missing = await resolver.resolve("no-such-tld", "A")
        assert missing.rcode == c.NXDOMAIN

    run(test)


def test_an_expired_copy_is_not_used() -> None:
    async def test(world, resolver) -> None:  # type: ignore[no-untyped-def]
        resolver.zones.put(names.ROOT, root_copy(world), resolver.clock.time())
        trace = await resolver.explain("www.example.playground", "A")
        assert list(trace.answer) != []
        assert names.ROOT in [step.zone for step in trace if step.kind == "ask"]

    run(test)
