"""Web servers and proxies of Debian as processes on loopback: a way to run any of them, Apache, and haproxy.

Each has a temporary folder and high ports, writes nothing elsewhere, and ends with its context. A program that is not
installed skips the test.
"""

import gzip
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.certs import Authority
from support.ports import free_port

__all__ = ["Apache", "haproxy_in_front", "program", "started"]

_START_SECONDS = 30.0


def program(name: str, package: str | None = None) -> str:
    """Path of a program, also where only root's PATH looks."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed; the Debian package is {package or name}")
    return found


@contextmanager
def started(*command: str | Path, port: int, folder: Path | None = None) -> Iterator[int]:
    """Run a server until it listens on `port`, and end it afterwards."""
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{command[0]} does not listen"
                time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_START_SECONDS)
        if process.stdin is not None:
            process.stdin.close()


_APACHE = """
ServerName localhost
ServerRoot {folder}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
Mutex sem
ErrorLog {folder}/error.log
{user}
{modules}
Listen 127.0.0.1:{http}
Listen 127.0.0.1:{https}
DocumentRoot {folder}/www
StartServers 1
ThreadsPerChild 8
MaxRequestWorkers 8
TypesConfig /dev/null
AddType text/plain .txt
AddType text/html .html
AddEncoding x-gzip .gz
KeepAliveTimeout 30
MaxKeepAliveRequests 5
LogFormat "%p %k %m %U %>s %H" seen
CustomLog {folder}/access.log seen
<Directory {folder}/www>
    Require all granted
    Options FollowSymLinks
</Directory>
<Location /packed>
    SetOutputFilter DEFLATE
</Location>
<Location /basic>
    AuthType Basic
    AuthName "basic"
    AuthUserFile {folder}/basic
    Require valid-user
</Location>
<Location /digest>
    AuthType Digest
    AuthName "digest"
    AuthDigestProvider file
    AuthUserFile {folder}/digest
    AuthDigestNonceLifetime 300
    Require valid-user
</Location>
Alias /packed {folder}/www
Alias /basic {folder}/www
Alias /digest {folder}/www
Redirect 302 /to-text /text.txt
Redirect 410 /gone
<VirtualHost 127.0.0.1:{http}>
</VirtualHost>
<VirtualHost 127.0.0.1:{https}>
    Protocols h2 http/1.1
    SSLEngine on
    SSLCertificateFile {certificate}
    SSLCertificateKeyFile {key}
</VirtualHost>
"""
_APACHE_MODULES = (
    "mpm_event authn_core authn_file authz_core authz_user auth_basic auth_digest alias deflate dir filter mime ssl "
    "http2"
).split()
# MD5 of "me:digest:secret", as htdigest writes it.
_DIGEST_USERS = "me:digest:519f956c2e1a5b0b72f4ce3fb2cc7f52\n"


class Apache:
    """An Apache on a plain port and on one with TLS and HTTP/2; use as a context manager.

    `text` is the content of /text.txt, which /packed/text.txt has as gzip, and /basic/ and /digest/ for the user `me`
    with the password `secret`. A connection of HTTP/1.1 ends after six requests.
    """

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder = folder
        self.authority = Authority(folder)
        leaf = self.authority.leaf("localhost", "127.0.0.1")
        self.http, self.https = free_port(), free_port()
        self.text = "all work and no play\n" * 20_000
        www = folder / "www"
        www.mkdir()
        (www / "text.txt").write_text(self.text)
        (www / "text.txt.gz").write_bytes(gzip.compress(self.text.encode()))
        (www / "empty.txt").write_bytes(b"")
        (folder / "basic").write_text("me:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
        (folder / "digest").write_text(_DIGEST_USERS)
        modules = Path("/usr/lib/apache2/modules")
        (folder / "apache.conf").write_text(
            _APACHE.format(
                folder=folder,
                user="User www-data\nGroup www-data" if os.geteuid() == 0 else "",
                modules="\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in _APACHE_MODULES),
                http=self.http,
                https=self.https,
                certificate=leaf.certificate,
                key=leaf.key,
            )
        )

    def __enter__(self) -> "Apache":
        command = (program("apache2", "apache2-bin"), "-X", "-f", self.folder / "apache.conf")
        self._running = started(*command, port=self.https)
        self._running.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.__exit__(None, None, None)

    def log(self, path: str) -> list[list[str]]:
        """Lines of the access log for `path`: port, number on the connection, method, path, status, protocol."""
        lines = [line.split() for line in (self.folder / "access.log").read_text().splitlines()]
        return [line for line in lines if line[3] == path]


_HAPROXY = """
global
    maxconn 100
defaults
    timeout connect 10s
    timeout client 30s
    timeout server 30s
    mode {mode}
listen front
    bind 127.0.0.1:{port} ssl crt {folder}/both.pem alpn {alpn}
{lines}
    server back 127.0.0.1:{back}
"""


@contextmanager
def haproxy_in_front(
    folder: Path, authority: Authority, back: int, *, mode: str, alpn: str, lines: tuple[str, ...] = ()
) -> Iterator[int]:
    """haproxy ends TLS and passes what it gets to the port `back`, as HTTP or as bytes (`mode` http or tcp)."""
    leaf = authority.leaf("localhost", "127.0.0.1", file="front")
    (folder / "both.pem").write_bytes(leaf.certificate.read_bytes() + leaf.key.read_bytes())
    port = free_port()
    config = folder / "haproxy.cfg"
    text = "\n".join(f"    {line}" for line in lines)
    config.write_text(_HAPROXY.format(mode=mode, port=port, folder=folder, alpn=alpn, lines=text, back=back))
    with started(program("haproxy"), "-db", "-f", config, port=port):
        yield port
