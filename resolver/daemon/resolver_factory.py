"""The factory behind corenet's entry point group ``corenet.resolvers``: from command line argument to resolver.

corenet never imports this package. Its command line finds the factory by the entry point and uses only the two methods
of an address resolver. The context owns all that it opens, including the servers of the playground.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from resolver.addrinfo import AddressResolver
from resolver.api import Answer, Resolver
from resolver.options import parse_endpoint
from resolver.settings import ForwardZone, IterationSettings, Settings

__all__ = ["connect"]

Trace = Callable[[object], object]


@asynccontextmanager
async def connect(argument: str = "", trace: Trace | None = None) -> AsyncIterator[AddressResolver]:
    """Open a resolver as a context manager.

    `argument` is empty for recursion from the root, ``playground`` for the simulated Internet, the address of a
    resolver to forward to, or the path of a configuration file. `trace` is called with each step of each query as a
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
    parse_endpoint(argument, Settings().iteration.upstream_port, "resolver")
    # The resolver may be on this host.
    return Settings(forward=(ForwardZone(".", (argument,)),), iteration=IterationSettings(do_not_query_localhost=False))


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
