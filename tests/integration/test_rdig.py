"""rdig as an installed program: with real name servers and our daemon, and compared with dig.

Output is tested in tests/unit/resolver/cli; here it is processes, pipes, signals and peers.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import program, serve_export
from support.subject import Subject, daemon_environment, start_subject
from support.tools import look_up

from resolver.playground import World
from resolver.playground.export import Export, export
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present

pytestmark = pytest.mark.integration

RDIG = (sys.executable, "-m", "resolver.cli.dig")
TIMEOUT = 30


def rdig(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RDIG, *words], capture_output=True, text=True, timeout=TIMEOUT, check=False, env=daemon_environment()
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Export]:
    """The playground served by Knot."""
    program("knotd")
    world = World()
    written = export(world, tmp_path_factory.mktemp("knot"), "knot", port=free_port("127.20.0.1"))
    with serve_export(written):
        yield written


@pytest.fixture(scope="module")
def daemon(served: Export) -> Iterator[Subject]:
    with start_subject(served.directory / "subject", World(), served.port, kind="resolverd") as running:
        yield running


@pytest.mark.parametrize(
    ("qname", "qtype"),
    [
        ("www.example.playground", "A"),
        ("ext.example.playground", "A"),
        ("huge.big.playground", "TXT"),
        ("missing.example.playground", "A"),
        ("unknown.types.playground", "TYPE65280"),
        ("svcb.types.playground", "SVCB"),
    ],
)
def test_rdig_and_dig_see_the_same(daemon: Subject, qname: str, qtype: str) -> None:
    theirs = look_up("dig", daemon.address, daemon.port, qname, qtype)
    done = rdig(f"@{daemon.address}:{daemon.port}", qname, qtype, "+json")
    value = json.loads(done.stdout)
    answer = set()
    for record in value["answer"]:
        number = c.type_from_text(record["type"])
        rdata = present.rdata_from_text(number, record["data"]).lower()
        answer.add((names.lower(names.from_text(record["name"])), number, rdata))
    assert (value["status"], answer) == (theirs.rcode, set(theirs.answer))
    assert done.returncode == (0 if answer else 1)


def test_real_servers_are_queried(served: Export) -> None:
    done = rdig(f"@127.20.11.1:{served.port}", "many.example.playground", "+short", "+norec")
    assert (done.returncode, sorted(done.stdout.split())) == (0, [f"198.18.1.{n}" for n in (1, 2, 3, 4)])
    done = rdig(f"@127.20.10.1:{served.port}", "huge.big.playground", "TXT", "+norec")
    assert done.returncode == 0 and "over tcp" in done.stdout and "retried over TCP" in done.stdout


def test_rdig_resolves_by_itself_from_given_roots(served: Export, tmp_path: Path) -> None:
    config = tmp_path / "rdig.toml"
    config.write_text(
        f'root-hints-file = "{served.hints}"\n[iteration]\nupstream-port = {served.port}\n'
        "do-not-query-localhost = false\ndo-ip6 = false\n[dnssec]\nenabled = false\n"
    )
    done = rdig("one.chain.playground", "--config", str(config), "+trace")
    assert done.returncode == 0, done.stderr
    for zone in ("playground.", "chain.playground.", "chain.com.", "chain.org.", "example.playground."):
        assert f"refers to {zone}" in done.stdout
    assert "198.18.0.7" in done.stdout


def test_exit_codes_of_the_process(daemon: Subject) -> None:
    server = f"@{daemon.address}:{daemon.port}"
    assert rdig(server, "www.example.playground").returncode == 0
    assert rdig(server, "missing.example.playground").returncode == 1
    assert rdig(server, "www.example.playground", "+nonsense").returncode == 2
    assert rdig(server, "www.servfail.playground").returncode == 3
    assert rdig("@127.20.250.1:9", "www.example.playground").returncode == 4


def test_extended_errors_are_shown_in_words(daemon: Subject) -> None:
    done = rdig(f"@{daemon.address}:{daemon.port}", "www.dead.playground")
    assert ";; EDE: No Reachable Authority (22)" in done.stdout


def test_a_closed_output_pipe_is_no_error() -> None:
    command = [*RDIG, "--playground", "huge.big.playground", "TXT", "+trace"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=daemon_environment()) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        output = process.stderr.read()
        assert process.wait(TIMEOUT) == 0 and output == b""
