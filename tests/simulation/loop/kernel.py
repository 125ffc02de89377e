"""The simulated kernel's Python interface: ``kernel.c``, compiled and loaded before corenet, one for each process.

A debug build of corenet looks up the table of system calls in it with ``dlsym``. So this module must be imported, and
`load` called, before the first import of corenet.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent

# In the order of `enum fault` in kernel.c.
FAULTS = (
    "short_read", "short_write", "again_read", "again_write", "interrupted", "shortage", "no_descriptor", "no_room",
    "late", "spurious", "order", "refused",
)  # fmt: skip

NEVER = 2**64 - 1

_STEP = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int)
_STUCK = ctypes.CFUNCTYPE(ctypes.c_int)


def build(folder: Path) -> Path:
    """Compile ``kernel.c`` into `folder` unless that was done, and return the shared object."""
    sources = [HERE / "kernel.c", ROOT / "corenet/core/syscalls.h"]
    name = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    target = folder / f"kernel-{name}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{target.stem}.{os.getpid()}"
        compiler = shutil.which("gcc") or shutil.which("cc") or "cc"
        subprocess.run(
            [compiler, "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden",
             "-D_GNU_SOURCE", f"-I{ROOT}", str(sources[0]), "-o", str(fresh)],
            check=True,
            timeout=60,
        )  # fmt: skip
        fresh.replace(target)
    return target


def _values(rates: dict[str, int]) -> Any:
    return (ctypes.c_uint32 * len(FAULTS))(*(rates.get(name, 0) for name in FAULTS))


class Kernel:
    """One simulated kernel; `begin` and `end` enclose a run."""

    def __init__(self, library: Path) -> None:
        # PyDLL keeps the GIL: these calls return at once. The hooks may be called with or without the GIL.
        lib = self.lib = ctypes.PyDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        for name in ("sim_hash", "sim_calls", "sim_drawn", "sim_happened"):
            getattr(lib, name).restype = ctypes.c_uint64
        lib.sim_now.restype = ctypes.c_int64
        lib.sim_advance.argtypes = [ctypes.c_int64]
        lib.sim_text.restype = ctypes.c_char_p
        self.now: Callable[[], int] = lib.sim_now
        self.step: Callable[[bool], int] = lambda _forced: 0
        self.stuck: Callable[[], bool] = lambda: False
        self.failure: BaseException | None = None
        self._step = _STEP(self._on_step)
        self._stuck = _STUCK(self._on_stuck)
        lib.sim_hooks(self._step, self._stuck)

    def _on_step(self, forced: int) -> int:
        try:
            return self.step(bool(forced))
        except BaseException as error:  # noqa: BLE001 - would be lost in C; raised by `end`
            self.failure = self.failure or error
            return 0

    def _on_stuck(self) -> int:
        try:
            return self.stuck()
        except BaseException as error:  # noqa: BLE001 - as above
            self.failure = self.failure or error
            return 0

    def begin(
        self, seed: int, rates: dict[str, int], *, limit: int = NEVER, skip: Iterable[int] = (), verbose: bool = False
    ) -> None:
        """Use `seed` and `rates` (faults in 1,024 calls, by kind) from now on.

        A fault does not happen if its number is `limit` or higher, or in `skip`.
        """
        self.failure = None
        left_out = sorted(skip)
        numbers = (ctypes.c_uint64 * max(len(left_out), 1))(*left_out)
        self.lib.sim_begin(
            ctypes.c_uint64(seed), _values(rates), ctypes.c_uint64(limit), numbers, len(left_out), int(verbose)
        )

    def change(self, rates: dict[str, int]) -> None:
        """Change the rates."""
        self.lib.sim_rates(_values(rates))

    def end(self) -> None:
        """Make the real calls again; raise what a hook has raised."""
        self.lib.sim_end()
        self.step = lambda _forced: 0
        self.stuck = lambda: False
        if self.failure is not None:
            raise self.failure

    def note(self, text: str) -> None:
        """Add a line to the record."""
        self.lib.sim_note(text.encode())

    @property
    def drawn(self) -> int:
        """Number of faults drawn."""
        return int(self.lib.sim_drawn())

    @property
    def happened(self) -> int:
        """Number of faults that happened."""
        return int(self.lib.sim_happened())

    @property
    def calls(self) -> int:
        """Number of system calls through the table."""
        return int(self.lib.sim_calls())

    @property
    def hash(self) -> int:
        """A hash of all calls and results so far."""
        return int(self.lib.sim_hash())

    @property
    def text(self) -> str:
        """The record, if it was requested."""
        found: bytes = self.lib.sim_text()
        return found.decode()


_loaded: Kernel | None = None


def load() -> Kernel:
    """Return the kernel of this process.

    Raises:
        RuntimeError: corenet was imported before.
    """
    global _loaded
    if _loaded is None:
        if "corenet.core.scheduler" in sys.modules:
            raise RuntimeError("the simulated kernel must be loaded before corenet")
        _loaded = Kernel(build(ROOT / "build" / "simulation"))
    return _loaded
