"""Every limit of corenet: its default, its range and the reason for it (RFC, measurement or named attack).

Rule: no other module carries a bare number that bounds work, memory or time; it imports the `Limit` from here and
uses ``LIMIT.default`` or a value that went through ``LIMIT.check``. `docs/limits.md` is generated from this file.
"""

from typing import TypeVar

__all__ = ["Limit", "all_limits"]

_Number = TypeVar("_Number", int, float)


class Limit:
    """One limit. `unit` is a word for people: seconds, bytes, packets, names.

    No dataclass, which would be a tenth of the time that importing the package takes.
    """

    __slots__ = ("default", "maximum", "minimum", "reason", "unit")

    def __init__(self, default: int, minimum: int, maximum: int, unit: str, reason: str) -> None:
        self.default = default
        self.minimum = minimum
        self.maximum = maximum
        self.unit = unit
        self.reason = reason

    def check(self, value: _Number, where: str) -> _Number:
        """Return `value` when it lies in the range; NaN does not.

        Raises:
            ValueError: naming `where`, the value and the permitted range.
        """
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{where}: {value} is outside {self.minimum}..{self.maximum} {self.unit}. {self.reason}")
        return value


# --- engine -------------------------------------------------------------------------------------------------------

POLL_SKIP_TURNS = Limit(
    16, 0, 1024, "turns", "turns without a look at the descriptors while callbacks are ready: 1.7 times call_soon"
)
GIL_HANDOVER_YIELDS = Limit(
    64, 1, 10_000, "calls", "of sched_yield in which a loop that has much to do lets another loop's thread have the GIL"
)
GIL_KEPT_NANOSECONDS = Limit(
    5_000_000,
    50_000,
    1_000_000_000,
    "nanoseconds",
    "until a loop offers the GIL to others that did not take it; the interpreter's own interval",
)
POLL_SKIP_NANOSECONDS = Limit(
    50_000, 0, 1_000_000, "nanoseconds", "the longest that a ready descriptor waits for a chain of callbacks"
)
SPARE_SMALLEST = Limit(16, 2, 4096, "bytes", "received bytes objects used again; shorter ones are shared by Python")
SPARE_LARGEST = Limit(262_144, 64, 262_144, "bytes", "received bytes objects used again; no receive is larger")
SPARE_COUNT = Limit(32, 1, 1024, "objects", "received bytes kept for use again: a task that reads holds one each")
SPARE_MEMORY = Limit(2_097_152, 262_144, 1 << 30, "bytes", "in all of them; what a loop keeps after a burst of data")
SPARE_PROBES = Limit(4, 1, 64, "objects", "looked at for one that is free; each may be a cache miss")
SPARE_IDLE = Limit(2, 1, 6, "halvings", "2: a quarter of a received object's memory may lie idle when it is used again")
SPARE_ROOM = Limit(
    6, 2, 12, "halvings", "6: a 64th is added to a received object, so that as much again is a short receive, the last"
)
TURN_FRESH = Limit(
    65_536, 4096, 1 << 30, "bytes", "from one descriptor; what they woke runs before the next: they lie in the cache"
)
TURN_FRESH_CALLBACKS = Limit(8, 0, 1024, "callbacks", "the most that run for that before the next descriptor")
RECEIVE_DIRECT = Limit(
    4096, 64, 262_144, "bytes", "came with the last event: from here on a copy costs more than to guess wrong at times"
)

SLOW_ATTENTION = Limit(10, 0, 3600, "seconds", "callbacks are timed one by one for so long after a slow turn")
SLOW_WORTH = Limit(
    20_000, 0, 1_000_000, "nanoseconds", "a callback, on average, of a slow turn that is looked into: clocks cost 0.1"
)
SLOW_KEPT = Limit(32, 1, 1024, "callbacks", "the latest slow ones, in words: a program that blocks all day fills none")

EXECUTOR_THREADS = Limit(32, 1, 4096, "threads", "asyncio's value: the most of a loop's default executor")
EXECUTOR_SPARE_THREADS = Limit(4, 0, 4096, "threads", "asyncio's value: of these beyond one for each processor")

# --- framers ------------------------------------------------------------------------------------------------------

FRAME_SIZE = Limit(1 << 20, 1, 1 << 40, "bytes", "a length prefix is a claim of a stranger; it reserves no memory")
FRAME_BLOCK = Limit(262_144, 65_536, 1 << 24, "bytes", "received at once for views; what one held view keeps at most")
FRAME_BLOCK_REST = Limit(65_536, 4096, 1 << 22, "bytes", "a block with less room is left to its views")
FRAME_JOIN = Limit(8192, 0, 1 << 20, "bytes", "payloads below this are copied beside their header: an iovec costs more")
FRAME_BATCH = Limit(1024, 1, 1 << 20, "frames", "in one call, so that pausing inside it takes effect soon")
FRAME_RESERVE = Limit(65_536, 1, 1 << 24, "bytes", "set aside for an announced frame; more only as data arrives")
FRAME_HELD = Limit(30, 1, 3600, "seconds", "frames held back by a pause, once a foreign TLS transport has ended")
FRAME_DELIMITER = Limit(16, 1, 16, "bytes", "a mark that straddles two reads is searched in a fixed buffer")

# --- transports ---------------------------------------------------------------------------------------------------

WRITE_HIGH_WATER = Limit(65_536, 0, 1 << 30, "bytes", "asyncio's value: pause_writing above it")
EVENTS_IN_VAIN = Limit(16, 2, 1000, "events", "a hang-up that stands is waited for edge-triggered after so many")
WRITE_CORK = Limit(65_536, 0, 1 << 20, "bytes", "corked bytes that are sent without waiting for the callback's end")
SEND_RELEASE = Limit(65_536, 0, 1 << 30, "bytes", "copying this much into the kernel outweighs releasing the GIL")
WRITE_COPY = Limit(1024, 0, 65_536, "bytes", "mutable data shorter than this is copied to leave with later writes")
READ_BUDGET = Limit(4, 1, 64, "reads", "full 256 KiB reads of one descriptor a turn, so one peer starves nobody")
ACCEPT_BUDGET = Limit(100, 1, 1024, "connections", "accepted from one listener a turn: as many as asyncio by default")
ACCEPT_RETRY_SECONDS = Limit(1, 1, 60, "seconds", "pause of a listener that ran out of descriptors, as asyncio's")
STREAM_LIMIT = Limit(65_536, 1, 1 << 30, "bytes", "asyncio's value: the longest line, half of what is read ahead")
DATAGRAM_BATCH = Limit(64, 1, 64, "datagrams", "read by one recvmmsg and answered by one sendmmsg")
DATAGRAM_BUDGET = Limit(4, 1, 64, "batches", "batches of one socket a turn, so that a flood starves nobody")
DATAGRAM_PAUSE = Limit(1_000_000, 10_000, 1_000_000_000, "nanoseconds", "after ENOBUFS: room comes without an event")
DATAGRAM_SIZE = Limit(65_536, 512, 65_536, "bytes", "more than the longest UDP payload: nothing is cut off")
DATAGRAM_SEGMENTS = Limit(64, 1, 64, "datagrams", "sent as one and cut up by the kernel: UDP_MAX_SEGMENTS of Linux")
DATAGRAM_RUN = Limit(65_000, 512, 65_487, "bytes", "of such a run: what IPv4 and IPv6 headers leave of 64 KiB")
ADDRESS_CACHE = Limit(1024, 0, 1 << 16, "addresses", "remembered conversions; emptied when full: forging costs CPU")
LOST_WRITES_BEFORE_WARNING = Limit(5, 1, 1 << 20, "calls", "asyncio's value: writes to a lost connection before a log")

# --- socket options -----------------------------------------------------------------------------------------------

OPTION_KEEPALIVE_SECONDS = Limit(7200, 1, 32_767, "seconds", "Linux: MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL")
OPTION_KEEPALIVE_COUNT = Limit(9, 1, 127, "probes", "Linux: MAX_TCP_KEEPCNT")
OPTION_USER_TIMEOUT = Limit(0, 0, 86_400_000, "milliseconds", "a day; 0 is the system's own time (RFC 5482)")
OPTION_LINGER = Limit(0, 0, 3600, "seconds", "a close that goes on for longer is a leak; 0 resets the connection")
OPTION_QUEUE = Limit(100, 0, 1 << 16, "connections", "the kernel cuts it down to net.core.somaxconn without a word")
OPTION_DEFER_ACCEPT = Limit(0, 0, 3600, "seconds", "longer than a peer's own patience it is of no use")
OPTION_BUFFER = Limit(262_144, 256, 1 << 30, "bytes", "the kernel's least is 256 and its most net.core.rmem_max")
OPTION_TRAFFIC_CLASS = Limit(0, 0, 255, "(one byte)", "one byte of the header (RFC 2474 section 3)")

# --- tls ----------------------------------------------------------------------------------------------------------

TLS_HANDSHAKE = Limit(60, 1, 3600, "seconds", "asyncio's value: a peer that says nothing does not hold a descriptor")
TLS_SHUTDOWN = Limit(30, 1, 3600, "seconds", "asyncio's value: how long the peer's close_notify is waited for")
TLS_DRAINING = Limit(30, 1, 3600, "seconds", "what a paused protocol has not read, once the stream below has ended")
TLS_FEED = Limit(32_768, 4096, 1 << 24, "bytes", "fed to OpenSSL at once; its buffers keep the largest size they had")
TLS_GATHER = Limit(16_384, 4096, 1 << 24, "bytes", "collected over the writes of a callback before it is sent")
TLS_COPY = Limit(8192, 0, 1 << 20, "bytes", "below this a copy is cheaper than a view and its bookkeeping")
TLS_READ_HIGH = Limit(262_144, 0, 1 << 30, "bytes", "asyncio's value: received for a paused protocol, then TCP waits")
TLS_WRITE_HIGH = Limit(524_288, 0, 1 << 30, "bytes", "asyncio's value: pause_writing from it on")

# --- serving ------------------------------------------------------------------------------------------------------

SERVE_WORKERS = Limit(1, 0, 1024, "processes", "more than cores gains nothing; 0 serves in the calling process")
SERVE_BACKLOG = Limit(1024, 1, 65_535, "connections", "waiting for accept while a worker is busy or being replaced")
SERVE_GRACE = Limit(30, 0, 86_400, "seconds", "open connections may end by themselves for so long after a stop")
SERVE_KILL = Limit(5, 1, 3600, "seconds", "a worker still there so long after its grace is killed")
SERVE_START = Limit(60, 1, 3600, "seconds", "a worker that is not ready by then has failed to start")
SERVE_SETTLE = Limit(1, 0, 3600, "seconds", "an application that never says it is ready is taken to be after so long")
SERVE_CANCEL = Limit(2, 0, 60, "seconds", "a cancelled application may clean up for so long; less than SERVE_KILL")
SERVE_PAUSE_FIRST = Limit(100, 1, 60_000, "milliseconds", "before a dead worker is started again; then doubled")
SERVE_PAUSE_MOST = Limit(10_000, 1, 600_000, "milliseconds", "where the doubling ends, so that an outage ends")
SERVE_SETTLED = Limit(10, 1, 3600, "seconds", "a worker that lived so long has its pause start anew")
SERVE_DEATHS = Limit(20, 1, 1000, "deaths", "more within SERVE_DEATH_WINDOW, over all workers, end the service")
SERVE_DEATH_WINDOW = Limit(60, 1, 86_400, "seconds", "see SERVE_DEATHS: forking for ever helps nobody")

# --- http ---------------------------------------------------------------------------------------------------------

HTTP_HEAD = Limit(65_536, 1024, 1 << 24, "bytes", "start line and fields of one message; nginx sends at most 32 KiB")
HTTP_FIELDS = Limit(256, 16, 65_536, "fields", "many tiny fields cost more memory than their bytes")
HTTP_INFORMATIONAL = Limit(16, 0, 1024, "responses", "an endless run of 1xx responses keeps a request alive for ever")
HTTP_CHUNK_LINE = Limit(1024, 16, 65_536, "bytes", "a chunk extension nobody reads must not hold a connection")
HTTP_CHUNK_EXTENSIONS = Limit(65_536, 0, 1 << 24, "bytes", "in one body: one-byte chunks, each with an extension")
HTTP_PIPELINE = Limit(65_536, 0, 1 << 24, "bytes", "what a client may send ahead of our response before it is cut off")
HTTP_BODY = Limit(64 << 20, 0, 1 << 40, "bytes", "a body collected in memory; larger ones are streamed")
HTTP_DECODED = Limit(256 << 20, 0, 1 << 40, "bytes", "a gzip bomb grows a thousandfold (CVE-2025-69223)")
HTTP_DECODE_STEP = Limit(262_144, 1024, 1 << 24, "bytes", "output of one decoding step of a streamed body")
HTTP_DECODE_INPUT = Limit(16_384, 1024, 1 << 20, "bytes", "input of one decoding step; copied when a gzip member ends")
HTTP_DECODE_PRICE = Limit(4096, 64, 1 << 20, "bytes", "a step or member counts as at least so many: it costs 5 us")
HTTP_DECODE_SLICE = Limit(1 << 20, 65_536, 1 << 26, "bytes", "decoded before others run: 1 to 3 ms")
HTTP_DECODE_INNER = Limit(16 << 20, 65_536, 1 << 40, "bytes", "from one layer to the next, or 1/16 of the whole limit")
HTTP_MEMBERS = Limit(16_384, 1, 1 << 24, "members", "of one gzip body, and one more for each 4 KiB decoded")
HTTP_JOIN = Limit(4096, 0, 65_536, "bytes", "shorter pieces of a body are joined: an object takes 40 bytes besides")
HTTP_JOINED = Limit(65_536, 4096, 1 << 24, "bytes", "where such a joined piece ends; growing it may copy it")
HTTP_CODINGS = Limit(5, 1, 16, "codings", "each layer multiplies the work of one small body (CVE-2025-66418)")
HTTP_REDIRECTS = Limit(10, 0, 100, "redirects", "loops; browsers stop at 20, curl at 30, Go at 10")
HTTP_CONNECTIONS = Limit(100, 1, 65_536, "connections", "open descriptors of one client in all")
HTTP_PER_ORIGIN = Limit(64, 1, 65_536, "connections", "one origin must not take the whole pool")
HTTP_IDLE = Limit(50, 0, 3600, "seconds", "nginx and Apache close idle connections after 60 to 75 seconds; be first")
HTTP_READ = Limit(131_072, 16_384, 1 << 24, "bytes", "one read; all connections of a client share the buffer")
HTTP_DIRECT = Limit(65_536, 1024, 1 << 30, "bytes", "rest of a body from which on it is received into its final place")
HTTP_UPLOAD_SLICE = Limit(262_144, 4096, 1 << 30, "bytes", "sent of a body that never makes us wait, before others run")
HTTP_UPLOAD_PIECES = Limit(64, 1, 65_536, "pieces", "the same for a body in tiny or empty pieces")
HTTP_STREAM_HIGH = Limit(262_144, 16_384, 1 << 30, "bytes", "unread body of a streamed response; above, reading pauses")
HTTP_CONNECT_TIMEOUT = Limit(10, 1, 3600, "seconds", "name, TCP and TLS together")
HTTP_READ_TIMEOUT = Limit(30, 1, 86_400, "seconds", "no byte in either direction")
HTTP_TOTAL_TIMEOUT = Limit(30, 1, 86_400, "seconds", "a dripping server resets every other timer")
HTTP_ATTEMPT_DELAY = Limit(250, 10, 2000, "milliseconds", "RFC 8305 section 8: Connection Attempt Delay")
HTTP_UNCOUNTED = Limit(16_384, 0, 1 << 30, "bytes", "of a request: an idle socket takes them all")
HTTP_CLOSE = Limit(2, 0, 60, "seconds", "goodbyes of a closing client; a peer that does not answer is cut off")
HTTP_URL = Limit(65_536, 256, 1 << 20, "characters", "longer URLs are refused before they are parsed")
HTTP_URL_CACHE = Limit(512, 0, 65_536, "URLs", "parsed URLs kept by the process")


def all_limits() -> dict[str, Limit]:
    """Every limit of this module by its name, in the order of the file."""
    return {name: value for name, value in globals().items() if isinstance(value, Limit)}
