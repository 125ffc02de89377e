"""``rdig +explain``: explains the resolution of a query, done here or through a given server.

Without a server, rdig resolves from the root and sees each step. The steps of a server are not visible, so its reply is
shown unchanged, and the chain of trust is validated here with all records fetched through that server, for comparison.
This module connects the parts and writes the output; `resolver.explain` produces its content. An output file that
cannot be written is a usage error.
"""

import dataclasses
import ipaddress
import os
import sys
from typing import TYPE_CHECKING

import corenet
from resolver.cli import grammar, output
from resolver.cli.ask import EXIT_NO_REPLY, ask_server, exit_code, resolve
from resolver.cli.query import NoReplyError
from resolver.upstream_address import PIN_PREFIX
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.api import Trace
    from resolver.explain import ServerReply
    from resolver.settings import Settings

__all__ = ["coloured", "run"]


def run(request: grammar.Request, settings: "Settings") -> int:
    """Resolve, explain, print or write, and return the exit code of `rdig`.

    Raises:
        NoReplyError: the server does not reply.
        grammar.UsageError: the output file cannot be written.
    """
    from resolver.api import ResolveTimeout

    if request.output is not None:
        _write(request.output, "")  # before the resolution, so that a wrong path fails at once
    server_reply, timed_out, report = None, False, None
    source = "by iteration in the playground" if request.playground else "by iteration"
    if request.server is not None:
        # The explanation needs signatures and NSID whether or not they are printed.
        report = corenet.run(ask_server(dataclasses.replace(request, dnssec=True, nsid=request.edns), request.server))
        server_reply = _reply_of(report, request.server, request.port)
        source = f"checked here, through {request.server} port {request.port}"
        settings = _through(settings, request)
    try:
        trace = corenet.run(resolve(request, settings))
    except ResolveTimeout as error:
        if error.trace is None:
            raise
        trace, timed_out = error.trace, True
    text = _render(request, dataclasses.replace(trace, source=source, server_reply=server_reply))
    if request.output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        _write(request.output, text)
    if timed_out:
        return EXIT_NO_REPLY
    if report is None:
        outcome = trace.answer.outcome
        report = output.Report(
            request.qname, request.qtype, request.qclass, outcome.rcode, 0, {c.ANSWER: outcome.answer}, "", 0.0
        )
    return exit_code(report)


def _through(settings: "Settings", request: grammar.Request) -> "Settings":
    """Settings that forward all queries to the server of `request` and validate all replies."""
    import socket

    from resolver.settings import ForwardZone, IterationSettings

    host = request.server
    assert host is not None
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        try:
            address = str(socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)[0][4][0])
        except OSError as error:
            raise NoReplyError(f"{host}: {error.strerror or error}") from None
    endpoint = f"[{address}]:{request.port}" if ":" in address else f"{address}:{request.port}"
    encryption = request.encryption
    if encryption is not None:
        identity = [encryption.name] if encryption.name else []
        identity += [PIN_PREFIX + pin for pin in encryption.pins]
        endpoint = f"{encryption.protocol}://{endpoint}{encryption.path}"
        endpoint += f"#{','.join(identity)}" if identity else ""
    zone = ForwardZone(".", (endpoint,), allow_unauthenticated=request.tls_insecure)
    iteration: IterationSettings = dataclasses.replace(
        settings.iteration,
        do_not_query_localhost=False,
        do_not_query_addresses=(),
        edns_buffer_size=request.bufsize,
        tcp_only=request.tcp or settings.iteration.tcp_only,
        tls_cert_bundle=request.tls_ca or settings.iteration.tls_cert_bundle,
    )
    return dataclasses.replace(settings, forward=(zone,), stub=(), iteration=iteration)


def _reply_of(report: output.Report, server: str, port: int) -> "ServerReply":
    """The reply of the server, for the explanation."""
    from resolver.explain import ServerReply

    return ServerReply(
        server, port, report.rcode, report.flags, report.milliseconds / 1000, report.octets or 0,
        report.source.rpartition(" ")[2], list(report.sections.get(c.ANSWER, ())), list(report.ede),
        list(report.notes),
    )  # fmt: skip


def _render(request: grammar.Request, trace: "Trace") -> str:
    if request.explain == "json":
        return trace.to_json(indent=2) + "\n"
    if request.explain == "html":
        return trace.to_html()
    if request.output is not None:
        return trace.to_text()
    encoding = (sys.stdout.encoding or "ascii").lower()
    return trace.to_text(colour=coloured(), unicode=encoding.startswith("utf"))


def coloured() -> bool:
    """Whether to print colours: standard output is a terminal, and NO_COLOR is not set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise grammar.UsageError(f"cannot write {path!r}: {error.strerror or error}") from None
