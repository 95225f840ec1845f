"""Commands that use a student: upscale, export."""

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from dukd.cli.evaluate import student_of, tell
from dukd.cli.terminal import Bar, err, note, say
from dukd.core.device import DeviceName, by_name
from dukd.core.text import shown
from dukd.deploy import export, upscale, workers
from dukd.images import EXTENSIONS, MAX_PIXELS
from dukd.networks.files import weights

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """Enlarge images; what cannot be read is listed at the end, and the others are done.

    Gray, 16 bits, transparency and color profiles are kept. Large images are cut into tiles that
    give the same answer as the whole, where the network allows it.

    Example: dukd upscale photos/ -o out/ -m student.safetensors
    """

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Images, or folders of them; -i may stand before them."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o", "--output"])]
    """Folder for the results."""
    model: Annotated[Path, tyro.conf.arg(aliases=["-m", "-n"])]
    """File of weights, or a run directory."""
    outscale: Annotated[float | None, tyro.conf.arg(aliases=["-s"])] = None
    """Final size as a factor of the input's, if it is not the network's."""
    tile: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Side of the pieces large images are cut into, in pixels of the input; chosen by itself if
    left out or 0."""
    self_ensemble: Annotated[bool, tyro.conf.arg(aliases=["-x"])] = False
    """Whether to answer as the mean over eight flips and rotations: eight times slower, a little
    better."""
    suffix: str | None = None
    """What is put behind the names; _x4 for a scale of 4 if left out."""
    recursive: bool = False
    """Whether folders below are searched too."""
    skip_existing: bool = False
    """Whether images that are finished already are left out."""
    quality: int = 95
    """Quality of JPEG and WebP, 1 to 100."""
    max_pixels: int = MAX_PIXELS
    """Largest input, in pixels."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the network."""
    device: DeviceName = "auto"
    """Where the network runs; on a cluster, say cuda to give each worker a GPU or its share of
    one."""
    workers: int = 0
    """Processes that share the images and the cores or GPUs, by Ray; with 0, all is done in this
    one."""
    ray_address: str | None = None
    """Ray cluster on which the workers run, host:port, or auto for one on this machine; a private
    one if left out."""

    def __call__(self) -> int:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is 1 to 100, but got {self.quality}")
        if self.tile is not None and self.tile < 0:
            raise ValueError(f"--tile is a number of pixels, but got {self.tile}")
        if self.out.suffix.lower() in EXTENSIONS and not self.out.is_dir():
            raise ValueError(
                f"--out is a folder, but got {shown(self.out)}; the results are named after the "
                "inputs"
            )
        engine = self._engine()
        elsewhere = (
            self.ray_address is not None and self.device != "auto"
        )  # this machine need not have the device
        device = torch.device(self.device) if elsewhere else by_name(self.device)
        path = student_of(self.model)
        notes: list[str] = []
        network = weights.read(path, report=notes.append).frozen()
        how = (
            f"make a file that says so: dukd export {shown(path)} -o sure.safetensors with "
            "{options}"
        )
        tell(path, notes, network.config, how=how)
        where = f"{device}, {self.workers} workers" if self.workers else device
        note(
            f"{shown(path)}: {network.config.name} x{network.scale}, "
            f"{network.parameter_count():,} parameters, {where}"
        )
        with (
            Bar() as progress,
            redirect_stdout(sys.stderr),
        ):  # where Ray reports what became of workers
            result = upscale.upscale_files(
                network,
                self.inputs,
                self.out,
                model=path.name,
                suffix=self.suffix,
                recursive=self.recursive,
                skip_existing=self.skip_existing,
                outscale=self.outscale,
                quality=self.quality,
                max_pixels=self.max_pixels,
                tile=self.tile or None,
                device=device,
                precision=_PRECISIONS[self.precision],
                self_ensemble=self.self_ensemble,
                progress=progress,
                engine=engine,
            )
        for done in result.done:
            say(shown(done.target) + (f"  ({done.note})" if done.note else ""))
        if result.skipped:
            note(f"{len(result.skipped)} were finished already")
        if result.failed:
            total = len(result.done) + len(result.skipped) + len(result.failed)
            err.print(
                f"[bold red]dukd:[/] {len(result.failed)} of {total} images were not enlarged:"
            )
            for failed in result.failed:
                err.print(shown(failed.reason), markup=False)
        return 1 if result.failed else 0

    def _engine(self) -> upscale.Engine:
        if self.workers < 0:
            raise ValueError(
                f"--workers is a number of processes, or 0 for none, but got {self.workers}"
            )
        if self.workers:
            return workers.Workers(self.workers, self.ray_address)
        if self.ray_address is not None:
            raise ValueError("--ray-address is for workers: say how many with --workers")
        return upscale.one_by_one


Format = Literal["auto", "onnx", "basicsr", "official", "dukd"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student for other programs, and compare what was written with the student.

    onnx runs in onnxruntime and what takes ONNX, at any size; basicsr and official are weights
    under the names that BasicSR and the network's authors use, for chaiNNer and the like; dukd is
    safetensors that describe themselves.

    Example: dukd export runs/edsr-x4-dukd -o student.onnx
    """

    student: tyro.conf.Positional[Path]
    """File of weights, or a run directory."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The file to write."""
    format: Annotated[Format, tyro.conf.arg(aliases=["-f"])] = "auto"
    """What to write; auto goes by the ending: onnx for .onnx, basicsr for .pth, dukd for
    .safetensors."""
    half: bool = False
    """Whether an ONNX graph computes in float16."""
    opset: int = 20
    """Version of ONNX's operators."""
    size: tuple[int, int] | None = None
    """Height and width that an ONNX graph is fixed to; any if left out."""
    value_range: float | None = None
    """Largest value the network computes with, 1 or 255, where the file does not say."""
    mean: tuple[float, float, float] | None = None
    """RGB mean in [0, 1] that the network subtracts, where the file does not say."""
    residual_scale: float | None = None
    """Factor of each residual block, where the file does not say."""

    def __call__(self) -> int:
        form = self._form()
        path = student_of(self.student)
        notes: list[str] = []
        network = weights.read(
            path,
            value_range=self.value_range,
            mean=self.mean,
            residual_scale=self.residual_scale,
            report=notes.append,
        ).frozen()
        tell(path, notes, network.config)
        if form == "onnx":
            with Bar() as progress:
                done = export.export_onnx(
                    network,
                    self.out,
                    opset=self.opset,
                    dynamic=self.size is None,
                    size=self.size or (64, 64),
                    half=self.half,
                    progress=progress,
                )
        else:
            done = export.export_weights(network, self.out, form)
        say(
            f"wrote {shown(done.path)}: {network.config.name} x{network.scale} as {done.form}, "
            f"{done.bytes:,} bytes"
        )
        sizes = ", ".join(f"{n} x {h} x {w}" for n, h, w in done.sizes)
        say(
            f"largest difference to the student: {done.largest_error:.1e} where white is 1, at "
            f"{sizes}"
        )
        return 0

    def _form(self) -> Literal["onnx", "basicsr", "official", "dukd"]:
        if self.format != "auto":
            return self.format
        match self.out.suffix:
            case ".onnx":
                return "onnx"
            case ".pth" | ".pt":
                return "basicsr"
            case ".safetensors":
                return "dukd"
            case _:
                raise ValueError(
                    f"--out ends in .onnx, .pth or .safetensors, but got {shown(self.out)}"
                )
