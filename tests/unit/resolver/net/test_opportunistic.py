"""Opportunistic encryption (RFC 9539) with scripted servers: it never delays a query and never makes one fail."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import waiting
from support.certs import Authority, Leaf
from support.upstream_peers import QNAME, Collector, StreamPeer, UdpPeer

import corenet
from resolver import limits
from resolver.effects import Ask, Budget, Failure, FailureKind, Reply, Server
from resolver.net.encryption_probing import Outcome, Status
from resolver.net.opportunistic import Opportunistic
from resolver.net.upstream import PROBING_COUNTERS, Upstream
from resolver.settings import IterationSettings
from resolver.wire import consts as c

ADDRESS = "127.0.0.1"
LOOPS = pytest.mark.parametrize("run", [corenet.run, asyncio.run], ids=["corenet", "asyncio"])
Script = Callable[[bytes], list[bytes]]


@pytest.fixture(scope="module")
def leaf(tmp_path_factory: pytest.TempPathFactory) -> Leaf:
    """A certificate that nobody trusts, for a name that nobody asks for."""
    return Authority(tmp_path_factory.mktemp("ca")).leaf("not-this-server.example")


def answer(query: bytes, rcode: int = c.NOERROR, flags: int = 0x84) -> bytes:
    return query[:2] + bytes([flags, rcode]) + query[4:]


def authoritative(query: bytes) -> list[bytes]:
    return [answer(query)]


class World:
    """A server with plain DNS and, perhaps, TLS, and the upstream that asks it."""

    def __init__(self, plain: UdpPeer, tls: StreamPeer | None, port: int) -> None:
        self.plain = plain
        self.tls = tls
        self.names: list[str | None] = []
        settings = IterationSettings(opportunistic_encryption="dot", opportunistic_port=port)
        self.upstream = Upstream(asyncio.get_running_loop(), settings)

    @classmethod
    async def start(cls, leaf: Leaf, script: Script | None = authoritative, plain: Script = authoritative) -> "World":
        """`script` is that over TLS; None: nobody listens there."""
        udp = await UdpPeer.start(plain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.certificate, leaf.key)
        names: list[str | None] = []
        context.sni_callback = lambda connection, name, context: names.append(name)
        peer = await StreamPeer.start(script or authoritative, tls=context)
        if script is None:
            await peer.close()
        made = cls(udp, peer if script is not None else None, peer.port)
        made.names = names
        return made

    @property
    def found(self) -> dict[str, int]:
        statistics = self.upstream.statistics()
        return {name: statistics[f"opportunistic_{name}"] for name in PROBING_COUNTERS}

    @property
    def probing(self) -> Opportunistic:
        assert self.upstream.opportunistic is not None
        return self.upstream.opportunistic

    @property
    def status(self) -> Status:
        return self.probing.table.status(ADDRESS, asyncio.get_running_loop().time())

    def ask(self, **options: Any) -> Ask:
        options.setdefault("timeout", 20.0)
        return Ask(Server(ADDRESS, self.plain.port), QNAME, c.A, **options)

    async def one(self, **options: Any) -> Reply | Failure:
        got = Collector()
        self.upstream.start(self.ask(**options), got)
        result: Reply | Failure = (await got.wait())[0]
        return result

    async def probed(self) -> None:
        """A first query, and the end of the probe that follows it."""
        reply = await self.one()
        assert isinstance(reply, Reply) and reply.connection is None
        await waiting.until(lambda: self.found["probes"] and not self.probing._probes, "the end of the probe")

    async def close(self) -> None:
        self.upstream.close()
        self.plain.close()
        if self.tls is not None:
            await self.tls.close()
        await asyncio.sleep(0)


@contextmanager
def changed(name: str, value: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, name, value)
        yield


@LOOPS
def test_queries_after_the_probe_go_over_tls(leaf: Leaf, run: Callable[..., None]) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.status is Status.SUCCESS and world.names == [None], "no name is sent"
        for _ in range(3):
            reply = await world.one()
            assert isinstance(reply, Reply) and reply.tcp and reply.connection is not None
            assert reply.server.encryption is None, "what is learned counts for the server that was asked"
            shown = reply.connection.describe()
            assert str(shown["version"]).startswith("TLS") and not shown["subject"]
        assert len(world.plain.queries) == 1 and world.tls is not None
        assert [len(queries) for queries in world.tls.connections] == [4]
        found = world.found
        assert (found["probes"], found["probes_succeeded"], found["queries"]) == (1, 1, 3)
        assert (found["fallbacks"], found["connections"], found["servers"]) == (0, 1, 1)
        await world.close()

    run(body())


@LOOPS
def test_a_server_without_tls_is_asked_in_plain_text_and_probed_once(leaf: Leaf, run: Callable[..., None]) -> None:
    async def body() -> None:
        world = await World.start(leaf, None)
        await world.probed()
        assert world.status is Status.FAIL
        for _ in range(3):
            assert isinstance(await world.one(), Reply)
        assert len(world.plain.queries) == 4
        assert (world.found["probes"], world.found["probes_failed"], world.found["queries"]) == (1, 1, 0)
        await world.close()

    run(body())


def test_a_probe_delays_nothing_and_ends_with_its_time(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf, lambda query: [])
        for _ in range(3):
            assert isinstance(await world.one(), Reply)
            assert world.probing._probes, "still in progress"
        assert len(world.plain.queries) == 3 and world.found["probes"] == 1
        await waiting.until(lambda: not world.probing._probes, "the end of the probe")
        assert world.status is Status.TIMEOUT and world.found["probes_timed_out"] == 1
        await world.close()

    with changed("OPPORTUNISTIC_TIMEOUT", 0.2):
        corenet.run(body())


def test_a_connection_is_not_used_before_its_probe_has_succeeded(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf, lambda query: [])
        assert isinstance(await world.one(), Reply) and world.tls is not None
        peer = world.tls
        await waiting.until(lambda: peer.connections and peer.connections[0], "the query of the probe")
        assert world.probing.tls.has_free_slot(world.probing._target(Server(ADDRESS, 53)))
        reply = await world.one()
        assert isinstance(reply, Reply) and reply.connection is None
        assert len(peer.connections[0]) == 1 and len(world.plain.queries) == 2
        await world.close()

    corenet.run(body())


@pytest.mark.parametrize(
    "other",
    [
        lambda query: [answer(query, c.REFUSED)],
        lambda query: [answer(query, flags=0x80)],
        lambda query: [answer(query, c.NXDOMAIN)],
        lambda query: [query[:2] + b"\x84"],
        lambda query: [b"no DNS message at all"] * 20,
    ],
    ids=["refused", "not authoritative", "NXDOMAIN", "short", "garbage"],
)
def test_another_server_behind_tls_is_not_used(leaf: Leaf, other: Script) -> None:
    async def body() -> None:
        world = await World.start(leaf, other)
        await world.probed()
        assert world.status is not Status.SUCCESS
        assert isinstance(await world.one(), Reply) and len(world.plain.queries) == 2
        await world.close()

    with changed("OPPORTUNISTIC_TIMEOUT", 0.2):
        corenet.run(body())


def test_a_server_that_does_not_answer_in_plain_text_is_not_probed(leaf: Leaf) -> None:
    async def body() -> None:
        for plain in (lambda query: [], lambda query: [answer(query, c.SERVFAIL)]):
            world = await World.start(leaf, plain=plain)
            await world.one(timeout=0.1)
            assert world.found["probes"] == 0 and world.tls is not None and world.tls.connections == []
            await world.close()

    corenet.run(body())


@pytest.mark.parametrize("rcode", [c.SERVFAIL, c.REFUSED, c.FORMERR])
def test_an_error_over_tls_is_asked_again_in_plain_text(leaf: Leaf, rcode: int) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.tls is not None
        world.tls.script = lambda query: [answer(query, rcode)]
        budget = Budget(100, 1e9)
        before = budget.packets
        reply = await world.one(budget=budget)
        assert isinstance(reply, Reply) and reply.view.rcode == c.NOERROR and reply.connection is None
        assert budget.packets == before - 1, "the second packet is charged"
        assert world.found["fallbacks"] == 1 and world.status is Status.FAIL
        await world.close()

    corenet.run(body())


def test_an_error_that_is_the_same_in_plain_text_says_nothing_about_tls(leaf: Leaf) -> None:
    """Anyone can delegate a zone to a server that refuses it."""

    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.tls is not None
        refuse: Script = lambda query: [answer(query, c.REFUSED)]  # noqa: E731
        world.tls.script = world.plain.script = refuse
        reply = await world.one()
        assert isinstance(reply, Reply) and reply.view.rcode == c.REFUSED and reply.connection is None
        world.tls.script = world.plain.script = authoritative
        assert world.status is Status.SUCCESS
        reply = await world.one()
        assert isinstance(reply, Reply) and reply.connection is not None
        assert [len(queries) for queries in world.tls.connections] == [3]
        await world.close()

    corenet.run(body())


def test_a_truncated_reply_over_tls_is_asked_again_in_plain_text(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.tls is not None
        world.tls.script = lambda query: [answer(query, flags=0x86)]
        reply = await world.one()
        assert isinstance(reply, Reply) and reply.connection is None and not reply.view.tc
        await world.close()

    corenet.run(body())


@LOOPS
def test_queries_on_a_connection_that_ends_go_in_plain_text(leaf: Leaf, run: Callable[..., None]) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.tls is not None
        held: list[bytes] = []
        world.tls.script = lambda query: held.append(query) or []  # type: ignore[func-returns-value]
        got = Collector()
        for _ in range(3):
            world.upstream.start(world.ask(), got)
        await waiting.until(lambda: len(held) == 3, "the queries over TLS")
        world.tls.writers[0].transport.abort()
        for result in await got.wait(3):
            assert isinstance(result, Reply) and result.connection is None
        assert len(world.plain.queries) == 4 and world.found["fallbacks"] == 3
        assert len(world.tls.connections) == 1, "not over another connection"
        assert world.status is Status.SUCCESS, "the end of a connection says nothing about the server"
        await world.close()

    run(body())


def test_a_server_that_becomes_silent_costs_one_timeout(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.tls is not None
        world.tls.script = lambda query: []
        assert isinstance(await world.one(timeout=0.1), Reply)
        assert isinstance(await world.one(), Reply), "the connection takes no further query"
        assert (world.found["queries"], world.found["fallbacks"], len(world.plain.queries)) == (1, 1, 3)
        await world.close()

    corenet.run(body())


def test_an_exhausted_budget_ends_the_query(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.tls is not None
        world.tls.script = lambda query: [answer(query, c.REFUSED)]
        budget = Budget(100, 1e9)
        while budget.take_packet():
            pass
        failure = await world.one(budget=budget)
        assert failure is budget.failure and len(world.plain.queries) == 1
        await world.close()

    corenet.run(body())


def test_a_cancelled_query_makes_no_callback(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.tls is not None
        held: list[bytes] = []
        world.tls.script = lambda query: held.append(query) or []  # type: ignore[func-returns-value]
        got = Collector()
        first, second = world.upstream.start(world.ask(), got), world.upstream.start(world.ask(timeout=0.1), got)
        first.cancel()
        await waiting.until(lambda: held, "the other query")
        world.plain.script = lambda query: []
        await waiting.until(lambda: len(world.plain.queries) == 2, "the fallback")
        second.cancel()
        second.cancel()
        await world.close()
        assert got.results == []

    corenet.run(body())


def test_queries_to_forwarders_and_without_the_setting_are_left_alone(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        assert isinstance(await world.one(rd=True), Reply)
        assert world.upstream.opportunistic is None and world.found == dict.fromkeys(PROBING_COUNTERS, 0)
        plain = Upstream(asyncio.get_running_loop(), IterationSettings())
        got = Collector()
        plain.start(world.ask(), got)
        assert isinstance((await got.wait())[0], Reply) and plain.opportunistic is None
        plain.close()
        await world.close()

    corenet.run(body())


def test_no_busy_connection_ends_for_a_probe_and_idle_ones_do(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        assert world.tls is not None
        reply = await world.one()
        assert isinstance(reply, Reply)
        tls = world.probing.tls
        tls._limit = 1
        other = Server("127.0.0.2", 853)
        target = world.probing._target(other)
        assert tls.can_connect(target), "the only connection is idle"
        assert not tls.can_connect(world.probing._target(Server(ADDRESS, 853))), "one to each server"
        held: list[bytes] = []
        world.tls.script = lambda query: held.append(query) or []  # type: ignore[func-returns-value]
        busy = world.upstream.start(world.ask(), Collector())
        assert not tls.can_connect(target)
        world.probing._probe(Ask(other, QNAME, c.A, timeout=20.0), reply)
        assert world.found["probes"] == 1
        busy.cancel()
        await world.close()

    corenet.run(body())


def test_probes_of_unknown_servers_leave_room(leaf: Leaf) -> None:
    """Anyone can delegate zones to servers that accept connections and never speak."""
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        reply = await world.one()
        assert isinstance(reply, Reply)
        probing, now = world.probing, asyncio.get_running_loop().time()
        known = Server("127.0.0.9", 853)
        probing.table.begin(known.address, now - limits.OPPORTUNISTIC_INTERVAL)
        probing.table.end(known.address, Outcome.SUCCEEDED, now)
        for number in range(2, 8):
            probing._probe(Ask(Server(f"127.0.0.{number}", 853), QNAME, c.A, timeout=20.0), reply)
        assert world.found["probes"] == 1 + 3
        probing._probe(Ask(known, QNAME, c.A, timeout=20.0), reply)
        assert world.found["probes"] == 1 + 4, "one that is known to have TLS is connected"
        await waiting.until(lambda: not probing._probes, "the end of the probes, which are refused")
        probing._probe(Ask(Server("127.0.0.7", 853), QNAME, c.A, timeout=20.0), reply)
        assert world.found["probes"] == 1 + 5
        await world.close()

    with changed("OPPORTUNISTIC_PROBES", 3):
        corenet.run(body())


def test_closing_ends_a_probe(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf, lambda query: [])
        assert isinstance(await world.one(), Reply)
        assert world.probing._probes
        await world.close()
        assert not world.probing._probes and world.probing.tls.connection_count == 0

    corenet.run(body())


def test_the_state_of_servers_outlives_the_upstream(leaf: Leaf) -> None:
    """Another configuration with the same port keeps it, also when it has probed before; with another it does
    not."""

    async def body() -> None:
        world = await World.start(leaf, None)
        await world.probed()
        assert world.status is Status.FAIL
        loop = asyncio.get_running_loop()
        port = world.upstream._probing
        for given, known in ((port, True), (port + 1, False), (0, False)):
            mode = "dot" if given else "off"
            settings = IterationSettings(opportunistic_encryption=mode, opportunistic_port=given or port)
            for early in (False, True) if given else (False,):
                after = Upstream(loop, settings)
                if early:
                    after._opportunistic()
                after.continue_probing(world.upstream)
                assert (after._probed is world.probing.table) is known
                if known:
                    assert not after._opportunistic().table.wants_probe(ADDRESS, loop.time())
                after.close()
        await world.close()

    corenet.run(body())


def test_the_next_upstream_may_repeat_the_probe_of_a_closed_one(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf, lambda query: [])
        await world.one()
        await waiting.until(lambda: world.found["probes"] == 1, "the probe")
        table = world.probing.table
        now = asyncio.get_running_loop().time()
        assert not table.wants_probe(ADDRESS, now)
        world.upstream.close()
        assert table.wants_probe(ADDRESS, now)
        await world.close()

    corenet.run(body())


def test_local_failures_do_not_change_the_state_of_a_server(leaf: Leaf) -> None:
    async def body() -> None:
        world = await World.start(leaf)
        await world.probed()
        now = asyncio.get_running_loop().time()
        world.probing.table.begin(ADDRESS, now)
        target = world.probing._target(Server(ADDRESS, 53))
        world.probing._probed(target, 0, True, Failure(FailureKind.LOCAL_RESOURCE, 0, "no descriptor"))
        assert world.status is Status.SUCCESS
        await world.close()

    corenet.run(body())


def test_the_setting_has_two_values() -> None:
    with pytest.raises(ValueError, match=r"iteration\.opportunistic_encryption: 'doq' is not one of off, dot"):
        IterationSettings(opportunistic_encryption="doq")
    assert IterationSettings().opportunistic_encryption == "off"
