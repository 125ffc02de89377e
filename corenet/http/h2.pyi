from typing import final

from typing_extensions import Buffer

from corenet.http.events import Event, Informational, Request, Response
from corenet.http.headers import Headers

CLIENT: bool
SERVER: bool
PREFACE: bytes

@final
class H2Connection:
    """One HTTP/2 connection without I/O (RFC 9113).

    How a server uses it: pass received bytes to `feed` with the time of the loop's clock, handle the events, then send
    what `data_to_send` returns. Call `data_to_send` also after every call that sends. `acknowledge` the consumed bytes
    of a request's body, otherwise the client's window stays closed::

        connection = H2Connection(SERVER)
        transport.write(connection.data_to_send())          # our settings

        def data_received(data):
            try:
                for stream_id, event in connection.feed(data, loop.time()):
                    if isinstance(event, Request):          # a new stream; version 20, Host is always among the fields
                        bodies[stream_id] = Pieces()
                    elif isinstance(event, Data):
                        bodies[stream_id].add(event.data)
                        connection.acknowledge(stream_id, len(event.data))
                    elif isinstance(event, End):            # answer now or later, in any order
                        if connection.is_open(stream_id):   # a reset may follow in the same list
                            answer(stream_id, bodies.pop(stream_id))
                    elif isinstance(event, StreamReset):    # forget the stream, stop its work
                        bodies.pop(stream_id, None)
            except RemoteProtocolError:                     # data_to_send() has the GOAWAY
                transport.write(connection.data_to_send())
                transport.close()
                return
            transport.write(connection.data_to_send())

        def answer(stream_id, body):
            connection.send_response(stream_id, Response(200, [(b"content-type", b"text/plain")]))
            connection.send_data(stream_id, b"hello", end=True)
            transport.write(connection.data_to_send())

    Sending on a stream that was reset raises `LocalProtocolError`, so check `is_open` first. While the transport's
    write buffer is above its high watermark, stop reading; otherwise the replies to a peer that sends and never reads
    use unbounded memory. Data beyond the peer's windows waits in the connection (`unsent`); close the connection
    when it waits for too long. To stop, call `goaway`, answer the open requests, and close when `open_streams` is 0.
    """

    server: bool
    open_streams: int
    goaway_sent: bool
    goaway_received: bool
    def __init__(
        self,
        server: bool = False,
        *,
        window: int | None = None,
        connection_window: int | None = None,
        max_streams: int | None = None,
        max_head: int | None = None,
        max_fields: int | None = None,
        table_size: int | None = None,
    ) -> None: ...
    @property
    def settings_received(self) -> bool: ...
    @property
    def settings_acknowledged(self) -> bool: ...
    @property
    def stream_limit(self) -> int: ...
    @property
    def accepting(self) -> bool: ...
    @property
    def can_open(self) -> bool: ...
    @property
    def incomplete(self) -> bool: ...
    def is_open(self, stream_id: int) -> bool: ...
    def feed(self, data: Buffer, now: float = 0.0) -> list[tuple[int, Event]]: ...
    def data_to_send(self, last: bool = True) -> bytes: ...
    def acknowledge(self, stream_id: int, size: int) -> int: ...
    def send_request(self, request: Request, end: bool = False, scheme: bytes = b"https") -> int: ...
    def send_response(self, stream_id: int, response: Response | Informational, end: bool = False) -> int: ...
    def send_data(self, stream_id: int, data: Buffer, end: bool = False) -> int: ...
    def send_end(self, stream_id: int, trailers: Headers | list[tuple[bytes, bytes]] | None = None) -> int: ...
    def reset(self, stream_id: int, code: int = 8) -> int: ...
    def ping(self, data: bytes) -> int: ...
    def goaway(self, code: int = 0, debug: bytes = b"") -> int: ...
    def unsent(self, stream_id: int = 0) -> int: ...
