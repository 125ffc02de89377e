"""The loop against asyncio and uvloop: call_soon, TCP echo and UDP echo of 1 KiB."""

import loop_servers as servers
import pytest
from ratio import Contender

BATCH = 100
MESSAGE_BYTES = 1024


def call_soon(loop_name: str) -> Contender:
    """One operation is one callback scheduled and run, a hundred a turn."""
    loop = servers.new_loop(loop_name)

    def run(count: int) -> None:
        left = max(1, count // BATCH)

        def nothing() -> None:
            pass

        def turn() -> None:
            nonlocal left
            left -= 1
            for _ in range(BATCH - 1):
                loop.call_soon(nothing)
            loop.call_soon(turn if left else loop.stop)

        loop.call_soon(turn)
        loop.run_forever()

    contender = Contender(loop_name, run)
    contender.loop = loop  # closed by the test
    return contender


@pytest.mark.short
@pytest.mark.parametrize("base", ["asyncio", "uvloop"])
def test_call_soon(pair, base: str) -> None:
    ours, theirs = call_soon("corenet"), call_soon(base)
    try:
        pair(f"call_soon/{base}", ours, theirs)
    finally:
        ours.loop.close()
        theirs.loop.close()


@pytest.mark.short
@pytest.mark.parametrize("base", ["asyncio", "uvloop"])
def test_tcp_echo(pair, base: str) -> None:
    with servers.tcp_echo("corenet", MESSAGE_BYTES) as ours, servers.tcp_echo(base, MESSAGE_BYTES) as theirs:
        pair(f"tcp_echo_1k/{base}", ours, theirs)


@pytest.mark.short
@pytest.mark.parametrize("base", ["asyncio", "uvloop"])
def test_udp_echo(pair, base: str) -> None:
    with servers.udp_echo("corenet", MESSAGE_BYTES) as ours, servers.udp_echo(base, MESSAGE_BYTES) as theirs:
        pair(f"udp_echo_1k/{base}", ours, theirs)


