"""Runs ``corenet get`` in this process, without proxies of the environment."""

import json
from typing import Any

import pytest

from corenet.http import cli

__all__ = ["echo", "get", "no_proxies"]


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the variables that name proxies out of the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def get(capfdbinary: Any, *arguments: str) -> tuple[int, bytes, str]:
    """The exit status, standard output and standard error of the command."""
    code = cli.main(["get", *arguments])
    out, err = capfdbinary.readouterr()
    return code, out, err.decode()


def echo(capfdbinary: Any, *arguments: str) -> dict[str, Any]:
    """The JSON body that a server has sent back, after success without a message."""
    code, out, err = get(capfdbinary, *arguments)
    assert (code, err) == (0, "")
    shown: dict[str, Any] = json.loads(out)
    return shown
