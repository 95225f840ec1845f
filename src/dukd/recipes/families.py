"""Recipes by name: ``<networks>-x<scale>-<method>``, such as ``edsr-x4-dukd``.

The networks decide student, teacher and training, the method is any of `dukd.methods`, two joined
by a plus, such as ``fakd+dukd``, or one of `dukd.recipes.ablations`. A recipe is a function that
returns an `Experiment`; ``dataclasses.replace`` makes another from it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from dukd import networks
from dukd.core.config import nearest
from dukd.core.registry import known
from dukd.methods import DUKD, Logits, LowRank, Method, Scratch
from dukd.networks import EDSRConfig, NetworkConfig, RRDBConfig, SwinIRConfig
from dukd.networks.base import SCALES
from dukd.recipes import papers, students
from dukd.recipes.ablations import ABLATIONS
from dukd.recipes.int8 import in_int8, int8_ending
from dukd.recipes.protocol import Maker, beside_itself, started
from dukd.recipes.real import for_real, real_tag
from dukd.recipes.students import STUDENT_SCALES
from dukd.training.experiment import Experiment
from dukd.training.teachers import File, Teacher

FAMILIES: dict[str, Maker] = {
    "edsr": papers.edsr,
    "edsr-warm": papers.edsr_warm,
    "edsr-16": papers.edsr_16,
    "rcan": papers.rcan,
    "swinir": papers.swinir,
    "rcan-from-edsr": papers.rcan_from_edsr,
    "rcan-from-swinir": papers.rcan_from_swinir,
    "edsr-from-swinir": papers.edsr_from_swinir,
    "edsr-teacher": papers.edsr_teacher,
    "rcan-teacher": papers.rcan_teacher,
    "swinir-teacher": papers.swinir_teacher,
    "compact": students.compact,
    "compact-big": students.compact_big,
    "compact-ultra": students.compact_ultra,
    "compact-super-ultra": students.compact_super_ultra,
    "span": students.span,
    "smfanet": students.smfanet,
    "plain": students.plain,
    "plain-small": students.plain_small,
    "plain-large": students.plain_large,
    "small": papers.small,
    "tiny": papers.tiny,
}
"""What stands before the scale in a recipe's name."""
REAL = ("compact", "compact-big", "compact-super-ultra")
"""Families that are listed with ``-real-``: 64 x 16, 64 x 32, and 50 thousand parameters."""
_SCALES_OF = {"edsr": (*SCALES, 8), "edsr-warm": (4,), "small": (2,)} | {
    name: STUDENT_SCALES
    for name, maker in FAMILIES.items()
    if maker.__module__ == students.__name__
}
"""Families that are there at other scales than x2, x3, x4: the x2 student starts from nothing; the
small teacher is public at x2; RCAN is a teacher at x8 too."""


def scales_of(family: str) -> tuple[int, ...]:
    """Scales that a family has recipes for."""
    return _SCALES_OF.get(family, SCALES)


_HOLDS: dict[str, Callable[[int], NetworkConfig]] = {
    "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg40": lambda _: SwinIRConfig(
        scale=1, window=7, upsampler="none", value_range=255.0
    ),
    "EDSR_Lx": networks.edsr_teacher,
    "RCAN_BIX": networks.rcan_teacher,
    "RealESRGAN_x": lambda scale: RRDBConfig(scale=scale, unshuffle=4 // scale),
    "001_classicalSR_DIV2K_s48w8_SwinIR-M_x": networks.swinir_teacher,
    "edsr_f64b5_x": lambda scale: EDSRConfig(scale=scale, blocks=5, mean=(0.0, 0.0, 0.0)),
    "smfanet_plus_df2k_x": networks.smfanet_plus,
}
"""What the teachers' files hold, by how their names begin."""


def config_of(teacher: Teacher, scale: int) -> NetworkConfig | None:
    """The network that a recipe's teacher is, told by its file's name.

    It serves where the file itself is not at hand.

    Args:
        teacher: The teacher of a recipe.
        scale: Upscaling factor.

    Returns:
        None for a file that no recipe names.
    """
    file = teacher.weights.name if isinstance(teacher, File) else ""
    known_as = [
        make
        for start, make in _HOLDS.items()
        if file.startswith(f"{start}{scale}" if start.endswith("x") else start)
    ]
    return known_as[0](scale) if known_as else None


@dataclass(frozen=True)
class Recipe:
    """A named experiment."""

    name: str
    about: str
    make: Callable[[], Experiment]


def method_named(name: str) -> Method:
    """Make a method with its defaults, such as ``dukd``.

    ``fakd+dukd`` is one with DUKD's upcycled inputs.

    Raises:
        ValueError: If there is none of that name; the nearest is offered.
    """
    base, plus, upcycling = name.partition("+")
    makers = known(Method)
    for part in (base, upcycling or "dukd"):
        if part not in makers:
            near = nearest(part, [*makers, *([] if plus else ABLATIONS)])
            raise ValueError(f"there is no method {part!r}{near}; known are {', '.join(makers)}")
    if not plus:
        return makers[base]()
    if upcycling != DUKD.name or issubclass(makers[base], DUKD):
        raise ValueError(
            "a plus joins a method that does not upcycle with dukd, as in fakd+dukd, but got "
            f"{name!r}"
        )
    return DUKD(base=makers[base]())


def recipe(name: str) -> Recipe:
    """Find a recipe by its name.

    Raises:
        ValueError: If there is none; the nearest is offered.
    """
    if (ending := int8_ending(name)) is not None:
        whole, target = recipe(ending[0]), ending[1]
        about = f"{whole.about} Its student computes in 8 bits, for {target}."
        return Recipe(name, about, lambda: in_int8(whole.make(), target))
    if (plain := real_tag(name)) is not None:
        whole = recipe(plain)
        about = f"{whole.about} On degraded inputs, from Real-ESRGAN."
        return Recipe(name, about, lambda: for_real(whole.make()))
    match = re.fullmatch(r"(?P<family>.+)-x(?P<scale>\d+)-(?P<method>.+)", name)
    if match is None:
        scales = set(re.findall(r"x\d+", name))
        near = nearest(name, [n for n in names() if scales <= {*n.split("-")}])
        raise ValueError(
            "a recipe is called <networks>-x<scale>-<method>, such as edsr-x4-dukd, but got "
            f"{name!r}{near}"
        )
    family, scale = match["family"], int(match["scale"])
    if family not in FAMILIES:
        near = nearest(family, FAMILIES)
        raise ValueError(
            f"there is no recipe for {family!r}{near}; known are {', '.join(FAMILIES)}"
        )
    if scale not in (scales := scales_of(family)):
        there = ", ".join(f"x{s}" for s in scales)
        raise ValueError(f"the recipes for {family} are for {there}, but got x{scale}")
    maker = FAMILIES[family]
    about = (maker.__doc__ or "").splitlines()[0]
    ablation = ABLATIONS.get(match["method"])
    if ablation is not None:

        def changed() -> Experiment:
            made = ablation.of(maker(scale, ablation.start), maker(scale, DUKD()).method)
            warm = made.optimization.warm_start is not None
            return started(made, f"edsr-x2-{match['method']}") if warm else made

        return Recipe(name, f"{about} Ablation: {ablation.about}.", changed)
    method = method_named(match["method"])
    if isinstance(method, LowRank):
        about = f"{about} It refines the student of dukd, beside itself."
        itself = f"{family}-x{scale}-{DUKD.name}"
        return Recipe(name, about, lambda: beside_itself(maker(scale, method), itself))
    return Recipe(name, about, lambda: maker(scale, method))


def names() -> list[str]:
    """The recipes that have a place in a table; any method can stand at the end of a name."""
    ends = [Scratch.name, Logits.name, DUKD.name]
    real = [f"{f}-x4-real-{end}" for f in REAL for end in ends[1:]]
    return [
        f"{family}-x{scale}-{end}"
        for family in FAMILIES
        for scale in scales_of(family)
        for end in ([Scratch.name] if family.endswith("-teacher") else ends)
    ] + real
