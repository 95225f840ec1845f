"""What a run keeps of its training: one checkpoint, and the files made from it.

The checkpoint is the commit. ``student.safetensors``, ``best.safetensors`` and ``run.json`` follow
from it; whatever kept them from being written, ``mend`` writes them again on resume.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from dukd.networks.base import Network
from dukd.networks.files import weights
from dukd.runs.checkpoint import CheckpointError
from dukd.runs.directory import Run
from dukd.training.assemble import Training
from dukd.training.provenance import origin


def save(training: Training, run: Run, *, seconds: float, meter: Mapping[str, object]) -> None:
    """Write the checkpoint, then the averaged student.

    Raises:
        OSError: If it cannot be written; what was there is untouched.
    """
    training.objective.sync()
    state = training.state
    content = state.to_checkpoint(seconds) | digests(training)
    content |= {"facts": training.facts, "meter": dict(meter)}
    run.states.save(state.step, content, best=state.best_step)
    write_student(training, run.student)


def digests(training: Training) -> dict[str, str]:
    """What tells the images and the teacher of a run from others, wherever their files are."""
    return {
        "data_digest": training.share.patches.digest,
        "teacher_sha256": training.teacher_sha256,
    }


def write_student(training: Training, path: Path) -> None:
    """Write the averaged student as it is now.

    Raises:
        OSError: If it cannot be written.
    """
    state = training.state
    weights.write(path, state.averaged, metadata=origin(training, state.step))


def mend(training: Training, run: Run) -> list[str]:
    """Compare the files that follow from the restored state with it, and write them again.

    Returns:
        A sentence for each that was written, or taken away.

    Raises:
        OSError: If one cannot be written.
    """
    state, reports = training.state, list[str]()
    if not _facts_are(run, training.facts):
        run.write_facts(training.facts)
        reports.append(f"{run.facts.name} was missing or altered: it was written again")
    if not _is_written(run.student, state.averaged, origin(training, state.step)):
        write_student(training, run.student)
        reports.append(f"{run.student.name} was not that of step {state.step}: written again")
    return reports + mend_best(training, run)


def mend_best(training: Training, run: Run) -> list[str]:
    """Compare the best student's file with the checkpoint it came from; see `mend`."""
    state, path = training.state, run.best_student
    if state.best_step is None:
        if not path.exists():
            return []
        path.unlink()
        return [f"{path.name} is of a step after {state.step}: it was taken away"]
    expected = origin(training, state.best_step)
    best = state.averaged
    if state.best_step != state.step:
        best = copy.deepcopy(state.averaged)
        try:
            saved = cast("dict[str, Any]", run.states.read(state.best_step))
            best.load_state_dict(saved["averaged"])
        except (CheckpointError, OSError) as error:
            if _metadata(path).items() >= expected.items():
                return []  # its own checksum vouches for it
            step, state.best_step, state.best = state.best_step, None, float("-inf")
            path.unlink(missing_ok=True)
            return [f"the best student, of step {step}, is lost ({error}): chosen anew from here"]
    if _is_written(path, best, expected):
        return []
    weights.write(path, best, metadata=expected)
    return [f"{path.name} was not that of step {state.best_step}: written again"]


def _facts_are(run: Run, expected: Mapping[str, object]) -> bool:
    try:
        return run.read_facts() == expected
    except CheckpointError:
        return False


def _is_written(path: Path, network: Network, expected: Mapping[str, str]) -> bool:
    """Whether a file is sound, says what is expected, and holds the weights of a network."""
    try:
        theirs = weights.read(path)  # which holds all of it against its checksum
    except (ValueError, OSError):
        return False
    there, here = ((n.config, weights.tensors_sha256(n.state_dict())) for n in (theirs, network))
    return there == here and _metadata(path).items() >= expected.items()


def _metadata(path: Path) -> dict[str, str]:
    """What a sound file says of itself; nothing where it is not sound."""
    try:
        weights.read(path)  # which compares the tensors with their checksum
        return dict(weights.inspect(path).metadata)
    except (ValueError, OSError):
        return {}
