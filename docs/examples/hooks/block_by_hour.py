"""Hooks that block games for the children's network in the evening."""

from datetime import datetime, time
from ipaddress import ip_network

from resolver.hooks import Decision, Query, Question, answer

CHILDREN = ip_network("192.168.7.0/24")
BLOCKED = ("games.example.", "video.example.")
BEGIN, END = time(20, 0), time(7, 0)
FILTERED = 17  # RFC 8914: filtered as the client has requested


def now() -> time:
    """The time of day here."""
    return datetime.now().time()


def client(query: Query, question: Question) -> Decision | None:
    """No such name for these zones, from the begin to the end of the night."""
    if query.address is None or query.address not in CHILDREN:
        return None
    if BEGIN > now() >= END:
        return None
    if any(question.name == zone or question.name.endswith("." + zone) for zone in BLOCKED):
        return answer(rcode="NXDOMAIN", ttl=60).because("not at night", FILTERED)
    return None
