"""mpv: a student of plain 3x3 convolutions as shader text, for videos while they play.

Every pass computes four channels of one convolution. It hooks MAIN, where mpv has RGB already: the
students map colors jointly, so luma alone would not do. What lies outside the frame counts as 0, as
in the network; mpv by itself would repeat the edge. The same text is run by a small interpreter
here, so that an export is compared as any other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from typing_extensions import override

from dukd.deploy.runtime import ExportError, Runtime
from dukd.networks import Compact, Network
from dukd.networks.upscaler import UpscalerError

_MOST = 300_000  # parameters; drivers take minutes to compile more
_WIDEST = 64  # channels: a pass may read 16 textures
_FACTS = re.compile(r"// dukd x(\d+) radius (\d+) (\S+)")
_HEAD = "//!DESC {name}\n//!HOOK MAIN\n{binds}//!WHEN OUTPUT.w MAIN.w 1.2 * >\n"
_OFFSETS = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]


@dataclass(frozen=True, kw_only=True)
class Mpv(Runtime):
    """Shader text for mpv: ``mpv --glsl-shaders=student.glsl video.mkv``."""

    name: ClassVar[str] = "mpv"
    suffixes: ClassVar[tuple[str, ...]] = (".glsl",)

    @override
    def export(self, network: Network, path: Path, properties: Mapping[str, str]) -> None:
        plain = network.folded()
        if not isinstance(plain, Compact):
            raise ExportError(
                f"a shader runs plain rows of 3x3 convolutions, which the students compact and "
                f"plain are; {network.name} is another network"
            )
        if plain.width > _WIDEST or plain.parameter_count() > _MOST:
            raise ExportError(
                f"a shader has at most {_WIDEST} channels and {_MOST:,} parameters, but this has "
                f"{plain.width} and {plain.parameter_count():,}"
            )
        facts = f"// dukd x{plain.scale} radius {plain.radius} {properties['network']}\n"
        path.write_text(facts + "\n".join(_passes(plain)), encoding="utf-8")

    @override
    def load(self, path: Path) -> "Shader":
        return Shader(path)


def _passes(network: Compact) -> list[str]:
    texts: list[str] = []
    read = ["MAIN"]
    layers = list(network.body)
    for number in range(0, len(layers), 2):
        convolution = layers[number]
        assert isinstance(convolution, nn.Conv2d)
        slopes = _slopes(layers[number + 1]) if number + 1 < len(layers) else None
        texts += _convolution(convolution, slopes, read, f"c{number // 2}")
        count = -(-convolution.out_channels // 4)
        read = [f"c{number // 2}_{i}" for i in range(count)]
    return [*texts, _shuffle(read, network.scale)]


def _slopes(activation: nn.Module) -> Tensor:
    match activation:
        case nn.PReLU():
            return activation.weight
        case nn.LeakyReLU():
            return torch.tensor([activation.negative_slope])
        case _:
            return torch.zeros(1)


def _convolution(layer: nn.Conv2d, slopes: Tensor | None, read: list[str], name: str) -> list[str]:
    """One pass for every four channels."""
    outside = -(-layer.out_channels // 4) * 4
    more = outside - layer.out_channels, 4 * len(read) - layer.in_channels
    weight = F.pad(layer.weight, (0, 0, 0, 0, 0, more[1], 0, more[0]))
    assert layer.bias is not None
    bias = F.pad(layer.bias, (0, more[0]))
    bent = None if slopes is None else F.pad(slopes.expand(layer.out_channels), (0, more[0]))
    texts: list[str] = []
    for i in range(outside // 4):
        rows = slice(4 * i, 4 * i + 4)
        lines = [f"vec4 r = vec4({_numbers(bias[rows])});"]
        for j, texture in enumerate(read):
            for x, y in _OFFSETS:
                block = weight[rows, 4 * j : 4 * j + 4, y + 1, x + 1]
                value = f"{texture}_texOff(vec2({x}.0, {y}.0))"
                lines.append(f"r += mat4({_numbers(block.T)}) * (inside({x}, {y}) * {value});")
        if bent is not None:
            lines.append(f"r = max(r, 0.0) + vec4({_numbers(bent[rows])}) * min(r, 0.0);")
        binds = "".join(f"//!BIND {texture}\n" for texture in read)
        head = _HEAD.format(name=f"dukd {name} {i}", binds=binds)
        head += f"//!SAVE {name}_{i}\n//!WIDTH MAIN.w\n//!HEIGHT MAIN.h\n//!COMPONENTS 4\n"
        texts.append(head + _inside(read[0]) + _body([*lines, "return r;"]))
    return texts


def _inside(texture: str) -> str:
    """1 where a neighbor lies in the frame, else 0."""
    return (
        "float inside(int x, int y) {\n"
        f"    vec2 p = {texture}_pos + vec2(x, y) * {texture}_pt;\n"
        "    return float(p.x > 0.0 && p.y > 0.0 && p.x < 1.0 && p.y < 1.0);\n}\n"
    )


def _shuffle(read: list[str], scale: int) -> str:
    """The last pass: channels to pixels, added to the nearest pixel of the frame."""
    lines = [
        "vec2 at = MAIN_pos * MAIN_size;",
        "vec2 i = floor(at);",
        f"ivec2 sub = ivec2((at - i) * {scale}.0);",
        "vec2 from = (i + 0.5) * MAIN_pt;",
        "vec3 add = vec3(0.0);",
    ]
    for y in range(scale):
        for x in range(scale):
            places = [color * scale**2 + y * scale + x for color in range(3)]
            values = (f"{read[k // 4]}_tex(from).{'xyzw'[k % 4]}" for k in places)
            lines.append(f"if (sub == ivec2({x}, {y})) add = vec3({', '.join(values)});")
    lines.append("return vec4(MAIN_tex(from).rgb + add, 1.0);")
    binds = "".join(f"//!BIND {texture}\n" for texture in ["MAIN", *read])
    head = _HEAD.format(name="dukd to pixels", binds=binds)
    head += f"//!WIDTH MAIN.w {scale} *\n//!HEIGHT MAIN.h {scale} *\n"
    return head + _body(lines)


def _body(lines: list[str]) -> str:
    return "vec4 hook() {\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def _numbers(values: Tensor) -> str:
    return ", ".join(f"{value:.9g}" for value in values.flatten().tolist())


_SAVE = re.compile(r"//!SAVE (\w+)")
_START = re.compile(r"vec4 r = vec4\((.+)\);")
_TAP = re.compile(
    r"r \+= mat4\((.+)\) \* \(inside\((-?1|0), (-?1|0)\) \* (\w+)_texOff\(vec2\((-?\d)\.0, "
    r"(-?\d)\.0\)\)\);"
)
_BEND = re.compile(r"r = max\(r, 0\.0\) \+ vec4\((.+)\) \* min\(r, 0\.0\);")
_PIXEL = re.compile(r"if \(sub == ivec2\((\d), (\d)\)\) add = vec3\((.+)\);")
_VALUE = re.compile(r"(\w+)_tex\(from\)\.([xyzw])")


class Shader:
    """Shader text of ours, run line by line as a player would."""

    size_multiple = 1

    def __init__(self, path: Path) -> None:
        """Read the text.

        Raises:
            UpscalerError: If it is not a shader that dukd has written, or not whole.
        """
        self.path = Path(path)
        try:
            text = self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = ""
        facts = _FACTS.match(text)
        if facts is None or not text.endswith("1.0);\n}\n"):
            raise UpscalerError(f"{path} is damaged, or not a shader that dukd has written")
        self.scale, self.radius, self.name = int(facts[1]), int(facts[2]), facts[3]
        self._passes = [part.splitlines() for part in text.split("//!DESC ")[1:]]

    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``."""
        textures = {"MAIN": F.pad(lr.float(), (0, 0, 0, 0, 0, 1), value=1.0)}  # alpha
        for lines in self._passes[:-1]:
            saved = next(m[1] for line in lines if (m := _SAVE.match(line)))
            textures[saved] = _run(lines, textures)
        made = lr.float().repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        for line in self._passes[-1]:
            if found := _PIXEL.search(line):
                values = [textures[t][:, "xyzw".index(c)] for t, c in _VALUE.findall(found[3])]
                x, y = int(found[1]), int(found[2])
                made[..., y :: self.scale, x :: self.scale] += torch.stack(values, 1)
        return made


def _run(lines: list[str], textures: Mapping[str, Tensor]) -> Tensor:
    """One pass of a convolution: ``(n, 4, h, w)``."""
    like = textures["MAIN"]
    n, _, h, w = like.shape
    r = like.new_zeros(n, 4, h, w)
    inside = F.pad(like.new_ones(1, 1, h, w), (1, 1, 1, 1))
    for line in lines:
        if found := _START.search(line):
            r = r + _floats(found[1]).reshape(1, 4, 1, 1)
        elif found := _TAP.search(line):
            ix, iy, x, y = (int(found[i]) + 1 for i in (2, 3, 5, 6))
            edge = F.pad(textures[found[4]], (1, 1, 1, 1), mode="replicate")
            value = edge[..., y : y + h, x : x + w] * inside[..., iy : iy + h, ix : ix + w]
            columns = _floats(found[1]).reshape(4, 4)  # GLSL fills column by column
            r = r + torch.einsum("io,nihw->nohw", columns, value)
        elif found := _BEND.search(line):
            r = r.clamp(min=0) + _floats(found[1]).reshape(1, 4, 1, 1) * r.clamp(max=0)
    return r


def _floats(text: str) -> Tensor:
    return torch.tensor([float(number) for number in text.split(",")])
