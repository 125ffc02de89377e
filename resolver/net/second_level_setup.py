"""Makes the second-level cache of a resolver from its settings: reads the files they name, and computes the label.

The label is a digest of all settings on which shared data depend. Resolvers with other settings use other keys, so none
gets data that was obtained or validated under other rules. Everything here is done at start; errors name the setting.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable

from resolver import limits
from resolver.cache.fleet_messages import FleetCodec
from resolver.cache.second_level import Codec, Signer
from resolver.hints import negative_anchor
from resolver.net.clock_random import Clock
from resolver.net.redis_engine import MISSING, RedisEngine, is_installed
from resolver.net.second_level import SecondLevel
from resolver.regular_file import open_regular
from resolver.settings import Settings, replace
from resolver.settings.zones import POLICY

__all__ = ["SecondLevelFiles", "label", "make", "read_files"]

SENDER_SIZE = 8


class SecondLevelFiles:
    """The content of the files of the settings."""

    def __init__(self, password: str, secret: bytes) -> None:
        self.password = password
        self.secret = secret


def read_files(settings: Settings) -> SecondLevelFiles:
    """Read password and secret.

    Raises:
        ValueError: a file cannot be used, or the package redis is missing; the text names the setting.
    """
    if not is_installed():
        raise ValueError(f"second_level_cache.servers: {MISSING}")
    given = settings.second_level_cache
    where = "second_level_cache.password_file"
    try:
        text = _read(given.password_file, where).decode().split("\n", 1)[0].strip()
    except UnicodeDecodeError:
        raise ValueError(f"{where}: {given.password_file!r} is not UTF-8 text") from None
    secret = _read(given.secret_file, "second_level_cache.secret_file").strip()
    if given.secret_file and len(secret) < limits.SECOND_LEVEL_SECRET:
        raise ValueError(f"second_level_cache.secret_file: {given.secret_file!r} has fewer than"
                         f" {limits.SECOND_LEVEL_SECRET} octets; make one with: openssl rand -hex 32")
    if given.tls_ca_file:
        _read(given.tls_ca_file, "second_level_cache.tls_ca_file", longest=limits.CONFIG_FILE_SIZE)
    return SecondLevelFiles(text, secret)


def _read(path: str, where: str, *, longest: int = limits.SECOND_LEVEL_SECRET_FILE) -> bytes:
    """The content of the file, b"" without one.

    Raises:
        ValueError: it cannot be read.
    """
    if not path:
        return b""
    try:
        with open_regular(path) as file:
            data = file.read(longest + 1)
    except OSError as error:
        raise ValueError(f"{where}: cannot read {path!r}: {error.strerror or error}") from None
    if len(data) > longest:
        raise ValueError(f"{where}: {path!r} is larger than {longest} bytes")
    return data


def label(settings: Settings) -> bytes:
    """A digest of the settings that decide where data come from, and how they are validated."""
    # Members may end a negative trust anchor at different times; nothing below one is shared.
    negative = tuple(negative_anchor(text)[0] for text in settings.dnssec.negative_trust_anchors)
    dnssec = replace(settings.dnssec, auto_trust_anchor_file="", negative_trust_anchors=negative)
    policy = settings.policy
    # Local names may be those of name servers, so they decide which servers are queried.
    local = (policy.special_use_domains, policy.hosts, policy.local_zones, policy.local_data)
    own = tuple((zone.name, zone.mode) for zone in settings.own_zones if zone.mode != POLICY)
    # What is for all clients may still differ by whether servers were told of any.
    subnets = (settings.client_subnet,) if settings.client_subnet.active else ()
    rules = (dnssec, settings.root_hints, settings.forward, settings.stub, own, local, settings.cache.min_ttl, *subnets)
    return hashlib.sha256(repr(rules).encode()).digest()


def make(
    settings: Settings,
    files: SecondLevelFiles,
    loop: asyncio.AbstractEventLoop,
    clock: Clock,
    after_batch: Callable[[], object],
) -> SecondLevel:
    """The second-level cache, which is not open yet."""
    given = settings.second_level_cache
    signer = Signer(files.secret)
    return SecondLevel(
        loop,
        engine=RedisEngine(given, files.password),
        codec=Codec(signer, label(settings), given.key_prefix),
        fleet=FleetCodec(signer, given.key_prefix, os.urandom(SENDER_SIZE).hex()),
        key_prefix=given.key_prefix,
        max_wait=given.max_wait,
        clock=clock,
        after_batch=after_batch,
        engine_id=(given.servers, given.cluster, given.database),
    )
