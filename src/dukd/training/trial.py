"""Try a teacher before hours are spent on it: against bicubic, and read otherwise."""

import warnings
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dukd.data.pairs import Pair, load
from dukd.evaluation.metrics import Metric, find, psnr_y
from dukd.evaluation.metrics import measure as measured
from dukd.evaluation.niqe import niqe
from dukd.evaluation.output import Pixels, output
from dukd.evaluation.sets import some
from dukd.images.convert import to_tensor
from dukd.images.degrade import Bicubic
from dukd.images.resize import downscale, imresize_uint8
from dukd.networks.base import Network
from dukd.networks.files import guess
from dukd.training.validation import Validation

Loaded = Sequence[tuple[Pixels, Pixels]]
"""Images: lr and hr."""


def try_teacher(teacher: Network, validation: Validation, count: int, measure: str = "auto") -> str:
    """Compare a teacher with bicubic, and with itself read otherwise, on images of the first set.

    A file does not say everything about a network: the range of its values, the mean it subtracts,
    the order of its colors. Each that could be otherwise is tried on small crops. Nor does it say
    what the network is for: one that invents detail, such as a GAN, is worse than bicubic by PSNR.
    It is judged by NIQE where its outputs reduce to their inputs, which no network that was read
    wrongly does.

    Args:
        teacher: The teacher, at the student's scale.
        validation: The sets.
        count: How many images.
        measure: Name of a metric by which it has to beat bicubic; ``auto`` for PSNR of the luma,
            or NIQE as above.

    Returns:
        A sentence with both figures, and what would be better, if anything is.

    Raises:
        ValueError: If the teacher is not better than bicubic; the message says what is likely
            wrong.
    """
    name = validation.first
    pairs = [_clean(pair) for pair in some(validation.sets[name], count)]
    loaded = [load(pair) for pair in pairs]
    where = f"on {len(pairs)} images of {name}"
    outputs = [_output(teacher, lr, validation) for lr, _ in loaded]
    if measure not in {"auto", "psnr_y"}:
        return _beats_by(find((measure,))[measure], outputs, loaded, where)
    truths = [to_tensor(hr) for _, hr in loaded]
    enlarged = [to_tensor(imresize_uint8(lr, validation.scale)) for lr, _ in loaded]
    ours, bicubic = (_psnr(some, truths, validation.scale) for some in (outputs, enlarged))
    figures = f"{ours:.2f} dB against {bicubic:.2f} dB {where}"
    beaten = ours > bicubic
    best, gain, advice = _advice(teacher, loaded, validation, beaten=beaten)
    if beaten:
        return f"the teacher beats bicubic: {figures}{f'; but {advice}' if advice else ''}"
    if measure == "auto" and gain < _NEAR:
        natural = _more_natural(outputs, enlarged, loaded, validation.scale)
        if natural:
            return (
                f"the teacher does not beat bicubic by PSNR-Y, with {figures}, but {natural}: "
                "it is taken for one that invents detail, as GANs do. --evaluation.teacher-measure "
                "psnr_y judges it by PSNR-Y alone; --evaluation.best agreement keeps the student "
                f"that is nearest to it{f'. Where colors look wrong: {advice}' if advice else ''}"
            )
    cause = (
        f"Likely it was read wrongly: {advice}."
        if advice and best > bicubic - _NEAR
        else _UNTRAINED
    )
    raise ValueError(f"the teacher does not beat bicubic: {figures}. {cause}")


def _clean(pair: Pair) -> Pair:
    """A pair as files or bicubic interpolation have it: noise would hide how a file was misread."""
    return replace(pair, degradation=Bicubic()) if pair.scale > 1 else pair


def _advice(
    teacher: Network, loaded: Loaded, validation: Validation, *, beaten: bool
) -> tuple[float, float, str]:
    """The PSNR of the best other reading, by how much it is better, and what, if clearly so."""
    crops = [_crop(lr, hr, validation.scale) for lr, hr in loaded[:_TRIALS]]
    as_read = _mean_psnr(teacher, crops, validation)
    others = _read_otherwise(teacher, changes=1 if beaten else len(guess.HABITS) + 1)
    measured = [
        (_mean_psnr(other, crops, validation), count, what) for count, what, other in others
    ]
    # Of readings that are nearly as good, the one with the fewest changes: blue for red costs some
    # files little.
    best, _, what = max(measured, key=lambda m: m[0] - m[1] * _PER_CHANGE)
    if best <= as_read + _CLEARLY_BETTER:
        return best, best - as_read, ""
    return (
        best,
        best - as_read,
        (f"on crops it has {best:.2f} dB with {what}, but {as_read:.2f} dB as it was read"),
    )


def _beats_by(metric: Metric, outputs: Sequence[Tensor], loaded: Loaded, where: str) -> str:
    """Compare by a metric that was named."""
    if metric.reference == "teacher":
        raise ValueError(
            f"evaluation.teacher_measure is {metric.name}, which compares with the teacher itself: "
            "take psnr_y, niqe, or another that needs no teacher"
        )
    scale = outputs[0].shape[-1] // loaded[0][0].shape[1]
    values: list[float] = []
    for made in (outputs, [to_tensor(imresize_uint8(lr, scale)) for lr, _ in loaded]):
        pairs = zip(made, loaded, strict=True)
        found = [measured((metric,), x, truth=to_tensor(hr), border=scale) for x, (_, hr) in pairs]
        values.append(float(np.mean([v[metric.name] for v in found])))
    ours, bicubic = values
    figures = f"{ours:.3f} against {bicubic:.3f} {where}"
    if ours > bicubic if metric.better == "higher" else ours < bicubic:
        return f"the teacher beats bicubic by {metric.title}: {figures}"
    raise ValueError(
        f"the teacher does not beat bicubic by {metric.title}: {figures}. Judge it by another "
        "metric (--evaluation.teacher-measure), or train with it all the same "
        "(--evaluation.teacher-images 0)"
    )


def _more_natural(
    outputs: Sequence[Tensor], enlarged: Sequence[Tensor], loaded: Loaded, scale: int
) -> str:
    """That outputs look more natural than bicubic's and reduce to their inputs; empty if not."""
    returned = [
        psnr_y(downscale(sr.clamp(0, 1), scale), to_tensor(lr), border=1).item()
        for sr, (lr, _) in zip(outputs, loaded, strict=True)
    ]
    large = [i for i, sr in enumerate(outputs) if min(sr.shape[-2:]) >= _JUDGED]
    if min(returned) < _RETURNS or not large:
        return ""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of images without any detail
        ours, bicubic = (
            float(np.mean([niqe(some[i], border=0).item() for i in large]))
            for some in (outputs, enlarged)
        )
    if not ours < bicubic - _MORE_NATURAL:
        return ""
    return (
        f"by NIQE, with {ours:.2f} against {bicubic:.2f}, and its outputs reduce to their inputs "
        f"({np.mean(returned):.1f} dB)"
    )


_RETURNS = 22.0
"""dB between a reduced output and its input from which a network was read rightly. Measured on a
photograph of RealSR and on Set5's butterfly: Real-ESRGAN x4plus 30.7 and 27.8, general-x4v3 28.2
and 23.4; the latter with a range of 255 for 1 at most 21.0."""
_MORE_NATURAL = 0.5
"""NIQE by which outputs have to be better than bicubic's: x4plus is so by 4 on RealSR."""
_JUDGED = 288
"""Rows and columns that NIQE needs to say something, three of its blocks: on Set5's butterfly, of
256, it likes bicubic best."""
_TRIALS = 2
"""Images on which a teacher is read otherwise."""
_TRIAL_SIZE = 64
"""Rows and columns of lr of such an image."""
_CLEARLY_BETTER = 0.5
"""dB by which another reading has to be better to be spoken of. The right one is better by several;
on crops of two images EDSR 64 x 5 once read 0.3 dB better with blue and red exchanged, but 0.05 dB
worse on all of Set5."""
_PER_CHANGE = 0.3
"""dB that a reading has to be better for each further thing that is read otherwise."""
_NEAR = 3.0
"""dB below bicubic from which a teacher read otherwise may still be the right one: crops differ
from images. And dB by which another reading of a GAN, whose PSNR says little, has to be better: on
two crops RealESRGAN_x4plus once had 1.3 dB more with blue and red exchanged."""
_UNTRAINED = (
    "No other range, mean, residual scale or order of colors helps either: likely its weights "
    "were never trained, or were trained for something else, such as another scale or degraded "
    "images. If it is a GAN, which PSNR does not judge, name another measure "
    "(--evaluation.teacher-measure niqe). --evaluation.teacher-images 0 trains with it all the "
    "same."
)


def _mean_psnr(network: Network, loaded: Loaded, validation: Validation) -> float:
    outputs = [_output(network, lr, validation) for lr, _ in loaded]
    return _psnr(outputs, [to_tensor(hr) for _, hr in loaded], validation.scale)


def _output(network: Network, lr: Pixels, validation: Validation) -> Tensor:
    return output(network, lr, device=validation.device)[0].nan_to_num()


def _psnr(outputs: Sequence[Tensor], truths: Sequence[Tensor], scale: int) -> float:
    pairs = zip(outputs, truths, strict=True)
    return float(np.mean([psnr_y(sr, hr, border=scale).item() for sr, hr in pairs]))


def _crop(
    lr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The middle of a pair."""
    top, left = (max(0, size - _TRIAL_SIZE) // 2 for size in lr.shape[:2])
    small = lr[top : top + _TRIAL_SIZE, left : left + _TRIAL_SIZE]
    top, left, height, width = (scale * n for n in (top, left, *small.shape[:2]))
    return small, hr[top : top + height, left : left + width]


def _read_otherwise(
    teacher: Network, changes: int
) -> Generator[tuple[int, str, Network], None, None]:
    """The same weights with other numbers that a file may not say, and as BGR."""
    for reading in guess.readings(teacher, changes):
        words = [
            f"--teacher.{name.replace('_', '-')} {_shown(value)}"
            for name, value in reading.changed.items()
        ]
        text = " ".join(words)
        if reading.exchanged:
            text = f"{text} and {_BGR}" if text else _BGR
        yield reading.changes, text, reading.network


_BGR = "blue and red exchanged (its first and last layers are for BGR: convert the file)"


def _shown(value: guess.Number) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
