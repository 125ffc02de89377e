"""The client of the second-level cache with a real Redis: TLS, Unix socket, users, database, limits of reading."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import run_on
from support.ports import free_port
from support.redis_servers import redis_server

from resolver import limits
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
        redis.cli("acl", "setuser", "resolver", "on", ">word", "~resolver:*", "+getrange", "+set", "+incr", "+cluster",
                  "+ping", "+hello", "+client", "+command", "+select")
        settings = SecondLevelSettings(servers=(redis.address,), username="resolver")
        use(RedisEngine(settings, "word"), limited)
        use(RedisEngine(settings, "other"), wrong)


def test_a_server_that_speaks_another_protocol_is_an_error() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        engine = RedisEngine(SecondLevelSettings(servers=(f"{host}:{port}",)), "")
        with pytest.raises(EngineError):
            await engine.get([b"one"], 10)
        await engine.close()
        server.close()
        await server.wait_closed()

    run_on("corenet", main())


STRINGS = [b"$1000000000\r\n", b"$-5\r\n"]
# Nodes of a cluster describe themselves with arrays, so only single servers are refused these at once.
ARRAYS = [b"*1000000000\r\n" + b":1\r\n" * 9, b"*1\r\n" * 100]


@pytest.mark.parametrize(
    ("head", "cluster"), [*((head, False) for head in STRINGS + ARRAYS), *((head, True) for head in STRINGS)],
    ids=["long", "negative", "array", "nested", "cluster-long", "cluster-negative"],
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
