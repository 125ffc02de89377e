"""Cold queries against Unbound: names, zones and nonexistent names that neither resolver has in its cache.

Both resolvers use the same NSD servers on loopback addresses and get the same names, each once. For known zones,
servers, delegation and keys are in the cache; for new ones nothing is. Upstream queries, signature checks and CPU time
of the start are counted for ours only and have upper bounds.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cold_servers import cold, cold_resolverd, cold_unbound, counters, start_cpu
from cold_world import BIG_ZONES, ColdWorld, make, missing_requirement, served
from resolver_servers import has_unbound

from resolver.wire.consts import NXDOMAIN

ROUNDS = 5
STARTS = 3
COUNT, VALIDATED_COUNT = 150, 100
# A name can be queried once only, so names are generated beforehand: for this many batches of ROUNDS rounds with two
# slices each, and for the three slices that pytest-benchmark times.
BATCHES = 2
SLICES = BATCHES * ROUNDS * 2 + 3
NAMES = COUNT * SLICES // BIG_ZONES + 1

MISSING = missing_requirement() if has_unbound() else "Unbound is not installed (Debian package unbound)"
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "nothing is missing")


def serving(folder: Path, **size: object) -> Iterator[ColdWorld]:
    """Generate a world in `folder` and serve it."""
    world = make(folder, **size)  # type: ignore[arg-type]
    try:
        with served(world):
            yield world
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def names_only(tmp_path: Path) -> Iterator[ColdWorld]:
    """Few unsigned zones with many names, which are generated quickly."""
    yield from serving(tmp_path / "world", zones=0, names=NAMES, signed=False)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ColdWorld]:
    """Signed zones and names; generating them takes about ten seconds."""
    folder = tmp_path_factory.mktemp("cold") / "world"
    total = VALIDATED_COUNT * SLICES
    yield from serving(folder, zones=total, names=total // BIG_ZONES + 1, signed=True)


def against_unbound(
    world: ColdWorld, pair: Callable, row: str, texts: Callable[[ColdWorld], Iterator[str]], *, known: bool,
    rcode: int = 0,
) -> None:
    """Both resolvers, on the names of `texts`."""
    options = {"count": VALIDATED_COUNT if world.anchors else COUNT, "rcode": rcode, "validated": bool(world.anchors),
               "known": world.big if known else ()}
    with (
        cold_resolverd(world) as (pid, port, _control),
        cold_unbound(world) as (base_pid, base_port),
        cold("resolverd", pid, port, texts(world), **options) as ours,
        cold("unbound", base_pid, base_port, texts(world), **options) as base,
    ):
        pair(row, ours, base, rounds=ROUNDS, batches=BATCHES)


@pytest.mark.short
def test_cold_name(names_only: ColdWorld, pair) -> None:
    against_unbound(names_only, pair, "cold_name/unbound", ColdWorld.new_names, known=True)


def test_cold_missing_name(names_only: ColdWorld, pair) -> None:
    against_unbound(names_only, pair, "cold_nxdomain/unbound", ColdWorld.nonexistent_names, known=True, rcode=NXDOMAIN)


def test_cold_zone(tmp_path: Path, pair) -> None:
    for world in serving(tmp_path / "world", zones=COUNT * SLICES, names=0, signed=False):
        against_unbound(world, pair, "cold_zone/unbound", ColdWorld.new_zones, known=False)


def test_cold_name_validated(signed: ColdWorld, pair) -> None:
    against_unbound(signed, pair, "cold_name_validated/unbound", ColdWorld.new_names, known=True)


def test_cold_zone_validated(signed: ColdWorld, pair) -> None:
    against_unbound(signed, pair, "cold_zone_validated/unbound", ColdWorld.new_zones, known=False)


def test_cold_work_per_question(signed: ColdWorld, bounded) -> None:
    with cold_resolverd(signed) as (pid, port, control):
        for row, texts, known in (("name", signed.new_names(), signed.big), ("zone", signed.new_zones(), ())):
            with cold("resolverd", pid, port, texts, count=1, validated=True, known=known) as ours:
                upstream, checks = counters(control)
                ours.run(VALIDATED_COUNT * 4)
                upstream, checks = (now - then for now, then in zip(counters(control), (upstream, checks), strict=True))
            bounded(f"cold_{row}/upstream", upstream / (VALIDATED_COUNT * 4))
            bounded(f"cold_{row}/checks", checks / (VALIDATED_COUNT * 4))


def test_start_to_first_answer(signed: ColdWorld, bounded) -> None:
    bounded("start/cpu", min(start_cpu(signed) for _ in range(STARTS)) * 1000)
