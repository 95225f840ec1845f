"""The command that quantizes a trained student."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dukd.cli.assumed import note_assumed
from dukd.cli.terminal import note, say, table
from dukd.core.files import check_target
from dukd.core.text import shown
from dukd.data.pairs import find_pairs
from dukd.deploy.quantize import Middle, Options, losses, middles, quantize
from dukd.evaluation.candidates import weights_of
from dukd.networks.files import weights
from dukd.runs import quantized


@dataclass(frozen=True, kw_only=True)
class Quantize(Options):
    """Quantize a student for a runtime without training it, and say what each choice loses.

    Every choice of ranges is measured, and the best is written. Training from the float student
    loses less: dukd train ...-int8 --optimization.warm-start STUDENT.

    Example: dukd quantize student.safetensors --images photos/ --valid valid/ -o int8.safetensors
    """

    student: tyro.conf.Positional[Path]
    """File of weights, or a run directory."""
    best: bool = False
    """Whether to take a run's student of the best validation."""
    images: Path
    """Folder of photographs that set the ranges, in any layout the field uses."""
    valid: Path | None = None
    """Folder on which the quality is measured; the photographs themselves if left out."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("student-int8.safetensors")
    """File to write, safetensors."""
    count: int = 16
    """Images used of each folder, evenly spaced; of each its middle."""
    sensitivity: bool = False
    """Whether the loss of every layer by itself is listed too; of a run, dukd report draws it."""
    value_range: float | None = None
    """Largest value the network computes with, 1 or 255, where the file does not say."""
    mean: tuple[float, float, float] | None = None
    """RGB mean in [0, 1] that the network subtracts, where the file does not say."""
    residual_scale: float | None = None
    """Factor of each residual block, where the file does not say."""

    def __call__(self) -> int:
        if self.out.suffix != ".safetensors":
            raise ValueError(f"--out ends in .safetensors, but got {shown(self.out)}")
        path = weights_of(self.student, best=self.best)
        check_target(self.out, sources=[path])
        numbers = {
            "value_range": self.value_range,
            "mean": self.mean,
            "residual_scale": self.residual_scale,
        }
        # its own three numbers
        note_assumed(weights.inspect(path, **numbers))  # pyright: ignore[reportArgumentType]
        network = weights.read(path, **numbers).frozen()  # pyright: ignore[reportArgumentType]
        photographs = self._middles(self.images, network.scale)
        judged = photographs
        if self.valid is not None:
            judged = self._middles(self.valid, network.scale)
        else:
            note("measured on the images that set the ranges: name others with --valid")
        result = quantize(network, photographs, judged, self)
        for text in result.notes:
            note(text)
        rows = [("float", f"{result.float_psnr:.3f}", "")]
        for choice, psnr in result.psnr.items():
            rows.append((choice, f"{psnr:.3f}", f"{psnr - result.float_psnr:+.3f}"))
        table(("ranges", "PSNR-Y dB", "loss dB"), rows, right=True)
        by_layer = losses(result, judged) if self.sensitivity else {}
        if by_layer:
            say("")
            table(
                ("layer", "loss dB by itself"),
                ((name, f"{loss:+.3f}") for name, loss in by_layer.items()),
                right=True,
            )
        weights.write(self.out, result.network, metadata={"ranges": result.choice})
        say(f"wrote {shown(self.out)}: {network.name} x{network.scale}, ranges by {result.choice}")
        if self.student.is_dir():
            noted = quantized.write(
                self.student,
                target=self.target,
                bits=self.bits,
                weight_bits=self.weight_bits,
                images=f"{len(judged)} middles of {(self.valid or self.images).name}",
                float_psnr=result.float_psnr,
                psnr={str(choice): value for choice, value in result.psnr.items()},
                layers=by_layer,
            )
            say(f"wrote {shown(noted)}, which dukd report shows")
        return 0

    def _middles(self, folder: Path, scale: int) -> list[Middle]:
        pairs = find_pairs(folder, scale=scale)
        for said in pairs.assumed:
            note(said)
        return middles(pairs, self.count)
