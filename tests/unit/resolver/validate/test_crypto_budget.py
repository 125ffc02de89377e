"""`crypto_budget` is the only module that hashes and makes signature checks: it limits them and charges the query.

One test reads the sources to check that no other module does. Others count the blocks hashed for each way in which
remote parties can cause work, in the validator and in the whole resolver.
"""

import ast
import hashlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.forger import EXAMPLE_IP, PLAIN_IP, world
from support.minet import Minet
from support.signing import Nsec3, ZoneKey, sign_zone
from support.tree import Tree

from resolver import limits
from resolver.effects import Budget, Outcome, Question
from resolver.settings import CacheSettings
from resolver.validate import crypto_budget, nsec3
from resolver.validate.records import Dnskey, Ds
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

SOA = "@ 3600 SOA ns host 1 7200 3600 86400 300\n@ 3600 NS ns\nns 300 A 192.0.2.53\n"
ROOT_KEY, KEY = ZoneKey("."), ZoneKey("example.")
# A debug build and a wheel hold no sources.
PACKAGE = Path(__file__).resolve().parents[4] / "resolver"
# Modules that hash data that no remote party chooses: keys of cookies, own files.
# A pin of a server's key is one hash for each connection.
OWN_MATTERS = {"net/cookies.pyx", "net/quic_client.py", "cache/snapshot.py", "daemon/cache_file.py",
               "daemon/certificates.py", "daemon/web_page.py", "validate/anchor_file.py",
               # MACs and checksums of entries of at most SECOND_LEVEL_ENTRY octets.
               "cache/second_level.py", "net/second_level_setup.py",
               # The settings of the daemon, once for each reload.
               "daemon/config_reload.py", "daemon/cache_rules.py", "settings/views.py",
               # Files of the daemon's own, and answers from zones of one's own, whose iterations are bounded there.
               "daemon/list_files.py", "daemon/zone_files.py", "policy/list_source.py", "zones/answer.py",
               "zones/journal.py", "zones/zonemd.py"}


class Counter:
    """Counts the calls of SHA-1 that the gate makes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        patch.setattr(crypto_budget, "hashlib", SimpleNamespace(sha1=self.sha1, blake2b=hashlib.blake2b))

    def sha1(self, data: bytes, **kwargs: bool) -> object:
        self.calls += 1
        return hashlib.sha1(data, **kwargs)


def sources() -> dict[str, str]:
    found = [path for end in ("*.py", "*.pyx") for path in PACKAGE.rglob(end)]
    named = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in found}
    return {name: text for name, text in named.items() if not name.startswith("playground/")}


@pytest.mark.checkout
def test_no_other_module_hashes() -> None:
    pattern = re.compile(r"\b(?:import hashlib|from hashlib|_sha1|_hashlib|hashes\.Hash|EVP_Digest)\b")
    assert {name for name, text in sources().items() if pattern.search(text)} == OWN_MATTERS | {
        "validate/crypto_budget.py"
    }


@pytest.mark.checkout
def test_no_other_module_makes_signature_checks() -> None:
    makers = set()
    for name, text in sources().items():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("SignatureJob", "Verify")):
                    makers.add(name)
    assert makers == {"validate/crypto_budget.py"}


# --- the gate itself ------------------------------------------------------------------------------------------------


def test_parameters_above_the_limit_are_refused_before_any_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, budget = Counter(monkeypatch), Budget(0, 0.0)
    for salt, iterations in ((b"", 51), (b"", 65535), (bytes(limits.NSEC3_SALT + 1), 0)):
        with pytest.raises(crypto_budget.HashBudgetExceeded):
            crypto_budget.hash_name(budget, b"\1a\0", salt, iterations, most=50)
    assert counter.calls == 0
    assert budget.hashes == limits.BUDGET_HASHES


@pytest.mark.parametrize(("salt", "iterations", "blocks"), [
    (b"", 0, 1), (b"", 50, 51), (bytes(8), 10, 11), (bytes(36), 10, 21), (bytes(64), 10, 22),
])
def test_a_hash_is_charged_by_what_it_costs(salt: bytes, iterations: int, blocks: int) -> None:
    budget = Budget(0, 0.0, hashes=blocks)
    crypto_budget.hash_name(budget, b"\1a\0", salt, iterations, most=50)
    assert budget.hashes == 0
    budget = Budget(0, 0.0, hashes=blocks - 1)
    with pytest.raises(crypto_budget.HashBudgetExceeded):
        crypto_budget.hash_name(budget, b"\1a\0", salt, iterations, most=50)


def test_digests_and_checks_are_charged() -> None:
    key = Dnskey(257, 3, 13, bytes(64), 7, bytes(68))
    budget = Budget(0, 0.0, verifications=1, hashes=2)
    assert not crypto_budget.ds_matches(budget, Ds(8, 13, 2, bytes(32)), b"\0", key)
    assert budget.hashes == 2
    assert not crypto_budget.ds_matches(budget, Ds(7, 13, 2, bytes(32)), b"\0", key)
    assert budget.hashes == 0
    with pytest.raises(crypto_budget.HashBudgetExceeded):
        crypto_budget.ds_matches(budget, Ds(7, 13, 2, bytes(32)), b"\0", key)
    sig = SimpleNamespace(signature=bytes(64))
    assert crypto_budget.signature_check(budget, key, sig, b"") is not None
    assert crypto_budget.signature_check(budget, key, sig, b"") is None


# --- what a zone can cause ------------------------------------------------------------------------------------------


def tree(chain: Nsec3) -> Tree:
    """A signed root with `chain` and an unsigned zone below it."""
    text = ". 3600 SOA a. b. 1 2 3 4 300\n. 3600 NS a.root.\na.root. 3600 A 127.0.0.1\n"
    text += f"plain. 3600 NS ns.plain.\nns.plain. 300 A 192.0.2.54\nexample. 300 NS ns.plain.\nexample. DS {KEY.ds()}\n"
    return Tree({
        ".": sign_zone(".", text, [ROOT_KEY], nsec3=chain),
        "plain.": SOA + "www 300 A 192.0.2.9\n",
        "example.": sign_zone("example.", SOA, [KEY], nsec3=chain),
    }, [ROOT_KEY.anchor()])


@pytest.mark.parametrize("chain", [Nsec3(51), Nsec3(500, "aa" * 8), Nsec3(500, "aa", opt_out=True)],
                         ids=["just above", "salted", "opt-out"])
def test_zone_cuts_are_not_searched_with_parameters_above_the_limit(
    chain: Nsec3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2023-50868: the denial of DS by a zone with many iterations shows an insecure zone without one hash."""
    world = tree(chain)
    counter = Counter(monkeypatch)
    assert world.validate("www.plain.", c.A).verdict is Verdict.INSECURE
    assert world.validate("plain.", c.DS).verdict is Verdict.INSECURE
    assert world.validate("nope.example.", c.A).verdict is Verdict.INSECURE
    assert counter.calls == 0


def test_parameters_within_the_limit_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = tree(Nsec3(50, "aa"))
    counter = Counter(monkeypatch)
    assert world.validate("www.plain.", c.A).verdict is Verdict.INSECURE
    assert 51 <= counter.calls <= 4 * 51


def test_a_query_with_an_exhausted_budget_is_bogus_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is one for the query and all that it leads to, and it does not grow again."""
    m = world(Nsec3(50, "aa"))
    context = m.mesh._context
    validator, budgets = context.validator, {}

    def with_little(question, raw, context, task):
        if id(task.budget) not in budgets:
            task.budget.hashes = 120
            budgets[id(task.budget)] = task.budget
        return validator(question, raw, context, task)

    context.validator = with_little
    counter = Counter(monkeypatch)
    outcome = m.ask("a.b.c.d.e.nope.example.")
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS)
    assert len(budgets) == 1
    assert 0 < counter.calls <= 120
    assert all(0 <= budget.hashes < 120 for budget in budgets.values())


def test_answers_from_proofs_are_charged_to_the_query() -> None:
    """Look-ups before any server is queried spend the same budget."""
    m = world(Nsec3(10, "aa"))
    m.ask("nope.example.")
    aggressive_nsec = m.mesh._context.validation.aggressive_nsec
    answer, budgets = aggressive_nsec.answer, []

    def watched(qname, qtype, context, budget, *, with_soa):
        budgets.append(budget)
        return answer(qname, qtype, context, budget, with_soa=with_soa)

    aggressive_nsec.answer = watched
    m.ask("nope2.example.")
    assert budgets
    assert len({id(budget) for budget in budgets}) == 1
    assert budgets[0].packets
    assert budgets[0].hashes < limits.BUDGET_HASHES


def spend(m: Minet, hashes: int) -> dict[Budget, None]:
    """Give each budget that is used from now on `hashes` blocks; they are found in what is returned."""
    aggressive_nsec = m.mesh._context.validation.aggressive_nsec
    answer = aggressive_nsec.answer
    budgets: dict[Budget, None] = {}

    def with_little(qname, qtype, context, budget, *, with_soa):
        if budget not in budgets:
            budget.hashes = hashes
            budgets[budget] = None
        return answer(qname, qtype, context, budget, with_soa=with_soa)

    aggressive_nsec.answer = with_little
    return budgets


def test_the_search_for_stale_data_is_charged_to_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for beside the work on the question, and again when that has failed in the end."""
    m = world(Nsec3(50, "aa"), example="brief 10 A 192.0.2.81\n",
              cache=CacheSettings(max_stale_ttl=86400, stale_answer_client_timeout=0.0))
    m.ask("brief.example.")
    m.ask("nope.example.")
    m.net.hosts.pop(EXAMPLE_IP)
    m.net.sleep(m.mesh, 60)
    budgets, counter = spend(m, 120), Counter(monkeypatch)
    assert m.ask("brief.example.").stale
    m.net.run(m.mesh)
    assert m.mesh.statistics()["running"] == 0
    assert 0 < counter.calls <= 120
    assert len(budgets) == 1


@pytest.mark.parametrize("peeks", [False, True])
def test_the_search_for_stale_data_of_a_cached_failure_is_charged_to_the_query(
    peeks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias is expanded from a wildcard with a cached proof, each time again, and leads to a failed name."""
    m = world(Nsec3(50, "aa"), cache=CacheSettings(max_stale_ttl=86400))
    m.net.hosts.pop(PLAIN_IP)

    def peek(name: str) -> Outcome | None:
        return m.mesh.peek(Question(names.from_text(name), c.A))

    assert m.ask("a.wild.example.").failure is not None
    counter = Counter(monkeypatch)
    held = [f"{n}.wild.example." for n in range(99) if (told := peek(f"{n}.wild.example.")) and told.failure][:2]
    assert len(held) == 2, "no other name has its hash where the proof is"
    counter.calls = 0
    peek(held[0])
    enough = counter.calls + 10
    assert enough > 51
    budgets = spend(m, enough)
    counter.calls = 0
    if peeks:
        peek(held[1])
    else:
        m.ask(held[1])
    assert 51 <= counter.calls <= enough
    assert len(budgets) == 1


def test_surplus_records_of_a_denial_are_not_checked() -> None:
    """Sets of many NSEC3 records at one owner, all of them validly signed, count by their records."""
    world = tree(Nsec3())
    seen: list[int] = []
    parse = nsec3.parse

    def edit(question, view, answer, authority):
        crowd = []
        for rrset in authority:
            if rrset.rtype == c.NSEC3:
                rdata = rrset.rdata(0)
                rrset = type(rrset)(rrset.name, rrset.rtype, rrset.ttl,
                                    [rdata, *(rdata[:4] + bytes((1, n)) + rdata[5:] for n in range(60))],
                                    sigs=rrset.sigs())
            crowd.append(rrset)
        return view.rcode, answer, crowd

    world.edit = edit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nsec3, "parse", lambda *args: seen.append(1) or parse(*args))
        got = world.validate("nope.example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert "too many records" in got.text
    assert not seen
    assert world.checks <= 6
