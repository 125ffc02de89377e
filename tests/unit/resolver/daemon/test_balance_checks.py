"""Checks of targets: their rhythm and limits with prepared results, and the probes against servers on loopback."""

import asyncio
import errno
import logging
import os
import resource
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.fakenet import SeededRandom

from corenet.http import HttpClient, TimeoutExceeded, TlsError
from corenet.tls import server_context
from resolver import limits
from resolver.cli.control import balance_lines
from resolver.daemon import health
from resolver.daemon.balance_checks import BalanceChecks, check
from resolver.net import descriptors
from resolver.net.routes import RouteChecker
from resolver.policy import Balancer
from resolver.settings import BalanceSettings, PolicySettings, Settings, TargetSettings

A, B = "192.0.2.1", "192.0.2.2"


def settings(*addresses: str, name: str = "www.example.com", **more: Any) -> BalanceSettings:
    more.setdefault("check", "tcp")
    more.setdefault("check_port", 80)
    return BalanceSettings(name=name, target=tuple(map(TargetSettings, addresses)), **more)


class Checked:
    """Checks in steps: each step ends one pause of each target. `results` says why checks of an address fail."""

    def __init__(self, *given: BalanceSettings, probe: Any = None) -> None:
        self.balancer = Balancer(given, SeededRandom(1))
        self.results: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.pauses: list[float] = []
        self.now = 1000.0
        self.turn = asyncio.Event()
        self.checks = BalanceChecks(self.balancer, probe=probe or self.probe, sleep=self.sleep, rng=SeededRandom(2),
                                    clock=lambda: self.now)

    async def probe(self, one: BalanceSettings, address: str) -> str:
        self.asked[address] += 1
        return self.results.get(address, "")

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.turn.wait()

    async def step(self) -> None:
        await settled()
        turn, self.turn = self.turn, asyncio.Event()
        turn.set()
        await settled()

    @property
    def up(self) -> dict[str, bool]:
        return {target.address: target.health.up for _, target in self.balancer.targets()}


async def settled() -> None:
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(limited())


def test_states_follow_the_checks_and_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        made = Checked(settings(A, B, rise=2, fall=3))
        made.checks.start()
        made.checks.start()
        made.results[A] = "connection refused"
        seen = []
        for _ in range(4):
            await made.step()
            seen.append(made.up[A])
        assert seen == [True, True, False, False] and made.up[B]
        assert made.asked == {A: 4, B: 4}, "a second start begins nothing"
        del made.results[A]
        for _ in range(2):
            await made.step()
        assert made.up[A]
        first, rest = made.pauses[:2], made.pauses[2:]
        assert all(0 <= pause < 10 for pause in first), "the first ones are spread"
        assert all(9 <= pause <= 10 for pause in rest) and len(set(rest)) == len(rest)
        made.checks.close()
        await made.step()
        assert made.asked == {A: 6, B: 6}

    run(main)
    lines = [record.message for record in caplog.records if "balance" in record.message]
    assert lines == [f"balance www.example.com: {A} is down: connection refused", f"balance www.example.com: {A} is up"]


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_a_shortage_here_says_nothing_of_a_target(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def probe(_settings: BalanceSettings, _address: str) -> str:
            if short:
                raise error
            return ""

        short = False
        made = Checked(settings(A, B, rise=1, fall=1), probe=probe)
        made.checks.start()
        await made.step()
        short = True
        for _ in range(3):
            await made.step()
        assert made.up == {A: True, B: True}
        assert made.checks.problems() == [
            "balance: 2 of 2 targets cannot be checked because of this host, and keep their states, such as"
            f" www.example.com/{A}: {reason}"]
        assert made.checks.counters()["checks"] == {f"www.example.com/{A}": 1, f"www.example.com/{B}": 1}
        short = False
        await made.step()
        assert not made.checks.problems()
        made.checks.close()

    reason = "out of memory" if isinstance(error, MemoryError) else os.strerror(errno.EMFILE)
    run(main)
    lines = [record.getMessage() for record in caplog.records if "balance" in record.getMessage()]
    assert lines == [f"balance www.example.com: {A} could not be checked: {reason}"], "once, and no traceback"


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_check_without_descriptors_has_no_result(kind: str) -> None:
    async def main() -> None:
        made = Checked(settings("127.0.0.1", check=kind, check_port=1))
        [(one, target)] = made.balancer.targets()
        assert await made.checks.probe(one, target.address), "nothing listens; and all modules are loaded now"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            assert await made.checks._check(one, target) is not None, "the probe of the test has one"
            made.checks._probe = made.checks.probe
            assert await made.checks._check(one, target) is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(main)


HERE = (errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EACCES,
        errno.ENETDOWN, errno.EAFNOSUPPORT, errno.EINVAL)
THERE = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT)
EITHER = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN)


@pytest.mark.parametrize("kind", ["tcp", "http"])
@pytest.mark.parametrize(
    ("code", "routed", "fails"),
    [*((code, True, False) for code in HERE), *((code, False, True) for code in THERE),
     *((code, routed, routed) for code in EITHER for routed in (True, False))],
)
def test_an_error_of_this_host_says_nothing_of_a_target(
    kind: str, code: int, routed: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`routed`: whether this host has a route to the target."""
    async def main() -> None:
        async def refuse(*_: object, **__: object) -> None:
            raise OSError(code, "Connect call failed")

        made = Checked(settings(A, check=kind))
        made.checks._probe = made.checks.probe
        [(one, target)] = made.balancer.targets()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "sock_connect", refuse)
        monkeypatch.setattr(loop, "create_connection", refuse)
        monkeypatch.setattr(RouteChecker, "has_route", lambda self, address: routed)
        why = await made.checks._check(one, target)
        assert (why is not None) is fails
        assert os.strerror(code) in (why or "".join(made.checks.problems()))
        assert bool(made.checks.problems()) is not fails

    run(main)


@pytest.mark.parametrize("kind", ["http", "https"])
def test_a_target_that_does_not_answer_is_down(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout has no errno, and that of a refused certificate is one of OpenSSL."""
    async def main() -> None:
        async def fail(*_: object, **__: object) -> None:
            if kind == "http":
                raise TimeoutExceeded("no response in time", "response")
            raise TlsError("refused", certificate=True) from ssl.SSLCertVerificationError(1, "refused")

        monkeypatch.setattr(HttpClient, "get", fail)
        made = Checked(settings(A, check=kind))
        made.checks._probe = made.checks.probe
        [(one, target)] = made.balancer.targets()
        assert await made.checks._check(one, target)

    run(main)


def test_a_reload_goes_on_with_the_states() -> None:
    async def main() -> None:
        old = Checked(settings(A, fall=1))
        old.results[A] = "x"
        old.checks.start()
        await old.step()
        new = Checked(settings(A, B, fall=1))
        new.checks.start(old.checks)
        assert new.up == {A: False, B: True}
        await old.step()
        assert old.asked == {A: 1}, "the checks of the old configuration have ended"
        new.checks.close()

    run(main)


def test_nothing_is_checked_without_a_check() -> None:
    async def main() -> None:
        made = Checked(BalanceSettings(name="a", target=(TargetSettings(A),)))
        made.checks.start()
        await made.step()
        assert not made.pauses

    run(main)


def test_only_some_checks_run_at_the_same_time_and_lateness_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        running, most = 0, 0
        go = asyncio.Event()

        async def probe(one: BalanceSettings, address: str) -> str:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await go.wait()
            running -= 1
            return ""

        def names(count: int) -> list[BalanceSettings]:
            return [settings(*(f"192.0.2.{number}" for number in range(30)), name=f"n{number}.example")
                    for number in range(count)]

        monkeypatch.setattr(descriptors, "_usable", lambda given: 65_000)
        made = Checked(*names(8), probe=probe)
        made.checks.start()
        await made.step()
        assert running == most == 240, "none waits for another"
        made.checks.close()
        await settled()
        running = most = 0
        made = Checked(*names(9), probe=probe)
        made.checks.start()
        await made.step()
        assert running == most == limits.BALANCE_PROBES < 270
        assert not made.checks.problems()
        made.now += 12
        late = "balance: the checks of 14 of 270 targets begin late, because 256 others are in progress"
        assert made.checks.problems()[0].startswith(late)
        go.set()
        await settled()
        assert most == limits.BALANCE_PROBES and made.checks.problems()[0].startswith(late), "they did"
        await made.step()
        assert not made.checks.problems()
        made.checks.close()

    run(main)


def test_a_slow_check_and_a_fault_are_failures(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def never(one: BalanceSettings, address: str) -> str:
            await asyncio.Event().wait()
            return ""

        async def broken(one: BalanceSettings, address: str) -> str:
            raise KeyError("x")

        for probe, why in ((never, "no answer within 0.1 s"), (broken, "fault: KeyError")):
            made = Checked(settings(A, timeout=0.1, fall=1), probe=probe)
            (one, target), = made.balancer.targets()
            assert await made.checks._check(one, target) == why

    run(main)
    assert "fault in the check of 192.0.2.1" in caplog.text


def test_what_operators_see() -> None:
    async def main() -> None:
        made = Checked(settings(A, "2001:db8::1", fall=1), settings(B, name="b.example", fall=1))
        made.results = {A: "connection refused"}
        made.checks.start()
        await made.step()
        described = made.checks.describe()
        assert [(one["name"], one["address"], one["up"], one["error"]) for one in described] == [
            ("www.example.com", A, False, "connection refused"), ("www.example.com", "2001:db8::1", True, ""),
            ("b.example", B, True, "")]
        assert list(balance_lines(described)) == [
            "  balance: 2 of 3 targets are up", f"  balance www.example.com: {A} is down: connection refused"]
        assert list(balance_lines([])) == []
        problems = made.checks.problems()
        assert problems == [f"balance: all targets of www.example.com are down: {A} (connection refused)"]
        found = health.problems(workers=[], reload_problem="", clock="", certificates={}, anchors=None, now=0,
                                balance=problems)
        assert found == problems
        assert made.checks.statistics() == {"up": {f"www.example.com/{A}": 0, "www.example.com/2001:db8::1": 1,
                                                   f"b.example/{B}": 1}}
        counters = made.checks.counters()
        assert counters["checks"] == {f"www.example.com/{A}": 1, "www.example.com/2001:db8::1": 1, f"b.example/{B}": 1}
        assert counters["check_failures"][f"www.example.com/{A}"] == 1
        made.checks.close()

    run(main)


# --- probes -------------------------------------------------------------------------------------------------------


async def probe(one: BalanceSettings, address: str = "127.0.0.1") -> str:
    checks = BalanceChecks(Balancer((one,), SeededRandom(1)))
    return await checks.probe(one, address)


def test_a_probe_over_tcp() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert await probe(settings("127.0.0.1", check_port=port)) == ""
        server.close()
        await server.wait_closed()
        assert "refused" in (await probe(settings("127.0.0.1", check_port=port))).lower()

    run(main)


@pytest.mark.parametrize("kind", ["http", "https"])
def test_a_probe_over_http(kind: str, tmp_path: Path) -> None:
    """The server is reached by its address, and gets the balanced name in Host and, with https, in its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("www.example.com")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    with open(tmp_path / "cert.pem", "wb") as file:
        file.writelines(blob.bytes() for blob in certificate.cert_chain_pems)
    heads: list[bytes] = []
    status = "200 OK"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            head = f"HTTP/1.1 {status}\r\nLocation: /other\r\nContent-Length: {size}\r\n\r\n"
            writer.write(head.encode() + bytes(size))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    size = 2

    async def main() -> None:
        nonlocal status, size
        tls = None if kind == "http" else server_context(tmp_path / "cert.pem", tmp_path / "key.pem")
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        authorities = "" if kind == "http" else str(tmp_path / "ca.pem")
        one = settings("127.0.0.1", check=kind, check_port=port, check_path="/health?x", check_ca=authorities)
        assert await probe(one) == ""
        assert heads[0].startswith(b"GET /health?x HTTP/1.1\r\n")
        assert f"\r\nHost: www.example.com:{port}\r\n".encode() in heads[0]
        for text, why in (("302 Found", ""), ("404 Not Found", "status 404"), ("503 No", "status 503")):
            status = text
            assert await probe(one) == why
        status, size = "200 OK", limits.BALANCE_PROBE_OCTETS + 1
        assert await probe(one) != "", "a body without end is no healthy one"
        size = 2
        if kind == "https":
            other = settings("127.0.0.1", name="other.example", check=kind, check_port=port, check_ca=authorities)
            assert await probe(other) != "", "the certificate is for another name"
        server.close()
        assert await probe(settings("127.0.0.1", check=kind, check_port=port, check_ca=authorities)) != ""

    run(main)


def test_a_file_of_authorities_must_be_usable(tmp_path: Path) -> None:
    async def main() -> None:
        one = settings(A, check="https", check_ca=str(tmp_path / "missing.pem"))
        with pytest.raises(ValueError, match=r"balance: check-ca '.*missing.pem' cannot be used: No such file"):
            BalanceChecks(Balancer((one,), SeededRandom(1)))
        with pytest.raises(ValueError, match="check-ca"):
            check(Settings(balance=(one,)))

    run(main)
    check(Settings(balance=(settings(A, check="https"),)))


def test_a_file_of_countries_is_checked_before_the_start(tmp_path: Path) -> None:
    policy = PolicySettings(geo_database=str(tmp_path / "missing.mmdb"))
    with pytest.raises(ValueError, match=r"^policy\.geo_database: "):
        check(Settings(balance=(settings(A),), policy=policy))
