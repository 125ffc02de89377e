"""Free-threaded Python is not supported: the build and the import are refused, each with a sentence that says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corenet.core import interpreter

ROOT = Path(__file__).resolve().parents[3]


def test_a_build_without_the_gil_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter.refuse_free_threading()
    monkeypatch.setattr(sys, "abiflags", sys.abiflags + "t")
    with pytest.raises(ImportError, match=r"corenet needs the GIL and this Python 3\.\d+ was built without it"):
        interpreter.refuse_free_threading()


@pytest.mark.checkout
def test_setup_refuses_to_build_without_the_gil() -> None:
    code = (
        "import runpy, sys, sysconfig; real = sysconfig.get_config_var; "
        "sysconfig.get_config_var = lambda name: 1 if name == 'Py_GIL_DISABLED' else real(name); "
        "sys.argv = ['setup.py', '--version']; runpy.run_path('setup.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "CORENET_MODULES": "none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "not built for free-threaded Python" in done.stderr
