import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import tiny_runs
from dukd.training import loop, notebook
from dukd.training.notebook import Live


def _lines(steps: int = 20) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        left = float(steps - step)
        found.append({"kind": "step", "step": step, "steps": steps, "seconds_left": left})
        rates = {"images_per_second": 12.0, "memory_mb": 100}
        if step == 1:
            found.append({"kind": "live", "step": 1, "losses": {}, "total": 0.9, **rates})
        if step % 10 == 0:
            losses = {"x": 0.5 / step}
            train = {"kind": "train", "step": step, "losses": losses, "total": 0.5 / step}
            found.append(train | rates)
            psnr = {"Set5": {"psnr_y": 30 + step / 10}}
            found.append({"kind": "validation", "step": step, "sets": psnr})
    return found


def test_a_bar_and_a_chart_follow_a_run() -> None:
    now, drawn, heard = [0.0], list[str](), list[Any]()
    live = Live(drawn.append, heard.append, clock=lambda: now[0])

    for line in _lines():
        now[0] += 0.3
        live(line)

    assert heard == _lines()
    assert len(drawn) < len(heard) / 2  # once a second at most, but for the end
    assert 'max="20" value="20"' in drawn[-1]
    assert "step 20 of 20 · done · 12 patches/s · 104.9 MB · loss 0.0250" in drawn[-1]
    assert "Set5, step 20: 32.00" in drawn[-1]
    middle = next(text for text in drawn if "loss, step 10: 0.05" in text)
    assert " left · " in middle  # one validation makes no curve yet


def test_what_comes_from_files_stays_text() -> None:
    drawn: list[str] = []
    Live(drawn.append, lambda _: None)({"kind": "event", "step": 1, "detail": "<script>"})

    assert "&lt;script&gt;" in drawn[-1]


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend that this is a notebook; what its cell shows comes back."""
    shown: list[str] = []

    class ZMQInteractiveShell:
        pass

    def display(text: str, *, display_id: bool) -> SimpleNamespace:
        assert display_id
        shown.append(text)
        return SimpleNamespace(update=shown.append)

    module = ModuleType("IPython")
    tools = SimpleNamespace(display=display, HTML=str)
    vars(module).update(get_ipython=ZMQInteractiveShell, display=tools)
    monkeypatch.setitem(sys.modules, "IPython", module)
    return shown


@pytest.mark.parametrize("show", [True, False])
def test_training_shows_itself_in_a_notebook_unless_it_is_to_be_silent(
    show: bool, cell: list[str], tmp_path: Path
) -> None:
    plan = tiny_runs.experiment(tiny_runs.prepare(tmp_path / "world"))

    loop.train(plan, tmp_path / "run", show=show)

    assert bool(cell) == show
    assert not show or "done" in cell[-1]


def test_elsewhere_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not notebook.in_notebook()

    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    vars(sys.modules["IPython"])["get_ipython"] = lambda: None
    assert not notebook.in_notebook()
