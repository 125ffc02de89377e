"""When a list is fetched from its server, and what is kept of the result: a state machine without I/O.

| state | event | action | next state |
|---|---|---|---|
| waiting | `due` reached | the caller fetches with `request_fields` | fetching |
| fetching | 304, or a body with the digest in use | `unchanged` | waiting, for `interval` |
| fetching | a body that was compiled and stored | `replaced` | waiting, for `interval` |
| fetching | anything else | `failed` | waiting: `LIST_RETRY`, doubled after each failure, at most `interval` |

Every wait is shortened by up to `LIST_JITTER_PERCENT`. The list in use stays in use in all states.

A list is stored as one file: a head of fixed size with digest, time and ETag, then the body. So one rename replaces
both, and a file that was cut or changed is not used.
"""

import hashlib
import json
import re
from typing import NamedTuple

from resolver import limits

__all__ = ["HEAD_SIZE", "ListHead", "ListSource", "read_head", "usable_tag"]

HEAD_SIZE = 1024
_MAGIC = "resolver list 1 "
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


class ListHead(NamedTuple):
    """The head of a stored list. `digest` is SHA-256 of the body in hexadecimal, `fetched` in seconds since 1970."""

    digest: str
    size: int
    fetched: int
    etag: str = ""
    url: str = ""

    def encode(self) -> bytes:
        """The head, `HEAD_SIZE` bytes. A URL that does not fit is left out."""
        for head in (self, self._replace(url=""), self._replace(url="", etag="")):
            line = (_MAGIC + json.dumps(head._asdict())).encode()
            if len(line) < HEAD_SIZE:
                return line.ljust(HEAD_SIZE - 1) + b"\n"
        raise ValueError("the head of a list is too long")

    def check(self, body: "hashlib._Hash", size: int) -> None:
        """Compare with the body that follows.

        Raises:
            ValueError: it is another one.
        """
        if size != self.size or body.hexdigest() != self.digest:
            raise ValueError("the stored list is damaged: its digest differs")


def read_head(data: bytes) -> ListHead:
    """The head of a stored list, from its first `HEAD_SIZE` bytes.

    Raises:
        ValueError: it is none.
    """
    text = data[:HEAD_SIZE].decode("utf-8", "replace")
    if len(data) < HEAD_SIZE or not text.startswith(_MAGIC):
        raise ValueError("it is not a stored list")
    try:
        fields = json.loads(text[len(_MAGIC):])
        head = ListHead(**fields)
    except (ValueError, TypeError, RecursionError):
        raise ValueError("the head of the stored list is malformed") from None
    if not all(isinstance(one, kind) for one, kind in zip(head, (str, int, int, str, str), strict=True)):
        raise ValueError("the head of the stored list is malformed")
    return head


class ListSource:
    """The state of one list with a URL. Times are in seconds of a monotonic clock that the caller reads."""

    def __init__(self, url: str, interval: float) -> None:
        self.url = url
        self.interval = interval
        self.due = 0.0
        self.fetching = False
        self.failures = 0
        self.error = ""
        """Why the last fetch failed; empty when it succeeded."""
        self.head: ListHead | None = None
        """That of the list in use; None before the first."""

    def restore(self, head: ListHead, now: float, wall: float, spread: float) -> None:
        """Take over a list that is stored already: it is due when its interval has passed. A list of another URL is
        used until the first fetch, which is due at once."""
        if head.url and head.url != self.url:
            self.head = head._replace(etag="", digest="")
            return
        self.head = head
        age = min(max(0.0, wall - head.fetched), self.interval)
        self.due = now + self._wait(self.interval, spread) - age

    def begin(self) -> list[tuple[str, str]]:
        """Begin a fetch; the fields of the request."""
        self.fetching = True
        if self.head is not None and self.head.etag:
            return [("If-None-Match", self.head.etag)]
        return []

    def is_current(self, status: int, digest: str = "") -> bool:
        """Whether a response means that the list in use is the newest: 304, or the same body.

        Raises:
            ValueError: it is no list; the text says why.
        """
        if status == 304 and self.head is not None:
            return True
        if status != 200:
            raise ValueError(f"the server answered with status {status}")
        return self.head is not None and digest == self.head.digest

    def unchanged(self, now: float, wall: float, spread: float) -> None:
        """The fetch found the list in use."""
        if self.head is not None:
            self.head = self.head._replace(fetched=int(wall))
        self._succeed(now, spread)

    def replaced(self, head: ListHead, now: float, spread: float) -> None:
        """The fetched list is stored and in use."""
        self.head = head
        self._succeed(now, spread)

    def failed(self, why: str, now: float, spread: float) -> None:
        """The fetch failed; the list in use stays."""
        self.fetching = False
        self.error = why
        self.failures += 1
        wait = min(self.interval, limits.LIST_RETRY * 2.0 ** min(self.failures - 1, 32))
        self.due = now + self._wait(wait, spread)

    def _succeed(self, now: float, spread: float) -> None:
        self.fetching = False
        self.error, self.failures = "", 0
        self.due = now + self._wait(self.interval, spread)

    @staticmethod
    def _wait(seconds: float, spread: float) -> float:
        """`seconds` without a random part; `spread` is drawn from 0 to 1."""
        return seconds * (1 - spread * limits.LIST_JITTER_PERCENT / 100)


def usable_tag(etag: str | None) -> str:
    """An ETag that may be sent back (RFC 9110 section 8.8.3); empty for none."""
    return etag if etag and len(etag) <= limits.LIST_TAG and _TAG.fullmatch(etag) else ""
