"""Keeps lists and response policy zones current: loads their files, fetches those with a URL, and puts them in force.

Each worker loads the files itself and looks every `LIST_CHECK_INTERVAL` whether they have changed; the first worker
fetches, and the others see the new files. So a file that an operator or another program replaces is in force without a
reload. A list that cannot be loaded or fetched leaves the one before in force, and is reported once.

A list that was not in force before must be usable at start and at a reload, when it has no URL; one with a URL may be
missing until the first fetch. A reload compiles such lists in a thread (`compile_new`) before it makes the
configuration, so queries are answered meanwhile. Lists in force are loaded after the reload, which does not wait.

Policy zones that are transferred have neither file nor URL: the keeper of zones (`zone_keeper`) gives each version to
`compile`, before it is saved, and then to `put`. When the zone has expired, its rules are withdrawn, and are in force
again once a primary confirms it.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from resolver import limits
from resolver.cache.bounded import Held
from resolver.daemon.file_identity import identity
from resolver.daemon.list_files import Loaded, NewFile, Source, compile_transferred, load
from resolver.daemon.log import describe_unexpected
from resolver.nat64 import ServerNat64
from resolver.net.in_thread import in_thread
from resolver.policy import PolicyModule
from resolver.policy.block_lists import BlockLists
from resolver.policy.list_formats import CompiledList
from resolver.policy.list_source import ListHead, ListSource, usable_tag
from resolver.policy.rpz import RpzZone
from resolver.policy.rpz_module import ResponsePolicyZones, RpzAliases, options_of
from resolver.settings import Settings, replace
from resolver.settings.lists import ListSettings, RpzSettings
from resolver.wire import name as names

if TYPE_CHECKING:
    from corenet.http import HttpClient
    from resolver.zones import Zone

__all__ = ["ListUpdates", "NewLists", "compile_new"]

logger = logging.getLogger(__name__)


class _ListState:
    """One list: its settings, what is in force, and the state of its fetches."""

    def __init__(self, settings: Source) -> None:
        self.settings = settings
        self.loaded: Loaded | None = None
        self.file_identity: tuple[int, ...] = ()
        """The identity of the file that was loaded, or could not be; set together with `loaded` and `error`."""
        self.compiling_identity: tuple[int, ...] = ()
        """The identity of the file that is being compiled for this configuration. Another one that takes over `loaded`
        meanwhile does not take this, so it compiles the file itself."""
        self.error = ""
        self.source = ListSource(settings.url, settings.interval) if settings.url else None
        self.transferred = _is_transferred(settings)
        self.confirmed_at = 0
        """When a primary has confirmed the version of a transferred zone, in seconds since 1970; 0: never."""
        self.expired = False
        """Whether a transferred zone has expired, so that its rules are not in force."""

    @property
    def in_force(self) -> CompiledList | RpzZone | None:
        """What is in force."""
        return None if self.loaded is None or self.expired else self.loaded.rules

    @property
    def title(self) -> str:
        """Kind and name of this list, for messages."""
        kind = "list" if isinstance(self.settings, ListSettings) else "response policy zone"
        return f"{kind} {self.settings.name}"

    @property
    def consequence(self) -> str:
        """What is in force after an error of this list, for messages."""
        return "none of its entries are in force" if self.in_force is None else "the previous version stays in force"


class _FirstLoad(NamedTuple):
    """The first attempt to load a file: its identity before, then what was made of it or the error; neither while it
    does not exist and is fetched."""

    file_identity: tuple[int, ...]
    loaded: Loaded | None
    error: str


class NewLists(NamedTuple):
    """The files of a configuration that the one in force has not loaded. `key` is that of their compiled names."""

    key: bytes
    first_loads: Mapping[Source, _FirstLoad] = MappingProxyType({})


def _first_load(settings: Source, key: bytes) -> _FirstLoad:
    before = identity(settings.file)
    if settings.url and not before:
        return _FirstLoad((), None, "")
    try:
        return _FirstLoad(before, load(settings, key), "")
    except ValueError as error:
        return _FirstLoad(before, None, str(error))


async def compile_new(settings: Settings, before: "ListUpdates | None") -> NewLists:
    """Load in a thread what `ListUpdates` would load when it is made.

    Raises:
        OSError: there is no thread.
    """
    key = _new_key() if before is None else before._key
    known = set() if before is None else {state.settings for state in before._states if state.loaded is not None}
    first_loads: dict[Source, _FirstLoad] = {}
    sources: tuple[Source, ...] = (*settings.list, *settings.rpz)
    for one in sources:
        if one not in known and not _is_transferred(one):
            first_loads[one] = await in_thread(_first_load, one, key)
    return NewLists(key, first_loads)


def _new_key() -> bytes:
    return secrets.token_bytes(16)


def _is_transferred(settings: Source) -> bool:
    return isinstance(settings, RpzSettings) and bool(settings.primaries)


class ListUpdates:
    """The lists of one configuration. `modules` are its policies. `before` is that of the configuration in force, whose
    compiled lists are used again when settings and file are the same."""

    def __init__(
        self, settings: Settings, before: "ListUpdates | None" = None, *,
        client: "Callable[[], HttpClient] | None" = None, new: NewLists | None = None,
    ) -> None:
        """Load the files that neither `before` nor `new` has loaded. `client` makes the HTTP client of each fetch;
        None: the default one.

        Raises:
            ValueError: a file without URL cannot be used; the text names it.
        """
        if new is None:
            new = NewLists(_new_key() if before is None else before._key)
        self._key: bytes = new.key
        self._client: Callable[[], HttpClient] | None = client
        if client is None and before is not None:
            self._client = before._client
        self._busy = False
        self._compiling = asyncio.Lock()  # one list at a time, because each takes memory and time
        sources: tuple[Source, ...] = (*settings.list, *settings.rpz)
        self._states = [_ListState(one) for one in sources]
        self._lists: list[BlockLists] = []
        self._zones: list[ResponsePolicyZones] = []
        self.modules = self._make_modules(settings)
        self._transferred = {_origin(state.settings): state for state in self._states if state.transferred}
        known = {state.settings: state for state in before._states} if before is not None else {}
        for state in self._states:
            earlier = known.get(state.settings)
            if earlier is not None:
                state.loaded, state.file_identity = earlier.loaded, earlier.file_identity
                state.error, state.source = earlier.error, earlier.source
            if state.loaded is None and not state.transferred:
                first = new.first_loads.get(state.settings) or _first_load(state.settings, self._key)
                self._load_at_start(state, first)
        if before is not None:
            self._carry_over(before)
        self._activate()

    def _make_modules(self, settings: Settings) -> tuple[PolicyModule, ...]:
        """The policies of all views. Views with the same lists have the same ones."""
        views_of: dict[frozenset[str], list[int]] = {}
        for number in range(len(settings.view) + 1):
            views_of.setdefault(settings.lists_of(number), []).append(number)
        nat64 = ServerNat64.create(settings.iteration.nat64_prefix)
        modules: list[PolicyModule] = []
        for used, numbers in views_of.items():
            zones = [one for one in settings.rpz if one.name in used]
            lists = [one for one in settings.list if one.name in used]
            if zones:
                self._zones.append(ResponsePolicyZones(zones, frozenset(numbers), nat64))
                modules += (self._zones[-1], RpzAliases(self._zones[-1]))
            if lists:
                self._lists.append(BlockLists(lists, frozenset(numbers)))
                modules.append(self._lists[-1])
        return tuple(modules)

    def _carry_over(self, before: "ListUpdates") -> None:
        """Keep the rules of transferred zones until they are read again, whatever else of their settings has
        changed."""
        for origin, state in self._transferred.items():
            earlier = before._transferred.get(origin)
            if earlier is None or earlier.loaded is None:
                continue
            assert isinstance(state.settings, RpzSettings) and isinstance(earlier.loaded.rules, RpzZone)
            rules = replace(earlier.loaded.rules, **options_of(state.settings)._asdict())
            state.loaded = earlier.loaded._replace(rules=rules)
            state.confirmed_at, state.expired, state.error = earlier.confirmed_at, earlier.expired, earlier.error

    def _load_at_start(self, state: _ListState, first: _FirstLoad) -> None:
        state.file_identity = first.file_identity
        if first.loaded is not None:
            self._use(state, first.loaded)
        elif not first.error:
            logger.info("%s: %r does not exist yet; it is fetched", state.title, state.settings.file)
        elif state.source is None:
            where = "list" if isinstance(state.settings, ListSettings) else "rpz"
            raise ValueError(f"{where}: {state.settings.name}: {first.error}")
        else:
            state.error = first.error
            logger.warning("%s: %s; it is fetched again", state.title, first.error)

    def _use(self, state: _ListState, loaded: Loaded) -> None:
        reported = () if state.loaded is None else state.loaded.errors
        state.loaded, state.file_identity, state.error = loaded, loaded.identity, ""
        if state.source is not None and loaded.head is not None and not state.source.fetching:
            state.source.restore(loaded.head, time.monotonic(), time.time(), random.random())
        if state.in_force is not None:
            logger.info("%s: %d entries are in force", state.title, loaded.entries)
        if loaded.error_count and loaded.errors != reported:  # a feed may have the same ones in each version
            logger.warning("%s: %d entries were left out; the first: %s", state.title, loaded.error_count,
                           loaded.errors[0])

    def _activate(self) -> None:
        """Put everything that is loaded in force."""
        in_force = [(one.settings.name, one.in_force) for one in self._states]
        compiled = {name: rules for name, rules in in_force if isinstance(rules, CompiledList)}
        for lists in self._lists:
            lists.replace(compiled)
        policy_zones = {name: rules for name, rules in in_force if isinstance(rules, RpzZone)}
        for zones in self._zones:
            zones.replace(policy_zones)

    async def update(self, *, fetches: bool, changed: Callable[[bool], None]) -> None:
        """Load changed files and, with `fetches`, fetch what is due. `changed` is called after each change, with
        whether triggers for name servers (NSDNAME, NSIP) have changed. A call while another one loads files does
        nothing; lists that are being fetched delay no other, because a server may need `LIST_FETCH_TIMEOUT`."""
        if self._busy:
            return
        self._busy = True
        try:
            for state in self._states:
                await self._reload(state, changed)
        finally:
            self._busy = False
        if fetches:
            await asyncio.gather(*(self._renew(state, state.source, changed) for state in self._states if state.source))

    async def _renew(self, state: _ListState, source: ListSource, changed: Callable[[bool], None]) -> None:
        """Fetch a list when it is due."""
        # A configuration that was replaced may be fetching it: both share the state of the source.
        if not source.fetching and source.due <= time.monotonic():
            await self._fetch(state, source)
            await self._reload(state, changed)

    async def _reload(self, state: _ListState, changed: Callable[[bool], None]) -> None:
        """Load the file of a list when it has changed."""
        current = () if state.transferred else identity(state.settings.file)
        if not current or current in (state.file_identity, state.compiling_identity):
            return
        state.compiling_identity = current
        try:
            async with self._compiling:
                loaded = await in_thread(load, state.settings, self._key)
        except ValueError as error:
            state.file_identity, state.error = current, str(error)
            logger.error("%s: %s; %s", state.title, error, state.consequence)
            return
        except OSError as error:  # no thread: the next look tries again
            state.error = f"cannot be loaded now: {error.strerror}"
            logger.error("%s: %s; %s", state.title, state.error, state.consequence)
            return
        except Exception as error:
            # A fault must cost this list only; the log has its traceback.
            state.file_identity, state.error = current, describe_unexpected(error)
            logger.error("%s: %s; %s", state.title, state.error, state.consequence, exc_info=error)
            return
        finally:
            state.compiling_identity = ()
        before = state.in_force
        self._use(state, loaded)
        self._activate()
        changed(_asks_servers(before) or _asks_servers(state.in_force))

    async def _fetch(self, state: _ListState, source: ListSource) -> None:
        """One fetch. A new list is compiled before it replaces the file."""
        from corenet.http import HttpError

        fields = source.begin()
        try:
            await self._download(state, source, fields)
        except (HttpError, OSError, ValueError) as error:
            why = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
            if why != source.error:
                logger.warning("%s: %s: %s; %s", state.title, source.url, why, state.consequence)
            source.failed(why, time.monotonic(), random.random())
        except Exception as error:
            if describe_unexpected(error) != source.error:
                logger.error("%s: %s: %s; %s", state.title, source.url, describe_unexpected(error), state.consequence,
                             exc_info=error)
            source.failed(describe_unexpected(error), time.monotonic(), random.random())
        finally:
            source.fetching = False

    async def _download(self, state: _ListState, source: ListSource, fields: list[tuple[str, str]]) -> None:
        from corenet.http import Timeout

        new = None
        client = _client() if self._client is None else self._client()
        try:
            async with client, client.stream(
                "GET", source.url, headers=fields, timeout=Timeout(total=limits.LIST_FETCH_TIMEOUT)
            ) as response:
                if response.status == 200:
                    new = NewFile(state.settings.file)
                    async for piece in response:
                        new.write(piece)
                etag = usable_tag(response.headers.get("ETag"))
                status = response.status
            if source.is_current(status, "" if new is None else new.digest):
                source.unchanged(time.monotonic(), time.time(), random.random())
                return
            assert new is not None
            async with self._compiling:
                # To disk in the thread, too: it may take seconds, and this worker answers clients.
                head = await in_thread(_complete_and_check, new, state.settings, self._key, etag)
            new.keep()
            source.replaced(head, time.monotonic(), random.random())
        finally:
            if new is not None:
                new.discard()

    # --- policy zones that are transferred ------------------------------------------------------------------------

    async def compile(self, origin: bytes, zone: "Zone") -> Loaded | None:
        """The rules of a version of the transferred zone `origin`; None when they are loaded already.

        Raises:
            ValueError: they exceed a limit of policy zones.
            OSError: there is no thread.
        """
        state = self._transferred[origin]
        async with self._compiling:
            if state.loaded is not None and state.loaded.serial == zone.serial:
                return None
            return await in_thread(compile_transferred, state.settings, zone, self._key)

    def put(
        self, origin: bytes, loaded: Loaded | None, confirmed_at: int, changed: Callable[[bool], None], *, expired: bool
    ) -> None:
        """Put what `compile` has made in force, or with None the version so far, which a primary has confirmed at
        `confirmed_at`; or withdraw it, because it has expired. `changed` is as that of `update`."""
        state = self._transferred[origin]
        before = state.in_force
        if expired and not state.expired:
            logger.error("%s: no primary has confirmed it for the time that its SOA record permits, so it has expired;"
                         " none of its entries are in force", state.title)
        state.confirmed_at, state.expired = confirmed_at, expired
        if loaded is not None:
            self._use(state, loaded)
        state.error = "it has expired" if expired else ""
        if state.in_force is not before:
            self._activate()
            changed(_asks_servers(before) or _asks_servers(state.in_force))

    def fail(self, origin: bytes, error: str) -> None:
        """Show why a transferred zone could not be renewed; the keeper of zones has logged it."""
        self._transferred[origin].error = error

    # --- what is shown --------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, dict[str, int]]:
        """The state of each list by its name, for metrics: entries, when it was fetched or confirmed last (seconds
        since 1970, 0 for a file without URL), and 1 while it cannot be renewed."""
        shown = self.describe()
        now = int(time.time())
        return {
            "entries": {one["name"]: one["entries"] for one in shown},
            "fetched": {one["name"]: 0 if one["age"] is None else now - one["age"] for one in shown},
            "failing": {one["name"]: int(bool(one["error"])) for one in shown},
        }

    def memory(self) -> Held:
        """What is in force of all lists and policy zones."""
        most = 2 * limits.LIST_TABLE_BYTES.default
        zone = limits.LIST_BYTES.default + 3 * limits.RPZ_PREFIXES * limits.RPZ_PREFIX_OCTETS
        zone += 2 * limits.ZONE_RECORDS * limits.RPZ_RULE_OVERHEAD
        zones = sum(isinstance(state.settings, RpzSettings) for state in self._states)
        used = sum(state.loaded.octets for state in self._states if state.loaded is not None)
        return Held("list_content", used, len(self._states) * most + zones * zone)

    def problems(self) -> list[str]:
        """What an operator must act on: files that cannot be used, and lists of which nothing is in force. A fetch that
        fails is none while an older list is in force. Transferred zones are among those of the keeper of zones."""
        problems: list[str] = []
        for state in self._states:
            if state.transferred:
                continue
            error = state.error
            if not error and state.loaded is None and state.source is not None:
                error = state.source.error
            if error:
                problems.append(f"{state.title}: {error}; {state.consequence}")
        return problems

    def describe(self) -> list[dict[str, Any]]:
        """The state of each list, for operators: name, entries, seconds since it was fetched, error."""
        now = time.time()
        shown = []
        for state in self._states:
            head = state.source.head if state.source is not None else None
            renewed = state.confirmed_at if head is None else head.fetched
            shown.append({
                "name": state.settings.name,
                "entries": 0 if state.loaded is None or state.expired else state.loaded.entries,
                "left_out": 0 if state.loaded is None else state.loaded.error_count,
                "unsupported": 0 if state.loaded is None else state.loaded.unsupported,
                "age": max(0, int(now - renewed)) if renewed else None,
                "error": (state.source.error if state.source is not None else "") or state.error,
            })
        return shown


def _complete_and_check(new: NewFile, settings: Source, key: bytes, etag: str) -> ListHead:
    """Write a fetched list to disk, and compile it once, so that one that cannot be used replaces nothing."""
    head = new.complete(int(time.time()), etag, settings.url)
    load(settings, key, new.path)
    return head


def _origin(settings: Source) -> bytes:
    return names.lower(names.from_text(settings.name))


def _asks_servers(rules: CompiledList | RpzZone | None) -> bool:
    return isinstance(rules, RpzZone) and rules.asks_servers


def _client() -> "HttpClient":
    """A client for one fetch."""
    from corenet.http import HttpClient

    return HttpClient(max_body=limits.LIST_BYTES.default, max_decoded=limits.LIST_BYTES.default)
