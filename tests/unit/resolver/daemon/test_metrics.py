"""Metrics: the text as Prometheus' parser reads it, and a server with bounded requests and connections."""

import asyncio
import contextlib
import platform
import re
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.http_peer import run_on
from support.service_parts import Parts

from resolver.daemon import metrics as metrics
from resolver.daemon.autotrust import AnchorUpdater
from resolver.daemon.balance_checks import BalanceChecks
from resolver.daemon.metrics import MetricsServer, render
from resolver.daemon.runtime_config import RuntimeConfig
from resolver.daemon.usage import usage
from resolver.daemon.web_server import WebServer
from resolver.daemon.worker_commands import of_runtime
from resolver.daemon.zone_keeper import ZoneKeeper
from resolver.effects import Question
from resolver.net.clock_random import Entropy
from resolver.net.hook_runner import Hook
from resolver.net.https_listener import HttpsListener
from resolver.net.quic_listener import QuicListener
from resolver.net.stream_listener import StreamListener, open_stream_socket
from resolver.net.tls_listener import TlsListener
from resolver.net.udp_listener import UdpListener
from resolver.net.zone_server import ZoneServer
from resolver.observe.catalogue import HISTOGRAMS, METRICS, find
from resolver.observe.collector import TapSender
from resolver.observe.output import Output
from resolver.observe.pieces import Pieces
from resolver.policy import Balancer
from resolver.settings import (
    BalanceSettings,
    DnssecSettings,
    DnstapSettings,
    SecondLevelSettings,
    Settings,
    SubnetSettings,
    TargetSettings,
    ZonesSettings,
)
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.zones import ZoneTable

STATISTICS = {
    "clients": {"queries": {"udp.A": 2, "tls.other": 1}, "replies": {"udp.NOERROR": 2}},
    "slow_path": {"queries": 5, "pending": 2},
    "fast_path": {"hits": 7, "malformed": {"name is longer than 255 bytes": 3}},
    "resolution": {"running": 1, "upstream_queries": 9},
    "policy": {"actions": {"question.rpz example.com.drop": 4}},
    "cache": {"entries_answer": 4, "entries_rrset": 6, "hits_answer": 7, "bytes_used": 100, "servers_addresses": 3},
    "trust_anchors": {"keys_valid": 2, "keys_addpend": 1, "last_success": 1700000000},
    "client_tcp": {"accepted": 3},
    "client_dot": {"accepted": 4, "handshake_failures": {"timeout": 1, "odd thing": 2, "odder thing": 3}},
    "usage": {"items": {"jobs": 1}, "items_limit": {"jobs": 20000}},
    "client_latency": {"hit": {"0.0001": 6, "+Inf": 1, "sum": 0.5}},
}


def read(page):
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


def samples(page):
    """Values by name and label values, which are in the order of the names of the labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for one in read(page).values() for sample in one.samples
    }


def test_prometheus_parses_the_page():
    page, kind = render(STATISTICS, "1.2.3")
    assert kind.startswith("text/plain")
    found, values = read(page), samples(page)
    histogram = {key: values.pop(key) for key in list(values) if key[0].startswith("resolver_client_latency_seconds")}
    assert values == {
        ("resolver_build_info", platform.python_version(), "1.2.3"): 1,
        ("resolver_client_queries_total", "udp", "A"): 2,
        ("resolver_client_queries_total", "tls", "other"): 1,
        ("resolver_client_replies_total", "NOERROR", "udp"): 2,
        ("resolver_slow_path_messages_total",): 5,
        ("resolver_pending_queries",): 2,
        ("resolver_fast_path_answers_total",): 7,
        ("resolver_fast_path_malformed_total", "name is longer than 255 bytes"): 3,
        ("resolver_resolution_running",): 1,
        ("resolver_upstream_queries_total",): 9,
        ("resolver_policy_actions_total", "drop", "rpz example.com", "question"): 4,
        ("resolver_cache_entries", "answer"): 4,
        ("resolver_cache_entries", "rrset"): 6,
        ("resolver_cache_hits_total", "answer"): 7,
        ("resolver_cache_used_bytes",): 100,
        ("resolver_infra_cache_entries",): 3,
        ("resolver_trust_anchor_keys", "valid"): 2,
        ("resolver_trust_anchor_keys", "addpend"): 1,
        ("resolver_trust_anchor_last_success_timestamp_seconds",): 1700000000,
        ("resolver_client_connections_accepted_total", "tcp"): 3,
        ("resolver_client_connections_accepted_total", "tls"): 4,
        ("resolver_client_handshake_failures_total", "timeout", "tls"): 1,
        ("resolver_client_handshake_failures_total", "other", "tls"): 5,
        ("resolver_usage", "jobs"): 1,
        ("resolver_usage_limit", "jobs"): 20000,
    }
    assert histogram["resolver_client_latency_seconds_bucket", "0.0001", "hit"] == 6
    assert histogram["resolver_client_latency_seconds_bucket", "10", "hit"] == 6
    assert histogram["resolver_client_latency_seconds_bucket", "+Inf", "hit"] == 7
    assert histogram["resolver_client_latency_seconds_sum", "hit"] == 0.5
    assert histogram["resolver_client_latency_seconds_count", "hit"] == 7
    assert found["resolver_pending_queries"].type == "gauge"
    assert found["resolver_slow_path_messages"].type == "counter"
    assert found["resolver_client_latency_seconds"].type == "histogram"
    assert all(family.documentation.endswith(".") for family in found.values())


def test_every_counter_of_a_worker_has_a_metric_and_every_metric_a_counter():
    parts = Parts()
    given = (parts.service, parts.fast, parts.plan.access, parts.settings.server)
    dnssec = DnssecSettings(auto_trust_anchor_file="unused")
    rollover = AnchorUpdater(dnssec, now=None, ask=None, verify=None, changed=None, concluded=None)
    own = Settings(zones=ZonesSettings(root="local"))
    keeper = ZoneKeeper(own, ZoneTable(), None, leads=True, now=int, changed=None, flush=None)
    balancer = Balancer((BalanceSettings(name="a", target=(TargetSettings("192.0.2.1"),)),), Entropy())
    balancer.answer(Question(names.from_text("a."), c.A), "192.0.2.2")
    checks = BalanceChecks(balancer)
    worker = {
        "zones": keeper.statistics() | ZoneServer(own, ZoneTable(), None, int, None, None).statistics(),
        "client_tcp": StreamListener(*given).statistics(), "client_dot": TlsListener(*given, None).statistics(),
        "client_doh": HttpsListener(*given, None, path="/").statistics(),
        "client_doq": QuicListener(*given, None).statistics(),
        "client_udp": UdpListener(parts.service, parts.fast).statistics(),
        "tls": {"certificate_expiry": {"a.pem": 1}, "staple_expiry": {"a.ocsp": 1}, "staples_missing": {"a.pem": 1}},
        "lists": {"entries": {"ads": 1}, "fetched": {"ads": 2}, "failing": {"ads": 0}},
        "balance": checks.statistics() | checks.counters(),
        "web": WebServer(None, None).statistics(),
        "process": {"workers": 1, "starts": 1, "start_failures": 0, "suppressed": 0},
        "rate_limit": parts.fast.rates.statistics(),
        "hooks": {**{key: {"mod.client": 1} for key in Hook("mod.client", "client", print).statistics()}, "running": 0},
        "query_log": Output(Pieces(4 << 20)).statistics(),
        "dnstap": TapSender(DnstapSettings(socket="unused"), Pieces(4 << 20)).statistics(),
        "cache": parts.store.statistics(), "trust_anchors": rollover.statistics(),
    }

    async def main():
        shared = SecondLevelSettings(servers=("unix:/nonexistent",))
        subnet = SubnetSettings(zones=("example.com",))
        settings = Settings(second_level_cache=shared, client_subnet=subnet)
        runtime = RuntimeConfig(settings, parts.store, asyncio.get_running_loop())
        worker.update(of_runtime(runtime))
        worker["usage"] = usage(runtime, [], {}, shared=True)
        runtime.resolver.close()

    run_on("corenet", main())
    assert read(render(worker, "1")[0])
    assert worker.keys() == METRICS.keys() | HISTOGRAMS.keys()
    for group, metrics_of_group in METRICS.items():
        found = {find(group, counter)[0].name for counter in worker[group]}
        assert found == {metric.name for metric in metrics_of_group.values()}, group


def test_names_are_those_of_one_meaning():
    """A name has one help text and one set of labels, whatever counters it is made of."""
    seen = {}
    for group in (*METRICS.values(), HISTOGRAMS):
        for metric in group.values():
            meaning = (metric.help, metric.labels, bool(metric.transport))
            assert seen.setdefault(metric.name, meaning) == meaning, metric.name
            assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)


@pytest.fixture(params=["corenet", "asyncio"])
def served(request):
    """Run a test with a way to send bytes and read all that comes back."""

    def runner(test, gather=None):
        async def good():
            return STATISTICS

        async def main():
            listening = open_stream_socket("127.0.0.1", 0)
            address = listening.getsockname()
            server = MetricsServer(gather or good, "1.2.3")
            await server.start(listening)

            @contextlib.asynccontextmanager
            async def connect():
                reader, writer = await asyncio.open_connection(*address)
                try:
                    yield reader, writer
                finally:
                    writer.close()

            async def send(data):
                async with connect() as (reader, writer):
                    writer.write(data)
                    return await reader.read()

            try:
                await test(send, connect)
            finally:
                server.close()

        run_on(request.param, main())

    return runner


def test_a_page_over_http(served):
    async def test(send, connect):
        reply = await send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert read(body)["resolver_resolution_running"].samples[0].value == 1
        assert (await send(b"HEAD /metrics HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")

    served(test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics?x=y HTTP/1.0\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * metrics.REQUEST * 2 + b"\r\n\r\n", b"431"),
    ],
)
def test_other_requests_are_refused(served, request_, status):
    async def test(send, connect):
        reply = await send(request_)
        # A connection that is closed with something unread may be reset before the reply is seen.
        assert reply.split(b" ")[1:2] in ([status], *([[]] if status == b"431" else []))

    served(test)


def test_an_incomplete_request_times_out(served, monkeypatch):
    monkeypatch.setattr(metrics, "TIMEOUT", 0.02)

    async def test(send, connect):
        assert await send(b"GET /metrics HT") == b""

    served(test)


def test_more_connections_than_permitted(served, monkeypatch):
    monkeypatch.setattr(metrics, "CONNECTIONS", 0)

    async def test(send, connect):
        with contextlib.suppress(ConnectionResetError):
            assert await send(b"GET /metrics HTTP/1.1\r\n\r\n") == b""

    served(test)


def test_a_worker_that_does_not_answer_is_an_error_page(served):
    async def silent():
        raise ValueError("worker 1 does not answer")

    async def test(send, connect):
        reply = await send(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 503") and reply.endswith(b"worker 1 does not answer\n")

    served(test, silent)


def test_without_the_library_the_error_names_the_setting(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    async def nothing():
        return {}

    with pytest.raises(ValueError, match="prometheus-client"):
        MetricsServer(nothing, "1")
