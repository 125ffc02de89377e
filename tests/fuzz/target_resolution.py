"""A whole resolution in which every server answers with arbitrary records.

For any replies, the question gets exactly one outcome, no job ends with an internal error, the packet budget holds, no
query is sent to a forbidden address, and no data outside the tree of the queried names enters the cache.
"""

from ipaddress import ip_address

from support.fakenet import FakeNet
from support.minet import ROOT_ADDRESS, assemble, build

from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names

PACKETS = 30
VICTIM = names.from_text("www.victim.test.")
SERVERS = (ROOT_ADDRESS, "192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1")
# Checking settings takes three times as long as the resolution: it is done once for each of the four.
SETTINGS = {
    (priming, minimising): build(
        {}, max_upstream_queries=PACKETS, priming=priming, qname_minimisation=minimising
    ).settings
    for priming in (False, True) for minimising in (False, True)
}
QUESTIONS = ((b"www.example.com.", "A"), (b"a.b.example.com.", "TXT"), (b"example.com.", "DS"), (b"x.", "ANY"))


def is_forbidden(address: str) -> bool:
    """Whether nobody who may be asked has this address."""
    parsed = ip_address(address)
    return parsed.is_loopback or parsed.is_multicast or parsed.is_unspecified or address.startswith("0.")


def run(data: bytes) -> None:
    """One input: which question, flags, record counts, then records as they stand in a packet."""
    if len(data) < 6:
        return
    choice, flags, answers, authority, additional, _ = data[:6]
    body = data[6:]
    counts = b"".join(number.to_bytes(2, "big") for number in (1, answers & 7, authority & 7, additional & 7))

    def host(packet: bytes, tcp: bool) -> bytes:
        end = 12
        while packet[end]:
            end += packet[end] + 1
        word = c.QR | flags & 15
        word |= (c.AA if flags & 16 else 0) | (c.TC if flags & 32 else 0) | (c.RA if flags & 64 else 0)
        return packet[:2] + word.to_bytes(2, "big") + counts + packet[12 : end + 5] + body

    net = FakeNet(dict.fromkeys(SERVERS, host))
    m = assemble(net, SETTINGS[bool(choice & 8), not choice & 16])
    qname, rtype = QUESTIONS[choice & 3]
    outcome = m.ask(qname.decode(), rtype)
    assert outcome.rcode in (c.NOERROR, c.NXDOMAIN, c.SERVFAIL, c.YXDOMAIN)
    counters = m.mesh.statistics()
    assert counters["internal_errors"] == 0
    net.run(m.mesh)
    assert m.mesh.statistics()["running"] == 0
    assert len(net.log) <= PACKETS
    assert not any(is_forbidden(entry.address) for entry in net.log if entry.address not in SERVERS)
    if choice & 3 != 3:
        assert m.store.rrsets.find(VICTIM, c.A, net.time(), min_trust=Trust.NONAUTH_ANSWER) is None


# Each input is played in many ways, in Python.
run.cost = 5  # type: ignore[attr-defined]
