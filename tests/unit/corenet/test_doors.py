"""The public names of the packages: each exists, also those whose modules are loaded on first use."""

import importlib
import subprocess
import sys

import pytest

DOORS = ("corenet", "corenet.core", "corenet.loop", "corenet.transports")


@pytest.mark.parametrize("door", DOORS)
def test_every_public_name_is_listed_and_exists(door: str) -> None:
    code = f"import {door} as door; print(*set(door.__all__) - set(dir(door)))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert listed.stdout.split() == []
    module = importlib.import_module(door)
    for name in module.__all__:
        if name != "EventLoopPolicy":
            assert getattr(module, name) is vars(module)[name]


@pytest.mark.parametrize("door", DOORS)
def test_other_names_raise_attribute_error(door: str) -> None:
    module = importlib.import_module(door)
    with pytest.raises(AttributeError, match=f"^module '{door}' has no attribute 'absent'$"):
        _ = module.absent
    with pytest.raises(ImportError, match="cannot import name 'absent'"):
        exec(f"from {door} import absent")


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
