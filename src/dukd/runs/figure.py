"""Grids of crops for papers: one row for each place, one column for each model, with its PSNR.

The grid is one image of exact pixels: every pixel of a crop becomes a square of ``zoom`` pixels.
As PDF it is the same image in a page of its size.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dukd.core import files
from dukd.runs.gallery import chosen
from dukd.runs.scenes import Layer, Scene, psnr
from dukd.runs.windows import Window

SUFFIXES = (".png", ".pdf")
_INK, _SOFT, _PAPER = (20, 20, 20), (90, 90, 90), (255, 255, 255)
_FRAME = (235, 40, 40)
_LARGEST = 300_000_000  # pixels of a figure; viewers stop before that


@dataclass(frozen=True)
class Region:
    """A named part of an image that a figure shows: ``name:x,y,width,height``, in pixels of hr."""

    name: str
    """The image's, as its file is called."""
    window: Window

    @staticmethod
    def of(text: str) -> "Region":
        """Read ``baby:120,40,64,64``.

        Raises:
            ValueError: If it is not of that form.

        Example:
            >>> Region.of("baby:120,40,64,48")
            Region(name='baby', window=Window(top=40, left=120, height=48, width=64))
        """
        name, _, numbers = text.rpartition(":")
        try:
            x, y, width, height = map(int, numbers.split(","))
        except ValueError:
            x = y = width = height = -1
        if not name or min(x, y) < 0 or min(width, height) < 1:
            raise ValueError(
                f"a region is NAME:X,Y,WIDTH,HEIGHT in pixels, such as baby:120,40,64,64, but got "
                f"{text!r}"
            )
        return Region(name, Window(y, x, height, width))


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a figure looks."""

    zoom: int = 4
    """Pixels of the figure for one of a crop, each way."""
    gap: int = 8
    """Pixels between images."""
    text: int = 22
    """Height of letters, in pixels."""
    overview: bool = True
    """Whether each row begins with the whole image, in which the place is framed."""


def figure(
    scenes: Sequence[Scene],
    out: Path,
    *,
    regions: Sequence[Region] = (),
    count: int = 1,
    size: int = 64,
    style: Style | None = None,
) -> Path:
    """Write a grid of crops.

    Args:
        scenes: Images as all models give them.
        out: A ``.png`` or ``.pdf`` file.
        regions: The places; without any, those in which the outputs differ most.
        count: How many places are chosen of each image, where none is named.
        size: Rows and columns of a chosen place.
        style: How it looks.

    Returns:
        ``out``.

    Raises:
        ValueError: If a region lies outside its image or names none, ``out`` has another suffix, or
            the figure is too large.
    """
    if Path(out).suffix.lower() not in SUFFIXES:
        raise ValueError(f"a figure is written as .png or .pdf, but got {out}")
    style = style or Style()
    rows = _named(scenes, regions) if regions else _found(scenes, count, size)
    cells = sum(w.height * w.width * (len(scene.layers) + 1) for scene, w in rows)
    if cells * style.zoom**2 > _LARGEST:
        raise ValueError(
            f"the figure would have more than {_LARGEST / 1e6:.0f} megapixels: lower --zoom (now "
            f"{style.zoom}), --size or --count, or name fewer images"
        )
    grid = _grid(rows, style)
    content = io.BytesIO()
    if Path(out).suffix.lower() == ".pdf":
        grid.save(content, "PDF", resolution=300.0)
    else:
        grid.save(content, "PNG", dpi=(300, 300))
    files.write_bytes(out, content.getvalue())
    return Path(out)


def _named(scenes: Sequence[Scene], regions: Sequence[Region]) -> list[tuple[Scene, Window]]:
    by_name = {scene.name: scene for scene in scenes}
    rows: list[tuple[Scene, Window]] = []
    for region in regions:
        scene, window = by_name.get(region.name), region.window
        if scene is None:
            listed = ", ".join(by_name)
            raise ValueError(f"there is no image {region.name} here: there are {listed}")
        if window.top + window.height > scene.height or window.left + window.width > scene.width:
            raise ValueError(
                f"the region of {region.name} reaches {window.left + window.width} x "
                f"{window.top + window.height}, but the image has {scene.width} x {scene.height}"
            )
        rows.append((scene, window))
    return rows


def _found(scenes: Sequence[Scene], count: int, size: int) -> list[tuple[Scene, Window]]:
    return [(scene, pick.window) for scene in scenes for pick in chosen([scene], count, size)]


def _grid(rows: Sequence[tuple[Scene, Window]], style: Style) -> Image.Image:
    """Rows of crops with their labels; columns are as wide as their widest crop."""
    lines = [_line(scene, window, style) for scene, window in rows]
    columns = max(map(len, lines))
    widths = [
        max((line[i].width for line in lines if i < len(line)), default=0) for i in range(columns)
    ]
    heights = [max(cell.height for cell in line) for line in lines]
    gap = style.gap
    across, down = sum(widths) + gap * (columns + 1), sum(heights) + gap * (len(lines) + 1)
    grid = Image.new("RGB", (across, down), _PAPER)
    y = gap
    for line, height in zip(lines, heights, strict=True):
        x = gap
        for cell, width in zip(line, widths, strict=False):
            grid.paste(cell, (x, y))
            x += width + gap
        y += height + gap
    return grid


def _line(scene: Scene, window: Window, style: Style) -> list[Image.Image]:
    truth = scene.truth
    reference = None if truth is None else window.of(truth.pixels)
    cells: list[Image.Image] = []
    for layer in scene.layers:
        crop, zoom = window.of(layer.pixels), style.zoom
        large = Image.fromarray(crop.repeat(zoom, axis=0).repeat(zoom, axis=1))
        value = None
        if reference is not None and layer.kind != "truth":
            value = psnr(window.of(layer.pixels), reference)
        cells.append(_captioned(large, *_caption(layer, value), style))
    if style.overview:
        height = window.height * style.zoom
        cells.insert(0, _captioned(_overview(scene, window, height), scene.name, "", style))
    return cells


def _caption(layer: Layer, value: float | None) -> tuple[str, str]:
    if value is None:
        return layer.label, ""
    return layer.label, f"{value:.2f} dB" if math.isfinite(value) else "equal"


def _overview(scene: Scene, window: Window, height: int) -> Image.Image:
    """The whole image, as high as the crops beside it, with a frame around the place."""
    image = Image.fromarray((scene.truth or scene.layers[-1]).pixels)
    share = height / image.height
    small = image.resize((max(1, round(image.width * share)), height), Image.Resampling.LANCZOS)
    box = (window.left, window.top, window.left + window.width, window.top + window.height)
    left, top, right, bottom = (round(edge * share) for edge in box)
    ImageDraw.Draw(small).rectangle((left, top, right - 1, bottom - 1), outline=_FRAME, width=3)
    return small


def _captioned(image: Image.Image, label: str, value: str, style: Style) -> Image.Image:
    """An image with a line below it: what it is, and its figure."""
    font = ImageFont.load_default(size=style.text)
    room = round(style.text * 1.7)
    cell = Image.new("RGB", (image.width, image.height + room * (2 if value else 1)), _PAPER)
    cell.paste(image, (0, 0))
    draw = ImageDraw.Draw(cell)
    for number, (text, ink) in enumerate(((label, _INK), (value, _SOFT))):
        draw.text(
            (image.width / 2, image.height + room * (number + 0.55)),
            _shortened(draw, text, font, image.width),
            ink,
            font,
            anchor="mm",
        )
    return cell


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """Text that fits into a width; what is cut ends with three dots."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..." if text else ""
