"""ZONEMD: the example of RFC 8976 appendix A.1, and what makes a digest wrong."""

import io

import pytest

from resolver.wire import name as names
from resolver.zones.load import read_zone
from resolver.zones.zone import Zone
from resolver.zones.zonemd import DigestStatus, check_digest

SIMPLE = """\
example. 86400 IN SOA ns1 admin 2018031900 1800 900 604800 86400
         86400 IN NS ns1
         86400 IN NS ns2
         86400 IN ZONEMD 2018031900 1 1 (
                         c68090d90a7aed716bc459f9340e3d7c1370d4d24b7e2fc3a1ddc0b9a87153b9
                         a9713b3c9ae5cc27777f98b8e730044c )
ns1       3600 IN A 203.0.113.63
ns2       3600 IN AAAA 2001:db8::63
"""

def zone_of(text: str) -> Zone:
    return read_zone(io.StringIO(text), "example.zone", names.from_text("example."))


def test_the_example_of_the_rfc_matches() -> None:
    assert check_digest(zone_of(SIMPLE)) is DigestStatus.MATCHES


@pytest.mark.parametrize(("old", "new", "status"), [
    ("203.0.113.63", "203.0.113.64", DigestStatus.WRONG),
    ("ZONEMD 2018031900", "ZONEMD 2018031901", DigestStatus.WRONG),
    ("3600 IN A ", "3601 IN A ", DigestStatus.WRONG),
    ("1 1 (", "2 1 (", DigestStatus.UNSUPPORTED),
    ("1 1 (", "1 240 (", DigestStatus.UNSUPPORTED),
    ("NS ns2\n", "NS NS2\n", DigestStatus.MATCHES),
])
def test_what_changes_the_digest(old: str, new: str, status: DigestStatus) -> None:
    assert old in SIMPLE
    assert check_digest(zone_of(SIMPLE.replace(old, new))) is status


def test_two_digests_of_one_kind_are_not_used() -> None:
    second = " 86400 IN ZONEMD 2018031900 1 1 " + "ab" * 48 + "\n"
    zone = zone_of(SIMPLE.replace("ns1       3600", second + "ns1       3600"))
    assert check_digest(zone) is DigestStatus.UNSUPPORTED


def test_a_zone_without_a_digest() -> None:
    assert check_digest(zone_of(SIMPLE.partition("         86400 IN ZONEMD")[0])) is DigestStatus.ABSENT
