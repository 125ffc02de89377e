"""rdig: queries a name server, or resolves a name itself and explains each step.

This module connects `grammar`, `ask` and `output` and turns every error into an exit code; `ask.exit_code` decides that
of a result. With ``@server`` the resolver library is not imported, because a tool for debugging resolution should start
fast and depend on little.
"""

import dataclasses
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import corenet
from resolver.cli import grammar, output
from resolver.cli.ask import EXIT_EMPTY, EXIT_FAILURE, EXIT_FOUND, EXIT_NO_REPLY, ask_server, exit_code, resolve
from resolver.cli.query import NoReplyError
from resolver.daemon import stdout
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.api import Trace
    from resolver.settings import Settings

__all__ = ["EXIT_EMPTY", "EXIT_FAILURE", "EXIT_FOUND", "EXIT_INTERNAL", "EXIT_NO_REPLY", "EXIT_USAGE", "main"]

EXIT_USAGE = 2
EXIT_INTERNAL = 10


def main(words: Sequence[str] | None = None) -> int:
    """Run rdig with the arguments `words` (default: those of the process) and return its exit code."""
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
        print(f"rdig: {error}\nsee rdig --help", file=sys.stderr)
        return EXIT_USAGE
    except (NoReplyError, KeyboardInterrupt) as error:
        print(f"rdig: {str(error) or 'interrupted'}", file=sys.stderr)
        return EXIT_NO_REPLY
    except BrokenPipeError:
        stdout.discard()  # the reader has closed the pipe
        return EXIT_FOUND
    except OSError as error:
        stdout.discard()
        print(f"rdig: {stdout.reason(error)}", file=sys.stderr)
        return EXIT_INTERNAL
    except Exception:  # noqa: BLE001  Python's exit code for an exception, 1, means "no records" here
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
        from resolver.api import ResolveTimeout

        settings = _settings(request)
        try:
            trace = corenet.run(resolve(request, settings))
        except ResolveTimeout as error:
            raise NoReplyError(str(error))
        report = _report_of(request, settings, trace)
    _print(request, report, trace)
    return exit_code(report)


def _report_of(request: grammar.Request, settings: "Settings", trace: "Trace") -> output.Report:
    """The result of the library as a report."""
    outcome = trace.answer.outcome
    return output.Report(
        request.qname,
        request.qtype,
        request.qclass,
        outcome.rcode,
        0,
        {c.ANSWER: outcome.answer, c.AUTHORITY: outcome.authority, c.ADDITIONAL: outcome.additional},
        "iteration in the playground" if request.playground else "iteration",
        trace.seconds * 1000,
        ede=outcome.ede,
        verdict=trace.answer.verdict.name.lower() if settings.dnssec.active else None,
    )


# --- helpers --------------------------------------------------------------------------------------------------------


class _ConfigurationError(Exception):
    """The file given with --config cannot be used; the message has a line for each error."""


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
    iteration = dataclasses.replace(settings.iteration, edns_buffer_size=request.bufsize)
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


if __name__ == "__main__":
    sys.exit(main())
