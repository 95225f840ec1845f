"""The images of a page: crops where models differ most, and whole images to compare by hand.

Without a script the images lie side by side; ``report.js`` makes a divider, a lens and maps of
errors of the same elements.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dukd.core.text import NOTHING
from dukd.runs.encode import encoded, fitted, uri
from dukd.runs.scenes import Layer, Scene, psnr
from dukd.runs.windows import Window, ranked

_LEGEND = (
    "Pixels are enlarged without smoothing. The crops are those in which the outputs differ most "
    "from one another, so they show more than the mean does; below each is the PSNR-Y of the crop."
)


@dataclass(frozen=True)
class Crop:
    """A part of a scene that is shown large."""

    scene: int
    """Number of the scene."""
    window: Window


def chosen(scenes: Sequence[Scene], count: int, size: int) -> list[Crop]:
    """The windows in which outputs differ most; no scene has more than its share, rounded up.

    Args:
        scenes: Where they are taken from.
        count: How many.
        size: Rows and columns of each.
    """
    if not scenes or count < 1:
        return []
    share = math.ceil(count / len(scenes))
    found = [
        (value, Crop(number, window))
        for number, scene in enumerate(scenes)
        for value, window in ranked(scene.difference(), size, share)
    ]
    best = sorted(found, key=lambda entry: -entry[0])[:count]
    return sorted((crop for _, crop in best), key=lambda crop: crop.scene)


def crop_size(scale: int | None) -> int:
    """Rows and columns of a crop: at four times its size it is 192 pixels wide on a screen."""
    return 48 if (scale or 2) <= 2 else 64


def section(
    scenes: Sequence[Scene], *, scale: int | None, crops: int, budget: int, notes: Sequence[str]
) -> str:
    """The images' part of a page; with no scenes, the sentences alone.

    Args:
        scenes: Images as all models give them.
        scale: Upscaling factor.
        crops: How many crops are shown.
        budget: Most bytes that all images together should take, before they become text.
        notes: Sentences about what is missing.
    """
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    if not scenes or budget <= 0:
        return f"<section><h2>Images</h2>{said}</section>" if said else ""
    picks = chosen(scenes, crops, crop_size(scale))
    parts = [_crop(scenes[pick.scene], pick) for pick in picks]
    wholes = [
        _whole(scene, n, picks, _share(n, len(scenes), budget)) for n, scene in enumerate(scenes)
    ]
    return (
        f'<section id="images"><h2>Images</h2>{said}<p class="legend">{_LEGEND}</p>'
        f'<div class="pieces">{"".join(parts)}</div>'
        f'<div class="viewer"><h3>Side by side</h3>{"".join(wholes)}</div>'
        f"{_figures(scenes)}</section>"
    )


def _share(number: int, scenes: int, budget: int) -> int:
    """The first scene takes half of the budget, the others the rest."""
    if scenes == 1:
        return budget
    return budget // 2 if number == 0 else budget // 2 // (scenes - 1)


def _crop(scene: Scene, pick: Crop) -> str:
    piece, truth = scene.cropped(pick.window), scene.truth
    reference = None if truth is None else pick.window.of(truth.pixels)
    figures: list[str] = []
    for layer in piece.layers:
        value = None
        if reference is not None and layer.kind != "truth":
            value = psnr(layer.pixels, reference)
        figures.append(_figure(layer, scene.name, encoded(layer.pixels), value))
    w = pick.window
    middle = f'data-x="{w.left + w.width / 2:g}" data-y="{w.top + w.height / 2:g}"'
    return (
        f'<div class="piece" data-scene="{pick.scene}" {middle}><h3>{escape(scene.name)}</h3>'
        f'<div class="crops">{"".join(figures)}</div></div>'
    )


def _whole(scene: Scene, number: int, picks: Sequence[Crop], budget: int) -> str:
    """A scene for the viewer, cut where it would be too large."""
    focus = next((pick.window for pick in picks if pick.scene == number), None)
    if focus is None:
        ((_, focus),) = ranked(scene.difference(), 64, 1)
    shown, contents, part = fitted(scene, focus, budget)
    figures = "".join(
        _figure(layer, scene.name, content, layer.psnr)
        for layer, content in zip(shown.layers, contents, strict=True)
    )
    return (
        f'<div class="scene" data-name="{escape(scene.name)}" data-top="{part.top}" '
        f'data-left="{part.left}" data-x="{focus.left + focus.width / 2:g}" '
        f'data-y="{focus.top + focus.height / 2:g}">{figures}</div>'
    )


def _figure(layer: Layer, name: str, content: bytes, value: float | None) -> str:
    height, width = layer.pixels.shape[:2]
    strong = ' class="strong"' if layer.strong else ""
    said = "" if value is None else f" <small>{_decibels(value)}</small>"
    return (
        f'<figure data-kind="{layer.kind}"{strong}><img width="{width}" height="{height}" '
        f'alt="{escape(f"{name}, {layer.label}")}" src="{uri(content)}">'
        f"<figcaption><span>{escape(layer.label)}</span>{said}</figcaption></figure>"
    )


def _decibels(value: float) -> str:
    return f"{value:.2f} dB" if math.isfinite(value) else "equal"


def _figures(scenes: Sequence[Scene]) -> str:
    """PSNR-Y of each image and model, the best student's in bold."""
    known = [s for s in scenes if any(layer.psnr is not None for layer in s.layers)]
    if not known:
        return ""
    names = list(
        dict.fromkeys(layer.label for s in known for layer in s.layers if layer.kind != "truth")
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(_line(scene, names) for scene in known)
    return (
        '<h3>PSNR-Y of each image, in dB</h3><div class="wide"><table><thead><tr><th>Image</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _line(scene: Scene, names: Sequence[str]) -> str:
    values = {layer.label: layer for layer in scene.layers}
    students = [s.psnr for s in scene.layers if s.kind == "student" and s.psnr is not None]
    best = max(students, default=None)
    cells: list[str] = []
    for name in names:
        layer = values.get(name)
        if layer is None or layer.psnr is None:
            cells.append(f"<td>{NOTHING}</td>")
            continue
        text = _decibels(layer.psnr).removesuffix(" dB")
        is_best = layer.kind == "student" and layer.psnr == best and len(students) > 1
        cells.append(f"<td><strong>{text}</strong></td>" if is_best else f"<td>{text}</td>")
    return f'<tr><th scope="row">{escape(scene.name)}</th>{"".join(cells)}</tr>'
