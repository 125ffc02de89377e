"""The command line of ``corenet get``: its options and the request made of them. Names and meanings are curl's."""

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from corenet._version import __version__
from corenet.http.decode import accept_encoding
from corenet.http.digest import DigestAuth
from corenet.limits import HTTP_CLI_PARALLEL, HTTP_MAX_REDIRECTS, HTTP_TOTAL_TIMEOUT

__all__ = ["Target", "UnreadableFile", "UsageError", "parse", "removed_fields", "request_of", "targets"]

# The options that give a body, of which a request has at most one.
_BODIES = (("data", "--data"), ("json", "--json"), ("form", "--form"), ("upload_file", "--upload-file"))


class UsageError(Exception):
    """The command line is wrong, or cannot be carried out; `code` is the exit code."""

    code = 2


class UnreadableFile(UsageError):
    """A file that is to be sent cannot be read; the exit code is curl's CURLE_READ_ERROR."""

    code = 26


@dataclass(frozen=True, slots=True)
class Target:
    """One URL and the path of the file to which its body is written; None: standard output."""

    url: str
    path: Path | None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; None is that of the process.

    URLs may stand between options, which argparse does not allow for positional arguments of a subcommand.

    Raises:
        SystemExit: with code 2 when the command line is wrong, 0 after --help and --version.
    """
    top = _parser()
    options, rest = top.parse_known_args(arguments)
    options.url += rest
    # argparse takes what looks like a negative number for a positional argument.
    unknown = [text for text in options.url if text.startswith("-")]
    if unknown:
        top.error(f"unknown options: {' '.join(unknown)} (corenet get --help lists those that are known)")
    options.url += options.further_url
    if not options.url:
        top.error("no URL is given")
    # The bytes of a URL are UTF-8, whatever the locale says.
    options.url = [os.fsencode(url).decode("utf-8", "surrogateescape") for url in options.url]
    return options


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="corenet", description="Fetch URLs over HTTP/1.1, HTTP/2 and verified TLS.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"corenet {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # With abbreviations, options of curl would be read as others of ours: --resolve as --resolver.
    get = commands.add_parser(
        "get", help="fetch URLs", description="Fetch URLs; the bodies go to stdout. Names and meanings are curl's.",
        usage="corenet get [options] URL...", allow_abbrev=False,
    )  # fmt: skip
    get.add_argument("url", metavar="URL", nargs="*")
    get.add_argument("--url", dest="further_url", metavar="URL", action="append", default=[], help="a further URL")
    _add_output(get.add_argument_group("output"))
    _add_request(get.add_argument_group("request"))
    _add_connection(get.add_argument_group("connection"))
    return top


def _add_output(group: Any) -> None:
    group.add_argument(
        "-o", "--output", metavar="FILE", action="append", default=[],
        help="write the body to FILE; given again, for the next URL",
    )
    group.add_argument("-O", "--remote-name", action="store_true", help="name each file as the last part of its URL")
    group.add_argument(
        "-C", "--continue-at", metavar="OFFSET",
        help="continue a file at this offset in bytes; '-' for the size of the file",
    )
    group.add_argument("-i", "--include", action="store_true", help="write the response's head before the body")
    group.add_argument("-I", "--head", action="store_true", help="send HEAD and write the response's head")
    group.add_argument("-D", "--dump-header", metavar="FILE", help="write the heads of the responses to FILE")
    group.add_argument("-f", "--fail", action="store_true", help="without a body, exit with 22 for status 400 or above")
    group.add_argument("--fail-with-body", action="store_true", help="as --fail, but write the body")
    group.add_argument("-w", "--write-out", metavar="FORMAT", help="write this to stdout after each URL")
    group.add_argument("-s", "--silent", action="store_true", help="show neither progress nor errors of transfers")
    group.add_argument("-S", "--show-error", action="store_true", help="with --silent: show errors")
    group.add_argument("--no-progress-meter", action="store_true", help="show no progress")
    group.add_argument("-N", "--no-buffer", action="store_true", help="accepted: output is never held back")
    group.add_argument("-Z", "--parallel", action="store_true", help="fetch the URLs at the same time, into files")
    group.add_argument(
        "--parallel-max", metavar="N", type=int, default=HTTP_CLI_PARALLEL.default,
        help="with --parallel: at most N at the same time (default %(default)d)",
    )
    group.add_argument("-v", "--verbose", "--trace", dest="trace", action="store_true",
                       help="print each step with its time to stderr")
    group.add_argument(
        "--trace-format", choices=("text", "json", "html"), help="the form of the trace; implies --trace",
    )
    group.add_argument("--trace-output", metavar="FILE", help="write the trace to FILE; implies --trace")


def _add_request(group: Any) -> None:
    group.add_argument("-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], help="send this field")
    group.add_argument("-A", "--user-agent", metavar="NAME", help="send this User-Agent")
    group.add_argument(
        "-X", "--request", "--method", dest="method", metavar="M",
        help="request method (default GET, or POST with a body)",
    )
    group.add_argument(
        "-d", "--data", metavar="D", action=_Part,
        help="send as a form, or @FILE to send a file without its line ends, @- for stdin; several are joined by &",
    )
    # All of them in the order in which they are given.
    for name, action, text in (
        ("--data-binary", _Binary, "as --data, but a file is sent as it is"),
        ("--data-raw", _Raw, "as --data, but @ has no meaning"),
        ("--data-urlencode", _Encoded, "as --data, percent-encoded: TEXT, NAME=TEXT, @FILE or NAME@FILE"),
    ):
        group.add_argument(name, dest="data", metavar="D", action=action, help=text)
    group.add_argument("-G", "--get", action="store_true", help="put --data into the query of a GET")
    group.add_argument("-T", "--upload-file", metavar="FILE", help="PUT this file")
    group.add_argument("-r", "--range", metavar="RANGE", help="ask for this range of bytes: 0-99, 500-, -500")
    group.add_argument("-e", "--referer", metavar="URL", help="send this Referer")
    group.add_argument("-b", "--cookie", metavar="NAME=VALUE", help="send these cookies")
    group.add_argument("--compressed", action="store_true", help="request a compressed response (default without -r)")
    group.add_argument("--json", metavar="D", action="append", help="as --data, but sent and accepted as JSON")
    group.add_argument(
        "-F", "--form", metavar="NAME=VALUE", action="append",
        help="send multipart/form-data: NAME=VALUE, NAME=@FILE[;type=T][;filename=N], NAME=<FILE",
    )
    group.add_argument("-u", "--user", metavar="USER[:PASSWORD]", help="authenticate; the password may be typed in")
    group.add_argument("--digest", action="store_true", help="with --user: by Digest instead of Basic")
    group.add_argument("-L", "--location", action="store_true", help="follow redirects (the default is to show them)")
    group.add_argument(
        "--max-redirs", metavar="N", type=int, default=HTTP_MAX_REDIRECTS.default,
        help="with --location: at most N (default %(default)d)",
    )
    group.add_argument("--retry", metavar="N", type=int, default=0, help="retry up to N times (GET, HEAD, PUT, ...)")


def _add_connection(group: Any) -> None:
    group.add_argument("-x", "--proxy", metavar="URL", help="use this proxy instead of the environment's")
    group.add_argument("--noproxy", metavar="LIST", help="with --proxy: hosts to be reached directly")
    group.add_argument("--unix-socket", metavar="PATH", help="connect to this Unix socket")
    group.add_argument("--interface", metavar="ADDRESS", help="connect from this IP address")
    group.add_argument("--http2", action="store_true", help="accepted: HTTP/2 is offered unless --http1.1 is given")
    group.add_argument("--http1.1", dest="http1", action="store_true", help="do not offer HTTP/2")
    group.add_argument("--cacert", metavar="FILE", help="trust the authorities of this PEM file, not the system's")
    group.add_argument("-E", "--cert", metavar="FILE", help="identify as this certificate (PEM)")
    group.add_argument("--key", metavar="FILE", help="the key of --cert, unless it is in the same file")
    group.add_argument("-k", "--insecure", action="store_true", help="accept any certificate")
    group.add_argument(
        "--resolver", metavar="ADDR[:PORT]", nargs="?", const="",
        help="resolve names through this server, or recursively without an address",
    )
    group.add_argument(
        "--doh-url", metavar="URL", help="resolve names through this server of DNS over HTTPS only (RFC 8484)",
    )
    group.add_argument("--playground", action="store_true", help="resolve names in the simulated Internet")
    group.add_argument(
        "--https-records", action="store_true", help="use HTTPS records (RFC 9460); needs --resolver or --playground",
    )
    group.add_argument(
        "--dane", action="store_true", help="verify servers with validated TLSA records (RFC 6698); needs --resolver",
    )
    group.add_argument("--connect-timeout", metavar="S", type=float, help="give up connecting after S seconds")
    group.add_argument(
        "-m", "--max-time", metavar="S", type=float, default=float(HTTP_TOTAL_TIMEOUT),
        help="give up after S seconds (default %(default)g)",
    )


def targets(options: argparse.Namespace) -> list[Target]:
    """The URLs and the files for their bodies.

    Raises:
        UsageError: there is no file for a URL that needs one, or no URL for a file.
    """
    try:
        HTTP_CLI_PARALLEL.check(options.parallel_max, "--parallel-max")
    except ValueError as error:
        raise UsageError(str(error)) from error
    if len(options.output) > len(options.url):
        raise UsageError(f"-o is given {len(options.output)} times for {len(options.url)} URLs")
    found = []
    for number, url in enumerate(options.url):
        path: Path | None = None
        if number < len(options.output):
            path = None if options.output[number] == "-" else Path(options.output[number])
        elif options.remote_name:
            path = Path(_remote_name(url))
        found.append(Target(url, path))
    if options.parallel and any(target.path is None for target in found):
        raise UsageError("--parallel needs a file for each URL: -O or several -o")
    if options.continue_at is not None and any(target.path is None for target in found):
        raise UsageError("-C needs a file for each URL: -o or -O")
    if options.continue_at not in (None, "-") and not (options.continue_at.isascii() and options.continue_at.isdigit()):
        raise UsageError(f"-C {options.continue_at}: not a number of bytes")
    return found


def _remote_name(url: str) -> str:
    """The last part of the URL's path. It is never a directory, whatever the URL says."""
    path = url.partition("://")[2].partition("#")[0].partition("?")[0]
    name = path.rpartition("/")[2] if "/" in path else ""
    if name in ("", ".", "..") or "\0" in name:
        raise UsageError(f"-O: {url} has no file name; use -o")
    return name


def request_of(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `HttpClient.stream` except the URL.

    Raises:
        UsageError: an option is malformed, a file cannot be read, or two options give a body.
    """
    given = [name for name, option in _BODIES if getattr(options, name) is not None]
    if len(given) > 1:
        raise UsageError(" and ".join(dict(_BODIES)[name] for name in given) + " exclude each other")
    if options.get and given not in ([], ["data"]):
        raise UsageError(f"-G needs --data, not {dict(_BODIES)[given[0]]}")
    fields = [_header(text) for text in options.header]
    names = {name.lower() for name, _ in fields}
    # As in curl, a name without a value removes a field of ours, and "Name;" sends an empty one.
    headers = [(name, value) for name, value in fields if value is not None]
    arguments: dict[str, Any] = {}

    def add(name: str, value: str) -> None:
        if name.lower() not in names:
            headers.append((name, value))

    identity = options.range is not None and not options.compressed
    if identity:
        add("Accept-Encoding", "identity")
    if options.user_agent is not None:
        add("User-Agent", options.user_agent)
    if removed_fields(options):
        # The client then sends no default fields, so the remaining ones are added here.
        coded = [] if identity or options.continue_at is not None else [("Accept-Encoding", accept_encoding())]
        for name, value in [("User-Agent", f"corenet/{__version__}"), ("Accept", "*/*"), *coded]:
            if name.lower() not in {field.lower() for field, _ in headers}:
                add(name, value)
    given_fields = (("Referer", options.referer), ("Cookie", _cookie(options.cookie)), ("Range", _range(options)))
    for name, given_value in given_fields:
        if given_value is not None:
            add(name, given_value)
    if options.data is not None:
        data = b"&".join(_form_data(part) for part in options.data)
        if options.get:
            arguments["params"] = data.decode("utf-8", "surrogateescape")
        else:
            arguments["content"] = data
            add("Content-Type", "application/x-www-form-urlencoded")
    elif options.json is not None:
        arguments["content"] = b"".join(_data(text, "--json") for text in options.json)
        add("Content-Type", "application/json")
        add("Accept", "application/json")
    elif options.form is not None:
        arguments["files"] = [_form(text) for text in options.form]
    elif options.upload_file is not None:
        arguments["content"] = _upload(options.upload_file)
    if options.user is not None:
        arguments["auth"] = _credentials(options)
    return {
        "method": options.method or _method(options, given),
        "headers": headers,
        **arguments,
    }


def _method(options: argparse.Namespace, given: list[str]) -> str:
    if options.head:
        return "HEAD"
    if options.get:
        return "GET"
    return "PUT" if given == ["upload_file"] else "POST" if given else "GET"


def _header(text: str) -> tuple[str, str | None]:
    """Name and value; None removes the field."""
    name, colon, value = text.partition(":")
    if not colon and text.endswith(";"):
        return text[:-1].strip(), ""
    if not colon:
        raise UsageError(f"-H {text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip() or None


def removed_fields(options: argparse.Namespace) -> set[str]:
    """The names, in lower case, of the fields that ``-H 'Name:'`` removes."""
    return {name.lower() for name, value in map(_header, options.header) if value is None}


def _cookie(text: str | None) -> str | None:
    if text is not None and "=" not in text:
        raise UsageError(f"-b {text}: cookies are given as NAME=VALUE; files of cookies are not read")
    return text


def _range(options: argparse.Namespace) -> str | None:
    if options.range is None:
        return None
    if options.continue_at is not None:
        raise UsageError("-r and -C exclude each other")
    return f"bytes={options.range}"


def _upload(path: str) -> bytes | Path:
    if path in ("-", "."):
        return _file("-", f"-T {path}")
    if not Path(path).is_file():
        raise UnreadableFile(f"-T {path}: No such file")
    return Path(path)


class _Part(argparse.Action):
    """Appends the value of an option to `data`, with its kind, which decides how `_form_data` reads it."""

    kind = "text"

    def __call__(self, parser: Any, options: argparse.Namespace, value: Any, option: str | None = None) -> None:
        options.data = [*(options.data or []), (self.kind, value)]


class _Binary(_Part):
    """--data-binary."""

    kind = "binary"


class _Raw(_Part):
    """--data-raw."""

    kind = "raw"


class _Encoded(_Part):
    """--data-urlencode."""

    kind = "encoded"


def _form_data(part: tuple[str, str]) -> bytes:
    """The bytes of one --data option, as curl makes them."""
    kind, text = part
    if kind == "raw":
        return text.encode("utf-8", "surrogateescape")
    if kind == "binary":
        return _data(text, "--data-binary")
    if kind == "text":
        data = _data(text, "--data")
        return data.translate(None, b"\r\n\0") if text.startswith("@") else data
    name, sign, content = text.partition("=") if "=" in text or "@" not in text else text.partition("@")
    if not sign:
        name, content = "", text
    octets = _file(content, f"--data-urlencode {text}") if sign == "@" else content.encode("utf-8", "surrogateescape")
    return (f"{name}=" if name else "").encode() + quote_plus(octets).encode()


def _data(text: str, option: str) -> bytes:
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    return _file(text[1:], f"{option} {text}")


def _file(path: str, where: str) -> bytes:
    try:
        if path == "-":
            if sys.stdin is None:
                raise UsageError(f"{where}: the command was started without a standard input")
            return sys.stdin.buffer.read()
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableFile(f"{where}: {error.strerror or error}") from error


def _form(text: str) -> tuple[str, Any]:
    """One part of a form: a pair for `files=`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"-F {text!r} is not of the form NAME=VALUE")
    if value.startswith("<"):
        return name, (None, _file(value[1:], f"-F {text}"))
    if not value.startswith("@"):
        return name, (None, value)
    path, *attributes = value[1:].split(";")
    given = dict(attribute.partition("=")[::2] for attribute in attributes)
    if unknown := set(given) - {"type", "filename"}:
        raise UsageError(f"-F {text!r}: {sorted(unknown)[0]!r} is not known; type= and filename= are")
    if not Path(path).is_file():
        raise UnreadableFile(f"-F {text}: No such file")
    return name, (given.get("filename", Path(path).name), Path(path), given.get("type"))


def _credentials(options: argparse.Namespace) -> Any:
    user, colon, password = options.user.partition(":")
    if not colon:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("--user: a password is needed (USER:PASSWORD) when there is no terminal to ask at")
        try:
            password = getpass.getpass(f"Password of {user}: ")
        except EOFError:
            raise UsageError("--user: no password was typed in") from None
    return DigestAuth(user, password) if options.digest else (user, password)
