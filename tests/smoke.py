"""Checks an installed wheel in seconds; run by the Python it is installed for, from outside the checkout.

Every module is imported, so that a file missing from the package is noticed. Bytes are echoed through the loop, and the
resolver answers from the playground. With ``--commands`` the commands are run too, and a daemon is started and queried.
Without it no other process is started, so that it runs on an emulated processor.
"""

import asyncio
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import corenet
import resolver
from resolver.daemon.web_page import load_page

#: Packages that modules for optional integrations import.
OPTIONAL = {
    "aiohttp", "brotli", "granian", "gunicorn", "httpx", "maxminddb", "prometheus_client", "publicsuffixlist", "pytest",
    "qh3", "redis", "uvicorn_worker", "yaml", "zstandard",
}
TIMEOUT = 120.0
NAME = "www.example.com"
ADDRESS = "198.18.2.1"


def import_all() -> int:
    """Import each module of both packages; return how many there are."""
    count = 0
    for package in (corenet, resolver):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith(".__main__"):
                continue
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name not in OPTIONAL:
                    raise
            count += 1
    return count


def check_files() -> None:
    """Check that the files for type checkers and Cython, and those of the web page, are in the packages."""
    assert load_page()[0].startswith(b"<!DOCTYPE html>")
    for package in (corenet, resolver):
        folder = Path(package.__path__[0])
        compiled = {path.name.split(".")[0] for path in folder.rglob("*.so")}
        assert compiled, f"{folder} holds no extension module"
        assert (folder / "py.typed").exists(), f"{folder} has no py.typed"
        assert any(folder.rglob("*.pxd")), f"{folder} has no .pxd"
        assert any(folder.rglob("*.pyi")), f"{folder} has no .pyi"
        assert not any(folder.rglob("*.pyx")), f"{folder} holds sources of Cython"


async def echo() -> None:
    """Send a megabyte to a server on loopback and back."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    sent = bytes(range(256)) * 4096
    server = await corenet.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await corenet.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        received = await reader.readexactly(len(sent))
        writer.close()
        await writer.wait_closed()
    assert received == sent
    assert type(asyncio.get_running_loop()) is corenet.Loop


async def output_of(command: str, *arguments: str) -> str:
    """Return what one of our commands prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / command, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, (command, arguments, process.returncode, output)
    return output.decode()


async def commands(folder: Path) -> None:
    """Check that the commands exist and work, and that a daemon answers."""
    for command in ("resolverd", "resolverctl", "rdig", "corenet"):
        assert "usage" in (await output_of(command, "--help")).lower()
    config = folder / "resolverd.toml"
    config.write_text('[server]\nlisten = ["127.0.0.1:5399"]\n')
    await output_of("resolverd", "--check", "--config", str(config))
    daemon = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "resolverd", "--playground", "--listen", "127.0.0.1:0",
        stderr=asyncio.subprocess.PIPE,
    )
    assert daemon.stderr is not None
    try:
        while (serving := re.search(rb"serving 127\.0\.0\.1:(\d+)", line := await daemon.stderr.readline())) is None:
            assert line, "the daemon ended before it was ready"
        assert (await output_of("rdig", "@127.0.0.1", "-p", serving[1].decode(), "+short", NAME)).split() == [ADDRESS]
    finally:
        daemon.terminate()
        await daemon.communicate()
    assert daemon.returncode == 0, f"the daemon ended with {daemon.returncode}"


async def main() -> None:
    """`smoke.py [--commands FOLDER]`."""
    async with asyncio.timeout(TIMEOUT):
        await echo()
        if sys.argv[1:2] == ["--commands"]:
            await commands(Path(sys.argv[2]))


if __name__ == "__main__":
    beside = Path(corenet.__file__).parents[1]
    assert not (beside / "setup.py").exists(), f"{beside} is a checkout, not an installed package"
    check_files()
    version = sys.version.split()[0]
    print(f"corenet {corenet.__version__}, Python {version}: {import_all()} modules imported", flush=True)
    corenet.run(main())
    from resolver.cli import dig

    sys.exit(dig.main(["--playground", "+short", NAME]))
