"""Imports go one way, only the command line prints or exits, and modules stay short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dukd

PACKAGE = Path(dukd.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 500


def _named(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def _ends_or_prints(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print" | "exit" | "quit" | "input" as name)):
                yield f"line {node.lineno}: {name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="sys"), attr="exit")):
                yield f"line {node.lineno}: sys.exit()"
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"):
                yield f"line {node.lineno}: sys.{node.attr}"
            case ast.Raise(
                exc=ast.Call(func=ast.Name(id="SystemExit")) | ast.Name(id="SystemExit")
            ):
                yield f"line {node.lineno}: SystemExit"
            case _:
                pass


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module
            case _:
                pass


@pytest.mark.parametrize("module", MODULES, ids=_named)
def test_only_the_command_line_prints_or_exits(module):
    found = list(_ends_or_prints(ast.parse(module.read_text(encoding="utf-8"))))

    assert not found or _named(module).startswith("cli/")


def test_the_search_for_prints_finds_them():
    program = (
        "print(1)\nsys.exit(2)\nsys.stderr.write('')\nprinter(3)\nraise SystemExit\nif x:\n    "
        "raise SystemExit(1)\n"
    )

    found = list(_ends_or_prints(ast.parse(program)))

    assert sorted(line.split(":")[0] for line in found) == [
        "line 1",
        "line 2",
        "line 3",
        "line 5",
        "line 7",
    ]


@pytest.mark.parametrize("module", MODULES, ids=_named)
def test_torchvision_is_imported_nowhere(module):
    roots = {
        name.split(".")[0] for name in _imported(ast.parse(module.read_text(encoding="utf-8")))
    }

    assert "torchvision" not in roots


@pytest.mark.parametrize("module", MODULES, ids=_named)
def test_a_module_can_be_read_in_one_sitting(module):
    assert len(module.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_imports_go_one_way(capsys):
    """The contract stands in pyproject.toml; a new module has to be given its layer there."""
    linter = pytest.importorskip("importlinter.cli")

    code = linter.lint_imports(
        config_filename=str(PACKAGE.parents[1] / "pyproject.toml"), no_cache=True
    )

    assert code == 0, capsys.readouterr().out
