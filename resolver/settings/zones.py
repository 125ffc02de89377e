"""Settings of the zones that this server has itself: primary, secondary, and the local copy of the root zone.

Names and addresses are text, as in all settings.
"""

import binascii
from dataclasses import dataclass

from resolver import limits
from resolver.options import check_limits, check_names, check_path, check_prefixes, option
from resolver.upstream_address import TLS, UpstreamAddress, parse_upstream

__all__ = [
    "KEY_TEXT", "NOTIFY_TEXT", "POLICY", "PRIMARIES_TEXT", "ROOT_PRIMARIES", "TSIG_ALGORITHMS", "TsigKey",
    "ZoneSettings", "ZonesSettings",
]

TSIG_ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1")
MODES = ("authoritative", "delegations")
POLICY = "policy"
"""The mode of a response policy zone that is transferred. It is written as [[rpz]] (`resolver.settings.lists`)."""
PRIMARIES_TEXT = (
    "Servers from which the zone is transferred, the first that answers; a port other than 53 follows a colon."
    " tls://ADDRESS#NAME transfers over TLS (RFC 9103); sha256//HASH after NAME and a comma pins a key."
)
KEY_TEXT = "Name of the [[tsig-key]] that signs all messages with the primaries. Empty: no TSIG."
NOTIFY_TEXT = "Prefixes from which NOTIFY is accepted besides the addresses of `primaries` (RFC 1996)."
ZONEMD_POLICIES = ("off", "if-present", "required")

ROOT_PRIMARIES = (
    "170.247.170.2", "2801:1b8:10::b",  # b.root-servers.net
    "192.33.4.12", "2001:500:2::c",  # c
    "199.7.91.13", "2001:500:2d::d",  # d
    "192.5.5.241", "2001:500:2f::f",  # f
    "192.112.36.4", "2001:500:12::d0d",  # g
    "193.0.14.129", "2001:7fd::1",  # k
    "192.0.32.132", "2620:0:2d0:202::132",  # lax.xfr.dns.icann.org
    "192.0.47.132", "2620:0:2830:202::132",  # iad.xfr.dns.icann.org
)
"""Servers that give the root zone to everyone by AXFR (RFC 8806 appendix A)."""


@dataclass(frozen=True, slots=True)
class TsigKey:
    """A key for signed transfers, NOTIFY messages and client queries (RFC 8945)."""

    name: str = option("", "Name of the key, the same on both sides.")
    algorithm: str = option("hmac-sha256", f"One of {', '.join(TSIG_ALGORITHMS)}.")
    secret: str = option("", "The secret in base64, as tsig-keygen and keymgr print it.")

    def __post_init__(self) -> None:
        check_names((self.name,), "name")
        if "\\" in self.name:
            raise ValueError(f"name: {self.name!r} has an escape; use letters, digits, hyphens, underscores, dots, so"
                             " that it has one spelling")
        if self.algorithm not in TSIG_ALGORITHMS:
            raise ValueError(f"algorithm: {self.algorithm!r} is not one of {', '.join(TSIG_ALGORITHMS)}")
        if len(self.secret_octets) < limits.TSIG_SECRET:
            raise ValueError(f"secret: it has fewer than {limits.TSIG_SECRET} octets; make one with tsig-keygen")

    @property
    def secret_octets(self) -> bytes:
        """The secret.

        Raises:
            ValueError: it is not base64.
        """
        try:
            return binascii.a2b_base64(self.secret, strict_mode=True)
        except ValueError:
            # The text does not quote the secret, because errors are logged.
            raise ValueError("secret: it is not base64; copy it from the output of tsig-keygen or keymgr") from None


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """One zone of which this server has a copy: with a `file` as its primary, with `primaries` as a secondary."""

    name: str = option(".", "Name of the zone.")
    file: str = option("", "Zone file (RFC 1035 5). It is read again on reload and by resolverctl zone reload.")
    primaries: tuple[str, ...] = option((), PRIMARIES_TEXT)
    key: str = option("", KEY_TEXT)
    mode: str = option(
        "authoritative",
        '"authoritative" answers clients from the zone. "delegations" only replaces queries to its servers (RFC 8806);'
        " answers are validated as theirs would be.",
    )
    fallback: bool = option(
        False,
        "Resolve names of an authoritative zone as usual while there is no content or it has expired, instead of"
        " answering SERVFAIL. With delegations this is always so.",
    )
    zonemd: str = option(
        "if-present",
        'Check of the digest in the zone (RFC 8976): "required", "if-present" or "off". A zone that fails it is not'
        " used.",
    )
    allow_notify: tuple[str, ...] = option((), NOTIFY_TEXT)
    allow_transfer: tuple[str, ...] = option(
        (), "Prefixes of secondaries that may transfer the zone from here. Empty: transfers are refused."
    )
    transfer_key: str = option(
        "", "Name of the [[tsig-key]] that secondaries must use, besides `allow-transfer`. Empty: no TSIG is required."
    )
    notify: tuple[str, ...] = option(
        (), "Secondaries that are sent NOTIFY when the zone has changed; a port other than 53 follows a colon."
    )

    def __post_init__(self) -> None:
        check_names((self.name,), "name")
        check_path(self.file, "file")
        if bool(self.file) == bool(self.primaries):
            raise ValueError(f"name: the zone {self.name!r} needs either a file or primaries")
        self._check_primaries()
        if self.mode not in (*MODES, POLICY):
            raise ValueError(f"mode: {self.mode!r} is not one of {', '.join(MODES)}")
        if self.zonemd not in ZONEMD_POLICIES:
            raise ValueError(f"zonemd: {self.zonemd!r} is not one of {', '.join(ZONEMD_POLICIES)}")
        for name in ("allow_notify", "allow_transfer"):
            check_prefixes(getattr(self, name), name)
        for text in self.notify:
            if parse_upstream(text, 53, "notify").encryption is not None:
                raise ValueError(f"notify: {text!r}: NOTIFY is sent over UDP; write the address alone")
        if self.transfer_key and not self.allow_transfer:
            raise ValueError("transfer_key: allow-transfer is empty, so no client may transfer the zone")

    def _check_primaries(self) -> None:
        for text, found in zip(self.primaries, self.primary_addresses, strict=True):
            if found.encryption is None:
                continue
            if found.encryption.protocol != TLS:
                raise ValueError(f"primaries: {text!r}: zones are transferred over TCP and TLS only; write tls://")
            if not found.encryption.authenticated:
                raise ValueError(f"primaries: {text!r} has no name and no pin, so anyone on the path could send the"
                                 " zone; add #NAME, or #sha256//HASH")
        if self.key and not self.primaries:
            raise ValueError("key: the zone has no primaries")

    @property
    def primary_addresses(self) -> tuple[UpstreamAddress, ...]:
        """`primaries` as addresses."""
        return tuple(parse_upstream(text, 53, "primaries") for text in self.primaries)


@dataclass(frozen=True, slots=True)
class ZonesSettings:
    """What concerns all zones; each zone is a [[zone]] table."""

    directory: str = option(
        "",
        "Directory for copies of transferred zones, so that they serve at once after a restart. The daemon must be"
        " able to write to it. It is needed for [[zone]] and [[rpz]] tables with primaries, and with several workers.",
    )
    root: str = option(
        "",
        'With "local", the root zone is transferred and used in place of queries to root servers (RFC 8806): names of'
        " top-level domains that do not exist are answered at once, and no query for them is sent.",
    )
    refresh_min: float = option(
        float(limits.ZONE_REFRESH_MIN.default),
        "Lower limit of the REFRESH and RETRY times that a zone has in its SOA record.",
        kind="seconds",
        limit=limits.ZONE_REFRESH_MIN,
    )

    def __post_init__(self) -> None:
        check_limits(self, "zones")
        check_path(self.directory, "zones.directory")
        if self.root not in ("", "local"):
            raise ValueError(f"zones.root: {self.root!r} is neither \"local\" nor empty")
