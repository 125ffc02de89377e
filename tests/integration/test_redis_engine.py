"""The client of the second-level cache with a real Redis: TLS, Unix socket, users, databases, clusters, limits.

Servers that do not behave are scripted: they answer CLUSTER SLOTS with what a test gives them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import run_on
from support.ports import free_port
from support.redis_servers import Redis, cluster, redis_server
from support.waiting import until

from resolver import limits
from resolver.net import redis_cluster
from resolver.net.redis_engine import EngineError, RedisEngine
from resolver.settings.second_level import SecondLevelSettings

pytestmark = pytest.mark.integration


def use(engine: RedisEngine, body: Callable[[RedisEngine], Coroutine[Any, Any, None]]) -> None:
    """Run `body` on our loop, and close the engine."""

    async def main() -> None:
        try:
            await body(engine)
        finally:
            await engine.close()

    run_on("corenet", main())


async def store_and_read(engine: RedisEngine) -> None:
    assert await engine.put([(b"one", b"first", 100), (b"two", bytes(range(256)), 100)]) == []
    assert await engine.get([b"one", b"two", b"three"], 100) == [b"first", bytes(range(100)), b""]
    assert [await engine.next_number(b"n") for _ in range(2)] == [1, 2]


def test_unix_socket_and_database(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis_server(tmp_path, options=["--unixsocket", str(path)]) as redis:
        use(RedisEngine(SecondLevelSettings(servers=(f"unix:{path}",), database=3), ""), store_and_read)
        assert redis.cli("-n", "3", "get", "one") == "first"
        assert redis.cli("get", "one") == ""


def test_tls_with_a_trusted_certificate_only(tmp_path: Path) -> None:
    folders = [tmp_path / "ca", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    authority, other = map(Authority, folders)
    leaf = authority.leaf("127.0.0.1")
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(leaf.certificate), "--tls-key-file", str(leaf.key),
               "--tls-auth-clients", "no"]

    def settings(ca: Authority) -> SecondLevelSettings:
        return SecondLevelSettings(servers=(f"127.0.0.1:{port}",), tls=True, tls_ca_file=str(ca.cafile))

    async def refused(engine: RedisEngine) -> None:
        with pytest.raises(EngineError, match="certificate"):
            await engine.get([b"one"], 10)

    with redis_server(tmp_path, options=options):
        use(RedisEngine(settings(authority), ""), store_and_read)
        use(RedisEngine(settings(other), ""), refused)


def test_users_and_their_rights(tmp_path: Path) -> None:
    async def limited(engine: RedisEngine) -> None:
        assert await engine.put([(b"resolver:one", b"first", 100)]) == []
        assert await engine.get([b"resolver:one"], 10) == [b"first"]
        assert len(await engine.put([(b"foreign", b"first", 100)])) == 1
        (refused,) = await engine.get([b"foreign"], 10)
        assert isinstance(refused, EngineError)

    async def wrong(engine: RedisEngine) -> None:
        with pytest.raises(EngineError, match="invalid username-password pair"):
            await engine.get([b"one"], 10)

    with redis_server(tmp_path) as redis:
        redis.cli("acl", "setuser", "resolver", "on", ">word", "~resolver:*", "+getrange", "+set", "+incr")
        settings = SecondLevelSettings(servers=(redis.address,), username="resolver")
        use(RedisEngine(settings, "word"), limited)
        use(RedisEngine(settings, "other"), wrong)


def test_a_server_that_speaks_another_protocol_is_an_error() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        engine = RedisEngine(SecondLevelSettings(servers=(f"{host}:{port}",)), "")
        assert engine.problems() == []
        with pytest.raises(EngineError):
            await engine.get([b"one"], 10)
        [problem] = engine.problems()
        assert problem.startswith(f"second-level cache: a reply of {host} port {port} is refused: Protocol Error")
        await engine.close()
        server.close()
        await server.wait_closed()

    run_on("corenet", main())


STRINGS = [b"$1000000000\r\n", b"$-5\r\n"]
# Nodes of a cluster describe themselves with arrays, so only single servers are refused these at once.
ARRAYS = [b"*1000000000\r\n" + b":1\r\n" * 9, b"*1\r\n" * 100]
DEEP = b"*1\r\n" * 20_000


@pytest.mark.parametrize(
    ("head", "cluster"), [*((head, False) for head in STRINGS + ARRAYS), *((head, True) for head in [*STRINGS, DEEP])],
    ids=["long", "negative", "array", "nested", "cluster-long", "cluster-negative", "cluster-nested"],
)
def test_replies_that_no_command_has_end_before_they_are_read(head: bytes, cluster: bool) -> None:
    """The sender never ends its reply, so only an error for its beginning comes before the time-out."""
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while b"GETRANGE" not in (request := await reader.read(65536)):
                if not request:
                    break
                if b"CLUSTER" in request:
                    writer.write(head)
                else:
                    writer.write(b"+OK\r\n" * request.count(b"*"))
            writer.write(head)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        engine = RedisEngine(SecondLevelSettings(servers=(f"{host}:{port}",), cluster=cluster), "")
        with pytest.raises(EngineError) as caught:
            await engine.get([b"one"], 10)
        assert "Timeout" not in str(caught.value), "it waited for the rest"
        await engine.close()
        server.close()

    run_on("corenet", main())


def test_entries_of_full_size_are_read(tmp_path: Path) -> None:
    async def body(engine: RedisEngine) -> None:
        entries = [(b"%d" % number, bytes([number]) * limits.SECOND_LEVEL_ENTRY, 100) for number in range(50)]
        assert await engine.put(entries) == []
        keys = [key for key, _, _ in entries]
        assert await engine.get(keys, limits.SECOND_LEVEL_ENTRY + 1) == [value for _, value, _ in entries]

    with redis_server(tmp_path) as redis:
        use(RedisEngine(SecondLevelSettings(servers=(redis.address,)), ""), body)


def range_of(first: int, last: int, port: int, host: bytes = b"127.0.0.1") -> bytes:
    return b"*3\r\n:%d\r\n:%d\r\n*2\r\n$%d\r\n%b\r\n:%d\r\n" % (first, last, len(host), host, port)


class Scripted:
    """A node that answers CLUSTER SLOTS with `slots`, and GETRANGE with `values`, by default "hello"."""

    def __init__(self) -> None:
        self.slots = b""
        self.value = b"$5\r\nhello\r\n"
        self.port = 0
        self.serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        try:
            while request := await reader.read(65536):
                if b"SLOTS" in request:
                    writer.write(self.slots)
                elif count := request.count(b"GETRANGE"):
                    writer.write(self.value * count)
                else:
                    writer.write(b"+OK\r\n" * request.count(b"*"))
        except ConnectionError:
            pass  # the engine has left the rest unread
        finally:
            writer.close()
            self.serving.discard(asyncio.current_task())

    @property
    def own_slots(self) -> bytes:
        return b"*1\r\n" + range_of(0, 16383, self.port)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RedisEngine]:
        """The engine that has this node configured."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        engine = RedisEngine(SecondLevelSettings(servers=(f"127.0.0.1:{self.port}",), cluster=True), "")
        try:
            yield engine
        finally:
            await engine.close()
            server.close()
            await until(lambda: not self.serving, "the end of all connections")


@pytest.mark.parametrize(("slots", "reason"), [
    (b"*1\r\n" + range_of(0, 99_999_999, 9), "not within 0 and 16383"),
    (b"*1\r\n" + range_of(0, 999_999_999_999, 9), "not within 0 and 16383"),
    (b"*6000\r\n" + range_of(0, 16383, 9) * 6000, "overlap"),
    (b"*8000\r\n" + b"".join(range_of(n, n, 1 + n) for n in range(8000)), "more than 256 nodes"),
    (b"*1\r\n" + range_of(0, 16383, 9, b"localhost"), "not an IP address"),
    (b"*49000\r\n" + b":1\r\n" * 49000, "not two slots and a node"),
    (b"*1000000\r\n" + b":1\r\n" * 100_000, "longer"),
], ids=["range", "longer-range", "overlap", "nodes", "name", "elements", "too-many-elements"])
def test_no_description_of_a_cluster_holds_the_loop(slots: bytes, reason: str) -> None:
    async def main() -> None:
        node = Scripted()
        stalls: list[float] = []

        async def watch() -> None:
            while True:
                begun = time.monotonic()
                await asyncio.sleep(0)
                stalls.append(time.monotonic() - begun)

        async with node.running() as engine:
            node.slots = node.own_slots
            assert await engine.get([b"one"], 10) == [b"hello"], "all modules are loaded"
            await engine.close()
            node.slots = slots
            watching = asyncio.create_task(watch())
            await until(lambda: bool(stalls), "the first measurement")
            with pytest.raises(EngineError) as caught:
                await engine.get([b"one"], 10)
            measured = len(stalls)
            await until(lambda: len(stalls) > measured, "a measurement of the end")
            watching.cancel()
            # The loop of this test is also that of the node, and of what the machine does besides.
            assert max(stalls) < 0.5
            assert reason in str(caught.value)
            [problem] = engine.problems()
            assert reason in problem and str(node.port) in problem
            node.slots = node.own_slots
            assert await engine.get([b"one"], 10) == [b"hello"]
            assert engine.problems() == []

    run_on("corenet", main())


def test_the_configured_node_is_asked_again_after_a_wrong_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_cluster, "MAP_INTERVAL", 0.0)

    async def main() -> None:
        node = Scripted()
        async with node.running() as engine:
            node.slots = b"*1\r\n" + range_of(0, 16383, free_port())
            with pytest.raises(EngineError):
                await engine.get([b"one"], 10)
            node.slots = node.own_slots
            assert await engine.get([b"one"], 10) == [b"hello"]

    run_on("corenet", main())


@pytest.mark.parametrize("said", [b"-READONLY You can't write against a read only replica.\r\n", b"-LOADING no\r\n",
                                  b"-MOVED 9 127.0.0.1:1\r\n", b"-ASK 9 localhost:22\r\n", b"-MOVED nothing\r\n",
                                  b"-CLUSTERDOWN down\r\n", b"-NOAUTH no\r\n", b"$5\r\n", b"*-1\r\n", b":x\r\n",
                                  b"%1\r\n+proto\r\n:3\r\n"], ids=repr)
def test_nothing_that_a_node_says_once_lasts(said: bytes) -> None:
    async def main() -> None:
        node = Scripted()
        async with node.running() as engine:
            node.slots, honest = node.own_slots, node.value
            assert await engine.get([b"one"], 10) == [b"hello"]
            node.value = said
            try:
                (value,) = await engine.get([b"one"], 10)
            except EngineError as error:
                value = error
            assert isinstance(value, EngineError)
            node.value = honest
            assert await engine.get([b"one"], 10) == [b"hello"]

    run_on("corenet", main())


KEYS = [b"key-%d" % number for number in range(30)]
ENTRIES = [(key, b"value of " + key, 1000) for key in KEYS]
VALUES = [value for _, value, _ in ENTRIES]


async def store_and_read_all(engine: RedisEngine) -> None:
    assert await engine.put(ENTRIES) == []
    assert await engine.get(KEYS, 100) == VALUES


def test_a_cluster_whose_slot_moves_and_whose_nodes_are_all_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_cluster, "MAP_INTERVAL", 0.0)
    port = free_port()
    settings = SecondLevelSettings(servers=(f"127.0.0.1:{port}",), cluster=True, username="resolver")
    engine = RedisEngine(settings, "word")

    def permit(nodes: list[Redis]) -> None:
        for node in nodes:
            node.cli("acl", "setuser", "resolver", "on", ">word", "~*", "+getrange", "+set", "+incr", "+cluster|slots",
                     "+asking")

    async def body(engine: RedisEngine) -> None:
        with cluster(tmp_path / "first", [port]) as nodes:
            permit(nodes)
            await store_and_read_all(engine)
            await engine.next_number(b"{fleet}")
            slot = nodes[0].cli("cluster", "keyslot", "{fleet}")
            ids = [node.cli("cluster", "myid") for node in nodes[:3]]
            shown = nodes[0].cli("cluster", "nodes").splitlines()
            owner = next(at for at, name in enumerate(ids) if serves(shown, name, int(slot)))
            target = (owner + 1) % 3
            nodes[target].cli("cluster", "setslot", slot, "importing", ids[owner])
            nodes[owner].cli("cluster", "setslot", slot, "migrating", ids[target])
            nodes[owner].cli("migrate", "127.0.0.1", str(nodes[target].port), "{fleet}", "0", "5000")
            assert await engine.next_number(b"{fleet}") == 2, "ASK is followed"
            for node in (nodes[target], nodes[owner]):
                node.cli("cluster", "setslot", slot, "node", ids[target])
            assert await engine.next_number(b"{fleet}") == 3, "MOVED is followed"
        with pytest.raises(EngineError):
            await engine.get(KEYS, 100)
        with cluster(tmp_path / "second", [port]) as nodes:
            permit(nodes)
            await store_and_read_all(engine)

    use(engine, body)


def serves(shown: list[str], node: str, slot: int) -> bool:
    """Whether the lines of CLUSTER NODES say that `node` serves `slot`."""
    (words,) = (line.split() for line in shown if line.startswith(node))
    ends = [word.split("-") for word in words[8:]]
    return any(int(end[0]) <= slot <= int(end[-1]) for end in ends)
