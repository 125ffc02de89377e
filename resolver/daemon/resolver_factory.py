"""The factory behind corenet's entry point group ``corenet.resolvers``: from command line argument to resolver.

corenet never imports this package. Its command line finds the factory by the entry point and uses only the two methods
of an address resolver. The context owns all that it opens, including the servers of the playground.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from corenet.http import parse_url
from resolver.addrinfo import AddressResolver
from resolver.api import Answer, Resolver
from resolver.settings import DnssecSettings, ForwardZone, IterationSettings, Settings
from resolver.upstream_address import parse_upstream

__all__ = ["connect"]

Trace = Callable[[object], object]

DOH_URL = "doh-url "


@asynccontextmanager
async def connect(argument: str = "", trace: Trace | None = None) -> AsyncIterator[AddressResolver]:
    """Open a resolver as a context manager.

    `argument` is empty for recursion from the root, ``playground`` for the simulated Internet, the address of a
    resolver to forward to (also ``tls://`` and ``https://``), or the path of a configuration file. ``doh-url`` and the
    URL of a server of DNS over HTTPS, separated by a blank, mean that server alone, whose answers are not validated
    here; a host name in it is resolved by the system once. `trace` is called with each step of each query as a
    line of text. With the playground, its HTTPS server is started too, and `trust` of the result is the file of its CA.

    Raises:
        ValueError: `argument` is none of these, or the file has errors.
    """
    async with AsyncExitStack() as stack:
        settings = Settings()
        trust: Path | None = None
        if argument == "playground":
            from resolver import playground

            folder = Path(stack.enter_context(TemporaryDirectory(prefix="playground-")))
            world = await stack.enter_async_context(
                await playground.start(port=0, web=True, ca=folder / "authority.pem")
            )
            settings = world.settings(settings)
            trust = world.web.authority_file if world.web is not None else None
        elif argument.startswith(DOH_URL):
            settings = await _settings_for_url(argument.removeprefix(DOH_URL))
        elif argument:
            settings = _settings_for(argument)
        made = Resolver(settings) if trace is None else TracingResolver(settings, trace)
        connected = AddressResolver(await stack.enter_async_context(made))
        connected.trust = trust
        yield connected


def _settings_for(argument: str) -> Settings:
    if Path(argument).is_file():
        from resolver.daemon import config

        return config.load(argument)
    parse_upstream(argument, Settings().iteration.upstream_port, "resolver")
    # The resolver may be on this host.
    return Settings(forward=(ForwardZone(".", (argument,)),), iteration=IterationSettings(do_not_query_localhost=False))


async def _settings_for_url(url: str) -> Settings:
    """Settings that forward everything to the server of `url`, and trust its answers, as curl's ``--doh-url`` does.

    Raises:
        ValueError: the URL is not one of https, or its host has no address.
    """
    found = parse_url(url)
    if found.origin.scheme != "https":
        raise ValueError(f"{url!r} is not an https:// URL")
    host, port = found.origin.host, found.origin.port
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"the name {host} has no address: {error.strerror or error}") from None
    addresses = dict.fromkeys(str(info[4][0]) for info in infos)
    path = found.target.decode("ascii")
    forms = tuple(f"https://{f'[{one}]' if ':' in one else one}:{port}{path}#{host}" for one in addresses)
    return Settings(forward=(ForwardZone(".", forms),), dnssec=DnssecSettings(enabled=False))


class TraceLine(str):
    """The text of one step; `time` is when it happened, in seconds of `time.monotonic`."""

    time: float

    def __new__(cls, text: str, moment: float) -> Self:
        """A line of `text` with the time `moment`."""
        made = super().__new__(cls, text)
        made.time = moment
        return made


class TracingResolver(Resolver):
    """A resolver that passes each step of each query to `trace`."""

    def __init__(self, settings: Settings, trace: Trace) -> None:
        super().__init__(settings)
        self._trace = trace

    async def resolve(
        self, name: str, rdtype: str | int = "A", *, validate: bool = True, timeout: float | None = None
    ) -> Answer:
        """Resolve `name`, then pass the steps to `trace`."""
        began = time.monotonic()
        explained = await self.explain(name, rdtype, validate=validate, timeout=timeout)
        for step in explained.steps:
            self._trace(TraceLine(f"{'  ' * step.depth}{step.kind}: {step.text}", began + (step.at or 0.0)))
        return explained.answer
