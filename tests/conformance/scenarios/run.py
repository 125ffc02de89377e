"""Play resolver scenarios against the daemon of this checkout; the verb behind ``make scenarios``.

The scenarios and their runner are no part of the project: they are looked for beside the checkout, in
``../shared/conformance/dns``, or where DNS_SCENARIOS points. The runner needs root or user namespaces, iproute2 and a
C compiler. Its last line (``passed=N failed=N skipped=N``) is passed through as the last line here; a verdict for each
scenario goes to the file named by ``--out``, logs of failed ones beside it.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
FEATURES = (
    "forward", "forward-options", "stub-zone", "ttl-limits", "hosts", "local-zone", "acl", "chaos", "nsid", "dns64",
    "rebinding", "tcp-upstream", "tcp-keepalive", "discard-timeout", "aggressive-nsec", "prefetch", "serve-stale",
    "kresd-policy", "kresd-renumber_src", "kresd-renumber_dst", "kresd-workarounds",
)
"""What the daemon claims beyond the basis: knobs named in daemon.toml.j2."""


def find_suite() -> Path | None:
    """The folder with the runner, or None."""
    places = [os.environ.get("DNS_SCENARIOS"), CHECKOUT.parent / "shared" / "conformance" / "dns"]
    for place in places:
        if place and (Path(place) / "run_scenarios.py").is_file():
            return Path(place).resolve()
    return None


def command(arguments: argparse.Namespace, suite: Path) -> list[str]:
    """The runner's command line."""
    folder = Path(arguments.dir).resolve() if arguments.dir else suite / "deckard"
    only = Path(arguments.only).resolve() if arguments.only else None
    if only is None and folder.parent == suite and (suite / f"{folder.name}.txt").is_file():
        only = suite / f"{folder.name}.txt"
    out = Path(arguments.out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    packages = os.environ.get("PYTHONPATH", str(CHECKOUT))
    daemon = f"env PYTHONPATH={shlex.quote(packages)} {shlex.quote(sys.executable)} -m resolver.daemon"
    line = [
        sys.executable,
        str(suite / "run_scenarios.py"),
        "--cmd",
        f"{daemon} --config {{config}}",
        "--template",
        str(HERE / "daemon.toml.j2"),
        "--features",
        arguments.features,
        "--jobs",
        str(arguments.jobs),
        "-o",
        str(out),
        "--logs",
        str(out.with_suffix(".logs")),
        "-v",
    ]
    if only is not None:
        line += ["--only", str(only)]
    for pattern in arguments.k:
        line += ["-k", pattern]
    return [*line, *arguments.more, str(folder)]


def main() -> int:
    """Run and return the runner's exit status; 2 when it is not there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--dir", help="folder of scenarios; default: the Deckard set")
    parser.add_argument("--only", help="file with the names to play; default: the list beside the folder")
    parser.add_argument("--features", default=",".join(FEATURES), help="features claimed (default: %(default)s)")
    parser.add_argument(
        "--out", default=str(CHECKOUT / "build" / "scenarios.tsv"), help="verdicts (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="scenarios at once (default: %(default)s)")
    parser.add_argument("-k", action="append", default=[], help="only names that match this pattern")
    parser.add_argument("more", nargs="*", help="further options for the runner, after --")
    arguments = parser.parse_args()
    suite = find_suite()
    if suite is None:
        print(
            "no scenarios found: put the suite at ../shared/conformance/dns or name it in DNS_SCENARIOS",
            file=sys.stderr,
        )
        return 2
    return subprocess.run(command(arguments, suite), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
