"""The control socket, the metrics and the web page, which the first worker serves when its process is the main one.

During an upgrade only one of the two processes accepts; clients of the other wait in the queues of the sockets, which
both have.

State: `servers` has the servers by name ("control", "metrics", "web"), and `web` is that of the page, None without one.
They are made once at the start (`start`), accept from `accept` on, and no more after `stop_accepting`; `close` also
closes their connections. The listening sockets belong to the main process, so each server gets a duplicate.
"""

import logging
from typing import TYPE_CHECKING, Protocol

from corenet._version import __version__
from resolver.daemon.sockets import ListenError
from resolver.settings import Settings

if TYPE_CHECKING:
    from resolver.daemon.control import ControlCommands
    from resolver.daemon.management import ManagementServer
    from resolver.daemon.web_access import WebAccess
    from resolver.daemon.web_server import WebServer
    from resolver.daemon.worker_options import Options

__all__ = ["ManagementHost", "WorkerManagement"]

logger = logging.getLogger(__name__)


class ManagementHost(Protocol):
    """What the servers need of their worker."""

    @property
    def options(self) -> "Options": ...

    @property
    def configured(self) -> Settings: ...

    @property
    def is_main(self) -> bool: ...

    def make_control_commands(self) -> "ControlCommands": ...


class WorkerManagement:
    """The servers of the first worker."""

    def __init__(self, host: ManagementHost) -> None:
        self._host = host
        self.servers: dict[str, ManagementServer] = {}
        self.web: WebServer | None = None

    async def start(self) -> None:
        """Make the servers that the settings ask for, and accept when this process is the main one."""
        given = self._host.options.management
        if given is None or (given.control is None and given.metrics is None and given.web is None):
            return
        control_commands = self._host.make_control_commands()
        if given.control is not None:
            from resolver.daemon.control import ControlServer

            self.servers["control"] = ControlServer(control_commands)
        if given.metrics is not None:
            from resolver.daemon.metrics import MetricsServer

            self.servers["metrics"] = MetricsServer(control_commands.statistics, __version__)
        if given.web is not None:
            from resolver.daemon.web_server import WebServer

            self.web = WebServer(control_commands, self._first_web_access())
            self.servers["web"] = self.web
        if self._host.is_main:
            await self.accept()

    async def accept(self) -> None:
        """Accept connections, unless that is done already. Clients that connect before wait in the queues of the
        sockets.

        Raises:
            ListenError: a socket cannot listen, because another program does; the text names the setting.
            OSError: no descriptor is left.
        """
        given = self._host.options.management
        for name, server in self.servers.items():
            if server.started:
                continue
            assert given is not None
            opened = {"control": given.control, "metrics": given.metrics, "web": given.web}[name]
            assert opened is not None
            own = opened.dup()
            try:
                await server.start(own)
            except OSError as error:
                own.close()
                setting, place = {
                    "control": ("control.socket", given.path), "metrics": ("metrics.listen", given.metrics_listen),
                    "web": ("web.listen", given.web_listen),
                }[name]
                text = f"cannot listen on {place} for {name}: {error.strerror or error}; see {setting}"
                raise ListenError(error.errno, text) from None
            if name == "web":
                host, port = opened.getsockname()[:2]
                logger.info("web: the page is at http://%s:%d/", f"[{host}]" if ":" in host else host, port)

    @property
    def settled(self) -> bool:
        """Whether no command is being performed."""
        control = self.servers.get("control")
        return control is None or not control.connections

    def stop_accepting(self) -> None:
        """Accept no more connections; those that are open are served to their end."""
        for server in self.servers.values():
            server.stop_accepting()

    def close(self) -> None:
        """Accept no more connections, and close those that are open."""
        for server in self.servers.values():
            server.close()

    # --- who may read the web page --------------------------------------------------------------------------------

    def new_web_access(self, given: Settings) -> "WebAccess | None":
        """Who may read the web page by `given`; None without a page.

        Raises:
            ValueError: the token file cannot be used; the text names the setting.
        """
        return None if self.web is None else _web_access(given)

    def switch(self, access: "WebAccess | None") -> None:
        """Use what `new_web_access` has returned; None: as before."""
        if access is not None and self.web is not None:
            self.web.switch(access)

    def _first_web_access(self) -> "WebAccess | None":
        """Who may read the web page when this worker starts. A successor reads the token again, because the one that
        was read at the start of the daemon may have been replaced since; without it, no client may."""
        host = self._host
        if not host.options.successor:
            return None if host.options.management is None else host.options.management.web_access
        try:
            return _web_access(host.configured)
        except ValueError as error:
            logger.error("web: all requests are refused until a reload: %s", error)
            return None


def _web_access(given: Settings) -> "WebAccess":
    """Who may read the web page by `given`.

    Raises:
        ValueError: the token file cannot be used; the text names the setting.
    """
    from resolver.daemon.web_access import WebAccess

    return WebAccess.load(given.web)
