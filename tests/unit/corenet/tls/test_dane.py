"""TLSA records: which are usable, and what they say about a server's chain (RFC 6698, RFC 7671)."""

import asyncio
import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.certs import Authority, Leaf
from support.records import tlsa_record
from support.tls_pair import Listening, ours

import corenet.tls
from corenet.limits import HTTP_TLSA_RECORDS, TLS_DANE_CHAIN
from corenet.tls import CertificateRefused, client_context
from corenet.tls.context import ClientContext, with_dane
from corenet.tls.dane import DanePolicy, TlsaRecord, parse_tlsa, tlsa_name

__all__ = ["ours"]

NAME = "_443._tcp.localhost"


class World:
    """An authority, a server with its chain, and another server that is expired and for another name."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.leaf = self.authority.leaf("localhost")
        self.wrong = self.authority.leaf("elsewhere.example", file="wrong", expired=True)
        self.ca = self.authority.certificate.public_bytes(serialization.Encoding.DER)

    def chain(self, leaf: Leaf) -> list[bytes]:
        return [der_of(leaf), self.ca]

    def server(self, leaf: Leaf, *, whole: bool = True) -> ssl.SSLContext:
        """A server's context that sends the leaf, and with `whole` the authority too."""
        file = self.authority.folder / "sent.pem"
        file.write_bytes(leaf.certificate.read_bytes() + (self.authority.cafile.read_bytes() if whole else b""))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file, leaf.key)
        return context


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("dane"))


def der_of(leaf: Leaf) -> bytes:
    return x509.load_pem_x509_certificate(leaf.certificate.read_bytes()).public_bytes(serialization.Encoding.DER)


def record(usage: int, selector: int, matching: int, certificate: bytes) -> TlsaRecord:
    """The record that matches `certificate`."""
    data = certificate
    if selector == 1:
        data = x509.load_der_x509_certificate(certificate).public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )  # fmt: skip
    if matching:
        data = (hashlib.sha256 if matching == 1 else hashlib.sha512)(data).digest()
    return TlsaRecord(usage, selector, matching, data)


def policy(*records: TlsaRecord) -> DanePolicy:
    return DanePolicy(NAME, records)


def test_names_and_usable_records() -> None:
    assert tlsa_name("www.example", 8443) == "_8443._tcp.www.example"
    good = tlsa_record(3, 1, 1, bytes(32))
    ignored = [
        tlsa_record(4, 1, 1, bytes(32)), tlsa_record(3, 2, 1, bytes(32)), tlsa_record(3, 1, 3, bytes(32)),
        tlsa_record(3, 1, 1, bytes(31)), tlsa_record(3, 1, 2, bytes(32)), tlsa_record(3, 0, 0, b""),
    ]  # fmt: skip
    assert parse_tlsa([*ignored, good]) == (TlsaRecord(3, 1, 1, bytes(32)),)
    assert parse_tlsa(ignored) == ()
    with pytest.raises(ValueError, match="three octets"):
        parse_tlsa([b"\3\1"])
    with pytest.raises(ValueError, match="more than"):
        parse_tlsa([good] * (HTTP_TLSA_RECORDS + 1))


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("usage", [0, 1, 2, 3])
def test_each_usage_selector_and_matching_type(usage: int, selector: int, matching: int, world: World) -> None:
    chain = world.chain(world.leaf)
    about = chain[1] if usage in (0, 2) else chain[0]
    matches = record(usage, selector, matching, about)
    assert policy(matches).verify_chain(chain, "localhost") is matches
    # The other certificate of the chain does not match the record.
    for other in (chain[0] if about is chain[1] else chain[1], der_of(world.wrong)):
        with pytest.raises(CertificateRefused, match=f"do not match the TLSA record of {NAME}"):
            policy(record(usage, selector, matching, other)).verify_chain(chain, "localhost")


def test_usage_3_checks_neither_name_nor_time(world: World) -> None:
    chain = [der_of(world.wrong)]
    assert policy(record(3, 1, 1, chain[0])).verify_chain(chain, "localhost").usage == 3


def test_usage_2_checks_name_time_and_path(world: World, tmp_path: Path) -> None:
    accepts = policy(record(2, 0, 1, world.ca))
    assert accepts.verify_chain(world.chain(world.leaf), "localhost")
    with pytest.raises(CertificateRefused, match="the authority of one matches, but"):
        accepts.verify_chain(world.chain(world.leaf), "www.example")
    with pytest.raises(CertificateRefused, match="the authority of one matches, but"):
        accepts.verify_chain(world.chain(world.wrong), "elsewhere.example")
    # Sending an authority's certificate does not make it the issuer.
    foreign = Authority(tmp_path, "Another CA").leaf("localhost")
    with pytest.raises(CertificateRefused, match="the authority of one matches, but"):
        accepts.verify_chain([der_of(foreign), world.ca], "localhost")


def test_an_authority_in_the_record_need_not_be_sent(world: World) -> None:
    chain = world.chain(world.leaf)[:1]
    assert policy(record(2, 0, 0, world.ca)).verify_chain(chain, "localhost")
    with pytest.raises(CertificateRefused):
        policy(record(2, 0, 1, world.ca)).verify_chain(chain, "localhost")


def test_one_matching_record_is_enough_and_dane_usages_disable_pkix_usages(world: World) -> None:
    chain = world.chain(world.leaf)
    right = record(3, 1, 1, chain[0])
    assert policy(record(3, 1, 1, world.ca), right).verify_chain(chain, "localhost") is right
    with pytest.raises(CertificateRefused, match="any of the 2 TLSA records"):
        policy(record(3, 1, 1, world.ca), record(1, 1, 1, chain[0])).verify_chain(chain, "localhost")
    with pytest.raises(CertificateRefused, match="any of the 2 TLSA records"):
        policy(record(3, 1, 1, world.ca), record(0, 1, 1, chain[1])).verify_chain(chain, "localhost")


def test_chains_that_cannot_be_verified(world: World) -> None:
    accepts = policy(record(3, 1, 1, world.ca))
    for chain, why in (([], "no certificate"), ([b"\x30\x01"], "cannot be read"),
                       ([world.ca] * (TLS_DANE_CHAIN + 1), "are permitted")):  # fmt: skip
        with pytest.raises(CertificateRefused, match=why):
            accepts.verify_chain(chain, "localhost")


def visit(ours: Any, server: ssl.SSLContext, client: ssl.SSLContext, times: int = 1) -> list[bool]:
    async def main() -> list[bool]:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with Listening(server) as listening:
            return [await listening.visit(client) for _ in range(times)]

    found: list[bool] = ours(main())
    return found


def made(context: ssl.SSLContext, *records: TlsaRecord) -> ssl.SSLContext:
    make = with_dane(context, policy(*records))
    assert make is not None
    return make()


def test_a_context_verifies_servers_with_tlsa_records(ours: Any, world: World, tmp_path: Path) -> None:
    unknown = Authority(tmp_path, "Unknown CA")
    trusting, others = client_context(cafile=world.authority.cafile), client_context(cafile=unknown.cafile)
    own, ca = der_of(world.leaf), world.ca
    visit(ours, world.server(world.leaf), made(others, record(3, 1, 1, own)))
    visit(ours, world.server(world.wrong), made(others, record(3, 0, 2, der_of(world.wrong))))
    visit(ours, world.server(world.leaf), made(others, record(2, 1, 1, ca)))
    visit(ours, world.server(world.leaf, whole=False), made(trusting, record(0, 1, 1, ca)))
    visit(ours, world.server(world.leaf), made(trusting, record(1, 0, 1, own)))
    for client, server in (
        (made(trusting, record(3, 1, 1, ca)), world.leaf),
        (made(trusting, record(2, 1, 1, own)), world.leaf),
        (made(trusting, record(1, 1, 1, der_of(world.wrong))), world.leaf),
        # The usual verification is not switched off by usage 0 and 1.
        (made(others, record(1, 1, 1, own)), world.leaf),
        (made(others, record(0, 1, 1, ca)), world.leaf),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            visit(ours, world.server(server), client)


def test_sessions_are_resumed_with_the_same_records_only(ours: Any, world: World) -> None:
    trusting = client_context(cafile=world.authority.cafile)
    dane_context = made(trusting, record(3, 1, 1, der_of(world.leaf)))
    server = world.server(world.leaf)
    assert visit(ours, server, dane_context, 2)[0] is False
    assert isinstance(dane_context, ClientContext) and dane_context.dane is not None
    assert dane_context.sessions is not made(trusting, record(3, 1, 1, world.ca)).sessions  # type: ignore[attr-defined]


def test_a_dane_context_keeps_the_settings_of_its_original(world: World) -> None:
    context = client_context(cafile=world.authority.cafile, alpn=corenet.tls.ALPN_HTTP2)
    dane_context = made(context, record(1, 1, 1, world.ca))
    assert isinstance(dane_context, ClientContext) and dane_context.protocols == corenet.tls.ALPN_HTTP2
    assert dane_context.verify_mode is ssl.CERT_REQUIRED and dane_context.check_hostname
    context.set_ciphers("DEFAULT")
    assert with_dane(context, policy(record(1, 1, 1, world.ca))) is None
    assert with_dane(ssl.create_default_context(), policy(record(1, 1, 1, world.ca))) is None
