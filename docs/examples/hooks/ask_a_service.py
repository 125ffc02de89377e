"""Hooks that ask an HTTP service whether a name is malicious. Its answers are kept for some minutes, and a service that
is slow or down blocks nothing."""

import os
import time
from collections import OrderedDict

from corenet.http import HttpClient
from resolver.hooks import Decision, Query, Question, answer

SERVICE = os.environ.get("REPUTATION_SERVICE", "http://127.0.0.1:8080/reputation")
SECONDS = 300
NAMES = 10_000
BLOCKED = 15  # RFC 8914

_known: "OrderedDict[str, tuple[float, bool]]" = OrderedDict()


async def question(query: Query, question: Question) -> Decision | None:
    """Asked once for all clients, when the answer is not cached. `policy.hook-timeout` bounds the wait."""
    if await is_bad(question.name):
        return answer(rcode="NXDOMAIN", ttl=SECONDS).because("bad reputation", BLOCKED)
    return None


async def is_bad(name: str) -> bool:
    """What the service says, or has said not long ago."""
    until, bad = _known.get(name, (0.0, False))
    if until > time.monotonic():
        return bad
    async with HttpClient() as http:
        reply = await http.get(SERVICE, params={"name": name})
        bad = reply.status == 200 and reply.json()["bad"] is True
    _known[name] = (time.monotonic() + SECONDS, bad)
    while len(_known) > NAMES:
        _known.popitem(last=False)
    return bad
