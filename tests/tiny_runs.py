"""A run of seconds, for tests of what happens around it: images, a teacher, an experiment."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dukd.methods import DUKD
from dukd.networks import EDSRConfig
from dukd.networks.files import weights
from dukd.runs.directory import Run
from dukd.training.experiment import Data, Evaluation, Experiment, Optimization
from dukd.training.teachers import File

STUDENT = EDSRConfig(scale=2, width=6, blocks=2, value_range=1.0, skip="nearest")


def prepare(root: Path) -> Path:
    """Images, and a teacher that has learned nothing but starts at the enlarged input."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for i in range(5):
        smooth = rng.random((10, 9, 3)).repeat(8, 0).repeat(8, 1)
        noisy = (255 * (0.8 * smooth + 0.2 * rng.random(smooth.shape))).astype(np.uint8)
        Image.fromarray(noisy).save(root / "images" / f"{i}.png")
    torch.manual_seed(1)
    weights.write(root / "teacher.safetensors", replace(STUDENT, width=8).build())
    return root


def experiment(folder: Path, **changes: object) -> Experiment:
    """Twelve steps of DUKD, validated every fourth; ``optimization__steps=6`` changes a part."""
    base = Experiment(
        student=STUDENT,
        teacher=File(weights=folder / "teacher.safetensors"),
        method=DUKD(),
        data=Data(train=folder / "images", packs=folder / "packs", patch=12, batch=4),
        optimization=Optimization(steps=12, learning_rate=1e-3, ema=0.9),
        evaluation=Evaluation(
            sets=(folder / "images",), images=2, every=4, log_every=3, teacher_images=0
        ),
    )
    for name, value in changes.items():
        part, _, key = name.partition("__")
        base = replace(
            base, **{part: replace(getattr(base, part), **{key: value}) if key else value}
        )
    return base


def digest(run: Path) -> str:
    """Of the newest checkpoint's weights, averaged weights and optimizer."""
    state = Run.open(run).states.load().state
    whole = hashlib.sha256()
    for part in ("student", "averaged", "extras", "optimizer"):
        for values in state[part] if isinstance(state[part], list) else [state[part]]:
            for name, value in sorted(values.items()):
                whole.update(name.encode() + value.contiguous().numpy().tobytes())
    return whole.hexdigest()


def hexes(run: Path) -> dict[int, str]:
    """The losses in the log, to the last bit."""
    return {r["step"]: r["total_hex"] for r in Run.open(run).records() if r["kind"] == "train"}
