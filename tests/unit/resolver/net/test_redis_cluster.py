"""The client of a Redis cluster with nodes in memory: what it believes of CLUSTER SLOTS, and where it sends commands.

An address is (host, port). Nodes are those of `World`; the test scripts what each of them says.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import ip_address
from typing import Any

import pytest
from redis._parsers.encoders import Encoder
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError
from support.waiting import turns

from resolver import limits
from resolver.net import redis_cluster
from resolver.net.redis_cluster import Address, Cluster, SlotMap, read_slots
from resolver.net.redis_node import Command, EngineError
from resolver.net.redis_parser import ClusterParser, EngineParser

A, B, C = ("192.0.2.1", 7001), ("192.0.2.2", 7002), ("192.0.2.3", 7003)
LAST = 16383
KEY = b"key"
SLOT = key_slot(KEY)


def entry(first: object, last: object, address: Address, *replicas: object) -> list[object]:
    return [first, last, [address[0].encode(), address[1], b"id", []], *replicas]


def read(*entries: object, asked: Address = A, configured: Sequence[Address] = (A,)) -> SlotMap:
    return read_slots(list(entries), asked, configured)


# --- what is believed ---------------------------------------------------------------------------------------------


def test_each_slot_has_its_node() -> None:
    slots = read(entry(100, 200, B), entry(0, 0, A), entry(201, LAST, C))
    expected = {0: A, 1: None, 99: None, 100: B, 200: B, 201: C, LAST: C}
    assert {slot: slots.node(slot) for slot in expected} == expected
    assert slots.nodes == {A, B, C}


def test_a_node_that_does_not_know_its_address_is_the_one_that_was_asked() -> None:
    for host in (b"", None):
        assert read([0, LAST, [host, 7002]], asked=A).node(0) == (A[0], 7002)


def test_replicas_are_not_looked_at() -> None:
    assert read(entry(0, LAST, A, b"?", [b"name.invalid", -1], None)).nodes == {A}


GOOD = entry(0, 99, A)


@pytest.mark.parametrize("reply", [
    None, b"OK", 5, [], [5], [[]], [[0, 1]], [[0, 1, b"x"]], [[0, 1, [b"192.0.2.1"]]],
    [GOOD, entry(0, 99_999_999, B)], [GOOD, entry(100, 16384, B)], [GOOD, entry(-1, 5, B)], [GOOD, entry(200, 100, B)],
    [GOOD, entry(b"100", 200, B)], [GOOD, entry(100, b"200", B)], [GOOD, entry(100, None, B)],
    [GOOD, entry(99, 100, B)], [GOOD, GOOD], [entry(50, 50, B), GOOD], [GOOD, entry(0, 99, B)],
    [[0, 1, [b"192.0.2.1", 0]]], [[0, 1, [b"192.0.2.1", 65536]]], [[0, 1, [b"192.0.2.1", b"7001"]]],
    [[0, 1, [5, 7001]]], [[0, 1, [[], 7001]]],
], ids=repr)
def test_what_is_no_map_is_refused(reply: object) -> None:
    with pytest.raises(ValueError, match=r"^CLUSTER SLOTS "):
        read_slots(reply, A, [A])


def test_the_number_of_nodes_is_bounded() -> None:
    most = limits.SECOND_LEVEL_CLUSTER_NODES
    entries = [entry(number, number, (f"10.0.{number >> 8}.{number & 255}", 1)) for number in range(most + 1)]
    assert len(read(*entries[:most]).nodes) == most
    with pytest.raises(ValueError, match=f"more than {most} nodes"):
        read(*entries)


@pytest.mark.parametrize("host", ["localhost", "redis.example", "192.0.2.1 ", "192.0.2.1%eth0", "fe80::1%eth0", "é",
                                  "1" * 1000, "0x7f.1"])
def test_names_are_not_resolved(host: str) -> None:
    with pytest.raises(ValueError, match="not an IP address") as caught:
        read(entry(0, LAST, (host, 7001)))
    assert len(str(caught.value)) < 300


NEAR = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1",
        "ff02::1", "255.255.255.255"]


@pytest.mark.parametrize("host", NEAR)
def test_no_node_directs_us_to_this_host_or_its_link(host: str) -> None:
    with pytest.raises(ValueError, match="that of no configured node is"):
        read(entry(0, LAST, (host, 22)))


def test_ipv4_addresses_in_the_form_of_ipv6_are_what_they_contain() -> None:
    (host, _) = next(iter(read(entry(0, LAST, ("::ffff:192.0.2.5", 7001))).nodes))
    assert ip_address(host) == ip_address("::ffff:192.0.2.5")
    with pytest.raises(ValueError, match="is loopback"):
        read(entry(0, LAST, ("::ffff:127.0.0.1", 7001)))


@pytest.mark.parametrize("host", ["127.0.0.2", "169.254.1.2", "fe80::2"])
def test_except_where_a_configured_node_is_there(host: str) -> None:
    near = host[:-1] + "1"
    assert read(entry(0, LAST, (host, 7001)), asked=(near, 7000), configured=[(near, 7000)]).nodes == {(host, 7001)}


class Connected:
    """What a parser wants of its connection: a stream with `data`."""

    def __init__(self, data: bytes) -> None:
        self._reader = asyncio.StreamReader()
        self._reader.feed_data(data)
        self.encoder = Encoder("utf-8", "strict", False)


def test_other_tasks_run_while_a_long_reply_is_read() -> None:
    async def body() -> None:
        count = 10_000
        parser = ClusterParser(65536)
        parser.on_connect(Connected(b"*%d\r\n" % count + b":1\r\n" * count))
        reading = asyncio.create_task(parser.read_response())
        turned = 0
        while not reading.done():
            await asyncio.sleep(0)
            turned += 1
        assert reading.result() == [1] * count
        assert turned >= count // 256

    run(body)


# --- where commands go --------------------------------------------------------------------------------------------


class World:
    """All nodes. `says` has what each address answers to CLUSTER SLOTS (an exception is raised; missing: refused),
    `answers` what it answers to other commands, else its own port; `asked` is where CLUSTER SLOTS went, in order."""

    def __init__(self) -> None:
        self.says: dict[Address, object] = {}
        self.answers: dict[Address, Callable[[Command], object]] = {}
        self.asked: list[Address] = []
        self.sent: list[tuple[Address, Command]] = []
        self.closed: list[Address] = []
        self.hanging: set[Address] = set()

    def connect(self, address: Address, parser: type[EngineParser]) -> Any:
        return Peer(self, address, parser)


class Peer:
    def __init__(self, world: World, address: Address, parser: type[EngineParser]) -> None:
        self.world, self.address, self.parser = world, address, parser
        self.refused = ""

    async def run(self, commands: Sequence[Command]) -> list[object]:
        world = self.world
        await asyncio.sleep(0)
        if ("CLUSTER", "SLOTS") in commands:
            assert self.parser is ClusterParser
            world.asked.append(self.address)
        else:
            assert self.parser is EngineParser, "only the description of a cluster may be long"
            world.sent += [(self.address, command) for command in commands]
        if self.address in world.hanging:
            await asyncio.Event().wait()
        if self.address not in world.says:
            raise EngineError("Connection refused")
        if ("CLUSTER", "SLOTS") in commands:
            return [world.says[self.address]]
        answer = world.answers.get(self.address, lambda command: b"%d" % self.address[1])
        return [answer(command) for command in commands]

    def note(self, refused: str) -> None:
        self.refused = refused

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.world.closed.append(self.address)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(redis_cluster, "MAP_INTERVAL", 0.0)
    monkeypatch.setattr(redis_cluster, "NODE_TIME", 0.01)
    return World()


def whole(address: Address) -> list[object]:
    return [entry(0, LAST, address)]


async def ask(cluster: Cluster) -> object:
    (result,) = await cluster.run([("GETRANGE", KEY, 0, 9)])
    return result


def test_commands_go_to_the_nodes_of_their_keys_and_results_keep_their_order(world: World) -> None:
    async def body() -> None:
        keys = [b"%d" % number for number in range(20)]
        world.says = {A: [entry(0, 8000, A), entry(8001, LAST, B)]}
        world.says[B] = []
        found = await Cluster([A], world.connect).run([("GETRANGE", key, 0, 9) for key in keys])
        assert found == [b"7001" if key_slot(key) <= 8000 else b"7002" for key in keys]
        assert len(set(found)) == 2

    run(body)


def test_the_configured_nodes_are_asked_again_after_a_wrong_map(world: World) -> None:
    async def body() -> None:
        cluster = Cluster([A], world.connect)
        world.says = {A: whole(B)}
        assert isinstance(await ask(cluster), EngineError)
        world.says = {A: whole(A)}
        assert await ask(cluster) == b"7001"

    run(body)


def test_a_wrong_map_whose_nodes_answer_has_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        cluster = Cluster([A], world.connect)
        world.says = {A: whole(B), B: whole(B)}
        assert await ask(cluster) == b"7002"
        world.says[A] = whole(A)
        assert await ask(cluster) == b"7002"
        assert world.asked == [A]
        monkeypatch.setattr(redis_cluster, "MAP_LIFE", 0.0)
        assert await ask(cluster) == b"7001"
        await turns()
        assert B in world.closed and B not in {node.address for node in cluster.nodes()}, "it is not used any more"

    run(body)


def test_known_nodes_are_asked_when_no_configured_one_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        cluster = Cluster([A], world.connect)
        world.says = {A: [entry(0, SLOT, A), entry(SLOT + 1, LAST, B)]}
        assert await ask(cluster) == b"7001"
        world.says = {B: whole(B)}
        assert isinstance(await ask(cluster), EngineError)
        assert await ask(cluster) == b"7002"
        world.says = {A: whole(A), B: whole(B)}
        world.asked.clear()
        monkeypatch.setattr(redis_cluster, "MAP_LIFE", 0.0)
        assert await ask(cluster) == b"7001"
        assert world.asked == [A], "configured nodes come first"

    run(body)


def test_a_node_that_does_not_answer_leaves_time_for_others(world: World) -> None:
    async def body() -> None:
        world.says = {B: whole(B)}
        world.hanging = {A}
        for _ in range(5):
            assert await ask(Cluster([A, B], world.connect)) == b"7002"

    run(body)


def test_a_node_that_does_not_answer_costs_the_others_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        monkeypatch.setattr(redis_cluster, "COMMAND_TIME", 0.01)
        world.says = {A: [entry(SLOT, SLOT, B), entry(SLOT + 1, LAST, A), entry(0, SLOT - 1, A)]}
        world.hanging = {B}
        failed, found = await Cluster([A], world.connect).run([("INCR", KEY), ("INCR", b"other")])
        assert isinstance(failed, EngineError) and "192.0.2.2:7002: TimeoutError" in str(failed)
        assert found == b"7001"

    run(body)


def test_a_map_that_cannot_be_read_again_stays_in_use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        cluster = Cluster([A], world.connect)
        world.says = {A: whole(B), B: [entry(0, 99_999_999, B)]}
        monkeypatch.setattr(redis_cluster, "MAP_LIFE", 0.0)
        assert await ask(cluster) == b"7002"
        world.says[A] = [entry(0, 99_999_999, A)]
        assert await ask(cluster) == b"7002"
        [refused] = [node.refused for node in cluster.nodes() if node.refused]
        assert "not within 0 and 16383" in refused

    run(body)


def test_without_any_map_the_reason_is_told(world: World) -> None:
    async def body() -> None:
        cluster = Cluster([A], world.connect)
        with pytest.raises(EngineError, match=r"192\.0\.2\.1:7001: Connection refused"):
            await ask(cluster)
        world.says = {A: ValueError("ERR This instance has cluster support disabled")}
        with pytest.raises(EngineError, match="cluster support disabled"):
            await ask(cluster)

    run(body)


def test_a_slot_that_no_node_serves_is_an_error_of_its_keys_only(world: World) -> None:
    async def body() -> None:
        cluster = Cluster([A], world.connect)
        world.says = {A: [entry(SLOT, SLOT, A)]}
        found = await cluster.run([("INCR", KEY), ("INCR", b"other")])
        assert found[0] == b"7001"
        assert isinstance(found[1], EngineError) and "no node of the cluster serves slot" in str(found[1])
        await ask(cluster)
        assert world.asked == [A, A], "perhaps one serves it now"

    run(body)


def test_one_redirection_is_followed_to_a_node_of_the_map_only(world: World) -> None:
    async def body() -> None:
        cluster = Cluster([A], world.connect)
        world.says = {one: [entry(0, LAST - 1, A), entry(LAST, LAST, B)] for one in (A, B)}
        world.answers[A] = lambda command: AskError(f"{SLOT} {B[0]}:{B[1]}")
        assert await ask(cluster) == b"7002"
        assert [command[0] for address, command in world.sent if address == B] == ["ASKING", "GETRANGE"]
        world.sent.clear()
        world.answers[A] = lambda command: MovedError(f"{SLOT} {B[0]}:{B[1]}")
        assert await ask(cluster) == b"7002"
        assert [command[0] for address, command in world.sent if address == B] == ["GETRANGE"]
        world.sent.clear()
        world.answers[B] = lambda command: MovedError(f"{SLOT} {A[0]}:{A[1]}")
        assert isinstance(await ask(cluster), EngineError), "an endless redirection ends"
        assert len(world.sent) == 2
        world.answers[A] = lambda command: MovedError(f"{SLOT} localhost:22")
        assert isinstance(await ask(cluster), EngineError)
        assert {address for address, _ in world.sent} <= {A, B}

    run(body)


def test_redirections_do_not_cause_a_reading_for_each_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        monkeypatch.setattr(redis_cluster, "MAP_INTERVAL", 100.0)
        cluster = Cluster([A], world.connect)
        world.says = {A: whole(A)}
        world.answers[A] = lambda command: MovedError(f"{SLOT} {C[0]}:{C[1]}")
        for _ in range(5):
            await ask(cluster)
        assert world.asked == [A]

    run(body)


def test_commands_do_not_wait_while_another_reads_the_map_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        monkeypatch.setattr(redis_cluster, "NODE_TIME", 100.0)
        cluster = Cluster([A], world.connect)
        world.says = {A: whole(B), B: whole(B)}
        assert await ask(cluster) == b"7002"
        monkeypatch.setattr(redis_cluster, "MAP_LIFE", 0.0)
        world.hanging = {A}
        reading = asyncio.create_task(ask(cluster))
        while len(world.asked) < 2:
            await asyncio.sleep(0)
        assert await ask(cluster) == b"7002"
        assert not reading.done()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await cluster.close()

    run(body)
