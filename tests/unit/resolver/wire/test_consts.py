"""The constants of consts.pxd, which compiled modules use, are those of consts.py."""

import re
from pathlib import Path

import pytest

from resolver.wire import consts

pytestmark = pytest.mark.checkout

PXD = Path(__file__).resolve().parents[4] / "resolver" / "wire" / "consts.pxd"
# Prefixes of names that Cython modules cimport one by one, and what they stand for in consts.py.
PREFIXES = {"T_": "", "C_": "", "F_": "", "O_": "OPTION_", "EDNS_": ""}
ONLY_IN_C = re.compile(r"E_|F_(OPCODE|RCODE|Z)$|(LABELS_MAX|NAME_MAX|OPT_SIZE)$")


def declared() -> list[tuple[str, int]]:
    return [(name, int(value, 0)) for name, value in re.findall(
        r"^    ([A-Z][A-Z0-9_]*) = (-?(?:0x)?[0-9A-Fa-f]+)", PXD.read_text(encoding="utf-8"), re.M)]


def test_constants_of_c_are_those_of_python() -> None:
    found = declared()
    assert len(found) > 100
    wrong = []
    for name, value in found:
        if ONLY_IN_C.match(name):
            continue
        names = [name, *(new + name.removeprefix(old) for old, new in PREFIXES.items() if name.startswith(old))]
        values = [vars(consts)[one] for one in names if one in vars(consts)]
        if values != [value]:
            wrong.append((name, value, values))
    assert wrong == []
