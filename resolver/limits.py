"""Every limit of the resolver: its default, its range and the reason for it (RFC, peer's value or named attack).

Rule: no other module carries a bare number that bounds work, memory or time; it imports the `Limit` from here and
uses ``LIMIT.default`` or a value that went through ``LIMIT.check``. `docs/limits.md` is generated from this file.
"""

from dataclasses import dataclass

__all__ = ["Limit", "all_limits"]


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. `unit` is a word for people: seconds, bytes, packets, names."""

    default: int
    minimum: int
    maximum: int
    unit: str
    reason: str

    def check(self, value: int, where: str) -> int:
        """Return `value` when it lies in the range.

        Raises:
            ValueError: naming `where`, the value and the permitted range.
        """
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{where}: {value} is outside {self.minimum}..{self.maximum} {self.unit} ({self.reason})")
        return value


# --- wire ---------------------------------------------------------------------------------------------------------

MESSAGE_RECORDS = Limit(
    4096, 64, 5957, "records",
    "as many A records as fit into 64 KiB; more only come from records with empty data, sent to make work",
)
RRSET_RECORDS = Limit(
    512, 32, 4096, "records",
    "very large sets make every later step slow (CVE-2024-1737); the largest honest ones have some dozens",
)
RRSET_BYTES = Limit(
    65535, 4096, 131072, "bytes",
    "a set with its names written out; what compression can blow up to more was built to do so",
)
COMPRESSION_HOPS = Limit(
    126, 16, 126, "pointers",
    "a name has at most 127 labels (RFC 1035 section 3.1) and each pointer should save one; longer chains only burn time",
)
COMPRESSION_ENTRIES = Limit(
    96, 16, 96, "names",
    "suffixes that the builder remembers as targets; later ones save little and searching must stay short",
)
EDNS_OPTIONS = Limit(
    64, 8, 1024, "options",
    "options in one OPT record that are looked at; a client sends one to four",
)
EDE_TEXT = Limit(
    256, 0, 1024, "bytes",
    "EXTRA-TEXT of one extended error (RFC 8914 section 2), so that errors do not amplify",
)

# --- cache --------------------------------------------------------------------------------------------------------

# --- iterate, resolve, mesh ---------------------------------------------------------------------------------------

# --- validate -----------------------------------------------------------------------------------------------------

# --- policy -------------------------------------------------------------------------------------------------------

# --- net ----------------------------------------------------------------------------------------------------------

UDP_PORTS = Limit(
    32, 1, 1024, "sockets", "pooled outgoing ports of one address family: a guesser faces ports x ids x letter case"
)
UDP_PORT_USES = Limit(256, 1, 65_536, "queries", "an outgoing port is given up before it can be found by probing")
UDP_PORT_AGE = Limit(30, 1, 3600, "seconds", "as UDP_PORT_USES, in time: SAD DNS needs a port that stays (CVE-2020-25705)")
UDP_PORT_LOWEST = Limit(1024, 1024, 49_152, "port", "lowest outgoing port; the whole rest of the range is drawn from")
UDP_BIND_TRIES = Limit(16, 1, 256, "draws", "random ports tried before giving up when ports are taken")
UDP_PORT_PENDING = Limit(
    512, 16, 16_384, "queries", "outstanding on one port; near misses look through them and ids stay scarce"
)
UDP_NEAR_MISSES = Limit(12, 1, 1000, "packets", "forged or late replies that move one query to TCP (Kaminsky 2008)")
UDP_RECEIVE = Limit(4096, 512, 65_535, "bytes", "largest reply taken over UDP; longer ones come over TCP")
UDP_BATCH = Limit(16, 1, 64, "packets", "replies read by one system call")
UDP_ROUNDS = Limit(4, 1, 64, "batches", "full batches read from one port before other work gets its turn")
UPSTREAM_ADDRESSES = Limit(8192, 64, 1 << 20, "addresses", "parsed server addresses kept before the table is emptied")
STREAM_UPSTREAMS = Limit(256, 1, 10_000, "connections", "outgoing TCP connections in all")
STREAM_UPSTREAMS_PER_SERVER = Limit(3, 1, 64, "connections", "outgoing TCP connections to one server (RFC 7766 6.2.2)")
STREAM_UPSTREAM_PIPELINE = Limit(64, 1, 1024, "queries", "outstanding on one outgoing connection (RFC 7766 6.2.1.1)")
STREAM_UPSTREAM_WAITING = Limit(256, 1, 10_000, "queries", "waiting for a free place towards one server")
STREAM_UPSTREAM_IDLE = Limit(5, 0, 300, "seconds", "an unused outgoing connection is closed (RFC 7766 6.2.3)")
PENDING_QUERIES = Limit(5000, 16, 1_000_000, "queries", "client queries waiting for an answer, in all")
PENDING_PER_CLIENT = Limit(1000, 1, 1_000_000, "queries", "client queries waiting of one address (DNSBomb, CVE-2024-33655)")
REPLY_EDES = Limit(4, 0, 16, "options", "extended errors in one reply (RFC 8914)")
EDE_TEXT = Limit(200, 0, 1000, "bytes", "text of one extended error; the reply must still fit a small payload")
ANY_TTL = Limit(3789, 0, 86_400, "seconds", "time to live of the answer to ANY (RFC 8482 section 4.2)")
SERVER_BUFFER = Limit(4 << 20, 1 << 16, 1 << 28, "bytes", "socket buffers of the UDP listeners; the kernel may give less")
STREAM_MESSAGE = Limit(5, 1, 600, "seconds", "a begun message must be complete, a written one be taken (slow loris)")
STREAM_WRITE_HIGH = Limit(128 << 10, 4096, 16 << 20, "bytes", "unsent replies of a connection before reading pauses")
STREAM_BACKLOG = Limit(512, 1, 65_535, "connections", "accept queue of a listening socket")
CRYPTO_THREADS = Limit(2, 1, 64, "threads", "signature checks that run beside the loop")
CRYPTO_IN_PLACE = Limit(2, 0, 64, "checks", "this many are done at once; handing over to a thread costs more")

# --- daemon and tools ---------------------------------------------------------------------------------------------

PLAYGROUND_UDP_PAYLOAD = Limit(1232, 512, 4096, "bytes", "what simulated servers send over UDP: no fragments (DNS flag day 2020)")
PLAYGROUND_ALIAS_STEPS = Limit(16, 1, 64, "aliases", "aliases one simulated server follows in its own zones, as BIND does")

WORKERS = Limit(1, 1, 64, "processes", "one loop each; more than the cores only costs memory")
CACHE_SIZE = Limit(64 << 20, 1 << 20, 1 << 40, "bytes", "one arena holds answers, sets and proofs; full means eviction")
CACHE_MIN_TTL = Limit(0, 0, 3600, "seconds", "RFC 1035 3.2.1: zero means do not keep; raising it shows outdated data")
CACHE_MAX_TTL = Limit(86400, 1, 604800, "seconds", "RFC 8767 4: longer promises outlive what they describe")
CACHE_MAX_NEGATIVE_TTL = Limit(3600, 0, 86400, "seconds", "RFC 2308 5: one to three hours work well")
CACHE_BOGUS_TTL = Limit(60, 1, 300, "seconds", "RFC 9520 3.2: failed validation is remembered, at most five minutes")
CACHE_FAILURE_TTL = Limit(5, 1, 300, "seconds", "RFC 9520 3.2: a failed resolution is remembered, at most five minutes")
CACHE_SERVERS = Limit(20000, 100, 10_000_000, "addresses", "facts kept about upstream addresses; an attacker names many")
UPSTREAM_PORT = Limit(53, 1, 65535, "port", "RFC 1035 4.2; another one only where name servers are imitated")
EDNS_PAYLOAD = Limit(1232, 512, 65535, "bytes", "RFC 9715: fits every IPv6 path, so nothing is ever a fragment")
MAX_PACKETS = Limit(200, 10, 10000, "packets", "NXNSAttack, CAMP: one client query never costs more upstream queries")
DEADLINE = Limit(8000, 500, 60000, "milliseconds", "clients give up after five to ten seconds; later answers help nobody")
TCP_IDLE_TIMEOUT = Limit(10000, 100, 600000, "milliseconds", "RFC 7766 6.2.3: a few seconds; idle ones hold descriptors")
TCP_CONNECTIONS = Limit(1000, 1, 100000, "connections", "each is a descriptor and some KiB of memory")
TCP_CONNECTIONS_PER_CLIENT = Limit(100, 1, 100000, "connections", "RFC 7766 6.2.2: one client must not take them all")
TCP_PIPELINE = Limit(100, 1, 10000, "queries", "RFC 7766 6.2.1.1: unanswered queries on one connection before reading stops")
LOG_INTERVAL = Limit(10, 0, 3600, "seconds", "the same complaint at most once in this time: a broken upstream must not fill a disk")
CONFIG_FILE_SIZE = Limit(16 << 20, 1, 1 << 30, "bytes", "a wrong path such as /dev/zero must not fill the memory")


def all_limits() -> dict[str, Limit]:
    """Every limit of this module by its name, in the order of the file."""
    return {name: value for name, value in globals().items() if isinstance(value, Limit)}
