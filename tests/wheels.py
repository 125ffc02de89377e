"""``make wheels``: a wheel for each installed Python, C library and processor, all built with one compiler, and tested.

zig compiles for every target and links against the symbols of the named version of the C library, so no old
distribution is needed. auditwheel checks that and writes the tag. Wheels for this machine are installed and used
(tests/smoke.py). Those for 64-bit ARM are used under qemu with Debian's Python of that architecture, if it has the same
version. The others are not run, which the last lines of the output say. All are built from the sdist.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import interpreters
import wheel

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
WORK = ROOT / "build" / "wheels"
TOOLS = ROOT / ".venv-wheels" / "bin"


@dataclass(frozen=True)
class Target:
    """A processor and a C library: auditwheel's tag, zig's name, and the suffix of extension modules."""

    tag: str
    zig: str
    suffix: str

    @property
    def machine(self) -> str:
        """The processor."""
        return self.zig.partition("-")[0]

    @property
    def musl(self) -> bool:
        """Whether the C library is musl."""
        return self.zig.endswith("-musl")


TARGETS = (
    Target("manylinux2014_x86_64", "x86_64-linux-gnu.2.17", "x86_64-linux-gnu"),
    Target("manylinux2014_aarch64", "aarch64-linux-gnu.2.17", "aarch64-linux-gnu"),
    Target("musllinux_1_2_x86_64", "x86_64-linux-musl", "x86_64-linux-musl"),
    Target("musllinux_1_2_aarch64", "aarch64-linux-musl", "aarch64-linux-musl"),
)


def pythons() -> dict[tuple[int, int], str]:
    """Each supported Python that is installed, with its environment for building."""
    found = {sys.version_info[:2]: sys.executable}
    for version in interpreters.SUPPORTED:
        path = interpreters.working(version) if version not in found else None
        if path is not None:
            found[version] = interpreters.environment(version, path)
    return found


def build(target: Target, version: tuple[int, int], python: str, source: Path) -> Path:
    """Compile and package for one target; returns the wheel with its tag."""
    compiler = shlex.join([str(TOOLS / "python"), "-m", "ziglang", "cc", "-target", target.zig])
    environment = {
        **wheel.clean_environment(),
        "PATH": f"{TOOLS}:{os.environ['PATH']}",
        "CC": compiler,
        # Options that only gcc has must not be errors.
        "CFLAGS": "-Wno-unknown-warning-option",
        "LDSHARED": f"{compiler} -shared -s",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version[0]}{version[1]}-{target.suffix}.so",
        "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"),
        "_PYTHON_HOST_PLATFORM": f"linux-{target.machine}",
    }
    raw = WORK / "raw" / target.tag / f"{version[0]}{version[1]}"
    shutil.rmtree(raw, ignore_errors=True)
    place = f"build/{target.tag}-{version[0]}{version[1]}"
    wheel.run(python, "setup.py", "-q", "build", "--build-base", place, "--build-lib", f"{place}/lib", cwd=source,
              env=environment)
    if target.musl:
        # The file name of the library as auditwheel and distributions with musl expect it.
        objects = sorted((source / place / "lib").rglob("*.so"))
        wheel.run(TOOLS / "patchelf", "--replace-needed", "libc.so", f"libc.musl-{target.machine}.so.1", *objects,
                  cwd=source)
    wheel.run(python, "setup.py", "-q", "build", "--build-base", place, "--build-lib", f"{place}/lib", "bdist_wheel",
              "--skip-build", "--bdist-dir", f"{place}/tree", "--dist-dir", raw, cwd=source, env=environment)
    made, = raw.glob("*.whl")
    # auditwheel chooses the oldest tag that the symbols permit; it cannot be given a foreign processor.
    wheel.run(TOOLS / "auditwheel", "repair", "--wheel-dir", raw / "tagged", made, cwd=source, env=environment)
    tagged, = (raw / "tagged").glob("*.whl")
    return Path(shutil.copy(tagged, DIST))


def debian_root(architecture: str) -> Path:
    """Unpack Debian's Python of another architecture, with its dependencies, in its own folder."""
    folder = WORK / architecture
    root = folder / "root"
    if root.exists():
        return root
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    # The package database of this machine is neither read nor changed.
    options = [
        f"APT::Architecture={architecture}", f"APT::Architectures={architecture}", "APT::Sandbox::User=root",
        f"Dir::State={folder}/state", f"Dir::State::status={folder}/status", f"Dir::Cache={folder}/cache",
    ]
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    wheel.run(*apt, "update", cwd=folder)
    wheel.run(*apt, "install", "-y", "--no-install-recommends", "--download-only", "python3-minimal",
              "libpython3-stdlib", cwd=folder)
    for package in sorted((folder / "cache" / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, folder / "unpacked"], check=True, timeout=300)
    return (folder / "unpacked").rename(root)


def try_emulated(made: Path, version: tuple[int, int], target: Target) -> str:
    """Use a wheel for 64-bit ARM under emulation; returns the result as text."""
    emulator = shutil.which("qemu-aarch64-static")
    if emulator is None or shutil.which("apt-get") is None:
        return "not run: needs qemu-user-static and Debian's packages"
    root = debian_root("arm64")
    python = root / "usr" / "bin" / f"python{version[0]}.{version[1]}"
    if not python.exists():
        return "not run: Debian has no such Python for this processor"
    with tempfile.TemporaryDirectory(prefix="corenet-wheel-") as folder:
        site = Path(folder, "site")
        # Dependencies may have been built for a newer C library.
        tags = [word for tag in (target.tag, "manylinux_2_28_aarch64", "manylinux_2_34_aarch64")
                for word in ("--platform", tag)]
        wheel.run(sys.executable, "-m", "pip", "install", "-q", "--target", site, "--only-binary=:all:",
                  "--python-version", f"{version[0]}.{version[1]}", *tags, made, cwd=Path(folder))
        wheel.run(emulator, "-L", root, python, "-P", wheel.SMOKE, cwd=Path(folder),
                  env={**wheel.clean_environment(), "PYTHONPATH": str(site)})
    return "used under emulation"


def attempt(made: Path, version: tuple[int, int], python: str, target: Target) -> str:
    """Use a wheel as far as this machine can; returns the result as text."""
    if target.machine == platform.machine() and not target.musl:
        with tempfile.TemporaryDirectory(prefix="corenet-wheel-") as folder:
            wheel.install(made, "", Path(folder), python)
        return "installed and used"
    if target.machine == "aarch64" and not target.musl:
        return try_emulated(made, version, target)
    return "not run: no Python for this C library here"


def main() -> int:
    """`wheels.py [TAG...]`: for all targets, or the named ones."""
    wanted = [target for target in TARGETS if target.tag in sys.argv[1:] or not sys.argv[1:]]
    if not TOOLS.exists():
        wheel.run(sys.executable, "-m", "venv", TOOLS.parent, cwd=ROOT)
    wheel.run(sys.executable, "-m", "pip", "--python", TOOLS / "python", "install", "-q", "--group", "wheels", cwd=ROOT)
    shutil.rmtree(DIST, ignore_errors=True)
    wheel.run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, cwd=ROOT,
              env={**wheel.clean_environment(), "CORENET_MODULES": "none"}, stdout=subprocess.DEVNULL)
    sdist, = DIST.glob("*.tar.gz")
    # All targets share the translation to C, which does not depend on the target.
    source = WORK / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(source, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    wheel.run("tar", "-xf", sdist, "-C", WORK, cwd=ROOT)
    said = []
    for version, python in sorted(pythons().items()):
        for target in wanted:
            made = build(target, version, python, source)
            result = attempt(made, version, python, target)
            said.append(f"{made.name}: {made.stat().st_size / 1e6:.1f} MB, {result}")
    print(*said, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
