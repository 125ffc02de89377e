"""Limits that may be set: wherever one is set, both ends of its range are accepted and what lies beyond is refused."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import corenet
import corenet.limits
import resolver.limits
from corenet.core.framer import DelimiterFramer, FixedFramer, LengthFramer
from corenet.http import Cache, HttpClient, Limits, Retries
from corenet.http.cli_options import UsageError, parse, targets
from corenet.http.h1 import CLIENT, H1Codec
from corenet.http.h2 import H2Connection
from resolver import system
from resolver.cache.arena import Arena
from resolver.cache.infra import InfraCache
from resolver.cache.store import Store
from resolver.cli import control, grammar, top
from resolver.daemon.change_keeper import lifetime_of
from resolver.daemon.top import Top
from resolver.net.fastpath import FastPath
from resolver.observe.pieces import Pieces
from resolver.playground import __main__ as playground
from resolver.policy.list_formats import ListReader
from resolver.policy.name_table import NameTableBuilder
from resolver.settings import BalanceSettings, ServerSettings, Settings, TargetSettings
from resolver.settings.lists import ListSettings

Place = tuple[str, str, Callable[[Any], object]]


def serve(**options: Any) -> None:
    """`corenet.serve` in another thread, where it checks its arguments and then refuses to begin."""
    found: list[Exception] = []

    def run() -> None:
        try:
            corenet.serve(asyncio.Protocol, ("127.0.0.1", 0), **options)
        except (ValueError, RuntimeError) as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive() and len(found) == 1
    if isinstance(found[0], ValueError):
        raise found[0]


def store(**options: Any) -> Store:
    return Store.create(1 << 20, seed=bytes(16), **options)


def framed(**options: Any) -> corenet.FramedProtocol:
    return corenet.FramedProtocol(LengthFramer(4), **options)


def loop_places() -> Iterator[Place]:
    yield "FRAME_MAX_SIZE", "LengthFramer", lambda value: LengthFramer(8, max_frame=value)
    yield "FRAME_MAX_SIZE", "DelimiterFramer", lambda value: DelimiterFramer(b"\n", max_frame=value)
    yield "FRAME_MAX_SIZE", "FixedFramer", FixedFramer
    yield "FRAME_DELIMITER_SIZE", "DelimiterFramer", lambda value: DelimiterFramer(b"x" * value)
    yield "FRAMES_PER_CALL", "FramedProtocol", lambda value: framed(batch=value)
    for name, option in (
        ("KEEPALIVE_SECONDS", "keepalive_idle"), ("KEEPALIVE_SECONDS", "keepalive_interval"),
        ("KEEPALIVE_COUNT", "keepalive_count"), ("LINGER", "linger"), ("BACKLOG", "fast_open"), ("BACKLOG", "backlog"),
        ("DEFER_ACCEPT", "defer_accept"), ("BUFFER_SIZE", "receive_buffer"),
        ("BUFFER_SIZE", "send_buffer"), ("BUFFER_SIZE", "unsent_low_water"), ("TRAFFIC_CLASS", "traffic_class"),
    ):  # fmt: skip
        yield f"OPTION_{name}", option, lambda value, option=option: corenet.SocketOptions(**{option: value})
    yield "OPTION_USER_TIMEOUT", "user_timeout", lambda value: corenet.SocketOptions(user_timeout=value / 1000)
    yield "SERVE_WORKERS", "serve", lambda value: serve(workers=value)
    yield "SERVE_BACKLOG", "serve", lambda value: serve(backlog=value)
    yield "SERVE_GRACEFUL_TIMEOUT", "serve", lambda value: serve(grace=value)
    yield "HTTP_HEAD_SIZE", "HttpClient", lambda value: HttpClient(max_head=value)
    yield "HTTP_HEAD_SIZE", "H1Codec", lambda value: H1Codec(CLIENT, max_head=value)
    yield "HTTP_FIELD_COUNT", "H1Codec", lambda value: H1Codec(CLIENT, max_fields=value)
    yield "HTTP_HEAD_SIZE", "H2Connection", lambda value: H2Connection(max_head=value)
    yield "HTTP_FIELD_COUNT", "H2Connection", lambda value: H2Connection(max_fields=value)
    yield "HPACK_TABLE_SIZE", "H2Connection", lambda value: H2Connection(table_size=value)
    yield "HTTP2_STREAM_WINDOW", "H2Connection", lambda value: H2Connection(window=value)
    yield "HTTP2_CONNECTION_WINDOW", "H2Connection", lambda value: H2Connection(connection_window=value)
    yield "HTTP2_MAX_STREAMS", "H2Connection", lambda value: H2Connection(max_streams=value)
    yield "HTTP2_REQUESTS", "Limits", lambda value: Limits(streams=value)
    yield "HTTP_BODY_SIZE", "HttpClient", lambda value: HttpClient(max_body=value)
    yield "HTTP_DECODED_SIZE", "HttpClient", lambda value: HttpClient(max_decoded=value)
    yield "HTTP_CACHE_BYTES", "Cache", lambda value: Cache(max_bytes=value)
    yield "HTTP_MAX_REDIRECTS", "HttpClient", lambda value: HttpClient(follow_redirects=value)
    yield "HTTP_MAX_CONNECTIONS", "Limits", lambda value: Limits(connections=value)
    yield "HTTP_MAX_PER_ORIGIN", "Limits", lambda value: Limits(per_origin=value)
    yield "HTTP_KEEPALIVE_TIMEOUT", "Limits", lambda value: Limits(keepalive_timeout=value)
    yield "HTTP_CLI_PARALLEL", "--parallel-max", lambda value: command("--parallel-max", value)
    yield "HTTP_RETRIES", "Retries", lambda value: Retries(count=value)
    yield "HTTP_RETRY_MAX_DELAY", "Retries", lambda value: Retries(max_delay=value)


def command(option: str, value: int) -> object:
    try:
        return targets(parse(["get", "http://x/", option, str(value)]))
    except UsageError as error:
        raise ValueError(str(error)) from error


def settings_places() -> Iterator[Place]:
    """Every field of the settings that has a limit."""
    names = {id(limit): name for name, limit in vars(resolver.limits).items()}
    # What a field demands of another one.
    beside = {"signature_skew_min": {"signature_skew_max": 2_592_000.0}}
    for section in fields(Settings):
        kind = type(getattr(Settings(), section.name))
        for field in fields(kind) if section.name != "root_hints" and hasattr(kind, "__dataclass_fields__") else ():
            limit, scale = field.metadata.get("limit"), field.metadata.get("scale", 1)
            if limit is not None:

                def put(value: int, kind: Any = kind, name: str = field.name, scale: int = scale) -> object:
                    return kind(**beside.get(name, {}), **{name: value / scale if scale != 1 else value})

                yield names[id(limit)], f"{section.name}.{field.name}", put


def balance(key: str, scale: int, value: int) -> object:
    given: dict[str, Any] = {key: value / scale if scale > 1 else value}
    return BalanceSettings(name="a", target=(TargetSettings("::1"),), **given)


def admit(**request: int) -> object:
    async def body() -> object:
        return Top().admit(request)

    return asyncio.run(body())


def top_options(*words: object) -> None:
    top.check_options(control.parser().parse_args(["top", *map(str, words)]))


def resolver_places() -> Iterator[Place]:
    yield "LIST_INTERVAL", "list.interval", lambda value: ListSettings(name="a", file="a", interval=value)
    yield "LIST_BYTES", "most_bytes", lambda value: ListReader("hosts", bytes(16), most_bytes=value)
    yield "LIST_NAMES", "most_names", lambda value: NameTableBuilder(bytes(16), most_names=value)
    yield "LIST_TABLE_BYTES", "most_bytes", lambda value: NameTableBuilder(bytes(16), most_bytes=value)
    yield from settings_places()
    yield "BALANCE_WEIGHT", "balance.target.weight", lambda value: TargetSettings("::1", weight=value)
    for name, key, scale in (("MOST", "most", 1), ("TTL", "ttl", 1), ("INTERVAL", "interval", 1000),
                             ("TIMEOUT", "timeout", 1000), ("RISE", "rise", 1), ("FALL", "fall", 1)):
        yield f"BALANCE_{name}", f"balance.{key}", partial(balance, key, scale)
    yield "NTA_LIFETIME", "nta add", lambda value: lifetime_of(f"{value}s")
    yield "TOP_KEEP", "top", lambda value: admit(keep=value)
    yield "TOP_LINES", "top", lambda value: admit(lines=value)
    yield "TOP_LINES", "resolverctl top", lambda value: top_options("--lines", value)
    yield "TOP_INTERVAL", "resolverctl top", lambda value: top_options("--interval", value)
    yield "NSID_SIZE", "server.nsid", lambda value: ServerSettings(nsid="x" * value)
    yield "CACHE_MAX_TTL", "Store", lambda value: store(max_ttl=value)
    yield "CACHE_MAX_NEGATIVE_TTL", "Store", lambda value: store(max_negative_ttl=value)
    yield "EDNS_PAYLOAD", "Store", lambda value: store(payload=value)
    yield "EDNS_PAYLOAD", "FastPath", lambda value: FastPath(store().answers, largest_reply=value)
    yield "EDNS_PAYLOAD", "rdig +bufsize", lambda value: grammar.parse(["@::1", "x", f"+bufsize={value}"])
    yield "CACHE_SERVERS", "InfraCache", InfraCache
    yield "OBSERVE_BUFFER", "Pieces", Pieces
    yield "UPSTREAM_PORT", "rdig -p", lambda value: grammar.parse(["@::1", "x", "-p", str(value)])
    yield "PLAYGROUND_PORT", "playground --port", lambda value: playground.main(["--port", str(value), "--list"])


def name_of(place: Place) -> str:
    return f"{place[0]}-{place[1]}"


@pytest.mark.parametrize("place", [*loop_places(), *resolver_places()], ids=name_of)
@pytest.mark.parametrize("end", ["minimum", "maximum"])
def test_ends_of_ranges(place: Place, end: str) -> None:
    name, _, put = place
    limit: Any = getattr(corenet.limits, name, None) or getattr(resolver.limits, name)
    value = getattr(limit, end)
    if name != "NSID_SIZE" or end == "maximum":
        with pytest.raises((ValueError, grammar.UsageError, SystemExit)):
            put(value + (1 if end == "maximum" else -1))
    put(value)


@pytest.mark.parametrize("beyond", [-1, 1])
def test_size_of_an_arena(beyond: int) -> None:
    """The largest itself is more address space than every machine gives."""
    limit = resolver.limits.ARENA_BYTES
    with pytest.raises(ValueError, match=r"cache size: \d+ is outside"):
        Arena(limit.minimum - 1 if beyond < 0 else limit.maximum + 1)
    Arena(limit.minimum)


@pytest.mark.parametrize(
    ("name", "put"),
    [
        ("DIG_TIMEOUT", lambda value: grammar.parse(["@::1", "x", f"+timeout={value}"])),
        ("RESOLVERCTL_TIMEOUT", lambda value: control_exit(value)),
    ],
)
def test_waiting_times_of_tools(name: str, put: Callable[[Any], object]) -> None:
    """Zero itself would be no time at all."""
    limit = getattr(resolver.limits, name)
    for wrong in (limit.minimum, limit.minimum - 1, limit.maximum + 1, "nan"):
        with pytest.raises(ValueError):
            put(wrong)
    put(limit.maximum)
    put(0.001)


def control_exit(seconds: object) -> None:
    status = control.main(["-s", "/nonexistent/socket", "-t", str(seconds), "status"])
    if status == control.EXIT_USAGE:
        raise ValueError(seconds)
    assert status == control.EXIT_UNREACHABLE


def test_numbers_of_resolv_conf_are_clamped() -> None:
    """resolv.conf(5): what is beyond the range silently becomes its end."""
    limit = resolver.limits.RESOLV_NDOTS
    least, most = limit.minimum, limit.maximum
    for given, meant in ((least, least), (most, most), (most + 1, most), (0, least)):
        assert system.parse_resolv_conf(f"options ndots:{given}\n".encode()).ndots == meant


def test_each_limit_with_a_range_is_set_somewhere() -> None:
    """What nobody may set is a constant."""
    shown = {place[0] for place in (*loop_places(), *resolver_places())}
    shown |= {"ARENA_BYTES", "DIG_TIMEOUT", "RESOLVERCTL_TIMEOUT", "RESOLV_NDOTS"}
    for module in (corenet.limits, resolver.limits):
        for name, limit in vars(module).items():
            if isinstance(limit, module.Limit):
                assert name in shown, f"where is {name} set?"
                assert limit.minimum <= limit.default <= limit.maximum, name


# --- constants of the C code ------------------------------------------------------------------------------------------

# Each constant of an enum from 100 on, each array from 16 elements on, each list of freed objects: the value from
# `limits` with which it must agree (a range: it must not be smaller), or why it is not a limit that could be changed.
WIRE = "a size of the format"
LISTS = "freed objects that are used again; a decorator takes literals only"
LARGE_CONSTANTS: dict[str, int | range | str] = {
    "corenet/core/scheduler.pyx: ALL_EVENTS": "more than any batch",
    "corenet/core/framer.pxd: delimiter_bytes[]": corenet.limits.FRAME_DELIMITER_SIZE.maximum,
    "corenet/core/framer.pyx: boundary[]": 2 * (corenet.limits.FRAME_DELIMITER_SIZE.maximum - 1),
    "corenet/core/handles.pyx: freelist": LISTS,
    "corenet/core/libc.pxd: s6_addr[]": WIRE,
    "corenet/core/libc.pxd: sun_path[]": WIRE,
    "corenet/core/poller.pyx: LONGEST_WAIT_MS": "what fits into the argument of epoll_wait",
    "corenet/core/views.pyx: freelist": LISTS,
    "corenet/http/field_grammar.pxd: corenet_http_class[]": "one entry for each byte",
    "corenet/http/h2_frames.pxd: LARGEST_MAX_FRAME_SIZE": WIRE,
    "corenet/http/h2_frames.pxd: INITIAL_MAX_FRAME_SIZE": WIRE,
    "corenet/http/h2_streams.pxd: DEFAULT_WINDOW": WIRE,
    "corenet/http/hpack.pyx: END_OF_STRING": WIRE,
    "corenet/http/hpack.pyx: FIRST_OCTETS": "grows when more is needed",
    "corenet/http/hpack.pyx: HUFFMAN_STATES": WIRE,
    "corenet/http/hpack.pyx: HUFFMAN_SYMBOLS": WIRE,
    "corenet/http/hpack.pyx: STACK_TEXT_OCTETS": "longer strings are decoded into memory of their own",
    "corenet/tls/engine.pxd: LONGEST_BODY": corenet.limits.TLS_RECORD_SIZE,
    "corenet/tls/libssl.pyx: LOOKED_AT": "where the fields of OpenSSL's structs that are compared lie",
    "corenet/tls/openssl_engine.pyx: FLIGHT": "grows when more is needed",
    "corenet/tls/openssl_engine.pyx: RECORD": WIRE,
    "corenet/tls/openssl_engine.pyx: SESSION_STRUCT": "an estimate",
    "corenet/transports/address.pyx: text[]": "the text of an address",
    "corenet/transports/datagram_batch.pxd: BATCH": corenet.limits.DATAGRAM_BATCH,
    "corenet/transports/datagram_batch.pxd: CONTROL": "room for the control messages that are asked for",
    "corenet/transports/datagram_batch.pxd: SEGMENTS": 128 * corenet.limits.DATAGRAM_BATCH,
    "corenet/transports/datagram_batch.pxd: SLOT": corenet.limits.DATAGRAM_SLOT_SIZE,
    "corenet/transports/datagram_batch.pxd: STRIDE": corenet.limits.DATAGRAM_SLOT_SIZE + 320,
    "corenet/transports/address.pxd: address[]": WIRE,
    "corenet/transports/datagram_batch.pyx: nothing[]": WIRE,
    "corenet/transports/frame_splitter.pyx: tail[]": corenet.limits.FRAME_DELIMITER_SIZE.maximum,
    "corenet/transports/reader.pyx: freelist": LISTS,
    "resolver/cache/answers.pxd: ANSWER_KEY": WIRE,
    "resolver/cache/answers.pxd: data[]": WIRE,
    "resolver/cache/answers.pyx: MAX_OPTIONS": "one buffer of the fast path; longer options go the slow way",
    "resolver/cache/answers.pyx: MAX_RECORDS": resolver.limits.MESSAGE_RECORDS,
    "resolver/cache/answers.pyx: held[]": "an IPv6 address",
    "resolver/cache/answers.pyx: out[]": "a name and its question",
    "resolver/cache/arena.pxd: ARENA_PAGE": "the page of the machine",
    "resolver/cache/lookup.pxd: KEY_LIMIT": "more than the longest key, which holds two names",
    "resolver/cache/lookup.pxd: name[]": WIRE,
    "resolver/cache/rrsets.pyx: KEY_SIZE": WIRE,
    "resolver/cache/writers.pyx: path[]": "a name below /proc",
    "resolver/net/clock_random.pxd: buffer[]": "random octets drawn at a time",
    "resolver/net/clock_random.pyx: block[]": "the most that a caller may ask for, which is checked",
    "resolver/net/cookies.pyx: AHEAD": "RFC 9018 section 4.3",
    "resolver/net/cookies.pyx: LIFETIME": "RFC 9018 section 4.3",
    "resolver/net/cookies.pyx: RENEWED_AFTER": "RFC 9018 section 4.3",
    "resolver/net/fastpath.pxd: malformed[]": "a counter for each code of an error",
    "resolver/net/fastpath.pxd: stream_ip[]": WIRE,
    "resolver/net/fastpath.pyx: TYPES_WITH_SLOT": "numbers of types that have counters of their own are below it",
    "resolver/net/fastpath.pyx: LARGEST_BLOCK": "the largest padding_block that the fast path is given",
    "resolver/net/fastpath.pyx: freelist": LISTS,
    "resolver/net/libc.pxd: s6_addr[]": WIRE,
    "resolver/net/match.pyx: bits[]": "a bit for each letter of a name",
    "resolver/net/native.pyx: NANOSECONDS": "a unit",
    "resolver/net/native.pyx: UNTIMED": "a mask: one cached answer of 256 is timed",
    "resolver/net/rate_limit.pxd: ip[]": WIRE,
    "resolver/net/reserve.pyx: CAPACITY": "5/4 of MOST_BLOCKS",
    "resolver/net/reserve.pyx: MOST_BLOCKS": range(
        resolver.limits.MEMORY_RESERVE // resolver.limits.MEMORY_RESERVE_BLOCK
    ),
    "resolver/net/udp_upstream.pyx: SLOTS": "slots of the timeout wheel; longer timeouts go round again",
    "resolver/net/udp_upstream.pyx: ancillary[]": "room for the control messages that are asked for",
    "resolver/net/udp_upstream.pyx: freelist": LISTS,
    "resolver/net/udp_upstream.pyx: quoted[]": "as much of a packet as an ICMP error quotes",
    "resolver/observe/dnstap.pyx: D_MESSAGE": WIRE,
    "resolver/observe/dnstap.pyx: D_TYPE": WIRE,
    "resolver/observe/dnstap.pyx: M_RESPONSE": WIRE,
    "resolver/observe/dnstap.pyx: M_RESPONSE_NANOSECONDS": WIRE,
    "resolver/observe/dnstap.pyx: number[]": "a number of variable length",
    "resolver/observe/log_line.pxd: LINE_SPACE": "more than the longest line",
    "resolver/observe/log_line.pxd: stamp[]": "a date and a time",
    "resolver/observe/log_line.pxd: view_size[]": range(resolver.limits.VIEWS + 1),
    "resolver/observe/log_line.pxd: views[]": range(resolver.limits.VIEWS + 1),
    "resolver/observe/log_line.pyx: NANOSECONDS": "a unit",
    "resolver/observe/log_line.pyx: OCTETS": "one entry for each byte",
    "resolver/observe/log_line.pyx: SECONDS_A_DAY": "a unit",
    "resolver/observe/log_line.pyx: TYPE_TEXTS": "an entry for each low type",
    "resolver/observe/observer.pxd: address[]": WIRE,
    "resolver/observe/observer.pxd: logs_view[]": range(resolver.limits.VIEWS + 1),
    "resolver/observe/observer.pyx: address[]": WIRE,
    "resolver/observe/observer.pyx: freelist": LISTS,
    "resolver/observe/observer.pyx: masked[]": WIRE,
    "resolver/observe/pieces.pxd: PIECE": resolver.limits.OBSERVE_PIECE,
    "resolver/observe/samples.pxd: SAMPLE_NAME": WIRE,
    "resolver/observe/samples.pxd: address[]": WIRE,
    "resolver/policy/name_table.pxd: depths[]": "a byte for each number of labels",
    "resolver/policy/name_table.pyx: HUGE_PAGE": "the page of the machine",
    "resolver/policy/name_table.pyx: LARGEST_VALUE": WIRE,
    "resolver/validate/fields.pyx: NAME_SIZE": WIRE,
    "resolver/validate/fields.pyx: freelist": LISTS,
    "resolver/wire/build.pxd: _targets[]": range(resolver.limits.COMPRESSION_ENTRIES),
    "resolver/wire/build.pyx: FIRST_CAPACITY": "grows when more is needed",
    "resolver/wire/build.pyx: SLOTS": range(resolver.limits.COMPRESSION_ENTRIES),
    "resolver/wire/consts.pxd: LABELS_MAX": WIRE,
    "resolver/wire/consts.pxd: MESSAGE_MAX": WIRE,
    "resolver/wire/consts.pxd: NAME_MAX": WIRE,
    "resolver/wire/consts.pxd: PAYLOAD_MIN": WIRE,
    "resolver/wire/edns.pyx: freelist": LISTS,
    "resolver/wire/rdata.pyx: _compressible[]": "an entry for each low type",
    "resolver/wire/rdata.pyx: _low[]": "an entry for each low type",
    "resolver/wire/rrset.pxd: UNKNOWN_ZONE": "more labels than a name has",
    "resolver/wire/rrset.pxd: PUBLIC_ZONE": "a bit that no number of labels needs",
    "resolver/wire/rrset.pyx: freelist": LISTS,
}


def large_constants() -> dict[str, int]:
    found: dict[str, int] = {}
    root = Path(__file__).resolve().parents[2]
    for package in ("corenet", "resolver"):
        for path in sorted((root / package).rglob("*.p[yx][xd]")):
            name, text = path.relative_to(root).as_posix(), path.read_text()
            for block in re.findall(r"^cdef enum:\n((?: +.*\n|\n)+)", text, re.MULTILINE):
                for member, value in re.findall(r"^ +(\w+) = (\d[\d _<+*]*)", block, re.MULTILINE):
                    number = eval(value)  # digits and operators
                    if (number >= 100 or member == "BATCH") and not member.startswith("T_"):
                        found[f"{name}: {member}"] = number
            found |= {f"{name}: {array}[]": int(size) for array, size in re.findall(r"\w+ \*?(\w+)\[(\d+)\]", text)
                      if int(size) >= 16}
            found |= {f"{name}: freelist": int(size) for size in re.findall(r"freelist\((\d+)\)", text)}
    return found


@pytest.mark.checkout
def test_each_large_constant_of_the_c_code_is_a_limit_or_has_a_reason() -> None:
    """The compiler needs them, so they cannot stand in `limits`; what is a limit must be the same number there."""
    found = large_constants()
    assert found.keys() == LARGE_CONSTANTS.keys()
    for name, said in LARGE_CONSTANTS.items():
        if isinstance(said, range):
            assert found[name] >= len(said), name
        elif isinstance(said, int):
            assert found[name] == said, name
