"""The long table: one row a run, with its data, what was varied, its seed, its metrics and its costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from anomalib_lite.comparison.blocks import name_blocks
from anomalib_lite.comparison.factors import Column, Factors, asked_factors, find_factors
from anomalib_lite.comparison.record import COSTS, Run, read_run
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path, write_text

METRICS = ("image_auroc", "pixel_auroc", "aupro")  # shown unless others are asked for
FIXED = ("run", "data", "seed")


@dataclass(frozen=True)
class Table:
    """`rows`: one run each, columns run, data, *factors, seed, metrics, costs, commit. `runs`: the same runs, in the
    same order. `left_out`: (run, state, reason). `notes`: sentences on what to keep in mind.
    """

    rows: pd.DataFrame
    factors: list[str]
    runs: list[Run]
    left_out: list[tuple[str, str, str]]
    notes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        known = (*FIXED, *self.factors, *COSTS, "commit")
        return [name for name in self.rows.columns if name not in known]


def read_table(folders: Sequence[Path], asked: Sequence[str] | None = None) -> Table:
    """asked: factors by name; by default all that differ. Rows that differ only in factors that were not asked for
    stay rows of their own.

    Errors: UserError where no run is finished.
    """
    everything = [read_run(folder) for folder in folders]
    left_out = [(run.name, run.state, run.trouble) for run in everything if run.trouble is not None]
    runs = [run for run in everything if run.trouble is None]
    if not runs:
        listed = "\n  ".join(f"{name}: {state}, {why}" for name, state, why in left_out[:20])
        raise UserError(f"None of {len(left_out)} runs is finished:\n  {listed}")
    blocks, notes = name_blocks(runs, asked or ())
    found = find_factors(runs, blocks)
    runs, twins = _newest(runs, blocks, found.columns | asked_factors(runs, found, asked or ()))
    blocks, _ = name_blocks(runs, asked or ())
    found = find_factors(runs, blocks)
    columns = found.columns if asked is None else asked_factors(runs, found, asked)
    notes += found.notes + _pooled(found, columns) + _machines(runs)
    rows = pd.DataFrame(
        {"run": [run.name for run in runs], "data": blocks}
        | columns
        | {"seed": [run.seed for run in runs]}
        | _values(runs)
        | {"commit": [run.commit for run in runs]}
    )
    order = rows.sort_values(["data", *columns, "seed"], kind="stable").index
    return Table(
        rows.loc[order].reset_index(drop=True), list(columns), [runs[i] for i in order], left_out + twins, notes
    )


def write_table(rows: pd.DataFrame, folder: Path) -> None:
    """runs.csv and runs.parquet."""
    write_csv(rows, folder / "runs.csv")
    with atomic_path(folder / "runs.parquet") as temporary:
        rows.to_parquet(temporary, index=False)


def write_csv(rows: pd.DataFrame, path: Path) -> None:
    write_text(path, rows.to_csv(index=False, float_format="%.6f"))


def _values(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Metrics, then costs, then the defect types' metrics, which are many."""
    names = dict.fromkeys(name for run in runs for name in run.values)
    by_defect = [name for name in names if name.endswith("_image_auroc")]
    metrics = [name for name in names if name not in COSTS and name not in by_defect]
    costs = [name for name in COSTS if name in names]
    return {n: [run.values.get(n, float("nan")) for run in runs] for n in [*metrics, *costs, *sorted(by_defect)]}


def _newest(
    runs: list[Run], blocks: list[str], varied: dict[str, Column]
) -> tuple[list[Run], list[tuple[str, str, str]]]:
    """Of runs with the same data, settings and seed the one that finished last; the others are named."""
    columns = list(varied.values())
    kept: dict[tuple[str, ...], Run] = {}
    twins = []
    for i in sorted(range(len(runs)), key=lambda i: runs[i].finished):
        key = (blocks[i], str(runs[i].seed), *(column[i] for column in columns))
        if (older := kept.get(key)) is not None:
            reason = f"same data, settings and seed as {runs[i].name}, which finished later"
            twins.append((f"{older.folder.parent.name}/{older.name}", "repeated", reason))
        kept[key] = runs[i]
    chosen = {id(run) for run in kept.values()}
    return [run for run in runs if id(run) in chosen], twins


def _pooled(found: Factors, columns: dict[str, list[str]]) -> list[str]:
    others = [name for name in found.columns if name not in columns]
    return [f"Averaged over {', '.join(others)}, which differ too."] if others else []


def _machines(runs: Sequence[Run]) -> list[str]:
    notes = []
    machines = sorted({run.machine for run in runs if run.machine})
    if len(machines) > 1:
        notes.append(f"The runs come from different hardware ({'; '.join(machines)}): times compare that as well.")
    commits = sorted({run.commit for run in runs if run.commit})
    if len(commits) > 1:
        notes.append(f"The runs were made by {len(commits)} versions of the program (column commit).")
    return notes
