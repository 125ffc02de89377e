"""rdig: ask a name server, or resolve by oneself and explain every step.

The rule kept here: this file joins the parts (grammar, query, output, the library) and decides the exit code; scripts
may rely on it, so that code stands in one function. With ``@server`` the resolver library is not even imported,
because a tool that is used to find out why resolving fails should start quickly and depend on little.
"""

import dataclasses
import secrets
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import corenet
from resolver.cli import grammar, output
from resolver.cli.query import NoReplyError, exchange
from resolver.daemon import stdout
from resolver.limits import DIG_TIMEOUT
from resolver.wire import consts as c
from resolver.wire import edns as edns_room
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from resolver.api import Trace
    from resolver.settings import Settings

__all__ = ["EXIT_EMPTY", "EXIT_FAILURE", "EXIT_FOUND", "EXIT_INTERNAL", "EXIT_NO_REPLY", "EXIT_USAGE", "main"]

EXIT_FOUND = 0
EXIT_EMPTY = 1
EXIT_USAGE = 2
EXIT_FAILURE = 3
EXIT_NO_REPLY = 4
EXIT_INTERNAL = 10
EDE_CODE_SIZE = 2  # RFC 8914 section 2


def main(words: Sequence[str] | None = None) -> int:
    """Run the tool with `words` (the process's own by default) and return its exit code."""
    stdout.prepare()
    try:
        status = _run(sys.argv[1:] if words is None else words)
        sys.stdout.flush()
        return status
    except _ConfigurationError as error:
        for line in str(error).splitlines():
            print(f"rdig: {line}", file=sys.stderr)
        return EXIT_USAGE
    except grammar.UsageError as error:
        print(f"rdig: {error}\nrdig --help shows how it is used", file=sys.stderr)
        return EXIT_USAGE
    except (NoReplyError, KeyboardInterrupt) as error:
        print(f"rdig: {str(error) or 'interrupted'}", file=sys.stderr)
        return EXIT_NO_REPLY
    except BrokenPipeError:
        stdout.discard()  # whoever read the output has seen enough
        return EXIT_FOUND
    except OSError as error:
        stdout.discard()
        print(f"rdig: {stdout.reason(error)}", file=sys.stderr)
        return EXIT_INTERNAL
    except Exception:  # noqa: BLE001  the interpreter's own exit code for a fault, 1, means "no such name" here
        traceback.print_exc()
        return EXIT_INTERNAL


def _run(words: Sequence[str]) -> int:
    request = grammar.parse(words)
    if request.help:
        sys.stdout.write(grammar.HELP)
        return EXIT_FOUND
    if request.version:
        print(f"rdig {corenet.__version__}")
        return EXIT_FOUND
    if request.explain is not None:
        from resolver.cli import explain

        return explain.run(request, _settings(request))
    if request.server is not None:
        report, trace = corenet.run(ask_server(request, request.server)), None
    else:
        settings = _settings(request)
        report, trace = corenet.run(resolve(request, settings))
    _print(request, report, trace)
    return exit_code(report)


def exit_code(report: output.Report) -> int:
    """What a script gets to know: records, none, or a failure."""
    if report.rcode in (c.NOERROR, c.NXDOMAIN):
        wanted = any(report.qtype in (rrset.rtype, c.ANY) for rrset in report.sections.get(c.ANSWER, ()))
        return EXIT_FOUND if wanted and report.rcode == c.NOERROR else EXIT_EMPTY
    return EXIT_FAILURE


async def ask_server(request: grammar.Request, server: str) -> output.Report:
    """Ask one server once.

    Raises:
        NoReplyError: when nothing usable came back.
    """
    flags = c.RD * request.rec | c.CD * request.cd | c.AD * request.edns
    options = [(c.OPTION_NSID, b"")] if request.nsid else []
    packet = make_query(
        secrets.randbits(16),
        request.qname,
        request.qtype,
        qclass=request.qclass,
        flags=flags,
        edns_payload=request.bufsize if request.edns else None,
        do=request.dnssec,
        options=options,
    )
    patience = DIG_TIMEOUT.default if request.timeout is None else request.timeout
    got = await exchange(packet, server, request.port, tcp=request.tcp, timeout=patience)
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
    )


async def resolve(request: grammar.Request, settings: "Settings") -> tuple[output.Report, "Trace"]:
    """Resolve by iteration with the library, within the playground when that was asked for.

    Raises:
        NoReplyError: when the time that was given is over.
    """
    from resolver import playground
    from resolver.api import Resolver
    from resolver.errors import ResolveTimeout

    world = await playground.start(port=0) if request.playground else None
    try:
        if world is not None:
            settings = world.settings(settings)
        async with Resolver(settings) as resolver:
            began = time.monotonic()
            trace = await resolver.explain(
                names.to_text(request.qname), request.qtype, validate=not request.cd, timeout=request.timeout
            )
            elapsed = (time.monotonic() - began) * 1000
    except ResolveTimeout as error:
        raise NoReplyError(str(error))
    finally:
        if world is not None:
            await world.close()
    outcome = trace.answer.outcome
    report = output.Report(
        request.qname,
        request.qtype,
        request.qclass,
        outcome.rcode,
        0,
        {c.ANSWER: outcome.answer, c.AUTHORITY: outcome.authority, c.ADDITIONAL: outcome.additional},
        "iteration in the playground" if request.playground else "iteration",
        elapsed,
        ede=outcome.ede,
        verdict=trace.answer.verdict.name.lower() if settings.dnssec.active else None,
    )
    return report, trace


# --- helpers --------------------------------------------------------------------------------------------------------


class _ConfigurationError(Exception):
    """The file given with --config cannot be used; the message has a line for each fault."""


def _settings(request: grammar.Request) -> "Settings":
    from resolver.settings import Settings

    if request.config is None:
        settings = Settings()
    else:
        from resolver.daemon.config import ConfigError, load

        try:
            settings = load(request.config)
        except (ConfigError, OSError) as error:
            raise _ConfigurationError(str(error))
    iteration = dataclasses.replace(settings.iteration, edns_payload=request.bufsize)
    return dataclasses.replace(settings, iteration=iteration)


def _print(request: grammar.Request, report: output.Report, trace: "Trace | None") -> None:
    shown = trace if request.trace else None
    if request.json:
        print(output.to_json(report, signatures=request.dnssec, steps=shown))
        return
    if shown is not None:
        sys.stdout.write(output.trace_text(shown))
    if request.short:
        sys.stdout.write(output.short_text(report))
        for code, text in report.ede:
            print(f"rdig: {output.ede_sentence(code, text)}", file=sys.stderr)
    else:
        sys.stdout.write(output.long_text(report, signatures=request.dnssec))


def _edns(view: MessageView) -> output.EdnsReport | None:
    edns = view.edns
    if edns is None:
        return None
    others = tuple((code, value) for code, value in edns.options if not _is_ede(code, value))
    return output.EdnsReport(edns.version, edns.payload, edns.do, others)


def _ede(view: MessageView) -> list[tuple[int, str]]:
    options = [] if view.edns is None else view.edns.options
    return [edns_room.parse_ede(value) for code, value in options if _is_ede(code, value)]


def _is_ede(code: int, value: bytes) -> bool:
    """Whether it is a whole Extended DNS Error; one without its two octets of code is shown as any other option."""
    return code == c.OPTION_EDE and len(value) >= EDE_CODE_SIZE


if __name__ == "__main__":
    sys.exit(main())
