"""Runs make targets in parallel: ``streams.py lint,test wheel`` runs lint and then test, and wheel beside them.

A stream ends at its first failing target; the others continue. The output of the first stream is shown as it comes,
that of the others when they have ended. At the end each failed target is printed with the beginning of its error and
the names of its failed tests, so that the last page of a long log is enough. The status is 0 only when every target
passed.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAKE = ("make", "--no-print-directory")
NAMES = 30
"""Maximum number of failed tests to name."""
LINES = 60
"""Maximum number of lines to show of a failed target."""
FAILED = re.compile(r"(FAILED|ERROR) |make(\[\d+\])?: \*\*\* ")
SECTION = re.compile(r"=+ (FAILURES|ERRORS) =+$")


@dataclass
class Stream:
    """Targets that run one after the other, and their results."""

    targets: Sequence[str]
    log: Path
    shown: bool
    failed: str = ""
    """The target that runs or has failed."""
    process: "subprocess.Popen[bytes] | None" = None

    def say(self, line: str) -> None:
        """Add a line of our own to the stream's output."""
        self.take(f"== {line}\n".encode())

    def take(self, data: bytes) -> None:
        """Add output of a target."""
        with self.log.open("ab") as file:
            file.write(data)
        if self.shown:
            show(data)

    def run(self, make: Sequence[str]) -> None:
        """Run the targets up to the first that fails."""
        for target in self.targets:
            began = time.monotonic()
            self.failed = target
            self.say(f"make {target}")
            # In its own session, so that all its processes can be ended.
            self.process = subprocess.Popen(
                [*make, target], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert self.process.stdout is not None
            while data := os.read(self.process.stdout.fileno(), 65536):
                self.take(data)
            self.process.stdout.close()
            status = self.process.wait()
            self.say(f"make {target}: {time.monotonic() - began:.0f} s{f', status {status}' if status else ''}")
            if status:
                return
            self.failed = ""

    def end(self) -> None:
        """End the running target."""
        if self.process is not None and self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGTERM)


def show(data: bytes) -> None:
    """Write to our own output."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def digest(text: str) -> list[str]:
    """A short report of a failure: the names of failed tests first, then the beginning of the first error."""
    lines = text.splitlines()
    names = list(dict.fromkeys(line[:200] for line in lines if FAILED.match(line)))
    begin = next((at for at, line in enumerate(lines) if SECTION.match(line)), None)
    # Without a section of pytest: the last lines, where compilers and linters print their errors.
    said = lines[begin : begin + LINES] if begin is not None else lines[-LINES // 2 :]
    more = [f"... and {len(names) - NAMES} more"] if len(names) > NAMES else []
    return [*(line[:200] for line in said), *names[:NAMES], *more]


def play(streams: Sequence[Sequence[str]], make: Sequence[str] = MAKE) -> int:
    """Run all `streams`; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="corenet-streams-") as folder:
        running = [Stream(targets, Path(folder, str(number)), number == 0) for number, targets in enumerate(streams)]
        with ThreadPoolExecutor(len(running)) as pool:
            done = [pool.submit(stream.run, make) for stream in running]
            try:
                wait(done)
            except BaseException:
                for stream in running:
                    stream.end()
                raise
        for future in done:
            future.result()
        for stream in running[1:]:
            show(stream.log.read_bytes())
        failed = [stream for stream in running if stream.failed]
        for stream in failed:
            text = stream.log.read_text(encoding="utf-8", errors="replace")
            last = text.rpartition(f"== make {stream.failed}\n")[2]
            print(f"== failed: make {stream.failed}", *digest(last), sep="\n", flush=True)
    return 1 if failed else 0


def main(argv: list[str]) -> int:
    """`streams.py VERB[,VERB...] ...`: each argument is a stream."""
    # As an exception, so that the running targets are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return play([argument.split(",") for argument in argv[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
