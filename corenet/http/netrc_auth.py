"""Credentials from a netrc file, for the hosts that it names. Nothing reads such a file unless `NetrcAuth` is made."""

import netrc
from os import PathLike, fspath

from corenet.http.arguments import expect
from corenet.http.auth import Auth, BasicAuth
from corenet.http.url import Url

__all__ = ["NetrcAuth"]


class NetrcAuth(Auth):
    """Basic authentication with the file's entry for the host of each URL; a host without an entry gets none.

    The file is read here, once: `path`, or ``~/.netrc``. The entry ``default`` is not used, because it would send a
    password to every host.

    Raises:
        OSError: the file cannot be read.
        netrc.NetrcParseError: it is malformed, or ``~/.netrc`` can be read by other users.
    """

    __slots__ = ("_hosts",)

    def __init__(self, path: "str | PathLike[str] | None" = None) -> None:
        expect(path, (str, PathLike, type(None)), "NetrcAuth path", "a str, a path or None")
        hosts = netrc.netrc(None if path is None else fspath(path)).hosts
        self._hosts = {
            host.lower(): BasicAuth(entry[0] or entry[1] or "", entry[2] or "")
            for host, entry in hosts.items()
            if host != "default"
        }

    def authorize(self, method: str, url: Url) -> str | None:
        found = self._hosts.get(url.host.rstrip("."))
        return None if found is None else found.authorize(method, url)
