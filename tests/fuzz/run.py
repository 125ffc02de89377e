"""Runs the fuzz targets: first every saved input, then generated ones, deterministic from a seed.

A target is a file target_NAME.py beside this one with `run(data: bytes) -> None`; it must return; it
catches the exceptions that are permitted. Inputs are mutations of the corpus (bit flips, cuts, splices, wrong lengths)
and random bytes. With atheris installed, `--atheris NAME` runs coverage-guided fuzzing instead.
"""

import argparse
import ctypes
import gc
import importlib.util
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_INPUT = 4096
REPORT_INPUTS = 20_000
WARMING_INPUTS = 10_000
GROWTH_ALLOWED_KIB = 65_536  # a parser that keeps what it read grows past this within some 10,000 inputs


def targets() -> dict[str, Callable[[bytes], None]]:
    """Every target by name."""
    sys.path.insert(0, str(HERE.parent))
    found = {}
    for path in sorted(HERE.glob("target_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[path.stem.removeprefix("target_")] = module.run
    return found


def corpus(name: str) -> list[bytes]:
    """Saved inputs of a target: the folder of its name, and of the part before the first underscore."""
    seeds = [b"", b"\0", b"\xff" * 12]
    for folder in {name, name.split("_")[0]}:
        if (HERE / "corpus" / folder).is_dir():
            seeds += [p.read_bytes() for p in sorted((HERE / "corpus" / folder).iterdir()) if p.is_file()]
    return seeds


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One generated input."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(0, 600))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 8)):
        what = rng.randrange(7)
        at = rng.randrange(len(data) + 1)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1 and data:
            data[at % len(data)] = rng.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF))
        elif what == 2:
            del data[at:at + rng.randrange(1, 16)]
        elif what == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 16))
        elif what == 4:
            other = rng.choice(seeds)
            cut = rng.randrange(len(other) + 1)
            data[at:] = other[cut:]
        elif what == 5 and len(data) >= 2:
            at %= len(data) - 1
            data[at:at + 2] = rng.choice((0, 1, 0xC00C, 0xFFFF, len(data), len(data) - at)).to_bytes(4, "big")[2:]
        elif data:
            length = rng.randrange(1, 32)
            data[at:at] = data[at:at + length]
    return bytes(data[:MAX_INPUT])


def kept() -> int:
    """KiB of memory this process holds: its live blocks where the address sanitizer counts them, else its resident set.

    Under the sanitizer the resident set says little, for freed blocks wait in its quarantine.
    """
    process = ctypes.CDLL(None)
    if hasattr(process, "__sanitizer_get_current_allocated_bytes"):
        live = process.__sanitizer_get_current_allocated_bytes
        live.restype = ctypes.c_size_t
        return int(live()) // 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def fuzz(name: str, run: Callable[[bytes], None], runs: int, seed: int) -> None:
    """Play the corpus and `runs` generated inputs; on a failure save the input and raise."""
    # A target that says what it costs, in ordinary ones, is run that many times less.
    runs = max(1, runs // int(getattr(run, "cost", 1)))
    rng = random.Random(f"{seed} {name}")
    seeds = corpus(name)
    # A target that collects garbage after each input shall look at what the input left, not at all modules again.
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    before = 0
    try:
        for number, data in enumerate([*seeds, *(None for _ in range(runs))]):
            given = mutate(rng, seeds) if data is None else data
            try:
                run(given)
            except BaseException:
                crash = HERE / "corpus" / name / f"crash-{number}"
                crash.parent.mkdir(exist_ok=True)
                crash.write_bytes(given)
                print(f"{name}: input {number} failed, saved as {crash}")
                raise
            if number == WARMING_INPUTS:
                before = kept()
            if number and number % REPORT_INPUTS == 0:
                print(f"{name}: {number} of {runs} inputs, {time.perf_counter() - began:.0f} s", flush=True)
    finally:
        gc.unfreeze()
    gc.collect()
    grown = kept() - before if before else 0
    print(f"{name}: {runs} inputs, {time.perf_counter() - began:.1f} s, grown {grown} KiB", flush=True)
    if grown > GROWTH_ALLOWED_KIB:
        raise MemoryError(f"{name} kept {grown} KiB over {runs} inputs")


def main() -> int:
    """Parse arguments and fuzz the chosen targets."""
    parser = argparse.ArgumentParser(description="fuzz the parsers")
    parser.add_argument("names", nargs="*", help="targets (default: all)")
    parser.add_argument("--runs", type=int, default=1_000_000, help="generated inputs for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", metavar="NAME", help="coverage-guided fuzzing of one target (needs atheris)")
    options = parser.parse_args()
    known = targets()
    if options.atheris:
        import atheris

        atheris.Setup([sys.argv[0], str(HERE / "corpus" / options.atheris.split("_")[0])], known[options.atheris])
        atheris.Fuzz()
        return 0
    for name in options.names or known:
        if name not in known:
            parser.error(f"no target {name!r}; there are: {', '.join(known)}")
        fuzz(name, known[name], options.runs, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
