"""Makes all workers use the configuration and the run-time changes of the first one, outside of a reload.

That is needed in three cases. The first worker was started anew: its predecessor may have died in a reload, after which
some workers have switched and others not. Another worker was started anew and cannot read the file of the run-time
changes. And an upgrade has ended: the other process may have made changes meanwhile.

There is no state of its own: what is in force belongs to the worker, and the lock to its reloads.
"""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from resolver.daemon.config_reload import align_workers
from resolver.daemon.runtime_changes import RuntimeChanges
from resolver.settings import Settings

if TYPE_CHECKING:
    from resolver.daemon.switch_preparation import SwitchPreparation
    from resolver.daemon.worker_ipc import WorkerChannels
    from resolver.daemon.worker_options import Options
    from resolver.daemon.worker_reload import WorkerReloads

__all__ = ["CHANGES_MISSING", "AlignmentHost", "WorkerAlignment"]

CHANGES_MISSING = "changes-missing"
"""The event by which a worker asks the first one for the run-time changes."""


class AlignmentHost(Protocol):
    """What the alignment needs of its worker."""

    @property
    def number(self) -> int: ...

    @property
    def options(self) -> "Options": ...

    @property
    def channels(self) -> "WorkerChannels | None": ...

    @property
    def configured(self) -> Settings: ...

    @property
    def preparation(self) -> "SwitchPreparation": ...

    @property
    def reloads(self) -> "WorkerReloads": ...

    changes: RuntimeChanges

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class WorkerAlignment:
    """The alignment of one worker with the others."""

    def __init__(self, host: AlignmentHost) -> None:
        self._host = host

    # --- the first worker -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to make the other workers use what is in force in this one."""
        self._host.start_task(self.align_others())

    async def align_others(self) -> None:
        """Make the other workers use what is in force in this one."""
        host = self._host
        assert host.channels is not None
        async with host.reloads.lock:
            await align_workers(host.channels, host.configured, host.changes)

    # --- any worker -----------------------------------------------------------------------------------------------

    def ask_for_changes(self) -> None:
        """A successor that cannot use the file of the run-time changes asks the first worker for those in force."""
        host = self._host
        if host.options.successor and host.number and host.changes.trouble and host.channels is not None:
            host.channels.send_to_first({CHANGES_MISSING: True})

    async def use(self, settings: Settings, changes: RuntimeChanges) -> None:
        """Use `settings` and `changes`, of the first worker or of the file, unless they are in force.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: a descriptor is not available.
        """
        host = self._host
        async with host.reloads.lock:
            host.preparation.discard()
            if settings == host.configured and changes.entries == host.changes.entries:
                host.changes = changes
                return
            host.reloads.switch_to(await host.preparation.prepare_given(changes, settings))
