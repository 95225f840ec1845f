"""Lists that do not wait for torch: recipes and the students that come with the package."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dukd.cli.terminal import say, table
from dukd.core.files import sha256


def _package() -> Path:
    spec = find_spec("dukd")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def stored_recipes() -> Mapping[str, Any] | None:
    """What `dukd.recipes.listing` wrote; None where the recipes are others by now."""
    path = _package() / "recipes" / "listing.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
        same = all(sha256(path.with_name(n)) == digest for n, digest in stored["sources"].items())
    except (OSError, ValueError):
        return None
    return stored if same else None


def show_recipes(listing: Mapping[str, Any]) -> int:
    """Print the families of recipes and the ablations."""
    table(
        ("recipe", "what it is"),
        ((f"{name}-x{_either(scales)}-METHOD", text) for name, scales, text in listing["families"]),
    )
    say(
        "\nMETHOD is any of `dukd methods`, alone or as METHOD+dukd; scratch is training "
        "without a teacher."
    )
    say("Or one of the ablations, each a change to a recipe:\n")
    table(("ablation", "what is changed"), listing["ablations"])
    return 0


def _either(scales: Sequence[int]) -> str:
    return str(scales[0]) if len(scales) == 1 else f"[{'|'.join(map(str, scales))}]"


def show_models() -> int:
    """Print the students that come with the package, and what they reach."""
    path = _package() / "networks" / "starter" / "models.json"
    models: list[dict[str, Any]] = json.loads(path.read_bytes())
    sets = list(models[0]["figures"])
    table(
        ("model", "for", "network", "parameters", *sets, "inputs"),
        (
            (
                one["name"],
                one["about"],
                one["network"],
                f"{one['parameters']:,}",
                *(_scores(one["figures"][name]) for name in sets),
                one["inputs"],
            )
            for one in models
        ),
    )
    say(
        "\nFigures: PSNR-Y in dB / SSIM-Y, border = scale. `dukd upscale photos/ -o out/` takes "
        "the one that fits --outscale, -m takes any by its name. How they were made, and their "
        f"license: {path.with_name('README.md')}"
    )
    return 0


def _scores(scores: Mapping[str, float]) -> str:
    return f"{scores['psnr_y']:.2f} / {scores['ssim_y']:.4f}"
