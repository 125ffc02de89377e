"""Whatever settings are, printing them as a configuration file and reading that file gives the same settings."""

import ipaddress

from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from resolver import limits
from resolver.daemon.config import parse
from resolver.daemon.config_lines import find_lines
from resolver.daemon.config_writer import render
from resolver.settings import (
    CacheSettings,
    ForwardZone,
    HostEntry,
    IterationSettings,
    LogSettings,
    PolicySettings,
    RootServer,
    ServerSettings,
    Settings,
    StubZone,
    replace,
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
# Whatever a label may hold, in the notation of RFC 1035 section 5.1, quotes and control characters among it.
LABELS = st.text(st.characters(max_codepoint=127, exclude_characters=".\\"), min_size=1, max_size=8) | st.sampled_from(
    ("\\.", "\\\\", "\\255", '\\"')
)
NAMES = st.just(".") | st.builds(
    lambda labels, dot: ".".join(labels) + dot, st.lists(LABELS, min_size=1, max_size=3), st.sampled_from(("", "."))
)
ADDRESSES = st.lists(st.ip_addresses().map(str), max_size=3).map(tuple)


def endpoint(addresses):
    return st.builds(
        lambda address, port: f"[{address}]:{port}" if ":" in address else f"{address}:{port}", addresses.map(str),
        st.integers(0, 65535),
    )


def is_listened_on(address):
    """Linux binds no socket of the daemon to an IPv4-mapped address, nor to a link-local one without interface."""
    return address.version == 4 or (address.ipv4_mapped is None and not address.is_link_local)


ENDPOINTS = st.lists(endpoint(st.ip_addresses()), min_size=1, max_size=3).map(tuple)
LISTENED = st.lists(
    endpoint(st.ip_addresses().filter(is_listened_on)), min_size=1, max_size=3, unique=True
).map(tuple)
PREFIXES = st.lists(
    st.builds(
        lambda address, bits: str(ipaddress.ip_network((address, bits % (address.max_prefixlen + 1)), strict=False)),
        st.ip_addresses(),
        st.integers(0, 128),
    ),
    max_size=3,
).map(tuple)


def within(limit, scale=1):
    """A value that the limit permits, in the field's own unit."""
    numbers = st.integers(limit.minimum, limit.maximum)
    return numbers if scale == 1 else numbers.map(lambda value: value / scale)


def zones(draw, make, taken):
    """Some zones of which none is named twice, with what `make` puts into them."""
    found = draw(st.lists(make, max_size=3, unique_by=lambda entry: entry.zone.removesuffix(".").lower()))
    return tuple(entry for entry in found if entry.zone.removesuffix(".").lower() not in taken)


@st.composite
def all_settings(draw):
    """Settings that nothing is wrong with."""
    forward = zones(draw, st.builds(ForwardZone, NAMES, ENDPOINTS, st.booleans()), ())
    taken = {entry.zone.removesuffix(".").lower() for entry in forward}
    stub = zones(draw, st.builds(StubZone, NAMES, ENDPOINTS, st.lists(NAMES, max_size=2).map(tuple)), taken)
    return replace(draw(PLAIN), forward=forward, stub=stub)


PLAIN = st.builds(
    Settings,
    server=st.builds(
        ServerSettings,
        listen=LISTENED,
        workers=within(limits.WORKERS),
        tcp_idle_timeout=within(limits.TCP_IDLE_TIMEOUT, 1000),
        identity=TEXT,
    ),
    cache=st.builds(
        CacheSettings, size=within(limits.CACHE_SIZE), min_ttl=st.just(0), max_ttl=within(limits.CACHE_MAX_TTL)
    ),
    iteration=st.builds(
        IterationSettings,
        qname_minimisation=st.booleans(),
        do_not_query_addresses=PREFIXES,
        query_timeout=within(limits.DEADLINE, 1000),
    ),
    policy=st.builds(
        PolicySettings,
        allow=PREFIXES,
        drop=PREFIXES,
        hosts=st.dictionaries(NAMES, ADDRESSES, max_size=3).map(
            lambda table: tuple(HostEntry(name, addresses) for name, addresses in table.items())
        ),
        local_data=st.lists(TEXT, max_size=3).map(tuple),
    ),
    log=st.builds(LogSettings, level=st.sampled_from(["debug", "info", "warning", "error"])),
    root_hints=st.lists(st.builds(RootServer, NAMES, ADDRESSES), min_size=1, max_size=3).map(tuple),
)
SETTINGS = all_settings()


@runs(max_examples=50)
@given(SETTINGS)
def test_settings_survive_the_way_through_a_file(settings):
    assert parse(render(settings)) == settings


@runs(max_examples=50)
@given(SETTINGS)
def test_every_line_of_a_key_is_found(settings):
    text = render(settings)
    lines = text.splitlines()
    found = find_lines(text)
    for path, line in found.items():
        if len(path) == 2 and isinstance(path[1], str):
            assert lines[line - 1].startswith(f"{path[1]} = "), (path, lines[line - 1])
