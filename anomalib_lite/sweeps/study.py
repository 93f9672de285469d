"""Which values to try next: Optuna, with its record in a file, so that a killed sweep goes on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from anomalib_lite.sweeps.spec import Sweep

RECORD = "study.journal"
INTERRUPTED = "interrupted"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Study:
    """The trials of a sweep, as Optuna keeps them in `folder`.

    What comes next depends on the seed and the trials before alone, not on where the sweep was interrupted.
    """

    def __init__(self, sweep: Sweep, folder: Path, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.seed = sweep, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.optuna = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / RECORD))),
            pruner=sweep.pruner or optuna.pruners.NopPruner(),
            study_name=sweep.name,
            directions=[objective.goal for objective in sweep.objectives],
            load_if_exists=True,
        )
        self.space = {key: parameter.space for key, parameter in sweep.parameters.items()}
        self._repeat_interrupted()
        if sweep.method == "grid":
            for values in itertools.product(*(p.grid() or () for p in sweep.parameters.values())):
                self.optuna.enqueue_trial(dict(zip(self.space, values, strict=True)), skip_if_exists=True)

    def ask(self) -> Trial | None:
        """The next trial; None where a grid is exhausted."""
        if self.sweep.method == "grid" and not self.optuna.get_trials(False, (TrialState.WAITING,)):
            return None
        # anew each time: a sampler's own state would be lost with the process
        asked = [t for t in self.optuna.get_trials(deepcopy=False) if INTERRUPTED not in t.user_attrs]
        seed = self.seed + sum(t.state != TrialState.WAITING for t in asked)
        self.optuna.sampler = (
            # multivariate stated: its default changed with Optuna 5
            optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)
            if self.sweep.method == "bayes"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        return self.optuna.ask(self.space)

    def values(self, trial: Trial | FrozenTrial) -> dict[str, Any]:
        """By Hydra key."""
        return {key: self.sweep.parameters[key].decode(value) for key, value in trial.params.items()}

    def complete(self, trial: Trial, results: Sequence[float]) -> None:
        self.optuna.tell(trial, list(results))

    def behind(self, trial: Trial, epoch: int, loss: float) -> bool:
        """Whether a trial is not among the best after so many epochs, from 1, each told once. Smaller is better."""
        trial.report(self.sweep.objectives[0].sign * loss, epoch)  # Optuna compares in the study's direction
        return trial.should_prune()

    def end(self, trial: Trial, state: TrialState, message: str) -> None:
        """state: PRUNED or FAIL."""
        trial.set_user_attr("message", message)
        self.optuna.tell(trial, state=state)

    def note(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        for name, value in facts.items():
            trial.set_user_attr(name, value)

    def ended(self) -> list[FrozenTrial]:
        """Done, pruned or failed; not those that a kill interrupted, which are tried again."""
        trials = self.optuna.get_trials(deepcopy=False, states=ENDED)
        return [trial for trial in trials if INTERRUPTED not in trial.user_attrs]

    def best(self) -> list[FrozenTrial]:
        """Of several objectives, those that no other trial beats in all; of one, all from the best on."""
        complete = [trial for trial in self.ended() if trial.state == TrialState.COMPLETE]
        if len(self.sweep.objectives) > 1:
            return sorted(self.optuna.best_trials, key=lambda trial: trial.values) if complete else []
        return sorted(complete, key=lambda trial: self.sweep.objectives[0].sign * trial.values[0])

    def _repeat_interrupted(self) -> None:
        for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = Trial(self.optuna, frozen._trial_id)
            self.note(trial, {INTERRUPTED: True})
            self.optuna.tell(trial, state=TrialState.FAIL)
            self.optuna.enqueue_trial(frozen.params)
