"""anomalib-lite compare: compare settings over finished runs."""

import logging
import re
from pathlib import Path

from omegaconf import DictConfig

from anomalib_lite.jobs.app import app, say, texts

log = logging.getLogger(__name__)

HELP = """Compares finished runs: which setting is better, by how much, and do the seeds suffice to tell?

Finds the settings that vary in the runs' configurations. Each data set is compared separately; seeds are repetitions.
Writes compare.html (open it first), compare.md (also printed), runs.csv and runs.parquet (one row per run), pairs.csv,
images.csv and figures/ to the output folder. The page and docs/compare.md explain every figure.

  anomalib-lite compare runs=runs/augmentation
  anomalib-lite compare runs='[runs/teacher, runs/augmentation/mtd-*]' reference=teacher=frozen
  anomalib-lite compare runs=runs/augmentation factors='[tta]' metrics='[aupro, ms_per_image]'"""


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Adds the quotes that Hydra's grammar needs in `reference=tta=none`, because of the second equals sign."""
    return [re.sub(r"""^reference=([^'"].*=.*)""", r"reference='\1'", argument) for argument in arguments]


@app("compare", HELP, hydra_arguments)
def main(cfg: DictConfig) -> None:
    # imported here, because pandas, matplotlib and scipy take seconds, which --help need not wait for
    from anomalib_lite.comparison.page import write_all
    from anomalib_lite.comparison.runs import common_folder, find_runs
    from anomalib_lite.comparison.study import compare
    from anomalib_lite.comparison.table import read_table

    folders = find_runs(texts(cfg.runs))
    table = read_table(folders, texts(cfg.factors) if cfg.factors else None)
    for run, state, reason in table.left_out:
        log.warning("left out a run (%s): %s (%s)", state, run, reason)
    metrics = texts(cfg.metrics) if cfg.metrics else None
    comparison = compare(table, metrics, cfg.reference, cfg.resamples, cfg.margin)
    output = Path(cfg.output) if cfg.output else common_folder(folders) / "comparison"
    say(write_all(comparison, output))
