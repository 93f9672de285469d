"""Runs an experiment and compares its table with the committed one, within the experiment's stated tolerance.

usage: python experiments/reproduce.py NAME [override ...]     e.g. calibration
       python experiments/reproduce.py --all [override ...]

experiments/NAME/experiment.yaml says what to run; the overrides go to every training. Runs that are done are not
repeated (force=true does). Real data sets are found in the folder that the environment variable ANOMALIB_LITE_DATASETS
names (mvtec_ad/, mtd/, deeppcb/PCBData/), or by data.root=... where an experiment needs a single one. Ends with PASS,
or with the rows that differ and status 1.
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

HERE = Path(__file__).resolve().parent
DATASETS = {"mtd": "mtd", "mvtec_ad": "mvtec_ad", "deeppcb": "deeppcb/PCBData"}
VARIABLE = "ANOMALIB_LITE_DATASETS"


@dataclass(frozen=True)
class Experiment:
    """`commands` may name a data set's folder, e.g. {mtd}, and {run}, the folder of the run that finished last.
    `figures`: a JSON file in that run's folder that holds the figures, where the table is not one of runs.
    """

    name: str
    commands: list[str]
    tolerance: dict[str, float]
    minutes: float
    figures: str | None = None
    figure: str | None = None  # the metric that collect.py draws

    @property
    def needs(self) -> list[str]:
        return [name for name in DATASETS if any("{" + name + "}" in command for command in self.commands)]


def load(name: str) -> Experiment:
    path = HERE / name / "experiment.yaml"
    if not path.is_file():
        raise UserError(f"There is no experiment '{name}'. There are: {', '.join(names())}.")
    return Experiment(name, **yaml.safe_load(path.read_text()))


def names() -> list[str]:
    return sorted(p.parent.name for p in HERE.glob("*/experiment.yaml") if (p.parent / "results.csv").is_file())


def places(experiment: Experiment, overrides: list[str]) -> dict[str, str]:
    """Data set -> its folder. Errors: UserError that says what to give."""
    given = [o.partition("=")[2] for o in overrides if o.startswith("data.root=")]
    if given and len(experiment.needs) == 1:
        return {experiment.needs[0]: given[-1]}
    root = os.environ.get(VARIABLE)
    found = {name: str(Path(root or "").expanduser().absolute() / DATASETS[name]) for name in experiment.needs}
    if absent := [name for name, place in found.items() if root is None or not Path(place).is_dir()]:
        listed = ", ".join(f"DIR/{DATASETS[name]}" for name in absent)
        alone = f", or ARGS='data.root=FOLDER' for {absent[0]}" if len(experiment.needs) == 1 else ""
        what = f"{experiment.name} needs real data ({', '.join(absent)})"
        raise UserError(f"{what}: set {VARIABLE}=DIR ({listed}){alone}.")
    return found


def arguments(command: str, known: dict[str, str], overrides: list[str]) -> list[str]:
    """What a process is started with: {names} filled in, overrides on top of those of a training."""
    program, *rest = [part.format(**known) for part in shlex.split(command)]
    if program == "anomalib-lite":
        replaced = {override.partition("=")[0] for override in overrides}
        kept = [part for part in rest if part.partition("=")[0] not in replaced]
        return [sys.executable, "-m", "anomalib_lite.cli", *kept, *(overrides if rest[0] == "train" else [])]
    return [sys.executable if program == "python" else program, *rest]


def reproduce(experiment: Experiment, overrides: list[str]) -> bool:
    """Whether every row is within the tolerance. Errors: UserError where the data are absent."""
    known = places(experiment, overrides)
    runs = next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("paths.runs=")), "runs")
    folder, begun = Path(runs).expanduser() / experiment.name, time.perf_counter()
    print(f"== {experiment.name}: {experiment.minutes:g} minutes on one core where the table was made", flush=True)
    for command in experiment.commands:
        if "{run}" in command:
            known["run"] = str(_last_run(folder))
        started = arguments(command, known, overrides)
        print(f"$ {shlex.join(started)}", flush=True)
        if status := subprocess.run(started).returncode:
            print(f"it ended with status {status}; the table is compared as far as it goes", flush=True)
    reference = pd.read_csv(HERE / experiment.name / "results.csv", dtype=str, keep_default_na=False)
    if experiment.figures:
        now = flat_table(json.loads((_last_run(folder) / experiment.figures).read_text()))
        keys = ["name"]
    else:
        keys = ["data", *factors_of(reference), "seed"]
        now = _table(folder, factors_of(reference))
    problems = beyond_tolerance(reference, now, keys, experiment.tolerance)
    print("\n".join(problems))
    allowed = ", ".join(f"{name} {width:g}" for name, width in experiment.tolerance.items())
    verdict = f"FAIL: {len(problems)} differences" if problems else "PASS"
    took = duration(time.perf_counter() - begun)
    print(f"{verdict}: {experiment.name}, {len(reference)} rows, within ± {allowed}; {took}", flush=True)
    return not problems


def _table(folder: Path, factors: list[str]) -> pd.DataFrame:
    """The long table of the runs; their comparison is written beside them."""
    table = read_table(find_runs([folder]), factors)
    found = compare(table)
    for view in found.views:
        print(f"\n{view.title}\n{pivot(found, view)}")
    write_all(found, folder / "comparison")
    print(f"\n{folder / 'comparison' / 'compare.html'}\n")
    return table.rows


def factors_of(reference: pd.DataFrame) -> list[str]:
    """What was varied stands between the columns data and seed."""
    columns = list(reference.columns)
    return columns[columns.index("data") + 1 : columns.index("seed")]


def beyond_tolerance(
    reference: pd.DataFrame, now: pd.DataFrame, keys: Sequence[str], tolerance: Mapping[str, float]
) -> list[str]:
    """A line for each committed row that is missing now, and for each figure that lies further off than allowed."""
    own = {_key(row, keys): row for row in now.to_dict("records")}
    lines = []
    for row in reference.to_dict("records"):
        key = _key(row, keys)
        said = " ".join(f"{name}={value}" for name, value in zip(keys, key, strict=True))
        if key not in own:
            lines.append(f"missing: {said}")
            continue
        for name, width in tolerance.items():
            before, after = _number(row.get(name)), _number(own[key].get(name))
            same = math.isnan(before) and math.isnan(after)
            if not same and not abs(after - before) <= width:  # NaN on one side is a difference, too
                off = f"{after - before:+.4f}, allowed ± {width:g}"
                lines.append(f"differs: {said}: {name} {after:.4f}, committed {before:.4f} ({off})")
    return lines


def flat_table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """Columns name (dotted) and value, of the numbers in nested mappings."""
    flat = pd.json_normalize(dict(figures)).iloc[0]
    numbers = {name: value for name, value in flat.items() if isinstance(value, int | float)}
    return pd.DataFrame({"name": list(numbers), "value": list(numbers.values())})


def _key(row: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in keys)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _last_run(folder: Path) -> Path:
    done = [f for f in find_runs([folder]) if json.loads((f / "status.json").read_text()).get("state") == "done"]
    if not done:
        raise UserError(f"No run in {folder} is finished.")
    return max(done, key=lambda f: json.loads((f / "status.json").read_text())["finished"])


def main(asked: list[str]) -> int:
    if not asked or asked[0] in ("-h", "--help"):
        print(__doc__, f"\nexperiments: {', '.join(names())}", sep="")
        return 0 if asked else 2
    name, *overrides = asked
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
