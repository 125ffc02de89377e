"""TLS in the simulation: contexts whose messages have the same length in every run, and a peer that uses TLS.

Keys are Ed25519 from fixed seeds, so certificates and signatures have a fixed length, and no call depends on chance.
"""

import datetime
import ssl
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from simulation.loop.world import Peer, World

NAME = "localhost"


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server and of a client that trusts it."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, None)
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "leaf.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(secret + pem)
        server.load_cert_chain(file)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=pem.decode())
    return server, client


class TlsPeer(Peer):
    """A peer with TLS. One more operation: ["hold"] delays what it sends until it has sent close_notify."""

    def __init__(
        self, world: World, sock: Any, script: list[list[Any]], sends_from: int, reads_from: int, *, server: bool
    ) -> None:
        super().__init__(world, sock, script, sends_from, reads_from)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = contexts()[0 if server else 1].wrap_bio(
            self.incoming, self.outgoing, server_side=server, server_hostname=None if server else NAME
        )
        self.established = False
        self.pending = self.unread = b""
        self.holding = False

    def act(self) -> int:
        """Do the handshake first; send delayed records before anything else."""
        if self.done:
            return 0
        try:
            if self.flush():
                return 1
            if not self.established:
                return self.shake_hands()
        except (BlockingIOError, InterruptedError):
            return 0 if self.established or not self.feed() else 1
        except OSError as error:
            self.failed, self.gone_early = error, True
            return self.close()
        return super().act()

    def flush(self) -> int:
        """Send the pending records; BlockingIOError when the kernel accepts nothing."""
        self.pending += self.outgoing.read()
        if not self.pending or self.holding:
            return 0
        sent = self.sock.send(self.pending)
        self.pending = self.pending[sent:]
        return 1

    def feed(self) -> int:
        """Receive records; 0 when there are none."""
        try:
            data = self.sock.recv(self.world.random.choice((50, 3000, 70000)))
        except (BlockingIOError, InterruptedError):
            return 0
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return 1

    def shake_hands(self) -> int:
        try:
            self.tls.do_handshake()
            self.established = True
        except ssl.SSLWantReadError:
            if self.outgoing.pending:
                return 1
            return self.feed()
        return 1

    def pending_bytes(self) -> int:
        return len(self.pending) + self.outgoing.pending

    def do_hold(self) -> int:
        self.holding = True
        return self.next()

    def put(self, data: bytes) -> int:
        if self.pending and not self.holding:
            raise BlockingIOError
        return self.tls.write(data)

    def get(self, size: int) -> bytes:
        if self.unread:
            data, self.unread = self.unread[:size], self.unread[size:]
            return data
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                if not self.feed():
                    raise BlockingIOError from None
            except ssl.SSLZeroReturnError:
                return b""

    def half_close(self) -> None:
        # SSLObject.unwrap fails when unread data has arrived.
        try:
            while data := self.tls.read(70000):
                self.unread += data
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            # The peer's close_notify is not awaited.
            pass
        self.pending += self.outgoing.read()
        self.holding = False

    def stop_waiting(self, stage: str) -> None:
        super().stop_waiting(stage)
        self.holding = False

    def close(self) -> int:
        if self.saw_eof and not self.said_eof and not self.failed:
            self.said_eof = True
            self.half_close()
            return 1
        if self.saw_eof and self.pending and not self.failed:
            return 0
        return super().close()
