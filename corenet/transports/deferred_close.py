"""What keeps the end of a connection from a FramedProtocol while frames wait that it has not handed on.

asyncio's TLS, and that of loops like it, closes the connection once the peer has said close_notify, whatever its
protocol has paused. A `DeferredConnectionLost` then takes the protocol's place on that transport, and the transport's
place with the protocol: the end comes when the frames before it were taken. Who never takes them is told so after
`limits.FRAME_DELIVERY_TIMEOUT` seconds, for nobody could close such a connection otherwise.

States: below open -> below lost (the time runs) -> told. `close`, `abort` and the last frame lead from the first two to
"told", at the latest when the transport below has ended.
"""

import asyncio
from typing import Any

from corenet.core.framer import FrameError
from corenet.limits import FRAME_DELIVERY_TIMEOUT

__all__ = ["DeferredConnectionLost"]


class DeferredConnectionLost(asyncio.Protocol):
    """Protocol of `transport`, which is ending, and transport of `protocol`, whose `transport` it becomes."""

    #: What `corenet.transports.frame_splitter` knows it by.
    is_deferred_close = True

    def __init__(self, protocol: Any, transport: Any) -> None:
        self._protocol = protocol
        self._below = transport
        self._loop = asyncio.get_running_loop()
        self._error: BaseException | None = None
        self._lost = False
        self._closed = False
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)
        protocol.transport = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    # --- the protocol of the transport below ----------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The transport below has ended: keep that until the frames are gone."""
        self._lost = True
        if self._error is None:
            self._error = exc
        if self._closed:
            self._tell()
        else:
            self._watch()

    def _watch(self) -> None:
        self._waiting = self._protocol.pending
        self._timer = self._loop.call_later(FRAME_DELIVERY_TIMEOUT, self._expire)

    def _expire(self) -> None:
        if self._protocol.pending != self._waiting:
            self._watch()
            return
        text = f"{self._waiting} bytes of frames were not taken {FRAME_DELIVERY_TIMEOUT} s after its end"
        self._force_close(FrameError(text))

    def _tell(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(self._error)

    # --- the transport of the protocol ----------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Tell whether nothing more is handed on."""
        return self._closed

    def get_protocol(self) -> Any:
        """Return the protocol that is told of the end, None when it was."""
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        """Tell another protocol of the end."""
        self._protocol = protocol

    def is_reading(self) -> bool:
        """Nothing more can come."""
        return False

    def pause_reading(self) -> None:
        """Without effect: nothing more can come."""

    def resume_reading(self) -> None:
        """Without effect: nothing more can come."""

    def close(self) -> None:
        """Give up what was not handed on; connection_lost follows when the transport below has ended."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._lost:
            self._loop.call_soon(self._tell)

    def abort(self) -> None:
        """The same without waiting for the peer."""
        self._force_close(self._error)

    def _force_close(self, exc: BaseException | None) -> None:
        self._error = exc
        self.close()
        if not self._lost:
            self._below.abort()
