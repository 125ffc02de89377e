"""The driver of the second-level cache: look-ups for `Fetch` effects, writing, and the messages of the fleet.

No query waits for the engine longer than `max_wait` in all. A look-up that has no answer by then ends with None, and
name servers are queried. After some late or failed batches the circuit breaker opens; then no query waits, and only the
poll of this module talks to the engine, until it answers again.

Invariants: each look-up in `_wanted` or in a batch is counted in `_in_flight`, and its callback is called once unless
it is cancelled. At most `SECOND_LEVEL_IN_FLIGHT` look-ups, `SECOND_LEVEL_BATCHES` batches, `SECOND_LEVEL_WRITES`
entries and `FLEET_OUTBOX` messages are held. The breaker closes only after the messages in the engine were read, so
that no entry is used whose name was flushed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from typing import Any, Protocol

from resolver import limits
from resolver.cache.bounded import Held
from resolver.cache.fleet_messages import FleetCodec, Message
from resolver.cache.flush_marks import FlushMarks
from resolver.cache.second_level import Codec, EntryError, SharedReply
from resolver.effects import Fetch, RawReply
from resolver.log_limit import LimitedWarning
from resolver.net.circuit_breaker import CircuitBreaker
from resolver.net.clock_random import Clock
from resolver.net.redis_engine import EngineError, Value
from resolver.wire import name as names

__all__ = ["Engine", "SecondLevel"]

logger = logging.getLogger(__name__)

POLL = limits.FLEET_POLL / 1000
WINDOW = limits.FLEET_MESSAGES
LONGEST_NUMBER = 19
"""digits of a counter of the engine, which has 64 bits"""
EVERYTHING = {"name": None, "subtree": False, "type": None, "caches": True}
"""What a flush of all names says."""
REJECTED = ("version", "checksum", "malformed", "future", "expired", "flushed", "unsigned", "repeated")


class Engine(Protocol):
    """What stores the entries; `resolver.net.redis_engine` has the methods' descriptions."""

    async def get(self, keys: Sequence[bytes], longest: int) -> list[Value]: ...

    async def put(self, entries: Sequence[tuple[bytes, bytes, int]]) -> list[str]: ...

    async def next_number(self, key: bytes) -> int: ...

    def problems(self) -> list[str]: ...

    async def close(self) -> None: ...


class _LookUp:
    """One look-up: a `Fetch`, who waits for it until when, and since when."""

    __slots__ = ("began", "fetch", "on_reply", "owner", "timer")

    def __init__(
        self, owner: "SecondLevel", fetch: Fetch, on_reply: Callable[[SharedReply | None], None], began: float
    ) -> None:
        self.owner = owner
        self.fetch = fetch
        self.on_reply: Callable[[SharedReply | None], None] | None = on_reply
        self.began = began
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Do not call `on_reply`."""
        self.take()

    def take(self) -> Callable[[SharedReply | None], None] | None:
        """The callback, once."""
        on_reply, self.on_reply = self.on_reply, None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if on_reply is not None:
            self.fetch.budget.fetching += self.owner.clock.monotonic() - self.began
        return on_reply


class SecondLevel:
    """The second-level cache of one worker. `on_message` gets each new message of the fleet, own ones too."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        engine: Engine,
        codec: Codec,
        fleet: FleetCodec,
        key_prefix: str,
        max_wait: float,
        clock: Clock,
        after_batch: Callable[[], object],
        engine_id: Hashable = None,
    ) -> None:
        """`engine_id` is equal for two objects that use the same engine, where a message has one number for both."""
        self._loop = loop
        self._engine_id = engine_id
        self._engine = engine
        self._codec = codec
        self._fleet = fleet
        self._counter = key_prefix.encode("ascii") + b"{fleet}"
        self._max_wait = max_wait
        self.clock = clock
        self._after_batch = after_batch
        self.on_message: Callable[[Message], object] | None = None
        self.on_read: Callable[[int], object] | None = None
        """Called after each poll that has read all messages, with the time at which it began."""
        self.acts_from: int | None = None
        """Older messages than the start are given to `on_message` too if they were sent since then, because the own
        cache may be older than this process; None: none of them."""
        self.marks = FlushMarks()
        self.breaker = CircuitBreaker()
        self.trouble = ""
        """Why the engine failed last; "" when it works."""
        self._wanted: list[_LookUp] = []
        self._in_flight = 0
        self._late_since = 0.0
        self._batches = 0
        self._pump_scheduled = False
        self._writes: deque[tuple[bytes, bytes, int]] = deque()
        self._written = asyncio.Event()
        self._outbox: deque[bytes] = deque()
        self._not_sent = ""
        """Why the oldest message was not stored at the last try; "": it was, or none waits."""
        self._refusals = LimitedWarning(logger, different=limits.LOG_FAILURES)
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._number: int | None = None
        """The number of the last message that was read; None before the first poll."""
        self._missing: dict[int, int] = {}
        """Numbers of messages that were not there yet, each with the polls that tried it."""
        self._counts = dict.fromkeys(
            ("hits", "misses", "late", "skipped", "failures", "writes", "writes_dropped", "writes_failed",
             "messages_sent", "messages_received"), 0)
        self._seconds = 0.0
        self._rejected = dict.fromkeys(REJECTED, 0)

    def carry_over(self, other: "SecondLevel") -> None:
        """Take marks, messages that wait, and the place in the messages of the fleet from `other`, which this one
        replaces.

        Both have one outbox and one lock from then on: `other` may be sending its first message, and none may overtake
        it, because receivers accept rising numbers only. What `other` has not read yet, this one reads again with
        `on_message` set, even if it has read it while it was prepared.
        """
        if (self._engine_id, self._counter) == (other._engine_id, other._counter) and other._number is not None:
            self._number, self._missing = other._number, dict(other._missing)
            self._fleet.continue_from(other._fleet)
        self.marks.carry_over(other.marks)
        other._outbox.extend(self._outbox)
        self._outbox, self._sending = other._outbox, other._sending

    def open(self) -> None:
        """Begin to poll and to write."""
        self._start(self._poll_forever())
        self._start(self._write_forever())

    def close(self) -> None:
        """End everything; look-ups get no reply."""
        for task in self._tasks:
            task.cancel()
        self._loop.create_task(self._close_engine())

    async def _close_engine(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._engine.close()
        except EngineError as error:
            logger.debug("second-level cache: closing: %s", error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def statistics(self) -> dict[str, Any]:
        """Counters since the start. `fetch_seconds` is the sum of the times of `hits` and `misses`; `breaker_open` is 1
        unless the circuit breaker is closed."""
        return {**self._counts, "fetch_seconds": self._seconds, "rejected": dict(self._rejected),
                "in_flight": self._in_flight, "waiting_writes": len(self._writes),
                "breaker_open": int(not self.breaker.is_closed), "breaker_opened": self.breaker.opened}

    def memory(self) -> Iterator[Held]:
        """The look-ups in progress, and the entries and messages that wait to be written."""
        size = limits.SECOND_LEVEL_LOOK_UP_OCTETS
        yield Held("second_level_look_ups", self._in_flight * size, limits.SECOND_LEVEL_IN_FLIGHT * size)
        size = limits.SECOND_LEVEL_WRITE_OCTETS
        yield Held(
            "second_level_writes", sum(len(data) + size for _, data, _ in self._writes),
            limits.SECOND_LEVEL_WRITES * (limits.SECOND_LEVEL_ENTRY + size),
        )

    # --- look-ups -------------------------------------------------------------------------------------------------

    def start(self, fetch: Fetch, on_reply: Callable[[SharedReply | None], None]) -> _LookUp | None:
        """See `resolver.effects.SecondLevel`."""
        left = self._max_wait - fetch.budget.fetching
        if not self.breaker.is_closed or left <= 0 or self._in_flight >= limits.SECOND_LEVEL_IN_FLIGHT:
            self._counts["skipped"] += 1
            return None
        look_up = _LookUp(self, fetch, on_reply, self.clock.monotonic())
        look_up.timer = self._loop.call_later(left, self._give_up, look_up)
        self._wanted.append(look_up)
        self._in_flight += 1
        if not self._pump_scheduled and self._batches < limits.SECOND_LEVEL_BATCHES:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)
        return look_up

    def _give_up(self, look_up: _LookUp) -> None:
        """The engine has not answered in time."""
        look_up.timer = None
        on_reply = look_up.take()
        if on_reply is not None:
            self._counts["late"] += 1
            if look_up.began >= self._late_since:
                # Look-ups that began before the last failure was counted are late for the same reason.
                self._late_since = self.clock.monotonic()
                self._note_failure(self._late_since)
            on_reply(None)
            self._after_batch()

    def _pump(self) -> None:
        """Begin one batch with all look-ups that wait."""
        self._pump_scheduled = False
        # Keys whose callers have all cancelled are not requested.
        waiting = [one for one in self._wanted if one.on_reply is not None]
        self._in_flight -= len(self._wanted) - len(waiting)
        self._wanted = []
        if waiting:
            self._batches += 1
            self._start(self._fetch(waiting))

    async def _fetch(self, batch: list[_LookUp]) -> None:
        began = self.clock.monotonic()
        values: list[Value] = []
        try:
            keys = [self._codec.key(one.fetch.qname, one.fetch.qtype) for one in batch]
            values = await self._engine.get(keys, limits.SECOND_LEVEL_ENTRY + 1)
            failed = all(isinstance(value, EngineError) and not _is_wrong_type(value) for value in values)
            self.trouble = str(values[0]) if failed else ""
        except EngineError as error:
            failed, self.trouble = True, str(error)
        finally:
            self._batches -= 1
            self._in_flight -= len(batch)
        now = self.clock.monotonic()
        if failed:
            self._counts["failures"] += 1
            self._note_failure(now)
        elif now - began <= self._max_wait:
            self.breaker.succeeded()
        for look_up, value in zip(batch, values or [EngineError()] * len(batch), strict=True):
            on_reply = look_up.take()
            if on_reply is not None:
                on_reply(self._read(look_up.fetch, value, now - look_up.began))
        self._after_batch()
        if self._wanted and not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _read(self, fetch: Fetch, value: Value, seconds: float) -> SharedReply | None:
        """The reply in what the engine has for `fetch`; None when there is none to be used."""
        if isinstance(value, EngineError):
            if _is_wrong_type(value):
                self._rejected["malformed"] += 1
            return None
        self._seconds += seconds
        if value:
            try:
                reply, stored = self._codec.decode(value, fetch.qname, fetch.qtype, self.clock.time())
                if self.marks.covers(reply.owners() | {names.lower(fetch.qname)}, stored):
                    raise EntryError("flushed")
            except EntryError as error:
                self._rejected[error.reason] += 1
            else:
                self._counts["hits"] += 1
                return reply
        self._counts["misses"] += 1
        return None

    def _note_failure(self, now: float) -> None:
        before = self.breaker.is_closed
        self.breaker.failed(now)
        if before and not self.breaker.is_closed:
            logger.warning("second-level cache: not used until the engine answers in time again: %s",
                           self.trouble or "it was too slow")

    # --- writing --------------------------------------------------------------------------------------------------

    def share(self, raw: RawReply, verdict: int, now: int) -> None:
        """See `resolver.effects.SecondLevel`."""
        if not self.breaker.is_closed or len(self._writes) >= limits.SECOND_LEVEL_WRITES:
            self._counts["writes_dropped"] += 1
            return
        reply = SharedReply(raw.answer, raw.authority, raw.name, raw.rcode, verdict, raw.denied, raw.alias is not None,
                            raw.ttl if raw.denied else 0)
        data = self._codec.encode(reply, raw.qname, raw.qtype, now)
        if data is not None:
            self._writes.append((self._codec.key(raw.qname, raw.qtype), data, reply.lifetime))
            self._written.set()

    async def _write_forever(self) -> None:
        """Write in batches what waits. What the engine refuses is lost, and counted."""
        writes = self._writes
        while True:
            await self._written.wait()
            batch = [writes.popleft() for _ in range(min(len(writes), limits.SECOND_LEVEL_WRITE_BATCH))]
            if not writes:
                self._written.clear()
            try:
                reasons = await self._engine.put(batch)
                refused = len(reasons)
            except EngineError as error:
                refused = len(batch)
                self.trouble = str(error)
                self._note_failure(self.clock.monotonic())
            else:
                if reasons:
                    self._refusals.warn("second-level cache: the engine refuses entries, which are lost; it is still"
                                        " read: %s", reasons[0])
            self._counts["writes_failed"] += refused
            self._counts["writes"] += len(batch) - refused

    # --- the fleet ------------------------------------------------------------------------------------------------

    def flush(
        self, name: bytes | None, *, subtree: bool = False, rtype: str | None = None, fleet: bool = False
    ) -> None:
        """Use no entry of `name` (None: of any name) that was stored before now, here and in all other resolvers. With
        `fleet`, they flush their own caches too.

        Raises:
            ValueError: too many messages wait for the engine; then only this process has done it.
        """
        self.mark(name, subtree=subtree)
        self.publish("flush", {"name": None if name is None else names.to_text(name), "subtree": subtree, "type": rtype,
                            "caches": fleet})

    def mark(self, name: bytes | None, *, subtree: bool = False) -> None:
        """Use no entry of `name` (None: of any name) that was stored before now, in this process."""
        self.marks.add(None if name is None else names.lower(name), self.clock.time(), subtree=subtree)

    def check_message(self, kind: str) -> None:
        """Check that `publish` would take a message of this kind.

        Raises:
            ValueError: it needs a secret.
        """
        self._fleet.check(kind)

    def publish(self, kind: str, fields: dict[str, Any]) -> None:
        """Send a message to all resolvers that share the engine, when it can be reached. `fields` are JSON values.

        Raises:
            ValueError: it is too long, needs a secret, or too many messages wait for the engine.
        """
        if len(self._outbox) >= limits.FLEET_OUTBOX:
            raise ValueError("the second-level cache cannot be reached, and too many messages wait for it")
        self._outbox.append(self._fleet.encode(kind, fields, self.clock.time()))
        self._start(self._send())

    async def _send(self) -> None:
        """Send what waits, in order, because receivers accept rising numbers only. After a failure, the next successful
        poll sends the rest."""
        async with self._sending:
            outbox = self._outbox
            while outbox:
                try:
                    number = await self._engine.next_number(self._counter)
                    message = (self._message_key(number), outbox[0], limits.FLEET_MESSAGE_LIFE)
                    if reasons := await self._engine.put([message]):
                        raise EngineError(reasons[0])
                except EngineError as error:
                    self.trouble = self._not_sent = str(error)
                    self._refusals.warn("second-level cache: messages to the fleet wait until the engine stores them:"
                                        " %s", self._not_sent)
                    return
                outbox.popleft()
                self._counts["messages_sent"] += 1
                self._not_sent = ""

    def problems(self) -> list[str]:
        """What an operator must act on: replies of the engine that were refused, and messages, such as flushes, that
        the fleet does not get."""
        found = self._engine.problems()
        if self._not_sent:
            found.append(f"second-level cache: messages to the fleet, such as flushes, wait ({len(self._outbox)}),"
                         f" because the engine did not store them: {self._not_sent}")
        return found

    def _message_key(self, number: int) -> bytes:
        return b"%b:%d" % (self._counter, number)

    async def _poll_forever(self) -> None:
        """Read new messages. While the breaker is open, this is its probe."""
        while True:
            now = self.clock.monotonic()
            wait = POLL
            if self.breaker.is_closed:
                try:
                    await self._poll()
                except EngineError as error:
                    self.trouble = str(error)
                    self._note_failure(self.clock.monotonic())
            elif (wait := self.breaker.wait(now)) <= 0:
                wait = await self._probe()
            await asyncio.sleep(wait)

    async def _probe(self) -> float:
        """Try the engine, and close the breaker when it answers. Returns the seconds until the next step."""
        self.breaker.begin_probe()
        trouble = self.trouble
        try:
            await self._poll()
        except EngineError as error:
            self.trouble = str(error)
            self.breaker.end_probe(self.clock.monotonic(), succeeded=False)
            if self.trouble != trouble:
                logger.warning("second-level cache: the engine cannot be used: %s", error)
            return self.breaker.wait(self.clock.monotonic())
        self.trouble = ""
        self.breaker.end_probe(self.clock.monotonic(), succeeded=True)
        logger.info("second-level cache: the engine answers and is used")
        return POLL

    async def _poll(self) -> None:
        """Read the messages that came since the last poll, then send those that wait.

        Raises:
            EngineError: the engine does not answer.
        """
        now = self.clock.time()
        (value,) = await self._engine.get([self._counter], LONGEST_NUMBER + 1)
        if isinstance(value, EngineError):
            raise value
        if value and not (value.isdigit() and len(value) <= LONGEST_NUMBER):
            raise EngineError(f"the key {self._counter.decode()} is not the number of a message")
        last = int(value or 0)
        begun = self._number
        before = begun if begun is not None and begun <= last else 0
        lost = last - before > WINDOW
        wanted = [*self._missing, *range(max(before, last - WINDOW) + 1, last + 1)]
        oldest: int | None = None
        if wanted:
            found = await self._engine.get([self._message_key(one) for one in wanted], limits.FLEET_MESSAGE + 1)
            if self._number != begun:
                await self._poll()  # `carry_over` came in between: read from there
                return
            for number, data in zip(wanted, found, strict=True):
                if isinstance(data, EngineError) and not _is_wrong_type(data):
                    raise data
                message = self._take_message(number, data, fresh=self._number is not None)
                if message is not None and oldest is None:
                    oldest = message.when
        if lost and oldest is not None:
            self.marks.add(None, oldest)
            if self.on_message is not None and (begun is not None or self._concerns_cache(oldest)):
                self.on_message(Message("flush", oldest, EVERYTHING, False))
        self._number = last
        if self.on_read is not None:
            self.on_read(now)
        await self._send()

    def _take_message(self, number: int, data: Value, *, fresh: bool) -> Message | None:
        """Act on one message. `fresh`: it came since the start; an older flush leaves only its mark, unless it concerns
        the own cache, and others have no effect."""
        tries = self._missing.pop(number, 0)
        if not data:
            if tries < limits.FLEET_MISSING_POLLS:
                self._missing[number] = tries + 1
            return None
        try:
            if isinstance(data, EngineError):
                raise EntryError("malformed")
            message = self._fleet.decode(data, self.clock.time())
            if message.kind == "flush":
                name = message.fields.get("name")
                rtype = message.fields.get("type")
                if not all(field is None or isinstance(field, str) for field in (name, rtype)):
                    raise EntryError("malformed")
                self.marks.add(None if name is None else names.lower(names.from_text(name)), message.when,
                               subtree=message.fields.get("subtree") is True)
        except (EntryError, ValueError) as error:
            self._rejected[error.reason if isinstance(error, EntryError) else "malformed"] += 1
            return None
        self._counts["messages_received"] += 1
        if self.on_message is not None and (
            fresh or (message.kind == "flush" and self._concerns_cache(message.when))
        ):
            self.on_message(message)
        return message

    def _concerns_cache(self, when: int) -> bool:
        """Whether a flush of this time, from before the start, is still to be made in the own cache."""
        return self.acts_from is not None and when + limits.SECOND_LEVEL_CLOCK_SKEW >= self.acts_from


def _is_wrong_type(error: EngineError) -> bool:
    """Whether another program stored a value of another type under the key."""
    return str(error).startswith("WRONGTYPE")
