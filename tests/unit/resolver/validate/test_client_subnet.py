"""Signed zones whose servers answer by client subnet: answers are validated, and denials stay with their clients."""

from typing import Any

import pytest
from support import minet
from support.fakenet import Host
from support.signing import ZoneKey, sign_zone

from resolver.effects import Outcome, Question
from resolver.net.subnet_option import with_subnet
from resolver.query import Query
from resolver.settings import DnssecSettings, Settings, SubnetSettings
from resolver.validate.verify import check
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.client_subnet import Subnet, encode_subnet, parse_subnet
from resolver.wire.message import MessageView

SERVER = "192.0.2.53"
A, B = (bytes([198, 51, 100, 0]), 24), (bytes([198, 51, 101, 0]), 24)
HEAD = "@ 3600 SOA ns host 1 7200 3600 86400 300\n@ 3600 NS ns\nns 300 A 192.0.2.53\n"
ZONES = {
    A: f"{HEAD}www 300 A 192.0.2.1\n*.star 80000 A 192.0.2.4\n",
    B: f"{HEAD}www 300 A 192.0.2.2\nbeta 300 A 192.0.2.3\n",
}


class Checker:
    """Checks signatures in place."""

    def verify(self, jobs: Any, on_done: Any) -> None:
        on_done([check(job) for job in jobs])


def build(*, forge: bool = False) -> tuple[minet.Minet, list[Subnet | None]]:
    """A root and ``example.``, signed; its server has another content for each subnet. With `forge` that for `B` is
    signed with another key."""
    root, key, other = ZoneKey("."), ZoneKey("example."), ZoneKey("example.", label="b")
    text = (
        "@ 86400 SOA a.root. nobody.root. 1 1800 900 604800 900\n@ 518400 NS a.root.\n"
        f"a.root. 518400 A {minet.ROOT_ADDRESS}\nexample. 3600 NS ns.example.\nns.example. 3600 A {SERVER}\n"
        f"example. 3600 DS {key.ds()}\n"
    )
    settings = Settings(dnssec=DnssecSettings(trust_anchors=(root.anchor(),)),
                        client_subnet=SubnetSettings(servers=(SERVER,)))
    contents = {subnet: sign_zone("example.", zone, [other if forge and subnet == B else key])
                for subnet, zone in ZONES.items()}
    population = {minet.ROOT_ADDRESS: [(".", sign_zone(".", text, [root]))]}
    hosts: dict[Subnet, Host] = {}
    for subnet, zone in contents.items():
        hosts[subnet] = minet.build({SERVER: [("example.", zone)]}).net.hosts[SERVER]
    m = minet.build(population, settings=settings, crypto=Checker())
    asked: list[Subnet | None] = []

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(packet)
        content = None if view.edns is None else view.edns.get(c.OPTION_ECS)
        if content is None:
            return hosts[A](packet, tcp)
        subnet = parse_subnet(content).subnet
        assert subnet is not None
        asked.append(subnet)
        reply = hosts[subnet](packet, tcp)
        assert reply is not None
        return with_subnet(reply, encode_subnet(subnet, 24), None)

    m.net.hosts[SERVER] = host
    return m, asked


def ask(m: minet.Minet, subnet: Subnet | None, name: str, *, cd: bool = False) -> Outcome:
    found: list[Outcome] = []
    m.mesh.submit(Question(names.from_text(name), c.A), query=Query(subnet=subnet), cd=cd, on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


def test_tailored_answers_are_validated_and_kept_with_their_verdict() -> None:
    m, asked = build()
    for _ in range(2):
        for subnet, address in ((A, 1), (B, 2)):
            outcome = ask(m, subnet, "www.example.")
            assert (outcome.verdict, outcome.answer[0].rdatas()[0][3]) == (Verdict.SECURE, address)
            assert outcome.answer[0].sig_len
    assert asked == [A, B]


def test_a_tailored_answer_that_is_bogus_is_kept_for_nobody() -> None:
    m, _ = build(forge=True)
    for subnet in (A, B, A, B):
        outcome = ask(m, subnet, "www.example.")
        assert (outcome.verdict, outcome.answer[0].rdatas()[0][3]) == (Verdict.SECURE, 1), "B: that without a subnet"
    assert m.store.rrsets.find_failure(names.from_text("www.example."), c.A, m.net.time()) is None


def test_what_a_client_with_cd_got_is_validated_for_others() -> None:
    m, asked = build(forge=True)
    assert ask(m, B, "www.example.", cd=True).answer[0].rdatas()[0][3] == 2
    outcome = ask(m, B, "www.example.")
    assert (outcome.verdict, outcome.answer[0].rdatas()[0][3]) == (Verdict.SECURE, 1)
    assert ask(m, B, "www.example.", cd=True).answer
    assert asked[0] == B


def test_a_denial_for_some_clients_denies_nothing_to_others() -> None:
    m, asked = build()
    assert ask(m, A, "alpha.example.").rcode == c.NXDOMAIN
    assert ask(m, B, "beta.example.").answer, "its denial would follow from the NSEC record that A got"
    assert asked == [A, B]
    assert ask(m, A, "alpha.example.").verdict == Verdict.SECURE
    assert asked == [A, B]


@pytest.mark.parametrize("cd", [False, True])
def test_an_expanded_wildcard_is_kept_no_longer_than_its_proof(cd: bool) -> None:
    """RFC 4035 section 5.3.3. The set itself is signed for 80,000 s, its proof for 300."""
    m, asked = build()
    for wait in (0, 100):
        m.net.sleep(m.mesh, wait)
        outcome = ask(m, A, "x.star.example.", cd=cd)
        assert outcome.scope is not None
        assert outcome.answer[0].ttl == 300 - wait
    assert asked == [A]
