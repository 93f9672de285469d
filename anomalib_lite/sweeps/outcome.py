"""What a sweep found: the best trials, the front of several objectives, failures, and the command of the best."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.overrides import PROGRAM, command_line, literal, overrides
from anomalib_lite.sweeps.study import Study

log = logging.getLogger(__name__)
SHOWN = 10
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def conclude(study: Study, fixed: Sequence[str], folder: Path) -> str | None:
    """Writes trials.csv and says what was found; returns the list of failures, each with its message and command."""
    ended, best = study.ended(), study.best()
    write_text(folder / "trials.csv", trials_table(study, ended).to_csv(index=False))
    states = [STATES[trial.state] for trial in ended]
    counted = ", ".join(f"{states.count(s)} {s}" for s in STATES.values() if s in states)
    log.info("%s: %d trials (%s)", study.sweep.name, len(ended), counted or "none")
    if best:
        log.info("%s", best_table(study, best[:SHOWN]))
        log.info("best: %s", ready_command(study, best[0], fixed))
    # one that was done before took no time of its own
    if spent := [t.user_attrs for t in ended if t.user_attrs.get("seconds", 0) > t.user_attrs.get("stages", 1e9)]:
        beside = mean(attrs["seconds"] - attrs["stages"] for attrs in spent)
        log.info("%.1f s a trial beside its training: start of the process, libraries, tracking", beside)
    log.info("%s", folder / "trials.csv")
    failures = [trial for trial in ended if trial.state == TrialState.FAIL]
    if not failures:
        return None
    listed = "\n".join(
        f"  trial {t.number}: {t.user_attrs.get('message', '')}\n    {ready_command(study, t, fixed)}" for t in failures
    )
    return f"{len(failures)} trial(s) of the sweep failed:\n{listed}"


def best_table(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """One line a trial, the best first, or the Pareto front: objectives, then what varies."""
    objectives = study.sweep.objectives
    varying = [key for key, parameter in study.sweep.parameters.items() if not parameter.space.single()]
    rows = []
    for trial in trials:
        values = study.values(trial)
        said = {
            key: f"{values[key]:.4g}" if isinstance(values[key], float) else literal(values[key]) for key in varying
        }
        figures = {o.name: f"{value:.4g}" for o, value in zip(objectives, trial.values, strict=True)}
        rows.append({"trial": trial.number} | figures | said)
    title = "best trials" if len(objectives) == 1 else "no other trial beats these in all"
    return f"{title} ({', '.join(f'{o.goal} {o.name}' for o in objectives)}):\n" + pd.DataFrame(rows).to_string(
        index=False
    )


def ready_command(study: Study, trial: FrozenTrial, fixed: Sequence[str]) -> str:
    """The command line of a trial."""
    return command_line([PROGRAM, "train", *fixed, *overrides(study.values(trial))])


def trials_table(study: Study, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Trial, state, the objectives, the parameters as they are written for Hydra, seconds, folder, message."""
    names, facts = [o.name for o in study.sweep.objectives], ("seconds", "folder", "message")
    rows = []
    for trial in trials:
        results = trial.values if trial.state == TrialState.COMPLETE else [None] * len(names)
        row = {"trial": trial.number, "state": STATES[trial.state]} | dict(zip(names, results, strict=True))
        row |= {key: literal(value) for key, value in study.values(trial).items()}
        rows.append(row | {name: trial.user_attrs.get(name) for name in facts})
    return pd.DataFrame(rows, columns=["trial", "state", *names, *study.sweep.parameters, *facts])
