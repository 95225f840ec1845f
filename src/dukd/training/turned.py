"""A student that sees every image turned at random, and answers as if it had not been.

Where batches come again after a period and the teacher's answers are replayed, the images a method
handles have to stay as they are. Flips and transposition commute with upscaling exactly, so the
student may see ``g x`` and answer ``g^-1 S(g x)``: eight views of every image, of which the method,
the ground truth and the teacher need not know.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from typing_extensions import override

from dukd.images import invertible
from dukd.networks.base import Network, Output, Wrapped

TURNS: tuple[invertible.Operation, ...] = ("flip_rows", "flip_columns", "transpose")
"""Each with even chances: every symmetry of the square is equally likely."""


class Turned(Wrapped):
    """A network behind a symmetry that is drawn anew for each image of each call."""

    def __init__(
        self, network: Network, operations: Sequence[invertible.Operation] = TURNS
    ) -> None:
        """Turn what ``network`` sees by ``operations``, each with probability one half."""
        super().__init__(network)
        self.operations = tuple(operations)
        self._rng = torch.Generator()

    def draw_from(self, rng: Generator) -> None:
        """Draw from ``rng`` from now on."""
        self._rng = rng

    @override
    def observe(self, lr: Tensor, depths: Sequence[float]) -> Output:
        if depths and "invert" in self.operations:
            raise ValueError(
                "features of inverted colors cannot be turned back: leave invert out of the "
                "operations"
            )
        turn = invertible.draw(lr.shape, probability=0.5, rng=self._rng, operations=self.operations)
        seen = turn.apply(lr)
        sr, features, _ = self.network.observe(seen, depths)
        h, w = seen.shape[
            -2:
        ]  # without what the network padded, which lies elsewhere once it is turned
        return Output(turn.invert(sr), [turn.invert(f[..., :h, :w]) for f in features], self)
