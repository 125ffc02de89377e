"""Every example in the documents runs: `docs/examples/*.py`, and each ```python block of a page.

A block runs in an interpreter of its own with warnings as errors. A block whose first line is `# app.py` is a service:
it runs on a free port instead of port 8000, is asked once, and is stopped by SIGTERM. A failure names the page and the
line.
Blocks of commands are for `tests/integration/test_doc_commands.py`; `tests/unit/test_doc_outputs.py` finds blocks that
nothing runs.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import DOCS, SECONDS, blocks, environment
from support.ports import free_port
from support.servers import wait_until

pytestmark = pytest.mark.checkout

PYTHON = blocks("python")
SERVICES = [(place, source) for place, source in PYTHON if source.startswith("# app.py")]
EXAMPLES = [
    *((path.name, path.read_text(encoding="utf-8")) for path in sorted((DOCS / "examples").glob("*.py"))),
    *((place, source) for place, source in PYTHON if not source.startswith("# app.py")),
]


def test_there_are_examples_to_run() -> None:
    assert len(EXAMPLES) >= 20
    assert SERVICES


@pytest.mark.parametrize(("place", "source"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_example_runs(place: str, source: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{place}\n{done.stdout}\n{done.stderr}"
    assert "Exception ignored" not in done.stderr, f"{place}\n{done.stderr}"


@pytest.mark.parametrize(("place", "source"), SERVICES, ids=[place for place, _ in SERVICES])
def test_service_serves_until_sigterm(place: str, source: str, tmp_path: Path) -> None:
    assert "8000" in source, place
    port = free_port()
    script = tmp_path / "app.py"
    script.write_text(source.replace("8000", str(port)), encoding="utf-8")
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script)],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def answered() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                    client.sendall(b"hello\n")
                    return client.recv(6, socket.MSG_WAITALL) == b"hello\n"
            except OSError:
                return False

        wait_until(answered, f"an echo of the service at {place}", process=process, log=log, seconds=SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0, f"{place}\n{log.read_text(encoding='utf-8')}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)
