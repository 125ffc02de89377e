"""Delays ``connection_lost`` of a FramedProtocol until its pending frames were delivered.

asyncio's TLS, and that of similar loops, closes the connection when the peer has sent close_notify, even while its
protocol is paused. A `DeferredConnectionLost` then becomes the protocol of that transport and the transport of the
FramedProtocol, and calls ``connection_lost`` after the last frame. If no frame is taken for
`limits.FRAME_DELIVERY_TIMEOUT` seconds, it ends the connection with an error, because nothing else could end it.

States: underlying transport open -> underlying transport lost (timer runs) -> connection_lost called. The second state
ends after the last frame, `close`, `abort`, or the timer. After one of these in the first state, connection_lost is
called as soon as the underlying transport is lost.
"""

import asyncio
from typing import Any

from corenet.core.framer import FrameError
from corenet.limits import FRAME_DELIVERY_TIMEOUT

__all__ = ["DeferredConnectionLost"]


class DeferredConnectionLost(asyncio.Protocol):
    """The protocol of `transport`, which is closing, and the transport of `protocol`, a FramedProtocol."""

    #: `corenet.transports.frame_splitter` recognises this class by this attribute.
    is_deferred_close = True

    def __init__(self, protocol: Any, transport: Any) -> None:
        self._protocol = protocol
        self._underlying = transport
        self._loop = asyncio.get_running_loop()
        self._error: BaseException | None = None
        self._lost = False
        self._closed = False
        self._pending_at_start = 0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)
        protocol.transport = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._underlying, name)

    # --- the protocol of the underlying transport -----------------------------------------------------------------

    def pause_writing(self) -> None:
        """Pass the call on to the FramedProtocol."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass the call on to the FramedProtocol."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Keep the error of the underlying transport until the frames were taken."""
        self._lost = True
        if self._error is None:
            self._error = exc
        if self._closed:
            self._call_connection_lost()
        else:
            self._start_timer()

    def _start_timer(self) -> None:
        self._pending_at_start = self._protocol.pending
        self._timer = self._loop.call_later(FRAME_DELIVERY_TIMEOUT, self._expire)

    def _expire(self) -> None:
        if self._protocol.pending != self._pending_at_start:
            self._start_timer()
            return
        size = self._pending_at_start
        text = f"{size} bytes of frames were not taken in {FRAME_DELIVERY_TIMEOUT} s after the connection ended"
        self._force_close(FrameError(text))

    def _call_connection_lost(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(self._error)

    # --- the transport of the protocol ----------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Return whether no more frames are delivered."""
        return self._closed

    def get_protocol(self) -> Any:
        """Return the protocol whose connection_lost is to be called, None afterwards."""
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        """Call connection_lost of this protocol instead."""
        self._protocol = protocol

    def is_reading(self) -> bool:
        """Return False: no more data can arrive."""
        return False

    def pause_reading(self) -> None:
        """Do nothing: no more data can arrive."""

    def resume_reading(self) -> None:
        """Do nothing: no more data can arrive."""

    def close(self) -> None:
        """Drop pending frames; connection_lost follows when the underlying transport has ended."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._lost:
            self._loop.call_soon(self._call_connection_lost)

    def abort(self) -> None:
        """Like `close`, without waiting for the peer."""
        self._force_close(self._error)

    def _force_close(self, exc: BaseException | None) -> None:
        self._error = exc
        self.close()
        if not self._lost:
            self._underlying.abort()
