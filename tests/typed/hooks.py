"""How operators write hooks, for type checkers alone: mypy checks it in strict mode, and it never runs.

Each public name of `resolver.hooks` is here, with the type that a module with hooks sees.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import assert_type

from resolver.hooks import (
    DROP,
    PASS,
    REFUSE,
    TRUNCATE,
    ClientHook,
    Decision,
    NameServerHook,
    Query,
    Question,
    QuestionHook,
    Record,
    Response,
    ResponseHook,
    answer,
)


def client(query: Query, question: Question) -> Decision | None:
    """All that a query and a question have."""
    assert_type(query.address, IPv4Address | IPv6Address | None)
    assert_type(query.transport, str)
    assert_type(query.listener, str)
    assert_type(query.verified, bool)
    assert_type(query.view, str)
    assert_type(question.name, str)
    assert_type(question.type, str)
    if question.type == "ANY":
        return REFUSE.because("not here", 21)
    return TRUNCATE if not query.verified else PASS


async def question(query: Query, question: Question) -> Decision | None:
    """Each form of an answer."""
    assert_type(answer("192.0.2.1", "192.0.2.2", type="A", ttl=30), Decision)
    return answer(rcode="NXDOMAIN").because("reason")


def alias(query: Query, question: Question) -> Decision | None:
    """As `question`."""
    return DROP


def name_server(query: Query, question: Question, zone: str) -> Decision | None:
    """The zone is text."""
    return REFUSE if zone == "example." else None


async def response(query: Query, response: Response) -> Decision | None:
    """All that a response has."""
    assert_type(response.question, Question)
    assert_type(response.rcode, str)
    assert_type(response.secure, bool)
    assert_type(response.ttl, int)
    assert_type(response.records, tuple[Record, ...])
    for record in response.records:
        assert_type(record.ttl, int)
    return None


def send(query: Query, response: Response) -> None:
    """A hook that only looks returns nothing."""


CLIENT: ClientHook = client
QUESTION: QuestionHook = question
ALIAS: QuestionHook = alias
NAME_SERVER: NameServerHook = name_server
RESPONSE: ResponseHook = response
SEND: ResponseHook = send
