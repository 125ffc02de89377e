"""One worker: one loop, the listeners of its sockets, and the resolver behind them; started, reloaded and stopped here.

A reload builds the new resolver completely before anything of the old one is touched, then the listeners are switched:
queries that wait finish where they began, and a configuration that is wrong changes nothing. The store is kept, unless
what was concluded under the old rules (validation, local names, forwarding) must not outlive them.
"""

import asyncio
import gc
import logging
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import corenet
from corenet._version import __version__
from resolver import limits
from resolver.api import Resolver, make_store
from resolver.cache import Store
from resolver.daemon import log, sockets
from resolver.daemon.commands import Commands
from resolver.daemon.doors import Doors
from resolver.daemon.shortage import watch_for_shortage
from resolver.daemon.sockets import Endpoint
from resolver.effects import Outcome, Question
from resolver.net.cookies import CookieJar
from resolver.net.fastpath import FastPath
from resolver.net.service import Service
from resolver.net.stream_listener import StreamListener
from resolver.net.udp_listener import UdpListener
from resolver.policy import Plan
from resolver.settings import Settings, replace
from resolver.system import read_hosts_files
from resolver.values import frozen
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.daemon.management import ManagementServer
    from resolver.daemon.rollover import Rollover
    from resolver.validate.rollover import TrustPoint

__all__ = [
    "Options",
    "Reload",
    "clock_trouble",
    "keep_what_needs_restart",
    "make_plan",
    "places_named",
    "raise_descriptor_limit",
    "report_bad_reload",
    "run",
]

logger = logging.getLogger(__name__)

Reload = Callable[[], Settings]


@frozen
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


# --- settings that come from files beside the configuration -------------------------------------------------------


def make_plan(settings: Settings) -> Plan:
    """Compile the policies of `settings`.

    Raises:
        ValueError: a setting is wrong, or a file it names cannot be read.
    """
    return Plan(settings, read_hosts_files(settings.policy.hosts_files))


def keep_what_needs_restart(old: Settings, new: Settings, *, several: bool) -> Settings:
    """Take over from `old` what a running process cannot change, and say so."""
    server = new.server
    kept = []
    if server.workers != old.server.workers:
        kept.append("server.workers")
        server = replace(server, workers=old.server.workers)
    if several and server.listen != old.server.listen:
        kept.append("server.listen")
        server = replace(server, listen=old.server.listen)
    cache = new.cache
    for name in ("size", "min_ttl", "max_ttl", "max_negative_ttl", "servers"):
        if getattr(cache, name) != getattr(old.cache, name):
            kept.append(f"cache.{name}")
            cache = replace(cache, **{name: getattr(old.cache, name)})
    for part in ("control", "metrics"):
        if getattr(new, part) != getattr(old, part):
            kept.append(part)
    if kept:
        logger.warning("reload: %s changed in the file; that takes effect after a restart", " and ".join(kept))
    return replace(new, server=server, cache=cache, control=old.control, metrics=old.metrics)


@contextmanager
def places_named(config: str) -> Iterator[None]:
    """Raise every `ValueError` from within as a `ConfigError` that says where in the file `config` its cause stands."""
    try:
        yield
    except ValueError as error:
        if not config:
            raise
        from resolver.daemon.config import located

        raise located(config, error) from None


def report_bad_reload(error: ValueError) -> None:
    """Say what is wrong with a new configuration, and that the old one goes on."""
    for line in str(error).splitlines():
        setting, colon, what = line.partition(": ")
        logger.error("reload: %s", setting.replace("_", "-") + colon + what if setting.isidentifier() else line)
    logger.error("reload: the configuration is wrong; the old one stays in force")


def clock_trouble(now: int) -> str:
    """What is evidently wrong with the clock, in words for the log; empty when nothing is.

    A machine without a clock of its own starts in 1970, and a resolver that validates is of no use until it is set
    (RFC 4035 section 5.3.1); nothing else would say so but SERVFAIL for every signed name.
    """
    earliest, latest = limits.CLOCK_EARLIEST.default, limits.CLOCK_LATEST.default
    if earliest <= now < latest:
        return ""
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(max(now, 0)))
    why = "before this program was made" if now < earliest else "too far ahead to be true"
    return (
        f"the clock says {shown} UTC, {why}: no signature will be valid, and every signed name will fail. Set the clock"
        " (timedatectl set-ntp true, or date -s) before the resolver is relied on; it need not be restarted"
    )


def raise_descriptor_limit() -> None:
    """Take as many descriptors as the system grants: connections and upstream sockets need one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- the worker ---------------------------------------------------------------------------------------------------


class _Generation:
    """What one settings value brings to life behind the listeners."""

    def __init__(self, settings: Settings, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.resolver = Resolver(settings, store=store)
        self.resolver.open(loop)
        plan = self.resolver.policy
        server = settings.server
        self.fast = FastPath(
            store.answers,
            plan.access,
            largest_reply=server.udp_payload,
            pass_without_rd=server.without_recursion != "cache",
            prefetch=settings.cache.prefetch,
            cookies=CookieJar(server.cookie_keys, required=server.require_cookies) if server.cookies else None,
        )
        if self.fast.cookies is not None:
            self.fast.cookies.refresh(self.resolver.clock.time())
        self.service = Service(
            settings,
            mesh=self.resolver.mesh,
            store=store,
            plan=plan,
            fast=self.fast,
            clock=self.resolver.clock,
            submitted=self.resolver.poke,
        )


class _Listeners:
    """Both listeners of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.udp: UdpListener | None = None
        self.tcp: StreamListener | None = None

    async def start(self, generation: _Generation) -> None:
        service, fast = generation.service, generation.fast
        own = self.endpoint.duplicate()
        self.udp = UdpListener(service, fast)
        self.tcp = StreamListener(service, fast, generation.resolver.policy.access, generation.settings.server)
        await self.udp.start(own.udp)
        await self.tcp.start(own.tcp)

    def switch(self, generation: _Generation) -> None:
        if self.udp is not None and self.tcp is not None:
            self.udp.switch(generation.service, generation.fast)
            self.tcp.switch(
                generation.service, generation.fast, generation.resolver.policy.access, generation.settings.server
            )

    def close(self) -> None:
        if self.udp is not None:
            self.udp.close()
        if self.tcp is not None:
            self.tcp.close()


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
        self.links = options.doors.links if options.doors is not None else None
        self.commands = Commands(self)
        self.side_doors: list[ManagementServer] = []
        self.listeners: list[_Listeners] = []
        self.adapt: Callable[[Settings], Settings] = lambda given: given
        self.retired: set[asyncio.Task[None]] = set()
        self.playing = False
        self.rollover: Rollover | None = None
        self.rollover_timer: asyncio.TimerHandle | None = None
        self.reloading: asyncio.Task[str] | None = None

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
            self.current = _Generation(self.adapt(self.given), self.store, loop)
            self.follow_anchors(self.current)
            for endpoint in self.endpoints:
                listeners = _Listeners(endpoint)
                self.listeners.append(listeners)
                await listeners.start(self.current)
            gc.set_threshold(limits.GC_YOUNG.default, limits.GC_MIDDLE.default, limits.GC_OLD.default)
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

    def follow_anchors(self, generation: _Generation) -> None:
        """Let a new generation trust what was learned so far; every worker does, the first one goes on learning."""
        known, self.rollover = self.rollover, None
        dnssec = generation.settings.dnssec
        if not dnssec.active or not dnssec.auto_trust_anchor_file or self.playing:
            return
        from resolver.daemon.rollover import Rollover
        from resolver.validate import anchor_file

        self.rollover = Rollover(
            dnssec,
            now=generation.resolver.clock.time,
            ask=self.ask_anew,
            verify=self.check_signatures,
            changed=self.on_anchor,
            concluded=self.tell_anchors,
        )
        self.rollover.load()
        if known is not None:
            self.rollover.take(anchor_file.parse(known.text))
        if not self.number:
            self.rollover.save()  # what cannot be written shall be known at the start, not in a month
        self.rollover.apply(generation.resolver.mesh.validation.anchors)

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
        self.current.resolver.mesh.validation.anchors.put(point.zone, point.trusted())
        try:
            self.store.rrsets.drop(point.zone, c.DNSKEY)
            self.store.answers.drop(point.zone, c.DNSKEY)
        except BlockingIOError as error:
            logger.warning("trust anchors: the cache keeps the old keys until their TTL ends: %s", error)

    def tell_anchors(self) -> None:
        """After a look: when to look again, and what the other workers have to know."""
        self.look_at_anchors()
        if self.links is not None and self.rollover is not None:
            task = self.loop.create_task(self.tell_others(self.rollover.text))
            self.retired.add(task)
            task.add_done_callback(self.retired.discard)

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
        from resolver.validate import anchor_file

        before = self.rollover.trusted()
        self.rollover.take(anchor_file.parse(text))
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

    def check_reload(self) -> None:
        """Look whether a reload would find a configuration that can be used.

        Raises:
            ValueError: it would not; the text says where and why.
        """
        with places_named(self.options.config):
            make_plan(self.reload())

    def on_reload(self) -> None:
        if self.reloading is None or self.reloading.done():
            self.reloading = self.loop.create_task(self.do_reload())

    async def do_reload(self) -> str:
        """Read the configuration again and switch to it, or keep the old one and say why; empty when it is in force."""
        several = self.lifeline is not None
        try:
            with places_named(self.options.config):
                given = keep_what_needs_restart(self.given, self.reload(), several=several)
                opened = [] if several else self.open_new(given)
                try:
                    generation = _Generation(self.adapt(given), self.store, self.loop)
                except BaseException:
                    sockets.close_all([opened])
                    raise
        except ValueError as error:
            report_bad_reload(error)
            return str(error)
        except OSError as error:
            logger.error("reload: %s; the old configuration stays in force", error.strerror or error)
            return str(error.strerror or error)
        old, self.current = self.current, generation
        self.follow_anchors(generation)
        self.look_at_anchors()
        if outdated(old.settings, generation.settings):
            self.store.clear()
        wanted = set(given.server.endpoints)
        for listeners in list(self.listeners):
            endpoint = listeners.endpoint
            if several or (endpoint.address, endpoint.wanted) in wanted:
                listeners.switch(generation)
            else:
                self.listeners.remove(listeners)
                self.endpoints.remove(endpoint)
                listeners.close()
                endpoint.close()
        for endpoint in opened:
            listeners = _Listeners(endpoint)
            self.listeners.append(listeners)
            self.endpoints.append(endpoint)
            await listeners.start(generation)
        self.given = given
        log.set_up(given.log)
        task = self.loop.create_task(retire(old))
        self.retired.add(task)
        task.add_done_callback(self.retired.discard)
        logger.info("reload: the new configuration is in force")
        return ""

    def open_new(self, given: Settings) -> list[Endpoint]:
        """Sockets for addresses that are not served yet.

        Raises:
            ListenError: one of them cannot be had.
        """
        served = {(endpoint.address, endpoint.wanted) for endpoint in self.endpoints}
        new = tuple(endpoint for endpoint in given.server.endpoints if endpoint not in served)
        return sockets.open_endpoints(new)[0] if new else []

    # --- end ------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Give answers under way a moment, then close everything."""
        for door in self.side_doors:
            door.close()
        if self.rollover_timer is not None:
            self.rollover_timer.cancel()
        if self.links is not None:
            self.links.stop()
        if self.reloading is not None:
            self.reloading.cancel()
        for task in self.retired:
            task.cancel()
        until = self.loop.time() + limits.DRAIN.default / 1000
        while self.current.service.waiting and self.loop.time() < until:
            await asyncio.sleep(limits.DRAIN.default / 10000)
        for listeners in self.listeners:
            listeners.close()
        self.current.resolver.close()
        if self.lifeline is not None:
            self.loop.remove_reader(self.lifeline)


async def retire(generation: _Generation) -> None:
    """Close what a reload has replaced as soon as nobody waits for it any more."""
    deadline = generation.settings.iteration.deadline
    waited = 0.0
    step = limits.RETIRE_LOOK.default / 1000
    try:
        while generation.service.waiting and waited < deadline:
            await asyncio.sleep(step)
            waited += step
    finally:
        generation.resolver.close()


def outdated(old: Settings, new: Settings) -> bool:
    """Whether answers kept under `old` may differ from those that `new` would give."""
    return (
        any(
            getattr(old, part) != getattr(new, part)
            for part in ("dnssec", "policy", "forward", "stub", "root_hints", "iteration")
        )
        or old.server.minimal_responses != new.server.minimal_responses
    )
