"""What remote parties can repeat leaves nothing in reference cycles.

The daemon collects garbage rarely, because queries leave none (`limits.GC_YOUNG`). What an operation leaves in a cycle
would stay in memory for hours, and with it a connection or a whole zone. An exception is the usual cause: its traceback
holds frames, and one of these holds the exception, or a future or an object that has it.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.cycles import left_in_cycles
from support.fakenet import SeededRandom
from support.zone_versions import ORIGIN, version

import corenet
from corenet.http import HttpClient, HttpError
from resolver.daemon.balance_checks import BalanceChecks
from resolver.daemon.zone_keeper import ZoneKeeper
from resolver.effects import Ask, Server
from resolver.net.client_contexts import TlsContexts
from resolver.net.clock_random import Entropy
from resolver.net.in_thread import in_thread
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.tls_upstream import TlsUpstream
from resolver.net.zone_client import Fetched, ZoneClient
from resolver.policy import Balancer
from resolver.settings import BalanceSettings, Settings, TargetSettings, ZoneSettings, ZonesSettings
from resolver.upstream_address import Encryption, UpstreamAddress
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.present import zone_from_text
from resolver.zones import Mode, ServedZone, ZoneTable
from resolver.zones.load import ZoneFileError, read_zone
from resolver.zones.transfer import TransferError

NOW = 1_800_000_000
GOOD = "$TTL 60\n@ SOA ns.e.test. a.e.test. 7 60 60 60 60\n@ NS ns.e.test.\nns A 192.0.2.1\n"

Operation = Callable[[], Awaitable[object]]


class Silent(asyncio.Protocol):
    """Accepts, and says nothing. Protocols, because asyncio's streams leave cycles after a reset."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has closed."""


class Ends(Silent):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Nonsense(Silent):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"\0\x0cnonsense 123\r\n\r\n" * 20)


PEERS = {"ends": Ends, "nonsense": Nonsense, "silent": Silent}


def check(*, by: str) -> Callable[[int], tuple[Operation, Callable[[], object]]]:
    def make(port: int) -> tuple[Operation, Callable[[], object]]:
        settings = BalanceSettings(name="www.e.test.", check=by, check_port=port, timeout=0.1,
                                   target=(TargetSettings("127.0.0.1"),))
        balancer = Balancer((settings,), SeededRandom(1))
        checks = BalanceChecks(balancer, rng=SeededRandom(2))
        [(one, target)] = balancer.targets()
        return lambda: checks._check(one, target), checks.close

    return make


def request(*, collect: bool) -> Callable[[int], tuple[Operation, Callable[[], object]]]:
    def make(port: int) -> tuple[Operation, Callable[[], object]]:
        async def operation() -> None:
            async with HttpClient(timeout=0.1) as client:
                if collect:
                    with suppress(HttpError):
                        await client.get(f"http://127.0.0.1:{port}/")
                    return
                with suppress(HttpError):
                    async with client.stream("GET", f"http://127.0.0.1:{port}/") as response:
                        await response.read()

        return operation, lambda: None

    return make


def query(*, tls: bool) -> Callable[[int], tuple[Operation, Callable[[], object]]]:
    def make(port: int) -> tuple[Operation, Callable[[], object]]:
        loop = asyncio.get_running_loop()
        upstream = TlsUpstream(loop, entropy=Entropy(), contexts=TlsContexts()) if tls else StreamUpstream(
            loop, entropy=Entropy())
        server = Server("127.0.0.1", port, None, Encryption("tls", "x.test", ()) if tls else None)

        async def operation() -> None:
            done = asyncio.get_running_loop().create_future()
            zone = names.from_text("b.")
            upstream.start(Ask(server, names.prepend(b"a", zone), c.A, timeout=0.1, tcp=True, zone=zone),
                           done.set_result)
            await done

        return operation, upstream.close

    return make


def transfer(port: int) -> tuple[Operation, Callable[[], object]]:
    client = ZoneClient(None, lambda: NOW, lambda: 7, lambda _: None)

    async def operation() -> None:
        with pytest.raises(TransferError):
            await client.fetch(ORIGIN, UpstreamAddress("127.0.0.1", port, None), None, None)

    return operation, lambda: None


CLIENTS = {
    "check-tcp": check(by="tcp"), "check-http": check(by="http"), "check-https": check(by="https"),
    "get": request(collect=True), "stream": request(collect=False),
    "tcp": query(tls=False), "tls": query(tls=True), "transfer": transfer,
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_failure_leaves_nothing(client: str, peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resolver.net.zone_client.QUERY_TIMEOUT", 0.1)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(PEERS[peer], "127.0.0.1", 0)
        async with server:
            operation, close = CLIENTS[client](server.sockets[0].getsockname()[1])
            assert await left_in_cycles(operation) == []
            close()

    corenet.run(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_connection_leaves_nothing(client: str) -> None:
    async def main() -> None:
        operation, close = CLIENTS[client](1)
        assert await left_in_cycles(operation) == []
        close()

    corenet.run(main())


def test_an_error_in_a_thread_leaves_nothing() -> None:
    def fail() -> None:
        raise ValueError

    async def operation() -> None:
        with pytest.raises(ValueError):
            await in_thread(fail)

    async def main() -> None:
        assert await left_in_cycles(operation) == []

    corenet.run(main())


@pytest.mark.parametrize("text", [GOOD, GOOD + "x A nonsense\n", GOOD + "other.test. A 192.0.2.1\n", "\xff"])
def test_a_zone_file_leaves_nothing(text: str) -> None:
    async def operation() -> None:
        with suppress(ZoneFileError):
            read_zone(io.StringIO(text), "zone", ORIGIN)
        with suppress(ValueError):
            zone_from_text(text, ORIGIN)

    async def main() -> None:
        assert await left_in_cycles(operation) == []

    corenet.run(main())


@pytest.mark.parametrize("fault", ["", "transfer", "finish", "unexpected"])
def test_a_refresh_leaves_nothing(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content of a zone may have 256 MiB, and a primary may repeat what fails with each NOTIFY."""
    serial = 5

    async def fetch(*_: object) -> Fetched:
        nonlocal serial
        serial += 1
        if fault == "transfer":
            raise TransferError("it has failed")
        if fault == "unexpected":
            raise RuntimeError("unexpected")
        return Fetched(serial, version(serial, 2), [], 100)

    async def take(*_: object) -> None:
        raise ValueError("it cannot be used")

    monkeypatch.setattr(ZoneClient, "fetch", fetch)
    monkeypatch.setattr(ZoneKeeper, "_schedule", lambda *_: None)
    if fault == "finish":
        monkeypatch.setattr(ZoneKeeper, "_take", take)
    settings = Settings(zones=ZonesSettings(directory=str(tmp_path)),
                        zone=(ZoneSettings(name="e.test.", primaries=("192.0.2.1",)),))

    async def main() -> None:
        table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
        keeper = ZoneKeeper(settings, table, None, leads=True, now=lambda: NOW, changed=lambda _: None,
                            flush=lambda _: None, directory=tmp_path)

        async def operation() -> None:
            keeper.refresh("e.test.")
            while keeper._tasks:
                await asyncio.wait(list(keeper._tasks))

        found: list[Any] = await left_in_cycles(operation)
        assert found == []
        keeper.stop()

    corenet.run(main())


