"""The text format in which RFC 5011 trust points are saved: a zone file of trust anchors with comments.

Trusted keys are DNSKEY records and all other keys are comments, so that other programs can read the file as a list of
trust anchors. The states of RFC 5011 are in comments. The last line has the SHA-256 of all lines before it. A file that
is truncated, damaged or edited is rejected as a whole, because a part of it could make a revoked key trusted again. No
file is opened here.
"""

import base64
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from resolver.validate.autotrust import TRUSTED, KeyState, ManagedKey, TrustPoint
from resolver.validate.records import parse_dnskey
from resolver.wire import name as names

__all__ = ["AnchorFileError", "SavedPoint", "parse", "render", "restore"]

VERSION = 1
HEAD = f"; trust anchors of resolverd, kept up to date by RFC 5011; form {VERSION}"
ADVICE = "; do not edit; without this file, resolverd starts from the trust anchors of the configuration"
DIGEST = "; sha256 "
POINT = "; zone "
NEVER = "never"
TIME = "%Y-%m-%dT%H:%M:%SZ"


class AnchorFileError(ValueError):
    """A file that cannot be used; the text says why."""


class SavedPoint(NamedTuple):
    """The saved state of one zone. Times are in seconds of the real-time clock, 0 for never."""

    zone: bytes
    looked: int
    succeeded: int
    due: int
    retry: int
    keys: tuple[ManagedKey, ...]


# --- writing ----------------------------------------------------------------------------------------------------------


def render(points: Iterable[TrustPoint]) -> str:
    """The file's content."""
    lines = [HEAD, ADVICE]
    for point in points:
        zone = names.to_text(point.zone)
        lines.append(
            f"{POINT}{zone} looked={_when(point.looked)} succeeded={_when(point.succeeded)} due={_when(point.due)}"
            f" retry={point.retry}"
        )
        for known in point.keys.values():
            key = known.key
            bare = "" if known.state in TRUSTED else ";"
            lines.append(
                f"{bare}{zone} IN DNSKEY {key.flags} {key.protocol} {key.algorithm}"
                f" {base64.b64encode(key.key).decode()} ; tag={key.tag} state={known.state.value}"
                f" since={_when(known.since)} until={_when(known.until)} looks={known.looks}"
            )
    body = "\n".join(lines) + "\n"
    return f"{body}{DIGEST}{hashlib.sha256(body.encode()).hexdigest()}\n"


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(TIME) if seconds else NEVER


# --- reading ----------------------------------------------------------------------------------------------------------


def parse(text: str) -> list[SavedPoint]:
    """Read a file's content.

    Raises:
        AnchorFileError: it is not such a file, has another version, or was changed.
    """
    if not text.startswith("; trust anchors of resolverd"):
        raise AnchorFileError("it was not written by resolverd")
    if not text.startswith(HEAD + "\n"):
        raise AnchorFileError(f"its version is not {VERSION}, the only one that is supported")
    body, found, digest = text.rpartition(DIGEST)
    if not found or digest != hashlib.sha256(body.encode()).hexdigest() + "\n":
        raise AnchorFileError("it is truncated, damaged or edited: its checksum does not match")
    points: list[SavedPoint] = []
    for number, line in enumerate(body.splitlines()[2:], 3):
        try:
            if line.startswith(POINT):
                points.append(_point(line[len(POINT) :]))
            else:
                last = points[-1]
                points[-1] = last._replace(keys=(*last.keys, _key(line, last.zone)))
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            # The checksum matches, so the file was written like this.
            raise AnchorFileError(f"line {number} is invalid: {error}") from None
    return points


def _point(text: str) -> SavedPoint:
    zone, _, rest = text.partition(" ")
    fields = _fields(rest)
    looked, succeeded, due = (_seconds(fields[name]) for name in ("looked", "succeeded", "due"))
    return SavedPoint(names.lower(names.from_text(zone)), looked, succeeded, due, int(fields["retry"]), ())


def _key(line: str, zone: bytes) -> ManagedKey:
    record, _, rest = line.removeprefix(";").partition(" ; ")
    owner, _, rtype, flags, protocol, algorithm, data = record.split(" ")
    if rtype != "DNSKEY" or names.lower(names.from_text(owner)) != zone:
        raise ValueError("a DNSKEY record of the zone was expected")
    rdata = int(flags).to_bytes(2, "big") + bytes((int(protocol), int(algorithm)))
    key = parse_dnskey(rdata + base64.b64decode(data, validate=True))
    if key is None:
        raise ValueError("the record has no key")
    fields = _fields(rest)
    made = ManagedKey(key, KeyState(fields["state"]), _seconds(fields["since"]), until=_seconds(fields["until"]),
                      looks=int(fields["looks"]))
    if (made.state in TRUSTED) == line.startswith(";"):
        raise ValueError("a trusted key is a comment, or an untrusted key is a record")
    return made


def _fields(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (field.partition("=") for field in text.split())}


def _seconds(text: str) -> int:
    if text == NEVER:
        return 0
    seconds = int(datetime.strptime(text, TIME).replace(tzinfo=UTC).timestamp())
    if seconds <= 0:
        raise ValueError(f"{text} is before 1970")
    return seconds


def restore(point: TrustPoint, saved: SavedPoint) -> None:
    """Set a trust point to the saved state."""
    point.looked, point.succeeded, point.due, point.retry = saved.looked, saved.succeeded, saved.due, saved.retry
    point.keys = {known.key.rdata: known for known in saved.keys}

