"""Thousands of requests, cancelled at random points, leave the client's pool whole (`support.http_crowd`).

``make stress`` (CORENET_STRESS=1) sends 100,000 with HTTP/1.1 and as many with HTTP/2 in the first two and last two
of `PROTOCOLS`. A failing seed is named; HTTP_FIRST_SEED begins with it.
"""

import os
from collections import Counter
from pathlib import Path

import pytest
from support.certs import Authority
from support.http_crowd import WAYS, Crowd
from support.http_peer import LOOPS, run_on

from corenet import tls

pytestmark = pytest.mark.integration

SCALE = float(os.environ.get("CORENET_STRESS", "0.01"))
FIRST = int(os.environ.get("HTTP_FIRST_SEED", "0"))
REQUESTS = 200
"""Requests of one client."""
WORLDS = max(4, int(125 * SCALE))
PROTOCOLS = {
    "http/1.1": ["http/1.1"],
    "https": ["http/1.1"],
    "h2": ["h2"],
    "either": ["http/1.1", "h2"],
}


@pytest.mark.limit(600 + 3600 * SCALE)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_cancelled_requests_leave_the_pool_whole(loop: str, protocol: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("127.0.0.1")
    contexts = [
        None if protocol == "http/1.1" else tls.server_context(leaf.certificate, leaf.key, alpn=(name,))
        for name in PROTOCOLS[protocol]
    ]
    client = tls.client_context(cafile=authority.cafile, alpn=tls.ALPN_HTTP2)
    ways: Counter[str] = Counter()
    results: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + WORLDS):
        try:
            crowd = Crowd(seed, REQUESTS, contexts, client)
            run_on(loop, crowd.run())
        except BaseException as error:
            error.add_note(f"HTTP_FIRST_SEED={seed}, {loop}, {protocol}")
            raise
        ways += crowd.ways
        results += crowd.results
    # The servers misbehaved in most ways, and of the requests many were answered and many cancelled.
    expected = {f"{kind} {way}" for kind in PROTOCOLS[protocol] for way in WAYS[kind]}
    assert len(expected & set(ways)) * 4 > len(expected) * 3, ways
    assert min(results["NoneType"], results["cancelled"]) > WORLDS * REQUESTS // 20, results
