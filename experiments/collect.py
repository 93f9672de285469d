"""Collects the runs of an experiment in results.csv, draws its figure, and prints Markdown tables.

usage: python experiments/collect.py RUNS [RUNS ...] experiments/NAME [REFERENCE]

RUNS are folders of runs or globs; the figure shows the metric named in experiment.yaml. With a reference, e.g.
augment=none (or the name of its run's folder), further tables compare the other settings on the same data with it:
the mean paired difference over common seeds, with Student's 95 % confidence interval, and an asterisk if Holm's p is
below 0.05.
"""

import sys
from pathlib import Path

import yaml

from anomalib_lite.comparison.figures import means_figure
from anomalib_lite.comparison.runs import find_runs
from anomalib_lite.comparison.study import compare
from anomalib_lite.comparison.table import read_table, write_csv
from anomalib_lite.comparison.words import against_reference, pivot
from anomalib_lite.errors import UserError
from anomalib_lite.report.ink import save_png


def main(arguments: list[str]) -> None:
    folder = next((a for a in arguments if Path(a).parent.resolve() == Path(__file__).parent), None)
    if folder is None or arguments.index(folder) == 0:
        sys.exit(__doc__)
    position = arguments.index(folder)
    table = read_table(find_runs(arguments[:position]))
    for run, state, reason in table.left_out:
        print(f"skipped, {state}: {run} ({reason})", file=sys.stderr)
    comparison = compare(table, reference=" ".join(arguments[position + 1 :]) or None, resamples=100)
    write_csv(table.rows, Path(folder) / "results.csv")
    config = Path(folder) / "experiment.yaml"
    if config.is_file() and (metric := yaml.safe_load(config.read_text()).get("figure")):
        save_png(means_figure(comparison, metric), Path(folder) / "figure.png", dpi=110)
    for view in [view for view in comparison.views if len(view.blocks) == 1]:
        print(f"\n{view.title}\n\n{pivot(comparison, view)}")
        if comparison.reference and (differences := against_reference(comparison, view)):
            print(f"\n{differences}")
    for note in table.notes:
        print(f"\n{note}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
