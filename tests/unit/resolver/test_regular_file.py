"""Files that a configuration names are opened by `open_regular`, which waits for nothing."""

import ast
import os
import socket
from pathlib import Path

import pytest

from resolver.regular_file import open_regular

PACKAGE = Path(__file__).resolve().parents[3] / "resolver"


def test_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"


@pytest.mark.parametrize(("kind", "said"), [
    ("fifo", "it is a FIFO"), ("directory", "Is a directory"), ("socket", "No such device"),
    ("device", "it is a device"), ("missing", "No such file"),
])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / "one"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    with pytest.raises(OSError) as raised:
        open_regular(path)
    assert said in str(raised.value.strerror)


# Files that nobody else names: descriptors that are open already, files in memory and those of the package itself.
OTHER_FILES = {
    "cli/control.py", "cli/explain.py", "daemon/cache_file.py", "daemon/config_reload.py", "daemon/list_files.py",
    "daemon/predecessor.py", "daemon/privileges.py", "daemon/stdout.py", "daemon/successor.py", "daemon/web_access.py",
    "daemon/worker_ipc.py", "daemon/zone_files.py", "cli/importers/draft.py",
}


@pytest.mark.checkout
def test_no_other_place_opens_a_file_for_reading() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (
                (isinstance(node.func, ast.Name) and node.func.id == "open")
                or (isinstance(node.func, ast.Attribute) and node.func.attr == "read_bytes")
            ):
                found.add(str(path.relative_to(PACKAGE)))
    assert found - {"regular_file.py"} <= OTHER_FILES
    assert found >= OTHER_FILES, "no longer needed"
