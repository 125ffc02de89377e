"""Settings of what others see of the resolver's work: the sections [query-log], [dnstap] and [web].

Each section is off until an output or an address is named.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from resolver import limits
from resolver.options import check_limits, check_names, check_path, option, parse_endpoint, parse_listen

__all__ = ["LOG_FIELDS", "STDOUT", "TAP_MESSAGES", "DnstapSettings", "QueryLogSettings", "WebSettings"]

STDOUT = "-"
"""The name of standard output as `file`."""

LOG_FORMATS = ("text", "json")
LOG_FIELDS = ("time", "client", "port", "transport", "view", "name", "type", "class", "flags", "rcode", "cached",
              "size", "ms")
TAP_MESSAGES = ("client-query", "client-response", "resolver-query", "resolver-response", "forwarder-query",
                "forwarder-response", "auth-query", "auth-response")
_MODE = re.compile(r"0?[0-7]{3}")
_V4, _V6 = 32, 128


def _check_prefixes(v4: int, v6: int, where: str) -> None:
    for value, most, name in ((v4, _V4, "client_prefix_v4"), (v6, _V6, "client_prefix_v6")):
        if not 0 <= value <= most:
            raise ValueError(f"{where}.{name}: {value} is outside 0..{most} bits")


def _check_words(values: tuple[str, ...], known: tuple[str, ...], where: str) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"{where}: {value!r} is not one of {', '.join(known)}")
    if not values:
        raise ValueError(f"{where}: the list is empty; leave it out for its default")


@dataclass(frozen=True, slots=True)
class QueryLogSettings:
    """The log of client queries: one line for each."""

    file: str = option(
        "",
        'File to which lines are appended; "-" is standard output. resolverd reopens it on reload and on resolverctl'
        " reopen. Empty: no query log.",
    )
    format: str = option("text", '"text" (key=value pairs) or "json" (one object in each line).')
    fields: tuple[str, ...] = option(
        tuple(name for name in LOG_FIELDS if name not in ("class", "flags")),
        f"What a line has: {', '.join(LOG_FIELDS)}.",
    )
    views: tuple[str, ...] = option((), "Only queries of clients in these views are logged. Empty: all queries.")
    sample: int = option(
        limits.OBSERVE_SAMPLE.default,
        "One query of this many is logged, chosen at random.",
        limit=limits.OBSERVE_SAMPLE,
    )
    client_prefix_v4: int = option(
        _V4, "Bits of IPv4 client addresses that are logged, and shown by resolverctl top; with fewer than 32 the"
        " port is left out."
    )
    client_prefix_v6: int = option(
        _V6, "Bits of IPv6 client addresses that are logged, and shown by resolverctl top; with fewer than 128 the"
        " port is left out."
    )
    mode: str = option("0640", "Permissions of a new file, in octal digits, less those of the umask.")
    buffer: int = option(
        limits.OBSERVE_BUFFER.default,
        "Memory of each worker for lines that are not written yet. Lines for which it has no room are dropped and"
        " counted.",
        kind="bytes",
        limit=limits.OBSERVE_BUFFER,
    )

    def __post_init__(self) -> None:
        check_path(self.file, "query_log.file")
        check_limits(self, "query_log")
        if self.format not in LOG_FORMATS:
            raise ValueError(f"query_log.format: {self.format!r} is not one of {', '.join(LOG_FORMATS)}")
        _check_words(self.fields, LOG_FIELDS, "query_log.fields")
        _check_prefixes(self.client_prefix_v4, self.client_prefix_v6, "query_log")
        if not _MODE.fullmatch(self.mode):
            raise ValueError(f"query_log.mode: {self.mode!r} is not three octal digits such as 0640")

    @property
    def output(self) -> tuple[object, ...]:
        """What cannot be changed without another output."""
        return self.file, self.mode, self.buffer


@dataclass(frozen=True, slots=True)
class DnstapSettings:
    """Messages of clients and servers for a collector, as dnstap over Frame Streams."""

    socket: str = option("", "Path of the Unix socket of the collector. Empty, and no address: no dnstap.")
    address: str = option("", "Address and port of the collector over TCP, instead of a socket.")
    messages: tuple[str, ...] = option(TAP_MESSAGES, f"Message types that are sent: {', '.join(TAP_MESSAGES)}.")
    identity: str = option("", 'Name of this server in the messages. Empty: the host name; "-": none.')
    version: str = option("", "Version in the messages. Empty: none.")
    sample: int = option(
        limits.OBSERVE_SAMPLE.default,
        "One query of this many is sent, with its response, chosen at random.",
        limit=limits.OBSERVE_SAMPLE,
    )
    client_prefix_v4: int = option(
        _V4, "Bits of IPv4 client addresses that are sent; with fewer than 32 the port is left out."
    )
    client_prefix_v6: int = option(
        _V6, "Bits of IPv6 client addresses that are sent; with fewer than 128 the port is left out."
    )
    buffer: int = option(
        limits.OBSERVE_BUFFER.default,
        "Memory of each worker for messages that the collector has not taken yet. Messages for which it has no room"
        " are dropped and counted.",
        kind="bytes",
        limit=limits.OBSERVE_BUFFER,
    )

    def __post_init__(self) -> None:
        check_path(self.socket, "dnstap.socket")
        check_limits(self, "dnstap")
        if self.socket and self.address:
            raise ValueError(f"dnstap.address: {self.address!r} and dnstap.socket are set; a collector has one of them")
        if self.address:
            parse_endpoint(self.address, limits.DNSTAP_PORT, "dnstap.address")
        _check_words(self.messages, TAP_MESSAGES, "dnstap.messages")
        _check_prefixes(self.client_prefix_v4, self.client_prefix_v6, "dnstap")
        for name in ("identity", "version"):
            if len(getattr(self, name).encode()) > limits.DNSTAP_TEXT:
                raise ValueError(f"dnstap.{name}: longer than {limits.DNSTAP_TEXT} octets")

    @property
    def active(self) -> bool:
        """Whether there is a collector."""
        return bool(self.socket or self.address)

    @property
    def output(self) -> tuple[object, ...]:
        """What cannot be changed without another connection."""
        return self.socket, self.address, self.buffer


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The web page that shows what the resolver does."""

    listen: str = option(
        "", "Address and port of the web page over HTTP, for example 127.0.0.1:9336. Empty: no web page."
    )
    token_file: str = option(
        "",
        f"File with the token that opens the page: at least {limits.WEB_TOKEN_BITS} random bits as hexadecimal digits"
        " or base64, in one line. Only its owner may write to it, and others than its group may not read it.",
    )
    hosts: tuple[str, ...] = option(
        (),
        "Names and addresses by which browsers may call the page, besides the address of listen, and localhost when"
        " that is a loopback address. Requests for other hosts are refused (DNS rebinding).",
    )
    allow_remote: bool = option(
        False,
        "Permit a listen address that is not a loopback address. The token and the page are then readable on the"
        " network, because the page has no TLS.",
    )

    def __post_init__(self) -> None:
        check_path(self.token_file, "web.token_file")
        if len(self.hosts) > limits.WEB_HOSTS:
            raise ValueError(f"web.hosts: {len(self.hosts)} names, and the limit is {limits.WEB_HOSTS}")
        for host in self.hosts:
            try:
                ip_address(host)
            except ValueError:
                check_names((host,), "web.hosts")
        if not self.listen:
            return
        address, _ = parse_listen(self.listen, limits.WEB_PORT, "web.listen")
        if not (ip_address(address).is_loopback or self.allow_remote):
            raise ValueError(
                f"web.listen: {self.listen!r} is not a loopback address, and the page has no TLS, so the token could be"
                " read on the network: listen on 127.0.0.1 and use an SSH tunnel or a proxy with TLS on this host, or"
                " set web.allow-remote = true"
            )
        if not self.token_file:
            raise ValueError(
                "web.token_file: web.listen needs the file of a token, which `openssl rand -hex 32` can make; give it"
                " mode 0600"
            )
