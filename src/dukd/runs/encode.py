"""Images inside a page, without loss, and within a budget of bytes."""

import base64
import io

from PIL import Image, features

from dukd.evaluation.output import Pixels
from dukd.runs.scenes import Scene
from dukd.runs.windows import Window, around

_SMALLEST = 96
"""Rows and columns below which a scene is not cut further."""


def encoded(pixels: Pixels) -> bytes:
    """An image as lossless WebP; as PNG where Pillow was built without."""
    content = io.BytesIO()
    image = Image.fromarray(pixels)
    if features.check("webp"):
        image.save(content, "WEBP", lossless=True, quality=70, method=4)
    else:
        image.save(content, "PNG", optimize=True)
    return content.getvalue()


def uri(content: bytes) -> str:
    """An image's bytes as the source of an ``<img>``."""
    kind = "png" if content.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def fitted(scene: Scene, window: Window, budget: int) -> tuple[Scene, list[bytes], Window]:
    """A scene's layers as bytes, cut around a window if they would take too many.

    Args:
        scene: What is to be shown.
        window: The part that has to stay.
        budget: Most bytes of all layers together; a part of 96 pixels is kept in any case.

    Returns:
        The scene or its part, the bytes of each layer, and where the part lies in the scene.
    """
    part = Window(0, 0, scene.height, scene.width)
    shown, contents = scene, [encoded(layer.pixels) for layer in scene.layers]
    while (total := sum(map(len, contents))) > budget and max(part.height, part.width) > _SMALLEST:
        longest = max(part.height, part.width)
        guess = int((part.height * part.width * budget / total) ** 0.5 * 0.95)
        size = max(_SMALLEST, min(guess, longest - 1) // 16 * 16)
        part = around(window, size, scene.height, scene.width)
        shown = scene.cropped(part)
        contents = [encoded(layer.pixels) for layer in shown.layers]
    return shown, contents, part
