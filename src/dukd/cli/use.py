"""Commands that use a student: upscale, export."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from typing_extensions import override

from dukd import images
from dukd.cli.assumed import note_assumed
from dukd.cli.terminal import Bar, err, note, say
from dukd.core.allocator import keep_freed_memory
from dukd.core.config import nearest
from dukd.core.device import by_name
from dukd.core.registry import known
from dukd.core.text import amount, shown
from dukd.deploy.model import load
from dukd.deploy.runtime import Exported, Runtime, export, runtime_of
from dukd.deploy.upscale import UpscaleOptions, upscale
from dukd.evaluation.candidates import weights_of
from dukd.networks import Network
from dukd.networks.files import weights

SHORT = {
    "-s": "--outscale",
    "-t": "--tile",
    "-x": "--self-ensemble",
    "-f": "--format",
    "--overwrite": "--no-skip-existing",
}
"""Other programs' names for options of upscale."""


@dataclass(frozen=True, kw_only=True)
class Upscale(UpscaleOptions):
    """Enlarge images; what cannot be read is listed at the end, and the others are done.

    Gray, 16 bits, transparency and color profiles are kept. Large images are cut into tiles that
    give the same output as the whole, where the network allows it. -s, -t, -x and -f stand for
    --outscale, --tile, --self-ensemble and --format, and --overwrite for --no-skip-existing.

    What runs the network is chosen for speed where there is much to do, and said; --exact is torch
    in float32.

    Example: dukd upscale photos/ -o out/ -m student.safetensors
    """

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Images, or folders of them; -i may stand before them."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o", "--output"])]
    """Folder for the results."""
    model: Annotated[Path, tyro.conf.arg(aliases=["-m", "-n"])]
    """File of weights, export (.onnx, .xml, .param), or run directory."""
    best: bool = False
    """Whether to take a run's student of the best validation."""

    @override
    def __post_init__(self) -> None:
        """Wait with complaints until the command runs, so that they are plain sentences."""

    def __call__(self) -> int:
        options = UpscaleOptions(**{f.name: getattr(self, f.name) for f in fields(UpscaleOptions)})
        if self.out.suffix.lower() in images.EXTENSIONS and not self.out.is_dir():
            raise ValueError(
                f"--out is a folder, but got {shown(self.out)}; the results are named after the "
                "inputs"
            )
        keep_freed_memory()
        model = load(self.model, best=self.best)
        size = ""
        if isinstance(model.upscaler, Network):
            how = (
                f"make a file that says so: dukd export {shown(self.model)} -o sure.safetensors "
                "with {options}"
            )
            note_assumed(weights.inspect(weights_of(self.model, best=self.best)), how=how)
            size = f", {model.network.parameter_count():,} parameters"
        where = self.device if self.ray_address else by_name(self.device)
        workers = f", {self.workers} workers" if self.workers else ""
        note(f"{shown(self.model)}: {model.upscaler.name} x{model.scale}{size}, {where}{workers}")
        with (
            Bar() as progress,
            redirect_stdout(sys.stderr),
        ):  # where Ray reports what became of workers
            result = upscale(model, self.inputs, self.out, options, progress=progress, report=note)
        for done in result.done:
            say(shown(done.target) + (f"  ({done.note})" if done.note else ""))
        if result.skipped:
            note(f"{len(result.skipped)} were finished already")
        if passed := images.passed_over(result.passed_over):
            note(passed)
        if result.failed:
            total = len(result.done) + len(result.skipped) + len(result.failed)
            err.print(
                f"[bold red]dukd:[/] {len(result.failed)} of {total} images were not enlarged:"
            )
            for failed in result.failed:
                err.print(shown(failed.reason), markup=False)
        return 1 if result.failed else 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student for other programs, and compare what was written with the student.

    The ending of --out says for which: .onnx is a graph for onnxruntime and what takes ONNX, at any
    size; .safetensors and .pth are weights, under dukd's names or those that chaiNNer and the like
    know.

    Example: dukd export runs/edsr-x4-dukd -o student.onnx
    """

    student: tyro.conf.Positional[Path]
    """File of weights, or a run directory."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The file to write."""
    best: bool = False
    """Whether to take a run's student of the best validation."""
    value_range: float | None = None
    """Largest value the network computes with, 1 or 255, where the file does not say."""
    mean: tuple[float, float, float] | None = None
    """RGB mean in [0, 1] that the network subtracts, where the file does not say."""
    residual_scale: float | None = None
    """Factor of each residual block, where the file does not say."""
    runtime: tyro.conf.OmitArgPrefixes[Runtime]
    """For which runtime, and how."""

    def __call__(self) -> int:
        path = weights_of(self.student, best=self.best)
        network, contents = weights.read_and_inspect(
            path,
            value_range=self.value_range,
            mean=self.mean,
            residual_scale=self.residual_scale,
        )
        network.frozen()
        note_assumed(contents)
        with Bar() as progress:
            done = export(network, self.out, self.runtime, progress=progress)
        say(
            f"wrote {shown(done.path)}: {network.name} x{network.scale} as {done.form}, "
            f"{amount(done.bytes)}"
        )
        say(_proof(done))
        return 0


def _proof(done: Exported) -> str:
    assert done.verified is not None
    sizes = ", ".join(f"{n} x {h} x {w}" for n, h, w in done.verified.sizes)
    return (
        f"largest difference to the student: {done.verified.largest:.1e} where white is 1, "
        f"{done.verified.psnr:.1f} dB, at {sizes}"
    )


def parse_export(arguments: Sequence[str]) -> Callable[[], int]:
    """Read ``dukd export ...``, whose options are also those of the runtime it is for.

    Raises:
        ValueError: If there is no such runtime.
    """
    rest, named = _without(arguments, "--runtime")
    runtimes = known(Runtime)
    if named is not None and named not in runtimes:
        raise ValueError(
            f"there is no runtime {named!r}{nearest(named, runtimes)}; known are "
            f"{', '.join(runtimes)}"
        )
    out = _without(rest, "-o")[1] or _without(rest, "--out")[1]
    runtime = runtimes[named]() if named else runtime_of(Path(out or "student.onnx"))
    return tyro.cli(
        Export,
        prog="dukd export",
        args=rest,
        default=Export(student=tyro.MISSING, out=tyro.MISSING, runtime=runtime),
        config=(tyro.conf.AvoidSubcommands,),
    )


def _without(arguments: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """Take an option and its value out of the arguments."""
    rest = list(arguments)
    for place, argument in enumerate(rest):
        if argument == option and place + 1 < len(rest):
            return rest[:place] + rest[place + 2 :], rest[place + 1]
        if argument.startswith(f"{option}="):
            return rest[:place] + rest[place + 1 :], argument.removeprefix(f"{option}=")
    return rest, None
