"""resolverctl: sends commands to a running resolverd over its control socket.

It uses only the protocol of the socket (a line of JSON as request, lines of JSON as reply), so it starts fast and works
with a daemon of another version. Exit status: 0 done; 1 the daemon reports an error or is not healthy; 2 the command
line is invalid; 3 the daemon cannot be reached.
"""

import argparse
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from corenet._version import __version__
from resolver import limits
from resolver.cli import top
from resolver.daemon import stdout

__all__ = ["EXIT_DONE", "EXIT_REFUSED", "EXIT_UNREACHABLE", "EXIT_USAGE", "main"]

EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3

VARIABLE = "RESOLVERD_SOCKET"
REPLY = limits.CONTROL_REPLY
TIMEOUT = limits.RESOLVERCTL_TIMEOUT
CHANGES = {
    "nta": "negative trust anchors", "forward": "forward zones", "stub": "stub zones", "local-data": "local records",
}
"""What can be changed at run time: command and what it is about."""


class _UnreachableError(Exception):
    """The daemon does not reply, or the reply is not of this protocol."""


class _RefusedError(Exception):
    """The daemon reports an error."""


def parser() -> argparse.ArgumentParser:
    """The command line of resolverctl."""
    made = argparse.ArgumentParser(
        prog="resolverctl",
        description="Control a running resolverd. It listens when control.socket is set in its configuration.",
        epilog="Exit status: 0 done, 1 the daemon reports an error or is not healthy,"
        " 2 invalid command line, 3 daemon not reached.",
    )
    made.add_argument(
        "-s", "--socket", metavar="PATH", default=os.environ.get(VARIABLE),
        help=f"control socket of the daemon (default: environment variable {VARIABLE})",
    )
    made.add_argument(
        "-t", "--timeout", type=float, metavar="SECONDS",
        help=f"wait this long for a reply (default {TIMEOUT.default}; upgrade: until it has ended)",
    )
    made.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    made.add_argument("--version", action="version", version=f"resolverctl {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="show workers, uptime and use of the cache")
    commands.add_parser("health", help="show what needs attention; exit status 1 if anything does")
    commands.add_parser("statistics", help="show all counters, summed over the workers")
    flush = commands.add_parser("flush", help="remove a name, a subtree or everything from the cache")
    flush.add_argument("name", nargs="?", help="the name")
    flush.add_argument("type", nargs="?", help="only this record type")
    flush.add_argument("--subtree", action="store_true", help="the name and everything below it")
    flush.add_argument("--all", action="store_true", help="everything")
    flush.add_argument("--fleet", action="store_true", help="also in all resolvers with the same second-level cache")
    dump = commands.add_parser("dump", help="print the cached records in zone file format")
    dump.add_argument("name", nargs="?", help="only at and below this name")
    commands.add_parser("save", help="write the cache to cache.snapshot-file")
    commands.add_parser("load", help="load entries from cache.snapshot-file that are not in the cache")
    commands.add_parser("reload", help="reload the configuration")
    commands.add_parser("upgrade", help="start the installed version in place of the running one, without a lost query")
    commands.add_parser("reopen", help="open the file of the query log again, after it was renamed")
    commands.add_parser("anchors", help="show trust anchors and the states of their keys (RFC 5011)")
    commands.add_parser("lists", help="show block lists and response policy zones")
    commands.add_parser("zones", help="show the zones of which the daemon has a copy, and their state")
    zone = commands.add_parser("zone", help="read a zone file again, or query the primary of a zone now")
    zone.add_argument("action", choices=("reload", "refresh"))
    zone.add_argument("name", help="name of the zone")
    add_change_parsers(commands)
    trace = commands.add_parser("trace", help="resolve a name and print each step")
    trace.add_argument("name")
    trace.add_argument("type", nargs="?", default="A")
    trace.add_argument("--no-validation", action="store_true", help="also show data that fail validation")
    imported = commands.add_parser(
        "import", help="make a configuration from that of Unbound, BIND or PowerDNS Recursor"
    )
    imported.add_argument("file", help="unbound.conf, named.conf, recursor.conf or recursor.yml")
    imported.add_argument("--format", choices=("unbound", "bind", "recursor"), help="not detected from the file")
    imported.add_argument("-o", "--output", metavar="FILE", help="write to this new file, not to standard output")
    top.add_options(commands.add_parser(
        "top", help="show rates, latencies, and the most frequent names, clients and zones, again after each interval"
    ))
    log = commands.add_parser("log", help="change the lowest severity that is logged")
    log.add_argument("level", choices=("debug", "info", "warning", "error"))
    return made


def add_change_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands for run-time changes: each has the actions add, list and remove."""
    for kind, what in CHANGES.items():
        actions = commands.add_parser(kind, help=f"add, list or remove {what} at run time").add_subparsers(
            dest="action", required=True, metavar="ACTION")
        actions.add_parser("list", help=f"show {what}")
        add = actions.add_parser("add", help=f"add {what}; kept over a restart")
        remove = actions.add_parser("remove", help=f"remove {what} added at run time")
        remove.add_argument("name", help="the name")
        if kind == "nta":
            for one in (add, remove):
                one.add_argument("--fleet", action="store_true",
                                 help="also in all resolvers with the same second-level cache and secret")
        if kind == "local-data":
            add.add_argument("values", nargs="+", metavar="RECORD",
                             help="a record, as in a zone file: www.example.com. 300 IN A 192.0.2.1")
            remove.add_argument("type", nargs="?", help="only this record type")
            continue
        add.add_argument("name", help="the zone")
        if kind == "nta":
            add.add_argument("lifetime", nargs="?", help="how long, for example 90m or 2d (default 1h)")
            add.add_argument("reason", nargs="*", help="shown by nta list")
            add.add_argument("--force", action="store_true", help="keep it even when the zone validates again")
        else:
            add.add_argument("values", nargs="+", metavar="SERVER", help="address of a server, as in the configuration")
            add.add_argument("--first", action="store_true", help="iterate when no server answers")


def request_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The request for a command line.

    Raises:
        ValueError: arguments that exclude each other.
    """
    request: dict[str, Any] = {"command": arguments.command}
    if arguments.command == "flush":
        if arguments.all == (arguments.name is not None):
            raise ValueError("flush needs a name, or --all")
        if arguments.subtree and (arguments.all or arguments.type):
            raise ValueError("flush --subtree needs a name and takes no type")
        if arguments.all:
            request["all"] = True
    if arguments.command == "trace" and arguments.no_validation:
        request["validate"] = False
    for key in ("name", "type", "level", "action", "lifetime"):
        value = getattr(arguments, key, None)
        if value is not None:
            request[key] = value
    if getattr(arguments, "fleet", False):
        request["fleet"] = True
    if getattr(arguments, "subtree", False):
        request["subtree"] = True
    if arguments.command in CHANGES:
        request.update(command="change", kind=arguments.command)
        values = getattr(arguments, "values", None)
        if values:
            request["values"] = [" ".join(values)] if arguments.command == "local-data" else values
        if getattr(arguments, "reason", None):
            request["reason"] = " ".join(arguments.reason)
        for key in ("force", "first"):
            if getattr(arguments, key, False):
                request[key] = True
    return request


def main(argv: Sequence[str] | None = None) -> int:
    """Run resolverctl and return its exit status."""
    stdout.prepare()
    arguments = parser().parse_args(argv)
    if arguments.command == "import":
        return import_configuration(arguments)
    try:
        request = request_of(arguments)
        if arguments.timeout is None:
            # The daemon itself ends an upgrade after server.upgrade-timeout.
            arguments.timeout = TIMEOUT.maximum if arguments.command == "upgrade" else TIMEOUT.default
        if not TIMEOUT.minimum < arguments.timeout <= TIMEOUT.maximum:
            raise ValueError(f"--timeout: {arguments.timeout:g} is not above 0 and up to {TIMEOUT.maximum} seconds")
        if not arguments.socket:
            raise ValueError(f"no control socket given: use --socket PATH or set {VARIABLE}")
        if arguments.command == "top":
            top.check_options(arguments)
    except ValueError as error:
        print(f"resolverctl: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        status = run(arguments, request)
        sys.stdout.flush()
        return status
    except _UnreachableError as error:
        print(f"resolverctl: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE
    except _RefusedError as error:
        print("resolverctl: " + "\n".join(map(stdout.printable, str(error).split("\n"))), file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_UNREACHABLE
    except BrokenPipeError:
        stdout.discard()  # the reader has closed the pipe
        return EXIT_DONE
    except OSError as error:
        stdout.discard()
        print(f"resolverctl: cannot write {stdout.reason(error)}", file=sys.stderr)
        return EXIT_REFUSED


def import_configuration(arguments: argparse.Namespace) -> int:
    """Convert a configuration: the result goes to the output, what is not in it as it was to standard error."""
    from resolver.cli.importers import ImportFailure, convert

    stdout.prepare("utf-8")
    try:
        text, draft = convert(arguments.file, arguments.format)
        if arguments.output:
            with open(arguments.output, "x", encoding="utf-8") as file:
                file.write(text)
        else:
            print(text, end="", flush=True)
    except ImportFailure as error:
        print(f"resolverctl: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except BrokenPipeError:
        stdout.discard()  # the reader has closed the pipe
        return EXIT_DONE
    except OSError as error:
        if arguments.output:
            print(f"resolverctl: cannot write {arguments.output}: {error.strerror}", file=sys.stderr)
        else:
            stdout.discard()
            print(f"resolverctl: cannot write {stdout.reason(error)}", file=sys.stderr)
        return EXIT_REFUSED
    for remark in draft.remarks:
        if remark.told:
            print(remark, file=sys.stderr)
    return EXIT_DONE


def run(arguments: argparse.Namespace, request: dict[str, Any]) -> int:
    """Send `request`, print the reply, and return the exit status.

    Raises:
        _UnreachableError: the daemon cannot be reached or does not reply.
        _RefusedError: it reports an error.
    """
    if arguments.command == "top":
        top.run(arguments, lambda request: result_of(arguments, request))
        return EXIT_DONE
    result = result_of(arguments, request)
    show(arguments, result)
    return EXIT_REFUSED if arguments.command == "health" and not result["healthy"] else EXIT_DONE


def result_of(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    """Send `request`, print the text of the reply, and return its result.

    Raises:
        _UnreachableError: the daemon cannot be reached or does not reply.
        _RefusedError: it reports an error.
    """
    for message in ask(arguments.socket, request, arguments.timeout):
        if "text" in message:
            _print_line(message["text"])
        elif message.get("ok"):
            return message.get("result") or {}
        else:
            raise _RefusedError(message.get("error", "the daemon gives no reason"))
    text = "the daemon closed the connection without a result"
    if arguments.command == "upgrade":  # the supervisor continues it when the worker that got the command has ended
        text += "; the upgrade may still be in progress, see the log and `resolverctl status`"
    else:
        text += ", because the worker that served it has ended: see the log, and try again"
    raise _UnreachableError(text)


def ask(path: str, request: dict[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
    """The messages of the reply to `request`.

    Raises:
        _UnreachableError: no reply in time, or the reply is malformed.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as replies:
                while line := replies.readline(REPLY):
                    if not line.endswith(b"\n"):
                        raise _UnreachableError("the daemon closed the connection in the middle of a line")
                    message = json.loads(line)
                    if not isinstance(message, dict):
                        raise ValueError
                    yield message
        except FileNotFoundError:
            text = f"socket {path!r} does not exist; is the daemon running, with control.socket set?"
            raise _UnreachableError(text) from None
        except ConnectionRefusedError:
            why = "no process serves it; the daemon has exited" if _is_socket(path) else "it is not a socket"
            raise _UnreachableError(f"{path!r}: {why}") from None
        except PermissionError:
            raise _UnreachableError(f"only the daemon's user and root may open {path!r}") from None
        except TimeoutError:
            raise _UnreachableError(f"no reply within {timeout:g} seconds") from None
        except (OSError, ValueError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else "the reply is not of a resolverd"
            raise _UnreachableError(f"{path!r}: {why}") from None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True  # it is gone meanwhile


# --- printing -----------------------------------------------------------------------------------------------------


def _print_line(text: str) -> None:
    """Print one line, in which the daemon may repeat what others have sent."""
    print(stdout.printable(text))


def show(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print a result as text, or as JSON."""
    if arguments.json:
        print(json.dumps(result))
        return
    command = arguments.command
    if command == "status":
        for worker in result["workers"]:
            if "error" in worker:
                _print_line(worker["error"])
                continue
            _print_line(
                f"worker {worker['worker']}: resolverd {worker['version']}, pid {worker['pid']}, up "
                f"{duration(worker['seconds'])}, {worker['queries']} queries, {worker['pending']} pending"
                + (f", watched by {worker['watchers']}" if worker.get("watchers") else "")
            )
            for line in balance_lines(worker.get("balance", [])):
                _print_line(line)
        cache = result["cache"]
        kinds = ", ".join(f"{value} {key[8:]}" for key, value in cache.items() if key.startswith("entries_"))
        share = 100 * cache["bytes_used"] / max(1, cache["bytes_limit"])
        _print_line(f"cache: {kinds}; {cache['bytes_used']} of {cache['bytes_limit']} bytes ({share:.0f} %)")
    elif command == "health":
        for line in ("\n".join(result["problems"]) or "healthy").split("\n"):
            _print_line(line)
    elif command == "statistics":
        for group, counters in result.items():
            for key, value in counters.items():
                if isinstance(value, dict):
                    for reason, count in value.items():
                        _print_line(f"{group}.{key}.{reason} {count}")
                else:
                    _print_line(f"{group}.{key} {value}")
    elif command == "flush":
        _print_line(f"{result['entries']} entries removed")
    elif command == "save":
        _print_line(f"{result['bytes']} bytes written to {result['file']}")
    elif command == "load":
        _print_line(f"{result['entries']} entries loaded from {result['file']}, written {duration(result['age'])} ago")
    elif command == "anchors":
        for line in anchor_lines(result):
            _print_line(line)
    elif command == "lists":
        for line in list_lines(result):
            _print_line(line)
    elif command == "zones":
        for line in zone_lines(result):
            _print_line(line)
    elif command == "zone":
        _print_line("started; resolverctl zones shows the result")
    elif command in CHANGES:
        for line in change_lines(result):
            _print_line(line)
    elif command == "log":
        _print_line(f"log level is {result['level']} until the next reload")
    elif command == "reopen":
        _print_line("the query log is written to a file opened now")
    elif command == "upgrade":
        _print_line(f"process {result['pid']} serves now")
    elif command == "reload":
        _print_line("the new configuration is in force")
        if waiting := ", ".join(result.get("awaiting_restart", ())):
            _print_line(f"without {waiting}, which needs a restart or `resolverctl upgrade`")


def change_lines(result: dict[str, Any]) -> Iterator[str]:
    """Lines of text about the run-time changes of one kind."""
    local = result["kind"] == "local-data"
    for one in result["changes"]:
        line = " ".join(one["values"] if local else (one["name"], *one["values"]))
        if one["first"]:
            line += " --first"
        if one["left"] is not None:
            line += f": {duration(one['left'])} left" + ("" if one["check"] else ", even when it validates again")
        yield line + (f" ({one['reason']})" if one["reason"] else "")
    for text in result["configured"]:
        yield f"{text} (in the configuration)"
    if not result["changes"] and not result["configured"]:
        yield "none"
    if result["error"]:
        yield f"error: {result['error']}"


def balance_lines(targets: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of text about the targets of balanced names in one worker: their number, and those that are down."""
    if targets:
        yield f"  balance: {sum(one['up'] for one in targets)} of {len(targets)} targets are up"
    for one in targets:
        if not one["up"]:
            yield f"  balance {one['name']}: {one['address']} is down: {one['error'] or 'it has not risen yet'}"


def list_lines(result: dict[str, Any]) -> Iterator[str]:
    """Lines of text about block lists and response policy zones."""
    if not result["lists"]:
        yield "no lists are configured"
    for one in result["lists"]:
        age = "" if one["age"] is None else f", fetched or confirmed {duration(one['age'])} ago"
        left_out = f", {one['left_out']} left out" if one["left_out"] else ""
        without = f", {one['unsupported']} rules without effect" if one["unsupported"] else ""
        yield f"{one['name']}: {one['entries']} entries{left_out}{without}{age}" + (
            f"; error: {one['error']}" if one["error"] else "")


def anchor_lines(result: dict[str, Any]) -> Iterator[str]:
    """Lines of text about the trust anchors."""
    yield f"file {result['file']}" + (f"; error: {result['error']}" if result["error"] else "")
    for zone in result["zones"]:
        state = "" if zone["trusted"] else ", not a trust anchor because all keys are revoked"
        yield (
            f"zone {zone['zone']}{state}: last success {moment(zone['last_success'])}, next probe"
            f" {moment(zone['next_probe'])}" + (f"; last probe failed: {zone['error']}" if zone["error"] else "")
        )
        if not zone["keys"]:
            yield "  configured anchors, not probed yet"
        for key in zone["keys"]:
            until = f", hold-down ends {moment(key['until'])}" if key["until"] else ""
            since = moment(key["since"])
            yield f"  key {key['tag']}, algorithm {key['algorithm']}: {key['state']} since {since}{until}"


def zone_lines(result: dict[str, Any]) -> Iterator[str]:
    """Lines of text about the zones."""
    for zone in result["zones"]:
        parts = [f"zone {zone['zone']} ({zone['role']}, {zone['mode']}): {zone['state']}"]
        if zone["serial"] is not None:
            parts.append(f"serial {zone['serial']}, {zone['records']} records")
        if zone["age"] is not None:
            parts.append(f"confirmed {duration(zone['age'])} ago")
        if zone["next_refresh"] is not None:
            parts.append(f"next refresh in {duration(zone['next_refresh'])}")
        if zone["expires"] is not None:
            left = zone["expires"]
            parts.append(f"expires in {duration(left)}" if left > 0 else f"expired {duration(-left)} ago")
        yield ", ".join(parts)
        if zone["error"]:
            yield f"  {zone['error']}"


def moment(seconds: int) -> str:
    """A time in UTC as text."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else "never"


def duration(seconds: int) -> str:
    """A duration as text: 3 d 4 h, 12 min 5 s."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


if __name__ == "__main__":
    sys.exit(main())
