"""One worker: an event loop with listeners and a resolver. It starts, switches between configurations, and stops.

Its parts are modules of their own, each of which owns some state and knows the worker by a protocol:

- `SwitchPreparation`: what is prepared for a switch and not in force yet.
- `WorkerReloads`, `WorkerChanges`, `WorkerAlignment`: the steps of a reload, of run-time changes, and of following the
  first worker. One lock, of the reloads, serialises them.
- `ReplacedConfigs`: configurations that still have queries.
- `PeriodicWork`, `ChangeKeeper`: what is done from time to time; the end of negative trust anchors.
- `WorkerManagement`, `WorkerCommands`, `Watching`: control socket, metrics and web page; commands; samples for them.
- `WorkerUpgrades`: upgrades, and whether this process is the main one.
- `AnchorKeeper`, `ZoneSharing`, `Fleet`: trust anchors, own zones, messages of other resolvers.

State of the worker itself: `configured`, `changes` and `current` are what is in force: the settings of the file, the
run-time changes, and the objects made of both. `switch` replaces all three at once and cannot fail; `listeners` and
`endpoints` follow it. (`WorkerAlignment` alone replaces `changes` by equal ones, when only their file has another
state.) Queries in progress are completed with the old configuration. The cache is kept, unless settings changed on
which cached answers depend (validation, local names, forwarding). `past` has the counters of all that has ended.
`stopping` gets the reason why the worker is to stop; then `drain` completes what is in progress.
"""

import asyncio
import gc
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import corenet
from corenet.serving.processes import receive
from resolver import limits
from resolver.api import make_store
from resolver.cache import Store
from resolver.daemon import log
from resolver.daemon.anchor_keeper import AnchorKeeper
from resolver.daemon.cache_file import load_at_start, save_at_stop
from resolver.daemon.change_keeper import ChangeKeeper
from resolver.daemon.config_reload import describe_error
from resolver.daemon.fleet import Fleet
from resolver.daemon.periodic_work import PeriodicWork
from resolver.daemon.preflight import clock_problem
from resolver.daemon.reload_sockets import with_setting
from resolver.daemon.replaced_configs import ReplacedConfigs
from resolver.daemon.resource_exhaustion import install_exception_handler
from resolver.daemon.runtime_changes import RuntimeChanges
from resolver.daemon.runtime_config import Listeners, RuntimeConfig
from resolver.daemon.sockets import Endpoint, ListenError
from resolver.daemon.successor import REPLACED
from resolver.daemon.switch_preparation import Prepared, SwitchPreparation
from resolver.daemon.timers import Timers
from resolver.daemon.usage import usage
from resolver.daemon.watching import Watching
from resolver.daemon.worker_alignment import CHANGES_MISSING, WorkerAlignment
from resolver.daemon.worker_changes import WorkerChanges
from resolver.daemon.worker_commands import WorkerCommands, add_counters, kept_part
from resolver.daemon.worker_management import WorkerManagement
from resolver.daemon.worker_options import Options
from resolver.daemon.worker_reload import WorkerReloads
from resolver.daemon.worker_upgrade import CONFIRMED, HANDED_OVER, WorkerUpgrades
from resolver.daemon.zone_sharing import ZoneSharing
from resolver.net.turns import Turns
from resolver.observe.catalogue import Statistics, counters_of
from resolver.settings import Settings, replace
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.control import ControlCommands
    from resolver.daemon.predecessor import Predecessor
    from resolver.daemon.zone_keeper import ZoneKeeper
    from resolver.observe.kept import KeptCounters
    from resolver.observe.output import Output

__all__ = ["Reload", "run"]

logger = logging.getLogger(__name__)

Reload = Callable[[], Settings]
HEARTBEAT = b"."
WATCHDOG_HEARTBEATS = limits.WATCHDOG_HEARTBEATS


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
    sys.setswitchinterval(limits.THREAD_SWITCH / 1_000_000)
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        try:
            return runner.run(worker.main())
        finally:
            runner.run(_end_tasks_and_threads())


async def _end_tasks_and_threads() -> None:
    """Cancel all other tasks, and wait for threads for `limits.STOP_THREADS`, where `asyncio.Runner` would wait without
    end. Those that are left read or write a large file; a file is replaced only when the new one is complete."""
    loop: Any = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    executor = loop._default_executor
    if executor is None:
        return
    executor.shutdown(wait=False, cancel_futures=True)
    until = loop.time() + limits.STOP_THREADS / 1000
    while any(thread.is_alive() for thread in executor._threads) and loop.time() < until:
        await asyncio.sleep(limits.STOP_THREADS / 10_000)
    loop._default_executor = None  # the runner does not wait for it


GROUPS = {"dns": "client_tcp", "tls": "client_dot", "https": "client_doh", "quic": "client_doq"}
"""The group of the counters of stream listeners, by protocol; those of UDP are in "client_udp"."""
ANNOUNCED = {"dns": "UDP and TCP", "tls": "DNS over TLS", "https": "DNS over HTTPS", "quic": "DNS over QUIC"}


# --- the worker ---------------------------------------------------------------------------------------------------


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
        self.channels = options.management.channels if options.management is not None else None
        self.upgrades = WorkerUpgrades(
            self, confirmed=options.confirmed and options.predecessor is None, running=options.upgrading
        )
        #: a new process serves in place of this one.
        self.handed_over = False
        #: the loop's time at which `drain` waits no longer.
        self.drain_until = math.inf
        self.status = 0
        self.commands = WorkerCommands(self)
        self.management = WorkerManagement(self)
        self.listeners: list[Listeners] = []
        self.turns = Turns()
        self.kept: KeptCounters | None = None if options.management is None else options.management.kept
        #: counters of predecessors of this worker, of configurations that were replaced, and of closed listeners.
        self.past: Statistics = {} if self.kept is None else self.kept.load(options.number)
        self.keeping_fails = False
        self.override_settings: Callable[[Settings], Settings] = lambda given: given
        self.tasks: set[asyncio.Task[Any]] = set()
        self.in_playground = False
        self.timers = Timers()
        self.anchors = AnchorKeeper(self)
        self.zones = ZoneSharing(self)
        self.fleet = Fleet(self)
        self.watching = Watching(self)
        self.periodic_work = PeriodicWork(self)
        #: the run-time changes in force.
        self.changes = RuntimeChanges()
        self.change_steps = WorkerChanges(self)
        self.change_keeper: ChangeKeeper | None = None
        self.preparation = SwitchPreparation(self)
        self.reloads = WorkerReloads(self)
        self.alignment = WorkerAlignment(self)
        self.replaced = ReplacedConfigs(self)

    async def main(self) -> int:
        loop = asyncio.get_running_loop()
        self.loop = loop
        install_exception_handler(loop, self.configured.log.rate_limit_interval)
        self.stopping: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self.reloads.on_signal)
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
            if not await self.start_zones():
                return self.status
            for endpoint in self.endpoints:
                listeners = Listeners(endpoint, self.turns)
                self.listeners.append(listeners)
                try:
                    await listeners.start(self.current)
                except ListenError as error:
                    raise with_setting(error, self.configured, self.options.config) from None
            gc.set_threshold(limits.GC_YOUNG, limits.GC_MIDDLE, limits.GC_OLD)
            gc.freeze()  # existing objects live until the end, so the collector skips them
            gc.enable()
            await self.start_management()
            self.zones.ask_for_unwritten()
            self.alignment.ask_for_changes()
            if self.channels is not None and not self.number:
                if self.changes.path is not None:
                    self.reloads.report_settings()  # the supervisor does not know whether the file could be used
                if self.options.successor:
                    self.alignment.begin()
            self.announce()
            unblocked = (signal.SIGHUP, signal.SIGUSR1, *(() if self.multi_worker else (signal.SIGUSR2,)))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, unblocked)  # blocked by main
            self.anchors.probe()
            self.periodic_work.follow()
            stack.push(self.withdraw_on_error)  # the last one is the first to be called
            self.report_ready()
            self.keep_regularly()
            if not self.number:
                self.change_keeper = ChangeKeeper(self)
                if self.is_main:
                    self.change_keeper.schedule()
            if self.options.show_example:
                from resolver.daemon import demo

                shown = "www.example.playground." if in_playground else "www.iana.org."
                await demo.show_example(self.endpoints[0], shown, self.configured.iteration.query_timeout)
            reason = await self.stopping
            logger.info("stopping on %s", reason)
            self.leave_upgrade(reason)
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
        if self.management.web is not None:
            add_counters(total, {"web": self.management.web.statistics()})
        return total

    @property
    def configurations(self) -> "tuple[RuntimeConfig, ...]":
        """The configuration in force, and those replaced ones that still have queries."""
        return (self.current, *self.replaced.draining)

    @property
    def closing_outputs(self) -> "list[Output]":
        """Outputs of replaced configurations whose threads have not ended."""
        return self.replaced.closing_outputs

    def usage(self) -> Statistics:
        """What is in use of each bounded thing, and its limit."""
        others = [*self.watching.memory(), *(() if self.keeper is None else self.keeper.memory())]
        return {
            "usage": usage(
                self.current, self.listeners, self.management.servers, shared=not self.number, others=others
            )
        }

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
            runtime = RuntimeConfig(changed, *given, keep_unreadable=True)
        except ValueError as error:
            if not self.changes.entries:
                raise
            runtime = RuntimeConfig(settings, *given, keep_unreadable=True)
            self.changes = RuntimeChanges(
                self.changes.path, (),
                f"control.changes-file: {self.changes.path}: a change does not go with the configuration: {error};"
                " correct the configuration or remove the file, then reload")
        if self.changes.trouble and not self.number:
            logger.error("%s", self.changes.trouble)
        return runtime

    async def start_zones(self) -> bool:
        """Read the zones on disk, which may take long; False when the daemon is stopped meanwhile."""
        reading = asyncio.ensure_future(self.zones.start(self.current))
        await asyncio.wait((reading, self.stopping), return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
            return True
        reason = self.stopping.result()
        logger.info("stopping on %s, before clients were served", reason)
        self.leave_upgrade(reason)
        self.zones.stop()
        return False

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
        """Connect this worker with the others. The first one also serves the control socket, the metrics and the web
        page."""
        if self.channels is not None:
            if self.number:
                self.channels.serve(self.loop, self.number, self.commands.perform_request)
                return
            self.channels.listen(self.loop)
            self.loop.add_reader(self.channels.upgrades.reports_fileno(), self.upgrades.take_reports)
            self.channels.on_event = self.on_event
        await self.management.start()

    def make_control_commands(self) -> "ControlCommands":
        """What performs the commands of the control socket, in the first worker."""
        from resolver.daemon.control import ControlCommands

        return ControlCommands(self, self.commands)

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
            trouble = clock_problem(self.current.resolver.clock.time())
            if trouble:
                logger.error("%s", trouble)

    # --- the service manager --------------------------------------------------------------------------------------

    def report_ready(self) -> None:
        """Clients are served: tell the supervisor, or without one the service manager. Begin the heartbeats. In an
        upgrade the old process is the one to be told; the service manager is when that has confirmed. A process that
        stops tells nothing: the old one would confirm, and no process would serve."""
        if self.stopping.done():
            return
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
        confirmed = predecessor.confirmed()
        if confirmed is None:
            return
        self.loop.remove_reader(predecessor.fileno())
        if not confirmed:
            self.status = 1
            self.on_stop("end of the old process during the upgrade")
            return
        self.take_over(predecessor)

    def leave_upgrade(self, reason: str) -> None:
        """This process stops. Before the confirmation that ends the upgrade, and the old process keeps serving. After
        it, also when it was not read yet, this is the main process that stops."""
        predecessor = self.options.predecessor
        if predecessor is None:
            return
        self.loop.remove_reader(predecessor.fileno())
        if not predecessor.fail(f"stopped on {reason}", reload=self.upgrades.reload_after):
            self.take_over(predecessor)

    def withdraw_on_error(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """An exception ends this process: before anything is torn down, it withdraws from an upgrade."""
        if error is not None and self.options.predecessor is not None:
            self.options.predecessor.withdraw(reload=self.upgrades.reload_after)

    def take_over(self, predecessor: "Predecessor") -> None:
        """This is the main process now."""
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

    # --- the cache and tasks --------------------------------------------------------------------------------------

    async def flush_names(self, origin: bytes) -> None:
        """Flush what is cached at and below `origin`, in slices; log when that is impossible."""
        try:
            for _ in self.store.flush(origin, subtree=True):
                await asyncio.sleep(0)
        except BlockingIOError as error:
            logger.warning("%s: old answers stay cached until their TTL expires: %s", names.to_text(origin), error)

    def try_clear(self) -> None:
        """Flush the cache; if a stopped process holds a lock of it, log that outdated answers stay."""
        try:
            self.store.clear()
        except BlockingIOError as error:
            logger.warning("reload: old answers stay cached until their TTL expires: %s", error)

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
            self.upgrades.stop()
        elif self.handed_over:
            if not self.multi_worker:  # else the supervisor says it
                logger.warning(REPLACED, reason, self.upgrades.replaced_by)
            self.drain_until = min(self.drain_until, self.loop.time() + limits.DRAIN / 1000)

    def on_supervisor(self) -> None:
        """The supervisor says that a new process serves, that its own is the main one now, or has ended."""
        assert self.channel is not None
        said = receive(self.channel)
        if said == HANDED_OVER:
            if self.channels is not None and not self.number:
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
        """An upgrade has ended, and this process continues: as the new one, or as the old one after a failure. Get what
        only the other one has read or was told of meanwhile."""
        if self.stopping.done():
            return
        try:
            if not self.changes.trouble:
                await self.alignment.use(
                    self.configured, RuntimeChanges.load(self.configured.control.changes_file, self.changes)
                )
        except (ValueError, OSError, MemoryError) as error:
            logger.error("upgrade: the run-time changes of the other process are not in force until a reload: %s",
                         describe_error(error))
        try:
            await self.management.accept()
        except OSError as error:
            logger.error("upgrade: the control socket or the metrics are not served until a restart: %s",
                         describe_error(error))
        self.zones.catch_up()
        self.anchors.catch_up()
        self.periodic_work.check_lists()
        if self.change_keeper is not None:
            self.change_keeper.schedule()

    def stop_reading(self) -> None:
        """Take no more queries and commands, except on connections that are open."""
        self.management.stop_accepting()
        for listeners in self.listeners:
            listeners.stop_reading()

    def on_event(self, event: dict[str, Any]) -> None:
        """In the first worker: something that another one tells."""
        if CHANGES_MISSING in event:
            self.alignment.begin()
        else:
            self.zones.on_event(event)

    def on_report(self) -> None:
        """Log every counter that is not zero."""
        for group, counters in self.commands.perform({"command": "statistics"}).items():
            shown = " ".join(f"{name}={value}" for name, value in _without_zeros(counters).items())
            logger.info("statistics: %s: %s", group, shown or "all counters are zero")

    # --- the switch -----------------------------------------------------------------------------------------------

    def switch(self, new: Prepared, changed: tuple[bytes, ...] | None = None) -> None:
        """Switch to what was prepared; this cannot fail. `changed`: only run-time changes were made, and answers at and
        below these names may change."""
        old_differs = new.runtime.rules != self.current.rules
        old, self.current = self.current, new.runtime
        new.runtime.resolver.upstream.continue_probing(old.resolver.upstream)
        self.fleet.follow(new.runtime, old)
        # A query that waits for a hook has no job yet, or has none any more.
        running = old.resolver.mesh.statistics()["running"] or old.service.waiting
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
        self.management.switch(new.web_access)
        self.configured = new.configured
        self.replaced.add(old)
        if changed is None:
            log.set_up(new.configured.log)
        self.anchors.save()
        self.anchors.probe()
        self.periodic_work.follow(old.balance)
        if self.change_keeper is not None:
            self.change_keeper.schedule()
        if changed is None:
            if new.changes.trouble and not self.number:
                logger.error("%s", new.changes.trouble)
            logger.info("reload: the new configuration is in force")

    def remember(self, statistics: Statistics) -> None:
        """Keep reporting the counters of an object that is closed."""
        add_counters(self.past, counters_of(statistics))

    # --- stop -----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait up to `limits.DRAIN` for answers to waiting clients, then close everything. After an upgrade nothing
        waits for the end of this process, so a query has all of its time."""
        if self.handed_over:
            self.stop_reading()  # a worker that was starting has opened its listeners since
        else:
            self.management.close()
        self.timers.close()
        if self.change_keeper is not None:
            self.change_keeper.stop()
        self.zones.stop()
        if self.channels is not None:
            self.channels.stop()
        grace = self.configured.iteration.query_timeout if self.handed_over else limits.DRAIN / 1000
        self.drain_until = min(self.drain_until, self.loop.time() + grace)
        configurations = self.configurations
        for task in self.tasks:
            task.cancel()
        while self.loop.time() < self.drain_until and (
            any(one.service.waiting for one in configurations) or (self.handed_over and not self.settled)
            or self.upgrades.starting
        ):
            await asyncio.sleep(limits.DRAIN / 10000)
        await asyncio.sleep(0)  # replies of this iteration of the loop are sent in the next one
        self.management.close()
        self.preparation.discard()
        for listeners in self.listeners:
            listeners.close()
        self.replaced.stop()
        if self.channel is not None:
            self.loop.remove_reader(self.channel)

    @property
    def settled(self) -> bool:
        """After `hand_over`: whether all connections of clients and commands have ended."""
        return self.management.settled and all(one.settled for one in self.listeners)


def _without_zeros(counters: dict[str, Any]) -> dict[str, Any]:
    """The counters that are not zero, also within dictionaries."""
    shown = {name: _without_zeros(value) if isinstance(value, dict) else value for name, value in counters.items()}
    return {name: value for name, value in shown.items() if value}
