"""Commands whose results lie in a folder: begun, stopped, begun again, and compared as a whole."""

import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from dukd.cli import run
from whole_runs import shaped, train

PROGRAMS = ("prepare", "cache", "upscale", "export", "evaluate", "report")
_TIMES = re.compile(rb'"(seconds|seconds_per_image|date|started)": [^,}\n]+')


def prepared(name: str, folder: Path, root: Path) -> Callable[[Path], int]:
    """Make what a command needs beside its own folder, and give the command, as one of a folder."""
    teacher, images = str(folder / "teacher.safetensors"), str(folder / "images")
    if name == "report" and not root.exists():
        root.mkdir()
        train("best", folder, root)

    def words(place: Path) -> list[str]:
        match name:
            case "prepare":
                return ["prepare", images, "--scale", "2", "--out", str(place / "p.pack")]
            case "cache":
                made = folder / "here.yaml"
                made.write_text(shaped("cached", folder, place).to_yaml())
                return ["cache", str(made), "--device", "cpu"]
            case "upscale":
                more = ["-o", str(place), "--device", "cpu", "--skip-existing"]
                return ["upscale", images, "-m", teacher, *more]
            case "export":
                return ["export", teacher, "-o", str(place / "t.safetensors")]
            case "evaluate":
                more = ["--device", "cpu", "--out", str(place / "e.json")]
                return ["evaluate", teacher, "--sets", images, "--images", "2", *more]
            case _:
                return ["report", str(root / "run"), "--out", str(place / "r.html")]

    def command(place: Path) -> int:
        said = StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = run(words(place))
        assert code == 0, said.getvalue()[-500:]
        return code

    return command


def result(place: Path) -> dict[str, bytes]:
    """Every file below a folder, without times; a kill may leave a hidden temporary one."""
    found: dict[str, bytes] = {}
    for path in sorted(place.rglob("*")):
        stray = path.name.startswith(".") and path.name.endswith(".tmp")
        if path.is_file() and not stray and path.suffix != ".lock" and path.name != "lock":
            body = path.read_bytes()
            found[str(path.relative_to(place))] = _TIMES.sub(b"", body)
    return found
