"""Drives the Chromium that is installed here, headless, by the DevTools protocol over a pipe: no driver, no port.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, ended by a zero byte, to the browser on its file
descriptor 3 and from it on 4.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATIENCE = 240.0
"""Seconds until what should happen counts as not happening; machines may be busy."""

# puts the two pipes where the browser expects them, which preexec_fn cannot do in a process with threads
LAUNCHER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find_chromium() -> str | None:
    """Where the browser is; ``$CHROMIUM`` comes first."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser with a profile of its own."""

    def __init__(self, path: str, profile: Path) -> None:
        down, up = os.pipe(), os.pipe()
        for descriptor in (down[0], up[1]):
            os.set_inheritable(descriptor, True)  # noqa: FBT003 -- it takes no keyword
        options = (
            "headless", "remote-debugging-pipe", f"user-data-dir={profile}", "no-first-run", "no-sandbox",
            "disable-dev-shm-usage", "use-angle=swiftshader", "enable-unsafe-swiftshader", "hide-scrollbars",
            "disable-background-networking", "disable-component-update", "lang=en-GB",
        )  # fmt: skip
        command = [path, *(f"--{option}" for option in options), "about:blank"]
        self._log = (profile / "stderr.txt").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(down[0]), str(up[1]), *command],
            pass_fds=(down[0], up[1]), stdout=self._log, stderr=self._log,
        )  # fmt: skip
        os.close(down[0])
        os.close(up[1])
        self._to, self._from = down[1], up[0]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)
        self._buffer = b""
        self._last = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self.tabs: dict[str, Tab] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.write(self._to, b'{"id": 0, "method": "Browser.close"}\0')
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._selector.close()
        os.close(self._to)
        os.close(self._from)
        self._log.close()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The browser's answer to a command."""
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        self.wait_for(lambda: number in self._answers, f"an answer to {method}")
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    def wait_for(self, holds: Callable[[], Any], what: str) -> None:
        """Take in what the browser says until that holds."""
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"waited for {what} for {PATIENCE:.0f} s")
            if self._selector.select(0.05):
                self._take(os.read(self._from, 1 << 20))

    def _take(self, read: bytes) -> None:
        if not read:
            raise RuntimeError("the browser has ended")
        *messages, self._buffer = (self._buffer + read).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif message.get("sessionId") in self.tabs:
                self.tabs[message["sessionId"]].take(message["method"], message["params"])

    def tab(self, downloads: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> Tab:
        """A new tab of that size; what it downloads goes to that folder."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self.tabs[session] = Tab(self, session, target, downloads)
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            tab.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True)
        tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        return tab


class Tab:
    """A page: what it asks for, what it complains of, and hands to work it with."""

    def __init__(self, browser: Chromium, session: str, target: str, downloads: Path) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self._downloads = downloads
        self._loads = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def take(self, event: str, told: dict[str, Any]) -> None:
        """Note what matters of what the browser says."""
        if event == "Page.loadEventFired":
            self._loads += 1
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"].get("exception", told["exceptionDetails"])))
        elif event == "Runtime.consoleAPICalled" and told["type"] in {"error", "assert"}:
            self.complaints.append(str([one.get("value", one.get("description")) for one in told["args"]]))
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif event == "Audits.issueAdded" and "ContentSecurityPolicy" in told["issue"]["code"]:
            self.complaints.append(str(told["issue"]["details"]))

    def close(self) -> None:
        del self._browser.tabs[self._session]
        self._browser.call("Target.closeTarget", targetId=self._target)

    def open(self, address: str) -> None:
        with self.loading():
            self.call("Page.navigate", url=address)

    def reload(self) -> None:
        with self.loading():
            self.call("Page.reload")

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Go on when what is done here has loaded a page."""
        before = self._loads
        yield
        self._browser.wait_for(lambda: self._loads > before, "the page to load")

    def evaluate(self, script: str) -> Any:
        """Value of an expression; promises are waited for."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Until that expression is true, across reloads."""
        found: list[Any] = []

        def holds() -> bool:
            try:
                found[:] = [self.evaluate(script)]
            except RuntimeError:  # between two pages
                return False
            if not found[0]:
                time.sleep(0.05)
            return bool(found[0])

        self._browser.wait_for(holds, script)
        return found[0]

    def text(self, selector: str) -> str:
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """As a person does: with the mouse, where the thing is."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, selector: str, right: float, down: float) -> None:
        x, y = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        for step in range(1, 6):
            place = {"x": x + right * step / 5, "y": y + down * step / 5}
            self.call("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **place)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", button="left", clickCount=1, **place)

    def middle(self, selector: str) -> tuple[float, float]:
        find = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.evaluate(f"(({{x, y, width, height}}) => [x, y, width, height])({find}.getBoundingClientRect())")
        return box[0] + box[2] / 2, box[1] + box[3] / 2

    def type(self, text: str) -> None:
        """Into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """A key, by its name and its number on Windows."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def download(self, selector: str, name: str) -> bytes:
        """Click on a link, and what arrives."""
        path = self._downloads / name
        path.unlink(missing_ok=True)
        self.click(selector)
        self._browser.wait_for(
            lambda: path.exists() and not [*self._downloads.glob("*.crdownload")], f"{name} to arrive"
        )
        return path.read_bytes()

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
