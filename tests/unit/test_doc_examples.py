"""Every example in the documents runs: `docs/examples/*.py`, and each ```python and ```sh block of a page.

* A ```python block runs in an interpreter of its own with warnings as errors. A block whose first line is `# app.py` is
  a service: it runs on a free port instead of port 8000, is asked once, and is stopped by SIGTERM.
* Lines of a ```sh block run one after the other in one folder. A line whose comment says `(needs ...)` cannot run
  without a network, an installation or a second program: its options, subcommands and Python names are looked up
  instead. A line that ends with another status than 0 says `exit status N` in its comment.

A failure names the page and the line.
"""

import os
import pkgutil
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import can_bind, wait_until

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Pages under docs/api repeat docs/examples.
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "api")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 60
# The web site of the playground, where the plain URL leads only for processes that may use its port.
SITE, SITE_ADDRESS = "https://www.example.playground", "127.20.80.1"


def blocks(language: str) -> list[tuple[str, str]]:
    """(page and line, source) of every block in this language."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append((f"{page.relative_to(ROOT)}:{line}", match[2]))
    return found


PYTHON = blocks("python")
SERVICES = [(place, source) for place, source in PYTHON if source.startswith("# app.py")]
EXAMPLES = [
    *((path.name, path.read_text(encoding="utf-8")) for path in sorted((DOCS / "examples").glob("*.py"))),
    *((place, source) for place, source in PYTHON if not source.startswith("# app.py")),
]
SHELL = blocks("sh")


def environment(folder: Path) -> dict[str, str]:
    """Ours, with the packages in reach, and the project's commands in `folder` first in the path."""
    for name, target in PROJECT["scripts"].items():
        module, function = target.split(":")
        command = folder / name
        command.write_text(
            f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n",
            encoding="utf-8",
        )
        command.chmod(0o755)
    here = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(ROOT)) if p)
    path = os.pathsep.join((str(folder), str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    # argparse breaks lines of help between the words of an option's name otherwise.
    return {**os.environ, "PYTHONPATH": here, "PATH": path, "COLUMNS": "200"}


def test_there_are_examples_to_run() -> None:
    assert len(EXAMPLES) >= 20
    assert SERVICES
    assert SHELL


def test_readme_has_no_block_that_nothing_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {match[1] for match in FENCE.finditer(text)} == {"python", "sh"}
    assert not re.search(r"^ {4}\S", FENCE.sub("", text), re.MULTILINE), "an indented block: write ```sh or ```python"


@pytest.mark.parametrize(("place", "source"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_example_runs(place: str, source: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{place}\n{done.stdout}\n{done.stderr}"
    assert "Exception ignored" not in done.stderr, f"{place}\n{done.stderr}"


@pytest.mark.parametrize(("place", "source"), SERVICES, ids=[place for place, _ in SERVICES])
def test_service_serves_until_sigterm(place: str, source: str, tmp_path: Path) -> None:
    assert "8000" in source, place
    port = free_port()
    script = tmp_path / "app.py"
    script.write_text(source.replace("8000", str(port)), encoding="utf-8")
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script)],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def answered() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    client.sendall(b"hello\n")
                    return client.recv(6, socket.MSG_WAITALL) == b"hello\n"
            except OSError:
                return False

        wait_until(answered, f"an echo of the service at {place}", process=process, log=log, seconds=SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0, f"{place}\n{log.read_text(encoding='utf-8')}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)


@pytest.mark.parametrize(("place", "source"), SHELL, ids=[place for place, _ in SHELL])
def test_shell_lines_run_or_name_what_exists(place: str, source: str, tmp_path: Path) -> None:
    commands, folder = tmp_path / "bin", tmp_path / "work"
    commands.mkdir()
    folder.mkdir()
    env = environment(commands)
    missing = set()
    for line in source.splitlines():
        command, _, comment = line.partition("  #")
        if "(needs " in comment:
            missing |= look_up(f"{place}: {line}", shlex.split(command), env, folder)
            continue
        if SITE in command and not can_bind(SITE_ADDRESS, 443):
            command = command.replace(SITE, f"{SITE}:8443")
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        status = re.search(r"exit status (\d+)", comment)
        assert done.returncode == (int(status[1]) if status else 0), f"{place}: {line}\n{done.stdout}\n{done.stderr}"
    if missing:
        pytest.skip(f"not looked up: pip install {' '.join(sorted(missing))}")


def look_up(place: str, words: list[str], env: dict[str, str], folder: Path) -> set[str]:
    """Check that what a line names exists; return the programs and packages that are missing here.

    Looked up are Makefile targets, extras of the package, options and subcommands in `--help`, and Python objects.
    """
    program, *arguments = words
    if program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, env=env, capture_output=True, timeout=SECONDS, check=True)
        return set()
    if program == "pip":
        assert arguments[0] == "install", place
        for target in arguments[1:]:
            local = re.fullmatch(r"\.(?:\[(\w+)\])?", target)
            assert local, f"{place}: nothing but a checkout can be installed"
            assert local[1] is None or local[1] in PROJECT["optional-dependencies"], place
        return set()
    if arguments[:2] == ["-m", "corenet.launch"]:
        program, *arguments = arguments[2:]
    missing = set()
    for word in arguments:
        if re.fullmatch(r"(?:corenet|resolver)(?:\.\w+)*(?::\w+)?", word):
            missing |= import_object(word)
    if shutil.which(program, path=env["PATH"]) is None:
        return {*missing, program}
    help_of = [program, *(a for a in arguments[:1] if program == "corenet"), "--help"]
    done = subprocess.run(help_of, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{place}\n{done.stderr}"
    for word in arguments:
        option = word.split("=")[0]
        if option[0] in "-+" or (program == "resolverctl" and option.isalpha()):
            assert re.search(rf"(?<![\w+-]){re.escape(option)}(?![\w-])", done.stdout), f"{place}: {option}"
    return missing


def import_object(name: str) -> set[str]:
    """Import `package.module`, `package.module:object` or `package.module.object`; return a package that is missing."""
    try:
        pkgutil.resolve_name(name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("corenet", "resolver"):
            raise
        return {str(error.name)}
    return set()
