"""resolverd: arguments, configuration, and which kind of process this becomes.

The daemon stays in the foreground; starting, restarting and logging are a supervisor's business (systemd, a
container). What only looks at the configuration (`--check`, `--print-config`) imports nothing that serves, and what
serves imports neither dnspython nor cryptography before a query needs them, so a first answer is a fraction of a second
away. Exit status: 0 stopped by a signal or asked only to look; 1 the service could not start or broke; 2 the command
line or the configuration is wrong.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from corenet._version import __version__
from resolver import limits
from resolver.settings import Settings, parse_endpoint, replace

if TYPE_CHECKING:
    from resolver.daemon.config import ConfigError

__all__ = ["EXIT_CONFIG", "EXIT_FAILED", "EXIT_OK", "main"]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2

logger = logging.getLogger("resolver.daemon")


def parser() -> argparse.ArgumentParser:
    """The command line of resolverd."""
    made = argparse.ArgumentParser(
        prog="resolverd",
        description="A validating recursive DNS resolver. Without a configuration file it serves this host on port"
        f" {limits.UNPRIVILEGED_PORT.default}. It stays in the foreground and logs to standard error.",
        epilog="SIGTERM and SIGINT stop it; SIGHUP reads the configuration again and keeps the old one when the new one"
        " is wrong; SIGUSR1 writes all counters to the log. Exit status: 0 stopped or only looked, 1 could not serve,"
        " 2 wrong command line or configuration.",
    )
    made.add_argument("-c", "--config", metavar="FILE", help="configuration in TOML; see --print-config")
    made.add_argument("--check", action="store_true", help="say whether the configuration is good, and exit")
    made.add_argument(
        "--print-config", action="store_true", help="print the configuration in force, explained, and exit"
    )
    made.add_argument(
        "--listen", action="append", metavar="ADDR:PORT", help="serve this address instead; may be repeated"
    )
    made.add_argument("--port", type=int, metavar="N", help="serve the addresses on this port instead")
    made.add_argument("--workers", type=int, metavar="N", help="number of processes")
    made.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="least important message shown"
    )
    made.add_argument(
        "--playground",
        action="store_true",
        help="resolve in a small simulated Internet on loopback addresses; needs no network",
    )
    made.add_argument("--show-first-answer", action="store_true", help="resolve one name after the start and show it")
    made.add_argument("--version", action="version", version=f"resolverd {__version__}")
    return made


def load_settings(arguments: argparse.Namespace) -> Settings:
    """The settings that file and command line give together.

    Raises:
        ConfigError: the file is wrong.
        ValueError: an option is.
    """
    settings = Settings()
    if arguments.config:
        from resolver.daemon import config

        settings = config.load(arguments.config)
    server = settings.server
    if arguments.listen:
        server = replace(server, listen=tuple(arguments.listen))
    if arguments.port is not None:
        hosts = [parse_endpoint(text, 53, "--listen")[0] for text in server.listen]
        server = replace(
            server,
            listen=tuple(f"[{host}]:{arguments.port}" if ":" in host else f"{host}:{arguments.port}" for host in hosts),
        )
    if arguments.workers is not None:
        server = replace(server, workers=arguments.workers)
    log = replace(settings.log, level=arguments.log_level) if arguments.log_level else settings.log
    return replace(settings, server=server, log=log)


def main(argv: Sequence[str] | None = None) -> int:
    """Run resolverd and return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        settings = load_settings(arguments)
        if arguments.check:
            return check(arguments, settings)
    except ValueError as error:
        _print_problems(error)
        return EXIT_CONFIG
    if arguments.print_config:
        from resolver.daemon import config

        sys.stdout.write(config.render(settings))
        return EXIT_OK
    return run(arguments, settings, lambda: load_settings(arguments))


def check(arguments: argparse.Namespace, settings: Settings) -> int:
    """Compile what is compiled at start, so that everything a start would refuse is refused here.

    Raises:
        ValueError: naming the setting that is wrong.
    """
    from resolver import validate
    from resolver.daemon.worker import make_plan

    make_plan(settings)
    validate.create(settings)
    if settings.dnssec.active and settings.dnssec.auto_trust_anchor_file:
        from resolver.daemon import rollover

        rollover.check(settings.dnssec)
    print(f"{arguments.config or 'built-in settings'}: configuration is good")
    return EXIT_OK


def run(arguments: argparse.Namespace, settings: Settings, reload: Callable[[], Settings]) -> int:
    """Open the sockets and serve until a signal says otherwise."""
    from resolver.daemon import doors, log, sockets, supervisor, worker

    log.set_up(settings.log)
    server = settings.server
    options = worker.Options(
        playground=arguments.playground,
        show_first_answer=arguments.show_first_answer,
        configured=arguments.config is not None,
    )
    if server.workers > 1 and (options.playground or options.show_first_answer):
        logger.warning("one worker is enough to look around: server.workers is taken as 1")
        server = replace(server, workers=1)
        settings = replace(settings, server=server)
    try:
        worker.raise_descriptor_limit()
        shares = sockets.open_endpoints(
            server.endpoints, shares=server.workers, lenient=server.listen == Settings().server.listen
        )
        try:
            opened = doors.open_doors(settings, server.workers)
            options = replace(options, doors=opened)
            try:
                if server.workers == 1:
                    return worker.run(settings, shares[0], reload=reload, options=options)
                return supervisor.run(settings, shares, reload=reload, options=options)
            finally:
                opened.close()
        finally:
            sockets.close_all(shares)
    except ValueError as error:
        _print_problems(error)
        return EXIT_CONFIG
    except OSError as error:
        logger.error("%s", error.strerror or error)
        return EXIT_FAILED


def _print_problems(error: "ValueError | ConfigError") -> None:
    for line in str(error).splitlines():
        print(f"resolverd: {line}", file=sys.stderr)
