"""A student in three lines: the kind of image that goes in comes out, enlarged as files are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch.testing import assert_close

import dukd
from dukd import images
from dukd.images import Image
from dukd.networks import EDSRConfig
from dukd.networks.files import weights

CONFIG = EDSRConfig(scale=2, width=8, blocks=1, value_range=1.0, skip="nearest")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "student.safetensors"
    weights.write(path, CONFIG.build())
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> dukd.Model:
    return dukd.load(file)


def levels(*shape: int, dtype: type[np.generic] = np.uint8) -> Any:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def expected(model: dukd.Model, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        sr = model.network(images.to_tensor(pixels))
    return images.from_tensor(sr, bits=8 * pixels.itemsize)


def test_an_image_of_pillow_comes_back_as_one(model: dukd.Model) -> None:
    pixels = levels(9, 7, 3)
    image = PillowImage.fromarray(pixels)
    image.info["icc_profile"] = b"profile"

    large = model(image)

    assert (large.mode, large.size) == ("RGB", (14, 18))
    assert np.array_equal(np.asarray(large), expected(model, pixels))
    assert large.info["icc_profile"] == b"profile"


@pytest.mark.parametrize(
    ("mode", "comes_back"),
    [("L", "L"), ("LA", "LA"), ("RGBA", "RGBA"), ("P", "RGB"), ("1", "L"), ("I;16", "I;16")],
)
def test_modes_of_pillow_survive(model: dukd.Model, mode: str, comes_back: str) -> None:
    image = (
        PillowImage.fromarray(levels(8, 6, dtype=np.uint16))
        if mode == "I;16"
        else PillowImage.fromarray(levels(8, 6, 3)).convert(mode)
    )

    large = model(image)

    assert (large.mode, large.size) == (comes_back, (12, 16))


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3), (8, 6, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_array_comes_back_in_its_shape_and_type(
    model: dukd.Model, shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    large = model(levels(*shape, dtype=dtype))

    assert large.dtype == dtype
    assert large.shape == (16, 12, *shape[2:])


def test_floats_are_enlarged_as_levels_are(model: dukd.Model) -> None:
    pixels = levels(8, 6, 3)

    large = model(pixels.astype(np.float32) / 255)

    assert large.dtype == np.float32
    assert np.abs(large * 255 - expected(model, pixels)).max() <= 0.51  # rounding to levels


def test_tensors_come_back_as_the_network_gives_them(model: dukd.Model) -> None:
    batch = torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        sr = model.network(batch)

    assert_close(model(batch), sr, rtol=0, atol=1e-6)
    assert_close(model(batch[0]), sr[0], rtol=0, atol=1e-6)
    whole = (batch * 255).round().byte()
    assert model(whole).dtype == torch.uint8
    assert model(batch.double()).dtype == torch.float64


def test_a_path_gives_an_image_of_pillow(model: dukd.Model, tmp_path: Path) -> None:
    pixels = levels(5, 4, 3)
    images.write(tmp_path / "a.png", Image(pixels=pixels, icc=b"profile"))

    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        large = model(path)
        assert np.array_equal(np.asarray(large), expected(model, pixels))
        assert large.info["icc_profile"] == b"profile"


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ([1, 2], "but got list"),
        (None, "but got NoneType"),
        (np.zeros((3, 9, 9), np.uint8), r"with 1, 3 or 4 channels, but got \(3, 9, 9\)"),
        (
            np.zeros((9, 9, 3), np.int64),
            r"uint16, or floats in \[0, 1\], but got int64",
        ),
        (np.full((9, 9, 3), 200.0), "largest is 200: divide by 255"),
        (torch.zeros(9, 9, 3), r"\(n, 3, h, w\) in RGB, but got \(9, 9, 3\)"),
        (torch.zeros(3, 0, 9), r"but got \(3, 0, 9\)"),
        (torch.full((3, 9, 9), 255.0), "largest is 255: divide by 255"),
        (torch.full((3, 9, 9), torch.nan), "largest is nan"),
        (torch.zeros(3, 9, 9, dtype=torch.int64), r"floats in \[0, 1\], but got torch.int64"),
        (PillowImage.new("CMYK", (4, 4)), r"mode CMYK has no certain meaning as RGB"),
        (Path("nowhere.png"), r"nowhere.png: there is no such file"),
    ],
    ids=lambda value: str(value)[:20].replace("\n", " ") if not isinstance(value, str) else "",
)
def test_mistakes_get_a_sentence(model: dukd.Model, image: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        model(image)


def test_large_images_are_cut_and_give_the_same(model: dukd.Model) -> None:
    """600 pixels are two tiles; float noise may turn a level."""
    pixels = levels(20, 600, 3)

    difference = np.abs(model(pixels).astype(int) - expected(model, pixels))

    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_a_graph_is_a_model_too(model: dukd.Model, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    dukd.export(model.network, tmp_path / "student.onnx")

    graph = dukd.load(tmp_path / "student.onnx")

    assert (graph.name, graph.scale, graph.radius) == ("student.onnx", 2, model.radius)
    lr = torch.rand(1, 3, 9, 7)
    assert_close(graph(lr), model(lr), rtol=0, atol=1e-5)
    images.write(tmp_path / "a.png", Image(pixels=levels(5, 4, 3)))
    (done,) = dukd.upscale(graph, [tmp_path / "a.png"], tmp_path / "out").done
    assert images.header(done.target).width == 8
    with pytest.raises(ValueError, match=r"student\.onnx has no weights to train or export"):
        _ = graph.network
    with pytest.raises(ValueError, match="--precision is for files of weights"):
        dukd.upscale(
            graph,
            [tmp_path / "a.png"],
            tmp_path / "out",
            dukd.UpscaleOptions(precision="bfloat16"),
        )


def test_of_a_run_the_last_or_the_best_student_is_opened(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, but not a run"):
        dukd.load(tmp_path)
    (tmp_path / "experiment.yaml").touch()
    with pytest.raises(ValueError, match=r"has no student yet: training writes it"):
        dukd.load(tmp_path)
    (tmp_path / "student.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="has no best student yet: training writes it at"):
        dukd.load(tmp_path, best=True)
    weights.write(tmp_path / "best.safetensors", EDSRConfig(scale=3, width=8, blocks=1).build())

    assert dukd.load(tmp_path).scale == 2
    assert dukd.load(tmp_path, best=True).scale == 3
    with pytest.raises(ValueError, match="is one file: --best is for run directories"):
        dukd.load(file, best=True)
