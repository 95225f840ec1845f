"""The columns of tables of networks: what is known of a model, and what is measured on a set."""

from collections.abc import Iterable, Sequence

from dukd.core.registry import known
from dukd.core.text import compact, elapsed, percent
from dukd.evaluation.metrics import Metric
from dukd.evaluation.table import Column, decimals

PROTOCOL = {
    "rounding": "SR and HR rounded to 8 bits",
    "mean": "over images",
    "hr": "cropped at the top left to a multiple of the scale",
    "gray": "as RGB; papers that keep gray images gray print 0.09 dB less for bicubic on Set14",
}
"""How numbers are made, beside the border and what each metric says of itself."""

COLUMNS = (
    Column(name="parameters", title="parameters", show=lambda value: f"{value:,.0f}"),
    Column(name="macs", title="MACs", show=compact),
    Column(name="seconds_per_image", title="time per image", show=elapsed),
    Column(name="network", title="network", shown=False),
)
"""Of a model."""

SHARE = Column(name="share", title="share of bicubic to teacher", show=lambda v: percent(v, 1))
"""Part of the way from bicubic interpolation to the teacher, in PSNR-Y."""


def protocol_of(metrics: Iterable[Metric], *, border: int, scale: int) -> dict[str, str]:
    """How the numbers are made, in phrases by their subject."""
    size = "as many pixels as the scale" if border == scale else f"{border} pixels"
    found = {"border": size if border else "none", **PROTOCOL}
    for metric in metrics:
        found |= metric.protocol
    return found


def columns_of(
    names: Sequence[str], *, finer: int = 0, joined: Sequence[str] = ()
) -> tuple[Column, ...]:
    """Columns of metrics.

    Args:
        names: The metrics; one that is not known here is shown by its name.
        finer: Decimals beyond those that papers print.
        joined: Metrics that share a cell with the one before them.
    """
    every: dict[str, type[Metric]] = known(Metric)
    found: list[Column] = []
    for name in names:
        metric = every.get(name)
        digits = 4 if metric is None else metric.digits
        column = Column(
            name=name,
            title=name if metric is None else metric.title,
            show=decimals(digits + finer),
            better="" if metric is None else metric.better,
            joined=name in joined,
        )
        found.append(column)
    return tuple(found)
