"""The command that joins several teachers into one file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn

from dukd.cli.assumed import note_assumed
from dukd.cli.terminal import say
from dukd.core.files import check_target, write_text
from dukd.core.text import shown
from dukd.evaluation.candidates import Unsaid, read, weights_of
from dukd.methods import Aggregation
from dukd.networks import Network, gather
from dukd.networks.files import weights
from dukd.training.experiment import Data, Experiment, Optimization


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Join several teachers into one file, and write the experiment that trains the joint (MTKD).

    Untrained, it gives the mean of its members, and can be a teacher as it is. They need one
    scale only.

    Example: dukd ensemble edsr.pth rcan.pth swinir.pth --out ensemble.safetensors
    """

    teachers: tyro.conf.Positional[tuple[Path, ...]]
    """Files of weights, or run directories; each becomes a member, called after its file."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The file to write, .safetensors; the experiment gets the same name with .yaml."""
    best: bool = False
    """Whether to take the runs' students of the best validation; files among them are taken as they
    are."""
    width: int = 64
    """Channels of the network that joins them."""
    blocks: int = 8
    """Its residual blocks."""
    value_range: float | None = None
    """Largest value the members compute with, 1 or 255, where a file does not say."""
    mean: tuple[float, float, float] | None = None
    """RGB mean in [0, 1] that they subtract, where a file does not say."""
    residual_scale: float | None = None
    """Factor of each residual block, where a file does not say."""

    def __call__(self) -> int:
        if self.out.suffix != ".safetensors":
            raise ValueError(f"--out is to end in .safetensors, but got {shown(self.out)}")
        check_target(self.out, sources=self.teachers)
        members: dict[str, Network] = {}
        unsaid = Unsaid(
            value_range=self.value_range, mean=self.mean, residual_scale=self.residual_scale
        )
        for path in self.teachers:
            network = read(weights_of(path, best=self.best and path.is_dir()), unsaid, note_assumed)
            members[member_name(path, members)] = network
        joined = gather(members, width=self.width, blocks=self.blocks)
        plan = self.out.with_suffix(".yaml")
        if plan.exists():
            raise ValueError(f"{shown(plan)} is there already: choose another --out, or delete it")
        weights.write(self.out, joined)
        experiment = Experiment(
            student=joined.config,
            method=Aggregation(),
            data=Data(train=Path("images")),
            optimization=Optimization(warm_start=self.out),
        )
        write_text(plan, experiment.to_yaml())
        run = Path("runs") / self.out.stem
        say(f"wrote {shown(self.out)}: {', '.join(members)} joined, x{joined.scale}")
        say(f"wrote {shown(plan)}; what joins them is trained, and the whole distilled, with")
        say(
            f"  dukd train {shown(plan)} --data.train IMAGES --evaluation.sets IMAGES --out "
            f"{shown(run)}"
        )
        say(
            f"  dukd train tiny-x{joined.scale}-mtkd --teacher {shown(run)}/student.safetensors ..."
        )
        return 0


def member_name(path: Path, taken: Mapping[str, object]) -> str:
    """A word from a file's name, as an ensemble's members are called, that is not taken.

    Example:
        >>> member_name(Path("EDSR-L x4.pth"), {}), member_name(Path("2.pth"), {"m_2": ...})
        ('EDSR_L_x4', 'm_2_2')
    """
    word = re.sub(r"\W", "_", path.resolve().name if path.is_dir() else path.stem, flags=re.ASCII)
    if not word.isidentifier() or word in dir(nn.ModuleDict):
        word = f"m_{word}"
    names = (word if n == 1 else f"{word}_{n}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
