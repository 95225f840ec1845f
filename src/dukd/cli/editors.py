"""Commands for editors and shells: a schema of experiments, and completion of what is typed."""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dukd import recipes
from dukd.cli.commands import COMMANDS, methods
from dukd.cli.terminal import say
from dukd.core import files
from dukd.core.registry import known
from dukd.core.schema import schema
from dukd.core.text import shown, to_json
from dukd.methods import Method
from dukd.training.experiment import REGISTRY, Experiment


@dataclass(frozen=True, kw_only=True)
class SchemaOf:
    """Write the JSON schema of experiments, by which editors complete and check their YAML.

    Methods and networks of --import FILE are in it. `dukd recipes NAME` writes the line by which
    editors that know yaml-language-server find it.

    Example: dukd schema > dukd.schema.json
    """

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write; otherwise it is printed."""

    def __call__(self) -> int:
        text = to_json(schema(Experiment, registry=REGISTRY, title="An experiment of dukd"))
        if self.out is None:
            say(text.rstrip())
        else:
            files.write_text(self.out, text)
            say(f"the schema is {shown(self.out)}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print what has a shell complete commands, options, recipes and methods.

    Bash reads ~/.local/share/bash-completion/completions/dukd, fish
    ~/.config/fish/completions/dukd.fish; a file for zsh is sourced in ~/.zshrc.

    Example: dukd completion bash > ~/.local/share/bash-completion/completions/dukd
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """Which shell."""

    def __call__(self) -> int:
        options = {name: options_of(name) for name in COMMANDS}
        say(fish(options) if self.shell == "fish" else bash(options, zsh=self.shell == "zsh"))
        return 0


def options_of(command: str) -> list[str]:
    """The long options of a command; of training those of a recipe."""
    from dukd.cli import program  # noqa: PLC0415  it knows the commands, of which this is one

    printed = io.StringIO()
    name = ["edsr-x4-dukd"] if command == "train" else []
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        program.parse(command, [*name, "--help"])
    found = re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", _options(printed.getvalue()))
    return sorted({*found, "--import", "--debug"})


def _options(text: str) -> str:
    """The lines of a help that name options, without what is said of them."""
    lines = re.findall(r"^[\s|│]*(-.*)$", text, re.MULTILINE)
    return "\n".join(re.split(r"\s{3,}", line)[0] for line in lines)


def names_of(command: str) -> list[str]:
    """What may stand behind a command beside files."""
    match command:
        case "train" | "recipes":
            ends = [one for one in known(Method) if one != "dukd-released"]
            return sorted(
                f"{family}-x{scale}-{end}"
                for family in recipes.FAMILIES
                for scale in recipes.scales_of(family)
                for end in ends
            )
        case "methods":
            return list(methods())
        case "completion":
            return ["bash", "zsh", "fish"]
        case _:
            return []


def bash(options: Mapping[str, Sequence[str]], *, zsh: bool = False) -> str:
    """What bash reads; zsh does too, once it is told to."""
    cases = [
        f'    {name}) options="{" ".join(words)}"; names="{" ".join(names_of(name))}" ;;'
        for name, words in options.items()
    ]
    return "\n".join(
        [
            *(["autoload -U +X bashcompinit && bashcompinit"] if zsh else []),
            "_dukd() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" options names',
            '  [ "$COMP_CWORD" -gt 1 ] && set -- "${COMP_WORDS[1]}" || set --',
            '  case "$1" in',
            *cases,
            f'    *) names="{" ".join(options)}" ;;',
            "  esac",
            '  case "$word" in',
            '    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;',
            '    *) COMPREPLY=($(compgen -W "$names" -- "$word")) ;;',
            "  esac",
            "}",
            "complete -o default -F _dukd dukd",
        ]
    )


def fish(options: Mapping[str, Sequence[str]]) -> str:
    """What fish reads."""
    lines: list[str] = []
    for name, words in options.items():
        about = COMMANDS[name].summary.replace("'", "")
        lines.append(f"complete -c dukd -n __fish_use_subcommand -f -a {name} -d '{about}'")
        here = f"-n '__fish_seen_subcommand_from {name}'"
        lines += [f"complete -c dukd {here} -l {word.removeprefix('--')}" for word in words]
        if names := names_of(name):
            lines.append(f"complete -c dukd {here} -a '{' '.join(names)}'")
    return "\n".join(lines)
