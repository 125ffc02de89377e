"""The command line of `rdig`: the grammar of dig, with errors that name the wrong word.

A pure function from words to `Request`, no I/O. Words may come in any order, as with dig. A single word is always the
name, so ``rdig mx`` queries the name mx. Of several words, those that are a type or class are taken as such.
"""

import difflib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

import idna

from resolver.limits import DIG_TIMEOUT, EDNS_PAYLOAD, UPSTREAM_PORT
from resolver.upstream_address import DEFAULT_PATH, DEFAULT_PORTS, HTTPS, QUIC, TLS, Encryption, check_pin
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["HELP", "Request", "UsageError", "parse"]

HELP = """\
usage: rdig NAME [TYPE] [CLASS] [@SERVER[:PORT]] [+OPTION ...]

Query the DNS. With @SERVER the query goes to that server; without, rdig resolves from the root itself.

  @SERVER[:PORT]   an address or a host name; IPv6 with a port as @[2001:db8::1]:53
  -p PORT          the server's port (default 53)
  -x ADDRESS       reverse look-up of an address
  -t TYPE, -c CLASS, -q NAME   for words that are ambiguous

  +explain         full report: cause, who can fix it, delegations, queries, chain of trust
  +explain=FORM    the report as text, json or html (a self-contained page with diagrams)
  --output FILE    write the report to FILE; without =FORM, .html or .json select the form
  +trace           each step of the resolution and its reason
  +short           only the rdata
  +json            one JSON object
  +tcp             use TCP only
  +tls             use TLS (port 853); the certificate must be valid for the server's name or address
  +https[=PATH]    use HTTPS (port 443; default path /dns-query)
  +quic            use QUIC (port 853); it needs qh3: pip install 'corenet-resolver[quic]'
  +tls-hostname=N  the certificate must be valid for this name instead
  +tls-pin=HASH    the server's key must have this SHA-256 hash in base64; without +tls-hostname no name is checked
  +tls-ca=FILE     trust the certificate authorities of this PEM file instead of the system's
  +tls-insecure    accept any certificate
  +dnssec          set the DO bit and show signatures
  +cd              set the CD bit; without @SERVER: do not validate
  +norec           clear the RD bit
  +nsid            request the name server identifier
  +noedns          do not use EDNS
  +bufsize=N       EDNS buffer size, 512 to 65535 (default 1232)
  +timeout=S       seconds for each of three attempts with @SERVER (default 5), else for the resolution
  +no...           turn an option off

  --config FILE    use root hints and settings of a resolverd configuration
  --playground     resolve in the simulated Internet, without a network
  --help, --version

exit code: 0 records found; 1 no records (NXDOMAIN or NODATA); 2 usage;
           3 failure (SERVFAIL, REFUSED, bogus, ...); 4 no usable reply; 10 internal error
"""


class UsageError(ValueError):
    """An invalid command line."""


@dataclass(slots=True)
class Request:
    """A parsed command line. `timeout` is in seconds, None is the default; without `server`, rdig resolves itself."""

    qname: bytes = names.ROOT
    qtype: int = c.A
    qclass: int = c.IN
    server: str | None = None
    port: int = UPSTREAM_PORT.default
    explain: str | None = None
    """The form of the explanation: text, json or html."""
    output: str | None = None
    trace: bool = False
    short: bool = False
    json: bool = False
    tcp: bool = False
    tls: bool = False
    https: str | None = None
    """Path of the requests over HTTPS; None without it."""
    quic: bool = False
    tls_hostname: str = ""
    tls_pins: tuple[str, ...] = ()
    tls_ca: str = ""
    tls_insecure: bool = False
    encryption: Encryption | None = None
    """What these options amount to; None without encryption."""
    dnssec: bool = False
    cd: bool = False
    rec: bool = True
    nsid: bool = False
    edns: bool = True
    bufsize: int = EDNS_PAYLOAD.default
    timeout: float | None = None
    config: str | None = None
    playground: bool = False
    help: bool = False
    version: bool = False


SWITCHES = ("trace", "short", "json", "tcp", "tls", "quic", "dnssec", "cd", "rec", "nsid", "edns")
NUMBERS = {"bufsize": EDNS_PAYLOAD, "timeout": DIG_TIMEOUT}
OTHER_NAMES = {"cdflag": "cd", "vc": "tcp", "recurse": "rec", "do": "dnssec"}
TLS_OPTIONS = ("https", "tls-hostname", "tls-pin", "tls-ca", "tls-insecure")
OPTIONS_WITH_VALUE = ("-p", "-x", "-t", "-c", "-q", "--config", "--output")
PLAIN_OPTIONS = ("--playground", "--help", "--version")
FORMS = ("text", "json", "html")
ENDINGS = {".html": "html", ".htm": "html", ".json": "json"}


def parse(words: Sequence[str]) -> Request:
    """Parse `words`, the command line without the program's name.

    Raises:
        UsageError: they are invalid; the text says which word is wrong.
    """
    request = Request()
    bare: list[str] = []
    given: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word.startswith("@"):
            _server(request, word[1:])
        elif word.startswith("+"):
            _plus(request, word[1:])
        elif word in OPTIONS_WITH_VALUE:
            value = next(rest, None)
            if value is None:
                raise UsageError(f"{word} needs a value")
            given[word] = value
        elif word in PLAIN_OPTIONS:
            setattr(request, word[2:], True)
        elif word == "-h":
            request.help = True
        elif word.startswith("-") and len(word) > 1:
            raise UsageError(f"unknown option {word}{_suggest(word, (*PLAIN_OPTIONS, *OPTIONS_WITH_VALUE))}")
        else:
            bare.append(word)
    _question(request, bare, given)
    if "-p" in given:
        request.port = _port(given["-p"])
        if request.server is None:
            raise UsageError("-p is the port of a server: name one with @SERVER")
    _encryption(request)
    request.config = given.get("--config")
    _explanation(request, given.get("--output"))
    if request.server is None and request.encryption is not None:
        raise UsageError("+tls, +https and +quic concern queries to a server: name one with @SERVER")
    if request.server is None and (request.tcp or not request.edns or not request.rec or request.nsid):
        raise UsageError("+tcp, +noedns, +norec and +nsid concern queries to a server: name one with @SERVER")
    if request.server is None and request.qclass != c.IN:
        raise UsageError("rdig itself resolves class IN only: name a server with @SERVER")
    if request.server is not None and (request.trace or request.playground or (request.config and not request.explain)):
        raise UsageError("+trace, --playground and --config work without a server only: omit @SERVER")
    if request.short and request.json:
        raise UsageError("+short and +json exclude each other")
    return request


# --- the parts of a command line --------------------------------------------------------------------------------------


def _explanation(request: Request, path: str | None) -> None:
    """Choose the form of the explanation and reject options that exclude it."""
    if path is not None:
        if request.explain is None:
            raise UsageError("--output needs +explain")
        if not path:
            raise UsageError("--output needs a file name")
        request.output = path
    if request.explain is None:
        return
    if request.explain == "":
        endings = (form for ending, form in ENDINGS.items() if (path or "").lower().endswith(ending))
        request.explain = next(endings, "text")
    others = [f"+{word}" for word in ("trace", "short", "json") if getattr(request, word)]
    if others:
        remedy = " (use +explain=json)" if "+json" in others else ""
        raise UsageError(f"+explain and {' and '.join(others)} exclude each other{remedy}")
    if request.qclass != c.IN:
        raise UsageError("+explain works in class IN only")


def _server(request: Request, text: str) -> None:
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket:
            raise UsageError(f"@{text}: the closing bracket is missing: @[2001:db8::1] or @[2001:db8::1]:5300")
        if tail and not tail.startswith(":"):
            raise UsageError(f"@{text}: only :PORT may follow ]")
        if host and not _is_address(host, 6):
            raise UsageError(f"@{text}: {host!r} in brackets is not an IPv6 address")
        colon, port = tail[:1], tail[1:]
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    if not host:
        raise UsageError("@ needs a server: @192.0.2.1, @192.0.2.1:5300 or @[2001:db8::1]:5300")
    if colon and not port:
        raise UsageError(f"@{text}: no port follows the colon")
    request.server = _host(host, text)
    request.port = _port(port) if port else 0


def _encryption(request: Request) -> None:
    """Combine the options of encrypted transports, and choose the port when none was given."""
    protocols = [
        name for name, given in ((TLS, request.tls), (HTTPS, request.https is not None), (QUIC, request.quic)) if given
    ]
    wanted = bool(protocols)
    others = request.tls_hostname or request.tls_pins or request.tls_ca or request.tls_insecure
    if others and not wanted:
        wanted = request.tls = True
        protocols = [TLS]
    if wanted:
        if request.tcp or len(protocols) > 1:
            raise UsageError("+tcp, +tls, +https and +quic exclude each other")
        if request.tls_insecure and (request.tls_hostname or request.tls_pins or request.tls_ca):
            raise UsageError("+tls-insecure excludes +tls-hostname, +tls-pin and +tls-ca")
        name = request.tls_hostname
        if not (name or request.tls_pins or request.tls_insecure):
            name = request.server or ""
        request.encryption = Encryption(protocols[0], name, request.tls_pins, request.https or "")
    if not request.port:
        request.port = DEFAULT_PORTS[protocols[0]] if protocols else UPSTREAM_PORT.default


def _tls_option(request: Request, key: str, value: str, *, given: bool, wanted: bool) -> None:
    """One of `TLS_OPTIONS`."""
    if key == "https":
        request.https = None if not wanted else value or DEFAULT_PATH
        if not (request.https or "/").startswith("/"):
            raise UsageError(f"+https needs the path of the server's URL, such as {DEFAULT_PATH}, not {value!r}")
        if not (request.https or "/").isascii() or any(sign <= " " for sign in request.https or "/"):
            raise UsageError(f"+https: {value!r} is not a path of a URL")
    elif key == "tls-insecure":
        if given:
            raise UsageError("+tls-insecure takes no value")
        request.tls_insecure = wanted
    elif not wanted:
        setattr(request, {"tls-hostname": "tls_hostname", "tls-pin": "tls_pins", "tls-ca": "tls_ca"}[key],
                () if key == "tls-pin" else "")
    elif not value:
        raise UsageError(f"+{key} needs a value: +{key}=...")
    elif key == "tls-pin":
        try:
            request.tls_pins = (*request.tls_pins, check_pin(value, "+tls-pin"))
        except ValueError as error:
            raise UsageError(str(error)) from None
    elif key == "tls-hostname":
        request.tls_hostname = _host(value, value)
    else:
        request.tls_ca = value


def _host(host: str, text: str) -> str:
    """An address unchanged, or a host name in ASCII."""
    if _is_address(host):
        return host
    if ":" in host:
        raise UsageError(f"@{text}: {host!r} is not an IPv6 address; with a port write @[2001:db8::1]:53")
    for sign in "#@":
        before, found, port = host.partition(sign)
        if found:
            raise UsageError(f"@{text}: a port follows a colon, not {sign}: @{before}:{port}")
    ascii_host = _name_in_ascii(host)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", ascii_host):
        raise UsageError(f"@{text}: {host!r} is neither an address nor a host name")
    _name(ascii_host)
    return ascii_host


def _is_address(text: str, version: int = 0) -> bool:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return version in (0, found.version)


def _port(text: str) -> int:
    return _number(text, "port", UPSTREAM_PORT.minimum, UPSTREAM_PORT.maximum)


def _plus(request: Request, text: str) -> None:
    key, equals, value = text.partition("=")
    wanted = True
    known = ("explain", *TLS_OPTIONS, *NUMBERS, *SWITCHES, *OTHER_NAMES)
    if key not in known and key.startswith("no"):
        key, wanted = key[2:], False
    key = OTHER_NAMES.get(key, key)
    if key == "explain":
        if not wanted:
            request.explain = None
        elif equals and value not in FORMS:
            raise UsageError(f"+explain can be {', '.join(FORMS)}, not {value!r}{_suggest(value, FORMS)}")
        else:
            request.explain = value
    elif key in TLS_OPTIONS:
        _tls_option(request, key, value, given=bool(equals), wanted=wanted)
    elif key in NUMBERS:
        limit = NUMBERS[key]
        if not (equals and wanted):
            raise UsageError(f"+{key} needs a number: +{key}={limit.default}")
        if key == "timeout":
            request.timeout = _seconds(value, limit.maximum)
        else:
            setattr(request, key, _number(value, key, limit.minimum, limit.maximum))
    elif key in SWITCHES:
        if equals:
            raise UsageError(f"+{key} takes no value")
        setattr(request, key, wanted)
    else:
        raise UsageError(f"unknown option +{text}{_suggest(key, known, '+')}")


def _suggest(word: str, known: Sequence[str], prefix: str = "") -> str:
    """A suggestion of a similar known word, or nothing."""
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _question(request: Request, bare: list[str], given: dict[str, str]) -> None:
    if "-x" in given:
        if "-q" in given:
            raise UsageError("-x and -q both give the name")
        try:
            address = str(ipaddress.ip_address(given["-x"]))
        except ValueError:
            raise UsageError(f"-x needs an address, not {given['-x']!r}")
        request.qname, request.qtype = names.reverse_address(address), c.PTR
    elif "-q" in given:
        request.qname = _name(given["-q"])
    has_name = "-x" in given or "-q" in given
    others = [word for word in bare if _type(word) is None and _class(word) is None]
    if not has_name and not others and bare:
        others = [bare[0]]
    if len(others) > (not has_name):
        raise UsageError(f"{others[-1]!r} is neither a type nor a class, and a name is already given")
    if others:
        request.qname = _name(others[0])
        bare.remove(others[0])
    elif not has_name:
        request.qtype = c.NS  # as dig: without a name, the NS records of the root
    for word in bare:
        rtype = _type(word)
        if rtype is not None:
            request.qtype = rtype
        else:
            request.qclass = _class(word) or c.IN
    if "-t" in given:
        rtype = _type(given["-t"])
        if rtype is None:
            raise UsageError(f"unknown type {given['-t']!r}")
        request.qtype = rtype
    if "-c" in given:
        rclass = _class(given["-c"])
        if rclass is None:
            raise UsageError(f"unknown class {given['-c']!r}")
        request.qclass = rclass


def _name(text: str) -> bytes:
    try:
        return names.from_text(_name_in_ascii(text))
    except ValueError as error:
        raise UsageError(f"{text!r} is not a domain name: {error}")


def _name_in_ascii(text: str) -> str:
    if text.isascii():
        return text
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except ValueError as error:
        raise UsageError(f"{text!r} is not a domain name: {error}")


def _type(word: str) -> int | None:
    try:
        return c.type_from_text(word)
    except ValueError:
        return None


def _class(word: str) -> int | None:
    try:
        return c.class_from_text(word)
    except ValueError:
        return None


def _number(text: str, what: str, minimum: int, maximum: int) -> int:
    # Check the length first: Python does not convert numbers of thousands of digits.
    digits = text.lstrip("0") or "0"
    if text.isascii() and text.isdecimal() and len(digits) <= len(str(maximum)) and minimum <= int(digits) <= maximum:
        return int(digits)
    raise UsageError(f"{what} must be a number from {minimum} to {maximum}, not {text!r}")


def _seconds(text: str, maximum: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 < value and value <= maximum:
        return value
    raise UsageError(f"timeout must be seconds above 0 and up to {maximum}, not {text!r}")
