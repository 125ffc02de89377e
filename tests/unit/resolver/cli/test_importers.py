"""Configurations of other resolvers: what is carried over, what is named as left out, and what is refused."""

import os
import tomllib

import pytest

from resolver import hints, limits
from resolver.cli import control
from resolver.cli.importers import ImportFailure, convert, detect

UNBOUND = """\
server:
  port: 5300
  {}
"""


# --- Unbound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "section", "key", "value"), [
    ("interface: 10.0.0.1", "server", "listen", ["10.0.0.1:5300"]),
    ("interface: ::1@99", "server", "listen", ["[::1]:99"]),
    ("num-threads: 4   # a comment", "server", "workers", 4),
    ('identity: "a # b"', "server", "identity", "a # b"),
    ("tcp-idle-timeout: 30000", "server", "tcp-idle-timeout", 30),
    ("access-control: 10.1.2.3/8 allow", "policy", "allow", ["10.0.0.0/8"]),
    ("access-control: 10.0.0.0/8 refuse", "policy", "refuse", ["10.0.0.0/8"]),
    ("access-control: 10.0.0.0/8 deny", "policy", "drop", ["10.0.0.0/8"]),
    ("access-control: 10.0.0.0/8 allow_snoop", "server", "non-recursive-queries", "cache"),
    ("msg-cache-size: 2m\n rrset-cache-size: 1G", "cache", "size", (2 << 20) + (1 << 30)),
    ("msg-cache-size: 1", "cache", "size", limits.CACHE_SIZE.minimum),
    ("serve-expired: yes", "cache", "max-stale-ttl", 86_400),
    ("serve-expired: yes\n serve-expired-ttl: 60", "cache", "max-stale-ttl", 60),
    ("module-config: \"iterator\"", "dnssec", "enabled", False),
    ("dns64-ignore-aaaa: odd.example", "policy", "dns64-ignore-aaaa", ["odd.example"]),
    ("domain-insecure: corp.example", "dnssec", "negative-trust-anchors", ["corp.example"]),
    ("outgoing-interface: 192.0.2.1", "iteration", "query-source-v4", "192.0.2.1"),
    ("use-caps-for-id: no", "iteration", "case-randomisation", False),
    ("local-zone: \"x.example.\" nodefault", "policy", "local-zones", ["x.example. resolve"]),
    ("local-data: 'a.example. IN A 192.0.2.1'", "policy", "local-data", ["a.example. IN A 192.0.2.1"]),
    ('local-data-ptr: "192.0.2.1 a.example"', "policy", "local-data", ["1.2.0.192.in-addr.arpa. PTR a.example"]),
    ("verbosity: 4", "log", "level", "debug"),
    ("ip-freebind: yes", "server", "freebind", True),
])
def test_unbound_keys(made, line, section, key, value):
    found, left = made(UNBOUND.format(line), "unbound")
    assert found[section][key] == value
    assert left == []


@pytest.mark.parametrize(("line", "why"), [
    ("ratelimit: 1000", "3: ratelimit: 1000: resolverd limits the outstanding fetches of a zone, not their rate"),
    ("tls-ciphers: x", "3: tls-ciphers: x: resolverd has no counterpart"),
    ("ip-transparent: yes", "3: ip-transparent: yes: resolverd is no transparent proxy (TPROXY); for addresses that"
                            " this host gets later, set server.freebind"),
    ("do-ip6: maybe", "3: do-ip6: maybe: 'maybe' is neither yes nor no"),
    ("interface: eth0", "3: interface: eth0: 'eth0' does not appear to be an IPv4 or IPv6 address"),
    ("access-control: 10.0.0.0/8 allow_odd", "resolverd has no access action 'allow_odd'"),
    ("num-threads:", "3: num-threads:: the value is missing"),
    ("num-threads: 1000", "server.workers = 1000: server.workers: 1000"),
    ("local-zone: a.example. odd", "policy.local-zones = ['a.example. odd']: policy.local_zones: 'a.example. odd'"),
])
def test_unsupported_options_of_unbound_are_named(made, line, why):
    found, [left] = made(UNBOUND.format(line), "unbound")
    assert why in left
    assert found["server"]["listen"] == ["127.0.0.1:5300", "[::1]:5300"]


def test_one_wrong_element_does_not_remove_the_others(made):
    lines = "local-zone: a. static\n local-zone: b. odd\n local-zone: c. static"
    found, [left] = made(UNBOUND.format(lines), "unbound")
    assert found["policy"]["local-zones"] == ["a. static", "c. static"] and "b. odd" in left


def test_unbound_zones(made):
    found, left = made("""\
forward-zone:
  name: "."
  forward-addr: 192.0.2.9@853#dns.example
  forward-addr: 2001:db8::9@853#dns.example
  forward-tls-upstream: yes
forward-zone: name: a.example
  forward-addr: 192.0.2.9@853
  forward-tls-upstream: yes
stub-zone:
  name: b.example
  stub-addr: 192.0.2.8@5353
  stub-addr: 2001:db8::8
  stub-prime: yes
view:
  name: inside
""", "unbound")
    first, second = found["forward"]
    assert first == {
        "zone": ".",
        "addresses": ["tls://192.0.2.9:853#dns.example", "tls://[2001:db8::9]:853#dns.example"],
    }
    assert second["allow-unauthenticated"] is True and second["addresses"] == ["tls://192.0.2.9:853"]
    assert found["stub"] == [{"zone": "b.example", "addresses": ["192.0.2.8:5353", "2001:db8::8"]}]
    assert [line.partition(":")[0] for line in left] == ["13"]


def test_only_the_wrong_key_is_removed_from_a_table(made):
    found, [left] = made(
        "forward-zone:\n name: a\n forward-addr: 192.0.2.9#x\n forward-first: yes\n forward-tls-upstream: yes\n"
        "forward-zone:\n name: b\n forward-addr: 192.0.2.9\n forward-first: yes\n", "unbound",
    )
    first, second = found["forward"]
    assert "forward-first" not in first and second["forward-first"] is True
    assert "forward-first = True of forward 'a'" in left and "unencrypted" in left


def test_files_are_included_in_order(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.conf").write_text("server:\n num-threads: 3\n")
    (tmp_path / "d" / "a.conf").write_text("server:\n num-threads: 2\n odd: 1\n")
    (tmp_path / "unbound.conf").write_text('include: "d/*.conf"\n')
    text, draft = convert(str(tmp_path / "unbound.conf"))
    assert tomllib.loads(text)["server"]["workers"] == 3
    assert [str(one.place) for one in draft.remarks] == [f"{tmp_path}/d/a.conf:3"]


def test_policy_zones_of_unbound(made, tmp_path):
    (tmp_path / "local.zone").write_text("$TTL 60\n@ SOA ns. admin. 1 1 1 1 1\nnx.test CNAME .\n")
    found, left = made(f"""\
rpz:
  name: rpz.example
  primary: 192.0.2.1
  master: 2001:db8::1@8853#ns.example
  url: https://rpz.example/zone
  allow-notify: 192.0.2.9
  zonefile: rpz.zone
  rpz-action-override: disabled
  rpz-log: yes
  tags: "a"
rpz: name: web.example
  url: "https://rpz.example/web"
  zonefile: web.zone
rpz:
  name: file.example
  zonefile: {tmp_path}/local.zone
  for-downstream: no
  rpz-action-override: cname
  rpz-cname-override: walled.example
rpz:
  name: away.example
  zonefile: /nonexistent/zone
rpz:
  name: odd.example
  primary: ns.example
""", "unbound")
    assert found["zones"]["directory"] == "/var/lib/resolverd/zones"
    assert found["rpz"] == [
        {"name": "rpz.example", "primaries": ["192.0.2.1", "tls://[2001:db8::1]:8853#ns.example"],
         "allow-notify": ["192.0.2.9/32"], "override": "log", "log": True},
        {"name": "web.example", "url": "https://rpz.example/web", "file": "/var/lib/resolverd/web.example.rpz"},
        {"name": "file.example", "file": f"{tmp_path}/local.zone", "override": "cname walled.example"},
    ]
    assert [line.partition(":")[0] for line in left] == ["5", "10", "25", "24", "0"]
    assert "'/nonexistent/zone': No such file" in left[-1]


@pytest.mark.parametrize(("lines", "override", "why"), [
    ("rpz-action-override: cname", None, "rpz-cname-override is missing"),
    ("rpz-action-override: odd", None, "has no override 'odd'"),
    ("rpz-cname-override: walled.example", None, ""),
    ("rpz-action-override: drop\n  rpz-cname-override: walled.example", "drop", ""),
])
def test_overrides_of_unbound_that_are_not_complete(made, lines, override, why):
    found, left = made(f"rpz:\n  name: rpz.example\n  primary: 192.0.2.1\n  {lines}\n", "unbound")
    assert found["rpz"][0].get("override") == override
    assert [why in line for line in left] == [True] * bool(why)


# --- BIND ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "section", "key", "value"), [
    ("listen-on port 5300 { 127.0.0.1; localhost; };", "server", "listen", ["127.0.0.1:5300"]),
    ("listen-on-v6 { any; };", "server", "listen", ["[::]:53", "0.0.0.0:53"]),
    ("allow-recursion { !10.1.0.0/16; 10.0.0.0/8; localhost; };", "policy", "refuse", ["10.1.0.0/16"]),
    ("allow-query { any; };", "policy", "allow", ["0.0.0.0/0", "::/0"]),
    ("blackhole { 192.0.2.0/24; };", "policy", "drop", ["192.0.2.0/24"]),
    ("max-cache-size 256m;", "cache", "size", 256 << 20),
    ("max-ncache-ttl 1h;", "cache", "max-negative-ttl", 3600),
    ("stale-answer-enable yes; max-stale-ttl 2d;", "cache", "max-stale-ttl", 172_800),
    ("dnssec-validation no;", "dnssec", "enabled", False),
    ("dnssec-validation auto;", "dnssec", "enabled", True),
    ("qname-minimization off;", "iteration", "qname-minimisation", False),
    ("query-source address 192.0.2.1 port *;", "iteration", "query-source-v4", "192.0.2.1"),
    ("dns64 64:ff9b::/96 { break-dnssec yes; }; dns64 2001:db8::/96 { exclude { 2001:db8::/32; }; };", "policy",
     "dns64-prefix", ["64:ff9b::/96", "2001:db8::/96"]),
    ("dns64 64:ff9b::/96 { exclude { 64:ff9b::/96; }; };", "policy", "dns64-exclude", ["64:ff9b::/96"]),
    ("deny-answer-addresses { 10.0.0.0/8; };", "policy", "private-addresses", ["10.0.0.0/8"]),
    ("version none;", "server", "version", ""),
])
def test_bind_options(made, line, section, key, value):
    found, left = made(f"options {{\n  {line}\n}};\n", "bind")
    assert found[section][key] == value
    assert left == []


def test_bind_access_lists_zones_and_anchors(made):
    found, left = made("""\
/* a comment
   of two lines */
acl "inner" { 10.9.0.0/16; };  // another
acl lan { !inner; 10.0.0.0/8; };  # and another
options {
  allow-recursion { lan; };
  forwarders port 53 { 192.0.2.9; 2001:db8::9 port 5300; };
  forward only;
  rate-limit { responses-per-second 5; };
};
zone "." { type hint; file "root"; };
zone "a.example" IN { type forward; forwarders { 192.0.2.8; }; };
zone "b.example" { type static-stub; server-addresses { 192.0.2.7; }; };
zone "c.example" { type primary; file "c"; };
trust-anchors { d.example. static-ds 1 8 2 "AB CD"; . initial-key 257 3 8 "AA"; };
""", "bind")
    assert found["policy"] == {"allow": ["10.0.0.0/8"], "refuse": ["10.9.0.0/16"], "special-use-domains": False}
    root, other = found["forward"]
    assert root == {"zone": ".", "addresses": ["192.0.2.9:53", "[2001:db8::9]:5300"], "forward-first": False}
    assert other == {"zone": "a.example", "addresses": ["192.0.2.8"], "forward-first": True}
    assert found["stub"] == [{"zone": "b.example", "addresses": ["192.0.2.7"]}]
    assert found["dnssec"]["trust-anchors"] == ["d.example. IN DS 1 8 2 ABCD", *hints.ROOT_ANCHORS]
    assert found["rate-limit"] == {"responses-per-second": 5}
    assert found["zone"] == [{"name": "c.example", "file": "c"}] and left == []


@pytest.mark.parametrize(("line", "why"), [
    ("query-source port 53;", "a fixed source port"),
    ("interface-interval 5;", "server.freebind"),
    ("recursion no;", "resolverd is a recursive resolver"),
    ("allow-recursion { key mine; };", "one with keys"),
    ("listen-on tls local { any; };", "[[listener]]"),
    ("forwarders { 192.0.2.9 tls quad; };", "tls://ADDRESS#NAME"),
    ("allow-recursion { odd; };", "'odd' does not appear to be"),
])
def test_unsupported_options_of_bind_are_named(made, line, why):
    _, left = made(f"options {{\n {line}\n}};\n", "bind")
    assert len(left) == 1 and left[0].startswith("2: ") and why in left[0]


BIND_POLICY = """\
key "t.key" { algorithm hmac-sha256; secret "c2VjcmV0IG9mIHRoaXMgdGVzdCBvbmx5ISEhISEhISE="; };
key "old" { algorithm hmac-md5; secret "c2VjcmV0IG9mIHRoaXMgdGVzdCBvbmx5ISEhISEhISE="; };
tls dot { remote-hostname "ns.example"; };
primaries feed port 5300 { 192.0.2.1; 2001:db8::1 tls dot; };
options { response-policy {
  zone "rpz.example" policy disabled log yes ede filtered;
  zone "listed.example" policy cname garden.example;
  zone "old.example";
  zone "bare.example";
  zone "gone.example";
} break-dnssec yes max-policy-ttl 60 qname-wait-recurse no; };
zone "listed.example" { type slave; masters { feed key t.key; }; };
zone "RPZ.example." { type secondary; primaries { 192.0.2.1 port 5353 key "t.key"; }; allow-notify { 192.0.2.9; }; };
zone "old.example" { type secondary; primaries { 192.0.2.1 key "old"; }; };
zone "bare.example" { type secondary; primaries { 192.0.2.1 tls ephemeral; }; };
"""


def test_policy_zones_of_bind(made):
    found, left = made(BIND_POLICY, "bind")
    assert found["tsig-key"] == [
        {"name": "t.key", "algorithm": "hmac-sha256", "secret": "c2VjcmV0IG9mIHRoaXMgdGVzdCBvbmx5ISEhISEhISE="}]
    assert found["rpz"] == [
        {"name": "rpz.example", "override": "log", "log": True, "ede": 17, "primaries": ["192.0.2.1:5353"],
         "allow-notify": ["192.0.2.9"], "key": "t.key"},
        {"name": "listed.example", "primaries": ["192.0.2.1:5300", "tls://[2001:db8::1]:5300#ns.example"],
         "key": "t.key", "override": "cname garden.example"},
    ]
    assert found["zones"]["directory"] == "/var/lib/resolverd/zones"
    for text in ("8: ", "algorithm hmac-md5, which resolverd does not use", "9: ",
                 "tls ephemeral has no remote-hostname", "10: ", "there is no zone statement of this name",
                 "carried over, max-policy-ttl 60 is not", "2: key old"):
        assert any(text in line for line in left), (text, left)
    assert len(left) == 7, "with the zones of type secondary that are left"


@pytest.mark.parametrize(("of_zone", "of_all", "why"), [
    ("", "", ["as with break-dnssec yes", "5 s at most"]),
    ("", "break-dnssec no max-policy-ttl 9", ["the zones are carried over, break-dnssec no, max-policy-ttl 9 is not"]),
    ("add-soa no nsip-enable yes", "break-dnssec yes max-policy-ttl 9", [
        "the zone is carried over, add-soa no is not", "max-policy-ttl 9 is not"]),
    ("max-policy-ttl 9", "break-dnssec true min-ns-dots 1 nsip-wait-recurse yes", [
        "the zone is carried over, max-policy-ttl 9 is not", "5 s at most", "carried over, min-ns-dots 1 is not"]),
])
def test_options_of_the_policy_zones_of_bind(made, of_zone, of_all, why):
    found, draft = made.whole(f"""\
options {{ listen-on {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
  response-policy {{ zone "rpz.example" {of_zone}; }} {of_all}; }};
zone "rpz.example" {{ type secondary; primaries {{ 192.0.2.1; }}; }};
""", "bind")
    assert found["rpz"] == [{"name": "rpz.example", "primaries": ["192.0.2.1"]}]
    told = [one.why for one in draft.remarks if one.told]
    assert len(told) == len(why) and all(one in text for one, text in zip(why, told, strict=True)), told


# --- PowerDNS Recursor --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "section", "key", "value"), [
    ("local-address=10.0.0.1, [::1]:99, 10.0.0.2:98", "server", "listen", ["10.0.0.1:5300", "[::1]:99", "10.0.0.2:98"]),
    ("allow-from=10.0.0.0/8, !10.1.0.0/16", "policy", "refuse", ["10.1.0.0/16"]),
    ("allow-from=10.0.0.0/8\nallow-from+=192.0.2.0/24", "policy", "allow", ["10.0.0.0/8", "192.0.2.0/24"]),
    ("threads=4", "server", "workers", 4),
    ("dnssec=off", "dnssec", "enabled", False),
    ("loglevel=7", "log", "level", "debug"),
    ("aggressive-nsec-cache-size=0", "cache", "aggressive-nsec", False),
    ("query-local-address=0.0.0.0, 2001:db8::1", "iteration", "query-source-v6", "2001:db8::1"),
])
def test_recursor_keys(made, line, section, key, value):
    found, left = made(f"local-port=5300\n{line}\n", "recursor")
    assert found[section][key] == value
    assert left == []


def test_recursor_zones(made, tmp_path):
    (tmp_path / "zones").write_text("+c.example=192.0.2.3, 192.0.2.4:53  # comment\nd.example=192.0.2.5\n")
    found, left = made(
        "forward-zones=a.example=192.0.2.1;192.0.2.2:5300, b.example=192.0.2.1\nforward-zones-recurse=.=192.0.2.9\n"
        f"forward-zones-file={tmp_path}/zones\nlua-config-file=x\n", "recursor",
    )
    assert [(one["zone"], one["addresses"]) for one in found["stub"]] == [
        ("a.example", ["192.0.2.1", "192.0.2.2:5300"]), ("b.example", ["192.0.2.1"]), ("d.example", ["192.0.2.5"]),
    ]
    assert [(one["zone"], one["addresses"]) for one in found["forward"]] == [
        (".", ["192.0.2.9"]), ("c.example", ["192.0.2.3", "192.0.2.4:53"]),
    ]
    assert left == ["4: lua-config-file=x: x: No such file or directory"]


# --- files that cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "kind"), [
    ("server:\n", "unbound"), ("include: x\n", "unbound"), ("options {\n};\n", "bind"), ('zone "." {\n};\n', "bind"),
    ('include "x";\n', "bind"), ("threads=1\n", "recursor"),
])
def test_the_format_is_detected(tmp_path, text, kind):
    (tmp_path / "f").write_text(text)
    assert detect(str(tmp_path / "f")) == kind


@pytest.mark.parametrize(("text", "kind", "why"), [
    ("", None, "not recognised"),
    ("word\n", "unbound", "f:1: 'word' is no key"),
    ("include: f\n", "unbound", "files include each other"),
    ("options {\n", "bind", "f:1: an opening brace without"),
    ("};\n", "bind", "f:1: a closing brace without"),
    ("a b\n", "bind", "f:1: 'a b' does not end with a semicolon"),
    ('"a\n', "bind", "f:1: a quotation mark"),
    ("a { " * 100, "bind", "blocks are deeper"),
    ('include "f";\n', "bind", "files include each other"),
    ("word\n", "recursor", "f:1: 'word' is not key=value"),
])
def test_a_file_that_cannot_be_parsed_names_the_line(tmp_path, monkeypatch, text, kind, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text(text)
    with pytest.raises(ImportFailure, match=why):
        convert("f", kind)


def test_binary_and_missing_files_are_errors(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"server:\n\xff")
    with pytest.raises(ImportFailure, match="f:2: not UTF-8"):
        convert(str(tmp_path / "f"), "unbound")
    with pytest.raises(ImportFailure, match="No such file"):
        convert(str(tmp_path / "none"))
    monkeypatch.setattr(limits, "IMPORTED_FILE", 8)
    with pytest.raises(ImportFailure, match="larger than 8 bytes"):
        convert(str(tmp_path / "f"))


# --- the command --------------------------------------------------------------------------------------------------


def test_only_regular_files_are_read(tmp_path, monkeypatch):
    """A FIFO would block for ever, also one that is included."""
    os.mkfifo(tmp_path / "fifo")
    for path, why in ((tmp_path / "fifo", "not a regular file"), ("/dev/null", "not a reg"), (tmp_path, "Is a dir")):
        with pytest.raises(ImportFailure, match=f"{path}: {why}"):
            convert(str(path), "unbound")
    (tmp_path / "unbound.conf").write_text(f"server:\n include: {tmp_path}/fifo\n")
    with pytest.raises(ImportFailure, match=f"{tmp_path}/fifo: not a regular file"):
        convert(str(tmp_path / "unbound.conf"), "unbound")


def test_the_command_writes_a_new_file_and_names_omitted_options(tmp_path, capsys):
    given, output = tmp_path / "unbound.conf", tmp_path / "resolverd.toml"
    given.write_text("server:\n  ratelimit: 5\n")
    words = ["import", str(given), "--output", str(output)]
    assert control.main(words) == control.EXIT_DONE
    assert f"{given}:2: ratelimit: 5: resolverd limits the outstanding fetches" in capsys.readouterr().err
    assert f"#   {given}:2: ratelimit: 5" in output.read_text()
    assert control.main(words) == control.EXIT_REFUSED
    assert "File exists" in capsys.readouterr().err


def test_the_command_names_a_file_that_it_cannot_read(tmp_path, capsys):
    assert control.main(["import", str(tmp_path / "none")]) == control.EXIT_REFUSED
    assert "No such file" in capsys.readouterr().err


def test_a_remark_cannot_add_a_line_to_the_result(tmp_path):
    given = tmp_path / "named.conf"
    given.write_text('options {\n odd "a\n[server]\nworkers = 9";\n};\n')
    text, _ = convert(str(given))
    assert "workers" not in tomllib.loads(text).get("server", {})


@pytest.mark.parametrize(("options", "policy"), [
    ("allow-query { !10.0.0.0/8; 10.1.0.0/16; any; };",
     {"refuse": ["10.0.0.0/8"], "allow": ["0.0.0.0/0", "::/0"]}),
    ("allow-query { 10.1.0.0/16; !10.0.0.0/8; any; };",
     {"allow": ["10.1.0.0/16", "0.0.0.0/0", "::/0"], "refuse": ["10.0.0.0/8"]}),
    ("allow-query { 10.1.0.0/16; }; allow-recursion { any; };",
     {"allow": ["10.1.0.0/16"], "refuse": ["0.0.0.0/0", "::/0"]}),
    ("allow-recursion { any; }; allow-query-cache { none; };", {"refuse": ["0.0.0.0/0", "::/0"]}),
])
def test_bind_serves_no_client_that_the_source_refuses(options, policy, made):
    found, _ = made(f"options {{ {options} }};", "bind")
    assert found["policy"] == policy


def test_recursor_list_with_a_malformed_element_allows_nobody(made):
    found, left = made("allow-from=10.0.0.0/8, odd, !10.1.0.0/16", "recursor")
    assert "policy" not in found and "'odd' does not appear to be" in left[0]


@pytest.mark.parametrize(("line", "section"), [
    ("dont-query=10.0.0.0/8, !10.1.0.0/16", "iteration"),
    ("dont-query=10.0.0.0/8, odd", "iteration"),
    ("edns-subnet-allow-list=a.example, !10.0.0.0/8", "client-subnet"),
    ("query-local-address=10.0.0.1, odd", "iteration"),
    ("auth-zones=a.example=a, b.example", "zone"),
    ("forward-zones=a.example=192.0.2.1, b.example", "stub"),
    ("forward-zones-recurse=a.example=192.0.2.1, b.example=odd", "forward"),
    ("forward-zones-file={}", "forward"),
])
def test_recursor_setting_that_is_not_carried_over_has_no_part_in_the_result(made, tmp_path, line, section):
    (tmp_path / "zones").write_text("+a.example=192.0.2.1\n+b.example=odd\n")
    line = line.format(tmp_path / "zones")
    found, left = made(line, "recursor")
    assert section not in found
    assert [one.startswith(f"1: {line}: ") for one in left] == [True]


def test_recursor_addresses_with_a_malformed_one_are_not_served(made):
    found, left = made("local-address=192.0.2.1, odd", "recursor")
    assert found["server"]["listen"] == ["127.0.0.1:53"] and len(left) == 1


@pytest.mark.parametrize(("kind", "text", "why"), [
    ("recursor", "local-port=abc\n", "1: local-port=abc: 'abc' is not a number"),
    ("unbound", UNBOUND.format("rrset-cache-size: abc"), "3: rrset-cache-size: abc: 'abc' is not a size"),
    ("unbound", UNBOUND.format("msg-cache-size: 1x"), "3: msg-cache-size: 1x: '1x' is not a size"),
    ("unbound", UNBOUND.format("serve-expired-ttl: abc\n  serve-expired: yes"),
     "3: serve-expired-ttl: abc: 'abc' is not a number"),
])
def test_a_malformed_number_of_a_key_that_is_read_with_others_is_named(made, kind, text, why):
    _, left = made(text, kind)
    assert left == [why]


LUA = """\
-- policy zones
rpzPrimary("192.0.2.4", "policy.rpz", {defpol=Policy.NXDOMAIN, refresh=60})
rpzPrimary("192.0.2.4", "walled.rpz", {defpol=Policy.Custom, defcontent="walled.example"})
rpzMaster({"192.0.2.4:5300", '2001:db8::1'}, "two.rpz", {
  tsigname="t.key", tsigalgo="hmac-sha256", -- a "comment
  tsigsecret="c2VjcmV0IG9mIHRoaXMgdGVzdCBvbmx5ISEhISEhISE=", tags={"a", "b"}})
rpzFile("dbl.rpz", {policyName="x"})
rpzPrimary(server, "three.rpz")
rpzPrimary("192.0.2.4" .. "", "four.rpz")
rpzPrimary("192.0.2.4", "old.rpz", {tsigname="o", tsigalgo="hmac-md5", tsigsecret="eA=="})
rpzPrimary("192.0.2.4", "open
"""


def test_policy_zones_of_recursor(made, tmp_path):
    (tmp_path / "recursor.lua").write_text(LUA)
    found, left = made(f"local-address=127.0.0.1\nlua-config-file={tmp_path}/recursor.lua\n", "recursor")
    assert found["rpz"] == [
        {"name": "policy.rpz", "primaries": ["192.0.2.4"], "override": "nxdomain"},
        {"name": "walled.rpz", "primaries": ["192.0.2.4"], "override": "cname walled.example"},
        {"name": "two.rpz", "primaries": ["192.0.2.4:5300", "2001:db8::1"], "key": "t.key"},
    ]
    assert found["tsig-key"] == [
        {"name": "t.key", "algorithm": "hmac-sha256", "secret": "c2VjcmV0IG9mIHRoaXMgdGVzdCBvbmx5ISEhISEhISE="}]
    assert [line.partition(":")[0] for line in left] == ["4", "7", "8", "9", "10", "11"]
    assert "tags is not" in left[0]


@pytest.mark.parametrize("text", ["(" * 5000, "{" * 5000, "1," * 5000, "a={" * 5000, '"', "{}", "{}, {}", ")", ""])
def test_lua_that_is_not_read_is_named(made, tmp_path, text):
    (tmp_path / "recursor.lua").write_text(f"rpzPrimary({text}")
    found, left = made(f"lua-config-file={tmp_path}/recursor.lua\n", "recursor")
    assert "rpz" not in found and "its arguments are not written out" in left[0]


@pytest.mark.parametrize(("kind", "text"), [
    ("bind", 'key odd { algorithm hmac-sha256; secret "c2VjcmV0IG9mIHRoZSBrZXk="; };\n'),
    ("unbound", "server:\n  module-config: 'validator cachedb iterator'\ncachedb:\n  backend: redis\n"
     "  redis-server-password: 'a c2VjcmV0IG9mIHRoZSBrZXk= b'\n"),
    ("unbound", 'server:\n  odd-secret: "c2VjcmV0IG9mIHRoZSBrZXk="\n'),
    ("recursor", "threads=2\nwebserver-password=c2VjcmV0IG9mIHRoZSBrZXk=\n"),
])
def test_remarks_contain_no_secrets(made, kind, text):
    _, [left] = made(text, kind)
    assert "c2VjcmV0" not in left and "..." in left
