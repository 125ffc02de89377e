"""The host's files: parsed as the C library does, without errors for any content, and again when they change."""

import os

from resolver import limits
from resolver.settings import HostEntry
from resolver.system import Hosts, ResolvConf, Watched, parse_hosts, parse_resolv_conf


def test_resolv_conf():
    conf = parse_resolv_conf(b"""
# comment
domain old.example
search A.example. b.example a.example
nameserver 192.0.2.1   ; not asked
options ndots:3 timeout:99 attempts:0 rotate use-vc trust-ad unknown ndots:x
sortlist 10.0.0.0
""")
    assert conf == ResolvConf(("a.example.", "b.example."), 3)


def test_domain_and_search_override_each_other():
    assert parse_resolv_conf(b"search a b\ndomain c d\n").search == ("c.",)
    assert parse_resolv_conf(b"domain c\nsearch a b\n").search == ("a.", "b.")


def test_malformed_content_is_ignored():
    assert (
        parse_resolv_conf(b"\xff\0nameserver\nnameserver\nsearch \xff a..b " + b"x" * 300 + b"\noptions\n")
        == ResolvConf()
    )
    assert parse_hosts(b"\0\xff\n127.0.0.1\nx y\n127.0.0.1 \xe4 a..b .\n") == Hosts()


def test_the_length_of_lists_is_bounded():
    search = b"search " + b" ".join(b"a%d" % n for n in range(1000))
    assert len(parse_resolv_conf(search).search) == limits.RESOLV_SEARCH


def test_hosts():
    hosts = parse_hosts(
        b"127.0.0.1 LocalHost localhost.localdomain # here\n::1 localhost\n\n192.0.2.1 a b a\n192.0.2.2 a.\n"
    )
    assert hosts.by_name["localhost"] == ("127.0.0.1", "::1")
    assert hosts.by_name["a"] == ("192.0.2.1", "192.0.2.2")
    assert hosts.by_address["192.0.2.1"] == ("a", "b")
    assert HostEntry("b", ("192.0.2.1",)) in hosts.entries()


class Clock:
    """A clock that a test turns by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_changed_file_is_read_again_and_checked_at_intervals(tmp_path):
    path, clock, reads = tmp_path / "hosts", Clock(), []

    def parse(data: bytes) -> bytes:
        reads.append(data)
        return data

    watched = Watched(path, parse, interval=1.0, clock=clock)
    assert watched.get() == b""
    path.write_bytes(b"one")
    assert watched.get() == b"", "not looked at within the interval"
    clock.now = 1.0
    assert watched.get() == b"one"
    clock.now = 2.0
    assert watched.get() == b"one" and len(reads) == 2, "unchanged, so not read"
    other = tmp_path / "new"
    other.write_bytes(b"two")
    os.replace(other, path)
    clock.now = 3.0
    assert watched.get() == b"two"
    path.unlink()
    clock.now = 4.0
    assert watched.get() == b""
    assert len(reads) == 4


def test_a_directory_instead_of_the_file_counts_as_empty(tmp_path):
    assert Watched(tmp_path, bytes).get() == b""
