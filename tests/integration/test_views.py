"""Views in a running resolverd, seen by dig from loopback addresses: UDP and TCP, two listeners, and a reload.

The upstream is BIND with one zone. Each answer is asked for twice: the first comes from the service, the second from
the cache of finished answers, where views must not meet.
"""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.forwarder import forwarder
from support.ports import free_port
from support.servers import ask, program, run_named, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c

pytestmark = pytest.mark.integration

ZONE = """$TTL 300
@ SOA ns host 1 7200 3600 86400 300
@ NS ns
ns A 127.0.0.1
www A 192.0.2.1
alias CNAME www
"""
VIEWS = """
[[view]]
name = "kids"
clients = ["127.0.0.2/32"]
local-zones = ["www.views.test. nxdomain"]
[[view]]
name = "lab"
listeners = ["127.0.0.1:{second}"]
[view.hosts]
"www.views.test" = "198.51.100.7"
[[view]]
name = "closed"
clients = ["127.0.0.3/32"]
refuse = ["127.0.0.0/8"]
"""


@contextmanager
def bind(directory: Path, port: int) -> Iterator[None]:
    """An authoritative BIND for views.test."""
    (directory / "views.test").write_text(ZONE)
    config = directory / "named.conf"
    config.write_text(
        f"""options {{
  directory "{directory}"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }}; recursion no;
  listen-on port {port} {{ 127.0.0.1; }};
}};
controls {{ }};
zone "views.test" {{ type primary; file "views.test"; }};
"""
    )
    log = directory / "named.log"
    with run_named(config, log):
        yield


def configure(directory: Path, port: int, second: int, upstream: int, views: str) -> Path:
    config = directory / "resolverd.toml"
    config.write_text(
        f"""[server]
listen = ["127.0.0.1:{port}", "127.0.0.1:{second}"]
[iteration]
do-not-query-localhost = false
[dnssec]
enabled = false
[control]
socket = "{directory / "control"}"
[[stub]]
zone = "views.test."
addresses = ["127.0.0.1:{upstream}"]
{views.format(second=second)}"""
    )
    return config


def dig(port: int, source: str, name: str, *words: str) -> tuple[str, list[str]]:
    """The status and the addresses that dig gets from its address `source`."""
    command = [program("dig"), "@127.0.0.1", "-p", str(port), "-b", source, "+tries=1", "+time=5", *words, name, "A"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    status = re.search(r"status: (\w+)", text)
    assert status is not None, text
    return status[1], re.findall(r"\sIN\s+A\s+(\S+)$", text, re.MULTILINE)


def control(directory: Path, *words: str) -> str:
    command = [RESOLVERD[0], "-m", "resolver.cli.control", "-s", str(directory / "control"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=daemon_environment(),
                          timeout=60).stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_each_client_gets_the_answers_of_its_view(tmp_path: Path, workers: int) -> None:
    upstream, port, second = free_port(), free_port(), free_port()
    config = configure(tmp_path, port, second, upstream, VIEWS)
    log = tmp_path / "resolverd.log"
    command = [*RESOLVERD, "--config", str(config), "--workers", str(workers)]
    with bind(tmp_path, upstream), run_process(command, log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                   process=process, log=log)
        for way in ("+notcp", "+tcp"):
            for _ in range(2):
                assert dig(port, "127.0.0.1", "www.views.test", way) == ("NOERROR", ["192.0.2.1"])
                assert dig(port, "127.0.0.2", "www.views.test", way) == ("NXDOMAIN", [])
                assert dig(port, "127.0.0.2", "alias.views.test", way) == ("NXDOMAIN", [])
                assert dig(port, "127.0.0.1", "alias.views.test", way) == ("NOERROR", ["192.0.2.1"])
                assert dig(second, "127.0.0.1", "www.views.test", way) == ("NOERROR", ["198.51.100.7"])
                assert dig(second, "127.0.0.2", "www.views.test", way) == ("NXDOMAIN", []), "the first view that fits"
                assert dig(port, "127.0.0.3", "www.views.test", way) == ("REFUSED", [])
        counts = dict(line.rsplit(" ", 1) for line in control(tmp_path, "statistics").splitlines())
        assert int(counts["fast_path.hits"]) > 0
        assert any("question.local-zones.answer" in name for name in counts), counts
        control(tmp_path, "flush", "www.views.test")
        assert dig(port, "127.0.0.2", "www.views.test") == ("NXDOMAIN", [])

        changed = VIEWS.replace("nxdomain", "nodata").replace("127.0.0.3", "127.0.0.4")
        configure(tmp_path, port, second, upstream, changed)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the new configuration is in force" in log.read_text(), "the reload", process=process,
                   log=log)
        wait_until(lambda: dig(port, "127.0.0.2", "www.views.test") == ("NOERROR", []), "the new view",
                   process=process, log=log)
        wait_until(lambda: dig(port, "127.0.0.3", "www.views.test") == ("NOERROR", ["192.0.2.1"]), "the new clients",
                   process=process, log=log)
        assert dig(port, "127.0.0.1", "www.views.test") == ("NOERROR", ["192.0.2.1"])


def test_a_reload_with_a_wrong_view_changes_nothing(tmp_path: Path) -> None:
    upstream, port, second = free_port(), free_port(), free_port()
    config = configure(tmp_path, port, second, upstream, VIEWS)
    log = tmp_path / "resolverd.log"
    with bind(tmp_path, upstream), run_process([*RESOLVERD, "--config", str(config)], log,
                                               env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                   process=process, log=log)
        configure(tmp_path, port, second, upstream, VIEWS.replace("www.views.test. nxdomain", "www.views.test. odd"))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the old one stays in force" in log.read_text(), "the refusal", process=process, log=log)
        assert re.search(r"resolverd\.toml:\d+: view.*'www.views.test. odd': unknown kind", log.read_text())
        assert dig(port, "127.0.0.2", "www.views.test") == ("NXDOMAIN", [])


SERVERS = """
[[view]]
name = "one"
clients = ["127.0.0.2/32"]
[[view.forward]]
zone = "views.test"
addresses = ["127.0.0.1:{one}"]
[[view]]
name = "two"
clients = ["127.0.0.3/32"]
[[view.forward]]
zone = "views.test"
addresses = ["127.0.0.1:{two}"]
"""


def test_views_have_the_answers_of_their_own_forwarders(tmp_path: Path) -> None:
    """With two workers and one cache, also after a reload that numbers the views in another order."""
    upstream, port, second = free_port(), free_port(), free_port()
    log = tmp_path / "resolverd.log"
    expected = {"127.0.0.1": "192.0.2.1", "127.0.0.2": "203.0.113.11", "127.0.0.3": "203.0.113.12"}

    def check() -> None:
        for way in ("+notcp", "+tcp"):
            for number in range(6):  # some meet each worker, with what the other one has stored
                for source, address in expected.items():
                    assert dig(port, source, "www.views.test", way) == ("NOERROR", [address]), (source, number)

    with (bind(tmp_path, upstream), forwarder(bytes([203, 0, 113, 11])) as one,
          forwarder(bytes([203, 0, 113, 12])) as two):
        views = SERVERS.format(one=one, two=two)
        config = configure(tmp_path, port, second, upstream, views)
        command = [*RESOLVERD, "--config", str(config), "--workers", "2"]
        with run_process(command, log, env=daemon_environment()) as process:
            wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                       process=process, log=log)
            check()
            dumped = control(tmp_path, "dump", "views.test")
            first, *parts = re.split(r"; only for view (?:one|two):", dumped)
            assert [re.findall(r"^www\.views\.test\. \d+ IN A (\S+)", text, re.MULTILINE)
                    for text in (first, *parts)] == [["192.0.2.1"], ["203.0.113.11"], ["203.0.113.12"]], dumped
            swapped = "[[view]]".join(["", *reversed(views.split("[[view]]")[1:])])
            configure(tmp_path, port, second, upstream, swapped)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "the new configuration is in force" in log.read_text(), "the reload", process=process,
                       log=log)
            check()
