"""The public names of the packages: each exists, also those whose modules are loaded on first use."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("corenet", "corenet.core", "corenet.loop", "corenet.transports")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_listed_and_exists(package: str) -> None:
    code = f"import {package} as package; print(*set(package.__all__) - set(dir(package)))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert listed.stdout.split() == []
    module = importlib.import_module(package)
    for name in module.__all__:
        if name != "EventLoopPolicy":
            assert getattr(module, name) is vars(module)[name]


@pytest.mark.parametrize("package", PACKAGES)
def test_other_names_raise_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"^module '{package}' has no attribute 'absent'$"):
        _ = module.absent
    with pytest.raises(ImportError, match="cannot import name 'absent'"):
        exec(f"from {package} import absent")


MOST_EXTENSIONS = 14
MOST_MODULES = 18
"""In Python. Each module costs 0.1 to 0.3 ms, and the import has some milliseconds beside asyncio's."""


def test_the_import_loads_only_what_a_plain_loop_needs() -> None:
    code = (
        "import asyncio, sys; before = set(sys.modules); import corenet; "
        "print(*(f'{n} {getattr(sys.modules[n], \"__file__\", \"\")}' for n in set(sys.modules) - before), sep='\\n')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    files = dict(line.split(" ", 1) for line in said.stdout.splitlines())
    ours = {name: file for name, file in files.items() if name.partition(".")[0] == "corenet"}
    extensions = {name for name, file in ours.items() if file.endswith(".so")}
    assert len(extensions) <= MOST_EXTENSIONS, sorted(extensions)
    assert len(ours) - len(extensions) <= MOST_MODULES, sorted(set(ours) - extensions)
    # Python 3.11 tells only by this one in which interpreter it is; Cython's two hold what its modules share.
    others = {name for name in files if name not in ours and not name.lstrip("_").startswith("cython_")}
    assert others <= {"_xxsubinterpreters"}, sorted(others)
