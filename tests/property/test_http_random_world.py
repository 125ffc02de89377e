"""The HTTP client in random scenarios (`support.http_random_world`): faulty servers, cancellation at any point, limits.

`HTTP_SEEDS` scenarios from `HTTP_FIRST_SEED` on run on each loop; a failing seed is named and can be run alone.
"""

import os

import pytest
from support.http_peer import LOOPS, run_on
from support.http_random_world import World

SEEDS = int(os.environ.get("HTTP_SEEDS", "40"))
FIRST = int(os.environ.get("HTTP_FIRST_SEED", "0"))


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_random_worlds(loop: str) -> None:
    for seed in range(FIRST, FIRST + SEEDS):
        try:
            run_on(loop, World(seed).run())
        except BaseException as error:
            error.add_note(f"HTTP_FIRST_SEED={seed} HTTP_SEEDS=1, loop {loop}")
            raise
