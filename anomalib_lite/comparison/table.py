"""The long table: one row a run, with its data, what was varied, its seed, its metrics and its costs.

What was varied is found from the runs' configurations, without being told.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_lite.comparison.runs import COSTS, Run, read_run
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.folder import UNDEFINING
from anomalib_lite.runs.overrides import flat

Column = list[str]  # a label for each run

ONLY = "all runs"  # the one setting of runs that differ in their seeds alone
ABSENT = "–"  # a setting that this run does not have
# The plain option of a group comes first among its levels: others are read against it.
PLAIN = ("none", "no_template", "frozen", "fast", "null", "false")
# Not what a result is explained by: data are a block of their own, and an experiment is a set of other choices.
NO_FACTORS = ("data", "experiment", "tracking")
NO_CAUSES = (*UNDEFINING, "seed", "data", "run", "preset", "output")


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

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """The rows with the column `variant`, the setting's name."""
        chosen = self.rows[self.factors].to_dict("records")
        names = [" ".join(f"{k}={v}" for k, v in one.items() if v != ABSENT) or ONLY for one in chosen]
        return self.rows.assign(variant=names)

    @cached_property
    def variants(self) -> dict[str, dict[str, str]]:
        """Name of a setting -> its level of each factor, in the order of the levels."""
        order = {f: levels(list(self.rows[f])) for f in self.factors}
        found = {row["variant"]: {f: row[f] for f in self.factors} for row in self.labelled.to_dict("records")}
        return dict(sorted(found.items(), key=lambda item: [order[f].index(item[1][f]) for f in self.factors]))

    @property
    def blocks(self) -> list[str]:
        """The data sets."""
        return sorted(self.rows["data"].unique())


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
    found, more = find_factors(runs, blocks)
    columns = found if asked is None else asked_factors(runs, found, asked)
    kept, twins = _newest(runs, list(zip(blocks, *found.values(), *columns.values(), strict=True)))
    if pooled := [name for name in found if name not in columns]:
        more.append(f"Averaged over {', '.join(pooled)}, which differ too.")
    rows = pd.DataFrame(
        {"run": [run.name for run in runs], "data": blocks}
        | columns
        | {"seed": [run.seed for run in runs]}
        | _values(runs)
        | {"commit": [run.commit for run in runs]}
    )
    rows = rows.iloc[kept].sort_values(["data", *columns, "seed"], kind="stable")
    runs, rows = [runs[i] for i in rows.index], rows.reset_index(drop=True)
    machines = sorted({run.machine for run in runs if run.machine})
    if len(machines) > 1:
        more.append(f"The runs come from different hardware ({'; '.join(machines)}): times compare that as well.")
    commits = {run.commit for run in runs if run.commit}
    if len(commits) > 1:
        more.append(f"The runs were made by {len(commits)} versions of the program (column commit).")
    return RunTable(rows, list(columns), runs, left_out + twins, notes + more)


def write_csv(rows: pd.DataFrame, path: Path) -> None:
    write_text(path, rows.to_csv(index=False, float_format="%.6f"))


def name_blocks(runs: Sequence[Run], told_apart: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The data of each run by name, and notes.

    Data of one name with different contents (fingerprints) get different names, by the settings in which they differ,
    but for those that follow the run's seed: images that it draws are part of what repeats.
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
        # of a path its last part, since a data set that moves as a whole stays the same
        said = [{k: label(v) for k, v in flat(runs[i].config.get("data") or {}, ".").items()} for i in own]
        ends = [{k: v.rstrip("/").rpartition("/")[2] for k, v in one.items() if k != "_target_"} for one in said]
        table = pd.DataFrame(ends, index=own)  # a setting that only some have tells nothing: their reader is another
        keys, settings = [key for key in table if table[key].nunique() > 1], table.fillna(ABSENT)
        seeds = [key for key in settings if all(settings[key][i] == str(runs[i].seed) for i in own)]
        keys = [key for key in keys if key not in seeds]
        for i in own:
            there = [key for key in keys if settings[key][i] != ABSENT]
            if words := [f"{key}={settings[key][i]}" for key in there if len(keys) == 1 or settings[key][i] != "null"]:
                names[i] = f"{name} ({' '.join(words)})"
        same_words = len({(names[i], *settings.loc[i, seeds]) for i in own}) < len(prints)
        if not keys and not same_words:
            continue
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


def _values(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Metrics, then costs, then the defect types' metrics, which are many."""
    names = dict.fromkeys(name for run in runs for name in run.values)
    by_defect = sorted(name for name in names if name.endswith("_image_auroc"))
    metrics = [name for name in names if name not in COSTS and name not in by_defect]
    order = [*metrics, *(name for name in COSTS if name in names), *by_defect]
    return {name: [run.values.get(name, float("nan")) for run in runs] for name in order}


def _newest(runs: Sequence[Run], told_apart: Sequence[tuple[str, ...]]) -> tuple[list[int], list[tuple[str, str, str]]]:
    """Of runs with the same data, settings and seed the one that finished last, by its place; the others are named.

    told_apart: each run's data and settings.
    """
    kept: dict[tuple[object, ...], int] = {}
    twins = []
    for i in sorted(range(len(runs)), key=lambda i: runs[i].finished):
        key = (*told_apart[i], runs[i].seed)
        if key in kept:
            older = runs[kept[key]]
            reason = f"same data, settings and seed as {runs[i].name}, which finished later"
            twins.append((f"{older.folder.parent.name}/{older.name}", "repeated", reason))
        kept[key] = i
    return sorted(kept.values()), twins


def find_factors(runs: Sequence[Run], blocks: Sequence[str]) -> tuple[dict[str, Column], list[str]]:
    """Groups of which the runs chose different options, and single settings that differ beyond that; and notes on what
    else differs and why it is no factor of its own.

    blocks: the data of each run. A setting that one group's option (with the preset and the data) decides is part of
    that option. A setting elsewhere that goes along with one factor or with the data cannot be told from it: a note
    says so.
    """
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    every = {g: [run.choices[g] for run in runs] for g in groups if all(g in run.choices for run in runs)}
    columns = {g: column for g, column in every.items() if g not in NO_FACTORS and len(set(column)) > 1}
    notes: list[str] = []
    for name, column in sorted(_differing(runs).items(), key=lambda item: (item[0].count("."), item[0])):
        group = name.partition(".")[0]
        own = [every[g] for g in (group, "preset", "data") if g in every]
        if group in every and decides([*own, blocks], column):
            continue
        if group not in every and name.endswith("._target_"):  # not run by the command line: name the class instead
            columns[group] = every[group] = [value.rpartition(".")[2] for value in column]
            continue
        partner = next((other for other, values in columns.items() if decides([values], column)), None)
        if decides([blocks], column):
            pairs = ", ".join(f"{block} {value}" for block, value in sorted(set(zip(blocks, column, strict=True))))
            notes.append(f"{name} differs between data sets only ({pairs}): it is part of the data.")
        elif partner:
            notes.append(f"{name} changes together with {partner}: their effects cannot be told apart.")
        else:
            columns[name] = column
    return columns, notes


def asked_factors(runs: Sequence[Run], found: Mapping[str, Column], asked: Sequence[str]) -> dict[str, Column]:
    """The columns of the factors that the user names: groups, or settings with their dots.

    Errors: UserError for a name that no run knows.
    """
    settings = [flat(run.config, ".") | run.choices for run in runs]
    columns = {}
    for name in asked:
        if name in found:
            columns[name] = found[name]
        elif any(name in one for one in settings):
            columns[name] = [label(one[name]) if name in one else ABSENT for one in settings]
        else:
            known = sorted({key for one in settings for key in one})
            near = difflib.get_close_matches(name, known, 3, 0.5) or list(found)
            raise UserError(f"factors: no run has a group or setting '{name}'. Near it: {', '.join(near)}.")
    return columns


def decides(deciders: Sequence[Sequence[str]], column: Sequence[str]) -> bool:
    """Whether runs that agree in all deciders agree in the column."""
    keys = list(zip(*deciders, strict=True))
    return len(set(keys)) == len(set(zip(keys, column, strict=True)))


def levels(column: Sequence[str]) -> list[str]:
    """Each label once: the plain option first, numbers by size, others by name."""

    def rank(value: str) -> tuple[int, float, str]:
        if value == ABSENT:
            return (3, 0.0, "")
        try:
            return (1, float(value), "")
        except ValueError:
            return (0 if value in PLAIN else 2, 0.0, value)

    return sorted(set(column), key=rank)


def label(value: Any) -> str:
    """As one writes it behind `key=`, as far as one can read it."""
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        value = int(value)  # 1 and 1.0 are one setting
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _differing(runs: Sequence[Run]) -> dict[str, Column]:
    """Settings that differ and that are no seed and no path."""
    settings = [flat({k: v for k, v in run.config.items() if k not in NO_CAUSES}, ".") for run in runs]
    table = pd.DataFrame([{name: label(value) for name, value in one.items()} for one in settings], dtype=object)
    roots = tuple(str(root) for run in runs for root in (run.config.get("paths") or {}).values() if root)
    seeds = pd.Series([str(run.seed) for run in runs])
    kept = {}
    for name, column in table.items():
        present = column.dropna()
        handed_on = (present == seeds[present.index]).all() or present.str.startswith(roots).any()
        # a setting that some runs lack and the others have alike came with a later version of the program
        if present.nunique() > 1 and not handed_on:
            kept[str(name)] = column.fillna(ABSENT).tolist()
    return kept
