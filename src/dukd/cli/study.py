"""The command that trains a whole table: recipes times methods times seeds."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dukd.cli.terminal import PARTIAL, Bar, say, table, warn
from dukd.cli.train import Watcher
from dukd.core.device import DeviceName, by_name
from dukd.core.text import duration, shown
from dukd.recipes.families import config_of
from dukd.recipes.study import Cell, Study
from dukd.recipes.study_plan import plan
from dukd.recipes.study_standing import Standing, described, failures, standing
from dukd.recipes.study_tables import write_tables
from dukd.recipes.studying import run_cell
from dukd.testing.price import step_seconds
from dukd.training.teachers import File

_INTERRUPTED = 75


@dataclass(frozen=True, kw_only=True)
class StudyOf:
    """Train and measure a whole table: recipes times methods times seeds, from a YAML file.

    Each cell is a run directory. Interrupted, the same command goes on where it was; what is
    finished stays. It ends in OUT/study.md and a page for each recipe.

    Example: dukd study study.yaml --out runs/study --workers 2

    Plan it first: dukd study study.yaml --plan. As an array of SLURM: dukd study study.yaml --slurm
    prints the command.
    """

    file: tyro.conf.Positional[Path]
    """The study; `dukd.recipes.study` shows one."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of its runs; runs/NAME if left out."""
    workers: int = 1
    """Cells that are trained at once, in processes of their own."""
    threads: int = 1
    """Threads of each."""
    plan: bool = False
    """Only measure what a step of each cell costs, and print the time and the energy left."""
    watts: float = 10.0
    """What a busy core draws, for the energy."""
    tables: bool = False
    """Only write the tables of what is finished."""
    slurm: bool = False
    """Only print the command that runs every cell as a task of a SLURM array."""
    cell: str = ""
    """Only this cell, by its name or its number from 0: what a worker or a task runs."""
    device: DeviceName = "auto"
    """Where to train."""

    def __call__(self) -> int:
        if self.workers < 1 or self.threads < 1 or self.watts <= 0:
            raise ValueError("--workers and --threads are at least 1, and --watts is above 0")
        study = Study.from_file(self.file)
        out = self.out or Path("runs") / self.file.stem
        if self.cell:
            return self._one(study, _chosen(study, self.cell), out)
        standings = standing(study, out)
        say(described(standings))
        if self.slurm:
            say(self._array(len(standings), out))
            return 0
        if self.plan:
            return self._plan(standings)
        if not self.tables:
            waiting = [s.cell for s in standings if s.stage != "measured"]
            stopped = self._all(waiting, out)
            if stopped:
                say(f"stopped; the same command goes on: {described(standing(study, out))}")
                return _INTERRUPTED
        standings = standing(study, out)
        written, problems = write_tables(study, out, standings)
        say("\n".join(f"wrote {shown(path)}" for path in written))
        problems += failures(standings)
        if problems:
            warn(f"{len(problems)} not in the tables:", problems)
        return PARTIAL if problems else 0

    def _one(self, study: Study, cell: Cell, out: Path) -> int:
        with Bar() as bar:
            run = run_cell(
                study,
                cell,
                out,
                device=by_name(self.device),
                observe=Watcher(bar),
                progress=bar,
            )
        say(f"{shown(run)} is trained and measured")
        return 0

    def _all(self, waiting: Sequence[Cell], out: Path) -> bool:
        """Run cells, some at once; whether it was interrupted."""
        if not waiting:
            return False
        running: list[subprocess.Popen[bytes]] = []
        stopping = False
        signal.signal(signal.SIGTERM, signal.default_int_handler)

        def run(cell: Cell) -> int:
            if stopping:
                return _INTERRUPTED
            log = out / "logs" / f"{cell.name}.txt"
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                process = subprocess.Popen(  # noqa: S603  ourselves, with our own arguments
                    self._command(cell.name, out),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # so that a Ctrl-C reaches it once, through us
                    env=os.environ | {"OMP_NUM_THREADS": str(self.threads)},
                )
                running.append(process)
                return process.wait()

        with Bar() as bar, ThreadPoolExecutor(self.workers) as pool:
            jobs = {pool.submit(run, cell): cell for cell in waiting}
            bar(0, len(waiting), f"logs are in {shown(out / 'logs')}")
            try:
                for done, job in enumerate(as_completed(jobs), start=1):
                    cell, code = jobs[job], job.result()
                    bar(done, len(waiting), cell.name)
                    if code:
                        bar.say(f"{cell.name} ended with code {code}")
            except KeyboardInterrupt:
                stopping = True
                for process in running:
                    if process.poll() is None:
                        process.send_signal(signal.SIGINT)
        return stopping

    def _command(self, cell: str, out: Path) -> list[str]:
        own = ["study", str(self.file), "--out", str(out), "--cell", cell, "--device", self.device]
        return [sys.executable, "-m", "dukd", *own]

    def _array(self, count: int, out: Path) -> str:
        command = shlex.join(
            ["dukd", "study", str(self.file), "--out", str(out), "--device", self.device]
        )
        wrapped = shlex.quote(f"{command} --cell $SLURM_ARRAY_TASK_ID")
        return (
            f"sbatch --array 0-{count - 1} --cpus-per-task {self.threads} --signal B:TERM@120 "
            f"--requeue --wrap {wrapped}"
        )

    def _plan(self, standings: Sequence[Standing]) -> int:
        prices: dict[tuple[str, str], tuple[float, float]] = {}

        def price(cell: Cell) -> tuple[float, float]:
            teacher = cell.experiment.teacher
            missing = isinstance(teacher, File) and not teacher.weights.exists()
            named = config_of(teacher, cell.experiment.student.scale) if teacher else None
            found = step_seconds(cell.experiment, named if missing else teacher)
            prices[cell.recipe, cell.method] = found
            return found

        made = plan(standings, price)
        lines: list[tuple[str, ...]] = []
        for (networks, method), (live, replayed) in prices.items():
            own = [s for s in standings if (s.cell.recipe, s.cell.method) == (networks, method)]
            left = sum(made.seconds.get(s.cell.name, 0.0) for s in own)
            lines.append(
                (
                    f"{networks}-{method}",
                    f"{1000 * live:.0f}",
                    f"{1000 * replayed:.0f}",
                    f"{len(own)}",
                    duration(left),
                )
            )
        head = ("cell", "ms per step", "replayed", "seeds", "CPU time left")
        table(head, lines, right=True)
        say(
            f"left: {duration(made.total)} of one core, {duration(made.total / self.workers)} with "
            f"--workers {self.workers}, {made.energy(self.watts):.2f} kWh at {self.watts:g} W for "
            "each busy core"
        )
        return 0


def _chosen(study: Study, name: str) -> Cell:
    cells = study.cells()
    by_name_ = {cell.name: cell for cell in cells}
    if name in by_name_:
        return by_name_[name]
    if name.isdecimal() and int(name) < len(cells):
        return cells[int(name)]
    raise ValueError(
        f"there is no cell {name!r}: take a number from 0 to {len(cells) - 1}, or a name such as "
        f"{cells[0].name}"
    )
