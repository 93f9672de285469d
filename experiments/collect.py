"""The runs of an experiment as one long table, results.csv, a figure, and Markdown tables in the terminal.

usage: python experiments/collect.py RUNS [RUNS ...] experiments/NAME [REFERENCE]

RUNS are folders of runs or globs; the figure shows the metric that experiment.yaml names. With a reference, e.g.
augment=none (or the name of its run's folder), second tables say how the other settings of the same data differ from
it: means over the seeds that both have, with Student's 95 % confidence interval of the paired difference, and an
asterisk where Holm's p is below 0.05.
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
    place = arguments.index(folder)
    table = read_table(find_runs(arguments[:place]))
    for run, state, reason in table.left_out:
        print(f"left out, {state}: {run} ({reason})", file=sys.stderr)
    found = compare(table, reference=" ".join(arguments[place + 1 :]) or None, resamples=100)
    write_csv(table.rows, Path(folder) / "results.csv")
    told = Path(folder) / "experiment.yaml"
    if told.is_file() and (metric := yaml.safe_load(told.read_text()).get("figure")):
        save_png(means_figure(found, metric), Path(folder) / "figure.png", dpi=110)
    for view in [view for view in found.views if len(view.blocks) == 1]:
        print(f"\n{view.title}\n\n{pivot(found, view)}")
        if found.reference and (differences := against_reference(found, view)):
            print(f"\n{differences}")
    for note in table.notes:
        print(f"\n{note}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
