"""Keeps the zones of one configuration up to date: files, refresh, transfers, NOTIFY, and what resolverctl shows.

The first worker leads: it alone talks to primaries and secondaries and writes files. The others read what it has
written when it tells them to, or when they start. What it cannot write it serves from memory, gives to the others as a
file in memory, and tries to write again. Content is replaced as a whole, and only when the new one has passed all
checks: until then, and after any error, the old content serves. Reading and checking run in threads, because a large
zone takes seconds. `zone_status` has the states of a zone.

The rules of a response policy zone (mode "policy") are compiled from its content by `ListUpdates`, before the content
is saved: a version whose rules cannot be used is refused as one with a wrong digest is. Rules and content are put in
force together. Only the first worker keeps the content, for the next transfer. A timer in each worker withdraws the
rules when the zone expires.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from resolver import limits
from resolver.cache.bounded import Held
from resolver.daemon.cache_file import CacheFileError
from resolver.daemon.log import describe_unexpected
from resolver.daemon.zone_files import ZoneFiles, check_zonemd, read_memory, read_zone_file, write_to_memory
from resolver.daemon.zone_status import ZoneStatus
from resolver.net.in_thread import in_thread
from resolver.net.tsig import keys_of
from resolver.net.zone_client import Fetched, ZoneClient, notify_message, origin_of, send_notify
from resolver.settings import Settings
from resolver.upstream_address import UpstreamAddress, parse_upstream
from resolver.wire import name as names
from resolver.zones import Zone, ZoneTable
from resolver.zones.journal import JournalError, Saved
from resolver.zones.load import ZoneFileError, missing_glue
from resolver.zones.outgoing import History
from resolver.zones.schedule import after_failure, after_success, expiry, is_newer
from resolver.zones.transfer import TransferError

if TYPE_CHECKING:
    from resolver.daemon.list_files import Loaded
    from resolver.daemon.list_updates import ListUpdates
    from resolver.net.client_contexts import TlsContexts

__all__ = ["ZoneKeeper"]

logger = logging.getLogger(__name__)

UNFINISHED: set["asyncio.Future[None]"] = set()
"""What must end although its keeper has stopped; the loop itself keeps no reference to tasks."""


class _Found(NamedTuple):
    """What a primary has said at the second `confirmed` about the version `base`."""

    base: Zone | None
    new: Fetched
    confirmed: int
    primary: UpstreamAddress


class ZoneKeeper:
    """The zones of one configuration in one worker.

    `leads` is True in the first worker. `changed` is called there when other workers must read a zone again. `now` is
    the second of the real-time clock, `fraction` a random number from 0 to 1. `wanted` is called in other workers when
    the copy on disk is damaged. `files` are those of the worker, which all its keepers share. `lists` has the rules of
    policy zones; `rules_changed` is called after each change of them, as `ListUpdates.update` does. While `main`
    returns False, another process refreshes the zones that have content, and writes their copies; then `catch_up` is
    called.
    """

    def __init__(
        self, settings: Settings, table: ZoneTable, contexts: "TlsContexts | None", *, leads: bool,
        now: Callable[[], int], changed: Callable[[bytes], None], flush: Callable[[bytes], None],
        directory: str | Path = "", files: ZoneFiles | None = None,
        wanted: Callable[[bytes], None] = lambda origin: None,
        lists: "ListUpdates | None" = None, rules_changed: Callable[[bool], None] = lambda asks_servers: None,
        main: Callable[[], bool] = lambda: True,
        fraction: Callable[[], float] = lambda: secrets.randbelow(1 << 20) / (1 << 20),
    ) -> None:
        keys = keys_of(settings)
        where, files = Path(directory) if directory else None, files or ZoneFiles()
        self._zones: dict[bytes, ZoneStatus] = {}
        for one in settings.own_zones:
            status = ZoneStatus(one, keys, files.get(where if one.primaries else None, origin_of(one.name)))
            self._zones[status.origin] = status
        self._table = table
        self._leads = leads
        self._now = now
        self._changed = changed
        self._flush = flush
        self._wanted = wanted
        self._lists = lists
        self._rules_changed = rules_changed
        self._main = main
        self._fraction = fraction
        self._shortest = settings.zones.refresh_min
        # Not a method: the client must not refer to the keeper, which would stay with its zones until a collection.
        self._source = partial(_source, settings.iteration.query_source_v4, settings.iteration.query_source_v6)
        self._client = ZoneClient(contexts, now, lambda: secrets.randbits(16), self._source)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self.counts = dict.fromkeys(
            ("transfers_in", "transfer_failures", "refreshes", "loads", "load_failures", "write_failures"), 0
        )

    def memory(self) -> Iterator[Held]:
        """The content of the zones, their differences, and the transfers in progress."""
        most = limits.ZONE_OCTETS + limits.ZONE_RECORDS * limits.ZONE_RECORD_OVERHEAD
        zones, histories = [], []
        for status in self._zones.values():
            served = self._table.get(status.origin)
            zones.append(0 if served is None or served.zone is None else served.zone.memory)
            histories.append(status.history.octets)
        yield Held("zone_content", sum(zones), len(zones) * most)
        yield Held("zone_history", sum(histories), len(histories) * limits.ZONE_HISTORY_OCTETS)
        most = 2 * limits.ZONE_OCTETS + limits.ZONE_RECORDS * limits.ZONE_TRANSFER_RECORD
        yield Held("zone_transfers", self._client.octets, limits.ZONE_TRANSFERS * most)

    def history_of(self, origin: bytes) -> History | None:
        """The differences of a zone at this moment, for IXFR to secondaries; None for other zones. After a reload they
        are those of the previous keeper, so callers must not keep the object."""
        status = self._zones.get(origin)
        return None if status is None else status.history

    # --- start, reload, stop --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read all zones from their files, and begin to refresh. An error is logged and shown, and does not raise."""
        for status in self._zones.values():
            await self._load(status, status.begin())
            self._schedule(status)
            if status.unwritten:
                self._write_later(status)

    def stop(self) -> None:
        """End all timers and transfers. A save that has begun continues; the next user of the file waits for it."""
        self._stopped = True
        for status in self._zones.values():
            for timer in (status.timer, status.write_timer, status.expiry_timer):
                if timer is not None:
                    timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: "Awaitable[None]") -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _find(self, name: str) -> ZoneStatus:
        status = self._zones.get(origin_of(name))
        if status is None:
            raise ValueError(f"{name!r} is not the name of a configured zone")
        return status

    def reload(self, name: str) -> None:
        """Read a zone again from its file; a secondary reads the copy on disk and queries its primary.

        Raises:
            ValueError: there is no such zone.
        """
        status = self._find(name)
        number = status.begin()

        async def work() -> None:
            await self._load(status, number)
            if status.secondary and self._leads:
                self._refresh_soon(status)

        self._begin(work())

    def catch_up(self) -> None:
        """Read all zones again, and query all primaries: another process has served them, too, and has got versions and
        NOTIFY messages that this one has not."""
        for status in () if self._stopped else self._zones.values():
            self.reload(status.settings.name)

    def refresh(self, name: str) -> None:
        """Query the primary of a zone now.

        Raises:
            ValueError: there is no such zone, or it has no primaries.
        """
        status = self._find(name)
        if not status.secondary:
            raise ValueError(f"{name!r} is a primary zone; use: zone reload {name}")
        self._refresh_soon(status)

    def take_notify(self, origin: bytes) -> None:
        """A primary says that its zone has changed (RFC 1996 section 4.3). At most one refresh for each
        `limits.ZONE_NOTIFY_INTERVAL`."""
        status = self._zones.get(origin)
        if status is None or not status.secondary or not self._leads:
            return
        moment = asyncio.get_running_loop().time()
        wait = status.notified + limits.ZONE_NOTIFY_INTERVAL / 1000 - moment
        if wait <= 0:
            status.notified = moment
            self._refresh_soon(status)
        else:
            status.notify_due = moment + wait  # also while a refresh runs, which may have begun before the change
            self._schedule(status)

    # --- files ----------------------------------------------------------------------------------------------------

    async def _load(self, status: ZoneStatus, number: int) -> None:
        """Read the zone from its file, as the reading `number`; the old content stays after an error."""
        try:
            if status.secondary:
                await self._load_copy(status, number)
                return
            zone = await in_thread(
                read_zone_file, status.settings,
                lambda begun: not self._stopped and status.is_wanted(number, begun=begun),
            )
        except (ZoneFileError, OSError, RecursionError, MemoryError) as error:
            if self._stopped or not status.is_wanted(number, begun=False) or not status.may_install(number):
                return
            text = str(error) if not isinstance(error, OSError) else f"{status.settings.file}: {error.strerror}"
            self._fail(status, f"the zone file cannot be used: {text}")
            self.counts["load_failures"] += 1
            return
        except Exception as error:  # noqa: BLE001 - a fault must cost this zone only
            text = self._fault(status, error, "reading it")
            if not self._stopped and status.may_install(number):
                self._fail(status, text)
                self.counts["load_failures"] += 1
            return
        if status.may_install(number):
            self.counts["loads"] += 1
            self._install_text(status, zone)

    def _install_text(self, status: ZoneStatus, zone: Zone) -> None:
        served = self._table.get(status.origin)
        old = served.zone if served is not None else None
        if old is not None and zone.serial != old.serial and not is_newer(zone.serial, old.serial):
            logger.warning("zone %s: serial %d of the file is older than %d; secondaries will not take it",
                           names.to_text(zone.origin), zone.serial, old.serial)
        if old is None or old.serial != zone.serial:
            status.history.clear()
        self._put(status, zone, 0)
        status.confirmed = self._now()
        if self._leads:
            if old is None or old.serial != zone.serial:
                logger.info("zone %s: serial %d, %d records", names.to_text(zone.origin), zone.serial, zone.records)
                for server in missing_glue(zone)[: limits.ZONE_WARNINGS]:
                    logger.warning("zone %s: name server %s has no address in the zone",
                                   names.to_text(zone.origin), names.to_text(server))
            if old is not None:
                self._changed(status.origin)
            if old is None or old.serial != zone.serial:
                self._notify(status, zone)

    async def _load_copy(self, status: ZoneStatus, number: int) -> None:
        file = status.file
        async with file.lock:
            saved = None
            try:
                saved = await file.read()
            except JournalError as error:
                then = "the zone is transferred again" if self._leads else "the first worker is asked for the content"
                logger.error("zone %s: the copy %s is damaged and is not used: %s; %s", names.to_text(status.origin),
                             file.path, error, then)
                if not self._leads:
                    self._wanted(status.origin)
            except OSError as error:
                logger.error("zone %s: cannot read %s: %s", names.to_text(status.origin), file.path, error.strerror)
            served = self._table.get(status.origin)
            held = None if served is None else served.zone
            newer = saved is not None and held is not None and is_newer(held.serial, saved.zone.serial)
            if saved is None or (self._leads and (newer or (held is not None and status.unwritten))):
                file.forget()  # it is missing, or could not be written before a reload
            else:
                await self._install_copy(status, saved, number)

    async def _install_copy(self, status: ZoneStatus, saved: Saved, number: int) -> None:
        try:
            rules = await self._prepare(status, saved.zone)
            history = await status.history_with(saved.differences, whole=True)
        except (ValueError, OSError, MemoryError) as error:
            if status.may_install(number):
                self.counts["load_failures"] += 1
                status.file.forget()
                self._fail(status, f"the copy cannot be used: {str(error) or 'out of memory'}")
            return
        if not status.may_install(number):
            return
        self.counts["loads"] += 1
        # Not in the future: the clock may have been ahead when it was confirmed.
        status.confirmed = min(saved.confirmed, int(self._now()))
        self._replace_history(status, history)
        self._put(status, saved.zone, expiry(status.confirmed, saved.zone.timers), rules)

    async def _prepare(self, status: ZoneStatus, zone: Zone) -> "Loaded | None":
        """Make what a version needs before it is in force: the rules of a policy zone, which are returned unless they
        are loaded already; of other zones the chain of proofs, which is in the zone. A policy zone answers nothing, so
        it needs no chain.

        Raises:
            ValueError: the rules cannot be used; the text says why.
            OSError: there is no thread.
        """
        if status.policy:
            return None if self._lists is None else await self._lists.compile(status.origin, zone)
        if not zone.has_chain:
            await in_thread(zone.chain)
        return None

    @property
    def unwritten(self) -> list[bytes]:
        """The zones whose content is not on disk."""
        return [origin for origin, status in self._zones.items() if status.unwritten]

    def replace_copy(self, origin: bytes) -> None:
        """The copy on disk is damaged, another worker says: the next save writes all of it."""
        status = self._zones.get(origin)
        if status is not None:
            status.file.forget()

    async def open_content(self, origin: bytes, *, always: bool = False) -> BinaryIO | None:
        """A file in memory with the content of a zone that is not on disk; None for other zones, except `always`.

        Raises:
            OSError: there is no memory or no descriptor for it.
        """
        status, served = self._zones.get(origin), self._table.get(origin)
        if status is None or served is None or served.zone is None or not (status.unwritten or always):
            return None
        return await in_thread(write_to_memory, served.zone, status.confirmed)

    def confirmation(self, origin: bytes) -> tuple[int, int] | None:
        """The serial of a secondary's content, and when a primary has confirmed it; None for other zones. Other workers
        that have this version need not read it again."""
        status = self._zones.get(origin)
        if status is None or not status.secondary or status.timers is None:
            return None
        return status.timers.serial, status.confirmed

    def confirm(self, name: str, serial: int, confirmed: int) -> bool:
        """Take what `confirmation` of the first worker says; False when the version here is another one.

        Raises:
            ValueError: there is no such zone.
        """
        status = self._find(name)
        served = self._table.get(status.origin)
        if served is None or status.timers is None or status.timers.serial != serial:
            return False
        status.may_install(status.begin())  # what is being read now was confirmed earlier
        status.confirmed = confirmed
        self._put(status, served.zone, expiry(confirmed, status.timers), None)
        return True

    def take_content(self, name: str, file: BinaryIO) -> None:
        """Serve what `open_content` of the first worker has made. `file` is closed.

        Raises:
            ValueError: there is no such zone.
        """
        try:
            status = self._find(name)
        except ValueError:
            file.close()
            raise
        reading = asyncio.ensure_future(_read_content(file, status.origin))
        number = status.begin()

        async def work(reading: "asyncio.Future[Saved]") -> None:
            try:
                saved = await reading
            except (JournalError, OSError, MemoryError) as error:
                logger.error("zone %s: the content from the first worker cannot be used: %s", name, error)
                return
            finally:
                del reading  # see `in_thread`
            await self._install_copy(status, saved, number)

        self._begin(work(reading))

    def _put(self, status: ZoneStatus, zone: Zone | None, expires: int, rules: "Loaded | None" = None) -> None:
        """Put content in force: `zone`, and the `rules` of a policy zone, where None means the version so far."""
        served = self._table.get(status.origin)
        if served is None:
            return
        unusable = served.usable(self._now()) is None
        if zone is not None:
            status.timers = zone.timers
            if self._leads or not status.policy:
                self._table.put(status.origin, zone, expires)
        status.state, status.error, status.expires = "serving", "", expires
        if status.policy:
            self._put_rules(status, rules)
        elif unusable and served.fallback:
            self._flush(status.origin)  # answers that were resolved meanwhile

    def _replace_history(self, status: ZoneStatus, history: History) -> None:
        """Put the differences of new content in force, and free those before that are not among them."""
        before, status.history = status.history, history
        if before is not history:
            self._begin(_free(before.retire(history)))

    def _put_rules(self, status: ZoneStatus, rules: "Loaded | None" = None) -> None:
        """Put the rules of a policy zone in force until it expires, or withdraw them when it has."""
        if self._lists is None:
            return
        left = status.expires - self._now()
        self._lists.put(status.origin, rules, status.confirmed, self._rules_changed, expired=left <= 0)
        if status.expiry_timer is not None:
            status.expiry_timer.cancel()
            status.expiry_timer = None
        if left > 0 and not self._stopped:
            status.expiry_timer = asyncio.get_running_loop().call_later(left, self._put_rules, status)

    def _fault(self, status: ZoneStatus, error: Exception, doing: str) -> str:
        """Log the traceback of an unexpected exception, and return the text for `_fail`, which logs what follows."""
        text = describe_unexpected(error, doing)
        if status.fault != text:
            status.fault = text  # once, although the next tries may raise it again
            logger.error("zone %s: %s", names.to_text(status.origin), text, exc_info=error)
        return text

    def _fail(self, status: ZoneStatus, text: str) -> None:
        if self._leads and text != status.error:
            logger.error("zone %s: %s%s", names.to_text(status.origin), text, self._consequence(status))
        status.state, status.error = "failed", text
        if status.policy and self._lists is not None:
            self._lists.fail(status.origin, text)

    def _consequence(self, status: ZoneStatus) -> str:
        served = self._table.get(status.origin)
        if served is None or served.usable(self._now()) is None or served.zone is None:
            return "; none of its rules are in force" if status.policy else "; the zone is not served"
        return f"; serial {served.zone.serial} stays in use"

    # --- refresh --------------------------------------------------------------------------------------------------

    def _schedule(self, status: ZoneStatus) -> None:
        """Set the timer of the next refresh."""
        if not self._leads or not status.secondary or self._stopped:
            return
        served = self._table.get(status.origin)
        zone = None if served is None else served.zone
        if status.failures:
            due = after_failure(self._now(), None if zone is None else zone.timers, status.failures, self._fraction(),
                                self._shortest)
        elif zone is None:
            due = float(self._now())
        else:
            due = after_success(status.confirmed, zone.timers, self._fraction(), self._shortest)
        seconds, loop = max(due - self._now(), 0.0), asyncio.get_running_loop()
        if status.notify_due:
            seconds = min(seconds, max(status.notify_due - loop.time(), 0.0))
        if status.timer is not None:
            status.timer.cancel()
        status.next_refresh = self._now() + seconds
        status.timer = loop.call_later(seconds, self._refresh_soon, status)

    def _refresh_soon(self, status: ZoneStatus) -> None:
        if self._stopped or not self._leads or not (self._main() or status.timers is None):
            return
        if status.task is not None:
            status.again = True
            return
        if status.timer is not None:
            status.timer.cancel()
            status.timer = None
        if status.notify_due:
            status.notified, status.notify_due = asyncio.get_running_loop().time(), 0.0
        status.task = self._begin(self._refresh(status))

    async def _refresh(self, status: ZoneStatus) -> None:
        """Query the primaries in turn until one has a newer version. One that has ours confirms it, when no other has a
        newer one: the first of the list may be the last to get a change."""
        status.state = "refreshing"
        self.counts["refreshes"] += 1
        problems, same = [], None
        status.failures += 1  # until one has succeeded
        status.refreshing = True
        try:
            for primary in status.settings.primary_addresses:
                try:
                    found = await self._fetch_from(status, primary)
                    if found.new.zone is None:
                        same = same or found
                        continue
                    await self._install(status, found)
                except (TransferError, ValueError, OSError, MemoryError) as error:
                    problems.append(f"{primary.address}: {str(error) or 'out of memory'}")
                except Exception as error:  # noqa: BLE001 - as in `_load`
                    problems.append(f"{primary.address}: {self._fault(status, error, 'refreshing it')}")
                else:
                    status.failures, same = 0, None
                    break
            if same is not None:
                try:
                    await self._install(status, same)
                except (ValueError, OSError, MemoryError) as error:
                    problems.append(str(error) or "out of memory")
                except Exception as error:  # noqa: BLE001 - as in `_load`
                    problems.append(self._fault(status, error, "refreshing it"))
                else:
                    status.failures = 0
            if status.failures:
                self.counts["transfer_failures"] += 1
                self._fail(status, "; ".join(problems))
            elif problems and self._leads:
                logger.warning("zone %s: refreshed, but not by all primaries: %s", names.to_text(status.origin),
                               "; ".join(problems))
        finally:
            status.task, status.refreshing = None, False
            if status.again:
                status.again = False
                self._refresh_soon(status)
            else:
                self._schedule(status)

    async def _fetch_from(self, status: ZoneStatus, primary: UpstreamAddress) -> "_Found":
        """Ask one primary.

        Raises:
            TransferError: it failed; the text says why.
        """
        served = self._table.get(status.origin)
        assert served is not None
        base = served.zone
        new = await self._client.fetch(status.origin, primary, status.key, base)
        confirmed = self._now()
        if new.zone is not None:
            await in_thread(check_zonemd, new.zone, status.settings.zonemd)
        return _Found(base, new, confirmed, primary)

    async def _install(self, status: ZoneStatus, found: "_Found") -> None:
        """Save what a primary has said, and put it in force.

        Raises:
            ValueError, OSError, MemoryError: its rules or its chain cannot be made.
        """
        zone = found.new.zone or found.base
        rules = None if zone is None else await self._prepare(status, zone)
        await self._finish(self._take(status, found, rules))

    async def _finish(self, work: "Coroutine[Any, Any, None]") -> None:
        """Do `work` to its end, also when the caller is cancelled: a thread that writes a file cannot be stopped, and
        the file must not be used before it has ended."""
        task = asyncio.ensure_future(work)
        UNFINISHED.add(task)
        task.add_done_callback(UNFINISHED.discard)
        try:
            await asyncio.shield(task)
        finally:
            del task  # see `in_thread`

    async def _take(self, status: ZoneStatus, said: "_Found", rules: "Loaded | None") -> None:
        """Save what a primary has said, and put it in force."""
        base, found, confirmed = said.base, said.new, said.confirmed
        async with status.file.lock:
            served = self._table.get(status.origin)
            held = None if served is None else served.zone
            if _serial_of(held) != _serial_of(base):
                status.again = True  # a reload was quicker; the primary is asked about that version
                return
            zone, history = base if found.zone is None else found.zone, status.history
            assert zone is not None
            if found.zone is not None:
                history = await status.history_with(found.differences, whole=not found.differences)
            await self._write(status, zone, found, confirmed)
            if self._stopped:
                return  # the next configuration reads the file
            status.may_install(status.begin())
            status.confirmed = confirmed
            self._put(status, zone, expiry(confirmed, zone.timers), rules)
            if found.zone is not None:
                self.counts["transfers_in"] += 1
                self._replace_history(status, history)
        if found.zone is not None:
            logger.info("zone %s: serial %d from %s, %d records, %s of %d octets", names.to_text(status.origin),
                        zone.serial, said.primary.address, zone.records, "IXFR" if found.differences else "AXFR",
                        found.octets)
            self._notify(status, zone)
        self._changed(status.origin)

    async def _write(self, status: ZoneStatus, zone: Zone, found: Fetched, confirmed: int) -> None:
        """Save the zone; the caller holds the lock of its file. An error is logged once, shown while it lasts, and ends
        when a later attempt succeeds."""
        try:
            whole = found.zone is not None and not found.differences
            await status.file.save(zone, found.differences, confirmed, whole=whole)
        except CacheFileError as error:
            self.counts["write_failures"] += 1
            text = str(error)
            if text != status.unwritten:
                logger.error("zone %s: %s; serial %d is served from memory, and after a restart an older version or"
                             " none is (zones.directory)", names.to_text(status.origin), text, zone.serial)
            status.unwritten = text
            self._write_later(status)
            return
        if status.unwritten:
            status.unwritten = ""
            logger.info("zone %s: serial %d is on disk", names.to_text(status.origin), zone.serial)

    def _write_later(self, status: ZoneStatus) -> None:
        """Set the timer of the next attempt to write a zone."""
        if status.write_timer is not None:
            status.write_timer.cancel()
            status.write_timer = None
        if self._leads and not self._stopped:
            loop = asyncio.get_running_loop()
            status.write_timer = loop.call_later(limits.ZONE_WRITE_RETRY / 1000, self._write_again, status)

    def _write_again(self, status: ZoneStatus) -> None:
        status.write_timer = None
        if status.task is not None:
            self._write_later(status)  # a refresh in progress may write, too, and two must not
        elif status.unwritten and not self._stopped:
            status.task = self._begin(self._rewrite(status))

    async def _rewrite(self, status: ZoneStatus) -> None:
        """Write what serves, in the place of a refresh, so that no refresh writes meanwhile."""
        served = self._table.get(status.origin)
        try:
            if served is not None and served.zone is not None:
                await self._finish(self._save_again(status))
        finally:
            status.task = None
            if status.again:
                status.again = False
                self._refresh_soon(status)

    async def _save_again(self, status: ZoneStatus) -> None:
        async with status.file.lock:
            served = self._table.get(status.origin)
            if self._stopped or served is None or served.zone is None:
                return
            await self._write(status, served.zone, Fetched(served.zone.serial, None, [], 0), status.confirmed)
        if not status.unwritten:
            self._changed(status.origin)

    # --- NOTIFY to secondaries ------------------------------------------------------------------------------------

    def _notify(self, status: ZoneStatus, zone: Zone) -> None:
        for text in status.settings.notify:
            before = status.notifying.get(text)
            if before is not None:
                before.cancel()  # one at a time to each secondary: it learns the newest version
            task = status.notifying[text] = self._begin(
                self._notify_one(status, zone, parse_upstream(text, 53, "notify"))
            )
            task.add_done_callback(partial(_forget_task, status.notifying, text))

    async def _notify_one(self, status: ZoneStatus, zone: Zone, target: UpstreamAddress) -> None:
        packet = notify_message(zone, secrets.randbits(16), status.transfer_key, self._now())
        try:
            answered = await send_notify(target, packet, self._source(target.address))
        except OSError as error:
            logger.warning("zone %s: NOTIFY to %s: %s", names.to_text(zone.origin), target.address, error.strerror)
            return
        if not answered:
            logger.warning("zone %s: %s does not answer NOTIFY", names.to_text(zone.origin), target.address)

    # --- what is shown --------------------------------------------------------------------------------------------

    def carry_over(self, older: "ZoneKeeper") -> None:
        """Take the state of zones whose settings are the same in an older configuration. Policy zones are taken with
        other settings, too, because their rules are (`ListUpdates`)."""
        for origin, status in self._zones.items():
            before = older._zones.get(origin)
            if before is None or not (before.settings == status.settings or (before.policy and status.policy)):
                continue
            status.confirmed, status.failures = min(before.confirmed, int(self._now())), before.failures
            status.notified, status.notify_due = before.notified, before.notify_due
            if before.refreshing:
                # `stop` ends it, which is no failure; it is begun again at once.
                status.failures -= 1
                status.notify_due = asyncio.get_running_loop().time()
            status.unwritten = before.unwritten
            status.history = before.history
            status.timers, status.expires = before.timers, before.expires
            if status.policy and status.timers is not None:
                self._put_rules(status)

    def problems(self) -> list[str]:
        """What an operator must act on; see `ZoneStatus.problems`."""
        now, table = self._now(), self._table
        return [text for origin, status in self._zones.items() for text in status.problems(table.get(origin), now)]

    def describe(self) -> list[dict[str, Any]]:
        """The state of each zone, for resolverctl."""
        now = self._now()
        return [status.describe(self._table.get(origin), now) for origin, status in self._zones.items()]

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, and serial, age and state by zone."""
        zones = self.describe()
        return {
            **self.counts,
            "serial": {one["zone"]: one["serial"] for one in zones if one["serial"] is not None},
            "age": {one["zone"]: one["age"] for one in zones if one["age"] is not None},
            # By the error, which stays while the next try runs: the state is "refreshing" then.
            "failed": {one["zone"]: int(bool(one["error"])) for one in zones},
            "expired": {one["zone"]: int(one["state"] == "expired") for one in zones},
        }


def _source(v4: str, v6: str, address: str) -> tuple[str, int] | None:
    """The local address for connections to `address`, one of those in the settings; None: the kernel's choice."""
    text = v6 if ":" in address else v4
    return (text, 0) if text else None


def _forget_task(tasks: "dict[str, asyncio.Task[None]]", key: str, task: "asyncio.Task[None]") -> None:
    """`task` has ended: it is removed, unless another one has its place."""
    if tasks.get(key) is task:
        del tasks[key]


async def _free(free: Callable[[], None]) -> None:
    """Free memory in a thread."""
    with suppress(OSError, MemoryError):  # without a thread, or memory for the call, the loop frees it, and waits
        await in_thread(free)


async def _read_content(file: BinaryIO, origin: bytes) -> Saved:
    """As `read_memory`, in a thread. The file is also closed when there is none."""
    try:
        return await in_thread(read_memory, file, origin)
    except OSError:
        file.close()
        raise


def _serial_of(zone: Zone | None) -> int | None:
    return None if zone is None else zone.serial
