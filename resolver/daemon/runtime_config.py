"""The objects created from one `Settings` value, and the listeners that pass queries to them.

A reload creates a new `RuntimeConfig`, and the `Listeners` switch to it between two packets. A query is completed by
the `RuntimeConfig` that received it.
"""

import asyncio
import logging
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from resolver.api import Resolver
from resolver.cache import Store
from resolver.daemon import resource_exhaustion
from resolver.daemon.cache_rules import digest_rules
from resolver.daemon.certificates import Certificates
from resolver.daemon.certificates import load as load_certificates
from resolver.daemon.observation import Observation
from resolver.daemon.sockets import Endpoint, ListenError
from resolver.net.cookies import ServerCookies
from resolver.net.descriptors import client_connections, divide_connections
from resolver.net.fastpath import FastPath
from resolver.net.rate_limit import RateLimits
from resolver.net.service import Service
from resolver.net.stream_listener import StreamListener
from resolver.net.tls_listener import TlsListener
from resolver.net.turns import Turns
from resolver.net.udp_listener import UdpListener
from resolver.policy import AccessTable
from resolver.policy.zone_peers import ZonePeers
from resolver.settings import ListenerSettings, ServerSettings, Settings, replace

if TYPE_CHECKING:
    from resolver.daemon.balance_checks import BalanceChecks
    from resolver.daemon.hook_modules import HookModules
    from resolver.daemon.list_updates import ListUpdates, NewLists
    from resolver.net.client_contexts import TlsContexts
    from resolver.observe.output import Output

__all__ = ["Listeners", "RuntimeConfig"]

logger = logging.getLogger(__name__)

TRANSPORTS = {"dns": ("udp", "tcp"), "tls": ("tls",), "https": ("https",), "quic": ("quic",)}
"""The transports of queries, by the protocol of the listener."""


class RuntimeConfig:
    """Resolver, fast path and service of one `Settings` value."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        certificates: Certificates | None = None,
        contexts: "TlsContexts | None" = None,
        lists: "ListUpdates | None" = None,
        rates: RateLimits | None = None,
        observation: Observation | None = None,
        new_lists: "NewLists | None" = None,
        *,
        keep_unreadable: bool = False,
    ) -> None:
        """`certificates`, `contexts` (of upstream servers), `lists` and `observation` are those in use. They are kept
        while their files are the same. `rates` are the limits in use, which keep their counts. `new_lists` are loaded.
        `keep_unreadable`: see `certificates.load`.

        Raises:
            ValueError: a setting is wrong, or a file it names cannot be used.
        """
        self.settings = settings
        self.certificates = load_certificates(settings, certificates, keep_unreadable=keep_unreadable)
        self.flush_on_close = False
        """Whether its last queries may cache answers that differ from those of the settings in force."""
        self.rates = RateLimits(
            settings.rate_limit, [view.rates(settings.rate_limit) for view in settings.view],
            None if rates is None else rates.buckets,
        )
        self.names_on_close: tuple[bytes, ...] = ()
        """Names at and below which that may be so, when only run-time changes were made."""
        self.lists: ListUpdates | None = None
        if settings.list or settings.rpz:
            from resolver.daemon import list_updates  # most configurations have none

            self.lists = list_updates.ListUpdates(settings, lists, new=new_lists)
        self.hook_modules: HookModules | None = None
        if settings.policy.modules or any(view.modules for view in settings.view):
            from resolver.daemon import hook_modules  # most configurations have none

            self.hook_modules = hook_modules.HookModules(settings)
        self.resolver = Resolver(
            settings, store=store, modules=() if self.lists is None else self.lists.modules,
            hooks=None if self.hook_modules is None else self.hook_modules.views,
        )
        sources = {} if self.hook_modules is None else self.hook_modules.sources
        self.rules = digest_rules(settings, self.resolver.policy.hosts, sources)
        """Cached answers may differ from those of a configuration with another value."""
        self.balance: BalanceChecks | None = None
        if settings.balance:
            from resolver.daemon import balance_checks  # most configurations have none

            self.balance = balance_checks.BalanceChecks(self.resolver.balancer)
        made = self.resolver.tls_contexts
        if made is not None and contexts is not None and contexts.same_trust(made):
            self.resolver.tls_contexts = contexts
        self.resolver.open(loop)
        resource_exhaustion.shed_load_when_low(self.resolver.mesh, settings.log.rate_limit_interval)
        try:
            self.observation = Observation(settings, self.resolver.zones, observation)
        except BaseException:
            self.resolver.close()
            raise
        try:
            self.serve_with(store)
        except BaseException:
            self.resolver.close()
            self.observation.close(observation)
            raise

    def close(self, successor: "RuntimeConfig | None" = None) -> "list[Output]":
        """Close the resolver, and stop the outputs that `successor` does not use, which are returned.

        Nothing is left in a reference cycle, except hook modules (`ReplacedConfigs.retire`). The tables of lists and
        policies are large, and the collector, which counts objects, runs too rarely for them.
        """
        if self.balance is not None:
            self.balance.close()
        self.resolver.close()
        self.service.zone_server = None  # it refers to the service
        return self.observation.close(None if successor is None else successor.observation)

    @property
    def uses_lanes(self) -> bool:
        """Whether lanes answer UDP queries."""
        return self.settings.server.lanes > 0

    def serve_with(self, store: Store) -> None:
        settings, plan = self.settings, self.resolver.policy
        server = settings.server
        observer = self.observation.observer
        if observer is not None and observer.observes_upstreams:
            self.resolver.upstream.set_observer(observer)
        cookies = None
        if server.answer_cookies:
            cookies = ServerCookies(server.cookie_keys, required=server.require_cookies)
            cookies.refresh(self.resolver.clock.time())

        # Other workers may still have other settings, under which the numbers of views mean other views.
        answers = store.answers.for_rules(
            self.rules if settings.view else b"", rotate=settings.server.rotate_addresses
        )

        peers = ZonePeers.create(settings)

        def fast_path(access: AccessTable, counters: FastPath | None = None) -> FastPath:
            return FastPath(
                answers,
                access,
                largest_reply=server.max_udp_size,
                pass_without_rd=server.non_recursive_queries != "cache",
                prefetch=settings.cache.prefetch,
                cookies=cookies,
                counters=counters,
                rates=self.rates,
                observer=observer,
                peers=peers,
            )

        self.fast = fast_path(plan.access)
        self.listeners: dict[tuple[str, int, str], ListenerConfig] = {}
        for listener, own in zip(settings.listeners, within_descriptors(settings), strict=True):
            fast = self.fast
            tables = {transport: plan.table(listener, transport) for transport in TRANSPORTS[listener.protocol]}
            udp, stream = tables.get("udp"), tables.get("tcp", tables.get(listener.protocol, plan.access))
            if udp is not None and udp is not plan.access:
                fast = fast_path(udp, self.fast)  # its table is read without Python
            self.listeners[listener.key] = ListenerConfig(
                listener, own, fast, None if udp is plan.access else udp, None if stream is plan.access else stream
            )
        self.service = Service(
            settings,
            mesh=self.resolver.mesh,
            plan=plan,
            fast=self.fast,
            clock=self.resolver.clock,
            submitted=self.resolver.timer.process_timers,
        )
        self.service.observer = observer


def close_sockets(sockets: list[socket.socket]) -> None:
    """Close those that are in the list now."""
    for one in sockets:
        one.close()


def within_descriptors(settings: Settings) -> list[ServerSettings]:
    """The server settings of each listener, with no more connections than there are descriptors.

    Upstream queries keep theirs (`resolver.net.descriptors`). DNS over QUIC needs none for a connection.
    """
    applied = [listener.applied_to(settings.server) for listener in settings.listeners]
    streams = [index for index, listener in enumerate(settings.listeners) if listener.protocol != "quic"]
    free = client_connections(targets=sum(len(one.target) for one in settings.balance if one.check != "none"))
    most = divide_connections([applied[index].tcp_connections for index in streams], free)
    for index, given in zip(streams, most, strict=True):
        if given < applied[index].tcp_connections:
            listener = settings.listeners[index]
            logger.warning(
                "listener %s (%s): the limit of open files permits %d connections of clients, not %d; raise the limit"
                " (ulimit -n, LimitNOFILE= in systemd)",
                listener.address, listener.protocol, given, applied[index].tcp_connections,
            )
            applied[index] = replace(applied[index], tcp_connections=given)
    return applied


class ListenerConfig(NamedTuple):
    """What one listener is configured to do. `udp` and `stream` are its own tables of access and views for datagrams
    and connections, None where it has the policy's."""

    settings: ListenerSettings
    server: ServerSettings
    fast: FastPath
    udp: AccessTable | None
    stream: AccessTable | None

    @property
    def name(self) -> str:
        """Address and port, as policies know the listener."""
        host, port = self.settings.endpoint
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Listeners:
    """The listeners of one endpoint: UDP and TCP without encryption, or one for TLS, HTTPS or QUIC.

    `tcp` is that of the connections, which QUIC has on a UDP socket.
    """

    def __init__(self, endpoint: Endpoint, turns: Turns) -> None:
        """`turns` is that of the worker."""
        self.endpoint = endpoint
        self.turns = turns
        self.udp: list[UdpListener] = []
        self.tcp: StreamListener | None = None

    async def start(self, runtime: RuntimeConfig) -> None:
        """Serve the sockets of the endpoint.

        Raises:
            ListenError: another program listens on the port, or a descriptor cannot be had; the text names the address.
        """
        try:
            await self._start(runtime)
        except OSError as error:
            text = f"cannot serve {self.endpoint}: {error.strerror or error}"
            raise ListenError(error.errno, text, endpoint=self.endpoint.key) from None

    async def _start(self, runtime: RuntimeConfig) -> None:
        config = runtime.listeners[self.endpoint.key]
        tcp = self._stream_listener(runtime, config)
        own = self.endpoint.duplicate()
        started: list[UdpListener] = []
        waiting = [sock for sock in (own.udp, *own.lanes) if sock is not None]  # sockets that no listener owns yet
        with ExitStack() as undo:
            undo.callback(close_sockets, waiting)
            if own.tcp is None:
                await tcp.start(waiting[0])
                undo.pop_all()
                self.tcp = tcp
                return
            undo.callback(own.tcp.close)
            while waiting:
                udp = UdpListener(
                    runtime.service, config.fast, lane=runtime.uses_lanes, access=config.udp,
                    proxies=config.settings.proxy_protocol_from, name=config.name,
                )
                await udp.start(waiting[0])
                del waiting[0]
                undo.callback(udp.close)
                started.append(udp)
            await tcp.start(own.tcp)
            undo.pop_all()
        self.udp, self.tcp = started, tcp

    def _stream_listener(self, runtime: RuntimeConfig, config: ListenerConfig) -> StreamListener:
        settings = config.settings
        access = config.stream or runtime.resolver.policy.access
        given = (runtime.service, config.fast, access, config.server)
        options: Any = {
            "proxies": settings.proxy_protocol_from, "own_access": config.stream is not None, "turns": self.turns,
            "name": config.name,
        }
        if settings.protocol == "dns":
            return StreamListener(*given, **options)
        assert runtime.certificates is not None
        context = runtime.certificates.context(settings.protocol)
        if settings.protocol == "tls":
            return TlsListener(*given, context, **options)
        if settings.protocol == "quic":
            from resolver.net.quic_listener import QuicListener  # it loads qh3, which is an extra

            return QuicListener(*given, context, **options)
        from resolver.net.https_listener import HttpsListener  # it loads HTTP, which others do not need

        return HttpsListener(*given, context, path=settings.path, **options)

    def switch(self, runtime: RuntimeConfig) -> None:
        """Serve new queries by `runtime`."""
        config = runtime.listeners[self.endpoint.key]
        proxies = config.settings.proxy_protocol_from
        for udp in self.udp:
            udp.switch(
                runtime.service, config.fast, access=config.udp, proxies=proxies, lane=runtime.uses_lanes
            )
        if self.tcp is None:
            return
        self.tcp.switch(
            runtime.service,
            config.fast,
            config.stream or runtime.resolver.policy.access,
            config.server,
            proxies=proxies,
            own_access=config.stream is not None,
        )
        if isinstance(self.tcp, TlsListener) and runtime.certificates is not None:
            self.tcp.reconfigure(runtime.certificates.context(config.settings.protocol), config.settings.path)

    def stop_reading(self) -> None:
        """Take no more queries, except on connections that are open. This cannot be undone."""
        for udp in self.udp:
            udp.stop_reading()
        if self.tcp is not None:
            self.tcp.stop_accepting()

    @property
    def settled(self) -> bool:
        """After `stop_reading`: whether every connection has ended."""
        return self.tcp is None or self.tcp.settled

    def close(self) -> None:
        """Stop serving."""
        for udp in self.udp:
            udp.close()
        if self.tcp is not None:
            self.tcp.close()
