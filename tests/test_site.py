"""The pages of the site: what is generated, formulas, links, and the Python of the guides."""

import ast
import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import dukd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools" / "site"))
import generated  # noqa: E402  # pyright: ignore[reportMissingImports]
import links  # noqa: E402  # pyright: ignore[reportMissingImports]

sys.path.pop(0)
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def pages(nav: object) -> set[str]:
    """Every page that the navigation names."""
    match nav:
        case str():
            return {nav}
        case list():
            return set().union(*map(pages, nav))
        case dict():
            return set().union(*map(pages, nav.values()))
        case _:
            return set()


def test_every_page_of_the_repository_can_be_reached():
    docs = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    docs |= {f"notebooks/{p.stem}.md" for p in (ROOT / "docs/notebooks").glob("*.ipynb")}
    made = {"changelog.md", "contributing.md", "command-line.md", "recipes.md"}
    made |= {f"reference/{room}.md" for room in ["index", *generated.ROOMS]}

    assert pages(CONFIG["nav"]) == docs - {"assets/README.md"} | made


def test_the_reference_has_every_room():
    rooms = {p.parent.name for p in (ROOT / "src/dukd").glob("*/__init__.py")}

    assert set(generated.ROOMS) == rooms


def test_formulas_are_shown_without_a_script(monkeypatch):
    pytest.importorskip("latex2mathml")
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "site"))
    formulas = importlib.import_module("formulas")

    shown = formulas.with_formulas(METHODS)

    assert shown.count('<div class="formula"><math') == METHODS.count("```math") > 20
    assert "```math" not in shown
    assert "\n<math" not in shown  # where a line begins with it, it is a paragraph of its own
    assert "&#x02015;" not in shown
    assert shown.count('class="bar"') == METHODS.count(r"\overline{") > 5
    assert "<mfrac><mn>1</mn><mn>2</mn></mfrac>" in formulas.mathml(r"\frac12", "inline").replace(
        " ", ""
    )
    with pytest.raises(ValueError, match=r"\\nothing"):
        formulas.mathml(r"\nothing{x}", "inline")


@pytest.mark.parametrize(
    ("link", "file", "page", "moved"),
    [
        ("../CONTRIBUTING.md#a", "docs/methods.md", "methods.md", "contributing.md#a"),
        ("docs/gpu.md", "CHANGELOG.md", "changelog.md", "gpu.md"),
        ("../../CONTRIBUTING.md", "docs/guides/a.md", "guides/a.md", "../contributing.md"),
        ("five.ipynb", "docs/notebooks/b.ipynb", "notebooks/b.md", "five.md"),
        (
            "../src/dukd/methods/dukd.py",
            "docs/methods.md",
            "methods.md",
            "reference/methods.md#dukd.methods.dukd",
        ),
    ],
)
def test_links_of_the_repository_hold_on_the_site(link, file, page, moved):
    assert links.moved(f"[x]({link})", file=file, page=page) == f"[x]({moved})"


def test_code_and_links_to_others_stay_as_they_are():
    text = "```md\n[x](../CONTRIBUTING.md)\n```\n[y](https://arxiv.org/abs/1)\n"

    assert links.moved(text, file="docs/a.md", page="a.md") == text


def test_a_list_gets_the_line_that_the_builder_needs():
    text = "Three:\n- a\n  more\n- b\n"

    assert links.spaced(text) == "Three:\n\n- a\n  more\n- b\n"
    assert links.spaced(f"```\n{text}```\n") == f"```\n{text}```\n"


def test_what_belongs_to_a_numbered_item_stays_in_it():
    text = "1. One:\n\n   ```sh\n   a\n     b\n   ```\n2. Two\n   more\n\nEnd\n   loose\n"

    assert links.spaced(text) == (
        "1. One:\n\n    ```sh\n    a\n      b\n    ```\n\n2. Two\n    more\n\nEnd\n   loose\n"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_builder_finds_every_item_of_a_list(page):
    """One that it misses is a "3." in the middle of a paragraph."""
    markdown = pytest.importorskip("markdown")
    pytest.importorskip("pymdownx")
    source = links.spaced(page.read_text(encoding="utf-8"))

    shown = markdown.markdown(source, extensions=["tables", "pymdownx.superfences"])

    paragraphs = re.findall(r"<p>(.*?)</p>", shown, re.DOTALL)
    assert not [p for p in paragraphs if re.search(r"^(?:\d\. |- |```)", p, re.MULTILINE)]


def test_search_finds_guides_before_docstrings_and_notes():
    weights = [links.search_weight(f"{page}.md") for page in ("guides/images", "methods", "log")]

    assert weights == sorted(weights, reverse=True)
    assert links.search_weight("reference/deploy.md") < links.search_weight("library.md")
    assert pages(CONFIG["nav"]) >= links._GUIDES


def test_commands_in_a_line_are_broken_between_words():
    text = "<p><code>dukd a\n--b.c-d 2</code></p><pre><span></span><code>a-b</code></pre>"

    assert links.whole_words(text) == text.replace("--b.c-d", '<span class="whole">--b.c-d</span>')
    block = (
        '<div class="language-sh highlight"><pre><code>a -b\n  <b>--c-d</b> e</code></pre></div>'
    )
    assert links.whole_words(block) == (
        block.replace("-b\n", '<span class="whole">-b</span>\n').replace(
            "--c-d", '<span class="whole">--c-d</span>'
        )
    )
    long = "<code>" + 30 * "a-" + "</code>"
    assert links.whole_words(long) == long  # it may have to be broken on a phone


def test_the_name_of_a_block_becomes_its_title():
    assert links.spaced("```python mine.py\nx = 1\n```\n") == (
        '```python title="mine.py"\nx = 1\n```\n'
    )


def docstrings():
    for path in sorted((ROOT / "src/dukd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield path.name, ast.get_docstring(node) or ""


def test_a_return_of_two_lines_is_one_sentence():
    """The reference's reader takes every line for a value of its own unless it is said not to."""
    griffe = pytest.importorskip("griffe")
    builder = next(p for p in CONFIG["plugins"] if isinstance(p, dict))["mkdocstrings"]
    options = builder["handlers"]["python"]["options"]["docstring_options"]
    text = "Measure.\n\nReturns:\n    A share of 1; none where a value\n    is missing.\n"

    (_, returns) = griffe.Docstring(text).parse("google", **options)

    assert [item.description for item in returns.value] == [
        "A share of 1; none where a value\nis missing."
    ]


def test_formulas_of_docstrings_are_one_to_a_line():
    """A block that was filled like prose runs on where the next quantity is defined."""
    lines = [(name, line) for name, text in docstrings() for line in text.splitlines()]

    run_on = [(n, line) for n, line in lines if re.match(r"    .*\w \w+ {4,}= ", line)]
    assert not run_on
    assert not [(n, line) for n, line in lines if re.match(r"def \w+\(.*\):$", line)]


def test_the_command_line_is_what_the_program_says():
    shown = generated.help_of("compare")

    assert shown.startswith("usage: dukd compare")
    assert "--self-ensemble" in shown
    assert "\x1b" not in shown


def test_help_is_broken_where_a_line_is_full():
    """The source has its own line breaks, which are none of the terminal's business."""
    lines = generated.help_of("train", "edsr-x4-dukd").splitlines()
    indents = [len(line) - len(line.lstrip()) for line in lines]

    pairs = [
        (a, b)
        for a, b, i, j in zip(lines, lines[1:], indents, indents[1:], strict=False)
        if i == j >= 8 and "--" not in a[: i + 2]
    ]
    assert len(pairs) > 10
    assert not [a for a, b in pairs if len(a) + 1 + len(b.split()[0]) < 84]
    assert not [line for line in lines if "``" in line]


def test_recipes_are_listed_with_what_they_train():
    shown = generated.recipes_page()

    assert "| `edsr-warm-x…` |" in shown
    assert "`EDSR_Lx…_f256b32_DIV2K_official-76ee1c8f.pth`" in shown
    assert "| 250,000 | 16 of 48² |" in shown


def test_a_notebook_becomes_a_page(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [{"data": {"text/plain": "2", "image/png": "aGk="}}, {"text": ["two\n"]}],
        },
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))

    shown = generated.notebook(tmp_path / "a.ipynb", tmp_path / "none.ipynb")

    assert shown.startswith("# Title\n\n*A notebook: `docs/notebooks/a.ipynb`")
    assert "```python\n1 + 1\n```" in shown
    assert "data:image/png;base64,aGk=" in shown
    assert '<pre class="printed"><code>two</code></pre>' in shown


def test_what_a_cell_prints_is_one_block(tmp_path):
    outputs = [{"text": ["a<b\n"]}, {"text": ["c\n", "d\n"]}, {"data": {"text/plain": "e"}}]
    cell = {"cell_type": "code", "source": ["x"], "outputs": outputs}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))

    shown = generated.notebook(tmp_path / "a.ipynb", tmp_path / "none.ipynb")

    assert re.findall(r"<pre class=\"printed\"><code>(.*?)</code>", shown, re.DOTALL) == [
        "a&lt;b\nc\nd",
        "e",
    ]


GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
BLOCKS = [
    pytest.param(code, id=f"{path.stem}-{number}")
    for path in GUIDES
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)
    )
]


@pytest.mark.parametrize("code", BLOCKS)
def test_the_python_of_the_guides_runs_as_it_stands(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = dukd.EDSRConfig(scale=2, width=4, blocks=1).build()
    dukd.save(tmp_path / "student.safetensors", student)
    (tmp_path / "photos").mkdir()
    image = Image.fromarray(np.zeros((12, 10, 3), np.uint8))
    image.save("photo.jpg")
    image.save("photos/a.png")
    names = {
        "dukd": dukd,
        "student": student,
        "teacher": dukd.EDSRConfig(scale=2, width=4, blocks=1).build(),
        "lr": torch.rand(1, 3, 8, 8),
        "hr": torch.rand(1, 3, 16, 16),
    }

    exec(compile(code, "guide", "exec"), names)

    if "large.png" in code:
        with Image.open("large.png") as large:
            assert large.size == (20, 24)
        assert (tmp_path / "out").is_dir()


def test_there_is_python_in_the_guides():
    assert len(BLOCKS) == 3
