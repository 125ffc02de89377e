"""Nothing is believed beyond the time of its signatures (RFC 4035 sections 5.3.1 and 5.3.3)."""

import pytest
from support.fakenet import START
from support.forger import world
from support.signing import Nsec3

from resolver.verdict import Verdict
from resolver.wire import consts as c

NOW = START + 1000
"""The fake network's time when the first question is asked."""
CHAINS = pytest.mark.parametrize("chain", [None, Nsec3()], ids=["nsec", "nsec3"])


# --- signatures whose time is not now ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("inception", "expiration", "ede"), [
    (NOW - 864_000, NOW - 1, c.EDE_SIGNATURE_EXPIRED),
    (NOW - 864_000, NOW - 3_599, c.EDE_SIGNATURE_EXPIRED),
    (NOW + 60, NOW + 864_000, c.EDE_SIGNATURE_NOT_YET_VALID),
])
def test_by_default_no_signature_is_believed_outside_its_time(inception: int, expiration: int, ede: int) -> None:
    m = world(inception=inception, expiration=expiration)
    for name, rtype in (("www.example.", "A"), ("nope.example.", "A"), ("alias.example.", "A")):
        outcome = m.ask(name, rtype)
        assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), name
        assert outcome.failure is not None
        assert outcome.failure.ede == ede


def test_a_signature_is_good_to_its_last_second() -> None:
    assert world(expiration=NOW + 5).ask("www.example.").verdict == Verdict.SECURE


def test_tolerance_is_an_option() -> None:
    m = world(inception=NOW - 864_000, expiration=NOW - 3_599, skew=(3_600.0, 86_400.0))
    assert m.ask("www.example.").verdict == Verdict.SECURE
    m = world(inception=NOW - 864_000, expiration=NOW - 3_599, skew=(0.0, 3_000.0))
    assert m.ask("www.example.").verdict == Verdict.BOGUS
