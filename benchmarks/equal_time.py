"""Methods trained for equal processor time, which no study file can say: their steps differ.

    python benchmarks/cost.py --images datasets --out runs/study
    python benchmarks/equal_time.py --images datasets --out runs/study --seconds 75

How many steps each gets follows from ``costs.json`` of ``cost.py``. At equal steps the same
networks and methods are ``benchmarks/studies/methods.yaml`` and its neighbors. ``--summary`` writes
the table with the means and spreads of all that is finished. Settings are chosen on
``valid/CID22``; Set5, Set14 and every tenth image of Urban100 are only measured. Runs that are
finished are not repeated, so the command can be stopped and given again, and ``--share 1/2`` and
``2/2`` use two cores.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dukd.core import files
from dukd.core.registry import known
from dukd.data.pairs import Pairs, find_pairs, load
from dukd.evaluation import metrics
from dukd.evaluation.output import output
from dukd.evaluation.sets import set_name, some
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.methods import (
    AT,
    DCKD,
    DUKD,
    FAKD,
    LSFD,
    MTKD,
    Aggregation,
    CrossKD,
    Frequency,
    FrugalDUKD,
    Late,
    Logits,
    Method,
    Scratch,
    ZoomIn,
    ZoomOut,
)
from dukd.methods.base import needs_teacher
from dukd.networks import EDSRConfig, Network, gather
from dukd.networks.base import set_memory_format
from dukd.networks.files import weights
from dukd.training import loop
from dukd.training.experiment import (
    Data,
    Evaluation,
    Experiment,
    Optimization,
    TeacherCache,
)
from dukd.training.teachers import File

TEACHER = "weights/edsr_f64b5_x2_basicsr.safetensors"
SETS = {"valid/CID22": 8, "eval/Set5": 0, "eval/Set14": 0, "eval/Urban100": 10}
"""Sets, and how many of their images are used, evenly spaced; 0 for all."""
Fixed = dict[str, dict[str, float]]
JOINING = 200
"""Steps in which MTKD's teachers are joined."""
PERIOD = 200
"""Batches that come again where the teacher's outputs are replayed at equal time."""
SECOND = "weights/smfanet_plus_df2k_x2.pth"
"""MTKD's second teacher, another architecture."""
LEFT_OUT = {"mtkd-aggregation", "dukd-released", "dukd-frugal", "late"}
"""Methods that the plain list leaves out: MTKD's first stage, or what belongs to another group."""
STARTING: dict[str, Method] = {
    "crosskd": CrossKD(cross=1),
    "frequency": Frequency(bands=0.1, similarity=1),
    "lsfd": LSFD(local=0.1, imitation=0),
}
"""Methods of our own reading as they were before this study: their defaults are what the group
``tuned`` found."""


@dataclass(frozen=True)
class Entry:
    """A method, and how it is trained."""

    method: Method
    steps: int
    batch: int = 8
    """Patches per step."""
    period: int = 0
    """Batches that come again, with the teacher's outputs in 8 bits; 0 for none."""


def plain() -> dict[str, Method]:
    """Every method with published or starting weights; baselines first, combinations last."""
    made: dict[str, Method] = {
        name: kind() for name, kind in known(Method).items() if name not in LEFT_OUT
    } | STARTING
    first = {name: made.pop(name) for name in ("scratch", "logits", "dukd")}
    combined = {
        "fakd+dukd": DUKD(base=FAKD()),
        "dckd+dukd": DUKD(base=DCKD()),
        "at+dukd": DUKD(base=AT()),
    }
    return first | made | combined


windows = partial(FrugalDUKD, upcyclings=(ZoomIn(),))
"""A share of the batch shown as windows of hr."""
OUT = (ZoomOut(),)
TRUTHS = {"base": Logits(imitation=0), "upcyclings": (ZoomOut(imitation=0),)}
THREE = {"base": Logits(imitation=3), "upcyclings": (ZoomOut(imitation=3),)}


def shares() -> dict[str, Method]:
    """Forms of DUKD at equal time; a late start or an early end of 1 is half of the training."""
    return {
        "scratch": Scratch(),
        "logits": Logits(),
        "dukd": DUKD(),
        "dukd zoom in": DUKD(upcyclings=(ZoomIn(),)),
        "dukd zoom out": DUKD(upcyclings=OUT),
        "lsfd": STARTING["lsfd"],
        "share 1/8": windows(share=0.125),
        "share 1/4": windows(share=0.25),
        "share 1/2": windows(share=0.5),
        "share 1/8, whole hr": windows(share=0.125, upcyclings=(ZoomIn(window=2),)),
        "share 1/4, late": windows(share=0.25, late=1),
        "share 1/4, early": windows(share=0.25, until=1),
        "share 1/4, with zoom out": FrugalDUKD(share=0.25, upcyclings=(ZoomIn(), ZoomOut())),
        "share 1/4, no consistency": windows(share=0.25, consistency=0),
        "share 1/4, weight 3": windows(share=0.25, upcyclings=(ZoomIn(imitation=3),)),
        "share 1/4, pair without teacher": windows(share=0.25, base=Logits(imitation=0)),
    }


@dataclass(frozen=True)
class Cheap:
    """A form whose teacher is replayed, or that has none."""

    method: Method
    price: float = 1
    """Processor time of a step that replays, relative to one of scratch on 8 patches: timed in
    turns, but for DUKD with its zooms beside the whole batch, where pixels were counted, which is a
    little too low."""
    pixels: float = 1
    """What the teacher is shown when it runs, relative to 8 patches."""
    batch: int = 8
    """Patches per step."""


def cheap() -> dict[str, Cheap]:
    """Forms that cost about as much as training without a teacher."""
    small = FrugalDUKD()
    features = LSFD(local=1, imitation=1, depths=(1.0,))
    return {
        "logits": Cheap(Logits()),
        "dukd": Cheap(DUKD(), 2.25, 2.25),
        "share 1/4": Cheap(windows(share=0.25)),
        "logits x 3": Cheap(Logits(imitation=3)),
        "zoom out": Cheap(DUKD(upcyclings=OUT), 1.25, 1.25),
        "zoom out x 3": Cheap(DUKD(**THREE), 1.25, 1.25),
        "share 1/8": Cheap(windows(share=0.125)),
        "share 1/4, consistency 1/2": Cheap(windows(share=0.25, consistency=0.5)),
        "share 1/4 x 3": Cheap(
            windows(share=0.25, base=Logits(imitation=3), upcyclings=(ZoomIn(imitation=3),))
        ),
        "1/4 zoomed out": Cheap(replace(small, share=0.25), 1.0, 0.81),
        "1/2 zoomed out": Cheap(small, 0.85, 0.63),
        "1/2 zoomed out x 3": Cheap(replace(small, **THREE), 0.85, 0.63),
        "1/2 zoomed out, no teacher": Cheap(replace(small, **TRUTHS), 0.72),
        "zoom out, no teacher": Cheap(DUKD(**TRUTHS), 1.32),
        "scratch, 5 patches": Cheap(Scratch(), 0.64, batch=5),
        "logits, 5 patches": Cheap(Logits(), 0.70, 0.63, batch=5),
        "local features": Cheap(features, 1.37),
    }


LATE = {
    f"scratch, then {name} at {start:.0%}": (name, start)
    for name, start in (
        ("logits", 0.5),
        ("logits", 0.8),
        ("share 1/4", 0.5),
        ("share 1/4", 0.8),
        ("dukd", 0.5),
        ("dukd", 0.8),
        ("dukd", 0.9),
        ("lsfd", 0.8),
    )
}
"""Late starts: what follows training without a teacher, and after which share of the time."""


def timed() -> dict[str, Method]:
    """Methods whose steps are timed by ``cost.py``."""
    return plain() | {name: method for name, method in shares().items() if name not in plain()}


def halved(method: Method, steps: int) -> Method:
    """Make a late or an early end that is marked with 1 half of the training."""
    if isinstance(method, FrugalDUKD):
        return replace(method, late=method.late and steps // 2, until=method.until and steps // 2)
    return method


def at_equal_time(out: Path, seconds: float) -> dict[str, Entry]:
    """As many steps of everything as take the same CPU time, by the costs that were measured."""
    costs = json.loads((out / "costs.json").read_text())
    chosen = {n: (method, round(seconds / costs[n]["seconds"])) for n, method in shares().items()}
    made = {n: Entry(halved(method, some), some) for n, (method, some) in chosen.items()}
    student, teacher = (
        costs["scratch"]["seconds"],
        costs["logits"]["seconds"] - costs["scratch"]["seconds"],
    )
    for n, form in cheap().items():
        live = costs.get(n, {"seconds": form.price * student + form.pixels * teacher})["seconds"]
        if not needs_teacher(form.method, 2):
            made[n] = Entry(form.method, round(seconds / (student * form.price)), batch=form.batch)
        elif seconds > (first := PERIOD * live):
            some = PERIOD + round((seconds - first) / (student * form.price))
            made[f"{n}, replayed"] = Entry(form.method, some, period=PERIOD, batch=form.batch)
    for n, (after, start) in LATE.items():
        alone = round(start * seconds / costs["scratch"]["seconds"])
        some = alone + round((1 - start) * seconds / costs[after]["seconds"])
        made[n] = Entry(Late(base=shares()[after], start=alone), some)
    return made


def experiment(entry: Entry, seed: int, images: Path, out: Path) -> Experiment:
    """EDSR 32 x 4 from EDSR 64 x 5, x2, 8 patches of 32 x 32, one cycle of Adam."""
    # nobody else's outputs make its time shorter
    own = f"{entry.method.label}-{entry.steps}-{entry.period}-{entry.batch}"
    teacher = File(
        weights=images / TEACHER, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0
    )
    if isinstance(entry.method, MTKD):
        teacher = File(weights=joined(images, out))
    return Experiment(
        student=EDSRConfig(scale=2, width=32, blocks=4, value_range=1.0, skip="nearest"),
        teacher=teacher if needs_teacher(entry.method, 2) else None,
        method=entry.method,
        data=Data(
            train=images / "train/CID22",
            packs=out / "packs",
            patch=32,
            batch=entry.batch,
            workers=0,
            period=entry.period,
        ),
        teacher_cache=TeacherCache(folder=out / "cache" / own),
        optimization=Optimization(
            steps=entry.steps,
            learning_rate=2e-3,
            schedule="one-cycle",
            ema=0.99,
            precision="bfloat16",
            channels_last=True,
            seed=seed,
        ),
        evaluation=Evaluation(
            every=entry.steps, log_every=max(1, entry.steps // 10), teacher_images=0
        ),
    )


def joined(images: Path, out: Path) -> Path:
    """MTKD's teacher: the study's and a SMFANet+, joined by a network that is trained here once."""
    run = out / "ensemble"
    path = run / "student.safetensors"
    if not path.is_file():
        plain = weights.read(
            images / TEACHER, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0
        )
        whole = gather(
            {"edsr": plain, "smfanet": weights.read(images / SECOND)}, width=32, blocks=4
        )
        weights.write(out / "untrained.safetensors", whole)
        one = experiment(Entry(Aggregation(), JOINING), 1, images, out)
        once = replace(
            one.optimization, learning_rate=5e-4, warm_start=out / "untrained.safetensors"
        )
        loop.train(
            replace(one, student=whole.config, optimization=once),
            run,
            resume=(run / "experiment.yaml").is_file(),
        )
    return path


def scores_of(network: Network | None, sets: dict[str, Pairs]) -> dict[str, float]:
    """PSNR of the luma on every set, in dB; of bicubic interpolation where there is no network."""
    if network is not None:
        set_memory_format(network)  # sooner, to the same values
    scores: dict[str, float] = {}
    for name, pairs in sets.items():
        values: list[float] = []
        for pair in pairs:
            lr, hr = load(pair)
            sr = to_tensor(imresize_uint8(lr, 2)) if network is None else output(network, lr)[0]
            values.append(metrics.psnr_y(sr, to_tensor(hr), border=2).item())
        scores[name] = float(np.mean(values))
    return scores


def measured(run: Path, sets: dict[str, Pairs], seconds: float) -> dict[str, Any]:
    """Scores of a finished run and the CPU time of its training, computed once and kept in it."""
    path = run / "scores.json"
    if not path.is_file():
        student = weights.read(run / "student.safetensors").frozen()
        files.write_text(path, json.dumps({"sets": scores_of(student, sets), "seconds": seconds}))
    return json.loads(path.read_text())


def fixed_rows(images: Path, sets: dict[str, Pairs], out: Path) -> Fixed:
    """Bicubic and the teacher, computed once."""
    path = out / "fixed.json"
    if not path.is_file():
        teacher = weights.read(
            images / TEACHER, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0
        ).frozen()
        rows = {"bicubic": scores_of(None, sets), "teacher": scores_of(teacher, sets)}
        files.write_text(path, json.dumps(rows))
    return json.loads(path.read_text())


def slug(name: str) -> str:
    """A folder's name."""
    return "".join(c if c.isalnum() or c in "+-." else "-" for c in name)


def folder(out: Path, name: str, steps: int, seed: int) -> Path:
    """Where a run is."""
    return out / f"{slug(name)}-{steps}-s{seed}"


def finished(out: Path, name: str, steps: int, seeds: list[int]) -> dict[int, dict[str, Any]]:
    """Scores of a method by seed, as far as they are there."""
    paths = {seed: folder(out, name, steps, seed) / "scores.json" for seed in seeds}
    return {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.is_file()}


def summary(out: Path, entries: dict[str, Entry], seeds: list[int], fixed: Fixed, base: str) -> str:
    """Mean and spread over seeds of everything that is finished, as Markdown.

    The gap is the share of the way from scratch to the teacher on the set of most images to
    measure; the difference is to ``base``, seed by seed, over all images to measure: seeds share
    weights at the start and batches.
    """
    sets = list(fixed["teacher"])
    header = [
        "method",
        "steps",
        "seeds",
        "CPU s",
        *sets,
        f"over {base.split(' for ', maxsplit=1)[0]}",
        "gap closed",
    ]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    lines += [
        [label, "", "", "", *(f"{row[s]:.3f}" for s in sets), "", ""]
        for label, row in fixed.items()
    ]
    scratch = next((n for n in entries if n.startswith("scratch")), base)
    done = {n: finished(out, n, e.steps, seeds) for n, e in entries.items()}
    for name, entry in entries.items():
        runs = done[name]
        if not runs:
            continue
        cells = [_spread([run["sets"][s] for run in runs.values()]) for s in sets]
        differences = [
            float(np.mean([run["sets"][s] - done[base][seed]["sets"][s] for s in sets[1:]]))
            for seed, run in runs.items()
            if seed in done.get(base, {})
        ]
        over = "" if name == base or not differences else _spread(differences, sign="+")
        low, own = (_level(list(done[n].values()), sets[1:]) for n in (scratch, name))
        high = _level([{"sets": fixed["teacher"]}], sets[1:])
        gap = f"{100 * (own - low) / (high - low):.1f} %"
        seconds = f"{np.mean([run['seconds'] for run in runs.values()]):.0f}"
        lines.append([name, str(entry.steps), str(len(runs)), seconds, *cells, over, gap])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _level(runs: list[dict[str, Any]], sets: list[str]) -> float:
    """Mean over runs and sets, in dB; not a number without runs."""
    return float(np.mean([run["sets"][s] for run in runs for s in sets])) if runs else float("nan")


def _spread(values: list[float], sign: str = "") -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.3f}{spread}"


def main() -> None:
    """Run what is needed and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, default=Path("datasets"))
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument(
        "--only", nargs="+", default=[], help="names of methods to run; all without"
    )
    parser.add_argument("--seconds", type=float, default=75.0, help="processor time of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run after this time")
    parser.add_argument(
        "--share",
        default="1/1",
        help="i/n: take every n-th run, from the i-th, to use several cores",
    )
    parser.add_argument(
        "--summary", action="store_true", help="train nothing; write the table of what is finished"
    )
    options = parser.parse_args()
    begun, out = time.monotonic(), options.out
    out.mkdir(parents=True, exist_ok=True)
    found = {p: some(find_pairs(options.images / p, scale=2), n) for p, n in SETS.items()}
    sets = {
        f"{set_name(options.images / p)}{' valid' if 'valid' in p else ''}": pairs
        for p, pairs in found.items()
    }
    fixed = fixed_rows(options.images, sets, out)
    made = at_equal_time(out, options.seconds)
    entries = {f"{n} for {options.seconds:.0f} s": entry for n, entry in made.items()}
    mine, of = map(int, options.share.split("/"))
    planned = [
        (name, entry, seed)
        for seed in options.seeds
        for name, entry in entries.items()
        if not options.only or name.split(" for ")[0] in options.only
    ]
    for i, (name, entry, seed) in enumerate([] if options.summary else planned):
        run = folder(out, name, entry.steps, seed)
        if i % of != mine - 1 or (run / "scores.json").is_file():
            continue
        if time.monotonic() - begun > 60 * options.minutes:
            break
        started, clock = time.monotonic(), time.process_time()
        try:
            what = experiment(entry, seed, options.images, out)
            loop.train(what, run, resume=(run / "experiment.yaml").is_file())
            scores = measured(run, sets, time.process_time() - clock)
        except (ValueError, ArithmeticError) as error:
            print(f"{name}, seed {seed}: {error}", flush=True)
            continue
        figures = "  ".join(f"{s} {v:.3f}" for s, v in scores["sets"].items())
        print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s  {figures}", flush=True)
    base = f"scratch for {options.seconds:.0f} s"
    text = summary(out, entries, options.seeds, fixed, base)
    files.write_text(out / f"time-{options.seconds:.0f}.md", text)
    print(text)


if __name__ == "__main__":
    main()
