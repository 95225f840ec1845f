"""Numbers that no refactoring may change; run on one thread, this writes ``golden.json``.

    python tests/golden/make.py                     everything, anew
    python tests/golden/make.py crd tiny-x2-fakd    these methods and recipes alone; the rest stays
    python tests/golden/make.py --compare           everything, against the file; says what differs

- The total loss, to the last bit, of every method at every scale with two seeds: plain, with the
  teacher's outputs replayed, in two micro-batches, and both; four steps each.
- The SHA-256 of a small student's weights after 50 steps, for ten recipes.
- The exact sizes of the networks of the public tables.

Bits depend on the processor and on torch; ``arithmetic`` tells where they hold.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dukd.core.registry import known
from dukd.methods import Method
from dukd.methods.base import needs_teacher
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.recipes import FAMILIES, method_named, recipe, scales_of
from dukd.training.experiment import (
    Data,
    Evaluation,
    Experiment,
    Optimization,
    TeacherCache,
)
from dukd.training.loop import train
from dukd.training.teachers import File

FILE = Path(__file__).with_name("golden.json")
COMBINED = ("at+dukd", "fakd+dukd", "csd+dukd", "crosskd+dukd")
WAYS = {"plain": (0, 1), "replayed": (2, 1), "parts": (0, 2), "replayed-parts": (2, 2)}
"""Period and accumulate of each way."""
RECIPES = (
    *("tiny-x2-scratch", "tiny-x2-logits", "tiny-x2-dukd", "tiny-x2-dukd-frugal", "tiny-x2-fakd"),
    *("tiny-x2-fakd+dukd", "small-x2-dukd", "tiny-x4-dukd", "tiny-x3-csd", "tiny-x2-dukd-released"),
)


def arithmetic() -> str:
    """What a processor and torch make of a fixed computation: where this agrees, bits do."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 24, 24, generator=generator, requires_grad=True)
    w = torch.randn(16, 8, 3, 3, generator=generator)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            y = torch.nn.functional.conv2d(x, w, padding=1)
        z = (
            torch.softmax((y.flatten(1).float() @ y.flatten(1).float().T) / 1e3, -1).sum()
            + y.float().square().mean()
        )
        z.backward()
    return hashlib.sha256(x.grad.numpy().tobytes() + torch.__version__.encode()).hexdigest()[:16]


def methods() -> list[str]:
    ours = [name for name, kind in known(Method).items() if kind.__module__.startswith("dukd.")]
    return sorted({*ours, *COMBINED} - {"combined"})


def prepare(folder: Path) -> None:
    """Write eight images and a teacher for each scale."""
    rng = np.random.default_rng(7)
    for i in range(8):
        coarse = rng.integers(0, 256, (9, 9, 3), np.uint8)
        image = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
        (folder / "train").mkdir(parents=True, exist_ok=True)
        image.save(folder / "train" / f"{i}.png")
    for scale in (2, 3, 4):
        torch.manual_seed(scale)
        weights.write(
            folder / f"teacher-x{scale}.safetensors",
            EDSRConfig(scale=scale, width=12, blocks=5).build(),
        )


def small(folder: Path, method: Method, scale: int, seed: int, way: str) -> Experiment:
    period, accumulate = WAYS[way]
    return Experiment(
        student=EDSRConfig(scale=scale, width=8, blocks=3),
        teacher=File(weights=folder / f"teacher-x{scale}.safetensors")
        if needs_teacher(method, scale)
        else None,
        method=method,
        data=Data(
            train=folder / "train",
            packs=folder / "packs",
            patch=8,
            batch=4,
            period=period,
            workers=0,
        ),
        optimization=apart(
            Optimization(steps=4, learning_rate=1e-3, accumulate=accumulate, seed=seed)
        ),
        teacher_cache=TeacherCache(folder=folder / "cache"),
        evaluation=Evaluation(log_every=1, every=10),
    )


def apart(optimization: Optimization) -> Optimization:
    """Channels lie apart in float32, as they did for all students when the file was written."""
    if optimization.precision == "float32":
        return replace(optimization, channels_last=False)
    return optimization


def totals(folder: Path, name: str, scale: int, seed: int, way: str) -> list[str]:
    """The total loss of each step, in hexadecimal; or the sentence that refuses."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    try:
        train(small(folder, method_named(name), scale, seed, way), out)
    except ValueError:
        return ["refused"]
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [r["total_hex"] for r in records if r["kind"] == "train"]


def cells() -> Iterator[tuple[str, int, int, str]]:
    for name in methods():
        for scale in (2, 3, 4):
            for seed in (10, 11):
                for way in WAYS:
                    yield name, scale, seed, way


def student_of(folder: Path, name: str) -> str:
    """SHA-256 of the weights after 50 steps of a recipe, on small batches with a small teacher."""
    made = recipe(name).make()
    made = replace(
        made,
        teacher=made.teacher
        and File(weights=folder / f"teacher-x{made.student.scale}.safetensors"),
        student=replace(made.student, width=8, blocks=3),
        data=replace(
            made.data, train=folder / "train", packs=folder / "packs", patch=8, batch=4, workers=0
        ),
        optimization=apart(replace(made.optimization, steps=50)),
        evaluation=Evaluation(every=50),
    )
    student = train(made, Path(tempfile.mkdtemp(dir=folder)) / "run")
    state = weights.read(student).state_dict()
    return hashlib.sha256(
        b"".join(k.encode() + state[k].numpy().tobytes() for k in sorted(state))
    ).hexdigest()


def sizes() -> dict[str, int]:
    counted = {}
    for family in FAMILIES:
        for scale in scales_of(family):
            with torch.device("meta"):
                network = recipe(f"{family}-x{scale}-scratch").make().student.build()
            counted[f"{family}-x{scale}"] = network.parameter_count()
    return counted


def computed(folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, object]]:
    """What the file holds, one by one: section, key and value."""
    for cell in cells():
        if wanted(cell[0]):
            yield "losses", " ".join(map(str, cell)), totals(folder, *cell)
    for name in RECIPES:
        if wanted(name):
            yield "students", name, student_of(folder, name)


def main() -> None:
    torch.set_num_threads(1)
    names = [name for name in sys.argv[1:] if name != "--compare"]
    compare = "--compare" in sys.argv
    before = json.loads(FILE.read_text()) if names or compare else {}
    golden = {"losses": {}, "students": {}} | before
    differing = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for section, key, value in computed(folder, lambda n: not names or n in names):
            if golden[section].get(key) != value:
                differing.append(key)
                print(f"differs: {key}", file=sys.stderr)
            golden[section][key] = value
    if golden.get("sizes") != sizes():
        differing.append("sizes")
    print(f"{len(differing)} differ of {len(golden['losses']) + len(golden['students']) + 1}")
    if compare:
        sys.exit(bool(differing))
    golden = {"arithmetic": arithmetic()} | golden | {"sizes": sizes()}
    keys = [" ".join(map(str, cell)) for cell in cells()]
    golden["losses"] = {key: golden["losses"][key] for key in keys if key in golden["losses"]}
    FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
