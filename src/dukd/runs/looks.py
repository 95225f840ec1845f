"""What a page calls each experiment, and how its lines look: DUKD is the one that stands out."""

from collections.abc import Sequence
from dataclasses import dataclass

from dukd.runs.compare import called
from dukd.runs.summary import Summary

STRONG = "dukd"
"""The method whose line is the strongest."""
STYLES = 6
"""Looks of lines: 0 is the strong one."""


@dataclass(frozen=True)
class Look:
    """One experiment on a page; its seeds share it."""

    label: str
    """What the page calls it."""
    style: int
    """Number of its line's look, as the style sheet has them; 0 stands out."""

    @property
    def strong(self) -> bool:
        """Whether it is the one to look at."""
        return self.style == 0


def looks(summaries: Sequence[Summary]) -> dict[str, Look]:
    """A look for each experiment, by the ``kin`` of its runs.

    The first experiment whose method is DUKD stands out; without one, an experiment that is alone.
    """
    leading = {summary.kin: summary for summary in reversed(summaries)}
    kins = list(dict.fromkeys(summary.kin for summary in summaries))
    first = [kin for kin in kins if leading[kin].method == STRONG][:1]
    strong = first or (kins if len(kins) == 1 else [])
    weak = [kin for kin in kins if kin not in strong]
    styles = dict.fromkeys(strong, 0) | {
        kin: 1 + number % (STYLES - 1) for number, kin in enumerate(weak)
    }
    names = called([leading[kin] for kin in kins])
    return {kin: Look(name, styles[kin]) for kin, name in zip(kins, names, strict=True)}
