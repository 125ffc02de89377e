"""Cached answers over TLS and HTTPS against Unbound and Knot Resolver: on kept connections, and one a connection."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from encrypted_clients import DnsOverHttp1, DnsOverHttp2, DnsOverTls, connections, idle_connections, kept
from encrypted_servers import (
    MANY,
    Encrypted,
    certificate,
    encrypted_knot,
    encrypted_resolverd,
    encrypted_unbound,
    missing,
)

MISSING = missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "nothing is missing")


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, Encrypted]]:
    """All resolvers, by name."""
    with ExitStack() as stack:
        given = stack.enter_context(certificate())
        ours = stack.enter_context(encrypted_resolverd(*given))
        yield {
            "ours": ours,
            "unbound": stack.enter_context(encrypted_unbound(ours.udp, *given)),
            "knot": stack.enter_context(encrypted_knot(ours.udp, *given)),
        }


@pytest.mark.short
def test_dot_kept(pair, served: dict[str, Encrypted]) -> None:
    with kept("ours", served["ours"], DnsOverTls) as ours, kept("unbound", served["unbound"], DnsOverTls) as base:
        pair("dot_kept/unbound", ours, base)


def test_dot_kept_knot(pair, served: dict[str, Encrypted]) -> None:
    with kept("ours", served["ours"], DnsOverTls) as ours, kept("knot", served["knot"], DnsOverTls) as base:
        pair("dot_kept/knot", ours, base)


@pytest.mark.parametrize("kind", ["full", "resumed"])
def test_dot_connection(pair, served: dict[str, Encrypted], kind: str) -> None:
    resumed = kind == "resumed"
    with (
        connections("ours", served["ours"], resumed=resumed) as ours,
        connections("unbound", served["unbound"], resumed=resumed) as base,
    ):
        pair(f"dot_{kind}/unbound", ours, base)


def test_dot_resumed_against_full(pair, served: dict[str, Encrypted]) -> None:
    with (
        connections("resumed", served["ours"], resumed=True) as ours,
        connections("full", served["ours"], resumed=False) as base,
    ):
        pair("dot_resumed/full", ours, base)


def test_doh2_kept(pair, served: dict[str, Encrypted]) -> None:
    with kept("ours", served["ours"], DnsOverHttp2) as ours, kept("unbound", served["unbound"], DnsOverHttp2) as base:
        pair("doh2_kept/unbound", ours, base)


def test_doh1_kept(pair, served: dict[str, Encrypted]) -> None:
    with kept("ours", served["ours"], DnsOverHttp1) as ours, kept("unbound", served["unbound"], DnsOverHttp2) as base:
        pair("doh1_kept/unbound", ours, base)


def test_idle_connections(bounded, served: dict[str, Encrypted]) -> None:
    """All must be accepted: the limit of open files has to be some 18,500 or more (docs/encrypted-dns.md)."""
    with idle_connections(served["ours"], MANY):
        bounded("dot_idle/memory", resident(served["ours"].pid))


def resident(pid: int) -> float:
    """Mebibytes of another process that lie in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
