"""A GPU that is none: tensors that say they lie on ``cuda``, compute on the processor, and tell on
whoever waits.

It finds what a machine without a GPU otherwise hides: operands that lie in different places, and
everything that makes the host wait for the device, such as ``.item()`` or a copy that blocks.
Values are those of the processor's own kernels, so a run on it ends with the weights of a run
without it. It says nothing about speed, kernels, or autocast, which it leaves out.
"""

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from typing_extensions import override

GPU = torch.device("cuda", 0)
_ops = torch.ops.aten
_READS = {
    _ops._local_scalar_dense.default,
    _ops.equal.default,
    _ops.is_nonzero.default,
    _ops.masked_select.default,
    _ops.nonzero.default,
    _ops._unique2.default,
    _ops.repeat_interleave.Tensor,
}
"""Operations whose result the host needs, or whose size does."""


class OnGPU(Tensor):
    """A tensor of the device; for torch's inside it lies on ``meta``, which needs no driver."""

    inner: Tensor
    # hides the attribute on purpose
    device = property(lambda _: GPU)  # pyright: ignore[reportAssignmentType]
    is_cuda = property(lambda _: True)  # pyright: ignore[reportAssignmentType]
    is_meta = property(lambda _: False)  # pyright: ignore[reportAssignmentType]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
        )
        made.inner = inner
        return made

    def __tensor_flatten__(
        self,
    ) -> tuple[list[str], None]:  # so that modules exchange whole tensors
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, Tensor], _context: None, _size: object, _stride: object
    ) -> "OnGPU":
        return OnGPU(inner["inner"])

    @override
    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnGPU({self.inner!r})"

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None)
        if "device" in {a.name for a in func._schema.arguments}:
            kwargs["device"] = torch.device("cpu")
        there = device is None or torch.device(device).type != "cpu"
        _judge(func, args, kwargs, there=there)
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if not there:
            return out.clone()
        if func is _ops.copy_.default and not isinstance(args[0], OnGPU):
            return args[0]
        out = tree_map(lambda x: OnGPU(x) if isinstance(x, Tensor) else x, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


def _inner(x: object) -> object:
    return x.inner if isinstance(x, OnGPU) else x


def _judge(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, there: bool) -> None:
    """Refuse operands from two places, and note what the host has to wait for."""
    elsewhere = [
        x
        for x in tree_flatten((args, kwargs))[0]
        if isinstance(x, Tensor) and not isinstance(x, OnGPU) and x.ndim
    ]
    if func is _ops.avg_pool2d_backward.default and any(args[4]) and not args[1].is_contiguous():
        raise AssertionError(
            "CUDA's gradient of avg_pool2d with padding is wrong where channels lie together, in "
            "torch up to 2.12 at least (pytorch/pytorch#188344): pool what is contiguous"
        )
    if func is _ops.copy_.default:
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if blocking and (elsewhere or not all(isinstance(x, OnGPU) for x in args[:2])):
            GPUStandIn.wait("copy_")
        return
    if elsewhere:
        raise RuntimeError(
            f"{func}: expected all tensors on the GPU, but {tuple(elsewhere[0].shape)} is on the "
            "CPU"
        )
    chosen = func is _ops.index.Tensor and any(
        i is not None and i.dtype == torch.bool for i in args[1]
    )
    if func in _READS or chosen or not there:
        GPUStandIn.wait(str(func))


class _Made(TorchDispatchMode):
    """What torch's own formulas make on the device, such as a zero of a gradient, lies there as
    well."""

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        asked_for = GPUStandIn._now is not None and GPUStandIn._now.meta
        inside = any(isinstance(x, OnGPU) for x in tree_flatten(args)[0])
        if device is None or device.type != "meta" or asked_for or inside:
            return func(*args, **kwargs)
        return OnGPU(func(*args, **kwargs | {"device": torch.device("cpu")}))


class GPUStandIn(TorchFunctionMode):
    """Makes ``cuda`` mean `OnGPU`; see `gpu_stand_in`."""

    _now: "GPUStandIn | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """Where the host waited for the device: the operation, and the lines that led there."""
        self.meta = False
        """Whether somebody really asks for ``meta``."""

    @classmethod
    def wait(cls, what: str) -> None:
        """Note that the host waits."""
        if cls._now is None:
            return
        frame, lines = sys._getframe(1), []
        while frame is not None:
            name = frame.f_code.co_filename
            if "/dukd/" in name:
                lines.append(f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno}")
            frame = frame.f_back
        cls._now.waits.append(f"{what} from {' < '.join(lines)}")

    @override
    def __enter__(self) -> Self:
        GPUStandIn._now = self
        return super().__enter__()

    @override
    def __exit__(self, *error: object) -> None:
        GPUStandIn._now = None
        super().__exit__(*error)

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            return self._to(args[0], *torch._C._nn._parse_to(*args[1:], **_plain(kwargs)))
        if func in {Tensor.cuda, Tensor.cpu}:
            return self._to(
                args[0], GPU if func is Tensor.cuda else torch.device("cpu"), None, False, None
            )
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.numpy and isinstance(args[0], OnGPU):
            raise TypeError("can't convert a tensor on the GPU to numpy: use .cpu() first")
        kwargs.pop("pin_memory", None)
        match None if kwargs.get("device") is None else torch.device(kwargs["device"]).type:
            case "cuda":
                if func is torch.tensor:
                    self.wait("torch.tensor")
                return _on_gpu(func(*args, **kwargs | {"device": "cpu"}))
            case "meta":
                self.meta = True
                try:
                    return func(*args, **kwargs)
                finally:
                    self.meta = False
            case _:
                return func(*args, **kwargs)

    def _to(
        self, x: Tensor, device: torch.device | None, dtype: Any, non_blocking: bool, layout: Any
    ) -> Tensor:
        options = {} if layout is None else {"memory_format": layout}
        if device is None or isinstance(x, OnGPU) == (device.type != "cpu"):
            return x.to(dtype=dtype or x.dtype, **options)
        if device.type == "cpu":
            return _ops._to_copy.default(x, device=device, dtype=dtype, **options)
        if not non_blocking:
            self.wait("to")
        moved = _on_gpu(x.detach().clone().to(dtype=dtype or x.dtype, **options))
        return moved.requires_grad_(x.requires_grad)


def _on_gpu(x: Tensor) -> Tensor:
    return x if isinstance(x, OnGPU) else OnGPU(x)


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "copy"}


def _set_device(device: torch.device) -> None:
    if device == torch.device("cuda"):
        raise ValueError(
            f"Expected a torch.device with a specified index or an integer, but got: {device}"
        )


class Event:
    """Of `torch.cuda`: what it stands for has always happened."""

    def __init__(self, *, blocking: bool = False) -> None: ...

    def record(self) -> None:
        """Nothing runs ahead here."""

    def synchronize(self) -> None:
        """Nothing is left to wait for."""


@contextmanager
def gpu_stand_in(
    monkeypatch: pytest.MonkeyPatch, *, free: int = 10**9
) -> Generator[GPUStandIn, None, None]:
    """Let ``torch.device("cuda")`` be a stand-in with so many bytes free."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device=None: (free, 10**9))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device=None: 1 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device=None: "stand-in")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: GPU.index)
    monkeypatch.setattr(torch.cuda, "set_device", _set_device)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device=None: None)
    monkeypatch.setattr(
        Tensor, "pin_memory", lambda x: x
    )  # for threads, which the mode does not reach
    with GPUStandIn() as mode, _Made():
        yield mode
