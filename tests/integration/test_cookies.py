"""DNS cookies with other implementations: dig as client, BIND as server that sends and requires them.

The secret is shared with BIND in one test, as the servers of an anycast address would share it (RFC 9018 section 5).
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, program, run_named
from support.subject import counters_of, stub_daemon

from resolver.net.cookies import ServerCookies
from resolver.wire import consts as c

pytestmark = pytest.mark.integration

SECRET = "e5e973e5a6b2a43f48e7dc849e37bfcf"
ZONE = """$TTL 300
@ SOA ns host 1 7200 3600 86400 300
@ NS ns
ns A 127.0.0.1
www A 192.0.2.1
mail A 192.0.2.2
ftp A 192.0.2.3
"""


@contextmanager
def bind(directory: Path, port: int, *, require: bool = False) -> Iterator[None]:
    """Run BIND as the authoritative server of cookie.test until the block ends.

    `require`: without a valid server cookie it answers BADCOOKIE.
    """
    (directory / "cookie.test").write_text(ZONE)
    config = directory / "named.conf"
    config.write_text(
        f"""options {{
  directory "{directory}"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }}; recursion no;
  listen-on port {port} {{ 127.0.0.1; }}; cookie-algorithm siphash24; cookie-secret "{SECRET}";
  require-server-cookie {"yes" if require else "no"};
}};
controls {{ }};
zone "cookie.test" {{ type primary; file "cookie.test"; }};
"""
    )
    log = directory / "named.log"
    with run_named(config, log):
        yield


@contextmanager
def resolverd(directory: Path, port: int, upstream: int, **server: str) -> Iterator[Path]:
    """Run our daemon with cookie.test as a stub zone until the block ends; the value is the path of its log.

    `server` are options of its section [server], as TOML.
    """
    more = "\n".join(f"{name.replace('_', '-')} = {value}" for name, value in server.items())
    with stub_daemon(directory, port, "cookie.test.", upstream, server=more) as log:
        yield log


def dig(port: int, *arguments: str) -> str:
    command = [program("dig"), "@127.0.0.1", "-p", str(port), "+tries=1", "+time=5", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def cookie_in(text: str) -> tuple[str, str]:
    """The cookie in hex in dig's output, and the result of dig's check: good, bad or echoed."""
    found = re.search(r"; COOKIE: ([0-9a-f]+) \((\w+)\)", text)
    assert found is not None, text
    return found[1], found[2]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_dig_gets_a_cookie_and_sends_it_back(tmp_path: Path, tcp: bool) -> None:
    upstream, port = free_port(), free_port()
    transport = ["+tcp"] if tcp else ["+notcp"]
    with bind(tmp_path, upstream), resolverd(tmp_path, port, upstream):
        first, verdict = cookie_in(dig(port, "+cookie", *transport, "www.cookie.test", "A"))
        assert (len(first), verdict) == (48, "good")
        text = dig(port, f"+cookie={first}", *transport, "www.cookie.test", "A")
        assert cookie_in(text) == (first, "good"), "from the cache; a recent cookie is not renewed"
        assert "192.0.2.1" in text
        assert counters_of(tmp_path)["fast_path.cookies_good"] >= 1
        assert "COOKIE" not in dig(port, "+nocookie", *transport, "www.cookie.test", "A")


def test_dig_is_answered_where_cookies_are_required(tmp_path: Path) -> None:
    upstream, port = free_port(), free_port()
    with bind(tmp_path, upstream), resolverd(tmp_path, port, upstream, require_cookies="true"):
        text = dig(port, "+cookie", "www.cookie.test", "A")
        assert "BADCOOKIE, retrying" in text
        assert "192.0.2.1" in text
        assert "192.0.2.1" in dig(port, "+nocookie", "www.cookie.test", "A"), "over TCP"
        text = dig(port, "+cookie", "+nobadcookie", "mail.cookie.test", "A")
        assert "status: BADCOOKIE" in text
        assert counters_of(tmp_path)["fast_path.cookies_challenged"] >= 3


def test_bind_and_resolverd_accept_each_others_cookies(tmp_path: Path) -> None:
    """With the same secret, BIND accepts our server cookies and we accept those of BIND."""
    upstream, port = free_port(), free_port()
    with bind(tmp_path, upstream, require=True), resolverd(
        tmp_path, port, upstream, cookie_secrets=f'["{SECRET}"]', require_cookies="true"
    ):
        ours, _ = cookie_in(dig(port, "+cookie", "www.cookie.test", "A"))
        text = dig(upstream, f"+cookie={ours}", "+norecurse", "+nobadcookie", "www.cookie.test", "A")
        assert "status: NOERROR" in text, text
        theirs, _ = cookie_in(dig(upstream, "+cookie", "+norecurse", "mail.cookie.test", "A"))
        text = dig(port, f"+cookie={theirs}", "+nobadcookie", "mail.cookie.test", "A")
        assert "status: NOERROR" in text, text
        now = int(theirs[24:32], 16)  # octets 12 to 15: the timestamp (RFC 9018 section 4.3)
        assert ServerCookies([bytes.fromhex(SECRET)]).is_good(bytes.fromhex(theirs), "127.0.0.1", now)


def test_bind_as_upstream_sends_and_requires_cookies(tmp_path: Path) -> None:
    upstream, port = free_port(), free_port()
    with bind(tmp_path, upstream, require=True), resolverd(tmp_path, port, upstream):
        for number, name in enumerate(("www", "mail", "ftp"), 1):
            view = ask("127.0.0.1", port, f"{name}.cookie.test.", c.A)
            assert view is not None
            assert view.answer[0].rdata(0) == bytes((192, 0, 2, number))
        found = counters_of(tmp_path)
        assert found["upstream.udp_cookie_replies"] == 4, "one BADCOOKIE with a cookie, then three answers"
        assert found["upstream.udp_sent"] == 4
        assert found["upstream.udp_cookie_mismatches"] == 0
        assert found["upstream.tcp_sent"] == 0
