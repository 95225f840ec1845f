"""A page in Chromium, by its own protocol over a pipe: no driver, no package, one process."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)
_PATIENCE = 40.0
"""Seconds of silence after which a browser counts as dead."""


class Browser:
    """One tab."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._rest = b""
        self._number = 0
        self._session = ""
        self._loaded = False
        self.errors: list[str] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._send(f"{domain}.enable")

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found["error"]
                return found["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], _PATIENCE)[0], "the browser is silent"
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        match message:
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.errors.append(json.dumps(details))
            case {"method": "Page.loadEventFired"}:
                self._loaded = True
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error"} as entry}}:
                self.errors.append(entry["text"])
            case _:
                pass
        return message

    def size(self, width: int, height: int = 900, *, dark: bool = False, media: str = "") -> None:
        """Set the window's size, in CSS pixels, and what the reader prefers."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def open(self, page: Path) -> None:
        """Load a page, and wait until its script has drawn."""
        self._loaded = False
        self._send("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._next()
        frames = "new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))"
        images = "Promise.all([...document.images].map(i => i.decode().catch(() => 0)))"
        self.run(f"{images}.then(() => {frames})")

    def run(self, script: str) -> Any:
        """Evaluate an expression, and wait for it."""
        found = self._send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key such as Tab or ArrowRight."""
        codes = {"Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self._send("Input.dispatchKeyEvent", type="rawKeyDown", **event)
        self._send("Input.dispatchKeyEvent", type="keyUp", **event)

    def mouse(self, kind: str, x: float, y: float, *, held: bool = False) -> None:
        """Move, press or release the mouse: ``mouseMoved``, ``mousePressed``, ``mouseReleased``."""
        button = "left" if held or kind != "mouseMoved" else "none"
        self._send(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button=button,
            buttons=int(held),
            clickCount=1,
        )

    def tap(self, x: float, y: float) -> None:
        """Touch a place and let go."""
        self._send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self._send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def shot(self, file: Path) -> None:
        """Save the whole page as PNG."""
        found = self._send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(folder: Path) -> Generator[Browser, None, None]:
    """A browser with a profile in a folder; it ends with the block."""
    assert FOUND is not None
    their_end, to_it = _pipe()
    from_it, its_end = _pipe()
    ends = f"os.dup2({their_end}, 3); os.dup2({its_end}, 4)"
    start = f"import os, sys; {ends}; os.execv(sys.argv[1], sys.argv[1:])"
    arguments = [FOUND, *_OPTIONS, f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", start, *arguments],
        pass_fds=(their_end, its_end),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    os.close(their_end)
    os.close(its_end)
    try:
        yield Browser(to_it, from_it)
    finally:
        os.close(to_it)
        os.close(from_it)
        process.terminate()
        process.wait(20)


def _pipe() -> tuple[int, int]:
    """Ends to read from and to write to, above the numbers that the protocol wants."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
