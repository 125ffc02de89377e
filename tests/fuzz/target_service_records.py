"""HTTPS and TLSA records: any data is a set of records or a ValueError; the choice is bounded, and chains are refused.

The first byte chooses whether the rest is one record or two of equal length. It is also taken for a certificate.
"""

from corenet.http.service_records import choose_alias, choose_services, parse_records
from corenet.limits import HTTP_SERVICE_ENDPOINTS, HTTP_SERVICE_HINTS
from corenet.tls import CertificateRefused
from corenet.tls.dane import DanePolicy, TlsaRecord, parse_tlsa


def run(data: bytes) -> None:
    """One input: the number of records, their data."""
    half = len(data) // 2 if data[:1] > b"\x7f" else len(data)
    rdatas = [data[1:half], data[half:]] if half < len(data) else [data[1:]]
    try:
        records = parse_records(rdatas)
    except ValueError:
        records = []
    chosen = choose_services(records, ("h2", "http/1.1"), list.reverse)
    assert len(chosen) <= HTTP_SERVICE_ENDPOINTS and all(not one.is_alias and one.target is not None for one in chosen)
    assert all(max(len(one.ipv4hint), len(one.ipv6hint)) <= HTTP_SERVICE_HINTS for one in records)
    assert choose_alias(records, list.reverse) is None or any(one.is_alias for one in records)
    try:
        usable = parse_tlsa(rdatas)
    except ValueError:
        usable = ()
    for record in (*usable, TlsaRecord(2, 0, 0, data), TlsaRecord(3, 1, 1, bytes(32))):
        try:
            accepted = DanePolicy("_443._tcp.example", (record,)).verify_chain([data, data[1:]], "example")
        except CertificateRefused:
            continue
        # Only a record with these very octets can match what is no certificate.
        assert accepted.data in (data, data[1:])
