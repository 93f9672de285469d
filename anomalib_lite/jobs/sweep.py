"""anomalib-lite sweep: search settings with a W&B sweep file, locally."""

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
from anomalib_lite.jobs.app import app, check_config, composed, named, say
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.overrides import PROGRAM, command_line, override, overrides

if TYPE_CHECKING:
    from anomalib_lite.sweeps.spec import Sweep

log = logging.getLogger(__name__)

HELP = """Runs a sweep file of Weights & Biases on this machine: grid, random or bayes (Optuna's TPE), with hyperband.

Each trial is a training with its own run folder; finished trials are not repeated. The study is saved in
runs/<name>/sweep-<hash>/, and the same command resumes it. Overrides after -- apply to every trial.

  anomalib-lite sweep experiments/sweeps/grid.yaml
  anomalib-lite sweep experiments/sweeps/bayes_hyperband.yaml trials=30 parallel=2
  anomalib-lite sweep experiments/sweeps/random.yaml trials=20 -- data=mvtec_ad data.root=DIR data.category=bottle"""


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Turns `FILE` into `file=FILE`, and the arguments after `--` into the list `train`."""
    before, after = list(arguments), []
    if "--" in before:
        position = before.index("--")
        before, after = before[:position], before[position + 1 :]
    return [*named("file", before), *([override("train", after)] if after else [])]


@app("sweep", HELP, hydra_arguments)
def main(cfg: DictConfig) -> None:
    # imported here, because Optuna takes seconds, which --help need not wait for
    from anomalib_lite.sweeps.run import conclude, run_sweep
    from anomalib_lite.sweeps.spec import read_sweep

    sweep = read_sweep(Path(cfg.file))
    fixed, folder = _overrides_and_folder(sweep, tuple(cfg.train), cfg.seed)
    if cfg.dry:
        _dry_run(sweep, fixed, cfg)
        return
    log.info("%s", folder)
    write_text(folder / "sweep.yaml", Path(cfg.file).read_text(encoding="utf-8"))
    study = run_sweep(sweep, fixed, folder, training, cfg.trials, cfg.parallel, cfg.seed)
    if failed := conclude(study, fixed, folder):
        sys.exit(failed)


def _dry_run(sweep: Sweep, fixed: Sequence[str], cfg: DictConfig) -> None:
    """Lists the trials of a new study and composes the configuration of each, which reports invalid overrides.

    Lists at most ten trials of bayes, as TPE chooses the later ones by results.
    """
    from anomalib_lite.sweeps.run import Study, trials_in_all

    count = trials_in_all(sweep, cfg.trials)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(sweep, Path(folder), cfg.seed)
        for _ in tqdm(range(min(count, 10) if sweep.method == "bayes" else count), "trials", delay=2, leave=False):
            if (trial := study.ask()) is not None:
                arguments = [*fixed, *overrides(study.values(trial))]
                command = command_line([PROGRAM, "train", *arguments])
                try:
                    check_config(composed("train", arguments))
                except UserError as error:
                    raise UserError(f"Trial {trial.number} cannot start: {error}\n  {command}") from None
                tqdm.write(f"trial {trial.number}: {command}")
    say(f"{count} trials in all")


def training(overrides: Sequence[str]) -> list[str]:
    """Returns the command of a trial's process."""
    return [sys.executable, "-m", "anomalib_lite.cli", "train", *overrides]


def _overrides_and_folder(sweep: Sweep, more: tuple[str, ...], seed: int) -> tuple[tuple[str, ...], Path]:
    """Returns the overrides of every trial, and the folder of the study, which lies among the trials' run folders."""
    fixed = [*sweep.fixed, *more]
    values = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(fixed)}
    if "experiment_name" not in values:
        fixed.append(override("experiment_name", sweep.name))
    runs = Path(str(values.get("paths.runs", "runs"))).expanduser()
    name = str(values.get("experiment_name", sweep.name))
    return tuple(fixed), runs / name / f"sweep-{sweep.key(more, seed)}"
