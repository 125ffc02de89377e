"""A query that spends its budget on wrong signatures of one zone fails alone: no failure of other zones is cached."""

import re

import pytest
from support import minet
from support.signed_net import Crypto
from support.signing import ZoneKey, sign_zone

from resolver.effects import FailureKind
from resolver.settings import DnssecSettings, Settings
from resolver.wire import consts as c

EVIL, VICTIM = "192.0.2.1", "192.0.2.2"
SOA = "@ 3600 SOA ns host 1 7200 3600 86400 300\n@ 3600 NS ns\n"
WRONG = 7
"""Wrong signatures beside each right one: fewer than are looked at for one set."""


def build(last: int) -> minet.Minet:
    """``a0.evil.`` is a chain of eight aliases to ``www.victim.``; the last has `last` wrong signatures."""
    root, evil, victim = ZoneKey("."), ZoneKey("evil."), ZoneKey("victim.")
    text = (
        "@ 86400 SOA a.root. nobody.root. 1 1800 900 604800 900\n@ 518400 NS a.root.\n"
        f"a.root. 518400 A {minet.ROOT_ADDRESS}\n"
    )
    for zone, key, address in (("evil.", evil, EVIL), ("victim.", victim, VICTIM)):
        text += f"{zone} 3600 NS ns.{zone}\nns.{zone} 3600 A {address}\n{zone} 3600 DS {key.ds()}\n"
    chain = "".join(f"a{number} 300 CNAME a{number + 1}\n" for number in range(7)) + "a7 300 CNAME www.victim.\n"
    lines = []
    for line in sign_zone("evil.", SOA + f"ns 3600 A {EVIL}\n" + chain, [evil]).splitlines():
        found = re.match(r"a(\d)\S*\s.*RRSIG CNAME", line)
        if found is not None:
            head, signature = line.rsplit(" ", 1)
            count = last if found[1] == "7" else WRONG
            lines += [f"{head} {'ABCDEFGHIJ'[number] * 4}{signature[4:]}" for number in range(count)]
        lines.append(line)
    hosts = SOA + f"ns 3600 A {VICTIM}\nwww 300 A 192.0.2.80\nmail 300 A 192.0.2.81\n"
    population = {
        minet.ROOT_ADDRESS: [(".", sign_zone(".", text, [root]))],
        EVIL: [("evil.", "\n".join(lines) + "\n")],
        VICTIM: [("victim.", sign_zone("victim.", hosts, [victim]))],
    }
    settings = Settings(dnssec=DnssecSettings(trust_anchors=(root.anchor(),)))
    return minet.build(population, settings=settings, crypto=Crypto())


@pytest.mark.parametrize("last", range(5))
def test_a_spent_budget_fails_no_other_clients_question(last: int) -> None:
    m = build(last)
    m.ask("a0.evil.")
    for name, address in (("www.victim.", "192.0.2.80"), ("mail.victim.", "192.0.2.81")):
        outcome = m.ask(name)
        assert outcome.failure is None, (last, name, outcome.failure)
        assert minet.addresses(outcome) == [address]


def test_the_failure_of_the_query_itself_is_cached() -> None:
    m = build(4)
    first = m.ask("a0.evil.")
    assert first.failure is not None and first.rcode == c.SERVFAIL
    before = len(m.net.log)
    again = m.ask("a0.evil.")
    assert again.failure is not None and again.failure.kind in (FailureKind.BOGUS, FailureKind.CACHED_ERROR)
    assert len(m.net.log) == before
