"""Whether new settings can take the place of those in force, which of them do, and how a refusal is told.

The supervisor asks before it tells its workers, and each worker asks again when its turn has come, for the files may
have changed in between. Nothing here touches what is running; the switch itself is the worker's.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from resolver.daemon import sockets
from resolver.policy import Plan
from resolver.settings import Settings, replace
from resolver.system import read_hosts_files

__all__ = [
    "check_settings",
    "keep_what_needs_restart",
    "make_plan",
    "outdated",
    "places_named",
    "report_bad_reload",
]

logger = logging.getLogger(__name__)


def make_plan(settings: Settings) -> Plan:
    """Compile the policies of `settings`.

    Raises:
        ValueError: a setting is wrong, or a file it names cannot be read.
    """
    return Plan(settings, read_hosts_files(settings.policy.hosts_files))


def check_settings(settings: Settings, config: str) -> None:
    """Look whether a reload could take over `settings`, which came from the file `config`.

    Raises:
        ValueError: a setting is wrong; the text says where and why.
        ListenError: an address that is not this host's.
    """
    from resolver import validate

    with places_named(config):
        make_plan(settings)
        validate.create(settings)
    sockets.check_sources(settings.iteration)


def keep_what_needs_restart(old: Settings, new: Settings, *, several: bool) -> Settings:
    """Take over from `old` what a running process cannot change, and say so."""
    server = new.server
    kept = []
    if server.workers != old.server.workers:
        kept.append("server.workers")
        server = replace(server, workers=old.server.workers)
    if several and server.listen != old.server.listen:
        kept.append("server.listen")
        server = replace(server, listen=old.server.listen)
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
    return replace(new, server=server, cache=cache, control=old.control, metrics=old.metrics)


@contextmanager
def places_named(config: str) -> Iterator[None]:
    """Raise every `ValueError` from within as a `ConfigError` that says where in the file `config` its cause stands."""
    try:
        yield
    except ValueError as error:
        if not config:
            raise
        from resolver.daemon.config import located

        raise located(config, error) from None


def report_bad_reload(error: Exception) -> str:
    """Say why a new configuration cannot be used, and that the old one goes on; the reason alone for who asked."""
    if not isinstance(error, ValueError):
        why = "out of memory" if isinstance(error, MemoryError) else str(getattr(error, "strerror", None) or error)
        logger.error("reload: %s; the old configuration stays in force", why)
        return why
    for line in str(error).splitlines():
        setting, colon, what = line.partition(": ")
        logger.error("reload: %s", setting.replace("_", "-") + colon + what if setting.isidentifier() else line)
    logger.error("reload: the configuration is wrong; the old one stays in force")
    return str(error)


def outdated(old: Settings, new: Settings) -> bool:
    """Whether answers kept under `old` may differ from those that `new` would give."""
    return (
        any(
            getattr(old, part) != getattr(new, part)
            for part in ("dnssec", "policy", "forward", "stub", "root_hints", "iteration")
        )
        or old.server.minimal_responses != new.server.minimal_responses
    )
