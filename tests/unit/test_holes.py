"""The list of ``make simulate-holes``: each mistake can be put back, so that a run of it means something."""

import pytest
from simulation.loop import generate, holes

pytestmark = pytest.mark.checkout


def test_every_check_stands_where_it_is_taken_out() -> None:
    assert [text for hole in holes.load() if (text := holes.problem(hole))] == []


def test_every_hole_is_looked_for_by_programs_that_exist() -> None:
    for hole in holes.load():
        assert set(hole["kinds"].split(",")) <= set(generate.KINDS), hole["name"]
        assert 0 < hole["seeds"] <= 10_000, hole["name"]
