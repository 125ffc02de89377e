"""The memory that strangers can fill: bounded in octets, counted in one total, and no less than what it takes."""

import ast
import asyncio
import gc
import logging
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from support.doh_connection import Listener as HttpListener
from support.doh_connection import connect
from support.http_peer import run_on
from support.service_parts import Parts, query

from corenet.http.events import Request
from corenet.http.h2 import H2Connection
from resolver import limits
from resolver.cache import Store
from resolver.cache.bounded import Held
from resolver.daemon.list_files import load
from resolver.daemon.log import DuplicateFilter
from resolver.daemon.management import ManagementServer
from resolver.daemon.runtime_config import RuntimeConfig
from resolver.daemon.usage import ALLOCATED, CACHE, usage
from resolver.daemon.watching import KINDS, Watching, _Watcher
from resolver.daemon.zone_keeper import ZoneKeeper
from resolver.effects import Ask, Server
from resolver.net.client_subnet import ClientSide
from resolver.net.clock_random import Entropy
from resolver.net.dns_connection import DnsConnection
from resolver.net.doq import MessageReader
from resolver.net.encryption_probing import Outcome, ProbeTable
from resolver.net.quic_listener import QuicListener, _PendingClient
from resolver.net.stream_listener import StreamListener
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.udp_upstream import UdpUpstream
from resolver.net.upstream_connection import ServerQueue, UpstreamConnection
from resolver.net.upstream_slots import RepliedNetworks
from resolver.net.zone_server import ZoneServer
from resolver.observe.pieces import Pieces
from resolver.resolve import load_validator
from resolver.settings import (
    IterationSettings,
    ListSettings,
    PolicySettings,
    QueryLogSettings,
    RpzSettings,
    SecondLevelSettings,
    Settings,
    SubnetSettings,
    ZonesSettings,
)
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.zones import Zone, ZoneTable
from resolver.zones.outgoing import History
from resolver.zones.transfer import Transfer
from resolver.zones.zone import Difference

# --- each limit of a number of things -----------------------------------------------------------------------------

CONNECTIONS = "client_tcp_connections"
UPSTREAM = "upstream_tcp_connections"

COUNTED = {
    "CACHE_SERVERS": "servers", "CONTROL_CONNECTIONS": "control_connections", "DELEGATIONS": "delegations",
    "DELEGATION_OCTETS": "delegations", "DENIAL_OCTETS": "denials", "DENIAL_RECORDS": "denials",
    "HANDSHAKES_WAITING": "client_quic_connections", "HOOK_TASKS": "hook_coroutines", "JOBS": "jobs",
    "JOBS_OCTETS": "jobs", "KNOWN_SIGNATURES": "signatures", "LANES": "lane_buffers", "LISTS": "list_content",
    "LIST_NAMES": "list_content", "LOG_MEMORY": "log_lines", "METRICS_CONNECTIONS": "metrics_connections",
    "OPPORTUNISTIC_SERVERS": "opportunistic_servers", "PARSED_KEY_OCTETS": "keys", "PARSED_KEY_SETS": "keys",
    "PENDING_QUERIES": "pending_queries", "QUIC_HELLO": "client_quic_connections",
    "QUIC_UNVALIDATED": "client_quic_connections", "RATE_ENTRIES": "rate_limits", "RPZ_OTHER_LINES": "list_content",
    "RPZ_PREFIXES": "list_content", "RPZ_RULES": "list_content", "SECOND_LEVEL_IN_FLIGHT": "second_level_look_ups",
    "SECOND_LEVEL_WRITES": "second_level_writes", "SERVER_ZONES": "servers", "SERVER_ZONES_OCTETS": "servers",
    "STREAM_UPSTREAMS": UPSTREAM, "STREAM_UPSTREAM_PIPELINE": "upstream_queries",
    "STREAM_UPSTREAM_WAITING": "upstream_queries", "SUBNET_CACHE_OCTETS": "subnets",
    "SUBNET_CLIENTS": "subnet_clients", "SUBNET_MARKS": "subnets", "SUBNET_MARK_OCTETS": "subnets",
    "TCP_CONNECTIONS": CONNECTIONS, "TLS_SERVER_SESSIONS": "client_tls_sessions",
    "TLS_UPSTREAMS": "upstream_tls_connections", "TOP_KEYS": "top_keys", "TOP_WATCHERS": "top_keys",
    "UDP_SOCKETS": "upstream_udp_sockets", "UDP_WAITING": "upstream_queries",
    "UPSTREAM_ADDRESSES": "upstream_addresses", "UPSTREAM_NETWORKS": "upstream_networks",
    "VERIFY_KEYS": "loaded_keys", "WEB_CONNECTIONS": "web_connections", "ZONES": "zone_content",
    "ZONE_HISTORY": "zone_history", "ZONE_HISTORY_OCTETS": "zone_history", "ZONE_OCTETS": "zone_content",
    "ZONE_RECORDS": "zone_content", "ZONE_TRANSFERS": "zone_transfers", "ZONE_TRANSFERS_OUT": "zone_versions",
}
"""The resource that counts what the limit bounds."""

PART = "of another one of these, which is counted: it bounds the share of one peer, or how many are kept of those used"
QUERY = "of one query or message, which jobs count as octets"
WORK = "of a turn or a batch, and nothing is kept"
OPERATOR = "of the configuration, or of a command of the operator"
FLEET = "names and numbers of those who share the secret of the second-level cache"
SIZE = "one entry, message or connection, of which there is a number"
FIXED = "some hundred octets each, at a fixed number of places"

EXEMPT = {
    PART: """DENIAL_RECORDS_PER_ZONE FETCHES_PER_SERVER FETCHES_PER_ZONE HTTPS_UPSTREAMS_PER_SERVER
        LATE_PER_NETWORK PENDING_PER_CLIENT PREFETCH_JOBS QUIC_PORTS STREAM_BACKLOG STREAM_UPSTREAMS_PER_SERVER
        STREAM_WITHOUT_SLOT SUBNETS_PER_NAME SUBNET_JOBS TCP_CONNECTIONS_PER_CLIENT TCP_PIPELINE UDP_PORTS
        UDP_PORT_PENDING UDP_SOCKETS_KEPT VIEW_PARTS ZONE_TRANSFERS_EACH ZONE_TRANSFERS_OUT_EACH ZONE_TYPES
        WEB_EXPLAINS WEB_REFUSALS""",
    QUERY: """ADDRESS_LOOKUPS ALIAS_PROBES CACHE_ENTRY_RECORDS COMPRESSION_ENTRIES DENIAL_RRSETS DOH_FIELDS
        DS_MISMATCHES EDNS_OPTIONS KEYS_PER_TAG LOOK_UPS MAX_ADDRESSES MAX_ALIASES MAX_DEPTH MAX_NAME_SERVERS
        MESSAGE_RECORDS NAME_SERVER_ALIASES REPLY_EDES RRSET_RECORDS SECOND_LEVEL_SETS SIGNATURES_PER_RRSET
        SIGNED_QUERY_RECORDS SIGNERS_PER_RRSET SUB_QUERIES ZONE_REQUEST_RECORDS""",
    WORK: """CONTROL_CHUNK EXPIRED_NSEC_SCAN EXPLORE_RATE FETCH_SAMPLE JOSTLE_SCAN LANE_TURN MINIMISE_ONE_LABEL
        MINIMISE_STEPS OBSERVE_SAMPLE SECOND_LEVEL_CLUSTER_LINES SECOND_LEVEL_REPLY_LINES SECOND_LEVEL_WRITE_BATCH
        STREAM_ITERATION_MESSAGES STREAM_TURN_MESSAGES TABLE_SECOND_CHANCES TABLE_SWEEP TLS_UPSTREAM_SPREAD
        TSIG_UNSIGNED UDP_ERRORS UDP_PORT_USES UNWANTED_ON_STREAM WORKER_MESSAGE_BATCH ZONE_LOOP_RECORDS
        ZONE_EMPTY_MESSAGES ZONE_FREED ZONE_MESSAGES ZONE_NOTIFY_ATTEMPTS ZONE_SORT""",
    OPERATOR: """BALANCES BALANCE_MOST BALANCE_PREFIXES BALANCE_TARGETS CHANGES DNS64_PREFIXES EXPLAIN_SERVERS
        FAMILY_REFERENCE_ADDRESSES HANDOVER_ENDPOINTS HOOK_MODULES HOSTS_NAMES INHERITED_SOCKETS LISTENERS
        MANAGED_KEYS PLAYGROUND_TCP_QUERIES PROBE_SERVERS RESOLV_SEARCH SECOND_LEVEL_NODES SUBNET_RULES
        TLS_CERTIFICATES TOP_LINES VIEWS VIEW_KEYS WEB_HOSTS WEB_LINES WEB_ROWS WORKERS""",
    FLEET: "FLEET_MEMBERS FLEET_MESSAGES FLEET_OUTBOX FLUSH_MARKS",
    SIZE: """BALANCE_PROBE_OCTETS CLIENT_CONNECTION_OCTETS COUNTERS_OCTETS HOOK_TASK_OCTETS KNOWN_SIGNATURE_OCTETS
        LOG_LINE_OCTETS MANAGEMENT_OCTETS OPPORTUNISTIC_SERVER_OCTETS PENDING_QUERY_OCTETS PROXY_HEADER_OCTETS
        QUIC_WAITING_OCTETS RATE_ENTRY_OCTETS READ_MESSAGE_OCTETS RPZ_PREFIX_OCTETS SECOND_LEVEL_LOOK_UP_OCTETS
        SECOND_LEVEL_WRITE_OCTETS SERVER_OCTETS STORED_QUERY_OCTETS STREAM_ITERATION_OCTETS STREAM_TURN_OCTETS
        SUBNET_CLIENT_OCTETS SUBNET_ENTRY_OCTETS TLS_SERVER_SESSION_OCTETS TLS_EARLY_OCTETS TLS_HELLO_OCTETS
        TOP_KEY_OCTETS UPSTREAM_ADDRESS_OCTETS UPSTREAM_MULTIPLEXED_OCTETS UPSTREAM_NETWORK_OCTETS
        UPSTREAM_QUERY_OCTETS UPSTREAM_SOCKET_OCTETS UPSTREAM_STREAM_OCTETS VERIFY_KEY_OCTETS ZONE_FILE_OCTETS""",
    FIXED: """LIST_ERRORS LOG_FAILURES RATE_EVENTS SECOND_LEVEL_CLUSTER_NODES TLS_FAILURE_REASONS
        TLS_UPSTREAM_WARNINGS TOP_RING TOP_SAMPLES ZONE_WARNINGS""",
}
"""Limits that no resource counts, by the reason."""

NUMBERS = frozenset("""addresses answers certificates changes connections coroutines counters datagrams
    entries errors fetches fields jobs keys lanes lines lists listeners log look-ups members messages
    modules names networks nodes options ports prefixes processes queries questions reasons records requests
    rows rules samples servers sessions sets signatures sockets sub-queries transfers views watchers zones""".split())
"""Units of what can be kept, by their first words."""

EFFORT = frozenset("""a aliases attempts batches bits blocks bytes characters checks collections
    comparisons days descriptors dots doublings draws files groups handshakes hashes heartbeats hours
    iterations levels lookups microseconds milliseconds naps number objects octets packets parts percent
    pointers polls port probes referrals replies seconds shares sizes steps stores threads timeouts times""".split())
"""First words of the units of work, time and sizes."""


def units() -> dict[str, str]:
    """The unit of each limit."""
    found: dict[str, str] = {}
    body = ast.parse(Path(limits.__file__).read_text()).body
    for at, node in enumerate(body):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        value = getattr(limits, name)
        if isinstance(value, limits.Limit):
            found[name] = value.unit
        elif name.isupper():
            text: Any = body[at + 1]
            found[name] = text.value.value.partition(":")[0]
    return found


def test_each_limit_of_what_is_kept_has_a_resource_or_a_reason() -> None:
    """A new bounded table is in the sum of all, or here is why not."""
    given = units()
    first = {name: unit.partition(" ")[0] for name, unit in given.items()}
    assert set(first.values()) == NUMBERS | EFFORT, "a new unit: is it one of things that are kept?"
    kept = {name for name, unit in first.items()
            if (unit in NUMBERS and given[name] != "questions a second") or name.endswith("_OCTETS")}
    listed = [*COUNTED, *(name for text in EXEMPT.values() for name in text.split())]
    assert len(listed) == len(set(listed))
    assert set(listed) == kept


# --- the sum --------------------------------------------------------------------------------------------------------


class Host:
    """What the lists of watchers need of a worker."""

    loop = timers = current = None


def everything(tmp_path: Path) -> Settings:
    """Settings with all that can be counted."""
    (tmp_path / "hooks.py").write_text("def client(query, question):\n    return None\n")
    (tmp_path / "ads").write_text("0.0.0.0 ads.example\n")
    (tmp_path / "rpz").write_text("@ SOA a. b. 1 2 3 4 5\n32.1.2.0.192.rpz-ip CNAME .\nbad TXT text\n")
    return Settings(
        second_level_cache=SecondLevelSettings(servers=("unix:/nonexistent",)),
        client_subnet=SubnetSettings(zones=("example.com",)),
        list=(ListSettings(name="ads", file=str(tmp_path / "ads"), format="hosts"),),
        rpz=(RpzSettings(name="rpz.example", file=str(tmp_path / "rpz")),),
        policy=PolicySettings(modules=(str(tmp_path / "hooks.py"),)),
        query_log=QueryLogSettings(file=str(tmp_path / "log")),
        zones=ZonesSettings(root="local"),
        iteration=IterationSettings(opportunistic_encryption="dot"),
    )


def listener(protocol: str) -> Any:
    return SimpleNamespace(
        endpoint=SimpleNamespace(protocol=protocol), udp=[SimpleNamespace(lane_octets=7)] * 2,
        tcp=SimpleNamespace(connections=2, max_connections=3, octets=10, octets_limit=30),
    )


@pytest.mark.parametrize("first", [True, False])
def test_the_sum_is_that_of_all_resources(tmp_path: Path, first: bool) -> None:
    async def main() -> None:
        settings = everything(tmp_path)
        runtime = RuntimeConfig(settings, Store.create(1 << 20, seed=bytes(16)), asyncio.get_running_loop())
        upstream = runtime.resolver.upstream
        runtime.certificates = SimpleNamespace(memory=lambda: Held("client_tls_sessions", 3, 9))  # type: ignore[assignment]
        for protocol in ("tls", "https", "quic"):
            upstream._encrypted(protocol)
        upstream._opportunistic()
        keeper = ZoneKeeper(settings, ZoneTable(), None, leads=True, now=int, changed=print, flush=print)
        runtime.service.zone_server = ZoneServer(settings, ZoneTable(), keeper.history_of, int, print, runtime.service)
        others = [*Watching(Host()).memory(), *keeper.memory()]
        servers: Any = {
            name: SimpleNamespace(connections=1, max_connections=2, octets=5) for name in ("control", "metrics", "web")
        }
        listeners = [listener(protocol) for protocol in ("dns", "dns", "tls", "https", "quic")]
        found = usage(runtime, listeners, servers, shared=first, others=others)
        octets, most = found["octets"], found["octets_limit"]
        counted = set(octets) - {CACHE}
        assert set(COUNTED.values()) <= counted
        assert counted - set(COUNTED.values()) <= {
            "client_https_connections", "client_tls_connections", "pending_queries_verified", "query_log",
            "server_addresses", "subnet_servers", "tls_sessions", "upstream_https_connections",
            "upstream_opportunistic_connections", "upstream_quic_connections"}
        assert (CACHE in octets) is first
        assert found["memory"] == sum(octets[name] for name in counted)
        assert found["memory_limit"] == sum(most[name] for name in counted)
        assert all(octets[name] <= most[name] for name in octets)
        assert octets["client_tcp_connections"] == 20 and most["client_tcp_connections"] == 60
        assert octets["lane_buffers"] == most["lane_buffers"] == 70
        assert {name for name in counted if octets[name] == most[name]} == ALLOCATED
        assert octets["list_content"] > limits.RPZ_PREFIX_OCTETS + 2 * limits.RPZ_RULE_OVERHEAD
        runtime.resolver.close()
        runtime.observation.close()

    run_on("corenet", main())


# --- what is told is no less than what it takes -----------------------------------------------------------------------

Told = Callable[[], Held]
ENDS: list[Callable[[], None]] = []
"""What the running test has to close."""


def label_name(number: int, labels: int = 3) -> bytes:
    """A long name, another one for each number."""
    return b"".join(b"\x3d%061d" % (number * 9 + n) for n in range(labels)) + b"\3com\0"


def client_address(number: int) -> str:
    return f"2001:db8:{number:x}:1111:2222:3333:4444:5555"


class Transport(asyncio.Transport):
    """A client that sends and never reads."""

    def __init__(self, number: int) -> None:
        self.peer, self.unread, self.closing = (client_address(number), 40_000, 0, 0), b"", False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peer if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return len(self.unread)

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: Any) -> None:
        self.unread += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.closing = True


def open_parts() -> Parts:
    return Parts(
        Settings(policy=PolicySettings(allow=("::/0",)), client_subnet=SubnetSettings(zones=("com",))),
        pending_queries=100_000, pending_queries_network_percent=100, tcp_connections=10_000,
        tcp_connections_network_percent=100, tcp_pipeline=1,
    )


def all_of(*parts: Any) -> Told:
    """The sum of what several say."""
    def told() -> Held:
        held = [one for part in parts for one in part()]
        return Held("all", sum(one.octets for one in held), sum(one.limit for one in held))

    return told


def waiting_queries() -> tuple[Callable[[int], object], Told]:
    parts = open_parts()

    def fill(number: int) -> None:
        wire = query(identity=number, qname=label_name(number), options=[(c.OPTION_NSID, b""), (65_002, bytes(240))])
        assert len(wire) > limits.STORED_QUERY_OCTETS - 64
        assert parts.service.handle(wire, (client_address(number), 40_000, 0, 0), parts.sink)

    return fill, all_of(parts.service.memory)


def client_connections() -> tuple[Callable[[int], object], Told]:
    parts = open_parts()
    made = StreamListener(parts.service, parts.fast, parts.plan.access, parts.settings.server)
    loop = asyncio.get_running_loop()
    made._loop = loop
    made._server = SimpleNamespace(close=lambda: None)  # type: ignore[assignment]

    def fill(number: int) -> None:
        connection = DnsConnection(made)
        transport = Transport(number)
        connection.connection_made(transport)
        if number % 2:
            made.turns.__init__()  # type: ignore[misc]
            connection.data_received(b"\xff\xff" + bytes(16_000))
            assert connection._framer.pending == 16_002
            return
        wires = [query(identity=n, qname=label_name(number * 300 + n, 1)) for n in range(300)]
        data = b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires)
        made.turns.__init__()  # type: ignore[misc]
        connection.data_received(data + bytes(100_000))
        assert len(connection._backlog) > 100 and len(connection._unread) > 100_000
        transport.write(bytes(number))

    return fill, all_of(parts.service.memory, lambda: [Held("", made.octets, made.octets_limit)])


def https_connections(alpn: str) -> tuple[Callable[[int], object], Told]:
    made = HttpListener(None)
    made.tls_context = None
    held: list[Any] = []

    def feed(connection: Any, data: bytes) -> None:
        made.turns.__init__()  # type: ignore[misc]
        connection.received(data)
        while connection._session._unread:
            made.turns.__init__()  # type: ignore[misc]
            connection.turn()

    def fill(number: int) -> None:
        connection, transport = connect(made, alpn)
        held.append(connection)
        if alpn != "h2":
            head = b"POST /dns-query HTTP/1.1\r\nHost: x\r\nContent-Type: application/dns-message\r\n"
            feed(connection, head + b"Content-Length: 60001\r\n\r\n" + bytes(60_000))
            return
        codec = H2Connection()
        codec.feed(b"".join(transport.written))
        transport.written.clear()
        for _ in range(4):
            get = Request(b"GET", b"/dns-query?dns=" + b"AAAA" * 1000, [(b"Host", b"x")])
            codec.send_request(get, end=False)
        for _ in range(3):
            fields = [(b"Host", b"x"), (b"Content-Type", b"application/dns-message")]
            codec.send_data(codec.send_request(Request(b"POST", b"/dns-query", fields), end=False), bytes(20_000))
        feed(connection, codec.data_to_send())

    def told() -> Held:
        waiting = len(made.service.pending) * limits.PENDING_QUERY_OCTETS
        return Held("", sum(one.held for one in held) + waiting, len(held) * limits.CLIENT_CONNECTION_OCTETS)

    return fill, told


def waiting_quic_clients() -> tuple[Callable[[int], object], Told]:
    parts = open_parts()
    made = QuicListener(parts.service, parts.fast, parts.plan.access, parts.settings.server, {})

    def fill(number: int) -> None:
        peer = (client_address(number), 4000, 0, 0)
        pending = made._pending_clients[b"%08d" % number] = _PendingClient(made, bytes(60_000), peer, b"12345678", None)
        for _ in range(limits.QUIC_HELLO):
            pending.add(bytes(60_000), peer)
        assert pending.held <= limits.QUIC_WAITING_OCTETS

    return fill, all_of(lambda: [Held("", made.octets, made.octets_limit)])


def quic_readers() -> tuple[Callable[[int], object], Told]:
    held: list[MessageReader] = []

    def fill(number: int) -> None:
        reader = MessageReader()
        held.append(reader)
        for _ in range(50):
            reader.feed(b"\xff\xff" if not reader.held else bytes(number % 400), False)

    return fill, all_of(lambda: [Held("", limits.EXCHANGE_OVERHEAD + one.octets, 1 << 20) for one in held])


def ask(number: int, *, tcp: bool) -> Ask:
    name, address = label_name(number), f"127.1.{number // 250}.{number % 250 + 1}"
    return Ask(Server(address, 53), name, c.A, tcp=tcp, edns_payload=1232, timeout=5.0, zone=name[62:])


def upstream_queries(tcp: bool) -> tuple[Callable[[int], object], Told]:
    loop, held = asyncio.get_running_loop(), []
    made = StreamUpstream(loop, entropy=Entropy(), connections=1) if tcp else UdpUpstream(
        loop, entropy=Entropy(), sockets=2)
    ENDS.append(made.close)

    def fill(number: int) -> None:
        held.append(made.start(ask(number, tcp=tcp), print))

    def told() -> Held:
        count = made.query_count if isinstance(made, StreamUpstream) else made.pending
        extra = 0 if isinstance(made, StreamUpstream) else made.addresses * limits.UPSTREAM_ADDRESS_OCTETS
        return Held("", count * limits.UPSTREAM_QUERY_OCTETS + extra, limits.JOBS * limits.UPSTREAM_QUERY_OCTETS)

    return fill, told


def upstream_connections() -> tuple[Callable[[int], object], Told]:
    owner: Any = StreamUpstream(asyncio.get_running_loop(), entropy=Entropy())

    def fill(number: int) -> None:
        queue = ServerQueue(Server(client_address(number), 53), label_name(number))
        connection = UpstreamConnection(owner, queue)
        connection.transport = Transport(number)
        connection.framer.feed(b"\xff\xff" + bytes(40_000))
        owner._open[connection] = 1.0
        queue.connections.append(connection)

    return fill, lambda: Held("", owner.octets, 2000 * owner.connection_octets)


def probed_servers() -> tuple[Callable[[int], object], Told]:
    table = ProbeTable(1000)

    def fill(number: int) -> None:
        table.begin(client_address(number), 1.5 + number)
        table.end(client_address(number), Outcome.SUCCEEDED, 2.5 + number)
        table.note_reply(client_address(number), 3.5 + number)

    return fill, lambda: Held("", len(table) * limits.OPPORTUNISTIC_SERVER_OCTETS, 10**9)


def replied_networks() -> tuple[Callable[[int], object], Told]:
    networks = RepliedNetworks()
    return (lambda number: networks.add_reply(client_address(number))), (
        lambda: Held("", len(networks) * limits.UPSTREAM_NETWORK_OCTETS, 10**9))


def subnet_clients() -> tuple[Callable[[int], object], Told]:
    side = ClientSide(SubnetSettings(zones=("com",)))
    return (lambda number: side.subnet_of(client_address(number), b"")), (
        lambda: Held("", side.remembered * limits.SUBNET_CLIENT_OCTETS, 10**9))


def log_lines() -> tuple[Callable[[int], object], Told]:
    suppressed = DuplicateFilter(1000.0, lambda: 1.0)

    def fill(number: int) -> None:
        text = f"{number:09}" + "\N{GRINNING FACE}" * 100_000
        suppressed.filter(logging.LogRecord("resolver.net.x", logging.WARNING, "", 1, text, (), None))

    size = limits.LOG_LINE_OCTETS
    return fill, lambda: Held("", suppressed.remembered * size, limits.LOG_MEMORY * size)


def top_keys() -> tuple[Callable[[int], object], Told]:
    watching = Watching(Host())
    watching._watchers = {str(number): _Watcher() for number in range(limits.TOP_WATCHERS)}

    def fill(number: int) -> None:
        for watcher in watching._watchers.values():
            for kind in KINDS:
                watcher.lists[kind].add(label_name(number) + bytes(60), number + 0.5)

    return fill, all_of(watching.memory)


def records(number: int, count: int = 20, size: int = 30) -> list[Any]:
    return [(b"\x0c%012d" % (number * count + n) + names.from_text("example.com."), c.TXT, 300 + n,
             bytes([size]) + random.Random(number * count + n).randbytes(size)) for n in range(count)]


SOA = (names.from_text("example.com."), c.SOA, 60, names.ROOT * 2 + bytes(20))
NS = (names.from_text("example.com."), c.NS, 60, names.from_text("ns.example.net."))


def zone_history() -> tuple[Callable[[int], object], Told]:
    history = History()
    return (lambda number: history.add(Difference([SOA, *records(number)], [SOA, *records(number + 10**6)]))), (
        lambda: Held("", history.octets, limits.ZONE_HISTORY_OCTETS))


def zone_content() -> tuple[Callable[[int], object], Told]:
    held: list[Zone] = []
    return (lambda number: held.append(Zone.from_records(SOA[0], [SOA, NS, *records(number)]))), (
        lambda: Held("", sum(zone.memory for zone in held), 10**9))


def transfers() -> tuple[Callable[[int], object], Told]:
    held: list[Any] = []

    def fill(number: int) -> None:
        transfer = Transfer(SOA[0], 1, None)
        found = [SOA, NS, *records(number, 100)]
        transfer._soa, transfer._records = SOA, found
        transfer.count, transfer.expanded = len(found), sum(len(one[0]) + len(one[3]) for one in found)
        held.append((transfer, Zone.from_records(SOA[0], found)))

    return fill, lambda: Held("", sum(one.held for one, _ in held), 10**9)


def policy_zones() -> tuple[Callable[[int], object], Told]:
    held: list[Any] = []
    folder = TemporaryDirectory()
    ENDS.append(folder.cleanup)
    path = Path(folder.name) / "rpz"

    def fill(number: int) -> None:
        lines = ["@ SOA a. b. 1 2 3 4 5", *(f"n{n} TXT {n} {number} text{n}" for n in range(40)),
                 *(f"32.{n}.{number % 200}.0.192.rpz-ip CNAME ." for n in range(40))]
        path.write_text("\n".join(lines))
        held.append(load(RpzSettings(name="rpz.example", file=str(path)), bytes(16)))

    return fill, lambda: Held("", sum(one.octets for one in held), 10**9)


FILLERS: dict[str, tuple[Callable[[], tuple[Callable[[int], object], Told]], int]] = {
    "waiting queries": (waiting_queries, 500), "client connections": (client_connections, 20),
    "HTTP/1.1": (lambda: https_connections("http/1.1"), 20), "HTTP/2": (lambda: https_connections("h2"), 20),
    "QUIC, waiting": (waiting_quic_clients, 20), "QUIC, streams": (quic_readers, 200),
    "upstream queries, TCP": (lambda: upstream_queries(True), 500),
    "upstream queries, UDP": (lambda: upstream_queries(False), 500), "upstream connections": (upstream_connections, 50),
    "probed servers": (probed_servers, 1500), "networks": (replied_networks, 1000), "subnets": (subnet_clients, 1000),
    "log lines": (log_lines, 100), "top": (top_keys, 300), "zone history": (zone_history, 100),
    "zones": (zone_content, 20), "transfers": (transfers, 20), "policy zones": (policy_zones, 10),
}


@pytest.mark.parametrize("name", FILLERS)
def test_octets_are_no_less_than_what_is_taken(name: str) -> None:
    async def main() -> None:
        make, count = FILLERS[name]
        fill, told = make()
        for number in range(10):
            fill(number)
        gc.collect()
        before = told().octets
        tracemalloc.start()
        try:
            began = tracemalloc.get_traced_memory()[0]
            for number in range(10, count + 10):
                fill(number)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - began
        finally:
            tracemalloc.stop()
        found = told()
        while ENDS:
            ENDS.pop()()
        assert 0 < grown <= found.octets - before
        assert found.octets <= found.limit

    run_on("corenet", main())


# --- other counts ---------------------------------------------------------------------------------------------------


def test_records_that_are_not_written_are_counted() -> None:
    pieces = Pieces(limits.OBSERVE_BUFFER.minimum)
    assert pieces.octets == 0
    assert pieces.add(b"x")
    assert pieces.octets == limits.OBSERVE_PIECE
    while pieces.add(bytes(1000)):
        pass
    assert pieces.octets == pieces.limit == limits.OBSERVE_BUFFER.minimum
    assert pieces.take() is not None
    assert pieces.octets == pieces.limit
    pieces.give_back()
    assert pieces.octets == pieces.limit - limits.OBSERVE_PIECE


def test_unread_replies_of_operators_are_counted() -> None:
    class Server(ManagementServer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    server: Any = Server(8, 1000, 1.0)
    assert server.octets == 0
    writer = SimpleNamespace(transport=SimpleNamespace(get_write_buffer_size=lambda: 70_000))
    server._open = {1: writer, 2: writer}
    assert server.octets == 2 * (70_000 + limits.MANAGEMENT_OVERHEAD)


def test_views_share_the_verified_signatures() -> None:
    settings = Settings()
    base = load_validator(settings)
    made = load_validator(settings, base, ("example.com",))
    assert base is not None and made is not None and not made.tables
    made.chain.remember(bytes(32))
    assert base.chain.signatures.octets == limits.KNOWN_SIGNATURE_OCTETS
    assert base.chain.signatures.limit == limits.KNOWN_SIGNATURES * limits.KNOWN_SIGNATURE_OCTETS


def test_transfers_in_progress_are_counted() -> None:
    keeper = ZoneKeeper(Settings(zones=ZonesSettings(root="local")), ZoneTable(), None, leads=True, now=int,
                        changed=print, flush=print)
    keeper._client._running = [SimpleNamespace(held=5), SimpleNamespace(held=6)]  # type: ignore[assignment]
    assert {one.name: one.octets for one in keeper.memory()}["zone_transfers"] == 11
