"""Every line of the ```sh blocks in the README and the pages under docs.

The lines of a block run one after the other in one folder. A line whose comment says `(needs ...)` cannot run without
a network, an installation or a second program: its options, subcommands and Python names are looked up instead. A line
that ends with another status than 0 says `exit status N` in its comment. A failure names the page and the line.

Some lines start the playground's web site on its fixed address and port, as other tests of this folder do. So they run
in the same process as those, one after the other, and not in parallel.
"""

import pkgutil
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support.documents import PROJECT, ROOT, SECONDS, blocks, environment
from support.ports import free_port
from support.servers import can_bind, run_process, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.checkout]

# The web site of the playground, where the plain URL leads only for processes that may use its port.
SITE, SITE_ADDRESS = "https://www.example.playground", "127.20.80.1"
SHELL = blocks("sh")


def test_there_are_lines_to_run() -> None:
    assert len(SHELL) >= 6


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


def test_make_run_shows_a_first_answer(tmp_path: Path) -> None:
    """The first block of the README, in a checkout that is built; elsewhere it needs gcc and the package index."""
    if subprocess.run(["make", "-q", "build"], cwd=ROOT, capture_output=True, timeout=SECONDS, check=False).returncode:
        pytest.skip("not built: make build")
    port, log = free_port(), tmp_path / "log"
    with run_process(["make", "run", f"PORT={port}"], log, cwd=ROOT) as process:
        answer = f", server 127.0.0.1:{port}\n"
        wait_until(lambda: answer in log.read_text("utf-8"), "the first answer", process=process, log=log)


def look_up(place: str, words: list[str], env: dict[str, str], folder: Path) -> set[str]:
    """Check that what a line names exists; return the programs and packages that are missing here.

    Looked up are Makefile targets, extras of the package, options in `--help`, and Python objects. What resolverctl
    would ask a daemon is asked where there is none.
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
    if program == "resolverctl":
        # A daemon that is not there is looked for only after the whole line was understood.
        away = [program, "--socket", str(folder / "none"), *arguments]
        done = subprocess.run(away, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 3, f"{place}\n{done.stderr}"
        return missing
    help_of = [program, *(a for a in arguments[:1] if program == "corenet"), "--help"]
    done = subprocess.run(help_of, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{place}\n{done.stderr}"
    for word in arguments:
        option = word.split("=")[0]
        if option[0] in "-+":
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
