"""Where a run is followed beside its own log: TensorBoard, Weights & Biases, MLflow.

Each is an optional package. One that fails ends no run: it is left out from there on. Every number
has one series: ``loss/total``, ``train/learning_rate``, ``validation/Set5/psnr_y``.
"""

import hashlib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from typing import Any, ClassVar, cast

from typing_extensions import override

from dukd.images.convert import Pixels
from dukd.runs.directory import Run

PROJECT = "dukd"
"""What the project, or experiment, is called at a tracker; its own variables change it."""


def scalars(record: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a line of the log, by the names of their series; words are left out.

    Example:
        >>> scalars({"kind": "train", "step": 3, "losses": {"x": 0.5}, "total": 0.5})
        {'loss/x': 0.5, 'loss/total': 0.5}
    """
    kind = str(record.get("kind"))
    groups = {"losses": "loss", "total": "loss/total", "sets": "validation"}
    found: dict[str, float] = {}
    for key, value in record.items():
        if key != "step":
            found |= dict(_flat(value, groups.get(key, f"{kind}/{key}")))
    return found


def _flat(value: object, name: str) -> Generator[tuple[str, float], None, None]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield from _flat(inner, f"{name}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


class Tracker(ABC):
    """One place where a run is followed."""

    title: ClassVar[str]
    """What people call it."""

    @abstractmethod
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take in the values of a step, by the names of their series."""

    @abstractmethod
    def image(self, step: int, name: str, pixels: Pixels) -> None:
        """Take in an image ``(h, w, 3)``, 8 bits."""

    @abstractmethod
    def close(self) -> None:
        """Write what waits."""


class TensorBoard(Tracker):
    """Event files in the run's ``tensorboard`` folder."""

    title: ClassVar[str] = "TensorBoard"

    def __init__(self, run: Run, step: int) -> None:
        """Open; what was there after ``step`` is forgotten."""
        writer = _module("tensorboard", "torch.utils.tensorboard.writer").SummaryWriter
        self._writer = writer(str(run.directory / "tensorboard"), purge_step=step + 1)

    @override
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    @override
    def image(self, step: int, name: str, pixels: Pixels) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    @override
    def close(self) -> None:
        self._writer.close()


class WandB(Tracker):
    """Weights & Biases; ``WANDB_MODE=offline`` keeps everything in the run's ``wandb`` folder."""

    title: ClassVar[str] = "Weights & Biases"

    def __init__(self, run: Run, step: int) -> None:
        """Open; a run that is resumed goes on with its own series."""
        del step  # a step that was sent before is left out there
        wandb = _module("wandb", "wandb")
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.directory.resolve().name,
            id=_identity(run),
            resume="allow",
            dir=str(run.directory),
            config={"experiment": run.read_experiment().text, **run.read_facts()},
        )

    @override
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    @override
    def image(self, step: int, name: str, pixels: Pixels) -> None:
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    @override
    def close(self) -> None:
        self._run.finish()


class MLflow(Tracker):
    """MLflow; without ``MLFLOW_TRACKING_URI``, a data base in the run's ``mlflow`` folder."""

    title: ClassVar[str] = "MLflow"

    def __init__(self, run: Run, step: int) -> None:
        """Open; a run that is resumed goes on with its own series."""
        del step
        mlflow = _module("mlflow", "mlflow")
        folder = run.directory.resolve() / "mlflow"
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            folder.mkdir(exist_ok=True)
            uri = f"sqlite:///{folder / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            where = None if "MLFLOW_TRACKING_URI" in os.environ else (folder / "files").as_uri()
            number = self._client.create_experiment(name, artifact_location=where)
        else:
            number = experiment.experiment_id
        self._id = self._run_of(number, run)

    def _run_of(self, experiment: str, run: Run) -> str:
        """The run there that has our mark, or a new one."""
        identity = _identity(run)
        found = self._client.search_runs([experiment], f"tags.dukd_run = '{identity}'")
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        name = run.directory.resolve().name
        tags = {"dukd_run": identity, "mlflow.runName": name}
        made = str(self._client.create_run(experiment, tags=tags, run_name=name).info.run_id)
        for key, value in run.read_facts().items():
            if value is not None:
                self._client.log_param(made, key, str(value)[:500])
        self._client.log_text(made, run.read_experiment().text, "experiment.yaml")
        return made

    @override
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    @override
    def image(self, step: int, name: str, pixels: Pixels) -> None:
        self._client.log_image(self._id, pixels, key=name.replace("/", "-"), step=step)

    @override
    def close(self) -> None:
        self._client.set_terminated(self._id)


TRACKERS: dict[str, type[TensorBoard | WandB | MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
"""By the names that an experiment gives them, which are those of the extras as well."""


def check_installed(names: tuple[str, ...]) -> None:
    """See that the packages of trackers are there, before anything is written.

    Raises:
        ValueError: If one is not; the message says how to get it.
    """
    homes = {"tensorboard": "torch.utils.tensorboard.writer"}
    for name in names:
        _module(name, homes.get(name, name))


def _module(extra: str, name: str) -> Any:  # noqa: ANN401  an optional package's module
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"evaluation.{extra} needs the package: pip install 'dukd[{extra}]'"
        ) from None


def _identity(run: Run) -> str:
    """What tells a run from others, also after it was moved: when it was started, and as what."""
    said = f"{run.read_facts().get('started')} {run.read_experiment().sha256}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]
