"""Every method under one protocol, on a computer without a GPU: who helps a small student, by how much, how surely.

    python benchmarks/study.py --pictures ../shared/data --out runs/study --group methods --steps 300 --seeds 1 2 3

Runs that are finished are not repeated, so the command can be stopped and given again; ``--minutes`` stops it in time.
Settings are chosen on ``valid/CID22``; Set5, Set14 and every tenth picture of Urban100 are only measured.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dukd import evaluate, files, metrics, train
from dukd.data.pairs import Pairs, find_pairs, load
from dukd.experiment import Data, Evaluation, Experiment, Optimisation, Teacher
from dukd.kinds import known
from dukd.methods import AT, DCKD, DUKD, FAKD, Combined, FrugalDUKD, Logits, Method, ReleasedDUKD, Scratch
from dukd.networks import EDSRConfig, SRNetwork, weights
from dukd.resize import imresize_uint8
from dukd.validation import set_name, some

SETS = {"valid/CID22": 8, "eval/Set5": 0, "eval/Set14": 0, "eval/Urban100": 10}
"""Sets, and how many of their pictures are used, evenly spaced; 0 for all."""
OFF = {"zoom_out": 0.0, "zoom_out_reconstruction": 0.0}
LEFT_OUT = {"mtkd", "mtkd-aggregation", "csd-slimmable", "combined", "dukd-released", "dukd-frugal"}
"""Methods that the plain list leaves out: they need several teachers, are a combination, or belong to another group."""


def groups(steps: int) -> dict[str, dict[str, tuple[Method, int]]]:
    """Methods, and the steps each is trained, by name, for each question."""
    plain: dict[str, Method] = {n: kind() for n, kind in known(Method).items() if n not in LEFT_OUT}
    first = {n: plain.pop(n) for n in ("scratch", "logits", "dukd")}
    combined = {"fakd+dukd": Combined(base=FAKD()), "dckd+dukd": Combined(base=DCKD()), "at+dukd": Combined(base=AT())}
    no_teacher = DUKD(imitation=0, zoom_in=0, zoom_out=0)
    controls: dict[str, Method] = {
        "no teacher, zoom out only": no_teacher,
        "zoom in only": DUKD(**OFF),
        "zoom out only": DUKD(zoom_in=0),
        "no label consistency": DUKD(consistency=0),
        **{f"only {name}": DUKD(operations=(name,)) for name in DUKD().operations},
        "consistency 0.5": DUKD(consistency=0.5),
        "two windows": DUKD(windows=2),
        "tiles": DUKD(placement="tiles"),
        "reconstruction 5": DUKD(reconstruction=5, zoom_out_reconstruction=5),
        "imitation 3": DUKD(imitation=3),
        "zoom in 3": DUKD(zoom_in=3),
        "zoom out 3": DUKD(zoom_out=3, zoom_out_reconstruction=3),
    }
    updates: dict[str, tuple[Method, int]] = {
        "released, two steps": (ReleasedDUKD(), steps // 2),
        "released but one step": (ReleasedDUKD(two_steps=False), steps),
        "released, right inverse": (ReleasedDUKD(wrong_inverse=False), steps // 2),
    }
    frugal: dict[str, Method] = {
        "share 1/8": FrugalDUKD(share=0.125),
        "share 1/4": FrugalDUKD(share=0.25),
        "share 1/2": FrugalDUKD(share=0.5),
        "share 1/4, late": FrugalDUKD(share=0.25, late=steps // 2),
        "share 1/4, zoom out": FrugalDUKD(share=0.25, zoom_out=1, zoom_out_reconstruction=1),
        "share 1/4, no consistency": FrugalDUKD(share=0.25, consistency=0),
    }
    return {
        "methods": {name: (m, steps) for name, m in (first | plain | combined).items()},
        "controls": {name: (m, steps) for name, m in controls.items()} | updates,
        "frugal": {name: (m, steps) for name, m in frugal.items()},
        "time": {"logits, as long as dukd": (Logits(), round(2.2 * steps)), "scratch, twice": (Scratch(), 2 * steps)},
    }


def experiment(method: Method, seed: int, steps: int, pictures: Path, packs: Path, width: int) -> Experiment:
    """EDSR 32 x 4 from EDSR 64 x 5, x2, 8 patches of 32 x 32, one cycle of Adam."""
    teacher = Teacher(
        weights=pictures / "weights/edsr_f64b5_x2_basicsr.safetensors",
        value_range=255.0,
        mean=(0.0, 0.0, 0.0),
        residual_scale=1.0,
    )
    return Experiment(
        student=EDSRConfig(scale=2, width=width, blocks=4, value_range=1.0, skip="nearest"),
        teacher=teacher if method.needs_teacher else None,
        method=method,
        data=Data(train=pictures / "train/CID22", packs=packs, patch=32, batch=8),
        optimisation=Optimisation(
            steps=steps,
            learning_rate=2e-3,
            schedule="one-cycle",
            ema=0.99,
            precision="bfloat16",
            channels_last=True,
            seed=seed,
        ),
        evaluation=Evaluation(every=steps, log_every=max(1, steps // 10), teacher_pictures=0),
    )


def scores_of(network: SRNetwork | None, sets: dict[str, Pairs]) -> dict[str, float]:
    """PSNR of the luma on every set, in dB; of bicubic interpolation where there is no network."""
    scores: dict[str, float] = {}
    for name, pairs in sets.items():
        values = []
        for pair in pairs:
            lr, hr = load(pair)
            sr = evaluate.tensor(imresize_uint8(lr, 2)) if network is None else evaluate.answer(network, lr)[0]
            values.append(metrics.psnr_y(sr, evaluate.tensor(hr), border=2).item())
        scores[name] = float(np.mean(values))
    return scores


def measured(run: Path, sets: dict[str, Pairs]) -> dict[str, Any]:
    """Scores of a finished run, computed once and kept in its folder."""
    path = run / "scores.json"
    if not path.is_file():
        student = weights.read(run / "student.safetensors").frozen()
        last = [r for r in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if r["kind"] == "train"][-1]
        files.write_text(path, json.dumps({"sets": scores_of(student, sets), "seconds": last["seconds"]}))
    return json.loads(path.read_text())


def fixed_rows(pictures: Path, sets: dict[str, Pairs], out: Path) -> dict[str, dict[str, float]]:
    """Bicubic and the teacher, computed once."""
    path = out / "fixed.json"
    if not path.is_file():
        file = pictures / "weights/edsr_f64b5_x2_basicsr.safetensors"
        teacher = weights.read(file, value_range=255.0, mean=(0.0, 0.0, 0.0), residual_scale=1.0).frozen()
        rows = {"bicubic": scores_of(None, sets), "teacher": scores_of(teacher, sets)}
        files.write_text(path, json.dumps(rows))
    return json.loads(path.read_text())


def slug(name: str) -> str:
    """A folder's name."""
    return "".join(c if c.isalnum() or c in "+-." else "-" for c in name)


def planned(chosen: list[str], steps: int, seeds: list[int]) -> Iterator[tuple[str, Method, int, int]]:
    """What is to be run, one seed of everything before the next."""
    for seed in seeds:
        for group in chosen:
            for name, (method, some_steps) in groups(steps)[group].items():
                yield name, method, some_steps, seed


def table(
    out: Path,
    chosen: list[str],
    steps: int,
    seeds: list[int],
    sets: dict[str, Pairs],
    fixed: dict[str, dict[str, float]],
) -> str:
    """Mean and spread over seeds of everything that is finished, as Markdown."""
    header = ["method", "steps", "seeds", "seconds", *sets]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    lines += [[label, "", "", "", *(f"{row[name]:.3f}" for name in sets)] for label, row in fixed.items()]
    for group in chosen:
        for name, (_, some_steps) in groups(steps)[group].items():
            runs = [out / f"{slug(name)}-{some_steps}-s{seed}" for seed in seeds]
            done = [json.loads((r / "scores.json").read_text()) for r in runs if (r / "scores.json").is_file()]
            if not done:
                continue
            cells = []
            for s in sets:
                values = [d["sets"][s] for d in done]
                spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}")
            seconds = np.mean([d["seconds"] for d in done])
            lines.append([name, str(some_steps), str(len(done)), f"{seconds:.0f}", *cells])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--group", nargs="+", default=["methods"], choices=list(groups(10)))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--share", default="1/1", help="i/n: take every n-th run, from the i-th, to use several cores")
    arguments = parser.parse_args()
    begun, out = time.monotonic(), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    found = {p: some(find_pairs(arguments.pictures / p, scale=2), n) for p, n in SETS.items()}
    sets = {
        f"{set_name(arguments.pictures / p)}{' valid' if 'valid' in p else ''}": pairs for p, pairs in found.items()
    }
    fixed = fixed_rows(arguments.pictures, sets, out)
    mine, of = map(int, arguments.share.split("/"))
    for i, (name, method, steps, seed) in enumerate(planned(arguments.group, arguments.steps, arguments.seeds)):
        run = out / f"{slug(name)}-{steps}-s{seed}"
        if i % of != mine - 1 or (run / "scores.json").is_file():
            continue
        if time.monotonic() - begun > 60 * arguments.minutes:
            break
        what = experiment(method, seed, steps, arguments.pictures, out / "packs", arguments.width)
        what = replace(what, data=replace(what.data, workers=0))
        started = time.monotonic()
        try:
            train.train(what, run, resume=(run / "experiment.yaml").is_file())
            scores = measured(run, sets)
        except (ValueError, ArithmeticError) as error:
            print(f"{name}, seed {seed}: {error}", flush=True)
            continue
        figures = "  ".join(f"{s} {v:.3f}" for s, v in scores["sets"].items())
        print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s  {figures}", flush=True)
    text = table(out, arguments.group, arguments.steps, arguments.seeds, sets, fixed)
    files.write_text(out / f"{'-'.join(arguments.group)}.md", text)
    print(text)


if __name__ == "__main__":
    main()
