"""The command ``corenet``: fetches a URL; ``--trace`` prints the time of each step.

Only the body goes to standard output. Every failure is one sentence on standard error and one of curl's exit codes, so
that scripts for curl work with this command. Names are resolved by the system or, with ``--resolver`` and
``--playground``, by the factory registered through `corenet.http.resolver_plugins`.
"""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from corenet import tls
from corenet._version import __version__
from corenet.http.client import HttpClient, Timeout
from corenet.http.errors import (
    ConnectError,
    DecodeError,
    HttpError,
    InvalidUrl,
    LocalProtocolError,
    NameResolutionError,
    RedirectError,
    RemoteProtocolError,
    ResponseTooLarge,
    ServerDisconnected,
    TimeoutExceeded,
    TlsError,
)
from corenet.http.resolver_plugins import find_resolver
from corenet.http.response import StreamedResponse
from corenet.http.trace import Trace, TracePoint
from corenet.limits import HTTP_MAX_REDIRECTS, HTTP_TOTAL_TIMEOUT
from corenet.loop import new_event_loop

if TYPE_CHECKING:
    import ssl

__all__ = ["main"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# curl's exit codes; an error class comes before its base classes.
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InvalidUrl, 3),
    (NameResolutionError, 6),
    (TimeoutExceeded, 28),
    (ConnectError, 7),
    (RedirectError, 47),
    (ResponseTooLarge, 63),
    (DecodeError, 61),
    (LocalProtocolError, 2),
)
_USAGE, _WRITE, _TLS, _CERTIFICATE, _EMPTY, _PARTIAL, _PROTOCOL, _INTERRUPTED = 2, 23, 35, 60, 52, 18, 8, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; the entry point of the ``corenet`` script."""
    options = _parser().parse_args(arguments)
    return run(options, new_event_loop)


def run(options: argparse.Namespace, loop_factory: LoopFactory) -> int:
    """Run the parsed `options` on a loop made by `loop_factory`; returns the exit code."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(_fetch(options))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except HttpError as error:
        return _print_error(str(error), _exit_code(error))
    except BrokenPipeError:
        # The reader of our output has closed the pipe. /dev/null keeps the interpreter's last flush from failing too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _WRITE
    except _UsageError as error:
        return _print_error(str(error), _USAGE)
    except OSError as error:
        return _print_error(f"{error.filename or 'output'}: {error.strerror or error}", _WRITE)


def _print_error(message: str, code: int) -> int:
    print(f"corenet: {message}", file=sys.stderr)
    return code


def _exit_code(error: HttpError) -> int:
    if isinstance(error, TlsError):
        return _CERTIFICATE if error.certificate else _TLS
    for kind, code in _EXIT_CODES:
        if isinstance(error, kind):
            return code
    if isinstance(error, ServerDisconnected):
        return _PARTIAL if error.received else _EMPTY
    return _PROTOCOL if isinstance(error, RemoteProtocolError) else 1


class _UsageError(Exception):
    """The command line is wrong, or cannot be carried out."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="corenet", description="Fetch URLs over HTTP/1.1 and verified TLS.")
    parser.add_argument("--version", action="version", version=f"corenet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    get = commands.add_parser("get", help="fetch one URL", description="Fetch one URL; the body goes to stdout.")
    get.add_argument("url", metavar="URL")
    get.add_argument("-o", "--output", metavar="FILE", help="write the body to FILE")
    get.add_argument("-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], help="send this field")
    get.add_argument("-X", "--method", metavar="M", help="request method (default GET, or POST with --data)")
    get.add_argument("-d", "--data", metavar="D", help="request body, or @FILE to send a file, @- for stdin")
    get.add_argument("-i", "--include", action="store_true", help="write the response's head before the body")
    get.add_argument("-I", "--head", action="store_true", help="send HEAD and write the response's head")
    get.add_argument("-L", "--location", action="store_true", help="follow redirects (the default is to show them)")
    get.add_argument("-f", "--fail", action="store_true", help="exit with 22 when the status is 400 or above")
    get.add_argument("--cacert", metavar="FILE", help="trust the authorities in this PEM file instead of the system's")
    get.add_argument("--insecure", "-k", action="store_true", help="accept any certificate")
    get.add_argument(
        "--resolver",
        metavar="ADDR[:PORT]",
        nargs="?",
        const="",
        help="resolve names through this server, or recursively without an address",
    )
    get.add_argument(
        "--doh-url",
        metavar="URL",
        help="resolve names through this server of DNS over HTTPS only (RFC 8484)",
    )
    get.add_argument("--playground", action="store_true", help="resolve names in the simulated Internet")
    get.add_argument(
        "-m",
        "--max-time",
        metavar="S",
        type=float,
        default=float(HTTP_TOTAL_TIMEOUT),
        help="give up after S seconds (default %(default)g)",
    )
    get.add_argument("--trace", action="store_true", help="print each step with its time to stderr")
    return parser


# --- the request ------------------------------------------------------------------------------------------------------


async def _fetch(options: argparse.Namespace) -> int:
    if not options.max_time > 0:  # nor NaN
        raise _UsageError("--max-time must be more than 0 seconds")
    loop = asyncio.get_running_loop()
    began = loop.time()
    trace: Trace | None = _tracer(began) if options.trace else None
    method = options.method or ("HEAD" if options.head else "POST" if options.data is not None else "GET")
    headers = [_header(text) for text in options.header]
    body = None if options.data is None else _data(options.data)
    async with contextlib.AsyncExitStack() as stack:
        authority = options.cacert
        if options.resolver is not None or options.playground or options.doh_url is not None:
            named = await _use_resolver(stack, options, loop, trace)
            authority = authority or named
        client = await stack.enter_async_context(
            HttpClient(
                tls_context=_context(authority, insecure=options.insecure),
                timeout=Timeout(total=options.max_time),
                follow_redirects=HTTP_MAX_REDIRECTS.default if options.location else 0,
                trace=trace,
            )
        )
        response = await stack.enter_async_context(client.stream(method, options.url, headers=headers, body=body))
        with _output(options.output) as out:
            if options.include or options.head:
                out.write(_head(response))
            async for piece in response:
                out.write(piece)
                out.flush()
            out.flush()
        if trace is not None:
            print(f"{(loop.time() - began) * 1000:9.2f} ms  finished, status {response.status}", file=sys.stderr)
        if options.fail and response.status >= 400:
            return _print_error(f"the server answered {response.status} {response.reason}".rstrip(), 22)
    return 0


async def _use_resolver(
    stack: contextlib.AsyncExitStack,
    options: argparse.Namespace,
    loop: asyncio.AbstractEventLoop,
    trace: Trace | None,
) -> str | None:
    """Set the registered resolver on the loop; return the PEM file of its simulated world's authority, if any."""
    factory = find_resolver()
    install = getattr(loop, "set_resolver", None)
    if factory is None or install is None:
        raise _UsageError(
            "--resolver, --doh-url and --playground need a package that registers a resolver, and none is installed"
        )

    def step(reported: object) -> None:
        if trace is not None:
            kind, text = getattr(reported, "kind", "step"), getattr(reported, "text", reported)
            # The steps of a query may be reported when it has ended; then they carry their own times.
            trace(TracePoint("resolver", str(kind), getattr(reported, "time", loop.time()), {"what": str(text)}))

    option, argument = "--resolver", "playground" if options.playground else options.resolver
    if options.doh_url is not None:
        if options.playground or options.resolver is not None:
            raise _UsageError("--doh-url, --resolver and --playground exclude each other")
        option, argument = "--doh-url", f"doh-url {options.doh_url}"
    try:
        made = await stack.enter_async_context(factory(argument, step if trace is not None else None))
    except ValueError as error:
        raise _UsageError(f"{option} {options.doh_url or argument}: {error}") from error
    install(made)
    stack.callback(install, None)
    # Only a simulated world brings an authority of its own. A real resolver must never add a trusted authority.
    trust = getattr(made, "trust", None) if options.playground else None
    return None if trust is None else str(trust)


def _tracer(began: float) -> Trace:
    def print_point(point: TracePoint) -> None:
        print(f"{(point.time - began) * 1000:9.2f} ms  {point}", file=sys.stderr)

    return print_point


def _context(authority: str | None, *, insecure: bool) -> "ssl.SSLContext | None":
    if insecure:
        return tls.client_context(verify=False)
    if authority is None:
        return None
    try:
        # The user names this authority, and it is private; the strict profile is for public authorities.
        return tls.client_context(cafile=authority, strict=False)
    except OSError as error:
        raise _UsageError(f"--cacert {authority}: {error.strerror or error}") from error


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise _UsageError(f"-H {text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


def _data(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode()
    if text == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise _UsageError(f"--data {text}: {error.strerror or error}") from error


def _head(response: StreamedResponse) -> bytes:
    lines = [f"{response.http_version} {response.status} {response.reason}".rstrip()]
    lines += [f"{name}: {value}" for name, value in response.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[BinaryIO]:
    target = None if path == "-" else path
    if target is None and sys.stdout is None:
        target = os.devnull  # the command was started without a standard output (>&-)
    if target is None:
        yield sys.stdout.buffer
    else:
        with Path(target).open("wb") as file:
            yield file


if __name__ == "__main__":
    raise SystemExit(main())
