"""The verb sweep."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from tqdm import tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, composed, named, say, settle
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.overrides import PROGRAM, command_line, override, overrides

if TYPE_CHECKING:
    from anomalib_lite.sweeps.spec import Sweep

log = logging.getLogger(__name__)

HELP = """Runs a sweep file of Weights & Biases on this machine: grid, random or bayes (Optuna's TPE), hyperband.

Each trial is a training with its own run folder; one that is done is not repeated. The study lies in
runs/<name>/sweep-<hash>/: the same command goes on where it was interrupted. What stands behind -- goes to every trial.

  anomalib-lite sweep experiments/sweeps/grid.yaml
  anomalib-lite sweep experiments/sweeps/bayes_hyperband.yaml trials=30 parallel=2
  anomalib-lite sweep experiments/sweeps/random.yaml trials=20 -- data=mvtec_ad data.root=DIR data.category=bottle"""


def hydra_arguments(arguments: list[str]) -> list[str]:
    """`FILE` becomes `file=FILE`, and what stands behind `--` the list `train`."""
    own, behind = list(arguments), []
    if "--" in own:
        place = own.index("--")
        own, behind = own[:place], own[place + 1 :]
    return [*named("file", own), *([override("train", behind)] if behind else [])]


@app("sweep", HELP, hydra_arguments)
def main(cfg: DictConfig) -> None:
    # Optuna takes seconds to import, and --help need not wait for it
    from anomalib_lite.sweeps.run import run_sweep
    from anomalib_lite.sweeps.spec import read_sweep
    from anomalib_lite.sweeps.study import conclude

    sweep = read_sweep(Path(cfg.file))
    fixed, folder = _place(sweep, tuple(cfg.train))
    if cfg.dry:
        _rehearse(sweep, fixed, cfg)
        return
    log.info("%s", folder)
    write_text(folder / "sweep.yaml", Path(cfg.file).read_text(encoding="utf-8"))
    study = run_sweep(sweep, fixed, folder, training, cfg.trials, cfg.parallel, cfg.seed)
    if failed := conclude(study, fixed, folder):
        sys.exit(failed)


def _rehearse(sweep: Sweep, fixed: Sequence[str], cfg: DictConfig) -> None:
    """Lists the trials of a new study and composes the configuration of each, so that a wrong override is told now.

    What TPE tries after its first ten depends on results: no more than ten are listed of it.
    """
    from anomalib_lite.sweeps.run import trials_in_all
    from anomalib_lite.sweeps.study import Study

    count = trials_in_all(sweep, cfg.trials)
    with tempfile.TemporaryDirectory() as place:
        study = Study(sweep, Path(place), cfg.seed)
        for _ in tqdm(range(min(count, 10) if sweep.method == "bayes" else count), "trials", delay=2, leave=False):
            if (trial := study.ask()) is not None:
                arguments = [*fixed, *overrides(study.values(trial))]
                command = command_line([PROGRAM, "train", *arguments])
                try:
                    settle(composed("train", arguments))
                except UserError as error:
                    raise UserError(f"Trial {trial.number} cannot start: {error}\n  {command}") from None
                tqdm.write(f"trial {trial.number}: {command}")
    say(f"{count} trials in all")


def training(overrides: Sequence[str]) -> list[str]:
    """The process of a trial."""
    return [sys.executable, "-m", "anomalib_lite.cli", "train", *overrides]


def _place(sweep: Sweep, more: tuple[str, ...]) -> tuple[tuple[str, ...], Path]:
    """The overrides of every trial, and the folder of the study among their run folders."""
    fixed = [*sweep.fixed, *more]
    given = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(fixed)}
    if "experiment_name" not in given:
        fixed.append(override("experiment_name", sweep.name))
    runs = Path(str(given.get("paths.runs", "runs"))).expanduser()
    name = str(given.get("experiment_name", sweep.name))
    return tuple(fixed), runs / name / f"sweep-{sweep.key(more)}"
