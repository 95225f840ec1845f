"""The commands by name, without what they need: a list of them must not wait for torch."""

import ast
import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol


class Options(Protocol):
    """Options that were read; calling them does the work."""

    def __call__(self) -> int:
        """Do it, and return the exit code."""
        ...


@dataclass(frozen=True)
class Command:
    """Where a command's class is: a dataclass of its options, which calling it carries out."""

    module: str
    """Below ``dukd.cli``."""
    name: str
    """Of the class."""

    def load(self) -> type[Options]:
        """Import the class, and all it needs."""
        found: type[Options] = getattr(
            importlib.import_module(f"dukd.cli.{self.module}"), self.name
        )
        return found

    @property
    def summary(self) -> str:
        """First line of the class's docstring, read from the source."""
        for name, text in _docstrings(Path(__file__).with_name(f"{self.module}.py")):
            if name == self.name:
                return text
        return ""


COMMANDS = {
    "prepare": Command("data", "Prepare"),
    "check-data": Command("data", "CheckData"),
    "degrade": Command("data", "Degrade"),
    "train": Command("train", "Train"),
    "watch": Command("standing", "Standings"),
    "study": Command("study", "StudyOf"),
    "evaluate": Command("evaluate", "Evaluate"),
    "compare": Command("evaluate", "Compare"),
    "report": Command("evaluate", "Report"),
    "figure": Command("figure", "Figure"),
    "quantize": Command("quantize", "Quantize"),
    "export": Command("use", "Export"),
    "upscale": Command("use", "Upscale"),
    "page": Command("page", "PageOf"),
    "serve": Command("page", "Serve"),
    "model-card": Command("card", "ModelCard"),
    "info": Command("info", "Info"),
    "recipes": Command("info", "Recipes"),
    "methods": Command("info", "Methods"),
    "models": Command("info", "Models"),
    "demo": Command("demo", "Demo"),
    "ensemble": Command("ensemble", "Ensemble"),
    "cache": Command("bench", "Cache"),
    "bench": Command("bench", "Bench"),
    "schema": Command("editors", "SchemaOf"),
    "completion": Command("editors", "Completion"),
}
"""The commands, in the order in which they are used."""

ABOUT_METHODS = (
    "`dukd methods NAME` lists a method's options; any can stand in a recipe's name: edsr-x4-NAME."
)
"""Below the list of methods."""


def _docstrings(path: Path) -> list[tuple[str, str]]:
    """Classes of a module that have a docstring, with its first line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [(c.name, (ast.get_docstring(c) or "").partition("\n")[0]) for c in classes]


def methods() -> dict[str, str]:
    """Names and summaries of the package's own methods, sorted, read from the sources."""
    spec = find_spec("dukd")
    assert spec is not None
    assert spec.origin is not None
    found: dict[str, str] = {}
    for path in Path(spec.origin).parent.joinpath("methods").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not _upcycles(node):
                name = None if node.name.startswith("_") else _name(node)
                if name is not None:
                    found[name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return dict(sorted(found.items()))


def _upcycles(node: ast.ClassDef) -> bool:
    """Whether a class is an upcycling, which makes one view, where a method makes several."""
    return any(isinstance(part, ast.FunctionDef) and part.name == "view" for part in node.body)


def _name(node: ast.ClassDef) -> str | None:
    """What a class says its name is: ``name = ...`` or ``name: ClassVar[str] = ...``."""
    for statement in node.body:
        match statement:
            case (
                ast.AnnAssign(target=ast.Name(id="name"), value=ast.Constant(value=str(text)))
                | ast.Assign(targets=[ast.Name(id="name")], value=ast.Constant(value=str(text)))
            ):
                return text
            case _:
                pass
    return None
