"""Pages that follow from the program: command line, recipes, reference, notebooks."""

import contextlib
import html
import importlib
import inspect
import io
import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import dukd
from dukd import recipes
from dukd.cli import COMMANDS
from dukd.cli.program import parse
from dukd.recipes.ablations import ABLATIONS

PACKAGE = Path(dukd.__file__).parent
ROOT = PACKAGE.parents[1]
ROOMS = [
    "core",
    "images",
    "networks",
    "data",
    "methods",
    "evaluation",
    "runs",
    "training",
    "deploy",
    "recipes",
    "testing",
    "cli",
]
"""As in docs/architecture.md, from the ground up."""
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_WIDTH = 88


def help_of(command: str, *arguments: str) -> str:
    """What ``dukd COMMAND ... --help`` prints."""
    printed = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(_WIDTH)
    from dukd.cli import terminal  # noqa: PLC0415  its console prints where this says

    width = terminal.out.width
    terminal.out.width = _WIDTH
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            parse(command, [*arguments, "--help"])()
    finally:
        terminal.out.width = width
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    lines = _COLOR.sub("", printed.getvalue()).strip().splitlines()
    return "\n".join(_wrapped(line.rstrip()) for line in lines)


def _wrapped(line: str) -> str:
    """A sentence that tyro leaves in one line, in several."""
    return line if len(line) <= _WIDTH + 8 else textwrap.fill(line, _WIDTH)


def command_line() -> str:
    """The page on the command line: the help of every command."""
    parts = [
        "# Command line\n",
        "What every command says with `--help`, printed by the program when this page was made.\n",
        "| command | what it does |\n|---|---|",
        *(f"| [`{name}`](#dukd-{name}) | {c.summary} |" for name, c in COMMANDS.items()),
        "",
        _exit_codes(),
    ]
    for name in COMMANDS:
        parts += [f"## dukd {name}\n", f"```text\n{help_of(name)}\n```\n"]
        if name == "train":
            shown = help_of("train", "edsr-x4-dukd")
            parts += [
                "The options are those of the experiment that is named; with `edsr-x4-dukd`:\n",
                f"```text\n{shown}\n```\n",
            ]
    return "\n".join(parts)


def _exit_codes() -> str:
    said = inspect.getdoc(importlib.import_module("dukd.cli.program")) or ""
    return f"Exit codes. {' '.join(said.partition(chr(10))[2].split())}\n"


def recipes_page() -> str:
    """The page on recipes: families, ablations, and what the named ones train."""
    lines = [
        "# Recipes\n",
        "A recipe is called `<networks>-x<scale>-<method>`: `dukd train edsr-x4-dukd`. The method "
        "is any of [these](methods.md), alone or as `METHOD+dukd`; `scratch` trains without a "
        "teacher; `-int8` at the end trains [a student for integers](results/int8.md). "
        "`dukd recipes edsr-x4-dukd` prints one as YAML, to be edited and trained.\n",
        "## Families\n",
        "| recipe | what it is | scales | student | steps | patches | teacher's file |",
        "|---|---|---|---|---:|---:|---|",
    ]
    for name, maker in recipes.FAMILIES.items():
        scales = recipes.scales_of(name)
        scale = 4 if 4 in scales else scales[-1]
        ending = "scratch" if name.endswith("-teacher") else "dukd"
        made = recipes.recipe(f"{name}-x{scale}-{ending}").make()
        about = (maker.__doc__ or "").splitlines()[0]
        lines.append(
            f"| `{name}-x…` | {about} | {', '.join(map(str, scales))} | `{made.student.name}` "
            f"| {made.optimization.steps:,} | {made.data.batch} of {made.data.patch}² "
            f"| {_teacher(made.teacher, scale)} |"
        )
    lines += [
        "\nFiles are looked for in `weights/`, images in `datasets/`; "
        "`--teacher.weights` and `--data.train` name others. Where they come from: "
        "[the paper's table](paper-table.md).\n",
        "## Ablations\n",
        "Each is a change to a recipe and stands in the method's place: "
        "`dukd train small-x2-dukd-no-teacher`.\n",
        "| ablation | what is changed |\n|---|---|",
        *(f"| `{name}` | {ablation.about} |" for name, ablation in ABLATIONS.items()),
    ]
    return "\n".join(lines) + "\n"


def _teacher(teacher: object, scale: int) -> str:
    """The file of a recipe's teacher, whatever scale it is of."""
    weights = getattr(teacher, "weights", None)
    if weights is None:
        return "none"
    name = re.sub(rf"([xX]){scale}", r"\1…", Path(weights).name)
    return f"`{name}`"


def reference() -> Iterator[tuple[str, str]]:
    """The reference: a page for the package's face, and one per room."""
    yield "reference/index.md", _face()
    for room in ROOMS:
        about = inspect.getdoc(importlib.import_module(f"dukd.{room}"))
        blocks = "\n\n".join(f"::: {module}" for module in _modules(room))
        yield f"reference/{room}.md", f"# dukd.{room}\n\n{about}\n\n{blocks}\n"


def _modules(room: str) -> Iterator[str]:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if not any(part.startswith("_") for part in parts):
            yield ".".join(("dukd", *parts))


def _face() -> str:
    lines = [
        "# Reference\n",
        "Made of the docstrings. `import dukd` brings these names, each imported when it is first "
        "used:\n",
        "| name | what it is |\n|---|---|",
    ]
    for name in sorted(set(dukd.__all__) - {"__version__"}, key=str.lower):
        value = getattr(dukd, name)
        home = f"{value.__module__}.{value.__name__}"
        first = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
        page = value.__module__.split(".")[1]
        lines.append(f"| [`dukd.{name}`]({page}.md#{home}) | {first} |")
    lines += [
        "\n## Rooms\n",
        "A room imports only from those above it in this table "
        "([architecture](../architecture.md)).\n",
        "| room | what it is for |\n|---|---|",
        *(f"| [`dukd.{room}`]({room}.md) | {_first_of(f'dukd.{room}')} |" for room in ROOMS),
    ]
    return "\n".join(lines) + "\n"


def _first_of(module: str) -> str:
    return (inspect.getdoc(importlib.import_module(module)) or "").partition("\n")[0]


def notebook(path: Path, executed: Path) -> str:
    """A notebook as a page; with what its cells gave, where it was executed.

    Args:
        path: The notebook, without outputs.
        executed: Where ``make notebooks`` has written it with them.
    """
    source = executed if executed.is_file() else path
    cells: list[Mapping[str, Any]] = json.loads(source.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
        else:
            parts.append(f"```python\n{text}\n```")
            parts += [_shown(output) for output in _joined(cell["outputs"])]
        if len(parts) == 1:
            parts.append(
                f"*A notebook: `docs/notebooks/{path.name}`, which is executed by the tests.*"
            )
    return "\n\n".join(filter(None, parts)) + "\n"


def _joined(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The outputs of a cell, with what it printed in one piece."""
    for printed, group in groupby(outputs, key=lambda output: "text" in output):
        if printed:
            yield {"text": ["".join(output["text"]) for output in group]}
        else:
            yield from group


def _shown(output: Mapping[str, Any]) -> str:
    """One output of a cell: an image, a table, text."""
    data: Mapping[str, Any] = output.get("data", {})
    if "image/png" in data:
        png = "".join(data["image/png"]).strip().replace("\n", "")
        return f'<p><img alt="output" src="data:image/png;base64,{png}"></p>'
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'
    text = "".join(output.get("text", data.get("text/plain", "")))
    if not text.strip():
        return ""
    return f'<pre class="printed"><code>{html.escape(text.rstrip())}</code></pre>'
