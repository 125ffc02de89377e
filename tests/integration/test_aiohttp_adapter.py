"""aiohttp's client with the resolver and the connector of `corenet.adapters.aiohttp`, on both loops."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.certs import Authority
from support.http_peer import LOOPS, OK, Peer, run_on, serving

from corenet import tls
from corenet.adapters.aiohttp import Resolver, connector

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


class Names:
    """A resolver that knows one name, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> list[Any]:
        self.asked.append(host)
        if host != "only.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        hints["flags"] = 0  # AI_ADDRCONFIG refuses IPv4 where only the loopback interface has an address
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", port, **hints)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        raise NotImplementedError


async def serve(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(OK)


def test_names_are_resolved_by_the_given_resolver(loop: str) -> None:
    async def main() -> None:
        names = Names()
        async with serving(serve) as server, aiohttp.ClientSession(connector=connector(names)) as session:
            async with session.get(f"http://only.test:{server.port}/") as answer:
                assert await answer.text() == "ok"
            with pytest.raises(aiohttp.ClientConnectorDNSError, match="Name or service not known"):
                await session.get(f"http://other.test:{server.port}/")
        assert names.asked == ["only.test", "other.test"]

    run_on(loop, main())


def test_names_are_resolved_by_the_loop(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        names = Names()
        running = asyncio.get_running_loop()
        plain = running.getaddrinfo

        async def getaddrinfo(host: Any, port: Any, **hints: Any) -> Any:
            if host == "127.0.0.1":
                return await plain(host, port, **hints)
            return await names.getaddrinfo(host, port, **hints)

        running.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
        (found,) = await Resolver().resolve("only.test", 80, socket.AF_INET)
        assert (found["hostname"], found["host"], found["port"]) == ("only.test", "127.0.0.1", 80)
        assert names.asked == ["only.test"]

    run_on(loop, main())


def test_the_zone_of_an_ipv6_address_stays(loop: str) -> None:
    class LinkLocal(Names):
        async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> list[Any]:
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", port, 0, 1))]

    async def main() -> None:
        (found,) = await Resolver(LinkLocal()).resolve("router.test", 80, socket.AF_INET6)
        assert found["host"] == f"fe80::1%{socket.if_indextoname(1)}"

    run_on(loop, main())


def test_tls_is_strict(loop: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("only.test")

    async def main() -> None:
        names = Names()
        certificate = tls.server_context(leaf.certificate, leaf.key)
        async with serving(serve, tls=certificate) as server:
            url = f"https://only.test:{server.port}/"
            async with aiohttp.ClientSession(connector=connector(names)) as session:
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get(url)
            trusting = tls.client_context(cafile=str(authority.cafile))
            async with aiohttp.ClientSession(connector=connector(names, ssl=trusting)) as session:
                async with session.get(url) as answer:
                    assert await answer.text() == "ok"

    run_on(loop, main())
