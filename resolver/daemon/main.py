"""resolverd: command line, configuration, and start of the single worker or the supervisor.

The daemon stays in the foreground; systemd or a container runtime starts and restarts it and stores its log.
`--check` and `--print-config` import nothing that serves. Serving imports dnspython and cryptography only when a query
needs them, so the start takes a fraction of a second. Each exit leaves a line in the log: a crash the stacks of all
threads, an exception its traceback; only SIGKILL leaves nothing. Exit status: 0 stopped by a signal, or --check or
--print-config succeeded; 1 the service could not start or failed; 2 the command line or the configuration is invalid.
"""

import argparse
import faulthandler
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from corenet._version import __version__
from resolver import limits
from resolver.daemon import stdout
from resolver.daemon.early_signals import hold_signals
from resolver.daemon.exit_status import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, print_problems
from resolver.daemon.upgrade_variable import UPGRADE_VARIABLE
from resolver.options import parse_endpoint
from resolver.settings import Settings, replace

if TYPE_CHECKING:
    import socket

    from resolver.daemon.management_sockets import ManagementSockets
    from resolver.daemon.predecessor import Predecessor
    from resolver.daemon.sockets import Endpoint
    from resolver.net.client_contexts import TlsContexts

__all__ = ["main"]

logger = logging.getLogger("resolver.daemon")


def _help_width() -> int:
    """Columns for help. argparse would import shutil and the compression modules to find them."""
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
        epilog="SIGTERM and SIGINT stop it; SIGHUP reloads the configuration and keeps the old one when the new one is"
        " invalid; SIGUSR1 writes all counters to the log; SIGUSR2 starts the installed version in place of this one."
        " Exit status: 0 stopped, or check passed; 1 cannot serve;"
        " 2 invalid command line or configuration.",
    )
    made.add_argument("-c", "--config", metavar="FILE", help="configuration in TOML; see --print-config")
    made.add_argument("--check", action="store_true", help="check the configuration and exit")
    made.add_argument(
        "--print-config", action="store_true", help="print the configuration with descriptions and exit"
    )
    made.add_argument(
        "--print-discovery",
        action="store_true",
        help="print how clients discover the listeners with TLS (RFC 9462, RFC 9463), and exit",
    )
    made.add_argument(
        "--print-unit",
        action="store_true",
        help="print a systemd unit with a sandbox for this configuration, and exit",
    )
    made.add_argument(
        "--listen", action="append", metavar="ADDR:PORT", help="serve this address, not server.listen; may be repeated"
    )
    made.add_argument("--port", type=int, metavar="N", help="serve all addresses on this port")
    made.add_argument("--workers", type=int, metavar="N", help="number of worker processes")
    made.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="lowest severity that is logged"
    )
    made.add_argument(
        "--playground",
        action="store_true",
        help="resolve in a small simulated Internet on loopback addresses, without a network",
    )
    made.add_argument("--show-example", action="store_true", help="resolve one name after the start and print it")
    made.add_argument("--version", action="version", version=f"resolverd {__version__}")
    return made


def load_settings(arguments: argparse.Namespace) -> Settings:
    """The settings of the file, overridden by the command line, at start and on reload.

    Raises:
        ConfigError: the file has errors.
        ValueError: an option is invalid.
    """
    settings = Settings()
    if arguments.config is not None:
        if not arguments.config:
            raise ValueError("--config: the name of the file is empty")
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
    settings = replace(settings, server=server, log=log)
    if arguments.config is not None:  # the built-in settings name no file
        from resolver.daemon import file_uses

        try:
            file_uses.check(settings, arguments.config)
        except ValueError as error:
            raise config.add_location(arguments.config, error) from None
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run resolverd and return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        predecessor = take_predecessor()
        try:
            settings = load_settings(arguments)
        except ValueError as error:
            _report_failure(predecessor, error)
            raise
    except ValueError as error:
        print_problems("", error)
        return EXIT_CONFIG
    if arguments.check:
        try:
            return check(arguments, settings)
        except ValueError as error:
            print_problems(arguments.config, error)
            return EXIT_CONFIG
    if arguments.print_config:
        from resolver.daemon import config_writer

        return _show(config_writer.render(settings))
    if arguments.print_discovery:
        from resolver.policy import describe, designations

        found = designations(settings)
        if not found:
            print("resolverd: nothing to announce: it needs a listener with TLS and tls.name", file=sys.stderr)
            return EXIT_CONFIG
        return _show(describe(found))
    if arguments.print_unit:
        from resolver.daemon import unit_file

        return _show(unit_file.render(settings, sys.argv[0], arguments.config))
    return run(arguments, settings, lambda: load_settings(arguments), predecessor)


def take_predecessor() -> "Predecessor | None":
    """The process that has started this one for an upgrade; None when it is started in the usual way.

    Raises:
        ValueError: the environment variable is malformed.
    """
    if UPGRADE_VARIABLE not in os.environ:
        return None
    from resolver.daemon.predecessor import Predecessor

    return Predecessor.take()


def check(arguments: argparse.Namespace, settings: Settings) -> int:
    """Compile all that a start compiles, so that each error of a start is found here.

    Raises:
        ValueError: a setting is invalid; the text names it.
    """
    from resolver.daemon import certificates, management_sockets, privileges

    settings.check_bindable()
    found = certificates.load(settings)
    if found is not None:
        for due in certificates.ExpiryWatch().due(found, int(time.time())):
            print(f"resolverd: {due.text}", file=sys.stderr)
    check_upstream_tls(settings)
    management_sockets.check_control(settings.control.socket)
    # A start does the rest when it has become this user.
    privileges.call_as(settings.server.user, lambda: check_as_user(settings))
    return _show(f"{arguments.config or 'built-in settings'}: configuration is valid\n")


def check_as_user(settings: Settings) -> None:
    """The part of `check` that needs the rights of the user of server.user.

    Raises:
        ValueError: a setting is invalid; the text names it.
    """
    from resolver import validate
    from resolver.daemon import cache_file, metrics, observation
    from resolver.daemon.config_reload import make_plan

    make_plan(settings)
    validate.create(settings)
    cache_file.check(settings.cache)
    observation.check_places(settings)
    if settings.balance:
        from resolver.daemon import balance_checks

        balance_checks.check(settings)
    if settings.metrics.listen:
        metrics.check()
    if settings.web.listen:
        from resolver.daemon import web_access

        web_access.WebAccess.load(settings.web)
    if settings.second_level_cache.servers:
        from resolver.net import second_level_setup

        second_level_setup.read_files(settings)
    if settings.dnssec.active and settings.dnssec.auto_trust_anchor_file:
        from resolver.daemon import autotrust

        autotrust.check(settings.dnssec)
    if settings.control.changes_file:
        from resolver.daemon import runtime_changes

        runtime_changes.check(settings.control.changes_file)
    if settings.own_zones:
        from resolver.daemon import zone_files

        zone_files.check_files(settings)


def check_upstream_tls(settings: Settings) -> "TlsContexts | None":
    """Make the TLS contexts of the encrypted servers of `settings`; None without any.

    Raises:
        ValueError: the file of authorities cannot be used; the text names the setting.
    """
    texts = [text for zone in settings.upstream_zones for text in zone.addresses]
    if not any("://" in text for text in (*texts, *(text for own in settings.own_zones for text in own.primaries))):
        return None
    from resolver.net.client_contexts import check

    return check(settings)


def run(
    arguments: argparse.Namespace, settings: Settings, reload: Callable[[], Settings],
    predecessor: "Predecessor | None" = None,
) -> int:
    """Open the sockets, or take those of `predecessor`, and serve until a signal stops it."""
    gc.disable()  # until it serves: modules loaded now stay, and scanning them repeatedly takes time
    interrupt = hold_signals()  # also when `entry` has not started this process
    try:
        return _serve(arguments, settings, reload, predecessor)
    finally:
        signal.signal(signal.SIGINT, interrupt)
        if predecessor is not None:
            predecessor.close()
        gc.enable()


def _serve(
    arguments: argparse.Namespace, settings: Settings, reload: Callable[[], Settings], predecessor: "Predecessor | None"
) -> int:
    from resolver.daemon import (
        certificates,
        log,
        management_sockets,
        observation,
        preflight,
        reload_sockets,
        resource_exhaustion,
        sockets,
        worker,
    )
    from resolver.daemon.service_manager import ServiceManager
    from resolver.daemon.worker_options import Options

    log.set_up(settings.log)
    install_fault_handlers()
    resource_exhaustion.install_unraisable_hook(settings.log.rate_limit_interval)
    resource_exhaustion.hold_memory_reserve()
    server = settings.server
    options = Options(
        playground=arguments.playground,
        show_example=arguments.show_example,
        config=arguments.config or "",
    )
    if server.workers > 1 and (options.playground or options.show_example):
        logger.warning("server.workers is reduced to 1, because --playground and --show-example run in one process")
        server = replace(server, workers=1)
        settings = replace(settings, server=server)
    try:
        options = replace(options, manager=ServiceManager.take(), predecessor=predecessor)
        preflight.raise_descriptor_limit()
        sockets.check_sources(settings.iteration)
        options = replace(
            options, certificates=certificates.load(settings), tls_contexts=check_upstream_tls(settings)
        )
        try:
            shares = _open_endpoints(settings, options.manager.sockets, predecessor)
        except sockets.ListenError as error:
            raise reload_sockets.with_setting(error, settings, options.config) from None
        try:
            opened = management_sockets.open_management_sockets(settings, server.workers, predecessor)
            options = replace(options, management=opened)
            try:
                _drop_root(server.user, opened)
                observation.check(settings)
                if server.workers == 1:
                    return worker.run(settings, shares[0], reload=reload, options=options)
                from resolver.daemon import supervisor

                return supervisor.run(settings, shares, reload=reload, options=options)
            finally:
                opened.close()
        finally:
            sockets.close_all(shares)
    except ValueError as error:
        print_problems(arguments.config, error)
        _report_failure(predecessor, error)
        return EXIT_CONFIG
    except OSError as error:
        trouble = _user_problem(server.user, error) or preflight.explain(error)
        logger.error("%s", trouble)
        _report_failure(predecessor, trouble)
        return EXIT_FAILED
    except Exception as error:
        if trouble := _user_problem(server.user, error):
            logger.error("%s", trouble)
        else:
            logger.critical("stopping after an unexpected exception; this is a bug", exc_info=True)
        _report_failure(predecessor, trouble or log.describe_unexpected(error))
        return EXIT_FAILED


def _report_failure(predecessor: "Predecessor | None", why: object) -> None:
    """Tell the old process of an upgrade why this one cannot serve."""
    if predecessor is not None:
        predecessor.fail("; ".join(str(why).splitlines()))


def _open_endpoints(
    settings: Settings, inherited: "list[socket.socket]", predecessor: "Predecessor | None"
) -> "list[list[Endpoint]]":
    """The endpoints of each worker: of the sockets that `predecessor` or the service manager has passed, the others
    opened here.

    Raises:
        ListenError: an address is not available, or an inherited socket belongs to none.
    """
    from resolver.daemon import sockets

    server = settings.server
    wanted = [listener.key for listener in settings.listeners]
    lenient = server.listen == Settings().server.listen
    if predecessor is not None:
        predecessor.receive()
        shares = predecessor.endpoints(wanted, server.workers)
    elif inherited:
        from resolver.daemon import activation

        shares = activation.adopt_endpoints(wanted, inherited, server.workers)
    else:
        return sockets.open_endpoints(
            wanted, freebind=settings.freebound, shares=server.workers, lanes=server.lanes, lenient=lenient
        )
    adopted = {endpoint.key for endpoint in shares[0]}
    rest = [key for key in wanted if key not in adopted]
    try:
        opened = sockets.open_endpoints(
            rest, freebind=settings.freebound, shares=server.workers, lanes=server.lanes, lenient=lenient,
            enough=bool(adopted),
        )
    except BaseException:
        sockets.close_all(shares)
        raise
    return [ours + theirs for ours, theirs in zip(shares, opened, strict=True)]


def _drop_root(name: str, opened: "ManagementSockets") -> None:
    """Become the user `name` if this process is root, and give it the control socket.

    Raises:
        ValueError: there is no such user.
        OSError: the system refuses.
    """
    from resolver.daemon import privileges

    user = privileges.find_user(name)
    if user is None:
        # Also after an upgrade, which the user of the old process has begun.
        if name and not privileges.is_user(name):
            logger.warning(
                "server.user: this process is not root, so it remains user %d and does not become %s: stop it, and"
                " start it as root or as that user", os.geteuid(), name,
            )
        return
    opened.give_to(user.pw_uid, user.pw_gid)
    privileges.drop_root(user)
    logger.info("running as user %s", name)


def _user_problem(name: str, error: Exception) -> str:
    """What to tell when `error` comes from the user of server.user, who cannot read the program; else ""."""
    if not name:
        return ""
    from resolver.daemon import privileges

    return privileges.explain(name, error)


def install_fault_handlers() -> None:
    """Make crashes print their stacks."""
    if sys.stderr is None:
        return  # no stream for the stacks
    # Crashes (SIGSEGV, SIGBUS, SIGABRT ...), and signals that end the process by default.
    faulthandler.enable()
    for number in (signal.SIGQUIT, signal.SIGXCPU):
        faulthandler.register(number, chain=True)


def _show(text: str) -> int:
    """Write `text` to standard output and return the exit status."""
    stdout.prepare("utf-8")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        stdout.discard()  # the reader has closed the pipe
    except OSError as error:
        stdout.discard()
        print(f"resolverd: cannot write {stdout.reason(error)}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK
