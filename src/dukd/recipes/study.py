"""A study: recipes times methods times seeds, as cells that are trained and measured alike.

    recipes: [plain-small-x2, plain-x2]
    methods: [scratch, logits, dukd, lsfd, lsfd+dukd]
    seeds: [1, 2, 3]
    sets: [datasets/Set5, datasets/Set14]
    options:
    - optimization.steps=60000
    - data.period=400
    variants:
    - {name: lsfd-10, method: lsfd, options: [method.local=10]}

A method is whatever can stand at the end of a recipe's name, ablations too. An option is a dotted
name of the experiment's YAML, and its value as YAML has it; ``{seed}`` in it is the cell's, as in
``optimization.warm_start=runs/first/plain-x2-logits-seed{seed}/student.safetensors``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from dukd.core import config
from dukd.recipes.families import recipe
from dukd.training.experiment import REGISTRY, Experiment

_NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A method with numbers of its own."""

    name: str
    """As tables call it; letters, digits, ``.+-_``."""
    method: str
    """What stands at the end of a recipe's name."""
    options: tuple[str, ...] = ()
    """Changes of the experiment, after those of the study."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is trained and measured; see the module's example."""

    recipes: tuple[str, ...]
    """Networks and scale, as in ``plain-x2``."""
    methods: tuple[str, ...] = ()
    """What stands at the end of a recipe's name."""
    variants: tuple[Variant, ...] = ()
    """Further methods, with numbers of their own."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each; they share first weights and batches between methods."""
    sets: tuple[Path, ...] = ()
    """Folders that students are measured on when they are trained."""
    metrics: tuple[str, ...] = ()
    """What is measured, such as psnr_y and niqe; what papers print if left out."""
    border: int | None = None
    """Pixels left out on every side; as many as the scale if left out, 0 for the real world."""
    options: tuple[str, ...] = ()
    """Changes of every experiment, as ``name=value``."""
    against: str = "logits"
    """The method whose cells the others are held against, seed by seed."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not self.recipes or not (self.methods or self.variants) or not self.seeds:
            raise ValueError(
                "a study has at least one of recipes, of methods or variants, of seeds"
            )
        for variant in self.variants:
            if not _NAME.fullmatch(variant.name):
                raise ValueError(
                    f"{variant.name!r} cannot name a folder: take letters, digits and .+-_"
                )
        if self.border is not None and self.border < 0:
            raise ValueError(f"border is 0 or more, but got {self.border}")
        names = [*self.methods, *(v.name for v in self.variants)]
        for what, listed in (("methods", names), ("recipes", self.recipes), ("seeds", self.seeds)):
            if len(set(listed)) < len(listed):
                raise ValueError(
                    f"{what} are named once each, but got {', '.join(map(str, listed))}"
                )

    @staticmethod
    def from_file(path: Path) -> "Study":
        """Read a study.

        Raises:
            dukd.core.config.ConfigError: If the file cannot be read, or does not fit.
        """
        return config.read_file(path, Study, registry={})

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """Methods and variants, in order."""
        return (*(Variant(name=m, method=m) for m in self.methods), *self.variants)

    def cells(self) -> list["Cell"]:
        """Everything that is to be trained: seed by seed, so that early results are of all.

        Raises:
            ValueError: If there is no such recipe, or an option does not fit.
        """
        return [
            self._cell(networks, variant, seed)
            for seed in self.seeds
            for networks in self.recipes
            for variant in self.all_variants
        ]

    def _cell(self, networks: str, variant: Variant, seed: int) -> "Cell":
        said = (one.replace("{seed}", str(seed)) for one in (*self.options, *variant.options))
        options = (*said, f"optimization.seed={seed}")
        made = changed(recipe(f"{networks}-{variant.method}").make(), options)
        return Cell(networks, variant.name, seed, made)

    def taught(self, cell: "Cell") -> "Cell | None":
        """The cell, or one of its recipe, that has the teacher with which outputs are compared."""
        if cell.experiment.teacher is not None:
            return cell
        others = (self._cell(cell.recipe, v, cell.seed) for v in self.all_variants)
        return next((c for c in others if c.experiment.teacher is not None), None)


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    recipe: str
    """Networks and scale."""
    method: str
    """Of the study's methods and variants."""
    seed: int
    experiment: Experiment

    @property
    def name(self) -> str:
        """Name of its run directory."""
        return f"{self.recipe}-{self.method}-seed{self.seed}"


def changed(experiment: Experiment, options: Sequence[str]) -> Experiment:
    """An experiment with other values, written as in its YAML.

    Options of a part that an experiment does not have, such as ``teacher.weights`` of one without a
    teacher, are passed over: a study gives them to all methods.

    Args:
        experiment: What to change.
        options: Dotted name and value, as ``optimization.steps=60000``.

    Raises:
        ValueError: If an option has no value, or does not fit; with the name of the option.
    """
    whole = cast("dict[str, Any]", config.plain(experiment, registry=REGISTRY))
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"{option!r} has no value: write {option}=VALUE")
        *parents, last = name.strip().split(".")
        inside: Any = whole
        for parent in parents:
            if inside is not None:
                inside = _part(inside, parent, option)
        if inside is None:
            continue
        if not isinstance(inside, dict):
            raise ValueError(  # noqa: TRY004  as everything else that cannot be
                f"{option}: {'.'.join(parents)} is {inside!r}, which has no {last} of its own"
            )
        try:
            inside[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"{option!r}: {text!r} is not YAML") from None
    written = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    return Experiment.from_yaml(written, source="options")


def _part(whole: object, name: str, option: str) -> object:
    parts = cast("dict[str, object]", whole) if isinstance(whole, dict) else {}
    if name not in parts:
        raise ValueError(
            f"{option}: there is no {name}{config.nearest(name, parts)}; there are "
            f"{', '.join(parts) or 'no parts of it'}"
        )
    return parts[name]
