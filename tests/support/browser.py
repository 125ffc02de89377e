"""A headless Chromium that is driven by the W3C WebDriver protocol of chromedriver: plain HTTP and JSON.

Each browser has a new profile and reaches loopback addresses only. What it writes to its console, as errors of scripts
and violations of a Content-Security-Policy, is read by `Browser.console`.
"""

import base64
import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.ports import free_port
from support.servers import program, run_process, wait_until

__all__ = ["Browser", "browser"]

TIMEOUT = 60
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver section 12: the key of a reference to an element
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * 127.0.0.1",
)


class Browser:
    """One session of chromedriver."""

    def __init__(self, driver: str, session: str) -> None:
        self._base = f"{driver}/session/{session}"

    def call(self, method: str, path: str, **content: Any) -> Any:
        """A command of the session, and its value."""
        return _call(method, self._base + path, content if method == "POST" else None)

    def open(self, url: str) -> None:
        self.call("POST", "/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that the body of a function returns."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def text(self, selector: str) -> str:
        """The text of the first element, as the page shows it; empty without one."""
        found: str = self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", selector)
        return found

    def until(self, condition: Callable[[], Any], what: str) -> None:
        wait_until(lambda: bool(condition()), what)

    def _find(self, selector: str) -> str:
        found: dict[str, str] = self.call("POST", "/element", using="css selector", value=selector)
        return found[ELEMENT]

    def click(self, selector: str) -> None:
        self.call("POST", f"/element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Put `text` into a field, in the place of what it has."""
        field = self._find(selector)
        self.call("POST", f"/element/{field}/clear")
        self.call("POST", f"/element/{field}/value", text=text)

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the Chrome DevTools protocol."""
        return self.call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page in CSS pixels; narrower than a window can be."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                      mobile=width < 600)

    def prefer(self, scheme: str) -> None:
        """Prefer "light" or "dark"."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def network(self, *, offline: bool = False, latency: int = 0, octets_per_second: int = -1) -> None:
        """Make the network slow, or let it fail."""
        self.devtools("Network.enable")
        self.devtools("Network.emulateNetworkConditions", offline=offline, latency=latency,
                      downloadThroughput=octets_per_second, uploadThroughput=octets_per_second)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def console(self) -> list[str]:
        """What was written to the console since the last call, without what the browser says of its own pages."""
        entries = self.call("POST", "/se/log", type="browser")
        return [f"{entry['level']}: {entry['message']}" for entry in entries
                if not entry["message"].startswith("chrome://")]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser until the block ends, with its profile in `folder`; skips the test without Chromium."""
    folder.mkdir(parents=True, exist_ok=True)
    chromium, port, log = program("chromium"), free_port(), folder / "chromedriver.log"
    base = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "HOME": str(folder)}
    with run_process([program("chromedriver"), f"--port={port}"], log, env=environment) as process:
        wait_until(lambda: _is_ready(base), "chromedriver", process=process, log=log)
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {
                "binary": chromium, "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"],
            },
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = _call("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
        session = Browser(base, made["sessionId"])
        try:
            yield session
        finally:
            with contextlib.suppress(OSError):
                session.call("DELETE", "")


def _is_ready(base: str) -> bool:
    try:
        return bool(_call("GET", f"{base}/status", None)["ready"])
    except OSError:
        return False


def _call(method: str, url: str, content: Any) -> Any:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            return json.load(reply)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {error.read().decode(errors='replace')[:1000]}") from None
