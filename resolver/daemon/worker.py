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
import signal
import socket
import time
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
from resolver.daemon.certificates import Certificates, ExpiryWatch
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
from resolver.daemon.worker_commands import WorkerCommands, add_counters
from resolver.effects import Outcome, Question
from resolver.net.turns import Turns
from resolver.settings import Settings
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.management import ManagementServer
    from resolver.net.client_contexts import TlsContexts
    from resolver.validate.autotrust import TrustPoint

__all__ = ["Options", "Reload", "run"]

logger = logging.getLogger(__name__)

Reload = Callable[[], Settings]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a worker that are not in the settings.

    `config` is the path of the configuration file, or empty; `number` counts the workers from 0; `management` has the
    sockets opened before the fork, of which the first worker uses all and the others only the channels; `certificates`
    were read before the fork.
    """

    playground: bool = False
    show_example: bool = False
    config: str = ""
    number: int = 0
    management: ManagementSockets | None = None
    certificates: Certificates | None = None
    tls_contexts: "TlsContexts | None" = None


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
        self.management_servers: list[ManagementServer] = []
        self.listeners: list[Listeners] = []
        self.turns = Turns()
        self.closed: dict[str, dict[str, Any]] = {}
        self.override_settings: Callable[[Settings], Settings] = lambda given: given
        self.tasks: set[asyncio.Task[Any]] = set()
        self.draining: dict[RuntimeConfig, asyncio.Task[None]] = {}
        self.in_playground = False
        self.rollover: AnchorUpdater | None = None
        self.rollover_timer: asyncio.TimerHandle | None = None
        self.reloading = asyncio.Lock()
        self.certificate_timer: asyncio.TimerHandle | None = None
        self.ticket_timer: asyncio.TimerHandle | None = None
        self.expiry_watch = ExpiryWatch()
        self.reload_waits = False
        self.prepared: _Prepared | None = None

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
            self.current = RuntimeConfig(
                self.override_settings(self.configured), self.store, loop, self.options.certificates,
                self.options.tls_contexts,
            )
            self.rollover = self.make_rollover(self.current)
            self.save_anchors()
            for endpoint in self.endpoints:
                listeners = Listeners(endpoint, self.turns)
                self.listeners.append(listeners)
                await listeners.start(self.current)
            gc.set_threshold(limits.GC_YOUNG, limits.GC_MIDDLE, limits.GC_OLD)
            gc.freeze()  # existing objects live until the end, so the collector skips them
            gc.enable()
            await self.start_management()
            self.announce()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))  # blocked by main
            self.schedule_probe()
            self.watch_certificates()
            self.rotate_ticket_keys()
            if self.options.show_example:
                from resolver.daemon import demo

                shown = "www.example.playground." if in_playground else "www.iana.org."
                await demo.show_example(self.endpoints[0], shown, self.configured.iteration.query_timeout)
            reason = await self.stopping
            logger.info("stopping on %s", reason)
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
        """Counters of all listeners by group, including those of listeners closed by a reload."""
        total: dict[str, dict[str, Any]] = {"client_tcp": {}}
        add_counters(total, self.closed)
        for listeners in self.listeners:
            if listeners.udp is not None:
                add_counters(total, {"client_udp": listeners.udp.statistics()})
            if listeners.tcp is not None:
                add_counters(total, {GROUPS[listeners.endpoint.protocol]: listeners.tcp.statistics()})
        return total

    def certificate_expiry(self) -> dict[str, int]:
        """When each certificate in use ceases to be valid, in seconds since 1970, by file."""
        certificates = self.current.certificates
        return {} if certificates is None else certificates.expiry()

    def staple_expiry(self) -> dict[str, int]:
        """When each OCSP staple in use ceases to be sent, in seconds since 1970, by file."""
        certificates = self.current.certificates
        return {} if certificates is None else certificates.staple_expiry()

    # --- start ----------------------------------------------------------------------------------------------------

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
            for text in self.expiry_watch.due(certificates, now):
                logger.warning("%s", text)
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
            shown = " ".join(f"{name}={value}" for name, value in counters.items() if value)
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
        """One reload; the first of several workers reloads the others too."""
        asked = self.links.reloads.last_request() if self.links is not None else 0
        try:
            new = await self.prepare()
            with new.undo:
                if self.links is not None:
                    await prepare_workers(self.links)
                if self.is_outdated_by(new):
                    self.store.clear()  # last, so that a failed reload does not flush the cache
                new.undo.pop_all()
        except (ValueError, OSError, MemoryError, RefusedError) as error:
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
            given, runtime, rollover, _ = self.build_new(undo)
            self.prepared = _Prepared(given, runtime, rollover, [], undo.pop_all())

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
        if self.is_outdated_by(new):
            self.try_clear()
        self.switch(new)

    def is_outdated_by(self, new: _Prepared) -> bool:
        """Whether cached answers may differ from those that `new` would give.

        Hosts files are compared by content. Key states of trust anchors are carried over and do not count.
        """
        old, runtime = self.current, new.runtime
        hosts = runtime.resolver.policy.hosts
        return outdated(old.settings, runtime.settings) or hosts != old.resolver.policy.hosts

    def switch(self, new: _Prepared) -> None:
        """Switch to what was prepared; this cannot fail."""
        if new.rollover is not None:
            self.carry_over_anchors(new.rollover, new.runtime)  # again, because key states may have changed since
        old_differs = self.is_outdated_by(new)
        old, self.current = self.current, new.runtime
        running = old.resolver.mesh.statistics()["running"]
        old.flush_on_close = bool(running) and old_differs
        self.rollover = new.rollover
        wanted = new.runtime.listeners
        for listeners in list(self.listeners):
            endpoint = listeners.endpoint
            if endpoint.key in wanted:
                listeners.switch(new.runtime)
            else:
                self.listeners.remove(listeners)
                self.endpoints.remove(endpoint)
                if listeners.udp is not None:
                    add_counters(self.closed, {"client_udp": listeners.udp.statistics()})
                if listeners.tcp is not None:
                    counters = {**listeners.tcp.statistics(), "connections": 0}
                    add_counters(self.closed, {GROUPS[endpoint.protocol]: counters})
                listeners.close()
                endpoint.close()
        self.listeners += new.added
        self.endpoints += [listeners.endpoint for listeners in new.added]
        self.configured = new.configured
        self.draining[old] = self.loop.create_task(self.retire(old))
        log.set_up(new.configured.log)
        self.save_anchors()
        self.schedule_probe()
        self.watch_certificates()
        self.rotate_ticket_keys()
        logger.info("reload: the new configuration is in force")

    def build_new(self, undo: ExitStack) -> "tuple[Settings, RuntimeConfig, AnchorUpdater | None, list[Endpoint]]":
        """The new settings, their objects, and opened sockets without listeners; `undo` closes them.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        with with_config_location(self.options.config):
            given = merge_restart_only(self.configured, self.reload(), several=self.multi_worker)
            sockets.check_sources(given.iteration)
            opened = [] if self.multi_worker else self.open_new(given)
            undo.callback(sockets.close_all, [opened])
            runtime = RuntimeConfig(
                self.override_settings(given), self.store, self.loop, self.current.certificates,
                self.current.resolver.tls_contexts,
            )
        undo.callback(runtime.resolver.close)
        return given, runtime, self.make_rollover(runtime), opened

    async def prepare(self) -> _Prepared:
        """All steps of a reload that can fail. On error, completed steps are undone.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        with ExitStack() as undo:
            given, runtime, rollover, opened = self.build_new(undo)
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
            return _Prepared(given, runtime, rollover, added, undo.pop_all())

    def open_new(self, given: Settings) -> list[Endpoint]:
        """Open sockets for addresses that are not served yet.

        Raises:
            ListenError: an address is not available.
        """
        served = {endpoint.key for endpoint in self.endpoints}
        new = tuple(listener.key for listener in given.listeners if listener.key not in served)
        lenient = given.server.listen == Settings().server.listen  # as at start
        try:
            return sockets.open_endpoints(new, lenient=lenient, enough=bool(served))[0]
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

    async def retire(self, old: RuntimeConfig) -> None:
        """Close a replaced configuration when its last query is answered, or after its query timeout."""
        until = self.loop.time() + old.settings.iteration.query_timeout
        while old.service.waiting and self.loop.time() < until:
            await asyncio.sleep(limits.DRAIN_POLL / 1000)
        self.finish(old)

    def finish(self, old: RuntimeConfig) -> None:
        """Close a replaced configuration, and flush the cache if its last queries may have stored outdated answers."""
        del self.draining[old]
        old.resolver.close()
        if old.flush_on_close:
            self.try_clear()

    def try_clear(self) -> None:
        """Flush the cache; if a stopped process holds a lock of it, log that outdated answers stay."""
        try:
            self.store.clear()
        except BlockingIOError as error:
            logger.warning("reload: old answers stay cached until their TTL expires: %s", error)

    # --- stop -----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait up to `limits.DRAIN` for answers to waiting clients, then close everything."""
        for server in self.management_servers:
            server.close()
        for timer in (self.rollover_timer, self.certificate_timer, self.ticket_timer):
            if timer is not None:
                timer.cancel()
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
        self.current.resolver.close()
        if self.channel is not None:
            self.loop.remove_reader(self.channel)
