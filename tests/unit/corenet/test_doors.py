"""The doors of the packages: every public name is there, also those whose modules are loaded when first used."""

import importlib
import subprocess
import sys

import pytest

DOORS = ("corenet", "corenet.core", "corenet.loop", "corenet.transports")


@pytest.mark.parametrize("door", DOORS)
def test_every_public_name_is_listed_before_it_is_used_and_is_there(door: str) -> None:
    code = f"import {door} as door; print(*set(door.__all__) - set(dir(door)))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert listed.stdout.split() == []
    module = importlib.import_module(door)
    for name in module.__all__:
        if name != "EventLoopPolicy":
            assert getattr(module, name) is vars(module)[name]


@pytest.mark.parametrize("door", DOORS)
def test_other_names_are_refused_as_any_module_does(door: str) -> None:
    module = importlib.import_module(door)
    with pytest.raises(AttributeError, match=f"^module '{door}' has no attribute 'absent'$"):
        _ = module.absent
    with pytest.raises(ImportError, match="cannot import name 'absent'"):
        exec(f"from {door} import absent")
