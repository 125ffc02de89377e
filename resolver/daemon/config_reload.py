"""Whether new settings can take the place of those in force, which of them do, and how a refusal is told.

Of several workers all switch or none does. The first one leads: it prepares what it needs itself, has the others do so,
and only when nobody has refused it switches and tells the rest to. Who answers with a refusal or not at all leaves all
with the old settings. A worker that dies in between is started again with the settings that are in force then, and what
it is told before it can hear waits for it (`WorkerChannels`). The supervisor gets the settings in force from the first
worker.

Nothing here touches what is running; the switch itself is the worker's.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resolver import limits
from resolver.policy import PolicyPipeline, designations
from resolver.settings import Settings, replace
from resolver.system import read_hosts_files

if TYPE_CHECKING:
    from resolver.daemon.worker_ipc import WorkerChannels

__all__ = [
    "RELOAD_DONE",
    "RefusedError",
    "abort_workers",
    "commit_workers",
    "describe_error",
    "log_reload_error",
    "make_plan",
    "merge_restart_only",
    "outdated",
    "prepare_workers",
    "report_to_supervisor",
    "with_config_location",
]

logger = logging.getLogger(__name__)

#: How the first worker has the supervisor look for the result of a reload. The kernel hands over waiting signals by
#: number, so a switch is known before a later death, and the worker in its place starts with the new settings.
RELOAD_DONE = signal.SIGUSR2


class RefusedError(Exception):
    """Another worker cannot switch, or does not answer."""


def make_plan(settings: Settings) -> PolicyPipeline:
    """Compile the policies of `settings`.

    Raises:
        ValueError: a setting is wrong, or a file it names cannot be read.
    """
    return PolicyPipeline(settings, read_hosts_files(settings.policy.hosts_files))


def merge_restart_only(old: Settings, new: Settings, *, several: bool) -> Settings:
    """Take over from `old` what a running process cannot change, and say so."""
    server = new.server
    kept = []
    if server.workers != old.server.workers:
        kept.append("server.workers")
        server = replace(server, workers=old.server.workers)
    listener = new.listener
    if several and {one.key for one in new.listeners} != {one.key for one in old.listeners}:
        kept.append("server.listen" if new.listener == old.listener else "listener")
        server = replace(server, listen=old.server.listen)
        listener = old.listener
    cache = new.cache
    for name in ("size", "min_ttl", "max_ttl", "max_negative_ttl", "servers"):
        if getattr(cache, name) != getattr(old.cache, name):
            kept.append(f"cache.{name}")
            cache = replace(cache, **{name: getattr(old.cache, name)})
    for part in ("control", "metrics"):
        if getattr(new, part) != getattr(old, part):
            kept.append(part)
    if kept:
        logger.warning("reload: %s changed in the file; that takes effect after a restart", " and ".join(kept))
    return replace(new, server=server, listener=listener, cache=cache, control=old.control, metrics=old.metrics)


@contextmanager
def with_config_location(config: str) -> Iterator[None]:
    """Raise every `ValueError` from within as a `ConfigError` that says where in the file `config` its cause stands."""
    try:
        yield
    except ValueError as error:
        if not config:
            raise
        from resolver.daemon.config import add_location

        raise add_location(config, error) from None


def log_reload_error(error: Exception) -> str:
    """Say why a new configuration cannot be used, and that the old one goes on; the reason alone for who asked."""
    if not isinstance(error, ValueError):
        why = describe_error(error)
        logger.error("reload: %s; the old configuration stays in force", why)
        return why
    for line in str(error).splitlines():
        setting, colon, what = line.partition(": ")
        logger.error("reload: %s", setting.replace("_", "-") + colon + what if setting.isidentifier() else line)
    logger.error("reload: the configuration is wrong; the old one stays in force")
    return str(error)


def describe_error(error: Exception) -> str:
    """Why something could not be done, in words."""
    return "out of memory" if isinstance(error, MemoryError) else str(getattr(error, "strerror", None) or error)


async def _request_all(links: "WorkerChannels", command: str, timeout: float | None = None) -> list[str]:
    """Ask all other workers at once; the words of those that refuse or do not answer."""
    from resolver.daemon.worker_ipc import WorkerError

    async def ask(number: int) -> str:
        try:
            await links.ask(number, {"command": command}, timeout)
        except WorkerError as error:
            return str(error)
        return ""

    return [words for words in await asyncio.gather(*map(ask, links.others)) if words]


async def prepare_workers(links: "WorkerChannels") -> None:
    """Have every other worker make all that it needs to switch.

    Raises:
        RefusedError: the first of them that could not, or does not answer.
    """
    refused = await _request_all(links, "prepare-reload", limits.RELOAD_TIMEOUT / 1000)
    if refused:
        raise RefusedError(refused[0])


async def commit_workers(links: "WorkerChannels") -> str:
    """Have every other worker switch to what it has made; what is wrong with those that do not say that they have."""
    # As long as before: who was started in between has everything to read now.
    missing = await _request_all(links, "switch", limits.RELOAD_TIMEOUT / 1000)
    for text in missing:
        logger.warning("reload: %s; it has yet to take over what is in force", text)
    return "; ".join(missing)


def report_to_supervisor(supervisor: int, links: "WorkerChannels", number: int, settings: Settings | None) -> None:
    """Report the end of reload `number` to the process `supervisor`: the new settings, or None.

    Unless it is gone: whoever is the parent then is nobody to signal.
    """
    if os.getppid() != supervisor:
        return
    try:
        links.reloads.report(number, settings)
    except (OSError, MemoryError) as error:
        logger.error("reload: the supervisor cannot be told: %s; workers that die get the settings before these",
                     describe_error(error))
        return
    os.kill(supervisor, RELOAD_DONE)


async def abort_workers(links: "WorkerChannels") -> None:
    """Have the other workers forget what they have made; those that cannot be told make it anew the next time."""
    await _request_all(links, "let-go")


def outdated(old: Settings, new: Settings) -> bool:
    """Whether answers kept under `old` may differ from those that `new` would give."""
    return (
        any(
            getattr(old, part) != getattr(new, part)
            for part in ("dnssec", "policy", "forward", "stub", "root_hints", "iteration")
        )
        or old.server.minimal_responses != new.server.minimal_responses
        or designations(old) != designations(new)
    )
