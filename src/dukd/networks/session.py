"""A graph in onnxruntime, as an upscaler: what dukd exported, or anybody's that enlarges images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dukd.networks.rectified import branchless
from dukd.networks.upscaler import UpscalerError

OPTIONS = {"session.x64quantprecision": "1"}
"""Options of onnxruntime for exact sums: without it, products of uint8 and int8 overflow 16 bits on
processors that lack VNNI."""
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
"""What graphs take, by onnxruntime's names: floats in [0, 1], or levels of 0 to 255."""
_PROBE = 32  # pixels on a side of the image that shows an unknown graph's scale


def library() -> Any:  # noqa: ANN401  an optional package, which has no types
    """The module onnxruntime.

    Raises:
        UpscalerError: If it is missing.
    """
    try:
        import onnxruntime  # noqa: PLC0415  an optional package
    except ImportError as error:
        raise UpscalerError(f"ONNX needs {error.name}: pip install 'dukd[onnx]'") from None
    return onnxruntime


class Session:
    """A graph in onnxruntime; ours, or anybody's that maps ``(n, 3, h, w)`` in [0, 1] to RGB."""

    def __init__(self, path: Path) -> None:
        """Open a graph.

        Raises:
            UpscalerError: If it is not a graph that enlarges images, or onnxruntime is missing.
        """
        runtime = library()
        options: Any = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what is wrong is raised too
        for name, value in OPTIONS.items():
            options.add_session_config_entry(name, value)
        self.path = Path(path)
        try:
            self._session: Any = runtime.InferenceSession(
                branchless(self.path.read_bytes()), options, providers=["CPUExecutionProvider"]
            )
        except OSError:
            raise
        except Exception as error:  # onnxruntime's errors share no class with ours
            raise UpscalerError(
                f"{path} is damaged, or not an ONNX file ({type(error).__name__})"
            ) from error
        self._input = self._checked_input()
        facts: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.name = facts.get("network", self.path.stem)
        if {"scale", "radius", "dukd"} <= facts.keys():
            self.scale = int(facts["scale"])
            self.radius = None if facts["radius"] == "none" else int(facts["radius"])
            self.size_multiple = int(facts.get("size_multiple", "1"))
        else:
            self.scale, self.radius, self.size_multiple = self._probed(), None, 1

    def __call__(self, lr: Tensor) -> Tensor:
        """Enlarge ``(n, 3, h, w)``.

        Raises:
            UpscalerError: If the graph takes another size only.
        """
        kind = _TYPES[self._input.type]
        given = (255 * lr).clamp(0, 255).round() if kind is np.uint8 else lr
        try:
            (sr, *_) = self._session.run(None, {self._input.name: given.cpu().numpy().astype(kind)})
        except Exception as error:
            if "invalid dimensions" in str(error).lower():
                raise UpscalerError(
                    f"{self.path} takes images of {self._input.shape} only, but got "
                    f"{tuple(lr.shape)}: export it without --size"
                ) from None
            raise
        made = torch.from_numpy(sr).float()
        return made / 255 if sr.dtype == np.uint8 else made

    def __reduce__(self) -> tuple[type["Session"], tuple[Path]]:
        """A worker process opens the file again."""
        return Session, (self.path.resolve(),)

    def _checked_input(self) -> Any:  # noqa: ANN401  of onnxruntime
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        taken = inputs[0]
        if (
            len(inputs) != 1
            or not outputs
            or len(taken.shape) != 4
            or (isinstance(taken.shape[1], int) and taken.shape[1] != 3)
            or taken.type not in _TYPES
        ):
            shapes = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise UpscalerError(
                f"{self.path} takes {shapes}, but a graph that enlarges takes (n, 3, h, w) floats"
            )
        return taken

    def _probed(self) -> int:
        h, w = (n if isinstance(n, int) else _PROBE for n in self._input.shape[2:])
        self.scale = 1
        shape = self(torch.zeros(1, 3, h, w)).shape
        scale = shape[-1] // w
        if len(shape) != 4 or shape[1] != 3 or scale < 1 or shape[2:] != (h * scale, w * scale):
            raise UpscalerError(
                f"{self.path} makes {tuple(shape)} of (1, 3, {h}, {w}), which is not an enlargement"
            )
        return scale
