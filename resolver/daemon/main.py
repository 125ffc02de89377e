"""resolverd: arguments, configuration, and which kind of process this becomes.

The daemon stays in the foreground; starting, restarting and logging are a supervisor's business (systemd, a
container). What only looks at the configuration (`--check`, `--print-config`) imports nothing that serves, and what
serves imports neither dnspython nor cryptography before a query needs them, so a first answer is a fraction of a second
away. Whatever ends it leaves a line: a fault below Python its stacks, any other fault its traceback, SIGKILL alone
nothing. Exit status: 0 stopped by a signal or asked only to look; 1 the service could not start or broke; 2 the command
line or the configuration is wrong.
"""

import argparse
import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from corenet._version import __version__
from resolver import limits
from resolver.daemon import stdout
from resolver.options import parse_endpoint
from resolver.settings import Settings, replace

if TYPE_CHECKING:
    from resolver.daemon.config import ConfigError

__all__ = ["EXIT_CONFIG", "EXIT_FAILED", "EXIT_OK", "main"]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2

logger = logging.getLogger("resolver.daemon")


def _help_width() -> int:
    """Columns for help, as argparse takes them; it would import shutil and all compressions to learn them."""
    try:
        columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size().columns
    except (ValueError, OSError):
        columns = 0
    return (columns or 80) - 2


def parser() -> argparse.ArgumentParser:
    """The command line of resolverd."""
    made = argparse.ArgumentParser(
        prog="resolverd",
        formatter_class=partial(argparse.HelpFormatter, width=_help_width()),
        description="A validating recursive DNS resolver. Without a configuration file it serves this host on port"
        f" {limits.UNPRIVILEGED_PORT}. It stays in the foreground and logs to standard error.",
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
        "--print-discovery",
        action="store_true",
        help="print how clients discover the listeners with TLS (RFC 9462, RFC 9463), and exit",
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
    made.add_argument("--show-example", action="store_true", help="resolve one name after the start and show it")
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
    except ValueError as error:
        _print_problems("", error)
        return EXIT_CONFIG
    if arguments.check:
        try:
            return check(arguments, settings)
        except ValueError as error:
            _print_problems(arguments.config, error)
            return EXIT_CONFIG
    if arguments.print_config:
        from resolver.daemon import config

        return _show(config.render(settings))
    if arguments.print_discovery:
        from resolver.policy import describe, designations

        found = designations(settings)
        if not found:
            print("resolverd: nothing to announce: it needs a listener with TLS and tls.name", file=sys.stderr)
            return EXIT_CONFIG
        return _show(describe(found))
    return run(arguments, settings, lambda: load_settings(arguments))


def check(arguments: argparse.Namespace, settings: Settings) -> int:
    """Compile what is compiled at start, so that everything a start would refuse is refused here.

    Raises:
        ValueError: naming the setting that is wrong.
    """
    from resolver import validate
    from resolver.daemon import cache_file, certificates, metrics
    from resolver.daemon.config_reload import make_plan

    make_plan(settings)
    validate.create(settings)
    cache_file.check(settings.cache)
    certificates.load(settings)
    if settings.metrics.listen:
        metrics.check()
    if settings.dnssec.active and settings.dnssec.auto_trust_anchor_file:
        from resolver.daemon import autotrust

        autotrust.check(settings.dnssec)
    return _show(f"{arguments.config or 'built-in settings'}: configuration is good\n")


def run(arguments: argparse.Namespace, settings: Settings, reload: Callable[[], Settings]) -> int:
    """Open the sockets and serve until a signal says otherwise."""
    gc.disable()  # until it serves: what is loaded now stays, and looking through it again and again takes time
    try:
        return _serve(arguments, settings, reload)
    finally:
        gc.enable()


def _serve(arguments: argparse.Namespace, settings: Settings, reload: Callable[[], Settings]) -> int:
    from resolver.daemon import certificates, log, management_sockets, preflight, resource_exhaustion, sockets, worker

    log.set_up(settings.log)
    install_fault_handlers()
    resource_exhaustion.install_unraisable_hook(settings.log.interval)
    resource_exhaustion.hold_memory_reserve()
    server = settings.server
    options = worker.Options(
        playground=arguments.playground,
        show_example=arguments.show_example,
        config=arguments.config or "",
    )
    if server.workers > 1 and (options.playground or options.show_example):
        logger.warning("one worker is enough to look around: server.workers is taken as 1")
        server = replace(server, workers=1)
        settings = replace(settings, server=server)
    try:
        preflight.raise_descriptor_limit()
        sockets.check_sources(settings.iteration)
        options = replace(options, certificates=certificates.load(settings))
        shares = sockets.open_endpoints(
            [listener.key for listener in settings.listeners],
            shares=server.workers,
            lenient=server.listen == Settings().server.listen,
        )
        try:
            opened = management_sockets.open_management_sockets(settings, server.workers)
            options = replace(options, management=opened)
            try:
                if server.workers == 1:
                    return worker.run(settings, shares[0], reload=reload, options=options)
                from resolver.daemon import supervisor

                return supervisor.run(settings, shares, reload=reload, options=options)
            finally:
                opened.close()
        finally:
            sockets.close_all(shares)
    except ValueError as error:
        _print_problems(arguments.config, error)
        return EXIT_CONFIG
    except OSError as error:
        logger.error("%s", error.strerror or error)
        return EXIT_FAILED
    except Exception:
        logger.critical("ending on a fault of its own", exc_info=True)
        return EXIT_FAILED


def install_fault_handlers() -> None:
    """See to it that no end is silent, and that signals of people wait until somebody listens to them."""
    # SIGHUP and SIGUSR1 would kill a daemon that is still starting; the worker lets them in when it can hear them.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1))
    if sys.stderr is None:
        return  # nobody could read them
    # Crashes below Python (SIGSEGV, SIGBUS, SIGABRT ...), and signals that end a process and were not asked for.
    faulthandler.enable()
    for number in (signal.SIGQUIT, signal.SIGXCPU, signal.SIGUSR2):
        faulthandler.register(number, chain=True)


def _show(text: str) -> int:
    """Write `text` to standard output and return the exit status."""
    stdout.prepare()
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        stdout.discard()  # whoever read the output has seen enough
    except OSError as error:
        stdout.discard()
        print(f"resolverd: cannot write {stdout.reason(error)}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def _print_problems(path: str | None, error: "ValueError | ConfigError") -> None:
    """Write what is wrong, with its place in the file `path` if the settings came from one."""
    if path:
        from resolver.daemon import config

        error = config.add_location(path, error)
    for line in str(error).splitlines():
        print(f"resolverd: {line}", file=sys.stderr)
