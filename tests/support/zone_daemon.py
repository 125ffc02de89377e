"""A resolverd with own zones, in a directory of its own: configuration, log, control socket and copies of zones."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.ports import free_port
from support.servers import ask, run_process, wait_until
from support.zone_peers import serial_of

from resolver.wire import consts as c

__all__ = ["ORIGIN", "Daemon", "resolverd"]

ORIGIN = "e.test."


class Daemon:
    """A running resolverd."""

    def __init__(self, home: Path, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.home = home
        self.port = port
        self.process = process

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "resolver.cli.control", "-s", str(self.home / "control"), *words],
            capture_output=True, text=True, timeout=60, check=False,
        )

    def zones(self) -> dict[str, dict[str, object]]:
        found = self.control("--json", "zones")
        assert found.returncode == 0, found.stderr
        return {zone["zone"]: zone for zone in json.loads(found.stdout)["zones"]}

    def serial(self) -> int | None:
        return serial_of(self.port, ORIGIN)

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def wait_for(self, serial: int | None) -> None:
        wait_until(lambda: self.serial() == serial, f"serial {serial}", process=self.process, log=self.home / "log")


@contextmanager
def resolverd(
    home: Path, text: str, *, port: int | None = None, workers: int = 1, server: str = "", ready: str = "localhost."
) -> Iterator[Daemon]:
    """`server` is what follows in the table [server], and further tables; `ready` is a name that is answered."""
    home.mkdir(exist_ok=True)
    (home / "zones").mkdir(exist_ok=True)
    port = port or free_port()
    (home / "resolverd.toml").write_text(
        f'zones.directory = "{home}/zones"\nzones.refresh-min = 1\ndnssec.enabled = false\n'
        f'[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = {workers}\n{server}'
        f'[control]\nsocket = "{home}/control"\n{text}'
    )
    command = [sys.executable, "-m", "resolver.daemon", "--config", str(home / "resolverd.toml")]
    with run_process(command, home / "log") as process:
        wait_until(lambda: ask("127.0.0.1", port, ready, c.A, timeout=0.5) is not None, "answers of resolverd",
                   process=process, log=home / "log")
        yield Daemon(home, port, process)
