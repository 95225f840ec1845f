"""Images of any size and kind are enlarged as a whole would be, and files are treated with care."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everybody knows
from torch.testing import assert_close

from dukd import images
from dukd.deploy import targets
from dukd.deploy.image import upscale_image
from dukd.deploy.upscale import Failed, UpscaleOptions, upscale
from dukd.images import Image, invertible, resize
from dukd.networks import EDSRConfig, Network, NetworkConfig, Staged, SwinIRConfig
from dukd.networks.tiles import plan
from dukd.networks.upscaler import OnDevice, SelfEnsemble, UpscalerError, self_ensemble

RNG = np.random.default_rng(0)


@dataclass(frozen=True, kw_only=True)
class NearestConfig(NetworkConfig):
    name: ClassVar[str] = "nearest"

    def build(self) -> "Nearest":
        return Nearest(self)


class Nearest(Staged):
    """Repeats pixels, and so commutes with every augmentation."""

    fp16_safe: ClassVar[bool] = False

    def __init__(self, config: NetworkConfig, radius: int | None = 0) -> None:
        super().__init__(config, width=3, radius=radius)
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def stages(self) -> Sequence[nn.Module]:
        return [nn.Identity()]

    def head(self, lr: Tensor) -> Tensor:
        return lr

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale, mode="nearest")


class Pooled(Nearest):
    """Adds a part of the image's mean, as networks with channel attention do."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, radius=None)

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return super().tail(x + 0.3 * x.mean((2, 3), keepdim=True), kept, lr)


class Bicubic(Nearest):
    """Looks at the pixels around, as every real network does."""

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return resize.upscale(x, self.scale)


class Broken(Nearest):
    """Has learnt nothing but NaN."""

    def tail(self, x: Tensor, kept: Mapping[int, Tensor], lr: Tensor) -> Tensor:
        return super().tail(x, kept, lr) * torch.nan


def nearest(scale: int = 2) -> Nearest:
    return NearestConfig(scale=scale).build()


def upscaled(
    network: Network,
    image: Image,
    *,
    tile: int | None = None,
    precision: torch.dtype = torch.float32,
    self_ensemble: bool = False,
    notes: list[str] | None = None,
) -> Image:
    """Enlarge one image; what is said of the result is added to ``notes``."""
    upscaler = OnDevice(network, "cpu", precision)
    result, note = upscale_image(
        SelfEnsemble(upscaler) if self_ensemble else upscaler, image, tile=tile
    )
    if note and notes is not None:
        notes.append(note)
    return result


def edsr() -> Network:
    """Radius 7; amplified, so that what a tile does not see would show."""
    network = EDSRConfig(scale=2, width=4, blocks=1).build()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.5)
    return network


def noise(h: int, w: int, channels: int = 3, dtype: type[np.generic] = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, (h, w, channels), dtype=dtype, endpoint=True)


def whole(network: Network, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return images.from_tensor(
            network.eval()(images.to_tensor(pixels)), bits=8 * pixels.itemsize
        )


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max())


@contextmanager
def no_memory(
    network: Network, error: Exception, *, calls: Sequence[int] = (), above: int | None = None
) -> Iterator[list]:
    """Let the network fail at calls of such numbers, or at images of more pixels than ``above``."""
    seen: list[tuple[int, int]] = []

    def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
        h, w = inputs[0].shape[-2:]
        seen.append((h, w))
        if len(seen) - 1 in calls or (above is not None and h * w > above):
            raise error

    handle = network.register_forward_pre_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
    ),
]


@pytest.mark.parametrize("tile", [7, 13, 20, 64])
def test_tiles_give_the_output_of_the_whole(tile: int) -> None:
    """At 16 bits one level is float noise; a halo too small is off by hundreds (next test)."""
    network, pixels = edsr(), noise(29, 41, dtype=np.uint16)

    tiled = upscaled(network, Image(pixels=pixels), tile=tile).pixels

    assert furthest(tiled, whole(network, pixels)) <= 1
    assert plan(network, 29, 41, tile=tile).note is None


def test_a_halo_below_the_radius_would_show() -> None:
    """The radius is needed: what the test above proves is not empty."""
    network, pixels = edsr(), noise(29, 41, dtype=np.uint16)
    expected = whole(network, pixels)
    assert network.radius is not None
    network.radius -= 2

    assert furthest(upscaled(network, Image(pixels=pixels), tile=13).pixels, expected) > 1


def test_tiles_keep_to_the_windows_of_a_transformer() -> None:
    network = SwinIRConfig(scale=2, width=8, depths=(2,), heads=(2,), window=4).build()
    pixels = noise(21, 26, dtype=np.uint16)
    assert network.radius is not None

    tiled = upscaled(network, Image(pixels=pixels), tile=9).pixels

    assert plan(network, 21, 26, tile=9).rows[1] % 4 == 0
    assert furthest(tiled, whole(network, pixels)) <= 2  # softmax in float32, at 16 bits


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3)])
@pytest.mark.parametrize("ensemble", [False, True])
def test_the_smallest_images_are_enlarged(size: tuple[int, int], ensemble: bool) -> None:
    pixels = noise(*size)

    result = upscaled(nearest(3), Image(pixels=pixels), self_ensemble=ensemble, tile=1)

    assert np.array_equal(result.pixels, pixels.repeat(3, 0).repeat(3, 1))


@given(st.integers(1, 300), st.integers(1, 64), st.sampled_from([1, 4, 8]))
def test_parts_cover_the_image_once(n: int, tile: int, multiple: int) -> None:
    network = nearest()
    network.size_multiple = multiple

    cuts = plan(network, n, 1, tile=tile).rows

    lengths = np.diff(cuts)
    assert (cuts[0], cuts[-1]) == (0, n)
    assert lengths.min() > 0
    assert lengths.max() <= -(-tile // multiple) * multiple
    assert all(cut % multiple == 0 for cut in cuts[:-1])


def test_networks_that_pool_are_blended_and_say_so() -> None:
    """Nearly the whole's output, without a seam; one tile is exact and says nothing."""
    network = Pooled(NearestConfig(scale=2))
    ramp = np.linspace(20, 180, 300).round().astype(np.uint8)
    pixels = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (150, 300, 3)))
    notes: list[str] = []

    tiled = upscaled(network, Image(pixels=pixels), tile=70, notes=notes).pixels.astype(int)
    expected = whole(network, pixels).astype(int)

    assert "joined from 15 overlapping tiles; nearest looks at the whole image" in notes[0]
    assert furthest(tiled, expected) <= 20  # 0.3 of how far a tile's mean is from the image's
    assert np.abs(np.diff(tiled, axis=1) - np.diff(expected, axis=1)).max() <= 2
    assert np.abs(np.diff(tiled, axis=0)).max() == 0
    notes.clear()
    assert np.array_equal(upscaled(network, Image(pixels=pixels), notes=notes).pixels, expected)
    assert notes == []


@pytest.mark.parametrize(
    ("error", "tile"), [*((error, 100) for error in OUT_OF_MEMORY), (OUT_OF_MEMORY[2], 32)]
)
def test_a_tile_without_memory_is_split_and_nothing_else_changes(
    error: Exception, tile: int
) -> None:
    """The k-th call fails, for every k."""
    network, image = edsr(), Image(pixels=noise(60, 70, dtype=np.uint16))
    expected = upscaled(network, image, tile=tile).pixels
    count = plan(network, 60, 70, tile=tile).count

    for k in range(count):
        with no_memory(network, error, calls=[k]) as seen:
            result = upscaled(network, image, tile=tile)
        assert furthest(result.pixels, expected) <= 1  # float noise, at 16 bits
        assert len(seen) > count


def test_tiles_shrink_until_they_fit_and_the_rest_starts_small() -> None:
    network, image = edsr(), Image(pixels=noise(120, 120, dtype=np.uint16))

    with no_memory(network, MemoryError(), above=50 * 50) as seen:
        result = upscaled(network, image)

    assert furthest(result.pixels, whole(network, image.pixels)) <= 1  # float noise, at 16 bits
    assert sum(h * w > 50 * 50 for h, w in seen) <= 4  # each size fails once, not once per tile


def test_blended_tiles_survive_a_lack_of_memory_and_say_so() -> None:
    network = Pooled(NearestConfig(scale=2))
    image = Image(pixels=np.full((200, 300, 3), 90, np.uint8))
    notes: list[str] = []

    with no_memory(network, MemoryError(), calls=[0, 1]):
        result = upscaled(network, image, notes=notes)

    assert (result.pixels == 117).all()
    assert "cut for want of memory" in notes[0]


def test_when_nothing_fits_the_size_is_named() -> None:
    network = edsr()

    with (
        no_memory(network, MemoryError(), above=0),
        pytest.raises(
            MemoryError,
            match=r"not even a tile of (1\d|2\d) x (1\d|2\d) pixels finds memory",
        ),
    ):
        upscaled(network, Image(pixels=noise(90, 90)))


def test_other_errors_are_not_mistaken_for_a_lack_of_memory() -> None:
    network = edsr()

    with (
        no_memory(network, RuntimeError("shapes do not fit"), calls=[0]),
        pytest.raises(RuntimeError, match="shapes"),
    ):
        upscaled(network, Image(pixels=noise(9, 9)))


def test_the_ensemble_is_the_mean_of_eight_outputs() -> None:
    network, x = edsr(), torch.rand(1, 3, 6, 9)

    def rotated(x: Tensor, quarters: int) -> Tensor:
        return network(x.rot90(quarters, (2, 3))).rot90(-quarters, (2, 3))

    with torch.no_grad():
        outputs = [rotated(x, k) for k in range(4)] + [
            rotated(x.flip(-1), k).flip(-1) for k in range(4)
        ]

        assert_close(self_ensemble(network, x), torch.stack(outputs).mean(0), rtol=0, atol=1e-6)
        transposed = self_ensemble(network, invertible.TRANSPOSE.apply(x))
        assert_close(
            invertible.TRANSPOSE.invert(transposed), self_ensemble(network, x), rtol=0, atol=1e-6
        )


def test_tiles_of_the_ensemble_give_the_ensemble_of_the_whole() -> None:
    network, pixels = edsr(), noise(29, 41, dtype=np.uint16)
    with torch.no_grad():
        expected = images.from_tensor(
            self_ensemble(network.eval(), images.to_tensor(pixels)), bits=16
        )

    tiled = upscaled(network, Image(pixels=pixels), tile=13, self_ensemble=True).pixels

    assert furthest(tiled, expected) <= 1


def test_an_image_keeps_its_kind() -> None:
    """Gray stays gray, 16 bits stay 16 bits, and what came with the pixels goes with them."""
    gray = Image(pixels=noise(5, 6, 1, np.uint16), icc=b"profile", exif=b"exif", mode="I;16")

    result = upscaled(nearest(), gray)

    assert np.array_equal(result.pixels, gray.pixels.repeat(2, 0).repeat(2, 1))
    assert (result.icc, result.exif, result.mode) == (b"profile", b"exif", "I;16")


def test_alpha_is_enlarged_beside_the_colors_which_do_not_bleed() -> None:
    """A red disc on transparent black: no pixel that can be seen becomes darker."""
    y, x = np.mgrid[:20, :20]
    alpha = np.where((y - 9.5) ** 2 + (x - 9.5) ** 2 < 36, 255, 0).astype(np.uint8)
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[alpha > 0] = (200, 10, 10)

    result = upscaled(Bicubic(NearestConfig(scale=2)), Image(pixels=pixels, alpha=alpha))

    assert result.alpha is not None
    assert result.alpha.shape == (40, 40)
    assert (result.alpha[20, 20], result.alpha[0, 0]) == (255, 0)
    assert int(((result.alpha > 0) & (result.alpha < 255)).sum()) > 0  # a soft edge
    assert (result.pixels[result.alpha > 0] == (200, 10, 10)).all()


def test_hidden_colors_come_from_their_surroundings() -> None:
    """Left of the middle black, right white; what nobody sees takes part of both sides."""
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    alpha = np.full((4, 8), 65, np.uint8)
    alpha[1, 1] = alpha[2, 6] = 0
    spoilt = pixels.copy()
    spoilt[1, 1], spoilt[2, 6] = 99, 99

    result = upscaled(nearest(), Image(pixels=spoilt, alpha=alpha))

    assert np.array_equal(result.pixels, pixels.repeat(2, 0).repeat(2, 1))
    invisible = Image(pixels=spoilt, alpha=np.zeros_like(alpha))
    assert upscaled(nearest(), invisible).pixels.shape == (8, 16, 3)


def test_the_network_is_left_as_it_was() -> None:
    network = nearest().train()

    upscaled(network, Image(pixels=noise(3, 3)))

    assert network.training


def test_what_would_give_wrong_images_is_refused() -> None:
    network, image = nearest(), Image(pixels=noise(3, 3))
    with pytest.raises(UpscalerError, match="nearest overflows in float16"):
        upscaled(network, image, precision=torch.float16)
    with pytest.raises(ValueError, match="at least 1 pixel on a side, but got 0"):
        upscaled(network, image, tile=0)
    with pytest.raises(UpscalerError, match=r"nearest gives NaN or infinity in float32"):
        upscaled(Broken(NearestConfig(scale=2)), image)


def test_bfloat16_is_close() -> None:
    network, pixels = edsr(), noise(9, 9)

    result = upscaled(network, Image(pixels=pixels), precision=torch.bfloat16).pixels

    assert (
        0 < furthest(result, whole(network, pixels)) < 16
    )  # bfloat16 has 8 bits; the network is amplified


def save(path: Path, *, h: int = 2, w: int = 3, channels: int = 3, alpha: bool = False) -> Path:
    images.write(
        path, Image(pixels=noise(h, w, channels), alpha=noise(h, w)[..., 0] if alpha else None)
    )
    return path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folders_are_repeated_and_formats_kept(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos" / "out"
    for name in (
        "b.png",
        "c.JPG",
        "-rf d é.webp",
        "below/a.png",
        "below/deep/a.png",
        "notes.txt/a.bmp",
    ):
        save(photos / name)
    (photos / "notes.md").write_text("no image")
    (photos / "._b.png").write_bytes(b"of another system")
    seen: list[tuple[int, int, str]] = []

    flat = upscale(nearest(), [photos], out, progress=lambda *what: seen.append(what))
    assert names(out) == ["-rf d é_x2.webp", "b_x2.png", "c_x2.jpg"]
    assert (flat.failed, flat.skipped) == ((), ())
    assert seen == [(1, 3, "-rf d é.webp"), (2, 3, "b.png"), (3, 3, "c.JPG")]

    deep = upscale(nearest(), [photos], out, UpscaleOptions(recursive=True, suffix="-big"))
    assert "below/deep/a-big.png" in names(out)
    assert len(deep.done) == 6  # and none of the results of the first run
    source = images.read(photos / "b.png").pixels
    assert np.array_equal(images.read(out / "b_x2.png").pixels, source.repeat(2, 0).repeat(2, 1))


def test_results_may_go_above_their_sources(tmp_path: Path) -> None:
    """Only an output folder below the inputs holds what is none of them."""
    save(tmp_path / "deep" / "photo.png")

    upscale(nearest(), [tmp_path / "deep"], tmp_path)

    assert names(tmp_path) == ["deep/photo.png", "photo_x2.png"]


def test_what_a_killed_command_left_among_the_results_goes(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    left = tmp_path / "out" / ".a_x2.png.dukd-1a2b3c4d.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")

    upscale(nearest(), [tmp_path / "in"], tmp_path / "out", UpscaleOptions())

    assert [path.name for path in left.parent.iterdir()] == ["a_x2.png"]


def test_a_result_that_the_format_cannot_hold_becomes_png(tmp_path: Path) -> None:
    images.write(tmp_path / "in/deep.png", Image(pixels=noise(2, 2, 3, np.uint16)))
    PillowImage.fromarray(noise(2, 2, 1, np.uint16)[..., 0]).save(tmp_path / "in/gray.tif")
    PillowImage.fromarray(noise(2, 2)).quantize(4).save(tmp_path / "in/a.gif")
    PillowImage.fromarray(noise(2, 2, 4)).save(
        tmp_path / "in/alpha.jpg", format="PNG"
    )  # the name says otherwise

    result = upscale(nearest(), [tmp_path / "in"], tmp_path / "out")

    assert result.failed == ()
    assert names(tmp_path / "out") == ["a_x2.png", "alpha_x2.png", "deep_x2.png", "gray_x2.png"]
    assert images.read(tmp_path / "out/deep_x2.png").bits == 16
    assert images.read(tmp_path / "out/alpha_x2.png").alpha is not None
    with PillowImage.open(tmp_path / "out/a_x2.png") as image:
        assert image.info["Comment"] == "enlarged 2 times by nearest with dukd"


def test_equal_stems_keep_both(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png")
    PillowImage.fromarray(noise(2, 2)).quantize(4).save(tmp_path / "in/a.gif")

    upscale(nearest(), [tmp_path / "in"], tmp_path / "out")

    assert names(tmp_path / "out") == ["a.gif_x2.png", "a.png_x2.png"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (("IMG.png", "img.png"), ["IMG_x2.png", "img~2_x2.png"]),
        (("a.jpg", "a.JPG"), ["a_x2.jpg", "a~2_x2.jpg"]),
        (("one/x.png", "two/x.png", "3/x.png"), ["x_x2.png", "x~2_x2.png", "x~3_x2.png"]),
        (("x~2.png", "x.png", "X.png"), ["x~2_x2.png", "x_x2.png", "X~3_x2.png"]),
    ],
)
def test_names_that_differ_in_case_or_folder_only_are_numbered(
    tmp_path: Path, inputs: Sequence[str], expected: list[str]
) -> None:
    """Every input is enlarged, also where the file system takes two names for one."""
    paths = [save(tmp_path / str(n) / name) for n, name in enumerate(inputs)]

    result = upscale(nearest(), paths, tmp_path / "out")

    assert result.failed == ()
    assert [done.target.name for done in result.done] == expected
    assert names(tmp_path / "out") == sorted(expected)
    for done in result.done:
        if done.target.suffix == ".png":
            source = images.read(done.source).pixels
            assert np.array_equal(images.read(done.target).pixels, source.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("name", "size", "written", "note"),
    [
        ("a.webp", (1, 8191), "a_x2.webp", None),
        ("a.webp", (1, 8192), "a_x2.png", "as PNG, since webp does not hold 16384 x 2 pixels"),
        ("a.jpg", (32_751, 1), "a_x2.png", "as PNG, since jpg does not hold 2 x 65502 pixels"),
    ],
)
def test_a_result_too_large_for_its_format_becomes_png_before_the_work(
    tmp_path: Path, name: str, size: tuple[int, int], written: str, note: str | None
) -> None:
    """WebP ends at 16,383 pixels, JPEG at 65,500; found out after hours it would be a loss."""
    source = save(tmp_path / "in" / name, h=size[0], w=size[1])

    (done,) = upscale(nearest(), [source], tmp_path / "out").done

    assert (done.target.name, done.note) == (written, note)
    assert images.header(done.target).width == 2 * size[1]


def test_a_format_is_chosen_and_what_it_cannot_hold_becomes_png(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png")
    save(tmp_path / "in/b.jpg")
    save(tmp_path / "in/c.png", alpha=True)

    result = upscale(
        nearest(), [tmp_path / "in"], tmp_path / "out", UpscaleOptions(format="jpg", quality=50)
    )

    assert names(tmp_path / "out") == ["a_x2.jpg", "b_x2.jpg", "c_x2.png"]
    assert [done.note for done in result.done] == [
        None,
        None,
        "as PNG, since jpg does not hold transparency",
    ]


def test_animations_and_pages_are_enlarged_frame_by_frame(tmp_path: Path) -> None:
    pixels = [noise(6, 8) for _ in range(3)]
    frames = [PillowImage.fromarray(p).quantize(16) for p in pixels]
    durations = [40, 90, 120]
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=durations, loop=2
    )
    pages = [PillowImage.fromarray(p) for p in pixels]
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    seen: list[tuple[int, int, str]] = []

    result = upscale(
        nearest(),
        [tmp_path / "a.gif", tmp_path / "b.tif"],
        tmp_path / "out",
        UpscaleOptions(quality=100),
        progress=lambda *what: seen.append(what),
    )

    assert [(d.target.name, d.note) for d in result.done] == [
        ("a_x2.webp", "as WEBP, which holds all frames; 3 frames, each for itself"),
        ("b_x2.tif", "3 frames, each for itself"),
    ]
    enlarged = list(images.frames(result.done[1].target))
    for page, source in zip(enlarged, pixels, strict=True):
        assert np.array_equal(page.image.pixels, source.repeat(2, 0).repeat(2, 1))
    moving = list(images.frames(result.done[0].target))
    assert [frame.duration for frame in moving] == durations
    assert moving[0].loop == 2
    expected = list(images.frames(tmp_path / "a.gif"))
    for frame, source in zip(moving, expected, strict=True):
        large = source.image.pixels.repeat(2, 0).repeat(2, 1)
        assert np.array_equal(frame.image.pixels, large)
    assert [done for done, _, _ in seen] == [1, 2, 3, 4, 5, 6]


def test_what_exceeds_memory_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = save(tmp_path / "small.png"), save(tmp_path / "large.png", h=40, w=50)
    monkeypatch.setattr(targets, "machine_memory", lambda: 80 * 100 * 3 - 1)

    result = upscale(nearest(), [small, large], tmp_path / "out")

    assert [done.source for done in result.done] == [small]
    assert result.failed[0].reason == (
        f"{large}: the result takes 24.0 kB, more memory than there is"
    )


def test_the_place_is_looked_at_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = save(tmp_path / "a.png"), tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=r"results go into a folder, but .*file is a file"):
        upscale(nearest(), [source], file)
    with pytest.raises(NotADirectoryError):
        upscale(nearest(), [source], file / "below")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(
        ValueError, match=r"inputs, which take \d+ bytes, but only 10 bytes are free"
    ):
        upscale(nearest(), [source], tmp_path / "out")


def test_whatever_is_wrong_with_one_image_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's writers have raised RuntimeError and SyntaxError for odd metadata."""
    paths = [save(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    write = images.write

    def fragile(path: Path, *arguments: object, **options: object) -> tuple[str, ...]:
        if path.name.startswith("b"):
            raise SyntaxError("not a TIFF file")
        return write(path, *arguments, **options)

    monkeypatch.setattr(images, "write", fragile)

    result = upscale(nearest(), paths, tmp_path / "out")

    assert [done.source.name for done in result.done] == ["a.png", "c.png"]
    assert result.failed[0].reason == f"{paths[1]}: SyntaxError: not a TIFF file"


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png")
    save(tmp_path / "in/below/b.png")
    for name in ("x.jp2", "y.JP2", "notes.txt", "nameless", ".hidden"):
        (tmp_path / "in" / name).touch()

    counts = upscale(nearest(), [tmp_path / "in"], tmp_path / "out").passed_over

    assert images.passed_over(counts) == (
        "passed over: 1 .txt, 2 JPEG 2000, 1 folder (--recursive enters it), 1 hidden, "
        "1 without an extension"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"outscale": 0.0}, "final scale is a positive number, but got 0"),
        ({"outscale": float("inf")}, "final scale is a positive number, but got inf"),
        ({"outscale": float("nan")}, "final scale is a positive number, but got nan"),
        ({"quality": 101}, "--quality is 1 to 100, but got 101"),
        ({"suffix": "/../x"}, "--suffix is part of a file name, but got '/../x'"),
        ({"max_pixels": 0}, "--max-pixels is at least 1, but got 0"),
    ],
)
def test_impossible_options_are_sentences(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        UpscaleOptions(**options)


def test_what_cannot_be_read_is_listed_and_the_others_are_done(tmp_path: Path) -> None:
    good = save(tmp_path / "in/good.png")
    (tmp_path / "in/bad.png").write_bytes(good.read_bytes()[:60])
    missing = tmp_path / "in/missing.png"

    result = upscale(nearest(), [missing, tmp_path / "in"], tmp_path / "out")

    assert [done.source for done in result.done] == [good]
    assert {failed.source.name for failed in result.failed} == {"bad.png", "missing.png"}
    assert Failed(missing, f"{missing}: there is no such file") in result.failed
    assert names(tmp_path / "out") == ["good_x2.png"]


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are those of Unix")
def test_links_that_lead_nowhere_and_pipes_are_listed_and_none_is_waited_for(
    tmp_path: Path,
) -> None:
    """A link to itself ended the folder in a RuntimeError, a pipe without a writer hung it."""
    folder = tmp_path / "in"
    save(folder / "b.png")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "nowhere.png").symlink_to("missing.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    found = upscale(nearest(), [folder], tmp_path / "out")

    assert [done.source.name for done in found.done] == ["b.png"]
    reasons = {failed.source.name: failed.reason for failed in found.failed}
    assert sorted(reasons) == ["endless.png", "itself.png", "nowhere.png", "pipe.png"]
    assert "may never end" in reasons["pipe.png"]
    assert "may never end" in reasons["endless.png"]
    assert "there is no such file" in reasons["nowhere.png"]


def test_finished_images_are_skipped_if_wanted(tmp_path: Path) -> None:
    first, second = save(tmp_path / "in/a.png"), save(tmp_path / "in/b.png")
    network, out = nearest(), tmp_path / "out"
    upscale(network, [first], out)

    again = upscale(network, [first, second], out, UpscaleOptions(skip_existing=True))
    assert (again.skipped, [d.source for d in again.done]) == ((first,), [second])
    assert len(upscale(network, [first, second], out).done) == 2
    newer = (out / "a_x2.png").stat().st_mtime + 10
    os.utime(first, (newer, newer))
    assert [
        d.source
        for d in upscale(network, [first, second], out, UpscaleOptions(skip_existing=True)).done
    ] == [first]


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    one, two = save(tmp_path / "a.png"), save(tmp_path / "a_x2.png")
    before = two.read_bytes()

    result = upscale(nearest(), [one, two], tmp_path)

    assert [f.source for f in result.failed] == [one]
    assert "would overwrite the input" in result.failed[0].reason
    assert two.read_bytes() == before
    with pytest.raises(ValueError, match="write to another folder"):
        upscale(nearest(), [tmp_path], tmp_path)


def test_long_names_are_shortened(tmp_path: Path) -> None:
    for end in "ab":
        save(tmp_path / "in" / ("é" * 124 + end + ".png"))

    result = upscale(nearest(), [tmp_path / "in"], tmp_path / "out")

    assert len(result.done) == len(names(tmp_path / "out")) == 2
    assert all(
        len(name.encode()) <= 255 and name.endswith("_x2.png") for name in names(tmp_path / "out")
    )


@pytest.mark.parametrize(("outscale", "size"), [(3, (6, 12)), (1.5, (3, 6)), (2, (4, 8))])
def test_the_final_scale_is_reached_by_resizing(
    tmp_path: Path, outscale: float, size: tuple[int, int]
) -> None:
    save(tmp_path / "a.png", h=2, w=4, alpha=True)

    result = upscale(
        nearest(), [tmp_path / "a.png"], tmp_path / "out", UpscaleOptions(outscale=outscale)
    )

    (done,) = result.done
    beyond = "x2 by the network, x1.5 more by resampling" if outscale == 3 else None
    assert done.note == beyond
    result = images.read(tmp_path / "out" / f"a_x{outscale:g}.png")
    assert result.pixels.shape == (*size, 3)
    assert result.alpha is not None
    assert result.alpha.shape == size


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images in"):
        upscale(nearest(), [tmp_path], tmp_path / "out")


def test_an_image_without_memory_is_listed_too(tmp_path: Path) -> None:
    network = edsr()
    with no_memory(network, MemoryError(), above=40):
        result = upscale(
            network,
            [save(tmp_path / "a.png"), save(tmp_path / "b.png", h=9, w=9)],
            tmp_path / "out",
        )

    assert [d.source.name for d in result.done] == ["a.png"]
    assert result.failed[0].reason.startswith(
        f"{tmp_path / 'b.png'}: not even a tile of 9 x 9 pixels"
    )
