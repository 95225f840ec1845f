"""Does torch's memory format channels_last pay, and its compiler? Every network, both precisions.

    python benchmarks/layouts.py [--networks edsr ...] [--batch 2] [--patch 24] [--repetitions 3]
    [--precisions float32 ...] [--compiled] [--out layouts.md]

The two layouts of a network and a precision are timed in turns, on the CPU with one thread in
processor time: the forward pass of the papers' teacher without a graph, both passes of their
student, and the student on an image. What comes out decides ``Network.channels_last``, by which
dukd chooses where nobody else has. With ``--compiled`` torch.compile takes its turn as well, with
channels apart.
"""

import argparse
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from dukd.core import files
from dukd.evaluation.timing import PRECISIONS, Precision, interleaved
from dukd.networks import (
    CompactConfig,
    NetworkConfig,
    SMFANetConfig,
    edsr_student,
    edsr_teacher,
    rcan_student,
    rcan_teacher,
    swinir_student,
    swinir_teacher,
)

PAIRS: dict[str, tuple[NetworkConfig, NetworkConfig]] = {
    "edsr": (edsr_teacher(2), edsr_student(2)),
    "rcan": (rcan_teacher(2), rcan_student(2)),
    "swinir": (swinir_teacher(2), swinir_student(2)),
    "smfanet": (SMFANetConfig(scale=2), SMFANetConfig(scale=2)),
    "compact": (SMFANetConfig(scale=2), CompactConfig(scale=2, width=24, blocks=8)),
    "compact-small": (SMFANetConfig(scale=2), CompactConfig(scale=2, width=16, blocks=4)),
}
"""Teachers and students: the papers', and this package's small ones."""
IMAGE = (1, 128, 192)
"""Rows and columns of lr of an image to enlarge."""


def passes(
    config: NetworkConfig,
    shape: tuple[int, int, int],
    precision: Precision,
    device: torch.device,
    *,
    back: bool,
    compiled: bool,
) -> dict[str, Callable[[], object]]:
    """One way per layout, and one for the compiler."""

    def way(layout: torch.memory_format, *, compiled: bool = False) -> Callable[[], object]:
        network: nn.Module = config.build().to(device)
        # torch documents it, its types lack it
        network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        if compiled:
            network.compile(dynamic=False)
        lr = torch.rand(shape[0], 3, *shape[1:], device=device).to(memory_format=layout)

        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                if not back:
                    with torch.no_grad():
                        network(lr)
                    return
                network.zero_grad()
                output = network(lr)
            output.float().square().mean().backward()

        return run

    ways = {"apart": way(torch.contiguous_format), "together": way(torch.channels_last)}
    return ways | ({"compiled": way(torch.contiguous_format, compiled=True)} if compiled else {})


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(PAIRS))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("layouts.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, repetitions = torch.device(options.device), options.repetitions
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()}, one thread"
    )
    more = ["compiled", "speed-up"] if options.compiled else []
    columns = [
        "network",
        "pass",
        "precision",
        "channels apart",
        "channels together",
        "speed-up",
        *more,
    ]
    lines = [row(columns), row(["---"] * 3 + ["---:"] * (len(columns) - 3))]
    for name in options.networks:
        teacher, student = PAIRS[name]
        patches = (options.batch, options.patch, options.patch)
        for config, back, called, shape in (
            (teacher, False, "teacher's forward", patches),
            (student, True, "student's both", patches),
            (student, False, f"student, an image of {IMAGE[2]} x {IMAGE[1]}", IMAGE),
        ):
            for precision in options.precisions:
                ways = passes(
                    config, shape, precision, device, back=back, compiled=options.compiled
                )
                apart, *others = interleaved(ways, device=device, repetitions=repetitions)
                cells = [name, called, precision, f"{1e3 * apart.median:.1f} ms"]
                for other in others:
                    cells += [f"{1e3 * other.median:.1f} ms", f"{apart.median / other.median:.2f}"]
                lines.append(row(cells))
                print(lines[-1], flush=True)
    head = [
        "# Where channels should lie",
        "",
        f"    python benchmarks/layouts.py --batch {options.batch} --patch {options.patch} "
        f"--repetitions {repetitions}",
        "",
        f"{where}, torch {torch.__version__}; medians, the two layouts in turns.",
        "",
    ]
    files.write_text(options.out, "\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
