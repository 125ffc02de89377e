"""Every limit of the resolver, its unit and the reason for it (RFC, value of another resolver or named attack).

A constant is an integer; the string below it gives the unit and the reason. What a caller or operator may set is a
`Limit` with a range, which is checked wherever it is set. No other module holds a bare number that bounds work, memory
or time. `docs/limits.md` is generated from this file.
`Limit` is in `corenet.limits` too, because importing corenet loads an event loop, which modules without I/O do not
need.
"""

from typing import NamedTuple

__all__ = ["Limit"]


class Limit(NamedTuple):
    """A value that may be set: its default and its range. `unit` is for people."""

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

MESSAGE_RECORDS = 4096
"""records: As many A records as fit into 64 KiB. Messages with more hold records with empty data, which cost work
without saying anything."""
RRSET_RECORDS = 512
"""records: Very large sets make every later step slow (CVE-2024-1737). The largest sets in use have some dozens of
records."""
RRSET_BYTES = 65_535
"""bytes: A set with its names written out. Only a message built for it grows to more when its compressed names are
expanded."""
RRSET_OVERHEAD = 250
"""bytes: Memory counted for each set that a query holds, besides its names, records and signatures. Counting less would
let queries hold more than JOBS_OCTETS."""
COMPRESSION_HOPS = 126
"""pointers: A name has at most 127 labels (RFC 1035 section 3.1), and each useful pointer follows a label. Longer
chains only cost time."""
COMPRESSION_ENTRIES = 96
"""names: The builder remembers this many suffixes as targets of pointers. With fewer, replies are longer; with more,
the search costs more than it saves."""
COMPRESSION_MISSES = 1024
"""comparisons: Suffixes of one message that share a hash and differ are compared at most this often; later names are
not compressed. In usual messages they differ by letter case once each; crafted names would cost time."""
EDNS_OPTIONS = 64
"""options: Options of one OPT record that are examined. Clients send one to four; a message may hold 16,000."""
EDNS_ERROR_TEXT = 256
"""bytes: The EXTRA-TEXT of one extended error (RFC 8914 section 2) is cut here, so that errors do not amplify."""

# --- cache --------------------------------------------------------------------------------------------------------

ARENA_BYTES = Limit(
    64 << 20, 64 << 10, 32 << 30, "bytes",
    "Above 32 GiB, an offset in units of eight bytes does not fit into the 32 bits that a table slot has for it."
)
ARENA_TABLE_SHARE = 8
"""parts: One part in this many of the arena is reserved for buckets: an entry needs 12 bytes there and at least 48 in
the ring. With a smaller table, entries are evicted although the ring is not full."""
ARENA_ENTRY_SHARE = 8
"""parts: No entry is larger than one part in this many of the ring, so that one entry cannot evict all others."""
ARENA_LOCK_SPINS = 128
"""attempts: A writer spins this often for a lock before it calls sched_yield. The work under a lock takes less than a
microsecond."""
ARENA_LOCK_YIELDS = 256
"""attempts: After spinning, a writer calls sched_yield this often, because the owner of the lock has probably lost its
CPU; then it sleeps."""
ARENA_LOCK_NAPS = 100
"""naps of 0.1 ms: After this many sleeps of 0.1 ms the entry is not stored, so that a stopped worker slows the others
down but does not block them."""
TABLE_READ_ATTEMPTS = 64
"""attempts: A reader that meets writers this often takes the lookup for a miss: a writer that died may have left its
mark forever."""
TABLE_LOAD_LOW = 66
"""percent: The table begins to split its groups one by one when this share of an undivided group is in use. Earlier
wastes memory; later makes searches longer."""
TABLE_LOAD_HIGH = 90
"""percent: The last group is split when this share of an undivided group is in use. Fuller groups evict entries
although others are empty."""
TABLE_SECOND_CHANCES = 32
"""entries: One insertion carries over at most this many recently used entries; then it evicts whatever is next. Fewer
evict popular entries; more make single insertions slow."""
FLUSH_OWNER_CHECK = 16
"""stores: While a flush is in progress, each process checks after this many stores whether the owner of the flush is
alive. The check costs system calls."""
TABLE_SWEEP = 2048
"""entries: Entries examined per hold of the arena's lock when the cache is copied out. More delays writers; fewer makes
the copy slower."""
FLUSH_GROUPS = 8
"""groups: Groups of 64 buckets (448 entries) that a flush examines before other work of the loop runs."""
CACHE_CLOCK_SLACK = 60
"""seconds: An entry stored further in the future than this was stored before the clock was set back, and counts as
expired. With 0, each small correction of the clock would empty the cache."""
SECOND_LEVEL_WAIT = Limit(
    10, 1, 200, "milliseconds",
    "A look-up in an engine of the same network takes less than a millisecond. Each query that the engine does not "
    "answer waits this long at most, so more would make misses slow."
)
SECOND_LEVEL_DATABASE = Limit(0, 0, 65_535, "number", "Redis has 16 databases unless configured otherwise.")
SECOND_LEVEL_NODES = 64
"""nodes: Configured nodes of a cluster. One that answers is enough, because it names the others."""
SECOND_LEVEL_SECRET = 32
"""bytes: Shortest secret of a second-level cache: as long as the key of the MAC (256 bits)."""
SECOND_LEVEL_SECRET_FILE = 4096
"""bytes: Longest file with a secret or a password. A longer one is another file by mistake."""
SECOND_LEVEL_ENTRY = 65_536
"""bytes: Longest entry that is written or read. Others who write to the engine could store 512 MB under a key."""
SECOND_LEVEL_SETS = 64
"""sets: RRsets of one entry. An alias chain and the proofs of a denial have fewer than twenty."""
SECOND_LEVEL_CLOCK_SKEW = 5
"""seconds: Entries and messages from further in the future are not used. Clocks kept by NTP differ by milliseconds; an
entry from a clock that is ahead lives longer by the difference."""
SECOND_LEVEL_IN_FLIGHT = 1024
"""look-ups: Look-ups in progress for each worker. Further queries do not ask the engine, so that a slow one holds no
more memory than this."""
SECOND_LEVEL_LOOK_UP_OCTETS = 4_000
"""bytes: Memory counted for each look-up in progress. What the engine answers, up to SECOND_LEVEL_ENTRY, is not held
for longer than it takes to read it."""
SECOND_LEVEL_WRITE_OCTETS = 500
"""bytes: Memory counted for each entry that waits to be written, besides its octets."""
SECOND_LEVEL_REPLY_LINES = 4
"""lines: A reply of the engine with more is an error: it is one string, and strings of the protocol have two lines. An
engine that others control could else keep the loop busy with the elements of an array."""
SECOND_LEVEL_CLUSTER_LINES = 50_000
"""lines: As SECOND_LEVEL_REPLY_LINES, for the reply in which a node describes its cluster. A range of slots with a
master and a replica has some 13, so 3,800 ranges fit; clusters have one for each master unless slots are spread."""
SECOND_LEVEL_CLUSTER_REPLY = 1 << 20
"""octets: Longest description of a cluster; a range of slots with a master and a replica has some 200."""
SECOND_LEVEL_CLUSTER_NODES = 256
"""nodes: Masters of a cluster. Each that is used has up to ten connections, so more would take the descriptors of
clients. Redis advises against more than 1,000 nodes with their replicas."""
SECOND_LEVEL_MAP_LIFE = 60
"""seconds: After this time a worker asks the configured nodes again which node serves which slots. A wrong
description has an effect until one of them answers then; a right one that is outdated is replaced at the first
redirection or failure."""
SECOND_LEVEL_MAP_INTERVAL = 1000
"""milliseconds: Shortest time between two attempts to replace a description that is in use. A node that redirects
every command would else cause one for each batch."""
SECOND_LEVEL_BATCHES = 8
"""batches: Look-ups that begin together are one batch on one connection. When this many batches are in progress, the
next look-ups wait for the end of one, and share a batch."""
SECOND_LEVEL_WRITES = 1024
"""entries: Entries that wait to be written for each worker. Further ones are dropped: others will learn them too."""
SECOND_LEVEL_WRITE_BATCH = 64
"""entries: Entries written in one batch. Larger ones delay look-ups on the engine's single thread."""
SECOND_LEVEL_TIMEOUT = 1000
"""milliseconds: A command that takes longer has failed and its connection is closed. No query waits for this long."""
SECOND_LEVEL_FAILURES = 5
"""batches: After this many failed or late batches in a row the circuit breaker opens. With 1, one lost packet would
turn the second level off for a second."""
SECOND_LEVEL_BACKOFF = 1000
"""milliseconds: First pause of an open circuit breaker. It doubles each time the breaker opens or a probe fails, until
a look-up succeeds in time."""
SECOND_LEVEL_MAX_BACKOFF = 30_000
"""milliseconds: Longest pause of an open circuit breaker; then a probe costs next to nothing."""
FLEET_POLL = 1000
"""milliseconds: Interval at which a worker asks the engine for new messages of the fleet. It is also the delay of a
flush."""
FLEET_MESSAGE = 2048
"""bytes: Longest message. A name as text has at most 1,020 characters."""
FLEET_MESSAGES = 1000
"""messages: The newest messages that a resolver reads when it starts. When there were more, it takes everything stored
before the oldest of them as flushed."""
FLEET_MESSAGE_LIFE = 604_800
"""seconds: Messages stay in the engine for as long as the highest TTL that may be configured, so that no entry outlives
the flush of its name."""
FLEET_MISSING_POLLS = 5
"""polls: A message is numbered before it is written. One that does not appear within this many polls was lost."""
FLEET_OUTBOX = 100
"""messages: Messages that wait for the engine. Further ones are refused, and the operator is told."""
FLEET_MEMBERS = 1024
"""members: Processes of the fleet whose last message number is known. The one unheard for longest is forgotten."""
FLUSH_MARKS = 1000
"""names: Flushed names whose entries in the engine are not used any more. With more, everything stored before the
newest flush counts as flushed."""
CACHE_STALE_TTL = Limit(
    30, 0, 300, "seconds",
    "RFC 8767 section 5.2 gives stale records a TTL of 30 seconds. With a longer one, clients keep outdated data after "
    "the servers are back."
)
SNAPSHOT_BLOCK = 1 << 20
"""bytes: A cache dump with a larger block is damaged. Twice the largest entry fits."""
PREFETCH_SHARE = 10
"""percent: An answer that is queried in this last part of its TTL is renewed, as in Unbound. A larger part costs more
upstream queries; a smaller one lets popular answers expire."""
PREFETCH_TTL = 10
"""seconds: Answers with shorter TTLs are not renewed early, because they would be renewed all the time."""
CACHE_ENTRY_RECORDS = 64
"""sets: Sets stored with one negative entry. A proof needs at most eight; more would let a zone fill the cache with one
name."""
DENIAL_RECORDS = 16_384
"""records: Verified NSEC and NSEC3 records are kept to answer for names not queried yet (RFC 8198). Each takes
some 1.5 KiB."""
DENIAL_RECORDS_PER_ZONE = 4096
"""records: One zone may have this many of the DENIAL_RECORDS, because anybody can sign a large zone."""
DENIAL_OCTETS = 32 << 20
"""bytes: Memory of verified NSEC and NSEC3 records with their signatures. A single record can have 64 KiB, so their
number is no bound."""
DENIAL_OVERHEAD = 1_500
"""bytes: Memory counted for each kept NSEC or NSEC3 record besides its octets, and for its zone."""
SERVER_ZONES_OCTETS = 8 << 20
"""bytes: Memory of what is known of zones at all servers. Names are long, and an attacker has many."""
SERVER_ZONE_OVERHEAD = 600
"""bytes: Memory counted for each zone at a server besides its name."""
SERVER_OCTETS = 1_000
"""bytes: Memory counted for the facts about one upstream address."""
EXPIRED_NSEC_SCAN = 4
"""records: Expired records removed while one interval is looked up. More makes single lookups slow; with none, expired
records stay until their memory is needed."""
SERVER_TIMEOUT_FIRST = 376
"""milliseconds: Timeout for an address that was never queried. Most servers answer within 100 ms; with a shorter
timeout distant ones are queried twice, with a longer one a dead one costs more time."""
SERVER_TIMEOUT_MINIMUM = 50
"""milliseconds: The timeout of a fast server does not fall below this, because it may be slow once."""
SERVER_TIMEOUT_STREAM = 1_000
"""milliseconds: Minimum timeout of a query over TCP, which needs a handshake as well."""
SERVER_TIMEOUT_MAXIMUM = 12_000
"""milliseconds: The doubling of timeouts (RFC 6298 section 5.5) stops here. From half of it on, an address counts as
dead for the zone."""
SERVER_TIMEOUT_SHARED = 1_000
"""milliseconds: Timeouts in a row of an address, whatever the zone, lengthen the timeout of each zone there to this at
most. Longer than most servers need that became slow; an attacker whose zones time out there can make lost packets of
others cost this time."""
SERVER_PROBE_INTERVAL = 60
"""seconds: A dead server is queried once per this time for each zone, so that its recovery is noticed. More often costs
queries the time of a timeout."""
ATTEMPT_TIME_SHARE = 50
"""percent: One attempt may use at most this share of the remaining query time while the zone has other servers."""
INFRA_TTL = 900
"""seconds: Facts about an address that was not queried for this long are forgotten. RFC 6298 section 5.7 requires that
after a while, because the path may have changed."""
SERVER_LAME = 900
"""seconds: A server counts as lame for a zone for this long. Servers are repaired, so it is queried again later."""
SERVER_ZONES = 256
"""zones: Zones kept for one address that time out there, or are lame. An attacker can delegate many zones to a server.
With fewer, one that many zones share would not stay dead for them when it is down."""
SERVER_EDNS_BROKEN = 3600
"""seconds: A server that fails with EDNS is queried without it for this long. Not longer, because validation is not
possible meanwhile, and servers are updated."""
SERVER_COOKIELESS = 3_600
"""seconds: A server that sent no DNS cookie gets queries without one for this long, so that they stay short."""
SERVER_TCP_ONLY = 300
"""seconds: An address whose replies have the wrong letter case, so that they may be forged, is queried over TCP for
this long."""

# --- client subnet ------------------------------------------------------------------------------------------------

SUBNET_IPV4 = Limit(
    24, 1, 32, "bits",
    "RFC 7871 section 11.1 recommends at most 24 bits. Longer prefixes tell servers which host has asked, and make "
    "more answers of each name."
)
SUBNET_IPV6 = Limit(
    56, 1, 128, "bits",
    "RFC 7871 section 11.1 recommends at most 56 bits. Longer prefixes tell servers which network of a site has asked."
)
SUBNET_CACHE_OCTETS = Limit(
    16 << 20, 64 << 10, 4 << 30, "bytes",
    "An answer for one subnet takes about a kilobyte as Python objects; 16 MiB hold some 16,000 of them."
)
SUBNETS_PER_NAME = Limit(
    100, 1, 10_000, "answers",
    "Unbound keeps 100 as well (max-ecs-tree-size-ipv4). With more, a server that answers with the longest scope fills "
    "the memory with one name."
)
SUBNET_RULES = 4096
"""entries: Servers, zones or trusted clients in one list of [client-subnet]. Each prefix length in a list costs one
look-up for an upstream query."""
SUBNET_CLIENTS = 4096
"""addresses: Client addresses whose subnet is kept, because reading an address costs more than the rest of the work."""
SUBNET_CLIENT_OCTETS = 600
"""bytes: Memory counted for each client address whose subnet is kept."""
SUBNET_ENTRY_OVERHEAD = 700
"""bytes: Memory counted for each answer for one subnet besides its records: the objects of reply, scope and index."""
SUBNET_MARKS = 65_536
"""questions: Questions of which is known that the answer depends on the subnet. A forgotten one is learned again from
its next answer, for which its queries wait together."""
SUBNET_MARK_OCTETS = 16 << 20
"""bytes: The same limit in memory, for long names."""
SUBNET_JOBS = 8
"""jobs: Queries of one name and type for different subnets that are resolved at the same time. Each more makes it
easier to guess the id and port of one of them (CVE-2025-5994). Clients of other subnets wait for one of these jobs. For
the same reason queries to servers are outstanding for this many subnets at most, when aliases lead to the name."""
SUBNET_RESTARTS = 4
"""times: A client that waited for the answer to another subnet, which is not for it, starts again this often. Then it
gets the answer that the server gives without a subnet, so that clients of many subnets cost no more work than that."""
SUBNET_FAILED = 60
"""seconds: After a failure for one subnet, its clients get the answer for clients without a subnet for so long. Each
retry with the subnet costs the attempts at all servers of the zone."""
SUBNET_ENTRY_OCTETS = 16 << 10
"""bytes: Largest answer for one subnet that is kept. Usual ones take about a kilobyte; a server that sends replies of
64 KiB would evict the answers of others with few of them."""
SERVER_SUBNETLESS = 3600
"""seconds: A server that fails with the client subnet option gets queries without it for so long, as one that does not
support EDNS."""

# --- iterate, resolve, mesh ---------------------------------------------------------------------------------------

MAX_REFERRALS = 64
"""referrals: Delegations followed for one name. Names below ip6.arpa need up to 34; attackers send endless chains
(CVE-2014-8500)."""
MAX_ALIASES = 12
"""names: CNAME and DNAME records followed for one answer. Unbound restarts 11 times, Knot Resolver 13 times; chains may
loop."""
NAME_SERVER_ALIASES = 2
"""names: CNAME and DNAME records followed for the address of a name server. RFC 2181 section 10.3 forbids any, and BIND
follows none; some zones have one. Long chains at each of many name servers multiply the queries (CAMP)."""
MAX_DEPTH = 10
"""sub-queries: Depth of nested sub-queries, which look up addresses of name servers or keys. Zones may depend on ever
more zones."""
SUB_QUERIES = 400
"""sub-queries: Sub-queries of one client query (NXNSAttack, CAMP). Each costs work even when it sends no packet."""
LOOK_UPS = 4000
"""look-ups: Cache lookups of one client query, those for the chain of trust included. Fewer fail long delegation
chains; without a bound one query could occupy a worker."""
COPY_STEP = 4096
"""bytes: A job that shares a large reply with others gets a copy, which counts as a step for each so many bytes."""
STEPS_PER_TURN = 100
"""steps: Steps of running queries made before the event loop runs other work. A step takes some 50 us."""
DELEGATION_OCTETS = 32 << 20
"""bytes: Memory of the delegations that are kept ready."""
VIEW_KEYS = 64
"""keys: TSIG keys that views name. Each has access tables of its own, which take the memory and the start-up time of
the usual ones."""
VIEW_PARTS = 16
"""views: Of those with forward zones, stub zones or negative trust anchors of their own. Each has a part of the cache
to itself, so the same name is resolved once for each. The tables beside the cache have a 16th of the usual limits in
each, so all views together double their memory at most."""
DELEGATION_OVERHEAD = 250
"""bytes: Memory counted for each address that a delegation may have, and for each of its names besides the name itself.
"""
PARENT_RECHECK_INTERVAL = 60
"""seconds: After a parent has named the same failing servers again it is not queried again for this long. Otherwise
each new name of the zone would cause a query."""
MAX_NAME_SERVERS = 13
"""names: Name servers of one zone that are used. The root has 13; NXNSAttack sends hundreds."""
MAX_ADDRESSES = 26
"""addresses: Addresses of one zone's servers that are used: 13 names in two families."""
ADDRESS_LOOKUPS = 5
"""names: Name servers whose addresses are looked up for one step of one query, in up to two families each
(NXNSAttack)."""
MISSING_ADDRESSES = 5
"""lookups: When this many name servers of one query turned out to have no address, no further ones are looked up
(NXNSAttack)."""
MISSING_ADDRESSES_IN_ALL = 10
"""lookups: As MISSING_ADDRESSES, for a client query with all its aliases and sub-queries (CAMP)."""
TRIES_PER_SERVER = 4
"""attempts: Attempts at one address for one query, each of up to FALLBACK_ATTEMPTS packets; the later ones without EDNS
if no reply with EDNS ever came. With one, a lost packet would exclude the server."""
LOCAL_ERROR_DELAY = 50
"""milliseconds: Delay before the next attempt when this host had no descriptor or buffer left for a query. At once, the
shortage would use up the attempts."""
TRIES_PER_CUT = 24
"""attempts: Attempts at the servers of one zone for one query, each of up to FALLBACK_ATTEMPTS packets (non-responsive
delegations, CVE-2022-3204)."""
FALLBACK_ATTEMPTS = 5
"""packets: One attempt at a server falls back from UDP to another cookie or none, to no EDNS, and to the name as given
or TCP. Then nothing is left to change; without a limit a server could require changes forever."""
FETCHES_PER_ZONE = Limit(
    1000, 0, 100_000, "fetches",
    "Random names of a zone whose servers are dead or slow fill the job slots otherwise (fetches-per-zone of BIND). "
    "With servers that answer in 100 ms, 1000 are 10,000 new names a second, more than one worker resolves."
)
FETCHES_PER_SERVER = Limit(
    1000, 0, 100_000, "queries",
    "Many zones may share a server, so this is as much as for a zone, which has several (fetches-per-server of BIND)."
)
FETCHES_ZONE_SHARE = 1
"""percent: A zone may have this part of the full quota of a server outstanding there, whatever others have. Anyone can
delegate zones to a server that does not serve them; if it ignores such queries, they use up its quota. Ten queries are
500 new names a second where a reply takes 20 ms. More would let many zones of a dead server cost more."""
FETCH_SAMPLE = 100
"""queries: After so many queries to a server its quota is adjusted, as in BIND. With fewer, chance decides."""
FETCH_TIMEOUTS_LOW = 10
"""percent: The quota of a server rises while fewer of its queries time out (fetch-quota-params of BIND)."""
FETCH_TIMEOUTS_HIGH = 30
"""percent: The quota of a server falls while more of its queries time out (fetch-quota-params of BIND)."""
FETCH_NEW_WEIGHT = 70
"""percent: Weight of the newest sample in the average of timeouts (fetch-quota-params of BIND)."""
FETCH_QUOTA_STEP = 80
"""percent: A quota falls to this part of itself at each sample, and rises by as much. A dead server has lost most of
its quota after 1000 timeouts."""
FETCH_QUOTA_LEAST = 10
"""percent: The quota of a server does not fall below this part, so that its recovery is noticed, and a server that is
slow at times still gets queries."""
EDNS_GIVE_UP = 2
"""timeouts: After this many timeouts with EDNS, a server that never replied with EDNS is queried without it. One
timeout is more often a lost packet."""
RTT_BAND = 50
"""milliseconds: Servers that are slower than the fastest by at most this are chosen as well, so that an off-path
attacker does not know which one is queried. A wider band makes answers slower."""
UNKNOWN_SERVER_RTT = 100
"""milliseconds: Round-trip time assumed for an address never queried, so that it is tried before servers known to be
slower."""
EXPLORE_RATE = 16
"""queries: One query in this many goes to any server of the zone, so that one that became faster is noticed. More often
costs time."""
FAMILY_REFERENCE_ADDRESSES = 32
"""addresses: The host counts as without IPv4 or IPv6 when the kernel has no route to any of the configured addresses of
that family; this many of them are tried."""
FAMILY_PAUSE = 60
"""seconds: Addresses of a family without a route are tried last for this long. Not longer, because routes come back."""
TIMEOUT_WAITED = 90
"""percent: A query that shares the packet of another takes a timeout of it after this part of its own timeout. Not the
whole, because equal queries start some milliseconds after each other, and timers have slots."""
SHARED_WAIT = 2
"""times: A query to a server joins an equal one in flight that ends within this many times its own timeout. With less,
more equal packets are in flight, which helps who forges replies; with more, a query waits longer for a dead server."""
MINIMISE_STEPS = 10
"""queries: MAX_MINIMISE_COUNT of RFC 9156 section 2.3."""
MINIMISE_ONE_LABEL = 4
"""queries: MINIMISE_ONE_LAB of RFC 9156 section 2.3: the first steps add one label each."""
EMPTY_REPLY_TTL = 5
"""seconds: RFC 2308 section 5 forbids caching a negative answer without SOA. A few seconds limit the repeated queries
of clients that retry at once."""
BUDGET_VERIFICATIONS = 64
"""checks: Signature checks of one client query (KeyTrap, CVE-2023-50387)."""
BUDGET_HASHES = 10_000
"""blocks: Blocks of 64 octets hashed for one client query for NSEC3 and DS; each takes some 0.6 us (CVE-2023-50868)."""
ALIAS_PROBES = 16
"""names: Ancestors of a name that are looked up in the cache for a DNAME. A name may have 127 labels, and few zones are
so deep."""
MESH_RETRY = 1000
"""milliseconds: Timers whose processing raised an exception are processed again after this time. Sooner would fill the
log."""
DEADLINE_SLOT = 10
"""milliseconds: Width of one slot of the wheel in which query deadlines are kept. Finer slots cost more timers."""
JOBS = 20_000
"""jobs: Queries resolved at the same time, sub-queries included. More are refused, because each holds some KiB."""
JOB_OVERHEAD = 12_000
"""bytes: Memory counted for each question being resolved, besides what it has received."""
JOBS_OCTETS = 128 << 20
"""bytes: Memory of what was received for all questions being resolved. One reply may take 1.3 MiB, and one query a
dozen of them."""
JOBS_OCTETS_KEPT = 90
"""percent: When JOBS_OCTETS is exceeded, the queries that hold most are ended until this share of it is left. Closer to
100, each reply would end another query."""
FAILED_OVERHEAD = 1_500
"""bytes: Memory counted for each failed sub-query, with its text, that a client query remembers."""
NETWORK_SHARE_TOTAL = 80
"""percent: One client network may hold this share of the sum of its own and the free job slots, sub-queries included.
The rest is for other networks."""
NETWORK_SHARE_NEW = 60
"""percent: New queries of a network are accepted up to this share; the difference to NETWORK_SHARE_TOTAL is for the
sub-queries of those accepted."""
JOBS_FOR_NEW_QUERIES = 90
"""percent: New queries are accepted while fewer than this share of the job slots is in use. The rest is for sub-queries
of those accepted."""
JOSTLE = 200
"""milliseconds: A query that ran for this long may be ended for a new one (jostle-timeout of Unbound). Less ends
queries that most servers would have answered."""
JOSTLE_SCAN = 8
"""queries: Old queries examined when no job slot is free for a new one. More makes refusing a query expensive."""
FULL_TIME = 50
"""percent: When a query that began with less than this share of the query timeout runs out of time, the failure is not
cached: other clients have more. With 100, none would be cached where hooks are asked before, because the time that they
take is charged to the query."""
PREFETCH_JOBS = 64
"""questions: Answers renewed early at the same time. More would take job slots from waiting clients."""
PREFETCH_RATE = 200
"""questions a second: Answers renewed early per second. A cache that was filled in one burst must not be renewed in
one."""
DELEGATIONS = 4096
"""zones: Delegations with their servers that a worker keeps ready, so that they need not be made from the cache for
each query."""

# --- validate -----------------------------------------------------------------------------------------------------

RSA_MODULUS_MIN = 64
"""bytes: RFC 5702 section 2.1: RSA keys have at least 512 bits."""
RSA_MODULUS_MAX = 512
"""bytes: RFC 5702 section 2.1: RSA keys have at most 4096 bits. Longer ones only cost time."""
VERIFY_KEYS = 4_096
"""keys: Loaded public keys kept. Loading one costs a third of a P-256 check."""
VERIFY_KEY_OCTETS = 4_000
"""bytes: Memory counted for each loaded key. The longest, RSA with 4096 bits, takes some 3700 bytes."""
PARSED_KEY_SETS = 4_096
"""zones: Parsed DNSKEY sets kept, one for each zone. With fewer, keys are parsed and matched again for each answer."""
PARSED_KEY_OCTETS = 16 << 20
"""bytes: Memory of parsed DNSKEY sets. A crafted set takes four times its 64 KiB."""
PARSED_KEY_OVERHEAD = 900
"""bytes: Memory counted for each parsed key besides its octets."""
KNOWN_SIGNATURES = 16_384
"""signatures: Verified signatures of SOA, NSEC and NSEC3 sets that are remembered: the same sets come again with other
denials."""
KNOWN_SIGNATURE_OCTETS = 250
"""bytes: Memory counted for each remembered signature, which is a digest of 32 octets."""
KEYS_PER_TAG = 2
"""keys: Keys of the same tag and algorithm tried for one signature (KeyTrap, CVE-2023-50387)."""
CHECKS_PER_RRSET = 8
"""checks: Signature checks for one RRset (KeyTrap, CVE-2023-50387)."""
SIGNATURES_PER_RRSET = 16
"""signatures: RRSIG records of one set that are parsed. A rollover of keys and algorithms needs four; more cost time
(KeyTrap)."""
SIGNERS_PER_RRSET = 2
"""zones: Different signers of one set whose keys are fetched. Each may cost a walk from the trust anchor."""
DS_MISMATCHES = 4
"""keys: With more keys whose tag matches a DS record but whose digest does not, the zone is bogus (KeyTrap,
CVE-2023-50387)."""
DENIAL_RRSETS = 16
"""records: In a reply with more NSEC and NSEC3 records none of them is examined, because each costs signature checks
(KeyTrap). A proof needs at most eight."""
COOKIE_PERIOD = 86_400
"""seconds: Time for which one secret makes server cookies. RFC 7873 section 7.1 wants a new one within 36 days."""
SIGNATURE_SKEW_MIN = Limit(
    0, 0, 604_800, "seconds",
    "RFC 4035 section 5.3.1 tolerates no difference between clocks, which is the default. A tolerance accepts "
    "signatures that have expired."
)
SIGNATURE_SKEW_MAX = Limit(
    0, 0, 2_592_000, "seconds",
    "A tenth of the validity of a signature is tolerated, up to this. RFC 4035 section 5.3.1 tolerates nothing, which "
    "is the default."
)
SKEWED_TTL = 60
"""seconds: Data whose signature has expired within the tolerated difference of clocks is kept for this long at most."""
CLOCK_EARLIEST = 1_767_225_600
"""seconds: 2026-01-01 in seconds since 1970. A clock that shows an earlier time than that of this release is wrong."""
CLOCK_LATEST = 4_102_444_800
"""seconds: 2100-01-01 in seconds since 1970. A clock that shows a later time is taken to be wrong."""
ANCHOR_FILE = 48 << 10
"""bytes: A trust anchor file is not larger than this, because it is sent between workers in one message."""
AUTOTRUST_PROBE_TIMEOUT = 120
"""seconds: A probe for new trust anchors (RFC 5011) that has no result after this time is started again."""
AUTOTRUST_TIMER_MAX = 3_600
"""seconds: The timer of RFC 5011 probes runs for at most this long, because the clock may be set meanwhile."""
AUTOTRUST_INTERVAL_MIN = 3600
"""seconds: RFC 5011 section 2.3: neither the query interval nor the retry interval is shorter than an hour."""
AUTOTRUST_RETRY_MAX = 86_400
"""seconds: RFC 5011 section 2.3: after a failed probe the next one follows within a day."""
AUTOTRUST_INTERVAL_MAX = 1_296_000
"""seconds: RFC 5011 section 2.3: the query interval is at most 15 days."""
ADD_HOLD_DOWN = Limit(
    2_592_000, 1, 31_622_400, "seconds",
    "RFC 5011 section 2.4.1: a new key is trusted after 30 days. With less time, an attacker with a stolen key can add "
    "another before the theft is noticed."
)
REMOVE_HOLD_DOWN = Limit(
    2_592_000, 1, 31_622_400, "seconds", "RFC 5011 section 2.4.2: a revoked key is removed after 30 days."
)
MISSING_HOLD_DOWN = Limit(
    31_622_400, 0, 315_576_000, "seconds",
    "A trusted key that is no longer published is removed after 366 days, as in Unbound; 0 keeps it forever."
)
MANAGED_KEYS = 16
"""keys: Trusted and pending keys of one zone, and as many revoked and removed ones that are remembered."""
AUTOTRUST_CHECKS = 16
"""checks: Signature checks for one RFC 5011 probe (KeyTrap, CVE-2023-50387)."""
AUTOTRUST_HASHES = 1_000_000
"""blocks: Blocks of 64 octets hashed for one RFC 5011 probe. No client pays for it, and the keys of a zone fit into 64
KiB."""
AUTOTRUST_MIN_PROBES = 2
"""probes: A new key must be in this many further probes, so that a jump of the clock alone cannot end the hold-down
time."""
NSEC3_ITERATIONS = Limit(
    50, 0, 500, "iterations",
    "Zones with more iterations count as insecure (RFC 9276 section 3.2). More cost time for each name "
    "(CVE-2023-50868)."
)
NSEC3_HASHES = 40
"""hashes: Names hashed for one reply (CVE-2023-50868). The proof of a closest encloser needs one for each label of the
name."""
NSEC3_HASHES_AHEAD = 8
"""hashes: Names hashed to answer from cached NSEC3 records; if more are needed, the servers are queried
(CVE-2023-50868)."""
NSEC3_SALT = 64
"""bytes: Longer salts make each hash cost a second block (CVE-2023-50868)."""

# --- policy -------------------------------------------------------------------------------------------------------

LOCAL_TTL = 3600
"""seconds: TTL of local data that has none. Settings may change at any time, and clients keep the old data for this
long."""
LOCAL_NEGATIVE_TTL = 10_800
"""seconds: RFC 6303 section 3: negative TTL in the SOA of the built-in empty zones."""
CHAOS_TEXT = 255
"""bytes: RFC 1035 section 3.3: the length of one character string."""
NSID_SIZE = Limit(
    0, 0, 255, "bytes",
    "The name server identifier is in every reply that asks for it (RFC 5001 section 3.1), so that a long one would "
    "amplify."
)
LIST_NAMES = Limit(
    5_000_000, 1, 50_000_000, "names",
    "A block list, or a response policy zone, may come from another party. The largest public lists have some two"
    " million names; each takes about 30 bytes."
)
LIST_TABLE_BYTES = Limit(
    256 << 20, 1 << 10, 4095 << 20, "bytes",
    "Memory of the compiled names of one configuration. Offsets in a table have 32 bits."
)
LIST_BYTES = Limit(
    256 << 20, 1 << 10, 2 << 30, "bytes",
    "Size of one list or policy zone as text. The largest public lists have some 60 MB."
)
LIST_LINE = 4096
"""bytes: Longer lines of a list are wrong. A name has at most 1,004 characters with escapes; some adblock rules are
longer."""
LISTS = 32
"""lists: Block lists and response policy zones of one configuration. Each is looked up for each query that is not
answered by the fast path."""
LIST_INTERVAL = Limit(
    86_400, 60, 30 * 86_400, "seconds",
    "Lists are renewed daily to hourly; a server of lists refuses clients that ask more often."
)
LIST_RETRY = 60
"""seconds: A list that could not be fetched is tried again after this time, then after twice the time before, up to
its interval."""
LIST_JITTER_PERCENT = 10
"""percent: Fetches are this much earlier, drawn at random, so that many resolvers do not ask a server at once."""
LIST_FETCH_TIMEOUT = 600
"""seconds: Time for one fetch of a list, with its body."""
LIST_CHECK_INTERVAL = 10
"""seconds: How often each worker looks whether the files of its lists have changed."""
LIST_TAG = 256
"""bytes: An ETag longer than this is not sent back; the list is fetched whole."""
LIST_ANSWER_TTL = 60
"""seconds: TTL of answers that a block list makes. Clients keep them for this long when a name is removed from it."""
LIST_SAMPLE = 65_536
"""bytes: The beginning of a list by which its format is detected."""
LIST_ERRORS_PERCENT = 10
"""percent: A list with more wrong lines, compared with all its entries, is refused: it is another format, or the error
page of a web server."""
LIST_ERRORS = 20
"""errors: Problems of one list or policy zone that are kept to be shown; all are counted. The file may come from
another party and may be wrong in each line."""
RPZ_RULES = 65_535
"""rules: Different actions of one response policy zone, equal local data counted once. A name table holds numbers of 16
bits."""
RPZ_OTHER_LINES = 500_000
"""lines: Of one response policy zone, those that are no plain CNAME record. Each takes some 750 bytes while the zone is
read, and 50 us, so a text of 256 MB without this limit takes 13 GB. Names without local data are not counted."""
RPZ_LINE = 65_536
"""bytes: A longer line of a response policy zone is an error. A record has at most 65,535 octets."""
RPZ_RULE_OVERHEAD = 1_000
"""bytes: Memory counted for each of the RPZ_RULES with local data, for each of its record sets and records, besides
their octets."""
RPZ_PREFIX_OCTETS = 600
"""bytes: Memory counted for each of the RPZ_PREFIXES."""
RPZ_PREFIXES = 1_000_000
"""prefixes: Address triggers of one kind in one response policy zone. Each takes some 300 bytes of memory."""
RPZ_TTL = 60
"""seconds: TTL of denials by a response policy zone without SOA, and of the CNAME of an override."""
BALANCES = 64
"""names: Balanced names of one configuration. Each target of each is checked by each worker."""
BALANCE_TARGETS = 32
"""addresses: Targets of one balanced name. All may be in one answer, which shall fit into a UDP reply."""
BALANCE_PREFIXES = 256
"""prefixes: Client networks of one target. They are compared one by one for each query for the name."""
BALANCE_WEIGHT = Limit(
    1, 1, 1000, "shares", "A share of the clients finer than one in a thousand cannot be seen in their queries."
)
BALANCE_MOST = Limit(
    0, 0, 32, "addresses", "0 gives all. Clients use the first address and need another one only when that fails."
)
BALANCE_TTL = Limit(
    30, 0, 3600, "seconds",
    "A client keeps an address for this long after its target has failed. A short time costs queries."
)
BALANCE_INTERVAL = Limit(
    10_000, 1000, 3_600_000, "milliseconds", "Each worker checks each target this often, and a target must bear it."
)
BALANCE_TIMEOUT = Limit(
    2000, 100, 60_000, "milliseconds", "A target that answers later counts as down: its clients would wait, too."
)
BALANCE_RISE = Limit(2, 1, 100, "checks", "One success may be chance while a target is starting.")
BALANCE_FALL = Limit(3, 1, 100, "checks", "One failure may be a lost packet.")
BALANCE_JITTER_PERCENT = 10
"""percent: Checks are this much earlier, drawn at random, so that workers do not check a target at the same moment."""
BALANCE_PROBES = 256
"""checks: Of one worker in progress at the same time. Each has a descriptor. Up to as many targets never wait for each
other, whether they answer or not; health reports checks that begin late."""
BALANCE_PROBE_OCTETS = 65_536
"""bytes: A longer body of the reply to an HTTP check is a failure. The page of a check has some bytes."""
DNS64_PREFIXES = 8
"""prefixes: Of DNS64 in one view. An answer has an AAAA record for each A record and prefix, and some A sets have
hundreds of records."""
DNS64_TTL = 600
"""seconds: RFC 6147 section 5.1.7: TTL of a synthesised AAAA record when the negative answer has no SOA."""

# --- zones --------------------------------------------------------------------------------------------------------

ZONES = 1000
"""zones: Each has timers and a file of its own, and is listed by resolverctl."""
ZONE_RECORDS = 1_000_000
"""records: Content of one zone, from a file or a transfer; a name that exists only because of names below it counts as
a record. The root zone has 25,000. A primary that is compromised could send records for ever."""
ZONE_OCTETS = 268_435_456
"""bytes: Packed content of one zone, and its names without records, for the same reason. The root zone has 2 MB."""
ZONE_RDATA = 64_000
"""bytes: Longest record of a zone. A message of 65,535 bytes has room for it besides header, question, owner and TSIG
record, so each zone here can be transferred from here."""
ZONE_TYPES = 256
"""sets: Of one name in a zone, where the signatures of each type are a set of their own. Each query for the name looks
through them (CVE-2024-1737; BIND: max-types-per-name, 100). Names in use have some ten."""
ZONE_INCLUDES = 16
"""files: Depth of $INCLUDE in a zone file. A file that includes itself would use up all descriptors."""
ZONE_TTL = 2_147_483_647
"""seconds: Largest TTL (RFC 2181 section 8); a zone file may have more."""

TSIG_SECRET = 16
"""bytes: Shortest secret of a TSIG key. RFC 8945 section 8 wants as many as the digest has; 16 cannot be guessed."""
TSIG_FUDGE = 300
"""seconds: Difference of clocks that a signed message may have (RFC 8945 section 10)."""
SIGNED_QUERY_RECORDS = 16
"""records: Of a client query with a TSIG record. It needs OPT and TSIG; one with more is a format error, because it
would be parsed before its signature is known."""
TSIG_UNSIGNED = 99
"""messages: Unsigned messages in a row within a signed transfer (RFC 8945 section 5.3.1)."""
ZONE_REFRESH_MIN = Limit(
    60, 1, 86_400, "seconds",
    "A zone could make its secondaries query the primary in a loop. Most zones refresh after an hour or later."
)
ZONE_REFRESH_MAX = 2_419_200
"""seconds: Upper limit of REFRESH and RETRY (BIND: max-refresh-time, four weeks)."""
ZONE_EXPIRE_MAX = 14_515_200
"""seconds: Upper limit of EXPIRE: 24 weeks, as in BIND."""
ZONE_BACKOFF = 6
"""doublings: Failures in a row that double the time to the next attempt, never above REFRESH."""
ZONE_JITTER = 10
"""percent: Part of a refresh or retry time that is random, so that secondaries do not query together."""
ZONE_NOTIFY_INTERVAL = 1_000
"""milliseconds: NOTIFY messages of one zone within this time start one SOA query: they are easily forged."""
ZONE_REQUEST_RECORDS = 16
"""records: Of a NOTIFY or transfer query. It needs SOA, OPT and TSIG; a message of 64 KiB with 4,000 records would take
20 ms to parse."""
ZONE_QUERY_TIMEOUT = 5_000
"""milliseconds: Time for the reply to a SOA query, and to connect for a transfer."""
ZONE_IDLE_TIMEOUT = 30_000
"""milliseconds: Time between two messages of a transfer; a primary that is slower is left."""
ZONE_TRANSFER_TIMEOUT = 1_800_000
"""milliseconds: Time for a whole transfer. A primary could send a record every 29 seconds, and a secondary read as
slowly."""
ZONE_NOTIFY_ATTEMPTS = 4
"""messages: NOTIFY to one secondary, with twice the time between two of them each time. RFC 1996 section 3.6 proposes
five; a secondary refreshes anyway."""
ZONE_HISTORY = 100_000
"""records: Differences of one zone that are kept in memory for IXFR to secondaries. Clients with older versions get the
whole zone."""
ZONE_HISTORY_OCTETS = 64 << 20
"""bytes: The same limit in memory: ZONE_HISTORY records of ZONE_RDATA would take 6.4 GB, and a primary decides about
their size."""
ZONE_FREED = 1000
"""records: Of a difference that are freed in one step, for which the loop waits. It takes a tenth of a millisecond."""
ZONE_RECORD_OVERHEAD = 400
"""bytes: Memory counted for each record of a zone or of a difference, besides its owner and data."""
ZONE_TRANSFER_RECORD = 1_500
"""bytes: Memory counted for each record of a transfer in progress, twice its owner and data besides: the zone is made
of the records while they are held."""
ZONE_WARNINGS = 20
"""lines: Warnings about the content of one zone when it is loaded."""
ZONE_TRANSFERS = 4
"""transfers: At the same time, of all zones. Others wait."""
ZONE_TRANSFERS_EACH = 2
"""transfers: At the same time from one primary, so that one that sends for `ZONE_TRANSFER_TIMEOUT` leaves room for the
others (BIND: transfers-per-ns)."""
ZONE_MESSAGES = 1_000_000
"""messages: Of one transfer. A message may have a single record."""
ZONE_EMPTY_MESSAGES = 100
"""messages: Without records, of one transfer. No server sends them; they only take time."""
ZONE_TRANSFERS_OUT = 16
"""transfers: To secondaries at the same time, of one worker. Each keeps the version that it sends in memory until its
end. Further ones get SERVFAIL, and secondaries repeat their query (BIND: transfers-out, 10)."""
ZONE_TRANSFERS_OUT_EACH = 8
"""transfers: The same for one address, so that one secondary leaves room for the others."""
ZONE_JOURNAL_SHARE = 50
"""percent: Octets of differences in a zone's file, of the octets of its content, at which the file is written anew."""
ZONE_LOOP_RECORDS = 256
"""records: Of a message of a transfer that is read in the event loop, which takes 0.3 ms. One of 64 KiB may have 4,000,
and is read in a thread."""
ZONE_SLOW_AFTER = 60_000
"""milliseconds: Time of a transfer, after which it must have had `ZONE_LEAST_RATE`, else it is ended when another one
waits. Two primaries together could hold all of `ZONE_TRANSFERS` with a record every 29 seconds."""
ZONE_LEAST_RATE = 65_536
"""bytes per second: As above. With 0.5 Mbit/s a zone of 100 MB takes `ZONE_TRANSFER_TIMEOUT`."""
ZONE_LONG_AFTER = 300_000
"""milliseconds: When all `ZONE_TRANSFERS` have run for this long and another one waits, the youngest is ended, although
it is fast enough. Two primaries with `ZONE_LEAST_RATE` could hold all of them for `ZONE_TRANSFER_TIMEOUT`. With
10 Mbit/s the largest zone takes less."""
ZONE_SORT = 4_096
"""names: Sorted in one call, which other threads wait for: 2 to 5 ms."""
ZONE_WRITE_RETRY = 30_000
"""milliseconds: Time until a copy that could not be written is written again. A full disk stays full for longer; each
attempt writes the whole zone."""
ZONE_FILE_OCTETS = 1_073_741_824
"""bytes: Largest file of a zone that is read: content at its limit, with the headers of its records and differences."""

# --- net ----------------------------------------------------------------------------------------------------------

MEMORY_RESERVE = 4 << 20
"""bytes: When the system gives no memory, this is freed so that queries in progress can end; new ones are refused."""
MEMORY_RESERVE_BLOCK = 32 << 10
"""bytes: The reserve is held in blocks of this size. They must be small enough to be allocated where others were freed,
without mmap."""
MEMORY_RESERVE_ENOUGH = 25
"""percent: New queries are accepted again when this share of the reserve could be allocated again; half of that is left
to them."""
MEMORY_RESERVE_RETRY = 100
"""milliseconds: Time between attempts to allocate the reserve again. An attempt takes all memory there is for a moment.
"""
DESCRIPTORS = 1 << 20
"""descriptors: Descriptors that are assumed where the system sets no limit."""
DESCRIPTORS_LEAST = 12
"""descriptors: With a lower limit the daemon does not start: one worker needs these for its streams, its loop and the
sockets of one address. A check at the start says so; otherwise the start fails at a place that the limit decides."""
DESCRIPTORS_RESERVE = 64
"""descriptors: Descriptors kept for files, listeners and management sockets. The others are shared by upstream queries
and client connections."""
UDP_SOCKETS = 4096
"""sockets: Sockets of one address family, each with one query on a port of its own. Further queries wait."""
UDP_SOCKETS_KEPT = 256
"""sockets: Sockets kept open between queries. A new socket costs five times as much as one that is reused."""
UDP_WAITING = 10_000
"""queries: Queries that wait for one of the UDP_SOCKETS. Further ones fail at once, because they would run into their
timeout."""
UDP_WAITING_SHARE = 75
"""percent: The servers of one network may have this share of the sum of their own and the free slots of UDP_WAITING."""
UDP_SOCKET_IDLE = 5000
"""milliseconds: A socket that was not needed for this long is closed, so that the sockets of a burst do not stay open.
"""
UDP_DRAIN_PACKETS = 64
"""packets: Late packets drained from a socket before it is reused. A socket with more is closed."""
UDP_PORTS = 32
"""sockets: Ports of the pool for one address family that is used with iteration.source-port-per-query off. An off-path
attacker must guess the port, the id and the letter case."""
UDP_PORT_USES = 256
"""queries: A port of the pool is replaced after this many queries, before it can be found by probing."""
UDP_PORT_AGE = 30
"""seconds: A port of the pool is replaced after this time: SAD DNS needs a port that stays open (CVE-2020-25705)."""
UDP_PORT_LOWEST = 1024
"""port: Lowest port of outgoing queries. All ports above are used, because a smaller range is easier to guess."""
UDP_BIND_TRIES = 16
"""draws: Random ports tried when ports are taken, before the query fails."""
UDP_PORT_PENDING = 512
"""queries: Queries outstanding on one pooled port. With more, a forged reply is more likely to match one of the 65,536
ids."""
UNWANTED_REPLY_THRESHOLD = 12
"""packets: After this many packets from its server that match no query, a query is sent again over TCP (Kaminsky 2008).
Late replies count as well, so that a lower number would send many queries to TCP."""
UDP_RECEIVE = 4096
"""bytes: The longest reply accepted over UDP. For a longer one, the query is sent again over TCP."""
UDP_BATCH = 16
"""packets: Replies read by one system call. More take more memory."""
UDP_ROUNDS = 4
"""batches: Full batches read from one port before other work of the loop runs."""
UDP_ERRORS = 64
"""errors: ICMP errors read from one port before other work of the loop runs. Any host can forge them."""
UPSTREAM_ADDRESSES = 8192
"""addresses: Parsed server addresses that are kept. The table is emptied when full, so that an attacker who names many
costs no memory."""
UPSTREAM_ADDRESS_OCTETS = 600
"""bytes: Memory counted for each of the UPSTREAM_ADDRESSES, in each of the tables that hold so many."""
UPSTREAM_QUERY_OCTETS = 4_000
"""bytes: Memory counted for each query to a server that is in flight, or waits for a socket or a connection: its
packet, timer and socket, and a wait queue of its own for its server."""
UPSTREAM_SOCKET_OCTETS = 2_000
"""bytes: Memory counted for each open UDP socket."""
UPSTREAM_STREAM_OCTETS = 512 << 10
"""bytes: Most that one outgoing connection over TCP or TLS holds: CONNECTION_OVERHEAD or TLS_OVERHEAD, an incomplete
message, what was read last, and queries that are not sent yet."""
UPSTREAM_MULTIPLEXED_OCTETS = 16 << 20
"""bytes: Most that one outgoing connection over HTTPS or QUIC holds. Each of STREAM_UPSTREAM_PIPELINE replies may be
incomplete, and grow in a buffer that has room for twice as much."""
UPSTREAM_NETWORKS = 4096
"""networks: Networks of servers that replied last. When slots are scarce, all other networks have one share together,
because an attacker can name any number."""
UPSTREAM_NETWORK_OCTETS = 300
"""bytes: Memory counted for each of the UPSTREAM_NETWORKS."""
STREAM_UPSTREAMS = 256
"""connections: Outgoing TCP connections. Each is a descriptor; further queries wait for one."""
STREAM_UPSTREAMS_PER_SERVER = 3
"""connections: Outgoing TCP connections to one server (RFC 7766 section 6.2.2)."""
STREAM_UPSTREAM_PIPELINE = 64
"""queries: Queries outstanding on one outgoing connection (RFC 7766 section 6.2.1.1)."""
STREAM_UPSTREAM_WAITING = 256
"""queries: Queries that wait for a connection to one server. For a further one the newest of the zone with the most
fails, if that zone still has as many as the other afterwards; else that one itself."""
STREAM_UPSTREAM_UNRESPONSIVE = 500
"""milliseconds: When all connections are in use, one whose server sent nothing for this long may be closed for another.
"""
STREAM_UPSTREAM_EXEMPT = 25
"""percent: Share of STREAM_UPSTREAMS that is exempt from STREAM_UPSTREAM_UNRESPONSIVE: second connections to servers
whose first one was closed by it, because such a server may only be slow."""
UNWANTED_ON_STREAM = 100
"""messages: After this many messages that match no query, without a reply in between, an outgoing connection is closed.
"""
STREAM_UPSTREAM_IDLE = 5
"""seconds: An unused outgoing connection is closed after this time (RFC 7766 section 6.2.3)."""
TLS_UPSTREAMS = 64
"""connections: Outgoing connections over TLS to servers of the configuration, and as many over HTTPS; and as many to
authoritative servers (`iteration.opportunistic-encryption`)."""
TLS_UPSTREAM_SHARE = 25
"""percent: Share of the slots for outgoing TCP connections that TLS takes when it is first used, and HTTPS likewise, so
that the sum of descriptors stays the same."""
HTTPS_UPSTREAMS_PER_SERVER = 6
"""connections: Outgoing connections to one server over HTTPS. With HTTP/1.1 each carries one query at a time; with
HTTP/2 the first one carries all of them as a rule."""
TLS_UPSTREAM_SPREAD = 16
"""queries: With so many outstanding on each connection over TLS to a server, another one is opened. Below it, a
handshake costs more than a lost segment."""
TLS_UPSTREAM_IDLE = 10
"""seconds: An unused connection over TLS or HTTPS is closed after this time when the server names none (RFC 7858
section 3.4). It is longer than STREAM_UPSTREAM_IDLE, because a handshake costs more."""
TLS_UPSTREAM_IDLE_MAX = 120
"""seconds: A longer idle timeout of a server is not used (RFC 7828), because middleboxes forget idle connections."""
TLS_UPSTREAM_HANDSHAKE = 12
"""seconds: A handshake is ended after this time at the latest, as is the wait for a reply (SERVER_TIMEOUT_MAXIMUM)."""
TLS_UPSTREAM_SHUTDOWN = 2
"""seconds: A server that does not answer close_notify within this time loses the connection."""
TLS_UPSTREAM_WARNINGS = 8
"""log lines: Different reasons why servers were refused that are logged per interval, such as one for each server."""
QUERY_PADDING_BLOCK = 128
"""bytes: Encrypted queries are padded to a multiple of this (RFC 8467 section 4.1), so that their size does not reveal
the qname."""
DOH_REPLY_HEAD = 16_384
"""bytes: Head of an HTTP response with a DNS message. Real ones have some hundred bytes."""
STORED_QUERY_OCTETS = 512
"""bytes: A waiting client query up to this size is stored as it came. Of a longer one only what the answer needs is
stored, so that padded queries do not fill memory."""
PENDING_QUERIES = Limit(
    5000, 16, 1_000_000, "queries", "Client queries that wait for an answer, in all. Each holds some KiB."
)
PENDING_QUERY_OCTETS = 4_000
"""bytes: Memory counted for each waiting client query: the message of STORED_QUERY_OCTETS, its client, and its places
in the tables of clients and networks."""
PENDING_PER_CLIENT = Limit(
    1000, 1, 1_000_000, "queries", "Client queries of one address that wait for an answer (DNSBomb, CVE-2024-33655)."
)
PENDING_NETWORK_SHARE = Limit(
    80, 1, 100, "percent",
    "A client network may use this share of its own and the free places for waiting queries, because it has many "
    "addresses (CVE-2026-42534)."
)
RATE_PER_SECOND = Limit(
    0, 0, 1_000_000, "a second",
    "Off, because the right rate depends on the clients. More than a million in one worker cannot be exceeded."
)
RATE_OF_KIND = Limit(-1, -1, 1_000_000, "a second", "As RATE_PER_SECOND; -1 takes the rate of all other replies.")
RATE_SLIP = Limit(
    2, 0, 10, "replies",
    "One in two, as in BIND and NSD, gets a client through whose address is forged, and makes no reply larger than its "
    "query. Above 10 such a client waits for too long."
)
RATE_WINDOW = Limit(
    15, 1, 3600, "seconds",
    "BIND's value. A shorter window lets a flood through that pauses; a longer one punishes an address for long."
)
RATE_PREFIX4 = Limit(24, 8, 32, "bits", "Attackers forge all addresses of a network. Networks of sites are /24.")
RATE_PREFIX6 = Limit(56, 16, 128, "bits", "A customer has a /56 or more (RFC 6177).")
RATE_ENTRIES = Limit(
    65_536, 1024, 16_777_216, "counters",
    "Each of 16 bytes. With fewer than there are limited prefixes and names at a time, some get their full rate again."
)
RATE_ENTRY_OCTETS = 16
"""bytes: Memory of one counter of rate limits. All are allocated when the daemon starts."""
RATE_EVENTS = 16
"""prefixes: Prefixes that newly exceeded a limit are noted for the log up to this number between two log lines."""
RATE_LOG_INTERVAL = 1
"""seconds: The log is told of limited prefixes at most this often, also when log.rate-limit-interval is 0."""
DISCARD_TIMEOUT = Limit(
    0, 0, 60_000, "milliseconds",
    "UDP answers that are later than this are dropped, so that delayed answers cannot be released as one burst "
    "(DNSBomb, CVE-2024-33655). Too short a time drops answers that clients still wait for."
)
REPLY_EDES = 4
"""options: Extended errors in one reply (RFC 8914). More would amplify."""
EDE_TEXT = 200
"""bytes: Text of one extended error. The reply must still fit into a small UDP payload."""
ANY_TTL = 3789
"""seconds: TTL of the HINFO record that answers ANY (RFC 8482 section 4.2)."""
LATE_PER_NETWORK = Limit(
    32, 0, 1_000_000, "queries",
    "An attacker who delays the answers to many queries with one forged source, and releases them together, makes a "
    "burst (DNSBomb, CVE-2024-33655). While more queries of a network wait than this, each late answer is truncated, "
    "so a burst has at most so many whole ones. A forwarder with 2,000 queries a second, of which a fifth are not "
    "cached and take 80 ms, has as many at one time; it asks its late queries again over TCP, unless it uses cookies."
)
LATE_GROWTH = 2
"""times: A late answer is not truncated when it is at most so many times as long as its query: it amplifies little."""
SERVER_BUFFER = 4 << 20
"""bytes: Socket buffers of the UDP listeners. With less, bursts are lost while a worker is busy; the kernel may give
less than asked for."""
STREAM_MESSAGE = 5
"""seconds: A message that has begun must be complete, and a written reply be received, within this time, so that slow
clients do not hold connections."""
STREAM_LINGER = 2
"""seconds: After a client was refused, our side is half-closed, and what the client still sends is discarded for this
long, so that no RST removes the last reply from its receive buffer (RFC 9112 section 9.6). Longer, it holds a slot."""
STREAM_SWEEP = 1000
"""milliseconds: Timeouts of client connections are examined at least this often. Less often, connections outlive their
timeouts; more often costs a walk over all connections."""
STREAM_WRITE_HIGH = 64 << 10
"""bytes: While a connection has this much unsent, none of its queries is examined."""
STREAM_TURN_OCTETS = 64 << 10
"""bytes: Octets of replies made for one connection before other work of the loop runs, and one reply more."""
STREAM_READ_CHUNK = 16 << 10
"""bytes: Octets read from one connection that are examined before other work of the loop runs."""
STREAM_TURN_MESSAGES = 128
"""messages: Queries and requests of one connection, answered or refused, before others have their turn. Resolvers that
forward have some tens at a time, and these are still answered in one write."""
STREAM_ITERATION_MESSAGES = 256
"""messages: Queries and requests of all client connections of a worker before the loop polls its sockets, and one turn
more. A request over HTTPS costs some 50 microseconds, and UDP waits for as long as all of them take."""
STREAM_ITERATION_OCTETS = 256 << 10
"""bytes: Octets read and written for all client connections of a worker before the loop polls its sockets, and one
turn more."""
STREAM_WRITE_LIMIT = 1 << 20
"""bytes: A client that leaves more than this unread while further answers to its queries come is disconnected."""
CONNECTION_OVERHEAD = 8_000
"""bytes: Memory counted for each connection over TCP, besides what it has received and not sent yet."""
TLS_OVERHEAD = 60_000
"""bytes: Memory counted for each connection over TLS, HTTPS or QUIC, most of it in the library: records, keys, and the
certificates of the peer."""
READ_MESSAGE_OCTETS = 64
"""bytes: Memory counted for each message that was read from a connection and waits for its turn, besides its octets."""
EXCHANGE_OVERHEAD = 3_000
"""bytes: Memory counted for each request over HTTP/2 and each stream of QUIC, besides its message."""
CLIENT_CONNECTION_OCTETS = 3 << 20
"""bytes: Most that one connection of a client holds: TLS_OVERHEAD, STREAM_WRITE_LIMIT with the reply that exceeds it,
what was read last and the messages in it, and DOH_WINDOW or QUIC_HELD. HTTPS may have a request of DOH_TARGET besides
in each of TCP_PIPELINE streams."""
STREAM_UNSENT = 128 << 10
"""bytes: What the kernel holds unsent for one client connection, more or less: two of the longest messages. Without a
limit it takes some 3 MB for a client that does not read, which no limit of this program sees."""
SLOT_SCAN = 64
"""groups: Groups examined for an idle member that can be closed when all slots are in use. More makes refusing
expensive."""
STREAM_WITHOUT_SLOT = 32
"""connections: Connections of a listener beyond its limit that were accepted and have no slot yet, or were ended for
others and are not closed yet."""
STREAM_BACKLOG = 512
"""connections: Accept queue of a listening socket. With a shorter one, bursts of connections are dropped by the kernel.
"""
PADDING_BLOCK = 468
"""bytes: Replies on encrypted transports are padded to a multiple of this when the query was padded (RFC 8467 section
4.1). Smaller blocks reveal more about the query; larger ones cost bandwidth."""
PROXY_HEADER_OCTETS = 4096
"""bytes: The longest header of PROXY protocol version 2 that is accepted. Load balancers send some hundred octets; the
format permits 64 KiB, which would be kept in memory for each connection."""
TLS_HANDSHAKE = 5000
"""milliseconds: A client has this long for the PROXY header and the TLS handshake together. A handshake needs two round
trips; without a limit, slow clients would hold connections."""
HANDSHAKE_SHARE = 4
"""percent: Handshakes may take this share of the time of a worker's other work, and accepting their connections as
much. With both, other work keeps 92 % of a worker that is never idle."""
HANDSHAKE_IDLE = 1
"""times: Handshakes may take this multiple of the time that a worker sleeps: half of the time of one that is else idle.
More takes time from clients over UDP that wait for a reply before they send the next query."""
HANDSHAKE_BURST = 3000
"""microseconds: CPU time of handshakes that is saved up. Cached answers wait that long behind a burst of handshakes."""
HANDSHAKE_COST = 100
"""microseconds: A handshake is taken to cost at least this before its cost is known. With P-256 it costs 100 to 300."""
HANDSHAKE_AVERAGE = 16
"""handshakes: The expected cost of a handshake is the average of so many."""
HANDSHAKE_ACCEPT_COST = 250
"""microseconds: What it costs to accept a connection, to prepare it for a handshake and to close it, with the kernel's
part, on a slow machine."""
HANDSHAKE_WAIT_MIN = 200
"""microseconds: The credit of handshakes is examined at most so often. More often costs timers."""
HANDSHAKE_WAIT_MAX = 5000
"""microseconds: The credit is examined at least so often while connections wait, because other work adds to it."""
HANDSHAKES_WAITING = 256
"""connections: Connections that wait for their handshake. Further ones are closed. In the 5 s that a client has, a busy
worker performs some 300."""
TLS_HELLO_OCTETS = 16 << 10
"""bytes: Octets of a ClientHello that are collected before its handshake begins. Clients send 200 to 2000; what is
longer is given to OpenSSL as it is."""
TLS_SHUTDOWN = 2
"""seconds: After close_notify was sent, the client's own and what it still sends is read for this long."""
TLS_EARLY_OCTETS = 512 << 10
"""bytes: Octets that are decrypted in the one or two turns of the loop between the end of the handshake and its notice.
Clients send their first requests so. Two receive calls bring less; more than this aborts the connection."""
TLS_SERVER_SESSIONS = 20_480
"""sessions: OpenSSL keeps so many in each context, of clients with TLS 1.2 that do not take session tickets and close
their connections properly."""
TLS_SERVER_SESSION_OCTETS = 2_000
"""bytes: Memory counted for each of the TLS_SERVER_SESSIONS."""
TLS_FAILURE_REASONS = 16
"""reasons: Reasons of failed handshakes that are counted apart. OpenSSL names some hundreds, and clients choose."""
TLS_CERTIFICATES = 16
"""certificates: Certificates of one server, chosen by the name that the client asks for. Each is read on every reload.
"""
OPPORTUNISTIC_PORT = Limit(
    853, 1, 65_535, "port",
    "DNS over TLS at authoritative servers (RFC 9539 section 4.6). Another port is for tests with simulated servers."
)
OPPORTUNISTIC_PERSISTENCE = 3 * 86_400
"""seconds: A server that has answered over TLS is known to have it for this long (RFC 9539 section 4.3)."""
OPPORTUNISTIC_DAMPING = 86_400
"""seconds: A server without TLS is probed again after this time (RFC 9539 section 4.3)."""
OPPORTUNISTIC_TIMEOUT = 4
"""seconds: A probe that has no reply by then has failed (RFC 9539 section 4.3)."""
OPPORTUNISTIC_INTERVAL = 10
"""seconds: A server with TLS whose connection has ended is connected again after this time at the earliest. One that
closes each connection after a reply would cost a handshake for each query."""
OPPORTUNISTIC_PROBES = 16
"""probes: So many are in progress at most at servers that are not known to have TLS: a quarter of TLS_UPSTREAMS when
all of these are available. Anyone can delegate zones to servers that accept connections and never speak; their probes
must not hold the places of others."""
OPPORTUNISTIC_SERVERS = 10_000
"""addresses: So many servers are remembered for opportunistic encryption. Anybody can name addresses of servers."""
OPPORTUNISTIC_SERVER_OCTETS = 600
"""bytes: Memory counted for each of the OPPORTUNISTIC_SERVERS."""
TLS_FILE_SIZE = 256 << 10
"""bytes: The largest PEM file of certificates or of a key. A chain has some KiB; a wrong path must not fill memory."""
CA_FILE_SIZE = 4 << 20
"""bytes: The largest PEM file of certificate authorities. The list of Mozilla has some 230 KiB."""
CERTIFICATE_WARNING = 14
"""days: From this long before a certificate expires, the log warns. ACME clients renew 30 days before, so a renewal has
then failed for two weeks."""
CERTIFICATE_CHECK = 3600
"""seconds: The validity of certificates is examined at this interval; the log has one line a day for each."""
TICKET_KEY_PERIOD = 43_200
"""seconds: A key makes session tickets for this long, and is accepted for as long again, so for a day in all (RFC 5077
section 5.5: keys are changed regularly). A ticket itself is valid for two hours."""
STAPLE_WARNING = 24
"""hours: From this long before an OCSP staple expires, the log warns. Authorities issue staples for four to ten days,
and programs that fetch them do so in the middle of that time."""
DOH_TARGET = 8192
"""bytes: The longest target of a request. A padded query of 128 octets needs some 190 in a GET request; larger messages
are for POST."""
DOH_HEAD = 16 << 10
"""bytes: The header section of one request over HTTP/1.1. Browsers send less than 1 KiB."""
DOH_FIELDS = 64
"""fields: Header fields of one request. Browsers send about 15; each is an object."""
DOH_WINDOW = 256 << 10
"""bytes: Incomplete bodies of requests on one HTTP/2 connection hold at most this much, and as much is discarded after
an error of the client. A query in a body has some hundred octets."""
QUIC_HELLO = 4
"""datagrams: From so many first datagrams of a connection the name that the client asks for is read, when there are
several certificates. A ClientHello with post-quantum keys fills two; a repeated one, or one that belongs to something
else, may come between."""
QUIC_WAITING_OCTETS = 300_000
"""bytes: Most that is held for a QUIC client whose handshake waits: QUIC_HELLO datagrams of the longest size."""
QUIC_UNVALIDATED = 32
"""connections: Handshakes of DNS over QUIC whose client's address is not validated. Above this, clients have to repeat
their first packet with a token (Retry), which costs a round trip and no memory; addresses of the others may be forged.
"""
QUIC_TOKEN_LIFETIME = 10
"""seconds: The token of a Retry packet is accepted for this long. A client sends it back at once; later it is of use
only to one that stores tokens for a burst of handshakes."""
QUIC_CONNECTION_ID = 20
"""bytes: The longest connection id of version 1 (RFC 9000 section 17.2)."""
QUIC_CONNECTION_ID_MIN = 8
"""bytes: The shortest connection id that a client's first packet may choose for us (RFC 9000 section 7.2). From shorter
ones others could guess the keys of the first packets."""
QUIC_DATAGRAM = 1200
"""bytes: Datagrams that begin a connection have at least this size (RFC 9000 section 14.1); what is sent never has
more, which passes on every path."""
QUIC_WINDOW = 128 << 10
"""bytes: Octets that a client may send on one stream, or on all streams of a connection, ahead of what was read. One
query has at most 64 KiB."""
QUIC_UPSTREAM_WINDOW = 1 << 20
"""bytes: Octets that a server may send on all streams of a connection ahead of what was read."""
QUIC_PORTS = 4
"""ports: Of the client of one connection, one after the other. The library reads nothing from a fifth one, so the
connection is closed, and the client connects again. NAT routers change the port of a connection that was silent for
half a minute or longer."""
QUIC_HELD = 128 << 10
"""bytes: Octets of incomplete and waiting queries that one connection may hold. A usual query has some hundred."""
LISTENERS = 256
"""listeners: Addresses served. Each needs descriptors and a part of the connections that the process may have."""
VIEWS = 255
"""views: Groups of clients with policies of their own. Each has compiled tables, and its answers take space in the
cache."""
CRYPTO_THREADS = 2
"""threads: Threads that check signatures beside the event loop."""
CRYPTO_SLICE = 2
"""milliseconds: Signature checks run in a row for this long before the event loop runs other work. Cached answers wait
for this long at most."""
CRYPTO_IN_PLACE = 4
"""checks: Up to this many checks are made at once by the event loop, because handing them to a thread costs more."""

# --- query log and dnstap -----------------------------------------------------------------------------------------

OBSERVE_BUFFER = Limit(
    4 << 20, 512 << 10, 1 << 30, "bytes",
    "Records wait here for the disk or the collector. 4 MiB are some ten thousand queries, and less than 512 KiB do "
    "not hold two of the pieces (OBSERVE_PIECE)."
)
OBSERVE_PIECE = 256 << 10
"""bytes: Records are written to the disk or the collector in pieces of this size. Smaller ones cost more system calls
and wake-ups of a thread for each query; larger ones are written later."""
OBSERVE_SAMPLE = Limit(
    1, 1, 1_000_000, "queries", "1 records every query. More than a million would leave nothing to look at."
)
OBSERVE_FLUSH = 200
"""milliseconds: A record is written at most this late, so that a log can be followed by eye. A shorter time costs more
system calls on idle servers."""
OBSERVE_STALL = 60_000
"""milliseconds: When no record was dropped for this long because the buffer is full, the log says that records are
written again. With a reader that is a little too slow, some are dropped in each second."""
OBSERVE_STOP = 150
"""milliseconds: When the daemon stops, the query log and dnstap have this long for what is left. STOP_GRACE must be
longer."""
DNSTAP_PORT = 6000
"""port: Port of dnstap.address when it names none, as the collectors' manuals have it."""
DNSTAP_TEXT = 255
"""bytes: The longest identity and version of dnstap. They stand in each message."""
DNSTAP_CONTROL = 512
"""bytes: The longest control frame of a collector (the limit of the fstrm library). A longer one is an error."""
DNSTAP_HANDSHAKE = 5000
"""milliseconds: A collector has this long to accept a connection and the content type. Then it is tried again later."""
DNSTAP_RETRY_FIRST = 250
"""milliseconds: The pause after a collector was lost or refused the connection. It doubles with each failure."""
DNSTAP_RETRY_LAST = 30_000
"""milliseconds: The longest pause between two attempts to reach a collector."""
DNSTAP_UNACKNOWLEDGED = 30_000
"""milliseconds: A TCP connection whose collector acknowledges nothing for this long is given up; the kernel's own limit
is a quarter of an hour."""

# --- resolverctl top ----------------------------------------------------------------------------------------------

TOP_KEYS = 256
"""keys: Each list of `resolverctl top` counts this many names, zones or clients in each worker; 1/256 of the queries is
the largest error. More cost memory and longer replies between workers."""
TOP_KEY_OCTETS = 1_000
"""bytes: Memory counted for each of the TOP_KEYS. A name has up to 255."""
TOP_RING = 1024
"""samples: Samples of replies that wait for the event loop, in each worker and lane, a power of two. They take some 290
KiB, and hold five times what TOP_SAMPLES permits in one TOP_TICK."""
TOP_SAMPLES = 2000
"""samples: As many replies of a worker are sampled in a second; above this rate one reply of so many. Each sample costs
some 5 microseconds, and two more for each further watcher."""
TOP_TICK = 100
"""milliseconds: So often a worker that is watched counts its samples."""
TOP_WATCHERS = 4
"""watchers: Watchers at once. Each has lists of its own, which cost time for each sample."""
TOP_KEEP = Limit(
    30, 0, 660, "seconds",
    "A worker continues to take samples for this long after the last call of a watcher, who may have gone away. With 0 "
    "the call is the last one."
)
TOP_INTERVAL = Limit(
    2, 1, 300, "seconds", "A shorter interval of resolverctl top has too few samples, a longer one is not live."
)
TOP_LINES = Limit(
    10, 1, 100, "lines", "More than a screen has. A hundred names of the longest form fit into CONTROL_REPLY."
)

# --- daemon and tools ---------------------------------------------------------------------------------------------

PLAYGROUND_UDP_PAYLOAD = 1232
"""bytes: Simulated servers send at most this much over UDP, so that no reply is fragmented."""
DIG_TIMEOUT = Limit(
    5, 0, 600, "seconds",
    "rdig waits for each attempt as long as dig does. More than ten minutes is taken for a mistake."
)
DIG_ATTEMPTS = 3
"""attempts: rdig sends a datagram as often as dig does."""
PLAYGROUND_CERTIFICATE_DAYS = 7
"""days: The certificates are made for one run, and are useless afterwards."""
PLAYGROUND_WEB_PORT = 8443
"""port: Port of HTTPS where the process may not bind port 443."""
PLAYGROUND_PORT = Limit(5300, 1, 65_535, "port", "Port of the simulated servers. Ports above 1023 need no privilege.")
PLAYGROUND_TCP_IDLE = 30
"""seconds: An unused connection to a simulated server is closed after this time (RFC 7766 section 6.2.3)."""
PLAYGROUND_TCP_QUERIES = 1000
"""queries: Queries on one connection to a simulated server; then it is closed, as servers do."""
PLAYGROUND_ALIAS_STEPS = 16
"""aliases: CNAME records that a simulated server follows in its own zones. Zones may hold loops."""

SNAPSHOT_SHARE = 2
"""sizes of the cache: A cache dump larger than this many times the cache is not read, because most of it would not fit.
"""
MANAGEMENT_OVERHEAD = 30_000
"""bytes: Memory counted for each connection of an operator: with a request of the largest size."""
MANAGEMENT_OCTETS = 4 << 20
"""bytes: Most that is held for one connection of an operator: a request, and the reply as far as it is not read."""
WORKER_MESSAGE = 64 << 10
"""bytes: One question or answer between workers. Statistics take some KiB; the limit of a datagram on a Unix socket is
some 200 KiB."""
WORKER_REPLY_TIMEOUT = 1000
"""milliseconds: A worker that does not answer another one in this time is reported as not responding. A busy worker
answers within some milliseconds."""
RELOAD_TIMEOUT = 60_000
"""milliseconds: On a reload, each other worker has this long to read the new settings and the files they name. A new
list of five million names takes some 35 seconds."""
WORKER_MESSAGE_BATCH = 16
"""messages: Messages of other workers read before other work of the loop runs."""
CONTROL_REQUEST = 4096
"""bytes: The longest request on the control socket. A name in text form has at most 1004 characters."""
CONTROL_TIMEOUT = 10_000
"""milliseconds: A client of the control socket has this long to send a request and to read its answer. Otherwise it
would hold one of the CONTROL_CONNECTIONS."""
HOOK_TIMEOUT = Limit(
    1000, 10, 30_000, "milliseconds",
    "A coroutine of a hook is cancelled after this time. Clients give up after some seconds, so a longer one "
    "answers no client."
)
HOOK_SLOW = 10
"""milliseconds: A plain function of a hook that takes longer is named in the log, because all queries of the worker
wait for it."""
HOOK_TASKS = 10_000
"""coroutines: Coroutines of hooks in one worker that have not ended. One that ignores its cancellation is still
counted; above this, hooks with coroutines fail."""
HOOK_TASK_OCTETS = 4_000
"""bytes: Memory counted for each coroutine of a hook. What the operator's function holds itself is not known."""
HOOK_TTL = 60
"""seconds: The TTL of answers of hooks that name none. A hook that changes its mind is heard after this time."""
HOOK_MODULES = 64
"""modules: Modules with hooks in one list. Each hook is called for each query that passes its point."""
NTA_LIFETIME = Limit(
    3600, 1, 7 * 86_400, "seconds",
    "A negative trust anchor that resolverctl adds ends after an hour, so that it is not forgotten (RFC 7646 section "
    "2.2). More than a week is a matter of the configuration."
)
NTA_CHECK = 300
"""seconds: So often it is tested whether a zone with a negative trust anchor validates again. Each test is some
queries."""
CHANGES = 4096
"""changes: Run-time changes in force at once. They are compiled again at each change, which takes some milliseconds for
a thousand; more belong into the configuration."""
CHANGES_FILE = 8 << 20
"""bytes: The largest file of run-time changes that is read. A change has at most the size of a request."""
CHANGE_REASON = 200
"""characters: The longest reason of a run-time change. It is shown in one line."""
RESOLVERCTL_TIMEOUT = Limit(
    30, 0, 86_400, "seconds",
    "resolverctl waits for each line of the daemon for this long. With more than a day it would not notice a daemon "
    "that hangs."
)
UNIX_PATH = 107
"""octets: Longest path of a Unix socket; the field has 108 with the zero octet after it (unix(7))."""
CONTROL_CONNECTIONS = 8
"""connections: Connections open at once on the control socket. Each is a descriptor; further ones wait in the accept
queue."""
UNIT_WATCHDOG = 30
"""seconds: `resolverd --print-unit` has systemd restart a daemon that sends no heartbeat for this long. A save of a
large cache or a slow disk takes seconds."""
UNIT_STOP = 30
"""seconds: `resolverd --print-unit` has systemd kill a daemon that takes longer to stop. Waiting clients are answered,
and the cache is saved."""
UNIT_DESCRIPTORS = 65536
"""descriptors: The limit of open files of `resolverd --print-unit`; the daemon derives its limits of connections from
it."""
WATCHDOG_HEARTBEATS = 4
"""heartbeats: Heartbeats in one period of the service manager's watchdog. With two, a late one would be a restart."""
IMPORTED_FILE = 16 << 20
"""bytes: The largest configuration file of another resolver that resolverctl reads. Local data may be long lists."""
IMPORT_DEPTH = 16
"""levels: Files that include each other, and nested blocks, in a configuration that is imported. More is a loop."""
IMPORT_SHOWN = 100
"""characters: The longest statement of an imported configuration that is shown in full in a remark."""
INHERITED_SOCKETS = 1024
"""sockets: The most that a service manager may pass. A wrong number would have each descriptor up to it tried."""
CONTROL_CHUNK = 16
"""sets: Record sets of a cache dump written as text before other work of the loop runs."""
CONTROL_REPLY = 1 << 20
"""bytes: The longest line that resolverctl accepts from the daemon."""
METRICS_REQUEST = 8192
"""bytes: The head of a request for metrics. A longer one is refused, because it would be kept in memory."""
METRICS_TIMEOUT = 5000
"""milliseconds: A client has this long to send a request for metrics and to read the answer. Otherwise it would hold
one of the METRICS_CONNECTIONS."""
METRICS_CONNECTIONS = 8
"""connections: Connections for metrics that are open at once. Prometheus needs one."""
COUNTERS_OCTETS = 256 << 10
"""bytes: The counters of one worker, kept for its successor. They take some 30 KiB, and some more for each policy of
the configuration."""
COUNTERS_KEPT = 5000
"""milliseconds: How often a worker of several keeps its counters for its successor. What it counts after that is lost
when it dies."""
METRICS_PORT = 9335
"""port: Port of metrics.listen when it names none."""
WEB_PORT = 9336
"""port: Port of web.listen when it names none."""
WEB_REQUEST = 8192
"""bytes: The head of a request to the web page. A longer one is refused, because it would be kept in memory."""
WEB_TIMEOUT = 5000
"""milliseconds: A client has this long to send a request to the web page, and again to read the reply. Otherwise it
would hold one of the WEB_CONNECTIONS."""
WEB_CONNECTIONS = 16
"""connections: Connections to the web page that are open at once. A browser opens at most six to a host, and each is
closed after one reply."""
WEB_TOKEN_BITS = 128
"""bits: The least size of the token of the web page. A shorter one could be guessed."""
WEB_TOKEN_SIGNS = 8
"""characters: A token has at least so many different ones. Of a million random tokens of WEB_TOKEN_BITS not one has
fewer, so one that has was made up by a person."""
WEB_TOKEN_FILE = 1024
"""bytes: The largest token file. A larger one is another file."""
WEB_HOSTS = 16
"""names: Names in web.hosts. Each request is compared with all of them."""
WEB_REFUSAL = 500
"""milliseconds: The refusal of a wrong token waits for this long."""
WEB_REFUSALS = 4
"""requests: Refusals of wrong tokens that wait at once. They hold as many of the WEB_CONNECTIONS; further wrong tokens
are refused at once with another status, so that they hold none."""
WEB_INTERVAL = 2000
"""milliseconds: The numbers of the web page cover at least this long. Pages that ask in between share them, so their
number has no cost."""
WEB_KEEP = 15
"""seconds: Samples for the web page are taken for this long after the last request of a page."""
WEB_LINES = 10
"""lines: The length of the lists of the web page."""
WEB_ROWS = 40
"""rows: Policies, lists, servers and tables that the web page shows of each kind: those that need attention, and the
busiest."""
WEB_EXPLAINS = 2
"""queries: Explanations for the web page that are made at once. Each is a query with all its steps in memory."""
WEB_EXPLAIN_TIMEOUT = 15_000
"""milliseconds: An explanation for the web page ends after this time with the steps until then."""
EXPLAIN_CACHE = 1 << 20
"""bytes: The cache of an explanation that must not use that of the daemon. One query stores some 100 KiB."""
EXPLAIN_SERVERS = 1000
"""addresses: The infrastructure cache of such an explanation."""
WEB_QUERY = 2048
"""characters: The query part of a request for an explanation. A name of 255 octets has at most 1,012 characters, each
of which may be written with three."""
WORKERS = Limit(
    1, 1, 64, "processes", "Each worker is a process with one event loop. More workers than CPUs only cost memory."
)
LANES = Limit(
    1, 0, 64, "lanes",
    "Each lane is a thread with a UDP socket of its own for each address of `listen`. One answers some 280,000 cached"
    " queries a second, and sleeps when there are none. More lanes than CPUs only cost memory."
)
LANE_TURN = 64
"""queries: As many of a lane are handled before other work of the loop runs. Each costs some 40 microseconds."""
CACHE_SIZE = Limit(
    64 << 20, 1 << 20, 32 << 30, "bytes",
    "One arena holds answers, record sets and proofs; entries are evicted when it is full. Its offsets reach 32 GiB."
)
CACHE_MIN_TTL = Limit(
    0, 0, 3600, "seconds", "RFC 1035 section 3.2.1: a TTL of 0 forbids caching. Raising TTLs shows outdated data."
)
CACHE_MAX_TTL = Limit(
    86_400, 1, 604_800, "seconds", "RFC 8767 section 4 limits TTLs to 7 days. Long TTLs delay changes of a zone."
)
CACHE_MAX_NEGATIVE_TTL = Limit(
    3600, 0, 86_400, "seconds", "RFC 2308 section 5: one to three hours work well, and more than a day causes problems."
)
CACHE_BOGUS_TTL = Limit(
    60, 1, 300, "seconds", "RFC 9520 section 3.2: a failed validation is cached for at most five minutes."
)
CACHE_FAILURE_TTL = Limit(
    5, 1, 300, "seconds",
    "RFC 9520 section 3.2: a failed resolution is cached for at least one second and at most five minutes."
)
LOCAL_ERROR_TTL = 1
"""seconds: A failure that a shortage on this host may have caused is cached for this long only, because the shortage
may be over with the next query."""
CACHE_FAILURE_MAX_TTL = Limit(
    300, 1, 300, "seconds",
    "RFC 9520 section 3.2: the time for which repeated failures are cached grows to at most five minutes."
)
SERVE_STALE = Limit(
    0, 0, 604_800, "seconds",
    "RFC 8767 section 5: one to three days bridge an outage. With more, data is shown that no longer exists."
)
STALE_TIMEOUT = Limit(
    1800, 0, 30_000, "milliseconds",
    "RFC 8767 section 5: the client response timer is 1.8 seconds, because clients give up soon after."
)
CACHE_SERVERS = Limit(
    20_000, 100, 10_000_000, "addresses",
    "Facts are kept about this many upstream addresses. With fewer, slow and dead servers are tried again; an attacker "
    "can name any number."
)
UPSTREAM_PORT = Limit(53, 1, 65_535, "port", "RFC 1035 section 4.2. Another port is for tests with simulated servers.")
EDNS_PAYLOAD = Limit(
    1232, 512, 65_535, "bytes",
    "RFC 9715 recommends 1232 octets, which are not fragmented on any IPv6 path. 512 octets is the size without EDNS "
    "(RFC 6891 section 6.2.5)."
)
MAX_PACKETS = Limit(
    200, 10, 10_000, "packets",
    "Upstream queries of one client query (NXNSAttack, CAMP). With fewer, names with long chains of delegations fail."
)
DEADLINE = Limit(
    8000, 500, 60_000, "milliseconds", "Clients give up after five to ten seconds, so that later answers are of no use."
)
TCP_IDLE_TIMEOUT = Limit(
    10_000, 100, 600_000, "milliseconds",
    "RFC 7766 section 6.2.3 suggests a few seconds. Idle connections hold descriptors."
)
TCP_CONNECTIONS = Limit(1000, 1, 100_000, "connections", "Each connection is a descriptor and some KiB of memory.")
TCP_CONNECTIONS_PER_CLIENT = Limit(
    100, 1, 100_000, "connections", "RFC 7766 section 6.2.2: one client must not take all connections."
)
TCP_NETWORK_SHARE = Limit(
    80, 1, 100, "percent", "A client network may use this share of the connections, because it has many addresses."
)
TCP_PIPELINE = Limit(
    100, 1, 10_000, "queries",
    "RFC 7766 section 6.2.1.1: with this many unanswered queries on one connection, reading pauses."
)
LOG_INTERVAL = Limit(
    10, 0, 3600, "seconds",
    "The same warning is logged at most once in this time, so that a broken upstream does not fill a disk. 0 logs "
    "each."
)
LOG_FAILURES = 10
"""lines: Different failed questions logged per LOG_INTERVAL. With one, a second broken zone is not seen; without a
bound, random names flood the log."""
UNPRIVILEGED_PORT = 5335
"""port: Port of the daemon when nothing is configured. Ports above 1023 need no privilege."""
WATCHDOG_LEAST = 100
"""milliseconds: Shortest period of the service manager's watchdog (WATCHDOG_USEC). With a shorter one, workers of a
loaded host would be killed one after the other."""
WATCHDOG_MOST = 86_400_000
"""milliseconds: Longest period of the watchdog: a day. A longer one would notice nothing in time."""
THREAD_SWITCH = 500
"""microseconds: A thread that reads a zone or a list gives the interpreter back after this time when the loop waits for
it, as after each system call that lets other threads run. Python's default is 5 milliseconds."""
STOP_THREADS = 100
"""milliseconds: When a worker stops, threads that read or write large files have this long. DRAIN and this together
must be shorter than STOP_GRACE."""
STOP_GRACE = 700
"""milliseconds: Workers that run for longer after a stop get SIGKILL, so that stopping takes less than a second."""
PROBE = 1500
"""milliseconds: A first start waits this long for the root servers before it starts the playground instead. Distant
hosts need some hundred milliseconds."""
PROBE_SERVERS = 4
"""servers: Root servers queried by a first start. With one, a server that is down would look like a network without
Internet."""
GC_YOUNG = 100_000
"""objects: Objects created between garbage collections. Queries leave no cycles, and Python's default costs 3 to 4 % of
a query that is not cached."""
GC_MIDDLE = 50
"""collections: Collections of the young generation per collection of the middle one, for the reason of GC_YOUNG."""
GC_OLD = 100
"""collections: Collections of the middle generation per collection of the old one, for the reason of GC_YOUNG."""
LOG_MEMORY = 1000
"""messages: Different warnings that are logged per LOG_INTERVAL, and remembered to suppress repetitions."""
LOG_COMPARED = 1000
"""characters: Warnings that begin with this many equal ones count as the same. Others choose names in them, so that a
longer text would fill memory."""
LOG_LINE_OCTETS = 4_500
"""bytes: Memory counted for each remembered warning: LOG_COMPARED characters of four bytes each."""
PORT_ATTEMPTS = 16
"""attempts: With port 0, the port that the kernel gives for UDP may be taken for TCP; then another one is tried."""
DRAIN_POLL = 100
"""milliseconds: Interval at which a replaced configuration is examined for queries that still wait for it."""
DRAIN = 300
"""milliseconds: Queries in progress have this long when the daemon stops. STOP_GRACE must be longer."""
UPGRADE_TIMEOUT = Limit(
    60_000, 100, 3_600_000, "milliseconds",
    "An upgrade fails when the new process does not serve after this time. Long lists and zones take the longest to"
    " load."
)
START_TIMEOUT = Limit(
    300_000, 100, 3_600_000, "milliseconds",
    "A worker that hangs before it serves is killed after this time; queries in its sockets wait until then. A list of"
    " five million names takes some 35 seconds, so eight workers that compile it on one core are still in time. The"
    " cache is loaded before the workers start."
)
UPGRADE_IDLE = 500
"""milliseconds: After an upgrade the old process closes connections whose client has been silent for this long. A
client that has just connected sends its query well within it."""
UPGRADE_POLL = 10
"""milliseconds: Until the old process tries again to send to a new one that has not read yet, or looks again whether it
has ended. A single worker waits as long between "ready" and "main", in which its loop handles signals that have come
before."""
HANDOVER_MESSAGE = 16 << 10
"""bytes: One message between the two processes of an upgrade. The longest has HANDOVER_TEXT characters, which JSON
writes with up to twelve bytes each."""
HANDOVER_TEXT = 1000
"""characters: What the new process says about its failure. The log has all of it."""
HANDOVER_DESCRIPTORS = 253
"""descriptors: In one message, as Linux limits it (SCM_MAX_FD). One address of one worker needs LANES and two more."""
HANDOVER_ENDPOINTS = 16_384
"""addresses: Of all workers together that an upgrade passes on. WORKERS with 256 addresses each."""
LABEL_TEXT = 63
"""bytes: RFC 1035 section 2.3.4: a label has at most 63 octets."""
SYSTEM_FILE_SIZE = 16 << 20
"""bytes: /etc/hosts with a block list has some MiB. The rest of a larger file is ignored."""
SYSTEM_FILE_INTERVAL = 1
"""seconds: A change of /etc/hosts or /etc/resolv.conf is noticed at most this late. 0 checks the files for each name.
"""
HOSTS_NAMES = 1_000_000
"""names: A block list in the form of /etc/hosts has some hundred thousand names. Further ones are ignored, because they
would fill memory."""
RESOLV_SEARCH = 32
"""names: Search domains read from resolv.conf(5). Each can cost a query for a name that does not exist."""
RESOLV_NDOTS = Limit(1, 0, 15, "dots", "resolv.conf(5): 1 is the default and 15 the maximum.")
CONFIG_FILE_SIZE = 16 << 20
"""bytes: A wrong path such as /dev/zero must not fill the memory."""
