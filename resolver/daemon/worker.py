"""One worker: one loop, the listeners of its sockets, and the resolver behind them; started, reloaded and stopped here.

A reload is all or nothing: whatever can fail (files, policies, anchors, sockets, a cache that is locked) is done before
anything of the old settings is touched, and undone when a later part fails; what then follows only switches. Several
workers reload together, led by the first. Queries that wait finish where they began. The store is kept, unless what was
concluded under the old rules (validation, local names, forwarding) must not outlive them.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import corenet
from corenet._version import __version__
from resolver import limits
from resolver.api import make_store
from resolver.cache import Store
from resolver.daemon import log, sockets
from resolver.daemon.config_reload import (
    RefusedError,
    abort_workers,
    commit_workers,
    log_reload_error,
    merge_restart_only,
    outdated,
    prepare_workers,
    report_to_supervisor,
    with_config_location,
)
from resolver.daemon.management_sockets import ManagementSockets
from resolver.daemon.preflight import clock_trouble
from resolver.daemon.resource_exhaustion import install_exception_handler
from resolver.daemon.runtime_config import Listeners, RuntimeConfig
from resolver.daemon.sockets import Endpoint, ListenError
from resolver.daemon.worker_commands import WorkerCommands
from resolver.effects import Outcome, Question
from resolver.settings import Settings
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.management import ManagementServer
    from resolver.validate.autotrust import TrustPoint

__all__ = ["Options", "Reload", "run"]

logger = logging.getLogger(__name__)

Reload = Callable[[], Settings]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks of a worker beyond the settings.

    `config` is the configuration file, empty without one; `number` counts the workers from 0; `management` were opened
    before the fork and are used by the first worker, their links by all.
    """

    playground: bool = False
    show_example: bool = False
    config: str = ""
    number: int = 0
    management: ManagementSockets | None = None


def run(
    settings: Settings,
    endpoints: list[Endpoint],
    *,
    reload: Reload,
    options: Options,
    store: Store | None = None,
    parent_pipe: int | None = None,
) -> int:
    """Serve until a signal ends it; the exit status. When the descriptor `parent_pipe` ends, the parent is gone.

    Raises:
        ValueError: a setting is wrong.
        OSError: memory, a descriptor or the playground's port cannot be had.
    """
    worker = _Worker(settings, endpoints, reload, options, store, parent_pipe)
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        return runner.run(worker.main())


# --- the worker ---------------------------------------------------------------------------------------------------


class _Prepared(NamedTuple):
    """All that a reload needs to switch: nothing in it can be refused any more."""

    configured: Settings
    runtime: RuntimeConfig
    rollover: "AnchorUpdater | None"
    added: list[Listeners]
    undo: ExitStack
    """What there is to close when it comes to no switch."""


class _Worker:
    def __init__(
        self,
        settings: Settings,
        endpoints: list[Endpoint],
        reload: Reload,
        options: Options,
        store: Store | None,
        parent_pipe: int | None,
    ) -> None:
        self.configured = settings
        self.endpoints = endpoints
        self.reload = reload
        self.options = options
        self.store = store or make_store(settings)
        self.uses_cache_file = store is None and not options.playground
        self.parent_pipe = parent_pipe
        self.supervisor = os.getppid()
        self.multi_worker = parent_pipe is not None
        self.links = options.management.links if options.management is not None else None
        self.commands = WorkerCommands(self)
        self.management_servers: list[ManagementServer] = []
        self.listeners: list[Listeners] = []
        self.closed: Counter[str] = Counter()
        self.override_settings: Callable[[Settings], Settings] = lambda given: given
        self.tasks: set[asyncio.Task[Any]] = set()
        self.draining: dict[RuntimeConfig, asyncio.Task[None]] = {}
        self.in_playground = False
        self.rollover: AnchorUpdater | None = None
        self.rollover_timer: asyncio.TimerHandle | None = None
        self.reloading = asyncio.Lock()
        self.reload_waits = False
        self.prepared: _Prepared | None = None

    async def main(self) -> int:
        loop = asyncio.get_running_loop()
        self.loop = loop
        install_exception_handler(loop, self.configured.log.interval)
        self.stopping: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self.on_reload)
        loop.add_signal_handler(signal.SIGUSR1, self.on_report)
        if self.parent_pipe is not None:
            loop.add_reader(self.parent_pipe, self.on_stop, "the end of its supervisor")
        async with AsyncExitStack() as stack:
            in_playground = self.options.playground
            if self.options.show_example and not in_playground and not self.options.config:
                from resolver.daemon import demo

                in_playground = not await demo.root_servers_reachable(self.configured)
                print(
                    "The Internet's root servers cannot be reached; a simulated Internet takes their place."
                    if in_playground
                    else "The Internet's root servers answer and are used.",
                    flush=True,
                )
            self.in_playground = in_playground
            if in_playground:
                self.uses_cache_file = False
                await self.enter_playground(stack)
            if self.uses_cache_file and self.configured.cache.snapshot_file:
                from resolver.daemon import cache_file

                cache_file.load_at_start(self.store, self.configured)
            self.current = RuntimeConfig(self.override_settings(self.configured), self.store, loop)
            self.rollover = self.make_rollover(self.current)
            self.save_anchors()
            for endpoint in self.endpoints:
                listeners = Listeners(endpoint)
                self.listeners.append(listeners)
                await listeners.start(self.current)
            gc.set_threshold(limits.GC_YOUNG, limits.GC_MIDDLE, limits.GC_OLD)
            gc.freeze()  # what exists now lives to the end; the collector need not look at it again
            gc.enable()
            await self.start_management()
            self.announce()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))  # main blocked them
            self.schedule_probe()
            if self.options.show_example:
                from resolver.daemon import demo

                shown = "www.example.playground." if in_playground else "www.iana.org."
                await demo.show_example(self.endpoints[0], shown, self.configured.iteration.deadline)
            reason = await self.stopping
            logger.info("stopping on %s", reason)
            await self.drain()
            if self.uses_cache_file and self.configured.cache.snapshot_file:
                from resolver.daemon import cache_file

                cache_file.save_at_stop(self.store, self.configured)
        return 0

    @property
    def number(self) -> int:
        """Which of the workers this is."""
        return self.options.number

    def connections(self) -> dict[str, int]:
        """Counters of all TCP listeners, of those that a reload has closed too."""
        total = Counter(self.closed)
        for listeners in self.listeners:
            if listeners.tcp is not None:
                total.update(listeners.tcp.statistics())
        return dict(total)

    # --- beginning ------------------------------------------------------------------------------------------------

    async def enter_playground(self, stack: AsyncExitStack) -> None:
        """Start the simulated Internet in this process and make the settings lead there."""
        from resolver import playground

        world = await stack.enter_async_context(await playground.start(port=0))
        self.override_settings = world.settings
        logger.info("the playground's servers are on port %d of their loopback addresses", world.port)
        given = self.configured
        if given.cache.snapshot_file or given.dnssec.auto_trust_anchor_file:
            logger.info("the playground is new each time: cache.snapshot-file and dnssec.auto-trust-anchor-file rest")

    async def start_management(self) -> None:
        """The first worker serves the control socket and the metrics; the others answer what it asks them."""
        management = self.options.management
        if management is None:
            return
        if self.links is not None:
            if self.number:
                self.links.serve(self.loop, self.number, self.commands.perform)
                return
            self.links.listen(self.loop)
        if management.control is None and management.metrics is None:
            return
        from resolver.daemon.control import ControlCommands, ControlServer
        from resolver.daemon.metrics import MetricsServer

        control_commands = ControlCommands(self, self.commands)
        if management.control is not None:
            control = ControlServer(control_commands)
            await control.start(management.control.dup())
            self.management_servers.append(control)
        if management.metrics is not None:
            metrics = MetricsServer(control_commands.statistics, __version__)
            await metrics.start(management.metrics.dup())
            self.management_servers.append(metrics)

    def announce(self) -> None:
        settings = self.current.settings
        where = ", ".join(str(endpoint) for endpoint in self.endpoints)
        logger.info("serving %s, UDP and TCP", where)
        dnssec = settings.dnssec
        if not dnssec.active:
            why = "dnssec.enabled is off" if not dnssec.enabled else "there are no trust anchors"
            logger.warning("answers are not validated: %s", why)
        else:
            trouble = clock_trouble(self.current.resolver.clock.time())
            if trouble:
                logger.error("%s", trouble)

    # --- trust anchors that follow their zones (RFC 5011) -----------------------------------------------------------

    def make_rollover(self, runtime: RuntimeConfig) -> "AnchorUpdater | None":
        """Let a new generation trust what was learned so far; every worker does, the first one goes on learning."""
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
        """Let a new generation know what the one in force has learned."""
        if self.rollover is not None:
            rollover.take_text(self.rollover.text)
        validation = runtime.resolver.mesh.validation
        if validation is not None:
            rollover.apply(validation.anchors)

    def save_anchors(self) -> None:
        """Write the first worker's file: what cannot be written shall be known at the start, not in a month."""
        if self.rollover is not None and not self.number:
            self.rollover.save()

    def schedule_probe(self) -> None:
        """Look at the zones whose time has come, and come back when the next one's has."""
        rest = 0.0
        if self.rollover is not None and not self.number and not self.stopping.done():
            rest = self.rollover.tick()  # may come back here, when a look is over at once
        if self.rollover_timer is not None:
            self.rollover_timer.cancel()
        self.rollover_timer = self.loop.call_later(rest, self.schedule_probe) if rest else None

    def query_uncached(self, question: Question, cd: bool, on_done: Callable[[Outcome], None]) -> bool:
        resolver = self.current.resolver
        begun = resolver.mesh.refresh(question, cd=cd, on_done=on_done)
        resolver.process_timers()
        return begun

    def apply_anchor_change(self, point: "TrustPoint") -> None:
        """Other keys are trusted for a zone: its validated keys were validated by the old ones."""
        validation = self.current.resolver.mesh.validation
        if validation is not None:
            validation.anchors.put(point.zone, point.trusted())
        try:
            self.store.drop(point.zone, rtype=c.DNSKEY)
        except BlockingIOError as error:
            logger.warning("trust anchors: the cache keeps the old keys until their TTL ends: %s", error)

    def publish_anchors(self) -> None:
        """After a look: when to look again, and what the other workers have to know."""
        self.schedule_probe()
        if self.links is not None and self.rollover is not None:
            self.start_task(self.send_anchors(self.rollover.text))

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let `work` run beside the service; the end of the service is its end."""
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
                logger.warning("trust anchors: %s; it learns of the keys when it starts or after the next look", error)

    def take_anchors(self, text: str) -> None:
        """What the first worker has learned.

        Raises:
            ValueError: it makes no sense.
        """
        if self.rollover is None:
            return
        before = self.rollover.trusted()
        self.rollover.take_text(text)
        logger.debug("trust anchors: worker %d knows what the first one knows", self.number)
        for zone, identity in self.rollover.trusted().items():
            if identity != before.get(zone):
                self.apply_anchor_change(self.rollover.points[zone])

    # --- signals --------------------------------------------------------------------------------------------------

    def on_stop(self, reason: str) -> None:
        if not self.stopping.done():
            self.stopping.set_result(reason)

    def check_signatures(self, jobs: Sequence[Any], on_done: Callable[[list[bool] | Exception], None]) -> None:
        """Check signatures beside the queries'; `on_done` is told, at once where there was time."""
        results = self.current.resolver.crypto.verify(jobs, on_done)
        if results is not None:
            on_done(results)

    def on_report(self) -> None:
        """Write every counter that is not zero to the log."""
        for group, counters in self.commands.perform({"command": "statistics"}).items():
            shown = " ".join(f"{name}={value}" for name, value in counters.items() if value)
            logger.info("statistics of %s: %s", group, shown or "nothing yet")

    # --- reload ---------------------------------------------------------------------------------------------------

    def on_reload(self) -> None:
        """SIGHUP: one more while another waits for its turn asks for nothing new."""
        if self.number:
            logger.info("reload: worker %d reloads when the first one does; SIGHUP is for the supervisor", self.number)
        elif not self.reload_waits and not self.stopping.done():
            self.reload_waits = True
            self.start_task(self.reload_in_turn())

    async def reload_in_turn(self) -> None:
        async with self.reloading:
            self.reload_waits = False
            await self.run_reload()

    async def do_reload(self) -> str:
        """Read the configuration again and switch to it, or keep the old one and say why; empty when it is in force."""
        async with self.reloading:
            return await self.run_reload()

    async def run_reload(self) -> str:
        """One reload, of the other workers as well when this is the first of several."""
        asked = self.links.reloads.last_request() if self.links is not None else 0
        try:
            new = await self.prepare()
            with new.undo:
                if self.links is not None:
                    await prepare_workers(self.links)
                self.forget_outdated(new)  # last, so that only what nothing can stop any more costs the cache
                new.undo.pop_all()
        except (ValueError, OSError, MemoryError, RefusedError) as error:
            if self.links is not None:
                await abort_workers(self.links)
                report_to_supervisor(self.supervisor, self.links, asked, None)
            return log_reload_error(error)
        self.switch(new)
        if self.links is None:
            return ""
        report_to_supervisor(self.supervisor, self.links, asked, self.configured)
        missing = await commit_workers(self.links)
        return f"the new configuration is in force, but not everywhere: {missing}" if missing else ""

    def prepare_reload(self) -> None:
        """Make all that a switch needs, for the first worker to say when.

        Raises:
            ValueError: the configuration is wrong; the text says where and why.
            OSError: an address or a descriptor cannot be had.
        """
        self.abort_reload()
        with ExitStack() as undo:
            given, runtime, rollover, _ = self.build_new(undo)
            self.prepared = _Prepared(given, runtime, rollover, [], undo.pop_all())

    def abort_reload(self) -> None:
        """It comes to no switch."""
        if self.prepared is not None:
            self.prepared.undo.close()
            self.prepared = None

    def commit_reload(self) -> None:
        """Switch, as the first worker has done.

        Raises:
            ValueError, OSError: this worker was started since, and cannot make now what it needs.
        """
        if self.prepared is None:
            self.prepare_reload()
        new, self.prepared = self.prepared, None
        assert new is not None
        new.undo.pop_all()
        try:
            self.forget_outdated(new)
        except BlockingIOError as error:
            logger.warning("reload: answers found under the old configuration stay until their TTL ends: %s", error)
        self.switch(new)

    def forget_outdated(self, new: _Prepared) -> None:
        """Empty the cache when the new settings would have brought other answers.

        Raises:
            BlockingIOError: a lock of the cache is held by a process that does not run.
        """
        if self.is_outdated_by(new):
            self.store.clear()

    def is_outdated_by(self, new: _Prepared) -> bool:
        """Whether answers kept so far may differ from those that `new` would give.

        Hosts files count by their content. What was learned of trust anchors is passed on, whatever their file says.
        """
        old, runtime = self.current, new.runtime
        hosts = runtime.resolver.policy.hosts
        return outdated(old.settings, runtime.settings) or hosts != old.resolver.policy.hosts

    def switch(self, new: _Prepared) -> None:
        """Let what was prepared serve from now on; nothing in it can be refused any more."""
        if new.rollover is not None:
            self.carry_over_anchors(new.rollover, new.runtime)  # once more: others had a turn since it was made
        old_differs = self.is_outdated_by(new)
        old, self.current = self.current, new.runtime
        running = old.resolver.mesh.statistics()["running"]
        old.flush_on_close = bool(running) and old_differs
        self.rollover = new.rollover
        wanted = set(new.configured.server.endpoints)
        for listeners in list(self.listeners):
            endpoint = listeners.endpoint
            if self.multi_worker or (endpoint.address, endpoint.wanted) in wanted:
                listeners.switch(new.runtime)
            else:
                self.listeners.remove(listeners)
                self.endpoints.remove(endpoint)
                if listeners.tcp is not None:
                    self.closed.update(listeners.tcp.statistics())
                    del self.closed["connections"]
                listeners.close()
                endpoint.close()
        self.listeners += new.added
        self.endpoints += [listeners.endpoint for listeners in new.added]
        self.configured = new.configured
        self.draining[old] = self.loop.create_task(self.retire(old))
        log.set_up(new.configured.log)
        self.save_anchors()
        self.schedule_probe()
        logger.info("reload: the new configuration is in force")

    def build_new(self, undo: ExitStack) -> "tuple[Settings, RuntimeConfig, AnchorUpdater | None, list[Endpoint]]":
        """The settings, what serves by them, and sockets that nobody listens on yet; `undo` closes what was made.

        Raises:
            ValueError: the configuration is wrong; the text says where and why.
            OSError: an address or a descriptor cannot be had.
        """
        with with_config_location(self.options.config):
            given = merge_restart_only(self.configured, self.reload(), several=self.multi_worker)
            sockets.check_sources(given.iteration)
            opened = [] if self.multi_worker else self.open_new(given)
            undo.callback(sockets.close_all, [opened])
            runtime = RuntimeConfig(self.override_settings(given), self.store, self.loop)
        undo.callback(runtime.resolver.close)
        return given, runtime, self.make_rollover(runtime), opened

    async def prepare(self) -> _Prepared:
        """Everything of a reload that can fail; what was done before that is undone then.

        Raises:
            ValueError: the configuration is wrong; the text says where and why.
            OSError: an address or a descriptor cannot be had.
        """
        with ExitStack() as undo:
            given, runtime, rollover, opened = self.build_new(undo)
            added = []
            for endpoint in opened:
                listeners = Listeners(endpoint)
                try:
                    await listeners.start(runtime)
                except OSError as error:
                    text = f"cannot serve {endpoint}: {error.strerror or error}"
                    refusal = ListenError(error.errno, text, endpoint=(endpoint.address, endpoint.wanted))
                    raise self.with_listen_setting(refusal, given) from None
                undo.callback(listeners.close)
                added.append(listeners)
            return _Prepared(given, runtime, rollover, added, undo.pop_all())

    def open_new(self, given: Settings) -> list[Endpoint]:
        """Sockets for addresses that are not served yet.

        Raises:
            ListenError: one of them cannot be had.
        """
        served = {(endpoint.address, endpoint.wanted) for endpoint in self.endpoints}
        new = tuple(endpoint for endpoint in given.server.endpoints if endpoint not in served)
        lenient = given.server.listen == Settings().server.listen  # as at the start
        try:
            return sockets.open_endpoints(new, lenient=lenient, enough=bool(served))[0]
        except ListenError as error:
            raise self.with_listen_setting(self.explain_own_port(error), given) from None

    def explain_own_port(self, error: ListenError) -> ListenError:
        """`error` as it is, or in other words when it is this daemon itself that has the port."""
        if error.errno != errno.EADDRINUSE or error.endpoint is None:
            return error
        address, port = error.endpoint
        whole = "::" if ":" in address else "0.0.0.0"
        for own in self.endpoints:
            if own.port == port and (":" in own.address) == (":" in address) and whole in (own.address, address):
                text = f"cannot listen on {address} port {port} beside {own}, which is served now; restart to change it"
                return ListenError(error.errno, text, endpoint=error.endpoint)
        return error

    def with_listen_setting(self, error: ListenError, given: Settings) -> ListenError:
        """`error` with the setting that wanted the address, and its line where there is a file."""
        wanted = given.server.listen[given.server.endpoints.index(error.endpoint)] if error.endpoint else ""
        reason = ValueError(f"server.listen: {wanted!r}: {error.strerror}")
        if self.options.config:
            from resolver.daemon.config import add_location

            reason = add_location(self.options.config, reason)
        return ListenError(error.errno, str(reason), endpoint=error.endpoint)

    async def retire(self, old: RuntimeConfig) -> None:
        """Close what a reload has replaced as soon as nobody waits for it any more."""
        until = self.loop.time() + old.settings.iteration.deadline
        while old.service.waiting and self.loop.time() < until:
            await asyncio.sleep(limits.DRAIN_POLL / 1000)
        self.finish(old)

    def finish(self, old: RuntimeConfig) -> None:
        """Close a replaced generation, and forget what it has stored since if that is not as the new one would."""
        del self.draining[old]
        old.resolver.close()
        if old.flush_on_close:
            try:
                self.store.clear()
            except BlockingIOError as error:
                logger.warning("reload: answers found under the old configuration stay until their TTL ends: %s", error)

    # --- end ------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Give answers under way a moment, then close everything."""
        for door in self.management_servers:
            door.close()
        if self.rollover_timer is not None:
            self.rollover_timer.cancel()
        if self.links is not None:
            self.links.stop()
        until = self.loop.time() + limits.DRAIN / 1000
        generations = (self.current, *self.draining)
        for task in self.tasks:
            task.cancel()
        while any(one.service.waiting for one in generations) and self.loop.time() < until:
            await asyncio.sleep(limits.DRAIN / 10000)
        self.abort_reload()
        for listeners in self.listeners:
            listeners.close()
        for old, task in list(self.draining.items()):
            task.cancel()
            self.finish(old)
        self.current.resolver.close()
        if self.parent_pipe is not None:
            self.loop.remove_reader(self.parent_pipe)
