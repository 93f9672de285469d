"""Runs a sweep: Optuna samples trials and stores them in a file, so that a killed sweep continues. Each trial is a
training in its own process, which is stopped if it falls behind.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import exclusive_lock
from anomalib_lite.runs.atomic import write_json, write_text
from anomalib_lite.runs.folder import RECORD, RunFolder
from anomalib_lite.runs.overrides import PROGRAM, command_line, flat, literal, overrides
from anomalib_lite.sweeps.spec import Objective, Sweep

log = logging.getLogger(__name__)
JOURNAL = "study.journal"
INTERRUPTED = "interrupted"
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
SHOWN = 10  # best trials that are printed
WATCHED = "val_loss"
PAUSE = 0.2  # seconds between two checks of the running trials
PATIENCE = 20.0  # seconds between SIGTERM and SIGKILL

Command = Callable[[Sequence[str]], list[str]]  # overrides of a training -> arguments of its process


class Study:
    """The trials of a sweep, stored by Optuna in `folder`.

    The next trial depends only on the seed and the earlier trials, not on interruptions of the sweep.
    """

    def __init__(self, sweep: Sweep, folder: Path, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.seed = sweep, seed
        folder.mkdir(parents=True, exist_ok=True)
        # a lock of the operating system is released by a kill; Optuna's lock files would remain and block later starts
        lock: Any = FileLock(folder / ".lock")
        self.optuna = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock)),
            pruner=sweep.pruner or optuna.pruners.NopPruner(),
            study_name=sweep.name,
            directions=[objective.goal for objective in sweep.objectives],
            load_if_exists=True,
        )
        self.space = {key: parameter.space for key, parameter in sweep.parameters.items()}
        for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # interrupted: repeat
            self.end(Trial(self.optuna, frozen._trial_id), TrialState.FAIL, {INTERRUPTED: True})
            self.optuna.enqueue_trial(frozen.params)
        if sweep.method == "grid":
            for values in itertools.product(*(p.grid() or () for p in sweep.parameters.values())):
                self.optuna.enqueue_trial(dict(zip(self.space, values, strict=True)), skip_if_exists=True)

    def ask(self) -> Trial | None:
        """Returns the next trial; None if a grid is exhausted."""
        if self.sweep.method == "grid" and not self.optuna.get_trials(False, (TrialState.WAITING,)):
            return None
        # a new sampler for each trial, because its state would be lost with the process
        trials = [t for t in self.optuna.get_trials(deepcopy=False) if INTERRUPTED not in t.user_attrs]
        seed = self.seed + sum(t.state != TrialState.WAITING for t in trials)
        self.optuna.sampler = (
            # multivariate is explicit because its default changed with Optuna 5
            optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)
            if self.sweep.method == "bayes"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        return self.optuna.ask(self.space)

    def values(self, trial: Trial | FrozenTrial) -> dict[str, Any]:
        """Returns the parameters' values of a trial by Hydra key."""
        return {key: self.sweep.parameters[key].decode(value) for key, value in trial.params.items()}

    def behind(self, trial: Trial, epoch: int, loss: float) -> bool:
        """Reports the loss after an epoch (from 1, each once); returns whether the trial should be stopped."""
        trial.report(self.sweep.objectives[0].sign * loss, epoch)  # Optuna compares in the study's direction
        return trial.should_prune()

    def end(self, trial: Trial, state: TrialState, facts: Mapping[str, Any], values: list[float] | None = None) -> None:
        """Stores facts about a trial and ends it; values: of the objectives, if it is complete."""
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        self.optuna.tell(trial, values, state)

    def ended(self) -> list[FrozenTrial]:
        """Returns the trials that are done, pruned or failed; interrupted ones, which are repeated, do not count."""
        trials = self.optuna.get_trials(deepcopy=False, states=tuple(STATES))
        return [trial for trial in trials if INTERRUPTED not in trial.user_attrs]

    def best(self) -> list[FrozenTrial]:
        """Returns the complete trials, the best first; with several objectives only the Pareto front."""
        complete = [trial for trial in self.ended() if trial.state == TrialState.COMPLETE]
        if len(self.sweep.objectives) > 1:
            return sorted(self.optuna.best_trials, key=lambda trial: trial.values) if complete else []
        return sorted(complete, key=lambda trial: self.sweep.objectives[0].sign * trial.values[0])


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
    def run(self) -> RunFolder | None:
        """The run folder; None until the process has written its name."""
        return RunFolder(self.record.read_text().strip()) if self.record.is_file() else None

    def facts(self) -> dict[str, Any]:
        """Returns what the study stores about the trial."""
        seconds, run = round(time.perf_counter() - self.begin, 2), self.run
        return {"seconds": seconds, "command": command_line(self.command), "folder": str(run.path) if run else ""}

    def stop(self) -> None:
        """Stops the process and its child processes."""
        self.terminate()
        self.wait()

    def terminate(self) -> None:
        """Asks the processes to stop, without waiting; asked twice, they could not clean up."""
        self._signal(signal.SIGTERM)

    def wait(self) -> None:
        """Waits until the terminated processes have ended, and kills those that do not end."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def failure(self) -> str:
        """Returns why the process failed: the error in its run folder, else the last message in its log."""
        status = self.run.status if self.run else {}
        if status.get("state") == "failed" and status.get("error"):
            return str(status["error"])
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        messages = [line for line in lines if line.startswith("error:")] or lines or ["no message"]
        return f"{messages[-1]} (exit status {self.process.returncode})"


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
    fixed: overrides of every trial. folder: for the study and the logs. trials, parallel: see `trials_in_all`, and the
    number of trials that run at the same time. seed: of the sampler. Raises UserError if another process runs it.
    """
    total = trials_in_all(sweep, trials)
    running: list[Training] = []
    with (
        exclusive_lock(folder, wait=False),  # the trials of another process are not interrupted ones
        contextlib.nullcontext(Study(sweep, folder, seed)) as study,
        logging_redirect_tqdm(),
        tqdm(total=total, initial=min(len(study.ended()), total), desc="trials") as bar,
    ):
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
                    elif not ((rung := _rung(study, training)) and _prune(study, training, *rung)):
                        continue
                    running.remove(training)
                    bar.update()
        finally:
            for training in running:  # all at once: a second Ctrl-C may end the waiting
                training.terminate()
            for training in running:
                training.wait()


def trials_in_all(sweep: Sweep, trials: int | None) -> int:
    """Returns the user's number of trials (earlier ones count), the file's run_cap or all of a grid; else UserError."""
    limit = trials or sweep.run_cap
    if sweep.method == "grid":
        size = math.prod(len(parameter.grid() or ()) for parameter in sweep.parameters.values())
        return min(size, limit or size)
    if limit is None:
        raise UserError(
            f"A sweep with method {sweep.method} needs a number of trials: set it, e.g. trials=20, or add "
            "run_cap: 20 to the sweep file."
        )
    return limit


def _rung(study: Study, training: Training) -> tuple[int, float] | None:
    """Reports new epochs to the study; returns the epoch and loss in which the trial was behind the others, if any."""
    for loss in curve(training.run)[training.reported :] if study.sweep.pruner else ():
        training.reported += 1
        if study.behind(training.trial, training.reported, loss):
            return training.reported, loss
    return None


def curve(run: RunFolder | None, column: str = WATCHED) -> list[float]:
    """Returns a column of history.csv, one value per epoch; empty if there is none yet."""
    return [float(row[column]) for row in run.history() if row.get(column)] if run else []


def _prune(study: Study, training: Training, epoch: int, loss: float) -> bool:
    """Stops a training that was behind the others after an epoch, if it has epochs left, so that this saves time."""
    if (run := training.run) is None or "train" in run.status.get("timings", {}):
        return False
    training.stop()
    message = f"pruned: after epoch {epoch} its {WATCHED} {loss:.4g} was not among the best of the sweep"
    status = RunFolder(run.path).status
    write_json(run.path / "status.json", status | {"state": "pruned", "error": message})
    study.end(training.trial, TrialState.PRUNED, training.facts() | {"message": message})
    log.info("trial %d %s   %s", training.trial.number, message, command_line(overrides(study.values(training.trial))))
    return True


def _conclude(study: Study, training: Training) -> None:
    """Reports to the study how a process ended."""
    trial, run, facts = training.trial, training.run, training.facts()
    try:
        if training.process.returncode != 0 or run is None:
            raise UserError(training.failure())
        _rung(study, training)  # so that later trials are also compared with this one
        results = read_results(run, study.sweep.objectives)
        if not all(map(math.isfinite, results)):
            raise UserError(f"the results are not finite: {results}")
    except UserError as error:
        log.warning("trial %d failed: %s", trial.number, error)
        study.end(trial, TrialState.FAIL, facts | {"message": str(error)})
        return
    study.end(trial, TrialState.COMPLETE, facts, results)
    values = ", ".join(f"{o.name} {v:.4g}" for o, v in zip(study.sweep.objectives, results, strict=True))
    log.info("trial %d: %s   %s", trial.number, values, command_line(overrides(study.values(trial))))


def read_results(run: RunFolder, objectives: Sequence[Objective]) -> list[float]:
    """Returns the objectives' values of a run. Raises UserError for a metric that the run does not have."""
    metrics, results = run.metrics, []
    known = flat(run.status) | flat(metrics)
    values = {k: float(v) for k, v in known.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    for objective in objectives:
        name = objective.name.replace(".", "/")
        if name not in values and (epochs := curve(run, objective.name)):
            values[name] = epochs[-1]
        if name not in values:
            near = difflib.get_close_matches(name, values, 3) or sorted(values)
            reason = metrics.get("missing", {}).get(name)
            why = f"{reason}." if reason else f"did you mean {', '.join(near)}?"
            raise UserError(f"There is no metric '{objective.name}': {why}")
        results.append(values[name])
    return results


def conclude(study: Study, fixed: Sequence[str], folder: Path) -> str | None:
    """Writes trials.csv and prints the results; returns a list of failures with their messages and commands."""
    ended, best = study.ended(), study.best()
    write_text(folder / "trials.csv", trials_table(study, ended).to_csv(index=False))
    states = [STATES[trial.state] for trial in ended]
    counted = ", ".join(f"{states.count(s)} {s}" for s in STATES.values() if s in states)
    print(f"{study.sweep.name}: {len(ended)} trials ({counted or 'none'})")
    if mixed := _of_other_data(study, ended):
        print(
            f"WARNING: trials {mixed} learned from other data than the last one, so their values do not compare: "
            f"remove {folder} to repeat them."
        )
    commands = {t.number: command_line([PROGRAM, "train", *fixed, *overrides(study.values(t))]) for t in ended}
    if best:
        print(best_table(study, best[:SHOWN]))
        print("best:", commands[best[0].number])
    print(folder / "trials.csv", flush=True)
    failed = [trial for trial in ended if trial.state == TrialState.FAIL]
    told = [f"  trial {t.number}: {t.user_attrs.get('message', '')}\n    {commands[t.number]}" for t in failed]
    return "\n".join([f"{len(failed)} trial(s) of the sweep failed:", *told]) if failed else None


def _of_other_data(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """Lists the trials whose data, by content, differ from those of the last trial with the same data settings."""
    found: dict[str, dict[int, str]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            settings = {k: v for k, v in study.values(trial).items() if k.split(".")[0] in ("data", "seed")}
            if seen := RunFolder(trial.user_attrs.get("folder", "")).environment.get("data_fingerprint"):
                found.setdefault(str(settings), {})[trial.number] = seen
    return ", ".join(str(n) for seen in found.values() for n, data in seen.items() if data != [*seen.values()][-1])


def best_table(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """Returns a table with one line per trial: objectives, then the parameters that vary."""
    objectives, parameters = study.sweep.objectives, study.sweep.parameters
    rows = []
    for trial in trials:
        cells = dict(zip([o.name for o in objectives], trial.values, strict=True))
        cells |= {key: value for key, value in study.values(trial).items() if not parameters[key].space.single()}
        shown = {k: f"{v:.4g}" if isinstance(v, float) else literal(v) for k, v in cells.items()}
        rows.append({"trial": trial.number, **shown})
    title = "best trials" if len(objectives) == 1 else "Pareto front"
    goals = ", ".join(f"{o.goal} {o.name}" for o in objectives)
    return f"{title} ({goals}):\n{pd.DataFrame(rows).to_string(index=False)}"


def trials_table(study: Study, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Returns a table of trial, state, objectives, parameters in Hydra's syntax, seconds, folder and message."""
    names, facts = [o.name for o in study.sweep.objectives], ("seconds", "folder", "message")
    rows = []
    for trial in trials:
        results = trial.values if trial.state == TrialState.COMPLETE else [None] * len(names)
        row = {"trial": trial.number, "state": STATES[trial.state], **dict(zip(names, results, strict=True))}
        rows.append(row | {key: literal(value) for key, value in study.values(trial).items()} | trial.user_attrs)
    return pd.DataFrame(rows, columns=["trial", "state", *names, *study.sweep.parameters, *facts])
