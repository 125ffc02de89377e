"""Encrypted upstreams against real servers: Unbound and Knot Resolver serve DNS over TLS and HTTPS with a test CA.

The library, rdig and ``corenet get`` query them. A listener for plain DNS on the addresses and port 53 of the
configuration must see nothing, whatever fails.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from support.certs import Authority
from support.ports import free_port
from support.servers import program
from support.subject import daemon_environment
from support.upstream_peers import StreamPeer, UdpPeer

import corenet
from resolver.api import Answer, Resolver
from resolver.settings import DnssecSettings, ForwardZone, IterationSettings, Settings

pytestmark = pytest.mark.integration

HOST = "127.31.0.1"
NAME = "dns.example"
NAMES = 60
TIMEOUT = 30


class Served(NamedTuple):
    """A running server and how to reach it."""

    authority: Authority
    tls: str
    https: str


def unbound_config(folder: Path, leaf: tuple[Path, Path], tls: int, https: int) -> list[str]:
    data = "".join(f'  local-data: "n{n}.lab.example. 60 A 192.0.2.{n}"\n' for n in range(NAMES))
    (folder / "unbound.conf").write_text(
        f'server:\n  username: ""\n  chroot: ""\n  directory: "{folder}"\n  pidfile: ""\n  use-syslog: no\n'
        f"  interface: {HOST}@{tls}\n  interface: {HOST}@{https}\n  access-control: 127.0.0.0/8 allow\n"
        f'  tls-port: {tls}\n  https-port: {https}\n  tls-service-pem: "{leaf[0]}"\n  tls-service-key: "{leaf[1]}"\n'
        '  edns-tcp-keepalive: yes\n  pad-responses: yes\n  module-config: "iterator"\n'
        f'  local-zone: "lab.example." static\n{data}'
        '  local-data: "web.lab.example. 60 A 127.0.0.1"\n'
    )
    return ["-d", "-p", "-c", str(folder / "unbound.conf")]


def kresd_config(folder: Path, leaf: tuple[Path, Path], tls: int, https: int) -> list[str]:
    data = "".join(f"hints['n{n}.lab.example'] = '192.0.2.{n}'\n" for n in range(NAMES))
    (folder / "kresd.conf").write_text(
        f"net.listen('{HOST}', {tls}, {{ kind = 'tls' }})\nnet.listen('{HOST}', {https}, {{ kind = 'doh2' }})\n"
        f"net.tls('{leaf[0]}', '{leaf[1]}')\nmodules = {{ 'hints' }}\ntrust_anchors.remove('.')\n"
        f"hints.root({{ ['a.root.'] = '127.31.0.99' }})\n{data}hints['web.lab.example'] = '127.0.0.1'\n"
    )
    return ["-n", "-c", str(folder / "kresd.conf"), str(folder)]


CONFIGS = {"unbound": unbound_config, "kresd": kresd_config}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    authority = Authority(folder)
    leaf = authority.leaf(NAME, HOST)
    tls, https = free_port(HOST), free_port(HOST)
    command = [program(request.param), *CONFIGS[request.param](folder, (leaf.certificate, leaf.key), tls, https)]
    with ExitStack() as stack:
        running = stack.enter_context(subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL))
        stack.callback(running.kill)
        made = Served(authority, f"tls://{HOST}:{tls}#{NAME}", f"https://{HOST}:{https}/dns-query#{NAME}")
        end = time.monotonic() + TIMEOUT
        while True:
            done = rdig("n1.lab.example", *words_for(made.tls), f"+tls-ca={authority.cafile}", "+timeout=2")
            if done.returncode == 0:
                break
            assert running.poll() is None and time.monotonic() < end, done.stderr
        yield made


def rdig(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "resolver.cli.dig", *words],
        capture_output=True, text=True, timeout=TIMEOUT, check=False, env=daemon_environment(),
    )  # fmt: skip


def words_for(url: str) -> list[str]:
    """The options of rdig for a server in the form of the settings."""
    scheme, _, rest = url.partition("://")
    where, _, name = rest.partition("#")
    return [f"@{where.partition('/')[0]}", f"+{scheme}", f"+tls-hostname={name}"]


def settings_for(served: Served, *addresses: str) -> Settings:
    return Settings(
        forward=(ForwardZone(".", addresses),),
        dnssec=DnssecSettings(enabled=False),
        iteration=IterationSettings(tls_cert_bundle=str(served.authority.cafile)),
    )


@pytest.mark.parametrize("protocol", ["tls", "https"])
def test_many_queries_share_few_connections_and_sessions_resume(served: Served, protocol: str) -> None:
    async def main() -> None:
        url = getattr(served, protocol)
        async with Resolver(settings_for(served, url)) as resolver:
            assert list(await resolver.resolve("n1.lab.example")) == ["192.0.2.1"]
            found = await asyncio.gather(*(resolver.resolve(f"n{n}.lab.example") for n in range(2, NAMES)))
            assert [list(answer) for answer in found] == [[f"192.0.2.{n}"] for n in range(2, NAMES)]
            counted = resolver.statistics().upstream
            assert counted[f"{protocol}_replies"] == NAMES - 1
            assert counted[f"{protocol}_connections_opened"] <= 6
            assert counted[f"{protocol}_resumed"] >= 1
            assert counted["udp_sent"] == counted["tcp_sent"] == 0

    corenet.run(main())


@pytest.mark.parametrize("protocol", ["tls", "https"])
def test_a_trace_shows_the_connection(served: Served, protocol: str) -> None:
    async def main() -> None:
        async with Resolver(settings_for(served, getattr(served, protocol))) as resolver:
            trace = await resolver.explain("n7.lab.example")
        text = trace.to_text()
        assert f", {protocol.upper()}, EDNS" in text and f"certificate of {NAME} by" in " ".join(text.split())
        [exchange] = json.loads(trace.to_json())["exchanges"]
        assert exchange["transport"] == protocol
        connection = exchange["connection"]
        assert connection["version"] == "TLSv1.3" and connection["subject"] == NAME and not connection["resumed"]
        assert connection["http"] == ("2" if protocol == "https" else "")
        assert "sha256//" in trace.to_html()

    corenet.run(main())


@pytest.mark.parametrize("protocol", ["tls", "https"])
def test_rdig(served: Served, protocol: str) -> None:
    words = words_for(getattr(served, protocol))
    authority = f"+tls-ca={served.authority.cafile}"
    done = rdig("n3.lab.example", *words, authority)
    assert done.returncode == 0 and "192.0.2.3" in done.stdout, done.stderr
    assert f"certificate of {NAME}" in done.stdout and f"over {protocol} in" in done.stdout
    value = json.loads(rdig("n3.lab.example", *words, authority, "+json").stdout)
    assert value["connection"]["handshake_milliseconds"] > 0
    pin = value["connection"]["pin"]
    by_pin = [words[0], words[1], f"+tls-pin={pin}"]
    assert rdig("n3.lab.example", *by_pin).returncode == 0
    assert rdig("n3.lab.example", words[0], words[1], "+tls-insecure").returncode == 0


@pytest.mark.parametrize("protocol", ["tls", "https"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["+tls-hostname=other.example"], "the certificate is not for this host name"),
        (["+tls-pin=" + "A" * 43 + "="], "none of the pinned public keys"),
    ],
)
def test_rdig_refuses_another_server(served: Served, protocol: str, options: list[str], reason: str) -> None:
    words = words_for(getattr(served, protocol))[:2]
    ca = [] if options and "pin" in options[0] else [f"+tls-ca={served.authority.cafile}"]
    done = rdig("n3.lab.example", *words, *options, *ca)
    assert done.returncode == 4 and reason in done.stderr and not done.stdout


def test_rdig_reports_a_wrong_path(served: Served) -> None:
    words = words_for(served.https)
    done = rdig("n3.lab.example", *words, f"+tls-ca={served.authority.cafile}", "+https=/wrong")
    assert done.returncode == 4 and "over HTTPS: " in done.stderr


@pytest.mark.parametrize("good", [True, False])
def test_corenet_get_resolves_at_that_server_only(served: Served, tmp_path: Path, good: bool) -> None:
    (tmp_path / "page").write_text("found")
    port, url = free_port("127.0.0.1"), served.https.partition("#")[0]
    authority = served.authority if good else Authority(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port), "--directory", str(tmp_path)],
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            end = time.monotonic() + TIMEOUT
            while True:
                done = subprocess.run(
                    [sys.executable, "-m", "corenet.http.cli", "get", "--doh-url", url,
                     f"http://web.lab.example:{port}/page"],
                    capture_output=True, text=True, timeout=TIMEOUT, check=False,
                    env=daemon_environment() | {"SSL_CERT_FILE": str(authority.cafile)},
                )  # fmt: skip
                if done.returncode != 7 or time.monotonic() > end:  # 7: the web server does not listen yet
                    break
        finally:
            server.kill()
    if good:
        assert (done.returncode, done.stdout) == (0, "found"), done.stderr
    else:
        assert done.returncode == 6 and not done.stdout, done


def test_a_failure_goes_to_the_next_server_and_never_to_plain_dns(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """The first server has the wrong name; on port 53 of its address plain DNS is offered."""

    async def main() -> None:
        port = int(served.tls.partition("#")[0].rpartition(":")[2])
        wrong = f"tls://{HOST}:{port}#other.example"
        plain = await UdpPeer.start(address=HOST, port=53)
        stream = await StreamPeer.start(address=HOST, port=53)

        async def ask(*addresses: str) -> Answer:
            async with Resolver(settings_for(served, *addresses)) as resolver:
                answer = await resolver.resolve("n4.lab.example")
                counted = resolver.statistics().upstream
                assert counted["udp_sent"] == counted["tcp_sent"] == 0
                return answer

        assert list(await ask(wrong, served.tls)) == ["192.0.2.4"]
        failed = await ask(wrong)
        assert failed.rcode_text == "SERVFAIL"
        assert any("the certificate is not for this host name" in str(error) for error in failed.ede)
        assert any(f"port {port} over TLS" in str(error) for error in failed.ede)
        assert not stream.connections and not plain.queries
        plain.close()
        await stream.close()

    corenet.run(main())
    assert "upstream: " in caplog.text and "other.example" in caplog.text


