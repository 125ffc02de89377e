"""A forwarder with an IPv4 address is queried over an IPv6 socket, at the address that a NAT64 prefix makes of it."""

import asyncio

import pytest
from support.forwarder import ELSEWHERE, forwarder

from resolver import Resolver
from resolver.settings import DnssecSettings, ForwardZone, IterationSettings, Settings

pytestmark = pytest.mark.integration


def test_a_forwarder_is_reached_through_the_prefix() -> None:
    """The prefix ::/96 makes ::1 of 0.0.0.1, so the server on ::1 is the translator and the forwarder."""

    async def resolve(port: int) -> list[str]:
        settings = Settings(
            dnssec=DnssecSettings(enabled=False), forward=(ForwardZone(".", (f"0.0.0.1:{port}",)),),
            iteration=IterationSettings(nat64_prefix="::/96", do_ip4=False),
        )
        async with Resolver(settings) as resolver:
            return [str(one) for one in await resolver.addresses("www.corp.example")]

    with forwarder(host="::1") as port:
        assert asyncio.run(resolve(port)) == [".".join(map(str, ELSEWHERE))]
