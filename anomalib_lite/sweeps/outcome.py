"""What a sweep found: the best trials, the front of several objectives, failures, and the command of the best."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from optuna.trial import FrozenTrial, TrialState

from anomalib_lite.runs.atomic import atomic_path
from anomalib_lite.sweeps.overrides import command_line, literal, overrides
from anomalib_lite.sweeps.spec import PROGRAM
from anomalib_lite.sweeps.study import Study

log = logging.getLogger(__name__)
SHOWN = 10
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def conclude(study: Study, fixed: Sequence[str], folder: Path) -> str | None:
    """Writes trials.csv and says what was found; returns the list of failures, each with its message and command."""
    ended, best = study.ended(), study.best()
    write_trials(folder / "trials.csv", study, ended)
    states = [_state(trial) for trial in ended]
    counted = ", ".join(f"{states.count(s)} {s}" for s in ("done", "pruned", "failed") if s in states)
    log.info("%s: %d trials (%s)", study.sweep.name, len(ended), counted or "none")
    if best:
        log.info("%s", table(study, best[:SHOWN]))
        log.info("best: %s", ready_command(study, best[0], fixed))
    # one that was done before took no time of its own
    if spent := [t.user_attrs for t in ended if t.user_attrs.get("seconds", 0) > t.user_attrs.get("stages", 1e9)]:
        beside = mean(attrs["seconds"] - attrs["stages"] for attrs in spent)
        log.info("%.1f s a trial beside its training: start of the process, libraries, tracking", beside)
    log.info("%s", folder / "trials.csv")
    failures = [t for t, state in zip(ended, states, strict=True) if state == "failed"]
    if not failures:
        return None
    told = "\n".join(f"  trial {t.number}: {_message(t)}\n    {ready_command(study, t, fixed)}" for t in failures)
    return f"{len(failures)} trial(s) of the sweep failed:\n{told}"


def table(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """One line a trial, the best first, or the Pareto front: objectives, then what varies."""
    objectives = study.sweep.objectives
    varying = [key for key, d in study.sweep.parameters.items() if d.values is None or len(d.values) > 1]
    rows = [["trial", *(o.name for o in objectives), *varying]]
    for trial in trials:
        values = study.values(trial.params)
        told = [f"{v:.4g}" if isinstance(v, float) else literal(v) for v in map(values.get, varying)]
        rows.append([str(trial.number), *(f"{v:.4g}" for v in trial.values), *told])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    title = "best trials" if len(objectives) == 1 else "no other trial beats these in all"
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{title} ({', '.join(f'{o.goal} {o.name}' for o in objectives)}):", *lines])


def ready_command(study: Study, trial: FrozenTrial, fixed: Sequence[str]) -> str:
    """The command line of a trial."""
    return command_line([PROGRAM, "train", *fixed, *overrides(study.values(trial.params))])


def write_trials(path: Path, study: Study, trials: Sequence[FrozenTrial]) -> None:
    """CSV: trial, state, the objectives, the parameters as they are written for Hydra, seconds, folder, message."""
    objectives, parameters = [o.name for o in study.sweep.objectives], list(study.sweep.parameters)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trial", "state", *objectives, *parameters, "seconds", "folder", "message"])
        for trial in trials:
            results = trial.values if trial.state == TrialState.COMPLETE else [""] * len(objectives)
            values = study.values(trial.params)
            facts = [trial.user_attrs.get(name, "") for name in ("seconds", "folder", "message")]
            told = [literal(values[key]) for key in parameters]
            writer.writerow([trial.number, _state(trial), *results, *told, *facts])


def _state(trial: FrozenTrial) -> str:
    return "pruned" if _message(trial).startswith("pruned") else STATES[trial.state]


def _message(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("message", ""))
