"""The tables [[listener]] and the section [tls] with the certificates.

Each listener has a protocol, an access list and limits. What it does not set is as in [server] and [policy].
"""

import re
from dataclasses import dataclass, replace

from resolver import limits
from resolver.options import check_names, check_path, check_prefixes, option, parse_endpoint, parse_listen
from resolver.settings.server import ServerSettings

__all__ = ["LISTENER_PORTS", "LISTENER_TRANSPORTS", "ListenerSettings", "TlsSettings"]

LISTENER_PORTS = {"dns": 53, "tls": 853, "https": 443, "quic": 853}
"""The protocols of listeners with their ports (RFC 1035 section 4.2, RFC 7858 section 3.1, RFC 8484, RFC 9250
section 4.1.1)."""
LISTENER_TRANSPORTS = {"dns": ("tcp", "udp"), "tls": ("tcp",), "https": ("tcp",), "quic": ("udp",)}
"""The transports that each protocol listens on."""

_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """One served address with its protocol. Omitted settings have the values of `server` and `policy`."""

    address: str = option(
        "",
        "Address to serve, with or without a port. Default ports: 53 for dns, 853 for tls and quic, 443 for https.",
    )
    protocol: str = option(
        "dns",
        '"dns" is UDP and TCP without encryption, "tls" is DNS over TLS (RFC 7858), "https" is DNS over HTTPS (RFC 8484'
        ' over HTTP/2 and HTTP/1.1), "quic" is DNS over QUIC (RFC 9250). The last three need tls.certificate, and quic'
        " needs qh3 (pip install 'corenet-resolver[quic]').",
    )
    allow: tuple[str, ...] = option(
        (),
        "Client prefixes that are served here. When this list or one of the next two is not empty, the three replace"
        " those of policy for this listener.",
    )
    refuse: tuple[str, ...] = option((), "Client prefixes that are answered REFUSED here.")
    drop: tuple[str, ...] = option((), "Client prefixes whose queries are dropped here.")
    freebind: bool = option(
        False, "Serve the address also when this host does not have it, as with server.freebind for all addresses."
    )
    path: str = option("/dns-query", "Path of requests (https only); clients have it in their URL (RFC 8484 3).")
    proxy_protocol_from: tuple[str, ...] = option(
        (),
        "Prefixes of load balancers that begin each connection, and each datagram, with a header of PROXY protocol"
        " version 2. Access lists and limits use the client address in the header. Other peers must not send one.",
    )
    idle_timeout: float = option(
        0.0, "An idle connection is closed after this time; 0: server.tcp-idle-timeout.", kind="seconds"
    )
    connections: int = option(0, "Open connections of all clients, in each worker; 0: server.tcp-connections.")
    connections_per_client: int = option(
        0, "Open connections of one client address; 0: server.tcp-connections-per-client."
    )
    connections_network_percent: int = option(
        0,
        "Percentage of the connections that one client network may have; 0: server.tcp-connections-network-percent.",
    )
    pipeline: int = option(0, "Unanswered queries on one connection; 0: server.tcp-pipeline.")

    def __post_init__(self) -> None:
        if self.protocol not in LISTENER_PORTS:
            raise ValueError(f"protocol: {self.protocol!r} is not one of {', '.join(LISTENER_PORTS)}")
        if not self.address:
            raise ValueError("address: it is missing; give an IP address, with or without a port")
        parse_listen(self.address, LISTENER_PORTS[self.protocol], "address")
        for name in ("allow", "refuse", "drop", "proxy_protocol_from"):
            check_prefixes(getattr(self, name), name)
        if self.proxy_protocol_from and self.protocol == "quic":
            raise ValueError("proxy_protocol_from: PROXY headers are not read on a listener of protocol quic")
        if not _PATH.fullmatch(self.path):
            raise ValueError(f"path: {self.path!r} is not the path of a URL, such as /dns-query")
        for name, limit, scale in (
            ("idle_timeout", limits.TCP_IDLE_TIMEOUT, 1000),
            ("connections", limits.TCP_CONNECTIONS, 1),
            ("connections_per_client", limits.TCP_CONNECTIONS_PER_CLIENT, 1),
            ("connections_network_percent", limits.TCP_NETWORK_SHARE, 1),
            ("pipeline", limits.TCP_PIPELINE, 1),
        ):
            value = getattr(self, name)
            if value:
                limit.check(round(value * scale), name)

    @property
    def endpoint(self) -> tuple[str, int]:
        """`address` as (address, port)."""
        return parse_endpoint(self.address, LISTENER_PORTS[self.protocol], "address")

    @property
    def key(self) -> tuple[str, int, str]:
        """Identifies the listener across reloads: address, port and protocol."""
        return (*self.endpoint, self.protocol)

    @property
    def has_access_list(self) -> bool:
        """Whether its lists replace those of the policy."""
        return bool(self.allow or self.refuse or self.drop)

    def applied_to(self, server: ServerSettings) -> ServerSettings:
        """`server` with the values of this listener."""
        return replace(
            server,
            tcp_idle_timeout=self.idle_timeout or server.tcp_idle_timeout,
            tcp_connections=self.connections or server.tcp_connections,
            tcp_connections_per_client=self.connections_per_client or server.tcp_connections_per_client,
            tcp_connections_network_percent=(
                self.connections_network_percent or server.tcp_connections_network_percent
            ),
            tcp_pipeline=self.pipeline or server.tcp_pipeline,
        )


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Certificates of the listeners with TLS."""

    certificate: tuple[str, ...] = option(
        (),
        "PEM file with the certificate and then its chain; or a list of files. A client gets the certificate that has"
        " the name in its SNI, else the first. A reload reads the files again.",
        kind="files",
    )
    key: tuple[str, ...] = option(
        (), "PEM file with the private key, not encrypted; or a list of files, one for each certificate.", kind="files"
    )
    ocsp_staple: tuple[str, ...] = option(
        (),
        "File with the OCSP response (DER) for the certificate, which clients of tls and https get that ask for it; or"
        ' a list of files, one for each certificate, "" for one without. It is checked; a reload reads it again.',
        kind="files",
    )
    name: str = option(
        "",
        "Name by which clients authenticate this resolver, for example dns.example.net. It must be in the certificate."
        " Clients that know only the address then discover the listeners with TLS (RFC 9462). Empty: no discovery.",
    )

    def __post_init__(self) -> None:
        if len(self.certificate) != len(self.key):
            raise ValueError(
                f"tls.key: {len(self.key)} keys for {len(self.certificate)} certificates; give one key for each"
            )
        if len(self.certificate) > limits.TLS_CERTIFICATES:
            raise ValueError(f"tls.certificate: more than {limits.TLS_CERTIFICATES} files are listed")
        if self.ocsp_staple and len(self.ocsp_staple) != len(self.certificate):
            raise ValueError(
                f"tls.ocsp_staple: {len(self.ocsp_staple)} files for {len(self.certificate)} certificates; give one for"
                ' each, or "" for a certificate without a staple'
            )
        for setting in ("certificate", "key", "ocsp_staple"):
            for path in getattr(self, setting):
                check_path(path, f"tls.{setting}")
        if self.name:
            check_names((self.name,), "tls.name")
