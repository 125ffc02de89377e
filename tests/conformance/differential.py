"""``make differential``: some 10,000 questions to our daemon, Unbound and Knot Resolver, before NSD, Knot and BIND.

Prints how many of each kind agreed, every difference that the list (differences.toml) does not explain, and every entry
of the list that no difference needed; exit code 1 when there is any of these. The same seed asks the same questions.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.differential import DAEMONS, Difference, load_rules, run_playground, run_zoo

WORLD = 1500
"""Questions about one random world."""
CHOSEN = (("nsd", 1), ("knot", 2), ("bind", 3), ("nsd", 115), ("knot", 131), ("bind", 114))
"""The worlds of the default run: between them they need every entry of the list."""
PLAYGROUND = 600
"""Questions about the playground to each kind of name server."""
SHOWN = 50


def main() -> int:
    """Run what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=10_000, help="at least so many questions (default %(default)s)")
    parser.add_argument("--seed", type=int, help="random worlds from this seed on (default: six chosen ones first)")
    wanted = parser.parse_args()
    rules, asked, found, left = load_rules(), 0, 0, []
    chosen, seed = CHOSEN if wanted.seed is None else (), wanted.seed or 1
    runs = [(run_playground, seed + 1, server, PLAYGROUND) for server in DAEMONS]
    count = -(-max(wanted.names - PLAYGROUND * len(DAEMONS), 0) // WORLD)
    more = ((list(DAEMONS)[n % len(DAEMONS)], seed + n) for n in range(len(chosen), count))
    runs += [(run_zoo, world, server, WORLD) for server, world in (*chosen, *more)][: len(DAEMONS) + count]
    for run, seed, server, count in runs:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            result: Difference = run(seed, server, count, Path(directory))
        unexplained = result.unexplained(rules)
        asked, found, left = asked + result.asked, found + len(result.found), [*left, *unexplained]
        kinds = ", ".join(f"{number} {kind}" for kind, number in result.kinds.most_common())
        print(
            f"{run.__name__[4:]:<10} seed {seed:<3} {server:<4}  {result.asked} questions, {len(result.found)} "
            f"differences, {len(unexplained)} unexplained, {time.monotonic() - began:.1f} s; {kinds}",
            flush=True,
        )
    for one in left[:SHOWN]:
        print(one)
    idle = [rule for rule in rules if not rule.used] if chosen and count >= len(chosen) else []
    for rule in idle:
        print(f"no difference needs: {rule.against} {rule.name.pattern} {rule.ours} {rule.theirs}")
    print(f"{asked} questions, {found} differences, {len(left)} unexplained, {len(idle)} entries without need")
    return 1 if left or idle else 0


if __name__ == "__main__":
    sys.exit(main())
