"""The resolver argument of corenet's command line: recursion, playground, forwarder or configuration file."""

import asyncio
import socket
import time

import pytest

import corenet
from resolver import playground
from resolver.daemon.config import ConfigError
from resolver.daemon.resolver_factory import connect


def run(main):
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        return runner.run(main)


async def addresses(connected, name):
    found = await connected.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
    return [entry[4] for entry in found]


def test_the_playground_has_its_authority_and_leaves_no_files():
    async def main():
        said, started = [], time.monotonic()
        async with connect("playground", said.append) as connected:
            assert await addresses(connected, "www.example.playground.") == [("127.20.80.1", 443)]
            assert connected.trust.read_text().startswith("-----BEGIN CERTIFICATE-----")
            kept = connected.trust
        assert not kept.exists()
        assert any(line.startswith("ask: ") for line in said)
        # Each step has its own time, in order within a question, although all are reported at its end.
        first = [line.time for line in said[: next(i for i, line in enumerate(said) if line.startswith("validate: "))]]
        assert first == sorted(first) and len(set(first)) > 5 and started < first[0] < first[-1] < time.monotonic()

    run(main())


def test_an_address_is_a_forwarder_and_a_file_a_configuration(tmp_path):
    async def main():
        config = tmp_path / "r.toml"
        config.write_text('[dnssec]\ntrust-anchors = []\n[policy.hosts]\n"box.lan" = "192.0.2.9"\n')
        async with connect(str(config)) as connected:
            assert await addresses(connected, "box.lan.") == [("192.0.2.9", 443)]
            assert connected.trust is None
        async with await playground.start(port=0) as world:
            server = f"{world.addresses[0]}:{world.port}"
            async with connect(server) as connected:
                forward = connected.resolver.settings.forward[0]
                assert (forward.zone, forward.addresses) == (".", (server,))

    run(main())


def test_other_arguments_are_refused(tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("x = 1")

    async def main():
        with pytest.raises(ValueError, match="not an IP address"):
            async with connect("nobody"):
                pass
        with pytest.raises(ConfigError):
            async with connect(str(wrong)):
                pass

    run(main())
