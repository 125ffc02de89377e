"""The command ``corenet``: fetches URLs, one after the other or several at once.

Only bodies and the text of ``--write-out`` go to standard output. Every failure is one sentence on standard error and
one of curl's exit codes, so that scripts for curl work with this command. Names are resolved by the system or, with
``--resolver`` and ``--playground``, by the factory registered through `corenet.http.resolver_plugins`.
"""

import argparse
import asyncio
import contextlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from corenet import tls
from corenet.http.cli_options import Target, UsageError, parse, removed_fields, request_of, targets
from corenet.http.cli_output import (
    Progress,
    RangeError,
    Transfer,
    body_file,
    continue_from,
    expand,
    head_of,
    printable,
    rest_of,
)
from corenet.http.cli_trace import Recorder
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
from corenet.http.proxies import Proxies
from corenet.http.resolver_plugins import find_resolver
from corenet.http.response import StreamedResponse
from corenet.http.retries import Retries
from corenet.http.trace import Trace, TracePoint
from corenet.limits import HTTP_CLI_PROGRESS_INTERVAL
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
_RANGE = 33


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; the entry point of the ``corenet`` script."""
    options = parse(arguments)
    return run(options, new_event_loop)


def run(options: argparse.Namespace, loop_factory: LoopFactory) -> int:
    """Run the parsed `options` on a loop made by `loop_factory`; returns the exit code."""
    try:
        # Before the loop runs: it would keep an interrupt from ending the wait for a password or the standard input.
        wanted, request = targets(options), request_of(options)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(_fetch(options, wanted, request))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except HttpError as error:
        return _print_error(str(error), _exit_code(error))
    except BrokenPipeError:
        # The reader of our output has closed the pipe. /dev/null keeps the interpreter's last flush from failing too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _WRITE
    except UsageError as error:
        return _print_error(str(error), error.code)
    except OSError as error:
        return _print_error(f"{error.filename or 'output'}: {error.strerror or error}", _WRITE)


def _print_error(message: str, code: int) -> int:
    if sys.stderr is not None:  # else `print` would write among the bodies
        print(f"corenet: {printable(message)}", file=sys.stderr)
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


# --- the transfers ----------------------------------------------------------------------------------------------------


async def _fetch(options: argparse.Namespace, wanted: list[Target], request: dict[str, Any]) -> int:
    """Fetch all URLs; return 0, or the exit code of the first one that failed."""
    for name in ("max_time", "connect_timeout"):
        seconds = getattr(options, name)
        if seconds is not None and not seconds > 0:  # nor NaN
            raise UsageError(f"--{name.replace('_', '-')} must be more than 0 seconds")
    loop = asyncio.get_running_loop()
    began = loop.time()
    transfers = [Transfer(target, number, request["method"]) for number, target in enumerate(wanted)]
    if options.write_out is not None:
        expand(options.write_out, transfers[0])  # an unknown variable is found before anything is sent
    trace = _trace(options, began)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(await _client(stack, options, trace))
        progress = Progress(len(wanted)) if _shows_progress(options, wanted) else None
        run = _Run(client, options, request, progress)
        if options.dump_header is not None:
            path = None if options.dump_header == "-" else Path(options.dump_header)
            run.heads = stack.enter_context(body_file(path, 0))
        if options.parallel:
            slots = asyncio.Semaphore(options.parallel_max)

            async def one(transfer: Transfer) -> None:
                async with slots:
                    await run.transfer(transfer)

            try:
                async with asyncio.TaskGroup() as group:
                    for transfer in transfers:
                        group.create_task(one(transfer))
            except BaseExceptionGroup as failed:
                # The output cannot be written, and that ends the command. One reason is enough for `run`.
                raise failed.exceptions[0] from None
        else:
            for transfer in transfers:
                await run.transfer(transfer)
        if progress is not None:
            print(file=sys.stderr)
        if trace is not None:
            trace.finish(loop.time(), [(transfer.target.url, _result(transfer)) for transfer in transfers])
    return next((transfer.code for transfer in transfers if transfer.code), 0)


def _result(transfer: Transfer) -> str:
    """How a transfer ended, in words that begin with its status."""
    response = transfer.response
    if response is None:
        return f"none, exit code {transfer.code}"
    redirects = f", {len(response.history)} redirects" if response.history else ""
    return (
        f"{response.status} {response.reason}".rstrip()
        + f", {response.http_version}, {transfer.size} bytes, {transfer.seconds * 1000:.1f} ms{redirects}"
        + (f", exit code {transfer.code}" if transfer.code else "")
    )


class _Run:
    """One run of the command: fetches a URL after the other, or several at once."""

    def __init__(
        self, client: HttpClient, options: argparse.Namespace, request: dict[str, Any], progress: Progress | None
    ) -> None:
        self.client = client
        self.options = options
        self.request = request
        self.progress = progress
        # What --dump-header writes to.
        self.heads: BinaryIO | None = None
        self.shown = -1.0

    async def transfer(self, transfer: Transfer) -> None:
        """Fetch one URL. Errors are printed and set `transfer.code`; the other URLs are not affected."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            transfer.code = await self._receive(transfer)
        except HttpError as error:
            transfer.code = self._failed(transfer, str(error), _exit_code(error))
        except RangeError as error:
            transfer.code = self._failed(transfer, str(error), _RANGE)
        except ValueError as error:
            transfer.code = self._failed(transfer, str(error), _USAGE)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = error.filename or transfer.target.path or "standard output"
            message = f"{where}: {error.strerror or error}"
            transfer.code = self._failed(transfer, message, _WRITE)
        transfer.seconds = loop.time() - began
        if self.progress is not None:
            self.progress.end()
            self._show(loop.time(), last=True)
        if self.options.write_out is not None and sys.stdout is not None:
            sys.stdout.buffer.write(expand(self.options.write_out, transfer).encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()

    def _failed(self, transfer: Transfer, message: str, code: int) -> int:
        if self.options.silent and not self.options.show_error:
            return code
        return _print_error(message if len(self.options.url) == 1 else f"{transfer.target.url}: {message}", code)

    async def _receive(self, transfer: Transfer) -> int:
        target, options = transfer.target, self.options
        offset = continue_from(target, options.continue_at)
        request = dict(self.request)
        if offset:
            request["headers"] = [*request["headers"], ("Range", f"bytes={offset}-"), ("Accept-Encoding", "identity")]
        async with self.client.stream(url=target.url, **request) as response:
            transfer.response = response
            rest = rest_of(response.status, response.headers, offset) if offset else math.inf
            if rest is None:
                return 0
            failed = response.status >= 400 and (options.fail or options.fail_with_body)
            heads = b"".join(head_of(one) for one in response.history) + head_of(response)
            if self.heads is not None:
                self.heads.write(heads)
                self.heads.flush()
            if not failed or options.fail_with_body:
                with body_file(target.path, offset) as out:
                    if (options.include or options.head) and not offset:
                        out.write(heads)
                    await self._body(transfer, response, out, offset, rest)
            if failed:
                return self._failed(transfer, f"the server answered {response.status} {response.reason}".rstrip(), 22)
        return 0

    async def _body(
        self, transfer: Transfer, response: StreamedResponse, out: BinaryIO, offset: int, rest: float
    ) -> None:
        """Write the body, which continues a file at `offset` with `rest` bytes, `math.inf` when it is a whole one.

        Raises:
            RangeError: the body has another number of bytes; those that are too many are not written.
        """
        loop = asyncio.get_running_loop()
        if self.progress is not None:
            self.progress.begin(loop.time(), _length(response, offset), offset)
        async for piece in response:
            if transfer.size + len(piece) > rest:
                raise RangeError(f"the server sent more than the {rest} bytes of its Content-Range")
            out.write(piece)
            if transfer.target.path is None:
                out.flush()
            transfer.size += len(piece)
            if self.progress is not None:
                self.progress.advance(len(piece))
                self._show(loop.time())
        out.flush()
        if offset and transfer.size != rest:
            raise RangeError(f"the server sent {transfer.size} of the {rest} bytes of its Content-Range")

    def _show(self, now: float, *, last: bool = False) -> None:
        """Show the progress, not more often than an eye can follow."""
        if self.progress is not None and (last or now - self.shown >= HTTP_CLI_PROGRESS_INTERVAL / 1000):
            self.shown = now
            # Blanks cover the line before, on any terminal. A longer line than the terminal's would begin a new one.
            columns = shutil.get_terminal_size().columns - 1
            print(f"\r{self.progress.line(now)[:columns]:{columns}}", end="", file=sys.stderr, flush=True)


def _length(response: StreamedResponse, offset: int) -> int | None:
    """The size of the file, None when the server does not say it."""
    length = response.headers.get("content-length", "")
    coded = "content-encoding" in response.headers
    return int(length) + offset if length.isascii() and length.isdigit() and not coded else None


def _shows_progress(options: argparse.Namespace, wanted: list[Target]) -> bool:
    """A progress line is for a person at a terminal, and never between the lines of a body or of a trace."""
    return (
        not options.silent
        and not options.no_progress_meter
        and not options.trace
        and sys.stderr is not None
        and sys.stderr.isatty()
        and all(target.path is not None for target in wanted)
    )


def _trace(options: argparse.Namespace, began: float) -> Recorder | None:
    if options.trace_format is not None or options.trace_output is not None:
        options.trace = True
    if not options.trace:
        return None
    if options.parallel:
        raise UsageError("--trace and --parallel exclude each other: parallel steps cannot be distinguished")
    return Recorder(options.trace_format or "text", options.trace_output, began)


async def _client(
    stack: contextlib.AsyncExitStack, options: argparse.Namespace, trace: Recorder | None
) -> HttpClient:
    authority = options.cacert
    if options.resolver is not None or options.playground or options.doh_url is not None:
        named = await _use_resolver(stack, options, asyncio.get_running_loop(), trace)
        authority = authority or named
    elif options.https_records or options.dane:
        raise UsageError("--https-records and --dane need --resolver, --doh-url or --playground")
    if options.noproxy is not None and options.proxy is None:
        raise UsageError("--noproxy needs --proxy; the environment has NO_PROXY")
    timeout = Timeout(total=options.max_time)
    if options.connect_timeout is not None:
        timeout = replace(timeout, connect=options.connect_timeout)
    try:
        proxy = None if options.proxy is None else Proxies(
            http=options.proxy, https=options.proxy, no_proxy=options.noproxy or ""
        )
        return HttpClient(
            tls_context=_context(options, authority),
            http2=not options.http1,
            timeout=timeout,
            headers=None if removed_fields(options) else (),
            follow_redirects=options.max_redirs if options.location else 0,
            trace=trace,
            # A range selects bytes of the coded form, of which a part cannot be decoded (RFC 9110 section 14.2).
            decode=options.continue_at is None and (options.range is None or options.compressed),
            proxy=proxy,
            trust_env=proxy is None and options.unix_socket is None,
            unix_socket=options.unix_socket,
            local_address=options.interface,
            retries=Retries(options.retry) if options.retry else None,
            https_records=options.https_records,
            dane=options.dane,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


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
        raise UsageError(
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
            raise UsageError("--doh-url, --resolver and --playground exclude each other")
        option, argument = "--doh-url", f"doh-url {options.doh_url}"
    try:
        made = await stack.enter_async_context(factory(argument, step if trace is not None else None))
    except ValueError as error:
        raise UsageError(f"{option} {options.doh_url or argument}: {error}") from error
    install(made)
    stack.callback(install, None)
    # Only a simulated world has its own authority. A real resolver must never add a trusted authority.
    trust = getattr(made, "trust", None) if options.playground else None
    return None if trust is None else str(trust)


def _context(options: argparse.Namespace, authority: str | None) -> "ssl.SSLContext | None":
    certificate = options.cert
    if options.key is not None and certificate is None:
        raise UsageError("--key needs --cert")
    if not options.insecure and authority is None and certificate is None:
        return None
    alpn = tls.ALPN_HTTP1 if options.http1 else tls.ALPN_HTTP2
    try:
        # The user names this authority, and it is private; the strict profile is for public authorities.
        return tls.client_context(
            cafile=authority,
            strict=authority is None,
            verify=not options.insecure,
            certificate=certificate,
            key=options.key,
            alpn=alpn,
        )
    except OSError as error:
        given = [f"--{name} {value}" for name, value in
                 (("cacert", authority), ("cert", certificate), ("key", options.key)) if value is not None]
        raise UsageError(f"{', '.join(given)}: {error.strerror or error}") from error


if __name__ == "__main__":
    raise SystemExit(main())
