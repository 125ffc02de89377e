"""An observer whose output a test reads, with settings given as keywords."""

from collections.abc import Callable
from typing import Any

from support.dnstap import Tap, frames, read_frame

from resolver import limits
from resolver.observe.observer import Observer
from resolver.observe.pieces import Pieces
from resolver.settings.observe import DnstapSettings, QueryLogSettings

__all__ = ["Observed"]


class Observed:
    """An `Observer`. `log` and `tap` are options of the sections query-log and dnstap; None: that output is off."""

    def __init__(
        self,
        log: dict[str, Any] | None = None,
        tap: dict[str, Any] | None = None,
        *,
        views: tuple[str, ...] = (),
        is_own: Callable[[bytes, int], bool] | None = None,
        seed: int = 1,
    ) -> None:
        self.log_pieces = None if log is None else Pieces(limits.OBSERVE_BUFFER.minimum * 8)
        self.tap_pieces = None if tap is None else Pieces(limits.OBSERVE_BUFFER.minimum * 8)
        self.observer = Observer(
            log=self.log_pieces, tap=self.tap_pieces, log_settings=QueryLogSettings(**(log or {})),
            tap_settings=DnstapSettings(**(tap or {})), views=views, is_own=is_own, identity=b"me", version=b"v1",
            seed=seed,
        )

    def _read(self, pieces: Pieces | None) -> bytes:
        assert pieces is not None
        self.observer.flush()
        found = b""
        while (taken := pieces.take()) is not None:
            found += bytes(taken[0])
            pieces.give_back()
        return found

    def lines(self) -> list[str]:
        """The lines of the query log since the last call."""
        text = self._read(self.log_pieces).decode("ascii")
        assert not text or text.endswith("\n")
        return text.split("\n")[:-1]

    def exchanged(self) -> list[tuple[str, str, bytes]]:
        """Type, protocol and DNS message of each dnstap message since the last call."""
        return [(tap.type, tap.protocol, tap.fields.get("query") or tap.fields["response"]) for tap in self.taps()]

    def taps(self) -> list[Tap]:
        """The messages of dnstap since the last call."""
        return [read_frame(frame) for frame in frames(self._read(self.tap_pieces))]
