"""Client subnets over sockets: dig as client, a scripted name server, and Unbound beside resolverd.

Both resolvers have the server as a stub zone and get the same questions with the same subnets. Unbound takes the option
of every client; resolverd trusts 127.0.0.1, so that they have the same input.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until
from support.subject import counters_of, stub_daemon
from support.tailor import Tailor, serve_tailor

from resolver.wire import consts as c
from resolver.wire.client_subnet import Subnet

pytestmark = pytest.mark.integration

A, B = (bytes([198, 51, 100, 0]), 24), (bytes([198, 51, 101, 0]), 24)
NET_A, NET_B, NET_WIDE = "198.51.100.0/24", "198.51.101.0/24", "198.51.0.0/16"


@contextmanager
def resolverd(directory: Path, upstream: int, subnet: str, more: str = "") -> Iterator[int]:
    """Run our daemon with cdn.test as a stub zone; `subnet` is its section [client-subnet]. The value is its port."""
    port = free_port()
    subnets = f"[client-subnet]\n{subnet}"
    with stub_daemon(directory, port, "cdn.test.", upstream, server=more, more=subnets):
        yield port


@contextmanager
def unbound(directory: Path, upstream: int) -> Iterator[int]:
    port = free_port()
    config = directory / "unbound.conf"
    config.write_text(f"""server:
  interface: 127.0.0.1@{port}
  access-control: 127.0.0.0/8 allow
  directory: "{directory}"
  pidfile: ""
  chroot: ""
  username: ""
  use-syslog: no
  logfile: ""
  num-threads: 1
  do-daemonize: no
  do-not-query-localhost: no
  module-config: "subnetcache iterator"
  client-subnet-zone: "cdn.test"
  local-zone: "test." transparent
stub-zone:
  name: "cdn.test"
  stub-addr: 127.0.0.1@{upstream}
""")
    log = directory / "unbound.log"
    with run_process([program("unbound"), "-d", "-p", "-c", str(config)], log, cwd=directory) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "Unbound's start",
                   process=process, log=log)
        yield port


def dig(port: int, name: str, subnet: str | None) -> tuple[str, str]:
    """The address in the answer, and the option in the reply as dig shows it; empty without."""
    more = [] if subnet is None else [f"+subnet={subnet}"]
    command = [program("dig"), "@127.0.0.1", "-p", str(port), "+tries=1", "+time=20", *more, name, "A"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    address = re.search(r"\sA\s+([\d.]+)$", text, re.M)
    option = re.search(r"; CLIENT-SUBNET: (\S+)", text)
    return "" if address is None else address[1], "" if option is None else option[1]


def test_a_load_balancer_names_the_subnets_of_its_clients(tmp_path: Path) -> None:
    tailor = Tailor("cdn.test.")
    section = 'zones = ["cdn.test"]\ntrusted-clients = ["127.0.0.1/32"]'
    with serve_tailor(tailor) as upstream, resolverd(tmp_path, upstream, section, "lanes = 1") as port:
        for _ in range(3):
            assert dig(port, "www.cdn.test", "198.51.100.7/32") == ("192.0.2.100", "198.51.100.7/32/24")
            assert dig(port, "www.cdn.test", NET_B) == ("192.0.2.101", f"{NET_B}/24")
            assert dig(port, "www.cdn.test", "0") == ("192.0.2.250", "0.0.0.0/0/0")
            assert dig(port, "www.cdn.test", None) == ("192.0.2.250", ""), "127.0.0.1 is told to nobody"
        assert tailor.subnets == [A, B, None]
        found = counters_of(tmp_path)
        assert (found["client_subnet.sent"], found["client_subnet.entries"]) == (2, 3)
        assert found["client_subnet.replies.tailored"] == 2
        assert found["client_subnet.hits"] >= 9


def test_the_option_of_a_client_that_is_not_trusted_is_ignored(tmp_path: Path) -> None:
    tailor = Tailor("cdn.test.")
    with serve_tailor(tailor) as upstream, resolverd(tmp_path, upstream, 'zones = ["cdn.test"]') as port:
        assert dig(port, "www.cdn.test", NET_A) == ("192.0.2.250", "")
        assert tailor.subnets == [None]


def test_without_the_section_nothing_is_sent(tmp_path: Path) -> None:
    tailor = Tailor("cdn.test.")
    with serve_tailor(tailor) as upstream, resolverd(tmp_path, upstream, "") as port:
        assert dig(port, "www.cdn.test", NET_A) == ("192.0.2.250", "")
        assert tailor.subnets == [None]
        assert not any(name.startswith("client_subnet") for name in counters_of(tmp_path))


SCENARIOS: dict[str, tuple[int | None, list[str]]] = {
    "as long as the source": (24, [NET_A, NET_B, NET_A, NET_B]),
    "shorter": (16, [NET_A, NET_B, "198.52.0.0/24", NET_B]),
    "longer": (32, [NET_A, NET_B, NET_A]),
    "for all": (0, [NET_A, NET_B]),
    "a wide source": (12, [NET_WIDE, NET_A, NET_WIDE]),
    "no option": (None, [NET_A, NET_B]),
    "two families": (20, [NET_A, "2001:db8:1::/48", NET_A, "2001:db8:1::/48"]),
}


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_the_same_answers_and_as_few_queries_as_unbound(tmp_path: Path, scenario: str) -> None:
    scope, asked = SCENARIOS[scenario]
    results = []
    for kind in ("resolverd", "unbound"):
        tailor = Tailor("cdn.test.")
        tailor.scope = scope
        with serve_tailor(tailor) as upstream:
            section = 'zones = ["cdn.test"]\ntrusted-clients = ["127.0.0.1"]'
            daemon = resolverd(tmp_path, upstream, section) if kind == "resolverd" else unbound(tmp_path, upstream)
            with daemon as port:
                answers = [dig(port, "www.cdn.test", subnet)[0] for subnet in asked]
        results.append((answers, tailor.subnets))
    assert results[0] == results[1]


def test_a_server_that_does_not_know_the_option(tmp_path: Path) -> None:
    tailor = Tailor("cdn.test.")
    tailor.refuses = True
    section = 'servers = ["127.0.0.0/8"]\ntrusted-clients = ["127.0.0.1"]'
    with serve_tailor(tailor) as upstream, resolverd(tmp_path, upstream, section) as port:
        assert dig(port, "www.cdn.test", NET_A) == ("192.0.2.250", f"{NET_A}/0")
        assert dig(port, "mail.cdn.test", NET_B) == ("192.0.2.250", f"{NET_B}/0")
        sent: list[Subnet | None] = tailor.subnets
        assert sent == [A, None, None], "it is remembered"
