"""Views, own zones, rates, dnstap, Redis and query logs of other resolvers, as resolverd has them."""

import re
from contextlib import suppress
from ipaddress import ip_address, ip_network
from random import Random

import pytest

from resolver import hints
from resolver.cli import control
from resolver.cli.importers import ImportFailure, bind, recursor, unbound
from resolver.cli.importers.draft import CHANGED
from resolver.cli.importers.networks import allowed, decision, view_groups
from resolver.cli.importers.recursor_yaml import Node, parse, settings
from resolver.cli.importers.run import FORMATS
from resolver.policy import ALLOW, PolicyPipeline
from resolver.settings import PolicySettings, Settings

SECRET = "c2VjcmV0IG9mIHRoaXMgdGVzdCBvbmx5ISEhISEhISE="


def changes(draft):
    return [f"{one.place.line}: {one.why}" for one in draft.remarks if one.kind == CHANGED]


# --- Unbound ------------------------------------------------------------------------------------------------------

VIEWS = """\
server:
  access-control-view: 10.0.0.0/8 wide
  access-control-view: 10.1.0.0/16 Narrow
  access-control-view: 10.1.1.0/24 wide
  access-control-view: 192.0.2.0/24 nobody
  interface: 127.0.0.1
  interface-view: 127.0.0.1 front
  private-address: 10.0.0.0/8
view:
  name: "wide"
  local-zone: w.example static
  local-zone: odd.example odd
view:
  name: narrow
  view-first: yes
  local-data: "a.example A 192.0.2.1"
  local-data-ptr: "192.0.2.1 a.example"
view:
  name: "of the front"
view:
  name: front
  odd: 1
"""


def test_a_client_is_in_the_view_of_its_smallest_network(made):
    found, left = made(VIEWS, "unbound")
    wide = {"local-zones": ["w.example static"], "inherit": False, "private-addresses": ["10.0.0.0/8"]}
    data = ["a.example A 192.0.2.1", "1.2.0.192.in-addr.arpa. PTR a.example"]
    assert found["view"] == [
        {"name": "wide", "clients": ["10.1.1.0/24"], **wide},
        {"name": "narrow", "clients": ["10.1.0.0/16"], "local-data": data},
        {"name": "wide-2", "clients": ["10.0.0.0/8"], **wide},
        {"name": "front", "listeners": ["127.0.0.1:53"]},
    ]
    for text in ("5: access-control-view: 192.0.2.0/24 nobody: there is no view", ": odd: 1: a [[view]]",
                 "['odd.example odd'] of view 'wide'", "['odd.example odd'] of view 'wide-2'"):
        assert any(text in line for line in left), text
    assert len(left) == 4


def test_own_zones_of_unbound(made, tmp_path):
    found, draft = made.whole(f"""\
server:
  directory: "{tmp_path}"
auth-zone:
  name: a.example
  primary: 192.0.2.1@5300
  master: 2001:db8::1#ns.example
  zonefile: a.zone
  allow-notify: 192.0.2.9
  fallback-enabled: yes
  zonemd-check: yes
  zonemd-reject-absence: yes
auth-zone:
  name: b.example
  zonefile: b.zone
  for-upstream: no
  zonemd-check: no
auth-zone: name: "."
  primary: 192.0.2.1
  for-downstream: no
auth-zone: name: c.example
  url: https://c.example/
  zonefile: c.zone
auth-zone: name: d.example
  zonefile: d.zone
  for-downstream: no
  for-upstream: no
auth-zone: name: b.example
  zonefile: other.zone
auth-zone: name: e.example
  primary: ns.example
""", "unbound")
    assert found["zones"]["directory"] == "/var/lib/resolverd/zones"
    assert [zone for zone in found["zone"] if zone["name"] != "b.example"] == [
        {"name": "a.example", "primaries": ["192.0.2.1:5300", "tls://[2001:db8::1]#ns.example"],
         "allow-notify": ["192.0.2.9/32"], "fallback": True, "zonemd": "required"},
        {"name": ".", "primaries": ["192.0.2.1"], "mode": "delegations"},
    ]
    assert sum(zone["name"] == "b.example" for zone in found["zone"]) == 1
    left = [str(one) for one in draft.remarks if one.needed]
    for text in ("url: https://c.example/", "the section of name: c.example", "twice", "the section of name: d.example",
                 "primary: ns.example", "the section of name: e.example"):
        assert any(text in line for line in left), text
    assert [line.partition(":")[0] for line in changes(draft)] == ["15", "19"]


@pytest.mark.parametrize(("lines", "rates"), [
    ("ip-ratelimit: 50", (50, 50)), ("ip-ratelimit: 50\n ip-ratelimit-cookie: 0", (50, 0)), ("ip-ratelimit: 0", None),
    ("ip-ratelimit: 9\n ip-ratelimit-factor: 0", (9, 9)),
])
def test_queries_of_one_address_are_limited_as_in_unbound(made, lines, rates):
    found, left = made(f"server:\n {lines}\n", "unbound")
    limit = found.get("rate-limit")
    assert left == [] and (limit is None if rates is None else limit == {
        "queries-per-second": rates[0], "verified-queries-per-second": rates[1], "queries-action": "drop",
        "ipv4-prefix": 32, "ipv6-prefix": 128})


TAP = """\
dnstap:
  dnstap-enable: {}
  dnstap-socket-path: /run/tap
  dnstap-send-identity: yes
  dnstap-identity: "me"
  dnstap-version: "1"
  dnstap-log-client-query-messages: yes
  dnstap-log-forwarder-response-messages: yes
  {}
"""


def test_dnstap_of_unbound(made):
    found, left = made(TAP.format("yes", "dnstap-bidirectional: yes"), "unbound")
    assert found["dnstap"] == {"socket": "/run/tap", "identity": "me",
                               "messages": ["client-query", "forwarder-response"]} and left == []
    found, left = made(TAP.format("yes", "dnstap-ip: 192.0.2.1@6000"), "unbound")
    assert "address" not in found["dnstap"] and "over TLS" in left[0]
    found, left = made(TAP.format("yes", "dnstap-ip: 192.0.2.1@6000\n  dnstap-tls: no"), "unbound")
    assert found["dnstap"]["address"] == "192.0.2.1:6000" and left == []
    found, left = made(TAP.format("no", ""), "unbound")
    assert "dnstap" not in found and left == []


REDIS = """\
server:
  module-config: "validator {} iterator"
cachedb:
  backend: redis
  redis-server-host: {}
  redis-logical-db: 3
  redis-timeout: 100
  {}
"""


def test_the_cache_in_redis_of_unbound(made):
    found, left = made(REDIS.format("cachedb", "localhost", "redis-server-port: 7000"), "unbound")
    assert found["second-level-cache"] == {"servers": ["127.0.0.1:7000"], "database": 3, "max-wait": 0.1}
    assert left == []
    found, left = made(REDIS.format("cachedb", "redis.example", "redis-expire-records: yes"), "unbound")
    assert "servers" not in found["second-level-cache"] and "redis.example: write its address" in left[0]
    found, left = made(REDIS.format("", "127.0.0.1", ""), "unbound")
    assert "second-level-cache" not in found and left == []
    found, _ = made(REDIS.format("cachedb", "::1", ""), "unbound")
    assert found["second-level-cache"]["servers"] == ["[::1]:6379"]
    found, _ = made(REDIS.format("cachedb", "x", "redis-server-path: /run/redis"), "unbound")
    assert found["second-level-cache"]["servers"] == ["unix:/run/redis"]
    text = "server:\n module-config: 'cachedb validator iterator'\ncachedb:\n backend: testframe\n"
    found, left = made(text, "unbound")
    assert "second-level-cache" not in found and "not redis" in left[0]


@pytest.mark.parametrize(("lines", "file"), [
    ("log-queries: yes", "-"), ("log-replies: yes\n logfile: /var/log/u.log", "/var/log/resolverd-u.log"),
    ("log-replies: yes\n logfile: /var/log/u.log\n use-syslog: yes", "-"), ("log-queries: no", None),
])
def test_the_query_log_of_unbound(made, lines, file):
    found, draft = made.whole(f"server:\n {lines}\n", "unbound")
    assert found.get("query-log", {}).get("file") == file
    assert bool(changes(draft)) == (file is not None) and not [one for one in draft.remarks if one.needed]


@pytest.mark.parametrize(("line", "section", "key", "value"), [
    ("rrset-roundrobin: yes", "server", "rotate-addresses", True),
    ("rrset-roundrobin: no", "server", "rotate-addresses", False),
    ("wait-limit: 50", "server", "pending-queries-per-client", 50),
    ("nsid: ascii_a.b", "server", "nsid", "a.b"), ("nsid: 6162", "server", "nsid", "0x6162"),
    ("add-holddown: 100", "dnssec", "add-hold-down", 100),
    ("val-nsec3-keysize-iterations: '1024 50 2048 90'", "dnssec", "nsec3-max-iterations", 90),
    ("module-config: 'dns64 validator iterator'", "policy", "dns64-prefix", "64:ff9b::/96"),
    ("module-config: 'dns64 validator iterator'\n dns64-prefix: 2001:db8::/96", "policy", "dns64-prefix",
     "2001:db8::/96"),
    ("module-config: 'dns64 validator iterator'\n dns64-synthall: yes", "policy", "dns64-exclude", ["::/0"]),
    ("do-nat64: yes\n do-ip4: no", "iteration", "nat64-prefix", "64:ff9b::/96"),
    ("do-nat64: yes\n nat64-prefix: 2001:db8::/64", "iteration", "nat64-prefix", "2001:db8::/64"),
    ("do-nat64: yes\n dns64-prefix: 2001:db8::/96", "iteration", "nat64-prefix", "2001:db8::/96"),
])
def test_other_options_of_unbound(made, line, section, key, value):
    found, left = made(f"server:\n {line}\n", "unbound")
    assert found[section][key] == value and left == []


def test_dns64_is_off_where_unbound_does_not_use_it(made):
    found, left = made("server:\n dns64-prefix: 64:ff9b::/96\n", "unbound")
    assert "policy" not in found and left == []


@pytest.mark.parametrize("line", ["nat64-prefix: 64:ff9b::/96", "do-nat64: no\n nat64-prefix: 64:ff9b::/96"])
def test_nat64_is_off_where_unbound_does_not_use_it(made, line):
    found, left = made(f"server:\n {line}\n", "unbound")
    assert "iteration" not in found and left == []


def test_a_nat64_that_cannot_be_reached_is_named(made):
    found, left = made("server:\n do-nat64: yes\n do-ip6: no\n", "unbound")
    assert "nat64-prefix" not in found["iteration"]
    assert left == ["2: do-nat64: yes: do-ip6 is off, so the NAT64 cannot be reached"]


@pytest.mark.parametrize("module", ["subnetcache ", ""])
def test_client_subnets_of_unbound(made, module):
    found, draft = made.whole(f"""server:
 module-config: "{module}validator iterator"
 send-client-subnet: 192.0.2.0/24
 send-client-subnet: 2001:db8::53
 client-subnet-zone: cdn.example
 max-client-subnet-ipv4: 20
 max-client-subnet-ipv6: 48
""", "unbound")
    assert found.get("client-subnet") == ({
        "servers": ["192.0.2.0/24", "2001:db8::53"], "zones": ["cdn.example"], "ipv4-prefix": 20, "ipv6-prefix": 48,
    } if module else None)
    assert not [one for one in draft.remarks if one.needed] and len(changes(draft)) == (3 if module else 0)


def test_client_subnets_of_recursor(made):
    found, draft = made.whole("""\
edns-subnet-allow-list=192.0.2.0/24, 2001:db8::53, cdn.example
ecs-ipv4-bits=20
ecs-ipv6-bits=48
use-incoming-edns-subnet=yes
local-address=127.0.0.1
""", "recursor")
    assert found["client-subnet"] == {
        "servers": ["192.0.2.0/24", "2001:db8::53/128"], "zones": ["cdn.example"], "ipv4-prefix": 20, "ipv6-prefix": 48,
    }
    assert [one.text for one in draft.remarks if one.needed] == ["use-incoming-edns-subnet=yes"]


@pytest.mark.parametrize(("line", "why"), [
    ("do-tcp: no", "resolverd always behaves as with yes"),
    ("val-permissive-mode: yes", "resolverd always behaves as with no"),
    ("insecure-lan-zones: yes", "name the zones in dnssec.negative-trust-anchors"),
    ("module-config: 'validator python iterator'", "no module python"),
    ("access-control: 10.0.0.0/8 allow_cookie", "server.require-cookies"),
    ("access-control-tag: 10.0.0.0/8 a", "resolverd has no tags"),
    ("response-ip: 192.0.2.0/24 deny", "policy zone"),
    ("ip-ratelimit-factor: 5", "truncate"),
    ("client-subnet-always-forward: yes", "client-subnet.trusted-clients"),
    ("control-interface: 127.0.0.1", "control.socket"),
])
def test_what_unbound_does_otherwise_is_named(made, line, why):
    found, [left] = made(f"server:\n {line}\n", "unbound")
    assert left.startswith("2: ") and why in left
    assert "policy" not in found


def test_the_control_socket_is_not_that_of_unbound(made):
    found, draft = made.whole("remote-control:\n control-interface: /run/unbound.ctl\n", "unbound")
    assert found["control"]["socket"] == "/run/resolverd-unbound.ctl" and len(changes(draft)) == 1


def test_own_anchors_do_not_replace_those_of_the_root(made):
    line = 'trust-anchor: "a.example. DS 1 8 2 ABCD"'
    found, _ = made(f"server:\n {line}\n auto-trust-anchor-file: root.key\n", "unbound")
    assert found["dnssec"]["trust-anchors"] == ["a.example. DS 1 8 2 ABCD", *hints.ROOT_ANCHORS]
    found, _ = made(f"server:\n {line}\n", "unbound")
    assert found["dnssec"]["trust-anchors"] == ["a.example. DS 1 8 2 ABCD"]


# --- BIND ---------------------------------------------------------------------------------------------------------

ZONES = f"""\
key k {{ algorithm hmac-sha256; secret "{SECRET}"; }};
primaries feed {{ 192.0.2.1 key k; }};
options {{ directory "/etc/bind"; allow-transfer {{ none; }}; also-notify {{ 192.0.2.7; }}; }};
zone "a.example" {{ type primary; file "a.zone"; allow-transfer {{ key k; }}; also-notify {{ 192.0.2.3 port 53; }}; }};
zone "b.example" IN {{ type slave; masters {{ feed; }}; file "b.zone"; allow-notify {{ 192.0.2.8; }}; notify no; }};
zone "." {{ type mirror; }};
zone "c.example" {{ type mirror; primaries {{ 192.0.2.1; }}; }};
zone "d.example" {{ type stub; primaries {{ 192.0.2.1; }}; }};
zone "e.example" {{ type primary; file "e.zone"; update-policy local; }};
zone "f.example" {{ type primary; file "f.zone"; allow-update {{ none; }}; allow-query {{ 10.0.0.0/8; }}; }};
zone "g.example" {{ type primary; file "g.zone"; allow-transfer {{ 192.0.2.4; key k; }}; }};
zone "h.example" {{ type redirect; file "h.zone"; }};
zone "i.example" {{ type static-stub; server-names {{ "ns.example"; }}; }};
zone "bind" CH {{ type primary; file "j.zone"; }};
"""


def test_own_zones_of_bind(made):
    found, draft = made.whole(ZONES, "bind")
    assert found["zone"] == [
        {"name": "a.example", "file": "/etc/bind/a.zone", "allow-transfer": ["0.0.0.0/0", "::/0"], "transfer-key": "k",
         "notify": ["192.0.2.3:53"]},
        {"name": "b.example", "primaries": ["192.0.2.1"], "key": "k", "allow-notify": ["192.0.2.8"]},
        {"name": "c.example", "mode": "delegations", "primaries": ["192.0.2.1"], "notify": ["192.0.2.7"]},
        {"name": "g.example", "file": "/etc/bind/g.zone", "allow-transfer": ["192.0.2.4"], "notify": ["192.0.2.7"]},
    ]
    assert found["zones"] == {"directory": "/var/lib/resolverd/zones", "root": "local"}
    assert found["stub"] == [{"zone": "d.example", "addresses": ["192.0.2.1"]},
                             {"zone": "i.example", "names": ["ns.example"]}]
    assert [key["name"] for key in found["tsig-key"]] == ["k"]
    left = {one.place.line: one.why for one in draft.remarks if one.needed}
    assert left.keys() == {9, 10, 11, 12, 14}
    assert "BIND changes the zone" in left[9] and "fewer clients" in left[10] and "key k" in left[11]
    assert [line.partition(":")[0] for line in changes(draft)] == ["8", "1"]


BIND_VIEWS = """\
acl lan { 10.0.0.0/8; };
options { allow-query { any; }; forwarders { 192.0.2.53; }; forward only; };
view inside {
  match-clients { !10.1.0.0/16; lan; };
  zone "all.example" { type primary; file "/etc/bind/all"; allow-transfer { none; }; };
  zone "in.example" { type primary; file "/etc/bind/in"; };
  zone "fw.example" { type forward; forward only; forwarders { 192.0.2.9; }; };
  max-cache-ttl 60; max-ncache-ttl 60;
  dns64 64:ff9b::/96 { };
  validate-except { "corp.example"; };
  deny-answer-addresses { 192.168.0.0/16; } except-from { "corp.example"; };
  rate-limit { responses-per-second 7; slip 1; };
};
view "closed" { match-clients { 127.0.0.2; };
  match-destinations { 127.0.0.1; };
  zone "all.example" { type primary; file "/etc/bind/all"; allow-transfer { none; }; };
  recursion no; max-cache-ttl 60; max-ncache-ttl 90;
};
"""


def test_views_of_bind(made):
    found, left = made(BIND_VIEWS, "bind")
    inside, closed = found["view"]
    assert inside == {
        "name": "inside", "allow": ["0.0.0.0/0", "::/0"],
        "clients": ["10.0.0.0/16", "10.2.0.0/15", "10.4.0.0/14", "10.8.0.0/13", "10.16.0.0/12", "10.32.0.0/11",
                    "10.64.0.0/10", "10.128.0.0/9"],
        "forward": [{"zone": "fw.example", "addresses": ["192.0.2.9"], "forward-first": False}],
        "dns64-prefix": ["64:ff9b::/96"], "negative-trust-anchors": ["corp.example"],
        "private-addresses": ["192.168.0.0/16"], "private-domains": ["corp.example"], "responses-per-second": 7,
    }
    assert closed == {"name": "closed", "clients": ["127.0.0.2/32"], "listeners": ["127.0.0.1"],
                      "refuse": ["0.0.0.0/0", "::/0"]} or "is no served address" in str(left)
    refused = {"allow": [], "refuse": ["0.0.0.0/0", "::/0"], "special-use-domains": False}
    assert found["policy"] == refused, "clients in no view are refused"
    assert found["zone"] == [{"name": "all.example", "file": "/etc/bind/all"}]
    assert found["cache"] == {"max-ttl": 60}, "which both views have"
    assert {line.partition(":")[0] for line in left} == {"6", "8", "12", "17"}


def served(policy, address):
    lists = {name: tuple(policy.get(name, getattr(PolicySettings(), name))) for name in ("allow", "refuse", "drop")}
    return PolicyPipeline(Settings(policy=PolicySettings(**lists))).access.lookup(address) == ALLOW


def test_a_client_of_the_last_view_is_any_client(made):
    found, left = made("view a { match-clients { 10.0.0.0/8; }; };\nview b { };\n", "bind")
    assert [view["clients"] for view in found["view"]] == [["10.0.0.0/8"], ["0.0.0.0/0", "::/0"]]
    assert "policy" not in found and left == []


@pytest.mark.parametrize("clients", ["key k;", "geoip country DE;", "!{ 10.0.0.0/8; }; any;", "none;"])
def test_a_view_whose_clients_cannot_be_told_is_named(made, clients):
    found, left = made(f"view a {{ match-clients {{ {clients} }}; }};\n", "bind")
    assert "view" not in found and left[0].startswith("1: view a ")
    assert found["policy"]["refuse"] == ["0.0.0.0/0", "::/0"]


def test_a_view_that_keys_choose(made):
    found, left = made("""\
key "k" { algorithm hmac-sha256; secret "c2VjcmV0LXNlY3JldC1zZWNyZXQ="; };
view a { match-clients { key k; }; allow-query { any; }; };
view b { match-clients { 10.0.0.0/8; key k; }; };
view c { match-clients { key none; }; };
acl staff { key k; staff2; }; acl staff2 { key "k2"; };
key k2 { algorithm hmac-sha256; secret "c2VjcmV0LXNlY3JldC1zZWNyZXQ="; };
view d { match-clients { staff; }; };
""", "bind")
    view, staff = found["view"]
    assert staff["keys"] == ["k", "k2"] and "clients" not in staff
    assert (view["keys"], view["allow"], "clients" in view) == (["k"], ["0.0.0.0/0", "::/0"], False)
    assert [one["name"] for one in found["tsig-key"]] == ["k", "k2"]
    assert not served(found["policy"], "127.0.0.1"), "a client without the key is in no view"
    assert [line.partition(":")[0] for line in left] == ["3", "4"]
    assert "write one [[view]] with clients and one with keys" in left[0] and "there is no key none" in left[1]


def test_rates_of_bind(made):
    found, left = made("""\
options { rate-limit { responses-per-second 5; referrals-per-second 6; nodata-per-second 7; nxdomains-per-second 8;
  errors-per-second 9; all-per-second 10; slip 3; window 20; ipv4-prefix-length 28; ipv6-prefix-length 60;
  exempt-clients { localhost; 192.0.2.0/24; }; log-only yes; max-table-size 20000; min-table-size 500; qps-scale 5; };
  fetches-per-zone 100; fetches-per-server 200 fail; };
""", "bind")
    assert found["rate-limit"] == {
        "responses-per-second": 5, "referrals-per-second": 6, "nodata-per-second": 7, "nxdomains-per-second": 8,
        "errors-per-second": 9, "all-per-second": 10, "slip": 3, "window": 20, "ipv4-prefix": 28, "ipv6-prefix": 60,
        "exempt": ["127.0.0.0/8", "::1/128", "192.0.2.0/24"], "log-only": True, "table-entries": 20000}
    assert found["fetch-limit"] == {"per-zone": 100, "per-server": 200}
    assert len(left) == 1 and "qps-scale is not" in left[0]


@pytest.mark.parametrize(("options", "rest", "file"), [
    ("querylog yes;", "", "-"),
    ("", "logging { category queries { q; }; channel q { file \"q.log\" size 1m; }; };", "/b/resolverd-q.log"),
    ("", "logging { category queries { default_syslog; }; };", "-"),
    ("", "logging { category queries { null; }; };", None),
    ("querylog no;", "logging { category queries { q; }; channel q { file \"q.log\"; }; };", None),
])
def test_the_query_log_of_bind(made, options, rest, file):
    found, _ = made(f"options {{ directory \"/b\"; {options} }};\n{rest}\n", "bind")
    assert found.get("query-log", {}).get("file") == file


def test_dnstap_of_bind(made):
    found, left = made("options { dnstap { client; resolver response; update; }; dnstap-output unix \"/run/tap\";"
                       " dnstap-identity none; dnstap-version \"9\"; };\n", "bind")
    assert found["dnstap"] == {"socket": "/run/tap", "identity": "-", "version": "9",
                               "messages": ["client-query", "client-response", "resolver-response"]}
    assert len(left) == 1 and "no updates" in left[0]
    found, left = made("options { dnstap { all; }; dnstap-output file \"x\"; };\n", "bind")
    assert "dnstap" not in found and "not to a file" in left[0]


@pytest.mark.parametrize(("line", "section", "key", "value"), [
    (f"cookie-secret \"{'1a' * 16}\";", "server", "cookie-secrets", ["1a" * 16]),
    ("rrset-order { order random; };", "server", "rotate-addresses", True),
    ("rrset-order { order none; };", "server", "rotate-addresses", False),
    ("disable-algorithms \".\" { RSASHA1; NSEC3RSASHA1; };", "dnssec", "accept-sha1", False),
    ("disable-empty-zone \"10.in-addr.arpa\";", "policy", "local-zones", ["10.in-addr.arpa nodefault"]),
    ("resolver-query-timeout 5000;", "iteration", "query-timeout", 5), ("port 5300;", "server", "listen",
     ["127.0.0.1:5300", "[::1]:5300"]),
    ("deny-answer-addresses { 10.0.0.0/8; } except-from { \"a.example\"; };", "policy", "private-domains",
     ["a.example"]),
    ("tcp-idle-timeout 300;", "server", "tcp-idle-timeout", 30),
])
def test_other_options_of_bind(made, line, section, key, value):
    found, left = made(f"options {{ {line} }};\n", "bind")
    assert found[section][key] == value and left == []


def test_encrypted_listeners_and_forwarders_of_bind(made):
    found, draft = made.whole("""\
options { directory "/b"; listen-on tls mine { 127.0.0.1; }; listen-on port 8443 tls mine http dns { 127.0.0.1; };
  forwarders { 192.0.2.1 tls up; }; };
tls mine { cert-file "c.pem"; key-file "k.pem"; };
tls up { remote-hostname "dns.example"; };
http dns { endpoints { "/q"; }; };
server 192.0.2.66 { bogus yes; tcp-only yes; };
""", "bind")
    assert found["listener"] == [{"address": "127.0.0.1:853", "protocol": "tls"},
                                 {"address": "127.0.0.1:8443", "protocol": "https", "path": "/q"}]
    assert found["tls"] == {"certificate": ["/b/c.pem"], "key": ["/b/k.pem"]}
    assert found["forward"] == [{"zone": ".", "addresses": ["tls://192.0.2.1#dns.example"], "forward-first": False}]
    assert found["iteration"]["do-not-query-addresses"] == ["192.0.2.66/32"]
    assert [one.place.line for one in draft.remarks if one.needed] == [6]


def test_clients_without_recursion_get_none(made):
    """An authoritative server would become an open resolver."""
    found, left = made("options { recursion no; allow-query { any; }; };\n", "bind")
    assert "policy" not in found and len(left) == 2


def test_an_exception_of_a_block_does_not_allow_it(made):
    found, left = made("options { allow-query { !{ 10.0.0.0/8; }; any; }; };\n", "bind")
    assert "policy" not in found and "the exception of { 10.0.0.0/8 } is not read" in left[0]


# --- PowerDNS Recursor --------------------------------------------------------------------------------------------

YAML = f"""\
---
# a comment
incoming:
  listen: ['127.0.0.1:5300', "[::1]:5300"]
  allow_from:
  - 127.0.0.0/8
  - '!10.0.0.0/8'   # not them
  proxy_protocol_from: []
dnssec:
  validation: process
  trustanchors:
    - name: .
      dsrecords: ['20326 8 2 e06d']
    - name: corp.example
      dsrecords:
        - "1 13 2 ABCD"
  negative_trustanchors:
    - name: bad.example
      reason: broken
recursor:
  forward_zones:
    - zone: a.example
      forwarders: [192.0.2.1, '192.0.2.2:5300',
                   2001:db8::2]
    - zone: b.example
      recurse: true
      forwarders:
        - 192.0.2.9:853
  auth_zones: [{{zone: own.example, file: /etc/own.zone}}]
  rpzs:
    - name: x.rpz
      addresses: [192.0.2.4]
      defpol: NODATA
      tsig: {{name: k, algo: hmac-sha256, secret: {SECRET}}}
      seedFile: /tmp/x
      includeSOA: true
    - name: /etc/file.rpz
logging:
  quiet: false
  dnstap_framestream_servers:
    - servers: [/run/tap]
      logQueries: true
      logResponses: false
webservice:
  api_key: topsecretkey
ecs:
  ipv4_bits: 24
"""


def test_yaml_of_recursor(made):
    found, draft = made.whole(YAML, None)
    assert found["server"]["listen"] == ["127.0.0.1:5300", "[::1]:5300"]
    assert found["policy"] == {"allow": ["127.0.0.0/8"], "refuse": ["10.0.0.0/8"]}
    assert found["dnssec"] == {"trust-anchors": [*hints.ROOT_ANCHORS, "corp.example. IN DS 1 13 2 ABCD"],
                               "negative-trust-anchors": ["bad.example"]}
    assert found["stub"] == [{"zone": "a.example", "addresses": ["192.0.2.1", "192.0.2.2:5300", "2001:db8::2"]}]
    assert found["forward"] == [
        {"zone": "b.example", "addresses": ["tls://192.0.2.9:853"], "allow-unauthenticated": True}]
    assert found["zone"] == [{"name": "own.example", "file": "/etc/own.zone"}]
    assert found["rpz"] == [{"name": "x.rpz", "primaries": ["192.0.2.4"], "override": "nodata", "key": "k"}]
    assert found["query-log"] == {"file": "-"}
    assert found["dnstap"] == {"socket": "/run/tap", "messages": ["resolver-query", "forwarder-query"]}
    left = [str(one) for one in draft.remarks if one.needed]
    assert [re.search(r":(\d+): ", line)[1] for line in left] == ["45", "31", "37"]
    assert found["client-subnet"] == {"ipv4-prefix": 24}
    assert not any("topsecretkey" in str(one) or SECRET in str(one) for one in draft.remarks)
    assert [line.partition(":")[0] for line in changes(draft)] == ["10", "39"]


@pytest.mark.parametrize(("text", "why"), [
    ("incoming:\n\tlisten: x\n", "f:2: "), ("incoming:\n  listen: &a x\n  b: *a\n", "f:3: aliases are not"),
    ("incoming:\n  listen: [a\n", "f:3: "), ("incoming:\n  listen: [a]]\n", "f:2: "),
    ("incoming:\n  word\n", "f:2: incoming must be a mapping"), ("incoming:\n   a: 1\n  b: 2\n", "f:3: "),
    ("incoming:\n  a: 1\n   b: 2\n", "f:3: "), ("incoming:\n  a: \"x\n", "f:3: .*end of stream"),
    ("incoming:\n  a: " + "[" * 100_000 + "\n", "f:2: nested deeper"),
    ("incoming:\n  a: " + "{a: " * 100_000 + "\n", "f:2: nested deeper"),
    ("incoming: x\n", "f:1: incoming must be a mapping"),
    ("incoming:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, 100)), "nested deeper"),
    ("- a\n", "f:1: the top level"),
    ("a: {}\n---\nb: {}\n", "f:2: only one document"), ("a:\n  b: 1\n  b: 2\n", "f:3: duplicate key 'b'"),
    ("a:\n  [x]: 1\n", "f:2: a key"), ("a: \x01\n", "f: .*special characters"),
])
def test_yaml_that_is_not_read_names_the_line(tmp_path, monkeypatch, text, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text(f"{text}")
    with pytest.raises(ImportFailure, match=why):
        list(settings("f"))


def test_yaml_values(tmp_path):
    (tmp_path / "f").write_text(
        "a: 'it''s'\nb: \"x \\\" # y\"\nc: ~\nd:\n- - 1\n  - [2, {e: 3}]\n- f: 4\n  g:\n  - 5\n# end\n")

    def plain(node):
        if isinstance(node.value, dict):
            return {key: plain(one) for key, one in node.value.items()}
        return [plain(one) for one in node.value] if isinstance(node.value, list) else node.value

    assert plain(parse(str(tmp_path / "f"))) == {
        "a": "it's", "b": 'x " # y', "c": "", "d": [["1", ["2", {"e": "3"}]], {"f": "4", "g": ["5"]}]}
    (tmp_path / "f").write_text("# nothing\n")
    assert parse(str(tmp_path / "f")) == Node(1, {})


def test_settings_of_recursor(made, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.conf").write_text("threads=3\n")
    (tmp_path / "d" / "b.conf").write_text("threads=4\nodd=1\n")
    (tmp_path / "own").write_text("10.0.0.0/8 # a\n!10.1.0.0/16\n")
    found, draft = made.whole(f"""\
include-dir={tmp_path}/d
threads=2
allow-from-file={tmp_path}/own
auth-zones=a.example=/etc/a.zone, b.example=/etc/b.zone
quiet=no
serve-stale-extensions=10
refresh-on-ttl-perc=0
proxy-protocol-from=192.0.2.0/24
dnssec=log-fail
server-id=disabled
allow-no-rd=yes
any-to-tcp=yes
non-local-bind=yes
daemon=yes
webserver=no
webserver-port=8082
""", "recursor")
    assert found["server"] == {"listen": [], "workers": 4, "identity": "", "minimal-any": True, "freebind": True,
                               "non-recursive-queries": "cache"}
    assert found["listener"] == [{"address": "127.0.0.1:53", "proxy-protocol-from": ["192.0.2.0/24"]}]
    assert found["policy"] == {"allow": ["10.0.0.0/8"], "refuse": ["10.1.0.0/16"]}
    assert found["zone"] == [{"name": "a.example", "file": "/etc/a.zone"}, {"name": "b.example", "file": "/etc/b.zone"}]
    assert found["cache"] == {"max-stale-ttl": 300, "prefetch": False}
    assert [one.text for one in draft.remarks if one.needed] == ["daemon=yes", "webserver-port=8082", "odd=1"]
    assert len(changes(draft)) == 4


def test_lua_calls_of_recursor(made, tmp_path):
    (tmp_path / "r.lua").write_text("""\
-- trust anchors
addNTA("bad.example", "broken")
addTA('corp.example', "1 13 2 ABCD")
addTA('.', "20326 8 2 e06d")
dofile("/usr/share/pdns-recursor/lua-config/rootkeys.lua")
zoneToCache(".", "axfr", "192.0.2.1")
dnstapFrameStreamServer({"192.0.2.1:6000"}, {logQueries=true, logResponses=false, bufferHint=1})
--[[ addNTA("no.example")
]]
dofile("other.lua")
zoneToCache("a.example", "url", "https://a.example")
for i = 1, 2 do
  addNTA("x" .. i)
end
""")
    found, draft = made.whole(f"local-port=53\nlua-config-file={tmp_path}/r.lua\n", "recursor")
    assert found["dnssec"]["negative-trust-anchors"] == ["bad.example"]
    assert found["dnssec"]["trust-anchors"] == [*hints.ROOT_ANCHORS, "corp.example. IN DS 1 13 2 ABCD"]
    assert found["zones"] == {"root": "local"}
    assert found["dnstap"] == {"address": "192.0.2.1:6000", "messages": ["resolver-query", "forwarder-query"]}
    assert [one.place.line for one in draft.remarks if one.needed] == [10, 11, 13, 12]
    assert [line.partition(":")[0] for line in changes(draft)] == ["6"]


# --- all ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "text"), [
    ("unbound", "server:\n cookie-secret: {}\n"), ("unbound", "cachedb:\n secret-seed: \"a {} b\"\n backend: x\n"),
    ("unbound", "server:\n module-config: 'cachedb validator'\ncachedb:\n backend: redis\n secret-seed: '{} \" {}'\n"),
    ("bind", "options {{ cookie-secret \"{}\"; }};\n"),
    ("bind", "key k {{ algorithm hmac-sha256; secret \"{}\"; }};\n"
     "zone a {{ type secondary; primaries {{ ::1 key k; }}; }};\n"),
    ("bind", "view v {{ match-clients {{ none; }}; key k {{ secret \"{}\"; }}; }};\n"),
    ("recursor", "api-key={}\nwebserver-password={}\n"),
])
def test_values_that_are_refused_are_not_shown_when_they_are_secrets(made, kind, text):
    secret = "Geh3im"
    _, draft = made.whole(text.format(*[secret] * 2), kind)
    assert draft.remarks and not any(secret in f"{one.text} {one.why}" for one in draft.remarks)


PIECES = ("", "'", '"', "x", "-", "0", ";", "{", "}", " ;", "\n", " ", ":")


@pytest.mark.slow  # reads many files
@pytest.mark.parametrize(("kind", "text"), [
    ("unbound", VIEWS), ("unbound", TAP.format("yes", "") + REDIS.format("cachedb", "::1", "")), ("bind", ZONES),
    ("bind", BIND_VIEWS), ("recursor", YAML),
    ("recursor", "forward-zones=a=192.0.2.1;192.0.2.2:853\nauth-zones=a=b\nproxy-protocol-from=::1\nquiet=no\n"),
], ids=["views", "sections", "zones", "bind-views", "yaml", "settings"])
def test_a_damaged_file_is_read_or_refused(tmp_path, kind, text):
    """With pieces left out, doubled or replaced, an importer makes a draft or names the line."""
    file, words = tmp_path / "f", re.findall(r"\s+|[{}\[\];:,=]|[^\s{}\[\];:,=]+", text)
    for seed in range(150):
        chance = Random(seed)
        damaged = list(words)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(damaged))
            damaged[place : place + chance.randrange(2)] = [chance.choice((*PIECES, chance.choice(words)))]
        file.write_text("".join(damaged))
        with suppress(ImportFailure):
            FORMATS[kind](str(file)).render("f")


def test_no_option_is_in_two_tables():
    for module in (unbound, bind, recursor):
        own = set(module.SIMPLE) | set(module.OWN)
        tables = [own, set(module.ALWAYS_SO), set(module.NOT_NEEDED), set(module.REASONS)]
        both = [name for n, one in enumerate(tables) for other in tables[n + 1 :] for name in one & other]
        assert both == [], module.__name__


@pytest.mark.parametrize("module", [unbound, bind, recursor])
def test_each_method_has_its_row_in_the_table(module):
    methods = {name[4:].replace("_", "-") for name in vars(module.Importer) if name.startswith("key_")}
    assert methods <= set(module.OWN)
    assert set(module.OWN) - methods - module._READ_TOGETHER <= {
        "ip-address", "rpzs", "trustanchors", "negative-trustanchors", "dnstap-framestream-servers"}


def test_changes_are_told_on_standard_error(tmp_path, capsys):
    (tmp_path / "unbound.conf").write_text("server:\n ip-ratelimit: 5\n")
    assert control.main(["import", str(tmp_path / "unbound.conf")]) == control.EXIT_DONE
    assert "unbound.conf:2: ip-ratelimit: 5: the rate holds in each worker" in capsys.readouterr().err


def test_addresses_that_a_list_leaves():
    """As the decisions of the list say, for each address of a small network."""
    decisions = {ip_network("10.0.0.0/24"): True, ip_network("10.0.0.64/26"): False, ip_network("10.0.0.96/28"): True,
                 ip_network("10.0.0.100/32"): False, ip_network("::/0"): True}
    found = allowed(decisions)
    for number in range(256):
        address = ip_network(f"10.0.0.{number}")
        assert any(ip_address(f"10.0.0.{number}") in network for network in found) == decision(decisions, address)
    assert ip_network("::/0") in found


def test_views_on_both_sides_of_another_come_twice():
    members = [(ip_network("10.0.0.0/8"), "a"), (ip_network("10.1.0.0/16"), "b"), (ip_network("10.1.1.0/24"), "a"),
               (ip_network("192.0.2.0/24"), "a"), (ip_network("::/0"), "b")]
    found = view_groups(members)
    assert [(name, [str(one) for one in networks]) for name, networks in found] == [
        ("a", ["10.1.1.0/24", "192.0.2.0/24"]), ("b", ["10.1.0.0/16", "::/0"]), ("a", ["10.0.0.0/8"])]
