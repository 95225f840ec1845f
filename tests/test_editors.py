"""The schema of experiments and the completion of shells follow from the program."""

import json
import shutil
import subprocess

import pytest
import yaml

from dukd import recipes
from dukd.cli import COMMANDS, editors, run
from dukd.core.schema import schema
from dukd.training.experiment import REGISTRY, Experiment

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = schema(Experiment, registry=REGISTRY, title="experiment")
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def problems(text: str) -> list[str]:
    return [error.message for error in CHECK.iter_errors(yaml.safe_load(text))]


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", ["edsr-x4-dukd", "tiny-x2-fakd+dukd", "small-x2-dukd-int8"])
def test_recipes_fit_the_schema(name):
    assert problems(recipes.recipe(name).make().to_yaml()) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("patch: 48", "pach: 48"),
        ("batch: 16", "batch: many"),
        ("type: logits", "type: logitz"),
        ("schedule: step", "schedule: stairs"),
    ],
)
def test_what_the_reader_refuses_an_editor_marks(right, wrong):
    text = recipes.recipe("edsr-x4-dukd").make().to_yaml()
    assert right in text

    assert problems(text.replace(right, wrong))


def test_short_forms_of_the_reader_are_taken():
    """A degradation by its name alone; a teacher of weights without a type."""
    text = recipes.recipe("edsr-x4-dukd").make().to_yaml()
    assert "degradation: bicubic" in text
    assert problems(text.replace("  type: file\n", "")) == []
    assert problems(text.replace("degradation: bicubic", "degradation: fog"))


def test_docstrings_and_defaults_are_in_the_schema():
    patch = SCHEMA["$defs"]["Data"]["properties"]["patch"]

    assert patch == {
        "type": "integer",
        "description": "Side of the training crop of lr, in pixels.",
        "default": 48,
    }


def test_the_command_writes_it_and_recipes_point_to_it(tmp_path, capsys):
    assert run(["schema", "-o", str(tmp_path / "dukd.schema.json")]) == 0
    now = schema(Experiment, registry=REGISTRY, title="experiment")  # with other tests' classes
    written = json.loads((tmp_path / "dukd.schema.json").read_text())
    assert written["$defs"] == json.loads(json.dumps(now["$defs"]))
    capsys.readouterr()

    assert run(["recipes", "small-x2-dukd"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "# yaml-language-server: $schema=dukd.schema.json"
    assert Experiment.from_yaml(shown) == recipes.recipe("small-x2-dukd").make()


OPTIONS = {name: editors.options_of(name) for name in ("train", "upscale", "methods", "completion")}


def test_options_are_those_of_the_help():
    assert {"--recursive", "--no-recursive", "--outscale"} <= set(OPTIONS["upscale"])
    assert {"--data.patch", "--method.consistency", "--resume"} <= set(OPTIONS["train"])


def completed(*words: str) -> list[str]:
    """What bash offers for the last of some words."""
    program = (
        f"{editors.bash(OPTIONS)}\nCOMP_WORDS=(dukd {' '.join(words)}); COMP_CWORD={len(words)}\n"
        '_dukd; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = shutil.which("bash") or pytest.skip("there is no bash here")
    done = subprocess.run([bash, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes():
    assert completed("tr") == ["train"]
    assert completed("train", "small-x2-dukd-f") == ["small-x2-dukd-frugal"]
    assert completed("upscale", "--outs") == ["--outscale"]
    assert completed("methods", "fakd") == ["fakd"]
    assert completed("upscale", "photo") == []  # then bash offers files


def test_the_other_shells_are_given_the_same_words():
    fish = editors.fish(OPTIONS)

    assert "__fish_seen_subcommand_from upscale' -l outscale" in fish
    assert editors.bash(OPTIONS, zsh=True).startswith("autoload -U +X bashcompinit")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_offered(shell, monkeypatch, capsys):
    monkeypatch.setattr(editors, "options_of", lambda _name: ["--help"])

    assert run(["completion", shell]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name})" in shown or f"-a {name} " in shown for name in COMMANDS)
