"""The metrics of a running resolverd as a real Prometheus sees them, with the dashboard and the alerts of docs/deploy.

promtool reads the page and the rules. Prometheus scrapes the daemon; then each expression of the dashboard and of the
alerts is evaluated by it, and must have a result. A worker is killed, and no counter goes back.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

pytestmark = [pytest.mark.integration, pytest.mark.checkout]

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"
TIMEOUT = 60
SCRAPE = 1


class Watched:
    """A resolverd with several workers and everything that has metrics, in front of the simulated Internet."""

    def __init__(self, path: Path, *, playground: bool) -> None:
        self.path, self.playground = path, playground
        self.port, self.tls, self.metrics = free_port(), free_port(), free_port()
        leaf = Authority(path).leaf("localhost")
        (path / "ads").write_text("ads.example\n")
        (path / "home.zone").write_text(
            "$ORIGIN home.example.\n@ 300 SOA a. b. 1 2 3 4 5\n@ 300 NS a.\nw 300 A 192.0.2.1\n"
        )
        (path / "log").write_text("")
        self.config = path / "resolverd.toml"
        self.config.write_text(f"""
[server]
listen = ["127.0.0.1:{self.port}"]
workers = {1 if playground else 2}
[cache]
size = "4 MiB"
[metrics]
listen = "127.0.0.1:{self.metrics}"
[control]
socket = "{path / 'control'}"
[tls]
certificate = "{leaf.certificate}"
key = "{leaf.key}"
[[listener]]
address = "127.0.0.1:{self.tls}"
protocol = "tls"
[[list]]
name = "ads"
file = "{path / 'ads'}"
format = "domains"
action = "refuse"
[[zone]]
name = "home.example."
file = "{path / 'home.zone'}"
""")

    @contextlib.contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        command = [*RESOLVERD, "--config", str(self.config), *(["--playground"] if self.playground else [])]
        log = self.path / "log"
        with run_process(command, log, env=daemon_environment()) as process:
            wait_until(lambda: self.ask("localhost.") is not None, "an answer", process=process, log=log)
            yield process

    def ask(self, name: str, rtype: int = c.A) -> MessageView | None:
        return ask("127.0.0.1", self.port, name, rtype)

    def ask_over_tcp(self, name: str) -> None:
        query = make_query(7, names.from_text(name), c.A)
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            connection.sendall(struct.pack("!H", len(query)) + query)
            assert connection.recv(2)

    def page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=TIMEOUT) as reply:
            text: str = reply.read().decode()
        return text

    def values(self) -> dict[str, float]:
        lines = self.page().splitlines()
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def exercise(self) -> None:
        """One query of each kind."""
        for name in ("www.example.playground.", "nothing.example.playground.", "ads.example.", "w.home.example."):
            for _ in range(2):
                self.ask(name)
        self.ask("www.example.playground.", c.AAAA)
        self.ask("www.example.playground.", 65280)
        self.ask_over_tcp("www.example.playground.")


class Prometheus:
    """A running Prometheus."""

    def __init__(self, path: Path, target: int) -> None:
        self.path, self.port = path, free_port()
        text = (DEPLOY / "prometheus.yml").read_text()
        assert text.count("15s") == 2 and text.count("127.0.0.1:9335") == 1
        text = text.replace("15s", f"{SCRAPE}s").replace("127.0.0.1:9335", f"127.0.0.1:{target}")
        (path / "prometheus.yml").write_text(text)
        shutil.copy(DEPLOY / "prometheus-alerts.yml", path)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        command = [program("prometheus"), f"--config.file={self.path / 'prometheus.yml'}",
                   f"--storage.tsdb.path={self.path / 'data'}", f"--web.listen-address=127.0.0.1:{self.port}"]
        log = self.path / "prometheus.log"
        with run_process(command, log) as process:
            wait_until(self.is_ready, "Prometheus", process=process, log=log)
            yield

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.get("/api/v1/query", query="vector(1)"))
        return False

    def get(self, path: str, **arguments: str) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            found = json.load(reply)
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[Any]:
        result: list[Any] = self.get("/api/v1/query", query=expression)["result"]
        return result

    def scrapes(self) -> float:
        found = self.query('count_over_time(up{job="resolverd"}[1h])')
        return float(found[0]["value"][1]) if found else 0.0


def run_tool(*words: str, given: str = "") -> str:
    done = subprocess.run([program("promtool"), *words], input=given, capture_output=True, text=True, timeout=TIMEOUT,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def expressions_of_the_dashboard() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def as_grafana(expression: str, instance: str) -> str:
    """What Grafana sends for an expression, with its variables replaced."""
    for variable, value in (("$job", "resolverd"), ("$instance", instance), ("$__rate_interval", f"{4 * SCRAPE}s")):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def alerts() -> dict[str, str]:
    text = run_tool("check", "rules", str(DEPLOY / "prometheus-alerts.yml"))
    assert "SUCCESS" in text
    rules = (DEPLOY / "prometheus-alerts.yml").read_text()
    found = {}
    for part in rules.split("- alert: ")[1:]:
        lines = part.split("expr: ", 1)[1]
        expression = re.split(r"\n        (?:for|labels):", lines)[0].removeprefix(">-")
        found[part.split("\n", 1)[0]] = " ".join(expression.split())
    return found


def value_of(expression: str) -> str:
    """The value that an alert compares: the expression up to its last comparison."""
    return re.sub(r" [<>] -?[0-9.]+$", "", expression)


NOT_IN_A_PLAYGROUND = {"ResolverTrustAnchorsNotConfirmed"}
"""Alerts about what a daemon in the playground does not have; `alert_tests.yml` has them nevertheless."""


def test_each_expression_has_a_result_in_a_real_prometheus(tmp_path: Path) -> None:
    watched = Watched(tmp_path, playground=True)
    prometheus = Prometheus(tmp_path, watched.metrics)
    with watched.running(), prometheus.running():
        def scraped_twice_after(work: Callable[[], object]) -> bool:
            begun = prometheus.scrapes()
            wait_until(lambda: prometheus.scrapes() >= begun + 2, "scrapes")
            work()
            wait_until(lambda: prometheus.scrapes() >= begun + 4, "scrapes")
            return True

        assert scraped_twice_after(watched.exercise)
        assert prometheus.query('up{job="resolverd"}')[0]["value"][1] == "1"
        instance = f"127.0.0.1:{watched.metrics}"
        empty = [one for one in expressions_of_the_dashboard() if not prometheus.query(as_grafana(one, instance))]
        assert empty == []
        silent = {name for name, one in alerts().items() if not prometheus.query(value_of(one))}
        assert silent == NOT_IN_A_PLAYGROUND
        rules = prometheus.get("/api/v1/rules")["groups"][0]["rules"]
        assert {rule["name"] for rule in rules} == alerts().keys() and all(rule["health"] == "ok" for rule in rules)
        problems = run_tool("check", "metrics", given=watched.page())
        assert problems == "", problems
        # What was asked is what Prometheus has.
        for expression, least in (
            ('resolver_client_queries_total{transport="udp",type="A"}', 8),
            ('resolver_client_queries_total{transport="tcp",type="A"}', 1),
            ('resolver_client_queries_total{transport="udp",type="other"}', 1),
            ('resolver_client_replies_total{transport="udp",rcode="NXDOMAIN"}', 2),
            ('resolver_client_replies_total{transport="udp",rcode="REFUSED"}', 2),
            ('resolver_client_latency_seconds_count{result="hit"}', 3),
            ('resolver_client_latency_seconds_count{result="miss"}', 3),
            ('resolver_client_latency_seconds_count{result="local"}', 2),
            ('resolver_upstream_latency_seconds_count{transport="udp"}', 3),
            ('resolver_usage_limit{resource="jobs"}', 20_000),
            ('resolver_list_entries{list="ads"}', 1),
            ('resolver_zone_serial{zone="home.example."}', 1),
            ("sum(resolver_policy_actions_total)", 1),
        ):
            found = prometheus.query(expression)
            assert found and float(found[0]["value"][1]) >= least, (expression, found)


def test_every_query_and_reply_is_counted_once(tmp_path: Path) -> None:
    """Queries by type, replies by rcode and answers by result agree with each other."""
    watched = Watched(tmp_path, playground=True)
    with watched.running():
        for _ in range(3):
            watched.exercise()
        found = watched.values()

    def total(name: str) -> float:
        return sum(value for key, value in found.items() if key.partition("{")[0] == name)

    queries, replies = total("resolver_client_queries_total"), total("resolver_client_replies_total")
    assert queries == replies > 30
    assert total("resolver_client_latency_seconds_count") == replies
    assert found["resolver_fast_path_answers_total"] + found["resolver_slow_path_replies_total"] == replies


def test_no_counter_goes_back_when_workers_die_or_reload(tmp_path: Path) -> None:
    watched = Watched(tmp_path, playground=False)
    with watched.running() as process:
        def counters() -> dict[str, float]:
            """All that must not go back, and the number of workers that have reported."""
            found = watched.values()
            return {"workers": found["resolver_workers"]} | {
                key: value for key, value in found.items()
                if key.partition("{")[0].endswith(("_total", "_count", "_bucket", "_sum"))
            }

        def workers() -> list[int]:
            listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True,
                                    check=True, timeout=TIMEOUT).stdout
            return [int(pid) for pid in listed.split()]

        def compare(before: dict[str, float]) -> dict[str, float]:
            now = counters()
            back = {key: (value, now.get(key)) for key, value in before.items()
                    if key != "workers" and now.get(key, -1.0) < value}
            assert back == {}
            return now

        def answers(before: dict[str, float]) -> bool:
            """Whether both workers report. The pages until then lack one worker, and go back no more than others."""
            with contextlib.suppress(OSError):
                return compare(before)["workers"] == 2 and len(workers()) == 2
            return False

        for _ in range(20):
            watched.ask("localhost.")
            watched.ask("w.home.example.")
        last = counters()
        assert last['resolver_client_queries_total{transport="udp",type="A"}'] >= 40
        for turn, pid in enumerate(sorted(workers()), 1):
            os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda pid=pid, last=last: answers(last) and pid not in workers(), "a new worker"  # type: ignore[misc]
            )
            last = compare(last)
            assert last["resolver_worker_starts_total"] == 2 + turn
            watched.ask("w.home.example.")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the new configuration is in force" in (tmp_path / "log").read_text(), "a reload")
        for _ in range(20):  # while the old configuration is closed
            last = compare(last)
        for _ in range(5):
            watched.ask("w.home.example.")
        assert compare(last)['resolver_client_queries_total{transport="udp",type="A"}'] >= 46


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """promtool's own test of rules, with made-up series, for each alert."""
    shutil.copy(DEPLOY / "prometheus-alerts.yml", tmp_path)
    cases = {
        "ResolverDown": ['up{job="resolverd",instance="i"} 0x90'],
        "ResolverWorkerMissing": ['resolver_workers{instance="i"} 4x40 3x50'],
        "ResolverWorkerRestarts": ['resolver_worker_starts_total{instance="i"} 4x40 9x50'],
        "ResolverManyFailures": ['resolver_client_replies_total{instance="i",rcode="SERVFAIL"} 0+10x90',
                                 'resolver_client_replies_total{instance="i",rcode="NOERROR"} 0+90x90'],
        "ResolverSlow": ['resolver_client_latency_seconds_bucket{instance="i",result="miss",le="1"} 0+1x90',
                         'resolver_client_latency_seconds_bucket{instance="i",result="miss",le="+Inf"} 0+9x90',
                         'resolver_client_latency_seconds_bucket{instance="i",result="miss",le="5"} 0+9x90'],
        "ResolverUpstreamTimeouts": ['resolver_upstream_timeouts_total{instance="i",transport="udp"} 0+5x90',
                                     'resolver_upstream_messages_sent_total{instance="i",transport="udp"} 0+10x90'],
        "ResolverNearLimit": ['resolver_usage{instance="i",resource="jobs"} 95x90',
                              'resolver_usage_limit{instance="i",resource="jobs"} 100x90'],
        "ResolverMemoryNearLimit": ['resolver_usage_bytes{instance="i",resource="jobs"} 95x90',
                                    'resolver_usage_limit_bytes{instance="i",resource="jobs"} 100x90'],
        "ResolverOverloaded": ['resolver_slow_path_overloaded_total{instance="i"} 0+600x90',
                               'resolver_resolution_refused_total{instance="i"} 0x90',
                               'resolver_resolution_memory_evicted_total{instance="i"} 0x90'],
        "ResolverSpoofingSuspected": ['resolver_upstream_udp_spoofing_suspected_total{instance="i"} 0+1x90'],
        "ResolverInternalErrors": ['resolver_internal_errors_total{instance="i"} 0+1x90'],
        "ResolverOutOfMemory": ['resolver_out_of_memory_total{instance="i"} 0+1x90'],
        "ResolverStaleAnswers": ['resolver_stale_answers_total{instance="i"} 0+600x90'],
        "ResolverCertificateExpires": ['resolver_tls_certificate_expiry_timestamp_seconds{instance="i"} 1x90'],
        "ResolverListFailing": ['resolver_list_failing{instance="i",list="ads"} 1x1000'],
        "ResolverZoneFailing": ['resolver_zone_failed{instance="i",zone="a."} 1x90',
                                'resolver_zone_expired{instance="i",zone="a."} 0x90'],
        "ResolverTrustAnchorsNotConfirmed": [
            'resolver_trust_anchor_last_success_timestamp_seconds{instance="i"} -9000000x90'],
    }
    assert cases.keys() == alerts().keys()
    tests = []
    for name, lines in cases.items():
        series = [{"series": line.rpartition("} ")[0] + "}" if "4x40" not in line else line.split("} ", 1)[0] + "}",
                   "values": line.split("} ", 1)[1]} for line in lines]
        at = "900m" if name == "ResolverListFailing" else "80m" if name != "ResolverWorkerMissing" else "60m"
        # promtool compares labels too, so the number of firing alerts is asked for instead.
        tests.append({
            "interval": "1m", "input_series": series,
            "promql_expr_test": [{
                "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})', "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}],
            }],
        })
    (tmp_path / "tests.yml").write_text(json.dumps({
        "rule_files": ["prometheus-alerts.yml"], "evaluation_interval": "1m", "tests": tests}))
    run_tool("test", "rules", str(tmp_path / "tests.yml"))
