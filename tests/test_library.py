"""The page on the loss as a library works as it stands."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import dukd

PAGE = (Path(__file__).parents[1] / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python ?(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


class Mine(nn.Module):
    """Somebody's network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.body(x), 2)


class Theirs(nn.Module):
    """In 0 to 255, and in a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2), "more"


class Trainer:
    """What transformers' Trainer does with a model, in a few lines: its contract, not its code."""

    def __init__(self, model: nn.Module, dataset: list[dict[str, Tensor]]) -> None:
        self.model, self.dataset = model, dataset
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def train(self) -> None:
        self.model.train()
        for inputs in self.dataset:
            outputs = self.model(**inputs)
            outputs["loss"].backward()
            self.optimizer.step()
            self.model.zero_grad()


class SRModel:
    """What BasicSR's SRModel has that a class below it uses: its contract, not its code."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.net_g: nn.Module = dukd.EDSRConfig(scale=2, width=8, blocks=2).build()
        self.init_training_settings()

    def init_training_settings(self) -> None:
        self.net_g.train()
        self.optimizer_g = torch.optim.Adam(self.net_g.parameters(), lr=1e-4)

    def feed_data(self, data: dict[str, Tensor]) -> None:
        self.lq, self.gt = data["lq"].to(self.device), data["gt"].to(self.device)

    def reduce_loss_dict(self, losses: dict[str, Tensor]) -> dict[str, float]:
        return {name: loss.item() for name, loss in losses.items()}


def pages_names(tmp_path: Path) -> dict[str, object]:
    torch.manual_seed(0)
    pairs = [(torch.rand(3, 12, 12), torch.rand(3, 24, 24)) for _ in range(8)]
    return {
        "dukd": dukd,
        "torch": torch,
        "loader": DataLoader(pairs, batch_size=2),  # pyright: ignore[reportArgumentType]
        "student": dukd.EDSRConfig(scale=2, width=8, blocks=2).build(),
        "teacher": dukd.EDSRConfig(scale=2, width=8, blocks=2).build(),
        "theirs": Theirs(),
        "mine": Mine(),
        "other": Mine(),
        "Trainer": Trainer,
        "SRModel": SRModel,
        "fields": [{"lr": lr[None], "hr": hr[None]} for lr, hr in pairs[:2]],
        "lr": torch.rand(2, 3, 12, 12),
        "hr": torch.rand(2, 3, 24, 24),
        "theirs_for_lr": torch.rand(2, 3, 24, 24),
        "path": tmp_path / "student.safetensors",
    }


@pytest.mark.parametrize(
    ("package", "code"),
    BLOCKS,
    ids=[f"{package or 'plain'}-{i}" for i, (package, _) in enumerate(BLOCKS)],
)
def test_a_block_works_as_it_stands(package: str, code: str, tmp_path: Path) -> None:
    names = pages_names(tmp_path)
    student = names["student"]
    assert isinstance(student, nn.Module)
    before = [p.detach().clone() for p in student.parameters()]
    with warnings.catch_warnings():
        if package:
            warnings.simplefilter("ignore")  # theirs
            pytest.importorskip(package)
        exec(compile(code, "library.md", "exec"), names)  # the page's own

    if "SRModel" in code:
        model = names["model"]
        assert isinstance(model, SRModel)
        assert set(vars(model)["log_dict"]) >= {"reconstruction", "zoom_in_imitation"}
    elif "optimizer" in code or "Trainer(" in code or package:
        trained = names["student"]
        assert isinstance(trained, nn.Module)
        moved = (torch.equal(p, q) for p, q in zip(trained.parameters(), before, strict=False))
        assert not all(moved)


def test_the_page_has_its_blocks() -> None:
    assert [package for package, _ in BLOCKS if package] == ["accelerate", "lightning"]
    assert len(BLOCKS) == 11
