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
from resolver.daemon.commands import Commands
from resolver.daemon.doors import Doors
from resolver.daemon.generation import Generation, Listeners
from resolver.daemon.host import clock_trouble
from resolver.daemon.renewal import (
    RefusedError,
    keep_what_needs_restart,
    others_let_go,
    others_prepare,
    others_switch,
    outdated,
    places_named,
    report_bad_reload,
    tell_supervisor,
)
from resolver.daemon.shortage import watch_for_shortage
from resolver.daemon.sockets import Endpoint, ListenError
from resolver.effects import Outcome, Question
from resolver.settings import Settings
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.daemon.management import ManagementServer
    from resolver.daemon.rollover import Rollover
    from resolver.validate.rollover import TrustPoint

__all__ = ["Options", "Reload", "run"]

logger = logging.getLogger(__name__)

Reload = Callable[[], Settings]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks of a worker beyond the settings.

    `config` is the configuration file, empty without one; `number` counts the workers from 0; `doors` were opened
    before the fork and are used by the first worker, their links by all.
    """

    playground: bool = False
    show_first_answer: bool = False
    config: str = ""
    number: int = 0
    doors: Doors | None = None


def run(
    settings: Settings,
    endpoints: list[Endpoint],
    *,
    reload: Reload,
    options: Options,
    store: Store | None = None,
    lifeline: int | None = None,
) -> int:
    """Serve until a signal ends it; the exit status. When the descriptor `lifeline` ends, the parent is gone.

    Raises:
        ValueError: a setting is wrong.
        OSError: memory, a descriptor or the playground's port cannot be had.
    """
    worker = _Worker(settings, endpoints, reload, options, store, lifeline)
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        return runner.run(worker.main())


# --- the worker ---------------------------------------------------------------------------------------------------


class _Prepared(NamedTuple):
    """All that a reload needs to switch: nothing in it can be refused any more."""

    given: Settings
    generation: Generation
    rollover: "Rollover | None"
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
        lifeline: int | None,
    ) -> None:
        self.given = settings
        self.endpoints = endpoints
        self.reload = reload
        self.options = options
        self.store = store or make_store(settings)
        self.keeps = store is None and not options.playground
        self.lifeline = lifeline
        self.supervisor = os.getppid()
        self.several = lifeline is not None
        self.links = options.doors.links if options.doors is not None else None
        self.commands = Commands(self)
        self.side_doors: list[ManagementServer] = []
        self.listeners: list[Listeners] = []
        self.closed: Counter[str] = Counter()
        self.adapt: Callable[[Settings], Settings] = lambda given: given
        self.tasks: set[asyncio.Task[Any]] = set()
        self.retiring: dict[Generation, asyncio.Task[None]] = {}
        self.playing = False
        self.rollover: Rollover | None = None
        self.rollover_timer: asyncio.TimerHandle | None = None
        self.reloading = asyncio.Lock()
        self.reload_waits = False
        self.held: _Prepared | None = None

    async def main(self) -> int:
        loop = asyncio.get_running_loop()
        self.loop = loop
        watch_for_shortage(loop, self.given.log.interval)
        self.stopping: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self.on_reload)
        loop.add_signal_handler(signal.SIGUSR1, self.on_report)
        if self.lifeline is not None:
            loop.add_reader(self.lifeline, self.on_stop, "the end of its supervisor")
        async with AsyncExitStack() as stack:
            playing = self.options.playground
            if self.options.show_first_answer and not playing and not self.options.config:
                from resolver.daemon import first

                playing = not await first.roots_answer(self.given)
                print(
                    "The Internet's root servers cannot be reached; a simulated Internet takes their place."
                    if playing
                    else "The Internet's root servers answer and are used.",
                    flush=True,
                )
            self.playing = playing
            if playing:
                self.keeps = False
                await self.enter_playground(stack)
            if self.keeps and self.given.cache.snapshot_file:
                from resolver.daemon import keep

                keep.restore_if_set(self.store, self.given)
            self.current = Generation(self.adapt(self.given), self.store, loop)
            self.rollover = self.anchors_of(self.current)
            self.keep_anchors()
            for endpoint in self.endpoints:
                listeners = Listeners(endpoint)
                self.listeners.append(listeners)
                await listeners.start(self.current)
            gc.set_threshold(limits.GC_YOUNG, limits.GC_MIDDLE, limits.GC_OLD)
            gc.freeze()  # what exists now lives to the end; the collector need not look at it again
            gc.enable()
            await self.open_side_doors()
            self.announce()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))  # main blocked them
            self.look_at_anchors()
            if self.options.show_first_answer:
                from resolver.daemon import first

                shown = "www.example.playground." if playing else "www.iana.org."
                await first.show_first_answer(self.endpoints[0], shown, self.given.iteration.deadline)
            reason = await self.stopping
            logger.info("stopping on %s", reason)
            await self.drain()
            if self.keeps and self.given.cache.snapshot_file:
                from resolver.daemon import keep

                keep.save_if_set(self.store, self.given)
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
        self.adapt = world.settings
        logger.info("the playground's servers are on port %d of their loopback addresses", world.port)
        given = self.given
        if given.cache.snapshot_file or given.dnssec.auto_trust_anchor_file:
            logger.info("the playground is new each time: cache.snapshot-file and dnssec.auto-trust-anchor-file rest")

    async def open_side_doors(self) -> None:
        """The first worker serves the control socket and the metrics; the others answer what it asks them."""
        doors = self.options.doors
        if doors is None:
            return
        if self.links is not None:
            if self.number:
                self.links.serve(self.loop, self.number, self.commands.perform)
                return
            self.links.listen(self.loop)
        if doors.control is None and doors.metrics is None:
            return
        from resolver.daemon.control import ControlServer, Office
        from resolver.daemon.metrics import MetricsServer

        office = Office(self, self.commands)
        if doors.control is not None:
            control = ControlServer(office)
            await control.start(doors.control.dup())
            self.side_doors.append(control)
        if doors.metrics is not None:
            metrics = MetricsServer(office.statistics, __version__)
            await metrics.start(doors.metrics.dup())
            self.side_doors.append(metrics)

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

    def anchors_of(self, generation: Generation) -> "Rollover | None":
        """Let a new generation trust what was learned so far; every worker does, the first one goes on learning."""
        dnssec = generation.settings.dnssec
        if not dnssec.active or not dnssec.auto_trust_anchor_file or self.playing:
            return None
        from resolver.daemon.rollover import Rollover

        rollover = Rollover(
            dnssec,
            now=generation.resolver.clock.time,
            ask=self.ask_anew,
            verify=self.check_signatures,
            changed=self.on_anchor,
            concluded=self.tell_anchors,
        )
        rollover.load()
        self.pass_on(rollover, generation)
        return rollover

    def pass_on(self, rollover: "Rollover", generation: Generation) -> None:
        """Let a new generation know what the one in force has learned."""
        if self.rollover is not None:
            rollover.take_text(self.rollover.text)
        validation = generation.resolver.mesh.validation
        if validation is not None:
            rollover.apply(validation.anchors)

    def keep_anchors(self) -> None:
        """Write the first worker's file: what cannot be written shall be known at the start, not in a month."""
        if self.rollover is not None and not self.number:
            self.rollover.save()

    def look_at_anchors(self) -> None:
        """Look at the zones whose time has come, and come back when the next one's has."""
        rest = 0.0
        if self.rollover is not None and not self.number and not self.stopping.done():
            rest = self.rollover.tick()  # may come back here, when a look is over at once
        if self.rollover_timer is not None:
            self.rollover_timer.cancel()
        self.rollover_timer = self.loop.call_later(rest, self.look_at_anchors) if rest else None

    def ask_anew(self, question: Question, cd: bool, on_done: Callable[[Outcome], None]) -> bool:
        resolver = self.current.resolver
        begun = resolver.mesh.refresh(question, cd=cd, on_done=on_done)
        resolver.poke()
        return begun

    def on_anchor(self, point: "TrustPoint") -> None:
        """Other keys are trusted for a zone: its validated keys were validated by the old ones."""
        validation = self.current.resolver.mesh.validation
        if validation is not None:
            validation.anchors.put(point.zone, point.trusted())
        try:
            self.store.drop(point.zone, rtype=c.DNSKEY)
        except BlockingIOError as error:
            logger.warning("trust anchors: the cache keeps the old keys until their TTL ends: %s", error)

    def tell_anchors(self) -> None:
        """After a look: when to look again, and what the other workers have to know."""
        self.look_at_anchors()
        if self.links is not None and self.rollover is not None:
            self.begin(self.tell_others(self.rollover.text))

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let `work` run beside the service; the end of the service is its end."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def tell_others(self, text: str) -> None:
        from resolver.daemon.links import LinkError

        assert self.links is not None
        for number in self.links.others:
            try:
                await self.links.ask(number, {"command": "take-anchors", "text": text})
            except LinkError as error:
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
                self.on_anchor(self.rollover.points[zone])

    # --- signals --------------------------------------------------------------------------------------------------

    def on_stop(self, reason: str) -> None:
        if not self.stopping.done():
            self.stopping.set_result(reason)

    def check_signatures(self, jobs: Sequence[Any], on_done: Callable[[list[bool]], None]) -> None:
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
            self.begin(self.reload_in_turn())

    async def reload_in_turn(self) -> None:
        async with self.reloading:
            self.reload_waits = False
            await self.switch_over()

    async def do_reload(self) -> str:
        """Read the configuration again and switch to it, or keep the old one and say why; empty when it is in force."""
        async with self.reloading:
            return await self.switch_over()

    async def switch_over(self) -> str:
        """One reload, of the other workers as well when this is the first of several."""
        asked = self.links.reloads.last_request() if self.links is not None else 0
        try:
            new = await self.prepare()
            with new.undo:
                if self.links is not None:
                    await others_prepare(self.links)
                self.forget_outdated(new)  # last, so that only what nothing can stop any more costs the cache
                new.undo.pop_all()
        except (ValueError, OSError, MemoryError, RefusedError) as error:
            if self.links is not None:
                await others_let_go(self.links)
                tell_supervisor(self.supervisor, self.links, asked, None)
            return report_bad_reload(error)
        self.switch(new)
        if self.links is None:
            return ""
        tell_supervisor(self.supervisor, self.links, asked, self.given)
        missing = await others_switch(self.links)
        return f"the new configuration is in force, but not everywhere: {missing}" if missing else ""

    def hold_new(self) -> None:
        """Make all that a switch needs, for the first worker to say when.

        Raises:
            ValueError: the configuration is wrong; the text says where and why.
            OSError: an address or a descriptor cannot be had.
        """
        self.let_go()
        with ExitStack() as undo:
            given, generation, rollover, _ = self.make_new(undo)
            self.held = _Prepared(given, generation, rollover, [], undo.pop_all())

    def let_go(self) -> None:
        """It comes to no switch."""
        if self.held is not None:
            self.held.undo.close()
            self.held = None

    def take_new(self) -> None:
        """Switch, as the first worker has done.

        Raises:
            ValueError, OSError: this worker was started since, and cannot make now what it needs.
        """
        if self.held is None:
            self.hold_new()
        new, self.held = self.held, None
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
        old, generation = self.current, new.generation
        hosts = generation.resolver.policy.hosts
        return outdated(old.settings, generation.settings) or hosts != old.resolver.policy.hosts

    def switch(self, new: _Prepared) -> None:
        """Let what was prepared serve from now on; nothing in it can be refused any more."""
        if new.rollover is not None:
            self.pass_on(new.rollover, new.generation)  # once more: others had a turn since it was made
        old_differs = self.is_outdated_by(new)
        old, self.current = self.current, new.generation
        running = old.resolver.mesh.statistics()["running"]
        old.taints = bool(running) and old_differs
        self.rollover = new.rollover
        wanted = set(new.given.server.endpoints)
        for listeners in list(self.listeners):
            endpoint = listeners.endpoint
            if self.several or (endpoint.address, endpoint.wanted) in wanted:
                listeners.switch(new.generation)
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
        self.given = new.given
        self.retiring[old] = self.loop.create_task(self.retire(old))
        log.set_up(new.given.log)
        self.keep_anchors()
        self.look_at_anchors()
        logger.info("reload: the new configuration is in force")

    def make_new(self, undo: ExitStack) -> "tuple[Settings, Generation, Rollover | None, list[Endpoint]]":
        """The settings, what serves by them, and sockets that nobody listens on yet; `undo` closes what was made.

        Raises:
            ValueError: the configuration is wrong; the text says where and why.
            OSError: an address or a descriptor cannot be had.
        """
        with places_named(self.options.config):
            given = keep_what_needs_restart(self.given, self.reload(), several=self.several)
            sockets.check_sources(given.iteration)
            opened = [] if self.several else self.open_new(given)
            undo.callback(sockets.close_all, [opened])
            generation = Generation(self.adapt(given), self.store, self.loop)
        undo.callback(generation.resolver.close)
        return given, generation, self.anchors_of(generation), opened

    async def prepare(self) -> _Prepared:
        """Everything of a reload that can fail; what was done before that is undone then.

        Raises:
            ValueError: the configuration is wrong; the text says where and why.
            OSError: an address or a descriptor cannot be had.
        """
        with ExitStack() as undo:
            given, generation, rollover, opened = self.make_new(undo)
            added = []
            for endpoint in opened:
                listeners = Listeners(endpoint)
                try:
                    await listeners.start(generation)
                except OSError as error:
                    text = f"cannot serve {endpoint}: {error.strerror or error}"
                    refusal = ListenError(error.errno, text, endpoint=(endpoint.address, endpoint.wanted))
                    raise self.placed(refusal, given) from None
                undo.callback(listeners.close)
                added.append(listeners)
            return _Prepared(given, generation, rollover, added, undo.pop_all())

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
            raise self.placed(self.own_part(error), given) from None

    def own_part(self, error: ListenError) -> ListenError:
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

    def placed(self, error: ListenError, given: Settings) -> ListenError:
        """`error` with the setting that wanted the address, and its line where there is a file."""
        wanted = given.server.listen[given.server.endpoints.index(error.endpoint)] if error.endpoint else ""
        reason = ValueError(f"server.listen: {wanted!r}: {error.strerror}")
        if self.options.config:
            from resolver.daemon.config import located

            reason = located(self.options.config, reason)
        return ListenError(error.errno, str(reason), endpoint=error.endpoint)

    async def retire(self, old: Generation) -> None:
        """Close what a reload has replaced as soon as nobody waits for it any more."""
        until = self.loop.time() + old.settings.iteration.deadline
        while old.service.waiting and self.loop.time() < until:
            await asyncio.sleep(limits.DRAIN_POLL / 1000)
        self.finish(old)

    def finish(self, old: Generation) -> None:
        """Close a replaced generation, and forget what it has stored since if that is not as the new one would."""
        del self.retiring[old]
        old.resolver.close()
        if old.taints:
            try:
                self.store.clear()
            except BlockingIOError as error:
                logger.warning("reload: answers found under the old configuration stay until their TTL ends: %s", error)

    # --- end ------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Give answers under way a moment, then close everything."""
        for door in self.side_doors:
            door.close()
        if self.rollover_timer is not None:
            self.rollover_timer.cancel()
        if self.links is not None:
            self.links.stop()
        until = self.loop.time() + limits.DRAIN / 1000
        generations = (self.current, *self.retiring)
        for task in self.tasks:
            task.cancel()
        while any(one.service.waiting for one in generations) and self.loop.time() < until:
            await asyncio.sleep(limits.DRAIN / 10000)
        self.let_go()
        for listeners in self.listeners:
            listeners.close()
        for old, task in list(self.retiring.items()):
            task.cancel()
            self.finish(old)
        self.current.resolver.close()
        if self.lifeline is not None:
            self.loop.remove_reader(self.lifeline)
