"""DNSKEY and DS sets are queried where other data is: also at servers that only the zone itself names.

The servers of the delegation answer a query and add the NS set of the zone; then they fail for the queries of the
validation.
"""

import pytest
from support.forger import EXAMPLE_IP, world
from support.minet import Minet, reply, rr

from resolver.effects import Failure
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

OWN_IP = "192.0.2.55"
ZONE = f"@ 3600 NS own\nown 300 A {OWN_IP}\ntosub 300 CNAME ns.sub\n"


def with_own_server(rtype: int, broken: str, *, says_so: bool = True) -> Minet:
    """example., whose delegated server fails for `rtype` and has no DS in its referrals; OWN_IP has all of it."""
    minet = world(example=ZONE)
    true = minet.net.hosts[OWN_IP] = minet.net.hosts[EXAMPLE_IP]

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(packet)
        if view.qtype == rtype:
            return None if broken == "silent" else reply(packet, rcode=c.SERVFAIL, flags=0)
        said = MessageView.parse(true(packet, tcp) or b"")
        authority = [rrset for rrset in said.authority if rrset.rtype != c.DS]
        additional = [rrset for rrset in said.additional if rrset.rtype in (c.A, c.AAAA)]
        if said.aa and says_so and not any(rrset.rtype == c.NS for rrset in authority):
            authority.append(rr("example. 300 NS own.example."))
            additional.append(rr(f"own.example. 300 A {OWN_IP}"))
        return reply(packet, said.answer, authority, additional, rcode=said.rcode, flags=c.AA if said.aa else 0)

    minet.net.hosts[EXAMPLE_IP] = host
    return minet


@pytest.mark.parametrize("broken", ["silent", "SERVFAIL"])
@pytest.mark.parametrize(("name", "rtype"), [("www.example.", c.DNSKEY), ("tosub.example.", c.DS)])
def test_queries_that_delegated_servers_fail_are_sent_to_the_zones_own(name: str, rtype: int, broken: str) -> None:
    minet = with_own_server(rtype, broken)
    outcome = minet.ask(name)
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE), outcome
    assert [entry.qtype for entry in minet.net.asked(OWN_IP)][:1] == [rtype]


@pytest.mark.parametrize("rtype", [c.DNSKEY, c.DS])
def test_no_other_server_is_queried_where_the_zone_names_no_other(rtype: int) -> None:
    minet = with_own_server(rtype, "SERVFAIL", says_so=False)
    outcome = minet.ask("www.example." if rtype == c.DNSKEY else "tosub.example.")
    assert isinstance(outcome.failure, Failure)
    assert not minet.net.asked(OWN_IP)


def test_child_ns_sets_of_one_query_are_not_used_for_the_next() -> None:
    minet = with_own_server(c.TXT, "SERVFAIL")
    assert minet.ask("www.example.").rcode == c.NOERROR
    assert minet.ask("www.example.", "TXT").rcode == c.SERVFAIL
    assert minet.store.rrsets.find(names.from_text("own.example."), c.A, minet.net.time()) is None
    assert not minet.net.asked(OWN_IP)
