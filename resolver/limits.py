"""Every limit of the resolver: its default, its range and the reason for it (RFC, peer's value or named attack).

Rule: no other module carries a bare number that bounds work, memory or time; it imports the `Limit` from here and
uses ``LIMIT.default`` or a value that went through ``LIMIT.check``. `docs/limits.md` is generated from this file.
`Limit` stands in `corenet.limits` too: the rooms without I/O do not know corenet, whose door loads an event loop.
"""

from typing import NamedTuple

__all__ = ["Limit", "all_limits"]


class Limit(NamedTuple):
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
            raise ValueError(f"{where}: {value} is outside {self.minimum}..{self.maximum} {self.unit}. {self.reason}")
        return value


# --- wire ---------------------------------------------------------------------------------------------------------

MESSAGE_RECORDS = Limit(
    4096,
    64,
    5957,
    "records",
    "as many A records as fit into 64 KiB; more only come from records with empty data, sent to make work",
)
RRSET_RECORDS = Limit(
    512,
    32,
    4096,
    "records",
    "very large sets make every later step slow (CVE-2024-1737); the largest honest ones have some dozens",
)
RRSET_BYTES = Limit(
    65535,
    4096,
    131072,
    "bytes",
    "a set with its names written out; what compression can blow up to more was built to do so",
)
RRSET_OVERHEAD = Limit(
    250, 100, 10_000, "bytes", "counted for one set that a question holds besides its names, records and signatures"
)
COMPRESSION_HOPS = Limit(
    126,
    16,
    126,
    "pointers",
    "a name has at most 127 labels (RFC 1035 section 3.1) and each pointer saves one; longer chains only burn time",
)
COMPRESSION_ENTRIES = Limit(
    96,
    16,
    96,
    "names",
    "suffixes that the builder remembers as targets; later ones save little and searching must stay short",
)
COMPRESSION_MISSES = Limit(
    1024,
    64,
    65_536,
    "comparisons",
    "suffixes of one message that only shared a hash; honest names differ by case once each, crafted ones cost time",
)
EDNS_OPTIONS = Limit(
    64,
    8,
    1024,
    "options",
    "options in one OPT record that are looked at; a client sends one to four",
)
EDNS_ERROR_TEXT = Limit(
    256,
    0,
    1024,
    "bytes",
    "EXTRA-TEXT of one extended error (RFC 8914 section 2), so that errors do not amplify",
)

# --- cache --------------------------------------------------------------------------------------------------------

ARENA_BYTES = Limit(
    64 << 20,
    64 << 10,
    32 << 30,
    "bytes",
    "one mapping; above 32 GiB an offset in units of eight bytes no longer fits the 32 bits it has in a table slot",
)
ARENA_TABLE_SHARE = Limit(
    8,
    4,
    64,
    "parts",
    "one part in so many is reserved for buckets; an entry needs 12 bytes there and at least 48 in the ring",
)
ARENA_ENTRY_SHARE = Limit(
    8,
    4,
    1024,
    "parts",
    "no entry is larger than one part in so many of the ring, so that one cannot push out all others",
)
ARENA_LOCK_SPINS = Limit(
    128, 0, 100_000, "turns", "waiting for a writer on another core: its work is under a microsecond"
)
ARENA_LOCK_YIELDS = Limit(256, 0, 100_000, "turns", "waiting for a writer that lost its core")
ARENA_LOCK_NAPS = Limit(
    100,
    1,
    100_000,
    "naps of 0.1 ms",
    "then the entry is not stored: a stopped worker may slow the others, never block them",
)
TABLE_READ_TURNS = Limit(
    64,
    1,
    100_000,
    "turns",
    "a reader that meets writers this often calls it a miss; a dead writer may have left the mark",
)
TABLE_LOAD_LOW = Limit(
    66, 10, 90, "percent", "slots of an undivided group in use when the table begins to divide its groups one by one"
)
TABLE_LOAD_HIGH = Limit(90, 20, 95, "percent", "slots of an undivided group in use when the last of them is divided")
TABLE_REPRIEVES = Limit(
    32, 0, 4096, "entries", "recently used entries one insertion may carry over before it evicts whatever comes next"
)
FLUSH_SILENT = Limit(
    60, 1, 3600, "seconds", "without progress, then a flush of a process in another PID namespace counts as dead"
)
TABLE_FLUSH_LOOK = Limit(
    16, 1, 65_536, "stores", "while a flush is under way: how often one looks whether its process still lives"
)
TABLE_SWEEP = Limit(2048, 1, 1 << 20, "entries", "looked at per hold of the lock when the cache is copied out")
FLUSH_GROUPS = Limit(
    8, 1, 1024, "groups", "of 64 buckets (448 entries) looked through in one slice of a flush before others have a turn"
)
CACHE_CLOCK_SLACK = Limit(
    60,
    0,
    3600,
    "seconds",
    "an entry stored further in the future than this was left by a clock set back: it has expired",
)
CACHE_STALE_TTL = Limit(30, 0, 300, "seconds", "RFC 8767 section 5.2: the TTL that stale records are given")
SNAPSHOT_BLOCK = Limit(
    1 << 20, 1 << 18, 1 << 24, "bytes", "largest block of a cache dump: twice the largest entry fits"
)
PREFETCH_SHARE = Limit(
    10, 1, 50, "percent", "an answer asked for in this last part of its TTL is renewed (as Unbound does)"
)
PREFETCH_TTL = Limit(
    10, 2, 3600, "seconds", "answers with shorter TTLs are not renewed early: they would be all the time"
)
CACHE_ENTRY_RECORDS = Limit(64, 1, 1024, "sets", "sets kept with one negative entry; a proof needs at most eight")
DENIAL_RECORDS = Limit(
    16_384,
    16,
    1 << 22,
    "records",
    "verified NSEC and NSEC3 kept in order for names not asked yet (RFC 8198), some 1.5 KiB each",
)
DENIAL_RECORDS_PER_ZONE = Limit(
    4096, 8, 1 << 20, "records", "of these, how many may be of one zone: anybody can sign a large one"
)
DENIAL_OCTETS = Limit(
    32 << 20, 1 << 16, 1 << 32, "bytes", "verified NSEC and NSEC3 with their signatures: one record can have 64 KiB"
)
DENIAL_OVERHEAD = Limit(1_500, 100, 10_000, "bytes", "counted for one kept denial besides its octets, and for its zone")
LAME_OCTETS = Limit(
    8 << 20, 1 << 16, 1 << 30, "bytes", "lame zones of all servers together; names are long and an attacker has many"
)
LAME_OVERHEAD = Limit(400, 50, 10_000, "bytes", "counted for one lame zone besides its name")
SERVER_OCTETS = Limit(1_000, 100, 10_000, "bytes", "counted for the facts about one address")
DENIAL_LOOKS = Limit(4, 1, 64, "records", "expired ones removed while one gap is looked for")
SERVER_TIMEOUT_FIRST = Limit(
    376, 50, 5000, "milliseconds", "timeout towards an address never asked; most answer in 100 ms"
)
SERVER_TIMEOUT_MINIMUM = Limit(50, 1, 1000, "milliseconds", "lowest timeout: a fast server may be slow once")
SERVER_TIMEOUT_STREAM = Limit(
    1_000, 50, 60_000, "milliseconds", "least wait for a reply over TCP, which takes a handshake as well"
)
SERVER_TIMEOUT_MAXIMUM = Limit(
    12_000, 1000, 120_000, "milliseconds", "doubling stops here; from half of it on an address counts as dead"
)
SERVER_PROBE_INTERVAL = Limit(
    60, 1, 3600, "seconds", "a dead address is tried again with one query each such time (a network that came back)"
)
SERVER_SHARE = Limit(
    50, 10, 100, "percent", "of the time a query has left: how long one of several servers may keep silent"
)
SERVER_AGE = Limit(
    900, 1, 86_400, "seconds", "facts about an address not asked for so long are forgotten (RFC 6298 5.7)"
)
SERVER_LAME = Limit(900, 1, 86_400, "seconds", "how long a server counts as lame for a zone")
SERVER_LAME_ZONES = Limit(32, 1, 1024, "zones", "lame zones kept of one address; an attacker can name many")
SERVER_EDNS_BROKEN = Limit(3600, 1, 86_400, "seconds", "how long a server is asked without EDNS, then with it again")
SERVER_COOKIELESS = Limit(3_600, 60, 86_400, "s", "how long a server that gives no cookies is not asked for one")
SERVER_TCP_ONLY = Limit(
    300, 1, 86_400, "seconds", "how long an address that sent forged-looking replies is asked by TCP"
)

# --- iterate, resolve, mesh ---------------------------------------------------------------------------------------

MAX_REFERRALS = Limit(
    64,
    16,
    130,
    "referrals",
    "delegations followed for one name; ip6.arpa has the longest honest chains, attackers endless ones (CVE-2014-8500)",
)
MAX_ALIASES = Limit(12, 4, 16, "names", "CNAME and DNAME steps of one answer; Unbound restarts 11 times, Knot 13")
MAX_DEPTH = Limit(10, 4, 32, "sub-queries", "a query needing a query ...: zones can depend on ever more zones")
SUB_QUERIES = Limit(
    400, 50, 10_000, "sub-queries", "one client query may cost (NXNSAttack, CAMP): each needs work, packets or not"
)
LOOK_UPS = Limit(
    4000, 500, 100_000, "look-ups", "what one client query may ask the cache for on its way, chains of trust included"
)
TURN_STEPS = Limit(
    100, 10, 10_000, "steps", "of running queries that are made before the loop has its turn, some 50 us each"
)
DELEGATION_OCTETS = Limit(32 << 20, 1 << 16, 1 << 32, "bytes", "delegations kept ready, together")
DELEGATION_OVERHEAD = Limit(
    250, 50, 10_000, "bytes", "counted for each address a delegation may have, and for each of its names besides itself"
)
PARENT_PAUSE = Limit(
    60, 0, 3600, "seconds", "after a parent named the same failing servers again: each new name would ask it once more"
)
MAX_NAME_SERVERS = Limit(
    13,
    4,
    32,
    "names",
    "name servers of one zone that are used; the root has 13, NXNSAttack has hundreds",
)
MAX_ADDRESSES = Limit(
    26,
    4,
    128,
    "addresses",
    "addresses of one zone's servers that are used: 13 names of two families",
)
ADDRESS_LOOKUPS = Limit(
    5,
    1,
    16,
    "lookups",
    "addresses of name servers looked up for one step of one query (NXNSAttack)",
)
MISSING_ADDRESSES = Limit(
    5,
    1,
    16,
    "lookups",
    "name servers of one query that turn out to have no address before it is given up (NXNSAttack)",
)
TRIES_PER_SERVER = Limit(
    4,
    1,
    8,
    "packets",
    "sent to one address for one question; later ones without EDNS, if never heard",
)
SHORTAGE_PAUSE = Limit(
    50, 0, 1000, "milliseconds", "before the next try when this host had no descriptor or buffer left for a query"
)
TRIES_PER_CUT = Limit(
    24,
    4,
    100,
    "packets",
    "sent to the servers of one zone for one question (non-responsive delegation, CVE-2022-3204)",
)
EDNS_GIVE_UP = Limit(2, 1, 8, "packets", "timeouts with EDNS after which a server never heard from is asked without it")
SERVER_BAND = Limit(
    50,
    0,
    1000,
    "milliseconds",
    "servers that much slower than the best get a share as well: a guesser must not know whom we ask",
)
SERVER_UNKNOWN = Limit(
    100,
    1,
    5000,
    "milliseconds",
    "what an address never asked counts as when the fastest is chosen: better than a slow one",
)
SERVER_EXPLORE = Limit(
    16,
    2,
    1000,
    "queries",
    "one in so many goes to any server at all, so that a better one is noticed",
)
FAMILY_LANDMARKS = Limit(
    32,
    1,
    1000,
    "addresses",
    "configured ones of one family: the host counts as without it when the kernel has no route to any of them",
)
FAMILY_PAUSE = Limit(60, 1, 3600, "seconds", "a family without network is asked last for so long: routes come back")
MINIMISE_STEPS = Limit(10, 2, 127, "queries", "RFC 9156 section 2.3 MAX_MINIMISE_COUNT")
MINIMISE_ONE_LABEL = Limit(
    4,
    1,
    127,
    "queries",
    "RFC 9156 section 2.3 MINIMISE_ONE_LAB: first steps add one label each",
)
EMPTY_REPLY_TTL = Limit(
    5,
    0,
    300,
    "seconds",
    "a denial without SOA is remembered so long: RFC 2308 section 5 says not to",
)
BUDGET_VERIFICATIONS = Limit(
    64,
    8,
    1024,
    "checks",
    "signature checks one client query may cost (KeyTrap, CVE-2023-50387)",
)
BUDGET_HASHES = Limit(
    10_000,
    1_000,
    1_000_000,
    "blocks",
    "of 64 octets that one client query may have hashed for NSEC3 and DS, some 0.6 us each (CVE-2023-50868)",
)
ALIAS_PROBES = Limit(16, 1, 127, "names", "ancestors of a name looked up in the cache for a DNAME")
EXPIRY_GRAIN = Limit(
    10,
    1,
    1000,
    "milliseconds",
    "width of a slot of the mesh's deadline wheel: deadlines need no more",
)
JOBS = Limit(
    20_000,
    100,
    1_000_000,
    "questions",
    "resolved at the same time; more are refused at once, since each holds some KiB",
)
JOB_OVERHEAD = Limit(
    12_000, 1_000, 100_000, "bytes", "counted for one question under way besides what it has received"
)
JOBS_OCTETS = Limit(
    128 << 20,
    1 << 20,
    1 << 40,
    "bytes",
    "received for all questions under way, and not yet answered with: one reply may take 1.3 MiB, one query a dozen",
)
JOBS_OCTETS_KEPT = Limit(
    90, 1, 99, "percent", "of JOBS_OCTETS, down to which the queries that hold most are ended when it is passed"
)
FAILED_OVERHEAD = Limit(
    1_500, 100, 10_000, "bytes", "counted for one failed sub-query that a client query remembers, with its text"
)
JOBS_NETWORK_SHARE = Limit(
    80, 1, 99, "percent", "of the jobs it holds and the free ones together may be one network's, sub-queries included"
)
JOBS_QUESTION_SHARE = Limit(
    60, 1, 99, "percent", "as JOBS_NETWORK_SHARE, up to which new questions are begun; the rest lets them be ended"
)
JOBS_BEGUN = Limit(
    90, 1, 100, "percent", "of the places for jobs, up to which new questions are begun; the rest is for sub-queries"
)
JOSTLE = Limit(
    200, 0, 60_000, "milliseconds", "a query that ran for so long may make room for a new one (as Unbound has it)"
)
JOSTLE_LOOKS = Limit(8, 1, 64, "queries", "old queries looked at when a new one finds no place")
PREFETCH_JOBS = Limit(64, 1, 10_000, "questions", "answers renewed early at the same time: clients who wait come first")
PREFETCH_RATE = Limit(
    200,
    1,
    100_000,
    "questions a second",
    "answers renewed early: a cache that was filled in one burst must not be asked for again in one",
)
DELEGATIONS = Limit(
    4096,
    64,
    1 << 20,
    "zones",
    "delegations with their servers kept ready in a worker, on top of the cache they came from",
)

# --- validate -----------------------------------------------------------------------------------------------------

RSA_MODULUS_MIN = Limit(64, 64, 64, "bytes", "RFC 5702 section 2.1: a modulus has at least 512 bits")
RSA_MODULUS_MAX = Limit(512, 512, 512, "bytes", "RFC 5702 section 2.1: a modulus has at most 4096 bits")
VERIFY_KEYS = Limit(4_096, 16, 1_000_000, "keys", "loaded public keys kept; loading one costs a third of a P-256 check")
VERIFY_KEY_OCTETS = Limit(
    4_000, 1_000, 65_536, "bytes", "counted for one loaded key: the longest, of RSA with 4096 bits, takes some 3700"
)
PARSED_KEY_SETS = Limit(4_096, 16, 1_000_000, "zones", "DNSKEY sets kept in parsed form")
PARSED_KEY_OCTETS = Limit(
    16 << 20, 1 << 16, 1 << 32, "bytes", "parsed DNSKEY sets together: one hostile set takes four times its 64 KiB"
)
PARSED_KEY_OVERHEAD = Limit(900, 50, 10_000, "bytes", "counted for one parsed key besides its octets")
KNOWN_SIGNATURES = Limit(
    16_384,
    16,
    1 << 22,
    "signatures",
    "right ones of SOA, NSEC and NSEC3 sets remembered, some 150 bytes each: they come again with other denials",
)
KEYS_PER_TAG = Limit(2, 1, 16, "keys", "keys of one tag and algorithm tried for a signature (KeyTrap, CVE-2023-50387)")
CHECKS_PER_RRSET = Limit(8, 1, 64, "checks", "signature checks for one RRset (KeyTrap, CVE-2023-50387)")
SIGNATURES_PER_RRSET = Limit(
    16,
    2,
    512,
    "signatures",
    "RRSIG records of one set that are read at all; a rollover of keys and algorithms needs four (KeyTrap)",
)
SIGNERS_PER_RRSET = Limit(
    2, 1, 16, "zones", "different signers of one set whose keys are fetched: each may cost a walk of packets"
)
DS_MISMATCHES = Limit(
    4, 1, 64, "keys", "keys whose tag fits a DS record but whose digest does not, before giving up (KeyTrap)"
)
DENIAL_RRSETS = Limit(16, 4, 64, "records", "NSEC and NSEC3 records of one reply; more, and none of them is looked at")
COOKIE_PERIOD = Limit(
    86_400, 7_200, 3_110_400, "s", "how long a secret makes server cookies; RFC 7873 7.1 wants a change within 36 days"
)
SIGNATURE_SKEW_MIN = Limit(
    0, 0, 604_800, "s", "tolerated whatever a signature's validity: nothing unless asked for (RFC 4035 5.3.1)"
)
SIGNATURE_SKEW_MAX = Limit(
    0, 0, 2_592_000, "s", "a tenth of a signature's validity is tolerated, but no more than this: nothing by default"
)
SKEWED_TTL = Limit(
    60, 1, 3_600, "s", "how long data is kept whose signature has expired within the tolerated difference of clocks"
)
CLOCK_EARLIEST = Limit(
    1_767_225_600, 0, 4_102_444_800, "s", "2026-01-01, seconds since 1970: a clock before this program's time is wrong"
)
CLOCK_LATEST = Limit(
    4_102_444_800, 1_767_225_600, 32_503_680_000, "s", "2100-01-01: a clock that says a later time is wrong as well"
)
ANCHOR_FILE = Limit(48 << 10, 4096, 60 << 10, "bytes", "the file of trust anchors; also sent from worker to worker")
ROLLOVER_BUSY = Limit(120, 10, 3_600, "s", "a look at a zone's keys that has come to nothing by then is begun again")
ROLLOVER_REST = Limit(3_600, 1, 86_400, "s", "how long the schedule of looks rests at most: clocks are set meanwhile")
ROLLOVER_LONGEST = Limit(1_296_000, 3_600, 2_592_000, "s", "15 days: no zone is left alone for longer (RFC 5011 2.3)")
ADD_HOLD_DOWN = Limit(
    2_592_000, 1, 31_622_400, "s", "30 days: a new key is trusted when nobody objected for so long (RFC 5011 2.4.1)"
)
REMOVE_HOLD_DOWN = Limit(
    2_592_000, 1, 31_622_400, "s", "30 days from a key's revocation to its removal (RFC 5011 2.4.2)"
)
KEEP_MISSING = Limit(
    31_622_400, 0, 315_576_000, "s", "366 days: a trusted key that is no longer published stays trusted for so long"
)
MANAGED_KEYS = Limit(
    16, 2, 256, "keys", "trusted and waiting keys of one zone, and as many removed ones that are remembered"
)
ROLLOVER_CHECKS = Limit(16, 2, 64, "checks", "signature checks for one look at a zone's keys (KeyTrap, CVE-2023-50387)")
ROLLOVER_HASHES = Limit(
    1_000_000, 1_000_000, 1_000_000, "blocks", "of 64 octets hashed for one look: a zone's keys are at most 64 KiB"
)
ROLLOVER_LOOKS = Limit(
    2, 1, 100, "looks", "besides the first, that find a new key before it is trusted: a jump of the clock is no time"
)
NSEC3_ITERATIONS = Limit(
    50, 0, 500, "iterations", "above, the zone counts as insecure (RFC 9276 section 3.2, CVE-2023-50868)"
)
NSEC3_HASHES = Limit(40, 8, 512, "hashes", "names hashed for one reply (CVE-2023-50868)")
NSEC3_HASHES_AHEAD = Limit(
    8,
    2,
    128,
    "hashes",
    "names hashed to answer from proofs already held; beyond, the servers are asked (CVE-2023-50868)",
)
NSEC3_SALT = Limit(64, 8, 255, "bytes", "longer salts make each hash cost a second block (CVE-2023-50868)")

# --- policy -------------------------------------------------------------------------------------------------------

LOCAL_TTL = Limit(3600, 0, 86400, "seconds", "of local data without one; settings may change any time")
LOCAL_NEGATIVE_TTL = Limit(10800, 0, 86400, "seconds", "RFC 6303 3: SOA of the built-in empty zones")
CHAOS_TEXT = Limit(255, 1, 255, "bytes", "RFC 1035 3.3: one character string")
NSID_SIZE = Limit(0, 0, 255, "bytes", "a name-server identifier goes into every reply that asks for it (RFC 5001 3.1)")
DNS64_TTL = Limit(600, 1, 86400, "seconds", "RFC 6147 5.1.7: of made addresses when the denial has no SOA")

# --- net ----------------------------------------------------------------------------------------------------------

MEMORY_RESERVE = Limit(
    4 << 20, 0, 64 << 20, "bytes", "what begun queries end on where the system gives no memory; new ones are refused"
)
MEMORY_RESERVE_BLOCK = Limit(
    32 << 10, 4 << 10, 64 << 10, "bytes", "the reserve's pieces: they have to fit where others were freed (no mmap)"
)
MEMORY_RESERVE_ENOUGH = Limit(
    25, 1, 100, "percent", "of the reserve that can be had again before new queries are taken, half of it for them"
)
MEMORY_RESERVE_RETRY = Limit(
    100, 1, 60_000, "milliseconds", "between attempts to hold the reserve again: an attempt takes all there is"
)
DESCRIPTORS = Limit(1 << 20, 256, 1 << 30, "descriptors", "what a process may open where the system names no limit")
DESCRIPTORS_RESERVE = Limit(
    64, 16, 4096, "descriptors", "left to files, listeners and side doors when the others are shared out"
)
UDP_SOCKETS = Limit(
    4096, 1, 65_536, "sockets", "of one address family, each with a query on a port of its own; more queries wait"
)
UDP_SOCKETS_KEPT = Limit(
    256, 0, 65_536, "sockets", "of these, how many stay open between queries: a new one costs five times as much"
)
UDP_WAITING = Limit(10_000, 0, 1_000_000, "queries", "waiting for one of UDP_SOCKETS; more fail at once")
UDP_WAITING_SHARE = Limit(
    75, 1, 99, "percent", "of UDP_WAITING: what one network's servers may have of what they have and what is free"
)
UDP_SOCKET_IDLE = Limit(
    5000, 10, 3_600_000, "milliseconds", "what was not needed for so long is closed: a burst's sockets are not for ever"
)
UDP_LEFTOVERS = Limit(
    64, 1, 4096, "packets", "late ones thrown away before a socket is used again; with more, it is closed instead"
)
UDP_PORTS = Limit(
    32, 1, 1024, "sockets", "pooled outgoing ports of one address family: a guesser faces ports x ids x letter case"
)
UDP_PORT_USES = Limit(256, 1, 65_536, "queries", "an outgoing port is given up before it can be found by probing")
UDP_PORT_AGE = Limit(
    30, 1, 3600, "seconds", "as UDP_PORT_USES, in time: SAD DNS needs a port that stays (CVE-2020-25705)"
)
UDP_PORT_LOWEST = Limit(1024, 1024, 49_152, "port", "lowest outgoing port; the whole rest of the range is drawn from")
UDP_BIND_TRIES = Limit(16, 1, 256, "draws", "random ports tried before giving up when ports are taken")
UDP_PORT_PENDING = Limit(
    512, 16, 16_384, "queries", "outstanding on one port; near misses look through them and ids stay scarce"
)
UDP_NEAR_MISSES = Limit(12, 1, 1000, "packets", "forged or late replies that move one query to TCP (Kaminsky 2008)")
UDP_RECEIVE = Limit(4096, 512, 65_535, "bytes", "largest reply taken over UDP; longer ones come over TCP")
UDP_BATCH = Limit(16, 1, 64, "packets", "replies read by one system call")
UDP_ROUNDS = Limit(4, 1, 64, "batches", "full batches read from one port before other work gets its turn")
UDP_ERRORS = Limit(64, 1, 1024, "errors", "ICMP reports read from one port before other work: anybody can forge them")
UPSTREAM_ADDRESSES = Limit(8192, 64, 1 << 20, "addresses", "parsed server addresses kept before the table is emptied")
UPSTREAM_NETWORKS = Limit(
    4096, 1, 1 << 20, "networks", "that replied last; when places are scarce, all others have one share together"
)
STREAM_UPSTREAMS = Limit(256, 1, 10_000, "connections", "outgoing TCP connections in all")
STREAM_UPSTREAMS_PER_SERVER = Limit(3, 1, 64, "connections", "outgoing TCP connections to one server (RFC 7766 6.2.2)")
STREAM_UPSTREAM_PIPELINE = Limit(64, 1, 1024, "queries", "outstanding on one outgoing connection (RFC 7766 6.2.1.1)")
STREAM_UPSTREAM_WAITING = Limit(256, 1, 10_000, "queries", "waiting for a free place towards one server")
STREAM_UPSTREAM_SILENT = Limit(
    500, 10, 60_000, "milliseconds", "without a sign of the server, then the place is another's when all are taken"
)
STREAM_UPSTREAM_PATIENT = Limit(
    25, 0, 75, "percent", "of STREAM_UPSTREAMS: second tries at servers that were silent for so long, to their timeout"
)
STREAM_UPSTREAM_MISFITS = Limit(
    100, 1, 10_000, "messages", "that fit no question, without a reply in between, then an outgoing connection is ended"
)
STREAM_UPSTREAM_IDLE = Limit(5, 0, 300, "seconds", "an unused outgoing connection is closed (RFC 7766 6.2.3)")
QUERY_OCTETS = Limit(
    512, 128, 65_535, "bytes", "a client query that waits is kept as it came; longer ones without what is not answered"
)
PENDING_QUERIES = Limit(5000, 16, 1_000_000, "queries", "client queries waiting for an answer, in all")
PENDING_PER_CLIENT = Limit(
    1000, 1, 1_000_000, "queries", "client queries waiting of one address (DNSBomb, CVE-2024-33655)"
)
PENDING_NETWORK_SHARE = Limit(
    80,
    1,
    100,
    "percent",
    "of the places it has and the free ones may be one network's, whose addresses are many (CVE-2026-42534)",
)
DISCARD_TIMEOUT = Limit(
    0, 0, 60_000, "milliseconds", "DNSBomb (CVE-2024-33655): answers hoarded upstream leave in one pulse"
)
REPLY_EDES = Limit(4, 0, 16, "options", "extended errors in one reply (RFC 8914)")
EDE_TEXT = Limit(200, 0, 1000, "bytes", "text of one extended error; the reply must still fit a small payload")
ANY_TTL = Limit(3789, 0, 86_400, "seconds", "time to live of the answer to ANY (RFC 8482 section 4.2)")
SERVER_BUFFER = Limit(
    4 << 20, 1 << 16, 1 << 28, "bytes", "socket buffers of the UDP listeners; the kernel may give less"
)
STREAM_MESSAGE = Limit(5, 1, 600, "seconds", "a begun message must be complete, a written one be taken (slow loris)")
STREAM_WRITE_HIGH = Limit(
    64 << 10, 4096, 16 << 20, "bytes", "unsent replies of a connection from which on no query of it is looked at"
)
STREAM_TURN = Limit(
    64 << 10, 512, 1 << 20, "bytes", "replies made for one connection before others have their turn, and one reply more"
)
STREAM_PORTION = Limit(
    16 << 10, 64, 1 << 20, "bytes", "read from one connection that are looked at before others have their turn"
)
STREAM_UNSENT = Limit(
    1 << 20, 64 << 10, 1 << 30, "bytes", "replies that a client may leave unread while more come that it has asked for"
)
PLACES_LOOKS = Limit(
    64, 1, 4096, "groups", "looked at for a resting member that makes room, when all places are taken"
)
STREAM_NEWCOMERS = Limit(
    32, 1, 1024, "connections", "of a listener beyond its limit: not judged yet, or ended to make room and not gone yet"
)
STREAM_BACKLOG = Limit(512, 1, 65_535, "connections", "accept queue of a listening socket")
CRYPTO_THREADS = Limit(2, 1, 64, "threads", "signature checks that run beside the loop")
CRYPTO_SLICE = Limit(
    2, 0, 1_000, "milliseconds", "signature checks in a row before the loop has its turn; hits wait this long at most"
)
CRYPTO_IN_PLACE = Limit(4, 0, 64, "checks", "this many are done at once; handing over to a thread costs more")

# --- daemon and tools ---------------------------------------------------------------------------------------------

PLAYGROUND_UDP_PAYLOAD = Limit(1232, 512, 4096, "bytes", "what simulated servers send over UDP: never a fragment")
DIG_TIMEOUT = Limit(5, 0, 600, "seconds", "rdig waits this long per attempt, as dig does")
DIG_ATTEMPTS = Limit(3, 1, 10, "attempts", "rdig sends a datagram this often, as dig does")
PLAYGROUND_CERTIFICATE_DAYS = Limit(7, 1, 90, "days", "a throw-away authority should not outlive what it was made for")
PLAYGROUND_WEB_PORT = Limit(8443, 1, 65535, "port", "for HTTPS where the process may not bind port 443")
PLAYGROUND_PORT = Limit(5300, 1, 65535, "port", "where simulated servers listen: above 1024, no privileges needed")
PLAYGROUND_TCP_IDLE = Limit(30, 1, 3600, "seconds", "an unused connection to a simulated server ends (RFC 7766 6.2.3)")
PLAYGROUND_TCP_QUERIES = Limit(1000, 1, 100000, "queries", "one connection to a simulated server carries no more")
PLAYGROUND_ALIAS_STEPS = Limit(16, 1, 64, "aliases", "a simulated server follows this many in its own zones")

SNAPSHOT_SHARE = Limit(
    2, 1, 16, "sizes of the cache", "a cache dump that is larger is not read: it could not be taken in"
)
LINK_MESSAGE = Limit(
    64 << 10, 4096, 200 << 10, "bytes", "one question or answer between workers; statistics take some KiB"
)
LINK_TIMEOUT = Limit(
    1000, 10, 60_000, "milliseconds", "a worker that does not answer the first one in this time is called silent"
)
RELOAD_TIMEOUT = Limit(
    20_000, 100, 600_000, "milliseconds", "each other worker has this long to read new settings and what they name"
)
LINK_BATCH = Limit(16, 1, 1000, "messages", "taken from another worker at once")
CONTROL_REQUEST = Limit(
    4096, 256, 1 << 20, "bytes", "one request to the control socket; names have at most 1004 characters"
)
CONTROL_TIMEOUT = Limit(10_000, 100, 600_000, "milliseconds", "for a request to come and for an answer to be read")
CONTROL_PATIENCE = Limit(30, 0, 86_400, "seconds", "resolverctl waits this long for each line of the daemon")
CONTROL_CONNECTIONS = Limit(8, 1, 1000, "connections", "open at once on the control socket")
CONTROL_PORTION = Limit(16, 1, 10_000, "sets", "of a cache dump written as text before clients have their turn again")
CONTROL_REPLY = Limit(1 << 20, 4096, 1 << 26, "bytes", "longest line that resolverctl takes from the daemon")
METRICS_REQUEST = Limit(8192, 256, 1 << 20, "bytes", "head of a request for metrics")
METRICS_TIMEOUT = Limit(5000, 100, 600_000, "milliseconds", "for a request for metrics and its answer")
METRICS_CONNECTIONS = Limit(8, 1, 1000, "connections", "open at once for metrics")
METRICS_PORT = Limit(9335, 1, 65535, "port", "for metrics, when none is given")
WORKERS = Limit(1, 1, 64, "processes", "one loop each; more than the cores only costs memory")
CACHE_SIZE = Limit(
    64 << 20,
    1 << 20,
    32 << 30,
    "bytes",
    "one arena holds answers, sets and proofs; full means eviction; offsets into it reach 32 GiB",
)
CACHE_MIN_TTL = Limit(0, 0, 3600, "seconds", "RFC 1035 3.2.1: zero means do not keep; raising it shows outdated data")
CACHE_MAX_TTL = Limit(86400, 1, 604800, "seconds", "RFC 8767 4: longer promises outlive what they describe")
CACHE_MAX_NEGATIVE_TTL = Limit(3600, 0, 86400, "seconds", "RFC 2308 5: one to three hours work well")
CACHE_BOGUS_TTL = Limit(60, 1, 300, "seconds", "RFC 9520 3.2: failed validation is remembered, at most five minutes")
CACHE_FAILURE_TTL = Limit(5, 1, 300, "seconds", "RFC 9520 3.2: a failed resolution is remembered, at most five minutes")
SHORTAGE_TTL = Limit(
    1, 1, 5, "seconds", "failures that a shortage on this host may have caused: it can be over with the next query"
)
CACHE_FAILURE_MAX_TTL = Limit(
    300, 1, 300, "seconds", "RFC 9520 3.2: repeated failures are remembered ever longer, up to this"
)
SERVE_STALE = Limit(
    0, 0, 604800, "seconds", "RFC 8767 5: one to three days bridge an outage; longer shows what is long gone"
)
STALE_TIMEOUT = Limit(1800, 0, 30000, "milliseconds", "RFC 8767 5: client response timer, below what clients wait for")
CACHE_SERVERS = Limit(
    20000, 100, 10_000_000, "addresses", "facts kept about upstream addresses; an attacker names many"
)
UPSTREAM_PORT = Limit(53, 1, 65535, "port", "RFC 1035 4.2; another one only where name servers are imitated")
EDNS_PAYLOAD = Limit(1232, 512, 65535, "bytes", "RFC 9715: fits every IPv6 path, so nothing is ever a fragment")
MAX_PACKETS = Limit(200, 10, 10000, "packets", "NXNSAttack, CAMP: one client query never costs more upstream queries")
DEADLINE = Limit(
    8000, 500, 60000, "milliseconds", "clients give up after five to ten seconds; later answers help nobody"
)
TCP_IDLE_TIMEOUT = Limit(
    10000, 100, 600000, "milliseconds", "RFC 7766 6.2.3: a few seconds; idle ones hold descriptors"
)
TCP_CONNECTIONS = Limit(1000, 1, 100000, "connections", "each is a descriptor and some KiB of memory")
TCP_CONNECTIONS_PER_CLIENT = Limit(100, 1, 100000, "connections", "RFC 7766 6.2.2: one client must not take them all")
TCP_NETWORK_SHARE = Limit(
    80, 1, 100, "percent", "of the connections may be one network's, whose addresses are many (as of the waiting)"
)
TCP_PIPELINE = Limit(
    100, 1, 10000, "queries", "RFC 7766 6.2.1.1: unanswered queries on one connection before reading stops"
)
LOG_INTERVAL = Limit(
    10, 0, 3600, "seconds", "the same complaint at most once in this time: a broken upstream must not fill a disk"
)
LOG_FAILURES = Limit(
    10, 1, 1000, "lines", "failed questions told in a log interval: a second broken zone is news, a flood of names none"
)
UNPRIVILEGED_PORT = Limit(5335, 1024, 65535, "port", "what the daemon listens on when nothing is configured")
WORKER_RESTART_WINDOW = Limit(60, 1, 3600, "seconds", "a worker that lived so long has not died of its start")
WORKER_RESTART_DELAY = Limit(
    200, 0, 60000, "milliseconds", "pause before a dead worker is started anew; doubled with each short life"
)
WORKER_RESTART_LONGEST = Limit(
    30_000, 100, 3_600_000, "milliseconds", "longest such pause: the sockets are ours, so nobody else can serve"
)
STOP_GRACE = Limit(
    700, 0, 60000, "milliseconds", "workers still running after this time are killed: stopping takes less than a second"
)
PROBE = Limit(
    1500, 100, 60000, "milliseconds", "how long a first start waits for the root servers before it plays instead"
)
PROBE_SERVERS = Limit(4, 1, 13, "servers", "root servers asked by a first start")
GC_YOUNG = Limit(
    100_000, 700, 10_000_000, "objects", "queries leave no cyclic garbage; looking for it costs 3 to 4 % of a cold one"
)
GC_MIDDLE = Limit(50, 1, 10000, "collections", "of the young before the middle generation, see GC_YOUNG")
GC_OLD = Limit(100, 1, 10000, "collections", "of the middle before the old generation, see GC_YOUNG")
LOG_MEMORY = Limit(1000, 1, 1000000, "messages", "how many different warnings are remembered to leave out repetitions")
PORT_ATTEMPTS = Limit(16, 1, 1000, "attempts", "port 0: the one the kernel gives for UDP may be taken for TCP")
RETIRE_LOOK = Limit(
    100, 1, 60000, "milliseconds", "how often a replaced configuration is asked whether somebody still waits for it"
)
DRAIN = Limit(300, 0, 60000, "milliseconds", "on stopping, answers on their way get this long")
LABEL_TEXT = Limit(63, 1, 63, "bytes", "RFC 1035 2.3.4")
SYSTEM_FILE_SIZE = Limit(16 << 20, 1, 1 << 30, "bytes", "/etc/hosts with a block list has some MiB; more is a mistake")
SYSTEM_FILE_INTERVAL = Limit(
    1, 0, 3600, "seconds", "how late a change of /etc/hosts or /etc/resolv.conf may be noticed"
)
HOSTS_NAMES = Limit(1_000_000, 1, 10_000_000, "names", "a block list as hosts file has some hundred thousand")
RESOLV_SERVERS = Limit(8, 1, 64, "addresses", "libc takes three; more do not hurt")
RESOLV_SEARCH = Limit(32, 1, 256, "names", "each one can cost a query for a name that does not exist")
RESOLV_NDOTS = Limit(1, 0, 15, "dots", "resolv.conf(5)")
RESOLV_TIMEOUT = Limit(5, 1, 30, "seconds", "resolv.conf(5)")
RESOLV_ATTEMPTS = Limit(2, 1, 5, "attempts", "resolv.conf(5)")
CONFIG_FILE_SIZE = Limit(16 << 20, 1, 1 << 30, "bytes", "a wrong path such as /dev/zero must not fill the memory")


def all_limits() -> dict[str, Limit]:
    """Every limit of this module by its name, in the order of the file."""
    return {name: value for name, value in globals().items() if isinstance(value, Limit)}
