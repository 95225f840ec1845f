"""What ``import dukd`` promises: every public name, at no cost, whatever state torchvision is
in.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dukd
from dukd import images, methods
from dukd.images import Image
from dukd.networks.files import weights

SOURCE = Path(dukd.__file__).parents[1]


def _python(program: str, *folders: Path) -> str:
    paths = os.pathsep.join(map(str, [*folders, SOURCE]))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", dukd.__all__)
def test_every_public_name_is_there(name):
    assert getattr(dukd, name) is not None


def test_the_public_names_are_sorted_and_listed():
    assert len(set(dukd.__all__)) == len(dukd.__all__)
    assert dir(dukd) == sorted(dukd.__all__)
    assert dukd.DUKD is methods.DUKD
    assert dukd.save is weights.write


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dukd' has no attribute 'distill'"):
        dukd.distill  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_the_import_alone_brings_nothing_heavy():
    heavy = "{'torch', 'numpy', 'PIL', 'tyro', 'rich', 'yaml'}"

    assert _python(f"import sys, dukd; print(sorted({heavy} & sys.modules.keys()))") == "[]"


EVERYTHING = (
    "import importlib, pkgutil, sys, dukd\n"
    "for m in pkgutil.walk_packages(dukd.__path__, 'dukd.'):\n"
    "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
    "print('torchvision' in sys.modules)"
)


def test_torchvision_is_never_imported_even_where_it_is_broken(tmp_path):
    """Beside a torch of another build, importing it raises RuntimeError (ecosystem.md 5.1)."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms')\n"
    )

    assert _python(EVERYTHING, tmp_path) == "False"


def test_ten_lines_lead_from_a_teacher_to_images(tmp_path, monkeypatch):
    """The example of the package's docstring, on tiny data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(2):
        levels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        images.write(Path("images") / f"{number}.png", Image(pixels=levels))
    small = dukd.EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0)
    dukd.save(Path("teacher.safetensors"), small.build())

    made = dukd.recipe("small-x2-dukd").make()
    experiment = replace(
        made,
        student=small,
        teacher=dukd.Teacher.of("teacher.safetensors"),
        data=dukd.Data(train=Path("images"), patch=12, batch=2),
        optimization=dukd.Optimization(steps=3),
        evaluation=dukd.Evaluation(),
    )
    student = dukd.load(dukd.train(experiment, Path("runs/mine")))
    table = dukd.evaluate(["bicubic", student], {"images": "images"}, teacher="teacher.safetensors")
    done = dukd.upscale(student, ["images"], "out")

    assert [row.label for row in table.rows] == ["bicubic", "teacher", "student.safetensors"]
    assert "images agreement" in table.to_markdown()
    assert [d.target.name for d in done.done] == ["0_x2.png", "1_x2.png"]
    assert images.header(Path("out/0_x2.png")).width == 96
