"""A real nginx on loopback, as a peer that we did not write.

It has one worker, uses a temporary directory and high ports, and ends with the fixture. Its access log has connection
and request number in each line, which shows keep-alive from the server's side.
"""

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from support.certs import Authority
from support.ports import free_port

__all__ = ["Nginx", "find_nginx"]

BIG = 10 * 1024 * 1024
_START_SECONDS = 30.0

_CONFIG = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    log_format test '$connection $connection_requests $request_method $uri $status $ssl_protocol $request_length '
        '$ssl_session_reused';
    access_log {folder}/access.log test;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 32m;
    client_body_buffer_size 32m;
    keepalive_timeout 60;
    ssl_protocols TLSv1.2 TLSv1.3;
    gzip on;
    gzip_min_length 1;
    gzip_types text/plain;
    types {{ text/plain txt; }}
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{https} ssl;
        listen 127.0.0.2:{https} ssl;
        listen 127.0.0.1:{http2} ssl http2;
        listen 127.0.0.1:{http};
        ssl_certificate {leaf_certificate};
        ssl_certificate_key {leaf_key};
        root {folder}/www;
        location = /hello {{ default_type text/plain; return 200 "hello\\n"; }}
        location = /teapot {{ return 418; }}
        location = /empty {{ return 204; }}
        location = /to-hello {{ return 302 /hello; }}
        location = /loop {{ return 302 /loop; }}
        location = /away {{ return 307 https://127.0.0.1:{expired}/; }}
        location = /downgrade {{ return 301 http://localhost:{http}/hello; }}
        location = /echo {{
            proxy_pass http://127.0.0.1:{http}/mark;
            proxy_set_header Accept-Encoding "";
            proxy_method GET;
            sub_filter_types *;
            sub_filter MARK $request_body;
            gzip off;
        }}
        location = /mark {{ return 200 "MARK"; }}
        location /store/ {{ dav_methods PUT DELETE; create_full_put_path on; }}
        location = /show {{ default_type text/plain; return 200 "$http_authorization|$http_x_test|$host"; }}
        location /private/ {{
            auth_basic "closed";
            auth_basic_user_file {folder}/users;
            alias {folder}/www/;
        }}
        location = /slow.bin {{ limit_rate 1000; }}
        location = /once {{ keepalive_timeout 0; return 200 "once"; }}
    }}
    server {{
        listen 127.0.0.1:{expired} ssl;
        ssl_certificate {expired_certificate};
        ssl_certificate_key {expired_key};
        location / {{ return 200 "expired"; }}
    }}
    server {{
        listen 127.0.0.1:{stale} ssl;
        ssl_certificate {leaf_certificate};
        ssl_certificate_key {leaf_key};
        keepalive_timeout 1s;
        location / {{ return 200 "stale"; }}
    }}
}}
"""


def find_nginx() -> str | None:
    """Path of the program, also where only root's PATH looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class LogLine:
    """One request as nginx saw it."""

    connection: int
    number: int
    method: str
    path: str
    status: int
    protocol: str
    length: int
    resumed: bool


class Nginx:
    """The running server; use as a context manager. `names` are names of its certificate besides localhost."""

    def __init__(self, program: str, folder: Path, *names: str) -> None:
        self.folder = folder
        self.program = program
        self.authority = Authority(folder)
        self.https, self.http, self.expired, self.stale, self.http2 = (free_port() for _ in range(5))
        leaf = self.leaf = self.authority.leaf("localhost", "127.0.0.1", *names)
        expired = self.authority.leaf("localhost", "127.0.0.1", file="expired", expired=True)
        www = folder / "www"
        www.mkdir()
        (www / "big.bin").write_bytes(bytes(range(256)) * (BIG // 256))
        (www / "slow.bin").write_bytes(bytes(20000))
        (www / "text.txt").write_bytes(b"all work and no play\n" * 10000)
        (folder / "users").write_text("me:{PLAIN}secret\n")
        folder.chmod(0o755)
        (folder / "nginx.conf").write_text(
            _CONFIG.format(
                # Started by root the worker would become nobody, who may not enter a test's folder.
                user="user root;" if os.geteuid() == 0 else "",
                folder=folder,
                https=self.https,
                http=self.http,
                expired=self.expired,
                stale=self.stale,
                http2=self.http2,
                leaf_certificate=leaf.certificate,
                leaf_key=leaf.key,
                expired_certificate=expired.certificate,
                expired_key=expired.key,
            )
        )

    @property
    def url(self) -> str:
        """The good TLS server's base URL."""
        return f"https://localhost:{self.https}"

    @property
    def http2_url(self) -> str:
        """The base URL of the same server on a port where it offers HTTP/2."""
        return f"https://localhost:{self.http2}"

    def log(self, path: str) -> list[LogLine]:
        """The access log's lines for one path; nginx writes them before it reads the next request."""
        lines = []
        for line in (self.folder / "access.log").read_text().splitlines():
            connection, number, method, uri, status, protocol, length, resumed = line.split()
            if uri == path:
                lines.append(
                    LogLine(
                        int(connection), int(number), method, uri, int(status), protocol, int(length), resumed == "r"
                    )
                )
        return lines

    def __enter__(self) -> "Nginx":
        self.process = subprocess.Popen(
            [
                self.program,
                "-p",
                str(self.folder),
                "-c",
                str(self.folder / "nginx.conf"),
                "-e",
                str(self.folder / "error.log"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.https), timeout=1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise RuntimeError("nginx did not start: " + (self.folder / "error.log").read_text()) from None
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=_START_SECONDS)
