"""Prepares all that a switch of a worker to another configuration needs, and touches nothing that is in force.

Each step that can fail is done here: files, policies, trust anchors, sockets, TLS contexts. When one fails, those
before it are undone. The caller switches to what was prepared, which cannot fail, or closes it with `Prepared.undo`.

State: `held` is what a worker that does not lead has prepared, until the first worker commits or aborts. There is at
most one, and `discard` closes it. `awaiting_restart` belongs to the last configuration that was read. The caller of all
methods holds the lock of `WorkerReloads`, except when the worker stops.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Protocol

from resolver.cache import Store
from resolver.daemon import file_uses, reload_sockets, sockets
from resolver.daemon.config_reload import merge_restart_only, settings_digest, with_config_location
from resolver.daemon.runtime_changes import RuntimeChanges
from resolver.daemon.runtime_config import Listeners, RuntimeConfig
from resolver.daemon.sockets import Endpoint, ListenError
from resolver.net.in_thread import in_thread
from resolver.net.turns import Turns
from resolver.settings import Settings

if TYPE_CHECKING:
    from resolver.daemon.anchor_keeper import AnchorKeeper
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.web_access import WebAccess
    from resolver.daemon.worker_options import Options

__all__ = ["Prepared", "SwitchHost", "SwitchPreparation"]

logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """All that a worker needs for the switch, which cannot fail."""

    configured: Settings
    runtime: RuntimeConfig
    rollover: "AnchorUpdater | None"
    changes: RuntimeChanges
    added: list[Listeners]
    undo: ExitStack
    """Closes what was prepared when the switch is not made."""
    web_access: "WebAccess | None" = None
    """Who may read the web page from now on; None: as before."""


class WebPage(Protocol):
    """What the preparation needs of the part of the worker that serves the web page."""

    def new_web_access(self, given: Settings) -> "WebAccess | None": ...


class SwitchHost(Protocol):
    """What the preparation needs of its worker."""

    @property
    def number(self) -> int: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def options(self) -> "Options": ...

    @property
    def multi_worker(self) -> bool: ...

    @property
    def reload(self) -> Callable[[], Settings]: ...

    @property
    def override_settings(self) -> Callable[[Settings], Settings]: ...

    @property
    def configured(self) -> Settings: ...

    @property
    def current(self) -> RuntimeConfig: ...

    @property
    def changes(self) -> RuntimeChanges: ...

    @property
    def endpoints(self) -> list[Endpoint]: ...

    @property
    def turns(self) -> Turns: ...

    @property
    def store(self) -> Store: ...

    @property
    def anchors(self) -> "AnchorKeeper": ...

    @property
    def management(self) -> WebPage: ...


class SwitchPreparation:
    """The preparations of one worker."""

    def __init__(self, host: SwitchHost) -> None:
        self._host = host
        self.held: Prepared | None = None
        self.awaiting_restart: tuple[str, ...] = ()
        """Settings whose new values, read at the last reload, take effect after a restart."""

    async def prepare_leading(self) -> Prepared:
        """The configuration of the file, with new sockets, their listeners and TLS contexts: in the single worker, and
        in the one that leads.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        host = self._host
        with ExitStack() as undo:
            given, runtime, rollover, changes, opened = await self._build(undo)
            contexts = runtime.resolver.tls_contexts
            if contexts is not None:
                # In a thread, because it takes some 25 ms for each context. The other workers make theirs when needed.
                with with_config_location(host.options.config):
                    await in_thread(contexts.prepare_all, runtime.settings)
            added = []
            for endpoint in opened:
                listeners = Listeners(endpoint, host.turns)
                try:
                    await listeners.start(runtime)
                except ListenError as error:
                    raise reload_sockets.with_setting(error, given, host.options.config) from None
                undo.callback(listeners.close)
                added.append(listeners)
            with with_config_location(host.options.config):
                access = host.management.new_web_access(given)
            return Prepared(given, runtime, rollover, changes, added, undo.pop_all(), access)

    async def hold_file(self, expected: str = "") -> None:
        """Hold the configuration of the file, in a worker that does not lead. `expected` is the digest of the settings
        of the first worker; "": not known.

        Raises:
            ValueError: the configuration is invalid, or not the expected one; the text says where and why.
            OSError: a descriptor is not available.
        """
        self.discard()
        with ExitStack() as undo:
            given, runtime, rollover, changes, _ = await self._build(undo)
            if expected and settings_digest(given) != expected:
                raise ValueError("the configuration file has changed during the reload")
            self.held = Prepared(given, runtime, rollover, changes, [], undo.pop_all())

    async def hold_changes(self, changes: RuntimeChanges) -> None:
        """Hold the settings in force with other run-time changes, in a worker that does not lead.

        Raises:
            ValueError: they do not go with the configuration.
            OSError: a descriptor is not available.
        """
        self.discard()
        self.held = await self.prepare_given(changes)

    async def prepare_given(self, changes: RuntimeChanges, settings: Settings | None = None) -> Prepared:
        """`settings`, or those in force, with `changes`. No file of the configuration is read, and no socket opened.

        Raises:
            ValueError: they cannot be used together; the text says why.
            OSError: a descriptor is not available.
        """
        with ExitStack() as undo:
            given, runtime, rollover, changes, _ = await self._build(undo, changes, settings)
            return Prepared(given, runtime, rollover, changes, [], undo.pop_all())

    def take_held(self) -> Prepared:
        """What is held, for the switch."""
        held, self.held = self.held, None
        assert held is not None
        return held

    def discard(self) -> None:
        """Close what is held."""
        if self.held is not None:
            self.held.undo.close()
            self.held = None

    async def _build(
        self, undo: ExitStack, changes: RuntimeChanges | None = None, settings: Settings | None = None
    ) -> "tuple[Settings, RuntimeConfig, AnchorUpdater | None, RuntimeChanges, list[Endpoint]]":
        """The new settings, their objects, the run-time changes, and opened sockets without listeners; `undo` closes
        them. With `changes`, `settings` or those in force with these changes, and no sockets.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        host = self._host
        with with_config_location(host.options.config if changes is None else ""):
            opened, reloads = [], changes is None
            if changes is None:
                given, self.awaiting_restart = merge_restart_only(
                    host.configured, host.reload(), several=host.multi_worker
                )
                if self.awaiting_restart:  # the control socket, for one, stays as it is
                    file_uses.check(given, host.options.config)
                sockets.check_sources(given.iteration)
                opened = [] if host.multi_worker else reload_sockets.open_new(
                    given, host.endpoints, host.options.config
                )
                changes = RuntimeChanges.load(given.control.changes_file, host.changes)
                if host.changes.entries and changes.path != host.changes.path and not host.number:
                    logger.warning("reload: control.changes-file has changed: the %d run-time changes in %s no longer"
                                   " apply", len(host.changes.entries), host.changes.path)
            else:
                given = settings or host.configured
            undo.callback(sockets.close_all, [opened])
            wanted = changes.applied_to(host.override_settings(given))
            new_lists = None
            if wanted.list or wanted.rpz:
                from resolver.daemon.list_updates import compile_new  # most configurations have none

                new_lists = await compile_new(wanted, host.current.lists)
            runtime = RuntimeConfig(
                wanted, host.store, host.loop, host.current.certificates, host.current.resolver.tls_contexts,
                host.current.lists, host.current.rates, host.current.observation, new_lists,
                keep_unreadable=not reloads,
            )
        undo.callback(runtime.close, host.current)
        return given, runtime, host.anchors.make(runtime), changes, opened
