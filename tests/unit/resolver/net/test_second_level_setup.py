"""The settings of the second-level cache, the files they name, and the label that keeps different rules apart."""

from pathlib import Path

import pytest

from resolver.net import second_level_setup
from resolver.net.second_level_setup import label, read_files
from resolver.settings import (
    CacheSettings,
    DnssecSettings,
    ForwardZone,
    PolicySettings,
    SecondLevelSettings,
    ServerSettings,
    Settings,
)


def settings(**given: object) -> Settings:
    return Settings(second_level_cache=SecondLevelSettings(servers=("127.0.0.1:6379",), **given))  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "text"), [
    ({"servers": ("redis.example.net",)}, "servers: 'redis.example.net' is not an IP address"),
    ({"servers": ("192.0.2.1", "192.0.2.2")}, "several servers need cluster = true"),
    ({"servers": ("unix:/run/redis.sock",), "tls": True}, "is a Unix socket"),
    ({"servers": ("192.0.2.1",), "cluster": True, "database": 1}, "database: 1 is given"),
    ({"servers": ("192.0.2.1",) * 65, "cluster": True}, "more than 64 nodes"),
    ({"key_prefix": "with blank"}, "key_prefix: 'with blank'"),
    ({"key_prefix": ""}, "key_prefix: ''"),
    ({"max_wait": 10.0}, "max_wait: 10 is outside"),
    ({"password_file": "\0"}, "password_file"),
])
def test_wrong_settings_are_refused(given: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SecondLevelSettings(**given)  # type: ignore[arg-type]


def test_validation_is_needed() -> None:
    with pytest.raises(ValueError, match=r"^second_level_cache.servers: validation is off"):
        Settings(second_level_cache=SecondLevelSettings(servers=("127.0.0.1",)), dnssec=DnssecSettings(enabled=False))


def test_files_are_read_and_errors_name_the_setting(tmp_path: Path) -> None:
    secret, password = tmp_path / "secret", tmp_path / "password"
    secret.write_text("s" * 64 + "\n")
    password.write_text("word\nmore\n")
    found = read_files(settings(secret_file=str(secret), password_file=str(password)))
    assert (found.secret, found.password) == (b"s" * 64, "word")
    assert (read_files(settings()).secret, read_files(settings()).password) == (b"", "")
    secret.write_text("short")
    with pytest.raises(ValueError, match=r"^second_level_cache.secret_file: .* fewer than 32 octets"):
        read_files(settings(secret_file=str(secret)))
    with pytest.raises(ValueError, match=r"^second_level_cache.password_file: cannot read"):
        read_files(settings(password_file=str(tmp_path / "missing")))
    password.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"^second_level_cache.password_file: .* is not UTF-8"):
        read_files(settings(password_file=str(password)))
    password.write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="larger than 4096 bytes"):
        read_files(settings(password_file=str(password)))


def test_the_package_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_level_setup, "is_installed", lambda: False)
    with pytest.raises(ValueError, match=r"corenet-resolver\[redis\]"):
        read_files(settings())


@pytest.mark.parametrize("other", [
    Settings(dnssec=DnssecSettings(negative_trust_anchors=("example.com",))),
    Settings(forward=(ForwardZone(".", ("192.0.2.1",)),)),
    Settings(policy=PolicySettings(local_zones=("example.com static",))),
    Settings(cache=CacheSettings(min_ttl=60)),
], ids=["dnssec", "forward", "local-zones", "min-ttl"])
def test_resolvers_with_other_rules_have_another_label(other: Settings) -> None:
    assert label(other) != label(Settings())


def test_what_data_do_not_depend_on_is_not_in_the_label() -> None:
    same = Settings(server=ServerSettings(listen=("127.0.0.1:5300",)), cache=CacheSettings(max_ttl=100))
    assert label(same) == label(Settings())
    ends = [Settings(dnssec=DnssecSettings(negative_trust_anchors=(f"example.com.{end}",))) for end in ("", " 5", " 6")]
    assert len({label(one) for one in ends}) == 1, "members may end a negative trust anchor at different times"
