"""Runs the test suites of other projects on asyncio's own loop and on ours, and reports what only ours fails.

The suites come from the projects' source distributions, fetched by pip, or, where these have no tests, from Debian's
source packages, fetched by apt; the projects themselves are installed from wheels of the same version into an
environment under build/suites. Verdict: each test ends on our loop as it does on asyncio's in the same run: what passes
there neither fails here nor is skipped, expected to fail or left out of the collection, and the other way round; only
what fails on asyncio's may do as it likes. What differs is run once more on both, alone, because suites with real
clocks fail now and then on any loop; what differs again is a bug of ours, and what does not is reported with its count.
By default the files that exercise a loop are run (`Suite.files` says which and why); ``--full`` runs each suite whole.
"""

import argparse
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "suites"
BIN = BUILD / "venv" / "bin"
LOOPS = ("stdlib", "corenet")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"


@dataclass(frozen=True)
class Suite:
    """One project's suite. `files` are run by default, chosen for `why`; `options` go to pytest."""

    name: str
    version: str
    files: tuple[str, ...]
    why: str
    options: tuple[str, ...] = ()
    #: of the source distribution, what is unpacked: never the package itself, so that the installed one is tested.
    take: tuple[str, ...] = ("tests/", "pyproject.toml", "pytest.ini", "setup.cfg", "README.rst")
    processes: int = 3
    environment: dict[str, str] = field(default_factory=dict)
    #: (release, source package=version) of Debian's, where the project's own source distribution has no tests.
    debian: tuple[str, str] | None = None
    #: Installed into a folder of its own, since other suites talk to another version.
    apart: bool = False
    #: PostgreSQL does not run as root.
    unprivileged: bool = False
    #: test: why it may fail on ours alone.
    known: dict[str, str] = field(default_factory=dict)


SUITES = [
    Suite(
        "aiohttp",
        "3.14.5",
        tuple(
            f"tests/test_{name}.py"
            for name in (
                "client_functional",
                "client_session",
                "client_ws_functional",
                "connector",
                "leaks",
                "loop",
                "proxy_functional",
                "pytest_plugin",
                "resolver",
                "run_app",
                "streams",
                "tcp_helpers",
                "test_utils",
                "web_app",
                "web_cli",
                "web_functional",
                "web_log",
                "web_runner",
                "web_sendfile_functional",
                "web_server",
                "web_websocket_functional",
                "worker",
            )
        ),
        "every file that opens sockets, runs servers, or makes loops; the rest parses and builds without I/O",
        ("-o", "addopts=", "-m", "not dev_mode and not autobahn and not internal"),
    ),
    Suite(
        "anyio",
        "4.16.0",
        ("tests",),
        "the whole suite: nearly every test runs on a loop",
        known={},
    ),
    Suite(
        "uvicorn",
        "0.54.0",
        (
            "tests/protocols",
            "tests/middleware",
            "tests/test_compat.py",
            "tests/test_lifespan.py",
            "tests/test_main.py",
            "tests/test_server.py",
            "tests/test_ssl.py",
        ),
        "servers, protocols and websockets over real sockets; left out: command line, configuration, reloaders",
        known={
            "test_compat.py::test_asyncio_run__default_loop_factory": "asserts that the loop is asyncio's own class",
        },
    ),
    Suite(
        "asyncpg",
        "0.32.0",
        ("tests",),
        "the whole suite but its linter: a binary protocol over TCP, Unix sockets and start_tls, cancelled everywhere",
        ("--deselect", "tests/test__sourcecode.py", "-p", "no:cacheprovider"),
        processes=2,
        environment={"PGINSTALLATION": str(POSTGRES[0])} if POSTGRES else {},
        unprivileged=True,
    ),
    Suite(
        "websockets",
        "15.0.1",
        ("tests/asyncio", "tests/legacy"),
        "both asyncio implementations, client and server; left out: the threaded one, and parsers without I/O",
        # Its settings name nothing of pytest's, which would look for ours in the parent folders.
        ("-c", "pyproject.toml"),
        debian=("trixie", "python-websockets=15.0.1-1"),
        apart=True,
        known={
            "ConnectionTests::test_local_address": "replaces a method of asyncio's BaseTransport",
            "ConnectionTests::test_remote_address": "replaces a method of asyncio's BaseTransport",
            "ClientServerTests::test_explicit_socket": "counts calls of a socket object's send and recv; ours are in C",
        },
    ),
    Suite(
        "httpx",
        "0.28.1",
        ("tests/client/test_async_client.py", "tests/test_timeouts.py"),
        "the asynchronous client, on ours over our transport (httpx_transport.py); the rest uses none or a mock",
        ("-p", "httpx_transport", "-o", "addopts=", "-k", "not trio"),
        processes=1,
    ),
]
#: Libraries that the suites talk to, at versions that they agree on.
ALSO = ("websockets==17.4",)


# --- set-up ---------------------------------------------------------------------------------------------------------


def set_up(suites: list[Suite]) -> None:
    """Environment, source distributions, work folders; each is kept for the next run."""
    BUILD.mkdir(parents=True, exist_ok=True)
    wanted = [*ALSO, *(f"{suite.name}=={suite.version}" for suite in SUITES if not suite.apart)]
    text = "\n".join([*wanted, (HERE / "requirements.txt").read_text(encoding="utf-8")])
    stamp = BUILD / "installed.txt"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != text:
        shutil.rmtree(BUILD / "venv", ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", BUILD / "venv"], check=True)
        quiet_pip("install", "--upgrade", "pip", "setuptools")
        quiet_pip("install", *wanted, "-r", str(HERE / "requirements.txt"))
        stamp.write_text(text, encoding="utf-8")
    path = BUILD / "path"
    path.mkdir(exist_ok=True)
    if not (path / "corenet").is_symlink():
        # The one package and not the checkout, whose own `tests` would stand in the way of theirs.
        (path / "corenet").symlink_to(ROOT / "corenet")
    for suite in suites:
        unpack(suite)


def quiet_pip(*arguments: str) -> None:
    """Run the environment's pip; its output is shown when it fails."""
    done = subprocess.run([BIN / "python", "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def unpack(suite: Suite) -> None:
    """The suite's files in a folder of their own."""
    if suite.apart and not installed_apart(suite).exists():
        quiet_pip("install", "--no-deps", "--target", str(installed_apart(suite)), f"{suite.name}=={suite.version}")
    sdists = BUILD / "sdists"
    archive = sdists / f"{suite.name}-{suite.version}.tar.gz"
    if not archive.exists() and suite.debian is not None:
        fetch_debian(*suite.debian, archive)
    elif not archive.exists():
        quiet_pip(
            "download", "--no-deps", "--no-binary", suite.name, "-d", str(sdists), f"{suite.name}=={suite.version}"
        )
    target = BUILD / "work" / suite.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            inner = member.name.partition("/")[2]
            if any(inner == part or (part.endswith("/") and inner.startswith(part)) for part in suite.take):
                member.name = inner
                tar.extract(member, target, filter="data")


def installed_apart(suite: Suite) -> Path:
    """The folder of a project that is not in the common environment."""
    return BUILD / "apart" / f"{suite.name}-{suite.version}"


def fetch_debian(release: str, package: str, archive: Path) -> None:
    """The upstream archive of a Debian source package, by way of this machine's own mirror.

    apt checks its signature by the keys of the archive. Lists and settings are ours for the time, so that the machine's
    need no line for sources, and are not changed; nor is root needed.
    """
    found = ask("apt-get", "indextargets", "--format", "$(LABEL) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
    mirrors = [line.split()[2] for line in found.splitlines() if line.startswith("Debian main ")]
    if not mirrors:
        sys.exit(f"apt knows no mirror of Debian, which has {package}; after apt-get update it may")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="corenet-apt-") as name:
        folder = Path(name)
        for part in ("lists/partial", "cache/archives/partial", "parts", "got"):
            (folder / part).mkdir(parents=True)
        (folder / "parts" / "tests.sources").write_text(
            f"Types: deb-src\nURIs: {mirrors[0]}\nSuites: {release}\nComponents: main\nSigned-By: {KEYRING}\n",
            encoding="ascii",
        )
        own = (
            "Dir::Etc::SourceList=/dev/null",
            f"Dir::Etc::SourceParts={folder}/parts",
            f"Dir::State::Lists={folder}/lists",
            f"Dir::Cache={folder}/cache",
            f"APT::Sandbox::User={pwd.getpwuid(os.geteuid()).pw_name}",
        )
        apt = ("apt-get", "-q", *(word for option in own for word in ("-o", option)))
        ask(*apt, "update")
        ask(*apt, "source", "--download-only", "--tar-only", package, cwd=folder / "got")
        (tar,) = (folder / "got").glob("*.orig.tar.gz")
        shutil.move(tar, archive)


def ask(*command: str, cwd: Path | None = None) -> str:
    """What a command says; it is shown when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


# --- running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """How a test ended, PASSED, FAILED or SKIPPED, and the first line of why."""

    outcome: str
    why: str = ""


PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass
class Run:
    """What one run of a suite said: each test by its id, and how many loops of ours were made."""

    cases: dict[str, Case]
    loops: int
    seconds: float

    def count(self, outcome: str) -> int:
        """How many tests ended so."""
        return sum(case.outcome == outcome for case in self.cases.values())


def run(suite: Suite, loop: str, tests: tuple[str, ...], *, processes: int) -> Run:
    """Run `tests` of a suite on one loop."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="corenet-suite-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        report, count = folder / "report.xml", folder / "count"
        count.touch()
        count.chmod(0o666)
        (folder / "hosts").write_text(HOSTS, encoding="ascii")
        environment = {
            **{k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "CORENET_NO_SKIPS")},
            **suite.environment,
            "PYTHONPATH": os.pathsep.join(
                [str(BUILD / "path"), str(HERE), *([str(installed_apart(suite))] if suite.apart else [])]
            ),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CORENET_SUITE_LOOP": loop,
            "CORENET_SUITE_COUNT": str(count),
            "TMPDIR": name,
            "HOME": name,
        }
        command = [
            *as_somebody(suite, folder / "hosts"),
            str(BIN / "python"),
            *("-m", "pytest", "-p", "chosen_loop", "-p", "no:cacheprovider", "-q", "--tb=short", "--timeout=60"),
            *("-o", "junit_family=xunit1", f"--junitxml={report}"),
            *(("-n", str(processes)) if processes > 1 else ("-p", "no:xdist") if "-n" not in suite.options else ()),
            *suite.options,
            *tests,
        ]
        log = BUILD / f"{suite.name}-{loop}.log"
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(
                command,
                cwd=BUILD / "work" / suite.name,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=1800,
            )
        if done.returncode not in (0, 1) or not report.exists():
            sys.exit(f"{suite.name} on {loop} broke off with status {done.returncode}; see {log}")
        cases = read(report)
        loops = sum(int(line) for line in count.read_text(encoding="ascii").split())
    return Run(cases, loops, time.monotonic() - began)


def as_somebody(suite: Suite, hosts: Path) -> list[str]:
    """What stands before the command: as root, a hosts file with ::1 as localhost, and PostgreSQL's own user.

    The user keeps the right to read what root may, because the interpreter may lie in root's home.
    """
    if os.geteuid():
        return []
    prefix = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    if suite.unprivileged:
        user = pwd.getpwnam("postgres")
        caps = "+dac_read_search"
        prefix += [
            *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
            *(f"--inh-caps={caps}", f"--ambient-caps={caps}"),
        ]
    return prefix


def read(report: Path) -> dict[str, Case]:
    """The cases of a JUnit report, where an expected failure counts as skipped. A test that is there twice, as one that
    passes and whose clean-up fails, has the worse of its outcomes."""
    cases: dict[str, Case] = {}
    for element in ET.parse(report).iter("testcase"):
        case = Case(PASSED)
        for tag, outcome in (("skipped", SKIPPED), ("error", FAILED), ("failure", FAILED)):
            found = element.find(tag)
            if found is not None:
                case = Case(outcome, (found.get("message") or "").partition("\n")[0][:160])
        test = node_id(element)
        if test not in cases or cases[test].outcome == PASSED or case.outcome == FAILED:
            cases[test] = case
    return cases


def node_id(case: ET.Element) -> str:
    """The test's id as pytest takes it."""
    file = case.get("file") or ""
    module = file.removesuffix(".py").replace("/", ".")
    inside = (case.get("classname") or "").removeprefix(module).strip(".")
    return "::".join([file, *(part for part in inside.split(".") if part), case.get("name") or ""])


# --- verdict --------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What differs on ours and stays so, and what differed once; each test with what was seen."""

    wrong: dict[str, str]
    passing: dict[str, str]


def differences(standard: Run, ours: Run) -> dict[str, str]:
    """Tests that end otherwise on ours, with how; those that fail on asyncio's say nothing of ours."""
    found: dict[str, str] = {}
    for test in [*standard.cases, *(test for test in ours.cases if test not in standard.cases)]:
        there, here = standard.cases.get(test), ours.cases.get(test)
        if there is None:
            found[test] = "not collected on asyncio"
        elif here is None:
            found[test] = f"not collected on ours, {there.outcome} on asyncio"
        elif there.outcome != FAILED and here.outcome != there.outcome:
            found[test] = f"{here.outcome} on ours, {there.outcome} on asyncio: {here.why or there.why}"
    return found


def verdict_of(suite: Suite, *, full: bool) -> Verdict:
    """Run one suite on both loops, and what differs once more."""
    tests = ("tests",) if full else suite.files
    runs = {loop: run(suite, loop, tests, processes=suite.processes) for loop in LOOPS}
    for loop, result in runs.items():
        print(
            f"  {loop:8} {', '.join(f'{result.count(outcome)} {outcome}' for outcome in (PASSED, FAILED, SKIPPED))},"
            f" {result.seconds:.0f} s",
            flush=True,
        )
    ours = runs["corenet"]
    if not ours.loops or runs["stdlib"].loops or not ours.count(PASSED):
        sys.exit(f"{suite.name}: made {ours.loops} loops of ours, and {runs['stdlib'].loops} where none was wanted")
    return settle(suite, differences(runs["stdlib"], ours), lambda loop, again: run(suite, loop, again, processes=1))


def settle(suite: Suite, new: dict[str, str], again: Callable[[str, tuple[str, ...]], Run]) -> Verdict:
    """Tell what may differ, and run what may not once more on both loops; a whole file where a test was not collected,
    since pytest does not take a name that is not there."""
    for test, said in new.items():
        if (why := explained(suite, test)) is not None:
            print(f"  known: {test}: {said}: {why}")
    new = {test: said for test, said in new.items() if explained(suite, test) is None}
    if not new:
        return Verdict({}, {})
    places = [test.partition("::")[0] if said.startswith("not collected") else test for test, said in new.items()]
    runs = [again(loop, tuple(dict.fromkeys(places))) for loop in LOOPS]
    left = differences(*runs)
    verdict = Verdict({}, {})
    for test, said in new.items():
        if test in left or not any(test in result.cases for result in runs):
            verdict.wrong[test] = said
            print(f"  ONLY OURS: {test}: {said}; when run again: {left.get(test, 'not there')}")
        else:
            verdict.passing[test] = said
            print(f"  AS ON ASYNCIO WHEN RUN AGAIN: {test}: {said}")
    return verdict


def explained(suite: Suite, test: str) -> str | None:
    """Why a test may fail on our loop."""
    return next((why for name, why in suite.known.items() if name in test), None)


def main() -> int:
    """Run the suites asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(suite.name for suite in SUITES)}; all by default")
    parser.add_argument("--full", action="store_true", help="every test of each suite")
    options = parser.parse_args()
    chosen = [suite for suite in SUITES if not options.suites or suite.name in options.suites]
    if not chosen:
        parser.error(f"no suite is called {' or '.join(options.suites)}")
    if any(suite.unprivileged for suite in chosen) and not POSTGRES:
        sys.exit("PostgreSQL is not installed: apt-get install postgresql")
    set_up(chosen)
    verdicts: list[Verdict] = []
    for suite in chosen:
        print(f"{suite.name} {suite.version}: {'all' if options.full else suite.why}", flush=True)
        verdicts.append(verdict_of(suite, full=options.full))
    wrong, passing = sum(len(v.wrong) for v in verdicts), sum(len(v.passing) for v in verdicts)
    print(f"{len(chosen)} suites, {wrong} tests that end otherwise on corenet, {passing} that did so once in two runs")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
