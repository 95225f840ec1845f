"""The command that shows everything at once."""

from dataclasses import dataclass
from pathlib import Path

from dukd.cli.terminal import Bar, say, table
from dukd.core.text import shown
from dukd.recipes import demo
from dukd.runs.compare import DEFINITION
from dukd.training import loop


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small network three ways on bundled photographs, and write a page about it.

    From scratch, from a teacher's outputs (logits), and by DUKD: the same network, images and
    steps. Needs the photographs of scikit-image and scikit-learn (pip install 'dukd[demo]') and
    nothing from a network.

    Example: dukd demo
    """

    out: Path = Path("runs/demo")
    """Folder for images, runs and the page; an interrupted demo there is continued."""
    steps: int = demo.STEPS
    """Steps of each of the three students."""
    fresh: bool = False
    """Whether the runs of an earlier demo in the folder are deleted first."""

    def __call__(self) -> int:
        if self.steps < 1:
            raise ValueError(f"--steps is {self.steps}, but at least 1 is needed")
        try:
            with Bar() as bar:
                outcome = demo.demo(
                    self.out, steps=self.steps, fresh=self.fresh, notify=bar.say, progress=bar
                )
        except loop.Interrupted as stopped:
            raise loop.Interrupted(
                stopped.step, self.out, how="the same command again"
            ) from stopped
        judges = ", ".join(photograph.name for photograph in demo.HELD_OUT)
        say(
            f"x{outcome.table.scale}, {self.steps} steps each, measured on photographs held out "
            f"({judges}):\n"
        )
        shown_ = outcome.table.only(
            "parameters", "psnr_y", "gain", "ssim_y", "agreement", "gap_closed"
        )
        table(*shown_.cells(), right=True)
        say(
            "\nPSNR-Y and SSIM-Y: of the luma, against the truth. Agreement: PSNR-Y against the "
            f"teacher's outputs.\n{DEFINITION}"
        )
        say(f"\nThe page with curves and images: {shown(outcome.page)}")
        return 0
