"""Runs an experiment and compares its results with the committed table, within the experiment's tolerance.

usage: python experiments/reproduce.py NAME [override ...]     e.g. calibration
       python experiments/reproduce.py --all [override ...]

experiments/NAME/experiment.yaml lists the commands; the overrides apply to every training. Finished runs are not
repeated (unless force=true). Real data sets must be in the folder named by the environment variable
ANOMALIB_LITE_DATASETS (as mvtec_ad/, mtd/, deeppcb/PCBData/), or at data.root=... if the experiment needs only one.
Prints PASS, or the rows that differ, and then exits with status 1.
"""

import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from anomalib_lite.comparison.page import write_all
from anomalib_lite.comparison.runs import find_runs
from anomalib_lite.comparison.study import compare
from anomalib_lite.comparison.table import read_table
from anomalib_lite.comparison.words import pivot
from anomalib_lite.errors import UserError
from anomalib_lite.report.words import duration
from anomalib_lite.runs.folder import RunFolder

HERE = Path(__file__).resolve().parent
DATASETS = {"mtd": "mtd", "mvtec_ad": "mvtec_ad", "deeppcb": "deeppcb/PCBData"}
VARIABLE = "ANOMALIB_LITE_DATASETS"


@dataclass(frozen=True)
class Experiment:
    """An experiment.yaml."""

    name: str  # of its folder
    commands: list[str]  # {mtd} etc. stand for a data set's folder, {run} for that of the last finished run
    tolerance: dict[str, float]  # largest allowed difference by metric
    minutes: float  # on one core
    figures: str | None = None  # JSON file in the last run's folder that is compared instead of a table of runs
    figure: str | None = None  # metric drawn by collect.py

    @property
    def needs(self) -> list[str]:
        return [name for name in DATASETS if any("{" + name + "}" in command for command in self.commands)]


def load(name: str) -> Experiment:
    path = HERE / name / "experiment.yaml"
    if not path.is_file():
        raise UserError(f"There is no experiment '{name}': choose one of {', '.join(names())}.")
    return Experiment(name, **yaml.safe_load(path.read_text()))


def names() -> list[str]:
    return sorted(p.parent.name for p in HERE.glob("*/experiment.yaml") if (p.parent / "results.csv").is_file())


def data_folders(experiment: Experiment, overrides: list[str]) -> dict[str, str]:
    """Returns the folder of each data set that the experiment needs. Raises UserError if one is missing."""
    roots = [o.partition("=")[2] for o in overrides if o.startswith("data.root=")]
    if roots and len(experiment.needs) == 1:
        return {experiment.needs[0]: roots[-1]}
    root = os.environ.get(VARIABLE)
    folders = {name: str(Path(root or "").expanduser().absolute() / DATASETS[name]) for name in experiment.needs}
    if missing := [name for name, folder in folders.items() if root is None or not Path(folder).is_dir()]:
        listed = ", ".join(f"DIR/{DATASETS[name]}" for name in missing)
        alternative = f", or ARGS='data.root=FOLDER' for {missing[0]}" if len(experiment.needs) == 1 else ""
        problem = f"{experiment.name} needs real data ({', '.join(missing)})"
        raise UserError(f"{problem}: set {VARIABLE}=DIR ({listed}){alternative}.")
    return folders


def arguments(command: str, folders: dict[str, str], overrides: list[str]) -> list[str]:
    """Returns a command's arguments with {names} filled in, and with the overrides if it is a training."""
    program, *rest = [part.format(**folders) for part in shlex.split(command)]
    if program == "anomalib-lite":
        replaced = {override.partition("=")[0] for override in overrides}
        kept = [part for part in rest if part.partition("=")[0] not in replaced]
        return [sys.executable, "-m", "anomalib_lite.cli", *kept, *(overrides if rest[0] == "train" else [])]
    return [sys.executable if program == "python" else program, *rest]


def reproduce(experiment: Experiment, overrides: list[str]) -> bool:
    """Runs an experiment; returns whether every row is within the tolerance. Raises UserError if data is missing."""
    folders = data_folders(experiment, overrides)
    runs = next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("paths.runs=")), "runs")
    folder, start = Path(runs).expanduser() / experiment.name, time.perf_counter()
    print(f"== {experiment.name}: took {experiment.minutes:g} minutes on one core for the committed table", flush=True)
    problems = []
    for template in experiment.commands:
        if "{run}" in template:
            folders["run"] = str(_last_run(folder))
        command = arguments(template, folders, overrides)
        print(f"$ {shlex.join(command)}", flush=True)
        if status := subprocess.run(command).returncode:
            problems.append(f"the command above ended with status {status}: older results may be compared")
            print(problems[-1], flush=True)
    reference = pd.read_csv(HERE / experiment.name / "results.csv", dtype=str, keep_default_na=False)
    if experiment.figures:
        now = flat_table(json.loads((_last_run(folder) / experiment.figures).read_text()))
        keys = ["name"]
    else:
        keys = ["data", *factors_of(reference), "seed"]
        now = _table(folder, factors_of(reference))
    differing = beyond_tolerance(reference, now, keys, experiment.tolerance)
    print("\n".join(differing))
    problems += differing
    allowed = ", ".join(f"{name} {width:g}" for name, width in experiment.tolerance.items())
    verdict = f"FAIL: {len(problems)} problems" if problems else "PASS"
    elapsed = duration(time.perf_counter() - start)
    print(f"{verdict}: {experiment.name}, {len(reference)} rows, within ± {allowed}; {elapsed}", flush=True)
    return not problems


def _table(folder: Path, factors: list[str]) -> pd.DataFrame:
    """Reads the runs into a long table, and writes their comparison next to them."""
    table = read_table(find_runs([folder]), factors)
    comparison = compare(table)
    for view in comparison.views:
        print(f"\n{view.title}\n{pivot(comparison, view)}")
    write_all(comparison, folder / "comparison")
    print(f"\n{folder / 'comparison' / 'compare.html'}\n")
    return table.rows


def factors_of(reference: pd.DataFrame) -> list[str]:
    """Returns the varied factors: the columns between data and seed."""
    columns = list(reference.columns)
    return columns[columns.index("data") + 1 : columns.index("seed")]


def beyond_tolerance(
    reference: pd.DataFrame, now: pd.DataFrame, keys: Sequence[str], tolerance: Mapping[str, float]
) -> list[str]:
    """Returns a line for each committed row that is missing now, and for each metric outside its tolerance."""

    def title(row: Mapping[str, Any]) -> str:
        return " ".join(f"{name}={row[name]}" for name in keys)

    rows, lines = {title(row): row for row in now.to_dict("records")}, []
    for row in reference.to_dict("records"):
        if title(row) not in rows:
            lines.append(f"missing: {title(row)}")
            continue
        for name, width in tolerance.items():
            before, after = _number(row.get(name)), _number(rows[title(row)].get(name))
            both_nan = math.isnan(before) and math.isnan(after)
            if not both_nan and not abs(after - before) <= width:  # a single NaN is a difference, too
                difference = f"{after - before:+.4f}, allowed ± {width:g}"
                lines.append(f"differs: {title(row)}: {name} {after:.4f}, committed {before:.4f} ({difference})")
    return lines


def flat_table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """Flattens the numbers in nested mappings to the columns name (dotted) and value."""
    flat = pd.json_normalize(dict(figures)).iloc[0]
    numbers = {name: value for name, value in flat.items() if isinstance(value, int | float)}
    return pd.DataFrame({"name": list(numbers), "value": list(numbers.values())})


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _last_run(folder: Path) -> Path:
    done = [run for run in map(RunFolder, find_runs([folder])) if run.status.get("state") == "done"]
    if not done:
        raise UserError(f"No run in {folder} is finished: run the experiment's training first.")
    return max(done, key=lambda run: run.status["finished"]).path


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__, f"\nexperiments: {', '.join(names())}", sep="")
        return 0 if argv else 2
    name, *overrides = argv
    if name != "--all":
        return 0 if reproduce(load(name), overrides) else 1
    outcomes = {}
    for name in names():
        try:
            outcomes[name] = "PASS" if reproduce(load(name), overrides) else "FAIL"
        except UserError as error:
            outcomes[name] = f"not run: {error}"
    print("\n" + "\n".join(f"{name:26} {outcome}" for name, outcome in outcomes.items()))
    return 1 if "FAIL" in outcomes.values() else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
