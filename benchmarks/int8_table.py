"""Tables of the lines that ``int8.py`` writes: dB lost against float, mean and spread of seeds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

Line = Mapping[str, Any]
_KEY = ("student", "setting", "bits", "balanced", "settled", "way", "steps", "rate")
_SETS = ("Set5", "Set14", "Urban100")


def table(lines: Sequence[Line]) -> str:
    """Markdown; a row is all seeds of a cell."""
    floats = {line["student"]: line for line in lines if line["way"] == "float"}
    rows: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in lines:
        if line["way"] != "float":
            rows[tuple(line[key] for key in _KEY)].append(line)
    text = [f"| {' | '.join(_KEY)} | seeds | {' | '.join(_SETS)} | CPU s |"]
    text.append("| --- " * len(_KEY) + "| ---: " * (len(_SETS) + 2) + "|")
    for key, found in rows.items():
        losses = [_spread([x[s] - floats[key[0]][s] for x in found if s in x]) for s in _SETS]
        seconds = mean(x["seconds"] for x in found)
        shown = " | ".join(str(v) for v in key)
        text.append(f"| {shown} | {len(found)} | {' | '.join(losses)} | {seconds:.0f} |")
    return "\n".join(text)


def _spread(values: Sequence[float]) -> str:
    """Mean, and the deviation of single seeds where there are several."""
    if not values:
        return ""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):+.3f}{spread}"
