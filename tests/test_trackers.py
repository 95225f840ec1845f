"""What TensorBoard, Weights & Biases and MLflow are given.

The last two are large, so stand-ins take their place where they are not installed; with them
installed the real ones are written to, without a network.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dukd.networks import EDSRConfig
from dukd.runs.directory import Run
from dukd.training.experiment import Data, Evaluation, Experiment
from dukd.training.log import RunLog
from dukd.training.trackers import MLflow, WandB, check_installed, scalars

IMAGE = np.full((4, 6, 3), 200, np.uint8)
LINE = {
    "kind": "train",
    "step": 7,
    "losses": {"reconstruction": 0.25, "imitation": 0.5},
    "total": 0.75,
    "total_hex": "0x1.8p-1",
    "learning_rate": 1e-3,
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    experiment = Experiment(
        student=EDSRConfig(scale=2, width=4, blocks=1), data=Data(train=Path("images"))
    )
    facts = {"started": "today", "seed": 3}
    return Run.create(tmp_path / "mine", experiment_yaml=experiment.to_yaml(), facts=facts)


def test_every_number_has_one_series() -> None:
    assert scalars(LINE) == {
        "loss/reconstruction": 0.25,
        "loss/imitation": 0.5,
        "loss/total": 0.75,
        "train/learning_rate": 1e-3,
    }
    validated = {"kind": "validation", "step": 7, "sets": {"Set5": {"psnr_y": 30.0}}, "seconds": 2}
    assert scalars(validated) == {"validation/Set5/psnr_y": 30.0, "validation/seconds": 2.0}
    assert scalars({"kind": "event", "step": 7, "what": "resumed", "detail": "..."}) == {}


def test_an_experiment_names_its_trackers() -> None:
    assert Evaluation().trackers == ()
    assert Evaluation(tensorboard=True, mlflow=True).trackers == ("tensorboard", "mlflow")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(ValueError, match=rf"pip install 'dukd\[{name}\]'"):
        check_installed((name,))


def test_tensorboard_has_one_series_per_number_also_after_a_resume(run: Run) -> None:
    """Steps 7 and 14; a resume from step 7 writes 14 again, and the first 14 is forgotten."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
        EventAccumulator,
    )

    heard: list[Any] = []
    for begun, total in ((0, 0.5), (7, 0.25)):
        log = RunLog(run, heard.append, trackers=("tensorboard",), step=begun)
        for step in range(begun + 7, 15, 7):
            log.write({"kind": "train", "step": step, "total": total})
        log.images(14, {"baby/student": IMAGE})
        log.close()

    assert all(line["kind"] == "train" for line in heard)
    events = EventAccumulator(str(run.directory / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss/total")]
    assert found == [(7, 0.5), (14, 0.25)]
    assert events.Tags()["scalars"] == ["loss/total"]
    assert events.Tags()["images"] == ["baby/student"]


class _Calls(list[tuple[Any, ...]]):
    """Notes what it is called with."""

    def note(self, name: str, returns: Any = None) -> Any:
        def noted(*arguments: Any, **named: Any) -> Any:
            self.append((name, *arguments, named))
            return returns

        return noted


def test_weights_and_biases_goes_on_under_one_identity(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _Calls()
    inner = SimpleNamespace(log=calls.note("log"), finish=calls.note("finish"))
    module = ModuleType("wandb")
    vars(module).update(init=calls.note("init", inner), Image=lambda pixels: pixels.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)

    for _ in range(2):
        log = RunLog(run, lambda _: None, trackers=("wandb",))
        log.write(LINE)
        log.images(7, {"baby/student": IMAGE})
        log.close()

    first, second = (named for name, named in calls[::4] if name == "init")
    assert first["id"] == second["id"]
    assert (first["resume"], first["project"], first["name"]) == ("allow", "dukd", "mine")
    assert "width: 4" in first["config"]["experiment"]
    assert calls[1] == ("log", scalars(LINE), {"step": 7})
    assert calls[2] == ("log", {"baby/student": (4, 6, 3)}, {"step": 7})
    assert calls[3] == ("finish", {})


def test_a_tracker_that_fails_ends_no_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line is refused; the second is not even offered, and both are in the run's log."""
    calls = _Calls()

    def refuse(*_: Any, **__: Any) -> None:
        calls.append(("refused",))
        raise OSError("no network")

    module = ModuleType("wandb")
    vars(module).update(init=lambda **_: SimpleNamespace(log=refuse))
    monkeypatch.setitem(sys.modules, "wandb", module)
    heard: list[Any] = []
    log = RunLog(run, heard.append, trackers=("wandb",))

    log.write(LINE)
    log.write(LINE)
    log.close()

    assert len(calls) == 1
    assert "the log of Weights & Biases ends here: no network" in str(heard)
    assert len(run.records()) == 2


def test_mlflow_finds_its_run_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in keeps runs by their tags, as the real client does."""
    calls, runs = _Calls(), list[SimpleNamespace]()

    def create(_experiment: str, *, tags: dict[str, str], run_name: str) -> SimpleNamespace:
        runs.append(SimpleNamespace(info=SimpleNamespace(run_id=f"r{len(runs)}"), tags=tags))
        assert run_name == "mine"
        return runs[-1]

    def search(_experiments: list[str], wanted: str) -> list[SimpleNamespace]:
        return [r for r in runs if wanted == f"tags.dukd_run = '{r.tags['dukd_run']}'"]

    names = ("log_param", "log_text", "log_metric", "log_image", "set_terminated", "update_run")
    client = SimpleNamespace(
        get_experiment_by_name=lambda _: SimpleNamespace(experiment_id="1"),
        create_run=create,
        search_runs=search,
        **{name: calls.note(name) for name in names},
    )
    module = ModuleType("mlflow")
    addresses: list[str] = []
    vars(module).update(MlflowClient=lambda tracking_uri: addresses.append(tracking_uri) or client)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    for _ in range(2):
        tracker = MLflow(run, 0)
        tracker.numbers(7, {"loss/total": 0.75})
        tracker.image(7, "baby/student", IMAGE)
        tracker.close()

    assert len(runs) == 1
    assert addresses[0].endswith("/mine/mlflow/mlflow.db")
    assert ("log_param", "r0", "seed", "3", {}) in calls
    assert calls.count(("log_metric", "r0", "loss/total", 0.75, {"step": 7})) == 2
    assert sum(call[0] == "log_image" for call in calls) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_itself_without_a_network(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = WandB(run, 0)
    tracker.numbers(7, {"loss/total": 0.75})
    tracker.image(7, "baby/student", IMAGE)
    tracker.close()

    assert list(run.directory.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_itself_without_a_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (7, 14):
        tracker = MLflow(run, 0)
        tracker.numbers(step, {"loss/total": step / 10})
        tracker.image(step, "baby/student", IMAGE)
        tracker.close()

    client: Any = tracker._client
    history = client.get_metric_history(tracker._id, "loss/total")
    assert [(point.step, point.value) for point in history] == [(7, 0.7), (14, 1.4)]
