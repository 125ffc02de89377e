"""Every limit of corenet, its unit and the reason for it (RFC, measurement or named attack).

A constant is an integer; the string below it gives the unit and the reason. What a caller may set is a
`Limit` with a range, which is checked wherever it is set. No other module holds a bare number that bounds work, memory
or time. The sizes of C arrays must be constants of the C compiler: `tests/unit/test_limits.py` lists every large
constant of the C code and compares it with this file, or has the reason why it is no limit. `docs/limits.md` is
generated from this file.
"""

from typing import TypeVar

__all__ = ["Limit"]

_Number = TypeVar("_Number", int, float)


class Limit:
    """A value that may be set: its default and its range. `unit` is used in texts only.

    Not a dataclass, which would take a tenth of the time of importing the package.
    """

    __slots__ = ("default", "maximum", "minimum", "reason", "unit")

    def __init__(self, default: int, minimum: int, maximum: int, unit: str, reason: str) -> None:
        self.default = default
        self.minimum = minimum
        self.maximum = maximum
        self.unit = unit
        self.reason = reason

    def check(self, value: _Number, where: str) -> _Number:
        """Return `value` if it is in the range; NaN is not.

        Raises:
            ValueError: it is not; the message names `where`, the value and the permitted range.
        """
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{where}: {value} is outside {self.minimum}..{self.maximum} {self.unit}. {self.reason}")
        return value


# --- engine -------------------------------------------------------------------------------------------------------

POLL_SKIP_ITERATIONS = 16
"""iterations: While callbacks are ready, epoll_wait is skipped in at most this many iterations in a row. Calling it in
each makes chains of call_soon 1.7 times slower; calling it more rarely delays descriptors."""
GIL_YIELD_SPINS = 64
"""calls: A busy loop calls sched_yield at most this often while it waits for another loop's thread to take the GIL.
With fewer calls the other thread often misses it; more are wasted when no thread wants it."""
GIL_HOLD_NANOSECONDS = 5_000_000
"""nanoseconds: While no other thread takes the GIL, the time between two offers doubles up to this value, which is the
interpreter's own switch interval. Less costs a busy loop more system calls; more makes other loops wait."""
POLL_BATCH = 1024
"""events: One epoll_wait returns at most this many. With fewer, a loop with many busy descriptors waits more often;
more take memory (12 bytes an event)."""
POLL_SKIP_NANOSECONDS = 50_000
"""nanoseconds: A ready descriptor waits at most this long behind a chain of callbacks. A shorter time costs more calls
of epoll_wait."""
RECEIVE_POOL_MIN_SIZE = 16
"""bytes: Shorter bytes objects are not pooled: CPython shares those of up to one byte, and its allocator of small
objects is as fast for the others."""
RECEIVE_SIZE = 262_144
"""bytes: One receive takes at most this much, into a buffer that each loop has once. With less, bulk data costs more
system calls; more does not fit into the CPU cache. No object in the pool is larger."""
RECEIVE_POOL_OBJECTS = 32
"""objects: A loop pools at most this many objects, because each task that reads in a loop holds one. With fewer, such
tasks allocate for each receive; with more, the search meets more objects in use."""
RECEIVE_POOL_BYTES = 2_097_152
"""bytes: The pool of one loop keeps at most this much memory after a burst of data."""
RECEIVE_POOL_PROBES = 4
"""objects: Besides the last one used, at most this many objects are examined for a free one, because each may be a
cache miss. With fewer, free objects are overlooked."""
RECEIVE_POOL_WASTE_SHIFT = 2
"""halvings: A pooled object is used for data that leaves at most 2**-n of it unused; 2 means a quarter. With 1, half of
the memory may be unused; with more, fewer objects fit."""
RECEIVE_POOL_SLACK_SHIFT = 6
"""halvings: A new object is 2**-n larger than the data expected, so that receiving as much again comes back short and
shows that the socket is empty; 6 means a 64th."""
RECEIVE_BURST_BYTES = 65_536
"""bytes: After this much data from one descriptor the callbacks it woke run before the next descriptor is read, while
the data is in the CPU cache. Less means more iterations; more means that the data has left the cache."""
RECEIVE_BURST_CALLBACKS = 8
"""callbacks: RECEIVE_BURST_BYTES applies only while at most this many callbacks are ready. With more, other descriptors
would wait for all of them."""
RECEIVE_HINT_MIN = 4096
"""bytes: When the last event brought at least this much, the next receive goes straight into a pooled object. Below it
a copy is cheaper than a wrong guess."""

SLOW_WATCH_SECONDS = 10
"""seconds: After a slow iteration each callback is timed for this long, so that the slow one is found. Longer slows the
loop down for nothing; shorter misses callbacks that are slow now and then."""
SLOW_MIN_AVERAGE_NANOSECONDS = 20_000
"""nanoseconds: An iteration whose callbacks took less on average was long because there were many, and is not examined:
timing a callback costs 100 ns."""
SLOW_LOG_SIZE = 32
"""callbacks: Statistics keep this many recent slow callbacks, so that a program that always blocks does not fill
memory."""

SIGNAL_READ_SIZE = 4096
"""bytes: One read takes at most this many signal numbers, one byte each, from the wake-up descriptor; the rest is read
next."""
EXECUTOR_MAX_THREADS = 32
"""threads: asyncio's value for the default executor."""
EXECUTOR_EXTRA_THREADS = 4
"""threads: asyncio's value: the default executor has this many threads more than there are CPUs, because its work
mostly waits."""

THREAD_RETRY_DELAY = 100
"""milliseconds: A thread that has no memory to pass its result to the loop tries again after this time."""

# --- framers ------------------------------------------------------------------------------------------------------

FRAME_MAX_SIZE = Limit(
    1 << 20, 1, 1 << 40, "bytes",
    "A length prefix is untrusted. Larger frames are refused; smaller ones reserve memory only as data arrives."
)
FRAME_BLOCK_SIZE = 262_144
"""bytes: Frames are received into blocks of this size. Smaller blocks cost more receives; a view keeps its whole block
alive."""
FRAME_BLOCK_MIN_FREE = 65_536
"""bytes: A block with less free space is not received into any more, because short receives cost a system call each."""
FRAME_COPY_BELOW = 8192
"""bytes: Smaller payloads are copied next to their header, because another iovec costs more than the copy."""
FRAMES_PER_CALL = Limit(
    1024, 1, 1 << 20, "frames",
    "One call of frames_received gets at most this many frames, so that a pause inside it takes effect soon. Fewer "
    "means more calls."
)
FRAME_INITIAL_RESERVE = 65_536
"""bytes: This much is allocated for an announced frame, and more only as its data arrives, so that a mere announcement
takes no memory."""
FRAME_DELIVERY_TIMEOUT = 30
"""seconds: After a foreign TLS transport has closed, frames that a pause holds back are kept this long; then the
connection is reported lost. Otherwise a protocol that never resumes keeps them for ever."""
FRAME_DELIMITER_SIZE = Limit(
    16, 1, 16, "bytes", "A delimiter that spans two reads is searched in a buffer of this fixed size."
)

# --- transports ---------------------------------------------------------------------------------------------------

WRITE_HIGH_WATERMARK = 65_536
"""bytes: asyncio's value: pause_writing is called when more than this is queued."""
WRITE_VECTORS = 1024
"""pieces: One sendmsg or writev sends at most this many pieces (UIO_MAXIOV of Linux). The kernel refuses more."""
SPURIOUS_EVENTS = 16
"""events: After this many events in a row that allowed no read or write, EPOLLERR and EPOLLHUP are waited for
edge-triggered, so that the loop does not spin. Fewer events in a row also occur in normal use."""
CORK_BYTES = 65_536
"""bytes: Writes of one callback that add up to this much are sent without waiting for the callback's end. Less means
smaller segments; more delays the first byte and leaves the cache."""
SEND_RELEASE_GIL = 65_536
"""bytes: The GIL is released for sends above this size: copying them into the kernel takes longer than releasing it."""
WRITE_COPY_BELOW = 1024
"""bytes: Mutable data below this size is copied so that it is sent with later writes of the callback; larger data is
sent at once, because the copy would cost more than a system call saved."""
READS_PER_EVENT = 4
"""reads: One descriptor is read at most this often per event (256 KiB each), so that one peer does not starve the
others. Fewer reads mean more events for bulk data."""
ACCEPTS_PER_EVENT = 100
"""connections: asyncio's default: one listener accepts at most this many connections per event, so that a flood does
not starve open connections."""
ACCEPT_RETRY_SECONDS = 1
"""seconds: asyncio's value: a listener that ran out of descriptors or memory tries again after this time."""
STREAM_LIMIT = 65_536
"""bytes: asyncio's value: the longest line; reading pauses at twice this much unread data."""
DATAGRAM_BATCH = 64
"""datagrams: One recvmmsg or sendmmsg moves at most this many datagrams. Fewer means more system calls; more means more
memory for each loop."""
DATAGRAM_BATCHES_PER_EVENT = 4
"""batches: One socket receives at most this many batches per event, so that a flood does not starve the others."""
DATAGRAM_ENOBUFS_DELAY = 1_000_000
"""nanoseconds: After ENOBUFS the queue is retried after this time, because epoll does not report when the device has
room again."""
LANE_BUFFER = 1 << 20
"""bytes: A lane holds this much of datagrams that wait for the loop: some 5,000 queries, twice, because the loop reads
one buffer while the other is filled. What does not fit is dropped and counted."""
LANE_ERROR_DELAY = 10
"""milliseconds: After an error of receiving that is not that of a single datagram a lane waits this long, because epoll
would report its socket at once again."""
DATAGRAM_SLOT_SIZE = 65_536
"""bytes: One slot holds the longest UDP payload (65,507 bytes over IPv4), so that nothing is truncated."""
GSO_MAX_SEGMENTS = 64
"""datagrams: Linux sends at most this many segments per GSO message (UDP_MAX_SEGMENTS)."""
GSO_MAX_BYTES = 65_000
"""bytes: A GSO message is at most 64 KiB less the IP and UDP headers."""
ADDRESS_CACHE = 1024
"""addresses: Converted socket addresses are cached up to this number. The cache is emptied when full, so forged source
addresses cost CPU time and no memory."""
LOST_WRITES_BEFORE_WARNING = 5
"""calls: asyncio's value: the loss and the writes after it are counted, and from this count on each write is logged."""

# --- socket options -----------------------------------------------------------------------------------------------

OPTION_KEEPALIVE_SECONDS = Limit(
    7200, 1, 32_767, "seconds", "Linux accepts up to MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL."
)
OPTION_KEEPALIVE_COUNT = Limit(9, 1, 127, "probes", "Linux accepts up to MAX_TCP_KEEPCNT.")
OPTION_USER_TIMEOUT = Limit(
    0, 0, 86_400_000, "milliseconds",
    "0 keeps the system's default (RFC 5482). Data that is unacknowledged for more than a day will not be "
    "acknowledged."
)
OPTION_LINGER = Limit(
    0, 0, 3600, "seconds", "0 resets the connection. A close that takes longer than an hour is a leak."
)
OPTION_BACKLOG = Limit(100, 0, 1 << 16, "connections", "The kernel silently limits it to net.core.somaxconn.")
OPTION_DEFER_ACCEPT = Limit(0, 0, 3600, "seconds", "Peers give up before an hour has passed.")
OPTION_BUFFER_SIZE = Limit(
    262_144, 256, 1 << 30, "bytes", "The kernel's minimum is 256 bytes, its maximum net.core.rmem_max or wmem_max."
)
OPTION_TRAFFIC_CLASS = Limit(0, 0, 255, "(one byte)", "The field is one byte of the IP header (RFC 2474 section 3).")

# --- tls ----------------------------------------------------------------------------------------------------------

TLS_RECORD_SIZE = 18_432
"""bytes: The longest body of a record, with its expansion (RFC 5246 section 6.2.3). A longer one is not TLS."""
TLS_HANDSHAKE_TIMEOUT = 60
"""seconds: asyncio's value: a peer that does not finish the handshake must not hold a descriptor."""
TLS_SHUTDOWN_TIMEOUT = 30
"""seconds: asyncio's value: the peer's close_notify is waited for this long."""
TLS_DRAIN_TIMEOUT = 30
"""seconds: After the stream below has closed, data that a paused protocol has not read is kept this long. Otherwise a
protocol that never resumes keeps it for ever."""
TLS_BURST = 32
"""handshakes: After this many, memory that they have freed is returned to the system when no more follow. Fewer leave
less than 1 MiB."""
TLS_BURST_END = 2
"""seconds: A burst of handshakes has ended when fewer than `TLS_BURST` were completed in this time. Shorter, the memory
is returned between the parts of a burst, and has to be fetched again."""
TLS_FEED_SIZE = 32_768
"""bytes: OpenSSL is fed this much ciphertext at a time, because its memory BIOs keep the largest size they had. Less
means more calls."""
TLS_FLUSH_SIZE = 16_384
"""bytes: Plaintext of one callback that adds up to this much is encrypted and sent before the callback ends. It is the
plaintext of the largest TLS record (RFC 8446 section 5.1)."""
TLS_COPY_BELOW = 8192
"""bytes: Below this size a copy is cheaper than a memoryview."""
TLS_RELEASE_GIL_SIZE = 65_536
"""bytes: A write of this size or more is encrypted without the GIL. It takes some 20 us; handing the GIL over and back
costs less only from about there on."""
TLS_CONTROL_RECORDS = 100
"""records: A peer may send this many TLS records in a row that hold no data, such as key updates and session tickets.
Each costs us more than it costs the peer; a renegotiation or a server's tickets are about ten."""
TLS_ANSWERS_SIZE = 65_536
"""bytes: While the transport below cannot send, a peer may cause this much ciphertext by what it sends. A key update of
27 bytes wants an answer of 27 bytes."""
TLS_SESSIONS = 1024
"""sessions: A client context keeps this many sessions to resume, those of all origins together."""
TLS_SESSIONS_PER_ORIGIN = 32
"""sessions: A ticket of TLS 1.3 is used once, so this many connections to one origin can be resumed together."""
TLS_SESSION_OCTETS = 8_388_608
"""bytes: The sessions of a client context together. Each holds the server's certificates, whose size it chooses."""
TLS_SESSION_SIZE = 65_536
"""bytes: A larger session is not kept: a ticket has about 200 bytes, a chain of certificates 3 to 5 KiB, four times as
much when it is parsed."""
TLS_SESSION_LIFETIME = 86_400
"""seconds: From a full handshake, at most this long passes until the server's certificate is checked again, however
often the connection was resumed meanwhile (RFC 8446 section 4.6.1 allows tickets of seven days)."""
TLS_STAPLE_TOLERANCE = 300
"""seconds: An OCSP staple is accepted this long before and after its time, because clocks differ."""
TLS_STAPLE_AGE = 864_000
"""seconds: An OCSP staple is stale after ten days even when it says that it is valid for longer, or does not say how
long: authorities renew theirs within that time."""
TLS_STAPLE_SIZE = 32_768
"""bytes: A longer OCSP staple is refused. One with the certificate of its responder has about 2 KiB."""
TLS_READ_HIGH_WATERMARK = 262_144
"""bytes: asyncio's value: when a paused protocol has this much ciphertext waiting, the stream below stops reading."""
TLS_WRITE_HIGH_WATERMARK = 524_288
"""bytes: asyncio's value: pause_writing is called at this amount."""

# --- serving ------------------------------------------------------------------------------------------------------

SERVE_WORKERS = Limit(1, 0, 1024, "processes", "More workers than CPUs gain nothing. 0 serves in the calling process.")
SERVE_BACKLOG = Limit(
    1024, 1, 65_535, "connections",
    "Connections wait here while a worker is busy or being replaced. With too short a queue the kernel drops them."
)
SERVE_GRACEFUL_TIMEOUT = Limit(
    30, 0, 86_400, "seconds",
    "After a stop, open connections have this long to finish. Longer delays a restart; shorter cuts requests off."
)
SERVE_KILL_DELAY = 5
"""seconds: A worker that is still running this long after its graceful timeout gets SIGKILL."""
SERVE_START_TIMEOUT = 60
"""seconds: A worker that is not ready by then has failed to start."""
SERVE_ASSUME_READY = 1
"""seconds: An application that never reports readiness is taken to be ready after this time."""
SERVE_CANCEL_TIMEOUT = 2
"""seconds: A cancelled application has this long to clean up. It must be less than SERVE_KILL_DELAY."""
SERVE_RESTART_DELAY = 100
"""milliseconds: A dead worker is restarted after this delay, which doubles with each death."""
SERVE_RESTART_DELAY_MAX = 10_000
"""milliseconds: The restart delay does not grow beyond this, so that service resumes soon after an outage."""
SERVE_RESTART_RESET = 10
"""seconds: A worker that ran this long has its restart delay reset, because its start did not fail."""
SERVE_MAX_DEATHS = 20
"""deaths: More deaths than this within SERVE_DEATH_WINDOW, over all workers, end the service, because restarting them
for ever hides the error."""
SERVE_DEATH_WINDOW = 60
"""seconds: The deaths of SERVE_MAX_DEATHS are counted over this time."""

# --- http ---------------------------------------------------------------------------------------------------------

HTTP_HEAD_SIZE = Limit(
    65_536, 1024, 1 << 24, "bytes",
    "Start line and header fields of one message. nginx sends at most 32 KiB; a peer could fill memory with more."
)
HTTP_FIELD_COUNT = Limit(256, 16, 65_536, "fields", "Many tiny header fields cost more memory than their bytes.")
HTTP_INFORMATIONAL_RESPONSES = 16
"""responses: An endless run of 1xx responses would keep a request alive for ever."""
HTTP_CHUNK_LINE_SIZE = 1024
"""bytes: Chunk size and extensions of one chunk. The extensions are ignored, and an endless line would hold the
connection."""
HTTP_CHUNK_EXTENSION_BYTES = 65_536
"""bytes: Chunk extensions of one body together: one-byte chunks could each have one."""
HTTP_PIPELINE_BYTES = 65_536
"""bytes: A client that sends more ahead of our response is disconnected, because the data would be held in memory."""
HTTP_BODY_SIZE = Limit(64 << 20, 0, 1 << 40, "bytes", "A body that is collected in memory. Larger ones are streamed.")
HTTP_DECODED_SIZE = Limit(
    256 << 20, 0, 1 << 40, "bytes", "A decoded body in memory. A gzip bomb grows a thousandfold (CVE-2025-69223)."
)
HTTP_REDIRECT_BODY = 65_536
"""bytes: A longer body of a redirect that was followed is not kept in `history`. It is a short text for people; without
a limit each of many redirects could keep a body of the greatest size in memory."""
HTTP_DECODE_OUTPUT_STEP = 262_144
"""bytes: One call of zlib returns at most this much. Less means more calls; more lets a bomb take more memory at a
time."""
HTTP_DECODE_INPUT_STEP = 16_384
"""bytes: One call of zlib is given at most this much. What a call leaves over is copied when a gzip member ends."""
HTTP_DECODE_STEP_COST = 4096
"""bytes: Each step or gzip member counts as at least this many bytes, because it costs 5 us even when it makes none."""
HTTP_DECODE_SLICE_BYTES = 1 << 20
"""bytes: After decoding this much, which takes 1 to 3 ms, other tasks run."""
HTTP_DECODE_INNER_SIZE = 16 << 20
"""bytes: One content coding may pass this much to the next, or 1/16 of the limit of the body if that is more. Codings
in a row would otherwise multiply the growth."""
HTTP_GZIP_MEMBERS = 16_384
"""members: Gzip members of one body; one more is allowed per 4 KiB decoded. Empty members cost work without output."""
HTTP_BROTLI_OUTPUT_STEP = 131_072
"""bytes: The output of one call to brotli is asked to end here. It doubles its buffer first, so a step gives up to
229,328 bytes, which is less than HTTP_DECODE_OUTPUT_STEP."""
HTTP_ZSTD_WINDOW = 8 << 20
"""bytes: The largest window of a zstd body, which is the memory its decoder takes (RFC 8878 section 3.1.1.1.2; RFC 9659
makes it a rule of the coding)."""
HTTP_ZSTD_BLOCK = 131_072
"""bytes: A zstd block decodes to at most this much (RFC 8878 section 3.1.1.2.4). A longer one is broken."""
HTTP_LINE_SIZE = 1 << 20
"""characters: One line of a streamed text or event stream. A server could send a line without an end."""
HTTP_EVENT_SIZE = 4 << 20
"""characters: The data lines of one server-sent event together. A server could send an event without an end."""
HTTP_COALESCE_BELOW = 4096
"""bytes: Shorter chunks of a body are joined, because each bytes object takes some 40 bytes besides."""
HTTP_COALESCED_SIZE = 65_536
"""bytes: A joined chunk does not grow beyond this, because growing may copy it."""
HTTP_CONTENT_CODINGS = 5
"""codings: Each content coding multiplies the work of a small body (CVE-2025-66418)."""
HTTP_MAX_REDIRECTS = Limit(10, 0, 100, "redirects", "Redirects may loop. Browsers stop at 20, curl at 30, Go at 10.")
HTTP_CLI_PARALLEL = Limit(
    50, 1, 300, "transfers", "As in curl. More transfers of one command share the same line and disk without a gain."
)
HTTP_CLI_PROGRESS_INTERVAL = 100
"""milliseconds: The progress line of the command is written at most so often; an eye follows no more."""
HTTP_MAX_CONNECTIONS = Limit(
    100, 1, 65_536, "connections", "Each connection of a client is an open descriptor. Requests beyond the limit wait."
)
HTTP_MAX_PER_ORIGIN = Limit(64, 1, 65_536, "connections", "One origin must not take the whole pool.")
HTTP_KEEPALIVE_TIMEOUT = Limit(
    50, 0, 3600, "seconds",
    "nginx and Apache close idle connections after 60 to 75 seconds, and the client must close first. 0 closes each "
    "connection after its response."
)
HTTP_READ_SIZE = 131_072
"""bytes: One read; all connections of a client share the buffer. Less means more reads of a large body."""
HTTP_RECEIVE_INTO_MIN = 65_536
"""bytes: When this much of a body is still to come, it is received straight into the final bytes object. For less, the
copy is cheaper."""
HTTP_UPLOAD_SLICE_BYTES = 262_144
"""bytes: After sending this much of a body that never waits, other tasks run."""
HTTP_UPLOAD_SLICE_CHUNKS = 64
"""pieces: After sending this many chunks of a body that never waits, other tasks run: chunks may be tiny or empty."""
HTTP_UPLOAD_END_TURNS = 16
"""iterations: After a timeout, the iterator of a body has so many iterations of the loop to end after it was cancelled.
One that obeys needs two, and some for each task in which it waits."""
HTTP_FILE_READ = 262_144
"""bytes: A file is read in pieces of this size, each in a thread. Less means more changes of thread; more takes more
memory for each upload."""
HTTP_EXPECT_SIZE = 1 << 20
"""bytes: With expect_continue a shorter body is sent at once, because waiting for the server costs more than it
saves."""
HTTP_EXPECT_TIMEOUT = 1
"""seconds: A server that knows no 100-continue must not be waited for (RFC 9110 section 10.1.1). curl waits as long."""
HTTP_DIGEST_CHALLENGES = 3
"""challenges: One request answers at most this many in a row: the first, and those that say that a nonce is stale. A
server could ask for ever."""
HTTP_RETRIES = Limit(2, 1, 20, "retries", "Each retry adds load to a server that is in trouble.")
HTTP_RETRY_DELAY = 200
"""milliseconds: The first retry waits at most this long, and each further one twice as long: an overloaded server gets
less load."""
HTTP_RETRY_MAX_DELAY = Limit(
    10, 0, 3600, "seconds",
    "No retry waits longer. A response whose Retry-After asks for more is returned, because the caller knows better "
    "what to do then."
)
HTTP_RETRY_BUDGET = 10
"""retries: A client may do this many at once. Requests add to it (HTTP_REQUESTS_PER_RETRY), up to this value. Without
a budget a failing server gets a multiple of its load."""
HTTP_REQUESTS_PER_RETRY = 10
"""requests: So many requests allow one retry more: retries add at most a tenth to the load."""
HTTP_STREAM_HIGH_WATERMARK = 262_144
"""bytes: Reading pauses when this much of a streamed body is unread."""
HTTP_CONNECT_TIMEOUT = 10
"""seconds: Waiting for a free connection, name resolution, TCP and TLS together."""
HTTP_READ_TIMEOUT = 30
"""seconds: No byte was moved in either direction for this long."""
HTTP_TOTAL_TIMEOUT = 30
"""seconds: A server that sends a byte now and then resets every other timer."""
HTTP_CONNECTION_ATTEMPT_DELAY = 250
"""milliseconds: Connection Attempt Delay of RFC 8305 section 8."""
HTTP_RESOLUTION_DELAY = 50
"""milliseconds: Resolution Delay of RFC 8305 section 8. After the first address, the other addresses and the HTTPS
records are waited for at most this long."""
HTTP_SERVICE_ENDPOINTS = 8
"""endpoints: So many alternative endpoints of HTTPS records are tried for one connection. Each may cost two queries and
several connection attempts, and who publishes the records chooses their number."""
HTTP_SERVICE_ALIASES = 8
"""steps: HTTPS records in AliasMode are followed at most so often (RFC 9460 section 3.1), because they may loop."""
HTTP_SERVICE_HINTS = 16
"""addresses: So many address hints of each family in one HTTPS record are used. The rest are resolved anyway."""
HTTP_TLSA_RECORDS = 32
"""records: Each TLSA record is compared with each certificate of the chain. A name with more is refused."""
HTTP_TLSA_CONTEXTS = 64
"""contexts: A client keeps so many TLS contexts for sets of TLSA records. A forgotten one is made again."""
TLS_DANE_CHAIN = 16
"""certificates: A longer chain is refused before it is compared with TLSA records. Public chains have two to four."""
HTTP_SENT_AT_ONCE = 16_384
"""bytes: A request up to this size fits into the send buffer of any idle socket. Of a longer one, a foreign TLS
transport may hold a part that it does not count."""
HTTP_CLOSE_TIMEOUT = 2
"""seconds: A closing client waits this long for the peers' close_notify, then aborts."""
HTTP_URL_SIZE = 65_536
"""characters: Longer URLs are refused before they are parsed."""
HTTP_LINKS_SIZE = 1_048_576
"""characters: References of a Link field and the URL before each. Short ones against a long URL fill memory."""
HTTP_URL_CACHE = 512
"""URLs: Parsed URLs cached by the process, and prepared requests cached by a client."""
HTTP_URL_CACHED_SIZE = 2048
"""characters: A longer URL is not cached. Servers choose URLs by redirects, and the longest would fill 127 MiB."""
HTTP_COOKIE_SIZE = 4096
"""bytes: Name and value of a cookie (RFC 6265bis section 5.6). A longer one is ignored."""
HTTP_COOKIE_ATTRIBUTE_SIZE = 1024
"""bytes: The value of a cookie's attribute (RFC 6265bis section 5.6). A longer attribute is ignored."""
HTTP_COOKIE_SECONDS = 34_560_000
"""seconds: The longest life of a cookie, 400 days (RFC 6265bis section 5.5)."""
HTTP_COOKIES_PER_SITE = 180
"""cookies: Of one registrable domain. RFC 6265bis section 6.1 asks for 50 at least; Chrome keeps 180."""
HTTP_COOKIES = 3000
"""cookies: In one jar (RFC 6265bis section 6.1). With 4 KiB each they take at most 12 MiB."""
HTTP_COOKIE_FIELD_SIZE = 8190
"""bytes: One Cookie field, as in curl. Servers refuse longer fields, so a site could make itself unreachable."""
HTTP_CACHE_BYTES = Limit(
    64 << 20, 65_536, 1 << 40, "bytes",
    "What a response cache stores. One response takes at most an eighth of it, so that it cannot displace all others."
)
HTTP_CACHE_ENTRY_BYTES = 512
"""bytes: Counted for each stored response besides its contents, so that empty responses are bounded, too."""
HTTP_CACHE_VARIANTS = 16
"""responses: Stored for one URL. A server that varies by everything would fill the cache, and each look-up compares all
of them."""
HTTP_CACHE_VARY_FIELDS = 16
"""fields: Named in Vary. A response that depends on more is not stored."""
HTTP_CACHE_HEURISTIC_SECONDS = 86_400
"""seconds: The longest freshness that is guessed from Last-Modified (RFC 9111 section 4.2.2)."""
HTTP_CACHE_TOUCH_SECONDS = 60
"""seconds: A hit is written down as a use when the last one is older than this. So hits do not write to the file."""
HTTP_CACHE_BUSY_SECONDS = 1
"""seconds: Waiting for another process that writes to the cache. After that the request does without the cache."""
HTTP_CACHE_UNREMOVED = 256
"""URLs: Remembered because their removal failed. When there are more, the whole cache is cleared."""
HTTP_CACHE_REVALIDATIONS = 16
"""requests: Revalidations in the background of one client (RFC 5861 section 3)."""
HTTP_HSTS_HOSTS = 10_000
"""hosts: Known hosts of one HSTS store. Each host that a client visits may add itself."""
HTTP_HSTS_SECONDS = 63_072_000
"""seconds: The longest life of an HSTS policy, two years. A mistake must end some day."""

# --- http/2 -------------------------------------------------------------------------------------------------------

HPACK_TABLE_SIZE = Limit(
    4096, 0, 65_536, "bytes",
    "The dynamic table of one direction, as RFC 7541 section 4.1 counts it. 4096 is the protocol's default and needs "
    "no setting; a larger one costs memory for each connection."
)
HPACK_INTEGER_OCTETS = 4
"""bytes: An integer of a field block has at most this many bytes after its prefix, 28 bits. Longer ones name nothing
that could be sent, and would overflow."""
HPACK_SIZE_UPDATES = 2
"""updates: A field block begins with at most this many table size updates, because RFC 7541 section 4.2 needs no
more."""
HPACK_ENTRY_SHARE = 2
"""entries: A field larger than the table divided by this is not put into the table, because it would push out most of
the others."""
HTTP2_STREAM_WINDOW = Limit(
    1 << 20, 65_535, (1 << 31) - 1, "bytes",
    "What a peer may send on one stream before the user has consumed it, and so the memory one stream can take. A "
    "smaller window slows transfers over long distances."
)
HTTP2_CONNECTION_WINDOW = Limit(
    1 << 27, 65_535, (1 << 31) - 1, "bytes",
    "What a peer may send on all streams before the user has consumed it. It must exceed the streams' windows "
    "together, else one slow reader stops the others."
)
HTTP2_MAX_STREAMS = Limit(
    100, 1, 65_536, "streams",
    "Streams that a peer may have open at the same time. RFC 9113 section 6.5.2 advises against fewer than 100. "
    "Streams beyond it are refused."
)
HTTP2_REQUESTS = Limit(
    100, 1, 1000, "requests",
    "Requests of a client on one connection at the same time; the server's own limit holds as well. Further requests "
    "wait for a stream."
)
HTTP2_UNPROCESSED_REPEATS = 3
"""repeats: A request that the server has not processed is sent again up to this often (RFC 9113 section 8.7). One
repeat is not enough: a GOAWAY may follow a stream that was refused because the server's limit was not known yet."""
HTTP1_ORIGINS = 256
"""origins: A client remembers so many servers of HTTP/2 that require HTTP/1.1 (HTTP_1_1_REQUIRED). A forgotten one
refuses one more request, which is repeated."""
HTTP2_SETTLE_SECONDS = 1
"""seconds: A connection that was idle for longer must have no input waiting when a request begins on it, because it may
be the server's end of the connection. Before that it may be the rest of a response that was cancelled."""
HTTP2_PING_SECONDS = 1
"""seconds: A connection that sends nothing for this long after a PING gets no new requests. Round trips are shorter."""
HTTP2_CONTINUATIONS = 8
"""frames: CONTINUATION frames of one field block. Endless ones would take CPU time without end (CVE-2024-27316)."""
HTTP2_SETTINGS_ENTRIES = 32
"""settings: One SETTINGS frame holds at most this many. There are fewer than ten that mean anything; one frame could
hold 2730."""
HTTP2_CONTROL_FRAMES = 1000
"""frames: Frames that move no message forward (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, RST_STREAM, empty DATA, unknown
ones) are taken from a budget of this size. They cost CPU time and answers, so a flood of them ends the connection
(CVE-2019-9512, CVE-2019-9515, CVE-2019-9518)."""
HTTP2_CONTROL_RATE = 200
"""frames per second: The budget of HTTP2_CONTROL_FRAMES grows by this much each second, so that a connection may live
for days."""
HTTP2_CONTROL_EARNED = 4
"""frames: The budget of HTTP2_CONTROL_FRAMES grows by this much for each DATA frame that we send and for each stream
that ends well, because a busy peer acknowledges much."""
HTTP2_RESETS = 200
"""streams: Streams that a client opens and that end by a reset, by the client or because of its errors, are taken from
a budget of this size. Their work was for nothing (CVE-2023-44487, CVE-2025-8671)."""
HTTP2_RESET_RATE = 30
"""streams per second: The budget of HTTP2_RESETS grows by this much each second. Browsers cancel some dozens of
requests when a page is left."""
HTTP2_SMALL_FRAME = 512
"""bytes: A DATA frame that the peer's window cut to less than this earns no control frames. A peer that opens its
window byte by byte makes us send ten bytes for each."""
HTTP2_UNSENT_BYTES = 1 << 20
"""bytes: A server refuses new streams while more than this waits for the peer's windows. A client that asks and never
opens its windows would fill memory otherwise (CVE-2019-9517)."""
HTTP2_CLOSED_STREAMS = 128
"""streams: So many streams that were reset are remembered, because frames for them may still be on their way."""
HTTP2_DEBUG_DATA = 256
"""bytes: At most this much of a GOAWAY frame's debug data is kept, because it ends up in errors and logs."""
