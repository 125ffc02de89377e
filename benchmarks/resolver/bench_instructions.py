"""Instructions of our daemon for each query, counted by callgrind.

Time depends on the machine and on what else it does; the number of instructions does not, for the same compiler and the
same Python. So a commit that makes a query do more fails here, on a busy machine, too. Instructions of the kernel are
not counted. What a processor makes of them is measured by the other benchmarks: code of the same length can miss
the cache more often.

The daemon runs in valgrind, some fifty times slower; client and name servers run outside. What OpenSSL does is left
out: it has other code for each processor.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cold_servers import cold, cold_resolverd, first
from cold_world import BIG_ZONES, ColdWorld, make, missing_requirement, served
from ratio import Contender
from resolver_servers import hits

from resolver.wire.consts import NOERROR, NXDOMAIN

COUNT, HITS = 200, 8000
NAMES = 2 * COUNT // BIG_ZONES
START_SECONDS = 120.0
CONTROL_SECONDS = 60.0
PROFILE = "callgrind.out"
CRYPTOGRAPHY = ("libcrypto", "_rust")
"""Prefixes of the file names of libraries that contain OpenSSL: of the system, and of the package cryptography."""

MISSING = missing_requirement() or ("" if shutil.which("valgrind") else "valgrind is not installed (Debian package)")
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING or "nothing is missing"), pytest.mark.short]


def own_instructions(profile: Path) -> int:
    """The sum of a profile of callgrind, without the functions of OpenSSL.

    In the file, each line of a function is a position and a cost. The line after ``calls=`` is the cost of the called
    function, which is listed under that function as well, so it is skipped. An object is ``(number) path`` where it is
    named first, and ``(number)`` afterwards.
    """
    total, left_out, called, counts = 0, set(), False, True
    with profile.open() as lines:
        for line in lines:
            if found := re.match(r"c?ob=\((\d+)\)(.*)", line):
                number, path = found.groups()
                if path.rpartition("/")[2].startswith(CRYPTOGRAPHY):
                    left_out.add(number)
                if line.startswith("ob="):
                    counts = number not in left_out
            elif line.startswith("calls="):
                called = True
            elif found := re.match(r"[+*-]?\d* (\d+)$", line):
                total += 0 if called or not counts else int(found[1])
                called = False
    return total


@dataclass(frozen=True)
class Counted:
    """A daemon in callgrind, whose profiles are in `folder`, and the world that it resolves in."""

    world: ColdWorld
    pid: int
    port: int
    folder: Path
    numbers: list[int] = field(default_factory=list)
    """Those of the profiles that were read."""

    def instructions(self) -> int:
        """The daemon's instructions since the last call, without those of cryptography."""
        command = ["callgrind_control", "--dump", str(self.pid)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=CONTROL_SECONDS)
        number = max((int(path.suffix[1:]) for path in self.folder.glob(f"{PROFILE}.*")), default=0)
        assert number > max(self.numbers, default=0), "callgrind has written no profile"
        self.numbers.append(number)
        return own_instructions(self.folder / f"{PROFILE}.{number}")

    def per_operation(self, contender: Contender, count: int) -> float:
        """Instructions of one of `count` operations, after as many that are not counted."""
        contender.run(count)
        self.instructions()
        contender.run(count)
        return self.instructions() / count


@pytest.fixture(scope="module", params=[False, True], ids=["unsigned", "validated"])
def counted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    """One daemon for all rows of signed zones, and one for those of unsigned zones."""
    folder = tmp_path_factory.mktemp("counted")
    world = make(folder / "world", zones=2 * COUNT, names=NAMES, signed=request.param)
    callgrind = ("valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={folder}/{PROFILE}")
    with served(world), cold_resolverd(world, callgrind, START_SECONDS) as (pid, port, _control):
        yield Counted(world, pid, port, folder)


@pytest.mark.parametrize("row", ["name", "nxdomain", "zone"])
def test_cold_query(counted: Counted, row: str, bounded: Callable[[str, float], None]) -> None:
    world = counted.world
    texts = {"name": world.new_names, "nxdomain": world.nonexistent_names, "zone": world.new_zones}[row]()
    signed = bool(world.anchors)
    # Of validated names that do not exist, most are answered by proofs that the queries before have brought.
    rcode = NXDOMAIN if row == "nxdomain" else NOERROR
    known = () if row == "zone" else world.big
    with cold(row, counted.pid, counted.port, texts, count=COUNT, rcode=rcode, validated=signed, known=known) as ours:
        figure = counted.per_operation(ours, COUNT)
    bounded(f"instructions/{row}{'_validated' if signed else ''}", figure)


def test_cached_answer(counted: Counted, bounded: Callable[[str, float], None]) -> None:
    texts = first(counted.world)
    with hits("hit", counted.pid, counted.port, texts) as ours:
        bounded(f"instructions/hit{'_signed' if counted.world.anchors else ''}", counted.per_operation(ours, HITS))
