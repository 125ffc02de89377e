"""Programs of other projects, started as documented, on corenet's loop.

Each runs as a process. curl fetches the class name of its loop. Then it gets SIGTERM, and its exit status must be the
same as on asyncio's loop. The command lines are those of README.md and docs/coming-from-uvloop.md.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import wait_until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
OURS = "corenet.loop.loop.Loop"
TIMEOUT = 60.0
PYTHON = (sys.executable,)
LAUNCH = (*PYTHON, "-m", "corenet.launch")
APP = "support.web_apps"

#: name: (package that must be installed, command, exit status after SIGTERM; negative: the signal)
PROGRAMS: dict[str, tuple[str, tuple[str, ...], int]] = {
    # uvicorn raises the signal again after its shutdown, on every loop.
    "uvicorn": (
        "uvicorn",
        (*PYTHON, "-m", "uvicorn", "--loop", "corenet:new_event_loop", "--port", "{port}", f"{APP}:asgi"),
        -signal.SIGTERM,
    ),
    "uvicorn --workers": (
        "uvicorn",
        (
            *(*PYTHON, "-m", "uvicorn", "--loop", "corenet:new_event_loop", "--workers", "2"),
            *("--port", "{port}", f"{APP}:asgi"),
        ),
        0,
    ),
    "uvicorn in corenet.serve": ("uvicorn", (*PYTHON, "-m", APP, "run_uvicorn_served", "{port}"), 0),
    "granian": ("granian", (*LAUNCH, "granian", "--interface", "asgi", "--port", "{port}", f"{APP}:asgi"), 0),
    "granian --workers": (
        "granian",
        (*LAUNCH, "granian", "--interface", "asgi", "--workers", "2", "--port", "{port}", f"{APP}:asgi"),
        0,
    ),
    "hypercorn": ("hypercorn", (*LAUNCH, "hypercorn", "-b", "127.0.0.1:{port}", f"{APP}:asgi"), 0),
    "hypercorn --workers": (
        "hypercorn",
        (*LAUNCH, "hypercorn", "-w", "2", "-b", "127.0.0.1:{port}", f"{APP}:asgi"),
        0,
    ),
    "hypercorn by its function": ("hypercorn", (*PYTHON, "-m", APP, "run_hypercorn", "{port}"), 0),
    "gunicorn with uvicorn": (
        "uvicorn_worker",
        (
            *(*PYTHON, "-m", "gunicorn", "-k", "corenet.adapters.gunicorn.UvicornWorker", "-w", "2"),
            *("-b", "127.0.0.1:{port}", f"{APP}:asgi"),
        ),
        0,
    ),
    "gunicorn with aiohttp": (
        "gunicorn",
        (
            *(*PYTHON, "-m", "gunicorn", "-k", "corenet.adapters.gunicorn.AiohttpWorker"),
            *("-b", "127.0.0.1:{port}", f"{APP}:aiohttp_for_gunicorn"),
        ),
        0,
    ),
    "gunicorn's own ASGI worker": (
        "gunicorn",
        (*LAUNCH, "gunicorn", "-k", "asgi", "--asgi-loop", "asyncio", "-b", "127.0.0.1:{port}", f"{APP}:asgi"),
        0,
    ),
    "aiohttp": ("aiohttp", (*PYTHON, "-m", APP, "run_aiohttp", "{port}"), 0),
    # Single process: with several, Sanic does not always end on SIGTERM, on asyncio's loop either.
    "sanic": ("sanic", (*LAUNCH, "sanic", f"{APP}:sanic_app", "--factory", "--single-process", "--port", "{port}"), 0),
}

#: log lines to wait for before SIGTERM. A granian worker that is starting still has its parent's signal handler, so a
#: SIGTERM is lost.
READY_LINES = {"granian --workers": ("Started worker-1", "Started worker-2")}


def environment() -> dict[str, str]:
    """The environment of this process; PYTHONPATH also has the checkout and tests/ (for `support.web_apps`)."""
    path = [os.environ.get("PYTHONPATH", str(ROOT)), str(ROOT / "tests")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_runs_on_our_loop(name: str, tmp_path: Path) -> None:
    package, command, status = PROGRAMS[name]
    pytest.importorskip(package, reason=f"pip install {package}")
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(port=port) for part in command],
            cwd=tmp_path,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    answer = ""

    def answered() -> bool:
        nonlocal answer
        done = subprocess.run(
            ["curl", "--silent", "--max-time", "5", f"http://127.0.0.1:{port}/"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        answer = done.stdout
        return done.returncode == 0 and bool(answer)

    try:
        wait_until(answered, f"an answer of {name}", process=process, log=log, seconds=TIMEOUT)
        assert answer == OURS
        for text in READY_LINES.get(name, ()):
            wait_until(lambda text=text: text in log.read_text(), text, process=process, log=log, seconds=TIMEOUT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == status, log.read_text(errors="replace")
        assert "Traceback" not in log.read_text(errors="replace")
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(TIMEOUT)


TESTS = """
import asyncio
import anyio
import pytest
NAME = "corenet.loop.loop.Loop"
def name():
    kind = type(asyncio.get_running_loop())
    return f"{kind.__module__}.{kind.__qualname__}"
@pytest.mark.asyncio
async def test_pytest_asyncio():
    assert name() == NAME
@pytest.mark.anyio
async def test_anyio_plugin():
    assert name() == NAME
def test_anyio_run():
    import corenet
    async def main():
        await anyio.sleep(0)
        return name()
    assert anyio.run(main, backend_options={"loop_factory": corenet.new_event_loop}) == NAME
"""


@pytest.mark.parametrize(("plugin", "passed"), [(True, 3), (False, 1)])
def test_pytest_plugin(tmp_path: Path, plugin: bool, passed: int) -> None:
    """With the plugin, tests of pytest-asyncio and anyio run on corenet's loop: all three pass.

    Without it only `test_anyio_run` passes, which selects the loop itself.
    """
    pytest.importorskip("pytest_asyncio", reason="pip install pytest-asyncio")
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [
            *(*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-k", "not trio"),
            *(("-p", "corenet.adapters.pytest_plugin") if plugin else ()),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert re.search(rf"\b{passed} passed", done.stdout), done.stdout + done.stderr
    assert ("failed" in done.stdout) == (not plugin), done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [((), 2, "usage:"), (("--help",), 0, "usage:"), (("no-such-program",), 1, "is not a command")],
)
def test_launch_reports_wrong_usage(arguments: tuple[str, ...], status: int, expected: str) -> None:
    done = subprocess.run(
        [*LAUNCH, *arguments], env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == status
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
