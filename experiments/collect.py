"""The runs of an experiment as one table: results.csv and a Markdown table in the terminal.

usage: python experiments/collect.py runs/NAME experiments/NAME [REFERENCE_VARIANT]

With a reference, e.g. panels-stfpm-efficientnet_lite0, a second table says how the other variants of the same data
differ from it: means over the seeds that both have, with Student's 95 % confidence interval of the paired difference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from scipy import stats

from anomalib_lite.runs.atomic import write_text

METRICS = ("image_auroc", "pixel_auroc", "aupro")


def read_runs(folder: Path) -> pd.DataFrame:
    """One row a finished run: the name of its folder without seed and hash, the seed, metrics and seconds."""
    rows = []
    for status in sorted(folder.glob("*/status.json")):
        run, state = status.parent, json.loads(status.read_text())
        if state["state"] != "done":
            print(f"left out, not done: {run}", file=sys.stderr)
            continue
        metrics = json.loads((run / "metrics.json").read_text())
        config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        variant = run.name.rsplit("-s", 1)[0]
        if config["mode"]["generated"] is not None:
            variant += f"-weight_{config['mode']['generated']:g}"
        per_defect = {f"{d}_image_auroc": v["image_auroc"] for d, v in metrics["per_defect"].items()}
        rows.append(
            {"variant": variant, "seed": config["seed"]}
            | {name: metrics[name] for name in METRICS}
            | per_defect
            | {"train_seconds": state.get("train_seconds", 0.0)}
            | {"ms_per_image": state.get("ms_per_image"), "model_mb": state["model_mb"]}
        )
    if not rows:
        sys.exit(f"no finished run in {folder}")
    return pd.DataFrame(rows)


def as_markdown(runs: pd.DataFrame) -> str:
    """Mean and, over at least two seeds, standard deviation of each variant."""
    columns = [*METRICS, "train_seconds"]
    lines = ["| variant | seeds | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for variant, group in runs.groupby("variant", sort=False):
        cells = []
        for name in columns:
            digits = 0 if name == "train_seconds" else 4
            spread = f" ± {group[name].std():.{digits}f}" if len(group) > 1 else ""
            cells.append(f"{group[name].mean():.{digits}f}{spread}")
        lines.append(f"| {variant} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(runs: pd.DataFrame, reference: str) -> str:
    """Each other variant of the reference's data against it, paired by seed."""
    known = runs[runs.variant == reference].set_index("seed")
    if known.empty:
        sys.exit(f"no variant {reference}; there are: {', '.join(runs.variant.unique())}")
    data = reference.split("-stfpm")[0]
    lines = [f"| against {reference} | seeds | " + " | ".join(METRICS) + " |", "|---|---|" + "---|" * len(METRICS)]
    for variant, group in runs[runs.variant.str.startswith(data) & (runs.variant != reference)].groupby("variant"):
        own = group.set_index("seed")
        seeds = own.index.intersection(known.index)
        cells = []
        for name in METRICS:
            gain = own.loc[seeds, name] - known.loc[seeds, name]
            half = stats.t.ppf(0.975, len(gain) - 1) * gain.std() / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
            cells.append(f"{gain.mean():+.4f} ± {half:.4f}")
        lines.append(f"| {variant.removeprefix(reference).lstrip('-')} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    table = read_runs(Path(sys.argv[1]))
    write_text(Path(sys.argv[2]) / "results.csv", table.to_csv(index=False, float_format="%.6f"))
    print(as_markdown(table))
    if len(sys.argv) == 4:
        print(f"\n{differences(table, sys.argv[3])}")
