"""Every command that the README and the pages under docs show is run.

These are the lines of ```sh and ```console blocks, and commands inside of sentences and tables, in the order of the
page, in one folder for each page. `support/handbook.py` starts what they talk to, and has the list of those that no
test can run, with reasons. A line that ends with another status than 0 says `exit status N` in its comment. A failure
names page and line.

Some lines start the playground's web site on its fixed address and port, as other tests of this folder do. So they run
in the same process as those, one after the other, and not in parallel.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.documents import PAGES, ROOT, SECONDS, Command, blocks, commands
from support.handbook import PROGRAMS, Servers, full, reason_not_to_run, servers
from support.ports import free_port
from support.servers import can_bind, program, run_process, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.checkout]

# The web site of the playground, where the plain URL leads only for processes that may use its port.
SITE, SITE_ADDRESS = "https://www.example.playground", "127.20.80.1"


def shown() -> dict[str, list[Command]]:
    """The commands of each page. What several have is run once, unless it could depend on a file that the page makes:
    what is inside of a sentence does not."""
    pages = {str(page.relative_to(ROOT)): commands(page, PROGRAMS) for page in PAGES}
    in_blocks = {full(one.text) for found in pages.values() for one in found if not one.inline}
    chosen: dict[str, list[Command]] = {page: [] for page in pages}
    seen: set[str] = set()
    for page, found in pages.items():
        for one in found:
            text = full(one.text)
            again = text in seen and re.match(r"resolverctl (?!import)|rdig |corenet |sh compare", text)
            if not (again or (one.inline and text in seen | in_blocks)):
                chosen[page].append(one)
                seen.add(text)
    return {page: found for page, found in chosen.items() if found}


SHOWN = shown()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


def test_there_are_commands() -> None:
    assert len(SHOWN) >= 25
    assert sum(map(len, SHOWN.values())) >= 200


@pytest.mark.parametrize("page", SHOWN)
def test_commands_run(page: str, here: Servers, tmp_path: Path) -> None:
    here.prepare(tmp_path)
    missing: set[str] = set()
    for command in SHOWN[page]:
        if reason_not_to_run(command) is not None:
            continue
        if packages := here.missing(command):
            missing |= packages
            continue
        if not can_bind(SITE_ADDRESS, 443):
            command = replace(command, text=command.text.replace(SITE, f"{SITE}:8443"))
        done = here.run(command, tmp_path)
        assert done.returncode in here.statuses(command), f"{command}\n{done.args}\n{done.stdout}\n{done.stderr}"
    if missing:
        pytest.skip(f"not all commands were run, for this is not installed: {', '.join(sorted(missing))}")


def test_make_run_shows_a_first_answer(tmp_path: Path) -> None:
    """The first block of the README, in a checkout that is built; elsewhere it needs gcc and the package index."""
    if subprocess.run(["make", "-q", "build"], cwd=ROOT, capture_output=True, timeout=SECONDS, check=False).returncode:
        pytest.skip("not built: make build")
    port, log = free_port(), tmp_path / "log"
    with run_process(["make", "run", f"PORT={port}"], log, cwd=ROOT) as process:
        answer = f", server 127.0.0.1:{port}\n"
        wait_until(lambda: answer in log.read_text("utf-8"), "the first answer", process=process, log=log)


def test_dig_shows_the_client_subnet(here: Servers, tmp_path: Path) -> None:
    """The reply of docs/client-subnet.md, but for the scope: the zone here has the same answer for all clients."""
    [(place, source)] = [block for block in blocks("console") if block[1].startswith("$ dig")]
    command, answer = source.splitlines()
    done = here.run(Command(place, command.removeprefix("$ ")), tmp_path)
    assert re.fullmatch(re.escape(answer.rpartition("/")[0]) + r"/\d+\n", done.stdout), done.stdout


def test_logrotate_reopens_the_query_log(here: Servers, tmp_path: Path) -> None:
    """The configuration of docs/query-log.md with the file and the control socket of a running daemon."""
    [text] = [source for _, source in blocks("text") if "postrotate" in source]
    text = text.replace("/var/log/resolverd/queries.log", str(here.query_log))
    (tmp_path / "logrotate.conf").write_text(text.replace("/run/resolverd/control", str(here.control)))
    before = here.query_log.stat().st_ino
    subprocess.run(
        [program("logrotate"), "--force", "--state", str(tmp_path / "state"), str(tmp_path / "logrotate.conf")],
        env=here.env, check=True, capture_output=True, timeout=SECONDS,
    )
    assert here.query_log.with_name("queries.log.1").stat().st_ino == before
    assert here.query_log.stat().st_ino != before, "opened again"


def test_systemd_accepts_the_units(here: Servers, tmp_path: Path) -> None:
    """The socket unit of docs/operating.md beside the unit that resolverd prints for the same address."""
    [socket] = [source for _, source in blocks("ini") if source.startswith("[Socket]")]
    (tmp_path / "resolverd.socket").write_text(socket)
    (tmp_path / "resolverd.toml").write_text('[server]\nlisten = ["127.0.0.1:53"]\n')
    done = here.run(Command("", "resolverd --config resolverd.toml --print-unit > resolverd.service"), tmp_path)
    assert done.returncode == 0, done.stderr
    for unit in ("resolverd.socket", "resolverd.service"):
        verified = subprocess.run(
            [program("systemd-analyze"), "verify", f"./{unit}"], cwd=tmp_path, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )
        assert (verified.returncode, verified.stderr) == (0, ""), unit
