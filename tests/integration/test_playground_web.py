"""From a name to a page: the playground's HTTPS site, found through our daemon and fetched with our client.

Three processes that know each other only by command line arguments; the CA certificate is passed as a file.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import can_bind, run_process, wait_until
from support.subject import Subject, daemon_environment, start_subject

from resolver.playground import World

pytestmark = pytest.mark.integration

CLIENT = (sys.executable, "-m", "corenet.http.cli", "get")
TIMEOUT = 30


@dataclass
class Site:
    url: str
    authority: Path
    daemon: Subject
    playground: "subprocess.Popen[bytes]"
    log: Path
    resolver: Path
    """Configuration of the client's side: forward everything to our daemon, no validation (the zones are unsigned)."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port = free_port("127.20.0.1")
    authority, log = tmp_path / "ca.pem", tmp_path / "playground.log"
    command = [sys.executable, "-m", "resolver.playground", "--port", str(port), "--ca", str(authority)]
    with run_process(command, log, env=daemon_environment()) as process:
        wait_until(lambda: "Ctrl-C stops" in log.read_text(), "the playground", process=process, log=log)
        shown = re.search(r"web server at (\S+), trust (\S+)", log.read_text())
        assert shown is not None and shown[2] == str(authority)
        with start_subject(tmp_path / "daemon", World(), port, kind="resolverd") as daemon:
            client = tmp_path / "client.toml"
            forward = f'[[forward]]\nzone = "."\naddresses = ["{daemon.address}:{daemon.port}"]\n'
            client.write_text(f"[iteration]\ndo-not-query-localhost = false\n[dnssec]\nenabled = false\n{forward}")
            yield Site(shown[1], authority, daemon, process, log, client)


def get(*words: str) -> "subprocess.CompletedProcess[str]":
    command, env = [*CLIENT, *words], daemon_environment()
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=env)


def test_a_page_is_fetched_by_name(site: Site) -> None:
    resolver = ("--resolver", str(site.resolver))
    done = get(site.url, *resolver, "--cacert", str(site.authority), "--trace")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Welcome to www.example.playground")
    assert "127.20.80.1" in done.stderr
    moved = get(f"{site.url}redirect", *resolver, "--cacert", str(site.authority), "-L")
    assert moved.stdout == done.stdout


def test_an_unknown_authority_is_refused(site: Site) -> None:
    done = get(site.url, "--resolver", str(site.resolver))
    assert done.returncode == 60 and not done.stdout and "ertificate" in done.stderr


def test_the_playground_ends_on_sigterm_with_zero(site: Site) -> None:
    site.playground.terminate()
    assert site.playground.wait(TIMEOUT) == 0
    assert "Traceback" not in site.log.read_text()


def test_one_command_is_enough() -> None:
    """The client brings the whole Internet with it, the authority to trust included."""
    if not can_bind("127.20.80.1", 443):
        pytest.skip("this process may not listen on port 443, where the plain URL leads")
    done = get("https://www.example.playground/", "--playground")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Welcome to www.example.playground")
