"""Runs a sweep: samples trials from the study, starts trainings, prunes those that fall behind, collects results."""

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
PAUSE = 0.2  # seconds between two checks of the running trials
PATIENCE = 20.0  # seconds between SIGTERM and SIGKILL

Command = Callable[[Sequence[str]], list[str]]  # overrides of a training -> arguments of its process


class Training:
    """The process of a trial, observed through the files that it writes."""

    def __init__(self, trial: Trial, command: Sequence[str], folder: Path) -> None:
        """Starts the process; `folder` receives its log, and a file with the name of its run folder."""
        self.trial, self.command, self.begin = trial, command, time.perf_counter()
        self.reported = 0  # epochs that were reported to the study
        self.log, self.record = (folder / f"{trial.number:04d}.{end}" for end in ("log", "run"))
        self.record.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {RECORD: str(self.record.absolute())}
        with self.log.open("ab") as stream:
            # in a new session, so that Ctrl-C reaches only the sweep, which then stops its trials
            self.process = subprocess.Popen(  # noqa: S603 - this program, without a shell
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip

    @property
    def status(self) -> dict[str, Any]:
        """The run's status.json; empty while there is no run folder."""
        return RunFolder(self.folder).status if self.folder else {}

    @property
    def folder(self) -> Path | None:
        """The run folder; None until the process has written its name."""
        return Path(self.record.read_text().strip()) if self.record.is_file() else None

    def facts(self) -> dict[str, Any]:
        """Returns what the study stores about the trial."""
        seconds = round(time.perf_counter() - self.begin, 2)
        return {"seconds": seconds, "command": command_line(self.command), "folder": str(self.folder or "")}

    def stop(self) -> None:
        """Stops the process and its child processes."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def failure(self) -> str:
        """Returns why the process failed: the error in its run folder, else the last message in its log."""
        status = self.status
        if status.get("state") == "failed" and status.get("error"):
            return str(status["error"])
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        messages = [line for line in lines if line.startswith("error:")] or lines or ["no message"]
        return f"{messages[-1]} (exit status {self.process.returncode})"

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
    """Runs the missing trials of a sweep and returns the study; a failed trial does not stop the others.

    After an interruption, the same call continues: unfinished trials are started again, and their trainings resume.

    Args:
        sweep: The sweep.
        fixed: Overrides of every trial.
        folder: For the study and the logs of the trials.
        command: Makes the command of a training from its overrides.
        trials: Total number of trials, including earlier ones; None: the file's run_cap, or all of a grid.
        parallel: Number of trials that run at the same time.
        seed: Of the sampler.
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


def trials_in_all(sweep: Sweep, trials: int | None) -> int:
    """Returns the total number of trials. Raises UserError if neither the user nor the sweep limits it."""
    limit = trials or sweep.run_cap
    if sweep.method == "grid":
        return min(sweep.grid_size, limit or sweep.grid_size)
    if limit is None:
        raise UserError(
            f"A sweep with method {sweep.method} needs a number of trials: set it, e.g. trials=20, or add "
            "run_cap: 20 to the sweep file."
        )
    return limit


def _conclude(study: Study, training: Training) -> None:
    """Reports to the study how a process ended."""
    trial, folder = training.trial, training.folder
    study.note(trial, training.facts())
    try:
        if training.process.returncode != 0 or folder is None:
            raise UserError(training.failure())
        _rung(study, training)  # so that later trials are also compared with this one
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
    """Whether the training still has epochs left, so that stopping it saves time."""
    return "train" not in training.status.get("timings", {})


def _prune(study: Study, training: Training, epoch: int) -> None:
    """Stops a training that was behind the others after this epoch."""
    training.stop()
    trial, folder = training.trial, training.folder
    assert folder is not None  # its losses were read from there
    loss = losses(folder)[epoch - 1]
    message = f"pruned: after epoch {epoch} its {WATCHED} {loss:.4g} was not among the best of the sweep"
    write_json(folder / "status.json", training.status | {"state": "pruned", "error": message})
    study.note(trial, training.facts())
    study.end(trial, TrialState.PRUNED, message)
    log.info("trial %d %s   %s", trial.number, message, command_line(overrides(study.values(trial))))


def _rung(study: Study, training: Training) -> int | None:
    """Reports new epochs to the study; returns the epoch after which the trial was behind the others, if any."""
    if study.sweep.pruner is None:
        return None
    for loss in losses(training.folder)[training.reported :]:
        training.reported += 1
        if study.behind(training.trial, training.reported, loss):
            return training.reported
    return None


def losses(folder: Path | None, column: str = WATCHED) -> list[float]:
    """Returns the value of a column of history.csv for each epoch; empty if there is none yet."""
    rows = RunFolder(folder).history() if folder else []
    return [float(row[column]) for row in rows if row.get(column)]


def read_results(folder: Path, objectives: Sequence[Objective]) -> list[float]:
    """Returns the objectives' values of a run. Raises UserError for a metric that the run does not have."""
    run = RunFolder(folder)
    metrics = run.metrics
    values = {
        name: float(value)
        for name, value in (flat(run.status) | flat(metrics)).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    results = []
    for objective in objectives:
        name = objective.name.replace(".", "/")
        if name not in values and (curve := losses(folder, objective.name)):
            values[name] = curve[-1]
        if name not in values:
            reason = metrics.get("missing", {}).get(name) or f"the run has {', '.join(sorted(values))}"
            raise UserError(f"There is no metric '{objective.name}': {reason}.")
        results.append(values[name])
    return results
