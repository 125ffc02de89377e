"""Rdata of any type: checked, brought into canonical form, and shown as text without any other exception.

The first two bytes are the type. Text is also parsed again: when dnspython can read what it wrote, the bytes are the
same.
"""

from resolver.policy.service_hints import hinted_addresses, read_parameters
from resolver.wire import RRset, WireError, edns, name, present
from resolver.wire import consts as c
from resolver.wire import rdata as rdatas


def run(data: bytes) -> None:
    """One type and its rdata."""
    rtype = int.from_bytes(data[:2], "big") % 300
    rdata = data[2:]
    for parse in (edns.options_from_wire, edns.parse_ede):
        try:
            parse(rdata)
        except WireError:
            pass
    assert isinstance(present.rdata_to_text(rtype, rdata), str)  # empty for a prefix list without prefixes
    try:
        present.rdata_from_text(rtype, rdata.decode("latin-1"))
    except ValueError:
        pass
    try:
        rdatas.check(rtype, rdata)
    except WireError:
        return
    canonical = rdatas.canonical(rtype, rdata)
    rdatas.check(rtype, canonical)
    assert rdatas.canonical(rtype, canonical) == canonical
    assert canonical.lower() == rdata.lower()
    if rtype in (c.SVCB, c.HTTPS):
        head, parameters = read_parameters(rdata)
        assert rdata == head + b"".join(key + len(value).to_bytes(2, "big") + value for key, value in parameters)
        assert all(len(address) in (4, 16) for address in hinted_addresses(rdata))
    rrset = RRset(name.ROOT, rtype, 0, [rdata])
    assert rrset.canonical_rdatas() == [canonical]
