"""Queries that dig and kdig sign, answered by resolverd and, for comparison, by BIND: both must behave in the same way.

The names are local data, so nothing is resolved. A view that a key chooses has another address for the same name.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, program, run_named, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c

pytestmark = pytest.mark.integration

SECRET, OTHER = "c2VjcmV0LXNlY3JldC1zZWNyZXQ=", "b3RoZXItb3RoZXItb3RoZXI="
KEYS = (("plain.key", "hmac-sha256"), ("view.key", "hmac-sha512"))
OUTSIDE, INSIDE = "192.0.2.1", "198.51.100.1"
RESOLVERD_CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
[control]
socket = "{home}/control"
[policy]
refuse = ["127.0.0.9/32"]
local-zones = ["keyed.test. static"]
local-data = ["www.keyed.test. 60 IN A 192.0.2.1"]
[[tsig-key]]
name = "plain.key"
secret = "{secret}"
[[tsig-key]]
name = "view.key"
algorithm = "hmac-sha512"
secret = "{secret}"
[[view]]
name = "inside"
keys = ["view.key"]
allow = ["127.0.0.0/8"]
inherit = false
local-zones = ["keyed.test. static"]
local-data = ["www.keyed.test. 60 IN A 198.51.100.1"]
"""
NAMED_CONFIG = """
key "plain.key" {{ algorithm hmac-sha256; secret "{secret}"; }};
key "view.key" {{ algorithm hmac-sha512; secret "{secret}"; }};
options {{ directory "{home}"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }}; recursion no;
  listen-on port {port} {{ 127.0.0.1; }}; }};
controls {{ }};
view inside {{ match-clients {{ key "view.key"; }}; zone "keyed.test" {{ type primary; file "inside.zone"; }}; }};
view outside {{ match-clients {{ !127.0.0.9; any; }}; zone "keyed.test" {{ type primary; file "outside.zone"; }}; }};
"""


@contextmanager
def served(kind: str, home: Path) -> Iterator[int]:
    """The port of a server of `kind`."""
    port, log = free_port(), home / "log"
    if kind == "named":
        for name, address in (("inside", INSIDE), ("outside", OUTSIDE)):
            (home / f"{name}.zone").write_text(f"$TTL 60\n@ SOA ns host 1 2 3 4 5\n@ NS ns\nns A 127.0.0.1\n"
                                               f"www A {address}\n")
        (home / "named.conf").write_text(NAMED_CONFIG.format(port=port, home=home, secret=SECRET))
        with run_named(home / "named.conf", log):
            yield port
        return
    (home / "resolverd.toml").write_text(RESOLVERD_CONFIG.format(port=port, home=home, secret=SECRET))
    with run_process([*RESOLVERD, "--config", str(home / "resolverd.toml")], log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                   process=process, log=log)
        yield port


def dig(tool: str, port: int, key: str, *words: str, source: str = "127.0.0.1") -> str:
    command = [program(tool), "@127.0.0.1", "-b", source, "-p", str(port), *(["-y", key] if key else []),
               "+tries=1" if tool == "dig" else "+retry=0",
               "www.keyed.test", "A", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


@pytest.mark.parametrize("kind", ["resolverd", "named"])
def test_signed_queries_get_signed_replies(kind: str, tmp_path: Path) -> None:
    with served(kind, tmp_path) as port:
        for tool, words in (("dig", []), ("dig", ["+tcp"]), ("kdig", []), ("kdig", ["+tcp"]), ("kdig", ["+noedns"])):
            for (name, algorithm), address in zip(KEYS, (OUTSIDE, INSIDE), strict=True):
                for _ in range(2):
                    text = dig(tool, port, f"{algorithm}:{name}:{SECRET}", *words)
                    assert re.search(r"status: NOERROR", text), text
                    assert re.findall(r"\sA\s+([0-9.]+)$", text, re.MULTILINE) == [address], text
                    assert re.search(rf"{name}\.\s+0\s+ANY\s+TSIG\s+{algorithm}\.", text), text
                    assert not re.search(r"verif|BADSIG|BADTIME", text), text
            for key, error in ((f"hmac-sha256:unknown.key:{SECRET}", "BADKEY"),
                               (f"hmac-sha256:plain.key:{OTHER}", "BADSIG"),
                               (f"hmac-sha256:view.key:{SECRET}", "BADKEY")):
                text = dig(tool, port, key, *words)
                assert re.search(rf"status: (NOTAUTH|{error})\b", text) and error in text, text
                assert OUTSIDE not in text and INSIDE not in text


@pytest.mark.parametrize("kind", ["resolverd", "named"])
def test_a_key_permits_a_client_whose_address_is_not_permitted(kind: str, tmp_path: Path) -> None:
    with served(kind, tmp_path) as port:
        for tool, words in (("dig", []), ("dig", ["+tcp"]), ("kdig", []), ("kdig", ["+tcp"])):
            for key, status, address in ((f"hmac-sha512:view.key:{SECRET}", "NOERROR", [INSIDE]),
                                         (f"hmac-sha256:plain.key:{SECRET}", "REFUSED", []), ("", "REFUSED", [])):
                text = dig(tool, port, key, *words, source="127.0.0.9")
                assert f"status: {status}" in text, text
                assert re.findall(r"\sA\s+([0-9.]+)$", text, re.MULTILINE) == address, text
