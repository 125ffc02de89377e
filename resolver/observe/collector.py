"""Sends dnstap to a collector over a Unix socket or TCP, in a thread.

States: waiting (between two attempts), connecting, offering (the content type), streaming, stopping. An attempt that
fails, a connection that is lost and a collector that breaks the protocol lead to waiting: the pause doubles with each
failure, and begins anew after an accepted handshake. Meanwhile records fill the buffer; those for which it has no room
are counted by it.

Only whole frames are sent on a new connection: it begins with the first frame that the lost one did not take
completely. Frames that the kernel had taken and the collector had not read are lost with the connection and cannot
be counted. A collector that takes nothing is waited for as long as it is connected.
"""

import logging
import select
import socket
import time

from resolver import limits
from resolver.observe.frame_streams import FINISHED, STREAMING, FrameStreamError, FrameStreamSender, next_frame
from resolver.observe.output import Output
from resolver.observe.pieces import Pieces
from resolver.options import parse_endpoint
from resolver.settings.observe import DnstapSettings

__all__ = ["TapSender"]

logger = logging.getLogger(__name__)

RECEIVE = 4096


class TapSender(Output):
    """Sends to the collector of `settings`."""

    name = group = "dnstap"

    def __init__(self, settings: DnstapSettings, pieces: Pieces) -> None:
        super().__init__(pieces)
        self.settings = settings
        self.where = settings.socket or settings.address
        self.connections = 0
        """Handshakes that the collector has accepted."""
        self.failures = 0
        """Attempts that failed, and connections that were lost."""
        self.connected = False
        self._piece: tuple[memoryview, int] | None = None
        self._sent = 0
        """Octets of the piece that were sent."""
        self._frames = 0
        """Frames of the piece that were sent completely, and where the next one begins."""
        self._frame_at = 0

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        return {
            **super().statistics(), "connections": self.connections, "failures": self.failures,
            "connected": int(self.connected),
        }

    def work(self) -> None:
        pause = limits.DNSTAP_RETRY_FIRST
        while True:
            accepted = self.connections
            try:
                with self._connect() as connection:
                    self._serve(connection)
                return
            except (OSError, FrameStreamError) as error:
                self._return_to_frame()
                if self.stopping:
                    return
                self.failures += 1
                reason = getattr(error, "strerror", None) or error or "it does not answer"
                self.note_failure(f"nothing is sent: collector {self.where}: {reason}")
            finally:
                self.connected = False
            if self.connections > accepted:
                pause = limits.DNSTAP_RETRY_FIRST
            self.wait_until(time.monotonic() + pause / 1000)
            if self.stopping:
                return
            pause = min(2 * pause, limits.DNSTAP_RETRY_LAST)

    def _connect(self) -> socket.socket:
        """A connected socket.

        Raises:
            OSError: the collector cannot be reached in time.
        """
        timeout = limits.DNSTAP_HANDSHAKE / 1000
        if self.settings.socket:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(timeout)
                connection.connect(self.settings.socket)
            except BaseException:
                connection.close()
                raise
        else:
            connection = socket.create_connection(
                parse_endpoint(self.settings.address, limits.DNSTAP_PORT, "dnstap.address"), timeout
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.DNSTAP_UNACKNOWLEDGED)
        connection.setblocking(False)
        return connection

    def _serve(self, connection: socket.socket) -> None:
        """Perform the handshake, and send pieces until `stop`.

        Raises:
            OSError: the connection is lost, or the collector did not accept in time.
            FrameStreamError: the collector has broken the protocol.
        """
        protocol = FrameStreamSender()
        out = protocol.start()
        waiting = select.poll()
        waiting.register(self.pieces.fileno(), select.POLLIN)
        deadline = time.monotonic() + limits.DNSTAP_HANDSHAKE / 1000
        while protocol.state != FINISHED:
            out = out[self._send(connection, out) :] if out else b""
            if protocol.state == STREAMING and not out:
                stopping = self.stopping  # before `take`, so that a piece handed over before `stop` is seen
                blocked = self._send_pieces(connection)
                if stopping and not blocked:
                    out = protocol.finish()
                    continue
            else:
                blocked = bool(out)
            waiting.register(connection, select.POLLIN | (select.POLLOUT if blocked else 0))
            until = self.stop_by if self.connected else min(deadline, self.stop_by)
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("it does not answer")
            for fd, _ in waiting.poll(None if left == float("inf") else left * 1000):
                if fd != connection.fileno():
                    self.clear_wake()
                    continue
                out += self._receive(connection, protocol)
            if protocol.state == STREAMING and not self.connected:
                self.connected = True
                self.connections += 1
                self.note_success(f"collector {self.where} is connected again")

    def _receive(self, connection: socket.socket, protocol: FrameStreamSender) -> bytes:
        """Read what the collector has sent; return what is to be sent in reply."""
        try:
            data = connection.recv(RECEIVE)
        except BlockingIOError:
            return b""  # there is only room to send
        if not data:
            raise ConnectionResetError("it has closed the connection")
        return protocol.feed(data)

    def _send(self, connection: socket.socket, octets: "bytes | memoryview") -> int:
        try:
            return connection.send(octets)
        except BlockingIOError:
            return 0

    def _send_pieces(self, connection: socket.socket) -> bool:
        """Send what the buffer has. True: the connection takes no more now."""
        while True:
            if self._piece is None:
                self._piece = self.pieces.take()
                self._sent = self._frames = self._frame_at = 0
                if self._piece is None:
                    return False
            octets, records = self._piece
            while self._sent < len(octets):
                sent = self._send(connection, octets[self._sent :])
                if not sent:
                    return True
                self._sent += sent
                self.octets += sent
            self.written += records - self._frames
            self._piece = None
            octets.release()
            self.pieces.give_back()

    def _return_to_frame(self) -> None:
        """After a connection was lost: go back to the first frame that was not sent completely."""
        if self._piece is None:
            return
        octets = self._piece[0]
        while (end := next_frame(octets, self._frame_at)) <= self._sent:
            self._frame_at = end
            self._frames += 1
            self.written += 1
        self._sent = self._frame_at
