"""What is written about the project holds: links, commands, cards, the list of faults."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import dukd.methods
from dukd import recipes
from dukd.cli import COMMANDS as COMMANDS_OF_DUKD
from dukd.cli import choose, editors, program
from dukd.core.registry import known
from dukd.methods import Method

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
METHODS = {
    name: kind for name, kind in known(Method).items() if kind.__module__.startswith("dukd.")
}
HOSTS = {
    "arxiv.org",
    "github.com",
    "openreview.net",
    "doi.org",
    "keepachangelog.com",
    "openmodeldb.info",
    "pytorch.org",
    "data.vision.ee.ethz.ch",  # DIV2K
    "tensorflow.org",
    "cv.snu.ac.kr",  # EDSR's benchmark package
}
"""Whom we point to."""

every_page = pytest.mark.parametrize("page", PAGES)


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)}


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page])):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page} points to {target}"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{page} points to {target}"


@every_page
def test_no_page_names_a_machine(page):
    """No paths of one machine, no addresses, no hosts but those everybody knows."""
    text = PAGES[page]

    assert not re.findall(
        r"(?:/work/|\.\./shared|/home/|/root/|/Users/|/tmp/|localhost|\b\d+\.\d+\.\d+\.\d+\b)", text
    )
    hosts = {host.removeprefix("www.") for host in re.findall(r"https?://([\w.-]+)", text)}
    assert hosts <= HOSTS


@every_page
def test_columns_have_names(page):
    """A row of empty names is an empty bar above the table."""
    headers = re.findall(r"^(\|.*)\n\|[ :|-]+$", PAGES[page], re.MULTILINE)
    links = {"README.md", "docs/gpu.md"}

    assert page in links or not [h for h in headers if not h.replace("|", "").strip()]


def commands(text: str) -> list[str]:
    """Commands of the page: lines of code that begin with our programs, and such words."""
    blocks = re.findall(
        r"^ *```(?:sh|text|console|bash)?\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL
    )
    lines = [
        line.strip().removeprefix("$ ")
        for b in blocks
        for line in b.replace("\\\n", " ").splitlines()
    ]
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(text))]
    return [
        c.split("  #")[0].strip() for c in [*lines, *spans] if re.match(r"(?:dukd|make) [a-z]", c)
    ]


COMMANDS = sorted({(page, command) for page, text in PAGES.items() for command in commands(text)})


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_there_and_take_these_options(page, command):
    """The released code's README names option files that do not exist (methods.md D12)."""
    which, name, *words = shlex.split(re.sub(r"\s[>|&;].*", "", command))
    if which == "make":
        assert f"\n{name}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        return
    assert name in COMMANDS_OF_DUKD, f"{page}: {command}"
    if page == "CHANGELOG.md":  # phrases, not whole commands
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        varies = name in {"train", "export"}  # with what is named
        assert varies or options <= set(editors.options_of(name)), f"{page}: {command}"
        return
    if (
        not words
        or "--import" in words
        or any(re.search(r"[<>]|\.\.\.|^(?:NAME|RUN)$", w) for w in words)
    ):
        return  # a command in general; or one that tests/test_contributing.py runs
    try:
        if name != "train":
            program.parse(name, words)
        elif not words[0].endswith((".yaml", ".yml")) and not words[0].startswith("runs/"):
            assert recipes.recipe(words[0])
            program.parse("train", words)
    except SystemExit as left:
        assert left.code == 0, f"{page}: {command}"  # noqa: PT017  help ends so


def test_advice_names_options_that_exist(capsys, tmp_path):
    """What a sentence tells the reader to type has to work, in messages too."""
    teachers = [["--teacher", what] for what in (str(tmp_path), "file.py:make", "teacher.onnx")]
    for chosen in ([], [choose.DEGRADATION, "real-esrgan"], *teachers):
        with pytest.raises(SystemExit):
            program.parse("train", ["small-x2-dukd", *chosen, "--help"])
    known = {choose.DEGRADATION} | set(
        re.findall(r"--[a-z][a-z-]*\.[a-z_.-]*[a-z]", capsys.readouterr().out)
    )
    sources = {
        str(p.relative_to(ROOT)): p.read_text(encoding="utf-8")
        for p in (ROOT / "src").rglob("*.py")
    }
    named = [
        (where, option, value)
        for where, text in (PAGES | sources).items()
        for option, value in re.findall(
            r"(--(?:data|optimization|teacher-cache|evaluation|teacher)\.[\w.-]*\w)"
            r"( True| False)?",
            text,
        )
    ]

    assert len(named) > 50
    assert [n for n in named if n[1] not in known or n[2]] == []


def spoken() -> list[str]:
    """Every text in the package, with … where something is filled in."""
    found: list[str] = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


MESSAGES = [
    " ".join(message.split())
    for message in re.findall(r"^\*\*(.+?)\*\*", PAGES["docs/messages.md"], re.M | re.S)
]


def test_messages_are_those_the_program_says():
    """A part between two … stands in one text of the program, in this order."""
    texts = "\n".join(text.replace("\n", " ") for text in spoken())
    unknown = [
        message
        for message in MESSAGES
        if not re.search("[^\n]*".join(map(re.escape, filter(None, message.split("…")))), texts)
    ]

    assert len(MESSAGES) > 12
    assert unknown == []


def test_there_are_commands_to_check():
    assert any("dukd train" in command for _, command in COMMANDS)


def card(name: str) -> str:
    found = re.search(
        rf"^### `{re.escape(name)}`: .*?(?=^##|\Z)",
        PAGES["docs/methods.md"],
        re.MULTILINE | re.DOTALL,
    )
    assert found, f"docs/methods.md has no card for {name}"
    return found[0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_card(name):
    text = card(name)

    for part in (
        "**Idea.**",
        "\n```math\n",
        "**Beside the student:**",
        "**Paper:**",
        "**Published code:**",
        "**Cost:**",
    ):
        assert part in text, f"the card of {name} lacks {part.strip() or 'an equation'}"
    anchor = slug(text.splitlines()[0].removeprefix("### "))
    assert f"| [`{name}`](#{anchor}) |" in PAGES["docs/methods.md"], (
        f"{name} has no row in the table on top"
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_card_shows_the_defaults(name):
    """The numbers a card names are those the method has."""
    kind = METHODS[name]
    signature = re.search(rf"`({kind.__name__}\(.*?\))`", card(name), re.DOTALL)
    assert signature, f"the card of {name} does not say {kind.__name__}(...)"
    numbers = eval(signature[1].replace("\n", " "), dict(vars(dukd.methods)))

    assert numbers == kind()


def test_cards_are_of_methods():
    headings = re.findall(r"^### `([\w-]+)`:", PAGES["docs/methods.md"], re.MULTILINE)

    assert sorted(headings) == sorted(METHODS)


FAULTS = dict(re.findall(r"^\| (D\d+) \|.*\| ([^|]+) \|$", PAGES["docs/defects.md"], re.MULTILINE))


def test_every_fault_is_listed_once():
    assert list(FAULTS) == [f"D{n}" for n in range(1, 59)]


def test_the_readme_counts_the_methods_and_promises_no_likeness():
    """It beats thirty by one, as a round number may; a student of these closes a part of a gap."""
    assert "[thirty methods](docs/methods.md)" in PAGES["README.md"]
    assert 30 <= len(METHODS) - 1 < 35  # DUKD stands beside them
    assert "looks the same" not in PAGES["README.md"] + PAGES["docs/index.md"]


def test_whoever_counts_the_faults_counts_all():
    counted = [number for text in PAGES.values() for number in re.findall(r"\[(\d+) faults", text)]

    assert len(counted) == 2
    assert set(counted) == {str(len(FAULTS))}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_guarded_against_or_cannot_occur(fault):
    files = re.findall(r"`(test_\w+\.py)`", FAULTS[fault])
    if not files:
        assert FAULTS[fault].startswith("cannot occur"), FAULTS[fault]
    for name in files:
        cited = re.findall(
            r"methods\.md ((?:D\d+(?:, | and )?)+)",
            (ROOT / "tests" / name).read_text(encoding="utf-8"),
        )
        assert fault in re.findall(r"D\d+", " ".join(cited)), f"{name} does not cite {fault}"


def test_no_page_cites_a_fault_that_is_not_listed():
    for page, text in PAGES.items():
        for fault in re.findall(r"\(?\bD\d{1,2}\b(?!\w|\d)", text):
            number = fault.strip("(")
            assert number in FAULTS, f"{page} cites {number}"


def test_the_newest_days_stand_first():
    log = re.findall(r"(?m)^## (\d{4}-\d\d-\d\d) ", PAGES["docs/log.md"])
    assert log == sorted(log, reverse=True)
    assert PAGES["docs/log.md"].count("\n## ") == len(log)
