"""The verb compare."""

import logging
import re
from pathlib import Path

from omegaconf import DictConfig

from anomalib_lite.jobs.app import app, say, texts

log = logging.getLogger(__name__)

HELP = """Compares finished runs: which setting is better, by how much, and can so few seeds tell?

What was varied is found from the runs' configurations. Data sets are never mixed up, seeds are what repeats. Writes
compare.html (open it first), compare.md, which it prints as well, runs.csv and runs.parquet (one row a run), pairs.csv,
images.csv and figures/ to the output folder. What every figure means stands beside it, and in docs/compare.md.

  anomalib-lite compare runs=runs/augmentation
  anomalib-lite compare runs='[runs/teacher, runs/augmentation/mtd-*]' reference=teacher=frozen
  anomalib-lite compare runs=runs/augmentation factors='[tta]' metrics='[aupro, ms_per_image]'"""


def hydra_arguments(arguments: list[str]) -> list[str]:
    """`reference=tta=none` needs no quotes of its own, which Hydra's grammar asks for around a second equals sign."""
    return [re.sub(r"""^reference=([^'"].*=.*)""", r"reference='\1'", argument) for argument in arguments]


@app("compare", HELP, hydra_arguments)
def main(cfg: DictConfig) -> None:
    # pandas, matplotlib and scipy take seconds to import, and --help need not wait for them
    from anomalib_lite.comparison.page import write_all
    from anomalib_lite.comparison.runs import common_folder, find_runs
    from anomalib_lite.comparison.study import compare
    from anomalib_lite.comparison.table import read_table

    folders = find_runs(texts(cfg.runs))
    table = read_table(folders, texts(cfg.factors) if cfg.factors else None)
    for run, state, reason in table.left_out:
        log.warning("left out, %s: %s (%s)", state, run, reason)
    metrics = texts(cfg.metrics) if cfg.metrics else None
    found = compare(table, metrics, cfg.reference, cfg.resamples, cfg.margin)
    output = Path(cfg.output) if cfg.output else common_folder(folders) / "comparison"
    say(write_all(found, output))
