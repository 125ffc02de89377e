"""Opportunistic encryption (RFC 9539) against real authoritative servers: NSD and Unbound with a zone, over TLS.

The certificate is one that nobody trusts. The library resolves through a stub zone, so that the queries are those of
iteration. A query log of the server is not needed: the trace shows the transport of each query.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.certs import Authority, Leaf
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until

import corenet
from resolver.api import Resolver, Trace
from resolver.settings import DnssecSettings, IterationSettings, Settings, StubZone
from resolver.wire import consts as c

pytestmark = pytest.mark.integration

HOST = "127.31.7.1"
NAMES = 20
ZONE = "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\n" + "".join(
    f"n{n} A 192.0.2.{n}\n" for n in range(NAMES)
) + f"ns A {HOST}\n"


class Served(NamedTuple):
    """Ports of a running server."""

    plain: int
    tls: int


def nsd_config(folder: Path, leaf: Leaf, plain: int, tls: int) -> list[str]:
    (folder / "nsd.conf").write_text(
        f'server:\n  ip-address: {HOST}@{plain}\n  ip-address: {HOST}@{tls}\n  port: {plain}\n  tls-port: {tls}\n'
        f'  tls-service-key: "{leaf.key}"\n  tls-service-pem: "{leaf.certificate}"\n  username: ""\n  chroot: ""\n'
        f'  pidfile: ""\n  zonesdir: "{folder}"\n  database: ""\n  logfile: ""\n  zonelistfile: "{folder}/zone.list"\n'
        f'  xfrdfile: "{folder}/xfrd.state"\n  xfrdir: "{folder}"\n  server-count: 1\n'
        f'remote-control:\n  control-enable: no\nzone:\n  name: lab.example\n  zonefile: "lab.zone"\n'
    )
    return ["-d", "-c", str(folder / "nsd.conf")]


def unbound_config(folder: Path, leaf: Leaf, plain: int, tls: int) -> list[str]:
    (folder / "unbound.conf").write_text(
        f'server:\n  username: ""\n  chroot: ""\n  directory: "{folder}"\n  pidfile: ""\n  use-syslog: no\n'
        f"  interface: {HOST}@{plain}\n  interface: {HOST}@{tls}\n  access-control: 127.0.0.0/8 allow\n"
        f'  tls-port: {tls}\n  tls-service-pem: "{leaf.certificate}"\n  tls-service-key: "{leaf.key}"\n'
        '  module-config: "iterator"\n'
        f'auth-zone:\n  name: "lab.example"\n  zonefile: "{folder}/lab.zone"\n  for-upstream: no\n'
    )
    return ["-d", "-p", "-c", str(folder / "unbound.conf")]


CONFIGS = {"nsd": nsd_config, "unbound": unbound_config}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    leaf = Authority(folder).leaf("another-name.example")
    (folder / "lab.zone").write_text("$ORIGIN lab.example.\n" + ZONE)
    ports = Served(free_port(HOST), free_port(HOST))
    log = folder / "log"
    with run_process([program(request.param), *CONFIGS[request.param](folder, leaf, *ports)], log) as process:
        wait_until(lambda: ask(HOST, ports.plain, "n1.lab.example.", c.A, timeout=0.5), "an answer", process=process,
                   log=log)
        yield ports


def settings_for(served: Served, tls: int, encryption: str = "dot") -> Settings:
    return Settings(
        stub=(StubZone("lab.example", (f"{HOST}:{served.plain}",)),),
        dnssec=DnssecSettings(enabled=False),
        iteration=IterationSettings(
            do_not_query_localhost=False, opportunistic_encryption=encryption, opportunistic_port=tls
        ),
    )


async def encrypted(resolver: Resolver, number: int) -> tuple[bool, Trace]:
    """Resolve one name; whether its query went over TLS."""
    trace = await resolver.explain(f"n{number}.lab.example", "A")
    assert [str(rdata) for rdata in trace.answer] == [f"192.0.2.{number}"]
    replies = [step.facts["reply"] for step in trace.steps if step.facts and "reply" in step.facts]
    return replies[-1].connection is not None, trace


@pytest.mark.parametrize("run", [corenet.run, asyncio.run], ids=["corenet", "asyncio"])
def test_a_real_server_is_found_and_used(served: Served, run: object) -> None:
    async def main() -> None:
        async with Resolver(settings_for(served, served.tls)) as resolver:
            first, _ = await encrypted(resolver, 1)
            assert not first, "the first query waits for nothing"
            async with asyncio.timeout(30):
                while not resolver.statistics().upstream["opportunistic_probes_succeeded"]:
                    await asyncio.sleep(0)
            for number in range(2, 8):
                over_tls, trace = await encrypted(resolver, number)
                assert over_tls and "TLSv1.3" in trace.to_text() and "certificate not verified" in trace.to_text()
            found = resolver.statistics().upstream
            assert (found["opportunistic_probes"], found["opportunistic_fallbacks"]) == (1, 0)
            assert found["opportunistic_queries"] >= 6 and found["udp_sent"] >= 1

    run(main())  # type: ignore[operator]


def test_a_port_without_tls_changes_nothing(served: Served) -> None:
    async def main() -> None:
        async with Resolver(settings_for(served, free_port(HOST))) as resolver:
            for number in range(1, 8):
                assert not (await encrypted(resolver, number))[0]
            async with asyncio.timeout(30):
                while not resolver.statistics().upstream["opportunistic_probes_failed"]:
                    await asyncio.sleep(0)
            assert resolver.statistics().upstream["opportunistic_probes"] == 1
        async with Resolver(settings_for(served, served.tls, "off")) as resolver:
            assert not (await encrypted(resolver, 1))[0]
            assert resolver.statistics().upstream["opportunistic_probes"] == 0

    corenet.run(main())
