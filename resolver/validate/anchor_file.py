"""The text in which trust points outlive the process: a list of anchors that people and other programs can read.

Trusted keys stand there as records, all others behind a semicolon, so that the file is a list of anchors for whoever
reads it as one; what RFC 5011 needs besides stands in comments. The last line is the SHA-256 of all before it: a file
that was cut off, damaged or edited is refused as a whole, since half of it could bring a revoked key back. No file is
opened here.
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
ADVICE = "; not to be edited; where this file is missing, the anchors of the configuration are where everything begins"
DIGEST = "; sha256 "
POINT = "; zone "
NEVER = "never"
TIME = "%Y-%m-%dT%H:%M:%SZ"


class AnchorFileError(ValueError):
    """A file that cannot be used, and why."""


class SavedPoint(NamedTuple):
    """What a file says of one zone. Times are seconds of the real-time clock, 0 for never."""

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
        AnchorFileError: it is not one, of another form, or not as it was written.
    """
    if not text.startswith("; trust anchors of resolverd"):
        raise AnchorFileError("it was not written by resolverd")
    if not text.startswith(HEAD + "\n"):
        raise AnchorFileError(f"its form is not {VERSION}, the only one that is known here")
    body, found, digest = text.rpartition(DIGEST)
    if not found or digest != hashlib.sha256(body.encode()).hexdigest() + "\n":
        raise AnchorFileError("it is cut off, damaged or edited: its checksum does not fit")
    points: list[SavedPoint] = []
    for number, line in enumerate(body.splitlines()[2:], 3):
        try:
            if line.startswith(POINT):
                points.append(_point(line[len(POINT) :]))
            else:
                last = points[-1]
                points[-1] = last._replace(keys=(*last.keys, _key(line, last.zone)))
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            # The checksum fits, so whoever made it made this as well.
            raise AnchorFileError(f"line {number} makes no sense: {error}") from None
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
        raise ValueError("a trusted key is commented out, or one that is not trusted stands there as a record")
    return made


def _fields(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (field.partition("=") for field in text.split())}


def _seconds(text: str) -> int:
    if text == NEVER:
        return 0
    seconds = int(datetime.strptime(text, TIME).replace(tzinfo=UTC).timestamp())
    if seconds <= 0:
        raise ValueError(f"{text} lies before all clocks")
    return seconds


def restore(point: TrustPoint, saved: SavedPoint) -> None:
    """Let a trust point go on where it stood when `saved` was written."""
    point.looked, point.succeeded, point.due, point.retry = saved.looked, saved.succeeded, saved.due, saved.retry
    point.keys = {known.key.rdata: known for known in saved.keys}

