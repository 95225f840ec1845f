"""LPIPS and DISTS with weights that are drawn here; the trained ones are not ours to ship."""

import math

import pytest
import torch

from dukd.evaluation import looks
from dukd.evaluation.looks import DISTS, FOLDER, LPIPS, dists, lpips
from dukd.evaluation.metrics import find

COUNT = 3 + 64 + 128 + 256 + 512 + 512


def alexnet(seed=0):
    rng = torch.Generator().manual_seed(seed)
    state, before = {}, 3
    for number, width, size in ((0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3), (10, 256, 3)):
        fan = before * size * size
        state[f"features.{number}.weight"] = (
            torch.randn(width, before, size, size, generator=rng) / fan**0.5
        )
        state[f"features.{number}.bias"] = torch.zeros(width)
        before = width
    return state


def heads(value=0.5):
    widths = (64, 192, 384, 256, 256)
    return {f"lin{i}.model.1.weight": torch.full((1, w, 1, 1), value) for i, w in enumerate(widths)}


def vgg16(seed=0):
    rng = torch.Generator().manual_seed(seed)
    state, before = {}, 3
    for width, numbers in zip(
        (64, 128, 256, 512, 512),
        ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
        strict=True,
    ):
        for number in numbers:
            state[f"features.{number}.weight"] = (
                torch.randn(width, before, 3, 3, generator=rng) * (2 / (9 * before)) ** 0.5
            )
            state[f"features.{number}.bias"] = torch.zeros(width)
            before = width
    return state


def weights(alpha=1.0, beta=1.0):
    return {
        "alpha": torch.full((1, COUNT, 1, 1), alpha),
        "beta": torch.full((1, COUNT, 1, 1), beta),
    }


def pair():
    torch.manual_seed(0)
    a = torch.rand(2, 3, 64, 64)
    return a, (a + 0.1 * torch.randn_like(a)).clamp(0, 1)


def test_lpips_is_none_between_equal_images_and_symmetric():
    a, b = pair()
    assert lpips(a, a, alexnet(), heads()).tolist() == [0, 0]
    forth, back = lpips(a, b, alexnet(), heads()), lpips(b, a, alexnet(), heads())
    assert torch.equal(forth, back)
    assert (forth > 0).all()


def test_lpips_is_linear_in_its_heads():
    """With all weights 1 a level's distance is the mean squared length of differences of unit
    vectors: 2 - 2 cos, at most 2, for five levels at most 10."""
    a, b = pair()
    one, half = lpips(a, b, alexnet(), heads(1.0)), lpips(a, b, alexnet(), heads(0.5))
    assert torch.allclose(one, 2 * half, rtol=1e-5)
    assert (one <= 10).all()


def test_lpips_reads_an_image_from_minus_1_to_1():
    """The mean gray of ImageNet, (shift + 1) / 2, is zero at the first convolution."""
    gray = torch.tensor([(v + 1) / 2 for v in (-0.030, -0.088, -0.188)]).reshape(1, 3, 1, 1)
    features = looks._alexnet(gray.expand(1, 3, 64, 64), alexnet())
    assert features[0].abs().max() < 1e-5
    assert [f.shape[1:] for f in features] == [
        (64, 15, 15),
        (192, 7, 7),
        (384, 3, 3),
        (256, 3, 3),
        (256, 3, 3),
    ]


def test_dists_of_equal_images_is_none():
    a, b = pair()
    assert dists(a, a, vgg16(), weights()).abs().max() < 1e-9
    assert (dists(a, b, vgg16(), weights()) > 0).all()


def test_dists_of_flat_images_by_hand():
    """With weights on the image's three channels alone, and no variance, what is left is the
    similarity of means: 1 - (2 m n + c) / (m^2 + n^2 + c) for half of the weight."""
    only = weights(0.0, 0.0)
    only["alpha"][:, :3] = 1.0
    only["beta"][:, :3] = 1.0
    a, b = torch.full((1, 3, 32, 32), 0.2), torch.full((1, 3, 32, 32), 0.6)
    similar = (2 * 0.2 * 0.6 + 1e-6) / (0.2**2 + 0.6**2 + 1e-6)
    assert dists(a, b, vgg16(), only).item() == pytest.approx(0.5 * (1 - similar), rel=1e-5)


def test_dists_pools_by_the_root_of_a_mean_of_squares():
    pooled = looks._pooled(torch.full((1, 2, 8, 8), 3.0))
    assert pooled.shape == (1, 2, 4, 4)
    assert pooled[0, 0, 2, 2].item() == pytest.approx(3.0)
    # at the corner a frame of zeros counts: 9/16 of the window's weight lies inside
    assert pooled[0, 0, 0, 0].item() == pytest.approx(math.sqrt(9 * 9 / 16), rel=1e-5)


@pytest.mark.parametrize(("metric", "file"), [(LPIPS, "alexnet"), (DISTS, "vgg16")])
def test_a_missing_file_is_named_with_its_place(metric, file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(ValueError, match=rf"{file}.*checkpoints.*{FOLDER}"):
        find([metric.name])


def test_with_both_files_in_a_folder_they_measure(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    torch.save(alexnet(), tmp_path / LPIPS.backbone)
    monkeypatch.setattr(looks, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install --no-deps lpips"):
        find(["lpips"])
    torch.save(heads(), tmp_path / "alex.pth")
    metric = find(["lpips"])["lpips"]
    a, b = pair()
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    big = [torch.nn.functional.pad(x, (4, 4, 4, 4), value=v) for x, v in ((a, 0.0), (b, 1.0))]
    assert torch.equal(metric(*big, 4), lpips(big[0][inside], big[1][inside], alexnet(), heads()))


def test_neither_is_measured_unless_named():
    assert not {"lpips", "dists"} & find().keys()


def test_a_file_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"features.0.weight.*AlexNet"):
        lpips(*pair(), vgg16(), heads())
