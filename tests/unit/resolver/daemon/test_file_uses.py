"""One file has one purpose when resolverd writes it: the table of all settings that name files, and its check."""

import os
import socket
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from resolver.daemon import config, file_uses, main
from resolver.daemon.exit_status import EXIT_CONFIG
from resolver.daemon.file_uses import ACCESS, Access
from resolver.daemon.zone_files import SUFFIX, file_name
from resolver.settings import Settings, TargetSettings
from resolver.wire import name as names

NO_FILES = frozenset("""
    balance.check balance.check_path balance.fallback balance.name balance.policy balance.target.address
    balance.target.clients balance.target.countries balance.when_down client_subnet.servers
    client_subnet.trusted_clients client_subnet.zones dnssec.negative_trust_anchors dnssec.trust_anchors dnstap.address
    dnstap.identity dnstap.messages dnstap.version forward.addresses forward.zone iteration.case_randomisation_exempt
    iteration.do_not_query_addresses iteration.nat64_prefix iteration.opportunistic_encryption iteration.query_source_v4
    iteration.query_source_v6 list.action list.format list.name list.url listener.address listener.allow listener.drop
    listener.path listener.protocol listener.proxy_protocol_from listener.refuse log.level metrics.listen policy.allow
    policy.dns64_exclude policy.dns64_exclude_a policy.dns64_ignore_aaaa policy.dns64_prefix policy.drop policy.lists
    policy.local_data policy.local_zones policy.on_hook_error policy.private_addresses policy.private_domains
    policy.refuse policy.rewrite_addresses query_log.fields query_log.format query_log.mode query_log.views
    rate_limit.exempt rate_limit.queries_action rpz.allow_notify rpz.key rpz.name rpz.override rpz.primaries rpz.url
    second_level_cache.key_prefix second_level_cache.username server.cookie_secrets server.identity server.listen
    server.non_recursive_queries server.nsid server.overload_action server.user server.version stub.addresses
    stub.names stub.zone tls.name tsig_key.algorithm tsig_key.name tsig_key.secret view.allow view.clients view.keys
    view.dns64_exclude view.dns64_exclude_a view.dns64_ignore_aaaa view.dns64_prefix view.drop view.forward.addresses
    view.forward.zone view.listeners view.lists view.local_data view.local_zones view.name view.negative_trust_anchors
    view.private_addresses view.private_domains view.refuse view.rewrite_addresses view.stub.addresses view.stub.names
    view.stub.zone view.transports web.hosts web.listen zone.allow_notify zone.allow_transfer zone.key zone.mode
    zone.name zone.notify zone.primaries zone.transfer_key zone.zonemd zones.root
""".split())
"""All other settings that are text or lists of text. A new one belongs here or in `ACCESS`."""

ZONE = "$ORIGIN z.test.\n@ 60 SOA ns a 1 2 3 4 5\n@ 60 NS ns\nns 60 A 192.0.2.1\n"


def texts(kind: Any = Settings, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """All settings that are text or lists of text: name, dataclass and field."""
    hints = get_type_hints(kind)
    for item in fields(kind):
        inner = hints[item.name]
        if get_origin(inner) is tuple:
            inner = get_args(inner)[0]
        if is_dataclass(inner):
            yield from texts(inner, f"{prefix}{item.name}.")
        elif inner is str:
            yield prefix + item.name, kind, item


def test_every_setting_with_a_text_is_in_the_table_or_names_no_file() -> None:
    found = {name for name, _, _ in texts()}
    assert found == ACCESS.keys() | NO_FILES and not ACCESS.keys() & NO_FILES


@pytest.mark.parametrize(("name", "kind", "item"), [pytest.param(*one, id=one[0]) for one in texts()])
def test_a_setting_that_is_checked_as_a_file_name_is_in_the_table(name: str, kind: Any, item: Any) -> None:
    """`check_path` refuses NUL, whatever else is wrong with a value that is not complete."""
    text = "unix:\0" if name.endswith(".servers") else "\0"
    value = (text,) if isinstance(item.default, tuple) else text
    needed: dict[str, dict[str, Any]] = {
        "balance": {"name": "a.test", "check": "https", "target": (TargetSettings(address="192.0.2.1"),)},
        "list": {"name": "a"}, "rpz": {"name": "a"}, "tls": {"certificate": ("c",), "key": ("k",)},
        "view": {"name": "a", "clients": ("10.0.0.0/8",)},
    }
    refused = ""
    try:
        kind(**{**needed.get(name.rpartition(".")[0], {}), item.name: value})
    except ValueError as error:
        refused = str(error)
    assert ("is not a file name" in refused) == (name in ACCESS), refused


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "resolverd.toml"
    (tmp_path / "zones").mkdir(exist_ok=True)
    for name in ("z.zone", "hosts"):
        (tmp_path / name).write_text(ZONE if name == "z.zone" else "192.0.2.1 a.test\n")
    path.write_text(text.replace("{}", str(tmp_path)))
    return path


def refusal(tmp_path: Path, text: str) -> str:
    """What the check says of a configuration; "" when it has nothing against it."""
    path = write(tmp_path, text)
    try:
        file_uses.check(config.load(path), str(path))
    except ValueError as error:
        return str(error)
    return ""


SNAPSHOT, CONTROL = '[cache]\nsnapshot-file = "{}/one"\n', '[control]\nsocket = "{}/one"\n'
LOG, ANCHOR = '[query-log]\nfile = "{}/one"\n', '[dnssec]\nauto-trust-anchor-file = "{}/one"\n'
CHANGES = '[control]\nchanges-file = "{}/one"\n'
COPY = '[zones]\ndirectory = "{}"\n[[zone]]\nname = "one."\nprimaries = ["192.0.2.1"]\n'
FETCHED = '[[list]]\nname = "a"\nfile = "{}/one"\nurl = "https://a.test/"\n'
FETCHED_ZONE = '[[rpz]]\nname = "a"\nfile = "{}/one"\nurl = "https://a.test/"\n'
WRITERS = {
    "cache.snapshot-file": SNAPSHOT, "control.socket": CONTROL, "query-log.file": LOG, "list.file": FETCHED,
    "dnssec.auto-trust-anchor-file": ANCHOR, "control.changes-file": CHANGES, "rpz.file": FETCHED_ZONE,
}
READERS = {
    "dnstap.socket": '[dnstap]\nsocket = "{}/one"\n',
    "policy.hosts-files": '[policy]\nhosts-files = ["{}/hosts", "{}/one"]\n',
    "policy.geo-database": '[policy]\ngeo-database = "{}/one"\n',
    "policy.modules": '[policy]\nmodules = ["{}/one"]\n',
    "view.modules": '[[view]]\nname = "a"\nclients = ["10.0.0.0/8"]\nmodules = ["{}/one"]\n',
    "iteration.tls-cert-bundle": '[iteration]\ntls-cert-bundle = "{}/one"\n',
    "second-level-cache.servers": '[second-level-cache]\nservers = ["unix:{}/one"]\n',
    "second-level-cache.password-file": '[second-level-cache]\npassword-file = "{}/one"\n',
    "second-level-cache.tls-ca-file": '[second-level-cache]\ntls-ca-file = "{}/one"\n',
    "second-level-cache.secret-file": '[second-level-cache]\nsecret-file = "{}/one"\n',
    "tls.certificate": '[tls]\ncertificate = "{}/one"\nkey = "{}/key"\n',
    "tls.key": '[tls]\ncertificate = "{}/cert"\nkey = "{}/one"\n',
    "tls.ocsp-staple": '[tls]\ncertificate = "{}/cert"\nkey = "{}/key"\nocsp-staple = "{}/one"\n',
    "web.token-file": '[web]\ntoken-file = "{}/one"\n',
    "zone.file": '[[zone]]\nname = "z.test."\nfile = "{}/one"\n',
    "zones.directory": '[zones]\ndirectory = "{}/one"\n',
    "balance.check-ca": '[[balance]]\nname = "a.test"\ncheck = "https"\ncheck-ca = "{}/one"\n'
                        '[[balance.target]]\naddress = "192.0.2.1"\n',
}


def joined(*texts: str) -> str:
    """One configuration of several: sections of one name become one, and the tables of arrays follow."""
    sections: dict[str, str] = {}
    for number, text in enumerate(texts):
        head = ""
        for line in text.splitlines(keepends=True):
            if line.startswith("["):
                head = f"{number}{line}" if line.startswith("[[") else line
                sections.setdefault(head, line)
            else:
                sections[head] += line
    return "".join(body for _, body in sorted(sections.items(), key=lambda one: one[0][0] != "["))


def test_the_cases_below_are_those_of_the_table() -> None:
    named = {name.replace("_", "-"): access for name, access in ACCESS.items()}
    assert WRITERS.keys() == {name for name, access in named.items() if access is not Access.READS}
    assert READERS.keys() == {name for name, access in named.items() if access is Access.READS}


@pytest.mark.parametrize(("writer", "other"), [
    (writer, other) for writer in WRITERS for other in (*WRITERS, *READERS)
    if writer != other and {writer, other} != {"list.file", "rpz.file"}  # `check_lists` refuses these
])
def test_what_one_setting_writes_no_other_setting_names(tmp_path: Path, writer: str, other: str) -> None:
    said = refusal(tmp_path, joined(WRITERS[writer], {**WRITERS, **READERS}[other]))
    assert writer in said and other in said and f"'{tmp_path}/one'" in said, said


def test_readers_may_share_a_file(tmp_path: Path) -> None:
    texts = [text for name, text in READERS.items() if not name.startswith("tls.")]
    texts += ['[tls]\ncertificate = "{}/one"\nkey = "{}/one"\n', '[[list]]\nname = "a"\nfile = "{}/one"\n']
    assert refusal(tmp_path, joined(*texts)) == "", "a list without url is read only"


@pytest.mark.parametrize(("text", "line", "names"), [
    (SNAPSHOT.replace("/one", "/resolverd.toml"), 2, ("cache.snapshot-file", "the configuration")),
    (LOG.replace("/one", "/resolverd.toml"), 2, ("query-log.file", "the configuration")),
    ('root-hints-file = "hints"\n' + LOG.replace("/one", "/hints"), 3, ("query-log.file", "root-hints-file")),
    (joined('[dnssec]\ntrust-anchors-file = "anchors"\n', SNAPSHOT.replace("/one", "/anchors")), 4,
     ("cache.snapshot-file", "dnssec.trust-anchors-file")),
    (joined(CHANGES, LOG.replace("/one", "/one.next")), 4,
     ("control.changes-file while it is changed", "query-log.file")),
    (joined(COPY, LOG.replace("/one", "/one.zone")), 4, ("query-log.file", "copy of the zone 'one.'")),
    (joined(COPY, '[[zone]]\nname = "z.test."\nfile = "{}/one.zone"\n'), 2, ("zones.directory", "zone.file")),
    (FETCHED + FETCHED.replace('"a"', '"b"').replace("/one", "/./one"), 3, ("list.file", "list.file")),
    (joined(LOG, FETCHED), 2, ("query-log.file", "list.file")),
])
def test_files_that_no_setting_names_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: int, names: tuple[str, str]
) -> None:
    (tmp_path / "hints").write_text(". 60 NS a.test.\na.test. 60 A 192.0.2.1\n")
    (tmp_path / "anchors").write_text(f". 60 DS 20326 8 2 {'E0' * 32}\n")
    path = write(tmp_path, text)
    assert main.main(["--check", "-c", str(path)]) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert said.startswith(f"resolverd: {path}:{line}: "), said
    assert all(name in said for name in names), said


def test_the_copy_of_a_zone_has_the_path_that_is_written(tmp_path: Path) -> None:
    path = write(tmp_path, joined(COPY, '[zones]\nroot = "local"\n'))
    [copy, root] = [use.path for use in file_uses.uses_of(config.load(path)) if use.writes]
    assert copy == str(tmp_path / (file_name(names.from_text("one.")) + SUFFIX)) and root == str(tmp_path / "root.zone")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_other_names_of_a_file_are_found(tmp_path: Path, link: Any) -> None:
    write(tmp_path, "")
    link(tmp_path / "z.zone", tmp_path / "one")
    text = '[[zone]]\nname = "z.test."\nfile = "{}/z.zone"\n'
    assert "zone.file" in refusal(tmp_path, joined(SNAPSHOT, text))
    assert "zone.file" in refusal(tmp_path, joined(SNAPSHOT.replace("/one", "/zones/../z.zone"), text))


def test_names_below_a_link_that_does_not_exist_yet(tmp_path: Path) -> None:
    os.symlink(tmp_path / "zones", tmp_path / "link")
    assert "query-log.file" in refusal(tmp_path, joined(
        SNAPSHOT.replace("/one", "/zones/new"), LOG.replace("/one", "/link/new")))


def test_a_device_and_what_is_no_file_may_have_any_use(tmp_path: Path) -> None:
    hosts = '[policy]\nhosts-files = ["/dev/null"]\nmodules = ["one"]\n'
    assert refusal(tmp_path, joined('[query-log]\nfile = "/dev/null"\n', hosts)) == ""
    assert refusal(tmp_path, joined('[query-log]\nfile = "-"\n', SNAPSHOT.replace("{}/one", "-"))) == ""
    assert refusal(tmp_path, joined('[query-log]\nfile = "one"\n', hosts)) == "", "it is the name for an import"


def test_a_start_refuses_it_and_destroys_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, SNAPSHOT.replace("/one", "/resolverd.toml"))
    before = path.read_bytes()
    assert main.main(["-c", str(path)]) == EXIT_CONFIG
    assert f"{path}:2: cache.snapshot-file: " in capsys.readouterr().err and path.read_bytes() == before


def test_a_reload_refuses_it(tmp_path: Path) -> None:
    """A reload calls `load_settings` with the arguments of the start."""
    path = write(tmp_path, "")
    arguments = main.parser().parse_args(["-c", str(path)])
    assert isinstance(main.load_settings(arguments), Settings)
    write(tmp_path, joined(SNAPSHOT, LOG))
    with pytest.raises(ValueError, match=f"{path}:2: cache.snapshot-file: .* query-log.file"):
        main.load_settings(arguments)


def test_a_dead_socket_may_be_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "one"))
    assert refusal(tmp_path, CONTROL) == ""
    assert "dnstap.socket" in refusal(tmp_path, joined(CONTROL, READERS["dnstap.socket"]))
