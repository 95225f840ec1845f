"""Saving, then judging, while training goes on; nothing that can fail comes before the save."""

import time
from contextlib import AbstractContextManager, nullcontext, suppress

from dukd.core.device import is_out_of_memory
from dukd.core.distributed import fingerprint
from dukd.data.pairs import PairsError
from dukd.images.io import ImageError
from dukd.networks.compile import as_written
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training.assemble import Training
from dukd.training.log import Meter, RunLog
from dukd.training.memory import TooLittleMemoryError
from dukd.training.samples import preview, write_samples
from dukd.training.saved import mend_best, save, write_student
from dukd.training.schedule import rate_factor
from dukd.training.step import settle

_UNREADABLE = (ImageError, PairsError, FileNotFoundError, PermissionError)
_FAILURES = 3
"""Saves, or validations, in a row that may fail before training stops."""


class Keeper:
    """Saves and validates; a disk that is full, or images that are away, for a while end no run."""

    def __init__(self, training: Training, run: Run, log: RunLog, meter: Meter) -> None:
        self.training, self.run, self.log, self.meter = training, run, log, meter
        self._saved_step = training.state.step
        self._saved_at = time.monotonic()
        self._best_is_written = True
        self._failed_saves = self._failed_validations = 0

    @property
    def _last(self) -> bool:
        return self.training.state.step == self.training.experiment.optimization.steps

    @property
    def due(self) -> bool:
        """Whether the last save is too long ago."""
        minutes = self.training.experiment.evaluation.save_minutes
        return time.monotonic() - self._saved_at > 60 * minutes

    def save(self, *, needed: bool = False) -> None:
        """Save, once every rank is here and has the same weights.

        Args:
            needed: Whether training ends here, so that a save that fails is an error.

        Raises:
            OSError: If it was needed, or was the third in a row that failed.
        """
        settle(self.training)
        # a message may not take as long as the first rank's work before this
        self.training.world.wait()
        compare_ranks(self.training)
        if self.training.world.leads:
            self._save(needed=needed)
        self._saved_at = time.monotonic()
        self.training.world.wait()

    def _save(self, *, needed: bool) -> None:
        self.log.sync()
        meter = self.meter.to_checkpoint()
        try:
            save(self.training, self.run, seconds=self.meter.seconds(), meter=meter)
            if not self._best_is_written:
                mend_best(self.training, self.run)
                self._best_is_written = True
        except OSError as error:
            self._failed_saves += 1
            if needed or self._last or self._failed_saves >= _FAILURES:
                raise
            text = f"could not save, training goes on: {error}"
            self.log.event(self.training.state.step, "not saved", text)
        else:
            self._failed_saves = 0
            self._saved_step = self.training.state.step

    def rescue(self) -> None:
        """Save what was trained since the last save, as something else ends the training.

        Of several ranks the first one does it, whichever failed: the others cannot say any more
        that they have the same weights, but the last line of the log found them equal, and a
        resumed run gives all ranks those that were saved.
        """
        state = self.training.state
        if self.training.world.leads and state.sound and self._saved_step < state.step:
            with suppress(ArithmeticError, ValueError, OSError):
                settle(self.training)
                if line_is_due(self.training) and self.meter.waits:
                    write_line(self.training, self.log, self.meter)  # no resumed run makes it again
                self._save(needed=True)

    def validate(self) -> None:
        """Judge the student, and keep it where it is the best so far.

        Raises:
            TooLittleMemoryError: If the images are too large.
            ValueError: If they cannot be read, and training ends here or it was the third time.
        """
        if self.training.world.leads and self.training.validation.sets:
            step = self.training.state.step
            try:
                self._validate()
            except _UNREADABLE as error:
                self._failed_validations += 1
                if self._last or self._failed_validations >= _FAILURES:
                    raise
                text = f"could not validate, training goes on: {error}"
                self.log.event(step, "not validated", text)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise TooLittleMemoryError(
                    f"validating after step {step} does not fit into the memory of "
                    f"{self.training.device}: judge by smaller images (--evaluation.sets), then "
                    "continue with --resume"
                ) from error
            else:
                self._failed_validations = 0
        self.training.world.wait()

    def _validate(self) -> None:
        training, state = self.training, self.training.state
        with self._as_written():
            record = training.validation.record(state.step, state.averaged, training.teacher)
        self.log.write(record)
        if self.log.shows_images:
            with self._as_written():
                images = preview(training.validation, state.averaged, training.teacher)
            self.log.images(state.step, images)
        score = training.validation.score(record["sets"])
        if score is not None and score > state.best:
            state.best, state.best_step = score, state.step
            self._write_best()

    def _write_best(self) -> None:
        """Write the best student; where that fails, the next save tries again."""
        try:
            write_student(self.training, self.run.best_student)
        except OSError as error:
            self._best_is_written = False
            if self._last:
                raise
            text = f"could not save the best student, training goes on: {error}"
            self.log.event(self.training.state.step, "not saved", text)

    def _as_written(self) -> AbstractContextManager[object]:
        """A context in which nothing is compiled or recorded for the sizes of test images."""
        optimization = self.training.experiment.optimization
        prepares = optimization.compile or optimization.cuda_graphs
        return as_written() if prepares else nullcontext()

    def finish(self) -> None:
        """Write the samples for the report, once training is through.

        Raises:
            CheckpointError: If that fails; the run itself is complete then.
        """
        training, experiment = self.training, self.training.experiment
        count = experiment.evaluation.samples
        if training.world.leads and count and training.validation.sets:
            try:
                with self._as_written():
                    write_samples(
                        training.validation,
                        training.state.averaged,
                        training.teacher,
                        self.run.directory / "samples",
                        count,
                        label=experiment.method.name,
                    )
            except (ValueError, OSError) as error:
                raise CheckpointError(
                    f"{self.run.directory} is trained and saved, but its samples could not be "
                    f"written ({error}): --resume writes them"
                ) from error
        training.world.wait()


def line_is_due(training: Training) -> bool:
    """Whether the log says something of this step."""
    step, steps = training.state.step, training.experiment.optimization.steps
    return step == steps or step % training.experiment.evaluation.log_every == 0


def write_line(training: Training, log: RunLog, meter: Meter) -> None:
    """Write the line of the log for the steps since the last one."""
    optimization, step = training.experiment.optimization, training.state.step
    rate = optimization.learning_rate * rate_factor(optimization, step - 1)
    log.write(meter.record(step, rate))


def compare_ranks(training: Training) -> None:
    """Make sure that every rank has the same student and extras."""
    state, world = training.state, training.world
    if world.size > 1:
        digest = fingerprint(state.student, state.extras)
        world.agree(f"the weights at step {state.step}", digest)
