"""Named experiments: the papers' tables, small ones for a computer without a GPU, and the demo.

A name is ``<networks>-x<scale>-<method>``, such as ``edsr-x4-dukd``: the networks decide student,
teacher and training, the method is any of `dukd.methods`, two joined by a plus, such as
``fakd+dukd``, or one of `dukd.recipes.ablations`. A recipe is a function that returns an
`Experiment`; ``dataclasses.replace`` makes another from it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dukd import networks
from dukd.core.config import nearest
from dukd.core.registry import known
from dukd.methods import DUKD, Logits, Method, ReleasedDUKD, Scratch, Upcycling, ZoomIn, ZoomOut
from dukd.methods.base import needs_teacher
from dukd.networks import EDSRConfig, NetworkConfig
from dukd.networks.base import SCALES
from dukd.recipes.ablations import ABLATIONS
from dukd.recipes.int8 import in_int8, int8_ending
from dukd.training.experiment import Data, Evaluation, Experiment, Optimization, Teacher

Maker = Callable[[int, Method], Experiment]

DATASETS = Path("datasets")
"""Where recipes look for data sets; any path can be given in its place."""
WEIGHTS = Path("weights")
"""Where recipes look for teachers; any file can be given in its place."""
RUNS = Path("runs")
"""Where recipes look for other runs to start from; training writes there."""


@dataclass(frozen=True, kw_only=True)
class _Released:
    """What the released configurations give each pair of networks: methods.md section 3.2."""

    reconstruction: float
    """Weight of the ground truth, beside 1 for the teacher."""
    windows: int = 1
    zoom_out: bool = True
    consistency: float = 0.3


_EDSR = {
    2: _Released(reconstruction=5, windows=2),
    3: _Released(reconstruction=5),
    4: _Released(reconstruction=5),
}
_RCAN = {
    2: _Released(reconstruction=1, zoom_out=False, consistency=0),
    3: _Released(reconstruction=2),
    4: _Released(reconstruction=1, zoom_out=False, consistency=0),
}
_SWINIR = {scale: _Released(reconstruction=5, zoom_out=False) for scale in (2, 3, 4)}


def edsr(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 32 from EDSR-L 256 x 32 (DUKD, AugKD: EDSR rows); 250k steps on DIV2K."""
    digest = {2: "be38e77d", 3: "3660f70d", 4: "76ee1c8f"}.get(scale, "")
    weights = WEIGHTS / f"EDSR_Lx{scale}_f256b32_DIV2K_official-{digest}.pth"
    return _paper(
        networks.edsr_student(scale), Teacher(weights=weights), _weighted(method, _EDSR[scale])
    )


def edsr_warm(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 32 at x4, started from the x2 student of the same method, as in DUKD's tables."""
    cold = edsr(scale, method)
    start = RUNS / f"edsr-x2-{method.label}" / "student.safetensors"
    return replace(cold, optimization=replace(cold.optimization, warm_start=start))


def rcan(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 6 from RCAN 10 x 20 (RCAN rows)."""
    weights = WEIGHTS / f"RCAN_BIX{scale}.pt"
    return _paper(
        networks.rcan_student(scale), Teacher(weights=weights), _weighted(method, _RCAN[scale])
    )


def swinir(scale: int, method: Method) -> Experiment:
    """SwinIR 60 x 24 from SwinIR 180 x 36 trained on DIV2K (SwinIR rows)."""
    weights = WEIGHTS / f"001_classicalSR_DIV2K_s48w8_SwinIR-M_x{scale}.pth"
    return _paper(
        networks.swinir_student(scale), Teacher(weights=weights), _weighted(method, _SWINIR[scale])
    )


def rcan_from_edsr(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 6 from EDSR-L (AugKD, table 4: across architectures)."""
    return replace(rcan(scale, method), teacher=edsr(scale, method).teacher)


def rcan_from_swinir(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 6 from SwinIR (AugKD, table 4: across architectures)."""
    return replace(rcan(scale, method), teacher=swinir(scale, method).teacher)


def edsr_from_swinir(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 32 from SwinIR: a convolutional student that learns from a transformer."""
    return replace(edsr(scale, method), teacher=swinir(scale, method).teacher)


def _paper(student: NetworkConfig, teacher: Teacher, method: Method) -> Experiment:
    """The protocol of DUKD's tables: methods.md section 3.1. It is the same for every method (D20).

    The best student is chosen on the first set, which is not a test set (D22).
    """
    sets = ("DIV2K/DIV2K_valid_HR", "Set5", "Set14", "BSD100", "Urban100")
    return Experiment(
        student=student,
        teacher=teacher if needs_teacher(method, student.scale) else None,
        method=method,
        data=Data(train=DATASETS / "DIV2K" / "DIV2K_train_HR"),
        evaluation=Evaluation(sets=tuple(DATASETS / s for s in sets)),
    )


def small(scale: int, method: Method) -> Experiment:
    """EDSR 32 x 5 from EDSR 64 x 5, for a computer without a GPU: 2,500 steps of 16 patches."""
    weights = WEIGHTS / f"edsr_f64b5_x{scale}_basicsr.safetensors"
    teacher = Teacher(weights=weights, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0)
    return _quick(
        EDSRConfig(scale=scale, width=32, blocks=5, value_range=1.0, skip="nearest"),
        teacher,
        method,
    )


def tiny(scale: int, method: Method) -> Experiment:
    """EDSR 32 x 4 from SMFANet+, which is as good as EDSR-L: for a computer without a GPU."""
    teacher = Teacher(weights=WEIGHTS / f"smfanet_plus_df2k_x{scale}.pth")
    return _quick(
        EDSRConfig(scale=scale, width=32, blocks=4, value_range=1.0, skip="nearest"),
        teacher,
        method,
    )


def _quick(student: NetworkConfig, teacher: Teacher, method: Method) -> Experiment:
    return Experiment(
        student=student,
        teacher=teacher if needs_teacher(method, student.scale) else None,
        method=method,
        data=Data(train=DATASETS / "train"),
        optimization=Optimization(
            steps=2_500, learning_rate=2e-3, schedule="one-cycle", precision="bfloat16", ema=0.99
        ),
        evaluation=Evaluation(sets=(DATASETS / "valid",), every=500, log_every=50),
    )


def edsr_teacher(scale: int, method: Method) -> Experiment:
    """EDSR-L 256 x 32 itself, from nothing: how a teacher is made.

    Methods other than scratch make little sense.
    """
    return replace(edsr(scale, method), student=networks.edsr_teacher(scale))


def rcan_teacher(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 20 itself, from nothing."""
    return replace(rcan(scale, method), student=networks.rcan_teacher(scale))


def swinir_teacher(scale: int, method: Method) -> Experiment:
    """SwinIR 180 x 36 itself, from nothing."""
    return replace(swinir(scale, method), student=networks.swinir_teacher(scale))


_HOLDS: dict[str, Callable[[int], NetworkConfig]] = {
    "EDSR_Lx": networks.edsr_teacher,
    "RCAN_BIX": networks.rcan_teacher,
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
    known_as = [
        make for start, make in _HOLDS.items() if teacher.weights.name.startswith(f"{start}{scale}")
    ]
    return known_as[0](scale) if known_as else None


def _weighted(method: Method, released: _Released) -> Method:
    """A method that was left at its defaults with the weights of the released configurations.

    The full method keeps zoom out and label consistency where they leave them out (D7); their own
    form does not.
    """
    if not isinstance(method, DUKD):
        return method
    usual = type(method)()
    if method != replace(usual, base=method.base):
        return method

    def weighted(upcycling: Upcycling) -> Upcycling:
        if isinstance(upcycling, ZoomIn):
            return replace(upcycling, windows=released.windows)
        return replace(upcycling, reconstruction=released.reconstruction)

    upcyclings = tuple(weighted(u) for u in method.upcyclings)
    if method.base == usual.base:
        method = replace(method, base=Logits(reconstruction=released.reconstruction))
    if not isinstance(method, ReleasedDUKD):
        return replace(method, upcyclings=upcyclings)
    if not released.zoom_out:
        upcyclings = tuple(u for u in upcyclings if not isinstance(u, ZoomOut))
    return replace(method, upcyclings=upcyclings, consistency=released.consistency)


FAMILIES: dict[str, Maker] = {
    "edsr": edsr,
    "edsr-warm": edsr_warm,
    "rcan": rcan,
    "swinir": swinir,
    "rcan-from-edsr": rcan_from_edsr,
    "rcan-from-swinir": rcan_from_swinir,
    "edsr-from-swinir": edsr_from_swinir,
    "edsr-teacher": edsr_teacher,
    "rcan-teacher": rcan_teacher,
    "swinir-teacher": swinir_teacher,
    "small": small,
    "tiny": tiny,
}
"""What stands before the scale in a recipe's name."""
_SCALES_OF = {"edsr-warm": (4,), "small": (2,)}
"""Families that are not there at every scale: the x2 student starts from nothing; the small teacher
is public at x2."""


def scales_of(family: str) -> tuple[int, ...]:
    """Scales that a family has recipes for."""
    return _SCALES_OF.get(family, SCALES)


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
    match = re.fullmatch(r"(?P<family>.+)-x(?P<scale>\d+)-(?P<method>.+)", name)
    if match is None:
        near = nearest(name, names())
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
        return Recipe(
            name,
            f"{about} Ablation: {ablation.about}.",
            lambda: ablation.of(maker(scale, ablation.start)),
        )
    method = method_named(match["method"])
    return Recipe(name, about, lambda: maker(scale, method))


def names() -> list[str]:
    """The recipes that have a place in a table; any method can stand at the end of a name."""
    ends = [Scratch.name, Logits.name, DUKD.name]
    return [
        f"{family}-x{scale}-{end}"
        for family in FAMILIES
        for scale in scales_of(family)
        for end in ([Scratch.name] if family.endswith("-teacher") else ends)
    ]
