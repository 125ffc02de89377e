"""Settings of block lists and response policy zones: the tables [[list]] and [[rpz]] of the configuration.

All lists are read by all workers. A policy zone that is transferred is also an own zone of mode "policy"
(`RpzSettings.transferred`), with the settings and checks of those.
"""

import re
from dataclasses import dataclass

from resolver import limits
from resolver.options import check_limits, check_names, check_path, option
from resolver.settings.zones import KEY_TEXT, NOTIFY_TEXT, POLICY, PRIMARIES_TEXT, ZoneSettings

__all__ = ["ListSettings", "RpzSettings", "check_lists"]

LIST_FORMATS = ("auto", "hosts", "domains", "adblock")
LIST_ACTIONS = ("nxdomain", "nodata", "null", "refuse", "drop", "allow", "log")
RPZ_OVERRIDES = ("", "nxdomain", "nodata", "passthru", "drop", "tcp-only", "log")
ALIAS_OVERRIDE = "cname "
"""The beginning of an override by a CNAME; its target follows."""
EDE_CODES = (0, 15, 16, 17, 18)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ACTION_TARGET = re.compile(r"\*|rpz-[^.]*", re.IGNORECASE)
"""Targets that are actions in a policy zone (draft-vixie-dnsop-dns-rpz-00 section 3), without the final dot."""
_EDE_TEXT = (
    "Extended DNS error of changed answers (RFC 8914): 15 blocked, 16 censored, 17 filtered, 18 prohibited, 0 none."
)
_FILE_TEXT = "The file with the list. With `url` it is written by resolverd, and read when it starts."
_URL_TEXT = (
    "HTTPS URL from which the list is fetched. The list in use stays when a fetch fails or the new list is not valid."
)


def _check_file(settings: "ListSettings | RpzSettings", where: str) -> None:
    if not settings.file:
        raise ValueError(f"{where}: file is missing; give the path of the list")
    check_path(settings.file, f"{where}.file")
    if settings.url and not re.fullmatch(r"https://[!-~]+", settings.url):
        raise ValueError(f"{where}.url: {settings.url!r} is not an HTTPS URL")


def _check_others(settings: "ListSettings | RpzSettings", where: str) -> None:
    if settings.ede not in EDE_CODES:
        raise ValueError(f"{where}.ede: {settings.ede} is not one of {', '.join(map(str, EDE_CODES))}")
    check_limits(settings, where)


@dataclass(frozen=True, slots=True)
class ListSettings:
    """A block or allow list: names that are not resolved, or are exempt from the other lists."""

    name: str = option("", "Name of the list in the log, in metrics and in resolverctl.")
    file: str = option("", _FILE_TEXT)
    url: str = option("", _URL_TEXT)
    format: str = option(
        "auto",
        '"hosts", "domains" (one name in each line, for it and all names below), "adblock" (rules for whole names), or'
        ' "auto" to detect it.',
    )
    action: str = option(
        "nxdomain",
        'Action for names of the list: "nxdomain", "nodata", "null" (addresses 0.0.0.0 and ::), "refuse", "drop", "log"'
        ' (resolve and log), or "allow": no list blocks the names of this one.',
    )
    ede: int = option(15, _EDE_TEXT)
    interval: int = option(
        limits.LIST_INTERVAL.default, "Time between two fetches of `url`.", kind="seconds", limit=limits.LIST_INTERVAL
    )

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"list.name: {self.name!r} is not 1 to 64 letters, digits, dots, hyphens and underscores")
        for name, words in (("format", LIST_FORMATS), ("action", LIST_ACTIONS)):
            if getattr(self, name) not in words:
                raise ValueError(f"list.{name}: {getattr(self, name)!r} is not one of {', '.join(words)}")
        _check_file(self, "list")
        _check_others(self, "list")


@dataclass(frozen=True, slots=True)
class RpzSettings:
    """A response policy zone. The first zone with a rule decides."""

    name: str = option("", "Name of the zone; names in its file are relative to it.")
    file: str = option("", _FILE_TEXT.replace("list", "zone", 1))
    url: str = option("", _URL_TEXT)
    primaries: tuple[str, ...] = option(
        (), f"{PRIMARIES_TEXT} The copy is kept in zones.directory, so there is neither `file` nor `url`."
    )
    key: str = option("", KEY_TEXT)
    allow_notify: tuple[str, ...] = option((), NOTIFY_TEXT)
    ede: int = option(17, _EDE_TEXT)
    override: str = option(
        "",
        'One action instead of those of the zone: "nxdomain", "nodata", "passthru", "drop", "tcp-only", "cname NAME"'
        ' for an alias to NAME (a walled garden; in "cname *.NAME" the asterisk stands for the name of the query), or'
        ' "log" to only log what the zone would do. Empty: the actions of the zone.',
    )
    log: bool = option(False, "Log each query to which a rule of the zone applies.")
    interval: int = option(
        limits.LIST_INTERVAL.default, "Time between two fetches of `url`.", kind="seconds", limit=limits.LIST_INTERVAL
    )

    def __post_init__(self) -> None:
        check_names((self.name,), "rpz.name")
        if self.override.startswith(ALIAS_OVERRIDE):
            self._check_alias()
        elif self.override not in RPZ_OVERRIDES:
            words = ", ".join((*RPZ_OVERRIDES[1:], "cname NAME"))
            raise ValueError(f"rpz.override: {self.override!r} is not one of {words}")
        if self.primaries:
            self._check_transferred()
        else:
            _check_file(self, "rpz")
            for name in ("key", "allow_notify"):
                if getattr(self, name):
                    raise ValueError(f"rpz.{name}: the zone {self.name!r} has no primaries")
        _check_others(self, "rpz")

    def _check_alias(self) -> None:
        target = self.override_target
        check_names((target,), "rpz.override")
        if target == "." or _ACTION_TARGET.fullmatch(target.removesuffix(".")):
            raise ValueError(f"rpz.override: {self.override!r}: as a target of CNAME, {target!r} stands for an action"
                             f" in policy zones; write one of {', '.join(RPZ_OVERRIDES[1:])} instead")

    def _check_transferred(self) -> None:
        for name in ("file", "url"):
            if getattr(self, name):
                raise ValueError(f"rpz.{name}: the zone {self.name!r} has primaries, so its copy is in zones.directory;"
                                 f" remove {name}, or primaries")
        try:
            assert self.transferred is not None
        except ValueError as error:
            raise ValueError(f"rpz.{error}") from None

    @property
    def override_target(self) -> str:
        """The target of an override by a CNAME; empty with another override or none."""
        return self.override[len(ALIAS_OVERRIDE):].strip() if self.override.startswith(ALIAS_OVERRIDE) else ""

    @property
    def transferred(self) -> ZoneSettings | None:
        """The zone as one of which this server has a copy; None when it is not transferred."""
        if not self.primaries:
            return None
        return ZoneSettings(name=self.name, primaries=self.primaries, key=self.key, allow_notify=self.allow_notify,
                            mode=POLICY)


def check_lists(lists: tuple[ListSettings, ...], zones: tuple[RpzSettings, ...]) -> None:
    """Check all lists and zones together.

    Raises:
        ValueError: there are too many, or two have the same name or file.
    """
    if len(lists) + len(zones) > limits.LISTS:
        raise ValueError(f"list: more than {limits.LISTS} lists and response policy zones")
    for attribute in ("name", "file"):
        seen: set[str] = set()
        for one in (*lists, *zones):
            value = getattr(one, attribute)
            if value and value in seen:
                raise ValueError(f"list.{attribute}: {value!r} is that of two lists")
            seen.add(value)
