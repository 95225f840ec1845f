"""Recipes of the papers' tables, and small ones for a computer without a GPU."""

from dataclasses import dataclass, replace

from dukd import networks
from dukd.methods import DUKD, Logits, Method, ReleasedDUKD, Upcycling, ZoomIn, ZoomOut
from dukd.networks import EDSRConfig
from dukd.recipes.protocol import RUNS, WEIGHTS, paper, quick
from dukd.training.experiment import Experiment, Optimization
from dukd.training.teachers import File


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
    8: _Released(reconstruction=5),
}
_RCAN = {
    2: _Released(reconstruction=1, zoom_out=False, consistency=0),
    3: _Released(reconstruction=2),
    4: _Released(reconstruction=1, zoom_out=False, consistency=0),
}
_SWINIR = {scale: _Released(reconstruction=5, zoom_out=False) for scale in (2, 3, 4)}


def edsr(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 32 from EDSR-L 256 x 32 (DUKD, AugKD: EDSR rows); 250k steps on DIV2K.

    At x8, where EDSR-L was never published, the teacher is RCAN.
    """
    digest = {2: "be38e77d", 3: "3660f70d", 4: "76ee1c8f"}.get(scale, "")
    name = f"EDSR_Lx{scale}_f256b32_DIV2K_official-{digest}.pth" if digest else "RCAN_BIX8.pt"
    weights = WEIGHTS / name
    return paper(
        networks.edsr_student(scale), File(weights=weights), _weighted(method, _EDSR[scale])
    )


def edsr_warm(scale: int, method: Method) -> Experiment:
    """EDSR 64 x 32 at x4, started from the x2 student of the same method, as in DUKD's tables."""
    cold = edsr(scale, method)
    start = RUNS / f"edsr-x2-{method.label}" / "student.safetensors"
    return replace(cold, optimization=replace(cold.optimization, warm_start=start))


def rcan(scale: int, method: Method) -> Experiment:
    """RCAN 10 x 6 from RCAN 10 x 20 (RCAN rows)."""
    weights = WEIGHTS / f"RCAN_BIX{scale}.pt"
    return paper(
        networks.rcan_student(scale), File(weights=weights), _weighted(method, _RCAN[scale])
    )


def swinir(scale: int, method: Method) -> Experiment:
    """SwinIR 60 x 24 from SwinIR 180 x 36 trained on DIV2K (SwinIR rows)."""
    weights = WEIGHTS / f"001_classicalSR_DIV2K_s48w8_SwinIR-M_x{scale}.pth"
    return paper(
        networks.swinir_student(scale), File(weights=weights), _weighted(method, _SWINIR[scale])
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
    return replace(rcan(scale, method), student=networks.rcan_teacher(scale))


def swinir_teacher(scale: int, method: Method) -> Experiment:
    """SwinIR 180 x 36 itself, from nothing."""
    return replace(swinir(scale, method), student=networks.swinir_teacher(scale))


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
