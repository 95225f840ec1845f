"""The demo: a small network trained three ways on a dozen photographs, and a page about it.

The photographs lie inside the wheels of scikit-image and scikit-learn (``dukd[demo]``), the teacher
inside this package: nothing is fetched. Steps and seeds are fixed, and so is the number of threads,
so that a machine gives the same numbers every time. The photographs that judge are never trained
on, and nothing is chosen by them.
"""

import importlib.util
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from dukd import images
from dukd.core.files import Progress, silent
from dukd.evaluation.candidates import candidate
from dukd.evaluation.evaluate import evaluate
from dukd.evaluation.table import Table
from dukd.images.resize import imresize_uint8
from dukd.methods import DUKD, Logits, Method, Scratch
from dukd.methods.base import needs_teacher
from dukd.networks import CompactConfig
from dukd.networks.files import weights
from dukd.runs import results
from dukd.runs.compare import compare
from dukd.runs.directory import Run
from dukd.runs.report import report
from dukd.training import loop
from dukd.training.experiment import Data, Evaluation, Experiment, Optimization, TeacherCache
from dukd.training.log import Record
from dukd.training.teachers import File

SCALE = 2
TEACHER = Path(__file__).parent / "assets" / "demo-teacher-x2.safetensors"
"""A network of our own making; ``assets/README.md`` says how it was trained, and on what."""
STUDENT = CompactConfig(scale=SCALE, width=24, blocks=8)
METHODS: tuple[Method, ...] = (Scratch(), Logits(), DUKD())
STEPS = 1_200
"""Steps of each student: less than six minutes for all three on a busy processor with AVX2."""
PERIOD = 200
"""Batches after which the same ones come again, in another of eight symmetries, so that the
teacher's outputs are computed once and replayed. Their 800 patches show all photographs once."""
THREADS = 1
"""One, because patches are small: two gain little, and lose much where another program wants a
core."""

ABOUT = (
    "The same network, photographs, steps and seed, three times: from scratch, with a teacher's "
    "outputs (logits), and with the teacher's outputs for upcycled images as well (DUKD). It is "
    "measured on photographs it never saw. So few steps show how it works, not how far a method "
    "can go."
)

VALIDATIONS = 5
"""Points of each student's curve."""
SECONDS_PER_STEP = {"scratch": 0.04, "logits": 0.05, "dukd": 0.11}
"""What a step costs on one core with AVX2; only the time left is guessed from it."""
SECONDS_TO_MEASURE = 1.0
"""One pass of a network over the photographs that judge, likewise."""


@dataclass(frozen=True)
class Photograph:
    """An image inside an installed package."""

    name: str
    package: str
    path: str
    reduced: int = 1
    """Factor by which it is made smaller first: sharper pixels, and the marks of JPEG fade."""


TRAINING = (
    Photograph("chelsea", "skimage", "data/chelsea.png"),
    Photograph("china", "sklearn", "datasets/images/china.jpg"),
    Photograph("china-half", "sklearn", "datasets/images/china.jpg", 2),
    Photograph("flower", "sklearn", "datasets/images/flower.jpg"),
    Photograph("flower-half", "sklearn", "datasets/images/flower.jpg", 2),
    Photograph("hubble", "skimage", "data/hubble_deep_field.jpg"),
    Photograph("hubble-half", "skimage", "data/hubble_deep_field.jpg", 2),
    Photograph("ihc", "skimage", "data/ihc.png"),
    Photograph("ihc-half", "skimage", "data/ihc.png", 2),
    Photograph("motorcycle", "skimage", "data/motorcycle_left.png"),
    Photograph("motorcycle-half", "skimage", "data/motorcycle_left.png", 2),
    Photograph("retina-half", "skimage", "data/retina.jpg", 2),
)
"""What the students learn from."""

HELD_OUT = (
    Photograph("astronaut", "skimage", "data/astronaut.png"),
    Photograph("coffee", "skimage", "data/coffee.png"),
    Photograph("page", "skimage", "data/page.png"),
    Photograph("rocket", "skimage", "data/rocket.jpg"),
)
"""What judges them: four scenes of which the students see nothing; in the letters of a page and in
the tower beside a rocket the eye sees what a student gains."""


@dataclass(frozen=True)
class Outcome:
    """What the demo leaves behind."""

    table: Table
    """Everything measured on the photographs that judge."""
    page: Path
    """The HTML page."""


def _nobody(sentence: str) -> None:
    """Tell nobody."""
    del sentence


def demo(
    out: Path,
    *,
    steps: int = STEPS,
    fresh: bool = False,
    notify: Callable[[str], None] = _nobody,
    progress: Progress = silent,
) -> Outcome:
    """Train three students, measure them beside bicubic and their teacher, and write a page.

    Args:
        out: Folder for images, runs and the page; an earlier demo there is continued.
        steps: Steps of each student.
        fresh: Whether an earlier demo in ``out`` is deleted first.
        notify: Called with a sentence now and then.
        progress: Told how far the whole has come, in seconds of expected work.

    Raises:
        ValueError: If the photographs are not installed, or ``out`` holds a demo of another kind.
    """
    out = Path(out)
    if fresh:
        for method in METHODS:
            shutil.rmtree(out / "runs" / method.name, ignore_errors=True)
    images = out / "images"
    runs = [out / "runs" / method.name for method in METHODS]
    folders = {"packs": out / "packs", "cache": out / "cache"}
    plans = [experiment(method, images, **folders, steps=steps) for method in METHODS]
    begun = [_begun(run, plan) for run, plan in zip(runs, plans, strict=True)]
    work = _Work({run.name: max(Run(run).steps(), default=0) for run in runs}, steps, progress)
    with _threads(THREADS):
        write_photographs(TRAINING, images / "training")
        write_photographs(HELD_OUT, images / "held-out")
        for plan, run, resume in zip(plans, runs, begun, strict=True):
            work.begin(f"training {run.name}", run.name)
            loop.train(plan, run, resume=resume, observe=work.observe)
            notify(
                f"{run.name}: {_last_psnr(run):.2f} dB on the photographs held out, after {steps} "
                "steps"
            )
        work.begin("measuring", "measure")
        measure(runs, images / "held-out", progress=work.measured)
    page = report(
        runs, out / "index.html", title="One small network, trained three ways", about=ABOUT
    )
    work.finish()
    return Outcome(compare(runs), page)


def experiment(
    method: Method, images: Path, *, packs: Path, cache: Path, steps: int = STEPS
) -> Experiment:
    """One of the demo's runs; they differ in nothing but the method.

    Args:
        method: How the student learns.
        images: Folder with ``training`` and ``held-out``.
        packs: Folder for the pack that training reads.
        cache: Folder for the teacher's outputs.
        steps: Optimizer steps.
    """
    return Experiment(
        student=STUDENT,
        teacher=File(weights=TEACHER) if needs_teacher(method, STUDENT.scale) else None,
        method=method,
        data=Data(train=images / "training", packs=packs, patch=32, batch=4, period=PERIOD),
        teacher_cache=TeacherCache(folder=cache),
        optimization=Optimization(
            steps=steps,
            learning_rate=2e-3,
            schedule="one-cycle",
            ema=0.99,
            # Without AVX-512, bfloat16 is emulated and slower than float32.
            precision="bfloat16"
            if "AVX512" in torch.backends.cpu.get_cpu_capability()
            else "float32",
        ),
        evaluation=Evaluation(
            sets=(images / "held-out",),
            every=max(1, steps // VALIDATIONS),
            log_every=max(1, steps // 40),
            teacher_images=1,
            samples=len(HELD_OUT),
        ),
    )


def measure(runs: Sequence[Path], held_out: Path, *, progress: Progress = silent) -> None:
    """Measure the students of runs beside bicubic and the teacher; the runs keep the figures."""
    table = evaluate(
        ["bicubic", *runs],
        {"held-out": held_out},
        teacher=candidate(weights.read(TEACHER), model="teacher", label="teacher"),
        progress=progress,
    )
    results.keep_each(table, {run.name: run for run in runs})


def write_photographs(photographs: Sequence[Photograph], folder: Path) -> None:
    """Copy photographs out of the installed packages, as PNG; those that are there already stay.

    Raises:
        ValueError: If a package is not installed, or lacks the image.
    """
    for photograph in photographs:
        target = folder / f"{photograph.name}.png"
        if target.exists():
            continue
        pixels = images.read_rgb8(locate(photograph))
        if photograph.reduced > 1:
            pixels = imresize_uint8(pixels, 1 / photograph.reduced)
        images.write(target, images.Image(pixels=pixels))


def locate(photograph: Photograph) -> Path:
    """Find a photograph's file in the installed package, without importing the package.

    Raises:
        ValueError: If the package is not installed, or lacks the image.
    """
    spec = importlib.util.find_spec(photograph.package)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the demo's photographs are in {photograph.package}: pip install 'dukd[demo]'"
        )
    path = Path(spec.origin).parent / photograph.path
    if not path.is_file():
        raise ValueError(
            f"{photograph.package} has no {photograph.path} here: pip install 'dukd[demo]' takes "
            "one that has"
        )
    return path


def _begun(directory: Path, planned: Experiment) -> bool:
    """Whether the run can be resumed; one that was killed before its first save is deleted.

    Raises:
        ValueError: If the run there is of another kind.
    """
    run = Run(directory)
    if not run.experiment.is_file():
        return False
    if run.read_experiment().text != planned.to_yaml():
        raise ValueError(
            f"{directory} was begun with other numbers: begin anew with --fresh, or choose "
            "another --out"
        )
    if run.steps():
        return True
    shutil.rmtree(directory)
    return False


def _last_psnr(directory: Path) -> float:
    """What the run's last validation measured."""
    sets = [r["sets"] for r in Run.open(directory).records() if r.get("kind") == "validation"]
    return cast("dict[str, dict[str, float]]", sets[-1])["held-out"]["psnr_y"]


@contextmanager
def _threads(count: int) -> Generator[None, None, None]:
    """Compute with so many threads; another number adds in another order, to other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Work:
    """Turns steps of three runs and what follows into one row of expected seconds."""

    def __init__(self, reached: Mapping[str, int], steps: int, progress: Progress) -> None:
        self.progress = progress
        self.reached = reached
        self.parts = {
            name: (steps - reached[name]) * (cost + VALIDATIONS * SECONDS_TO_MEASURE / steps)
            for name, cost in SECONDS_PER_STEP.items()
        }
        self.parts["measure"] = (2 + len(SECONDS_PER_STEP)) * SECONDS_TO_MEASURE
        self.total = max(1, round(sum(self.parts.values())))
        self.before = 0.0
        self.part = 0.0
        self.begun_at = 0
        self.what = ""

    def begin(self, what: str, part: str) -> None:
        """Start a part; the one before is done."""
        self.before += self.part
        self.part = self.parts[part]
        self.begun_at = self.reached.get(part, 0)
        self.what = what
        self._show(0, 1, "")

    def observe(self, record: Record) -> None:
        """Hear of a step of training."""
        match record:
            case {"kind": "step", "step": int(step), "steps": int(steps)}:
                self._show(step - self.begun_at, steps - self.begun_at, f", step {step} of {steps}")
            case _:
                pass

    def measured(self, done: int, total: int, what: str) -> None:
        """Hear of a photograph measured."""
        self._show(done, total, f" {what}")

    def finish(self) -> None:
        """Everything is done."""
        self.progress(self.total, self.total, "done")

    def _show(self, done: int, total: int, more: str) -> None:
        self.progress(int(self.before + self.part * done / total), self.total, self.what + more)
