"""Puts run-time changes into force in all workers, or in none.

The first worker leads (`apply`), and its requests to the others end in `prepare` and `commit` there. The file of the
changes is replaced after all have prepared and before one has switched, so a worker that is started in between finds
them; until then the new ones are in a candidate file beside it, which the others read. A damaged file is not replaced.

There is no state of its own: the changes in force belong to the worker, what is prepared to its `SwitchPreparation`,
and the lock to its reloads.
"""

import logging
import os
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from resolver.daemon.cache_file import CacheFileError, sync_directory
from resolver.daemon.config_reload import RefusedError, abort_workers, commit_workers, describe_error, prepare_workers
from resolver.daemon.runtime_changes import RuntimeChanges, candidate_of
from resolver.daemon.runtime_changes import read as read_changes
from resolver.net.in_thread import in_thread
from resolver.settings import Settings

if TYPE_CHECKING:
    from resolver.daemon.switch_preparation import Prepared, SwitchPreparation
    from resolver.daemon.worker_ipc import WorkerChannels
    from resolver.daemon.worker_reload import WorkerReloads

__all__ = ["ChangesHost", "WorkerChanges"]

logger = logging.getLogger(__name__)


class ChangesHost(Protocol):
    """What the steps of a change need of their worker."""

    @property
    def channels(self) -> "WorkerChannels | None": ...

    @property
    def configured(self) -> Settings: ...

    @property
    def changes(self) -> RuntimeChanges: ...

    @property
    def preparation(self) -> "SwitchPreparation": ...

    @property
    def reloads(self) -> "WorkerReloads": ...

    def switch(self, new: "Prepared", changed: tuple[bytes, ...] | None) -> None: ...

    def flush_names(self, origin: bytes) -> Coroutine[Any, Any, None]: ...


class WorkerChanges:
    """The steps of run-time changes in one worker."""

    def __init__(self, host: ChangesHost) -> None:
        self._host = host

    # --- the single worker, and the first of several --------------------------------------------------------------

    async def apply(self, new: RuntimeChanges) -> str:
        """Put `new` into force. The caller holds the lock of the reloads. Return "", or which workers did not confirm
        the switch.

        Raises:
            ValueError: the changes cannot be used or written; the text says why.
        """
        host = self._host
        assert new.path is not None
        candidate = candidate_of(new.path)
        try:
            with ExitStack() as undo:
                await in_thread(new.write, candidate)
                undo.callback(candidate.unlink, missing_ok=True)
                prepared = await host.preparation.prepare_given(new)
                undo.callback(prepared.undo.close)
                if host.channels is not None:
                    await prepare_workers(host.channels, host.configured, "changes")
                if new.trouble:
                    candidate.unlink()  # the damaged file stays for the operator
                else:
                    os.replace(candidate, new.path)
                undo.pop_all()
        except (ValueError, OSError, MemoryError, RefusedError, CacheFileError) as error:
            if host.channels is not None:
                await abort_workers(host.channels)
            raise ValueError(describe_error(error)) from None
        prepared.undo.pop_all()
        changed = self._changed_names(new)
        host.switch(prepared, changed)
        if host.channels is not None:
            host.reloads.report_settings()
        missing = "" if host.channels is None else await commit_workers(host.channels, "changes")
        for name in changed:
            await host.flush_names(name)
        try:
            await in_thread(sync_directory, new.path.parent)
        except OSError as error:
            text = "run-time changes: they are in force, but %s may lose them when the power fails: %s"
            logger.warning(text, new.path, error.strerror or error)
        return missing

    def _changed_names(self, new: RuntimeChanges) -> tuple[bytes, ...]:
        """The names at and below which answers may change with `new`."""
        differ = set(self._host.changes.entries) ^ set(new.entries)
        return tuple(sorted({change.origin for change in differ}))

    # --- the other workers ----------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Prepare the changes in the candidate file of the first worker, which will commit or abort them.

        Raises:
            ValueError, OSError: they cannot be used or read.
        """
        async with self._host.reloads.lock:
            await self._hold(candidate_of(Path(self._host.configured.control.changes_file)))

    async def commit(self) -> None:
        """Switch after the first worker.

        Raises:
            ValueError, OSError: this worker was started after the preparation and cannot prepare now.
        """
        host = self._host
        async with host.reloads.lock:
            if host.preparation.held is None:
                await self._hold(Path(host.configured.control.changes_file))
            new = host.preparation.take_held()
            new.undo.pop_all()
            host.switch(new, self._changed_names(new.changes))

    async def _hold(self, path: Path) -> None:
        """Hold the changes in the file `path`."""
        host = self._host
        host.preparation.discard()
        file = Path(host.configured.control.changes_file)
        await host.preparation.hold_changes(RuntimeChanges(file, read_changes(path), host.changes.trouble))
