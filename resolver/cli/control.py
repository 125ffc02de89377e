"""resolverctl: tell a running resolverd what to do, over its control socket.

It knows nothing of the daemon but the protocol of the socket (one line of JSON out, lines of JSON back), so it starts
at once and also talks to a daemon of another version. Exit status: 0 done; 1 the daemon says why not; 2 the command
line is wrong; 3 no daemon can be reached there.
"""

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from corenet._version import __version__
from resolver import limits
from resolver.daemon import stdout

__all__ = ["EXIT_DONE", "EXIT_REFUSED", "EXIT_UNREACHABLE", "EXIT_USAGE", "main"]

EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3

VARIABLE = "RESOLVERD_SOCKET"
REPLY = limits.CONTROL_REPLY
TIMEOUT = limits.RESOLVERCTL_TIMEOUT


class _UnreachableError(Exception):
    """Nobody answers, or nobody who speaks this protocol."""


def parser() -> argparse.ArgumentParser:
    """The command line of resolverctl."""
    made = argparse.ArgumentParser(
        prog="resolverctl",
        description="Tell a running resolverd what to do. It listens when control.socket is set in its configuration.",
        epilog="Exit status: 0 done, 1 the daemon says why not, 2 wrong command line, 3 no daemon can be reached.",
    )
    made.add_argument(
        "-s", "--socket", metavar="PATH", default=os.environ.get(VARIABLE),
        help=f"the daemon's control socket (by default the environment variable {VARIABLE})",
    )
    made.add_argument(
        "-t", "--timeout", type=float, default=TIMEOUT.default, metavar="SECONDS",
        help=f"wait so long for an answer (default {TIMEOUT.default})",
    )
    made.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    made.add_argument("--version", action="version", version=f"resolverctl {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="what runs, since when, and how full the cache is")
    commands.add_parser("statistics", help="every counter, of all workers together")
    flush = commands.add_parser("flush", help="forget what is cached for a name, below it, or everything")
    flush.add_argument("name", nargs="?", help="the name")
    flush.add_argument("type", nargs="?", help="only this type of record")
    flush.add_argument("--subtree", action="store_true", help="the name and everything below it")
    flush.add_argument("--all", action="store_true", help="everything")
    dump = commands.add_parser("dump", help="print the cached records in the form of a zone file")
    dump.add_argument("name", nargs="?", help="only at and below this name")
    commands.add_parser("save", help="write the cache to cache.snapshot-file")
    commands.add_parser("load", help="take in what cache.snapshot-file holds and the cache does not")
    commands.add_parser("reload", help="read the configuration again")
    commands.add_parser("anchors", help="which keys are trusted, and which wait to be (RFC 5011)")
    trace = commands.add_parser("trace", help="resolve a name and tell every step and its reason")
    trace.add_argument("name")
    trace.add_argument("type", nargs="?", default="A")
    trace.add_argument("--no-validation", action="store_true", help="show data that fails DNSSEC too")
    log = commands.add_parser("log", help="change the least important message that is logged")
    log.add_argument("level", choices=("debug", "info", "warning", "error"))
    return made


def request_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The request that a command line stands for.

    Raises:
        ValueError: saying what does not go together.
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
    for key in ("name", "type", "level"):
        value = getattr(arguments, key, None)
        if value is not None:
            request[key] = value
    if getattr(arguments, "subtree", False):
        request["subtree"] = True
    return request


def main(argv: Sequence[str] | None = None) -> int:
    """Run resolverctl and return its exit status."""
    stdout.prepare()
    arguments = parser().parse_args(argv)
    try:
        request = request_of(arguments)
        if not TIMEOUT.minimum < arguments.timeout <= TIMEOUT.maximum:
            raise ValueError(f"--timeout: {arguments.timeout:g} is not above 0 and up to {TIMEOUT.maximum} seconds")
        if not arguments.socket:
            raise ValueError(f"which daemon? Give --socket PATH or set {VARIABLE}; the path is control.socket there")
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
    except KeyboardInterrupt:
        return EXIT_UNREACHABLE
    except BrokenPipeError:
        stdout.discard()  # whoever read the output has seen enough
        return EXIT_DONE
    except OSError as error:
        stdout.discard()
        print(f"resolverctl: cannot write {stdout.reason(error)}", file=sys.stderr)
        return EXIT_REFUSED


def run(arguments: argparse.Namespace, request: dict[str, Any]) -> int:
    """Send `request`, print what comes back, and return the exit status.

    Raises:
        _UnreachableError: saying why nothing came back.
    """
    for message in ask(arguments.socket, request, arguments.timeout):
        if "text" in message:
            print(message["text"])
        elif message.get("ok"):
            show(arguments, message.get("result") or {})
            return EXIT_DONE
        else:
            print(f"resolverctl: {message.get('error', 'the daemon refuses without a reason')}", file=sys.stderr)
            return EXIT_REFUSED
    raise _UnreachableError("the daemon ended the connection without a result")


def ask(path: str, request: dict[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
    """The messages that come back for `request`.

    Raises:
        _UnreachableError: nobody answers in time, or what answers makes no sense.
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
                        raise _UnreachableError("the daemon ended the connection in the middle of a line")
                    message = json.loads(line)
                    if not isinstance(message, dict):
                        raise ValueError
                    yield message
        except FileNotFoundError:
            text = f"there is no socket {path!r}; does the daemon run, with control.socket set?"
            raise _UnreachableError(text) from None
        except ConnectionRefusedError:
            raise _UnreachableError(f"nobody serves {path!r} any more; the daemon has gone") from None
        except PermissionError:
            raise _UnreachableError(f"{path!r} may be opened by the daemon's user and root only") from None
        except TimeoutError:
            raise _UnreachableError(f"no answer in {timeout:g} seconds") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise _UnreachableError(f"{path!r}: {why or 'what answers there is no resolverd'}") from None


# --- printing -----------------------------------------------------------------------------------------------------


def show(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print a result for people, or as JSON."""
    if arguments.json:
        print(json.dumps(result))
        return
    command = arguments.command
    if command == "status":
        for worker in result["workers"]:
            if "error" in worker:
                print(worker["error"])
                continue
            print(
                f"worker {worker['worker']}: resolverd {worker['version']}, pid {worker['pid']}, up "
                f"{duration(worker['seconds'])}, {worker['queries']} queries, {worker['waiting']} waiting"
            )
        cache = result["cache"]
        kinds = ", ".join(f"{value} {key[8:]}" for key, value in cache.items() if key.startswith("entries_"))
        share = 100 * cache["bytes_used"] / max(1, cache["bytes_limit"])
        print(f"cache: {kinds}; {cache['bytes_used']} of {cache['bytes_limit']} bytes ({share:.0f} %)")
    elif command == "statistics":
        for group, counters in result.items():
            for key, value in counters.items():
                if isinstance(value, dict):
                    for reason, count in value.items():
                        print(f"{group}.{key}.{reason} {count}")
                else:
                    print(f"{group}.{key} {value}")
    elif command == "flush":
        print(f"{result['entries']} entries forgotten")
    elif command == "save":
        print(f"{result['bytes']} bytes written to {result['file']}")
    elif command == "load":
        print(f"{result['entries']} entries taken in from {result['file']}, written {duration(result['age'])} ago")
    elif command == "anchors":
        for line in anchor_lines(result):
            print(line)
    elif command == "log":
        print(f"log level is {result['level']} until the next reload")
    elif command == "reload":
        print("the configuration is good and comes into force")


def anchor_lines(result: dict[str, Any]) -> Iterator[str]:
    """The trust anchors and what is known of them, in lines for people."""
    yield f"kept in {result['file']}" + (f"; {result['trouble']}" if result["trouble"] else "")
    for zone in result["zones"]:
        state = "" if zone["trusted"] else " is no trust anchor any more: all its keys are revoked;"
        yield (
            f"{zone['zone']}{state} last seen {moment(zone['succeeded'])}, next look {moment(zone['due'])}"
            + (f"; last look failed: {zone['trouble']}" if zone["trouble"] else "")
        )
        if not zone["keys"]:
            yield "  the configured anchors; no key was seen yet"
        for key in zone["keys"]:
            until = f", trusted from {moment(key['until'])} on" if key["until"] else ""
            since = moment(key["since"])
            yield f"  key {key['tag']}, algorithm {key['algorithm']}: {key['state']} since {since}{until}"


def moment(seconds: int) -> str:
    """A time as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else "never"


def duration(seconds: int) -> str:
    """Time as people say it: 3 d 4 h, 12 min 5 s."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


if __name__ == "__main__":
    sys.exit(main())
