"""Commands for people with images and a browser: page, serve."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dukd.cli.assumed import note_assumed
from dukd.cli.terminal import Bar, note, say
from dukd.core.device import DeviceName, by_name
from dukd.core.files import check_target
from dukd.core.text import amount, shown
from dukd.deploy.model import load
from dukd.deploy.page import write_page
from dukd.deploy.serve import Server
from dukd.evaluation.candidates import weights_of
from dukd.networks import Network
from dukd.networks.files import weights


@dataclass(frozen=True, kw_only=True)
class PageOf:
    """Write a page that runs a student in the browser: one file, and images never leave it.

    The engine is npm's onnxruntime-web, installed once: npm install onnxruntime-web@1.30.0

    Example: dukd page student.safetensors -o page.html
    """

    model: tyro.conf.Positional[Path]
    """File of weights, or run directory."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("page.html")
    """The HTML file."""
    title: str = ""
    """Headline; the network's name and scale if left out."""
    engine: Path | None = None
    """Folder of onnxruntime-web's files; node_modules is looked through if left out."""
    webgpu: bool = False
    """Whether the engine for GPUs is put in, which falls back to the processor: twice the size."""
    best: bool = False
    """Whether to take a run's student of the best validation."""

    def __call__(self) -> int:
        if self.out.suffix.lower() not in {".html", ".htm"}:
            raise ValueError(f"--out is an HTML file, but got {shown(self.out)}")
        check_target(self.out)
        network = _network(self.model, best=self.best)
        with Bar() as bar:
            made = write_page(
                network,
                self.out,
                title=self.title,
                engine=self.engine,
                webgpu=self.webgpu,
                progress=bar,
            )
        far = "" if made.verified is None else f", {made.verified.largest:.1g} from the network"
        say(f"wrote {shown(made.path)}: {amount(made.bytes)}{far}; open it in a browser")
        return 0


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Open the same page with this machine's own engine behind it, for this machine alone.

    Example: dukd serve student.safetensors
    """

    model: tyro.conf.Positional[Path]
    """File of weights, or run directory."""
    port: int = 8350
    """Of 127.0.0.1; 0 for any that is free."""
    title: str = ""
    """Headline; the network's name and scale if left out."""
    device: DeviceName = "auto"
    """Where the network runs."""
    best: bool = False
    """Whether to take a run's student of the best validation."""

    def __call__(self) -> int:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port is from 0 to 65535, but got {self.port}")
        network = _network(self.model, best=self.best).to(by_name(self.device))
        try:
            server = Server(network, port=self.port, title=self.title, report=note)
        except OSError as error:
            raise ValueError(
                f"port {self.port} cannot be had ({error.strerror}): name another, or --port 0"
            ) from error
        say(f"open {server.address} in a browser; Ctrl-C ends it")
        with server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                say("ended")
        return 0


def _network(model: Path, *, best: bool) -> Network:
    network = load(model, best=best).network
    how = f"dukd export {shown(model)} -o sure.safetensors with {{options}}, and take that file"
    note_assumed(weights.inspect(weights_of(model, best=best)), how=how)
    return network
