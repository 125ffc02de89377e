"""Pinned public keys: of the server, of its authority, and of another server."""

import asyncio
import base64
import contextlib
import hashlib
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from support.certs import Leaf
from support.tls_pair import Listening, leaf, ours, server_context

from corenet.tls import client_context, describe_handshake_error
from corenet.tls.der import public_key_bits, subject_public_key_info

__all__ = ["leaf", "ours", "server_context"]

OTHER = base64.b64encode(bytes(32)).decode()


def pin_of(path: Path) -> str:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


def connect(ours: Any, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """One connection, closed with close_notify."""

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with Listening(server) as listening:
            await listening.visit(client)

    ours(main())


@pytest.mark.parametrize("prefix", ["", "sha256//"])
def test_a_pin_of_the_server_or_of_its_authority_is_accepted(
    prefix: str, ours: Any, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    for path in (leaf[0].certificate, leaf[1]):
        connect(ours, server_context, client_context(cafile=leaf[1], pins=[OTHER, prefix + pin_of(path)]))


def test_another_key_is_refused(ours: Any, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="none of the pinned public keys") as caught:
        connect(ours, server_context, client_context(cafile=leaf[1], pins=[OTHER]))
    told = describe_handshake_error(caught.value)
    assert told is not None and told.certificate
    assert told.reason == "none of the pinned public keys is in the server's certificate chain"


def test_the_server_never_sees_a_refused_handshake_as_complete(
    ours: Any, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    made: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)

        class Server(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                made.append(transport)

        context = client_context(cafile=leaf[1], pins=[OTHER])
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        async with Listening(server_context, Server) as listening:
            with pytest.raises(ssl.SSLCertVerificationError):
                await listening.visit(context)

    ours(main())
    assert made == []


def test_without_verification_the_pin_alone_authenticates_the_server(
    ours: Any, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    """RFC 8310 section 6.4: authentication by the key only. The rest of the chain that the server sends is not used."""
    connect(ours, server_context, client_context(verify=False, pins=[pin_of(leaf[0].certificate)]))
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(ours, server_context, client_context(verify=False, pins=[pin_of(leaf[1])]))


@pytest.mark.parametrize("staples", ["no", "required"])
def test_pins_are_checked_on_other_loops_and_sockets_too(
    staples: Any, leaf: tuple[Leaf, Path], server_context: ssl.SSLContext
) -> None:
    """A context checks its pins wherever it is used; a staple that cannot be read counts as missing."""
    pins = [OTHER] if staples == "no" else []
    context = client_context(cafile=leaf[1], pins=pins, staples=staples)
    words = "none of the pinned" if pins else "cannot read staples"

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        with pytest.raises(ssl.SSLCertVerificationError, match=words):
            await asyncio.open_connection(*address, ssl=context, server_hostname="localhost")

        def block() -> None:
            with (
                socket.create_connection(address) as plain,
                pytest.raises(ssl.SSLCertVerificationError, match=words),
            ):
                context.wrap_socket(plain, server_hostname="localhost")

        await asyncio.to_thread(block)
        server.close()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("pin", ["", "sha1//AAAA", OTHER[:-4], OTHER + "AAAA", "é" * 44, "*" * 44])
def test_malformed_pins_are_refused(pin: str) -> None:
    with pytest.raises(ValueError, match="is not a pin"):
        client_context(verify=False, pins=[pin])


def test_key_is_found_in_any_certificate(leaf: tuple[Leaf, Path]) -> None:
    for path in (leaf[0].certificate, leaf[1]):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        info = subject_public_key_info(certificate.public_bytes(serialization.Encoding.DER))
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert info == key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert public_key_bits(info) == key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )


@given(st.binary(max_size=60))
def test_other_bytes_are_not_a_certificate(data: bytes) -> None:
    for read in (subject_public_key_info, public_key_bits):
        with contextlib.suppress(ValueError):
            assert read(data) in data
