"""Builds the table of runs: one row per run, with its data, factors, seed, metrics and costs.

The factors are detected from the runs' configurations.
"""

import difflib
import json
import math
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

Column = list[str]  # one label per run

DATA = "data"
ONLY = "all runs"  # name of the setting if the runs differ only in their seeds
ABSENT = "–"  # a setting that this run does not have
# The plain option of a group is sorted first among its levels, as the default baseline.
PLAIN = ("none", "no_template", "frozen", "fast", "null", "false")
# Groups that are never factors: data are blocks, and an experiment only sets other choices.
NO_FACTORS = ("data", "experiment", "tracking")
NO_CAUSES = (*UNDEFINING, "seed", "data", "run", "preset", "output")


@dataclass(frozen=True)
class RunTable:
    """The runs of a comparison."""

    rows: pd.DataFrame  # one row per run: run, data, *factors, seed, metrics, costs, commit
    factors: list[str]
    runs: list[Run]  # in the order of the rows
    left_out: list[tuple[str, str, str]] = field(default_factory=list)  # (run, state, reason)
    notes: list[str] = field(default_factory=list)  # sentences on what limits the comparison

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """The rows with the columns `variant`, the name of the setting, and `tested`, the number of test images."""
        chosen = self.rows[self.factors].to_dict("records")
        names = [" ".join(f"{k}={v}" for k, v in one.items() if v != ABSENT) or ONLY for one in chosen]
        return self.rows.assign(variant=names, tested=[run.tested for run in self.runs])

    @cached_property
    def variants(self) -> dict[str, dict[str, str]]:
        """Name of a setting -> factor -> level, sorted by level."""
        order = {f: levels(list(self.rows[f])) for f in self.factors}
        chosen = {row["variant"]: {f: row[f] for f in self.factors} for row in self.labelled.to_dict("records")}
        return dict(sorted(chosen.items(), key=lambda item: [order[f].index(item[1][f]) for f in self.factors]))

    @property
    def blocks(self) -> list[str]:
        """The data sets."""
        return sorted(self.rows[DATA].unique())


def read_table(folders: Sequence[Path], factors: Sequence[str] | None = None) -> RunTable:
    """Reads run folders into a table. Raises UserError if no run is finished.

    factors: names; by default all settings that differ. Runs that differ only in others remain separate.
    """
    everything = [read_run(folder) for folder in folders]
    left_out = [(run.name, run.state, run.trouble) for run in everything if run.trouble is not None]
    runs = [run for run in everything if run.trouble is None]
    if not runs:
        listed = "\n  ".join(f"{name}: {state}, {why}" for name, state, why in left_out[:20])
        raise UserError(f"None of {len(left_out)} runs is finished:\n  {listed}")
    blocks, notes = name_blocks(runs, factors or ())
    detected, more = find_factors(runs, blocks)
    columns = detected if factors is None else named_factors(runs, detected, factors)
    seeds = [run.seed for run in runs]
    kept, repeated = _newest(runs, list(zip(seeds, blocks, *detected.values(), *columns.values(), strict=True)))
    if pooled := [name for name in detected if name not in columns]:
        more.append(f"Averaged over {', '.join(pooled)}, which also differ.")
    told = {"run": [run.name for run in runs], DATA: blocks, **columns, "seed": seeds, **_values(runs)}
    rows = pd.DataFrame(told | {"commit": [run.commit for run in runs]})
    rows = rows.iloc[kept].sort_values([DATA, *columns, "seed"], kind="stable")
    runs, rows = [runs[i] for i in rows.index], rows.reset_index(drop=True)
    more += _other_images(rows, runs)
    if len(machines := sorted({run.machine for run in runs if run.machine})) > 1:
        more.append(f"The runs come from different hardware ({'; '.join(machines)}), which affects their times.")
    if len(commits := {run.commit for run in runs if run.commit}) > 1:
        more.append(f"The runs were made with {len(commits)} versions of the program (column commit).")
    return RunTable(rows, list(columns), runs, left_out + repeated, notes + more)


def write_csv(rows: pd.DataFrame, path: Path) -> None:
    write_text(path, rows.to_csv(index=False, float_format="%.6f"))


def name_blocks(runs: Sequence[Run], factors: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Names the data of each run; returns one name per run, and notes.

    Data with the same name but different contents (fingerprints) get different names, made of the settings in which
    they differ. Settings that follow the run's seed do not count: images drawn with the seed are replications. Nor do
    settings of the data that are among the factors.
    """
    plain = [_data_name(run) for run in runs]
    names, notes = list(plain), list[str]()
    for name in dict.fromkeys(plain):
        members = [i for i, other in enumerate(plain) if other == name]
        prints = {runs[i].fingerprint for i in members}
        if len(prints) < 2:
            continue
        # only the last part of a path counts, because a data set that was moved as a whole is the same
        own = [flat(runs[i].config.get("data") or {}, ".") for i in members]
        ends = [{k: label(v).rstrip("/").rpartition("/")[2] for k, v in one.items() if k != "_target_"} for one in own]
        table = pd.DataFrame(ends, index=members)  # NaN, a setting of another reader, does not count as different
        settings = table.fillna(ABSENT)
        seeds = [key for key in settings if all(settings[key][i] == str(runs[i].seed) for i in members)]
        seeds += [key for key in settings if f"{DATA}.{key}" in factors and key not in seeds]  # compared, not a name
        keys = [key for key in table if table[key].nunique() > 1 and key not in seeds]
        for i in members:
            present = [key for key in keys if settings[key][i] != ABSENT]
            if words := [f"{k}={settings[k][i]}" for k in present if len(keys) == 1 or settings[k][i] != "null"]:
                names[i] = f"{name} ({' '.join(words)})"
        same_words = len({(names[i], *settings.loc[i, seeds]) for i in members}) < len(prints)
        if not keys and not same_words:
            continue
        for i in members if same_words else ():
            names[i] += f" [{str(runs[i].fingerprint)[:6]}]"
        where = f"{', '.join(f'data.{key}' for key in keys)} differ" if keys else "their images or labels differ"
        compared = ", ".join([*factors, *(f"{DATA}.{key}" for key in keys[:1])])
        hint = f" factors='[{compared}]' compares them." if keys and not same_words else ""
        versions = len({names[i] for i in members})
        notes.append(f"There are {versions} versions of {name}: {where}. They are treated as separate data.{hint}")
    return names, notes


def _data_name(run: Run) -> str:
    data: dict[str, Any] = run.config.get("data") or {}
    category = data.get("category")
    reader = str(data.get("_target_", "data")).split(".")
    name = run.choices.get("data")
    if name is None or run.config.get("run"):  # an evaluation has its training's choices, but may have other data
        name = reader[-2] if reader[-1] == "read" and len(reader) > 1 else reader[-1]
    return "-".join(str(part) for part in [name, *(category if isinstance(category, list) else [category])] if part)


def _values(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Returns the columns of metrics, then costs, then the metrics of defect types, which are many."""
    names = list(dict.fromkeys(name for run in runs for name in run.values))
    names.sort(key=lambda name: (2, name) if name.endswith("_image_auroc") else (name in COSTS, ""))
    return {name: [run.values.get(name, math.nan) for run in runs] for name in names}


def _newest(runs: Sequence[Run], keys: Sequence[tuple[Any, ...]]) -> tuple[list[int], list[tuple[str, str, str]]]:
    """Keeps the run that finished last among those with the same key.

    Returns the indices of the kept runs, and (run, state, reason) of the others.
    """
    kept: dict[tuple[Any, ...], Run] = {}
    repeated = []
    for run, key in sorted(zip(runs, keys, strict=True), key=lambda pair: pair[0].finished):
        if older := kept.get(key):
            reason = f"same data, settings and seed as {run.name}, which finished later"
            repeated.append((f"{older.folder.parent.name}/{older.name}", "repeated", reason))
        kept[key] = run
    return [i for i, run in enumerate(runs) if kept[keys[i]] is run], repeated


def _other_images(rows: pd.DataFrame, runs: Sequence[Run]) -> list[str]:
    """Returns a note on each data set whose runs were, at the same seed, measured on different numbers of images."""
    tested, notes = rows[[DATA, "seed"]].assign(tested=[run.tested for run in runs]), list[str]()
    for block, own in tested.dropna().groupby(DATA):
        if own.groupby("seed")["tested"].nunique().max() > 1:
            counts = ", ".join(str(int(count)) for count in sorted(own["tested"].unique()))
            notes.append(
                f"Runs on {block} were measured on different numbers of test images ({counts}): their differences are "
                "not of the setting alone."
            )
    return notes


def find_factors(runs: Sequence[Run], blocks: Sequence[str]) -> tuple[dict[str, Column], list[str]]:
    """Finds the factors: groups with different options, and individual settings that differ beyond these options.

    A setting that is determined by its group's option (with the preset and the data) is part of that option. Any other
    setting that changes together with one factor or with the data (`blocks`) cannot be separated from it, and gets a
    note. Returns a column of levels for each factor, and the notes.
    """
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    every = {g: [run.choices[g] for run in runs] for g in groups if all(g in run.choices for run in runs)}
    columns = {g: column for g, column in every.items() if g not in NO_FACTORS and len(set(column)) > 1}
    notes: list[str] = []
    for name, column in sorted(_differing(runs).items(), key=lambda item: (item[0].count("."), item[0])):
        group = name.partition(".")[0]
        deciders = [every[g] for g in (group, "preset", "data") if g in every]
        if group in every and decides([*deciders, blocks], column):
            continue
        if group not in every and name.endswith("._target_"):  # no record of choices: use the name of the class
            columns[group] = every[group] = [value.rpartition(".")[2] for value in column]
            continue
        partner = next((other for other, values in columns.items() if decides([values], column)), None)
        if decides([blocks], column):
            pairs = ", ".join(f"{block} {value}" for block, value in sorted(set(zip(blocks, column, strict=True))))
            notes.append(f"{name} differs only between data sets ({pairs}): it is part of the data.")
        elif partner:
            notes.append(f"{name} changes together with {partner}: their effects cannot be separated.")
        else:
            columns[name] = column
    return columns, notes


def named_factors(runs: Sequence[Run], detected: Mapping[str, Column], names: Sequence[str]) -> dict[str, Column]:
    """Returns the columns of groups or dotted settings. Raises UserError for a name that no run has."""
    settings = [flat(run.config, ".") | run.choices for run in runs]
    columns = {}
    for name in names:
        if name in detected:
            columns[name] = detected[name]
        elif any(name in one for one in settings):
            columns[name] = [label(one[name]) if name in one else ABSENT for one in settings]
        else:
            known = sorted({key for one in settings for key in one})
            near = difflib.get_close_matches(name, known, 3, 0.5) or list(detected)
            raise UserError(f"factors: no run has a group or setting '{name}'. Similar names: {', '.join(near)}.")
    return columns


def decides(deciders: Sequence[Sequence[str]], column: Sequence[str]) -> bool:
    """Whether runs that agree in all deciders also agree in the column."""
    keys = list(zip(*deciders, strict=True))
    return len(set(keys)) == len(set(zip(keys, column, strict=True)))


def levels(column: Sequence[str]) -> list[str]:
    """Returns the distinct labels: the plain option first, then numbers by size, then others by name."""

    def rank(value: str) -> tuple[int, float, str]:
        if value == ABSENT:
            return 3, 0.0, ""
        try:
            return 1, float(value), ""
        except ValueError:
            return 0 if value in PLAIN else 2, 0.0, value

    return sorted(set(column), key=rank)


def label(value: Any) -> str:
    """Returns a value as it is written after `key=`."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)  # 1 and 1.0 are the same setting
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _differing(runs: Sequence[Run]) -> dict[str, Column]:
    """Returns the settings that differ between runs, without seeds and paths."""
    settings = [flat({k: v for k, v in run.config.items() if k not in NO_CAUSES}, ".") for run in runs]
    table = pd.DataFrame([{name: label(value) for name, value in one.items()} for one in settings], dtype=object)
    roots = tuple(str(root) for run in runs for root in (run.config.get("paths") or {}).values() if root)
    seeds = pd.Series([str(run.seed) for run in runs])
    kept = {}
    for name, column in table.items():
        present = column.dropna()
        derived = (present == seeds[present.index]).all() or present.str.startswith(roots).any()
        # a setting that some runs lack and all others share was added in a later version of the program
        if present.nunique() > 1 and not derived:
            kept[str(name)] = column.fillna(ABSENT).tolist()
    return kept


def find_gaps(table: RunTable) -> pd.DataFrame:
    """Lists the settings that lack seeds which other settings have on the same data; `seeds there` may be empty."""
    gaps = []
    for block, rows in table.labelled.groupby(DATA):
        seeds_of = rows.groupby("variant")["seed"].agg(set)
        for variant in table.variants:
            present = seeds_of.get(variant, set())
            if missing := {*rows["seed"]} - present:
                gaps.append((block, variant, *(" ".join(map(str, sorted(seeds))) for seeds in (present, missing))))
    return pd.DataFrame(gaps, columns=[DATA, "setting", "seeds there", "seeds missing"])


def find_reference(table: RunTable, reference: str) -> str:
    """Returns the setting that a reference names: `factor=level ...` that fits one setting only, or the name of a run
    folder, with or without its seed and hash. Raises UserError if no setting or several match.
    """
    if "=" in reference:
        chosen = dict(part.partition("=")[::2] for part in reference.split())
        matches = [v for v, by_factor in table.variants.items() if chosen.items() <= by_factor.items()]
    else:
        rows = table.labelled
        bare = rows["run"].str.replace(r"-s[^-]*-[0-9a-f]{10}$", "", regex=True)
        matches = list(rows.loc[(bare == reference) | (rows["run"] == reference), "variant"].unique())
    if len(matches) != 1:
        listed = "\n  ".join(matches or table.variants)
        problem = "fits several settings" if matches else "is none of the settings"
        raise UserError(f"reference='{reference}' {problem}; write one in full, or name one of its runs:\n  {listed}")
    return matches[0]
