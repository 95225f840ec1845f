"""Programs of Core ML, computed by torch: Core ML itself runs on macOS alone.

Only what networks here become is known, by Apple's definitions of the operations (coremltools,
``converters/mil/mil/ops/defs``). A program of others is refused, not guessed.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from dukd.deploy.mlpackage import Operation, Package, Value
from dukd.networks.upscaler import UpscalerError

_TYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}
_GELU = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}


class _Arguments:
    """What one operation takes."""

    def __init__(self, operation: Operation, values: Mapping[str, Value]) -> None:
        self.given = {key: [values[n] for n in ns] for key, ns in operation.inputs.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def tensors(self, name: str) -> list[Tensor]:
        return [value for value in self.given[name] if isinstance(value, Tensor)]

    def tensor(self, name: str) -> Tensor:
        (value,) = self.tensors(name)
        return value

    def text(self, name: str, otherwise: str) -> str:
        (value,) = self.given.get(name, (otherwise,))
        assert isinstance(value, str)
        return value

    def number(self, name: str, otherwise: float = 0) -> float:
        return self.tensor(name).item() if name in self else otherwise

    def integer(self, name: str, otherwise: int = 0) -> int:
        return int(self.number(name, otherwise))

    def integers(self, name: str, otherwise: Sequence[int] = ()) -> list[int]:
        return self.tensor(name).flatten().tolist() if name in self else list(otherwise)


def _conv(a: _Arguments) -> Tensor:
    x, weight = a.tensor("x"), a.tensor("weight")
    x = _padded(x, a, weight.shape[2:], 0.0)
    bias = a.tensor("bias") if "bias" in a else None
    return F.conv2d(
        x,
        weight,
        bias,
        a.integers("strides", (1, 1)),
        0,
        a.integers("dilations", (1, 1)),
        a.integer("groups", 1),
    )


def _max_pool(a: _Arguments) -> Tensor:
    kernel = a.integers("kernel_sizes")
    x = _padded(a.tensor("x"), a, kernel, float("-inf"))
    ceil = bool(a.integer("ceil_mode"))
    return F.max_pool2d(x, kernel, a.integers("strides", (1, 1)), ceil_mode=ceil)


def _padded(x: Tensor, a: _Arguments, kernel: Sequence[int], value: float) -> Tensor:
    """Pad as ``pad_type`` says."""
    kind = a.text("pad_type", "valid")
    if kind == "valid":
        return x
    if kind == "custom":
        top, bottom, left, right = a.integers("pad", (0, 0, 0, 0))
        return F.pad(x, (left, right, top, bottom), value=value)
    strides, dilations = a.integers("strides", (1, 1)), a.integers("dilations", (1, 1))
    if kind != "same" or set(strides) != {1}:
        raise UpscalerError(f"padding {kind} with strides {strides} is not known here")
    total = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in total)
    return F.pad(x, (left, right, top, bottom), value=value)


def _prelu(a: _Arguments) -> Tensor:
    return F.prelu(a.tensor("x"), a.tensor("alpha"))


def _nearest(a: _Arguments) -> Tensor:
    x = a.tensor("x")
    factors = [a.number(f"scale_factor_{side}", 1) for side in ("height", "width")]
    if all(factor == int(factor) for factor in factors):
        down, right = (int(factor) for factor in factors)
        return x.repeat_interleave(down, 2).repeat_interleave(right, 3)
    size = [int(side * factor) for side, factor in zip(x.shape[2:], factors, strict=True)]
    return F.interpolate(x, size=size, mode="nearest")


def _split(a: _Arguments) -> list[Tensor]:
    x, axis = a.tensor("x"), a.integer("axis")
    if "split_sizes" in a:
        return list(x.split(a.integers("split_sizes"), axis))
    return list(x.chunk(a.integer("num_splits"), axis))


def _gather(a: _Arguments) -> Tensor:
    x, indices = a.tensor("x"), a.tensor("indices").long()
    axis = a.integer("axis") % x.ndim
    taken = x.index_select(axis, indices.flatten())
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _layer_norm(a: _Arguments) -> Tensor:
    x, axes = a.tensor("x"), a.integers("axes")
    sizes = [x.shape[axis] for axis in axes]
    if sorted(axis % x.ndim for axis in axes) != list(range(x.ndim - len(axes), x.ndim)):
        raise UpscalerError(f"a norm over the axes {axes} of {x.ndim} is not known here")
    gamma, beta = (a.tensor(n) if n in a else None for n in ("gamma", "beta"))
    return F.layer_norm(x, sizes, gamma, beta, a.number("epsilon", 1e-5))


def _matmul(a: _Arguments) -> Tensor:
    x, y = (a.tensor(n).mT if a.integer(f"transpose_{n}") else a.tensor(n) for n in ("x", "y"))
    return x @ y


def _linear(a: _Arguments) -> Tensor:
    return F.linear(a.tensor("x"), a.tensor("weight"), a.tensor("bias") if "bias" in a else None)


def _gelu(a: _Arguments) -> Tensor:
    return F.gelu(a.tensor("x"), approximate=_GELU[a.text("mode", "EXACT")])


def _squeeze(a: _Arguments) -> Tensor:
    return a.tensor("x").squeeze(tuple(a.integers("axes")))


def _mean(a: _Arguments) -> Tensor:
    return a.tensor("x").mean(a.integers("axes"), keepdim=bool(a.integer("keep_dims")))


def _norm(a: _Arguments) -> Tensor:
    x = a.tensor("x")
    return torch.linalg.vector_norm(x, dim=a.integers("axes"), keepdim=bool(a.integer("keep_dims")))


_OPERATIONS: Mapping[str, Callable[[_Arguments], Tensor | list[Tensor]]] = {
    "add": lambda a: a.tensor("x") + a.tensor("y"),
    "cast": lambda a: a.tensor("x").to(_TYPES[a.text("dtype", "")]),
    "clip": lambda a: a.tensor("x").clamp(a.number("alpha"), a.number("beta")),
    "concat": lambda a: torch.cat(a.tensors("values"), a.integer("axis")),
    "conv": _conv,
    "gather": _gather,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "leaky_relu": lambda a: F.leaky_relu(a.tensor("x"), a.number("alpha")),
    "linear": _linear,
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": lambda a: torch.maximum(a.tensor("x"), a.tensor("y")),
    "mul": lambda a: a.tensor("x") * a.tensor("y"),
    "pixel_shuffle": lambda a: F.pixel_shuffle(a.tensor("x"), a.integer("upscale_factor")),
    "prelu": _prelu,
    "real_div": lambda a: a.tensor("x") / a.tensor("y"),
    "reduce_l2_norm": _norm,
    "reduce_mean": _mean,
    "relu": lambda a: a.tensor("x").relu(),
    "reshape": lambda a: a.tensor("x").reshape(a.integers("shape")),
    "round": lambda a: a.tensor("x").round(),
    "sigmoid": lambda a: a.tensor("x").sigmoid(),
    "silu": lambda a: F.silu(a.tensor("x")),
    "softmax": lambda a: a.tensor("x").softmax(a.integer("axis", -1)),
    "split": _split,
    "square": lambda a: a.tensor("x").square(),
    "squeeze": _squeeze,
    "sub": lambda a: a.tensor("x") - a.tensor("y"),
    "tile": lambda a: a.tensor("x").repeat(a.integers("reps")),
    "transpose": lambda a: a.tensor("x").permute(a.integers("perm")),
    "upsample_nearest_neighbor": _nearest,
}


def compute(package: Package, x: Tensor) -> Tensor:
    """Run a program.

    Args:
        package: What was read.
        x: What goes in, ``(1, 3, h, w)`` in float32.

    Raises:
        UpscalerError: If an operation is not known here.
    """
    values: dict[str, Value] = {**package.constants, package.input: x}
    for operation in package.operations:
        if operation.kind not in _OPERATIONS:
            raise UpscalerError(f"the operation {operation.kind} of Core ML is not known here")
        made = _OPERATIONS[operation.kind](_Arguments(operation, values))
        results = made if isinstance(made, list) else [made]
        values |= dict(zip(operation.outputs, results, strict=True))
    output = values[package.output]
    assert isinstance(output, Tensor)
    return output
