"""Training without a teacher: the baseline every method has to beat, and how teachers are made."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from dukd.methods.base import Batch, Method, View


@dataclass(frozen=True, kw_only=True)
class Scratch(Method):
    """Match the ground truth."""

    name: ClassVar[str] = "scratch"

    reconstruction: float = 1.0
    """Weight of the mean absolute difference to the ground truth."""

    @override
    def views(self, batch: Batch) -> list[View]:
        return [View.pair(batch, reconstruction=self.reconstruction)]
