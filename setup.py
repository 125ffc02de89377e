"""Extension modules and the switches of their build; static metadata is in pyproject.toml.

Each ``.pyx`` is one extension module; ``.pxd`` files connect them (docs/adr/0002). Cython and gcc run in parallel and
skip what has not changed. Environment variables:

CORENET_DEBUG=1                      bounds, None and overflow checks, live-object counters, ``-O1 -g``
CORENET_SANITIZE=address,undefined   the named sanitizers, with the debug checks
CORENET_ANNOTATE=1                   Cython's annotated HTML beside each generated C file
CORENET_QUICK=1                      ``-O0``: compiles fast and runs slowly, for builds that are used once
CORENET_MODULES=resolver.wire.*      build only modules matching these comma-separated patterns
CORENET_PURE=1                       leave the modules of COMPILED as Python, for debugging and coverage
"""

import fnmatch
import os
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    raise SystemExit("corenet needs the GIL and is not built for free-threaded Python (docs/interpreters.md)")

ROOT = Path(__file__).parent
DEBUG = os.environ.get("CORENET_DEBUG") == "1" or bool(os.environ.get("CORENET_SANITIZE"))
SANITIZE = os.environ.get("CORENET_SANITIZE", "")
QUICK = os.environ.get("CORENET_QUICK") == "1"
PATTERNS = [p for p in os.environ.get("CORENET_MODULES", "").split(",") if p]
JOBS = len(os.sched_getaffinity(0))
FLAVOUR = "sanitize" if SANITIZE else "debug" if DEBUG else "release"


# Pure Python modules that are compiled unchanged (docs/adr/0008): the path of a cold query. Their ``.pxd`` files turn
# classes with slots into extension types. They keep Python's semantics, so the release directives do not apply.
COMPILED = [] if os.environ.get("CORENET_PURE") == "1" else [
    "resolver/query.py", "resolver/effects.py", "resolver/query_quota.py", "resolver/jobs.py",
    "resolver/query_sharing.py", "resolver/mesh.py", "resolver/cached_replies.py", "resolver/partial_response.py",
    "resolver/resolve.py", "resolver/stale_answers.py", "resolver/view_contexts.py",
    "resolver/cache/aggressive_nsec.py", "resolver/cache/infra.py",
    "resolver/iterate/fetch_quota.py", "resolver/iterate/server_selection.py", "resolver/iterate/classify.py",
    "resolver/iterate/query_servers.py", "resolver/iterate/delegation.py", "resolver/iterate/iterate.py",
    "resolver/iterate/scrub.py", "resolver/net/driver.py", "resolver/net/pending_queries.py",
    "resolver/net/reply.py", "resolver/net/reply_sender.py", "resolver/net/service.py",
    "resolver/observe/counters.py", "resolver/observe/histogram.py", "resolver/observe/clients.py",
    "resolver/policy/pipeline.py",
    "resolver/validate/aggressive.py", "resolver/validate/anchors.py", "resolver/validate/chain.py",
    "resolver/validate/security_status.py",
    "resolver/validate/crypto_budget.py", "resolver/validate/nsec.py", "resolver/validate/nsec3.py",
    "resolver/validate/records.py", "resolver/validate/validate.py",
    "resolver/validate/verify.py",
]


# The modules of COMPILED whose annotations Cython takes as C types: each value must always have its annotated type.
TYPED = [] if not COMPILED else [
    "resolver/query_quota.py", "resolver/jobs.py", "resolver/query_sharing.py", "resolver/mesh.py",
    "resolver/cached_replies.py", "resolver/partial_response.py", "resolver/resolve.py", "resolver/stale_answers.py",
    "resolver/cache/infra.py", "resolver/iterate/fetch_quota.py",
    "resolver/iterate/server_selection.py", "resolver/iterate/classify.py", "resolver/iterate/query_servers.py",
    "resolver/iterate/delegation.py",
    "resolver/iterate/iterate.py", "resolver/iterate/scrub.py", "resolver/net/pending_queries.py",
    "resolver/net/reply.py", "resolver/net/reply_sender.py", "resolver/net/service.py",
    "resolver/observe/counters.py", "resolver/observe/histogram.py", "resolver/observe/clients.py",
    "resolver/validate/aggressive.py", "resolver/validate/chain.py", "resolver/validate/validate.py",
]


# Modules of COMPILED that take little of the time of a cold query: validation, where most is cryptography, and some
# that are small or for few queries. Compiled for size, so that the wheel stays below 6 MB.
SMALL = {
    "resolver/cache/aggressive_nsec.py", "resolver/net/driver.py", "resolver/policy/pipeline.py",
    "resolver/stale_answers.py", "resolver/view_contexts.py",
    *(path for path in COMPILED if path.startswith("resolver/validate/")),
}


def optimisation(path: Path) -> list[str]:
    """How the release build of a module is optimised.

    Not with -Os where time counts: it calls the functions that count references, and leaves the code for errors between
    that of the usual way. A cold query then takes a third more time. Modules in Python consist of calls of the
    interpreter, so they call it without the PLT: 8 % less time. Others keep it, because each function of the
    interpreter would be looked up when they are imported, not when it is first called.
    """
    if DEBUG or QUICK:
        return [] if DEBUG else ["-O0"]
    if path.suffix != ".py":
        return ["-O2"]
    return ["-Os"] if str(path) in SMALL else ["-O2", "-fno-plt"]


def extensions(paths: list[Path]) -> list[Extension]:
    """Return an extension for each path, with its dotted name."""
    compile_args = ["-fvisibility=hidden", "-Wall", "-Wno-unused-function", "-Wno-unused-variable",
                    "-Wno-unused-but-set-variable", "-Wno-maybe-uninitialized", "-Wno-unreachable-code",
                    "-Wno-array-bounds"]  # gcc reports a compiled `X | None` as an overrun of None
    link_args: list[str] = []
    # -g1: line numbers for tracebacks and sanitizer reports. With variables (-g2) compiling takes two thirds longer.
    compile_args += ["-O1", "-g1", "-fno-omit-frame-pointer", "-UNDEBUG"] if DEBUG else ["-g0"]
    if "bdist_wheel" in sys.argv and not DEBUG:
        # Symbols and unwind tables are an eighth of a wheel. Profilers and debuggers of a checkout use them.
        link_args += ["-Wl,--strip-all"]
        compile_args += ["-fno-asynchronous-unwind-tables"]
    if SANITIZE:
        flag = f"-fsanitize={SANITIZE}"
        compile_args += [flag, "-fno-sanitize-recover=all"]
        link_args += [flag]
    found = []
    for path in paths:
        name = ".".join(path.with_suffix("").parts)
        if PATTERNS and not any(fnmatch.fnmatch(name, p) for p in PATTERNS):
            continue
        found.append(Extension(name, [str(path)], extra_compile_args=[*compile_args, *optimisation(path)],
                               extra_link_args=link_args, include_dirs=["."],
                               depends=["corenet/core/syscalls.h"],
                               define_macros=[("CORENET_DEBUG", "1" if DEBUG else "0"), ("_GNU_SOURCE", None)]))
    return found


def cythonized() -> list[Extension]:
    """All extensions, translated to C where that is out of date."""
    # Sanitizer builds use the same C code as debug builds.
    common = {"build_dir": f"build/cython-{'debug' if DEBUG else 'release'}", "nthreads": JOBS,
              "annotate": os.environ.get("CORENET_ANNOTATE") == "1"}
    # binding=False: methods are CPython's method descriptors, which raise TypeError for objects of other types.
    # Cython's functions would use such an object as one of theirs (cython/cython#6127). The docstring holds the
    # signature. No pickling: the objects hold descriptors and pointers.
    everywhere = {"language_level": 3, "binding": False, "embedsignature": True, "embedsignature.format": "clinic",
                  "auto_pickle": False}
    # Modules of tests are built in a checkout and are not in wheels.
    folders = ["corenet", "resolver"] + ([] if "bdist_wheel" in sys.argv else ["tests/native"])
    native = extensions([p.relative_to(ROOT) for folder in folders for p in sorted((ROOT / folder).rglob("*.pyx"))])
    pure = extensions([Path(p) for p in COMPILED if p not in TYPED])
    typed = extensions([Path(p) for p in TYPED])
    modules: list[Extension] = []
    if native:
        modules += cythonize(native, compiler_directives={
            **everywhere, "boundscheck": DEBUG, "wraparound": DEBUG, "nonecheck": DEBUG, "initializedcheck": DEBUG,
            "cdivision": True}, **common)
    if pure:
        modules += cythonize(pure, compiler_directives={
            **everywhere, "boundscheck": True, "wraparound": True, "cdivision": False, "initializedcheck": True,
            "annotation_typing": False}, **common)
    if typed:
        modules += cythonize(typed, compiler_directives={
            **everywhere, "boundscheck": True, "wraparound": True, "cdivision": False, "initializedcheck": True,
            "annotation_typing": True}, **common)
    return modules


class ParallelBuildExt(build_ext):
    """build_ext that compiles extensions in parallel, with an own build directory for each kind of build."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if not self.parallel:
            self.parallel = JOBS
        self.build_temp = os.path.join(self.build_temp, FLAVOUR)


# From Python 3.14 on Cython's worker processes are not forks and import this file.
if __name__ == "__main__":
    setup(ext_modules=cythonized(), cmdclass={"build_ext": ParallelBuildExt})
