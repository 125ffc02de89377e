"""The objects created from one `Settings` value, and the listeners that pass queries to them.

A reload creates a new `RuntimeConfig`, and the `Listeners` switch to it between two packets. A query is completed by
the `RuntimeConfig` that received it.
"""

import asyncio
import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from resolver.api import Resolver
from resolver.cache import Store
from resolver.daemon import resource_exhaustion
from resolver.daemon.certificates import Certificates
from resolver.daemon.certificates import load as load_certificates
from resolver.daemon.sockets import Endpoint
from resolver.net.cookies import ServerCookies
from resolver.net.descriptors import client_connections, divide_connections
from resolver.net.fastpath import FastPath
from resolver.net.service import Service
from resolver.net.stream_listener import StreamListener
from resolver.net.tls_listener import TlsListener
from resolver.net.turns import Turns
from resolver.net.udp_listener import UdpListener
from resolver.policy import AccessTable
from resolver.settings import ListenerSettings, ServerSettings, Settings, replace

if TYPE_CHECKING:
    from resolver.net.client_contexts import TlsContexts

__all__ = ["Listeners", "RuntimeConfig"]

logger = logging.getLogger(__name__)


class RuntimeConfig:
    """Resolver, fast path and service of one `Settings` value."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        certificates: Certificates | None = None,
        contexts: "TlsContexts | None" = None,
    ) -> None:
        """`certificates` and `contexts` (of upstream servers) are those in use. They are kept while their files are the
        same.

        Raises:
            ValueError: a setting is wrong, or a file it names cannot be used.
        """
        self.settings = settings
        self.certificates = load_certificates(settings, certificates)
        self.flush_on_close = False
        """Whether its last queries may cache answers that differ from those of the settings in force."""
        self.resolver = Resolver(settings, store=store)
        made = self.resolver.tls_contexts
        if made is not None and contexts is not None and contexts.same_trust(made):
            self.resolver.tls_contexts = contexts
        self.resolver.open(loop)
        resource_exhaustion.shed_load_when_low(self.resolver.mesh, settings.log.rate_limit_interval)
        try:
            self.serve_with(store)
        except BaseException:
            self.resolver.close()
            raise

    def serve_with(self, store: Store) -> None:
        settings, plan = self.settings, self.resolver.policy
        server = settings.server
        cookies = None
        if server.answer_cookies:
            cookies = ServerCookies(server.cookie_keys, required=server.require_cookies)
            cookies.refresh(self.resolver.clock.time())

        def fast_path(access: AccessTable, counters: FastPath | None = None) -> FastPath:
            return FastPath(
                store.answers,
                access,
                largest_reply=server.max_udp_size,
                pass_without_rd=server.non_recursive_queries != "cache",
                prefetch=settings.cache.prefetch,
                cookies=cookies,
                counters=counters,
            )

        self.fast = fast_path(plan.access)
        self.listeners: dict[tuple[str, int, str], ListenerConfig] = {}
        for listener, own in zip(settings.listeners, within_descriptors(settings), strict=True):
            access, fast = None, self.fast
            if listener.has_access_list:
                access = AccessTable(listener.allow, listener.refuse, listener.drop)
                if listener.protocol == "dns":
                    fast = fast_path(access, self.fast)  # its access list is read without Python
            self.listeners[listener.key] = ListenerConfig(listener, own, fast, access)
        self.service = Service(
            settings,
            mesh=self.resolver.mesh,
            store=store,
            plan=plan,
            fast=self.fast,
            clock=self.resolver.clock,
            submitted=self.resolver.process_timers,
        )


def within_descriptors(settings: Settings) -> list[ServerSettings]:
    """The server settings of each listener, with no more connections than there are descriptors.

    Upstream queries keep theirs (`resolver.net.descriptors`). DNS over QUIC needs none for a connection.
    """
    applied = [listener.applied_to(settings.server) for listener in settings.listeners]
    streams = [index for index, listener in enumerate(settings.listeners) if listener.protocol != "quic"]
    most = divide_connections([applied[index].tcp_connections for index in streams], client_connections())
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
    """What one listener is configured to do. `access` is its own access list, None when it has the policy's."""

    settings: ListenerSettings
    server: ServerSettings
    fast: FastPath
    access: AccessTable | None


class Listeners:
    """The listeners of one endpoint: UDP and TCP without encryption, or one for TLS, HTTPS or QUIC.

    `tcp` is that of the connections, which QUIC has on a UDP socket.
    """

    def __init__(self, endpoint: Endpoint, turns: Turns) -> None:
        """`turns` is that of the worker."""
        self.endpoint = endpoint
        self.turns = turns
        self.udp: UdpListener | None = None
        self.tcp: StreamListener | None = None

    async def start(self, runtime: RuntimeConfig) -> None:
        """Serve the sockets of the endpoint.

        Raises:
            OSError: a descriptor cannot be had.
        """
        config = runtime.listeners[self.endpoint.key]
        tcp = self._stream_listener(runtime, config)
        own = self.endpoint.duplicate()
        udp = None
        with ExitStack() as undo:
            undo.callback(own.close)
            if own.tcp is None:
                assert own.udp is not None
                await tcp.start(own.udp)
                undo.pop_all()
                self.tcp = tcp
                return
            if own.udp is not None:
                udp = UdpListener(
                    runtime.service, config.fast, access=config.access, proxies=config.settings.proxy_protocol_from
                )
                await udp.start(own.udp)
                undo.pop_all()  # from here on, the listener closes its socket
                undo.callback(own.tcp.close)
                undo.callback(udp.close)
            await tcp.start(own.tcp)
            undo.pop_all()
        self.udp, self.tcp = udp, tcp

    def _stream_listener(self, runtime: RuntimeConfig, config: ListenerConfig) -> StreamListener:
        settings = config.settings
        access = config.access or runtime.resolver.policy.access
        given = (runtime.service, config.fast, access, config.server)
        options: Any = {
            "proxies": settings.proxy_protocol_from, "own_access": config.access is not None, "turns": self.turns
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
        if self.udp is not None:
            self.udp.switch(runtime.service, config.fast, access=config.access, proxies=proxies)
        if self.tcp is None:
            return
        self.tcp.switch(
            runtime.service,
            config.fast,
            config.access or runtime.resolver.policy.access,
            config.server,
            proxies=proxies,
            own_access=config.access is not None,
        )
        if isinstance(self.tcp, TlsListener) and runtime.certificates is not None:
            self.tcp.reconfigure(runtime.certificates.context(config.settings.protocol), config.settings.path)

    def close(self) -> None:
        """Stop serving."""
        if self.udp is not None:
            self.udp.close()
        if self.tcp is not None:
            self.tcp.close()
