"""Recipes of the papers' tables, and small ones for a computer without a GPU."""

from dataclasses import replace

from dukd import networks
from dukd.methods import HKDSR, HKDSRExits, Method, SlimmableCSD
from dukd.networks import EDSRConfig, ExitsConfig
from dukd.recipes.protocol import RUNS, WEIGHTS, paper, quick, started
from dukd.recipes.weighing import Released, weighted
from dukd.training.experiment import Experiment, Optimization
from dukd.training.teachers import File

_EDSR = {
    2: Released(reconstruction=5, windows=2),
    3: Released(reconstruction=5),
    4: Released(reconstruction=5),
    8: Released(reconstruction=5),
}
_RCAN = {
    2: Released(reconstruction=1, zoom_out=False, consistency=0),
    3: Released(reconstruction=2),
    4: Released(reconstruction=1, zoom_out=False, consistency=0),
}
STOCHASTIC_DEPTH = 0.1
"""Of SwinIR while it trains: the default of BasicSR's class, which no configuration of DUKD or DCKD
sets."""
_SWINIR = {scale: Released(reconstruction=5, zoom_out=False) for scale in (2, 3, 4)}


def edsr(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 32 from EDSR-L 256 x 32 (DUKD, AugKD: EDSR rows); 250k steps on DIV2K.

    At x8, where EDSR-L was never published, the teacher is RCAN.
    """
    digest = {2: "be38e77d", 3: "3660f70d", 4: "76ee1c8f"}.get(scale, "")
    name = f"EDSR_Lx{scale}_f256b32_DIV2K_official-{digest}.pth" if digest else "RCAN_BIX8.pt"
    weights = WEIGHTS / name
    if digest and method == SlimmableCSD():  # EDSR-L is four times as wide: its authors begin so
        method = SlimmableCSD(wide_weights=weights)
    return paper(
        networks.edsr_student(scale), File(weights=weights), weighted(method, _EDSR[scale])
    )


def edsr_warm(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 32 at x4, started from the x2 student of the same method, as in DUKD's tables."""
    return started(edsr(scale, method), f"edsr-x2-{method.label}")


def edsr_16(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 16 from EDSR-L 256 x 32 (AugKD's ablation at x4; FAKD's student)."""
    return replace(edsr(scale, method), student=networks.edsr_baseline(scale))


def rcan(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 6 from RCAN 10 x 20 (RCAN rows)."""
    weights = WEIGHTS / f"RCAN_BIX{scale}.pt"
    if isinstance(method, HKDSR):  # whose teacher has exits, which were trained before
        weights = RUNS / f"rcan-teacher-x{scale}-{HKDSRExits.name}" / "student.safetensors"
    if method == HKDSR() and scale == 2:
        method = HKDSR(similarity=(0.0005, 0.0005, 0.0025), fusion=(0.02, 0.02, 0.4))
    return paper(
        networks.rcan_student(scale), File(weights=weights), weighted(method, _RCAN[scale])
    )


def swinir(scale: int, method: Method) -> Experiment:
    """SwinIR 60 x 24 from SwinIR 180 x 36 trained on DIV2K (SwinIR rows)."""
    weights = WEIGHTS / f"001_classicalSR_DIV2K_s48w8_SwinIR-M_x{scale}.pth"
    student = replace(networks.swinir_student(scale), stochastic_depth=STOCHASTIC_DEPTH)
    return paper(student, File(weights=weights), weighted(method, _SWINIR[scale]))


def rcan_from_edsr(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 6 from EDSR-L (AugKD, table 4: across architectures)."""
    return replace(rcan(scale, method), teacher=edsr(scale, method).teacher)


def rcan_from_swinir(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 6 from SwinIR (AugKD, table 4: across architectures)."""
    return replace(rcan(scale, method), teacher=swinir(scale, method).teacher)


def edsr_from_swinir(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 32 from SwinIR: a convolutional student that learns from a transformer."""
    return replace(edsr(scale, method), teacher=swinir(scale, method).teacher)


def small(scale: int, method: Method) -> Experiment:
    """EDSR 32 x 5 from EDSR 64 x 5, for a computer without a GPU: 2,500 steps of 16 patches."""
    weights = WEIGHTS / f"edsr_f64b5_x{scale}_basicsr.safetensors"
    teacher = File(weights=weights, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0)
    return quick(
        EDSRConfig(scale=scale, width=32, blocks=5, value_range=1.0, skip="nearest"),
        teacher,
        method,
        _ONE_CYCLE,
    )


def tiny(scale: int, method: Method) -> Experiment:
    """EDSR 32 x 4 from SMFANet+, which is as good as EDSR-L: for a computer without a GPU."""
    teacher = File(weights=WEIGHTS / f"smfanet_plus_df2k_x{scale}.pth")
    return quick(
        EDSRConfig(scale=scale, width=32, blocks=4, value_range=1.0, skip="nearest"),
        teacher,
        method,
        _ONE_CYCLE,
    )


_ONE_CYCLE = Optimization(
    steps=2_500, learning_rate=2e-3, schedule="one-cycle", precision="bfloat16", ema=0.99
)
"""How both of them train."""


def edsr_teacher(scale: int, method: Method) -> Experiment:
    """EDSR-L 256 x 32 itself, from nothing: how a teacher is made.

    Methods other than scratch make little sense.
    """
    return replace(edsr(scale, method), student=networks.edsr_teacher(scale))


def rcan_teacher(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 20 itself, from nothing."""
    made = replace(rcan(scale, method), student=networks.rcan_teacher(scale))
    if not isinstance(method, HKDSRExits):
        return made
    start = WEIGHTS / f"RCAN_BIX{scale}.pt"
    return replace(
        made,
        student=ExitsConfig(network=made.student),
        optimization=replace(made.optimization, steps=100_000, milestones=(0.6,), warm_start=start),
    )


def swinir_teacher(scale: int, method: Method) -> Experiment:
    """SwinIR 180 x 36 itself, from nothing."""
    student = replace(networks.swinir_teacher(scale), stochastic_depth=STOCHASTIC_DEPTH)
    return replace(swinir(scale, method), student=student)
