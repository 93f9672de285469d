"""The long table: one row a run, with its data, what was varied, its seed, its metrics and its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_lite.comparison.factors import ABSENT, Column, asked_factors, find_factors, label
from anomalib_lite.comparison.runs import COSTS, Run, read_run
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.flat import flat


@dataclass(frozen=True)
class RunTable:
    """`rows`: one run each, columns run, data, *factors, seed, metrics, costs, commit. `runs`: the same runs, in the
    same order. `left_out`: (run, state, reason). `notes`: sentences on what to keep in mind.
    """

    rows: pd.DataFrame
    factors: list[str]
    runs: list[Run]
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(folders: Sequence[Path], asked: Sequence[str] | None = None) -> RunTable:
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
    found, _ = find_factors(runs, blocks)
    runs, twins = _newest(runs, blocks, found | asked_factors(runs, found, asked or ()))
    blocks, _ = name_blocks(runs, asked or ())
    found, more = find_factors(runs, blocks)
    columns = found if asked is None else asked_factors(runs, found, asked)
    if pooled := [name for name in found if name not in columns]:
        more.append(f"Averaged over {', '.join(pooled)}, which differ too.")
    rows = pd.DataFrame(
        {"run": [run.name for run in runs], "data": blocks}
        | columns
        | {"seed": [run.seed for run in runs]}
        | _values(runs)
        | {"commit": [run.commit for run in runs]}
    )
    order = rows.sort_values(["data", *columns, "seed"], kind="stable").index
    rows, runs = rows.loc[order].reset_index(drop=True), [runs[i] for i in order]
    return RunTable(rows, list(columns), runs, left_out + twins, notes + more + _origins(runs))


def write_csv(rows: pd.DataFrame, path: Path) -> None:
    write_text(path, rows.to_csv(index=False, float_format="%.6f"))


def name_blocks(runs: Sequence[Run], told_apart: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The data of each run by name, and notes.

    Data of one name with different contents (fingerprints) get different names, by the settings in which they differ.
    told_apart: settings of the data that are factors; data that differ in them share one name.
    """
    plain = [_data_name(run) for run in runs]
    if any(name.startswith("data.") for name in told_apart):
        return plain, []
    names, notes = list(plain), []
    for name in dict.fromkeys(plain):
        own = [i for i, other in enumerate(plain) if other == name]
        prints = {runs[i].fingerprint for i in own}
        if len(prints) < 2:
            continue
        settings = pd.DataFrame([_data_settings(runs[i]) for i in own], index=own).fillna(ABSENT)
        keys = [key for key in settings if settings[key].nunique() > 1]
        for i in own if keys else ():
            names[i] = f"{name} ({' '.join(f'{key}={settings[key][i]}' for key in keys)})"
        same_words = len({names[i] for i in own}) < len(prints)
        for i in own if same_words else ():
            names[i] += f" [{str(runs[i].fingerprint)[:6]}]"
        where = f"{', '.join(f'data.{key}' for key in keys)} differ" if keys else "their images or labels differ"
        hint = f" factors='[data.{keys[0]}]' compares them." if keys and not same_words else ""
        notes.append(f"{name} comes in {len(prints)} versions: {where}. They are kept apart.{hint}")
    return names, notes


def _data_name(run: Run) -> str:
    data: dict[str, Any] = run.config.get("data") or {}
    category = data.get("category")
    parts = category if isinstance(category, list) else [category]
    reader = str(data.get("_target_", "data")).split(".")
    name = run.choices.get("data")
    if name is None or run.config.get("run"):  # an evaluation: the choices are its training's, the data may not be
        name = reader[-2] if reader[-1] == "read" and len(reader) > 1 else reader[-1]
    return "-".join(str(part) for part in [name, *parts] if part)


def _data_settings(run: Run) -> dict[str, str]:
    """Of the data; of a path its last part, since a data set that moves as a whole stays the same."""
    settings = {key: label(value) for key, value in flat(run.config.get("data") or {}, ".").items()}
    return {key: value.rstrip("/").rpartition("/")[2] for key, value in settings.items() if key != "_target_"}


def _values(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Metrics, then costs, then the defect types' metrics, which are many."""
    names = dict.fromkeys(name for run in runs for name in run.values)
    by_defect = sorted(name for name in names if name.endswith("_image_auroc"))
    metrics = [name for name in names if name not in COSTS and name not in by_defect]
    order = [*metrics, *(name for name in COSTS if name in names), *by_defect]
    return {name: [run.values.get(name, float("nan")) for run in runs] for name in order}


def _newest(
    runs: list[Run], blocks: list[str], varied: Mapping[str, Column]
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


def _origins(runs: Sequence[Run]) -> list[str]:
    notes = []
    machines = sorted({run.machine for run in runs if run.machine})
    if len(machines) > 1:
        notes.append(f"The runs come from different hardware ({'; '.join(machines)}): times compare that as well.")
    commits = {run.commit for run in runs if run.commit}
    if len(commits) > 1:
        notes.append(f"The runs were made by {len(commits)} versions of the program (column commit).")
    return notes
