"""Reload of the configuration: checks, the protocol between workers, and error messages.

All workers switch or none does (two-phase commit). The first worker leads. It prepares its own new configuration, then
requests the others to prepare theirs. When all have succeeded, it switches and requests the others to switch. If a
worker fails or does not answer, all keep the old settings. A worker that dies in between is restarted with the settings
in force at that time; requests sent to it before are waiting in its socket (`WorkerChannels`). The first worker sends
the settings in force to the supervisor.

Nothing here changes what is running: `worker_reload` runs the steps, and `worker` does the switch.
"""

import asyncio
import hashlib
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resolver import limits
from resolver.policy import PolicyModule, PolicyPipeline
from resolver.settings import Settings, replace
from resolver.system import read_hosts_files

if TYPE_CHECKING:
    from resolver.daemon.runtime_changes import RuntimeChanges
    from resolver.daemon.worker_ipc import WorkerChannels

__all__ = [
    "RefusedError",
    "abort_workers",
    "align_workers",
    "commit_workers",
    "describe_error",
    "log_reload_error",
    "make_plan",
    "merge_restart_only",
    "prepare_workers",
    "report_to_supervisor",
    "settings_digest",
    "with_config_location",
]

logger = logging.getLogger(__name__)


class RefusedError(Exception):
    """Another worker cannot switch or does not answer."""


def make_plan(settings: Settings) -> PolicyPipeline:
    """Compile the policies of `settings`.

    Raises:
        ValueError: a setting is invalid, or a file that it names cannot be read.
    """
    if settings.policy.modules or any(view.modules for view in settings.view):
        from resolver.daemon.hook_modules import HookModules

        HookModules(settings)  # for its errors
    modules: tuple[PolicyModule, ...] = ()
    if settings.list or settings.rpz:
        from resolver.daemon.list_updates import ListUpdates

        modules = ListUpdates(settings).modules
    return PolicyPipeline(settings, read_hosts_files(settings.policy.hosts_files), modules)


def merge_restart_only(old: Settings, new: Settings, *, several: bool) -> tuple[Settings, tuple[str, ...]]:
    """`new` with the settings of `old` that need a restart, and the names of those that differ, which a warning
    names."""
    server = new.server
    kept = []
    if server.workers != old.server.workers:
        kept.append("server.workers")
        server = replace(server, workers=old.server.workers)
    if server.lanes != old.server.lanes:
        kept.append("server.lanes")
        server = replace(server, lanes=old.server.lanes)
    if server.user != old.server.user:
        kept.append("server.user")
        server = replace(server, user=old.server.user)
    listener = new.listener
    if several and {one.key for one in new.listeners} != {one.key for one in old.listeners}:
        kept.append("server.listen" if new.listener == old.listener else "listener")
        server = replace(server, listen=old.server.listen)
        listener = old.listener
    cache = new.cache
    for name in ("size", "min_ttl", "max_ttl", "max_negative_ttl", "infra_cache_entries"):
        if getattr(cache, name) != getattr(old.cache, name):
            kept.append(f"cache.{name.replace('_', '-')}")
            cache = replace(cache, **{name: getattr(old.cache, name)})
    if new.control.socket != old.control.socket:
        kept.append("control.socket")
    if new.metrics != old.metrics:
        kept.append("metrics")
    web = new.web
    if web.listen != old.web.listen:
        kept.append("web.listen")
        # Who may read takes effect at once, so that a token can be revoked.
        web = old.web if not web.listen or not old.web.listen else replace(
            web, listen=old.web.listen, allow_remote=old.web.allow_remote
        )
    if kept:
        logger.warning("reload: %s changed; the new value takes effect after a restart or an upgrade",
                       " and ".join(kept))
    merged = replace(new, server=server, listener=listener, cache=cache, metrics=old.metrics, web=web,
                     control=replace(new.control, socket=old.control.socket))
    return merged, tuple(kept)


@contextmanager
def with_config_location(config: str) -> Iterator[None]:
    """Turn each `ValueError` raised within into a `ConfigError` with the line in the file `config`."""
    try:
        yield
    except ValueError as error:
        if not config:
            raise
        from resolver.daemon.config import add_location

        raise add_location(config, error) from None


def log_reload_error(error: Exception) -> str:
    """Log why the new configuration cannot be used; return the reason for the caller of the reload."""
    if not isinstance(error, ValueError):
        why = describe_error(error)
        logger.error("reload: failed: %s; the old configuration stays in force", why)
        return why
    for line in str(error).splitlines():
        setting, colon, what = line.partition(": ")
        logger.error("reload: %s", setting.replace("_", "-") + colon + what if setting.isidentifier() else line)
    logger.error("reload: failed: the configuration is invalid; the old one stays in force")
    return str(error)


def describe_error(error: Exception) -> str:
    """The reason in `error` as text."""
    return "out of memory" if isinstance(error, MemoryError) else str(getattr(error, "strerror", None) or error)


async def _request_all(
    channels: "WorkerChannels", command: str, timeout: float | None = None, **fields: object
) -> list[str]:
    """Send `command` with `fields` to all other workers at once; return the errors of those that fail or do not
    answer."""
    from resolver.daemon.worker_ipc import WorkerError

    async def ask(number: int) -> str:
        try:
            await channels.ask(number, {"command": command, **fields}, timeout)
        except WorkerError as error:
            return str(error)
        return ""

    return [text for text in await asyncio.gather(*map(ask, channels.others)) if text]


async def prepare_workers(channels: "WorkerChannels", settings: Settings, what: str = "reload") -> None:
    """Make all other workers prepare the new configuration, or when `what` is "changes" the new run-time changes.

    Each worker reads the file itself. One that gets other settings than `settings`, because the file was changed in
    between, refuses.

    Raises:
        RefusedError: a worker cannot or does not answer; the text is the first error.
    """
    refused = await _request_all(
        channels, f"prepare-{what}", limits.RELOAD_TIMEOUT / 1000, settings=settings_digest(settings)
    )
    if refused:
        raise RefusedError(refused[0])


async def commit_workers(channels: "WorkerChannels", what: str = "reload") -> str:
    """Make all other workers switch; return the errors of those that do not confirm it. `what` as for preparation."""
    # The same timeout as for preparation, because a worker that was started in between must prepare now.
    missing = await _request_all(channels, f"commit-{what}", limits.RELOAD_TIMEOUT / 1000)
    for text in missing:
        logger.warning("reload: %s; it still uses the old configuration", text)
    return "; ".join(missing)


def report_to_supervisor(channels: "WorkerChannels", number: int, settings: tuple[Settings, Settings] | None) -> None:
    """Send the result of reload `number` to the supervisor: the new settings, without and with the run-time changes, or
    None."""
    try:
        channels.reloads.report(number, settings)
    except (OSError, MemoryError) as error:
        # The reload has ended: a report that fails must not change what it has returned.
        logger.error("reload: cannot report the result to the supervisor: %s; restarted workers get the old settings",
                     describe_error(error))


async def align_workers(channels: "WorkerChannels", settings: Settings, changes: "RuntimeChanges") -> None:
    """Make all other workers use `settings` and `changes`, which are in force in the first one.

    A first worker that was started anew does this, because its predecessor may have died between two steps of a
    reload: some workers may have switched, and others not. Changes are sent, not read from their file: a damaged file
    gives none to a worker that was started anew, and others would keep those that they have.
    """
    from resolver.daemon.worker_ipc import WorkerError

    try:
        data = pickle.dumps((settings, changes))
        for number in channels.others:
            # A file for each: a worker shares its position, and one that did not answer in time may still read.
            with open(os.memfd_create("settings", os.MFD_CLOEXEC), "w+b") as file:
                file.write(data)
                file.seek(0)
                try:
                    await channels.ask(number, {"command": "align"}, limits.RELOAD_TIMEOUT / 1000, file=file)
                except WorkerError as error:
                    logger.warning("reload: %s; it may use another configuration until the next reload", error)
    except (OSError, MemoryError) as error:
        logger.error("reload: cannot send the configuration to the other workers: %s", describe_error(error))


async def abort_workers(channels: "WorkerChannels") -> None:
    """Make the other workers discard what they prepared; those that do not answer do so at the next reload."""
    await _request_all(channels, "abort-reload")


def settings_digest(settings: Settings) -> str:
    """A digest of `settings`, the same in all workers of a daemon."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()
