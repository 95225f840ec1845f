"""The house stays as it was built: rooms, layers, lengths, words."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

import dukd

PACKAGE = Path(dukd.__file__).parent
ROOT = PACKAGE.parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted([*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
TREES = {m: ast.parse(m.read_text(encoding="utf-8")) for m in MODULES}

every_module = pytest.mark.parametrize(
    "module", MODULES, ids=lambda m: m.relative_to(PACKAGE).as_posix()
)


def named(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def ends_or_prints(tree: ast.AST) -> Iterator[str]:
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


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Modules and the names taken from them."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, "") for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((module, alias.name) for alias in names)
            case _:
                pass


def test_the_hall_has_few_doors():
    """Twelve rooms, three files, and the marker of types."""
    doors = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}

    assert len(doors) <= 16, sorted(doors)


@every_module
def test_only_the_command_line_prints_or_exits(module):
    assert named(module).startswith("cli/") or not list(ends_or_prints(TREES[module]))


def test_the_search_for_prints_finds_them():
    program = (
        "print(1)\nsys.exit(2)\nsys.stderr.write('')\nprinter(3)\nraise SystemExit\n"
        "if x:\n    raise SystemExit(1)\n"
    )

    found = list(ends_or_prints(ast.parse(program)))

    assert sorted(line.split(":")[0] for line in found) == [f"line {n}" for n in (1, 2, 3, 5, 7)]


@every_module
def test_torchvision_is_imported_nowhere(module):
    assert "torchvision" not in {name.split(".")[0] for name, _ in imported(TREES[module])}


@every_module
def test_nothing_private_leaves_its_room(module):
    room = named(module).split("/")[0]
    private = [
        f"{source}.{name}"
        for source, name in imported(TREES[module])
        if re.match(r"dukd\.(?!_version)", source)
        and source.split(".")[1] != room
        and any(re.match(r"_[^_]", part) for part in [*source.split(".")[1:], name])
    ]

    assert not private


@every_module
def test_a_module_can_be_read_in_one_sitting(module):
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 400


def test_most_modules_are_short():
    """The aim is a median of 120 lines."""
    assert median(len(m.read_text(encoding="utf-8").splitlines()) for m in MODULES) <= 135


@every_module
def test_classes_and_functions_are_short(module):
    long = [
        f"{node.name}: {length(node)} lines"
        for node in ast.walk(TREES[module])
        if (isinstance(node, ast.ClassDef) and length(node) > 200)
        or (isinstance(node, ast.FunctionDef) and length(node) > 56)
    ]

    assert not long


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.relative_to(ROOT).as_posix())
def test_lines_fit(source):
    lines = source.read_text(encoding="utf-8").splitlines()

    assert not [n for n, line in enumerate(lines, 1) if len(line) > 100]


WORDS = re.compile(
    r"(?<![a-z])(picture|optimis|initialis|normalis|recognis|colour|grey|neighbour|behaviour"
    r"|answer|bank|heed|logbook|gone on|(?<!there )is no(?![a-z]))",
    re.IGNORECASE,
)
"""Words of our own for what has a name in this field, and British spelling."""
NAMES = re.compile(r"(?:^|_)(ask|asks|asked|asking|tell|tells|told|turned|watch|kinds)(?:_|$)")
"""What nothing is called, since it could mean anything."""


def names(tree: ast.AST) -> Iterator[str]:
    """What a module calls its classes, functions, arguments and variables."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case _:
                pass


@every_module
def test_the_words_are_those_of_the_field(module):
    found = [
        f"line {number}: {match[0]!r} in {line.strip()}"
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), 1)
        for match in WORDS.finditer(re.sub(r"([a-z])([A-Z])", r"\1_\2", line).replace("_", " "))
    ]
    called = sorted({name for name in names(TREES[module]) if NAMES.search(name.lower())})

    assert (found, called) == ([], [])


def test_imports_go_one_way():
    """The contract stands in pyproject.toml; a new package has to be given its layer there.

    In a process of its own: the linter closes the stream that it prints to.
    """
    pytest.importorskip("importlinter.cli")
    program = (
        "import sys\nfrom importlinter.cli import lint_imports\n"
        "sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "pyproject.toml")],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
