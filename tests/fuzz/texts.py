"""Configurations and command lines."""

import random
import string
from functools import cache

import yaml

from dukd import recipe

_ODD = ("", "~", "true", "1e-4", "1e999", "-1", "0", ".nan", "9" * 400, "2001-99-99", "!!binary x")
_ODD += ("[1, 2", "{a: {b: [", "&a [*a]", "*a", "!!python/name:os.system", "? [x]", "'", "\0", "é")
_ODD += ("!!int x", "12:30:00", "0o17", "<<: *a", "- " * 60 + "x", "%TAG ! x", "\ud800", "a: b: c")
_LARGE = ("9e18", "1e30", "-5", "0", "nan", "inf", "1" * 50, "", " ", "a\nb", "\x1b[31m", "é", "--")


@cache
def _sound() -> str:
    return recipe("tiny-x2-dukd").make().to_yaml()


def config(rng: random.Random) -> bytes:
    """An experiment whose values, keys, indents or letters are changed."""
    lines = _sound().splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        key, colon, _ = lines[at].partition(":")
        match rng.randrange(7):
            case 0:
                lines[at] = f"{key}: {rng.choice(_ODD)}"
            case 1:
                del lines[at]
            case 2:
                lines.insert(at, lines[rng.randrange(len(lines))])
            case 3:
                lines[at] = " " * rng.randrange(9) + lines[at].lstrip()
            case 4:
                lines[at] = f"{key}{rng.choice(string.ascii_letters)}{colon} 1"
            case 5:
                lines[at] = f"{key}: {yaml.safe_dump(_value(rng, 3), default_flow_style=True)}"
            case _:
                text = list(lines[at] or " ")
                text[rng.randrange(len(text))] = rng.choice(":-[]{}&*!|>'\"%@#,?\t\x00")
                lines[at] = "".join(text)
        if not lines:
            break
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _value(rng: random.Random, depth: int) -> object:
    simple: tuple[object, ...] = (None, True, -1, 2**64, 1e300, float("inf"), "x", "", 0.5)
    if depth and rng.random() < 0.4:
        some = [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        return some if rng.random() < 0.5 else {str(i): one for i, one in enumerate(some)}
    return rng.choice(simple)


_COMMANDS: dict[str, tuple[str, ...]] = {
    "upscale": ("IMAGE", "-m", "WEIGHTS", "-o", "OUT", "--device", "cpu"),
    "info": ("WEIGHTS",),
    "evaluate": ("WEIGHTS", "--sets", "FOLDER", "--device", "cpu"),
    "export": ("WEIGHTS", "-o", "OUT/x.pth"),
    "check-data": ("FOLDER", "--scale", "2"),
    "prepare": ("FOLDER", "--scale", "2", "--out", "OUT/p.pack"),
    "compare": ("FOLDER",),
    "report": ("FOLDER", "--out", "OUT/r.html"),
    "recipes": (),
    "methods": ("dukd",),
}
_OPTIONS = ("-s", "--tile", "--format", "--quality", "--suffix", "--max-pixels", "--precision")
_OPTIONS += ("--scale", "--images", "--border", "--recursive", "--student.width", "--out", "--best")
_OPTIONS += ("--self-ensemble", "--metrics", "--lr", "--help", "--debug", "--no-such", "-x")


def command(rng: random.Random) -> bytes:
    """Words of a command line, a zero between them; words in capitals stand for sound files."""
    name = rng.choice(list(_COMMANDS))
    words = [name, *_COMMANDS[name]]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(1, len(words) + 1)
        match rng.randrange(6):
            case 0:
                words[at : at + 1] = [rng.choice(_LARGE)]
            case 1:
                del words[at : at + 1]
            case 2:
                words[at:at] = [rng.choice(_OPTIONS), rng.choice((*_LARGE, "2", "png", "FOLDER"))]
            case 3:
                words.insert(at, rng.choice(_OPTIONS))
            case 4:
                words[at : at + 1] = [rng.choice(("NOTHING", "FOLDER", "IMAGE", "OUT", "BROKEN"))]
            case _:
                words.insert(at, rng.choice(words))
    return "\0".join(words).encode("utf-8", "surrogatepass").replace(b"\0\0", b"\0")
