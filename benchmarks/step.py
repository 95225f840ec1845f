"""A step of training against the released code's, and against the student alone; writes a table.

    python benchmarks/step.py [--batch 2] [--repetitions 3] [--out docs/results/step.md]

EDSR 256 x 32 teaches EDSR 64 x 32 at x2. The ways are timed in turns; on the CPU with one thread, in processor time.
"""

import argparse
import platform
from pathlib import Path

import torch
from released import released_step

from dukd import bench
from dukd.networks.edsr import edsr_student, edsr_teacher
from dukd.session import Session

RELEASED = "released code's step, float32"


def released(session: Session) -> dict[str, object]:
    lr, hr = (x.to(session.device) for x in session.patches.batch(0))
    return {RELEASED: released_step(session, lr, hr)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(asked.device)
    ceilings = {p: bench.ceiling(device, p) for p in ("float32", "bfloat16")}
    results = [
        bench.step(
            edsr_student(asked.scale),
            edsr_teacher(asked.scale),
            device=device,
            batch=asked.batch,
            patch=asked.patch,
            precision=precision,
            channels_last=channels_last,
            repetitions=asked.repetitions,
            others=released,
        )
        for precision, channels_last in (("float32", False), ("bfloat16", True))
    ]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, one thread"
    text = [
        "# Cost of a step",
        "",
        f"    python benchmarks/step.py --batch {asked.batch} --patch {asked.patch} --repetitions {asked.repetitions}",
        "",
        f"{where}, torch {torch.__version__}. Ratios are to the released code's step (`benchmarks/released.py`),",
        "timed in turns with the others. Spread is from the fastest to the slowest repetition. The machine's peaks:",
        *(
            f"{p}: {c.flops / 1e9:.0f} Gflop/s in products, {c.bytes / 1e9:.1f} GB/s in copies."
            for p, c in ceilings.items()
        ),
        "",
        *(r.to_markdown() for r in results),
    ]
    for result in results:
        times = {t.name: t.median for t in result.timings}
        ratio = times["teacher replayed"] / times["student alone"]
        text.append(f"{result.what}: with replayed answers, {ratio:.2f} times the student's two passes alone.\n")
    page = "\n".join(text) + "\n"
    print(page)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
