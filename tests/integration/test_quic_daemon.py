"""DNS over QUIC of the daemon as a process: with kdig, whose QUIC is ngtcp2, with rdig, and over a reload."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.certs import Authority
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

import corenet
from resolver.api import Resolver
from resolver.settings import DnssecSettings, IterationSettings, Settings
from resolver.wire import consts as c

pytestmark = pytest.mark.integration

NAME = "dns.example"
TIMEOUT = 30


class Served(NamedTuple):
    """A running daemon."""

    process: "subprocess.Popen[bytes]"
    log: Path
    port: int
    authority: Authority


@pytest.fixture(params=[1, 2], ids=["worker", "workers"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    authority = Authority(tmp_path)
    leaf, other = authority.leaf(NAME, "127.0.0.1"), authority.leaf("*.other.example", file="other")
    plain, port = free_port(), free_port()
    config, log = tmp_path / "resolverd.toml", tmp_path / "log"
    config.write_text(
        f'[server]\nlisten = ["127.0.0.1:{plain}"]\nworkers = {request.param}\n'
        f'[tls]\ncertificate = ["{leaf.certificate}", "{other.certificate}"]\nkey = ["{leaf.key}", "{other.key}"]\n'
        f'[[listener]]\naddress = "127.0.0.1:{port}"\nprotocol = "quic"\n'
        f'[[listener]]\naddress = "127.0.0.1:{port}"\nprotocol = "tls"\n'
        '[policy]\nlocal-zones = ["lab.example. static"]\nlocal-data = ["www.lab.example. 60 A 192.0.2.1"]\n'
    )
    with run_process([*RESOLVERD, "--config", str(config)], log, env=daemon_environment()) as process:
        wait_until(
            lambda: ask("127.0.0.1", plain, "localhost.", c.A, timeout=0.5) is not None, "an answer",
            process=process, log=log,
        )
        yield Served(process, log, port, authority)


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=TIMEOUT, check=False,
        env=daemon_environment(),
    )


def rdig(served: Served, *words: object) -> "subprocess.CompletedProcess[str]":
    return run(sys.executable, "-m", "resolver.cli.dig", "@127.0.0.1", "-p", served.port, "+quic", *words)


def test_kdig(served: Served) -> None:
    for extra in (), ("+padding=128",), (f"+tls-ca={served.authority.cafile}", f"+tls-hostname={NAME}", "+quic"):
        done = run(program("kdig"), "@127.0.0.1", "-p", served.port, "+quic", "+retry=0", *extra, "www.lab.example")
        assert "QUIC session (QUICv1)" in done.stdout and "192.0.2.1" in done.stdout, done.stdout + done.stderr
        assert "Received 468 B" in done.stdout  # padded


def test_rdig(served: Served) -> None:
    trust = f"+tls-ca={served.authority.cafile}"
    done = rdig(served, trust, "www.lab.example")
    assert done.returncode == 0 and "192.0.2.1" in done.stdout, done.stdout + done.stderr
    assert "over quic" in done.stdout and "ALPN doq" in done.stdout and f"certificate of {NAME}" in done.stdout
    pin = done.stdout.partition("key sha256//")[2].split()[0]
    assert rdig(served, f"+tls-pin={pin}", "+short", "www.lab.example").stdout == "192.0.2.1\n"
    assert rdig(served, trust, f"+tls-hostname={NAME}", "+short", "www.lab.example").stdout == "192.0.2.1\n"
    assert rdig(served, "+tls-insecure", "+short", "www.lab.example").stdout == "192.0.2.1\n"


@pytest.mark.parametrize("name", [NAME, "dns.other.example"])
def test_each_name_has_its_certificate(served: Served, name: str) -> None:
    """kdig, whose ClientHello fits into one datagram, and rdig, whose name may be in the second one."""
    trust = (f"+tls-ca={served.authority.cafile}", f"+tls-hostname={name}")
    done = run(program("kdig"), "@127.0.0.1", "-p", served.port, "+retry=0", *trust, "+quic", "www.lab.example")
    assert "192.0.2.1" in done.stdout, done.stdout + done.stderr
    for _ in range(4):
        assert rdig(served, *trust, "+short", "www.lab.example").stdout == "192.0.2.1\n"


def test_rdig_refuses_what_it_cannot_verify(served: Served) -> None:
    trust = f"+tls-ca={served.authority.cafile}"
    for words, reason in (
        ((), "certificate"),
        ((trust, "+tls-hostname=other.example"), "other.example"),
        ((f"+tls-pin={'A' * 43}=",), "none of the pinned ones"),
    ):
        done = rdig(served, *words, "+timeout=10", "www.lab.example")
        assert done.returncode == 4 and reason in done.stderr, done.stdout + done.stderr
        assert "192.0.2.1" not in done.stdout
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(TIMEOUT) == 0
    assert "Traceback" not in served.log.read_text()


def test_a_reload_reads_the_certificate_again(served: Served, tmp_path: Path) -> None:
    trust = f"+tls-ca={served.authority.cafile}"
    served.authority.leaf("new.example", "127.0.0.1")
    served.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: "new configuration is in force" in served.log.read_text(), "the reload",
        process=served.process, log=served.log,
    )
    done = rdig(served, trust, "+tls-hostname=new.example", "+short", "www.lab.example")
    assert done.stdout == "192.0.2.1\n", done.stderr
    (tmp_path / "leaf.key").write_text("no key")
    served.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: str(tmp_path / "leaf.key") in served.log.read_text(), "the refusal",
        process=served.process, log=served.log,
    )
    assert rdig(served, trust, "+tls-hostname=new.example", "+short", "www.lab.example").stdout == "192.0.2.1\n"


def test_the_library_asks_it(served: Served) -> None:
    """Resolver, driver and mesh in front of it, with checked certificates; and nothing when they do not fit."""

    async def ask_by(name: str) -> tuple[int, str]:
        settings = Settings(
            iteration=IterationSettings(tls_cert_bundle=str(served.authority.cafile), do_not_query_localhost=False),
            dnssec=DnssecSettings(enabled=False),
        )
        async with Resolver(settings, forward=[f"quic://127.0.0.1:{served.port}#{name}"]) as resolver:
            answer = await resolver.explain("www.lab.example.", c.A)
            return len(answer.answer.outcome.answer), str(resolver.upstream.statistics()["quic_handshakes"])

    assert corenet.run(ask_by(NAME)) == (1, "1")
    assert corenet.run(ask_by("other.example")) == (0, "0")


def test_rdig_explains_it(served: Served) -> None:
    done = rdig(served, f"+tls-ca={served.authority.cafile}", f"+tls-hostname={NAME}", "+explain", "www.lab.example")
    assert "ALPN doq" in done.stdout and "192.0.2.1" in done.stdout, done.stdout + done.stderr
