"""Hooks that give clients of the office the internal address of a service, and others the public one."""

from ipaddress import ip_network

from resolver.hooks import Decision, Query, Question, answer

OFFICE = ip_network("10.0.0.0/8")
INTERNAL = {"portal.corp.example.": "10.1.2.3"}
PUBLIC = {"portal.corp.example.": "198.51.100.7"}


def client(query: Query, question: Question) -> Decision | None:
    """Asked for each query, so the answer may depend on the client."""
    if question.name not in INTERNAL:
        return None
    inside = query.address is not None and query.address in OFFICE
    if question.type != "A":
        return answer()
    return answer((INTERNAL if inside else PUBLIC)[question.name], ttl=30)
