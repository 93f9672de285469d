"""Running a sweep: asks the study what to try, starts trainings, stops those that fall behind, collects results."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import Trial, TrialState
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.folder import RECORD, RunFolder
from anomalib_lite.runs.overrides import command_line, flat, overrides
from anomalib_lite.sweeps.spec import Objective, Sweep
from anomalib_lite.sweeps.study import Study

log = logging.getLogger(__name__)
WATCHED = "val_loss"
PAUSE = 0.2  # seconds between two looks at the running trials
PATIENCE = 20.0  # seconds between asking a process to end and ending it

Command = Callable[[Sequence[str]], list[str]]  # overrides of a training -> the process's arguments


class Training:
    """The process of a trial, watched through the files that it writes."""

    def __init__(self, trial: Trial, command: Sequence[str], place: Path) -> None:
        """Starts it. place: folder of its log, and of the file that gets the name of its run folder."""
        self.trial, self.command, self.begin = trial, command, time.perf_counter()
        self.told = 0  # epochs that the study knows of
        self.log, self.record = (place / f"{trial.number:04d}.{end}" for end in ("log", "run"))
        self.record.unlink(missing_ok=True)
        place.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {RECORD: str(self.record.absolute())}
        with self.log.open("ab") as stream:
            # a session of its own: Ctrl-C reaches the sweep, which ends its trials itself
            self.process = subprocess.Popen(  # noqa: S603 - ourselves, without a shell
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip

    @property
    def status(self) -> dict[str, Any]:
        """What its run folder says of it; empty before it has one."""
        return RunFolder(self.folder).status if self.folder else {}

    @property
    def folder(self) -> Path | None:
        """Its run folder, once it has named it."""
        return Path(self.record.read_text().strip()) if self.record.is_file() else None

    def facts(self) -> dict[str, Any]:
        """What the study remembers of it."""
        seconds = round(time.perf_counter() - self.begin, 2)
        return {"seconds": seconds, "command": command_line(self.command), "folder": str(self.folder or "")}

    def stop(self) -> None:
        """Ends the process and those that it started."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def complaint(self) -> str:
        """Why it failed: the run folder knows, or else the last of what it said does."""
        status = self.status
        if status.get("state") == "failed" and status.get("error"):
            return str(status["error"])
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("error:")] or lines or ["it said nothing"]
        return f"{said[-1]} (exit status {self.process.returncode})"

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            self.process.poll()


def run_sweep(
    sweep: Sweep,
    fixed: Sequence[str],
    folder: Path,
    command: Command,
    trials: int | None = None,
    parallel: int = 1,
    seed: int = 0,
) -> Study:
    """Runs what is missing, and returns the study; a failed trial does not stop the others. The same call goes on where
    an earlier one was interrupted: its unfinished trials are started again, and their trainings resume.

    Args:
        fixed: Overrides of every trial.
        folder: Of the study and of the trials' logs.
        trials: How many in all, those of earlier starts included; None: the file's run_cap, or all of a grid.
        parallel: How many at once.
        seed: Of what is drawn.
    """
    total = trials_in_all(sweep, trials)
    study = Study(sweep, folder, seed)
    running: list[Training] = []
    with logging_redirect_tqdm(), tqdm(total=total, initial=min(len(study.ended()), total), desc="trials") as bar:
        try:
            while True:
                while len(running) < parallel and len(study.ended()) + len(running) < total:
                    if (trial := study.ask()) is None:
                        break
                    arguments = command([*fixed, *overrides(study.values(trial))])
                    running.append(Training(trial, arguments, folder / "trials"))
                if not running:
                    return study
                time.sleep(PAUSE)
                for training in list(running):
                    if training.process.poll() is not None:
                        _conclude(study, training)
                    elif (epoch := _rung(study, training)) and _goes_on(training):
                        _prune(study, training, epoch)
                    else:
                        continue
                    running.remove(training)
                    bar.update()
        finally:
            for training in running:
                training.stop()


def trials_in_all(sweep: Sweep, asked: int | None) -> int:
    """Errors: UserError where a sweep that has no end of its own is given none."""
    limit = asked or sweep.run_cap
    if sweep.method == "grid":
        return min(sweep.grid_size, limit or sweep.grid_size)
    if limit is None:
        raise UserError(
            f"A sweep by the method {sweep.method} has no end of its own: say how many, e.g. trials=20, or write "
            "run_cap: 20 into its file."
        )
    return limit


def _conclude(study: Study, training: Training) -> None:
    """Tells the study how a process ended."""
    trial, folder = training.trial, training.folder
    study.note(trial, training.facts())
    try:
        if training.process.returncode != 0 or folder is None:
            raise UserError(training.complaint())
        _rung(study, training)  # later trials are compared with this one, too
        results = read_results(folder, study.sweep.objectives)
        if not all(map(math.isfinite, results)):
            raise UserError(f"the results are not finite: {results}")
    except UserError as error:
        log.warning("trial %d failed: %s", trial.number, error)
        study.end(trial, TrialState.FAIL, str(error))
        return
    study.optuna.tell(trial, results)
    values = ", ".join(f"{o.name} {v:.4g}" for o, v in zip(study.sweep.objectives, results, strict=True))
    log.info("trial %d: %s   %s", trial.number, values, command_line(overrides(study.values(trial))))


def _goes_on(training: Training) -> bool:
    """Whether it has epochs left that stopping it spares."""
    return "train" not in training.status.get("timings", {})


def _prune(study: Study, training: Training, epoch: int) -> None:
    """Stops a training that fell behind the others after this epoch."""
    training.stop()
    trial, folder = training.trial, training.folder
    assert folder is not None  # its losses were read there
    loss = losses(folder)[epoch - 1]
    message = f"pruned: after epoch {epoch} its {WATCHED} {loss:.4g} was not among the best of the sweep"
    write_json(folder / "status.json", training.status | {"state": "pruned", "error": message})
    study.note(trial, training.facts())
    study.end(trial, TrialState.PRUNED, message)
    log.info("trial %d %s   %s", trial.number, message, command_line(overrides(study.values(trial))))


def _rung(study: Study, training: Training) -> int | None:
    """Tells the study of the epochs since the last look; the one after which the trial was behind, if any."""
    if study.sweep.pruner is None:
        return None
    for loss in losses(training.folder)[training.told :]:
        training.told += 1
        if study.behind(training.trial, training.told, loss):
            return training.told
    return None


def losses(folder: Path | None, column: str = WATCHED) -> list[float]:
    """A figure's value each epoch; empty where there is none yet."""
    rows = RunFolder(folder).history() if folder else []
    return [float(row[column]) for row in rows if row.get(column)]


def read_results(folder: Path, objectives: Sequence[Objective]) -> list[float]:
    """The figures that a sweep is after. Errors: UserError for one that the run does not have, with what it has."""
    run = RunFolder(folder)
    metrics = run.metrics
    known = {
        name: float(value)
        for name, value in (flat(run.status) | flat(metrics)).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    results = []
    for objective in objectives:
        name = objective.name.replace(".", "/")
        if name not in known and (curve := losses(folder, objective.name)):
            known[name] = curve[-1]
        if name not in known:
            reason = metrics.get("missing", {}).get(name) or f"the run has {', '.join(sorted(known))}"
            raise UserError(f"There is no figure '{objective.name}': {reason}.")
        results.append(known[name])
    return results
