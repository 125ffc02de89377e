"""Gets a zone from a primary: SOA query and transfer over one connection, TCP or TLS (RFC 9103).

Nothing is sent over UDP, so no reply can be forged from off the path. Over TLS the primary is authenticated by its name
or pin, and ALPN "dot" is required (RFC 9103 section 7.1); there is no fallback to TCP. What a primary may send is
bounded by `resolver.zones.transfer`, and the time by the limits below.

`ZONE_TRANSFERS` run at the same time, and others wait in their order. Invariant: primaries that are slow on purpose
delay no other transfer, however many they are. Each time a transfer has waited for `ZONE_SLOW_AFTER`, the slowest
transfer ends that has had this time, too, and is slower than `ZONE_LEAST_RATE`. When all transfers have run for
`ZONE_LONG_AFTER`, however fast they are, the youngest ends. The others continue, so a large zone of a slow primary
comes through: with `ZONE_TRANSFERS` - 1 of them in progress, the last slot has no transfer that is longer. The zone of
a transfer that was ended is tried again later, as after any failure. While no transfer waits, one may be slow and long.
"""

import asyncio
import os
import socket
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from resolver import limits
from resolver.effects import Server
from resolver.net.in_thread import in_thread
from resolver.net.tls_client import describe_tls_failure, server_hostname
from resolver.upstream_address import UpstreamAddress
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.zones.schedule import is_newer
from resolver.zones.transfer import Transfer, TransferError, make_soa_query, make_transfer_query, read_soa_reply
from resolver.zones.tsig import Key, Verifier, sign
from resolver.zones.zone import Difference, Zone

if TYPE_CHECKING:
    from resolver.net.client_contexts import TlsContexts

__all__ = ["Fetched", "ZoneClient", "notify_message", "send_notify"]

QUERY_TIMEOUT = limits.ZONE_QUERY_TIMEOUT / 1000
IDLE_TIMEOUT = limits.ZONE_IDLE_TIMEOUT / 1000
TRANSFER_TIMEOUT = limits.ZONE_TRANSFER_TIMEOUT / 1000
SLOW_AFTER = limits.ZONE_SLOW_AFTER / 1000
LONG_AFTER = limits.ZONE_LONG_AFTER / 1000


class Fetched(NamedTuple):
    """The result: `zone` None means that nothing is new. `differences` are those of an IXFR."""

    serial: int
    zone: Zone | None
    differences: list[Difference]
    octets: int


class _Running:
    """A transfer that has a slot since the second `since` of the loop's clock; `octets` of it have come. `timeout` is
    that of the attempt in progress, and `ended` is set when others need the slot."""

    __slots__ = ("ended", "held", "octets", "since", "timeout")

    def __init__(self, since: float) -> None:
        self.since = since
        self.octets = 0
        self.held = 0
        """Estimated memory of what was received."""
        self.ended = False
        self.timeout: asyncio.Timeout | None = None

    def end(self, now: float) -> None:
        """Let it fail, because others wait."""
        if self.timeout is not None and not self.timeout.expired():
            self.ended = True
            self.timeout.reschedule(now)

    def rate(self, now: float) -> float:
        """Octets per second so far."""
        return self.octets / (now - self.since)


class ZoneClient:
    """Transfers zones. `now` is the second of the real-time clock; `random_id` makes message ids; `source` returns the
    local address for a remote one, or None."""

    def __init__(
        self, contexts: "TlsContexts | None", now: Callable[[], int], random_id: Callable[[], int],
        source: Callable[[str], tuple[str, int] | None],
    ) -> None:
        self._contexts = contexts
        self._now = now
        self._random_id = random_id
        self._source = source
        self._slots = asyncio.Semaphore(limits.ZONE_TRANSFERS)
        self._running: set[_Running] = set()
        # By address; the primaries are those of the configuration, so they are few.
        self._each = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(limits.ZONE_TRANSFERS_EACH))

    @property
    def octets(self) -> int:
        """Estimated memory of the transfers in progress."""
        return sum(running.held for running in self._running)

    async def fetch(
        self, origin: bytes, primary: UpstreamAddress, key: Key | None, current: Zone | None
    ) -> Fetched:
        """Ask `primary` for its serial, and transfer the zone if it is newer than `current`.

        Raises:
            TransferError: the primary cannot be reached, or what it sends cannot be used; the text says why.
        """
        async with self._each[primary.address]:
            await self._wait_for_slot()
            running = _Running(asyncio.get_running_loop().time())
            self._running.add(running)
            try:
                try:
                    return await self._fetch(origin, primary, key, current, running, whole=current is None)
                except TransferError as error:
                    if not error.try_whole or current is None:
                        raise
                return await self._fetch(origin, primary, key, current, running, whole=True)
            finally:
                self._running.remove(running)
                self._slots.release()

    async def _wait_for_slot(self) -> None:
        slot = asyncio.ensure_future(self._slots.acquire())
        try:
            while not (await asyncio.wait({slot}, timeout=SLOW_AFTER))[0]:
                self._make_room(asyncio.get_running_loop().time())
        except asyncio.CancelledError:
            if not slot.cancel():
                self._slots.release()
            raise

    def _make_room(self, now: float) -> None:
        """End a transfer in favour of a waiting one, if one may be ended: the slowest of those that have had their time
        and are too slow, or the youngest of all when all are long."""
        running = [one for one in self._running if not one.ended]
        slow = [(one.rate(now), one.since, one) for one in running
                if now - one.since >= SLOW_AFTER and one.rate(now) < limits.ZONE_LEAST_RATE]
        if slow:
            min(slow, key=lambda item: item[:2])[2].end(now)
        elif len(running) == limits.ZONE_TRANSFERS and all(now - one.since >= LONG_AFTER for one in running):
            max(running, key=lambda one: one.since).end(now)

    async def _fetch(
        self, origin: bytes, primary: UpstreamAddress, key: Key | None, current: Zone | None, running: _Running,
        *, whole: bool,
    ) -> Fetched:
        try:
            async with asyncio.timeout(TRANSFER_TIMEOUT) as running.timeout:
                reader, writer = await self._connect(primary)
                try:
                    return await self._exchange(reader, writer, origin, key, current, running, whole=whole)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            if running.ended:
                raise TransferError("it was slow or long, and transfers of other zones waited") from None
            raise TransferError("no reply in time") from None
        except asyncio.IncompleteReadError:
            raise TransferError("the primary closed the connection") from None
        except OSError as error:
            raise TransferError(describe_tls_failure(error) or _reason(error)) from None

    async def _connect(self, primary: UpstreamAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address, port, encryption = primary
        async with asyncio.timeout(QUERY_TIMEOUT):
            if encryption is None:
                return await asyncio.open_connection(address, port, local_addr=self._source(address))
            assert self._contexts is not None
            context = await self._contexts.get(encryption)
            reader, writer = await asyncio.open_connection(
                address, port, local_addr=self._source(address), ssl=context,
                server_hostname=server_hostname(Server(address, port, None, encryption)),
                ssl_handshake_timeout=QUERY_TIMEOUT,
            )
            try:
                chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
                if chosen != "dot":
                    raise TransferError('the primary does not support ALPN "dot" (RFC 9103 section 7.1)')
            except BaseException:
                writer.transport.abort()
                raise
            return reader, writer

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, origin: bytes, key: Key | None,
        current: Zone | None, running: _Running, *, whole: bool,
    ) -> Fetched:
        query_id = self._random_id()
        verifier = self._send(writer, make_soa_query(origin, query_id), key)
        async with asyncio.timeout(QUERY_TIMEOUT):
            reply = await _message(reader)
        serial = read_soa_reply(reply, origin, query_id, verifier, self._now()).serial
        if current is not None and not is_newer(serial, current.serial):
            if serial != current.serial:
                raise TransferError(f"the primary has serial {serial}, older than ours ({current.serial})")
            return Fetched(serial, None, [], 0)
        query_id = self._random_id()
        base = None if whole else current
        verifier = self._send(writer, make_transfer_query(origin, query_id, base), key)
        transfer = Transfer(
            origin, query_id, base, verifier, newer_than=None if current is None else current.serial
        )
        done, share = False, limits.STREAM_TURN_MESSAGES
        while not done:
            async with asyncio.timeout(IDLE_TIMEOUT):
                packet = await _message(reader)
            share -= 1
            if not share:  # what has arrived already is read without a pause
                share = limits.STREAM_TURN_MESSAGES
                await asyncio.sleep(0)
            running.octets += len(packet)
            if _records_of(packet) > limits.ZONE_LOOP_RECORDS:
                done = await in_thread(transfer.feed, packet, self._now())
            else:
                done = transfer.feed(packet, self._now())
            running.held = transfer.held
        # In a thread, because a large zone takes seconds.
        await in_thread(transfer.finish)
        return Fetched(serial, transfer.zone, transfer.differences, transfer.octets)

    def _send(self, writer: asyncio.StreamWriter, message: bytes, key: Key | None) -> Verifier | None:
        """Send a query, signed with `key`; returns what checks its replies."""
        verifier = None
        if key is not None:
            message, mac = sign(message, key, self._now())
            verifier = Verifier(key, mac)
        writer.write(len(message).to_bytes(2, "big") + message)
        return verifier


def _reason(error: OSError) -> str:
    """The text of `error`, with that of the system when asyncio has put another one in its place."""
    text, system = error.strerror or str(error), os.strerror(error.errno) if error.errno else ""
    return text if system.lower() in text.lower() else f"{text}: {system}"


def _records_of(packet: bytes) -> int:
    """The number of records that the header of a message names."""
    return sum(int.from_bytes(packet[at : at + 2], "big") for at in (6, 8, 10))


async def _message(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


# --- NOTIFY to secondaries ----------------------------------------------------------------------------------------


def notify_message(zone: Zone, query_id: int, key: Key | None, now: int) -> bytes:
    """The NOTIFY message for a changed zone (RFC 1996 section 3.7)."""
    builder = Builder()
    builder.start(query_id, c.NOTIFY << 11 | c.AA, zone.origin, c.SOA)
    builder.add(c.ANSWER, zone.soa.without_sigs())
    message = builder.finish()
    return message if key is None else sign(message, key, now)[0]


class _Notify(asyncio.DatagramProtocol):
    """Waits for the reply to one message."""

    def __init__(self, query_id: int) -> None:
        self._head = query_id.to_bytes(2, "big")
        self.replied: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Any reply with the id ends the attempts, whatever its content is."""
        if data[:2] == self._head and len(data) > 2 and data[2] & 0x80 and not self.replied.done():
            self.replied.set_result(None)

    def error_received(self, exc: Exception) -> None:
        """The port is closed; the next attempt may find it open."""


async def send_notify(
    target: UpstreamAddress, packet: bytes, source: tuple[str, int] | None, attempts: int = limits.ZONE_NOTIFY_ATTEMPTS
) -> bool:
    """Send a NOTIFY until it is answered (RFC 1996 section 3.6). False when it never was.

    Raises:
        OSError: no socket can be had.
    """
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: _Notify(int.from_bytes(packet[:2], "big")), remote_addr=(target.address, target.port),
        local_addr=source, family=socket.AF_INET6 if ":" in target.address else socket.AF_INET,
    )
    try:
        for attempt in range(attempts):
            transport.sendto(packet)
            done, _ = await asyncio.wait({protocol.replied}, timeout=QUERY_TIMEOUT * (1 << attempt))
            if done:
                return True
        return False
    finally:
        transport.close()


def origin_of(text: str) -> bytes:
    """A zone's name in lower case and wire form."""
    return names.lower(names.from_text(text))
