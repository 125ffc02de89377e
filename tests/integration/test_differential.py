"""A slice of ``make differential``: our daemon, Unbound and Knot Resolver answer alike, or a committed line says why.

The whole run has more than ten thousand queries; here it is some hundred for each kind of name server, with other
seeds, so that each change is tested with worlds that the long run does not use.
"""

import re
from pathlib import Path

import pytest
from support.differential import (
    Answered,
    Found,
    Question,
    Rule,
    load_rules,
    playground_questions,
    run_playground,
    run_zoo,
    zoo_questions,
)

from resolver.wire import consts as c

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("run", "server", "seed", "count"),
    [(run_playground, "nsd", 11, 350), (run_zoo, "knot", 40, 250), (run_zoo, "bind", 41, 250)],
    ids=["playground-nsd", "zoo-knot", "zoo-bind"],
)
def test_differences_are_explained(run, server: str, seed: int, count: int, tmp_path: Path) -> None:
    result = run(seed, server, count, tmp_path)
    assert result.asked >= count * 0.95 and len(result.kinds) >= 5, "the questions meet every kind of answer"
    left = result.unexplained(load_rules())
    assert not left, f"{len(left)} of {result.asked}\n" + "\n".join(map(str, left[:10]))


def test_questions_follow_from_their_seed() -> None:
    for make in (zoo_questions, playground_questions):
        assert make(3, 500) == make(3, 500) != make(4, 500)
        assert len(set(make(3, 500))) == 500


def test_a_rule_explains_only_what_it_says() -> None:
    name = re.compile(r"\.example\.$")
    rule = Rule("kresd", name, frozenset({"A"}), "SERVFAIL", r"NOERROR(\+ad)?", frozenset(), "x", "y")
    bad, good = Answered("SERVFAIL", False, frozenset()), Answered("NOERROR", True, frozenset({"x"}))
    found = Found(Question("a.example.", c.A), "kresd", "nsd", bad, good)
    assert rule.explains(found)
    assert not rule.explains(found._replace(against="unbound"))
    assert not rule.explains(found._replace(question=Question("a.example.", c.TXT)))
    assert not rule.explains(found._replace(question=Question("a.example.org.", c.A)))
    assert not rule.explains(found._replace(ours=good, theirs=bad))
    assert not rule.explains(found._replace(theirs=good._replace(rcode="NXDOMAIN")))


def test_every_entry_of_the_list_has_a_reason_and_a_reference() -> None:
    rules = load_rules()
    assert rules
    for rule in rules:
        assert re.match(r"RFC \d+", rule.rfc) and len(rule.reason) > 60, rule
