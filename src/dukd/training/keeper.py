"""Validating and saving while training goes on."""

from contextlib import AbstractContextManager, nullcontext

from dukd.core.distributed import fingerprint
from dukd.networks.compile import as_written
from dukd.runs.directory import Run
from dukd.training.assemble import Training
from dukd.training.log import Logbook, Meter
from dukd.training.memory import TooLittleMemoryError, is_shortage
from dukd.training.resume import save
from dukd.training.step import settle
from dukd.training.validation import write_samples

_FAILED_SAVES = 3
"""Saves in a row that may fail before training stops."""


class Keeper:
    """Validates and saves; a disk that is full for a while does not end the run."""

    def __init__(self, training: Training, run: Run, logbook: Logbook, meter: Meter) -> None:
        self.training, self.run, self.logbook, self.meter = training, run, logbook, meter
        self._failed = 0

    def _as_written(self) -> AbstractContextManager[object]:
        """A context in which nothing is compiled for the sizes of test images."""
        compiles = self.training.experiment.optimization.compile
        return as_written() if compiles else nullcontext()

    def validate_and_save(self) -> None:
        """Judge the student, and save it; the first rank judges for all."""
        training, state = self.training, self.training.state
        settle(training)
        best = False
        if training.world.leads and training.validation.sets:
            try:
                with self._as_written():
                    record = training.validation.record(
                        state.step, state.averaged, training.teacher
                    )
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                if training.world.size == 1:  # the others are not there to agree
                    self.save()
                raise TooLittleMemoryError(
                    f"validating after step {state.step} does not fit into the memory of "
                    f"{training.device}: judge by smaller images (--evaluation.sets), then go on "
                    "with --resume"
                ) from error
            self.logbook.write(record)
            psnr = record["sets"][training.validation.first]["psnr_y"]
            best, state.best = psnr > state.best, max(psnr, state.best)
        self.save(best=best)

    def save(self, *, best: bool = False) -> None:
        """Save, once every rank is here and has the same weights."""
        settle(self.training)
        # until the first rank has validated, which may take longer than a message may
        self.training.world.wait()
        compare_ranks(self.training)
        if self.training.world.leads:
            self._save(best=best)
        self.training.world.wait()

    def _save(self, *, best: bool) -> None:
        step, steps = self.training.state.step, self.training.experiment.optimization.steps
        try:
            save(self.training, self.run, seconds=self.meter.seconds(), best=best)
        except OSError as error:
            self._failed += 1
            if self._failed >= _FAILED_SAVES or step == steps:
                raise
            self.logbook.event(step, "not saved", f"could not save, training goes on: {error}")
        else:
            self._failed = 0

    def finish(self) -> None:
        """Write the samples for the report, once training is through."""
        training, experiment = self.training, self.training.experiment
        count = experiment.evaluation.samples
        if training.world.leads and count and training.validation.sets:
            with self._as_written():
                write_samples(
                    training.validation,
                    training.state.averaged,
                    training.teacher,
                    self.run.directory / "samples",
                    count,
                    label=experiment.method.name,
                )
        training.world.wait()


def compare_ranks(training: Training) -> None:
    """Make sure that every rank has the same student and extras."""
    state, world = training.state, training.world
    if world.size > 1:
        digest = fingerprint(state.student, state.extras)
        world.agree(f"the weights at step {state.step}", digest)
