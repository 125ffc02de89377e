"""Requests to the HTTP listeners of the daemon: heads, hosts, tokens and questions are used or refused."""

from resolver.daemon.management_http import Request, parse_head
from resolver.daemon.web_access import WebAccess
from resolver.daemon.web_server import read_question
from resolver.settings import WebSettings

TOKEN = bytes(range(97, 123))
ACCESS = WebAccess(WebSettings(listen="127.0.0.1", token_file="-", hosts=("dns.example",)), TOKEN)


def run(data: bytes) -> None:
    """Read `data` as the head of a request."""
    found = parse_head(data)
    if not isinstance(found, Request):
        assert found
        return
    assert found.path.startswith("/") and found.path.isprintable() and found.query.isascii()
    assert all(name == name.lower() for name in found.fields)
    ACCESS.admits_host(found.fields.get("host"), "127.0.0.1")
    admitted = ACCESS.admits_token(found.fields.get("authorization", ""))
    assert not admitted or TOKEN in data
    try:
        name, rtype, _ = read_question(found.query)
    except ValueError:
        return
    assert isinstance(name, str) and isinstance(rtype, str)
