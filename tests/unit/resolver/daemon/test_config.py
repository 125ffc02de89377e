"""The configuration file: each key is used or rejected, and an error names file, line and key."""

import codecs
import os
import stat

import pytest

from resolver import limits
from resolver.daemon.config import ConfigError, load, parse, parse_duration, parse_size
from resolver.daemon.config_lines import find_lines
from resolver.daemon.config_writer import render
from resolver.settings import (
    CacheSettings,
    ForwardZone,
    HostEntry,
    IterationSettings,
    PolicySettings,
    RootServer,
    Settings,
    StubZone,
)


def problems(text, **options):
    with pytest.raises(ConfigError) as caught:
        parse(text, **options)
    return [(problem.line, problem.path, problem.message) for problem in caught.value.problems]


def test_an_empty_file_gives_the_defaults():
    assert parse("") == Settings()


def test_what_is_printed_reads_back_as_the_same_settings():
    settings = Settings(
        cache=CacheSettings(size=3 << 20, max_ttl=7200),
        iteration=IterationSettings(
            do_not_query_addresses=("192.0.2.0/24",), query_timeout=2.5, qname_minimisation=False
        ),
        policy=PolicySettings(
            hosts=(HostEntry("a.lan", ("10.0.0.1", "fd00::1")),), local_zones=('x" \\y.', "\x07 refuse")
        ),
        root_hints=(RootServer("a.", ("192.0.2.1",)),),
        forward=(ForwardZone("corp.", ("10.0.0.53@5353",), True), ForwardZone(".", ("::1",))),
        stub=(StubZone("lab.", ("10.0.0.54",), ("ns.lab.",)),),
    )
    assert parse(render(settings)) == settings
    assert parse(render(Settings())) == Settings()


def test_printed_configuration_explains_every_key_and_marks_changed_ones():
    text = render(Settings(cache=CacheSettings(max_ttl=60)))
    assert "# Higher TTLs are lowered to this value (RFC 8767 4).\n# Default: 86400\nmax-ttl = 60\n" in text
    assert text.count("# Default:") == 1
    assert max(map(len, (line for line in text.splitlines() if line.startswith("#")))) <= 100


def test_sizes_and_durations_with_units():
    settings = parse('[cache]\nsize = "256 MiB"\nmax-ttl = "1 h 30 m"\n[iteration]\nquery-timeout = "1500 ms"\n')
    assert (settings.cache.size, settings.cache.max_ttl, settings.iteration.query_timeout) == (256 << 20, 5400, 1.5)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("1.5 KiB", 1536), ("2g", 2 << 30), ("3 kB", 3000), ("7B", 7)])
def test_sizes(text, value):
    assert parse_size(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90.0), ("1d", 86400.0), ("2 w", 1209600.0), ("1m 1s", 61.0), ("5ms", 0.005)]
)
def test_durations(text, value):
    assert parse_duration(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "x", "1 fortnight", "-1", "1,5", "1e9", "9" * 16, "1 1 " * 60])
def test_malformed_sizes_and_durations_are_refused(text):
    with pytest.raises(ValueError):
        parse_duration(text)
    with pytest.raises(ValueError):
        parse_size(text)


def test_every_problem_is_reported_at_once_with_its_line():
    text = """
[server]
workerz = 3
workers = "4"
listen = [
  "127.0.0.1:53",
  "127.0.0.x:53",   # here
]
[cache]
size = "2 parsec"
max_ttl = 3
[[forward]]
zone = "."
addresses = ["192.0.2.1"]
[[forward]]
zone = 4
"""
    assert problems(text) == [
        (3, "server.workerz", 'unknown key; did you mean "workers"?'),
        (4, "server.workers", "expected a whole number, got text"),
        (7, "server.listen[1]", "'127.0.0.x:53' is not an IP address, with or without a port"),
        (
            10,
            "cache.size",
            "'2 parsec' is not a size such as \"256 MiB\": units are b, kb, mb, gb, kib, mib, gib, tib, k, m, g",
        ),
        (11, "cache.max_ttl", 'unknown key; did you mean "max-ttl"?'),
        (16, "forward[1].zone", "expected text, got a whole number"),
    ]


def test_an_unknown_key_without_similar_ones_lists_the_known_keys():
    [(line, path, message)] = problems("[log]\nxyzzy = 1\n")
    assert (line, path) == (2, "log.xyzzy")
    assert message == "unknown key; known here: level, rate-limit-interval"


@pytest.mark.parametrize(
    ("text", "line", "path", "words"),
    [
        ("server = 4", 1, "server", "expected a table, got a whole number"),
        ("forward = [3]", 1, "forward[0]", "expected a table"),
        ("[forward]\nzone = '.'", 1, "forward", "expected an array of tables, got a table"),
        ("[[root-hints]]\naddresses = ['192.0.2.1']", 1, "root-hints[0]", "the name is missing"),
        ("[[root-hints]]\nname = 'a.'\nport = 3", 3, "root-hints[0].port", "unknown key"),
        ("root-hints = ['a.']", 1, "root-hints[0]", "expected a table with name and addresses"),
        ("[[root-hints]]\nname = 'a.'\naddresses = ['1.2']", 3, "root-hints[0].addresses[0]", "not an IP address"),
        ("\n[cache]\n\nmin-ttl = 99999", 4, "cache.min-ttl", "outside 0..3600"),
        ("[policy.hosts]\n'a.b' = '1.2.3'", 2, 'policy.hosts."a.b"', "not an IP address"),
        ("[policy.hosts]\n'a.b' = 3", 2, 'policy.hosts."a.b"', "expected a list"),
        (
            "[dnssec]\ntrust-anchors = [\n '. DS 1 2 3 aa', '. DS 1 2']",
            3,
            "dnssec.trust-anchors[1]",
            "needs three numbers",
        ),
        ("x =", 1, "", "this is not TOML"),
        ("a = 1\n[server", 2, "", "this is not TOML"),
        ("[log]\nlevel = 'info'\nlevel = 'info'", 3, "", "this is not TOML"),
        ("x = " + "[" * 3000, 0, "", "nested too deeply"),
        ("a = 1\nb = " + "1" * 5000, 2, "", "a number of more than 4300 digits"),
        ('[log]\nlevel = "info"\n[dnssec]\ntrust-anchors-file = "a\\u0000b"', 4, "dnssec.trust-anchors-file",
         "'a\\x00b' is no file name"),
        ('root-hints-file = "\\u0000"', 1, "root-hints-file", "is no file name"),
    ],
)
def test_a_single_problem_is_reported(text, line, path, words):
    [(found_line, found_path, message)] = problems(text)
    assert (found_line, found_path) == (line, path)
    assert words in message


def test_hosts_may_be_one_address_or_a_list():
    settings = parse('[policy.hosts]\n"a.lan" = "10.0.0.1"\n"b.lan" = ["10.0.0.2", "fd00::2"]\n')
    assert settings.policy.hosts == (HostEntry("a.lan", ("10.0.0.1",)), HostEntry("b.lan", ("10.0.0.2", "fd00::2")))


def test_files_of_hints_and_anchors_are_relative_to_the_configuration(tmp_path):
    (tmp_path / "roots").write_text(". NS k.\nk. A 192.0.2.1\n")
    (tmp_path / "keys").write_text("example. DS 1 13 2 ab\n")
    (tmp_path / "resolverd.toml").write_text('root-hints-file = "roots"\n[dnssec]\ntrust-anchors-file = "keys"\n')
    settings = load(tmp_path / "resolverd.toml")
    assert settings.root_hints == (RootServer("k.", ("192.0.2.1",)),)
    assert settings.dnssec.trust_anchors == ("example. DS 1 13 2 ab",)


def test_missing_wrong_and_repeated_files_are_refused(tmp_path):
    (tmp_path / "bad").write_text("\nk. MX 1\n")
    [(line, path, message)] = problems('\nroot-hints-file = "none"', directory=tmp_path)
    assert (line, path) == (2, "root-hints-file") and "No such file" in message
    [(line, _, message)] = problems('root-hints-file = "bad"', directory=tmp_path)
    assert line == 1 and "bad: line 2: k. MX is neither" in message
    [(_, _, message)] = problems('[dnssec]\ntrust-anchors = []\ntrust-anchors-file = "bad"', directory=tmp_path)
    assert "remove one of the two" in message
    [(line, path, message)] = problems("root-hints-file = 3")
    assert (line, path, message) == (1, "root-hints-file", "expected text, got a whole number")


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"# \xe4\n")
    with pytest.raises(ConfigError, match=r"latin is not UTF-8 text \(byte 2\): save it as UTF-8"):
        load(tmp_path / "latin")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(limits.CONFIG_FILE_SIZE + 1)
    with pytest.raises(ConfigError, match="large is larger than"):
        load(tmp_path / "large")


def test_a_byte_order_mark_is_named(tmp_path):
    """Editors hide it, and tomllib complains of a line that looks right."""
    file = tmp_path / "resolverd.toml"
    file.write_bytes(codecs.BOM_UTF8 + b"[log]\nlevel = 'info'\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == (f"{file}: {file} begins with a byte order mark (BOM), which TOML 1.0 does not permit:"
                                 " save it as UTF-8 without a BOM")
    (tmp_path / "roots").write_bytes(codecs.BOM_UTF8 + b"k. A 192.0.2.1\n")
    [(line, key, message)] = problems('\nroot-hints-file = "roots"', directory=tmp_path)
    assert (line, key) == (2, "root-hints-file")
    assert message == f"{tmp_path / 'roots'} begins with a byte order mark (BOM): save it as UTF-8 without a BOM"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (os.mkdir, "a directory"), (os.mkfifo, "a FIFO (named pipe)"),
        (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "a socket"),
    ],
)
def test_a_configuration_that_is_no_regular_file_is_refused_at_once(tmp_path, make, kind):
    """Nobody writes to the FIFO: opening it would block for ever."""
    make(tmp_path / "here")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "here")
    assert str(caught.value) == (
        f"{tmp_path / 'here'}: {tmp_path / 'here'} is {kind}, not a regular file, and each reload reads it again: write"
        " its content to a file and name that one")
    [(line, key, message)] = problems('root-hints-file = "here"', directory=tmp_path)
    assert (line, key) == (1, "root-hints-file") and kind in message


def test_lines_of_keys_are_found_in_every_form_of_toml():
    text = '''# comment with [table] and "quotes"
a.b."c.d" = 1
"""x""" = 2
text = """
[not.a.table]
key = 1
"""
raw = \'\'\'
z = 1\'\'\'
list = [ # first
  "one", [ 2,
  3 ], { deep = 4,
  er = 5 },
]
inline = { x = 1, y.z = [
 6 ] }
[t."u.v".w]   # header
k = 1
[[many]]
k = 1
  [many.sub]
  k = 2
[[many]]
k = 3
[[many.inner]]
[[many.inner]]
k = 4
date = 1979-05-27T07:32:00Z
'''.replace('"""x""" = 2\n', "'x' = 2\n")
    lines = find_lines(text)
    expected = {
        ("a", "b", "c.d"): 2,
        ("x",): 3,
        ("text",): 4,
        ("raw",): 8,
        ("list",): 10,
        ("list", 0): 11,
        ("list", 1): 11,
        ("list", 1, 0): 11,
        ("list", 1, 1): 12,
        ("list", 2): 12,
        ("list", 2, "deep"): 12,
        ("list", 2, "er"): 13,
        ("inline", "y", "z", 0): 16,
        ("t", "u.v", "w"): 17,
        ("t", "u.v", "w", "k"): 18,
        ("many",): 19,
        ("many", 0): 19,
        ("many", 0, "k"): 20,
        ("many", 0, "sub"): 21,
        ("many", 0, "sub", "k"): 22,
        ("many", 1): 23,
        ("many", 1, "k"): 24,
        ("many", 1, "inner", 0): 25,
        ("many", 1, "inner", 1): 26,
        ("many", 1, "inner", 1, "k"): 27,
        ("many", 1, "inner", 1, "date"): 28,
    }
    for path, line in expected.items():
        assert lines.get(path) == line, path
    assert ("key",) not in lines and ("z",) not in lines
    assert lines.texts["list", 0] == "one"
