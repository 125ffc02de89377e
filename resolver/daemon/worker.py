"""One worker: an event loop with listeners and a resolver; start, reload and stop.

A reload is all or nothing. Each step that can fail (files, policies, trust anchors, sockets, locks of the cache) is
done before the switch and undone when a later one fails; the switch itself cannot fail. Several workers reload
together, led by the first. Queries in progress are completed with the old configuration. The cache is kept, unless
settings changed on which cached answers depend (validation, local names, forwarding).
"""

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import corenet
from corenet._version import __version__
from corenet.serving.processes import receive
from resolver import limits
from resolver.api import make_store
from resolver.cache import Store
from resolver.daemon import log, reload_sockets, sockets
from resolver.daemon.anchor_keeper import AnchorKeeper
from resolver.daemon.cache_file import CacheFileError, load_at_start, save_at_stop
from resolver.daemon.certificates import Certificates, ExpiryWatch
from resolver.daemon.change_keeper import ChangeKeeper
from resolver.daemon.config_reload import (
    RefusedError,
    abort_workers,
    align_workers,
    commit_workers,
    describe_error,
    log_reload_error,
    merge_restart_only,
    prepare_workers,
    report_to_supervisor,
    settings_digest,
    with_config_location,
)
from resolver.daemon.fleet import Fleet
from resolver.daemon.management_sockets import ManagementSockets
from resolver.daemon.preflight import clock_trouble
from resolver.daemon.resource_exhaustion import install_exception_handler
from resolver.daemon.runtime_changes import RuntimeChanges, candidate_of
from resolver.daemon.runtime_changes import read as read_changes
from resolver.daemon.runtime_config import Listeners, RuntimeConfig
from resolver.daemon.service_manager import ServiceManager
from resolver.daemon.sockets import Endpoint, ListenError
from resolver.daemon.timers import Timers
from resolver.daemon.usage import usage
from resolver.daemon.watching import Watching
from resolver.daemon.worker_commands import (
    WorkerCommands,
    add_counters,
    kept_part,
    of_outputs,
    of_runtime,
    of_shared,
)
from resolver.daemon.worker_ipc import NO_RELOAD
from resolver.daemon.worker_upgrade import CONFIRMED, HANDED_OVER, REFUSAL, WorkerUpgrades
from resolver.daemon.zone_sharing import ZoneSharing
from resolver.net.in_thread import in_thread
from resolver.net.turns import Turns
from resolver.observe.catalogue import Statistics, counters_of
from resolver.settings import Settings
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.balance_checks import BalanceChecks
    from resolver.daemon.management import ManagementServer
    from resolver.daemon.predecessor import Predecessor
    from resolver.daemon.web_access import WebAccess
    from resolver.daemon.web_server import WebServer
    from resolver.daemon.zone_keeper import ZoneKeeper
    from resolver.net.client_contexts import TlsContexts
    from resolver.observe.kept import KeptCounters
    from resolver.observe.output import Output

__all__ = ["Options", "Reload", "run"]

logger = logging.getLogger(__name__)

Reload = Callable[[], Settings]
HEARTBEAT = b"."
WATCHDOG_HEARTBEATS = limits.WATCHDOG_HEARTBEATS


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a worker that are not in the settings.

    `config` is the path of the configuration file, or empty; `number` counts the workers from 0; `successor` tells that
    this one replaces another that has ended; `management` has the sockets opened before the fork, of which the first
    worker uses all and the others only the channels; `certificates` were read before the fork; `manager` is the service
    manager, which the single worker or the supervisor notifies. `predecessor` is the process that the single worker
    replaces at an upgrade; for other workers `confirmed` and `upgrading` say what `WorkerUpgrades` begins with.
    """

    playground: bool = False
    show_example: bool = False
    config: str = ""
    number: int = 0
    successor: bool = False
    management: ManagementSockets | None = None
    certificates: Certificates | None = None
    tls_contexts: "TlsContexts | None" = None
    manager: ServiceManager = field(default_factory=ServiceManager)
    predecessor: "Predecessor | None" = None
    confirmed: bool = True
    upgrading: bool = False


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
    web_access: "WebAccess | None" = None
    """Who may read the web page from now on; None: as before."""


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
        self.upgrades = WorkerUpgrades(
            self, confirmed=options.confirmed and options.predecessor is None, running=options.upgrading
        )
        #: a new process serves in place of this one.
        self.handed_over = False
        #: the loop's time at which `drain` waits no longer.
        self.drain_until = math.inf
        self.status = 0
        self.commands = WorkerCommands(self)
        self.management_servers: dict[str, ManagementServer] = {}
        self.web: WebServer | None = None
        self.listeners: list[Listeners] = []
        self.turns = Turns()
        self.kept: KeptCounters | None = None if options.management is None else options.management.kept
        #: counters of predecessors of this worker, of configurations that were replaced, and of closed listeners.
        self.past: Statistics = {} if self.kept is None else self.kept.load(options.number)
        self.keeping_fails = False
        self.override_settings: Callable[[Settings], Settings] = lambda given: given
        self.tasks: set[asyncio.Task[Any]] = set()
        self.draining: dict[RuntimeConfig, asyncio.Task[None]] = {}
        #: outputs of the query log and dnstap that were stopped, until their threads have ended.
        self.ending: list[Output] = []
        self.in_playground = False
        self.timers = Timers()
        self.anchors = AnchorKeeper(self)
        self.zones = ZoneSharing(self)
        self.fleet = Fleet(self)
        self.watching = Watching(self)
        self.changes = RuntimeChanges()
        self.change_keeper: ChangeKeeper | None = None
        self.reloading = asyncio.Lock()
        self.expiry_watch = ExpiryWatch()
        self.reload_waits = False
        self.prepared: _Prepared | None = None
        #: why the last reload was refused; "" when it was not.
        self.reload_problem = ""
        self.awaiting_restart: tuple[str, ...] = ()
        """Settings whose new values, read at the last reload, take effect after a restart."""

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
            loop.add_reader(self.channel, self.on_supervisor)
        else:
            loop.add_signal_handler(signal.SIGUSR2, self.upgrades.on_signal)
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
            self.current = self.make_first()
            predecessor = self.options.predecessor
            if self.uses_cache_file and predecessor is not None:
                predecessor.load_cache(self.store, self.current.settings)
            elif self.uses_cache_file and self.configured.cache.snapshot_file:
                load_at_start(self.store, self.current.settings)
            self.fleet.follow(self.current)
            self.anchors.switch(self.anchors.make(self.current), self.current)
            self.anchors.save()
            await self.zones.start(self.current)
            for endpoint in self.endpoints:
                listeners = Listeners(endpoint, self.turns)
                self.listeners.append(listeners)
                await listeners.start(self.current)
            gc.set_threshold(limits.GC_YOUNG, limits.GC_MIDDLE, limits.GC_OLD)
            gc.freeze()  # existing objects live until the end, so the collector skips them
            gc.enable()
            await self.start_management()
            self.zones.ask_for_unwritten()
            self.ask_for_changes()
            if self.links is not None and not self.number:
                if self.changes.path is not None:
                    self.report_settings()  # the supervisor does not know whether the file could be used
                if self.options.successor:
                    self.start_task(self.align_workers())
            self.announce()
            unblocked = (signal.SIGHUP, signal.SIGUSR1, *(() if self.multi_worker else (signal.SIGUSR2,)))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, unblocked)  # blocked by main
            self.anchors.probe()
            self.watch_certificates()
            self.rotate_ticket_keys()
            self.report_ready()
            self.check_lists()
            self.check_targets(None)
            self.keep_regularly()
            self.log_limited_rates()
            if not self.number:
                self.change_keeper = ChangeKeeper(self)
                if self.is_main:
                    self.change_keeper.schedule()
            self.flush_observation()
            if self.options.show_example:
                from resolver.daemon import demo

                shown = "www.example.playground." if in_playground else "www.iana.org."
                await demo.show_example(self.endpoints[0], shown, self.configured.iteration.query_timeout)
            reason = await self.stopping
            logger.info("stopping on %s", reason)
            if not self.multi_worker and self.is_main:
                self.options.manager.stopping()
            await self.drain()
            if self.uses_cache_file and self.configured.cache.snapshot_file and self.is_main:
                save_at_stop(self.store, self.current.settings)
        return self.status

    @property
    def number(self) -> int:
        """The number of this worker, from 0."""
        return self.options.number

    @property
    def is_main(self) -> bool:
        """Whether this process is the main one of the service. Two processes serve during an upgrade, and only the main
        one writes files, probes trust anchors, and takes commands."""
        return self.upgrades.confirmed and not self.handed_over

    @property
    def rollover(self) -> "AnchorUpdater | None":
        """The automated updates of trust anchors, if there are any."""
        return self.anchors.updater

    @property
    def keeper(self) -> "ZoneKeeper | None":
        """The own zones, if there are any."""
        return self.zones.keeper

    def connections(self) -> dict[str, dict[str, Any]]:
        """Counters of all listeners by group."""
        total: dict[str, dict[str, Any]] = {}
        for listeners in self.listeners:
            for udp in listeners.udp:
                add_counters(total, {"client_udp": udp.statistics()})
            if listeners.tcp is not None:
                add_counters(total, {GROUPS[listeners.endpoint.protocol]: listeners.tcp.statistics()})
        if self.web is not None:
            add_counters(total, {"web": self.web.statistics()})
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
            self.timers.start("counters", limits.COUNTERS_KEPT / 1000, self.keep_regularly)

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
        """The first worker serves the control socket, the metrics and the web page, when its process is the main one.
        The others reply to its requests."""
        management = self.options.management
        if management is None:
            return
        if self.links is not None:
            if self.number:
                self.links.serve(self.loop, self.number, self.commands.perform_link)
                return
            self.links.listen(self.loop)
            self.loop.add_reader(self.links.upgrades.reports_fileno(), self.upgrades.take_reports)
            self.links.on_event = self.on_event
        if management.control is None and management.metrics is None and management.web is None:
            return
        from resolver.daemon.control import ControlCommands, ControlServer
        from resolver.daemon.metrics import MetricsServer

        control_commands = ControlCommands(self, self.commands)
        if management.control is not None:
            self.management_servers["control"] = ControlServer(control_commands)
        if management.metrics is not None:
            self.management_servers["metrics"] = MetricsServer(control_commands.statistics, __version__)
        if management.web is not None:
            from resolver.daemon.web_server import WebServer

            self.web = WebServer(control_commands, self.first_web_access(management))
            self.management_servers["web"] = self.web
        if self.is_main:
            await self.accept_commands()

    async def accept_commands(self) -> None:
        """Accept connections on the sockets of `management_servers`, unless that is done already. Clients that connect
        before wait in the queues of the sockets."""
        management = self.options.management
        for name, server in self.management_servers.items():
            if server.started:
                continue
            assert management is not None
            opened = {"control": management.control, "metrics": management.metrics, "web": management.web}[name]
            assert opened is not None
            await server.start(opened.dup())
            if name == "web":
                host, port = opened.getsockname()[:2]
                logger.info("web: the page is at http://%s:%d/", f"[{host}]" if ":" in host else host, port)

    def first_web_access(self, management: ManagementSockets) -> "WebAccess | None":
        """Who may read the web page when this worker starts. A successor reads the token again, because the one that
        was read at the start of the daemon may have been replaced since; without it, nobody may."""
        if not self.options.successor:
            return management.web_access
        try:
            return self.read_web_access(self.configured)
        except ValueError as error:
            logger.error("web: nobody can read the page until a reload: %s", error)
            return None

    def read_web_access(self, given: Settings) -> "WebAccess":
        """Who may read the web page by `given`.

        Raises:
            ValueError: the token file cannot be used; the text names the setting.
        """
        from resolver.daemon.web_access import WebAccess

        return WebAccess.load(given.web)

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
        """Clients are served: tell the supervisor, or without one the service manager. Begin the heartbeats. In an
        upgrade the old process is the one to be told; the service manager is when that has confirmed."""
        predecessor = self.options.predecessor
        if predecessor is not None:
            predecessor.ready()
            self.loop.add_reader(predecessor.fileno(), self.on_predecessor, predecessor)
            return
        if self.channel is None:
            self.options.manager.ready(self.describe_service())
        self.send_heartbeat()

    def on_predecessor(self, predecessor: "Predecessor") -> None:
        """The old process has confirmed, or has ended."""
        self.loop.remove_reader(predecessor.fileno())
        if not predecessor.confirmed():
            self.status = 1
            self.on_stop("end of the old process during the upgrade")
            return
        predecessor.close()
        self.options = replace(self.options, predecessor=None)
        if self.options.management is not None:
            self.options.management.owns_path = True
        if predecessor.flushed:
            logger.info("cache: flushed, because the old process has flushed some of it during the upgrade")
            self.try_clear()
        self.upgrades.confirm()
        self.report_ready()

    def send_heartbeat(self) -> None:
        """Send a heartbeat, four times in the period of the watchdog. To the supervisor, the first also says that
        this worker is ready."""
        watchdog = self.options.manager.watchdog
        if self.channel is None:
            if watchdog:
                self.options.manager.alive()
        else:
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                # Full: the supervisor has not read earlier ones. Closed: `on_stop` is about to be called.
                self.channel.send(HEARTBEAT, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if watchdog:
            self.timers.start("heartbeat", watchdog / WATCHDOG_HEARTBEATS, self.send_heartbeat)

    def describe_service(self) -> str:
        """One line for the status of the service manager."""
        return "serving " + ", ".join(str(endpoint) for endpoint in self.endpoints)

    async def flush_names(self, origin: bytes) -> None:
        try:
            for _ in self.store.flush(origin, subtree=True):
                await asyncio.sleep(0)
        except BlockingIOError as error:
            logger.warning("%s: old answers stay cached until their TTL expires: %s", names.to_text(origin), error)

    # --- what is done from time to time ---------------------------------------------------------------------------

    def watch_certificates(self) -> None:
        """Warn of certificates that expire soon, once a day; the first worker does it for all."""
        if self.number or self.stopping.done():
            return
        now, certificates = self.current.resolver.clock.time(), self.current.certificates
        if certificates is not None:
            for level, text in self.expiry_watch.due(certificates, now):
                logger.log(level, "%s", text)
        self.timers.start("certificates", limits.CERTIFICATE_CHECK, self.watch_certificates)

    def rotate_ticket_keys(self) -> None:
        """Use the session ticket keys of this period, in every worker, and go on at the next one."""
        self.timers.cancel("tickets")
        certificates = self.current.certificates
        if certificates is None or self.stopping.done():
            return
        left = certificates.rotate_ticket_keys(time.monotonic())
        if certificates.ticket_trouble and not self.number:
            logger.warning("tls: %s; they are not changed, and a reload with other certificates makes new ones",
                           certificates.ticket_trouble)
        self.timers.start("tickets", left, self.rotate_ticket_keys)

    def log_limited_rates(self) -> None:
        """Log which client prefixes have begun to exceed a limit of rates, and go on doing so."""
        self.timers.cancel("rates")
        rates = self.current.rates
        if not rates.active or self.stopping.done():
            return
        for prefix, kind, verdict in rates.take_events():
            if kind in ("unverified", "verified"):
                logger.warning("rate limit: %s queries of %s exceed the limit: %s", kind, prefix, verdict)
            else:
                logger.warning("rate limit: replies (%s) to %s exceed the limit: %s", kind, prefix, verdict)
        interval = max(self.configured.log.rate_limit_interval, limits.RATE_LOG_INTERVAL)
        self.timers.start("rates", interval, self.log_limited_rates)

    def check_lists(self) -> None:
        """Load lists whose files have changed, and go on doing so; the first worker also fetches them."""
        self.timers.cancel("lists")
        lists = self.current.lists
        if lists is None or self.stopping.done():
            return
        fetches = not self.number and self.is_main
        self.start_task(lists.update(fetches=fetches, changed=self.apply_list_change))
        self.timers.start("lists", limits.LIST_CHECK_INTERVAL, self.check_lists)

    def check_targets(self, before: "BalanceChecks | None") -> None:
        """Check the targets of balanced names in this worker, with the states of `before`, which is stopped."""
        checks = self.current.balance
        if checks is not None and not self.stopping.done():
            checks.start(before)
        elif before is not None:
            before.close()

    def flush_observation(self) -> None:
        """Let the query log and dnstap write what was recorded, and go on doing so."""
        self.timers.cancel("observation")
        if self.current.observation.outputs:
            self.current.observation.flush()
            self.timers.start("observation", limits.OBSERVE_FLUSH / 1000, self.flush_observation)

    def settle_outputs(self) -> None:
        """Remember the counters of stopped outputs whose threads have ended, and look again for the others."""
        for output in [one for one in self.ending if not one.alive]:
            self.ending.remove(output)
            output.note_unwritten()
            self.remember(of_outputs([output]))
        if self.ending:
            self.timers.start("outputs", limits.OBSERVE_STOP / 1000, self.settle_outputs)

    def apply_list_change(self, asks_servers: bool) -> None:
        """Flush what was cached before a list changed. `asks_servers`: it is a response policy zone with triggers for
        name servers, which need everything to be resolved again; otherwise the finished answers are enough."""
        try:
            if asks_servers:
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

    # --- signals --------------------------------------------------------------------------------------------------

    def on_stop(self, reason: str) -> None:
        if not self.stopping.done():
            self.stopping.set_result(reason)
        elif self.handed_over:  # the new process is stopped, too
            self.drain_until = min(self.drain_until, self.loop.time() + limits.DRAIN / 1000)

    def on_supervisor(self) -> None:
        """The supervisor says that a new process serves, that its own is the main one now, or has ended."""
        assert self.channel is not None
        said = receive(self.channel)
        if said == HANDED_OVER:
            if self.links is not None and not self.number:
                self.upgrades.take_reports()
            self.hand_over()
        elif said == CONFIRMED:
            self.upgrades.confirm()
        elif said is not None:
            self.on_stop("exit of the supervisor")

    def hand_over(self) -> None:
        """A new process serves: take no more queries and commands, and end when those in progress are completed."""
        self.handed_over = self.upgrades.running = True
        self.anchors.retire()
        self.stop_reading()
        self.on_stop("upgrade")

    async def catch_up(self) -> None:
        """An upgrade has ended, and this process goes on: as the new one, or as the old one after a failure. Get what
        only the other one has read or was told of meanwhile."""
        if self.stopping.done():
            return
        try:
            if not self.changes.trouble:
                await self.align(
                    self.configured, RuntimeChanges.load(self.configured.control.changes_file, self.changes)
                )
        except (ValueError, OSError, MemoryError) as error:
            logger.error("upgrade: the run-time changes of the other process are not in force until a reload: %s",
                         describe_error(error))
        try:
            await self.accept_commands()
        except OSError as error:
            logger.error("upgrade: the control socket or the metrics are not served until a restart: %s",
                         describe_error(error))
        self.zones.catch_up()
        self.anchors.catch_up()
        self.check_lists()
        if self.change_keeper is not None:
            self.change_keeper.schedule()

    def stop_reading(self) -> None:
        """Take no more queries and commands, except on connections that are open."""
        for server in self.management_servers.values():
            server.stop_accepting()
        for listeners in self.listeners:
            listeners.stop_reading()

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
        elif self.upgrades.running:
            self.upgrades.reload_after = True
        elif not self.reload_waits and not self.stopping.done():
            self.reload_waits = True
            self.start_task(self.reload_in_turn())

    async def reload_in_turn(self) -> None:
        async with self.reloading:
            self.reload_waits = False
            if self.upgrades.running:
                self.upgrades.reload_after = True
            else:
                await self.run_reload()

    async def do_reload(self) -> str:
        """Reload the configuration. Return "" when it is in force, else the reason why the old one was kept."""
        async with self.reloading:
            return REFUSAL if self.upgrades.running else await self.run_reload()

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
                    await prepare_workers(self.links, new.configured)
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
        self.report_settings(asked)
        missing = await commit_workers(self.links)
        return f"the new configuration is in force, but not in all workers: {missing}" if missing else ""

    def report_settings(self, asked: int = NO_RELOAD) -> None:
        """Tell the supervisor which settings are in force. `asked` is the number of the reload that it requested."""
        assert self.links is not None
        report_to_supervisor(self.links, asked, (self.configured, self.current.settings))

    # The other workers run the steps below in the order of the requests: each waits for `reloading`.

    async def prepare_reload(self, expected: str = "") -> None:
        """Prepare a switch that the first worker will commit or abort. `expected` is the digest of its settings.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        async with self.reloading:
            await self.prepare_alone(expected)

    async def prepare_alone(self, expected: str = "") -> None:
        """As `prepare_reload`; the caller holds `reloading`."""
        self.abort_reload()
        with ExitStack() as undo:
            given, runtime, rollover, changes, _ = await self.build_new(undo)
            if expected and settings_digest(given) != expected:
                raise ValueError("the configuration file has changed during the reload")
            self.prepared = _Prepared(given, runtime, rollover, changes, [], undo.pop_all())

    async def abort_prepared(self) -> None:
        """Discard what an earlier request prepares or has prepared."""
        async with self.reloading:
            self.abort_reload()

    def abort_reload(self) -> None:
        """Discard what was prepared."""
        if self.prepared is not None:
            self.prepared.undo.close()
            self.prepared = None

    async def commit_reload(self) -> None:
        """Switch after the first worker.

        Raises:
            ValueError, OSError: this worker was started after the preparation and cannot prepare now.
        """
        async with self.reloading:
            if self.prepared is None:
                await self.prepare_alone()
            new, self.prepared = self.prepared, None
            assert new is not None
            new.undo.pop_all()
            if new.runtime.rules != self.current.rules:
                self.try_clear()
            self.switch(new)

    async def align_workers(self) -> None:
        """Make the other workers use the configuration and the run-time changes of this one: when its predecessor may
        have died in a reload, and when another one was started anew and could not read the changes."""
        assert self.links is not None
        async with self.reloading:
            await align_workers(self.links, self.configured, self.changes)

    def on_event(self, event: dict[str, Any]) -> None:
        """In the first worker: something that another one tells."""
        if "changes-missing" in event:
            self.start_task(self.align_workers())
        else:
            self.zones.on_event(event)

    def ask_for_changes(self) -> None:
        """A successor that cannot use the file of the run-time changes asks the first worker for those in force."""
        if self.options.successor and self.number and self.changes.trouble and self.links is not None:
            self.links.tell_first({"changes-missing": True})

    async def align(self, settings: Settings, changes: RuntimeChanges) -> None:
        """Use `settings` and `changes` of the first worker, unless they are in force.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: a descriptor is not available.
        """
        async with self.reloading:
            self.abort_reload()
            if settings == self.configured and changes.entries == self.changes.entries:
                self.changes = changes
                return
            with ExitStack() as undo:
                given, runtime, rollover, changes, _ = await self.build_new(undo, changes, settings)
                new = _Prepared(given, runtime, rollover, changes, [], undo.pop_all())
            new.undo.pop_all()
            if new.runtime.rules != self.current.rules:
                self.try_clear()
            self.switch(new)

    # --- run-time changes -----------------------------------------------------------------------------------------

    async def apply_changes(self, new: RuntimeChanges) -> str:
        """Put run-time changes into force in all workers, or in none. The caller holds `reloading`.

        The file is replaced after all have prepared and before one has switched, so a worker that is started in between
        finds the changes. A damaged file is not replaced. Return "", or which workers did not confirm the switch.

        Raises:
            ValueError: the changes cannot be used or written; the text says why.
        """
        assert new.path is not None
        candidate = candidate_of(new.path)
        try:
            with ExitStack() as undo:
                await in_thread(new.write, candidate)
                undo.callback(candidate.unlink, missing_ok=True)
                prepared = await self.build_changed(new)
                undo.callback(prepared.undo.close)
                if self.links is not None:
                    await prepare_workers(self.links, self.configured, "changes")
                if new.trouble:
                    candidate.unlink()  # the damaged file stays for the operator
                else:
                    os.replace(candidate, new.path)
                undo.pop_all()
        except (ValueError, OSError, MemoryError, RefusedError, CacheFileError) as error:
            if self.links is not None:
                await abort_workers(self.links)
            raise ValueError(describe_error(error)) from None
        prepared.undo.pop_all()
        changed = self.changed_names(new)
        self.switch(prepared, changed)
        if self.links is not None:
            self.report_settings()
        missing = "" if self.links is None else await commit_workers(self.links, "changes")
        for name in changed:
            await self.flush_names(name)
        return missing

    def changed_names(self, new: RuntimeChanges) -> tuple[bytes, ...]:
        """The names at and below which answers may change with `new`."""
        differ = set(self.changes.entries) ^ set(new.entries)
        return tuple(sorted({change.origin for change in differ}))

    async def prepare_changes(self) -> None:
        """Prepare run-time changes in the candidate file of the first worker, which will commit or abort them.

        Raises:
            ValueError, OSError: they cannot be used or read.
        """
        async with self.reloading:
            await self.prepare_changes_in(candidate_of(Path(self.configured.control.changes_file)))

    async def prepare_changes_in(self, path: Path) -> None:
        """As `prepare_changes`, from the file `path`; the caller holds `reloading`."""
        self.abort_reload()
        file = self.configured.control.changes_file
        self.prepared = await self.build_changed(RuntimeChanges(Path(file), read_changes(path), self.changes.trouble))

    async def commit_changes(self) -> None:
        """Switch after the first worker.

        Raises:
            ValueError, OSError: this worker was started after the preparation and cannot prepare now.
        """
        async with self.reloading:
            if self.prepared is None:
                await self.prepare_changes_in(Path(self.configured.control.changes_file))
            new, self.prepared = self.prepared, None
            assert new is not None
            new.undo.pop_all()
            self.switch(new, self.changed_names(new.changes))

    async def build_changed(self, changes: RuntimeChanges) -> _Prepared:
        """What a switch to other run-time changes needs.

        Raises:
            ValueError: they do not go with the configuration.
        """
        with ExitStack() as undo:
            given, runtime, rollover, _, _ = await self.build_new(undo, changes)
            return _Prepared(given, runtime, rollover, changes, [], undo.pop_all())

    # --- the switch -----------------------------------------------------------------------------------------------

    def switch(self, new: _Prepared, changed: tuple[bytes, ...] | None = None) -> None:
        """Switch to what was prepared; this cannot fail. `changed`: only run-time changes were made, and answers at and
        below these names may change."""
        old_differs = new.runtime.rules != self.current.rules
        old, self.current = self.current, new.runtime
        new.runtime.resolver.upstream.continue_probing(old.resolver.upstream)
        self.fleet.follow(new.runtime, old)
        running = old.resolver.mesh.statistics()["running"]
        if changed is None:
            old.flush_on_close = bool(running) and old_differs
        elif running:
            old.names_on_close = changed
        self.changes = new.changes
        if self.rollover is not None and not self.number:
            self.remember({"trust_anchors": self.rollover.statistics()})
        self.anchors.switch(new.rollover, new.runtime)
        new.runtime.resolver.zones.carry_over(old.resolver.zones)
        self.zones.switch(new.runtime)
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
        self.watching.follow()  # the listeners have the lanes of the new configuration now
        if new.web_access is not None and self.web is not None:
            self.web.switch(new.web_access)
        self.configured = new.configured
        self.draining[old] = self.loop.create_task(self.retire(old))
        if changed is None:
            log.set_up(new.configured.log)
        self.anchors.save()
        self.anchors.probe()
        self.watch_certificates()
        self.rotate_ticket_keys()
        self.check_lists()
        self.check_targets(old.balance)
        self.flush_observation()
        self.log_limited_rates()
        if self.change_keeper is not None:
            self.change_keeper.schedule()
        if changed is None:
            if new.changes.trouble and not self.number:
                logger.error("%s", new.changes.trouble)
            logger.info("reload: the new configuration is in force")

    async def build_new(
        self, undo: ExitStack, changes: RuntimeChanges | None = None, settings: Settings | None = None
    ) -> "tuple[Settings, RuntimeConfig, AnchorUpdater | None, RuntimeChanges, list[Endpoint]]":
        """The new settings, their objects, the run-time changes, and opened sockets without listeners; `undo` closes
        them. With `changes`, `settings` or those in force with these changes, and no sockets.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        with with_config_location(self.options.config if changes is None else ""):
            opened = []
            if changes is None:
                given, self.awaiting_restart = merge_restart_only(
                    self.configured, self.reload(), several=self.multi_worker
                )
                sockets.check_sources(given.iteration)
                opened = [] if self.multi_worker else reload_sockets.open_new(
                    given, self.endpoints, self.options.config
                )
                changes = RuntimeChanges.load(given.control.changes_file, self.changes)
            else:
                given = settings or self.configured
            undo.callback(sockets.close_all, [opened])
            wanted = changes.applied_to(self.override_settings(given))
            new_lists = None
            if wanted.list or wanted.rpz:
                from resolver.daemon.list_updates import compile_new  # most configurations have none

                new_lists = await compile_new(wanted, self.current.lists)
            runtime = RuntimeConfig(
                wanted, self.store, self.loop, self.current.certificates, self.current.resolver.tls_contexts,
                self.current.lists, self.current.rates, self.current.observation, new_lists,
            )
        undo.callback(runtime.close, self.current)
        return given, runtime, self.anchors.make(runtime), changes, opened

    async def prepare(self) -> _Prepared:
        """All steps of a reload that can fail. On error, completed steps are undone.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        with ExitStack() as undo:
            given, runtime, rollover, changes, opened = await self.build_new(undo)
            contexts = runtime.resolver.tls_contexts
            if contexts is not None:
                # In a thread, because it takes some 25 ms for each context. The other workers make theirs when needed.
                with with_config_location(self.options.config):
                    await in_thread(contexts.prepare_all, runtime.settings)
            added = []
            for endpoint in opened:
                listeners = Listeners(endpoint, self.turns)
                try:
                    await listeners.start(runtime)
                except OSError as error:
                    text = f"cannot serve {endpoint}: {error.strerror or error}"
                    refusal = ListenError(error.errno, text, endpoint=endpoint.key)
                    raise reload_sockets.with_setting(refusal, given, self.options.config) from None
                undo.callback(listeners.close)
                added.append(listeners)
            access = None
            if self.web is not None:
                with with_config_location(self.options.config):
                    access = self.read_web_access(given)
            return _Prepared(given, runtime, rollover, changes, added, undo.pop_all(), access)

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
        self.remember(of_shared((old,), self.configurations))
        self.ending += old.close(self.current)
        self.settle_outputs()
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
        """Wait up to `limits.DRAIN` for answers to waiting clients, then close everything. After an upgrade nothing
        waits for the end of this process, so a query has all of its time."""
        if self.handed_over:
            self.stop_reading()  # a worker that was starting has opened its listeners since
        else:
            self.close_management()
        self.timers.close()
        if self.change_keeper is not None:
            self.change_keeper.stop()
        self.zones.stop()
        if self.links is not None:
            self.links.stop()
        grace = self.configured.iteration.query_timeout if self.handed_over else limits.DRAIN / 1000
        self.drain_until = min(self.drain_until, self.loop.time() + grace)
        configurations = (self.current, *self.draining)
        for task in self.tasks:
            task.cancel()
        while self.loop.time() < self.drain_until and (
            any(one.service.waiting for one in configurations) or (self.handed_over and not self.settled())
        ):
            await asyncio.sleep(limits.DRAIN / 10000)
        await asyncio.sleep(0)  # replies of this iteration of the loop are sent in the next one
        self.close_management()
        self.abort_reload()
        for listeners in self.listeners:
            listeners.close()
        for old, task in list(self.draining.items()):
            task.cancel()
            self.finish(old)
        self.ending += self.current.close()
        for output in self.ending:
            output.join()
            output.note_unwritten()
        if self.channel is not None:
            self.loop.remove_reader(self.channel)

    def settled(self) -> bool:
        """After `hand_over`: whether all connections of clients and commands have ended."""
        control = self.management_servers.get("control")
        return (control is None or not control.connections) and all(one.settled for one in self.listeners)

    def close_management(self) -> None:
        for server in self.management_servers.values():
            server.close()


def _without_zeros(counters: dict[str, Any]) -> dict[str, Any]:
    """The counters that are not zero, also within dictionaries."""
    shown = {name: _without_zeros(value) if isinstance(value, dict) else value for name, value in counters.items()}
    return {name: value for name, value in shown.items() if value}
