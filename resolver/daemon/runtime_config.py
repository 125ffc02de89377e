"""The objects created from one `Settings` value, and the listeners that pass queries to them.

A reload creates a new `RuntimeConfig`, and the `Listeners` switch to it between two packets. A query is completed by
the `RuntimeConfig` that received it.
"""

import asyncio
import logging
from contextlib import ExitStack

from resolver import limits
from resolver.api import Resolver
from resolver.cache import Store
from resolver.daemon import resource_exhaustion
from resolver.daemon.sockets import Endpoint
from resolver.net.cookies import ServerCookies
from resolver.net.descriptors import client_connections
from resolver.net.fastpath import FastPath
from resolver.net.service import Service
from resolver.net.stream_listener import StreamListener
from resolver.net.udp_listener import UdpListener
from resolver.settings import ServerSettings, Settings, replace

__all__ = ["Listeners", "RuntimeConfig"]

logger = logging.getLogger(__name__)


class RuntimeConfig:
    """Resolver, fast path and service of one `Settings` value."""

    def __init__(self, settings: Settings, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.flush_on_close = False
        """Whether its last queries may cache answers that differ from those of the settings in force."""
        self.resolver = Resolver(settings, store=store)
        self.resolver.open(loop)
        resource_exhaustion.shed_load_when_low(self.resolver.mesh, settings.log.rate_limit_interval)
        try:
            self.serve_with(store)
        except BaseException:
            self.resolver.close()
            raise

    def serve_with(self, store: Store) -> None:
        settings, plan = self.settings, self.resolver.policy
        server = self.server = within_descriptors(settings.server)
        """The server settings, with connections limited to the available descriptors."""
        self.fast = FastPath(
            store.answers,
            plan.access,
            largest_reply=server.max_udp_size,
            pass_without_rd=server.non_recursive_queries != "cache",
            prefetch=settings.cache.prefetch,
            cookies=(
                ServerCookies(server.cookie_keys, required=server.require_cookies) if server.answer_cookies else None
            ),
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
            submitted=self.resolver.process_timers,
        )


def within_descriptors(server: ServerSettings) -> ServerSettings:
    """`server` with TCP connections limited so that descriptors remain for upstream queries.

    Each address also needs some for connections that are being accepted or rejected.
    """
    addresses = max(len(server.listen), 1)
    most = max(client_connections() // addresses - limits.STREAM_NEWCOMERS, 1)
    if server.tcp_connections <= most:
        return server
    logger.warning(
        "server.tcp-connections: the limit of open files permits %d TCP connections of clients for each address, not"
        " %d; raise the limit (ulimit -n, LimitNOFILE= in systemd)", most, server.tcp_connections,
    )
    return replace(server, tcp_connections=most)


class Listeners:
    """The UDP and TCP listeners of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.udp: UdpListener | None = None
        self.tcp: StreamListener | None = None

    async def start(self, runtime: RuntimeConfig) -> None:
        service, fast = runtime.service, runtime.fast
        udp = UdpListener(service, fast)
        tcp = StreamListener(service, fast, runtime.resolver.policy.access, runtime.server)
        own = self.endpoint.duplicate()
        with ExitStack() as undo:
            undo.callback(own.close)
            await udp.start(own.udp)
            undo.pop_all()  # from here on, the listener closes its socket
            undo.callback(own.tcp.close)
            undo.callback(udp.close)
            await tcp.start(own.tcp)
            undo.pop_all()
        self.udp, self.tcp = udp, tcp

    def switch(self, runtime: RuntimeConfig) -> None:
        if self.udp is not None and self.tcp is not None:
            self.udp.switch(runtime.service, runtime.fast)
            self.tcp.switch(runtime.service, runtime.fast, runtime.resolver.policy.access, runtime.server)

    def close(self) -> None:
        if self.udp is not None:
            self.udp.close()
        if self.tcp is not None:
            self.tcp.close()
