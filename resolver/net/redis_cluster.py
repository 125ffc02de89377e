"""The client of a Redis cluster: reads which node serves which slots, and sends each command to the node of its key.

It is not that of the package redis, which interprets what nodes say without limits: it iterates over ranges of slots
and of key positions of any length without letting other tasks run, adds a node for each redirection, and resolves
names. It also forgets the configured nodes for those that it was told of.

States: without a map of the slots; with one; with one that is due, because it is older than `MAP_LIFE`, or because a
node failed or redirected a command. The next commands read a map when there is none. When it is due, they do so unless
the last attempt was within `MAP_INTERVAL`, or others are reading one. A map that cannot be read anew stays in use.

Invariants: a map is checked whole before it is used. Connections go to the configured nodes and those of a checked map
only; a redirection to another node is an error. Each reading asks a configured node first, so a wrong map is replaced
at the first reading after `MAP_LIFE` in which that node answers.
"""

import asyncio
import random
from bisect import bisect_right
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise, zip_longest
from typing import Any, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError

from resolver import limits
from resolver.net.redis_node import TIMEOUT, Command, EngineError, Node, as_error
from resolver.net.redis_parser import ClusterParser, EngineParser

__all__ = ["Cluster", "SlotMap", "read_slots"]

SLOTS = REDIS_CLUSTER_HASH_SLOTS
MAP_LIFE = limits.SECOND_LEVEL_MAP_LIFE
MAP_INTERVAL = limits.SECOND_LEVEL_MAP_INTERVAL / 1000
# Seconds for CLUSTER SLOTS at one node, after which no further node is asked, and for one round of commands at a node.
# TIMEOUT ends all of it. A node that does not answer leaves time for others, and its commands fail before those of
# other nodes are given up.
NODE_TIME = TIMEOUT / 4
READ_TIME = TIMEOUT / 2
COMMAND_TIME = TIMEOUT / 2
LONGEST_ADDRESS = 45
"""characters of an IPv6 address as text"""

Address: TypeAlias = tuple[str, int]


class SlotMap:
    """Which node serves each slot. `ranges` are first slot, last slot and node; they do not overlap."""

    def __init__(self, ranges: Iterable[tuple[int, int, Address]]) -> None:
        self._ranges = sorted(ranges)
        self._firsts = [first for first, _, _ in self._ranges]
        self.nodes = frozenset(node for _, _, node in self._ranges)

    def node(self, slot: int) -> Address | None:
        """The node of `slot`; None when no node serves it."""
        at = bisect_right(self._firsts, slot) - 1
        if at < 0 or self._ranges[at][1] < slot:
            return None
        return self._ranges[at][2]


def read_slots(reply: object, asked: Address, configured: Collection[Address]) -> SlotMap:
    """The map in `reply`, which the node `asked` gave to CLUSTER SLOTS. Replicas are not used, and not looked at.

    Raises:
        ValueError: it is malformed, has too many nodes, or names a node that may not be used; the text says why.
    """
    if not isinstance(reply, list):
        raise ValueError("CLUSTER SLOTS is not an array")
    ranges: list[tuple[int, int, Address]] = []
    nodes: dict[tuple[object, object], Address] = {}
    for entry in reply:
        if not (isinstance(entry, list) and len(entry) >= 3 and isinstance(entry[2], list) and len(entry[2]) >= 2):
            raise ValueError("CLUSTER SLOTS has an entry that is not two slots and a node")
        first, last = entry[:2]
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < SLOTS):
            raise ValueError(f"CLUSTER SLOTS has a range that is not within 0 and {SLOTS - 1}")
        host, port = entry[2][:2]
        if not (isinstance(port, int) and 0 < port < 65536 and isinstance(host, bytes | None)):
            raise ValueError("CLUSTER SLOTS has a node without address and port")
        if (host, port) not in nodes:
            if len(nodes) >= limits.SECOND_LEVEL_CLUSTER_NODES:
                raise ValueError(f"CLUSTER SLOTS has more than {limits.SECOND_LEVEL_CLUSTER_NODES} nodes")
            # A node that does not know its own address gives none.
            nodes[host, port] = (_usable(host, configured) if host else asked[0]), port
        ranges.append((first, last, nodes[host, port]))
    if not ranges:
        raise ValueError("CLUSTER SLOTS is empty: the node serves no cluster")
    ranges.sort()
    if any(one[1] >= other[0] for one, other in pairwise(ranges)):
        raise ValueError("CLUSTER SLOTS has ranges that overlap")
    return SlotMap(ranges)


def _usable(host: bytes, configured: Collection[Address]) -> str:
    """The address in `host`, if a node of the cluster may direct us there.

    Names are refused, because this resolver, which may need the cluster for them, would be asked. So are addresses of
    this host and of its link, unless a configured node has such an address: other services there trust who connects.

    Raises:
        ValueError: it may not.
    """
    text = host[: LONGEST_ADDRESS + 1].decode("ascii", "replace")
    try:
        if len(text) > LONGEST_ADDRESS or "%" in text:
            raise ValueError
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"CLUSTER SLOTS has the node {text!r}, which is not an IP address; set the cluster's"
                         " cluster-preferred-endpoint-type to ip") from None
    if (kind := _kind(address)) and kind not in {_kind(ip_address(one.partition("%")[0])) for one, _ in configured}:
        raise ValueError(f"CLUSTER SLOTS has the node {text}, whose address is {kind}; that of no configured node is")
    return str(address)


def _kind(address: IPv4Address | IPv6Address) -> str:
    """Loopback, link-local, multicast or reserved; "" for other addresses."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    kinds = {"loopback": address.is_loopback, "link-local": address.is_link_local, "multicast": address.is_multicast,
             "reserved": address.is_unspecified or address.is_reserved}
    return next((kind for kind, found in kinds.items() if found), "")


class Cluster:
    """The client. `connect` makes a `Node` for an address, which reads replies with the given parser."""

    def __init__(
        self, configured: Sequence[Address], connect: Callable[[Address, type[EngineParser]], Node]
    ) -> None:
        self._connect = connect
        # Connections for CLUSTER SLOTS read large replies; those for commands read one value for each.
        self._configured = {address: connect(address, ClusterParser) for address in configured}
        self._map: SlotMap | None = None
        self._nodes: dict[Address, Node] = {}
        self._stale = False
        self._tried = self._read = 0.0
        """When reading a map was begun last, and last with success: seconds of the loop's clock."""
        self._reading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    def nodes(self) -> list[Node]:
        """The configured nodes, and those that commands were sent to."""
        return [*self._configured.values(), *self._nodes.values()]

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The results of `commands`, each of which has a key. Errors are among them, `EngineError` where the node could
        not be used.

        Raises:
            EngineError: there is no map of the slots.
        """
        slots = await self._current()
        results: list[Any] = [None] * len(commands)
        places: dict[Address, list[int]] = {}
        for place, command in enumerate(commands):
            slot = key_slot(command[1])  # type: ignore[arg-type]
            address = slots.node(slot)
            if address is None:
                self._stale = True
                results[place] = EngineError(f"no node of the cluster serves slot {slot}")
            else:
                places.setdefault(address, []).append(place)
        await asyncio.gather(*(self._run_at(address, some, commands, results) for address, some in places.items()))
        # An ASK (a migration of slots) to a node of the map is followed once. A node that imports its first slot is not
        # in the map, so an ASK to it is an error until the migration has ended.
        moved: dict[Address, list[int]] = {}
        for place, result in enumerate(results):
            if isinstance(result, AskError) and (result.host, result.port) in slots.nodes:
                moved.setdefault((result.host, result.port), []).append(place)
        await asyncio.gather(*(self._run_at(address, some, commands, results) for address, some in moved.items()))
        for place, result in enumerate(results):
            if isinstance(result, AskError):
                results[place] = as_error(f"a node redirects slot {result.slot_id} to {result.host} port {result.port}")
        return results

    async def _run_at(
        self, address: Address, places: list[int], commands: Sequence[Command], results: list[Any]
    ) -> None:
        """Run the commands at `places` at one node, and put the results there. Those with an ASK are sent after
        ASKING."""
        sent: list[Command] = []
        for place in places:
            if isinstance(results[place], AskError) and not isinstance(results[place], MovedError):
                sent.append(("ASKING",))
            sent.append(commands[place])
        if address not in self._nodes:
            self._nodes[address] = self._connect(address, EngineParser)
        try:
            async with asyncio.timeout(COMMAND_TIME):
                found = await self._nodes[address].run(sent)
        except (EngineError, TimeoutError) as error:
            self._stale = True
            found = [as_error(f"node {_text(address)}: {as_error(error)}")] * len(sent)
        if any(isinstance(one, AskError | ClusterDownError | ReadOnlyError) for one in found):
            self._stale = True
        kept = (result for result, command in zip(found, sent, strict=True) if command != ("ASKING",))
        for place, result in zip(places, kept, strict=True):
            results[place] = result

    async def _current(self) -> SlotMap:
        """The map of the slots, read anew if that is due.

        Raises:
            EngineError: there is none.
        """
        if self._map is not None and (self._reading.locked() or not self._is_due()):
            return self._map
        async with self._reading:
            if self._map is not None and not self._is_due():
                return self._map
            self._tried = asyncio.get_running_loop().time()
            try:
                return self._adopt(await self._ask())
            except EngineError:
                if self._map is None:
                    raise
                return self._map

    def _is_due(self) -> bool:
        """Whether to read a map again, where there is one."""
        now = asyncio.get_running_loop().time()
        return (self._stale or now - self._read >= MAP_LIFE) and now - self._tried >= MAP_INTERVAL

    async def _ask(self) -> SlotMap:
        """The map that a node gives now. Configured nodes and known ones take turns, both in random order, so that
        neither wrong nodes in the last map nor configured ones that do not answer keep the others from being asked.

        Raises:
            EngineError: none gives one that can be used.
        """
        known = sorted((self._map.nodes if self._map is not None else frozenset()) - self._configured.keys())
        configured = list(self._configured)
        turns = zip_longest(random.sample(configured, len(configured)), random.sample(known, len(known)))
        loop = asyncio.get_running_loop()
        end = loop.time() + READ_TIME
        reason = ""
        for address in (one for turn in turns for one in turn if one is not None):
            if loop.time() >= end:
                break
            node = self._configured.get(address) or self._connect(address, ClusterParser)
            try:
                async with asyncio.timeout(NODE_TIME):
                    (reply,) = await node.run([("CLUSTER", "SLOTS")])
                    if isinstance(reply, Exception):
                        raise as_error(reply)
                return read_slots(reply, address, self._configured)
            except ValueError as error:
                node.note(str(error))
                reason = str(error)
            except (EngineError, TimeoutError) as error:
                reason = str(as_error(error))
            finally:
                self._close(node)
            reason = f"node {_text(address)}: {reason}"
        raise as_error(f"no node describes the cluster; {reason}")

    def _adopt(self, slots: SlotMap) -> SlotMap:
        self._map, self._read, self._stale = slots, self._tried, False
        for address in self._nodes.keys() - slots.nodes:
            self._close(self._nodes.pop(address))
        return slots

    def _close(self, node: Node) -> None:
        """Close connections of `node`, which no command must wait for."""
        task = asyncio.get_running_loop().create_task(_quietly(node.close()))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*self._closing, *(_quietly(node.close()) for node in self.nodes()))


async def _quietly(closing: Coroutine[Any, Any, None]) -> None:
    """Await `closing`. A connection that cannot be closed has failed already, and nothing can be done about it."""
    try:
        await closing
    except EngineError:
        pass


def _text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
