"""The addresses in SVCB and HTTPS records: hints, which clients may use instead of A and AAAA records (RFC 9460 section
7.3). So a policy about addresses holds for them, too.

The rdata is well-formed: it is checked when a message is read.
"""

from collections.abc import Iterator

__all__ = ["HINTS", "MANDATORY", "hinted_addresses", "read_parameters"]

MANDATORY = b"\x00\x00"
HINTS = {b"\x00\x04": 4, b"\x00\x06": 16}
"""Keys of SVCB parameters that hold addresses (RFC 9460 section 14.3.2), with the octets of one."""


def read_parameters(rdata: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Priority and target of a record as they are, and its parameters as (key, value)."""
    at = 2
    while rdata[at]:
        at += rdata[at] + 1
    at += 1
    head, found = rdata[:at], []
    while at < len(rdata):
        key, size = rdata[at : at + 2], int.from_bytes(rdata[at + 2 : at + 4], "big")
        found.append((key, rdata[at + 4 : at + 4 + size]))
        at += 4 + size
    return head, found


def hinted_addresses(rdata: bytes) -> Iterator[bytes]:
    """All addresses in the hints of a record. What is left of a hint of another length is no address."""
    for key, value in read_parameters(rdata)[1]:
        octets = HINTS.get(key)
        if octets is not None:
            yield from (value[n : n + octets] for n in range(0, len(value) - octets + 1, octets))
