"""Cards of a student: JSON as OpenModelDB takes it, and Markdown for people, both from its run.

The JSON follows OpenModelDB's documented model schema (``name``, ``author``, ``license``, ``tags``,
``architecture``, ``size``, ``scale``, ``resources``, ``training...``); a model's id there begins
with its scale, as in ``4x-Name``. What a run does not know is left out or said to be unknown.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from dukd.core.files import sha256, write_text
from dukd.core.text import amount, to_json
from dukd.networks import Network
from dukd.networks.files import weights
from dukd.networks.files.openers import opening
from dukd.runs.directory import Run
from dukd.training.experiment import Experiment
from dukd.training.teachers import File

_SIZES = (("width", "nf"), ("blocks", "nb"), ("groups", "ng"))
"""What OpenModelDB calls the numbers of a network."""
_ARCHITECTURES = {"rrdb": "esrgan", "plain": "compact"}
"""What it calls networks that have other names here; a plain one is a Compact once it is folded."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is said of a student to those who find it somewhere else."""

    id: str
    """Such as ``4x-mine``."""
    model: dict[str, Any]
    """As OpenModelDB's JSON."""
    text: str
    """Markdown."""

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``<id>.json`` and ``<id>.md`` into a folder."""
        paths = folder / f"{self.id}.json", folder / f"{self.id}.md"
        write_text(paths[0], to_json(self.model))
        write_text(paths[1], self.text)
        return paths


def model_card(
    run: Path,
    *,
    best: bool = False,
    name: str | None = None,
    author: str = "unknown",
    license: str | None = None,  # noqa: A002  the field's own word
    description: str | None = None,
) -> Card:
    """Make the cards of a run's student.

    Args:
        run: The run directory.
        best: Whether the student of the best validation is meant.
        name: Of the model; that of the directory if left out.
        author: Who publishes it.
        license: Under which license, as an SPDX identifier; only its owner can say.
        description: A sentence of your own, in front of what the run says.

    Raises:
        CheckpointError: If there is no run, or it has no such student yet.
    """
    opened = Run.open(Path(run))
    student = opened.weights(best=best)
    experiment = Experiment.from_yaml(opened.read_experiment().text, source=str(opened.experiment))
    network = weights.read(student)
    facts = opened.read_facts()
    name = name or opened.directory.resolve().name
    origin = weights.inspect(student).metadata
    steps = int(origin.get("step", experiment.optimization.steps))
    about = _about(experiment, facts, network)
    model: dict[str, Any] = {
        "name": name,
        "author": _slug(author),
        "license": license,
        "tags": ["distilled"],
        "description": "\n\n".join(filter(None, (description, *about))),
        "date": str(facts.get("started", datetime.now(UTC).isoformat()))[:10],
        "architecture": _ARCHITECTURES.get(network.name, network.name),
        "size": _size(network),
        "scale": network.scale,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": [_resource(student)],
        "trainingIterations": steps,
        "trainingBatchSize": experiment.data.batch,
        "trainingHRSize": experiment.data.patch * network.scale,
        "trainingOTF": not experiment.data.degradation.fixed,
        "dataset": experiment.data.train.stem,
        "datasetSize": facts.get("data_images"),
        "images": [],
    }
    known = {key: value for key, value in model.items() if value is not None or key == "license"}
    identity = f"{network.scale}x-{_slug(name)}"
    return Card(id=identity, model=known, text=_markdown(identity, known, network, opened, student))


def _slug(text: str) -> str:
    """Letters, digits and single hyphens, of which ids of models and users are made there."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-") or "unknown"


def _resource(student: Path) -> dict[str, Any]:
    facts = {"size": student.stat().st_size, "sha256": sha256(student), "urls": list[str]()}
    return {"platform": "pytorch", "type": "safetensors", **facts}


def _size(network: Network) -> list[str]:
    numbers = [(getattr(network.config, field, None), unit) for field, unit in _SIZES]
    return [f"{number}{unit}" for number, unit in numbers if isinstance(number, int)]


def _about(experiment: Experiment, facts: dict[str, object], network: Network) -> list[str]:
    """Where the student comes from, a sentence each."""
    count = f"{network.deployed_parameter_count():,}"
    method = experiment.method.name
    said = [f"{network.name} x{network.scale} with {count} parameters, trained by dukd ({method})."]
    teacher = experiment.teacher
    if teacher is not None:
        digest = facts.get("teacher_sha256") or "unknown"
        held = _license(teacher.weights) if isinstance(teacher, File) else "unknown"
        said.append(
            f"Its teacher is {Path(teacher.place).name} (SHA-256 {digest}), license {held}."
        )
    images, source = facts.get("data_images", "an unknown number of"), facts.get("lr_source")
    said.append(
        f"Trained on {images} images of {experiment.data.train.stem}"
        + (f", low resolution: {source}." if source else ".")
    )
    return said


def _license(path: Path) -> str:
    """What a file of weights says of its license."""
    try:
        return weights.inspect(path).metadata.get("license", "unknown")
    except ValueError:  # it has moved, or is not one of ours
        return "unknown"


def _markdown(
    identity: str, model: dict[str, Any], network: Network, run: Run, student: Path
) -> str:
    resource = model["resources"][0]
    head = {
        "license": model["license"] or "unknown",
        "library_name": "dukd",
        "tags": "[super-resolution, knowledge-distillation]",
    }
    parts = [
        "\n".join(["---", *(f"{key}: {value}" for key, value in head.items()), "---"]),
        f"# {identity}",
        *model["description"].split("\n\n"),
        "```python\n"
        "import dukd\n\n"
        f'model = dukd.load("{student.name}")\n'
        'model("photo.jpg").save("large.png")\n'
        "```",
        f"Elsewhere: {opening(network.config)}.",
        f"File: {student.name}, {amount(resource['size'])}, SHA-256 `{resource['sha256']}`.",
        *_figures(run.directory / "evaluation.json"),
        "## Training",
        _table(
            ("", ""),
            [
                ("steps", f"{model['trainingIterations']:,}"),
                ("batch", str(model["trainingBatchSize"])),
                ("patch of hr", f"{model['trainingHRSize']} pixels"),
                ("images", str(model.get("datasetSize", "unknown"))),
                ("radius", "whole image" if network.radius is None else f"{network.radius} pixels"),
            ],
        ),
        *_samples(run.directory / "samples"),
    ]
    return "\n\n".join(parts) + "\n"


def _figures(path: Path) -> list[str]:
    """PSNR-Y and SSIM-Y of everything that was measured beside the student."""
    content = _json(path)
    rows = cast("list[dict[str, Any]]", content.get("rows", []))
    if not rows:
        return ["Not measured yet: `dukd evaluate RUN --sets ...` does it."]
    sets = list(dict.fromkeys(name for row in rows for name in row["sets"]))
    lines = [
        (str(row["label"]), *(_scores(row["sets"].get(name, {})) for name in sets)) for row in rows
    ]
    protocol = "; ".join(f"{key}: {what}" for key, what in content.get("protocol", {}).items())
    return ["## Figures", _table(("PSNR-Y / SSIM-Y", *sets), lines), f"Protocol: {protocol}."]


def _scores(scores: dict[str, Any]) -> str:
    psnr, ssim = scores.get("psnr_y"), scores.get("ssim_y")
    return "" if psnr is None or ssim is None else f"{float(psnr):.2f} / {float(ssim):.4f}"


def _samples(folder: Path) -> list[str]:
    """Crops that validation kept, one row per place."""
    entries = _json(folder / "index.json").get("entries", [])
    rows = [
        " ".join(f"![{i['label']}](samples/{i['file']}) {i['label']}" for i in entry["images"])
        for entry in cast("list[dict[str, Any]]", entries)
    ]
    return ["## Samples", *rows] if rows else []


def _json(path: Path) -> dict[str, Any]:
    """What a file of the run holds; nothing where it is not there. A list is under ``entries``."""
    if not path.is_file():
        return {}
    content: object = json.loads(path.read_bytes())
    return cast("dict[str, Any]", content if isinstance(content, dict) else {"entries": content})


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rule = ("---",) * len(head)
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (head, rule, *lines)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in escaped)
