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
from dukd.cli.finite import finite
from dukd.cli.terminal import PARTIAL, Bar, err, note, say, warn
from dukd.core.allocator import keep_freed_memory
from dukd.core.config import nearest
from dukd.core.device import by_name
from dukd.core.files import check_target
from dukd.core.once import once
from dukd.core.once import said_of as said_of_repeats
from dukd.core.registry import known
from dukd.core.text import amount, shown
from dukd.deploy.job import ready
from dukd.deploy.model import Model, load
from dukd.deploy.runtime import Exported, Runtime, export, runtime_of
from dukd.deploy.stretches import Codec, VideoError, VideoOptions
from dukd.deploy.upscale import UpscaleOptions, chosen, upscale
from dukd.deploy.video import SUFFIXES, WRITTEN, inspect, upscale_video
from dukd.evaluation.candidates import weights_of
from dukd.networks import Network
from dukd.networks.files import weights
from dukd.networks.shipped import for_scale, named, said_of

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
    """Enlarge images and videos; what cannot be read is listed at the end, the others are done.

    Gray, 16 bits, transparency and color profiles are kept. Large images are cut into tiles that
    give the same output as the whole, where the network allows it. -s, -t, -x and -f stand for
    --outscale, --tile, --self-ensemble and --format, and --overwrite for --no-skip-existing.

    What runs the network is chosen for speed where there is much to do, and said; --exact is torch
    in float32. Without a model a small student that comes with dukd is used (`dukd models`).

    A video keeps its sound, times and colors; the same command continues one that was interrupted.

    Example: dukd upscale photos/ -o out/ -m student.safetensors
    """

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Images, folders of them, or videos; -i may stand before them."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o", "--output"])]
    """Folder for the results; for one video also a file."""
    model: Annotated[Path | None, tyro.conf.arg(aliases=["-m", "-n"])] = None
    """File of weights, export (.onnx, .xml, .param), run directory, or one of `dukd models`; if
    left out, the one of these that fits --outscale."""
    best: bool = False
    """Whether to take a run's student of the best validation."""

    @override
    def __post_init__(self) -> None:
        """Wait with complaints until the command runs, so that they are plain sentences."""

    codec: Codec = "h264"
    """How a video's frames are compressed; ffv1 loses nothing, and needs .mkv."""
    crf: int = 16
    """Quality of a video in h264 and hevc, 0 to 51; lower is better and larger."""

    def __call__(self) -> int:
        options = UpscaleOptions(**{f.name: getattr(self, f.name) for f in fields(UpscaleOptions)})
        clips, again = once(path for path in self.inputs if path.suffix.lower() in SUFFIXES)
        others = [path for path in self.inputs if path.suffix.lower() not in SUFFIXES]
        if again:
            note(said_of_repeats(again, "enlarged"))
        if clips:
            self._check_clips()
        if self.out.suffix.lower() in images.EXTENSIONS and not self.out.is_dir():
            raise ValueError(
                f"--out is a folder, but got {shown(self.out)}; the results are named after the "
                "inputs"
            )
        model = self._opened()
        failures = [sentence for clip in clips if (sentence := self._clip(model, clip, options))]
        if failures:
            warn(f"{len(failures)} of {len(clips)} videos were not enlarged:", failures)
        code = PARTIAL if failures else 0
        if others or not clips:
            code = max(code, self._images(model, others, options))
        return code

    def _opened(self) -> Model:
        """Open the model, and say what it is."""
        keep_freed_memory()
        path = self._model()
        model = load(path, best=self.best, as_it_stands=self.runtime == "ncnn")
        size = ""
        if isinstance(model.upscaler, Network):
            how = (
                f"make a file that says so: dukd export {shown(path)} -o sure.safetensors "
                "with {options}"
            )
            note_assumed(weights.inspect(weights_of(path, best=self.best)), how=how)
            size = f", {model.network.parameter_count():,} parameters"
        where = self.device if self.ray_address else by_name(self.device)
        workers = f", {self.workers} workers" if self.workers else ""
        note(f"{shown(path)}: {model.upscaler.name} x{model.scale}{size}, {where}{workers}")
        return model

    def _images(self, model: Model, inputs: Sequence[Path], options: UpscaleOptions) -> int:
        with (
            Bar() as progress,
            redirect_stdout(sys.stderr),
        ):  # where Ray reports what became of workers
            result = upscale(model, inputs, self.out, options, progress=progress, report=note)
        for done in result.done:
            say(shown(done.target) + (f"  ({done.note})" if done.note else ""))
        if result.skipped:
            note(f"{len(result.skipped)} were finished already")
        if passed := images.passed_over(result.passed_over):
            note(passed)
        if again := said_of_repeats(result.repeated, "enlarged"):
            note(again)
        if result.failed:
            total = len(result.done) + len(result.skipped) + len(result.failed)
            err.print(
                f"[bold red]dukd:[/] {len(result.failed)} of {total} images were not enlarged:"
            )
            for failed in result.failed:
                err.print(shown(failed.reason), markup=False)
        return 1 if result.failed else 0

    def _model(self) -> Path:
        """What was named, or a student that comes with the package, which is said."""
        if self.model is not None:
            return named(self.model)
        one = for_scale(self.outscale)
        note(said_of(one))
        return one.path

    def _check_clips(self) -> None:
        if self.outscale is not None:
            raise ValueError("a video has the size that the network makes: leave --outscale out")
        if self.out.suffix.lower() in SUFFIXES and len(self.inputs) > 1:
            raise ValueError(
                f"--out is one video, {shown(self.out)}, but there are {len(self.inputs)} inputs: "
                "name a folder"
            )

    def _clip(self, model: Model, path: Path, options: UpscaleOptions) -> str | None:
        """Enlarge a video; what went wrong, if anything did."""
        target = self.out
        if target.suffix.lower() not in SUFFIXES:
            suffix = f"_x{model.scale}" if self.suffix is None else self.suffix
            ending = path.suffix if path.suffix.lower() in WRITTEN else ".mkv"
            target = self.out / f"{path.stem}{suffix}{ending}"
        if self.skip_existing and target.is_file():
            note(f"{shown(target)} was finished already")
            return None
        how = VideoOptions(codec=self.codec, crf=self.crf, tile=options.tile or None)
        try:
            clip = inspect(path)
            pixels = clip.width * clip.height * clip.frames
            upscaler = ready(model.upscaler, chosen(model.upscaler, pixels, options, note))
            with Bar() as progress:
                done = upscale_video(upscaler, path, target, how, progress=progress)
        except VideoError as error:
            return shown(str(error))
        before = (f"{done.kept} of {done.frames} frames were finished before",) if done.kept else ()
        notes = "; ".join((*before, *done.notes))
        say(shown(done.target) + (f"  ({notes})" if notes else ""))
        return None


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student for other programs, and compare what was written with the student.

    The ending of --out says for which: .onnx is a graph for onnxruntime and what takes ONNX, .xml
    for OpenVINO, .param for ncnn, .tflite for LiteRT, .mlpackage for Core ML, .glsl for mpv;
    .safetensors and .pth are weights, under dukd's names or those that chaiNNer and the like know.

    Example: dukd export runs/edsr-x4-dukd -o student.onnx
    """

    student: tyro.conf.Positional[Path]
    """File of weights, run directory, or one of `dukd models`."""
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
        check_target(self.out, sources=[path])
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
        if done.note:
            say(done.note)
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
    command = tyro.cli(
        Export,
        prog="dukd export",
        args=rest,
        default=Export(student=tyro.MISSING, out=tyro.MISSING, runtime=runtime),
        config=(tyro.conf.AvoidSubcommands,),
    )
    return finite(command)


def _without(arguments: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """Take an option and its value out of the arguments."""
    rest = list(arguments)
    for place, argument in enumerate(rest):
        if argument == option and place + 1 < len(rest):
            return rest[:place] + rest[place + 2 :], rest[place + 1]
        if argument.startswith(f"{option}="):
            return rest[:place] + rest[place + 1 :], argument.removeprefix(f"{option}=")
    return rest, None
