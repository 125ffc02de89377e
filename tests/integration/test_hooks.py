"""A daemon with a module of hooks: dig gets what the hooks decide, and a reload takes a new module or keeps the old."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.subject import Subject, daemon_environment, serve_playground, start_subject, upstream_port_for

from resolver.playground import World

pytestmark = pytest.mark.integration

NAME = "www.example.playground."
MODULE = """
import asyncio
from resolver.hooks import REFUSE, answer

calls = 0

async def question(query, question):
    await asyncio.sleep(0)
    if question.name == "hooked.test.":
        return answer("192.0.2.{number}", ttl=600)

def client(query, question):
    if question.name == "refused.test.":
        return REFUSE.because("not for you", 18)
    if question.name == "broken.test.":
        raise ValueError("on purpose")

def response(query, response):
    if response.question.name == "{name}":
        return answer(*[record.data.replace("127.20.", "127.21.") for record in response.records], ttl=300)
"""


class ManagedDaemon:
    def __init__(self, path: Path, subject: Subject) -> None:
        self.path, self.subject = path, subject

    def write(self, number: int, more: str = "") -> None:
        (self.path / "mypolicy.py").write_text(MODULE.format(number=number, name=NAME) + more)

    def ctl(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "resolver.cli.control", "--socket", str(self.path / "control"), *words],
            capture_output=True, text=True, timeout=30, check=False, env=daemon_environment(),
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def dig(self, name: str, *words: str) -> str:
        dig = shutil.which("dig")
        assert dig is not None, "dig is missing: install bind9-dnsutils"
        done = subprocess.run(
            [dig, "@127.0.0.1", "-p", str(self.subject.port), name, *words], capture_output=True, text=True, timeout=30,
            check=False,
        )
        return done.stdout


@pytest.fixture(params=[1, 2])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ManagedDaemon]:
    world = World()
    port = upstream_port_for("resolverd", world)
    path = tmp_path

    def edit(text: str) -> str:
        return (text.replace("[server]\n", f"[server]\nworkers = {request.param}\n")
                + f"[control]\nsocket = '{path / 'control'}'\n"
                + f"[policy]\nmodules = ['{path / 'mypolicy.py'}']\nhook-timeout = '2 s'\n")

    (path / "mypolicy.py").write_text(MODULE.format(number=1, name=NAME))
    with serve_playground(path, world, port), start_subject(path, world, port, kind="resolverd", edit=edit) as subject:
        yield ManagedDaemon(path, subject)


def test_dig_sees_what_hooks_decide(daemon: ManagedDaemon) -> None:
    for words in ((), ("+tcp",)):
        assert daemon.dig("hooked.test", "+short", *words) == "192.0.2.1\n"
        assert daemon.dig(NAME, "+short", *words).startswith("127.21.")
        refused = daemon.dig("refused.test", *words)
        assert "status: REFUSED" in refused and "EDE: 18 (Prohibited): (not for you)" in refused
    assert "status: NXDOMAIN" in daemon.dig("broken.test"), "an error of a hook does not end the query"
    assert f"{daemon.path / 'mypolicy.py'}:16" in daemon.subject.log.read_text()
    assert "hooks.errors.mypolicy.client 1" in daemon.ctl("statistics")
    assert daemon.ctl("health") == "healthy\n"


def test_a_reload_takes_the_new_module_or_keeps_the_old_one(daemon: ManagedDaemon) -> None:
    assert daemon.dig("hooked.test", "+short") == "192.0.2.1\n"
    daemon.write(2, "oops(\n")
    output = daemon.ctl("reload", status=1)
    assert f"{daemon.path / 'mypolicy.py'}:" in output and "was never closed" in output
    assert "mypolicy.py" in daemon.ctl("health", status=1)
    assert daemon.dig("hooked.test", "+short") == "192.0.2.1\n"
    daemon.write(3)
    daemon.ctl("reload")
    for _ in range(8):
        assert daemon.dig("hooked.test", "+short") == "192.0.2.3\n", "what was cached is flushed"
    assert daemon.ctl("health") == "healthy\n"
