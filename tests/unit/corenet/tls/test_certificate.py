"""Fields read from a server's own certificate are those it was made with; malformed input gives a clear error."""

import base64
import contextlib
import datetime
import functools
import ssl
import subprocess
import tempfile
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from support.certs import Authority

from corenet.tls import certificate_info
from corenet.tls.certificate import _Element, _seconds


def test_names_and_expiry_are_those_of_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("DNS.example", "*.dns.example", "192.0.2.1", "2001:db8::1")
    pem = leaf.certificate.read_bytes()
    made = x509.load_pem_x509_certificate(pem)
    info = certificate_info(pem + authority.cafile.read_bytes())
    assert info.not_after == int(made.not_valid_after_utc.timestamp())
    assert info.names == ("dns.example", "*.dns.example")
    assert info.addresses == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))


def test_a_certificate_without_names_has_none(tmp_path: Path) -> None:
    info = certificate_info(Authority(tmp_path).cafile.read_bytes())
    assert info.names == () and info.addresses == ()


def test_text_before_the_certificate_is_skipped(tmp_path: Path) -> None:
    leaf = Authority(tmp_path).leaf("dns.example")
    text = subprocess.run(
        ["openssl", "x509", "-in", str(leaf.certificate), "-text"], capture_output=True, check=True, timeout=60
    ).stdout
    assert certificate_info(text) == certificate_info(leaf.certificate.read_bytes())


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (b"", "no PEM certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "not DER"),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", "base64"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "DER ends|DER has an invalid length"),
        (b"-----BEGIN CERTIFICATE-----\nMAIwAA==\n-----END CERTIFICATE-----\n", "no validity"),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "empty"),
    ],
)
def test_text_that_is_not_a_certificate_is_refused(pem: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        certificate_info(pem)


@pytest.mark.parametrize(
    ("tag", "text", "moment"),
    [
        (0x17, b"491231235959Z", (2049, 12, 31, 23, 59, 59)),
        (0x17, b"500101000000Z", (1950, 1, 1, 0, 0, 0)),
        (0x18, b"20500101000000Z", (2050, 1, 1, 0, 0, 0)),
        (0x18, b"99991231235959Z", (9999, 12, 31, 23, 59, 59)),  # RFC 5280 4.1.2.5: no end
    ],
)
def test_utc_time_and_generalized_time_are_read(tag: int, text: bytes, moment: tuple[int, ...]) -> None:
    wanted = datetime.datetime(*moment, tzinfo=datetime.UTC)  # type: ignore[misc,arg-type]
    assert _seconds(_Element(tag, text)) == int(wanted.timestamp())


@pytest.mark.parametrize(("tag", "text"), [(0x17, b"20500101000000Z"), (0x18, b"500101000000Z"), (0x17, b"5001010000Z"),
                                           (0x18, b"20500101000000+0100"), (0x04, b"500101000000Z")])
def test_malformed_times_are_refused(tag: int, text: bytes) -> None:
    with pytest.raises(ValueError, match="RFC 5280"):
        _seconds(_Element(tag, text))


@functools.cache
def der() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        leaf = Authority(Path(folder)).leaf("dns.example", "192.0.2.1")
        return ssl.PEM_cert_to_DER_cert(leaf.certificate.read_text())


@given(st.data())
def test_damaged_certificates_raise_value_error_only(damage: st.DataObject) -> None:
    whole = der()
    at = damage.draw(st.integers(0, len(whole) - 1))
    broken = whole[:at] + bytes([damage.draw(st.integers(0, 255))]) + whole[at + 1:]
    broken = broken[: damage.draw(st.integers(0, len(broken)))]
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(broken) + b"-----END CERTIFICATE-----\n"
    with contextlib.suppress(ValueError):
        assert isinstance(certificate_info(pem).not_after, int)


def test_must_staple_is_found(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for demands in (False, True):
        leaf = authority.leaf("dns.example", must_staple=demands)
        assert certificate_info(leaf.certificate.read_bytes()).must_staple is demands
