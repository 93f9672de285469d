"""Which values to try next: Optuna, with its record in a file, so that a killed sweep goes on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Asked:
    """A trial to run: the values of its parameters, by Hydra key."""

    number: int
    values: dict[str, Any]
    trial: Trial


class Study:
    """The trials of a sweep, as Optuna keeps them in `folder`.

    What comes next depends on the seed and the trials before alone, not on where the sweep was interrupted.
    """

    def __init__(self, sweep: Sweep, folder: Path, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.seed = sweep, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / RECORD))),
            study_name=sweep.name,
            directions=[objective.goal for objective in sweep.objectives],
            load_if_exists=True,
        )
        self.space = {key: d.search_space() for key, d in sweep.parameters.items()}
        self._repeat_interrupted()
        if sweep.method == "grid":
            for values in itertools.product(*(d.grid() or () for d in sweep.parameters.values())):
                self.study.enqueue_trial(dict(zip(self.space, values, strict=True)), skip_if_exists=True)

    def ask(self) -> Asked | None:
        """The next trial; None where a grid is exhausted."""
        if self.sweep.method == "grid" and not self.study.get_trials(False, (TrialState.WAITING,)):
            return None
        # anew each time: a sampler's own state would be lost with the process
        asked = [t for t in self.study.get_trials(deepcopy=False) if INTERRUPTED not in t.user_attrs]
        seed = self.seed + sum(t.state != TrialState.WAITING for t in asked)
        self.study.sampler = (
            optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            if self.sweep.method == "bayes"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        trial = self.study.ask(self.space)
        return Asked(trial.number, self.values(trial.params), trial)

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.sweep.parameters[key].decode(value) for key, value in drawn.items()}

    def complete(self, asked: Asked, results: Sequence[float]) -> None:
        self.study.tell(asked.trial, list(results))

    def prune(self, asked: Asked, curve: Sequence[float]) -> None:
        """curve: of the validation loss, from which TPE learns too where there is one objective."""
        if len(self.sweep.objectives) > 1:
            self.fail(asked, f"pruned after {len(curve)} epochs")
            return
        for epoch, value in enumerate(curve, 1):
            asked.trial.report(value, epoch)
        self.study.tell(asked.trial, state=TrialState.PRUNED)

    def fail(self, asked: Asked, message: str) -> None:
        asked.trial.set_user_attr("message", message)
        self.study.tell(asked.trial, state=TrialState.FAIL)

    def note(self, asked: Asked, **facts: Any) -> None:
        for name, value in facts.items():
            asked.trial.set_user_attr(name, value)

    def ended(self) -> list[FrozenTrial]:
        """Done, pruned or failed; not those that a kill interrupted, which are tried again."""
        trials = self.study.get_trials(deepcopy=False, states=ENDED)
        return [trial for trial in trials if INTERRUPTED not in trial.user_attrs]

    def best(self) -> list[FrozenTrial]:
        """Of several objectives, those that no other trial beats in all; of one, all from the best on."""
        complete = [trial for trial in self.ended() if trial.state == TrialState.COMPLETE]
        if len(self.sweep.objectives) > 1:
            return sorted(self.study.best_trials, key=lambda trial: trial.values) if complete else []
        return sorted(complete, key=lambda trial: self.sweep.objectives[0].sign * trial.values[0])

    def _repeat_interrupted(self) -> None:
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = Trial(self.study, frozen._trial_id)
            trial.set_user_attr(INTERRUPTED, True)
            self.study.tell(trial, state=TrialState.FAIL)
            self.study.enqueue_trial(frozen.params)
