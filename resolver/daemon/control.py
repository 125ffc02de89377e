"""The control socket: a Unix socket for commands to a running daemon (resolverctl).

The mode of the socket file (0600) is the only access control. A request is one line of JSON,
``{"command": "flush", "name": "example.com"}``. The reply is lines of JSON: any number of ``{"text": ...}``, then
``{"ok": true, "result": ...}`` or ``{"ok": false, "error": "a sentence"}``. Each key of a request is checked. Line
length, time and connections are bounded. Long replies are produced in small chunks between other events of the loop,
because this worker also serves clients. Commands use only files that the settings name.
"""

import asyncio
import errno
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

from resolver import limits
from resolver.api import ResolveTimeout, to_wire
from resolver.daemon import cache_file, health
from resolver.daemon.change_keeper import ChangeKeeper
from resolver.daemon.management import ManagementServer
from resolver.daemon.preflight import clock_problem
from resolver.daemon.runtime_changes import RuntimeChanges
from resolver.daemon.switch_preparation import SwitchPreparation
from resolver.daemon.top import Top
from resolver.daemon.worker_commands import WorkerCommands, WorkerView, merge
from resolver.daemon.worker_ipc import WorkerChannels, WorkerError
from resolver.daemon.worker_upgrade import REFUSAL, WorkerUpgrades
from resolver.errors import ResolveError
from resolver.net.in_thread import in_thread
from resolver.observe.catalogue import Statistics
from resolver.observe.kept import KeptCounters
from resolver.settings import Settings
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["ControlCommands", "ControlServer", "ControlWorker", "RequestError", "parse_request"]

logger = logging.getLogger(__name__)

REQUEST = limits.CONTROL_REQUEST
TIMEOUT = limits.CONTROL_TIMEOUT / 1000
CONNECTIONS = limits.CONTROL_CONNECTIONS
CHUNK = limits.CONTROL_CHUNK

LAST_DATA_TYPE = 65279  # RFC 6895 section 3.1: private use and reserved types follow

Request = dict[str, Any]
# Keys of each command: name -> (type, required).
GRAMMAR: dict[str, dict[str, tuple[type, bool]]] = {
    "status": {},
    "health": {},
    "statistics": {},
    "flush": {"name": (str, False), "type": (str, False), "subtree": (bool, False), "all": (bool, False),
              "fleet": (bool, False)},
    "dump": {"name": (str, False)},
    "save": {},
    "load": {},
    "reload": {},
    "upgrade": {},
    "reopen": {},
    "trace": {"name": (str, True), "type": (str, False), "validate": (bool, False)},
    "log": {"level": (str, True)},
    "anchors": {},
    "lists": {},
    "zones": {},
    "zone": {"action": (str, True), "name": (str, True)},
    "change": {
        "kind": (str, True), "action": (str, True), "name": (str, False), "type": (str, False), "values": (list, False),
        "lifetime": (str, False), "reason": (str, False), "force": (bool, False), "first": (bool, False),
        "fleet": (bool, False),
    },
    "top": {"watch": (str, False), "keep": (int, False), "lines": (int, False)},
}


class RequestError(ValueError):
    """The request was not performed; the text says why."""


class ControlWorker(WorkerView, Protocol):
    """What the control socket needs of the first worker."""

    @property
    def channels(self) -> WorkerChannels | None: ...

    @property
    def kept(self) -> KeptCounters | None: ...

    @property
    def preparation(self) -> SwitchPreparation: ...

    @property
    def change_keeper(self) -> ChangeKeeper | None: ...

    @property
    def changes(self) -> RuntimeChanges: ...

    @property
    def upgrades(self) -> WorkerUpgrades: ...


def parse_request(line: bytes) -> Request:
    """Parse and check a request line.

    Raises:
        RequestError: it is malformed or has invalid arguments.
    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError("the request is not a line of JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise RequestError('a request is an object with a "command"')
    grammar = GRAMMAR.get(request["command"])
    if grammar is None:
        raise RequestError(f"unknown command {request['command']!r}; known commands: {', '.join(GRAMMAR)}")
    for key, value in request.items():
        if key == "command":
            continue
        if key not in grammar:
            raise RequestError(f"{request['command']} has no {key!r}")
        if not isinstance(value, grammar[key][0]):
            raise RequestError(f"{request['command']}: {key!r} must be a {grammar[key][0].__name__}")
    for key, (_, required) in grammar.items():
        if required and key not in request:
            raise RequestError(f"{request['command']} needs {key!r}")
    if request["command"] == "flush":
        if ("name" in request) == bool(request.get("all")):
            raise RequestError('flush needs either a "name" or "all"')
        if request.get("subtree") and "type" in request:
            raise RequestError("flush takes a type or a subtree, not both")
        if request.get("all") and ("type" in request or request.get("subtree")):
            raise RequestError("flush of all takes neither a type nor a subtree")
    return request


class ControlCommands:
    """Performs commands, in all workers where necessary."""

    def __init__(self, host: ControlWorker, commands: WorkerCommands) -> None:
        self._host = host
        self._commands = commands
        self._top_watchers = Top()

    async def perform(self, request: Request) -> AsyncGenerator[str | Request, None]:
        """Yield lines of text, then the result.

        Raises:
            RequestError: the command failed.
        """
        command = request["command"]
        if command == "dump":
            async with aclosing(self._dump(request.get("name"))) as lines:
                async for line in lines:
                    yield line
            yield {}
        elif command == "trace":
            async with aclosing(self._trace(request)) as lines:
                async for line in lines:
                    yield line
            yield {}
        else:
            yield await getattr(self, f"_{command}")(request)

    async def statistics(self) -> Statistics:
        """The merged statistics of all workers. Of a worker that does not answer, because it is being started again,
        they have what it has counted before, so that no sum goes back."""
        found = await self._ask_all({"command": "statistics"})
        kept = self._host.kept
        return merge(
            reply if not isinstance(reply, WorkerError) else {} if kept is None else kept.load(number)
            for number, reply in enumerate(found)
        )

    async def look(self, request: Request) -> tuple[Request, Statistics]:
        """The reply to the command ``top``: what was done since the last call of this watcher (``"watch"``, which the
        reply to the first call names). And the statistics of which it was made.

        Raises:
            RequestError: too many watch, or a value is out of range.
        """
        try:
            watcher = self._top_watchers.admit(request)
            parts = await self._ask_all({"command": "watch", "watch": watcher.name, "keep": watcher.keep})
            answered = [part for part in parts if not isinstance(part, WorkerError)]
            statistics = await self.statistics()
            return await watcher.look(statistics, answered, len(parts)), statistics
        except ValueError as error:
            raise RequestError(str(error)) from None

    async def status(self) -> Request:
        """What each worker is and does, or why it does not answer; and the cache that they share."""
        workers = [
            {"worker": number, "error": str(found)} if isinstance(found, WorkerError) else found
            for number, found in enumerate(await self._ask_all({"command": "status"}))
        ]
        return {"workers": workers, "cache": self._host.store.statistics()}

    async def health(self) -> Request:
        """Whether an operator has to act, and why."""
        host = self._host
        clock = host.current.resolver.clock.time()
        anchors = self._commands.perform({"command": "anchors"}) if host.rollover is not None else None
        validates = host.current.settings.dnssec.active
        found = health.problems(
            workers=(await self.status())["workers"], reload_problem=host.reloads.problem,
            clock=clock_problem(clock) if validates else "", certificates=host.certificate_expiry(), anchors=anchors,
            zones=() if host.keeper is None else host.keeper.problems(), now=clock,
            changes_problem=host.changes.trouble,
            lists=() if host.current.lists is None else host.current.lists.problems(),
            balance=() if host.current.balance is None else host.current.balance.problems(),
            second_level=() if (second := host.current.resolver.second_level) is None else second.problems(),
        )
        return {"healthy": not found, "problems": found}

    async def servers(self) -> list[list[Request]]:
        """What each worker that answers knows of the configured servers."""
        found = await self._ask_all({"command": "servers"})
        return [part["servers"] for part in found if not isinstance(part, WorkerError)]

    async def explain(self, name: str, rtype: str, seconds: float, *, fresh: bool) -> str:
        """How a query is resolved now, as JSON of the form that docs/explain.md describes: with the cache, or `fresh`,
        with an empty one.

        Raises:
            ValueError: the name or the type is invalid.
            OSError: memory is short, or the configuration is being replaced.
        """
        resolver = self._host.current.resolver
        try:
            if not fresh:
                return (await resolver.explain(name, rtype, timeout=seconds)).to_json()
            async with resolver.with_empty_cache() as other:
                return (await other.explain(name, rtype, timeout=seconds)).to_json()
        except ResolveError as error:
            if isinstance(error, ResolveTimeout) and error.trace is not None:
                return error.trace.to_json()
            raise OSError(errno.EAGAIN, str(error)) from None

    async def _everywhere(self, request: Request) -> list[Any]:
        """The replies of all workers, this one first.

        Raises:
            RequestError: the request is invalid, or a worker does not answer.
        """
        found = await self._ask_all(request)
        for reply in found:
            if isinstance(reply, WorkerError):
                raise RequestError(str(reply))
        return found

    async def _ask_all(self, request: Request) -> list[Any]:
        """The replies of all workers, this one first; a `WorkerError` for each that does not answer.

        Raises:
            RequestError: the request is invalid.
        """
        try:
            found = [self._commands.perform(request)]
        except ValueError as error:
            raise RequestError(str(error)) from None
        channels = self._host.channels
        if channels is None:
            return found
        requests = [channels.ask(number, request) for number in channels.others]
        others = await asyncio.gather(*requests, return_exceptions=True)
        for reply in others:
            if isinstance(reply, BaseException) and not isinstance(reply, WorkerError):
                raise reply
        return [*found, *others]

    # --- commands -------------------------------------------------------------------------------------------------

    async def _status(self, request: Request) -> Request:
        return await self.status()

    async def _health(self, request: Request) -> Request:
        return await self.health()

    async def _statistics(self, request: Request) -> Request:
        return await self.statistics()

    async def _top(self, request: Request) -> Request:
        return (await self.look(request))[0]

    async def _flush(self, request: Request) -> Request:
        """Flush the shared cache in slices; the other workers notice the change by its serial. No worker uses older
        entries of the second-level cache from before the first slice on, nor does another resolver."""
        self._wait_for_upgrade()
        second = self._host.current.resolver.second_level
        if second is None and request.get("fleet"):
            raise RequestError("there is no second-level cache, so no other resolver can be told")
        if second is not None:
            await self._everywhere({**request, "command": "mark-flush"})
            text = request.get("name")
            try:
                second.flush(None if text is None else to_wire(text), subtree=bool(request.get("subtree")),
                             rtype=request.get("type"), fleet=bool(request.get("fleet")))
            except ValueError as error:
                raise RequestError(str(error)) from None
        entries = 0
        try:
            for gone in self._commands.flush(request):
                entries += gone
                await asyncio.sleep(0)
        except ValueError as error:
            raise RequestError(str(error)) from None
        return {"entries": entries}

    async def _log(self, request: Request) -> Request:
        return {"level": (await self._everywhere(request))[0]["level"]}

    async def _reopen(self, request: Request) -> Request:
        if self._host.current.observation.log is None:
            raise RequestError("there is no query log: query-log.file is not set")
        await self._everywhere(request)
        return {}

    async def _lists(self, request: Request) -> Request:
        """Only this worker is asked, because the first worker fetches all lists."""
        return self._commands.perform(request)

    async def _anchors(self, request: Request) -> Request:
        """Only this worker is asked, because the first worker does all probes."""
        try:
            return self._commands.perform(request)
        except ValueError as error:
            raise RequestError(str(error)) from None

    async def _zones(self, request: Request) -> Request:
        return self._commands.perform(request)

    async def _zone(self, request: Request) -> Request:
        """Only this worker is asked: it makes the others read what it has changed."""
        try:
            return self._commands.perform(request)
        except ValueError as error:
            raise RequestError(str(error)) from None

    async def _change(self, request: Request) -> Request:
        """Run-time changes are made by this worker in all workers."""
        keeper = self._host.change_keeper
        if keeper is None:
            raise RequestError("the daemon is starting")
        try:
            if not request.get("fleet"):
                return await keeper.perform(request)
            second = self._host.current.resolver.second_level
            if second is None:
                raise ValueError("there is no second-level cache, so no other resolver can be told")
            message = keeper.fleet_message(request)
            second.check_message(message.kind)
            found = await keeper.perform(request)
        except ValueError as error:
            raise RequestError(str(error)) from None
        second = self._host.current.resolver.second_level or second  # that of the configuration with the change
        try:
            second.publish(message.kind, message.fields)
        except ValueError as error:
            raise RequestError(f"the change is in force here, and other resolvers are not told: {error}") from None
        return found

    async def _save(self, request: Request) -> Request:
        path, settings = self._snapshot()
        try:
            # In a thread, because the disk may be slow and this worker serves clients.
            size = await in_thread(cache_file.save, path, self._host.store, settings)
        except cache_file.CacheFileError as error:
            raise RequestError(str(error)) from None
        except OSError as error:
            raise RequestError(error.strerror or str(error)) from None
        return {"file": str(path), "bytes": size}

    async def _load(self, request: Request) -> Request:
        self._wait_for_upgrade()
        path, settings = self._snapshot()
        try:
            loaded = await in_thread(cache_file.restore, path, self._host.store, settings)
        except cache_file.CacheFileError as error:
            raise RequestError(str(error)) from None
        except OSError as error:
            raise RequestError(error.strerror or str(error)) from None
        return {"file": str(path), "entries": loaded.entries, "age": loaded.age}

    def _snapshot(self) -> tuple[Path, Settings]:
        settings = self._host.current.settings
        if not settings.cache.snapshot_file:
            raise RequestError("cache.snapshot-file is not set, so there is no file to save or load")
        return Path(settings.cache.snapshot_file), settings

    def _wait_for_upgrade(self) -> None:
        """Refuse what the new process of an upgrade might not notice."""
        if self._host.upgrades.running:
            raise RequestError(REFUSAL)

    async def _upgrade(self, request: Request) -> Request:
        try:
            return {"pid": await self._host.upgrades.perform()}
        except ValueError as error:
            raise RequestError(str(error)) from None

    async def _reload(self, request: Request) -> Request:
        problem = await self._host.reloads.perform()
        if problem:
            raise RequestError(problem)
        return {"awaiting_restart": list(self._host.preparation.awaiting_restart)}

    async def _trace(self, request: Request) -> AsyncGenerator[str, None]:
        resolver = self._host.current.resolver
        try:
            trace = await resolver.explain(
                request["name"], request.get("type", "A"), validate=request.get("validate", True)
            )
        except (ValueError, ResolveError) as error:
            raise RequestError(str(error)) from None
        for step in trace:
            where = f" [{step.server.address}#{step.server.port}]" if step.server is not None else ""
            took = f" {step.rtt * 1000:.1f} ms" if step.rtt is not None else ""
            yield f"{'  ' * step.depth}{step.kind}: {step.text}{where}{took}"
        answer = trace.answer
        yield f"result: {answer.rcode_text}, {answer.verdict.name.lower()}"
        for line in _rrset_lines(answer.rrsets):
            yield line
        for extended in answer.ede:
            yield f"reason: {extended}"

    async def _dump(self, name: str | None) -> AsyncGenerator[str, None]:
        """The RRsets and negative entries of the cache in zone file format."""
        below = None
        if name is not None:
            try:
                below = names.lower(to_wire(name))
            except ValueError as error:
                raise RequestError(str(error)) from None
        count = 0
        now = self._host.current.resolver.clock.time()
        store = self._host.store
        parts = [("", store.rrsets)]
        parts += [(view.name, store.partitions[view.part]) for view in self._host.current.settings.view
                  if view.part in store.partitions]
        try:
            for view, rrsets in parts:
                if view:
                    yield f"; only for view {view}:"
                for owner, rtype, ttl, found in rrsets.walk(now):
                    count += 1
                    if not count % CHUNK:
                        await asyncio.sleep(0)
                    if below is not None and not names.is_subdomain(owner, below):
                        continue
                    if found is None:
                        if rtype <= LAST_DATA_TYPE:  # higher numbers are proofs of an RRset
                            what = c.type_to_text(rtype) if rtype else "data of any type"
                            yield f"; {names.to_text(owner)} {ttl} IN has no {what}"
                    else:
                        for line in _rrset_lines([found]):
                            yield line
        except BlockingIOError as error:
            raise RequestError(str(error)) from None


def _rrset_lines(rrsets: Any) -> list[str]:
    from resolver.wire.present import rrset_to_text

    return [line for rrset in rrsets for line in rrset_to_text(rrset)]


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=True).encode() + b"\n"


class ControlServer(ManagementServer):
    """Serves the control socket on the running loop; `control_commands` performs the requests."""

    REFUSAL = _line({"ok": False, "error": "too many control connections"})

    def __init__(self, control_commands: ControlCommands) -> None:
        super().__init__(CONNECTIONS, REQUEST, TIMEOUT)
        self._commands = control_commands

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection in order."""
        try:
            while await self._answer(reader, writer):
                self.note_reply()
        except (OSError, TimeoutError) as error:
            logger.info("control: connection closed: %s", error or "read or write timeout")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False at the end of the connection."""
        try:
            async with asyncio.timeout(TIMEOUT):
                line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return False
        except asyncio.LimitOverrunError:
            await self._send(writer, {"ok": False, "error": f"the request is longer than {REQUEST} bytes"})
            return False
        self.note_request()
        result: Mapping[str, Any] = {}
        try:
            request = parse_request(line)
            logger.debug("control: request: %s", line.decode("utf-8", "replace").strip())
            async with aclosing(self._commands.perform(request)) as pieces:  # closed even when the client disconnects
                async for piece in pieces:
                    if isinstance(piece, str):
                        await self._send(writer, {"text": piece})
                    else:
                        result = piece
        except RequestError as error:
            await self._send(writer, {"ok": False, "error": str(error)})
        else:
            await self._send(writer, {"ok": True, "result": result})
        return True

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
        writer.write(_line(message))
        async with asyncio.timeout(TIMEOUT):
            await writer.drain()
