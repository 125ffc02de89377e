"""Performs the query of a command line of rdig, at one server or with the library, and computes the exit code.

Scripts rely on the exit codes, so one function decides them for both output forms. The library is imported only when
it is used, so that a query to a server starts fast.
"""

import secrets
from typing import TYPE_CHECKING

from resolver.cli import grammar, output
from resolver.cli.query import exchange
from resolver.limits import DIG_TIMEOUT, QUERY_PADDING_BLOCK
from resolver.upstream_address import QUIC
from resolver.wire import consts as c
from resolver.wire import edns as edns_codec
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from resolver.api import Trace
    from resolver.settings import Settings

__all__ = ["EXIT_EMPTY", "EXIT_FAILURE", "EXIT_FOUND", "EXIT_NO_REPLY", "ask_server", "exit_code", "resolve"]

EXIT_FOUND = 0
EXIT_EMPTY = 1
EXIT_FAILURE = 3
EXIT_NO_REPLY = 4
OPTION_HEAD = 4
EDE_CODE_SIZE = 2  # RFC 8914 section 2


def exit_code(report: output.Report) -> int:
    """The exit code: records found, no records, or failure."""
    if report.rcode in (c.NOERROR, c.NXDOMAIN):
        wanted = any(report.qtype in (rrset.rtype, c.ANY) for rrset in report.sections.get(c.ANSWER, ()))
        return EXIT_FOUND if wanted and report.rcode == c.NOERROR else EXIT_EMPTY
    return EXIT_FAILURE


async def ask_server(request: grammar.Request, server: str) -> output.Report:
    """Send the query to one server.

    Raises:
        NoReplyError: no usable reply.
    """
    flags = c.RD * request.rec | c.CD * request.cd | c.AD * request.edns
    identity = secrets.randbits(16)

    def query(options: list[tuple[int, bytes]]) -> bytes:
        return make_query(
            identity,
            request.qname,
            request.qtype,
            qclass=request.qclass,
            flags=flags,
            edns_payload=request.bufsize if request.edns else None,
            do=request.dnssec,
            options=options,
        )

    options = [(c.OPTION_NSID, b"")] if request.nsid else []
    packet = query(options)
    timeout = DIG_TIMEOUT.default if request.timeout is None else request.timeout
    encryption = request.encryption
    if encryption is None:
        got = await exchange(packet, server, request.port, tcp=request.tcp, timeout=timeout)
    else:
        if encryption.protocol == QUIC:
            from resolver.cli.quic import exchange_quic as exchange_over
        else:
            from resolver.cli.encrypted import exchange_encrypted as exchange_over

        if request.edns:
            fill = -(len(packet) + OPTION_HEAD) % QUERY_PADDING_BLOCK
            packet = query([*options, (c.OPTION_PADDING, bytes(fill))])
        got = await exchange_over(
            packet, server, request.port, encryption, cafile=request.tls_ca, timeout=timeout
        )
    view = got.view
    return output.Report(
        request.qname,
        request.qtype,
        request.qclass,
        view.rcode,
        view.flags,
        {c.ANSWER: view.answer, c.AUTHORITY: view.authority, c.ADDITIONAL: view.additional},
        f"{server} port {request.port} over {got.transport}",
        got.milliseconds,
        octets=got.octets,
        message_id=view.id,
        edns=_edns(view),
        ede=_ede(view),
        notes=got.notes,
        connection=got.connection,
    )


async def resolve(request: grammar.Request, settings: "Settings") -> "Trace":
    """Resolve iteratively with the library, in the playground if requested.

    Raises:
        ResolveTimeout: the requested timeout has passed.
    """
    from resolver import playground
    from resolver.api import Resolver

    world = await playground.start(port=0) if request.playground else None
    try:
        if world is not None:
            settings = world.settings(settings)
        async with Resolver(settings) as resolver:
            return await resolver.explain(
                names.to_text(request.qname), request.qtype, validate=not request.cd, timeout=request.timeout
            )
    finally:
        if world is not None:
            await world.close()


def _edns(view: MessageView) -> output.EdnsReport | None:
    edns = view.edns
    if edns is None:
        return None
    others = tuple((code, value) for code, value in edns.options if not _is_ede(code, value))
    return output.EdnsReport(edns.version, edns.payload, edns.do, others)


def _ede(view: MessageView) -> list[tuple[int, str]]:
    options = [] if view.edns is None else view.edns.options
    return [edns_codec.parse_ede(value) for code, value in options if _is_ede(code, value)]


def _is_ede(code: int, value: bytes) -> bool:
    """Whether the option is a complete Extended DNS Error. A shorter one is shown like an unknown option."""
    return code == c.OPTION_EDE and len(value) >= EDE_CODE_SIZE
