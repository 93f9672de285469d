"""Running a sweep: asks the study what to try, starts trainings, stops those that fall behind, collects results."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.sweeps.overrides import command_line, overrides
from anomalib_lite.sweeps.spec import Sweep
from anomalib_lite.sweeps.study import Asked, Study
from anomalib_lite.sweeps.trial import Trial, read_curve, read_results, read_status

log = logging.getLogger(__name__)
PAUSE = 0.2  # seconds between two looks at the running trials

Command = Callable[[Sequence[str]], list[str]]  # overrides of a training -> the process's arguments


@dataclass(frozen=True)
class Plan:
    """fixed: overrides of every trial. trials: how many in all, those of earlier starts included; None: all of a grid.
    parallel: how many at once. seed: of what is drawn.
    """

    fixed: tuple[str, ...]
    trials: int | None
    parallel: int = 1
    seed: int = 0


def run_sweep(sweep: Sweep, plan: Plan, folder: Path, command: Command) -> Study:
    """Runs what is missing, and returns the study; a failed trial does not stop the others.

    folder: of the study and of the trials' logs. The same call goes on where an earlier one was interrupted: its
    unfinished trials are started again, and their trainings resume.
    """
    study = Study(sweep, folder, plan.seed)
    running: dict[int, tuple[Asked, Trial]] = {}
    total = _total(sweep, plan)
    ended = min(len(study.ended()), total)
    with logging_redirect_tqdm(), tqdm(total=total, initial=ended, desc="trials") as bar:
        try:
            while True:
                while len(running) < plan.parallel and len(study.ended()) + len(running) < total:
                    asked = study.ask()
                    if asked is None:
                        break
                    running[asked.number] = (asked, _start(asked, plan, folder, command))
                if not running:
                    return study
                time.sleep(PAUSE)
                for number, (asked, trial) in list(running.items()):
                    beside = [t for n, (_, t) in running.items() if n != number]
                    if _conclude(sweep, study, asked, trial, beside):
                        del running[number]
                        bar.update()
        finally:
            for _, trial in running.values():
                trial.stop()


def _total(sweep: Sweep, plan: Plan) -> int:
    limit = plan.trials or sweep.run_cap
    if sweep.method == "grid":
        return min(sweep.grid_size, limit or sweep.grid_size)
    if limit is None:
        raise UserError(
            f"A sweep by the method {sweep.method} has no end of its own: say how many, e.g. trials=20, or write "
            "run_cap: 20 into its file."
        )
    return limit


def _start(asked: Asked, plan: Plan, folder: Path, command: Command) -> Trial:
    arguments = command([*plan.fixed, *overrides(asked.values)])
    trials = folder / "trials"
    trial = Trial(arguments, trials / f"{asked.number:04d}.run", trials / f"{asked.number:04d}.log")
    trial.start()
    return trial


def _conclude(sweep: Sweep, study: Study, asked: Asked, trial: Trial, beside: Sequence[Trial]) -> bool:
    """Whether the trial has ended, now known to the study."""
    status = trial.status
    if status is None:
        return _pruned(sweep, study, asked, trial, beside)
    timings = read_status(trial.folder).get("timings", {})
    facts = {
        "seconds": round(trial.seconds, 2),
        "command": command_line(trial.command),
        "folder": str(trial.folder or ""),
    }
    study.note(asked, **facts, stages=round(sum(timings.values()), 2))
    try:
        if status != 0 or trial.folder is None:
            raise UserError(trial.complaint())
        results = read_results(trial.folder, sweep.objectives)
        if not all(map(math.isfinite, results)):
            raise UserError(f"the results are not finite: {results}")
    except UserError as error:
        log.warning("trial %d failed: %s", asked.number, error)
        study.fail(asked, str(error))
        return True
    study.complete(asked, results)
    values = ", ".join(f"{o.name} {v:.4g}" for o, v in zip(sweep.objectives, results, strict=True))
    log.info("trial %d: %s   %s", asked.number, values, _told(asked))
    return True


def _pruned(sweep: Sweep, study: Study, asked: Asked, trial: Trial, beside: Sequence[Trial]) -> bool:
    """Whether the trial fell behind the others, was stopped, and is known to the study. beside: those that run."""
    if sweep.hyperband is None:
        return False
    curve = read_curve(trial.folder)
    if len(curve) == trial.judged:
        return False
    judged, trial.judged = trial.judged, len(curve)
    before = [Path(t.user_attrs["folder"]) for t in study.ended() if t.user_attrs.get("folder")]
    others = [read_curve(folder) for folder in (*before, *(t.folder for t in beside))]
    rung = sweep.hyperband.failed_at(curve, others, judged)
    if rung is None or not trial.is_training() or trial.status is not None:
        return False
    trial.stop()
    message = f"pruned: after epoch {rung} its val_loss {curve[rung - 1]:.4g} was not among the best of the sweep"
    trial.mark_pruned(message)
    study.note(asked, seconds=round(trial.seconds, 2), command=command_line(trial.command), folder=str(trial.folder))
    study.prune(asked, curve)
    log.info("trial %d %s   %s", asked.number, message, _told(asked))
    return True


def _told(asked: Asked) -> str:
    return command_line(overrides(asked.values))
