"""The command that shows everything at once."""

from dataclasses import dataclass
from pathlib import Path

from dukd.cli.terminal import Bar, say, table
from dukd.core.text import shown
from dukd.evaluation import evaluate
from dukd.recipes import demo
from dukd.training import loop


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small network three ways on bundled photographs in four minutes, and write a page.

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
                    self.out, steps=self.steps, fresh=self.fresh, tell=bar.say, progress=bar
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
        table(*_columns(outcome.table), right=True)
        say(
            "\nPSNR-Y and SSIM-Y: of the luma, against the truth. Agreement: PSNR-Y against the "
            "teacher's output.\nGap closed: share of the way from the student trained from "
            "scratch to the teacher, in PSNR-Y."
        )
        say(f"\nThe page with curves and images: {shown(outcome.page)}")
        return 0


def _columns(measured: evaluate.Table) -> tuple[list[str], list[list[str]]]:
    """The table, narrow enough for a terminal."""
    header = ["model", "parameters", "PSNR-Y", "over bicubic", "SSIM-Y", "agreement", "gap closed"]
    ((name, bicubic),) = measured.rows[0].sets.items()
    lines: list[list[str]] = []
    for row in measured.rows:
        s, gap = row.sets[name], measured.gap_closed(row, name)
        lines.append(
            [
                row.label,
                f"{row.parameters:,}" if row.parameters else "",
                f"{s.psnr_y:.2f} dB",
                f"{s.psnr_y - bicubic.psnr_y:+.2f} dB" if row is not measured.rows[0] else "",
                f"{s.ssim_y:.4f}",
                f"{s.agreement:.2f} dB" if s.agreement is not None else "",
                f"{100 * gap:.0f} %" if gap is not None else "",
            ]
        )
    return header, lines
