"""``python -m resolver.playground``: serves the playground in the foreground, or exports it for real servers.

Printed addresses, URLs and commands can be pasted. Ctrl-C or SIGTERM stops it. Only the file of ``--ca`` remains.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import corenet
from resolver import playground
from resolver.limits import PLAYGROUND_PORT
from resolver.playground.export import DAEMONS, export
from resolver.playground.signed import signed_world
from resolver.playground.world import World
from resolver.wire import name as names

__all__ = ["main"]

EXIT_FAILURE = 1
DESCRIPTION = "Serve a small simulated Internet on loopback addresses, or export it for real name servers."


def main(words: Sequence[str] | None = None) -> int:
    """Run with the arguments `words` (default: those of the process); return the exit code (2: usage error)."""
    parser = argparse.ArgumentParser(prog="python -m resolver.playground", description=DESCRIPTION)
    parser.add_argument(
        "--port", type=int, default=PLAYGROUND_PORT.default, help="port of all name servers (default %(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="list the special names and exit")
    parser.add_argument("--no-web", action="store_true", help="name servers only")
    parser.add_argument("--ca", type=Path, help="write the certificate of the temporary CA to this file")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write zones and configuration for real servers and exit"
    )
    parser.add_argument(
        "--server", choices=sorted(DAEMONS), default="nsd", help="server for --export (default %(default)s)"
    )
    wanted = parser.parse_args(words)
    try:
        PLAYGROUND_PORT.check(wanted.port, "--port")
    except ValueError as error:
        parser.error(str(error))
    world = signed_world(int(time.time()))
    if wanted.list:
        sys.stdout.write(specials_text(world))
        return 0
    try:
        if wanted.export is not None:
            sys.stdout.write(_export(world, wanted.export, wanted.server, wanted.port))
        else:
            corenet.run(_serve(world, wanted.port, web=not wanted.no_web, ca=wanted.ca))
    except OSError as error:
        print(f"playground: {error}", file=sys.stderr)
        return EXIT_FAILURE
    return 0


def specials_text(world: World) -> str:
    """The special names, one per line: name, type, response code, verdict, extended error (or -), reason."""
    width = max(len(special.qname) for special in world.specials)
    rows = [
        f"{s.qname:<{width}}  {s.qtype:<9}  {s.rcode:<8}  {s.verdict.name.lower():<8}  "
        f"{'-' if s.ede is None else s.ede:<2}  {s.about}"
        for s in world.specials
    ]
    return "\n".join(rows) + "\n"


async def _serve(world: World, port: int, *, web: bool, ca: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with await playground.start(world, port=port, web=web, ca=ca) as running:
        for name, addresses in running.root_hints:
            print(f"root server {names.to_text(name)} at {addresses[0]} port {running.port}")
        if running.web is not None:
            print(f"web server at {running.web.url}, trust {running.web.authority_file}")
        for anchor in world.trust_anchors:
            print(f"trust anchor {anchor}")
        print(f"{len(running.addresses)} name servers; --list shows names to query; Ctrl-C stops", flush=True)
        await stop.wait()


def _export(world: World, directory: Path, daemon: str, port: int) -> str:
    written = export(world, directory, daemon, port=port)
    lines = [f"# root hints: {written.hints}", *(f"# trust anchor: {anchor}" for anchor in world.trust_anchors)]
    lines += ["# one command for each name server, all in the foreground:"]
    lines += [" ".join(process.command) for process in written.processes]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
