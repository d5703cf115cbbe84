"""Chromium, driven by its own protocol through two pipes: opens a page, and hears all that it says, asks for and shows.

https://chromedevtools.github.io/devtools-protocol/ ; a message is one JSON object, ended by a NUL.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts.browser import find

ANSWER_SECONDS = 60.0
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio")
WIRED = "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
"""Begins the browser with its two pipes where it looks for them: 3 to hear, 4 to say."""
SAID = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}


@dataclass
class Page:
    """One opened page.

    Attributes:
        said: everything on its console, and what the browser complains of.
        requests: every address that it asked for, its own first.
    """

    browser: Browser
    session: str
    said: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, url: str, width: int, *, dark: bool = False) -> None:
        """Load an address in a window of this width, and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=url)
        self.browser.hear(lambda: "Page.loadEventFired" in self.browser.events)
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.ask(method, self.session, **parameters)

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page; the page's own policy does not hold for it."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.ask("Runtime.evaluate", **given)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a picture."""
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """One browser process."""

    def __init__(self, program: str, folder: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        command = [sys.executable, "-c", WIRED, *map(str, theirs), program, *flags]
        quiet: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        self.process = subprocess.Popen(command, pass_fds=theirs, **quiet)
        for end in (theirs_in, theirs_out, *theirs):
            os.close(end)
        self._buffer, self._number = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self.events: set[str] = set()

    def page(self) -> Page:
        """A new, empty page."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events = set()
        return self._pages.setdefault(session, Page(self, session))

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send one command, and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        number = self._number
        self.hear(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def hear(self, enough: Any) -> None:
        """Take in what the browser says until that is enough."""
        end = time.monotonic() + ANSWER_SECONDS
        while not enough():
            assert select.select([self._in], [], [], max(end - time.monotonic(), 0))[0], "the browser does not answer"
            more = os.read(self._in, 1 << 20)
            assert more, "the browser has ended"
            *messages, self._buffer = (self._buffer + more).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        self.events.add(message["method"])
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None and message["method"] in SAID:
            page.said.append(message["params"])
        if page is not None and message["method"] == "Network.requestWillBeSent":
            page.requests.append(message["params"]["request"]["url"])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._in)
        os.close(self._out)


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """A browser for the block; without one the test is skipped at home, and fails in CI."""
    program = find()
    if program is None:
        assert not os.environ.get("CI"), "CI needs a browser: python scripts/browser.py"
        pytest.skip("no browser: python scripts/browser.py")
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        browser = Browser(program, Path(folder))
        try:
            yield browser
        finally:
            browser.close()
