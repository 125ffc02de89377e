"""`FramedProtocol`: a protocol that is given whole messages instead of bytes, on any loop and any transport.

The work is done in C by its base (`corenet.transports.frame_splitter`); here stands what users override and call. On
our own streams received bytes never become an object of their own; on uvloop's and asyncio's loops, and over TLS, the
same class works through ``data_received``.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from corenet.core.framer import FrameError
from corenet.core.views import FrameView
from corenet.transports.frame_splitter import FrameSplitter

__all__ = ["FramedProtocol"]


class FramedProtocol(FrameSplitter, asyncio.Protocol):
    """Base of protocols over framed messages; override `frames_received`.

    Args:
        framer: a LengthFramer, DelimiterFramer or FixedFramer of this connection's own; its `max_frame` holds.
        views: True: frames are FrameViews into the receive block, valid as long as they are held; False: bytes.
        batch: the most frames of one `frames_received` call.

    When the peer sends a frame over the limit, or ends inside a frame, the connection is closed and `connection_lost`
    is told why: FrameTooLarge, IncompleteFrame. Frames before the fault are handed on first.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport as ``self.transport``; when overriding, call this or set the attribute."""
        self.transport = transport

    def frames_received(self, frames: list[Any]) -> None:
        """Take a batch of one or more whole frames, in the order in which they came."""

    def frames_ended(self) -> bool | None:
        """Take the peer's end of stream, after the last frame; true keeps our direction open, as in eof_received."""
        return None

    def switch_protocol(self, protocol: asyncio.BaseProtocol, frames: Sequence[bytes | FrameView] = ()) -> None:
        """Put `protocol` in our place; every byte that was not handed on as a frame goes to it, as it came.

        `frames` are those of the present batch that belong to the successor already. On our own transports
        ``transport.set_protocol`` does the same without `frames`; this works on every transport. As with set_protocol,
        ``connection_made`` of the successor is not called; a FramedProtocol without a transport is given ours.

        Raises:
            RuntimeError: there is no connection yet.
        """
        if self.transport is None:
            raise RuntimeError("hand_over before connection_made")
        if frames:
            self._put_back(frames)
        self.transport.set_protocol(protocol)
        self._replaced(protocol)

    async def start_tls(self, sslcontext: Any, **options: Any) -> Any:
        """Upgrade the connection; from then on ``self.transport`` is the encrypted one, which is also returned.

        `options` are those of ``loop.start_tls``: server_side, server_hostname and the timeouts. Bytes received but not
        handed on as frames are taken for the beginning of the handshake where the transport is one of ours; elsewhere
        they are refused, since plaintext must never be read as if it had come encrypted.

        Raises:
            FrameError: when there are such bytes on a foreign transport; the connection is aborted.
            ssl.SSLError: when the handshake failed; the connection is closed then.
            RuntimeError: there is no connection yet.
        """
        if self.transport is None:
            raise RuntimeError("start_tls before connection_made")
        plain = self.transport
        self.pause_frames()
        if self.pending and not hasattr(plain, "write_frame"):
            plain.abort()
            raise FrameError(f"{self.pending} bytes of plaintext came before TLS was started")
        self.transport = await asyncio.get_running_loop().start_tls(plain, self, sslcontext, **options)
        self.resume_frames()
        return self.transport
