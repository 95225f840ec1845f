"""How good is the teacher on zoomed-in inputs, for which no ground truth exists?

    python benchmarks/zoomed.py --images datasets --out runs/study

DUKD's teacher was trained on bicubic reductions, and zoom in shows it the training image itself.
Photographs of twice the size stand in for the truth that is missing: each is reduced by a filter,
as whoever made the data set did, and the teacher enlarges what came out. Only for MATLAB's bicubic
filter does that input look like the teacher's own.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dukd import images
from dukd.core import files
from dukd.evaluation import metrics
from dukd.evaluation.output import output
from dukd.images.convert import to_tensor
from dukd.images.resize import imresize_uint8
from dukd.networks.files import weights

Filter = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def _pil(method: Image.Resampling) -> Filter:
    def reduce(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        h, w = image.shape[:2]
        return np.asarray(Image.fromarray(image).resize((w // 2, h // 2), method), dtype=np.uint8)

    return reduce


def _subsampled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every second pixel: what a sharp lens would have drawn, aliasing and all."""
    return image[::2, ::2]


FILTERS: dict[str, Filter] = {
    "bicubic (MATLAB), as lr is made": lambda image: imresize_uint8(image, 0.5),
    "Lanczos": _pil(Image.Resampling.LANCZOS),
    "box": _pil(Image.Resampling.BOX),
    "none, every second pixel": _subsampled,
}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, default=Path("datasets"))
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument(
        "--side", type=int, default=256, help="of the piece that is cut from the middle, in pixels"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = options.images / "weights"
    edsr = weights.read(
        kept / "edsr_f64b5_x2_basicsr.safetensors", value_range=255.0, mean=(0.0, 0.0, 0.0)
    )
    smfanet = weights.read(kept / "smfanet_plus_df2k_x2.pth")
    teachers = {"EDSR 64 x 5": edsr.frozen(), "SMFANet+": smfanet.frozen()}
    lines = ["| input made by | network | PSNR-Y | over bicubic |", "|---|---|---:|---:|"]
    photographs = sorted((options.images / "train/CLIC2025").iterdir())
    for filtered, reduce in FILTERS.items():
        scores: dict[str, list[float]] = {}
        for path in photographs:
            whole = images.read_rgb8(path)
            top, left = ((n - options.side) // 4 * 2 for n in whole.shape[:2])
            truth = np.ascontiguousarray(
                whole[top : top + options.side, left : left + options.side]
            )
            lr = np.ascontiguousarray(reduce(truth))
            outputs = {"bicubic": to_tensor(imresize_uint8(lr, 2))}
            outputs |= {name: output(teacher, lr)[0] for name, teacher in teachers.items()}
            for name, sr in outputs.items():
                psnr = metrics.psnr_y(sr, to_tensor(truth), border=2).item()
                scores.setdefault(name, []).append(psnr)
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        for name, psnr in means.items():
            over = "" if name == "bicubic" else f"{psnr - means['bicubic']:+.2f}"
            lines.append(f"| {filtered} | {name} | {psnr:.2f} | {over} |")
            print(lines[-1], flush=True)
    files.write_text(options.out / "zoomed.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
