"""The command line of ``corenet get``: its options, and what they make of a request. Names and meanings are curl's."""

import argparse
import getpass
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corenet._version import __version__
from corenet.http.digest import DigestAuth
from corenet.limits import HTTP_CLI_PARALLEL, HTTP_TOTAL_TIMEOUT

__all__ = ["Target", "UsageError", "parse", "request_of", "targets"]

# The options that give a body, of which a request has at most one.
_BODIES = (("data", "--data"), ("json", "--json"), ("form", "--form"))


class UsageError(Exception):
    """The command line is wrong, or cannot be carried out."""


@dataclass(frozen=True, slots=True)
class Target:
    """One URL and the path of the file for its body; None: standard output."""

    url: str
    path: Path | None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; None is that of the process. Exits with 2 when it is wrong.

    URLs may stand between options, which argparse does not allow for positional arguments of a subcommand.
    """
    top = _parser()
    options, rest = top.parse_known_args(arguments)
    unknown = [text for text in rest if text.startswith("-")]
    if unknown:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.url += rest
    return options


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="corenet", description="Fetch URLs over HTTP/1.1, HTTP/2 and verified TLS.")
    top.add_argument("--version", action="version", version=f"corenet {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    get = commands.add_parser("get", help="fetch URLs", description="Fetch URLs; the bodies go to stdout.")
    get.add_argument("url", metavar="URL", nargs="+")
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
    group.add_argument("-f", "--fail", action="store_true", help="exit with 22 when the status is 400 or above")
    group.add_argument("-w", "--write-out", metavar="FORMAT", help="write this to stdout after each URL")
    group.add_argument("-s", "--silent", action="store_true", help="show no progress")
    group.add_argument("-Z", "--parallel", action="store_true", help="fetch the URLs at the same time, into files")
    group.add_argument(
        "--parallel-max", metavar="N", type=int, default=HTTP_CLI_PARALLEL.default,
        help="with --parallel: at most N at the same time (default %(default)d)",
    )
    group.add_argument("--trace", action="store_true", help="print each step with its time to stderr")
    group.add_argument(
        "--trace-format", choices=("text", "json", "html"), help="the form of the trace; implies --trace",
    )
    group.add_argument("--trace-output", metavar="FILE", help="write the trace to FILE; implies --trace")


def _add_request(group: Any) -> None:
    group.add_argument("-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], help="send this field")
    group.add_argument("-A", "--user-agent", metavar="NAME", help="send this User-Agent")
    group.add_argument("-X", "--method", metavar="M", help="request method (default GET, or POST with a body)")
    group.add_argument(
        "-d", "--data", metavar="D", action="append",
        help="send as a form, or @FILE to send a file, @- for stdin; several are joined by &",
    )
    group.add_argument("--json", metavar="D", action="append", help="as --data, but sent and accepted as JSON")
    group.add_argument(
        "-F", "--form", metavar="NAME=VALUE", action="append",
        help="send multipart/form-data: NAME=VALUE, NAME=@FILE[;type=T][;filename=N], NAME=<FILE",
    )
    group.add_argument("-u", "--user", metavar="USER[:PASSWORD]", help="authenticate; the password may be typed in")
    group.add_argument("--digest", action="store_true", help="with --user: by Digest instead of Basic")
    group.add_argument("-L", "--location", action="store_true", help="follow redirects (the default is to show them)")
    group.add_argument("--retry", metavar="N", type=int, default=0, help="retry up to N times (GET, HEAD, PUT, ...)")


def _add_connection(group: Any) -> None:
    group.add_argument("-x", "--proxy", metavar="URL", help="use this proxy instead of the environment's")
    group.add_argument("--noproxy", metavar="LIST", help="with --proxy: hosts to be reached directly")
    group.add_argument("--unix-socket", metavar="PATH", help="connect to this Unix socket")
    group.add_argument("--interface", metavar="ADDRESS", help="connect from this IP address")
    group.add_argument("--http1.1", dest="http1", action="store_true", help="do not offer HTTP/2")
    group.add_argument("--cacert", metavar="FILE", help="trust the authorities of this PEM file, not the system's")
    group.add_argument("--insecure", "-k", action="store_true", help="accept any certificate")
    group.add_argument(
        "--resolver", metavar="ADDR[:PORT]", nargs="?", const="",
        help="resolve names through this server, or recursively without an address",
    )
    group.add_argument(
        "--doh-url", metavar="URL", help="resolve names through this server of DNS over HTTPS only (RFC 8484)",
    )
    group.add_argument("--playground", action="store_true", help="resolve names in the simulated Internet")
    group.add_argument("--connect-timeout", metavar="S", type=float, help="give up connecting after S seconds")
    group.add_argument(
        "-m", "--max-time", metavar="S", type=float, default=float(HTTP_TOTAL_TIMEOUT),
        help="give up after S seconds (default %(default)g)",
    )


def targets(options: argparse.Namespace) -> list[Target]:
    """The URLs with their files.

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
    headers = [_header(text) for text in options.header]
    names = {name.lower() for name, _ in headers}
    arguments: dict[str, Any] = {}

    def add(name: str, value: str) -> None:
        if name.lower() not in names:
            headers.append((name, value))

    if options.user_agent is not None:
        add("User-Agent", options.user_agent)
    if options.data is not None:
        arguments["content"] = b"&".join(_data(text, "--data") for text in options.data)
        add("Content-Type", "application/x-www-form-urlencoded")
    elif options.json is not None:
        arguments["content"] = b"".join(_data(text, "--json") for text in options.json)
        add("Content-Type", "application/json")
        add("Accept", "application/json")
    elif options.form is not None:
        arguments["files"] = [_form(text) for text in options.form]
    if options.user is not None:
        arguments["auth"] = _credentials(options)
    return {
        "method": options.method or ("HEAD" if options.head else "POST" if given else "GET"),
        "headers": headers,
        **arguments,
    }


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"-H {text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


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
        raise UsageError(f"{where}: {error.strerror or error}") from error


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
        raise UsageError(f"-F {text}: No such file")
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
