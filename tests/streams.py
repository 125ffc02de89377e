"""Runs verbs of the Makefile side by side: ``streams.py lint,test wheel`` runs lint and then test, beside them wheel.

A stream ends at its first verb that fails; the others go on. The first stream's output is passed on as it comes, that
of the others is shown when they have ended. At the end each verb that failed is named, with the beginning of what it
said and the names of its failed tests, so that the last page of a long log is enough. The status is 0 only when every
verb passed.
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
"""Failed tests that are named."""
LINES = 60
"""Lines shown of what a failing verb said."""
FAILED = re.compile(r"(FAILED|ERROR) |make(\[\d+\])?: \*\*\* ")
SECTION = re.compile(r"=+ (FAILURES|ERRORS) =+$")


@dataclass
class Stream:
    """Verbs that run one after the other, and what became of them."""

    verbs: Sequence[str]
    log: Path
    shown: bool
    failed: str = ""
    """The verb that runs or has failed."""
    process: "subprocess.Popen[bytes] | None" = None

    def say(self, line: str) -> None:
        """One line of our own in the stream's output."""
        self.take(f"== {line}\n".encode())

    def take(self, data: bytes) -> None:
        """What a verb wrote."""
        with self.log.open("ab") as file:
            file.write(data)
        if self.shown:
            show(data)

    def run(self, make: Sequence[str]) -> None:
        """Run the verbs to the first that fails."""
        for verb in self.verbs:
            began = time.monotonic()
            self.failed = verb
            self.say(f"make {verb}")
            # A session of its own, so that all of it can be ended.
            self.process = subprocess.Popen(
                [*make, verb], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert self.process.stdout is not None
            while data := os.read(self.process.stdout.fileno(), 65536):
                self.take(data)
            self.process.stdout.close()
            status = self.process.wait()
            self.say(f"make {verb}: {time.monotonic() - began:.0f} s{f', status {status}' if status else ''}")
            if status:
                return
            self.failed = ""

    def end(self) -> None:
        """End what runs."""
        if self.process is not None and self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGTERM)


def show(data: bytes) -> None:
    """Pass on to our own output."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def digest(text: str) -> list[str]:
    """What failed, in few lines: the names first, then the beginning of what was said of the first of them."""
    lines = text.splitlines()
    names = list(dict.fromkeys(line[:200] for line in lines if FAILED.match(line)))
    begin = next((at for at, line in enumerate(lines) if SECTION.match(line)), None)
    # Without a section of pytest's: the end, where a compiler or a linter says what it has.
    said = lines[begin : begin + LINES] if begin is not None else lines[-LINES // 2 :]
    more = [f"... and {len(names) - NAMES} more"] if len(names) > NAMES else []
    return [*(line[:200] for line in said), *names[:NAMES], *more]


def play(streams: Sequence[Sequence[str]], make: Sequence[str] = MAKE) -> int:
    """Run all `streams`; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="corenet-streams-") as folder:
        running = [Stream(verbs, Path(folder, str(number)), number == 0) for number, verbs in enumerate(streams)]
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
    # What runs is ended by an exception, then, and not left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return play([argument.split(",") for argument in argv[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
