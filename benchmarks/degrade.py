"""How many patches per second of processor time each degradation makes.

OMP_NUM_THREADS=1 python benchmarks/degrade.py IMAGE [SCALE]
"""

import sys
import time
from pathlib import Path

import numpy as np

from dukd.images import read_rgb8
from dukd.images.degrade import preset, presets

PATCH, MARGIN, REPETITIONS = 48, 8, 40


def main() -> None:
    image, scale = read_rgb8(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 4
    side = (PATCH + 2 * MARGIN) * scale
    hr = np.ascontiguousarray(image[:side, :side])
    print(f"patches of {PATCH} with a margin of {MARGIN}, x{scale}: hr {side} x {side}")
    for name in presets():
        degradation = preset(name)
        degradation.apply(hr, scale, np.random.default_rng(0))
        started = time.process_time()
        for g in range(REPETITIONS):
            degradation.apply(degradation.truth(hr), scale, np.random.default_rng([1, g, 2]))
        seconds = (time.process_time() - started) / REPETITIONS
        print(f"{name:12} {1 / seconds:6.0f} per second, {1e3 * seconds:5.1f} ms each")


if __name__ == "__main__":
    main()
