"""`FramedProtocol`: a protocol that receives complete messages instead of bytes, on any loop and any transport.

Its base class (`corenet.transports.frame_splitter`) does the work in C; this module has what users override and call.
On our own streams no bytes object is made of received data; on the loops of asyncio and uvloop, and over TLS, the same
class works through ``data_received``.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from corenet.core.framer import FrameError
from corenet.core.views import FrameView
from corenet.transports.frame_splitter import FrameSplitter

__all__ = ["FramedProtocol"]


class FramedProtocol(FrameSplitter, asyncio.Protocol):
    """Base class of protocols over framed messages; override `frames_received`.

    Args:
        framer: a LengthFramer, DelimiterFramer or FixedFramer used by this connection only; its `max_frame` applies.
        views: True: frames are FrameViews into the receive block, valid as long as referenced; False: bytes.
        batch: the largest number of frames in one `frames_received` call.

    When the peer sends a frame over the limit, or ends the stream inside a frame, the connection is closed and
    `connection_lost` gets the error: FrameTooLarge, IncompleteFrame. The frames before it are delivered first.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set ``self.transport``; an override must call this or set the attribute."""
        self.transport = transport

    def frames_received(self, frames: list[Any]) -> None:
        """Called with one or more complete frames, in the order of arrival."""

    def frames_ended(self) -> bool | None:
        """Called at the peer's end of stream, after the last frame; True keeps our direction open, as in
        eof_received."""
        return None

    def switch_protocol(self, protocol: asyncio.BaseProtocol, frames: Sequence[bytes | FrameView] = ()) -> None:
        """Replace this protocol by `protocol`, which gets all received bytes that were not delivered as frames,
        unchanged.

        `frames` are frames of the current batch that also go to `protocol`. On our own transports
        ``transport.set_protocol`` does the same without `frames`; this method works on each transport. As with
        set_protocol, ``connection_made`` of `protocol` is not called; a FramedProtocol without a transport gets ours.

        Raises:
            RuntimeError: there is no connection yet.
        """
        if self.transport is None:
            raise RuntimeError("switch_protocol before connection_made")
        if frames:
            self._put_back(frames)
        self.transport.set_protocol(protocol)
        self._replaced(protocol)

    async def start_tls(self, sslcontext: Any, **options: Any) -> Any:
        """Upgrade the connection to TLS; return the encrypted transport, which is also the new ``self.transport``.

        `options` are those of ``loop.start_tls``: server_side, server_hostname and the timeouts. On our own transports,
        bytes that were received but not delivered as frames are the start of the handshake. On others they are refused,
        because plaintext must never be read as if it had been encrypted.

        Raises:
            FrameError: there are such bytes on a foreign transport; the connection is aborted.
            ssl.SSLError: the handshake failed; the connection is closed.
            RuntimeError: there is no connection yet.
        """
        if self.transport is None:
            raise RuntimeError("start_tls before connection_made")
        plain = self.transport
        self.pause_frames()
        if self.pending and not hasattr(plain, "write_frame"):
            plain.abort()
            raise FrameError(f"{self.pending} bytes of plaintext were received before TLS was started")
        self.transport = await asyncio.get_running_loop().start_tls(plain, self, sslcontext, **options)
        self.resume_frames()
        return self.transport
