"""``corenet get`` with HTTPS records and DANE: what is used is in the trace, and refusals are sentences."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_background import ThreadedServer
from support.http_peer import always_ok
from support.records import FixedRecords, https_record, tlsa_record

from corenet import tls
from corenet.http import cli, resolver_plugins
from corenet.loop import RecordLookupError, Records

HOST, ALT = "www.example", "alt.example"


class Entry:
    """The entry point of a package that registers `resolver`."""

    name = "fixed"

    def __init__(self, resolver: FixedRecords) -> None:
        self.resolver = resolver

    def load(self) -> Any:
        @asynccontextmanager
        async def factory(argument: str, trace: Any) -> AsyncIterator[FixedRecords]:
            yield self.resolver

        return factory


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> FixedRecords:
    made = FixedRecords(addresses={HOST: [["127.0.0.1"]], ALT: [["127.0.0.1"]]})
    monkeypatch.setattr(resolver_plugins, "entry_points", lambda group: [Entry(made)])
    return made


def corenet(capfdbinary: Any, *arguments: str) -> tuple[int, bytes, str]:
    code = cli.main(["get", *arguments])
    out, err = capfdbinary.readouterr()
    return code, out, err.decode()


def test_the_trace_shows_the_records(tmp_path: Path, capfdbinary: Any, resolver: FixedRecords) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf(HOST)
    with ThreadedServer(always_ok, tls.server_context(leaf.certificate, leaf.key)) as server:
        resolver.records[HOST, 65] = Records(HOST, False, (https_record(1, ALT, port=server.port),))
        options = (f"https://{HOST}/", "--resolver", "--https-records", "--dane", "--cacert", str(authority.cafile))
        code, out, err = corenet(capfdbinary, *options, "--trace")
        assert (code, out) == (0, b"ok"), err
        assert f"https.done records=1 {ALT} port={server.port} endpoints={ALT}:{server.port}" in err
        assert f"connect.attempt endpoint={ALT}:{server.port} address=127.0.0.1" in err
        assert "tlsa.done records=none secure=False found=0" in err
        for form in ("json", "html"):
            shown = tmp_path / form
            assert corenet(capfdbinary, *options, "--trace-format", form, "--trace-output", str(shown))[0] == 0
            assert f"{ALT}:{server.port}" in shown.read_text()
        steps = [point["step"] for point in json.loads((tmp_path / "json").read_text())["points"]]
        assert {"dns", "https", "tlsa", "connect", "tls"} <= set(steps)


def test_refused_servers_have_a_sentence_and_an_exit_code(
    tmp_path: Path, capfdbinary: Any, resolver: FixedRecords
) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf(HOST)
    with ThreadedServer(always_ok, tls.server_context(leaf.certificate, leaf.key)) as server:
        name = f"_{server.port}._tcp.{HOST}"
        options = (f"https://{HOST}:{server.port}/", "--resolver", "--dane", "--cacert", str(authority.cafile))
        resolver.records[name, 52] = Records(name, True, (tlsa_record(3, 1, 1, bytes(32)),))
        told = f"corenet: TLS with {HOST}: the server's certificates do not match the TLSA record of {name}\n"
        assert corenet(capfdbinary, *options) == (60, b"", told)
        resolver.records[name, 52] = RecordLookupError("DNSSEC Bogus", bogus=True)
        told = f"corenet: the TLSA records of {name} cannot be used: DNSSEC Bogus\n"
        assert corenet(capfdbinary, *options) == (6, b"", told)


@pytest.mark.parametrize("option", ["--https-records", "--dane"])
def test_the_options_need_a_resolver(option: str, capfdbinary: Any) -> None:
    code, _, err = corenet(capfdbinary, f"https://{HOST}/", option)
    assert code == 2 and "--https-records and --dane need --resolver" in err


def test_dane_is_not_used_when_verification_is_off(capfdbinary: Any, resolver: FixedRecords) -> None:
    code, _, err = corenet(capfdbinary, f"https://{HOST}/", "--resolver", "--dane", "--insecure")
    assert code == 2 and "with verify=True" in err
