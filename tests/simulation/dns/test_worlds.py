"""The simulator: a seed determines a run, a resolver without validation is detected, shrinking keeps the failure."""

import os

import pytest
from simulation.dns import run
from simulation.dns.world import Fate, SimulatedCrypto, Trap, World
from support.overdue import SECONDS

START = 1_700_001_000
WORLDS = int(os.environ.get("CORENET_WORLDS", "300"))


def test_a_run_is_its_seed() -> None:
    first, second = run.play(7, trace=True), run.play(7, trace=True)
    assert first.steps and (first.steps, first.lies, first.wrong) == (second.steps, second.lies, second.wrong)


def test_worlds_have_zones_of_every_fate() -> None:
    fates = {site.fate_from_root() for seed in range(60) for site in World.make(seed, START).sites.values()}
    assert fates == set(Fate)


def test_some_zones_ask_for_more_iterations_than_are_followed() -> None:
    """With each fate of a signed zone, and in a trap too."""
    costly = [site for seed in range(400) for site in World.make(seed, START).sites.values() if site.costly]
    assert {site.fate for site in costly} == set(Fate) - {Fate.UNSIGNED, Fate.STRIPPED}
    assert {site.trap for site in costly} >= {None, Trap.HASHES}
    assert {site.opt_out for site in costly} == {False, True}


def test_a_resolver_that_accepts_every_signature_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinking keeps a run that fails, with no more queries and lies than before."""
    monkeypatch.setattr(SimulatedCrypto, "verify", lambda _self, jobs, on_done: on_done([True] * len(jobs)))
    runs = (run.play(seed) for seed in range(1000))
    report = next(report for report in runs if any("evil" in text and "is not what" in text for text in report.wrong))
    only, without = run.shrink(report)
    small = run.play(report.seed, only=only, without=without)
    assert small.wrong and small.queries <= report.queries
    assert len(small.lies.keys() - without) <= len(report.lies)


@pytest.mark.limit(max(SECONDS, WORLDS / 5))
def test_the_invariants_hold() -> None:
    """In as many worlds as CORENET_WORLDS says; `make worlds` runs more, on all cores."""
    failed = next((report for seed in range(WORLDS) if (report := run.play(seed)).wrong), None)
    assert failed is None, run.explain(failed)
