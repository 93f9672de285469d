"""Samples trials with Optuna, stores them in a file so that a killed sweep continues, and reports the results."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.overrides import PROGRAM, command_line, literal, overrides
from anomalib_lite.sweeps.spec import Sweep

RECORD = "study.journal"
INTERRUPTED = "interrupted"
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
SHOWN = 10  # best trials that are printed


class _SystemLock(JournalFileOpenLock):
    """A lock of the operating system, released by a kill; Optuna's lock files would remain and block later starts."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class Study:
    """The trials of a sweep, stored by Optuna in `folder`.

    The next trial depends only on the seed and the earlier trials, not on interruptions of the sweep.
    """

    def __init__(self, sweep: Sweep, folder: Path, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.seed = sweep, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.optuna = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / RECORD), _SystemLock(folder / ".lock"))),
            pruner=sweep.pruner or optuna.pruners.NopPruner(),
            study_name=sweep.name,
            directions=[objective.goal for objective in sweep.objectives],
            load_if_exists=True,
        )
        self.space = {key: parameter.space for key, parameter in sweep.parameters.items()}
        for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # interrupted: repeat
            trial = Trial(self.optuna, frozen._trial_id)
            self.note(trial, {INTERRUPTED: True})
            self.optuna.tell(trial, state=TrialState.FAIL)
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

    def end(self, trial: Trial, state: TrialState, message: str) -> None:
        """Ends a trial with the state PRUNED or FAIL."""
        trial.set_user_attr("message", message)
        self.optuna.tell(trial, state=state)

    def note(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """Stores facts about a trial."""
        for name, value in facts.items():
            trial.set_user_attr(name, value)

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


def conclude(study: Study, fixed: Sequence[str], folder: Path) -> str | None:
    """Writes trials.csv and prints the results; returns a list of failures with their messages and commands."""
    ended, best = study.ended(), study.best()
    write_text(folder / "trials.csv", trials_table(study, ended).to_csv(index=False))
    states = [STATES[trial.state] for trial in ended]
    counted = ", ".join(f"{states.count(s)} {s}" for s in STATES.values() if s in states)
    print(f"{study.sweep.name}: {len(ended)} trials ({counted or 'none'})")
    if best:
        print(best_table(study, best[:SHOWN]))
        print("best:", ready_command(study, best[0], fixed))
    print(folder / "trials.csv", flush=True)
    failures = [trial for trial in ended if trial.state == TrialState.FAIL]
    if not failures:
        return None
    listed = "\n".join(
        f"  trial {t.number}: {t.user_attrs.get('message', '')}\n    {ready_command(study, t, fixed)}" for t in failures
    )
    return f"{len(failures)} trial(s) of the sweep failed:\n{listed}"


def best_table(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """Returns a table with one line per trial: objectives, then the parameters that vary."""
    objectives = study.sweep.objectives
    varying = [key for key, parameter in study.sweep.parameters.items() if not parameter.space.single()]
    rows = []
    for trial in trials:
        results = dict(zip([o.name for o in objectives], trial.values, strict=True))
        chosen = {key: value for key, value in study.values(trial).items() if key in varying}
        cells = {k: f"{v:.4g}" if isinstance(v, float) else literal(v) for k, v in (results | chosen).items()}
        rows.append({"trial": trial.number, **cells})
    title = "best trials" if len(objectives) == 1 else "Pareto front"
    goals = ", ".join(f"{o.goal} {o.name}" for o in objectives)
    return f"{title} ({goals}):\n{pd.DataFrame(rows).to_string(index=False)}"


def ready_command(study: Study, trial: FrozenTrial, fixed: Sequence[str]) -> str:
    """Returns the command line of a trial."""
    return command_line([PROGRAM, "train", *fixed, *overrides(study.values(trial))])


def trials_table(study: Study, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Returns a table of trial, state, objectives, parameters in Hydra's syntax, seconds, folder and message."""
    names, facts = [o.name for o in study.sweep.objectives], ("seconds", "folder", "message")
    rows = []
    for trial in trials:
        results = trial.values if trial.state == TrialState.COMPLETE else [None] * len(names)
        row: dict[str, Any] = {"trial": trial.number, "state": STATES[trial.state]}
        row |= dict(zip(names, results, strict=True)) | {k: literal(v) for k, v in study.values(trial).items()}
        rows.append(row | {name: trial.user_attrs.get(name) for name in facts})
    return pd.DataFrame(rows, columns=["trial", "state", *names, *study.sweep.parameters, *facts])
