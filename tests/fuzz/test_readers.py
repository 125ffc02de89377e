"""Every parser of external bytes has a fuzz target: a table, compared with the source.

A module counts as a parser when it defines a function with such a name (parse, read, feed, decode, load, unpack, scrub,
inspect). A new one must be added here, with its targets or with the reason why it needs none.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READER = re.compile(
    r"^\s*(?:async |cp|c)?def [\w \*\[\], |]*?\b(?:parse|read|feed|decode|load|unpack|inspect|scrub)\w*\(", re.M
)
TARGETS = {
    "corenet/core/framer.pyx": ["framer"],
    "corenet/http/auth.py": ["response_fields"],
    "corenet/http/charset.py": ["charset"],
    "corenet/http/cache_rules.py": ["cache"],
    "corenet/http/cookie_rules.py": ["cookies"],
    "corenet/http/dates.py": ["cache", "cookies"],
    "corenet/http/hsts.py": ["cookies"],
    "corenet/http/decode.py": ["decode"],
    "corenet/http/event_stream.py": ["response_fields"],
    "corenet/http/h1.pyx": ["h1"],
    "corenet/http/h2.pyx": ["h2"],
    "corenet/http/h2_frames.pxd": ["h2"],
    "corenet/http/h2_messages.pyx": ["h2"],
    "corenet/http/hpack.pyx": ["hpack", "h2"],
    "corenet/http/service_records.py": ["service_records"],
    "corenet/http/socks5.py": ["socks5"],
    "corenet/http/links.py": ["response_fields"],
    "corenet/http/url.py": ["url"],
    "corenet/tls/certificate.py": ["certificate"],
    "corenet/tls/dane.py": ["service_records"],
    "corenet/tls/engine.pyx": ["tls"],
    "corenet/tls/openssl_engine.pyx": ["tls"],
    "corenet/tls/stdlib_engine.pyx": ["tls"],
    "corenet/transports/frame_splitter.pyx": ["framed"],
    "resolver/cache/rrsets.pyx": ["snapshot", "resolution"],
    "resolver/cache/fleet_messages.py": ["second_level"],
    "resolver/cache/second_level.py": ["second_level"],
    "resolver/cache/snapshot.py": ["snapshot"],
    "resolver/daemon/config.py": ["config"],
    "resolver/daemon/control.py": ["control"],
    "resolver/daemon/management_http.py": ["web"],
    "resolver/daemon/web_access.py": ["web"],
    "resolver/daemon/web_server.py": ["web"],
    "resolver/hints.py": ["system"],
    "resolver/iterate/scrub.py": ["resolution"],
    "resolver/net/fastpath.pyx": ["service"],
    "resolver/net/doh.py": ["doh"],
    "resolver/net/doq.py": ["quic"],
    "resolver/net/quic_packets.py": ["quic"],
    "resolver/net/rate_limit.pyx": ["service"],
    "resolver/net/client_hello.py": ["client_hello"],
    "resolver/net/quic_hello.py": ["quic"],
    "resolver/net/http1_session.py": ["doh"],
    "resolver/net/http2_session.py": ["doh"],
    "resolver/net/match.pyx": ["match"],
    "resolver/net/proxy_protocol.py": ["proxy"],
    "resolver/observe/frame_streams.py": ["frame_streams"],
    "resolver/policy/list_formats.py": ["lists"],
    "resolver/policy/list_source.py": ["lists"],
    "resolver/policy/rpz_text.py": ["lists"],
    "resolver/policy/rpz_zone.py": ["lists", "zone"],
    "resolver/policy/service_hints.py": ["wire_rdata"],
    "resolver/system.py": ["system"],
    "resolver/validate/anchor_file.py": ["anchors"],
    "resolver/validate/fields.pyx": ["dnssec"],
    "resolver/validate/nsec.py": ["dnssec"],
    "resolver/validate/nsec3.py": ["dnssec"],
    "resolver/wire/client_subnet.py": ["client_subnet"],
    "resolver/wire/edns.pyx": ["wire_message", "wire_rdata"],
    "resolver/wire/message.pyx": ["wire_message", "wire_query"],
    "resolver/wire/name.pyx": ["wire_name"],
    "resolver/wire/rdata.pyx": ["wire_rdata"],
    "resolver/wire/records.pyx": ["zone"],
    "resolver/wire/rrset.pyx": ["wire_rdata", "wire_message"],
    "resolver/zones/journal.py": ["zone"],
    "resolver/zones/transfer.py": ["zone"],
}
NONE = {
    "resolver/settings/dns64.py": "the operator's configuration",
    "resolver/upstream_address.py": "the operator's configuration and rdig's arguments",
    "resolver/daemon/certificates.py": "files of the operator: certificate.py and OpenSSL read them",
    "resolver/net/client_contexts.py": "a file of the operator: OpenSSL reads its certificates",
    "corenet/core/__init__.py": "names of the package itself",
    "corenet/core/views.pyx": "views of what framer delivered",
    "corenet/launch.py": "the user's own command line",
    "corenet/http/cli_options.py": "the user's own command line",
    "corenet/http/client.py": "moves events of h1",
    "corenet/http/proxies.py": "the user's own environment",
    "corenet/http/response.py": "hands on what decode and h1 made",
    "corenet/serving/sockets.py": "the caller's own addresses",
    "corenet/serving/worker.py": "the supervisor's own pipe",
    "corenet/tls/context.py": "the user's own files",
    "corenet/tls/libssl.pyx": "reads this process's own memory",
    "corenet/tls/receive.pyx": "moves bytes between engine and protocol; the engine finds the limits of records",
    "corenet/tls/transport.pyx": "moves bytes between OpenSSL and buffers",
    "corenet/transports/address.pyx": "reads addresses that the kernel wrote",
    "corenet/transports/datagram_batch.pyx": "reads control messages that the kernel wrote",
    "corenet/transports/options.py": "reads socket options that the kernel wrote",
    "corenet/transports/pipe.pyx": "moves bytes",
    "corenet/transports/reader.pyx": "moves bytes; framing is fuzzed by framed",
    "corenet/transports/stream.pyx": "moves bytes",
    "corenet/transports/streambase.pyx": "moves bytes",
    "resolver/cli/control.py": "the user's own command line",
    "resolver/cli/grammar.py": "the user's own command line",
    "resolver/daemon/main.py": "the user's own command line",
    "resolver/cli/importers/bind.py": "the operator's own files",
    "resolver/cli/importers/bind_names.py": "the operator's own files",
    "resolver/cli/importers/bind_syntax.py": "the operator's own files",
    "resolver/cli/importers/draft.py": "the operator's own files",
    "resolver/cli/importers/recursor.py": "the operator's own files",
    "resolver/cli/importers/recursor_lua.py": "the operator's own files",
    "resolver/cli/importers/recursor_yaml.py": "the operator's own files",
    "resolver/cli/importers/unbound.py": "the operator's own files",
    "resolver/cli/importers/unbound_syntax.py": "the operator's own files",
    "resolver/daemon/web_page.py": "files of the package",
    "resolver/daemon/service_manager.py": "the environment of the daemon",
    "resolver/daemon/predecessor.py": "messages of the daemon that has started this process, over a socket of its own",
    "resolver/net/stream_upstream.py": "gives queries to connections",
    "resolver/net/upstream_connection.py": "frames by framer, messages by wire",
    "resolver/daemon/list_files.py": "moves the bytes of lists; their readers are fuzzed by lists",
    "resolver/daemon/cache_file.py": "the file of the daemon, read by snapshot",
    "resolver/daemon/zone_files.py": "opens files: the readers of zone files and journals are fuzzed by zone",
    "resolver/daemon/hook_modules.py": "loads modules of the operator",
    "resolver/daemon/runtime_changes.py": "the file of the daemon's own changes, each a request that control reads",
    "resolver/observe/kept.py": "counters that the process kept for itself",
    "resolver/daemon/autotrust.py": "files of the daemon's own, read by anchor_file",
    "resolver/net/sockaddr.pyx": "reads addresses that iterate took from records, fuzzed by resolution",
    "resolver/net/second_level.py": "hands bytes of the engine to second_level and fleet_messages of the cache",
    "resolver/net/redis_cluster.py": "checks what the redis package has read; tests/property gives it random arrays",
    "resolver/net/redis_parser.py": "counts octets and lines of replies that the redis package reads",
    "resolver/net/second_level_setup.py": "files of the operator, used as they are",
    "resolver/observe/observer.pyx": "addresses of clients and servers, text by inet_pton",
    "resolver/policy/ranges.py": "the operator's configuration, text by ipaddress",
    "resolver/resolve.py": "loads a module",
    "resolver/zones/zone.py": "packed by itself; records and files are read by transfer and journal",
    "resolver/zones/load.py": "a file of the operator, read by dnspython",
    "resolver/options.py": "the operator's configuration, fuzzed by config",
}


def readers() -> list[str]:
    """Modules with a function that reads."""
    found = []
    for package in ("corenet", "resolver"):
        for path in sorted((ROOT / package).rglob("*.py*")):
            if path.suffix in (".py", ".pyx") and READER.search(path.read_text(encoding="utf-8")):
                found.append(path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.parametrize("module", [module for module in readers() if not module.startswith("resolver/playground")])
def test_each_reader_has_a_target_or_a_reason(module: str) -> None:
    assert module in TARGETS or module in NONE


@pytest.mark.parametrize("module", TARGETS)
def test_the_targets_of_the_table_exist(module: str) -> None:
    assert (ROOT / module).is_file()
    for target in TARGETS[module]:
        assert Path(__file__).with_name(f"target_{target}.py").is_file()


def test_every_target_is_somebodys() -> None:
    named = {target for targets in TARGETS.values() for target in targets}
    # Whole paths rather than readers: finished answers, the imitated servers that tests and users rely on, transports.
    named |= {"answers", "authority", "loop_api"}
    assert {path.stem.removeprefix("target_") for path in Path(__file__).parent.glob("target_*.py")} <= named
