"""The files that a configuration names, each with its purpose, and the check that no two purposes destroy each other.

`ACCESS` is the table of all settings that name files. The configuration file itself, the files whose content
`resolver.daemon.config` puts in the place of other settings, the candidate of run-time changes and the copies of zones
are added to what the settings name.

A file that resolverd writes (creates, replaces or appends to) must have no other use; files that it only reads may have
several. Two names are one file when their real paths are equal, or when device and inode are. A character device such
as /dev/null keeps nothing, so it may have any uses. A module of hooks that is given by the name for an import is not
looked up, because the search would run code. Nothing here is remembered.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from resolver.settings import Settings
from resolver.settings.observe import STDOUT
from resolver.settings.second_level import UNIX_PREFIX

__all__ = ["ACCESS", "Access", "FileUse", "check", "uses_of"]


class Access(Enum):
    """What resolverd does with a file."""

    READS = "reads"
    """Reads it, connects to it, or lists what is in it."""
    WRITES = "writes"
    """Creates it, replaces it or appends to it."""
    FETCHES = "fetches"
    """Replaces it by what it has fetched when `url` of the same table is set, else reads it."""


ACCESS = MappingProxyType({
    "balance.check_ca": Access.READS,
    "cache.snapshot_file": Access.WRITES,
    "control.changes_file": Access.WRITES,
    "control.socket": Access.WRITES,
    "dnssec.auto_trust_anchor_file": Access.WRITES,
    "dnstap.socket": Access.READS,
    "iteration.tls_cert_bundle": Access.READS,
    "list.file": Access.FETCHES,
    "policy.geo_database": Access.READS,
    "policy.hosts_files": Access.READS,
    "policy.modules": Access.READS,
    "query_log.file": Access.WRITES,
    "rpz.file": Access.FETCHES,
    "second_level_cache.password_file": Access.READS,
    "second_level_cache.secret_file": Access.READS,
    "second_level_cache.servers": Access.READS,
    "second_level_cache.tls_ca_file": Access.READS,
    "tls.certificate": Access.READS,
    "tls.key": Access.READS,
    "tls.ocsp_staple": Access.READS,
    "view.modules": Access.READS,
    "web.token_file": Access.READS,
    "zone.file": Access.READS,
    "zones.directory": Access.READS,
})
"""Every setting that names a file, a socket or a directory, as section or table and field."""


class FileUse(NamedTuple):
    """One use of a file. `shown` names it within an error, `setting` begins its text (`config.add_location`)."""

    shown: str
    setting: str
    path: str
    writes: bool


def check(settings: Settings, config: str = "") -> None:
    """Check that no file has two uses of which one writes it. `config` is the configuration file, "" without one.

    Raises:
        ValueError: a file has; the text names both settings and the file.
        ConfigError: the configuration file cannot be read.
    """
    writers: dict[object, FileUse] = {}
    for use in sorted(uses_of(settings, config), key=lambda use: not use.writes):
        for identity in _identities(use.path):
            other = writers.get(identity)
            if other is not None:
                raise ValueError(
                    f"{other.setting}: {other.path!r} is the file of {other.shown}, which resolverd writes, and also"
                    f" of {use.shown} ({use.path!r}): name another file for one of them"
                )
            if use.writes:
                writers[identity] = use


def uses_of(settings: Settings, config: str = "") -> Iterator[FileUse]:
    """All uses of files by a daemon with these settings.

    Raises (during the iteration):
        ConfigError: the configuration file cannot be read.
        ValueError: it is not TOML any more.
    """
    if config:
        from resolver.daemon.config import files_read

        yield FileUse("the configuration", "", config, False)
        for key, path in files_read(config):
            yield FileUse(key, key, path, False)
    yield from _named(settings, "")
    if settings.control.changes_file:
        from resolver.daemon.runtime_changes import SETTING, candidate_of

        candidate = candidate_of(Path(settings.control.changes_file))
        yield FileUse(f"{SETTING} while it is changed", "control.changes_file", str(candidate), True)
    copied = [zone for zone in settings.own_zones if zone.primaries]
    if copied and settings.zones.directory:
        from resolver.daemon.zone_files import ZoneFiles
        from resolver.net.zone_client import origin_of

        directory, files = Path(settings.zones.directory), ZoneFiles()
        for zone in copied:
            copy = files.get(directory, origin_of(zone.name))
            yield FileUse(f"zones.directory (copy of the zone {zone.name!r})", "zones.directory", str(copy.path), True)


def _named(table: Any, prefix: str) -> Iterator[FileUse]:
    """The files that the fields of `table` name, with those of the tables in it."""
    for item in fields(table):
        value = getattr(table, item.name)
        name = prefix + item.name
        access = ACCESS.get(name)
        for one in value if isinstance(value, tuple) else (value,):
            if is_dataclass(one):
                yield from _named(one, f"{name}.")
            elif access is not None and (path := _path(name, one)):
                writes = access is Access.WRITES or (access is Access.FETCHES and bool(table.url))
                # In an error of a table of an array, the line is found by the quoted value.
                setting = prefix.rstrip(".") if access is Access.FETCHES else name
                yield FileUse(name.replace("_", "-"), setting, path, writes)


def _path(name: str, text: str) -> str:
    """The path in `text`, a value of the setting `name`; "" when it has none."""
    if name == "query_log.file" and text == STDOUT:
        return ""
    if name == "second_level_cache.servers":
        return text.removeprefix(UNIX_PREFIX) if text.startswith(UNIX_PREFIX) else ""
    if name in ("policy.modules", "view.modules") and not (text.endswith(".py") or os.sep in text):
        return ""
    return text


def _identities(path: str) -> list[object]:
    """Keys of a file: two paths of one file have at least one in common."""
    found: list[object] = [os.path.realpath(path)]
    with suppress(OSError):  # it does not exist, or a directory may not be entered
        status = os.stat(path)
        if stat.S_ISCHR(status.st_mode):
            return []
        found.append((status.st_dev, status.st_ino))
    return found
