"""Fuzz for some seconds: ``python -m fuzz --seconds 600 --seed 3 [--only png tiff]``.

Each kind of input runs in a child that does batches in itself; the parent watches that it goes on.
A failure is kept in ``tests/fuzz/corpus/KIND``, which the suite replays. Totals are added to
``docs/results/fuzzing.json`` unless ``--no-totals`` is said, and the table is made from them.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.child import Child, warm
from fuzz.oracle import targets

ROOT = Path(__file__).resolve().parents[2]
TOTALS = ROOT / "docs" / "results" / "fuzzing.json"
PAGE = ROOT / "docs" / "results" / "reliability.md"
GOAL = 100_000_000
_WEIGHTS = {"command": 2.0, "pth": 2.0, "tiff": 2.0, "png": 2.0, "jpeg": 1.5}
"""Shares of the time, where not 1."""


@dataclass
class Tally:
    """What came of the inputs of one kind."""

    inputs: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter[str])
    failures: int = 0

    def add(self, other: "Tally") -> None:
        self.inputs += other.inputs
        self.seconds += other.seconds
        self.ends.update(other.ends)
        self.failures += other.failures


def fuzz(kind: str, seed: int, seconds: float) -> Tally:
    """Run one kind; a child that dies or hangs is a failure, and another goes on."""
    warm(kind)
    tally = Tally()
    end = time.monotonic() + seconds
    number = 0
    while (left := end - time.monotonic()) > 0:
        child = Child(kind, f"{seed}-{number}", left)
        for report in child.reports():
            tally.inputs += report["inputs"]
            tally.seconds += report["seconds"]
            tally.ends.update(report["ends"])
            for failure in report["failures"]:
                tally.failures += 1
                print(f"  {kind}: {failure['what'][:300]}\n    kept as {failure['path']}")
            rate = tally.inputs / max(tally.seconds, 1e-9)
            left = max(0, end - time.monotonic())
            text = f"\r{kind}: {tally.inputs} inputs, {rate:.0f}/s, {left:.0f} s left   "
            print(text, end="", file=sys.stderr, flush=True)
        number += 1
    print(file=sys.stderr)
    return tally


def add_totals(found: dict[str, Tally]) -> None:
    """Add to what was done before, and make the table of the page anew."""
    before = json.loads(TOTALS.read_text()) if TOTALS.exists() else {}
    for kind, tally in found.items():
        old = before.setdefault(kind, {"inputs": 0, "cpu_seconds": 0.0, "failures": 0, "ends": {}})
        old["inputs"] += tally.inputs
        old["cpu_seconds"] = round(old["cpu_seconds"] + tally.seconds, 1)
        old["failures"] += tally.failures
        old["ends"] = dict(Counter(old["ends"]) + tally.ends)
    TOTALS.write_text(json.dumps(before, indent=1, sort_keys=True) + "\n")
    begin, finish = "<!-- fuzz -->\n", "<!-- end of fuzz -->"
    page = PAGE.read_text()
    if begin in page:
        head, rest = page.split(begin)
        PAGE.write_text(head + begin + table(before) + finish + rest.split(finish)[1])


def table(totals: dict[str, dict[str, object]]) -> str:
    """The totals as a table."""
    lines = ["| kind | inputs | read or done | refused | failures found | inputs/s of a core |"]
    lines.append("| :-- | --: | --: | --: | --: | --: |")
    whole = Tally()
    for kind, row in sorted(totals.items()):
        one = Tally(row["inputs"], row["cpu_seconds"], Counter(row["ends"]), row["failures"])
        whole.add(one)
        lines.append(_row(kind, one))
    lines.append(_row("all", whole))
    share = 100 * whole.inputs / GOAL
    return "\n".join(lines) + f"\n\n{share:.2g} % of the goal of {GOAL:,} inputs.\n"


def _row(kind: str, tally: Tally) -> str:
    good = tally.ends["read"] + tally.ends["done"]
    rate = tally.inputs / max(tally.seconds, 1e-9)
    counts = (tally.inputs, good, tally.ends["refused"], tally.failures)
    return f"| {kind} | {' | '.join(f'{n:,}' for n in counts)} | {rate:,.0f} |"


def main() -> int:
    """Read the options, fuzz, add up."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--no-totals", action="store_true")
    options = parser.parse_args()
    kinds = [kind for kind in targets() if not options.only or kind in options.only]
    share = options.seconds / sum(_WEIGHTS.get(kind, 1.0) for kind in kinds)
    print(f"seed {options.seed}")
    found: dict[str, Tally] = {}
    for kind in kinds:
        found[kind] = fuzz(kind, options.seed, share * _WEIGHTS.get(kind, 1.0))
        if not options.no_totals:
            add_totals({kind: found[kind]})  # now: what ends this process costs one kind
    rows = {
        k: {"inputs": t.inputs, "cpu_seconds": t.seconds, "failures": t.failures, "ends": t.ends}
        for k, t in found.items()
    }
    print(table(rows))
    return int(any(tally.failures for tally in found.values()))


if __name__ == "__main__":
    sys.exit(main())
