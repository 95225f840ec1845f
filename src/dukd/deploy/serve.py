"""The page of `dukd.deploy.page` with this machine's own engine behind it, on loopback.

Nothing but this machine connects: the socket is bound to 127.0.0.1, and requests that name another
host, or come from a page of another place, are refused. Images are read with the package's own
limits, one at a time, and not kept.
"""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from typing_extensions import override

from dukd._version import __version__
from dukd.deploy.html import html
from dukd.deploy.image import upscale_image
from dukd.images import ImageError, read, write
from dukd.networks import Network

LARGEST = 64_000_000
"""Bytes of the largest file that is taken."""
MOST_PIXELS = 25_000_000
"""Pixels of the largest image that is taken."""
WAITING = 8
"""Requests that wait for the one that is worked on; more are refused."""

_POLICY = {
    "default-src": "'none'",
    "script-src": "'unsafe-inline'",
    "style-src": "'unsafe-inline'",
    "img-src": "blob: data:",
    "connect-src": "'self'",
    "form-action": "'none'",
    "base-uri": "'none'",
}

Report = Callable[[str], None]
"""Called with a line for every image."""


class Server(ThreadingHTTPServer):
    """Serves the page and enlarges what it sends."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, network: Network, *, port: int, title: str, report: Report) -> None:
        """Bind to loopback.

        Args:
            network: What enlarges, where it is to run.
            port: Of 127.0.0.1; 0 for any that is free.
            title: Headline of the page; the network's name and scale if empty.
            report: Called with a line for every image.

        Raises:
            OSError: If the port is taken.
        """
        super().__init__(("127.0.0.1", port), _Handler)
        self.network, self.report = network, report
        self.turn, self.places = threading.Lock(), threading.Semaphore(WAITING)
        facts: dict[str, object] = {"scale": network.scale, "served": True, "most": 0}
        about = "The network runs on this machine; images do not leave it."
        self.page = html(network, facts, about=about, title=title, data="", policy=_POLICY).encode()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def enlarged(self, content: bytes) -> bytes:
        """A file's image, enlarged, as PNG.

        Raises:
            ImageError: If it holds none that can be read.
            MemoryError: If memory does not suffice.
        """
        with TemporaryDirectory(prefix="dukd-") as folder:
            path = Path(folder) / "image"
            path.write_bytes(content)
            image = read(path, max_pixels=MOST_PIXELS)
            with self.turn:
                large, note = upscale_image(self.network, image)
            h, w = large.pixels.shape[:2]
            said = "; ".join(filter(None, (note, *image.notes)))
            self.report(f"enlarged an image to {w} x {h}{f': {said}' if said else ''}")
            out = path.with_suffix(".png")
            write(out, large)
            return out.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]  always ours
    server_version = f"dukd/{__version__}"
    sys_version = ""
    timeout = 60.0

    def do_GET(self) -> None:
        if self._is_strange():
            return
        if self.path != "/":
            self._send(HTTPStatus.NOT_FOUND, b"there is only /", "text/plain")
            return
        self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if self._is_strange():
            return
        if self.path != "/upscale":
            self._send(HTTPStatus.NOT_FOUND, b"images go to /upscale", "text/plain")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not 0 < int(length) <= LARGEST:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"A file has 1 to {LARGEST // 1_000_000} million bytes: cut the image.",
            )
            return
        if not self.server.places.acquire(blocking=False):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many images at once: try again.")
            return
        try:
            large = self.server.enlarged(self.rfile.read(int(length)))
        except ImageError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, _without_path(error))
        except MemoryError:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, "Memory does not suffice for it.")
        except ValueError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        else:
            self._send(HTTPStatus.OK, large, "image/png")
        finally:
            self.server.places.release()

    def _is_strange(self) -> bool:
        """Whether a request names another host, or comes from another page; it is refused then."""
        port = self.server.server_address[1]
        own = {f"127.0.0.1:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin", "")
        if self.headers.get("Host", "") in own and origin.removeprefix("http://") in {"", *own}:
            return False
        self._refuse(HTTPStatus.FORBIDDEN, "This page is for its own machine alone.")
        return True

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # what was sent may not have been read
        self._send(status, text.encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what is enlarged is reported."""


def _without_path(error: ImageError) -> str:
    """What is wrong with a file, less the name that it had here for a moment."""
    _, colon, reason = str(error).partition("/image: ")
    return reason if colon else str(error)
