"""The numbers that a family gives a method which was left at its defaults."""

from dataclasses import dataclass, replace

from dukd.methods import (
    DUKD,
    ECO,
    Logits,
    Method,
    ReleasedDUKD,
    SelfECO,
    Upcycling,
    ZoomIn,
    ZoomOut,
)
from dukd.methods.base import ground_truth_weight

_PAPERS_STEPS = 250_000


@dataclass(frozen=True, kw_only=True)
class Released:
    """What the released configurations give each pair of networks: methods.md section 3.2."""

    reconstruction: float
    """Weight of the ground truth, beside 1 for the teacher."""
    windows: int = 1
    zoom_out: bool = True
    consistency: float = 0.3


def weighted(method: Method, released: Released) -> Method:
    """A method that was left at its defaults with the weights of the released configurations.

    Those stand beside their weight of the ground truth on the pair. A base with another weight
    there keeps its own, and what is upcycled is weighed in its units: FAKD has 0.5 where DUKD has
    5, so a tenth. The full method keeps zoom out and label consistency where the configurations
    leave them out (D7); their own form does not.
    """
    if not isinstance(method, DUKD):
        return method
    usual = type(method)()
    if method != replace(usual, base=method.base):
        return method
    if method.base == usual.base:
        method = replace(method, base=Logits(reconstruction=released.reconstruction))
    unit = ground_truth_weight(method.base) / released.reconstruction

    def counted(upcycling: Upcycling) -> Upcycling:
        if isinstance(upcycling, ZoomIn):
            return replace(upcycling, windows=released.windows, imitation=unit)
        reconstruction = unit * released.reconstruction
        return replace(upcycling, imitation=unit, reconstruction=reconstruction)

    upcyclings = tuple(counted(u) for u in method.upcyclings)
    if not isinstance(method, ReleasedDUKD):
        return replace(method, upcyclings=upcyclings)
    if not released.zoom_out:
        upcyclings = tuple(u for u in upcyclings if not isinstance(u, ZoomOut))
    return replace(method, upcyclings=upcyclings, consistency=released.consistency)


PLAIN = Released(reconstruction=1)
"""What families give that no paper has."""


def timed(method: Method, steps: int) -> Method:
    """A schedule that was left at its defaults, which are for the papers' steps, for others."""
    if isinstance(method, DUKD):
        return replace(method, base=timed(method.base, steps))
    if method in {ECO(), SelfECO()}:
        names = ("end",) if isinstance(method, ECO) else ("start", "end")
        numbers = {n: round(getattr(method, n) * steps / _PAPERS_STEPS) for n in names}
        return replace(method, **numbers)
    return method
