"""Every fuzz target over its saved inputs and a short generated run, so that no finding recurs.

The long runs are `make fuzz`; this test shows on every `make test` that the targets work.
"""

import importlib.util
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("run.py")
spec = importlib.util.spec_from_file_location("fuzz_run", RUNNER)
assert spec is not None
assert spec.loader is not None
fuzz_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz_run)
TARGETS = fuzz_run.targets()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_target_survives(name: str) -> None:
    fuzz_run.fuzz(name, TARGETS[name], runs=1500, seed=7)


def test_what_keeps_its_inputs_is_found() -> None:
    """Twice the growth allowed, in what comes after the inputs that warm a target up."""
    warm, runs = fuzz_run.WARMING_INPUTS, fuzz_run.WARMING_INPUTS + 4000
    block = b"\1" * (2 * fuzz_run.GROWTH_ALLOWED_KIB * 1024 // (runs - warm))
    held: list[bytearray] = []
    seen = 0

    def keeps(_: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen > warm:
            held.append(bytearray(block))

    with pytest.raises(MemoryError, match="keeps kept"):
        fuzz_run.fuzz("keeps", keeps, runs=runs, seed=7)
