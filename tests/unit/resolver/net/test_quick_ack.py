"""Acknowledgements are not delayed while the peer may wait for them. The kernel tells by TCP_QUICKACK."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import waiting
from support.certs import Authority
from support.service_parts import Parts, positive, query
from support.upstream_peers import QNAME, Collector, StreamPeer, echo

import corenet
from resolver.effects import Ask, Reply, Server
from resolver.net.client_contexts import TlsContexts
from resolver.net.clock_random import Entropy
from resolver.net.quick_ack import acknowledge_now
from resolver.net.stream_listener import StreamListener, open_stream_socket
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.tls_upstream import TlsUpstream
from resolver.upstream_address import Encryption
from resolver.wire import consts as c

NAME = "dns.example"
LOOPS = pytest.mark.parametrize("run", [corenet.run, asyncio.run], ids=["corenet", "asyncio"])


def acknowledges_at_once(sock: socket.socket) -> bool:
    """Whether the kernel delays no acknowledgement."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) != 0


def socket_of(upstream: StreamUpstream) -> socket.socket:
    [connection] = upstream._open
    assert connection.transport is not None
    found: socket.socket = connection.transport.get_extra_info("socket")
    return found


@LOOPS
@pytest.mark.parametrize("encrypted", [True, False], ids=["TLS", "TCP"])
def test_a_server_may_send_its_replies_one_after_the_other(
    run: Callable[..., None], encrypted: bool, tmp_path: Path
) -> None:
    """Unbound does not set TCP_NODELAY: it sends the reply when the session tickets before it are acknowledged."""

    async def body() -> None:
        authority = Authority(tmp_path)
        leaf = authority.leaf(NAME)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.certificate, leaf.key)
        held: list[bytes] = []

        def script(packet: bytes) -> list[bytes]:
            held.append(packet)
            return echo(held[0]) if len(held) == 3 else []

        peer = await StreamPeer.start(script, tls=context if encrypted else None)
        options: dict[str, Any] = {"entropy": Entropy(), "per_server": 1}
        loop = asyncio.get_running_loop()
        upstream: StreamUpstream
        if encrypted:
            upstream = TlsUpstream(loop, contexts=TlsContexts(str(authority.cafile)), **options)
        else:
            upstream = StreamUpstream(loop, **options)
        server = Server("127.0.0.1", peer.port, None, Encryption("tls", NAME) if encrypted else None)
        got = Collector()
        upstream.start(Ask(server, QNAME, c.A, tcp=True, timeout=20.0), got)
        await waiting.until(lambda: held, "the first query")
        assert acknowledges_at_once(socket_of(upstream))
        for _ in range(2):
            upstream.start(Ask(server, QNAME, c.A, tcp=True, timeout=20.0), got)
        assert isinstance((await got.wait())[0], Reply)
        assert acknowledges_at_once(socket_of(upstream)), "two more replies are due"
        upstream.close()
        await peer.close()

    run(body())


@LOOPS
def test_a_client_may_send_a_message_in_pieces(run: Callable[..., None]) -> None:
    """A client without TCP_NODELAY sends the second piece when the first is acknowledged."""

    async def body() -> None:
        parts = Parts()
        parts.mesh.instant = positive()
        listener = StreamListener(parts.service, parts.fast, parts.plan.access, parts.settings.server)
        await listener.start(open_stream_socket("127.0.0.1", 0))
        reader, writer = await asyncio.open_connection(*listener.address[:2])
        packet = query()
        framed = len(packet).to_bytes(2, "big") + packet
        for _ in range(4):  # data goes both ways, so the kernel begins to delay
            writer.write(framed)
            await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        [client] = listener._slots
        taken = client._transport.get_extra_info("socket")
        assert not acknowledges_at_once(taken)
        writer.write(framed[:2])
        await waiting.until(lambda: client.partial_since is not None, "the incomplete message")
        assert acknowledges_at_once(taken)
        writer.write(framed[2:])
        assert await reader.readexactly(2)
        writer.close()
        await writer.wait_closed()
        listener.close()

    run(body())


def test_a_transport_without_a_tcp_socket_is_not_changed() -> None:
    class Transport(asyncio.Transport):
        def __init__(self, sock: socket.socket | None) -> None:
            super().__init__({"socket": sock})

    acknowledge_now(Transport(None))
    near, far = socket.socketpair()
    with near, far:
        acknowledge_now(Transport(near))
    acknowledge_now(Transport(near))
    with socket.socket() as unconnected:
        acknowledge_now(Transport(unconnected))
