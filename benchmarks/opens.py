"""Who opens what: files of ten kinds from the community, with random weights, as `dukd info` says.

    OMP_NUM_THREADS=1 python benchmarks/opens.py

It needs ``dukd[spandrel]``, whose classes make the files of networks that dukd does not have; they
are opened by dukd alone, by dukd with spandrel, and by spandrel.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from dukd.networks import CompactConfig, NetworkConfig, RRDBConfig, SPANConfig, SwinIRConfig
from dukd.networks.files import foreign, weights

SWINIR = SwinIRConfig(scale=4, width=12, depths=(2, 2), heads=(2, 2), upsampler="nearest+conv")
OURS: Mapping[str, tuple[NetworkConfig, str]] = {
    "ESRGAN x4, old keys": (RRDBConfig(scale=4, width=8, blocks=2), "esrgan"),
    "Real-ESRGAN x2, pixel-unshuffle": (
        RRDBConfig(scale=2, width=8, blocks=2, unshuffle=2),
        "basicsr",
    ),
    "Compact x2": (CompactConfig(scale=2, width=8, blocks=2), "basicsr"),
    "Compact x4": (CompactConfig(scale=4, width=8, blocks=2), "basicsr"),
    "SPAN x4": (SPANConfig(scale=4, width=8), "official"),
    "SwinIR x4, nearest+conv": (SWINIR, "official"),
}
"""Kinds of which dukd has the network."""
THEIRS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "DAT x4": ("DAT", {"upscale": 4, "embed_dim": 64, "depth": [2], "num_heads": [2]}),
    "HAT x4": (
        "HAT",
        {
            "upscale": 4,
            "embed_dim": 24,
            "depths": (2,),
            "num_heads": (2,),
            "window_size": 16,
            "upsampler": "pixelshuffle",
            "squeeze_factor": 6,
        },
    ),
    "OmniSR x4": (
        "OmniSR",
        {"up_scale": 4, "num_feat": 16, "res_num": 1, "block_num": 1, "pe": True},
    ),
    "RealPLKSR x4": ("RealPLKSR", {"upscaling_factor": 4, "dim": 16, "n_blocks": 2}),
}
"""Kinds whose files spandrel's classes make."""


def files(folder: Path) -> dict[str, Path]:
    """A file of each kind, with random weights."""
    torch.manual_seed(0)
    made: dict[str, Path] = {}
    for number, (kind, (config, layout)) in enumerate(OURS.items()):
        made[kind] = folder / f"{number}.pth"
        weights.write(made[kind], config.build().eval(), layout=layout)
    for kind, (name, arguments) in THEIRS.items():
        family = name.removeprefix("Real")
        home = importlib.import_module(f"spandrel.architectures.{family}.__arch.{name}")
        module: Any = getattr(home, name)(**arguments)
        made[kind] = folder / f"{name}.pth"
        torch.save({"params": module.state_dict()}, made[kind])
    return made


def outcome(attempt: Callable[[], str]) -> str:
    """What opening a file gave, or that it was refused."""
    try:
        return attempt()
    except ValueError:
        return "refused, with the way out"


def by_dukd(path: Path, *, alone: bool) -> str:
    """The network that dukd finds, without spandrel or with it."""
    library = foreign.library
    foreign.library = (lambda: None) if alone else library
    try:
        network, contents = weights.read_and_inspect(path)
    finally:
        foreign.library = library
    lr = torch.rand(1, 3, 19, 23)
    sr: Tensor = network.eval()(lr)
    assert sr.shape[-2:] == (19 * network.scale, 23 * network.scale)
    return f"{contents.network} x{network.scale} ({contents.layout})"


def by_spandrel(path: Path) -> str:
    """The network that spandrel finds."""
    library: Any = foreign.library()
    found = library.ModelLoader().load_from_file(path)
    return f"{found.architecture.name} x{found.scale}"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    if foreign.library() is None:
        raise SystemExit("spandrel is not installed: pip install 'dukd[spandrel]'")
    print("| kind | dukd alone | dukd with spandrel | spandrel |\n|---|---|---|---|")
    with TemporaryDirectory() as folder, torch.no_grad():
        for kind, path in files(Path(folder)).items():
            opened = (
                outcome(lambda p=path: by_dukd(p, alone=True)),
                outcome(lambda p=path: by_dukd(p, alone=False)),
                outcome(lambda p=path: by_spandrel(p)),
            )
            print(f"| {kind} | {' | '.join(opened)} |")


if __name__ == "__main__":
    main()
