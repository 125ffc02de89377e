"""Who may read the web page: the token, and the hosts by which browsers may call it.

The token is a secret of at least `limits.WEB_TOKEN_BITS`, so it cannot be guessed, whatever the rate. The comparison
takes the same time for each wrong token of its length. A request for a host that is neither the address of the listener
nor configured is refused: a foreign site whose name resolves to this address has that name as host (DNS
rebinding). The port of the host is not compared, because it differs behind an SSH tunnel.
"""

import os
import re
import stat
from hmac import compare_digest
from ipaddress import ip_address

from resolver import limits
from resolver.options import parse_endpoint
from resolver.settings import WebSettings

__all__ = ["WebAccess", "read_token"]

BEARER = "bearer"  # RFC 9110 section 11.1: in any letter case
HEX_BITS, BASE64_BITS = 4, 6
SHARED = stat.S_IWGRP | stat.S_IRWXO

_HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]*)?")


class WebAccess:
    """The token and the hosts of one configuration."""

    def __init__(self, settings: WebSettings, token: bytes) -> None:
        address = ip_address(parse_endpoint(settings.listen, limits.WEB_PORT, "web.listen")[0])
        self._token = token
        self._any_address = address.is_unspecified
        hosts = [str(address), *settings.hosts, *(["localhost"] if address.is_loopback else [])]
        self._hosts = frozenset(map(_plain, hosts))

    @classmethod
    def load(cls, settings: WebSettings) -> "WebAccess":
        """Read the token of `settings`, whose listen address is set.

        Raises:
            ValueError: the token file cannot be used; the text names the setting.
        """
        return cls(settings, read_token(settings.token_file))

    def admits_host(self, text: str | None, local: str) -> bool:
        """Whether a request with this Host field, to the address `local` of this machine, may be answered."""
        found = _HOST.fullmatch(text or "")
        if found is None:
            return False
        host = _plain(found[1].strip("[]"))
        return host in self._hosts or (self._any_address and bool(local) and host == _plain(local))

    def admits_token(self, authorization: str) -> bool:
        """Whether the field ``Authorization`` has the token."""
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == BEARER and compare_digest(token.strip(" ").encode("latin-1"), self._token)


def _plain(host: str) -> str:
    """`host` in the form in which hosts are compared."""
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return host.lower().removesuffix(".")


def read_token(path: str) -> bytes:
    """The token in the file `path`.

    Raises:
        ValueError: the file cannot be read, others may read or write it, or its content is no token.
    """
    where = f"web.token_file: {path!r}"
    try:
        # A FIFO must not block.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError(f"{where} is not a regular file")
            if mode & SHARED:
                raise ValueError(
                    f"{where} has mode {stat.S_IMODE(mode):04o}, so others could read or change the token; run: chmod"
                    " 0600, or 0640 for a group that may read it"
                )
            data = file.read(limits.WEB_TOKEN_FILE + 1)
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror}") from None
    if len(data) > limits.WEB_TOKEN_FILE:
        raise ValueError(f"{where} has more than {limits.WEB_TOKEN_FILE} bytes")
    token = data.decode("latin-1").strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{where} is not one line of hexadecimal digits or base64; `openssl rand -hex 32` makes one")
    bits = len(token.rstrip("=")) * (HEX_BITS if _HEX.fullmatch(token) else BASE64_BITS)
    if bits < limits.WEB_TOKEN_BITS or len(set(token)) < limits.WEB_TOKEN_SIGNS:
        raise ValueError(
            f"{where}: the token could be guessed; it needs {limits.WEB_TOKEN_BITS} random bits, which `openssl rand"
            " -hex 32` makes"
        )
    return token.encode("ascii")
