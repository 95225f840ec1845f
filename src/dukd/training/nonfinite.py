"""Stop at a loss or gradient that is not finite, before it reaches the weights.

On the CPU the values are checked before the optimizer steps. On a GPU that would stall every
step, so the verdict stays there: the fused optimizer reads it as ``found_inf`` and leaves the
weights alone, from the first bad step on. The host reads the verdict of a step while the next one
is under way, and of the last one before anything is saved.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Adam


@dataclass
class CheckedStep:
    """A step whose losses are checked."""

    step: int
    """Its number, from 1."""
    lr: Tensor
    hr: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """By name, as the method weighs them."""
    norm: Tensor | None = None
    """Of the gradient."""


class NonFiniteGuard:
    """Checks every step of an optimizer.

    Args:
        optimizer: A fused one, which is kept from stepping.
        device: Where the losses are.
        deferred: Whether the verdict is read one step late; by default on a GPU only.
    """

    def __init__(
        self, optimizer: Adam, device: torch.device, *, deferred: bool | None = None
    ) -> None:
        self.deferred = device.type == "cuda" if deferred is None else deferred
        self._device = device
        self._bad = torch.zeros((), device=device)
        self._waiting: list[tuple[CheckedStep, Tensor, torch.cuda.Event | None]] = []
        if self.deferred:
            # as torch's GradScaler does
            optimizer.found_inf = self._bad  # pyright: ignore[reportAttributeAccessIssue]

    def check(self, step: CheckedStep, values: list[Tensor]) -> CheckedStep | None:
        """Judge what is about to reach the weights.

        Args:
            step: The step it belongs to.
            values: Sums of losses, and the norm of the gradient.

        Returns:
            The step that was found bad, this one or the one before; None if all is well as far as
            is known.
        """
        bad = self.judge(values)
        if not self.deferred:
            return step if bool(bad) else None
        return self.wait_for(step)

    def judge(self, values: list[Tensor]) -> Tensor:
        """Whether a step is bad, on the device, where the optimizer learns of it if it is to."""
        bad = ~torch.isfinite(torch.stack([value.detach().float() for value in values])).all()
        if self.deferred:
            self._bad.logical_or_(bad)
        return bad

    def wait_for(self, step: CheckedStep) -> CheckedStep | None:
        """Have the verdict on a step brought, and read that on the one before."""
        found = self.settle()
        verdict, event = self._bad, None
        if self._device.type == "cuda":
            verdict = torch.empty((), pin_memory=True)
            verdict.copy_(self._bad, non_blocking=True)
            event = torch.cuda.Event(blocking=True)  # leaves the processor to others
            event.record()
        self._waiting.append((step, verdict.clone() if event is None else verdict, event))
        return found

    def settle(self) -> CheckedStep | None:
        """Read the verdicts that are still out; called before anything is saved."""
        waiting, self._waiting = self._waiting, []
        for step, verdict, event in waiting:
            if event is not None:
                event.synchronize()
            if bool(verdict):
                return step
        return None
