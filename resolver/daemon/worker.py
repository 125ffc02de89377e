"""One worker: an event loop with listeners and a resolver; start, reload and stop.

A reload is all or nothing. Each step that can fail (files, policies, trust anchors, sockets, locks of the cache) is
done before the switch and undone when a later one fails; the switch itself cannot fail. Several workers reload
together, led by the first. Queries in progress are completed with the old configuration. The cache is kept, unless
settings changed on which cached answers depend (validation, local names, forwarding).
"""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import corenet
from corenet._version import __version__
from resolver import limits
from resolver.api import make_store
from resolver.cache import Store
from resolver.daemon import log, sockets
from resolver.daemon.cache_file import CacheFileError
from resolver.daemon.certificates import Certificates, ExpiryWatch
from resolver.daemon.change_keeper import ChangeKeeper
from resolver.daemon.config_reload import (
    RefusedError,
    abort_workers,
    commit_workers,
    describe_error,
    log_reload_error,
    merge_restart_only,
    prepare_workers,
    report_to_supervisor,
    with_config_location,
)
from resolver.daemon.management_sockets import ManagementSockets
from resolver.daemon.preflight import clock_trouble
from resolver.daemon.resource_exhaustion import install_exception_handler
from resolver.daemon.runtime_changes import RuntimeChanges, candidate_of
from resolver.daemon.runtime_changes import read as read_changes
from resolver.daemon.runtime_config import Listeners, RuntimeConfig
from resolver.daemon.service_manager import ServiceManager
from resolver.daemon.sockets import Endpoint, ListenError
from resolver.daemon.usage import usage
from resolver.daemon.worker_commands import WorkerCommands, add_counters, kept_part, of_runtime
from resolver.effects import Outcome, Question
from resolver.net.turns import Turns
from resolver.observe.catalogue import Statistics, counters_of
from resolver.settings import Settings
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.cache.fleet_messages import Message
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.management import ManagementServer
    from resolver.daemon.zone_keeper import ZoneKeeper
    from resolver.net.client_contexts import TlsContexts
    from resolver.observe.kept import KeptCounters
    from resolver.validate.autotrust import TrustPoint

__all__ = ["Options", "Reload", "run"]

logger = logging.getLogger(__name__)

Reload = Callable[[], Settings]
SIGN_OF_LIFE = b"."
SIGNS_OF_LIFE = limits.SIGNS_OF_LIFE


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a worker that are not in the settings.

    `config` is the path of the configuration file, or empty; `number` counts the workers from 0; `management` has the
    sockets opened before the fork, of which the first worker uses all and the others only the channels; `certificates`
    were read before the fork; `manager` is the service manager, which the single worker or the supervisor notifies.
    """

    playground: bool = False
    show_example: bool = False
    config: str = ""
    number: int = 0
    management: ManagementSockets | None = None
    certificates: Certificates | None = None
    tls_contexts: "TlsContexts | None" = None
    manager: ServiceManager = field(default_factory=ServiceManager)


def run(
    settings: Settings,
    endpoints: list[Endpoint],
    *,
    reload: Reload,
    options: Options,
    store: Store | None = None,
    channel: socket.socket | None = None,
) -> int:
    """Serve until a signal stops it; return the exit status. End of file on `channel` means that the parent exited.

    Raises:
        ValueError: a setting is invalid.
        OSError: memory, a descriptor or the port of the playground is not available.
    """
    worker = _Worker(settings, endpoints, reload, options, store, channel)
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        return runner.run(worker.main())


GROUPS = {"dns": "client_tcp", "tls": "client_dot", "https": "client_doh", "quic": "client_doq"}
"""The group of the counters of stream listeners, by protocol; those of UDP are in "client_udp"."""
ANNOUNCED = {"dns": "UDP and TCP", "tls": "DNS over TLS", "https": "DNS over HTTPS", "quic": "DNS over QUIC"}


# --- the worker ---------------------------------------------------------------------------------------------------


class _Prepared(NamedTuple):
    """All that a reload needs for the switch, which cannot fail."""

    configured: Settings
    runtime: RuntimeConfig
    rollover: "AnchorUpdater | None"
    changes: RuntimeChanges
    added: list[Listeners]
    undo: ExitStack
    """Closes what was prepared when the reload is aborted."""


class _Worker:
    def __init__(
        self,
        settings: Settings,
        endpoints: list[Endpoint],
        reload: Reload,
        options: Options,
        store: Store | None,
        channel: socket.socket | None,
    ) -> None:
        self.configured = settings
        self.endpoints = endpoints
        self.reload = reload
        self.options = options
        self.store = store or make_store(settings)
        self.uses_cache_file = store is None and not options.playground
        self.channel = channel
        self.multi_worker = channel is not None
        self.links = options.management.links if options.management is not None else None
        self.commands = WorkerCommands(self)
        self.management_servers: dict[str, ManagementServer] = {}
        self.listeners: list[Listeners] = []
        self.turns = Turns()
        self.kept: KeptCounters | None = None if options.management is None else options.management.kept
        #: counters of predecessors of this worker, of configurations that were replaced, and of closed listeners.
        self.past: Statistics = {} if self.kept is None else self.kept.load(options.number)
        self.keep_timer: asyncio.TimerHandle | None = None
        self.keeping_fails = False
        self.override_settings: Callable[[Settings], Settings] = lambda given: given
        self.tasks: set[asyncio.Task[Any]] = set()
        self.draining: dict[RuntimeConfig, asyncio.Task[None]] = {}
        self.fleet_handlers: dict[str, Callable[[Message], None]] = {}
        """What to do with messages of other resolvers by kind; `SecondLevel.tell` sends them."""
        self.in_playground = False
        self.rollover: AnchorUpdater | None = None
        self.keeper: ZoneKeeper | None = None
        self.changes = RuntimeChanges()
        self.change_keeper: ChangeKeeper | None = None
        self.rollover_timer: asyncio.TimerHandle | None = None
        self.reloading = asyncio.Lock()
        self.certificate_timer: asyncio.TimerHandle | None = None
        self.ticket_timer: asyncio.TimerHandle | None = None
        self.list_timer: asyncio.TimerHandle | None = None
        self.rate_timer: asyncio.TimerHandle | None = None
        self.flush_timer: asyncio.TimerHandle | None = None
        self.expiry_watch = ExpiryWatch()
        self.reload_waits = False
        self.prepared: _Prepared | None = None
        self.life_timer: asyncio.TimerHandle | None = None
        #: why the last reload was refused; "" when it was not.
        self.reload_problem = ""

    async def main(self) -> int:
        loop = asyncio.get_running_loop()
        self.loop = loop
        install_exception_handler(loop, self.configured.log.rate_limit_interval)
        self.stopping: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self.on_reload)
        loop.add_signal_handler(signal.SIGUSR1, self.on_report)
        if self.channel is not None:
            loop.add_reader(self.channel, self.on_stop, "exit of the supervisor")
        async with AsyncExitStack() as stack:
            in_playground = self.options.playground
            if self.options.show_example and not in_playground and not self.options.config:
                from resolver.daemon import demo

                in_playground = not await demo.root_servers_reachable(self.configured)
                print(
                    "The root servers of the Internet cannot be reached; a simulated Internet is used."
                    if in_playground
                    else "The root servers of the Internet answer and are used.",
                    flush=True,
                )
            self.in_playground = in_playground
            if in_playground:
                self.uses_cache_file = False
                await self.enter_playground(stack)
            if self.uses_cache_file and self.configured.cache.snapshot_file:
                from resolver.daemon import cache_file

                cache_file.load_at_start(self.store, self.configured)
            self.current = self.make_first()
            self.follow_fleet()
            self.rollover = self.make_rollover(self.current)
            self.save_anchors()
            self.keeper = self.make_keeper(self.current)
            if self.keeper is not None:
                await self.keeper.start()
            for endpoint in self.endpoints:
                listeners = Listeners(endpoint, self.turns)
                self.listeners.append(listeners)
                await listeners.start(self.current)
            gc.set_threshold(limits.GC_YOUNG, limits.GC_MIDDLE, limits.GC_OLD)
            gc.freeze()  # existing objects live until the end, so the collector skips them
            gc.enable()
            await self.start_management()
            self.ask_for_zones()
            self.announce()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))  # blocked by main
            self.schedule_probe()
            self.watch_certificates()
            self.rotate_ticket_keys()
            self.report_ready()
            self.check_lists()
            self.keep_regularly()
            self.log_limited_rates()
            if not self.number:
                self.change_keeper = ChangeKeeper(self)
                self.change_keeper.schedule()
            self.flush_observation()
            if self.options.show_example:
                from resolver.daemon import demo

                shown = "www.example.playground." if in_playground else "www.iana.org."
                await demo.show_example(self.endpoints[0], shown, self.configured.iteration.query_timeout)
            reason = await self.stopping
            logger.info("stopping on %s", reason)
            if not self.multi_worker:
                self.options.manager.stopping()
            await self.drain()
            if self.uses_cache_file and self.configured.cache.snapshot_file:
                from resolver.daemon import cache_file

                cache_file.save_at_stop(self.store, self.configured)
        return 0

    @property
    def number(self) -> int:
        """The number of this worker, from 0."""
        return self.options.number

    def connections(self) -> dict[str, dict[str, Any]]:
        """Counters of all listeners by group."""
        total: dict[str, dict[str, Any]] = {}
        for listeners in self.listeners:
            for udp in listeners.udp:
                add_counters(total, {"client_udp": udp.statistics()})
            if listeners.tcp is not None:
                add_counters(total, {GROUPS[listeners.endpoint.protocol]: listeners.tcp.statistics()})
        return total

    @property
    def configurations(self) -> "tuple[RuntimeConfig, ...]":
        """The configuration in force, and those replaced ones that still have queries."""
        return (self.current, *self.draining)

    def usage(self) -> Statistics:
        """What is in use of each bounded thing, and its limit."""
        return {"usage": usage(self.current, self.listeners, self.management_servers, shared=not self.number)}

    def keep_counters(self, statistics: Statistics) -> None:
        """Keep the counters among `statistics` for the successor of this worker, if it can have one."""
        if self.kept is None:
            return
        try:
            self.kept.save(self.number, kept_part(statistics))
        except ValueError as error:
            if not self.keeping_fails:
                logger.warning("metrics: counters begin at older values when this worker is started again: %s", error)
            self.keeping_fails = True

    def keep_regularly(self) -> None:
        """Keep the counters for a successor from time to time."""
        if self.kept is not None:
            self.keep_counters(self.commands.collect())
            self.keep_timer = self.loop.call_later(limits.COUNTERS_KEPT / 1000, self.keep_regularly)

    def certificate_expiry(self) -> dict[str, int]:
        """When each certificate in use ceases to be valid, in seconds since 1970, by file."""
        certificates = self.current.certificates
        return {} if certificates is None else certificates.expiry()

    def staple_expiry(self) -> dict[str, int]:
        """When each OCSP staple in use ceases to be sent, in seconds since 1970, by file."""
        certificates = self.current.certificates
        return {} if certificates is None else certificates.staple_expiry()

    def staples_missing(self) -> dict[str, int]:
        """1 for each certificate that demands a staple and is sent without, 0 for those that are sent with one."""
        now, certificates = self.current.resolver.clock.time(), self.current.certificates
        return {} if certificates is None else certificates.staples_missing(now)

    # --- start ----------------------------------------------------------------------------------------------------

    def make_first(self) -> RuntimeConfig:
        """The objects of the configuration at the start. Run-time changes that do not go with it are left out, because
        a resolver without them is better than none."""
        self.changes = RuntimeChanges.load(self.configured.control.changes_file)
        settings = self.override_settings(self.configured)
        options = self.options
        given = (self.store, self.loop, options.certificates, options.tls_contexts)
        try:
            changed = self.changes.applied_to(settings)
            runtime = RuntimeConfig(changed, *given)
        except ValueError as error:
            if not self.changes.entries:
                raise
            runtime = RuntimeConfig(settings, *given)  # raises again when the configuration is wrong
            self.changes = RuntimeChanges(
                self.changes.path, (),
                f"control.changes-file: {self.changes.path}: a change does not go with the configuration: {error};"
                " correct the configuration or remove the file, then reload")
        if self.changes.trouble and not self.number:
            logger.error("%s", self.changes.trouble)
        return runtime

    async def enter_playground(self, stack: AsyncExitStack) -> None:
        """Start the simulated Internet in this process and point the settings to it."""
        from resolver import playground

        world = await stack.enter_async_context(await playground.start(port=0))
        self.override_settings = world.settings
        logger.info("playground: name servers listen on port %d of their loopback addresses", world.port)
        given = self.configured
        if given.cache.snapshot_file or given.dnssec.auto_trust_anchor_file:
            logger.info("playground: cache.snapshot-file and dnssec.auto-trust-anchor-file are not used")

    async def start_management(self) -> None:
        """The first worker serves the control socket and the metrics; the others reply to its requests."""
        management = self.options.management
        if management is None:
            return
        if self.links is not None:
            if self.number:
                self.links.serve(self.loop, self.number, self.commands.perform)
                return
            self.links.listen(self.loop)
            self.links.on_event = self.on_event
        if management.control is None and management.metrics is None:
            return
        from resolver.daemon.control import ControlCommands, ControlServer
        from resolver.daemon.metrics import MetricsServer

        control_commands = ControlCommands(self, self.commands)
        if management.control is not None:
            control = ControlServer(control_commands)
            await control.start(management.control.dup())
            self.management_servers["control"] = control
        if management.metrics is not None:
            metrics = MetricsServer(control_commands.statistics, __version__)
            await metrics.start(management.metrics.dup())
            self.management_servers["metrics"] = metrics

    def announce(self) -> None:
        settings = self.current.settings
        for protocol, what in ANNOUNCED.items():
            where = ", ".join(str(endpoint) for endpoint in self.endpoints if endpoint.protocol == protocol)
            if where:
                logger.info("serving %s, %s", where, what)
        dnssec = settings.dnssec
        if not dnssec.active:
            why = "dnssec.enabled is off" if not dnssec.enabled else "there are no trust anchors"
            logger.warning("dnssec: answers are not validated, because %s", why)
        else:
            trouble = clock_trouble(self.current.resolver.clock.time())
            if trouble:
                logger.error("%s", trouble)

    # --- the service manager --------------------------------------------------------------------------------------

    def report_ready(self) -> None:
        """Clients are served: tell the supervisor, or without one the service manager. Begin the signs of life."""
        if self.channel is None:
            self.options.manager.ready(self.describe_service())
        self.show_life()

    def show_life(self) -> None:
        """Send a sign of life, four times in the period of the watchdog. To the supervisor, the first also says that
        this worker is ready."""
        watchdog = self.options.manager.watchdog
        if self.channel is None:
            if watchdog:
                self.options.manager.alive()
        else:
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                # Full: the supervisor has not read earlier ones. Closed: `on_stop` is about to be called.
                self.channel.send(SIGN_OF_LIFE, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if watchdog:
            self.life_timer = self.loop.call_later(watchdog / SIGNS_OF_LIFE, self.show_life)

    def describe_service(self) -> str:
        """One line for the status of the service manager."""
        return "serving " + ", ".join(str(endpoint) for endpoint in self.endpoints)

    # --- automated updates of trust anchors (RFC 5011) ------------------------------------------------------------

    def make_rollover(self, runtime: RuntimeConfig) -> "AnchorUpdater | None":
        """The updater for a new configuration, with the key states so far. Only the first worker probes."""
        dnssec = runtime.settings.dnssec
        if not dnssec.active or not dnssec.auto_trust_anchor_file or self.in_playground:
            return None
        from resolver.daemon.autotrust import AnchorUpdater

        rollover = AnchorUpdater(
            dnssec,
            now=runtime.resolver.clock.time,
            ask=self.query_uncached,
            verify=self.check_signatures,
            changed=self.apply_anchor_change,
            concluded=self.publish_anchors,
        )
        rollover.load()
        self.carry_over_anchors(rollover, runtime)
        return rollover

    def carry_over_anchors(self, rollover: "AnchorUpdater", runtime: RuntimeConfig) -> None:
        """Copy the key states of the configuration in force into a new one."""
        if self.rollover is not None:
            rollover.take_text(self.rollover.text)
        validation = runtime.resolver.mesh.validation
        if validation is not None:
            rollover.apply(validation.anchors)

    def make_keeper(self, runtime: RuntimeConfig) -> "ZoneKeeper | None":
        """What keeps the zones of a configuration up to date; None without zones. Only the first worker transfers."""
        settings = runtime.settings
        if not settings.own_zones:
            return None
        from resolver.daemon.zone_keeper import ZoneKeeper
        from resolver.net.zone_server import ZoneServer

        resolver = runtime.resolver
        keeper = ZoneKeeper(
            settings, resolver.zones, resolver.tls_contexts, leads=not self.number, now=resolver.clock.time,
            changed=self.publish_zone, flush=self.flush_zone, directory=settings.zones.directory,
        )

        def notified(origin: bytes) -> None:
            if not self.number:
                keeper.take_notify(origin)
            elif self.links is not None:
                self.links.tell_first({"notify": names.to_text(origin)})

        runtime.service.zone_server = ZoneServer(
            settings, resolver.zones, keeper.histories, resolver.clock.time, notified
        )
        return keeper

    async def start_keeper(self, keeper: "ZoneKeeper") -> None:
        await keeper.start()
        self.ask_for_zones()

    def ask_for_zones(self) -> None:
        """After the zones on disk were read: ask the first worker for those that are not on disk."""
        if self.number and self.keeper is not None and self.links is not None:
            self.links.tell_first({"zones-read": True})

    def on_event(self, event: dict[str, Any]) -> None:
        """In the first worker: another one has received a NOTIFY, or has read the files of the zones."""
        if self.keeper is None:
            return
        if "notify" in event:
            self.keeper.take_notify(names.from_text(event["notify"]))
        if "zones-read" in event:
            for origin in self.keeper.unwritten:
                self.publish_zone(origin)

    def publish_zone(self, origin: bytes) -> None:
        """Make the other workers read a zone that this one has changed."""
        if self.links is not None:
            self.start_task(self.send_zone(origin))

    async def send_zone(self, origin: bytes) -> None:
        from resolver.daemon.worker_ipc import WorkerError

        if self.keeper is None or self.links is None:
            return
        name = names.to_text(origin)
        try:
            with await self.keeper.open_content(origin) or nullcontext() as file:
                for number in self.links.others:
                    try:
                        await self.links.ask(number, {"command": "take-zone", "name": name}, file=file)
                    except WorkerError as error:
                        logger.warning("zone %s: %s; it has the older version until the next change", name, error)
        except OSError as error:
            logger.error("zone %s: other workers cannot get the content: %s; they have the older version until the next"
                         " change", name, error.strerror)

    def flush_zone(self, origin: bytes) -> None:
        """Flush the cached answers at and below the name of a zone. The first worker does it for all."""
        if not self.number:
            self.start_task(self.flush_names(origin))

    async def flush_names(self, origin: bytes) -> None:
        try:
            for _ in self.store.flush(origin, subtree=True):
                await asyncio.sleep(0)
        except BlockingIOError as error:
            logger.warning("%s: old answers stay cached until their TTL expires: %s", names.to_text(origin), error)

    # --- other resolvers with the same second-level cache ---------------------------------------------------------

    def follow_fleet(self, before: RuntimeConfig | None = None) -> None:
        """Get the messages of the fleet by the configuration in force instead of `before`."""
        second = self.current.resolver.second_level
        replaced = None if before is None else before.resolver.second_level
        if replaced is not None:
            replaced.on_message = None
            if second is not None:
                second.carry_over(replaced)
        if second is not None:
            second.on_message = self.on_fleet_message

    def on_fleet_message(self, message: "Message") -> None:
        """Act on a message of another resolver. Handlers are called in every worker; the first one flushes for all."""
        handler = self.fleet_handlers.get(message.kind)
        if handler is not None:
            handler(message)
        elif message.kind == "flush" and message.fields.get("caches") is True and not (message.own or self.number):
            self.start_task(self.flush_for_fleet(message.fields))

    async def flush_for_fleet(self, fields: dict[str, Any]) -> None:
        """Flush the cache as another resolver was told to."""
        from resolver.daemon.worker_ipc import WorkerError

        request = {key: fields.get(key) for key in ("name", "subtree", "type")}
        for number in self.links.others if self.links is not None else ():
            try:
                await self.links.ask(number, {**request, "command": "mark-flush"})  # type: ignore[union-attr]
            except WorkerError as error:
                logger.warning("second-level cache: %s; it learns of the flush by itself", error)
        try:
            entries = 0
            for gone in self.commands.flush(request):
                entries += gone
                await asyncio.sleep(0)
        except ValueError as error:
            logger.warning("second-level cache: another resolver asked for a flush that failed: %s", error)
            return
        what = request["name"] or "everything"
        logger.info("second-level cache: flushed %s for the fleet, %d entries", what, entries)

    def save_anchors(self) -> None:
        """Write the trust anchor file in the first worker, so that a write error is logged at start."""
        if self.rollover is not None and not self.number:
            self.rollover.save()

    def schedule_probe(self) -> None:
        """Probe the zones that are due and schedule the next call."""
        rest = 0.0
        if self.rollover is not None and not self.number and not self.stopping.done():
            rest = self.rollover.tick()  # may call this method again when a probe ends at once
        if self.rollover_timer is not None:
            self.rollover_timer.cancel()
        self.rollover_timer = self.loop.call_later(rest, self.schedule_probe) if rest else None

    def query_uncached(self, question: Question, cd: bool, on_done: Callable[[Outcome], None]) -> bool:
        resolver = self.current.resolver
        begun = resolver.mesh.refresh(question, cd=cd, on_done=on_done)
        resolver.process_timers()
        return begun

    def apply_anchor_change(self, point: "TrustPoint") -> None:
        """Apply changed trusted keys of a zone, and drop its cached DNSKEY RRset, validated by the old ones."""
        validation = self.current.resolver.mesh.validation
        if validation is not None:
            validation.anchors.put(point.zone, point.trusted())
        try:
            self.store.drop(point.zone, rtype=c.DNSKEY)
        except BlockingIOError as error:
            logger.warning("trust anchors: the cache keeps the old keys until their TTL expires: %s", error)

    def publish_anchors(self) -> None:
        """After a probe: schedule the next one and send the key states to the other workers."""
        self.schedule_probe()
        if self.links is not None and self.rollover is not None:
            self.start_task(self.send_anchors(self.rollover.text))

    # --- certificates that expire -----------------------------------------------------------------------------------

    def watch_certificates(self) -> None:
        """Warn of certificates that expire soon, once a day; the first worker does it for all."""
        if self.number or self.stopping.done():
            return
        if self.certificate_timer is not None:
            self.certificate_timer.cancel()
        now, certificates = self.current.resolver.clock.time(), self.current.certificates
        if certificates is not None:
            for level, text in self.expiry_watch.due(certificates, now):
                logger.log(level, "%s", text)
        self.certificate_timer = self.loop.call_later(limits.CERTIFICATE_CHECK, self.watch_certificates)

    def rotate_ticket_keys(self) -> None:
        """Use the session ticket keys of this period, in every worker, and go on at the next one."""
        if self.ticket_timer is not None:
            self.ticket_timer.cancel()
            self.ticket_timer = None
        certificates = self.current.certificates
        if certificates is None or self.stopping.done():
            return
        left = certificates.rotate_ticket_keys(time.monotonic())
        if certificates.ticket_trouble and not self.number:
            logger.warning("tls: %s; they are not changed, and a reload with other certificates makes new ones",
                           certificates.ticket_trouble)
        self.ticket_timer = self.loop.call_later(left, self.rotate_ticket_keys)

    def log_limited_rates(self) -> None:
        """Log which client prefixes have begun to exceed a limit of rates, and go on doing so."""
        if self.rate_timer is not None:
            self.rate_timer.cancel()
            self.rate_timer = None
        rates = self.current.rates
        if not rates.active or self.stopping.done():
            return
        for prefix, kind, verdict in rates.take_events():
            if kind in ("unverified", "verified"):
                logger.warning("rate limit: %s queries of %s exceed the limit: %s", kind, prefix, verdict)
            else:
                logger.warning("rate limit: replies (%s) to %s exceed the limit: %s", kind, prefix, verdict)
        interval = max(self.configured.log.rate_limit_interval, limits.RATE_LOG_INTERVAL)
        self.rate_timer = self.loop.call_later(interval, self.log_limited_rates)

    def check_lists(self) -> None:
        """Load lists whose files have changed, and go on doing so; the first worker also fetches them."""
        if self.list_timer is not None:
            self.list_timer.cancel()
            self.list_timer = None
        lists = self.current.lists
        if lists is None or self.stopping.done():
            return
        self.start_task(lists.update(fetches=not self.number, changed=self.apply_list_change))
        self.list_timer = self.loop.call_later(limits.LIST_CHECK_INTERVAL, self.check_lists)

    def flush_observation(self) -> None:
        """Let the query log and dnstap write what was recorded, and go on doing so."""
        if self.flush_timer is not None:
            self.flush_timer.cancel()
            self.flush_timer = None
        if self.current.observation.outputs:
            self.current.observation.flush()
            self.flush_timer = self.loop.call_later(limits.OBSERVE_FLUSH / 1000, self.flush_observation)

    def apply_list_change(self, zone: bool) -> None:
        """Flush what was cached before a list changed. `zone`: a response policy zone, whose triggers for name servers
        need everything to be resolved again; for other lists the finished answers are enough."""
        try:
            if zone:
                self.store.clear()
            else:
                self.store.drop(names.ROOT, rtype=c.A)  # any flush removes all finished answers
        except BlockingIOError as error:
            logger.warning("lists: some answers from before the change stay until their TTL expires: %s", error)

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` as a task that is cancelled when the worker stops."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def send_anchors(self, text: str) -> None:
        from resolver.daemon.worker_ipc import WorkerError

        assert self.links is not None
        for number in self.links.others:
            try:
                await self.links.ask(number, {"command": "take-anchors", "text": text})
            except WorkerError as error:
                logger.warning("trust anchors: %s; it gets the new keys after the next probe or its restart", error)

    def take_anchors(self, text: str) -> None:
        """Take the key states of the first worker.

        Raises:
            ValueError: `text` is malformed.
        """
        if self.rollover is None:
            return
        before = self.rollover.trusted()
        self.rollover.take_text(text)
        logger.debug("trust anchors: worker %d got the key states of the first worker", self.number)
        for zone, identity in self.rollover.trusted().items():
            if identity != before.get(zone):
                self.apply_anchor_change(self.rollover.points[zone])

    # --- signals --------------------------------------------------------------------------------------------------

    def on_stop(self, reason: str) -> None:
        if not self.stopping.done():
            self.stopping.set_result(reason)

    def check_signatures(self, jobs: Sequence[Any], on_done: Callable[[list[bool] | Exception], None]) -> None:
        """Verify signatures; `on_done` gets the results or an exception, possibly before this returns."""
        results = self.current.resolver.crypto.verify(jobs, on_done)
        if results is not None:
            on_done(results)

    def on_report(self) -> None:
        """Log every counter that is not zero."""
        for group, counters in self.commands.perform({"command": "statistics"}).items():
            shown = " ".join(f"{name}={value}" for name, value in _without_zeros(counters).items())
            logger.info("statistics: %s: %s", group, shown or "all counters are zero")

    # --- reload ---------------------------------------------------------------------------------------------------

    def on_reload(self) -> None:
        """SIGHUP: start a reload, unless one is already waiting to start."""
        if self.number:
            logger.info("reload: worker %d ignores SIGHUP; send it to the supervisor", self.number)
        elif not self.reload_waits and not self.stopping.done():
            self.reload_waits = True
            self.start_task(self.reload_in_turn())

    async def reload_in_turn(self) -> None:
        async with self.reloading:
            self.reload_waits = False
            await self.run_reload()

    async def do_reload(self) -> str:
        """Reload the configuration. Return "" when it is in force, else the reason why the old one was kept."""
        async with self.reloading:
            return await self.run_reload()

    async def run_reload(self) -> str:
        """One reload, of which the service manager is notified unless there is a supervisor that does it."""
        manager = ServiceManager() if self.multi_worker else self.options.manager
        manager.reloading()
        try:
            self.reload_problem = await self.reload_all()
        finally:
            refused = self.reload_problem
            manager.ready(f"the last reload was refused: {refused}" if refused else self.describe_service())
        return self.reload_problem

    async def reload_all(self) -> str:
        """One reload; the first of several workers reloads the others too."""
        asked = self.links.reloads.last_request() if self.links is not None else 0
        try:
            new = await self.prepare()
            with new.undo:
                if self.links is not None:
                    await prepare_workers(self.links)
                if new.runtime.rules != self.current.rules:
                    self.store.clear()  # last, so that a failed reload does not flush the cache
                new.undo.pop_all()
        except (ValueError, OSError, MemoryError, RefusedError) as error:
            # Whatever the reason, the other workers must discard what they have prepared.
            if self.links is not None:
                await abort_workers(self.links)
                report_to_supervisor(self.links, asked, None)
            return log_reload_error(error)
        self.switch(new)
        if self.links is None:
            return ""
        report_to_supervisor(self.links, asked, self.configured)
        missing = await commit_workers(self.links)
        return f"the new configuration is in force, but not in all workers: {missing}" if missing else ""

    def prepare_reload(self) -> None:
        """Prepare a switch that the first worker will commit or abort.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        self.abort_reload()
        with ExitStack() as undo:
            given, runtime, rollover, changes, _ = self.build_new(undo)
            self.prepared = _Prepared(given, runtime, rollover, changes, [], undo.pop_all())

    def abort_reload(self) -> None:
        """Discard what was prepared."""
        if self.prepared is not None:
            self.prepared.undo.close()
            self.prepared = None

    def commit_reload(self) -> None:
        """Switch after the first worker.

        Raises:
            ValueError, OSError: this worker was started after the preparation and cannot prepare now.
        """
        if self.prepared is None:
            self.prepare_reload()
        new, self.prepared = self.prepared, None
        assert new is not None
        new.undo.pop_all()
        if new.runtime.rules != self.current.rules:
            self.try_clear()
        self.switch(new)

    # --- run-time changes -----------------------------------------------------------------------------------------

    async def apply_changes(self, new: RuntimeChanges) -> str:
        """Put run-time changes into force in all workers, or in none. The caller holds `reloading`.

        The file is replaced after all have prepared and before one has switched, so a worker that is started in between
        finds the changes. Return "", or which workers did not confirm the switch.

        Raises:
            ValueError: the changes cannot be used or written; the text says why.
        """
        assert new.path is not None
        candidate = candidate_of(new.path)
        try:
            with ExitStack() as undo:
                await asyncio.to_thread(new.write, candidate)
                undo.callback(candidate.unlink, missing_ok=True)
                prepared = self.build_changed(new)
                undo.callback(prepared.undo.close)
                if self.links is not None:
                    await prepare_workers(self.links, "changes")
                os.replace(candidate, new.path)
                undo.pop_all()
        except (ValueError, OSError, MemoryError, RefusedError, CacheFileError) as error:
            if self.links is not None:
                await abort_workers(self.links)
            raise ValueError(describe_error(error)) from None
        prepared.undo.pop_all()
        changed = self.changed_names(new)
        self.switch(prepared, changed)
        missing = "" if self.links is None else await commit_workers(self.links, "changes")
        for name in changed:
            await self.flush_names(name)
        return missing

    def changed_names(self, new: RuntimeChanges) -> tuple[bytes, ...]:
        """The names at and below which answers may change with `new`."""
        differ = set(self.changes.entries) ^ set(new.entries)
        return tuple(sorted({change.origin for change in differ}))

    def prepare_changes(self, path: Path | None = None) -> None:
        """Prepare run-time changes that the first worker will commit or abort. `path` is their file; None: the
        candidate of the first worker.

        Raises:
            ValueError, OSError: they cannot be used or read.
        """
        self.abort_reload()
        file = self.configured.control.changes_file
        path = path or candidate_of(Path(file))
        self.prepared = self.build_changed(RuntimeChanges(Path(file), read_changes(path)))

    def commit_changes(self) -> None:
        """Switch after the first worker.

        Raises:
            ValueError, OSError: this worker was started after the preparation and cannot prepare now.
        """
        if self.prepared is None:
            self.prepare_changes(Path(self.configured.control.changes_file))
        new, self.prepared = self.prepared, None
        assert new is not None
        new.undo.pop_all()
        self.switch(new, self.changed_names(new.changes))

    def build_changed(self, changes: RuntimeChanges) -> _Prepared:
        """What a switch to other run-time changes needs.

        Raises:
            ValueError: they do not go with the configuration.
        """
        with ExitStack() as undo:
            given, runtime, rollover, _, _ = self.build_new(undo, changes)
            return _Prepared(given, runtime, rollover, changes, [], undo.pop_all())

    # --- the switch -----------------------------------------------------------------------------------------------

    def switch(self, new: _Prepared, changed: tuple[bytes, ...] | None = None) -> None:
        """Switch to what was prepared; this cannot fail. `changed`: only run-time changes were made, and answers at and
        below these names may change."""
        if new.rollover is not None:
            self.carry_over_anchors(new.rollover, new.runtime)  # again, because key states may have changed since
        old_differs = new.runtime.rules != self.current.rules
        old, self.current = self.current, new.runtime
        new.runtime.resolver.upstream.continue_probing(old.resolver.upstream)
        self.follow_fleet(old)
        running = old.resolver.mesh.statistics()["running"]
        if changed is None:
            old.flush_on_close = bool(running) and old_differs
        elif running:
            old.names_on_close = changed
        self.changes = new.changes
        if self.rollover is not None and not self.number:
            self.remember({"trust_anchors": self.rollover.statistics()})
        self.rollover = new.rollover
        new.runtime.resolver.zones.carry_over(old.resolver.zones)
        self.switch_keeper(new.runtime)
        wanted = new.runtime.listeners
        for listeners in list(self.listeners):
            endpoint = listeners.endpoint
            if endpoint.key in wanted:
                listeners.switch(new.runtime)
            else:
                self.listeners.remove(listeners)
                self.endpoints.remove(endpoint)
                for udp in listeners.udp:
                    self.remember({"client_udp": udp.statistics()})
                if listeners.tcp is not None:
                    self.remember({GROUPS[endpoint.protocol]: listeners.tcp.statistics()})
                listeners.close()
                endpoint.close()
        self.listeners += new.added
        self.endpoints += [listeners.endpoint for listeners in new.added]
        self.configured = new.configured
        self.draining[old] = self.loop.create_task(self.retire(old))
        if changed is None:
            log.set_up(new.configured.log)
        self.save_anchors()
        self.schedule_probe()
        self.watch_certificates()
        self.rotate_ticket_keys()
        self.check_lists()
        self.flush_observation()
        self.log_limited_rates()
        if self.change_keeper is not None:
            self.change_keeper.schedule()
        if changed is None:
            if new.changes.trouble and not self.number:
                logger.error("%s", new.changes.trouble)
            logger.info("reload: the new configuration is in force")

    def build_new(
        self, undo: ExitStack, changes: RuntimeChanges | None = None
    ) -> "tuple[Settings, RuntimeConfig, AnchorUpdater | None, RuntimeChanges, list[Endpoint]]":
        """The new settings, their objects, the run-time changes, and opened sockets without listeners; `undo` closes
        them. With `changes`, the settings in force with these changes, and no sockets.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        with with_config_location(self.options.config if changes is None else ""):
            opened = []
            if changes is None:
                given = merge_restart_only(self.configured, self.reload(), several=self.multi_worker)
                sockets.check_sources(given.iteration)
                opened = [] if self.multi_worker else self.open_new(given)
                changes = RuntimeChanges.load(given.control.changes_file, self.changes)
            else:
                given = self.configured
            undo.callback(sockets.close_all, [opened])
            runtime = RuntimeConfig(
                changes.applied_to(self.override_settings(given)), self.store, self.loop, self.current.certificates,
                self.current.resolver.tls_contexts, self.current.lists, self.current.rates, self.current.observation,
            )
        undo.callback(runtime.close, self.current)
        return given, runtime, self.make_rollover(runtime), changes, opened

    async def prepare(self) -> _Prepared:
        """All steps of a reload that can fail. On error, completed steps are undone.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        with ExitStack() as undo:
            given, runtime, rollover, changes, opened = self.build_new(undo)
            contexts = runtime.resolver.tls_contexts
            if contexts is not None:
                # In a thread, because it takes some 25 ms for each context. The other workers make theirs when needed.
                with with_config_location(self.options.config):
                    await self.loop.run_in_executor(None, contexts.prepare_all, runtime.settings)
            added = []
            for endpoint in opened:
                listeners = Listeners(endpoint, self.turns)
                try:
                    await listeners.start(runtime)
                except OSError as error:
                    text = f"cannot serve {endpoint}: {error.strerror or error}"
                    refusal = ListenError(error.errno, text, endpoint=endpoint.key)
                    raise self.with_listen_setting(refusal, given) from None
                undo.callback(listeners.close)
                added.append(listeners)
            return _Prepared(given, runtime, rollover, changes, added, undo.pop_all())

    def open_new(self, given: Settings) -> list[Endpoint]:
        """Open sockets for addresses that are not served yet.

        Raises:
            ListenError: an address is not available.
        """
        served = {endpoint.key for endpoint in self.endpoints}
        new = tuple(listener.key for listener in given.listeners if listener.key not in served)
        lenient = given.server.listen == Settings().server.listen  # as at start
        try:
            return sockets.open_endpoints(new, lanes=given.server.lanes, lenient=lenient, enough=bool(served))[0]
        except ListenError as error:
            raise self.with_listen_setting(self.explain_own_port(error), given) from None

    def explain_own_port(self, error: ListenError) -> ListenError:
        """`error`, with another text when this daemon itself uses the port."""
        if error.errno != errno.EADDRINUSE or error.endpoint is None:
            return error
        address, port, _ = error.endpoint
        whole = "::" if ":" in address else "0.0.0.0"
        for own in self.endpoints:
            if own.port == port and (":" in own.address) == (":" in address) and whole in (own.address, address):
                text = f"cannot listen on {address} port {port} while this daemon serves {own}; restart to change it"
                return ListenError(error.errno, text, endpoint=error.endpoint)
        return error

    def with_listen_setting(self, error: ListenError, given: Settings) -> ListenError:
        """`error` with the setting that names the address, and its line in the configuration file."""
        setting, wanted = "server.listen", ""
        for number, listener in enumerate(given.listeners):
            if listener.key == error.endpoint:
                wanted = listener.address
                setting = "server.listen" if number < len(given.server.listen) else "listener"
        reason = ValueError(f"{setting}: {wanted!r}: {error.strerror}")
        if self.options.config:
            from resolver.daemon.config import add_location

            reason = add_location(self.options.config, reason)
        return ListenError(error.errno, str(reason), endpoint=error.endpoint)

    def switch_keeper(self, runtime: RuntimeConfig) -> None:
        """Keep the zones of a new configuration. Until they are read again, the content so far serves."""
        before, self.keeper = self.keeper, self.make_keeper(runtime)
        if before is not None:
            before.stop()
            if not self.number:
                self.remember({"zones": before.statistics()})
        if self.keeper is not None:
            if before is not None:
                self.keeper.carry_over(before)
            self.start_task(self.start_keeper(self.keeper))

    async def retire(self, old: RuntimeConfig) -> None:
        """Close a replaced configuration when its last query is answered, or after its query timeout."""
        until = self.loop.time() + old.settings.iteration.query_timeout
        while old.service.waiting and self.loop.time() < until:
            await asyncio.sleep(limits.DRAIN_POLL / 1000)
        self.finish(old)
        del old
        # Its objects refer to each other. They are few, so the collector, which counts objects, would let them be for
        # long; but they hold the tables of lists and policies, which are large.
        gc.collect()

    def finish(self, old: RuntimeConfig) -> None:
        """Close a replaced configuration, and flush the cache if its last queries may have stored outdated answers."""
        del self.draining[old]
        self.remember(of_runtime(old))
        if old.observation is not self.current.observation:
            self.remember(old.observation.statistics())
        old.close(self.current)
        if old.flush_on_close:
            self.try_clear()
        for name in old.names_on_close:
            if self.stopping.done():
                self.try_drop(name)  # no task is run any more, and the cache may be saved
            else:
                self.start_task(self.flush_names(name))

    def try_drop(self, name: bytes) -> None:
        """Flush what is cached at and below `name`; log when that is impossible, as `try_clear`."""
        try:
            self.store.drop(name, subtree=True)
        except BlockingIOError as error:
            logger.warning("%s: old answers stay cached until their TTL expires: %s", names.to_text(name), error)

    def remember(self, statistics: Statistics) -> None:
        """Go on showing the counters of something that ends."""
        add_counters(self.past, counters_of(statistics))

    def try_clear(self) -> None:
        """Flush the cache; if a stopped process holds a lock of it, log that outdated answers stay."""
        try:
            self.store.clear()
        except BlockingIOError as error:
            logger.warning("reload: old answers stay cached until their TTL expires: %s", error)

    # --- stop -----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait up to `limits.DRAIN` for answers to waiting clients, then close everything."""
        for server in self.management_servers.values():
            server.close()
        for timer in (
            self.rollover_timer, self.certificate_timer, self.ticket_timer, self.life_timer, self.keep_timer,
            self.rate_timer, self.flush_timer,
        ):
            if timer is not None:
                timer.cancel()
        if self.change_keeper is not None:
            self.change_keeper.stop()
        if self.keeper is not None:
            self.keeper.stop()
        if self.links is not None:
            self.links.stop()
        until = self.loop.time() + limits.DRAIN / 1000
        configurations = (self.current, *self.draining)
        for task in self.tasks:
            task.cancel()
        while any(one.service.waiting for one in configurations) and self.loop.time() < until:
            await asyncio.sleep(limits.DRAIN / 10000)
        self.abort_reload()
        for listeners in self.listeners:
            listeners.close()
        for old, task in list(self.draining.items()):
            task.cancel()
            self.finish(old)
        self.current.close(wait=True)
        if self.channel is not None:
            self.loop.remove_reader(self.channel)


def _without_zeros(counters: dict[str, Any]) -> dict[str, Any]:
    """The counters that are not zero, also within dictionaries."""
    shown = {name: _without_zeros(value) if isinstance(value, dict) else value for name, value in counters.items()}
    return {name: value for name, value in shown.items() if value}
