"""Use a result in three lines: open a student, whatever it was written as, and enlarge images.

::

    model = dukd.load("student.safetensors")
    large = model(PIL.Image.open("photo.jpg"))
    large.save("photo_x4.png")
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from dukd import images
from dukd.core.files import is_package
from dukd.core.given import refuse
from dukd.deploy.image import upscale_image
from dukd.deploy.ncnn import Ncnn, says
from dukd.deploy.runtime import runtime_of
from dukd.deploy.weights import Weights
from dukd.evaluation.candidates import weights_of
from dukd.images import Image
from dukd.networks import Network
from dukd.networks.files import weights
from dukd.networks.tiles import enlarge
from dukd.networks.upscaler import OnDevice, Upscaler

Given = str | Path | PillowImage.Image | NDArray[Any] | Tensor
"""What a model takes: the path of a file, a Pillow image, an array or a tensor."""


class Model:
    """A student, or anything else that enlarges images, ready to be used.

    It is an `Upscaler` too, so `dukd.upscale` and `dukd.evaluate` take it.
    """

    def __init__(
        self, upscaler: Upscaler, *, name: str | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Wrap an upscaler.

        Args:
            upscaler: A network, or a session of another runtime.
            name: What messages call it, if not by its own name.
            device: Where a network runs; sessions have their own.
        """
        self.upscaler, self.device = upscaler, torch.device(device)
        self.name = name or upscaler.name

    def __repr__(self) -> str:
        """What a notebook shows: name, scale, and the size of a network."""
        size = self.upscaler.deployed_parameter_count() if isinstance(self.upscaler, Network) else 0
        return f"Model({self.name!r}, x{self.scale}{f', {size:,} parameters' if size else ''})"

    @property
    def scale(self) -> int:
        """Upscaling factor."""
        return self.upscaler.scale

    @property
    def radius(self) -> int | None:
        """Pixels of lr around a pixel that can change its output; None if the whole image can."""
        return self.upscaler.radius

    @property
    def size_multiple(self) -> int:
        """Tiles begin at multiples of this many pixels."""
        return self.upscaler.size_multiple

    @property
    def network(self) -> Network:
        """The network, to train or export.

        Raises:
            ValueError: If the model is a session of another runtime.
        """
        if isinstance(self.upscaler, Network):
            return self.upscaler
        raise ValueError(f"{self.name} has no weights to train or export: open a file of weights")

    @overload
    def __call__(self, image: Tensor) -> Tensor: ...
    @overload
    def __call__(self, image: NDArray[Any]) -> NDArray[Any]: ...
    @overload
    def __call__(self, image: str | Path | PillowImage.Image) -> PillowImage.Image: ...

    def __call__(self, image: Given) -> Tensor | NDArray[Any] | PillowImage.Image:
        """Enlarge an image; large ones are cut into tiles that give the output of the whole.

        Args:
            image: A Pillow image; an array ``(h, w)`` or ``(h, w, 1, 3 or 4)`` of 8 or 16 bits, or
                of floats in [0, 1]; a tensor ``(3, h, w)`` or ``(n, 3, h, w)`` of bytes, or of
                floats in [0, 1], which are not clamped; or the path of a file.

        Returns:
            The same kind of thing, in the same type; for a path a Pillow image.

        Raises:
            ValueError: If it is nothing of these; the message says what to change.
        """
        upscaler = self.upscaler
        if isinstance(upscaler, Network):
            upscaler = OnDevice(upscaler, self.device)
        match image:
            case Tensor():
                return _tensor(upscaler, image)
            case np.ndarray():
                return _array(upscaler, image)
            case PillowImage.Image():
                return _to_pillow(upscale_image(upscaler, _from_pillow(image))[0], image)
            case str() | Path():
                return _to_pillow(upscale_image(upscaler, images.read(Path(image)))[0], None)
            case _:
                raise ValueError(
                    "a model takes a Pillow image, an array (h, w, 3), a tensor (n, 3, h, w) or "
                    f"the path of a file, but got {type(image).__name__}"
                )


def _tensor(upscaler: Upscaler, x: Tensor) -> Tensor:
    if x.ndim not in (3, 4) or x.shape[-3] != 3 or 0 in x.shape:
        raise ValueError(f"a tensor is (3, h, w) or (n, 3, h, w) in RGB, but got {tuple(x.shape)}")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"a tensor holds bytes, or floats in [0, 1], but got {x.dtype}")
    lr = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    _refuse_levels(float(lr.max()))
    sr = enlarge(upscaler, (lr if x.ndim == 4 else lr[None]).cpu()).to(x.device)
    if x.dtype == torch.uint8:
        sr = (sr.clamp(0, 1) * 255).round()
    return (sr if x.ndim == 4 else sr[0]).to(x.dtype)


def _array(upscaler: Upscaler, x: NDArray[Any]) -> NDArray[Any]:
    planes = x[..., None] if x.ndim == 2 else x
    if planes.ndim != 3 or planes.shape[2] not in (1, 3, 4) or not planes.size:
        raise ValueError(
            f"an array is (h, w), or (h, w, channels) with 1, 3 or 4 channels, but got {x.shape}"
        )
    if x.dtype.name in {"uint8", "uint16"}:
        levels = np.ascontiguousarray(planes)
    elif np.issubdtype(x.dtype, np.floating):
        _refuse_levels(float(planes.max()))
        levels = (planes.astype(np.float64).clip(0, 1) * 65535).round().astype(np.uint16)
    else:
        raise ValueError(f"an array holds uint8, uint16, or floats in [0, 1], but got {x.dtype}")
    alpha = levels[..., 3] if planes.shape[2] == 4 else None
    large, _ = upscale_image(upscaler, Image(pixels=levels[..., :3], alpha=alpha))
    sr = large.pixels if large.alpha is None else np.dstack([large.pixels, large.alpha])
    sr = sr if x.ndim == 3 else sr[..., 0]
    return sr if x.dtype == sr.dtype else (sr / 65535).astype(x.dtype)


def _refuse_levels(largest: float) -> None:
    if not largest <= 2:  # outputs of networks may exceed 1 a little
        raise ValueError(
            f"floats lie in [0, 1], but the largest is {largest:g}: divide by 255, or give bytes"
        )


def _from_pillow(image: PillowImage.Image) -> Image:
    if image.mode.startswith("I;16"):
        return Image(pixels=np.asarray(image).astype(np.uint16)[..., None], mode=image.mode)
    transparent = image.has_transparency_data
    if image.mode in {"1", "L", "LA"}:
        target = "LA" if transparent else "L"
    elif image.mode in {"P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}:
        target = "RGBA" if transparent else "RGB"
    else:
        raise ValueError(
            f"an image of Pillow's mode {image.mode} has no certain meaning as RGB: "
            "convert('RGB') says which"
        )
    levels = np.atleast_3d(np.asarray(image if image.mode == target else image.convert(target)))
    if not transparent:
        return Image(pixels=levels, mode=image.mode)
    return Image(pixels=levels[..., :-1], alpha=levels[..., -1], mode=image.mode)


def _to_pillow(result: Image, original: PillowImage.Image | None) -> PillowImage.Image:
    planes = result.pixels if result.alpha is None else np.dstack([result.pixels, result.alpha])
    if result.bits == 16 and planes.shape[2] != 1:
        planes = ((planes.astype(np.uint32) + 128) // 257).astype(np.uint8)  # Pillow has no more
    made = PillowImage.fromarray(
        np.ascontiguousarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    )
    icc = result.icc if original is None else original.info.get("icc_profile")
    if icc:
        made.info["icc_profile"] = icc
    return made


def load(
    path: Path | str,
    *,
    best: bool = False,
    device: torch.device | str = "cpu",
    as_it_stands: bool = False,
    report: Callable[[str], None] = lambda _note: None,
) -> Model:
    """Open a student: a file of weights, a run directory, or an export such as an ONNX graph.

    Args:
        path: The file or directory, or the name of a student that comes with dukd, such as ``x2``.
        best: Whether of a run the student of the best validation is wanted.
        device: Where a network runs.
        as_it_stands: Whether ncnn's files are run by ncnn even where dukd knows the network.
        report: Called with a sentence for everything that had to be assumed of a file of weights.

    Raises:
        ValueError: If it cannot be opened, or does not hold a network.

    Example:
        ``dukd.load("runs/edsr-x4-dukd", best=True)("photo.jpg").save("large.png")``
    """
    given = cast("object", path)
    if not isinstance(given, str | Path):
        refuse("what is loaded", "a path (dukd.Model(network) takes a network)", given)
    file = weights_of(Path(path), best=best)
    session = opened(file, as_it_stands=as_it_stands)
    if session is not None:
        return Model(session, name=file.name)
    network = weights.read(file, report=report).frozen()
    return Model(network, name=file.name, device=device)


def opened(path: Path, *, as_it_stands: bool = False) -> Upscaler | None:
    """Open an export that a runtime runs; None for what holds weights.

    ncnn's files may be either. Those that dukd exported are run as they stand; of others the
    weights are read, where dukd knows the network and nobody wants them ``as_it_stands``.

    Raises:
        ValueError: If it cannot be opened, or a package is missing.
    """
    runtime = runtime_of(path, otherwise=Weights())  # what weights are called varies most
    if isinstance(runtime, Weights):
        return None
    may_be_weights = isinstance(runtime, Ncnn) and not as_it_stands
    if may_be_weights and path.is_file() and not says(path):
        try:
            weights.inspect(path)
        except ValueError:
            return runtime.load(path)
        return None
    if not path.is_file() and not is_package(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return runtime.load(path)
