"""TLS records, valid and invalid, cut anywhere: the output is what was sent, up to the first invalid record.

The first byte chooses the version, the engine and the way of reading, the second the size of the pieces. The rest are
actions of the peer: it writes, changes what it has written, sends other bytes, sends close_notify. When the engine
reports no more data, OpenSSL is checked directly: wrongly counted record headers would hide received data.
"""

import ssl
from functools import cache

from support.certs import contexts_for_localhost
from support.tls_engines import ENGINES

from corenet.tls.engine import TlsEngine
from corenet.tls.engines import make_tls_engine, tls_engine, use_engine

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
ROOM = (1, 100, 70_000)


@cache
def contexts(version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context, of which the client's goes no further than `version`."""
    server, client = contexts_for_localhost()
    client.maximum_version = version
    return server, client


def pair(version: ssl.TLSVersion) -> tuple[TlsEngine, TlsEngine]:
    """A client that sends and a server that is looked at, after their handshake."""
    server_context, client_context = contexts(version)
    client, server = make_tls_engine(client_context, False, "localhost"), make_tls_engine(server_context, True)
    while not (client.established and server.established):
        for one, other in ((client, server), (server, client)):
            if not one.established:
                one.handshake()
            other.feed(one.drain())
    assert server.read() is None
    return client, server


def run(data: bytes) -> None:
    """One input: choice, size of the pieces, deeds."""
    if len(data) < 3:
        return
    former = tls_engine().name
    use_engine(ENGINES[(data[0] >> 4) % len(ENGINES)])
    try:
        client, server = pair(VERSIONS[data[0] & 1])
    finally:
        # Inputs of the corpus run in the process of other tests.
        use_engine(former)
    room = memoryview(bytearray(ROOM[(data[0] >> 1) % 3])) if data[0] & 8 else None
    sent, wire, intact, close_notify = b"", bytearray(), -1, False
    for at in range(2, len(data) - 1, 2):
        deed, value = data[at] % 8, data[at + 1]
        if deed < 4 and not close_notify:
            piece = bytes([value]) * (1 + value * (1, 7, 100, 300)[deed])
            sent += piece
            while piece:
                piece = piece[client.write(piece) :]
            wire += client.drain()
        elif deed == 4 and wire:
            wire[value % len(wire)] ^= 1 + value % 255
            intact = 0
        elif deed == 5:
            wire += data[at : at + 1 + value]
            intact = 0
        elif deed == 6 and not close_notify:
            close_notify = True
            client.shutdown()
            wire += client.drain()
    received, ended, broken = b"", False, False
    size = 1 + data[1] * 13
    for start in range(0, len(wire), size):
        server.feed(bytes(wire[start : start + size]))
        try:
            while not ended:
                if room is None:
                    got = server.read()
                else:
                    count = server.read_into(room)
                    got = None if count is None else bytes(room[:count])
                if got is None:
                    break
                received += got
                ended = got == b""
        except ssl.SSLError:
            broken = True
        if ended or broken:
            break
        try:
            assert not server.ssl_object.read(1), "something was left"
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            # What the record promised has not come whole, and is wrong already.
            assert intact == 0
            break
    assert sent.startswith(received)
    if intact:
        assert received == sent and ended == close_notify and not broken


run.cost = 40  # type: ignore[attr-defined]
