"""Block lists and response policy zones in the daemon: real processes, a real web server, files that are replaced."""

import os
import signal
from pathlib import Path

import pytest
from support.nginx import Nginx, find_nginx
from support.ports import free_port
from support.servers import ask, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c
from resolver.wire.edns import parse_ede

pytestmark = pytest.mark.integration

ZONE = """$TTL 60
@ SOA ns. admin. 1 3600 600 86400 60
walled.test CNAME www.example.playground.
*.walled.test CNAME *.wild.example.playground.
32.1.80.20.127.rpz-ip CNAME .
ns1.example.org.rpz-nsdname CNAME .
32.1.12.20.127.rpz-nsip CNAME *.
a.example.playground CNAME rpz-tcp-only.
"""


def rcode(port: int, name: str, *, tcp: bool = False) -> int:
    view = ask("127.0.0.1", port, name, c.A, tcp=tcp)
    return -1 if view is None else view.rcode


def replace(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


@pytest.mark.parametrize("workers", [1, 2])
def test_lists_and_policy_zones_are_active(tmp_path: Path, workers: int) -> None:
    port = free_port()
    (tmp_path / "ads.txt").write_text("||ads.test^\n@@||good.ads.test^\n")
    (tmp_path / "rpz.zone").write_text(ZONE)
    (tmp_path / "resolverd.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = {workers}\n[policy]\nspecial-use-domains = false\n'
        f'[[list]]\nname = "ads"\nfile = "{tmp_path}/ads.txt"\n'
        f'[[rpz]]\nname = "rpz.example"\nfile = "{tmp_path}/rpz.zone"\n')
    words = [*RESOLVERD, "--playground", "--config", str(tmp_path / "resolverd.toml")]
    with run_process(words, tmp_path / "log", env=daemon_environment()) as process:
        wait_until(lambda: rcode(port, "x.ads.test.") == c.NXDOMAIN, "an answer", process=process, log=tmp_path / "log")
        view = ask("127.0.0.1", port, "ads.test.", c.A)
        assert view is not None and view.edns is not None
        codes = [parse_ede(value) for code, value in view.edns.options if code == c.OPTION_EDE]
        assert codes == [(c.EDE_BLOCKED, "list ads")]
        walled = ask("127.0.0.1", port, "walled.test.", c.A)
        assert walled is not None and [one.rtype for one in walled.answer] == [c.CNAME, c.A]
        wild = ask("127.0.0.1", port, "x.walled.test.", c.A)
        assert wild is not None and wild.answer[0].rtype == c.CNAME
        assert rcode(port, "www.example.playground.") == c.NXDOMAIN, "its address is a trigger"
        assert rcode(port, "six.example.playground.") == c.NOERROR
        for _ in range(2):
            assert rcode(port, "www.wiki.org.") == c.NXDOMAIN, "the name of its server is a trigger"
            view = ask("127.0.0.1", port, "www.example.com.", c.A)
            assert view is not None and (view.rcode, view.answer) == (c.NOERROR, []), "and the address of this one's"
        truncated = ask("127.0.0.1", port, "a.example.playground.", c.A)
        assert truncated is not None and truncated.tc
        assert rcode(port, "a.example.playground.", tcp=True) == c.NOERROR
        truncated = ask("127.0.0.1", port, "a.example.playground.", c.A)
        assert truncated is not None and truncated.tc, "the answer over TCP is not given from the cache over UDP"
        replace(tmp_path / "ads.txt", "||six.example.playground^\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: rcode(port, "six.example.playground.") == c.NXDOMAIN, "the new list", process=process,
                   log=tmp_path / "log")


def test_a_list_from_a_web_server(tmp_path: Path) -> None:
    program = find_nginx()
    if program is None:
        pytest.skip("nginx is not installed; the Debian package is nginx-light")
    port = free_port()
    (tmp_path / "nginx").mkdir()
    with Nginx(program, tmp_path / "nginx") as web:
        (tmp_path / "nginx" / "www" / "ads.txt").write_text("0.0.0.0 ads.test\n")
        (tmp_path / "resolverd.toml").write_text(
            f'[server]\nlisten = ["127.0.0.1:{port}"]\n[policy]\nspecial-use-domains = false\n'
            f'[[list]]\nname = "ads"\nfile = "{tmp_path}/ads"\nurl = "{web.url}/ads.txt"\n')
        environment = {**daemon_environment(), "SSL_CERT_FILE": str(web.authority.cafile)}
        words = [*RESOLVERD, "--playground", "--config", str(tmp_path / "resolverd.toml")]
        for _ in range(2):
            with run_process(words, tmp_path / "log", env=environment) as process:
                wait_until(lambda: rcode(port, "ads.test.") == c.NXDOMAIN and (tmp_path / "ads").is_file(),
                           "the list", process=process, log=tmp_path / "log")
        assert [one.status for one in web.log("/ads.txt")] == [200], "after the restart the stored file is used"
