"""The settings of the second-level cache: an engine outside this process that several resolvers share.

They are frozen like all settings. Files are named here and read by `resolver.net.second_level_setup`. Addresses are IP
addresses or Unix sockets, because a name would be resolved by the resolver that needs the engine.
"""

import re
from dataclasses import dataclass

from resolver import limits
from resolver.options import check_limits, check_path, option, parse_endpoint

__all__ = ["REDIS_PORT", "UNIX_PREFIX", "SecondLevelSettings"]

REDIS_PORT = 6379
UNIX_PREFIX = "unix:"
_KEY_PREFIX = re.compile(r"[A-Za-z0-9:._-]{1,64}")


@dataclass(frozen=True, slots=True)
class SecondLevelSettings:
    """The cache in Redis or Valkey that resolvers share."""

    servers: tuple[str, ...] = option(
        (),
        'Address and port of the engine (Redis or Valkey), or "unix:" and the path of its socket; with `cluster`, one'
        " or more of its nodes. It needs redis (pip install 'corenet-resolver[redis]') and validation. Empty: no second"
        " level.",
    )
    cluster: bool = option(False, "The servers are nodes of a cluster, whose other nodes are found through them.")
    username: str = option("", "User of the engine (ACL). Empty: the default user.")
    password_file: str = option("", "File whose first line is the password of the engine. Empty: no password.")
    database: int = option(
        limits.SECOND_LEVEL_DATABASE.default, "Number of the database. Clusters have only number 0.",
        limit=limits.SECOND_LEVEL_DATABASE,
    )
    tls: bool = option(False, "Connect with TLS. The certificate of the engine must have its address.")
    tls_ca_file: str = option("", "PEM file of the authorities for `tls`. Empty: those of the system.")
    key_prefix: str = option("resolver:", "Begin of all keys in the engine. Only resolvers with the same prefix share.")
    secret_file: str = option(
        "",
        "File with a secret of at least 32 octets, the same in all resolvers. Entries and messages then have a keyed"
        " MAC, so that a program without the secret that can write to the engine cannot forge answers. Empty: a"
        " checksum, which finds damage only.",
    )
    max_wait: float = option(
        limits.SECOND_LEVEL_WAIT.default / 1000,
        "Longest time for which a client query waits for the engine, in all, before name servers are queried.",
        kind="seconds",
        limit=limits.SECOND_LEVEL_WAIT,
        scale=1000,
    )

    def __post_init__(self) -> None:
        where = "second_level_cache"
        check_limits(self, where)
        for name in ("password_file", "tls_ca_file", "secret_file"):
            check_path(getattr(self, name), f"{where}.{name}")
        for text in self.servers:
            if text.startswith(UNIX_PREFIX):
                check_path(text, f"{where}.servers")
                if self.cluster or self.tls:
                    raise ValueError(f"{where}.servers: {text!r} is a Unix socket, which has neither TLS nor a cluster")
            else:
                parse_endpoint(text, REDIS_PORT, f"{where}.servers")
        if len(self.servers) > (limits.SECOND_LEVEL_NODES if self.cluster else 1):
            raise ValueError(f"{where}.servers: more than {limits.SECOND_LEVEL_NODES} nodes" if self.cluster else
                             f"{where}.servers: several servers need cluster = true")
        if self.cluster and self.database:
            raise ValueError(f"{where}.database: {self.database} is given, but clusters have only number 0")
        if not _KEY_PREFIX.fullmatch(self.key_prefix):
            raise ValueError(f"{where}.key_prefix: {self.key_prefix!r} is not 1 to 64 letters, digits, or one of :._-")
