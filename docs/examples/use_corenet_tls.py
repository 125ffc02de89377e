"""Contexts with safe settings for both sides, and a failed handshake in words."""

import asyncio
import datetime
import ipaddress
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import corenet
from corenet import tls


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example")])
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=7)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, until)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello over " + writer.get_extra_info("cipher")[1].encode())
    writer.close()


async def main(pem: Path) -> None:
    server = await asyncio.start_server(hello, "127.0.0.1", 0, ssl=tls.server_context(pem))
    address = server.sockets[0].getsockname()
    async with server:
        reader, writer = await asyncio.open_connection(*address, ssl=tls.client_context(cafile=pem))
        assert await reader.read() == b"hello over TLSv1.3"
        writer.close()
        await writer.wait_closed()

        try:
            await asyncio.open_connection(*address, ssl=tls.default_client_context())
        except OSError as error:
            failure = tls.describe_handshake_error(error)
            assert failure is not None
            print(failure)
        else:
            raise AssertionError("an unknown authority is refused")


with tempfile.TemporaryDirectory() as folder:
    corenet.run(main(certificate(Path(folder))))
