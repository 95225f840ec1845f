"""What a small student loses in few bits: calibrated, and trained with several teachers.

    python benchmarks/int8.py --data DATA [--out runs/int8] [--students S] [--settings S]
        [--ways W] [--seeds 1 2 3] [--bits 8] [--steps 300]
    python benchmarks/int8.py --table runs/int8/results.jsonl

DATA holds weights, training photographs, Set5, Set14 and Urban100 (CONTRIBUTING.md says where they
are from). A cell is a student, what is an integer, a way, a seed; its line in ``results.jsonl``
is not computed again, so the study can be stopped at any time. Cells of one seed see the same
patches, and what teachers give for them is computed once. Of Urban100 every eighth image is
measured unless ``--urban`` says otherwise; the loss is that against the float student on the same
images.
"""

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from int8_table import table
from torch import Tensor, nn

from dukd import recipes
from dukd.data.datasets import benchmark
from dukd.data.pairs import Pairs, find_pairs, load
from dukd.data.patches import Patches
from dukd.evaluation.metrics import psnr_y
from dukd.images.convert import from_levels, to_tensor
from dukd.methods import AT, Method
from dukd.networks import Network, Quantized, as_quantized
from dukd.networks.files import weights
from dukd.networks.quantize.balance import balance
from dukd.networks.quantize.calibrate import CHOICES, calibrate
from dukd.networks.quantize.integer import IntegerReference
from dukd.networks.quantize.settle import settle
from dukd.networks.quantize.targets import TargetName
from dukd.networks.shipped import FOLDER
from dukd.training.assemble import open_pack
from dukd.training.average import Average
from dukd.training.distiller import Distiller
from dukd.training.experiment import Data, Optimization
from dukd.training.schedule import rate_factor

STUDENTS = {
    "edsr-f32b5-x2": "edsr_f32b5_x2_basicsr.safetensors",
    "compact-general-x4": "realesr-general-x4v3.safetensors",
    "compact-starter-x2": str(FOLDER / "x2-fast.safetensors"),
}
"""Files of DATA's weights, and one that comes with dukd."""
LARGE = {2: "smfanet_plus_df2k_x2.pth", 4: "smfanet_plus_df2k_x4.pth"}
"""The large teacher by the scale."""
SETS = ("Set5", "Set14", "Urban100")
Images = dict[str, list[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Setting:
    """What is an integer."""

    target: TargetName
    keep: tuple[str, ...] | None
    about: str


SETTINGS = {
    "ends-float": Setting("openvino", None, "first, before-shuffle and last convolution float"),
    "float-additions": Setting("openvino", (), "all convolutions int8, additions float"),
    "stream": Setting("onnxruntime", None, "everything int8, additions too"),
    "daq": Setting("daq", None, "DAQ, blocks alone, in simulation"),
    "pams": Setting("pams", None, "PAMS, blocks alone, in simulation"),
}
WAYS = {
    "self": ("logits", ("self",)),
    "scratch": ("scratch", ()),
    "large": ("logits", ("large",)),
    "dukd": ("dukd", ("large",)),
    "both": ("logits", ("self", "large")),
    "dukd-self": ("dukd", ("self",)),
    "transfer": ("at", ("self",)),
}
"""Method and teachers by the name of a way to train; of two teachers the mean output is taught."""

STRUCTURE = AT(attention=2000.0, depths=(1.0,))
"""PAMS's structured knowledge transfer, ``transfer`` above: energies at the end of the body, though
before its long skip, where PAMS reads behind it."""


@dataclass(frozen=True)
class Cell:
    """One result."""

    student: str
    setting: str
    way: str
    """Of ``WAYS``; ``float``; or a choice of ranges without training."""
    seed: int = 0
    steps: int = 0
    bits: int = 8
    balanced: bool = True
    settled: bool = True
    rate: float = 1e-4
    """Of Adam, before its cosine; 0 where nothing is trained."""


class Mean(nn.Module):
    """The mean output of frozen teachers, remembered by image."""

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.kept: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def forward(self, lr: Tensor) -> Tensor:
        """``(n, 3, h, w)`` to the outputs; only images never seen are computed."""
        names = [hashlib.blake2b(x.contiguous().numpy().tobytes()).digest() for x in lr]
        if new := [k for k, name in enumerate(names) if name not in self.kept]:
            made = torch.stack([member(lr[new]) for member in self.members]).mean(0)
            self.kept |= {names[k]: sr for k, sr in zip(new, made, strict=True)}
        return torch.stack([self.kept[name] for name in names])


@cache
def student(data: Path, name: str) -> Network:
    """A float student; what the files of EDSR do not say is said here."""
    path = data / "weights" / STUDENTS[name]
    if not name.startswith("edsr"):
        return weights.read(path).frozen()
    return weights.read(path, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0).frozen()


def images(pairs: Pairs, every: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Low and high resolution of a set, each ``(1, 3, h, w)``."""
    chosen = list(pairs)[::every]
    return [tuple(_batch(to_tensor(x)) for x in load(pair)) for pair in chosen]


def _batch(x: Tensor) -> Tensor:
    return x if x.ndim == 4 else x[None]


@torch.no_grad()
def measure(network: Network, sets: Images, *, integers: bool = False) -> dict[str, float]:
    """PSNR of the luma by the name of the set, in dB; of integers where there are any."""
    way = IntegerReference(network) if integers and isinstance(network, Quantized) else network
    found: dict[str, float] = {}
    for name, pairs in sets.items():
        values = [psnr_y(way(lr), hr, border=network.scale).item() for lr, hr in pairs]
        found[name] = sum(values) / len(values)
    return found


def calibration_images(data: Path, scale: int = 2) -> list[Tensor]:
    """Middles of 17 training photographs."""
    pairs = list(find_pairs(data / "train" / "CID22", scale=scale))[::13]
    middles = [_batch(to_tensor(load(p)[0])) for p in pairs]
    side = min(128, *(min(x.shape[-2:]) for x in middles))
    return [_middle(x, side) for x in middles]


def _middle(x: Tensor, side: int) -> Tensor:
    top, left = ((n - side) // 2 for n in x.shape[-2:])
    return x[..., top : top + side, left : left + side].contiguous()


@dataclass
class Study:
    """What the cells share."""

    data: Path
    out: Path
    sets: Images
    shown: list[Tensor]
    """Images that set the ranges."""
    teachers: dict[tuple[str, ...], Mean]
    """Of the seed at work."""

    def prepared(self, cell: Cell, choice: str = "percentile") -> Quantized:
        """The student with its ranges, before it trains."""
        setting = SETTINGS[cell.setting]
        made = as_quantized(
            student(self.data, cell.student),
            target=setting.target,
            keep=setting.keep,
            bits=cell.bits,
        )
        if cell.balanced:
            balance(made, self.shown[::4])
        if cell.settled:
            settle(made)
        calibrate(made, self.shown, choice)  # pyright: ignore[reportArgumentType]
        return made

    def teacher(self, cell: Cell) -> Mean | Network | None:
        """What the way learns from."""
        names = WAYS[cell.way][1]
        if not names:
            return None
        if cell.way == "transfer":  # its features are read, not its output alone
            return student(self.data, cell.student)
        scale = student(self.data, cell.student).scale
        large = self.data / "weights" / LARGE[scale]
        if names not in self.teachers:
            members = [
                student(self.data, cell.student) if n == "self" else weights.read(large).frozen()
                for n in names
            ]
            self.teachers[names] = Mean(members)
        return self.teachers[names]

    def patches(self, cell: Cell) -> Patches:
        """What the cells of a seed see."""
        data = Data(train=self.data / "train" / "CID22", packs=self.out / "packs")
        scale = student(self.data, cell.student).scale
        return Patches(open_pack(data, scale), patch=32, batch=4, seed=cell.seed)

    def trained(self, cell: Cell) -> Network:
        """Train a cell; the average of its weights comes back."""
        network = self.prepared(cell).train()
        method: Method = recipes.method_named(WAYS[cell.way][0])
        method = STRUCTURE if cell.way == "transfer" else method
        distiller = Distiller(method, network, self.teacher(cell), seed=cell.seed)
        plan = Optimization(steps=cell.steps, learning_rate=cell.rate, schedule="cosine", ema=0.99)
        optimizer = torch.optim.Adam(distiller.parameters(), lr=plan.learning_rate, fused=True)
        averaged = copy.deepcopy(network).frozen()
        average = Average(averaged, network)
        patches = self.patches(cell)
        for step in range(cell.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * rate_factor(plan, step)
            lr, hr = (from_levels(x) for x in patches.batch(step))
            optimizer.zero_grad()
            torch.stack(list(distiller(lr, hr).values())).sum().backward()
            optimizer.step()
            average.move(plan.ema)
        return averaged.frozen()

    def network(self, cell: Cell) -> Network:
        """What is measured."""
        if cell.way == "float":
            return student(self.data, cell.student)
        if cell.way in CHOICES:
            return self.prepared(cell, cell.way).frozen()
        return self.trained(cell)


def cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    """All that are wanted; those without training first, then seed by seed."""
    common = [(s, name) for s in arguments.students for name in arguments.settings]
    for name in arguments.students:
        yield Cell(name, "float", "float", rate=0.0)
    for bits in arguments.bits:
        for name, setting in common:
            for choice in arguments.choices:
                for ready in (False, True) if arguments.plain else (True,):
                    yield Cell(name, setting, choice, 0, 0, bits, ready, ready, 0.0)
    for seed in arguments.seeds:
        for bits in arguments.bits:
            for name, setting in common:
                for way in arguments.ways:
                    settled, rate = not arguments.unsettled, arguments.rate
                    yield Cell(name, setting, way, seed, arguments.steps, bits, True, settled, rate)


def run(arguments: argparse.Namespace) -> None:
    """Compute the cells that are missing."""
    data, out = arguments.data, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    log = out / "results.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    keys = [{key: line[key] for key in asdict(Cell("", "", ""))} for line in lines]
    wanted = [cell for cell in cells(arguments) if asdict(cell) not in keys]
    print(f"{len(wanted)} cells are missing", flush=True)
    scales = {student(data, cell.student).scale for cell in wanted}
    every = {"Urban100": arguments.urban}
    sets = {
        s: {n: images(benchmark(data / "eval", n, s), every.get(n, 1)) for n in arguments.sets}
        for s in scales
    }
    shown = {s: calibration_images(data, s) for s in scales}
    began, seed = time.monotonic(), None
    teachers: dict[tuple[str, ...], Mean] = {}
    for number, cell in enumerate(wanted, 1):
        if (cell.seed, cell.student) != seed:
            seed, teachers = (cell.seed, cell.student), {}
        scale = student(data, cell.student).scale
        started = time.process_time()
        made = Study(data, out, sets[scale], shown[scale], teachers).network(cell)
        seconds = time.process_time() - started
        line: Mapping[str, object] = {
            **asdict(cell),
            **measure(made, sets[scale], integers=arguments.integers),
            "urban_every": arguments.urban,
            "integers": arguments.integers,
            "seconds": round(seconds, 1),
        }
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if arguments.keep and isinstance(made, Quantized):
            name = "-".join(str(v) for v in asdict(cell).values())
            weights.write(out / f"{name}.safetensors", made)
        left = (time.monotonic() - began) / number * (len(wanted) - number)
        print(f"{number}/{len(wanted)}, {left / 60:.0f} min left: {line}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, or print what is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    parser.add_argument("--students", nargs="+", default=["edsr-f32b5-x2"], choices=STUDENTS)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS)[:3], choices=SETTINGS)
    parser.add_argument("--choices", nargs="*", default=list(CHOICES), choices=CHOICES)
    parser.add_argument("--plain", action="store_true", help="also without balancing")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--unsettled", action="store_true", help="trained from balance alone")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--bits", nargs="+", type=int, default=[8])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--urban", type=int, default=8, help="every so many images of Urban100")
    parser.add_argument("--integers", action="store_true", help="measure the integers' reference")
    parser.add_argument("--keep", action="store_true", help="keep the weights of every cell")
    parser.add_argument("--table", type=Path, help="print the results of a file as tables")
    arguments = parser.parse_args(argv)
    if arguments.table is not None:
        print(table([json.loads(line) for line in arguments.table.read_text().splitlines()]))
        return
    if arguments.data is None:
        parser.error("--data DATA is needed")
    run(arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
